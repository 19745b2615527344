//! The decision of the gate: whether a chunk of content passes, and which units it takes from the grant of its session.

use super::Table;
use super::free::FreeClaim;
use super::messages::{NEW, OPEN, STATE, STOPPED};
use crate::charge::ch2::SessionKey;
use crate::charge::content::ContentClass;
use crate::charge::tariff::Per;
use crate::shm::sync::Ordering;
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
        /// Whether the message is charged as a new one, of the class of this chunk.
        is_new: bool,
    },
    /// Passes; the message is free.
    Free,
    /// Passes; it was paid for before.
    AlreadyPaid,
    /// Stopped: beyond the grant, or the gate is closed.
    BeyondGrant,
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
        if slot.passes_free(chunk) {
            let is_served = slot.is_open() && slot.session() == Some(session);
            return if is_served { ChunkDecision::Free } else { ChunkDecision::BeyondGrant };
        }
        let Some(word) = self.word(at, slot, chunk.message) else {
            return if slot.has_left() { ChunkDecision::Full } else { ChunkDecision::BeyondGrant };
        };
        loop {
            let seen = word.load(Ordering::Acquire);
            let Some((amount, after)) = charge(slot.per(), seen, chunk) else { return ChunkDecision::MessageStopped };
            let Some(left) = slot.take(amount) else {
                // The rest of the message is stopped too.
                let stopped = (seen & !STATE) | STOPPED;
                match word.compare_exchange(seen, stopped, Ordering::AcqRel, Ordering::Acquire) {
                    Ok(_) => return ChunkDecision::BeyondGrant,
                    Err(_) => continue,
                }
            };
            // The grant of the next session is set after its key, so a worker that has taken from it sees that key.
            if slot.session() != Some(session) {
                slot.put_back(amount);
                return ChunkDecision::BeyondGrant;
            }
            if word.compare_exchange(seen, after, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                let is_new = seen & STATE != OPEN;
                return match amount {
                    0 => ChunkDecision::AlreadyPaid,
                    _ => ChunkDecision::Charged { amount, left, is_new },
                };
            }
            slot.put_back(amount);
        }
    }
}

/// Returns the units that a chunk takes from the grant, and the word after it; `None` if its message is stopped.
fn charge(per: Per, word: u64, chunk: &Chunk) -> Option<(u32, u64)> {
    let is_new = match word & STATE {
        NEW => true,
        OPEN => false,
        // Nothing of it was relayed: sent again from its beginning, it is a new message.
        _ if is_injected(InjectedBug::RestOfStoppedPasses) => false,
        _ if chunk.is_first() && (per == Per::Message || word >> 2 == 0) => true,
        _ => return None,
    };
    if per == Per::Message {
        return Some((u32::from(is_new), (word & !STATE) | OPEN));
    }
    let before = if is_new { 0 } else { word >> 2 };
    let after = before.checked_add(chunk.octets).filter(|after| *after < 1 << 61)?;
    // A message without octets costs one unit too.
    let paid = if is_new { 0 } else { kilobytes(before).max(1) };
    let amount = u32::try_from(kilobytes(after).max(1) - paid).ok()?;
    Some((amount, after << 2 | OPEN))
}

/// Price in kilobytes of a message of which this many octets have passed.
fn kilobytes(octets: u64) -> u64 {
    octets.div_ceil(1024)
}
