//! What lies beyond the proxy's sockets: the charging system and the network to it.

use crate::accounts::Quantity;
use crate::asked::{Asked, Asking, Coming};
use crate::inquiries::{CLIENT, Inquiries, Wish};
use crate::rating::FOREIGN_GROUP;
use crate::state::{Fate, Peer, State};
use crate::world::say;
use imcharge::charge::ch2::SessionKey;
use imcharge::enabler::diameter::mapping;
use imcharge::simulate::machine::{Far, Machine};
use imcharge::wire::diameter::codes::RequestType;
use imcharge::wire::diameter::{
    Command, CreditControlRequest, Framed, Header, Message, ResultCode, Service, dictionary, frame,
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
    /// Whether it has been answered to who is there.
    is_greeted: bool,
    /// Whether the client has taken leave.
    leaves: bool,
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
    /// Whether it asks of its own accord.
    pub asks: bool,
    /// What it has asked so, and what it will ask next.
    pub inquiries: Inquiries,
    wishes: Vec<(Wish, String)>,
    /// Whether what moves money must not come again unless an operator wants it, and when one did last.
    pub holds: bool,
    may_repeat: BTreeMap<SessionKey, u64>,
    /// Whether the client may be configured in another way at a restart.
    pub changes: bool,
    /// Whether something is wrong now.
    pub is_ill: bool,
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
        let ocs = State::default();
        Elsewhere {
            machine,
            random,
            ocs,
            lines: Vec::new(),
            next: 0,
            delay: 2_000,
            ill: None,
            asks: false,
            inquiries: Inquiries::default(),
            wishes: Vec::new(),
            holds: false,
            may_repeat: BTreeMap::new(),
            changes: false,
            is_ill: false,
            asked: BTreeMap::new(),
            moves: 0,
            trace: 0,
            wrong: Vec::new(),
        }
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
        let fate = self.ocs.process(&mut line.peer, bytes, answer);
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
            let (input, output, ends, is_greeted, leaves) = (Vec::new(), Vec::new(), false, false, false);
            self.lines.push(Line { far, port, peer, accepted_at, input, output, ends, is_greeted, leaves });
        }
        let mut lines = std::mem::take(&mut self.lines);
        for line in &mut lines {
            if line.accepted_at <= now {
                line.far.accept();
            }
            self.hear(line, now);
            for ((session, number, coming), result) in line.speak(now, &mut self.random) {
                let Some(asked) = self.asked.get_mut(&session) else { continue };
                asked.answered(number, &coming, result.is_some_and(ResultCode::is_protocol_error));
                if number == 0 && result == Some(ResultCode::SUCCESS) {
                    asked.opened_at.get_or_insert(now);
                }
            }
        }
        lines.retain(|line| !line.far.is_closed() || line.far.waiting() > 0);
        self.lines = lines;
        for (wish, session) in std::mem::take(&mut self.wishes) {
            self.ask(wish, &session, now);
        }
        let lives = |connection| {
            let line = self.lines.iter().find(|line| line.peer.connection == connection)?;
            Some(!line.far.is_closed() && !line.leaves)
        };
        self.wrong.extend(self.inquiries.overdue(lives, now));
    }

    /// An operator wants what is held back of a session to be sent again.
    pub fn may_repeat(&mut self, session: SessionKey) {
        self.may_repeat.insert(session, self.machine.clock.get());
    }

    /// Something goes wrong, once or until further notice.
    pub fn disturb(&mut self, lasts: bool) {
        self.is_ill |= lasts;
        self.asked.values_mut().filter(|asked| asked.ended_at.is_none()).for_each(|asked| asked.is_disturbed = true);
    }

    /// It asks something of its own accord, of a session that is open, or over, or was never.
    pub fn inquire(&mut self) {
        let wish = if self.random.u8(0..5) == 0 { Wish::Abort } else { Wish::Report };
        let known: Vec<&String> = self.asked.keys().collect();
        let known = self.random.choice(known).cloned();
        let session = match (self.random.u8(0..8), known) {
            (0, _) | (_, None) => self.strange_session(),
            // A reservation that nobody has opened.
            (1, Some(known)) => format!("{known}1"),
            (_, Some(known)) => known,
        };
        self.wishes.push((wish, session));
    }

    fn strange_session(&mut self) -> String {
        let host = self.random.choice([CLIENT[0], "another.example.org"]).unwrap_or_default();
        match self.random.u8(0..4) {
            0 => "nothing".into(),
            _ => format!("{host};{};{};{:016x}.{}", self.random.u32(..), self.random.u32(..), self.random.u64(..), 7),
        }
    }

    /// By any of its doors, not only where the session is; some come twice, and some once more as a possible duplicate.
    fn ask(&mut self, wish: Wish, session: &str, now: u64) {
        let times = [1, 1, 1, 2, 3][self.random.usize(0..5)];
        for time in 0..times {
            let mut open = self.lines.iter().filter(|line| line.may_be_asked()).collect::<Vec<_>>();
            self.random.shuffle(&mut open);
            let Some(line) = open.first() else { return };
            let (again, connection) = (time == 1, line.peer.connection);
            let known = self.asked.get(session);
            line.far.give(&self.inquiries.ask(wish, (session, known), connection, now, again));
            say(format_args!("{now} {wish:?} of {session} by {}", line.port));
        }
    }

    /// What has not come of what was asked.
    pub fn unheard(&self) -> Option<String> {
        self.inquiries.check(&self.asked, self.ocs.settings.validity_time.is_none())
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

    /// Notes a request.
    fn note(&mut self, bytes: &[u8], line: &mut Line, now: u64) -> Option<Asking> {
        let message = Message::parse(bytes)?;
        let connection = line.peer.connection;
        if !message.header.is_request() {
            self.wrong.extend(self.inquiries.answered(&message, connection, now));
            return None;
        }
        self.trace = hash(&(self.trace, now, bytes));
        line.leaves |= message.header.command == Command::DISCONNECT_PEER;
        if message.header.command != Command::CREDIT_CONTROL {
            return None;
        }
        let Ok(request) = CreditControlRequest::decode(&message) else {
            self.wrong.push("a Credit-Control-Request that its own reader refuses".into());
            return None;
        };
        let (session, number, kind) = (request.session_id.to_owned(), request.request_number, request.request_type);
        let has_units = request.requested_service_unit.is_some() || !request.used_service_unit.is_empty();
        if has_units && !request.services.is_empty() {
            self.wrong.push(format!("{session}: number {number} has units in the command and in services"));
        }
        let moves_money = kind == RequestType::EVENT_REQUEST || self.is_used(&request);
        let keys = self.keys_of(&request);
        let is_renewal = kind == RequestType::UPDATE_REQUEST && self.is_renewal(&request);
        // Where it goes, and when it happened, is not what it asks.
        let said = CreditControlRequest { destination_host: None, event_timestamp: None, ..request };
        let said = hash(&format!("{said:?}"));
        let asked = self.asked.entry(session.clone()).or_default();
        self.moves += u64::from(asked.door.replace(line.port).is_some_and(|door| door != line.port));
        let Header { hop_by_hop, end_to_end, .. } = message.header;
        let coming = Coming { connection, hop_by_hop, at: now, repeats: message.header.is_retransmitted() };
        if self.holds && moves_money {
            let key = mapping::session_of(CLIENT[0], &session).map(|(key, _)| key);
            let wanted_at = key.and_then(|key| self.may_repeat.get(&key)).copied().unwrap_or(0);
            if asked.last_coming(number).is_some_and(|at| at > wanted_at) {
                self.wrong.push(format!("{session}: number {number} is held back and comes again by itself"));
            }
        }
        let first = asked.keys.get_or_insert_with(|| keys.clone());
        // Only what was answered is bound to what it was opened with: neither the first request that comes again, nor the
        // TERMINATION of what it may have opened, where its answer was lost.
        let opens = number == 0 || asked.opened_at.is_none();
        let ends_unopened = number == 1 && kind == RequestType::TERMINATION_REQUEST && asked.is_disturbed;
        if *first != keys && self.changes && (opens || ends_unopened) {
            asked.begin_anew(number, keys, said);
        } else if *first != keys {
            self.wrong.push(format!("{session}: number {number} speaks of {keys}, and the session is of {first}"));
        }
        let (is_new, wrong) = asked.came(number, said, end_to_end, &coming, now);
        asked.is_disturbed |= self.is_ill;
        asked.renewals += usize::from(is_new && is_renewal);
        if kind == RequestType::TERMINATION_REQUEST {
            asked.ended_at.get_or_insert(now);
        }
        self.wrong.extend(wrong.map(|wrong| format!("{session}: {wrong}")));
        // Sometimes it is asked for just now.
        if self.asks && is_new && self.random.u8(0..8) == 0 {
            self.wishes.push((Wish::Report, session.clone()));
        }
        Some((session, number, coming))
    }

    /// How a request calls and counts the service.
    fn keys_of(&self, request: &CreditControlRequest<'_>) -> String {
        let used = own_services(request).flat_map(|one| &one.used_service_unit).chain(&request.used_service_unit);
        let wanted = own_services(request).filter_map(|one| one.requested_service_unit.as_ref());
        let units = used.chain(wanted).chain(&request.requested_service_unit).next();
        let kind =
            units.and_then(|units| Quantity::from_units(units, &self.ocs.settings).ok()?).map(|units| units.kind);
        // Further ones only close what was granted unasked: after a restart also to the service as it was called before.
        let service = own_services(request).next().map(|one| (&one.service_identifier, one.rating_group));
        format!("{kind:?} {:?} {service:?}", request.service_identifier)
    }

    /// Whether a request says that something was used.
    fn is_used(&self, request: &CreditControlRequest<'_>) -> bool {
        let services = request.services.iter().flat_map(|service| &service.used_service_unit);
        let amount =
            |units| Quantity::from_units(units, &self.ocs.settings).ok().flatten().map_or(0, |used| used.amount);
        request.used_service_unit.iter().chain(services).any(|units| amount(units) > 0)
    }

    /// Whether a request uses nothing and wants no more than is granted already.
    fn is_renewal(&self, request: &CreditControlRequest<'_>) -> bool {
        let service = own_services(request).next();
        let used = service.map_or(&request.used_service_unit, |service| &service.used_service_unit);
        let wanted = service.and_then(|service| service.requested_service_unit.as_ref());
        let wanted = wanted.or(request.requested_service_unit.as_ref());
        let held = self.ocs.accounts.sessions.get(request.session_id).map_or(0, |session| session.held());
        let settings = &self.ocs.settings;
        let wanted = wanted.and_then(|wanted| Quantity::from_units(wanted, settings).ok().flatten());
        let cost = wanted.and_then(|wanted| wanted.cost(settings).ok());
        used.is_empty() && cost.is_some_and(|cost| cost <= held)
    }
}

/// The services of a request without those that it only closes, because an answer granted them unasked.
fn own_services<'r, 'a>(request: &'r CreditControlRequest<'a>) -> impl Iterator<Item = &'r Service<'a>> {
    request.services.iter().filter(|service| service.rating_group != Some(FOREIGN_GROUP))
}

/// Result-Code of an answer.
fn result_of(answer: &[u8]) -> Option<ResultCode> {
    Message::parse(answer)?.find(dictionary::RESULT_CODE)?.u32().ok().map(ResultCode)
}

/// Returns a hash that is the same in each build.
pub fn hash(what: &impl Hash) -> u64 {
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
    /// Whether a request of the charging system may go this way.
    fn may_be_asked(&self) -> bool {
        self.is_greeted && !self.leaves && !self.ends && !self.far.is_closed()
    }

    /// Answers come in any order, as servers with several workers give them. The requests that are answered now, and
    /// the Result-Codes.
    fn speak(&mut self, now: u64, random: &mut fastrand::Rng) -> Vec<(Asking, Option<ResultCode>)> {
        random.shuffle(&mut self.output);
        let far = &self.far;
        let mut answered = Vec::new();
        let is_greeted = &mut self.is_greeted;
        self.output.retain_mut(|(due, bytes, request)| {
            if *due <= now {
                far.give(bytes);
                // The first answer is that to the exchange of capabilities.
                *is_greeted = true;
                let asked = request.take();
                answered.extend(asked.map(|asked| (asked, result_of(bytes))));
            }
            *due > now
        });
        if self.ends && self.output.is_empty() {
            self.far.close();
        }
        answered
    }
}
