//! Single-producer, multiple-consumer queue of records in shared memory. Each record is taken by exactly one consumer.
//!
//! ```text
//!   head ─ up to where records are published (moved by the producer only)
//!   tail ─ up to where records are taken     (moved past a record by its taker, by compare-and-swap)
//! ```
//!
//! Both count words of 8 octets and never decrease; the place in memory is the count modulo the size. A record is a word
//! with its length in octets, a word with the time of its publication, and its content.
//!
//! A taker copies the record first and then claims it by moving the tail. If another taker was faster, the claim fails
//! and the copy, which the producer may have overwritten in the meantime, is discarded. So a taker holds nothing that
//! others wait for: one that is stopped or killed at any point delays no other process and loses at most the record that it had
//! claimed. All words are atomics, because a copy that loses its claim races with the producer.

use super::ring::{Ends, Full, RECORD_MAX};
use super::sync::{AtomicU64, Ordering, fence};
use crate::charge::time::Time;

/// Words before the content of a record: its length and the time of its publication.
const HEADER_WORDS: u64 = 2;

/// Octets of a word.
const WORD: usize = size_of::<u64>();

/// A queue in memory that several processes map, for those who take from it.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    ends: &'a Ends,
    words: &'a [AtomicU64],
}

impl<'a> Queue<'a> {
    /// A queue over these words, zeroed when new. Their number is a power of two, enough for two records.
    pub fn over(ends: &'a Ends, words: &'a [AtomicU64]) -> Queue<'a> {
        let least = 2 * usize::try_from(words_of(RECORD_MAX)).unwrap_or(usize::MAX);
        assert!(words.len().is_power_of_two() && words.len() >= least, "a queue has room for at least two records");
        Queue { ends, words }
    }

    /// Up to where records are published.
    pub fn head(&self) -> u64 {
        self.ends.head()
    }

    /// Up to where records are taken.
    pub fn tail(&self) -> u64 {
        self.ends.tail()
    }

    /// Size in words.
    pub fn size(&self) -> usize {
        self.words.len()
    }

    /// Words of the published records that are not taken.
    pub fn used(&self) -> usize {
        self.ends.used()
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        &self.words[position as usize & (self.words.len() - 1)]
    }

    /// Takes the oldest record into `record`; `false` if there is none. Contents that no producer writes are skipped, with
    /// all that follows them.
    pub fn take(&self, record: &mut Vec<u8>) -> bool {
        loop {
            let (tail, head) = (self.tail(), self.head());
            if tail >= head {
                return false;
            }
            let length = self.word(tail).load(Ordering::Relaxed);
            let length = usize::try_from(length).ok().filter(|length| *length <= RECORD_MAX);
            let next = length.and_then(|length| tail.checked_add(words_of(length))).filter(|next| *next <= head);
            record.clear();
            if let (Some(length), Some(next)) = (length, next) {
                let words = (tail + HEADER_WORDS..next).map(|at| self.word(at).load(Ordering::Relaxed));
                record.extend(words.flat_map(u64::to_le_bytes).take(length));
            }
            // Releasing: a producer that sees the new tail overwrites the words only after they were read here.
            let claimed =
                self.ends.tail.compare_exchange(tail, next.unwrap_or(head), Ordering::AcqRel, Ordering::Relaxed);
            match (claimed, next) {
                (Ok(_), Some(_)) => return true,
                (Ok(_), None) => log::error!("a queue in shared memory has impossible contents; they are skipped"),
                (Err(_), _) => {}
            }
        }
    }

    /// When the oldest record that is not taken was published.
    pub fn waiting_since(&self) -> Option<Time> {
        let tail = self.tail();
        if tail >= self.head() {
            return None;
        }
        let since = self.word(tail.checked_add(1)?).load(Ordering::Acquire);
        fence(Ordering::Acquire);
        (self.ends.tail.load(Ordering::Relaxed) == tail).then_some(Time(since))
    }

    /// Writes a record at `head` without publishing it. Returns the head after it.
    fn write_at(&self, head: u64, content: &[u8]) -> Result<u64, Full> {
        let used = head.checked_sub(self.tail()).ok_or(Full)?;
        let needed = used.checked_add(words_of(content.len())).ok_or(Full)?;
        let next = head.checked_add(words_of(content.len())).ok_or(Full)?;
        if content.len() > RECORD_MAX || needed > self.words.len() as u64 {
            return Err(Full);
        }
        // Releasing: a reader of a word that is overwritten here sees afterwards that its record was taken.
        self.word(head).store(content.len() as u64, Ordering::Release);
        self.word(head + 1).store(0, Ordering::Release);
        for (position, octets) in (head + HEADER_WORDS..next).zip(content.chunks(WORD)) {
            let mut word = [0; WORD];
            word[..octets.len()].copy_from_slice(octets);
            self.word(position).store(u64::from_le_bytes(word), Ordering::Release);
        }
        Ok(next)
    }

    /// Publishes everything up to `head`, at this time.
    fn publish(&self, head: u64, now: Time) {
        let mut at = self.head();
        while at < head {
            self.word(at + 1).store(now.0, Ordering::Release);
            at += words_of(self.word(at).load(Ordering::Relaxed) as usize);
        }
        self.ends.head.store(head, Ordering::Release);
    }
}

/// Words of a record with content of this length, octets.
fn words_of(octets: usize) -> u64 {
    HEADER_WORDS.saturating_add(octets.div_ceil(WORD) as u64)
}

/// Owns or borrows the memory of a queue.
pub trait HoldsQueue {
    /// The queue in it.
    fn queue(&self) -> Queue<'_>;
}

/// The writing end of a queue. It can be neither copied nor cloned; `M` holds the memory, and ensures that there is one
/// producer.
///
/// ```compile_fail
/// use imcharge::shm::queue::QueueProducer;
/// fn copy<M>(producer: &QueueProducer<M>) -> (QueueProducer<M>, QueueProducer<M>) {
///     (*producer, *producer)
/// }
/// ```
pub struct QueueProducer<M> {
    memory: M,
    head: u64,
    /// Records that are written and not published.
    unpublished: usize,
}

impl<M: HoldsQueue> QueueProducer<M> {
    /// A producer that continues after the last published record.
    pub fn new(memory: M) -> QueueProducer<M> {
        let head = memory.queue().head();
        QueueProducer { memory, head, unpublished: 0 }
    }

    /// Continues after the records up to `mark`, which an earlier producer has written. Those that it has not
    /// published are published next.
    pub fn continue_from(&mut self, mark: u64) {
        if mark > self.head {
            self.head = mark;
            self.unpublished = usize::MAX;
        }
    }

    /// Up to where records are written.
    pub fn head(&self) -> u64 {
        self.head
    }

    /// Returns the holder of the memory.
    pub fn memory(&self) -> &M {
        &self.memory
    }

    /// Writes a record, to be published by [`publish`](QueueProducer::publish).
    pub fn write(&mut self, content: &[u8]) -> Result<(), Full> {
        self.head = self.memory.queue().write_at(self.head, content)?;
        self.unpublished = self.unpublished.saturating_add(1);
        Ok(())
    }

    /// Publishes all records written so far, at this time. Returns their number, `usize::MAX` if it is not known.
    pub fn publish(&mut self, now: Time) -> usize {
        if self.unpublished > 0 {
            self.memory.queue().publish(self.head, now);
        }
        std::mem::take(&mut self.unpublished)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Memory of a queue.
    struct Memory {
        ends: Ends,
        words: Vec<AtomicU64>,
    }

    impl Memory {
        fn new(words: usize) -> Memory {
            Memory { ends: Ends::default(), words: (0..words).map(|_| AtomicU64::new(0)).collect() }
        }
    }

    impl HoldsQueue for &Memory {
        fn queue(&self) -> Queue<'_> {
            Queue::over(&self.ends, &self.words)
        }
    }

    fn push(producer: &mut QueueProducer<&Memory>, content: &[u8]) -> Result<(), Full> {
        producer.write(content)?;
        producer.publish(Time(7));
        Ok(())
    }

    #[test]
    fn records_of_every_length_are_taken_as_written() {
        let memory = &Memory::new(2048);
        let (queue, mut producer, mut record) = (memory.queue(), QueueProducer::new(memory), Vec::new());
        for round in (0..10_000usize).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let content = vec![(round % 251) as u8; round % (RECORD_MAX + 1)];
            push(&mut producer, &content).expect("the queue is empty");
            assert!(queue.take(&mut record) && record == content);
            assert!(!queue.take(&mut record));
        }
    }

    #[test]
    fn full_queue_refuses_records_and_keeps_its_contents() {
        let memory = &Memory::new(2048);
        let (queue, mut producer, mut record) = (memory.queue(), QueueProducer::new(memory), Vec::new());
        let mut written = 0u32;
        while push(&mut producer, &written.to_le_bytes()).is_ok() {
            written += 1;
        }
        assert!(written > 500 && queue.used() <= queue.size());
        for expected in 0..written {
            assert!(queue.take(&mut record) && record == expected.to_le_bytes());
        }
        assert!(!queue.take(&mut record));
        assert_eq!(push(&mut producer, &[0; RECORD_MAX + 1]), Err(Full));
        push(&mut producer, b"again").expect("records that were taken make room");
    }

    #[test]
    fn waiting_since_is_the_time_of_the_oldest_published_record() {
        let memory = &Memory::new(2048);
        let (queue, mut producer, mut record) = (memory.queue(), QueueProducer::new(memory), Vec::new());
        assert_eq!(queue.waiting_since(), None);
        producer.write(b"one").expect("room");
        producer.write(b"two").expect("room");
        assert_eq!(queue.waiting_since(), None, "it is not published");
        assert_eq!(producer.publish(Time(5)), 2);
        producer.write(b"three").expect("room");
        assert_eq!((producer.publish(Time(9)), producer.publish(Time(10))), (1, 0));
        for since in [5, 5, 9] {
            assert_eq!(queue.waiting_since(), Some(Time(since)));
            assert!(queue.take(&mut record));
        }
        assert_eq!(queue.waiting_since(), None);
    }

    #[test]
    fn next_producer_publishes_what_the_previous_one_committed() {
        let memory = &Memory::new(2048);
        let mut record = Vec::new();
        let mut killed = QueueProducer::new(memory);
        killed.write(b"committed").expect("room");
        let mark = killed.head();
        killed.write(b"not committed").expect("room");
        let mut next = QueueProducer::new(memory);
        next.continue_from(mark);
        assert_eq!((next.publish(Time(5)), next.head()), (usize::MAX, mark));
        assert!(memory.queue().take(&mut record) && record == b"committed");
        next.continue_from(mark);
        assert_eq!((next.publish(Time(5)), memory.queue().take(&mut record)), (0, false));
    }

    #[test]
    fn impossible_contents_are_skipped() {
        let memory = &Memory::new(2048);
        let (queue, mut producer, mut record) = (memory.queue(), QueueProducer::new(memory), Vec::new());
        for length in [RECORD_MAX as u64 + 1, 4000, u64::MAX] {
            push(&mut producer, b"fine").expect("room");
            queue.word(queue.tail()).store(length, Ordering::Relaxed);
            assert!(!queue.take(&mut record));
            assert_eq!(queue.tail(), queue.head());
        }
        for (head, tail) in [(0, 8), (8, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX - 1)] {
            memory.ends.head.store(head, Ordering::Relaxed);
            memory.ends.tail.store(tail, Ordering::Relaxed);
            assert_eq!(QueueProducer::new(memory).write(b"x"), Err(Full), "{head} {tail}");
            let _ = (queue.take(&mut record), queue.waiting_since(), queue.used());
        }
    }

    #[test]
    fn each_record_is_taken_by_one_of_many_readers() {
        const RECORDS: u64 = if cfg!(miri) { 200 } else { 20_000 };
        let memory = &Memory::new(2048);
        let taken: Vec<std::sync::atomic::AtomicU32> = (0..RECORDS).map(|_| 0.into()).collect();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let (queue, mut record) = (memory.queue(), Vec::new());
                    loop {
                        // Read before the queue: every record published until then is found.
                        let is_last = done.load(Ordering::Acquire);
                        while queue.take(&mut record) {
                            let number = u64::from_le_bytes(record[..8].try_into().expect("eight octets"));
                            assert!(record[8..].iter().all(|octet| *octet == number as u8), "a torn record");
                            taken[number as usize].fetch_add(1, Ordering::Relaxed);
                        }
                        if is_last {
                            return;
                        }
                        std::thread::yield_now();
                    }
                });
            }
            let mut producer = QueueProducer::new(memory);
            for number in 0..RECORDS {
                let mut content = number.to_le_bytes().to_vec();
                content.resize(8 + (number % 400) as usize, number as u8);
                while push(&mut producer, &content).is_err() {
                    std::thread::yield_now();
                }
            }
            done.store(true, Ordering::Release);
        });
        assert!(taken.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    }
}
