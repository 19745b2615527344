//! SIP within the dialogs of a charged session: offers and answers, BYE, and which messages are the sender's.
//!
//! A receiver can send anything within its own dialog, with any Request-URI and any Route header. So an offer/answer exchange
//! binds MSRP endpoints only if the sender takes part in it:
//!
//! * a request of the receiver's side must go to the sender's remote target (its Contact), and the response must come from
//!   the sender's known source address;
//! * a request of the sender's side must come from that address.
//!
//! The receiver's side may change its address. Whether or not an exchange binds anything, the endpoints that the sender
//! describes are recorded: content that they send is paid for or stopped. So the receiver may not request more changes than
//! the session has names for. A BYE of either side ends its dialog; but only when the sender has sent or answered it is it
//! certain that the sender sends no more.
//!
//! A sender that pays for its content gains nothing by binding another receiver, so in its session every exchange counts.
//! If both parties pay, an INVITE has two sessions, and every message is processed for both.

use super::Worker;
use super::bind_endpoints::{self, Endpoint, Refusal};
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Direction, Event};
use crate::shm::gate::{DialogState, LegRecord, NoRoom, Side, Slot, Streams};
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use crate::simulate::{InjectedBug, is_injected};
use crate::wire::sdp;
use crate::wire::sip::Target;
use crate::worker::sip_input::{Body, Dialog, Method, Reply, Request, Source};
use std::net::IpAddr;
use std::sync::Arc;

/// The session and dialog of a SIP message.
#[derive(Clone, Copy)]
struct Place {
    /// Slot of the session.
    at: u32,
    session: SessionKey,
    /// Hash of the answering side's tag.
    leg: u64,
    /// Side that sent the request.
    from: Side,
}

/// Decision about a request within a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestDecision {
    /// Passes; it belongs to no charged session.
    NotCharged,
    /// Passes; it belongs to a charged session.
    Pass,
    /// Must be dropped: the sender's answer could describe an endpoint that the session has no room for.
    Refused,
}

/// Why an offer/answer exchange binds nothing.
#[derive(Clone, Copy)]
enum Foreign {
    /// The receiver's request does not go to the sender's Contact.
    Target,
    /// A message of the sender's side comes from another source.
    Source,
    /// A side describes the other side's endpoint as its own.
    Endpoint,
}

impl Foreign {
    fn text(self) -> &'static str {
        match self {
            Foreign::Target => "a request does not go to the sender's Contact",
            Foreign::Source => "a message of the sender's side does not come from the sender's known address",
            Foreign::Endpoint => "a party names the other party's MSRP URI as its own",
        }
    }
}

impl Worker {
    /// Processes a request within a dialog before it is relayed.
    pub fn request_in_dialog(&mut self, request: &Request<'_>) -> RequestDecision {
        let Some(place) = self.place(&request.dialog) else { return RequestDecision::NotCharged };
        let places = self.places(place);
        if !places.iter().flatten().all(|place| self.may_change(*place, request)) {
            self.region.count(Statistic::DroppedTableFull);
            log::warn!(
                "call {}: a party has offered too many MSRP endpoints; the request is dropped",
                request.dialog.call_id.escape_ascii()
            );
            return RequestDecision::Refused;
        }
        for place in places.into_iter().flatten() {
            match request.method {
                Method::Bye => self.on_bye(place, request),
                Method::Ack | Method::Prack => self.on_answer_in_request(place, request),
                Method::Invite | Method::Update | Method::Message | Method::Other => {}
            }
        }
        RequestDecision::Pass
    }

    /// Whether the session has names for all endpoints that the answer to a request of a paying party can describe.
    fn may_change(&self, place: Place, request: &Request<'_>) -> bool {
        let slot = &self.region.table().slots[place.at as usize];
        let is_paid_by_sender = slot.is_paid_by_sender();
        if place.from == Side::Sender && !is_paid_by_sender {
            return true;
        }
        let described =
            self.endpoints(&request.body).map(|endpoints| u32::try_from(endpoints.len()).unwrap_or(u32::MAX));
        let changes = match (request.method, described) {
            // Without a description, the sender's response contains the offer.
            (Method::Invite, None) => 1,
            (Method::Invite | Method::Update | Method::Prack, Some(count)) => count.max(1),
            _ => return true,
        };
        // Either party may offer, and the receiver's endpoint has a name too.
        let changes = if is_paid_by_sender { changes.saturating_mul(2) } else { changes };
        slot.leg(place.leg).is_some_and(|leg| !leg.is_another(request.cseq) || slot.may_change(changes))
    }

    /// Steps 4 and 11: processes a reply within a dialog or to an initial INVITE before it is relayed. `request` is the one
    /// that it answers; `None`: unknown. Returns `false` if it belongs to no charged session.
    pub fn replied(&mut self, reply: &Reply<'_>, request: Option<&Request<'_>>) -> bool {
        let is_initial =
            reply.method == Method::Invite && request.is_none_or(|request| request.dialog.to_tag.is_empty());
        let initial = if is_initial { self.place_of_initial(reply) } else { None };
        let Some(place) = initial.or_else(|| self.place(&reply.dialog)) else {
            if is_initial && reply.code >= 200 {
                self.region.count(Statistic::DroppedUnknown);
            }
            return false;
        };
        for place in self.places(place).into_iter().flatten() {
            self.on_reply(place, reply, request, initial.is_some());
        }
        true
    }

    fn on_reply(&mut self, place: Place, reply: &Reply<'_>, request: Option<&Request<'_>>, is_initial: bool) {
        match (reply.method, reply.code) {
            (Method::Invite, 101..300) if is_initial => self.on_reply_to_initial(place, reply, request),
            (Method::Invite | Method::Update | Method::Prack, 101..300) => {
                self.on_reply_in_dialog(place, reply, request);
            }
            (Method::Invite, 300..) if !is_initial => {
                _ = self.change(place, |streams| {
                    bind_endpoints::drop_offer(streams, place.leg);
                    Ok(())
                });
            }
            (Method::Bye, 200..300 | 408 | 481) => self.on_reply_to_bye(place, reply, request),
            _ => {}
        }
    }

    /// Processes a 2xx to an INVITE that may have no transaction: that of another fork, or of a cancelled INVITE, can arrive
    /// when the host has ended the transaction. It is accepted from a known source address of a sender only.
    pub fn late_answer(&mut self, reply: &Reply<'_>) {
        let Some(place) = self.place_of_initial(reply).filter(|_| (200..300).contains(&reply.code)) else { return };
        let region = Arc::clone(&self.region);
        let slot = &region.table().slots[place.at as usize];
        let source = hash_of_source(&region, reply.source);
        if source != 0 && slot.legs().any(|leg| leg.source() == source) {
            for place in self.places(place).into_iter().flatten() {
                self.on_reply_to_initial(place, reply, None);
            }
        }
    }

    /// Returns the charged session of a dialog, with the tags in either order.
    pub fn session_of(&self, dialog: &Dialog<'_>) -> Option<SessionKey> {
        self.place(dialog).map(|place| place.session)
    }

    fn place(&self, dialog: &Dialog<'_>) -> Option<Place> {
        if dialog.to_tag.is_empty() {
            return None;
        }
        let region = &self.region;
        let (from, to) = (region.hash(&[dialog.from_tag]), region.hash(&[dialog.to_tag]));
        let table = region.table();
        let is_of_it = |slot: &Slot| slot.is_inviting_tag(from) || slot.is_inviting_tag(to);
        let at = table.slot_of_dialog(region.name_of_dialog(dialog.call_id, from, to), is_of_it)?;
        let slot = &table.slots[at as usize];
        let by_inviting_side = slot.is_inviting_tag(from);
        let leg = if by_inviting_side { to } else { from };
        Some(Place { at, session: slot.session()?, leg, from: side_of(slot, by_inviting_side) })
    }

    /// Returns the place of a message, and its place in the other session of the INVITE if both parties pay.
    fn places(&self, place: Place) -> [Option<Place>; 2] {
        let is_paired = self.region.table().slots[place.at as usize].is_paired();
        let session = place.session.companion();
        let companion = if is_paired { self.slot_of(session) } else { None };
        [Some(place), companion.map(|at| Place { at, session, from: place.from.other(), ..place })]
    }

    /// Finds the session that the INVITE of a reply has opened.
    fn place_of_initial(&self, reply: &Reply<'_>) -> Option<Place> {
        let (region, session) = (&self.region, Self::session_of_invite(&reply.invite_key()));
        let table = region.table();
        let (at, session) =
            [session, session.companion()].into_iter().find_map(|key| Some((self.slot_of(key)?, key)))?;
        let leg = region.hash(&[reply.dialog.to_tag]);
        Some(Place { at, session, leg, from: side_of(&table.slots[at as usize], true) })
    }

    fn on_reply_to_initial(&mut self, place: Place, reply: &Reply<'_>, request: Option<&Request<'_>>) {
        let region = Arc::clone(&self.region);
        let (table, dialog) = (region.table(), &reply.dialog);
        let slot = &table.slots[place.at as usize];
        // An unreliable provisional reply creates no dialog that can end before its INVITE does. Its description will be that
        // of the 2xx, and the sender may send already.
        let is_firm = reply.code >= 200 || reply.is_reliable;
        if dialog.to_tag.is_empty() || !is_firm && self.endpoints(&reply.body).is_none() {
            return;
        }
        let name = region.name_of_dialog(dialog.call_id, region.hash(&[dialog.from_tag]), place.leg);
        if is_firm && table.add_name(place.at, name).is_err() {
            region.count(Statistic::DroppedTableFull);
        }
        let leg = slot.add_leg(place.leg);
        let (contact, source) = match place.from {
            Side::Receiver => (reply.contact, reply.source),
            Side::Sender => request.map_or((&[][..], None), |request| (request.contact, request.source)),
        };
        if let Some(leg) = leg {
            let host = source.map(|source| Source { port: 0, ..source });
            leg.learn(hash_of_target(&region, contact), hash_of_source(&region, source), hash_of_source(&region, host));
        }
        self.exchange(place, leg, reply, request, true);
        if reply.code < 200 && !is_firm {
            return;
        }
        let (state, event) = match reply.code {
            ..200 => (DialogState::Early, Event::EarlyDialog { leg: place.leg }),
            _ => {
                // Even if the event is lost: this call has not failed.
                slot.set_answered();
                (DialogState::Confirmed, Event::Answered { leg: place.leg })
            }
        };
        let is_reported = leg.is_some_and(|leg| leg.is_reported(state));
        if !is_reported && self.push_or_count(place.session, event) {
            leg.inspect(|leg| leg.set_reported(state));
        }
    }

    fn on_reply_in_dialog(&mut self, place: Place, reply: &Reply<'_>, request: Option<&Request<'_>>) {
        let region = Arc::clone(&self.region);
        let Some(leg) = region.table().slots[place.at as usize].leg(place.leg) else {
            region.count(Statistic::DroppedTableFull);
            return;
        };
        if reply.code < 200 && !reply.is_reliable {
            return;
        }
        let checked = self.check(place, leg, request, reply.source);
        if let Err(foreign) = checked {
            let has_description = request.is_some_and(|request| self.endpoints(&request.body).is_some())
                || self.endpoints(&reply.body).is_some();
            if has_description {
                self.refuse_exchange(reply.dialog.call_id, foreign);
            }
            // If the sender has answered nevertheless, its endpoint must be known: for any destination, or, if the answer's
            // source is unknown and it may be another party's, towards the receiver's endpoint only.
            let answered = self.endpoints(&reply.body).unwrap_or_default();
            match (foreign, place.from) {
                (Foreign::Target, Side::Receiver) => self.recognise(place, &answered),
                (_, Side::Receiver) => {
                    let offered = request.and_then(|request| self.endpoints(&request.body)).unwrap_or_default();
                    self.recognise_pairs(place, &answered, &offered);
                }
                (_, Side::Sender) => {}
            }
            return;
        }
        if reply.code >= 200 && reply.method != Method::Prack {
            let contact = match place.from {
                Side::Receiver => reply.contact,
                Side::Sender => request.map_or(&[][..], |request| request.contact),
            };
            leg.refresh(hash_of_target(&region, contact));
        }
        self.exchange(place, Some(leg), reply, request, false);
    }

    /// Binds the description in a reply: an answer to the request's offer, or an offer. If the request is unknown, it is
    /// taken for an answer.
    fn exchange(
        &mut self,
        place: Place,
        leg: Option<&LegRecord>,
        reply: &Reply<'_>,
        request: Option<&Request<'_>>,
        is_initial: bool,
    ) {
        let Some(described) = self.endpoints(&reply.body) else { return };
        let offered = request.and_then(|request| self.endpoints(&request.body));
        match place.from {
            Side::Receiver => self.recognise(place, &described),
            Side::Sender => self.recognise(place, offered.as_deref().unwrap_or_default()),
        }
        if leg.is_some_and(|leg| leg.is_done(place.from, reply.cseq)) {
            return;
        }
        // The offer of a receiver's initial INVITE was checked when it was charged.
        let offer = request.filter(|_| !is_initial).map(|request| (place.from, &request.body));
        let answer = (place.from.other(), &reply.body);
        let call_id = reply.dialog.call_id;
        if offer.into_iter().chain([answer]).any(|(side, body)| !self.admits(call_id, side, body)) {
            return self.recognise(place, &described);
        }
        let (is_known, is_firm) = (request.is_some(), reply.code >= 200 || reply.is_reliable);
        let mut is_answer = false;
        let result = self.change(place, |streams| {
            if leg.is_none() && streams.iter().any(|stream| stream.leg == place.leg) {
                return Ok(());
            }
            if let Some(offered) = offered.as_ref().filter(|_| is_initial) {
                bind_endpoints::keep_offer(streams, place.from, offered)?;
            }
            let kept = bind_endpoints::kept_offer(streams).filter(|_| is_initial);
            let offer = match &offered {
                Some(offered) => Some((place.from, offered.clone())),
                // The INVITE has no description: the reply contains the offer.
                None if is_known => None,
                None => kept.or(Some((place.from, Vec::new()))),
            };
            is_answer = offer.is_some();
            match offer {
                Some((side, offered)) => bind_endpoints::answer(streams, place.leg, side, &offered, &described),
                None => bind_endpoints::offer(streams, place.leg, place.from.other(), &described),
            }
        });
        match (result, leg) {
            (Err(refusal), _) => self.refuse(reply.dialog.call_id, refusal),
            (Ok(()), Some(leg)) if is_answer && is_firm => leg.set_done(place.from, reply.cseq),
            (Ok(()), _) => {}
        }
    }

    /// Binds the description in an ACK or PRACK if it answers an offer of the other side. Otherwise it is an offer, which is
    /// bound with its answer.
    fn on_answer_in_request(&mut self, place: Place, request: &Request<'_>) {
        let Some(described) = self.endpoints(&request.body) else { return };
        let region = Arc::clone(&self.region);
        let table = region.table();
        let Some(leg) = table.slots[place.at as usize].leg(place.leg) else { return };
        let waits = |streams: &Streams| {
            bind_endpoints::waiting_offer(streams, place.leg).filter(|(side, _)| *side == place.from.other())
        };
        if leg.is_done(place.from, request.cseq) || waits(&table.streams(place.at)).is_none() {
            return;
        }
        if !self.admits(request.dialog.call_id, place.from, &request.body) {
            return;
        }
        // Whether it reaches the sender is unknown, but the sender's endpoint is the one that the sender has offered.
        if let Err(foreign) = self.check(place, leg, Some(request), None) {
            return self.refuse_exchange(request.dialog.call_id, foreign);
        }
        let result = self.change(place, |streams| match waits(streams) {
            Some((side, offered)) => bind_endpoints::answer(streams, place.leg, side, &offered, &described),
            None => Ok(()),
        });
        match result {
            Ok(()) => leg.set_done(place.from, request.cseq),
            Err(refusal) => self.refuse(request.dialog.call_id, refusal),
        }
    }

    fn on_bye(&mut self, place: Place, request: &Request<'_>) {
        self.push_or_count(place.session, Event::Bye { leg: place.leg });
        if is_injected(InjectedBug::LegEndsSession) {
            self.push_or_count(place.session, Event::End { reason: "" });
        }
        let region = Arc::clone(&self.region);
        let leg = region.table().slots[place.at as usize].leg(place.leg);
        let is_trusted = leg.is_some_and(|leg| self.check(place, leg, Some(request), None).is_ok());
        if place.from == Side::Sender && is_trusted {
            self.push_or_count(place.session, Event::DialogOver { leg: place.leg });
        }
    }

    fn on_reply_to_bye(&mut self, place: Place, reply: &Reply<'_>, request: Option<&Request<'_>>) {
        let region = Arc::clone(&self.region);
        let leg = region.table().slots[place.at as usize].leg(place.leg);
        let is_trusted = leg.is_some_and(|leg| self.check(place, leg, request, reply.source).is_ok());
        if place.from == Side::Receiver && is_trusted {
            self.push_or_count(place.session, Event::DialogOver { leg: place.leg });
        }
    }

    /// Checks, as far as the host can tell, that the sender takes part in a transaction within its dialog.
    fn check(
        &self,
        place: Place,
        leg: &LegRecord,
        request: Option<&Request<'_>>,
        reply_source: Option<Source>,
    ) -> Result<(), Foreign> {
        let is_paid_by_sender = self.region.table().slots[place.at as usize].is_paid_by_sender();
        if is_paid_by_sender || is_injected(InjectedBug::AnyAnswerBinds) {
            return Ok(());
        }
        let sender_source = match place.from {
            Side::Receiver => reply_source,
            Side::Sender => request.and_then(|request| request.source),
        };
        // A party may send requests and responses from different ports.
        let (known, seen) = match place.from {
            Side::Receiver => (leg.source(), sender_source),
            Side::Sender => (leg.host(), sender_source.map(|source| Source { port: 0, ..source })),
        };
        let seen = hash_of_source(&self.region, seen);
        if seen != 0 && ![0, seen].contains(&known) {
            return Err(Foreign::Source);
        }
        let target = request.filter(|_| place.from == Side::Receiver).map(|request| request.uri);
        match target.is_none_or(|target| [0, hash_of_target(&self.region, target)].contains(&leg.target())) {
            true => Ok(()),
            false => Err(Foreign::Target),
        }
    }

    /// Changes the streams of a session; on an error they stay as they were.
    fn change(&self, place: Place, mut change: impl FnMut(&mut Streams) -> Result<(), Refusal>) -> Result<(), Refusal> {
        let mut result = Ok(());
        let changed = self.region.table().change_streams(place.at, place.session, |streams| {
            let before = *streams;
            result = change(streams);
            if result.is_err() {
                *streams = before;
            }
        });
        result.and(changed.map_err(|NoRoom| Refusal::NoRoom))
    }

    fn refuse(&self, call_id: &[u8], refusal: Refusal) {
        match refusal {
            Refusal::OthersEndpoint => self.refuse_exchange(call_id, Foreign::Endpoint),
            Refusal::NoRoom => self.region.count(Statistic::DroppedTableFull),
        }
    }

    fn refuse_exchange(&self, call_id: &[u8], foreign: Foreign) {
        self.region.count(Statistic::AnswersForeign);
        log::warn!("call {}: {}; no MSRP session is bound to it", call_id.escape_ascii(), foreign.text());
    }

    /// Records endpoints of the sender: content that they send while they are not bound is stopped.
    fn recognise(&self, place: Place, endpoints: &[Endpoint]) {
        let table = self.region.table();
        for endpoint in endpoints {
            if table.recognise_sender(place.at, endpoint.uri).is_err() {
                self.region.count(Statistic::DroppedTableFull);
            }
        }
    }

    /// Records pairs of endpoints described by a party that is not trusted: content between them is stopped.
    fn recognise_pairs(&self, place: Place, senders: &[Endpoint], receivers: &[Endpoint]) {
        for sender in senders {
            let receiver = receivers.iter().find(|receiver| receiver.position == sender.position);
            let table = self.region.table();
            if receiver.is_some_and(|receiver| table.recognise_pair(place.at, sender.uri, receiver.uri).is_err()) {
                self.region.count(Statistic::DroppedTableFull);
            }
        }
    }

    /// Returns the MSRP endpoints of a session description; `None` if the body has no MSRP media.
    fn endpoints(&self, body: &Body<'_>) -> Option<Vec<Endpoint>> {
        let media = sdp::msrp_media(body.content_type, body.bytes)?;
        let open = media.into_iter().filter(|media| !media.is_refused);
        let endpoint = |media: sdp::Media<'_>| {
            let uri = self.hash_of_endpoint(&media.path?.endpoint());
            Some(Endpoint { position: media.position, uri, is_file: media.file.is_some() })
        };
        Some(open.filter_map(endpoint).collect())
    }
}

fn side_of(slot: &Slot, by_inviting_side: bool) -> Side {
    match (slot.direction() == Direction::Push) == by_inviting_side {
        true => Side::Sender,
        false => Side::Receiver,
    }
}

/// Hashes the URI of a Contact or Request-URI; 0 if there is none.
fn hash_of_target(region: &Region, value: &[u8]) -> u64 {
    let Some(target) = Target::parse(value) else { return 0 };
    let (scheme, host) = (target.scheme.to_ascii_lowercase(), target.host.to_ascii_lowercase());
    region.hash(&[b"target", &scheme, b":", target.user, b"@", &host, &target.port.to_le_bytes()])
}

/// Hashes a source address; 0: unknown.
fn hash_of_source(region: &Region, source: Option<Source>) -> u64 {
    let Some(Source { address, port }) = source else { return 0 };
    let octets = match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    };
    region.hash(&[b"source", &octets, &port.to_le_bytes()])
}
