-- Shared ledger of imcharge on PostgreSQL 15 or newer: accounts, sessions, debits, and the functions that proxies call.
--
-- Run once as the owner of the database:  psql -1 -v ON_ERROR_STOP=1 -f imcharge.sql imcharge
-- The file can be run again; it changes nothing then. A schema of another version is refused.

\set ON_ERROR_STOP 1
SET client_min_messages = warning;
CREATE SCHEMA IF NOT EXISTS imcharge;
SET search_path = pg_catalog, imcharge;

CREATE TABLE IF NOT EXISTS imcharge.version(version int NOT NULL);
INSERT INTO imcharge.version SELECT 1 WHERE NOT EXISTS (SELECT FROM imcharge.version);

CREATE TABLE IF NOT EXISTS imcharge.accounts(
  id text COLLATE "C" PRIMARY KEY,
  created_at timestamptz NOT NULL,
  credit_limit bigint NOT NULL DEFAULT 0,
  full_left bigint NOT NULL,
  is_low boolean NOT NULL DEFAULT false,
  balance bigint NOT NULL,
  held bigint NOT NULL DEFAULT 0,
  debited bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 60);

CREATE TABLE IF NOT EXISTS imcharge.changes(
  account text COLLATE "C" NOT NULL, at timestamptz NOT NULL, kind text NOT NULL, amount bigint NOT NULL,
  reference text NOT NULL, by_whom text NOT NULL, node text NOT NULL, session bytea, message_id text, part bigint,
  balance bigint NOT NULL, held bigint NOT NULL, credit_limit bigint NOT NULL);

CREATE TABLE IF NOT EXISTS imcharge.nodes(
  name text COLLATE "C" PRIMARY KEY, identity text NOT NULL, origin_host text NOT NULL, epoch bigint NOT NULL,
  is_fenced boolean NOT NULL DEFAULT false, taken_over_by text COLLATE "C", ticked_epoch bigint NOT NULL DEFAULT 0,
  last_tick bigint NOT NULL DEFAULT 0, lease_until timestamptz NOT NULL);

CREATE TABLE IF NOT EXISTS imcharge.sessions(
  session bytea PRIMARY KEY, account text COLLATE "C" NOT NULL, opened_at bigint NOT NULL,
  origin_node text COLLATE "C" NOT NULL, node text COLLATE "C" NOT NULL, epoch bigint NOT NULL,
  adopted_from text COLLATE "C", number bigint NOT NULL, kind smallint NOT NULL, result smallint NOT NULL,
  granted bigint NOT NULL, balance bigint NOT NULL, held bigint NOT NULL, state bytea) WITH (fillfactor = 50);

CREATE TABLE IF NOT EXISTS imcharge.session_parts(
  session bytea NOT NULL, part bigint NOT NULL, state bytea NOT NULL, PRIMARY KEY(session, part));

CREATE TABLE IF NOT EXISTS imcharge.debits(
  session bytea NOT NULL, message_id text COLLATE "C" NOT NULL, part bigint NOT NULL, at timestamptz NOT NULL,
  account text COLLATE "C" NOT NULL, units bigint NOT NULL, octets bigint NOT NULL, class text NOT NULL,
  trigger text NOT NULL, code int NOT NULL, call_id text NOT NULL, node text NOT NULL, balance bigint NOT NULL,
  held bigint NOT NULL, credit_limit bigint NOT NULL, refunded_at timestamptz, PRIMARY KEY(session, message_id, part));

-- Every change of balance and held units together.
CREATE OR REPLACE VIEW imcharge.account_changes AS
  SELECT account, at, kind, amount, reference, by_whom, node, session, message_id, part, balance, held, credit_limit
    FROM imcharge.changes
  UNION ALL
  SELECT account, at, 'debit', -units, call_id, 'imcharge', node, session, message_id, part, balance, held, credit_limit
    FROM imcharge.debits;

CREATE OR REPLACE FUNCTION imcharge.check_version() RETURNS int LANGUAGE sql STABLE AS
  'SELECT version FROM imcharge.version';

CREATE OR REPLACE FUNCTION imcharge.join(p_node text, p_identity text, p_lease_ms int, p_origin_host text)
  RETURNS TABLE(epoch bigint, last_tick bigint, result smallint) LANGUAGE plpgsql AS $$
BEGIN RAISE feature_not_supported; END $$;

CREATE OR REPLACE FUNCTION imcharge.tick(
  p_node text, p_epoch bigint, p_tick bigint, p_lease_ms int, p_default_balance bigint, p_low_units bigint,
  p_low_percent int,
  p_kinds smallint[], p_sessions bytea[], p_numbers bigint[], p_accounts text[], p_quotas bigint[], p_units bigint[],
  p_holds bigint[], p_messages text[], p_parts bigint[], p_octets bigint[], p_classes text[], p_triggers text[],
  p_codes int[], p_calls text[], p_opened bigint[],
  p_state_sessions bytea[], p_state_accounts text[], p_state_opened bigint[], p_states bytea[],
  p_part_sessions bytea[], p_part_numbers bigint[], p_part_states bytea[])
  RETURNS TABLE(item int, result smallint, granted bigint, balance bigint, held bigint, credit_limit bigint,
    became_low bool) LANGUAGE plpgsql AS $$
BEGIN RAISE feature_not_supported; END $$;

CREATE OR REPLACE FUNCTION imcharge.dead_nodes(p_node text) RETURNS TABLE(name text) LANGUAGE plpgsql AS $$
BEGIN RAISE feature_not_supported; END $$;

CREATE OR REPLACE FUNCTION imcharge.take_over(p_node text, p_epoch bigint, p_dead text)
  RETURNS TABLE(result smallint) LANGUAGE plpgsql AS $$
BEGIN RAISE feature_not_supported; END $$;

CREATE OR REPLACE FUNCTION imcharge.adopt(p_node text, p_epoch bigint, p_dead text, p_limit int)
  RETURNS TABLE(session bytea, account text, number bigint, opened_at bigint, state bytea, part_numbers bigint[],
    part_states bytea[]) LANGUAGE plpgsql AS $$
BEGIN RAISE feature_not_supported; END $$;

CREATE OR REPLACE FUNCTION imcharge.adopted(p_node text, p_epoch bigint, p_sessions bytea[])
  RETURNS TABLE(result smallint) LANGUAGE plpgsql AS $$
BEGIN RAISE feature_not_supported; END $$;

-- Compares a page of accounts with their changes, debits and sessions. Returns the accounts that differ, and a last row
-- without account: its next is the p_after of the following page, NULL after the last one.
CREATE OR REPLACE FUNCTION imcharge.audit(p_after text, p_limit int)
  RETURNS TABLE(account text, balance bigint, held bigint, debited bigint, changes numeric, debits numeric,
    holds numeric, next text) LANGUAGE plpgsql AS $$
BEGIN RAISE feature_not_supported; END $$;
