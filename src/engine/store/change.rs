//! Changes of a tick, and the changes that the tables lack.

use super::trace::TracePart;
use crate::charge::ch2::Trigger;
use crate::charge::content::ContentClass;
use crate::charge::session::{EndReason, Rule, Session, TraceEvent};
use crate::enabler::{Account, StatusEntry};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use thin_vec::ThinVec;

/// A change of durable state. The journal keeps changes in the order in which they were made; rows are those of the table
/// of sessions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A session is new or has changed.
    Session(SessionChange),
    /// The state of a settled session is not needed any more. Its row in the history stays.
    Forgotten {
        /// Row of the session.
        row: i64,
    },
    /// New values of an account whose units were held or released.
    Account {
        /// Account id.
        id: Box<str>,
        /// Its values.
        account: Account,
    },
    /// A recorded change of an account, with its new values.
    Balance(BalanceChange),
    /// Units that a session holds of its account.
    Held {
        /// Row of the session.
        row: i64,
        /// Units.
        units: i64,
    },
    /// A message was debited.
    Debited(Debit),
    /// A debit was refunded.
    Refunded(Refund),
    /// Positions of the rings of an instance.
    Marks {
        /// Run of the host.
        instance: u64,
        /// Positions.
        marks: Marks,
    },
    /// New trace events of a session.
    Trace {
        /// Row of the session.
        row: i64,
        /// Number of the first event.
        first: u32,
        /// What the times of the events count from, UNIX microseconds; `None`: the INVITE.
        zero: Option<i64>,
        /// The events.
        events: ThinVec<TraceEvent>,
    },
    /// A message was relayed to the client and is free.
    NotDebited(NotDebited),
    /// All sessions belong to this instance now, and the rings of all others are read.
    Adopted {
        /// Run of the host.
        instance: u64,
    },
}

/// A session that is new or has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionChange {
    /// Row of the session.
    pub row: i64,
    /// Of a new session: the run of the host that opened it, and the time (UNIX milliseconds).
    pub opened: Option<(u64, i64)>,
    /// When it was closed, UNIX milliseconds.
    pub closed_at: Option<i64>,
    /// Head of its state ([`Session::head`]).
    pub head: Vec<u8>,
    /// Parts of its state that have changed ([`Session::take_changed_parts`]).
    pub parts: Vec<(u32, Vec<u8>)>,
}

/// A message in the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageRecord {
    /// Row of its session.
    pub row: i64,
    /// Call-ID of its session.
    pub call_id: Box<str>,
    /// Message-ID.
    pub message_id: Box<str>,
    /// Account of the charged party.
    pub account: Box<str>,
    /// Size of the content.
    pub octets: u64,
    /// Price of the message.
    pub units: u64,
    /// What the message is.
    pub class: ContentClass,
    /// When it was debited or found to be free, UNIX milliseconds.
    pub wall_ms: i64,
}

/// A recorded change of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BalanceChange {
    /// Account id.
    pub id: Box<str>,
    /// Why it changed.
    pub kind: BalanceKind,
    /// By how much balance and held units together changed.
    pub amount: i64,
    /// Reference of the operator; of a debit or refund, the Call-ID.
    pub reference: Box<str>,
    /// Who changed it.
    pub by: Box<str>,
    /// Row of the session of a debit or refund.
    pub row: Option<i64>,
    /// The values after the change; of a removed account, the last ones.
    pub account: Account,
    /// UNIX milliseconds.
    pub wall_ms: i64,
}

/// Kind of a recorded change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BalanceKind {
    /// The account was created with the initial balance (`default_balance`).
    Initial,
    /// `account.set`.
    Set,
    /// `account.add`.
    Add,
    /// `account.limit`.
    Limit,
    /// `account.remove`.
    Remove,
    /// A message was debited.
    Debit,
    /// A debit was refunded.
    Refund,
}

impl BalanceKind {
    /// Returns the name in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            BalanceKind::Initial => "initial",
            BalanceKind::Set => "set",
            BalanceKind::Add => "add",
            BalanceKind::Limit => "limit",
            BalanceKind::Remove => "remove",
            BalanceKind::Debit => "debit",
            BalanceKind::Refund => "refund",
        }
    }
}

/// A debited message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debit {
    /// The message.
    pub message: MessageRecord,
    /// Number among the debits of the message.
    pub part: u32,
    /// What triggered the debit.
    pub trigger: Trigger,
    /// The rule that decided it.
    pub rule: Option<Rule>,
    /// Session-Id at the OCS, if charging records are kept.
    pub ocs_session_id: Option<Box<str>>,
}

/// A message that was relayed to the client and is free.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotDebited {
    /// The message, with the price that it would have had.
    pub message: MessageRecord,
    /// Why it is free.
    pub rule: Rule,
}

/// A refunded debit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Row of its session.
    pub row: i64,
    /// Message-ID.
    pub message_id: Box<str>,
    /// Number among the debits of the message.
    pub part: u32,
    /// The rule that decided it.
    pub rule: Rule,
    /// When it was refunded, UNIX milliseconds.
    pub wall_ms: i64,
}

/// Read and write positions of the rings of an instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Position up to which each event ring is read.
    pub events: Vec<u64>,
    /// Position up to which each notification queue is written.
    pub notifications: Vec<u64>,
}

/// Changes of a session that the tables lack.
#[derive(Default)]
pub struct PendingSession {
    /// As in [`SessionChange`], if the session has no row yet.
    pub opened: Option<(u64, i64)>,
    /// As in [`SessionChange`].
    pub closed_at: Option<i64>,
    /// Head of its state; `None`: unchanged.
    pub head: Option<Vec<u8>>,
    /// Changed parts of its state; an empty one was removed.
    pub parts: BTreeMap<u32, Vec<u8>>,
    /// Whether its state is to be removed.
    pub forgotten: bool,
    /// New trace events.
    pub trace: Vec<TracePart>,
    /// Summary of its state; `None`: to be computed from `head` and `parts`.
    pub summary: Option<Summary>,
}

/// Columns of the table of sessions that are derived from the state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Phase of the session.
    pub phase: &'static str,
    /// Messages (or kilobytes) granted in total.
    pub granted: u32,
    /// Units that the enabler holds for it.
    pub reserved: i64,
    /// Whether a response or an answer is outstanding.
    pub waiting: bool,
    /// Trace events that were not kept.
    pub steps_dropped: u32,
    /// Why it ended; `None` before.
    pub cause: Option<&'static str>,
    /// SIP status or Result-Code of the cause; 0: none.
    pub code: u32,
}

impl Summary {
    /// Computes the summary of a session.
    pub fn of(session: &Session) -> Summary {
        let end = session.end_reason();
        Summary {
            phase: session.phase(),
            granted: session.granted().0,
            reserved: super::tables::signed(session.reserved().0),
            waiting: session.has_unsettled_work(),
            steps_dropped: session.trace_events_dropped(),
            cause: end.map(EndReason::as_str),
            code: end.map_or(0, EndReason::code),
        }
    }
}

/// Times of trace events that differ by less, in microseconds, count from the same zero: the two clocks drift by less than
/// that meanwhile, unless one was set.
const SAME_ZERO_MICROS: i64 = 1000;

impl PendingSession {
    /// Decodes the session from the changed parts of its state, which are all of them if it is new. `None`: there are
    /// none, or they cannot be decoded.
    pub fn session(&self) -> Option<Session> {
        Session::load(self.head.as_deref()?, self.parts.values().filter(|part| !part.is_empty()).map(Vec::as_slice))
    }

    /// Returns the summary of its state; `None`: it cannot be decoded.
    pub fn summary(&self) -> Option<Summary> {
        self.summary.or_else(|| self.session().as_ref().map(Summary::of))
    }

    /// Adds trace events, to the last part where they follow it.
    fn add_trace(&mut self, part: TracePart) {
        let is_same = |one: Option<i64>, other: Option<i64>| match (one, other) {
            (Some(one), Some(other)) => (one - other).abs() < SAME_ZERO_MICROS,
            (one, other) => one == other,
        };
        let follows = |last: &&mut TracePart| last.next() == part.first && is_same(last.zero, part.zero);
        match self.trace.last_mut().filter(follows) {
            Some(last) => last.events.extend(part.events),
            None => self.trace.push(part),
        }
    }
}

/// Changes that the tables lack, coalesced.
#[derive(Default)]
pub struct Pending {
    /// By row.
    pub sessions: BTreeMap<i64, PendingSession>,
    /// By account id; `None`: removed.
    pub accounts: HashMap<Box<str>, Option<Account>>,
    /// In order.
    pub balance_changes: Vec<BalanceChange>,
    /// Index of each `account.add` in `balance_changes`, by account and reference.
    added: HashMap<(Box<str>, Box<str>), usize>,
    /// Units, by row of the session.
    pub holds: BTreeMap<i64, i64>,
    /// In order.
    pub debits: Vec<Debit>,
    debited: HashSet<(i64, Box<str>, u32)>,
    /// In order.
    pub refunds: Vec<Refund>,
    /// In order.
    pub not_debited: Vec<NotDebited>,
    /// By instance.
    pub marks: BTreeMap<u64, Marks>,
    /// Instance that all sessions belong to.
    pub adopted: Option<u64>,
    /// Status of the enabler's servers; not in the journal.
    pub enabler_status: Option<Vec<StatusEntry>>,
}

impl Pending {
    /// Applies the encoded changes of a journal record. `false`: they cannot be decoded.
    pub fn replay(&mut self, mut changes: &[u8]) -> bool {
        while !changes.is_empty() {
            let Ok((change, rest)) = postcard::take_from_bytes(changes) else { return false };
            self.apply(change);
            changes = rest;
        }
        true
    }

    /// Applies a change.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Session(SessionChange { row, opened, closed_at, head, parts }) => {
                let session = self.session(row);
                session.opened = session.opened.or(opened);
                session.closed_at = session.closed_at.or(closed_at);
                session.head = Some(head);
                session.parts.extend(parts);
                session.summary = None;
            }
            Change::Forgotten { row } => self.session(row).forgotten = true,
            Change::Account { id, account } => drop(self.accounts.insert(id, Some(account))),
            Change::Balance(change) => {
                let account = (change.kind != BalanceKind::Remove).then_some(change.account);
                self.accounts.insert(change.id.clone(), account);
                if change.kind == BalanceKind::Add {
                    let at = self.balance_changes.len();
                    self.added.insert((change.id.clone(), change.reference.clone()), at);
                }
                self.balance_changes.push(change);
            }
            Change::Held { row, units } => drop(self.holds.insert(row, units)),
            Change::Debited(debit) => {
                let key = (debit.message.row, debit.message.message_id.clone(), debit.part);
                if self.debited.insert(key) {
                    self.debits.push(debit);
                }
            }
            Change::Refunded(refund) => self.refunds.push(refund),
            Change::Marks { instance, marks } => drop(self.marks.insert(instance, marks)),
            Change::Trace { row, first, zero, events } => {
                self.session(row).add_trace(TracePart { first, zero, events });
            }
            Change::NotDebited(message) => self.not_debited.push(message),
            Change::Adopted { instance } => {
                self.marks.retain(|of, _| *of == instance);
                self.adopted = Some(instance);
            }
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        let no_records = self.sessions.is_empty() && self.debits.is_empty() && self.refunds.is_empty();
        let no_money = self.accounts.is_empty() && self.holds.is_empty() && self.not_debited.is_empty();
        no_records && no_money && self.marks.is_empty() && self.adopted.is_none() && self.enabler_status.is_none()
    }

    /// Whether this debit of a message is pending.
    pub fn is_debited(&self, row: i64, message_id: &str, part: u32) -> bool {
        !self.debits.is_empty() && self.debited.contains(&(row, message_id.into(), part))
    }

    /// Returns the units of a pending debit; `None`: it is not pending.
    pub fn charged(&self, row: i64, message_id: &str, part: u32) -> Option<u64> {
        let is_meant = |Debit { message, part: of, .. }: &&Debit| {
            (message.row, &*message.message_id, *of) == (row, message_id, part)
        };
        self.debits.iter().find(is_meant).map(|debit| debit.message.units)
    }

    /// Whether a refund of this debit is pending.
    pub fn is_refunded(&self, row: i64, message_id: &str, part: u32) -> bool {
        let is_meant = |refund: &Refund| (refund.row, &*refund.message_id, refund.part) == (row, message_id, part);
        self.refunds.iter().any(is_meant)
    }

    /// Returns the pending `account.add` with this reference.
    pub fn added(&self, id: &str, reference: &str) -> Option<&BalanceChange> {
        if self.added.is_empty() {
            return None;
        }
        self.balance_changes.get(*self.added.get(&(id.into(), reference.into()))?)
    }

    /// Sets the summary of a pending session, which saves decoding its state.
    pub fn set_summary(&mut self, row: i64, summary: Summary) {
        self.session(row).summary = Some(summary);
    }

    fn session(&mut self, row: i64) -> &mut PendingSession {
        self.sessions.entry(row).or_default()
    }
}
