//! A session as version 3 of the ledger has it, to go on with. Its steps, which it kept itself, are not carried over:
//! they count as dropped. What became due before the upgrade is due since the session moved last.

use super::ladder::Ladder;
use super::message::{Message, version3::Message as OldMessage};
use super::{Counts, Debit, Decision, Dialog, Early, Ending, Flight, Outcome, Parties, Phase, Rule, Session, Work};
use crate::charge::ch2::{Reservation, SessionKey, Trigger};
use crate::charge::event::Direction;
use crate::charge::policy::{DebitOn, Policy, Settle};
use crate::charge::tariff::{Quota, Tariff};
use crate::charge::time::Time;
use serde::Deserialize;
use std::sync::Arc;
use thin_vec::ThinVec;

/// A session of version 3.
#[derive(Debug, Deserialize)]
pub struct SessionOfVersion3 {
    key: SessionKey,
    parties: Parties,
    reason: Option<Box<str>>,
    carried: [u64; 4],
    direction: Direction,
    tariff: Tariff,
    policy: Policy,
    opened: Time,
    moved: Time,
    phase: Phase,
    answered: bool,
    dialog_over: bool,
    decision: Option<Decision>,
    outcome: Option<Outcome>,
    requested: Quota,
    last_ask: Quota,
    granted: Quota,
    taken: u32,
    reservation: Option<u32>,
    outstanding: Quota,
    route: Option<Arc<str>>,
    abandoned: ThinVec<(u32, Option<Arc<str>>)>,
    valid_until: Option<Time>,
    last_granted: bool,
    free: bool,
    uncovered: Quota,
    wanted: Option<Quota>,
    refused: Option<Time>,
    next_number: u32,
    flight: Option<OldFlight>,
    debits: ThinVec<OldDebit>,
    refundable: ThinVec<OldDebit>,
    refunds: ThinVec<OldDebit>,
    messages: ThinVec<OldMessage>,
    settled: ThinVec<u64>,
    early: ThinVec<Early>,
    connections: ThinVec<u64>,
    counts: Counts,
    ladder: OldLadder,
}

#[derive(Debug, Deserialize)]
struct OldDebit {
    message_id: Box<str>,
    octets: u64,
    trigger: Trigger,
}

#[derive(Debug, Deserialize)]
enum OldWork {
    Reserve(Quota),
    Debit(OldDebit),
    Refund(OldDebit),
    Release,
}

#[derive(Debug, Deserialize)]
struct OldFlight {
    number: u32,
    reservation: Reservation,
    route: Option<Arc<str>>,
    work: OldWork,
    stamp: u32,
    retry: Option<Time>,
    tries: u8,
    repeated: bool,
    held: bool,
    revoked: bool,
}

#[derive(Debug, Deserialize)]
struct OldLadder {
    steps: Vec<OldStep>,
    dropped: u32,
}

/// When, what (a number of its own), and a detail.
type OldStep = (Time, u32, u32);

/// What the rest of the session tells about its parts.
#[derive(Clone, Copy)]
struct Known {
    policy: Policy,
    ending: Ending,
    since: Time,
}

impl Known {
    /// The rule of a debit, as far as its trigger tells.
    fn debit(self, old: OldDebit) -> Debit {
        let Known { policy, ending, since } = self;
        let rule = match old.trigger {
            Trigger::Response => Rule::DebitOn(DebitOn::Response),
            Trigger::Error(code @ 500..) => Rule::ServerError(code, policy.server_error),
            Trigger::Error(code) => Rule::ClientError(code),
            Trigger::Timeout => Rule::ResponseTimeout(policy.response_timeout),
            Trigger::Close => Rule::Close(policy.close, ending),
        };
        Debit { message_id: old.message_id, octets: old.octets, trigger: old.trigger, rule, since }
    }

    /// The code of the REPORT was not kept.
    fn refund(self, old: OldDebit) -> Debit {
        Debit { rule: Rule::Report(0, Settle::Release), ..self.debit(old) }
    }

    fn flight(self, old: OldFlight) -> Box<Flight> {
        let work = match old.work {
            OldWork::Reserve(quota) if old.number == 0 => Work::Reserve(quota, Rule::Invite),
            OldWork::Reserve(quota) => Work::Reserve(quota, Rule::Ahead),
            OldWork::Debit(debit) => Work::Debit(self.debit(debit)),
            OldWork::Refund(debit) => Work::Refund(self.refund(debit)),
            OldWork::Release => Work::Release(Rule::Unused),
        };
        let OldFlight { number, reservation, route, stamp, retry, tries, repeated, held, .. } = old;
        let (since, revoked) = (self.since, old.revoked.then_some(0));
        Box::new(Flight { number, since, reservation, route, work, stamp, retry, tries, repeated, held, revoked })
    }
}

impl From<SessionOfVersion3> for Session {
    fn from(old: SessionOfVersion3) -> Session {
        let ending = Ending::Session(old.outcome.unwrap_or(Outcome::Ended));
        let known = Known { policy: old.policy, ending, since: old.moved };
        let steps = u32::try_from(old.ladder.steps.len()).unwrap_or(u32::MAX);
        Session {
            key: old.key,
            parties: old.parties,
            reason: old.reason,
            carried: old.carried,
            direction: old.direction,
            tariff: old.tariff,
            policy: old.policy,
            opened: old.opened,
            moved: old.moved,
            phase: old.phase,
            answered: old.answered,
            dialog: if old.dialog_over { Dialog::Unborn } else { Dialog::Alive },
            decision: old.decision,
            outcome: old.outcome,
            requested: old.requested,
            last_ask: old.last_ask,
            granted: old.granted,
            taken: old.taken,
            reservation: old.reservation,
            outstanding: old.outstanding,
            route: old.route,
            abandoned: old.abandoned.into_iter().map(|(number, route)| (number, route, Rule::MaybeHeld)).collect(),
            valid_until: old.valid_until,
            last_granted: old.last_granted,
            free: old.free,
            uncovered: old.uncovered,
            wanted: old.wanted.map(|quota| (quota, Rule::Ahead)),
            refused: old.refused,
            next_number: old.next_number,
            flight: old.flight.map(|flight| known.flight(flight)),
            debits: old.debits.into_iter().map(|debit| known.debit(debit)).collect(),
            refundable: old.refundable.into_iter().map(|debit| known.debit(debit)).collect(),
            refunds: old.refunds.into_iter().map(|debit| known.refund(debit)).collect(),
            messages: old.messages.into_iter().map(|message| Message::from_version3(message, old.moved)).collect(),
            settled: old.settled,
            early: old.early,
            connections: old.connections,
            counts: old.counts,
            ladder: Ladder::without(steps.saturating_add(old.ladder.dropped)),
            outputs: ThinVec::new(),
        }
    }
}
