//! Reads the sessions of an earlier engine from the tables and the journal.

use super::change::{Pending, Summary};
use super::database::Database;
use crate::charge::session::Session;
use rusqlite::{Connection, Result};
use std::collections::BTreeMap;

/// A stored session that is not forgotten.
pub struct StoredSession {
    /// Row in the table of sessions.
    pub row: i64,
    /// Run of the host that it belongs to.
    pub instance: u64,
    /// When it was opened, UNIX milliseconds.
    pub opened_at: i64,
    /// Its state.
    pub session: Session,
}

/// Reads the session of a row, whose state begins with `head`. `None`: the state cannot be decoded.
pub fn read_session(connection: &Connection, row: i64, head: &[u8]) -> Result<Option<Session>> {
    let mut statement = connection.prepare_cached("SELECT state FROM state_parts WHERE session=?1 ORDER BY part")?;
    let parts = statement.query_map([row], |row| row.get(0))?.collect::<Result<Vec<Vec<u8>>>>()?;
    Ok(Session::load(head, parts.iter().map(Vec::as_slice)))
}

/// Encoded state of a session.
#[derive(Default)]
struct State {
    instance: u64,
    opened_at: i64,
    head: Vec<u8>,
    parts: BTreeMap<u32, Vec<u8>>,
}

/// Reads all sessions that are not forgotten: those of the tables, updated by what is pending.
pub(super) fn live_sessions(database: &Database, pending: &mut Pending) -> Result<Vec<StoredSession>> {
    let mut states = states_in_tables(&database.connection)?;
    apply_pending(&mut states, pending);
    let mut sessions = Vec::with_capacity(states.len());
    for (row, State { instance, opened_at, head, parts }) in states {
        let parts = parts.values().filter(|part| !part.is_empty()).map(Vec::as_slice);
        let Some(session) = Session::load(&head, parts) else {
            let path = database.path.display();
            log::error!("{path}: the state of session row {row} cannot be decoded and is left unchanged");
            continue;
        };
        // The pending parts alone may be incomplete, so the summary is taken from the complete session.
        if pending.sessions.contains_key(&row) {
            pending.set_summary(row, Summary::of(&session));
        }
        let instance = pending.adopted.unwrap_or(instance);
        sessions.push(StoredSession { row, instance, opened_at, session });
    }
    Ok(sessions)
}

fn states_in_tables(connection: &Connection) -> Result<BTreeMap<i64, State>> {
    let mut statement = connection.prepare(
        "SELECT sessions.id, instance, opened_at, state FROM sessions JOIN states ON states.session=sessions.id",
    )?;
    let heads = statement.query_map([], |row| {
        let (instance, opened_at, head) = (row.get::<_, i64>(1)? as u64, row.get(2)?, row.get(3)?);
        Ok((row.get(0)?, State { instance, opened_at, head, parts: BTreeMap::new() }))
    })?;
    let mut states = heads.collect::<Result<BTreeMap<i64, State>>>()?;
    let mut statement = connection.prepare("SELECT session, part, state FROM state_parts")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        if let Some(state) = states.get_mut(&row.get(0)?) {
            state.parts.insert(row.get(1)?, row.get(2)?);
        }
    }
    Ok(states)
}

fn apply_pending(states: &mut BTreeMap<i64, State>, pending: &Pending) {
    for (row, session) in &pending.sessions {
        if session.forgotten {
            states.remove(row);
            continue;
        }
        let Some(head) = &session.head else { continue };
        if let Some((instance, opened_at)) = session.opened {
            states.entry(*row).or_insert_with(|| State { instance, opened_at, ..State::default() });
        }
        if let Some(state) = states.get_mut(row) {
            state.head.clone_from(head);
            state.parts.extend(session.parts.iter().map(|(part, bytes)| (*part, bytes.clone())));
        }
    }
}
