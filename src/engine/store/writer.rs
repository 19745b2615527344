//! Writes the tables of the ledger in a separate thread, which waits for other processes' locks and for the disk instead
//! of the engine's thread.
//!
//! A job is one transaction: all pending changes, and the journal record up to which they go. A job that fails is retried
//! until it succeeds; the journal keeps its changes meanwhile.

use super::change::Pending;
use super::database::{self, Database};
use super::history::{Cleanup, Retention};
use super::{StoreError, locks, tables};
use crate::charge::time::Time;
use crate::shm::clock;
use crate::shm::region::Region;
use crate::simulate;
use rusqlite::Connection;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// Longest wait of a transaction for the lock of another process before it is reported.
pub(super) const LOCK_WAIT_MAX: Duration = Duration::from_millis(500);

/// Time between two attempts of a job.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Time between two checkpoints of the write-ahead log while there are writes, and between two checks of an idle writer
/// that the file is in its place.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(1);

/// Octets of the write-ahead log from which the reader that prevents its restart is logged.
const LOG_WARNING_OCTETS: u64 = 64 << 20;

/// Size to which the file of the write-ahead log is truncated when it is restarted.
const LOG_FILE_OCTETS_MAX: u64 = 16 << 20;

/// Octets of the log that are rewritten at a time.
const REWRITE_OCTETS: usize = 1 << 20;

/// A job of the writer.
pub struct Job {
    /// The changes.
    pub pending: Arc<Pending>,
    /// Sequence of the last journal record among them.
    pub through: u64,
    /// Also remove old history.
    pub retention: Option<Retention>,
    /// Whether a command waits for it.
    pub is_urgent: bool,
}

/// Report of the writer.
pub enum Report {
    /// The job cannot be done yet, or the file is not in its place.
    Failing(StoreError),
    /// There is no job, and the file is in its place again.
    InPlace,
    /// The job is done.
    Done {
        /// Sequence of the last journal record that the tables contain.
        through: u64,
        /// Whether they contain it on the disk.
        is_durable: bool,
        /// Octets of the write-ahead log.
        log_octets: u64,
        /// When old history may be removed next; `None`: unchanged.
        history_due: Option<Time>,
    },
}

/// The tables, for writing.
pub struct Tables {
    pub(super) database: Database,
    pub(super) cleanup: Cleanup,
    /// Whether charging records are kept.
    has_records: bool,
    checkpointed: Time,
    log_octets: u64,
    /// Whether the write-ahead log was checkpointed or rewritten since it was opened. A process that died may have left
    /// records in it whose sync failed, and which a power failure would lose.
    is_durable: bool,
}

impl Tables {
    /// Opens the ledger of a state directory for writing. `has_records`: charging records are kept.
    pub fn open(state_dir: &Path, has_records: bool) -> Result<Tables, StoreError> {
        let database = Database::open(state_dir)?;
        let limit = format!("PRAGMA journal_size_limit={LOG_FILE_OCTETS_MAX};");
        let ready =
            database.connection.busy_timeout(LOCK_WAIT_MAX).and_then(|()| database.connection.execute_batch(&limit));
        ready.map_err(|source| database::error(&database.path, source))?;
        let (cleanup, checkpointed) = (Cleanup::default(), clock::now());
        Ok(Tables { database, cleanup, has_records, checkpointed, log_octets: 0, is_durable: false })
    }

    /// Does a job. After an error none of its changes is written.
    pub fn run(&mut self, job: &Job) -> Result<Report, StoreError> {
        self.check_in_place()?;
        if !job.pending.is_empty() {
            self.write(&job.pending, job.through)?;
        }
        let history_due = job.retention.map(|retention| self.remove_old(retention)).transpose()?;
        if !self.is_durable || clock::since(self.checkpointed) >= CHECKPOINT_INTERVAL {
            self.checkpoint()?;
        }
        let (through, is_durable, log_octets) = (job.through, self.is_durable, self.log_octets);
        Ok(Report::Done { through, is_durable, log_octets, history_due })
    }

    fn check_in_place(&self) -> Result<(), StoreError> {
        let path = || self.database.path.clone();
        if self.database.is_in_place() { Ok(()) } else { Err(StoreError::Missing { path: path() }) }
    }

    /// Writes changes and records that the tables contain the journal up to `through`. Does nothing if they do already: a
    /// commit may have reached the disk although it, or what followed it, failed.
    pub fn write(&self, pending: &Pending, through: u64) -> Result<(), StoreError> {
        self.transaction(|connection| {
            let applied = connection.prepare_cached("SELECT applied FROM journal")?.query_row([], |row| row.get(0))?;
            if i64::try_from(through).is_ok_and(|through| through > applied) {
                tables::write(connection, pending, self.has_records)?;
                simulate::crash_point();
                connection.prepare_cached("UPDATE journal SET applied=?1")?.execute([through as i64])?;
            }
            pending.enabler_status.iter().try_for_each(|status| tables::write_enabler_status(connection, status))
        })
    }

    /// Runs `work` in a transaction.
    pub(super) fn transaction(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        let write = || {
            let transaction = rusqlite::Transaction::new_unchecked(
                &self.database.connection,
                rusqlite::TransactionBehavior::Immediate,
            )?;
            work(&transaction)?;
            transaction.commit()
        };
        write().map_err(|source| database::error(&self.database.path, source))
    }

    /// Moves the write-ahead log into the file, as far as readers allow, and without waiting for them. SQLite restarts the
    /// log when no reader needs it any more.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.checkpointed = clock::now();
        let numbers = self
            .database
            .connection
            .query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)));
        let (in_log, moved) = numbers.map_err(|source| database::error(&self.database.path, source))?;
        let is_kept = moved < in_log;
        if is_kept && !self.is_durable {
            self.rewrite_log()?;
        }
        self.is_durable = true;
        self.log_octets = if is_kept { self.database.log_octets() } else { 0 };
        if is_kept && self.log_octets > LOG_WARNING_OCTETS {
            self.warn_about_reader();
        }
        Ok(())
    }

    /// Writes the write-ahead log to the disk again, where a reader prevents its checkpoint. The write lock prevents its
    /// restart meanwhile; readers see the same octets.
    fn rewrite_log(&self) -> Result<(), StoreError> {
        let path = database::beside(&self.database.path, "-wal");
        let rewrite = || {
            let log = File::options().read(true).write(true).open(&path)?;
            let (mut at, mut part) = (0, vec![0; REWRITE_OCTETS]);
            loop {
                let octets = log.read_at(&mut part, at)?;
                if octets == 0 {
                    return log.sync_data();
                }
                log.write_all_at(&part[..octets], at)?;
                at += octets as u64;
            }
        };
        let mut result = Ok(());
        self.transaction(|_| {
            result = rewrite();
            Ok(())
        })?;
        result.map_err(|source| StoreError::Io { path, source })
    }

    fn warn_about_reader(&self) {
        let reader = locks::reader(&self.database.path).map(|holder| holder.to_string());
        log::warn!(
            "{}-wal: {} MiB, because {} has an open read transaction; it grows until that ends",
            self.database.path.display(),
            self.log_octets >> 20,
            reader.as_deref().unwrap_or("another process")
        );
    }
}

/// The engine's end of the writer.
pub enum Writer {
    /// A thread does the work.
    Thread {
        /// Sends jobs; the thread ends when this is dropped.
        jobs: Option<Sender<Job>>,
        /// Receives reports.
        reports: Receiver<Report>,
        /// The thread.
        thread: Option<JoinHandle<()>>,
    },
    /// A simulation does the work in `report`.
    Inline {
        /// The tables.
        tables: Box<Tables>,
        /// The job that is not done yet.
        job: Option<Job>,
    },
}

impl Writer {
    /// Starts the thread. It wakes the engine of the region after an urgent job and when the tables begin to fail.
    pub fn start(mut tables: Tables, region: Option<Arc<Region>>) -> Result<Writer, StoreError> {
        if simulate::is_simulated() {
            return Ok(Writer::Inline { tables: Box::new(tables), job: None });
        }
        let ((jobs, to_do), (to_send, reports)) = (channel(), channel());
        let path = tables.database.path.clone();
        let name = "ledger writer".to_owned();
        let work = move || run_thread(&mut tables, &to_do, &to_send, region.as_deref());
        let thread = std::thread::Builder::new().name(name).spawn(work);
        let thread = thread.map_err(|source| StoreError::Io { path, source })?;
        Ok(Writer::Thread { jobs: Some(jobs), reports, thread: Some(thread) })
    }

    /// Submits a job. The one before it must be done.
    pub fn submit(&mut self, new: Job) {
        match self {
            // If the thread has panicked, `report` says so.
            Writer::Thread { jobs, .. } => drop(jobs.as_ref().map(|jobs| jobs.send(new))),
            Writer::Inline { job, .. } => *job = Some(new),
        }
    }

    /// Returns the next report, if there is one.
    pub fn report(&mut self) -> Result<Option<Report>, StoreError> {
        match self {
            Writer::Thread { reports, .. } => match reports.try_recv() {
                Ok(report) => Ok(Some(report)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err(StoreError::WriterEnded),
            },
            Writer::Inline { tables, job } => {
                let Some(waiting) = job.as_ref() else { return Ok(None) };
                let result = tables.run(waiting);
                if result.is_ok() {
                    *job = None;
                }
                Ok(Some(result.unwrap_or_else(Report::Failing)))
            }
        }
    }
}

impl Drop for Writer {
    /// Waits for the attempt in progress, but not for a retry.
    fn drop(&mut self) {
        if let Writer::Thread { jobs, thread, .. } = self {
            drop(jobs.take());
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// Main loop of the thread, until the engine drops its end of the channel.
fn run_thread(tables: &mut Tables, jobs: &Receiver<Job>, reports: &Sender<Report>, region: Option<&Region>) {
    let send = |report: Report, is_urgent: bool| {
        let is_received = reports.send(report).is_ok();
        if let Some(region) = region.filter(|_| is_urgent) {
            region.wake_engine();
        }
        is_received
    };
    let (mut waiting, mut is_missing): (Option<Job>, bool) = (None, false);
    loop {
        let timeout = if waiting.is_some() { RETRY_INTERVAL } else { CHECKPOINT_INTERVAL };
        match jobs.recv_timeout(timeout) {
            Ok(job) => waiting = Some(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let (result, is_urgent) = match &waiting {
            Some(job) => (tables.run(job).map(Some), job.is_urgent),
            None => (tables.check_in_place().map(|()| is_missing.then_some(Report::InPlace)), false),
        };
        is_missing = result.is_err();
        let is_received = match result {
            Ok(Some(report)) => {
                waiting = None;
                send(report, is_urgent)
            }
            Ok(None) => true,
            Err(error) => send(Report::Failing(error), true),
        };
        if !is_received {
            return;
        }
    }
}
