//! The session towards the enabler: one request at a time, and what its answer does.

use super::{
    AHEAD, Debit, Decision, Flight, Outcome, Output, Phase, REFUSED, RETRY_MOST, Session, StepKind, Verdict, Work,
};
use crate::charge::account::AccountId;
use crate::charge::ch2::Reservation;
use crate::charge::ch2::{Denial, Failure, Operation, Request, Response};
use crate::charge::policy::{Model, OnFailure, Resend};
use crate::charge::tariff::{Per, Quota, Units};
use crate::charge::time::Time;

impl Session {
    /// Asks what is to be asked next, once the one before is answered. Credit comes before debits, because the
    /// gate waits for it; the release comes last, because it closes the session at the enabler.
    pub(super) fn proceed(&mut self, now: Time) {
        if self.flight.is_some() {
            return;
        }
        if let Some(quota) = self.wanted.take() {
            if quota.0 > 0 {
                self.last_ask = quota;
            }
            match self.policy.model {
                Model::Reserve => return self.ask(Work::Reserve(quota), now),
                Model::Immediate => self.grant(quota, None, now),
            }
        }
        if let Some(debit) = super::first(&mut self.debits) {
            self.ask(Work::Debit(debit), now);
        } else if let Some(debit) = super::first(&mut self.refunds) {
            self.ask(Work::Refund(debit), now);
        } else if matches!(self.phase, Phase::Settling) {
            if self.reservation.is_some() {
                self.ask(Work::Release, now);
                self.end_reservation();
            } else {
                self.close(now);
            }
        }
    }

    pub(super) fn ask(&mut self, work: Work, now: Time) {
        let (kind, detail) = match &work {
            Work::Reserve(quota) => (StepKind::Reserve, quota.0),
            Work::Debit(debit) => (StepKind::Debit, self.tariff.quota(debit.octets).0),
            Work::Refund(debit) => (StepKind::Refund, self.tariff.quota(debit.octets).0),
            Work::Release => (StepKind::Release, 0),
        };
        self.step(now, kind, detail.into());
        let (number, reservation) = (self.next_number, self.reservation_for(&work));
        let (retry, tries, repeated, held, revoked) = (None, 0, false, false, false);
        let flight = Box::new(Flight { number, reservation, work, retry, tries, repeated, held, revoked });
        self.next_number = self.next_number.saturating_add(1);
        self.outputs.push(Output::Ask(self.request(&flight)));
        self.flight = Some(flight);
    }

    /// What a request finds, and leaves.
    fn reservation_for(&self, work: &Work) -> Reservation {
        let (opened_by, outstanding) = match (self.reservation, work) {
            (None, _) | (_, Work::Refund(_)) => return Reservation::None,
            (Some(opened_by), _) => (opened_by, self.outstanding),
        };
        match work {
            Work::Debit(debit) if self.tariff.quota(debit.octets) >= outstanding => {
                Reservation::Last { opened_by, outstanding }
            }
            _ => Reservation::Open { opened_by, outstanding },
        }
    }

    /// The enabler holds nothing any more.
    pub(super) fn end_reservation(&mut self) {
        self.reservation = None;
        self.outstanding = Quota(0);
        self.valid_until = None;
    }

    pub(super) fn request(&self, flight: &Flight) -> Request {
        let operation = match &flight.work {
            Work::Reserve(quota) => Operation::Reserve { quota: *quota },
            Work::Debit(debit) => self.debit(debit),
            Work::Refund(debit) => self.refund(debit),
            Work::Release => Operation::Release,
        };
        Request {
            session: self.key,
            number: flight.number,
            account: AccountId(self.account().into()),
            tariff: self.tariff,
            reservation: flight.reservation,
            repeated: flight.repeated,
            operation,
        }
    }

    fn debit(&self, debit: &Debit) -> Operation {
        let quota = self.tariff.quota(debit.octets);
        Operation::Debit {
            message_id: debit.message_id.clone(),
            octets: debit.octets,
            units: self.tariff.price_of(quota),
            quota,
            trigger: debit.trigger,
        }
    }

    pub(super) fn on_reserved(&mut self, flight: &Flight, response: &Response, now: Time) {
        let (number, Work::Reserve(asked)) = (flight.number, &flight.work) else { return };
        match response {
            Response::Granted { quota, valid_for, last, on_failure, balance } => {
                self.reservation.get_or_insert(number);
                self.outstanding = Quota(self.outstanding.0.saturating_add(quota.0));
                self.valid_until = valid_for.map(|seconds| now.after_seconds(seconds));
                self.last_granted |= *last;
                self.policy.on_failure = on_failure.unwrap_or(self.policy.on_failure);
                self.step(now, StepKind::Granted, quota.0.into());
                match quota.0 {
                    0 if asked.0 > 0 => self.refuse(number, Denial::NoCredit, now),
                    _ => self.grant(Quota(quota.0.min(asked.0)), *balance, now),
                }
            }
            Response::Free => {
                self.free = true;
                self.end_reservation();
                self.step(now, StepKind::Free, number.into());
                self.grant(*asked, None, now);
            }
            // Where the enabler never grants in part, one may still be had.
            Response::Denied(Denial::NotSoMany) if asked.0 > 1 => {
                self.step(now, StepKind::Denied, number.into());
                self.wanted = Some(Quota(1));
            }
            Response::Denied(denial) => self.refuse(number, *denial, now),
            // It was ended at the enabler's: what is outstanding and what is wanted are asked for anew.
            Response::NoReservation if self.reservation.is_some() => {
                self.step(now, StepKind::NoReservation, number.into());
                self.end_reservation();
                self.wanted = (asked.0 > 0).then_some(*asked);
            }
            Response::Failed(failure) => self.unanswered(number, *asked, *failure, now),
            _ => self.unanswered(number, *asked, Failure::Enabler, now),
        }
    }

    pub(super) fn grant(&mut self, quota: Quota, balance: Option<i64>, now: Time) {
        self.refused = None;
        self.granted = Quota(self.granted.0.saturating_add(quota.0));
        self.decide(Decision::Granted, quota, balance);
        if matches!(self.phase, Phase::Reserving) {
            self.phase = Phase::Open;
            self.moved = self.moved.max(now);
        }
        if matches!(self.phase, Phase::Open | Phase::Cancelled { .. }) {
            self.outputs.push(Output::Grant(self.granted));
        }
    }

    fn refuse(&mut self, number: u32, denial: Denial, now: Time) {
        self.step(now, StepKind::Denied, number.into());
        self.refused = Some(now);
        if self.decision.is_none() {
            self.decide(Decision::Denied(denial), Quota(0), None);
            self.end_unserved(Outcome::Denied(denial), now);
        }
    }

    /// The fate of the reservation is not known: what may be held is released in the end, so that a grant that comes
    /// late binds nobody's credit.
    fn unanswered(&mut self, number: u32, asked: Quota, failure: Failure, now: Time) {
        self.step(now, StepKind::EnablerFailed, number.into());
        self.outputs.push(Output::EnablerFailed(failure));
        self.refused = Some(now);
        if failure.may_be_done() {
            self.reservation.get_or_insert(number);
        }
        match (self.policy.on_failure, self.decision) {
            (OnFailure::Grant, _) => {
                self.uncovered = Quota(self.uncovered.0.saturating_add(asked.0));
                self.grant(asked, None, now);
            }
            (OnFailure::Deny, None) => self.fail(failure, now),
            // What is granted stays: it is reserved. More is asked for when a SEND hits the gate.
            (OnFailure::Deny, Some(_)) => {}
        }
    }

    pub(super) fn fail(&mut self, failure: Failure, now: Time) {
        self.decide(Decision::Failed(failure), Quota(0), None);
        self.end_unserved(Outcome::Failed(failure), now);
    }

    /// The INVITE goes nowhere: there is nothing to settle but what the enabler may hold.
    fn end_unserved(&mut self, outcome: Outcome, now: Time) {
        self.outcome.get_or_insert(outcome);
        match self.reservation {
            Some(_) => self.phase = Phase::Settling,
            None => self.close(now),
        }
    }

    /// The verdict, once.
    fn decide(&mut self, result: Decision, granted: Quota, balance: Option<i64>) {
        if self.decision.is_none() {
            self.decision = Some(result);
            self.outputs.push(Output::Verdict(Verdict { result, granted, balance }));
        }
    }

    pub(super) fn on_debited(&mut self, debit: &Debit, balance: Option<i64>, ended: bool, now: Time) {
        let quota = self.tariff.quota(debit.octets);
        self.outstanding = Quota(self.outstanding.0.saturating_sub(quota.0));
        if ended {
            self.end_reservation();
        }
        let units = self.tariff.price_of(quota);
        self.counts.debited = self.counts.debited.saturating_add(1);
        self.counts.units = Units(self.counts.units.0.saturating_add(units.0));
        self.step(now, StepKind::Debited, quota.0.into());
        self.outputs.push(Output::Debited {
            message_id: debit.message_id.clone(),
            octets: debit.octets,
            units,
            quota,
            trigger: debit.trigger,
            balance,
        });
    }

    /// The content is with the client, and the enabler will not have it paid: without a reservation, no more follows.
    pub(super) fn on_debit_denied(&mut self, debit: &Debit, denial: Denial, now: Time) {
        self.free(&debit.message_id, debit.octets, denial.word(), now);
        if self.policy.model == Model::Immediate {
            self.end(Outcome::Denied(denial));
        }
    }

    /// No debit and no release is lost: it is asked again with its number until it is answered.
    pub(super) fn ask_later(&mut self, mut flight: Box<Flight>, failure: Failure, now: Time) {
        self.step(now, StepKind::EnablerFailed, flight.number.into());
        self.outputs.push(Output::EnablerFailed(failure));
        let wait = 1_u32.checked_shl(flight.tries.into()).map_or(RETRY_MOST, |wait| wait.min(RETRY_MOST));
        flight.tries = flight.tries.saturating_add(1).min(31);
        flight.repeated |= failure.may_be_done();
        flight.held = flight.repeated && self.holds_back(&flight);
        flight.retry = (!flight.held).then(|| now.after_seconds(wait));
        self.flight = Some(flight);
    }

    /// Whether this must not be asked twice: money moves, and the enabler would move it twice.
    pub(super) fn holds_back(&self, flight: &Flight) -> bool {
        self.policy.resend == Resend::Hold && matches!(flight.work, Work::Debit(_) | Work::Refund(_))
    }

    /// The operator has decided about what is held back: it is asked again, or counts as done. `false`: none
    /// is held back.
    pub fn resolve(&mut self, again: bool, now: Time) -> bool {
        let Some(mut flight) = self.flight.take_if(|flight| flight.held) else { return false };
        flight.held = false;
        match (&flight.work, again) {
            (Work::Debit(debit), false) => {
                let ended = matches!(flight.reservation, Reservation::Last { .. });
                self.on_debited(debit, None, ended, now);
                self.keep_refundable(debit, flight.revoked);
            }
            (Work::Refund(debit), false) => self.on_refunded(debit, None, now),
            _ => {
                self.outputs.push(Output::Ask(self.request(&flight)));
                self.flight = Some(flight);
            }
        }
        self.proceed(now);
        true
    }

    /// The subscriber has had all that may be given while no enabler answers.
    pub fn deny_on_failure(&mut self) {
        self.policy.on_failure = OnFailure::Deny;
    }

    pub(super) fn retry(&mut self, now: Time) {
        if let Some(mut flight) = self.flight.take_if(|flight| flight.retry.is_some_and(|at| at <= now)) {
            flight.retry = None;
            self.outputs.push(Output::Ask(self.request(&flight)));
            self.flight = Some(flight);
        }
    }

    /// More is asked for as soon as little is left, so that the next SEND finds the gate open.
    pub(super) fn ask_ahead(&mut self) {
        let left = self.granted.0.saturating_sub(self.taken);
        if self.taken > 0 && self.refused.is_none() && !self.last_granted && left <= self.last_ask.0 / 4 {
            self.want(self.taken.min(AHEAD));
        }
    }

    /// The enabler wants to be asked again (RFC 8506, 5.5).
    pub(super) fn on_reauthorize(&mut self, at: Time) {
        self.step(at, StepKind::Reauthorize, 0);
        self.renew();
    }

    /// A grant that has become old is asked for again, used or not (RFC 8506, 8.33).
    pub(super) fn renew_when_old(&mut self, now: Time) {
        if matches!(self.phase, Phase::Open) && self.valid_until.take_if(|until| *until <= now).is_some() {
            self.step(now, StepKind::Renew, self.outstanding.0.into());
            self.renew();
        }
    }

    fn renew(&mut self) {
        let open = matches!(self.phase, Phase::Open | Phase::Cancelled { .. });
        if open && self.reservation.is_some() && self.wanted.is_none() {
            self.wanted = Some(Quota(0));
        }
    }

    /// A SEND hit the gate. The account may have been topped up since the last refusal. By kilobytes, one frame needs
    /// several at once (hosts take frames of some ten kilobytes).
    pub(super) fn on_stopped(&mut self, at: Time) {
        self.step(at, StepKind::Stopped, 0);
        if self.refused.is_some_and(|refused| at < refused.after_seconds(REFUSED)) {
            return;
        }
        match self.tariff.per {
            Per::Message => self.want(self.taken.min(AHEAD)),
            Per::Kilobyte => self.want(AHEAD),
        }
    }

    fn want(&mut self, at_least: u32) {
        let open = matches!(self.phase, Phase::Open | Phase::Cancelled { .. });
        let asked = self.flight.as_ref().is_some_and(|flight| matches!(flight.work, Work::Reserve(_)));
        if open && !asked && self.wanted.is_none() {
            self.wanted = Some(Quota(self.requested.0.max(at_least)));
        }
    }
}
