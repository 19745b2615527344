//! Opens the ledger file, and says in an operator's words why it cannot be used.

use super::journal::Journal;
use super::schema::{self, VERSION};
use super::{APPLICATION, LEDGER, StoreError, locks};
use rusqlite::{Connection, ErrorCode, OptionalExtension};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a statement of the engine's thread waits for a lock of the file. Readers of a write-ahead log wait for
/// nothing, except for the instant in which a connection opens or recovers it.
const READ_PATIENCE: Duration = Duration::from_millis(100);

/// The ledger file, open.
pub struct Database {
    /// The connection.
    pub connection: Connection,
    /// Where it is.
    pub path: PathBuf,
    /// Device and inode, by which a file in its place is recognised.
    identity: (u64, u64),
}

/// What the ledger file says of the journal beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalMark {
    /// Random number of the ledger file.
    pub ledger: u64,
    /// Sequence of the last journal record that the tables contain.
    pub applied: u64,
}

impl Database {
    /// Opens the ledger of a state directory that has one.
    pub fn open(state_dir: &Path) -> Result<Database, StoreError> {
        let path = state_dir.join(LEDGER);
        if !path.exists() && Journal::exists(state_dir) {
            return Err(StoreError::Missing { path });
        }
        let error = |source| error(&path, source);
        let connection = Connection::open(&path).map_err(error)?;
        connection.busy_timeout(READ_PATIENCE).map_err(error)?;
        let identity = identity(&path).ok_or_else(|| StoreError::Missing { path: path.clone() })?;
        let database = Database { connection, path: path.clone(), identity };
        database.prepare()?;
        Ok(database)
    }

    fn prepare(&self) -> Result<(), StoreError> {
        let error = |source| error(&self.path, source);
        let tables = self.connection.query_row("SELECT count(*) FROM sqlite_master", [], |row| row.get::<_, i64>(0));
        let is_new = tables.map_err(error)? == 0;
        let found = self.pragma("user_version")?;
        let path = || self.path.clone();
        match is_new {
            false if self.pragma("application_id")? != APPLICATION => {
                return Err(StoreError::Foreign { path: path() });
            }
            false if found < VERSION => return Err(StoreError::Older { path: path(), found }),
            _ if found > VERSION => return Err(StoreError::Newer { path: path(), found }),
            _ => {}
        }
        // A commit is on the disk when it returns. The log is moved into the file by the thread that writes the tables.
        self.connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; \
                 PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2048;",
            )
            .map_err(error)?;
        self.connection.set_prepared_statement_cache_capacity(64);
        if is_new {
            let tables = schema::TABLES;
            let make = format!(
                "BEGIN IMMEDIATE; {tables} PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION}; COMMIT;"
            );
            self.connection.execute_batch(&make).map_err(error)?;
            let _ = std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o640));
        }
        Ok(())
    }

    fn pragma(&self, name: &str) -> Result<i64, StoreError> {
        let value = self.connection.pragma_query_value(None, name, |row| row.get(0));
        value.map_err(|source| error(&self.path, source))
    }

    /// What it says of its journal.
    pub fn journal_mark(&self) -> Result<JournalMark, StoreError> {
        let read = self.connection.query_row("SELECT ledger, applied FROM journal", [], |row| {
            Ok(JournalMark { ledger: row.get::<_, i64>(0)? as u64, applied: row.get::<_, i64>(1)? as u64 })
        });
        read.optional()
            .map_err(|source| error(&self.path, source))?
            .ok_or_else(|| StoreError::Foreign { path: self.path.clone() })
    }

    /// Whether the file that is open is still the one in the state directory.
    pub fn is_in_place(&self) -> bool {
        identity(&self.path) == Some(self.identity)
    }

    /// Octets of the write-ahead log.
    pub fn log_octets(&self) -> u64 {
        std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |metadata| metadata.len())
    }
}

/// The file that SQLite keeps beside a database under this suffix.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// What an error of SQLite means to an operator.
pub fn error(path: &Path, source: rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    match source.sqlite_error_code() {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            let holder = locks::writer(&path).map_or_else(|| "another process".into(), |holder| holder.to_string());
            StoreError::Locked { path, holder }
        }
        Some(ErrorCode::DiskFull) => StoreError::NoSpace { path },
        Some(ErrorCode::ReadOnly) => StoreError::ReadOnly { path },
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => StoreError::Damaged { path, source },
        _ => StoreError::Sqlite { path, source },
    }
}
