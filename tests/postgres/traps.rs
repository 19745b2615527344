//! Four traps of a shared ledger. Each test passes with the schema as it is, and shows that the same steps find the fault
//! when it is put back.

use crate::node::{DONE, Database, Item, Node, STALE, State, Tick, schema_with};
use imcharge_testkit::eventually;
use imcharge_testkit::postgres::{Cluster, DATABASE, Setup};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(30);

/// A repeated tick that writes nothing.
const NOTHING_WRITTEN: [(&str, &str); 2] = [
    (
        "    WHERE n.name = p_node AND n.epoch = p_epoch AND NOT n.is_fenced\n    RETURNING n.last_tick INTO v_last_tick;",
        "    WHERE n.name = p_node AND n.epoch = p_epoch AND n.last_tick < p_tick\n    RETURNING n.last_tick INTO v_last_tick;\n\
           IF NOT FOUND THEN SELECT n.last_tick INTO v_last_tick FROM imcharge.nodes n WHERE n.name = p_node; END IF;",
    ),
    ("        ORDER BY a.id FOR UPDATE) l;", "        ORDER BY a.id) l;"),
];

/// A late tick is executed.
const LATE_TICK: [(&str, &str); 1] = [("WHEN v_last_tick > p_tick THEN 6", "WHEN false THEN 6")];

/// A late tick is executed, and so is a request whose number is below that of the row.
const LATE_NUMBER: [(&str, &str); 2] = [
    LATE_TICK[0],
    (
        "r.kind = 1 AND v_has_row AND (NOT v_owned OR r.number <= r.s_number)",
        "r.kind = 1 AND v_has_row AND (NOT v_owned OR r.number = r.s_number)",
    ),
];

/// Each request builds on the account before the tick, so that one of several counts.
const ONE_COUNTS: (&str, &str) = (
    "      IF r.account IS DISTINCT FROM v_account THEN\n",
    "      IF v_account IS NOT NULL THEN\n        SELECT a.balance, a.held, a.debited INTO v_balance, v_held, v_debited\n\
               FROM imcharge.accounts a WHERE a.id = r.account;\n      END IF;\n\
           IF r.account IS DISTINCT FROM v_account THEN\n",
);

/// The audit compares the sum of each account only.
const NO_SUMS: (&str, &str) = (" AND s.debited = s.debits AND s.held = s.holds)", ")");

/// Number of backends of imcharge that wait for a standby.
const WAITING: &str = "SELECT count(*) FROM pg_stat_activity WHERE wait_event='SyncRep' AND usename='imcharge'";

/// What became of a tick whose first copy was committed locally and never confirmed.
struct Repetition {
    /// Its repetition was acknowledged before any standby had the commit.
    is_acknowledged: bool,
    /// Units held of the account at the standby, once it was promoted.
    held: i64,
}

/// Executes a tick at a primary that does not reach its standby, terminates it while it waits, repeats it, and promotes the
/// standby.
fn repeat_unconfirmed(replaced: &[(&str, &str)]) -> Repetition {
    let mut cluster = Cluster::new(Setup { standbys: 1, ..Setup::default() });
    let primary = cluster.primary();
    primary.execute(DATABASE, &schema_with(replaced));
    let mut node = Node::join(primary.client(DATABASE), "a");
    node.ask(Item::set(1, "alice", 100));
    primary.stall_senders();
    let (epoch, number) = (node.epoch, node.last_tick + 1);
    let tick = Tick { items: vec![Item::reserve(1, 1, "alice", 4, 10)], ..Tick::default() };
    let run = |mut node: Node| {
        let tick = tick.clone();
        thread::spawn(move || node.run_as(epoch, number, &tick).is_ok_and(|(result, _)| result == DONE))
    };
    let again = Node::new(primary.client(DATABASE), "a", "a");
    let first = run(node);
    assert!(eventually(WITHIN, || primary.value(DATABASE, WAITING) == "1"), "the first copy waits for the standby");
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event='SyncRep'";
    primary.execute(DATABASE, terminate);
    first.join().expect("a result");
    assert_eq!(primary.value(DATABASE, "SELECT held FROM imcharge.accounts"), "40", "committed locally");
    let second = run(again);
    let is_decided = || second.is_finished() || primary.value(DATABASE, WAITING) == "1";
    assert!(eventually(WITHIN, is_decided), "the repetition neither waits nor is answered");
    let is_acknowledged = second.is_finished();
    cluster.kill_primary();
    let result = second.join().expect("a result");
    assert_eq!(result, is_acknowledged);
    cluster.promote();
    let held = cluster.primary().value(DATABASE, "SELECT held FROM imcharge.accounts");
    Repetition { is_acknowledged, held: held.parse().expect("a number") }
}

#[test]
fn repeated_tick_waits_for_the_standby() {
    let right = repeat_unconfirmed(&[]);
    assert!(!right.is_acknowledged, "acknowledged, and the standby holds {}", right.held);
}

#[test]
fn repetition_that_writes_nothing_is_found() {
    let wrong = repeat_unconfirmed(&NOTHING_WRITTEN);
    assert!(wrong.is_acknowledged && wrong.held == 0, "the fault acknowledges a grant that is lost");
}

#[test]
fn commit_without_the_standby_is_reported_whatever_the_defaults_of_the_database() {
    let cluster = Cluster::new(Setup { standbys: 1, ..Setup::default() });
    let primary = cluster.primary();
    primary.execute(DATABASE, "ALTER DATABASE imcharge SET client_min_messages=error");
    let warnings = Arc::new(Mutex::new(Vec::new()));
    let mut config = primary.client_config(DATABASE);
    let received = Arc::clone(&warnings);
    config.notice_callback(move |notice| received.lock().expect("no panic").push(notice.code().code().to_owned()));
    let mut node = Node::join(config.connect(postgres::NoTls).expect("a connection"), "a");
    primary.stall_senders();
    let canceller = thread::scope(|scope| {
        let tick = scope.spawn(|| node.run_as(node.epoch, node.last_tick + 1, &Tick::default()));
        assert!(eventually(WITHIN, || primary.value(DATABASE, WAITING) == "1"), "the tick waits for the standby");
        let cancel = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event='SyncRep'";
        primary.execute(DATABASE, cancel);
        tick.join().expect("no panic")
    });
    // PostgreSQL reports success, and the warning is the only sign.
    assert_eq!(canceller.expect("a tick").0, DONE);
    assert_eq!(*warnings.lock().expect("no panic"), ["01000"]);
}

/// Opens a session, settles it, and executes the first tick again.
fn late_copy(database: &Database) -> (i16, i64) {
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    let late = Tick { items: vec![Item::reserve(1, 1, "alice", 5, 1)], ..Tick::default() };
    node.run(&late);
    let number = node.last_tick;
    node.ask(Item::release(1, 2, "alice", 5));
    node.run(&Tick { states: vec![State::settled(1, "alice")], ..Tick::default() });
    // By another connection, as a backend does that had it in its buffer.
    let mut buffered = Node::new(database.client(), "a", "a");
    let (result, _) = buffered.run_as(node.epoch, number, &late).expect("a tick");
    (result, database.account("alice").1)
}

#[test]
fn late_copy_changes_nothing() {
    assert_eq!(late_copy(&Database::new()), (STALE, 0));
    assert_eq!(late_copy(&Database::with_fault(&LATE_TICK)), (DONE, 5), "the fault holds units of a settled session");
}

/// Reserves 5 units, debits one, and executes the first tick again.
fn late_number(database: &Database) -> i64 {
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    let late = Tick { items: vec![Item::reserve(1, 1, "alice", 5, 1)], ..Tick::default() };
    node.run(&late);
    let number = node.last_tick;
    node.ask(Item::debit(1, 2, "alice", "m1", 1));
    node.run_as(node.epoch, number, &late).expect("a tick");
    database.account("alice").1
}

#[test]
fn number_below_that_of_the_row_changes_nothing() {
    assert_eq!(late_number(&Database::new()), 4);
    assert_eq!(late_number(&Database::with_fault(&LATE_TICK)), 4, "the number alone protects as well");
    assert_eq!(late_number(&Database::with_fault(&LATE_NUMBER)), 9, "the fault reserves twice");
}

/// Debits two messages of one account in one tick, in two sessions that hold units. Returns the account, and what the audit
/// reports.
fn two_of_one_account(database: &Database) -> ((i64, i64, i64), Vec<String>) {
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    node.ask(Item::reserve(1, 1, "alice", 5, 1));
    node.ask(Item::reserve(2, 1, "alice", 5, 1));
    node.tick(&[Item::debit(1, 2, "alice", "m1", 1), Item::debit(2, 2, "alice", "m1", 1)]);
    (database.account("alice"), database.audit())
}

#[test]
fn two_requests_of_one_account_in_a_tick_both_count() {
    assert_eq!(two_of_one_account(&Database::new()), ((90, 8, 2), Vec::new()));
}

#[test]
fn audit_compares_the_sums_of_debits_and_holds() {
    let lost = (90, 9, 1);
    assert_eq!(lost.0 + lost.1 + lost.2, 100, "the sum of the account is right");
    assert_eq!(two_of_one_account(&Database::with_fault(&[ONE_COUNTS])), (lost, vec!["alice".to_owned()]));
    assert_eq!(
        two_of_one_account(&Database::with_fault(&[ONE_COUNTS, NO_SUMS])),
        (lost, Vec::new()),
        "not without sums"
    );
}
