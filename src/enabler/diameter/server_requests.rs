//! Requests of the server within a session: Re-Auth-Request (RFC 8506, 5.5) and Abort-Session-Request (RFC 6733, 8.5).
//!
//! They are answered after the session has handled them, because the answer depends on its state.

use super::{Diameter, mapping};
use crate::charge::event::Event;
use crate::enabler::diameter::client::peer_table::PeerRequest;
use crate::enabler::{EnablerEvent, ReservationState, ServerRequest};
use crate::wire::diameter::base::{AbortSessionRequest, Answer, ReAuthRequest};
use crate::wire::diameter::{Command, Fault, Header, Message, ResultCode, Writer, dictionary};
use std::collections::HashMap;

/// Maximum number of events that the sessions have not handled. Further requests of servers are answered with
/// DIAMETER_TOO_BUSY.
const EVENTS_MAX: usize = 4096;

/// A request without an answer.
#[derive(Debug)]
struct OpenRequest {
    peer_request: PeerRequest,
    header: Header,
    session_id: Box<str>,
}

/// The requests without an answer.
#[derive(Debug, Default)]
pub(super) struct ServerRequests {
    open: HashMap<ServerRequest, OpenRequest>,
    next: u64,
}

impl ServerRequests {
    fn add(&mut self, request: OpenRequest) -> ServerRequest {
        let id = ServerRequest(self.next);
        self.next += 1;
        self.open.insert(id, request);
        id
    }
}

impl Diameter {
    /// Passes a RAR or ASR to its session, or answers it if there is none.
    pub(super) fn server_request(&mut self, peer_request: PeerRequest, bytes: &[u8]) {
        let Some(message) = Message::parse(bytes) else { return };
        let command = message.header.command;
        let read = match command {
            Command::RE_AUTH => ReAuthRequest::decode(&message).map(|request| request.session_id),
            _ => AbortSessionRequest::decode(&message).map(|request| request.session_id),
        };
        let id = match read {
            Ok(id) => id,
            Err(fault) => {
                let id = message.find(dictionary::SESSION_ID).and_then(|id| id.text().ok());
                return self.send_answer(peer_request, &message.header, id, &fault);
            }
        };
        let request = OpenRequest { peer_request, header: message.header, session_id: id.into() };
        match mapping::session_of(&self.profile.origin_host, id) {
            Some(_) if self.events.len() >= EVENTS_MAX => self.reply(&request, ResultCode::TOO_BUSY),
            Some((session, opened_by)) => {
                let event = match command {
                    Command::RE_AUTH => Event::Reauthorize { opened_by },
                    _ => Event::Abort,
                };
                let request = self.server_requests.add(request);
                self.push_event(EnablerEvent::ServerRequest { session, opened_by, event, request });
            }
            None => self.reply(&request, ResultCode::UNKNOWN_SESSION_ID),
        }
    }

    /// Answers by the state of the reservation. A re-authorization is followed by an UPDATE, which 2002 announces (RFC
    /// 8506, 5.5), unless one is pending (5.5 and state PendingU of section 7). An abort is followed by a TERMINATION.
    pub(super) fn answer_server(&mut self, request: ServerRequest, event: &Event<'_>, state: ReservationState) {
        let Some(request) = self.server_requests.open.remove(&request) else { return };
        let result = match (state, event) {
            (ReservationState::Unknown, _) => ResultCode::UNKNOWN_SESSION_ID,
            (ReservationState::Open, Event::Reauthorize { .. }) => ResultCode::LIMITED_SUCCESS,
            (ReservationState::Open | ReservationState::Pending, _) => ResultCode::SUCCESS,
        };
        self.reply(&request, result);
    }

    fn reply(&mut self, request: &OpenRequest, result: ResultCode) {
        self.send_answer(request.peer_request, &request.header, Some(&request.session_id), &Fault::new(result));
    }

    fn send_answer(&mut self, to: PeerRequest, header: &Header, session_id: Option<&str>, fault: &Fault<'_>) {
        let body = Answer {
            session_id,
            origin_host: &self.profile.origin_host,
            origin_realm: &self.profile.origin_realm,
            ..Answer::default()
        };
        let mut bytes = Vec::new();
        let mut writer = Writer::answer(&mut bytes, header);
        body.write(&mut writer);
        writer.fault(fault);
        // An answer of ours is never too long for the length field.
        if writer.finish().is_ok() {
            self.peers.answer(to, &bytes);
        }
    }
}
