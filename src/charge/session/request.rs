//! Requests to the enabler: one is pending at a time; it is sent again, under its number, until it is answered.

use super::common::{Common, Context};
use super::credit::Credit;
use super::messages::{Debit, Messages};
use super::output::Output;
use super::reservation::AbandonedReservation;
use super::rule::Rule;
use super::trace::{TraceEvent, TraceEventKind};
use crate::charge::account::AccountId;
use crate::charge::ch2::{Failure, Operation, Request, Reservation};
use crate::charge::policy::Resend;
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// Longest wait before a debit or release is sent again, in seconds.
const RETRY_SECONDS_MAX: u32 = 60;
/// Largest exponent of the wait between two attempts.
const ATTEMPTS_COUNTED_MAX: u8 = 31;

/// What a request is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Purpose {
    /// More credit, or the renewal of a reservation if the quota is 0.
    Reserve(Quota, Rule),
    Debit(Debit),
    Refund(Debit),
    Release(Rule),
}

impl Purpose {
    /// The debit that is requested or refunded.
    pub(super) fn debit(&self) -> Option<&Debit> {
        match self {
            Purpose::Debit(debit) | Purpose::Refund(debit) => Some(debit),
            Purpose::Reserve(..) | Purpose::Release(_) => None,
        }
    }

    pub(super) fn debit_mut(&mut self) -> Option<&mut Debit> {
        match self {
            Purpose::Debit(debit) | Purpose::Refund(debit) => Some(debit),
            Purpose::Reserve(..) | Purpose::Release(_) => None,
        }
    }
}

/// The request that the enabler has not answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PendingRequest {
    pub(super) number: u32,
    pub(super) first_sent_at: Time,
    pub(super) reservation: Reservation,
    pub(super) server_binding: Option<Arc<str>>,
    pub(super) purpose: Purpose,
    /// End-to-End Identifier; 0: not assigned yet.
    end_to_end_id: u32,
    /// When it is sent again, after the enabler failed.
    pub(super) retry_at: Option<Time>,
    attempts: u8,
    /// The enabler may have received it before.
    pub(super) possible_duplicate: bool,
    /// It waits for the operator.
    pub(super) is_held: bool,
    /// The rule by which a debit is to be refunded once it is acknowledged.
    pub(super) refund_rule: Option<Rule>,
}

impl PendingRequest {
    /// Whether it asks for more credit.
    pub(super) fn asks_for_more(&self) -> bool {
        matches!(self.purpose, Purpose::Reserve(quota, _) if quota.0 > 0)
    }

    /// Whether sending it twice could move money twice: the enabler does not detect duplicates.
    fn is_at_most_once(&self, common: &Common) -> bool {
        common.policy.resend == Resend::Hold && self.purpose.debit().is_some()
    }
}

/// Sending.
impl Credit {
    /// Sends a request that concerns the first reservation.
    pub(super) fn ask(&mut self, purpose: Purpose, cx: &mut Context<'_>) {
        let reservation = self.reservation_for(&purpose);
        self.send(purpose, reservation, self.server_binding_of(reservation), cx);
    }

    /// Requests a debit that ends the first reservation, if there is one.
    pub(super) fn ask_last_debit(&mut self, debit: Debit, cx: &mut Context<'_>) {
        let reservation = self.reservations.first().map_or(Reservation::None, |first| Reservation::Last {
            opened_by: first.opened_by,
            outstanding: first.outstanding,
        });
        self.send(Purpose::Debit(debit), reservation, self.server_binding_of(reservation), cx);
    }

    /// Server binding of the first reservation, for a request that uses it.
    fn server_binding_of(&self, reservation: Reservation) -> Option<Arc<str>> {
        let first = self.reservations.first().filter(|_| reservation != Reservation::None)?;
        first.server_binding.clone()
    }

    /// Requests the release of a reservation that the session does not use.
    pub(super) fn ask_release_of(&mut self, abandoned: AbandonedReservation, cx: &mut Context<'_>) {
        let AbandonedReservation { opened_by, server_binding, rule } = abandoned;
        let reservation = Reservation::Open { opened_by, outstanding: Quota(0) };
        self.send(Purpose::Release(rule), reservation, server_binding, cx);
    }

    fn send(
        &mut self,
        purpose: Purpose,
        reservation: Reservation,
        server_binding: Option<Arc<str>>,
        cx: &mut Context<'_>,
    ) {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        self.sequence = self.sequence_in(reservation, number);
        let event = asked_event(&purpose, reservation, cx.common).request(number);
        self.record(event, cx);
        let pending = Box::new(PendingRequest {
            number,
            first_sent_at: cx.now,
            reservation,
            server_binding,
            purpose,
            end_to_end_id: 0,
            retry_at: None,
            attempts: 0,
            possible_duplicate: false,
            is_held: false,
            refund_rule: None,
        });
        self.output_and_keep(pending, cx.common);
    }

    /// Returns the reservation that a request uses. More credit is requested in a new reservation (see `ahead`), and a debit
    /// that uses up its reservation ends it.
    fn reservation_for(&self, purpose: &Purpose) -> Reservation {
        let Some(first) = self.reservations.first() else { return Reservation::None };
        let (opened_by, outstanding) = (first.opened_by, first.outstanding);
        match purpose {
            Purpose::Refund(_) => Reservation::None,
            Purpose::Reserve(quota, _) if quota.0 > 0 => Reservation::None,
            Purpose::Debit(debit) if debit.quota >= outstanding => Reservation::Last { opened_by, outstanding },
            _ => Reservation::Open { opened_by, outstanding },
        }
    }

    /// Number of a request within its reservation. For a reservation that the session does not use, the number of its
    /// requests is unknown and at most that of the session.
    fn sequence_in(&mut self, reservation: Reservation, number: u32) -> u32 {
        let Some(opened_by) = reservation.opened_by() else { return 0 };
        match self.reservations.first_mut() {
            Some(first) if first.opened_by == opened_by => {
                let sequence = first.requests;
                first.requests = sequence.saturating_add(1);
                sequence
            }
            _ => number.saturating_sub(opened_by),
        }
    }

    fn output_and_keep(&mut self, pending: Box<PendingRequest>, common: &mut Common) {
        let request = self.request(&pending, common);
        common.push(Output::Ask(request));
        self.pending = Some(pending);
    }

    /// Builds the CH-2 request of a pending request.
    pub(super) fn request(&self, pending: &PendingRequest, common: &Common) -> Request {
        Request {
            session: common.key,
            number: pending.number,
            sequence: pending.reservation.opened_by().map_or(0, |_| self.sequence),
            account: AccountId(common.account().into()),
            service: common.service,
            recipients: common.recipients,
            measure: common.prices.measure(),
            reservation: pending.reservation,
            possible_duplicate: pending.possible_duplicate,
            // The INVITE or the gate waits for more credit, so that is never delayed.
            rate_limited: (pending.possible_duplicate || pending.attempts > 0) && !pending.asks_for_more(),
            at_most_once: pending.is_at_most_once(common),
            server_binding: pending.server_binding.clone(),
            end_to_end_id: pending.end_to_end_id,
            operation: operation(&pending.purpose, common),
        }
    }

    /// Adds an event to the trace; a request is numbered as it was sent, within its reservation. A request before the last
    /// one that is still heard of has opened a reservation, so its number is 0.
    pub(super) fn record(&self, mut event: TraceEvent, cx: &mut Context<'_>) {
        let last = self.next_number;
        event.request = event.request.map(|number| if number.saturating_add(1) == last { self.sequence } else { 0 });
        cx.record(event);
    }
}

/// Queries and changes of the pending request.
impl Credit {
    pub(super) fn pending(&self) -> Option<&PendingRequest> {
        self.pending.as_deref()
    }

    /// Takes the pending request if it has this number.
    pub(super) fn take_pending(&mut self, number: u32) -> Option<Box<PendingRequest>> {
        self.pending.take_if(|pending| pending.number == number)
    }

    /// Debits and refunds among the pending request: 0 or 1.
    pub(super) fn debits_pending(&self) -> usize {
        usize::from(self.pending().is_some_and(|pending| pending.purpose.debit().is_some()))
    }

    /// Whether a request waits to be sent again because the enabler failed; nothing else can be requested before it.
    pub(super) fn is_failing(&self) -> bool {
        self.pending().is_some_and(|pending| pending.retry_at.is_some())
    }

    /// Returns the End-to-End Identifier of the pending request, assigning `fresh` the first time. Resends reuse it.
    pub(super) fn end_to_end_id(&mut self, fresh: u32) -> u32 {
        match &mut self.pending {
            Some(pending) if pending.end_to_end_id == 0 => {
                pending.end_to_end_id = fresh;
                fresh
            }
            Some(pending) => pending.end_to_end_id,
            None => fresh,
        }
    }

    /// The request of this number was sent to this server and will not be answered: the server may have executed it.
    pub(super) fn on_request_lost(&mut self, number: u32, server_binding: &Arc<str>) {
        if let Some(pending) = self.pending.as_mut().filter(|pending| pending.number == number) {
            pending.possible_duplicate = true;
            pending.server_binding.get_or_insert_with(|| Arc::clone(server_binding));
        }
    }

    /// Marks the pending debit for a refund, if the predicate selects it and it is not marked. Returns its Message-ID.
    pub(super) fn refund_pending_debit(&mut self, rule: Rule, is_meant: impl Fn(&Debit) -> bool) -> Option<&str> {
        let PendingRequest { purpose: Purpose::Debit(debit), refund_rule: refund_rule @ None, .. } =
            &mut **self.pending.as_mut()?
        else {
            return None;
        };
        if !is_meant(debit) {
            return None;
        }
        *refund_rule = Some(rule);
        Some(&debit.message_id)
    }

    /// Limits the times of the pending request to `now`; the clock may have started anew.
    pub(super) fn rebase_pending(&mut self, now: Time) {
        let Some(pending) = &mut self.pending else { return };
        pending.retry_at = pending.retry_at.map(|retry| retry.min(now.after_seconds(RETRY_SECONDS_MAX)));
        pending.first_sent_at = pending.first_sent_at.min(now);
        if let Some(debit) = pending.purpose.debit_mut() {
            debit.since = debit.since.min(now);
        }
    }
}

/// Resending and holding back.
impl Credit {
    /// Sends again what is due.
    pub(super) fn retry(&mut self, cx: &mut Context<'_>) {
        let now = cx.now;
        if let Some(mut pending) = self.pending.take_if(|pending| pending.retry_at.is_some_and(|at| at <= now)) {
            pending.retry_at = None;
            self.output_and_keep(pending, cx.common);
        }
    }

    /// After a restart of the engine: sends again what the stopped engine may not have sent.
    pub(super) fn resend_pending(&mut self, cx: &mut Context<'_>) {
        let Some(mut pending) = self.pending.take_if(|pending| pending.retry_at.is_none()) else { return };
        pending.possible_duplicate = true;
        if pending.is_held || pending.is_at_most_once(cx.common) {
            self.hold_back(pending, Rule::ResendHold, cx);
        } else {
            self.output_and_keep(pending, cx.common);
        }
    }

    /// The enabler failed. No debit and no release is lost: it is sent again under its number until it is answered.
    pub(super) fn ask_later(&mut self, mut pending: Box<PendingRequest>, failure: Failure, cx: &mut Context<'_>) {
        let event = TraceEvent::new(TraceEventKind::EnablerFailed).request(pending.number).by(Rule::Failed(failure));
        let event = match pending.purpose.debit() {
            Some(debit) => event.about(&debit.message_id),
            None => event,
        };
        self.record(event, cx);
        cx.push(Output::EnablerFailed(failure));
        let wait = 1_u32.checked_shl(pending.attempts.into()).map_or(RETRY_SECONDS_MAX, |s| s.min(RETRY_SECONDS_MAX));
        pending.attempts = pending.attempts.saturating_add(1).min(ATTEMPTS_COUNTED_MAX);
        pending.possible_duplicate |= failure.may_be_done();
        if pending.possible_duplicate && pending.is_at_most_once(cx.common) {
            return self.hold_back(pending, Rule::ResendHold, cx);
        }
        pending.retry_at = Some(cx.now.after_seconds(wait));
        self.pending = Some(pending);
    }

    /// Leaves a request to the operator.
    pub(super) fn hold_back(&mut self, mut pending: Box<PendingRequest>, rule: Rule, cx: &mut Context<'_>) {
        if let Some(debit) = pending.purpose.debit() {
            let event = cx.common.event_about(TraceEventKind::HeldBack, debit).request(pending.number).by(rule);
            self.record(event, cx);
            cx.push(Output::HeldBack { message_id: debit.message_id.clone() });
        }
        (pending.is_held, pending.retry_at) = (true, None);
        self.pending = Some(pending);
    }

    /// The operator has decided about the request that is held back: it is sent again (`again`) or counts as done.
    /// Returns whether there was one.
    pub(super) fn resolve(&mut self, again: bool, messages: &mut Messages, cx: &mut Context<'_>) -> bool {
        let Some(mut pending) = self.pending.take_if(|pending| pending.is_held) else { return false };
        pending.is_held = false;
        if let Some(debit) = pending.purpose.debit() {
            let rule = if again { Rule::OutboxResend } else { Rule::OutboxRelease };
            let event = cx.common.event_about(TraceEventKind::Resolved, debit).request(pending.number).by(rule);
            self.record(event, cx);
        }
        match (&pending.purpose, again) {
            (Purpose::Debit(debit), false) => {
                let ended = matches!(pending.reservation, Reservation::Last { .. });
                self.on_debited(&pending, debit, None, ended, cx);
                messages.keep_refundable(debit, pending.refund_rule, cx);
            }
            (Purpose::Refund(debit), false) => self.on_refunded(debit, pending.number, None, cx),
            _ => self.output_and_keep(pending, cx.common),
        }
        true
    }
}

/// The trace event of a request.
fn asked_event(purpose: &Purpose, reservation: Reservation, common: &Common) -> TraceEvent {
    let worth = |event: TraceEvent, quota: Quota| event.worth(quota, common.price_of(quota));
    match purpose {
        Purpose::Reserve(quota, rule) => worth(TraceEvent::new(TraceEventKind::Reserve), *quota).by(*rule),
        Purpose::Debit(debit) => common.event_about(TraceEventKind::Debit, debit).by(debit.rule),
        Purpose::Refund(debit) => common.event_about(TraceEventKind::Refund, debit).by(debit.rule),
        Purpose::Release(rule) => {
            let event = TraceEvent::new(TraceEventKind::Release).by(*rule);
            // The content of a reservation whose request was not answered is unknown.
            match (rule, reservation) {
                (Rule::Unused, Reservation::Open { outstanding, .. }) => worth(event, outstanding),
                _ => event,
            }
        }
    }
}

fn operation(purpose: &Purpose, common: &Common) -> Operation {
    match purpose {
        Purpose::Reserve(quota, _) => Operation::Reserve { quota: *quota },
        Purpose::Debit(debit) => Operation::Debit {
            message_id: debit.message_id.clone(),
            part: debit.part,
            octets: debit.octets,
            class: debit.class,
            units: common.price_of(debit.quota),
            quota: debit.quota,
            trigger: debit.trigger,
        },
        Purpose::Refund(debit) => Operation::Refund {
            message_id: debit.message_id.clone(),
            part: debit.part,
            octets: debit.octets,
            class: debit.class,
            units: common.price_of(debit.quota),
            quota: debit.quota,
        },
        Purpose::Release(_) => Operation::Release,
    }
}
