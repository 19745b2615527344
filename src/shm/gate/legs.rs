//! What is known of the dialogs of a charged session: by whom they may be changed.

use super::Side;
use crate::shm::sync::{AtomicU32, AtomicU64, Ordering, bound};

/// Dialogs of a session that can be changed once they are bound. Those of an INVITE that is forked to more parties keep
/// the endpoints that they began with.
pub const LEGS_MAX: usize = bound(2, 1);

/// A dialog of a charged session.
#[repr(C)]
#[derive(Default)]
pub struct LegRecord {
    /// Hash of the answering side's tag; 0: free.
    tag: AtomicU64,
    /// Hash of the server's remote target; 0: not known.
    target: AtomicU64,
    /// Hash of the address that the server's messages come from; 0: not known.
    source: AtomicU64,
    /// The same without the port.
    host: AtomicU64,
    /// CSeq of the last request of the server and of the client whose exchange is complete, plus one.
    done: [AtomicU32; 2],
    /// CSeq of the last request of the client that may change the dialog, plus one.
    seen: AtomicU32,
    /// Whether the engine was told of its early dialog (1) and of its 2xx (2).
    told: AtomicU32,
    /// The connection that speaks for the server's side of the dialog; 0: none yet.
    pub(crate) server_connection: AtomicU64,
}

/// The states of a dialog that the engine is told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DialogState {
    /// A reliable provisional response has made it.
    Early = 1,
    /// A 2xx has confirmed it.
    Confirmed = 2,
}

impl LegRecord {
    pub(crate) fn clear(&self) {
        self.tag.store(0, Ordering::Relaxed);
        self.target.store(0, Ordering::Relaxed);
        self.source.store(0, Ordering::Relaxed);
        self.host.store(0, Ordering::Relaxed);
        self.seen.store(0, Ordering::Relaxed);
        self.done.iter().for_each(|done| done.store(0, Ordering::Relaxed));
        self.told.store(0, Ordering::Relaxed);
        self.server_connection.store(0, Ordering::Relaxed);
    }

    /// Whether the engine knows that the dialog is in this state. A response that is sent again says nothing new: a session
    /// whose 2xx is never acknowledged would not become idle.
    pub fn is_told(&self, state: DialogState) -> bool {
        self.told.load(Ordering::Acquire) & state as u32 != 0
    }

    /// The engine was told.
    pub fn set_told(&self, state: DialogState) {
        self.told.fetch_or(state as u32, Ordering::AcqRel);
    }

    /// Hash of the server's remote target; 0: not known.
    pub fn target(&self) -> u64 {
        self.target.load(Ordering::Acquire)
    }

    /// Hash of the address that the server's messages come from; 0: not known.
    pub fn source(&self) -> u64 {
        self.source.load(Ordering::Acquire)
    }

    /// Hash of that address without the port; 0: not known.
    pub fn host(&self) -> u64 {
        self.host.load(Ordering::Acquire)
    }

    /// The server was heard for the first time from this address (with and without its port); its target may change until
    /// the dialog is confirmed.
    pub fn learn(&self, target: u64, source: u64, host: u64) {
        let _ = self.source.compare_exchange(0, source, Ordering::AcqRel, Ordering::Acquire);
        let _ = self.host.compare_exchange(0, host, Ordering::AcqRel, Ordering::Acquire);
        self.refresh(target);
    }

    /// Whether this request of the client is another one than the last.
    pub fn is_another(&self, cseq: u32) -> bool {
        let seen = cseq.saturating_add(1);
        self.seen.swap(seen, Ordering::AcqRel) != seen
    }

    /// The server has another remote target (RFC 3261, 12.2); 0: it has not.
    pub fn refresh(&self, target: u64) {
        if target != 0 {
            self.target.store(target, Ordering::Release);
        }
    }

    /// Whether the exchange of this request of a side, or of a later one, is complete.
    pub fn is_done(&self, side: Side, cseq: u32) -> bool {
        self.done[side as usize].load(Ordering::Acquire) > cseq
    }

    /// The exchange of this request is complete: what is sent again of it changes nothing.
    pub fn set_done(&self, side: Side, cseq: u32) {
        self.done[side as usize].fetch_max(cseq.saturating_add(1), Ordering::AcqRel);
    }
}

/// The record of a dialog.
pub(crate) fn find(legs: &[LegRecord], tag: u64) -> Option<&LegRecord> {
    legs.iter().find(|leg| leg.tag.load(Ordering::Acquire) == tag).filter(|_| tag != 0)
}

/// The record of a dialog, a new one where it has none. `None`: all are taken.
pub(crate) fn find_or_add(legs: &[LegRecord], tag: u64) -> Option<&LegRecord> {
    let is_of_it = |leg: &&LegRecord| match leg.tag.compare_exchange(0, tag, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        Err(found) => found == tag,
    };
    legs.iter().find(is_of_it).filter(|_| tag != 0)
}

/// The records in use.
pub(crate) fn all(legs: &[LegRecord]) -> impl Iterator<Item = &LegRecord> {
    legs.iter().filter(|leg| leg.tag.load(Ordering::Acquire) != 0)
}
