//! The peer table (RFC 6733, 2.6) and its requests: which peer gets a request, which one gets it after a failure
//! (5.5.4), and which request an answer belongs to. Octets and times in, octets and events out, without sockets.
//!
//! A request counts as `sent` once, however many copies are written. It ends as `answered`, `timed out` or `failed`.
//!
//! | file | |
//! |---|---|
//! | `routing` | choice of a peer, failover, demotion |
//! | `outcomes` | answers, time-outs, lost requests |

mod outcomes;
mod routing;

use super::config::{Config, PeerConfig};
use super::node::LocalNode;
use super::peer::{Event as PeerEvent, Peer, ReconnectDelay};
use super::pending::{Connection, PendingRequest, PendingRequests, Serial};
use crate::charge::time::Time;
use crate::wire::diameter::header::set_identifiers;
use crate::wire::diameter::{EndToEnd, Flags, HopByHop, Message};
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

/// Maximum size of a peer's output buffer, in octets, for new requests to be accepted.
const OUTPUT_MAX: usize = 4 << 20;

/// Size of the output buffer, in octets, at which the connection is closed: the peer sends requests and reads nothing.
const ANSWERS_MAX: usize = OUTPUT_MAX + (1 << 20);

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Identifies the request in its outcome.
    pub name: u128,
    /// The whole message. The Hop-by-Hop Identifier and the T flag are set here, and so is an End-to-End Identifier of
    /// 0; any other one is kept, because a resend has that of the first copy.
    pub message: &'a [u8],
    /// When it times out.
    pub deadline: Time,
    /// Whether another peer may get it if this one fails. Within a session only if the server says so
    /// (CC-Session-Failover, RFC 8506, 8.4).
    pub may_move: bool,
    /// Whether it must not be executed twice: another peer gets it only if this one cannot have received it.
    pub at_most_once: bool,
    /// Whether it may have been sent before: all copies have the T flag.
    pub possible_duplicate: bool,
    /// Origin-Host of the peer that has the session. Without `may_move`, no other peer gets the request.
    pub preferred_host: Option<&'a str>,
}

/// Why a request was not accepted. It is counted as refused, not as sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No eligible peer is open.
    #[error("no Diameter peer is open")]
    NoPeer,
    /// All eligible peers have the maximum number of pending requests.
    #[error("too many requests are pending")]
    Full,
    /// The message is not one whole Diameter request.
    #[error("not a Diameter request")]
    Malformed,
}

/// Identifies a request of a peer, for [`PeerTable::answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerRequest {
    connection: Connection,
    hop_by_hop: HopByHop,
    end_to_end: EndToEnd,
}

/// Outcomes of requests, and changes of peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer in time.
    Answered {
        /// Name of the request.
        name: u128,
        /// Origin-Host of the peer that sent the answer.
        from: Rc<str>,
        /// The whole answer.
        message: Vec<u8>,
        /// Microseconds since the first copy was sent.
        micros: u64,
        /// Origin-Host of another peer that may have received a copy and has not answered.
        elsewhere: Option<Rc<str>>,
    },
    /// No answer in time.
    TimedOut {
        /// Name of the request.
        name: u128,
        /// Origin-Host of the last peer that may have received a copy and has not refused it. `None`: the request was
        /// not executed.
        written_to: Option<Rc<str>>,
    },
    /// The connection was lost, and no other peer was eligible.
    Lost {
        /// Name of the request.
        name: u128,
        /// As in `TimedOut`.
        written_to: Option<Rc<str>>,
    },
    /// An answer to a request that has ended. It may grant something.
    Late {
        /// Name of the request.
        name: u128,
        /// Origin-Host of the peer that sent the answer.
        from: Rc<str>,
        /// The whole answer.
        message: Vec<u8>,
    },
    /// A request of a peer within a session: RAR or ASR.
    PeerRequest {
        /// Identifies it in the answer.
        request: PeerRequest,
        /// The whole request.
        message: Vec<u8>,
    },
    /// A peer serves, for the first time or again.
    Up {
        /// Its configured name.
        peer: Rc<str>,
    },
    /// A peer does not serve. Reported once for each reason, not for each attempt.
    Down {
        /// Its configured name.
        peer: Rc<str>,
        /// One sentence for an operator.
        why: String,
    },
}

/// Counters since the start. Without pending requests, `sent = answered + timed_out + failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests accepted.
    pub sent: u64,
    /// Requests answered in time.
    pub answered: u64,
    /// Requests not answered in time.
    pub timed_out: u64,
    /// Requests lost with their connection.
    pub failed: u64,
    /// Copies sent to another peer after a failure.
    pub resent: u64,
    /// Answers to requests that had ended.
    pub late: u64,
    /// Answers that match no request by both identifiers.
    pub unmatched: u64,
    /// Messages and streams that cannot be parsed.
    pub malformed: u64,
    /// Requests refused because no peer was open.
    pub refused_no_peer: u64,
    /// Requests refused because too many were pending.
    pub refused_full: u64,
}

/// A peer and its pending requests.
#[derive(Debug)]
struct PeerSlot {
    peer: Peer,
    label: Rc<str>,
    /// Number of the current connection, or of the last one.
    number: u64,
    connected: bool,
    pending: BTreeSet<Serial>,
    /// Time of the last answer in time, or of the connection.
    answered_at: Time,
    /// Set after a time-out while no request sent later was answered: other peers serve until this one answers.
    demoted: Option<Demoted>,
    /// Whether [`Event::Up`] was the last report.
    up: bool,
    /// Reason of the last [`Event::Down`].
    down_reason: String,
}

/// How a demoted peer is tried. Its watchdog answers say nothing about its application.
#[derive(Clone, Copy, Debug)]
struct Demoted {
    /// When the next request tries it.
    probe_at: Time,
    /// The last request that did.
    probe: Option<Probe>,
}

/// A request that tries a demoted peer.
#[derive(Clone, Copy, Debug)]
struct Probe {
    serial: Serial,
    /// When another peer gets a copy; `None`: one has it.
    move_at: Option<Time>,
    /// Answers after this time do not count.
    deadline: Time,
}

/// The peers in order of preference, and their requests. Peers are identified by their position.
#[derive(Debug)]
pub struct PeerTable {
    node: Rc<LocalNode>,
    slots: Vec<PeerSlot>,
    requests: PendingRequests,
    events: VecDeque<Event>,
    counters: Counters,
    in_flight_max: usize,
}

impl PeerTable {
    /// Creates a table of the configured peers, in their order, without connections.
    pub fn new(config: &Config, origin_state_id: u32, now: Time) -> PeerTable {
        let node = Rc::new(LocalNode::new(config, origin_state_id, now));
        let slot = |peer: &PeerConfig| PeerSlot {
            peer: Peer::new(Rc::clone(&node), &peer.host, config.watchdog, config.connect_timeout),
            label: peer.label().into(),
            number: 0,
            connected: false,
            pending: BTreeSet::new(),
            answered_at: now,
            demoted: None,
            up: false,
            down_reason: String::new(),
        };
        PeerTable {
            slots: config.peers.iter().map(slot).collect(),
            requests: PendingRequests::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            in_flight_max: config.in_flight_max,
            node,
        }
    }

    /// Returns the local node.
    pub fn node(&self) -> &LocalNode {
        &self.node
    }

    /// Queues a request for the best eligible peer.
    pub fn send(&mut self, request: Request<'_>, now: Time) -> Result<(), Refused> {
        let header = Message::parse(request.message).map(|message| message.header);
        let Some(header) = header.filter(|header| header.is_request()) else { return Err(Refused::Malformed) };
        let bound_to = request.preferred_host.filter(|_| !request.may_move);
        let chosen = self.choose(request.preferred_host, bound_to, &[], request.message.len());
        let slot = chosen.inspect_err(|refused| match refused {
            Refused::Full => self.counters.refused_full += 1,
            Refused::NoPeer | Refused::Malformed => self.counters.refused_no_peer += 1,
        })?;
        let probed = self.peer_to_probe(slot, &request, now);
        let slot = probed.unwrap_or(slot);
        let end_to_end = match header.end_to_end {
            EndToEnd(0) => self.node.end_to_end(),
            kept => kept,
        };
        let serial = self.requests.insert(PendingRequest {
            name: request.name,
            message: if request.may_move { request.message.to_vec() } else { Vec::new() },
            command: header.command,
            end_to_end,
            deadline: request.deadline,
            sent_at: now,
            may_move: request.may_move,
            at_most_once: request.at_most_once,
            possible_duplicate: request.possible_duplicate,
            preferred_host: request.preferred_host.filter(|_| request.may_move).map(Box::from),
            written_to: None,
            slot,
            copies: Vec::new(),
            refused_by: Vec::new(),
        });
        self.counters.sent += 1;
        self.dispatch(serial, slot, request.message, request.possible_duplicate);
        if let Some(probed) = probed {
            self.note_probe(probed, serial, request.deadline, now);
        }
        Ok(())
    }

    /// Queues the answer to a peer's request, with the identifiers of that request. Dropped if the connection is gone.
    pub fn answer(&mut self, to: PeerRequest, bytes: &[u8]) {
        let Some(slot) = self.slots.get_mut(to.connection.slot) else { return };
        if slot.connected && slot.number == to.connection.number {
            let mut answer = bytes.to_vec();
            set_identifiers(&mut answer, Flags::default(), to.hop_by_hop, to.end_to_end);
            slot.peer.answer(&answer);
        }
    }

    /// The transport to this peer is up. `address`: the local address.
    pub fn connected(&mut self, slot: usize, address: IpAddr, now: Time) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.number += 1;
            slot.connected = true;
            slot.answered_at = now;
            // The address may belong to another process now: it is tried at once.
            slot.demoted = slot.demoted.map(|_| Demoted { probe_at: now, probe: None });
            slot.peer.connected(address, now);
        }
    }

    /// Handles octets from this peer.
    pub fn received(&mut self, slot: usize, bytes: &[u8], now: Time) {
        if let Some(receiver) = self.slots.get_mut(slot).filter(|slot| slot.connected) {
            receiver.peer.received(bytes, now);
        }
        self.peer_events(slot, now);
    }

    /// Handles the timers of this peer.
    pub fn peer_timer(&mut self, slot: usize, now: Time) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.peer.timer(now);
        }
        self.peer_events(slot, now);
    }

    /// Handles the timers of requests.
    pub fn timer(&mut self, now: Time) {
        self.move_probes(now);
        self.time_out(now);
        self.requests.forget(now);
    }

    /// The transport to this peer is gone, or could not be set up. `why`: one sentence. Returns how long the peer does
    /// not want to be connected.
    pub fn closed(&mut self, slot: usize, why: String, now: Time) -> ReconnectDelay {
        let Some(number) = self.slots.get(slot).map(|slot| slot.number) else { return ReconnectDelay::default() };
        // Requests that another peer has meanwhile have copies here as well.
        for serial in self.requests.on(Connection { slot, number }) {
            self.note_written(serial);
        }
        let Some(lost) = self.slots.get_mut(slot) else { return ReconnectDelay::default() };
        lost.connected = false;
        let delay = lost.peer.closed();
        let pending = std::mem::take(&mut lost.pending);
        for serial in pending {
            if !self.relocate(serial, slot, false) {
                self.lose(serial, now);
            }
        }
        self.down(slot, why);
        delay
    }

    /// Begins to disconnect from this peer.
    pub fn stop(&mut self, slot: usize, now: Time) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.peer.stop(now);
        }
    }

    /// Returns the next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether [`next_event`](PeerTable::next_event) has one.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// When the next timer of a peer or request is due.
    pub fn deadline(&self) -> Option<Time> {
        let peers = self.slots.iter().filter_map(|slot| slot.peer.deadline());
        let probes = self.slots.iter().filter_map(|slot| slot.demoted?.probe?.move_at);
        peers.chain(self.requests.deadline()).chain(probes).min()
    }

    /// Returns why the connection of this peer must be closed; `None`: it need not.
    pub fn close_reason(&self, slot: usize) -> Option<&str> {
        let slot = self.slots.get(slot)?;
        let is_flooded = slot.peer.output().len() > ANSWERS_MAX;
        let flooded = is_flooded.then_some("it does not read what it is sent");
        slot.peer.close_reason().map(|reason| reason.why.as_str()).or(flooded)
    }

    /// Octets to be written to this peer.
    pub fn output(&self, slot: usize) -> &[u8] {
        self.slots.get(slot).map_or(&[], |slot| slot.peer.output())
    }

    /// The socket has accepted this many octets of the output.
    pub fn wrote(&mut self, slot: usize, octets: usize) {
        if let Some(slot) = self.slots.get_mut(slot) {
            slot.peer.wrote(octets);
        }
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Number of requests pending at this peer.
    pub fn in_flight(&self, slot: usize) -> usize {
        self.slots.get(slot).map_or(0, |slot| slot.pending.len())
    }

    /// Returns the peer in this position.
    pub fn peer(&self, slot: usize) -> Option<&Peer> {
        self.slots.get(slot).map(|slot| &slot.peer)
    }

    /// Handles the events of a peer's state machine.
    fn peer_events(&mut self, slot: usize, now: Time) {
        while let Some(event) = self.slots.get_mut(slot).and_then(|slot| slot.peer.next_event()) {
            match event {
                PeerEvent::Answer(message) => self.answered(slot, message, now),
                PeerEvent::Request(message) => self.peer_request(slot, message),
                PeerEvent::FailOver(why) => {
                    self.fail_over(slot);
                    let label = self.slots.get(slot).map_or("", |slot| &slot.label);
                    self.down(slot, format!("peer {label}: {why}; its requests are sent to other peers"));
                }
                PeerEvent::Ready => self.ready(slot),
                PeerEvent::Unmatched => self.counters.unmatched += 1,
                PeerEvent::Malformed => self.counters.malformed += 1,
            }
        }
    }

    fn peer_request(&mut self, slot: usize, message: Vec<u8>) {
        let Some(number) = self.slots.get(slot).map(|slot| slot.number) else { return };
        let Some(header) = Message::parse(&message).map(|message| message.header) else { return };
        let connection = Connection { slot, number };
        let request = PeerRequest { connection, hop_by_hop: header.hop_by_hop, end_to_end: header.end_to_end };
        self.events.push_back(Event::PeerRequest { request, message });
    }

    /// A peer serves. Requests pending at silent peers may move to it.
    fn ready(&mut self, slot: usize) {
        let Some(ready) = self.slots.get_mut(slot) else { return };
        if !ready.up && ready.demoted.is_none() {
            ready.up = true;
            ready.down_reason.clear();
            self.events.push_back(Event::Up { peer: Rc::clone(&ready.label) });
        }
        for silent in self.silent_peers() {
            self.fail_over(silent);
        }
    }

    fn down(&mut self, slot: usize, why: String) {
        let Some(down) = self.slots.get_mut(slot) else { return };
        if down.up || down.down_reason != why {
            down.up = false;
            down.down_reason.clone_from(&why);
            self.events.push_back(Event::Down { peer: Rc::clone(&down.label), why });
        }
    }

    /// Origin-Host of a peer that has answered.
    fn host(&self, slot: usize) -> Rc<str> {
        self.slots.get(slot).and_then(|slot| slot.peer.host()).map_or_else(|| Rc::from(""), Rc::clone)
    }
}

#[cfg(test)]
mod tests;
