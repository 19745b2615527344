//! The journal: changes that the tables may lack, in two preallocated files that only the engine opens.
//!
//! ```text
//!   journal-a  │ header │ record │ record │ ...      appended to until it is full
//!   journal-b  │ header │ record │ ...               next, if the tables contain all of its old records
//!   record     │ length │ checksum │ previous │ sequence │ durable │ changes of one tick
//! ```
//!
//! Any process can hold SQLite's lock, and SQLite's commit waits for the disk; a verdict can wait for neither. It waits
//! for one `pwrite` here. A written record survives the death of all processes; `Syncer` makes it survive a power failure.
//!
//! `checksum` covers the rest of the record; `previous` is the checksum of the record before it. Reading stops at the first
//! record that does not follow its predecessor: later ones belong to an earlier use of the file, or the disk has lost a
//! record between them. `durable` is the highest sequence known to be synced when the record was written. It distinguishes
//! an unsynced tail that was lost from a ledger file that is older than its journal. All numbers are little-endian.

use crate::simulate;
use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Names of the files in the state directory.
pub const JOURNALS: [&str; 2] = ["journal-a", "journal-b"];

/// Initial size of each file, in octets.
const FILE_OCTETS: u64 = simulate::sized(8 << 20, 16 << 10);

/// Octets of both files together from which new sessions are refused, because the tables cannot be written.
pub const JOURNAL_OCTETS_MAX: u64 = simulate::sized(256 << 20, 256 << 10);

/// First octets of a journal file: "imchjrn" and the version of the format.
const MAGIC: u64 = 0x696d_6368_6a72_6e01;

/// Octets of the header of a file.
const HEADER_OCTETS: u64 = 64;

/// Octets of a record before its changes.
const RECORD_HEAD_OCTETS: usize = 36;

/// Why the journal cannot be used. The text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system failed.
    #[error("{path}: {}", super::error::describe(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Both files have reached their limit, because the tables cannot be written.
    #[error("{path}: full ({JOURNAL_OCTETS_MAX} octets), because the ledger could not be written for too long")]
    Full {
        /// The file.
        path: PathBuf,
    },
    /// A file was deleted while the engine has it open. Its contents are lost when the engine ends.
    #[error("{path}: was deleted; it is created again as soon as the ledger contains all of its records")]
    Deleted {
        /// The file.
        path: PathBuf,
    },
    /// The journal belongs to another ledger file.
    #[error(
        "{path}: belongs to another ledger file than the one beside it; put that one back, or move both journal files \
         away and lose the changes in them"
    )]
    OtherLedger {
        /// The file.
        path: PathBuf,
    },
    /// The ledger file is older than the journal.
    #[error(
        "{path}: begins at record {found}, but the ledger file ends before record {expected}: it is an older copy. Put \
         the newer one back, or move both journal files away to continue from the copy"
    )]
    Gap {
        /// The file.
        path: PathBuf,
        /// Sequence of the first missing record.
        expected: u64,
        /// Sequence of the record that was found instead.
        found: u64,
    },
}

/// One of the two files.
struct Segment {
    file: File,
    path: PathBuf,
    /// Size of the file in octets.
    size: u64,
    /// Offset of the next record.
    end: u64,
    /// Sequence of its last record; 0 without one.
    last: u64,
}

/// The open journal.
pub struct Journal {
    segments: [Segment; 2],
    /// Index of the file that records are appended to.
    active: usize,
    /// Sequence of the last record.
    sequence: u64,
    /// Checksum of the last record.
    previous: u64,
    buffer: Vec<u8>,
}

/// A record that was read.
struct Record<'a> {
    sequence: u64,
    previous: u64,
    checksum: u64,
    durable: u64,
    changes: &'a [u8],
    /// Offset of its end.
    end: u64,
}

impl Record<'_> {
    /// Whether it follows the record `sequence`. `latest`: sequence and checksum of the last record read, if any.
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

    /// Opens both files, creating them if needed, and passes the changes of each record after `applied` to `replay`, in
    /// order. `ledger` is the number of the ledger file that they belong to.
    ///
    /// All valid records are written again, for the next sync: an earlier sync may have failed, after which Linux
    /// considers the pages it lost as written.
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
            // The tables contain all of it.
            segments.iter_mut().for_each(|segment| (segment.end, segment.last) = (HEADER_OCTETS, 0));
        }
        for (segment, image) in segments.iter_mut().zip(&images) {
            segment.write(HEADER_OCTETS, &image[HEADER_OCTETS as usize..segment.end as usize])?;
            if is_dropped {
                segment.end_chain()?;
            }
        }
        let previous = latest.map_or(0, |(_, checksum)| checksum);
        Ok(Journal { segments, active, sequence, previous, buffer: Vec::new() })
    }

    /// Returns the sequence of the last record.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Checks that the limit of both files is not reached. Beyond it nothing may be decided until the tables catch up.
    pub fn check_room(&self, freed: u64) -> Result<(), JournalError> {
        let is_full = self.octets(freed) >= JOURNAL_OCTETS_MAX;
        if is_full { Err(JournalError::Full { path: self.segments[self.active].path.clone() }) } else { Ok(()) }
    }

    /// Checks that neither file was deleted, so that the next engine finds them. Looks at the open files, which needs no
    /// disk access.
    pub fn check_files(&self) -> Result<(), JournalError> {
        let is_deleted = |segment: &&Segment| segment.file.metadata().is_ok_and(|metadata| metadata.nlink() == 0);
        match self.segments.iter().find(is_deleted) {
            Some(segment) => Err(JournalError::Deleted { path: segment.path.clone() }),
            None => Ok(()),
        }
    }

    /// Returns the octets of the files whose records are not all in the tables on the disk, which is up to a file too many.
    pub fn octets(&self, freed: u64) -> u64 {
        let octets = |segment: &Segment| if segment.last > freed { segment.end } else { 0 };
        self.segments.iter().map(octets).sum()
    }

    /// Returns handles for syncing, in the order of [`JOURNALS`].
    pub fn handles(&self) -> Result<[(File, PathBuf); 2], JournalError> {
        let handle = |segment: &Segment| match segment.file.try_clone() {
            Ok(file) => Ok((file, segment.path.clone())),
            Err(source) => Err(segment.error(source)),
        };
        let [a, b] = self.segments.each_ref().map(handle);
        Ok([a?, b?])
    }

    /// Appends the changes of a tick. Returns the sequence of the record and the index of its file. `freed`: sequence up
    /// to which the tables contain everything on the disk; `durable`: the same for tables or journal. After an error
    /// nothing is appended, and the call may be repeated.
    pub fn append(&mut self, changes: &[u8], freed: u64, durable: u64) -> Result<(u64, usize), JournalError> {
        let sequence = self.sequence + 1;
        self.buffer.clear();
        let length = u32::try_from(changes.len()).expect("the changes of a tick are far smaller than 4 GiB");
        self.buffer.extend_from_slice(&length.to_le_bytes());
        self.buffer.extend_from_slice(&[0; 8]);
        for number in [self.previous, sequence, durable] {
            self.buffer.extend_from_slice(&number.to_le_bytes());
        }
        self.buffer.extend_from_slice(changes);
        let checksum = checksum(&self.buffer);
        self.buffer[4..12].copy_from_slice(&checksum.to_le_bytes());
        let at = self.place(freed);
        let segment = &mut self.segments[at];
        let begin = if at == self.active { segment.end } else { HEADER_OCTETS };
        segment.write(begin, &self.buffer)?;
        (segment.end, segment.last) = (begin + self.buffer.len() as u64, sequence);
        (self.active, self.sequence, self.previous) = (at, sequence, checksum);
        Ok((sequence, at))
    }

    /// Chooses the file of the record in the buffer: the other one if the active one is full and the other one is free.
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
        let mut segment = Segment { file, path: path.to_owned(), size, end: HEADER_OCTETS, last: 0 };
        let mut header = [0; HEADER_OCTETS as usize];
        if size >= FILE_OCTETS {
            segment.file.read_exact_at(&mut header, 0).map_err(error)?;
        }
        let word = |at: usize| header[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
        match (word(0), word(8)) {
            (MAGIC, found) if found == ledger => {}
            (MAGIC, _) => return Err(JournalError::OtherLedger { path: path.to_owned() }),
            _ => segment.create(ledger)?,
        }
        Ok(segment)
    }

    /// Allocates the file and writes its header. The header comes last: without it the file is made again.
    fn create(&mut self, ledger: u64) -> Result<(), JournalError> {
        self.write(HEADER_OCTETS, &vec![0; (FILE_OCTETS - HEADER_OCTETS) as usize])?;
        self.sync()?;
        let mut header = [0; HEADER_OCTETS as usize];
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

    /// Ends the chain after the last valid record, so that dropped records are not read again once new records have
    /// reached their sequences.
    fn end_chain(&mut self) -> Result<(), JournalError> {
        match self.end + RECORD_HEAD_OCTETS as u64 <= self.size {
            true => self.write(self.end, &[0; RECORD_HEAD_OCTETS]),
            false => Ok(()),
        }
    }

    /// Decides what it means that record `found` does not follow `sequence`. `durable`: highest sequence that any record
    /// calls synced. The first records after a start carry 0, so record `found` alone is not enough.
    fn refuse_gap(&self, found: u64, sequence: u64, durable: u64) -> Result<(), JournalError> {
        let path = self.path.clone();
        if durable > sequence {
            return Err(JournalError::Gap { path, expected: sequence + 1, found });
        }
        log::warn!(
            "{}: the records from {found} on are dropped: a power failure has lost a record before them, and none of \
            them was confirmed to anyone",
            path.display()
        );
        Ok(())
    }

    /// Truncates a file that has grown while the tables could not be written. A failure only costs space.
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

/// Waits until everything written to a file is on the disk.
pub fn sync(file: &File, path: &Path) -> io::Result<()> {
    simulate::file_sync(path).unwrap_or_else(|| file.sync_data())
}

/// Computes the checksum of a record: over everything but the checksum itself, never 0.
fn checksum(record: &[u8]) -> u64 {
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(&record[..4]);
    hasher.write(&record[12..]);
    // A new file is all zeros, which must not be a record.
    hasher.finish().max(1)
}

/// Reads the records of a file, up to the first one that does not follow its predecessor.
fn chain(image: &[u8]) -> Vec<Record<'_>> {
    let mut records: Vec<Record<'_>> = Vec::new();
    let mut at = HEADER_OCTETS as usize;
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
    let head = image.get(at..at + RECORD_HEAD_OCTETS)?;
    let length = u32::from_le_bytes(head[..4].try_into().ok()?) as usize;
    let whole = image.get(at..at.checked_add(RECORD_HEAD_OCTETS)?.checked_add(length)?)?;
    let word = |from: usize| whole[from..from + 8].try_into().map_or(0, u64::from_le_bytes);
    let record = Record {
        checksum: word(4),
        previous: word(12),
        sequence: word(20),
        durable: word(28),
        changes: &whole[RECORD_HEAD_OCTETS..],
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

    /// Appends more than `octets` and returns the last sequence. `applied`: sequence up to which the tables have followed.
    fn fill(journal: &mut Journal, octets: u64, applied: u64) -> u64 {
        let payload = vec![7; 64 << 10];
        let records = octets / payload.len() as u64 + 1;
        (0..records).map(|_| journal.append(&payload, applied, 0).expect("room").0).last().unwrap_or(0)
    }

    #[test]
    fn replay_begins_after_the_applied_record() {
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
    fn torn_record_ends_the_journal_and_is_overwritten() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 0);
        for text in ["first", "other", "third"] {
            journal.append(text.as_bytes(), 0, 0).expect("room");
        }
        drop(journal);
        // The second record is torn. The third one is intact but has no predecessor.
        let path = folder.path().join(JOURNALS[0]);
        let second = HEADER_OCTETS + RECORD_HEAD_OCTETS as u64 + 5;
        let file = OpenOptions::new().write(true).open(&path).expect("the file");
        file.write_all_at(b"?", second + RECORD_HEAD_OCTETS as u64).expect("written");
        let (mut journal, records) = open(folder.path(), 0);
        assert_eq!(records, [(1, b"first".to_vec())]);
        // A record of the same length in its place must not bring the third one back.
        journal.append(b"later", 0, 0).expect("room");
        drop(journal);
        assert_eq!(open(folder.path(), 0).1, [(1, b"first".to_vec()), (2, b"later".to_vec())]);
    }

    #[test]
    fn files_alternate_and_grow_only_while_the_tables_lag() {
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
    fn journal_is_bounded_and_accepts_records_once_the_tables_have_caught_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 0);
        let payload = vec![7; 16 << 20];
        while journal.check_room(0).is_ok() {
            journal.append(&payload, 0, 0).expect("room");
        }
        let last = journal.sequence();
        assert_eq!(last, 16);
        journal.check_room(last).expect("room, because the tables contain everything");
        assert_eq!(journal.append(b"next", last, last).expect("room").0, last + 1);
    }

    #[test]
    fn dropped_records_are_not_read_again_when_new_ones_reach_their_sequences() {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut journal, _) = open(folder.path(), 0);
        let payload = vec![7; 64 << 10];
        let mut places = Vec::new();
        while places.iter().filter(|at| **at == 1).count() < 40 {
            places.push(journal.append(&payload, 0, 0).expect("room").1);
        }
        drop(journal);
        // A power failure loses the last ten records of the first file.
        let kept = places.iter().filter(|at| **at == 0).count() as u64 - 10;
        let file = OpenOptions::new().write(true).open(folder.path().join(JOURNALS[0])).expect("the file");
        let begin = HEADER_OCTETS + kept * (RECORD_HEAD_OCTETS + payload.len()) as u64;
        file.write_all_at(&[0; RECORD_HEAD_OCTETS], begin).expect("written");
        let (mut journal, records) = open(folder.path(), 0);
        assert_eq!(records.len() as u64, kept);
        let last = (0..30).map(|_| journal.append(b"new", 0, 0).expect("room").0).last().unwrap_or(0);
        drop(journal);
        assert_eq!(sequences(folder.path(), 0), (1..=last).collect::<Vec<_>>());
        assert_eq!(sequences(folder.path(), last - 1), [last]);
        assert_eq!(sequences(folder.path(), last), [0; 0]);
    }

    #[test]
    fn older_ledger_is_refused_although_the_first_record_after_a_start_names_no_synced_one() {
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
    fn journal_of_another_ledger_and_older_ledger_are_refused() {
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
