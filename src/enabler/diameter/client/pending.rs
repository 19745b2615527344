//! Requests on their way: which wait for an answer, under which identifiers they went where, and those whose time was
//! over, because an answer that comes late may still have granted something.

use crate::charge::time::Time;
use crate::wire::diameter::dictionary::Command;
use crate::wire::diameter::{EndToEnd, Header, HopByHop};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

/// Seconds for which the answer to a request that is over is still known.
const LATE_FOR: u32 = 300;

/// And of how many requests, the oldest go first.
const LATE_MAX: usize = 16_384;

/// Which request: they rise in the order of sending.
pub(crate) type Serial = u64;

/// A connection: the peer's place, and which of its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    pub(crate) seat: usize,
    pub(crate) number: u64,
}

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Pending {
    /// The caller's name for it.
    pub(crate) name: u128,
    /// The message, where it may be sent once more.
    pub(crate) message: Vec<u8>,
    pub(crate) command: Command,
    pub(crate) end_to_end: EndToEnd,
    pub(crate) deadline: Time,
    pub(crate) sent_at: Time,
    pub(crate) may_move: bool,
    /// It must not arrive twice.
    pub(crate) once: bool,
    /// It may have been sent before it came here.
    pub(crate) duplicate: bool,
    /// The peer that has its session.
    pub(crate) prefer: Option<Box<str>>,
    /// The last peer that it may have arrived at.
    pub(crate) written_to: Option<Rc<str>>,
    /// The peer that it waits for.
    pub(crate) seat: usize,
    /// Under which identifiers it went out.
    pub(crate) copies: Vec<HopByHop>,
    /// The peers that could not deliver it.
    pub(crate) refused_by: Vec<usize>,
}

/// One sending of a request.
#[derive(Debug)]
pub(crate) struct Copy {
    serial: Serial,
    pub(crate) connection: Connection,
    command: Command,
    end_to_end: EndToEnd,
    /// Its number among the messages to that peer.
    pub(crate) number: u64,
}

#[derive(Debug)]
struct Over {
    name: u128,
    copies: Vec<HopByHop>,
}

/// Whose answer this is.
#[derive(Debug)]
pub(crate) enum Match {
    /// Of a request that waited, and does not any more.
    Waiting(Serial, Pending),
    /// Of one that was over, and its name.
    Over(Serial, u128),
    /// Of none.
    None,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    last: Serial,
    pending: HashMap<Serial, Pending>,
    deadlines: BTreeSet<(Time, Serial)>,
    copies: HashMap<HopByHop, Copy>,
    over: HashMap<Serial, Over>,
    /// Until when they are remembered, the first to go in front.
    over_until: VecDeque<(Time, Serial)>,
}

impl Requests {
    pub(crate) fn insert(&mut self, pending: Pending) -> Serial {
        self.last += 1;
        self.deadlines.insert((pending.deadline, self.last));
        self.pending.insert(self.last, pending);
        self.last
    }

    /// One that was answered, and not in a way that ends it, waits on.
    pub(crate) fn put_back(&mut self, serial: Serial, pending: Pending) {
        self.deadlines.insert((pending.deadline, serial));
        self.pending.insert(serial, pending);
    }

    pub(crate) fn get(&self, serial: Serial) -> Option<&Pending> {
        self.pending.get(&serial)
    }

    pub(crate) fn get_mut(&mut self, serial: Serial) -> Option<&mut Pending> {
        self.pending.get_mut(&serial)
    }

    /// Whether an identifier is in use.
    pub(crate) fn is_taken(&self, hop_by_hop: HopByHop) -> bool {
        self.copies.contains_key(&hop_by_hop)
    }

    /// A request went out under this identifier.
    pub(crate) fn sent(&mut self, serial: Serial, hop_by_hop: HopByHop, connection: Connection, number: u64) {
        let Some(pending) = self.pending.get_mut(&serial) else { return };
        pending.seat = connection.seat;
        pending.copies.push(hop_by_hop);
        let (command, end_to_end) = (pending.command, pending.end_to_end);
        self.copies.insert(hop_by_hop, Copy { serial, connection, command, end_to_end, number });
    }

    /// Finds the request of an answer by both of its identifiers, and by the connection that it came over.
    pub(crate) fn answered(&mut self, header: &Header, connection: Connection) -> Match {
        let fits = |copy: &Copy| {
            copy.connection == connection && copy.end_to_end == header.end_to_end && copy.command == header.command
        };
        if !self.copies.get(&header.hop_by_hop).is_some_and(fits) {
            return Match::None;
        }
        let Some(copy) = self.copies.remove(&header.hop_by_hop) else { return Match::None };
        if let Some(over) = self.over.get_mut(&copy.serial) {
            over.copies.retain(|other| *other != header.hop_by_hop);
            return Match::Over(copy.serial, over.name);
        }
        match self.take(copy.serial) {
            Some(mut pending) => {
                pending.copies.retain(|other| *other != header.hop_by_hop);
                Match::Waiting(copy.serial, pending)
            }
            None => Match::None,
        }
    }

    /// Takes a request out; its copies stay.
    pub(crate) fn take(&mut self, serial: Serial) -> Option<Pending> {
        let pending = self.pending.remove(&serial)?;
        self.deadlines.remove(&(pending.deadline, serial));
        Some(pending)
    }

    /// The copy under this identifier.
    pub(crate) fn copy(&self, hop_by_hop: HopByHop) -> Option<&Copy> {
        self.copies.get(&hop_by_hop)
    }

    /// The requests of which there are copies on this connection, over or not.
    pub(crate) fn on(&self, connection: Connection) -> Vec<Serial> {
        self.copies.values().filter(|copy| copy.connection == connection).map(|copy| copy.serial).collect()
    }

    /// A copy that nobody will answer.
    pub(crate) fn drop_copy(&mut self, hop_by_hop: HopByHop) {
        self.copies.remove(&hop_by_hop);
    }

    /// A request that is not waited for any more, and whose `copies` may still be answered.
    pub(crate) fn remember(&mut self, serial: Serial, name: u128, copies: Vec<HopByHop>, now: Time) {
        if copies.is_empty() {
            return;
        }
        self.over.insert(serial, Over { name, copies });
        self.over_until.push_back((now.after_seconds(LATE_FOR), serial));
        while self.over_until.len() > LATE_MAX {
            self.forget_first();
        }
    }

    /// Forgets what nobody will answer any more.
    pub(crate) fn forget(&mut self, now: Time) {
        while self.over_until.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let Some((_, serial)) = self.over_until.pop_front() else { return };
        let over = self.over.remove(&serial);
        for copy in over.iter().flat_map(|over| &over.copies) {
            self.copies.remove(copy);
        }
    }

    /// The next whose time is over.
    pub(crate) fn overdue(&self, now: Time) -> Option<Serial> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, serial)| *serial)
    }

    /// When the first one's time is over.
    pub(crate) fn deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }
}
