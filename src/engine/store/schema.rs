//! The tables of the ledger file, and what they mean to an operator who reads them.

/// Version of the schema, in `PRAGMA user_version`. A file of another version is refused.
pub const VERSION: i64 = 8;

/// All tables.
pub const TABLES: &str = "
-- Who pays. balance: what can still be used; held: reserved and not yet used; debited: all that was ever
-- used; balance + held + debited changes only by RPC. credit_limit: how far below zero balance may go.
CREATE TABLE accounts(
  id TEXT PRIMARY KEY, balance INTEGER NOT NULL, held INTEGER NOT NULL DEFAULT 0,
  debited INTEGER NOT NULL DEFAULT 0, credit_limit INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID;
-- What a session holds of an account. expires_at: UNIX milliseconds after which an idle session gives it back.
CREATE TABLE holds(
  session INTEGER PRIMARY KEY, account TEXT NOT NULL, units INTEGER NOT NULL, expires_at INTEGER NOT NULL);
-- One row per session, open or closed. opened_at, closed_at: UNIX milliseconds. granted: messages (or kilobytes)
-- granted in all. reserved: units that the enabler holds for the session. waiting: whether anything of it has no answer,
-- of the client or of the enabler. steps_dropped: steps beyond the bound, which are not kept. steps: the first ones, see
-- the view.
CREATE TABLE sessions(
  id INTEGER PRIMARY KEY, key TEXT NOT NULL, call_id TEXT NOT NULL, account TEXT NOT NULL, other TEXT NOT NULL,
  icid TEXT NOT NULL, direction TEXT NOT NULL, tariff TEXT NOT NULL, instance INTEGER NOT NULL,
  opened_at INTEGER NOT NULL, closed_at INTEGER, phase TEXT NOT NULL, granted INTEGER NOT NULL DEFAULT 0,
  reserved INTEGER NOT NULL DEFAULT 0, waiting INTEGER NOT NULL DEFAULT 0, steps_dropped INTEGER NOT NULL DEFAULT 0,
  steps TEXT NOT NULL DEFAULT '');
CREATE INDEX sessions_call ON sessions(call_id);
-- What the engine needs of a session, until it is forgotten: its head, and the parts of one with many messages.
CREATE TABLE states(session INTEGER PRIMARY KEY, state BLOB NOT NULL);
CREATE TABLE state_parts(
  session INTEGER NOT NULL, part INTEGER NOT NULL, state BLOB NOT NULL, PRIMARY KEY(session, part)) WITHOUT ROWID;
-- One row per debited message: who, when (UNIX milliseconds), which, how large, what it cost and why then. part: 0; 1
-- and up for chunks that were read after the message was debited, and for a message that is sent again after its units
-- were given back.
-- trigger: response, error (with the MSRP code), timeout or close. refunded_at: when the units were given back.
CREATE TABLE debits(
  id INTEGER PRIMARY KEY, session INTEGER NOT NULL, call_id TEXT NOT NULL, message_id TEXT NOT NULL,
  part INTEGER NOT NULL, account TEXT NOT NULL, octets INTEGER NOT NULL, units INTEGER NOT NULL, trigger TEXT NOT NULL,
  code INTEGER NOT NULL, at INTEGER NOT NULL, refunded_at INTEGER,
  UNIQUE(session, message_id, part));
CREATE INDEX debits_account ON debits(account);
CREATE INDEX debits_undelivered ON debits(at, units) WHERE trigger<>'response' AND refunded_at IS NULL;
-- When the file was made, UNIX seconds: Origin-State-Id of Diameter.
CREATE TABLE origin(state_id INTEGER NOT NULL);
INSERT INTO origin VALUES(unixepoch());
-- How far the rings of the running instance have been read and written.
CREATE TABLE marks(instance INTEGER PRIMARY KEY, events BLOB NOT NULL, notices BLOB NOT NULL);
-- How the peers of a distant enabler stood when an operator asked last.
CREATE TABLE peers(host TEXT NOT NULL, address TEXT NOT NULL, state TEXT NOT NULL, in_flight INTEGER NOT NULL,
  last_error TEXT NOT NULL);
-- The journal beside this file. ledger: random number by which the two know each other. applied: sequence of its last
-- record that these tables contain.
CREATE TABLE journal(ledger INTEGER NOT NULL, applied INTEGER NOT NULL);
INSERT INTO journal VALUES(random(), 0);
-- One row per message that went to the client and costs nothing. units: what it would have cost. rule and code: why.
CREATE TABLE undebited(
  session INTEGER NOT NULL, message_id TEXT NOT NULL, call_id TEXT NOT NULL, account TEXT NOT NULL,
  octets INTEGER NOT NULL, units INTEGER NOT NULL, rule TEXT NOT NULL, code INTEGER NOT NULL, at INTEGER NOT NULL,
  PRIMARY KEY(session, message_id, at)) WITHOUT ROWID;
CREATE INDEX undebited_at ON undebited(at, units);
-- What happened in a session after its first steps, some steps a row; part: number of the first one; zero: UNIX
-- microseconds that their times count from, NULL: those of the INVITE.
CREATE TABLE ladders(
  session INTEGER NOT NULL, part INTEGER NOT NULL, zero INTEGER, steps TEXT NOT NULL,
  PRIMARY KEY(session, part)) WITHOUT ROWID;
-- What happened in the sessions, step by step. at: UNIX milliseconds; micros: microseconds since the INVITE.
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
      FROM ladders l, json_each('[' || rtrim(l.steps, ',') || ']') e);
";
