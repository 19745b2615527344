//! What lies beyond the proxy's sockets: the charging system and the network to it.

use crate::state::{Fate, Peer, State};
use crate::world::say;
use imcharge::simulate::machine::{Far, Machine};
use imcharge::wire::diameter::{
    Command, CreditControlRequest, EndToEnd, Framed, Header, HopByHop, Message, ResultCode, dictionary, frame,
};
use siphasher::sip::SipHasher13;
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::net::Ipv4Addr;
use std::rc::Rc;
use std::time::Duration;

/// The servers: two doors of one charging system, each with its name and port.
pub const DOORS: [(&str, u16); 2] = [("ocs1.example.com", 3868), ("ocs2.example.com", 3869)];

/// A connection, seen from there.
struct Line {
    far: Far,
    port: u16,
    peer: Peer,
    /// When it is taken.
    accepted_at: u64,
    input: Vec<u8>,
    /// What goes back, and when; with the request that it answers.
    output: Vec<(u64, Vec<u8>, Option<Asking>)>,
    ends: bool,
}

/// Microseconds that a client waits for an answer at least before it goes on without (`tx_timeout` of the runs, less
/// what a request may have been on its way).
const PATIENCE: u64 = 1_500_000;

/// The session and the number of a request that came, and which coming of it that was.
type Asking = (String, u32, Coming);

/// One coming of a request.
#[derive(Clone, PartialEq, Eq)]
struct Coming {
    connection: u64,
    hop_by_hop: HopByHop,
    /// With the T flag.
    repeats: bool,
}

/// What is known of a request, however often it has come.
struct Known {
    /// What it says.
    said: u64,
    end_to_end: EndToEnd,
    /// How it came, without those comings that were refused as not delivered.
    comings: Vec<Coming>,
}

/// The requests of a Diameter session.
#[derive(Default)]
struct Asked {
    /// By number.
    numbers: BTreeMap<u32, Known>,
    /// The last one that was new, when it came, by which connection, and whether it was answered.
    last: Option<(u32, u64, u64, bool)>,
    /// At which door the last one came.
    door: Option<u16>,
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
    /// The only door at which the faults are; `None`: at each.
    pub ill: Option<u16>,
    /// What each Diameter session has asked.
    asked: BTreeMap<String, Asked>,
    /// How often a Diameter session has gone to the other door.
    pub moves: u64,
    /// All that came, in one number.
    pub trace: u64,
    /// What was against a rule.
    pub wrong: Vec<String>,
}

impl Elsewhere {
    pub fn new(machine: Rc<Machine>, random: fastrand::Rng) -> Elsewhere {
        let (lines, asked, wrong) = (Vec::new(), BTreeMap::new(), Vec::new());
        let ocs = State::default();
        Elsewhere { machine, random, ocs, lines, next: 0, delay: 2_000, ill: None, asked, moves: 0, trace: 0, wrong }
    }

    /// Time passes for the engine's pause.
    pub fn pause(&mut self, span: Duration) {
        self.machine.pass(span);
        self.step();
    }

    /// Closes every connection to these ports.
    pub fn cut(&mut self, ports: &[u16]) {
        for line in self.lines.iter().filter(|line| ports.contains(&line.port)) {
            line.far.close();
        }
    }

    /// The charging system takes a message at one of its doors.
    fn take(&mut self, line: &mut Line, bytes: &[u8], answer: &mut Vec<u8>) -> Fate {
        let name = DOORS.iter().find(|door| door.1 == line.port).map_or("", |door| door.0);
        self.ocs.settings.origin_host = name.into();
        let is_well = self.ill.is_some_and(|ill| ill != line.port);
        let faults = is_well.then(|| std::mem::take(&mut self.ocs.faults));
        let fate = self.ocs.take(&mut line.peer, bytes, answer);
        if let Some(faults) = faults {
            self.ocs.faults = faults;
        }
        fate
    }

    /// Takes connections and octets, answers what is whole, and brings what is due.
    pub fn step(&mut self) {
        let now = self.machine.clock.get();
        while let Some((address, far)) = self.machine.opened.borrow_mut().pop_front() {
            let peer = Peer { connection: self.next, local: Ipv4Addr::LOCALHOST.into(), name: None };
            self.next += 1;
            let accepted_at = now + self.random.u64(0..=self.delay);
            let port = address.port();
            self.lines.push(Line { far, port, peer, accepted_at, input: Vec::new(), output: Vec::new(), ends: false });
        }
        let mut lines = std::mem::take(&mut self.lines);
        for line in &mut lines {
            if line.accepted_at <= now {
                line.far.accept();
            }
            self.hear(line, now);
            for (session, number, coming, is_refused) in line.speak(now, &mut self.random) {
                let Some(asked) = self.asked.get_mut(&session) else { continue };
                if let Some(last) = asked.last.as_mut().filter(|last| last.0 == number) {
                    last.3 = true;
                }
                if let Some(known) = asked.numbers.get_mut(&number).filter(|_| is_refused) {
                    known.comings.retain(|kept| *kept != coming);
                }
            }
        }
        lines.retain(|line| !line.far.is_closed() || line.far.waiting() > 0);
        self.lines = lines;
    }

    /// Whether there is more to hear: what the proxy has written arrives, however its engine fares.
    pub fn has_more(&self) -> bool {
        self.lines.iter().any(|line| line.far.waiting() > 0)
    }

    /// Reads some octets: a stream may break anywhere.
    fn hear(&mut self, line: &mut Line, now: u64) {
        let most = if self.random.bool() { 4096 } else { self.random.usize(1..200) };
        line.input.extend(line.far.take(most));
        loop {
            let Framed::Message(length) = frame(&line.input) else { return };
            let bytes: Vec<u8> = line.input.drain(..length).collect();
            let request = self.note(&bytes, line, now);
            let mut answer = Vec::new();
            let fate = self.take(line, &bytes, &mut answer);
            tell(now, &bytes, &answer, fate);
            let mut due = now + self.random.u64(0..=self.delay);
            match fate {
                Fate::Hold(time) => due += u64::try_from(time.as_micros()).unwrap_or(0),
                Fate::Close => line.ends = true,
                Fate::Send | Fate::Pieces => {}
            }
            if !answer.is_empty() {
                line.output.push((due, answer, request));
            }
        }
    }

    /// Numbers of a session rise, an old one comes only again, as it was (RFC 8506, 8.2), and a new one only when the one
    /// before it is answered, or given up, or gone with its connection.
    fn note(&mut self, bytes: &[u8], line: &Line, now: u64) -> Option<Asking> {
        let message = Message::parse(bytes).filter(|message| message.header.is_request())?;
        self.trace = hash(&(self.trace, now, bytes));
        if message.header.command != Command::CREDIT_CONTROL {
            return None;
        }
        let Ok(request) = CreditControlRequest::decode(&message) else {
            self.wrong.push("a Credit-Control-Request that its own reader refuses".into());
            return None;
        };
        let (session, number) = (request.session_id.to_owned(), request.request_number);
        // Where it goes, and when it happened, is not what it asks.
        let said = CreditControlRequest { destination_host: None, event_timestamp: None, ..request };
        let said = hash(&format!("{said:?}"));
        let (asked, connection) = (self.asked.entry(session.clone()).or_default(), line.peer.connection);
        self.moves += u64::from(asked.door.replace(line.port).is_some_and(|door| door != line.port));
        let Header { hop_by_hop, end_to_end, .. } = message.header;
        let coming = Coming { connection, hop_by_hop, repeats: message.header.is_retransmitted() };
        match asked.numbers.get_mut(&number) {
            Some(before) => {
                let wrong = before.wrong_again(said, end_to_end, &coming);
                self.wrong.extend(wrong.map(|wrong| format!("{session}: number {number} {wrong}")));
                before.comings.push(coming.clone());
            }
            None => {
                if asked.numbers.keys().last().is_some_and(|last| number < *last) {
                    self.wrong.push(format!("{session}: number {number} for the first time after a higher one"));
                }
                if let Some((last, came_at, by, false)) = asked.last
                    && now < came_at + PATIENCE
                    && by == connection
                {
                    self.wrong.push(format!("{session}: number {number} while {last} is in flight"));
                }
                asked.numbers.insert(number, Known { said, end_to_end, comings: vec![coming.clone()] });
                asked.last = Some((number, now, connection, false));
            }
        }
        Some((session, number, coming))
    }
}

impl Known {
    /// What is wrong where it comes again. The End-to-End Identifier stays, and the T flag is set, unless every copy
    /// before it was refused (RFC 6733, 3). Between two connections there is no order: the first copy, without T, may
    /// come after one that was sent after it.
    fn wrong_again(&self, said: u64, end_to_end: EndToEnd, coming: &Coming) -> Option<&'static str> {
        let follows = |before: &Coming| !before.repeats || before.connection == coming.connection;
        match () {
            () if self.said != said => Some("says another thing"),
            () if self.end_to_end != end_to_end => Some("comes again with another End-to-End Identifier"),
            () if !coming.repeats && self.comings.iter().any(follows) => Some("comes again without the T flag"),
            () => None,
        }
    }
}

/// Result-Code of an answer.
fn result_of(answer: &[u8]) -> Option<u32> {
    Message::parse(answer)?.find(dictionary::RESULT_CODE)?.u32().ok()
}

/// Whether an answer says that the request was not delivered.
fn is_refusal(answer: &[u8]) -> bool {
    result_of(answer).is_some_and(|result| ResultCode(result).is_protocol_error())
}

fn hash(what: &impl Hash) -> u64 {
    let mut hasher = SipHasher13::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Tells of a request and its answer.
fn tell(now: u64, bytes: &[u8], answer: &[u8], fate: Fate) {
    let Some(message) = Message::parse(bytes) else { return };
    let Ok(request) = CreditControlRequest::decode(&message) else { return };
    let result = result_of(answer);
    let (id, kind, number) = (request.session_id, request.request_type, request.request_number);
    let repeated = if message.header.is_retransmitted() { "T" } else { "" };
    say(format_args!("{now} {id} {kind:?} {number}{repeated} on {:?}: {result:?} {fate:?}", message.header.hop_by_hop));
}

impl Line {
    /// Answers come in any order, as servers with several workers give them. The requests that are answered now, and
    /// whether by a refusal.
    fn speak(&mut self, now: u64, random: &mut fastrand::Rng) -> Vec<(String, u32, Coming, bool)> {
        random.shuffle(&mut self.output);
        let far = &self.far;
        let mut answered = Vec::new();
        self.output.retain_mut(|(due, bytes, request)| {
            if *due <= now {
                far.give(bytes);
                let asked = request.take();
                answered.extend(asked.map(|(session, number, coming)| (session, number, coming, is_refusal(bytes))));
            }
            *due > now
        });
        if self.ends && self.output.is_empty() {
            self.far.close();
        }
        answered
    }
}
