//! Test hooks in production code: the points at which a simulation replaces the machine or makes it crash.
//!
//! Everything that the engine takes from the machine and that must be reproducible goes through here: clocks, random
//! numbers, the journal's disk, connections, and `crash_point`s, at which a simulated process may die. Without the
//! feature `simulate` every function returns a constant that means "use the real machine", and the compiler removes it; the
//! modules for hosts are built like that. With the feature, a thread that has a `machine::Machine` gets
//! everything from that, so that a run is reproduced by its seed.

#[cfg(feature = "simulate")]
pub mod machine;
#[cfg(not(feature = "simulate"))]
mod real;

#[cfg(feature = "simulate")]
pub(crate) use machine::{
    SimulatedStream, connect, crash_point, file_create, file_opened, file_remove, file_rename, file_sync, file_write,
    folder_sync, is_injected, is_simulated, now, pause, random, wall_ms,
};
#[cfg(not(feature = "simulate"))]
pub(crate) use real::{
    SimulatedStream, connect, crash_point, file_create, file_opened, file_remove, file_rename, file_sync, file_write,
    folder_sync, is_injected, is_simulated, now, pause, random, wall_ms,
};

/// Returns the size of a ring, table or batch: `production`, or `simulated` in a build for simulations, small enough that
/// their runs reach the limit.
pub const fn sized<T: Copy>(production: T, simulated: T) -> T {
    if cfg!(feature = "simulate") { simulated } else { production }
}

/// A bug that a simulation injects to prove that it finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InjectedBug {
    /// Effects of a tick are published before its commit.
    PublishedBeforeCommit,
    /// A remote enabler is asked before the journal is synced.
    AskedBeforeSync,
    /// Debits are identified by their session alone, without the Message-ID.
    KeyWithoutMessageId,
    /// The supervisor measures the silence of the previous engine.
    PredecessorWatched,
    /// A restarted engine forgets requests without an answer.
    OutboxDropped,
    /// The sender of a frame is decided by its From-Path alone, whatever its connection is.
    SenderByPathAlone,
    /// An MSRP endpoint is identified by its session-id alone, without its host.
    SessionIdAlone,
    /// The size of a chunk is taken from the position of its last octet.
    QuantityByPosition,
    /// The remaining chunks of a message pass after one was stopped.
    RestOfStoppedPasses,
    /// An INVITE is granted although workers do not find its slot in the gate.
    GrantedWithoutSlot,
    /// A top-up counts each time that its command is repeated.
    ReferenceIgnored,
    /// The engine does not learn that a message is complete, so that an abort after its last octet counts.
    EndOfMessageUnreported,
    /// The BYE of one dialog of a forked INVITE ends the session.
    LegEndsSession,
    /// An answer of any user agent binds, in any dialog of the session and for any destination of its request.
    AnyAnswerBinds,
    /// Content that is free by its type is charged.
    FreeContentCharged,
    /// The end of a copy of a SIP MESSAGE, on another path, counts as that of the MESSAGE.
    EndOfCopyCounts,
    /// The end of an INVITE for which both parties pay ends the session of one of them alone.
    CompanionOutlivesInvite,
    /// A party that pays for what it sends may refuse its own message over its own connection.
    OwnFailureBelieved,
    /// The gate does not look at the lease.
    LeaseIgnored,
    /// The sessions of a node continue after another one has taken them over.
    TakeoverIgnored,
}
