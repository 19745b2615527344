//! Refunds: the 200 of the next hop was taken for the client's, and the client reports a failure afterwards (RFC 4975,
//! 7.1.2: an endpoint may answer 200 first and report a failure later).
//!
//! Only with `policy=report=release`, and only if a 200 was the reason for the debit: silence is charged, so a 408 that a
//! relay reports (RFC 4976, 6.4.1) refunds nothing, and neither does an error after another error.

use super::common::Context;
use super::credit::Credit;
use super::messages::{Debit, Messages};
use super::open_message::OpenMessage;
use super::rule::Rule;
use crate::charge::ch2::Trigger;
use crate::charge::policy::Settle;

/// Debits of a session that can still be refunded.
const REFUNDABLE_DEBITS_MAX: usize = 4096;

impl Messages {
    /// Handles a REPORT about a settled message.
    pub(super) fn on_late_report(&mut self, message: u64, code: u16, credit: &mut Credit, cx: &mut Context<'_>) {
        let is_failure = (400..600).contains(&code) && code != 408;
        if cx.common.policy.cases.report == Settle::Debit || !is_failure {
            return;
        }
        let is_meant = |debit: &Debit| debit.is_refundable && OpenMessage::hash_of(&debit.message_id) == message;
        let rule = Rule::Report(code, Settle::Release);
        while let Some(place) = self.refundable.iter().position(is_meant) {
            let debit = self.refundable.remove(place);
            self.touch(debit.number);
            self.charge_anew(&debit.message_id, cx);
            self.add_refund(debit, rule, cx);
        }
        while let Some(place) = self.debits.iter().position(is_meant) {
            let debit = self.debits.remove(place);
            self.touch(debit.number);
            credit.mark_not_charged(&debit, rule, cx.now, cx);
            self.charge_anew(&debit.message_id, cx);
        }
        if let Some(message_id) = credit.refund_pending_debit(rule, is_meant) {
            self.charge_anew(message_id, cx);
        }
    }

    /// Queues the refund of an acknowledged debit.
    pub(super) fn add_refund(&mut self, debit: Debit, rule: Rule, cx: &mut Context<'_>) {
        let number = self.new_number();
        self.refunds.push(Debit { number, rule, since: cx.now, ..debit });
    }

    /// Keeps an acknowledged debit that may be refunded, or refunds it at once by `refund_rule`.
    pub(super) fn keep_refundable(&mut self, debit: &Debit, refund_rule: Option<Rule>, cx: &mut Context<'_>) {
        let is_prepaid = debit.trigger == Trigger::Prepay;
        if let Some(rule) = refund_rule {
            self.add_refund(debit.clone(), rule, cx);
        } else if is_prepaid || cx.common.policy.cases.report == Settle::Release && debit.is_refundable {
            if self.refundable.len() >= REFUNDABLE_DEBITS_MAX {
                let oldest = self.refundable.remove(0);
                self.touch(oldest.number);
            }
            self.touch(debit.number);
            self.refundable.push(debit.clone());
        }
    }
}
