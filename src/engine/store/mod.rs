//! Everything durable, in one SQLite file: accounts and holds (for the ledger), sessions, debits, and how far
//! each ring has been read.
//!
//! ```text
//!   turn ─ put(change)… ─ commit ─► journal (one row, one sync) ─► verdicts and answers
//!                            │ 50 ms, or at once after a large turn, and for an operator
//!                            └────► tables (everything pending, coalesced; the journal is emptied with it)
//! ```
//!
//! A turn's changes are durable as one row of the journal: that is what a verdict waits for. The tables follow in
//! one transaction for many turns. State, money and read marks of a turn move together or not at all.
//!
//! Operators read the tables with `sqlite3`, also while the proxy runs; they change them by RPC only.

pub mod change;
mod history;
mod schema;
mod steps;
mod tables;
mod upgrade;

#[cfg(test)]
mod tests;

use super::clock;
use super::config::Config;
use crate::charge::session::Session;
use crate::charge::time::Time;
use crate::enabler::diameter::peers::PeerStatus;
use crate::enabler::ledger::{Account, Accounts, Hold};
use crate::simulate;
use change::{Change, Marks, Pending, SessionChange, Shown};
use history::Passes;
use rusqlite::{Connection, OptionalExtension, Transaction};
use schema::VERSION;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Marks the file as ours (`PRAGMA application_id`): "imch".
const APPLICATION: i64 = 0x696d_6368;

/// Name of the file in the state directory.
pub const LEDGER: &str = "ledger.sqlite";

/// The store cannot be used: one sentence for an operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite refused.
    #[error("{path}: {source}; check the folder's owner and mode, and the space on its disk")]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// SQLite's own word.
        source: rusqlite::Error,
    },
    /// The file was written by a newer imcharge.
    #[error("{path}: written by a newer imcharge (version {found}, this one knows {VERSION}); install that one again")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
    },
    /// The file was written by a version before the first release.
    #[error(
        "{path}: written by imcharge before its first release (version {found}, this one knows {VERSION}); move the file \
         away, and give the accounts their balances by account.set"
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
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
    /// A crashed engine of another version left something in the journal.
    #[error(
        "{path}: the version that ran before has left row {row} of its journal, which this one cannot read; start \
         that version once more, and stop it cleanly"
    )]
    Journal {
        /// The file.
        path: PathBuf,
        /// Row of the journal.
        row: i64,
    },
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

/// How long the tables may be behind the journal.
const BEHIND: Duration = Duration::from_millis(50);

/// Octets of a turn's changes from which on the tables are written at once: the journal would only double the work.
const LARGE: usize = 32 * 1024;

/// Octets of the write-ahead log, taken at the start; when it is full, it is moved into the file.
const LOG_SIZE: u64 = if simulate::SMALL { 64 << 10 } else { 16 << 20 };

/// The open file.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Octets that the log may have before it is moved into the file.
    reserved: u64,
    /// Of this turn, as the journal keeps them.
    changes: Vec<u8>,
    /// Of this turn and of those that the tables do not show yet.
    pending: Pending,
    /// When the oldest of them was made.
    behind_since: Option<Time>,
    /// The row of the next session.
    next_row: i64,
    /// When old history went last.
    passes: Passes,
}

impl Store {
    /// Opens or makes the file and closes it again: what a starting host asks before it forks.
    pub fn check(config: &Config) -> Result<(), StoreError> {
        let store = Store::open(&config.state_dir)?;
        // A file that cannot be written shows only on writing.
        let probe = store.connection.execute_batch("BEGIN IMMEDIATE; ROLLBACK;");
        probe.map_err(|source| store.error(source))
    }

    /// Opens the file, makes it if need be.
    pub fn open(state_dir: &Path) -> Result<Store, StoreError> {
        let path = state_dir.join(LEDGER);
        let connection = Connection::open(&path).map_err(|source| StoreError::Sqlite { path: path.clone(), source })?;
        let (changes, pending, passes) = (Vec::new(), Pending::default(), Passes::default());
        let store = Store { connection, path, reserved: 0, changes, pending, behind_since: None, next_row: 1, passes };
        store.prepare()?;
        Ok(store)
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let sql = |result: rusqlite::Result<()>| result.map_err(|source| self.error(source));
        let pragma = |name: &str| {
            let read = self.connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            read.map_err(|source| self.error(source))
        };
        sql(self.connection.busy_timeout(std::time::Duration::from_secs(2)))?;
        let found = pragma("user_version")?;
        let tables = self.connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0));
        let empty = tables.map_err(|source| self.error(source))? == 0;
        if !empty && pragma("application_id")? != APPLICATION {
            return Err(StoreError::Foreign { path: self.path.clone() });
        }
        if !empty && found < schema::OLDEST {
            return Err(StoreError::Older { path: self.path.clone(), found });
        }
        if found > VERSION {
            return Err(StoreError::Newer { path: self.path.clone(), found });
        }
        // A commit is on the disk when it returns; the log is moved into the file by `checkpoint`, off the
        // path of a verdict.
        sql(self.connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; \
             PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2048;",
        ))?;
        self.connection.set_prepared_statement_cache_capacity(64);
        if !empty && found < VERSION {
            log::info!("{}: brought from version {found} to {VERSION}", self.path.display());
            return upgrade::upgrade(&self.connection, &self.path);
        }
        if empty {
            let (tables, history) = (schema::TABLES, schema::HISTORY);
            sql(self.connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {tables} {history} PRAGMA application_id={APPLICATION}; \
                 PRAGMA user_version={VERSION}; COMMIT;"
            )))?;
            use std::os::unix::fs::PermissionsExt;
            let _ = std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o640));
        }
        Ok(())
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), source }
    }

    /// Brings the tables up to the journal that a killed engine left, and readies the file for writing. First of all.
    pub fn recover(&mut self) -> Result<(), StoreError> {
        let read = || {
            let mut statement = self.connection.prepare("SELECT id, changes FROM journal ORDER BY id")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
            rows.collect::<rusqlite::Result<Vec<(i64, Vec<u8>)>>>()
        };
        for (row, changes) in read().map_err(|source| self.error(source))? {
            let mut rest = changes.as_slice();
            while !rest.is_empty() {
                let path = || self.path.clone();
                let taken = postcard::take_from_bytes::<Change>(rest);
                let (change, after) = taken.map_err(|_| StoreError::Journal { path: path(), row })?;
                self.pending.take(change);
                rest = after;
            }
        }
        self.write()?;
        let last = "SELECT coalesce(max(id), 0) FROM sessions";
        let last: i64 = self.connection.query_row(last, [], |row| row.get(0)).map_err(|source| self.error(source))?;
        self.next_row = last + 1;
        self.reserve_log()
    }

    /// The sessions that are not forgotten yet.
    pub fn live_sessions(&self) -> Result<Vec<Stored>, StoreError> {
        let read = || {
            let mut statement = self.connection.prepare(
                "SELECT sessions.id, instance, opened_at, state FROM sessions JOIN states ON states.session=sessions.id",
            )?;
            let rows = statement.query_map([], |row| row.try_into())?;
            rows.collect::<rusqlite::Result<Vec<(i64, i64, i64, Vec<u8>)>>>()
        };
        let rows = read().map_err(|source| self.error(source))?;
        let decoded = rows.into_iter().filter_map(|(row, instance, opened_at, state)| {
            let Ok(session) = postcard::from_bytes(&state) else {
                log::error!("{}: the state of session row {row} cannot be read, left as it is", self.path.display());
                return None;
            };
            Some(Stored { row, instance: instance as u64, opened_at, session })
        });
        Ok(decoded.collect())
    }

    /// The marks of an instance, if it has committed any.
    pub fn marks(&self, instance: u64) -> Result<Option<Marks>, StoreError> {
        if let Some(marks) = self.pending.marks.get(&instance) {
            return Ok(Some(marks.clone()));
        }
        let read = self
            .connection
            .query_row("SELECT events, notices FROM marks WHERE instance=?1", [instance as i64], |row| {
                Ok(Marks { events: unpack(&row.get::<_, Vec<u8>>(0)?), notices: unpack(&row.get::<_, Vec<u8>>(1)?) })
            })
            .optional();
        read.map_err(|source| self.error(source))
    }

    /// Changes with the file: whoever has another one has lost all sessions.
    pub fn origin_state_id(&self) -> Result<u32, StoreError> {
        let read = self.connection.query_row("SELECT state_id FROM origin", [], |row| row.get(0));
        read.map_err(|source| self.error(source))
    }

    /// The row of a new session.
    pub fn new_row(&mut self) -> i64 {
        self.next_row += 1;
        self.next_row - 1
    }

    /// Whether this message of this session is debited already.
    pub fn is_debited(&self, row: i64, message_id: &str) -> Result<bool, StoreError> {
        if self.pending.is_debited(row, message_id) {
            return Ok(true);
        }
        let exists = || {
            let sql = "SELECT 1 FROM debits WHERE session=?1 AND message_id=?2";
            self.connection.prepare_cached(sql)?.exists((row, message_id))
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
    }

    /// Makes all changes since the last commit durable, together.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        if self.changes.len() >= LARGE {
            return self.write();
        }
        if !self.changes.is_empty() {
            self.disk()?;
            let sql = "INSERT INTO journal(changes) VALUES(?1)";
            let insert = || self.connection.prepare_cached(sql)?.execute([&self.changes]);
            insert().map_err(|source| self.error(source))?;
            self.changes.clear();
            self.behind_since.get_or_insert_with(clock::now);
        }
        Ok(())
    }

    /// Whether the tables are behind.
    pub fn is_pending(&self) -> bool {
        self.behind_since.is_some()
    }

    /// Whether it is time that the tables follow.
    pub fn is_behind(&self) -> bool {
        self.behind_since.is_some_and(|since| clock::since(since) >= BEHIND)
    }

    /// Brings the tables up to date, durably.
    pub fn write(&mut self) -> Result<(), StoreError> {
        self.write_and(|_| Ok(()))
    }

    /// Says that all sessions belong to this run of the host, and that the rings of every other are read.
    pub fn adopt(&mut self, instance: u64) -> Result<(), StoreError> {
        self.write_and(|transaction| {
            let adopt = "UPDATE sessions SET instance=?1 WHERE id IN (SELECT session FROM states)";
            transaction.execute(adopt, [instance as i64])?;
            transaction.execute("DELETE FROM marks WHERE instance<>?1", [instance as i64])?;
            Ok(())
        })
    }

    /// Whether the disk can be written, as far as a simulation has a say in it.
    fn disk(&self) -> Result<(), StoreError> {
        let full = || rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
        if simulate::disk_fails() { Err(self.error(full())) } else { Ok(()) }
    }

    fn write_and(&mut self, more: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<()>) -> Result<(), StoreError> {
        self.disk()?;
        let write = || {
            let transaction = self.connection.unchecked_transaction()?;
            tables::write(&transaction, &self.pending)?;
            more(&transaction)?;
            simulate::moment();
            transaction.prepare_cached("DELETE FROM journal")?.execute([])?;
            transaction.commit()
        };
        write().map_err(|source| self.error(source))?;
        self.pending = Pending::default();
        self.changes.clear();
        self.behind_since = None;
        match self.log_size() > self.reserved {
            true => self.checkpoint(),
            false => Ok(()),
        }
    }

    /// Moves the write-ahead log into the file and begins it anew.
    pub fn checkpoint(&mut self) -> Result<(), StoreError> {
        let moved = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        self.reserved = self.log_size();
        moved.map_err(|source| self.error(source))
    }

    /// Gives the write-ahead log its size in advance: a commit that makes a file longer costs the file system a commit
    /// of its own. Appends zeros, which SQLite takes for the end of the log.
    fn reserve_log(&mut self) -> Result<(), StoreError> {
        let reserve = || -> std::io::Result<()> {
            use std::io::Write;
            let mut file = std::fs::OpenOptions::new().append(true).open(self.log_path())?;
            let missing = LOG_SIZE.saturating_sub(file.metadata()?.len());
            file.write_all(&vec![0; usize::try_from(missing).unwrap_or(0)])?;
            file.sync_all()
        };
        reserve().map_err(|error| {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_WRITE);
            self.error(rusqlite::Error::SqliteFailure(code, Some(error.to_string())))
        })?;
        self.reserved = self.log_size();
        Ok(())
    }

    fn log_path(&self) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push("-wal");
        PathBuf::from(path)
    }

    fn log_size(&self) -> u64 {
        std::fs::metadata(self.log_path()).map_or(0, |metadata| metadata.len())
    }
}

impl Accounts for Store {
    type Error = StoreError;

    fn account(&self, id: &str) -> Result<Option<Account>, StoreError> {
        if let Some(account) = self.pending.accounts.get(id) {
            return Ok(Some(*account));
        }
        let read = || {
            let sql = "SELECT balance, held, debited, credit_limit FROM accounts WHERE id=?1";
            let mut statement = self.connection.prepare_cached(sql)?;
            let account = statement.query_row([id], |row| {
                let (balance, held, debited, credit_limit) = row.try_into()?;
                Ok(Account { balance, held, debited, credit_limit })
            });
            account.optional()
        };
        read().map_err(|source| self.error(source))
    }

    fn put_account(&mut self, id: &str, account: Account) {
        self.put(Change::Account { id: id.into(), account });
    }

    fn charged(&self, session: i64, message_id: &str) -> Result<Option<i64>, StoreError> {
        if self.pending.is_refunded(session, message_id) {
            return Ok(None);
        }
        if let Some(units) = self.pending.charged(session, message_id) {
            return Ok(Some(i64::try_from(units).unwrap_or(i64::MAX)));
        }
        let read = || {
            let sql = "SELECT units FROM debits WHERE session=?1 AND message_id=?2 AND refunded_at IS NULL";
            let mut statement = self.connection.prepare_cached(sql)?;
            statement.query_row((session, message_id), |row| row.get(0)).optional()
        };
        read().map_err(|source| self.error(source))
    }

    fn held(&self, session: i64) -> Result<i64, StoreError> {
        if let Some(hold) = self.pending.holds.get(&session) {
            return Ok(hold.as_ref().map_or(0, |hold| hold.units));
        }
        let read = || {
            let mut statement = self.connection.prepare_cached("SELECT units FROM holds WHERE session=?1")?;
            statement.query_row([session], |row| row.get(0)).optional()
        };
        Ok(read().map_err(|source| self.error(source))?.unwrap_or(0))
    }

    fn put_hold(&mut self, session: i64, hold: Option<Hold>) {
        self.put(Change::Hold { row: session, hold });
    }
}

fn pack(positions: &[u64]) -> Vec<u8> {
    positions.iter().flat_map(|position| position.to_le_bytes()).collect()
}

fn unpack(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8).map(|word| <[u8; 8]>::try_from(word).unwrap_or_default());
    words.map(u64::from_le_bytes).collect()
}
