//! The local Diameter node: its identity, and the identifiers of its requests.

use super::config::Config;
use crate::charge::time::Time;
use crate::enabler::net::jitter::Jitter;
use crate::wire::diameter::{EndToEnd, HopByHop};
use std::cell::Cell;

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
    jitter: Jitter,
}

impl LocalNode {
    /// Creates the node. Identifiers start at a different value each time.
    pub fn new(config: &Config, origin_state_id: u32, now: Time) -> LocalNode {
        let node = LocalNode {
            origin_host: config.origin_host.clone(),
            origin_realm: config.origin_realm.clone(),
            origin_state_id,
            vendor_specific_application: config.vendor_specific_application,
            next_hop_by_hop: Cell::new(0),
            next_end_to_end: Cell::new(0),
            jitter: Jitter::new(now),
        };
        node.next_hop_by_hop.set(node.jitter.bits() as u32);
        // High 12 bits from the time, the others random (RFC 6733, 3): counting up from here, no identifier of an
        // earlier start is reused within the 4 minutes that the RFC requires.
        let seconds = (now.0 / 1_000_000) as u32;
        node.next_end_to_end.set(seconds << 20 | node.jitter.bits() as u32 >> 12);
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

    /// Returns the generator of random numbers.
    pub fn jitter(&self) -> &Jitter {
        &self.jitter
    }
}

/// Counts up, skipping 0, which means "not assigned".
fn advance(number: &Cell<u32>) -> u32 {
    let next = number.get().wrapping_add(1).max(1);
    number.set(next);
    next
}
