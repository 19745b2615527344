-- Shared ledger of imcharge on PostgreSQL 15 or newer: accounts, sessions and debits of all proxies, and the functions that
-- the proxies call.
--
-- Run by the owner of the database:  psql -1 -v ON_ERROR_STOP=1 -f imcharge.sql DATABASE
-- Running it again replaces the functions and keeps all data. A schema of another version is refused.
--
-- Rules that all functions keep:
-- * Each function is one transaction, READ COMMITTED. Locks are taken in the order of nodes (by name), accounts (by id),
--   sessions (by key), so that the proxies cannot deadlock.
-- * A function that answers a proxy writes the row of a node, also if it changes nothing else. Its commit then waits for
--   the synchronous standby, and an answer about earlier work is not sent before the standby has that work.
-- * The row lock of an account protects the units held by its sessions and their last answers. The row lock of a node
--   protects node, epoch and state of its sessions.
-- * Units are checked: no stored number exceeds 2 * 10^18, so that no sum of four of them overflows.

\set ON_ERROR_STOP 1
SET client_min_messages = warning;

DO $$
DECLARE v_version int;
BEGIN
  IF to_regnamespace('imcharge') IS NULL THEN RETURN; END IF;
  IF to_regclass('imcharge.version') IS NULL THEN
    RAISE EXCEPTION 'schema imcharge exists and is not the shared ledger of imcharge'
      USING HINT = 'Drop or rename that schema, or use another database.';
  END IF;
  EXECUTE 'SELECT max(version) FROM imcharge.version' INTO v_version;
  IF v_version IS DISTINCT FROM 1 THEN
    RAISE EXCEPTION 'schema imcharge has version %, and this file is version 1; nothing was changed',
      coalesce(v_version::text, 'none')
      USING HINT = 'Run the imcharge.sql that belongs to the installed release of imcharge.';
  END IF;
END $$;

CREATE SCHEMA IF NOT EXISTS imcharge;
COMMENT ON SCHEMA imcharge IS 'Shared ledger of imcharge, version 1.';

CREATE TABLE IF NOT EXISTS imcharge.version(version int NOT NULL);
COMMENT ON TABLE imcharge.version IS 'One row: version of this schema.';
INSERT INTO imcharge.version SELECT 1 WHERE NOT EXISTS (SELECT FROM imcharge.version);

CREATE TABLE IF NOT EXISTS imcharge.accounts(
  id text COLLATE "C" PRIMARY KEY CHECK (octet_length(id) BETWEEN 1 AND 1000),
  created_at timestamptz NOT NULL,
  credit_limit bigint NOT NULL DEFAULT 0 CHECK (credit_limit BETWEEN 0 AND 2000000000000000000),
  full_left bigint NOT NULL,
  is_low boolean NOT NULL DEFAULT false,
  balance bigint NOT NULL CHECK (balance BETWEEN -credit_limit AND 2000000000000000000),
  held bigint NOT NULL DEFAULT 0 CHECK (held BETWEEN 0 AND 2000000000000000000),
  debited bigint NOT NULL DEFAULT 0 CHECK (debited BETWEEN -2000000000000000000 AND 2000000000000000000)
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE imcharge.accounts IS
  'One row per account. balance: units, without those that are held. held: units that open sessions have reserved. '
  'debited: units used since created_at, less refunds. balance + held + debited is the sum of the changes of kind '
  'initial, import, set and add since created_at. full_left: units left after the last top-up. is_low: the units left have '
  'fallen to the threshold low_balance.';

CREATE TABLE IF NOT EXISTS imcharge.changes(
  account text COLLATE "C" NOT NULL,
  at timestamptz NOT NULL,
  kind text NOT NULL CHECK (kind IN ('initial', 'import', 'set', 'add', 'limit', 'remove', 'debit')),
  amount bigint NOT NULL,
  reference text COLLATE "C" NOT NULL CHECK (octet_length(reference) <= 1000),
  by_whom text NOT NULL,
  node text NOT NULL,
  session bytea,
  message_id text,
  part bigint,
  balance bigint NOT NULL,
  held bigint NOT NULL,
  credit_limit bigint NOT NULL
);
CREATE INDEX IF NOT EXISTS changes_account ON imcharge.changes(account, at);
CREATE UNIQUE INDEX IF NOT EXISTS changes_import ON imcharge.changes(account, reference) WHERE kind = 'import';
CREATE UNIQUE INDEX IF NOT EXISTS changes_reference ON imcharge.changes(account, reference) WHERE kind = 'add';
COMMENT ON TABLE imcharge.changes IS
  'Changes of accounts that are no row of debits: by operators, the initial balance, and (kind debit) units that were '
  'added to a debit later. balance, held, credit_limit: values after the change. account_changes shows all changes.';

CREATE TABLE IF NOT EXISTS imcharge.nodes(
  name text COLLATE "C" PRIMARY KEY CHECK (octet_length(name) BETWEEN 1 AND 1000),
  identity text NOT NULL,
  origin_host text NOT NULL,
  epoch bigint NOT NULL,
  is_fenced boolean NOT NULL DEFAULT false,
  taken_over_by text COLLATE "C",
  ticked_epoch bigint NOT NULL DEFAULT 0,
  last_tick bigint NOT NULL DEFAULT 0,
  lease_until timestamptz NOT NULL
) WITH (fillfactor = 20);
COMMENT ON TABLE imcharge.nodes IS
  'One row per proxy. identity: its state directory. epoch: rises when the node is fenced or gets another identity. '
  'is_fenced: it has not joined again since it was fenced. taken_over_by: node that adopts sessions of its earlier '
  'epochs. ticked_epoch: epoch of its last tick. last_tick: its highest tick. origin_host: its Diameter identity.';

CREATE TABLE IF NOT EXISTS imcharge.sessions(
  session bytea PRIMARY KEY CHECK (octet_length(session) = 16),
  account text COLLATE "C" NOT NULL CHECK (octet_length(account) BETWEEN 1 AND 1000),
  opened_at bigint NOT NULL,
  origin_node text COLLATE "C" NOT NULL,
  node text COLLATE "C" NOT NULL,
  epoch bigint NOT NULL,
  adopted_from text COLLATE "C",
  number bigint NOT NULL,
  kind smallint NOT NULL,
  result smallint NOT NULL,
  granted bigint NOT NULL,
  balance bigint NOT NULL,
  held bigint NOT NULL CHECK (held BETWEEN 0 AND 2000000000000000000),
  state bytea
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX IF NOT EXISTS sessions_node ON imcharge.sessions(node, epoch);
CREATE INDEX IF NOT EXISTS sessions_adopted ON imcharge.sessions(node, adopted_from) WHERE adopted_from IS NOT NULL;
CREATE INDEX IF NOT EXISTS sessions_account ON imcharge.sessions(account);
COMMENT ON TABLE imcharge.sessions IS
  'One row per open session. opened_at: UNIX milliseconds. origin_node: node that opened it. node, epoch: its owner. '
  'adopted_from: former owner, until the new one confirms that it has the session. number, kind, result, granted, '
  'balance: its latest request and the answer to it; number -1: no request yet. held: units that it holds of its '
  'account. state: internal state, with further parts in session_parts.';

CREATE TABLE IF NOT EXISTS imcharge.session_parts(
  session bytea NOT NULL,
  part bigint NOT NULL,
  state bytea NOT NULL,
  PRIMARY KEY (session, part)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);
COMMENT ON TABLE imcharge.session_parts IS 'Parts of the state of sessions with many messages.';

CREATE TABLE IF NOT EXISTS imcharge.debits(
  -- Columns of eight octets come first, which saves padding.
  at timestamptz NOT NULL,
  part bigint NOT NULL,
  units bigint NOT NULL CHECK (units BETWEEN 0 AND 2000000000000000000),
  from_hold bigint NOT NULL,
  octets bigint NOT NULL,
  balance bigint NOT NULL,
  held bigint NOT NULL,
  credit_limit bigint NOT NULL,
  code int NOT NULL,
  session bytea NOT NULL,
  message_id text COLLATE "C" NOT NULL,
  account text COLLATE "C" NOT NULL,
  class text NOT NULL,
  trigger text NOT NULL,
  call_id text NOT NULL,
  node text COLLATE "C" NOT NULL,
  low_node text COLLATE "C",
  units_added bigint,
  refunded_at timestamptz,
  refund_node text COLLATE "C",
  refund_balance bigint,
  refund_held bigint,
  refund_limit bigint,
  PRIMARY KEY (session, message_id, part)
);
CREATE INDEX IF NOT EXISTS debits_account ON imcharge.debits(account, at);
CREATE INDEX IF NOT EXISTS debits_refunded ON imcharge.debits(account, refunded_at) WHERE refunded_at IS NOT NULL;
COMMENT ON TABLE imcharge.debits IS
  'One row per debit: a message, or a part of one. units: all that it took; from_hold: how much of it the session held; '
  'units_added: how much of it was added after at, when more of the message was delivered. balance, held, credit_limit: '
  'values of the account after it. low_node: node of the request by which it took the account to the threshold '
  'low_balance. refunded_at: when the '
  'units were returned, NULL if they were not.';

CREATE TABLE IF NOT EXISTS imcharge.commands(
  node text COLLATE "C" NOT NULL,
  epoch bigint NOT NULL,
  number bigint NOT NULL,
  result smallint NOT NULL,
  balance bigint,
  held bigint,
  credit_limit bigint,
  became_low boolean NOT NULL,
  PRIMARY KEY (node, epoch, number)
);
COMMENT ON TABLE imcharge.commands IS 'Answers to the last 10,000 commands of each node, for ticks that are repeated.';

CREATE TABLE IF NOT EXISTS imcharge.imports(
  ledger text COLLATE "C" PRIMARY KEY CHECK (octet_length(ledger) BETWEEN 1 AND 1000),
  reference text COLLATE "C" NOT NULL UNIQUE CHECK (octet_length(reference) BETWEEN 1 AND 1000),
  node text COLLATE "C" NOT NULL,
  by_whom text NOT NULL,
  first_at timestamptz NOT NULL,
  last_at timestamptz NOT NULL,
  accounts bigint NOT NULL
);
COMMENT ON TABLE imcharge.imports IS
  'One row per embedded ledger whose accounts were imported. ledger: its random number. reference: that of all changes of '
  'kind import that its accounts have. accounts: how many there are. last_at: time of the last command.';

CREATE OR REPLACE VIEW imcharge.account_changes AS
  SELECT account, at, kind, amount, reference, by_whom, node, session, message_id, part, balance, held, credit_limit
    FROM imcharge.changes
  UNION ALL
  SELECT account, at, 'debit', coalesce(units_added, 0) - units, call_id, 'imcharge', node, session, message_id, part,
      balance, held, credit_limit
    FROM imcharge.debits WHERE units > coalesce(units_added, 0)
  UNION ALL
  SELECT account, refunded_at, 'refund', units, call_id, 'imcharge', refund_node, session, message_id, part,
      refund_balance, refund_held, refund_limit
    FROM imcharge.debits WHERE refunded_at IS NOT NULL AND units > 0;
COMMENT ON VIEW imcharge.account_changes IS
  'Every change of balance and held units together. amount: by how much. reference: that of the operator; of a debit or '
  'refund, the Call-ID. balance, held, credit_limit: values after it. The changes of an account have rising times.';

CREATE OR REPLACE FUNCTION imcharge.check_version() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, imcharge, pg_temp
AS $$ SELECT v.version FROM imcharge.version v $$;
COMMENT ON FUNCTION imcharge.check_version IS 'Returns the version of this schema.';

CREATE OR REPLACE FUNCTION imcharge.standbys() RETURNS int
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, imcharge, pg_temp
AS $$ SELECT count(*)::int FROM pg_stat_replication WHERE state = 'streaming' AND sync_state IN ('sync', 'quorum') $$;
COMMENT ON FUNCTION imcharge.standbys IS
  'Returns the number of connected synchronous standbys. 0 if the owner of this function is no member of pg_monitor.';

CREATE OR REPLACE FUNCTION imcharge.show_warnings() RETURNS void
LANGUAGE plpgsql VOLATILE
AS $$
BEGIN
  IF current_setting('client_min_messages') = 'error' THEN
    PERFORM set_config('client_min_messages', 'warning', true);
  END IF;
END $$;
COMMENT ON FUNCTION imcharge.show_warnings IS
  'Lets the warning of an unconfirmed commit reach the proxy, whatever the database is set to. Until the end of the '
  'transaction.';

CREATE OR REPLACE FUNCTION imcharge.is_gone(p_node text) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, imcharge, pg_temp
AS $$
  SELECT NOT EXISTS (SELECT FROM imcharge.nodes n
    WHERE n.name = p_node AND NOT n.is_fenced AND n.lease_until >= now() - interval '5 s')
$$;
COMMENT ON FUNCTION imcharge.is_gone IS 'Returns whether a node is unknown, is fenced, or let its lease end 5 s ago.';

CREATE OR REPLACE FUNCTION imcharge.is_low(p_left bigint, p_full bigint, p_low_units bigint, p_low_percent int)
RETURNS boolean LANGUAGE sql IMMUTABLE
AS $$
  SELECT coalesce(p_left <= p_low_units, false)
    OR coalesce(p_left::numeric * 100 <= p_full::numeric * p_low_percent, false)
$$;
COMMENT ON FUNCTION imcharge.is_low IS 'Returns whether the units left have fallen to the threshold low_balance.';

CREATE OR REPLACE FUNCTION imcharge.birth(p_account text, p_at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE SET search_path = pg_catalog, imcharge, pg_temp
AS $$
  SELECT greatest(p_at,
    (SELECT max(c.at) FROM imcharge.changes c WHERE c.account = p_account) + interval '1 us',
    (SELECT max(d.at) FROM imcharge.debits d WHERE d.account = p_account) + interval '1 us',
    (SELECT max(d.refunded_at) FROM imcharge.debits d WHERE d.account = p_account AND d.refunded_at IS NOT NULL)
      + interval '1 us')
$$;
COMMENT ON FUNCTION imcharge.birth IS
  'Returns when an account that is created now begins: after all changes of an earlier account of this id, also if the '
  'clock was set back.';

CREATE OR REPLACE FUNCTION imcharge.join(p_node text, p_identity text, p_lease_ms int, p_origin_host text)
RETURNS TABLE(epoch bigint, last_tick bigint, result smallint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, imcharge, pg_temp
SET lock_timeout = '5s'
AS $$
#variable_conflict use_column
DECLARE
  v_node imcharge.nodes;
  v_lease interval := p_lease_ms * interval '1 ms';
BEGIN
  IF p_node IS NULL OR p_identity IS NULL OR coalesce(p_lease_ms, 0) <= 0 THEN
    RAISE invalid_parameter_value USING MESSAGE = 'join: node, identity and lease are required';
  END IF;
  PERFORM imcharge.show_warnings();
  LOOP
    SELECT n.* INTO v_node FROM imcharge.nodes n WHERE n.name = p_node FOR UPDATE;
    EXIT WHEN FOUND;
    INSERT INTO imcharge.nodes AS n (name, identity, origin_host, epoch, lease_until)
      VALUES (p_node, p_identity, coalesce(p_origin_host, ''), 1, now() + v_lease) ON CONFLICT DO NOTHING;
    IF FOUND THEN
      RETURN QUERY SELECT 1::bigint, 0::bigint, 1::smallint;
      RETURN;
    END IF;
  END LOOP;
  IF v_node.identity = p_identity THEN
    -- A late copy of an earlier tick is below the gap.
    result := CASE WHEN v_node.is_fenced OR v_node.ticked_epoch <> v_node.epoch THEN 1 ELSE 0 END;
    v_node.last_tick := v_node.last_tick + 1000;
  ELSIF v_node.is_fenced OR v_node.lease_until < now() THEN
    result := 1;
    v_node.epoch := v_node.epoch + 1;
    v_node.last_tick := 0;
  ELSE
    result := 2;
  END IF;
  IF result = 2 THEN
    UPDATE imcharge.nodes n SET epoch = n.epoch WHERE n.name = p_node;
  ELSE
    UPDATE imcharge.nodes n SET identity = p_identity, origin_host = coalesce(p_origin_host, ''), epoch = v_node.epoch,
        is_fenced = false, last_tick = v_node.last_tick, lease_until = now() + v_lease
      WHERE n.name = p_node;
    DELETE FROM imcharge.commands c WHERE c.node = p_node AND c.epoch < v_node.epoch;
  END IF;
  IF result = 0 THEN
    -- The node sends the states of its sessions again. It may have settled and forgotten one without having said so here;
    -- what it does not name, it adopts from itself.
    UPDATE imcharge.sessions s SET adopted_from = p_node
      WHERE s.node = p_node AND s.epoch = v_node.epoch AND s.adopted_from IS NULL;
  END IF;
  epoch := v_node.epoch;
  last_tick := v_node.last_tick;
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION imcharge.join IS
  'Begins to work as this node. result 0: as before, in the same epoch; 1: in a new epoch, sessions of earlier ones are '
  'lost to this node, answered until a tick of the epoch was executed; 2: another identity has this name, and its lease '
  'is not over. The next tick is last_tick + 1. After 0, sessions of which no tick has a request or a state are adopted '
  'by the node itself.';

CREATE OR REPLACE FUNCTION imcharge.change_account(
  p_node text, p_epoch bigint, p_number bigint, p_kind smallint, p_account text, p_units bigint, p_reference text,
  p_by text, p_low_units bigint, p_low_percent int)
RETURNS imcharge.commands
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, imcharge, pg_temp
AS $$
#variable_conflict use_column
DECLARE
  c_balance_max CONSTANT bigint := 1000000000000000;
  v_answer imcharge.commands;
  v_account imcharge.accounts;
  v_change imcharge.changes;
  v_known boolean;
  v_balance numeric;
  v_limit bigint;
  v_was_low boolean;
  v_at timestamptz := clock_timestamp();
BEGIN
  SELECT c.* INTO v_answer FROM imcharge.commands c
    WHERE c.node = p_node AND c.epoch = p_epoch AND c.number = p_number;
  IF FOUND THEN RETURN v_answer; END IF;
  v_answer := (p_node, p_epoch, p_number, 0, NULL, NULL, NULL, false);
  SELECT a.* INTO v_account FROM imcharge.accounts a WHERE a.id = p_account FOR UPDATE;
  v_known := FOUND;
  IF v_known THEN
    v_answer.balance := v_account.balance;
    v_answer.held := v_account.held;
    v_answer.credit_limit := v_account.credit_limit;
  END IF;
  IF p_kind = 8 THEN
    SELECT c.* INTO v_change FROM imcharge.changes c
      WHERE c.account = p_account AND c.reference = p_reference AND c.kind = 'add';
    IF FOUND THEN
      v_answer.result := CASE WHEN v_change.amount = p_units THEN 14 ELSE 13 END;
      v_answer.balance := v_change.balance;
      v_answer.held := v_change.held;
      v_answer.credit_limit := v_change.credit_limit;
    END IF;
  END IF;
  IF v_answer.result = 0 THEN
    v_balance := CASE p_kind WHEN 7 THEN p_units WHEN 8 THEN v_account.balance::numeric + p_units
      ELSE v_account.balance END;
    IF p_kind = 7 AND NOT v_known THEN
      v_account := (p_account, imcharge.birth(p_account, v_at), 0, 0, false, 0, 0, 0);
      v_at := v_account.created_at;
    END IF;
    v_limit := CASE p_kind WHEN 9 THEN p_units ELSE v_account.credit_limit END;
    v_answer.result := CASE
      WHEN NOT v_known AND p_kind <> 7 THEN 2
      WHEN p_kind = 10 AND (v_account.balance <> 0 OR v_account.held <> 0) THEN 12
      WHEN v_balance NOT BETWEEN -9223372036854775808 AND 9223372036854775807 OR v_limit < 0 THEN 3
      WHEN v_balance > c_balance_max OR v_limit > c_balance_max THEN 10
      WHEN v_balance < -v_limit THEN 11
      ELSE 0 END;
  END IF;
  IF v_answer.result = 0 THEN
    v_change := (p_account, v_at, (ARRAY['set', 'add', 'limit', 'remove'])[p_kind - 6],
      v_balance::bigint - v_account.balance, p_reference, p_by, p_node, NULL, NULL, NULL, v_balance::bigint,
      v_account.held, v_limit);
    v_was_low := v_account.is_low;
    v_account.balance := v_balance::bigint;
    v_account.credit_limit := v_limit;
    IF p_kind IN (7, 9) OR (p_kind = 8 AND p_units > 0) THEN
      v_account.full_left := v_account.balance + v_account.held + v_limit;
    END IF;
    v_account.is_low := imcharge.is_low(v_account.balance + v_account.held + v_limit, v_account.full_left, p_low_units,
      p_low_percent);
    IF p_kind = 10 THEN
      DELETE FROM imcharge.accounts a WHERE a.id = p_account;
    ELSIF v_known THEN
      v_answer.became_low := v_account.is_low AND NOT v_was_low;
      UPDATE imcharge.accounts a SET balance = v_account.balance, credit_limit = v_limit,
          full_left = v_account.full_left, is_low = v_account.is_low
        WHERE a.id = p_account;
    ELSE
      INSERT INTO imcharge.accounts SELECT v_account.* ON CONFLICT DO NOTHING;
      IF NOT FOUND THEN
        RAISE serialization_failure USING MESSAGE = format('account %s was created by another node', p_account);
      END IF;
    END IF;
    INSERT INTO imcharge.changes SELECT v_change.*;
    v_answer.balance := v_account.balance;
    v_answer.held := v_account.held;
    v_answer.credit_limit := v_limit;
  END IF;
  INSERT INTO imcharge.commands SELECT v_answer.*;
  DELETE FROM imcharge.commands c WHERE c.node = p_node AND c.epoch = p_epoch AND c.number < p_number - 10000;
  RETURN v_answer;
END $$;
COMMENT ON FUNCTION imcharge.change_account IS
  'Executes a command of an operator (7 set, 8 add, 9 limit, 10 remove) in a tick that has locked the account, and keeps '
  'the answer.';

CREATE OR REPLACE FUNCTION imcharge.tick(
  p_node text, p_epoch bigint, p_tick bigint, p_lease_ms int, p_default_balance bigint, p_low_units bigint,
  p_low_percent int,
  p_kinds smallint[], p_sessions bytea[], p_numbers bigint[], p_accounts text[], p_quotas bigint[], p_units bigint[],
  p_holds bigint[], p_messages text[], p_parts bigint[], p_octets bigint[], p_classes text[], p_triggers text[],
  p_codes int[], p_calls text[], p_opened bigint[],
  p_state_sessions bytea[], p_state_accounts text[], p_state_opened bigint[], p_states bytea[],
  p_part_sessions bytea[], p_part_numbers bigint[], p_part_states bytea[])
RETURNS TABLE(item int, result smallint, granted bigint, balance bigint, held bigint, credit_limit bigint,
  became_low bool)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, imcharge, pg_temp
-- One plan for all calls: from the requests to the rows, by primary key. Statistics do not matter: a table that was empty
-- when they were made may be large now. IS NOT DISTINCT FROM keeps the index of nodes out of a plan.
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
SET enable_memoize = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  c_units_max CONSTANT bigint := 2000000000000000000;
  c_quota_max CONSTANT bigint := 4294967295;
  v_items CONSTANT int := cardinality(p_kinds);
  v_last_tick bigint;
  v_at timestamptz;
  -- Ordinals of the requests that the next round executes; NULL: all. Each round executes one request of a session.
  v_todo int[];
  v_later int[];
  v_settled bytea[];
  v_settled_accounts text[];
  v_updated int;
  -- Locked and new accounts, in the order of id. state: 0 unchanged, 1 changed, 2 new.
  a_ids text[]; a_created timestamptz[]; a_limits bigint[]; a_fulls bigint[]; a_lows bool[]; a_balances bigint[];
  a_helds bigint[]; a_debiteds bigint[]; a_states smallint[];
  v_locked int;
  v_next int;
  -- The account of the current request. v_at_account: its index; 0: it does not exist.
  v_account text; v_at_account int;
  v_balance bigint; v_held bigint; v_debited bigint; v_limit bigint; v_full bigint; v_low bool; v_created timestamptz;
  v_is_new bool;
  -- The current request.
  r record;
  v_session bytea;
  v_owned bool; v_has_row bool; v_writes bool;
  v_available bigint; v_wanted bigint; v_from_hold bigint; v_from_balance bigint; v_rest bigint; v_session_held bigint;
  v_was_low bool; v_is_latest bool;
  -- Rows to write: sessions, debits.
  s_sessions bytea[]; s_accounts text[]; s_opened bigint[]; s_numbers bigint[]; s_kinds smallint[]; s_granted bigint[];
  s_balances bigint[]; s_helds bigint[];
  d_items int[]; d_at timestamptz[]; d_units bigint[]; d_from_hold bigint[]; d_balances bigint[]; d_helds bigint[];
  d_limits bigint[]; d_lows bool[];
BEGIN
  IF p_node IS NULL OR p_epoch IS NULL OR p_tick IS NULL OR coalesce(p_lease_ms, 0) <= 0
    OR p_default_balance NOT BETWEEN 0 AND 1000000000000000
    OR (cardinality(p_sessions) = v_items AND cardinality(p_numbers) = v_items AND cardinality(p_accounts) = v_items
      AND cardinality(p_quotas) = v_items AND cardinality(p_units) = v_items AND cardinality(p_holds) = v_items
      AND cardinality(p_messages) = v_items AND cardinality(p_parts) = v_items AND cardinality(p_octets) = v_items
      AND cardinality(p_classes) = v_items AND cardinality(p_triggers) = v_items AND cardinality(p_codes) = v_items
      AND cardinality(p_calls) = v_items AND cardinality(p_opened) = v_items
      AND cardinality(p_state_accounts) = cardinality(p_state_sessions)
      AND cardinality(p_state_opened) = cardinality(p_state_sessions)
      AND cardinality(p_states) = cardinality(p_state_sessions)
      AND cardinality(p_part_numbers) = cardinality(p_part_sessions)
      AND cardinality(p_part_states) = cardinality(p_part_sessions)) IS NOT TRUE
  THEN
    RAISE invalid_parameter_value USING MESSAGE = 'tick: an argument is missing or out of range, or lengths of arrays differ';
  END IF;
  PERFORM imcharge.show_warnings();

  -- Every tick writes this row, a repeated one too: its commit waits for the standby, and so covers the first copy.
  UPDATE imcharge.nodes AS n SET last_tick = greatest(n.last_tick, p_tick), ticked_epoch = n.epoch,
      lease_until = CASE WHEN n.last_tick > p_tick THEN n.lease_until ELSE now() + p_lease_ms * interval '1 ms' END
    WHERE n.name = p_node AND n.epoch = p_epoch AND NOT n.is_fenced
    RETURNING n.last_tick INTO v_last_tick;
  item := 0;
  granted := 0;
  became_low := false;
  result := CASE WHEN NOT FOUND THEN 5 WHEN v_last_tick > p_tick THEN 6 ELSE 0 END;
  RETURN NEXT;
  IF result <> 0 OR (v_items = 0 AND cardinality(p_state_sessions) = 0 AND cardinality(p_part_sessions) = 0) THEN
    RETURN;
  END IF;

  SELECT coalesce(array_agg(u.session), '{}'), coalesce(array_agg(u.account), '{}') INTO v_settled, v_settled_accounts
    FROM unnest(p_state_sessions, p_state_accounts, p_states) AS u(session, account, state) WHERE u.state IS NULL;

  -- Commands of operators come first.
  IF 7 <= ANY (p_kinds) THEN
    PERFORM FROM imcharge.accounts a WHERE a.id = ANY (p_accounts || v_settled_accounts) ORDER BY a.id FOR UPDATE;
    FOR r IN
      SELECT u.ord::int AS ord, u.kind, u.number, u.account, u.units, u.reference, u.by_whom
        FROM unnest(p_kinds, p_numbers, p_accounts, p_units, p_messages, p_calls)
          WITH ORDINALITY AS u(kind, number, account, units, reference, by_whom, ord)
        WHERE u.kind BETWEEN 7 AND 10
        ORDER BY u.account COLLATE "C", u.ord
    LOOP
      item := r.ord;
      IF (octet_length(r.account) BETWEEN 1 AND 1000 AND octet_length(r.reference) <= 1000 AND r.number >= 0
        AND r.by_whom IS NOT NULL AND r.units IS NOT NULL) IS TRUE
      THEN
        SELECT c.result, c.balance, c.held, c.credit_limit, c.became_low INTO result, balance, held, credit_limit, became_low
          FROM imcharge.change_account(p_node, p_epoch, r.number, r.kind, r.account, r.units, r.reference, r.by_whom,
            p_low_units, p_low_percent) c;
      ELSE
        result := 3;
        balance := NULL;
        held := NULL;
        credit_limit := NULL;
        became_low := false;
      END IF;
      RETURN NEXT;
    END LOOP;
  END IF;

  LOOP
    -- Values are those of the locked rows: an account that another node creates meanwhile is unknown in this round.
    SELECT array_agg(l.id), array_agg(l.created_at), array_agg(l.credit_limit), array_agg(l.full_left),
        array_agg(l.is_low), array_agg(l.balance), array_agg(l.held), array_agg(l.debited), array_agg(0::smallint),
        count(*)
      INTO a_ids, a_created, a_limits, a_fulls, a_lows, a_balances, a_helds, a_debiteds, a_states, v_locked
      FROM (SELECT a.* FROM imcharge.accounts a WHERE a.id = ANY (p_accounts || v_settled_accounts)
        ORDER BY a.id FOR UPDATE) l;
    v_at := clock_timestamp();
    v_next := 1;
    v_account := NULL;
    v_session := NULL;
    v_later := NULL;
    s_sessions := NULL; s_accounts := NULL; s_opened := NULL; s_numbers := NULL; s_kinds := NULL; s_granted := NULL;
    s_balances := NULL; s_helds := NULL;
    d_items := NULL; d_at := NULL; d_units := NULL; d_from_hold := NULL; d_balances := NULL; d_helds := NULL;
    d_limits := NULL; d_lows := NULL;

    -- Requests in the order of accounts, as the locked accounts are.
    FOR r IN
      SELECT u.ord::int AS ord, u.kind, u.session, u.number, u.account, u.quota, u.units, u.holds, u.message, u.part,
          u.octets, u.opened,
          (octet_length(u.session) = 16 AND octet_length(u.account) BETWEEN 1 AND 1000 AND u.number >= 0
            AND CASE u.kind
              WHEN 1 THEN u.quota >= 0 AND u.units >= 0
              WHEN 4 THEN u.holds >= 0
              WHEN 5 THEN octet_length(u.message) <= 1000 AND u.part >= 0
              ELSE u.kind IN (2, 3) AND octet_length(u.message) <= 1000 AND u.part >= 0 AND u.units >= 0
                AND u.holds >= 0 AND u.octets >= 0 END) IS TRUE AS is_valid,
          s.account AS s_account, s.node AS s_node, s.epoch AS s_epoch, s.number AS s_number, s.kind AS s_kind,
          s.granted AS s_granted, s.balance AS s_balance, s.held AS s_held,
          d.account AS d_account, d.units AS d_units, d.from_hold AS d_from_hold, d.refunded_at AS d_refunded_at,
          d.low_node = p_node AS d_became_low, CASE WHEN d.node = p_node THEN d.balance END AS d_balance,
          CASE WHEN d.refund_node = p_node THEN d.refund_balance END AS d_refund_balance
        FROM unnest(p_kinds, p_sessions, p_numbers, p_accounts, p_quotas, p_units, p_holds, p_messages, p_parts,
            p_octets, p_opened)
          WITH ORDINALITY AS u(kind, session, number, account, quota, units, holds, message, part, octets, opened, ord)
        LEFT JOIN LATERAL (SELECT x.* FROM imcharge.sessions x WHERE x.session = u.session LIMIT 1) s ON true
        LEFT JOIN LATERAL (SELECT x.* FROM imcharge.debits x WHERE u.kind IN (2, 3, 5) AND x.session = u.session
          AND x.message_id = u.message AND x.part = u.part LIMIT 1) d ON true
        WHERE (u.kind BETWEEN 7 AND 10) IS NOT TRUE AND (v_todo IS NULL OR u.ord = ANY (v_todo))
        ORDER BY u.account COLLATE "C", u.session, u.ord
    LOOP
      IF r.session = v_session THEN
        v_later := v_later || r.ord;
        CONTINUE;
      END IF;
      v_session := r.session;
      -- The values of an account are read once: the second of its requests builds on the first.
      IF r.account IS DISTINCT FROM v_account THEN
        v_account := r.account;
        WHILE v_next <= v_locked AND a_ids[v_next] < v_account COLLATE "C" LOOP
          v_next := v_next + 1;
        END LOOP;
        v_at_account := CASE WHEN v_next <= v_locked AND a_ids[v_next] = v_account THEN v_next ELSE 0 END;
        IF v_at_account > 0 THEN
          v_balance := a_balances[v_at_account];
          v_held := a_helds[v_at_account];
          v_debited := a_debiteds[v_at_account];
          v_limit := a_limits[v_at_account];
          v_full := a_fulls[v_at_account];
          v_low := a_lows[v_at_account];
          v_created := a_created[v_at_account];
        END IF;
      END IF;
      v_has_row := r.s_number IS NOT NULL;
      v_owned := v_has_row AND r.s_node = p_node AND r.s_epoch = p_epoch;
      v_session_held := coalesce(r.s_held, 0);
      v_is_new := false;
      v_writes := false;
      v_wanted := 0;
      v_rest := 0;
      v_from_hold := 0;
      v_from_balance := 0;
      item := r.ord;
      result := 0;
      granted := 0;
      became_low := false;

      IF NOT r.is_valid OR (v_has_row AND r.s_account <> r.account) THEN
        result := 3;
      ELSIF r.kind = 1 AND v_has_row AND (NOT v_owned OR r.number <= r.s_number) THEN
        -- The answer to the latest request is kept in its row.
        IF v_owned AND r.number = r.s_number AND r.s_kind = 1 THEN
          granted := r.s_granted;
        ELSE
          result := 4;
        END IF;
      ELSIF r.kind = 4 AND NOT v_owned THEN
        NULL;
      ELSIF r.kind = 4 AND r.number <= r.s_number THEN
        result := CASE WHEN r.number = r.s_number AND r.s_kind = 4 THEN 0 ELSE 4 END;
      ELSIF r.kind = 5 AND v_at_account = 0 THEN
        result := 2;
      ELSIF r.kind IN (2, 3, 5) AND r.d_account <> r.account THEN
        result := 3;
      ELSIF r.kind = 5 AND (r.d_units IS NULL OR r.d_refunded_at IS NOT NULL) THEN
        v_writes := v_owned;
      ELSIF r.kind IN (2, 3) AND v_at_account = 0 AND r.d_units >= r.units THEN
        NULL;
      ELSIF v_at_account = 0 AND r.kind IN (1, 2, 3) AND p_default_balance IS NULL THEN
        result := 2;
      ELSIF v_at_account > 0 OR r.kind IN (1, 2, 3) THEN
        IF v_at_account = 0 THEN
          v_is_new := true;
          v_created := imcharge.birth(r.account, v_at);
          v_at := greatest(v_at, v_created);
          v_balance := p_default_balance;
          v_held := 0;
          v_debited := 0;
          v_limit := 0;
          v_full := p_default_balance;
          v_low := imcharge.is_low(v_balance, v_full, p_low_units, p_low_percent);
        END IF;
        v_was_low := v_low;
        v_available := greatest(v_balance + v_limit, 0);
        IF r.kind = 1 THEN
          granted := least(r.quota, c_quota_max, v_available / greatest(r.units, 1));
          IF granted = 0 AND r.quota > 0 THEN
            result := 1;
          ELSE
            v_rest := -granted * r.units;
          END IF;
        ELSIF r.kind = 4 THEN
          v_rest := least(r.holds, v_session_held);
        ELSIF r.kind = 5 THEN
          v_from_balance := -r.d_units;
        ELSE
          -- A known debit takes what it did not take before: the message went on, and another node debited the rest.
          v_wanted := CASE WHEN r.d_units IS NULL THEN r.units WHEN r.d_refunded_at IS NULL
            THEN greatest(r.units - r.d_units, 0) ELSE 0 END;
          v_from_hold := least(v_wanted, v_session_held);
          v_from_balance := v_wanted - v_from_hold;
          IF v_from_balance > v_available THEN
            result := 1;
          ELSIF r.kind = 3 AND v_owned AND r.number > r.s_number THEN
            v_rest := least(greatest(r.holds - v_from_hold - coalesce(r.d_from_hold, 0), 0), v_session_held - v_from_hold);
          END IF;
          -- A repeated debit repeats that it took the account to the threshold.
          became_low := r.d_became_low IS TRUE AND NOT (v_owned AND r.number > r.s_number);
        END IF;
        -- rest: units that move from the hold to the balance, negative to the hold.
        IF result = 0 AND (v_balance - v_from_balance + v_rest > c_units_max OR v_held - v_from_hold - v_rest > c_units_max
          OR v_held - v_from_hold - v_rest < 0 OR abs(v_debited + v_from_hold + v_from_balance) > c_units_max)
        THEN
          result := 3;
          granted := 0;
        END IF;
        v_writes := result = 0;
        became_low := became_low AND v_writes;
      END IF;

      IF v_writes THEN
        v_balance := v_balance - v_from_balance + v_rest;
        v_held := v_held - v_from_hold - v_rest;
        v_debited := v_debited + v_from_hold + v_from_balance;
        v_session_held := v_session_held - v_from_hold - v_rest;
        IF v_from_hold + v_from_balance <> 0 THEN
          v_low := (p_low_units IS NOT NULL OR p_low_percent IS NOT NULL)
            AND imcharge.is_low(v_balance + v_held + v_limit, v_full, p_low_units, p_low_percent);
          became_low := v_low AND NOT v_was_low;
        END IF;
        IF v_is_new THEN
          INSERT INTO imcharge.changes VALUES (r.account, v_created, 'initial', p_default_balance, '', 'imcharge', p_node,
            NULL, NULL, NULL, p_default_balance, 0, 0);
          a_ids := a_ids || r.account;
          v_at_account := cardinality(a_ids);
          a_states[v_at_account] := 2;
          a_created[v_at_account] := v_created;
          a_limits[v_at_account] := v_limit;
          a_fulls[v_at_account] := v_full;
        ELSIF v_from_hold <> 0 OR v_from_balance <> 0 OR v_rest <> 0 THEN
          a_states[v_at_account] := greatest(a_states[v_at_account], 1::smallint);
        END IF;
        a_balances[v_at_account] := v_balance;
        a_helds[v_at_account] := v_held;
        a_debiteds[v_at_account] := v_debited;
        a_lows[v_at_account] := v_low;
        v_at := v_at + interval '1 us';
        IF r.kind IN (2, 3) AND r.d_units IS NULL THEN
          d_items := d_items || r.ord;
          d_at := d_at || v_at;
          d_units := d_units || r.units;
          d_from_hold := d_from_hold || v_from_hold;
          d_balances := d_balances || v_balance;
          d_helds := d_helds || v_held;
          d_limits := d_limits || v_limit;
          d_lows := d_lows || became_low;
        ELSIF r.kind IN (2, 3) AND v_wanted > 0 THEN
          UPDATE imcharge.debits d SET units = d.units + v_wanted, units_added = coalesce(d.units_added, 0) + v_wanted,
              from_hold = d.from_hold + v_from_hold, octets = greatest(d.octets, r.octets),
              low_node = CASE WHEN became_low THEN p_node ELSE d.low_node END
            WHERE d.session = r.session AND d.message_id = r.message AND d.part = r.part;
          INSERT INTO imcharge.changes
            SELECT r.account, v_at, 'debit', -v_wanted, d.call_id, 'imcharge', p_node, r.session, r.message, r.part,
                v_balance, v_held, v_limit
              FROM imcharge.debits d WHERE d.session = r.session AND d.message_id = r.message AND d.part = r.part;
        ELSIF r.kind = 5 AND r.d_units IS NOT NULL AND r.d_refunded_at IS NULL THEN
          UPDATE imcharge.debits d SET refunded_at = v_at, refund_node = p_node, refund_balance = v_balance,
              refund_held = v_held, refund_limit = v_limit
            WHERE d.session = r.session AND d.message_id = r.message AND d.part = r.part;
        END IF;
        -- The row changes with each later request of its owner, and if another node takes units that it holds.
        v_is_latest := r.kind = 1 OR (v_owned AND r.number > r.s_number);
        IF v_is_latest OR (v_has_row AND v_from_hold + v_rest <> 0) THEN
          s_sessions := s_sessions || r.session;
          s_accounts := s_accounts || r.account;
          s_opened := s_opened || r.opened;
          s_numbers := s_numbers || CASE WHEN v_is_latest THEN r.number ELSE r.s_number END;
          s_kinds := s_kinds || CASE WHEN v_is_latest THEN r.kind ELSE r.s_kind END;
          s_granted := s_granted || CASE WHEN v_is_latest THEN granted ELSE r.s_granted END;
          s_balances := s_balances || CASE WHEN v_is_latest THEN v_balance ELSE r.s_balance END;
          s_helds := s_helds || v_session_held;
        END IF;
      END IF;
      IF v_at_account > 0 THEN
        -- A repeated answer has the balance of the first one.
        balance := CASE
          WHEN result <> 0 THEN v_balance
          WHEN r.kind IN (1, 4) AND v_owned AND r.number = r.s_number THEN r.s_balance
          WHEN r.kind IN (2, 3) AND v_wanted = 0 AND r.d_balance IS NOT NULL THEN r.d_balance
          WHEN r.kind = 5 AND r.d_refund_balance IS NOT NULL THEN r.d_refund_balance
          ELSE v_balance END;
        held := v_held;
        credit_limit := v_limit;
      ELSE
        balance := NULL;
        held := NULL;
        credit_limit := NULL;
      END IF;
      RETURN NEXT;
    END LOOP;

    -- MERGE with a branch for missing rows, which none of these is: its plan begins with the source.
    MERGE INTO imcharge.accounts AS a
      USING (SELECT * FROM unnest(a_ids, a_states, a_balances, a_helds, a_debiteds, a_lows)
        AS u(id, state, balance, held, debited, is_low) WHERE u.state = 1) u ON a.id = u.id
      WHEN MATCHED THEN UPDATE SET balance = u.balance, held = u.held, debited = u.debited, is_low = u.is_low
      WHEN NOT MATCHED THEN INSERT (id) VALUES (u.id);
    IF cardinality(a_ids) > v_locked THEN
      INSERT INTO imcharge.accounts(id, created_at, credit_limit, full_left, is_low, balance, held, debited)
        SELECT u.id, u.created, u.credit_limit, u.full_left, u.is_low, u.balance, u.held, u.debited
          FROM unnest(a_ids, a_states, a_created, a_limits, a_fulls, a_lows, a_balances, a_helds, a_debiteds)
            AS u(id, state, created, credit_limit, full_left, is_low, balance, held, debited)
          WHERE u.state = 2 ORDER BY u.id COLLATE "C"
        ON CONFLICT DO NOTHING;
      GET DIAGNOSTICS v_updated = ROW_COUNT;
      IF v_updated < cardinality(a_ids) - v_locked THEN
        RAISE serialization_failure USING MESSAGE = 'an account was created by another node';
      END IF;
    END IF;
    IF d_items IS NOT NULL THEN
      INSERT INTO imcharge.debits(session, message_id, part, at, account, units, from_hold, octets, class, trigger, code,
          call_id, node, balance, held, credit_limit, low_node)
        SELECT p_sessions[u.item], p_messages[u.item], p_parts[u.item], u.at, p_accounts[u.item], u.units, u.from_hold,
            p_octets[u.item], coalesce(p_classes[u.item], ''), coalesce(p_triggers[u.item], ''),
            coalesce(p_codes[u.item], 0), coalesce(p_calls[u.item], ''), p_node, u.balance, u.held, u.credit_limit,
            CASE WHEN u.low THEN p_node END
          FROM unnest(d_items, d_at, d_units, d_from_hold, d_balances, d_helds, d_limits, d_lows)
            AS u(item, at, units, from_hold, balance, held, credit_limit, low);
    END IF;
    IF s_sessions IS NOT NULL OR (v_todo IS NULL AND cardinality(p_state_sessions) > cardinality(v_settled)) THEN
      -- In the order of keys. e.number NULL: no request; of a session without a row, that it only has a state.
      MERGE INTO imcharge.sessions AS s
        USING (SELECT coalesce(u.session, t.session) AS session, coalesce(u.account, t.account) AS account,
              coalesce(u.opened, t.opened, 0) AS opened, u.number, u.kind, u.granted, u.balance, u.held, t.state
            FROM unnest(s_sessions, s_accounts, s_opened, s_numbers, s_kinds, s_granted, s_balances, s_helds)
                AS u(session, account, opened, number, kind, granted, balance, held)
              FULL JOIN (SELECT * FROM unnest(p_state_sessions, p_state_accounts, p_state_opened, p_states)
                AS t(session, account, opened, state) WHERE t.state IS NOT NULL AND v_todo IS NULL) t
              ON t.session = u.session
            ORDER BY 1) e
          ON s.session = e.session
        WHEN MATCHED AND s.node = p_node AND s.epoch = p_epoch THEN
          UPDATE SET number = coalesce(e.number, s.number), kind = coalesce(e.kind, s.kind),
            granted = coalesce(e.granted, s.granted), balance = coalesce(e.balance, s.balance),
            held = coalesce(e.held, s.held), state = coalesce(e.state, s.state), adopted_from = NULL
        WHEN MATCHED AND e.number IS NOT NULL THEN
          UPDATE SET held = e.held
        WHEN NOT MATCHED AND octet_length(e.session) = 16 AND octet_length(e.account) BETWEEN 1 AND 1000 THEN
          INSERT (session, account, opened_at, origin_node, node, epoch, number, kind, result, granted, balance, held, state)
            VALUES (e.session, e.account, e.opened, p_node, p_node, p_epoch, coalesce(e.number, -1), coalesce(e.kind, 0), 0,
              coalesce(e.granted, 0), coalesce(e.balance, 0), coalesce(e.held, 0), e.state);
    END IF;
    EXIT WHEN v_later IS NULL;
    v_todo := v_later;
  END LOOP;

  IF cardinality(v_settled) > 0 THEN
    -- What a settled session still holds returns to the balance.
    WITH gone AS (
      DELETE FROM imcharge.sessions s
        WHERE s.session = ANY (v_settled) AND s.node IS NOT DISTINCT FROM p_node AND s.epoch IS NOT DISTINCT FROM p_epoch
          AND (s.held = 0 OR (s.account = ANY (v_settled_accounts) AND EXISTS (SELECT FROM imcharge.accounts a
            WHERE a.id = s.account AND a.balance + s.held <= c_units_max AND a.held >= s.held)))
        RETURNING s.session, s.account, s.held)
    SELECT array_agg(g.session), array_agg(g.account) FILTER (WHERE g.held > 0), array_agg(g.held) FILTER (WHERE g.held > 0)
      INTO s_sessions, s_accounts, s_helds FROM gone g;
    FOR v_next IN 1 .. coalesce(cardinality(s_accounts), 0) LOOP
      UPDATE imcharge.accounts a SET balance = a.balance + s_helds[v_next], held = a.held - s_helds[v_next]
        WHERE a.id = s_accounts[v_next];
    END LOOP;
    DELETE FROM imcharge.session_parts p WHERE p.session = ANY (s_sessions);
  END IF;
  IF cardinality(p_part_sessions) > 0 THEN
    s_sessions := ARRAY(SELECT s.session FROM imcharge.sessions s
      WHERE s.session = ANY (p_part_sessions) AND s.node IS NOT DISTINCT FROM p_node AND s.epoch IS NOT DISTINCT FROM p_epoch);
    DELETE FROM imcharge.session_parts p
      WHERE p.session = ANY (s_sessions) AND EXISTS (
        SELECT FROM unnest(p_part_sessions, p_part_numbers, p_part_states) AS u(session, part, state)
          WHERE u.session = p.session AND octet_length(u.state) = 0 AND (u.part = p.part OR (u.part = -1 AND NOT EXISTS (
            SELECT FROM unnest(p_part_sessions, p_part_numbers) AS k(session, part)
              WHERE k.session = p.session AND k.part = p.part))));
    INSERT INTO imcharge.session_parts AS p (session, part, state)
      SELECT DISTINCT ON (u.session, u.part) u.session, u.part, u.state
        FROM unnest(p_part_sessions, p_part_numbers, p_part_states) WITH ORDINALITY AS u(session, part, state, ord)
        WHERE u.session = ANY (s_sessions) AND u.part >= 0 AND octet_length(u.state) > 0
        ORDER BY u.session, u.part, u.ord DESC
      ON CONFLICT (session, part) DO UPDATE SET state = EXCLUDED.state;
  END IF;
END $$;
COMMENT ON FUNCTION imcharge.tick IS
  'Executes the requests of one tick of a node, stores the states of its sessions, and renews its lease. Row 0 is the '
  'result of the tick: 0 done, 5 fenced, 6 stale (neither does anything). Then one row per request, in any order. '
  'kinds: 1 reserve, 2 debit, 3 debit that ends the reservation, 4 release, 5 refund; commands 7 set, 8 add, 9 limit, '
  '10 remove. results: 0 done, 1 no credit, 2 unknown account, 3 impossible or out of range, 4 older than the latest '
  'request of its session or of a session of another owner, 10 above the largest balance or limit, 11 below the credit '
  'limit, 12 not empty, 13 reference used for another amount, 14 repeated reference.';

CREATE OR REPLACE FUNCTION imcharge.dead_nodes(p_node text) RETURNS TABLE(name text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, imcharge, pg_temp
AS $$
  SELECT n.name FROM imcharge.nodes n
    WHERE (n.name <> p_node AND NOT n.is_fenced AND n.lease_until < now() - interval '5 s')
      OR (EXISTS (SELECT FROM imcharge.sessions s WHERE s.node = n.name AND s.epoch < n.epoch)
        AND (n.taken_over_by IS NULL OR n.taken_over_by = p_node OR imcharge.is_gone(n.taken_over_by)))
      OR EXISTS (SELECT FROM imcharge.sessions s, imcharge.nodes o
        WHERE s.node = p_node AND s.adopted_from = n.name AND o.name = p_node AND s.epoch = o.epoch)
    ORDER BY n.name
$$;
COMMENT ON FUNCTION imcharge.dead_nodes IS
  'Returns the nodes that p_node should take over: those whose lease ended 5 s ago, and those, p_node included, whose '
  'earlier epochs have sessions that no living node adopts.';

CREATE OR REPLACE FUNCTION imcharge.take_over(p_node text, p_epoch bigint, p_dead text) RETURNS TABLE(result smallint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, imcharge, pg_temp
SET lock_timeout = '3s'
AS $$
DECLARE
  v_dead imcharge.nodes;
  v_has_sessions bool;
  v_is_taken bool;
BEGIN
  PERFORM imcharge.show_warnings();
  PERFORM FROM imcharge.nodes n WHERE n.name IN (p_node, p_dead) ORDER BY n.name FOR UPDATE;
  UPDATE imcharge.nodes n SET epoch = n.epoch WHERE n.name = p_node AND n.epoch = p_epoch AND NOT n.is_fenced;
  IF NOT FOUND THEN
    RETURN QUERY SELECT 5::smallint;
    RETURN;
  END IF;
  SELECT n.* INTO v_dead FROM imcharge.nodes n WHERE n.name = p_dead;
  IF NOT FOUND THEN
    RETURN QUERY SELECT 3::smallint;
    RETURN;
  END IF;
  v_has_sessions := EXISTS (SELECT FROM imcharge.sessions s WHERE s.node = p_dead AND s.epoch < v_dead.epoch)
    OR EXISTS (SELECT FROM imcharge.sessions s WHERE s.node = p_node AND s.epoch = p_epoch AND s.adopted_from = p_dead);
  v_is_taken := v_dead.taken_over_by <> p_node AND NOT imcharge.is_gone(v_dead.taken_over_by);
  IF p_dead <> p_node AND NOT v_dead.is_fenced AND v_dead.lease_until < now() - interval '5 s' THEN
    UPDATE imcharge.nodes n SET epoch = n.epoch + 1, is_fenced = true, taken_over_by = p_node WHERE n.name = p_dead;
    result := 0;
  ELSIF v_is_taken AND (v_dead.is_fenced OR v_has_sessions) THEN
    result := 2;
  ELSIF v_dead.is_fenced OR v_has_sessions THEN
    UPDATE imcharge.nodes n SET taken_over_by = p_node WHERE n.name = p_dead;
    result := 0;
  ELSE
    result := 1;
  END IF;
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION imcharge.take_over IS
  'Fences a node whose lease is over, and makes p_node the one that adopts its sessions. result 0: done; 1: the lease is '
  'not over; 2: another living node adopts them; 3: unknown node; 5: p_node itself is fenced.';

CREATE OR REPLACE FUNCTION imcharge.adopt(p_node text, p_epoch bigint, p_dead text, p_limit int)
RETURNS TABLE(session bytea, account text, number bigint, opened_at bigint, state bytea, part_numbers bigint[],
  part_states bytea[])
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, imcharge, pg_temp
SET lock_timeout = '3s'
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_hashjoin = off
SET enable_mergejoin = off
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
  v_limit CONSTANT int := least(greatest(coalesce(p_limit, 1), 1), 10000);
  v_fenced bigint;
  v_again bytea[];
  v_new bytea[];
BEGIN
  PERFORM imcharge.show_warnings();
  UPDATE imcharge.nodes n SET epoch = n.epoch WHERE n.name = p_node AND n.epoch = p_epoch AND NOT n.is_fenced;
  IF NOT FOUND THEN RETURN; END IF;
  v_again := ARRAY(SELECT s.session FROM imcharge.sessions s
    WHERE s.node = p_node AND s.adopted_from = p_dead AND s.epoch = p_epoch LIMIT v_limit);
  SELECT n.epoch INTO v_fenced FROM imcharge.nodes n
    WHERE n.name = p_dead AND (n.taken_over_by = p_node OR p_dead = p_node);
  -- A row that is locked is that of a debit by its former owner; the next call gets it.
  v_new := ARRAY(SELECT s.session FROM imcharge.sessions s WHERE s.node = p_dead AND s.epoch < v_fenced
    LIMIT v_limit - cardinality(v_again) FOR UPDATE SKIP LOCKED);
  UPDATE imcharge.sessions s SET node = p_node, epoch = p_epoch, adopted_from = p_dead WHERE s.session = ANY (v_new);
  RETURN QUERY
    SELECT s.session, s.account, s.number, s.opened_at, s.state, coalesce(p.numbers, '{}'), coalesce(p.states, '{}')
      FROM imcharge.sessions s
        LEFT JOIN LATERAL (SELECT array_agg(q.part ORDER BY q.part) AS numbers, array_agg(q.state ORDER BY q.part) AS states
          FROM imcharge.session_parts q WHERE q.session = s.session) p ON true
      WHERE s.session = ANY (v_again || v_new) ORDER BY s.session;
END $$;
COMMENT ON FUNCTION imcharge.adopt IS
  'Makes p_node the owner of up to p_limit sessions of fenced epochs of p_dead, and returns them with their states. They '
  'are returned again until adopted confirms them, or a tick of p_node has a request or a state of them. No rows: none '
  'are left, or p_node is fenced, or take_over did not answer 0.';

CREATE OR REPLACE FUNCTION imcharge.adopted(p_node text, p_epoch bigint, p_sessions bytea[])
RETURNS TABLE(result smallint)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, imcharge, pg_temp
SET lock_timeout = '3s'
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET enable_bitmapscan = off
SET jit = off
AS $$
BEGIN
  PERFORM imcharge.show_warnings();
  UPDATE imcharge.nodes n SET epoch = n.epoch WHERE n.name = p_node AND n.epoch = p_epoch AND NOT n.is_fenced;
  result := CASE WHEN FOUND THEN 0 ELSE 5 END;
  IF FOUND THEN
    UPDATE imcharge.sessions s SET adopted_from = NULL
      WHERE s.session = ANY (p_sessions) AND s.node IS NOT DISTINCT FROM p_node AND s.epoch IS NOT DISTINCT FROM p_epoch
        AND s.adopted_from IS NOT NULL;
  END IF;
  RETURN NEXT;
END $$;
COMMENT ON FUNCTION imcharge.adopted IS
  'Confirms that p_node has stored the sessions that adopt returned. result 0: done; 5: p_node is fenced.';

CREATE OR REPLACE FUNCTION imcharge.import_accounts(
  p_node text, p_ledger text, p_reference text, p_by text, p_accounts text[], p_balances bigint[], p_limits bigint[],
  p_fulls bigint[], p_lows bigint[])
RETURNS TABLE(item int, result smallint, detail text)
LANGUAGE plpgsql VOLATILE SECURITY DEFINER
SET search_path = pg_catalog, imcharge, pg_temp
SET lock_timeout = '3s'
AS $$
#variable_conflict use_column
DECLARE
  c_balance_max CONSTANT bigint := 1000000000000000;
  c_units_max CONSTANT bigint := 2000000000000000000;
  v_import imcharge.imports;
  v_item record;
  v_account imcharge.accounts;
  v_known boolean;
  v_balance numeric;
  v_limit bigint;
  v_amount bigint;
  v_result smallint;
  v_done bigint := 0;
  v_at timestamptz;
BEGIN
  PERFORM imcharge.show_warnings();
  INSERT INTO imcharge.imports VALUES (p_ledger, p_reference, p_node, p_by, now(), now(), 0) ON CONFLICT DO NOTHING;
  SELECT m.* INTO v_import FROM imcharge.imports m WHERE m.ledger = p_ledger FOR UPDATE;
  IF NOT FOUND THEN
    RETURN QUERY SELECT 0, 2::smallint, m.ledger FROM imcharge.imports m WHERE m.reference = p_reference;
    RETURN;
  END IF;
  IF v_import.reference <> p_reference THEN
    RETURN QUERY SELECT 0, 1::smallint, v_import.reference;
    RETURN;
  END IF;
  RETURN QUERY SELECT 0, 0::smallint, NULL::text;
  FOR v_item IN
    SELECT u.item::int, u.account, u.balance, u.credit_limit, u.full_left, u.is_low <> 0 AS is_low
      FROM unnest(p_accounts, p_balances, p_limits, p_fulls, p_lows)
        WITH ORDINALITY AS u(account, balance, credit_limit, full_left, is_low, item)
      ORDER BY u.account COLLATE "C"
  LOOP
    SELECT c.amount INTO v_amount FROM imcharge.changes c
      WHERE c.account = v_item.account AND c.reference = p_reference AND c.kind = 'import';
    IF FOUND THEN
      RETURN QUERY SELECT v_item.item, (CASE WHEN v_amount = v_item.balance THEN 14 ELSE 13 END)::smallint, v_amount::text;
      CONTINUE;
    END IF;
    LOOP
      SELECT a.* INTO v_account FROM imcharge.accounts a WHERE a.id = v_item.account FOR UPDATE;
      v_known := FOUND;
      IF NOT v_known THEN
        v_at := imcharge.birth(v_item.account, clock_timestamp());
        v_account := (v_item.account, v_at, 0, 0, true, 0, 0, 0);
      END IF;
      v_balance := v_account.balance::numeric + v_item.balance;
      v_limit := greatest(v_account.credit_limit, v_item.credit_limit);
      v_result := CASE
        WHEN v_item.credit_limit < 0 OR v_account.full_left::numeric + v_item.full_left NOT BETWEEN -c_units_max AND c_units_max
          THEN 3
        WHEN v_balance > c_balance_max OR v_limit > c_balance_max THEN 10
        WHEN v_balance < -v_limit THEN 11
        ELSE 0 END;
      EXIT WHEN v_known OR v_result <> 0;
      INSERT INTO imcharge.accounts(id, created_at, credit_limit, full_left, is_low, balance, held, debited)
        VALUES (v_item.account, v_at, v_limit, v_item.full_left, v_item.is_low, v_balance::bigint, 0, 0)
        ON CONFLICT DO NOTHING;
      EXIT WHEN FOUND;
    END LOOP;
    IF v_result = 0 THEN
      IF v_known THEN
        v_at := greatest(clock_timestamp(), v_account.created_at);
        UPDATE imcharge.accounts a SET balance = v_balance::bigint, credit_limit = v_limit,
            full_left = a.full_left + v_item.full_left, is_low = a.is_low AND v_item.is_low
          WHERE a.id = v_item.account;
      END IF;
      INSERT INTO imcharge.changes(account, at, kind, amount, reference, by_whom, node, balance, held, credit_limit)
        VALUES (v_item.account, v_at, 'import', v_item.balance, p_reference, p_by, p_node, v_balance::bigint,
          v_account.held, v_limit);
      v_done := v_done + 1;
    END IF;
    RETURN QUERY SELECT v_item.item, v_result, NULL::text;
  END LOOP;
  -- Written in any case, so that an answer about accounts that were imported before waits for the standby.
  UPDATE imcharge.imports m SET last_at = greatest(m.last_at, now()), accounts = m.accounts + v_done
    WHERE m.ledger = p_ledger;
END $$;
COMMENT ON FUNCTION imcharge.import_accounts IS
  'Adds accounts of an embedded ledger to those of the shared ledger, each once for each ledger. Row 0: 0 done; 1: this '
  'ledger was imported under another reference, 2: the reference belongs to another ledger (detail), nothing was changed. '
  'Then one row per account: 0 done, 14 done before, 13 done before with another balance (detail), 3 out of range, 10 '
  'above the largest balance or limit, 11 below the credit limit. Balances and units are added to those of an existing '
  'account, and the larger credit limit holds.';

CREATE OR REPLACE FUNCTION imcharge.audit(p_after text, p_limit int)
RETURNS TABLE(account text, balance bigint, held bigint, debited bigint, changes numeric, debits numeric, holds numeric,
  next text)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, imcharge, pg_temp
AS $$
  WITH ids AS MATERIALIZED (
    (SELECT a.id FROM imcharge.accounts a WHERE a.id > coalesce(p_after, '') ORDER BY a.id LIMIT greatest(p_limit, 1))
    UNION
    (SELECT s.account FROM imcharge.sessions s WHERE s.account > coalesce(p_after, '') AND s.held <> 0
      ORDER BY s.account LIMIT greatest(p_limit, 1))
    ORDER BY 1 LIMIT greatest(p_limit, 1)),
  sums AS MATERIALIZED (
    SELECT i.id, a.balance, a.held, a.debited,
        (SELECT coalesce(sum(c.amount), 0) FROM imcharge.changes c
          WHERE c.account = i.id AND c.at >= a.created_at AND c.kind <> 'debit') AS changes,
        -- A refund of a debit of an earlier account of this id was returned to this one.
        (SELECT coalesce(sum(d.units), 0) FROM imcharge.debits d
          WHERE d.account = i.id AND d.at >= a.created_at AND d.refunded_at IS NULL)
        - (SELECT coalesce(sum(d.units), 0) FROM imcharge.debits d
          WHERE d.account = i.id AND d.at < a.created_at AND d.refunded_at >= a.created_at) AS debits,
        (SELECT coalesce(sum(s.held), 0) FROM imcharge.sessions s WHERE s.account = i.id) AS holds
      FROM ids i LEFT JOIN imcharge.accounts a ON a.id = i.id)
  SELECT s.* FROM (
    SELECT s.id, s.balance, s.held, s.debited, s.changes, s.debits, s.holds, NULL::text AS next FROM sums s
      WHERE (s.balance::numeric + s.held + s.debited = s.changes AND s.debited = s.debits AND s.held = s.holds) IS NOT TRUE
      ORDER BY s.id) s
  UNION ALL
  SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL,
    (SELECT max(i.id) FROM ids i HAVING count(*) >= greatest(p_limit, 1))
$$;
COMMENT ON FUNCTION imcharge.audit IS
  'Compares up to p_limit accounts after p_after with their changes, debits and sessions. Returns the accounts that '
  'differ, and a last row without account: its next is p_after of the next page, NULL if there is none. An account that '
  'sessions hold units of and that does not exist differs.';

-- The role that proxies log in as: it calls the functions, and reads the tables.
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'imcharge') THEN
    CREATE ROLE imcharge LOGIN;
  END IF;
END $$;
REVOKE ALL ON SCHEMA imcharge FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA imcharge FROM PUBLIC;
GRANT USAGE ON SCHEMA imcharge TO imcharge;
GRANT SELECT ON ALL TABLES IN SCHEMA imcharge TO imcharge;
GRANT EXECUTE ON FUNCTION imcharge.check_version, imcharge.standbys, imcharge.join, imcharge.tick, imcharge.dead_nodes,
  imcharge.take_over, imcharge.adopt, imcharge.adopted, imcharge.import_accounts, imcharge.audit TO imcharge;
