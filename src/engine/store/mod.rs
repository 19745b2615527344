//! Durable state: accounts and holds of the embedded ledger, sessions, debits, and how far each ring has been read.
//!
//! ```text
//!   tick ─ put(change)… ─ commit ─► journal (one record; no lock, no wait) ─► verdicts of the embedded ledger
//!                            │         └─ Syncer, after 8 ms or at once ─► requests to a remote enabler, command replies
//!                            └─ Writer, after 50 ms or at once ─► tables (all pending changes in one transaction)
//! ```
//!
//! The changes of a tick are one journal record: state, money and read marks are stored together or not at all. A
//! separate thread writes them to the tables and waits there for the disk and for other processes that have the ledger open.
//! Changes that the tables lack are kept here, so that the engine reads its own changes.
//!
//! Operators may read the tables with `sqlite3` while the proxy runs; they change them by RPC only.

pub mod change;
mod database;
mod error;
mod history;
mod journal;
mod load;
mod locks;
mod records;
mod schema;
mod syncer;
mod tables;
mod trace;
mod writer;

#[cfg(test)]
mod tests;

use crate::charge::ch2::{Operation, Request};
use crate::charge::session::Session;
use crate::charge::time::Time;
use crate::config::RecordSettings;
use crate::enabler::{Account, Funds, StateDirectory, StatusEntry};
use crate::shm::clock;
use crate::shm::region::Region;
use change::{BalanceChange, Change, Marks, Pending, SessionChange, Summary};
use database::Database;
pub use error::StoreError;
pub use history::Retention;
use journal::Journal;
pub use load::{StoredSession, read_session};
use records::RecorderThread;
use rusqlite::OptionalExtension;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
pub use syncer::SYNC_DELAY;
use syncer::Syncer;
use writer::{Job, Report, Tables, Writer};

/// `PRAGMA application_id` of a ledger: "imch".
const APPLICATION: i64 = 0x696d_6368;

/// Name of the ledger file in the state directory.
pub const LEDGER: &str = "ledger.sqlite";

/// How long committed changes are collected before they are handed to the writer.
const WRITE_DELAY: Duration = Duration::from_millis(50);

/// How long the writer may fail before the failure is reported: an operator's statement may hold the lock for a moment.
const FAILURE_GRACE: Duration = Duration::from_secs(1);

/// How often `finish` looks whether the writer is done.
const FINISH_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The writer fails.
struct Failure {
    since: Time,
    /// The sentence that was logged last.
    logged: Option<String>,
    is_fatal: bool,
}

/// The store of a running engine.
pub struct Store {
    database: Database,
    journal: Journal,
    syncer: Syncer,
    writer: Writer,
    recorder: RecorderThread,
    /// Encoded changes of this tick.
    changes: Vec<u8>,
    /// Changes of this tick and of earlier ones that the writer has not got yet.
    pending: Pending,
    /// Changes that the writer is writing.
    writing: Option<Arc<Pending>>,
    /// When the oldest pending change was committed.
    pending_since: Option<Time>,
    /// Whether a command waits for the tables.
    is_urgent: bool,
    /// Sequence of the last journal record that the tables contain.
    applied: u64,
    /// Sequence of the last journal record that the tables contain on the disk; its space can be reused.
    freed: u64,
    /// Row of the next session.
    next_row: i64,
    /// When old history may be removed next.
    history_due: Time,
    failure: Option<Failure>,
    log_octets: u64,
}

impl Store {
    /// Creates or upgrades the ledger of a state directory and checks that it can be used; called before the host forks.
    /// A ledger that is locked, damaged or missing is logged and does not prevent the start: sessions are refused until
    /// that is repaired.
    pub fn check(state_dir: &Path) -> Result<(), StoreError> {
        let checked = Database::open(state_dir).and_then(|database| {
            let mark = database.journal_mark()?;
            Journal::open(state_dir, mark.ledger, mark.applied, |_, _| {})?;
            Ok(())
        });
        match checked {
            Err(error @ (StoreError::Damaged { .. } | StoreError::Missing { .. } | StoreError::Locked { .. })) => {
                log::error!("{error}");
                Ok(())
            }
            checked => checked,
        }
    }

    /// Opens the store and replays the journal of an engine that died. `region` is the one whose engine is woken when a
    /// sync or an urgent write is done. Never creates a ledger: an empty one would hide that all accounts are lost.
    pub fn open(state_dir: &Path, region: Option<&Arc<Region>>) -> Result<Store, StoreError> {
        let records = region.map(|region| region.config.records.clone()).unwrap_or_default();
        Store::open_with(state_dir, &records, region)
    }

    /// As `open`, with other settings of the charging records.
    pub fn open_with(
        state_dir: &Path,
        records: &RecordSettings,
        region: Option<&Arc<Region>>,
    ) -> Result<Store, StoreError> {
        let path = state_dir.join(LEDGER);
        if !path.exists() {
            return Err(StoreError::Missing { path });
        }
        let database = Database::open(state_dir)?;
        let mark = database.journal_mark()?;
        let (mut pending, mut unreadable) = (Pending::default(), None);
        let journal = Journal::open(state_dir, mark.ledger, mark.applied, |sequence, changes| {
            if unreadable.is_none() && !pending.replay(changes) {
                unreadable = Some(sequence);
            }
            if let Some(region) = region {
                region.heartbeat();
            }
        })?;
        if let Some(sequence) = unreadable {
            return Err(StoreError::Record { path: state_dir.to_owned(), sequence });
        }
        let syncer = Syncer::start(&journal, region.cloned())?;
        let recorder = RecorderThread::start(state_dir, records, region)?;
        let tables = Tables::open(state_dir, records.dir.is_some())?;
        let writer = Writer::start(tables, region.cloned())?;
        let last = "SELECT coalesce(max(id), 0) FROM sessions";
        let last = database.connection.query_row(last, [], |row| row.get::<_, i64>(0));
        let last = last.map_err(|source| database::error(&database.path, source))?;
        let last = pending.sessions.last_key_value().map_or(last, |(row, _)| last.max(*row));
        let pending_since = (!pending.is_empty()).then(clock::now);
        Ok(Store {
            database,
            journal,
            syncer,
            writer,
            recorder,
            changes: Vec::new(),
            pending,
            writing: None,
            pending_since,
            is_urgent: false,
            applied: mark.applied,
            freed: 0,
            next_row: last + 1,
            history_due: Time(0),
            failure: None,
            log_octets: 0,
        })
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        database::error(&self.database.path, source)
    }

    /// Changes that the tables lack, latest first.
    fn overlays(&self) -> impl Iterator<Item = &Pending> {
        std::iter::once(&self.pending).chain(self.writing.as_deref())
    }

    /// Reads the sessions that are not forgotten. Only before the first tick.
    pub fn live_sessions(&mut self) -> Result<Vec<StoredSession>, StoreError> {
        let sessions = load::live_sessions(&self.database, &mut self.pending);
        sessions.map_err(|source| self.error(source))
    }

    /// Returns the marks of an instance, if it has committed any.
    pub fn marks(&self, instance: u64) -> Result<Option<Marks>, StoreError> {
        if let Some(marks) = self.overlays().find_map(|pending| pending.marks.get(&instance)) {
            return Ok(Some(marks.clone()));
        }
        let sql = "SELECT events, notifications FROM marks WHERE instance=?1";
        let read = self.database.connection.query_row(sql, [instance as i64], |row| {
            let [events, notifications] = [row.get::<_, Vec<u8>>(0)?, row.get::<_, Vec<u8>>(1)?];
            Ok(Marks { events: tables::unpack(&events), notifications: tables::unpack(&notifications) })
        });
        read.optional().map_err(|source| self.error(source))
    }

    /// Returns what identifies the state directory at the enabler. It changes when the ledger is replaced, which loses all
    /// sessions.
    pub fn state_directory(&self) -> Result<StateDirectory, StoreError> {
        let read = self.database.connection.query_row("SELECT state_id FROM origin", [], |row| row.get(0));
        let state_id = read.map_err(|source| self.error(source))?;
        Ok(StateDirectory { state_id, ledger: self.database.journal_mark()?.ledger })
    }

    /// Returns the row of a new session.
    pub fn new_row(&mut self) -> i64 {
        self.next_row += 1;
        self.next_row - 1
    }

    /// Whether this debit of a message is recorded.
    pub fn is_debited(&self, row: i64, message_id: &str, part: u32) -> Result<bool, StoreError> {
        if self.overlays().any(|pending| pending.is_debited(row, message_id, part)) {
            return Ok(true);
        }
        let exists = || {
            let sql = "SELECT 1 FROM debits WHERE session=?1 AND message_id=?2 AND part=?3";
            self.database.connection.prepare_cached(sql)?.exists((row, message_id, part))
        };
        exists().map_err(|source| self.error(source))
    }

    /// Adds a change to the next commit.
    pub fn put(&mut self, change: Change) {
        let changes = std::mem::take(&mut self.changes);
        self.changes = postcard::to_extend(&change, changes).expect("a change can be encoded into a vector");
        self.pending.apply(change);
    }

    /// Adds a change of a session whose state is at hand.
    pub fn put_session(&mut self, change: SessionChange, session: &Session) {
        let (row, summary) = (change.row, Summary::of(session));
        self.put(Change::Session(change));
        self.pending.set_summary(row, summary);
    }

    /// Writes the status of the enabler's servers to the tables, without a commit.
    pub fn put_enabler_status(&mut self, status: Vec<StatusEntry>) {
        self.pending.enabler_status = Some(status);
        self.pending_since.get_or_insert_with(clock::now);
    }

    /// Appends all changes since the last commit to the journal and returns the sequence of their record. They survive
    /// the death of all processes; a power failure only once [`Store::durable`] has reached the sequence, which
    /// `is_urgent` speeds up. After an error the changes are kept for the next call.
    pub fn commit(&mut self, is_urgent: bool) -> Result<u64, StoreError> {
        if !self.changes.is_empty() {
            let durable = self.durable()?;
            let (sequence, file) = self.journal.append(&self.changes, self.freed, durable)?;
            self.syncer.written(sequence, file, is_urgent);
            self.changes.clear();
            self.pending_since.get_or_insert_with(clock::now);
        }
        Ok(self.journal.sequence())
    }

    /// Returns the sequence of the last record that survives a power failure. An error means that a sync has failed: the
    /// engine must end, so that the next one writes the contents of the journal again.
    pub fn durable(&self) -> Result<u64, StoreError> {
        Ok(self.syncer.durable()?.max(self.freed))
    }

    /// Returns the sequence of the record up to which commands may be answered: the last one that the tables contain, or,
    /// while the writer fails, the last durable one. A command would time out before the failure ends.
    pub fn answerable(&self) -> Result<u64, StoreError> {
        if self.failure.is_some() { self.durable() } else { Ok(self.applied) }
    }

    /// Checks that the journal is in its place and has room for another tick.
    pub fn check_room(&self) -> Result<(), StoreError> {
        self.journal.check_files()?;
        Ok(self.journal.check_room(self.freed)?)
    }

    /// When the oldest record was committed that does not survive a power failure yet.
    #[cfg(feature = "simulate")]
    pub fn unsynced_since(&self) -> Option<Time> {
        self.syncer.unsynced_since()
    }

    /// Whether a write to the tables or a sync is outstanding.
    pub fn is_pending(&self) -> bool {
        self.pending_since.is_some() || self.writing.is_some() || self.syncer.unsynced_since().is_some()
    }

    /// Makes the next write to the tables urgent, because a command waits for it.
    pub fn expedite(&mut self) {
        self.is_urgent = true;
    }

    /// Takes the writer's reports and gives it its next job. With `retention`, old history may be removed. An error means
    /// that the engine must end: the next one recreates a journal that was deleted.
    pub fn drive_writer(&mut self, retention: Option<Retention>) -> Result<(), StoreError> {
        while let Some(report) = self.writer.report()? {
            match report {
                Report::Failing(error) => {
                    self.writer_fails(&error);
                    break;
                }
                Report::InPlace => self.writer_works(),
                Report::Done { through, is_durable, log_octets, history_due } => {
                    self.writing = None;
                    self.applied = self.applied.max(through);
                    if is_durable {
                        self.freed = self.applied;
                        self.recorder.begin();
                    }
                    self.log_octets = log_octets;
                    self.history_due = history_due.unwrap_or(self.history_due);
                    self.writer_works();
                }
            }
        }
        let is_due = self.pending_since.is_some_and(|since| self.is_urgent || clock::since(since) >= WRITE_DELAY);
        let retention = retention.filter(|retention| retention.now >= self.history_due);
        // Changes of the current tick are not committed yet, so the writer must not get them.
        if self.writing.is_none() && self.changes.is_empty() && (is_due || retention.is_some()) {
            self.submit(retention);
        }
        self.recorder.drive();
        // Ending the engine loses nothing only if the tables contain everything and are in their place.
        match self.journal.check_files() {
            Err(error) if self.is_all_applied() && self.database.is_in_place() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn is_all_applied(&self) -> bool {
        self.applied == self.journal.sequence() && self.changes.is_empty()
    }

    fn submit(&mut self, retention: Option<Retention>) {
        let pending = Arc::new(std::mem::take(&mut self.pending));
        self.writing = Some(Arc::clone(&pending));
        self.pending_since = None;
        let is_urgent = std::mem::take(&mut self.is_urgent);
        self.writer.submit(Job { pending, through: self.journal.sequence(), retention, is_urgent });
    }

    fn writer_fails(&mut self, error: &StoreError) {
        let fresh = || Failure { since: clock::now(), logged: None, is_fatal: false };
        let failure = self.failure.get_or_insert_with(fresh);
        if clock::since(failure.since) < FAILURE_GRACE && !error.is_fatal() {
            return;
        }
        failure.is_fatal |= error.is_fatal();
        let sentence = error.to_string();
        if failure.logged.as_ref() != Some(&sentence) {
            let consequence = match error.is_fatal() {
                true => "new sessions are refused",
                false => "charging continues, and changes are kept in the journal until then",
            };
            log::error!("{sentence}; {consequence}");
            failure.logged = Some(sentence);
        }
    }

    fn writer_works(&mut self) {
        if let Some(Failure { since, logged: Some(_), .. }) = self.failure.take() {
            let seconds = clock::since(since).as_secs();
            log::warn!("{}: can be written again, after {seconds} s", self.database.path.display());
        }
    }

    /// Whether the writer has failed for longer than `FAILURE_GRACE`.
    pub fn is_failing(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.logged.is_some())
    }

    /// Whether the ledger cannot be trusted, so that new sessions must be refused.
    pub fn is_unusable(&self) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.is_fatal)
    }

    /// Returns the octets of journal records that a failing writer has not written, and those of SQLite's write-ahead log
    /// that a reader keeps from being reused.
    pub fn backlog_octets(&self) -> (u64, u64) {
        let journal = if self.is_failing() { self.journal.octets(self.freed) } else { 0 };
        (journal, self.log_octets)
    }

    /// Writes all charging records and closes their file, waiting for at most `timeout`. The tables keep the rest.
    pub fn finish_records(&mut self, timeout: Duration) {
        self.recorder.finish(timeout);
    }

    /// Writes everything to the tables, waiting for at most `timeout`. The journal keeps the rest.
    pub fn finish(&mut self, timeout: Duration) -> Result<(), StoreError> {
        let begun = clock::now();
        self.is_urgent = true;
        while self.is_pending() && clock::since(begun) < timeout {
            self.drive_writer(None)?;
            self.durable()?;
            clock::pause(FINISH_POLL_INTERVAL);
        }
        Ok(())
    }
}

/// Accounts and holds, for enablers that keep them here. A session is named by its row.
impl Store {
    /// Reads what the enabler has to know to execute this request.
    pub fn funds(&self, row: i64, request: &Request) -> Result<Funds, StoreError> {
        let charged = match &request.operation {
            Operation::Refund { message_id, part, .. } => self.charged(row, message_id, *part)?.unwrap_or(0),
            Operation::Reserve { .. } | Operation::Debit { .. } | Operation::Release => 0,
        };
        Ok(Funds { account: self.account(request.account.as_str())?, held: self.held(row)?, charged })
    }

    /// Reads an account; `None`: there is none of this id.
    pub fn account(&self, id: &str) -> Result<Option<Account>, StoreError> {
        if let Some(account) = self.overlays().find_map(|pending| pending.accounts.get(id)) {
            return Ok(*account);
        }
        let read = || {
            let sql = "SELECT balance, held, debited, credit_limit, full_units, is_low FROM accounts WHERE id=?1";
            let mut statement = self.database.connection.prepare_cached(sql)?;
            let account = statement.query_row([id], |row| {
                let (balance, held, debited, limit, full, is_low) = row.try_into()?;
                Ok(Account { balance, held, debited, limit, full, is_low })
            });
            account.optional()
        };
        read().map_err(|source| self.error(source))
    }

    /// Writes an account whose units were held or released.
    pub fn put_account(&mut self, id: &str, account: Account) {
        self.put(Change::Account { id: id.into(), account });
    }

    /// Reads the `account.add` of an account with this reference: its amount, and the account's balance, held units and
    /// credit limit after it.
    pub fn added(&self, id: &str, reference: &str) -> Result<Option<(i64, Account)>, StoreError> {
        if let Some(BalanceChange { amount, account, .. }) =
            self.overlays().find_map(|pending| pending.added(id, reference))
        {
            return Ok(Some((*amount, *account)));
        }
        let read = || {
            let sql = "SELECT amount, balance, held, credit_limit FROM balance_changes \
                       WHERE account=?1 AND reference=?2 AND kind='add'";
            let mut statement = self.database.connection.prepare_cached(sql)?;
            let added = statement.query_row([id, reference], |row| {
                let (amount, balance, held, limit) = row.try_into()?;
                Ok((amount, Account { balance, held, limit, ..Account::default() }))
            });
            added.optional()
        };
        read().map_err(|source| self.error(source))
    }

    /// Reads the units of a debit; `None`: there is no such debit, or it was refunded.
    fn charged(&self, session: i64, message_id: &str, part: u32) -> Result<Option<i64>, StoreError> {
        if self.overlays().any(|pending| pending.is_refunded(session, message_id, part)) {
            return Ok(None);
        }
        if let Some(units) = self.overlays().find_map(|pending| pending.charged(session, message_id, part)) {
            return Ok(Some(tables::signed(units)));
        }
        let read = || {
            let sql = "SELECT units FROM debits WHERE session=?1 AND message_id=?2 AND part=?3 AND refunded_at IS NULL";
            let mut statement = self.database.connection.prepare_cached(sql)?;
            statement.query_row((session, message_id, part), |row| row.get(0)).optional()
        };
        read().map_err(|source| self.error(source))
    }

    /// Reads the units that a session holds of its account.
    fn held(&self, session: i64) -> Result<i64, StoreError> {
        if let Some(units) = self.overlays().find_map(|pending| pending.holds.get(&session)) {
            return Ok(*units);
        }
        let read = || {
            let mut statement = self.database.connection.prepare_cached("SELECT units FROM holds WHERE session=?1")?;
            statement.query_row([session], |row| row.get(0)).optional()
        };
        Ok(read().map_err(|source| self.error(source))?.unwrap_or(0))
    }

    /// Sets the units that a session holds of its account.
    pub fn put_held(&mut self, session: i64, units: i64) {
        self.put(Change::Held { row: session, units });
    }
}
