//! The lease: until when content of charged sessions may pass. After that another node may have taken the sessions over
//! and have released what they hold. A host that was stopped for a while, by a signal or with its virtual machine, does not
//! know that; therefore the gate itself compares the time.

use crate::charge::time::Time;
use crate::shm::clock;
use crate::shm::sync::{AtomicU64, Ordering};

/// The end of the lease, in shared memory. The default is the beginning of time: no content passes.
#[repr(transparent)]
#[derive(Default)]
pub struct Lease(AtomicU64);

impl Lease {
    /// Value of a lease without a limit: no other node takes sessions over.
    pub const UNLIMITED: Time = Time(u64::MAX);

    /// Engine: sets until when content may pass.
    pub fn set(&self, until: Time) {
        // Written only if it changes, because workers read its cache line with every frame.
        if self.until() != until {
            self.0.store(until.0, Ordering::Release);
        }
    }

    /// Returns until when content may pass.
    pub fn until(&self) -> Time {
        Time(self.0.load(Ordering::Acquire))
    }

    /// Whether no content may pass now. Reads the clock only if the lease has a limit.
    pub fn is_over(&self) -> bool {
        let until = self.until();
        until != Lease::UNLIMITED && until <= clock::now()
    }
}
