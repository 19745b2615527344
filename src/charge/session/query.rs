//! Queries about a session.

use super::Session;
use super::common::Counts;
use super::dialog::Phase;
use super::messages::Debit;
use super::open_message::OpenMessage;
use super::output::{Decision, EndReason};
use super::request::{PendingRequest, Purpose};
use super::rule::Rule;
use super::trace::TraceEvent;
use crate::charge::ch2::{Request, SessionKey};
use crate::charge::event::{Direction, Suspended};
use crate::charge::service::Service;
use crate::charge::tariff::{PriceList, Quota, Units};
use crate::charge::time::Time;
use thin_vec::ThinVec;

/// Something that waits for an answer of the client or the enabler.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsettledItem<'a> {
    /// What waits.
    pub kind: UnsettledKind,
    /// `outstanding`, `queued`, `asked`, `again` (to be sent again after a failure) or `held-back`.
    pub state: &'static str,
    /// Message-ID of its message.
    pub message_id: Option<&'a str>,
    /// Octets of content of the message.
    pub octets: u64,
    /// Its price, in units of the account.
    pub units: Units,
    /// The rule that made it due.
    pub rule: Option<Rule>,
    /// When it became due.
    pub since: Time,
}

/// What waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsettledKind {
    /// A message, for the client's answer.
    Answer,
    /// A reservation.
    Reserve,
    /// A debit.
    Debit,
    /// A refund.
    Refund,
    /// A release.
    Release,
}

impl UnsettledKind {
    /// Returns the name used in `audit`.
    pub fn as_str(self) -> &'static str {
        match self {
            UnsettledKind::Answer => "answer",
            UnsettledKind::Reserve => "reserve",
            UnsettledKind::Debit => "debit",
            UnsettledKind::Refund => "refund",
            UnsettledKind::Release => "release",
        }
    }
}

/// The INVITE.
impl Session {
    /// Returns the session's key.
    pub fn key(&self) -> SessionKey {
        self.common.key
    }

    /// Returns the Call-ID of the INVITE.
    pub fn call_id(&self) -> &str {
        self.common.call_id()
    }

    /// Returns the charged party; empty if none was found.
    pub fn account(&self) -> &str {
        self.common.account()
    }

    /// Returns the other party; empty if unknown.
    pub fn other(&self) -> &str {
        self.common.other()
    }

    /// Returns the icid-value of P-Charging-Vector; empty if absent.
    pub fn icid(&self) -> &str {
        self.common.icid()
    }

    /// Returns which side of the INVITE has the stored messages.
    pub fn direction(&self) -> Direction {
        self.common.direction
    }

    /// Returns the service that the account is charged for.
    pub fn service(&self) -> Service {
        self.common.service
    }

    /// Returns the number of recipients of each message; 0: unknown, counts as one.
    pub fn recipients(&self) -> u32 {
        self.common.recipients
    }

    /// Whether the INVITE has opened another session, for the other party.
    pub fn is_paired(&self) -> bool {
        self.common.is_paired
    }

    /// Whether its content may pass the gate.
    pub fn is_served(&self) -> bool {
        self.dialog.is_served()
    }

    /// Returns the prices pinned at the INVITE.
    pub fn prices(&self) -> &PriceList {
        &self.common.prices
    }

    /// Returns the transaction that the host suspended.
    pub fn suspended(&self) -> Suspended {
        self.common.suspended
    }

    /// Returns the hash of the inviting side's tag.
    pub fn inviting_tag(&self) -> u64 {
        self.common.inviting_tag
    }

    /// Returns when the session was opened.
    pub fn opened(&self) -> Time {
        self.common.opened
    }
}

/// State.
impl Session {
    /// Returns the verdict once it has been given.
    pub fn decision(&self) -> Option<Decision> {
        self.dialog.decision()
    }

    /// Returns why the session has ended, or is ending.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.dialog.end_reason()
    }

    /// Returns whether a 2xx has been sent to the inviting side.
    pub fn is_answered(&self) -> bool {
        self.dialog.is_answered()
    }

    /// Returns the name of the phase for RPC.
    pub fn phase(&self) -> &'static str {
        match self.dialog.phase() {
            Phase::Reserving => "reserving",
            Phase::Open => "open",
            Phase::Cancelled { .. } => "cancelled",
            Phase::Closing | Phase::Draining { .. } => "closing",
            Phase::Settling => "settling",
            Phase::Closed { .. } | Phase::Gone => "closed",
        }
    }

    /// Returns whether the session is not settled yet.
    pub fn is_open(&self) -> bool {
        self.dialog.is_open()
    }

    /// Returns whether the session has ended but a debit or release is not acknowledged.
    pub fn is_unsettled(&self) -> bool {
        match self.dialog.phase() {
            Phase::Reserving | Phase::Open | Phase::Cancelled { .. } | Phase::Gone => false,
            Phase::Closing | Phase::Draining { .. } | Phase::Settling => true,
            Phase::Closed { .. } => !self.is_quiet(),
        }
    }

    /// Returns the time of the last activity of either party.
    pub fn last_activity(&self) -> Time {
        self.dialog.last_activity()
    }

    /// Returns the connections that have carried frames of the session.
    pub fn connections(&self) -> &[u64] {
        self.dialog.connections()
    }

    /// Returns the total granted so far, in quota.
    pub fn granted(&self) -> Quota {
        self.credit.granted()
    }

    /// Returns how much of the grant the gate has taken, as far as SENDs have been read.
    pub fn taken(&self) -> u32 {
        self.credit.taken()
    }

    /// Returns what is reserved and not yet debited, in units of the account.
    pub fn reserved(&self) -> Units {
        self.common.price_of(self.credit.reservations.total_outstanding())
    }

    /// Returns what was granted while the enabler did not answer; 0 once the session is settled.
    pub fn uncovered(&self) -> Quota {
        if self.is_open() { self.credit.uncovered() } else { Quota(0) }
    }

    /// Returns whether the enabler holds a reservation of the session that this request opened.
    pub fn has_reservation(&self, opened_by: u32) -> bool {
        self.credit.reservations.contains(opened_by)
    }

    /// Returns whether a request of this reservation is pending and will be answered: the answer says what is reserved.
    pub fn is_updating(&self, opened_by: u32) -> bool {
        self.credit.is_updating(opened_by)
    }

    /// Returns whether a request is to be sent again because the enabler failed; nothing can be reserved before it.
    pub fn is_failing(&self) -> bool {
        self.credit.is_failing()
    }

    /// Returns whether the renewal of a reservation is due and was not postponed.
    pub fn is_renewal_due(&self, now: Time) -> bool {
        self.dialog.phase() == Phase::Open && self.credit.is_renewal_due(now)
    }

    /// Returns the totals of the session's messages.
    pub fn counts(&self) -> Counts {
        self.common.counts
    }

    /// Takes the trace events since the last call, oldest first, with the number of the first; numbers count up from 0.
    pub fn take_trace(&mut self) -> (u32, ThinVec<TraceEvent>) {
        self.common.trace.take()
    }

    /// Returns how many trace events exceeded a limit and were dropped.
    pub fn trace_events_dropped(&self) -> u32 {
        self.common.trace.dropped()
    }
}

/// What is unsettled.
impl Session {
    /// Returns the number of messages that wait for an answer of the client, or a final response.
    pub fn open_messages(&self) -> usize {
        self.messages.open_count() + usize::from(self.unanswered_page().is_some())
    }

    /// Returns the number of debits and refunds that the enabler has not acknowledged.
    pub fn debits_pending(&self) -> usize {
        self.messages.debits_queued() + self.credit.debits_pending()
    }

    /// Returns when the trigger of the oldest unacknowledged debit or refund happened.
    pub fn oldest_debit(&self) -> Option<Time> {
        let pending = self.credit.pending().and_then(|pending| pending.purpose.debit());
        let queued = self.messages.debits.iter().chain(&self.messages.refunds);
        queued.chain(pending).map(|debit| debit.since).min()
    }

    /// Returns the pending request if it has this number.
    pub fn pending_request(&self, number: u32) -> Option<Request> {
        let pending = self.credit.pending().filter(|pending| pending.number == number)?;
        Some(self.credit.request(pending, &self.common))
    }

    /// Returns the pending request.
    #[cfg(test)]
    pub fn pending(&self) -> Option<Request> {
        self.credit.pending().map(|pending| self.credit.request(pending, &self.common))
    }

    /// Returns the rule that decided the pending debit, if it has this number.
    pub fn pending_rule(&self, number: u32) -> Option<Rule> {
        let pending = self.credit.pending().filter(|pending| pending.number == number)?;
        pending.purpose.debit().map(|debit| debit.rule)
    }

    /// Returns the Message-ID of the debit or refund that waits for the operator.
    pub fn held_back_message(&self) -> Option<&str> {
        let held = self.credit.pending().filter(|pending| pending.is_held)?;
        held.purpose.debit().map(|debit| &*debit.message_id)
    }

    /// Returns whether anything waits for an answer of the client or the enabler.
    pub fn has_unsettled_work(&self) -> bool {
        self.credit.pending().is_some() || self.debits_pending() > 0 || self.open_messages() > 0
    }

    /// Whether nothing is left to do: the session is closed, and nothing waits for an answer or is still to be requested.
    pub fn is_settled(&self) -> bool {
        !self.is_open() && self.is_quiet() && !self.has_unsettled_work()
    }

    /// Returns the messages that were delivered and whose debit is not due yet.
    pub fn unanswered_messages(&self) -> impl Iterator<Item = UnsettledItem<'_>> {
        let delivered = self.messages.open.iter().filter(|message| message.has_content());
        delivered.map(|message| self.unanswered(message)).chain(self.unanswered_page())
    }

    /// Returns what the enabler has not acknowledged, in the order in which it is requested.
    pub fn unacknowledged(&self) -> impl Iterator<Item = UnsettledItem<'_>> {
        let pending = self.credit.pending().map(|pending| self.pending_item(pending));
        let debits = self.messages.debits.iter().map(|debit| self.item(UnsettledKind::Debit, "queued", debit));
        let refunds = self.messages.refunds.iter().map(|debit| self.item(UnsettledKind::Refund, "queued", debit));
        pending.into_iter().chain(debits).chain(refunds)
    }

    fn unanswered<'a>(&self, message: &'a OpenMessage) -> UnsettledItem<'a> {
        UnsettledItem {
            kind: UnsettledKind::Answer,
            state: "outstanding",
            message_id: Some(message.id()),
            octets: message.octets(),
            units: self.common.price_of(message.taken()),
            rule: None,
            since: message.since(),
        }
    }

    fn pending_item<'a>(&self, pending: &'a PendingRequest) -> UnsettledItem<'a> {
        let state = match (pending.is_held, pending.retry_at) {
            (true, _) => "held-back",
            (false, Some(_)) => "again",
            (false, None) => "asked",
        };
        let plain = |kind, rule, quota| UnsettledItem {
            kind,
            state,
            message_id: None,
            octets: 0,
            units: self.common.price_of(quota),
            rule: Some(rule),
            since: pending.first_sent_at,
        };
        match &pending.purpose {
            Purpose::Reserve(quota, rule) => plain(UnsettledKind::Reserve, *rule, *quota),
            Purpose::Release(rule) => plain(UnsettledKind::Release, *rule, pending.reservation.outstanding()),
            Purpose::Debit(debit) => self.item(UnsettledKind::Debit, state, debit),
            Purpose::Refund(debit) => self.item(UnsettledKind::Refund, state, debit),
        }
    }

    fn item<'a>(&self, kind: UnsettledKind, state: &'static str, debit: &'a Debit) -> UnsettledItem<'a> {
        UnsettledItem {
            kind,
            state,
            message_id: Some(&debit.message_id),
            octets: debit.octets,
            units: self.common.price_of(debit.quota),
            rule: Some(debit.rule),
            since: debit.since,
        }
    }
}
