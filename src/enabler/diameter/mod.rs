//! CH-2 over Diameter Credit-Control (RFC 8506, RFC 6733): an Online Charging System decides.
//!
//! | file | |
//! |---|---|
//! | `credit_control` | what a CH-2 request becomes, and what an answer means |
//! | `dialect` | how this server wants to be spoken to |
//! | `route` | who has a reservation, and what it is called there |
//! | `services` | which service of an answer is ours, and what else was granted |
//! | `peers` | the sockets of all peers around the exchange |
//! | `exchange`, `requests` | which connection takes a request, and what becomes of it when that is lost |
//! | `peer`, `capabilities`, `watchdog` | one connection's states |
//! | `link`, `resolver`, `transport`, `tls` | when to connect again; a peer's addresses; its socket |
//!
//! The engine asks after its commit and commits every answer before anybody acts on it. What is not answered stands
//! in the store as the session's request in flight: that is the outbox, and it is asked again with the T flag.

mod binding;
pub mod client;
pub mod mapping;
pub mod profile;
mod services;

pub use client::config::{Config, ConfigError, PeerConfig, TlsConfig};
pub use client::connections::{PeerConnections, PeerStatus};
pub use client::peer_table::{Asked, Counters, Event as PeerEvent, Refused, Request as Outgoing};

use crate::charge::ch2::{Denial, Failure, Operation, Request, Reservation, Response, SessionKey};
use crate::charge::event::Event;
use crate::charge::time::Time;
use crate::wire::diameter::base::{AbortSessionRequest, Answer, ReAuthRequest};
use crate::wire::diameter::codes::{RequestType, SessionFailover};
use crate::wire::diameter::{
    Command, CreditControlAnswer, Fault, Header, Message, ResultCode, Time as WallTime, Writer, dictionary,
};
use binding::{Route, ServerBinding, ServerBindings};
use mapping::{Call, Target};
use profile::{CreditControlProfile, ServiceParameters};
use services::Other;
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;

/// The whole configuration of this binding.
#[derive(Clone, Debug)]
pub struct DiameterConfig {
    /// What requests say.
    pub dialect: CreditControlProfile,
    /// Whom they are sent to.
    pub peers: Config,
    /// Tx: seconds that an answer may take (RFC 8506, 13).
    pub tx_timeout: u32,
}

/// What a session hears of the server.
#[derive(Debug)]
pub enum EnablerEvent {
    /// The answer to a request, or that there is none.
    Response {
        /// Which session.
        session: SessionKey,
        /// Number of the request.
        number: u32,
        /// What it is.
        response: Response,
        /// The way to who may have done it, where there is no answer of theirs.
        asked_of: Option<Arc<str>>,
    },
    /// A grant that nobody waits for any more.
    Late {
        /// Which session.
        session: SessionKey,
        /// Number of the request.
        number: u32,
        /// The way to who has granted.
        route: Arc<str>,
    },
    /// The way of a reservation has changed: its next request has something else to close.
    Rerouted {
        /// Which session.
        session: SessionKey,
        /// Number of the request that opened the reservation.
        opened_by: u32,
        /// The way from now on.
        route: Arc<str>,
    },
    /// An answer to anything else that nobody waits for any more. Perhaps it is about to be asked again, or held back:
    /// then [`Diameter::read_late`] makes something of it.
    LateAnswer {
        /// Which session.
        session: SessionKey,
        /// Number of the request.
        number: u32,
        /// The whole answer.
        message: Vec<u8>,
    },
    /// The server reaches into the session. It waits for [`Diameter::confirm`].
    Event {
        /// Which session.
        session: SessionKey,
        /// Number of the request that opened the reservation it means.
        opened_by: u32,
        /// What it wants.
        event: Event<'static>,
        /// To be handed back.
        inquiry: ServerRequest,
    },
}

/// A request of the server that has no answer yet.
#[derive(Debug)]
pub struct ServerRequest {
    asked: Asked,
    header: Header,
    session_id: Box<str>,
}

/// How a reservation stands that the server asks about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationState {
    /// There is none.
    Unknown,
    /// It is there, and nothing is asked of it.
    Open,
    /// A request of it waits for its answer.
    Pending,
}

/// Requests of each kind that were taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Requests {
    /// INITIAL_REQUEST.
    pub initial: u64,
    /// UPDATE_REQUEST.
    pub interim: u64,
    /// TERMINATION_REQUEST.
    pub last: u64,
    /// EVENT_REQUEST.
    pub events: u64,
}

/// A request that waits for the first peer, as the engine has just begun.
struct Early {
    request: Request,
    message: Vec<u8>,
    deadline: Time,
}

/// For so long after the start, requests wait for a peer.
const BEGINNING: u32 = 2;

/// What the sessions have not heard yet may be so much; the servers' own requests beyond are refused.
const HEARD_MAX: usize = 4096;

/// The binding.
pub struct Diameter {
    dialect: CreditControlProfile,
    tx_timeout: u32,
    peers: PeerConnections,
    asked: HashMap<u128, Request>,
    next: u128,
    routes: ServerBindings,
    /// Until a peer is open, or has had its time; `None`: it has.
    beginning: Option<Time>,
    early: Vec<Early>,
    heard: VecDeque<EnablerEvent>,
    requests: Requests,
    /// Answers that could not be used.
    unusable: u64,
    /// From requests to their answers, in all.
    micros: u64,
    /// The same of each answer that nobody has asked for yet.
    response_times: Vec<u64>,
}

impl Diameter {
    /// Begins to connect. `state_id`: Origin-State-Id. The error is a sentence for an operator.
    pub fn start(config: DiameterConfig, state_id: u32, now: Time) -> Result<Diameter, ConfigError> {
        Ok(Diameter {
            dialect: config.dialect,
            tx_timeout: config.tx_timeout,
            peers: PeerConnections::new(config.peers, state_id, now)?,
            asked: HashMap::new(),
            next: 0,
            routes: ServerBindings::default(),
            beginning: Some(now.after_seconds(BEGINNING)),
            early: Vec::new(),
            heard: VecDeque::new(),
            requests: Requests::default(),
            unusable: 0,
            micros: 0,
            response_times: Vec::new(),
        })
    }

    /// Asks. The answer, or that there is none, is [heard](Diameter::poll) later.
    pub fn ask(&mut self, request: Request, call: &Call<'_>, now: Time, wall_seconds: i64) {
        let mut message = Vec::with_capacity(768);
        let route = request.server_binding.as_deref().map(Route::of);
        let host = route.as_ref().and_then(Route::destination);
        let target = Target { host, others: route.as_ref().map_or(&[], |route| &route.others) };
        let (dialect, at) = (self.dialect_of(&request), WallTime(wall_seconds));
        let written = mapping::write(&dialect, &request, call, target, at, &mut message);
        if written.is_err() {
            return self.hear(&request, Response::Denied(Denial::Refused(ResultCode::INVALID_MESSAGE_LENGTH.0)));
        }
        let early = Early { request, message, deadline: now.after_seconds(self.tx_timeout) };
        match self.beginning {
            Some(_) => self.early.push(early),
            None => self.send(early, now),
        }
    }

    fn send(&mut self, early: Early, now: Time) {
        let Early { request, message, deadline } = early;
        let route = request.server_binding.as_deref().map(Route::of);
        let name = self.next;
        let outgoing = Outgoing {
            name,
            message: &message,
            deadline,
            may_move: route.as_ref().is_none_or(|route| route.may_move(request.rate_limited)),
            once: request.at_most_once,
            duplicate: request.possible_duplicate,
            prefer: route.as_ref().map(|route| route.host),
        };
        match self.peers.send(outgoing, now) {
            Ok(()) => {
                self.next += 1;
                self.count(&request);
                self.asked.insert(name, request);
            }
            Err(Refused::NoPeer | Refused::Malformed) => self.hear(&request, Response::Failed(Failure::Unreachable)),
            Err(Refused::Full) => self.hear(&request, Response::Failed(Failure::Overload)),
        }
    }

    /// The beginning is over as soon as a peer is open.
    fn begin(&mut self, is_open: bool, now: Time) {
        if self.beginning.is_some_and(|until| is_open || until <= now) {
            self.beginning = None;
            std::mem::take(&mut self.early).into_iter().for_each(|early| self.send(early, now));
        }
    }

    /// Writes what was asked.
    pub fn flush(&mut self, now: Time) {
        self.peers.flush(now);
    }

    /// Reads what has come, and does what time asks for.
    pub fn turn(&mut self, now: Time) {
        self.peers.turn(now);
        let mut is_open = false;
        while let Some(event) = self.peers.next_event() {
            match event {
                PeerEvent::Answered { name, from, message, micros, elsewhere } => {
                    self.micros += micros;
                    self.response_times.push(micros);
                    self.answered(name, &from, &message, elsewhere.as_deref());
                }
                // What was wholly written may have arrived; what was not will never leave.
                PeerEvent::TimedOut { name, written_to } | PeerEvent::Lost { name, written_to } => {
                    self.failed(name, written_to.as_deref());
                }
                PeerEvent::Late { from, message, .. } => self.late(&from, message),
                PeerEvent::Asked { asked, message } => self.asked_by(asked, &message),
                PeerEvent::Up { peer } => {
                    is_open = true;
                    log::info!("Diameter peer {peer} is open");
                }
                PeerEvent::Down { why, .. } => log::warn!("Diameter {why}"),
            }
        }
        self.begin(is_open, now);
        self.peers.flush(now);
    }

    /// What is heard next.
    pub fn poll(&mut self) -> Option<EnablerEvent> {
        self.heard.pop_front()
    }

    /// Whether something is heard already.
    pub fn has_heard(&self) -> bool {
        !self.heard.is_empty()
    }

    /// What to wait for: descriptors, and whether they are waited for to be written.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, bool)> + '_ {
        self.peers.descriptors()
    }

    /// When [`Diameter::turn`] is to be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        self.peers.deadline().into_iter().chain(self.beginning).min()
    }

    /// Takes leave of the servers.
    pub fn leave(&mut self, now: Time) {
        self.peers.stop(now);
    }

    /// Whether they all have confirmed it.
    pub fn has_left(&self) -> bool {
        self.peers.is_stopped()
    }

    /// Each peer as it stands.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.peers.status()
    }

    /// What was counted of all requests, and by kind.
    pub fn counters(&self) -> (&Counters, Requests) {
        (self.peers.counters(), self.requests)
    }

    /// Messages and streams that could not be read, and answers that could not be used.
    pub fn malformed(&self) -> u64 {
        self.peers.counters().malformed + self.unusable
    }

    /// Microseconds from a request to its answer, on average.
    pub fn response_micros(&self) -> u64 {
        self.micros / self.peers.counters().answered.max(1)
    }

    /// Microseconds from request to answer, of each answer since this was asked last.
    pub fn response_times(&mut self) -> impl Iterator<Item = u64> + '_ {
        self.response_times.drain(..)
    }

    /// How a request speaks: of its reservation as it was opened.
    fn dialect_of(&self, request: &Request) -> Cow<'_, CreditControlProfile> {
        let keys = request.server_binding.as_deref().and_then(|route| Route::of(route).keys);
        match keys.filter(|keys| *keys != self.dialect.keys) {
            Some(keys) => Cow::Owned(CreditControlProfile { keys, ..self.dialect.clone() }),
            None => Cow::Borrowed(&self.dialect),
        }
    }

    fn hear(&mut self, request: &Request, response: Response) {
        let (session, number) = (request.session, request.number);
        self.heard.push_back(EnablerEvent::Response { session, number, response, asked_of: None });
    }

    fn failed(&mut self, name: u128, written_to: Option<&str>) {
        let Some(request) = self.asked.remove(&name) else { return };
        match written_to {
            Some(host) => self.hear_nothing(&request, host, Failure::Silent),
            None => self.hear(&request, Response::Failed(Failure::Unreachable)),
        }
    }

    /// There is no answer. This peer may have done it all the same: it is the first to be asked again, or to give back
    /// what it has reserved.
    fn hear_nothing(&mut self, request: &Request, host: &str, failure: Failure) {
        let (session, number, keys) = (request.session, request.number, self.dialect_of(request).keys);
        let (response, asked_of) = (Response::Failed(failure), Some(self.routes.to(host, ServerBinding::Asked, keys)));
        self.heard.push_back(EnablerEvent::Response { session, number, response, asked_of });
    }

    fn count(&mut self, request: &Request) {
        match (&request.operation, request.reservation) {
            (Operation::Reserve { .. }, Reservation::None) => self.requests.initial += 1,
            (Operation::Debit { .. }, Reservation::None) | (Operation::Refund { .. }, _) => self.requests.events += 1,
            (Operation::Release, _) | (Operation::Debit { .. }, Reservation::Last { .. }) => self.requests.last += 1,
            (Operation::Reserve { .. } | Operation::Debit { .. }, _) => self.requests.interim += 1,
        }
    }

    fn answered(&mut self, name: u128, peer: &Rc<str>, message: &[u8], elsewhere: Option<&str>) {
        let Some(request) = self.asked.remove(&name) else { return };
        match (self.read(&request, peer, message), elsewhere) {
            // That this one has not done it says nothing of the other.
            (Ok(Response::Failed(failure)), Some(other)) => self.hear_nothing(&request, other, failure),
            (Ok(response), _) => self.hear(&request, response),
            (Err(why), _) => {
                self.unusable += 1;
                log::error!("Diameter peer {peer} answers what cannot be used: {why}");
                self.hear_nothing(&request, peer, Failure::Unreadable);
            }
        }
    }

    fn read(&mut self, request: &Request, peer: &str, message: &[u8]) -> Result<Response, String> {
        let message = Message::parse(message).ok_or("no message")?;
        if message.header.command != Command::CREDIT_CONTROL {
            return Err(format!("command {} instead of credit control", message.header.command.0));
        }
        let answer = CreditControlAnswer::decode(&message).map_err(|fault: Fault<'_>| fault.to_string())?;
        if let Some((code, vendor)) = answer.unsupported {
            log::warn!("Diameter peer {peer}: AVP {code} of vendor {vendor} is mandatory and not known, passed over");
        }
        let body = &answer.body;
        let (id, number) = mapping::names_of(&self.dialect.origin_host, request);
        // An answer with the E flag may lack both (RFC 6733, 7.2).
        if body.session_id.is_some_and(|found| found != id) || body.request_number.is_some_and(|found| found != number)
        {
            return Err("it is about another session or request".into());
        }
        let dialect = self.dialect_of(request);
        let (mut response, keys) = (mapping::read(&dialect, request, body), dialect.keys);
        let others = services::others(&keys, body);
        let is_open = mapping::succeeds(body);
        match (&request.operation, request.reservation, &mut response) {
            (Operation::Reserve { .. }, _, Response::Granted(grant)) => {
                grant.server_binding = Some(self.route_of(peer, body, keys, &others));
            }
            // The server has opened the session, and refuses our service in it.
            (Operation::Reserve { .. }, Reservation::None, _) if is_open => {
                let (session, number) = (request.session, request.number);
                let route = self.route_of(peer, body, keys, &others);
                self.heard.push_back(EnablerEvent::Late { session, number, route });
            }
            (Operation::Reserve { .. } | Operation::Debit { .. }, Reservation::Open { opened_by, .. }, _)
                if is_open =>
            {
                let route = request.server_binding.as_deref().filter(|route| Route::of(route).others != others);
                if let Some(route) = route {
                    let (session, route) = (request.session, self.routes.with_others(route, &others));
                    self.heard.push_back(EnablerEvent::Rerouted { session, opened_by, route });
                }
            }
            _ => {}
        }
        Ok(response)
    }

    /// The way to who has answered.
    fn route_of(
        &mut self,
        peer: &str,
        answer: &CreditControlAnswer<'_>,
        keys: ServiceParameters,
        others: &[Other],
    ) -> Arc<str> {
        let own = self.dialect.origin_host.as_str();
        let (host, bond) = bond(own, peer, answer);
        self.routes.way(host, bond, keys, others)
    }

    /// An answer that nobody waits for any more. What it grants is to be released (RFC 8506 has the server end it by
    /// Tcc; not all do).
    fn late(&mut self, peer: &str, bytes: Vec<u8>) {
        let Some(message) = Message::parse(&bytes) else { return };
        let Ok(answer) = CreditControlAnswer::decode(&message) else { return };
        let body = &answer.body;
        let session = body.session_id.and_then(|id| mapping::session_of(&self.dialect.origin_host, id));
        let (Some((session, opened_by)), Some(kind)) = (session, body.request_type) else { return };
        if kind != RequestType::INITIAL_REQUEST {
            let number = opened_by.saturating_add(body.request_number.unwrap_or(0));
            self.heard.push_back(EnablerEvent::LateAnswer { session, number, message: bytes });
        } else if mapping::succeeds(body) {
            let keys = self.dialect.keys;
            let route = self.route_of(peer, body, keys, &services::others(&keys, body));
            self.heard.push_back(EnablerEvent::Late { session, number: opened_by, route });
        }
    }

    /// What a late answer says of this request, where it says that it is done: a server that is slower than Tx would
    /// else be asked for ever. A refusal says nothing: it may be of a copy that another copy was faster than.
    pub fn read_late(&mut self, request: &Request, bytes: &[u8]) -> Option<EnablerEvent> {
        let response = self.read(request, "that is late", bytes).ok()?;
        let is_done =
            matches!(response, Response::Debited { .. } | Response::Refunded { .. } | Response::Released { .. });
        let (session, number) = (request.session, request.number);
        is_done.then_some(EnablerEvent::Response { session, number, response, asked_of: None })
    }

    /// RAR and ASR (RFC 8506, 5.5; RFC 6733, 8.5).
    fn asked_by(&mut self, asked: Asked, bytes: &[u8]) {
        let Some(message) = Message::parse(bytes) else { return };
        let read = match message.header.command {
            Command::RE_AUTH => ReAuthRequest::decode(&message).map(|asked| asked.session_id),
            _ => AbortSessionRequest::decode(&message).map(|asked| asked.session_id),
        };
        match read {
            Ok(id) => {
                let session = mapping::session_of(&self.dialect.origin_host, id);
                let inquiry = ServerRequest { asked, header: message.header, session_id: id.into() };
                match session {
                    Some(_) if self.heard.len() >= HEARD_MAX => self.reply(&inquiry, ResultCode::TOO_BUSY),
                    Some((session, opened_by)) => {
                        let event = match inquiry.header.command {
                            Command::RE_AUTH => Event::Reauthorize { opened_by },
                            _ => Event::Abort,
                        };
                        self.heard.push_back(EnablerEvent::Event { session, opened_by, event, inquiry });
                    }
                    None => self.reply(&inquiry, ResultCode::UNKNOWN_SESSION_ID),
                }
            }
            Err(fault) => {
                let id = message.find(dictionary::SESSION_ID).and_then(|id| id.text().ok());
                self.answer(asked, &message.header, id, &fault);
            }
        }
    }

    /// Says how the reservation stands. A report follows by UPDATE (2002, RFC 8506, 5.5), unless one is on its way (5.5
    /// and the state PendingU of section 7); an abort is done with the TERMINATION.
    pub fn confirm(&mut self, inquiry: &ServerRequest, event: &Event<'_>, standing: ReservationState) {
        let result = match (standing, event) {
            (ReservationState::Unknown, _) => ResultCode::UNKNOWN_SESSION_ID,
            (ReservationState::Open, Event::Reauthorize { .. }) => ResultCode::LIMITED_SUCCESS,
            (ReservationState::Open | ReservationState::Pending, _) => ResultCode::SUCCESS,
        };
        self.reply(inquiry, result);
    }

    fn reply(&mut self, inquiry: &ServerRequest, result: ResultCode) {
        self.answer(inquiry.asked, &inquiry.header, Some(&inquiry.session_id), &Fault::new(result));
    }

    fn answer(&mut self, peer: Asked, header: &Header, session_id: Option<&str>, fault: &Fault<'_>) {
        let body = Answer {
            session_id,
            origin_host: &self.dialect.origin_host,
            origin_realm: &self.dialect.origin_realm,
            ..Answer::default()
        };
        let mut bytes = Vec::new();
        let mut writer = Writer::answer(&mut bytes, header);
        body.write(&mut writer);
        writer.fault(fault);
        // Our own answers are short.
        if writer.finish().is_ok() {
            self.peers.answer(peer, &bytes);
        }
    }
}

/// Who has the session of an answer that came through this peer, and how it is bound to that server. An answer with our
/// `own` Origin-Host, as some servers echo it, does not say who has answered: the session is this peer's then, and no
/// request names a server.
fn bond<'a>(own: &str, peer: &'a str, answer: &CreditControlAnswer<'a>) -> (&'a str, ServerBinding) {
    let may_move = answer.session_failover == Some(SessionFailover::FAILOVER_SUPPORTED);
    let host = answer.origin_host;
    match host.eq_ignore_ascii_case(own) {
        true => (peer, if may_move { ServerBinding::MayMove } else { ServerBinding::Asked }),
        false if !host.eq_ignore_ascii_case(peer) => (host, ServerBinding::Relayed),
        false => (host, if may_move { ServerBinding::MayMove } else { ServerBinding::Bound }),
    }
}

#[cfg(test)]
mod tests;
