//! Kills real processes at random moments: writers in the middle of a record, the engine in the middle of a tick. Published
//! records are read once and complete, unpublished ones are never seen, the rings continue with new owners, and the money
//! is exact.
//!
//! There are two kinds of writers. A worker charges messages through [`Worker`], as the host does, and continues the session
//! of its predecessor. A teller adds the numbers 1, 2, 3, ... to an account, each by its own record: a record that is lost,
//! read twice or torn shows in the sum. The progress of each is kept in memory that outlives it.
//!
//! Besides, readers of one queue are killed, as resume workers may be: each record is taken by one of them or lost with its
//! reader.
//!
//! This test has no harness: only a process with one thread may fork and continue freely.

use imcharge::admin::commands::{self, Value};
use imcharge::charge::event::Suspended;
use imcharge::charge::service::ChargedContent;
use imcharge::config::Config;
use imcharge::engine;
use imcharge::engine::preflight;
use imcharge::shm::clock;
use imcharge::shm::notification::NotificationReader;
use imcharge::shm::record::{AccountChange, Command, Record};
use imcharge::shm::region::{Lane, Region};
use imcharge::shm::ring::Ends;
use imcharge::shm::statistic::Statistic;
use imcharge::worker::sip_input::{Body, Dialog, Frame, Invite, InviteKey, Method, Reply, Request};
use imcharge::worker::{FrameDecision, Worker};
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const WORKERS: usize = 2;
const TELLERS: usize = 2;
const WRITERS: usize = WORKERS + TELLERS;

/// How long processes are killed.
const KILLING: Duration = Duration::from_secs(6);

/// Longest time that a loaded machine gets to reach the numbers that a case needs.
const KILLING_MAX: Duration = Duration::from_secs(60);

/// An account's balance at the start.
const BALANCE: u64 = 1_000_000_000;

/// Messages of a session before its worker sends BYE and opens the next one.
const MESSAGES: u64 = 400;

/// Progress of a writer, in memory shared with its killer. A record is claimed before it is written; the ring's head tells
/// whether it was published when the writer was killed.
#[repr(C, align(64))]
struct Progress {
    /// Records that were published.
    done: AtomicU64,
    /// The record being written; 0: none.
    claimed: AtomicU64,
    /// The ring's head when it was claimed.
    before: AtomicU64,
    /// 1 while a teller's record is being written or is not yet published.
    inside: AtomicU64,
}

impl Progress {
    fn done(&self) -> u64 {
        self.done.load(Ordering::SeqCst)
    }

    /// Writer: `publish` publishes record `number`, the next one, or gives up.
    fn attempt(&self, ring: &Ends, number: u64, publish: impl FnOnce() -> bool) -> bool {
        self.before.store(ring.head(), Ordering::SeqCst);
        self.claimed.store(number, Ordering::SeqCst);
        let published = publish();
        if published {
            self.done.store(number, Ordering::SeqCst);
        }
        self.claimed.store(0, Ordering::SeqCst);
        published
    }

    /// Killer: updates what a killed writer has published. Returns whether it died with a claimed record, and inside it.
    fn settle(&self, ring: &Ends) -> (bool, bool) {
        let claimed = self.claimed.swap(0, Ordering::SeqCst);
        if claimed == self.done() + 1 && ring.head() > self.before.load(Ordering::SeqCst) {
            self.done.store(claimed, Ordering::SeqCst);
        }
        (claimed != 0, self.inside.swap(0, Ordering::SeqCst) == 1)
    }
}

/// Memory shared by all processes forked from now on.
///
/// # Safety
/// `T` is valid as zeros, and made of atomics.
unsafe fn shared<T>(count: usize) -> &'static [T] {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping, zeroed and never unmapped, which begins with a page; for T by the caller's promise.
    unsafe {
        let start = libc::mmap(std::ptr::null_mut(), size_of::<T>() * count, access, kind, -1, 0);
        assert_ne!(start, libc::MAP_FAILED, "no memory");
        std::slice::from_raw_parts(start.cast(), count)
    }
}

/// Pseudo-random numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below
    }
}

/// A child process.
struct Child(libc::pid_t);

impl Child {
    /// Forks one that does `life`; it dies with this process.
    fn fork(life: impl FnOnce()) -> Child {
        // SAFETY: this process has one thread, so the child may use everything it inherits; `_exit` ends it without
        // running what is the parent's to run.
        unsafe {
            let pid = libc::fork();
            assert!(pid >= 0, "no process can be forked");
            if pid == 0 {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(life));
                libc::_exit(if ended.is_ok() { 0 } else { 1 });
            }
            Child(pid)
        }
    }

    fn kill(self) {
        // SAFETY: our own child, not yet waited for, so the number is still its.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
        assert_eq!(self.wait(), libc::SIGKILL, "it ended before it was killed");
    }

    /// The raw status that it ended with.
    fn wait(self) -> i32 {
        let mut status = -1;
        // SAFETY: a valid place for the status; the child is ours.
        let waited = unsafe { libc::waitpid(self.0, &mut status, 0) };
        assert_eq!(waited, self.0);
        status
    }
}

fn start_engine(region: &Arc<Region>) -> Child {
    Child::fork(|| engine::run(region, &AtomicBool::new(false)).unwrap_or_else(|error| panic!("{error}")))
}

fn start_writer(region: &Arc<Region>, at: usize, progress: &'static Progress) -> Child {
    Child::fork(|| match at < WORKERS {
        true => charge(region, at, progress),
        false => tell(region, at, progress),
    })
}

fn account(at: usize) -> String {
    format!("sip:writer{at}@example.org")
}

/// As long as the grammar lets it be, or shorter.
fn message_id(at: usize, number: u64) -> String {
    format!("m{at}-{number}-{:x<1$}", "", (number * 7 % 20) as usize)
}

fn call_id(at: usize, session: u64) -> String {
    format!("call{at}-{session}-{:y<1$}", "", (session * 53 % 230) as usize)
}

/// A worker: charges messages until it is killed, from where its predecessor has stopped.
fn charge(region: &Arc<Region>, at: usize, progress: &Progress) {
    let mut worker = Worker::attach(region, at).expect("not attached yet");
    let ring = region.event_ring(at);
    loop {
        let session = progress.done() / MESSAGES;
        let call_id = call_id(at, session);
        let dialog = Dialog { call_id: call_id.as_bytes(), from_tag: b"f", to_tag: b"t" };
        establish(region, &mut worker, at, session, &dialog);
        while progress.done() / MESSAGES == session {
            let number = progress.done() + 1;
            if !progress.attempt(ring, number, || send(&mut worker, at, session, number)) {
                std::thread::yield_now();
            }
            if number.is_multiple_of(3) {
                answer(&mut worker, at, session, number);
            }
        }
        bye(&mut worker, dialog);
    }
}

/// A BYE and its 200.
fn bye(worker: &mut Worker, dialog: Dialog<'_>) {
    let bye = Request::new(Method::Bye, dialog, 2);
    worker.request_in_dialog(&bye);
    worker.replied(&Reply::new(&bye, 200, dialog.to_tag), Some(&bye));
}

/// An MSRP URI of a session's side.
fn uri(side: &str, at: usize, session: u64) -> String {
    format!("msrp://10.0.0.1:9/{side}{at}x{session};tcp")
}

/// Asks for the session until the engine has granted it, and binds it.
fn establish(region: &Region, worker: &mut Worker, at: usize, session: u64, dialog: &Dialog<'_>) {
    let payer = format!("<{}>", account(at));
    let invite = InviteKey { call_id: dialog.call_id, from_tag: b"f", cseq: 1 };
    let key = Worker::session_of_invite(&invite);
    let sdp = |side| format!("m=message 9 TCP/MSRP *\r\na=path:{}\r\n", uri(side, at, session));
    let (offer, reply) = (sdp("C"), sdp("S"));
    let table = region.table();
    let is_open = || table.slot_of_session(region.name_of_session(key), key).is_some();
    while !is_open() {
        let _ = worker.reserve(&Invite {
            key: invite,
            asserted: [payer.as_bytes(), b""],
            from: b"",
            called_party: b"",
            request_uri: b"sip:im@example.org",
            subscriber: b"",
            direction: None,
            charging_vector: b"",
            // More than are sent: a process killed between gate and ring has taken credit without an event.
            messages: 4 * MESSAGES as u32,
            content: ChargedContent::Received,
            recipients: 0,
            tariff: b"",
            offer: Body::default(),
            suspended: Suspended::default(),
        });
        let asked = Instant::now();
        while !is_open() && asked.elapsed() < Duration::from_millis(50) {
            std::thread::yield_now();
        }
    }
    let invite = Dialog { to_tag: b"", ..*dialog };
    let invite = Request { body: Body::sdp(offer.as_bytes()), ..Request::new(Method::Invite, invite, 1) };
    let reply = Reply { body: Body::sdp(reply.as_bytes()), ..Reply::new(&invite, 200, dialog.to_tag) };
    worker.replied(&reply, Some(&invite));
}

/// One message through the gate; whether it is in the ring.
fn send(worker: &mut Worker, at: usize, session: u64, number: u64) -> bool {
    let (server, client) = (uri("S", at, session), uri("C", at, session));
    let bytes = format!(
        "MSRP t{number:08} SEND\r\nTo-Path: {client}\r\nFrom-Path: {server}\r\nMessage-ID: {}\r\n\
         Byte-Range: 1-5/5\r\nContent-Type: text/plain\r\n\r\nhello\r\n-------t{number:08}$\r\n",
        message_id(at, number)
    );
    match worker.frame(&Frame::of_connection(bytes.as_bytes(), 7)) {
        FrameDecision::Pass => true,
        FrameDecision::Full => false,
        other => panic!("a charged message is refused: {other:?}"),
    }
}

/// The client's 200.
fn answer(worker: &mut Worker, at: usize, session: u64, number: u64) {
    let (server, client) = (uri("S", at, session), uri("C", at, session));
    let bytes =
        format!("MSRP t{number:08} 200 OK\r\nTo-Path: {server}\r\nFrom-Path: {client}\r\n-------t{number:08}$\r\n");
    worker.frame(&Frame::of_connection(bytes.as_bytes(), 8));
}

/// Octet by octet: most of a teller's time passes inside a record.
fn write_slowly(record: &Record<'_>, space: &mut [u8]) -> usize {
    let octets = postcard::to_stdvec(record).unwrap_or_default();
    for (place, octet) in space.iter_mut().zip(&octets) {
        *place = *octet;
        (0..20).for_each(|_| std::hint::spin_loop());
    }
    octets.len()
}

/// A teller: adds numbers to its account until it is killed.
fn tell(region: &Arc<Region>, at: usize, progress: &Progress) {
    region.prefault();
    let (ends, mut ring) = (region.event_ring(at), region.event_producer(at).expect("not attached yet"));
    let account = account(at);
    loop {
        let number = progress.done() + 1;
        let (change, reference) = (AccountChange::Add(number as i64), number.to_string());
        let command = Command::Account { account: &account, change, reference: &reference, by: "teller" };
        let record = Record::Command { at: clock::now(), process: at as u32, sequence: number, command };
        let published = progress.attempt(ends, number, || {
            progress.inside.store(1, Ordering::SeqCst);
            let fill = |space: &mut [u8]| Some(write_slowly(&record, space));
            // A longer queue than this would keep the workers waiting for their sessions most of the time.
            let is_written = ring.write(ring.size() / 8 * 7, fill) == Ok(true);
            if is_written {
                ring.publish();
            }
            progress.inside.store(0, Ordering::SeqCst);
            is_written
        });
        if !published {
            std::thread::yield_now();
        } else if number.is_multiple_of(16) {
            region.wake_engine();
        }
    }
}

/// Takes the engine's notifications: no session is accepted while verdicts wait.
fn take_notifications(queues: &mut [NotificationReader]) {
    for queue in queues {
        while queue.next(|_| ()) {}
    }
}

/// What was killed.
#[derive(Default)]
struct Kills {
    writers: u64,
    at_work: u64,
    inside: u64,
    engines: u64,
}

impl Kills {
    /// Whether every kind of process has been killed often enough to mean something.
    fn are_enough(&self) -> bool {
        self.writers > 200 && self.inside > 0 && self.engines > 10
    }
}

/// Kills writers and engines and starts them again, and leaves the last engine at work.
fn kill_at_random(region: &Arc<Region>, progress: &'static [Progress], mut engine: Child) -> (Kills, Child) {
    let mut queues: Vec<NotificationReader> = (0..region.resume_workers())
        .map(|at| NotificationReader::attach(region, at).expect("not attached yet"))
        .collect();
    let mut writers: Vec<Option<Child>> =
        (0..WRITERS).map(|at| Some(start_writer(region, at, &progress[at]))).collect();
    let (mut kills, mut dice) = (Kills::default(), Dice(clock::now().0 | 1));
    let (started, mut engine_started) = (Instant::now(), Instant::now());
    while started.elapsed() < KILLING || (!kills.are_enough() && started.elapsed() < KILLING_MAX) {
        std::thread::sleep(Duration::from_micros(dice.roll(1500)));
        let at = dice.roll(WRITERS as u64) as usize;
        writers[at].take().into_iter().for_each(Child::kill);
        kills.writers += 1;
        let (at_work, inside) = progress[at].settle(region.event_ring(at));
        kills.at_work += u64::from(at_work && at < WORKERS);
        kills.inside += u64::from(inside);
        writers[at] = Some(start_writer(region, at, &progress[at]));
        take_notifications(&mut queues);
        if engine_started.elapsed() > Duration::from_millis(60 + dice.roll(300)) {
            engine.kill();
            kills.engines += 1;
            engine = start_engine(region);
            engine_started = Instant::now();
        }
    }
    for (at, writer) in writers.into_iter().enumerate() {
        writer.into_iter().for_each(Child::kill);
        progress[at].settle(region.event_ring(at));
    }
    (kills, engine)
}

/// Takes over every ring, sends one more record and a BYE for all sessions, and waits until everything is settled.
fn settle(region: &Arc<Region>, progress: &[Progress]) {
    let mut queues: Vec<NotificationReader> = (0..region.resume_workers())
        .map(|at| NotificationReader::attach(region, at).expect("not attached yet"))
        .collect();
    wait("the rings are read", &mut queues, || (0..WRITERS).all(|at| region.event_ring(at).used() == 0));
    for (at, progress) in progress.iter().enumerate().take(WORKERS) {
        let mut worker = Worker::attach(region, at).expect("not attached yet");
        for session in 0..=progress.done() / MESSAGES {
            let call_id = call_id(at, session);
            bye(&mut worker, Dialog { call_id: call_id.as_bytes(), from_tag: b"f", to_tag: b"t" });
            // A worker that was killed before the answer has no dialog: the host reports the end of the transaction.
            let invite = InviteKey { call_id: call_id.as_bytes(), from_tag: b"f", cseq: 1 };
            worker.failed(Worker::session_of_invite(&invite), None, 408);
        }
    }
    for (at, progress) in progress.iter().enumerate().skip(WORKERS) {
        let mut worker = Worker::attach(region, at).expect("not attached yet");
        let number = progress.done() + 1;
        let (account, amount, first) = (account(at), number.to_string(), "1");
        let answer = commands::run("account.add", &[&account, &amount, &amount], region, &mut worker);
        assert!(answer.is_ok(), "the ring is blocked: {answer:?}");
        // The first command was executed under a process that was killed since.
        let answer = commands::run("account.add", &[&account, first, first], region, &mut worker);
        let duplicate = ("duplicate", Value::Integer(1));
        let is_duplicate = |value| matches!(value, Value::Structure(fields) if fields.contains(&duplicate));
        assert!(answer.clone().is_ok_and(is_duplicate), "account {account} after {number}: {answer:?}");
        progress.done.store(number, Ordering::SeqCst);
    }
    wait("all sessions are closed", &mut queues, || region.statistic(Statistic::SessionsActive) == 0);
}

fn wait(what: &str, queues: &mut [NotificationReader], done: impl Fn() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < Duration::from_secs(60), "never: {what}");
        take_notifications(queues);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Checks the history of the accounts: each row continues the one before it, and the last one has the account's values.
fn check_history(ledger: &rusqlite::Connection) {
    let count = |sql: &str| ledger.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("the ledger is read");
    let broken = "SELECT count(*) FROM (
        SELECT balance + held - amount AS start, kind,
          coalesce(lag(balance + held) OVER (PARTITION BY account ORDER BY id), 0) AS end FROM balance_changes)
        WHERE start<>end";
    assert_eq!(count(broken), 0, "changes that do not continue the one before them");
    let unequal = "SELECT count(*) FROM accounts a WHERE balance + held<>coalesce((
        SELECT balance + held FROM balance_changes WHERE account=a.id ORDER BY id DESC LIMIT 1), 0)";
    assert_eq!(count(unequal), 0, "accounts that differ from their last change");
    let unbalanced = "SELECT count(*) FROM accounts a WHERE balance + held + debited<>(
        SELECT coalesce(sum(amount), 0) FROM balance_changes WHERE account=a.id AND session IS NULL)";
    assert_eq!(count(unbalanced), 0, "accounts that differ from their recorded changes");
}

/// Compares the ledger with what was published.
fn check(state: &Path, progress: &[Progress]) {
    let ledger = rusqlite::Connection::open(state.join("ledger.sqlite")).expect("the ledger opens");
    check_history(&ledger);
    for (at, progress) in progress.iter().enumerate() {
        let done = progress.done();
        let sql = "SELECT balance, held, debited FROM accounts WHERE id = ?1";
        let found = ledger.query_row(sql, [account(at)], |row| Ok([row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?]));
        let expected = match at < WORKERS {
            true => [BALANCE - done, 0, done],
            false => [BALANCE + done * (done + 1) / 2, 0, 0],
        };
        assert_eq!(
            found.expect("the account is there"),
            expected.map(|units| units as i64),
            "writer {at}, {done} records"
        );
        let mut rows = ledger.prepare("SELECT message_id FROM debits WHERE account = ?1").expect("the ledger is read");
        let debited = rows.query_map([account(at)], |row| row.get::<_, String>(0)).expect("the ledger is read");
        let debited: Vec<String> = debited.collect::<Result<_, _>>().expect("the ledger is read");
        let messages = if at < WORKERS { done } else { 0 };
        assert_eq!(debited.len() as u64, messages, "writer {at}: a debit for each message");
        let expected: HashSet<String> = (1..=messages).map(|number| message_id(at, number)).collect();
        assert_eq!(debited.into_iter().collect::<HashSet<_>>(), expected, "writer {at}: and for no other");
    }
}

fn run() {
    let state = tempfile::tempdir().expect("a folder");
    let config = Config {
        state_dir: state.path().to_owned(),
        default_balance: Some(BALANCE as i64),
        max_sessions: 1000,
        ..Config::default()
    };
    let region = preflight::create_region(config, WRITERS).unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: four atomics.
    let progress = unsafe { shared::<Progress>(WRITERS) };
    let engine = start_engine(&region);
    for at in WORKERS..WRITERS {
        let mut worker = Worker::attach(&region, at).expect("not attached yet");
        let made = commands::run("account.set", &[&account(at), &BALANCE.to_string()], &region, &mut worker);
        assert!(made.is_ok(), "{made:?}");
    }
    let (kills, engine) = kill_at_random(&region, progress, engine);
    settle(&region, progress);
    region.request_stop();
    assert_eq!(engine.wait(), 0, "the engine ends in good order");
    check(state.path(), progress);
    let [messages, numbers] =
        [0..WORKERS, WORKERS..WRITERS].map(|kind| progress[kind].iter().map(Progress::done).sum::<u64>());
    println!(
        "kills: {} of writers ({} tellers inside a record, {} workers inside a call), {} of engines; \
         {messages} messages and {numbers} numbers published",
        kills.writers, kills.inside, kills.at_work, kills.engines
    );
    assert!(kills.are_enough(), "too little was killed");
}

/// Kills of readers that the case needs.
const TAKERS_MIN: usize = 100;

/// How long readers of a queue are killed.
const KILLING_TAKERS: Duration = Duration::from_secs(2);

/// Maximum number of records published in that time.
const RECORDS: usize = 4_000_000;

/// The content of a record of a queue: its number, and octets that follow from it.
fn content(number: u64) -> Vec<u8> {
    let mut content = number.to_le_bytes().to_vec();
    content.resize(8 + (number % 300) as usize, number as u8);
    content
}

/// A reader: takes records until it is killed, and counts each.
fn take(region: &Region, taken: &[AtomicU32]) {
    let (queue, mut record) = (region.queue(Lane::Verdicts), Vec::new());
    loop {
        while queue.take(&mut record) {
            let number = u64::from_le_bytes(record[..8].try_into().expect("eight octets"));
            assert_eq!(record, content(number), "a record is not what was published");
            taken[number as usize].fetch_add(1, Ordering::SeqCst);
        }
        std::thread::yield_now();
    }
}

/// Kills readers of one queue: no record is taken twice, no reader delays another, and each loses at most one record.
fn kill_takers() {
    let state = tempfile::tempdir().expect("a folder");
    let config = Config { state_dir: state.path().to_owned(), ..Config::default() };
    let region = preflight::create_region(config, 1).unwrap_or_else(|error| panic!("{error}"));
    // SAFETY: atomics.
    let taken = unsafe { shared::<AtomicU32>(RECORDS) };
    let start = || Some(Child::fork(|| take(&region, taken)));
    let mut takers = [(); 3].map(|()| start());
    let (queue, started, mut dice) = (region.queue(Lane::Verdicts), Instant::now(), Dice(clock::now().0 | 1));
    let mut producer = region.queue_producer(Lane::Verdicts).expect("no engine runs");
    let (mut published, mut kills, mut next_kill) = (0, 0, Instant::now());
    let is_over = |kills: usize| match kills > TAKERS_MIN {
        true => started.elapsed() >= KILLING_TAKERS,
        false => started.elapsed() >= KILLING_MAX,
    };
    while !is_over(kills) && published < RECORDS as u64 {
        match producer.write(&content(published)) {
            Ok(()) => {
                producer.publish(clock::now());
                published += 1;
            }
            Err(_) => std::thread::yield_now(),
        }
        if Instant::now() > next_kill {
            let taker = &mut takers[dice.roll(3) as usize];
            taker.take().into_iter().for_each(Child::kill);
            *taker = start();
            kills += 1;
            next_kill = Instant::now() + Duration::from_micros(dice.roll(4000));
        }
    }
    // The living readers take the rest.
    let emptied = Instant::now();
    while queue.used() > 0 {
        assert!(emptied.elapsed() < Duration::from_secs(30), "the rest is not taken");
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_millis(50));
    takers.into_iter().flatten().for_each(Child::kill);
    let times = |wanted: fn(u32) -> bool| {
        taken[..published as usize].iter().filter(|times| wanted(times.load(Ordering::SeqCst))).count()
    };
    let (lost, twice) = (times(|times| times == 0), times(|times| times > 1));
    println!("kills: {kills} of takers; {published} records published, {lost} taken along");
    region.remove_file();
    assert_eq!(twice, 0, "taken twice");
    assert!(lost <= kills, "{lost} are lost with {kills} takers");
    assert!(kills > TAKERS_MIN && published > 10_000, "too little was killed");
}

fn main() {
    let started = Instant::now();
    let passed = [run, kill_takers].map(|case| std::panic::catch_unwind(case).is_ok());
    let failed = passed.iter().filter(|passed| !**passed).count();
    let (word, passed) = (if failed == 0 { "ok" } else { "FAILED" }, passed.len() - failed);
    // In the words of cargo's own runner: scripts/test.sh adds them up.
    println!(
        "test result: {word}. {passed} passed; {failed} failed; finished in {:.2}s",
        started.elapsed().as_secs_f64()
    );
    std::process::exit(i32::from(failed > 0));
}
