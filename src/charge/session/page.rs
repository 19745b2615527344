//! Page mode: a SIP MESSAGE (RFC 3428) is one message that passes no gate. Its final response decides about it.
//!
//! ```text
//!                      verdict                2xx ─────────────────► debit; 202: policy `202`
//!   Reserving ─────────────────────► Open ─── final failure ───────► release
//!     │  model=prepay: debited first   │ ├─── no final response, 408 ► policy `message-timeout`
//!     │                                │ └─── host stopped, idle ────► policy `message-timeout`
//!     └ ends before the verdict        └ 2xx after a release ────────► debit
//!        └► release, or refund
//! ```
//!
//! Only the first outcome counts, except that a 2xx after an outcome without a response debits what was released. With
//! `model=prepay` the debit precedes the verdict: where the others release, it is refunded. A grant covers the whole message
//! or is a denial, because a MESSAGE cannot be relayed in part.

use super::Session;
use super::common::{Common, Context};
use super::credit::Credit;
use super::dialog::Phase;
use super::messages::{Debit, Messages};
use super::output::{EndReason, Output};
use super::query::{UnsettledItem, UnsettledKind};
use super::request::{PendingRequest, Purpose};
use super::rule::Rule;
use super::settlement::Settlement;
use super::trace::{TraceEvent, TraceEventKind};
use crate::charge::ch2::{Failure, Response, Trigger};
use crate::charge::content::ContentClass;
use crate::charge::event::{Event, PageContent, Reserve};
use crate::charge::policy::{Model, Policy};
use crate::charge::tariff::{PriceList, Quota};
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// Message-ID of the one message of a page-mode session.
pub const PAGE_MESSAGE_ID: &str = "msg";

/// The message of a page-mode session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Page {
    class: ContentClass,
    /// Octets of all copies.
    octets: u64,
    /// What all copies of the message use.
    pub(super) quota: Quota,
    charge: Charge,
    /// Number of the next debit.
    part: u32,
}

/// What is decided about the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Charge {
    Undecided,
    /// A debit is due, pending or done.
    Debited,
    /// Released, or the debit is refunded or will be.
    NotCharged,
}

/// The outcome of a MESSAGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Delivered(u16),
    NotDelivered(u16),
    NoResponse(EndReason),
}

impl Page {
    pub(super) fn new(reserve: &Reserve<'_>, prices: &PriceList) -> Option<Page> {
        let PageContent { class, octets } = reserve.page?;
        let copies = reserve.messages.max(1);
        let quota = Quota(prices.quota(class, octets).0.saturating_mul(copies));
        let octets = octets.saturating_mul(copies.into());
        Some(Page { class, octets, quota, charge: Charge::Undecided, part: 0 })
    }

    /// The trace event of the request.
    pub(super) fn event(self) -> TraceEvent {
        TraceEvent::new(TraceEventKind::Message).octets(self.octets)
    }
}

impl Outcome {
    fn end_reason(self) -> EndReason {
        match self {
            Outcome::Delivered(_) => EndReason::Delivered,
            Outcome::NotDelivered(code) => EndReason::NotDelivered(code),
            Outcome::NoResponse(reason) => reason,
        }
    }

    fn settlement(self, policy: &Policy) -> Settlement {
        match self {
            Outcome::Delivered(202) => {
                Settlement::new(policy.accepted, Trigger::Response, Rule::Accepted(policy.accepted))
            }
            Outcome::Delivered(code) => Settlement::Debit(Trigger::Response, Rule::Delivered(code)),
            Outcome::NotDelivered(code) => Settlement::NotCharged(Rule::NotDelivered(code)),
            Outcome::NoResponse(reason) => {
                let settle = policy.message_timeout;
                Settlement::new(settle, Trigger::Timeout, Rule::MessageTimeout(settle, reason))
            }
        }
    }

    fn event(self) -> TraceEvent {
        match self {
            Outcome::Delivered(code) => TraceEvent::new(TraceEventKind::Delivered).code(code.into()),
            Outcome::NotDelivered(code) => TraceEvent::new(TraceEventKind::NotDelivered).code(code.into()),
            Outcome::NoResponse(EndReason::HostStopped) => TraceEvent::new(TraceEventKind::HostStopped),
            Outcome::NoResponse(EndReason::Idle) => TraceEvent::new(TraceEventKind::Idle),
            Outcome::NoResponse(_) => TraceEvent::new(TraceEventKind::Unanswered),
        }
    }
}

/// Events.
impl Session {
    /// Requests the credit of a MESSAGE.
    pub(super) fn open_page(&mut self, now: Time) {
        let (credit, messages, mut cx) = self.machines(now);
        let quota = credit.ahead.requested;
        match cx.common.policy.model {
            Model::Reserve => credit.ask(Purpose::Reserve(quota, Rule::Message), &mut cx),
            Model::Immediate => credit.grant_unreserved(quota, Rule::ModelImmediate, &mut cx),
            Model::Prepay => {
                let debit = messages.new_page_debit(Trigger::Prepay, Rule::ModelPrepay, &mut cx);
                credit.ask(Purpose::Debit(debit), &mut cx);
            }
        }
    }

    /// Handles an event of a page-mode session.
    pub(super) fn on_page_event(&mut self, event: &Event<'_>, at: Time) {
        self.dialog.note_activity(event, at);
        let outcome = match event {
            Event::Delivered { code, .. } => Outcome::Delivered(*code),
            Event::Failed { code, .. } => Outcome::NotDelivered(*code),
            Event::Unanswered { .. } => Outcome::NoResponse(EndReason::Unanswered),
            Event::HostStopped => Outcome::NoResponse(EndReason::HostStopped),
            Event::Reauthorize { .. } => {
                let (credit, messages, mut cx) = self.machines(at);
                credit.on_event(event, messages, &mut cx);
                return self.proceed(at);
            }
            // The enabler cannot take back a MESSAGE; its final response ends the session soon.
            Event::Abort => return self.machines(at).2.record(TraceEvent::new(TraceEventKind::EnablerEnds)),
            _ => return,
        };
        self.on_page_outcome(outcome, at);
    }

    /// Ends the session if no outcome is reported for `hold_timeout`.
    pub(super) fn end_idle_page(&mut self, now: Time) {
        let is_open = self.is_page() && self.dialog.phase() == Phase::Open;
        if is_open && self.dialog.idle_at(&self.common.policy) <= now {
            self.on_page_outcome(Outcome::NoResponse(EndReason::Idle), now);
        }
    }

    fn on_page_outcome(&mut self, outcome: Outcome, at: Time) {
        let is_ended = self.dialog.end_reason().is_some();
        let is_late_delivery = matches!(outcome, Outcome::Delivered(_)) && self.was_unanswered();
        if is_ended && !is_late_delivery {
            return;
        }
        self.common.record(at, outcome.event());
        self.end_page(outcome, at);
    }

    /// Ends a MESSAGE whose outcome is not known, because another node has taken the session over.
    pub(super) fn take_over_page(&mut self, at: Time) {
        if self.dialog.end_reason().is_none() {
            self.end_page(Outcome::NoResponse(EndReason::TakenOver), at);
        }
    }

    fn end_page(&mut self, outcome: Outcome, at: Time) {
        let is_granted = self.dialog.is_granted();
        let (credit, messages, mut cx) = self.machines(at);
        cx.dialog.end_page(outcome.end_reason(), at);
        if is_granted {
            messages.settle_page(outcome.settlement(&cx.common.policy), credit, &mut cx);
        } else {
            credit.refund_pending_debit(Rule::Ended(outcome.end_reason()), |_| true);
        }
        self.proceed(at);
    }

    /// Whether the message was not charged because no final response had arrived.
    fn was_unanswered(&self) -> bool {
        let reason = self.dialog.end_reason();
        self.dialog.is_granted()
            && matches!(
                reason,
                Some(EndReason::Unanswered | EndReason::HostStopped | EndReason::TakenOver | EndReason::Idle)
            )
    }
}

/// Settlement.
impl Messages {
    /// Creates the next debit of the message.
    fn new_page_debit(&mut self, trigger: Trigger, rule: Rule, cx: &mut Context<'_>) -> Debit {
        let debit = self.page_debit(trigger, rule, cx);
        if let Some(page) = cx.common.page.as_deref_mut() {
            (page.charge, page.part) = (Charge::Debited, page.part.saturating_add(1));
        }
        debit
    }

    fn page_debit(&mut self, trigger: Trigger, rule: Rule, cx: &Context<'_>) -> Debit {
        let (part, octets, class, quota) = match cx.common.page.as_deref() {
            Some(page) => (page.part, page.octets, page.class, page.quota),
            None => (0, 0, ContentClass::Text, Quota(0)),
        };
        let (number, message_id) = (self.new_number(), PAGE_MESSAGE_ID.into());
        let is_refundable = matches!(trigger, Trigger::Prepay | Trigger::Response);
        Debit { number, message_id, part, octets, class, quota, trigger, rule, is_refundable, since: cx.now }
    }

    fn settle_page(&mut self, settlement: Settlement, credit: &mut Credit, cx: &mut Context<'_>) {
        let Some(page) = cx.common.page.as_deref().copied() else { return };
        match (page.charge, settlement) {
            (Charge::Undecided | Charge::NotCharged, Settlement::Debit(trigger, rule)) => {
                let debit = self.new_page_debit(trigger, rule, cx);
                self.add_debit(debit, credit, cx);
            }
            (Charge::Undecided, Settlement::NotCharged(rule)) => {
                let debit = self.page_debit(settlement.trigger(), rule, cx);
                cx.common.set_page_not_charged();
                credit.mark_not_charged(&debit, rule, cx.now, cx);
            }
            (Charge::Debited, Settlement::NotCharged(rule)) => {
                cx.common.set_page_not_charged();
                self.refund_page(rule, credit, cx);
            }
            (Charge::Debited, Settlement::Debit(..)) | (Charge::NotCharged, Settlement::NotCharged(_)) => {}
        }
    }

    /// Refunds the debit that preceded the verdict: at once if it is acknowledged, else when it is.
    fn refund_page(&mut self, rule: Rule, credit: &mut Credit, cx: &mut Context<'_>) {
        credit.refund_pending_debit(rule, |_| true);
        if let Some(debit) = super::take_first(&mut self.refundable) {
            self.touch(debit.number);
            self.add_refund(debit, rule, cx);
        }
    }
}

/// Answers to the debit that precedes the verdict (`model=prepay`).
impl Credit {
    /// The debit may have been executed: it is sent again until it is answered, and refunded, because the message is not
    /// relayed. One that was not sent is dropped.
    fn on_prepay_failed(&mut self, mut pending: Box<PendingRequest>, failure: Failure, cx: &mut Context<'_>) {
        let quota = cx.common.page.as_deref().map_or(Quota(0), |page| page.quota);
        if self.grant_uncovered(quota, cx) {
            return self.ask_later(pending, failure, cx);
        }
        if failure.may_be_done() || pending.possible_duplicate {
            pending.refund_rule.get_or_insert(Rule::Failed(failure));
            self.ask_later(pending, failure, cx);
        } else {
            let event = TraceEvent::new(TraceEventKind::EnablerFailed).request(pending.number);
            self.record(event.by(Rule::Failed(failure)), cx);
            cx.push(Output::EnablerFailed(failure));
        }
        cx.common.set_page_not_charged();
        self.fail(failure, cx);
    }

    /// The service is free of charge: the outcome of the message decides.
    fn on_prepay_free(&mut self, number: u32, cx: &mut Context<'_>) {
        self.is_free_of_charge = true;
        self.record(TraceEvent::new(TraceEventKind::Free).request(number).by(Rule::FreeOfCharge), cx);
        if let Some(page) = cx.common.page.as_deref_mut() {
            (page.charge, page.part) = (Charge::Undecided, 0);
        }
        self.grant_page(None, cx);
    }

    fn grant_page(&mut self, balance: Option<i64>, cx: &mut Context<'_>) {
        let quota = cx.common.page.as_deref().map_or(Quota(0), |page| page.quota);
        self.grant(quota, balance, cx);
    }

    /// After a restart of the engine a debit that waits for the operator cannot decide about the message.
    pub(super) fn fail_held_prepay(&mut self, cx: &mut Context<'_>) {
        if cx.common.is_prepaid() && cx.dialog.decision().is_none() && self.pending().is_some_and(|p| p.is_held) {
            self.refund_pending_debit(Rule::Failed(Failure::Silent), |_| true);
            cx.common.set_page_not_charged();
            self.fail(Failure::Silent, cx);
        }
    }
}

/// Whether the answer to this request decides about the message (`model=prepay`).
pub(super) fn is_prepay(pending: &PendingRequest, cx: &Context<'_>) -> bool {
    cx.common.is_prepaid() && cx.dialog.decision().is_none() && pending.purpose.debit().is_some()
}

/// Routes the answer to a debit that precedes the verdict.
pub(super) fn route_prepay_response(
    pending: Box<PendingRequest>,
    response: &Response,
    credit: &mut Credit,
    messages: &mut Messages,
    cx: &mut Context<'_>,
) {
    match (&pending.purpose, response) {
        (Purpose::Debit(debit), Response::Debited { balance, ended, .. }) => {
            credit.on_debited(&pending, debit, *balance, *ended, cx);
            messages.keep_refundable(debit, pending.refund_rule, cx);
            credit.grant_page(*balance, cx);
        }
        (_, Response::Denied(denial)) => {
            cx.common.set_page_not_charged();
            credit.refuse(pending.number, *denial, cx);
        }
        (_, Response::Free) => credit.on_prepay_free(pending.number, cx),
        (_, Response::Failed(failure)) => credit.on_prepay_failed(pending, *failure, cx),
        _ => credit.on_prepay_failed(pending, Failure::Enabler, cx),
    }
}

/// Queries.
impl Session {
    /// Returns whether the session is a SIP MESSAGE.
    pub fn is_page(&self) -> bool {
        self.common.page.is_some()
    }

    /// Returns the content class of a SIP MESSAGE; `None`: an INVITE.
    pub fn page_class(&self) -> Option<ContentClass> {
        self.common.page.as_deref().map(|page| page.class)
    }

    /// Returns the message while its final response is awaited.
    pub(super) fn unanswered_page(&self) -> Option<UnsettledItem<'_>> {
        let page = self.common.page.as_deref().filter(|_| self.dialog.phase() == Phase::Open)?;
        Some(UnsettledItem {
            kind: UnsettledKind::Answer,
            state: "outstanding",
            message_id: Some(PAGE_MESSAGE_ID),
            octets: page.octets,
            units: self.common.price_of(page.quota),
            rule: None,
            since: self.common.opened,
        })
    }
}

/// The model of a session: only a MESSAGE can be paid before it is relayed.
pub(super) fn model(policy: &Policy, is_page: bool) -> Model {
    match policy.model {
        Model::Prepay if !is_page => Model::Reserve,
        model => model,
    }
}

impl Common {
    /// Whether the message is debited before it is relayed.
    pub(super) fn is_prepaid(&self) -> bool {
        self.page.is_some() && self.policy.model == Model::Prepay
    }

    pub(super) fn set_page_not_charged(&mut self) {
        if let Some(page) = self.page.as_deref_mut() {
            page.charge = Charge::NotCharged;
        }
    }
}
