//! The stored form of a session: a head, and parts of the lists that may hold thousands of items. Only parts that have
//! changed are written, so that the cost of an event does not grow with the size of the session.
//!
//! Open messages, settled messages, debits and refunds share one numbering. The first [`PART_ITEMS`] numbers are stored in
//! the head, which is all that most sessions have; each further part holds [`PART_ITEMS`] numbers.

use super::Session;
use super::messages::{Debit, Messages};
use super::open_message::OpenMessage;
use super::settled::SettledMessage;
use thin_vec::ThinVec;

/// Numbers in a part.
const PART_ITEMS: u32 = 32;

/// Reason why encoding cannot fail. A session that is not stored would lose its debits, so a failure must not go unnoticed.
const ENCODES: &str = "a session encodes into a vector: its types serialize without errors";

/// An item of the common numbering.
pub(super) trait Numbered {
    fn number(&self) -> u32;
}

impl Numbered for Box<OpenMessage> {
    fn number(&self) -> u32 {
        OpenMessage::number(self)
    }
}

impl Numbered for SettledMessage {
    fn number(&self) -> u32 {
        self.number
    }
}

impl Numbered for Debit {
    fn number(&self) -> u32 {
        self.number
    }
}

/// The lists of a part: open and settled messages; queued, refundable and refunded debits.
type Lists<M, S, D> = (M, S, D, D, D);

/// The items of a list, sorted by number, that belong to a part.
fn in_part<T: Numbered>(list: &[T], part: u32) -> &[T] {
    let from = list.partition_point(|item| item.number() / PART_ITEMS < part);
    let to = list.partition_point(|item| item.number() / PART_ITEMS <= part);
    &list[from..to]
}

impl Messages {
    /// Returns a number for a new item and marks its part as changed.
    pub(super) fn new_number(&mut self) -> u32 {
        let number = self.next_number;
        self.next_number = number.saturating_add(1);
        self.touch(number);
        number
    }

    /// Marks the part of an item as changed: the item is new, modified or removed.
    pub(super) fn touch(&mut self, number: u32) {
        let part = number / PART_ITEMS;
        if part > 0 && !self.changed_parts.contains(&part) {
            self.changed_parts.push(part);
        }
    }

    /// Marks the parts of all open messages, debits and refunds as changed.
    pub(super) fn touch_all(&mut self) {
        let debits = self.debits.iter().chain(&self.refundable).chain(&self.refunds).map(Numbered::number);
        let numbers = debits.chain(self.open.iter().map(Numbered::number));
        let mut parts: Vec<u32> = numbers.map(|number| number / PART_ITEMS).filter(|part| *part > 0).collect();
        parts.extend(&self.changed_parts);
        parts.sort_unstable();
        parts.dedup();
        self.changed_parts = parts.into_iter().collect();
    }

    /// Number of the first item of all lists.
    fn first_number(&self) -> Option<u32> {
        let debits = [&self.debits, &self.refundable, &self.refunds];
        let first = debits.into_iter().filter_map(|list| list.first()).map(Numbered::number);
        let open = self.open.first().map(|message| message.number());
        first.chain(open).chain(self.settled.first().map(Numbered::number)).min()
    }

    fn lists(&self, part: u32) -> Lists<&[Box<OpenMessage>], &[SettledMessage], &[Debit]> {
        let [debits, refundable, refunds] =
            [&self.debits, &self.refundable, &self.refunds].map(|list| in_part(list, part));
        (in_part(&self.open, part), in_part(&self.settled, part), debits, refundable, refunds)
    }

    /// The stored form of a part; empty if it holds nothing.
    fn stored_part(&self, part: u32) -> Vec<u8> {
        let lists = self.lists(part);
        let has_debits = [lists.2, lists.3, lists.4].iter().any(|debits| !debits.is_empty());
        if lists.0.is_empty() && lists.1.is_empty() && !has_debits {
            return Vec::new();
        }
        postcard::to_stdvec(&lists).expect(ENCODES)
    }
}

impl Session {
    /// Returns the stored form of the head.
    pub fn head(&self) -> Vec<u8> {
        let head = postcard::to_stdvec(self).expect(ENCODES);
        postcard::to_extend(&self.messages.lists(0), head).expect(ENCODES)
    }

    /// Returns number and stored form of the parts that have changed since the last call; an empty form means that the
    /// part is to be deleted.
    pub fn take_changed_parts(&mut self) -> Vec<(u32, Vec<u8>)> {
        let changed = std::mem::take(&mut self.messages.changed_parts);
        changed.into_iter().map(|part| (part, self.messages.stored_part(part))).collect()
    }

    /// Returns number and stored form of all parts. `with_empty`: also of those that hold nothing any more.
    pub fn all_parts(&self, with_empty: bool) -> Vec<(u32, Vec<u8>)> {
        let messages = &self.messages;
        let last = messages.next_number / PART_ITEMS;
        let first = if with_empty { 1 } else { messages.first_number().map_or(last + 1, |number| number / PART_ITEMS) };
        let parts = (first.max(1)..=last).map(|part| (part, messages.stored_part(part)));
        parts.filter(|(_, form)| with_empty || !form.is_empty()).collect()
    }

    /// Restores a session from its head and its parts, in the order of their numbers. `None`: another version wrote it.
    pub fn load<'a>(head: &'a [u8], parts: impl IntoIterator<Item = &'a [u8]>) -> Option<Session> {
        let (mut session, first) = postcard::take_from_bytes::<Session>(head).ok()?;
        let messages = &mut session.messages;
        for part in std::iter::once(first).chain(parts) {
            let lists =
                postcard::from_bytes::<Lists<ThinVec<Box<OpenMessage>>, ThinVec<SettledMessage>, ThinVec<Debit>>>(part);
            let (open, settled, debits, refundable, refunds) = lists.ok()?;
            messages.open.extend(open);
            messages.settled.extend(settled);
            messages.debits.extend(debits);
            messages.refundable.extend(refundable);
            messages.refunds.extend(refunds);
        }
        messages.index_if_large(&session.common.policy);
        Some(session)
    }
}
