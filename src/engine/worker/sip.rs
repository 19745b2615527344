//! SIP: what a process of the host says about INVITEs, their answers and their ends.

use super::{FIELD_MAX, Refused, Urgency, Worker};
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Direction, Event, InviteTransaction, Reserve};
use crate::engine::clock;
use crate::engine::config::Subscriber;
use crate::engine::facts::{Answer, Dialog, Invitation, Invite};
use crate::engine::grant::{Stream, StreamState};
use crate::engine::record::Record;
use crate::engine::statistic::Statistic;
use crate::wire::{identity, sdp, sip};
use std::str::from_utf8;
use std::sync::Arc;

impl Worker {
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
        let Some(at) = table.slot_of_session(region.name_of_session(session), session) else {
            region.count(Statistic::DroppedUnknown);
            return false;
        };
        let slot = &table.slots[at as usize];
        let (one, other) = (region.hash(&[dialog.from_tag]), region.hash(&[dialog.to_tag]));
        let by_inviting_side = slot.is_inviting_tag(one);
        let leg = if by_inviting_side { other } else { one };
        // In a repeated INVITE the sides may have changed places; who has the messages has not.
        let server_offers = (slot.direction() == Direction::Push) == by_inviting_side;
        let (server, client) = match server_offers {
            true => (answer.offer, answer.answer),
            false => (answer.answer, answer.offer),
        };
        let endpoint =
            |description| sdp::msrp_path(description).map_or(0, |path| region.hash_of_endpoint(&path.endpoint()));
        let (server, client) = (endpoint(server), endpoint(client));
        let stream = Stream { leg, position: 0, state: StreamState::Bound, server, client };
        let named = table.add_name(at, region.name_of_dialog(dialog.call_id, one, other));
        let bound = table.change_streams(at, session, |streams| {
            streams.retain(|stream| stream.leg != leg);
            if server != 0 {
                streams.push(stream);
            }
        });
        if named.is_err() || bound.is_err() {
            region.count(Statistic::DroppedTableFull);
        }
        self.push_or_count(session, Event::Answered);
        true
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
        let table = region.table();
        let early = |tag| {
            let name = region.name_of_early_dialogs(dialog.call_id, tag);
            table.slot_of_dialog(name, |slot| slot.is_inviting_tag(tag))
        };
        let confirmed = table.slot_of_dialog(region.name_of_dialog(dialog.call_id, one, other), |slot| {
            slot.is_inviting_tag(one) || slot.is_inviting_tag(other)
        });
        // An INVITE that was challenged leaves a slot with the same Call-ID and tag for a while: the answered one comes
        // first, and one with streams is not early any more.
        let unanswered = |at: &u32| table.streams(*at).is_empty();
        let at = confirmed.or_else(|| early(one).or_else(|| early(other)).filter(unanswered))?;
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
        // Another connection may speak for its side once the engine has read it.
        if connection != 0 && !self.push(&lost, 0, Urgency::Now) {
            self.region.count(Statistic::DroppedRingFull);
        }
    }
}

/// Call-ID of an INVITE whose fields can be carried.
fn call_id_of<'a>(invite: &Invite<'a>) -> Result<&'a str, Refused> {
    let Invitation { call_id, from_tag, .. } = invite.invitation;
    let fits = |field: &[u8]| (1..=FIELD_MAX).contains(&field.len());
    let call_id = from_utf8(call_id).ok().filter(|id| fits(id.as_bytes()) && fits(from_tag));
    call_id.ok_or(Refused::Malformed)
}
