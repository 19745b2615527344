//! The main loop with an enabler whose accounts and sessions are shared between nodes.

use super::*;
use crate::charge::ch2::{Denial, Operation, Request, Reservation, Response};
use crate::charge::policy::{OnFailure, Settle};
use crate::charge::session::Session;
use crate::enabler::scripted::{BINDING, Given, Script, use_script};
use crate::enabler::{Account, AccountChange, AccountOutcome, AdoptedSession, Refusal, SessionState};
use crate::engine::store::LEDGER;
use crate::shm::notification::{EventRoutes, Kind, NotificationReader, Outcome};
use crate::shm::record::{self, CommandResult};
use crate::worker::FrameDecision;
use crate::worker::sip_input::{Dialog, Frame, Method, Reply, Request as SipRequest};
use std::cell::RefCell;
use std::rc::Rc;

const SERVER: &str = "msrp://10.0.4.1:9/server;tcp";
const CLIENT: &str = "msrp://10.0.4.2:9/client;tcp";

/// A node: an engine, a process of its host, and the enabler.
struct Node {
    engine: Engine,
    worker: Worker,
    script: Rc<RefCell<Script>>,
    folder: tempfile::TempDir,
    _file: RegionFile,
}

/// Removes the file of a region when dropped.
struct RegionFile(Arc<Region>);

impl Drop for RegionFile {
    fn drop(&mut self) {
        self.0.remove_file();
    }
}

fn lease_of_an_hour() -> Time {
    Time(clock::now().0 + 3_600_000_000)
}

impl Node {
    fn new() -> Node {
        Node::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut Config)) -> Node {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = Config { state_dir: folder.path().to_owned(), enabler: &BINDING, ..Config::default() };
        change(&mut config);
        let region = preflight::create_region(config, 1).expect("a region");
        let script = Rc::new(RefCell::new(Script { lease_until: lease_of_an_hour(), ..Script::default() }));
        use_script(&script);
        let engine = Engine::start(&region).unwrap_or_else(|error| panic!("{error}"));
        let worker = Worker::attach(&region, 0).expect("not attached yet");
        Node { engine, worker, script, folder, _file: RegionFile(region) }
    }

    /// Kills the engine and starts another one.
    fn restart(self) -> Node {
        let Node { engine, worker, script, folder, _file } = self;
        drop(engine);
        use_script(&script);
        let engine = Engine::start(&_file.0).unwrap_or_else(|error| panic!("{error}"));
        Node { engine, worker, script, folder, _file }
    }

    /// Runs ticks until everything has left the engine, and returns what the enabler was given.
    fn run(&mut self) -> Vec<Given> {
        let begun = Instant::now();
        loop {
            self.engine.tick().unwrap_or_else(|error| panic!("{error}"));
            let is_done = self.engine.after_sync.is_empty() && self.engine.after_tables.is_empty();
            if is_done && self.script.borrow().events.is_empty() {
                return std::mem::take(&mut self.script.borrow_mut().given);
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "not synced within 20 s");
            clock::pause(Duration::from_millis(1));
        }
    }

    /// Reports an event of the enabler, and returns what it was given then.
    fn report(&mut self, event: EnablerEvent) -> Vec<Given> {
        self.script.borrow_mut().events.push_back(event);
        self.run()
    }

    /// Answers a request as accepted.
    fn accept(&mut self, request: &Request) -> Vec<Given> {
        let response = match &request.operation {
            Operation::Reserve { quota } => Response::granted(*quota, Some(7)),
            Operation::Debit { .. } => {
                let ended = matches!(request.reservation, Reservation::Last { .. });
                Response::Debited { balance: Some(7), ended, rest: None }
            }
            Operation::Refund { .. } => Response::Refunded { balance: Some(7) },
            Operation::Release => Response::Released { balance: Some(7) },
        };
        let (session, number) = (request.session, request.number);
        self.report(EnablerEvent::Response { session, number, response, may_be_at: None })
    }

    /// Accepts all requests until there are none, and returns everything that the enabler was given.
    fn accept_all(&mut self, mut given: Vec<Given>) -> Vec<Given> {
        let mut asked = requests(&given);
        while let Some(request) = asked.pop() {
            let next = self.accept(&request);
            asked.extend(requests(&next));
            given.extend(next);
        }
        given
    }

    fn invite(&mut self, cseq: u32) -> SessionKey {
        let asked = self.worker.reserve(&Invite {
            key: InviteKey { call_id: b"a84b@pc33", from_tag: b"f", cseq },
            asserted: [b"<sip:alice@example.org>", b""],
            from: b"",
            called_party: b"",
            request_uri: b"sip:im@example.org",
            subscriber: b"",
            direction: None,
            charging_vector: b"",
            messages: 3,
            content: ChargedContent::Received,
            recipients: 0,
            tariff: b"",
            offer: sdp(&path(CLIENT)),
            suspended: Suspended::default(),
        });
        asked.expect("the engine runs")
    }

    /// Opens a session whose INVITE is granted and answered.
    fn open(&mut self, cseq: u32) -> SessionKey {
        let session = self.invite(cseq);
        let given = self.run();
        let reserve = requests(&given).remove(0);
        self.accept(&reserve);
        let dialog = |to_tag| Dialog { call_id: b"a84b@pc33", from_tag: b"f", to_tag };
        let [offer, answer] = [path(CLIENT), path(SERVER)];
        let (method, uri, source) = (Method::Invite, b"sip:im@example.org", None);
        let contact = b"<sip:a@10.0.0.1>";
        let invite = SipRequest { method, dialog: dialog(b""), cseq, uri, contact, body: sdp(&offer), source };
        let (is_reliable, body) = (false, sdp(&answer));
        let reply = Reply { code: 200, method, dialog: dialog(b"t"), cseq, is_reliable, contact, body, source };
        assert!(self.worker.replied(&reply, Some(&invite)));
        self.run();
        session
    }

    /// The server sends a message.
    fn send(&mut self, id: &str) -> FrameDecision {
        let frame = format!(
            "MSRP tx-{id} SEND\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {CLIENT}\r\nFrom-Path: {SERVER}\r\n\
             Message-ID: {id}\r\nByte-Range: 1-2/2\r\nContent-Type: text/plain\r\n\r\nhi\r\n-------tx-{id}$\r\n"
        );
        self.worker.frame(&Frame::of_connection(frame.as_bytes(), 7))
    }

    /// The client accepts a message.
    fn respond(&mut self, id: &str) {
        self.answer(id, 200);
    }

    /// The client answers a message.
    fn answer(&mut self, id: &str, code: u16) {
        let frame = format!(
            "MSRP tx-{id} {code} OK\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {SERVER}\r\nFrom-Path: {CLIENT}\r\n-------tx-{id}$\r\n"
        );
        assert_eq!(self.worker.frame(&Frame::of_connection(frame.as_bytes(), 8)), FrameDecision::Pass);
    }

    fn counted(&self, statistic: Statistic) -> u64 {
        self.engine.region.statistic(statistic)
    }

    /// Outcome and reason of the second verdict.
    fn verdict_after_the_first(&self) -> (Outcome, String) {
        let mut reader = NotificationReader::attach(&self.engine.region, 0).expect("not attached");
        let mut found = Vec::new();
        while reader.next(|notification| {
            let Kind::Verdict { result, .. } = notification.kind else { panic!("{notification:?}") };
            found.push((result, notification.reason.to_owned()));
        }) {}
        found.remove(1)
    }

    /// Tells all sessions that their host has stopped, and returns what the enabler was given then.
    fn stop_host(&mut self) -> Vec<Given> {
        for key in self.engine.sessions.open_sessions() {
            let stopped = self.engine.step(|sessions, tick| sessions.host_stopped(tick, key));
            stopped.unwrap_or_else(|error| panic!("{error}"));
        }
        self.run()
    }

    /// A number that the ledger of this node answers.
    fn count_rows(&mut self, sql: &str) -> i64 {
        self.engine.store.finish(Duration::from_secs(10)).unwrap_or_else(|error| panic!("{error}"));
        let ledger = rusqlite::Connection::open(self.folder.path().join(LEDGER)).expect("the ledger");
        ledger.query_row(sql, [], |row| row.get(0)).expect("a number")
    }
}

fn path(path: &str) -> String {
    format!("v=0\r\nm=message 7777 TCP/MSRP *\r\na=path:{path}\r\n")
}

fn sdp(text: &str) -> Body<'_> {
    Body { content_type: b"application/sdp", bytes: text.as_bytes() }
}

fn requests(given: &[Given]) -> Vec<Request> {
    let request = |given: &Given| match given {
        Given::Request(request) => Some(request.clone()),
        Given::State(_) | Given::Command(_) => None,
    };
    given.iter().filter_map(request).collect()
}

fn states(given: &[Given]) -> Vec<SessionState> {
    let state = |given: &Given| match given {
        Given::State(state) => Some(state.clone()),
        Given::Request(_) | Given::Command(_) => None,
    };
    given.iter().filter_map(state).collect()
}

/// Words for what was given.
fn words(given: &[Given]) -> Vec<String> {
    let word = |given: &Given| match given {
        Given::State(SessionState { head: Some(_), .. }) => "state".to_owned(),
        Given::State(_) => "settled".to_owned(),
        Given::Command(command) => format!("{:?}", command.change),
        Given::Request(request) => match &request.operation {
            Operation::Reserve { quota } => format!("reserve {}", quota.0),
            Operation::Debit { message_id, .. } => format!("debit {message_id}"),
            Operation::Refund { message_id, .. } => format!("refund {message_id}"),
            Operation::Release => "release".to_owned(),
        },
    };
    given.iter().map(word).collect()
}

/// What another node adopts of a state.
fn adopted(state: &SessionState) -> EnablerEvent {
    EnablerEvent::Adopted(AdoptedSession {
        session: state.session,
        account: state.account.clone(),
        opened_at: state.opened_at,
        head: state.head.clone().expect("the session is not settled"),
        parts: state.parts.iter().map(|(_, part)| part.clone()).collect(),
        from: "dead".into(),
    })
}

#[test]
fn state_goes_before_the_requests_of_its_tick_and_ends_with_the_session() {
    let mut node = Node::new();
    let session = node.invite(1);
    let given = node.run();
    assert_eq!(words(&given), ["state", "reserve 3"]);
    let first = states(&given).remove(0);
    assert_eq!((first.session, &*first.account), (session, "sip:alice@example.org"));
    let given = node.report(EnablerEvent::Response {
        session,
        number: requests(&given)[0].number,
        response: Response::Denied(Denial::NoCredit),
        may_be_at: None,
    });
    assert_eq!(words(&given), ["settled"]);
}

#[test]
fn session_is_replicated_with_each_change_until_it_is_settled() {
    let mut node = Node::new();
    let session = node.open(1);
    assert_eq!(node.send("msg1"), FrameDecision::Pass);
    assert_eq!(words(&node.run()), ["state"]);
    node.respond("msg1");
    let given = node.run();
    assert_eq!(words(&given), ["state", "debit msg1"]);
    let copy = Session::load(states(&given)[0].head.as_deref().expect("a state"), []).expect("its state");
    assert_eq!((copy.key(), copy.debits_pending()), (session, 1));
    assert_eq!(words(&node.accept(&requests(&given)[0])), ["state"]);
    let given = node.stop_host();
    assert_eq!(words(&given), ["state", "release"]);
    assert_eq!(words(&node.accept(&requests(&given)[0])), ["settled"]);
    assert_eq!(words(&node.run()), [""; 0]);
}

#[test]
fn restart_sends_all_states_and_the_pending_request_again() {
    let mut node = Node::new();
    node.open(1);
    assert_eq!(node.send("msg1"), FrameDecision::Pass);
    node.respond("msg1");
    let before = node.run();
    let mut node = node.restart();
    let after = node.run();
    assert_eq!(words(&after), ["state", "debit msg1"]);
    let [before, after] = [before, after].map(|given| requests(&given).remove(0));
    assert_eq!(after, Request { possible_duplicate: true, rate_limited: true, ..before });
}

/// A session of many messages is stored in parts. Those that hold nothing any more are removed again after a restart, because
/// an engine may have died before it sent that.
#[test]
fn restart_removes_empty_parts_again() {
    let mut node = Node::with(|config| config.policy.cases.client_error = Settle::Release);
    let session = node.open(1);
    for number in 0..40 {
        assert_eq!(node.send(&format!("msg{number}")), FrameDecision::Pass);
        node.answer(&format!("msg{number}"), 413);
        node.run();
    }
    let mut node = node.restart();
    let states = states(&node.run());
    assert_eq!((states[0].session, &states[0].parts), (session, &vec![(1, vec![]), (2, vec![])]));
    assert_eq!(node.send("more"), FrameDecision::Pass);
    let [(2, part)] = &self::states(&node.run())[0].parts[..] else { panic!("one part has changed") };
    assert!(!part.is_empty());
}

#[test]
fn orderly_stop_hands_over_the_last_state_before_the_enabler_leaves() {
    let mut node = Node::new();
    node.invite(1);
    let asked = requests(&node.run()).remove(0);
    // The engine answers within its stop: the reservation is refused, and the session is settled.
    node.script.borrow_mut().events.push_back(EnablerEvent::Response {
        session: asked.session,
        number: asked.number,
        response: Response::Denied(Denial::NoCredit),
        may_be_at: None,
    });
    node.engine.stop().unwrap_or_else(|error| panic!("{error}"));
    let script = node.script.borrow();
    assert_eq!(words(&script.given).last().map(String::as_str), Some("settled"));
    assert_eq!(script.given_at_leave, script.given.len());
}

#[test]
fn lease_ends_at_the_gate_unless_failures_grant() {
    for (on_failure, passes) in [(OnFailure::Deny, false), (OnFailure::Grant, true)] {
        let mut node = Node::with(|config| config.policy.on_failure = on_failure);
        node.open(1);
        assert_eq!(node.send("msg1"), FrameDecision::Pass);
        node.script.borrow_mut().lease_until = Time(clock::now().0);
        node.run();
        let wanted = if passes { FrameDecision::Pass } else { FrameDecision::BeyondGrant };
        assert_eq!(node.send("msg2"), wanted);
        assert_eq!(node.counted(Statistic::FramesLeaseOver), u64::from(!passes));
        node.run();
        node.script.borrow_mut().lease_until = lease_of_an_hour();
        node.run();
        assert_eq!(node.send("msg3"), FrameDecision::Pass);
    }
}

#[test]
fn lease_of_the_engine_before_counts_until_there_is_a_new_one() {
    let mut node = Node::new();
    node.open(1);
    assert_eq!(node.send("msg1"), FrameDecision::Pass);
    node.run();
    node.script.borrow_mut().lease_until = Time(0);
    let mut node = node.restart();
    node.run();
    assert_eq!(node.send("msg2"), FrameDecision::Pass);
    // Once it has had a lease, none means that another node has taken the sessions over.
    node.script.borrow_mut().lease_until = lease_of_an_hour();
    node.run();
    node.script.borrow_mut().lease_until = Time(0);
    node.run();
    assert_eq!(node.send("msg3"), FrameDecision::BeyondGrant);
    assert_eq!(node.counted(Statistic::FramesLeaseOver), 1);
}

#[test]
fn new_lease_counts_once_the_gates_of_lost_sessions_are_closed() {
    let mut node = Node::new();
    node.open(1);
    node.script.borrow_mut().lease_until = Time(clock::now().0);
    node.run();
    node.script.borrow_mut().lease_until = lease_of_an_hour();
    node.script.borrow_mut().events.push_back(EnablerEvent::TakenOver);
    node.engine.serve_enabler();
    assert_eq!((node.send("msg1"), node.counted(Statistic::FramesLeaseOver)), (FrameDecision::BeyondGrant, 1));
    node.run();
    assert_eq!((node.send("msg2"), node.counted(Statistic::FramesLeaseOver)), (FrameDecision::BeyondGrant, 1));
    assert!(!node.engine.region.table().lease.is_over());
}

#[test]
fn taken_over_sessions_end_and_debit_without_their_reservations() {
    let mut node = Node::new();
    node.open(1);
    assert_eq!((node.send("msg1"), node.send("msg2")), (FrameDecision::Pass, FrameDecision::Pass));
    node.respond("msg1");
    let debit = requests(&node.run()).remove(0);
    node.invite(2);
    node.run();
    let given = node.report(EnablerEvent::TakenOver);
    assert_eq!(words(&given), ["debit msg1"], "its state is not replicated any more");
    let again = requests(&given).remove(0);
    assert_eq!((again.number, again.reservation), (debit.number, Reservation::None));
    assert_eq!(node.verdict_after_the_first(), (Outcome::Failed, "enabler-failed".into()));
    assert_eq!(node.send("msg3"), FrameDecision::BeyondGrant);
    let given = node.accept_all(given);
    assert_eq!(words(&given), ["debit msg1", "debit msg2"]);
    assert!(!node.engine.sessions.has_open());
    assert_eq!(node.counted(Statistic::Debits), 2);
    // A session that is opened under the next epoch is replicated.
    node.invite(3);
    assert_eq!(words(&node.run()), ["state", "reserve 3"]);
}

/// A session with a debit that is not answered and a message that waits for its answer, and its state.
fn dying_node() -> (Node, SessionState) {
    let mut dying = Node::new();
    dying.open(1);
    assert_eq!((dying.send("msg1"), dying.send("msg2")), (FrameDecision::Pass, FrameDecision::Pass));
    dying.respond("msg1");
    let state = states(&dying.run()).remove(0);
    (dying, state)
}

#[test]
fn adopted_session_is_settled_and_enters_the_history_of_this_node() {
    let (dying, state) = dying_node();
    let pending = dying.engine.sessions.pending(state.session).expect("the debit");
    let mut node = Node::new();
    let given = node.report(adopted(&state));
    assert_eq!(words(&given), ["state", "debit msg1"]);
    let again = requests(&given).remove(0);
    assert_eq!((again.number, again.reservation), (pending.number, pending.reservation));
    // The engine dies; another one continues.
    let mut node = node.restart();
    let given = node.run();
    let given = node.accept_all(given);
    let words = words(&given);
    let without_states: Vec<_> = words.iter().filter(|word| *word != "state").collect();
    assert_eq!(without_states, ["debit msg1", "debit msg2", "release", "settled"]);
    assert!(!node.engine.sessions.has_open());
    assert_eq!(node.count_rows("SELECT count(*) FROM debits"), 2);
    let sql = format!("SELECT count(*) FROM sessions WHERE opened_at={} AND closed_at NOT NULL", state.opened_at);
    assert_eq!(node.count_rows(&sql), 1);
}

#[test]
fn repeated_adoption_only_confirms_it() {
    let (_dying, state) = dying_node();
    let mut node = Node::new();
    node.report(adopted(&state));
    assert_eq!(words(&node.report(adopted(&state))), ["state"]);
    assert_eq!(node.engine.sessions.all_sessions().len(), 1);
}

#[test]
fn session_that_comes_back_continues_with_its_own_state() {
    let (mut node, state) = dying_node();
    let given = node.report(EnablerEvent::TakenOver);
    assert_eq!(words(&given), ["debit msg1"]);
    // The node that has taken it over dies, too. The own state replaces its copy until the session is settled.
    let back = node.report(adopted(&state));
    assert_eq!(words(&back), ["state"]);
    let given = node.accept_all(given);
    assert_eq!(words(&given), ["debit msg1", "state", "debit msg2", "settled"]);
    assert_eq!(node.counted(Statistic::Debits), 2);
    // It has been settled here: what is held for the copy is released at once.
    assert_eq!(words(&node.report(EnablerEvent::TakenOver)), [""; 0]);
    assert_eq!(words(&node.report(adopted(&state))), ["settled"]);
}

#[test]
fn unreadable_state_is_removed_so_that_its_hold_is_released() {
    let (_dying, state) = dying_node();
    let mut node = Node::new();
    let cut = SessionState { head: state.head.clone().map(|head| head[..head.len() / 2].to_vec()), ..state.clone() };
    let of_another = SessionState { session: state.session.companion(), ..state };
    for wrong in [cut, of_another] {
        let given = node.report(adopted(&wrong));
        assert_eq!(words(&given), ["settled"]);
        let removed = &states(&given)[0];
        assert_eq!((removed.session, &*removed.account), (wrong.session, "sip:alice@example.org"));
    }
    assert_eq!(node.counted(Statistic::SessionsUnreadable), 2);
    assert!(node.engine.sessions.all_sessions().is_empty());
}

/// Sends a command about an account, and returns its sequence and its number at the enabler.
fn change(node: &mut Node, change: AccountChange) -> (u64, u64) {
    let (account, reference, by) = ("sip:alice@example.org", "r1", "rpc");
    let sequence = node.worker.order(record::Command::Account { account, change, reference, by }).expect("room");
    let given = node.run();
    let [Given::Command(command)] = &given[..] else { panic!("{given:?}") };
    assert_eq!((&*command.id, command.change, &*command.reference), (account, change, reference));
    (sequence, command.number)
}

#[test]
fn command_about_an_account_is_answered_by_the_enabler() {
    let mut node = Node::new();
    let account = Account { balance: 5, held: 2, limit: 1, ..Account::default() };
    let changed = |number, outcome| EnablerEvent::AccountChanged { number, outcome, account: Some(account) };
    let first = change(&mut node, AccountChange::Add(5));
    let second = change(&mut node, AccountChange::Set(9));
    assert!(second.1 > first.1);
    node.report(changed(second.1, AccountOutcome::Refused(Refusal::AboveMaximum)));
    let region = Arc::clone(&node.engine.region);
    let reply = || {
        let slot = region.reply_slot(0);
        let [balance, held, limit] = [&slot.balance, &slot.held, &slot.limit].map(|word| word.load(Ordering::Relaxed));
        (slot.sequence.load(Ordering::Acquire), slot.code.load(Ordering::Relaxed), (balance, held, limit))
    };
    let refused = (second.0, CommandResult::AboveMaximum as u32, (5, 2, 1));
    assert_eq!(reply(), refused);
    // The first sender has given up; its late answer must not replace the reply to the second. The top-up counts.
    node.report(changed(first.1, AccountOutcome::Done));
    assert_eq!((reply(), node.counted(Statistic::TopUps)), (refused, 1));
    node.report(changed(first.1, AccountOutcome::Done));
    assert_eq!(node.counted(Statistic::TopUps), 1, "an answer counts once");
}

#[test]
fn command_is_passed_on_once_and_its_number_rises_over_a_restart() {
    let mut node = Node::new();
    let first = change(&mut node, AccountChange::Limit(5));
    let mut node = node.restart();
    assert_eq!(words(&node.run()), [""; 0]);
    assert!(change(&mut node, AccountChange::Remove).1 > first.1);
}

#[test]
fn low_balance_reaches_the_event_route() {
    let mut node = Node::new();
    node.engine.region.set_event_routes(EventRoutes { low_balance: true, ..EventRoutes::default() });
    let session = node.open(1);
    let account = Account { balance: 1, held: 3, ..Account::default() };
    node.report(EnablerEvent::LowBalance { id: "sip:alice@example.org".into(), account, session: Some(session) });
    let mut reader = NotificationReader::attach_to_events(&node.engine.region, 0).expect("not attached");
    let is_read = reader.next(|found| {
        assert!(matches!(found.kind, Kind::LowBalance));
        assert_eq!((found.session, found.call_id, found.account), (session, "a84b@pc33", "sip:alice@example.org"));
        assert_eq!((found.balance, found.held), (Some(1), Some(3)));
    });
    assert!(is_read);
    assert_eq!(node.counted(Statistic::LowBalances), 1);
}
