//! Pending requests by their identifiers, and finished ones: a late answer may still have granted something.

use crate::charge::time::Time;
use crate::wire::diameter::dictionary::Command;
use crate::wire::diameter::{EndToEnd, Header, HopByHop};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

/// Seconds for which late answers are matched.
const FINISHED_SECONDS: u32 = 300;

/// Maximum number of finished requests; the oldest are forgotten first.
const FINISHED_MAX: usize = 16_384;

/// Identifies a request; increases in the order of sending.
pub(crate) type Serial = u64;

/// One connection of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Position of the peer.
    pub(crate) slot: usize,
    /// Number of the connection.
    pub(crate) number: u64,
}

/// A request without an answer.
#[derive(Debug)]
pub(crate) struct PendingRequest {
    /// Identifies the request in its outcome.
    pub(crate) name: u128,
    /// The message; empty if it may not move to another peer.
    pub(crate) message: Vec<u8>,
    pub(crate) command: Command,
    pub(crate) end_to_end: EndToEnd,
    pub(crate) deadline: Time,
    pub(crate) sent_at: Time,
    pub(crate) may_move: bool,
    /// It must not be executed twice.
    pub(crate) at_most_once: bool,
    /// It may have been sent before.
    pub(crate) possible_duplicate: bool,
    /// Origin-Host of the peer that has the session.
    pub(crate) preferred_host: Option<Box<str>>,
    /// Origin-Host of the last peer that may have received it.
    pub(crate) written_to: Option<Rc<str>>,
    /// Position of the peer whose answer is awaited.
    pub(crate) slot: usize,
    /// Hop-by-Hop Identifiers of its copies.
    pub(crate) copies: Vec<HopByHop>,
    /// Positions of the peers that could not deliver it.
    pub(crate) refused_by: Vec<usize>,
}

/// One copy of a request.
#[derive(Debug)]
pub(crate) struct Copy {
    serial: Serial,
    pub(crate) connection: Connection,
    command: Command,
    end_to_end: EndToEnd,
    /// Number of the message on its connection.
    pub(crate) number: u64,
}

/// A request that has ended, with copies that may still be answered.
#[derive(Debug)]
struct FinishedRequest {
    name: u128,
    copies: Vec<HopByHop>,
}

/// The request that an answer belongs to.
#[derive(Debug)]
pub(crate) enum Match {
    /// A pending request, which is taken out.
    Pending(Serial, PendingRequest),
    /// A finished request, and its name.
    Finished(Serial, u128),
    /// None.
    None,
}

/// Pending and finished requests.
#[derive(Debug, Default)]
pub(crate) struct PendingRequests {
    last: Serial,
    pending: HashMap<Serial, PendingRequest>,
    deadlines: BTreeSet<(Time, Serial)>,
    copies: HashMap<HopByHop, Copy>,
    finished: HashMap<Serial, FinishedRequest>,
    /// When finished requests are forgotten, in this order.
    forget_at: VecDeque<(Time, Serial)>,
}

impl PendingRequests {
    pub(crate) fn insert(&mut self, pending: PendingRequest) -> Serial {
        self.last += 1;
        self.deadlines.insert((pending.deadline, self.last));
        self.pending.insert(self.last, pending);
        self.last
    }

    /// Puts back a request whose answer did not end it.
    pub(crate) fn put_back(&mut self, serial: Serial, pending: PendingRequest) {
        self.deadlines.insert((pending.deadline, serial));
        self.pending.insert(serial, pending);
    }

    pub(crate) fn get(&self, serial: Serial) -> Option<&PendingRequest> {
        self.pending.get(&serial)
    }

    pub(crate) fn get_mut(&mut self, serial: Serial) -> Option<&mut PendingRequest> {
        self.pending.get_mut(&serial)
    }

    /// Whether this identifier is in use.
    pub(crate) fn is_taken(&self, hop_by_hop: HopByHop) -> bool {
        self.copies.contains_key(&hop_by_hop)
    }

    /// Adds a copy of a request. `number`: that of the message on its connection.
    pub(crate) fn sent(&mut self, serial: Serial, hop_by_hop: HopByHop, connection: Connection, number: u64) {
        let Some(pending) = self.pending.get_mut(&serial) else { return };
        pending.slot = connection.slot;
        pending.copies.push(hop_by_hop);
        let (command, end_to_end) = (pending.command, pending.end_to_end);
        self.copies.insert(hop_by_hop, Copy { serial, connection, command, end_to_end, number });
    }

    /// Finds the request of an answer by both identifiers, the command and the connection.
    pub(crate) fn answered(&mut self, header: &Header, connection: Connection) -> Match {
        let is_match = |copy: &Copy| {
            copy.connection == connection && copy.end_to_end == header.end_to_end && copy.command == header.command
        };
        if !self.copies.get(&header.hop_by_hop).is_some_and(is_match) {
            return Match::None;
        }
        let Some(copy) = self.copies.remove(&header.hop_by_hop) else { return Match::None };
        if let Some(finished) = self.finished.get_mut(&copy.serial) {
            finished.copies.retain(|other| *other != header.hop_by_hop);
            return Match::Finished(copy.serial, finished.name);
        }
        match self.take(copy.serial) {
            Some(mut pending) => {
                pending.copies.retain(|other| *other != header.hop_by_hop);
                Match::Pending(copy.serial, pending)
            }
            None => Match::None,
        }
    }

    /// Takes out a pending request. Its copies stay.
    pub(crate) fn take(&mut self, serial: Serial) -> Option<PendingRequest> {
        let pending = self.pending.remove(&serial)?;
        self.deadlines.remove(&(pending.deadline, serial));
        Some(pending)
    }

    /// Returns the copy with this identifier.
    pub(crate) fn copy(&self, hop_by_hop: HopByHop) -> Option<&Copy> {
        self.copies.get(&hop_by_hop)
    }

    /// Returns the requests that have copies on this connection, pending or finished.
    pub(crate) fn on(&self, connection: Connection) -> Vec<Serial> {
        self.copies.values().filter(|copy| copy.connection == connection).map(|copy| copy.serial).collect()
    }

    /// Removes a copy that will not be answered.
    pub(crate) fn drop_copy(&mut self, hop_by_hop: HopByHop) {
        self.copies.remove(&hop_by_hop);
    }

    /// Keeps a finished request whose `copies` may still be answered.
    pub(crate) fn remember(&mut self, serial: Serial, name: u128, copies: Vec<HopByHop>, now: Time) {
        if copies.is_empty() {
            return;
        }
        self.finished.insert(serial, FinishedRequest { name, copies });
        self.forget_at.push_back((now.after_seconds(FINISHED_SECONDS), serial));
        while self.forget_at.len() > FINISHED_MAX {
            self.forget_first();
        }
    }

    /// Forgets finished requests whose time is over.
    pub(crate) fn forget(&mut self, now: Time) {
        while self.forget_at.front().is_some_and(|(at, _)| *at <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((_, serial)) = self.forget_at.pop_front() else { return };
        let finished = self.finished.remove(&serial);
        for copy in finished.iter().flat_map(|finished| &finished.copies) {
            self.copies.remove(copy);
        }
    }

    /// Returns a pending request whose deadline has passed.
    pub(crate) fn overdue(&self, now: Time) -> Option<Serial> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, serial)| *serial)
    }

    /// Returns the first deadline.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}
