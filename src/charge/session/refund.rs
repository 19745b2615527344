//! Giving back what a debit has taken: a 200 of the next hop was taken for the client's, and a failure REPORT of the
//! client comes after it (RFC 4975, 7.1.2: an endpoint may answer 200 first, and report a failure later).
//!
//! Only with `policy=report=release`, and only where the 200 was the reason of the debit: silence is paid for, so a 408
//! that a relay reports (RFC 4976, 6.4.1) gives nothing back, and neither does an error after another error.

use super::message::Message;
use super::{Debit, Output, Rule, Session, Step, StepKind, Work};
use crate::charge::ch2::{Denial, Operation, Trigger};
use crate::charge::policy::Settle;
use crate::charge::time::Time;

/// Debits of a session that can still be given back.
const REFUNDABLE: usize = 4096;

impl Session {
    /// A REPORT about a message that is settled.
    pub(super) fn on_late_report(&mut self, message: u64, code: u16, at: Time) {
        let is_failure = (400..600).contains(&code) && code != 408;
        if self.policy.report == Settle::Debit || !is_failure {
            return;
        }
        let is_meant =
            |debit: &Debit| debit.trigger == Trigger::Response && Message::name_of(&debit.message_id) == message;
        let rule = Rule::Report(code, Settle::Release);
        if let Some(index) = self.refundable.iter().position(is_meant) {
            let debit = self.refundable.remove(index);
            self.refunds.push(Debit { rule, since: at, ..debit });
        } else if let Some(index) = self.debits.iter().position(is_meant) {
            let debit = self.debits.remove(index);
            self.free(&debit.message_id, debit.octets, rule, at);
        } else if let Some(flight) = &mut self.flight
            && matches!(&flight.work, Work::Debit(debit) if is_meant(debit))
        {
            flight.revoked = flight.revoked.or(Some(code));
        }
    }

    /// A debit stands.
    pub(super) fn keep_refundable(&mut self, debit: &Debit, revoked: Option<u16>, now: Time) {
        if let Some(code) = revoked {
            let rule = Rule::Report(code, Settle::Release);
            self.refunds.push(Debit { rule, since: now, ..debit.clone() });
        } else if self.policy.report == Settle::Release && debit.trigger == Trigger::Response {
            if self.refundable.len() >= REFUNDABLE {
                self.refundable.remove(0);
            }
            self.refundable.push(debit.clone());
        }
    }

    /// A step about the message of a debit and its price.
    pub(super) fn about(&self, what: StepKind, debit: &Debit) -> Step {
        let quota = self.tariff.quota(debit.octets);
        Step::new(what).about(&debit.message_id).octets(debit.octets).worth(quota, self.price_of(quota))
    }

    pub(super) fn refund(&self, debit: &Debit) -> Operation {
        let quota = self.tariff.quota(debit.octets);
        let (message_id, octets) = (debit.message_id.clone(), debit.octets);
        Operation::Refund { message_id, octets, units: self.tariff.price_of(quota), quota }
    }

    pub(super) fn on_refunded(&mut self, debit: &Debit, request: u32, balance: Option<i64>, now: Time) {
        self.counts.refunded = self.counts.refunded.saturating_add(1);
        let step = self.about(StepKind::Refunded, debit).request(request).by(debit.rule);
        self.step(now, step.leaves(balance));
        self.outputs.push(Output::Refunded { message_id: debit.message_id.clone(), balance });
    }

    /// The enabler keeps the money: an operator has to know.
    pub(super) fn on_refund_denied(&mut self, debit: &Debit, request: u32, denial: Denial, now: Time) {
        let step = self.about(StepKind::RefundDenied, debit).request(request).by(Rule::Denied(denial));
        self.step(now, step);
        self.outputs.push(Output::RefundDenied { message_id: debit.message_id.clone(), denial });
    }
}
