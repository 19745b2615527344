//! One test for each row of the table of rulings, named after it.

mod ahead;
mod delivered;
mod rules;

use super::*;
use crate::charge::ch2::{Denial, Grant, Operation, Request, Reservation, Trigger};
use crate::charge::event::{Direction, FailureReport, Flag, Sent, Stop, Suspended};
use crate::charge::policy::{DebitOn, OnFailure, Resend, Settle};
use crate::charge::tariff::{Quota, Units};

/// Seconds after the INVITE.
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
        messages,
        suspended: Suspended { index: 1, label: 2, continuation: 3 },
        inviting_tag: 0,
    }
}

const KEY: SessionKey = SessionKey(1, 2);
const SERVER: u64 = 10;
const CLIENT: u64 = 20;

/// A whole message of 100 octets in one chunk, the first time it passes.
fn whole(message_id: &'static str, transaction: u64) -> Sent<'static> {
    Sent {
        message_id,
        transaction,
        start: 1,
        octets: 100,
        total: Some(100),
        flag: Flag::Last,
        failure_report: FailureReport::Yes,
        success_report: false,
        taken: 1,
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

/// A session, everything it has put out, and an enabler that says yes when it is asked to.
struct Run {
    session: Session,
    out: Vec<Output>,
    /// The request that is not answered.
    asked: Option<Request>,
    steps: Vec<TraceEvent>,
}

impl Run {
    fn new(messages: u32, tariff: &str, policy: Policy) -> Run {
        let tariff = tariff.parse().expect("a tariff");
        let session = Session::open(KEY, &invite(messages), tariff, policy, 0, s(0));
        let mut run = Run { session, out: Vec::new(), asked: None, steps: Vec::new() };
        run.drain();
        run
    }

    /// Asked, and not answered yet.
    fn invited(messages: u32) -> Run {
        Run::new(messages, "message:5", Policy::default())
    }

    /// Granted, answered and bound.
    fn open_with(messages: u32, policy: Policy) -> Run {
        let mut run = Run::new(messages, "message:5", policy);
        run.yes();
        run.event(Event::Answered { leg: 1 }, s(0));
        run
    }

    fn open() -> Run {
        Run::open_with(8, Policy::default())
    }

    fn drain(&mut self) {
        while let Some(output) = self.session.poll() {
            if let Output::Ask(request) = &output {
                self.asked = Some(request.clone());
            }
            self.out.push(output);
        }
        let (first, steps) = self.session.take_trace();
        assert_eq!(first as usize, self.steps.len(), "steps are numbered one by one");
        self.steps.extend(steps);
    }

    fn event(&mut self, event: Event<'_>, at: Time) {
        self.session.event(&event, at);
        self.drain();
    }

    fn sent(&mut self, sent: Sent<'_>, at: Time) {
        self.event(Event::Sent(sent), at);
    }

    fn timer(&mut self, now: Time) {
        self.session.timer(now);
        self.drain();
    }

    fn answer(&mut self, response: Response) {
        let request = self.asked.take().expect("a request is in flight");
        self.session.response(request.number, &response, s(0));
        self.drain();
    }

    /// The enabler says yes to one request.
    fn yes(&mut self) {
        let asked = self.asked.as_ref().expect("a request is in flight");
        let ended = matches!(asked.reservation, Reservation::Last { .. });
        self.answer(match &asked.operation {
            Operation::Reserve { quota } => Response::granted(*quota, Some(7)),
            Operation::Debit { .. } => Response::Debited { balance: Some(7), ended, rest: None },
            Operation::Refund { .. } => Response::Refunded { balance: Some(7) },
            Operation::Release => Response::Released { balance: Some(7) },
        });
    }

    fn gate_closed(&mut self, at: Time) {
        self.session.gate_closed(self.session.taken(), at);
        self.drain();
    }

    /// The enabler says yes until nothing is asked, and the gate is closed where that is wanted.
    fn settle(&mut self) {
        let taken = self.session.taken();
        self.session.gate_closed(taken, s(0));
        self.drain();
        while self.asked.is_some() {
            self.yes();
        }
    }

    /// What is asked and not answered, as one word with its number of things.
    fn asking(&self) -> String {
        self.asked.as_ref().map_or_else(String::new, |request| ask_word(&request.operation))
    }

    /// Every request, in order.
    fn asks(&self) -> Vec<String> {
        let word = |output: &Output| match output {
            Output::Ask(request) => Some(ask_word(&request.operation)),
            _ => None,
        };
        self.out.iter().filter_map(word).collect()
    }

    fn debits(&self) -> Vec<String> {
        self.asks().into_iter().filter(|ask| ask.starts_with("debit")).collect()
    }

    fn free(&self) -> Vec<&'static str> {
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

    fn gate_closing(&self) -> bool {
        self.out.contains(&Output::CloseGate)
    }
}

fn ask_word(operation: &Operation) -> String {
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

// The reservation.

#[test]
fn figure_15_reserve_debit_release() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.yes();
    run.event(Event::Bye { leg: 1 }, s(3));
    run.event(Event::DialogOver { leg: 1 }, s(3));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "debit m1 response", "release"]);
    assert_eq!(run.closed(), Some("bye"));
    assert_eq!(run.session.counts(), Counts { debited: 1, units: Units(5), refunded: 0, not_debited: 0 });
    run.timer(s(3 + 31));
    assert_ne!(run.out.last(), Some(&Output::Forget));
    run.timer(s(3 + 32));
    assert_eq!(run.out.last(), Some(&Output::Forget));
    assert_eq!(run.session.deadline(), None);
}

#[test]
fn a_reservation_without_a_number_is_for_as_many_as_are_kept_ahead() {
    assert_eq!(Run::new(0, "message:5", Policy::default()).asks(), ["reserve 128"]);
}

#[test]
fn a_reservation_of_kilobytes_lets_the_first_chunks_pass() {
    assert_eq!(Run::new(0, "kilobyte:5", Policy::default()).asks(), ["reserve 1024"]);
    assert_eq!(Run::new(3, "kilobyte:5", Policy::default()).asks(), ["reserve 48"]);
}

#[test]
fn a_partial_grant_is_a_grant() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::granted(Quota(3), Some(0)));
    assert_eq!(run.verdicts(), [(Decision::Granted, 3)]);
    assert_eq!(run.grants(), [3]);
}

#[test]
fn no_release_and_no_end_follows_a_denial() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::Denied(Denial::NoCredit));
    assert_eq!(run.verdicts(), [(Decision::Denied(Denial::NoCredit), 0)]);
    assert_eq!(run.closed(), Some("no-credit"));
    run.event(Event::Failed { code: 402, transaction: None }, s(1));
    run.event(Event::Bye { leg: 1 }, s(1));
    run.sent(whole("m1", 1), s(1));
    run.timer(s(20));
    assert_eq!(run.asks(), ["reserve 8"]);
    assert_eq!(run.grants(), [0; 0]);
    run.timer(s(33));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn a_grant_of_nothing_is_a_denial() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::granted(Quota(0), None));
    assert_eq!(run.verdicts(), [(Decision::Denied(Denial::NoCredit), 0)]);
}

#[test]
fn nobody_to_charge_is_refused_without_asking() {
    let reserve = Reserve { account: "", ..invite(1) };
    let mut session = Session::open(KEY, &reserve, "message:5".parse().expect("a tariff"), Policy::default(), 0, s(0));
    let failed = Decision::Failed(Failure::NoIdentity);
    let verdict = Verdict { result: failed, granted: Quota(0), balance: None };
    assert_eq!(session.poll(), Some(Output::Verdict(verdict)));
    assert_eq!(session.poll(), Some(Output::Closed { outcome: "no-identity".into() }));
    assert_eq!(session.poll(), None);
}

#[test]
fn on_failure_deny() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.answer(Response::Failed(Failure::Enabler));
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Enabler), 0)]);
    assert_eq!(run.closed(), Some("enabler-failed"));
    assert!(run.out.contains(&Output::EnablerFailed(Failure::Enabler)));
    assert_eq!(run.asks(), ["reserve 8"]);
}

#[test]
fn on_failure_grant() {
    let mut run = Run::new(8, "message:5", policy(|p| p.on_failure = OnFailure::Grant));
    run.answer(Response::Failed(Failure::Enabler));
    assert_eq!(run.verdicts(), [(Decision::Granted, 8)]);
    assert_eq!(run.grants(), [8]);
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.event(Event::Bye { leg: 1 }, s(3));
    run.settle();
    // Nothing is reserved at the enabler, so there is nothing to release.
    assert_eq!(run.asks(), ["reserve 8", "debit m1 response"]);
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn an_answer_to_another_number_is_ignored() {
    let mut run = Run::new(1, "message:5", Policy::default());
    run.session.response(1, &Response::Denied(Denial::NoCredit), s(0));
    run.drain();
    assert_eq!(run.verdicts(), []);
    run.yes();
    run.session.response(0, &Response::Denied(Denial::NoCredit), s(0));
    run.drain();
    assert_eq!(run.verdicts(), [(Decision::Granted, 1)]);
}

// What ends the wait for one message (step 8).

#[test]
fn msrp_200_debits() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    assert_eq!(run.debits(), [""; 0]);
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn msrp_4xx_debits() {
    for code in [400, 403, 413, 415, 481] {
        let mut run = Run::open();
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, code), s(2));
        assert_eq!(run.debits(), [format!("debit m1 error {code}")]);
    }
}

#[test]
fn msrp_408_is_a_time_out() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 408), s(2));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn no_response_in_time_debits() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    assert_eq!(run.session.deadline(), Some(s(31)));
    run.timer(Time(s(31).0 - 1));
    assert_eq!(run.debits(), [""; 0]);
    run.timer(s(31));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn the_own_timer_ends_the_wait_where_silence_means_success() {
    for failure_report in [FailureReport::Partial, FailureReport::No] {
        let mut run = Run::open();
        run.sent(Sent { failure_report, ..whole("m1", 1) }, s(1));
        run.timer(s(31));
        assert_eq!(run.debits(), ["debit m1 timeout"]);
    }
}

#[test]
fn the_first_trigger_counts_and_only_it() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 413), s(2));
    run.event(responded(1, 200), s(3));
    run.timer(s(60));
    run.event(Event::Bye { leg: 1 }, s(61));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 error 413"]);
}

#[test]
fn a_response_read_after_the_deadline_is_late() {
    let mut run = Run::open_with(8, policy(|p| p.server_error = Settle::Release));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 501), s(40));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn msrp_5xx_by_policy() {
    for code in [501, 506] {
        let mut run = Run::open();
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, code), s(2));
        assert_eq!(run.debits(), [format!("debit m1 error {code}")]);

        let mut run = Run::open_with(8, policy(|p| p.server_error = Settle::Release));
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, code), s(2));
        assert_eq!((run.debits().len(), run.free()), (0, vec!["5xx=release"]));
    }
}

#[test]
fn the_debit_carries_price_and_octets() {
    let mut run = Run::new(0, "kilobyte:3", Policy::default());
    run.yes();
    run.sent(Sent { octets: 2049, taken: 3, ..whole("m1", 1) }, s(1));
    run.event(responded(1, 200), s(2));
    let operation = run.asked.as_ref().map(|request| request.operation.clone());
    let (units, quota) = (Units(9), Quota(3));
    let message_id: Box<str> = "m1".into();
    let trigger = Trigger::Response;
    let wanted = Operation::Debit { message_id: message_id.clone(), part: 0, octets: 2049, units, quota, trigger };
    assert_eq!(operation, Some(wanted));
    run.yes();
    let balance = Some(7);
    let since = s(2);
    assert!(run.out.contains(&Output::Debited {
        message_id,
        part: 0,
        octets: 2049,
        units,
        quota,
        trigger,
        since,
        balance
    }));
}

/// When what fired the debits happened, as the enabler's acknowledgements tell it.
fn fired(run: &Run) -> Vec<Time> {
    let since = |output: &Output| match output {
        Output::Debited { since, .. } => Some(*since),
        _ => None,
    };
    run.out.iter().filter_map(since).collect()
}

#[test]
fn a_debit_knows_when_it_was_fired() {
    let mut run = Run::open_with(8, policy(|policy| policy.response_timeout = 30));
    (1..=4).for_each(|number| run.sent(whole(["m1", "m2", "m3", "m4"][number - 1], number as u64), s(1)));
    run.event(responded(1, 200), s(2));
    run.yes();
    run.event(responded(2, 415), s(3));
    assert_eq!(run.session.oldest_debit(), Some(s(3)));
    run.yes();
    // Silence ends with its deadline, however late the timer is; the end is the BYE, however late the gate.
    run.sent(whole("m5", 5), s(20));
    run.timer(s(35));
    run.yes();
    run.yes();
    run.event(Event::Bye { leg: 1 }, s(40));
    run.gate_closed(s(41));
    assert_eq!(run.session.oldest_debit(), Some(s(40)));
    run.settle();
    assert_eq!(fired(&run), [s(2), s(3), s(31), s(31), s(40)]);
    // A SEND that is read when all is over.
    run.sent(whole("m6", 6), s(50));
    run.yes();
    assert_eq!(fired(&run).last(), Some(&s(50)));
    assert_eq!(run.session.oldest_debit(), None);
}

// Chunks.

#[test]
fn a_200_for_a_part_waits_for_the_rest() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(chunk("m1", 2, 51, 50, Flag::Last), s(1));
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), [""; 0]);
    run.event(responded(2, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn chunks_and_their_200s_may_come_in_any_order() {
    let mut run = Run::open();
    run.sent(chunk("m1", 2, 51, 50, Flag::Last), s(1));
    run.event(responded(2, 200), s(2));
    assert_eq!(run.debits(), [""; 0]);
    run.event(responded(1, 200), s(2));
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn a_4xx_for_any_chunk_debits_once() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.event(responded(1, 413), s(2));
    run.sent(chunk("m1", 2, 51, 50, Flag::More), s(2));
    run.event(responded(2, 413), s(2));
    run.sent(abort("m1", 3), s(3));
    run.event(Event::Bye { leg: 1 }, s(4));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 error 413"]);
    assert_eq!(run.free(), [""; 0]);
}

#[test]
fn silence_on_one_chunk_debits_though_others_were_answered() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(chunk("m1", 2, 51, 50, Flag::Last), s(5));
    run.event(responded(2, 200), s(6));
    run.timer(s(31));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn a_last_chunk_without_content_ends_the_message() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(run.debits(), [""; 0]);
    run.sent(Sent { taken: 0, ..chunk("m1", 2, 51, 0, Flag::Last) }, s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn transactions_beyond_the_bound_end_by_the_deadline() {
    let mut run = Run::open();
    for part in 0..400 {
        run.sent(chunk("m1", part, part * 10 + 1, 10, Flag::More), s(part / 100));
    }
    for part in 0..400 {
        run.event(responded(part, 200), s(5));
    }
    assert_eq!(run.debits(), [""; 0]);
    assert_eq!(run.session.deadline(), Some(s(32)));
    run.timer(s(32));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

// Seen twice, sent twice.

#[test]
fn a_message_sent_again_in_its_transaction_is_one_debit() {
    let mut run = Run::open();
    // The gate takes nothing for a message that is paid for.
    let again = || Sent { taken: 0, ..whole("m1", 1) };
    run.sent(whole("m1", 1), s(1));
    run.sent(again(), s(1));
    assert_eq!(run.session.taken(), 1);
    run.event(responded(1, 200), s(2));
    run.event(responded(1, 200), s(2));
    run.sent(again(), s(3));
    run.timer(s(60));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

/// The second pass of a [`whole`] message.
fn passed_again(message_id: &str, transaction: u64) -> Event<'_> {
    let first = whole("", transaction);
    Event::PassedAgain { message_id, transaction, start: first.start, octets: first.octets }
}

#[test]
fn a_second_pass_counts_no_octets() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(passed_again("m1", 2), s(1));
    assert_eq!(run.session.messages.open[0].octets(), whole("m1", 1).octets);
    run.event(passed_again("m2", 3), s(1));
    assert_eq!(run.session.messages.open.len(), 1);
}

#[test]
fn another_hop_has_other_transactions_and_any_answer_will_do() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(passed_again("m1", 2), s(1));
    run.event(responded(2, 200), s(2));
    run.yes();
    run.event(responded(1, 200), s(2));
    run.timer(s(60));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn the_same_message_id_again_is_one_debit() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.yes();
    run.sent(Sent { taken: 0, connection: 11, ..whole("m1", 7) }, s(9));
    run.event(responded(7, 200), s(9));
    run.timer(s(60));
    run.event(Event::Bye { leg: 1 }, s(61));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 response"]);
}

// Order.

#[test]
fn a_response_read_before_its_send_waits_for_it() {
    let mut run = Run::open();
    run.event(responded(1, 200), s(2));
    run.sent(whole("m1", 1), s(1));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn only_the_latest_early_responses_are_kept() {
    let mut run = Run::open();
    for transaction in 1..=17 {
        run.event(responded(transaction, 200), s(1));
    }
    run.sent(whole("m1", 1), s(1));
    assert_eq!(run.debits(), [""; 0]);
    run.sent(whole("m2", 2), s(1));
    assert_eq!(run.debits(), ["debit m2 response"]);
}

#[test]
fn an_empty_send_is_never_chargeable() {
    let mut run = Run::open();
    run.event(Event::Activity { connection: SERVER }, s(1));
    run.event(responded(1, 200), s(1));
    run.sent(Sent { taken: 0, ..chunk("m0", 2, 1, 0, Flag::Last) }, s(1));
    run.event(responded(2, 481), s(1));
    run.timer(s(60));
    run.event(Event::Bye { leg: 1 }, s(61));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "release"]);
    assert_eq!(run.free(), [""; 0]);
}

// The server gives up.

#[test]
fn an_aborted_message_is_not_debited() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(2));
    run.event(responded(1, 413), s(3));
    run.event(responded(1, 200), s(3));
    run.timer(s(4));
    assert_eq!((run.debits().len(), run.free()), (0, vec!["abort=release"]));
}

#[test]
fn an_aborted_message_is_debited_where_413_came_first() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    // By time, not by the order of the rings.
    run.sent(abort("m1", 2), s(3));
    run.event(responded(1, 413), s(2));
    run.timer(s(60));
    assert_eq!((run.debits(), run.free().len()), (vec!["debit m1 error 413".to_owned()], 0));
}

#[test]
fn an_aborting_chunk_with_content_is_not_debited() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::Aborted), s(1));
    run.event(Event::Bye { leg: 1 }, s(1));
    run.settle();
    assert_eq!((run.debits().len(), run.free()), (0, vec!["abort=release"]));
}

#[test]
fn abort_debits_by_policy() {
    let mut run = Run::open_with(8, policy(|p| p.abort = Settle::Debit));
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(2));
    run.timer(s(4));
    assert_eq!(run.debits(), ["debit m1 close"]);
}

#[test]
fn an_abort_after_the_deadline_changes_nothing() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(abort("m1", 2), s(40));
    run.timer(s(42));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

// The proxy could not send it on.

fn unsent(message_id: &'static str, transaction: u64) -> Event<'static> {
    Event::Unsent { message_id, transaction }
}

#[test]
fn what_could_not_be_sent_on_is_not_debited() {
    let mut run = Run::open_with(8, policy(|p| p.abort = Settle::Debit));
    run.sent(whole("m1", 1), s(1));
    run.event(unsent("m1", 1), s(1));
    run.timer(s(60));
    run.event(Event::Bye { leg: 1 }, s(61));
    run.settle();
    assert_eq!((run.debits().len(), run.free().len()), (0, 0));
    assert_eq!(run.asks(), ["reserve 8", "release"]);
}

#[test]
fn what_passed_twice_and_could_not_be_sent_on_is_not_debited() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(passed_again("m1", 2), s(1));
    run.event(unsent("m1", 2), s(1));
    run.timer(s(60));
    assert_eq!(run.debits().len(), 0);
}

#[test]
fn what_is_sent_on_at_the_second_attempt_is_debited() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(unsent("m1", 1), s(1));
    run.sent(Sent { taken: 0, ..whole("m1", 2) }, s(2));
    run.event(responded(2, 200), s(3));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn a_chunk_that_could_not_be_sent_on_leaves_the_others_charged() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
    run.sent(chunk("m1", 2, 51, 50, Flag::Last), s(1));
    run.event(unsent("m1", 2), s(1));
    run.timer(s(31));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
    // What is told of a transaction that nobody knows, or of a message that is settled, changes nothing.
    run.event(unsent("m1", 9), s(32));
    run.event(unsent("m2", 9), s(32));
    assert_eq!(run.debits().len(), 1);
}

// REPORT.

#[test]
fn a_failure_report_after_the_200_changes_nothing() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    run.event(reported("m1", 1, Some(100), 413), s(3));
    run.timer(s(60));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn a_report_ends_the_wait_for_a_response() {
    for (code, debit) in [(200, "debit m1 response"), (413, "debit m1 error 413"), (408, "debit m1 timeout")] {
        let mut run = Run::open();
        run.sent(Sent { failure_report: FailureReport::No, ..whole("m1", 1) }, s(1));
        run.event(reported("m1", 1, None, code), s(3));
        assert_eq!(run.debits(), [debit]);
    }
}

fn awaits_report() -> Run {
    let mut run = Run::open_with(8, policy(|p| p.debit_on = DebitOn::Report));
    run.sent(Sent { success_report: true, ..whole("m1", 1) }, s(1));
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), [""; 0]);
    run
}

#[test]
fn debit_on_report_waits_for_the_success_report_of_the_whole() {
    let mut run = awaits_report();
    run.event(reported("m1", 1, Some(60), 200), s(3));
    assert_eq!(run.debits(), [""; 0]);
    run.event(reported("m1", 61, Some(100), 200), s(4));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn debit_on_report_debits_on_a_failure_report() {
    let mut run = awaits_report();
    run.event(reported("m1", 1, Some(100), 415), s(3));
    assert_eq!(run.debits(), ["debit m1 error 415"]);
}

#[test]
fn debit_on_report_has_a_time_out() {
    let mut run = awaits_report();
    run.timer(Time(s(32).0 - 1));
    assert_eq!(run.debits(), [""; 0]);
    run.timer(s(32));
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn debit_on_report_takes_the_response_where_no_report_was_asked_for() {
    let mut run = Run::open_with(8, policy(|p| p.debit_on = DebitOn::Report));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(2));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

#[test]
fn a_report_read_before_its_send_waits_for_it() {
    let mut run = Run::open_with(8, policy(|p| p.debit_on = DebitOn::Report));
    run.event(reported("m1", 1, Some(100), 200), s(2));
    run.sent(Sent { success_report: true, ..whole("m1", 1) }, s(1));
    assert_eq!(run.debits(), ["debit m1 response"]);
}

// The end.

#[test]
fn a_session_that_ends_before_any_content_is_released() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(1));
    assert!(run.gate_closing());
    assert_eq!(run.asking(), "");
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn bye_before_the_response_debits() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "debit m1 close", "release"]);
}

#[test]
fn bye_before_the_response_releases_by_policy() {
    let mut run = Run::open_with(8, policy(|p| p.close = Settle::Release));
    run.sent(whole("m1", 1), s(1));
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "release"]);
    assert_eq!(run.free(), ["close=release"]);
}

#[test]
fn a_stopped_host_is_an_end() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(Event::HostStopped, s(2));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 close"]);
    assert_eq!(run.closed(), Some("host-stopped"));
}

#[test]
fn the_script_ends_a_session_in_its_own_word() {
    let mut run = Run::open();
    run.event(Event::End { reason: "moved-away" }, s(2));
    run.event(Event::End { reason: "again" }, s(2));
    run.settle();
    assert_eq!(run.closed(), Some("moved-away"));
}

#[test]
fn an_idle_session_is_settled() {
    let mut run = Run::open();
    run.sent(chunk("m1", 1, 1, 50, Flag::More), s(10));
    run.event(responded(1, 200), s(10));
    run.timer(s(40));
    run.yes();
    assert_eq!(run.session.deadline(), Some(s(310)));
    run.timer(s(310));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "debit m1 timeout", "release"]);
    assert_eq!(run.closed(), Some("idle"));
}

#[test]
fn a_keep_alive_keeps_the_session() {
    let mut run = Run::open();
    run.event(Event::Activity { connection: 0 }, s(299));
    run.timer(s(300));
    assert_eq!(run.session.phase(), "open");
}

#[test]
fn sends_of_other_rings_are_waited_for() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(5));
    run.session.gate_closed(1, s(5));
    run.drain();
    assert_eq!(run.asking(), "");
    run.sent(whole("m1", 1), s(4));
    assert_eq!(run.asking(), "debit m1 close");
}

#[test]
fn sends_of_other_rings_are_waited_for_no_longer_than_two_seconds() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(5));
    run.session.gate_closed(1, s(5));
    run.drain();
    assert_eq!(run.session.deadline(), Some(s(7)));
    run.timer(s(7));
    assert_eq!(run.asking(), "release");
}

#[test]
fn a_send_read_after_the_end_is_debited_at_once() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(5));
    run.event(Event::DialogOver { leg: 1 }, s(5));
    run.session.gate_closed(2, s(5));
    run.drain();
    run.timer(s(7));
    run.sent(whole("m1", 1), s(4));
    run.yes();
    assert_eq!(run.asking(), "debit m1 close");
    run.yes();
    assert_eq!(run.closed(), Some("bye"));
    run.sent(whole("m2", 2), s(4));
    run.sent(whole("m2", 2), s(4));
    // The linger is over, yet the debit is not lost.
    run.timer(s(200));
    assert!(!run.out.contains(&Output::Forget));
    run.yes();
    run.timer(s(200));
    assert_eq!(run.asks(), ["reserve 8", "release", "debit m1 close", "debit m2 close"]);
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn a_lost_connection_debits_what_is_under_way_and_the_session_goes_on() {
    for connection in [SERVER, CLIENT] {
        let mut run = Run::open();
        run.sent(chunk("m1", 1, 1, 50, Flag::More), s(1));
        run.event(responded(1, 200), s(1));
        run.event(Event::ConnectionLost { connection }, s(2));
        run.yes();
        run.sent(Sent { taken: 0, connection: 11, ..whole("m1", 5) }, s(5));
        run.sent(Sent { connection: 11, ..whole("m2", 6) }, s(5));
        run.event(responded(6, 200), s(6));
        assert_eq!(run.debits(), ["debit m1 close", "debit m2 response"]);
        assert_eq!(run.session.phase(), "open");
    }
}

#[test]
fn a_connection_of_others_is_no_news() {
    for connection in [0, 99] {
        let mut run = Run::open();
        run.sent(Sent { connection: 0, ..whole("m1", 1) }, s(1));
        run.event(Event::ConnectionLost { connection }, s(2));
        assert_eq!(run.debits(), [""; 0]);
    }
}

// CANCEL and failure replies.

#[test]
fn cancel_while_the_reservation_is_asked_for() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.event(Event::Cancelled { transaction: None }, s(1));
    run.event(Event::Failed { code: 487, transaction: None }, s(1));
    run.session.gate_closed(0, s(1));
    run.drain();
    assert_eq!(run.asks(), ["reserve 8"]);
    run.yes();
    // The suspended INVITE must not hang, but the closed gate gets no grant.
    assert_eq!((run.verdicts().len(), run.grants().len()), (1, 0));
    run.yes();
    assert_eq!(run.asks(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("cancelled"));
}

#[test]
fn a_failure_while_the_reservation_is_asked_for() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.event(Event::Failed { code: 408, transaction: None }, s(1));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("invite-failed"));
    assert_eq!(run.session.end_reason(), Some(EndReason::InviteFailed(408)));
}

#[test]
fn a_denial_after_cancel_is_not_released() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.event(Event::Cancelled { transaction: None }, s(1));
    run.answer(Response::Denied(Denial::NoCredit));
    run.session.gate_closed(0, s(1));
    run.drain();
    assert_eq!(run.asks(), ["reserve 8"]);
    assert_eq!(run.closed(), Some("cancelled"));
}

#[test]
fn cancel_after_the_grant_releases_with_the_487() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.yes();
    run.event(Event::Cancelled { transaction: None }, s(1));
    assert!(!run.gate_closing());
    run.event(Event::Failed { code: 487, transaction: None }, s(2));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("cancelled"));
}

#[test]
fn cancel_after_the_grant_releases_without_any_reply() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.yes();
    run.event(Event::Cancelled { transaction: None }, s(1));
    assert_eq!(run.session.deadline(), Some(s(33)));
    run.timer(s(33));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "release"]);
}

#[test]
fn a_2xx_wins_over_a_cancel_that_it_crosses() {
    for answered_first in [true, false] {
        let mut run = Run::new(8, "message:5", Policy::default());
        run.yes();
        let (first, second) = if answered_first {
            (Event::Answered { leg: 1 }, Event::Cancelled { transaction: None })
        } else {
            (Event::Cancelled { transaction: None }, Event::Answered { leg: 1 })
        };
        run.event(first, s(1));
        run.event(second, s(1));
        run.event(Event::Failed { code: 487, transaction: None }, s(2));
        run.timer(s(20));
        assert_eq!((run.session.phase(), run.gate_closing()), ("open", false));
        run.event(Event::Bye { leg: 1 }, s(21));
        run.settle();
        assert_eq!(run.asks(), ["reserve 8", "release"]);
    }
}

#[test]
fn an_invite_that_fails_is_released() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.yes();
    run.event(Event::Failed { code: 486, transaction: None }, s(1));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "release"]);
    assert_eq!(run.closed(), Some("invite-failed"));
}

// One in flight, nothing lost.

#[test]
fn one_request_is_in_flight_and_numbers_rise_by_one() {
    let mut run = Run::open();
    for (id, transaction) in [("m1", 1), ("m2", 2), ("m3", 3)] {
        run.sent(whole(id, transaction), s(1));
        run.event(responded(transaction, 200), s(1));
    }
    assert_eq!(run.debits().len(), 1);
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    let number = |output: &Output| match output {
        Output::Ask(request) => Some(request.number),
        _ => None,
    };
    assert_eq!(run.out.iter().filter_map(number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    assert_eq!(run.asks().last().map(String::as_str), Some("release"));
}

#[test]
fn a_debit_without_answer_is_asked_again_with_its_number() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(0));
    run.event(responded(1, 200), s(0));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let number = run.asked.as_ref().map(|request| request.number);
        assert_eq!(number, Some(1));
        run.answer(Response::Failed(Failure::Enabler));
        assert_eq!(run.out.last(), Some(&Output::EnablerFailed(Failure::Enabler)));
        let deadline = run.session.deadline().expect("a time to ask again");
        waits.push(deadline.micros_since(s(0)) / 1_000_000);
        run.timer(deadline);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    run.yes();
    assert_eq!(run.session.counts().debited, 1);
}

#[test]
fn a_release_without_answer_is_asked_again() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(0));
    run.session.gate_closed(0, s(0));
    run.drain();
    run.answer(Response::Failed(Failure::Enabler));
    run.timer(s(1));
    assert_eq!(run.closed(), None);
    run.yes();
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn a_refused_debit_is_told() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(0));
    run.event(responded(1, 200), s(0));
    run.answer(Response::Denied(Denial::UnknownSubscriber));
    assert_eq!(run.free(), ["unknown-subscriber"]);
}

#[test]
fn a_stopped_engine_says_again_what_is_open() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let asked = run.asked.clone().expect("the debit");
    run.out.clear();
    run.session.resume(s(1));
    run.drain();
    let again = Request { possible_duplicate: true, rate_limited: true, ..asked };
    assert_eq!(run.out, [Output::Ask(again), Output::Grant(Quota(8))]);
}

// A distant enabler.

#[test]
fn the_last_debit_ends_the_reservation_and_nothing_is_released() {
    let mut run = Run::invited(1);
    run.yes();
    run.event(Event::Answered { leg: 1 }, s(0));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let asked = run.asked.clone().expect("the debit");
    assert_eq!(asked.reservation, Reservation::Last { opened_by: 0, outstanding: Quota(1) });
    run.yes();
    run.event(Event::Bye { leg: 1 }, s(2));
    run.gate_closed(s(5));
    assert!(run.asked.is_none() && !run.session.is_open(), "nothing is left to release");
}

#[test]
fn a_reservation_without_an_answer_is_released_all_the_same() {
    let mut run = Run::invited(2);
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.session.decision(), Some(Decision::Failed(Failure::Silent)));
    let asked = run.asked.clone().expect("the release of what may be held");
    assert_eq!(asked.operation, Operation::Release);
    assert_eq!(asked.reservation, Reservation::Open { opened_by: 0, outstanding: Quota(0) });
    run.answer(Response::NoReservation);
    assert!(!run.session.is_open());
}

#[test]
fn a_reservation_that_was_never_asked_leaves_nothing_to_release() {
    let mut run = Run::invited(2);
    run.answer(Response::Failed(Failure::Unreachable));
    assert!(run.asked.is_none() && !run.session.is_open());
}

#[test]
fn a_debit_without_its_reservation_is_asked_again_without() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let first = run.asked.clone().expect("the debit");
    run.answer(Response::NoReservation);
    // More is asked for first: the debit goes out of that.
    assert_eq!(asked(&run), (Operation::Reserve { quota: Quota(8) }, Reservation::None));
    run.answer(Response::Denied(Denial::NoCredit));
    let second = run.asked.clone().expect("the debit again");
    assert_eq!((second.operation, second.reservation), (first.operation, Reservation::None));
    assert_eq!(second.number, first.number + 2);
}

#[test]
fn a_debit_that_may_have_arrived_is_marked_when_it_is_asked_again() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let first = run.asked.clone().expect("the debit");
    assert!(!first.possible_duplicate);
    run.answer(Response::Failed(Failure::Silent));
    run.timer(s(60));
    assert_eq!(run.asked, Some(Request { possible_duplicate: true, rate_limited: true, ..first }));
}

#[test]
fn a_debit_that_may_be_taken_twice_waits_for_the_operator() {
    let policy = Policy { resend: Resend::Hold, ..Policy::default() };
    for again in [true, false] {
        let mut run = Run::open_with(8, policy);
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(1));
        let first = run.asked.clone().expect("the debit");
        // What was never sent is asked again all the same.
        run.answer(Response::Failed(Failure::Unreachable));
        run.timer(s(10));
        assert_eq!(run.asked, Some(Request { rate_limited: true, ..first.clone() }));
        run.answer(Response::Failed(Failure::Silent));
        run.timer(s(600));
        assert_eq!((run.asked.clone(), run.session.held_back_message()), (None, Some("m1")));
        run.session.resume(s(1));
        run.drain();
        assert!(run.asked.is_none(), "nor after a restart");
        assert!(run.session.resolve(again, s(601)));
        run.drain();
        assert!(!run.session.resolve(again, s(601)));
        if again {
            assert_eq!(run.asked, Some(Request { possible_duplicate: true, rate_limited: true, ..first }));
            run.yes();
        }
        assert_eq!((run.session.counts().debited, run.session.held_back_message()), (1, None));
    }
}

#[test]
fn an_answer_that_comes_late_settles_what_waits_to_be_asked_again_or_is_held_back() {
    for resend in [Resend::Again, Resend::Hold] {
        let mut run = Run::open_with(8, policy(|policy| policy.resend = resend));
        run.sent(whole("m1", 1), s(0));
        run.event(responded(1, 200), s(0));
        let asked = run.asked.clone().expect("the debit");
        run.answer(Response::Failed(Failure::Silent));
        assert_eq!(run.session.held_back_message().is_some(), resend == Resend::Hold);
        let again = run.session.pending_request(asked.number).expect("it has no answer");
        assert_eq!((again.number, &again.operation), (asked.number, &asked.operation));
        assert_eq!(run.session.pending_request(asked.number + 1), None);
        run.session.response(asked.number, &Response::debited(None), s(1));
        assert_eq!((run.session.counts().debited, run.session.held_back_message()), (1, None));
        assert_eq!(run.session.pending_request(asked.number), None);
        assert!(!run.session.resolve(true, s(1)), "nothing is held back any more");
    }
}

#[test]
fn a_debit_in_flight_at_a_crash_may_have_been_taken() {
    let mut run = Run::open_with(8, Policy { resend: Resend::Hold, ..Policy::default() });
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.asked = None;
    run.session.resume(s(1));
    run.drain();
    assert_eq!((run.asked.clone(), run.session.held_back_message()), (None, Some("m1")));
}

#[test]
fn what_is_given_without_an_enabler_is_known_until_it_is_settled() {
    let mut run = Run::new(3, "message:5", Policy { on_failure: OnFailure::Grant, ..Policy::default() });
    run.answer(Response::Failed(Failure::Unreachable));
    assert_eq!((run.session.decision(), run.session.uncovered()), (Some(Decision::Granted), Quota(3)));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(run.asked.as_ref().map(|asked| asked.reservation), Some(Reservation::None));
    run.yes();
    run.event(Event::Bye { leg: 1 }, s(2));
    run.gate_closed(s(5));
    assert!(run.asked.is_none() && run.session.uncovered() == Quota(0));
}

#[test]
fn where_nothing_is_granted_in_part_one_is_asked_for() {
    let mut run = Run::invited(5);
    run.answer(Response::Denied(Denial::NotSoMany));
    assert_eq!(run.session.decision(), None);
    let asked = run.asked.clone().expect("a second reservation");
    assert_eq!((asked.operation, asked.reservation), (Operation::Reserve { quota: Quota(1) }, Reservation::None));
    run.answer(Response::Denied(Denial::NoCredit));
    assert_eq!(run.session.decision(), Some(Decision::Denied(Denial::NoCredit)));
    assert!(run.asked.is_none() && !run.session.is_open());
}

#[test]
fn what_costs_nothing_is_given_and_not_debited() {
    let mut run = Run::invited(2);
    run.answer(Response::Free);
    assert_eq!(run.session.decision(), Some(Decision::Granted));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    assert!(run.asked.is_none(), "no debit");
    run.event(Event::Bye { leg: 1 }, s(2));
    run.gate_closed(s(5));
    assert!(run.asked.is_none() && !run.session.is_open(), "no release");
    assert_eq!(run.session.counts().not_debited, 1);
}

#[test]
fn a_grant_that_becomes_old_is_asked_for_again() {
    let mut run = Run::invited(3);
    run.answer(Response::Granted(Grant { quota: Quota(3), valid_for: Some(60), ..Grant::default() }));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.timer(s(59));
    assert!(run.asked.is_none());
    run.timer(s(60));
    let asked = run.asked.clone().expect("the renewal");
    assert_eq!(asked.operation, Operation::Reserve { quota: Quota(0) });
    assert_eq!(asked.reservation, Reservation::Open { opened_by: 0, outstanding: Quota(3) });
    run.answer(Response::granted(Quota(0), None));
    assert!(run.asked.is_none() && run.session.granted() == Quota(3));
}

#[test]
fn the_enabler_may_ask_to_be_asked_and_may_end_the_service() {
    let mut run = Run::open();
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    assert_eq!(run.asked.as_ref().map(|asked| &asked.operation), Some(&Operation::Reserve { quota: Quota(0) }));
    run.answer(Response::granted(Quota(0), None));
    run.event(Event::Abort, s(2));
    run.gate_closed(s(5));
    assert_eq!(run.asked.as_ref().map(|asked| &asked.operation), Some(&Operation::Release));
    assert_eq!(run.session.end_reason(), Some(EndReason::EnablerEnded));
}

#[test]
fn a_session_that_the_parties_have_left_is_idle_however_often_the_enabler_wants_to_be_asked() {
    let mut run = Run::open_with(5, policy(|p| p.hold_timeout = 20));
    for second in 1..20 {
        run.event(Event::Reauthorize { opened_by: 0 }, s(second));
        run.answer(Response::granted(Quota(0), None));
    }
    run.timer(s(20));
    run.gate_closed(s(20));
    assert_eq!(run.session.end_reason(), Some(EndReason::Idle));
    assert_eq!(run.asked.as_ref().map(|asked| &asked.operation), Some(&Operation::Release));
}

#[test]
fn nothing_more_is_asked_for_after_the_final_units() {
    let mut run = Run::invited(0);
    run.answer(Response::Granted(Grant { quota: Quota(1), last: true, ..Grant::default() }));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.sent(whole("m1", 1), s(1));
    assert!(run.asked.is_none(), "the grant was the last");
    run.event(Event::Stopped { message_id: "m2", why: Stop::Beyond }, s(2));
    assert!(run.asked.is_none(), "nor for a message that was stopped");
    // The account was topped up, and the enabler wants to be asked.
    run.event(Event::Reauthorize { opened_by: 0 }, s(3));
    run.answer(Response::Granted(Grant { quota: Quota(0), ..Grant::default() }));
    assert!(matches!(asked(&run).0, Operation::Reserve { quota: Quota(1..) }), "there may be more again");
}

// Refunds (`policy=report=release`).

fn refunding() -> Run {
    let mut run = Run::open_with(8, policy(|p| p.report = Settle::Release));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run
}

#[test]
fn a_failure_report_after_the_debit_gives_it_back_once() {
    let mut run = refunding();
    run.yes();
    for _ in 0..2 {
        run.event(reported("m1", 1, Some(100), 415), s(2));
    }
    assert_eq!(run.asking(), "refund m1");
    let asked = run.asked.clone().expect("a refund");
    assert_eq!((asked.number, asked.reservation), (2, Reservation::None));
    run.yes();
    assert!(run.out.contains(&Output::Refunded { message_id: "m1".into(), part: 0, balance: Some(7) }));
    run.event(reported("m1", 1, Some(100), 415), s(3));
    run.event(Event::Bye { leg: 1 }, s(4));
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "debit m1 response", "refund m1", "release"]);
    assert_eq!(run.session.counts(), Counts { debited: 1, units: Units(5), refunded: 1, not_debited: 0 });
}

#[test]
fn a_failure_report_before_the_debit_is_asked_for_costs_nothing() {
    let mut run = refunding();
    run.sent(whole("m2", 2), s(1));
    run.event(responded(2, 200), s(1));
    run.event(reported("m2", 1, Some(100), 415), s(1));
    run.yes();
    assert_eq!((run.asking(), run.free()), (String::new(), vec!["report=release"]));
}

#[test]
fn a_failure_report_while_the_debit_is_asked_for_gives_it_back_when_it_stands() {
    let mut run = refunding();
    run.event(reported("m1", 1, Some(100), 415), s(1));
    assert_eq!(run.asking(), "debit m1 response");
    run.yes();
    assert_eq!(run.asking(), "refund m1");
}

#[test]
fn a_failure_report_after_bye_gives_back_as_well_and_a_failing_enabler_is_asked_again() {
    let mut run = refunding();
    run.yes();
    run.event(Event::Bye { leg: 1 }, s(2));
    run.event(Event::DialogOver { leg: 1 }, s(2));
    run.settle();
    run.event(reported("m1", 1, Some(100), 415), s(3));
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.session.debits_pending(), 1);
    run.timer(s(40));
    assert_eq!(run.asked.as_ref().map(|asked| asked.possible_duplicate), Some(true));
    assert_ne!(run.out.last(), Some(&Output::Forget));
    run.yes();
    run.timer(s(80));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn silence_and_what_was_paid_for_an_error_are_not_given_back() {
    let mut run = refunding();
    run.yes();
    // What a relay reports of a silent client (RFC 4976, 6.4.1), a success, and codes that mean nothing.
    for code in [408, 200, 0, 399, 600] {
        run.event(reported("m1", 1, Some(100), code), s(2));
    }
    run.sent(whole("m2", 2), s(1));
    run.event(responded(2, 415), s(2));
    run.yes();
    run.event(reported("m2", 1, Some(100), 415), s(2));
    assert_eq!(run.asking(), "");
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.yes();
    run.event(reported("m1", 1, Some(100), 415), s(2));
    assert_eq!(run.asking(), "", "by default the debit stands");
}

#[test]
fn a_refund_that_is_refused_or_held_back_is_told() {
    let mut run = refunding();
    run.yes();
    run.event(reported("m1", 1, Some(100), 415), s(2));
    run.answer(Response::Denied(Denial::Refused(5012)));
    let denial = Denial::Refused(5012);
    assert_eq!(run.out.last(), Some(&Output::RefundDenied { message_id: "m1".into(), denial }));
    let both = policy(|p| (p.report, p.resend) = (Settle::Release, Resend::Hold));
    let mut run = Run::open_with(8, both);
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.yes();
    run.event(reported("m1", 1, Some(100), 415), s(2));
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.session.held_back_message(), Some("m1"));
    assert!(run.session.resolve(false, s(3)));
    assert_eq!(run.session.counts().refunded, 1);
}

// Immediate charging (`model=immediate`).

fn immediate(messages: u32) -> Run {
    let mut run = Run::new(messages, "message:5", policy(|p| p.model = Model::Immediate));
    run.event(Event::Answered { leg: 1 }, s(0));
    run
}

#[test]
fn immediate_charging_reserves_nothing_and_debits_each_message() {
    let mut run = immediate(2);
    assert_eq!(run.verdicts(), [(Decision::Granted, 2)]);
    for (id, transaction) in [("m1", 1), ("m2", 2), ("m3", 3)] {
        run.sent(whole(id, transaction), s(1));
        run.event(responded(transaction, 200), s(1));
        assert_eq!(run.asked.as_ref().map(|asked| asked.reservation), Some(Reservation::None));
        run.yes();
    }
    assert_eq!(run.session.granted(), Quota(5), "one more for each that is paid");
    run.event(Event::Bye { leg: 1 }, s(2));
    run.settle();
    assert_eq!(run.asks(), ["debit m1 response", "debit m2 response", "debit m3 response"]);
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn immediate_charging_ends_with_the_first_debit_that_is_refused() {
    let mut run = immediate(5);
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.answer(Response::Denied(Denial::NoCredit));
    assert!(run.gate_closing());
    run.settle();
    assert_eq!((run.free(), run.closed()), (vec!["no-credit"], Some("no-credit")));
}

#[test]
fn immediate_charging_gives_no_more_than_the_invite_asked_for_until_it_is_paid() {
    let mut run = immediate(1);
    run.sent(whole("m1", 1), s(1));
    run.event(Event::Stopped { message_id: "m2", why: Stop::Beyond }, s(3));
    assert_eq!(run.session.granted(), Quota(1), "nothing is answered yet");
    run.event(responded(1, 200), s(4));
    run.answer(Response::Failed(Failure::Silent));
    run.event(Event::Stopped { message_id: "m2", why: Stop::Beyond }, s(5));
    assert_eq!(run.session.granted(), Quota(1), "nor paid");
    run.timer(s(60));
    run.yes();
    assert_eq!(run.session.granted(), Quota(2));
}

#[test]
fn immediate_charging_stops_counting_where_the_service_is_free() {
    let mut run = immediate(5);
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.answer(Response::Free);
    run.sent(whole("m2", 2), s(1));
    run.event(responded(2, 200), s(1));
    assert_eq!((run.asking(), run.free()), (String::new(), vec!["free-of-charge"; 2]));
}

// What the enabler wants while it fails (CCFH).

#[test]
fn the_enabler_says_what_its_failure_means() {
    for (configured, said, granted) in [
        (OnFailure::Deny, None, 2),
        (OnFailure::Deny, Some(OnFailure::Grant), 4),
        (OnFailure::Grant, Some(OnFailure::Deny), 2),
        (OnFailure::Grant, None, 4),
    ] {
        let mut run = Run::new(4, "message:5", policy(|p| p.on_failure = configured));
        run.answer(Response::Granted(Grant { quota: Quota(2), on_failure: said, ..Grant::default() }));
        run.event(Event::Answered { leg: 1 }, s(0));
        run.sent(whole("m1", 1), s(1));
        run.sent(whole("m2", 2), s(1));
        assert_eq!(run.asking(), "reserve 2");
        run.answer(Response::Failed(Failure::Unreachable));
        assert_eq!(run.session.granted(), Quota(granted), "{configured:?} {said:?}");
        assert_eq!(run.session.uncovered(), Quota(granted - 2));
    }
}

// What the enabler says of a reservation after it was made.

fn granted(total: u32) -> Response {
    Response::Granted(Grant { reserved: Some(Quota(total)), ..Grant::default() })
}

fn asked(run: &Run) -> (Operation, Reservation) {
    let asked = run.asked.clone().expect("something is asked");
    (asked.operation, asked.reservation)
}

#[test]
fn a_renewal_that_grants_less_or_is_refused_narrows_the_gate() {
    for (answer, left) in [
        (granted(5), 5),
        (granted(2), 2),
        (granted(0), 0),
        (Response::Denied(Denial::NoCredit), 0),
        (Response::Denied(Denial::UnknownSubscriber), 0),
    ] {
        let mut run = Run::open_with(5, Policy::default());
        run.event(Event::Reauthorize { opened_by: 0 }, s(1));
        run.answer(answer);
        assert_eq!(run.session.granted(), Quota(left));
        assert_eq!(run.grants().last(), Some(&left), "the gate is told");
        let open = Reservation::Open { opened_by: 0, outstanding: Quota(left) };
        assert_eq!(run.asking() == "release", left == 0, "what holds nothing is ended at once");
        run.event(Event::Bye { leg: 1 }, s(2));
        run.gate_closed(s(5));
        assert_eq!(asked(&run), (Operation::Release, open));
    }
}

#[test]
fn a_renewal_without_an_answer_is_tried_again() {
    let mut run = Run::open_with(5, Policy::default());
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.answer(Response::Failed(Failure::Unreachable));
    assert_eq!((run.session.granted(), run.asking()), (Quota(5), String::new()));
    run.timer(s(6));
    assert_eq!(run.asking(), "reserve 0");
}

#[test]
fn a_debit_may_leave_less_reserved_than_before() {
    let mut run = Run::open_with(5, Policy::default());
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let rest = Some(Grant { reserved: Some(Quota(1)), last: true, valid_for: Some(30), ..Grant::default() });
    run.answer(Response::Debited { balance: None, ended: false, rest });
    assert_eq!(run.session.granted(), Quota(2), "one was used, one is left");
    run.timer(s(30));
    let open = Reservation::Open { opened_by: 0, outstanding: Quota(1) };
    assert_eq!(asked(&run), (Operation::Reserve { quota: Quota(0) }, open));
}

#[test]
fn a_reservation_that_is_gone_is_asked_for_anew_with_what_was_left_of_it() {
    let mut run = Run::open_with(8, Policy::default());
    for (id, transaction) in [("m1", 1), ("m2", 2), ("m3", 3), ("m4", 4), ("m5", 5), ("m6", 6)] {
        run.sent(whole(id, transaction), s(1));
    }
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.answer(Response::NoReservation);
    assert_eq!(asked(&run), (Operation::Reserve { quota: Quota(8) }, Reservation::None));
    assert_eq!(run.session.granted(), Quota(0), "nothing more passes until it is there");
    run.yes();
    assert_eq!(run.session.granted(), Quota(8));
}

#[test]
fn nothing_is_renewed_without_a_reservation() {
    let mut run = Run::open_with(1, Policy::default());
    run.session.credit.is_last_grant = true;
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    let last = Reservation::Last { opened_by: 0, outstanding: Quota(1) };
    assert_eq!(asked(&run).1, last);
    run.answer(Response::Debited { balance: None, ended: true, rest: None });
    assert!(run.asked.is_none(), "{:?}", run.asked);
}

#[test]
fn a_reservation_asked_again_after_a_crash_may_be_held_even_if_nobody_can_be_reached() {
    let mut run = Run::invited(3);
    run.asked = None;
    run.session.resume(s(1));
    run.drain();
    run.answer(Response::Failed(Failure::Unreachable));
    assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Unreachable), 0)]);
    assert_eq!(run.asking(), "release");
}

#[test]
fn a_grant_that_comes_after_its_release_is_released_again() {
    let mut run = Run::invited(3);
    run.answer(Response::Failed(Failure::Silent));
    assert_eq!(run.asking(), "release");
    run.answer(Response::NoReservation);
    assert!(run.asked.is_none() && !run.session.is_open());
    run.session.on_late_grant(0, Some("*ocs2".into()), s(2));
    run.drain();
    let again = run.asked.clone().expect("a second release");
    assert_eq!(again.reservation, Reservation::Open { opened_by: 0, outstanding: Quota(0) });
    assert_eq!((again.operation, again.server_binding.as_deref()), (Operation::Release, Some("*ocs2")));
    run.yes();
    // What the session holds is no news.
    let mut run = Run::open();
    run.session.on_late_grant(0, None, s(2));
    run.drain();
    assert!(run.asked.is_none());
}

#[test]
fn what_may_be_reserved_by_an_enabler_that_does_not_answer_is_released_there() {
    let mut run = Run::invited(3);
    run.session.on_request_lost(7, &"~another's".into());
    run.session.on_request_lost(0, &"~ocs2".into());
    run.answer(Response::Failed(Failure::Silent));
    let release = run.asked.clone().expect("a release");
    assert_eq!((release.operation, release.server_binding.as_deref()), (Operation::Release, Some("~ocs2")));
    // Whoever has the reservation is known better.
    let mut run = Run::invited(3);
    let grant = Grant { quota: Quota(3), server_binding: Some("ocs1".into()), ..Grant::default() };
    run.answer(Response::Granted(grant));
    run.event(Event::Bye { leg: 1 }, s(1));
    run.gate_closed(s(1));
    run.session.on_request_lost(1, &"~ocs2".into());
    run.answer(Response::Failed(Failure::Silent));
    run.timer(s(10));
    assert_eq!(run.asked.as_ref().and_then(|asked| asked.server_binding.as_deref()), Some("ocs1"));
}

#[test]
fn what_another_peer_may_have_done_is_repeated_as_such_whatever_the_last_one_says() {
    for (resend, held) in [(Resend::Again, false), (Resend::Hold, true)] {
        let mut run = Run::open_with(8, policy(|p| p.resend = resend));
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(1));
        run.session.on_request_lost(1, &"~ocs1".into());
        run.answer(Response::Failed(Failure::Undeliverable));
        assert_eq!(run.session.held_back_message().is_some(), held);
        run.timer(s(10));
        assert_eq!(run.asked.as_ref().is_some_and(|asked| asked.possible_duplicate), !held);
    }
    // A reservation may be there, too.
    let mut run = Run::invited(3);
    run.session.on_request_lost(0, &"~ocs1".into());
    run.answer(Response::Failed(Failure::Busy));
    assert_eq!(run.asking(), "release");
}

#[test]
fn a_reauthorization_while_a_request_of_the_reservation_is_on_its_way_asks_for_nothing_more() {
    let mut run = Run::open();
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    assert!(run.session.is_updating(0));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.yes();
    assert!(run.asked.is_none() && !run.session.is_updating(0), "one UPDATE answers both");
    run.event(Event::Reauthorize { opened_by: 0 }, s(2));
    assert!(run.asked.is_some());
    run.yes();
    // What another reservation is asked says nothing of this one.
    run.session.on_late_grant(7, None, s(3));
    run.drain();
    assert_eq!((run.asking(), run.session.is_updating(0)), ("release".to_owned(), false));
    run.event(Event::Reauthorize { opened_by: 0 }, s(3));
    run.yes();
    assert!(run.asked.is_some(), "it is asked after that");
}

#[test]
fn the_way_to_the_reservation_goes_with_every_request_of_it() {
    let mut run = Run::invited(3);
    let grant = Grant { quota: Quota(3), server_binding: Some("ocs1".into()), ..Grant::default() };
    run.answer(Response::Granted(grant));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    run.answer(Response::Denied(Denial::NoCredit));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(run.asked.as_ref().and_then(|asked| asked.server_binding.as_deref()), Some("ocs1"));
    run.answer(Response::NoReservation);
    assert_eq!(
        run.asked.as_ref().map(|asked| asked.server_binding.clone()),
        Some(None),
        "what comes next may go anywhere"
    );
}

#[test]
fn a_reservation_goes_another_way_from_its_next_request_on() {
    let mut run = Run::invited(3);
    run.answer(Response::Granted(Grant { quota: Quota(3), server_binding: Some("ocs1".into()), ..Grant::default() }));
    run.event(Event::Answered { leg: 1 }, s(0));
    run.event(Event::Reauthorize { opened_by: 0 }, s(1));
    // The request that is on its way comes again as it was.
    run.session.set_server_binding(0, "ocs1!5::s".into());
    run.session.set_server_binding(7, "another's".into());
    let route = |run: &Run| run.asked.as_ref().and_then(|asked| asked.server_binding.clone());
    assert_eq!(route(&run).as_deref(), Some("ocs1"));
    run.answer(Response::Denied(Denial::NoCredit));
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    assert_eq!(route(&run).as_deref(), Some("ocs1!5::s"));
}

#[test]
fn a_repeated_debit_of_an_unknown_reservation_waits_for_an_operator() {
    for (again, debited) in [(false, 1), (true, 1)] {
        let mut run = Run::open_with(8, Policy::default());
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(1));
        run.answer(Response::Failed(Failure::Silent));
        run.timer(s(2));
        run.answer(Response::NoReservation);
        assert_eq!((run.asked.clone(), run.session.held_back_message()), (None, Some("m1")));
        assert!(run.out.contains(&Output::HeldBack { message_id: "m1".into() }));
        assert!(run.session.resolve(again, s(3)));
        run.drain();
        if again {
            assert_eq!(asked(&run).1, Reservation::None);
            run.yes();
        }
        assert_eq!(run.session.counts().debited, debited);
    }
}

#[test]
fn a_failure_report_outlives_the_reservation_of_its_debit() {
    let mut run = refunding();
    run.event(reported("m1", 1, Some(100), 415), s(1));
    run.answer(Response::NoReservation);
    assert_eq!((run.asking(), run.free()), ("reserve 7".to_owned(), vec!["report=release"]));
}

#[test]
fn a_refused_debit_is_told_and_ends_the_service() {
    let mut run = Run::open();
    run.sent(whole("m1", 1), s(1));
    run.event(responded(1, 200), s(1));
    let denial = Denial::Refused(5012);
    run.answer(Response::Denied(denial));
    assert!(run.out.contains(&Output::DebitDenied { message_id: "m1".into(), denial }));
    assert!(run.gate_closing());
    run.settle();
    assert_eq!(run.asks(), ["reserve 8", "debit m1 response", "release"]);
}

#[test]
fn a_refund_of_what_was_free_comes_to_an_end() {
    let mut run = refunding();
    run.yes();
    run.event(reported("m1", 1, Some(100), 415), s(1));
    run.answer(Response::Free);
    assert_eq!(run.session.debits_pending(), 0);
}

#[test]
fn only_what_is_left_of_the_cap_is_given_without_an_enabler() {
    for (left, given) in [(5, Some(5)), (0, None)] {
        let mut run = Run::new(8, "message:5", policy(|p| p.on_failure = OnFailure::Grant));
        run.session.set_on_failure_cap(left);
        run.answer(Response::Failed(Failure::Unreachable));
        let verdict = match given {
            Some(given) => (Decision::Granted, given),
            None => (Decision::Failed(Failure::Unreachable), 0),
        };
        assert_eq!(run.verdicts(), [verdict]);
    }
}

// The end of a session that its parties do not know of.

#[test]
fn service_goes_on_while_a_debit_waits_for_the_enabler() {
    for (on_failure, granted) in [(OnFailure::Grant, 5), (OnFailure::Deny, 2)] {
        let mut run = Run::open_with(2, policy(|policy| (policy.on_failure, policy.on_failure_cap) = (on_failure, 3)));
        run.sent(whole("m1", 1), s(1));
        run.event(responded(1, 200), s(1));
        run.answer(Response::Failed(Failure::Unreachable));
        run.sent(whole("m2", 2), s(1));
        run.event(Event::Stopped { message_id: "m3", why: Stop::Beyond }, s(1));
        // The cap is the end of it.
        assert_eq!(run.session.granted(), Quota(granted));
        assert_eq!(run.session.uncovered(), Quota(granted - 2));
        run.event(Event::Stopped { message_id: "m9", why: Stop::Beyond }, s(2));
        assert_eq!(run.session.granted(), Quota(granted));
    }
}

#[test]
fn a_session_that_ended_before_its_grant_is_not_let_in() {
    for event in [Event::Abort, Event::End { reason: "script" }, Event::Cancelled { transaction: None }] {
        let mut run = Run::invited(3);
        run.event(event, s(1));
        run.gate_closed(s(1));
        run.yes();
        assert_eq!(run.verdicts(), [(Decision::Failed(Failure::Ended), 0)]);
        assert_eq!((run.grants(), run.asking()), (vec![], "release".to_owned()));
    }
    let mut run = Run::invited(3);
    run.event(Event::Cancelled { transaction: None }, s(1));
    run.answer(Response::Denied(Denial::NotSoMany));
    assert!(run.asked.is_none(), "nobody wants one either");
}

#[test]
fn a_bye_ends_its_leg_and_that_of_the_last_leg_the_session() {
    let mut run = Run::open();
    run.event(Event::Answered { leg: 2 }, s(1));
    run.event(Event::Answered { leg: 2 }, s(1));
    run.event(Event::Bye { leg: 2 }, s(2));
    run.event(Event::DialogOver { leg: 2 }, s(2));
    assert_eq!((run.session.phase(), run.gate_closing()), ("open", false));
    let answered = run.steps.iter().filter(|step| step.kind == TraceEventKind::Answered);
    assert_eq!(answered.count(), 2, "a 2xx that is sent again says nothing new");
    run.event(Event::Bye { leg: 1 }, s(3));
    run.settle();
    assert_eq!(run.closed(), Some("bye"));
}

#[test]
fn early_dialogs_count_until_one_of_them_is_confirmed() {
    let mut run = Run::invited(8);
    run.yes();
    (1..=3).for_each(|leg| run.event(Event::EarlyDialog { leg }, s(1)));
    run.event(Event::Bye { leg: 1 }, s(2));
    assert!(!run.gate_closing(), "two are left");
    run.event(Event::Answered { leg: 2 }, s(3));
    run.event(Event::Bye { leg: 2 }, s(4));
    run.settle();
    assert_eq!(run.closed(), Some("bye"), "the third ends by itself");
}

#[test]
fn a_bye_that_the_other_side_has_not_answered_leaves_the_gate_closed_for_as_long_as_a_dialog() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(1));
    run.settle();
    run.timer(s(40));
    assert_ne!(run.out.last(), Some(&Output::Forget), "it may never have reached the server");
    run.event(Event::DialogOver { leg: 1 }, s(41));
    run.timer(s(73));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn an_answer_to_a_bye_that_is_read_before_the_bye_ends_the_session() {
    let mut run = Run::open();
    run.event(Event::DialogOver { leg: 1 }, s(1));
    run.event(Event::Bye { leg: 1 }, s(1));
    run.settle();
    assert_eq!(run.closed(), Some("bye"));
    run.timer(s(40));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn a_2xx_of_another_fork_after_the_end_keeps_the_gate_closed() {
    let mut run = Run::open();
    run.event(Event::Bye { leg: 1 }, s(1));
    run.event(Event::DialogOver { leg: 1 }, s(1));
    run.event(Event::Answered { leg: 2 }, s(2));
    run.settle();
    run.timer(s(40));
    assert_ne!(run.out.last(), Some(&Output::Forget), "its messages would pass unpaid");
}

#[test]
fn a_bye_that_is_read_before_its_2xx_ends_the_dialog_all_the_same() {
    for ends_by_script in [false, true] {
        let mut run = Run::new(8, "message:5", Policy::default());
        run.yes();
        if ends_by_script {
            run.event(Event::End { reason: "" }, s(1));
        }
        run.event(Event::Bye { leg: 1 }, s(2));
        run.event(Event::DialogOver { leg: 1 }, s(2));
        run.event(Event::Answered { leg: 1 }, s(1));
        run.settle();
        run.timer(s(40));
        assert_eq!(run.out.last(), Some(&Output::Forget), "it would keep its place at the gate for an hour");
    }
}

#[test]
fn a_closed_session_whose_dialog_goes_on_keeps_its_gate_closed() {
    let mut run = Run::open();
    run.event(Event::Abort, s(1));
    run.settle();
    run.timer(s(40));
    assert_ne!(run.out.last(), Some(&Output::Forget), "messages would pass for nothing");
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond }, s(3000));
    run.timer(s(3601));
    assert_ne!(run.out.last(), Some(&Output::Forget), "somebody still tries");
    run.event(Event::Bye { leg: 1 }, s(3700));
    run.event(Event::DialogOver { leg: 1 }, s(3700));
    run.event(Event::Stopped { message_id: "m1", why: Stop::Beyond }, s(3710));
    run.timer(s(3741));
    assert_ne!(run.out.last(), Some(&Output::Forget), "late frames find a closed gate");
    run.timer(s(3742));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn an_invite_that_fails_behind_the_scripts_end_needs_no_gate() {
    let mut run = Run::new(8, "message:5", Policy::default());
    run.yes();
    run.event(Event::End { reason: "" }, s(1));
    run.settle();
    run.timer(s(33));
    assert_ne!(run.out.last(), Some(&Output::Forget), "a 2xx may come");
    run.event(Event::Failed { code: 486, transaction: None }, s(60));
    run.timer(s(92));
    assert_eq!(run.out.last(), Some(&Output::Forget));
}

#[test]
fn numbers_begin_where_they_are_told_to() {
    let tariff = "message:5".parse().expect("a tariff");
    let mut session = Session::open(KEY, &invite(3), tariff, Policy::default(), 70, s(0));
    let Some(Output::Ask(request)) = session.poll() else { panic!("nothing is asked") };
    assert_eq!((request.number, request.reservation), (70, Reservation::None));
    session.response(70, &Response::granted(Quota(3), None), s(1));
    session.event(&Event::Bye { leg: 1 }, s(2));
    session.gate_closed(0, s(2));
    let asked = std::iter::from_fn(|| session.poll()).find_map(|output| match output {
        Output::Ask(request) => Some((request.number, request.reservation)),
        _ => None,
    });
    assert_eq!(asked, Some((71, Reservation::Open { opened_by: 70, outstanding: Quota(3) })));
}

#[test]
fn a_clock_that_began_anew_keeps_nobody_waiting() {
    let old = Time(s(0).0 + 8_640_000_000_000);
    let mut run = Run::open();
    run.sent(whole("m1", 1), old);
    run.event(responded(1, 200), old);
    run.session.response(1, &Response::Failed(Failure::Unreachable), old);
    run.drain();
    run.session.resume(s(1));
    run.drain();
    assert!(run.session.deadline().is_some_and(|deadline| deadline <= s(61)), "{:?}", run.session.deadline());
}

// Bounds.

#[test]
fn settled_messages_are_remembered_up_to_a_bound() {
    let mut run = Run::open();
    for number in 0..5000 {
        let id = format!("m{number}");
        run.event(Event::Sent(Sent { message_id: &id, ..whole("", number) }), s(1));
        run.event(responded(number, 200), s(1));
        while run.asked.is_some() {
            run.yes();
        }
    }
    assert_eq!(run.session.messages.settled.len(), messages::SETTLED_MESSAGES_MAX);
    assert_eq!(run.session.counts().debited, 5000);
}

#[test]
fn more_open_messages_than_a_session_may_have_end_it() {
    let mut run = Run::open_with(5000, Policy::default());
    let most = messages::OPEN_MESSAGES_MAX as u64;
    for number in 0..=most {
        assert!(!run.gate_closing(), "{number}");
        let id = format!("m{number}");
        run.event(Event::Sent(Sent { message_id: &id, ..whole("", number) }), s(1));
    }
    assert!(run.gate_closing());
    run.settle();
    assert_eq!(run.closed(), Some("too-many-open"));
    assert_eq!(run.session.counts().debited as u64, most + 1, "all that passed is settled");
}

#[test]
fn hostile_numbers_do_no_harm() {
    let mut run = Run::open();
    run.sent(Sent { start: 0, octets: u64::MAX, taken: u32::MAX, ..whole("m1", 1) }, s(1));
    run.sent(Sent { start: u64::MAX, octets: u64::MAX, taken: u32::MAX, ..whole("m1", 2) }, s(1));
    run.event(reported("m1", 0, Some(0), 200), s(1));
    run.event(reported("m1", u64::MAX, None, 200), s(1));
    run.event(responded(1, u16::MAX), Time(u64::MAX));
    run.timer(Time(u64::MAX));
    run.settle();
    assert_eq!(run.debits(), ["debit m1 timeout"]);
}

#[test]
fn an_open_session_with_a_message_is_small() {
    let mut run = Run::open();
    run.sent(whole("87652491", 1), s(1));
    let session = &run.session;
    let texts = session.common.text_octets() + "87652491".len();
    let heap = session.common.text_octets()
        + session.dialog.heap_octets()
        + session.credit.reservations.heap_octets()
        + session.messages.heap_octets();
    let whole = size_of::<Session>() + heap;
    assert!(whole - texts < 700, "{whole} octets, {texts} of them text");
    let stored = session.head();
    assert!(stored.len() < 300, "{} octets in the store", stored.len());
}
