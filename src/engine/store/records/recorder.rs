//! Moves charging records from the table into files, by the steps of the module above.

use super::RecordError;
use super::files::{self, Folder, OpenFile, Renaming};
use super::line::ChargingRecord;
use super::table::{RecordMark, RecordTable};
use crate::charge::time::Time;
use crate::config::RecordSettings;
use crate::engine::store::StoreError;
use crate::shm::clock;
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use crate::simulate::{self, crash_point};
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Records that are read and written at a time.
const BATCH_RECORDS: usize = simulate::sized(500, 5);

/// How long the ledger may be locked before that is reported.
const FAILURE_GRACE: Duration = Duration::from_secs(1);

/// A failure that lasts.
struct Failure {
    since: Time,
    /// The sentence that was logged last.
    logged: Option<String>,
}

/// The file that is being written.
struct Writing {
    file: OpenFile,
    /// The last record in it.
    last: i64,
    /// When it was created.
    since: Time,
}

/// A file that is complete and synced. It is never written again.
struct Closing {
    /// The mark to be committed.
    mark: RecordMark,
    /// Whether it is committed.
    is_committed: bool,
    records: i64,
}

/// Writes the files of a ledger.
pub struct Recorder {
    table: RecordTable,
    folder: Folder,
    file_size: u64,
    file_age: Duration,
    region: Option<Arc<Region>>,
    /// The mark; `None`: it must be read, and what an earlier process has left must be completed.
    mark: Option<RecordMark>,
    lock: Option<File>,
    writing: Option<Writing>,
    closing: Option<Closing>,
    failure: Option<Failure>,
}

impl Recorder {
    /// Opens the ledger of a state directory. `None`: no folder is configured.
    pub fn open(
        state_dir: &Path,
        settings: &RecordSettings,
        region: Option<Arc<Region>>,
    ) -> Result<Option<Recorder>, StoreError> {
        let Some(path) = settings.dir.clone() else { return Ok(None) };
        Ok(Some(Recorder {
            table: RecordTable::open(state_dir)?,
            folder: Folder { path, node: settings.node_name(), format: settings.format },
            file_size: settings.file_size,
            file_age: Duration::from_secs(settings.file_seconds.into()),
            region,
            mark: None,
            lock: None,
            writing: None,
            closing: None,
            failure: None,
        }))
    }

    /// Writes all records that the table has, and closes files that are full or old; with `closes_file`, any. Reports a
    /// failure; the next call tries again. Returns whether everything was done.
    pub fn run(&mut self, closes_file: bool) -> bool {
        let result = self.write_all(closes_file);
        if result.is_err() {
            // The open file may have lost octets. All of its records are in the table.
            self.writing = None;
            if self.closing.is_none() {
                (self.mark, self.lock) = (None, None);
            }
        }
        self.report(result.as_ref().err());
        result.is_ok()
    }

    fn write_all(&mut self, closes_file: bool) -> Result<(), RecordError> {
        if self.closing.is_some() {
            self.finish_closing()?;
        }
        let mark = match &self.mark {
            Some(mark) => mark.clone(),
            None => self.recover()?,
        };
        let mut last = self.writing.as_ref().map_or(mark.through, |writing| writing.last);
        loop {
            let records = self.table.after(last, BATCH_RECORDS, &self.folder.node)?;
            let Some(newest) = records.last() else { break };
            last = newest.record;
            self.write(&records)?;
        }
        let is_due = |writing: &Writing| closes_file || clock::since(writing.since) >= self.file_age;
        if self.writing.as_ref().is_some_and(is_due) { self.close() } else { Ok(()) }
    }

    /// Writes records to the open file, and closes each file that is full.
    fn write(&mut self, records: &[ChargingRecord]) -> Result<(), RecordError> {
        let (format, file_size) = (self.folder.format, self.file_size);
        let mut lines = Vec::new();
        for record in records {
            let writing = self.open_file()?;
            let is_first = writing.file.octets == 0 && lines.is_empty();
            let written = record.write(&mut lines, format, is_first);
            written.map_err(|source| RecordError::Io { path: writing.file.path.clone(), source })?;
            writing.last = record.record;
            if writing.file.octets + lines.len() as u64 >= file_size {
                writing.file.append(&std::mem::take(&mut lines))?;
                self.close()?;
            }
        }
        match self.writing.as_mut().filter(|_| !lines.is_empty()) {
            Some(writing) => writing.file.append(&lines),
            None => Ok(()),
        }
    }

    /// Completes what an earlier process has begun, and returns the mark.
    fn recover(&mut self) -> Result<RecordMark, RecordError> {
        let mut mark = self.table.mark()?;
        if let Some(path) = mark.closing.take() {
            match files::renaming(&path)? {
                Renaming::FolderReplaced => {
                    log::warn!("{}: was lost with its folder; its charging records are written again", path.display());
                    mark.through = mark.since;
                }
                state => {
                    if state == Renaming::Due {
                        files::rename(&path)?;
                    }
                    files::sync_folder(&path)?;
                }
            }
            crash_point();
        }
        // Also if nothing was being closed: a commit that failed may still be in the write-ahead log, and a crash would
        // bring it back. This one takes its place before its file is written again.
        self.table.set_mark(&mark)?;
        crash_point();
        self.lock = Some(self.folder.lock(self.table.ledger()?)?);
        self.folder.remove_parts()?;
        self.table.delete_through(mark.through)?;
        self.mark = Some(mark.clone());
        Ok(mark)
    }

    /// Returns the file that is being written; creates it if there is none.
    fn open_file(&mut self) -> Result<&mut Writing, RecordError> {
        if self.writing.is_none() {
            let mark = self.mark.clone().unwrap_or_default();
            let file = self.folder.create(mark.sequence + 1)?;
            self.writing = Some(Writing { file, last: mark.through, since: clock::now() });
        }
        Ok(self.writing.as_mut().expect("it was created"))
    }

    /// Closes the file that is being written.
    fn close(&mut self) -> Result<(), RecordError> {
        let Some(Writing { file, last, .. }) = &self.writing else { return Ok(()) };
        file.sync()?;
        crash_point();
        let since = self.mark.as_ref().map_or(0, |mark| mark.through);
        let (sequence, closing) = (file.sequence, Some(file.path.clone()));
        let mark = RecordMark { sequence, since, through: *last, closing };
        self.closing = Some(Closing { records: mark.through - since, mark, is_committed: false });
        self.writing = None;
        self.finish_closing()
    }

    /// Commits the mark and renames the file. After an error it must be called again before anything else: the commit may
    /// have reached the disk, and the file must be the one that it names.
    fn finish_closing(&mut self) -> Result<(), RecordError> {
        let Some(closing) = &mut self.closing else { return Ok(()) };
        let path = closing.mark.closing.clone().unwrap_or_default();
        if !closing.is_committed {
            self.table.set_mark(&closing.mark)?;
            closing.is_committed = true;
            crash_point();
        }
        // A rename that has failed may have happened.
        match files::renaming(&path)? {
            Renaming::Due => files::rename(&path)?,
            Renaming::Done => {}
            Renaming::FolderReplaced => {
                // `recover` writes the file again.
                (self.closing, self.mark) = (None, None);
                return Err(RecordError::Deleted { path });
            }
        }
        files::sync_folder(&path)?;
        crash_point();
        let mark = RecordMark { closing: None, ..closing.mark.clone() };
        self.table.set_mark(&mark)?;
        crash_point();
        let records = closing.records;
        let through = mark.through;
        (self.closing, self.mark) = (None, Some(mark));
        if let Some(region) = &self.region {
            region.counter(Statistic::CdrRecords).fetch_add(records.unsigned_abs(), Ordering::Relaxed);
        }
        self.table.delete_through(through)?;
        Ok(())
    }

    /// Logs a failure once, and its end, and updates the gauges.
    fn report(&mut self, error: Option<&RecordError>) {
        match error {
            Some(error) => self.fails(error),
            None => self.works(),
        }
        let Some(region) = &self.region else { return };
        let is_failing = self.failure.as_ref().is_some_and(|failure| failure.logged.is_some());
        region.counter(Statistic::CdrFailing).store(is_failing.into(), Ordering::Relaxed);
        let through = match (&self.mark, &self.closing) {
            (Some(mark), _) => Ok(mark.through),
            (None, Some(closing)) => Ok(closing.mark.since),
            (None, None) => self.table.mark().map(|mark| mark.through),
        };
        if let (Ok(newest), Ok(through)) = (self.table.newest(), through) {
            let pending = newest.saturating_sub(through).max(0).unsigned_abs();
            region.counter(Statistic::CdrPending).store(pending, Ordering::Relaxed);
        }
    }

    fn fails(&mut self, error: &RecordError) {
        let failure = self.failure.get_or_insert_with(|| Failure { since: clock::now(), logged: None });
        let is_short = matches!(error, RecordError::Store(_)) && clock::since(failure.since) < FAILURE_GRACE;
        let sentence = error.to_string();
        if !is_short && failure.logged.as_ref() != Some(&sentence) {
            log::error!("{sentence}; charging continues, and charging records wait in the ledger until then");
            failure.logged = Some(sentence);
        }
    }

    fn works(&mut self) {
        if let Some(Failure { since, logged: Some(_) }) = self.failure.take() {
            let seconds = clock::since(since).as_secs();
            log::warn!("{}: charging records are written again, after {seconds} s", self.folder.path.display());
        }
    }
}
