//! Why the store cannot be used, as one sentence for an operator.

use super::journal::JournalError;
use crate::shm::region::AttachError;
use std::io;
use std::path::PathBuf;

/// Why the store cannot be used. The text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// SQLite failed for any other reason.
    #[error("{path}: {source}; check the folder's owner and mode, and its disk")]
    Sqlite {
        /// The ledger file.
        path: PathBuf,
        /// Error of SQLite.
        source: rusqlite::Error,
    },
    /// Another process holds the write lock.
    #[error("{path}: locked by {holder}; it is written as soon as that process ends its transaction")]
    Locked {
        /// The ledger file.
        path: PathBuf,
        /// Name and pid of the process, if the kernel reports them.
        holder: String,
    },
    /// The disk is full.
    #[error("{path}: no space on its disk; free some")]
    NoSpace {
        /// The ledger file.
        path: PathBuf,
    },
    /// The file is read-only.
    #[error("{path}: is read-only; check its owner and mode, and whether its disk is mounted read-only")]
    ReadOnly {
        /// The ledger file.
        path: PathBuf,
    },
    /// The file is not a valid database.
    #[error("{path}: is damaged ({source}); stop the proxy and restore the file from a backup")]
    Damaged {
        /// The ledger file.
        path: PathBuf,
        /// Error of SQLite.
        source: rusqlite::Error,
    },
    /// The file was deleted, moved or replaced.
    #[error(
        "{path}: was deleted, moved or replaced; put the file back, or stop the proxy, restore a backup and remove \
         journal-a and journal-b"
    )]
    Missing {
        /// The ledger file.
        path: PathBuf,
    },
    /// The file has a version that this build neither reads nor upgrades.
    #[error(
        "{path}: ledger version {found}, but this imcharge reads version {expected}; install the imcharge that wrote the \
         file, or move the file, journal-a and journal-b away and set the balances again (account.set)"
    )]
    OtherVersion {
        /// The ledger file.
        path: PathBuf,
        /// Version of the file.
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
        /// The ledger file.
        path: PathBuf,
        /// Version of the file.
        found: i64,
        /// Journal records that the tables lack.
        records: u64,
    },
    /// The file belongs to another program.
    #[error("{path}: not a ledger of imcharge; move it away or choose another state_dir")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The enabler could not be started.
    #[error("{0}")]
    Enabler(String),
    /// Another engine runs in this process.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The journal cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A journal record cannot be decoded.
    #[error(
        "{path}: record {sequence} was written by another build of imcharge and cannot be read; start that build once \
         more, and stop it cleanly"
    )]
    Record {
        /// The state directory.
        path: PathBuf,
        /// Sequence of the record.
        sequence: u64,
    },
    /// The operating system failed.
    #[error("{path}: {}", describe(.source))]
    Io {
        /// The file.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// The writer thread has panicked.
    #[error("the thread that writes the ledger has ended; the engine is restarted")]
    WriterEnded,
}

impl StoreError {
    /// Whether new sessions must be refused at once: the tables cannot be trusted any more, and keeping changes in the
    /// journal does not help.
    pub(super) fn is_fatal(&self) -> bool {
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

/// Describes an error of the operating system to an operator.
pub(super) fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => "no space on its disk; free some".into(),
        io::ErrorKind::ReadOnlyFilesystem => "its disk is mounted read-only".into(),
        io::ErrorKind::PermissionDenied => "permission denied; it must belong to the user of the proxy".into(),
        _ => error.to_string(),
    }
}
