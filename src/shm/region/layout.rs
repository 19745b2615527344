//! Layout of the region file: where each part lies.

use super::header::Header;
use super::{Lane, ReaderWaker, ReplySlot};
use crate::shm::gate::{Index, OWN_RECORDS, Slot, StreamRecord};
use crate::shm::latency::{Histogram, Latency};
use crate::shm::ring::Ends;
use crate::shm::script_runs::Run;
use crate::shm::statistic::Statistic;
use crate::shm::sync::{AtomicU32, AtomicU64};
use crate::simulate;

/// Octets of one event ring.
pub const RING_OCTETS: usize = simulate::sized(512 * 1024, 32 * 1024);

/// Words of the verdict queue: room for ten thousand verdicts. New INVITEs are refused while it is more than half full.
pub const VERDICT_WORDS: usize = simulate::sized(256 * 1024, 4 * 1024);

/// Words of the queue of events for the event routes.
pub const EVENT_WORDS: usize = simulate::sized(64 * 1024, 4 * 1024);

/// Minimum number of stream records in the common pool.
const STREAMS_POOL_MIN: usize = simulate::sized(4096, 64);

/// Minimum number of messages in the index, so that the share of one session is not small where there are few sessions.
const MESSAGES_MIN: usize = simulate::sized(8192, 64);

/// Parts begin at multiples of a page, octets.
const PAGE: usize = 4096;

/// Numbers that the host and the configuration decide.
#[derive(Clone, Copy, Default)]
pub struct Sizes {
    /// Processes with an event ring.
    pub processes: usize,
    pub resume_workers: usize,
    pub event_workers: usize,
    /// Slots of the gate.
    pub slots: usize,
}

impl Sizes {
    /// Resume workers and event workers.
    pub fn readers(&self) -> usize {
        self.resume_workers + self.event_workers
    }
}

/// Offsets of the parts, octets from the start of the file. Computed from the sizes alone.
#[derive(Clone, Copy)]
pub struct Layout {
    pub sizes: Sizes,
    pub counters: usize,
    pub latencies: usize,
    pub replies: usize,
    pub reader_wakers: usize,
    pub runs: usize,
    pub ends: usize,
    pub rings: usize,
    pub verdicts: usize,
    pub events: usize,
    pub slots: usize,
    /// Number and offset of the stream records.
    pub streams: (usize, usize),
    /// Number of entries and offset of the indexes, and the chains of the first two.
    pub names: (usize, usize),
    pub next_name: usize,
    pub messages: (usize, usize),
    pub next_message: usize,
    pub passed: usize,
    pub transactions: (usize, usize),
    /// Size of the file, octets.
    pub total: usize,
}

/// Octets of `count` values, padded to pages.
pub fn area<T>(count: usize) -> usize {
    (size_of::<T>() * count).next_multiple_of(PAGE)
}

impl Layout {
    pub fn new(sizes: Sizes) -> Layout {
        let Sizes { processes, slots, .. } = sizes;
        let mut end = 0;
        let mut part = |size: usize| {
            end += size;
            end - size
        };
        // A session has its key, a dialog and two endpoints.
        let names = Index::size_for(slots * 4);
        let streams = slots * OWN_RECORDS + (slots / 2).max(STREAMS_POOL_MIN);
        let messages = Index::size_for((slots * 2).max(MESSAGES_MIN));
        let transactions = Index::size_for(slots * 2);
        part(area::<Header>(1));
        Layout {
            sizes,
            counters: part(area::<AtomicU64>(Statistic::ALL.len())),
            latencies: part(area::<Histogram>(Latency::ALL.len())),
            replies: part(area::<ReplySlot>(processes)),
            reader_wakers: part(area::<ReaderWaker>(sizes.readers())),
            runs: part(area::<Run>(sizes.readers() + processes)),
            ends: part(area::<Ends>(processes + Lane::ALL.len())),
            rings: part(processes * RING_OCTETS),
            verdicts: part(area::<AtomicU64>(VERDICT_WORDS)),
            events: part(area::<AtomicU64>(EVENT_WORDS)),
            slots: part(area::<Slot>(slots)),
            streams: (streams, part(area::<StreamRecord>(streams))),
            names: (names, part(area::<AtomicU64>(names))),
            next_name: part(area::<AtomicU32>(names)),
            messages: (messages, part(area::<AtomicU64>(messages))),
            next_message: part(area::<AtomicU32>(messages)),
            passed: part(area::<AtomicU64>(messages)),
            transactions: (transactions, part(area::<AtomicU64>(transactions))),
            total: part(0),
        }
    }
}
