//! What the parties do in SIP: answer, renegotiate MSRP sessions, fork, hang up and cancel, and malicious variants of these.

use super::{SECOND, Step, World, print_trace};
use crate::call::{Names, OWN_PATH, Stage, UNCHARGED};
use crate::dialog::{Exchange, LegState, Side, Sip, Writing};
use imcharge::shm::statistic::Statistic;
use imcharge::worker::RequestDecision;
use imcharge::worker::sip_input::Method;

/// Longest time until a 200 may follow a CANCEL, in microseconds (RFC 3261, 9.1 and 13.3.1.4), less a margin.
const CROSSING_MICROS: u64 = 25 * SECOND;

impl World<'_> {
    /// Passes a request within a dialog to a worker. Returns whether its session is known; `None`: it is not relayed, or there
    /// is no host, or it has just died.
    fn pass_request(&mut self, number: usize, request: &Sip) -> Option<bool> {
        match self.hook(number, |worker, _| worker.request_in_dialog(&request.request()))?.1 {
            RequestDecision::Pass => Some(true),
            RequestDecision::NotCharged => Some(false),
            RequestDecision::Refused => None,
        }
    }

    /// Passes a reply to a worker, with the request that it answers.
    fn pass_reply(&mut self, number: usize, reply: &Sip, request: &Sip) -> Option<bool> {
        Some(self.hook(number, |worker, _| worker.replied(&reply.reply(), Some(&request.request())))?.1)
    }

    pub(super) fn answer(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Granted {
            return;
        }
        self.calls[number].stage = Stage::Answered;
        let Some(is_known) = self.answer_in(number, 0) else { return };
        if !is_known && !self.calls[number].is_lost {
            // Content that the server sends now would pass uncharged.
            return self.violations.push(format!("call {number} was granted, but is unknown when it is answered"));
        }
        if self.random.u8(0..6) == 0 {
            self.within(2 * SECOND, Step::AnswerAgain(number));
        }
        if self.calls[number].forks {
            self.within(2 * SECOND, Step::AnswerFork(number));
        }
        self.start_sending(number, 0);
    }

    /// The other target of a forked INVITE answers.
    pub(super) fn answer_fork(&mut self, number: usize) {
        let is_live = self.calls[number].stage == Stage::Answered;
        if is_live && self.answer_in(number, 1) == Some(true) {
            self.start_sending(number, 1);
        }
    }

    fn start_sending(&mut self, number: usize, leg: usize) {
        self.calls[number].legs[leg].state = LegState::Confirmed;
        for message in 0..self.calls[number].messages.len() {
            if self.calls[number].messages[message].leg == leg {
                let begin = self.random.u64(0..10 * SECOND);
                self.send_all(number, message, 0, begin);
            }
        }
    }

    /// The answering side has not seen the ACK: the 200 is retransmitted.
    pub(super) fn answer_again(&mut self, number: usize) {
        if self.calls[number].stage == Stage::Answered {
            self.answer_in(number, 0);
        }
    }

    /// Sends all messages from the first answer to the ACK. Returns whether the session is known.
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
                let is_known = self.pass_reply(number, &ok.describe(&own, true, writing), &invite);
                self.pass_request(number, &ack)?;
                is_known
            }
            Exchange::InviteAnd183 => {
                self.pass_reply(number, &progress.describe(&own, true, writing), &invite)?;
                self.pass_request(number, &prack)?;
                self.pass_reply(number, &prack_ok, &prack)?;
                let is_known = self.pass_reply(number, &ok, &invite);
                self.pass_request(number, &ack)?;
                is_known
            }
            Exchange::OfferIn200 => {
                let is_known = self.pass_reply(number, &ok.describe(&own, false, writing), &invite)?;
                self.pass_request(number, &ack.describe(&others, true, writing))?;
                Some(is_known)
            }
            Exchange::OfferIn183 => {
                self.pass_reply(number, &progress.describe(&own, false, writing), &invite)?;
                let prack = prack.describe(&others, true, writing);
                self.pass_request(number, &prack)?;
                self.pass_reply(number, &prack_ok, &prack)?;
                self.pass_reply(number, &ok, &invite)
            }
        }
    }

    pub(super) fn random_writing(&mut self) -> Writing {
        Writing { is_second: self.random.u8(0..4) == 0, is_part: self.random.u8(0..4) == 0 }
    }

    /// One side offers other MSRP sessions by re-INVITE or UPDATE, or only refreshes the dialog.
    pub(super) fn renegotiate(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        let at = self.random.usize(0..2);
        let sender = if self.random.bool() { Side::Sender } else { Side::Receiver };
        let (writing, is_update) = (self.random_writing(), self.random.u8(0..3) == 0);
        let has_new = [self.random.bool(), self.random.bool()];
        let kind = self.random.u8(0..6);
        let call = &mut self.calls[number];
        let Some(leg) = call.next_request(at) else { return };
        let method = if is_update { Method::Update } else { Method::Invite };
        let version = |side: Side| if has_new[side as usize] { leg.next } else { leg.versions[side as usize] };
        let path = |side: Side| call.uri_of(side, &leg, version(side));
        let (own, others) = (path(sender), path(sender.other()));
        let versions = [version(Side::Sender), version(Side::Receiver)];
        let request = call.request(&leg, sender, method);
        let reply = call.reply_to(&request, sender, if kind == 0 { 488 } else { 200 });
        let mut ack = call.request(&leg, sender, Method::Ack);
        ack.follow(&request);
        print_trace(format_args!(
            "{} {sender:?} renegotiates {kind} {versions:?} in leg {at} of call {number}",
            self.machine.clock.get()
        ));
        let done = match kind {
            // The offer is refused.
            0 => {
                let request = request.describe(&own, false, writing);
                self.pass_request(number, &request)
                    .and_then(|_| self.pass_reply(number, &reply, &request))
                    .map(|_| false)
            }
            // Without a description.
            1 if is_update => self
                .pass_request(number, &request)
                .and_then(|_| self.pass_reply(number, &reply, &request))
                .map(|_| false),
            // The offer is in the 200, the answer in the ACK.
            1 | 2 if !is_update => self
                .pass_request(number, &request)
                .and_then(|_| self.pass_reply(number, &reply.describe(&others, false, writing), &request))
                .and_then(|_| self.pass_request(number, &ack.describe(&own, true, writing))),
            _ => {
                let request = request.describe(&own, false, writing);
                self.pass_request(number, &request)
                    .and_then(|_| self.pass_reply(number, &reply.describe(&others, true, writing), &request))
            }
        };
        if done == Some(true) {
            self.calls[number].legs[at].versions = versions;
        }
    }

    /// The client sends a request within the dialog to its own second user agent, or lets that one answer. Nothing may
    /// change.
    pub(super) fn send_malicious_request(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        let at = self.random.usize(0..2);
        let (kind, to_server) = (self.random.u8(0..5), self.random.u8(0..4) == 0);
        let method = if self.random.bool() { Method::Invite } else { Method::Update };
        let call = &mut self.calls[number];
        let Some(leg) = call.next_request(at) else { return };
        let (server, client) = (call.uri_now(Side::Sender, &leg), call.uri_now(Side::Receiver, &leg));
        let new = call.uri_of(Side::Receiver, &leg, leg.next);
        let uncharged = UNCHARGED.to_owned();
        let request = call.request(&leg, Side::Receiver, method);
        // A Route header may take it to the second user agent although the Request-URI is the server's.
        let request = if to_server { request } else { request.for_second() };
        let reply = call.reply_to(&request, Side::Receiver, 200).by_second();
        let mut ack = call.request(&leg, Side::Receiver, Method::Ack).for_second();
        ack.follow(&request);
        print_trace(format_args!("{} malicious request {kind} in leg {at} of call {number}", self.machine.clock.get()));
        let plain = Writing::default();
        let (offer, answer) = match kind {
            // The sides are exchanged.
            0 => (&server, &client),
            // The second user agent takes the place of the server.
            1 => (&client, &new),
            // The second user agent takes the place of the client, and the client that of the server.
            2 => (&server, &new),
            // It names an endpoint of another call.
            3 => (&client, &uncharged),
            // The offer is in the 200, the answer in the ACK.
            _ => {
                let done = self.pass_request(number, &request);
                let done = done.and_then(|_| self.pass_reply(number, &reply.describe(&client, false, plain), &request));
                done.and_then(|_| self.pass_request(number, &ack.describe(&server, true, plain)));
                return;
            }
        };
        let request = request.describe(offer, false, plain);
        let done = self.pass_request(number, &request);
        done.and_then(|_| self.pass_reply(number, &reply.describe(answer, true, plain), &request));
    }

    /// Ends all dialogs by BYE.
    pub(super) fn bye(&mut self, number: usize) {
        if self.calls[number].stage != Stage::Answered {
            return;
        }
        // The client sends the BYE to another user agent, so the server does not receive it and continues to send.
        let is_secret = self.calls[number].is_hostile && self.random.u8(0..4) == 0;
        self.calls[number].stage = Stage::Over;
        self.calls[number].server_sends_on = is_secret;
        let mut is_recorded = true;
        for at in 0..2 {
            if self.calls[number].legs[at].state == LegState::Confirmed {
                let Some(recorded) = self.bye_in(number, at, is_secret) else { return };
                is_recorded &= recorded;
            }
        }
        if is_recorded {
            self.has_ended(number);
        }
        if self.calls.get(number + 1).is_some_and(|next| next.names == Names::Predecessor) {
            self.within(10 * SECOND, Step::Invite(number + 1));
        }
    }

    /// Ends one of two dialogs.
    pub(super) fn bye_leg(&mut self, number: usize) {
        let call = &self.calls[number];
        let are_both = call.legs.iter().all(|leg| leg.state == LegState::Confirmed);
        if call.stage == Stage::Answered && are_both {
            let at = self.random.usize(0..2);
            let (now, moved_at) = (self.machine.clock.get(), self.calls[number].moved_at);
            let recorded = self.bye_in(number, at, false);
            // A session that was idle for long may have ended.
            if recorded == Some(true) && self.calls[number].stage == Stage::Answered && now < moved_at + 15 * SECOND {
                self.calls[number].leg_ended_at = Some(now);
            }
        }
    }

    /// Sends a BYE and returns whether there was room for its event in a ring.
    fn bye_in(&mut self, number: usize, at: usize, is_secret: bool) -> Option<bool> {
        let sender = if is_secret || self.random.bool() { Side::Receiver } else { Side::Sender };
        let call = &mut self.calls[number];
        let leg = &mut call.legs[at];
        (leg.state, leg.next) = (LegState::Over, leg.next + 1);
        let leg = *leg;
        let bye = call.request(&leg, sender, Method::Bye);
        let bye = if is_secret { bye.for_second() } else { bye };
        let ok = call.reply_to(&bye, sender, 200);
        let ok = if is_secret { ok.by_second() } else { ok };
        // It may be retransmitted.
        let mut is_recorded = false;
        for _ in 0..self.random.u8(1..3) {
            let dropped = self.region.as_ref()?.statistic(Statistic::DroppedRingFull);
            self.pass_request(number, &bye)?;
            is_recorded |= self.region().statistic(Statistic::DroppedRingFull) == dropped;
        }
        self.pass_reply(number, &ok, &bye).map(|_| is_recorded)
    }

    pub(super) fn cancel(&mut self, number: usize) {
        let stage = self.calls[number].stage;
        if !matches!(stage, Stage::Invited | Stage::Granted) {
            return;
        }
        // A 200 may cross: then there is a session until its BYE.
        let crosses = stage == Stage::Granted && self.random.u8(0..3) == 0;
        if !crosses {
            self.calls[number].stage = Stage::Over;
        }
        let sent = self
            .hook(number, |worker, call| worker.cancelled(call.session(), Some(call.transaction_on_path(OWN_PATH))));
        if sent.is_none() {
            return;
        }
        match crosses {
            true => self.within(CROSSING_MICROS, Step::Answer(number)),
            false => self.within(SECOND, Step::Refuse(number, 487)),
        }
    }

    /// The INVITE fails; 487 ends one that was cancelled.
    pub(super) fn refuse(&mut self, number: usize, code: u16) {
        let was_cancelled = code == 487 && self.calls[number].stage == Stage::Over;
        if self.calls[number].stage != Stage::Granted && !was_cancelled {
            return;
        }
        self.calls[number].stage = Stage::Over;
        let sent = self
            .hook(number, |worker, call| worker.failed(call.session(), Some(call.transaction_on_path(OWN_PATH)), code));
        if sent.is_some() {
            self.has_ended(number);
        }
    }
}
