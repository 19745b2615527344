//! Indexes in shared memory: sets of (hash, slot) pairs.

use crate::shm::sync::{AtomicU32, AtomicU64, Ordering, bound};

/// Number of entries where a hash can be: four cache lines.
const WINDOW: usize = bound(32, 2);

/// Maximum number of slots with the same hash: a name that many sessions describe must not fill the window of others.
pub(crate) const SAME_MAX: usize = bound(16, 2);

/// A set of (hash, slot) pairs in shared memory. An entry is 40 bits of the hash and the slot's number plus one. Entries
/// have no order: a look-up reads its whole window, so that removing one leaves no gap.
#[derive(Clone, Copy)]
pub struct Index<'a> {
    entries: &'a [AtomicU64],
}

/// Result of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inserted {
    /// Inserted at this place.
    At(usize),
    /// It was at this place already.
    Before(usize),
    /// The window is full, or the session's share is used up.
    Full,
}

impl<'a> Index<'a> {
    /// An index over this memory; the length is a power of two of at least one window.
    pub fn over(entries: &'a [AtomicU64]) -> Index<'a> {
        assert!(entries.len().is_power_of_two() && entries.len() >= WINDOW, "an index has one window at least");
        Index { entries }
    }

    /// Number of entries for `count` pairs, so that a window practically never fills up.
    pub fn size_for(count: usize) -> usize {
        (count * 2).next_power_of_two().max(WINDOW)
    }

    /// Number of the first entry of a hash's window.
    fn start(&self, hash: u64) -> usize {
        (hash as usize & (self.entries.len() / WINDOW - 1)) * WINDOW
    }

    fn window(&self, hash: u64) -> &'a [AtomicU64] {
        let start = self.start(hash);
        &self.entries[start..start + WINDOW]
    }

    fn entry(hash: u64, slot: u32) -> u64 {
        (hash & !0xff_ffff) | u64::from(slot + 1)
    }

    /// Returns the slots with this hash.
    pub fn find(&self, hash: u64) -> impl Iterator<Item = u32> + use<'a> {
        self.window(hash).iter().filter_map(move |place| {
            let entry = place.load(Ordering::Acquire);
            let slot = (entry & 0xff_ffff) as u32;
            (slot != 0 && entry ^ (hash & !0xff_ffff) == u64::from(slot)).then(|| slot - 1)
        })
    }

    /// Returns the place of a pair.
    pub fn place_of(&self, hash: u64, slot: u32) -> Option<usize> {
        let entry = Self::entry(hash, slot);
        let at = self.window(hash).iter().position(|place| place.load(Ordering::SeqCst) == entry)?;
        Some(self.start(hash) + at)
    }

    /// Inserts a pair once: of two workers that insert the same pair at the same time, one gets [`Inserted::At`], unless
    /// an entry before both is removed at that time (see [`Chained::add`]).
    pub fn insert(&self, hash: u64, slot: u32) -> Inserted {
        let entry = Self::entry(hash, slot);
        let (window, start) = (self.window(hash), self.start(hash));
        let before = |end: usize| window[..end].iter().position(|place| place.load(Ordering::SeqCst) == entry);
        if let Some(at) = before(WINDOW) {
            return Inserted::Before(start + at);
        }
        for (at, place) in window.iter().enumerate() {
            if place.compare_exchange(0, entry, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                // Both look again after writing: the one later in the window finds the other and withdraws.
                if let Some(first) = before(at) {
                    place.store(0, Ordering::SeqCst);
                    return Inserted::Before(start + first);
                }
                return Inserted::At(start + at);
            }
        }
        Inserted::Full
    }

    /// Inserts a pair, replacing an older one if its window is full. For pairs that are only a hint and need not be
    /// removed.
    pub fn put_over(&self, hash: u64, slot: u32) {
        if self.insert(hash, slot) == Inserted::Full {
            let window = self.window(hash);
            window[(hash >> 40) as usize % window.len()].store(Self::entry(hash, slot), Ordering::Release);
        }
    }

    /// Whether the maximum number of slots has this hash.
    pub(crate) fn is_crowded(&self, hash: u64) -> bool {
        self.find(hash).nth(SAME_MAX - 1).is_some()
    }

    /// Number of entries in use.
    pub fn used(&self) -> usize {
        self.entries.iter().filter(|entry| entry.load(Ordering::Relaxed) != 0).count()
    }

    /// Number of entries that it has room for.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no room at all.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

/// An index whose entries are chained for each slot, so that they are found when the slot is freed.
#[derive(Clone, Copy)]
pub struct Chained<'a> {
    /// The entries.
    pub index: Index<'a>,
    /// For each entry, the next entry of the same slot, counted from 1; 0: none.
    pub next: &'a [AtomicU32],
}

/// The entries of a slot in a [`Chained`] index.
#[repr(C)]
#[derive(Default)]
pub struct Chain {
    /// First entry, counted from 1; 0: none.
    first: AtomicU32,
    /// Number of entries, including those being added.
    count: AtomicU32,
}

impl Chained<'_> {
    /// Adds a pair to the index and to the slot's chain, of at most `share` entries.
    ///
    /// Two workers that add the same pair may both insert it, if another session removes an entry before theirs at that
    /// time. The first one in the slot's chain keeps its entry.
    pub fn add(&self, chain: &Chain, at: u32, hash: u64, share: u32) -> Inserted {
        if let Some(place) = self.index.place_of(hash, at) {
            return Inserted::Before(place);
        }
        if chain.count.load(Ordering::Relaxed) >= share {
            return Inserted::Full;
        }
        // Entries that are in the chain by now are found in the index.
        let mut first = chain.first.load(Ordering::Acquire);
        let inserted = self.index.insert(hash, at);
        let Inserted::At(place) = inserted else { return inserted };
        loop {
            self.next[place].store(first, Ordering::Release);
            match chain.first.compare_exchange_weak(first, place as u32 + 1, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    chain.count.fetch_add(1, Ordering::Relaxed);
                    return inserted;
                }
                Err(now) => match self.in_chain(now, first, Index::entry(hash, at)) {
                    Some(other) => {
                        self.index.entries[place].store(0, Ordering::Release);
                        return Inserted::Before(other);
                    }
                    None => first = now,
                },
            }
        }
    }

    /// Returns the place of an entry in the part of a chain from `from` up to `end`.
    fn in_chain(&self, from: u32, end: u32, entry: u64) -> Option<usize> {
        let following =
            |place: &u32| self.next.get((*place as usize).checked_sub(1)?).map(|next| next.load(Ordering::Acquire));
        let chain = std::iter::successors(Some(from), following).take_while(|place| *place != end && *place != 0);
        let places = chain.take(self.next.len()).map(|place| place as usize - 1);
        places
            .into_iter()
            .find(|&place| self.index.entries.get(place).is_some_and(|found| found.load(Ordering::Acquire) == entry))
    }

    /// Engine: removes all entries of a slot; calls `empty` with the place of each before another slot can use it.
    pub fn clear(&self, chain: &Chain, empty: impl Fn(usize)) {
        let mut place = chain.first.swap(0, Ordering::AcqRel) as usize;
        // A chain cannot be longer than the index.
        for _ in 0..self.next.len() {
            let Some(next) = place.checked_sub(1).and_then(|at| self.next.get(at)) else { break };
            // Read the next place first: a free entry may be chained by another slot.
            let following = next.swap(0, Ordering::AcqRel) as usize;
            empty(place - 1);
            self.index.entries[place - 1].store(0, Ordering::Release);
            place = following;
        }
        chain.count.store(0, Ordering::Relaxed);
    }
}
