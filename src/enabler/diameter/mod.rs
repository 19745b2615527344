//! The binding of CH-2 to Diameter Credit-Control (RFC 8506): an Online Charging System (OCS) grants and debits.
//!
//! | file | content |
//! |---|---|
//! | `config` | the parameters and their rules |
//! | `mapping` | CH-2 request to Credit-Control-Request, answer to CH-2 response |
//! | `profile` | which AVPs this OCS expects |
//! | `binding` | which server has a reservation, and under which service parameters |
//! | `service_information` | Service-Information: parties, service, content |
//! | `services` | Multiple-Services-Credit-Control of an answer |
//! | `answers` | answers in time and late ones |
//! | `server_requests` | Re-Auth-Request and Abort-Session-Request |
//! | `client` | the Diameter base protocol (RFC 6733), without credit control |

mod answers;
mod binding;
pub mod client;
mod config;
pub mod mapping;
pub mod profile;
mod server_requests;
mod service_information;
mod services;

pub(in crate::enabler) use config::own_certificate;
pub use config::{Config, PeerSettings, Settings, identity};
pub use service_information::SPECIFIC_TYPE_CLASS;

use super::{
    Accounts, Binding, Call, Capabilities, Enabler, EnablerEvent, ReservationState, ServerRequest, StatusEntry,
};
use super::{StartError, StatusValue};
use crate::charge::ch2::{Denial, Failure, Operation, Request, Reservation, Response, SessionKey};
use crate::charge::event::Event;
use crate::charge::time::Time;
use crate::enabler::net::tls::Tls;
use crate::wire::diameter::{ResultCode, Time as WallTime};
use binding::{Holder, ServerBinding, ServerBindings};
use client::connections::{PeerConnections, PeerStatus};
use client::peer_table::{Event as PeerEvent, Refused, Request as Outgoing};
use mapping::Target;
use profile::CreditControlProfile;
use server_requests::ServerRequests;
use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;

/// The row of [`super::BINDINGS`].
pub const BINDING: Binding = Binding {
    name: "diameter",
    capabilities: Capabilities {
        accounts: Accounts::AtServer,
        debits_without_reservation: true,
        limits_retries: true,
        needs_end_to_end_id: true,
        shares_sessions: false,
        has_connections: true,
    },
    status_fields: &["host", "address", "state", "in_flight", "last_error"],
    answer_seconds: |settings| settings.diameter.tx_timeout,
    check: |settings| Config::new(settings.diameter, settings.unit).map(drop),
    check_files: |settings| check_files(&Config::new(settings.diameter, settings.unit)?),
    session_id: |settings, session, opened_by| {
        Some(mapping::session_id(&settings.diameter.origin_host, session, opened_by))
    },
    new: |settings, state_directory, now| {
        let config = Config::new(settings.diameter, settings.unit)?;
        Ok(Box::new(Diameter::start(config, state_directory.state_id, now)))
    },
    account_queries: None,
};

/// Reads the TLS files of each peer.
fn check_files(config: &Config) -> Result<(), StartError> {
    config.client.peers.iter().try_for_each(|peer| {
        let loaded = peer.tls.as_ref().map(|files| Tls::load(peer.certificate_name(), files)).transpose();
        loaded.map(drop).map_err(|why| StartError(format!("peer {}: {why}", peer.label())))
    })
}

/// Seconds after the start for which requests wait for the first peer to open.
const FIRST_PEER_SECONDS: u32 = 2;

/// Requests taken by a peer, by CC-Request-Type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct RequestCounts {
    initial: u64,
    update: u64,
    termination: u64,
    event: u64,
}

/// A request that waits for the first peer to open.
struct QueuedRequest {
    request: Request,
    message: Vec<u8>,
    deadline: Time,
}

/// An event for the sessions.
enum Queued {
    Event(EnablerEvent),
    /// A late answer to a request other than INITIAL. It is of use if the request is still without an answer.
    LateAnswer {
        session: SessionKey,
        number: u32,
        message: Vec<u8>,
    },
}

/// The binding: a Diameter client, and the pending requests.
pub struct Diameter {
    profile: CreditControlProfile,
    tx_timeout: u32,
    peers: PeerConnections,
    /// Requests given to a peer and not answered, by the name the client knows them by.
    pending: HashMap<u128, Request>,
    next_name: u128,
    server_bindings: ServerBindings,
    server_requests: ServerRequests,
    /// Until when requests are queued for the first peer; `None`: no longer.
    first_peer_until: Option<Time>,
    queued: Vec<QueuedRequest>,
    events: VecDeque<Queued>,
    counts: RequestCounts,
    /// Answers that could not be used.
    unusable: u64,
    /// Sum of all response times, in microseconds.
    response_micros: u64,
    /// Response times since the last call of `take_response_times`, in microseconds.
    response_times: Vec<u64>,
}

impl Diameter {
    /// Creates the binding. It connects from the first [`work`](Enabler::work) on. `state_id`: Origin-State-Id.
    pub fn start(config: Config, state_id: u32, now: Time) -> Diameter {
        Diameter {
            profile: config.profile,
            tx_timeout: config.tx_timeout,
            peers: PeerConnections::new(config.client, state_id, now),
            pending: HashMap::new(),
            next_name: 0,
            server_bindings: ServerBindings::default(),
            server_requests: ServerRequests::default(),
            first_peer_until: Some(now.after_seconds(FIRST_PEER_SECONDS)),
            queued: Vec::new(),
            events: VecDeque::new(),
            counts: RequestCounts::default(),
            unusable: 0,
            response_micros: 0,
            response_times: Vec::new(),
        }
    }

    fn send(&mut self, queued: QueuedRequest, now: Time) {
        let QueuedRequest { request, message, deadline } = queued;
        let binding = request.server_binding.as_deref().map(ServerBinding::parse);
        let name = self.next_name;
        let outgoing = Outgoing {
            name,
            message: &message,
            deadline,
            may_move: binding.as_ref().is_none_or(|binding| binding.may_move(request.rate_limited)),
            at_most_once: request.at_most_once,
            possible_duplicate: request.possible_duplicate,
            preferred_host: binding.as_ref().map(|binding| binding.host),
        };
        match self.peers.send(outgoing, now) {
            Ok(()) => {
                self.next_name += 1;
                self.count(&request);
                self.pending.insert(name, request);
            }
            Err(Refused::NoPeer | Refused::Malformed) => {
                self.push_response(&request, Response::Failed(Failure::Unreachable));
            }
            Err(Refused::Full) => self.push_response(&request, Response::Failed(Failure::Overload)),
        }
    }

    fn count(&mut self, request: &Request) {
        match (&request.operation, request.reservation) {
            (Operation::Reserve { .. }, Reservation::None) => self.counts.initial += 1,
            (Operation::Debit { .. }, Reservation::None) | (Operation::Refund { .. }, _) => self.counts.event += 1,
            (Operation::Release, _) | (Operation::Debit { .. }, Reservation::Last { .. }) => {
                self.counts.termination += 1;
            }
            (Operation::Reserve { .. } | Operation::Debit { .. }, _) => self.counts.update += 1,
        }
    }

    /// Sends the queued requests once a peer is open, or its time is over.
    fn send_queued(&mut self, is_open: bool, now: Time) {
        if self.first_peer_until.is_some_and(|until| is_open || until <= now) {
            self.first_peer_until = None;
            std::mem::take(&mut self.queued).into_iter().for_each(|queued| self.send(queued, now));
        }
    }

    /// Handles an event of the client. Returns whether a peer has opened.
    fn peer_event(&mut self, event: PeerEvent) -> bool {
        match event {
            PeerEvent::Answered { name, from, message, micros, elsewhere } => {
                self.response_micros += micros;
                self.response_times.push(micros);
                self.answered(name, &from, &message, elsewhere.as_deref());
            }
            // A request that was written as a whole may have arrived; any other never will.
            PeerEvent::TimedOut { name, written_to } | PeerEvent::Lost { name, written_to } => {
                self.unanswered(name, written_to.as_deref());
            }
            PeerEvent::Late { from, message, .. } => self.late(&from, message),
            PeerEvent::PeerRequest { request, message } => self.server_request(request, &message),
            PeerEvent::Up { peer } => {
                log::info!("Diameter peer {peer} is open");
                return true;
            }
            PeerEvent::Down { why, .. } => log::warn!("Diameter {why}"),
        }
        false
    }

    /// Returns the profile for a request: a reservation keeps the service parameters that it was opened with.
    fn profile_of(&self, request: &Request) -> Cow<'_, CreditControlProfile> {
        let keys = request.server_binding.as_deref().and_then(|binding| ServerBinding::parse(binding).keys);
        match keys.filter(|keys| *keys != self.profile.keys) {
            Some(keys) => Cow::Owned(CreditControlProfile { keys, ..self.profile.clone() }),
            None => Cow::Borrowed(&self.profile),
        }
    }

    fn push_event(&mut self, event: EnablerEvent) {
        self.events.push_back(Queued::Event(event));
    }

    fn push_response(&mut self, request: &Request, response: Response) {
        let (session, number) = (request.session, request.number);
        self.push_event(EnablerEvent::Response { session, number, response, may_be_at: None });
    }

    /// There is no answer, although this peer may have carried out the request. It is the first that a resend, or the
    /// release of what it may have reserved, is sent to.
    fn push_failure(&mut self, request: &Request, host: &str, failure: Failure) {
        let (session, number, keys) = (request.session, request.number, self.profile_of(request).keys);
        let may_be_at = Some(self.server_bindings.to(host, Holder::Candidate, keys));
        let response = Response::Failed(failure);
        self.push_event(EnablerEvent::Response { session, number, response, may_be_at });
    }

    fn unanswered(&mut self, name: u128, written_to: Option<&str>) {
        let Some(request) = self.pending.remove(&name) else { return };
        match written_to {
            Some(host) => self.push_failure(&request, host, Failure::Silent),
            None => self.push_response(&request, Response::Failed(Failure::Unreachable)),
        }
    }
}

impl Enabler for Diameter {
    fn ask(&mut self, request: Request, call: &Call<'_>, now: Time, wall_seconds: i64) {
        let mut message = Vec::with_capacity(768);
        let binding = request.server_binding.as_deref().map(ServerBinding::parse);
        let host = binding.as_ref().and_then(ServerBinding::destination);
        let target = Target { host, others: binding.as_ref().map_or(&[], |binding| &binding.others) };
        let (profile, at) = (self.profile_of(&request), WallTime(wall_seconds));
        let written = mapping::write(&profile, &request, call, target, at, &mut message);
        if written.is_err() {
            let denial = Denial::Refused(ResultCode::INVALID_MESSAGE_LENGTH.0);
            return self.push_response(&request, Response::Denied(denial));
        }
        let queued = QueuedRequest { request, message, deadline: now.after_seconds(self.tx_timeout) };
        match self.first_peer_until {
            Some(_) => self.queued.push(queued),
            None => self.send(queued, now),
        }
    }

    fn flush(&mut self, now: Time) {
        self.peers.flush(now);
    }

    fn work(&mut self, now: Time) {
        self.peers.work(now);
        let mut is_open = false;
        while let Some(event) = self.peers.next_event() {
            is_open |= self.peer_event(event);
        }
        self.send_queued(is_open, now);
        self.peers.flush(now);
    }

    fn poll(&mut self, pending: &dyn Fn(SessionKey, u32) -> Option<Request>) -> Option<EnablerEvent> {
        loop {
            let event = match self.events.pop_front()? {
                Queued::Event(event) => Some(event),
                Queued::LateAnswer { session, number, message } => {
                    pending(session, number).and_then(|request| self.read_late(&request, &message))
                }
            };
            if event.is_some() {
                return event;
            }
        }
    }

    fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    fn deadline(&self) -> Option<Time> {
        self.peers.deadline().into_iter().chain(self.first_peer_until).min()
    }

    fn descriptors(&self) -> Vec<(RawFd, bool)> {
        self.peers.descriptors().collect()
    }

    fn answer(&mut self, request: ServerRequest, event: &Event<'_>, state: ReservationState) {
        self.answer_server(request, event, state);
    }

    fn leave(&mut self, now: Time) {
        self.peers.stop(now);
    }

    fn has_left(&self) -> bool {
        self.peers.is_stopped()
    }

    fn status(&self) -> Vec<StatusEntry> {
        self.peers.status().into_iter().map(status_entry).collect()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let (client, counts) = (self.peers.counters(), &self.counts);
        vec![
            ("initial_ccrs", counts.initial),
            ("interim_ccrs", counts.update),
            ("final_ccrs", counts.termination),
            ("event_ccrs", counts.event),
            ("ccr_answers", client.answered),
            ("ccr_timeouts", client.timed_out),
            ("ccr_failures", client.failed),
            ("ccr_late_answers", client.late),
            ("ccr_unmatched_answers", client.unmatched),
            ("ccr_malformed", client.malformed + self.unusable),
            ("ccr_resent", client.resent),
            ("ccr_no_peer", client.refused_no_peer),
            ("ccr_overload", client.refused_full),
            ("ccr_avg_response_time", self.response_micros / client.answered.max(1)),
        ]
    }

    fn take_response_times(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.response_times)
    }
}

fn status_entry(peer: PeerStatus) -> StatusEntry {
    vec![
        ("host", StatusValue::Text(peer.host)),
        ("address", StatusValue::Text(peer.address)),
        ("state", StatusValue::Text(peer.state.into())),
        ("in_flight", StatusValue::Integer(i64::try_from(peer.in_flight).unwrap_or(i64::MAX))),
        ("last_error", StatusValue::Text(peer.last_error.unwrap_or_default())),
    ]
}

#[cfg(test)]
mod tests;
