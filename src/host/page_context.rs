//! The parameter of the callbacks of a MESSAGE's transaction: its session and what has become of it. The callbacks run in the
//! process that handles the event, so it is kept in the host's shared memory.

use super::attach::with_worker;
use crate::charge::ch2::SessionKey;
use crate::charge::event::ServerTransaction;
use crate::worker::PageOutcome;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

/// The session of a MESSAGE and the state of its transaction.
#[repr(C)]
pub struct PageContext {
    session: SessionKey,
    transaction: ServerTransaction,
    /// Whether it was sent on.
    is_relayed: AtomicBool,
    /// Final status sent to its sender; 0: none yet.
    code: AtomicU16,
    /// Whether the engine knows the outcome.
    is_reported: AtomicBool,
}

impl PageContext {
    /// Creates the context of a transaction that waits for its verdict.
    pub fn new(session: SessionKey, transaction: ServerTransaction) -> PageContext {
        let (is_relayed, is_reported) = (AtomicBool::new(false), AtomicBool::new(false));
        PageContext { session, transaction, is_relayed, code: AtomicU16::new(0), is_reported }
    }

    /// The MESSAGE is sent on.
    pub fn relayed(&self) {
        self.is_relayed.store(true, Ordering::Relaxed);
    }

    /// A response was sent to the sender of the MESSAGE.
    pub fn answered(&self, code: c_int) {
        if let Some(code) = u16::try_from(code).ok().filter(|code| *code >= 200) {
            self.code.store(code, Ordering::Relaxed);
            self.report();
        }
    }

    /// The transaction has ended.
    pub fn ended(&self) {
        self.report();
    }

    /// Reports the outcome once. If the event ring is full, the end of the transaction reports it again.
    fn report(&self) {
        if self.is_reported.swap(true, Ordering::Relaxed) {
            return;
        }
        let is_pushed = with_worker(|worker| worker.page_ended(self.session, Some(self.transaction), self.outcome()));
        if is_pushed != Some(true) {
            self.is_reported.store(false, Ordering::Relaxed);
        }
    }

    /// A host answers 408 itself if a MESSAGE times out. One that was not sent on was not delivered.
    fn outcome(&self) -> PageOutcome {
        let (code, is_relayed) = (self.code.load(Ordering::Relaxed), self.is_relayed.load(Ordering::Relaxed));
        match (code, is_relayed) {
            (0 | 408, true) => PageOutcome::Unanswered,
            (0 | 408, false) => PageOutcome::Failed(code),
            _ => PageOutcome::from_code(code),
        }
    }
}
