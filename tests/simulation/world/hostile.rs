//! Parties that break the rules: they claim to be the server, and send without a session.

use super::{World, print_trace};
use crate::call::{CLIENT, Names, SERVER, Stage};
use crate::delivery::{Charge, Part};
use imcharge::worker::FrameDecision;

impl World<'_> {
    /// A forged frame of the server, over the client's connection, a new one, or that of another subscriber.
    pub(super) fn forge(&mut self, number: usize) {
        if matches!(self.calls[number].stage, Stage::Invited | Stage::Granted) || self.has_successor(number) {
            return;
        }
        let connection = match self.random.u8(0..3) {
            0 => self.calls[number].connections[1],
            1 => self.connections.open(),
            _ => self.random.choice(&self.calls).map_or(0, |call| call.connections[1]),
        };
        let call = &self.calls[number];
        let id = match self.random.choice(0..call.messages.len()) {
            Some(message) if self.random.u8(0..4) > 0 => call.message_id(message),
            _ => format!("forged{number}"),
        };
        let octets: usize = self.random.choice([0, 0, 1, 100, 1025]).unwrap_or_default();
        let flag = if octets == 0 { '#' } else { self.random.choice(['$', '+']).unwrap_or('$') };
        let part = match flag {
            '#' => Part::Abort,
            flag => Part::Content { octets: octets as u64, is_last: flag == '$', charge: Charge::Due },
        };
        let transaction = format!("f{}x{number}", self.random.u32(..));
        // Of the class of the message, which the first chunk decides.
        let content_type = match call.content_of(&id) {
            content if content.is_notification() && !call.charges_notifications => "text/plain",
            content => content.media_type(),
        };
        let body = "x".repeat(octets);
        let bytes = call.frame_of_server(call.ends(0), &transaction, &id, "1-*/*", (content_type, &body), flag);
        // The connection of this dialog's server is known and open: no other one is accepted for it.
        let instance = self.region.as_ref().map(|region| region.instance());
        let is_known = |&(seen_in, known): &(u64, u64)| {
            Some(seen_in) == instance && !self.connections.closed.contains(&known) && known != connection
        };
        let is_clear = !self.is_as_closed_as_another(call);
        let must_refuse =
            is_clear && (!self.config.im_servers.is_empty() || call.server_known[0].as_ref().is_some_and(is_known));
        let is_live = call.stage == Stage::Answered;
        let Some((_, passage)) = self.frame(number, &bytes, (connection, CLIENT), Some((&id, part, true))) else {
            return;
        };
        print_trace(format_args!("{} forged {part:?} of {id} in call {number}: {passage:?}", self.machine.clock.get()));
        match passage {
            FrameDecision::Forged => self.tally.forged += 1,
            FrameDecision::NoSession => {}
            FrameDecision::NotCharged if !is_live => {}
            FrameDecision::NotCharged => {
                self.violations.push(format!("the session of call {number} is unknown to a forged frame"))
            }
            _ if must_refuse => {
                self.violations.push(format!("a frame of the client is accepted as the server's: {bytes:.200}"))
            }
            _ => {
                // A party on the same connection is taken for the server as well.
                self.calls[number].is_captured = true;
                let same = self.calls.iter_mut().filter(|call| call.connections[1] == connection);
                same.for_each(|call| call.is_captured = true);
            }
        }
    }

    /// Whether a later call has the same MSRP URIs.
    pub(super) fn has_successor(&self, number: usize) -> bool {
        let next = self.calls.get(number + 1);
        next.is_some_and(|next| next.names == Names::Predecessor && next.taken_by.is_some())
    }

    /// The client sends a message to the server, which is free.
    pub(super) fn send_back(&mut self, number: usize) {
        let call = &self.calls[number];
        if call.stage != Stage::Answered {
            return;
        }
        let bytes = call.frame_of_client(0, &format!("b{}", self.random.u32(..)), &format!("back{number}"));
        let connection = call.connections[1];
        let given = self.frame(number, &bytes, (connection, CLIENT), None);
        let Some((_, passage)) = given.filter(|_| !self.calls[number].is_captured) else { return };
        if !matches!(passage, FrameDecision::Pass | FrameDecision::Full) {
            self.violations.push(format!("call {number}: a message of the client is stopped: {passage:?}"));
        }
    }

    /// Content from the server's endpoint to one without a session with it, and content between unrelated endpoints.
    pub(super) fn send_astray(&mut self, number: usize) {
        let is_live = self.calls[number].stage == Stage::Answered;
        let from_server = self.random.bool();
        let connection = self.connections.open();
        let bytes = self.calls[number].frame_astray(&format!("a{}", self.random.u32(..)), from_server);
        let source = if from_server { SERVER } else { CLIENT };
        let Some((_, passage)) = self.frame(number, &bytes, (connection, source), None) else { return };
        let is_right = match (from_server, passage) {
            (true, FrameDecision::NotCharged) => !is_live && self.config.im_servers.is_empty(),
            (true, passage) => passage != FrameDecision::Pass,
            (false, passage) => passage == FrameDecision::NotCharged,
        };
        if !is_right {
            self.violations
                .push(format!("call {number}: astray, from the server's endpoint {from_server}: {passage:?}"));
        }
    }
}
