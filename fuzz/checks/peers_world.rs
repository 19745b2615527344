//! What holds whatever peers send and in whatever order things happen: every request ends exactly once, nobody is told
//! that a request left that did not, and of the copies of a request at most one is without the T flag.

use super::fake_peer::*;
use imcharge::charge::time::Time;
use imcharge::enabler::diameter::client::config::Config;
use imcharge::enabler::diameter::client::peer_table::{Asked, Counters, Event, PeerTable, Request};
use imcharge::wire::diameter::codes::DisconnectCause;
use imcharge::wire::diameter::dictionary::Command;
use imcharge::wire::diameter::{EndToEnd, Framed, frame};
use std::collections::{BTreeMap, BTreeSet};

/// Who the peers are.
pub const HOSTS: [&str; 3] = [HOST, OTHER, "ocs3.example.org"];

const START: Time = Time(5_000_000_000);

/// One thing that happens.
#[derive(Clone, Debug)]
pub enum Act {
    Connect(usize),
    Close(usize),
    Stop(usize),
    Send {
        may_move: bool,
        prefer: Option<usize>,
        patience: u32,
        duplicate: bool,
    },
    /// The socket takes so many octets.
    Write {
        seat: usize,
        octets: usize,
    },
    /// The peer answers one of the requests it has, perhaps once more, perhaps spoilt in one octet.
    Answer {
        seat: usize,
        which: usize,
        keep: bool,
        spoil: Option<(usize, u8)>,
    },
    /// It answers all of them.
    AnswerAll(usize),
    Ask {
        seat: usize,
        what: u8,
    },
    Octets {
        seat: usize,
        bytes: Vec<u8>,
    },
    Pass {
        milliseconds: u64,
    },
    ReplyToAsked,
}

/// The world outside: what the sockets have taken, and what was told.
pub struct Outside {
    exchange: PeerTable,
    now: Time,
    /// Octets that each peer has got and not made whole messages of yet.
    wires: [Vec<u8>; HOSTS.len()],
    /// Requests that each peer has.
    inboxes: [Vec<Vec<u8>>; HOSTS.len()],
    /// Copies of each request that left: the T flag of each.
    left: BTreeMap<u32, Vec<bool>>,
    end_to_ends: BTreeMap<u32, EndToEnd>,
    sent: BTreeMap<u32, bool>,
    /// How often a peer said of a request that it is too busy for it: the next has it for the first time then.
    busy: BTreeMap<u32, usize>,
    outcomes: BTreeMap<u128, usize>,
    asked: Vec<Asked>,
    /// Requests of which it was told that nobody can have done them.
    never: BTreeSet<u32>,
}

impl Default for Outside {
    /// Nobody is connected yet.
    fn default() -> Outside {
        let config = Config { in_flight_max: 5, ..config(&HOSTS) };
        Outside {
            exchange: PeerTable::new(&config, 1, START),
            now: START,
            wires: Default::default(),
            inboxes: Default::default(),
            left: BTreeMap::new(),
            end_to_ends: BTreeMap::new(),
            sent: BTreeMap::new(),
            busy: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            asked: Vec::new(),
            never: BTreeSet::new(),
        }
    }
}

impl Outside {
    /// Does it, does what the owner of the sockets does then, and looks at what is told.
    pub fn act(&mut self, act: Act) {
        let now = self.now;
        match act {
            Act::Connect(seat) => {
                self.exchange.closed(seat, "anew".into(), now);
                self.drop_wire(seat);
                self.exchange.connected(seat, OWN_ADDRESS, now);
            }
            Act::Close(seat) => self.close(seat),
            Act::Stop(seat) => self.exchange.stop(seat, now),
            Act::Send { may_move, prefer, patience, duplicate } => self.send(may_move, prefer, patience, duplicate),
            Act::Write { seat, octets } => self.write(seat, octets),
            Act::Answer { seat, which, keep, spoil } => self.answer(seat, which, keep, spoil),
            Act::AnswerAll(seat) => {
                self.write(seat, usize::MAX);
                for asked in std::mem::take(&mut self.inboxes[seat]) {
                    self.receive(seat, &respond(&asked, HOSTS[seat]));
                }
            }
            Act::Ask { seat, what } => self.receive(seat, &question(HOSTS[seat], what)),
            Act::Octets { seat, bytes } => self.receive(seat, &bytes),
            Act::Pass { milliseconds } => {
                self.now = Time(now.0 + milliseconds * 1000);
                self.exchange.timer(self.now);
                (0..HOSTS.len()).for_each(|seat| self.exchange.peer_timer(seat, self.now));
            }
            Act::ReplyToAsked => {
                for asked in std::mem::take(&mut self.asked) {
                    self.exchange.answer(asked, &peer_answer(&rar(HOST, 1), "imcharge.example.com"));
                }
            }
        }
        // What the owner of the sockets does.
        for seat in 0..HOSTS.len() {
            if self.exchange.doom(seat).is_some() {
                self.write(seat, usize::MAX);
                self.close(seat);
            }
        }
        self.listen();
    }

    fn receive(&mut self, seat: usize, bytes: &[u8]) {
        self.exchange.received(seat, bytes, self.now);
    }

    fn send(&mut self, may_move: bool, prefer: Option<usize>, patience: u32, duplicate: bool) {
        let name = self.sent.len() as u32;
        let request = Request {
            name: name.into(),
            message: &ccr(name),
            deadline: self.now.after_seconds(patience),
            may_move,
            once: false,
            duplicate,
            prefer: prefer.map(|seat| HOSTS[seat]),
        };
        if self.exchange.send(request, self.now).is_ok() {
            self.sent.insert(name, duplicate);
        }
    }

    fn write(&mut self, seat: usize, octets: usize) {
        let output = self.exchange.output(seat);
        let taken = &output[..octets.min(output.len())];
        self.wires[seat].extend_from_slice(taken);
        let taken = taken.len();
        self.exchange.wrote(seat, taken);
        let whole = whole_messages(&mut self.wires[seat]);
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
            self.inboxes[seat].push(message);
        }
    }

    fn answer(&mut self, seat: usize, which: usize, keep: bool, spoil: Option<(usize, u8)>) {
        if self.inboxes[seat].is_empty() {
            return;
        }
        let at = which % self.inboxes[seat].len();
        let asked = self.inboxes[seat][at].clone();
        if !keep {
            self.inboxes[seat].remove(at);
        }
        let mut bytes = respond(&asked, HOSTS[seat]);
        if let Some((place, bits)) = spoil {
            let place = place % bytes.len();
            bytes[place] ^= bits;
        }
        // One fault in eight is another one.
        let is_busy = spoil.is_some_and(|(_, bits)| bits.is_multiple_of(8));
        if is_busy && header(&asked).command == Command::CREDIT_CONTROL {
            *self.busy.entry(number_of(&asked)).or_default() += 1;
            bytes = refusal(&asked, HOSTS[seat], 3004);
        }
        self.receive(seat, &bytes);
    }

    fn close(&mut self, seat: usize) {
        self.exchange.closed(seat, "gone".into(), self.now);
        self.drop_wire(seat);
    }

    /// What a lost connection had on it is lost, but not what the peer has got.
    fn drop_wire(&mut self, seat: usize) {
        self.wires[seat].clear();
        self.inboxes[seat].retain(|asked| header(asked).command == Command::CREDIT_CONTROL);
    }

    fn listen(&mut self) {
        while let Some(event) = self.exchange.next_event() {
            let (name, written) = match event {
                Event::Answered { name, .. } => (name, true),
                Event::TimedOut { name, written_to } | Event::Lost { name, written_to } => (name, written_to.is_some()),
                Event::Late { name, .. } => {
                    assert!(self.outcomes.contains_key(&name), "late behind an outcome");
                    continue;
                }
                Event::Asked { asked, .. } => {
                    self.asked.push(asked);
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
        assert_accounts(&self.exchange, HOSTS.len());
        for seat in 0..HOSTS.len() {
            assert!(self.exchange.in_flight(seat) <= 5);
        }
    }

    /// All time runs out; what became of all requests.
    pub fn end(mut self) {
        self.now = self.now.after_seconds(1000);
        (0..HOSTS.len()).for_each(|seat| self.write(seat, usize::MAX));
        self.exchange.timer(self.now);
        self.listen();
        let Counters { sent, answered, timed_out, failed, .. } = *self.exchange.counters();
        assert_eq!(sent, answered + timed_out + failed);
        assert_eq!(self.outcomes.len(), self.sent.len());
        assert!(self.outcomes.values().all(|count| *count == 1));
        for name in &self.never {
            // Who was too busy for it has not done it.
            let (left, busy) = (self.left.get(name).map_or(0, Vec::len), self.busy.get(name).copied().unwrap_or(0));
            assert!(left <= busy, "told that nobody can have done request {name}: {left} copies, {busy} refused");
        }
        for (name, copies) in &self.left {
            let unmarked = copies.iter().filter(|marked| !**marked).count();
            let busy = self.busy.get(name).copied().unwrap_or(0);
            let most = if self.sent[name] { 0 } else { 1 + busy };
            assert!(unmarked <= most, "{unmarked} of {} copies of request {name} without T", copies.len());
        }
    }
}

/// A request of a peer, good or not.
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

/// Takes the whole messages from the front.
fn whole_messages(wire: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while let Framed::Message(length) = frame(wire) {
        found.push(wire.drain(..length).collect());
    }
    found
}
