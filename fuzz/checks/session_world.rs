//! What holds for every conversation: workers, gate, rings and an enabler as a model, events read in any
//! order and more than once, answers at any time, failures anywhere.

use imcharge::charge::ch2::{Denial, Failure, Grant, Operation, Request, Reservation, Response, SessionKey};
use imcharge::charge::event::{Direction, Event, FailureReport, Flag, Reserve, Sent, Stop, Suspended};
use imcharge::charge::policy::{Policy, Resend, Settle};
use imcharge::charge::session::{Output, Session};
use imcharge::charge::tariff::{Per, Quota, Tariff};
use imcharge::charge::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const PRICE: u32 = 5;

/// One thing that happens in the world.
#[derive(Clone, Debug)]
pub enum Act {
    Send {
        message: u8,
        part: Part,
        transaction: u8,
    },
    Respond {
        transaction: u8,
        code: u16,
    },
    Report {
        message: u8,
        end: Option<u64>,
        code: u16,
    },
    Sip(Sip),
    Move {
        connection: u64,
    },
    Lose {
        connection: u64,
    },
    /// An entry of the rings is read.
    Read(u8),
    /// It is read, and will be read again.
    ReadTwice(u8),
    /// The enabler answers.
    Answer,
    /// The enabler does what is asked, and its answer is lost.
    LoseAnswer,
    /// The enabler does nothing.
    Fail,
    /// No answer comes in time; perhaps it is `done`, and perhaps somebody is known who has the request.
    Silence {
        done: bool,
        went: bool,
    },
    /// A request that had no answer in time is done, if it is not yet, and answered.
    Late(u8),
    /// The enabler wants to be asked again.
    Reauthorize,
    /// The enabler ends the session.
    Abort,
    /// The operator decides about what is held back. He does not call done what is not.
    Resolve {
        again: bool,
    },
    Pass {
        seconds: u32,
    },
}

#[derive(Clone, Copy, Debug)]
pub enum Part {
    Whole,
    First,
    Second,
    Empty,
    Abort,
}

#[derive(Clone, Copy, Debug)]
pub enum Sip {
    EarlyDialog { leg: u64 },
    Answered { leg: u64 },
    Cancelled,
    Failed,
    Bye { leg: u64 },
    DialogOver { leg: u64 },
    End,
    HostStopped,
}

/// Dialogs of one INVITE.
pub const LEGS: u64 = 3;

/// One account, whole units only, and every answer kept under its number.
struct Enabler {
    balance: i64,
    /// By the number of the request that opened each reservation.
    held: BTreeMap<u32, i64>,
    debited: i64,
    start: i64,
    answers: BTreeMap<u32, Response>,
    /// How often each reservation was released, and how often it was granted late.
    released: BTreeMap<u32, u32>,
    late: BTreeMap<u32, u32>,
    /// A debit came after the release, or without a reservation: it may take the balance below zero.
    uncovered: bool,
    /// It grants in part. One that does not ends a reservation whose UPDATE it refuses.
    in_part: bool,
}

impl Enabler {
    fn ask(&mut self, request: &Request) -> Response {
        if let Some(answer) = self.answers.get(&request.number) {
            return answer.clone();
        }
        let opened_by = opened_by(request);
        let answer = match &request.operation {
            Operation::Reserve { quota } => self.reserve(opened_by.unwrap_or(request.number), *quota),
            Operation::Debit { units, .. } => {
                self.debit(opened_by, i64::try_from(units.0).expect("a price"));
                let mut ended = false;
                if let Reservation::Last { opened_by, .. } = request.reservation {
                    self.close(opened_by);
                    ended = true;
                }
                Response::Debited { balance: Some(self.balance), ended, rest: None }
            }
            Operation::Refund { units, .. } => self.refund(i64::try_from(units.0).expect("a price")),
            Operation::Release => self.release(opened_by.expect("a release is of a reservation")),
        };
        let held: i64 = self.held.values().sum();
        assert_eq!(self.balance + held + self.debited, self.start, "money is conserved");
        self.answers.insert(request.number, answer.clone());
        answer
    }

    /// Of nothing more, it goes on as it is.
    fn reserve(&mut self, opened_by: u32, quota: Quota) -> Response {
        let granted = (self.balance / i64::from(PRICE)).clamp(0, quota.0.into());
        let is_enough = granted == i64::from(quota.0) || (self.in_part && granted > 0);
        let Some(more) = u32::try_from(granted).ok().filter(|_| is_enough) else {
            assert!(!self.held.contains_key(&opened_by), "what is open is not asked for more: a refusal may end it");
            return Response::Denied(if quota.0 > 1 { Denial::NotSoMany } else { Denial::NoCredit });
        };
        let is_late = self.late.contains_key(&opened_by);
        assert!(is_late || !self.released.contains_key(&opened_by), "nothing is reserved after the release");
        assert!(quota.0 > 0 || self.held.contains_key(&opened_by), "only what is there is renewed");
        self.balance -= granted * i64::from(PRICE);
        *self.held.entry(opened_by).or_default() += granted * i64::from(PRICE);
        let (server_binding, balance) = (Some(format!("who granted {opened_by}").into()), Some(self.balance));
        Response::Granted(Grant { quota: Quota(more), server_binding, balance, ..Grant::default() })
    }

    fn debit(&mut self, opened_by: Option<u32>, units: i64) {
        let hold = opened_by.map(|number| self.held.get_mut(&number).expect("it is debited out of what is there"));
        let from_hold = hold.map_or(0, |hold| {
            let from_hold = units.min(*hold);
            *hold -= from_hold;
            from_hold
        });
        self.uncovered |= from_hold < units;
        self.balance -= units - from_hold;
        self.debited += units;
    }

    fn refund(&mut self, units: i64) -> Response {
        self.balance += units;
        self.debited -= units;
        Response::Refunded { balance: Some(self.balance) }
    }

    fn release(&mut self, opened_by: u32) -> Response {
        self.close(opened_by);
        Response::Released { balance: Some(self.balance) }
    }

    /// What is not there is no more than that.
    fn close(&mut self, opened_by: u32) {
        *self.released.entry(opened_by).or_default() += 1;
        let late = self.late.get(&opened_by).copied().unwrap_or(0);
        assert!(self.released.get(&opened_by) <= Some(&(1 + late)), "one release");
        self.balance += self.held.remove(&opened_by).unwrap_or(0);
    }
}

/// Which reservation a request finds, by the number of the request that opened it.
fn opened_by(request: &Request) -> Option<u32> {
    match request.reservation {
        Reservation::None => None,
        Reservation::Open { opened_by, .. } | Reservation::Last { opened_by, .. } => Some(opened_by),
    }
}

/// Where requests go.
#[derive(Default)]
struct Ways {
    /// Who may have each reservation, by the number of the request that opened it. `None`: nobody is known.
    known: BTreeMap<u32, Vec<Option<Arc<str>>>>,
    /// Where the request in flight goes, or would if it were asked again.
    last: Option<Arc<str>>,
}

impl Ways {
    /// A request of a reservation goes to who has it, and one that comes again to who may have it.
    fn check(&mut self, request: &Request, again: bool) {
        if again {
            assert_eq!(request.server_binding, self.last, "it goes where it went");
        } else if let Some(known) = opened_by(request).and_then(|number| self.known.get(&number)) {
            assert!(known.contains(&request.server_binding), "{:?} is not one of {known:?}", request.server_binding);
        }
        self.last.clone_from(&request.server_binding);
    }
}

/// The grant slot in shared memory.
#[derive(Default)]
struct Gate {
    granted: u32,
    taken: u32,
    closed: bool,
    known: BTreeSet<u8>,
}

/// A ring entry; texts are numbers until it is read.
#[derive(Clone, Debug)]
enum Ring {
    Sent { message: u8, part: Part, transaction: u8, taken: u32, connection: u64 },
    Stopped,
    Other(Act),
}

pub struct World {
    session: Session,
    /// Goes through the store before every call.
    stored: Session,
    /// What of it is stored beside its head.
    parts: BTreeMap<u32, Vec<u8>>,
    now: Time,
    policy: Policy,
    enabler: Enabler,
    gate: Gate,
    rings: Vec<(Time, Ring)>,
    in_flight: Option<Request>,
    next_number: u32,
    ways: Ways,
    /// Requests that had no answer in time.
    lost: Vec<Request>,
    /// Whether a request waits for the operator.
    held_back: bool,
    passed: BTreeSet<u8>,
    aborted: BTreeSet<u8>,
    debited: BTreeMap<String, u32>,
    free: BTreeMap<String, u32>,
    refunded: BTreeMap<String, u32>,
    /// Messages about which a failure REPORT was read.
    reported: BTreeSet<u8>,
    verdicts: u32,
    closed: u32,
    forgotten: u32,
}

impl World {
    /// A session for this many messages, at an enabler that grants in part or not.
    pub fn new(messages: u32, balance: i64, in_part: bool, policy: Policy) -> World {
        let reserve = Reserve {
            call_id: "c1",
            account: "sip:alice@example.org",
            other: "",
            icid: "",
            direction: Direction::Pull,
            messages,
            suspended: Suspended::default(),
            inviting_tag: 0,
        };
        let tariff = Tariff { per: Per::Message, price: PRICE };
        let now = Time(1_000_000_000);
        let session = Session::open(SessionKey(1, 2), &reserve, tariff, policy, 0, now);
        let mut world = World {
            stored: session.clone(),
            parts: BTreeMap::new(),
            session,
            now,
            policy,
            enabler: Enabler {
                balance,
                held: BTreeMap::new(),
                debited: 0,
                start: balance,
                answers: BTreeMap::new(),
                released: BTreeMap::new(),
                late: BTreeMap::new(),
                uncovered: false,
                in_part,
            },
            gate: Gate::default(),
            rings: Vec::new(),
            in_flight: None,
            next_number: 0,
            ways: Ways::default(),
            lost: Vec::new(),
            held_back: false,
            passed: BTreeSet::new(),
            aborted: BTreeSet::new(),
            debited: BTreeMap::new(),
            free: BTreeMap::new(),
            refunded: BTreeMap::new(),
            reported: BTreeSet::new(),
            verdicts: 0,
            closed: 0,
            forgotten: 0,
        };
        world.drain();
        world
    }

    /// Calls both sessions and does what they want.
    fn call(&mut self, call: impl Fn(&mut Session)) {
        self.parts.extend(self.stored.take_changed_parts());
        let parts = self.parts.values().filter(|part| !part.is_empty()).map(Vec::as_slice);
        self.stored = Session::load(&self.stored.head(), parts).expect("what is stored can be read");
        call(&mut self.session);
        call(&mut self.stored);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            assert_eq!(self.stored.poll().as_ref(), Some(&output), "storing changes nothing");
            self.take(output);
        }
        assert_eq!(self.stored.poll(), None);
        assert_eq!(self.stored.take_trace(), self.session.take_trace(), "storing changes no step");
        assert_eq!(self.session.deadline(), self.stored.deadline());
        self.check_reserved();
    }

    /// Where nothing is on its way, session and enabler agree about what is reserved.
    fn check_reserved(&self) {
        if self.session.unacknowledged().next().is_some() {
            return;
        }
        let of_session = self.enabler.held.iter().filter(|(opened_by, _)| self.session.has_reservation(**opened_by));
        let held: i64 = of_session.map(|(_, held)| held).sum();
        assert_eq!(self.session.reserved().0, held as u64, "what is reserved");
    }

    fn take(&mut self, output: Output) {
        assert_eq!(self.forgotten, 0, "nothing comes after the end");
        match output {
            Output::Ask(request) => self.asked(request),
            Output::Verdict(_) => self.verdicts += 1,
            Output::Grant(total) => {
                assert!(!self.gate.closed, "a closed gate gets no grant");
                self.gate.granted = total.0;
            }
            Output::StopMessage { .. } => panic!("the rest of a message is paid for"),
            Output::ForgetMessage { message_id } => {
                let number = message_id.strip_prefix("message-").and_then(|number| number.parse().ok());
                self.gate.known.remove(&number.expect("one of ours"));
            }
            Output::CloseGate => {
                self.gate.closed = true;
                let (taken, now) = (self.gate.taken, self.now);
                self.session.gate_closed(taken, now);
                self.stored.gate_closed(taken, now);
            }
            Output::Debited { message_id, .. } => *self.debited.entry(message_id.into()).or_default() += 1,
            Output::NotDebited { message_id, .. } => *self.free.entry(message_id.into()).or_default() += 1,
            Output::Refunded { message_id, .. } => *self.refunded.entry(message_id.into()).or_default() += 1,
            Output::RefundDenied { .. } | Output::DebitDenied { .. } => {
                panic!("this enabler refuses nothing that is with the client")
            }
            Output::HeldBack { .. } => {
                assert_eq!(self.policy.resend, Resend::Hold, "else it is asked again");
                assert!(!std::mem::replace(&mut self.held_back, true), "it is held back once");
            }
            Output::EnablerFailed(_) => {}
            Output::Closed { .. } => self.closed += 1,
            Output::Forget => self.forgotten += 1,
        }
    }

    fn asked(&mut self, request: Request) {
        assert!(self.in_flight.is_none() && !self.held_back, "one request is in flight");
        let again = request.number != self.next_number;
        if again {
            assert_eq!(request.number + 1, self.next_number, "numbers rise by one, only the last comes again");
        } else {
            self.next_number += 1;
        }
        self.ways.check(&request, again);
        self.in_flight = Some(request);
    }

    pub fn act(&mut self, act: Act) {
        match act {
            Act::Send { message, part, transaction } => self.pass(message, part, transaction),
            Act::Read(index) => self.read(index, false),
            Act::ReadTwice(index) => self.read(index, true),
            Act::Answer => self.answer(true, true),
            Act::LoseAnswer => self.answer(true, false),
            Act::Fail => self.answer(false, false),
            Act::Silence { done, went } => self.keep_silent(done, went),
            Act::Late(index) => self.answer_late(index),
            Act::Reauthorize => {
                let opened_by = self.enabler.held.keys().next_back().copied().unwrap_or(0);
                self.enabler_asks(&Event::Reauthorize { opened_by });
            }
            Act::Abort => self.enabler_asks(&Event::Abort),
            Act::Resolve { again } => self.resolve(again),
            Act::Pass { seconds } => {
                // The engine reads its rings, and the network carries, well within the time that a closed session lingers.
                if self.closed > 0 {
                    self.read_all();
                    self.answer_all_late();
                }
                self.now = self.now.after_seconds(seconds);
                let now = self.now;
                self.call(|session| session.timer(now));
            }
            other => self.rings.push((self.now, Ring::Other(other))),
        }
    }

    /// A SEND at the gate.
    fn pass(&mut self, message: u8, part: Part, transaction: u8) {
        let content = matches!(part, Part::Whole | Part::First | Part::Second);
        let known = self.gate.known.contains(&message);
        let mut taken = 0;
        if content && (self.gate.closed || (!known && self.gate.taken >= self.gate.granted)) {
            self.rings.push((self.now, Ring::Stopped));
            return;
        }
        if content {
            if !known {
                taken = 1;
                self.gate.taken += 1;
                self.gate.known.insert(message);
            }
            self.passed.insert(message);
        }
        if matches!(part, Part::Abort) {
            self.aborted.insert(message);
        }
        let connection = u64::from(transaction % 3);
        self.rings.push((self.now, Ring::Sent { message, part, transaction, taken, connection }));
    }

    fn read_all(&mut self) {
        while !self.rings.is_empty() {
            self.read(0, false);
        }
    }

    fn read(&mut self, index: u8, again: bool) {
        if self.rings.is_empty() {
            return;
        }
        let index = usize::from(index) % self.rings.len();
        let (at, entry) = if again { self.rings[index].clone() } else { self.rings.remove(index) };
        let id = |message: u8| format!("message-{message}");
        match entry {
            Ring::Sent { message, part, transaction, taken, connection } => {
                let message_id = id(message);
                let sent = sent(&message_id, part, transaction, taken, connection);
                self.call(|session| session.event(&Event::Sent(sent.clone()), at));
            }
            Ring::Stopped => {
                self.call(|session| session.event(&Event::Stopped { message_id: "x", why: Stop::Beyond }, at))
            }
            Ring::Other(Act::Report { message, end, code }) => {
                let message_id = id(message);
                let event = Event::Reported { message_id: &message_id, start: 1, end, code };
                if code >= 400 {
                    self.reported.insert(message);
                }
                self.call(|session| session.event(&event, at));
            }
            Ring::Other(act) => {
                let event = plain(&act);
                self.call(|session| session.event(&event, at));
            }
        }
    }

    fn answer(&mut self, done: bool, told: bool) {
        let Some(request) = self.in_flight.take() else {
            return;
        };
        // A reservation whose answer is lost is given back by the binding: as if it were never done.
        let reserve = matches!(request.operation, Operation::Reserve { .. });
        let response = match (done, told) {
            (true, true) => self.enabler.ask(&request),
            (true, false) if !reserve => {
                self.enabler.ask(&request);
                Response::Failed(Failure::Enabler)
            }
            _ => Response::Failed(Failure::Enabler),
        };
        self.tell(&request, &response);
    }

    /// An answer reaches the session.
    fn tell(&mut self, request: &Request, response: &Response) {
        if let Response::Granted(grant) = response {
            self.ways.known.insert(opened_by(request).unwrap_or(request.number), vec![grant.server_binding.clone()]);
        }
        let now = self.now;
        self.call(|session| session.response(request.number, response, now));
    }

    fn keep_silent(&mut self, done: bool, went: bool) {
        let Some(mut request) = self.in_flight.take() else { return };
        if done {
            self.enabler.ask(&request);
        }
        if went {
            let route: Arc<str> = format!("who got {}", request.number).into();
            self.call(|session| session.on_request_lost(request.number, &route));
            self.ways.last.get_or_insert_with(|| route.clone());
            request.server_binding.get_or_insert(route);
        }
        if opened_by(&request).is_none() && matches!(request.operation, Operation::Reserve { .. }) {
            self.ways.known.entry(request.number).or_default().push(request.server_binding.clone());
        }
        self.lost.push(request.clone());
        self.tell(&request, &Response::Failed(Failure::Silent));
    }

    /// A reservation that is granted late is told as such; anything else is an answer, as long as it has none. What was
    /// to make a reservation greater is not done after its time, and its answer is of no use.
    fn answer_late(&mut self, index: u8) {
        if self.lost.is_empty() {
            return;
        }
        let request = self.lost.remove(usize::from(index) % self.lost.len());
        let (number, now) = (request.number, self.now);
        match (&request.operation, opened_by(&request)) {
            (Operation::Reserve { .. }, Some(_)) => {}
            (Operation::Reserve { .. }, None) => {
                *self.enabler.late.entry(number).or_default() += 1;
                if let Response::Granted(grant) = self.enabler.ask(&request) {
                    self.ways.known.entry(number).or_default().push(grant.server_binding.clone());
                    self.call(|session| session.on_late_grant(number, grant.server_binding.clone(), now));
                }
            }
            _ => {
                let response = self.enabler.ask(&request);
                if self.session.pending_request(number).is_some() {
                    (self.in_flight, self.held_back) = (None, false);
                    self.tell(&request, &response);
                }
            }
        }
    }

    fn answer_all_late(&mut self) {
        while !self.lost.is_empty() {
            self.answer_late(0);
        }
    }

    fn enabler_asks(&mut self, event: &Event<'_>) {
        let now = self.now;
        self.call(|session| session.event(event, now));
    }

    fn resolve(&mut self, again: bool) {
        let (now, is_held) = (self.now, std::mem::take(&mut self.held_back));
        let is_done = self.enabler.answers.contains_key(&self.next_number.saturating_sub(1));
        let again = again || !is_done;
        self.call(|session| assert_eq!(session.resolve(again, now), is_held));
    }

    /// Everything is read, BYE comes, everything is answered and all timers run out.
    pub fn end(&mut self) {
        self.read_all();
        (1..=LEGS).for_each(|leg| self.act(Act::Sip(Sip::Bye { leg })));
        self.read_all();
        self.answer_all_late();
        for _ in 0..10_000 {
            if self.in_flight.is_some() {
                self.answer(true, true);
            } else if self.held_back {
                self.resolve(false);
            } else if let Some(deadline) = self.session.deadline() {
                self.now = self.now.max(deadline);
                let now = self.now;
                self.call(|session| session.timer(now));
            } else {
                return;
            }
        }
        panic!("the session comes to no end: {}", self.session.phase());
    }

    pub fn check(&self) {
        assert_eq!((self.verdicts, self.closed, self.forgotten), (1, 1, 1), "verdict, closed, forget");
        assert_eq!(self.enabler.held.values().sum::<i64>(), 0, "nothing is held");
        let debits: u32 = self.debited.values().sum();
        let refunds: u32 = self.refunded.values().sum();
        let told = i64::from(debits) - i64::from(refunds);
        assert_eq!(self.enabler.debited, told * i64::from(PRICE), "what is told is what was taken");
        assert!(self.enabler.uncovered || self.enabler.balance >= 0, "what is granted is paid for");
        for message in 0..6 {
            self.check_message(message);
        }
    }

    fn check_message(&self, message: u8) {
        let id = format!("message-{message}");
        let debited = self.debited.get(&id).copied().unwrap_or(0);
        let free = self.free.get(&id).copied().unwrap_or(0);
        if !self.passed.contains(&message) {
            assert_eq!((debited, free), (0, 0), "{id} never passed");
            return;
        }
        assert!(debited + free >= 1, "{id} is settled");
        let Policy { server_error, close, abort, report, .. } = self.policy;
        let reported = report == Settle::Release && self.reported.contains(&message);
        let refunded = self.refunded.get(&id).copied().unwrap_or(0);
        assert!(debited <= 1 + refunded, "{id} is debited once, unless it is given back");
        assert!(refunded <= debited && (reported || refunded == 0), "{id} is given back for a reason");
        let may_be_free = reported
            || server_error == Settle::Release
            || close == Settle::Release
            || (abort == Settle::Release && self.aborted.contains(&message));
        assert!(free == 0 || may_be_free, "{id} costs nothing for a reason");
    }
}

fn sent(message_id: &str, part: Part, transaction: u8, taken: u32, connection: u64) -> Sent<'_> {
    let (start, octets, flag) = match part {
        Part::Whole => (1, 100, Flag::Last),
        Part::First => (1, 50, Flag::More),
        Part::Second => (51, 50, Flag::Last),
        Part::Empty => (1, 0, Flag::Last),
        Part::Abort => (51, 0, Flag::Aborted),
    };
    Sent {
        message_id,
        transaction: transaction.into(),
        start,
        octets,
        total: None,
        flag,
        failure_report: FailureReport::Yes,
        success_report: transaction.is_multiple_of(2),
        taken,
        connection,
    }
}

fn plain(act: &Act) -> Event<'static> {
    match *act {
        Act::Respond { transaction, code } => Event::Responded { transaction: transaction.into(), code, connection: 2 },
        Act::Lose { connection } => Event::ConnectionLost { connection },
        Act::Sip(Sip::EarlyDialog { leg }) => Event::EarlyDialog { leg },
        Act::Sip(Sip::Answered { leg }) => Event::Answered { leg },
        Act::Sip(Sip::Cancelled) => Event::Cancelled { transaction: None },
        Act::Sip(Sip::Failed) => Event::Failed { code: 487, transaction: None },
        Act::Sip(Sip::Bye { leg }) => Event::Bye { leg },
        Act::Sip(Sip::DialogOver { leg }) => Event::DialogOver { leg },
        Act::Sip(Sip::End) => Event::End { reason: "script" },
        Act::Sip(Sip::HostStopped) => Event::HostStopped,
        Act::Move { connection } => Event::Activity { connection },
        _ => Event::Activity { connection: 0 },
    }
}
