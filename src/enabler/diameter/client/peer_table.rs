//! Requests and answers over all peers (RFC 6733, 5.5.4): who gets a request, who gets it when that one is lost, and
//! whose answer comes back. Octets and moments in, octets and events out: no socket is known here.
//!
//! A request is `sent` once, however often it is written; it ends `answered`, `timed out` or `failed`.

use super::config::Config;
use super::peer::{Absence, Event as PeerEvent, Fitness, Peer};
use crate::charge::time::Time;
use crate::enabler::diameter::client::node::LocalNode;
use crate::enabler::diameter::client::pending::{Connection, Match, Pending, Requests, Serial};
use crate::wire::diameter::header::stamp;
use crate::wire::diameter::{EndToEnd, Flags, HopByHop, Message, ResultCode, dictionary};
use std::collections::{BTreeSet, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;

/// Octets that may wait for one peer's connection, before requests are refused.
const OUTPUT_MAX: usize = 4 << 20;

/// The same, before a connection is closed whose peer asks without ever reading an answer.
const ANSWERS_MAX: usize = OUTPUT_MAX + (1 << 20);

/// Seconds between two requests that try a demoted peer.
const PROBE_EVERY: u32 = 10;

/// Seconds after which such a request is given to another peer.
const PROBE_PATIENCE: u32 = 1;

/// A request to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The caller's name for it, which comes back with its outcome.
    pub name: u128,
    /// The whole message. Its Hop-by-Hop Identifier and T flag are put in here; so is its End-to-End Identifier if that
    /// is 0, while another is kept: a resend from a store has the one it had before.
    pub message: &'a [u8],
    /// When it is over.
    pub deadline: Time,
    /// Whether another peer may have it if this one is lost: of a session that has begun, only where the server says so
    /// (CC-Session-Failover, RFC 8506, 8.4).
    pub may_move: bool,
    /// Whether it must not arrive twice: another peer gets it only where this one cannot have it.
    pub once: bool,
    /// It may have been sent before: T from the first time on.
    pub duplicate: bool,
    /// Origin-Host of the peer that the session is bound to. Without `may_move`, no other gets it.
    pub prefer: Option<&'a str>,
}

/// Why a request was not sent. It is counted, and not among those that were.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No peer is open that may have it.
    #[error("no Diameter peer is open")]
    NoPeer,
    /// All that may have it have as many without an answer as they may.
    #[error("too many requests wait for an answer")]
    Full,
    /// It is no whole Diameter request.
    #[error("not a Diameter request")]
    Malformed,
}

/// A request of a server, to be answered by [`PeerTable::answer`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    connection: Connection,
    hop_by_hop: HopByHop,
    end_to_end: EndToEnd,
}

/// What became of requests, and what else happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An answer in time.
    Answered {
        /// Of which request.
        name: u128,
        /// Origin-Host of the peer that it came through.
        from: Rc<str>,
        /// The whole answer.
        message: Vec<u8>,
        /// Microseconds from the first sending to now.
        micros: u64,
        /// Origin-Host of another peer that it was written to, which has not answered and may have done it.
        elsewhere: Option<Rc<str>>,
    },
    /// No answer in time.
    TimedOut {
        /// Which request.
        name: u128,
        /// Origin-Host of the peer to whose socket it was handed as a whole, the last if it was more than one, and not
        /// one that has refused it. `None`: nobody can have done it.
        written_to: Option<Rc<str>>,
    },
    /// Its peer is lost, and no other may have it or can.
    Lost {
        /// Which request.
        name: u128,
        /// As of `TimedOut`.
        written_to: Option<Rc<str>>,
    },
    /// An answer to a request that is over: timed out, lost, or answered by another peer. It may grant something.
    Late {
        /// Of which request.
        name: u128,
        /// Origin-Host of the peer that it came through.
        from: Rc<str>,
        /// The whole answer.
        message: Vec<u8>,
    },
    /// A server's request within a session, RAR or ASR.
    Asked {
        /// To be handed back with the answer.
        asked: Asked,
        /// The whole request.
        message: Vec<u8>,
    },
    /// A peer can be used, for the first time or again.
    Up {
        /// Which, as configured.
        peer: Rc<str>,
    },
    /// A peer cannot be used. Told once for each reason, not for each try.
    Down {
        /// Which, as configured.
        peer: Rc<str>,
        /// One sentence for an operator.
        why: String,
    },
}

/// What was counted since the start. At rest, `sent = answered + timed_out + failed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests taken, each once.
    pub sent: u64,
    /// Of these, answered in time.
    pub answered: u64,
    /// Of these, without an answer in time.
    pub timed_out: u64,
    /// Of these, lost with their peer.
    pub failed: u64,
    /// Sent once more, by another peer.
    pub resent: u64,
    /// Answers to requests that were over.
    pub late: u64,
    /// Answers that match no request by both identifiers.
    pub unmatched: u64,
    /// Messages and streams that cannot be read.
    pub malformed: u64,
    /// Requests refused because no peer was open.
    pub refused_no_peer: u64,
    /// Requests refused because too many waited.
    pub refused_full: u64,
}

/// What one peer did. At rest, `sent = answered + timed_out + failed + moved`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerCounters {
    /// Requests that were given to it.
    pub sent: u64,
    /// Of these, answered in time, here or by one that it was moved away from.
    pub answered: u64,
    /// Of these, without an answer in time.
    pub timed_out: u64,
    /// Of these, lost.
    pub failed: u64,
    /// Of these, given to another peer.
    pub moved: u64,
}

/// A peer and what waits for it.
#[derive(Debug)]
struct PeerSlot {
    peer: Peer,
    label: Rc<str>,
    /// Which connection it is, and whether it is.
    number: u64,
    connected: bool,
    waiting: BTreeSet<Serial>,
    counters: PeerCounters,
    /// When it answered a request in time last, or was connected.
    answered_at: Time,
    /// A request to it timed out, and it had answered none since that was sent: other peers serve until it answers one.
    demoted: Option<Demoted>,
    /// Told to be up.
    up: bool,
    /// Why it was told to be down.
    why: String,
}

/// How a demoted peer is tried. Its watchdog says nothing: the application behind it may hang.
#[derive(Clone, Copy, Debug)]
struct Demoted {
    /// When the next request tries it.
    probe_at: Time,
    /// The last one that did.
    probe: Option<Probe>,
}

/// A request that tries a demoted peer.
#[derive(Clone, Copy, Debug)]
struct Probe {
    serial: Serial,
    /// When another peer gets it; `None`: one has it.
    move_at: Option<Time>,
    /// An answer after this is too late.
    deadline: Time,
}

/// All peers, the first to be used first.
#[derive(Debug)]
pub struct PeerTable {
    local: Rc<LocalNode>,
    seats: Vec<PeerSlot>,
    requests: Requests,
    events: VecDeque<Event>,
    counters: Counters,
    in_flight_max: usize,
}

impl PeerTable {
    /// Over these peers in this order, none of them connected.
    pub fn new(config: &Config, origin_state_id: u32, now: Time) -> PeerTable {
        let local = Rc::new(LocalNode::new(config, origin_state_id, now));
        let seat = |peer: &super::config::PeerConfig| PeerSlot {
            peer: Peer::new(Rc::clone(&local), &peer.host, config.watchdog, config.connect_timeout),
            label: peer.label().into(),
            number: 0,
            connected: false,
            waiting: BTreeSet::new(),
            counters: PeerCounters::default(),
            answered_at: now,
            demoted: None,
            up: false,
            why: String::new(),
        };
        PeerTable {
            seats: config.peers.iter().map(seat).collect(),
            requests: Requests::default(),
            events: VecDeque::new(),
            counters: Counters::default(),
            in_flight_max: config.in_flight_max,
            local,
        }
    }

    /// What all connections share.
    pub fn local(&self) -> &LocalNode {
        &self.local
    }

    /// Queues a request for the best peer that may have it.
    pub fn send(&mut self, request: Request<'_>, now: Time) -> Result<(), Refused> {
        let header = Message::parse(request.message).map(|message| message.header);
        let Some(header) = header.filter(|header| header.is_request()) else { return Err(Refused::Malformed) };
        let bound_to = request.prefer.filter(|_| !request.may_move);
        let seat =
            self.choose(request.prefer, bound_to, &[], request.message.len()).inspect_err(|refused| match refused {
                Refused::Full => self.counters.refused_full += 1,
                _ => self.counters.refused_no_peer += 1,
            })?;
        let probed = self.to_be_probed(seat, &request, now);
        let seat = probed.unwrap_or(seat);
        let end_to_end = match header.end_to_end {
            EndToEnd(0) => self.local.end_to_end(),
            kept => kept,
        };
        let serial = self.requests.insert(Pending {
            name: request.name,
            message: if request.may_move { request.message.to_vec() } else { Vec::new() },
            command: header.command,
            end_to_end,
            deadline: request.deadline,
            sent_at: now,
            may_move: request.may_move,
            once: request.once,
            duplicate: request.duplicate,
            prefer: request.prefer.filter(|_| request.may_move).map(Box::from),
            written_to: None,
            seat,
            copies: Vec::new(),
            refused_by: Vec::new(),
        });
        self.counters.sent += 1;
        self.dispatch(serial, seat, request.message, request.duplicate);
        if let Some(demoted) = probed.and_then(|seat| self.seats.get_mut(seat)?.demoted.as_mut()) {
            let move_at = Some(now.after_seconds(PROBE_PATIENCE));
            demoted.probe = Some(Probe { serial, move_at, deadline: request.deadline });
            demoted.probe_at = now.after_seconds(PROBE_EVERY);
        }
        Ok(())
    }

    /// The demoted peer that this request is to try in place of the chosen one: one that is due, where the request may
    /// move on from there, may arrive twice, and is not of a session that another peer has.
    fn to_be_probed(&self, chosen: usize, request: &Request<'_>, now: Time) -> Option<usize> {
        let may_probe = request.may_move && !request.once && request.prefer.is_none();
        let octets = request.message.len();
        let is_due = |(at, seat): &(usize, &PeerSlot)| {
            let due = seat.demoted.is_some_and(|demoted| demoted.probe_at <= now);
            due && *at != chosen && seat.peer.fitness() == Fitness::Fit && self.has_room(seat, octets)
        };
        self.seats.iter().enumerate().filter(|_| may_probe).find(is_due).map(|(at, _)| at)
    }

    /// Queues the answer to a server's request; its identifiers are put in. On a connection that is gone, nobody waits
    /// for it.
    pub fn answer(&mut self, to: Asked, bytes: &[u8]) {
        let Some(seat) = self.seats.get_mut(to.connection.seat) else { return };
        if seat.connected && seat.number == to.connection.number {
            let mut answer = bytes.to_vec();
            stamp(&mut answer, Flags::default(), to.hop_by_hop, to.end_to_end);
            seat.peer.answer(&answer);
        }
    }

    /// The transport to this peer is up, from this address of ours.
    pub fn connected(&mut self, seat: usize, address: IpAddr, now: Time) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.number += 1;
            seat.connected = true;
            seat.answered_at = now;
            // It may be another program behind the same address, and is tried at once.
            seat.demoted = seat.demoted.map(|_| Demoted { probe_at: now, probe: None });
            seat.peer.connected(address, now);
        }
    }

    /// Octets came from this peer.
    pub fn received(&mut self, seat: usize, bytes: &[u8], now: Time) {
        if let Some(heard) = self.seats.get_mut(seat).filter(|seat| seat.connected) {
            heard.peer.received(bytes, now);
        }
        self.follow(seat, now);
    }

    /// Does what is due at this peer.
    pub fn peer_timer(&mut self, seat: usize, now: Time) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.peer.timer(now);
        }
        self.follow(seat, now);
    }

    /// Gives up requests whose time is over.
    pub fn timer(&mut self, now: Time) {
        self.move_probes(now);
        let mut overdue = Vec::new();
        while let Some(serial) = self.requests.overdue(now) {
            overdue.extend(self.requests.take(serial).map(|pending| (serial, pending)));
        }
        self.withdraw(&overdue);
        for (serial, pending) in overdue {
            if let Some(seat) = self.seats.get_mut(pending.seat) {
                seat.waiting.remove(&serial);
                seat.counters.timed_out += 1;
            }
            self.counters.timed_out += 1;
            self.demote(pending.seat, pending.sent_at, now);
            let (name, written_to) = (pending.name, self.settle(serial, pending, now));
            self.events.push_back(Event::TimedOut { name, written_to });
        }
        self.requests.forget(now);
    }

    /// A request that this peer was sent at that time has timed out. If it has answered none since, its application may
    /// hang behind a watchdog that answers: where there is another peer, that serves (RFC 8506, 5.7).
    fn demote(&mut self, seat: usize, sent_at: Time, now: Time) {
        let is_silent = |seat: &PeerSlot| seat.connected && seat.demoted.is_none() && seat.answered_at <= sent_at;
        if !self.seats.get(seat).is_some_and(is_silent) {
            return;
        }
        if !self.is_served_without(seat) {
            // The others are demoted or gone: what comes next tries the former.
            self.seats.iter_mut().filter_map(|seat| seat.demoted.as_mut()).for_each(|demoted| demoted.probe_at = now);
            return;
        }
        let Some(demoted) = self.seats.get_mut(seat) else { return };
        demoted.demoted = Some(Demoted { probe_at: now.after_seconds(PROBE_EVERY), probe: None });
        let why = format!(
            "peer {}: a request timed out, and it answered none since that was sent; others serve until it answers one",
            demoted.label
        );
        self.fail_over(seat);
        self.down(seat, why);
    }

    /// Whether another peer than this one is open and answers.
    pub fn is_served_without(&self, seat: usize) -> bool {
        let serves = |(at, other): (usize, &PeerSlot)| {
            at != seat && other.peer.fitness() == Fitness::Fit && other.demoted.is_none()
        };
        self.seats.iter().enumerate().any(serves)
    }

    /// Whether this peer is open, and used only where no other is because it let a request time out.
    pub fn is_demoted(&self, seat: usize) -> bool {
        self.seats.get(seat).is_some_and(|seat| seat.demoted.is_some() && seat.peer.fitness() == Fitness::Fit)
    }

    /// This peer has answered a request in time.
    fn trust(&mut self, seat: usize, now: Time) {
        let Some(trusted) = self.seats.get_mut(seat) else { return };
        trusted.answered_at = now;
        if trusted.demoted.take().is_some() && trusted.peer.fitness() != Fitness::Unfit {
            self.ready(seat);
        }
    }

    /// Gives requests that tried a demoted peer to another one, as that has not answered for a second.
    fn move_probes(&mut self, now: Time) {
        for seat in 0..self.seats.len() {
            let Some(demoted) = self.seats.get_mut(seat).and_then(|seat| seat.demoted.as_mut()) else { continue };
            let is_due = |probe: &&mut Probe| probe.move_at.is_some_and(|at| at <= now);
            let Some(probe) = demoted.probe.as_mut().filter(is_due) else { continue };
            probe.move_at = None;
            let serial = probe.serial;
            if self.requests.get(serial).is_some_and(|pending| pending.seat == seat) {
                self.note_written(serial);
                self.relocate(serial, seat, true);
            }
        }
    }

    /// The transport to this peer is gone, or was not to be had: why, as one sentence. How long it does not want to
    /// be connected.
    pub fn closed(&mut self, seat: usize, why: String, now: Time) -> Absence {
        let Some(number) = self.seats.get(seat).map(|seat| seat.number) else { return Absence::default() };
        // Those that have moved on as well.
        for serial in self.requests.on(Connection { seat, number }) {
            self.note_written(serial);
        }
        let Some(lost) = self.seats.get_mut(seat) else { return Absence::default() };
        lost.connected = false;
        let absent = lost.peer.closed();
        let waiting = std::mem::take(&mut lost.waiting);
        for serial in waiting {
            if !self.relocate(serial, seat, false) {
                self.lose(serial, seat, now);
            }
        }
        self.down(seat, why);
        absent
    }

    /// Takes leave of this peer.
    pub fn stop(&mut self, seat: usize, now: Time) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.peer.stop(now);
        }
    }

    /// What happened, one after the other.
    pub fn next_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Whether there is anything to be fetched by [`next_event`](PeerTable::next_event).
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// When the next timer is due, of a peer or of a request.
    pub fn deadline(&self) -> Option<Time> {
        let peers = self.seats.iter().filter_map(|seat| seat.peer.deadline());
        let probes = self.seats.iter().filter_map(|seat| seat.demoted?.probe?.move_at);
        peers.chain(self.requests.deadline()).chain(probes).min()
    }

    /// Why the connection of this peer has to be closed, if it has.
    pub fn doom(&self, seat: usize) -> Option<&str> {
        let seat = self.seats.get(seat)?;
        let flooded = seat.peer.output().len() > ANSWERS_MAX;
        let flooded = flooded.then_some("it does not read what it is sent");
        seat.peer.doom().map(|doom| doom.why.as_str()).or(flooded)
    }

    /// Octets to be written to this peer.
    pub fn output(&self, seat: usize) -> &[u8] {
        self.seats.get(seat).map_or(&[], |seat| seat.peer.output())
    }

    /// So many of them were handed to the socket.
    pub fn wrote(&mut self, seat: usize, octets: usize) {
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.peer.wrote(octets);
        }
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What was counted of this peer.
    pub fn peer_counters(&self, seat: usize) -> PeerCounters {
        self.seats.get(seat).map_or_else(PeerCounters::default, |seat| seat.counters)
    }

    /// Requests that wait for this peer.
    pub fn in_flight(&self, seat: usize) -> usize {
        self.seats.get(seat).map_or(0, |seat| seat.waiting.len())
    }

    /// The peer in this place.
    pub fn peer(&self, seat: usize) -> Option<&Peer> {
        self.seats.get(seat).map(|seat| &seat.peer)
    }

    /// The best open peer with room: the preferred one, else the first that is fit, else the first on probation.
    fn choose(
        &self,
        prefer: Option<&str>,
        bound_to: Option<&str>,
        not: &[usize],
        octets: usize,
    ) -> Result<usize, Refused> {
        let is = |seat: &PeerSlot, name: &str| seat.peer.host().is_some_and(|host| host.eq_ignore_ascii_case(name));
        let may = |seat: &PeerSlot| bound_to.is_none_or(|name| is(seat, name)) && seat.peer.fitness() != Fitness::Unfit;
        let rank = |seat: &PeerSlot| {
            let preferred = prefer.is_some_and(|name| is(seat, name));
            (seat.peer.fitness(), seat.demoted.is_none(), preferred)
        };
        let open = || self.seats.iter().enumerate().filter(|(at, seat)| !not.contains(at) && may(seat));
        // From the back, because of equals the last counts as the greatest.
        match open().rev().filter(|(_, seat)| self.has_room(seat, octets)).max_by_key(|(_, seat)| rank(seat)) {
            Some((best, _)) => Ok(best),
            None if open().next().is_some() => Err(Refused::Full),
            None => Err(Refused::NoPeer),
        }
    }

    /// Whether a peer may have one more request, of so many octets.
    fn has_room(&self, seat: &PeerSlot, octets: usize) -> bool {
        seat.waiting.len() < self.in_flight_max && seat.peer.output().len() + octets <= OUTPUT_MAX
    }

    /// Sends a request by this peer.
    fn dispatch(&mut self, serial: Serial, seat: usize, message: &[u8], duplicate: bool) {
        let Some(end_to_end) = self.requests.get(serial).map(|pending| pending.end_to_end) else { return };
        let Some(to) = self.seats.get_mut(seat) else { return };
        let mut hop_by_hop = self.local.hop_by_hop();
        while self.requests.is_taken(hop_by_hop) {
            hop_by_hop = self.local.hop_by_hop();
        }
        let flags = if duplicate { Flags::RETRANSMITTED } else { Flags::default() };
        let number_there = to.peer.send(message, flags, hop_by_hop, end_to_end);
        to.waiting.insert(serial);
        to.counters.sent += 1;
        self.requests.sent(serial, hop_by_hop, Connection { seat, number: to.number }, number_there);
    }

    /// Gives a request of a peer that is lost to another, in the order of its own; whether there is one. It keeps its
    /// End-to-End Identifier, and has the T flag if the first may have seen it already (RFC 6733, 3), or may yet because
    /// it is still connected.
    fn relocate(&mut self, serial: Serial, from: usize, connected: bool) -> bool {
        let Some(pending) = self.requests.get_mut(serial) else { return false };
        let may_have_arrived = pending.written_to.is_some() || connected;
        if !pending.may_move || (pending.once && may_have_arrived) {
            return false;
        }
        let message = std::mem::take(&mut pending.message);
        let duplicate = pending.duplicate || may_have_arrived;
        let prefer = pending.prefer.take();
        let not = std::mem::take(&mut pending.refused_by);
        let target = self.choose(prefer.as_deref(), None, &not, message.len()).ok().filter(|target| *target != from);
        if let Some(target) = target {
            self.dispatch(serial, target, &message, duplicate);
            self.counters.resent += 1;
            if let Some(from) = self.seats.get_mut(from) {
                from.waiting.remove(&serial);
                from.counters.moved += 1;
            }
        }
        if let Some(pending) = self.requests.get_mut(serial) {
            pending.message = message;
            pending.prefer = prefer;
            pending.refused_by = not;
            pending.duplicate |= connected && target.is_some();
        }
        target.is_some()
    }

    /// Gives up a request whose peer is lost.
    fn lose(&mut self, serial: Serial, seat: usize, now: Time) {
        let Some(pending) = self.requests.take(serial) else { return };
        let lost = [(serial, pending)];
        self.withdraw(&lost);
        if let Some(seat) = self.seats.get_mut(seat) {
            seat.counters.failed += 1;
        }
        self.counters.failed += 1;
        for (serial, pending) in lost {
            let (name, written_to) = (pending.name, self.settle(serial, pending, now));
            self.events.push_back(Event::Lost { name, written_to });
        }
    }

    /// Lets others have what waits for a peer that is connected and no use. What cannot move waits on: its answer may
    /// come yet.
    fn fail_over(&mut self, seat: usize) {
        let Some(waiting) = self.seats.get(seat).map(|seat| seat.waiting.clone()) else { return };
        for serial in waiting {
            self.note_written(serial);
            self.relocate(serial, seat, true);
        }
    }

    /// Keeps in mind whether a request has left by this connection, before the connection is gone that knows it.
    fn note_written(&mut self, serial: Serial) {
        let Some(pending) = self.requests.get(serial) else { return };
        let written = |(peer, number): (&Peer, u64)| peer.host().filter(|_| peer.is_written(number)).cloned();
        let to = pending.copies.iter().rev().find_map(|copy| self.live_copy(*copy).and_then(written));
        if let Some(pending) = self.requests.get_mut(serial).filter(|_| to.is_some()) {
            pending.written_to = to;
        }
    }

    /// The peer that has or will have this copy, over a connection that is up, and the copy's number there.
    fn live_copy(&self, hop_by_hop: HopByHop) -> Option<(&Peer, u64)> {
        let copy = self.requests.copy(hop_by_hop)?;
        let seat = self.seats.get(copy.connection.seat)?;
        (seat.connected && seat.number == copy.connection.number).then_some((&seat.peer, copy.number))
    }

    /// Takes back what has not left yet of requests that are over: nobody is to do what nobody waits for.
    fn withdraw(&mut self, over: &[(Serial, Pending)]) {
        let mut numbers = vec![Vec::new(); self.seats.len()];
        for copy in over.iter().flat_map(|(_, pending)| &pending.copies) {
            let Some((peer, number)) = self.live_copy(*copy) else { continue };
            let untouched = !peer.is_begun(number);
            let seat = self.requests.copy(*copy).map(|copy| copy.connection.seat);
            if let Some(numbers) = seat.filter(|_| untouched).and_then(|seat| numbers.get_mut(seat)) {
                numbers.push(number);
                self.requests.drop_copy(*copy);
            }
        }
        for (seat, mut numbers) in self.seats.iter_mut().zip(numbers).filter(|(_, numbers)| !numbers.is_empty()) {
            numbers.sort_unstable();
            seat.peer.withdraw(&numbers);
        }
    }

    /// Remembers those copies of a request that is over to which an answer may come. Whom a copy has reached, or will
    /// because its first octets have left.
    fn settle(&mut self, serial: Serial, pending: Pending, now: Time) -> Option<Rc<str>> {
        let is_live = |copy: &HopByHop| self.live_copy(*copy).is_some();
        let (live, dead): (Vec<_>, Vec<_>) = pending.copies.into_iter().partition(is_live);
        dead.into_iter().for_each(|copy| self.requests.drop_copy(copy));
        let host = |copy: &HopByHop| self.live_copy(*copy).and_then(|(peer, _)| peer.host().cloned());
        let written_to = live.last().and_then(host).or(pending.written_to);
        self.requests.remember(serial, pending.name, live, now);
        written_to
    }

    /// Makes something of what a peer's machine says.
    fn follow(&mut self, seat: usize, now: Time) {
        while let Some(event) = self.seats.get_mut(seat).and_then(|seat| seat.peer.next_event()) {
            match event {
                PeerEvent::Answer(message) => self.answered(seat, message, now),
                PeerEvent::Request(message) => self.asked(seat, message),
                PeerEvent::FailOver(why) => {
                    self.fail_over(seat);
                    let label = self.seats.get(seat).map_or("", |seat| &seat.label);
                    self.down(seat, format!("peer {label}: {why}; its requests go elsewhere"));
                }
                PeerEvent::Ready => self.ready(seat),
                PeerEvent::Unmatched => self.counters.unmatched += 1,
                PeerEvent::Malformed => self.counters.malformed += 1,
            }
        }
    }

    fn answered(&mut self, seat: usize, message: Vec<u8>, now: Time) {
        let number = self.seats.get(seat).map_or(0, |seat| seat.number);
        let Some(header) = Message::parse(&message).map(|message| message.header) else { return };
        let found = self.requests.answered(&header, Connection { seat, number });
        let is_probe = |serial: Serial| {
            let probe = self.seats.get(seat).and_then(|seat| seat.demoted?.probe);
            probe.is_some_and(|probe| probe.serial == serial && now < probe.deadline)
        };
        match &found {
            Match::Waiting(..) => self.trust(seat, now),
            // Another peer was faster, and this one answers all the same.
            Match::Over(serial, _) if is_probe(*serial) => self.trust(seat, now),
            Match::Over(..) | Match::None => {}
        }
        match found {
            Match::None => self.counters.unmatched += 1,
            Match::Over(_, name) => {
                self.counters.late += 1;
                let from = self.host(seat);
                self.events.push_back(Event::Late { name, from, message });
            }
            Match::Waiting(serial, mut pending) if pending.may_move && is_temporary(&message) => {
                pending.refused_by.push(seat);
                if let Some(host) = self.redirected_to(&message) {
                    pending.prefer = Some(host);
                }
                let waits_here = pending.seat == seat;
                self.requests.put_back(serial, pending);
                // One that has moved on waits for the other peer alone.
                if waits_here && !self.relocate(serial, seat, false) {
                    self.answered_for_good(seat, serial, message, now);
                }
            }
            Match::Waiting(serial, pending) => self.answered_in_time(seat, serial, pending, message, now),
        }
    }

    /// The first open peer that an answer with 3006 names as Redirect-Host (RFC 6733, 6.1.8 and 6.12). Others are not
    /// connected to: peers are those of the configuration.
    fn redirected_to(&self, answer: &[u8]) -> Option<Box<str>> {
        let answer = Message::parse(answer)?;
        let uris = answer.avps().map_while(Result::ok).filter(|avp| avp.is(dictionary::REDIRECT_HOST));
        let hosts = uris.filter_map(|avp| avp.text().ok().and_then(host_of));
        let mut open = hosts.filter(|host| {
            let is = |seat: &PeerSlot| seat.peer.host().is_some_and(|known| known.eq_ignore_ascii_case(host));
            self.seats.iter().any(|seat| is(seat) && seat.peer.fitness() != Fitness::Unfit)
        });
        open.next().map(Box::from)
    }

    /// Origin-Host of a peer that has answered.
    fn host(&self, seat: usize) -> Rc<str> {
        self.seats.get(seat).and_then(|seat| seat.peer.host()).map_or_else(|| Rc::from(""), Rc::clone)
    }

    /// No other peer may have it: then this is its answer.
    fn answered_for_good(&mut self, seat: usize, serial: Serial, message: Vec<u8>, now: Time) {
        if let Some(pending) = self.requests.take(serial) {
            self.answered_in_time(seat, serial, pending, message, now);
        }
    }

    fn answered_in_time(&mut self, seat: usize, serial: Serial, pending: Pending, message: Vec<u8>, now: Time) {
        self.counters.answered += 1;
        if let Some(seat) = self.seats.get_mut(pending.seat) {
            seat.waiting.remove(&serial);
            seat.counters.answered += 1;
        }
        let from = self.host(seat);
        let (name, micros) = (pending.name, now.micros_since(pending.sent_at));
        let elsewhere = match pending.copies.is_empty() {
            true => pending.written_to,
            false => {
                let over = [(serial, pending)];
                self.withdraw(&over);
                over.into_iter().find_map(|(serial, pending)| self.settle(serial, pending, now))
            }
        };
        let elsewhere = elsewhere.filter(|host| *host != from);
        self.events.push_back(Event::Answered { name, from, message, micros, elsewhere });
    }

    fn asked(&mut self, seat: usize, message: Vec<u8>) {
        let Some(number) = self.seats.get(seat).map(|seat| seat.number) else { return };
        let Some(header) = Message::parse(&message).map(|message| message.header) else { return };
        let connection = Connection { seat, number };
        let asked = Asked { connection, hop_by_hop: header.hop_by_hop, end_to_end: header.end_to_end };
        self.events.push_back(Event::Asked { asked, message });
    }

    /// A peer can be used. What waits for silent ones may go to it.
    fn ready(&mut self, seat: usize) {
        let Some(ready) = self.seats.get_mut(seat) else { return };
        if !ready.up && ready.demoted.is_none() {
            ready.up = true;
            ready.why.clear();
            self.events.push_back(Event::Up { peer: Rc::clone(&ready.label) });
        }
        let silent = |seat: &PeerSlot| seat.connected && seat.peer.fitness() == Fitness::Unfit;
        let silent: Vec<usize> = (0..self.seats.len()).filter(|at| self.seats.get(*at).is_some_and(silent)).collect();
        silent.into_iter().for_each(|seat| self.fail_over(seat));
    }

    fn down(&mut self, seat: usize, why: String) {
        let Some(down) = self.seats.get_mut(seat) else { return };
        if down.up || down.why != why {
            down.up = false;
            down.why.clone_from(&why);
            self.events.push_back(Event::Down { peer: Rc::clone(&down.label), why });
        }
    }
}

/// Whether an answer says that the request was not delivered, and that another peer may have more luck (RFC 6733,
/// 7.1.3; RFC 8506, 5.7). It goes there without the T flag: that is not for what an error answer came to (RFC 6733, 3).
fn is_temporary(answer: &[u8]) -> bool {
    let result = Message::parse(answer).and_then(|answer| answer.find(dictionary::RESULT_CODE)?.u32().ok());
    let codes = [
        ResultCode::UNABLE_TO_DELIVER,
        ResultCode::TOO_BUSY,
        ResultCode::LOOP_DETECTED,
        ResultCode::REDIRECT_INDICATION,
    ];
    result.is_some_and(|result| codes.contains(&ResultCode(result)))
}

/// The host of a DiameterURI (RFC 6733, 4.3.1): `aaa://host:port;transport=tcp`.
fn host_of(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    let host = rest.split([':', ';']).next()?;
    (["aaa", "aaas"].contains(&scheme) && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests;
