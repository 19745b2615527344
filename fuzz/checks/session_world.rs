//! Invariants of every conversation, checked with models of workers, gate, rings and enabler: events are read in any order
//! and more than once, answers arrive at any time, and anything may fail.

use super::session_enabler::{Enabler, opened_by};
use imcharge::charge::ch2::{Failure, Operation, Request, Response, SessionKey};
use imcharge::charge::content::ContentClass;
use imcharge::charge::event::{Direction, Event, FailureReport, Flag, OfferedFiles, Reserve, Sent, Stop, Suspended};
use imcharge::charge::policy::{Cases, Policy, Resend, Settle};
use imcharge::charge::service::Service;
use imcharge::charge::session::{Output, Session};
use imcharge::charge::tariff::{PriceList, Tariff};
use imcharge::charge::time::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// One action in the world.
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
    /// An entry of the rings is read and removed.
    Read(u8),
    /// An entry of the rings is read and kept, to be read again.
    ReadTwice(u8),
    /// The enabler executes the pending request and answers.
    Answer,
    /// The enabler executes the pending request, and its answer is lost.
    LoseAnswer,
    /// The enabler fails without executing the pending request.
    Fail,
    /// The pending request times out. `executed`: the enabler executed it; `known`: the server that received it is known.
    Silence {
        executed: bool,
        known: bool,
    },
    /// A request that timed out is executed, unless it was before, and answered.
    Late(u8),
    /// The enabler requests a renewal.
    Reauthorize,
    /// The enabler ends the session.
    Abort,
    /// The operator decides about the request that is held back, and never calls an unexecuted one done.
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

/// Price of a message, in units of the account; of one of each class if they differ.
const PRICE: u32 = 5;
const PRICES: [u32; 4] = [PRICE, 9, 1, 3];

/// What a session is.
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    pub service: Service,
    /// Whether the classes have different prices.
    pub has_classes: bool,
    /// Whether the INVITE opens another session for the called party, and whether this is that one.
    pub is_paired: bool,
    pub is_called: bool,
    pub recipients: u32,
}

impl Kind {
    fn prices(self) -> PriceList {
        let price = |message| Tariff { message, kilobyte: 0 };
        let tariffs = if self.has_classes { PRICES.map(price) } else { [price(PRICE); 4] };
        PriceList::new(tariffs, self.recipients)
    }
}

/// Returns the class of a message.
fn class_of(message: u8) -> ContentClass {
    ContentClass::ALL[usize::from(message) % 4]
}

/// Expected server bindings of requests.
#[derive(Default)]
struct Bindings {
    /// Servers that may hold a reservation, by the number of the request that opened it; `None`: unknown.
    known: BTreeMap<u32, Vec<Option<Arc<str>>>>,
    /// Binding of the pending request.
    last: Option<Arc<str>>,
}

impl Bindings {
    /// A request is sent to the server that holds its reservation; a resend keeps its binding.
    fn check(&mut self, request: &Request, again: bool) {
        if again {
            assert_eq!(request.server_binding, self.last, "a resend keeps its server binding");
        } else if let Some(known) = opened_by(request).and_then(|number| self.known.get(&number)) {
            assert!(known.contains(&request.server_binding), "{:?} is not one of {known:?}", request.server_binding);
        }
        self.last.clone_from(&request.server_binding);
    }
}

/// Model of the gate slot in shared memory.
#[derive(Default)]
struct Gate {
    granted: u32,
    taken: u32,
    closed: bool,
    known: BTreeSet<u8>,
}

/// A ring entry; Message-IDs are numbers until it is read.
#[derive(Clone, Debug)]
enum Ring {
    Sent { message: u8, part: Part, transaction: u8, taken: u32, connection: u64 },
    Stopped,
    Other(Act),
}

pub struct World {
    session: Session,
    /// Copy that is stored and restored before every call.
    stored: Session,
    /// Its stored parts.
    parts: BTreeMap<u32, Vec<u8>>,
    now: Time,
    policy: Policy,
    prices: PriceList,
    /// Whether the sender pays. Then a message that is debited after its release, or whose id is used again, is debited more
    /// often than once, and without a reservation.
    is_paid_by_sender: bool,
    enabler: Enabler,
    gate: Gate,
    rings: Vec<(Time, Ring)>,
    pending: Option<Request>,
    next_number: u32,
    bindings: Bindings,
    /// Requests that timed out.
    lost: Vec<Request>,
    /// Whether a request is held back.
    held_back: bool,
    passed: BTreeSet<u8>,
    aborted: BTreeSet<u8>,
    debited: BTreeMap<String, u32>,
    /// Sum of the debits, less that of the refunds.
    units: i64,
    free: BTreeMap<String, u32>,
    refunded: BTreeMap<String, u32>,
    /// Messages with a failure REPORT that was read.
    reported: BTreeSet<u8>,
    verdicts: u32,
    closed: u32,
    forgotten: u32,
}

impl World {
    /// Opens a session for this many messages. `in_part`: the enabler grants in part.
    pub fn new(messages: u32, balance: i64, in_part: bool, policy: Policy, kind: Kind) -> World {
        let reserve = Reserve {
            call_id: "c1",
            account: "sip:alice@example.org",
            other: "",
            icid: "",
            direction: Direction::Pull,
            service: kind.service,
            recipients: kind.recipients,
            called: kind.is_paired.then_some("sip:bob@example.org"),
            tariff: "",
            files: OfferedFiles::default(),
            messages,
            page: None,
            suspended: Suspended::default(),
            inviting_tag: 0,
        };
        let called = reserve.of_called_party().filter(|_| kind.is_called);
        let (prices, now) = (kind.prices(), Time(1_000_000_000));
        let session = Session::open(SessionKey(1, 2), called.as_ref().unwrap_or(&reserve), prices, policy, 0, now);
        let mut world = World {
            stored: session.clone(),
            parts: BTreeMap::new(),
            session,
            now,
            policy,
            prices,
            is_paid_by_sender: kind.service.is_paid_by_sender(),
            enabler: Enabler::new(balance, prices.measure().price, in_part),
            gate: Gate::default(),
            rings: Vec::new(),
            pending: None,
            next_number: 0,
            bindings: Bindings::default(),
            lost: Vec::new(),
            held_back: false,
            passed: BTreeSet::new(),
            aborted: BTreeSet::new(),
            debited: BTreeMap::new(),
            units: 0,
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

    /// Calls both sessions and executes their outputs.
    fn call(&mut self, call: impl Fn(&mut Session)) {
        self.parts.extend(self.stored.take_changed_parts());
        let parts = self.parts.values().filter(|part| !part.is_empty()).map(Vec::as_slice);
        self.stored = Session::load(&self.stored.head(), parts).expect("a stored session can be restored");
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
        assert_eq!(self.stored.take_trace(), self.session.take_trace(), "storing does not change the trace");
        assert_eq!(self.session.deadline(), self.stored.deadline());
        self.check_reserved();
    }

    /// Session and enabler agree about what is reserved while no request is pending.
    fn check_reserved(&self) {
        if self.session.unacknowledged().next().is_some() {
            return;
        }
        let of_session = self.enabler.held.iter().filter(|(opened_by, _)| self.session.has_reservation(**opened_by));
        let held: i64 = of_session.map(|(_, held)| held).sum();
        assert_eq!(self.session.reserved().0, held as u64, "session and enabler agree about what is reserved");
    }

    fn take(&mut self, output: Output) {
        assert_eq!(self.forgotten, 0, "no output follows Forget");
        match output {
            Output::Ask(request) => self.asked(request),
            Output::Verdict(_) => self.verdicts += 1,
            Output::Grant(total) => {
                assert!(!self.gate.closed, "a closed gate gets no grant");
                self.gate.granted = total.0;
            }
            Output::StopMessage { .. } => assert!(self.is_paid_by_sender, "messages are counted, so none is stopped"),
            Output::ForgetMessage { message_id } => {
                let number = message_id.strip_prefix("message-").and_then(|number| number.parse().ok());
                self.gate.known.remove(&number.expect("a Message-ID of the test"));
            }
            Output::CloseGate => {
                self.gate.closed = true;
                let (taken, now) = (self.gate.taken, self.now);
                self.session.on_gate_closed(taken, now);
                self.stored.on_gate_closed(taken, now);
            }
            Output::Debited { message_id, units, class, .. } => {
                check_class(&message_id, class);
                self.units += units.0 as i64;
                *self.debited.entry(message_id.into()).or_default() += 1;
            }
            Output::NotDebited { message_id, class, .. } => {
                check_class(&message_id, class);
                *self.free.entry(message_id.into()).or_default() += 1;
            }
            Output::Refunded { message_id, units, .. } => {
                self.units -= units.0 as i64;
                *self.refunded.entry(message_id.into()).or_default() += 1;
            }
            Output::RefundDenied { .. } | Output::DebitDenied { .. } => {
                panic!("the enabler refuses no debit or refund")
            }
            Output::HeldBack { .. } => {
                assert_eq!(self.policy.resend, Resend::Hold, "requests are held back only with resend=hold");
                assert!(!std::mem::replace(&mut self.held_back, true), "one request is held back at a time");
            }
            Output::EnablerFailed(_) => {}
            Output::Closed { .. } => self.closed += 1,
            Output::Forget => self.forgotten += 1,
        }
    }

    fn asked(&mut self, request: Request) {
        assert!(self.pending.is_none() && !self.held_back, "one request is pending");
        let again = request.number != self.next_number;
        if again {
            assert_eq!(
                request.number + 1,
                self.next_number,
                "numbers count up by one, and only the last request is resent"
            );
        } else {
            self.next_number += 1;
        }
        self.bindings.check(&request, again);
        self.pending = Some(request);
    }

    pub fn act(&mut self, act: Act) {
        match act {
            Act::Send { message, part, transaction } => self.pass(message, part, transaction),
            Act::Read(index) => self.read(index, false),
            Act::ReadTwice(index) => self.read(index, true),
            Act::Answer => self.answer(true, true),
            Act::LoseAnswer => self.answer(true, false),
            Act::Fail => self.answer(false, false),
            Act::Silence { executed, known } => self.time_out(executed, known),
            Act::Late(index) => self.answer_late(index),
            Act::Reauthorize => {
                let opened_by = self.enabler.held.keys().next_back().copied().unwrap_or(0);
                self.enabler_asks(&Event::Reauthorize { opened_by });
            }
            Act::Abort => self.enabler_asks(&Event::Abort),
            Act::Resolve { again } => self.resolve(again),
            Act::Pass { seconds } => {
                // Rings and network are faster than the linger time of a closed session.
                if self.closed > 0 {
                    self.read_all();
                    self.answer_all_late();
                }
                self.now = self.now.after_seconds(seconds);
                let now = self.now;
                self.call(|session| session.on_timer(now));
            }
            other => self.rings.push((self.now, Ring::Other(other))),
        }
    }

    /// Passes a SEND through the gate.
    fn pass(&mut self, message: u8, part: Part, transaction: u8) {
        let content = matches!(part, Part::Whole | Part::First | Part::Second);
        let known = self.gate.known.contains(&message);
        let (mut taken, weight) = (0, self.prices.weight(class_of(message)).message);
        if content && (self.gate.closed || (!known && self.gate.taken + weight > self.gate.granted)) {
            self.rings.push((self.now, Ring::Stopped));
            return;
        }
        if content {
            if !known {
                taken = weight;
                self.gate.taken += weight;
                self.gate.known.insert(message);
            }
            self.passed.insert(message);
        }
        if matches!(part, Part::Abort) {
            self.aborted.insert(message);
        }
        if self.is_paid_by_sender && matches!(part, Part::Whole | Part::Second | Part::Abort) {
            self.gate.known.remove(&message);
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
                let sent = Sent { class: class_of(message), ..sent(&message_id, part, transaction, taken, connection) };
                self.call(|session| session.on_event(&Event::Sent(sent.clone()), at));
            }
            Ring::Stopped => {
                self.call(|session| {
                    session.on_event(&Event::Stopped { message_id: "x", why: Stop::Beyond, quota: 0 }, at)
                });
            }
            Ring::Other(Act::Report { message, end, code }) => {
                let message_id = id(message);
                let event = Event::Reported { message_id: &message_id, start: 1, end, code };
                if code >= 400 {
                    self.reported.insert(message);
                }
                self.call(|session| session.on_event(&event, at));
            }
            Ring::Other(act) => {
                let event = event(&act);
                self.call(|session| session.on_event(&event, at));
            }
        }
    }

    fn answer(&mut self, executed: bool, delivered: bool) {
        let Some(request) = self.pending.take() else {
            return;
        };
        // The binding releases a reservation whose answer is lost, as if it had not been executed.
        let reserve = matches!(request.operation, Operation::Reserve { .. });
        let response = match (executed, delivered) {
            (true, true) => self.enabler.execute(&request),
            (true, false) if !reserve => {
                self.enabler.execute(&request);
                Response::Failed(Failure::Enabler)
            }
            _ => Response::Failed(Failure::Enabler),
        };
        self.tell(&request, &response);
    }

    /// Delivers an answer to the session.
    fn tell(&mut self, request: &Request, response: &Response) {
        if let Response::Granted(grant) = response {
            self.bindings
                .known
                .insert(opened_by(request).unwrap_or(request.number), vec![grant.server_binding.clone()]);
        }
        let now = self.now;
        self.call(|session| session.on_response(request.number, response, now));
    }

    fn time_out(&mut self, executed: bool, known: bool) {
        let Some(mut request) = self.pending.take() else { return };
        if executed {
            self.enabler.execute(&request);
        }
        if known {
            let binding: Arc<str> = format!("receiver of {}", request.number).into();
            self.call(|session| session.on_request_lost(request.number, &binding));
            self.bindings.last.get_or_insert_with(|| binding.clone());
            request.server_binding.get_or_insert(binding);
        }
        if opened_by(&request).is_none() && matches!(request.operation, Operation::Reserve { .. }) {
            self.bindings.known.entry(request.number).or_default().push(request.server_binding.clone());
        }
        self.lost.push(request.clone());
        self.tell(&request, &Response::Failed(Failure::Silent));
    }

    /// Answers a request that timed out: a reservation as a late grant, a renewal not at all, anything else as an answer if
    /// the request is still pending.
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
                if let Response::Granted(grant) = self.enabler.execute(&request) {
                    self.bindings.known.entry(number).or_default().push(grant.server_binding.clone());
                    self.call(|session| session.on_late_grant(number, grant.server_binding.clone(), now));
                }
            }
            _ => {
                let response = self.enabler.execute(&request);
                if self.session.pending_request(number).is_some() {
                    (self.pending, self.held_back) = (None, false);
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
        self.call(|session| session.on_event(event, now));
    }

    fn resolve(&mut self, again: bool) {
        let (now, is_held) = (self.now, std::mem::take(&mut self.held_back));
        let is_done = self.enabler.answers.contains_key(&self.next_number.saturating_sub(1));
        let again = again || !is_done;
        self.call(|session| assert_eq!(session.resolve(again, now), is_held));
    }

    /// Reads all entries, sends BYE, answers all requests and lets all timers expire.
    pub fn end(&mut self) {
        self.read_all();
        (1..=LEGS).for_each(|leg| self.act(Act::Sip(Sip::Bye { leg })));
        self.read_all();
        self.answer_all_late();
        for _ in 0..10_000 {
            if self.pending.is_some() {
                self.answer(true, true);
            } else if self.held_back {
                self.resolve(false);
            } else if let Some(deadline) = self.session.deadline() {
                self.now = self.now.max(deadline);
                let now = self.now;
                self.call(|session| session.on_timer(now));
            } else {
                return;
            }
        }
        panic!("the session does not end: {}", self.session.phase());
    }

    pub fn check(&self) {
        assert_eq!((self.verdicts, self.closed, self.forgotten), (1, 1, 1), "one verdict, one Closed and one Forget");
        assert_eq!(self.enabler.held.values().sum::<i64>(), 0, "nothing is reserved");
        assert_eq!(self.enabler.debited, self.units, "the session reports what the enabler debited");
        let may_exceed = self.enabler.uncovered || self.is_paid_by_sender;
        assert!(may_exceed || self.enabler.balance >= 0, "grants are covered by the account");
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
        if self.is_paid_by_sender {
            return;
        }
        let Cases { client_error, server_error, timeout, close, abort, report, .. } = self.policy.cases;
        let reported = report == Settle::Release && self.reported.contains(&message);
        let refunded = self.refunded.get(&id).copied().unwrap_or(0);
        assert!(debited <= 1 + refunded, "{id} is debited once more only after a refund");
        assert!(refunded <= debited && (reported || refunded == 0), "{id} is refunded only after a failure REPORT");
        let may_be_free = reported
            || [client_error, server_error, timeout, close].contains(&Settle::Release)
            || (abort == Settle::Release && self.aborted.contains(&message));
        assert!(free == 0 || may_be_free, "{id} is not charged only by policy");
    }
}

/// A message keeps its class.
fn check_class(message_id: &str, class: ContentClass) {
    let number = message_id.strip_prefix("message-").and_then(|number| number.parse().ok());
    assert_eq!(class, class_of(number.expect("a Message-ID of the test")), "{message_id} keeps its class");
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
        file_octets: 0,
        total: None,
        flag,
        failure_report: FailureReport::Yes,
        success_report: transaction.is_multiple_of(2),
        taken,
        class: ContentClass::Text,
        free_octets: 0,
        connection,
    }
}

fn event(act: &Act) -> Event<'static> {
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
