//! Head of the region file: what identifies it, and the single words that processes share.

use super::layout::Sizes;
use crate::config::tariffs::TARIFFS_MAX;
use crate::shm::gate::Lease;
use crate::shm::sync::{AtomicU32, AtomicU64, Ordering};
use crate::shm::wakeup::EngineWaker;

/// Identifies the layout: a file with another value is not read. Its last digit counts the layouts.
pub const MAGIC: u64 = 0x696d_6368_6172_0016;

#[repr(C, align(64))]
pub(crate) struct Header {
    pub magic: AtomicU64,
    /// Identifies this run of the host.
    pub instance: AtomicU64,
    /// Hash of the kernel's boot id.
    pub boot: AtomicU64,
    processes: AtomicU64,
    resume_workers: AtomicU64,
    event_workers: AtomicU64,
    slots: AtomicU64,
    /// Keys of the gate's hashes: random, so that a remote party cannot aim at a window of an index.
    pub hash_keys: [AtomicU64; 2],
    /// Until when content passes the gate.
    pub lease: Lease,
    pub engine_waker: EngineWaker,
    pub engine_state: AtomicU32,
    pub stop: AtomicU32,
    /// [`clock::now`](crate::shm::clock::now) of the last tick of an engine that had finished its start.
    pub heartbeat: AtomicU64,
    /// Number of heartbeats, including those during the start.
    pub beats: AtomicU64,
    /// 1 when the engine has finished its start.
    pub engine_ready: AtomicU32,
    /// Event routes that the script has, as [`EventRoutes::to_bits`](crate::shm::notification::EventRoutes::to_bits).
    pub event_routes: AtomicU32,
    /// Tariffs for new sessions, in the order of the configuration: price of a message (upper half) and of a kilobyte (lower
    /// half).
    pub tariffs: [AtomicU64; TARIFFS_MAX],
    /// Last End-to-End Identifier that was assigned to a request.
    pub end_to_end_id: AtomicU32,
    /// Time of the event that triggered the oldest unacknowledged debit; 0: there is none.
    pub oldest_debit: AtomicU64,
    /// 1 while the tables of the ledger cannot be written.
    pub ledger_failing: AtomicU32,
}

impl Header {
    pub fn set_sizes(&self, sizes: Sizes) {
        self.processes.store(sizes.processes as u64, Ordering::Relaxed);
        self.resume_workers.store(sizes.resume_workers as u64, Ordering::Relaxed);
        self.event_workers.store(sizes.event_workers as u64, Ordering::Relaxed);
        self.slots.store(sizes.slots as u64, Ordering::Relaxed);
    }

    /// The sizes in the header of a file of another process; `None` if they are impossible.
    pub fn sizes(&self) -> Option<Sizes> {
        let size = |value: &AtomicU64| usize::try_from(value.load(Ordering::Relaxed)).ok().filter(|v| *v < 1 << 24);
        Some(Sizes {
            processes: size(&self.processes)?,
            resume_workers: size(&self.resume_workers)?,
            event_workers: size(&self.event_workers)?,
            slots: size(&self.slots)?,
        })
    }
}
