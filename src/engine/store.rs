//! Everything durable, in one SQLite file: accounts and holds (for the ledger), sessions, debits, and how far
//! each ring has been read. A batch of events is one transaction, so that state, money and read marks move
//! together or not at all.
//!
//! Operators read it with `sqlite3`, also while the proxy runs; they change it by RPC only.

use super::config::Config;
use crate::charge::session::Session;
use rusqlite::{Connection, OptionalExtension, Transaction, params};
use std::path::{Path, PathBuf};

/// Version of the schema, in `PRAGMA user_version`.
const VERSION: i64 = 1;

/// Marks the file as ours (`PRAGMA application_id`): "imch".
const APPLICATION: i64 = 0x696d_6368;

/// Name of the file in the state directory.
pub const LEDGER: &str = "ledger.sqlite";

/// Tables and what they mean, as an operator reads them with `.schema`.
pub const SCHEMA: &str = "
-- Who pays. balance: what can still be used; held: reserved and not yet used; debited: all that was ever
-- used; balance + held + debited changes only by RPC. credit_limit: how far below zero balance may go.
CREATE TABLE accounts(
  id TEXT PRIMARY KEY, balance INTEGER NOT NULL, held INTEGER NOT NULL DEFAULT 0,
  debited INTEGER NOT NULL DEFAULT 0, credit_limit INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
-- What a session holds of an account. expires_at: UNIX milliseconds after which an idle session gives it back.
CREATE TABLE holds(
  session INTEGER PRIMARY KEY, account TEXT NOT NULL, units INTEGER NOT NULL, expires_at INTEGER NOT NULL);
-- One row per session, open or closed. opened_at, closed_at: UNIX milliseconds. granted: messages (or
-- kilobytes) granted in all. state: what the engine needs of it, until it is forgotten.
CREATE TABLE sessions(
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, call_id TEXT NOT NULL, account TEXT NOT NULL, other TEXT NOT NULL,
  icid TEXT NOT NULL, direction TEXT NOT NULL, tariff TEXT NOT NULL, instance INTEGER NOT NULL,
  opened_at INTEGER NOT NULL, closed_at INTEGER, phase TEXT NOT NULL, granted INTEGER NOT NULL DEFAULT 0,
  state BLOB);
CREATE INDEX sessions_call ON sessions(call_id);
CREATE INDEX sessions_live ON sessions(id) WHERE state IS NOT NULL;
-- One row per debited message: who, when (UNIX milliseconds), which, how large, what it cost and why then.
-- trigger: response, error (with the MSRP code), timeout or close.
CREATE TABLE debits(
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, call_id TEXT NOT NULL, message_id TEXT NOT NULL,
  account TEXT NOT NULL, octets INTEGER NOT NULL, units INTEGER NOT NULL, trigger TEXT NOT NULL,
  code INTEGER NOT NULL, at INTEGER NOT NULL, UNIQUE(session, message_id));
CREATE INDEX debits_account ON debits(account);
-- How far the rings of the running instance have been read and written.
CREATE TABLE marks(instance INTEGER PRIMARY KEY, events BLOB NOT NULL, notices BLOB NOT NULL);
";

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
    /// The file is another program's.
    #[error("{path}: not a ledger of imcharge; move it away or choose another state_dir")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
}

/// A session as it was stored.
pub struct Stored {
    /// Row.
    pub row: i64,
    /// Which run of the host opened it.
    pub instance: u64,
    /// The machine.
    pub session: Session,
}

/// Read and write positions of the rings.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Up to where each event ring is read.
    pub events: Vec<u64>,
    /// Up to where each notice ring is written.
    pub notices: Vec<u64>,
}

/// Octets of the write-ahead log, taken at the start; when it is full, it is moved into the file.
const LOG_SIZE: u64 = 16 << 20;

/// The open file.
pub struct Store {
    connection: Connection,
    path: PathBuf,
    /// Octets that the log may have before it is moved into the file.
    reserved: std::cell::Cell<u64>,
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
        let store = Store { connection, path, reserved: std::cell::Cell::new(0) };
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
        if found > VERSION {
            return Err(StoreError::Newer { path: self.path.clone(), found });
        }
        // A commit is on the disk when it returns; the log is moved into the file by `checkpoint`, off the
        // path of a verdict.
        sql(self.connection.execute_batch(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; \
             PRAGMA temp_store=MEMORY; PRAGMA cache_size=-8192;",
        ))?;
        self.connection.set_prepared_statement_cache_capacity(64);
        if empty {
            sql(self.connection.execute_batch(&format!(
                "BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; COMMIT;"
            )))?;
            use std::os::unix::fs::PermissionsExt;
            let _ = std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o640));
        }
        Ok(())
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.clone(), source }
    }

    /// The sessions that are not forgotten yet.
    pub fn live_sessions(&self) -> Result<Vec<Stored>, StoreError> {
        let read = || {
            let mut statement =
                self.connection.prepare("SELECT id, instance, state FROM sessions WHERE state IS NOT NULL")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?, row.get(2)?)))?;
            rows.collect::<rusqlite::Result<Vec<(i64, i64, Vec<u8>)>>>()
        };
        let rows = read().map_err(|source| self.error(source))?;
        let decoded = rows.into_iter().filter_map(|(row, instance, state)| match postcard::from_bytes(&state) {
            Ok(session) => Some(Stored { row, instance: instance as u64, session }),
            Err(_) => {
                log::error!("{}: the state of session row {row} cannot be read, left as it is", self.path.display());
                None
            }
        });
        Ok(decoded.collect())
    }

    /// The marks of an instance, if it has committed any.
    pub fn marks(&self, instance: u64) -> Result<Option<Marks>, StoreError> {
        let read = self
            .connection
            .query_row("SELECT events, notices FROM marks WHERE instance=?1", [instance as i64], |row| {
                Ok(Marks { events: unpack(&row.get::<_, Vec<u8>>(0)?), notices: unpack(&row.get::<_, Vec<u8>>(1)?) })
            })
            .optional();
        read.map_err(|source| self.error(source))
    }

    /// Begins the transaction of a batch.
    pub fn begin(&mut self) -> Result<Batch<'_>, StoreError> {
        let path = self.path.clone();
        let transaction = self.connection.transaction().map_err(|source| StoreError::Sqlite { path, source })?;
        Ok(Batch { transaction, path: &self.path })
    }

    /// Moves the write-ahead log into the file and begins it anew.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let moved = self.connection.query_row("PRAGMA wal_checkpoint(RESTART)", [], |_| Ok(()));
        self.reserved.set(self.log_size());
        moved.map_err(|source| self.error(source))
    }

    /// Gives the write-ahead log its size in advance: a commit that makes a file longer costs the file system a commit
    /// of its own. Appends zeros, which SQLite takes for the end of the log.
    pub fn reserve_log(&self) -> Result<(), StoreError> {
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
        self.reserved.set(self.log_size());
        Ok(())
    }

    /// Whether the write-ahead log has filled the size it was given, and should be moved into the file.
    pub fn log_is_full(&self) -> bool {
        self.log_size() > self.reserved.get()
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

/// The transaction of one batch. Dropped without [`Batch::commit`], nothing of it stays.
pub struct Batch<'a> {
    /// The transaction, for the ledger.
    pub transaction: Transaction<'a>,
    path: &'a Path,
}

impl Batch<'_> {
    /// Turns SQLite's error into one that names the file.
    pub fn error(&self, source: rusqlite::Error) -> StoreError {
        StoreError::Sqlite { path: self.path.to_owned(), source }
    }

    fn execute(&self, sql: &str, values: impl rusqlite::Params) -> Result<usize, StoreError> {
        let run = || self.transaction.prepare_cached(sql)?.execute(values);
        run().map_err(|source| self.error(source))
    }

    /// Adds a session; its row.
    pub fn insert_session(&self, session: &Session, instance: u64, wall_ms: i64) -> Result<i64, StoreError> {
        self.execute(
            "INSERT INTO sessions(key, call_id, account, other, icid, direction, tariff, instance, opened_at, phase) \
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
            params![
                session.key().to_string(),
                session.call_id(),
                session.account(),
                session.other(),
                session.icid(),
                match session.direction() {
                    crate::charge::event::Direction::Pull => "pull",
                    crate::charge::event::Direction::Push => "push",
                },
                session.tariff().to_string(),
                instance as i64,
                wall_ms,
                session.phase(),
            ],
        )?;
        Ok(self.transaction.last_insert_rowid())
    }

    /// Writes what has changed of a session. `closed_at`: UNIX milliseconds, when it is closed.
    pub fn update_session(&self, row: i64, session: &Session, closed_at: Option<i64>) -> Result<(), StoreError> {
        let state = postcard::to_stdvec(session).unwrap_or_default();
        let granted = session.granted().0;
        self.execute(
            "UPDATE sessions SET phase=?2, granted=?3, closed_at=coalesce(closed_at, ?4), state=?5 WHERE id=?1",
            params![row, session.phase(), granted, closed_at, state],
        )?;
        Ok(())
    }

    /// Forgets the state of a settled session; its record stays.
    pub fn forget_session(&self, row: i64) -> Result<(), StoreError> {
        self.execute("UPDATE sessions SET state=NULL WHERE id=?1", [row])?;
        Ok(())
    }

    /// Says that a session belongs to this run of the host now.
    pub fn adopt_sessions(&self, instance: u64) -> Result<(), StoreError> {
        self.execute("UPDATE sessions SET instance=?1 WHERE state IS NOT NULL", [instance as i64])?;
        Ok(())
    }

    /// Whether this message of this session is debited already.
    pub fn is_debited(&self, row: i64, message_id: &str) -> Result<bool, StoreError> {
        let exists = || {
            let sql = "SELECT 1 FROM debits WHERE session=?1 AND message_id=?2";
            self.transaction.prepare_cached(sql)?.exists(params![row, message_id])
        };
        exists().map_err(|source| self.error(source))
    }

    /// Records a debit, once. `false`: this message of this session was debited before.
    pub fn insert_debit(&self, debit: &Debit<'_>) -> Result<bool, StoreError> {
        let inserted = self.execute(
            "INSERT OR IGNORE INTO debits(session, call_id, message_id, account, octets, units, trigger, code, at) \
             VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
            params![
                debit.row,
                debit.call_id,
                debit.message_id,
                debit.account,
                debit.octets as i64,
                debit.units as i64,
                debit.trigger,
                debit.code,
                debit.wall_ms,
            ],
        )?;
        Ok(inserted == 1)
    }

    /// Writes how far the rings are read and written.
    pub fn set_marks(&self, instance: u64, marks: &Marks) -> Result<(), StoreError> {
        self.execute(
            "INSERT OR REPLACE INTO marks(instance, events, notices) VALUES(?1, ?2, ?3)",
            params![instance as i64, pack(&marks.events), pack(&marks.notices)],
        )?;
        Ok(())
    }

    /// Drops the marks of every other instance: their rings are read.
    pub fn drop_other_marks(&self, instance: u64) -> Result<(), StoreError> {
        self.execute("DELETE FROM marks WHERE instance<>?1", [instance as i64])?;
        Ok(())
    }

    /// Makes the batch durable.
    pub fn commit(self) -> Result<(), StoreError> {
        let path = self.path;
        self.transaction.commit().map_err(|source| StoreError::Sqlite { path: path.to_owned(), source })
    }
}

/// One debited message, for the record.
pub struct Debit<'a> {
    /// Row of its session.
    pub row: i64,
    /// Call-ID of its session.
    pub call_id: &'a str,
    /// Message-ID.
    pub message_id: &'a str,
    /// Who paid.
    pub account: &'a str,
    /// Size of the content.
    pub octets: u64,
    /// What it cost.
    pub units: u64,
    /// Word of the trigger.
    pub trigger: &'a str,
    /// MSRP status, for a debit on error; else 0.
    pub code: u16,
    /// When, UNIX milliseconds.
    pub wall_ms: i64,
}

fn pack(positions: &[u64]) -> Vec<u8> {
    positions.iter().flat_map(|position| position.to_le_bytes()).collect()
}

fn unpack(bytes: &[u8]) -> Vec<u64> {
    let words = bytes.chunks_exact(8).map(|word| <[u8; 8]>::try_from(word).unwrap_or_default());
    words.map(u64::from_le_bytes).collect()
}
