//! Answers of the receiver to an open message: what they confirm, and which of them settle the message.

use super::OpenMessage;
use crate::charge::ch2::Trigger;
use crate::charge::policy::{Payer, Policy};
use crate::charge::session::rule::Rule;
use crate::charge::session::settlement::Settlement;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// An answer of the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::charge::session) enum Answer {
    /// An MSRP response.
    Response { transaction: u64, code: u16 },
    /// A REPORT; `end` is `u64::MAX` if it does not say.
    Report { message: u64, start: u64, end: u64, code: u16 },
}

impl OpenMessage {
    /// Whether the answer is about this message.
    pub(in crate::charge::session) fn is_meant(&self, answer: &Answer) -> bool {
        match *answer {
            Answer::Response { transaction, .. } => self.outstanding.iter().any(|known| known.hash == transaction),
            Answer::Report { message, .. } => self.id_hash() == message,
        }
    }

    /// Handles an answer. It counts only if it arrived before a deadline or a `#`, no matter when it is read.
    pub(in crate::charge::session) fn answer(
        &mut self,
        answer: &Answer,
        at: Time,
        policy: &Policy,
    ) -> Option<Settlement> {
        if let Some(due) = self.due(at, policy) {
            return Some(due);
        }
        let is_paid_by_sender = policy.cases.payer == Payer::Sender;
        if let Some(delayed) = self.delayed_settlement() {
            let is_released = matches!(delayed, Settlement::NotCharged(_));
            return if is_paid_by_sender && is_released { self.contradict(answer) } else { None };
        }
        if self.is_aborted_by(at) && !is_paid_by_sender {
            return None;
        }
        let code = match *answer {
            Answer::Response { transaction, code } => {
                if code == 200 {
                    self.acknowledge(transaction);
                }
                code
            }
            Answer::Report { start, end, code, .. } => {
                if code == 200 {
                    self.report(start, end, policy);
                }
                code
            }
        };
        match Settlement::from_code(code, policy) {
            Some(settlement) if is_paid_by_sender => self.refused_by(answer, settlement),
            settlement => settlement.or_else(|| self.completed(at, policy)),
        }
    }

    /// Settlement by a failure of content that its sender pays for.
    fn refused_by(&mut self, answer: &Answer, settlement: Settlement) -> Option<Settlement> {
        let Some(code) = settlement.refusal() else { return Some(settlement) };
        match *answer {
            _ if self.is_unconfirmed => return Some(Settlement::by_unproven_failure(code)),
            Answer::Response { transaction, .. } => self.refused = transaction,
            Answer::Report { .. } if !self.acknowledged.is_empty() => return None,
            Answer::Report { .. } => {}
        }
        Some(settlement)
    }

    /// Handles an answer to a message that is released, or will be: a 200 to the SEND that the receiver seemed to refuse, or
    /// for the whole message, debits it.
    pub(in crate::charge::session) fn contradict(&mut self, answer: &Answer) -> Option<Settlement> {
        let is_meant = match *answer {
            Answer::Response { transaction, code: 200 } => {
                self.acknowledge(transaction);
                [0, transaction].contains(&self.refused)
            }
            Answer::Report { start, end, code: 200, .. } => {
                self.acknowledged.add(start.max(1), end);
                self.refused == 0
            }
            _ => return None,
        };
        let is_whole = self.has_end && self.acknowledged.covers(1, self.furthest);
        (is_meant || is_whole).then_some(Settlement::Debit(Trigger::Response, Rule::LateSuccess))
    }

    /// Until when a 200 debits the message after its release.
    pub(in crate::charge::session) fn contradicted_until(&self, policy: &Policy) -> Time {
        self.last_sent_at.after_seconds(policy.response_timeout)
    }

    fn acknowledge(&mut self, hash: u64) {
        if let Some(answered) = self.outstanding.iter().find(|known| known.hash == hash) {
            self.acknowledged.add(answered.start, answered.end);
        }
        let OpenMessage { outstanding, acknowledged, .. } = self;
        outstanding.retain(|known| {
            known.hash != hash && (known.start > known.end || !acknowledged.covers(known.start, known.end))
        });
    }

    fn report(&mut self, start: u64, end: u64, policy: &Policy) {
        if self.wants_report(policy) {
            self.reported.add(start.max(1), end);
        } else {
            self.acknowledged.add(start.max(1), end);
        }
    }
}
