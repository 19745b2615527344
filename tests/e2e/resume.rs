//! Scripts that block: in the resume route for one caller, in all resume workers, in an event route.

use super::sessions::in_lua;
use super::{ALICE, HOST, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::{Host, Proxy, Setup};
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// Longest wait of callers whose script does not block.
const PROMPT: Duration = Duration::from_secs(2);

/// Subscriber without an account: the resume route answers 402 and no state of the call remains.
const OTHER_CALLER: &str = "sip:other@example.org";

/// Subscriber for which the resume route sleeps.
const SLOW: &str = "sip:slow@example.org";

/// Changes the shipped configuration so that the resume route sleeps for one caller.
fn sleeping(setup: Setup, seconds: u32) -> Setup {
    let (pv, begin, sleep) = match setup.host {
        Host::Kamailio => ("loadmodule \"pv.so\"", "route[CHARGED] {", format!("sleep(\"{seconds}\")")),
        Host::OpenSips => ("loadmodule \"tm.so\"", "route[CHARGED] {", format!("sleep({seconds})")),
    };
    setup
        .changed(pv, &format!("{pv}\nloadmodule \"cfgutils.so\""))
        .changed(begin, &format!("{begin}\n    if ($fU == \"slow\") {sleep};"))
}

/// Invites as a subscriber, in a transaction of this number.
fn invite(proxy: SocketAddr, socket: &UdpSocket, who: &str, number: u32) {
    let own = socket.local_addr().expect("bound");
    let text = format!(
        "INVITE sip:deferred@im.example.org SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKr{number};rport\r\n\
         From: <{who}>;tag=r{number}\r\nTo: <sip:deferred@im.example.org>\r\nCall-ID: r{number}\r\nCSeq: 1 INVITE\r\n\
         Max-Forwards: 9\r\nP-Asserted-Identity: <{who}>\r\nContact: <sip:r@{own}>\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send_to(text.as_bytes(), proxy).expect("sent");
}

/// Waits for the next final answer and acknowledges it. Returns the number of its transaction, and its status.
fn answer(proxy: SocketAddr, socket: &UdpSocket, until: Instant) -> Option<(u32, u16)> {
    let own = socket.local_addr().expect("bound");
    let mut octets = [0; 4096];
    loop {
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        socket.set_read_timeout(Some(left)).expect("a time-out can be set");
        let Ok(length) = socket.recv(&mut octets) else { continue };
        let text = String::from_utf8_lossy(&octets[..length]).into_owned();
        let header = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        let number = header("Call-ID: r").parse().ok();
        if let (Some(number), 200..) = (number, status) {
            let ack = format!(
                "ACK sip:deferred@im.example.org SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKr{number};rport\r\n\
                 From: {}\r\nTo: {}\r\nCall-ID: r{number}\r\nCSeq: 1 ACK\r\nMax-Forwards: 9\r\nContent-Length: 0\r\n\r\n",
                header("From:"),
                header("To:")
            );
            socket.send_to(ack.as_bytes(), proxy).expect("sent");
            return Some((number, status));
        }
    }
}

fn socket() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").expect("a socket")
}

/// Sends INVITEs at this rate, and asserts that each receives this final answer in time.
#[track_caller]
fn all_are_answered(proxy: &Proxy, rate: u32, lasts: Duration, wanted: u16) {
    let (sip, socket) = (proxy.sip, socket());
    let count = (f64::from(rate) * lasts.as_secs_f64()) as u32;
    // No two calls of one proxy have the same number.
    static FIRST: AtomicU32 = AtomicU32::new(1000);
    let first = FIRST.fetch_add(count, Ordering::Relaxed);
    let (started, step) = (Instant::now(), Duration::from_secs(1) / rate);
    let due = |number: u32| started + step * (number - first);
    let answers: Vec<_> = std::thread::scope(|scope| {
        scope.spawn(|| {
            for number in first..first + count {
                std::thread::sleep(due(number).saturating_duration_since(Instant::now()));
                invite(sip, &socket, OTHER_CALLER, number);
            }
        });
        let next = || answer(sip, &socket, due(first + count) + PROMPT).map(|answer| (answer, Instant::now()));
        std::iter::from_fn(next).take(count as usize).collect()
    });
    let late = answers.iter().map(|((number, _), at)| at.saturating_duration_since(due(*number)));
    let longest = late.max().unwrap_or_default();
    assert_eq!(answers.len(), count as usize, "each is answered once\n{}", proxy.log());
    assert!(longest < PROMPT, "one waited {longest:?}\n{}", proxy.log());
    let others: Vec<_> = answers.iter().filter(|((_, status), _)| *status != wanted).collect();
    assert!(others.is_empty(), "{others:?}\n{}", proxy.log());
}

/// Runs one whole retrieval.
fn retrieve(stage: &Stage, texts: usize) {
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(texts, Reaction::Answer(200)).len(), texts);
    assert_eq!(client.bye(), 200);
}

fn becomes(proxy: &Proxy, name: &str, value: i64) {
    let found = eventually(SOON, || proxy.statistic(name) == value);
    assert!(found, "{name} is {}\n{}", proxy.statistic(name), proxy.log());
}

#[test]
pub fn a_resume_route_that_blocks_for_one_caller_delays_no_other_call() {
    let stage = Stage::new(|setup| sleeping(setup, 15));
    let proxy = &stage.proxy;
    proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let slow = socket();
    invite(proxy.sip, &slow, SLOW, 1);
    becomes(proxy, "resume_workers_stuck", 1);
    all_are_answered(proxy, 150, Duration::from_secs(6), 402);
    retrieve(&stage, 1);
    stage.expect(ALICE, 99, 0, 1);
    // The log names the blocked call while it blocks and after that, and the call is answered once.
    assert_eq!(proxy.statistic("resume_workers_stuck"), 1, "{}", proxy.log());
    let log = proxy.log();
    let (process, route) = match HOST.get() {
        Host::Kamailio => ("imcharge resume", "route[CHARGED] for r1"),
        Host::OpenSips => ("process", "the resume route of imcharge_reserve() for r1"),
    };
    let names = |line: &str, end: &str| line.contains(process) && line.contains(&format!("{route} {end}"));
    assert_eq!(log.lines().filter(|line| names(line, "for more than a second")).count(), 1, "{log}");
    let until = Instant::now() + Duration::from_secs(20);
    assert_eq!(answer(proxy.sip, &slow, until), Some((1, 402)), "{}", proxy.log());
    becomes(proxy, "resume_workers_stuck", 0);
    let log = proxy.log();
    assert_eq!(log.lines().filter(|line| names(line, "after 15")).count(), 1, "{log}");
    let one = |name: &str| proxy.statistic(name);
    assert_eq!((one("slow_runs"), one("dropped_resume_busy"), one("dropped_verdicts")), (1, 0, 0));
    assert_eq!(answer(proxy.sip, &slow, Instant::now() + PROMPT), None, "it is not run again");
}

#[test]
fn a_lua_function_that_blocks_delays_no_other_call_and_is_named() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("kamailio-config/kamailio/kamailio.lua");
    let begin = "function ksr_charged()\n";
    let sleep = "    if KSR.pv.gete(\"$fU\") == \"slow\" then os.execute(\"sleep 6\") end\n";
    let text = fs::read_to_string(script).expect("readable");
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("kamailio.lua");
    fs::write(&script, text.replace(begin, &format!("{begin}{sleep}"))).expect("written");
    let stage = Stage::new(|setup| in_lua(setup).defined("LUA_SCRIPT", format!("\"{}\"", script.display())));
    let (proxy, slow) = (&stage.proxy, socket());
    invite(proxy.sip, &slow, SLOW, 1);
    becomes(proxy, "resume_workers_stuck", 1);
    all_are_answered(proxy, 100, Duration::from_secs(2), 402);
    let named = || proxy.log().contains("has been in ksr_charged() for r1 for more than a second");
    assert!(eventually(SOON, named), "{}", proxy.log());
    assert_eq!(answer(proxy.sip, &slow, Instant::now() + SOON), Some((1, 402)), "{}", proxy.log());
}

#[test]
fn blocked_resume_workers_refuse_invites_in_time_and_other_traffic_continues() {
    let tariff = "modparam(\"imcharge\", \"tariff\", TARIFF)";
    let timer = format!("{tariff}\nmodparam(\"tm\", \"fr_timer\", 4000)");
    let stage = Stage::new(|setup| sleeping(setup, 10).changed(tariff, &timer));
    let proxy = &stage.proxy;
    proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one", "two"], |_| {});
    let mut open = stage.bound(|_| {});
    let slow = socket();
    let verdicts = proxy.statistic("reserve_latency_count");
    (1..=2).for_each(|number| invite(proxy.sip, &slow, SLOW, number));
    becomes(proxy, "reserve_latency_count", verdicts + 2);
    // Suspended before the workers count as stuck: answered by tm's timer.
    let early = socket();
    invite(proxy.sip, &early, OTHER_CALLER, 3);
    becomes(proxy, "resume_workers_stuck", 2);
    all_are_answered(proxy, 100, Duration::from_secs(2), 503);
    assert_eq!(proxy.statistic("dropped_resume_busy"), 200);
    // Debits, releases, timers and commands need no script.
    assert_eq!(open.take(2, Reaction::Answer(200)).len(), 2);
    stage.until_debited(ALICE, 2);
    assert_eq!(open.bye(), 200);
    stage.expect(ALICE, 98, 0, 2);
    assert_eq!(proxy.statistic("resume_workers_stuck"), 2, "{}", proxy.log());
    let until = Instant::now() + Duration::from_secs(6);
    assert_eq!(answer(proxy.sip, &early, until), Some((3, 408)), "{}", proxy.log());
    let log = proxy.log();
    let lines = log.lines().filter(|line| line.contains("all 2 resume workers are stuck in the script"));
    assert_eq!(lines.count(), 1, "{log}");
    let until = Instant::now() + Duration::from_secs(15);
    let answers: Vec<_> = (0..2).filter_map(|_| answer(proxy.sip, &slow, until)).collect();
    assert_eq!(answers.iter().filter(|(_, status)| *status == 402).count(), 2, "{answers:?}\n{}", proxy.log());
    // The workers recover without help.
    becomes(proxy, "resume_workers_stuck", 0);
    all_are_answered(proxy, 100, Duration::from_secs(1), 402);
    retrieve(&stage, 2);
    stage.expect(ALICE, 96, 0, 4);
    assert_eq!((proxy.statistic("slow_runs"), proxy.statistic("engine_restarts")), (2, 0));
    assert_eq!(answer(proxy.sip, &early, Instant::now() + PROMPT), None, "its verdict came too late");
}

/// Changes the shipped configuration so that the event route sleeps at each debit and this many messages are reserved.
fn sleeping_at_debits(setup: Setup, micros: u32, messages: usize) -> Setup {
    let (pv, reserve, begin, sleep) = match setup.host {
        Host::Kamailio => (
            "loadmodule \"pv.so\"",
            ("\"CHARGED\", \"10\"", format!("\"CHARGED\", \"{messages}\"")),
            "event_route[imcharge:debited] {",
            format!("usleep(\"{micros}\")"),
        ),
        Host::OpenSips => (
            "loadmodule \"tm.so\"",
            ("imcharge_reserve(10)", format!("imcharge_reserve({messages})")),
            "event_route[E_IMCHARGE_DEBITED] {",
            format!("usleep({micros})"),
        ),
    };
    setup
        .changed(pv, &format!("{pv}\nloadmodule \"cfgutils.so\""))
        .changed(reserve.0, &reserve.1)
        .changed(begin, &format!("{begin}\n    {sleep};"))
}

/// Runs `clients` concurrent retrievals of `messages` each, and checks that INVITEs are answered in time.
fn debits_and_invites(stage: &Stage, clients: usize, messages: usize) {
    let paid = (clients * messages) as i64;
    stage.proxy.set_account(ALICE, 2 * paid);
    let _server = stage.server(&vec!["x"; messages], |_| {});
    std::thread::scope(|scope| {
        (0..clients).for_each(|_| drop(scope.spawn(|| retrieve(stage, messages))));
        all_are_answered(&stage.proxy, 20, Duration::from_secs(8), 402);
    });
    stage.until_debited(ALICE, paid as usize);
    stage.expect(ALICE, paid, 0, paid);
}

/// OpenSIPS runs event routes in the SIP processes; SIP continues in those that do not run one.
pub fn event_routes_of_ten_milliseconds_delay_no_invite_by_seconds() {
    let stage = Stage::new(|setup| sleeping_at_debits(setup, 10_000, 300));
    debits_and_invites(&stage, 5, 300);
}

/// OpenSIPS resumes an INVITE in the process that received it; this proxy has only one.
pub fn calls_of_a_blocked_process_are_answered_once_it_continues() {
    let stage = Stage::new(|setup| sleeping(setup, 6).changed("udp_workers=4", "udp_workers=1"));
    let (proxy, socket) = (&stage.proxy, socket());
    // Both are received before the script blocks for the first.
    (1..=2).for_each(|number| invite(proxy.sip, &socket, if number == 1 { SLOW } else { OTHER_CALLER }, number));
    becomes(proxy, "resume_workers_stuck", 1);
    (3..=5).for_each(|number| invite(proxy.sip, &socket, OTHER_CALLER, number));
    let mut answers: Vec<_> = (0..5).filter_map(|_| answer(proxy.sip, &socket, Instant::now() + SOON)).collect();
    answers.sort_unstable();
    assert_eq!(answers, [1, 2, 3, 4, 5].map(|number| (number, 402)), "{}", proxy.log());
    assert_eq!((proxy.statistic("slow_runs"), proxy.statistic("dropped_verdicts")), (1, 0));
}

#[test]
fn a_slow_event_route_delays_no_verdict_and_what_it_cannot_follow_is_skipped_and_counted() {
    const CLIENTS: usize = 10;
    const MESSAGES: usize = 600;
    let stage = Stage::new(|setup| sleeping_at_debits(setup, 1_500_000, MESSAGES));
    debits_and_invites(&stage, CLIENTS, MESSAGES);
    let (proxy, paid) = (&stage.proxy, (CLIENTS * MESSAGES) as i64);
    // For every debit, the event route has run, will run, or was skipped.
    let skipped = proxy.statistic("dropped_notifications");
    assert!(skipped > 0 && skipped < paid, "{skipped} of {paid}\n{}", proxy.log());
    becomes(proxy, "event_workers_stuck", 1);
    assert!(proxy.statistic("slow_runs") > 0);
    assert_eq!((proxy.statistic("resume_workers_stuck"), proxy.statistic("dropped_resume_busy")), (0, 0));
    let name = "imcharge events 1 has been in event_route[imcharge:debited] for call";
    assert!(proxy.log().contains(name), "{}", proxy.log());
}
