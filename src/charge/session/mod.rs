//! One session of deferred message retrieval: a function of (state, event, time).
//!
//! ```text
//!   INVITE ──► Reserving ── denied, failed ─────────────────────────────────┐
//!                │   │ └─ CANCEL, failure reply, BYE (answer still to come) │
//!                │   └──────────────────────────┐                           │
//!             granted (k of N)                  │                           │
//!                ▼        CANCEL, no 2xx yet    │                           │
//!              Open ─────────────► Cancelled    │                           │
//!                │ ◄──────── 2xx ──────┤        │                           │
//!                │                     │ 487, or 32 s without a 2xx         │
//!                │ last BYE, end, idle ▼        ▼                           │
//!                └─────────────────► Closing   the gate is being closed     │
//!                                       │                                   │
//!              SENDs of other rings ◄───┤ gate_closed(taken)                │
//!              still to come:           │                                   │
//!                 Draining (2 s) ───────┤ every open message is settled     │
//!                                       ▼                                   │
//!                                   Settling   debits, then the release     │
//!                                       │ all answered                      │
//!                                       ▼                                   ▼
//!                                    Closed   32 s after the BYE and the last frame, an hour
//!                                       │     where the dialog goes on: frames find a closed
//!                                       │     gate, a late SEND is debited at once
//!                                       ▼
//!                                     Gone
//! ```
//!
//! Each message of the session runs through the machine of `message`. Messages, not the session, decide
//! what is debited; the session decides when it is asked (`messages`). What is reserved, and when more is, is in `credit`.
//! A session with many messages is stored in `parts`.
//!
//! Events may come in any order and more than once. A response that is read before its SEND waits for it;
//! a SEND that is read after the end is debited at once, even after the release (the enabler then takes
//! it from the balance). Two things go by the order of reading, which the engine makes the order of
//! time as far as its rings allow: a response read after the close has debited its message changes nothing,
//! and a `#` read after a 4xx does not take the debit back, whatever their times.
//!
//! One request is in flight at most. Numbers rise by one, from a first one that is another in each session: an INVITE
//! whose session is forgotten may be sent once more, and an enabler knows what it has done by session and number. A debit
//! or a release without an answer is asked again with its old number, after 1 s and then ever longer, up to 60 s.

mod ahead;
mod credit;
mod dialog;
mod index;
mod message;
mod messages;
mod output;
mod parts;
mod query;
mod ranges;
mod refund;
mod rule;
mod trace;
mod validity;

#[cfg(test)]
mod tests;

pub use output::{Decision, Outcome, Output, Verdict};
pub use query::{UnsettledItem, UnsettledKind};
pub use rule::{Ending, Rule};
pub use trace::{TraceClass, TraceEvent, TraceEventKind};

use super::ch2::{Denial, Failure, Reservation, Response, SessionKey, Trigger};
use super::event::{Direction, Event, Reserve, Suspended};
use super::policy::{Model, Policy};
use super::tariff::{Quota, Tariff, Units};
use super::time::Time;
use ahead::Ahead;
use dialog::Leg;
use index::Index;
use message::{Answer, LATE, Message};
use messages::{Forgotten, Settled};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thin_vec::ThinVec;
use trace::Ladder;
use validity::Validity;

/// Seconds that a closed session stays (64*T1 of RFC 3261), so that late frames find a closed gate.
const LINGER: u32 = 32;
/// Seconds that a 2xx may still come after CANCEL: the two may cross, and the 2xx is sent again for 64*T1 (RFC 3261, 9.1
/// and 13.3.1.4).
const CROSSING: u32 = 32;
/// Seconds between a refused reservation and the next try.
const REFUSED: u32 = 1;
/// Answers kept until their SEND is read. Those to empty SENDs stay in vain and age out.
const EARLY: usize = 16;
/// Connections of a session: two, and as many again after each possible_duplicate INVITE.
const CONNECTIONS: usize = 8;
/// Longest wait before a debit or release is asked again, seconds.
const RETRY_MOST: u32 = 60;
/// Seconds that a closed session stays whose SIP dialog goes on, or whose BYE may not have reached the other side: its
/// messages must not pass unpaid. Each of them counts from the start.
const DIALOG: u32 = 3600;
/// Characters kept of the script's word for why it ended the session.
const REASON: usize = 64;

/// The numbers of requests begin below this, and have as much room to rise.
pub const FIRST_NUMBER_END: u32 = 1 << 31;

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Reserving,
    Open,
    Cancelled { until: Time },
    Closing,
    Draining { until: Time, taken: u32 },
    Settling,
    Closed { until: Time },
    Gone,
}

/// Whether the SIP dialogs may still carry messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Dialog {
    /// One goes on, or may begin.
    Alive,
    /// The INVITE was cancelled or refused; a 2xx that crossed brings it to life all the same (RFC 3261, 9.1).
    Unborn,
    /// The other side knows that they are over, or the host is gone.
    Dead,
}

/// A debit that is asked for, or will be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Debit {
    /// Number among all that the session stores in parts.
    number: u32,
    message_id: Box<str>,
    /// Number among the debits of its message.
    part: u32,
    octets: u64,
    /// What the gate took for them.
    quota: Quota,
    trigger: Trigger,
    /// The rule that made it due.
    rule: Rule,
    /// When what it is for happened.
    since: Time,
}

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Work {
    Reserve(Quota, Rule),
    Debit(Debit),
    Refund(Debit),
    Release(Rule),
}

/// The request that has no answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Flight {
    number: u32,
    /// When it was asked first.
    since: Time,
    reservation: Reservation,
    route: Option<Arc<str>>,
    work: Work,
    end_to_end_id: u32,
    /// When it is asked again, after the enabler failed.
    retry: Option<Time>,
    tries: u8,
    /// It may have reached the enabler before.
    possible_duplicate: bool,
    /// It waits for an operator.
    held: bool,
    /// A debit that is to be given back once it stands, because of a REPORT with this code.
    revoked: Option<u16>,
}

/// An answer whose SEND is not read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Early {
    at: Time,
    answer: Answer,
}

/// Who takes part: one text, cut where each part ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Parties {
    text: Box<str>,
    ends: [u16; 3],
}

impl Parties {
    fn new(reserve: &Reserve<'_>) -> Parties {
        let mut text = String::new();
        let ends = [reserve.call_id, reserve.account, reserve.other].map(|part| {
            text.push_str(part);
            u16::try_from(text.len()).unwrap_or(u16::MAX)
        });
        text.push_str(reserve.icid);
        Parties { text: text.into(), ends }
    }
}

/// What became of the messages of a session so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Messages whose debit the enabler has acknowledged.
    pub debited: u32,
    /// What they cost.
    pub units: Units,
    /// Messages of them whose units were given back.
    pub refunded: u32,
    /// Messages with content that cost nothing.
    pub not_debited: u32,
}

/// A session of charging. See the module for its states.
///
/// Drain [`Session::poll`] and [`Session::take_steps`] after every call; what is not drained is not stored with the
/// session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    key: SessionKey,
    parties: Parties,
    /// The script's own word for the end.
    reason: Option<Box<str>>,
    suspended: Suspended,
    inviting_tag: u64,
    direction: Direction,
    tariff: Tariff,
    policy: Policy,
    opened: Time,
    moved: Time,
    phase: Phase,
    answered: bool,
    legs: ThinVec<Leg>,
    dialog: Dialog,
    decision: Option<Decision>,
    outcome: Option<Outcome>,
    /// What the INVITE asked for.
    requested: Quota,
    /// How much is asked for at once: halved where the enabler refuses so much, doubled where it grants it.
    at_once: Quota,
    granted: Quota,
    taken: u32,
    /// The first reservation, by the number of the request that opened it: debits go out of this one. Those after it
    /// are in `ahead`.
    reservation: Option<u32>,
    /// Reserved by it and not yet debited.
    outstanding: Quota,
    /// The enabler's way to who has the reservation.
    route: Option<Arc<str>>,
    /// Reservations that the enabler may have made, and nobody uses.
    abandoned: ThinVec<(u32, Option<Arc<str>>, Rule)>,
    /// How long it is good; `None`: without a limit.
    validity: Option<Validity>,
    /// The enabler grants no more.
    last_granted: bool,
    /// The service costs this subscriber nothing.
    free: bool,
    /// Granted while no enabler answered.
    uncovered: Quota,
    /// What is to be asked for, and why.
    wanted: Option<(Quota, Rule)>,
    refused: Option<Time>,
    next_number: u32,
    flight: Option<Box<Flight>>,
    // These lists are sorted by number, and stored in parts.
    #[serde(skip)]
    debits: ThinVec<Debit>,
    /// Debits that stand and may be given back; only with `report=release`.
    #[serde(skip)]
    refundable: ThinVec<Debit>,
    /// Debits to be given back.
    #[serde(skip)]
    refunds: ThinVec<Debit>,
    #[serde(skip)]
    /// Boxed: one that ends moves no others.
    messages: ThinVec<Box<Message>>,
    #[serde(skip)]
    settled: ThinVec<Settled>,
    /// Of messages and settled messages, where there are many.
    #[serde(skip)]
    index: Option<Box<Index>>,
    forgotten: ThinVec<Forgotten>,
    /// Number of the next item of these lists.
    next_item: u32,
    /// Parts that have changed since they were stored.
    #[serde(skip)]
    changed: ThinVec<u32>,
    /// Transactions of all messages without an answer.
    transactions: u32,
    early: ThinVec<Early>,
    connections: ThinVec<u64>,
    counts: Counts,
    ladder: Ladder,
    ahead: Ahead,
    #[serde(skip)]
    outputs: ThinVec<Output>,
}

/// Takes the first of a short queue.
fn first<T>(queue: &mut ThinVec<T>) -> Option<T> {
    (!queue.is_empty()).then(|| queue.remove(0))
}

/// The life of a session.
impl Session {
    /// Makes the session from its INVITE and asks for the reservation, or refuses where nobody can be charged. `first`:
    /// number of its first request, below [`FIRST_NUMBER_END`].
    pub fn open(
        key: SessionKey,
        reserve: &Reserve<'_>,
        tariff: Tariff,
        policy: Policy,
        first: u32,
        now: Time,
    ) -> Session {
        let (requested, ahead) = Ahead::new(tariff, policy.model, reserve.messages);
        let mut session = Session {
            key,
            parties: Parties::new(reserve),
            reason: None,
            suspended: reserve.suspended,
            inviting_tag: reserve.inviting_tag,
            direction: reserve.direction,
            tariff,
            policy,
            opened: now,
            moved: now,
            phase: Phase::Reserving,
            answered: false,
            legs: ThinVec::new(),
            dialog: Dialog::Alive,
            decision: None,
            outcome: None,
            requested,
            at_once: requested,
            granted: Quota(0),
            taken: 0,
            reservation: None,
            outstanding: Quota(0),
            route: None,
            abandoned: ThinVec::new(),
            validity: None,
            last_granted: false,
            free: false,
            uncovered: Quota(0),
            wanted: None,
            refused: None,
            next_number: first,
            flight: None,
            debits: ThinVec::new(),
            refundable: ThinVec::new(),
            refunds: ThinVec::new(),
            messages: ThinVec::new(),
            settled: ThinVec::new(),
            index: None,
            forgotten: ThinVec::new(),
            next_item: 0,
            changed: ThinVec::new(),
            transactions: 0,
            early: ThinVec::new(),
            connections: ThinVec::new(),
            counts: Counts::default(),
            ladder: Ladder::default(),
            ahead,
            outputs: ThinVec::new(),
        };
        session.step(now, TraceEvent::new(TraceEventKind::Invite).messages(reserve.messages));
        if reserve.account.is_empty() {
            session.fail(Failure::NoIdentity, now);
        } else {
            match policy.model {
                Model::Reserve => session.ask(Work::Reserve(requested, Rule::Invite), now),
                Model::Immediate => session.give(requested, Rule::ModelImmediate, now),
            }
        }
        session
    }

    /// Something happened, seen by a worker of the host at `at`, which may be earlier than in the call before.
    pub fn event(&mut self, event: &Event<'_>, at: Time) {
        if matches!(self.phase, Phase::Gone) {
            return;
        }
        // What an enabler asks says nothing about the parties: a session that they have left is idle all the same. The end
        // of the host is not a new end of a session that is over.
        let is_activity = match event {
            Event::Reauthorize { .. } => false,
            Event::HostStopped => self.outcome.is_none(),
            _ => true,
        };
        if is_activity {
            self.moved = self.moved.max(at);
        }
        match event {
            // The session was made from it; it is read again after a crash of the engine.
            Event::Reserve(_) => {}
            Event::EarlyDialog { leg } => self.on_early_dialog(*leg),
            Event::Answered { leg } => self.on_answered(*leg, at),
            Event::Failed { code, .. } => self.on_invite_failed(*code, at),
            Event::Cancelled { .. } => self.on_cancelled(at),
            Event::Bye { leg } => self.on_bye(*leg, at),
            Event::DialogOver { leg } => self.on_dialog_over(*leg, at),
            Event::End { reason } => self.on_script_end(reason, at),
            Event::HostStopped => {
                self.end_dialog(at);
                self.on_end(TraceEventKind::HostStopped, Outcome::HostStopped, at);
            }
            Event::Sent(sent) => self.on_sent(sent, at),
            Event::Stopped { message_id, why } => self.on_stopped(message_id, *why, at),
            Event::Responded { transaction, code, connection } => {
                self.carries(*connection);
                self.on_answer(Answer::Response { transaction: *transaction, code: *code }, at);
            }
            Event::Reported { message_id, start, end, code } => {
                self.step(at, TraceEvent::new(TraceEventKind::Report).about(message_id).code((*code).into()));
                let (message, end) = (Message::name_of(message_id), end.unwrap_or(u64::MAX));
                self.on_answer(Answer::Report { message, start: *start, end, code: *code }, at);
            }
            Event::Activity { connection } => self.carries(*connection),
            Event::Reauthorize { opened_by } => self.on_reauthorize(*opened_by, at),
            Event::Abort => self.on_end(TraceEventKind::EnablerEnds, Outcome::EnablerEnded, at),
            Event::ConnectionLost { connection } => self.on_connection_lost(*connection, at),
            Event::PassedAgain { message_id, transaction, start, octets } => {
                self.on_passed_again(message_id, *transaction, (*start, *octets), at);
            }
            Event::Unsent { message_id, transaction } => self.on_unsent(message_id, *transaction, at),
        }
        self.proceed(at);
    }

    /// The enabler answers the request of this number; an answer to any other than the one in flight is ignored.
    pub fn response(&mut self, number: u32, response: &Response, now: Time) {
        let Some(flight) = self.flight.take_if(|flight| flight.number == number) else {
            return;
        };
        match (&flight.work, response) {
            (Work::Reserve(..), answer) => self.on_reserved(&flight, answer, now),
            (Work::Debit(debit), Response::Debited { balance, ended, rest }) => {
                self.on_debited(debit, number, flight.reservation, *balance, *ended, now);
                self.on_rest(rest.as_ref(), now);
                self.keep_refundable(debit, flight.revoked, now);
            }
            (Work::Debit(debit), Response::Denied(denial)) => self.on_debit_denied(debit, number, *denial, now),
            (Work::Debit(debit), Response::Free) => {
                self.free = true;
                self.free(debit, Rule::FreeOfCharge, now);
            }
            (Work::Refund(debit), Response::Refunded { balance }) => self.on_refunded(debit, number, *balance, now),
            (Work::Refund(debit), Response::Denied(denial)) => self.on_refund_denied(debit, number, *denial, now),
            (Work::Refund(debit), Response::Free) => {
                self.on_refund_denied(debit, number, Denial::Refused(4011), now);
            }
            (Work::Debit(_), Response::NoReservation) if self.reservation.is_some() => {
                self.on_debit_without_reservation(flight, now);
            }
            (Work::Release(_), Response::Released { balance }) => {
                self.step(now, TraceEvent::new(TraceEventKind::Released).request(number).leaves(*balance));
            }
            (Work::Release(_), Response::Denied(denial)) => {
                self.step(now, TraceEvent::new(TraceEventKind::Released).request(number).by(Rule::Denied(*denial)));
            }
            (Work::Release(_), Response::NoReservation) => {
                self.step(now, TraceEvent::new(TraceEventKind::Released).request(number).by(Rule::NoReservation));
            }
            (_, Response::Failed(failure)) => self.ask_later(flight, *failure, now),
            // An answer to another question is none.
            (_, _) => self.ask_later(flight, Failure::Enabler, now),
        }
        self.ask_ahead(0);
        self.proceed(now);
    }

    /// The enabler has granted a request after all that it was not heard to answer. Nobody uses that any more: if the
    /// session does not hold it, it is given back.
    pub fn on_late_grant(&mut self, number: u32, route: Option<Arc<str>>, now: Time) {
        if self.has_reservation(number) || matches!(self.phase, Phase::Gone) {
            return;
        }
        self.step(now, TraceEvent::new(TraceEventKind::LateGrant).request(number));
        self.abandoned.push((number, route, Rule::LateGrant));
        self.proceed(now);
    }

    /// The gate is closed; `taken` is the final value of its counter.
    pub fn gate_closed(&mut self, taken: u32, now: Time) {
        if !matches!(self.phase, Phase::Closing) {
            return;
        }
        self.phase = Phase::Draining { until: now.after_seconds(LATE), taken };
        self.settle_when_drained(now);
        self.proceed(now);
    }

    /// Time has passed.
    pub fn timer(&mut self, now: Time) {
        if matches!(self.phase, Phase::Gone) {
            return;
        }
        self.retry(now);
        self.renew_when_old(now);
        self.settle_due(now);
        match self.phase {
            Phase::Cancelled { until } if until <= now => self.end(Outcome::Cancelled),
            Phase::Open if self.idle_at() <= now => {
                self.step(now, TraceEvent::new(TraceEventKind::Idle));
                self.end(Outcome::Idle);
            }
            Phase::Draining { .. } => self.settle_when_drained(now),
            Phase::Closed { until } if until <= now && self.is_quiet() => self.forget(now),
            _ => {}
        }
        self.proceed(now);
    }

    /// When [`Session::timer`] is to be called next.
    pub fn deadline(&self) -> Option<Time> {
        let phase = match self.phase {
            Phase::Open => Some(self.idle_at()),
            Phase::Cancelled { until } | Phase::Draining { until, .. } => Some(until),
            Phase::Closed { until } if self.is_quiet() => Some(until),
            _ => None,
        };
        let retry = self.flight.as_ref().and_then(|flight| flight.retry);
        let renewal = self.next_renewal_at().filter(|_| matches!(self.phase, Phase::Open));
        let messages = self.first_deadline().map(|(deadline, _)| deadline);
        messages.into_iter().chain(phase).chain(retry).chain(renewal).min()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        let output = first(&mut self.outputs);
        if output.is_none() {
            // Most sessions do nothing most of the time: an empty queue keeps no room.
            self.outputs = ThinVec::new();
        }
        output
    }

    /// Says again what a stopped engine may not have told: the request in flight, the grant, the closing of the gate.
    /// The verdict is not said again; [`Session::decision`] has it.
    ///
    /// The clock may have begun anew with the machine: nothing is waited for longer than it would be from now on.
    pub fn resume(&mut self, now: Time) {
        self.rebase(now);
        if let Some(mut flight) = self.flight.take_if(|flight| flight.retry.is_none()) {
            flight.possible_duplicate = true;
            if flight.held || self.holds_back(&flight) {
                self.hold_back(flight, Rule::ResendHold, now);
            } else {
                self.outputs.push(Output::Ask(self.request(&flight)));
                self.flight = Some(flight);
            }
        }
        match self.phase {
            Phase::Open | Phase::Cancelled { .. } => self.outputs.push(Output::Grant(self.granted)),
            Phase::Closing => self.outputs.push(Output::CloseGate),
            _ => {}
        }
    }
}

/// The clock.
impl Session {
    /// Takes no time as later than it can be.
    fn rebase(&mut self, now: Time) {
        self.moved = self.moved.min(now);
        self.opened = self.opened.min(now);
        match &mut self.phase {
            Phase::Cancelled { until } => *until = (*until).min(now.after_seconds(CROSSING)),
            Phase::Draining { until, .. } => *until = (*until).min(now.after_seconds(LATE)),
            Phase::Closed { until } => *until = (*until).min(now.after_seconds(DIALOG)),
            _ => {}
        }
        if let Some(retry) = self.flight.as_mut().and_then(|flight| flight.retry.as_mut()) {
            *retry = (*retry).min(now.after_seconds(RETRY_MOST));
        }
        self.refused = self.refused.map(|refused| refused.min(now));
        self.forgotten.clear();
        self.rebase_validities(now);
        let latest = now.after_seconds(self.policy.response_timeout);
        self.messages.iter_mut().for_each(|message| message.rebase(now, latest));
        self.index = None;
        self.index_if_large();
        let flying = self.flight.as_mut().and_then(|flight| {
            flight.since = flight.since.min(now);
            match &mut flight.work {
                Work::Debit(debit) | Work::Refund(debit) => Some(debit),
                Work::Reserve(..) | Work::Release(_) => None,
            }
        });
        let waiting = self.debits.iter_mut().chain(&mut self.refunds).chain(&mut self.refundable).chain(flying);
        waiting.for_each(|debit| debit.since = debit.since.min(now));
        self.touch_all();
    }

    /// Nothing more can come, unless the dialog goes on: who was refused must not be served for nothing.
    fn forget(&mut self, now: Time) {
        let until = self.moved.after_seconds(DIALOG);
        if self.dialog == Dialog::Alive && until > now {
            self.phase = Phase::Closed { until };
            return;
        }
        self.phase = Phase::Gone;
        self.outputs.push(Output::Forget);
    }
}

/// SIP: how a session is answered and how it ends.
impl Session {
    /// Ignored once the INVITE has been answered or has failed: hosts report the end of every transaction.
    fn on_invite_failed(&mut self, code: u16, at: Time) {
        if self.answered || self.dialog != Dialog::Alive && !matches!(self.phase, Phase::Cancelled { .. }) {
            return;
        }
        self.step(at, TraceEvent::new(TraceEventKind::InviteFailed).code(code.into()));
        self.has_no_dialog(at);
        match self.phase {
            Phase::Cancelled { .. } => self.end(Outcome::Cancelled),
            _ => self.end(Outcome::InviteFailed(code)),
        }
    }

    /// While the reservation is asked for, no 2xx can cross: the INVITE has gone nowhere.
    fn on_cancelled(&mut self, at: Time) {
        self.step(at, TraceEvent::new(TraceEventKind::Cancelled));
        self.has_no_dialog(at);
        match self.phase {
            _ if self.answered => {}
            Phase::Reserving => self.end(Outcome::Cancelled),
            Phase::Open => self.phase = Phase::Cancelled { until: at.after_seconds(CROSSING) },
            _ => {}
        }
    }

    /// SENDs after the end find a closed gate for as long as they come.
    fn keep_closed(&mut self, at: Time) {
        if let Phase::Closed { until } = &mut self.phase {
            *until = (*until).max(at.after_seconds(LINGER));
        }
    }

    fn on_script_end(&mut self, reason: &str, at: Time) {
        if self.outcome.is_none() && !reason.is_empty() {
            self.reason = Some(reason.chars().take(REASON).collect());
        }
        self.on_end(TraceEventKind::End, Outcome::Ended, at);
    }

    fn on_end(&mut self, step: TraceEventKind, outcome: Outcome, at: Time) {
        self.step(at, TraceEvent::new(step));
        self.end(outcome);
    }

    /// The end begins: no message passes any more. Only the first end counts.
    fn end(&mut self, outcome: Outcome) {
        if matches!(self.phase, Phase::Reserving | Phase::Open | Phase::Cancelled { .. }) {
            self.outcome = Some(outcome);
            self.wanted = None;
            self.phase = Phase::Closing;
            self.outputs.push(Output::CloseGate);
        }
    }

    /// SENDs that passed the gate before it closed may still be in other rings; they are waited for, 2 s at most.
    fn settle_when_drained(&mut self, now: Time) {
        if let Phase::Draining { until, taken } = self.phase
            && (self.taken >= taken || until <= now)
        {
            self.phase = Phase::Settling;
            self.close_messages(self.ending(), now);
        }
    }

    /// Nothing is held and nothing is asked: a denial, or the end of the settling. An end that came first names it.
    fn close(&mut self, now: Time) {
        self.phase = Phase::Closed { until: now.max(self.moved).after_seconds(LINGER) };
        let closed = TraceEvent::new(TraceEventKind::Closed).messages(self.counts.debited);
        self.step(now, self.outcome.map_or(closed.clone(), |outcome| closed.by(Rule::Ended(outcome))));
        let word = self.outcome.map_or("", Outcome::as_str);
        let outcome = self.reason.clone().unwrap_or_else(|| word.into());
        self.outputs.push(Output::Closed { outcome });
    }

    fn idle_at(&self) -> Time {
        self.moved.after_seconds(self.policy.hold_timeout)
    }

    fn is_quiet(&self) -> bool {
        self.flight.is_none() && self.debits.is_empty() && self.refunds.is_empty() && self.abandoned.is_empty()
    }

    fn step(&mut self, at: Time, mut step: TraceEvent) {
        step.request = step.request.map(|number| self.sent_as(number));
        self.ladder.add(at.micros_since(self.opened), step);
    }

    /// Number of a request as it was sent: the last one's within its reservation. An earlier one that is heard of later
    /// has opened a reservation of its own.
    fn sent_as(&self, number: u32) -> u32 {
        if number.saturating_add(1) == self.next_number { self.ahead.sequence } else { 0 }
    }

    /// What a quota costs.
    fn price_of(&self, quota: Quota) -> Units {
        self.tariff.price_of(quota)
    }
}
