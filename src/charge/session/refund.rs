//! Giving back what a debit has taken: a 200 of the next hop was taken for the client's, and a failure REPORT of the
//! client comes after it (RFC 4975, 7.1.2: an endpoint may answer 200 first, and report a failure later).
//!
//! Only with `policy=report=release`, and only where the 200 was the reason of the debit: silence is paid for, so a 408
//! that a relay reports (RFC 4976, 6.4.1) gives nothing back, and neither does an error after another error.

use super::message::Message;
use super::{Debit, Output, Rule, Session, TraceEvent, TraceEventKind, Work};
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
        let is_meant = |debit: &Debit| {
            let is_confirmed = debit.trigger == Trigger::Response || debit.rule == Rule::LateChunk;
            is_confirmed && Message::name_of(&debit.message_id) == message
        };
        let rule = Rule::Report(code, Settle::Release);
        while let Some(index) = self.refundable.iter().position(is_meant) {
            let debit = self.refundable.remove(index);
            self.touch(debit.number);
            self.refund_debit(debit, rule, at);
        }
        while let Some(index) = self.debits.iter().position(is_meant) {
            let debit = self.debits.remove(index);
            self.touch(debit.number);
            self.free(&debit, rule, at);
            self.charge_anew(&debit.message_id);
        }
        if let Some(flight) = &mut self.flight
            && matches!(&flight.work, Work::Debit(debit) if is_meant(debit))
        {
            flight.revoked = flight.revoked.or(Some(code));
        }
    }

    /// A debit is to be given back. The same Message-ID is charged like a new one from then on.
    fn refund_debit(&mut self, debit: Debit, rule: Rule, now: Time) {
        self.charge_anew(&debit.message_id);
        let number = self.new_number();
        self.refunds.push(Debit { number, rule, since: now, ..debit });
    }

    /// A debit stands.
    pub(super) fn keep_refundable(&mut self, debit: &Debit, revoked: Option<u16>, now: Time) {
        if let Some(code) = revoked {
            self.refund_debit(debit.clone(), Rule::Report(code, Settle::Release), now);
        } else if self.policy.report == Settle::Release
            && (debit.trigger == Trigger::Response || debit.rule == Rule::LateChunk)
        {
            if self.refundable.len() >= REFUNDABLE {
                let oldest = self.refundable.remove(0);
                self.touch(oldest.number);
            }
            self.touch(debit.number);
            self.refundable.push(debit.clone());
        }
    }

    /// A step about the message of a debit and its price.
    pub(super) fn about(&self, what: TraceEventKind, debit: &Debit) -> TraceEvent {
        let step = TraceEvent::new(what).about(&debit.message_id).octets(debit.octets);
        step.worth(debit.quota, self.price_of(debit.quota))
    }

    pub(super) fn refund(&self, debit: &Debit) -> Operation {
        let Debit { part, octets, quota, .. } = *debit;
        Operation::Refund {
            message_id: debit.message_id.clone(),
            part,
            octets,
            units: self.tariff.price_of(quota),
            quota,
        }
    }

    pub(super) fn on_refunded(&mut self, debit: &Debit, request: u32, balance: Option<i64>, now: Time) {
        self.counts.refunded = self.counts.refunded.saturating_add(1);
        let step = self.about(TraceEventKind::Refunded, debit).request(request).by(debit.rule);
        self.step(now, step.leaves(balance));
        self.outputs.push(Output::Refunded { message_id: debit.message_id.clone(), part: debit.part, balance });
    }

    /// The enabler keeps the money: an operator has to know.
    pub(super) fn on_refund_denied(&mut self, debit: &Debit, request: u32, denial: Denial, now: Time) {
        let step = self.about(TraceEventKind::RefundDenied, debit).request(request).by(Rule::Denied(denial));
        self.step(now, step);
        self.outputs.push(Output::RefundDenied { message_id: debit.message_id.clone(), denial });
    }
}
