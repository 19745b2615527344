//! The grant table: what the host's workers may let through, in shared memory, without a lock.
//!
//! One [`Slot`] per charged session. The engine opens it with the reservation, raises its grant, closes its gate
//! and frees it; workers bind MSRP session ids to it and take from its grant. Slots are found through
//! two [`Index`]es, by Call-ID and by MSRP session id. Which messages are paid for stands in the slot itself,
//! beyond the first [`NOTES`] of a session in a third index.
//!
//! A slot that was taken from is used again no sooner than [`REUSE_AFTER_SECONDS`] after its gate was closed: frames on
//! their way have passed by then. One that comes later still, and finds the slot at the very moment of its reuse, sees behind
//! its take whose grant that was, and gives it back ([`Table::pass`]).

use super::sync::{AtomicU32, AtomicU64, Ordering, bound};
use crate::charge::ch2::SessionKey;
use crate::charge::event::Direction;
use crate::charge::tariff::Per;

/// Seconds between the closing of a gate and the earliest reuse of its slot.
pub const REUSE_AFTER_SECONDS: u32 = 2;

/// MSRP session ids that a slot can be found by: both ends, and the relays before them.
pub const PATHS: usize = 4;

/// Messages (with a tariff by size: chunks) of a session that are noted in its slot: a mailbox of usual size costs
/// a worker no other cache line than the slot's own.
pub const NOTES: usize = bound(10, 1);

/// Set in the grant word when the gate is closed for good.
const CLOSED: u64 = 1 << 63;

/// A charged session as workers see it.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Slot {
    /// Both halves of the session key; zero while the slot is free.
    key: [AtomicU64; 2],
    /// Hash of the Call-ID.
    call: AtomicU64,
    /// Hash of the inviting side's tag.
    inviting_tag: AtomicU64,
    /// Hash of the answering side's tag, 0 before the 2xx.
    answering_tag: AtomicU64,
    /// Closed bit, granted (31 bits), taken (32 bits).
    grant: AtomicU64,
    /// Hashes of MSRP session ids: server's end, client's end, server's relay, client's relay; 0: none.
    paths: [AtomicU64; PATHS],
    /// Whether the inviting side has the messages (1), whether the tariff counts kilobytes (2).
    traits: AtomicU32,
    /// First of the slot's entries in the message index, counted from 1; 0: none.
    messages: AtomicU32,
    /// The first messages that are paid for, as half hashes, in the order in which they came; 0: none. Emptied with
    /// the slot only.
    notes: [AtomicU32; NOTES],
}

/// Which side of the bound session a path belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The one that has the messages.
    Server,
    /// The one that fetches them.
    Client,
}

/// What an MSRP session id leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// Its slot.
    pub at: u32,
    /// The session that the id is of.
    pub session: SessionKey,
    /// Whose id it is.
    pub side: Side,
}

/// The MSRP session ids of one answer, as hashes; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// The server's own.
    pub server: u64,
    /// The client's own.
    pub client: u64,
    /// That of the relay before the server.
    pub server_relay: u64,
    /// That of the relay before the client.
    pub client_relay: u64,
}

/// What the gate said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Taken; this is what is left of the grant.
    Taken {
        /// Granted and not taken.
        left: u32,
    },
    /// Beyond the grant, or closed.
    Beyond,
}

/// What becomes of a message (or chunk) at the gate of its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Goes on, and is paid for now; this is what is left of the grant.
    Taken {
        /// Granted and not taken.
        left: u32,
    },
    /// Goes on: it was paid for before.
    Before,
    /// Must not go on: beyond the grant, or the gate is closed.
    Beyond,
    /// Must not go on: there is no room to note that it is paid for.
    Full,
}

impl Slot {
    /// The session in it. Half a key is none: the slot is being freed, or opened.
    pub fn session(&self) -> Option<SessionKey> {
        let key = SessionKey(self.key[0].load(Ordering::Acquire), self.key[1].load(Ordering::Acquire));
        (key.0 != 0 && key.1 != 0).then_some(key)
    }

    /// Which side invites.
    pub fn direction(&self) -> Direction {
        if self.traits.load(Ordering::Relaxed) & 1 == 1 { Direction::Push } else { Direction::Pull }
    }

    /// What the tariff counts.
    pub fn per(&self) -> Per {
        if self.traits.load(Ordering::Relaxed) & 2 == 2 { Per::Kilobyte } else { Per::Message }
    }

    /// Whether both tags, in either order, are those of the dialog.
    pub fn has_tags(&self, one: u64, other: u64) -> bool {
        let inviting = self.inviting_tag.load(Ordering::Acquire);
        let answering = self.answering_tag.load(Ordering::Acquire);
        (inviting == one && answering == other) || (inviting == other && answering == one)
    }

    /// Whether one of the tags is the inviting side's and there is no 2xx yet: an early dialog.
    pub fn has_early_tag(&self, one: u64, other: u64) -> bool {
        let inviting = self.inviting_tag.load(Ordering::Acquire);
        let unanswered = self.answering_tag.load(Ordering::Acquire) == 0;
        unanswered && (inviting == one || inviting == other)
    }

    /// Whether the tag is the inviting side's.
    pub fn is_inviting_tag(&self, tag: u64) -> bool {
        self.inviting_tag.load(Ordering::Acquire) == tag
    }

    /// Remembers the answering side's tag.
    pub fn set_answering_tag(&self, tag: u64) {
        self.answering_tag.store(tag, Ordering::Release);
    }

    /// What MSRP session ids it is bound to.
    pub fn binding(&self) -> Binding {
        let [server, client, server_relay, client_relay] = [0, 1, 2, 3].map(|i| self.paths[i].load(Ordering::Acquire));
        Binding { server, client, server_relay, client_relay }
    }

    fn set_binding(&self, to: Binding) {
        for (place, hash) in self.paths.iter().zip([to.server, to.client, to.server_relay, to.client_relay]) {
            place.store(hash, Ordering::Release);
        }
    }

    /// Takes `amount` from the grant, wholly or not at all.
    pub fn take(&self, amount: u32) -> Gate {
        let mut word = self.grant.load(Ordering::Acquire);
        loop {
            let (granted, taken) = split(word);
            let left = granted.saturating_sub(taken);
            if word & CLOSED != 0 || left < amount {
                return Gate::Beyond;
            }
            match self.grant.compare_exchange_weak(word, word + u64::from(amount), Ordering::AcqRel, Ordering::Acquire)
            {
                Ok(_) => return Gate::Taken { left: left - amount },
                Err(now) => word = now,
            }
        }
    }

    /// Gives back what [`Slot::take`] took: the frame did not go on.
    pub fn put_back(&self, amount: u32) {
        self.grant.fetch_sub(u64::from(amount), Ordering::AcqRel);
    }

    /// Notes a message in the slot. Places are filled in their order and never emptied while the session lives, so of
    /// two workers that note the same, the later one meets the other's note. `None`: all places are taken.
    fn note(&self, hash: u64) -> Option<Inserted> {
        let note = Self::note_of(hash);
        self.notes.iter().enumerate().find_map(|(at, place)| {
            match place.compare_exchange(0, note, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => Some(Inserted::At(at)),
                Err(found) => (found == note).then_some(Inserted::Before),
            }
        })
    }

    /// Whether a message is noted in the slot; `None`: it is not, and all places are taken.
    fn has_note(&self, hash: u64) -> Option<bool> {
        let note = Self::note_of(hash);
        let first = self.notes.iter().map(|place| place.load(Ordering::Acquire)).find(|at| [0, note].contains(at));
        first.map(|found| found == note)
    }

    fn forget_notes(&self) {
        self.notes.iter().for_each(|place| place.store(0, Ordering::Release));
    }

    fn note_of(hash: u64) -> u32 {
        ((hash >> 32) as u32).max(1)
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

    /// Granted and taken.
    pub fn counters(&self) -> (u32, u32) {
        split(self.grant.load(Ordering::Acquire))
    }
}

/// Granted and taken of a grant word.
fn split(word: u64) -> (u32, u32) {
    (((word & !CLOSED) >> 32) as u32, word as u32)
}

/// What a slot is opened with.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// The session.
    pub session: SessionKey,
    /// Hash of its Call-ID.
    pub call: u64,
    /// Hash of the inviting side's tag.
    pub inviting_tag: u64,
    /// Who has the messages.
    pub direction: Direction,
    /// What the tariff counts.
    pub per: Per,
}

/// Entries of an index that a hash can stand in: four cache lines.
const WINDOW: usize = bound(32, 2);

/// A set of (hash, slot) pairs in shared memory. An entry is 40 bits of the hash and the slot's number plus one.
/// There is no order and no chain: a look-up reads its whole window, so that removing leaves no gap behind.
pub struct Index<'a> {
    entries: &'a [AtomicU64],
}

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// It stands here now.
    At(usize),
    /// It stood here before.
    Before,
    /// The window is full.
    Full,
}

impl<'a> Index<'a> {
    /// Over this memory; the length is a power of two of at least one window.
    pub fn over(entries: &'a [AtomicU64]) -> Index<'a> {
        assert!(entries.len().is_power_of_two() && entries.len() >= WINDOW, "an index has one window at least");
        Index { entries }
    }

    /// Entries for `count` pairs, so that a window practically never fills.
    pub fn size_for(count: usize) -> usize {
        (count * 2).next_power_of_two().max(WINDOW)
    }

    fn window(&self, hash: u64) -> &[AtomicU64] {
        let windows = self.entries.len() / WINDOW;
        let at = (hash as usize & (windows - 1)) * WINDOW;
        &self.entries[at..at + WINDOW]
    }

    fn entry(hash: u64, slot: u32) -> u64 {
        (hash & !0xff_ffff) | u64::from(slot + 1)
    }

    /// The slots that this hash leads to.
    pub fn find(&self, hash: u64) -> impl Iterator<Item = u32> {
        self.window(hash).iter().filter_map(move |place| {
            let entry = place.load(Ordering::Acquire);
            let slot = (entry & 0xff_ffff) as u32;
            (slot != 0 && entry ^ (hash & !0xff_ffff) == u64::from(slot)).then(|| slot - 1)
        })
    }

    /// Inserts a pair, once: of two workers that insert the same at a time, one gets [`Inserted::At`], unless another
    /// removes what stands in front of both (see [`Table::note_message`]).
    pub fn insert(&self, hash: u64, slot: u32) -> Inserted {
        let entry = Self::entry(hash, slot);
        let window = self.window(hash);
        let before = |end: usize| window[..end].iter().any(|place| place.load(Ordering::SeqCst) == entry);
        if before(WINDOW) {
            return Inserted::Before;
        }
        for (at, place) in window.iter().enumerate() {
            if place.compare_exchange(0, entry, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                // Both look again after writing: the one further behind finds the other and steps back.
                if before(at) {
                    place.store(0, Ordering::SeqCst);
                    return Inserted::Before;
                }
                let base = place as *const AtomicU64 as usize - self.entries.as_ptr() as usize;
                return Inserted::At(base / size_of::<AtomicU64>());
            }
        }
        Inserted::Full
    }

    /// Entries that stand in it.
    pub fn used(&self) -> usize {
        self.entries.iter().filter(|entry| entry.load(Ordering::Relaxed) != 0).count()
    }

    /// Removes a pair, wherever it is.
    pub fn remove(&self, hash: u64, slot: u32) {
        let entry = Self::entry(hash, slot);
        for place in self.window(hash).iter().filter(|place| place.load(Ordering::Acquire) == entry) {
            let _ = place.compare_exchange(entry, 0, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// Empties one place.
    fn clear(&self, at: usize) {
        if let Some(place) = self.entries.get(at) {
            place.store(0, Ordering::Release);
        }
    }
}

/// The table: slots and their indexes, over shared memory.
pub struct Table<'a> {
    /// All slots.
    pub slots: &'a [Slot],
    /// By hash of the Call-ID.
    pub calls: Index<'a>,
    /// By hash of an MSRP session id.
    pub paths: Index<'a>,
    /// By hash of (slot, message), for messages beyond a session's first [`NOTES`].
    pub messages: Index<'a>,
    /// For each place of `messages`, the next one of the same slot, counted from 1.
    pub next_message: &'a [AtomicU32],
}

impl Table<'_> {
    /// The slot of a session, by the hash of its Call-ID.
    pub fn slot_of(&self, call: u64, fits: impl Fn(&Slot) -> bool) -> Option<u32> {
        self.calls.find(call).find(|&at| {
            self.slots
                .get(at as usize)
                .is_some_and(|slot| slot.session().is_some() && slot.call.load(Ordering::Acquire) == call && fits(slot))
        })
    }

    /// Engine: opens a free slot. `false`: the index has no room for it.
    pub fn open(&self, at: u32, opening: &Opening) -> bool {
        let Some(slot) = self.slots.get(at as usize) else { return false };
        slot.call.store(opening.call, Ordering::Relaxed);
        slot.inviting_tag.store(opening.inviting_tag, Ordering::Relaxed);
        slot.answering_tag.store(0, Ordering::Relaxed);
        slot.grant.store(0, Ordering::Relaxed);
        slot.messages.store(0, Ordering::Relaxed);
        slot.forget_notes();
        slot.set_binding(Binding::default());
        let push = u32::from(opening.direction == Direction::Push);
        let kilobyte = u32::from(opening.per == Per::Kilobyte) << 1;
        slot.traits.store(push | kilobyte, Ordering::Relaxed);
        slot.key[0].store(opening.session.0, Ordering::Release);
        slot.key[1].store(opening.session.1, Ordering::Release);
        if self.calls.insert(opening.call, at) == Inserted::Full {
            self.free(at);
            return false;
        }
        true
    }

    /// Engine: frees a slot and everything that leads to it.
    pub fn free(&self, at: u32) {
        let Some(slot) = self.slots.get(at as usize) else { return };
        slot.key[0].store(0, Ordering::Release);
        slot.key[1].store(0, Ordering::Release);
        self.calls.remove(slot.call.load(Ordering::Acquire), at);
        for place in &slot.paths {
            let hash = place.swap(0, Ordering::AcqRel);
            if hash != 0 {
                self.paths.remove(hash, at);
            }
        }
        slot.forget_notes();
        let mut place = slot.messages.swap(0, Ordering::AcqRel) as usize;
        // A chain cannot be longer than the index.
        for _ in 0..self.next_message.len() {
            let Some(next) = place.checked_sub(1).and_then(|at| self.next_message.get(at)) else { break };
            self.messages.clear(place - 1);
            place = next.swap(0, Ordering::AcqRel) as usize;
        }
    }

    /// Worker: binds a session's MSRP session ids, in place of those it had. `false`: no room in the index.
    pub fn bind(&self, at: u32, to: Binding) -> bool {
        let Some(slot) = self.slots.get(at as usize) else { return false };
        let hashes = |b: Binding| [b.server, b.client, b.server_relay, b.client_relay];
        let before = slot.binding();
        // First the new ones, so that no frame finds the session unbound.
        let room = [to.server, to.client].map(|hash| hash == 0 || self.paths.insert(hash, at) != Inserted::Full);
        // A relay that gives all its clients the same id tells nothing of the session, and would fill a window.
        for relay in [to.server_relay, to.client_relay].into_iter().filter(|hash| *hash != 0) {
            if self.paths.find(relay).all(|slot| slot == at) {
                self.paths.insert(relay, at);
            }
        }
        slot.set_binding(to);
        for gone in hashes(before).into_iter().filter(|hash| *hash != 0 && !hashes(to).contains(hash)) {
            self.paths.remove(gone, at);
        }
        room == [true; 2]
    }

    /// The bound session that an MSRP session id leads to. The session is looked at before the ids: a slot that is used
    /// again meanwhile has lost them by the time that the next session stands in it.
    pub fn bound(&self, path: u64) -> Option<Bound> {
        self.paths.find(path).find_map(|at| {
            let slot = self.slots.get(at as usize)?;
            let session = slot.session()?;
            let binding = slot.binding();
            let side = match path {
                _ if path == binding.server || path == binding.server_relay => Side::Server,
                _ if path == binding.client || path == binding.client_relay => Side::Client,
                _ => return None,
            };
            Some(Bound { at, session, side })
        })
    }

    /// Worker: takes a message (or chunk) of the session from its grant, unless it is paid for already. Of two workers
    /// that see the same message at a time one pays and the other passes, or meets the grant's end: never do both pay.
    pub fn pass(&self, at: u32, session: SessionKey, hash: u64, amount: u32) -> Pass {
        if self.is_noted(at, hash) {
            return Pass::Before;
        }
        let Some(slot) = self.slots.get(at as usize) else { return Pass::Beyond };
        let Gate::Taken { left } = slot.take(amount) else { return Pass::Beyond };
        // The grant of the next session comes after its key, so who has taken from it sees the key too.
        if slot.session() != Some(session) {
            slot.put_back(amount);
            return Pass::Beyond;
        }
        let noted = self.note_message(at, hash);
        if !matches!(noted, Inserted::At(_)) {
            slot.put_back(amount);
        }
        match noted {
            Inserted::At(_) => Pass::Taken { left },
            Inserted::Before => Pass::Before,
            Inserted::Full => Pass::Full,
        }
    }

    /// Worker: notes that a message (or chunk) of the session is paid for. `hash` covers slot and message.
    ///
    /// Two workers that note the same message can both find a place in the index, when one in front of the other's
    /// is given back by another session meanwhile. Who comes first into the chain of the slot has it.
    pub fn note_message(&self, at: u32, hash: u64) -> Inserted {
        let Some(slot) = self.slots.get(at as usize) else { return Inserted::Full };
        if let Some(noted) = slot.note(hash) {
            return noted;
        }
        // What is in the chain by now, the look through the index finds.
        let mut first = slot.messages.load(Ordering::Acquire);
        let inserted = self.messages.insert(hash, at);
        let Inserted::At(place) = inserted else { return inserted };
        loop {
            self.next_message[place].store(first, Ordering::Release);
            match slot.messages.compare_exchange_weak(first, place as u32 + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return inserted,
                Err(now) if self.is_chained(now, first, Index::entry(hash, at)) => {
                    self.messages.clear(place);
                    return Inserted::Before;
                }
                Err(now) => first = now,
            }
        }
    }

    /// Whether an entry of the message index stands in a chain from this place on, before another one.
    fn is_chained(&self, from: u32, end: u32, entry: u64) -> bool {
        let (entries, nexts) = (self.messages.entries, self.next_message);
        let following =
            |place: &u32| nexts.get((*place as usize).checked_sub(1)?).map(|next| next.load(Ordering::Acquire));
        let chain = std::iter::successors(Some(from), following).take_while(|place| *place != end && *place != 0);
        let stands = |place: u32| entries.get(place as usize - 1).map(|entry| entry.load(Ordering::Acquire));
        chain.take(nexts.len()).any(|place| stands(place) == Some(entry))
    }

    /// Worker: whether the message is paid for already.
    pub fn is_noted(&self, at: u32, hash: u64) -> bool {
        let in_slot = self.slots.get(at as usize).and_then(|slot| slot.has_note(hash));
        in_slot.unwrap_or_else(|| self.is_indexed(at, hash))
    }

    fn is_indexed(&self, at: u32, hash: u64) -> bool {
        self.messages.find(hash).any(|slot| slot == at)
    }
}

#[cfg(test)]
mod tests;
