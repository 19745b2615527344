//! The decision of the gate: whether a chunk of content passes, and which units it takes from the grant of its session.

use super::Table;
use super::free::{FreeClaim, FreeDecision};
use super::messages::{NEW, OPEN, STATE, STOPPED, class_of, octets_of, open_word, opened_word};
use super::slot::Slot;
use crate::charge::ch2::SessionKey;
use crate::charge::content::ContentClass;
use crate::charge::tariff::Weight;
use crate::shm::sync::{AtomicU64, Ordering};
use crate::simulate::{InjectedBug, is_injected};

/// A chunk of a message's content.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Hash of session and Message-ID.
    pub message: u64,
    /// Number of its first octet, from 1.
    pub start: u64,
    /// Octets of content.
    pub octets: u64,
    /// Octets that a new message counts for in addition: a document about a file counts as that file.
    pub file_octets: u64,
    /// Whether no chunk of the message follows: it is the last one, or the message is aborted.
    pub is_last: bool,
    /// Class of the message, as far as the chunk shows it.
    pub class: ContentClass,
    /// The claim that it is free.
    pub free: Option<FreeClaim>,
}

impl Chunk {
    /// Whether the message starts with it.
    pub fn is_first(&self) -> bool {
        self.start <= 1
    }
}

/// Decision of the gate about a chunk of content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkDecision {
    /// Passes; its units were taken from the grant now.
    Charged {
        /// Units taken.
        amount: u32,
        /// Units granted and not taken.
        left: u32,
        /// Class of the message: that of the chunk that opened it.
        class: ContentClass,
        /// Octets of the message that have passed as free content before it.
        free_octets: u64,
    },
    /// Passes; the message is free.
    Free,
    /// Passes; it was paid for before.
    AlreadyPaid {
        /// Class of the message: that of the chunk that opened it.
        class: ContentClass,
        /// Octets of the message that have passed as free content before it: another worker may have charged the message.
        free_octets: u64,
    },
    /// Stopped: beyond the grant, or the gate is closed.
    BeyondGrant,
    /// Stopped: the lease of this node is over, so another one may have taken the session over.
    LeaseOver,
    /// Stopped: an earlier chunk of the message was stopped, or the message is settled.
    MessageStopped,
    /// Stopped: there is no room to record that it is paid for, or the session's share is used up.
    Full,
}

impl Table<'_> {
    /// Worker: decides whether a chunk passes, and takes its units from the grant of the session unless they are paid for.
    /// If two workers decide about the same message at the same time, at most one of them takes units.
    pub fn decide(&self, at: u32, session: SessionKey, chunk: &Chunk) -> ChunkDecision {
        let Some(slot) = self.slots.get(at as usize) else { return ChunkDecision::BeyondGrant };
        let FreeDecision::Charged { free_octets } = slot.decide_free(chunk) else {
            let is_served = slot.is_open() && slot.session() == Some(session);
            return if is_served { ChunkDecision::Free } else { ChunkDecision::BeyondGrant };
        };
        let Some(word) = self.word(at, slot, chunk.message) else {
            return if slot.has_left() { ChunkDecision::Full } else { ChunkDecision::BeyondGrant };
        };
        loop {
            let seen = word.load(Ordering::Acquire);
            let Some((amount, after)) = charge(slot, seen, chunk) else { return ChunkDecision::MessageStopped };
            // A paying sender must not send more under the Message-ID of a message that it has paid for.
            let ends = chunk.is_last && slot.is_paid_by_sender();
            let after = if ends { (after & !STATE) | NEW } else { after };
            let Some(left) = slot.take(amount) else {
                if stop(word, seen) {
                    return ChunkDecision::BeyondGrant;
                }
                continue;
            };
            // The grant of the next session is set after its key, so a worker that has taken from it sees that key.
            if slot.session() != Some(session) {
                slot.put_back(amount);
                return ChunkDecision::BeyondGrant;
            }
            // As late as possible: the host may have been stopped at any instruction before. Free content needs no lease.
            if self.lease.is_over() && !is_injected(InjectedBug::LeaseIgnored) {
                slot.put_back(amount);
                if stop(word, seen) {
                    return ChunkDecision::LeaseOver;
                }
                continue;
            }
            if word.compare_exchange(seen, after, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                let class = class_of(after);
                return match amount {
                    0 => ChunkDecision::AlreadyPaid { class, free_octets },
                    _ => ChunkDecision::Charged { amount, left, class, free_octets },
                };
            }
            slot.put_back(amount);
        }
    }
}

/// Stops the rest of a message whose chunk is stopped. Returns whether it did; `false`: the word has changed.
fn stop(word: &AtomicU64, seen: u64) -> bool {
    word.compare_exchange(seen, (seen & !STATE) | STOPPED, Ordering::AcqRel, Ordering::Acquire).is_ok()
}

/// Returns the units that a chunk takes from the grant, and the word after it; `None` if its message is stopped. The chunk
/// that opens a message decides its class.
fn charge(slot: &Slot, word: u64, chunk: &Chunk) -> Option<(u32, u64)> {
    let is_new = match word & STATE {
        NEW => true,
        OPEN => false,
        // Nothing of it was relayed: sent again from its beginning, it is a new message.
        _ if is_injected(InjectedBug::RestOfStoppedPasses) => false,
        _ if chunk.is_first() && may_start_again(slot, word) => true,
        _ => return None,
    };
    let class = if is_new { chunk.class } else { class_of(word) };
    let weight = slot.weight(class);
    if !slot.is_by_size() {
        return Some((if is_new { weight.message } else { 0 }, opened_word(word, class)));
    }
    let before = if is_new { chunk.file_octets } else { octets_of(word) };
    let after = before.checked_add(chunk.octets)?;
    let paid = if is_new { 0 } else { weight.of_octets(before).0 };
    Some((price_of(weight, after)? - paid, open_word(class, after)?))
}

/// Whether a stopped message may be sent again from its beginning: nothing of it has passed, or its size has no price.
fn may_start_again(slot: &Slot, word: u64) -> bool {
    !slot.is_by_size() || octets_of(word) == 0 || slot.weight(class_of(word)).kilobyte == 0
}

/// Returns what a message of this size takes; `None`: more than any grant.
fn price_of(weight: Weight, octets: u64) -> Option<u32> {
    Some(weight.of_octets(octets).0).filter(|amount| *amount < u32::MAX)
}
