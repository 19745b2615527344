//! Opens, creates and upgrades the ledger file, and explains why it cannot be used.

use super::journal::Journal;
use super::schema::{self, MIGRATIONS, Migration};
use super::{APPLICATION, LEDGER, StoreError, locks};
use crate::shm::log_limit::NOTICE;
use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Longest wait of the engine's thread for a lock of the file. Readers of a write-ahead log need none, except at the
/// instant at which a connection opens or recovers the log.
const LOCK_WAIT_MAX: Duration = Duration::from_millis(100);

/// The open ledger file.
pub struct Database {
    /// The connection.
    pub connection: Connection,
    /// Path of the file.
    pub path: PathBuf,
    /// Device and inode, to notice that another file has taken its place.
    identity: (u64, u64),
}

/// What the ledger file records about the journal beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalMark {
    /// Random number of the ledger file.
    pub ledger: u64,
    /// Sequence of the last journal record that the tables contain.
    pub applied: u64,
}

impl Database {
    /// Opens the ledger of a state directory; creates it if there is neither a ledger nor a journal, and upgrades one of
    /// an older version.
    pub fn open(state_dir: &Path) -> Result<Database, StoreError> {
        Database::open_with(state_dir, MIGRATIONS)
    }

    fn open_with(state_dir: &Path, migrations: &[Migration]) -> Result<Database, StoreError> {
        let path = state_dir.join(LEDGER);
        if !path.exists() && Journal::exists(state_dir) {
            return Err(StoreError::Missing { path });
        }
        let connection = Connection::open(&path).map_err(|source| error(&path, source))?;
        connection.busy_timeout(LOCK_WAIT_MAX).map_err(|source| error(&path, source))?;
        let identity = identity(&path).ok_or_else(|| StoreError::Missing { path: path.clone() })?;
        let database = Database { connection, path, identity };
        let found = database.version(migrations)?;
        database.configure()?;
        if found.is_none_or(|found| found < schema::version(migrations)) {
            database.upgrade(state_dir, found, migrations)?;
        }
        Ok(database)
    }

    /// Returns the version of the file, `None` for an empty one. An error means that the file is not for this build.
    fn version(&self, migrations: &[Migration]) -> Result<Option<i64>, StoreError> {
        if has_no_tables(&self.connection).map_err(|source| self.error(source))? {
            return Ok(None);
        }
        let path = || self.path.clone();
        if self.pragma("application_id")? != APPLICATION {
            return Err(StoreError::Foreign { path: path() });
        }
        let (found, expected) = (self.pragma("user_version")?, schema::version(migrations));
        match (1..=expected).contains(&found) {
            true => Ok(Some(found)),
            false => Err(StoreError::OtherVersion { path: path(), found, expected }),
        }
    }

    fn configure(&self) -> Result<(), StoreError> {
        // A transaction is on the disk when its commit returns. The writer thread checkpoints the write-ahead log.
        self.connection
            .execute_batch(
                "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA wal_autocheckpoint=0; \
                 PRAGMA temp_store=MEMORY; PRAGMA cache_size=-2048;",
            )
            .map_err(|source| self.error(source))?;
        self.connection.set_prepared_statement_cache_capacity(64);
        Ok(())
    }

    /// Creates the tables of an empty file (`found` is `None`) and applies the migrations that the file lacks.
    fn upgrade(&self, state_dir: &Path, found: Option<i64>, migrations: &[Migration]) -> Result<(), StoreError> {
        if let Some(found) = found {
            self.check_journal(state_dir, found)?;
        }
        let version = migrate(&self.connection, migrations).map_err(|source| self.error(source))?;
        match found {
            Some(found) => {
                let path = self.path.display();
                log::info!(target: NOTICE, "{path}: upgraded from ledger version {found} to {version}");
            }
            None => drop(std::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o640))),
        }
        Ok(())
    }

    /// Refuses an upgrade while the journal contains changes that the tables lack: they are in the encoding of the
    /// version that wrote them.
    fn check_journal(&self, state_dir: &Path, found: i64) -> Result<(), StoreError> {
        let (mark, mut records) = (self.journal_mark()?, 0);
        Journal::open(state_dir, mark.ledger, mark.applied, |_, _| records += 1)?;
        match records {
            0 => Ok(()),
            _ => Err(StoreError::NotApplied { path: self.path.clone(), found, records }),
        }
    }

    fn pragma(&self, name: &str) -> Result<i64, StoreError> {
        let value = self.connection.pragma_query_value(None, name, |row| row.get(0));
        value.map_err(|source| self.error(source))
    }

    fn error(&self, source: rusqlite::Error) -> StoreError {
        error(&self.path, source)
    }

    /// Returns what the file records about its journal.
    pub fn journal_mark(&self) -> Result<JournalMark, StoreError> {
        let read = self.connection.query_row("SELECT ledger, applied FROM journal", [], |row| {
            Ok(JournalMark { ledger: row.get::<_, i64>(0)? as u64, applied: row.get::<_, i64>(1)? as u64 })
        });
        read.optional()
            .map_err(|source| self.error(source))?
            .ok_or_else(|| StoreError::Foreign { path: self.path.clone() })
    }

    /// Whether the open file is still the one in the state directory.
    pub fn is_in_place(&self) -> bool {
        identity(&self.path) == Some(self.identity)
    }

    /// Returns the size of the write-ahead log in octets.
    pub fn log_octets(&self) -> u64 {
        std::fs::metadata(beside(&self.path, "-wal")).map_or(0, |metadata| metadata.len())
    }
}

fn has_no_tables(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("SELECT count(*)=0 FROM sqlite_master", [], |row| row.get(0))
}

/// Brings a file up to date in one transaction and returns its version. The file is looked at again under the write lock:
/// another process may have done the same meanwhile.
fn migrate(connection: &Connection, migrations: &[Migration]) -> rusqlite::Result<i64> {
    let transaction = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
    let mut version = 1;
    if has_no_tables(&transaction)? {
        transaction.execute_batch(schema::TABLES)?;
        transaction.pragma_update(None, "application_id", APPLICATION)?;
    } else {
        version = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    }
    for migration in migrations.iter().skip(usize::try_from(version - 1).unwrap_or(0)) {
        migration(&transaction)?;
        version += 1;
    }
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()?;
    Ok(version)
}

/// Returns the path of the file that SQLite keeps beside a database under this suffix.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    PathBuf::from(name)
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Translates an error of SQLite for an operator.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Two made-up migrations: version 2 adds a column, version 3 fills it.
    const TWO: &[Migration] = &[
        |connection| connection.execute_batch("ALTER TABLE accounts ADD COLUMN note TEXT"),
        |connection| connection.execute_batch("UPDATE accounts SET note='upgraded'"),
    ];

    const FAILS: &[Migration] =
        &[TWO[0], |connection| connection.execute_batch("UPDATE accounts SET no_such_column=1")];

    fn open(folder: &Path, migrations: &[Migration]) -> Result<Database, StoreError> {
        Database::open_with(folder, migrations)
    }

    fn refused(folder: &Path, migrations: &[Migration]) -> StoreError {
        match open(folder, migrations) {
            Ok(_) => panic!("the file is refused"),
            Err(error) => error,
        }
    }

    /// A file of version 1 with one account.
    fn first() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let database = open(folder.path(), &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(database.pragma("user_version").expect("readable"), 1);
        database.connection.execute("INSERT INTO accounts(id, balance) VALUES('a', 7)", []).expect("an account");
        folder
    }

    fn account(database: &Database) -> (i64, Option<String>) {
        let row = database.connection.query_row("SELECT balance, note FROM accounts", [], |row| row.try_into());
        row.expect("the account")
    }

    #[test]
    fn older_ledger_is_upgraded_once() {
        let folder = first();
        for _ in 0..2 {
            let database = open(folder.path(), TWO).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(database.pragma("user_version").expect("readable"), 3);
            assert_eq!(account(&database), (7, Some("upgraded".into())));
        }
    }

    #[test]
    fn new_ledger_gets_all_migrations() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = open(folder.path(), TWO).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(database.pragma("user_version").expect("readable"), 3);
        assert!(database.connection.prepare("SELECT note FROM accounts").is_ok());
    }

    #[test]
    fn failed_upgrade_changes_nothing() {
        let folder = first();
        assert!(matches!(refused(folder.path(), FAILS), StoreError::Sqlite { .. }));
        let database = open(folder.path(), &[]).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(database.pragma("user_version").expect("readable"), 1);
        assert!(database.connection.prepare("SELECT note FROM accounts").is_err());
    }

    #[test]
    fn newer_and_unversioned_ledgers_are_refused_unchanged() {
        let folder = first();
        for version in [-1, 0, 4, 1000] {
            let connection = Connection::open(folder.path().join(LEDGER)).expect("a file");
            connection.pragma_update(None, "user_version", version).expect("marked");
            let error = refused(folder.path(), TWO);
            assert!(
                matches!(error, StoreError::OtherVersion { found, expected: 3, .. } if found == version),
                "{error}"
            );
            let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a number");
            assert_eq!(found, version);
        }
    }

    #[test]
    fn ledger_with_unapplied_journal_is_not_upgraded() {
        let folder = first();
        let mark = open(folder.path(), &[]).and_then(|database| database.journal_mark()).expect("readable");
        let mut journal = Journal::open(folder.path(), mark.ledger, mark.applied, |_, _| {}).expect("a journal");
        journal.append(b"in the old encoding", 0, 0).expect("room");
        drop(journal);
        let error = refused(folder.path(), TWO);
        assert!(matches!(error, StoreError::NotApplied { found: 1, records: 1, .. }), "{error}");
        // The old version applies the record; then the upgrade succeeds.
        let old = open(folder.path(), &[]).unwrap_or_else(|error| panic!("{error}"));
        old.connection.execute("UPDATE journal SET applied=1", []).expect("applied");
        assert_eq!(account(&open(folder.path(), TWO).unwrap_or_else(|error| panic!("{error}"))).0, 7);
    }
}
