//! An open message: its chunks, the transactions that wait for an answer, and what ends the wait.
//!
//! ```text
//!             SEND                200 for all of 1..=last ─────────────► debit (response)
//!   (unknown) ────► outstanding ─ 4xx, failure REPORT ────────────────► debit (error)
//!                     │    │    ─ 5xx ────────────────────────────────► policy `5xx`
//!                     │    │    ─ no answer by a deadline, 408 ───────► debit (timeout)
//!                     │    │    ─ BYE, connection lost, host stopped ─► policy `close`
//!                     │    ├ could not be relayed, nor anything else of it ► (unknown)
//!                     │    ├ `#` before the last octet ─ 2 s ──────────► policy `abort`
//!                     │    │             └ an answer received before the `#` counts as above
//!                     │    └ the gate stopped the rest ─ 200 for all that passed ► debit (response)
//!                     └ 200 for all, REPORT requested (`debit_on=report`)
//!                              └► reporting ─ success REPORT for all ─► debit (response)
//!                                           └ none by the deadline ───► debit (timeout)
//! ```
//!
//! A message is debited with what the gate took for its chunks, whatever their Byte-Range says. Every message has a
//! deadline from its first chunk on: one with gaps, or whose last chunk never arrives, ends
//! [`Policy::response_timeout`] after the last chunk that passed.
//!
//! This is content that its receiver pays for. If the sender pays ([`Payer::Sender`]), the receiver, who has no reason to
//! lie, decides, and the sender may pose as the receiver:
//!
//! * a 4xx or 5xx releases by default, [`RING_SKEW_SECONDS`] later. Until then, and for [`Policy::response_timeout`] after
//!   the last chunk, a 200 to the SEND that failed, or for all of the message, debits it nevertheless
//!   ([`OpenMessage::contradict`]);
//! * a failure releases nothing if the sender wants no responses (Failure-Report: no, partial), since then no 200 can
//!   contradict it, and a failure REPORT releases nothing of which a part was confirmed;
//! * a `#` debits by default what has passed, unless the receiver refuses the message within [`RING_SKEW_SECONDS`];
//! * a message ends with its `$`: what is sent under the same Message-ID afterwards is another message.
//!
//! If size has a price, a message that is settled before its last octet has passed is stopped at the gate first and
//! settled 2 s later: chunks that passed before may still be in other rings ([`OpenMessage::settle_later`]).

mod answers;

pub(super) use answers::Answer;

use super::RING_SKEW_SECONDS;
use super::ranges::Ranges;
use super::rule::{CloseCause, Rule};
use super::settlement::Settlement;
use super::takeover::ClockShift;
use crate::charge::ch2::Trigger;
use crate::charge::content::ContentClass;
use crate::charge::event::{FailureReport, Flag, Sent, transaction_hash};
use crate::charge::policy::{DebitOn, Payer, Policy};
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// Transactions kept per message. The answers to others are not recognised; their deadline counts.
const TRANSACTIONS_MAX: usize = 256;

/// A chunk that waits for its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Transaction {
    /// Hash of its id; see [`transaction_hash`].
    hash: u64,
    start: u64,
    /// Last octet; `start - 1` for a chunk without content.
    end: u64,
    /// What the gate took for the chunk.
    taken: u32,
    /// It passes this relay a second time, under this id; its octets are counted under the first.
    is_second_pass: bool,
    deadline: Time,
}

impl Transaction {
    fn octets(&self) -> u64 {
        if self.is_second_pass || self.end < self.start { 0 } else { (self.end - self.start).saturating_add(1) }
    }
}

/// A settlement that waits for chunks that passed before the gate stopped the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct DelayedSettlement {
    settlement: Settlement,
    /// Time of the event that triggered it.
    since: Time,
    until: Time,
}

/// A message that is not settled yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OpenMessage {
    /// Number among all items that the session stores in parts.
    number: u32,
    /// Number of its debit among those of its Message-ID.
    part: u32,
    id: Box<str>,
    /// Time of its first SEND.
    since: Time,
    outstanding: ThinVec<Transaction>,
    /// Confirmed by 200, or by success REPORT if the response decides.
    acknowledged: Ranges,
    /// Confirmed by success REPORT, if the REPORT decides.
    reported: Ranges,
    /// Octets sent without a gap from the first.
    contiguous: u64,
    /// Position of the last octet sent.
    furthest: u64,
    /// Octets sent.
    octets: u64,
    /// What the gate took for them.
    taken: u32,
    /// Class of the content; text until content is read.
    class: ContentClass,
    /// Size of the message if a Byte-Range says so, else 0.
    total: u64,
    /// `$` was seen: `furthest` is the end of the message.
    has_end: bool,
    /// The gate has stopped a chunk and lets nothing more of the message pass.
    is_stopped: bool,
    wants_success_report: bool,
    /// A SEND of it wants no response if it succeeds.
    is_unconfirmed: bool,
    /// Transaction that the receiver refused; 0: none, or refused by REPORT.
    refused: u64,
    /// Time of the SEND with `$`.
    ended_at: Option<Time>,
    /// Time of its last chunk.
    last_sent_at: Time,
    /// Of the wait for the REPORT, or of transactions beyond [`TRANSACTIONS_MAX`].
    deadline: Option<Time>,
    /// When the sender aborted it, and over which connection.
    aborted_at: Option<Time>,
    aborted_over: ConnectionTag,
    /// Connection of its first content.
    connection: ConnectionTag,
    delayed: Option<Box<DelayedSettlement>>,
}

/// A connection, folded to 32 bits because there is one in each open message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ConnectionTag(u32);

impl ConnectionTag {
    /// No connection yet, or the host does not report it.
    const UNKNOWN: ConnectionTag = ConnectionTag(0);

    fn new(connection: u64) -> ConnectionTag {
        ConnectionTag((connection >> 32) as u32 ^ connection as u32)
    }

    /// Whether both may be the same connection.
    fn may_be(self, other: ConnectionTag) -> bool {
        [self, other].contains(&ConnectionTag::UNKNOWN) || self == other
    }
}

impl OpenMessage {
    pub(super) fn new(number: u32, part: u32, id: &str, since: Time) -> OpenMessage {
        OpenMessage {
            number,
            part,
            id: id.into(),
            since,
            outstanding: ThinVec::new(),
            acknowledged: Ranges::default(),
            reported: Ranges::default(),
            contiguous: 0,
            furthest: 0,
            octets: 0,
            taken: 0,
            class: ContentClass::Text,
            total: 0,
            has_end: false,
            is_stopped: false,
            wants_success_report: false,
            is_unconfirmed: false,
            refused: 0,
            ended_at: None,
            last_sent_at: since,
            deadline: None,
            aborted_at: None,
            aborted_over: ConnectionTag::UNKNOWN,
            connection: ConnectionTag::UNKNOWN,
            delayed: None,
        }
    }

    /// Hash of a Message-ID, by which a settled message is remembered and a REPORT finds its message.
    pub(super) fn hash_of(id: &str) -> u64 {
        transaction_hash(id.as_bytes())
    }

    /// Number among all items that the session stores in parts.
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

    /// Time of its first SEND.
    pub(super) fn since(&self) -> Time {
        self.since
    }

    /// Octets sent that are charged.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// Class of its content; text until content is read.
    pub(super) fn class(&self) -> ContentClass {
        self.class
    }

    /// What the gate took for it.
    pub(super) fn taken(&self) -> Quota {
        Quota(self.taken)
    }

    /// Corrects what is to be debited for it.
    pub(super) fn set_taken(&mut self, taken: Quota) {
        self.taken = taken.0;
    }

    /// Whether anything chargeable was sent.
    pub(super) fn has_content(&self) -> bool {
        self.octets > 0 || self.taken > 0
    }

    /// [`OpenMessage::hash_of`] its Message-ID.
    pub(super) fn id_hash(&self) -> u64 {
        OpenMessage::hash_of(&self.id)
    }

    /// Hashes of the ids of its unanswered transactions.
    pub(super) fn transactions(&self) -> impl ExactSizeIterator<Item = u64> {
        self.outstanding.iter().map(|transaction| transaction.hash)
    }

    /// Whether the server had aborted it by this time. Of two frames with the same time, the one read first counts as first.
    pub(super) fn is_aborted_by(&self, at: Time) -> bool {
        self.aborted_at.is_some_and(|aborted| aborted <= at)
    }

    /// Whether a chunk with content at this time belongs to another message under the same Message-ID.
    pub(super) fn is_replaced_at(&self, at: Time, policy: &Policy) -> bool {
        let has_ended = || self.ended_at.is_some_and(|ended| ended <= at);
        self.is_aborted_by(at) || policy.cases.payer == Payer::Sender && has_ended()
    }

    /// Whether nothing more of it can pass, or has to.
    pub(super) fn is_over(&self) -> bool {
        self.is_complete() || self.is_stopped || self.aborted_at.is_some()
    }

    /// Whether all of it was sent.
    fn is_complete(&self) -> bool {
        self.has_end || (self.total > 0 && self.contiguous >= self.total)
    }

    /// Handles a chunk that passed the gate. `has_room`: its transaction may be kept.
    pub(super) fn send(&mut self, sent: &Sent<'_>, at: Time, has_room: bool, policy: &Policy) -> Option<Settlement> {
        let (start, end) = range_of(sent);
        let file_octets = if self.octets == 0 { sent.file_octets } else { 0 };
        self.octets = self.octets.saturating_add(sent.octets).saturating_add(file_octets);
        self.taken = self.taken.saturating_add(sent.taken);
        self.wants_success_report |= sent.success_report;
        self.is_unconfirmed |= sent.failure_report != FailureReport::Yes;
        self.last_sent_at = self.last_sent_at.max(at);
        if sent.octets > 0 {
            self.class = sent.class;
            self.belongs_to(ConnectionTag::new(sent.connection));
            self.furthest = self.furthest.max(end);
            self.add_free(sent.free_octets);
            if start <= self.contiguous.saturating_add(1) {
                self.contiguous = self.contiguous.max(end);
            }
            self.total = sent.total.unwrap_or(self.total);
        }
        match sent.flag {
            Flag::Aborted => {
                let connection = ConnectionTag::new(sent.connection);
                if !self.is_complete() && self.connection.may_be(connection) {
                    self.aborted_at = Some(self.aborted_at.map_or(at, |known| known.min(at)));
                    self.aborted_over = connection;
                }
                return self.delayed_settlement();
            }
            Flag::Last => {
                self.has_end = true;
                self.ended_at = Some(self.ended_at.map_or(at, |known| known.min(at)));
                // A `#` after the last octet was read before it.
                self.aborted_at = self.aborted_at.filter(|aborted| *aborted < at);
            }
            Flag::More => {}
        }
        let deadline = at.after_seconds(policy.response_timeout);
        let (hash, taken) = (sent.transaction, sent.taken);
        self.await_answer(Transaction { hash, start, end, taken, is_second_pass: false, deadline }, has_room);
        if self.has_end && self.delayed.is_some() {
            return self.delayed_settlement();
        }
        self.completed(at, policy)
    }

    /// Notes that the first octets have passed as free content. The session does not learn of the answers to them.
    fn add_free(&mut self, octets: u64) {
        if octets > 0 {
            self.acknowledged.add(1, octets);
            self.reported.add(1, octets);
            self.contiguous = self.contiguous.max(octets);
        }
    }

    /// Notes the connection of the first content. Only the sender over that connection can abort the message: each dialog of
    /// a forked INVITE has another server, and a client may pose as one that is silent.
    fn belongs_to(&mut self, connection: ConnectionTag) {
        if self.connection == ConnectionTag::UNKNOWN {
            self.connection = connection;
        }
        if !self.connection.may_be(self.aborted_over) {
            self.aborted_at = None;
        }
    }

    /// Handles a chunk that passes this relay a second time, under another transaction id. `chunk`: its first octet and its
    /// number of octets.
    pub(super) fn pass_again(&mut self, hash: u64, chunk: (u64, u64), at: Time, has_room: bool, policy: &Policy) {
        let (start, octets) = (chunk.0.max(1), chunk.1);
        let end = start.saturating_add(octets).saturating_sub(1);
        let deadline = at.after_seconds(policy.response_timeout);
        self.await_answer(Transaction { hash, start, end, taken: 0, is_second_pass: true, deadline }, has_room);
    }

    /// Adds a transaction. A resend may use another transaction id for the same octets; an answer to any of them counts.
    fn await_answer(&mut self, transaction: Transaction, has_room: bool) {
        let confirmed =
            transaction.start <= transaction.end && self.acknowledged.covers(transaction.start, transaction.end);
        if confirmed || self.outstanding.iter().any(|known| known.hash == transaction.hash) {
            return;
        }
        if self.outstanding.len() >= TRANSACTIONS_MAX || !has_room {
            let earliest = self.deadline.map_or(transaction.deadline, |known| known.min(transaction.deadline));
            self.deadline = Some(earliest);
            return;
        }
        if self.outstanding.len() < 4 {
            self.outstanding.reserve_exact(1);
        }
        self.outstanding.push(transaction);
    }

    /// Handles a chunk that the gate stopped: nothing more of the message passes.
    pub(super) fn stop(&mut self, at: Time, policy: &Policy) -> Option<Settlement> {
        // The stopped chunk belongs to an earlier message with the same Message-ID.
        if at < self.since {
            return None;
        }
        self.is_stopped = true;
        if self.delayed.is_some() { self.delayed_settlement() } else { self.completed(at, policy) }
    }

    /// Settles the message once chunks that passed before the gate stopped its rest must have been read.
    pub(super) fn settle_later(&mut self, settlement: Settlement, since: Time, now: Time) {
        let until = now.after_seconds(RING_SKEW_SECONDS);
        self.delayed = Some(Box::new(DelayedSettlement { settlement, since, until }));
    }

    /// Time of the event that triggered the settlement, if that was decided before.
    pub(super) fn settled_since(&self) -> Option<Time> {
        self.delayed.as_ref().map(|delayed| delayed.since)
    }

    fn delayed_settlement(&self) -> Option<Settlement> {
        self.delayed.as_ref().map(|delayed| delayed.settlement)
    }

    /// Handles a chunk that could not be relayed; resends of the same octets could not either. Returns what the gate took
    /// for them, or `None` if nothing of the message was relayed.
    pub(super) fn unsend(&mut self, transaction: u64) -> Option<Quota> {
        let Some(known) = self.outstanding.iter().find(|known| known.hash == transaction) else {
            return Some(Quota(0));
        };
        let range = (known.start, known.end);
        let is_meant = |known: &Transaction| (known.start, known.end) == range;
        let meant = || self.outstanding.iter().filter(|known| is_meant(known));
        let octets = meant().map(Transaction::octets).fold(0, u64::saturating_add);
        let taken = meant().map(|known| known.taken).fold(0, u32::saturating_add);
        self.outstanding.retain(|known| !is_meant(known));
        self.octets = self.octets.saturating_sub(octets);
        // Octets that have passed as free content are acknowledged, but not charged.
        let unanswered = self.octets == 0 || self.acknowledged.is_empty() && self.reported.is_empty();
        if self.outstanding.is_empty() && unanswered && self.deadline.is_none() {
            return None;
        }
        // What was relayed costs at least one.
        let kept = self.taken.saturating_sub(taken).max(1).min(self.taken);
        let given_back = self.taken - kept;
        self.taken = kept;
        Some(Quota(given_back))
    }

    fn wants_report(&self, policy: &Policy) -> bool {
        policy.debit_on == DebitOn::Report && self.wants_success_report
    }

    /// Settlement of a message that the client has confirmed as far as it passed the gate: at once, or when its REPORT
    /// arrives.
    ///
    /// `$` makes the last octet seen the end of the message, whatever the total of a Byte-Range: the client confirms what
    /// was sent, not what was announced (RFC 4975, 7.3.1).
    fn completed(&mut self, at: Time, policy: &Policy) -> Option<Settlement> {
        let is_at_end = self.has_end || self.is_stopped;
        if !is_at_end || !self.has_content() || self.is_aborted_by(at) || self.delayed.is_some() {
            return None;
        }
        let by_response = Settlement::Debit(Trigger::Response, Rule::DebitOn(DebitOn::Response));
        if self.is_stopped {
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

    /// What settles the message if nothing more arrives, and when.
    fn end(&self, policy: &Policy) -> (Time, Settlement) {
        if let Some(delayed) = &self.delayed {
            return (delayed.until, delayed.settlement);
        }
        let answers = self.outstanding.iter().map(|known| known.deadline).chain(self.deadline).min();
        let silence = answers.unwrap_or_else(|| self.last_sent_at.after_seconds(policy.response_timeout));
        match self.aborted_at {
            // A response that arrived first may still be in another ring.
            Some(aborted) if aborted < silence => (aborted.after_seconds(RING_SKEW_SECONDS), self.abort(policy)),
            _ => {
                let rule = Rule::ResponseTimeout(policy.response_timeout, policy.cases.timeout);
                (silence, Settlement::new(policy.cases.timeout, Trigger::Timeout, rule))
            }
        }
    }

    /// When [`OpenMessage::due`] returns a settlement.
    pub(super) fn deadline(&self, policy: &Policy) -> Time {
        self.end(policy).0
    }

    /// Settlement by a deadline that has passed.
    pub(super) fn due(&self, now: Time, policy: &Policy) -> Option<Settlement> {
        let (when, settlement) = self.end(policy);
        (when <= now).then_some(settlement)
    }

    /// Settlement because the session or its connection has ended.
    pub(super) fn close(&self, cause: CloseCause, now: Time, policy: &Policy) -> Settlement {
        if let Some(due) = self.due(now, policy).or(self.delayed_settlement()) {
            return due;
        }
        match self.aborted_at {
            Some(_) => self.abort(policy),
            None => Settlement::new(policy.cases.close, Trigger::Close, Rule::Close(policy.cases.close, cause)),
        }
    }

    /// Settlement because another message under the same Message-ID follows.
    pub(super) fn replace(&self, cause: CloseCause, now: Time, policy: &Policy) -> Settlement {
        match self.aborted_at.is_none() && self.delayed.is_none() {
            true => Settlement::Debit(Trigger::Close, Rule::IdReused),
            false => self.close(cause, now, policy),
        }
    }

    /// Settlement because the sender has aborted it.
    fn abort(&self, policy: &Policy) -> Settlement {
        Settlement::new(policy.cases.abort, Trigger::Close, Rule::Abort(policy.cases.abort))
    }

    /// Limits deadlines to `latest` and times of the past to `now`.
    pub(super) fn rebase(&mut self, now: Time, latest: Time) {
        self.since = self.since.min(now);
        self.last_sent_at = self.last_sent_at.min(now);
        if let Some(delayed) = &mut self.delayed {
            delayed.since = delayed.since.min(now);
            delayed.until = delayed.until.min(now.after_seconds(RING_SKEW_SECONDS));
        }
        self.outstanding.iter_mut().for_each(|known| known.deadline = known.deadline.min(latest));
        self.deadline = self.deadline.map(|deadline| deadline.min(latest));
        self.aborted_at = self.aborted_at.map(|aborted| aborted.min(latest));
        self.ended_at = self.ended_at.map(|ended| ended.min(now));
    }

    /// Moves all times to the clock of this machine.
    pub(super) fn shift_times(&mut self, shift: ClockShift) {
        shift.apply_all([&mut self.since, &mut self.last_sent_at]);
        shift.apply_all(self.outstanding.iter_mut().map(|known| &mut known.deadline));
        shift.apply_all(self.deadline.iter_mut().chain(&mut self.aborted_at).chain(&mut self.ended_at));
        if let Some(delayed) = &mut self.delayed {
            shift.apply_all([&mut delayed.since, &mut delayed.until]);
        }
    }

    /// Octets on the heap.
    #[cfg(test)]
    pub(super) fn heap_octets(&self) -> usize {
        self.id.len()
            + self.outstanding.capacity() * size_of::<Transaction>()
            + (self.acknowledged.len() + self.reported.len()) * size_of::<(u64, u64)>()
    }
}

/// First and last octet of a chunk; the last is `first - 1` for one without content.
fn range_of(sent: &Sent<'_>) -> (u64, u64) {
    let start = sent.start.max(1);
    (start, start.saturating_add(sent.octets).saturating_sub(1))
}
