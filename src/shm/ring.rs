//! Single-producer, single-consumer ring of records in shared memory. Neither side waits for the other.
//!
//! ```text
//!   head ─ where the producer writes next   (moved by the producer only, after the record is complete)
//!   tail ─ up to where space is free again  (moved by the consumer only, after its commit)
//! ```
//!
//! Both count octets and never decrease; the offset in the ring is the count modulo its size. A record is its length
//! (4 octets) followed by its content, padded to 8. Records do not wrap: if the rest of the ring is too short, it
//! begins with the mark `SKIP`. The consumer reads ahead of `tail`, so that a record stays in the ring until its
//! effects are durable. A producer killed in the middle of a write leaves `head` unchanged: the incomplete record is
//! never seen.
//!
//! [`Producer`] and [`Consumer`] are the two ends. Each owns `M`, the value that keeps the memory mapped. They can be
//! neither copied nor cloned, and writing and freeing take `&mut self`:
//!
//! ```compile_fail
//! use imcharge::shm::ring::Producer;
//! fn copy<M>(producer: &Producer<M>) -> (Producer<M>, Producer<M>) {
//!     (*producer, *producer)
//! }
//! ```
//!
//! An end over borrowed memory does not outlive it:
//!
//! ```compile_fail
//! use imcharge::shm::ring::Producer;
//! fn keep<'a>(producer: Producer<&'a [u64]>) -> Producer<&'static [u64]> {
//!     producer
//! }
//! ```
//!
//! A record is not used after its space was freed:
//!
//! ```compile_fail,E0502
//! use imcharge::shm::ring::Consumer;
//! fn read<M>(consumer: &mut Consumer<M>) -> usize {
//!     let (record, next) = consumer.read_at(0).unwrap();
//!     consumer.free(next);
//!     record.len()
//! }
//! ```

use super::sync::{AtomicU64, Ordering, Watch, bound};

/// Written in place of a length where the next record is at the start of the ring.
const SKIP: u32 = u32::MAX;

/// Octets of the length before a record's content.
const PREFIX: usize = 4;

/// Maximum length of a record, octets.
pub const RECORD_MAX: usize = bound(4096, 12);

/// Head and tail of a ring or a queue, each on its own cache line.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Ends {
    pub(crate) head: AtomicU64,
    _apart: [u64; 7],
    pub(crate) tail: AtomicU64,
    _end: [u64; 7],
}

impl Ends {
    /// Head and tail at these positions.
    pub fn new(head: u64, tail: u64) -> Ends {
        Ends { head: AtomicU64::new(head), tail: AtomicU64::new(tail), ..Ends::default() }
    }

    /// Up to where records are published.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Acquire)
    }

    /// Up to where records are freed.
    pub fn tail(&self) -> u64 {
        self.tail.load(Ordering::Acquire)
    }

    /// Published and not yet freed: octets of a ring, words of a queue.
    pub fn used(&self) -> usize {
        let tail = self.tail();
        usize::try_from(self.head().saturating_sub(tail)).unwrap_or(usize::MAX)
    }
}

/// No room for the record.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

/// The memory of a ring, for one of its ends.
struct Ring<M> {
    ends: *const Ends,
    data: *mut u8,
    size: usize,
    watch: Watch,
    /// Keeps `ends` and `data` mapped.
    _memory: M,
}

// SAFETY: the ends are atomics; the data is written by the producer only, outside of what it has published, and read
// by the consumer only, within it (the contract of `Producer::over` and `Consumer::over`).
unsafe impl<M: Send> Send for Ring<M> {}

impl<M> Ring<M> {
    /// # Safety
    /// As [`Producer::over`].
    unsafe fn over(ends: *const Ends, data: *mut u8, size: usize, memory: M) -> Ring<M> {
        assert!(size.is_power_of_two() && size >= 2 * RECORD_MAX, "a ring has room for at least two records");
        Ring { ends, data, size, watch: Watch::none(), _memory: memory }
    }

    fn ends(&self) -> &Ends {
        // SAFETY: mapped as long as `_memory` lives, by the contract of `over`.
        unsafe { &*self.ends }
    }

    fn offset(&self, position: u64) -> usize {
        (position as usize) & (self.size - 1)
    }
}

/// The writing end of a ring.
pub struct Producer<M> {
    ring: Ring<M>,
    /// Where the next record is written: ahead of the published head while a record is not published.
    head: u64,
}

impl<M> Producer<M> {
    /// The producer of a ring. It continues after the last published record.
    ///
    /// # Safety
    /// `ends` and `size` octets from `data`, aligned to 8 and zeroed when new, stay mapped until `memory` is dropped.
    /// `size` is a power of two of at least two records. The ring has no other producer in any process.
    pub unsafe fn over(ends: *const Ends, data: *mut u8, size: usize, memory: M) -> Producer<M> {
        // SAFETY: the same contract.
        let ring = unsafe { Ring::over(ends, data, size, memory) };
        let head = ring.ends().head();
        Producer { ring, head }
    }

    /// Reports accesses to the data to loom.
    #[cfg(loom)]
    pub fn watched(mut self, watch: Watch) -> Producer<M> {
        self.ring.watch = watch;
        self
    }

    /// Size of the ring, octets.
    pub fn size(&self) -> usize {
        self.ring.size
    }

    /// Octets that are published and not yet freed.
    pub fn used(&self) -> usize {
        self.ring.ends().used()
    }

    /// Whether a record of maximum length, and `spare` octets after it, have room.
    pub fn has_room(&self, spare: usize) -> bool {
        self.skip(spare).is_ok()
    }

    /// Octets to skip before a record at `head`, if it and `spare` more octets have room. Head and tail that no
    /// producer and no consumer can have left count as full.
    fn skip(&self, spare: usize) -> Result<usize, Full> {
        let (head, size) = (self.head, self.ring.size);
        let used = head.checked_sub(self.ring.ends().tail()).and_then(|used| usize::try_from(used).ok()).ok_or(Full)?;
        // A record is shorter than the ring, so positions that pass here cannot overflow below.
        if used > size || !head.is_multiple_of(8) || head.checked_add(size as u64).is_none() {
            return Err(Full);
        }
        let rest = size - self.ring.offset(head);
        let skip = if rest < PREFIX + RECORD_MAX { rest } else { 0 };
        if used + skip + PREFIX + RECORD_MAX + 8 + spare > size { Err(Full) } else { Ok(skip) }
    }

    /// Writes a record, to be published by [`publish`](Producer::publish), and leaves `spare` octets of room after it.
    /// `fill` writes the content and returns its length, or `None` to write nothing. Returns whether it was written.
    pub fn write(&mut self, spare: usize, fill: impl FnOnce(&mut [u8]) -> Option<usize>) -> Result<bool, Full> {
        let skip = self.skip(spare)?;
        if skip > 0 {
            self.write_length(self.head, SKIP);
        }
        let place = self.head + skip as u64;
        let offset = self.ring.offset(place);
        self.ring.watch.writes(offset, PREFIX + RECORD_MAX);
        // SAFETY: `skip` leaves PREFIX + RECORD_MAX octets to the end of the ring, none of which is published, so only
        // this producer, borrowed mutably, accesses them.
        let content = unsafe { std::slice::from_raw_parts_mut(self.ring.data.add(offset + PREFIX), RECORD_MAX) };
        let Some(length) = fill(content).filter(|&length| length <= RECORD_MAX) else { return Ok(false) };
        self.write_length(place, length as u32);
        self.head = place + padded(length);
        Ok(true)
    }

    /// Makes all records written so far visible to the consumer.
    pub fn publish(&mut self) {
        self.ring.ends().head.store(self.head, Ordering::Release);
    }

    fn write_length(&self, position: u64, length: u32) {
        let offset = self.ring.offset(position);
        self.ring.watch.writes(offset, PREFIX);
        // SAFETY: positions are multiples of 8 and the size is a power of two, so 4 aligned octets lie there. They are
        // not published.
        unsafe { self.ring.data.add(offset).cast::<u32>().write(length) }
    }
}

/// The reading end of a ring.
pub struct Consumer<M> {
    ring: Ring<M>,
    /// The tail: only this consumer moves it.
    freed: u64,
}

impl<M> Consumer<M> {
    /// The consumer of a ring, with the first record that is not freed.
    ///
    /// # Safety
    /// As [`Producer::over`], of which `ends`, `data` and `size` are the same. The ring has no other consumer in any
    /// process.
    pub unsafe fn over(ends: *const Ends, data: *mut u8, size: usize, memory: M) -> Consumer<M> {
        // SAFETY: the same contract.
        let ring = unsafe { Ring::over(ends, data, size, memory) };
        let freed = ring.ends().tail();
        Consumer { ring, freed }
    }

    /// Reports accesses to the data to loom.
    #[cfg(loom)]
    pub fn watched(mut self, watch: Watch) -> Consumer<M> {
        self.ring.watch = watch;
        self
    }

    /// Up to where records are published.
    pub fn head(&self) -> u64 {
        self.ring.ends().head()
    }

    /// Up to where records are freed.
    pub fn tail(&self) -> u64 {
        self.freed
    }

    /// Returns the record at `position` and the position after it; `None` if none is published there, or its space was
    /// freed. Contents that no producer writes read as none.
    pub fn read_at(&self, position: u64) -> Option<(&[u8], u64)> {
        let head = self.head();
        if position < self.freed {
            return None;
        }
        let mut at = position;
        // There is at most one skip mark between two records.
        for _ in 0..2 {
            if at >= head || !at.is_multiple_of(8) {
                return None;
            }
            let offset = self.ring.offset(at);
            let rest = self.ring.size - offset;
            let length = self.read_length(at);
            if length == SKIP {
                at = at.checked_add(rest as u64)?;
                continue;
            }
            let length = length as usize;
            if length > RECORD_MAX || PREFIX + length > rest {
                return None;
            }
            let next = at.checked_add(padded(length)).filter(|next| *next <= head)?;
            self.ring.watch.reads(offset, PREFIX + length);
            // SAFETY: within the ring (checked above), published and not freed. The producer does not write there until
            // `free`, which borrows `self` mutably, moves the tail.
            let content = unsafe { std::slice::from_raw_parts(self.ring.data.add(offset + PREFIX), length) };
            return Some((content, next));
        }
        None
    }

    /// Frees the space of all records before `position`. A position before the tail is ignored.
    pub fn free(&mut self, position: u64) {
        self.freed = self.freed.max(position);
        self.ring.ends().tail.store(self.freed, Ordering::Release);
    }

    fn read_length(&self, position: u64) -> u32 {
        let offset = self.ring.offset(position);
        self.ring.watch.reads(offset, PREFIX);
        // SAFETY: the caller has checked that the position is a multiple of 8 and published; the size is a power of two,
        // so 4 aligned octets lie there.
        unsafe { self.ring.data.add(offset).cast::<u32>().read() }
    }
}

/// Octets of a record with content of this length.
fn padded(length: usize) -> u64 {
    ((PREFIX + length + 7) & !7) as u64
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::UnsafeCell;

    const SIZE: usize = 16 * 1024;

    /// A ring in private memory.
    struct Memory {
        ends: Ends,
        data: Box<[UnsafeCell<u64>]>,
    }

    impl Memory {
        fn new(head: u64, tail: u64) -> Memory {
            Memory { ends: Ends::new(head, tail), data: (0..SIZE / 8).map(|_| UnsafeCell::new(0)).collect() }
        }

        fn data(&self) -> *mut u8 {
            UnsafeCell::raw_get(self.data.as_ptr()).cast()
        }

        /// For tests that take each end once.
        fn ends(&self) -> (Producer<&Memory>, Consumer<&Memory>) {
            // SAFETY: the memory is borrowed by both ends; the caller takes one of each.
            unsafe {
                let producer = Producer::over(&raw const self.ends, self.data(), SIZE, self);
                (producer, Consumer::over(&raw const self.ends, self.data(), SIZE, self))
            }
        }
    }

    fn push<M>(producer: &mut Producer<M>, content: &[u8]) -> Result<(), Full> {
        let written = producer.write(0, |space| {
            space[..content.len()].copy_from_slice(content);
            Some(content.len())
        })?;
        assert!(written);
        producer.publish();
        Ok(())
    }

    #[test]
    fn records_of_every_length_are_read_as_written() {
        let memory = Memory::new(0, 0);
        let (mut producer, mut consumer) = memory.ends();
        let mut position = 0;
        for round in (0..10_000usize).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let content = vec![(round % 251) as u8; round % (RECORD_MAX + 1)];
            push(&mut producer, &content).expect("the ring is empty");
            let (read, next) = consumer.read_at(position).expect("a record was published");
            assert_eq!(read, content);
            position = next;
            assert!(consumer.read_at(position).is_none());
            consumer.free(position);
        }
    }

    #[test]
    fn full_ring_refuses_records_and_keeps_its_contents() {
        let memory = Memory::new(0, 0);
        let (mut producer, mut consumer) = memory.ends();
        let mut written = 0u32;
        while push(&mut producer, &written.to_le_bytes()).is_ok() {
            written += 1;
        }
        assert!(written > 100 && !producer.has_room(0));
        let mut position = 0;
        for expected in 0..written {
            let (read, next) = consumer.read_at(position).expect("every accepted record is there");
            assert_eq!(read, expected.to_le_bytes());
            position = next;
        }
        assert!(consumer.read_at(position).is_none());
        consumer.free(position);
        push(&mut producer, b"again").expect("freed space can be written");
    }

    #[test]
    fn unpublished_record_is_not_read() {
        let memory = Memory::new(0, 0);
        let (mut producer, consumer) = memory.ends();
        assert_eq!(producer.write(0, |_| Some(1)), Ok(true));
        assert!(consumer.read_at(0).is_none());
    }

    #[test]
    fn freed_record_is_not_read_and_the_tail_does_not_go_back() {
        let memory = Memory::new(0, 0);
        let (mut producer, mut consumer) = memory.ends();
        push(&mut producer, b"one").expect("room");
        push(&mut producer, b"two").expect("room");
        let (_, next) = consumer.read_at(0).expect("a record");
        consumer.free(next);
        assert!(consumer.read_at(0).is_none());
        consumer.free(0);
        assert_eq!((consumer.tail(), memory.ends.tail()), (next, next));
        assert_eq!(consumer.read_at(next).expect("a record").0, b"two");
    }

    #[test]
    fn impossible_lengths_are_not_read() {
        for length in [RECORD_MAX as u32 + 1, SKIP - 1, SKIP] {
            let memory = Memory::new(64, 0);
            let (mut producer, consumer) = memory.ends();
            producer.head = 0;
            producer.write_length(0, length);
            assert!(consumer.read_at(0).is_none());
            assert!(consumer.read_at(3).is_none());
        }
    }

    #[test]
    fn impossible_ends_have_no_room_and_no_record() {
        for (head, tail) in
            [(1, 0), (16 * 1024 - 1, 0), (0, 8), (1 << 40, 0), (u64::MAX - 7, u64::MAX - 7), (0, u64::MAX)]
        {
            let memory = Memory::new(head, tail);
            let (mut producer, _) = memory.ends();
            assert_eq!(producer.write(0, |_| panic!("there is no room")), Err(Full), "{head} {tail}");
        }
        for length in [SKIP, 4] {
            let memory = Memory::new(u64::MAX, u64::MAX - 7);
            let (producer, consumer) = memory.ends();
            producer.write_length(u64::MAX - 7, length);
            assert!(consumer.read_at(u64::MAX - 7).is_none());
        }
    }
}
