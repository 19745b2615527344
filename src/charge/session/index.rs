//! Looks up messages. Long lists have an index, so that the cost of an event does not grow with the number of messages;
//! the short lists of a usual session are searched.

use super::messages::Messages;
use super::open_message::{Answer, OpenMessage};
use super::parts::Numbered;
use crate::charge::policy::Policy;
use crate::charge::time::Time;
use std::collections::{BTreeSet, HashMap};

/// Messages, open and settled, up to which a session has no index.
const UNINDEXED_MESSAGES_MAX: usize = 64;

/// Numbers of messages by what they are looked up by.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    /// Open messages by [`OpenMessage::id_hash`].
    open: HashMap<u64, u32>,
    /// Open messages by the hash of a transaction id.
    transactions: HashMap<u64, u32>,
    /// Open messages by deadline.
    deadlines: BTreeSet<(Time, u32)>,
    /// Settled messages by the hash of their Message-ID.
    settled: HashMap<u64, u32>,
}

/// Place of a number in a list that is sorted by number.
fn place_of<T: Numbered>(list: &[T], number: u32) -> Option<usize> {
    list.binary_search_by_key(&number, Numbered::number).ok()
}

/// Upkeep of the index. A message is removed from it before it changes and added again afterwards.
impl Messages {
    /// Builds the index once the lists have become long, or after loading.
    pub(super) fn index_if_large(&mut self, policy: &Policy) {
        if self.index.is_some() || self.open.len() + self.settled.len() <= UNINDEXED_MESSAGES_MAX {
            return;
        }
        let mut index = Box::<Index>::default();
        index.settled.extend(self.settled.iter().map(|settled| (settled.hash, settled.number)));
        self.index = Some(index);
        (0..self.open.len()).for_each(|place| self.index(place, policy));
    }

    /// Adds the open message at this place.
    pub(super) fn index(&mut self, place: usize, policy: &Policy) {
        if let (Some(index), Some(message)) = (&mut self.index, self.open.get(place)) {
            let number = message.number();
            index.open.insert(message.id_hash(), number);
            index.transactions.extend(message.transactions().map(|hash| (hash, number)));
            index.deadlines.insert((message.deadline(policy), number));
        }
    }

    /// Removes the open message at this place.
    pub(super) fn unindex(&mut self, place: usize, policy: &Policy) {
        if let (Some(index), Some(message)) = (&mut self.index, self.open.get(place)) {
            index.open.remove(&message.id_hash());
            for hash in message.transactions() {
                index.transactions.remove(&hash);
            }
            index.deadlines.remove(&(message.deadline(policy), message.number()));
        }
    }

    pub(super) fn index_settled(&mut self, hash: u64, number: u32) {
        if let Some(index) = &mut self.index {
            index.settled.insert(hash, number);
        }
    }

    pub(super) fn unindex_settled(&mut self, hash: u64) {
        if let Some(index) = &mut self.index {
            index.settled.remove(&hash);
        }
    }
}

/// Look-ups. They return places in the lists `open` and `settled`.
impl Messages {
    /// The open message with this Message-ID.
    pub(super) fn place_of(&self, message_id: &str) -> Option<usize> {
        let Some(index) = &self.index else {
            return self.open.iter().position(|message| message.id() == message_id);
        };
        let place = place_of(&self.open, *index.open.get(&OpenMessage::hash_of(message_id))?)?;
        (self.open[place].id() == message_id).then_some(place)
    }

    /// The open message that an answer is about.
    pub(super) fn place_of_answered(&self, answer: &Answer) -> Option<usize> {
        let Some(index) = &self.index else {
            return self.open.iter().position(|message| message.is_meant(answer));
        };
        let number = match answer {
            Answer::Response { transaction, .. } => index.transactions.get(transaction)?,
            Answer::Report { message, .. } => index.open.get(message)?,
        };
        place_of(&self.open, *number)
    }

    /// The settled message with this hash.
    pub(super) fn place_of_settled(&self, hash: u64) -> Option<usize> {
        match &self.index {
            None => self.settled.iter().position(|settled| settled.hash == hash),
            Some(index) => place_of(&self.settled, *index.settled.get(&hash)?),
        }
    }

    /// The open message whose deadline has passed first.
    pub(super) fn place_of_due(&self, now: Time, policy: &Policy) -> Option<usize> {
        let (_, number) = self.first_deadline(policy).filter(|(deadline, _)| *deadline <= now)?;
        place_of(&self.open, number)
    }

    /// The earliest deadline of an open message, and the number of that message.
    pub(super) fn first_deadline(&self, policy: &Policy) -> Option<(Time, u32)> {
        match &self.index {
            None => self.open.iter().map(|message| (message.deadline(policy), message.number())).min(),
            Some(index) => index.deadlines.first().copied(),
        }
    }
}
