//! The parties invite, answer, send, respond and hang up, each through the hooks of some worker.

use super::{SECOND, Step, World, print_trace};
use crate::call::{Abort, CLIENT, Call, Message, Names, OTHER_PATH, OWN_PATH, RESTARTED, Reaction, SERVER, Stage};
use crate::delivery::{Charge, Part};
use crate::dialog::LegState;
use imcharge::charge::policy::Settle;
use imcharge::shm::region::Region;
use imcharge::worker::FrameDecision;
use imcharge::worker::sip_input::Frame;
use std::net::IpAddr;
use std::sync::Arc;

/// Time after a BYE in which frames still arrive, and the same if the server does not know of the BYE, in microseconds.
const LATE_FRAMES_MICROS: u64 = SECOND;
const UNKNOWN_BYE_MICROS: u64 = 25 * SECOND;

impl World<'_> {
    pub(super) fn invite(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Invited {
            return;
        }
        let taken = self.hook(number, |worker, call| call.invite(worker, OWN_PATH).then(|| worker.region().instance()));
        let taken = taken.and_then(|(_, taken)| taken);
        let call = &mut self.calls[number];
        call.taken_by = taken;
        if taken.is_none() {
            call.stage = Stage::Over;
        } else if self.random.u8(0..6) == 0 {
            self.within(5 * SECOND, Step::Merge(number));
        }
    }

    /// A copy of the INVITE arrives by another path.
    pub(super) fn merge(&mut self, number: usize) {
        self.hook(number, |worker, call| call.invite(worker, OTHER_PATH));
    }

    /// The copy ends on its own path, whatever its verdict was.
    pub(super) fn end_other(&mut self, number: usize, code: u16) {
        self.hook(number, |worker, call| {
            worker.failed(call.session(), Some(call.transaction_on_path(OTHER_PATH)), code)
        });
    }

    /// The server sends a message, beginning after `begin` microseconds.
    pub(super) fn send_all(&mut self, number: usize, message: usize, again: u32, begin: u64) {
        let Message { chunks, abort, again: is_sent_again, .. } = self.calls[number].messages[message];
        for chunk in 0..chunks {
            // Chunks are mostly in order.
            let late = if self.random.u8(0..10) == 0 { 2 * SECOND } else { 0 };
            self.after(begin + u64::from(chunk) * 50_000 + late, Step::Send(number, message, chunk, again));
        }
        if again >= RESTARTED {
            return;
        }
        let end = begin + u64::from(chunks) * 50_000;
        if abort == Abort::AfterLastChunk {
            let wait = self.random.u64(0..SECOND);
            self.after(end + wait, Step::Send(number, message, chunks, again));
        }
        if is_sent_again {
            let wait = self.random.u64(0..8 * SECOND);
            self.after(end + wait, Step::RestartMessage(number, message));
        }
    }

    /// The server restarts a message as if it had not sent it.
    pub(super) fn restart_message(&mut self, number: usize, message: usize) {
        self.send_all(number, message, RESTARTED, 0);
    }

    pub(super) fn send(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        let call = &self.calls[number];
        let late = if call.server_sends_on { UNKNOWN_BYE_MICROS } else { LATE_FRAMES_MICROS };
        let is_after_end = call.ended_at.is_some_and(|at| self.machine.clock.get() < at + late);
        let is_open =
            call.stage == Stage::Answered && call.legs[call.messages[message].leg].state == LegState::Confirmed;
        if !is_open && (!is_after_end || self.has_successor(number)) {
            return;
        }
        let (bytes, part, id) =
            (call.send(message, chunk, again), call.part(message, chunk, again), call.message_id(message));
        let (is_first, leg) = (call.is_first(message, chunk), call.messages[message].leg);
        let passage = self.frame_of_server((number, leg), &bytes, (&id, part, is_first));
        print_trace(format_args!(
            "{} send call {number} message {message}.{chunk} again {again} {part:?}: {passage:?}",
            self.machine.clock.get()
        ));
        match passage {
            Some(FrameDecision::Pass) if part != Part::Abort => {
                self.react(number, message, chunk, again);
                // The server has not seen the response, or has lost its connection.
                if again % RESTARTED < 3 && self.random.u8(0..12) == 0 {
                    self.within(3 * SECOND, Step::Send(number, message, chunk, again + 1));
                }
            }
            // It is sent again a little later, as after a temporary refusal.
            Some(FrameDecision::BeyondGrant | FrameDecision::Full | FrameDecision::Forged) if again % RESTARTED < 2 => {
                self.after(1_500_000, Step::Send(number, message, chunk, again + 1));
            }
            _ => {}
        }
    }

    /// A frame of the server of a dialog, which must not be refused, whatever other parties claim.
    fn frame_of_server(
        &mut self,
        (number, leg): (usize, usize),
        bytes: &str,
        part: (&str, Part, bool),
    ) -> Option<FrameDecision> {
        let connection = self.calls[number].connections[0];
        let (_, passage) = self.frame(number, bytes, (connection, SERVER), Some(part))?;
        let instance = self.region().instance();
        let call = &self.calls[number];
        let is_live =
            call.stage == Stage::Answered && !call.is_aborted && !call.is_lost && !self.is_as_closed_as_another(call);
        let call = &mut self.calls[number];
        // If the host cannot tell that the old connection is closed, the new one waits for the engine.
        let knew_another = call.server_known[leg].is_some_and(|(_, known)| known != connection);
        let may_be_late = knew_another && !self.connections.reports_state;
        match passage {
            FrameDecision::Pass | FrameDecision::BeyondGrant | FrameDecision::Full => {
                call.server_known[leg] = Some((instance, connection))
            }
            FrameDecision::NotCharged => {
                self.violations.push(format!("call {number} message {} passes without a known session", part.0));
            }
            FrameDecision::NoSession if is_live => {
                self.violations.push(format!("call {number} message {} is stopped for lack of a session", part.0));
            }
            FrameDecision::Forged if is_live && !call.is_captured && !may_be_late => {
                self.violations.push(format!("call {number} message {} of the server is refused as forged", part.0));
            }
            _ => {}
        }
        Some(passage)
    }

    /// Whether the gate of a session is closed, as is that of its predecessor with the same MSRP URIs: a frame may be
    /// attributed to either.
    pub(super) fn is_as_closed_as_another(&self, call: &Call) -> bool {
        let session = call.session();
        let is_open = |region: &Arc<Region>| {
            let slot = region.table().slot_of_session(region.name_of_session(session), session);
            slot.is_some_and(|at| region.table().slots[at as usize].is_open())
        };
        call.names == Names::Predecessor && !self.region.as_ref().is_some_and(is_open)
    }

    /// Passes a frame to a worker. `part`: Message-ID, what the frame adds to that message in the direction of the client,
    /// and whether it claims to be the first chunk. Returns the decision; `None`: there is no host, or it has just died.
    pub(super) fn frame(
        &mut self,
        number: usize,
        bytes: &str,
        (connection, source): (u64, IpAddr),
        part: Option<(&str, Part, bool)>,
    ) -> Option<(usize, FrameDecision)> {
        let connections = std::mem::take(&mut self.connections);
        let (bytes, from_self) = (bytes.as_bytes(), false);
        let given = self.hook(number, |worker, _| {
            worker.frame(&Frame { bytes, connection, source: Some(source), from_self, connections: &connections })
        });
        self.connections = connections;
        self.tally.note(given.map_or(0, |(_, passage)| passage as i32 as u64));
        let Some((id, part, is_first)) = part else { return given };
        if given.is_some_and(|(_, passage)| passage == FrameDecision::Pass) {
            self.check_lease_of(part, self.calls[number].is_taken_over, &format_args!("call {number}: message {id}"));
        }
        let now = self.machine.clock.get();
        let call = &mut self.calls[number];
        let Some((process, passage)) = given else {
            call.delivered.entry(id.into()).or_default().died_with(now, part);
            return None;
        };
        let instance = self.region.as_ref().map_or(0, |region| region.instance());
        let place = (instance, process, self.region().event_ring(process).head());
        let call = &mut self.calls[number];
        let is_by_size = super::setup::tariff_of(&self.config.tariffs, call.content_of(id).class()).kilobyte > 0;
        let delivery = call.delivered.entry(id.into()).or_default();
        let restarts = is_first && (!is_by_size || !delivery.has_content());
        // A message that is not charged, or refunded, is charged like a new one when the engine has read why.
        let cases = &self.config.policy.cases;
        let is_refunded = cases.report == Settle::Release && call.reported.contains(id)
            || [cases.client_error, cases.timeout].contains(&Settle::Release);
        let may_pass = restarts || is_refunded || delivery.is_given_up() || delivery.may_be_free();
        let must_stop = delivery.stopped_in == Some(instance) && !may_pass;
        match (passage, part) {
            (FrameDecision::Pass, Part::Content { charge: Charge::Free | Charge::Uncertain, .. }) => {
                if call.is_aborted {
                    self.violations.push(format!("call {number}: free message {id} passes after an abort by the OCS"));
                }
                self.tally.free += 1;
                delivery.passed(now, part, place);
            }
            (FrameDecision::BeyondGrant, Part::Content { charge: Charge::Free | Charge::Uncertain, .. }) => {
                delivery.has_gap = true;
            }
            (FrameDecision::Pass, Part::Content { charge: Charge::Due, .. }) => {
                if must_stop {
                    self.violations
                        .push(format!("call {number}: a chunk of message {id} was stopped, but a later one passes"));
                }
                if call.is_aborted && (is_by_size || !delivery.has_content()) {
                    self.violations.push(format!("call {number} message {id} passes after an abort by the OCS"));
                }
                self.tally.restarted += u64::from(delivery.is_given_up());
                delivery.stopped_in = None;
                delivery.passed(now, part, place);
            }
            (FrameDecision::Pass, Part::Abort) => {
                delivery.stopped_in = None;
                delivery.passed(now, part, place);
            }
            (FrameDecision::BeyondGrant, _) => {
                self.tally.rests_stopped += u64::from(must_stop);
                (delivery.stopped_in, delivery.has_gap) = (Some(instance), true);
            }
            _ => {}
        }
        given
    }

    fn react(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        if self.calls[number].messages[message].reaction != Reaction::Silence {
            let max = if self.random.u8(0..8) == 0 { 20 * SECOND } else { 200_000 };
            // Some responses are lost, some are duplicated.
            let times = [1, 1, 1, 1, 1, 1, 1, 1, 0, 2][self.random.usize(0..10)];
            (0..times).for_each(|_| self.within(max, Step::Respond(number, message, chunk, again)));
            if self.random.u8(0..12) == 0 {
                let times = self.random.u8(1..3);
                (0..times).for_each(|_| self.within(10 * SECOND, Step::Report(number, message)));
            }
        }
    }

    pub(super) fn respond(&mut self, number: usize, message: usize, chunk: u32, again: u32) {
        let call = &self.calls[number];
        if call.stage == Stage::Answered
            && let Some(bytes) = call.respond(message, chunk, again)
        {
            let code = call.reaction_to(message, chunk);
            let given = self.receive_from_client(number, &bytes);
            let now = self.machine.clock.get();
            let is_recorded = self.calls[number].moved_at == now;
            if let Some((process, FrameDecision::Pass)) = given.filter(|_| code == Some(200) && is_recorded) {
                let place = (self.region().instance(), process, self.region().event_ring(process).head());
                let call = &mut self.calls[number];
                call.confirmed.entry(call.message_id(message)).or_insert((now, place));
            }
        }
    }

    pub(super) fn report(&mut self, number: usize, message: usize) {
        let gives_back = self.config.policy.cases.report == Settle::Release;
        let call = &mut self.calls[number];
        if call.stage == Stage::Answered {
            let id = call.message_id(message);
            // A refunded message is restarted as if it were new.
            if let Some(delivery) = call.delivered.get_mut(&id).filter(|_| gives_back) {
                delivery.stopped_in = None;
            }
            call.reported.insert(id);
            let bytes = call.report(message);
            self.receive_from_client(number, &bytes);
        }
    }

    fn receive_from_client(&mut self, number: usize, bytes: &str) -> Option<(usize, FrameDecision)> {
        let connection = self.calls[number].connections[1];
        let given = self.frame(number, bytes, (connection, CLIENT), None);
        if given.is_some_and(|(_, passage)| passage == FrameDecision::Forged) && !self.calls[number].is_captured {
            self.violations.push(format!("call {number}: a frame of the client is refused as forged: {bytes}"));
        }
        given
    }

    /// Sessions that the OCS has ended with the proxy's consent: nothing new may pass from now on, and they are settled as
    /// after a BYE.
    pub(super) fn handle_aborts(&mut self) {
        let aborted = std::mem::take(&mut self.network.borrow_mut().server_requests.aborted);
        let now = self.machine.clock.get();
        self.abort_chats(&aborted);
        for call in self.calls.iter_mut().filter(|call| aborted.contains(&call.session())) {
            call.is_aborted = true;
            if call.stage != Stage::Over {
                call.moved_at = now;
                call.ended_at.get_or_insert(now);
            }
        }
    }

    /// The connection of one side is lost; that side opens another one.
    pub(super) fn lose(&mut self, number: usize) {
        let side = self.random.usize(0..2);
        let connection = self.calls[number].connections[side];
        self.connections.closed.insert(connection);
        let new = self.connections.open();
        self.hook(number, |worker, _| worker.connection_lost(connection));
        // Calls that share it move as well.
        let now = self.machine.clock.get();
        for call in self.calls.iter_mut().filter(|call| call.connections[side] == connection) {
            call.moved_at = now;
            call.connections[side] = new;
        }
    }
}
