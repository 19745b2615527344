//! The dialog machine: phase of the session, SIP legs and MSRP connections.
//!
//! A forked INVITE has several dialogs (RFC 3261, 12 and 13.2.2.4). Each is a leg of the one session, identified by the
//! hash of the answering side's tag.

use super::common::Common;
use super::output::{Decision, EndReason, Output, Verdict};
use super::rule::{CloseCause, Rule};
use super::takeover::ClockShift;
use super::trace::{TraceEvent, TraceEventKind};
use super::{CLOSED_DIALOG_SECONDS, CLOSED_LINGER_SECONDS, RING_SKEW_SECONDS};
use crate::charge::event::{Event, Stop};
use crate::charge::policy::Policy;
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// Seconds after a CANCEL within which a 2xx may still arrive: both may cross, and the 2xx is retransmitted for 64*T1
/// (RFC 3261, 9.1 and 13.3.1.4).
const CANCEL_CROSSING_SECONDS: u32 = 32;
/// Legs tracked per session.
const LEGS_MAX: usize = 16;
/// Connections remembered: two per INVITE; a repeated INVITE brings new ones.
const CONNECTIONS_MAX: usize = 8;
/// Characters kept of the script's reason for ending the session.
const SCRIPT_REASON_CHARS_MAX: usize = 64;

/// State of the session; see the diagram in `session`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    Reserving,
    Open,
    Cancelled { until: Time },
    Closing,
    Draining { until: Time, taken: u32 },
    Settling,
    Closed { until: Time },
    Gone,
}

/// Whether a SIP dialog may still carry messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Liveness {
    /// A dialog exists or may still be established.
    Alive,
    /// The INVITE was cancelled or refused. A 2xx that crossed the CANCEL still makes it `Alive` (RFC 3261, 9.1).
    NotEstablished,
    /// The other side knows that all dialogs have ended, or the host has stopped.
    Over,
}

/// One dialog of the INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Leg {
    tag: u64,
    state: LegState,
}

/// State of a leg; it only rises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum LegState {
    /// A reliable provisional response was sent.
    Early,
    /// A 2xx was sent.
    Confirmed,
    /// A BYE was seen; it may not have reached the other side.
    Ended,
    /// The other side answered the BYE, or the server sent it.
    Over,
}

/// Phase, verdict, legs and connections of a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Dialog {
    phase: Phase,
    liveness: Liveness,
    /// A 2xx has been sent to the inviting side.
    is_answered: bool,
    legs: ThinVec<Leg>,
    connections: ThinVec<u64>,
    decision: Option<Decision>,
    end_reason: Option<EndReason>,
    /// The script's own text for why it ended the session.
    script_reason: Option<Box<str>>,
    last_activity: Time,
}

/// Queries.
impl Dialog {
    pub(super) fn new(now: Time) -> Dialog {
        Dialog {
            phase: Phase::Reserving,
            liveness: Liveness::Alive,
            is_answered: false,
            legs: ThinVec::new(),
            connections: ThinVec::new(),
            decision: None,
            end_reason: None,
            script_reason: None,
            last_activity: now,
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether the gate lets messages pass.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.phase, Phase::Open | Phase::Cancelled { .. })
    }

    /// Whether a grant is of use: the INVITE waits for one, or messages pass.
    pub(super) fn may_be_served(&self) -> bool {
        self.is_served() || self.phase == Phase::Reserving
    }

    /// Whether the session is not settled yet.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.phase, Phase::Closed { .. } | Phase::Gone)
    }

    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    pub(super) fn is_granted(&self) -> bool {
        self.decision == Some(Decision::Granted)
    }

    pub(super) fn decision(&self) -> Option<Decision> {
        self.decision
    }

    pub(super) fn end_reason(&self) -> Option<EndReason> {
        self.end_reason
    }

    /// Why messages are settled when the session ends.
    pub(super) fn close_cause(&self) -> CloseCause {
        CloseCause::Session(self.end_reason.unwrap_or(EndReason::Script))
    }

    pub(super) fn last_activity(&self) -> Time {
        self.last_activity
    }

    pub(super) fn connections(&self) -> &[u64] {
        &self.connections
    }

    /// When the session ends for lack of activity.
    pub(super) fn idle_at(&self, policy: &Policy) -> Time {
        self.last_activity.after_seconds(policy.hold_timeout)
    }
}

/// Events and timers.
impl Dialog {
    /// Handles what an event means for the phase, the legs and the connections.
    pub(super) fn on_event(&mut self, event: &Event<'_>, at: Time, common: &mut Common) {
        self.note_activity(event, at);
        match event {
            Event::EarlyDialog { leg } => {
                self.raise_leg(*leg, LegState::Early);
            }
            Event::Answered { leg } => self.on_answered(*leg, at, common),
            Event::Failed { code, .. } => self.on_invite_failed(*code, at, common),
            Event::Cancelled { .. } => self.on_cancelled(at, common),
            Event::Bye { leg } => self.on_bye(*leg, at, common),
            Event::DialogOver { leg } => self.on_dialog_over(*leg, at, common),
            Event::End { reason } => self.on_script_end(reason, at, common),
            Event::HostStopped => {
                self.set_over(at);
                self.record_and_end(TraceEventKind::HostStopped, EndReason::HostStopped, at, common);
            }
            Event::Abort => self.record_and_end(TraceEventKind::EnablerEnds, EndReason::EnablerEnded, at, common),
            Event::Sent(sent) => {
                self.add_connection(sent.connection);
                self.extend_closed(at);
            }
            // Only frames of the server keep a session that has ended.
            Event::Stopped { why, .. } if *why != Stop::Forged => self.extend_closed(at),
            Event::Responded { connection, .. } | Event::Activity { connection } => self.add_connection(*connection),
            _ => {}
        }
    }

    /// Remembers the time of an event of the parties. A request of the enabler says nothing about them, and the end of the
    /// host is no activity of a session that has ended.
    pub(super) fn note_activity(&mut self, event: &Event<'_>, at: Time) {
        let is_activity = match event {
            Event::Reauthorize { .. } => false,
            Event::HostStopped => self.end_reason.is_none(),
            _ => true,
        };
        if is_activity {
            self.last_activity = self.last_activity.max(at);
        }
    }

    /// Ends a phase whose time is up. `is_quiet`: no request to the enabler is pending or queued.
    pub(super) fn on_timer(&mut self, now: Time, is_quiet: bool, common: &mut Common) {
        match self.phase {
            Phase::Cancelled { until } if until <= now => self.end(EndReason::Cancelled, common),
            Phase::Open if self.idle_at(&common.policy) <= now => {
                common.record(now, TraceEvent::new(TraceEventKind::Idle));
                self.end(EndReason::Idle, common);
            }
            Phase::Closed { until } if until <= now && is_quiet => self.forget(now, common),
            _ => {}
        }
    }

    pub(super) fn deadline(&self, is_quiet: bool, policy: &Policy) -> Option<Time> {
        match self.phase {
            Phase::Open => Some(self.idle_at(policy)),
            Phase::Cancelled { until } | Phase::Draining { until, .. } => Some(until),
            Phase::Closed { until } if is_quiet => Some(until),
            _ => None,
        }
    }

    /// Limits all times to what they can be from `now` on; the clock may have started anew.
    pub(super) fn rebase(&mut self, now: Time) {
        self.last_activity = self.last_activity.min(now);
        let (until, seconds_max) = match &mut self.phase {
            Phase::Cancelled { until } => (until, CANCEL_CROSSING_SECONDS),
            Phase::Draining { until, .. } => (until, RING_SKEW_SECONDS),
            Phase::Closed { until } => (until, CLOSED_DIALOG_SECONDS),
            _ => return,
        };
        *until = (*until).min(now.after_seconds(seconds_max));
    }

    /// Moves all times to the clock of this machine.
    pub(super) fn shift_times(&mut self, shift: ClockShift) {
        shift.apply(&mut self.last_activity);
        if let Phase::Cancelled { until } | Phase::Draining { until, .. } | Phase::Closed { until } = &mut self.phase {
            shift.apply(until);
        }
    }

    /// Repeats outputs for the gate that a stopped engine may not have executed.
    pub(super) fn repeat_outputs(&self, granted: Quota, common: &mut Common) {
        if self.is_served() {
            common.push(Output::Grant(granted));
        } else if self.phase == Phase::Closing {
            common.push(Output::CloseGate);
        }
    }
}

/// How the INVITE is answered.
impl Dialog {
    /// Outputs the verdict, once per session.
    pub(super) fn decide(
        &mut self,
        result: Decision,
        granted: Quota,
        balance: Option<i64>,
        now: Time,
        common: &mut Common,
    ) {
        if self.decision.is_some() {
            return;
        }
        self.decision = Some(result);
        let rule = match result {
            Decision::Granted => Rule::Granted,
            Decision::Denied(denial) => Rule::Denied(denial),
            Decision::Failed(failure) => Rule::Failed(failure),
        };
        let event = TraceEvent::new(TraceEventKind::Verdict).by(rule).worth(granted, common.price_of(granted));
        common.record(now, event.balance(balance));
        common.push(Output::Verdict(Verdict { result, granted, balance }));
    }

    /// Opens a session whose first grant has arrived.
    pub(super) fn open(&mut self, now: Time) {
        if self.phase == Phase::Reserving {
            self.phase = Phase::Open;
            self.last_activity = self.last_activity.max(now);
        }
    }

    /// A 2xx overrides a CANCEL that it crossed (RFC 3261, 9.1): the session lives until BYE. A BYE of this leg may have
    /// been read first, from another ring.
    fn on_answered(&mut self, leg: u64, at: Time, common: &mut Common) {
        let is_new = self.raise_leg(leg, LegState::Confirmed);
        if is_new || !self.is_answered {
            common.record(at, TraceEvent::new(TraceEventKind::Answered));
        }
        self.is_answered = true;
        let may_revive = is_new && self.end_reason != Some(EndReason::HostStopped);
        if self.liveness == Liveness::NotEstablished || may_revive {
            self.liveness = Liveness::Alive;
        }
        if matches!(self.phase, Phase::Cancelled { .. }) {
            self.phase = Phase::Open;
        }
    }

    /// Ignored once the INVITE has been answered or has failed: hosts report the end of every transaction.
    fn on_invite_failed(&mut self, code: u16, at: Time, common: &mut Common) {
        let is_cancelled = matches!(self.phase, Phase::Cancelled { .. });
        if self.is_answered || self.liveness != Liveness::Alive && !is_cancelled {
            return;
        }
        common.record(at, TraceEvent::new(TraceEventKind::InviteFailed).code(code.into()));
        self.set_not_established(at);
        self.end(if is_cancelled { EndReason::Cancelled } else { EndReason::InviteFailed(code) }, common);
    }

    /// While the reservation is pending no 2xx can cross: the INVITE has not been relayed.
    fn on_cancelled(&mut self, at: Time, common: &mut Common) {
        common.record(at, TraceEvent::new(TraceEventKind::Cancelled));
        self.set_not_established(at);
        match self.phase {
            _ if self.is_answered => {}
            Phase::Reserving => self.end(EndReason::Cancelled, common),
            Phase::Open => self.phase = Phase::Cancelled { until: at.after_seconds(CANCEL_CROSSING_SECONDS) },
            _ => {}
        }
    }
}

/// How dialogs end.
impl Dialog {
    /// A BYE ends its leg; that of the last leg ends the session.
    fn on_bye(&mut self, leg: u64, at: Time, common: &mut Common) {
        common.record(at, TraceEvent::new(TraceEventKind::Bye));
        self.raise_leg(leg, LegState::Ended);
        if !self.has_living_leg() {
            self.end(EndReason::Bye, common);
        }
    }

    /// The other side knows that this leg has ended. Once that holds for all legs, only late frames can follow.
    fn on_dialog_over(&mut self, leg: u64, at: Time, common: &mut Common) {
        if !self.legs.iter().any(|known| known.tag == leg && known.state >= LegState::Ended) {
            // The BYE has not been read yet; it is in another ring.
            self.on_bye(leg, at, common);
        }
        self.raise_leg(leg, LegState::Over);
        if self.legs.iter().all(|leg| matches!(leg.state, LegState::Early | LegState::Over)) {
            self.set_over(at);
        }
    }

    fn on_script_end(&mut self, reason: &str, at: Time, common: &mut Common) {
        if self.end_reason.is_none() && !reason.is_empty() {
            self.script_reason = Some(reason.chars().take(SCRIPT_REASON_CHARS_MAX).collect());
        }
        self.record_and_end(TraceEventKind::End, EndReason::Script, at, common);
    }

    fn record_and_end(&mut self, kind: TraceEventKind, reason: EndReason, at: Time, common: &mut Common) {
        common.record(at, TraceEvent::new(kind));
        self.end(reason, common);
    }

    /// Begins the end of the session: the gate is closed. Only the first end counts.
    pub(super) fn end(&mut self, reason: EndReason, common: &mut Common) {
        if self.may_be_served() {
            self.end_reason = Some(reason);
            self.phase = Phase::Closing;
            common.push(Output::CloseGate);
        }
    }

    /// Ends the session of a MESSAGE, which has no gate. Only the first end counts.
    pub(super) fn end_page(&mut self, reason: EndReason, at: Time) {
        if self.may_be_served() {
            self.end_reason = Some(reason);
            self.phase = Phase::Settling;
        }
        self.set_over(at);
    }

    /// Ends a session whose INVITE or MESSAGE is not relayed. `holds_credit`: the enabler may hold a reservation that is to be
    /// released first.
    pub(super) fn end_unserved(&mut self, reason: EndReason, holds_credit: bool, now: Time, common: &mut Common) {
        self.end_reason.get_or_insert(reason);
        self.set_not_established(now);
        if holds_credit {
            self.phase = Phase::Settling;
        } else {
            self.close(now, common);
        }
    }

    /// The gate is closed; waits for SENDs that passed it before. `taken`: final value of the gate's counter.
    pub(super) fn drain(&mut self, taken: u32, now: Time) {
        self.phase = Phase::Draining { until: now.after_seconds(RING_SKEW_SECONDS), taken };
    }

    /// Begins settling once all SENDs that passed the gate have been read, or none can follow. Returns whether it did.
    pub(super) fn settle_when_drained(&mut self, read: u32, now: Time) -> bool {
        match self.phase {
            Phase::Draining { until, taken } if read >= taken || until <= now => {
                self.phase = Phase::Settling;
                true
            }
            _ => false,
        }
    }

    /// Closes the session: nothing is held by the enabler and nothing is pending.
    pub(super) fn close(&mut self, now: Time, common: &mut Common) {
        let until = now.max(self.last_activity).after_seconds(CLOSED_LINGER_SECONDS);
        self.phase = Phase::Closed { until };
        let event = TraceEvent::new(TraceEventKind::Closed).messages(common.counts.debited);
        common.record(now, self.end_reason.map_or(event.clone(), |reason| event.by(Rule::Ended(reason))));
        let reason = self.end_reason.map_or("", EndReason::as_str);
        let outcome = self.script_reason.clone().unwrap_or_else(|| reason.into());
        common.push(Output::Closed { outcome });
    }

    /// Drops the session unless its dialog is alive: a party that was refused must not be served without charge.
    fn forget(&mut self, now: Time, common: &mut Common) {
        let until = self.last_activity.after_seconds(CLOSED_DIALOG_SECONDS);
        if self.liveness == Liveness::Alive && until > now {
            self.phase = Phase::Closed { until };
            return;
        }
        self.phase = Phase::Gone;
        common.push(Output::Forget);
    }

    /// Extends the closed phase, so that SENDs that still follow are rejected.
    fn extend_closed(&mut self, at: Time) {
        if let Phase::Closed { until } = &mut self.phase {
            *until = (*until).max(at.after_seconds(CLOSED_LINGER_SECONDS));
        }
    }

    fn set_over(&mut self, at: Time) {
        self.liveness = Liveness::Over;
        self.linger(at);
    }

    /// The INVITE will not establish a dialog, as far as is known.
    pub(super) fn set_not_established(&mut self, at: Time) {
        if self.liveness == Liveness::Alive && !self.is_answered {
            self.liveness = Liveness::NotEstablished;
            self.linger(at);
        }
    }

    /// Limits the closed phase to the time of late frames.
    fn linger(&mut self, at: Time) {
        if let Phase::Closed { until } = &mut self.phase {
            *until = at.after_seconds(CLOSED_LINGER_SECONDS);
        }
    }
}

/// Legs and connections.
impl Dialog {
    /// Early dialogs count until one is confirmed: the others then end by themselves (RFC 3261, 13.2.2.4).
    fn has_living_leg(&self) -> bool {
        let living = if self.is_answered { LegState::Confirmed } else { LegState::Early };
        self.legs.iter().any(|leg| leg.state == living)
    }

    /// Raises the state of a leg. Returns whether the state is new; false for tag 0, a leg that is not known by its tag.
    fn raise_leg(&mut self, tag: u64, state: LegState) -> bool {
        if tag == 0 {
            return false;
        }
        if let Some(leg) = self.legs.iter_mut().find(|leg| leg.tag == tag) {
            let is_new = state > leg.state;
            leg.state = leg.state.max(state);
            return is_new;
        }
        let has_room = self.legs.len() < LEGS_MAX;
        if has_room {
            self.legs.reserve_exact(1);
            self.legs.push(Leg { tag, state });
        }
        has_room
    }

    /// Remembers a connection that carries frames of the session; 0 is an unknown one.
    fn add_connection(&mut self, connection: u64) {
        if connection == 0 || self.connections.contains(&connection) {
            return;
        }
        if self.connections.len() >= CONNECTIONS_MAX {
            self.connections.remove(0);
        }
        self.connections.reserve_exact(1);
        self.connections.push(connection);
    }

    /// Forgets all connections: they were those of another machine.
    pub(super) fn forget_connections(&mut self) {
        self.connections = ThinVec::new();
    }

    /// Forgets a closed connection. Returns whether it carried frames of the session.
    pub(super) fn remove_connection(&mut self, connection: u64) -> bool {
        let place = self.connections.iter().position(|known| *known == connection);
        if let Some(place) = place {
            self.connections.remove(place);
        }
        place.is_some()
    }
}

#[cfg(test)]
impl Dialog {
    /// Octets on the heap.
    pub(super) fn heap_octets(&self) -> usize {
        self.connections.capacity() * size_of::<u64>()
    }
}
