//! INVITEs: reservation, failure, CANCEL, and the end of a session. Replies and dialogs are in `dialogs`.

use super::{FIELD_MAX, InviteRefusal, Urgency, Worker};
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Direction, Event, OfferedFiles, PageContent, Reserve, ServerTransaction};
use crate::charge::service::{ChargedContent, Service};
use crate::config::tariffs::NAME_MAX;
use crate::config::{DirectionRule, Subscriber};
use crate::shm::log_limit::ONE_A_MINUTE;
use crate::shm::statistic::Statistic;
use crate::wire::{identity, sdp, sip};
use crate::worker::sip_input::{Body, Dialog, Invite, InviteKey};
use std::str::from_utf8;
use std::sync::atomic::Ordering;

impl Worker {
    /// Checks whether [`Worker::reserve`] would accept this INVITE now: for hosts, before they suspend the transaction.
    /// `offer` is the body of the INVITE.
    pub fn can_reserve(&self, invite: &Invite<'_>, offer: &Body<'_>) -> Result<(), InviteRefusal> {
        call_id_of(invite)?;
        self.tariff_of(invite)?;
        self.check_engine()?;
        self.ring.has_room(self.ring.size() / 4).then_some(()).ok_or(InviteRefusal::Full)?;
        self.admits_offer(invite, offer)
    }

    /// Step 1: requests a reservation. `Ok` means that the event is in the ring and a verdict will follow.
    pub fn reserve(&mut self, invite: &Invite<'_>) -> Result<SessionKey, InviteRefusal> {
        self.request_reservation(invite, None)
    }

    /// Requests a reservation for an INVITE or, if it has a `page`, for a MESSAGE.
    pub(super) fn request_reservation(
        &mut self,
        invite: &Invite<'_>,
        page: Option<PageContent>,
    ) -> Result<SessionKey, InviteRefusal> {
        let result = self.try_reserve(invite, page);
        if result == Err(InviteRefusal::Malformed) {
            self.region.count(Statistic::DroppedMalformed);
        }
        result
    }

    fn try_reserve(&mut self, invite: &Invite<'_>, page: Option<PageContent>) -> Result<SessionKey, InviteRefusal> {
        let call_id = call_id_of(invite)?;
        let tariff = self.tariff_of(invite)?;
        self.check_engine()?;
        let invite = &if page.is_some() { as_page(invite) } else { *invite };
        let session = Self::session_of_invite(&invite.key);
        let direction = self.direction(invite);
        let preference = self.region.config.identity;
        let called = [called_party(invite), b""];
        let (payer, other, service) = match (invite.content, direction) {
            (ChargedContent::Received, Direction::Pull) => {
                (self.calling_party(invite), invite.request_uri, Service::Retrieval)
            }
            (ChargedContent::Received, Direction::Push) => {
                (chosen(invite).unwrap_or(called), identity::address(invite.from), Service::Retrieval)
            }
            _ => (self.calling_party(invite), called[0], Service::Sending),
        };
        let account = identity::preferred(&payer, preference).unwrap_or_default();
        let called = match invite.content {
            ChargedContent::Both => Some(identity::preferred(&called, preference).unwrap_or_default()),
            _ => None,
        };
        let service = match (page, direction) {
            (None, _) => service,
            (Some(_), Direction::Pull) => Service::Sending,
            (Some(_), Direction::Push) => Service::Receiving,
        };
        let event = Event::Reserve(Reserve {
            call_id,
            account: &account,
            other: &identity::canonical(other).unwrap_or_default(),
            icid: from_utf8(sip::icid(invite.charging_vector))
                .ok()
                .filter(|icid| icid.len() <= FIELD_MAX)
                .unwrap_or_default(),
            // The content of a MESSAGE comes from the side that sends the request, and either side may pay.
            direction: page.map_or(direction, |_| Direction::Push),
            service,
            recipients: invite.recipients,
            called: called.as_deref(),
            tariff,
            files: if page.is_some() { OfferedFiles::default() } else { self.offered_files(&invite.offer) },
            messages: invite.messages,
            page,
            suspended: invite.suspended,
            inviting_tag: self.region.hash(&[invite.key.from_tag]),
        });
        match self.push_event(session, event, self.ring.size() / 4, Urgency::Now) {
            true => Ok(session),
            false => Err(InviteRefusal::Full),
        }
    }

    /// Returns the name of the tariff that the script has chosen, empty if none; counts and logs one that is unknown.
    pub(super) fn tariff_of<'a>(&self, invite: &Invite<'a>) -> Result<&'a str, InviteRefusal> {
        let tariffs = &self.region.config.tariffs;
        if let Some(name) = from_utf8(invite.tariff).ok().filter(|name| tariffs.has_name(name)) {
            return Ok(name);
        }
        self.region.count(Statistic::DroppedUnknownTariff);
        let chosen = invite.tariff.get(..NAME_MAX).unwrap_or(invite.tariff).escape_ascii();
        log::error!(
            target: ONE_A_MINUTE,
            "imcharge_reserve: there is no tariff '{chosen}' (dropped_unknown_tariff); configured names: {}",
            tariffs.list_of_names()
        );
        Err(InviteRefusal::UnknownTariff)
    }

    /// Returns the files that a session description offers or requests; counts those without a size, and those whose size is
    /// not believed.
    fn offered_files(&self, offer: &Body<'_>) -> OfferedFiles {
        let (mut files, mut oversized) = (OfferedFiles::default(), 0u32);
        let media = sdp::msrp_media(offer.content_type, offer.bytes).unwrap_or_default();
        for media in media.iter().filter(|media| !media.is_refused) {
            match media.file.map(|file| file.size) {
                None => files.has_other_media = true,
                Some(None) => files.unsized_files += 1,
                Some(Some(octets)) if octets > self.region.config.file_size_max.into() => oversized += 1,
                Some(Some(octets)) => {
                    files.sized += 1;
                    files.kilobytes = files.kilobytes.saturating_add(octets.div_ceil(1024).max(1));
                }
            }
        }
        if files.unsized_files > 0 {
            self.region.counter(Statistic::FilesUnsized).fetch_add(files.unsized_files.into(), Ordering::Relaxed);
            log::warn!(
                target: ONE_A_MINUTE,
                "an INVITE describes a file without a valid size in a=file-selector; credit is reserved as for other \
                 messages (files_unsized)"
            );
        }
        if oversized > 0 {
            self.region.counter(Statistic::FilesOversized).fetch_add(oversized.into(), Ordering::Relaxed);
            log::warn!(
                target: ONE_A_MINUTE,
                "an INVITE describes a file larger than file_size_max; credit is reserved as for other messages \
                 (files_oversized)"
            );
            files.unsized_files += oversized;
        }
        files
    }

    pub(super) fn check_engine(&self) -> Result<(), InviteRefusal> {
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

    /// Returns whether the INVITE fetches the charged content or delivers it. P-Asserted-Identity decides only if it also
    /// names the charged party: a script that names another one does not vouch for this header.
    pub(crate) fn direction(&self, invite: &Invite<'_>) -> Direction {
        if invite.content != ChargedContent::Received {
            return Direction::Push;
        }
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

    /// Returns the direction of a MESSAGE: pull if its sender pays.
    pub(super) fn page_direction(&self, message: &Invite<'_>) -> Direction {
        self.direction(&as_page(message))
    }

    /// Returns the header values with the identity of the calling party.
    fn calling_party<'a>(&self, invite: &Invite<'a>) -> [&'a [u8]; 2] {
        chosen(invite).unwrap_or(match self.region.config.subscriber {
            Subscriber::Asserted => invite.asserted,
            Subscriber::From => [identity::address(invite.from), b""],
        })
    }

    /// The INVITE failed: it ended without a 2xx.
    pub fn failed(&mut self, session: SessionKey, transaction: Option<ServerTransaction>, code: u16) {
        // Hosts report the end of every transaction, also after a 2xx.
        let is_answered = |at: u32| self.region.table().slots[at as usize].is_answered();
        if !self.slot_of(session).is_some_and(is_answered) {
            self.push_or_count(session, Event::Failed { code, transaction });
        }
    }

    /// The INVITE was cancelled.
    pub fn cancelled(&mut self, session: SessionKey, transaction: Option<ServerTransaction>) {
        self.push_or_count(session, Event::Cancelled { transaction });
    }

    /// Returns the key of the session that an INVITE opens.
    pub fn session_of_invite(key: &InviteKey<'_>) -> SessionKey {
        SessionKey::new(key.call_id, key.from_tag, key.cseq)
    }

    /// Closes a session at the script's request: that of the dialog, or the one that the INVITE with this CSeq number opens.
    /// Returns `false` if it is not charged.
    pub fn end(&mut self, dialog: &Dialog<'_>, cseq: u32, reason: &[u8]) -> bool {
        let reason = from_utf8(reason).ok().filter(|reason| reason.len() <= FIELD_MAX).unwrap_or("script");
        let key = InviteKey { call_id: dialog.call_id, from_tag: dialog.from_tag, cseq };
        let session = self.session_of(dialog).or_else(|| {
            let session = Self::session_of_invite(&key);
            self.slot_of(session).map(|_| session)
        });
        session.is_some_and(|session| self.push_or_count(session, Event::End { reason }))
    }

    /// Returns the slot of a charged session.
    pub(crate) fn slot_of(&self, session: SessionKey) -> Option<u32> {
        self.region.table().slot_of_session(self.region.name_of_session(session), session)
    }
}

/// Returns the Call-ID of an INVITE or MESSAGE, if Call-ID and From tag are present and short enough.
pub(super) fn call_id_of<'a>(invite: &Invite<'a>) -> Result<&'a str, InviteRefusal> {
    let InviteKey { call_id, from_tag, .. } = invite.key;
    let fits = |field: &[u8]| (1..=FIELD_MAX).contains(&field.len());
    // RFC 3261, 25.1 allows these characters only. Operators' terminals display them.
    let is_word = |id: &&str| id.bytes().all(|octet| octet.is_ascii_graphic());
    let call_id = from_utf8(call_id).ok().filter(|id| fits(id.as_bytes()) && fits(from_tag)).filter(is_word);
    call_id.ok_or(InviteRefusal::Malformed)
}

/// A MESSAGE as its direction is decided: it has one, which says who pays.
fn as_page<'a>(message: &Invite<'a>) -> Invite<'a> {
    Invite { content: ChargedContent::Received, ..*message }
}

/// Returns the header value with the identity of the called party: the Request-URI as received, unless P-Called-Party-ID
/// preserves the original one (RFC 7315, 4.2). Scripts change the Request-URI to route, for example to the contact of a
/// device.
fn called_party<'a>(invite: &Invite<'a>) -> &'a [u8] {
    match invite.called_party {
        b"" => invite.request_uri,
        called => identity::address(called),
    }
}

/// Returns the identity that the script has chosen to charge, if it has.
fn chosen<'a>(invite: &Invite<'a>) -> Option<[&'a [u8]; 2]> {
    (!invite.subscriber.is_empty()).then_some([invite.subscriber, b""])
}
