//! Messages of a charged session: what of each has passed the gate, and whether more of it may pass. [`Table::decide`] reads
//! and changes them.
//!
//! A message is one word. Of sessions charged by message, the first [`NOTES`] are in the slot, as hash and state; all
//! others are in an index, with state and octets in a parallel array.

use super::Table;
use super::index::Inserted;
use super::slot::Slot;
use crate::charge::ch2::SessionKey;
use crate::charge::tariff::Per;
use crate::shm::sync::{AtomicU64, Ordering, bound};

/// Number of messages in the slot of a session charged by message: a mailbox of usual size needs no cache line besides the
/// slot's own.
pub const NOTES: usize = bound(8, 1);

/// Maximum number of messages of a session in the index while its grant is used up or its gate is closed.
const UNPAID_MAX: u32 = 64;

/// The lowest bits of a word: the state of the message.
pub(super) const STATE: u64 = 0b11;
/// Nothing of it has passed, or what has passed was not charged: the next chunk is charged like the first one.
pub(super) const NEW: u64 = 0;
/// Everything that has passed of it is paid for.
pub(super) const OPEN: u64 = 1;
/// No more of it passes.
pub(super) const STOPPED: u64 = 2;

impl<'a> Table<'a> {
    /// Returns the word of a message, a new one if necessary.
    pub(super) fn word(&self, at: u32, slot: &'a Slot, message: u64) -> Option<&'a AtomicU64> {
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
        slot.forget_free_messages();
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
