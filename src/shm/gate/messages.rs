//! Messages of a charged session: what of each has passed the gate, and whether more of it may pass.
//!
//! A message is one word. Of sessions charged by message, the first [`NOTES`] are in the slot, as hash and state; all
//! others are in an index, with state and octets in a parallel array.

use super::Table;
use super::index::Inserted;
use super::slot::Slot;
use crate::charge::ch2::SessionKey;
use crate::charge::tariff::Per;
use crate::shm::sync::{AtomicU64, Ordering, bound};
use crate::simulate::{InjectedBug, is_injected};

/// Number of messages in the slot of a session charged by message: a mailbox of usual size needs no cache line besides the
/// slot's own.
pub const NOTES: usize = bound(8, 1);

/// Maximum number of messages of a session in the index while its grant is used up or its gate is closed.
const UNPAID_MAX: u32 = 64;

/// The lowest bits of a word: the state of the message.
const STATE: u64 = 0b11;
/// Nothing of it has passed, or what has passed was not charged: the next chunk is charged like the first one.
const NEW: u64 = 0;
/// Everything that has passed of it is paid for.
const OPEN: u64 = 1;
/// No more of it passes.
const STOPPED: u64 = 2;

/// A chunk of a message's content.
#[derive(Clone, Copy, Debug)]
pub struct Chunk {
    /// Hash of session and Message-ID.
    pub message: u64,
    /// Whether its Byte-Range starts at 1.
    pub is_first: bool,
    /// Octets of content.
    pub octets: u64,
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
    },
    /// Passes; it was paid for before.
    AlreadyPaid,
    /// Stopped: beyond the grant, or the gate is closed.
    BeyondGrant,
    /// Stopped: an earlier chunk of the message was stopped, or the message is settled.
    MessageStopped,
    /// Stopped: there is no room to record that it is paid for, or the session's share is used up.
    Full,
}

/// Price in kilobytes of a message of which this many octets have passed.
fn kilobytes(octets: u64) -> u64 {
    octets.div_ceil(1024)
}

impl<'a> Table<'a> {
    /// Worker: decides whether a chunk passes, and takes its units from the grant of the session unless they are paid for.
    /// If two workers decide about the same message at the same time, at most one of them takes units.
    pub fn decide(&self, at: u32, session: SessionKey, chunk: &Chunk) -> ChunkDecision {
        let Some(slot) = self.slots.get(at as usize) else { return ChunkDecision::BeyondGrant };
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
                return if amount == 0 { ChunkDecision::AlreadyPaid } else { ChunkDecision::Charged { amount, left } };
            }
            slot.put_back(amount);
        }
    }

    /// Returns the word of a message, a new one if necessary.
    fn word(&self, at: u32, slot: &'a Slot, message: u64) -> Option<&'a AtomicU64> {
        if slot.per() == Per::Message
            && let Some(noted) = slot.note(message)
        {
            return Some(noted);
        }
        // Messages that are stopped cost their sender nothing, so they get little room.
        let share = if slot.has_left() { self.messages_share() } else { UNPAID_MAX };
        match self.messages.add(&slot.messages, at, message, share) {
            Inserted::At(place) | Inserted::Before(place) => self.passed.get(place),
            Inserted::Full => None,
        }
    }

    /// Engine: removes all messages of a slot.
    pub(crate) fn free_messages(&self, slot: &Slot) {
        slot.forget_notes();
        self.messages.clear(&slot.messages, |place| {
            if let Some(word) = self.passed.get(place) {
                word.store(NEW, Ordering::Release);
            }
        });
    }

    /// Maximum number of messages of one session in the index: an eighth of it.
    fn messages_share(&self) -> u32 {
        u32::try_from((self.messages.index.len() / 8).max(2)).unwrap_or(u32::MAX)
    }

    /// Returns the word of a message, if there is one.
    fn known_word(&self, at: u32, session: SessionKey, message: u64) -> Option<&AtomicU64> {
        let slot = self.slots.get(at as usize).filter(|slot| slot.session() == Some(session))?;
        let noted = || slot.notes.iter().find(|word| word.load(Ordering::Acquire) & !STATE == message & !STATE);
        let indexed = || self.messages.index.place_of(message, at).and_then(|place| self.passed.get(place));
        if slot.per() == Per::Message { noted().or_else(indexed) } else { indexed() }
    }

    /// Engine: a message was not charged. The same Message-ID is charged like a new one.
    pub fn forget_message(&self, at: u32, session: SessionKey, message: u64) {
        self.set_state(at, session, message, NEW);
    }

    /// Engine: stops the rest of a message.
    pub fn stop_message(&self, at: u32, session: SessionKey, message: u64) {
        self.set_state(at, session, message, STOPPED);
    }

    fn set_state(&self, at: u32, session: SessionKey, message: u64, state: u64) {
        if let Some(word) = self.known_word(at, session, message) {
            word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some((word & !STATE) | state)).ok();
        }
    }

    /// Whether everything that has passed of a message is paid for.
    pub fn is_paid(&self, at: u32, session: SessionKey, message: u64) -> bool {
        self.known_word(at, session, message).is_some_and(|word| word.load(Ordering::Acquire) & STATE == OPEN)
    }
}

/// Returns the units that a chunk takes from the grant, and the word after it; `None` if its message is stopped.
fn charge(per: Per, word: u64, chunk: &Chunk) -> Option<(u32, u64)> {
    let is_new = match word & STATE {
        NEW => true,
        OPEN => false,
        // Nothing of it was relayed: sent again from its beginning, it is a new message.
        _ if is_injected(InjectedBug::RestOfStoppedPasses) => false,
        _ if chunk.is_first && (per == Per::Message || word >> 2 == 0) => true,
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

impl Slot {
    /// Returns the slot's word of a message, a new one if there is room; `None` if all are used by others. Words are filled
    /// in order and not emptied while the session lives, so of two workers that add the same message, the later one finds
    /// the other's word.
    fn note(&self, message: u64) -> Option<&AtomicU64> {
        let hash = message & !STATE;
        self.notes.iter().find(|place| {
            let found = place.compare_exchange(0, hash, Ordering::AcqRel, Ordering::Acquire);
            found.map_or_else(|found| found & !STATE == hash, |_| true)
        })
    }
}
