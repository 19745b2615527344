//! What a turn changes, and what of it the tables do not show yet.

use super::steps::Part;
use crate::charge::session::{Rule, Session, TraceEvent};
use crate::enabler::diameter::client::connections::PeerStatus;
use crate::enabler::ledger::Account;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use thin_vec::ThinVec;

/// One change of what is durable. The journal keeps them in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Change {
    /// A session is new, or has moved.
    Session(SessionChange),
    /// The state of a settled session is not needed any more; its record stays.
    Forgotten {
        /// Row.
        row: i64,
    },
    /// An account, as it is now.
    Account {
        /// Its id.
        id: Box<str>,
        /// What it has.
        account: Account,
    },
    /// Units that a session holds of its account.
    Held {
        /// Row of the session.
        row: i64,
        /// Units.
        units: i64,
    },
    /// A message is debited.
    Debited(Debit),
    /// What a message cost is given back.
    Refunded(Refund),
    /// How far the rings of an instance are read and written.
    Marks {
        /// Which run of the host.
        instance: u64,
        /// The positions.
        marks: Marks,
    },
    /// Something has happened in a session.
    Steps {
        /// Row.
        row: i64,
        /// Number of the first step.
        first: u32,
        /// What the times of the steps count from, UNIX microseconds; `None`: the INVITE.
        zero: Option<i64>,
        /// The steps.
        steps: ThinVec<TraceEvent>,
    },
    /// A message that went to the client costs nothing.
    NotDebited(NotDebited),
    /// All sessions belong to this run of the host now, and the rings of every other are read.
    Adopted {
        /// Which run of the host.
        instance: u64,
    },
}

/// A session that is new, or has moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionChange {
    /// Row.
    pub row: i64,
    /// Of a new session: which run of the host opened it, and when (UNIX milliseconds).
    pub opened: Option<(u64, i64)>,
    /// When it was closed, UNIX milliseconds.
    pub closed_at: Option<i64>,
    /// The head of the machine ([`Session::head`]).
    pub head: Vec<u8>,
    /// The parts of it that have changed ([`Session::take_changed_parts`]).
    pub parts: Vec<(u32, Vec<u8>)>,
}

/// One debited message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debit {
    /// Row of its session.
    pub row: i64,
    /// Call-ID of its session.
    pub call_id: Box<str>,
    /// Message-ID.
    pub message_id: Box<str>,
    /// Number among the debits of the message.
    pub part: u32,
    /// Who paid.
    pub account: Box<str>,
    /// Size of the content.
    pub octets: u64,
    /// What it cost.
    pub units: u64,
    /// Word of the trigger.
    pub trigger: Box<str>,
    /// MSRP status, for a debit on error; else 0.
    pub code: u16,
    /// When, UNIX milliseconds.
    pub wall_ms: i64,
}

/// One message that went to the client and costs nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotDebited {
    /// Row of its session.
    pub row: i64,
    /// Call-ID of its session.
    pub call_id: Box<str>,
    /// Message-ID.
    pub message_id: Box<str>,
    /// Who does not pay.
    pub account: Box<str>,
    /// Size of the content.
    pub octets: u64,
    /// What it would have cost.
    pub units: u64,
    /// Why.
    pub rule: Rule,
    /// When, UNIX milliseconds.
    pub wall_ms: i64,
}

/// A debit that was given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// Row of its session.
    pub row: i64,
    /// Message-ID.
    pub message_id: Box<str>,
    /// Number among the debits of the message.
    pub part: u32,
    /// When, UNIX milliseconds.
    pub wall_ms: i64,
}

/// Read and write positions of the rings.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// Up to where each event ring is read.
    pub events: Vec<u64>,
    /// Up to where each notification queue is written.
    pub notifications: Vec<u64>,
}

/// A session of which the tables are behind.
pub struct PendingSession {
    /// Of a session that has no row yet.
    pub opened: Option<(u64, i64)>,
    /// As in [`SessionChange`].
    pub closed_at: Option<i64>,
    /// The head of the machine; `None`: only forgotten.
    pub head: Option<Vec<u8>>,
    /// Parts of it that have changed; an empty one is gone.
    pub parts: BTreeMap<u32, Vec<u8>>,
    /// Its state goes.
    pub forgotten: bool,
    /// What has happened in it.
    pub steps: Vec<Part>,
    /// What the machine says; `None`: ask it.
    pub shown: Option<Shown>,
}

/// What the table of sessions shows of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Where it stands.
    pub phase: &'static str,
    /// Messages (or kilobytes) granted in all.
    pub granted: u32,
    /// Units that the enabler holds for it.
    pub reserved: i64,
    /// Whether anything of it has no answer.
    pub waiting: bool,
    /// Steps that were not kept.
    pub steps_dropped: u32,
}

impl Shown {
    /// Of this machine.
    pub fn of(session: &Session) -> Shown {
        Shown {
            phase: session.phase(),
            granted: session.granted().0,
            reserved: i64::try_from(session.reserved().0).unwrap_or(i64::MAX),
            waiting: session.has_unsettled_work(),
            steps_dropped: session.trace_events_dropped(),
        }
    }
}

impl PendingSession {
    /// The machine, with the parts that have changed; `None`: there is nothing new of it, or it cannot be read. Complete
    /// where the session is new.
    pub fn session(&self) -> Option<Session> {
        Session::load(self.head.as_deref()?, self.parts.values().filter(|part| !part.is_empty()).map(Vec::as_slice))
    }

    /// Steps that follow each other are one part. The clocks drift by less than a millisecond meanwhile, or were set.
    fn add(&mut self, part: Part) {
        let near = |one: Option<i64>, other: Option<i64>| match (one, other) {
            (Some(one), Some(other)) => (one - other).abs() < 1000,
            (one, other) => one == other,
        };
        let follows = |last: &&mut Part| last.next() == part.first && near(last.zero, part.zero);
        match self.steps.last_mut().filter(follows) {
            Some(last) => last.steps.extend(part.steps),
            None => self.steps.push(part),
        }
    }
}

/// Where the tables are behind: the latest of everything that has changed.
#[derive(Default)]
pub struct Pending {
    /// By row.
    pub sessions: BTreeMap<i64, PendingSession>,
    /// By id.
    pub accounts: HashMap<Box<str>, Account>,
    /// By row of the session.
    pub holds: BTreeMap<i64, i64>,
    /// In their order.
    pub debits: Vec<Debit>,
    debited: HashSet<(i64, Box<str>, u32)>,
    /// In their order.
    pub refunds: Vec<Refund>,
    /// In their order.
    pub undebited: Vec<NotDebited>,
    /// Of each instance.
    pub marks: BTreeMap<u64, Marks>,
    /// Which run of the host all sessions belong to.
    pub adopted: Option<u64>,
    /// As they stand now; not worth a place in the journal.
    pub peers: Option<Vec<PeerStatus>>,
}

impl Pending {
    /// Takes over a change.
    pub fn take(&mut self, change: Change) {
        match change {
            Change::Session(SessionChange { row, opened, closed_at, head, parts }) => {
                let session = self.session(row);
                session.opened = session.opened.or(opened);
                session.closed_at = session.closed_at.or(closed_at);
                session.head = Some(head);
                session.parts.extend(parts);
                session.shown = None;
            }
            Change::Forgotten { row } => self.session(row).forgotten = true,
            Change::Account { id, account } => {
                self.accounts.insert(id, account);
            }
            Change::Held { row, units } => {
                self.holds.insert(row, units);
            }
            Change::Debited(debit) => {
                if self.debited.insert((debit.row, debit.message_id.clone(), debit.part)) {
                    self.debits.push(debit);
                }
            }
            Change::Refunded(refund) => self.refunds.push(refund),
            Change::Marks { instance, marks } => {
                self.marks.insert(instance, marks);
            }
            Change::Steps { row, first, zero, steps } => self.session(row).add(Part { first, zero, steps }),
            Change::NotDebited(message) => self.undebited.push(message),
            Change::Adopted { instance } => {
                self.marks.retain(|of, _| *of == instance);
                self.adopted = Some(instance);
            }
        }
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        let no_records = self.sessions.is_empty() && self.debits.is_empty() && self.refunds.is_empty();
        let no_money = self.accounts.is_empty() && self.holds.is_empty() && self.undebited.is_empty();
        no_records && no_money && self.marks.is_empty() && self.adopted.is_none() && self.peers.is_none()
    }

    /// Whether this debit of a message is pending.
    pub fn is_debited(&self, row: i64, message_id: &str, part: u32) -> bool {
        !self.debits.is_empty() && self.debited.contains(&(row, message_id.into(), part))
    }

    /// What the pending debit of a message takes; `None`: none is pending.
    pub fn charged(&self, row: i64, message_id: &str, part: u32) -> Option<u64> {
        let is_meant = |debit: &&Debit| (debit.row, &*debit.message_id, debit.part) == (row, message_id, part);
        self.debits.iter().find(is_meant).map(|debit| debit.units)
    }

    /// Whether a refund of this debit is pending.
    pub fn is_refunded(&self, row: i64, message_id: &str, part: u32) -> bool {
        let is_meant = |refund: &Refund| (refund.row, &*refund.message_id, refund.part) == (row, message_id, part);
        self.refunds.iter().any(is_meant)
    }

    /// What the machine of a pending session says, so that it need not be read again.
    pub fn show(&mut self, row: i64, shown: Shown) {
        self.session(row).shown = Some(shown);
    }

    fn session(&mut self, row: i64) -> &mut PendingSession {
        let fresh = || PendingSession {
            opened: None,
            closed_at: None,
            head: None,
            parts: BTreeMap::new(),
            forgotten: false,
            steps: Vec::new(),
            shown: None,
        };
        self.sessions.entry(row).or_insert_with(fresh)
    }
}
