//! A charged session as workers see it.

use super::index::Chain;
use super::legs::{self, LEGS_MAX, LegRecord};
use super::messages::NOTES;
use crate::charge::ch2::SessionKey;
use crate::charge::event::Direction;
use crate::charge::tariff::Per;
use crate::shm::sync::{AtomicU32, AtomicU64, Ordering};

/// Set in the grant word when the gate is closed for good.
const CLOSED: u64 = 1 << 63;

/// MSRP endpoints that the client of one session may offer after the first ones: their names and those of the answers fit
/// into the session's share.
const CHANGES_MAX: u32 = 40;

/// Set in the traits when a 2xx to the INVITE has gone to the inviting side.
const ANSWERED: u32 = 4;

/// A charged session as workers see it.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Slot {
    /// Both halves of the session key; zero while the slot is free.
    key: [AtomicU64; 2],
    /// Hash of the inviting side's tag.
    inviting_tag: AtomicU64,
    /// Closed bit, granted (31 bits), taken (32 bits).
    grant: AtomicU64,
    /// Version of the list of streams (32 bits) and its first record, counted from 1 (32 bits).
    pub(crate) streams: AtomicU64,
    /// The connection that speaks for the server's side of dialogs that have no record; 0: none yet.
    server_connection: AtomicU64,
    /// The last connection that spoke for the client's side; 0: none yet.
    client_connection: AtomicU64,
    /// Its names.
    pub(crate) names: Chain,
    /// Its messages in the index.
    pub(crate) messages: Chain,
    /// Whether the inviting side has the messages (1), whether the tariff counts kilobytes (2), whether the INVITE is
    /// answered ([`ANSWERED`]).
    traits: AtomicU32,
    /// Second of the last activity that the engine was told of.
    active: AtomicU32,
    /// What its frames may still cause: see [`Slot::may_push`].
    events: Allowance,
    /// What the stopped frames of this session may still cause: see [`Slot::may_report`].
    reports: Allowance,
    /// The first messages of a session that is counted by message: see `messages`.
    pub(crate) notes: [AtomicU64; NOTES],
    /// Its dialogs.
    legs: [LegRecord; LEGS_MAX],
    /// MSRP endpoints that the client has offered anew: see [`Slot::may_change`].
    changes: AtomicU32,
}

/// How much happened within a second (upper half).
#[repr(transparent)]
#[derive(Default)]
struct Allowance(AtomicU64);

impl Allowance {
    /// Takes one of `most` a second.
    fn take(&self, second: u32, most: u32) -> bool {
        let start = u64::from(second) << 32;
        let count = |word: u64| if word >> 32 == start >> 32 { word as u32 } else { 0 };
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            (count(word) < most).then(|| start | u64::from(count(word) + 1))
        });
        taken.is_ok()
    }
}

/// Events that the frames of one session may cause in a second: more than an honest session ever does.
const EVENTS_PER_SECOND_MAX: u32 = 20_000;

/// Stopped frames of one session that the engine is told of in a second.
const REPORTS_PER_SECOND_MAX: u32 = 8;

impl Slot {
    /// The session in it. Half a key is none: the slot is being freed, or opened.
    pub fn session(&self) -> Option<SessionKey> {
        let key = SessionKey(self.key[0].load(Ordering::Acquire), self.key[1].load(Ordering::Acquire));
        (key.0 != 0 && key.1 != 0).then_some(key)
    }

    pub(crate) fn open(&self, opening: &super::Opening) {
        self.inviting_tag.store(opening.inviting_tag, Ordering::Relaxed);
        self.grant.store(0, Ordering::Relaxed);
        self.server_connection.store(0, Ordering::Relaxed);
        self.client_connection.store(0, Ordering::Relaxed);
        let push = u32::from(opening.direction == Direction::Push);
        let kilobyte = u32::from(opening.per == Per::Kilobyte) << 1;
        self.traits.store(push | kilobyte, Ordering::Relaxed);
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
        self.notes.iter().for_each(|place| place.store(0, Ordering::Release));
    }

    /// Which side invites.
    pub fn direction(&self) -> Direction {
        if self.traits.load(Ordering::Relaxed) & 1 == 1 { Direction::Push } else { Direction::Pull }
    }

    /// What the tariff counts.
    pub fn per(&self) -> Per {
        if self.traits.load(Ordering::Relaxed) & 2 == 2 { Per::Kilobyte } else { Per::Message }
    }

    /// Whether the tag is the inviting side's.
    pub fn is_inviting_tag(&self, tag: u64) -> bool {
        self.inviting_tag.load(Ordering::Acquire) == tag
    }

    /// Worker: a 2xx to the INVITE goes to the inviting side.
    pub fn set_answered(&self) {
        self.traits.fetch_or(ANSWERED, Ordering::AcqRel);
    }

    /// Whether a 2xx to the INVITE has gone to the inviting side.
    pub fn is_answered(&self) -> bool {
        self.traits.load(Ordering::Acquire) & ANSWERED != 0
    }

    /// The dialog with this hash of the answering side's tag.
    pub fn leg(&self, tag: u64) -> Option<&LegRecord> {
        legs::find(&self.legs, tag)
    }

    /// Worker: the same, a new one where it is not known. `None`: there is no room.
    pub fn add_leg(&self, tag: u64) -> Option<&LegRecord> {
        legs::find_or_add(&self.legs, tag)
    }

    /// Worker: takes so many of the changes that the client may ask for. `false`: they are used up. Each may give the session
    /// two names, one of either side, and no endpoint of the server must be without one.
    pub fn may_change(&self, count: u32) -> bool {
        let taken = |taken: u32| taken.checked_add(count).filter(|taken| *taken <= CHANGES_MAX);
        self.changes.fetch_update(Ordering::AcqRel, Ordering::Acquire, taken).is_ok()
    }

    /// The dialogs that are known.
    pub fn legs(&self) -> impl Iterator<Item = &LegRecord> {
        legs::all(&self.legs)
    }

    /// The connection that speaks for the server's side of this dialog; 0: none has spoken yet.
    pub fn server_connection(&self, leg: u64) -> u64 {
        self.speaker(leg).load(Ordering::Acquire)
    }

    /// Worker: another connection speaks for the server's side of this dialog from now on. `false`: a third one was faster.
    pub fn replace_server_connection(&self, leg: u64, from: u64, to: u64) -> bool {
        self.speaker(leg).compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Whether a connection speaks for the server's side of any dialog.
    pub fn is_server_connection(&self, connection: u64) -> bool {
        self.speakers().any(|speaker| speaker.load(Ordering::Acquire) == connection)
    }

    /// Where the connection of a dialog's server is kept: the servers of a forked INVITE have connections of their own.
    fn speaker(&self, leg: u64) -> &AtomicU64 {
        self.leg(leg).map_or(&self.server_connection, |leg| &leg.server_connection)
    }

    fn speakers(&self) -> impl Iterator<Item = &AtomicU64> {
        self.legs.iter().map(|leg| &leg.server_connection).chain([&self.server_connection])
    }

    /// The last connection that spoke for the client's side; 0: none has spoken yet.
    pub fn client_connection(&self) -> u64 {
        self.client_connection.load(Ordering::Acquire)
    }

    /// Worker: this connection has spoken for the client's side. Whether it is another one than before.
    pub fn set_client_connection(&self, connection: u64) -> bool {
        self.client_connection() != connection
            && self.client_connection.swap(connection, Ordering::AcqRel) != connection
    }

    /// Engine: a connection is lost, so another one may speak for the server's side.
    pub fn forget_connection(&self, connection: u64) {
        for speaker in self.speakers() {
            let _ = speaker.compare_exchange(connection, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Whether the engine has not been told in this second that the session is alive.
    pub fn is_first_activity(&self, second: u32) -> bool {
        self.active.load(Ordering::Relaxed) != second && self.active.swap(second, Ordering::Relaxed) != second
    }

    /// Takes one of the events that the frames of the session may cause in this second.
    pub fn may_push(&self, second: u32) -> bool {
        self.events.take(second, EVENTS_PER_SECOND_MAX)
    }

    /// Takes one of the stopped frames that the engine is told of in this second.
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

    /// Gives back what [`Slot::take`] took: the frame did not go on.
    pub fn put_back(&self, amount: u32) {
        self.grant.fetch_sub(u64::from(amount), Ordering::AcqRel);
    }

    /// Engine: sets the total grant.
    pub fn set_granted(&self, granted: u32) {
        let granted = u64::from(granted.min(u32::MAX >> 1)) << 32;
        let keep = CLOSED | u64::from(u32::MAX);
        self.grant.fetch_update(Ordering::AcqRel, Ordering::Acquire, |word| Some((word & keep) | granted)).ok();
    }

    /// Engine: closes the gate for good and returns what was taken; no later frame can take more.
    pub fn close(&self) -> u32 {
        split(self.grant.fetch_or(CLOSED, Ordering::AcqRel)).1
    }

    /// Whether anything is left of the grant.
    pub(crate) fn has_left(&self) -> bool {
        let word = self.grant.load(Ordering::Acquire);
        let (granted, taken) = split(word);
        word & CLOSED == 0 && granted > taken
    }

    /// Whether the gate is not closed.
    pub fn is_open(&self) -> bool {
        self.grant.load(Ordering::Acquire) & CLOSED == 0
    }

    /// Granted and taken.
    pub fn counters(&self) -> (u32, u32) {
        split(self.grant.load(Ordering::Acquire))
    }
}

/// Granted and taken of a grant word.
fn split(word: u64) -> (u32, u32) {
    (((word & !CLOSED) >> 32) as u32, word as u32)
}
