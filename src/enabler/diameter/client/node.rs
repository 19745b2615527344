//! The local Diameter node: its identity, and the identifiers of its requests.

use super::config::Config;
use crate::charge::time::Time;
use crate::simulate;
use crate::wire::diameter::{EndToEnd, HopByHop};
use std::cell::Cell;
use std::hash::{BuildHasher, RandomState};

/// The local node, shared by all connections.
#[derive(Debug)]
pub struct LocalNode {
    /// DiameterIdentity.
    pub origin_host: String,
    /// Realm.
    pub origin_realm: String,
    /// Increases with each start that has lost all sessions (RFC 6733, 8.16).
    pub origin_state_id: u32,
    /// Whether the application is also advertised as one of 3GPP.
    pub vendor_specific_application: bool,
    next_hop_by_hop: Cell<u32>,
    next_end_to_end: Cell<u32>,
    random: Cell<u64>,
}

impl LocalNode {
    /// Creates the node. Identifiers start at a different value each time.
    pub fn new(config: &Config, origin_state_id: u32, now: Time) -> LocalNode {
        let seed = simulate::random().unwrap_or_else(|| RandomState::new().hash_one(now.0));
        let node = LocalNode {
            origin_host: config.origin_host.clone(),
            origin_realm: config.origin_realm.clone(),
            origin_state_id,
            vendor_specific_application: config.vendor_specific_application,
            next_hop_by_hop: Cell::new(0),
            next_end_to_end: Cell::new(0),
            random: Cell::new(seed),
        };
        node.next_hop_by_hop.set(node.random() as u32);
        // High 12 bits from the time, the others random (RFC 6733, 3): counting up from here, no identifier of an
        // earlier start is reused within the 4 minutes that the RFC requires.
        let seconds = (now.0 / 1_000_000) as u32;
        node.next_end_to_end.set(seconds << 20 | node.random() as u32 >> 12);
        node
    }

    /// Returns the next Hop-by-Hop Identifier. They repeat after 2^32 requests.
    pub fn hop_by_hop(&self) -> HopByHop {
        HopByHop(advance(&self.next_hop_by_hop))
    }

    /// Returns the next End-to-End Identifier. Resends keep theirs.
    pub fn end_to_end(&self) -> EndToEnd {
        EndToEnd(advance(&self.next_end_to_end))
    }

    /// Returns a random number from 0 to `most`. Not for secrets.
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

/// Counts up, skipping 0, which means "not assigned".
fn advance(number: &Cell<u32>) -> u32 {
    let next = number.get().wrapping_add(1).max(1);
    number.set(next);
    next
}
