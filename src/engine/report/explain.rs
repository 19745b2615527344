//! `explain`: what happened in the sessions of a call, by which rule, and the money.

use super::{CommandError, Reader, Value, cannot_read, value};
use crate::charge::tariff::Unit;

/// Steps of one answer: more, and the hosts' own RPC has no room for it.
const STEPS: i64 = 250;

/// The session, as the query below names it.
const SESSION: &str = "\
    SELECT id, key AS session, call_id, account, other, icid, direction, tariff, opened_at, closed_at, phase, granted, \
    coalesce((SELECT units FROM holds WHERE session=s.id), reserved) AS reserved, \
    (SELECT count(*) FROM debits WHERE session=s.id) AS messages_debited, \
    (SELECT coalesce(sum(units), 0) FROM debits WHERE session=s.id) AS units_debited, \
    (SELECT coalesce(sum(units), 0) FROM debits WHERE session=s.id AND refunded_at IS NOT NULL) AS units_refunded, \
    (SELECT count(*) FROM undebited WHERE session=s.id) AS messages_not_debited, \
    (SELECT balance FROM accounts WHERE id=s.account) AS balance, \
    steps_dropped FROM sessions s WHERE call_id=?1 ORDER BY id";

const SESSION_FIELDS: &[&str] = &[
    "session",
    "callid",
    "account",
    "other",
    "icid",
    "direction",
    "tariff",
    "opened_at",
    "closed_at",
    "phase",
    "granted",
    "reserved",
    "messages_debited",
    "units_debited",
    "units_refunded",
    "messages_not_debited",
    "balance",
    "steps_dropped",
];

const STEP: &str = "\
    SELECT number, number, at, micros, step, rule, cause, seconds, message_id, code, messages, octets, quota, units, balance, \
    request-(SELECT min(request) FROM steps WHERE session=?1) FROM steps WHERE session=?1 AND number>=?2 ORDER BY number";

const STEP_FIELDS: &[&str] = &[
    "number",
    "at",
    "micros",
    "step",
    "rule",
    "cause",
    "seconds",
    "messageid",
    "code",
    "messages",
    "octets",
    "quota",
    "units",
    "balance",
    "request",
];

/// The number of a row, and its fields.
type Numbered = (i64, Vec<(&'static str, Value)>);

impl Reader {
    /// The sessions of a call, their steps from this number on.
    pub(super) fn explain(&self, call_id: &str, from: i64, unit: Unit) -> Result<Value, CommandError> {
        let sessions = self.present(SESSION, SESSION_FIELDS, [call_id], 100)?;
        if sessions.is_empty() {
            return Err(super::no_session(call_id));
        }
        let mut room = STEPS;
        let whole = sessions.into_iter().map(|(row, mut fields)| {
            fields.insert(7, ("unit", Value::Text(unit.word().into())));
            let steps = self.present(STEP, STEP_FIELDS, [row, from], room)?;
            let last = steps.last().map_or(from, |(number, _)| number + 1);
            room -= steps.len() as i64;
            let more = "SELECT count(*) FROM steps WHERE session=?1 AND number>=?2";
            let more: i64 = self.connection.query_row(more, [row, last], |row| row.get(0)).map_err(cannot_read)?;
            fields.push(("steps_more", Value::Integer(more)));
            fields.push(("steps", Value::List(steps.into_iter().map(|(_, step)| Value::Structure(step)).collect())));
            Ok(Value::Structure(fields))
        });
        whole.collect::<Result<Vec<_>, _>>().map(Value::List)
    }

    /// Rows of a query with their first column, a number; what says nothing is left out.
    fn present(
        &self,
        sql: &str,
        names: &[&'static str],
        values: impl rusqlite::Params,
        most: i64,
    ) -> Result<Vec<Numbered>, CommandError> {
        let read = || {
            let mut statement = self.connection.prepare(&format!("{sql} LIMIT {most}"))?;
            let rows = statement.query_map(values, |row| {
                let mut fields = Vec::new();
                for (at, name) in names.iter().enumerate() {
                    match row.get_ref(at + 1)? {
                        rusqlite::types::ValueRef::Null => {}
                        column => fields.push((*name, value(column))),
                    }
                }
                Ok((row.get(0)?, fields))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(cannot_read)
    }
}
