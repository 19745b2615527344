//! This end: its name, and the numbers it gives to its requests.

use super::config::Config;
use crate::charge::time::Time;
use crate::simulate;
use crate::wire::diameter::{EndToEnd, HopByHop};
use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// What all connections share.
#[derive(Debug)]
pub struct LocalNode {
    /// Our DiameterIdentity.
    pub origin_host: String,
    /// And its realm.
    pub origin_realm: String,
    /// Rises with each start that loses its state.
    pub origin_state_id: u32,
    /// Whether credit control is offered as an application of 3GPP as well.
    pub vendor_specific_application: bool,
    next_hop_by_hop: Cell<u32>,
    next_end_to_end: Cell<u32>,
    random: Cell<u64>,
}

impl LocalNode {
    /// With numbers that begin somewhere else at each start.
    pub fn new(config: &Config, origin_state_id: u32, now: Time) -> LocalNode {
        let seed = simulate::random().unwrap_or_else(|| RandomState::new().hash_one(now.0));
        let local = LocalNode {
            origin_host: config.origin_host.clone(),
            origin_realm: config.origin_realm.clone(),
            origin_state_id,
            vendor_specific_application: config.vendor_specific_application,
            next_hop_by_hop: Cell::new(0),
            next_end_to_end: Cell::new(0),
            random: Cell::new(seed),
        };
        local.next_hop_by_hop.set(local.random() as u32);
        // High 12 bits from the time, the others by chance (RFC 6733, 3): counting on from here, no earlier start's
        // number comes again within the 4 minutes asked for.
        let seconds = (now.0 / 1_000_000) as u32;
        local.next_end_to_end.set(seconds << 20 | local.random() as u32 >> 12);
        local
    }

    /// One that no request of the last 4 billion had.
    pub fn hop_by_hop(&self) -> HopByHop {
        HopByHop(advance(&self.next_hop_by_hop))
    }

    /// The same; a resend keeps it.
    pub fn end_to_end(&self) -> EndToEnd {
        EndToEnd(advance(&self.next_end_to_end))
    }

    /// A number from 0 to `most`, for jitter; no secret.
    pub fn jitter(&self, most: u64) -> u64 {
        self.random() % most.saturating_add(1)
    }

    /// SplitMix64.
    fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }
}

/// Counts on, past 0: that stands for a number not given yet.
fn advance(number: &Cell<u32>) -> u32 {
    let next = number.get().wrapping_add(1).max(1);
    number.set(next);
    next
}
