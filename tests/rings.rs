//! Region, workers and engine in one process: how hooks behave while the engine is slow, down or full.

use imcharge::admin::commands;
use imcharge::admin::commands::Value;
use imcharge::charge::ch2::SessionKey;
use imcharge::charge::event::{Entry, Event, ServerTransaction, Suspended};
use imcharge::charge::service::ChargedContent;
use imcharge::config::Config;
use imcharge::engine;
use imcharge::engine::preflight;
use imcharge::shm::clock;
use imcharge::shm::notification::{Kind, NotificationReader, Outcome};
use imcharge::shm::record::Record;
use imcharge::shm::region::Region;
use imcharge::shm::statistic::Statistic;
use imcharge::worker::sip_input::{Body, Dialog, Frame, Invite, InviteKey, Method, Reply, Request};
use imcharge::worker::{FrameDecision, InviteRefusal, PageOutcome, RequestDecision, Worker};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const ALICE: &str = "sip:alice@example.org";

fn region(state: &tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Arc<Region> {
    let mut config = Config { state_dir: state.path().to_owned(), ..Config::default() };
    config.default_balance = Some(1_000_000);
    config.max_sessions = 20_000;
    change(&mut config);
    preflight::create_region(config, 4).unwrap_or_else(|error| panic!("{error}"))
}

/// Stops the engine when dropped, also after a failed assertion: the scope waits for the engine's thread.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the engine in a thread while `work` runs.
fn with_engine<R>(region: &Arc<Region>, work: impl FnOnce() -> R) -> R {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let engine = scope.spawn(|| engine::run(region, &stop).unwrap_or_else(|error| panic!("{error}")));
        let result = {
            let _stop = Stop(&stop);
            work()
        };
        engine.join().expect("the engine does not panic");
        result
    })
}

fn invite(worker: &mut Worker, call_id: &str) -> Result<SessionKey, InviteRefusal> {
    invite_in(worker, call_id, Suspended::default())
}

/// Sends an INVITE of this transaction.
fn invite_in(worker: &mut Worker, call_id: &str, suspended: Suspended) -> Result<SessionKey, InviteRefusal> {
    invite_as(worker, InviteKey { call_id: call_id.as_bytes(), from_tag: b"f", cseq: 1 }, suspended)
}

fn invite_as(worker: &mut Worker, key: InviteKey<'_>, suspended: Suspended) -> Result<SessionKey, InviteRefusal> {
    worker.reserve(&Invite {
        key,
        asserted: [b"<sip:alice@example.org>", b""],
        from: b"",
        called_party: b"",
        request_uri: b"sip:im@example.org",
        subscriber: b"",
        direction: None,
        charging_vector: b"",
        messages: 1,
        content: ChargedContent::Received,
        recipients: 0,
        tariff: b"",
        offer: Body::default(),
        suspended,
    })
}

/// Takes this number of verdicts, all of them granted, and returns their sessions.
fn verdicts(region: &Arc<Region>, count: usize) -> HashSet<SessionKey> {
    let mut queues: Vec<NotificationReader> = (0..region.resume_workers())
        .map(|at| NotificationReader::attach(region, at).expect("not attached yet"))
        .collect();
    let mut granted = HashSet::new();
    let started = Instant::now();
    while granted.len() < count && started.elapsed() < Duration::from_secs(30) {
        for queue in &mut queues {
            queue.wait(Duration::from_millis(1));
            while queue.next(|notification| {
                let fine = matches!(notification.kind, Kind::Verdict { result: Outcome::Granted, .. });
                assert!(
                    fine && granted.insert(notification.session),
                    "a verdict twice or not granted: {notification:?}"
                );
            }) {}
        }
    }
    granted
}

/// Takes this number of verdicts. Returns transaction, outcome and reason of each, in the order of the transactions.
fn reasons(region: &Arc<Region>, count: usize) -> Vec<(u64, Outcome, String)> {
    let mut queues: Vec<NotificationReader> = (0..region.resume_workers())
        .map(|at| NotificationReader::attach(region, at).expect("not attached yet"))
        .collect();
    let mut found = Vec::new();
    assert!(eventually(|| {
        for queue in &mut queues {
            while queue.next(|notification| {
                let Kind::Verdict { suspended, result, .. } = notification.kind else { panic!("{notification:?}") };
                found.push((suspended.index, result, notification.reason.to_owned()));
            }) {}
        }
        found.len() == count
    }));
    found.sort_by_key(|verdict| verdict.0);
    found
}

/// Returns a number of the answer to `account.get`; -1: there is none.
fn account(worker: &mut Worker, field: &str) -> i64 {
    let region = Arc::clone(worker.region());
    let Ok(Value::Structure(fields)) = commands::run("account.get", &[ALICE], &region, worker) else { return -1 };
    let found = fields.into_iter().find(|(name, _)| *name == field);
    found.map_or(-1, |(_, value)| if let Value::Integer(number) = value { number } else { -1 })
}

fn eventually(mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(15) {
        if done() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}

/// Sends a MESSAGE of 100 octets. Returns its session and its transaction.
fn message(worker: &mut Worker, index: u64) -> (SessionKey, Option<ServerTransaction>) {
    let (call_id, suspended) = (format!("page{index}"), Suspended { index, ..Suspended::default() });
    let message = Invite {
        key: InviteKey { call_id: call_id.as_bytes(), from_tag: b"f", cseq: 1 },
        asserted: [b"<sip:alice@example.org>", b""],
        from: b"",
        called_party: b"",
        request_uri: b"sip:bob@example.org",
        subscriber: b"",
        direction: None,
        charging_vector: b"",
        messages: 0,
        content: ChargedContent::Received,
        recipients: 0,
        tariff: b"",
        offer: Body::default(),
        suspended,
    };
    let body = Body { content_type: b"text/plain", bytes: &[b'x'; 100] };
    let content = worker.can_reserve_page(&message, &body).expect("the engine runs").expect("a text is charged");
    (worker.reserve_page(&message, content).expect("the ring has room"), Some(suspended.transaction()))
}

#[test]
fn message_is_charged_by_the_outcome_of_its_own_transaction() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("the first process");
    with_engine(&region, || {
        assert!(eventually(|| region.engine_is_up()));
        let pages: Vec<_> = (1..=3).map(|index| message(&mut worker, index)).collect();
        assert_eq!(verdicts(&region, 3).len(), 3);
        assert_eq!((account(&mut worker, "held"), region.statistic(Statistic::Messages)), (3, 3));
        let other = Some(Suspended { index: 9, ..Suspended::default() }.transaction());
        assert!(worker.page_ended(pages[0].0, other, PageOutcome::Failed(482)), "it ends nothing");
        for ((session, transaction), outcome) in
            pages.iter().zip([PageOutcome::Delivered(200), PageOutcome::Failed(404), PageOutcome::Unanswered])
        {
            assert!(worker.page_ended(*session, *transaction, outcome));
        }
        assert!(eventually(|| account(&mut worker, "debited") == 2 && account(&mut worker, "held") == 0));
        assert!(eventually(|| region.statistic(Statistic::SessionsActive) == 0));
    });
}

#[test]
fn full_ring_refuses_new_sessions_and_keeps_room_for_their_ends() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    let mut taken = HashSet::new();
    let refused = loop {
        match invite(&mut worker, &format!("call{}", taken.len())) {
            Ok(session) => assert!(taken.insert(session)),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, InviteRefusal::Full);
    assert!(taken.len() > 1000, "{}", taken.len());
    assert!(region.statistic(Statistic::DroppedRingFull) >= 1);
    // The ends of the sessions still find room.
    let before = region.statistic(Statistic::DroppedRingFull);
    for session in taken.iter().take(500) {
        worker.cancelled(*session, None);
    }
    assert_eq!(region.statistic(Statistic::DroppedRingFull), before);
    with_engine(&region, || {
        assert_eq!(verdicts(&region, taken.len()), taken);
        assert!(invite(&mut worker, "after").is_ok());
    });
    // The stopping engine settles all sessions: nothing is held or used.
    assert_eq!(account(&mut worker, "held"), 0);
    assert_eq!(account(&mut worker, "balance"), 1_000_000);
}

#[test]
fn merged_invite_is_reported_and_its_failure_ends_nothing() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let (mut worker, mut other) =
        (Worker::attach(&region, 0).expect("not attached yet"), Worker::attach(&region, 1).expect("not attached yet"));
    let [first, second] = [1, 2].map(|number| Suspended { index: number, label: number, continuation: 0 });
    let session = Worker::session_of_invite(&InviteKey { call_id: b"merged", from_tag: b"f", cseq: 1 });
    // The failure of the second, reported by another process, may be read before both INVITEs.
    other.failed(session, Some(second.transaction()), 408);
    for suspended in [first, second] {
        assert_eq!(invite_in(&mut worker, "merged", suspended), Ok(session));
    }
    other.cancelled(session, Some(second.transaction()));
    with_engine(&region, || {
        let reasons = reasons(&region, 2);
        assert_eq!(reasons, [(1, Outcome::Granted, String::new()), (2, Outcome::Failed, "merged".into())]);
        assert_eq!((region.statistic(Statistic::SessionsActive), account(&mut worker, "held")), (1, 1));
        worker.failed(session, Some(first.transaction()), 486);
        assert!(eventually(|| region.statistic(Statistic::SessionsActive) == 0));
        assert_eq!(account(&mut worker, "held"), 0);
    });
    drop((worker, other, region));
    // After a restart of the host it is another transaction, even with equal numbers.
    let region = self::region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    assert_eq!(invite_in(&mut worker, "merged", first), Ok(session));
    with_engine(&region, || assert_eq!(reasons(&region, 1), [(1, Outcome::Failed, "merged".into())]));
}

/// Sends the INVITE of a chat in which both parties pay for what they send.
fn invite_to_chat(worker: &mut Worker, parties: [&[u8]; 2], offer: &str) {
    let [inviting, called] = parties;
    let chat = Invite {
        key: InviteKey { call_id: b"chat", from_tag: b"f", cseq: 1 },
        asserted: [inviting, b""],
        from: b"",
        called_party: b"",
        request_uri: called,
        subscriber: b"",
        direction: None,
        charging_vector: b"",
        messages: 1,
        content: ChargedContent::Both,
        recipients: 0,
        tariff: b"",
        offer: sdp(offer),
        suspended: Suspended { index: 1, ..Suspended::default() },
    };
    worker.reserve(&chat).expect("room");
}

fn sdp(text: &str) -> Body<'_> {
    Body { content_type: b"application/sdp", bytes: text.as_bytes() }
}

#[test]
fn chat_of_two_unknown_parties_gets_one_verdict() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    invite_to_chat(&mut worker, [b"", b""], "");
    let next = Suspended { index: 2, ..Suspended::default() };
    invite_in(&mut worker, "next", next).expect("room");
    with_engine(&region, || {
        let verdicts: Vec<_> = reasons(&region, 2).into_iter().map(|(index, result, _)| (index, result)).collect();
        assert_eq!(verdicts, [(1, Outcome::Failed), (2, Outcome::Granted)]);
    });
}

#[test]
fn message_in_the_name_of_the_other_party_is_refused_before_that_party_has_sent() {
    const PATHS: [&str; 2] = ["msrp://10.0.4.1:9/alice;tcp", "msrp://10.0.4.2:9/bob;tcp"];
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    let [offer, answer] = PATHS.map(|path| format!("v=0\r\nm=message 7777 TCP/MSRP *\r\na=path:{path}\r\n"));
    let send = |worker: &mut Worker, from: usize, id: &str, connection: u64| {
        let [own, other] = [PATHS[from], PATHS[1 - from]];
        let frame = format!(
            "MSRP {id} SEND\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {other}\r\nFrom-Path: {own}\r\n\
             Message-ID: {id}\r\nByte-Range: 1-2/2\r\nContent-Type: text/plain\r\n\r\nhi\r\n-------{id}$\r\n"
        );
        worker.frame(&Frame::of_connection(frame.as_bytes(), connection))
    };
    with_engine(&region, || {
        invite_to_chat(&mut worker, [b"<sip:alice@example.org>", b"sip:bob@example.org"], &offer);
        assert_eq!(reasons(&region, 1), [(1, Outcome::Granted, String::new())]);
        let dialog = |to_tag| Dialog { call_id: b"chat", from_tag: b"f", to_tag };
        let uri = b"sip:bob@example.org";
        let (method, cseq, source) = (Method::Invite, 1, None);
        let invite =
            Request { method, dialog: dialog(b""), cseq, uri, contact: b"<sip:a@10.0.0.1>", body: sdp(&offer), source };
        let reply = Reply {
            code: 200,
            method,
            dialog: dialog(b"t"),
            cseq,
            is_reliable: false,
            contact: b"<sip:b@10.0.0.2>",
            body: sdp(&answer),
            source,
        };
        assert!(worker.replied(&reply, Some(&invite)));
        assert_eq!(send(&mut worker, 0, "of-alice", 7), FrameDecision::Pass);
        assert_eq!(send(&mut worker, 1, "posing", 7), FrameDecision::Forged);
        assert_eq!(send(&mut worker, 1, "of-bob", 8), FrameDecision::Pass);
        assert_eq!(send(&mut worker, 0, "posing-too", 8), FrameDecision::Forged);
    });
}

#[test]
fn answer_whose_event_was_dropped_is_no_failed_call() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    let active = || region.statistic(Statistic::SessionsActive);
    with_engine(&region, || {
        let session = invite(&mut worker, "call").expect("room");
        verdicts(&region, 1);
        let table = region.table();
        let at = table.slot_of_session(region.name_of_session(session), session).expect("an open slot");
        // The only trace of a 2xx that was received while the ring was full.
        table.slots[at as usize].set_answered();
        let before = region.event_ring(0).head();
        worker.failed(session, None, 408);
        assert_eq!(region.event_ring(0).head(), before, "a host's end of the transaction is no failure");
        // The same if another process has reported the failure before.
        let mut ring = region.event_producer(1).expect("not attached yet");
        let event = Event::Failed { code: 408, transaction: None };
        let record = Record::Event(Entry { session, at: clock::now(), event });
        let written = ring.write(0, |space| postcard::to_slice(&record, space).ok().map(|space| space.len()));
        assert_eq!(written, Ok(true));
        ring.publish();
        assert!(eventually(|| ring.used() == 0));
        invite(&mut worker, "next").expect("room");
        verdicts(&region, 1);
        assert!(eventually(|| active() == 2), "{} sessions", active());
        let dialog = Dialog { call_id: b"call", from_tag: b"f", to_tag: b"" };
        assert!(worker.end(&dialog, 1, b"test"));
        assert!(eventually(|| active() == 1));
    });
}

#[test]
fn silent_engine_is_distinguished_from_a_slow_one() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    assert!(invite(&mut worker, "early").is_ok());
    assert!(eventually(|| invite(&mut worker, "late") == Err(InviteRefusal::EngineDown)));
}

#[test]
fn malformed_calls_are_refused_and_counted() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    for call_id in ["", &"x".repeat(257)] {
        assert_eq!(invite(&mut worker, call_id), Err(InviteRefusal::Malformed));
    }
    assert_eq!(region.statistic(Statistic::DroppedMalformed), 2);
    for bytes in [&b""[..], b"MSRP", b"\0\0\0\0", &[0xff; 5000]] {
        assert_eq!(worker.frame(&Frame::of_connection(bytes, 1)), FrameDecision::Malformed);
    }
    assert_eq!(region.statistic(Statistic::FramesMalformed), 4);
    let dialog = Dialog { call_id: b"none", from_tag: b"a", to_tag: b"b" };
    let (bye, invite) = (Request::new(Method::Bye, dialog, 1), Request::new(Method::Invite, dialog, 1));
    assert_eq!(worker.request_in_dialog(&bye), RequestDecision::NotCharged);
    assert!(!worker.end(&dialog, 1, b"x"));
    assert!(!worker.replied(&Reply::new(&invite, 200, b"b"), Some(&invite)));
}

#[test]
fn unusable_state_directory_refuses_the_start_with_a_reason() {
    let state = tempfile::tempdir().expect("a folder");
    let missing = Config { state_dir: state.path().join("missing"), ..Config::default() };
    let error = preflight::create_region(missing, 1).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("parameter state_dir: cannot write"), "{error}");
    let first = region(&state, |_| {});
    let second = Config { state_dir: state.path().to_owned(), ..Config::default() };
    let error = preflight::create_region(second, 1).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("another proxy uses the state directory"), "{error}");
    first.remove_file();
}

/// Returns the number of rows of a table, as other readers of the ledger see them.
fn rows(state: &tempfile::TempDir, table: &str) -> i64 {
    let ledger = rusqlite::Connection::open(state.path().join("ledger.sqlite")).expect("the ledger opens");
    ledger.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("a table")
}

#[test]
fn locked_ledger_delays_its_tables_but_no_verdict() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    // The write lock of a database browser that stays open.
    let browser = rusqlite::Connection::open(state.path().join("ledger.sqlite")).expect("the ledger opens");
    browser.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let value = |statistic| region.statistic(statistic);
    with_engine(&region, || {
        invite(&mut worker, "first").expect("taken");
        assert_eq!(verdicts(&region, 1).len(), 1);
        assert!(eventually(|| value(Statistic::StoreFailing) == 1));
        invite(&mut worker, "second").expect("taken");
        assert_eq!(verdicts(&region, 1).len(), 1);
        assert_eq!((value(Statistic::EngineUp), value(Statistic::EngineRestarts)), (1, 0));
        // A command is executed and answered; the tables show its effect later.
        assert!(commands::run("account.set", &["sip:bob@example.org", "5"], &region, &mut worker).is_ok());
        assert!(value(Statistic::JournalOctets) > 0);
        assert_eq!(rows(&state, "sessions"), 0);
    });
    // The stopped engine has left everything in the journal, and the next one starts from it while the ledger is locked.
    with_engine(&region_again(&state, region, worker), || {
        assert_eq!(rows(&state, "accounts"), 0);
        browser.execute_batch("ROLLBACK").expect("unlocked");
        assert!(eventually(|| rows(&state, "accounts") == 2 && rows(&state, "sessions") == 2));
        assert_eq!(rows(&state, "holds"), 0);
    });
}

/// Returns the region of the next start of the proxy.
fn region_again(state: &tempfile::TempDir, region: Arc<Region>, worker: Worker) -> Arc<Region> {
    drop((worker, region));
    self::region(state, |_| {})
}

#[test]
fn deleted_ledger_refuses_sessions_until_it_is_restored() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    let (path, away) = (state.path().join("ledger.sqlite"), state.path().join("away"));
    with_engine(&region, || {
        invite(&mut worker, "first").expect("taken");
        assert_eq!(verdicts(&region, 1).len(), 1);
        std::fs::rename(&path, &away).expect("moved");
        assert!(eventually(|| region.statistic(Statistic::EngineUp) == 0));
        assert_eq!(invite(&mut worker, "second"), Err(InviteRefusal::EngineDown));
        std::fs::rename(&away, &path).expect("moved back");
        assert!(eventually(|| invite(&mut worker, "third").is_ok()));
        assert_eq!(verdicts(&region, 1).len(), 1);
    });
}

#[test]
fn command_of_an_earlier_instance_is_executed_without_a_reply() {
    let state = tempfile::tempdir().expect("a folder");
    let before = region(&state, |_| {});
    for process in [0, 3] {
        let mut worker = Worker::attach(&before, process).expect("not attached yet");
        let asked = commands::run("account.set", &[ALICE, "77"], &before, &mut worker);
        assert_eq!(asked.map_err(|error| error.code), Err(503), "no engine runs");
    }
    drop(before);
    // Fewer processes than before: there is no slot for the answer to the last one.
    let config = Config { state_dir: state.path().to_owned(), ..Config::default() };
    let region = preflight::create_region(config, 1).unwrap_or_else(|error| panic!("{error}"));
    let attached_at = clock::now().0;
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    with_engine(&region, || {
        assert_eq!(account(&mut worker, "balance"), 77);
        let answered = region.reply_slot(0).sequence.load(Ordering::Relaxed);
        assert!(answered > attached_at, "only the command of this instance is answered");
    });
}

/// A small file system for one test.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(megabytes: u32) -> SmallDisk {
        let disk = SmallDisk(tempfile::tempdir().expect("a folder"));
        disk.as_root("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=777"), "imcharge"]);
        disk
    }

    fn resize(&self, megabytes: u32) {
        self.as_root("mount", &["-o", &format!("remount,size={megabytes}m")]);
    }

    /// Mounting needs root, or sudo without a password, as for the packages.
    fn as_root(&self, program: &str, arguments: &[&str]) {
        let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let (first, rest): (&str, &[&str]) = if root { (program, &[]) } else { ("sudo", &["-n", program]) };
        let status = std::process::Command::new(first).args(rest).args(arguments).arg(self.0.path()).status();
        assert!(status.as_ref().is_ok_and(|status| status.success()), "{program} {arguments:?}: {status:?}");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.as_root("umount", &[]);
    }
}

#[test]
fn full_disk_refuses_sessions_once_the_journal_is_full_and_recovers() {
    // The journal takes 16 MiB of it at the start.
    let disk = SmallDisk::new(20);
    let region = region(&disk.0, |config| config.max_sessions = 200_000);
    let (mut worker, mut sent, mut seen) = (Worker::attach(&region, 0).expect("not attached yet"), 0, 0);
    let mut queues: Vec<NotificationReader> = (0..region.resume_workers())
        .map(|at| NotificationReader::attach(&region, at).expect("not attached yet"))
        .collect();
    let mut take = |seen: &mut usize| {
        for queue in &mut queues {
            while queue.next(|notification| {
                assert!(
                    matches!(notification.kind, Kind::Verdict { result: Outcome::Granted, .. }),
                    "{notification:?}"
                );
                *seen += 1;
            }) {}
        }
    };
    let value = |statistic| region.statistic(statistic);
    with_engine(&region, || {
        // The ledger file fills up first; further changes stay in the journal.
        let mut filled_at = None;
        while value(Statistic::EngineUp) == 1 {
            match invite(&mut worker, &format!("call-{sent}")) {
                Ok(_) => sent += 1,
                Err(_) => std::thread::yield_now(),
            }
            if value(Statistic::StoreFailing) == 1 {
                filled_at.get_or_insert(sent);
            }
            take(&mut seen);
        }
        assert!(filled_at.is_some_and(|at| at < sent), "{filled_at:?} of {sent}");
        assert_eq!(invite(&mut worker, "refused"), Err(InviteRefusal::EngineDown));
        assert_eq!(value(Statistic::StoreFailing), 1);
        disk.resize(400);
        assert!(eventually(|| {
            take(&mut seen);
            seen == sent && value(Statistic::StoreFailing) == 0
        }));
        assert!(invite(&mut worker, "after").is_ok());
        let (held, balance) = (sent as i64 + 1, 1_000_000 - sent as i64 - 1);
        assert!(eventually(|| account(&mut worker, "held") == held && account(&mut worker, "balance") == balance));
        take(&mut seen);
    });
    take(&mut seen);
    assert_eq!(seen, sent + 1, "one verdict per INVITE");
    assert_eq!(value(Statistic::EngineRestarts), 0);
}

#[test]
fn engine_measures_its_latencies() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let value = |statistic| region.statistic(statistic);
    with_engine(&region, || {
        let mut worker = Worker::attach(&region, 0).expect("not attached yet");
        for number in 0..20 {
            assert!(invite(&mut worker, &format!("measured-{number}")).is_ok());
        }
        assert_eq!(verdicts(&region, 20).len(), 20);
        assert_eq!(value(Statistic::EngineUp), 1);
    });
    assert_eq!(value(Statistic::ReserveLatencyCount), 20);
    // Each reservation, and each release when the engine was stopped.
    assert_eq!(value(Statistic::EnablerLatencyCount), 40);
    assert!(value(Statistic::ReserveLatencySum) >= 20 && value(Statistic::EnablerLatencySum) >= 40);
    assert!(value(Statistic::ReserveLatencySum) < 20 * 30_000_000, "microseconds");
    assert_eq!((value(Statistic::OutboxOldestAge), value(Statistic::HoldsStuck)), (0, 0));
    assert_eq!(value(Statistic::EngineUp), 0, "the engine has stopped");
}

#[test]
fn engine_that_cannot_write_is_not_up() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let value = |statistic| region.statistic(statistic);
    assert_eq!((value(Statistic::EngineUp), value(Statistic::StoreFailing)), (1, 0), "at the start");
    region.set_engine_state(imcharge::shm::region::EngineState::StoreFailing);
    assert_eq!((value(Statistic::EngineUp), value(Statistic::StoreFailing)), (0, 1));
}

#[test]
fn prometheus_text_fits_its_configured_buffer() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    Statistic::ALL.iter().for_each(|statistic| region.counter(*statistic).store(u64::MAX, Ordering::Relaxed));
    let text = imcharge::admin::metrics::exposition(&region);
    // A counter of a histogram has one digit now, and twenty at most.
    let max = text.len() + 20 * text.lines().filter(|line| line.contains("_latency_")).count();
    for file in ["docs/kamailio.md", "docs/monitoring.md", "kamailio-config/kamailio/kamailio.cfg"] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let whole = std::fs::read_to_string(path).expect("readable");
        let size =
            whole.split("pv_buffer_size=").nth(1).and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next());
        let size: usize = size.and_then(|size| size.parse().ok()).unwrap_or_else(|| panic!("{file} sets no size"));
        assert!(max < size, "{file}: {max} octets of {size}");
    }
}

#[test]
fn old_history_is_deleted_while_the_engine_runs() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |config| config.history_days = 7);
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    let calls: Vec<String> = (0..300).map(|call| format!("call{call}")).collect();
    let ledger = || rusqlite::Connection::open(state.path().join("ledger.sqlite")).expect("the ledger opens");
    with_engine(&region, || {
        for call_id in &calls {
            let session = invite(&mut worker, call_id).expect("taken");
            worker.failed(session, None, 486);
        }
        assert!(eventually(|| region.statistic(Statistic::ReservesGranted) == calls.len() as u64));
    });
    drop(worker);
    drop(region);
    // All but the last hundred were closed a week and a day ago and are to be deleted.
    let week = "UPDATE sessions SET opened_at=opened_at-8*86400000, closed_at=closed_at-8*86400000 WHERE id<=200; \
                DELETE FROM states WHERE session<=200;";
    ledger().execute_batch(week).expect("a ledger");
    let region = self::region(&state, |config| config.history_days = 7);
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    let count = |sql: &str| -> i64 { ledger().query_row(sql, [], |row| row.get(0)).expect("a number") };
    with_engine(&region, || {
        assert!(
            eventually(|| count("SELECT count(*) FROM sessions") == 100),
            "{}",
            count("SELECT count(*) FROM sessions")
        );
        let old = commands::run("explain", &["call0"], &region, &mut worker);
        assert_eq!(old.map_err(|error| error.code), Err(404));
        let explained =
            commands::run("explain", &["call299"], &region, &mut worker).expect("the latest one is explained");
        let explained = format!("{explained:?}");
        for word in ["Text(\"invite\")", "Text(\"granted\")", "Text(\"invite-failed\")", "Text(\"unused\")"] {
            assert!(explained.contains(word), "no {word} in {explained}");
        }
    });
    assert_eq!(count("SELECT count(*) FROM steps WHERE session<=200"), 0);
    assert_eq!((account(&mut worker, "held"), account(&mut worker, "balance")), (0, 1_000_000));
}

#[test]
fn truncated_audit_list_gives_the_total() {
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    with_engine(&region, || {
        invite(&mut worker, "open").expect("taken");
        assert_eq!(verdicts(&region, 1).len(), 1);
    });
    let free = "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n+1 FROM n WHERE n<1500) \
                INSERT INTO undebited SELECT 1, 'm' || n, 'open', 'sip:alice@example.org', 9, 2, '5xx=release', 506, n FROM n";
    let ledger = rusqlite::Connection::open(state.path().join("ledger.sqlite")).expect("the ledger opens");
    ledger.execute_batch(free).expect("rows");
    let mut audit = |arguments: &[&str]| {
        let Ok(Value::Structure(lists)) = commands::run("audit", arguments, &region, &mut worker) else {
            panic!("no audit")
        };
        let (_, list) = lists.into_iter().find(|(name, _)| *name == "delivered_not_debited").expect("a list");
        let Value::Structure(fields) = list else { panic!("no list") };
        let number = |wanted: &str| fields.iter().find_map(|(name, value)| (*name == wanted).then(|| value.clone()));
        let Some(Value::List(rows)) = number("rows") else { panic!("no rows") };
        (number("count"), number("units"), number("shown"), rows.len())
    };
    let all = (Some(Value::Integer(1500)), Some(Value::Integer(3000)));
    for (arguments, shown) in [(&["delivered"][..], 100), (&["all", "7"][..], 7), (&["delivered", "150"][..], 150)] {
        let wanted = (all.0.clone(), all.1.clone(), Some(Value::Integer(shown)), shown as usize);
        assert_eq!(audit(arguments), wanted);
    }
    for wrong in ["0", "501", "x"] {
        let refused = commands::run("audit", &["all", wrong], &region, &mut worker).map_err(|error| error.code);
        assert_eq!(refused, Err(400), "{wrong}");
    }
}

/// Fields of an answer.
fn fields(answer: Value) -> Vec<(&'static str, Value)> {
    match answer {
        Value::Structure(fields) => fields,
        other => panic!("{other:?}"),
    }
}

/// A field of an answer.
fn field(fields: &[(&'static str, Value)], wanted: &str) -> Value {
    let found = fields.iter().find(|(name, _)| *name == wanted);
    found.unwrap_or_else(|| panic!("no {wanted} in {fields:?}")).1.clone()
}

#[test]
fn explain_of_many_sessions_is_paged() {
    const SESSIONS: u32 = 200;
    let state = tempfile::tempdir().expect("a folder");
    let region = region(&state, |_| {});
    let mut worker = Worker::attach(&region, 0).expect("not attached yet");
    with_engine(&region, || {
        for cseq in 1..=SESSIONS {
            let key = InviteKey { call_id: b"again", from_tag: b"f", cseq };
            invite_as(&mut worker, key, Suspended::default()).expect("taken");
        }
        assert_eq!(verdicts(&region, SESSIONS as usize).len(), SESSIONS as usize);
        let mut rows = [Vec::new(), Vec::new()];
        for ((command, list), rows) in [("explain", "steps"), ("session", "debits")].into_iter().zip(&mut rows) {
            let (mut pages, mut next) = (0, String::new());
            loop {
                let page = fields(commands::run(command, &["again", &next], &region, &mut worker).expect("a page"));
                let Value::List(sessions) = field(&page, "sessions") else { panic!("no list") };
                for session in sessions.into_iter().map(fields) {
                    let Value::List(inner) = field(&session, list) else { panic!("no list") };
                    let key = format!("{:?}", field(&session, "session"));
                    // A session whose rows continue on the next page is listed there again.
                    rows.push((key.clone(), String::new()));
                    rows.extend(
                        inner.into_iter().map(|row| (key.clone(), format!("{:?}", field(&fields(row), "number")))),
                    );
                }
                pages += 1;
                match field(&page, "next") {
                    Value::Text(empty) if empty.is_empty() => break,
                    Value::Text(more) => next = more,
                    other => panic!("{other:?}"),
                }
            }
            assert!(pages > 1, "{command}");
        }
        let [mut steps, sessions] = rows;
        steps.retain(|(_, number)| !number.is_empty());
        let unique: HashSet<_> = steps.iter().collect();
        assert_eq!(unique.len(), steps.len(), "a step on two pages");
        let explained: HashSet<_> = steps.iter().map(|(session, _)| session).collect();
        let listed: HashSet<_> = sessions.iter().map(|(session, _)| session).collect();
        assert_eq!((explained.len(), listed.len()), (SESSIONS as usize, SESSIONS as usize));
        let ledger = rusqlite::Connection::open(state.path().join("ledger.sqlite")).expect("the ledger opens");
        let all: i64 = ledger.query_row("SELECT count(*) FROM steps", [], |row| row.get(0)).expect("a number");
        assert_eq!(steps.len() as i64, all);
    });
}
