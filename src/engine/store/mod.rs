//! Everything durable: accounts and holds (for the ledger), sessions, debits, and how far each ring has been read.
//!
//! ```text
//!   tick ─ put(change)… ─ commit ─► journal (one record, no lock, no wait) ─► verdicts of the ledger
//!                            │         └─ Syncer, 8 ms or at once ─► requests to a distant enabler, operators' answers
//!                            └─ Writer, 50 ms or at once ─► tables (everything pending, coalesced, in one transaction)
//! ```
//!
//! The changes of a tick are one record of the journal: state, money and read marks move together or not at all. The
//! tables follow in a thread of their own, where they wait for the disk and for other processes that have the ledger
//! file open. What they do not contain yet is kept here, so that the engine reads its own changes.
//!
//! Operators read the tables with `sqlite3`, also while the proxy runs; they change them by RPC only.

pub mod change;
mod database;
mod history;
mod journal;
mod locks;
mod schema;
mod steps;
mod syncer;
mod tables;
mod writer;

#[cfg(test)]
mod tests;

use crate::charge::session::Session;
use crate::charge::time::Time;
use crate::enabler::diameter::client::connections::PeerStatus;
use crate::enabler::ledger::{Account, Accounts};
use crate::shm::clock;
use crate::shm::region::Region;
use change::{Change, Marks, Pending, SessionChange, Shown};
use database::Database;
pub use history::Pass;
use journal::{Journal, JournalError};
use rusqlite::{Connection, OptionalExtension};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
pub use syncer::SYNC_DELAY;
use syncer::Syncer;
use writer::{Job, Report, Tables, Writer};

/// Marks the file as ours (`PRAGMA application_id`): "imch".
const APPLICATION: i64 = 0x696d_6368;

/// Name of the file in the state directory.
pub const LEDGER: &str = "ledger.sqlite";

/// The store cannot be used: one sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("{path}: {source}; check the folder's owner and mode, and its disk")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's own word.
        source: rusqlite::Error,
    },
    /// Another process has the write lock.
    #[error("{path}: locked by {holder}; it is written as soon as that process ends its transaction")]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who, as far as the kernel says.
        holder: String,
    },
    /// The disk is full.
    #[error("{path}: no space on its disk; free some")]
    NoSpace {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("{path}: is read-only; check its owner and mode, and whether its disk is mounted read-only")]
    ReadOnly {
        /// The file.
        path: PathBuf,
    },
    /// Its contents are broken.
    #[error("{path}: is damaged ({source}); stop the proxy and restore the file from a backup")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// SQLite's own word.
        source: rusqlite::Error,
    },
    /// It is not where it was.
    #[error(
        "{path}: was deleted, moved or replaced; put the file back, or stop the proxy, restore a backup and remove \
         journal-a and journal-b"
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file has a version that this build neither reads nor upgrades.
    #[error(
        "{path}: ledger version {found}, but this imcharge reads version {expected}; install the imcharge that wrote the \
         file, or move the file, journal-a and journal-b away and set the balances again (account.set)"
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Version of this build.
        expected: i64,
    },
    /// The file needs an upgrade, but its journal contains changes that the tables lack.
    #[error(
        "{path}: cannot upgrade from ledger version {found}, because the journal contains {records} records that only \
         that version reads; start the old imcharge again, stop it cleanly, and then upgrade"
    )]
    NotApplied {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// Journal records that the tables lack.
        records: u64,
    },
    /// The file is another program's.
    #[error("{path}: not a ledger of imcharge; move it away or choose another state_dir")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The distant enabler cannot be asked.
    #[error("{0}")]
    Enabler(String),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A record of the journal is of another build.
    #[error(
        "{path}: record {sequence} was written by another build of imcharge and cannot be read; start that build once \
         more, and stop it cleanly"
    )]
    Record {
        /// The folder.
        path: PathBuf,
        /// Sequence of the record.
        sequence: u64,
    },
    /// The operating system refused.
    #[error("{path}: {}", describe(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The thread that writes the tables has panicked.
    #[error("the thread that writes the ledger has ended; the engine is restarted")]
    WriterEnded,
}

impl StoreError {
    /// Whether new sessions must be refused at once: what the tables say cannot be trusted any more, and no journal
    /// helps there.
    fn is_fatal(&self) -> bool {
        !matches!(
            self,
            StoreError::Locked { .. }
                | StoreError::NoSpace { .. }
                | StoreError::ReadOnly { .. }
                | StoreError::Sqlite { .. }
                | StoreError::Io { .. }
        )
    }
}

/// What an error of the operating system means to an operator.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space on its disk; free some".into(),
        io::ErrorKind::ReadOnlyFilesystem => "its disk is mounted read-only".into(),
        io::ErrorKind::PermissionDenied => "permission denied; it must belong to the user of the proxy".into(),
        _ => error.to_string(),
    }
}

/// A session as it was stored.
pub struct Stored {
    /// Row.
    pub row: i64,
    /// Which run of the host opened it.
    pub instance: u64,
    /// When it was opened, UNIX milliseconds.
    pub opened_at: i64,
    /// The machine.
    pub session: Session,
}

/// The session of a row, by the head of its state.
pub fn read_session(connection: &Connection, row: i64, head: &[u8]) -> rusqlite::Result<Option<Session>> {
    let mut statement = connection.prepare_cached("SELECT state FROM state_parts WHERE session=?1 ORDER BY part")?;
    let parts = statement.query_map([row], |row| row.get(0))?.collect::<rusqlite::Result<Vec<Vec<u8>>>>()?;
    Ok(Session::load(head, parts.iter().map(Vec::as_slice)))
}

/// The same as it is in the tables and in the journal.
#[derive(Default)]
struct StoredState {
    instance: u64,
    opened_at: i64,
    head: Vec<u8>,
    parts: BTreeMap<u32, Vec<u8>>,
}

/// How long the tables may be behind the journal while nothing is wrong.
const BEHIND: Duration = Duration::from_millis(50);

/// How long the tables may fail before that is reported: an operator's statement may hold the lock for a moment.
const FAILING_AFTER: Duration = Duration::from_secs(1);

/// Since when the tables cannot be written, and why.
struct Failing {
    since: Time,
    /// The sentence that was logged; `None`: none yet.
    told: Option<String>,
    is_fatal: bool,
}

/// The store of a running engine.
pub struct Store {
    database: Database,
    journal: Journal,
    syncer: Syncer,
    writer: Writer,
    /// Of this tick, as the journal keeps them.
    changes: Vec<u8>,
    /// Of this tick and of those that were not handed to the writer yet.
    pending: Pending,
    /// What the writer has.
    writing: Option<Arc<Pending>>,
    /// When the oldest pending change was committed.
    behind_since: Option<Time>,
    /// Whether an operator waits for the tables.
    is_urgent: bool,
    /// Sequence of the last record that the tables contain.
    applied: u64,
    /// Sequence of the last record that they contain on the disk: its place in the journal may be used again.
    freed: u64,
    /// The row of the next session.
    next_row: i64,
    /// When old history may be removed next.
    history_due: Time,
    failing: Option<Failing>,
    log_octets: u64,
}

impl Store {
    /// Makes the ledger of a state directory if there is none, and says what is wrong with it: what a starting host
    /// asks before it forks. A lock of another process, and a file that is damaged or missing, do not keep the host from
    /// starting: its sessions are refused until that is mended.
    pub fn check(state_dir: &Path) -> Result<(), StoreError> {
        let made = Database::open(state_dir).and_then(|database| {
            let mark = database.journal_mark()?;
            Journal::open(state_dir, mark.ledger, mark.applied, |_, _| {})?;
            Ok(())
        });
        match made {
            Err(error @ (StoreError::Damaged { .. } | StoreError::Missing { .. } | StoreError::Locked { .. })) => {
                log::error!("{error}");
                Ok(())
            }
            made => made,
        }
    }

    /// Opens the store, with what an engine that died has left in the journal. The region is woken for what waits.
    /// Makes no ledger: where there is none any more, an empty one would hide that all accounts are gone.
    pub fn open(state_dir: &Path, region: Option<&Arc<Region>>) -> Result<Store, StoreError> {
        let path = state_dir.join(LEDGER);
        if !path.exists() {
            return Err(StoreError::Missing { path });
        }
        let database = Database::open(state_dir)?;
        let mark = database.journal_mark()?;
        let (mut pending, mut unreadable) = (Pending::default(), None);
        let journal = Journal::open(state_dir, mark.ledger, mark.applied, |sequence, mut changes| {
            while !changes.is_empty() && unreadable.is_none() {
                match postcard::take_from_bytes(changes) {
                    Ok((change, rest)) => {
                        pending.take(change);
                        changes = rest;
                    }
                    Err(_) => unreadable = Some(sequence),
                }
            }
            if let Some(region) = region {
                region.beat();
            }
        })?;
        if let Some(sequence) = unreadable {
            return Err(StoreError::Record { path: state_dir.to_owned(), sequence });
        }
        let syncer = Syncer::start(&journal, region.cloned())?;
        let writer = Writer::start(Tables::open(state_dir)?, region.cloned())?;
        let last = "SELECT coalesce(max(id), 0) FROM sessions";
        let last = database.connection.query_row(last, [], |row| row.get::<_, i64>(0));
        let last = last.map_err(|source| database::error(&database.path, source))?;
        let last = pending.sessions.last_key_value().map_or(last, |(row, _)| last.max(*row));
        let behind_since = (!pending.is_empty()).then(clock::now);
        Ok(Store {
            database,
            journal,
            syncer,
            writer,
            changes: Vec::new(),
            pending,
            writing: None,
            behind_since,
            is_urgent: false,
            applied: mark.applied,
            freed: 0,
            next_row: last + 1,
            history_due: Time(0),
            failing: None,
            log_octets: 0,
        })
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        database::error(&self.database.path, source)
    }

    /// What the tables do not contain yet, the latest first.
    fn overlays(&self) -> impl Iterator<Item = &Pending> {
        std::iter::once(&self.pending).chain(self.writing.as_deref())
    }

    /// The sessions that are not forgotten yet. Only before the first tick.
    pub fn live_sessions(&mut self) -> Result<Vec<Stored>, StoreError> {
        let mut live = self.stored_states().map_err(|source| self.error(source))?;
        for (row, pending) in &self.pending.sessions {
            if pending.forgotten {
                live.remove(row);
                continue;
            }
            let Some(head) = &pending.head else { continue };
            if let Some((instance, opened_at)) = pending.opened {
                live.entry(*row).or_insert_with(|| StoredState { instance, opened_at, ..StoredState::default() });
            }
            if let Some(stored) = live.get_mut(row) {
                stored.head.clone_from(head);
                stored.parts.extend(pending.parts.iter().map(|(part, state)| (*part, state.clone())));
            }
        }
        let mut sessions = Vec::with_capacity(live.len());
        for (row, StoredState { instance, opened_at, head, parts }) in live {
            let parts = parts.values().filter(|part| !part.is_empty()).map(Vec::as_slice);
            let Some(session) = Session::load(&head, parts) else {
                let path = self.database.path.display();
                log::error!("{path}: the state of session row {row} cannot be read, left as it is");
                continue;
            };
            // Only here it is complete.
            if self.pending.sessions.contains_key(&row) {
                self.pending.show(row, Shown::of(&session));
            }
            let instance = self.pending.adopted.unwrap_or(instance);
            sessions.push(Stored { row, instance, opened_at, session });
        }
        Ok(sessions)
    }

    /// What the tables contain of the sessions that are not forgotten.
    fn stored_states(&self) -> rusqlite::Result<BTreeMap<i64, StoredState>> {
        let connection = &self.database.connection;
        let mut statement = connection.prepare(
            "SELECT sessions.id, instance, opened_at, state FROM sessions JOIN states ON states.session=sessions.id",
        )?;
        let stored = statement.query_map([], |row| {
            let (instance, opened_at, head) = (row.get::<_, i64>(1)? as u64, row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, StoredState { instance, opened_at, head, parts: BTreeMap::new() }))
        })?;
        let mut live = stored.collect::<rusqlite::Result<BTreeMap<i64, StoredState>>>()?;
        let mut statement = connection.prepare("SELECT session, part, state FROM state_parts")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Some(stored) = live.get_mut(&row.get(0)?) {
                stored.parts.insert(row.get(1)?, row.get(2)?);
            }
        }
        Ok(live)
    }

    /// The marks of an instance, if it has committed any.
    pub fn marks(&self, instance: u64) -> Result<Option<Marks>, StoreError> {
        if let Some(marks) = self.overlays().find_map(|pending| pending.marks.get(&instance)) {
            return Ok(Some(marks.clone()));
        }
        let sql = "SELECT events, notifications FROM marks WHERE instance=?1";
        let read = self.database.connection.query_row(sql, [instance as i64], |row| {
            Ok(Marks { events: unpack(&row.get::<_, Vec<u8>>(0)?), notifications: unpack(&row.get::<_, Vec<u8>>(1)?) })
        });
        read.optional().map_err(|source| self.error(source))
    }

    /// Changes with the file: whoever has another one has lost all sessions.
    pub fn origin_state_id(&self) -> Result<u32, StoreError> {
        let read = self.database.connection.query_row("SELECT state_id FROM origin", [], |row| row.get(0));
        read.map_err(|source| self.error(source))
    }

    /// The row of a new session.
    pub fn new_row(&mut self) -> i64 {
        self.next_row += 1;
        self.next_row - 1
    }

    /// Whether this debit of a message of this session stands already.
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

    /// Makes a change, durable with the next commit.
    pub fn put(&mut self, change: Change) {
        // Writing into a vector cannot fail.
        if let Ok(changes) = postcard::to_extend(&change, std::mem::take(&mut self.changes)) {
            self.changes = changes;
        }
        self.pending.take(change);
    }

    /// Makes a change of a session, of which the machine is at hand.
    pub fn put_session(&mut self, change: SessionChange, session: &Session) {
        let (row, shown) = (change.row, Shown::of(session));
        self.put(Change::Session(change));
        self.pending.show(row, shown);
    }

    /// Shows how the peers of a distant enabler stand, with the next write.
    pub fn show_peers(&mut self, peers: Vec<PeerStatus>) {
        self.pending.peers = Some(peers);
        self.behind_since.get_or_insert_with(clock::now);
    }

    /// Writes all changes since the last commit into the journal, together; the sequence of their record. They survive
    /// the death of every process then, and the machine's as soon as [`Store::durable`] says so, which `is_urgent`
    /// hastens. After an error the changes wait for the next call.
    pub fn commit(&mut self, is_urgent: bool) -> Result<u64, StoreError> {
        if !self.changes.is_empty() {
            let durable = self.durable()?;
            let (sequence, file) = self.journal.append(&self.changes, self.freed, durable)?;
            self.syncer.written(sequence, file, is_urgent);
            self.changes.clear();
            self.behind_since.get_or_insert_with(clock::now);
        }
        Ok(self.journal.sequence())
    }

    /// Sequence of the last record that survives the machine. An error means that a sync has failed: the engine must
    /// end, so that the next one writes what is in the journal anew.
    pub fn durable(&self) -> Result<u64, StoreError> {
        Ok(self.syncer.durable()?.max(self.freed))
    }

    /// Sequence of the last record that the tables contain. While they cannot be written, from the first failure on, the
    /// last durable one: an operator's command waits for less time than a failure takes to be reported.
    pub fn shown(&self) -> Result<u64, StoreError> {
        if self.failing.is_some() { self.durable() } else { Ok(self.applied) }
    }

    /// Whether the journal is in its place and has room for another tick.
    pub fn check_room(&self) -> Result<(), StoreError> {
        self.journal.check_files()?;
        Ok(self.journal.check_room(self.freed)?)
    }

    /// Since when something is committed that does not survive the machine yet.
    #[cfg(feature = "simulate")]
    pub fn unsynced_since(&self) -> Option<Time> {
        self.syncer.unsynced_since()
    }

    /// Whether the tables or the disk have to follow.
    pub fn is_pending(&self) -> bool {
        self.behind_since.is_some() || self.writing.is_some() || self.syncer.unsynced_since().is_some()
    }

    /// An operator waits for the tables.
    pub fn hurry(&mut self) {
        self.is_urgent = true;
    }

    /// Hears what the writer says, and hands it what it is time for. `history`: old history may be removed. An error
    /// means that the engine must end: the next one makes a journal that was deleted anew.
    pub fn follow(&mut self, history: Option<Pass>) -> Result<(), StoreError> {
        while let Some(report) = self.writer.report()? {
            match report {
                Report::Failing(error) => {
                    self.tables_fail(&error);
                    break;
                }
                Report::InPlace => self.tables_are_written(),
                Report::Done { through, is_durable, log_octets, history_due } => {
                    self.writing = None;
                    self.applied = self.applied.max(through);
                    self.freed = if is_durable { self.applied } else { self.freed };
                    self.log_octets = log_octets;
                    self.history_due = history_due.unwrap_or(self.history_due);
                    self.tables_are_written();
                }
            }
        }
        let is_behind = self.behind_since.is_some_and(|since| self.is_urgent || clock::since(since) >= BEHIND);
        let history = history.filter(|pass| pass.now >= self.history_due);
        // A pending change without its record is not decided yet.
        if self.writing.is_none() && self.changes.is_empty() && (is_behind || history.is_some()) {
            self.hand_over(history);
        }
        // The end of this process loses nothing only if the tables contain everything, and are where the next one looks.
        match self.journal.check_files() {
            Err(error) if self.is_all_applied() && self.database.is_in_place() => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn is_all_applied(&self) -> bool {
        self.applied == self.journal.sequence() && self.changes.is_empty()
    }

    fn hand_over(&mut self, history: Option<Pass>) {
        let pending = Arc::new(std::mem::take(&mut self.pending));
        self.writing = Some(Arc::clone(&pending));
        self.behind_since = None;
        let is_urgent = std::mem::take(&mut self.is_urgent);
        self.writer.submit(Job { pending, through: self.journal.sequence(), history, is_urgent });
    }

    fn tables_fail(&mut self, error: &StoreError) {
        let failing = self.failing.get_or_insert_with(|| Failing { since: clock::now(), told: None, is_fatal: false });
        if clock::since(failing.since) < FAILING_AFTER && !error.is_fatal() {
            return;
        }
        failing.is_fatal |= error.is_fatal();
        let sentence = error.to_string();
        if failing.told.as_ref() != Some(&sentence) {
            let consequence = match error.is_fatal() {
                true => "new sessions are refused",
                false => "sessions are charged as before, and kept in the journal until then",
            };
            log::error!("{sentence}; {consequence}");
            failing.told = Some(sentence);
        }
    }

    fn tables_are_written(&mut self) {
        if let Some(Failing { since, told: Some(_), .. }) = self.failing.take() {
            let seconds = clock::since(since).as_secs();
            log::warn!("{}: can be written again, after {seconds} s", self.database.path.display());
        }
    }

    /// Whether the tables have not been written for longer than a moment.
    pub fn is_failing(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.told.is_some())
    }

    /// Whether the ledger cannot be trusted, so that new sessions must be refused.
    pub fn is_unusable(&self) -> bool {
        self.failing.as_ref().is_some_and(|failing| failing.is_fatal)
    }

    /// Octets of the journal that the tables do not contain, and of the write-ahead log that readers keep.
    pub fn octets_behind(&self) -> (u64, u64) {
        let journal = if self.is_failing() { self.journal.octets(self.freed) } else { 0 };
        (journal, self.log_octets)
    }

    /// Brings the tables up to date, if that takes no longer than this. The journal keeps what is left.
    pub fn finish(&mut self, patience: Duration) -> Result<(), StoreError> {
        let begun = clock::now();
        self.is_urgent = true;
        while self.is_pending() && clock::since(begun) < patience {
            self.follow(None)?;
            self.durable()?;
            clock::pause(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Accounts for Store {
    type Error = StoreError;

    fn account(&self, id: &str) -> Result<Option<Account>, StoreError> {
        if let Some(account) = self.overlays().find_map(|pending| pending.accounts.get(id)) {
            return Ok(Some(*account));
        }
        let read = || {
            let sql = "SELECT balance, held, debited FROM accounts WHERE id=?1";
            let mut statement = self.database.connection.prepare_cached(sql)?;
            let account = statement.query_row([id], |row| {
                let (balance, held, debited) = row.try_into()?;
                Ok(Account { balance, held, debited })
            });
            account.optional()
        };
        read().map_err(|source| self.error(source))
    }

    fn put_account(&mut self, id: &str, account: Account) {
        self.put(Change::Account { id: id.into(), account });
    }

    fn charged(&self, session: i64, message_id: &str, part: u32) -> Result<Option<i64>, StoreError> {
        if self.overlays().any(|pending| pending.is_refunded(session, message_id, part)) {
            return Ok(None);
        }
        if let Some(units) = self.overlays().find_map(|pending| pending.charged(session, message_id, part)) {
            return Ok(Some(i64::try_from(units).unwrap_or(i64::MAX)));
        }
        let read = || {
            let sql = "SELECT units FROM debits WHERE session=?1 AND message_id=?2 AND part=?3 AND refunded_at IS NULL";
            let mut statement = self.database.connection.prepare_cached(sql)?;
            statement.query_row((session, message_id, part), |row| row.get(0)).optional()
        };
        read().map_err(|source| self.error(source))
    }

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

    fn put_held(&mut self, session: i64, units: i64) {
        self.put(Change::Held { row: session, units });
    }
}

fn pack(positions: &[u64]) -> Vec<u8> {
    positions.iter().flat_map(|position| position.to_le_bytes()).collect()
}

fn unpack(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8).map(|word| <[u8; 8]>::try_from(word).unwrap_or_default());
    words.map(u64::from_le_bytes).collect()
}
