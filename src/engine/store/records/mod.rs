//! Charging records: one line for each debited, released or refunded message and each closed session, in files of
//! `cdr_dir`.
//!
//! ```text
//!   Writer ─ row of `records`, in the transaction of its debit ─► Recorder ─ node-7.jsonl.part ─ rename ─► node-7.jsonl
//! ```
//!
//! A record is in exactly one closed file, whatever dies at whatever point. Until its file is closed it is a row of the
//! table `records`, so the open file is only a copy, which is written again after a failure. `record_files` is the durable
//! mark. A file is closed in these steps:
//!
//! | step | after a death that follows it |
//! |---|---|
//! | 1. sync the open file and its folder | the file is deleted and written again |
//! | 2. commit the mark: the file's sequence, its last record, its name (`closing`) | the file is renamed |
//! | 3. rename the file, sync the folder | it is renamed, if the rename is lost |
//! | 4. commit the mark: nothing is being closed | |
//! | 5. delete the rows of its records | they are deleted |
//!
//! The name is committed before the rename, because a file that has its final name may be taken away at once. If neither
//! file is there after step 2, it was taken away.
//!
//! A thread writes the files. It waits for the disk, the folder and the locks of the ledger; the engine never does.

mod files;
mod line;
mod recorder;
mod table;
#[cfg(test)]
mod tests;
mod thread;

pub(super) use table::{insert_debit, insert_not_debited, insert_refund, insert_session};
pub(super) use thread::RecorderThread;

use super::StoreError;
use std::io;
use std::path::PathBuf;

/// Why charging records cannot be written. The text names the file and what to do.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The ledger cannot be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The operating system failed.
    #[error("{path}: {}", describe(.source))]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Error of the operating system.
        source: io::Error,
    },
    /// Another proxy writes files of this name.
    #[error("{path}: another proxy writes charging records under this name; give each proxy its own cdr_node")]
    InUse {
        /// The lock file.
        path: PathBuf,
    },
    /// The files of this name belong to another ledger.
    #[error(
        "{path}: the charging records of this name belong to another ledger; choose another cdr_node, or delete this file \
         if that ledger is not used any more"
    )]
    OtherLedger {
        /// The lock file.
        path: PathBuf,
    },
    /// A file is in the place of the one to be closed.
    #[error("{path}: a file of this name exists and is not replaced; move it away")]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The open file was deleted or replaced. It is written again.
    #[error("{path}: was deleted while it was written; it is written again")]
    Deleted {
        /// The file.
        path: PathBuf,
    },
}

/// Describes an error of the operating system to an operator.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist; create the folder cdr_dir for the user of the proxy".into(),
        io::ErrorKind::NotADirectory => "is not in a folder; correct cdr_dir".into(),
        _ => super::error::describe(error),
    }
}
