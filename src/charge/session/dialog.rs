//! The dialogs of a session: one INVITE that is forked has several (RFC 3261, 12 and 13.2.2.4). Each is a leg of the one
//! reservation, by the hash of the answering side's tag.

use super::{Dialog, LINGER, Outcome, Phase, Session, TraceEvent, TraceEventKind};
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// Legs of a session at most; dialogs beyond them are not told apart.
const LEGS_MAX: usize = 16;

/// A dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leg {
    tag: u64,
    state: LegState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum LegState {
    /// A reliable provisional response.
    Early,
    /// A 2xx.
    Confirmed,
    /// A BYE, which may not have reached the other side.
    Ended,
    /// The BYE was answered by the other side, or is the server's own.
    Over,
}

impl Session {
    /// Whether a 2xx has gone to the inviting side.
    pub fn is_answered(&self) -> bool {
        self.answered
    }

    /// A reliable provisional response.
    pub(super) fn on_early_dialog(&mut self, leg: u64) {
        self.raise_leg(leg, LegState::Early);
    }

    /// A 2xx wins over a CANCEL that it crossed (RFC 3261, 9.1): the session lives until BYE. A BYE of this leg that was
    /// read before its 2xx came through another ring.
    pub(super) fn on_answered(&mut self, leg: u64, at: Time) {
        let is_new = self.raise_leg(leg, LegState::Confirmed);
        if is_new || !self.answered {
            self.step(at, TraceEvent::new(TraceEventKind::Answered));
        }
        self.answered = true;
        if self.dialog == Dialog::Unborn || is_new && self.outcome != Some(Outcome::HostStopped) {
            self.dialog = Dialog::Alive;
        }
        if matches!(self.phase, Phase::Cancelled { .. }) {
            self.phase = Phase::Open;
        }
    }

    /// A BYE ends its leg; that of the last leg ends the session.
    pub(super) fn on_bye(&mut self, leg: u64, at: Time) {
        self.step(at, TraceEvent::new(TraceEventKind::Bye));
        self.raise_leg(leg, LegState::Ended);
        if !self.has_living_leg() {
            self.end(Outcome::Bye);
        }
    }

    /// The other side knows that a dialog is over. Once it knows so of all of them, nothing can come but late frames.
    pub(super) fn on_dialog_over(&mut self, leg: u64, at: Time) {
        if !self.legs.iter().any(|known| known.tag == leg && known.state >= LegState::Ended) {
            // The BYE is still to be read, from another ring.
            self.on_bye(leg, at);
        }
        self.raise_leg(leg, LegState::Over);
        if self.legs.iter().all(|leg| matches!(leg.state, LegState::Early | LegState::Over)) {
            self.end_dialog(at);
        }
    }

    /// The dialogs are over: the server knows, or the host is gone.
    pub(super) fn end_dialog(&mut self, at: Time) {
        self.dialog = Dialog::Dead;
        self.linger(at);
    }

    /// The INVITE leads to no dialog, as far as is known.
    pub(super) fn has_no_dialog(&mut self, at: Time) {
        if self.dialog == Dialog::Alive && !self.answered {
            self.dialog = Dialog::Unborn;
            self.linger(at);
        }
    }

    /// A closed session stays only for late frames from now on.
    fn linger(&mut self, at: Time) {
        if let Phase::Closed { until } = &mut self.phase {
            *until = at.after_seconds(LINGER);
        }
    }

    /// Early dialogs count until one is confirmed: those that are not confirmed then end by themselves (RFC 3261,
    /// 13.2.2.4).
    fn has_living_leg(&self) -> bool {
        let living = if self.answered { LegState::Confirmed } else { LegState::Early };
        self.legs.iter().any(|leg| leg.state == living)
    }

    /// Whether this state is a new one of this leg: states only rise. 0 is a leg that is not known by its tag.
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
}
