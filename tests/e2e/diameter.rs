//! Retrievals charged by an Online Charging System over Diameter, and the resulting accounts of the server.

use super::capture::Judged;
use super::{ALICE, Stage};
use imcharge_testkit::certificates::Authority;
use imcharge_testkit::ocs::Ocs;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::proxy::Setup;
use imcharge_testkit::{eventually, unique};
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

/// Returns the path of the OCS simulator, which `make test` builds.
pub fn program() -> PathBuf {
    std::env::var_os("IMCHARGE_OCS").expect("IMCHARGE_OCS names no program: run make test").into()
}

/// Returns the number of peers that accept requests. A reconnected peer is in state REOPEN until it has answered three
/// watchdog requests (RFC 3539); it receives requests if no other peer is open.
fn open_peers(stage: &Stage) -> usize {
    let peers = stage.proxy.rpc(&["imcharge.peers"]).unwrap_or_default();
    peers.matches("OKAY").count() + peers.matches("REOPEN").count()
}

/// A charging system in which Alice has 100 units, and a proxy that uses it. The captured Diameter is checked after the
/// proxy has disconnected, so `stage` is dropped first.
pub struct Charged {
    /// The proxy.
    pub stage: Stage,
    /// The charging system.
    pub ocs: Ocs,
    pub judged: Option<Judged>,
}

impl Charged {
    /// Starts a charging system with these options, and a proxy with a changed configuration.
    pub fn new(options: &[&str], change: impl FnOnce(Setup) -> Setup) -> Charged {
        let account = format!("{ALICE}=100");
        let options: Vec<&str> = ["--account", &account].into_iter().chain(options.iter().copied()).collect();
        let ocs = Ocs::start(&program(), &options);
        let judged = Some(Judged::start(ocs.diameter.port()));
        let peer = format!("\"host=ocs.example.com;address={}\"", ocs.diameter);
        let setup = |setup: Setup| {
            let setup = setup.defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer.clone());
            change(setup.parameter("tx_timeout", "2"))
        };
        let charged = Charged { ocs, judged, stage: Stage::new(setup) };
        charged.until_open();
        charged
    }

    /// Starts both with the shipped configuration.
    pub fn plain() -> Charged {
        Charged::new(&[], |setup| setup)
    }

    /// Disables the check of the captured Diameter, for tests with very many equal requests.
    pub fn unjudged(mut self) -> Charged {
        self.judged = None;
        self
    }

    /// Waits until a peer accepts requests.
    #[track_caller]
    pub fn until_open(&self) {
        assert!(eventually(SOON, || open_peers(&self.stage) > 0), "{}", self.stage.proxy.log());
    }

    /// Asserts that the account at the server reaches these values.
    #[track_caller]
    pub fn expect(&self, balance: i64, held: i64, debited: i64) {
        let found = self.ocs.account_becomes(ALICE, (balance, held, debited), SOON);
        assert_eq!(found, (balance, held, debited), "{}", self.stage.proxy.log());
    }

    /// Asserts that everything is settled: no session at the server, no queued request, and an end of each request sent.
    #[track_caller]
    pub fn expect_rest(&self) {
        let statistic = |name: &str| self.stage.proxy.statistic(name);
        let kinds = ["initial_ccrs", "interim_ccrs", "final_ccrs", "event_ccrs"];
        let ends = ["ccr_answers", "ccr_timeouts", "ccr_failures"];
        let sum = |names: &[&str]| names.iter().map(|name| statistic(name)).sum::<i64>();
        let rests = || sum(&kinds) == sum(&ends) && statistic("outbox_depth") == 0 && statistic("sessions_active") == 0;
        assert!(eventually(SOON, rests), "sent {} ended {}\n{}", sum(&kinds), sum(&ends), self.stage.proxy.log());
        let left = self.ocs.sessions();
        assert!(left.is_empty(), "the server still has {left:?}");
        self.expect_marked();
    }

    /// Asserts that every duplicate request had the T flag and an unchanged End-to-End Identifier (RFC 6733, 3), also after
    /// crashes.
    #[track_caller]
    pub fn expect_marked(&self) {
        for wrong in ["unmarked", "renumbered"] {
            assert_eq!(self.ocs.counter(wrong), 0, "{wrong}\n{}", self.stage.proxy.log());
        }
    }
}

#[test]
pub fn one_message_is_an_initial_and_a_termination() {
    for profile in ["rfc8506", "3gpp-ro"] {
        let charged = Charged::new(&[], |setup| setup.defined("OCS_PROFILE", format!("\"{profile}\"")));
        let _server = charged.stage.server(&["one"], |_| {});
        let mut client = charged.stage.bound(|_| {});
        client.take(1, Reaction::Answer(200));
        charged.stage.until_debited(ALICE, 1);
        client.bye();
        charged.expect(99, 0, 1);
        charged.expect_rest();
    }
}

#[test]
fn each_outcome_costs_what_it_costs_on_the_ledger() {
    let charged = Charged::plain();
    let server = charged.stage.server(&["one", "two", "three"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3);
    charged.stage.until_debited(ALICE, 3);
    client.bye();
    charged.expect(97, 0, 3);
    drop(server);
    let _server = charged.stage.server(&["one"], |_| {});
    for (reaction, debited) in [(Reaction::Answer(415), 4), (Reaction::Silence, 5)] {
        let mut client = charged.stage.bound(|_| {});
        client.take(1, reaction);
        charged.expect(100 - debited - 9, 9, debited);
        client.bye();
        charged.expect(100 - debited, 0, debited);
    }
    charged.expect_rest();
    assert_eq!(charged.stage.triggers(ALICE), ["response", "response", "response", "error", "timeout"]);
}

#[test]
fn refusal_has_a_reason_and_leaves_no_hold() {
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    for (code, sip) in [(4010, 402), (4012, 402), (5003, 402), (5030, 402), (5031, 402), (3004, 503), (3002, 503)] {
        charged.ocs.command(&format!("fault refuse={code} on=initial"));
        let mut client = charged.stage.client(ALICE, |_| {});
        assert_eq!(client.invite(), sip, "{code}\n{}", charged.stage.proxy.log());
        charged.ocs.command("fault off");
    }
    charged.expect(100, 0, 0);
    charged.expect_rest();
    let log = charged.stage.proxy.log();
    for (word, code) in [
        ("service-denied", 4010),
        ("no-credit", 4012),
        ("not-authorized", 5003),
        ("unknown-subscriber", 5030),
        ("rating-failed", 5031),
        ("enabler-busy", 3004),
        ("enabler-undeliverable", 3002),
    ] {
        assert!(log.contains(&format!("refused: {word} {code}")), "{word}\n{log}");
    }
}

#[test]
fn one_message_is_granted_if_partial_grants_are_refused() {
    let charged = Charged::new(&["--no-partial"], |setup| setup);
    charged.ocs.command(&format!("account {ALICE}=5"));
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(4, 0, 1);
    charged.expect_rest();
}

#[test]
fn what_is_not_to_be_charged_is_given() {
    let charged = Charged::plain();
    charged.ocs.command("fault refuse=4011");
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    client.bye();
    charged.expect(100, 0, 0);
    charged.expect_rest();
    assert_eq!(charged.stage.proxy.statistic("final_ccrs"), 0, "4011 ends the session: no termination");
}

#[test]
fn event_charging_reserves_nothing_and_ends_with_the_first_refusal() {
    for profile in ["rfc8506", "3gpp-ro"] {
        let charged = Charged::new(&[], |setup| {
            setup.defined("OCS_PROFILE", format!("\"{profile}\"")).parameter("model", "\"immediate\"")
        });
        charged.ocs.command(&format!("account {ALICE}=2"));
        let _server = charged.stage.server(&["one", "two", "three"], |_| {});
        let mut client = charged.stage.bound(|_| {});
        charged.expect(2, 0, 0);
        client.take(1, Reaction::Answer(200));
        charged.expect(1, 0, 1);
        client.take(2, Reaction::Answer(200));
        charged.expect(0, 0, 2);
        charged.expect_rest();
        let statistic = |name: &str| charged.stage.proxy.statistic(name);
        assert_eq!((statistic("initial_ccrs"), statistic("event_ccrs"), statistic("debits")), (0, 3, 2));
        client.bye();
    }
}

#[test]
fn failure_report_after_200_is_refunded_by_policy() {
    for profile in ["rfc8506", "3gpp-ro"] {
        let charged = Charged::new(&[], |setup| {
            setup.defined("OCS_PROFILE", format!("\"{profile}\"")).parameter("policy", "\"report=release\"")
        });
        let _server = charged.stage.server(&["one", "two"], |_| {});
        let mut client = charged.stage.bound(|_| {});
        let taken = client.take(2, Reaction::Answer(200));
        charged.stage.until_debited(ALICE, 2);
        // The answer to the refund is lost: the request is resent, and executed once.
        charged.ocs.command("fault drop on=event times=1");
        let (message_id, octets) = &taken[0];
        client.report(message_id, *octets, 415);
        charged.expect(91, 8, 1);
        client.bye();
        charged.expect(99, 0, 1);
        charged.expect_rest();
        let debits = charged.stage.proxy.debits(ALICE).len();
        let refunded = charged.stage.proxy.count("SELECT count(*) FROM debits WHERE refunded_at IS NOT NULL");
        assert_eq!((debits, refunded, charged.stage.proxy.statistic("refunds")), (2, 1, 1));
    }
}

/// Asserts that a retrieval of one message is charged correctly in spite of this fault.
fn survives(fault: &str) {
    let charged = Charged::plain();
    charged.ocs.command(&format!("fault {fault}"));
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(99, 0, 1);
    charged.expect_rest();
}

#[test]
fn unusual_but_valid_answers_are_accepted() {
    for fault in [
        "no-mscc-result",
        "duplicate",
        "no-session-id on=termination",
        "unknown-avp",
        "unknown-mandatory-avp",
        "partial-writes",
        "delay=5-50ms",
    ] {
        survives(fault);
    }
}

/// Asserts that an INVITE with this fault is refused and leaves no hold, and that the next retrieval is charged.
#[track_caller]
fn recovers(fault: &str) {
    let charged = Charged::plain();
    charged.ocs.command(&format!("fault {fault} on=initial times=1"));
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.client(ALICE, |_| {});
    let refused = client.invite();
    assert!([402, 503].contains(&refused), "{fault}: {refused}\n{}", charged.stage.proxy.log());
    charged.until_open();
    charged.expect(100, 0, 0);
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(99, 0, 1);
    charged.expect_rest();
    assert_eq!(charged.stage.proxy.statistic("engine_restarts"), 0, "{fault}");
}

#[test]
fn an_answer_that_does_not_come_is_a_refusal_and_what_was_reserved_is_given_back() {
    for fault in ["drop", "lose", "delay=3s", "wrong-hbh", "wrong-e2e"] {
        recovers(fault);
    }
}

#[test]
fn a_malformed_answer_affects_its_own_request_only() {
    for fault in [
        "avp-length=3",
        "avp-length=0",
        "avp-length=beyond",
        "avp-length=one-byte-result-code",
        "grant-time",
        "wrong-session-id",
        "no-session-id",
    ] {
        recovers(fault);
    }
    recovers("no-mscc");
}

#[test]
fn a_malformed_stream_is_closed_and_reopened() {
    for fault in ["garbage", "header-length=8", "header-length=16000000", "close=before-answer", "close=mid-answer"] {
        recovers(fault);
    }
}

#[test]
fn debit_with_lost_answer_is_resent_and_taken_once() {
    for fault in ["drop", "lose", "close=mid-answer", "avp-length=3", "refuse=4002", "protocol-error=3004"] {
        let charged = Charged::plain();
        charged.ocs.command(&format!("fault {fault} on=update,termination times=3"));
        let _server = charged.stage.server(&["one", "two"], |_| {});
        let mut client = charged.stage.bound(|_| {});
        client.take(2, Reaction::Answer(200));
        client.bye();
        charged.expect(98, 0, 2);
        charged.expect_rest();
        assert_eq!(charged.stage.proxy.debits(ALICE).len(), 2, "{fault}");
        assert!(charged.stage.proxy.statistic("debits") == 2, "{fault}");
        // event_route[imcharge:failed] of the shipped script.
        let line = format!("the enabler failed for {}: ", client.call_id);
        assert!(charged.stage.proxy.log().contains(&line), "{fault}\n{}", charged.stage.proxy.log());
    }
}

#[test]
fn a_server_that_is_slower_than_tx_is_asked_until_its_answer_comes_and_no_longer() {
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one", "two"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    // Each answer arrives a second after the request has timed out.
    charged.ocs.command("fault delay=3s on=update,termination");
    client.take(2, Reaction::Answer(200));
    client.bye();
    charged.expect(98, 0, 2);
    charged.expect_rest();
    assert_eq!(charged.stage.proxy.statistic("debits"), 2);
    assert!(charged.stage.proxy.statistic("ccr_late_answers") > 0);
}

#[test]
fn a_server_that_is_gone_for_a_while_gets_every_debit_later() {
    const SESSIONS: i64 = 20;
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    charged.ocs.command(&format!("account {ALICE}=1000"));
    let mut open: Vec<_> = (0..SESSIONS).map(|_| charged.stage.bound(|_| {})).collect();
    charged.expect(1000 - 10 * SESSIONS, 10 * SESSIONS, 0);
    charged.ocs.command("kill 4000");
    for client in &mut open {
        assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
        assert_eq!(client.bye(), 200, "BYE is answered while the OCS is down");
    }
    let mut refused = charged.stage.client(ALICE, |_| {});
    assert_eq!(refused.invite(), 503);
    let outbox = charged.stage.proxy.rpc(&["imcharge.outbox"]).expect("an outbox");
    assert!(outbox.contains(&format!("count: {SESSIONS}")), "{outbox}");
    let age = || {
        let outbox = charged.stage.proxy.rpc(&["imcharge.outbox"]).unwrap_or_default();
        let age = outbox.lines().find_map(|line| line.trim().strip_prefix("oldest_age: "));
        age.and_then(|age| age.parse::<i64>().ok()).unwrap_or_default()
    };
    assert!(eventually(Duration::from_secs(3), || (1..60).contains(&age())), "{outbox}");
    charged.expect(1000 - SESSIONS, 0, SESSIONS);
    charged.expect_rest();
}

#[test]
fn a_cancel_before_the_answer_waits_for_it_and_releases() {
    let charged = Charged::plain();
    charged.ocs.command("fault delay=1s on=initial");
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.client(ALICE, |_| {});
    client.send_invite();
    assert!(client.provisional(SOON), "the INVITE is taken");
    client.cancel();
    assert_eq!(client.final_response(SOON), 487);
    charged.expect(100, 0, 0);
    charged.expect_rest();
}

#[test]
fn a_cancel_while_it_rings_releases_what_was_granted() {
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |options| options.rings = true);
    let mut client = charged.stage.client(ALICE, |_| {});
    client.send_invite();
    assert!(client.ringing(SOON), "{}", charged.stage.proxy.log());
    charged.expect(90, 10, 0);
    client.cancel();
    assert_eq!(client.final_response(SOON), 487);
    charged.expect(100, 0, 0);
    charged.expect_rest();
    let statistic = |name: &str| charged.stage.proxy.statistic(name);
    assert_eq!((statistic("initial_ccrs"), statistic("final_ccrs"), statistic("debits")), (1, 1, 0));
}

#[test]
fn repeated_bye_is_one_termination() {
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    assert_eq!(client.bye_in_copies(3), 200);
    // New transactions.
    assert_eq!([client.bye(), client.bye()], [200; 2]);
    charged.expect(99, 0, 1);
    charged.expect_rest();
    assert_eq!(charged.ocs.counter("termination"), 1);
    assert_eq!((charged.stage.proxy.statistic("final_ccrs"), charged.stage.proxy.statistic("debits")), (1, 1));
}

#[test]
fn an_invite_that_comes_once_more_long_after_its_session_is_a_session_of_its_own() {
    // 64*T1 of RFC 3261, and one second of tolerance.
    const REMEMBERED: Duration = Duration::from_secs(33);
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    let number = unique();
    let mut calls = Vec::new();
    for debited in 1..=2 {
        let mut client = charged.stage.bound(|options| options.number = Some(number));
        assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", charged.stage.proxy.log());
        charged.stage.until_debited(ALICE, debited as usize);
        assert_eq!(client.bye(), 200);
        let ended = Instant::now();
        charged.expect(100 - debited, 0, debited);
        charged.expect_rest();
        assert_eq!(charged.ocs.counter("duplicates"), 0, "the server takes it for the first one");
        calls.push(client.call_id.clone());
        assert!(debited == 2 || eventually(REMEMBERED * 2, || ended.elapsed() > REMEMBERED));
    }
    assert_eq!(calls[0], calls[1]);
    assert_eq!((charged.ocs.counter("initial"), charged.ocs.counter("termination")), (2, 2));
}

#[test]
fn two_sessions_that_want_three_messages_each_get_the_three_that_are_paid_for() {
    // One session gets all units and the other none, or one gets two and the other one.
    for (reserved, answers) in [("10", [200, 402]), ("2", [200, 200])] {
        let charged = Charged::new(&[], |setup| {
            let reserve = |messages: &str| format!("imcharge_reserve(\"CHARGED\", \"{messages}\")");
            setup.changed(&reserve("10"), &reserve(reserved))
        });
        charged.ocs.command(&format!("account {ALICE}=3"));
        let server = charged.stage.server(&["one", "two", "three"], |_| {});
        let mut both = [charged.stage.client(ALICE, |_| {}), charged.stage.client(ALICE, |_| {})];
        let mut found = at_once(&mut both, &charged.ocs, |client| client.invite());
        found.sort_unstable();
        assert_eq!(found, answers, "reserved {reserved}\n{}", charged.stage.proxy.log());
        charged.expect(0, 3, 0);
        let taken = at_once(&mut both, &charged.ocs, |client| {
            if client.peer_session().is_empty() {
                return 0;
            }
            client.bind();
            client.take(3, Reaction::Answer(200)).len()
        });
        assert_eq!(taken.iter().sum::<usize>(), 3, "reserved {reserved}\n{}", charged.stage.proxy.log());
        assert_eq!(server.refused(), if reserved == "10" { 0 } else { 3 });
        at_once(&mut both, &charged.ocs, |client| client.bye());
        charged.expect(0, 0, 3);
        charged.expect_rest();
        assert_eq!(charged.stage.proxy.debits(ALICE).len(), 3, "reserved {reserved}");
    }
}

/// Both clients do this at the same time, while the sum of Alice's units is checked: it is always three.
fn at_once<T: Send>(both: &mut [ImClient; 2], ocs: &Ocs, act: impl Fn(&mut ImClient) -> T + Sync) -> [T; 2] {
    std::thread::scope(|scope| {
        let act = &act;
        let threads = both.each_mut().map(|client| scope.spawn(move || act(client)));
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let (balance, held, debited) = ocs.account(ALICE);
            assert!(balance >= 0 && balance + held + debited == 3, "{balance} {held} {debited}");
            std::thread::sleep(Duration::from_millis(10));
        }
        threads.map(|thread| thread.join().expect("no panic"))
    })
}

#[test]
fn an_update_that_is_refused_ends_nothing_that_was_paid() {
    let charged = Charged::plain();
    charged.ocs.command("fault refuse=4012 on=update");
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    client.bye();
    charged.stage.until_debited(ALICE, 1);
    charged.expect_rest();
}

#[test]
fn after_final_units_nothing_is_requested_and_nothing_passes() {
    for action in ["terminate", "redirect=sip:topup@example.com", "restrict"] {
        let charged = Charged::new(&["--final-unit", action], |setup| setup);
        charged.ocs.command(&format!("account {ALICE}=3"));
        let server = charged.stage.server(&["one", "two", "three", "four"], |_| {});
        let mut client = charged.stage.bound(|_| {});
        assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3, "{action}");
        assert!(eventually(SOON, || server.refused() == 1), "{}", charged.stage.proxy.log());
        charged.expect(0, 0, 3);
        client.bye();
        charged.expect_rest();
        let statistic = |name: &str| charged.stage.proxy.statistic(name);
        // One debit per message, the last one in the TERMINATION; no further reservation.
        assert_eq!(
            (statistic("initial_ccrs"), statistic("interim_ccrs"), statistic("final_ccrs")),
            (1, 2, 1),
            "{action}"
        );
    }
}

#[test]
fn a_grant_is_asked_for_again_when_its_validity_time_is_over() {
    let charged = Charged::new(&["--validity-time", "5"], |setup| setup.defined("RESPONSE_TIMEOUT", "60"));
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    let renewed = || charged.stage.proxy.statistic("interim_ccrs") >= 2;
    assert!(eventually(SOON, renewed), "{}", charged.stage.proxy.log());
    charged.expect(90, 10, 0);
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(99, 0, 1);
    charged.expect_rest();
}

#[test]
fn failure_handling_chosen_by_the_server_applies() {
    for (handling, continues) in [("continue", true), ("terminate", false), ("retry", false)] {
        let charged = Charged::new(&["--failure-handling", handling], |setup| {
            setup.changed("imcharge_reserve(\"CHARGED\", \"10\")", "imcharge_reserve(\"CHARGED\", \"2\")")
        });
        let _server = charged.stage.server(&["one", "two", "three"], |_| {});
        let mut client = charged.stage.client(ALICE, |_| {});
        assert_eq!(client.invite(), 200);
        // Two messages are reserved and pass; the third is stopped and causes a request, which the server does not answer.
        charged.ocs.command("kill 5000");
        client.bind();
        assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2, "{handling}");
        let proxy = &charged.stage.proxy;
        let failed = || proxy.log().contains(&format!("failed for {}", client.call_id));
        assert!(eventually(SOON, failed), "{handling}\n{}", proxy.log());
        let more = || {
            let session = proxy.rpc(&["imcharge.session", &client.call_id]).expect("its session");
            let granted = session.lines().find_map(|line| line.trim().strip_prefix("granted: "));
            granted.and_then(|granted| granted.parse::<u32>().ok()).expect("a number") > 2
        };
        assert_eq!(if continues { eventually(SOON, more) } else { more() }, continues, "{handling}\n{}", proxy.log());
        client.bye();
        charged.expect(98, 0, 2);
        charged.expect_rest();
    }
}

#[test]
fn the_server_may_ask_for_a_report_and_may_end_the_session() {
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    charged.expect(90, 10, 0);
    let session = charged.ocs.sessions().pop().expect("a session");
    let updates = charged.stage.proxy.statistic("interim_ccrs");
    charged.ocs.command(&format!("rar {session}"));
    let reported = || charged.stage.proxy.statistic("interim_ccrs") > updates;
    assert!(eventually(SOON, reported), "{}", charged.stage.proxy.log());
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    charged.ocs.command(&format!("asr {session}"));
    charged.expect(99, 0, 1);
    charged.expect_rest();
    client.bye();
}

#[test]
fn a_peer_that_leaves_is_taken_back_when_it_returns() {
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    charged.ocs.command("dpr");
    charged.until_open();
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(99, 0, 1);
    charged.expect_rest();
}

#[test]
fn kill_9_of_all_processes_reports_every_session_to_the_server() {
    const SESSIONS: i64 = 50;
    const UNHEARD: i64 = 5;
    let mut charged = Charged::new(&[], |setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    charged.ocs.command(&format!("account {ALICE}=1000"));
    let server = charged.stage.server(&["one"], |_| {});
    let mut open: Vec<_> = (0..SESSIONS + UNHEARD).map(|_| charged.stage.client(ALICE, |_| {})).collect();
    let (sessions, unheard) = open.split_at_mut(SESSIONS as usize);
    // Every second client receives its message and does not answer it.
    for (at, client) in sessions.iter_mut().enumerate() {
        assert_eq!(client.invite(), 200);
        if at % 2 == 0 {
            client.bind();
            assert_eq!(client.take(1, Reaction::Silence).len(), 1);
        }
    }
    charged.expect(1000 - 10 * SESSIONS, 10 * SESSIONS, 0);
    // The server executes the debits of these, but its answers are lost.
    charged.ocs.command("fault drop on=update");
    for client in unheard {
        assert_eq!(client.invite(), 200);
        client.bind();
        assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    }
    charged.expect(1000 - 10 * (SESSIONS + UNHEARD), 10 * SESSIONS + 9 * UNHEARD, UNHEARD);
    charged.stage.proxy.kill_all();
    drop((open, server));
    charged.ocs.command("fault off");
    let before = charged.ocs.counter("duplicates");
    charged.stage.proxy.restart().expect("it starts again");
    let debited = SESSIONS / 2 + UNHEARD;
    charged.expect(1000 - debited, 0, debited);
    charged.expect_rest();
    let again = charged.ocs.counter("duplicates") - before;
    assert!(again >= UNHEARD as u64, "{again} of {UNHEARD} requests were resent");
    assert!(charged.ocs.counter("retransmitted") >= before + again, "with the T flag");
}

#[test]
fn clean_stop_after_load_reports_every_session_to_the_server() {
    const SESSIONS: i64 = 100;
    let mut charged = Charged::plain();
    charged.ocs.command(&format!("account {ALICE}=10000"));
    let _server = charged.stage.server(&["one"], |_| {});
    let stage = &charged.stage;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..SESSIONS / 4 {
                    let mut client = stage.bound(|_| {});
                    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
                    assert_eq!(client.bye(), 200);
                }
            });
        }
    });
    charged.expect(10_000 - SESSIONS, 0, SESSIONS);
    charged.expect_rest();
    let mut open: Vec<_> = (0..SESSIONS).map(|_| charged.stage.client(ALICE, |_| {})).collect();
    for client in &mut open {
        assert_eq!(client.invite(), 200);
    }
    charged.expect(10_000 - 11 * SESSIONS, 10 * SESSIONS, SESSIONS);
    let (ended, after) = charged.stage.proxy.terminate();
    assert!(ended.is_some_and(|status| status.success()) && after < Duration::from_secs(5), "{ended:?} {after:?}");
    assert_eq!(charged.ocs.account(ALICE), (10_000 - SESSIONS, 0, SESSIONS));
    assert!(charged.ocs.sessions().is_empty());
}

#[test]
fn a_second_peer_takes_over_and_keeps_it_while_the_first_is_on_probation() {
    let second = Ocs::start(&program(), &["--account", &format!("{ALICE}=100"), "--origin-host", "ocs2.example.com"]);
    let _judged = Judged::start(second.diameter.port());
    let peer = format!("\"host=ocs2.example.com;address={};priority=2\"", second.diameter);
    let charged = Charged::new(&[], |setup| setup.parameter("peer", &peer));
    let both = || open_peers(&charged.stage) == 2;
    assert!(eventually(SOON, both), "{}", charged.stage.proxy.log());
    let _server = charged.stage.server(&["one"], |_| {});
    let retrieve = || {
        let before = charged.stage.proxy.debits(ALICE).len();
        let mut client = charged.stage.bound(|_| {});
        client.take(1, Reaction::Answer(200));
        charged.stage.until_debited(ALICE, before + 1);
        client.bye();
    };
    retrieve();
    charged.expect(99, 0, 1);
    charged.ocs.command("kill 3000");
    retrieve();
    assert_eq!(second.account_becomes(ALICE, (99, 0, 1), SOON), (99, 0, 1));
    assert!(eventually(SOON, both), "{}", charged.stage.proxy.log());
    retrieve();
    assert_eq!(second.account_becomes(ALICE, (98, 0, 2), SOON), (98, 0, 2));
    charged.expect(99, 0, 1);
    charged.expect_rest();
}

#[test]
fn a_silent_server_delays_no_call() {
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    charged.ocs.command("fault lose");
    std::thread::scope(|scope| {
        let invite = || {
            let mut client = charged.stage.client(ALICE, |_| {});
            assert_eq!(client.invite(), 503);
        };
        let waiting: Vec<_> = (0..20).map(|_| scope.spawn(invite)).collect();
        // Requests that need no charging are answered at once, more of them than there are workers.
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a time-out can be set");
        let (own, proxy) = (socket.local_addr().expect("bound"), charged.stage.proxy.sip);
        for number in 0..50 {
            let text = format!(
                "OPTIONS sip:{proxy} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKo{number};rport\r\n\
                 From: <sip:a@b>;tag=1\r\nTo: <sip:{proxy}>\r\nCall-ID: o{number}\r\nCSeq: 1 OPTIONS\r\n\
                 Max-Forwards: 9\r\nContent-Length: 0\r\n\r\n"
            );
            socket.send_to(text.as_bytes(), proxy).expect("sent");
            let mut answer = [0; 2048];
            let length = socket.recv(&mut answer).expect("an answer within a second");
            assert!(answer[..length].starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&answer[..length]));
        }
        waiting.into_iter().for_each(|thread| thread.join().expect("no panic"));
    });
    charged.ocs.command("fault off");
    charged.expect(100, 0, 0);
    charged.expect_rest();
}

#[test]
fn silent_server_leaves_no_wrong_balance() {
    let charged = Charged::new(&[], |setup| setup.parameter("hold_timeout", "5")).unjudged();
    let _server = charged.stage.server(&["one"], |_| {});
    // Watchdog requests are not answered either.
    charged.ocs.command("fault silent");
    flood(charged.stage.proxy.sip, 50, Duration::from_secs(6));
    charged.ocs.command("fault off");
    let mut granted = None;
    let invited = || {
        let mut client = charged.stage.client(ALICE, |_| {});
        granted = (client.invite() == 200).then_some(client);
        granted.is_some()
    };
    assert!(eventually(SOON, invited), "{}", charged.stage.proxy.log());
    let mut client = granted.expect("it is granted");
    client.bind();
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    charged.stage.until_debited(ALICE, 1);
    assert_eq!(client.bye(), 200);
    charged.expect(99, 0, 1);
    charged.expect_rest();
    assert!(charged.stage.proxy.statistic("ccr_timeouts") > 0);
    assert_eq!(charged.stage.proxy.statistic("engine_restarts"), 0);
}

#[test]
fn service_continues_without_a_server_up_to_the_cap_and_is_debited_later() {
    let charged = Charged::new(&[], |setup| {
        setup.parameter("on_failure", "\"grant\"").parameter("on_failure_cap", "20").parameter("tx_timeout", "1")
    });
    let _server = charged.stage.server(&["one"], |_| {});
    charged.ocs.command("kill 6000");
    let mut open: Vec<_> = (0..2).map(|_| charged.stage.bound(|_| {})).collect();
    for client in &mut open {
        assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
    }
    // Each session reserves ten; a third one would exceed the cap of the subscriber.
    assert_eq!(charged.stage.client(ALICE, |_| {}).invite(), 503);
    for client in &mut open {
        assert_eq!(client.bye(), 200);
    }
    charged.expect(98, 0, 2);
    charged.expect_rest();
    assert_eq!(charged.stage.proxy.statistic("event_ccrs"), 2, "debits without a reservation");
}

#[test]
fn debit_is_held_back_if_the_server_would_take_it_twice() {
    let charged = Charged::new(&["--no-duplicate-detection"], |setup| setup.parameter("resend", "\"hold\""));
    let _server = charged.stage.server(&["one"], |_| {});
    for (order, debited) in [("imcharge.outbox.release", 1), ("imcharge.outbox.resend", 3)] {
        // The server debits, but its answer is lost. It would debit a resent request again.
        charged.ocs.command("fault drop on=update times=1");
        let mut client = charged.stage.bound(|_| {});
        client.take(1, Reaction::Answer(200));
        let proxy = &charged.stage.proxy;
        let held = || proxy.rpc(&["imcharge.audit"]).unwrap_or_default().contains("held-back");
        assert!(eventually(SOON, held), "{}", proxy.log());
        proxy.rpc(&[order, &client.call_id]).expect("one is held back");
        assert!(proxy.rpc(&[order, &client.call_id]).expect_err("none any more").contains("404"));
        client.bye();
        charged.expect(100 - debited, 0, debited);
        charged.expect_rest();
    }
}

#[test]
fn late_answer_ends_the_holding_back_of_a_debit() {
    let charged = Charged::new(&["--no-duplicate-detection"], |setup| setup.parameter("resend", "\"hold\""));
    let _server = charged.stage.server(&["one"], |_| {});
    charged.ocs.command("fault delay=5s on=update times=1");
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    let proxy = &charged.stage.proxy;
    let held = || proxy.rpc(&["imcharge.audit"]).unwrap_or_default().contains("messageid");
    assert!(eventually(SOON, held), "{}", proxy.log());
    charged.stage.until_debited(ALICE, 1);
    assert!(!held());
    client.bye();
    charged.expect(99, 0, 1);
    charged.expect_rest();
}

/// Starts the OCS simulator with a certificate for this host, and a proxy that expects ocs.example.com.
pub fn start_over_tls(authority: &Authority, host: &str) -> (Ocs, Stage) {
    let text = |path: PathBuf| path.display().to_string();
    let (certificate, key) = authority.sign(host);
    let (account, certificate, key, ca) = (format!("{ALICE}=100"), text(certificate), text(key), text(authority.ca()));
    let options = ["--account", &account, "--tls-cert", &certificate, "--tls-key", &key, "--tls-ca", &ca];
    let ocs = Ocs::start(&program(), &options);
    let peer = format!("\"host=ocs.example.com;address={};transport=tls\"", ocs.diameter);
    let (certificate, key) = authority.sign("proxy.example.org");
    let quoted = |path: PathBuf| format!("\"{}\"", path.display());
    let stage = Stage::new(|setup| {
        let setup = setup.defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer);
        let setup = setup.parameter("tls_ca", &quoted(authority.ca())).parameter("tls_key", &quoted(key));
        setup.parameter("tls_certificate", &quoted(certificate))
    });
    (ocs, stage)
}

#[test]
fn tls_authenticates_both_sides() {
    let authority = Authority::new();
    let (ocs, stage) = start_over_tls(&authority, "ocs.example.com");
    // The capture cannot be decoded, because it is encrypted.
    let charged = Charged { ocs, stage, judged: None };
    charged.until_open();
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    client.bye();
    charged.expect(99, 0, 1);
    charged.expect_rest();
}

#[test]
fn certificate_for_another_name_is_refused_and_logged() {
    let authority = Authority::new();
    let (_ocs, stage) = start_over_tls(&authority, "evil.example.com");
    let logged = || stage.proxy.log().contains("not valid for name \"ocs.example.com\"");
    assert!(eventually(SOON, logged), "{}", stage.proxy.log());
    assert_eq!(open_peers(&stage), 0);
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503);
}

/// Sends INVITEs at this rate for this time from one socket, each with another Call-ID. The answers are not read.
pub fn flood(proxy: std::net::SocketAddr, rate: u32, lasts: Duration) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let own = socket.local_addr().expect("bound");
    let started = Instant::now();
    for number in 0..(f64::from(rate) * lasts.as_secs_f64()) as u32 {
        let due = started + Duration::from_secs_f64(f64::from(number) / f64::from(rate));
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        let text = format!(
            "INVITE sip:deferred@im.example.org SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKf{number};rport\r\n\
             From: {ALICE};tag=f{number}\r\nTo: <sip:deferred@im.example.org>\r\nCall-ID: f{number}\r\n\
             CSeq: 1 INVITE\r\nMax-Forwards: 9\r\nP-Asserted-Identity: <{ALICE}>\r\nContact: <sip:f@{own}>\r\n\
             Content-Length: 0\r\n\r\n"
        );
        socket.send_to(text.as_bytes(), proxy).expect("sent");
    }
}
