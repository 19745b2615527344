//! What the parties do in SIP: they answer, negotiate MSRP sessions again, fork, hang up and cancel, and some of it in
//! ways that are meant to deceive.

use super::{SECOND, What, World, say};
use crate::call::{ITS_WAY, Names, Stage, UNCHARGED};
use crate::dialog::{Exchange, LegState, Side, Sip, Writing};
use imcharge::shm::statistic::Statistic;
use imcharge::worker::RequestDecision;
use imcharge::worker::sip_input::Method;

/// Microseconds within which a 200 may come after a CANCEL (RFC 3261, 9.1 and 13.3.1.4), less what the rest takes.
const CROSSING: u64 = 25 * SECOND;

impl World<'_> {
    /// Gives a request within a dialog to a worker. Whether a session is known for it; `None`: it does not go on, or there is
    /// no host, or it has died just now.
    fn tell_request(&mut self, number: usize, request: &Sip) -> Option<bool> {
        match self.hook(number, |worker, _| worker.request_in_dialog(&request.request()))?.1 {
            RequestDecision::Pass => Some(true),
            RequestDecision::NotCharged => Some(false),
            RequestDecision::Refused => None,
        }
    }

    /// Gives a reply to a worker, with the request that it answers.
    fn tell_reply(&mut self, number: usize, reply: &Sip, request: &Sip) -> Option<bool> {
        Some(self.hook(number, |worker, _| worker.replied(&reply.reply(), Some(&request.request())))?.1)
    }

    pub(super) fn answer(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Granted {
            return;
        }
        self.calls[number].stage = Stage::Answered;
        let Some(is_known) = self.answer_in(number, 0) else { return };
        if !is_known {
            // What the server sends now would pass unseen.
            return self.wrong.push(format!("call {number} was let in, and is not known when it is answered"));
        }
        if self.random.u8(0..6) == 0 {
            self.soon(2 * SECOND, What::AnswerAgain(number));
        }
        if self.calls[number].forks {
            self.soon(2 * SECOND, What::AnswerFork(number));
        }
        self.begin_to_send(number, 0);
    }

    /// The INVITE is answered by the other target of its fork as well.
    pub(super) fn answer_fork(&mut self, number: usize) {
        let is_live = self.calls[number].stage == Stage::Answered;
        if is_live && self.answer_in(number, 1) == Some(true) {
            self.begin_to_send(number, 1);
        }
    }

    fn begin_to_send(&mut self, number: usize, leg: usize) {
        self.calls[number].legs[leg].state = LegState::Confirmed;
        for message in 0..self.calls[number].messages.len() {
            if self.calls[number].messages[message].leg == leg {
                let begin = self.random.u64(0..10 * SECOND);
                self.send_all(number, message, 0, begin);
            }
        }
    }

    /// Whoever answers has not seen the ACK: the 200 comes again, as it was.
    pub(super) fn answer_again(&mut self, number: usize) {
        if self.calls[number].stage == Stage::Answered {
            self.answer_in(number, 0);
        }
    }

    /// All messages from the first answer to the ACK. Whether the session is known.
    fn answer_in(&mut self, number: usize, leg: usize) -> Option<bool> {
        let call = &self.calls[number];
        let first = crate::dialog::Leg::new(leg);
        let (inviting, answering) = (call.inviting(), call.inviting().other());
        let (own, others) = (call.uri_of(answering, &first, 0), call.uri_of(inviting, &first, 0));
        let (invite, writing) = (call.invite_request(), call.writing);
        let ok = call.reply_to_invite(&first, 200);
        let progress = call.reply_to_invite(&first, 183).reliable();
        let prack = call.request(&first, inviting, Method::Prack);
        let prack_ok = call.reply_to(&prack, inviting, 200);
        let mut ack = call.request(&first, inviting, Method::Ack);
        ack.follow(&invite);
        match call.exchange {
            Exchange::InviteAnd200 => {
                let is_known = self.tell_reply(number, &ok.describe(&own, true, writing), &invite);
                self.tell_request(number, &ack)?;
                is_known
            }
            Exchange::InviteAnd183 => {
                self.tell_reply(number, &progress.describe(&own, true, writing), &invite)?;
                self.tell_request(number, &prack)?;
                self.tell_reply(number, &prack_ok, &prack)?;
                let is_known = self.tell_reply(number, &ok, &invite);
                self.tell_request(number, &ack)?;
                is_known
            }
            Exchange::OfferIn200 => {
                let is_known = self.tell_reply(number, &ok.describe(&own, false, writing), &invite)?;
                self.tell_request(number, &ack.describe(&others, true, writing))?;
                Some(is_known)
            }
            Exchange::OfferIn183 => {
                self.tell_reply(number, &progress.describe(&own, false, writing), &invite)?;
                let prack = prack.describe(&others, true, writing);
                self.tell_request(number, &prack)?;
                self.tell_reply(number, &prack_ok, &prack)?;
                self.tell_reply(number, &ok, &invite)
            }
        }
    }

    pub(super) fn invent_writing(&mut self) -> Writing {
        Writing { is_second: self.random.u8(0..4) == 0, is_part: self.random.u8(0..4) == 0 }
    }

    /// One side offers other MSRP sessions by re-INVITE or UPDATE, or only refreshes the dialog.
    pub(super) fn renegotiate(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        let at = self.random.usize(0..2);
        let sender = if self.random.bool() { Side::Server } else { Side::Client };
        let (writing, is_update) = (self.invent_writing(), self.random.u8(0..3) == 0);
        let has_new = [self.random.bool(), self.random.bool()];
        let kind = self.random.u8(0..6);
        let call = &mut self.calls[number];
        let Some(leg) = call.next_request(at) else { return };
        let method = if is_update { Method::Update } else { Method::Invite };
        let version = |side: Side| if has_new[side as usize] { leg.next } else { leg.versions[side as usize] };
        let path = |side: Side| call.uri_of(side, &leg, version(side));
        let (own, others) = (path(sender), path(sender.other()));
        let versions = [version(Side::Server), version(Side::Client)];
        let request = call.request(&leg, sender, method);
        let reply = call.reply_to(&request, sender, if kind == 0 { 488 } else { 200 });
        let mut ack = call.request(&leg, sender, Method::Ack);
        ack.follow(&request);
        say(format_args!(
            "{} {sender:?} renegotiates {kind} {versions:?} in leg {at} of call {number}",
            self.machine.clock.get()
        ));
        let done = match kind {
            // Refused.
            0 => {
                let request = request.describe(&own, false, writing);
                self.tell_request(number, &request)
                    .and_then(|_| self.tell_reply(number, &reply, &request))
                    .map(|_| false)
            }
            // Without a description.
            1 if is_update => self
                .tell_request(number, &request)
                .and_then(|_| self.tell_reply(number, &reply, &request))
                .map(|_| false),
            // The offer is in the 200, the answer in the ACK.
            1 | 2 if !is_update => self
                .tell_request(number, &request)
                .and_then(|_| self.tell_reply(number, &reply.describe(&others, false, writing), &request))
                .and_then(|_| self.tell_request(number, &ack.describe(&own, true, writing))),
            _ => {
                let request = request.describe(&own, false, writing);
                self.tell_request(number, &request)
                    .and_then(|_| self.tell_reply(number, &reply.describe(&others, true, writing), &request))
            }
        };
        if done == Some(true) {
            self.calls[number].legs[at].versions = versions;
        }
    }

    /// The client deceives: its request within the dialog goes to a second user agent of its own, or that one answers.
    /// Nothing may change by that.
    pub(super) fn deceive(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        let at = self.random.usize(0..2);
        let (kind, to_server) = (self.random.u8(0..5), self.random.u8(0..4) == 0);
        let method = if self.random.bool() { Method::Invite } else { Method::Update };
        let call = &mut self.calls[number];
        let Some(leg) = call.next_request(at) else { return };
        let (server, client) = (call.uri_now(Side::Server, &leg), call.uri_now(Side::Client, &leg));
        let new = call.uri_of(Side::Client, &leg, leg.next);
        let uncharged = UNCHARGED.to_owned();
        let request = call.request(&leg, Side::Client, method);
        // By a Route header it may go to the second user agent although the Request-URI is the server's.
        let request = if to_server { request } else { request.for_second() };
        let reply = call.reply_to(&request, Side::Client, 200).by_second();
        let mut ack = call.request(&leg, Side::Client, Method::Ack).for_second();
        ack.follow(&request);
        say(format_args!("{} deceit {kind} in leg {at} of call {number}", self.machine.clock.get()));
        let plain = Writing::default();
        let (offer, answer) = match kind {
            // The sides change their places.
            0 => (&server, &client),
            // The second user agent has the server's place.
            1 => (&client, &new),
            // It has the client's, and the client the server's.
            2 => (&server, &new),
            // It names an endpoint of others.
            3 => (&client, &uncharged),
            // The offer is in the 200, the answer in the ACK.
            _ => {
                let done = self.tell_request(number, &request);
                let done = done.and_then(|_| self.tell_reply(number, &reply.describe(&client, false, plain), &request));
                done.and_then(|_| self.tell_request(number, &ack.describe(&server, true, plain)));
                return;
            }
        };
        let request = request.describe(offer, false, plain);
        let done = self.tell_request(number, &request);
        done.and_then(|_| self.tell_reply(number, &reply.describe(answer, true, plain), &request));
    }

    /// All dialogs end by BYE.
    pub(super) fn bye(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        // A BYE of the client that goes elsewhere: the server sends on.
        let is_secret = self.calls[number].is_hostile && self.random.u8(0..4) == 0;
        self.calls[number].stage = Stage::Over;
        self.calls[number].server_sends_on = is_secret;
        let mut is_told = true;
        for at in 0..2 {
            if self.calls[number].legs[at].state == LegState::Confirmed {
                let Some(told) = self.bye_in(number, at, is_secret) else { return };
                is_told &= told;
            }
        }
        if is_told {
            self.has_ended(number);
        }
        if self.calls.get(number + 1).is_some_and(|next| next.names == Names::Predecessor) {
            self.soon(10 * SECOND, What::Invite(number + 1));
        }
    }

    /// One of two dialogs ends.
    pub(super) fn bye_leg(&mut self, number: usize) {
        let call = &self.calls[number];
        let are_both = call.legs.iter().all(|leg| leg.state == LegState::Confirmed);
        if call.stage == Stage::Answered && are_both {
            let at = self.random.usize(0..2);
            let (now, moved_at) = (self.machine.clock.get(), self.calls[number].moved_at);
            let told = self.bye_in(number, at, false);
            // One that was idle for long may be over by then.
            if told == Some(true) && self.calls[number].stage == Stage::Answered && now < moved_at + 15 * SECOND {
                self.calls[number].leg_ended_at = Some(now);
            }
        }
    }

    /// Whether there was room for it in a ring.
    fn bye_in(&mut self, number: usize, at: usize, is_secret: bool) -> Option<bool> {
        let sender = if is_secret || self.random.bool() { Side::Client } else { Side::Server };
        let call = &mut self.calls[number];
        let leg = &mut call.legs[at];
        (leg.state, leg.next) = (LegState::Over, leg.next + 1);
        let leg = *leg;
        let bye = call.request(&leg, sender, Method::Bye);
        let bye = if is_secret { bye.for_second() } else { bye };
        let ok = call.reply_to(&bye, sender, 200);
        let ok = if is_secret { ok.by_second() } else { ok };
        // It may be sent again.
        let mut is_told = false;
        for _ in 0..self.random.u8(1..3) {
            let dropped = self.region.as_ref()?.statistic(Statistic::DroppedRingFull);
            self.tell_request(number, &bye)?;
            is_told |= self.region().statistic(Statistic::DroppedRingFull) == dropped;
        }
        self.tell_reply(number, &ok, &bye).map(|_| is_told)
    }

    pub(super) fn cancel(&mut self, number: usize) {
        let stage = self.calls[number].stage;
        if !matches!(stage, Stage::Invited | Stage::Granted) {
            return;
        }
        // A 200 may cross: then there is a session, until its BYE.
        let crosses = stage == Stage::Granted && self.random.u8(0..3) == 0;
        if !crosses {
            self.calls[number].stage = Stage::Over;
        }
        let told = self.hook(number, |worker, call| worker.cancelled(call.session(), Some(call.by_way(ITS_WAY))));
        if told.is_none() {
            return;
        }
        match crosses {
            true => self.soon(CROSSING, What::Answer(number)),
            false => self.soon(SECOND, What::Refuse(number, 487)),
        }
    }

    /// The INVITE fails; 487 ends one that was cancelled.
    pub(super) fn refuse(&mut self, number: usize, code: u16) {
        let was_cancelled = code == 487 && self.calls[number].stage == Stage::Over;
        if self.calls[number].stage != Stage::Granted && !was_cancelled {
            return;
        }
        self.calls[number].stage = Stage::Over;
        let told = self.hook(number, |worker, call| worker.failed(call.session(), Some(call.by_way(ITS_WAY)), code));
        if told.is_some() {
            self.has_ended(number);
        }
    }
}
