//! Which peer gets a request: choice, failover to another peer (RFC 6733, 5.5.4), and demotion of a peer whose
//! application does not answer (RFC 8506, 5.7).

use super::{Demoted, OUTPUT_MAX, PeerSlot, PeerTable, Probe, Refused, Request};
use crate::charge::time::Time;
use crate::enabler::diameter::client::peer::Fitness;
use crate::enabler::diameter::client::pending::{Connection, Serial};
use crate::wire::diameter::Flags;

/// Seconds between two requests that try a demoted peer.
const PROBE_INTERVAL_SECONDS: u32 = 10;

/// Seconds after which another peer gets a copy of such a request.
const PROBE_TIMEOUT_SECONDS: u32 = 1;

impl PeerSlot {
    /// Whether the peer has this Origin-Host.
    pub(super) fn is_host(&self, name: &str) -> bool {
        self.peer.host().is_some_and(|host| host.eq_ignore_ascii_case(name))
    }

    /// Whether the peer is open, on probation or not.
    pub(super) fn is_open(&self) -> bool {
        self.peer.fitness() != Fitness::Unfit
    }

    /// Whether the peer is open and answers.
    fn serves(&self) -> bool {
        self.peer.fitness() == Fitness::Fit && self.demoted.is_none()
    }
}

impl PeerTable {
    /// Chooses the best open peer with room: fit before on probation, then not demoted, then preferred, then by
    /// position. `bound_to`: only this host is eligible. `not`: positions that are not.
    pub(super) fn choose(
        &self,
        preferred: Option<&str>,
        bound_to: Option<&str>,
        not: &[usize],
        octets: usize,
    ) -> Result<usize, Refused> {
        let is_eligible = |slot: &PeerSlot| bound_to.is_none_or(|name| slot.is_host(name)) && slot.is_open();
        let rank = |slot: &PeerSlot| {
            let is_preferred = preferred.is_some_and(|name| slot.is_host(name));
            (slot.peer.fitness(), slot.demoted.is_none(), is_preferred)
        };
        let open = || self.slots.iter().enumerate().filter(|(at, slot)| !not.contains(at) && is_eligible(slot));
        // Reversed, because max_by_key returns the last of equal elements.
        match open().rev().filter(|(_, slot)| self.has_room(slot, octets)).max_by_key(|(_, slot)| rank(slot)) {
            Some((best, _)) => Ok(best),
            None if open().next().is_some() => Err(Refused::Full),
            None => Err(Refused::NoPeer),
        }
    }

    /// Whether a peer may get one more request of this size.
    fn has_room(&self, slot: &PeerSlot, octets: usize) -> bool {
        slot.pending.len() < self.in_flight_max && slot.peer.output().len() + octets <= OUTPUT_MAX
    }

    /// Queues a copy of a request for this peer.
    pub(super) fn dispatch(&mut self, serial: Serial, slot: usize, message: &[u8], possible_duplicate: bool) {
        let Some(end_to_end) = self.requests.get(serial).map(|pending| pending.end_to_end) else { return };
        let Some(to) = self.slots.get_mut(slot) else { return };
        let mut hop_by_hop = self.node.hop_by_hop();
        while self.requests.is_taken(hop_by_hop) {
            hop_by_hop = self.node.hop_by_hop();
        }
        let flags = if possible_duplicate { Flags::RETRANSMITTED } else { Flags::default() };
        let message_number = to.peer.send(message, flags, hop_by_hop, end_to_end);
        to.pending.insert(serial);
        self.requests.sent(serial, hop_by_hop, Connection { slot, number: to.number }, message_number);
    }

    /// Moves a request to another peer and returns whether there is one. The copy keeps the End-to-End Identifier. It
    /// has the T flag if the first peer may have received the request (RFC 6733, 3), or may still receive it because it
    /// is `connected`.
    pub(super) fn relocate(&mut self, serial: Serial, from: usize, connected: bool) -> bool {
        let Some(pending) = self.requests.get_mut(serial) else { return false };
        let may_have_arrived = pending.written_to.is_some() || connected;
        if !pending.may_move || (pending.at_most_once && may_have_arrived) {
            return false;
        }
        let message = std::mem::take(&mut pending.message);
        let possible_duplicate = pending.possible_duplicate || may_have_arrived;
        let preferred = pending.preferred_host.take();
        let not = std::mem::take(&mut pending.refused_by);
        let target = self.choose(preferred.as_deref(), None, &not, message.len()).ok().filter(|target| *target != from);
        if let Some(target) = target {
            self.dispatch(serial, target, &message, possible_duplicate);
            self.counters.resent += 1;
            if let Some(from) = self.slots.get_mut(from) {
                from.pending.remove(&serial);
            }
        }
        if let Some(pending) = self.requests.get_mut(serial) {
            pending.message = message;
            pending.preferred_host = preferred;
            pending.refused_by = not;
            pending.possible_duplicate |= connected && target.is_some();
        }
        target.is_some()
    }

    /// Moves the requests of a peer that is connected but does not answer. Those that cannot move stay pending: an
    /// answer may still arrive.
    pub(super) fn fail_over(&mut self, slot: usize) {
        let Some(pending) = self.slots.get(slot).map(|slot| slot.pending.clone()) else { return };
        for serial in pending {
            self.note_written(serial);
            self.relocate(serial, slot, true);
        }
    }

    /// The peers that are connected and not open.
    pub(super) fn silent_peers(&self) -> Vec<usize> {
        let silent = |(_, slot): &(usize, &PeerSlot)| slot.connected && !slot.is_open();
        self.slots.iter().enumerate().filter(silent).map(|(at, _)| at).collect()
    }

    /// Whether another peer than this one is open and answers.
    pub fn is_served_without(&self, slot: usize) -> bool {
        self.slots.iter().enumerate().any(|(at, other)| at != slot && other.serves())
    }

    /// Whether this peer is open but demoted: it is used only if no other peer serves.
    pub fn is_demoted(&self, slot: usize) -> bool {
        self.slots.get(slot).is_some_and(|slot| slot.demoted.is_some() && slot.peer.fitness() == Fitness::Fit)
    }

    /// A request sent to this peer at `sent_at` has timed out. If the peer has answered no request since, its
    /// application may hang although its watchdog answers: another peer serves, if there is one (RFC 8506, 5.7).
    pub(super) fn demote(&mut self, slot: usize, sent_at: Time, now: Time) {
        let is_silent = |slot: &PeerSlot| slot.connected && slot.demoted.is_none() && slot.answered_at <= sent_at;
        if !self.slots.get(slot).is_some_and(is_silent) {
            return;
        }
        if !self.is_served_without(slot) {
            // No other peer serves: the next requests try those that are demoted.
            self.slots.iter_mut().filter_map(|slot| slot.demoted.as_mut()).for_each(|demoted| demoted.probe_at = now);
            return;
        }
        let Some(demoted) = self.slots.get_mut(slot) else { return };
        demoted.demoted = Some(Demoted { probe_at: now.after_seconds(PROBE_INTERVAL_SECONDS), probe: None });
        let why = format!(
            "peer {}: a request timed out and no later one was answered; other peers serve until it answers",
            demoted.label
        );
        self.fail_over(slot);
        self.down(slot, why);
    }

    /// This peer has answered a request in time: it is no longer demoted.
    pub(super) fn restore(&mut self, slot: usize, now: Time) {
        let Some(restored) = self.slots.get_mut(slot) else { return };
        restored.answered_at = now;
        if restored.demoted.take().is_some() && restored.is_open() {
            self.ready(slot);
        }
    }

    /// Returns the demoted peer that this request tries instead of the chosen one. The request must be one that may
    /// move to another peer, may be executed twice, and belongs to no session of another peer.
    pub(super) fn peer_to_probe(&self, chosen: usize, request: &Request<'_>, now: Time) -> Option<usize> {
        let may_probe = request.may_move && !request.at_most_once && request.preferred_host.is_none();
        let octets = request.message.len();
        let is_due = |(at, slot): &(usize, &PeerSlot)| {
            let is_due = slot.demoted.is_some_and(|demoted| demoted.probe_at <= now);
            is_due && *at != chosen && slot.peer.fitness() == Fitness::Fit && self.has_room(slot, octets)
        };
        self.slots.iter().enumerate().filter(|_| may_probe).find(is_due).map(|(at, _)| at)
    }

    /// A request was sent to a demoted peer to try it.
    pub(super) fn note_probe(&mut self, slot: usize, serial: Serial, deadline: Time, now: Time) {
        if let Some(demoted) = self.slots.get_mut(slot).and_then(|slot| slot.demoted.as_mut()) {
            let move_at = Some(now.after_seconds(PROBE_TIMEOUT_SECONDS));
            demoted.probe = Some(Probe { serial, move_at, deadline });
            demoted.probe_at = now.after_seconds(PROBE_INTERVAL_SECONDS);
        }
    }

    /// Moves requests that a demoted peer has not answered for [`PROBE_TIMEOUT_SECONDS`].
    pub(super) fn move_probes(&mut self, now: Time) {
        for slot in 0..self.slots.len() {
            let Some(demoted) = self.slots.get_mut(slot).and_then(|slot| slot.demoted.as_mut()) else { continue };
            let is_due = |probe: &&mut Probe| probe.move_at.is_some_and(|at| at <= now);
            let Some(probe) = demoted.probe.as_mut().filter(is_due) else { continue };
            probe.move_at = None;
            let serial = probe.serial;
            if self.requests.get(serial).is_some_and(|pending| pending.slot == slot) {
                self.note_written(serial);
                self.relocate(serial, slot, true);
            }
        }
    }
}
