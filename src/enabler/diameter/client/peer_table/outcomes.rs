//! How requests end: answered, timed out or lost.

use super::{Event, PeerTable};
use crate::charge::time::Time;
use crate::enabler::diameter::client::peer::Peer;
use crate::enabler::diameter::client::pending::{Connection, Match, PendingRequest, Serial};
use crate::wire::diameter::{HopByHop, Message, ResultCode, dictionary};
use std::rc::Rc;

impl PeerTable {
    /// Handles an answer from this peer.
    pub(super) fn answered(&mut self, slot: usize, message: Vec<u8>, now: Time) {
        let number = self.slots.get(slot).map_or(0, |slot| slot.number);
        let Some(header) = Message::parse(&message).map(|message| message.header) else { return };
        let found = self.requests.answered(&header, Connection { slot, number });
        match &found {
            Match::Pending(..) => self.restore(slot, now),
            // Another peer has answered first.
            Match::Finished(serial, _) if self.is_probe(slot, *serial, now) => self.restore(slot, now),
            Match::Finished(..) | Match::None => {}
        }
        match found {
            Match::None => self.counters.unmatched += 1,
            Match::Finished(_, name) => {
                self.counters.late += 1;
                let from = self.host(slot);
                self.events.push_back(Event::Late { name, from, message });
            }
            Match::Pending(serial, pending) if pending.may_move && is_not_delivered(&message) => {
                self.refused(slot, serial, pending, message, now);
            }
            Match::Pending(serial, pending) => self.answered_in_time(slot, serial, pending, message, now),
        }
    }

    /// Whether this request is the probe of a demoted peer, and its deadline has not passed.
    fn is_probe(&self, slot: usize, serial: Serial, now: Time) -> bool {
        let probe = self.slots.get(slot).and_then(|slot| slot.demoted?.probe);
        probe.is_some_and(|probe| probe.serial == serial && now < probe.deadline)
    }

    /// Sends a request that this peer could not deliver to another peer; if there is none, `message` is the answer.
    fn refused(&mut self, slot: usize, serial: Serial, mut pending: PendingRequest, message: Vec<u8>, now: Time) {
        pending.refused_by.push(slot);
        if let Some(host) = self.redirected_to(&message) {
            pending.preferred_host = Some(host);
        }
        let is_pending_here = pending.slot == slot;
        self.requests.put_back(serial, pending);
        // A request that has moved is pending at the other peer only.
        if is_pending_here
            && !self.relocate(serial, slot, false)
            && let Some(pending) = self.requests.take(serial)
        {
            self.answered_in_time(slot, serial, pending, message, now);
        }
    }

    /// Returns the first open peer that an answer with 3006 names as Redirect-Host (RFC 6733, 6.1.8 and 6.12). Hosts
    /// that are not configured are not connected.
    fn redirected_to(&self, answer: &[u8]) -> Option<Box<str>> {
        let answer = Message::parse(answer)?;
        let uris = answer.avps().map_while(Result::ok).filter(|avp| avp.is(dictionary::REDIRECT_HOST));
        let hosts = uris.filter_map(|avp| avp.text().ok().and_then(host_of));
        let mut open = hosts.filter(|host| self.slots.iter().any(|slot| slot.is_host(host) && slot.is_open()));
        open.next().map(Box::from)
    }

    fn answered_in_time(&mut self, slot: usize, serial: Serial, pending: PendingRequest, message: Vec<u8>, now: Time) {
        self.counters.answered += 1;
        if let Some(slot) = self.slots.get_mut(pending.slot) {
            slot.pending.remove(&serial);
        }
        let from = self.host(slot);
        let (name, micros) = (pending.name, now.micros_since(pending.sent_at));
        let elsewhere = match pending.copies.is_empty() {
            true => pending.written_to,
            false => {
                let finished = [(serial, pending)];
                self.withdraw(&finished);
                finished.into_iter().find_map(|(serial, pending)| self.finish(serial, pending, now))
            }
        };
        let elsewhere = elsewhere.filter(|host| *host != from);
        self.events.push_back(Event::Answered { name, from, message, micros, elsewhere });
    }

    /// Ends the requests whose deadline has passed.
    pub(super) fn time_out(&mut self, now: Time) {
        let mut overdue = Vec::new();
        while let Some(serial) = self.requests.overdue(now) {
            overdue.extend(self.requests.take(serial).map(|pending| (serial, pending)));
        }
        self.withdraw(&overdue);
        for (serial, pending) in overdue {
            if let Some(slot) = self.slots.get_mut(pending.slot) {
                slot.pending.remove(&serial);
            }
            self.counters.timed_out += 1;
            self.demote(pending.slot, pending.sent_at, now);
            let (name, written_to) = (pending.name, self.finish(serial, pending, now));
            self.events.push_back(Event::TimedOut { name, written_to });
        }
    }

    /// Ends a request whose connection is lost.
    pub(super) fn lose(&mut self, serial: Serial, now: Time) {
        let Some(pending) = self.requests.take(serial) else { return };
        self.counters.failed += 1;
        let lost = [(serial, pending)];
        self.withdraw(&lost);
        for (serial, pending) in lost {
            let (name, written_to) = (pending.name, self.finish(serial, pending, now));
            self.events.push_back(Event::Lost { name, written_to });
        }
    }

    /// Records the last peer that has received a whole copy of a request. Must be called while that connection is open.
    pub(super) fn note_written(&mut self, serial: Serial) {
        let Some(pending) = self.requests.get(serial) else { return };
        let written = |(peer, number): (&Peer, u64)| peer.host().filter(|_| peer.is_written(number)).cloned();
        let to = pending.copies.iter().rev().find_map(|copy| self.live_copy(*copy).and_then(written));
        if let Some(pending) = self.requests.get_mut(serial).filter(|_| to.is_some()) {
            pending.written_to = to;
        }
    }

    /// Returns the peer whose open connection carries this copy, and the copy's message number there.
    fn live_copy(&self, hop_by_hop: HopByHop) -> Option<(&Peer, u64)> {
        let copy = self.requests.copy(hop_by_hop)?;
        let slot = self.slots.get(copy.connection.slot)?;
        (slot.connected && slot.number == copy.connection.number).then_some((&slot.peer, copy.number))
    }

    /// Removes unsent copies of finished requests from the output buffers.
    fn withdraw(&mut self, finished: &[(Serial, PendingRequest)]) {
        let mut numbers = vec![Vec::new(); self.slots.len()];
        for copy in finished.iter().flat_map(|(_, pending)| &pending.copies) {
            let Some((peer, number)) = self.live_copy(*copy) else { continue };
            let is_unsent = !peer.is_begun(number);
            let slot = self.requests.copy(*copy).map(|copy| copy.connection.slot);
            if let Some(numbers) = slot.filter(|_| is_unsent).and_then(|slot| numbers.get_mut(slot)) {
                numbers.push(number);
                self.requests.drop_copy(*copy);
            }
        }
        for (slot, mut numbers) in self.slots.iter_mut().zip(numbers).filter(|(_, numbers)| !numbers.is_empty()) {
            numbers.sort_unstable();
            slot.peer.withdraw(&numbers);
        }
    }

    /// Keeps the sent copies of a finished request, so that late answers can be matched. Returns the host that has
    /// received a copy, or will because its first octets are sent.
    fn finish(&mut self, serial: Serial, pending: PendingRequest, now: Time) -> Option<Rc<str>> {
        let is_live = |copy: &HopByHop| self.live_copy(*copy).is_some();
        let (live, dead): (Vec<_>, Vec<_>) = pending.copies.into_iter().partition(is_live);
        dead.into_iter().for_each(|copy| self.requests.drop_copy(copy));
        let host = |copy: &HopByHop| self.live_copy(*copy).and_then(|(peer, _)| peer.host().cloned());
        let written_to = live.last().and_then(host).or(pending.written_to);
        self.requests.remember(serial, pending.name, live, now);
        written_to
    }
}

/// Whether an answer reports that the request was not delivered and may succeed at another peer (RFC 6733, 7.1.3; RFC
/// 8506, 5.7). The next copy is sent without the T flag, because the request has received an error answer (RFC 6733, 3).
fn is_not_delivered(answer: &[u8]) -> bool {
    let result = Message::parse(answer).and_then(|answer| answer.find(dictionary::RESULT_CODE)?.u32().ok());
    let codes = [
        ResultCode::UNABLE_TO_DELIVER,
        ResultCode::TOO_BUSY,
        ResultCode::LOOP_DETECTED,
        ResultCode::REDIRECT_INDICATION,
    ];
    result.is_some_and(|result| codes.contains(&ResultCode(result)))
}

/// Returns the host of a DiameterURI (RFC 6733, 4.3.1): `aaa://host:port;transport=tcp`.
fn host_of(uri: &str) -> Option<&str> {
    let (scheme, rest) = uri.split_once("://")?;
    let host = rest.split([':', ';']).next()?;
    (["aaa", "aaas"].contains(&scheme) && !host.is_empty()).then_some(host)
}
