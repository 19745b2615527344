//! Giving back what a debit has taken: a 200 of the next hop was taken for the client's, and a failure REPORT of the
//! client comes after it (RFC 4975, 7.1.2: an endpoint may answer 200 first, and report a failure later).
//!
//! Only with `policy=report=release`, and only where the 200 was the reason of the debit: silence is paid for, so a 408
//! that a relay reports (RFC 4976, 6.4.1) gives nothing back, and neither does an error after another error.

use super::message::Message;
use super::{Debit, Output, Session, StepKind, Work};
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
        if let Some(index) = self.refundable.iter().position(is_meant) {
            let debit = self.refundable.remove(index);
            self.refunds.push(Debit { since: at, ..debit });
        } else if let Some(index) = self.debits.iter().position(is_meant) {
            let debit = self.debits.remove(index);
            self.free(&debit.message_id, debit.octets, "reported", at);
        } else if let Some(flight) = &mut self.flight {
            flight.revoked |= matches!(&flight.work, Work::Debit(debit) if is_meant(debit));
        }
    }

    /// A debit stands.
    pub(super) fn keep_refundable(&mut self, debit: &Debit, revoked: bool) {
        if revoked {
            self.refunds.push(debit.clone());
        } else if self.policy.report == Settle::Release && debit.trigger == Trigger::Response {
            if self.refundable.len() >= REFUNDABLE {
                self.refundable.remove(0);
            }
            self.refundable.push(debit.clone());
        }
    }

    pub(super) fn refund(&self, debit: &Debit) -> Operation {
        let quota = self.tariff.quota(debit.octets);
        let (message_id, octets) = (debit.message_id.clone(), debit.octets);
        Operation::Refund { message_id, octets, units: self.tariff.price_of(quota), quota }
    }

    pub(super) fn on_refunded(&mut self, debit: &Debit, balance: Option<i64>, now: Time) {
        let quota = self.tariff.quota(debit.octets);
        self.counts.refunded = self.counts.refunded.saturating_add(1);
        self.step(now, StepKind::Refunded, quota.0.into());
        self.outputs.push(Output::Refunded { message_id: debit.message_id.clone(), balance });
    }

    /// The enabler keeps the money: an operator has to know.
    pub(super) fn on_refund_denied(&mut self, debit: &Debit, denial: Denial, now: Time) {
        self.step(now, StepKind::RefundDenied, denial.code().into());
        self.outputs.push(Output::RefundDenied { message_id: debit.message_id.clone(), denial });
    }
}
