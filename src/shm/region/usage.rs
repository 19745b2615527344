//! How much of a region is in use: an idle proxy must release everything.

use super::{Lane, OrphanedRegion};
use std::path::Path;

/// Parts of a region that are in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Octets in all rings and queues that are not freed yet.
    pub ring_octets: usize,
    /// Slots of the gate that have a session.
    pub slots: usize,
    /// Names, messages and streams in the gate.
    pub entries: usize,
}

impl Usage {
    /// Usage of the region in this file, while its host runs; `None` if it is not a region of this user and boot.
    pub fn of(path: &Path) -> Option<Usage> {
        let map = OrphanedRegion::open(path)?.map;
        let rings = (0..map.layout.sizes.processes).map(|process| map.ring_ends(process).used());
        let queues = Lane::ALL.map(|lane| map.queue(lane).used() * size_of::<u64>());
        let table = map.table();
        Some(Usage {
            ring_octets: rings.chain(queues).sum(),
            slots: table.slots.iter().filter(|slot| slot.session().is_some()).count(),
            entries: table.names.index.used() + table.messages.index.used() + table.streams_used(),
        })
    }
}
