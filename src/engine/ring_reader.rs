//! Reads the event rings of a run of the host.

use super::store::change::Marks;
use crate::charge::time::Time;
use crate::shm::record::Record;
use crate::shm::region::EventConsumer;

/// Event rings and the positions up to which they are read. A position becomes durable with the commit of the tick that
/// has read up to it; only then is the ring freed.
pub struct RingReader {
    /// Run of the host.
    pub instance: u64,
    /// The rings, one per process.
    pub rings: Vec<EventConsumer>,
    /// Positions of the next records.
    pub positions: Vec<u64>,
}

impl RingReader {
    /// Continues from the marks of the last commit; a ring that is freed further holds nothing older.
    pub fn new(instance: u64, rings: Vec<EventConsumer>, marks: &Marks) -> RingReader {
        let committed = marks.events.iter().copied().chain(std::iter::repeat(0));
        let positions = rings.iter().zip(committed).map(|(ring, mark)| ring.tail().max(mark)).collect();
        let mut reader = RingReader { instance, rings, positions };
        // An engine that died after its commit has not freed what it had read.
        reader.free();
        reader
    }

    /// Whether any ring has a record at or after its position.
    pub fn has_unread(&self) -> bool {
        self.rings.iter().zip(&self.positions).any(|(ring, position)| ring.head() > *position)
    }

    /// Frees the rings up to the current positions.
    pub fn free(&mut self) {
        for (ring, position) in self.rings.iter_mut().zip(&self.positions) {
            ring.free(*position);
        }
    }
}

/// Returns the next records of all rings, about `most`, ordered by their times.
pub fn gather<'a>(rings: &'a [EventConsumer], positions: &mut [u64], most: usize) -> Vec<Record<'a>> {
    let waiting = rings.iter().zip(&*positions).filter(|(ring, at)| ring.head() > **at).count();
    let share = most.div_ceil(waiting.max(1));
    let mut records = Vec::new();
    for (ring, position) in rings.iter().zip(positions) {
        for _ in 0..share {
            let Some((bytes, next)) = ring.read_at(*position) else { break };
            *position = next;
            match postcard::from_bytes(bytes) {
                Ok(record) => records.push(record),
                Err(_) => log::error!("a record of an event ring cannot be decoded; skipped"),
            }
        }
    }
    records.sort_by_key(Record::at);
    records
}

/// Returns the time up to which all published events have been read: that of the oldest one left in a ring, `now` at most.
pub fn read_until(rings: &[EventConsumer], positions: &[u64], now: Time) -> Time {
    let next = |(ring, position): (&EventConsumer, &u64)| {
        let (bytes, _) = ring.read_at(*position)?;
        postcard::from_bytes(bytes).ok().map(|record: Record<'_>| record.at())
    };
    rings.iter().zip(positions).filter_map(next).fold(now, Time::min)
}
