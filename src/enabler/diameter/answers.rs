//! Credit-Control-Answers: those in time, and late ones.

use super::binding::{Holder, ServerBinding};
use super::profile::ServiceParameters;
use super::services::{self, Other};
use super::{Diameter, Queued, mapping};
use crate::charge::ch2::{Failure, Operation, Request, Reservation, Response};
use crate::enabler::EnablerEvent;
use crate::wire::diameter::codes::{RequestType, SessionFailover};
use crate::wire::diameter::{Command, CreditControlAnswer, Fault, Message};
use std::rc::Rc;
use std::sync::Arc;

impl Diameter {
    /// Handles an answer in time. `elsewhere`: another peer that has received the request and has not answered.
    pub(super) fn answered(&mut self, name: u128, peer: &Rc<str>, message: &[u8], elsewhere: Option<&str>) {
        let Some(request) = self.pending.remove(&name) else { return };
        match (self.read(&request, peer, message), elsewhere) {
            // The other peer may have carried out the request although this one failed.
            (Ok(Response::Failed(failure)), Some(other)) => self.push_failure(&request, other, failure),
            (Ok(response), _) => self.push_response(&request, response),
            (Err(why), _) => {
                self.unusable += 1;
                log::error!("Diameter peer {peer} sent an answer that cannot be used: {why}");
                self.push_failure(&request, peer, Failure::Unreadable);
            }
        }
    }

    fn read(&mut self, request: &Request, peer: &str, message: &[u8]) -> Result<Response, String> {
        let message = Message::parse(message).ok_or("it is not a Diameter message")?;
        if message.header.command != Command::CREDIT_CONTROL {
            return Err(format!("its command code is {}, not that of Credit-Control", message.header.command.0));
        }
        let answer = CreditControlAnswer::decode(&message).map_err(|fault: Fault<'_>| fault.to_string())?;
        if let Some((code, vendor)) = answer.unsupported {
            log::warn!("Diameter peer {peer}: unknown AVP {code} of vendor {vendor} with the M flag ignored");
        }
        let body = &answer.body;
        let (id, number) = mapping::ids_of(&self.profile.origin_host, request);
        // An answer with the E flag may lack both (RFC 6733, 7.2).
        if body.session_id.is_some_and(|found| found != id) || body.request_number.is_some_and(|found| found != number)
        {
            return Err("its Session-Id or CC-Request-Number is not that of the request".into());
        }
        let profile = self.profile_of(request);
        let (mut response, keys) = (mapping::read(&profile, request, body), profile.keys);
        self.note_server(request, peer, body, keys, &mut response);
        Ok(response)
    }

    /// Records which server has the reservation, and what else it has granted in the session.
    fn note_server(
        &mut self,
        request: &Request,
        peer: &str,
        body: &CreditControlAnswer<'_>,
        keys: ServiceParameters,
        response: &mut Response,
    ) {
        let others = services::others(&keys, body);
        let (is_open, session) = (mapping::succeeds(body), request.session);
        match (&request.operation, request.reservation, response) {
            (Operation::Reserve { .. }, _, Response::Granted(grant)) => {
                grant.server_binding = Some(self.binding_of(peer, body, keys, &others));
            }
            // The server has opened the session, and refuses the charged service in it.
            (Operation::Reserve { .. }, Reservation::None, _) if is_open => {
                let server_binding = self.binding_of(peer, body, keys, &others);
                self.push_event(EnablerEvent::LateGrant { session, number: request.number, server_binding });
            }
            (Operation::Reserve { .. } | Operation::Debit { .. }, Reservation::Open { opened_by, .. }, _)
                if is_open =>
            {
                let binding =
                    request.server_binding.as_deref().filter(|binding| ServerBinding::parse(binding).others != others);
                if let Some(binding) = binding {
                    let server_binding = self.server_bindings.with_others(binding, &others);
                    self.push_event(EnablerEvent::Rebound { session, opened_by, server_binding });
                }
            }
            _ => {}
        }
    }

    /// Returns the binding to the server that sent this answer.
    fn binding_of(
        &mut self,
        peer: &str,
        answer: &CreditControlAnswer<'_>,
        keys: ServiceParameters,
        others: &[Other],
    ) -> Arc<str> {
        let (host, holder) = holder_of(&self.profile.origin_host, peer, answer);
        self.server_bindings.with(host, holder, keys, others)
    }

    /// Handles an answer whose request has failed meanwhile. A late grant is released at once: RFC 8506 lets the server
    /// end it after Tcc, which not all servers do.
    pub(super) fn late(&mut self, peer: &str, bytes: Vec<u8>) {
        let Some(message) = Message::parse(&bytes) else { return };
        let Ok(answer) = CreditControlAnswer::decode(&message) else { return };
        let body = &answer.body;
        let session = body.session_id.and_then(|id| mapping::session_of(&self.profile.origin_host, id));
        let (Some((session, opened_by)), Some(kind)) = (session, body.request_type) else { return };
        if kind != RequestType::INITIAL_REQUEST {
            let number = opened_by.saturating_add(body.request_number.unwrap_or(0));
            self.events.push_back(Queued::LateAnswer { session, number, message: bytes });
        } else if mapping::succeeds(body) {
            let keys = self.profile.keys;
            let server_binding = self.binding_of(peer, body, keys, &services::others(&keys, body));
            self.push_event(EnablerEvent::LateGrant { session, number: opened_by, server_binding });
        }
    }

    /// Reads a late answer to a request that is to be sent again. Only success counts: a server slower than Tx would
    /// otherwise be asked forever. A refusal may concern a copy that another copy was faster than.
    pub(super) fn read_late(&mut self, request: &Request, bytes: &[u8]) -> Option<EnablerEvent> {
        let response = self.read(request, "that answers late", bytes).ok()?;
        let is_done =
            matches!(response, Response::Debited { .. } | Response::Refunded { .. } | Response::Released { .. });
        let (session, number) = (request.session, request.number);
        is_done.then_some(EnablerEvent::Response { session, number, response, may_be_at: None })
    }
}

/// Returns the server that sent an answer through this peer, and how the session is bound to it. Some servers echo our
/// `own` Origin-Host: then the session is bound to the peer, and requests carry no Destination-Host.
fn holder_of<'a>(own: &str, peer: &'a str, answer: &CreditControlAnswer<'a>) -> (&'a str, Holder) {
    let may_move = answer.session_failover == Some(SessionFailover::FAILOVER_SUPPORTED);
    let host = answer.origin_host;
    match host.eq_ignore_ascii_case(own) {
        true => (peer, if may_move { Holder::MayMove } else { Holder::Candidate }),
        false if !host.eq_ignore_ascii_case(peer) => (host, Holder::Relayed),
        false => (host, if may_move { Holder::MayMove } else { Holder::Peer }),
    }
}
