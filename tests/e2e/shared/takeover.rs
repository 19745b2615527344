//! Nodes that die, and the node that settles their sessions. OPEN sets how many sessions are open (default: 20).

use super::store::Store;
use super::{LEASE, SETTLED, SOON, is_at_rest, node, times, unready, until_at_rest, until_ready, until_replicated};
use crate::{ALICE, Stage, subscriber};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::postgres::Wire;
use imcharge_testkit::proxy::Setup;
use std::time::{Duration, Instant};

/// Messages without a response wait longer than any of these tests.
fn patient(setup: Setup) -> Setup {
    setup.defined("RESPONSE_TIMEOUT", "600").parameter("default_balance", "10")
}

/// Opens a session for each subscriber. Every fifth one has received a message and not answered it.
fn open(stage: &Stage, everyone: &[String]) -> Vec<ImClient> {
    std::thread::scope(|scope| {
        let parts = everyone.chunks(everyone.len().div_ceil(4)).enumerate().map(|(part, mine)| {
            scope.spawn(move || {
                let sessions = mine.iter().enumerate().map(|(at, identity)| {
                    let mut client = stage.client(identity, |_| {});
                    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
                    if is_outstanding(part * everyone.len().div_ceil(4) + at) {
                        client.bind();
                        assert_eq!(client.take(1, Reaction::Silence).len(), 1, "{}", stage.proxy.log());
                    }
                    client
                });
                sessions.collect::<Vec<_>>()
            })
        });
        let parts: Vec<_> = parts.collect();
        parts.into_iter().flat_map(|part| part.join().expect("all sessions open")).collect()
    })
}

fn is_outstanding(at: usize) -> bool {
    at.is_multiple_of(5)
}

#[test]
fn sessions_of_a_proxy_that_died_with_its_disk_are_settled_by_another() {
    let sessions = times("OPEN", 20);
    let store = Store::start(1);
    let (mut dead, survivor) = (node(&store, "a", patient), node(&store, "b", patient));
    let _server = dead.server(&["one"], |_| {});
    let everyone: Vec<String> = (0..sessions).map(|_| subscriber()).collect();
    let open = open(&dead, &everyone);
    until_replicated(&store, &dead, sessions as i64);
    let died = Instant::now();
    dead.proxy.lose_machine();
    let left = || store.number("SELECT count(*) FROM imcharge.sessions");
    assert!(eventually(SETTLED + SOON, || left() == 0), "{} left\n{}", left(), survivor.proxy.log());
    assert!(died.elapsed() <= SETTLED, "settled after {:?}", died.elapsed());
    assert!(died.elapsed() >= LEASE - LEASE / 10, "settled after {:?}, within the lease", died.elapsed());
    for (at, identity) in everyone.iter().enumerate() {
        let debited = i64::from(is_outstanding(at));
        store.expect(identity, 10 - debited, 0, debited);
    }
    let triggers = store.sql("SELECT DISTINCT trigger FROM imcharge.debits").concat();
    assert_eq!(triggers, ["close"]);
    until_at_rest(&survivor);
    store.expect_at_rest();
    let counted = |name: &str| survivor.proxy.statistic(name);
    assert_eq!((counted("takeovers"), counted("sessions_taken_over")), (1, sessions as i64));
    let nodes = survivor.proxy.rpc(&["imcharge.nodes"]).expect("the nodes");
    assert!(nodes.contains("taken_over_by: b"), "{nodes}");
    drop(open);
}

#[test]
fn dead_proxy_that_returns_without_its_disk_finds_its_sessions_settled_and_serves() {
    let store = Store::start(1);
    let (mut dead, survivor) = (node(&store, "a", patient), node(&store, "b", patient));
    let _servers = [&dead, &survivor].map(|stage| stage.server(&["one"], |_| {}));
    let everyone: Vec<String> = (0..5).map(|_| subscriber()).collect();
    let open = open(&dead, &everyone);
    until_replicated(&store, &dead, 5);
    dead.proxy.lose_machine();
    // With a new identity under the same name it has to wait for the lease of the former one.
    dead.proxy.restart().unwrap_or_else(|error| panic!("{error}"));
    let started = Instant::now();
    until_ready(&dead);
    assert!(started.elapsed() < SETTLED, "ready after {:?}", started.elapsed());
    store.expect(&everyone[0], 9, 0, 1);
    store.expect(&everyone[1], 10, 0, 0);
    let mut client = dead.client(&everyone[1], |_| {});
    assert_eq!(client.invite(), 200, "{}", dead.proxy.log());
    client.bind();
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", dead.proxy.log());
    assert_eq!(client.bye(), 200);
    store.expect(&everyone[1], 9, 0, 1);
    assert!(eventually(SOON, || is_at_rest(&dead) && is_at_rest(&survivor)));
    store.expect_at_rest();
    drop(open);
}

/// Cuts a node off the database, delivers a message of each of three sessions through it, of which no other node can know,
/// and lets it die by `die`. Another node settles the sessions. Then the node returns.
fn debits_of_a_dead_node_are_taken_once(hides: impl FnOnce(&Stage), die: impl FnOnce(&mut Stage)) {
    let store = Store::start(1);
    let wire = Wire::to(store.cluster.primary().port());
    let mut dead = unready("a", &[wire.port], &store, patient);
    until_ready(&dead);
    let survivor = node(&store, "b", patient);
    dead.proxy.set_account(ALICE, 100);
    let _server = dead.server(&["one", "two"], |options| options.pace = Duration::from_millis(1500));
    let mut clients: Vec<ImClient> = (0..3).map(|_| dead.bound(|_| {})).collect();
    let receive = |clients: &mut [ImClient]| {
        for client in clients {
            assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", dead.proxy.log());
        }
    };
    receive(&mut clients);
    store.expect(ALICE, 70, 27, 3);
    wire.swallow();
    hides(&dead);
    receive(&mut clients);
    die(&mut dead);
    let left = || store.number("SELECT count(*) FROM imcharge.sessions");
    assert!(eventually(SETTLED + SOON, || left() == 0), "{} left\n{}", left(), survivor.proxy.log());
    store.expect(ALICE, 97, 0, 3);
    wire.pass();
    dead.proxy.restart().unwrap_or_else(|error| panic!("{error}"));
    until_ready(&dead);
    store.expect(ALICE, 94, 0, 6);
    assert!(eventually(SOON, || is_at_rest(&dead) && is_at_rest(&survivor)), "{}", dead.proxy.log());
    store.expect_at_rest();
    assert_eq!(store.debited().len(), 6);
    assert_eq!(dead.proxy.debits(ALICE).len(), 6, "{}", dead.proxy.log());
}

#[test]
fn debits_of_a_dead_proxy_are_taken_once_when_it_returns_with_its_disk() {
    let die = |stage: &mut Stage| {
        let waiting = || stage.proxy.statistic("outbox_depth");
        assert!(eventually(SOON, || waiting() == 3), "{} debits wait\n{}", waiting(), stage.proxy.log());
        stage.proxy.lose_power();
    };
    debits_of_a_dead_node_are_taken_once(|_| {}, die);
}

#[test]
fn debits_of_a_dead_proxy_are_taken_once_when_it_returns_with_its_disk_and_memory() {
    // The engine, which is stopped, reads none of it.
    let hide = |stage: &Stage| stage.proxy.signal("STOP", stage.proxy.engine_pid());
    debits_of_a_dead_node_are_taken_once(hide, |stage| stage.proxy.kill_all());
}

#[test]
fn nothing_passes_a_proxy_that_was_stopped_beyond_its_lease() {
    let store = Store::start(1);
    let (stopped, survivor) = (node(&store, "a", patient), node(&store, "b", patient));
    stopped.proxy.set_account(ALICE, 100);
    // The IM server does not wait for responses, so that frames are in the sockets of the stopped processes.
    let texts: Vec<String> = (0..8).map(|number| format!("text {number}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let server = stopped.server(&texts, |options| {
        options.pipeline = true;
        options.pace = Duration::from_millis(200);
    });
    let _other = survivor.server(&["one"], |_| {});
    let mut client = stopped.bound(|_| {});
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2);
    stopped.until_debited(ALICE, 2);
    store.expect(ALICE, 90, 8, 2);
    stopped.proxy.signal("STOP", None);
    while client.next_send(Duration::from_secs(1)).is_some() {}
    let left = || store.number("SELECT count(*) FROM imcharge.sessions");
    assert!(eventually(SETTLED + SOON, || left() == 0), "{} left\n{}", left(), survivor.proxy.log());
    let settled = store.account(ALICE).expect("the account");
    // The engine continues last: until then the processes that relay know only that the lease is over.
    let engine = stopped.proxy.engine_pid();
    for process in stopped.proxy.pids().into_iter().filter(|pid| Some(*pid) != engine) {
        stopped.proxy.signal("CONT", Some(process));
    }
    let late = client.next_send(Duration::from_secs(2));
    assert!(late.is_none(), "{late:?}\n{}", stopped.proxy.log());
    stopped.proxy.signal("CONT", engine);
    assert!(eventually(SOON, || stopped.proxy.statistic("pg_fenced") == 1), "{}", stopped.proxy.log());
    assert!(eventually(SOON, || stopped.proxy.statistic("frames_lease_over") > 0), "{}", stopped.proxy.log());
    let late = client.next_send(Duration::from_secs(1));
    assert!(late.is_none(), "{late:?}\n{}", stopped.proxy.log());
    until_ready(&stopped);
    drop((client, server));
    assert!(eventually(SOON, || is_at_rest(&stopped) && is_at_rest(&survivor)), "{}", stopped.proxy.log());
    // What had passed before the stop was debited by one of the two, and nothing since.
    let account = store.account(ALICE).expect("the account");
    assert!(account.debited >= settled.debited && account.balance + account.debited == 100, "{account:?} {settled:?}");
    store.expect_at_rest();
    let epochs = store.sql("SELECT epoch FROM imcharge.nodes ORDER BY name").concat();
    assert!(epochs[0] > epochs[1], "the epoch of a is not above that of b: {epochs:?}");
    let _server = stopped.server(&["one"], |_| {});
    let mut client = stopped.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", stopped.proxy.log());
    assert_eq!(client.bye(), 200);
    store.expect(ALICE, account.balance - 1, 0, account.debited + 1);
}
