//! Dialogs of a charged session: what identifies the sender's side in each.

use super::Side;
use crate::shm::sync::{AtomicU32, AtomicU64, Ordering, bound};

/// Maximum number of dialogs of a session whose endpoints can be changed. Further dialogs of a forked INVITE keep their
/// first endpoints.
pub const LEGS_MAX: usize = bound(2, 1);

/// A dialog of a charged session.
#[repr(C)]
#[derive(Default)]
pub struct LegRecord {
    /// Hash of the answering side's tag; 0: free.
    tag: AtomicU64,
    /// Hash of the sender's remote target; 0: unknown.
    target: AtomicU64,
    /// Hash of the source address of the sender's messages; 0: unknown.
    source: AtomicU64,
    /// Hash of that address without the port; 0: unknown.
    host: AtomicU64,
    /// CSeq plus one of the last request of the sender and of the receiver whose offer/answer exchange is complete.
    done: [AtomicU32; 2],
    /// CSeq plus one of the receiver's last request that may change the dialog.
    seen: AtomicU32,
    /// States reported to the engine: bits of [`DialogState`].
    reported: AtomicU32,
    /// Connection of the sender's side; 0: none yet.
    pub(crate) sender_connection: AtomicU64,
}

/// States of a dialog that are reported to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum DialogState {
    /// Created by a reliable provisional response.
    Early = 1,
    /// Confirmed by a 2xx.
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
        self.reported.store(0, Ordering::Relaxed);
        self.sender_connection.store(0, Ordering::Relaxed);
    }

    /// Whether this state was reported to the engine. Retransmitted responses are not reported again: a session whose 2xx
    /// is never acknowledged would not become idle.
    pub fn is_reported(&self, state: DialogState) -> bool {
        self.reported.load(Ordering::Acquire) & state as u32 != 0
    }

    /// This state was reported to the engine.
    pub fn set_reported(&self, state: DialogState) {
        self.reported.fetch_or(state as u32, Ordering::AcqRel);
    }

    /// Returns the hash of the sender's remote target; 0: unknown.
    pub fn target(&self) -> u64 {
        self.target.load(Ordering::Acquire)
    }

    /// Returns the hash of the source address of the sender's messages; 0: unknown.
    pub fn source(&self) -> u64 {
        self.source.load(Ordering::Acquire)
    }

    /// Returns the hash of that address without the port; 0: unknown.
    pub fn host(&self) -> u64 {
        self.host.load(Ordering::Acquire)
    }

    /// Sets the source address of the sender, with and without its port, unless it is known; the target may change until the
    /// dialog is confirmed.
    pub fn learn(&self, target: u64, source: u64, host: u64) {
        let _ = self.source.compare_exchange(0, source, Ordering::AcqRel, Ordering::Acquire);
        let _ = self.host.compare_exchange(0, host, Ordering::AcqRel, Ordering::Acquire);
        self.refresh(target);
    }

    /// Whether this request of the receiver is not a retransmission of the last one.
    pub fn is_another(&self, cseq: u32) -> bool {
        let seen = cseq.saturating_add(1);
        self.seen.swap(seen, Ordering::AcqRel) != seen
    }

    /// Sets the sender's remote target after a target refresh (RFC 3261, 12.2); 0: unchanged.
    pub fn refresh(&self, target: u64) {
        if target != 0 {
            self.target.store(target, Ordering::Release);
        }
    }

    /// Whether the offer/answer exchange of this request of a side, or of a later one, is complete.
    pub fn is_done(&self, side: Side, cseq: u32) -> bool {
        self.done[side as usize].load(Ordering::Acquire) > cseq
    }

    /// The offer/answer exchange of this request is complete: retransmissions change nothing.
    pub fn set_done(&self, side: Side, cseq: u32) {
        self.done[side as usize].fetch_max(cseq.saturating_add(1), Ordering::AcqRel);
    }
}

/// Returns the record of a dialog.
pub(crate) fn find(legs: &[LegRecord], tag: u64) -> Option<&LegRecord> {
    legs.iter().find(|leg| leg.tag.load(Ordering::Acquire) == tag).filter(|_| tag != 0)
}

/// Returns the record of a dialog, a new one if necessary; `None` if all are used.
pub(crate) fn find_or_add(legs: &[LegRecord], tag: u64) -> Option<&LegRecord> {
    let is_of_it = |leg: &&LegRecord| match leg.tag.compare_exchange(0, tag, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => true,
        Err(found) => found == tag,
    };
    legs.iter().find(is_of_it).filter(|_| tag != 0)
}

/// Returns the records in use.
pub(crate) fn all(legs: &[LegRecord]) -> impl Iterator<Item = &LegRecord> {
    legs.iter().filter(|leg| leg.tag.load(Ordering::Acquire) != 0)
}
