//! Tests of the session by topic: a script of events against one session, with an enabler under control of the test.

mod ahead;
mod amounts;
mod chunks;
mod dialogs;
mod ending;
mod failure;
mod immediate;
mod limits;
mod order;
mod page;
mod refunds;
mod requests;
mod reservation;
mod restart;
mod sent;
mod settlement;
mod takeover;
mod traces;

use super::*;
use crate::charge::ch2::{Denial, Grant, Operation, Request, Reservation, Trigger};
use crate::charge::content::ContentClass;
use crate::charge::event::{Direction, FailureReport, Flag, OfferedFiles, Sent, Stop, Suspended};
use crate::charge::policy::{DebitOn, OnFailure, Resend, Settle};
use crate::charge::service::Service;
use crate::charge::tariff::{Quota, Units};

/// Time in seconds after the INVITE.
fn s(seconds: u64) -> Time {
    Time(1_000_000_000 + seconds * 1_000_000)
}

fn invite(messages: u32) -> Reserve<'static> {
    Reserve {
        call_id: "a84b4c76e66710@pc33.example.org",
        account: "sip:alice@example.org",
        other: "sip:store@im.example.org",
        icid: "1234bc9876e",
        direction: Direction::Pull,
        service: Service::Retrieval,
        recipients: 0,
        called: None,
        tariff: "",
        files: OfferedFiles::default(),
        messages,
        page: None,
        suspended: Suspended { index: 1, label: 2, continuation: 3 },
        inviting_tag: 0,
    }
}

const KEY: SessionKey = SessionKey(1, 2);
const SERVER: u64 = 10;
const CLIENT: u64 = 20;

/// A whole message of 100 octets in one chunk that passes for the first time.
fn whole(message_id: &'static str, transaction: u64) -> Sent<'static> {
    Sent {
        message_id,
        transaction,
        start: 1,
        octets: 100,
        file_octets: 0,
        total: Some(100),
        flag: Flag::Last,
        failure_report: FailureReport::Yes,
        success_report: false,
        taken: 1,
        class: ContentClass::Text,
        free_octets: 0,
        connection: SERVER,
    }
}

fn chunk(message_id: &'static str, transaction: u64, start: u64, octets: u64, flag: Flag) -> Sent<'static> {
    let taken = u32::from(start == 1);
    Sent { start, octets, flag, total: None, taken, ..whole(message_id, transaction) }
}

fn abort(message_id: &'static str, transaction: u64) -> Sent<'static> {
    Sent { taken: 0, ..chunk(message_id, transaction, 1, 0, Flag::Aborted) }
}

fn responded(transaction: u64, code: u16) -> Event<'static> {
    Event::Responded { transaction, code, connection: CLIENT }
}

fn reported(message_id: &'static str, start: u64, end: Option<u64>, code: u16) -> Event<'static> {
    Event::Reported { message_id, start, end, code }
}

/// A session, all its outputs, and an enabler that answers on demand.
struct Run {
    session: Session,
    out: Vec<Output>,
    /// The pending request.
    request: Option<Request>,
    trace: Vec<TraceEvent>,
}

impl Run {
    fn new(messages: u32, tariff: &str, policy: Policy) -> Run {
        let tariff = tariff.parse().expect("a tariff");
        let session = Session::open(KEY, &invite(messages), tariff, policy, 0, s(0));
        let mut run = Run { session, out: Vec::new(), request: None, trace: Vec::new() };
        run.drain();
        run
    }

    /// A session whose reservation is pending.
    fn reserving(messages: u32) -> Run {
        Run::new(messages, "message:5", Policy::default())
    }

    /// A session that is granted and answered.
    fn open_with(messages: u32, policy: Policy) -> Run {
        let mut run = Run::new(messages, "message:5", policy);
        run.accept();
        run.event(Event::Answered { leg: 1 }, s(0));
        run
    }

    fn open() -> Run {
        Run::open_with(8, Policy::default())
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            if let Output::Ask(request) = &output {
                self.request = Some(request.clone());
            }
            self.out.push(output);
        }
        let (first, events) = self.session.take_trace();
        assert_eq!(first as usize, self.trace.len(), "trace events are numbered consecutively");
        self.trace.extend(events);
    }

    fn event(&mut self, event: Event<'_>, at: Time) {
        self.session.on_event(&event, at);
        self.drain();
    }

    fn sent(&mut self, sent: Sent<'_>, at: Time) {
        self.event(Event::Sent(sent), at);
    }

    fn taken_over(&mut self, at: Time) {
        self.request = None;
        self.session.on_taken_over(at);
        self.drain();
    }

    fn timer(&mut self, now: Time) {
        self.session.on_timer(now);
        self.drain();
    }

    fn answer(&mut self, response: Response) {
        let request = self.request.take().expect("a request is pending");
        self.session.on_response(request.number, &response, s(0));
        self.drain();
    }

    /// The enabler accepts the pending request.
    fn accept(&mut self) {
        let asked = self.request.as_ref().expect("a request is pending");
        let ended = matches!(asked.reservation, Reservation::Last { .. });
        self.answer(match &asked.operation {
            Operation::Reserve { quota } => Response::granted(*quota, Some(7)),
            Operation::Debit { .. } => Response::Debited { balance: Some(7), ended, rest: None },
            Operation::Refund { .. } => Response::Refunded { balance: Some(7) },
            Operation::Release => Response::Released { balance: Some(7) },
        });
    }

    fn gate_closed(&mut self, at: Time) {
        self.session.on_gate_closed(self.session.taken(), at);
        self.drain();
    }

    /// Closes the gate if requested, and the enabler accepts all requests.
    fn settle(&mut self) {
        let taken = self.session.taken();
        self.session.on_gate_closed(taken, s(0));
        self.drain();
        while self.request.is_some() {
            self.accept();
        }
    }

    /// Description of the pending request; empty if there is none.
    fn pending(&self) -> String {
        self.request.as_ref().map_or_else(String::new, |request| describe(&request.operation))
    }

    /// Descriptions of all requests, in order.
    fn requests(&self) -> Vec<String> {
        let description = |output: &Output| match output {
            Output::Ask(request) => Some(describe(&request.operation)),
            _ => None,
        };
        self.out.iter().filter_map(description).collect()
    }

    fn debits(&self) -> Vec<String> {
        self.requests().into_iter().filter(|ask| ask.starts_with("debit")).collect()
    }

    fn not_charged(&self) -> Vec<&'static str> {
        let reason = |output: &Output| match output {
            Output::NotDebited { rule, .. } => Some(rule.as_str()),
            _ => None,
        };
        self.out.iter().filter_map(reason).collect()
    }

    fn verdicts(&self) -> Vec<(Decision, u32)> {
        let verdict = |output: &Output| match output {
            Output::Verdict(verdict) => Some((verdict.result, verdict.granted.0)),
            _ => None,
        };
        self.out.iter().filter_map(verdict).collect()
    }

    fn grants(&self) -> Vec<u32> {
        let grant = |output: &Output| match output {
            Output::Grant(total) => Some(total.0),
            _ => None,
        };
        self.out.iter().filter_map(grant).collect()
    }

    fn closed(&self) -> Option<&str> {
        self.out.iter().find_map(|output| match output {
            Output::Closed { outcome } => Some(&**outcome),
            _ => None,
        })
    }

    fn is_gate_closing(&self) -> bool {
        self.out.contains(&Output::CloseGate)
    }
}

fn describe(operation: &Operation) -> String {
    match operation {
        Operation::Reserve { quota } => format!("reserve {}", quota.0),
        Operation::Release => "release".to_owned(),
        Operation::Refund { message_id, .. } => format!("refund {message_id}"),
        Operation::Debit { message_id, trigger: Trigger::Error(code), .. } => {
            format!("debit {message_id} error {code}")
        }
        Operation::Debit { message_id, trigger, .. } => format!("debit {message_id} {}", trigger.as_str()),
    }
}

fn policy(change: impl FnOnce(&mut Policy)) -> Policy {
    let mut policy = Policy::default();
    change(&mut policy);
    policy
}

/// The second pass of a [`whole`] message through this relay.
fn passed_again(message_id: &str, transaction: u64) -> Event<'_> {
    let first = whole("", transaction);
    Event::PassedAgain { message_id, transaction, start: first.start, octets: first.octets }
}

fn unsent(message_id: &'static str, transaction: u64) -> Event<'static> {
    Event::Unsent { message_id, transaction }
}

fn debit_pending_with_refunds() -> Run {
    let mut run = Run::open_with(8, policy(|p| p.cases.report = Settle::Release));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run
}

fn granted(total: u32) -> Response {
    Response::Granted(Grant { reserved: Some(Quota(total)), ..Grant::default() })
}

fn pending_operation(run: &Run) -> (Operation, Reservation) {
    let asked = run.request.clone().expect("a request is pending");
    (asked.operation, asked.reservation)
}
