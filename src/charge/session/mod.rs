//! One session of deferred message retrieval: a function of (state, event, time).
//!
//! ```text
//!   INVITE ──► Reserving ── denied, failed ─────────────────────────────────┐
//!                │   │ └─ CANCEL, failure reply, BYE (answer still pending) │
//!                │   └──────────────────────────┐                           │
//!             granted (k of N)                  │                           │
//!                ▼        CANCEL, no 2xx yet    │                           │
//!              Open ─────────────► Cancelled    │                           │
//!                │ ◄──────── 2xx ──────┤        │                           │
//!                │                     │ 487, or 32 s without a 2xx         │
//!                │ last BYE, end, idle ▼        ▼                           │
//!                └─────────────────► Closing   the gate is being closed     │
//!                                       │                                   │
//!              SENDs of other rings ◄───┤ gate_closed(taken)                │
//!              still to be read:        │                                   │
//!                 Draining (2 s) ───────┤ every open message is settled     │
//!                                       ▼                                   │
//!                                   Settling   debits, then the release     │
//!                                       │ all answered                      │
//!                                       ▼                                   ▼
//!                                    Closed   32 s after the BYE and the last frame, an hour if
//!                                       │     the dialog is alive: frames find a closed gate, a
//!                                       │     late SEND is debited at once
//!                                       ▼
//!                                     Gone
//! ```
//!
//! [`Session`] routes events, answers and timers between machines, each with its own state and files:
//!
//! | machine | owns | files |
//! |---|---|---|
//! | `Dialog` | phase, verdict, SIP legs, connections | `dialog` |
//! | `Credit` | reservations, grant, pending request | `credit`, `request`, `reservation`, `validity`, `ahead` |
//! | `Messages` | messages and debits | `messages`, `settled`, `released`, `refund`, `open_message`, `settlement`, `ranges` |
//! | `Page` | what is decided about a SIP MESSAGE | `page` |
//! | `Trace` | events for `explain` | `trace`, `rule` |
//!
//! A takeover by another node concerns all of them: `takeover`.
//!
//! Messages, not the session, decide what is debited; `Credit` decides when that is requested. `common` holds the terms of
//! the session and its outputs, and `parts` is the stored form.
//!
//! Events may arrive in any order and more than once. A response that is read before its SEND is kept for it; a SEND that is
//! read after the end is debited at once, even after the release (the enabler then takes it from the balance). Two things
//! depend on the order of reading, which the engine makes the order of time as far as its rings allow: a response read after
//! the close has debited its message changes nothing, and a `#` read after a 4xx does not cancel the debit, whatever their
//! times.
//!
//! One request is pending at most. Request numbers count up from a per-session offset: enablers deduplicate on (session,
//! number), and a late retransmission of an INVITE recreates a forgotten session under the same key. A debit or release
//! without an answer is sent again under its number, after 1 s and then at intervals that double up to 60 s.

mod ahead;
mod common;
mod credit;
mod dialog;
mod index;
mod messages;
mod open_message;
mod output;
mod page;
mod parts;
mod query;
mod ranges;
mod refund;
mod released;
mod request;
mod reservation;
mod rule;
mod settled;
mod settlement;
mod takeover;
mod trace;
mod validity;

#[cfg(test)]
mod tests;

pub use common::Counts;
pub use output::{Decision, EndReason, Output, Verdict};
pub use page::PAGE_MESSAGE_ID;
pub use query::{UnsettledItem, UnsettledKind};
pub use rule::{CloseCause, Rule};
pub use trace::{TraceClass, TraceEvent, TraceEventKind};

use super::ch2::{Denial, Failure, Response, SessionKey};
use super::event::{Event, Reserve};
use super::policy::{Model, Policy};
use super::tariff::PriceList;
use super::time::Time;
use ahead::Ahead;
use common::{Common, Context};
use credit::Credit;
use dialog::{Dialog, Phase};
use messages::Messages;
use page::Page;
use request::{PendingRequest, Purpose};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use thin_vec::ThinVec;

/// Seconds that a closed session is kept (64*T1 of RFC 3261), so that late frames find a closed gate.
const CLOSED_LINGER_SECONDS: u32 = 32;
/// Seconds that a closed session is kept while its SIP dialog is alive, or its BYE may not have reached the other side:
/// messages of the dialog must not pass unpaid.
const CLOSED_DIALOG_SECONDS: u32 = 3600;
/// Seconds by which an entry of one ring may be read after a later one of another ring.
const RING_SKEW_SECONDS: u32 = 2;

/// First numbers of requests are below this, which leaves as much room to count up.
pub const FIRST_NUMBER_END: u32 = 1 << 31;

/// A session of charging. See the module for its states.
///
/// Drain [`Session::poll`] and [`Session::take_trace`] after every call; what is not drained is not stored with the
/// session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Session {
    common: Common,
    dialog: Dialog,
    credit: Credit,
    messages: Messages,
}

/// Inputs.
impl Session {
    /// Opens a session for an INVITE or MESSAGE and requests its reservation, or refuses if no account can be charged.
    /// `first_number`: number of its first request, below [`FIRST_NUMBER_END`].
    pub fn open(
        key: SessionKey,
        reserve: &Reserve<'_>,
        prices: PriceList,
        policy: Policy,
        first_number: u32,
        now: Time,
    ) -> Session {
        let page = Page::new(reserve, &prices);
        let policy = policy.of_service(reserve.service);
        let policy = Policy { model: page::model(&policy, page.is_some()), ..policy };
        let ahead = match page {
            Some(page) => Ahead::of_page(page.quota),
            None => Ahead::new(&prices, policy.model, reserve.messages, &reserve.files),
        };
        let requested = ahead.requested;
        let mut session = Session {
            common: Common::new(key, reserve, page, prices, policy, now),
            dialog: Dialog::new(now),
            credit: Credit::new(ahead, first_number),
            messages: Messages::default(),
        };
        let (credit, _, mut cx) = session.machines(now);
        cx.record(page.map_or(TraceEvent::new(TraceEventKind::Invite), Page::event).messages(reserve.messages));
        if reserve.account.is_empty() {
            credit.fail(Failure::NoIdentity, &mut cx);
        } else if page.is_some() {
            session.open_page(now);
        } else {
            match policy.model {
                Model::Immediate => credit.grant_unreserved(requested, Rule::ModelImmediate, &mut cx),
                Model::Reserve | Model::Prepay => credit.ask(Purpose::Reserve(requested, Rule::Invite), &mut cx),
            }
        }
        session
    }

    /// Handles an event that a worker of the host saw at `at`, which may be earlier than in the call before.
    pub fn on_event(&mut self, event: &Event<'_>, at: Time) {
        if self.dialog.phase() == Phase::Gone {
            return;
        }
        if self.is_page() {
            return self.on_page_event(event, at);
        }
        self.dialog.on_event(event, at, &mut self.common);
        let (credit, messages, mut cx) = self.machines(at);
        messages.on_event(event, credit, &mut cx);
        credit.on_event(event, messages, &mut cx);
        self.proceed(at);
    }

    /// Handles the enabler's answer to the request of this number; ignored unless that request is pending.
    pub fn on_response(&mut self, number: u32, response: &Response, now: Time) {
        let (credit, messages, mut cx) = self.machines(now);
        let Some(pending) = credit.take_pending(number) else { return };
        route_response(pending, response, credit, messages, &mut cx);
        credit.ask_ahead(0, messages, &cx);
        self.proceed(now);
    }

    /// The enabler granted a request after its timeout. Unless the session holds that reservation, it is released.
    pub fn on_late_grant(&mut self, number: u32, server_binding: Option<Arc<str>>, now: Time) {
        if self.has_reservation(number) || self.dialog.phase() == Phase::Gone {
            return;
        }
        let (credit, _, mut cx) = self.machines(now);
        credit.on_late_grant(number, server_binding, &mut cx);
        self.proceed(now);
    }

    /// The gate is closed; `taken` is the final value of its counter.
    pub fn on_gate_closed(&mut self, taken: u32, now: Time) {
        if self.dialog.phase() != Phase::Closing {
            return;
        }
        self.dialog.drain(taken, now);
        let (credit, messages, mut cx) = self.machines(now);
        messages.settle_when_drained(credit, &mut cx);
        self.proceed(now);
    }

    /// Handles all timers that are due.
    pub fn on_timer(&mut self, now: Time) {
        if self.dialog.phase() == Phase::Gone {
            return;
        }
        let (credit, messages, mut cx) = self.machines(now);
        credit.on_timer(&mut cx);
        messages.on_timer(credit, &mut cx);
        messages.settle_when_drained(credit, &mut cx);
        self.end_idle_page(now);
        let is_quiet = self.is_quiet();
        self.dialog.on_timer(now, is_quiet, &mut self.common);
        self.proceed(now);
    }

    /// Returns when [`Session::on_timer`] is to be called next.
    pub fn deadline(&self) -> Option<Time> {
        let policy = &self.common.policy;
        let messages = self.messages.deadline(policy);
        let dialog = self.dialog.deadline(self.is_quiet(), policy);
        let credit = self.credit.deadline(self.dialog.phase() == Phase::Open);
        messages.into_iter().chain(dialog).chain(credit).min()
    }

    /// Returns the next output.
    pub fn poll(&mut self) -> Option<Output> {
        let output = take_first(&mut self.common.outputs);
        if output.is_none() {
            // Most sessions are idle most of the time, so an empty queue keeps no memory.
            self.common.outputs = ThinVec::new();
        }
        output
    }

    /// Repeats outputs that a stopped engine may not have executed: the pending request, the grant, the closing of the gate.
    /// The verdict is not repeated; [`Session::decision`] returns it.
    ///
    /// The clock may have started anew with the machine: no timer runs longer than it would from `now` on.
    pub fn repeat_outputs(&mut self, now: Time) {
        self.rebase(now);
        let granted = self.credit.granted();
        let (credit, _, mut cx) = self.machines(now);
        credit.resend_pending(&mut cx);
        credit.fail_held_prepay(&mut cx);
        self.dialog.repeat_outputs(granted, &mut self.common);
    }

    /// Applies the operator's decision about the request that is held back: it is sent again (`again`) or counts as done.
    /// Returns whether there was one.
    pub fn resolve(&mut self, again: bool, now: Time) -> bool {
        let (credit, messages, mut cx) = self.machines(now);
        let is_resolved = credit.resolve(again, messages, &mut cx);
        if is_resolved {
            self.proceed(now);
        }
        is_resolved
    }

    /// Returns the End-to-End Identifier of the pending request, assigning `fresh` the first time. Resends reuse it.
    pub fn end_to_end_id(&mut self, fresh: u32) -> u32 {
        self.credit.end_to_end_id(fresh)
    }

    /// The request of this number was sent to this server and will not be answered: the server may have executed it.
    pub fn on_request_lost(&mut self, number: u32, server_binding: &Arc<str>) {
        self.credit.on_request_lost(number, server_binding);
    }

    /// Sets the server binding of the first reservation, if this request opened it.
    pub fn set_server_binding(&mut self, opened_by: u32, server_binding: Arc<str>) {
        if let Some(first) = self.credit.reservations.first_mut().filter(|first| first.opened_by == opened_by) {
            first.server_binding = Some(server_binding);
        }
    }

    /// Sets how much the subscriber may still be granted while the enabler fails.
    pub fn set_on_failure_cap(&mut self, left: u32) {
        self.common.policy.on_failure_cap = left;
    }

    /// Moves renewals that are due to `to`, to spread the load of the enabler.
    pub fn postpone_renewals(&mut self, now: Time, to: Time) {
        self.credit.postpone_renewals(now, to);
    }
}

/// Routing.
impl Session {
    fn machines(&mut self, now: Time) -> (&mut Credit, &mut Messages, Context<'_>) {
        let Session { common, dialog, credit, messages } = self;
        (credit, messages, Context { common, dialog, now })
    }

    /// Sends what is to be requested next, or closes the session once there is nothing more to settle.
    fn proceed(&mut self, now: Time) {
        let is_settling = self.dialog.phase() == Phase::Settling;
        let (credit, messages, mut cx) = self.machines(now);
        credit.proceed(is_settling, messages, &mut cx);
        if is_settling && credit.pending().is_none() {
            self.dialog.close(now, &mut self.common);
        }
    }

    /// Whether no request to the enabler is pending or queued.
    fn is_quiet(&self) -> bool {
        self.credit.is_quiet() && self.messages.debits_queued() == 0
    }

    /// Limits all times to what they can be from `now` on.
    fn rebase(&mut self, now: Time) {
        self.common.opened = self.common.opened.min(now);
        self.dialog.rebase(now);
        self.credit.rebase(now);
        self.messages.rebase(now, &self.common.policy);
    }
}

/// Routes the answer to a request to the machines that it concerns.
fn route_response(
    pending: Box<PendingRequest>,
    response: &Response,
    credit: &mut Credit,
    messages: &mut Messages,
    cx: &mut Context<'_>,
) {
    if page::is_prepay(&pending, cx) {
        return page::route_prepay_response(pending, response, credit, messages, cx);
    }
    let number = pending.number;
    let released = TraceEvent::new(TraceEventKind::Released).request(number);
    match (&pending.purpose, response) {
        (Purpose::Reserve(asked, _), answer) => credit.on_reserved(&pending, *asked, answer, cx),
        (Purpose::Debit(debit), Response::Debited { balance, ended, rest }) => {
            credit.on_debited(&pending, debit, *balance, *ended, cx);
            credit.on_rest(rest.as_ref(), cx);
            messages.keep_refundable(debit, pending.refund_rule, cx);
        }
        // The message was not relayed, so the debit was to be refunded.
        (Purpose::Debit(_), Response::Denied(denial)) if cx.common.is_prepaid() && pending.refund_rule.is_some() => {
            credit.record(TraceEvent::new(TraceEventKind::Denied).request(number).by(Rule::Denied(*denial)), cx);
        }
        (Purpose::Debit(debit), Response::Denied(denial)) => credit.on_debit_denied(debit, number, *denial, cx),
        (Purpose::Debit(debit), Response::Free) => {
            credit.is_free_of_charge = true;
            credit.mark_not_charged(debit, Rule::FreeOfCharge, cx.now, cx);
        }
        (Purpose::Debit(_), Response::NoReservation) if !credit.reservations.is_empty() => {
            credit.on_debit_without_reservation(pending, messages, cx);
        }
        (Purpose::Refund(debit), Response::Refunded { balance }) => credit.on_refunded(debit, number, *balance, cx),
        (Purpose::Refund(debit), Response::Denied(denial)) => credit.on_refund_denied(debit, number, *denial, cx),
        (Purpose::Refund(debit), Response::Free) => {
            credit.on_refund_denied(debit, number, Denial::Refused(CREDIT_CONTROL_NOT_APPLICABLE), cx);
        }
        (Purpose::Release(_), Response::Released { balance }) => credit.record(released.balance(*balance), cx),
        (Purpose::Release(_), Response::Denied(denial)) => credit.record(released.by(Rule::Denied(*denial)), cx),
        (Purpose::Release(_), Response::NoReservation) => credit.record(released.by(Rule::NoReservation), cx),
        (_, Response::Failed(failure)) => credit.ask_later(pending, *failure, cx),
        // The answer to another question is none.
        (_, _) => credit.ask_later(pending, Failure::Enabler, cx),
    }
}

/// Result-Code of a service that is free of charge (RFC 8506, 9.1).
const CREDIT_CONTROL_NOT_APPLICABLE: u32 = 4011;

/// Removes the first item of a short queue.
fn take_first<T>(queue: &mut ThinVec<T>) -> Option<T> {
    (!queue.is_empty()).then(|| queue.remove(0))
}
