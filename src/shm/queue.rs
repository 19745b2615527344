//! A queue of records in shared memory: one process writes, any number of processes take, and each record is taken by
//! exactly one of them.
//!
//! ```text
//!   head ─ up to where records are published (only the writer moves it)
//!   tail ─ up to where records are taken     (whoever takes a record moves it past that record, by compare-and-swap)
//! ```
//!
//! Both count words of 8 octets and never go back; the place in memory is the count modulo the size. A record is a word
//! with its length in octets, a word with the time of its publication, and its content.
//!
//! A taker copies the record first and then claims it by moving the tail. Where another taker was faster, the claim fails
//! and the copy, which the writer may have overwritten meanwhile, is thrown away. So a taker holds nothing that others
//! wait for: one that is stopped or killed at any point delays nobody, and costs at most the record that it had claimed.
//! All words are atomics, because a copy that loses its claim races with the writer.

use super::ring::{Ends, Full, RECORD_MAX};
use super::sync::{AtomicU64, Ordering, fence};
use crate::charge::time::Time;

/// Words before the content of a record: its length and the time of its publication.
const HEADER: u64 = 2;

/// Octets of a word.
const WORD: usize = size_of::<u64>();

/// A queue in memory that several processes map.
#[derive(Clone, Copy)]
pub struct Queue<'a> {
    ends: &'a Ends,
    words: &'a [AtomicU64],
}

impl<'a> Queue<'a> {
    /// A queue over these words, zeroed when new. Their number is a power of two, enough for two records.
    pub fn over(ends: &'a Ends, words: &'a [AtomicU64]) -> Queue<'a> {
        let least = 2 * usize::try_from(words_of(RECORD_MAX)).unwrap_or(usize::MAX);
        assert!(words.len().is_power_of_two() && words.len() >= least, "a queue holds at least two records");
        Queue { ends, words }
    }

    /// Up to where records are published.
    pub fn head(&self) -> u64 {
        self.ends.head.load(Ordering::Acquire)
    }

    /// Up to where records are taken.
    pub fn tail(&self) -> u64 {
        self.ends.tail.load(Ordering::Acquire)
    }

    /// Size in words.
    pub fn size(&self) -> usize {
        self.words.len()
    }

    /// Words of the published records that nobody has taken.
    pub fn used(&self) -> usize {
        let tail = self.tail();
        usize::try_from(self.head().saturating_sub(tail)).unwrap_or(usize::MAX)
    }

    fn word(&self, position: u64) -> &AtomicU64 {
        &self.words[position as usize & (self.words.len() - 1)]
    }

    /// Writer: writes a record at `head` without publishing it. Returns the head behind it.
    pub fn write_at(&self, head: u64, content: &[u8]) -> Result<u64, Full> {
        let used = head.checked_sub(self.tail()).ok_or(Full)?;
        let needed = used.checked_add(words_of(content.len())).ok_or(Full)?;
        let behind = head.checked_add(words_of(content.len())).ok_or(Full)?;
        if content.len() > RECORD_MAX || needed > self.words.len() as u64 {
            return Err(Full);
        }
        // Releasing: who reads a word that is overwritten here, reads afterwards that it was taken before.
        self.word(head).store(content.len() as u64, Ordering::Release);
        self.word(head + 1).store(0, Ordering::Release);
        for (position, octets) in (head + HEADER..behind).zip(content.chunks(WORD)) {
            let mut word = [0; WORD];
            word[..octets.len()].copy_from_slice(octets);
            self.word(position).store(u64::from_le_bytes(word), Ordering::Release);
        }
        Ok(behind)
    }

    /// Writer: publishes everything up to `head`, at this time.
    pub fn publish(&self, head: u64, now: Time) {
        let mut at = self.head();
        while at < head {
            self.word(at + 1).store(now.0, Ordering::Release);
            at += words_of(self.word(at).load(Ordering::Relaxed) as usize);
        }
        self.ends.head.store(head, Ordering::Release);
    }

    /// Takes the oldest record into `record`. `false`: there is none. What cannot be a record is skipped with all behind it.
    pub fn take(&self, record: &mut Vec<u8>) -> bool {
        loop {
            let tail = self.tail();
            let head = self.head();
            if tail >= head {
                return false;
            }
            let length = self.word(tail).load(Ordering::Relaxed);
            let length = usize::try_from(length).ok().filter(|length| *length <= RECORD_MAX);
            let next = length.and_then(|length| tail.checked_add(words_of(length))).filter(|next| *next <= head);
            record.clear();
            if let (Some(length), Some(next)) = (length, next) {
                let words = (tail + HEADER..next).map(|at| self.word(at).load(Ordering::Relaxed));
                record.extend(words.flat_map(u64::to_le_bytes).take(length));
            }
            // Releasing: the writer that sees the new tail overwrites the words only after they were read here.
            let claimed =
                self.ends.tail.compare_exchange(tail, next.unwrap_or(head), Ordering::AcqRel, Ordering::Relaxed);
            match (claimed, next) {
                (Ok(_), Some(_)) => return true,
                (Ok(_), None) => log::error!("a queue in shared memory has impossible contents; they are skipped"),
                (Err(_), _) => {}
            }
        }
    }

    /// When the oldest record that nobody has taken was published.
    pub fn waiting_since(&self) -> Option<Time> {
        let tail = self.tail();
        if tail >= self.head() {
            return None;
        }
        let since = self.word(tail.checked_add(1)?).load(Ordering::Acquire);
        fence(Ordering::Acquire);
        (self.ends.tail.load(Ordering::Relaxed) == tail).then_some(Time(since))
    }
}

/// Words that a record with so many octets takes.
fn words_of(octets: usize) -> u64 {
    HEADER.saturating_add(octets.div_ceil(WORD) as u64)
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

        fn queue(&self) -> Queue<'_> {
            Queue::over(&self.ends, &self.words)
        }
    }

    fn push(queue: &Queue<'_>, content: &[u8]) -> Result<(), Full> {
        queue.publish(queue.write_at(queue.head(), content)?, Time(7));
        Ok(())
    }

    #[test]
    fn records_of_every_length_come_out_as_they_went_in() {
        let memory = Memory::new(2048);
        let (queue, mut record) = (memory.queue(), Vec::new());
        for round in (0..10_000usize).step_by(if cfg!(miri) { 97 } else { 1 }) {
            let content = vec![(round % 251) as u8; round % (RECORD_MAX + 1)];
            push(&queue, &content).expect("the queue was emptied before");
            assert!(queue.take(&mut record) && record == content);
            assert!(!queue.take(&mut record));
        }
    }

    #[test]
    fn a_full_queue_refuses_and_keeps_what_it_has() {
        let memory = Memory::new(2048);
        let (queue, mut record, mut written) = (memory.queue(), Vec::new(), 0u32);
        while push(&queue, &written.to_le_bytes()).is_ok() {
            written += 1;
        }
        assert!(written > 500 && queue.used() <= queue.size());
        for expected in 0..written {
            assert!(queue.take(&mut record) && record == expected.to_le_bytes());
        }
        assert!(!queue.take(&mut record));
        assert_eq!(push(&queue, &[0; RECORD_MAX + 1]), Err(Full));
        push(&queue, b"again").expect("what is taken makes room");
    }

    #[test]
    fn the_oldest_record_says_since_when_it_waits() {
        let memory = Memory::new(2048);
        let (queue, mut record) = (memory.queue(), Vec::new());
        assert_eq!(queue.waiting_since(), None);
        let head = queue.write_at(0, b"one").expect("room");
        let head = queue.write_at(head, b"two").expect("room");
        assert_eq!(queue.waiting_since(), None, "it is not published");
        queue.publish(head, Time(5));
        queue.publish(queue.write_at(head, b"three").expect("room"), Time(9));
        for since in [5, 5, 9] {
            assert_eq!(queue.waiting_since(), Some(Time(since)));
            assert!(queue.take(&mut record));
        }
        assert_eq!(queue.waiting_since(), None);
    }

    #[test]
    fn impossible_contents_are_skipped() {
        let memory = Memory::new(2048);
        let (queue, mut record) = (memory.queue(), Vec::new());
        for length in [RECORD_MAX as u64 + 1, 4000, u64::MAX] {
            push(&queue, b"fine").expect("room");
            queue.word(queue.tail()).store(length, Ordering::Relaxed);
            assert!(!queue.take(&mut record));
            assert_eq!(queue.tail(), queue.head());
        }
        for (head, tail) in [(0, 8), (8, u64::MAX), (u64::MAX, 0), (u64::MAX, u64::MAX - 1)] {
            memory.ends.head.store(head, Ordering::Relaxed);
            memory.ends.tail.store(tail, Ordering::Relaxed);
            assert_eq!(queue.write_at(head, b"x"), Err(Full), "{head} {tail}");
            let _ = (queue.take(&mut record), queue.waiting_since(), queue.used());
        }
    }

    #[test]
    fn each_record_is_taken_by_one_of_many() {
        const RECORDS: u64 = if cfg!(miri) { 200 } else { 20_000 };
        let memory = Memory::new(2048);
        let taken: Vec<std::sync::atomic::AtomicU32> = (0..RECORDS).map(|_| 0.into()).collect();
        let done = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    let (queue, mut record) = (memory.queue(), Vec::new());
                    loop {
                        // Looked at before the queue: what was published until then is found by somebody.
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
            let queue = memory.queue();
            for number in 0..RECORDS {
                let mut content = number.to_le_bytes().to_vec();
                content.resize(8 + (number % 400) as usize, number as u8);
                while push(&queue, &content).is_err() {
                    std::thread::yield_now();
                }
            }
            done.store(true, Ordering::Release);
        });
        assert!(taken.iter().all(|times| times.load(Ordering::Relaxed) == 1));
    }
}
