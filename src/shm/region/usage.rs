//! How much of a region is in use: what a proxy that has nothing to do must not keep.

use super::{Lane, OrphanedRegion};
use std::path::Path;

/// What of a region is in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Octets in all rings and queues that nobody has freed yet.
    pub ring_octets: usize,
    /// Slots of the gate that have a session.
    pub slots: usize,
    /// Names, messages and streams in the gate.
    pub entries: usize,
}

impl Usage {
    /// Of the region in this file, while its host runs; `None`: it is not one of this user and boot.
    pub fn of(path: &Path) -> Option<Usage> {
        let map = OrphanedRegion::open(path)?.map;
        let rings = (0..map.layout.sizes.processes).map(|number| map.ring(number).used());
        let queues = Lane::ALL.map(|lane| map.queue(lane).used() * size_of::<u64>());
        let table = map.table();
        Some(Usage {
            ring_octets: rings.chain(queues).sum(),
            slots: table.slots.iter().filter(|slot| slot.session().is_some()).count(),
            entries: table.names.index.used() + table.messages.index.used() + table.streams_used(),
        })
    }
}
