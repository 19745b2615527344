//! The messages of a session: what passes, and how each of them is settled.
//!
//! What the gate took for a message is what is debited for it: over all chunks, sum of [`Sent::taken`] = debited + given
//! back. A message that costs nothing in the end is forgotten, here and at the gate, so that the same Message-ID is
//! charged like a new one; one that was debited is remembered as paid for.

use super::message::{Answer, LATE, Message, Settlement};
use super::parts::Numbered;
use super::{
    CONNECTIONS, Debit, Decision, EARLY, Early, Ending, Outcome, Output, Phase, REFUSED, Rule, Session, TraceEvent,
    TraceEventKind,
};
use crate::charge::ch2::Trigger;
use crate::charge::event::{Flag, Sent};
use crate::charge::tariff::{Per, Quota};
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use std::cmp::Ordering;

/// Messages of a session that may wait for answers of the client at once; a further one ends the session.
pub(super) const MESSAGES: usize = 4096;

/// Settled messages of a session that are remembered. An older one that comes again is found by the unique (session,
/// Message-ID) of the enabler.
pub(super) const SETTLED: usize = 4096;

/// Messages that cost nothing and are known for [`LATE`] seconds more. Chunks of others that passed as paid for are
/// charged with their settlement.
const FORGOTTEN: usize = 64;

/// Transactions of a session, over all its messages, whose answers are recognised. Of any beyond, the deadline counts.
const TRANSACTIONS: u32 = 8192;

/// A message of which something was debited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settled {
    /// Number among all that the session stores in parts: that of its message.
    pub(super) number: u32,
    /// [`Message::name_of`] its Message-ID.
    pub(super) name: u64,
    /// Debits so far.
    parts: u32,
    /// Whether it is paid for. What was debited may have been given back.
    is_paid: bool,
}

/// A message that costs nothing, shortly after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Forgotten {
    name: u64,
    at: Time,
}

/// What passes.
impl Session {
    pub(super) fn on_sent(&mut self, sent: &Sent<'_>, at: Time) {
        let kind = if sent.flag == Flag::Aborted { TraceEventKind::Abort } else { TraceEventKind::Send };
        self.step(at, TraceEvent::new(kind).about(sent.message_id).octets(sent.octets));
        self.carries(sent.connection);
        self.keep_closed(at);
        // Without a grant the gate has let nothing pass.
        if self.decision != Some(Decision::Granted) {
            return;
        }
        // Messages go on: the account may have been topped up since the enabler refused.
        self.refused = self.refused.filter(|refused| at < refused.after_seconds(REFUSED));
        let index = self.position(sent.message_id);
        self.taken = self.taken.saturating_add(sent.taken);
        self.on_chunk(index, sent, at);
        self.ask_ahead(self.still_to_come(sent));
        self.settle_when_drained(at);
    }

    /// Where it is read before the first pass of its chunk, its response is not recognised, and the deadline counts.
    pub(super) fn on_passed_again(&mut self, message_id: &str, name: u64, (start, octets): (u64, u64), at: Time) {
        let (policy, has_room) = (self.policy, self.transactions < TRANSACTIONS);
        if let Some(index) = self.position(message_id) {
            self.change(index, |message| message.pass_again(name, start, octets, at, has_room, &policy));
        }
    }

    fn on_chunk(&mut self, mut index: Option<usize>, sent: &Sent<'_>, at: Time) {
        let (policy, ending) = (self.policy, self.ending());
        // What is sent after the `#` is a new message under the same Message-ID.
        if let Some(given_up) = index.filter(|&index| sent.octets > 0 && self.messages[index].is_given_up(at)) {
            let settlement = self.messages[given_up].close(ending, at, &policy);
            self.end_message(given_up, settlement, at);
            index = None;
        }
        let name = Message::name_of(sent.message_id);
        let settled = self.position_of_settled(name);
        let paid = settled.filter(|&settled| self.settled[settled].is_paid);
        if let (None, Some(paid)) = (index, paid) {
            return self.on_chunk_of_settled(paid, sent, at);
        }
        let part = settled.map_or(0, |settled| self.settled[settled].parts);
        let index = index.unwrap_or_else(|| self.add_message(sent.message_id, part, at));
        let has_room = self.transactions < TRANSACTIONS;
        let mut early = std::mem::take(&mut self.early);
        let mut settlement = self.change(index, |message| message.send(sent, at, has_room, &policy));
        early.retain(|early| {
            let meant = settlement.is_none() && self.messages[index].is_meant(&early.answer);
            if meant {
                settlement = self.change(index, |message| message.answer(&early.answer, early.at, &policy));
            }
            !meant
        });
        self.early = early;
        self.pay(index, at);
        if settlement.is_none() && matches!(self.phase, Phase::Settling | Phase::Closed { .. }) {
            settlement = Some(self.messages[index].close(ending, at, &policy));
        }
        if let Some(settlement) = settlement {
            self.settle(index, settlement, at);
        }
    }

    /// Does something with a message, and keeps count of its transactions.
    fn change<T>(&mut self, index: usize, change: impl FnOnce(&mut Message) -> T) -> T {
        self.leave(index);
        let message = &mut self.messages[index];
        let before = message.transactions().len() as u32;
        let result = change(message);
        let (number, after) = (message.number(), message.transactions().len() as u32);
        self.transactions = self.transactions.saturating_add(after).saturating_sub(before);
        self.touch(number);
        self.enter(index);
        result
    }

    fn add_message(&mut self, id: &str, part: u32, now: Time) -> usize {
        if self.messages.len() >= MESSAGES {
            self.end(Outcome::TooManyOpen);
        }
        if self.messages.len() < 4 {
            self.messages.reserve_exact(1);
        }
        let number = self.new_number();
        self.messages.push(Box::new(Message::new(number, part, id, now)));
        self.index_if_large();
        self.enter(self.messages.len() - 1);
        self.messages.len() - 1
    }

    /// A message costs one where messages are counted, and what passes costs one at least. At the gate a message may have
    /// passed as paid for, and its next chunk as a new one, around the moment when it was forgotten.
    fn pay(&mut self, index: usize, at: Time) {
        let message = &self.messages[index];
        let taken = message.taken().0;
        if self.tariff.per == Per::Message && taken > 1 {
            self.let_pass(Quota(taken - 1));
            self.change(index, |message| message.set_taken(Quota(1)));
        } else if taken == 0 && message.has_content() {
            let name = message.name();
            self.forgotten.retain(|forgotten| at < forgotten.at.after_seconds(LATE));
            if self.forgotten.iter().any(|forgotten| forgotten.name == name) {
                self.take_one(index);
            }
        }
    }

    /// A message costs what has passed of it. The gate may have taken another amount, where a part before it was given up: it
    /// counts on from that part until it is told to forget it.
    fn take_exactly(&mut self, index: usize) {
        let message = &self.messages[index];
        let (taken, due) = (message.taken(), self.tariff.quota(message.octets()));
        match taken.cmp(&due) {
            Ordering::Equal => return,
            Ordering::Greater => self.let_pass(Quota(taken.0 - due.0)),
            Ordering::Less => {
                self.granted = Quota(self.granted.0.saturating_sub(due.0 - taken.0));
                self.publish();
            }
        }
        self.change(index, |message| message.set_taken(due));
    }

    /// Takes from the grant what the gate did not take for a message.
    fn take_one(&mut self, index: usize) {
        self.granted = Quota(self.granted.0.saturating_sub(1));
        self.publish();
        self.change(index, |message| message.set_taken(Quota(1)));
    }

    /// A chunk of a message that is paid for. By kilobyte, what the gate took for it is debited as well.
    fn on_chunk_of_settled(&mut self, index: usize, sent: &Sent<'_>, at: Time) {
        let quota = Quota(sent.taken);
        if quota.0 == 0 {
            return;
        }
        if self.tariff.per == Per::Message {
            return self.let_pass(quota);
        }
        let Settled { number, parts, .. } = self.settled[index];
        self.settled[index].parts = parts.saturating_add(1);
        self.touch(number);
        let (message_id, octets) = (sent.message_id.into(), sent.octets);
        let number = self.new_number();
        let (trigger, rule) = (Trigger::Close, Rule::LateChunk);
        self.add_debit(Debit { number, message_id, part: parts, octets, quota, trigger, rule, since: at });
    }

    /// The gate has stopped a chunk: nothing more of its message passes.
    pub(super) fn stop_message(&mut self, message_id: &str, at: Time) {
        let policy = self.policy;
        if let Some(index) = self.position(message_id)
            && let Some(settlement) = self.change(index, |message| message.stop(at, &policy))
        {
            self.settle(index, settlement, at);
        }
    }

    /// A message of which nothing else was sent is forgotten: sent again, it is charged as if for the first time.
    pub(super) fn on_unsent(&mut self, message_id: &str, transaction: u64, at: Time) {
        self.step(at, TraceEvent::new(TraceEventKind::Unsent).about(message_id));
        let Some(index) = self.position(message_id) else { return };
        match self.change(index, |message| message.unsend(transaction)) {
            Some(Quota(0)) => {}
            Some(given_back) => self.let_pass(given_back),
            None => {
                self.leave(index);
                let message = self.messages.remove(index);
                self.let_pass(message.taken());
                self.forget_message(message.id());
            }
        }
    }
}

/// What the client says.
impl Session {
    pub(super) fn on_answer(&mut self, answer: Answer, at: Time) {
        let policy = self.policy;
        let meant = self.position_of_answer(&answer);
        if let Answer::Response { code, .. } = answer {
            let step = TraceEvent::new(TraceEventKind::Response).code(code.into());
            let step = meant.map_or(step.clone(), |index| step.about(self.messages[index].id()));
            self.ladder.add(at.micros_since(self.opened), step);
        }
        if let Some(index) = meant {
            if let Some(settlement) = self.change(index, |message| message.answer(&answer, at, &policy)) {
                self.settle(index, settlement, at);
            }
            return;
        }
        match answer {
            Answer::Report { message, code, .. } if self.position_of_settled(message).is_some() => {
                self.on_late_report(message, code, at);
            }
            _ => self.keep_early(Early { at, answer }),
        }
    }

    /// Rings have no order between them: the SEND of this answer may still come.
    fn keep_early(&mut self, early: Early) {
        if self.early.len() >= EARLY {
            self.early.remove(0);
        }
        self.early.reserve_exact(1);
        self.early.push(early);
    }

    pub(super) fn carries(&mut self, connection: u64) {
        if connection == 0 || self.connections.contains(&connection) {
            return;
        }
        if self.connections.len() >= CONNECTIONS {
            self.connections.remove(0);
        }
        self.connections.reserve_exact(1);
        self.connections.push(connection);
    }

    /// What is under way is lost with the connection; a repeated INVITE may bring another one.
    pub(super) fn on_connection_lost(&mut self, connection: u64, at: Time) {
        let Some(index) = self.connections.iter().position(|known| *known == connection) else {
            return;
        };
        self.connections.remove(index);
        let settles = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.step(at, TraceEvent::new(TraceEventKind::ConnectionLost).messages(settles));
        self.close_messages(Ending::ConnectionLost, at);
    }
}

/// How messages are settled.
impl Session {
    /// The end of the session, for messages that it settles.
    pub(super) fn ending(&self) -> Ending {
        Ending::Session(self.outcome.unwrap_or(Outcome::Ended))
    }

    pub(super) fn close_messages(&mut self, ending: Ending, now: Time) {
        let (policy, mut index) = (self.policy, 0);
        while let Some(message) = self.messages.get(index) {
            let (settlement, number) = (message.close(ending, now, &policy), message.number());
            self.settle(index, settlement, now);
            // One that is settled later stays in its place.
            index += usize::from(self.messages.get(index).is_some_and(|message| message.number() == number));
        }
    }

    pub(super) fn settle_due(&mut self, now: Time) {
        let policy = self.policy;
        while let Some(index) = self.position_of_due(now)
            && let Some(settlement) = self.messages[index].due(now, &policy)
        {
            self.settle(index, settlement, now);
        }
    }

    /// A message ends. By kilobyte, the rest of one that has not passed as a whole is stopped first.
    fn settle(&mut self, index: usize, settlement: Settlement, now: Time) {
        let message = &self.messages[index];
        let message_id = Box::from(message.id());
        let (has_content, is_decided) = (message.has_content(), message.settled_since().is_some());
        let stops = self.tariff.per == Per::Kilobyte && self.is_served() && has_content;
        if stops && !is_decided && !message.is_over() {
            let since = self.fired_at(message, settlement, now);
            let step = TraceEvent::new(TraceEventKind::StopRest)
                .by(settlement.rule())
                .about(&message_id)
                .octets(message.octets());
            self.step(now, step);
            self.change(index, |message| message.settle_later(settlement, since, now));
            self.outputs.push(Output::StopMessage { message_id });
            return;
        }
        if self.end_message(index, settlement, now) {
            self.forget_message(&message_id);
        } else if stops && !is_decided {
            self.outputs.push(Output::StopMessage { message_id });
        }
    }

    /// Settles a message; whether it costs nothing, and may be charged like a new one. One without content (an empty
    /// SEND) ends unseen.
    fn end_message(&mut self, index: usize, settlement: Settlement, now: Time) -> bool {
        if self.messages[index].has_content() {
            self.take_exactly(index);
        }
        self.leave(index);
        let message = self.messages.remove(index);
        self.touch(message.number());
        self.transactions = self.transactions.saturating_sub(message.transactions().len() as u32);
        if !message.has_content() {
            return false;
        }
        let (trigger, rule) = match settlement {
            Settlement::Debit(trigger, rule) => (trigger, rule),
            // Nothing of it is debited.
            Settlement::Free(rule) => (Trigger::Close, rule),
        };
        let (number, part) = (self.new_number(), message.part());
        let (message_id, octets, quota) = (Box::from(message.id()), message.octets(), message.taken());
        let since = message.settled_since().unwrap_or_else(|| self.fired_at(&message, settlement, now));
        let debit = Debit { number, message_id, part, octets, quota, trigger, rule, since };
        let is_free = matches!(settlement, Settlement::Free(_));
        if is_free {
            self.keep_forgotten(&debit.message_id, now);
            self.free(&debit, rule, now);
        } else {
            self.remember(&message);
            if trigger == Trigger::Timeout {
                self.step(
                    now,
                    TraceEvent::new(TraceEventKind::Timeout).by(rule).about(&debit.message_id).octets(octets),
                );
            }
            self.add_debit(debit);
        }
        is_free
    }

    /// The message is paid for.
    fn remember(&mut self, message: &Message) {
        let (number, name, parts) = (message.number(), message.name(), message.part() + 1);
        if let Some(known) = self.position_of_settled(name) {
            self.settled[known] = Settled { parts, is_paid: true, ..self.settled[known] };
            return self.touch(self.settled[known].number);
        }
        if self.settled.len() >= SETTLED {
            let oldest = self.settled.remove(0);
            self.leave_settled(oldest.name);
            self.touch(oldest.number);
        }
        let place = self.settled.partition_point(|settled| settled.number() < number);
        self.settled.insert(place, Settled { number, name, parts, is_paid: true });
        self.index_if_large();
        self.enter_settled(name, number);
    }

    /// A debit is due, unless the service is free.
    fn add_debit(&mut self, debit: Debit) {
        if self.free {
            return self.free(&debit, Rule::FreeOfCharge, debit.since);
        }
        self.debits.push(debit);
    }

    /// What was debited for a message is given back, or not debited after all: the same Message-ID is charged anew.
    pub(super) fn charge_anew(&mut self, message_id: &str) {
        if let Some(known) = self.position_of_settled(Message::name_of(message_id)) {
            self.settled[known].is_paid = false;
            self.touch(self.settled[known].number);
        }
        self.forget_message(message_id);
    }

    /// Chunks of a message that costs nothing may have passed as paid for until the gate forgets it.
    fn keep_forgotten(&mut self, message_id: &str, at: Time) {
        if self.forgotten.len() >= FORGOTTEN {
            self.forgotten.remove(0);
        }
        self.forgotten.push(Forgotten { name: Message::name_of(message_id), at });
    }

    fn forget_message(&mut self, message_id: &str) {
        if self.is_served() {
            self.outputs.push(Output::ForgetMessage { message_id: message_id.into() });
        }
    }

    /// When it happened what a message is settled for; it may be read later.
    fn fired_at(&self, message: &Message, settlement: Settlement, now: Time) -> Time {
        let happened = match settlement {
            Settlement::Debit(Trigger::Response | Trigger::Error(_), _) | Settlement::Free(_) => now,
            Settlement::Debit(Trigger::Timeout, _) => message.deadline(&self.policy),
            Settlement::Debit(Trigger::Close, _) if self.outcome == Some(Outcome::Idle) => self.idle_at(),
            // BYE, the loss of the connection, or this SEND itself, read when the session was over.
            Settlement::Debit(Trigger::Close, _) => self.moved,
        };
        happened.min(now)
    }

    /// What a debit was to be for costs nothing, and what the gate took for it serves another message.
    pub(super) fn free(&mut self, debit: &Debit, rule: Rule, now: Time) {
        let Debit { octets, quota, .. } = *debit;
        let units = self.price_of(quota);
        self.let_pass(quota);
        self.counts.not_debited = self.counts.not_debited.saturating_add(1);
        let step = TraceEvent::new(TraceEventKind::NotDebited).by(rule).about(&debit.message_id).octets(octets);
        self.step(now, step.worth(quota, units));
        self.outputs.push(Output::NotDebited { message_id: debit.message_id.clone(), octets, units, rule });
    }
}
