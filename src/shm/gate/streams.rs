//! Streams: the MSRP sessions of a charged session, one for each dialog and each `m=` line of its description.
//!
//! The list of a slot is never changed in place. A worker that binds endpoints writes a new list into free records and
//! publishes it with one exchange. Readers of the old list find that the first record has changed, and read again. Of two
//! workers that bind at the same time, the slower one finds the other's list and starts again from it.

use super::slot::Slot;
use super::{NoRoom, Side, Table, pair_name, receiver_name, sender_name};
use crate::charge::ch2::SessionKey;
use crate::shm::sync::{AtomicU32, AtomicU64, Ordering, bound};

/// Maximum number of streams of a session: 16 offered `m=` lines and 16 bound ones.
pub const STREAMS_MAX: usize = bound(32, 2);

/// Number of records that belong to one slot: the offer of its INVITE and one stream, twice, since a change writes a new
/// list. Further ones come from a common pool.
pub const OWN_RECORDS: usize = bound(4, 2);

/// Bit of the kind of a stream: [`Stream::is_file`].
const FILE: u64 = 1 << 10;

/// Number of records of the pool that are tried to find a free one.
const PROBES: usize = 256;

/// State of the offer/answer exchange of a stream (RFC 3264).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamState {
    /// This side has offered its endpoint; the other side's is still unknown.
    Offered(Side),
    /// Offer and answer are complete: frames between the endpoints belong to the session. If the receiver's description is
    /// unknown, its endpoint is 0, and all frames of the sender's endpoint belong to the session.
    Bound,
}

/// One MSRP session of a charged session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Hash of the answering side's tag; 0: the offer of the INVITE, which belongs to no dialog yet.
    pub leg: u64,
    /// Number of its `m=` line, from 0.
    pub position: u8,
    /// State of its offer/answer exchange.
    pub state: StreamState,
    /// Hash of the URI of the sender's endpoint; 0 while only the receiver has offered.
    pub sender: u64,
    /// Hash of the URI of the receiver's endpoint; 0 while only the sender has offered.
    pub receiver: u64,
    /// Whether the sender's description is about a file (RFC 5547); while it is offered, that of the offering side.
    pub is_file: bool,
}

impl Stream {
    /// Whether frames between its endpoints belong to the session.
    pub fn is_bound(&self) -> bool {
        self.state == StreamState::Bound
    }
}

/// The streams of a session, copied out of shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Streams {
    streams: [Option<Stream>; STREAMS_MAX],
    count: usize,
}

impl Default for Streams {
    fn default() -> Streams {
        Streams { streams: [None; STREAMS_MAX], count: 0 }
    }
}

impl Streams {
    /// Iterates over the streams.
    pub fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.streams.iter().flatten()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a stream; `false` if there is no room.
    pub fn push(&mut self, stream: Stream) -> bool {
        let Some(place) = self.streams.get_mut(self.count) else { return false };
        *place = Some(stream);
        self.count += 1;
        true
    }

    /// Keeps the streams that are `wanted`.
    pub fn retain(&mut self, mut wanted: impl FnMut(&Stream) -> bool) {
        let mut kept = Streams::default();
        self.iter().filter(|stream| wanted(stream)).for_each(|stream| {
            kept.push(*stream);
        });
        *self = kept;
    }
}

/// A stream in shared memory.
#[repr(C)]
#[derive(Default)]
pub struct StreamRecord {
    /// Number of its slot plus one; 0: free.
    owner: AtomicU32,
    /// Next record of the list, counted from 1; 0: none.
    next: AtomicU32,
    leg: AtomicU64,
    sender: AtomicU64,
    receiver: AtomicU64,
    /// Position (8 bits), state (2 bits above) and [`FILE`].
    kind: AtomicU64,
}

impl StreamRecord {
    fn read(&self) -> Stream {
        let kind = self.kind.load(Ordering::Acquire);
        Stream {
            leg: self.leg.load(Ordering::Acquire),
            position: kind as u8,
            state: match (kind >> 8) & 0b11 {
                1 => StreamState::Offered(Side::Sender),
                2 => StreamState::Offered(Side::Receiver),
                _ => StreamState::Bound,
            },
            sender: self.sender.load(Ordering::Acquire),
            receiver: self.receiver.load(Ordering::Acquire),
            is_file: kind & FILE != 0,
        }
    }

    fn write(&self, stream: &Stream, next: u32) {
        let state = match stream.state {
            StreamState::Bound => 0,
            StreamState::Offered(Side::Sender) => 1,
            StreamState::Offered(Side::Receiver) => 2,
        };
        self.leg.store(stream.leg, Ordering::Release);
        self.sender.store(stream.sender, Ordering::Release);
        self.receiver.store(stream.receiver, Ordering::Release);
        let file = if stream.is_file { FILE } else { 0 };
        self.kind.store(u64::from(stream.position) | state << 8 | file, Ordering::Release);
        self.next.store(next, Ordering::Release);
    }
}

impl Table<'_> {
    /// Returns the streams of a slot.
    pub fn streams(&self, at: u32) -> Streams {
        let Some(slot) = self.slots.get(at as usize) else { return Streams::default() };
        loop {
            let list = slot.streams.load(Ordering::Acquire);
            let streams = self.read_list(list);
            // Unchanged, so no record of it was reused in the meantime.
            if slot.streams.load(Ordering::Acquire) == list {
                return streams;
            }
        }
    }

    /// Returns the first bound stream of a slot that fits.
    pub(crate) fn find_stream(&self, at: u32, fits: impl Fn(&Stream) -> bool) -> Option<Stream> {
        let slot = self.slots.get(at as usize)?;
        loop {
            let list = slot.streams.load(Ordering::Acquire);
            let found = self.records(list).map(StreamRecord::read).find(|stream| stream.is_bound() && fits(stream));
            // As in `streams`.
            if slot.streams.load(Ordering::Acquire) == list {
                return found;
            }
        }
    }

    /// The records of a list, at most [`STREAMS_MAX`].
    fn records(&self, list: u64) -> impl Iterator<Item = &StreamRecord> {
        let record = |place: u32| self.streams.get((place as usize).checked_sub(1)?);
        let following = move |found: &&StreamRecord| record(found.next.load(Ordering::Acquire));
        std::iter::successors(record(list as u32), following).take(STREAMS_MAX)
    }

    fn read_list(&self, list: u64) -> Streams {
        let mut streams = Streams::default();
        self.records(list).for_each(|record| {
            streams.push(record.read());
        });
        streams
    }

    /// Worker: applies `change` to the streams of a session; calls it again if another worker has changed them first. The
    /// new endpoints lead to the session from then on; its former ones are still recognised.
    pub fn change_streams(
        &self,
        at: u32,
        session: SessionKey,
        mut change: impl FnMut(&mut Streams),
    ) -> Result<(), NoRoom> {
        let slot = self.slots.get(at as usize).ok_or(NoRoom)?;
        loop {
            let list = slot.streams.load(Ordering::Acquire);
            let before = self.read_list(list);
            if slot.session() != Some(session) {
                return Err(NoRoom);
            }
            if slot.streams.load(Ordering::Acquire) != list {
                continue;
            }
            let mut after = before;
            change(&mut after);
            if after == before {
                return Ok(());
            }
            self.name_endpoints(at, &after)?;
            let first = self.write_list(at, &after)?;
            let new = (list >> 32).wrapping_add(1) << 32 | u64::from(first);
            if slot.streams.compare_exchange(list, new, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                self.free_list(list as u32);
                return Ok(());
            }
            self.free_list(first);
        }
    }

    /// Adds the names of the streams. A stream is named by both of its endpoints, so that one subscriber's description takes
    /// no room from another's; the sender's endpoint has its own name too, and that of the receiver if the sender pays.
    fn name_endpoints(&self, at: u32, streams: &Streams) -> Result<(), NoRoom> {
        let is_paid_by_sender = self.slots.get(at as usize).is_some_and(Slot::is_paid_by_sender);
        for stream in streams.iter() {
            if stream.is_bound() {
                self.add_name(at, pair_name(stream.sender, stream.receiver))?;
            }
            if stream.sender != 0 && !self.names.index.is_crowded(sender_name(stream.sender)) {
                self.add_name(at, sender_name(stream.sender))?;
            }
            let name = receiver_name(stream.receiver);
            if is_paid_by_sender && stream.receiver != 0 && !self.names.index.is_crowded(name) {
                self.add_name(at, name)?;
            }
        }
        Ok(())
    }

    /// Writes a list without publishing it. Returns its first record, counted from 1.
    fn write_list(&self, at: u32, streams: &Streams) -> Result<u32, NoRoom> {
        let mut first = 0;
        for stream in streams.iter() {
            let Some(place) = self.free_record(at) else {
                self.free_list(first);
                return Err(NoRoom);
            };
            self.streams[place].write(stream, first);
            first = place as u32 + 1;
        }
        Ok(first)
    }

    /// Takes a free record: one of the slot's own, or one of the pool that follows those of all slots.
    fn free_record(&self, at: u32) -> Option<usize> {
        let own = at as usize * OWN_RECORDS..(at as usize + 1) * OWN_RECORDS;
        let pool = self.slots.len() * OWN_RECORDS;
        let size = self.streams.len().saturating_sub(pool).max(1);
        // Neighbouring slots start at distant places of the pool.
        let start = (u64::from(at).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize;
        own.chain((0..PROBES.min(size)).map(|probe| pool + start.wrapping_add(probe) % size)).find(|&place| {
            self.streams.get(place).is_some_and(|record| {
                record.owner.load(Ordering::Relaxed) == 0
                    && record.owner.compare_exchange(0, at + 1, Ordering::AcqRel, Ordering::Relaxed).is_ok()
            })
        })
    }

    fn free_list(&self, first: u32) {
        let mut place = first as usize;
        // No list is longer than that.
        for _ in 0..STREAMS_MAX {
            let Some(record) = place.checked_sub(1).and_then(|at| self.streams.get(at)) else { break };
            place = record.next.load(Ordering::Acquire) as usize;
            record.owner.store(0, Ordering::Release);
        }
    }

    /// Engine: removes all streams of a slot.
    pub(crate) fn free_streams(&self, slot: &Slot) {
        let list = slot.streams.load(Ordering::Acquire);
        // A worker that publishes at this moment either finds that its session has ended, or is found here.
        let mut list = list;
        loop {
            let none = (list >> 32).wrapping_add(1) << 32;
            match slot.streams.compare_exchange(list, none, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return self.free_list(list as u32),
                Err(now) => list = now,
            }
        }
    }

    /// Number of stream records in use.
    pub fn streams_used(&self) -> usize {
        self.streams.iter().filter(|record| record.owner.load(Ordering::Relaxed) != 0).count()
    }
}
