//! One message: its chunks, the transactions that wait for an answer, and what ends the wait.
//!
//! ```text
//!             SEND                200 for all of 1..=last ─────────────► debit (response)
//!   (unknown) ────► outstanding ─ 4xx, failure REPORT ────────────────► debit (error)
//!                     │    │    ─ 5xx ────────────────────────────────► policy `5xx`
//!                     │    │    ─ no answer by a deadline, 408 ───────► debit (timeout)
//!                     │    │    ─ BYE, connection lost, host stopped ─► policy `close`
//!                     │    ├ not sent on after all, and nothing else was ► (unknown)
//!                     │    └ `#` ► given up ─ 2 s ────────────────────► policy `abort`
//!                     │             └ an answer stamped before the `#` counts as above
//!                     └ 200 for all, REPORT asked for (`debit_on=report`)
//!                              └► reporting ─ success REPORT for all ─► debit (response)
//!                                           └ none by the deadline ───► debit (timeout)
//! ```
//!
//! The end is told once, by value; whoever holds the message then remembers its name alone.

use super::ranges::Ranges;
use super::rule::{Ending, Rule};
use crate::charge::ch2::Trigger;
use crate::charge::event::{Flag, Sent, transaction};
use crate::charge::policy::{DebitOn, Policy, Settle};
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// Transactions kept per message. The answers of any beyond are not recognised; their deadline counts.
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
    deadline: Time,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// It is paid for, by this rule.
    Debit(Trigger, Rule),
    /// It costs nothing, by this rule.
    Free(Rule),
}

impl Settlement {
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

/// A message that is not settled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Message {
    id: Box<str>,
    /// When its first SEND passed.
    since: Time,
    outstanding: Vec<Transaction>,
    /// Confirmed by 200 (or by success REPORT, where the response decides).
    acknowledged: Ranges,
    /// Confirmed by success REPORT, where the REPORT decides.
    reported: Ranges,
    /// The last octet that went out.
    furthest: u64,
    /// `$` was seen: `furthest` is the end of the message.
    last: bool,
    /// Something chargeable went out.
    content: bool,
    success_report: bool,
    /// Of the wait for the REPORT, or of transactions beyond the bound.
    deadline: Option<Time>,
    /// When the server gave it up.
    aborted: Option<Time>,
}

impl Message {
    pub(super) fn new(id: &str, since: Time) -> Message {
        Message {
            id: id.into(),
            since,
            outstanding: Vec::new(),
            acknowledged: Ranges::default(),
            reported: Ranges::default(),
            furthest: 0,
            last: false,
            content: false,
            success_report: false,
            deadline: None,
            aborted: None,
        }
    }

    /// The name by which a settled message is remembered, and a REPORT finds one.
    pub(super) fn name_of(id: &str) -> u64 {
        transaction(id.as_bytes())
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// When its first SEND passed.
    pub(super) fn since(&self) -> Time {
        self.since
    }

    /// The last octet that went out.
    pub(super) fn octets(&self) -> u64 {
        self.furthest
    }

    /// Whether anything chargeable went out.
    pub(super) fn has_content(&self) -> bool {
        self.content
    }

    /// Whether this is a chunk seen before, by the transaction that still waits.
    pub(super) fn waits_for(&self, sent: &Sent<'_>) -> bool {
        self.outstanding.iter().any(|known| known.name == sent.transaction)
    }

    /// A chunk goes out.
    pub(super) fn send(&mut self, sent: &Sent<'_>, at: Time, policy: &Policy) -> Option<Settlement> {
        let start = sent.start.max(1);
        let end = start.saturating_add(sent.octets).saturating_sub(1);
        self.content |= sent.octets > 0 || sent.taken > 0;
        self.success_report |= sent.success_report;
        if sent.octets > 0 {
            self.furthest = self.furthest.max(end);
        }
        match sent.flag {
            Flag::Aborted => {
                self.aborted = Some(self.aborted.map_or(at, |known| known.min(at)));
                return None;
            }
            Flag::Last => self.last = true,
            Flag::More => {}
        }
        let deadline = at.after_seconds(policy.response_timeout);
        self.wait(Transaction { name: sent.transaction, start, end, deadline });
        self.completed(at, policy)
    }

    /// The same frame passes twice where both ends use this relay, and a resend may come under another
    /// transaction id: one more name for the same octets, and an answer to any of them will do.
    fn wait(&mut self, transaction: Transaction) {
        let confirmed =
            transaction.start <= transaction.end && self.acknowledged.covers(transaction.start, transaction.end);
        if confirmed || self.outstanding.iter().any(|known| known.name == transaction.name) {
            return;
        }
        if self.outstanding.len() >= TRANSACTIONS {
            let earliest = self.deadline.map_or(transaction.deadline, |known| known.min(transaction.deadline));
            self.deadline = Some(earliest);
            return;
        }
        if self.outstanding.len() < 4 {
            self.outstanding.reserve_exact(1);
        }
        self.outstanding.push(transaction);
    }

    /// A chunk was not sent after all. Where both ends use this relay it has passed under two transaction ids, so its octets
    /// are waited for under neither. Returns whether nothing of the message is with the client.
    pub(super) fn unsend(&mut self, transaction: u64) -> bool {
        let Some(known) = self.outstanding.iter().find(|known| known.name == transaction) else { return false };
        let octets = (known.start, known.end);
        self.outstanding.retain(|known| (known.start, known.end) != octets);
        let unanswered = self.acknowledged.is_empty() && self.reported.is_empty();
        self.outstanding.is_empty() && unanswered && self.deadline.is_none()
    }

    /// Whether the answer is about this message.
    pub(super) fn is_meant(&self, answer: &Answer) -> bool {
        match *answer {
            Answer::Response { transaction, .. } => self.outstanding.iter().any(|known| known.name == transaction),
            Answer::Report { message, .. } => Message::name_of(&self.id) == message,
        }
    }

    /// The client answers. Only what came before a deadline or a `#` counts, however late it is read.
    pub(super) fn answer(&mut self, answer: &Answer, at: Time, policy: &Policy) -> Option<Settlement> {
        if let Some(due) = self.due(at, policy) {
            return Some(due);
        }
        if self.aborted.is_some_and(|aborted| aborted <= at) {
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

    /// The end of a message that the client has taken whole: at once, or once its REPORT comes.
    ///
    /// `$` makes the last octet seen the end of the message, whatever total a Byte-Range names: the client
    /// confirms what was sent, not what was announced (RFC 4975, 7.3.1).
    fn completed(&mut self, at: Time, policy: &Policy) -> Option<Settlement> {
        let answered = self.furthest > 0 || self.outstanding.is_empty();
        let whole = |ranges: &Ranges| answered && ranges.covers(1, self.furthest);
        if !self.last || !self.content || self.aborted.is_some_and(|aborted| aborted <= at) {
            return None;
        }
        if !self.wants_report(policy) {
            let rule = Rule::DebitOn(DebitOn::Response);
            return whole(&self.acknowledged).then_some(Settlement::Debit(Trigger::Response, rule));
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
    fn end(&self, policy: &Policy) -> Option<(Time, Settlement)> {
        let silence = self.outstanding.iter().map(|known| known.deadline).chain(self.deadline).min();
        match self.aborted {
            // A response that came first may still be in another ring.
            Some(aborted) if silence.is_none_or(|deadline| aborted < deadline) => {
                Some((aborted.after_seconds(LATE), self.abort(policy)))
            }
            _ => {
                let rule = Rule::ResponseTimeout(policy.response_timeout);
                silence.map(|deadline| (deadline, Settlement::Debit(Trigger::Timeout, rule)))
            }
        }
    }

    /// When [`Message::due`] has something to say.
    pub(super) fn deadline(&self, policy: &Policy) -> Option<Time> {
        self.end(policy).map(|(when, _)| when)
    }

    /// The end by time.
    pub(super) fn due(&self, now: Time, policy: &Policy) -> Option<Settlement> {
        self.end(policy).filter(|(when, _)| *when <= now).map(|(_, settlement)| settlement)
    }

    /// The end because the session or its connection ends.
    pub(super) fn close(&self, ending: Ending, now: Time, policy: &Policy) -> Settlement {
        if let Some(due) = self.due(now, policy) {
            return due;
        }
        match self.aborted {
            Some(_) => self.abort(policy),
            None => Settlement::by(policy.close, Trigger::Close, Rule::Close(policy.close, ending)),
        }
    }

    fn abort(&self, policy: &Policy) -> Settlement {
        Settlement::by(policy.abort, Trigger::Close, Rule::Abort(policy.abort))
    }

    /// Waits for nothing longer than `latest`, and for nothing since a time that is still to come.
    pub(super) fn rebase(&mut self, now: Time, latest: Time) {
        self.since = self.since.min(now);
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
