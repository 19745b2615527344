//! Takeover of sessions between nodes that share them: what the node does that has lost a session, and the one that has it
//! now.
//!
//! A node loses its sessions when it could not reach the enabler for longer than its lease: another node has taken them
//! over. That node settles each by its copy of the state, and has what the enabler holds for it. The node that has lost
//! it settles it in the same way, by what it knows itself, and its debits use no reservation. Both may debit the same
//! message: the enabler recognises a debit by session, Message-ID and part, and takes it once.

use super::Session;
use super::common::Context;
use super::credit::Credit;
use super::dialog::Phase;
use super::messages::Messages;
use super::output::EndReason;
use super::reservation::Reservations;
use super::rule::Rule;
use super::trace::{TraceEvent, TraceEventKind};
use crate::charge::ch2::{Failure, Reservation};
use crate::charge::event::Event;
use crate::charge::time::Time;

/// Moves times of another machine's clock to this machine's.
#[derive(Clone, Copy)]
pub(super) struct ClockShift {
    /// A time of the other clock.
    theirs: Time,
    /// The same time of this clock.
    ours: Time,
}

impl ClockShift {
    pub(super) fn apply(self, time: &mut Time) {
        *time = match time.0.checked_sub(self.theirs.0) {
            Some(later) => Time(self.ours.0.saturating_add(later)),
            None => Time(self.ours.0.saturating_sub(self.theirs.micros_since(*time))),
        };
    }

    pub(super) fn apply_all<'a>(self, times: impl IntoIterator<Item = &'a mut Time>) {
        times.into_iter().for_each(|time| self.apply(time));
    }
}

impl Session {
    /// Another node has taken the session over. Nothing more of it passes, and it has no reservations any more; a debit
    /// or refund that is not answered is requested again under its number.
    pub fn on_taken_over(&mut self, now: Time) {
        if self.dialog.phase() == Phase::Gone {
            return;
        }
        self.common.is_taken_over = true;
        let (credit, _, mut cx) = self.machines(now);
        cx.record(TraceEvent::new(TraceEventKind::TakenOver));
        credit.on_taken_over(&mut cx);
        if self.is_page() {
            self.take_over_page(now);
        } else {
            self.dialog.end(EndReason::TakenOver, &mut self.common);
        }
        self.proceed(now);
    }

    /// Takes over a session that was loaded from the state of a dead node, and settles it. Its connections ended with that
    /// node, so its times are moved as if it had died now.
    pub fn adopt(&mut self, now: Time) {
        let shift = ClockShift { theirs: self.dialog.last_activity(), ours: now };
        shift.apply(&mut self.common.opened);
        self.dialog.shift_times(shift);
        self.credit.shift_times(shift);
        self.messages.shift_times(shift);
        self.dialog.forget_connections();
        self.common.record(now, TraceEvent::new(TraceEventKind::Adopted));
        self.credit.ask_at_once();
        self.repeat_outputs(now);
        self.on_event(&Event::HostStopped, now);
    }

    /// This node has taken the session over again, from the node that it had lost it to.
    pub fn set_regained(&mut self) {
        self.common.is_taken_over = false;
    }

    /// Returns whether another node has taken the session over.
    pub fn is_taken_over(&self) -> bool {
        self.common.is_taken_over
    }
}

impl Credit {
    fn on_taken_over(&mut self, cx: &mut Context<'_>) {
        self.reservations = Reservations::default();
        self.abandoned.clear();
        self.wanted = None;
        if let Some(pending) = self.pending.take_if(|pending| pending.purpose.debit().is_none()) {
            let event = TraceEvent::new(TraceEventKind::EnablerFailed).request(pending.number);
            self.record(event.by(Rule::Ended(EndReason::TakenOver)), cx);
        }
        if let Some(pending) = &mut self.pending {
            (pending.reservation, pending.server_binding) = (Reservation::None, None);
        }
        if cx.dialog.decision().is_none() {
            // A MESSAGE that is debited before it is relayed: the debit may have been executed.
            self.refund_pending_debit(Rule::Ended(EndReason::TakenOver), |_| true);
            cx.common.set_page_not_charged();
            self.fail(Failure::Enabler, cx);
        }
        if self.pending().is_some_and(|pending| !pending.is_held) {
            // The enabler has just answered this node: a debit that waits for its next attempt need not wait longer.
            self.ask_at_once();
            self.resend_pending(cx);
        }
    }

    fn ask_at_once(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.retry_at = None;
        }
    }

    fn shift_times(&mut self, shift: ClockShift) {
        shift.apply_all(&mut self.refused_at);
        self.shift_validities(shift);
        if let Some(pending) = &mut self.pending {
            shift.apply(&mut pending.first_sent_at);
            shift.apply_all(&mut pending.retry_at);
            shift.apply_all(pending.purpose.debit_mut().map(|debit| &mut debit.since));
        }
    }
}

impl Messages {
    fn shift_times(&mut self, shift: ClockShift) {
        let messages = self.open.iter_mut().chain(&mut self.released);
        messages.for_each(|message| message.shift_times(shift));
        let debits = self.debits.iter_mut().chain(&mut self.refunds).chain(&mut self.refundable);
        shift.apply_all(debits.map(|debit| &mut debit.since));
    }
}
