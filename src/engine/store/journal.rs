//! The journal: what the engine has decided and the tables do not show yet, in two files that only the engine opens.
//!
//! ```text
//!   journal-a  │ header │ record │ record │ ...      filled first; records are appended in place
//!   journal-b  │ header │ record │ ...               next, once the tables contain everything that was in it
//!   record     │ length │ checksum │ previous │ sequence │ durable │ changes of one tick
//! ```
//!
//! SQLite's own lock belongs to whoever takes it, and its commit waits for the disk. A verdict can wait for neither,
//! so it waits for a record here: one `pwrite` into a preallocated file. A written record survives the death of every
//! process; `Syncer` makes it survive the machine's.
//!
//! `checksum` covers the rest of the record, and `previous` is the checksum of the record before it. Reading stops at
//! the first record that does not follow its predecessor: later ones were written to a disk that had lost an earlier
//! one, or belong to an earlier use of the file. `durable` is the last sequence that was known to be synced when the
//! record was written. It tells a lost tail, which was never synced, from a ledger file that is older than its journal.
//! All numbers are little-endian.

use crate::simulate;
use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names of the files in the state directory.
pub const JOURNALS: [&str; 2] = ["journal-a", "journal-b"];

/// Octets that each file is given at once, and keeps.
const FILE_OCTETS: u64 = if simulate::SMALL { 16 << 10 } else { 8 << 20 };

/// Octets that both files may have while the tables cannot be written; then new sessions are refused.
pub const JOURNAL_OCTETS_MAX: u64 = if simulate::SMALL { 256 << 10 } else { 256 << 20 };

/// Marks a file as ours: "imchjrn" and a version.
const MAGIC: u64 = 0x696d_6368_6a72_6e01;

/// Octets before the first record.
const HEADER: u64 = 64;

/// Octets of a record before its changes.
const RECORD_HEAD: usize = 36;

/// Why the journal cannot be used: one sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("{path}: {}", super::describe(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Both files are full, because the tables cannot be written.
    #[error("{path}: full ({JOURNAL_OCTETS_MAX} octets), because the ledger could not be written for too long")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// It was deleted under the engine: what it contains is lost with the engine's process.
    #[error("{path}: was deleted; it is made anew as soon as the ledger contains everything that was in it")]
    Deleted {
        /// The file.
        path: PathBuf,
    },
    /// It belongs to another ledger file.
    #[error(
        "{path}: belongs to another ledger file than the one beside it; put that one back, or move both journal files \
         away and lose what they contain"
    )]
    OtherLedger {
        /// The file.
        path: PathBuf,
    },
    /// The ledger file is older than the records.
    #[error(
        "{path}: begins at record {found}, but the ledger file ends before record {expected}: that is an older copy. Put \
         the newer one back, or move both journal files away to begin from the copy"
    )]
    Gap {
        /// The file.
        path: PathBuf,
        /// Sequence of the record that is missing.
        expected: u64,
        /// Sequence of the record found.
        found: u64,
    },
}

/// One of the two files.
struct Segment {
    file: File,
    path: PathBuf,
    /// Octets that the file has.
    size: u64,
    /// Where the next record goes.
    end: u64,
    /// Sequence of its last record; 0: it has none.
    last: u64,
}

/// The open journal.
pub struct Journal {
    segments: [Segment; 2],
    /// Index of the file that is appended to.
    active: usize,
    /// Sequence of the last record.
    sequence: u64,
    /// Checksum of the last record.
    previous: u64,
    buffer: Vec<u8>,
}

/// A record as it was read.
struct Record<'a> {
    sequence: u64,
    previous: u64,
    checksum: u64,
    durable: u64,
    changes: &'a [u8],
    /// Where it ends.
    end: u64,
}

impl Record<'_> {
    /// Whether it is the next record after this sequence, where `latest` is the sequence and checksum of the last one.
    fn follows(&self, sequence: u64, latest: Option<(u64, u64)>) -> bool {
        let continues = latest.is_none_or(|(last, checksum)| last != sequence || checksum == self.previous);
        self.sequence == sequence + 1 && continues
    }
}

impl Journal {
    /// Whether a state directory has a journal.
    pub fn exists(state_dir: &Path) -> bool {
        JOURNALS.iter().any(|name| state_dir.join(name).exists())
    }

    /// Opens both files, makes them if need be, and hands the changes of each record after `applied` to `replay`, in
    /// order. `ledger` is the number of the ledger file that they belong to.
    ///
    /// Nothing is known to be on the disk then: a sync may have failed, after which Linux takes what it has lost for
    /// written. So everything is written again, for the next sync.
    pub fn open(
        state_dir: &Path,
        ledger: u64,
        applied: u64,
        mut replay: impl FnMut(u64, &[u8]),
    ) -> Result<Journal, JournalError> {
        let [a, b] = JOURNALS.map(|name| Segment::open(&state_dir.join(name), ledger));
        let mut segments = [a?, b?];
        let images = [segments[0].read()?, segments[1].read()?];
        let chains = images.each_ref().map(|image| chain(image));
        let last = |at: usize| chains[at].last().map_or(0, |record| record.sequence);
        let order = if last(1) < last(0) { [1, 0] } else { [0, 1] };
        let (mut sequence, mut latest, mut active) = (applied, None, order[0]);
        let mut is_dropped = false;
        'files: for at in order {
            for record in &chains[at] {
                if record.sequence > applied {
                    if !record.follows(sequence, latest) {
                        let durable = chains.iter().flatten().map(|record| record.durable).max();
                        segments[at].refuse_gap(record.sequence, sequence, durable.unwrap_or(0))?;
                        is_dropped = true;
                        break 'files;
                    }
                    replay(record.sequence, record.changes);
                    sequence = record.sequence;
                }
                (latest, active) = (Some((record.sequence, record.checksum)), at);
                (segments[at].end, segments[at].last) = (record.end, record.sequence);
            }
        }
        if latest.is_none_or(|(last, _)| last != sequence) {
            // All of it is older than the tables.
            segments.iter_mut().for_each(|segment| (segment.end, segment.last) = (HEADER, 0));
        }
        for (segment, image) in segments.iter_mut().zip(&images) {
            segment.write(HEADER, &image[HEADER as usize..segment.end as usize])?;
            if is_dropped {
                segment.end_chain()?;
            }
        }
        let previous = latest.map_or(0, |(_, checksum)| checksum);
        Ok(Journal { segments, active, sequence, previous, buffer: Vec::new() })
    }

    /// Sequence of the last record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Whether both files have all that they may have: nothing more may be decided until the tables have followed.
    pub fn check_room(&self, freed: u64) -> Result<(), JournalError> {
        let is_full = self.octets(freed) >= JOURNAL_OCTETS_MAX;
        if is_full { Err(JournalError::Full { path: self.segments[self.active].path.clone() }) } else { Ok(()) }
    }

    /// Whether both files are still in a folder, so that the next engine finds them. Asks the open files, which waits for
    /// no disk.
    pub fn check_files(&self) -> Result<(), JournalError> {
        let is_deleted = |segment: &&Segment| segment.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        match self.segments.iter().find(is_deleted) {
            Some(segment) => Err(JournalError::Deleted { path: segment.path.clone() }),
            None => Ok(()),
        }
    }

    /// Octets of records that the tables do not contain on the disk, up to the size of a file more.
    pub fn octets(&self, freed: u64) -> u64 {
        let octets = |segment: &Segment| if segment.last > freed { segment.end } else { 0 };
        self.segments.iter().map(octets).sum()
    }

    /// Handles for syncing, in the order of [`JOURNALS`].
    pub fn handles(&self) -> Result<[(File, PathBuf); 2], JournalError> {
        let handle = |segment: &Segment| match segment.file.try_clone() {
            Ok(file) => Ok((file, segment.path.clone())),
            Err(source) => Err(segment.error(source)),
        };
        let [a, b] = self.segments.each_ref().map(handle);
        Ok([a?, b?])
    }

    /// Appends the changes of a tick: its sequence, and the index of the file that it is in. `freed`: the tables
    /// contain everything up to there on the disk; `durable`: tables or journal do. After an error nothing is appended,
    /// and the same call may be made again.
    pub fn append(&mut self, changes: &[u8], freed: u64, durable: u64) -> Result<(u64, usize), JournalError> {
        let sequence = self.sequence + 1;
        self.buffer.clear();
        self.buffer.extend_from_slice(&(changes.len() as u32).to_le_bytes());
        self.buffer.extend_from_slice(&[0; 8]);
        for number in [self.previous, sequence, durable] {
            self.buffer.extend_from_slice(&number.to_le_bytes());
        }
        self.buffer.extend_from_slice(changes);
        let checksum = checksum(&self.buffer);
        self.buffer[4..12].copy_from_slice(&checksum.to_le_bytes());
        let at = self.place(freed);
        let segment = &mut self.segments[at];
        let begin = if at == self.active { segment.end } else { HEADER };
        segment.write(begin, &self.buffer)?;
        (segment.end, segment.last) = (begin + self.buffer.len() as u64, sequence);
        (self.active, self.sequence, self.previous) = (at, sequence, checksum);
        Ok((sequence, at))
    }

    /// Index of the file for the record in the buffer: the other one if this one is full and the other one is free.
    fn place(&mut self, freed: u64) -> usize {
        let [active, other] = [self.active, 1 - self.active];
        let is_full = self.segments[active].end + self.buffer.len() as u64 > FILE_OCTETS;
        if is_full && self.segments[other].last <= freed {
            self.segments[other].shrink();
            return other;
        }
        active
    }
}

impl Segment {
    fn open(path: &Path, ledger: u64) -> Result<Segment, JournalError> {
        let error = |source| JournalError::Io { path: path.to_owned(), source };
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(path);
        let file = opened.map_err(error)?;
        simulate::file_opened(path);
        let size = file.metadata().map_err(error)?.len();
        let mut segment = Segment { file, path: path.to_owned(), size, end: HEADER, last: 0 };
        let mut header = [0; HEADER as usize];
        if size >= FILE_OCTETS {
            segment.file.read_exact_at(&mut header, 0).map_err(error)?;
        }
        let word = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        match (word(0), word(8)) {
            (MAGIC, found) if found == ledger => {}
            (MAGIC, _) => return Err(JournalError::OtherLedger { path: path.to_owned() }),
            _ => segment.make(ledger)?,
        }
        Ok(segment)
    }

    /// Takes the room and says whose it is. The header comes last: without it the file counts as not made.
    fn make(&mut self, ledger: u64) -> Result<(), JournalError> {
        self.write(HEADER, &vec![0; (FILE_OCTETS - HEADER) as usize])?;
        self.sync()?;
        let mut header = [0; HEADER as usize];
        header[..8].copy_from_slice(&MAGIC.to_le_bytes());
        header[8..16].copy_from_slice(&ledger.to_le_bytes());
        self.write(0, &header)?;
        self.sync()?;
        let folder = self.path.parent().unwrap_or(Path::new("/"));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| self.error(source))
    }

    fn error(&self, source: io::Error) -> JournalError {
        JournalError::Io { path: self.path.clone(), source }
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), JournalError> {
        let end = at + bytes.len() as u64;
        let (part, result) = simulate::file_write(&self.path, at, bytes, end > self.size);
        self.file.write_all_at(&bytes[..part], at).and(result).map_err(|source| self.error(source))?;
        self.size = self.size.max(end);
        Ok(())
    }

    fn sync(&self) -> Result<(), JournalError> {
        sync(&self.file, &self.path).map_err(|source| self.error(source))
    }

    /// Makes sure that no record follows the last one that counts: dropped records must not be read again when new
    /// ones have reached their sequences.
    fn end_chain(&mut self) -> Result<(), JournalError> {
        match self.end + RECORD_HEAD as u64 <= self.size {
            true => self.write(self.end, &[0; RECORD_HEAD]),
            false => Ok(()),
        }
    }

    /// Decides what it means that record `found` does not follow `sequence`. `durable`: the highest sequence that any
    /// record names as synced. The first records after a start name none, so the record found cannot tell alone.
    fn refuse_gap(&self, found: u64, sequence: u64, durable: u64) -> Result<(), JournalError> {
        let path = self.path.clone();
        if durable > sequence {
            return Err(JournalError::Gap { path, expected: sequence + 1, found });
        }
        log::warn!(
            "{}: the records from {found} on are dropped: the machine has lost one before them with its power, and \
             none of them was confirmed to anyone",
            path.display()
        );
        Ok(())
    }

    /// Gives back what it took while the tables could not be written. It only costs room where that fails.
    fn shrink(&mut self) {
        if self.size > FILE_OCTETS && self.file.set_len(FILE_OCTETS).is_ok() {
            self.size = FILE_OCTETS;
        }
    }

    fn read(&self) -> Result<Vec<u8>, JournalError> {
        let mut image = vec![0; usize::try_from(self.size).unwrap_or(usize::MAX)];
        self.file.read_exact_at(&mut image, 0).map_err(|source| self.error(source))?;
        Ok(image)
    }
}

/// Waits until what was written to a file is on the disk.
pub fn sync(file: &File, path: &Path) -> io::Result<()> {
    simulate::file_sync(path).unwrap_or_else(|| file.sync_data())
}

/// Checksum of a record: everything but the checksum itself.
fn checksum(record: &[u8]) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(&record[..4]);
    hasher.write(&record[12..]);
    // Zeros, as in a new file, are no record.
    hasher.finish().max(1)
}

/// The records of a file, from the first one on, as far as each follows the one before it.
fn chain(image: &[u8]) -> Vec<Record<'_>> {
    let mut records: Vec<Record<'_>> = Vec::new();
    let mut at = HEADER as usize;
    while let Some(record) = record_at(image, at) {
        let follows = |last: &Record<'_>| last.checksum == record.previous && last.sequence + 1 == record.sequence;
        if !records.last().is_none_or(follows) {
            break;
        }
        at = record.end as usize;
        records.push(record);
    }
    records
}

fn record_at(image: &[u8], at: usize) -> Option<Record<'_>> {
    let head = image.get(at..at + RECORD_HEAD)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let whole = image.get(at..at.checked_add(RECORD_HEAD)?.checked_add(length)?)?;
    let word = |from: usize| whole[from..from + 8].try_into().map_or(0, u64::from_le_bytes);
    let record = Record {
        checksum: word(4),
        previous: word(12),
        sequence: word(20),
        durable: word(28),
        changes: &whole[RECORD_HEAD..],
        end: (at + whole.len()) as u64,
    };
    (record.checksum == checksum(whole)).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEDGER: u64 = 7;

    fn open(folder: &Path, applied: u64) -> (Journal, Vec<(u64, Vec<u8>)>) {
        let mut records = Vec::new();
        let journal = Journal::open(folder, LEDGER, applied, |sequence, changes| {
            records.push((sequence, changes.to_vec()));
        });
        (journal.unwrap_or_else(|error| panic!("{error}")), records)
    }

    fn sequences(folder: &Path, applied: u64) -> Vec<u64> {
        open(folder, applied).1.iter().map(|record| record.0).collect()
    }

    /// Fills more than a file; nothing is applied. The sequence of the last record.
    fn fill(journal: &mut Journal, octets: u64, applied: u64) -> u64 {
        let payload = vec![7; 64 << 10];
        let records = octets / payload.len() as u64 + 1;
        (0..records).map(|_| journal.append(&payload, applied, 0).expect("room").0).last().unwrap_or(0)
    }

    #[test]
    fn what_was_appended_is_replayed_after_what_the_tables_contain() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, records) = open(folder.path(), 0);
        assert!(records.is_empty());
        for text in ["one", "two", "three"] {
            journal.append(text.as_bytes(), 0, 0).expect("room");
        }
        drop(journal);
        let expected = vec![(2, b"two".to_vec()), (3, b"three".to_vec())];
        let (mut journal, records) = open(folder.path(), 1);
        assert_eq!(records, expected);
        assert_eq!(journal.append(b"four", 3, 3).expect("room").0, 4);
        assert_eq!(sequences(folder.path(), 3), [4]);
        assert_eq!(sequences(folder.path(), 4), [0; 0]);
    }

    #[test]
    fn a_torn_record_ends_the_journal_and_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 0);
        for text in ["first", "other", "third"] {
            journal.append(text.as_bytes(), 0, 0).expect("room");
        }
        drop(journal);
        // The second record is torn; the third one is whole, and does not count any more.
        let path = folder.path().join(JOURNALS[0]);
        let second = HEADER + RECORD_HEAD as u64 + 5;
        let file = OpenOptions::new().write(true).open(&path).expect("the file");
        file.write_all_at(b"?", second + RECORD_HEAD as u64).expect("written");
        let (mut journal, records) = open(folder.path(), 0);
        assert_eq!(records, [(1, b"first".to_vec())]);
        // A record of the same length in its place does not bring the third one back.
        journal.append(b"later", 0, 0).expect("room");
        drop(journal);
        assert_eq!(open(folder.path(), 0).1, [(1, b"first".to_vec()), (2, b"later".to_vec())]);
    }

    #[test]
    fn the_files_take_turns_and_grow_only_while_the_tables_do_not_follow() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 0);
        let mut applied = 0;
        for _ in 0..5 {
            applied = fill(&mut journal, FILE_OCTETS, applied);
        }
        let sizes = || JOURNALS.map(|name| std::fs::metadata(folder.path().join(name)).expect("a file").len());
        assert_eq!(sizes(), [FILE_OCTETS; 2]);
        let last = fill(&mut journal, 4 * FILE_OCTETS, applied);
        assert!(sizes().iter().sum::<u64>() > 4 * FILE_OCTETS);
        assert!(journal.octets(applied) > 4 * FILE_OCTETS);
        assert_eq!(journal.octets(last), 0);
        assert_eq!(sequences(folder.path(), applied), (applied + 1..=last).collect::<Vec<_>>());
        applied = last;
        for _ in 0..3 {
            applied = fill(&mut journal, FILE_OCTETS, applied);
        }
        assert_eq!(sizes(), [FILE_OCTETS; 2]);
        assert_eq!(sequences(folder.path(), applied - 1), [applied]);
    }

    #[test]
    fn a_journal_is_bounded_and_goes_on_when_the_tables_have_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 0);
        let payload = vec![7; 16 << 20];
        while journal.check_room(0).is_ok() {
            journal.append(&payload, 0, 0).expect("room");
        }
        let last = journal.sequence();
        assert_eq!(last, 16);
        journal.check_room(last).expect("the tables contain all of it");
        assert_eq!(journal.append(b"next", last, last).expect("room").0, last + 1);
    }

    #[test]
    fn dropped_records_are_not_read_again_when_new_ones_have_reached_their_sequences() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 0);
        let payload = vec![7; 64 << 10];
        let mut places = Vec::new();
        while places.iter().filter(|at| **at == 1).count() < 40 {
            places.push(journal.append(&payload, 0, 0).expect("room").1);
        }
        drop(journal);
        // The last ten records of the first file are lost with the power.
        let kept = places.iter().filter(|at| **at == 0).count() as u64 - 10;
        let file = OpenOptions::new().write(true).open(folder.path().join(JOURNALS[0])).expect("the file");
        let begin = HEADER + kept * (RECORD_HEAD + payload.len()) as u64;
        file.write_all_at(&[0; RECORD_HEAD], begin).expect("written");
        let (mut journal, records) = open(folder.path(), 0);
        assert_eq!(records.len() as u64, kept);
        let last = (0..30).map(|_| journal.append(b"new", 0, 0).expect("room").0).last().unwrap_or(0);
        drop(journal);
        assert_eq!(sequences(folder.path(), 0), (1..=last).collect::<Vec<_>>());
        assert_eq!(sequences(folder.path(), last - 1), [last]);
        assert_eq!(sequences(folder.path(), last), [0; 0]);
    }

    #[test]
    fn an_older_ledger_is_refused_though_the_first_record_after_a_start_names_nothing_as_synced() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 100);
        assert_eq!(journal.append(b"first", 0, 0).expect("room").0, 101);
        journal.append(b"second", 0, 101).expect("room");
        drop(journal);
        let older = Journal::open(folder.path(), LEDGER, 50, |_, _| {}).err();
        assert!(matches!(older, Some(JournalError::Gap { expected: 51, found: 101, .. })), "{older:?}");
        assert_eq!(sequences(folder.path(), 100), [101, 102]);
    }

    #[test]
    fn the_journal_of_another_ledger_and_an_older_ledger_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 0);
        let last = fill(&mut journal, 3 * FILE_OCTETS, 0);
        for sequence in last..last + 40 {
            journal.append(&vec![7; 1 << 20], sequence, sequence).expect("room");
        }
        drop(journal);
        let other = Journal::open(folder.path(), LEDGER + 1, 0, |_, _| {}).err();
        assert!(matches!(other, Some(JournalError::OtherLedger { .. })), "{other:?}");
        let older = Journal::open(folder.path(), LEDGER, 1, |_, _| {}).err();
        assert!(matches!(older, Some(JournalError::Gap { expected: 2, .. })), "{older:?}");
    }
}
