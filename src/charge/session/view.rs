//! What others ask about a session.

use super::{Counts, Decision, Flight, Outcome, Phase, Session, Step, Work};
use crate::charge::ch2::SessionKey;
use crate::charge::event::Direction;
use crate::charge::tariff::{Quota, Tariff};
use crate::charge::time::Time;

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
        self.part(self.parties.ends[2], u32::MAX)
    }

    fn part(&self, start: u32, end: u32) -> &str {
        let text = &self.parties.text;
        text.get(start as usize..text.len().min(end as usize)).unwrap_or_default()
    }

    /// Who has the stored messages.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// The tariff pinned at the INVITE.
    pub fn tariff(&self) -> Tariff {
        self.tariff
    }

    /// The host's numbers of the INVITE's transaction.
    pub fn carried(&self) -> [u64; 4] {
        self.carried
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
        let flying = self.flight.as_ref().is_some_and(|flight| matches!(flight.work, Work::Debit(_) | Work::Refund(_)));
        self.debits.len() + self.refunds.len() + usize::from(flying)
    }

    /// The request that opened the reservation which the enabler holds, or may hold.
    pub fn reservation(&self) -> Option<u32> {
        self.reservation
    }

    /// What was granted while no enabler answered, as long as it is not settled.
    pub fn uncovered(&self) -> Quota {
        if self.is_open() { self.uncovered } else { Quota(0) }
    }

    /// The Message-ID of a debit (or refund) that waits for an operator: it may be done, and would be done twice.
    pub fn held_back(&self) -> Option<&str> {
        match self.flight.as_deref() {
            Some(Flight { held: true, work: Work::Debit(debit) | Work::Refund(debit), .. }) => Some(&debit.message_id),
            _ => None,
        }
    }

    /// Since when the oldest of them waits: what fired it happened then.
    pub fn oldest_debit(&self) -> Option<Time> {
        let flying = self.flight.as_ref().and_then(|flight| match &flight.work {
            Work::Debit(debit) | Work::Refund(debit) => Some(debit),
            Work::Reserve(_) | Work::Release => None,
        });
        self.debits.iter().chain(&self.refunds).chain(flying).map(|debit| debit.since).min()
    }

    /// Whether it is over and the enabler has not settled it: a debit or the release is not acknowledged.
    pub fn is_unsettled(&self) -> bool {
        match self.phase {
            Phase::Reserving | Phase::Open | Phase::Cancelled { .. } | Phase::Gone => false,
            Phase::Closing | Phase::Draining { .. } | Phase::Settling => true,
            Phase::Closed { .. } => !self.is_quiet(),
        }
    }

    /// What happened, oldest first.
    pub fn steps(&self) -> &[Step] {
        self.ladder.steps()
    }

    /// Steps that were not kept.
    pub fn steps_dropped(&self) -> u32 {
        self.ladder.dropped()
    }
}
