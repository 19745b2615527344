//! What others ask about a session.

use super::{Counts, Debit, Decision, Flight, Outcome, Phase, Rule, Session, TraceEvent, Work as InFlight};
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Direction, Suspended};
use crate::charge::tariff::{Quota, Tariff, Units};
use crate::charge::time::Time;
use thin_vec::ThinVec;

/// Something without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsettledItem<'a> {
    /// What it is.
    pub kind: UnsettledKind,
    /// How far it is: `outstanding`, `queued`, `asked`, `again` (asked in vain, and to be asked again), `held-back`.
    pub state: &'static str,
    /// The message it is about.
    pub message_id: Option<&'a str>,
    /// Octets of its content.
    pub octets: u64,
    /// What it is worth, in units of the account.
    pub units: Units,
    /// The rule that made it due.
    pub rule: Option<Rule>,
    /// When it became due.
    pub since: Time,
}

/// What waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnsettledKind {
    /// An answer of the client to a message.
    Answer,
    /// A reservation.
    Reserve,
    /// A debit.
    Debit,
    /// A debit that is to be given back.
    Refund,
    /// A release.
    Release,
}

impl UnsettledKind {
    /// The word in `audit`.
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

impl Session {
    /// Its key.
    pub fn key(&self) -> SessionKey {
        self.key
    }

    /// Call-ID of its INVITE.
    pub fn call_id(&self) -> &str {
        self.part(0, self.parties.ends[0])
    }

    /// Who pays; empty: nobody was found.
    pub fn account(&self) -> &str {
        self.part(self.parties.ends[0], self.parties.ends[1])
    }

    /// The other party; empty where there is none.
    pub fn other(&self) -> &str {
        self.part(self.parties.ends[1], self.parties.ends[2])
    }

    /// icid-value of P-Charging-Vector; empty where there is none.
    pub fn icid(&self) -> &str {
        self.part(self.parties.ends[2], u16::MAX)
    }

    fn part(&self, start: u16, end: u16) -> &str {
        let text = &self.parties.text;
        text.get(start.into()..text.len().min(end.into())).unwrap_or_default()
    }

    /// Who has the stored messages.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The tariff pinned at the INVITE.
    pub fn tariff(&self) -> Tariff {
        self.tariff
    }

    /// Returns the INVITE transaction that the host suspended.
    pub fn suspended(&self) -> Suspended {
        self.suspended
    }

    /// Returns the hash of the inviting side's tag.
    pub fn inviting_tag(&self) -> u64 {
        self.inviting_tag
    }

    /// Connections that have carried its frames.
    pub fn connections(&self) -> &[u64] {
        &self.connections
    }

    /// When the INVITE was taken.
    pub fn opened(&self) -> Time {
        self.opened
    }

    /// The verdict, once it is given.
    pub fn decision(&self) -> Option<Decision> {
        self.decision
    }

    /// How it ended, or ends.
    pub fn outcome(&self) -> Option<Outcome> {
        self.outcome
    }

    /// Where it stands, in one word for RPC.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Reserving => "reserving",
            Phase::Open => "open",
            Phase::Cancelled { .. } => "cancelled",
            Phase::Closing | Phase::Draining { .. } => "closing",
            Phase::Settling => "settling",
            Phase::Closed { .. } | Phase::Gone => "closed",
        }
    }

    /// Whether it is not settled yet.
    pub fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Closed { .. } | Phase::Gone)
    }

    /// All that was granted so far, in what the tariff counts.
    pub fn granted(&self) -> Quota {
        self.granted
    }

    /// How much of it the gate has taken, as far as SENDs were read.
    pub fn taken(&self) -> u32 {
        self.taken
    }

    /// What became of its messages.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Messages that wait for an answer of the client.
    pub fn outstanding(&self) -> usize {
        self.messages.len()
    }

    /// Debits and refunds that the enabler has not acknowledged.
    pub fn debits_pending(&self) -> usize {
        let flying =
            self.flight.as_ref().is_some_and(|flight| matches!(flight.work, InFlight::Debit(_) | InFlight::Refund(_)));
        self.debits.len() + self.refunds.len() + usize::from(flying)
    }

    /// The reservation that the request in flight is of, by the number of the request that opened it; not one that waits
    /// for an operator.
    pub(super) fn reservation_in_flight(&self) -> Option<u32> {
        let flight = self.flight.as_ref().filter(|flight| !flight.held)?;
        flight.reservation.opened_by()
    }

    /// Whether a request of this reservation is on its way, or will be sent again: its answer says anew what is reserved.
    pub fn is_updating(&self, opened_by: u32) -> bool {
        self.has_reservation(opened_by) && self.reservation_in_flight() == Some(opened_by)
    }

    /// What was granted while no enabler answered, as long as it is not settled.
    pub fn uncovered(&self) -> Quota {
        if self.is_open() { self.uncovered } else { Quota(0) }
    }

    /// The Message-ID of a debit (or refund) that waits for an operator: it may be done, and would be done twice.
    pub fn held_back_message(&self) -> Option<&str> {
        match self.flight.as_deref() {
            Some(Flight { held: true, work: InFlight::Debit(debit) | InFlight::Refund(debit), .. }) => {
                Some(&debit.message_id)
            }
            _ => None,
        }
    }

    /// Since when the oldest of them waits: what fired it happened then.
    pub fn oldest_debit(&self) -> Option<Time> {
        let flying = self.flight.as_ref().and_then(|flight| match &flight.work {
            InFlight::Debit(debit) | InFlight::Refund(debit) => Some(debit),
            InFlight::Reserve(..) | InFlight::Release(_) => None,
        });
        self.debits.iter().chain(&self.refunds).chain(flying).map(|debit| debit.since).min()
    }

    /// When something last happened in it.
    pub fn last_activity(&self) -> Time {
        self.moved
    }

    /// Whether it is over and the enabler has not settled it: a debit or the release is not acknowledged.
    pub fn is_unsettled(&self) -> bool {
        match self.phase {
            Phase::Reserving | Phase::Open | Phase::Cancelled { .. } | Phase::Gone => false,
            Phase::Closing | Phase::Draining { .. } | Phase::Settling => true,
            Phase::Closed { .. } => !self.is_quiet(),
        }
    }

    /// Takes what has happened since the last call, oldest first, with the number of the first step. Numbers rise by
    /// one from 0.
    pub fn take_trace(&mut self) -> (u32, ThinVec<TraceEvent>) {
        let first = self.ladder.kept().saturating_sub(u32::try_from(self.ladder.fresh()).unwrap_or(u32::MAX));
        (first, self.ladder.take())
    }

    /// Steps that were not kept.
    pub fn trace_events_dropped(&self) -> u32 {
        self.ladder.dropped()
    }

    /// What is reserved and not yet debited, in units of the account.
    pub fn reserved(&self) -> Units {
        self.price_of(self.outstanding_in_all())
    }

    /// Messages whose content is with the client, and whose debit is not due yet.
    pub fn unanswered_messages(&self) -> impl Iterator<Item = UnsettledItem<'_>> {
        self.messages.iter().filter(|message| message.has_content()).map(|message| UnsettledItem {
            kind: UnsettledKind::Answer,
            state: "outstanding",
            message_id: Some(message.id()),
            octets: message.octets(),
            units: self.price_of(message.taken()),
            rule: None,
            since: message.since(),
        })
    }

    /// What the enabler has not answered, in the order in which it is asked.
    pub fn unacknowledged(&self) -> impl Iterator<Item = UnsettledItem<'_>> {
        let flying = self.flight.as_deref().map(|flight| self.flying(flight));
        let debits = self.debits.iter().map(|debit| self.due(UnsettledKind::Debit, "queued", debit));
        let refunds = self.refunds.iter().map(|debit| self.due(UnsettledKind::Refund, "queued", debit));
        flying.into_iter().chain(debits).chain(refunds)
    }

    /// Whether anything waits for an answer of the client or of the enabler.
    pub fn has_unsettled_work(&self) -> bool {
        self.flight.is_some() || !self.debits.is_empty() || !self.refunds.is_empty() || !self.messages.is_empty()
    }

    fn flying<'a>(&'a self, flight: &'a Flight) -> UnsettledItem<'a> {
        let state = match (flight.held, flight.retry) {
            (true, _) => "held-back",
            (false, Some(_)) => "again",
            (false, None) => "asked",
        };
        let plain = |kind, rule, quota| {
            let (message_id, octets, since) = (None, 0, flight.since);
            UnsettledItem { kind, state, message_id, octets, units: self.price_of(quota), rule: Some(rule), since }
        };
        match &flight.work {
            InFlight::Reserve(quota, rule) => plain(UnsettledKind::Reserve, *rule, *quota),
            InFlight::Release(rule) => plain(UnsettledKind::Release, *rule, flight.reservation.outstanding()),
            InFlight::Debit(debit) => self.due(UnsettledKind::Debit, state, debit),
            InFlight::Refund(debit) => self.due(UnsettledKind::Refund, state, debit),
        }
    }

    fn due<'a>(&self, kind: UnsettledKind, state: &'static str, debit: &'a Debit) -> UnsettledItem<'a> {
        UnsettledItem {
            kind,
            state,
            message_id: Some(&debit.message_id),
            octets: debit.octets,
            units: self.price_of(debit.quota),
            rule: Some(debit.rule),
            since: debit.since,
        }
    }
}
