//! Writes the tables of the ledger file, in a thread of its own: it waits for other processes' locks and for the disk,
//! so that the engine's thread does not.
//!
//! A job is one transaction: everything that has changed, and up to which journal record that is. One that fails is
//! tried again until it is done; the journal keeps what it contains.

use super::change::Pending;
use super::database::{self, Database};
use super::history::{Pass, Passes};
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

/// How long a transaction waits for the lock of another process before it is reported.
const LOCK_PATIENCE: Duration = Duration::from_millis(500);

/// Between two tries.
const RETRY: Duration = Duration::from_millis(200);

/// How often the write-ahead log is moved into the file while there are writes, and how often an idle writer looks
/// whether the file is still in its place.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// Octets of the write-ahead log from which on the reader that keeps it from being begun anew is named.
const LOG_OCTETS_NORMAL: u64 = 64 << 20;

/// Octets that the log's file keeps when it is begun anew.
const LOG_OCTETS_KEPT: u64 = 16 << 20;

/// Octets of the log that are written again at a time.
const PART_OCTETS: usize = 1 << 20;

/// What is to be written.
pub struct Job {
    /// Everything that has changed.
    pub pending: Arc<Pending>,
    /// Sequence of the last journal record in it.
    pub through: u64,
    /// Old history is to be removed too.
    pub history: Option<Pass>,
    /// Whether an operator waits for it.
    pub is_urgent: bool,
}

/// What became of a job.
pub enum Report {
    /// It cannot be done yet, or the file is not in its place.
    Failing(StoreError),
    /// There is no job, and the file is in its place again.
    InPlace,
    /// It is done, durably.
    Done {
        /// Sequence of the last journal record that the tables contain.
        through: u64,
        /// Whether they do on the disk.
        is_durable: bool,
        /// Octets of the write-ahead log.
        log_octets: u64,
        /// When old history may be removed next; `None`: unchanged.
        history_due: Option<Time>,
    },
}

/// The tables, and who may write them.
pub struct Tables {
    pub(super) database: Database,
    pub(super) passes: Passes,
    checkpointed: Time,
    log_octets: u64,
    /// Whether the write-ahead log was moved into the file, or written again, since it was opened. What a process that
    /// has died left in the log may be there after a sync that failed, and be lost with the power.
    is_durable: bool,
}

impl Tables {
    /// Opens the ledger of a state directory for writing.
    pub fn open(state_dir: &Path) -> Result<Tables, StoreError> {
        let database = Database::open(state_dir)?;
        let limit = format!("PRAGMA journal_size_limit={LOG_OCTETS_KEPT};");
        let ready =
            database.connection.busy_timeout(LOCK_PATIENCE).and_then(|()| database.connection.execute_batch(&limit));
        ready.map_err(|source| database::error(&database.path, source))?;
        let (passes, checkpointed) = (Passes::default(), clock::now());
        Ok(Tables { database, passes, checkpointed, log_octets: 0, is_durable: false })
    }

    /// Does a job; after an error nothing of its changes is written.
    pub fn run(&mut self, job: &Job) -> Result<Report, StoreError> {
        self.look_at_the_file()?;
        if !job.pending.is_empty() {
            self.write(&job.pending, job.through)?;
        }
        let history_due = job.history.map(|pass| self.remove_old(pass)).transpose()?;
        if !self.is_durable || clock::since(self.checkpointed) >= CHECKPOINT {
            self.checkpoint()?;
        }
        let (through, is_durable, log_octets) = (job.through, self.is_durable, self.log_octets);
        Ok(Report::Done { through, is_durable, log_octets, history_due })
    }

    fn look_at_the_file(&self) -> Result<(), StoreError> {
        let path = || self.database.path.clone();
        if self.database.is_in_place() { Ok(()) } else { Err(StoreError::Missing { path: path() }) }
    }

    /// Writes changes, and that the tables contain the journal up to this record. They may contain it already: a commit
    /// can be on the disk and fail, and so can what follows it.
    pub fn write(&self, pending: &Pending, through: u64) -> Result<(), StoreError> {
        self.transaction(|connection| {
            let applied = connection.prepare_cached("SELECT applied FROM journal")?.query_row([], |row| row.get(0))?;
            if i64::try_from(through).is_ok_and(|through| through > applied) {
                tables::write(connection, pending)?;
                simulate::crash_point();
                connection.prepare_cached("UPDATE journal SET applied=?1")?.execute([through as i64])?;
            }
            pending.peers.iter().try_for_each(|peers| tables::write_peers(connection, peers))
        })
    }

    /// Does something in a transaction of its own.
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

    /// Moves what it can of the write-ahead log into the file. Waits for no reader: the log is begun anew when none of
    /// them needs it any more.
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
        if is_kept && self.log_octets > LOG_OCTETS_NORMAL {
            self.name_the_reader();
        }
        Ok(())
    }

    /// Writes what is in the write-ahead log to the disk again, where a reader keeps it from being moved into the file.
    /// The write lock keeps it from being begun anew meanwhile; readers find the same octets.
    fn rewrite_log(&self) -> Result<(), StoreError> {
        let path = database::beside(&self.database.path, "-wal");
        let rewrite = || {
            let log = File::options().read(true).write(true).open(&path)?;
            let (mut at, mut part) = (0, vec![0; PART_OCTETS]);
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

    fn name_the_reader(&self) {
        let reader = locks::reader(&self.database.path).map(|holder| holder.to_string());
        log::warn!(
            "{}-wal: {} MiB, because {} has an open read transaction; it grows until that ends",
            self.database.path.display(),
            self.log_octets >> 20,
            reader.as_deref().unwrap_or("another process")
        );
    }
}

/// The engine's end of the thread.
pub enum Writer {
    /// Where the thread is.
    Thread {
        /// What it is to write; the thread ends when this is gone.
        jobs: Option<Sender<Job>>,
        /// What it says.
        reports: Receiver<Report>,
        /// Itself.
        thread: Option<JoinHandle<()>>,
    },
    /// A simulation does the work when it is asked for reports.
    Inline {
        /// What writes.
        tables: Box<Tables>,
        /// What is not done yet.
        job: Option<Job>,
    },
}

impl Writer {
    /// Starts the thread. It wakes the engine of the region after an urgent job, and when the tables begin to fail.
    pub fn start(mut tables: Tables, region: Option<Arc<Region>>) -> Result<Writer, StoreError> {
        if simulate::is_simulated() {
            return Ok(Writer::Inline { tables: Box::new(tables), job: None });
        }
        let ((jobs, to_do), (to_tell, reports)) = (channel(), channel());
        let path = tables.database.path.clone();
        let name = "ledger writer".to_owned();
        let work = move || serve(&mut tables, &to_do, &to_tell, region.as_deref());
        let thread = std::thread::Builder::new().name(name).spawn(work);
        let thread = thread.map_err(|source| StoreError::Io { path, source })?;
        Ok(Writer::Thread { jobs: Some(jobs), reports, thread: Some(thread) })
    }

    /// Hands over a job. One at a time.
    pub fn submit(&mut self, new: Job) {
        match self {
            // Without a receiver the thread has panicked; `report` says so.
            Writer::Thread { jobs, .. } => drop(jobs.as_ref().map(|jobs| jobs.send(new))),
            Writer::Inline { job, .. } => *job = Some(new),
        }
    }

    /// What it has to say.
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
    /// Waits for what the thread is doing, but not for what it has to try again.
    fn drop(&mut self) {
        if let Writer::Thread { jobs, thread, .. } = self {
            drop(jobs.take());
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// The life of the thread: until the engine's end of the channel is gone.
fn serve(tables: &mut Tables, jobs: &Receiver<Job>, reports: &Sender<Report>, region: Option<&Region>) {
    let tell = |report: Report, is_urgent: bool| {
        let is_heard = reports.send(report).is_ok();
        if let Some(region) = region.filter(|_| is_urgent) {
            region.wake_engine();
        }
        is_heard
    };
    let (mut waiting, mut is_missing): (Option<Job>, bool) = (None, false);
    loop {
        let patience = if waiting.is_some() { RETRY } else { CHECKPOINT };
        match jobs.recv_timeout(patience) {
            Ok(job) => waiting = Some(job),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let (result, is_urgent) = match &waiting {
            Some(job) => (tables.run(job).map(Some), job.is_urgent),
            None => (tables.look_at_the_file().map(|()| is_missing.then_some(Report::InPlace)), false),
        };
        is_missing = result.is_err();
        let is_heard = match result {
            Ok(Some(report)) => {
                waiting = None;
                tell(report, is_urgent)
            }
            Ok(None) => true,
            Err(error) => tell(Report::Failing(error), true),
        };
        if !is_heard {
            return;
        }
    }
}
