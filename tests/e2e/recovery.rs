//! Stalled processes: a hanging engine, and a pause of all processes (a container's freezer, a snapshot of the
//! machine). Service returns by itself, each waiting INVITE gets a final answer, and the money is right.

use super::diameter::Charged;
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::{ImClient, Reaction};
use std::time::{Duration, Instant};

/// Longest time to recover after the end of a fault.
const BACK: Duration = Duration::from_secs(10);

/// Sessions whose client has received a message and not answered it.
const SESSIONS: usize = 5;

fn open_sessions(stage: &Stage) -> Vec<ImClient> {
    let open = (0..SESSIONS).map(|_| {
        let mut client = stage.bound(|_| {});
        assert_eq!(client.take(1, Reaction::Silence).len(), 1);
        client
    });
    open.collect()
}

/// A retrieval, from the INVITE to the BYE.
fn retrieve(stage: &Stage) -> bool {
    let mut client = stage.client(ALICE, |_| {});
    if client.invite() != 200 {
        return false;
    }
    client.bind();
    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    client.bye() == 200
}

/// Waits for the final answer to an INVITE that was sent during a fault, and ends its session if it was accepted.
fn answered(mut client: ImClient, within: Duration) -> u16 {
    let status = client.final_response(within);
    if status == 200 {
        assert_eq!(client.bye(), 200);
    }
    status
}

#[test]
pub fn a_hanging_engine_is_replaced_and_so_is_its_successor() {
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "60"));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let proxy = &stage.proxy;
    let open = open_sessions(&stage);
    let mut waiting = 0;
    for restarts in 1..=2 {
        let engine = proxy.engine_pid().expect("an engine");
        proxy.signal("STOP", Some(engine));
        let client = stage.client(ALICE, |_| {});
        client.send_invite();
        // Nothing happens to it before its time, and then at once.
        let killed = || proxy.engine_pid() != Some(engine);
        assert!(eventually(BACK * 3, killed), "{}", proxy.log());
        let since = Instant::now();
        let granted = || retrieve(&stage);
        assert!(eventually(BACK, granted), "{}", proxy.log());
        assert!(since.elapsed() < Duration::from_secs(3), "back after {:?}", since.elapsed());
        let status = answered(client, BACK);
        assert!([200, 503].contains(&status), "{status}\n{}", proxy.log());
        waiting += i64::from(status == 200);
        assert_eq!(proxy.statistic("engine_restarts"), restarts);
    }
    assert!(waiting > 0, "an INVITE that waited for an engine is served by the next one");
    let log = proxy.log();
    assert_eq!(log.matches(" s and is killed").count(), 2, "{log}");
    for mut client in open {
        assert_eq!(client.bye(), 200);
    }
    let debited = SESSIONS as i64 + 2;
    stage.expect(ALICE, 100 - debited, 0, debited);
}

/// A retransmission of a pending or answered INVITE is not a new INVITE: it is not refused while the engine hangs.
#[test]
fn a_retransmission_has_no_second_answer_while_the_engine_is_down() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |options| options.rings = true);
    let proxy = &stage.proxy;
    let mut client = stage.client(ALICE, |_| {});
    client.send_invite();
    assert!(client.ringing(BACK), "{}", proxy.log());
    proxy.signal("STOP", proxy.engine_pid());
    assert!(eventually(BACK, || proxy.statistic("engine_up") == 0));
    client.send_invite();
    client.cancel();
    assert_eq!(client.final_response(BACK), 487, "{}", proxy.log());
    stage.expect(ALICE, 100, 0, 0);
}

/// The network, or the proxy's own socket after a pause, may hold several copies of an INVITE. The decision about the first
/// one holds for the others: otherwise the client is refused, and a copy opens a session without a client.
#[test]
pub fn copies_of_a_refused_invite_reserve_nothing_once_the_engine_is_back() {
    let stage = Stage::plain();
    let _server = stage.server(&["one"], |_| {});
    let proxy = &stage.proxy;
    let engine = proxy.engine_pid();
    proxy.signal("STOP", engine);
    assert!(eventually(BACK, || proxy.statistic("engine_up") == 0), "{}", proxy.log());
    let mut client = stage.client(ALICE, |_| {});
    client.send_invite();
    let refused = format!("no charging for {}: -2", client.call_id);
    assert!(eventually(BACK, || proxy.log().contains(&refused)), "{}", proxy.log());
    proxy.signal("CONT", engine);
    assert!(eventually(BACK, || proxy.statistic("engine_up") == 1), "{}", proxy.log());
    client.send_invite();
    // The refusal is sent again for the copy, and because it was not acknowledged.
    let mut statuses = std::iter::repeat_with(|| client.response(BACK)).filter(|status| *status >= 200);
    assert_eq!([(); 3].map(|()| statuses.next()), [Some(503); 3], "{}", proxy.log());
    assert_eq!(client.final_response(BACK), 503);
    assert_eq!(proxy.statistic("reserves"), 0, "{}", proxy.log());
    assert!(eventually(BACK, || retrieve(&stage)), "a new INVITE is charged\n{}", proxy.log());
    stage.expect(ALICE, 99, 0, 1);
}

/// Pauses all processes of a proxy for this time under traffic. Returns the number of messages debited in the end.
fn pause(stage: &Stage, span: Duration) -> i64 {
    let proxy = &stage.proxy;
    let _server = stage.server(&["one"], |_| {});
    let open = open_sessions(stage);
    let engine = proxy.engine_pid().expect("an engine");
    // Some INVITEs are pending, others arrive while the engine is down.
    let early: Vec<ImClient> = (0..3).map(|_| stage.client(ALICE, |_| {})).collect();
    early.iter().for_each(ImClient::send_invite);
    proxy.signal("STOP", None);
    // Their MSRP connections exist already: none is accepted now.
    std::thread::sleep(span);
    early.iter().for_each(ImClient::send_invite);
    proxy.signal("CONT", None);
    let since = Instant::now();
    assert!(eventually(BACK, || retrieve(stage)), "{}", proxy.log());
    assert!(since.elapsed() < BACK, "back after {:?}", since.elapsed());
    for client in early {
        let status = answered(client, BACK * 4);
        assert_ne!(status, 408, "an INVITE without a final answer\n{}", proxy.log());
    }
    for mut client in open {
        // Its time for the response may have ended meanwhile, and the session with `hold_timeout`.
        client.bye();
    }
    assert_eq!(proxy.engine_pid(), Some(engine), "the engine was not the one at fault\n{}", proxy.log());
    assert_eq!(proxy.statistic("engine_restarts"), 0);
    SESSIONS as i64 + 1
}

fn pause_with_the_ledger(span: Duration) {
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "60"));
    stage.proxy.set_account(ALICE, 100);
    let debited = pause(&stage, span);
    stage.expect(ALICE, 100 - debited, 0, debited);
}

fn pause_with_an_ocs(span: Duration) {
    let charged = Charged::new(&[], |setup| setup.defined("RESPONSE_TIMEOUT", "60")).unjudged();
    let debited = pause(&charged.stage, span);
    charged.expect(100 - debited, 0, debited);
    charged.expect_rest();
}

#[test]
pub fn a_pause_of_15_seconds_ends_nothing() {
    pause_with_the_ledger(Duration::from_secs(15));
}

#[test]
fn a_pause_of_15_seconds_ends_nothing_at_an_ocs() {
    pause_with_an_ocs(Duration::from_secs(15));
}

#[test]
fn a_pause_of_two_minutes_loses_nothing() {
    let span = Duration::from_secs(120);
    std::thread::scope(|scope| {
        let cases = [pause_with_the_ledger, pause_with_an_ocs].map(|case| scope.spawn(move || case(span)));
        for case in cases {
            case.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}
