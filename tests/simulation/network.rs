//! The simulated OCS and the network between it and the proxy.

use crate::accounts::Quantity;
use crate::cluster::Shared;
use crate::diameter_session::{Arrival, DiameterSession, RequestArrival};
use crate::rating::FOREIGN_GROUP;
use crate::server_requests::{CLIENT, RequestKind, ServerRequests};
use crate::state::{Fate, Peer, State};
use crate::world::print_trace;
use imcharge::charge::ch2::SessionKey;
use imcharge::enabler::diameter::mapping;
use imcharge::simulate::machine::{Machine, PeerStream};
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

/// Peers of the OCS: two Diameter nodes of one charging system, each with its name and port.
pub const PEERS: [(&str, u16); 2] = [("ocs1.example.com", 3868), ("ocs2.example.com", 3869)];

/// A connection, seen from the OCS.
struct Connection {
    stream: PeerStream,
    port: u16,
    peer: Peer,
    /// When it is accepted.
    accepted_at: u64,
    input: Vec<u8>,
    /// Answers that are due at a time, with the requests that they answer.
    output: Vec<(u64, Vec<u8>, Option<RequestArrival>)>,
    /// Whether it is closed after the last answer.
    is_closing: bool,
    /// Whether the capabilities exchange is answered.
    has_capabilities: bool,
    /// Whether the client has sent a Disconnect-Peer-Request.
    is_disconnecting: bool,
}

/// The OCS and the network to it.
pub struct Network {
    machine: Rc<Machine>,
    random: fastrand::Rng,
    /// State of the OCS.
    pub ocs: State,
    connections: Vec<Connection>,
    next: u64,
    /// Longest delay of an octet, in microseconds.
    pub delay: u64,
    /// The only peer with faults; `None`: all.
    pub faulty_peer: Option<u16>,
    /// Whether the OCS sends requests.
    pub sends_requests: bool,
    /// Requests of the OCS.
    pub server_requests: ServerRequests,
    queued_requests: Vec<(RequestKind, String)>,
    /// Whether requests that move money must not be resent unless an operator decides so, and the last such decision.
    pub holds: bool,
    allow_resend: BTreeMap<SessionKey, u64>,
    /// Whether the client may be reconfigured at a restart.
    pub changes: bool,
    /// Whether a fault is present.
    pub is_faulty: bool,
    /// Diameter sessions, by Session-Id.
    asked: BTreeMap<String, DiameterSession>,
    /// How often a Diameter session has moved to the other peer.
    pub moves: u64,
    /// Hash of everything received.
    pub trace: u64,
    /// Violations of the rules.
    pub violations: Vec<String>,
    /// The shared ledger, if the proxy uses one.
    pub shared: Option<Shared>,
}

impl Network {
    pub fn new(machine: Rc<Machine>, random: fastrand::Rng) -> Network {
        let ocs = State::default();
        Network {
            machine,
            random,
            ocs,
            connections: Vec::new(),
            next: 0,
            delay: 2_000,
            faulty_peer: None,
            sends_requests: false,
            server_requests: ServerRequests::default(),
            queued_requests: Vec::new(),
            holds: false,
            allow_resend: BTreeMap::new(),
            changes: false,
            is_faulty: false,
            asked: BTreeMap::new(),
            moves: 0,
            trace: 0,
            violations: Vec::new(),
            shared: None,
        }
    }

    /// Lets time pass while the engine pauses.
    pub fn pause(&mut self, span: Duration) {
        self.machine.pass(span);
        self.step();
    }

    /// Closes every connection to these ports.
    pub fn cut(&mut self, ports: &[u16]) {
        for connection in self.connections.iter().filter(|connection| ports.contains(&connection.port)) {
            connection.stream.close();
        }
    }

    /// Handles a message at one of the peers.
    fn handle(&mut self, connection: &mut Connection, bytes: &[u8], answer: &mut Vec<u8>) -> Fate {
        let name = PEERS.iter().find(|peer| peer.1 == connection.port).map_or("", |peer| peer.0);
        self.ocs.settings.origin_host = name.into();
        let is_healthy = self.faulty_peer.is_some_and(|faulty| faulty != connection.port);
        let faults = is_healthy.then(|| std::mem::take(&mut self.ocs.faults));
        let fate = self.ocs.process(&mut connection.peer, bytes, answer);
        if let Some(faults) = faults {
            self.ocs.faults = faults;
        }
        fate
    }

    /// Accepts connections, reads octets, handles complete messages, and sends what is due.
    pub fn step(&mut self) {
        let now = self.machine.clock.get();
        if let Some(shared) = &self.shared {
            return shared.step(&self.machine);
        }
        while let Some((address, stream)) = self.machine.opened.borrow_mut().pop_front() {
            let peer = Peer { connection: self.next, local: Ipv4Addr::LOCALHOST.into(), name: None };
            self.next += 1;
            let accepted_at = now + self.random.u64(0..=self.delay);
            let port = address.port();
            self.connections.push(Connection {
                stream,
                port,
                peer,
                accepted_at,
                input: Vec::new(),
                output: Vec::new(),
                is_closing: false,
                has_capabilities: false,
                is_disconnecting: false,
            });
        }
        let mut connections = std::mem::take(&mut self.connections);
        for connection in &mut connections {
            if connection.accepted_at <= now {
                connection.stream.accept();
            }
            self.read(connection, now);
            for ((session, number, arrival), result) in connection.send_answers(now, &mut self.random) {
                let Some(asked) = self.asked.get_mut(&session) else { continue };
                asked.answered(number, &arrival, result.is_some_and(ResultCode::is_protocol_error));
                if number == 0 && result == Some(ResultCode::SUCCESS) {
                    asked.opened_at.get_or_insert(now);
                }
            }
        }
        connections.retain(|connection| !connection.stream.is_closed() || connection.stream.unread() > 0);
        self.connections = connections;
        for (kind, session) in std::mem::take(&mut self.queued_requests) {
            self.ask(kind, &session, now);
        }
        let is_open = |id| {
            let connection = self.connections.iter().find(|connection| connection.peer.connection == id)?;
            Some(!connection.stream.is_closed() && !connection.is_disconnecting)
        };
        self.violations.extend(self.server_requests.overdue(is_open, now));
    }

    /// An operator decided that the held-back request of a session is sent again.
    pub fn allow_resend(&mut self, session: SessionKey) {
        self.allow_resend.insert(session, self.machine.clock.get());
    }

    /// Records a fault: momentary, or until further notice.
    pub fn record_fault(&mut self, lasts: bool) {
        self.is_faulty |= lasts;
        self.asked.values_mut().filter(|asked| asked.ended_at.is_none()).for_each(|asked| asked.had_fault = true);
    }

    /// Sends a request about a session that is open, has ended, or never existed.
    pub fn send_server_request(&mut self) {
        let kind = if self.random.u8(0..5) == 0 { RequestKind::Abort } else { RequestKind::Report };
        let known: Vec<&String> = self.asked.keys().collect();
        let known = self.random.choice(known).cloned();
        let session = match (self.random.u8(0..8), known) {
            (0, _) | (_, None) => self.random_session_id(),
            // A reservation that was never opened.
            (1, Some(known)) => format!("{known}1"),
            (_, Some(known)) => known,
        };
        self.queued_requests.push((kind, session));
    }

    fn random_session_id(&mut self) -> String {
        let host = self.random.choice([CLIENT[0], "another.example.org"]).unwrap_or_default();
        match self.random.u8(0..4) {
            0 => "nothing".into(),
            _ => format!("{host};{};{};{:016x}.{}", self.random.u32(..), self.random.u32(..), self.random.u64(..), 7),
        }
    }

    /// Sends it by any peer, not only that of the session; some are sent twice, some again as a possible duplicate.
    fn ask(&mut self, kind: RequestKind, session: &str, now: u64) {
        let times = [1, 1, 1, 2, 3][self.random.usize(0..5)];
        for time in 0..times {
            let mut open = self.connections.iter().filter(|connection| connection.may_be_asked()).collect::<Vec<_>>();
            self.random.shuffle(&mut open);
            let Some(connection) = open.first() else { return };
            let (again, id) = (time == 1, connection.peer.connection);
            let known = self.asked.get(session);
            connection.stream.write(&self.server_requests.ask(kind, (session, known), id, now, again));
            print_trace(format_args!("{now} {kind:?} of {session} by {}", connection.port));
        }
    }

    /// Returns a server request without the required effect.
    pub fn missing_effect(&self) -> Option<String> {
        self.server_requests.check(&self.asked, self.ocs.settings.validity_time.is_none())
    }

    /// Whether octets are on their way: they arrive even if the engine dies.
    pub fn has_more(&self) -> bool {
        if let Some(shared) = &self.shared {
            return shared.has_more(&self.machine);
        }
        self.connections.iter().any(|connection| connection.stream.unread() > 0)
    }

    /// Reads some octets; a stream may break anywhere.
    fn read(&mut self, connection: &mut Connection, now: u64) {
        let max = if self.random.bool() { 4096 } else { self.random.usize(1..200) };
        connection.input.extend(connection.stream.read(max));
        loop {
            let Framed::Message(length) = frame(&connection.input) else { return };
            let bytes: Vec<u8> = connection.input.drain(..length).collect();
            let request = self.record(&bytes, connection, now);
            let mut answer = Vec::new();
            let fate = self.handle(connection, &bytes, &mut answer);
            print_exchange(now, &bytes, &answer, fate);
            let mut due = now + self.random.u64(0..=self.delay);
            match fate {
                Fate::Hold(time) => due += u64::try_from(time.as_micros()).unwrap_or(0),
                Fate::Close => connection.is_closing = true,
                Fate::Send | Fate::Pieces => {}
            }
            if !answer.is_empty() {
                connection.output.push((due, answer, request));
            }
        }
    }

    /// Records a request.
    fn record(&mut self, bytes: &[u8], connection: &mut Connection, now: u64) -> Option<RequestArrival> {
        let message = Message::parse(bytes)?;
        let id = connection.peer.connection;
        if !message.header.is_request() {
            self.violations.extend(self.server_requests.answered(&message, id, now));
            return None;
        }
        self.trace = hash(&(self.trace, now, bytes));
        connection.is_disconnecting |= message.header.command == Command::DISCONNECT_PEER;
        if message.header.command != Command::CREDIT_CONTROL {
            return None;
        }
        let Ok(request) = CreditControlRequest::decode(&message) else {
            self.violations.push("a Credit-Control-Request cannot be decoded".into());
            return None;
        };
        let (session, number, kind) = (request.session_id.to_owned(), request.request_number, request.request_type);
        let has_units = request.requested_service_unit.is_some() || !request.used_service_unit.is_empty();
        if has_units && !request.services.is_empty() {
            self.violations.push(format!("{session}: number {number} has units in the command and in services"));
        }
        let moves_money = kind == RequestType::EVENT_REQUEST || self.is_used(&request);
        let keys = self.keys_of(&request);
        let is_renewal = kind == RequestType::UPDATE_REQUEST && self.is_renewal(&request);
        // Destination and time are not part of the request's content.
        let content = CreditControlRequest { destination_host: None, event_timestamp: None, ..request };
        let content = hash(&format!("{content:?}"));
        let asked = self.asked.entry(session.clone()).or_default();
        self.moves += u64::from(asked.peer.replace(connection.port).is_some_and(|peer| peer != connection.port));
        let Header { hop_by_hop, end_to_end, .. } = message.header;
        let arrival = Arrival { connection: id, hop_by_hop, at: now, repeats: message.header.is_retransmitted() };
        if self.holds && moves_money {
            let key = mapping::session_of(CLIENT[0], &session).map(|(key, _)| key);
            let wanted_at = key.and_then(|key| self.allow_resend.get(&key)).copied().unwrap_or(0);
            if asked.last_arrival(number).is_some_and(|at| at > wanted_at) {
                self.violations.push(format!("{session}: number {number} is held back and was resent by itself"));
            }
        }
        let first = asked.keys.get_or_insert_with(|| keys.clone());
        // The keys are binding only for what was answered: not for the first request when it is resent, nor for the
        // TERMINATION of what it may have opened if its answer was lost.
        let opens = number == 0 || asked.opened_at.is_none();
        let ends_unopened = number == 1 && kind == RequestType::TERMINATION_REQUEST && asked.had_fault;
        if *first != keys && self.changes && (opens || ends_unopened) {
            asked.replace_keys(number, keys, content);
        } else if *first != keys {
            self.violations
                .push(format!("{session}: number {number} has the keys {keys}, and the session has {first}"));
        }
        let (is_new, wrong) = asked.add_arrival(number, content, end_to_end, &arrival, now);
        asked.had_fault |= self.is_faulty;
        asked.renewals += usize::from(is_new && is_renewal);
        if kind == RequestType::TERMINATION_REQUEST {
            asked.ended_at.get_or_insert(now);
        }
        self.violations.extend(wrong.map(|wrong| format!("{session}: {wrong}")));
        // Sometimes a server request follows at once.
        if self.sends_requests && is_new && self.random.u8(0..8) == 0 {
            self.queued_requests.push((RequestKind::Report, session.clone()));
        }
        Some((session, number, arrival))
    }

    /// Returns how a request identifies and counts the service.
    fn keys_of(&self, request: &CreditControlRequest<'_>) -> String {
        let used = own_services(request).flat_map(|one| &one.used_service_unit).chain(&request.used_service_unit);
        let wanted = own_services(request).filter_map(|one| one.requested_service_unit.as_ref());
        let units = used.chain(wanted).chain(&request.requested_service_unit).next();
        let kind =
            units.and_then(|units| Quantity::from_units(units, &self.ocs.settings).ok()?).map(|units| units.kind);
        // Other services only close what was granted unasked; after a restart also under their previous keys.
        let service = own_services(request).next().map(|one| (&one.service_identifier, one.rating_group));
        format!("{kind:?} {:?} {service:?}", request.service_identifier)
    }

    /// Whether a request reports usage.
    fn is_used(&self, request: &CreditControlRequest<'_>) -> bool {
        let services = request.services.iter().flat_map(|service| &service.used_service_unit);
        let amount =
            |units| Quantity::from_units(units, &self.ocs.settings).ok().flatten().map_or(0, |used| used.amount);
        request.used_service_unit.iter().chain(services).any(|units| amount(units) > 0)
    }

    /// Whether a request reports no usage and asks for no more than is granted already.
    fn is_renewal(&self, request: &CreditControlRequest<'_>) -> bool {
        let service = own_services(request).next();
        let used = service.map_or(&request.used_service_unit, |service| &service.used_service_unit);
        let wanted = service.and_then(|service| service.requested_service_unit.as_ref());
        let wanted = wanted.or(request.requested_service_unit.as_ref());
        let held = self.ocs.accounts.sessions.get(request.session_id).map_or(0, |session| session.held());
        let settings = &self.ocs.settings;
        let wanted = wanted.and_then(|wanted| Quantity::from_units(wanted, settings).ok().flatten());
        let cost = wanted.and_then(|wanted| wanted.cost(settings.price_of(None, None)).ok());
        used.is_empty() && cost.is_some_and(|cost| cost <= held)
    }
}

/// Returns the services of a request, without those that it closes because an answer had granted them unasked.
fn own_services<'r, 'a>(request: &'r CreditControlRequest<'a>) -> impl Iterator<Item = &'r Service<'a>> {
    request.services.iter().filter(|service| service.rating_group != Some(FOREIGN_GROUP))
}

/// Returns the Result-Code of an answer.
fn result_of(answer: &[u8]) -> Option<ResultCode> {
    Message::parse(answer)?.find(dictionary::RESULT_CODE)?.u32().ok().map(ResultCode)
}

/// Returns a hash that is the same in each build.
pub fn hash(what: &impl Hash) -> u64 {
    let mut hasher = SipHasher13::new();
    what.hash(&mut hasher);
    hasher.finish()
}

/// Prints a request and its answer.
fn print_exchange(now: u64, bytes: &[u8], answer: &[u8], fate: Fate) {
    let Some(message) = Message::parse(bytes) else { return };
    let Ok(request) = CreditControlRequest::decode(&message) else { return };
    let result = result_of(answer);
    let (id, kind, number) = (request.session_id, request.request_type, request.request_number);
    let repeated = if message.header.is_retransmitted() { "T" } else { "" };
    print_trace(format_args!(
        "{now} {id} {kind:?} {number}{repeated} on {:?}: {result:?} {fate:?}",
        message.header.hop_by_hop
    ));
}

impl Connection {
    /// Whether the OCS may send requests on this connection.
    fn may_be_asked(&self) -> bool {
        self.has_capabilities && !self.is_disconnecting && !self.is_closing && !self.stream.is_closed()
    }

    /// Sends answers in any order, as servers with several workers do. Returns the requests answered now, and their
    /// Result-Codes.
    fn send_answers(&mut self, now: u64, random: &mut fastrand::Rng) -> Vec<(RequestArrival, Option<ResultCode>)> {
        random.shuffle(&mut self.output);
        let stream = &self.stream;
        let mut answered = Vec::new();
        let has_capabilities = &mut self.has_capabilities;
        self.output.retain_mut(|(due, bytes, request)| {
            if *due <= now {
                stream.write(bytes);
                // The first answer is that of the capabilities exchange.
                *has_capabilities = true;
                let asked = request.take();
                answered.extend(asked.map(|asked| (asked, result_of(bytes))));
            }
            *due > now
        });
        if self.is_closing && self.output.is_empty() {
            self.stream.close();
        }
        answered
    }
}
