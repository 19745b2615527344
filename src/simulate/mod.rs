//! Where a simulation takes the place of the machine: its clocks, its chance, its disk, its network, and the moments at
//! which it dies.
//!
//! The engine asks here, and without the feature `simulate` the answer is a constant: use the real thing. With it, a
//! thread that has a [`Machine`](machine::Machine) gets everything from that machine, so that one number makes the same
//! run again. Modules for hosts are built without.

#[cfg(not(feature = "simulate"))]
mod absent;
#[cfg(feature = "simulate")]
pub mod machine;

#[cfg(not(feature = "simulate"))]
pub(crate) use absent::{
    Line, connect, crash_point, file_opened, file_sync, file_write, is_injected, is_simulated, now, pause, random,
    wall_ms,
};
#[cfg(feature = "simulate")]
pub(crate) use machine::{
    Line, connect, crash_point, file_opened, file_sync, file_write, is_injected, is_simulated, now, pause, random,
    wall_ms,
};

/// Returns the size of a ring, table or batch: `production`, or `simulated` in a build for simulations, small enough that
/// their runs reach the limit.
pub const fn sized<T: Copy>(production: T, simulated: T) -> T {
    if cfg!(feature = "simulate") { simulated } else { production }
}

/// A fault that is built in on purpose, to see whether the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedBug {
    /// What a turn has decided is told before it is in the journal.
    ToldBeforeCommit,
    /// A distant enabler is asked before the journal is on the disk.
    AskedBeforeSync,
    /// Debits are told apart by their session alone, not by their Message-ID.
    KeyWithoutMessageId,
    /// The supervisor measures the silence of the engine before the one that it has started.
    PredecessorWatched,
    /// A restarted engine forgets the requests that have no answer.
    OutboxDropped,
    /// A frame is of the side whose URI it names, wherever it comes from.
    SpeakerByPathAlone,
    /// An MSRP endpoint is its session-id, whatever its host is.
    SessionIdAlone,
    /// A chunk is as large as the position of its last octet.
    QuantityByPosition,
    /// After a chunk was stopped, the rest of its message passes.
    RestOfStoppedPasses,
    /// An INVITE is let in although workers do not find its slot in the gate.
    GrantedWithoutSlot,
    /// The engine does not hear that a message is whole, so that an abort after its last octet counts.
    EndOfMessageUntold,
    /// The BYE of one dialog of a forked INVITE ends the session.
    LegEndsSession,
    /// An answer of any user agent binds, in whatever dialog of the session and wherever its request went.
    AnyAnswerBinds,
}
