//! Finds messages, also in a session with thousands of them: the cost of an event does not grow with their number.
//!
//! A session of the usual size has no index, and is looked through.

use super::Session;
use super::message::{Answer, Message};
use super::parts::Numbered;
use crate::charge::time::Time;
use std::collections::{BTreeSet, HashMap};

/// Messages, open and settled, from which on a session has an index.
const SMALL: usize = 64;

/// Numbers of messages.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Open ones, by [`Message::name_of`] their Message-ID.
    open: HashMap<u64, u32>,
    /// Open ones, by the name of a transaction.
    transactions: HashMap<u64, u32>,
    /// Open ones, with their deadlines.
    deadlines: BTreeSet<(Time, u32)>,
    /// Settled ones, by name.
    settled: HashMap<u64, u32>,
}

/// Place of a number in a list that is sorted by number.
fn place_of<T: Numbered>(list: &[T], number: u32) -> Option<usize> {
    list.binary_search_by_key(&number, Numbered::number).ok()
}

impl Session {
    /// Makes the index of a session that has become large, or was loaded.
    pub(super) fn index_if_large(&mut self) {
        if self.index.is_some() || self.messages.len() + self.settled.len() <= SMALL {
            return;
        }
        let mut index = Box::<Index>::default();
        index.settled.extend(self.settled.iter().map(|settled| (settled.name, settled.number)));
        self.index = Some(index);
        (0..self.messages.len()).for_each(|place| self.enter(place));
    }

    /// The index finds a message as it is now.
    pub(super) fn enter(&mut self, place: usize) {
        if let (Some(index), Some(message)) = (&mut self.index, self.messages.get(place)) {
            let number = message.number();
            index.open.insert(message.name(), number);
            index.transactions.extend(message.transactions().map(|name| (name, number)));
            index.deadlines.insert((message.deadline(&self.policy), number));
        }
    }

    /// The index does not find a message, which is about to change or to go.
    pub(super) fn leave(&mut self, place: usize) {
        if let (Some(index), Some(message)) = (&mut self.index, self.messages.get(place)) {
            index.open.remove(&message.name());
            for name in message.transactions() {
                index.transactions.remove(&name);
            }
            index.deadlines.remove(&(message.deadline(&self.policy), message.number()));
        }
    }

    pub(super) fn enter_settled(&mut self, name: u64, number: u32) {
        if let Some(index) = &mut self.index {
            index.settled.insert(name, number);
        }
    }

    pub(super) fn leave_settled(&mut self, name: u64) {
        if let Some(index) = &mut self.index {
            index.settled.remove(&name);
        }
    }

    /// Place of an open message.
    pub(super) fn position(&self, message_id: &str) -> Option<usize> {
        let Some(index) = &self.index else {
            return self.messages.iter().position(|message| message.id() == message_id);
        };
        let place = place_of(&self.messages, *index.open.get(&Message::name_of(message_id))?)?;
        (self.messages[place].id() == message_id).then_some(place)
    }

    /// Place of the open message that an answer is about.
    pub(super) fn position_of_answer(&self, answer: &Answer) -> Option<usize> {
        let Some(index) = &self.index else {
            return self.messages.iter().position(|message| message.is_meant(answer));
        };
        let number = match answer {
            Answer::Response { transaction, .. } => index.transactions.get(transaction)?,
            Answer::Report { message, .. } => index.open.get(message)?,
        };
        place_of(&self.messages, *number)
    }

    /// Place of a settled message.
    pub(super) fn position_of_settled(&self, name: u64) -> Option<usize> {
        match &self.index {
            None => self.settled.iter().position(|settled| settled.name == name),
            Some(index) => place_of(&self.settled, *index.settled.get(&name)?),
        }
    }

    /// The open message that ends first by time, and when.
    pub(super) fn first_deadline(&self) -> Option<(Time, u32)> {
        match &self.index {
            None => self.messages.iter().map(|message| (message.deadline(&self.policy), message.number())).min(),
            Some(index) => index.deadlines.first().copied(),
        }
    }

    /// Place of the open message that has ended by time.
    pub(super) fn position_of_due(&self, now: Time) -> Option<usize> {
        let (_, number) = self.first_deadline().filter(|(deadline, _)| *deadline <= now)?;
        place_of(&self.messages, number)
    }
}
