//! The peers of a client: connects to all of them, sends each request to the best, and moves what a lost one leaves
//! behind (RFC 6733, 5.5.4). Sockets are never waited for: the engine waits, for all at once.
//!
//! A request is `sent` once, however often it is written; it ends `answered`, `timed out` or `failed`.

use super::peer::{Happened, Identity, Peer};
use super::transport::{TlsFiles, Transport, tls};
use crate::charge::time::Time;
use crate::wire::diameter::words::DisconnectCause;
use crate::wire::diameter::{EndToEnd, Header, HopByHop, Message, Writer};
use rustls::ClientConfig;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

/// Seconds to make a connection.
const CONNECT: u32 = 5;

/// Seconds before the first new try, and the most between two.
const BACK_OFF: (u32, u32) = (1, 30);

/// Timed out requests whose answers are still known when they come.
const REMEMBERED: usize = 100_000;

/// One peer as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its DiameterIdentity; empty: whoever answers. With TLS, its certificate must be for it.
    pub host: String,
    /// `address:port`; a name is looked up once, at the start.
    pub address: String,
    /// The lowest that is open serves.
    pub priority: u16,
    /// Whether it is spoken to in TLS.
    pub tls: bool,
}

/// All of them.
#[derive(Clone, Debug)]
pub struct PeersConfig {
    /// Who this client is.
    pub identity: Identity,
    /// The peers.
    pub peers: Vec<PeerConfig>,
    /// What TLS is made with.
    pub tls: Option<TlsFiles>,
    /// Requests without an answer that a peer may have.
    pub in_flight_max: usize,
}

/// A request to be sent.
pub struct Outgoing {
    /// What the caller knows it by.
    pub name: u64,
    /// The whole message, with identifiers of zero.
    pub message: Vec<u8>,
    /// When its answer comes too late.
    pub deadline: Time,
    /// Whether any peer may have it: of a session that has begun, only where the server says so (RFC 8506, 8.4).
    pub may_move: bool,
    /// It may have been sent before, by an earlier process or before a time-out.
    pub again: bool,
    /// The peer that has the session.
    pub prefer: Option<Rc<str>>,
}

/// Why a request was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// No peer is open.
    NoPeer,
    /// Too many wait already.
    Full,
}

/// What became of requests, and what servers ask.
#[derive(Debug)]
pub enum Told {
    /// An answer, and the peer that gave it.
    Answered {
        /// Of which request.
        name: u64,
        /// Origin-Host of the peer.
        peer: Rc<str>,
        /// The whole answer.
        message: Vec<u8>,
    },
    /// No answer in time.
    TimedOut {
        /// Of which request. It may have arrived, or may still.
        name: u64,
    },
    /// Its peer is gone, and no other may have it.
    Lost {
        /// Which request.
        name: u64,
        /// Whether it may have arrived.
        written: bool,
    },
    /// A request of a server. To be answered by [`Peers::answer`].
    Asked {
        /// By which connection.
        peer: usize,
        /// The whole request.
        message: Vec<u8>,
    },
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests taken.
    pub sent: u64,
    /// Of these, answered in time.
    pub answered: u64,
    /// Of these, not.
    pub timed_out: u64,
    /// Of these, lost with their peer.
    pub failed: u64,
    /// Written again to another peer.
    pub moved: u64,
    /// Answers to requests that had timed out.
    pub late: u64,
    /// Answers that match no request.
    pub unmatched: u64,
    /// Microseconds from request to answer, in all.
    pub micros: u64,
}

/// A peer as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its DiameterIdentity.
    pub host: String,
    /// Where it is.
    pub address: String,
    /// `idle`, `connecting`, or the word of its connection.
    pub state: &'static str,
    /// Requests that wait for it.
    pub in_flight: usize,
    /// Why the last connection ended.
    pub last_error: String,
}

enum Link {
    Idle { until: Time },
    Connecting { transport: Transport, until: Time },
    Up { transport: Transport, peer: Peer },
}

/// A peer and its connection.
struct Slot {
    config: PeerConfig,
    address: SocketAddr,
    link: Link,
    back_off: u32,
    in_flight: usize,
    /// The connection before ended because nobody answered the watchdog.
    was_silent: bool,
    /// Octets of this connection that were handed to the socket.
    written: u64,
    last_error: String,
}

/// A request that waits for its answer.
struct Pending {
    request: Outgoing,
    asked_at: Time,
    /// Where it is: the peer, its Hop-by-Hop Identifier there, and where it ends in the connection's octets.
    peer: usize,
    hop_by_hop: HopByHop,
    ends: u64,
    /// It went out on a connection that is gone.
    was_written: bool,
}

/// The peers and everything that waits for them.
pub struct Peers {
    identity: Rc<Identity>,
    in_flight_max: usize,
    tls: Option<Arc<ClientConfig>>,
    slots: Vec<Slot>,
    pending: HashMap<EndToEnd, Pending>,
    deadlines: BinaryHeap<Reverse<(Time, EndToEnd)>>,
    /// Requests that timed out and whose answers may still come, and their order, oldest first.
    late: HashSet<EndToEnd>,
    late_order: VecDeque<EndToEnd>,
    next: u32,
    told: VecDeque<Told>,
    counters: Counters,
    /// The proxy stops: nobody is connected to any more.
    leaving: bool,
}

impl Peers {
    /// Reads the files of TLS and looks up the addresses. The error is a sentence for an operator.
    pub fn new(config: PeersConfig, now: Time) -> Result<Peers, String> {
        let tls = config.tls.as_ref().map(tls).transpose()?;
        let slots = config.peers.into_iter().map(|peer| {
            let cannot = |why: &dyn std::fmt::Display| format!("parameter peer: '{}': {why}", peer.address);
            let mut found = peer.address.to_socket_addrs().map_err(|error| cannot(&error))?;
            let address = found.next().ok_or_else(|| cannot(&"no address"))?;
            let (link, last_error) = (Link::Idle { until: now }, String::new());
            let (back_off, in_flight, written) = (BACK_OFF.0, 0, 0);
            let was_silent = false;
            Ok(Slot { config: peer, address, link, back_off, in_flight, was_silent, written, last_error })
        });
        let mut slots = slots.collect::<Result<Vec<_>, String>>()?;
        slots.sort_by_key(|slot| slot.config.priority);
        // RFC 6733, 3: the high 12 bits from the time, so that a restart does not use the same again soon.
        let next = (now.0 / 1_000_000) as u32 & 0xfff;
        Ok(Peers {
            identity: Rc::new(config.identity),
            in_flight_max: config.in_flight_max,
            tls,
            slots,
            pending: HashMap::new(),
            deadlines: BinaryHeap::new(),
            late: HashSet::new(),
            late_order: VecDeque::new(),
            next: next << 20,
            told: VecDeque::new(),
            counters: Counters::default(),
            leaving: false,
        })
    }

    /// Takes a request, to be written by [`Peers::flush`].
    pub fn send(&mut self, request: Outgoing, now: Time) -> Result<(), Refused> {
        let peer = self.best(&request, None).ok_or(Refused::NoPeer)?;
        if self.slots[peer].in_flight >= self.in_flight_max {
            return Err(Refused::Full);
        }
        self.next = self.next.wrapping_add(1);
        let end_to_end = EndToEnd(self.next);
        self.counters.sent += 1;
        self.deadlines.push(Reverse((request.deadline, end_to_end)));
        let (hop_by_hop, ends, was_written) = (HopByHop(0), 0, false);
        let pending = Pending { request, asked_at: now, peer, hop_by_hop, ends, was_written };
        self.pending.insert(end_to_end, pending);
        self.put(end_to_end, peer);
        Ok(())
    }

    /// The open peer that comes first for this request, other than the one it leaves.
    fn best(&self, request: &Outgoing, leaves: Option<usize>) -> Option<usize> {
        let open = |at: &usize| {
            Some(*at) != leaves && matches!(&self.slots[*at].link, Link::Up { peer, .. } if peer.is_open())
        };
        let has_it = |at: &usize| match (&self.slots[*at].link, &request.prefer) {
            (Link::Up { peer, .. }, Some(host)) => peer.host() == host,
            _ => false,
        };
        let trusted = |at: &usize| matches!(&self.slots[*at].link, Link::Up { peer, .. } if !peer.is_on_probation());
        let all = || (0..self.slots.len()).filter(open);
        let bound = all().find(has_it);
        let free = request.may_move || request.prefer.is_none();
        bound.or_else(|| all().find(trusted).or_else(|| all().next()).filter(|_| free))
    }

    /// Queues a pending request on a peer that is open.
    fn put(&mut self, end_to_end: EndToEnd, at: usize) {
        let (Some(pending), Some(slot)) = (self.pending.get_mut(&end_to_end), self.slots.get_mut(at)) else { return };
        let Link::Up { peer, .. } = &mut slot.link else { return };
        let again = pending.request.again || pending.was_written;
        pending.hop_by_hop = peer.send(&pending.request.message, end_to_end, again);
        slot.in_flight += 1;
        (pending.peer, pending.ends) = (at, slot.written + peer.output().len() as u64);
    }

    /// Reads what has come, connects, and does what time asks for.
    pub fn turn(&mut self, now: Time) {
        for at in 0..self.slots.len() {
            self.turn_of(at, now);
        }
        while let Some(Reverse((deadline, end_to_end))) = self.deadlines.peek().copied() {
            if deadline > now {
                break;
            }
            self.deadlines.pop();
            self.time_out(end_to_end);
        }
        self.flush(now);
    }

    /// Writes what is queued.
    pub fn flush(&mut self, now: Time) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            let Link::Up { transport, peer } = &mut slot.link else { continue };
            if peer.output().is_empty() && !transport.wants_write() {
                continue;
            }
            match transport.write(peer.output()) {
                Ok(octets) => slot.written += octets as u64,
                Err(error) => self.lose(at, error.to_string(), now),
            }
        }
    }

    /// What has happened next.
    pub fn poll(&mut self) -> Option<Told> {
        self.told.pop_front()
    }

    /// Answers a request of a server. `write` writes the AVPs.
    pub fn answer(&mut self, at: usize, request: &Header, write: impl FnOnce(&mut Writer<'_>)) {
        if let Some(Slot { link: Link::Up { peer, .. }, .. }) = self.slots.get_mut(at) {
            peer.answer(request, write);
        }
    }

    /// Takes leave of every peer; each closes when it has confirmed.
    pub fn leave(&mut self, now: Time) {
        self.leaving = true;
        for slot in &mut self.slots {
            if let Link::Up { peer, .. } = &mut slot.link {
                peer.leave(now);
            }
        }
        self.flush(now);
    }

    /// Whether a connection is still there.
    pub fn is_connected(&self) -> bool {
        self.slots.iter().any(|slot| matches!(slot.link, Link::Up { .. }))
    }

    /// What to wait for: descriptors, and whether they are waited for to be written.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, bool)> + '_ {
        self.slots.iter().filter_map(|slot| match &slot.link {
            Link::Idle { .. } => None,
            Link::Connecting { transport, .. } => Some((transport.fd(), true)),
            Link::Up { transport, peer } => Some((transport.fd(), peer.has_output() || transport.wants_write())),
        })
    }

    /// When [`Peers::turn`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        let links = self.slots.iter().filter_map(|slot| match &slot.link {
            Link::Idle { until } | Link::Connecting { until, .. } => Some(*until),
            Link::Up { peer, .. } => peer.deadline(),
        });
        links.chain(self.deadlines.peek().map(|Reverse((at, _))| *at)).min()
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Each peer as it stands.
    pub fn status(&self) -> Vec<PeerStatus> {
        let status = |slot: &Slot| PeerStatus {
            host: slot.config.host.clone(),
            address: slot.config.address.clone(),
            state: match &slot.link {
                Link::Idle { .. } => "idle",
                Link::Connecting { .. } => "connecting",
                Link::Up { peer, .. } => peer.word(),
            },
            in_flight: slot.in_flight,
            last_error: slot.last_error.clone(),
        };
        self.slots.iter().map(status).collect()
    }

    fn turn_of(&mut self, at: usize, now: Time) {
        let slot = &mut self.slots[at];
        match &mut slot.link {
            Link::Idle { until } if *until <= now && !self.leaving => self.connect(at, now),
            Link::Idle { .. } => {}
            Link::Connecting { until, .. } if *until <= now => self.lose(at, "no connection in time".into(), now),
            Link::Connecting { transport, .. } => match transport.established() {
                Ok(None) => {}
                Ok(Some(local)) => self.exchange(at, local, now),
                Err(error) => self.lose(at, error.to_string(), now),
            },
            Link::Up { transport, peer } => {
                peer.timer(now);
                let read = transport.read(|bytes| peer.received(bytes, now));
                self.hear(at, now);
                if let Err(error) = read {
                    self.lose(at, error.to_string(), now);
                }
            }
        }
    }

    fn connect(&mut self, at: usize, now: Time) {
        let slot = &mut self.slots[at];
        let tls = self.tls.as_ref().filter(|_| slot.config.tls).map(|tls| (tls, slot.config.host.as_str()));
        match Transport::connect(slot.address, tls) {
            Ok(transport) => slot.link = Link::Connecting { transport, until: now.after_seconds(CONNECT) },
            Err(error) => self.lose(at, error.to_string(), now),
        }
    }

    fn exchange(&mut self, at: usize, local: std::net::IpAddr, now: Time) {
        let slot = &mut self.slots[at];
        let Link::Connecting { transport, .. } = std::mem::replace(&mut slot.link, Link::Idle { until: now }) else {
            return;
        };
        let peer = Peer::connected(Rc::clone(&self.identity), &slot.config.host, slot.was_silent, local, now);
        slot.written = 0;
        slot.link = Link::Up { transport, peer };
    }

    /// Takes what happened on a connection.
    fn hear(&mut self, at: usize, now: Time) {
        loop {
            let Link::Up { peer, .. } = &mut self.slots[at].link else { return };
            match peer.poll() {
                None => return,
                Some(Happened::Suspect) => self.move_from(at, false),
                Some(Happened::Opened) => self.opened(at),
                Some(Happened::Answer(message)) => self.answered(at, message, now),
                Some(Happened::Request(message)) => self.told.push_back(Told::Asked { peer: at, message }),
                Some(Happened::Leaves(cause)) => self.leaves(at, cause),
                Some(Happened::Close(why)) => return self.lose(at, why, now),
            }
        }
    }

    fn opened(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.back_off = BACK_OFF.0;
        log::info!("Diameter peer {} at {} is open", slot.config.host, slot.config.address);
    }

    /// It goes by itself (RFC 6733, 5.4.3): who is busy or does not want us is left alone for the longest time.
    fn leaves(&mut self, at: usize, cause: DisconnectCause) {
        if cause != DisconnectCause::REBOOTING {
            self.slots[at].back_off = BACK_OFF.1;
        }
        self.move_from(at, false);
    }

    fn answered(&mut self, at: usize, message: Vec<u8>, now: Time) {
        let Some(header) = Message::parse(&message).map(|message| message.header) else { return };
        let ours = |pending: &Pending| pending.peer == at && pending.hop_by_hop == header.hop_by_hop;
        if !self.pending.get(&header.end_to_end).is_some_and(ours) {
            match self.late.remove(&header.end_to_end) {
                true => self.counters.late += 1,
                false => self.counters.unmatched += 1,
            }
            return;
        }
        let Some(pending) = self.pending.remove(&header.end_to_end) else { return };
        let slot = &mut self.slots[at];
        slot.in_flight = slot.in_flight.saturating_sub(1);
        self.counters.answered += 1;
        self.counters.micros += now.micros_since(pending.asked_at);
        let Link::Up { peer, .. } = &slot.link else { return };
        let peer = Rc::clone(peer.host());
        self.told.push_back(Told::Answered { name: pending.request.name, peer, message });
    }

    fn time_out(&mut self, end_to_end: EndToEnd) {
        let Some(pending) = self.pending.remove(&end_to_end) else { return };
        let slot = &mut self.slots[pending.peer];
        slot.in_flight = slot.in_flight.saturating_sub(1);
        self.counters.timed_out += 1;
        if self.late_order.len() >= REMEMBERED
            && let Some(oldest) = self.late_order.pop_front()
        {
            self.late.remove(&oldest);
        }
        self.late.insert(end_to_end);
        self.late_order.push_back(end_to_end);
        // What is still queued may leave yet: it counts as gone.
        self.told.push_back(Told::TimedOut { name: pending.request.name });
    }

    /// What waits for this peer moves to others, as far as it may; with its connection, what stays is lost.
    fn move_from(&mut self, at: usize, is_lost: bool) {
        let waiting = self.pending.iter().filter(|(_, pending)| pending.peer == at);
        let mut waiting: Vec<(u64, EndToEnd)> = waiting.map(|(id, pending)| (pending.ends, *id)).collect();
        // In the order in which they were sent.
        waiting.sort();
        for (ends, end_to_end) in waiting {
            let Some(pending) = self.pending.get_mut(&end_to_end) else { continue };
            // On a connection that is only silent, what is queued may leave yet.
            pending.was_written |= !is_lost || self.slots[at].written + slack(pending) >= ends;
            let other = self.pending.get(&end_to_end).and_then(|pending| self.best(&pending.request, Some(at)));
            match other {
                Some(other) => {
                    self.slots[at].in_flight = self.slots[at].in_flight.saturating_sub(1);
                    self.counters.moved += 1;
                    self.put(end_to_end, other);
                }
                None if is_lost => {
                    self.slots[at].in_flight = self.slots[at].in_flight.saturating_sub(1);
                    let Some(pending) = self.pending.remove(&end_to_end) else { continue };
                    self.counters.failed += 1;
                    let (name, written) = (pending.request.name, pending.was_written);
                    self.told.push_back(Told::Lost { name, written });
                }
                None => {}
            }
        }
    }

    /// The connection is gone, or was never made: tries again later.
    fn lose(&mut self, at: usize, why: String, now: Time) {
        self.move_from(at, true);
        let slot = &mut self.slots[at];
        let wait = slot.back_off;
        slot.back_off = (wait * 2).min(BACK_OFF.1);
        if slot.last_error != why && !self.leaving {
            log::warn!(
                "Diameter peer {} at {}: {why}; connecting again in {wait} s",
                slot.config.host,
                slot.config.address
            );
        }
        if let Link::Up { peer, .. } = &slot.link {
            slot.was_silent = peer.was_silent();
        }
        slot.last_error = why;
        slot.in_flight = 0;
        slot.link = Link::Idle { until: now.after_seconds(wait) };
    }
}

/// A request counts as written as soon as any of its octets may have been.
fn slack(pending: &Pending) -> u64 {
    (pending.request.message.len() as u64).saturating_sub(1)
}

#[cfg(test)]
mod tests;
