//! Settled messages that a session remembers: paid ones, whose later chunks cost only what they add to the price, and ones
//! that were not charged, whose Message-ID is charged like a new one.

use super::RING_SKEW_SECONDS;
use super::common::Context;
use super::credit::Credit;
use super::messages::{Debit, Messages};
use super::open_message::OpenMessage;
use super::output::Output;
use super::parts::Numbered;
use super::rule::Rule;
use crate::charge::ch2::Trigger;
use crate::charge::content::ContentClass;
use crate::charge::event::Sent;
use crate::charge::policy::{Payer, Policy};
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// Settled messages that a session remembers. An older one that is sent again is detected by the enabler's unique
/// (session, Message-ID).
pub(super) const SETTLED_MESSAGES_MAX: usize = 4096;

/// Messages that were not charged, kept for [`RING_SKEW_SECONDS`]: chunks that passed as paid are charged with the message
/// that follows under the same Message-ID.
const FORGOTTEN_MESSAGES_MAX: usize = 64;

/// A message of which something was debited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SettledMessage {
    /// Number among all items that the session stores in parts: that of its message.
    pub(super) number: u32,
    /// [`OpenMessage::hash_of`] its Message-ID.
    pub(super) hash: u64,
    /// Debits so far.
    parts: u32,
    /// Octets that have passed of it.
    octets: u64,
    /// Octets that are in no debit: they fit into the last kilobyte that is paid for.
    octets_not_in_debits: u64,
    class: ContentClass,
    /// Whether it is paid; false once it is to be refunded.
    pub(super) is_paid: bool,
    /// [`Debit::is_refundable`] of its debits.
    is_refundable: bool,
}

/// A message that was not charged, shortly after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ForgottenMessage {
    hash: u64,
    at: Time,
}

/// Paid messages.
impl Messages {
    /// Handles a chunk of a paid message. It is debited with what it adds to the price of the message. The gate may have taken
    /// another amount for it, because chunks are not always read in the order in which they passed.
    pub(super) fn on_chunk_of_paid(
        &mut self,
        place: usize,
        sent: &Sent<'_>,
        credit: &mut Credit,
        cx: &mut Context<'_>,
    ) {
        let message = &mut self.settled[place];
        let weight = cx.common.prices.weight(message.class);
        let before = weight.of_octets(message.octets);
        message.octets = message.octets.saturating_add(sent.octets);
        message.octets_not_in_debits = message.octets_not_in_debits.saturating_add(sent.octets);
        let quota = Quota(weight.of_octets(message.octets).0 - before.0);
        let SettledMessage { number, parts: part, octets_not_in_debits: octets, class, is_refundable, .. } = *message;
        self.touch(number);
        credit.correct_grant(Quota(sent.taken), quota, cx);
        if quota.0 == 0 {
            return;
        }
        self.settled[place] =
            SettledMessage { parts: part.saturating_add(1), octets_not_in_debits: 0, ..self.settled[place] };
        let debit = Debit {
            number: self.new_number(),
            message_id: sent.message_id.into(),
            part,
            octets,
            class,
            quota,
            trigger: Trigger::Close,
            rule: Rule::LateChunk,
            is_refundable,
            since: cx.now,
        };
        self.add_debit(debit, credit, cx);
    }

    /// Returns the number of the next debit of a message. A paying sender may use a Message-ID again that is not remembered
    /// any more; the number of an item is above those of all earlier debits.
    pub(super) fn next_part(&self, hash: u64, payer: Payer) -> u32 {
        match self.place_of_settled(hash) {
            Some(settled) => self.settled[settled].parts,
            None if payer == Payer::Sender && self.settled.len() >= SETTLED_MESSAGES_MAX => self.next_number,
            None => 0,
        }
    }

    /// Remembers a message whose debit has this number among its debits.
    pub(super) fn remember_paid(&mut self, message: &OpenMessage, part: u32, is_refundable: bool, policy: &Policy) {
        let (number, hash) = (message.number(), message.id_hash());
        let (parts, octets) = (part.saturating_add(1), message.octets());
        let (octets_not_in_debits, class, is_paid) = (0, message.class(), true);
        let settled =
            SettledMessage { number, hash, parts, octets, octets_not_in_debits, class, is_paid, is_refundable };
        if let Some(known) = self.place_of_settled(hash) {
            self.settled[known] = SettledMessage { number: self.settled[known].number, ..settled };
            return self.touch(self.settled[known].number);
        }
        if self.settled.len() >= SETTLED_MESSAGES_MAX {
            let oldest = self.settled.remove(0);
            self.unindex_settled(oldest.hash);
            self.touch(oldest.number);
        }
        let place = self.settled.partition_point(|settled| settled.number() < number);
        self.settled.insert(place, settled);
        self.index_if_large(policy);
        self.index_settled(hash, number);
    }

    /// Charges the same Message-ID like a new one, since its debit is to be refunded or was cancelled.
    pub(super) fn charge_anew(&mut self, message_id: &str, cx: &mut Context<'_>) {
        if let Some(known) = self.place_of_settled(OpenMessage::hash_of(message_id)) {
            self.settled[known].is_paid = false;
            self.touch(self.settled[known].number);
        }
        forget_at_gate(message_id, cx);
    }
}

/// Messages that were not charged.
impl Messages {
    /// Remembers a message that was not charged: its chunks may have passed as paid until the gate forgets it.
    pub(super) fn keep_forgotten(&mut self, message_id: &str, at: Time) {
        if self.forgotten.len() >= FORGOTTEN_MESSAGES_MAX {
            self.forgotten.remove(0);
        }
        self.forgotten.push(ForgottenMessage { hash: OpenMessage::hash_of(message_id), at });
    }

    /// Whether a message with this hash was not charged within the last [`RING_SKEW_SECONDS`]. Drops older ones.
    pub(super) fn is_forgotten(&mut self, hash: u64, now: Time) -> bool {
        self.forgotten.retain(|forgotten| now < forgotten.at.after_seconds(RING_SKEW_SECONDS));
        self.forgotten.iter().any(|forgotten| forgotten.hash == hash)
    }
}

/// Lets the gate forget a message, so that it takes for the Message-ID again.
pub(super) fn forget_at_gate(message_id: &str, cx: &mut Context<'_>) {
    if cx.dialog.is_served() {
        cx.push(Output::ForgetMessage { message_id: message_id.into() });
    }
}
