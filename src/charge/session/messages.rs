//! The messages machine: messages that wait for answers of the client, settled messages, and the debits and refunds that
//! follow from them.
//!
//! A message is debited with the price of the octets that have passed of it, in one debit or several. What the gate took
//! for its chunks beyond that is returned to the grant, and what it took less is taken from the grant. A message that
//! is not charged is forgotten, here and at the gate, so that the same Message-ID is charged like a new one; a debited
//! message is remembered as paid.

use super::common::Context;
use super::credit::Credit;
use super::dialog::Phase;
use super::index::Index;
use super::open_message::{Answer, OpenMessage};
use super::output::{EndReason, Output};
use super::parts::Numbered;
use super::rule::{CloseCause, Rule};
use super::settled::{ForgottenMessage, SettledMessage, forget_at_gate};
use super::settlement::Settlement;
use super::trace::{TraceEvent, TraceEventKind};
use super::{ahead, take_first};
use crate::charge::ch2::Trigger;
use crate::charge::content::ContentClass;
use crate::charge::event::{Event, Flag, Sent, Stop};
use crate::charge::policy::{Payer, Policy};
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// Messages of a session that may wait for answers at once; one more ends the session.
pub(super) const OPEN_MESSAGES_MAX: usize = 4096;

/// Transactions over all messages of a session whose answers are recognised; for others the deadline counts.
const TRANSACTIONS_MAX: u32 = 8192;

/// Answers kept until their SEND is read. Answers to empty SENDs have none and are displaced by later ones.
const EARLY_ANSWERS_MAX: usize = 16;

/// A debit that is due, pending or refundable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Debit {
    /// Number among all items that the session stores in parts.
    pub(super) number: u32,
    pub(super) message_id: Box<str>,
    /// Number among the debits of its message.
    pub(super) part: u32,
    pub(super) octets: u64,
    pub(super) class: ContentClass,
    /// What the gate took.
    pub(super) quota: Quota,
    pub(super) trigger: Trigger,
    /// The rule that made it due.
    pub(super) rule: Rule,
    /// Whether it can be refunded: a 200 was the reason for the debit of its message, or it was made in advance.
    pub(super) is_refundable: bool,
    /// Time of the event that triggered it.
    pub(super) since: Time,
}

/// An answer whose SEND has not been read yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct EarlyAnswer {
    at: Time,
    answer: Answer,
}

/// Messages of a session and what is due for them. The lists that are not serialized are stored in parts (see `parts`) and
/// sorted by number.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Messages {
    /// Messages that wait for answers. Boxed, so that removing one moves little memory.
    #[serde(skip)]
    pub(super) open: ThinVec<Box<OpenMessage>>,
    #[serde(skip)]
    pub(super) settled: ThinVec<SettledMessage>,
    /// Debits to be requested.
    #[serde(skip)]
    pub(super) debits: ThinVec<Debit>,
    /// Acknowledged debits that may be refunded; only with `report=release`.
    #[serde(skip)]
    pub(super) refundable: ThinVec<Debit>,
    /// Refunds to be requested.
    #[serde(skip)]
    pub(super) refunds: ThinVec<Debit>,
    /// Index of `open` and `settled`, if they are long.
    #[serde(skip)]
    pub(super) index: Option<Box<Index>>,
    /// Numbers of the parts that have changed since they were stored.
    #[serde(skip)]
    pub(super) changed_parts: ThinVec<u32>,
    /// Number of the next item of these lists.
    pub(super) next_number: u32,
    /// Messages that were not charged.
    pub(super) forgotten: ThinVec<ForgottenMessage>,
    /// Messages of a paying sender that were not charged; see `released`.
    pub(super) released: ThinVec<Box<OpenMessage>>,
    /// A 200 has contradicted a failure: the session believes no failure any more.
    pub(super) has_false_failures: bool,
    early: ThinVec<EarlyAnswer>,
    /// Unanswered transactions of all open messages.
    transactions: u32,
}

/// Events and timers.
impl Messages {
    /// Handles an event that concerns messages.
    pub(super) fn on_event(&mut self, event: &Event<'_>, credit: &mut Credit, cx: &mut Context<'_>) {
        match event {
            Event::Sent(sent) => self.on_sent(sent, credit, cx),
            Event::Stopped { message_id, why, .. } => self.on_stopped(message_id, *why, credit, cx),
            Event::Responded { transaction, code, .. } => {
                self.on_answer(Answer::Response { transaction: *transaction, code: *code }, credit, cx);
            }
            Event::Reported { message_id, start, end, code } => {
                cx.record(TraceEvent::new(TraceEventKind::Report).about(message_id).code((*code).into()));
                let (message, end) = (OpenMessage::hash_of(message_id), end.unwrap_or(u64::MAX));
                self.on_answer(Answer::Report { message, start: *start, end, code: *code }, credit, cx);
            }
            Event::ConnectionLost { connection } => self.on_connection_lost(*connection, credit, cx),
            Event::PassedAgain { message_id, transaction, start, octets } => {
                self.on_passed_again(message_id, *transaction, (*start, *octets), cx);
            }
            Event::Unsent { message_id, transaction } => self.on_unsent(message_id, *transaction, credit, cx),
            _ => {}
        }
    }

    /// Settles the messages whose deadline has passed.
    pub(super) fn on_timer(&mut self, credit: &mut Credit, cx: &mut Context<'_>) {
        let policy = cx.common.policy;
        while let Some(place) = self.place_of_due(cx.now, &policy)
            && let Some(settlement) = self.open[place].due(cx.now, &policy)
        {
            self.settle(place, settlement, credit, cx);
        }
    }

    /// The earliest deadline of an open message.
    pub(super) fn deadline(&self, policy: &Policy) -> Option<Time> {
        self.first_deadline(policy).map(|(deadline, _)| deadline)
    }

    /// Limits all times to what they can be from `now` on; the clock may have started anew.
    pub(super) fn rebase(&mut self, now: Time, policy: &Policy) {
        self.forgotten.clear();
        let latest = now.after_seconds(policy.response_timeout);
        self.open.iter_mut().for_each(|message| message.rebase(now, latest));
        self.rebase_released(now, latest);
        let debits = self.debits.iter_mut().chain(&mut self.refunds).chain(&mut self.refundable);
        debits.for_each(|debit| debit.since = debit.since.min(now));
        self.index = None;
        self.index_if_large(policy);
        self.touch_all();
    }
}

/// Queries, and the queues of debits and refunds.
impl Messages {
    pub(super) fn open_count(&self) -> usize {
        self.open.len()
    }

    pub(super) fn debits_queued(&self) -> usize {
        self.debits.len() + self.refunds.len()
    }

    /// Whether a debit is queued, or a message with content waits for answers.
    pub(super) fn has_unsettled_content(&self) -> bool {
        !self.debits.is_empty() || self.open.iter().any(|message| message.has_content())
    }

    pub(super) fn take_debit(&mut self) -> Option<Debit> {
        let debit = take_first(&mut self.debits)?;
        self.touch(debit.number);
        Some(debit)
    }

    pub(super) fn take_refund(&mut self) -> Option<Debit> {
        let debit = take_first(&mut self.refunds)?;
        self.touch(debit.number);
        Some(debit)
    }

    /// Puts a debit back to be requested next.
    pub(super) fn requeue_debit(&mut self, debit: Debit) {
        self.touch(debit.number);
        self.debits.insert(0, debit);
    }

    /// Queues a debit, unless the service is free of charge.
    pub(super) fn add_debit(&mut self, debit: Debit, credit: &mut Credit, cx: &mut Context<'_>) {
        if credit.is_free_of_charge {
            return credit.mark_not_charged(&debit, Rule::FreeOfCharge, debit.since, cx);
        }
        self.debits.push(debit);
    }
}

/// SENDs.
impl Messages {
    fn on_sent(&mut self, sent: &Sent<'_>, credit: &mut Credit, cx: &mut Context<'_>) {
        let kind = if sent.flag == Flag::Aborted { TraceEventKind::Abort } else { TraceEventKind::Send };
        cx.record(TraceEvent::new(kind).about(sent.message_id).octets(sent.octets));
        // Without a grant the gate has let nothing pass.
        if !cx.dialog.is_granted() {
            return;
        }
        credit.on_sent(sent.taken, cx.now);
        let place = self.place_of(sent.message_id);
        self.on_chunk(place, sent, credit, cx);
        credit.ask_ahead(ahead::quota_to_come(sent, &cx.common.prices), self, cx);
        self.settle_when_drained(credit, cx);
    }

    fn on_chunk(&mut self, mut place: Option<usize>, sent: &Sent<'_>, credit: &mut Credit, cx: &mut Context<'_>) {
        let (policy, cause) = (cx.common.policy, cx.dialog.close_cause());
        let is_paid_by_sender = policy.cases.payer == Payer::Sender;
        // What is sent after the end is a new message under the same Message-ID.
        let is_replaced = |message: &OpenMessage| sent.octets > 0 && message.is_replaced_at(cx.now, &policy);
        if let Some(replaced) = place.filter(|&place| is_replaced(&self.open[place])) {
            let settlement = self.open[replaced].replace(cause, cx.now, &policy);
            self.end_message(replaced, settlement, credit, cx);
            place = None;
        }
        let hash = OpenMessage::hash_of(sent.message_id);
        let settled = self.place_of_settled(hash);
        let paid = settled.filter(|&settled| self.settled[settled].is_paid);
        // The gate takes again for what a paying sender sends after the end of a message.
        if let (None, Some(paid)) = (place, paid)
            && !(is_paid_by_sender && sent.taken > 0)
        {
            return self.on_chunk_of_paid(paid, sent, credit, cx);
        }
        let part = self.next_part(hash, policy.cases.payer);
        let place = place.unwrap_or_else(|| self.add_message(sent.message_id, part, cx));
        let has_room = self.transactions < TRANSACTIONS_MAX;
        let mut settlement = self.change(place, &policy, |message| message.send(sent, cx.now, has_room, &policy));
        self.apply_early_answers(place, &mut settlement, &policy);
        self.correct_taken(place, credit, cx);
        if settlement.is_none() && matches!(cx.dialog.phase(), Phase::Settling | Phase::Closed { .. }) {
            settlement = Some(self.open[place].close(cause, cx.now, &policy));
        }
        if let Some(settlement) = settlement {
            self.settle(place, settlement, credit, cx);
        }
    }

    /// Applies answers to a message that were read before its SEND, until one settles it.
    fn apply_early_answers(&mut self, place: usize, settlement: &mut Option<Settlement>, policy: &Policy) {
        let mut early = std::mem::take(&mut self.early);
        early.retain(|early| {
            let is_meant = settlement.is_none() && self.open[place].is_meant(&early.answer);
            if is_meant {
                *settlement = self.change(place, policy, |message| message.answer(&early.answer, early.at, policy));
            }
            !is_meant
        });
        self.early = early;
    }

    /// If this is read before the first pass of its chunk, the response is not recognised and the deadline counts.
    fn on_passed_again(&mut self, message_id: &str, transaction: u64, octets: (u64, u64), cx: &mut Context<'_>) {
        let (policy, has_room) = (cx.common.policy, self.transactions < TRANSACTIONS_MAX);
        if let Some(place) = self.place_of(message_id) {
            self.change(place, &policy, |message| message.pass_again(transaction, octets, cx.now, has_room, &policy));
        }
    }

    /// Changes a message and keeps the index and the count of transactions up to date.
    fn change<T>(&mut self, place: usize, policy: &Policy, change: impl FnOnce(&mut OpenMessage) -> T) -> T {
        self.unindex(place, policy);
        let message = &mut self.open[place];
        let before = message.transactions().len() as u32;
        let result = change(message);
        let (number, after) = (message.number(), message.transactions().len() as u32);
        self.transactions = self.transactions.saturating_add(after).saturating_sub(before);
        self.touch(number);
        self.index(place, policy);
        result
    }

    fn add_message(&mut self, id: &str, part: u32, cx: &mut Context<'_>) -> usize {
        if self.open.len() >= OPEN_MESSAGES_MAX {
            cx.dialog.end(EndReason::TooManyOpen, cx.common);
        }
        if self.open.len() < 4 {
            self.open.reserve_exact(1);
        }
        let number = self.new_number();
        self.open.push(Box::new(OpenMessage::new(number, part, id, cx.now)));
        self.index_if_large(&cx.common.policy);
        self.index(self.open.len() - 1, &cx.common.policy);
        self.open.len() - 1
    }

    /// Corrects what the gate took for a message. If its size has no price, it costs the same whatever passes of it.
    /// Content costs at least as much as an empty message: around the time at which a message is forgotten, one chunk may
    /// pass the gate as paid and the next as new.
    fn correct_taken(&mut self, place: usize, credit: &mut Credit, cx: &mut Context<'_>) {
        let (message, policy) = (&self.open[place], cx.common.policy);
        let (taken, weight) = (message.taken().0, cx.common.prices.weight(message.class()));
        let least = weight.of_octets(0);
        if weight.kilobyte == 0 && policy.cases.payer == Payer::Sender && taken > 0 {
            // More than once: messages under the same Message-ID that were read in another order than they were sent.
        } else if weight.kilobyte == 0 && taken > least.0 {
            credit.return_to_grant(Quota(taken - least.0), cx);
            self.change(place, &policy, |message| message.set_taken(least));
        } else if taken == 0 && message.has_content() && self.is_forgotten(message.id_hash(), cx.now) {
            credit.take_from_grant(least, cx);
            self.change(place, &policy, |message| message.set_taken(least));
        }
    }

    /// Makes a message cost what its octets cost. The gate may have taken another amount if an earlier part was aborted:
    /// it continues from that part until it forgets the message.
    fn take_exactly(&mut self, place: usize, credit: &mut Credit, cx: &mut Context<'_>) {
        let (message, policy) = (&self.open[place], cx.common.policy);
        let (taken, due) = (message.taken(), cx.common.prices.quota(message.class(), message.octets()));
        if taken != due {
            credit.correct_grant(taken, due, cx);
            self.change(place, &policy, |message| message.set_taken(due));
        }
    }

    /// The gate has stopped a frame. After a stopped chunk nothing more of its message passes.
    fn on_stopped(&mut self, message_id: &str, why: Stop, credit: &mut Credit, cx: &mut Context<'_>) {
        cx.record(TraceEvent::new(TraceEventKind::Stopped).about(message_id).by(Rule::from_stop(why)));
        if !matches!(why, Stop::Beyond | Stop::LeaseOver | Stop::Message) {
            return;
        }
        let policy = cx.common.policy;
        if let Some(place) = self.place_of(message_id)
            && let Some(settlement) = self.change(place, &policy, |message| message.stop(cx.now, &policy))
        {
            self.settle(place, settlement, credit, cx);
        }
    }

    /// A SEND could not be relayed. If nothing else of the message was, it is forgotten, and charged like a new one when
    /// it is sent again.
    fn on_unsent(&mut self, message_id: &str, transaction: u64, credit: &mut Credit, cx: &mut Context<'_>) {
        cx.record(TraceEvent::new(TraceEventKind::Unsent).about(message_id));
        let (place, policy) = (self.place_of(message_id), cx.common.policy);
        let Some(place) = place else { return };
        match self.change(place, &policy, |message| message.unsend(transaction)) {
            Some(Quota(0)) => {}
            Some(returned) => credit.return_to_grant(returned, cx),
            None => {
                self.unindex(place, &policy);
                let message = self.open.remove(place);
                credit.return_to_grant(message.taken(), cx);
                forget_at_gate(message.id(), cx);
            }
        }
    }
}

/// Answers of the receiver and lost connections.
impl Messages {
    fn on_answer(&mut self, answer: Answer, credit: &mut Credit, cx: &mut Context<'_>) {
        let policy = cx.common.policy;
        let place = self.place_of_answered(&answer);
        if let Answer::Response { code, .. } = answer {
            let event = TraceEvent::new(TraceEventKind::Response).code(code.into());
            cx.record(place.map_or(event.clone(), |place| event.about(self.open[place].id())));
        }
        if let Some(place) = place {
            if let Some(settlement) = self.change(place, &policy, |message| message.answer(&answer, cx.now, &policy)) {
                self.settle(place, settlement, credit, cx);
            }
            return;
        }
        match answer {
            Answer::Report { message, code, .. } if self.place_of_settled(message).is_some() => {
                self.on_late_report(message, code, credit, cx);
            }
            _ if self.on_answer_to_released(&answer, credit, cx) => {}
            _ => self.keep_early(EarlyAnswer { at: cx.now, answer }),
        }
    }

    /// Keeps an answer whose SEND may still be read, because rings have no order between them.
    fn keep_early(&mut self, early: EarlyAnswer) {
        if self.early.len() >= EARLY_ANSWERS_MAX {
            self.early.remove(0);
        }
        self.early.reserve_exact(1);
        self.early.push(early);
    }

    /// Settles all open messages: their answers are lost with the connection. A repeated INVITE may bring another one.
    fn on_connection_lost(&mut self, connection: u64, credit: &mut Credit, cx: &mut Context<'_>) {
        if !cx.dialog.remove_connection(connection) {
            return;
        }
        let open = u32::try_from(self.open.len()).unwrap_or(u32::MAX);
        cx.record(TraceEvent::new(TraceEventKind::ConnectionLost).messages(open));
        self.close_all(CloseCause::ConnectionLost, credit, cx);
    }
}

/// Settlement.
impl Messages {
    /// Settles all open messages once every SEND that passed the gate before it closed has been read, after
    /// [`RING_SKEW_SECONDS`](super::RING_SKEW_SECONDS) at the latest.
    pub(super) fn settle_when_drained(&mut self, credit: &mut Credit, cx: &mut Context<'_>) {
        if cx.dialog.settle_when_drained(credit.taken(), cx.now) {
            self.close_all(cx.dialog.close_cause(), credit, cx);
        }
    }

    fn close_all(&mut self, cause: CloseCause, credit: &mut Credit, cx: &mut Context<'_>) {
        let (policy, mut place) = (cx.common.policy, 0);
        while let Some(message) = self.open.get(place) {
            let (settlement, number) = (message.close(cause, cx.now, &policy), message.number());
            self.settle(place, settlement, credit, cx);
            // A message that is settled later stays in its place.
            place += usize::from(self.open.get(place).is_some_and(|message| message.number() == number));
        }
    }

    /// Settles a message. If its size has a price, it is stopped first unless all of it has passed, and settled later. So is a
    /// message of a paying sender that the receiver refuses: a 200 may follow.
    fn settle(&mut self, place: usize, settlement: Settlement, credit: &mut Credit, cx: &mut Context<'_>) {
        let settlement = self.believed(settlement, cx);
        let (message, policy) = (&self.open[place], cx.common.policy);
        let message_id = Box::from(message.id());
        let is_decided = message.settled_since().is_some();
        let may_follow = cx.dialog.is_served() && message.has_content();
        let is_refused = policy.cases.payer == Payer::Sender && settlement.refusal().is_some();
        let stops = may_follow && cx.common.prices.tariff(message.class()).kilobyte > 0;
        let is_over = message.is_over();
        if !is_decided && (may_follow && is_refused || stops && !is_over) {
            let since = triggered_at(message, settlement, cx);
            if !is_over {
                let event = TraceEvent::new(TraceEventKind::StopRest).by(settlement.rule());
                cx.record(event.about(&message_id).octets(message.octets()));
                cx.push(Output::StopMessage { message_id });
            }
            self.change(place, &policy, |message| message.settle_later(settlement, since, cx.now));
            return;
        }
        if self.end_message(place, settlement, credit, cx) {
            forget_at_gate(&message_id, cx);
        } else if stops && !is_decided {
            cx.push(Output::StopMessage { message_id });
        }
    }

    /// Removes a message and queues its debit. Returns whether it is not charged, so that the gate has to forget it. A
    /// message without content (an empty SEND) leaves no trace.
    fn end_message(&mut self, place: usize, settlement: Settlement, credit: &mut Credit, cx: &mut Context<'_>) -> bool {
        let has_price_by_size = cx.common.prices.weight(self.open[place].class()).kilobyte > 0;
        let is_counted_by_gate = !has_price_by_size && cx.common.policy.cases.payer == Payer::Sender;
        if self.open[place].has_content() && !is_counted_by_gate {
            self.take_exactly(place, credit, cx);
        }
        self.unindex(place, &cx.common.policy);
        let message = self.open.remove(place);
        self.touch(message.number());
        self.transactions = self.transactions.saturating_sub(message.transactions().len() as u32);
        if !message.has_content() {
            return false;
        }
        let part = self.next_part(message.id_hash(), cx.common.policy.cases.payer).max(message.part());
        let since = message.settled_since().unwrap_or_else(|| triggered_at(&message, settlement, cx));
        let debit = self.debit_of(&message, part, settlement, since);
        if let Settlement::NotCharged(rule) = settlement {
            self.keep_forgotten(&debit.message_id, cx.now);
            credit.mark_not_charged(&debit, rule, cx.now, cx);
            self.keep_released(message, cx);
            return true;
        }
        self.remember_paid(&message, part, debit.is_refundable, &cx.common.policy);
        if debit.trigger == Trigger::Timeout {
            let event = TraceEvent::new(TraceEventKind::Timeout).by(debit.rule);
            cx.record(event.about(&debit.message_id).octets(debit.octets));
        }
        self.add_debit(debit, credit, cx);
        false
    }

    /// Creates the debit of a message. One because of a success may be refunded by a later REPORT.
    pub(super) fn debit_of(&mut self, message: &OpenMessage, part: u32, settlement: Settlement, since: Time) -> Debit {
        Debit {
            number: self.new_number(),
            message_id: message.id().into(),
            part,
            octets: message.octets(),
            class: message.class(),
            quota: message.taken(),
            trigger: settlement.trigger(),
            rule: settlement.rule(),
            is_refundable: settlement.trigger() == Trigger::Response,
            since,
        }
    }
}

/// Time of the event that triggered the settlement; the engine may process it later.
fn triggered_at(message: &OpenMessage, settlement: Settlement, cx: &Context<'_>) -> Time {
    let policy = &cx.common.policy;
    let happened = match settlement {
        Settlement::Debit(Trigger::Response | Trigger::Error(_) | Trigger::Prepay, _) | Settlement::NotCharged(_) => {
            cx.now
        }
        Settlement::Debit(Trigger::Timeout, _) => message.deadline(policy),
        Settlement::Debit(Trigger::Close, _) if cx.dialog.end_reason() == Some(EndReason::Idle) => {
            cx.dialog.idle_at(policy)
        }
        // BYE, the loss of the connection, or this SEND itself, read after the session had ended.
        Settlement::Debit(Trigger::Close, _) => cx.dialog.last_activity(),
    };
    happened.min(cx.now)
}

#[cfg(test)]
impl Messages {
    /// Octets on the heap.
    pub(super) fn heap_octets(&self) -> usize {
        self.open.capacity() * size_of::<Box<OpenMessage>>()
            + self.open.iter().map(|message| size_of::<OpenMessage>() + message.heap_octets()).sum::<usize>()
            + self.early.capacity() * size_of::<EarlyAnswer>()
    }
}
