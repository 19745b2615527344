//! Failures of charging systems that operators have reported for other products. Each case ends with correct accounts on
//! both sides.

use super::diameter::{Charged, flood};
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(30);

/// Sends OPTIONS to the proxy until `stop` is set. Returns the response times, shortest first.
fn options_latencies(proxy: SocketAddr, stop: &AtomicBool) -> Vec<Duration> {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a time-out can be set");
    let own = socket.local_addr().expect("bound");
    let mut latencies = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let number = latencies.len();
        let text = format!(
            "OPTIONS sip:{proxy} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKo{number};rport\r\n\
             From: <sip:a@b>;tag=1\r\nTo: <sip:{proxy}>\r\nCall-ID: o{number}\r\nCSeq: 1 OPTIONS\r\n\
             Max-Forwards: 9\r\nContent-Length: 0\r\n\r\n"
        );
        let (asked, mut answer) = (Instant::now(), [0; 2048]);
        socket.send_to(text.as_bytes(), proxy).expect("sent");
        let length = socket.recv(&mut answer).expect("an answer within two seconds");
        latencies.push(asked.elapsed());
        assert!(answer[..length].starts_with(b"SIP/2.0 200"), "{}", String::from_utf8_lossy(&answer[..length]));
        std::thread::sleep(Duration::from_millis(10));
    }
    latencies.sort();
    latencies
}

/// Returns the 99th percentile.
fn p99(latencies: &[Duration]) -> Duration {
    latencies[latencies.len() * 99 / 100]
}

#[test]
fn a_minute_of_silence_under_load_slows_nothing_else_and_service_is_back_at_once() {
    let charged = Charged::new(&[], |setup| setup.parameter("hold_timeout", "10")).unjudged();
    let _server = charged.stage.server(&["one"], |_| {});
    let (proxy, stop) = (charged.stage.proxy.sip, AtomicBool::new(false));
    charged.ocs.command("fault lose");
    let latencies = std::thread::scope(|scope| {
        let asking = scope.spawn(|| options_latencies(proxy, &stop));
        flood(proxy, 500, Duration::from_secs(60));
        stop.store(true, Ordering::Relaxed);
        asking.join().expect("every OPTIONS is answered")
    });
    charged.ocs.command("fault off");
    let back = Instant::now();
    let granted = || charged.stage.client(ALICE, |_| {}).invite() == 200;
    assert!(eventually(SOON, granted), "{}", charged.stage.proxy.log());
    assert!(back.elapsed() < Duration::from_secs(2), "{:?}", back.elapsed());
    assert!(latencies.len() > 1000, "{} OPTIONS in a minute", latencies.len());
    assert!(p99(&latencies) < Duration::from_millis(20), "p99 of OPTIONS: {:?}", p99(&latencies));
    // Reservations of the silent period are released, a thousand per second; later sessions end by `hold_timeout`.
    let proxy = &charged.stage.proxy;
    assert!(eventually(SOON * 6, || proxy.statistic("sessions_active") == 0), "{}", proxy.log());
    charged.expect(100, 0, 0);
    charged.expect_rest();
    assert_eq!(proxy.statistic("engine_restarts"), 0);
}

#[test]
fn waiting_requests_reach_a_returning_server_gradually() {
    const SESSIONS: u32 = 3000;
    let charged = Charged::new(&[], |setup| setup.parameter("hold_timeout", "5").parameter("tx_timeout", "600"));
    let charged = charged.unjudged();
    let _server = charged.stage.server(&[], |_| {});
    charged.ocs.command(&format!("account {ALICE}=1000000"));
    charged.ocs.command("fault lose on=termination");
    flood(charged.stage.proxy.sip, 500, Duration::from_secs((SESSIONS / 500).into()));
    // Every session has ended, and no peer answers.
    let ended = || charged.ocs.counter("lost") >= u64::from(SESSIONS);
    assert!(eventually(SOON * 2, ended), "{} of {SESSIONS}", charged.ocs.counter("lost"));
    charged.ocs.command("fault off");
    let before = charged.ocs.counter("termination");
    let engine = charged.stage.proxy.engine_pid().expect("an engine");
    charged.stage.proxy.signal("KILL", Some(engine));
    assert!(eventually(SOON, || charged.ocs.counter("termination") > before), "{}", charged.stage.proxy.log());
    let begun = Instant::now();
    // A new reservation is answered at once meanwhile.
    let mut client = charged.stage.client(ALICE, |_| {});
    assert!(eventually(SOON, || client.invite() == 200), "{}", charged.stage.proxy.log());
    assert!(!charged.ocs.sessions().is_empty());
    client.bye();
    charged.expect(1_000_000, 0, 0);
    assert!(begun.elapsed() > Duration::from_secs(2), "{SESSIONS} in {:?}", begun.elapsed());
    charged.expect_rest();
}

#[test]
fn debits_survive_the_end_of_the_proxy_while_the_server_is_away() {
    const SESSIONS: i64 = 10;
    let mut charged = Charged::plain();
    let server = charged.stage.server(&["one"], |_| {});
    charged.ocs.command(&format!("account {ALICE}=1000"));
    let mut open: Vec<_> = (0..SESSIONS).map(|_| charged.stage.bound(|_| {})).collect();
    charged.expect(1000 - 10 * SESSIONS, 10 * SESSIONS, 0);
    charged.ocs.command("kill 6000");
    for client in &mut open {
        assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1);
        client.bye();
    }
    let waits = || charged.stage.proxy.statistic("outbox_depth") == SESSIONS;
    assert!(eventually(SOON, waits), "{}", charged.stage.proxy.log());
    charged.stage.proxy.kill_all();
    drop((open, server));
    charged.stage.proxy.restart().expect("it starts again");
    // Each debit waits for its next attempt, for up to half a minute.
    charged.ocs.account_becomes(ALICE, (1000 - SESSIONS, 0, SESSIONS), SOON * 2);
    charged.expect(1000 - SESSIONS, 0, SESSIONS);
    charged.expect_rest();
    assert_eq!(charged.stage.proxy.debits(ALICE).len(), SESSIONS as usize);
}

#[test]
fn a_stop_while_the_server_is_silent_takes_seconds_and_loses_nothing() {
    const SESSIONS: i64 = 10;
    let mut charged = Charged::new(&[], |setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    let server = charged.stage.server(&["one"], |_| {});
    charged.ocs.command(&format!("account {ALICE}=1000"));
    let mut open: Vec<_> = (0..SESSIONS).map(|_| charged.stage.bound(|_| {})).collect();
    for client in &mut open {
        assert_eq!(client.take(1, Reaction::Silence).len(), 1);
    }
    charged.expect(1000 - 10 * SESSIONS, 10 * SESSIONS, 0);
    charged.ocs.command("fault lose");
    let (ended, after) = charged.stage.proxy.terminate();
    assert!(ended.is_some_and(|status| status.success()) && after < Duration::from_secs(6), "{ended:?} {after:?}");
    drop((open, server));
    charged.ocs.command("fault off");
    charged.stage.proxy.restart().expect("it starts again");
    charged.expect(1000 - SESSIONS, 0, SESSIONS);
    charged.expect_rest();
}

#[test]
fn a_termination_follows_a_refusal_only_where_the_command_says_success() {
    let charged = Charged::plain();
    let statistic = |name: &str| charged.stage.proxy.statistic(name);
    for fault in ["refuse=4012", "refuse=4010", "refuse=5030", "refuse=5031", "protocol-error=3004"] {
        charged.ocs.command(&format!("fault {fault} on=initial"));
        let refused = charged.stage.client(ALICE, |_| {}).invite();
        assert!([402, 503].contains(&refused), "{fault}: {refused}");
        charged.ocs.command("fault off");
    }
    charged.expect(100, 0, 0);
    charged.expect_rest();
    let before = statistic("initial_ccrs");
    assert_eq!(statistic("final_ccrs"), 0);
    // The command succeeds, but the service in it is refused (RFC 8506, 8.16).
    charged.ocs.command("fault refuse-mscc=4012 on=initial");
    assert_eq!(charged.stage.client(ALICE, |_| {}).invite(), 402);
    charged.expect_rest();
    charged.expect(100, 0, 0);
    assert_eq!(statistic("final_ccrs"), statistic("initial_ccrs") - before);
}

#[test]
fn after_an_abort_of_the_server_no_message_passes() {
    let charged = Charged::plain();
    let server = charged.stage.server(&["one", "two"], |_| {});
    let mut client = charged.stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 200);
    let session = charged.ocs.sessions().pop().expect("a session");
    charged.ocs.command(&format!("asr {session}"));
    charged.expect_rest();
    client.bind();
    assert!(eventually(SOON, || server.refused() == 2), "{}", charged.stage.proxy.log());
    assert_eq!(client.bye(), 200);
    charged.expect(100, 0, 0);
    charged.expect_rest();
}

#[test]
fn an_engine_killed_between_a_debit_and_its_answer_debits_once() {
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    for debited in 1..=5 {
        // The server debits, but its answer is lost.
        charged.ocs.command("fault drop on=update times=1");
        let mut client = charged.stage.bound(|_| {});
        client.take(1, Reaction::Answer(200));
        charged.expect(100 - debited - 9, 9, debited);
        let engine = charged.stage.proxy.engine_pid().expect("an engine");
        charged.stage.proxy.signal("KILL", Some(engine));
        charged.stage.until_debited(ALICE, debited as usize);
        client.bye();
        charged.expect(100 - debited, 0, debited);
        // The next engine has resent requests that the server had executed, with the T flag.
        let (again, marked) = (charged.ocs.counter("duplicates"), charged.ocs.counter("retransmitted"));
        assert!(again >= debited as u64 && marked >= again, "{again} duplicates, {marked} requests with the T flag");
    }
    assert_eq!(charged.stage.proxy.debits(ALICE).len(), 5);
    charged.expect_rest();
}

#[test]
fn a_server_that_never_was_refuses_by_policy_and_the_proxy_serves() {
    let stage = Stage::new(|setup| {
        let peer = "\"host=ocs.example.com;address=127.0.0.1:1\"";
        setup.defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer)
    });
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503);
    let log = stage.proxy.log();
    assert!(log.contains("enabler-unreachable") && log.contains("connection refused"), "{log}");
    let peers = stage.proxy.rpc(&["imcharge.peers"]).expect("peers");
    assert!(peers.contains("last_error"), "{peers}");
}

#[test]
fn connections_that_keep_breaking_delay_no_call() {
    let charged = Charged::new(&[], |setup| setup.parameter("hold_timeout", "5")).unjudged();
    let _server = charged.stage.server(&["one"], |_| {});
    let (done, proxy) = (AtomicBool::new(false), charged.stage.proxy.sip);
    charged.ocs.command(&format!("account {ALICE}=1000000"));
    let latencies = std::thread::scope(|scope| {
        let asking = scope.spawn(|| options_latencies(proxy, &done));
        scope.spawn(|| flood(proxy, 200, Duration::from_secs(10)));
        let breaking = Instant::now();
        while breaking.elapsed() < Duration::from_secs(10) {
            charged.ocs.command("kill 0");
            charged.until_open();
        }
        done.store(true, Ordering::Relaxed);
        asking.join().expect("every OPTIONS is answered")
    });
    assert!(latencies.len() > 200, "{} OPTIONS in ten seconds", latencies.len());
    // Sessions of the flood get no ACK: they end after `hold_timeout` without activity.
    let mut client = charged.stage.bound(|_| {});
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", charged.stage.proxy.log());
    client.bye();
    let proxy = &charged.stage.proxy;
    assert!(eventually(SOON * 4, || proxy.statistic("sessions_active") == 0), "{}", proxy.log());
    charged.expect(999_999, 0, 1);
    charged.expect_rest();
    assert_eq!(proxy.statistic("engine_restarts"), 0);
}

#[test]
fn bye_directly_after_200_settles_once() {
    const SESSIONS: usize = 400;
    let charged = Charged::plain();
    let _server = charged.stage.server(&["one"], |_| {});
    charged.ocs.command(&format!("account {ALICE}=100000"));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..SESSIONS / 4 {
                    let mut client = charged.stage.client(ALICE, |_| {});
                    assert_eq!(client.invite(), 200);
                    assert_eq!(client.bye(), 200);
                }
            });
        }
    });
    charged.expect(100_000, 0, 0);
    charged.expect_rest();
    let statistic = |name: &str| charged.stage.proxy.statistic(name);
    assert_eq!((statistic("initial_ccrs"), statistic("final_ccrs")), (SESSIONS as i64, SESSIONS as i64));
}

#[test]
fn all_refused_leaves_nothing_open() {
    let charged = Charged::plain();
    charged.ocs.command(&format!("account {ALICE}=0"));
    for _ in 0..200 {
        assert_eq!(charged.stage.client(ALICE, |_| {}).invite(), 402);
    }
    charged.expect(0, 0, 0);
    charged.expect_rest();
    assert_eq!(charged.stage.proxy.statistic("sessions_active"), 0);
}
