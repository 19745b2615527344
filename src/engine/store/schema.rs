//! Tables of the ledger file, and how a file of an older version is upgraded.
//!
//! `PRAGMA user_version` is the version of a file. [`TABLES`] makes version 1, each of [`MIGRATIONS`] the next one. A new
//! file gets the tables and all migrations, an older one the migrations it lacks, in one transaction. A newer file is
//! refused.
//!
//! To change the schema, append a migration and never edit an old one. The journal and the states of sessions are encoded
//! by `postcard`, which does not describe itself: a change of [`Change`](super::change::Change) or of the state of a
//! session needs a migration too, if only one that rewrites or checks the states. The journal needs none, because a file
//! is upgraded only when its journal contains nothing that the tables lack.

use rusqlite::{Connection, Result};

/// Upgrades a file by one version, within the caller's transaction.
pub type Migration = fn(&Connection) -> Result<()>;

/// Migration `n` (counted from 0) upgrades version `n + 1` to `n + 2`.
pub const MIGRATIONS: &[Migration] = &[];

/// Version of a file that has all of these migrations.
pub const fn version(migrations: &[Migration]) -> i64 {
    1 + migrations.len() as i64
}

/// Tables of version 1. The comments are for operators who read the file.
pub const TABLES: &str = "
-- balance: units, without those that are held; not below minus credit_limit. held: units reserved and not used yet.
-- debited: units used since the account was created, less refunds. balance + held + debited is the sum of the amounts in
-- balance_changes without a session, since the last 'remove'. full_units: units left after the last top-up. is_low: 1
-- from the low-balance event until the units left are above low_balance again.
CREATE TABLE accounts(
  id TEXT PRIMARY KEY, balance INTEGER NOT NULL, held INTEGER NOT NULL DEFAULT 0,
  debited INTEGER NOT NULL DEFAULT 0, credit_limit INTEGER NOT NULL DEFAULT 0, full_units INTEGER NOT NULL DEFAULT 0,
  is_low INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
-- One row per change of an account. at: UNIX milliseconds. kind: initial (default_balance), set, add, limit, remove,
-- debit, refund. amount: by how much balance + held changed. reference: that of the operator; of a debit or refund, the
-- Call-ID. by: who changed it. session: session of a debit or refund; these rows are removed with it, the others are
-- kept. balance, held, credit_limit: values after the change.
CREATE TABLE balance_changes(
  id INTEGER PRIMARY KEY, at INTEGER NOT NULL, account TEXT NOT NULL, kind TEXT NOT NULL, amount INTEGER NOT NULL,
  reference TEXT NOT NULL, by TEXT NOT NULL, session INTEGER, balance INTEGER NOT NULL, held INTEGER NOT NULL,
  credit_limit INTEGER NOT NULL);
CREATE INDEX balance_changes_account ON balance_changes(account);
CREATE UNIQUE INDEX balance_changes_reference ON balance_changes(account, reference) WHERE kind='add';
CREATE INDEX balance_changes_recorded ON balance_changes(account, id, amount, kind, session) WHERE session IS NULL;
CREATE INDEX balance_changes_session ON balance_changes(session) WHERE session IS NOT NULL;
-- Units that a session holds of its account.
CREATE TABLE holds(session INTEGER PRIMARY KEY, units INTEGER NOT NULL);
-- One row per session, open or closed. opened_at, closed_at: UNIX milliseconds. recipients: of each message, 0 if unknown.
-- granted: messages (or kilobytes) granted in total. reserved: units that the enabler holds for the session. waiting: 1 while
-- a response of the client or an answer of the enabler is outstanding. steps: the first events of the trace, see the view;
-- steps_dropped: events that were not kept, because the session had too many.
CREATE TABLE sessions(
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, method TEXT NOT NULL, call_id TEXT NOT NULL, account TEXT NOT NULL,
  other TEXT NOT NULL, icid TEXT NOT NULL, direction TEXT NOT NULL, service TEXT NOT NULL, recipients INTEGER NOT NULL,
  tariff TEXT NOT NULL, instance INTEGER NOT NULL, opened_at INTEGER NOT NULL, closed_at INTEGER, phase TEXT NOT NULL,
  granted INTEGER NOT NULL DEFAULT 0, reserved INTEGER NOT NULL DEFAULT 0, waiting INTEGER NOT NULL DEFAULT 0,
  steps_dropped INTEGER NOT NULL DEFAULT 0, steps TEXT NOT NULL DEFAULT '');
CREATE INDEX sessions_call ON sessions(call_id);
-- Internal state of sessions that are not forgotten: a head, and further parts of a session with many messages.
CREATE TABLE states(session INTEGER PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE state_parts(
  session INTEGER NOT NULL, part INTEGER NOT NULL, state BLOB NOT NULL, PRIMARY KEY(session, part)) WITHOUT ROWID;
-- One row per debit. at: UNIX milliseconds. part: 0; 1 and up for chunks that were read after the message was debited, and
-- for a message that was sent again after its units had been refunded. trigger: response, error (code: the MSRP status),
-- timeout, close or prepay. refunded_at: UNIX milliseconds, NULL without a refund.
CREATE TABLE debits(
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, call_id TEXT NOT NULL, message_id TEXT NOT NULL,
  part INTEGER NOT NULL, account TEXT NOT NULL, class TEXT NOT NULL, octets INTEGER NOT NULL, units INTEGER NOT NULL,
  trigger TEXT NOT NULL, code INTEGER NOT NULL, at INTEGER NOT NULL, refunded_at INTEGER,
  UNIQUE(session, message_id, part));
CREATE INDEX debits_account ON debits(account);
CREATE INDEX debits_undelivered ON debits(at, units)
  WHERE trigger<>'response' AND trigger<>'prepay' AND refunded_at IS NULL;
-- Time at which the file was created, UNIX seconds: the Origin-State-Id of Diameter.
CREATE TABLE origin(state_id INTEGER NOT NULL);
INSERT INTO origin VALUES(unixepoch());
-- Positions up to which the rings of the running instance were read (events) and written (notifications).
CREATE TABLE marks(instance INTEGER PRIMARY KEY, events BLOB NOT NULL, notifications BLOB NOT NULL);
-- State of the enabler's servers at the last command that asked for it: one row per field, in the order of field.
CREATE TABLE enabler_status(
  server INTEGER NOT NULL, field INTEGER NOT NULL, name TEXT NOT NULL, value NOT NULL,
  PRIMARY KEY(server, field)) WITHOUT ROWID;
-- The journal beside this file. ledger: random number that both share. applied: sequence of its last record that is in
-- these tables.
CREATE TABLE journal(ledger INTEGER NOT NULL, applied INTEGER NOT NULL);
INSERT INTO journal VALUES(random(), 0);
-- One row per message that was relayed to the client and not charged. units: its price. rule, code: why it was free.
CREATE TABLE undebited(
  session INTEGER NOT NULL, message_id TEXT NOT NULL, call_id TEXT NOT NULL, account TEXT NOT NULL,
  octets INTEGER NOT NULL, units INTEGER NOT NULL, rule TEXT NOT NULL, code INTEGER NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY(session, message_id, at)) WITHOUT ROWID;
CREATE INDEX undebited_at ON undebited(at, units);
-- Charging records that are in no closed file of cdr_dir yet, in the order in which they are written. type: debit, release,
-- refund or session. at, requested_at: UNIX milliseconds. messages: of a session, the messages that it has paid for.
CREATE TABLE records(
  id INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, at INTEGER NOT NULL, requested_at INTEGER, method TEXT, call_id TEXT,
  icid TEXT, account TEXT, calling_party TEXT, called_party TEXT, service TEXT, direction TEXT, class TEXT,
  recipients INTEGER, tariff TEXT, message_id TEXT, part INTEGER, messages INTEGER, octets INTEGER NOT NULL,
  units INTEGER NOT NULL, trigger TEXT, rule TEXT, cause TEXT, code INTEGER NOT NULL, ocs_session_id TEXT);
-- Which records are in closed files. sequence: number of the last file; it contains the records after since, up to through.
-- closing: its path until it has been renamed.
CREATE TABLE record_files(
  sequence INTEGER NOT NULL, since INTEGER NOT NULL, through INTEGER NOT NULL, closing TEXT);
INSERT INTO record_files VALUES(0, 0, 0, NULL);
-- Later events of the trace of a session, several per row. part: number of the first one. zero: UNIX microseconds that
-- their times count from; NULL: the time of the INVITE.
CREATE TABLE trace_parts(
  session INTEGER NOT NULL, part INTEGER NOT NULL, zero INTEGER, steps TEXT NOT NULL,
  PRIMARY KEY(session, part)) WITHOUT ROWID;
-- Traces of the sessions, one row per event. at: UNIX milliseconds. micros: microseconds since the INVITE.
CREATE VIEW steps AS SELECT
  session, json_extract(step, '$[0]') AS number,
  (zero + json_extract(step, '$[1]')) / 1000 AS at, json_extract(step, '$[1]') AS micros,
  json_extract(step, '$[2]') AS step, json_extract(step, '$[4]') AS rule,
  json_extract(step, '$[12]') AS cause, json_extract(step, '$[13]') AS seconds,
  json_extract(step, '$[5]') AS message_id, json_extract(step, '$[9]') AS code,
  json_extract(step, '$[11]') AS messages, json_extract(step, '$[6]') AS octets,
  json_extract(step, '$[7]') AS quota, json_extract(step, '$[8]') AS units,
  json_extract(step, '$[10]') AS balance, json_extract(step, '$[3]') AS request
  FROM (
    SELECT s.id AS session, s.opened_at * 1000 AS zero, e.value AS step
      FROM sessions s, json_each('[' || rtrim(s.steps, ',') || ']') e
    UNION ALL
    SELECT l.session, coalesce(l.zero, (SELECT s.opened_at * 1000 FROM sessions s WHERE s.id=l.session)), e.value
      FROM trace_parts l, json_each('[' || rtrim(l.steps, ',') || ']') e);
";
