//! Random numbers for delays and identifiers.

use crate::charge::time::Time;
use crate::simulate;
use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// A random number generator (SplitMix64). Not for secrets.
#[derive(Debug)]
pub struct Jitter {
    state: Cell<u64>,
}

impl Jitter {
    /// Creates a generator with a random seed, or that of the simulation.
    pub fn new(now: Time) -> Jitter {
        let seed = simulate::random().unwrap_or_else(|| RandomState::new().hash_one(now.0));
        Jitter { state: Cell::new(seed) }
    }

    /// Returns 64 random bits.
    pub fn bits(&self) -> u64 {
        let state = self.state.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.state.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// Returns a random number from 0 to `most`.
    pub fn up_to(&self, most: u64) -> u64 {
        self.bits() % most.saturating_add(1)
    }
}
