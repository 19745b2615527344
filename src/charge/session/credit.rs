//! The session towards the enabler: one request at a time, and what its answer does.

use super::ahead::Further;
use super::validity::Validity;
use super::{
    Debit, Decision, Flight, Outcome, Output, Phase, REFUSED, RETRY_MOST, Rule, Session, TraceEvent, TraceEventKind,
    Verdict, Work,
};
use crate::charge::account::AccountId;
use crate::charge::ch2::{Denial, Failure, Grant, Operation, Request, Reservation, Response};
use crate::charge::event::Stop;
use crate::charge::policy::{Model, OnFailure, Resend, Settle};
use crate::charge::tariff::{Quota, Units};
use crate::charge::time::Time;
use std::sync::Arc;

impl Session {
    /// Asks what is to be asked next, once the one before is answered: a reservation that holds nothing is ended first,
    /// because the enabler may have more than it says; then credit, because the gate waits for it; then the debits. The
    /// release comes last.
    pub(super) fn proceed(&mut self, now: Time) {
        if self.is_failing() {
            self.go_on_uncovered(now);
        }
        if self.flight.is_some() {
            return;
        }
        let _ = self.bring_to_front(|further| further.outstanding.0 == 0);
        if self.reservation.is_some() && self.outstanding.0 == 0 {
            self.release(now);
        } else if let Some(rule) = self.next_renewal() {
            self.ask(Work::Reserve(Quota(0), rule), now);
        } else if let Some((quota, rule)) = self.wanted.take().filter(|(quota, _)| quota.0 > 0) {
            self.ask(Work::Reserve(quota, rule), now);
        } else if let Some(debit) = super::first(&mut self.debits) {
            self.touch(debit.number);
            self.ask_debit(debit, now);
        } else if let Some(debit) = super::first(&mut self.refunds) {
            self.touch(debit.number);
            self.ask(Work::Refund(debit), now);
        } else if let Some((opened_by, route, rule)) = super::first(&mut self.abandoned) {
            let reservation = Reservation::Open { opened_by, outstanding: Quota(0) };
            self.ask_of(reservation, route, Work::Release(rule), now);
        } else if self.reservation.is_some() && (matches!(self.phase, Phase::Settling) || self.is_told_out(0)) {
            self.close_gate_at_taken();
            self.release(now);
        } else if matches!(self.phase, Phase::Settling) {
            self.close(now);
        }
    }

    /// The first reservation is ended: nothing of it is used.
    fn release(&mut self, now: Time) {
        self.ask(Work::Release(Rule::Unused), now);
        self.end_reservation();
    }

    /// A debit goes out of a reservation that covers it, if there is one. What the debit of the last told message leaves
    /// is given back with it.
    fn ask_debit(&mut self, debit: Debit, now: Time) {
        let quota = debit.quota;
        if self.outstanding < quota {
            let _ = self.bring_to_front(|further| further.outstanding >= quota);
        }
        if self.reservation.is_some() && self.is_told_out(1) {
            self.close_gate_at_taken();
        }
        self.ask(Work::Debit(debit), now);
    }

    /// What is left of the grant is given back.
    fn close_gate_at_taken(&mut self) {
        if self.may_be_served() && self.granted.0 > self.taken {
            self.granted = Quota(self.taken);
            self.publish();
        }
    }

    /// A reservation that is to be asked for again, brought to the front.
    fn next_renewal(&mut self) -> Option<Rule> {
        if !self.is_served() || self.reservation.is_none() {
            return None;
        }
        if self.ahead.renewal.is_none() {
            self.bring_to_front(|further| further.renewal.is_some())?;
        }
        self.ahead.renewal.take()
    }

    /// Whether messages pass.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Cancelled { .. })
    }

    pub(super) fn ask(&mut self, work: Work, now: Time) {
        let reservation = self.reservation_for(&work);
        let route = self.route.clone().filter(|_| reservation != Reservation::None);
        self.ask_of(reservation, route, work, now);
    }

    fn ask_of(&mut self, reservation: Reservation, route: Option<Arc<str>>, work: Work, now: Time) {
        let (number, since, end_to_end_id, retry, tries) = (self.next_number, now, 0, None, 0);
        let (possible_duplicate, held, revoked) = (false, false, None);
        self.ahead.sequence = self.sequence_in(reservation, number);
        self.next_number = self.next_number.saturating_add(1);
        self.step(now, self.asked(&work, reservation).request(number));
        let flight = Box::new(Flight {
            number,
            since,
            reservation,
            route,
            work,
            end_to_end_id,
            retry,
            tries,
            possible_duplicate,
            held,
            revoked,
        });
        self.outputs.push(Output::Ask(self.request(&flight)));
        self.flight = Some(flight);
    }

    /// Number of a request within its reservation. Of one that the session does not have, nobody knows how many there
    /// were: no more than of the session.
    fn sequence_in(&mut self, reservation: Reservation, number: u32) -> u32 {
        let Some(opened_by) = reservation.opened_by() else { return 0 };
        if self.reservation != Some(opened_by) {
            return number.saturating_sub(opened_by);
        }
        let sequence = self.ahead.requests;
        self.ahead.requests = sequence.saturating_add(1);
        sequence
    }

    /// The step of a request.
    fn asked(&self, work: &Work, reservation: Reservation) -> TraceEvent {
        let worth = |step: TraceEvent, quota: Quota| step.worth(quota, self.price_of(quota));
        match work {
            Work::Reserve(quota, rule) => worth(TraceEvent::new(TraceEventKind::Reserve), *quota).by(*rule),
            Work::Debit(debit) => self.about(TraceEventKind::Debit, debit).by(debit.rule),
            Work::Refund(debit) => self.about(TraceEventKind::Refund, debit).by(debit.rule),
            Work::Release(rule) => {
                let step = TraceEvent::new(TraceEventKind::Release).by(*rule);
                // Nobody knows what a reservation has that was not answered.
                match (rule, reservation) {
                    (Rule::Unused, Reservation::Open { outstanding, .. }) => worth(step, outstanding),
                    _ => step,
                }
            }
        }
    }

    /// What a request finds, and leaves. More is asked for in a reservation of its own (see `ahead`).
    fn reservation_for(&self, work: &Work) -> Reservation {
        let outstanding = self.outstanding;
        match (self.reservation, work) {
            (None, _) | (_, Work::Refund(_)) => Reservation::None,
            (_, Work::Reserve(quota, _)) if quota.0 > 0 => Reservation::None,
            (Some(opened_by), Work::Debit(debit)) if debit.quota >= outstanding || self.is_told_out(1) => {
                Reservation::Last { opened_by, outstanding }
            }
            (Some(opened_by), _) => Reservation::Open { opened_by, outstanding },
        }
    }

    /// The enabler holds only this much of the first reservation: what it held beside it may not be used any more.
    fn narrow(&mut self, outstanding: Quota) {
        let less = self.outstanding.0.saturating_sub(outstanding.0);
        if less > 0 {
            self.outstanding = outstanding;
            self.granted = Quota(self.granted.0.saturating_sub(less));
            self.cut_short(outstanding);
            self.publish();
        }
    }

    /// So much the enabler says that the first reservation has. Nothing is as good as a refusal.
    fn narrow_to_told(&mut self, grant: &Grant, now: Time) {
        self.narrow(grant.reserved.unwrap_or(self.outstanding));
        if self.outstanding.0 == 0 {
            self.refused = Some(now);
        }
    }

    /// Tells the gate.
    pub(super) fn publish(&mut self) {
        if self.is_served() {
            self.outputs.push(Output::Grant(self.granted));
        }
    }

    /// The number that goes with the request in flight, the same however often it is asked: this one, if it has none.
    pub fn end_to_end_id(&mut self, fresh: u32) -> u32 {
        match &mut self.flight {
            Some(flight) if flight.end_to_end_id == 0 => {
                flight.end_to_end_id = fresh;
                fresh
            }
            Some(flight) => flight.end_to_end_id,
            None => fresh,
        }
    }

    /// The request of this number, as long as it has no answer.
    pub fn pending_request(&self, number: u32) -> Option<Request> {
        self.flight.as_ref().filter(|flight| flight.number == number).map(|flight| self.request(flight))
    }

    pub(super) fn request(&self, flight: &Flight) -> Request {
        let operation = match &flight.work {
            Work::Reserve(quota, _) => Operation::Reserve { quota: *quota },
            Work::Debit(debit) => self.debit(debit),
            Work::Refund(debit) => self.refund(debit),
            Work::Release(_) => Operation::Release,
        };
        Request {
            session: self.key,
            number: flight.number,
            sequence: flight.reservation.opened_by().map_or(0, |_| self.ahead.sequence),
            account: AccountId(self.account().into()),
            tariff: self.tariff,
            reservation: flight.reservation,
            possible_duplicate: flight.possible_duplicate,
            // An INVITE or the gate waits for more credit.
            rate_limited: (flight.possible_duplicate || flight.tries > 0) && !flight.asks_for_more(),
            at_most_once: self.holds_back(flight),
            server_binding: flight.route.clone(),
            end_to_end_id: flight.end_to_end_id,
            operation,
        }
    }

    fn debit(&self, debit: &Debit) -> Operation {
        Operation::Debit {
            message_id: debit.message_id.clone(),
            part: debit.part,
            octets: debit.octets,
            units: self.tariff.price_of(debit.quota),
            quota: debit.quota,
            trigger: debit.trigger,
        }
    }

    pub(super) fn on_reserved(&mut self, flight: &Flight, response: &Response, now: Time) {
        let (number, Work::Reserve(asked, _)) = (flight.number, &flight.work) else { return };
        match response {
            Response::Granted(grant) if asked.0 == 0 => self.on_renewed(number, grant, now),
            Response::Granted(grant) => self.on_granted(flight, *asked, grant, now),
            Response::Free => {
                self.free = true;
                if asked.0 == 0 {
                    self.end_reservation();
                }
                self.step(now, TraceEvent::new(TraceEventKind::Free).request(number).by(Rule::FreeOfCharge));
                self.grant(*asked, None, now);
            }
            // Where the enabler never grants in part, fewer may still be had: the INVITE waits, and asks for one.
            Response::Denied(Denial::NotSoMany) if asked.0 > 1 && self.may_be_served() => {
                self.step(
                    now,
                    TraceEvent::new(TraceEventKind::Denied).request(number).by(Rule::Denied(Denial::NotSoMany)),
                );
                let fewer = Quota(if self.decision.is_none() { 1 } else { asked.0 / 2 });
                self.at_once = Quota(asked.0 / 2);
                self.wanted = Some((fewer, Rule::OneAtLeast));
            }
            Response::Denied(denial) => {
                // What was refused when it was to be renewed is not held any more, and the reservation is ended.
                if asked.0 == 0 {
                    self.narrow(Quota(0));
                }
                self.refuse(number, *denial, now);
            }
            // It was ended at the enabler's: what is outstanding is asked for anew.
            Response::NoReservation if asked.0 == 0 => {
                self.step(now, TraceEvent::new(TraceEventKind::NoReservation).request(number));
                let anew = self.outstanding.0.saturating_add(self.wanted.map_or(0, |(wanted, _)| wanted.0));
                self.narrow(Quota(0));
                self.end_reservation();
                self.wanted = (anew > 0 && self.may_be_served()).then_some((Quota(anew), Rule::NoReservation));
            }
            Response::Failed(failure) => self.without_answer(flight, *asked, *failure, now),
            _ => self.without_answer(flight, *asked, Failure::Enabler, now),
        }
    }

    fn on_granted(&mut self, flight: &Flight, asked: Quota, grant: &Grant, now: Time) {
        let number = flight.number;
        let more = Quota(grant.quota.0.min(asked.0));
        let step = TraceEvent::new(TraceEventKind::Granted).request(number).worth(more, self.price_of(more));
        self.step(now, step.leaves(grant.balance));
        let validity = Validity::of(grant, now);
        let (route, renewal, requests) = (grant.server_binding.clone(), None, 1);
        self.add_reservation(Further { opened_by: number, outstanding: more, route, validity, renewal, requests });
        self.heed(grant);
        if more.0 == 0 {
            return self.refuse(number, Denial::NoCredit, now);
        }
        self.learn(asked, more, (!flight.possible_duplicate).then(|| now.micros_since(flight.since)));
        self.grant(more, grant.balance, now);
    }

    /// What is outstanding was asked for again: so much of it is reserved.
    fn on_renewed(&mut self, number: u32, grant: &Grant, now: Time) {
        let step = TraceEvent::new(TraceEventKind::Granted).request(number).worth(Quota(0), Units(0));
        self.step(now, step.leaves(grant.balance));
        self.heed_for_first(grant, now);
        self.grant(Quota(0), grant.balance, now);
        self.narrow_to_told(grant, now);
    }

    /// What a grant says beside its units.
    fn heed(&mut self, grant: &Grant) {
        self.last_granted = grant.last;
        self.policy.on_failure = grant.on_failure.unwrap_or(self.policy.on_failure);
    }

    /// The same of the first reservation.
    fn heed_for_first(&mut self, grant: &Grant, now: Time) {
        self.heed(grant);
        self.validity = Validity::of(grant, now);
        if grant.server_binding.is_some() {
            self.route.clone_from(&grant.server_binding);
        }
    }

    /// What is reserved after a debit.
    pub(super) fn on_rest(&mut self, rest: Option<&Grant>, now: Time) {
        let Some(grant) = rest.filter(|_| self.reservation.is_some()) else { return };
        self.heed_for_first(grant, now);
        self.narrow_to_told(grant, now);
    }

    /// Whether a grant is of use: the INVITE waits for it, or the session goes on.
    fn may_be_served(&self) -> bool {
        matches!(self.phase, Phase::Reserving | Phase::Open | Phase::Cancelled { .. })
    }

    /// So much is given without a reservation.
    pub(super) fn give(&mut self, quota: Quota, rule: Rule, now: Time) {
        self.step(now, TraceEvent::new(TraceEventKind::Granted).by(rule).worth(quota, self.price_of(quota)));
        self.grant(quota, None, now);
    }

    /// So much more may pass. Who has ended meanwhile is not let in.
    pub(super) fn grant(&mut self, quota: Quota, balance: Option<i64>, now: Time) {
        if !self.may_be_served() {
            self.has_no_dialog(now);
            return self.decide(Decision::Failed(Failure::Ended), Quota(0), balance, now);
        }
        self.refused = None;
        self.granted = Quota(self.granted.0.saturating_add(quota.0));
        self.decide(Decision::Granted, quota, balance, now);
        if matches!(self.phase, Phase::Reserving) {
            self.phase = Phase::Open;
            self.moved = self.moved.max(now);
        }
        self.publish();
    }

    fn refuse(&mut self, number: u32, denial: Denial, now: Time) {
        self.step(now, TraceEvent::new(TraceEventKind::Denied).request(number).by(Rule::Denied(denial)));
        self.refused = Some(now);
        if self.decision.is_none() {
            self.decide(Decision::Denied(denial), Quota(0), None, now);
            self.end_unserved(Outcome::Denied(denial), now);
        }
    }

    /// The fate of the reservation is not known: what may be held is released, so that it binds nobody's credit, and
    /// nothing is debited out of it.
    fn without_answer(&mut self, flight: &Flight, asked: Quota, failure: Failure, now: Time) {
        self.step(now, TraceEvent::new(TraceEventKind::EnablerFailed).request(flight.number).by(Rule::Failed(failure)));
        self.outputs.push(Output::EnablerFailed(failure));
        self.refused = Some(now);
        if asked.0 > 0 && (failure.may_be_done() || flight.possible_duplicate) {
            self.abandoned.push((flight.number, flight.route.clone(), Rule::MaybeHeld));
        }
        if asked.0 == 0 && self.reservation.is_some() {
            self.validity = Some(Validity::until_next_try(now));
        }
        if !self.grant_uncovered(asked, now) && self.decision.is_none() {
            self.fail(failure, now);
        }
    }

    /// The request of this number went this way, and will not be answered: whoever is there may have done it.
    pub fn on_request_lost(&mut self, number: u32, route: &Arc<str>) {
        if let Some(flight) = self.flight.as_mut().filter(|flight| flight.number == number) {
            flight.possible_duplicate = true;
            flight.route.get_or_insert_with(|| Arc::clone(route));
        }
    }

    /// The requests of the reservation that this request opened go this way from now on.
    pub fn set_server_binding(&mut self, opened_by: u32, route: Arc<str>) {
        if self.reservation == Some(opened_by) {
            self.route = Some(route);
        }
    }

    /// Whether a debit waits to be asked again, because the enabler fails: credit cannot be asked for before it.
    pub fn is_failing(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| flight.retry.is_some())
    }

    /// What would be asked for is as good as not answered.
    fn go_on_uncovered(&mut self, now: Time) {
        if let Some((wanted, _)) = self.wanted.filter(|(wanted, _)| wanted.0 > 0)
            && self.grant_uncovered(wanted, now)
        {
            self.wanted = None;
        }
    }

    /// Gives the service without the enabler where the policy says so, as far as the subscriber may have it.
    fn grant_uncovered(&mut self, wanted: Quota, now: Time) -> bool {
        let uncovered = match self.policy.on_failure {
            OnFailure::Grant => wanted.0.min(self.policy.on_failure_cap),
            OnFailure::Deny => 0,
        };
        if uncovered == 0 || !self.may_be_served() {
            return false;
        }
        self.policy.on_failure_cap -= uncovered;
        self.uncovered = Quota(self.uncovered.0.saturating_add(uncovered));
        self.give(Quota(uncovered), Rule::OnFailureGrant, now);
        true
    }

    pub(super) fn fail(&mut self, failure: Failure, now: Time) {
        self.decide(Decision::Failed(failure), Quota(0), None, now);
        self.end_unserved(Outcome::Failed(failure), now);
    }

    /// The INVITE goes nowhere: there is nothing to settle but what the enabler may hold.
    fn end_unserved(&mut self, outcome: Outcome, now: Time) {
        self.outcome.get_or_insert(outcome);
        self.has_no_dialog(now);
        match self.reservation.is_some() || !self.abandoned.is_empty() {
            true => self.phase = Phase::Settling,
            false => self.close(now),
        }
    }

    /// The verdict, once.
    fn decide(&mut self, result: Decision, granted: Quota, balance: Option<i64>, now: Time) {
        if self.decision.is_none() {
            self.decision = Some(result);
            let rule = match result {
                Decision::Granted => Rule::Granted,
                Decision::Denied(denial) => Rule::Denied(denial),
                Decision::Failed(failure) => Rule::Failed(failure),
            };
            let step = TraceEvent::new(TraceEventKind::Verdict).by(rule).worth(granted, self.price_of(granted));
            self.step(now, step.leaves(balance));
            self.outputs.push(Output::Verdict(Verdict { result, granted, balance }));
        }
    }

    /// A debit stands. It is out of `reservation`, which it has `ended`.
    pub(super) fn on_debited(
        &mut self,
        debit: &Debit,
        request: u32,
        reservation: Reservation,
        balance: Option<i64>,
        ended: bool,
        now: Time,
    ) {
        let quota = debit.quota;
        if reservation != Reservation::None {
            self.take_from_further(quota.0.saturating_sub(self.outstanding.0));
            self.outstanding = Quota(self.outstanding.0.saturating_sub(quota.0));
            if ended {
                self.end_reservation();
            }
        }
        let units = self.tariff.price_of(quota);
        self.counts.debited = self.counts.debited.saturating_add(1);
        self.counts.units = Units(self.counts.units.0.saturating_add(units.0));
        self.step(now, self.about(TraceEventKind::Debited, debit).request(request).by(debit.rule).leaves(balance));
        self.settled_one(quota);
        self.outputs.push(Output::Debited {
            message_id: debit.message_id.clone(),
            part: debit.part,
            octets: debit.octets,
            units,
            quota,
            trigger: debit.trigger,
            since: debit.since,
            balance,
        });
    }

    /// Without reservations, as many may be with the client unpaid as the INVITE asks for: one is settled, one more
    /// may pass.
    pub(super) fn settled_one(&mut self, quota: Quota) {
        if self.policy.model == Model::Immediate {
            self.let_pass(quota);
        }
    }

    /// So much more may pass: what was taken for something that costs nothing serves another message.
    pub(super) fn let_pass(&mut self, quota: Quota) {
        if self.may_be_served() {
            self.granted = Quota(self.granted.0.saturating_add(quota.0));
            self.publish();
        }
    }

    /// The content is with the client, and the enabler will not have it paid: no more follows.
    pub(super) fn on_debit_denied(&mut self, debit: &Debit, request: u32, denial: Denial, now: Time) {
        let step = self.about(TraceEventKind::Denied, debit).request(request).by(Rule::Denied(denial));
        self.step(now, step);
        self.free(debit, Rule::Denied(denial), now);
        self.outputs.push(Output::DebitDenied { message_id: debit.message_id.clone(), denial });
        self.end(Outcome::Denied(denial));
    }

    /// The enabler does not know the reservation that a debit was to be out of. It is debited without one, unless an
    /// earlier copy may have been what ended the reservation: nobody knows then but the enabler's people.
    pub(super) fn on_debit_without_reservation(&mut self, mut flight: Box<Flight>, now: Time) {
        let Work::Debit(debit) = &flight.work else { return };
        self.step(now, self.about(TraceEventKind::NoReservation, debit).request(flight.number));
        self.narrow(Quota(0));
        self.end_reservation();
        if flight.possible_duplicate {
            flight.reservation = Reservation::None;
            flight.route = None;
            self.hold_back(flight, Rule::MaybeTaken, now);
        } else if let Some(code) = flight.revoked {
            self.free(debit, Rule::Report(code, Settle::Release), now);
            self.charge_anew(&debit.message_id);
        } else {
            self.touch(debit.number);
            self.debits.insert(0, debit.clone());
        }
    }

    /// It waits for an operator.
    pub(super) fn hold_back(&mut self, mut flight: Box<Flight>, rule: Rule, now: Time) {
        if let Work::Debit(debit) | Work::Refund(debit) = &flight.work {
            self.step(now, self.about(TraceEventKind::HeldBack, debit).request(flight.number).by(rule));
            self.outputs.push(Output::HeldBack { message_id: debit.message_id.clone() });
        }
        (flight.held, flight.retry) = (true, None);
        self.flight = Some(flight);
    }

    /// No debit and no release is lost: it is asked again with its number until it is answered.
    pub(super) fn ask_later(&mut self, mut flight: Box<Flight>, failure: Failure, now: Time) {
        let step = TraceEvent::new(TraceEventKind::EnablerFailed).request(flight.number).by(Rule::Failed(failure));
        self.step(
            now,
            match &flight.work {
                Work::Debit(debit) | Work::Refund(debit) => step.about(&debit.message_id),
                _ => step,
            },
        );
        self.outputs.push(Output::EnablerFailed(failure));
        let wait = 1_u32.checked_shl(flight.tries.into()).map_or(RETRY_MOST, |wait| wait.min(RETRY_MOST));
        flight.tries = flight.tries.saturating_add(1).min(31);
        flight.possible_duplicate |= failure.may_be_done();
        if flight.possible_duplicate && self.holds_back(&flight) {
            return self.hold_back(flight, Rule::ResendHold, now);
        }
        flight.retry = Some(now.after_seconds(wait));
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
        let number = flight.number;
        if let Work::Debit(debit) | Work::Refund(debit) = &flight.work {
            let rule = if again { Rule::OutboxResend } else { Rule::OutboxRelease };
            self.step(now, self.about(TraceEventKind::Resolved, debit).request(number).by(rule));
        }
        match (&flight.work, again) {
            (Work::Debit(debit), false) => {
                let ended = matches!(flight.reservation, Reservation::Last { .. });
                self.on_debited(debit, number, flight.reservation, None, ended, now);
                self.keep_refundable(debit, flight.revoked, now);
            }
            (Work::Refund(debit), false) => self.on_refunded(debit, number, None, now),
            _ => {
                self.outputs.push(Output::Ask(self.request(&flight)));
                self.flight = Some(flight);
            }
        }
        self.proceed(now);
        true
    }

    /// The subscriber may have so much more while no enabler answers.
    pub fn set_on_failure_cap(&mut self, left: u32) {
        self.policy.on_failure_cap = left;
    }

    pub(super) fn retry(&mut self, now: Time) {
        if let Some(mut flight) = self.flight.take_if(|flight| flight.retry.is_some_and(|at| at <= now)) {
            flight.retry = None;
            self.outputs.push(Output::Ask(self.request(&flight)));
            self.flight = Some(flight);
        }
    }

    /// The enabler wants to be asked again (RFC 8506, 5.5); where it is asked already, that will do.
    pub(super) fn on_reauthorize(&mut self, opened_by: u32, at: Time) {
        self.step(at, TraceEvent::new(TraceEventKind::Reauthorize));
        if !self.is_updating(opened_by)
            && let Some(renewal) = self.renewal_of(opened_by)
        {
            *renewal = Some(Rule::Reauthorization);
        }
    }

    /// A SEND hit the gate. The account may have been topped up since the last refusal.
    pub(super) fn on_stopped(&mut self, message_id: &str, why: Stop, at: Time) {
        self.step(at, TraceEvent::new(TraceEventKind::Stopped).about(message_id).by(Rule::from_stop(why)));
        // Only what the server sends keeps a session that is over.
        if why != Stop::Forged {
            self.keep_closed(at);
        }
        if matches!(why, Stop::Beyond | Stop::Message) {
            self.stop_message(message_id, at);
        }
        if why != Stop::Beyond {
            return;
        }
        let soon = self.refused.is_some_and(|refused| at < refused.after_seconds(REFUSED));
        // Behind the final units nothing is to be had until the enabler asks to be asked (RFC 8506, 5.6).
        if !soon && !self.last_granted && self.policy.model == Model::Reserve {
            self.want_beyond();
        }
    }
}

impl Flight {
    /// Whether it asks for more credit.
    pub(super) fn asks_for_more(&self) -> bool {
        matches!(self.work, Work::Reserve(quota, _) if quota.0 > 0)
    }
}
