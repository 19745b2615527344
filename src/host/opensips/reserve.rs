//! `async(imcharge_reserve(messages), ROUTE)` and `imcharge_end()`: what the script calls on SIP requests.
//!
//! The host makes the transaction before it calls the function. The order matters: the transaction is watched
//! ([`callbacks`](super::callbacks)) and waits before the engine hears of it, so that the verdict always finds it.

use super::callbacks;
use super::left::{Left, UNREADABLE};
use super::message::{Chosen, Message, bytes};
use super::{TM, bindings as sys, waiting, with_worker};
use crate::guard::guard;
use crate::worker::InviteRefusal;
use std::ffi::{c_int, c_void};

/// What the host gives to a function of the script: up to eight parameters.
type P = *mut c_void;

/// Script: `async(imcharge_reserve([messages]), ROUTE)`. Goes on in the route at once, with a negative `$rc`, where
/// nothing could be asked.
#[allow(clippy::too_many_arguments, reason = "the host's form of a function")]
pub unsafe extern "C" fn reserve(
    message: *mut sys::sip_msg,
    context: *mut sys::async_ctx,
    messages: P,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
    _: P,
) -> c_int {
    // SAFETY: the host gives its request and context, and a number where the script has one.
    let waits = guard(Err(InviteRefusal::Malformed as c_int), || unsafe {
        let messages = messages.cast::<c_int>().as_ref().map_or(0, |number| u32::try_from(*number).unwrap_or(0));
        wait_and_ask(message, context, messages)
    });
    match waits {
        Ok(()) => 1,
        Err(return_code) => {
            // SAFETY: the host's own place for what an async function says: go on at once.
            unsafe { sys::async_status = sys::ASYNC_SYNC };
            return_code
        }
    }
}

/// Script: `imcharge_reserve()` without `async`: wrong use, for nothing may block here.
#[allow(clippy::too_many_arguments, reason = "the host's form of a function")]
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
        log::error!("imcharge_reserve: write async(imcharge_reserve(), ROUTE): the INVITE has to wait");
        InviteRefusal::Malformed as c_int
    })
}

/// Makes the INVITE wait and asks the engine. The error is `$rc` of the route that follows at once.
///
/// # Safety
/// `message` must be NULL or the host's current request, `context` what it gives with it.
unsafe fn wait_and_ask(message: *mut sys::sip_msg, context: *mut sys::async_ctx, messages: u32) -> Result<(), c_int> {
    let (malformed, down, full) =
        (InviteRefusal::Malformed as c_int, InviteRefusal::EngineDown as c_int, InviteRefusal::Full as c_int);
    // SAFETY: by the caller's promise; a number of the host's.
    let (request, route) = unsafe { (Message::new(message), sys::route_type) };
    let invite = |request: Message<'_>| request.method() == Some(sys::METHOD_INVITE as c_int);
    let request = request.filter(|request| invite(*request) && request.parse()).ok_or(malformed)?;
    if route != sys::REQUEST_ROUTE as c_int || context.is_null() {
        log::error!("imcharge_reserve: only in the request route, for an INVITE");
        return Err(malformed);
    }
    // SAFETY: `message` is the host's current request.
    let chosen = unsafe { Chosen::of(message) }.ok_or(malformed)?;
    let left = Left::of(request).ok_or(UNREADABLE)?;
    let mut invite = request.invite(left.message(), &chosen, messages).ok_or(malformed)?;
    let can_reserve = with_worker(|worker| worker.can_reserve(&invite, &request.body()));
    can_reserve.unwrap_or(Err(InviteRefusal::EngineDown)).map_err(|refused| refused as c_int)?;
    let transaction = TM.get().and_then(|tm| tm.0.t_gett).ok_or(down)?;
    // SAFETY: tm's own function and its transaction of the current request; the context of that request.
    unsafe {
        let transaction = transaction();
        if !is_transaction(transaction) {
            log::error!("imcharge_reserve: the host has made no transaction");
            return Err(full);
        }
        invite.suspended = waiting::wait(message, transaction, context);
        if !callbacks::watch_invite(message, transaction, &invite) {
            log::error!("imcharge_reserve: the transaction cannot be watched, shared memory is short");
            waiting::forget(invite.suspended);
            return Err(full);
        }
        // A CANCEL that came before is seen by nobody else.
        if waiting::is_cancelled(transaction) {
            waiting::forget(invite.suspended);
            waiting::answer_cancelled(message);
            return Err(waiting::CANCELLED);
        }
    }
    let asked = with_worker(|worker| worker.reserve(&invite)).unwrap_or(Err(InviteRefusal::EngineDown));
    asked.map(|_| ()).map_err(|refused| {
        waiting::forget(invite.suspended);
        refused as c_int
    })
}

/// tm's marks: NULL for none, -1 for not looked up yet.
fn is_transaction(cell: *mut sys::cell) -> bool {
    !cell.is_null() && cell as isize != -1
}

/// Script: `imcharge_end([reason])`.
#[allow(clippy::too_many_arguments, reason = "the host's form of a function")]
pub unsafe extern "C" fn end(message: *mut sys::sip_msg, reason: P, _: P, _: P, _: P, _: P, _: P, _: P, _: P) -> c_int {
    guard(-1, || {
        // SAFETY: the host gives its current message, and a text where the script has one.
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
