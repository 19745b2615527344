//! The credit machine: what is reserved, granted to the gate and taken from the grant, and what answers of the enabler do
//! to it.
//!
//! Sending is in `request`, the open reservations are in `reservation`, their renewal is in `validity`, and requests ahead of
//! need are in `ahead`. Sums of quotas and counts saturate, prices cannot overflow (see
//! [`Tariff::PRICE_MAX`](crate::charge::tariff::Tariff::PRICE_MAX)), and release builds check all other arithmetic.

use super::ahead::Ahead;
use super::common::{Common, Context};
use super::messages::{Debit, Messages};
use super::output::{Decision, EndReason, Output};
use super::request::{PendingRequest, Purpose};
use super::reservation::{AbandonedReservation, OpenReservation, Reservations};
use super::rule::Rule;
use super::trace::{TraceEvent, TraceEventKind};
use super::validity::Validity;
use crate::charge::ch2::{Denial, Failure, Grant, Reservation, Response};
use crate::charge::event::{Event, Stop};
use crate::charge::policy::{Model, OnFailure};
use crate::charge::tariff::{Quota, Units};
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;
use std::sync::Arc;
use thin_vec::ThinVec;

/// Seconds between a refused reservation and the next attempt.
const REFUSED_RETRY_SECONDS: u32 = 1;

/// Reservations, grants and the pending request of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Credit {
    pub(super) ahead: Ahead,
    pub(super) reservations: Reservations,
    pub(super) abandoned: ThinVec<AbandonedReservation>,
    granted: Quota,
    /// What the gate took from the grant, as far as SENDs have been read.
    taken: u32,
    /// Granted while the enabler did not answer.
    uncovered: Quota,
    /// The enabler grants no more (Final-Unit-Indication).
    pub(super) is_last_grant: bool,
    /// The service costs this subscriber nothing.
    pub(super) is_free_of_charge: bool,
    /// What is to be requested next, and why.
    pub(super) wanted: Option<(Quota, Rule)>,
    pub(super) refused_at: Option<Time>,
    /// Number of the next request.
    pub(super) next_number: u32,
    /// Number of the last request within its reservation.
    pub(super) sequence: u32,
    pub(super) pending: Option<Box<PendingRequest>>,
}

impl Credit {
    pub(super) fn new(ahead: Ahead, first_number: u32) -> Credit {
        Credit {
            ahead,
            reservations: Reservations::default(),
            abandoned: ThinVec::new(),
            granted: Quota(0),
            taken: 0,
            uncovered: Quota(0),
            is_last_grant: false,
            is_free_of_charge: false,
            wanted: None,
            refused_at: None,
            next_number: first_number,
            sequence: 0,
            pending: None,
        }
    }

    pub(super) fn granted(&self) -> Quota {
        self.granted
    }

    pub(super) fn taken(&self) -> u32 {
        self.taken
    }

    pub(super) fn uncovered(&self) -> Quota {
        self.uncovered
    }

    /// Whether no request is pending and no release of an abandoned reservation is due.
    pub(super) fn is_quiet(&self) -> bool {
        self.pending.is_none() && self.abandoned.is_empty()
    }

    /// Handles an event that concerns credit.
    pub(super) fn on_event(&mut self, event: &Event<'_>, messages: &Messages, cx: &mut Context<'_>) {
        match event {
            Event::Stopped { why: Stop::Beyond, quota, .. } => self.on_stopped_beyond(*quota, messages, cx),
            Event::Reauthorize { opened_by } => self.on_reauthorize(*opened_by, cx),
            _ => {}
        }
    }

    /// Sends again and renews what is due.
    pub(super) fn on_timer(&mut self, cx: &mut Context<'_>) {
        self.retry(cx);
        self.renew_expired(cx);
    }

    pub(super) fn deadline(&self, is_open: bool) -> Option<Time> {
        let retry = self.pending().and_then(|pending| pending.retry_at);
        let renewal = self.next_renewal_at().filter(|_| is_open);
        retry.into_iter().chain(renewal).min()
    }

    /// Limits all times to what they can be from `now` on; the clock may have started anew.
    pub(super) fn rebase(&mut self, now: Time) {
        self.rebase_pending(now);
        self.refused_at = self.refused_at.map(|refused| refused.min(now));
        self.rebase_validities(now);
    }
}

/// What is requested next.
impl Credit {
    /// Sends the next request, if there is anything to request. `messages`: source of debits and refunds.
    ///
    /// A reservation that holds nothing is ended first, because the enabler may hold more than it says. Then comes credit,
    /// because the gate waits for it, then debits and refunds, and last the release.
    pub(super) fn proceed(&mut self, is_settling: bool, messages: &mut Messages, cx: &mut Context<'_>) {
        if !cx.dialog.may_be_served() {
            self.wanted = None;
        }
        if self.is_failing() {
            self.grant_wanted_uncovered(cx);
        }
        if self.pending.is_some() {
            return;
        }
        self.reservations.bring_to_front(|reservation| reservation.outstanding.0 == 0);
        let has_reservation = !self.reservations.is_empty();
        if has_reservation && self.reservations.outstanding().0 == 0 {
            self.release_first(cx);
        } else if let Some(rule) = self.take_renewal(cx) {
            self.ask(Purpose::Reserve(Quota(0), rule), cx);
        } else if let Some((quota, rule)) = self.wanted.take().filter(|(quota, _)| quota.0 > 0) {
            self.ask(Purpose::Reserve(quota, rule), cx);
        } else if let Some(debit) = messages.take_debit() {
            self.ask_debit(debit, messages, cx);
        } else if let Some(debit) = messages.take_refund() {
            self.ask(Purpose::Refund(debit), cx);
        } else if let Some(abandoned) = super::take_first(&mut self.abandoned) {
            self.ask_release_of(abandoned, cx);
        } else if has_reservation && (is_settling || self.is_announced_complete(0, messages, cx.common)) {
            self.shrink_grant_to_taken(cx);
            self.release_first(cx);
        }
    }

    /// Releases the first reservation, of which nothing is used.
    fn release_first(&mut self, cx: &mut Context<'_>) {
        self.ask(Purpose::Release(Rule::Unused), cx);
        self.reservations.end_first();
    }

    /// Requests a debit from a reservation that covers it, if there is one. The debit of the last announced message also
    /// returns the rest of the reservation.
    fn ask_debit(&mut self, debit: Debit, messages: &Messages, cx: &mut Context<'_>) {
        let quota = debit.quota;
        if self.reservations.outstanding() < quota {
            self.reservations.bring_to_front(|reservation| reservation.outstanding >= quota);
        }
        if !self.reservations.is_empty() && self.is_announced_complete(1, messages, cx.common) {
            self.shrink_grant_to_taken(cx);
            self.ask_last_debit(debit, cx);
        } else {
            self.ask(Purpose::Debit(debit), cx);
        }
    }

    /// Takes a renewal that is due and brings its reservation to the front.
    fn take_renewal(&mut self, cx: &Context<'_>) -> Option<Rule> {
        if !cx.dialog.is_served() {
            return None;
        }
        if self.reservations.first()?.renewal.is_none() {
            self.reservations.bring_to_front(|reservation| reservation.renewal.is_some());
        }
        self.reservations.first_mut()?.renewal.take()
    }

    /// Asks for more after a SEND was stopped at the gate: the account may have been topped up since the last refusal.
    fn on_stopped_beyond(&mut self, quota: u32, messages: &Messages, cx: &mut Context<'_>) {
        let is_refused = self.refused_at.is_some_and(|at| cx.now < at.after_seconds(REFUSED_RETRY_SECONDS));
        // After final units the enabler grants nothing until it asks for a renewal (RFC 8506, 5.6).
        if !is_refused && !self.is_last_grant && cx.common.policy.model == Model::Reserve {
            self.want_beyond(quota, messages, cx);
        }
    }

    /// Renews a reservation at the enabler's request (RFC 8506, 5.5), unless its renewal is pending.
    fn on_reauthorize(&mut self, opened_by: u32, cx: &mut Context<'_>) {
        cx.record(TraceEvent::new(TraceEventKind::Reauthorize));
        if !self.is_updating(opened_by)
            && let Some(reservation) = self.reservations.get_mut(opened_by)
        {
            reservation.renewal = Some(Rule::Reauthorization);
        }
    }

    /// Whether a request of this reservation is pending and not held back: its answer says what is reserved.
    pub(super) fn is_updating(&self, opened_by: u32) -> bool {
        let pending = self.pending().filter(|pending| !pending.is_held);
        let updated = pending.and_then(|pending| pending.reservation.opened_by());
        self.reservations.contains(opened_by) && updated == Some(opened_by)
    }
}

/// The grant at the gate.
impl Credit {
    fn publish_grant(&self, cx: &mut Context<'_>) {
        if cx.dialog.is_served() {
            cx.push(Output::Grant(self.granted));
        }
    }

    /// A SEND passed the gate, which took this much for it. A refusal before it is forgotten after
    /// [`REFUSED_RETRY_SECONDS`]: the account may have been topped up.
    pub(super) fn on_sent(&mut self, taken: u32, at: Time) {
        self.refused_at = self.refused_at.filter(|refused| at < refused.after_seconds(REFUSED_RETRY_SECONDS));
        self.taken = self.taken.saturating_add(taken);
    }

    /// Returns to the grant what was taken for something that is not charged, or not this much.
    pub(super) fn return_to_grant(&mut self, quota: Quota, cx: &mut Context<'_>) {
        if cx.dialog.may_be_served() {
            self.granted = Quota(self.granted.0.saturating_add(quota.0));
            self.publish_grant(cx);
        }
    }

    /// Takes from the grant what the gate did not take for a message.
    pub(super) fn take_from_grant(&mut self, quota: Quota, cx: &mut Context<'_>) {
        self.granted = Quota(self.granted.0.saturating_sub(quota.0));
        self.publish_grant(cx);
    }

    /// Corrects the grant if the gate did not take what is `due`.
    pub(super) fn correct_grant(&mut self, taken: Quota, due: Quota, cx: &mut Context<'_>) {
        match taken.cmp(&due) {
            Ordering::Equal => {}
            Ordering::Greater => self.return_to_grant(Quota(taken.0 - due.0), cx),
            Ordering::Less => self.take_from_grant(Quota(due.0 - taken.0), cx),
        }
    }

    /// Withdraws what is left of the grant.
    fn shrink_grant_to_taken(&mut self, cx: &mut Context<'_>) {
        if cx.dialog.may_be_served() && self.granted.0 > self.taken {
            self.granted = Quota(self.taken);
            self.publish_grant(cx);
        }
    }

    /// The first reservation holds only this much: the gate must not let more pass.
    fn shrink_reservation(&mut self, outstanding: Quota, cx: &mut Context<'_>) {
        let Some(first) = self.reservations.first_mut() else { return };
        let less = first.outstanding.0.saturating_sub(outstanding.0);
        if less > 0 {
            first.outstanding = outstanding;
            self.ahead.note_shortage(outstanding);
            self.take_from_grant(Quota(less), cx);
        }
    }

    /// Adopts what the enabler says the first reservation holds. Nothing counts as a refusal.
    fn shrink_to_reported(&mut self, grant: &Grant, cx: &mut Context<'_>) {
        self.shrink_reservation(grant.reserved.unwrap_or(self.reservations.outstanding()), cx);
        if self.reservations.outstanding().0 == 0 {
            self.refused_at = Some(cx.now);
        }
    }

    /// Grants this much more. A session that has ended meanwhile is not served.
    pub(super) fn grant(&mut self, quota: Quota, balance: Option<i64>, cx: &mut Context<'_>) {
        if !cx.dialog.may_be_served() {
            cx.dialog.set_not_established(cx.now);
            return cx.dialog.decide(Decision::Failed(Failure::Ended), Quota(0), balance, cx.now, cx.common);
        }
        self.refused_at = None;
        self.granted = Quota(self.granted.0.saturating_add(quota.0));
        cx.dialog.decide(Decision::Granted, quota, balance, cx.now, cx.common);
        cx.dialog.open(cx.now);
        self.publish_grant(cx);
    }

    /// Grants this much without a reservation.
    pub(super) fn grant_unreserved(&mut self, quota: Quota, rule: Rule, cx: &mut Context<'_>) {
        let units = cx.common.price_of(quota);
        cx.record(TraceEvent::new(TraceEventKind::Granted).by(rule).worth(quota, units));
        self.grant(quota, None, cx);
    }

    /// What is wanted cannot be requested while the enabler fails; it is treated as not answered.
    fn grant_wanted_uncovered(&mut self, cx: &mut Context<'_>) {
        if let Some((wanted, _)) = self.wanted.filter(|(wanted, _)| wanted.0 > 0)
            && self.grant_uncovered(wanted, cx)
        {
            self.wanted = None;
        }
    }

    /// Grants without the enabler if the policy says so, up to the subscriber's cap. Returns whether it did.
    pub(super) fn grant_uncovered(&mut self, wanted: Quota, cx: &mut Context<'_>) -> bool {
        let policy = &mut cx.common.policy;
        let uncovered = match policy.on_failure {
            // A MESSAGE cannot be relayed in part.
            OnFailure::Grant if cx.common.page.is_some() && policy.on_failure_cap < wanted.0 => 0,
            OnFailure::Grant => wanted.0.min(policy.on_failure_cap),
            OnFailure::Deny => 0,
        };
        if uncovered == 0 || !cx.dialog.may_be_served() {
            return false;
        }
        policy.on_failure_cap -= uncovered;
        self.uncovered = Quota(self.uncovered.0.saturating_add(uncovered));
        self.grant_unreserved(Quota(uncovered), Rule::OnFailureGrant, cx);
        true
    }
}

/// Answers to reservations.
impl Credit {
    pub(super) fn on_reserved(
        &mut self,
        pending: &PendingRequest,
        asked: Quota,
        response: &Response,
        cx: &mut Context<'_>,
    ) {
        let (number, is_renewal) = (pending.number, asked.0 == 0);
        match response {
            Response::Granted(grant) if is_renewal => self.on_renewed(number, grant, cx),
            Response::Granted(grant) => self.on_granted(pending, asked, grant, cx),
            Response::Free => {
                self.is_free_of_charge = true;
                if is_renewal {
                    self.reservations.end_first();
                }
                self.record(TraceEvent::new(TraceEventKind::Free).request(number).by(Rule::FreeOfCharge), cx);
                self.grant(asked, None, cx);
            }
            // An enabler that never grants in part may still grant fewer: for a waiting INVITE one is requested.
            Response::Denied(denial @ Denial::NotSoMany)
                if asked > cx.common.prices.least() && cx.common.page.is_none() && cx.dialog.may_be_served() =>
            {
                self.record(denied_event(number, *denial), cx);
                let least = cx.common.prices.least().0;
                let half = (asked.0 / 2).max(least);
                let fewer = if cx.dialog.decision().is_none() { least } else { half };
                self.ahead.request_max = Quota(half);
                self.wanted = Some((Quota(fewer), Rule::OneAtLeast));
            }
            Response::Denied(denial) => {
                // A reservation whose renewal is refused holds nothing any more, and is ended.
                if is_renewal {
                    self.shrink_reservation(Quota(0), cx);
                }
                self.refuse(number, *denial, cx);
            }
            // The enabler has ended the reservation: what is outstanding is requested anew.
            Response::NoReservation if is_renewal => {
                self.record(TraceEvent::new(TraceEventKind::NoReservation).request(number), cx);
                let wanted = self.wanted.map_or(0, |(wanted, _)| wanted.0);
                let anew = Quota(self.reservations.outstanding().0.saturating_add(wanted));
                self.shrink_reservation(Quota(0), cx);
                self.reservations.end_first();
                self.wanted = (anew.0 > 0 && cx.dialog.may_be_served()).then_some((anew, Rule::NoReservation));
            }
            Response::Failed(failure) => self.on_reserve_failed(pending, asked, *failure, cx),
            _ => self.on_reserve_failed(pending, asked, Failure::Enabler, cx),
        }
    }

    fn on_granted(&mut self, pending: &PendingRequest, asked: Quota, grant: &Grant, cx: &mut Context<'_>) {
        let number = pending.number;
        let granted = Quota(grant.quota.0.min(asked.0));
        let event = TraceEvent::new(TraceEventKind::Granted).request(number);
        self.record(event.worth(granted, cx.common.price_of(granted)).balance(grant.balance), cx);
        self.reservations.add(OpenReservation {
            opened_by: number,
            outstanding: granted,
            server_binding: grant.server_binding.clone(),
            validity: Validity::from_grant(grant, cx.now),
            renewal: None,
            requests: 1,
        });
        self.apply_grant_terms(grant, cx.common);
        // Less than a message costs is of no use, and a MESSAGE cannot be relayed in part.
        let least = cx.common.page.as_deref().map_or(cx.common.prices.least(), |page| page.quota);
        if granted < least {
            return self.refuse(number, Denial::NoCredit, cx);
        }
        let micros = (!pending.possible_duplicate).then(|| cx.now.micros_since(pending.first_sent_at));
        self.ahead.adapt(asked, granted, micros, &cx.common.prices);
        self.grant(granted, grant.balance, cx);
    }

    /// The first reservation is renewed with what was outstanding.
    fn on_renewed(&mut self, number: u32, grant: &Grant, cx: &mut Context<'_>) {
        let event = TraceEvent::new(TraceEventKind::Granted).request(number).worth(Quota(0), Units(0));
        self.record(event.balance(grant.balance), cx);
        self.apply_terms_to_first(grant, cx);
        self.grant(Quota(0), grant.balance, cx);
        self.shrink_to_reported(grant, cx);
    }

    /// Adopts what a debit's answer says about the first reservation.
    pub(super) fn on_rest(&mut self, rest: Option<&Grant>, cx: &mut Context<'_>) {
        let Some(grant) = rest.filter(|_| !self.reservations.is_empty()) else { return };
        self.apply_terms_to_first(grant, cx);
        self.shrink_to_reported(grant, cx);
    }

    /// Applies the terms of a grant besides its units.
    fn apply_grant_terms(&mut self, grant: &Grant, common: &mut Common) {
        self.is_last_grant = grant.last;
        common.policy.on_failure = grant.on_failure.unwrap_or(common.policy.on_failure);
    }

    fn apply_terms_to_first(&mut self, grant: &Grant, cx: &mut Context<'_>) {
        self.apply_grant_terms(grant, cx.common);
        if let Some(first) = self.reservations.first_mut() {
            first.validity = Validity::from_grant(grant, cx.now);
            if grant.server_binding.is_some() {
                first.server_binding.clone_from(&grant.server_binding);
            }
        }
    }

    pub(super) fn refuse(&mut self, number: u32, denial: Denial, cx: &mut Context<'_>) {
        self.record(denied_event(number, denial), cx);
        self.refused_at = Some(cx.now);
        if cx.dialog.decision().is_none() {
            cx.dialog.decide(Decision::Denied(denial), Quota(0), None, cx.now, cx.common);
            self.end_unserved(EndReason::Denied(denial), cx);
        }
    }

    /// The outcome of the request is unknown: what the enabler may hold is released, so that it blocks no credit, and
    /// nothing is debited from it.
    fn on_reserve_failed(&mut self, pending: &PendingRequest, asked: Quota, failure: Failure, cx: &mut Context<'_>) {
        let event = TraceEvent::new(TraceEventKind::EnablerFailed).request(pending.number).by(Rule::Failed(failure));
        self.record(event, cx);
        cx.push(Output::EnablerFailed(failure));
        self.refused_at = Some(cx.now);
        if asked.0 > 0 && (failure.may_be_done() || pending.possible_duplicate) {
            self.abandon(pending.number, pending.server_binding.clone(), Rule::MaybeHeld);
        }
        if asked.0 == 0
            && let Some(first) = self.reservations.first_mut()
        {
            first.validity = Some(Validity::until_retry(cx.now));
        }
        if !self.grant_uncovered(asked, cx) && cx.dialog.decision().is_none() {
            self.fail(failure, cx);
        }
    }

    /// The enabler granted a request whose answer is no longer awaited: unless the session holds that reservation, it is
    /// released.
    pub(super) fn on_late_grant(&mut self, number: u32, server_binding: Option<Arc<str>>, cx: &mut Context<'_>) {
        self.record(TraceEvent::new(TraceEventKind::LateGrant).request(number), cx);
        self.abandon(number, server_binding, Rule::LateGrant);
    }

    fn abandon(&mut self, opened_by: u32, server_binding: Option<Arc<str>>, rule: Rule) {
        self.abandoned.push(AbandonedReservation { opened_by, server_binding, rule });
    }

    /// Answers the INVITE or MESSAGE with a failure.
    pub(super) fn fail(&mut self, failure: Failure, cx: &mut Context<'_>) {
        cx.dialog.decide(Decision::Failed(failure), Quota(0), None, cx.now, cx.common);
        self.end_unserved(EndReason::Failed(failure), cx);
    }

    fn end_unserved(&mut self, reason: EndReason, cx: &mut Context<'_>) {
        let holds_credit = !self.reservations.is_empty() || !self.abandoned.is_empty() || self.pending().is_some();
        cx.dialog.end_unserved(reason, holds_credit, cx.now, cx.common);
    }
}

/// Answers to debits.
impl Credit {
    /// A debit is acknowledged. `ended`: the enabler has ended its reservation.
    pub(super) fn on_debited(
        &mut self,
        pending: &PendingRequest,
        debit: &Debit,
        balance: Option<i64>,
        ended: bool,
        cx: &mut Context<'_>,
    ) {
        let quota = debit.quota;
        if pending.reservation != Reservation::None {
            let outstanding = self.reservations.outstanding();
            self.reservations.take_from_others(quota.0.saturating_sub(outstanding.0));
            if let Some(first) = self.reservations.first_mut() {
                first.outstanding = Quota(outstanding.0.saturating_sub(quota.0));
            }
            if ended {
                self.reservations.end_first();
            }
        }
        let units = cx.common.price_of(quota);
        let counts = &mut cx.common.counts;
        counts.debited = counts.debited.saturating_add(1);
        counts.units = Units(counts.units.0.saturating_add(units.0));
        let event = cx.common.event_about(TraceEventKind::Debited, debit).request(pending.number);
        self.record(event.by(debit.rule).balance(balance), cx);
        // Without reservations, as many messages may be unpaid as the INVITE announces: one is settled, one more may pass.
        if cx.common.policy.model == Model::Immediate {
            self.return_to_grant(quota, cx);
        }
        cx.push(Output::Debited {
            message_id: debit.message_id.clone(),
            part: debit.part,
            octets: debit.octets,
            units,
            quota,
            trigger: debit.trigger,
            rule: debit.rule,
            opened_by: pending.reservation.opened_by().unwrap_or(pending.number),
            class: debit.class,
            since: debit.since,
            balance,
        });
    }

    /// The enabler refuses to debit content that was delivered: no more may follow.
    pub(super) fn on_debit_denied(&mut self, debit: &Debit, request: u32, denial: Denial, cx: &mut Context<'_>) {
        let event = cx.common.event_about(TraceEventKind::Denied, debit).request(request).by(Rule::Denied(denial));
        self.record(event, cx);
        self.mark_not_charged(debit, Rule::Denied(denial), cx.now, cx);
        cx.push(Output::DebitDenied { message_id: debit.message_id.clone(), denial });
        cx.dialog.end(EndReason::Denied(denial), cx.common);
    }

    /// The enabler does not know the reservation of a debit. It is debited without one, unless an earlier copy of the
    /// request may have ended the reservation: then only the operator can find out whether it was executed.
    pub(super) fn on_debit_without_reservation(
        &mut self,
        mut pending: Box<PendingRequest>,
        messages: &mut Messages,
        cx: &mut Context<'_>,
    ) {
        let Purpose::Debit(debit) = &pending.purpose else { return };
        let event = cx.common.event_about(TraceEventKind::NoReservation, debit).request(pending.number);
        self.record(event, cx);
        self.shrink_reservation(Quota(0), cx);
        self.reservations.end_first();
        if pending.possible_duplicate {
            pending.reservation = Reservation::None;
            pending.server_binding = None;
            self.hold_back(pending, Rule::MaybeTaken, cx);
        } else if let Some(rule) = pending.refund_rule {
            self.mark_not_charged(debit, rule, cx.now, cx);
        } else {
            messages.requeue_debit(debit.clone());
        }
    }

    /// What a debit was due for is not charged; what the gate took for it is available to another message.
    pub(super) fn mark_not_charged(&mut self, debit: &Debit, rule: Rule, at: Time, cx: &mut Context<'_>) {
        let Debit { octets, quota, class, .. } = *debit;
        let units = cx.common.price_of(quota);
        self.return_to_grant(quota, cx);
        cx.common.counts.not_debited = cx.common.counts.not_debited.saturating_add(1);
        let event = TraceEvent::new(TraceEventKind::NotDebited).by(rule).about(&debit.message_id).octets(octets);
        cx.common.record(at, event.worth(quota, units));
        cx.push(Output::NotDebited { message_id: debit.message_id.clone(), octets, units, rule, class });
    }

    pub(super) fn on_refunded(&mut self, debit: &Debit, request: u32, balance: Option<i64>, cx: &mut Context<'_>) {
        cx.common.counts.refunded = cx.common.counts.refunded.saturating_add(1);
        let event = cx.common.event_about(TraceEventKind::Refunded, debit).request(request).by(debit.rule);
        self.record(event.balance(balance), cx);
        let Debit { part, quota, rule, .. } = *debit;
        let units = cx.common.price_of(quota);
        cx.push(Output::Refunded { message_id: debit.message_id.clone(), part, units, rule, balance });
    }

    /// The enabler keeps the money; the operator has to know.
    pub(super) fn on_refund_denied(&mut self, debit: &Debit, request: u32, denial: Denial, cx: &mut Context<'_>) {
        let event = cx.common.event_about(TraceEventKind::RefundDenied, debit).request(request);
        self.record(event.by(Rule::Denied(denial)), cx);
        cx.push(Output::RefundDenied { message_id: debit.message_id.clone(), denial });
    }
}

fn denied_event(number: u32, denial: Denial) -> TraceEvent {
    TraceEvent::new(TraceEventKind::Denied).request(number).by(Rule::Denied(denial))
}
