//! Writes pending changes to the tables that operators read.

use super::change::{BalanceChange, Debit, NotDebited, Pending, PendingSession, Refund, Summary};
use super::records;
use super::trace::TracePart;
use crate::charge::event::Direction;
use crate::charge::session::Session;
use crate::enabler::{Account, StatusEntry, StatusValue};
use rusqlite::{Connection, Result, ToSql, params};

/// Writes everything but the status of the enabler, within the caller's transaction. Must not be called twice for the
/// same changes: trace events are appended. `has_records`: charging records are kept.
pub fn write(connection: &Connection, pending: &Pending, has_records: bool) -> Result<()> {
    let mut closed = Vec::new();
    for (row, session) in &pending.sessions {
        if write_session(connection, *row, session)? {
            closed.push((*row, session));
        }
    }
    for (id, account) in &pending.accounts {
        write_account(connection, id, account.as_ref())?;
    }
    for change in &pending.balance_changes {
        write_balance_change(connection, change)?;
    }
    for (row, units) in &pending.holds {
        write_hold(connection, *row, *units)?;
    }
    for debit in &pending.debits {
        if write_debit(connection, debit)? && has_records {
            records::insert_debit(connection, debit)?;
        }
    }
    for refund in &pending.refunds {
        if write_refund(connection, refund)? && has_records {
            records::insert_refund(connection, refund)?;
        }
    }
    for message in &pending.not_debited {
        if write_not_debited(connection, message)? && has_records {
            records::insert_not_debited(connection, message)?;
        }
    }
    for (row, session) in closed.into_iter().filter(|_| has_records) {
        records::insert_session(connection, row, session.closed_at.unwrap_or(0), session.summary())?;
    }
    for (instance, marks) in &pending.marks {
        let (events, notifications) = (pack(&marks.events), pack(&marks.notifications));
        execute(
            connection,
            "INSERT OR REPLACE INTO marks(instance, events, notifications) VALUES(?1, ?2, ?3)",
            params![*instance as i64, events, notifications],
        )?;
    }
    if let Some(instance) = pending.adopted {
        let adopt = "UPDATE sessions SET instance=?1 WHERE id IN (SELECT session FROM states)";
        execute(connection, adopt, [instance as i64])?;
        execute(connection, "DELETE FROM marks WHERE instance<>?1", [instance as i64])?;
    }
    Ok(())
}

/// Replaces the status of the enabler's servers, within the caller's transaction.
pub fn write_enabler_status(connection: &Connection, entries: &[StatusEntry]) -> Result<()> {
    execute(connection, "DELETE FROM enabler_status", [])?;
    for (server, entry) in entries.iter().enumerate() {
        for (field, (name, value)) in entry.iter().enumerate() {
            let value: &dyn ToSql = match value {
                StatusValue::Text(text) => text,
                StatusValue::Integer(number) => number,
            };
            execute(
                connection,
                "INSERT INTO enabler_status(server, field, name, value) VALUES(?1, ?2, ?3, ?4)",
                params![server as i64, field as i64, name, value],
            )?;
        }
    }
    Ok(())
}

fn execute(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<()> {
    has_changed(connection, sql, values).map(drop)
}

/// Executes a statement and returns whether it has changed a row.
fn has_changed(connection: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<bool> {
    Ok(connection.prepare_cached(sql)?.execute(values)? > 0)
}

/// Returns whether the session is closed from now on.
fn write_session(connection: &Connection, row: i64, pending: &PendingSession) -> Result<bool> {
    let is_closed = match pending.closed_at {
        Some(_) if pending.opened.is_some() => true,
        Some(at) => has_changed(
            connection,
            "UPDATE sessions SET closed_at=?2 WHERE id=?1 AND closed_at IS NULL",
            params![row, at],
        )?,
        None => false,
    };
    write_session_row(connection, row, pending)?;
    Ok(is_closed)
}

fn write_session_row(connection: &Connection, row: i64, pending: &PendingSession) -> Result<()> {
    let mut steps = String::new();
    for part in &pending.trace {
        match part.is_in_session_row() {
            true => part.write(&mut steps),
            false => write_trace_part(connection, row, part)?,
        }
    }
    match pending.opened {
        Some(opened) => match pending.session() {
            Some(session) => insert_session(connection, row, &session, opened, pending.closed_at, &steps)?,
            None => log::error!("the state of the new session row {row} cannot be decoded; the history lacks it"),
        },
        None => update_session(connection, row, pending, &steps)?,
    }
    if pending.forgotten {
        execute(connection, "DELETE FROM states WHERE session=?1", [row])?;
        return execute(connection, "DELETE FROM state_parts WHERE session=?1", [row]);
    }
    if let Some(head) = &pending.head {
        execute(connection, "INSERT OR REPLACE INTO states(session, state) VALUES(?1, ?2)", params![row, head])?;
    }
    for (part, state) in &pending.parts {
        if state.is_empty() {
            execute(connection, "DELETE FROM state_parts WHERE session=?1 AND part=?2", [row, i64::from(*part)])?;
        } else {
            let sql = "INSERT OR REPLACE INTO state_parts(session, part, state) VALUES(?1, ?2, ?3)";
            execute(connection, sql, params![row, part, state])?;
        }
    }
    Ok(())
}

/// Converts to the integers of SQLite; larger numbers become the largest one.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn write_trace_part(connection: &Connection, row: i64, part: &TracePart) -> Result<()> {
    let mut steps = String::new();
    part.write(&mut steps);
    let sql = "INSERT OR REPLACE INTO trace_parts(session, part, zero, steps) VALUES(?1, ?2, ?3, ?4)";
    execute(connection, sql, params![row, part.first, part.zero, steps])
}

fn update_session(connection: &Connection, row: i64, pending: &PendingSession, steps: &str) -> Result<()> {
    let Some(summary) = pending.summary() else {
        return execute(connection, "UPDATE sessions SET steps=steps||?2 WHERE id=?1", params![row, steps]);
    };
    execute(
        connection,
        "UPDATE sessions SET phase=?2, granted=?3, reserved=?4, waiting=?5, steps_dropped=?6, steps=steps||?7 \
         WHERE id=?1",
        params![row, summary.phase, summary.granted, summary.reserved, summary.waiting, summary.steps_dropped, steps,],
    )
}

fn insert_session(
    connection: &Connection,
    row: i64,
    session: &Session,
    (instance, opened_at): (u64, i64),
    closed_at: Option<i64>,
    steps: &str,
) -> Result<()> {
    let summary = Summary::of(session);
    let direction = match session.direction() {
        Direction::Pull => "pull",
        Direction::Push => "push",
    };
    execute(
        connection,
        "INSERT INTO sessions(id, key, method, call_id, account, other, icid, direction, service, recipients, tariff, instance, \
         opened_at, closed_at, phase, granted, reserved, waiting, steps_dropped, steps) \
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20)",
        params![
            row,
            session.key().to_string(),
            if session.is_page() { "MESSAGE" } else { "INVITE" },
            session.call_id(),
            session.account(),
            session.other(),
            session.icid(),
            direction,
            session.service().as_str(),
            session.recipients(),
            session.prices().to_string(),
            instance as i64,
            opened_at,
            closed_at,
            summary.phase,
            summary.granted,
            summary.reserved,
            summary.waiting,
            summary.steps_dropped,
            steps,
        ],
    )
}

fn write_not_debited(connection: &Connection, NotDebited { message, rule }: &NotDebited) -> Result<bool> {
    has_changed(
        connection,
        "INSERT OR IGNORE INTO undebited(session, message_id, call_id, account, octets, units, rule, code, at) \
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        params![
            message.row,
            message.message_id,
            message.call_id,
            message.account,
            signed(message.octets),
            signed(message.units),
            rule.as_str(),
            rule.code(),
            message.wall_ms,
        ],
    )
}

fn write_account(connection: &Connection, id: &str, account: Option<&Account>) -> Result<()> {
    let Some(Account { balance, held, debited, limit, full, is_low }) = account else {
        return execute(connection, "DELETE FROM accounts WHERE id=?1", [id]);
    };
    execute(
        connection,
        "INSERT INTO accounts(id, balance, held, debited, credit_limit, full_units, is_low) \
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT(id) DO UPDATE SET \
         balance=?2, held=?3, debited=?4, credit_limit=?5, full_units=?6, is_low=?7",
        params![id, balance, held, debited, limit, full, is_low],
    )
}

fn write_balance_change(connection: &Connection, change: &BalanceChange) -> Result<()> {
    let BalanceChange { id, kind, amount, reference, by, row, account, wall_ms } = change;
    execute(
        connection,
        "INSERT INTO balance_changes(at, account, kind, amount, reference, by, session, balance, held, credit_limit) \
         VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
        params![wall_ms, id, kind.as_str(), amount, reference, by, row, account.balance, account.held, account.limit],
    )
}

fn write_hold(connection: &Connection, row: i64, units: i64) -> Result<()> {
    match units {
        0 => execute(connection, "DELETE FROM holds WHERE session=?1", [row]),
        units => execute(connection, "INSERT OR REPLACE INTO holds(session, units) VALUES(?1, ?2)", [row, units]),
    }
}

fn write_refund(connection: &Connection, refund: &Refund) -> Result<bool> {
    let Refund { row, message_id, part, wall_ms, .. } = refund;
    let sql = "UPDATE debits SET refunded_at=?4 WHERE session=?1 AND message_id=?2 AND part=?3 AND refunded_at IS NULL";
    has_changed(connection, sql, params![row, message_id, part, wall_ms])
}

fn write_debit(connection: &Connection, Debit { message, part, trigger, .. }: &Debit) -> Result<bool> {
    has_changed(
        connection,
        "INSERT OR IGNORE INTO debits(session, call_id, message_id, part, account, class, octets, units, trigger, \
         code, at) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        params![
            message.row,
            message.call_id,
            message.message_id,
            part,
            message.account,
            message.class.as_str(),
            signed(message.octets),
            signed(message.units),
            trigger.as_str(),
            trigger.code(),
            message.wall_ms,
        ],
    )
}

fn pack(positions: &[u64]) -> Vec<u8> {
    positions.iter().flat_map(|position| position.to_le_bytes()).collect()
}

/// Decodes positions as `write` stores them.
pub(super) fn unpack(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect()
}
