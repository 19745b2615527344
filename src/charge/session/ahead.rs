//! How much is reserved, and when more is asked for.
//!
//! **The number of messages is told.** So many are reserved by the INVITE, and no more are asked for until a SEND beyond
//! them is stopped at the gate; the number was wrong then, and the session goes on as one without a number. Fewer are
//! granted: the rest of the told number is asked for ahead of need. With a tariff by size, [`KILOBYTES`] are reserved for
//! each message, more where a message turns out to be larger, and the debit of the last told message gives back the rest.
//!
//! **The number is not told.** A relay answers a SEND at once (RFC 4976, 6.4.1), so a server that waits for each
//! response sends the next message within some 0.1 ms, long before an enabler that is asked now can answer. So a window
//! is kept granted ahead of what was sent: [`WINDOW`] messages, and as many as can be sent while the enabler answers where
//! an answer takes longer. It is filled up when a quarter of it is used.
//!
//! **Each ask ahead is a reservation of its own.** A server that refuses an UPDATE may end the session with it (RFC 8506,
//! 7: it is Idle then), and with the session all that it has reserved, while messages that were to be debited out of it
//! are with the client. So an open reservation is never asked for more than it has: more is a new reservation, whose
//! refusal costs nothing. Debits go out of the oldest one, and the debit that uses it up ends it.
//!
//! What a session holds is at any time what the gate may still let pass and what has passed and is not settled, as long as
//! the enabler answers. A reservation that the enabler cuts short (an UPDATE that is refused or grants less) is worth only
//! what it says from then on: the gate is narrowed at once, and a reservation that has nothing any more is ended.

use super::validity::Validity;
use super::{Decision, Rule, Session};
use crate::charge::event::{Flag, Sent};
use crate::charge::policy::Model;
use crate::charge::tariff::{Per, Quota, Tariff};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thin_vec::ThinVec;

/// Messages kept granted ahead where their number is not told.
pub(super) const WINDOW: u32 = 128;
/// The same at most, where the enabler is slow.
const WINDOW_MOST: u32 = 1024;
/// Microseconds between two messages of the fastest server, with some to spare: what a host needs to take one, answer
/// it and send it on.
const PER_MESSAGE: u64 = 75;
/// Kilobytes that are kept granted for each message of the window: the average of stored messages is below.
const KILOBYTES_AHEAD: u32 = 8;
/// Kilobytes reserved for each message whose number is told, and asked for where a message was stopped: more than a
/// frame has that a host takes.
pub(super) const KILOBYTES: u32 = 16;
/// Reservations open at once: the next one waits until one is used up.
const RESERVATIONS: usize = 64;

/// A reservation after the first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Further {
    /// Number of the request that opened it.
    pub(super) opened_by: u32,
    /// Reserved and not yet debited.
    pub(super) outstanding: Quota,
    /// The enabler's way to who has it.
    pub(super) route: Option<Arc<str>>,
    /// How long it is good; `None`: without a limit.
    pub(super) validity: Option<Validity>,
    /// It is to be asked for again, and why.
    pub(super) renewal: Option<Rule>,
    /// Requests of it so far.
    pub(super) requests: u32,
}

/// What a session keeps for asking ahead.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ahead {
    /// Messages that the INVITE has told; 0: none, or a wrong number.
    pub(super) told: u32,
    /// Messages to be kept granted where their number is not told; 0: [`WINDOW`].
    window: u32,
    /// The last grant, where it was less than asked for; 0: all was granted.
    in_part: Quota,
    /// The first reservation is to be asked for again, and why.
    pub(super) renewal: Option<Rule>,
    /// Requests of the first reservation so far.
    pub(super) requests: u32,
    /// Number of the request in flight within its reservation.
    pub(super) sequence: u32,
    /// Reservations after the first, in the order of their opening.
    pub(super) further: ThinVec<Further>,
}

impl Ahead {
    /// What the INVITE asks for, and what is known from it. Where nothing is reserved the quota is what may be unpaid.
    pub(super) fn new(tariff: Tariff, model: Model, messages: u32) -> (Quota, Ahead) {
        let ahead = Ahead { told: messages, ..Ahead::default() };
        let requested = match (tariff.per, messages, model) {
            (_, 0, Model::Reserve) => ahead.window(tariff),
            (Per::Message, ..) => messages.max(1),
            (Per::Kilobyte, ..) => messages.max(1).saturating_mul(KILOBYTES),
        };
        (Quota(requested), ahead)
    }

    /// What is to be kept granted where the number of messages is not told, in what the tariff counts.
    fn window(&self, tariff: Tariff) -> u32 {
        let messages = self.window.max(WINDOW);
        match tariff.per {
            Per::Message => messages,
            Per::Kilobyte => messages.saturating_mul(KILOBYTES_AHEAD),
        }
    }
}

/// How much is asked for, and when.
impl Session {
    /// Asks for more while enough is left that the SENDs until the answer find the gate open. `to_come`: kilobytes of
    /// the message at hand that are still to be sent.
    pub(super) fn ask_ahead(&mut self, to_come: u32) {
        let is_free = self.free || self.policy.model == Model::Immediate;
        let is_granted = self.decision == Some(Decision::Granted);
        if is_free || !is_granted || self.refused.is_some() || self.last_granted {
            return;
        }
        let missing = self.missing(to_come).min(self.at_once.0);
        if missing > 0 {
            self.want(Quota(missing), Rule::Ahead);
        }
    }

    /// How much should be asked for now.
    fn missing(&self, to_come: u32) -> u32 {
        let left = self.left();
        let Ahead { told, in_part, .. } = self.ahead;
        let window = self.ahead.window(self.tariff);
        // What grants in part has no more, or gives so much at a time.
        let low = if in_part.0 > 0 { in_part.0 / 2 } else { window - window / 4 };
        match (told, self.tariff.per) {
            (0, _) if left <= low => (window - left.min(window)).max(to_come.saturating_sub(left)).max(1),
            (0, _) => 0,
            (told, Per::Message) if left <= low => told.saturating_sub(self.granted.0),
            (_, Per::Message) => 0,
            (told, Per::Kilobyte) => {
                let messages = told.saturating_sub(self.messages_begun()).saturating_mul(KILOBYTES);
                if left < to_come { messages.saturating_add(to_come).saturating_sub(left) } else { 0 }
            }
        }
    }

    /// What the gate may still let pass.
    fn left(&self) -> u32 {
        self.granted.0.saturating_sub(self.taken)
    }

    /// Kilobytes of this SEND's message that come after it.
    pub(super) fn still_to_come(&self, sent: &Sent<'_>) -> u32 {
        if self.tariff.per == Per::Message || sent.flag != Flag::More {
            return 0;
        }
        let end = sent.start.max(1).saturating_add(sent.octets).saturating_sub(1);
        let rest = sent.total.map_or(u64::from(KILOBYTES) * 1024, |total| total.saturating_sub(end));
        u32::try_from(rest.div_ceil(1024)).unwrap_or(u32::MAX)
    }

    /// Messages so far, settled or not.
    fn messages_begun(&self) -> u32 {
        let waiting = self.debits_pending() + self.messages.len();
        self.messages_settled().saturating_add(u32::try_from(waiting).unwrap_or(u32::MAX))
    }

    fn messages_settled(&self) -> u32 {
        self.counts.debited.saturating_add(self.counts.not_debited)
    }

    /// Whether all told messages are settled, or will be by `more` debits, so that what is left of a reservation by size
    /// is of no use.
    pub(super) fn is_told_out(&self, more: u32) -> bool {
        let told = self.ahead.told;
        let is_told = told > 0 && self.tariff.per == Per::Kilobyte && self.policy.model == Model::Reserve;
        is_told && !self.waits_for_clients() && self.messages_settled().saturating_add(more) >= told
    }

    fn waits_for_clients(&self) -> bool {
        !self.debits.is_empty() || self.messages.iter().any(|message| message.has_content())
    }

    /// A SEND was stopped at the gate: more is wanted for it.
    pub(super) fn want_beyond(&mut self) {
        let told = self.ahead.told;
        let is_beyond = match self.tariff.per {
            Per::Message => self.granted.0 >= told,
            Per::Kilobyte => self.messages_begun() >= told,
        };
        if told > 0 && is_beyond {
            self.ahead.told = 0;
            self.at_once = Quota(self.ahead.window(self.tariff));
        }
        let least = if self.tariff.per == Per::Kilobyte { KILOBYTES } else { 1 };
        let quota = Quota(self.missing(least).min(self.at_once.0).max(least));
        self.want(quota, Rule::BeyondGrant);
    }

    /// Wants more, where it may be asked for.
    fn want(&mut self, quota: Quota, rule: Rule) {
        let is_asked = self.flight.as_ref().is_some_and(|flight| flight.asks_for_more());
        let has_room = self.ahead.further.len() + 1 < RESERVATIONS;
        if self.is_served() && !is_asked && has_room && self.wanted.is_none_or(|(wanted, _)| wanted.0 == 0) {
            self.wanted = Some((quota, rule));
        }
    }

    /// The enabler has less than it had granted: the next request may have to do with so much.
    pub(super) fn cut_short(&mut self, left: Quota) {
        self.ahead.in_part = Quota(left.0.max(1));
    }

    /// The enabler has granted this much of what was asked for, after `micros`.
    pub(super) fn learn(&mut self, asked: Quota, granted: Quota, micros: Option<u64>) {
        if let Some(micros) = micros {
            let fastest = u32::try_from(micros / PER_MESSAGE).unwrap_or(u32::MAX);
            self.ahead.window = self.ahead.window.max(fastest.min(WINDOW_MOST));
        }
        let is_whole = granted >= asked;
        self.ahead.in_part = if is_whole { Quota(0) } else { granted };
        if is_whole && asked >= self.at_once {
            let most = self.ahead.window(self.tariff).max(self.requested.0);
            self.at_once = Quota(asked.0.saturating_mul(2).min(most));
        }
    }
}

/// The reservations.
impl Session {
    /// Whether the enabler has a reservation of the session that this request opened.
    pub fn has_reservation(&self, opened_by: u32) -> bool {
        self.reservation == Some(opened_by) || self.ahead.further.iter().any(|further| further.opened_by == opened_by)
    }

    /// Why a reservation is to be asked for again.
    pub(super) fn renewal_of(&mut self, opened_by: u32) -> Option<&mut Option<Rule>> {
        if self.reservation == Some(opened_by) {
            return Some(&mut self.ahead.renewal);
        }
        let further = self.ahead.further.iter_mut().find(|further| further.opened_by == opened_by)?;
        Some(&mut further.renewal)
    }

    /// All that is reserved and not yet debited.
    pub(super) fn outstanding_in_all(&self) -> Quota {
        let further = self.ahead.further.iter().map(|further| further.outstanding.0);
        Quota(further.fold(self.outstanding.0, u32::saturating_add))
    }

    /// A reservation comes after the others.
    pub(super) fn add_reservation(&mut self, further: Further) {
        match self.reservation {
            None => self.set_first(further),
            Some(_) => self.ahead.further.push(further),
        }
    }

    fn set_first(&mut self, first: Further) {
        self.reservation = Some(first.opened_by);
        self.outstanding = first.outstanding;
        self.route = first.route;
        self.validity = first.validity;
        self.ahead.renewal = first.renewal;
        self.ahead.requests = first.requests;
    }

    /// The enabler holds nothing of the first reservation any more; the next one takes its place.
    pub(super) fn end_reservation(&mut self) {
        self.reservation = None;
        self.outstanding = Quota(0);
        self.validity = None;
        self.route = None;
        (self.ahead.renewal, self.ahead.requests) = (None, 0);
        if let Some(next) = super::first(&mut self.ahead.further) {
            self.set_first(next);
        }
    }

    /// Brings another reservation to the front, while no request is in flight. `None`: none is like that, or the first is.
    pub(super) fn bring_to_front(&mut self, is_meant: impl Fn(&Further) -> bool) -> Option<()> {
        let index = self.ahead.further.iter().position(is_meant)?;
        let opened_by = self.reservation?;
        let first = Further {
            opened_by,
            outstanding: self.outstanding,
            route: self.route.take(),
            validity: self.validity,
            renewal: self.ahead.renewal,
            requests: self.ahead.requests,
        };
        let meant = std::mem::replace(self.ahead.further.get_mut(index)?, first);
        self.set_first(meant);
        Some(())
    }

    /// A debit was greater than what its reservation had: so much less is to be held by the others.
    pub(super) fn take_from_further(&mut self, mut excess: u32) {
        for further in &mut self.ahead.further {
            let from_this = excess.min(further.outstanding.0);
            further.outstanding = Quota(further.outstanding.0 - from_this);
            excess -= from_this;
        }
    }
}
