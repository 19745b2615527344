//! Messages of a charged session: what of each has passed the gate, and whether more of it may pass. [`Table::decide`] reads
//! and changes them.
//!
//! A message is one word: its state, its class, and what identifies or measures it. If size has no price in the session, the
//! first [`NOTES`] messages are in the slot, with their hash; all others are in an index, with their octets in a parallel
//! array.

use super::Table;
use super::index::Inserted;
use super::slot::Slot;
use crate::charge::ch2::SessionKey;
use crate::charge::content::ContentClass;
use crate::shm::sync::{AtomicU64, Ordering, bound};

/// Number of messages in the slot of a session in which size has no price: a mailbox of usual size needs no cache line
/// besides the slot's own.
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
/// The next bits: the class of the message, valid if something of it has passed.
const CLASS_SHIFT: u32 = 2;
/// All bits above: hash of a message in the slot, octets of one in the index.
const REST_SHIFT: u32 = 4;
/// Maximum octets of a message.
const OCTETS_MAX: u64 = u64::MAX >> REST_SHIFT;

/// Returns the class of a message that has passed in part.
pub(super) fn class_of(word: u64) -> ContentClass {
    ContentClass::ALL[(word >> CLASS_SHIFT) as usize % ContentClass::ALL.len()]
}

/// Returns the octets of a message in the index that have passed.
pub(super) fn octets_of(word: u64) -> u64 {
    word >> REST_SHIFT
}

/// Returns the word of an open message that has passed this far; `None`: it is too large.
pub(super) fn open_word(class: ContentClass, octets: u64) -> Option<u64> {
    (octets <= OCTETS_MAX).then_some(octets << REST_SHIFT | (class as u64) << CLASS_SHIFT | OPEN)
}

/// Returns the word of a message after a chunk of this class has opened it.
pub(super) fn opened_word(word: u64, class: ContentClass) -> u64 {
    word >> REST_SHIFT << REST_SHIFT | (class as u64) << CLASS_SHIFT | OPEN
}

/// Returns the part of a word in the slot that identifies its message.
fn hash_of(word: u64) -> u64 {
    word >> REST_SHIFT
}

impl<'a> Table<'a> {
    /// Returns the word of a message, a new one if necessary.
    pub(super) fn word(&self, at: u32, slot: &'a Slot, message: u64) -> Option<&'a AtomicU64> {
        if !slot.is_by_size()
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
        let noted = || slot.notes.iter().find(|word| hash_of(word.load(Ordering::Acquire)) == hash_of(message));
        let indexed = || self.messages.index.place_of(message, at).and_then(|place| self.passed.get(place));
        if slot.is_by_size() { indexed() } else { noted().or_else(indexed) }
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
        let hash = hash_of(message);
        self.notes.iter().find(|place| {
            let found = place.compare_exchange(0, hash << REST_SHIFT, Ordering::AcqRel, Ordering::Acquire);
            found.map_or_else(|found| hash_of(found) == hash, |_| true)
        })
    }
}
