//! `explain`: the trace of a call's sessions, with the rule that decided each step and the money.

use super::ledger::{Below, Reader, structure};
use crate::admin::commands::{Call, CommandError, Value};
use crate::charge::tariff::Unit;
use rusqlite::{Row, params};

/// Query of the sessions of a call.
const SESSION: &str = "\
    SELECT id, key AS session, call_id, account, other, icid, direction, tariff, ?3 AS unit, opened_at, closed_at, phase, \
    granted, coalesce((SELECT units FROM holds WHERE session=s.id), reserved) AS reserved, \
    (SELECT count(*) FROM debits WHERE session=s.id) AS messages_debited, \
    (SELECT coalesce(sum(units), 0) FROM debits WHERE session=s.id) AS units_debited, \
    (SELECT coalesce(sum(units), 0) FROM debits WHERE session=s.id AND refunded_at IS NOT NULL) AS units_refunded, \
    (SELECT count(*) FROM undebited WHERE session=s.id) AS messages_not_debited, \
    (SELECT balance FROM accounts WHERE id=s.account) AS balance, \
    steps_dropped FROM sessions s WHERE call_id=?1 AND id>=?2 ORDER BY id";

const SESSION_FIELDS: &[&str] = &[
    "session",
    "callid",
    "account",
    "other",
    "icid",
    "direction",
    "tariff",
    "unit",
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
    SELECT place, place, at, micros, step, rule, cause, seconds, message_id, code, messages, octets, quota, units, balance, \
    request FROM \
    (SELECT row_number() OVER (ORDER BY at, micros, number) - 1 AS place, * FROM steps WHERE session=?1) \
    WHERE place>=?2 ORDER BY place";

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

impl Reader {
    /// Lists the sessions of a call with their trace, starting at a step of a session.
    pub(crate) fn explain(&self, call: &Call<'_>, from: Option<(i64, i64)>, unit: Unit) -> Result<Value, CommandError> {
        let from = from.unwrap_or_default();
        let sessions = (SESSION, SESSION_FIELDS, params![call.text(0), from.0, unit.as_str()]);
        let show = |row: &Row<'_>| structure(row, STEP_FIELDS, true);
        self.of_call(call, from, sessions, &Below { name: "steps", sql: STEP, sparse: true, show: &show })
    }
}
