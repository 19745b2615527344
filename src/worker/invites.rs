//! SIP: what a process of the host says about INVITEs and their ends. Answers and dialogs are in `dialogs`.

use super::{FIELD_MAX, InviteRefusal, Urgency, Worker};
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Direction, Event, InviteTransaction, Reserve};
use crate::config::{DirectionRule, Subscriber};
use crate::shm::clock;
use crate::shm::record::Record;
use crate::shm::statistic::Statistic;
use crate::wire::{identity, sip};
use crate::worker::sip_input::{Body, Dialog, Invite, InviteKey};
use std::str::from_utf8;

impl Worker {
    /// Whether [`Worker::reserve`] would take this INVITE now: a host asks before it suspends anything.
    /// `offer` is the body of the INVITE.
    pub fn can_reserve(&self, invite: &Invite<'_>, offer: &Body<'_>) -> Result<(), InviteRefusal> {
        call_id_of(invite)?;
        self.engine_takes_sessions()?;
        self.ring.has_room(self.ring.size() / 4).then_some(()).ok_or(InviteRefusal::Full)?;
        self.admits_offer(invite, offer)
    }

    /// Step 1. `Ok`: the event is in the ring, a verdict will come.
    pub fn reserve(&mut self, invite: &Invite<'_>) -> Result<SessionKey, InviteRefusal> {
        let result = self.try_reserve(invite);
        match result {
            Err(InviteRefusal::Malformed) => self.region.count(Statistic::DroppedMalformed),
            Err(InviteRefusal::Full | InviteRefusal::EngineDown | InviteRefusal::Bypass) | Ok(_) => {}
        }
        result
    }

    fn try_reserve(&mut self, invite: &Invite<'_>) -> Result<SessionKey, InviteRefusal> {
        let call_id = call_id_of(invite)?;
        self.engine_takes_sessions()?;
        let session = Self::session_of_invite(&invite.key);
        let direction = self.direction(invite);
        let preference = self.region.config.identity;
        let account = identity::preferred(&self.payer(invite, direction), preference).unwrap_or_default();
        let other = match direction {
            Direction::Pull => invite.request_uri,
            Direction::Push => identity::address(invite.from),
        };
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
            suspended: invite.suspended,
            inviting_tag: self.region.hash(&[invite.key.from_tag]),
        });
        match self.push_event(session, event, self.ring.size() / 4, Urgency::Now) {
            true => Ok(session),
            false => Err(InviteRefusal::Full),
        }
    }

    fn engine_takes_sessions(&self) -> Result<(), InviteRefusal> {
        if !self.region.engine_is_up() {
            return Err(InviteRefusal::EngineDown);
        }
        if self.region.statistic(Statistic::SessionsActive) >= u64::from(self.region.config.max_sessions) {
            self.region.count(Statistic::DroppedTableFull);
            return Err(InviteRefusal::Full);
        }
        if self.region.verdicts_are_late() {
            self.region.count(Statistic::DroppedResumeBusy);
            return Err(InviteRefusal::Full);
        }
        Ok(())
    }

    /// Whether the INVITE fetches messages or delivers them. P-Asserted-Identity decides only where it also names the
    /// payer: a script that names another one does not vouch for this header.
    pub(crate) fn direction(&self, invite: &Invite<'_>) -> Direction {
        let config = &self.region.config;
        let server = match (invite.direction, &config.direction) {
            (Some(direction), _) => return direction,
            (None, DirectionRule::Pull) => return Direction::Pull,
            (None, DirectionRule::Push) => return Direction::Push,
            (None, DirectionRule::Asserted) => None,
            (None, DirectionRule::Server(server)) => Some(server.as_str()),
        };
        let is_asserted = invite.subscriber.is_empty() && config.subscriber == Subscriber::Asserted;
        match is_asserted && identity::is_store_and_forward(&invite.asserted, server) {
            true => Direction::Push,
            false => Direction::Pull,
        }
    }

    /// The header values with the identity to charge. The called party is the Request-URI as received, unless
    /// P-Called-Party-ID preserves the one before (RFC 7315, 4.2): a script sets the Request-URI to route, to the contact
    /// of a device for example.
    fn payer<'a>(&self, invite: &Invite<'a>, direction: Direction) -> [&'a [u8]; 2] {
        let called = match invite.called_party {
            b"" => invite.request_uri,
            called => identity::address(called),
        };
        match (invite.subscriber, direction, &self.region.config.subscriber) {
            (b"", Direction::Push, _) => [called, b""],
            (b"", Direction::Pull, Subscriber::Asserted) => invite.asserted,
            (b"", Direction::Pull, Subscriber::From) => [identity::address(invite.from), b""],
            (chosen, _, _) => [chosen, b""],
        }
    }

    /// The INVITE ended without a 2xx.
    pub fn failed(&mut self, session: SessionKey, transaction: Option<InviteTransaction>, code: u16) {
        // Hosts report the end of every transaction, also of one that was answered.
        let is_answered = |at: u32| self.region.table().slots[at as usize].is_answered();
        if !self.slot_of(session).is_some_and(is_answered) {
            self.push_or_count(session, Event::Failed { code, transaction });
        }
    }

    /// CANCEL of the INVITE.
    pub fn cancelled(&mut self, session: SessionKey, transaction: Option<InviteTransaction>) {
        self.push_or_count(session, Event::Cancelled { transaction });
    }

    /// The session of the INVITE.
    pub fn session_of_invite(key: &InviteKey<'_>) -> SessionKey {
        SessionKey::new(key.call_id, key.from_tag, key.cseq)
    }

    /// The script closes the session now: that of the dialog, or the one that the INVITE with this CSeq number opens.
    /// `false`: not a charged session.
    pub fn end(&mut self, dialog: &Dialog<'_>, cseq: u32, reason: &[u8]) -> bool {
        let reason = from_utf8(reason).ok().filter(|reason| reason.len() <= FIELD_MAX).unwrap_or("script");
        let key = InviteKey { call_id: dialog.call_id, from_tag: dialog.from_tag, cseq };
        let session = self.session_of(dialog).or_else(|| {
            let session = Self::session_of_invite(&key);
            self.slot_of(session).map(|_| session)
        });
        session.is_some_and(|session| self.push_or_count(session, Event::End { reason }))
    }

    /// The slot of a session that is charged.
    pub(crate) fn slot_of(&self, session: SessionKey) -> Option<u32> {
        self.region.table().slot_of_session(self.region.name_of_session(session), session)
    }

    /// The host closed this connection.
    pub fn connection_lost(&mut self, connection: u64) {
        let lost = Record::ConnectionLost { at: clock::now(), connection };
        // Another connection may speak for its side once the engine has read it.
        if connection != 0 && !self.push(&lost, 0, Urgency::Now) {
            self.region.count(Statistic::DroppedRingFull);
        }
    }
}

/// Call-ID of an INVITE whose fields can be carried.
fn call_id_of<'a>(invite: &Invite<'a>) -> Result<&'a str, InviteRefusal> {
    let InviteKey { call_id, from_tag, .. } = invite.key;
    let fits = |field: &[u8]| (1..=FIELD_MAX).contains(&field.len());
    // RFC 3261, 25.1: what a Call-ID is made of. Operators' terminals show it.
    let is_word = |id: &&str| id.bytes().all(|octet| octet.is_ascii_graphic());
    let call_id = from_utf8(call_id).ok().filter(|id| fits(id.as_bytes()) && fits(from_tag)).filter(is_word);
    call_id.ok_or(InviteRefusal::Malformed)
}
