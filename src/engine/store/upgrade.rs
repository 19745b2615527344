//! Brings the file of an earlier version to this one, in one transaction: either all of it is new, or nothing.
//!
//! From version 3: the tables of the history come, and sessions are stored in another form, both those in `states` and
//! those that a killed engine left in its journal.

use super::change::{Change, SessionChange};
use super::{StoreError, schema};
use crate::charge::session::{Session, SessionOfVersion3};
use rusqlite::Connection;
use std::path::Path;

/// Brings it from version 3 to this one.
pub fn upgrade(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let sql = |source| StoreError::Sqlite { path: path.to_owned(), source };
    let transaction = connection.unchecked_transaction().map_err(sql)?;
    transaction.execute_batch(schema::HISTORY).map_err(sql)?;
    for (row, state) in blobs(&transaction, "SELECT session, state FROM states").map_err(sql)? {
        let Some(state) = state_of(&state) else {
            log::error!("{}: the state of session row {row} cannot be read, left as it is", path.display());
            continue;
        };
        transaction.execute("UPDATE states SET state=?2 WHERE session=?1", (row, state)).map_err(sql)?;
    }
    for (row, changes) in blobs(&transaction, "SELECT id, changes FROM journal").map_err(sql)? {
        let changes = changes_of(&changes).ok_or_else(|| StoreError::Journal { path: path.to_owned(), row })?;
        transaction.execute("UPDATE journal SET changes=?2 WHERE id=?1", (row, changes)).map_err(sql)?;
    }
    transaction.pragma_update(None, "user_version", schema::VERSION).map_err(sql)?;
    transaction.commit().map_err(sql)
}

fn blobs(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<(i64, Vec<u8>)>> {
    let mut statement = connection.prepare(sql)?;
    statement.query_map([], |row| row.try_into())?.collect()
}

/// A session in the form of this version.
fn state_of(old: &[u8]) -> Option<Vec<u8>> {
    let (old, rest) = postcard::take_from_bytes::<SessionOfVersion3>(old).ok()?;
    rest.is_empty().then(|| postcard::to_stdvec(&Session::from(old)).ok())?
}

/// The changes of a turn in the form of this version, which differs in the sessions alone.
fn changes_of(mut old: &[u8]) -> Option<Vec<u8>> {
    let mut new = Vec::new();
    while !old.is_empty() {
        let (change, rest) = postcard::take_from_bytes::<Change>(old).ok()?;
        let change = match change {
            Change::Session(change) => {
                let state = state_of(&change.state)?;
                Change::Session(SessionChange { state, ..change })
            }
            other => other,
        };
        new = postcard::to_extend(&change, new).ok()?;
        old = rest;
    }
    Some(new)
}
