//! What lies beyond the proxy's sockets: the charging system and the network to it.

use crate::state::{Fate, Peer, State};
use crate::world::say;
use imcharge::simulate::machine::{Far, Machine};
use imcharge::wire::diameter::{Command, CreditControlRequest, Framed, Message, dictionary, frame};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

/// A connection, seen from there.
struct Line {
    far: Far,
    peer: Peer,
    /// When it is taken.
    accepted_at: u64,
    input: Vec<u8>,
    /// What goes back, and when.
    output: Vec<(u64, Vec<u8>)>,
    ends: bool,
}

/// The charging system and the way there.
pub struct Elsewhere {
    machine: Rc<Machine>,
    random: fastrand::Rng,
    /// What it knows.
    pub ocs: State,
    lines: Vec<Line>,
    next: u64,
    /// Microseconds that an octet is on its way at most.
    pub delay: u64,
    /// Numbers that each Diameter session has used.
    numbers: BTreeMap<String, BTreeSet<u32>>,
    /// What was against a rule.
    pub wrong: Vec<String>,
}

impl Elsewhere {
    pub fn new(machine: Rc<Machine>, random: fastrand::Rng) -> Elsewhere {
        let (lines, numbers, wrong) = (Vec::new(), BTreeMap::new(), Vec::new());
        Elsewhere { machine, random, ocs: State::default(), lines, next: 0, delay: 2_000, numbers, wrong }
    }

    /// Time passes for the engine's pause.
    pub fn pause(&mut self, span: Duration) {
        self.machine.pass(span);
        self.step();
    }

    /// Closes every connection.
    pub fn cut(&mut self) {
        for line in &self.lines {
            line.far.close();
        }
    }

    /// Takes connections and octets, answers what is whole, and brings what is due.
    pub fn step(&mut self) {
        let now = self.machine.clock.get();
        while let Some((_, far)) = self.machine.opened.borrow_mut().pop_front() {
            let peer = Peer { connection: self.next, local: Ipv4Addr::LOCALHOST.into(), name: None };
            self.next += 1;
            let accepted_at = now + self.random.u64(0..=self.delay);
            self.lines.push(Line { far, peer, accepted_at, input: Vec::new(), output: Vec::new(), ends: false });
        }
        let mut lines = std::mem::take(&mut self.lines);
        for line in &mut lines {
            if line.accepted_at <= now {
                line.far.accept();
            }
            self.hear(line, now);
            line.speak(now, &mut self.random);
        }
        lines.retain(|line| !line.far.is_closed() || line.far.waiting() > 0);
        self.lines = lines;
    }

    /// Reads some octets: a stream may break anywhere.
    fn hear(&mut self, line: &mut Line, now: u64) {
        let most = if self.random.bool() { 4096 } else { self.random.usize(1..200) };
        line.input.extend(line.far.take(most));
        loop {
            let Framed::Message(length) = frame(&line.input) else { return };
            let bytes: Vec<u8> = line.input.drain(..length).collect();
            self.note(&bytes);
            let mut answer = Vec::new();
            let fate = self.ocs.take(&mut line.peer, &bytes, &mut answer);
            tell(now, &bytes, &answer, fate);
            let mut due = now + self.random.u64(0..=self.delay);
            match fate {
                Fate::Hold(time) => due += u64::try_from(time.as_micros()).unwrap_or(0),
                Fate::Close => line.ends = true,
                Fate::Send | Fate::Pieces => {}
            }
            if !answer.is_empty() {
                line.output.push((due, answer));
            }
        }
    }

    /// Numbers of a session rise; an old one comes only again (RFC 8506, 8.2).
    fn note(&mut self, bytes: &[u8]) {
        let Some(message) = Message::parse(bytes).filter(|message| message.header.is_request()) else { return };
        if message.header.command != Command::CREDIT_CONTROL {
            return;
        }
        let Ok(request) = CreditControlRequest::decode(&message) else {
            return self.wrong.push("a Credit-Control-Request that its own reader refuses".into());
        };
        let seen = self.numbers.entry(request.session_id.to_owned()).or_default();
        let number = request.request_number;
        if !seen.contains(&number) && seen.last().is_some_and(|last| number < *last) {
            self.wrong.push(format!("{}: number {number} for the first time after {seen:?}", request.session_id));
        }
        seen.insert(number);
    }
}

/// Tells of a request and its answer.
fn tell(now: u64, bytes: &[u8], answer: &[u8], fate: Fate) {
    let Some(message) = Message::parse(bytes) else { return };
    let Ok(request) = CreditControlRequest::decode(&message) else { return };
    let result = Message::parse(answer).and_then(|answer| answer.find(dictionary::RESULT_CODE)?.u32().ok());
    let (id, kind, number) = (request.session_id, request.request_type, request.request_number);
    let repeated = if message.header.is_retransmitted() { "T" } else { "" };
    say(format_args!("{now} {id} {kind:?} {number}{repeated} on {:?}: {result:?} {fate:?}", message.header.hop_by_hop));
}

impl Line {
    /// Answers come in any order, as servers with several workers give them.
    fn speak(&mut self, now: u64, random: &mut fastrand::Rng) {
        random.shuffle(&mut self.output);
        let far = &self.far;
        self.output.retain(|(due, bytes)| {
            if *due <= now {
                far.give(bytes);
            }
            *due > now
        });
        if self.ends && self.output.is_empty() {
            self.far.close();
        }
    }
}
