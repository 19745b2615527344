//! `async(imcharge_reserve(messages, content), ROUTE)` and `imcharge_end()`: the script functions for SIP requests.
//!
//! The host creates the transaction before it calls the function. The order matters: the transaction is watched
//! ([`callbacks`]) and registered as waiting before the engine gets the event, so that the verdict finds it.

use super::charged::{Charged, FREE_CONTENT};
use super::edited_request::{EditedRequest, UNREADABLE_EDITS};
use super::message::{Message, ScriptChoice, bytes};
use super::tm::{Tm, tm};
use super::transaction::{CurrentRequest, Transaction};
use super::{bindings as sys, callbacks, waiting, with_worker};
use crate::guard::guard;
use crate::worker::InviteRefusal;
use crate::worker::reserve_options::{ReserveOptions, number_of_messages};
use crate::worker::sip_input::Invite;
use std::ffi::{c_int, c_void};

/// A parameter of a script function. The host passes eight.
type P = *mut c_void;

/// Script: `async(imcharge_reserve([messages][, content]), ROUTE)`. If no reservation can be requested, the host runs
/// the route at once with a negative `$rc`.
#[allow(clippy::too_many_arguments, reason = "the host's type of a function")]
pub unsafe extern "C" fn reserve(
    message: *mut sys::sip_msg,
    context: *mut sys::async_ctx,
    messages: P,
    content: P,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
) -> c_int {
    // SAFETY: the host passes its request and context, a number or NULL, and a text or NULL.
    let reserved = guard(Err(InviteRefusal::Malformed as c_int), || unsafe {
        let messages = messages.cast::<c_int>().as_ref().map_or(Some(0), |number| number_of_messages(*number));
        let messages = messages.ok_or(InviteRefusal::Malformed as c_int)?;
        let content = content.cast::<sys::_str>().as_ref().map_or(&b""[..], |content| bytes(content));
        reserve_or_refuse(message, context, messages, content)
    });
    match reserved {
        Ok(()) => 1,
        Err(return_code) => {
            // SAFETY: the host's variable for the result of an async function: run the route at once.
            unsafe { sys::async_status = sys::ASYNC_SYNC };
            return_code
        }
    }
}

/// Script: `imcharge_reserve()` without `async`. Always an error, because a script function must not block.
#[allow(clippy::too_many_arguments, reason = "the host's type of a function")]
pub unsafe extern "C" fn reserve_without_async(
    _: *mut sys::sip_msg,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
) -> c_int {
    guard(InviteRefusal::Malformed as c_int, || {
        log::error!(
            "imcharge_reserve: must be called as async(imcharge_reserve(), ROUTE), because the INVITE waits for its verdict"
        );
        InviteRefusal::Malformed as c_int
    })
}

/// Suspends the INVITE or MESSAGE and asks the engine to reserve. The error is `$rc` of the route, which the host runs at once.
///
/// # Safety
/// `message` must be NULL or the host's current request, `context` the host's context of that request or NULL.
unsafe fn reserve_or_refuse(
    message: *mut sys::sip_msg,
    context: *mut sys::async_ctx,
    messages: u32,
    content: &[u8],
) -> Result<(), c_int> {
    let malformed = InviteRefusal::Malformed as c_int;
    // SAFETY: guaranteed by the caller; the route type is an integer of the host.
    let (request, current, route) = unsafe { (Message::new(message), CurrentRequest::new(message), sys::route_type) };
    let (request, current) = request.zip(current).ok_or(malformed)?;
    let is_message = request.method() == Some(sys::METHOD_MESSAGE as c_int);
    if !is_message && request.method() != Some(sys::METHOD_INVITE as c_int) || !request.parse() {
        return Err(malformed);
    }
    if route != sys::REQUEST_ROUTE as c_int || context.is_null() {
        log::error!("imcharge_reserve: call it only in the request route, for an INVITE or MESSAGE");
        return Err(malformed);
    }
    let options = ReserveOptions::of_script(content).ok_or(malformed)?;
    // SAFETY: `message` is the host's current request.
    let choice = unsafe { ScriptChoice::evaluate(message) }.ok_or(malformed)?;
    let edited = EditedRequest::new(request).ok_or(UNREADABLE_EDITS)?;
    let invite = match is_message {
        true => request.charged_request(edited.message(), &choice, messages),
        false => request.invite(edited.message(), &choice, messages),
    };
    let mut invite = invite.ok_or(malformed)?;
    (invite.content, invite.recipients) = (options.content, options.recipients);
    invite.tariff = options.tariff.as_bytes();
    invite.offer = request.body();
    let can_reserve = with_worker(|worker| Charged::check(worker, &invite, &request.body(), is_message));
    let charged = can_reserve.unwrap_or(Err(InviteRefusal::EngineDown)).map_err(|refused| refused as c_int)?;
    let charged = charged.ok_or(FREE_CONTENT)?;
    let tm = tm().ok_or(InviteRefusal::EngineDown as c_int)?;
    let Some(transaction) = tm.current() else {
        log::error!("imcharge_reserve: the proxy has created no transaction; see its own log lines");
        return Err(InviteRefusal::Full as c_int);
    };
    // SAFETY: the context of the current request, guaranteed by the caller.
    invite.suspended = unsafe { waiting::wait(current, transaction, context) };
    let reserved = watch_and_reserve(tm, current, transaction, &invite, charged);
    reserved.inspect_err(|_| waiting::forget(invite.suspended))
}

/// Watches the transaction of a request that is registered as waiting, and asks the engine to reserve.
fn watch_and_reserve(
    tm: &Tm,
    request: CurrentRequest,
    transaction: Transaction,
    invite: &Invite<'_>,
    charged: Charged,
) -> Result<(), c_int> {
    let is_watched = match charged {
        Charged::Invite => callbacks::watch_invite(tm, request, transaction, invite),
        Charged::Message(_) => callbacks::watch_message(tm, request, transaction, invite),
    };
    if !is_watched {
        log::error!(
            "imcharge_reserve: no shared memory to watch the transaction; start the proxy with more (option -m)"
        );
        return Err(InviteRefusal::Full as c_int);
    }
    // A CANCEL that arrived before the transaction was watched has caused no callback.
    if transaction.is_cancelled() {
        waiting::answer_cancelled(tm, request);
        return Err(waiting::CANCELLED);
    }
    let reserved = with_worker(|worker| charged.reserve(worker, invite)).unwrap_or(Err(InviteRefusal::EngineDown));
    reserved.map(|_| ()).map_err(|refused| refused as c_int)
}

/// Script: `imcharge_end([reason])`.
#[allow(clippy::too_many_arguments, reason = "the host's type of a function")]
pub unsafe extern "C" fn end(message: *mut sys::sip_msg, reason: P, _: P, _: P, _: P, _: P, _: P, _: P, _: P) -> c_int {
    guard(-1, || {
        // SAFETY: the host passes its current message, and a text or NULL.
        let (message, reason) = unsafe {
            let reason = reason.cast::<sys::_str>().as_ref().map_or(&b"script"[..], |reason| bytes(reason));
            (Message::new(message), reason)
        };
        let message = message.filter(|message| message.parse_identity());
        let ids = message.and_then(|message| Some((message.dialog()?, message.cseq()?)));
        match ids.and_then(|(dialog, cseq)| with_worker(|worker| worker.end(&dialog, cseq, reason))) {
            Some(true) => 1,
            _ => -1,
        }
    })
}
