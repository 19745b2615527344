//! How a session is stored: a head, and parts of what it may have thousands of. Only what has changed is written, so
//! that the cost of an event does not grow with the size of the session.
//!
//! Messages, settled messages, debits and refunds are numbered one by one. The first [`PART`] of them are in the head,
//! which is all that most sessions have; each further part has [`PART`] numbers.

use super::messages::Settled;
use super::{Debit, Message, Session};
use thin_vec::ThinVec;

/// Numbers of a part.
const PART: u32 = 32;

/// What is numbered.
pub(super) trait Numbered {
    fn number(&self) -> u32;
}

impl Numbered for Box<Message> {
    fn number(&self) -> u32 {
        Message::number(self)
    }
}

impl Numbered for Settled {
    fn number(&self) -> u32 {
        self.number
    }
}

impl Numbered for Debit {
    fn number(&self) -> u32 {
        self.number
    }
}

/// The lists of a part: messages, settled messages; debits, those that may be given back, and those to be given back.
type Lists<M, S, D> = (M, S, D, D, D);

/// What of a list, sorted by number, is in a part.
fn in_part<T: Numbered>(list: &[T], part: u32) -> &[T] {
    let from = list.partition_point(|item| item.number() / PART < part);
    let to = list.partition_point(|item| item.number() / PART <= part);
    &list[from..to]
}

impl Session {
    /// A number for a new item of a list.
    pub(super) fn new_number(&mut self) -> u32 {
        let number = self.next_item;
        self.next_item = number.saturating_add(1);
        self.touch(number);
        number
    }

    /// The item of this number is new, has changed, or is gone.
    pub(super) fn touch(&mut self, number: u32) {
        let part = number / PART;
        if part > 0 && !self.changed.contains(&part) {
            self.changed.push(part);
        }
    }

    /// Every item may have changed.
    pub(super) fn touch_all(&mut self) {
        let debits = self.debits.iter().chain(&self.refundable).chain(&self.refunds).map(Numbered::number);
        let messages = self.messages.iter().map(Numbered::number);
        let mut parts: Vec<u32> = debits.chain(messages).map(|number| number / PART).filter(|part| *part > 0).collect();
        parts.extend(&self.changed);
        parts.sort_unstable();
        parts.dedup();
        self.changed = parts.into_iter().collect();
    }

    /// The head as it is stored.
    pub fn head(&self) -> Vec<u8> {
        // Writing into a vector cannot fail.
        let head = postcard::to_stdvec(self).unwrap_or_default();
        postcard::to_extend(&self.lists(0), head).unwrap_or_default()
    }

    /// The parts that have changed since the last call, as they are stored; empty: nothing is left of it.
    pub fn take_changed_parts(&mut self) -> Vec<(u32, Vec<u8>)> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|part| (part, self.stored_part(part))).collect()
    }

    fn stored_part(&self, part: u32) -> Vec<u8> {
        let lists = self.lists(part);
        let is_empty = lists.0.is_empty()
            && lists.1.is_empty()
            && [lists.2, lists.3, lists.4].iter().all(|debits| debits.is_empty());
        if is_empty { Vec::new() } else { postcard::to_stdvec(&lists).unwrap_or_default() }
    }

    fn lists(&self, part: u32) -> Lists<&[Box<Message>], &[Settled], &[Debit]> {
        let [debits, refundable, refunds] =
            [&self.debits, &self.refundable, &self.refunds].map(|list| in_part(list, part));
        (in_part(&self.messages, part), in_part(&self.settled, part), debits, refundable, refunds)
    }

    /// The session of a stored head and its parts, in the order of their numbers. `None`: another version wrote it.
    pub fn load<'a>(head: &'a [u8], parts: impl IntoIterator<Item = &'a [u8]>) -> Option<Session> {
        let (mut session, first) = postcard::take_from_bytes::<Session>(head).ok()?;
        for part in std::iter::once(first).chain(parts) {
            let lists = postcard::from_bytes::<Lists<ThinVec<Box<Message>>, ThinVec<Settled>, ThinVec<Debit>>>(part);
            let (messages, settled, debits, refundable, refunds) = lists.ok()?;
            session.messages.extend(messages);
            session.settled.extend(settled);
            session.debits.extend(debits);
            session.refundable.extend(refundable);
            session.refunds.extend(refunds);
        }
        session.index_if_large();
        Some(session)
    }
}
