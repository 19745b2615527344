//! What holds whatever peers send and in whatever order things happen: every request ends exactly once, nobody is told
//! that a request left that did not, and of the copies of a request at most one is without the T flag.

use super::super::rehearsal::*;
use super::tests::{World, assert_accounts};
use super::*;
use crate::wire::diameter::dictionary::Command;
use crate::wire::diameter::words::DisconnectCause;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const HOSTS: [&str; 3] = [HOST, OTHER, "ocs3.example.org"];

/// One thing that happens.
#[derive(Clone, Debug)]
enum Act {
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
        which: prop::sample::Index,
        keep: bool,
        spoil: Option<(prop::sample::Index, u8)>,
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

fn act() -> impl Strategy<Value = Act> {
    let seat = || 0..HOSTS.len();
    let spoil = prop::option::weighted(0.2, (any::<prop::sample::Index>(), any::<u8>()));
    prop_oneof![
        3 => seat().prop_map(Act::Connect),
        1 => seat().prop_map(Act::Close),
        1 => seat().prop_map(Act::Stop),
        8 => (any::<bool>(), prop::option::of(seat()), 0..100u32, any::<bool>()).prop_map(
            |(may_move, prefer, patience, duplicate)| Act::Send { may_move, prefer, patience, duplicate }),
        6 => (seat(), 0..2000usize).prop_map(|(seat, octets)| Act::Write { seat, octets }),
        4 => (seat(), any::<prop::sample::Index>(), any::<bool>(), spoil).prop_map(
            |(seat, which, keep, spoil)| Act::Answer { seat, which, keep, spoil }),
        5 => seat().prop_map(Act::AnswerAll),
        2 => (seat(), 0..8u8).prop_map(|(seat, what)| Act::Ask { seat, what }),
        1 => (seat(), prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(seat, bytes)| Act::Octets { seat, bytes }),
        4 => (0..40_000u64).prop_map(|milliseconds| Act::Pass { milliseconds }),
        1 => Just(Act::ReplyToAsked),
    ]
}

/// The world outside: what the sockets have taken, and what was told.
struct Outside {
    world: World,
    /// Octets that each peer has got and not made whole messages of yet.
    wires: [Vec<u8>; HOSTS.len()],
    /// Requests that each peer has.
    inboxes: [Vec<Vec<u8>>; HOSTS.len()],
    /// Copies of each request that left: the T flag of each.
    left: BTreeMap<u32, Vec<bool>>,
    end_to_ends: BTreeMap<u32, EndToEnd>,
    sent: BTreeMap<u32, bool>,
    outcomes: BTreeMap<u128, usize>,
    asked: Vec<Asked>,
    /// Requests of which it was told that they did not leave.
    never: BTreeSet<u32>,
}

impl Outside {
    fn new() -> Outside {
        let config = Config { in_flight_max: 5, ..config(&HOSTS) };
        Outside {
            world: World::of(&config, &HOSTS),
            wires: Default::default(),
            inboxes: Default::default(),
            left: BTreeMap::new(),
            end_to_ends: BTreeMap::new(),
            sent: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            asked: Vec::new(),
            never: BTreeSet::new(),
        }
    }

    fn act(&mut self, act: Act) {
        let now = self.world.now;
        match act {
            Act::Connect(seat) => {
                self.world.exchange.closed(seat, "anew".into(), now);
                self.drop_wire(seat);
                self.world.exchange.connected(seat, OWN_ADDRESS, now);
            }
            Act::Close(seat) => self.close(seat),
            Act::Stop(seat) => self.world.exchange.stop(seat, now),
            Act::Send { may_move, prefer, patience, duplicate } => self.send(may_move, prefer, patience, duplicate),
            Act::Write { seat, octets } => self.write(seat, octets),
            Act::Answer { seat, which, keep, spoil } => self.answer(seat, which, keep, spoil),
            Act::AnswerAll(seat) => {
                self.write(seat, usize::MAX);
                for asked in std::mem::take(&mut self.inboxes[seat]) {
                    self.world.receive(seat, &respond(&asked, HOSTS[seat]));
                }
            }
            Act::Ask { seat, what } => self.world.receive(seat, &question(HOSTS[seat], what)),
            Act::Octets { seat, bytes } => self.world.receive(seat, &bytes),
            Act::Pass { milliseconds } => {
                self.world.now = Time(now.0 + milliseconds * 1000);
                self.world.exchange.timer(self.world.now);
                (0..HOSTS.len()).for_each(|seat| self.world.exchange.peer_timer(seat, self.world.now));
            }
            Act::ReplyToAsked => {
                for asked in std::mem::take(&mut self.asked) {
                    self.world.exchange.answer(asked, &peer_answer(&rar(HOST, 1), "imcharge.example.com"));
                }
            }
        }
        // What the owner of the sockets does.
        for seat in 0..HOSTS.len() {
            if self.world.exchange.doom(seat).is_some() {
                self.write(seat, usize::MAX);
                self.close(seat);
            }
        }
        self.listen();
    }

    fn send(&mut self, may_move: bool, prefer: Option<usize>, patience: u32, duplicate: bool) {
        let name = self.sent.len() as u32;
        let request = Request {
            name: name.into(),
            message: &ccr(name),
            deadline: self.world.now.after_seconds(patience),
            may_move,
            duplicate,
            prefer: prefer.map(|seat| HOSTS[seat]),
        };
        if self.world.exchange.send(request, self.world.now).is_ok() {
            self.sent.insert(name, duplicate);
        }
    }

    fn write(&mut self, seat: usize, octets: usize) {
        let output = self.world.exchange.output(seat);
        let taken = &output[..octets.min(output.len())];
        self.wires[seat].extend_from_slice(taken);
        let taken = taken.len();
        self.world.exchange.wrote(seat, taken);
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

    fn answer(
        &mut self,
        seat: usize,
        which: prop::sample::Index,
        keep: bool,
        spoil: Option<(prop::sample::Index, u8)>,
    ) {
        if self.inboxes[seat].is_empty() {
            return;
        }
        let at = which.index(self.inboxes[seat].len());
        let asked = self.inboxes[seat][at].clone();
        if !keep {
            self.inboxes[seat].remove(at);
        }
        let mut bytes = respond(&asked, HOSTS[seat]);
        if let Some((place, bits)) = spoil {
            let place = place.index(bytes.len());
            bytes[place] ^= bits;
        }
        self.world.receive(seat, &bytes);
    }

    fn close(&mut self, seat: usize) {
        self.world.exchange.closed(seat, "gone".into(), self.world.now);
        self.drop_wire(seat);
    }

    /// What a lost connection had on it is lost, but not what the peer has got.
    fn drop_wire(&mut self, seat: usize) {
        self.wires[seat].clear();
        self.inboxes[seat].retain(|asked| header(asked).command == Command::CREDIT_CONTROL);
    }

    fn listen(&mut self) {
        while let Some(event) = self.world.exchange.next_event() {
            let (name, written) = match event {
                Event::Answered { name, .. } => (name, true),
                Event::TimedOut { name, written } | Event::Lost { name, written } => (name, written),
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
        assert_accounts(&self.world.exchange, HOSTS.len());
        for seat in 0..HOSTS.len() {
            assert!(self.world.exchange.in_flight(seat) <= 5);
        }
    }

    fn end(mut self) {
        self.world.now = self.world.now.after_seconds(1000);
        (0..HOSTS.len()).for_each(|seat| self.write(seat, usize::MAX));
        self.world.exchange.timer(self.world.now);
        self.listen();
        let Counters { sent, answered, timed_out, failed, .. } = *self.world.exchange.counters();
        assert_eq!(sent, answered + timed_out + failed);
        assert_eq!(self.outcomes.len(), self.sent.len());
        assert!(self.outcomes.values().all(|count| *count == 1));
        assert!(self.never.iter().all(|name| !self.left.contains_key(name)), "told that it did not leave");
        for (name, copies) in &self.left {
            let unmarked = copies.iter().filter(|marked| !**marked).count();
            let most = if self.sent[name] { 0 } else { 1 };
            assert!(unmarked <= most, "{unmarked} of {} copies of request {name} without T", copies.len());
        }
    }
}

/// A request of a peer, good or not.
fn question(host: &str, what: u8) -> Vec<u8> {
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
    while let crate::wire::diameter::Framed::Message(length) = crate::wire::diameter::frame(wire) {
        found.push(wire.drain(..length).collect());
    }
    found
}

proptest! {
    #[test]
    fn every_request_ends_exactly_once(acts in prop::collection::vec(act(), 0..150)) {
        let mut outside = Outside::new();
        acts.into_iter().for_each(|act| outside.act(act));
        outside.end();
    }

    #[test]
    fn no_octets_harm_an_open_connection(
        pieces in prop::collection::vec((0..8u8, prop::collection::vec(any::<u8>(), 0..80), any::<u16>()), 0..20),
    ) {
        let mut outside = Outside::new();
        outside.act(Act::Connect(0));
        outside.act(Act::AnswerAll(0));
        outside.act(Act::Send { may_move: true, prefer: None, patience: 10, duplicate: false });
        for (what, noise, place) in pieces {
            let mut bytes = question(HOST, what);
            let place = usize::from(place) % bytes.len();
            for (to, from) in bytes.iter_mut().skip(place).zip(noise) {
                *to = from;
            }
            outside.act(Act::Octets { seat: 0, bytes });
        }
        outside.end();
    }
}
