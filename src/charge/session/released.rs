//! Messages that their sender pays for and that were released because of a failure or silence.
//!
//! The sender may have posed as the receiver, so a release is not final: a 200 that arrives within
//! [`Policy::response_timeout`](crate::charge::policy::Policy::response_timeout) of the last chunk debits the message. After
//! that the session believes no failure any more.

use super::common::Context;
use super::credit::Credit;
use super::messages::Messages;
use super::open_message::{Answer, OpenMessage};
use super::rule::Rule;
use super::settlement::Settlement;
use crate::charge::policy::Payer;
use crate::charge::time::Time;

/// Released messages of a session that a 200 may still debit. While there are as many, failures release nothing.
const RELEASED_MESSAGES_MAX: usize = 64;

impl Messages {
    /// Returns how a message ends if this would settle it: a failure is believed only if none was contradicted before.
    pub(super) fn believed(&mut self, settlement: Settlement, cx: &Context<'_>) -> Settlement {
        let is_paid_by_sender = cx.common.policy.cases.payer == Payer::Sender;
        self.has_false_failures |= settlement.rule() == Rule::LateSuccess;
        match settlement.refusal().filter(|_| is_paid_by_sender) {
            Some(code) if self.has_false_failures || !self.has_room_for_released(cx) => {
                Settlement::by_unproven_failure(code)
            }
            _ => settlement,
        }
    }

    /// Drops released messages whose time is up. Returns whether there is room for one more.
    fn has_room_for_released(&mut self, cx: &Context<'_>) -> bool {
        let policy = &cx.common.policy;
        self.released.retain(|message| message.contradicted_until(policy) >= cx.now);
        self.released.len() < RELEASED_MESSAGES_MAX
    }

    /// Keeps a message that was released, if its sender pays.
    pub(super) fn keep_released(&mut self, message: Box<OpenMessage>, cx: &Context<'_>) {
        if cx.common.policy.cases.payer == Payer::Sender {
            if !self.has_room_for_released(cx) {
                self.released.remove(0);
            }
            self.released.push(message);
        }
    }

    /// Handles an answer to a released message: a 200 debits it. Returns whether the answer was about one.
    pub(super) fn on_answer_to_released(&mut self, answer: &Answer, credit: &mut Credit, cx: &mut Context<'_>) -> bool {
        let Some(place) = self.released.iter().position(|message| message.is_meant(answer)) else { return false };
        let is_late = self.released[place].contradicted_until(&cx.common.policy) < cx.now;
        let settlement = self.released[place].contradict(answer).filter(|_| !is_late);
        if let Some(settlement) = settlement {
            let message = self.released.remove(place);
            credit.take_from_grant(message.taken(), cx);
            self.add_late_debit(&message, settlement, credit, cx);
        }
        true
    }

    fn add_late_debit(
        &mut self,
        message: &OpenMessage,
        settlement: Settlement,
        credit: &mut Credit,
        cx: &mut Context<'_>,
    ) {
        self.has_false_failures = true;
        let part = self.next_part(message.id_hash(), Payer::Sender).max(message.part());
        let debit = self.debit_of(message, part, settlement, cx.now);
        self.remember_paid(message, part, debit.is_refundable, &cx.common.policy);
        self.add_debit(debit, credit, cx);
    }

    /// Limits the times of released messages to what they can be from `now` on.
    pub(super) fn rebase_released(&mut self, now: Time, latest: Time) {
        self.released.iter_mut().for_each(|message| message.rebase(now, latest));
    }
}
