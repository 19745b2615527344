//! A ring of records in shared memory: one process writes, one reads, and neither waits for the other.
//!
//! ```text
//!   head ─ where the writer writes next      (only the writer moves it, after the record is whole)
//!   tail ─ up to where space is free again   (only the reader moves it, after its commit)
//! ```
//!
//! Both count octets and never turn back; the place in the ring is the count modulo its size. A record is a
//! length (4 octets) and its octets, padded to 8; it never wraps: where the rest of the ring is too short
//! stands the mark [`SKIP`]. The reader has a position of its own ahead of `tail`, so that a record
//! stays where it is until what came of it is durable. A process killed in the middle of a write leaves
//! `head` where it was: the half record does not exist.

use super::sync::{AtomicU64, Ordering, Watch, bound};

/// Stands for a length where the record begins at the start of the ring.
const SKIP: u32 = u32::MAX;

/// Octets before a record's content.
const PREFIX: usize = 4;

/// The longest record.
pub const RECORD_MAX: usize = bound(4096, 12);

/// The moving ends of a ring or a queue, each on a cache line of its own.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Ends {
    pub(crate) head: AtomicU64,
    _apart: [u64; 7],
    pub(crate) tail: AtomicU64,
    _end: [u64; 7],
}

/// A ring where it lies in memory that several processes map.
#[derive(Clone, Copy)]
pub struct Ring {
    ends: *const Ends,
    data: *mut u8,
    size: usize,
    watch: Watch,
}

// SAFETY: the ends are atomics; the data is written only by the one writer beyond what it has published and
// read only by the one reader within it (the contract of `Ring::at`).
unsafe impl Send for Ring {}

/// No room for the record.
#[derive(Debug, PartialEq, Eq)]
pub struct Full;

impl Ring {
    /// # Safety
    /// `ends` and `size` octets from `data` must stay mapped as long as the ring is used, zeroed when new;
    /// `size` is a power of two of at least two records. At a time one process writes and one reads.
    pub unsafe fn at(ends: *const Ends, data: *mut u8, size: usize) -> Ring {
        assert!(size.is_power_of_two() && size >= 2 * RECORD_MAX, "a ring holds two records at least");
        Ring { ends, data, size, watch: Watch::nobody() }
    }

    /// The ring with somebody who watches its data.
    #[cfg(loom)]
    pub fn watched(self, watch: Watch) -> Ring {
        Ring { watch, ..self }
    }

    fn ends(&self) -> &Ends {
        // SAFETY: mapped as long as the ring is used, by the contract of `at`.
        unsafe { &*self.ends }
    }

    /// Octets that are written and not yet freed.
    pub fn used(&self) -> usize {
        let ends = self.ends();
        let tail = ends.tail.load(Ordering::Acquire);
        usize::try_from(ends.head.load(Ordering::Acquire).saturating_sub(tail)).unwrap_or(usize::MAX)
    }

    /// Size in octets.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Where the reader has freed up to.
    pub fn tail(&self) -> u64 {
        self.ends().tail.load(Ordering::Acquire)
    }

    /// Where the writer has published up to.
    pub fn head(&self) -> u64 {
        self.ends().head.load(Ordering::Acquire)
    }

    /// Writer: the place of a record begun at `head`, if it and `spare` octets more have room. Gives
    /// where the content goes, and `head` behind a skip mark. Ends that no writer and no reader leave have no room.
    fn place(&self, head: u64, spare: usize) -> Result<u64, Full> {
        let used = head.checked_sub(self.tail()).and_then(|used| usize::try_from(used).ok()).ok_or(Full)?;
        // A record takes less than the ring, so what passes here does not run over below.
        if used > self.size || !head.is_multiple_of(8) || head.checked_add(self.size as u64).is_none() {
            return Err(Full);
        }
        let rest = self.size - self.offset(head);
        let skip = if rest < PREFIX + RECORD_MAX { rest } else { 0 };
        if used + skip + PREFIX + RECORD_MAX + 8 + spare > self.size {
            return Err(Full);
        }
        if skip > 0 {
            self.write_length(head, SKIP);
        }
        Ok(head + skip as u64)
    }

    /// Writer: writes a record without publishing it. `fill` writes the content and returns its length, or `None`
    /// to write nothing. Returns the head to publish.
    pub fn write_at(
        &self,
        head: u64,
        spare: usize,
        fill: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> Result<Option<u64>, Full> {
        let place = self.place(head, spare)?;
        self.watch.writes(self.offset(place), PREFIX + RECORD_MAX);
        // SAFETY: `place` leaves PREFIX + RECORD_MAX octets to the end of the ring, and none of them is published,
        // so only the one writer touches them.
        let content = unsafe { std::slice::from_raw_parts_mut(self.data.add(self.offset(place) + PREFIX), RECORD_MAX) };
        let Some(length) = fill(content).filter(|&length| length <= RECORD_MAX) else { return Ok(None) };
        self.write_length(place, length as u32);
        Ok(Some(place + padded(length)))
    }

    /// Writer: makes everything up to `head` visible to the reader.
    pub fn publish(&self, head: u64) {
        self.ends().head.store(head, Ordering::Release);
    }

    /// Reader: the record at `position` and the position behind it; `None`: there is none yet.
    /// A ring with impossible contents reads as empty up to its head.
    pub fn read_at(&self, position: u64) -> Option<(&[u8], u64)> {
        let head = self.head();
        let mut at = position;
        // At most one skip mark stands between two records.
        for _ in 0..2 {
            if at >= head || !at.is_multiple_of(8) {
                return None;
            }
            let rest = self.size - self.offset(at);
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
            self.watch.reads(self.offset(at), PREFIX + length);
            // SAFETY: within the ring (checked above) and published, so the writer leaves it alone until the
            // reader moves the tail, which takes `&mut` of its owner.
            let content = unsafe { std::slice::from_raw_parts(self.data.add(self.offset(at) + PREFIX), length) };
            return Some((content, next));
        }
        None
    }

    /// Reader: frees everything before `position`.
    pub fn free(&self, position: u64) {
        self.ends().tail.store(position, Ordering::Release);
    }

    fn offset(&self, position: u64) -> usize {
        (position as usize) & (self.size - 1)
    }

    fn write_length(&self, position: u64, length: u32) {
        self.watch.writes(self.offset(position), PREFIX);
        // SAFETY: positions are multiples of 8 and the size is a power of two, so 4 aligned octets are there.
        unsafe { self.data.add(self.offset(position)).cast::<u32>().write(length) }
    }

    fn read_length(&self, position: u64) -> u32 {
        self.watch.reads(self.offset(position), PREFIX);
        // SAFETY: as in `write_length`; the caller has checked that the position is a multiple of 8.
        unsafe { self.data.add(self.offset(position)).cast::<u32>().read() }
    }
}

/// Octets that a record with so much content takes.
fn padded(length: usize) -> u64 {
    ((PREFIX + length + 7) & !7) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ring in private memory.
    fn ring(size: usize) -> Ring {
        let ends = Box::leak(Box::default());
        let data = Box::leak(vec![0u64; size / 8].into_boxed_slice()).as_mut_ptr().cast();
        // SAFETY: leaked, so mapped for ever; one thread both writes and reads.
        unsafe { Ring::at(ends, data, size) }
    }

    fn push(ring: &Ring, content: &[u8]) -> Result<(), Full> {
        let head = ring.write_at(ring.head(), 0, |space| {
            space[..content.len()].copy_from_slice(content);
            Some(content.len())
        })?;
        ring.publish(head.expect("content was given"));
        Ok(())
    }

    #[test]
    fn records_come_out_as_they_went_in_over_many_turns() {
        let ring = ring(16 * 1024);
        let mut position = 0;
        for turn in 0..10_000usize {
            let content = vec![(turn % 251) as u8; turn % (RECORD_MAX + 1)];
            push(&ring, &content).expect("the ring was emptied before");
            let (read, next) = ring.read_at(position).expect("a record was published");
            assert_eq!(read, content);
            position = next;
            assert!(ring.read_at(position).is_none());
            ring.free(position);
        }
    }

    #[test]
    fn a_full_ring_refuses_and_keeps_what_it_has() {
        let ring = ring(16 * 1024);
        let mut written = 0u32;
        while push(&ring, &written.to_le_bytes()).is_ok() {
            written += 1;
        }
        assert!(written > 100);
        let mut position = 0;
        for expected in 0..written {
            let (read, next) = ring.read_at(position).expect("all that was accepted is there");
            assert_eq!(read, expected.to_le_bytes());
            position = next;
        }
        assert!(ring.read_at(position).is_none());
        ring.free(position);
        push(&ring, b"again").expect("freed space can be written");
    }

    #[test]
    fn an_unpublished_record_does_not_exist() {
        let ring = ring(16 * 1024);
        ring.write_at(0, 0, |space| {
            space[0] = 1;
            Some(1)
        })
        .expect("room");
        assert!(ring.read_at(0).is_none());
    }

    #[test]
    fn impossible_contents_read_as_nothing() {
        let ring = ring(16 * 1024);
        for length in [RECORD_MAX as u32 + 1, SKIP - 1, SKIP] {
            ring.write_length(0, length);
            ring.publish(64);
            assert!(ring.read_at(0).is_none());
            assert!(ring.read_at(3).is_none());
        }
    }

    #[test]
    fn impossible_ends_have_no_room_and_nothing_to_read() {
        let ring = ring(16 * 1024);
        for (head, tail) in
            [(1, 0), (16 * 1024 - 1, 0), (0, 8), (1 << 40, 0), (u64::MAX - 7, u64::MAX - 7), (0, u64::MAX)]
        {
            ring.free(tail);
            assert_eq!(ring.write_at(head, 0, |_| panic!("no room is given")), Err(Full), "{head} {tail}");
        }
        for length in [SKIP, 4] {
            ring.write_length(u64::MAX - 7, length);
            ring.publish(u64::MAX);
            assert!(ring.read_at(u64::MAX - 7).is_none());
        }
    }
}
