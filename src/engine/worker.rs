//! What a process of the host calls. Nothing here waits: a hook reads the message, copies a bounded record into
//! the process's own ring, wakes the engine only if it sleeps and someone waits for it, and goes on.
//!
//! Two things cannot wait for the engine and are done here: the MSRP sessions are bound to their slot before the
//! 200 OK goes on, and the gate is decided on the slot's counters.

use super::clock;
use super::config::Subscriber;
use super::facts::{Answer, Dialog, Frame, Invitation, Invite};
use super::grant::{Binding, Bound, Pass, Side, Slot};
use super::record::{Command, CommandResult, Record};
use super::region::Region;
use super::ring::Ring;
use super::statistic::Statistic;
use crate::charge::ch2::SessionKey;
use crate::charge::event::{
    Direction, Entry, Event, FailureReport, Flag, InviteTransaction, Reserve, Sent, transaction,
};
use crate::charge::tariff::Per;
use crate::simulate::moment;
use crate::wire::{identity, msrp, sdp, sip};
use std::str::from_utf8;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The longest Call-ID, tag or ICID that is taken.
const FIELD_MAX: usize = 256;

/// How long an operator's command waits for the engine.
const COMMAND_PATIENCE: Duration = Duration::from_secs(1);

/// One host process's way to the engine: its event ring and the grant table.
pub struct Worker {
    region: Arc<Region>,
    ring: Ring,
    head: u64,
    process: usize,
    sequence: u64,
}

/// Why an INVITE was not taken; the number is what the script gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Refused {
    /// Wrong use: no Call-ID, no From tag, or a field too long.
    Malformed = -1,
    /// The engine does not run.
    EngineDown = -2,
    /// The ring of this process or the table of sessions is full, or all resume workers are stuck or too far behind.
    Full = -3,
}

/// What becomes of an MSRP frame; the number is what the script gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i32)]
pub enum Passage {
    /// Goes on; it belongs to a charged session.
    Pass = 1,
    /// Goes on; it belongs to none.
    NotCharged = 2,
    /// Must not go on: beyond the grant.
    BeyondGrant = -1,
    /// Must not go on: no MSRP frame, or content without a Message-ID.
    Malformed = -2,
    /// Must not go on: the ring of this process or a table is full.
    Full = -3,
}

/// Who waits for an event to be read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Urgency {
    /// Somebody waits for what comes of it: wake the engine.
    Now,
    /// The engine's next turn is soon enough.
    Soon,
}

impl Worker {
    /// Attaches this process, after fork, to event ring `index` (0..processes). No other process may have the same.
    pub fn attach(region: &Arc<Region>, index: usize) -> Worker {
        region.populate();
        let ring = region.event_ring(index);
        let sequence = region.reply_slot(index).sequence.load(Ordering::Acquire);
        Worker { region: Arc::clone(region), ring, head: ring.head(), process: index, sequence }
    }

    /// The region it is attached to.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Whether [`Worker::reserve`] would take this INVITE now: a host asks before it suspends anything.
    pub fn can_reserve(&self, invite: &Invite<'_>) -> Result<(), Refused> {
        call_id_of(invite)?;
        self.engine_takes_sessions()?;
        self.has_room(self.ring.size() / 4).then_some(()).ok_or(Refused::Full)
    }

    /// Step 1. `Ok`: the event is in the ring, a verdict will come.
    pub fn reserve(&mut self, invite: &Invite<'_>) -> Result<SessionKey, Refused> {
        let result = self.try_reserve(invite);
        match result {
            Err(Refused::Malformed) => self.region.count(Statistic::DroppedMalformed),
            Err(Refused::Full | Refused::EngineDown) | Ok(_) => {}
        }
        result
    }

    fn try_reserve(&mut self, invite: &Invite<'_>) -> Result<SessionKey, Refused> {
        let call_id = call_id_of(invite)?;
        self.engine_takes_sessions()?;
        let session = Self::session_of_invitation(&invite.invitation);
        let direction = match identity::is_store_and_forward(&invite.asserted) {
            true => Direction::Push,
            false => Direction::Pull,
        };
        let preference = self.region.config.identity;
        let account = identity::preferred(&self.payer(invite, direction), preference).unwrap_or_default();
        let other = match direction {
            Direction::Pull => invite.request_uri,
            Direction::Push => invite.from,
        };
        let host = invite.suspended;
        let event = Event::Reserve(Reserve {
            call_id,
            account: &account,
            other: &identity::canonical(other).unwrap_or_default(),
            icid: from_utf8(sip::icid(invite.charging_vector))
                .ok()
                .filter(|icid| icid.len() <= FIELD_MAX)
                .unwrap_or_default(),
            direction,
            messages: invite.messages,
            carried: [host.index, host.label, host.route, self.region.hash(&[invite.invitation.from_tag])],
        });
        match self.push_event(session, event, self.ring.size() / 4, Urgency::Now) {
            true => Ok(session),
            false => Err(Refused::Full),
        }
    }

    fn engine_takes_sessions(&self) -> Result<(), Refused> {
        if !self.region.engine_is_up() {
            return Err(Refused::EngineDown);
        }
        if self.region.statistic(Statistic::SessionsActive) >= u64::from(self.region.config.max_sessions) {
            self.region.count(Statistic::DroppedTableFull);
            return Err(Refused::Full);
        }
        if self.region.verdicts_are_late() {
            self.region.count(Statistic::DroppedResumeBusy);
            return Err(Refused::Full);
        }
        Ok(())
    }

    /// The header values with the identity to charge.
    fn payer<'a>(&self, invite: &Invite<'a>, direction: Direction) -> [&'a [u8]; 2] {
        let called = match invite.called_party {
            b"" => invite.request_uri,
            called => called,
        };
        match (invite.subscriber, direction, &self.region.config.subscriber) {
            (b"", Direction::Push, _) => [called, b""],
            (b"", Direction::Pull, Subscriber::Asserted) => invite.asserted,
            (b"", Direction::Pull, Subscriber::From) => [invite.from, b""],
            (chosen, _, _) => [chosen, b""],
        }
    }

    /// Step 4: a 2xx to an INVITE, or to a repeated one in the dialog. Binds the MSRP sessions of both
    /// descriptions; call it before the reply goes on. `false`: not a charged session.
    pub fn answered(&mut self, session: SessionKey, answer: &Answer<'_>) -> bool {
        let dialog = answer.dialog;
        let region = Arc::clone(&self.region);
        let table = region.table();
        let call = region.hash(&[dialog.call_id]);
        let Some(at) = table.slot_of(call, |slot| slot.session() == Some(session)) else {
            region.count(Statistic::DroppedUnknown);
            return false;
        };
        let slot = &table.slots[at as usize];
        let by_inviting_side = slot.is_inviting_tag(region.hash(&[dialog.from_tag]));
        if by_inviting_side {
            slot.set_answering_tag(region.hash(&[dialog.to_tag]));
        }
        // In a repeated INVITE the sides may have changed places; who has the messages has not.
        let server_offers = (slot.direction() == Direction::Push) == by_inviting_side;
        let (server, client) = match server_offers {
            true => (answer.offer, answer.answer),
            false => (answer.answer, answer.offer),
        };
        let (server, server_relay) = self.path_hashes(server);
        let (client, client_relay) = self.path_hashes(client);
        if !table.bind(at, Binding { server, client, server_relay, client_relay }) {
            region.count(Statistic::DroppedTableFull);
        }
        self.push_or_count(session, Event::Answered);
        true
    }

    /// Hashes of the endpoint's own MSRP session id, and of the relay's before it.
    fn path_hashes(&self, description: &[u8]) -> (u64, u64) {
        let Some(path) = sdp::msrp_path(description) else { return (0, 0) };
        let hash = |uri: msrp::Uri<'_>| self.region.hash(&[uri.session_id.as_bytes()]);
        (hash(path.endpoint()), path.relay().map_or(0, hash))
    }

    /// The INVITE ended without a 2xx.
    pub fn failed(&mut self, session: SessionKey, transaction: Option<InviteTransaction>, code: u16) {
        self.push_or_count(session, Event::Failed { code, transaction });
    }

    /// CANCEL of the INVITE.
    pub fn cancelled(&mut self, session: SessionKey, transaction: Option<InviteTransaction>) {
        self.push_or_count(session, Event::Cancelled { transaction });
    }

    /// The charged session of this dialog, if it is one. Tags may stand in either order. Cheap: no copy.
    pub fn session_of(&self, dialog: &Dialog<'_>) -> Option<SessionKey> {
        let region = &self.region;
        let (one, other) = (region.hash(&[dialog.from_tag]), region.hash(&[dialog.to_tag]));
        let (table, call) = (region.table(), region.hash(&[dialog.call_id]));
        // An INVITE that was challenged leaves a slot with the same Call-ID and tag behind for a while: the
        // answered one comes first.
        let answered = table.slot_of(call, |slot| slot.has_tags(one, other));
        let at = answered.or_else(|| table.slot_of(call, |slot| slot.has_early_tag(one, other)))?;
        table.slots[at as usize].session()
    }

    /// The session of the INVITE.
    pub fn session_of_invitation(invitation: &Invitation<'_>) -> SessionKey {
        SessionKey::of(invitation.call_id, invitation.from_tag, invitation.cseq)
    }

    /// Step 11: BYE. `false`: not a charged session.
    pub fn bye(&mut self, dialog: &Dialog<'_>) -> bool {
        let session = self.session_of(dialog);
        session.is_some_and(|session| self.push_or_count(session, Event::Bye))
    }

    /// The script closes the session now. `false`: not a charged session.
    pub fn end(&mut self, dialog: &Dialog<'_>, reason: &[u8]) -> bool {
        let reason = from_utf8(reason).ok().filter(|reason| reason.len() <= FIELD_MAX).unwrap_or("script");
        let session = self.session_of(dialog);
        session.is_some_and(|session| self.push_or_count(session, Event::End { reason }))
    }

    /// The host closed this connection.
    pub fn connection_lost(&mut self, connection: u64) {
        let lost = Record::ConnectionLost { at: clock::now(), connection };
        if connection != 0 && !self.push(&lost, 0, Urgency::Soon) {
            self.region.count(Statistic::DroppedRingFull);
        }
    }

    /// Steps 5 and 10: an MSRP frame, before it is relayed.
    pub fn frame(&mut self, frame: &Frame<'_>) -> Passage {
        self.frame_of(frame, None)
    }

    /// A response, where the host gives a request another transaction id as it sends it on: `request` is the id that the
    /// request came with.
    pub fn response(&mut self, frame: &Frame<'_>, request: &[u8]) -> Passage {
        self.frame_of(frame, Some(request))
    }

    /// A frame that [`Worker::frame`] let pass could not be sent on: a SEND with content costs nothing then.
    pub fn unsent(&mut self, frame: &[u8]) {
        let Ok(parsed) = msrp::Frame::parse(frame) else { return };
        let region = Arc::clone(&self.region);
        let bound = bound(&region, &parsed).filter(|bound| bound.side == Side::Server);
        if let (Some(bound), Some(message_id), true) = (bound, parsed.message_id, parsed.is_content()) {
            let transaction = transaction(parsed.transaction_id.as_bytes());
            self.push_or_count(bound.session, Event::Unsent { message_id, transaction });
        }
    }

    fn frame_of(&mut self, frame: &Frame<'_>, request: Option<&[u8]>) -> Passage {
        self.region.count(Statistic::Frames);
        let Ok(parsed) = msrp::Frame::parse(frame.bytes) else {
            self.region.count(Statistic::FramesMalformed);
            return Passage::Malformed;
        };
        let region = Arc::clone(&self.region);
        let Some(Bound { at, session, side }) = bound(&region, &parsed) else { return Passage::NotCharged };
        let slot = &region.table().slots[at as usize];
        match (side, parsed.start) {
            (Side::Server, msrp::Start::Request(msrp::Method::Send)) if parsed.is_content() => {
                self.content(at, slot, session, &parsed, frame.connection)
            }
            (Side::Server, msrp::Start::Request(msrp::Method::Send)) if parsed.flag == msrp::Flag::Aborted => {
                let Some(message_id) = parsed.message_id else { return Passage::Pass };
                self.push_or_count(session, Event::Sent(sent(message_id, &parsed, 0, frame.connection)));
                Passage::Pass
            }
            (Side::Client, msrp::Start::Response(code)) if !frame.from_self => {
                let transaction = transaction(request.unwrap_or(parsed.transaction_id.as_bytes()));
                self.push_or_count(session, Event::Responded { transaction, code, connection: frame.connection });
                Passage::Pass
            }
            (Side::Client, msrp::Start::Request(msrp::Method::Report)) => {
                if let (Some(message_id), Some(code)) = (parsed.message_id, parsed.status) {
                    let range = parsed.byte_range;
                    let start = range.map_or(1, |range| range.start);
                    let end = range.and_then(|range| range.end.or(range.total));
                    self.push_or_count(session, Event::Reported { message_id, start, end, code });
                }
                Passage::Pass
            }
            _ => {
                self.push_or_count(session, Event::Moved { connection: frame.connection });
                Passage::Pass
            }
        }
    }

    /// A SEND with content from the server's side: the gate.
    fn content(
        &mut self,
        at: u32,
        slot: &Slot,
        session: SessionKey,
        frame: &msrp::Frame<'_>,
        connection: u64,
    ) -> Passage {
        let Some(message_id) = frame.message_id else {
            self.region.count(Statistic::FramesMalformed);
            return Passage::Malformed;
        };
        // Room first: what the gate has taken must be told to the engine.
        let spare = self.ring.size() / 4;
        if !self.has_room(spare) {
            self.region.count(Statistic::DroppedRingFull);
            return Passage::Full;
        }
        let region = Arc::clone(&self.region);
        let table = region.table();
        let sent = sent(message_id, frame, 0, connection);
        let (amount, part) = match slot.per() {
            Per::Message => (1, [0, 0]),
            Per::Kilobyte => (kilobytes(sent.start, sent.octets), [sent.start, sent.octets]),
        };
        let [start, octets] = part;
        let hash = region.hash(&[message_id.as_bytes(), &words([u64::from(at), session.0, session.1, start, octets])]);
        let passed = table.pass(at, session, hash, amount);
        moment();
        match passed {
            Pass::Taken { left } => {
                let urgency = if is_to_be_told(slot.per(), left, amount) { Urgency::Now } else { Urgency::Soon };
                self.push_event(session, Event::Sent(Sent { taken: amount, ..sent }), 0, urgency);
                Passage::Pass
            }
            Pass::Before => {
                self.push_event(session, Event::Sent(sent), 0, Urgency::Soon);
                Passage::Pass
            }
            Pass::Beyond => {
                self.push_event(session, Event::Stopped { message_id }, spare, Urgency::Now);
                Passage::BeyondGrant
            }
            Pass::Full => {
                region.count(Statistic::DroppedTableFull);
                Passage::Full
            }
        }
    }

    /// Sends an operator's command to the engine and waits, one second at most, until it is committed.
    /// `None`: the engine does not answer. Only for processes that an operator talks to.
    pub fn command(&mut self, command: Command<'_>) -> Option<(CommandResult, i64, i64)> {
        let sequence = self.order(command)?;
        let slot = self.region.reply_slot(self.process);
        let asked = Instant::now();
        while slot.sequence.load(Ordering::Acquire) < sequence {
            if asked.elapsed() > COMMAND_PATIENCE {
                return None;
            }
            std::thread::sleep(Duration::from_micros(100));
        }
        let result = CommandResult::from_code(slot.code.load(Ordering::Relaxed));
        Some((result, slot.balance.load(Ordering::Relaxed), slot.held.load(Ordering::Relaxed)))
    }

    /// The same without the wait; its number. `None`: there is no room.
    pub fn order(&mut self, command: Command<'_>) -> Option<u64> {
        self.sequence += 1;
        let (process, sequence) = (self.process as u32, self.sequence);
        let record = Record::Command { at: clock::now(), process, sequence, command };
        if !self.push(&record, 0, Urgency::Now) {
            self.region.count(Statistic::DroppedRingFull);
            return None;
        }
        Some(sequence)
    }

    /// Whether a record would find room, with so much to spare.
    fn has_room(&self, spare: usize) -> bool {
        self.ring.write_at(self.head, spare, |_| None).is_ok()
    }

    /// An event that nobody can be told about if it has no room: counted then.
    fn push_or_count(&mut self, session: SessionKey, event: Event<'_>) -> bool {
        self.push_event(session, event, 0, Urgency::Soon)
    }

    fn push_event(&mut self, session: SessionKey, event: Event<'_>, spare: usize, urgency: Urgency) -> bool {
        let record = Record::Event(Entry { session, at: clock::now(), event });
        let pushed = self.push(&record, spare, urgency);
        if !pushed {
            self.region.count(Statistic::DroppedRingFull);
        }
        pushed
    }

    fn push(&mut self, record: &Record<'_>, spare: usize, urgency: Urgency) -> bool {
        let written = self
            .ring
            .write_at(self.head, spare, |space| postcard::to_slice(record, space).ok().map(|written| written.len()));
        let Ok(Some(head)) = written else { return false };
        self.head = head;
        moment();
        self.ring.publish(head);
        moment();
        if urgency == Urgency::Now || self.ring.used() > self.ring.size() / 2 {
            self.region.wake_engine();
        }
        true
    }
}

/// Call-ID of an INVITE whose fields can be carried.
fn call_id_of<'a>(invite: &Invite<'a>) -> Result<&'a str, Refused> {
    let Invitation { call_id, from_tag, .. } = invite.invitation;
    let fits = |field: &[u8]| (1..=FIELD_MAX).contains(&field.len());
    let call_id = from_utf8(call_id).ok().filter(|id| fits(id.as_bytes()) && fits(from_tag));
    call_id.ok_or(Refused::Malformed)
}

/// The bound session of a frame, by the session id of whoever made it: the rightmost URI of its From-Path. A
/// response that a relay made has only that relay's.
fn bound(region: &Region, frame: &msrp::Frame<'_>) -> Option<Bound> {
    let hash = |path: &msrp::Path<'_>| region.hash(&[path.endpoint().session_id.as_bytes()]);
    let from = hash(&frame.from_path);
    let table = region.table();
    let bound = table.bound(from)?;
    if let msrp::Start::Response(_) = frame.start {
        return Some(bound);
    }
    // A request has both ends in its paths: a session that shares one of them is not this one.
    let to = hash(&frame.to_path);
    let binding = table.slots[bound.at as usize].binding();
    let other = match bound.side {
        Side::Server => binding.client,
        Side::Client => binding.server,
    };
    (other == 0 || other == to).then_some(bound)
}

/// What the engine hears of a SEND.
fn sent<'a>(message_id: &'a str, frame: &msrp::Frame<'a>, taken: u32, connection: u64) -> Sent<'a> {
    Sent {
        message_id,
        transaction: transaction(frame.transaction_id.as_bytes()),
        start: frame.byte_range.map_or(1, |range| range.start.max(1)),
        octets: frame.content_octets(),
        total: frame.byte_range.and_then(|range| range.total),
        flag: match frame.flag {
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
        connection,
    }
}

/// Whether the engine is woken for what a frame has taken: it may have to ask for more, and until its next turn a fast
/// server sends a hundred messages. Once in 32 messages, in 8 where few are left, and when none is.
fn is_to_be_told(per: Per, left: u32, amount: u32) -> bool {
    let step = match (per, left) {
        (_, 0) => return true,
        (Per::Message, ..32) => 8,
        (Per::Message, _) => 32,
        (Per::Kilobyte, _) => 128,
    };
    left / step != left.saturating_add(amount) / step
}

/// Kilobytes that a chunk starts: over the chunks of a message they add up to the kilobytes of the message.
fn kilobytes(start: u64, octets: u64) -> u32 {
    let before = (start - 1).div_ceil(1024);
    let after = (start - 1).saturating_add(octets).div_ceil(1024);
    let least = u64::from(start == 1);
    u32::try_from((after - before).max(least)).unwrap_or(u32::MAX)
}

/// The octets of numbers, to be hashed at once.
fn words(numbers: [u64; 5]) -> [u8; 40] {
    let mut octets = [0; 40];
    for (place, number) in octets.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    octets
}

#[cfg(test)]
mod tests {
    use super::kilobytes;

    #[test]
    fn kilobytes_of_chunks_add_up_to_those_of_the_message() {
        for chunk in [1u64, 100, 1023, 1024, 1025, 2048, 5000] {
            for size in [1u64, 1023, 1024, 1025, 4096, 10_001] {
                let starts = (0..size).step_by(chunk as usize);
                let sum: u32 = starts.map(|at| kilobytes(at + 1, chunk.min(size - at))).sum();
                assert_eq!(u64::from(sum), size.div_ceil(1024), "chunks of {chunk} in {size}");
            }
        }
        assert_eq!(kilobytes(1, 0), 1);
        assert_eq!(kilobytes(u64::MAX, u64::MAX), 0);
    }
}
