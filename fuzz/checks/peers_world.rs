//! Invariants of the peer table for any input in any order: each request ends exactly once, a request reported as
//! written was written, and at most one copy of a request has no T flag.

use super::fake_peer::*;
use imcharge::charge::time::Time;
use imcharge::enabler::diameter::client::config::Config;
use imcharge::enabler::diameter::client::peer_table::{Counters, Event, PeerRequest, PeerTable, Request};
use imcharge::wire::diameter::codes::DisconnectCause;
use imcharge::wire::diameter::dictionary::Command;
use imcharge::wire::diameter::{EndToEnd, Framed, frame};
use std::collections::{BTreeMap, BTreeSet};

/// Origin-Hosts of the peers.
pub const HOSTS: [&str; 3] = [HOST, OTHER, "ocs3.example.org"];

const START: Time = Time(5_000_000_000);

/// One event.
#[derive(Clone, Debug)]
pub enum Act {
    Connect(usize),
    Close(usize),
    Stop(usize),
    Send {
        may_move: bool,
        preferred: Option<usize>,
        timeout_seconds: u32,
        possible_duplicate: bool,
    },
    /// The socket accepts this many octets.
    Write {
        slot: usize,
        octets: usize,
    },
    /// The peer answers one of its requests: it may `keep` the request to answer it again, and `spoil` one octet.
    Answer {
        slot: usize,
        which: usize,
        keep: bool,
        spoil: Option<(usize, u8)>,
    },
    /// The peer answers all of its requests.
    AnswerAll(usize),
    Ask {
        slot: usize,
        what: u8,
    },
    Octets {
        slot: usize,
        bytes: Vec<u8>,
    },
    Pass {
        milliseconds: u64,
    },
    ReplyToAsked,
}

/// The environment of the peer table: data written to the sockets, and reported events.
pub struct Environment {
    table: PeerTable,
    now: Time,
    /// Incomplete message that each peer has received.
    wires: [Vec<u8>; HOSTS.len()],
    /// Requests that each peer has received.
    inboxes: [Vec<Vec<u8>>; HOSTS.len()],
    /// T flags of the written copies of each request.
    left: BTreeMap<u32, Vec<bool>>,
    end_to_ends: BTreeMap<u32, EndToEnd>,
    sent: BTreeMap<u32, bool>,
    /// Number of answers "too busy" to each request: the next copy may have no T flag.
    busy: BTreeMap<u32, usize>,
    outcomes: BTreeMap<u128, usize>,
    peer_requests: Vec<PeerRequest>,
    /// Requests reported as not written.
    never: BTreeSet<u32>,
}

impl Default for Environment {
    /// Without connections.
    fn default() -> Environment {
        let config = Config { in_flight_max: 5, ..config(&HOSTS) };
        Environment {
            table: PeerTable::new(&config, 1, START),
            now: START,
            wires: Default::default(),
            inboxes: Default::default(),
            left: BTreeMap::new(),
            end_to_ends: BTreeMap::new(),
            sent: BTreeMap::new(),
            busy: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            peer_requests: Vec::new(),
            never: BTreeSet::new(),
        }
    }
}

impl Environment {
    /// Performs the act, acts as the owner of the sockets, and checks the events.
    pub fn act(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Connect(slot) => {
                self.table.closed(slot, "reconnected".into(), now);
                self.drop_wire(slot);
                self.table.connected(slot, OWN_ADDRESS, now);
            }
            Act::Close(slot) => self.close(slot),
            Act::Stop(slot) => self.table.stop(slot, now),
            Act::Send { may_move, preferred, timeout_seconds, possible_duplicate } => {
                self.send(may_move, preferred, timeout_seconds, possible_duplicate);
            }
            Act::Write { slot, octets } => self.write(slot, octets),
            Act::Answer { slot, which, keep, spoil } => self.answer(slot, which, keep, spoil),
            Act::AnswerAll(slot) => {
                self.write(slot, usize::MAX);
                for asked in std::mem::take(&mut self.inboxes[slot]) {
                    self.receive(slot, &respond(&asked, HOSTS[slot]));
                }
            }
            Act::Ask { slot, what } => self.receive(slot, &question(HOSTS[slot], what)),
            Act::Octets { slot, bytes } => self.receive(slot, &bytes),
            Act::Pass { milliseconds } => {
                self.now = Time(now.0 + milliseconds * 1000);
                self.table.timer(self.now);
                (0..HOSTS.len()).for_each(|slot| self.table.peer_timer(slot, self.now));
            }
            Act::ReplyToAsked => {
                for request in std::mem::take(&mut self.peer_requests) {
                    self.table.answer(request, &peer_answer(&rar(HOST, 1), "imcharge.example.com"));
                }
            }
        }
        // The owner of the sockets closes connections.
        for slot in 0..HOSTS.len() {
            if self.table.close_reason(slot).is_some() {
                self.write(slot, usize::MAX);
                self.close(slot);
            }
        }
        self.check_events();
    }

    fn receive(&mut self, slot: usize, bytes: &[u8]) {
        self.table.received(slot, bytes, self.now);
    }

    fn send(&mut self, may_move: bool, preferred: Option<usize>, timeout_seconds: u32, possible_duplicate: bool) {
        let name = self.sent.len() as u32;
        let request = Request {
            name: name.into(),
            message: &ccr(name),
            deadline: self.now.after_seconds(timeout_seconds),
            may_move,
            at_most_once: false,
            possible_duplicate,
            preferred_host: preferred.map(|slot| HOSTS[slot]),
        };
        if self.table.send(request, self.now).is_ok() {
            self.sent.insert(name, possible_duplicate);
        }
    }

    fn write(&mut self, slot: usize, octets: usize) {
        let output = self.table.output(slot);
        let taken = &output[..octets.min(output.len())];
        self.wires[slot].extend_from_slice(taken);
        let taken = taken.len();
        self.table.wrote(slot, taken);
        let whole = whole_messages(&mut self.wires[slot]);
        for message in whole {
            let header = header(&message);
            if !header.is_request() {
                continue;
            }
            if header.command == Command::CREDIT_CONTROL {
                let name = number_of(&message);
                self.left.entry(name).or_default().push(header.is_retransmitted());
                assert_eq!(*self.end_to_ends.entry(name).or_insert(header.end_to_end), header.end_to_end);
            }
            self.inboxes[slot].push(message);
        }
    }

    fn answer(&mut self, slot: usize, which: usize, keep: bool, spoil: Option<(usize, u8)>) {
        if self.inboxes[slot].is_empty() {
            return;
        }
        let at = which % self.inboxes[slot].len();
        let asked = self.inboxes[slot][at].clone();
        if !keep {
            self.inboxes[slot].remove(at);
        }
        let mut bytes = respond(&asked, HOSTS[slot]);
        if let Some((place, bits)) = spoil {
            let place = place % bytes.len();
            bytes[place] ^= bits;
        }
        // One in eight spoilt answers is "too busy" instead.
        let is_busy = spoil.is_some_and(|(_, bits)| bits.is_multiple_of(8));
        if is_busy && header(&asked).command == Command::CREDIT_CONTROL {
            *self.busy.entry(number_of(&asked)).or_default() += 1;
            bytes = refusal(&asked, HOSTS[slot], 3004);
        }
        self.receive(slot, &bytes);
    }

    fn close(&mut self, slot: usize) {
        self.table.closed(slot, "gone".into(), self.now);
        self.drop_wire(slot);
    }

    /// Discards what was on a lost connection; the peer keeps the requests it has received.
    fn drop_wire(&mut self, slot: usize) {
        self.wires[slot].clear();
        self.inboxes[slot].retain(|asked| header(asked).command == Command::CREDIT_CONTROL);
    }

    fn check_events(&mut self) {
        while let Some(event) = self.table.next_event() {
            let (name, written) = match event {
                Event::Answered { name, .. } => (name, true),
                Event::TimedOut { name, written_to } | Event::Lost { name, written_to } => (name, written_to.is_some()),
                Event::Late { name, .. } => {
                    assert!(self.outcomes.contains_key(&name), "late answers follow an outcome");
                    continue;
                }
                Event::PeerRequest { request, .. } => {
                    self.peer_requests.push(request);
                    continue;
                }
                Event::Up { .. } | Event::Down { .. } => continue,
            };
            *self.outcomes.entry(name).or_default() += 1;
            if !written {
                self.never.insert(name as u32);
            }
            let begun = self.wires.iter().any(|wire| !wire.is_empty());
            assert!(!written || begun || self.left.contains_key(&(name as u32)), "request {name} has not left");
        }
        assert_counters(&self.table, HOSTS.len());
        for slot in 0..HOSTS.len() {
            assert!(self.table.in_flight(slot) <= 5);
        }
    }

    /// Lets all deadlines pass, and checks the outcome of all requests.
    pub fn end(mut self) {
        self.now = self.now.after_seconds(1000);
        (0..HOSTS.len()).for_each(|slot| self.write(slot, usize::MAX));
        self.table.timer(self.now);
        self.check_events();
        let Counters { sent, answered, timed_out, failed, .. } = *self.table.counters();
        assert_eq!(sent, answered + timed_out + failed);
        assert_eq!(self.outcomes.len(), self.sent.len());
        assert!(self.outcomes.values().all(|count| *count == 1));
        for name in &self.never {
            // A peer that was too busy has not executed it.
            let (left, busy) = (self.left.get(name).map_or(0, Vec::len), self.busy.get(name).copied().unwrap_or(0));
            assert!(left <= busy, "reported as not written, request {name}: {left} copies, {busy} refused");
        }
        for (name, copies) in &self.left {
            let unmarked = copies.iter().filter(|marked| !**marked).count();
            let busy = self.busy.get(name).copied().unwrap_or(0);
            let most = if self.sent[name] { 0 } else { 1 + busy };
            assert!(unmarked <= most, "{unmarked} of {} copies of request {name} without T", copies.len());
        }
    }
}

/// A request of a peer, valid or not.
pub fn question(host: &str, what: u8) -> Vec<u8> {
    match what {
        0 => dwr(host, 7),
        1 => dpr(host, 7, DisconnectCause::REBOOTING),
        2 => dpr(host, 7, DisconnectCause::BUSY),
        3 => rar(host, 7),
        4 => unknown(0, 7),
        5 => unknown(16, 7),
        6 => ccr(7),
        _ => dwr(host, 7)[..30].to_vec(),
    }
}

/// Takes the whole messages out of the buffer.
fn whole_messages(wire: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Framed::Message(length) = frame(wire) {
        found.push(wire.drain(..length).collect());
    }
    found
}
