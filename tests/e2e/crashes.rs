//! Processes that die, and the end of the proxy.

use super::{ALICE, Stage, subscriber};
use imcharge_testkit::parties::client::{ImClient, Options as ClientOptions, Reaction};
use imcharge_testkit::{Events, eventually};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
pub fn a_killed_engine_is_back_within_a_second_and_nothing_is_lost() {
    const SESSIONS: usize = 120;
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "20"));
    let _server = stage.server(&["one", "two", "three"], |_| {});
    let everyone: Vec<String> = (0..SESSIONS).map(|_| subscriber()).collect();
    everyone.iter().for_each(|id| stage.proxy.set_account(id, 10));
    let (done, absences) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        let sessions: Vec<_> = everyone
            .chunks(SESSIONS / 8)
            .map(|mine| {
                let (proxy, relay) = (stage.proxy.sip, stage.proxy.msrp);
                scope.spawn(move || {
                    for id in mine {
                        let options = ClientOptions::new(proxy, relay, id);
                        let mut client = ImClient::new(options, Events::default()).expect("a connection");
                        assert_eq!(client.invite(), 200);
                        client.bind();
                        assert_eq!(client.take(3, Reaction::Answer(200)).len(), 3);
                        assert_eq!(client.bye(), 200);
                    }
                })
            })
            .collect();
        let (stage, done, absences) = (&stage, &done, &absences);
        scope.spawn(move || {
            while !done.load(Ordering::Relaxed) {
                let Some(engine) = stage.proxy.engine_pid() else { continue };
                stage.proxy.signal("KILL", Some(engine));
                let killed = Instant::now();
                let back =
                    eventually(Duration::from_secs(5), || stage.proxy.engine_pid().is_some_and(|pid| pid != engine));
                assert!(back, "the engine does not come back\n{}", stage.proxy.log());
                absences.lock().expect("no holder panics").push(killed.elapsed());
                // Some traffic between two kills.
                let seen = stage.proxy.statistic("frames");
                eventually(Duration::from_millis(700), || stage.proxy.statistic("frames") > seen + 60);
            }
        });
        let failed = sessions.into_iter().filter_map(|session| session.join().err()).count();
        done.store(true, Ordering::Relaxed);
        assert_eq!(failed, 0, "sessions failed while the engine was killed\n{}", stage.proxy.log());
    });
    let mut absences = absences.into_inner().expect("no holder panics");
    absences.sort();
    assert!(absences.len() >= 2, "the engine was hardly killed");
    // The median: a busy machine may hold up one of them.
    assert!(absences[absences.len() / 2] < Duration::from_secs(1), "{absences:?}");
    for id in &everyone {
        stage.expect(id, 7, 0, 3);
    }
    assert_eq!(stage.proxy.count("SELECT count(*) FROM debits"), 3 * SESSIONS as i64);
}

#[test]
pub fn after_kill_9_of_everything_each_open_session_is_settled_once() {
    const SESSIONS: usize = 1000;
    let mut stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    let server = stage.server(&["one"], |_| {});
    let everyone: Vec<String> = (0..SESSIONS).map(|_| subscriber()).collect();
    everyone.iter().for_each(|id| stage.proxy.set_account(id, 10));
    // Every second one has taken a message and not answered it.
    let open: Vec<ImClient> = std::thread::scope(|scope| {
        let parts: Vec<_> = everyone
            .chunks(SESSIONS / 10)
            .map(|mine| {
                let (proxy, relay) = (stage.proxy.sip, stage.proxy.msrp);
                scope.spawn(move || {
                    let mut open = Vec::new();
                    for (at, id) in mine.iter().enumerate() {
                        let options = ClientOptions::new(proxy, relay, id);
                        let mut client = ImClient::new(options, Events::default()).expect("a connection");
                        assert_eq!(client.invite(), 200);
                        if at % 2 == 0 {
                            client.bind();
                            assert_eq!(client.take(1, Reaction::Silence).len(), 1);
                        }
                        open.push(client);
                    }
                    open
                })
            })
            .collect();
        parts.into_iter().flat_map(|part| part.join().expect("all sessions open")).collect()
    });
    assert_eq!(stage.proxy.statistic("sessions_active"), SESSIONS as i64);
    stage.proxy.kill_all();
    stage.proxy.restart().unwrap_or_else(|error| panic!("{error}"));
    for (at, id) in everyone.iter().enumerate() {
        let debited = i64::from((at % (SESSIONS / 10)).is_multiple_of(2));
        stage.expect(id, 10 - debited, 0, debited);
    }
    let settled = "SELECT count(*) FROM debits WHERE trigger='close'";
    assert_eq!(stage.proxy.count(settled), SESSIONS as i64 / 2);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM holds"), 0);
    assert_eq!(stage.proxy.statistic("sessions_active"), 0);
    drop((open, server));
}

#[test]
pub fn sigterm_ends_it_within_five_seconds_and_settles_what_is_open() {
    let mut stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut taken = stage.bound(|_| {});
    assert_eq!(taken.take(1, Reaction::Silence).len(), 1);
    let mut idle = stage.client(ALICE, |_| {});
    assert_eq!(idle.invite(), 200);
    stage.expect(ALICE, 80, 20, 0);
    let (status, took) = stage.proxy.terminate();
    assert!(status.is_some_and(|status| status.success()), "{status:?}\n{}", stage.proxy.log());
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    stage.expect(ALICE, 99, 0, 1);
    assert_eq!(stage.proxy.engine_pid(), None, "the engine outlives its proxy");
}

#[test]
fn a_second_proxy_on_the_same_ledger_is_refused() {
    let stage = Stage::plain();
    let state = stage.proxy.state_dir();
    let second = std::panic::catch_unwind(|| {
        Stage::new(|setup| {
            setup.changed("\"state_dir\", STATE_DIR", &format!("\"state_dir\", \"{}\"", state.display()))
        })
    });
    let error = *second.err().expect("it must not start").downcast::<String>().expect("a sentence");
    assert!(error.contains("another proxy uses the state directory"), "{error}");
    stage.expect(ALICE, 100, 0, 0);
}
