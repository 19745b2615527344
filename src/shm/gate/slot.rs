//! A charged session as workers see it.

use super::free::FreeMessages;
use super::index::Chain;
use super::legs::{self, LEGS_MAX, LegRecord};
use super::messages::NOTES;
use crate::charge::ch2::SessionKey;
use crate::charge::content::ContentClass;
use crate::charge::event::Direction;
use crate::charge::tariff::Weight;
use crate::shm::sync::{AtomicU32, AtomicU64, Ordering};

/// Bit of the grant word: the gate is closed for good.
const CLOSED: u64 = 1 << 63;

/// Maximum number of MSRP endpoints that the paying side of a session may offer after the first ones: their names and those of
/// the answers fit into the session's share.
const CHANGES_MAX: u32 = 40;

/// Bit of the traits: messages of at least one class are charged by size.
const BY_SIZE: u32 = 2;

/// Bit of the traits: a 2xx to the INVITE was relayed to the inviting side.
const ANSWERED: u32 = 4;

/// Bit of the traits: the sender pays for the content.
const PAID_BY_SENDER: u32 = 8;

/// Bit of the traits: content of the receiver is charged in another slot.
const PAIRED: u32 = 16;

/// A charged session as workers see it.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Slot {
    /// Both halves of the session key; zero while the slot is free.
    key: [AtomicU64; 2],
    /// Hash of the inviting side's tag.
    inviting_tag: AtomicU64,
    /// Closed bit, units granted (31 bits), units taken (32 bits).
    grant: AtomicU64,
    /// Version of the list of streams (32 bits) and its first record, counted from 1 (32 bits).
    pub(crate) streams: AtomicU64,
    /// Connection of the sender's side for dialogs without a record; 0: none yet.
    sender_connection: AtomicU64,
    /// Last connection of the receiver's side; 0: none yet.
    receiver_connection: AtomicU64,
    /// Names that lead to the slot.
    pub(crate) names: Chain,
    /// Messages in the index.
    pub(crate) messages: Chain,
    /// Bits: the inviting side has the messages (1), size has a price ([`BY_SIZE`]), [`ANSWERED`], [`PAID_BY_SENDER`],
    /// [`PAIRED`].
    traits: AtomicU32,
    /// Second of the last activity that was reported to the engine.
    active: AtomicU32,
    /// What messages of each class take from the grant: for each message (upper half), for each kilobyte (lower half).
    weights: [AtomicU64; 4],
    /// Events caused by frames: see [`Slot::may_push`].
    events: Allowance,
    /// Reports of stopped frames: see [`Slot::may_report`].
    reports: Allowance,
    /// The first messages of a session in which size has no price: see `messages`.
    pub(crate) notes: [AtomicU64; NOTES],
    /// Free messages: see `free`.
    pub(super) free: FreeMessages,
    /// Dialogs of the session.
    legs: [LegRecord; LEGS_MAX],
    /// Endpoints that the paying side has offered after the first ones: see [`Slot::may_change`].
    changes: AtomicU32,
}

/// Rate limit: a second (upper half) and the count within it (lower half).
#[repr(transparent)]
#[derive(Default)]
struct Allowance(AtomicU64);

impl Allowance {
    /// Counts one if there were fewer than `most` in this second.
    fn take(&self, second: u32, most: u32) -> bool {
        let start = u64::from(second) << 32;
        let count = |word: u64| if word >> 32 == start >> 32 { word as u32 } else { 0 };
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            (count(word) < most).then(|| start | u64::from(count(word) + 1))
        });
        taken.is_ok()
    }
}

/// Maximum events per second from the frames of one session: more than an honest session causes.
const EVENTS_PER_SECOND_MAX: u32 = 20_000;

/// Maximum reports of stopped frames per second and session.
const REPORTS_PER_SECOND_MAX: u32 = 8;

impl Slot {
    /// Returns the session in the slot; `None` while it is free, or is being opened or freed (half a key).
    pub fn session(&self) -> Option<SessionKey> {
        let key = SessionKey(self.key[0].load(Ordering::Acquire), self.key[1].load(Ordering::Acquire));
        (key.0 != 0 && key.1 != 0).then_some(key)
    }

    pub(crate) fn open(&self, opening: &super::Opening) {
        self.inviting_tag.store(opening.inviting_tag, Ordering::Relaxed);
        self.grant.store(0, Ordering::Relaxed);
        self.sender_connection.store(0, Ordering::Relaxed);
        self.receiver_connection.store(0, Ordering::Relaxed);
        let push = u32::from(opening.direction == Direction::Push);
        let is_by_size = opening.weights.iter().any(|weight| weight.kilobyte > 0);
        let by_size = if is_by_size { BY_SIZE } else { 0 };
        let payer = if opening.is_paid_by_sender { PAID_BY_SENDER } else { 0 };
        let paired = if opening.is_paired { PAIRED } else { 0 };
        self.traits.store(push | by_size | payer | paired, Ordering::Relaxed);
        for (place, weight) in self.weights.iter().zip(opening.weights) {
            place.store(u64::from(weight.message) << 32 | u64::from(weight.kilobyte), Ordering::Relaxed);
        }
        self.legs.iter().for_each(LegRecord::clear);
        self.changes.store(0, Ordering::Relaxed);
        self.key[0].store(opening.session.0, Ordering::Release);
        self.key[1].store(opening.session.1, Ordering::Release);
    }

    pub(crate) fn forget_session(&self) {
        self.key[0].store(0, Ordering::Release);
        self.key[1].store(0, Ordering::Release);
    }

    pub(crate) fn forget_notes(&self) {
        for place in &self.notes {
            // Not a store: loom does not order one against a compare_exchange of a late frame.
            place.swap(0, Ordering::AcqRel);
        }
    }

    /// Returns which side has the messages.
    pub fn direction(&self) -> Direction {
        if self.traits.load(Ordering::Relaxed) & 1 == 1 { Direction::Push } else { Direction::Pull }
    }

    /// Whether messages of at least one class are charged by size.
    pub fn is_by_size(&self) -> bool {
        self.traits.load(Ordering::Relaxed) & BY_SIZE != 0
    }

    /// Returns what messages of a class take from the grant.
    pub fn weight(&self, class: ContentClass) -> Weight {
        let word = self.weights[class as usize].load(Ordering::Relaxed);
        Weight { message: (word >> 32) as u32, kilobyte: word as u32 }
    }

    /// Whether the sender pays for the content: it is a subscriber, and no IM server.
    pub fn is_paid_by_sender(&self) -> bool {
        self.traits.load(Ordering::Relaxed) & PAID_BY_SENDER != 0
    }

    /// Whether content of the receiver is charged in another slot.
    pub fn is_paired(&self) -> bool {
        self.traits.load(Ordering::Relaxed) & PAIRED != 0
    }

    /// Whether this is the hash of the inviting side's tag.
    pub fn is_inviting_tag(&self, tag: u64) -> bool {
        self.inviting_tag.load(Ordering::Acquire) == tag
    }

    /// Worker: a 2xx to the INVITE is relayed to the inviting side.
    pub fn set_answered(&self) {
        self.traits.fetch_or(ANSWERED, Ordering::AcqRel);
    }

    /// Whether a 2xx to the INVITE was relayed to the inviting side.
    pub fn is_answered(&self) -> bool {
        self.traits.load(Ordering::Acquire) & ANSWERED != 0
    }

    /// Returns the dialog with this hash of the answering side's tag.
    pub fn leg(&self, tag: u64) -> Option<&LegRecord> {
        legs::find(&self.legs, tag)
    }

    /// Worker: returns that dialog, added if it is new; `None` if there is no room.
    pub fn add_leg(&self, tag: u64) -> Option<&LegRecord> {
        legs::find_or_add(&self.legs, tag)
    }

    /// Worker: counts endpoints that the paying side offers; `false` if it has offered too many. Each may give the session two
    /// names, one for each side, and every endpoint of the sender must have one.
    pub fn may_change(&self, count: u32) -> bool {
        let taken = |taken: u32| taken.checked_add(count).filter(|taken| *taken <= CHANGES_MAX);
        self.changes.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).is_ok()
    }

    /// Returns the known dialogs.
    pub fn legs(&self) -> impl Iterator<Item = &LegRecord> {
        legs::all(&self.legs)
    }

    /// Returns the connection of the sender's side of a dialog; 0: none yet.
    pub fn sender_connection(&self, leg: u64) -> u64 {
        self.speaker(leg).load(Ordering::Acquire)
    }

    /// Worker: replaces the connection of the sender's side of a dialog; `false` if another worker has replaced it first.
    pub fn replace_sender_connection(&self, leg: u64, from: u64, to: u64) -> bool {
        self.speaker(leg).compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether this is the connection of the sender's side of any dialog.
    pub fn is_sender_connection(&self, connection: u64) -> bool {
        self.speakers().any(|speaker| speaker.load(Ordering::Acquire) == connection)
    }

    /// The connection word of a dialog: each sender of a forked INVITE has its own connection.
    fn speaker(&self, leg: u64) -> &AtomicU64 {
        self.leg(leg).map_or(&self.sender_connection, |leg| &leg.sender_connection)
    }

    fn speakers(&self) -> impl Iterator<Item = &AtomicU64> {
        self.legs.iter().map(|leg| &leg.sender_connection).chain([&self.sender_connection])
    }

    /// Returns the last connection of the receiver's side; 0: none yet.
    pub fn receiver_connection(&self) -> u64 {
        self.receiver_connection.load(Ordering::Acquire)
    }

    /// Worker: sets the last connection of the receiver's side; `true` if it has changed.
    pub fn set_receiver_connection(&self, connection: u64) -> bool {
        self.receiver_connection() != connection
            && self.receiver_connection.swap(connection, Ordering::AcqRel) != connection
    }

    /// Engine: forgets a lost connection, so that the sender's side may use another one.
    pub fn forget_connection(&self, connection: u64) {
        for speaker in self.speakers() {
            let _ = speaker.compare_exchange(connection, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Whether activity was not yet reported to the engine in this second; counts as reported from now on.
    pub fn is_first_activity(&self, second: u32) -> bool {
        self.active.load(Ordering::Relaxed) != second && self.active.swap(second, Ordering::Relaxed) != second
    }

    /// Counts an event caused by a frame; `false` if there were too many in this second.
    pub fn may_push(&self, second: u32) -> bool {
        self.events.take(second, EVENTS_PER_SECOND_MAX)
    }

    /// Counts a report of a stopped frame; `false` if there were too many in this second.
    pub fn may_report(&self, second: u32) -> bool {
        self.reports.take(second, REPORTS_PER_SECOND_MAX)
    }

    /// Takes `amount` units from the grant and returns what is left of it; `None` if there are fewer or the gate is closed.
    pub fn take(&self, amount: u32) -> Option<u32> {
        let mut word = self.grant.load(Ordering::Acquire);
        loop {
            let (granted, taken) = split(word);
            let left = granted.saturating_sub(taken);
            if word & CLOSED != 0 || left < amount {
                return None;
            }
            match self.grant.compare_exchange_weak(word, word + u64::from(amount), Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Some(left - amount),
                Err(now) => word = now,
            }
        }
    }

    /// Gives back units that [`Slot::take`] took for a frame that was not relayed.
    pub fn put_back(&self, amount: u32) {
        self.grant.fetch_sub(u64::from(amount), Ordering::AcqRel);
    }

    /// Engine: sets the total grant.
    pub fn set_granted(&self, granted: u32) {
        let granted = u64::from(granted.min(u32::MAX >> 1)) << 32;
        let keep = CLOSED | u64::from(u32::MAX);
        self.grant.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some((word & keep) | granted)).ok();
    }

    /// Engine: closes the gate for good and returns the units taken; later frames cannot take more.
    pub fn close(&self) -> u32 {
        split(self.grant.fetch_or(CLOSED, Ordering::AcqRel)).1
    }

    /// Whether the gate is open and units are left.
    pub(crate) fn has_left(&self) -> bool {
        let word = self.grant.load(Ordering::Acquire);
        let (granted, taken) = split(word);
        word & CLOSED == 0 && granted > taken
    }

    /// Whether the gate is open.
    pub fn is_open(&self) -> bool {
        self.grant.load(Ordering::Acquire) & CLOSED == 0
    }

    /// Returns the units granted and taken.
    pub fn counters(&self) -> (u32, u32) {
        split(self.grant.load(Ordering::Acquire))
    }
}

/// Units granted and taken, of a grant word.
fn split(word: u64) -> (u32, u32) {
    (((word & !CLOSED) >> 32) as u32, word as u32)
}
