//! One message: its chunks, the transactions that wait for an answer, and what ends the wait.
//!
//! ```text
//!             SEND                200 for all of 1..=last ─────────────► debit (response)
//!   (unknown) ────► outstanding ─ 4xx, failure REPORT ────────────────► debit (error)
//!                     │    │    ─ 5xx ────────────────────────────────► policy `5xx`
//!                     │    │    ─ no answer by a deadline, 408 ───────► debit (timeout)
//!                     │    │    ─ BYE, connection lost, host stopped ─► policy `close`
//!                     │    ├ not sent on after all, and nothing else was ► (unknown)
//!                     │    ├ `#` before the last octet ─ 2 s ──────────► policy `abort`
//!                     │    │             └ an answer stamped before the `#` counts as above
//!                     │    └ the gate stopped the rest ─ 200 for all that passed ► debit (response)
//!                     └ 200 for all, REPORT asked for (`debit_on=report`)
//!                              └► reporting ─ success REPORT for all ─► debit (response)
//!                                           └ none by the deadline ───► debit (timeout)
//! ```
//!
//! What is debited is what the gate took for the chunks, whatever their Byte-Range says. Every message has a deadline
//! from its first chunk on: gaps, and a last chunk that never comes, end it [`Policy::response_timeout`] after the last
//! chunk that passed.
//!
//! With a tariff by size, a message that is settled before its last octet has passed is stopped at the gate first, and
//! settled 2 s later: chunks that passed before may still be in other rings ([`Message::settle_later`]).

use super::ranges::Ranges;
use super::rule::{Ending, Rule};
use crate::charge::ch2::Trigger;
use crate::charge::event::{Flag, Sent, transaction};
use crate::charge::policy::{DebitOn, Policy, Settle};
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// Transactions kept per message. The answers to any beyond are not recognised; their deadline counts.
const TRANSACTIONS: usize = 256;

/// Seconds that an entry of one ring may be read after a later one of another ring.
pub(super) const LATE: u32 = 2;

/// A chunk that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Transaction {
    name: u64,
    start: u64,
    /// Last octet; before `start` for a chunk without content.
    end: u64,
    /// What the gate took for the chunk.
    taken: u32,
    /// It passes once more under this name: its octets are counted under another.
    is_again: bool,
    deadline: Time,
}

impl Transaction {
    fn octets(&self) -> u64 {
        if self.is_again || self.end < self.start { 0 } else { (self.end - self.start).saturating_add(1) }
    }
}

/// What the client said, and about what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Answer {
    /// An MSRP response.
    Response { transaction: u64, code: u16 },
    /// A REPORT; `end` is the highest number where it does not say.
    Report { message: u64, start: u64, end: u64, code: u16 },
}

/// How a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Settlement {
    /// It is paid for, by this rule.
    Debit(Trigger, Rule),
    /// It costs nothing, by this rule.
    Free(Rule),
}

impl Settlement {
    pub(super) fn rule(self) -> Rule {
        match self {
            Settlement::Debit(_, rule) | Settlement::Free(rule) => rule,
        }
    }

    fn by(settle: Settle, trigger: Trigger, rule: Rule) -> Settlement {
        match settle {
            Settle::Debit => Settlement::Debit(trigger, rule),
            Settle::Release => Settlement::Free(rule),
        }
    }

    /// What an error code of a response or REPORT does. 408 says that the wait is over further down
    /// (RFC 4975, 10.6): a time-out. Codes that RFC 4975 does not have say nothing.
    fn of_code(code: u16, policy: &Policy) -> Option<Settlement> {
        match code {
            408 => Some(Settlement::Debit(Trigger::Timeout, Rule::RequestTimeout)),
            400..=499 => Some(Settlement::Debit(Trigger::Error(code), Rule::ClientError(code))),
            500..=599 => {
                let settle = policy.server_error;
                Some(Settlement::by(settle, Trigger::Error(code), Rule::ServerError(code, settle)))
            }
            _ => None,
        }
    }
}

/// A settlement that waits for chunks that passed before the gate stopped the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Later {
    settlement: Settlement,
    /// When what it is for happened.
    since: Time,
    until: Time,
}

/// A message that is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    /// Number among all that the session stores in parts.
    number: u32,
    /// Number of its debit among those of its Message-ID.
    part: u32,
    id: Box<str>,
    /// When its first SEND passed.
    since: Time,
    outstanding: ThinVec<Transaction>,
    /// Confirmed by 200 (or by success REPORT, where the response decides).
    acknowledged: Ranges,
    /// Confirmed by success REPORT, where the REPORT decides.
    reported: Ranges,
    /// The octets up to this one went out without a gap.
    through: u64,
    /// The last octet that went out, by position.
    furthest: u64,
    /// Octets that went out.
    octets: u64,
    /// What the gate took for them.
    taken: u32,
    /// Size of the message, where a Byte-Range told it; else 0.
    total: u64,
    /// `$` was seen: `furthest` is the end of the message.
    last: bool,
    /// The gate has stopped a chunk, and lets nothing more of the message pass.
    stopped: bool,
    success_report: bool,
    /// When its last chunk went out.
    last_sent: Time,
    /// Of the wait for the REPORT, or of transactions beyond the bound.
    deadline: Option<Time>,
    /// When the server gave it up.
    aborted: Option<Time>,
    later: Option<Box<Later>>,
}

impl Message {
    pub(super) fn new(number: u32, part: u32, id: &str, since: Time) -> Message {
        Message {
            number,
            part,
            id: id.into(),
            since,
            outstanding: ThinVec::new(),
            acknowledged: Ranges::default(),
            reported: Ranges::default(),
            through: 0,
            furthest: 0,
            octets: 0,
            taken: 0,
            total: 0,
            last: false,
            stopped: false,
            success_report: false,
            last_sent: since,
            deadline: None,
            aborted: None,
            later: None,
        }
    }

    /// The name by which a settled message is remembered, and a REPORT finds one.
    pub(super) fn name_of(id: &str) -> u64 {
        transaction(id.as_bytes())
    }

    /// Number among all that the session stores in parts.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Number of its debit among those of its Message-ID.
    pub(super) fn part(&self) -> u32 {
        self.part
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// When its first SEND passed.
    pub(super) fn since(&self) -> Time {
        self.since
    }

    /// Octets that went out.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// What the gate took for them.
    pub(super) fn taken(&self) -> Quota {
        Quota(self.taken)
    }

    /// What is to be debited for it is this.
    pub(super) fn set_taken(&mut self, taken: Quota) {
        self.taken = taken.0;
    }

    /// Whether anything chargeable went out.
    pub(super) fn has_content(&self) -> bool {
        self.octets > 0 || self.taken > 0
    }

    /// [`Message::name_of`] its Message-ID.
    pub(super) fn name(&self) -> u64 {
        Message::name_of(&self.id)
    }

    /// Names of the transactions without an answer.
    pub(super) fn transactions(&self) -> impl ExactSizeIterator<Item = u64> {
        self.outstanding.iter().map(|transaction| transaction.name)
    }

    /// Whether the server has given it up by this time; of two frames with the same time the first one that is read was first.
    pub(super) fn is_given_up(&self, at: Time) -> bool {
        self.aborted.is_some_and(|aborted| aborted <= at)
    }

    /// Whether nothing more of it passes, or has to.
    pub(super) fn is_over(&self) -> bool {
        self.is_complete() || self.stopped || self.aborted.is_some()
    }

    /// Whether all of it went out.
    fn is_complete(&self) -> bool {
        self.last || (self.total > 0 && self.through >= self.total)
    }

    /// A chunk goes out. `has_room`: its transaction may be kept.
    pub(super) fn send(&mut self, sent: &Sent<'_>, at: Time, has_room: bool, policy: &Policy) -> Option<Settlement> {
        let (start, end) = range_of(sent);
        self.octets = self.octets.saturating_add(sent.octets);
        self.taken = self.taken.saturating_add(sent.taken);
        self.success_report |= sent.success_report;
        self.last_sent = self.last_sent.max(at);
        if sent.octets > 0 {
            self.furthest = self.furthest.max(end);
            if start <= self.through.saturating_add(1) {
                self.through = self.through.max(end);
            }
            self.total = sent.total.unwrap_or(self.total);
        }
        match sent.flag {
            Flag::Aborted => {
                if !self.is_complete() {
                    self.aborted = Some(self.aborted.map_or(at, |known| known.min(at)));
                }
                return self.settlement_due_later();
            }
            Flag::Last => {
                self.last = true;
                // A `#` that followed the last octet was read before it.
                self.aborted = self.aborted.filter(|aborted| *aborted < at);
            }
            Flag::More => {}
        }
        let deadline = at.after_seconds(policy.response_timeout);
        let (name, taken) = (sent.transaction, sent.taken);
        self.wait(Transaction { name, start, end, taken, is_again: false, deadline }, has_room);
        if self.last && self.later.is_some() {
            return self.settlement_due_later();
        }
        self.completed(at, policy)
    }

    /// A chunk passes this relay once more, under another transaction id.
    pub(super) fn pass_again(&mut self, name: u64, start: u64, octets: u64, at: Time, has_room: bool, policy: &Policy) {
        let start = start.max(1);
        let end = start.saturating_add(octets).saturating_sub(1);
        let deadline = at.after_seconds(policy.response_timeout);
        self.wait(Transaction { name, start, end, taken: 0, is_again: true, deadline }, has_room);
    }

    /// A resend may come under another transaction id: one more name for the same octets, and an answer to any of them
    /// will do.
    fn wait(&mut self, transaction: Transaction, has_room: bool) {
        let confirmed =
            transaction.start <= transaction.end && self.acknowledged.covers(transaction.start, transaction.end);
        if confirmed || self.outstanding.iter().any(|known| known.name == transaction.name) {
            return;
        }
        if self.outstanding.len() >= TRANSACTIONS || !has_room {
            let earliest = self.deadline.map_or(transaction.deadline, |known| known.min(transaction.deadline));
            self.deadline = Some(earliest);
            return;
        }
        if self.outstanding.len() < 4 {
            self.outstanding.reserve_exact(1);
        }
        self.outstanding.push(transaction);
    }

    /// The gate has stopped a chunk: nothing more of the message passes.
    pub(super) fn stop(&mut self, at: Time, policy: &Policy) -> Option<Settlement> {
        // A message that was sent again after it was stopped is a new one.
        if at < self.since {
            return None;
        }
        self.stopped = true;
        if self.later.is_some() { self.settlement_due_later() } else { self.completed(at, policy) }
    }

    /// The gate stops the rest of the message; it is settled when chunks that passed before must have been read.
    pub(super) fn settle_later(&mut self, settlement: Settlement, since: Time, now: Time) {
        self.later = Some(Box::new(Later { settlement, since, until: now.after_seconds(LATE) }));
    }

    /// When what it is settled for happened, where the settlement was decided before.
    pub(super) fn settled_since(&self) -> Option<Time> {
        self.later.as_ref().map(|later| later.since)
    }

    fn settlement_due_later(&self) -> Option<Settlement> {
        self.later.as_ref().map(|later| later.settlement)
    }

    /// A chunk was not sent after all; a resend of the same octets was not either. Returns what the gate took for them;
    /// `None`: nothing of the message is with the client.
    pub(super) fn unsend(&mut self, transaction: u64) -> Option<Quota> {
        let Some(known) = self.outstanding.iter().find(|known| known.name == transaction) else {
            return Some(Quota(0));
        };
        let range = (known.start, known.end);
        let is_meant = |known: &Transaction| (known.start, known.end) == range;
        let meant = || self.outstanding.iter().filter(|known| is_meant(known));
        let octets = meant().map(Transaction::octets).fold(0, u64::saturating_add);
        let taken = meant().map(|known| known.taken).fold(0, u32::saturating_add);
        self.outstanding.retain(|known| !is_meant(known));
        self.octets = self.octets.saturating_sub(octets);
        let unanswered = self.acknowledged.is_empty() && self.reported.is_empty();
        if self.outstanding.is_empty() && unanswered && self.deadline.is_none() {
            return None;
        }
        // What went out of it costs something.
        let kept = self.taken.saturating_sub(taken).max(1).min(self.taken);
        let given_back = self.taken - kept;
        self.taken = kept;
        Some(Quota(given_back))
    }

    /// Whether the answer is about this message.
    pub(super) fn is_meant(&self, answer: &Answer) -> bool {
        match *answer {
            Answer::Response { transaction, .. } => self.outstanding.iter().any(|known| known.name == transaction),
            Answer::Report { message, .. } => self.name() == message,
        }
    }

    /// The client answers. Only what came before a deadline or a `#` counts, however late it is read.
    pub(super) fn answer(&mut self, answer: &Answer, at: Time, policy: &Policy) -> Option<Settlement> {
        if let Some(due) = self.due(at, policy) {
            return Some(due);
        }
        if self.aborted.is_some_and(|aborted| aborted <= at) || self.later.is_some() {
            return None;
        }
        let code = match *answer {
            Answer::Response { transaction, code } => {
                if code == 200 {
                    self.acknowledge(transaction);
                }
                code
            }
            Answer::Report { start, end, code, .. } => {
                if code == 200 {
                    self.report(start, end, policy);
                }
                code
            }
        };
        Settlement::of_code(code, policy).or_else(|| self.completed(at, policy))
    }

    fn acknowledge(&mut self, name: u64) {
        if let Some(answered) = self.outstanding.iter().find(|known| known.name == name) {
            self.acknowledged.add(answered.start, answered.end);
        }
        let Message { outstanding, acknowledged, .. } = self;
        outstanding.retain(|known| {
            known.name != name && (known.start > known.end || !acknowledged.covers(known.start, known.end))
        });
    }

    fn report(&mut self, start: u64, end: u64, policy: &Policy) {
        if self.wants_report(policy) {
            self.reported.add(start.max(1), end);
        } else {
            self.acknowledged.add(start.max(1), end);
        }
    }

    fn wants_report(&self, policy: &Policy) -> bool {
        policy.debit_on == DebitOn::Report && self.success_report
    }

    /// The end of a message that the client has taken whole, or as far as it has passed the gate: at once, or once its
    /// REPORT comes.
    ///
    /// `$` makes the last octet seen the end of the message, whatever total a Byte-Range names: the client
    /// confirms what was sent, not what was announced (RFC 4975, 7.3.1).
    fn completed(&mut self, at: Time, policy: &Policy) -> Option<Settlement> {
        let is_given_up = self.aborted.is_some_and(|aborted| aborted <= at);
        if !(self.last || self.stopped) || !self.has_content() || is_given_up || self.later.is_some() {
            return None;
        }
        let by_response = Settlement::Debit(Trigger::Response, Rule::DebitOn(DebitOn::Response));
        if self.stopped {
            return (self.outstanding.is_empty() && self.deadline.is_none()).then_some(by_response);
        }
        let answered = self.furthest > 0 || self.outstanding.is_empty();
        let whole = |ranges: &Ranges| answered && ranges.covers(1, self.furthest);
        if !self.wants_report(policy) {
            return whole(&self.acknowledged).then_some(by_response);
        }
        if whole(&self.reported) {
            return Some(Settlement::Debit(Trigger::Response, Rule::DebitOn(DebitOn::Report)));
        }
        if whole(&self.acknowledged) && self.deadline.is_none() {
            self.deadline = Some(at.after_seconds(policy.response_timeout));
        }
        None
    }

    /// What ends the message if nothing more comes, and when.
    fn end(&self, policy: &Policy) -> (Time, Settlement) {
        if let Some(later) = &self.later {
            return (later.until, later.settlement);
        }
        let answers = self.outstanding.iter().map(|known| known.deadline).chain(self.deadline).min();
        let silence = answers.unwrap_or_else(|| self.last_sent.after_seconds(policy.response_timeout));
        match self.aborted {
            // A response that came first may still be in another ring.
            Some(aborted) if aborted < silence => (aborted.after_seconds(LATE), self.abort(policy)),
            _ => (silence, Settlement::Debit(Trigger::Timeout, Rule::ResponseTimeout(policy.response_timeout))),
        }
    }

    /// When [`Message::due`] has something to say.
    pub(super) fn deadline(&self, policy: &Policy) -> Time {
        self.end(policy).0
    }

    /// The end by time.
    pub(super) fn due(&self, now: Time, policy: &Policy) -> Option<Settlement> {
        let (when, settlement) = self.end(policy);
        (when <= now).then_some(settlement)
    }

    /// The end because the session or its connection ends.
    pub(super) fn close(&self, ending: Ending, now: Time, policy: &Policy) -> Settlement {
        if let Some(due) = self.due(now, policy).or(self.settlement_due_later()) {
            return due;
        }
        match self.aborted {
            Some(_) => self.abort(policy),
            None => Settlement::by(policy.close, Trigger::Close, Rule::Close(policy.close, ending)),
        }
    }

    /// The end because the server has given it up.
    pub(super) fn abort(&self, policy: &Policy) -> Settlement {
        Settlement::by(policy.abort, Trigger::Close, Rule::Abort(policy.abort))
    }

    /// Waits for nothing longer than `latest`, and for nothing since a time that is still to come.
    pub(super) fn rebase(&mut self, now: Time, latest: Time) {
        self.since = self.since.min(now);
        self.last_sent = self.last_sent.min(now);
        if let Some(later) = &mut self.later {
            (later.since, later.until) = (later.since.min(now), later.until.min(now.after_seconds(LATE)));
        }
        self.outstanding.iter_mut().for_each(|known| known.deadline = known.deadline.min(latest));
        self.deadline = self.deadline.map(|deadline| deadline.min(latest));
        self.aborted = self.aborted.map(|aborted| aborted.min(latest));
    }

    /// Octets of memory beside the struct itself.
    #[cfg(test)]
    pub(super) fn heap(&self) -> usize {
        self.id.len()
            + self.outstanding.capacity() * size_of::<Transaction>()
            + (self.acknowledged.len() + self.reported.len()) * size_of::<(u64, u64)>()
    }
}

/// First and last octet of a chunk; the last is before the first for one without content.
fn range_of(sent: &Sent<'_>) -> (u64, u64) {
    let start = sent.start.max(1);
    (start, start.saturating_add(sent.octets).saturating_sub(1))
}
