//! Failover: peers that are busy, silent or gone, and relays to several charging systems.

use super::capture::Judged;
use super::diameter::program;
use super::relay::Relay;
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::ocs::Ocs;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::Setup;
use std::net::SocketAddr;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// A charging system of this name where Alice has 100.
pub fn ocs(host: &str) -> Ocs {
    Ocs::start(&program(), &["--account", &format!("{ALICE}=100"), "--origin-host", host])
}

/// A proxy before two peers, the first to be used first, when both are open.
pub fn stage(first: (&str, SocketAddr), second: (&str, SocketAddr), change: impl FnOnce(Setup) -> Setup) -> Stage {
    let peer = |(host, address): (&str, SocketAddr), priority| {
        format!("\"host={host};address={address};priority={priority}\"")
    };
    let stage = Stage::new(|setup| {
        let setup = setup.defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer(first, 1));
        change(setup.parameter("peer", &peer(second, 2)))
    });
    let open = || stage.proxy.rpc(&["imcharge.peers"]).unwrap_or_default().matches("state: OKAY").count() == 2;
    assert!(eventually(SOON, open), "{}", stage.proxy.log());
    stage
}

/// Takes one message, which is debited, and hangs up.
pub fn retrieve(stage: &Stage) {
    let before = stage.proxy.debits(ALICE).len();
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.until_debited(ALICE, before + 1);
    assert_eq!(client.bye(), 200);
}

/// Nothing waits, and every request has ended in one way.
#[track_caller]
fn expect_ended(stage: &Stage) {
    let sum = |names: &[&str]| names.iter().map(|name| stage.proxy.statistic(name)).sum::<i64>();
    let rests = || {
        let sent = sum(&["initial_ccrs", "interim_ccrs", "final_ccrs", "event_ccrs"]);
        sent == sum(&["ccr_answers", "ccr_timeouts", "ccr_failures"]) && sum(&["outbox_depth", "sessions_active"]) == 0
    };
    assert!(eventually(SOON, rests), "{}", stage.proxy.log());
}

/// The same, and no session is left anywhere.
#[track_caller]
fn expect_rest(stage: &Stage, systems: [&Ocs; 2]) {
    expect_ended(stage);
    systems.iter().for_each(|ocs| assert_eq!(ocs.sessions(), [""; 0]));
}

/// What Alice's account comes to.
#[track_caller]
pub fn expect(ocs: &Ocs, wanted: (i64, i64, i64), stage: &Stage) {
    assert_eq!(ocs.account_becomes(ALICE, wanted, SOON), wanted, "{}", stage.proxy.log());
}

#[test]
fn a_peer_that_cannot_deliver_is_passed_over_and_no_call_is_refused() {
    for code in [3002, 3004, 3005] {
        let (one, two) = (ocs("ocs1.example.com"), ocs("ocs2.example.com"));
        let _judged = [&one, &two].map(|ocs| Judged::start(ocs.diameter.port()));
        let stage = stage(("ocs1.example.com", one.diameter), ("ocs2.example.com", two.diameter), |setup| setup);
        let _server = stage.server(&["one"], |_| {});
        one.command(&format!("fault refuse={code} on=initial"));
        retrieve(&stage);
        one.command("fault off");
        retrieve(&stage);
        expect(&two, (99, 0, 1), &stage);
        expect(&one, (99, 0, 1), &stage);
        expect_rest(&stage, [&one, &two]);
        assert_eq!(stage.proxy.statistic("reserves_granted"), 2, "{code}");
    }
}

#[test]
fn a_peer_that_falls_silent_costs_one_time_out_and_no_more() {
    let (one, two) = (ocs("ocs1.example.com"), ocs("ocs2.example.com"));
    let (first, second) = (("ocs1.example.com", one.diameter), ("ocs2.example.com", two.diameter));
    let stage = stage(first, second, |setup| setup.parameter("tx_timeout", "2"));
    let _server = stage.server(&["one"], |_| {});
    // Not even the watchdog is answered, and the connection stays.
    one.command("fault silent");
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503);
    retrieve(&stage);
    expect(&two, (99, 0, 1), &stage);
    one.command("fault off");
    expect(&one, (100, 0, 0), &stage);
    expect_rest(&stage, [&one, &two]);
    let log = stage.proxy.log();
    assert!(log.contains("peer ocs1.example.com: a request timed out and no later one was answered"), "{log}");
}

#[test]
fn session_through_a_relay_stays_at_its_server() {
    let (one, two) = (ocs("ocs1.example.com"), ocs("ocs2.example.com"));
    let systems = [("ocs1.example.com", one.diameter), ("ocs2.example.com", two.diameter)];
    let (relay, spare) = (Relay::start("dra1.example.com", &systems), Relay::start("dra2.example.com", &systems));
    let _judged = Judged::start(relay.address.port());
    let stage = stage(("dra1.example.com", relay.address), ("dra2.example.com", spare.address), |setup| setup);
    let _server = stage.server(&["one", "two"], |_| {});
    for _ in 0..2 {
        let before = stage.proxy.debits(ALICE).len();
        let mut client = stage.bound(|_| {});
        assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2);
        stage.until_debited(ALICE, before + 2);
        client.bye();
    }
    for ocs in [&one, &two] {
        expect(ocs, (98, 0, 2), &stage);
    }
    expect_rest(&stage, [&one, &two]);
    let seen = relay.seen();
    for (at, asked) in seen.iter().enumerate() {
        let first = seen.iter().position(|other| other.session == asked.session) == Some(at);
        assert_eq!(asked.destination.is_none(), first, "{asked:?}");
    }
    assert_eq!((seen.len(), spare.seen().len()), (8, 0));
}

#[test]
fn a_debit_whose_relay_dies_reaches_the_same_server_by_another_and_is_taken_once() {
    let (one, two) = (ocs("ocs1.example.com"), ocs("ocs2.example.com"));
    let systems = [("ocs1.example.com", one.diameter), ("ocs2.example.com", two.diameter)];
    let (relay, spare) = (Relay::start("dra1.example.com", &systems), Relay::start("dra2.example.com", &systems));
    let _judged = [&relay, &spare].map(|relay| Judged::start(relay.address.port()));
    let stage = stage(("dra1.example.com", relay.address), ("dra2.example.com", spare.address), |setup| setup);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    expect(&one, (90, 10, 0), &stage);
    // Booked, and the answer lost with the relay.
    one.command("fault drop on=update times=1");
    client.take(1, Reaction::Answer(200));
    expect(&one, (90, 9, 1), &stage);
    assert!(eventually(SOON, || one.counter("dropped") == 1));
    relay.cut();
    stage.until_debited(ALICE, 1);
    client.bye();
    expect(&one, (99, 0, 1), &stage);
    expect(&two, (100, 0, 0), &stage);
    expect_rest(&stage, [&one, &two]);
    let (before, after) = (relay.seen().pop().expect("the debit"), spare.seen().remove(0));
    assert_eq!((before.header.end_to_end, &before.session), (after.header.end_to_end, &after.session));
    assert!(!before.header.is_retransmitted() && after.header.is_retransmitted());
    assert_eq!((one.counter("duplicates"), stage.proxy.statistic("debits")), (1, 1));
}

#[test]
fn session_with_failover_continues_at_the_next_server() {
    let options = ["--account", &format!("{ALICE}=100"), "--session-failover", "yes"];
    let start = |host| Ocs::start(&program(), &[&options[..], &["--origin-host", host]].concat());
    let (one, two) = (start("ocs1.example.com"), start("ocs2.example.com"));
    let stage = stage(("ocs1.example.com", one.diameter), ("ocs2.example.com", two.diameter), |setup| setup);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    expect(&one, (90, 10, 0), &stage);
    // For longer than this takes.
    one.command("kill 600000");
    // The other one has never heard of the session: the debit is asked for without it.
    client.take(1, Reaction::Answer(200));
    client.bye();
    expect(&two, (99, 0, 1), &stage);
    expect_ended(&stage);
    assert_eq!((stage.proxy.debits(ALICE).len(), two.sessions().len()), (1, 0));
    // The first peer is gone, so what it holds cannot be released.
    assert_eq!(one.account(ALICE), (90, 10, 0));
}

#[test]
fn request_for_another_server_is_refused_and_resent() {
    let one = ocs("ocs1.example.com");
    let relay = Relay::start("dra1.example.com", &[("ocs1.example.com", one.diameter)]);
    let two = ocs("ocs2.example.com");
    let stage = stage(("dra1.example.com", relay.address), ("ocs2.example.com", two.diameter), |setup| setup);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    expect(&one, (90, 10, 0), &stage);
    one.command("set origin-host=ocs9.example.com");
    client.take(1, Reaction::Answer(200));
    assert!(eventually(SOON, || one.counter("refused") > 0), "{}", stage.proxy.log());
    assert_eq!(one.account(ALICE), (90, 10, 0));
    // Names of hosts are the same in any case.
    one.command("set origin-host=OCS1.Example.COM");
    client.bye();
    expect(&one, (99, 0, 1), &stage);
    expect_rest(&stage, [&one, &two]);
    assert_eq!((stage.proxy.debits(ALICE).len(), two.account(ALICE)), (1, (100, 0, 0)));
}
