//! MSRP frames: which session they belong to, whether they pass, and what is reported to the engine.

use super::{FrameDecision, Urgency, Worker};
use crate::charge::ch2::SessionKey;
use crate::charge::content::ContentClass;
use crate::charge::event::{Event, FailureReport, Flag, Sent, Stop, transaction_hash};
use crate::charge::tariff::Weight;
use crate::shm::clock;
use crate::shm::gate::{Bound, Chunk, ChunkDecision, FrameSession, Side};
use crate::shm::log_limit::ONE_A_MINUTE;
use crate::shm::record::Record;
use crate::shm::statistic::Statistic;
use crate::simulate::{InjectedBug, crash_point, is_injected};
use crate::wire::msrp;
use crate::worker::content::Content;
use crate::worker::sip_input::Frame;
use std::sync::Arc;

impl Worker {
    /// Steps 5 and 10: decides about an MSRP frame before it is relayed.
    pub fn frame(&mut self, frame: &Frame<'_>) -> FrameDecision {
        self.frame_of(frame, None)
    }

    /// Decides about a response in a host that changes transaction ids when it relays requests: `request` is the id that the
    /// request was received with.
    pub fn response(&mut self, frame: &Frame<'_>, request: &[u8]) -> FrameDecision {
        self.frame_of(frame, Some(request))
    }

    /// A frame that [`Worker::frame`] has let pass could not be relayed: a SEND with content is not charged.
    pub fn unsent(&mut self, frame: &[u8]) {
        let Ok(parsed) = msrp::Frame::parse(frame) else { return };
        let bound = match self.session_of_frame(&parsed, self.ends(&parsed)) {
            FrameSession::Bound(bound) if bound.side == Side::Sender => bound,
            _ => return,
        };
        if let (Some(message_id), true) = (parsed.message_id, parsed.is_content()) {
            let transaction = transaction_hash(parsed.transaction_id.as_bytes());
            self.push_or_count(bound.session, Event::Unsent { message_id, transaction });
        }
    }

    /// Reports that a connection of the host was closed; 0: not known, ignored.
    pub fn connection_lost(&mut self, connection: u64) {
        let lost = Record::ConnectionLost { at: clock::now(), connection };
        // Once the engine has read this, the session's side may use another connection.
        if connection != 0 && !self.push(&lost, 0, Urgency::Now) {
            self.region.count(Statistic::DroppedRingFull);
        }
    }

    /// A request is relayed to this relay itself, since both parties use it: it will be received again.
    pub fn expect_again(&self, frame: &[u8]) {
        if let Ok(parsed) = msrp::Frame::parse(frame) {
            self.region.table().expect_again(self.hash_of_content(&parsed));
        }
    }

    /// Whether a request has passed before, compared by what a relay does not change.
    pub fn is_expected_again(&self, frame: &[u8]) -> bool {
        let parsed = msrp::Frame::parse(frame).ok();
        parsed.is_some_and(|parsed| self.region.table().is_expected_again(self.hash_of_content(&parsed)))
    }

    /// Hashes what a relay does not change.
    fn hash_of_content(&self, frame: &msrp::Frame<'_>) -> u64 {
        let ends = self.ends(frame);
        let range = frame
            .byte_range
            .map_or([0; 3], |range| [range.start, range.end.unwrap_or(u64::MAX), range.total.unwrap_or(u64::MAX)]);
        let numbers =
            [ends.from, ends.to, range[0], range[1], range[2], frame.flag as u64, frame.status.unwrap_or(0).into()];
        let numbers = numbers.map(u64::to_le_bytes);
        self.region.hash(&[
            b"again",
            numbers.as_flattened(),
            frame.message_id.unwrap_or_default().as_bytes(),
            frame.body.unwrap_or_default(),
        ])
    }

    fn frame_of(&mut self, frame: &Frame<'_>, request: Option<&[u8]>) -> FrameDecision {
        self.region.count(Statistic::Frames);
        let Ok(parsed) = msrp::Frame::parse(frame.bytes) else {
            self.region.count(Statistic::FramesMalformed);
            return FrameDecision::Malformed;
        };
        let decision = match parsed.start {
            msrp::Start::Response(code) => self.on_response(&parsed, code, frame, request),
            msrp::Start::Request(_) => {
                let ends = self.ends(&parsed);
                match self.session_of_frame(&parsed, ends) {
                    FrameSession::Bound(bound) => self.request(bound, &parsed, ends, frame),
                    FrameSession::Unbound { at, session } => self.stop_unbound(at, session, &parsed),
                    FrameSession::NotCharged => self.not_charged(&parsed, frame),
                }
            }
        };
        // Only frames of charged sessions are checked for invalid values.
        match decision {
            FrameDecision::Malformed => {
                self.region.count(Statistic::FramesMalformed);
                log::warn!(
                    target: ONE_A_MINUTE,
                    "a frame of a charged session from {} was stopped: it has no Message-ID, or a Message-ID, Byte-Range \
                     or Status that RFC 4975 does not allow (frames_malformed)",
                    address(frame)
                );
            }
            FrameDecision::Forged => self.region.count(Statistic::FramesForged),
            FrameDecision::NoSession => self.region.count(Statistic::FramesUnattributed),
            _ => {}
        }
        decision
    }

    fn ends(&self, frame: &msrp::Frame<'_>) -> Ends {
        let hash = |path: &msrp::Path<'_>| self.hash_of_endpoint(&path.endpoint());
        Ends { from: hash(&frame.from_path), to: hash(&frame.to_path) }
    }

    /// Finds the session of a request by both ends of its paths, or of a REPORT of a relay near the receiver by its
    /// destination.
    fn session_of_frame(&self, frame: &msrp::Frame<'_>, Ends { from, to }: Ends) -> FrameSession {
        let table = self.region.table();
        let is_report = frame.start == msrp::Start::Request(msrp::Method::Report);
        let side = if is_report { Side::Receiver } else { Side::Sender };
        match table.session_of_request(from, to, side) {
            FrameSession::NotCharged if is_report => {
                table.session_of_report(to).map_or(FrameSession::NotCharged, FrameSession::Bound)
            }
            FrameSession::NotCharged if frame.is_content() => table
                .session_of_receiver(to)
                .map_or(FrameSession::NotCharged, |(at, session)| FrameSession::Unbound { at, session }),
            found => found,
        }
    }

    /// A request between bound endpoints of a session.
    fn request(&mut self, bound: Bound, frame: &msrp::Frame<'_>, ends: Ends, came: &Frame<'_>) -> FrameDecision {
        if !self.is_believed(bound, came) {
            self.report_stop(bound.at, bound.session, frame.message_id, Stop::Forged);
            return FrameDecision::Forged;
        }
        if came.from_self {
            self.pass_again(bound, frame, ends);
            return FrameDecision::Pass;
        }
        if frame.bad_value.is_some() {
            return FrameDecision::Malformed;
        }
        match (bound.side, frame.start) {
            (Side::Sender, msrp::Start::Request(msrp::Method::Send)) if frame.is_content() => {
                self.decide_send(bound, frame, ends, came.connection)
            }
            (Side::Sender, msrp::Start::Request(msrp::Method::Send)) if frame.flag == msrp::Flag::Aborted => {
                if let Some(message_id) = frame.message_id {
                    self.push_or_count(bound.session, Event::Sent(sent(message_id, frame, 0, came.connection)));
                }
                FrameDecision::Pass
            }
            (Side::Receiver, msrp::Start::Request(msrp::Method::Report)) => {
                self.report(bound, frame);
                FrameDecision::Pass
            }
            // The session that charges it is over.
            (Side::Receiver, msrp::Start::Request(msrp::Method::Send))
                if frame.is_content() && self.is_paired(bound) =>
            {
                FrameDecision::BeyondGrant
            }
            _ => {
                self.activity(bound, came.connection);
                FrameDecision::Pass
            }
        }
    }

    /// A frame that has passed once and was charged. The receiver will answer the transaction id of this pass.
    fn pass_again(&mut self, bound: Bound, frame: &msrp::Frame<'_>, ends: Ends) {
        if let (Side::Sender, Some(message_id), true) = (bound.side, frame.message_id, frame.is_content()) {
            let transaction = transaction_hash(frame.transaction_id.as_bytes());
            let start = first_octet(frame);
            let octets = frame.content_octets();
            self.push_or_count(bound.session, Event::PassedAgain { message_id, transaction, start, octets });
            self.expect_response(bound.at, frame, ends);
        }
    }

    fn report(&mut self, bound: Bound, frame: &msrp::Frame<'_>) {
        let (Some(message_id), Some(code)) = (frame.message_id, frame.status) else { return };
        if self.may_push(bound.at) {
            let range = frame.byte_range;
            let start = range.map_or(1, |range| range.start);
            let end = range.and_then(|range| range.end.or(range.total));
            self.push_or_count(bound.session, Event::Reported { message_id, start, end, code });
        }
    }

    /// Reports activity of the session to the engine, at most once a second, and each new connection.
    fn activity(&mut self, bound: Bound, connection: u64) {
        let region = Arc::clone(&self.region);
        let slot = &region.table().slots[bound.at as usize];
        let is_new = bound.side == Side::Receiver && slot.set_receiver_connection(connection);
        if (slot.is_first_activity(second()) || is_new) && slot.may_push(second()) {
            self.push_or_count(bound.session, Event::Activity { connection });
        }
    }

    /// Whether content of the receiver is charged in another slot.
    fn is_paired(&self, bound: Bound) -> bool {
        self.region.table().slots[bound.at as usize].is_paired()
    }

    fn may_push(&self, at: u32) -> bool {
        self.region.table().slots[at as usize].may_push(second())
    }

    /// A response: of the receiver, or a relay near it, to a SEND that passed here, or of the sender.
    fn on_response(
        &mut self,
        frame: &msrp::Frame<'_>,
        code: u16,
        came: &Frame<'_>,
        request: Option<&[u8]>,
    ) -> FrameDecision {
        // The relay's response to itself is not the receiver's.
        if came.from_self {
            return FrameDecision::NotCharged;
        }
        let id = request.unwrap_or(frame.transaction_id.as_bytes());
        let from = self.hash_of_endpoint(&frame.from_path.endpoint());
        let region = Arc::clone(&self.region);
        let table = region.table();
        let of_receiver = table.expecting(self.hash_of_transaction(from, id));
        let mut believed = [None; SHARED_MAX];
        for (place, bound) in believed.iter_mut().zip(of_receiver.chain(table.sessions_of_response(from))) {
            let is_paid_by_sender = table.slots[bound.at as usize].is_paid_by_sender();
            if self.is_response_believed(bound, code, came) {
                *place = Some(bound);
            } else if !(is_paid_by_sender && is_success(code) && bound.side == Side::Sender) {
                self.report_stop(bound.at, bound.session, None, Stop::Forged);
                return FrameDecision::Forged;
            }
        }
        let mut decision = FrameDecision::NotCharged;
        for bound in believed.into_iter().flatten() {
            self.response_of(bound, id, code, came);
            decision = FrameDecision::Pass;
        }
        decision
    }

    /// Whether a response comes from the side that it claims. Of two parties that both pay, the one that has sent the request
    /// may pose as the other: with a failure, which releases, it says nothing about whose connection this is.
    fn is_response_believed(&mut self, bound: Bound, code: u16, came: &Frame<'_>) -> bool {
        let slot = &self.region.table().slots[bound.at as usize];
        let is_weak = bound.side == Side::Sender && !is_success(code) && slot.is_paid_by_sender();
        if is_weak && came.connection != 0 {
            let known = slot.sender_connection(bound.leg);
            return known == 0 || known == came.connection || came.connections.is_open(known) == Some(false);
        }
        self.is_believed(bound, came)
    }

    fn response_of(&mut self, bound: Bound, id: &[u8], code: u16, came: &Frame<'_>) {
        match bound.side {
            Side::Sender => self.activity(bound, came.connection),
            Side::Receiver if self.may_push(bound.at) => {
                let event = Event::Responded { transaction: transaction_hash(id), code, connection: came.connection };
                self.push_or_count(bound.session, event);
            }
            Side::Receiver => {}
        }
    }

    /// Whether a frame comes from the side that it claims: checked by its connection, or by its source address if the
    /// operator has configured those of the IM servers.
    fn is_believed(&mut self, bound: Bound, came: &Frame<'_>) -> bool {
        if came.from_self || came.connection == 0 || is_injected(InjectedBug::SenderByPathAlone) {
            return true;
        }
        let region = Arc::clone(&self.region);
        let slot = &region.table().slots[bound.at as usize];
        let servers = &region.config.im_servers;
        // A sender that pays is a subscriber.
        let is_by_address = !servers.is_empty() && !slot.is_paid_by_sender();
        if bound.side == Side::Receiver {
            let is_checked = !(slot.is_paid_by_sender() && is_injected(InjectedBug::OwnFailureBelieved));
            let is_senders = is_checked && !is_by_address && slot.is_sender_connection(came.connection);
            if !is_senders {
                slot.set_receiver_connection(came.connection);
            }
            return !is_senders;
        }
        let known = slot.sender_connection(bound.leg);
        if known == came.connection {
            return true;
        }
        let may_speak = match is_by_address {
            false => {
                let is_gone = known == 0 || came.connections.is_open(known) == Some(false);
                is_gone && slot.receiver_connection() != came.connection && !self.has_sent_for_other(bound, came)
            }
            true => came.source.is_some_and(|source| servers.contains(source)),
        };
        // Messages in transit on a lost connection are settled before frames of the new one are believed. A sender that is
        // identified by its address may use several connections at a time.
        let is_lost = known != 0 && !is_by_address;
        let lost = Event::ConnectionLost { connection: known };
        if !may_speak || is_lost && !self.push_or_count(bound.session, lost) {
            return false;
        }
        let is_believed = slot.replace_sender_connection(bound.leg, known, came.connection)
            || slot.sender_connection(bound.leg) == came.connection;
        // So that the engine knows which connection's loss ends the session's messages.
        self.push_or_count(bound.session, Event::Activity { connection: came.connection });
        is_believed || is_by_address
    }

    /// Whether the connection is known as that of the other party, which pays for what it sends in the other session of the
    /// INVITE.
    fn has_sent_for_other(&self, bound: Bound, came: &Frame<'_>) -> bool {
        let other = if self.is_paired(bound) { self.slot_of(bound.session.companion()) } else { None };
        other.is_some_and(|at| self.region.table().slots[at as usize].is_sender_connection(came.connection))
    }

    /// A request of no session. Content from an IM server is stopped, whatever the script does.
    fn not_charged(&mut self, frame: &msrp::Frame<'_>, came: &Frame<'_>) -> FrameDecision {
        let is_servers = came.source.is_some_and(|source| self.region.config.im_servers.contains(source));
        if !is_servers || came.from_self || !frame.is_content() {
            return FrameDecision::NotCharged;
        }
        log::warn!(
            target: ONE_A_MINUTE,
            "message {} from the IM server {} was stopped: it belongs to no session, or to one that is over \
             (frames_unattributed)",
            frame.message_id.unwrap_or("without a Message-ID"),
            address(came)
        );
        FrameDecision::NoSession
    }

    /// A request from an endpoint of a charged session that belongs to none of its streams: stopped.
    fn stop_unbound(&mut self, at: u32, session: SessionKey, frame: &msrp::Frame<'_>) -> FrameDecision {
        if frame.is_content() {
            self.report_stop(at, session, frame.message_id, Stop::NoStream);
        }
        FrameDecision::NoSession
    }

    /// Reports a stopped frame to the engine, at a limited rate for each session.
    fn report_stop(&mut self, at: u32, session: SessionKey, message_id: Option<&str>, why: Stop) {
        if self.region.table().slots[at as usize].may_report(second()) {
            let message_id = message_id.unwrap_or("");
            self.push_event(session, Event::Stopped { message_id, why, quota: 0 }, 0, Urgency::Soon);
        }
    }

    /// Decides about a SEND with content from the sender's side: asks the gate, and reports the result to the engine.
    fn decide_send(&mut self, bound: Bound, frame: &msrp::Frame<'_>, ends: Ends, connection: u64) -> FrameDecision {
        let Some(message_id) = frame.message_id else { return FrameDecision::Malformed };
        // Room first: units that the gate takes must be reported to the engine. A quarter of the ring stays free for the
        // end of sessions.
        let spare = self.ring.size() / 4;
        if !self.ring.has_room(spare) || !self.may_push(bound.at) {
            self.region.count(Statistic::DroppedRingFull);
            return FrameDecision::Full;
        }
        let region = Arc::clone(&self.region);
        let (table, Bound { at, session, .. }) = (region.table(), bound);
        let chunk = self.chunk(bound, message_id, frame);
        let sent = Sent { file_octets: chunk.file_octets, ..sent(message_id, frame, 0, connection) };
        let decision = table.decide(at, session, &chunk);
        crash_point();
        let stop = match decision {
            ChunkDecision::Charged { amount, left, class, free_octets } => {
                let weight = table.slots[at as usize].weight(class);
                let urgency = if must_wake_engine(weight, left, amount) { Urgency::Now } else { Urgency::Soon };
                self.push_event(session, Event::Sent(Sent { taken: amount, class, free_octets, ..sent }), 0, urgency);
                self.expect_response(at, frame, ends);
                return FrameDecision::Pass;
            }
            ChunkDecision::AlreadyPaid { class, free_octets } => {
                self.push_event(session, Event::Sent(Sent { class, free_octets, ..sent }), 0, Urgency::Soon);
                self.expect_response(at, frame, ends);
                return FrameDecision::Pass;
            }
            ChunkDecision::Free => {
                region.count(Statistic::FramesFree);
                self.activity(bound, connection);
                return FrameDecision::Pass;
            }
            ChunkDecision::BeyondGrant => Stop::Beyond,
            ChunkDecision::LeaseOver => {
                region.count(Statistic::FramesLeaseOver);
                Stop::LeaseOver
            }
            ChunkDecision::MessageStopped => Stop::Message,
            ChunkDecision::Full => Stop::Share,
        };
        let quota = match stop {
            Stop::Beyond => table.slots[at as usize].weight(chunk.class).of_octets(chunk.octets + chunk.file_octets).0,
            _ => 0,
        };
        // The first stop of a message may end it, so it is reported however many others were.
        if stop != Stop::Message || table.slots[at as usize].may_report(second()) {
            self.push_event(session, Event::Stopped { message_id, why: stop, quota }, spare, Urgency::Now);
        }
        match stop {
            Stop::Share => {
                region.count(Statistic::DroppedTableFull);
                FrameDecision::Full
            }
            _ => FrameDecision::BeyondGrant,
        }
    }

    /// Describes a SEND with content to the gate. Content of a file's stream is of the class `file`, whatever its media type.
    /// Counts it if its media type, or the size of the file that it announces, is unknown.
    fn chunk(&self, bound: Bound, message_id: &str, frame: &msrp::Frame<'_>) -> Chunk {
        let Bound { at, session, is_file, .. } = bound;
        let (start, octets) = (first_octet(frame), frame.content_octets());
        let (content, free) = Content::of_frame(&self.region.config, frame, start == 1);
        let slot = &self.region.table().slots[at as usize];
        // The size of a file elsewhere is what the sender states: it costs no other party more than what passes.
        let has_believed_size = slot.is_by_size() && slot.is_paid_by_sender();
        let is_document = !is_file && content.class == ContentClass::File && has_believed_size;
        let file = if is_document { Content::file_of_frame(&self.region.config, frame) } else { None };
        let extra = |file| Content::extra_octets(&self.region, file, octets, &format!("message {message_id}"));
        if let (1, Some(why), false) = (start, content.unknown, is_file) {
            self.region.count(Statistic::FramesUnclassified);
            log::warn!(
                target: ONE_A_MINUTE,
                "message {message_id} is charged as content of unknown type: {why} (frames_unclassified)"
            );
        }
        Chunk {
            message: self.region.hash_of_message(session, message_id),
            start,
            octets,
            file_octets: file.map_or(0, extra),
            is_last: frame.flag != msrp::Flag::More,
            class: if is_file { ContentClass::File } else { content.class },
            free: free.filter(|_| !is_injected(InjectedBug::FreeContentCharged)),
        }
    }

    /// Records the transaction of a SEND: a response names neither its message nor, if a relay near the receiver sends it, its
    /// session (RFC 4975, 7.2). The next hop responds, or the receiver if relays forward responses.
    fn expect_response(&self, at: u32, frame: &msrp::Frame<'_>, ends: Ends) {
        let relay = frame.to_path.hop_after_this().map(|relay| self.hash_of_endpoint(&relay));
        for responder in relay.into_iter().chain([ends.to]) {
            self.region
                .table()
                .expect_response(at, self.hash_of_transaction(responder, frame.transaction_id.as_bytes()));
        }
    }

    /// Hashes a transaction and the party that answers it.
    fn hash_of_transaction(&self, responder: u64, id: &[u8]) -> u64 {
        self.region.hash(&[b"transaction", &responder.to_le_bytes(), id])
    }
}

/// Hashes of the endpoints of a frame's paths.
#[derive(Clone, Copy)]
struct Ends {
    from: u64,
    to: u64,
}

/// The source of a frame, for the log.
fn address(came: &Frame<'_>) -> String {
    came.source.map_or_else(|| "an unknown address".to_owned(), |source| source.to_string())
}

/// Maximum number of sessions with the same endpoint that a response is checked against.
const SHARED_MAX: usize = 8;

/// Whether the status of a response is a success.
fn is_success(code: u16) -> bool {
    (200..300).contains(&code)
}

/// The current second, for rate limits.
fn second() -> u32 {
    (clock::now().0 / 1_000_000) as u32
}

/// Position of the first octet of a chunk, from 1.
fn first_octet(frame: &msrp::Frame<'_>) -> u64 {
    frame.byte_range.map_or(1, |range| range.start.max(1))
}

/// The event of a SEND.
fn sent<'a>(message_id: &'a str, frame: &msrp::Frame<'a>, taken: u32, connection: u64) -> Sent<'a> {
    let start = first_octet(frame);
    Sent {
        message_id,
        transaction: transaction_hash(frame.transaction_id.as_bytes()),
        start,
        octets: frame.content_octets() + if is_injected(InjectedBug::QuantityByPosition) { start - 1 } else { 0 },
        file_octets: 0,
        total: frame
            .byte_range
            .and_then(|range| range.total)
            .filter(|_| !is_injected(InjectedBug::EndOfMessageUnreported)),
        flag: match frame.flag {
            msrp::Flag::Last if is_injected(InjectedBug::EndOfMessageUnreported) => Flag::More,
            msrp::Flag::Last => Flag::Last,
            msrp::Flag::More => Flag::More,
            msrp::Flag::Aborted => Flag::Aborted,
        },
        failure_report: match frame.failure_report {
            msrp::FailureReport::Yes => FailureReport::Yes,
            msrp::FailureReport::Partial => FailureReport::Partial,
            msrp::FailureReport::No => FailureReport::No,
        },
        success_report: frame.success_report,
        taken,
        class: ContentClass::Other,
        free_octets: 0,
        connection,
    }
}

/// Whether the engine must be woken after a frame has taken units: it may have to request more, and a fast sender sends a
/// hundred messages before the engine's next tick. Every 32 messages, every 8 if few are left or their size has a price
/// (then of 16 kilobytes each), and when less than one is left.
fn must_wake_engine(weight: Weight, left: u32, amount: u32) -> bool {
    let messages = |count: u32| weight.of_kilobytes(16).0.saturating_mul(count).max(1);
    if left < weight.of_octets(0).0 {
        return true;
    }
    let step = if weight.kilobyte == 0 && left >= messages(32) { messages(32) } else { messages(8) };
    left / step != left.saturating_add(amount) / step
}
