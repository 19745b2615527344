//! Nodes with `enabler=postgres` at a real server. The tests take the place of their engines.

use imcharge::charge::account::AccountId;
use imcharge::charge::ch2::{Denial, Operation, Request, Reservation, Response, SessionKey, Trigger};
use imcharge::charge::content::ContentClass;
use imcharge::charge::event::Direction;
use imcharge::charge::service::Service;
use imcharge::charge::tariff::{Measure, Quota, QuotaUnit, Unit, Units};
use imcharge::charge::time::Time;
use imcharge::enabler::postgres::TakeoverRule;
use imcharge::enabler::queries::{AccountAnswer, AccountQuery, TakeoverOutcome};
use imcharge::enabler::{
    self, AccountChange, AccountCommand, AccountOutcome, AdoptedSession, Binding, Call, Enabler, EnablerEvent, Refusal,
    SessionState, Settings, StateDirectory, StatusValue, diameter, postgres,
};
use imcharge::shm::clock;
use imcharge_testkit::postgres::{Cluster, DATABASE, PASSWORD, Server, Setup};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Within which everything that a test waits for happens.
const PATIENCE: Duration = Duration::from_secs(30);

const ALICE: &str = "sip:alice@example.org";

/// A server, and how nodes reach it.
struct Ledger {
    cluster: Cluster,
    folder: TempDir,
}

impl Ledger {
    fn new() -> Ledger {
        Ledger::with(Setup::default())
    }

    fn with(setup: Setup) -> Ledger {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("password");
        fs::write(&file, PASSWORD).expect("a file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its permissions");
        Ledger { cluster: Cluster::new(setup), folder }
    }

    /// Starts a node with the ledger file of this number.
    fn node(&self, name: &str, ledger: u64) -> Node {
        self.with_settings(name, |settings, now| {
            let binding = Binding::from_name("postgres").expect("the binding");
            let enabler = enabler::new(binding, settings, StateDirectory { state_id: 1, ledger }, now);
            Node { enabler: enabler.expect("a node"), number: 0 }
        })
    }

    /// Asks what an operator of a node asks.
    fn ask(&self, node: &str, query: AccountQuery) -> AccountAnswer {
        let opened = self.with_settings(node, |settings, now| {
            Binding::from_name("postgres").expect("the binding").account_queries(settings, now)
        });
        let mut queries = opened.expect("it has accounts").expect("a connection");
        queries.ask(query);
        let begun = Instant::now();
        loop {
            queries.work(clock::now());
            if let Some(answer) = queries.take_answer() {
                return answer.unwrap_or_else(|why| panic!("{why}"));
            }
            assert!(begun.elapsed() < PATIENCE, "{:?}", queries.last_error());
            std::thread::yield_now();
        }
    }

    /// Passes the settings of a node. One named `off` takes nothing over by itself.
    fn with_settings<T>(&self, name: &str, with: impl FnOnce(&Settings<'_>, Time) -> T) -> T {
        let password = self.folder.path().join("password");
        let server = |server: &Server| {
            let text = format!("host=127.0.0.1;port={};password_file={};tls=off", server.port(), password.display());
            text.parse().expect("a server")
        };
        let settings = postgres::Settings {
            servers: self.cluster.servers().iter().map(server).collect(),
            node: Some(name.into()),
            lease: 30,
            takeover: if name == "off" { TakeoverRule::Off } else { TakeoverRule::Settle },
            accepts_async: true,
        };
        let diameter = diameter::Settings { tx_timeout: 25, ..diameter::Settings::default() };
        let all = Settings {
            default_balance: None,
            low_balance: None,
            unit: Unit::Message,
            diameter: &diameter,
            postgres: &settings,
        };
        with(&all, clock::now())
    }

    fn value(&self, sql: &str) -> String {
        self.cluster.primary().value(DATABASE, sql)
    }

    /// Lets the lease of a node end.
    fn end_lease(&self, node: &str) {
        let sql = format!("UPDATE imcharge.nodes SET lease_until = now() - interval '10 s' WHERE name = '{node}'");
        self.cluster.primary().execute(DATABASE, &sql);
    }

    /// Balance, held and debited units of an account, and whether they fit its changes, debits and sessions.
    fn money(&self, account: &str) -> (String, bool) {
        let sql =
            format!("SELECT balance || ' ' || held || ' ' || debited FROM imcharge.accounts WHERE id = '{account}'");
        let unbalanced = self.value("SELECT count(*) FROM imcharge.audit('', 1000) WHERE account IS NOT NULL");
        (self.value(&sql), unbalanced == "0")
    }
}

/// A node, driven by its test.
struct Node {
    enabler: Box<dyn Enabler>,
    /// Number of the last command.
    number: u64,
}

impl Node {
    /// Lets it work until `found` returns a value for one of its events.
    fn wait<T>(&mut self, what: &str, mut found: impl FnMut(EnablerEvent) -> Option<T>) -> T {
        let begun = Instant::now();
        loop {
            self.enabler.work(clock::now());
            while let Some(event) = self.enabler.poll(&|_, _| None) {
                if let Some(value) = found(event) {
                    return value;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "{what} does not come: {:?}", self.enabler.status());
            std::thread::yield_now();
        }
    }

    /// Lets it work until it has a lease.
    fn wait_for_lease(&mut self) {
        let begun = Instant::now();
        while self.enabler.lease_until() <= clock::now() {
            self.enabler.work(clock::now());
            while self.enabler.poll(&|_, _| None).is_some() {}
            assert!(begun.elapsed() < PATIENCE, "there is no lease: {:?}", self.enabler.status());
            std::thread::yield_now();
        }
    }

    fn ask(&mut self, request: &Request) -> Response {
        let call = Call { call_id: "call", other: "", icid: "", direction: Direction::Pull, method: "INVITE" };
        let asked = (request.session, request.number);
        self.enabler.ask(request.clone(), &call, clock::now(), 1_800_000_000);
        self.enabler.flush(clock::now());
        self.wait("an answer", |event| match event {
            EnablerEvent::Response { session, number, response, .. } => {
                ((session, number) == asked).then_some(response)
            }
            _ => None,
        })
    }

    /// Stores the state of a session, and waits for it: a request that needs no session follows.
    fn replicate(&mut self, state: SessionState) {
        self.enabler.replicate(state);
        let outcome = self.change("sip:other@example.org", AccountChange::Set(1), "");
        assert_eq!(outcome.0, AccountOutcome::Done);
    }

    fn change(&mut self, id: &str, change: AccountChange, reference: &str) -> (AccountOutcome, Option<i64>) {
        self.number += 1;
        let (number, by) = (self.number, "carol".into());
        let command = AccountCommand { number, id: id.into(), change, reference: reference.into(), by };
        self.enabler.change_account(command, clock::now());
        self.enabler.flush(clock::now());
        self.wait("the outcome of a command", |event| match event {
            EnablerEvent::AccountChanged { number: found, outcome, account } if found == number => {
                Some((outcome, account.map(|account| account.balance)))
            }
            _ => None,
        })
    }

    fn wait_for_adopted(&mut self) -> AdoptedSession {
        self.wait("an adopted session", |event| match event {
            EnablerEvent::Adopted(adopted) => Some(adopted),
            _ => None,
        })
    }

    fn wait_until_taken_over(&mut self) {
        self.wait("the event that it was taken over", |event| matches!(event, EnablerEvent::TakenOver).then_some(()));
    }

    /// State of its first server.
    fn state(&self) -> String {
        let status = self.enabler.status();
        let state = status[0].iter().find(|(name, _)| *name == "state");
        match state {
            Some((_, StatusValue::Text(state))) => state.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn counter(&self, name: &str) -> u64 {
        let counters = self.enabler.counters();
        counters.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

fn request(session: u64, number: u32, reservation: Reservation, operation: Operation) -> Request {
    Request {
        session: SessionKey(session, 1),
        number,
        sequence: 0,
        account: AccountId(ALICE.into()),
        service: Service::Retrieval,
        recipients: 0,
        measure: Measure { unit: QuotaUnit::Message, price: 10 },
        reservation,
        possible_duplicate: false,
        rate_limited: false,
        at_most_once: false,
        server_binding: None,
        end_to_end_id: 0,
        operation,
    }
}

/// Asks for five messages of 10 units.
fn reserve(session: u64, number: u32) -> Request {
    request(session, number, Reservation::None, Operation::Reserve { quota: Quota(5) })
}

fn debit(session: u64, number: u32, message_id: &str, reservation: Reservation) -> Request {
    let operation = Operation::Debit {
        message_id: message_id.into(),
        part: 0,
        octets: 100,
        class: ContentClass::Text,
        units: Units(10),
        quota: Quota(1),
        trigger: Trigger::Response,
    };
    request(session, number, reservation, operation)
}

fn open(outstanding: u32) -> Reservation {
    Reservation::Open { opened_by: 1, outstanding: Quota(outstanding) }
}

fn state(session: u64, head: Option<&[u8]>, parts: &[(u32, &[u8])]) -> SessionState {
    let parts = parts.iter().map(|(number, part)| (*number, part.to_vec())).collect();
    let head = head.map(<[u8]>::to_vec);
    SessionState { session: SessionKey(session, 1), account: ALICE.into(), opened_at: 1_800_000_000_000, head, parts }
}

#[test]
fn two_nodes_charge_one_account() {
    let ledger = Ledger::new();
    let (mut a, mut b) = (ledger.node("a", 1), ledger.node("b", 2));
    assert_eq!(a.ask(&reserve(1, 1)), Response::Denied(Denial::UnknownSubscriber));
    assert_eq!(b.change(ALICE, AccountChange::Set(75), ""), (AccountOutcome::Done, Some(75)));
    assert_eq!(a.ask(&reserve(1, 2)), Response::granted(Quota(5), Some(25)));
    assert_eq!(b.ask(&reserve(2, 1)), Response::granted(Quota(2), Some(5)));
    assert_eq!(b.ask(&reserve(3, 1)), Response::Denied(Denial::NoCredit));
    assert_eq!(a.ask(&debit(1, 3, "m1", open(5))), Response::debited(Some(5)));
    assert_eq!(a.ask(&debit(1, 3, "m1", open(5))), Response::debited(Some(5)), "it is recognised");
    let last = Reservation::Last { opened_by: 2, outstanding: Quota(4) };
    let ended = Response::Debited { balance: Some(35), ended: true, rest: None };
    assert_eq!(a.ask(&debit(1, 4, "m2", last)), ended);
    assert_eq!(b.ask(&request(2, 2, open(2), Operation::Release)), Response::Released { balance: Some(55) });
    assert_eq!(ledger.money(ALICE), ("55 0 20".into(), true));
    assert!(a.counter("pg_ticks") > 0 && a.counter("lease_left") > 20);
}

#[test]
fn commands_of_operators_have_the_outcomes_of_the_embedded_ledger() {
    let ledger = Ledger::new();
    let mut node = ledger.node("a", 1);
    let (done, refused) = (AccountOutcome::Done, AccountOutcome::Refused);
    let id = "sip:bob@example.org";
    assert_eq!(node.change(id, AccountChange::Add(5), "r1"), (AccountOutcome::UnknownAccount, None));
    assert_eq!(node.change(id, AccountChange::Set(100), ""), (done, Some(100)));
    assert_eq!(node.change(id, AccountChange::Add(-30), "r1"), (done, Some(70)));
    assert_eq!(node.change(id, AccountChange::Add(-30), "r1"), (AccountOutcome::Duplicate, Some(70)));
    assert_eq!(node.change(id, AccountChange::Add(-31), "r1"), (AccountOutcome::ReferenceUsed, Some(70)));
    assert_eq!(node.change(id, AccountChange::Add(-71), "r2"), (refused(Refusal::BelowLimit), Some(70)));
    assert_eq!(node.change(id, AccountChange::Limit(50), ""), (done, Some(70)));
    assert_eq!(node.change(id, AccountChange::Set(i64::MAX), ""), (refused(Refusal::AboveMaximum), Some(70)));
    assert_eq!(node.change(id, AccountChange::Remove, ""), (refused(Refusal::NotEmpty), Some(70)));
    assert_eq!(node.change(id, AccountChange::Set(0), "").0, done);
    assert_eq!(node.change(id, AccountChange::Remove, "").0, done);
    assert_eq!(ledger.value("SELECT count(*) FROM imcharge.accounts"), "0");
}

#[test]
fn sessions_of_a_dead_node_are_adopted_and_it_returns() {
    let ledger = Ledger::new();
    let (mut a, mut b) = (ledger.node("a", 1), ledger.node("b", 2));
    b.change(ALICE, AccountChange::Set(100), "");
    assert_eq!(a.ask(&reserve(1, 1)), Response::granted(Quota(5), Some(50)));
    assert_eq!(a.ask(&reserve(2, 1)), Response::granted(Quota(5), Some(0)));
    a.replicate(state(1, Some(b"head"), &[(7, b"seven"), (2, b"two")]));
    let late = debit(1, 2, "m1", open(5));
    drop(a);
    ledger.end_lease("a");
    let adopted = b.wait_for_adopted();
    assert_eq!((adopted.session, &*adopted.from, &adopted.head[..]), (SessionKey(1, 1), "a", &b"head"[..]));
    assert_eq!((adopted.opened_at, adopted.parts), (1_800_000_000_000, vec![b"two".to_vec(), b"seven".to_vec()]));
    assert_eq!(b.ask(&late), Response::debited(Some(50)), "session 2 has no state and was released");
    b.replicate(state(1, None, &[]));
    assert_eq!(ledger.money(ALICE), ("90 0 10".into(), true));
    assert_eq!((b.counter("takeovers"), b.counter("sessions_taken_over")), (1, 2));
    let mut returned = ledger.node("a", 1);
    returned.wait_until_taken_over();
    assert!(matches!(returned.ask(&late), Response::Debited { .. }));
    returned.wait_for_lease();
    assert_eq!(ledger.money(ALICE), ("90 0 10".into(), true));
}

#[test]
fn node_that_was_taken_over_while_it_lives_learns_it_and_joins_again() {
    let ledger = Ledger::new();
    let (mut a, mut b) = (ledger.node("a", 1), ledger.node("b", 2));
    b.change(ALICE, AccountChange::Set(100), "");
    a.ask(&reserve(1, 1));
    a.replicate(state(1, Some(b"head"), &[]));
    let lease = a.enabler.lease_until();
    assert!(lease > Time(clock::now().0 + 20_000_000));
    ledger.end_lease("a");
    b.wait_for_adopted();
    a.enabler.replicate(state(1, Some(b"too late"), &[]));
    a.enabler.flush(clock::now());
    a.wait_until_taken_over();
    assert_eq!(a.enabler.lease_until(), Time(0));
    a.wait_for_lease();
    assert_eq!(a.counter("pg_fenced"), 1);
    assert_eq!(ledger.value("SELECT node || ' ' || encode(state, 'escape') FROM imcharge.sessions"), "b head");
}

#[test]
fn operator_begins_a_takeover() {
    let ledger = Ledger::new();
    let (mut a, mut off) = (ledger.node("a", 1), ledger.node("off", 2));
    off.change(ALICE, AccountChange::Set(100), "");
    a.ask(&reserve(1, 1));
    a.replicate(state(1, Some(b"head"), &[]));
    drop(a);
    let take_over = |node: &str, dead: &str| match ledger.ask(node, AccountQuery::TakeOver { dead: dead.into() }) {
        AccountAnswer::TakenOver(outcome) => outcome,
        other => panic!("{other:?}"),
    };
    assert_eq!(take_over("off", "c"), TakeoverOutcome::Unknown);
    assert_eq!(take_over("unknown", "a"), TakeoverOutcome::NotJoined);
    assert_eq!(take_over("off", "a"), TakeoverOutcome::HasLease);
    ledger.end_lease("a");
    assert_eq!(take_over("off", "a"), TakeoverOutcome::Done);
    let mut third = ledger.node("b", 3);
    third.wait_for_lease();
    assert_eq!(take_over("b", "a"), TakeoverOutcome::TakenByOther);
    assert_eq!(off.wait_for_adopted().session, SessionKey(1, 1));
}

#[test]
fn name_of_a_node_is_its_own_until_its_lease_is_over() {
    let ledger = Ledger::new();
    let mut a = ledger.node("a", 1);
    a.wait_for_lease();
    let version = || ledger.value("SELECT xmin FROM imcharge.nodes WHERE name = 'a'");
    let before = version();
    let mut other = ledger.node("a", 2);
    let begun = Instant::now();
    while version() == before || other.state() != "READY" {
        other.enabler.work(clock::now());
        assert!(begun.elapsed() < PATIENCE, "it does not join");
    }
    assert_eq!(other.enabler.lease_until(), Time(0));
    ledger.end_lease("a");
    other.wait_for_lease();
    a.wait_until_taken_over();
}

#[test]
fn request_continues_at_the_server_that_is_promoted() {
    let mut ledger = Ledger::with(Setup { standbys: 2, ..Setup::default() });
    let mut a = ledger.node("a", 1);
    a.change(ALICE, AccountChange::Set(100), "");
    ledger.cluster.kill_primary();
    let call = Call { call_id: "call", other: "", icid: "", direction: Direction::Pull, method: "INVITE" };
    a.enabler.ask(reserve(1, 1), &call, clock::now(), 1_800_000_000);
    a.enabler.flush(clock::now());
    ledger.cluster.promote();
    let response = a.wait("an answer", |event| match event {
        EnablerEvent::Response { response, .. } => Some(response),
        _ => None,
    });
    assert_eq!(response, Response::granted(Quota(5), Some(50)));
    assert_eq!((a.counter("pg_reconnects"), a.counter("pg_down")), (1, 0));
    assert_eq!(ledger.money(ALICE), ("50 50 0".into(), true));
}
