//! `imcharge_reserve()` and `imcharge_end()`: the script functions for SIP requests.
//!
//! The order matters: the transaction is created, watched ([`callbacks`]) and suspended before the engine gets the event,
//! so that it is suspended by the time the verdict arrives.

use super::charged::{Charged, FREE_CONTENT};
use super::continuation::Continuation;
use super::edited_request::{EditedRequest, UNREADABLE_EDITS};
use super::message::{Message, ScriptChoice, bytes};
use super::tm::{Creation, Suspension, Tm, tm};
use super::transaction::{CurrentRequest, Transaction};
use super::{bindings as sys, callbacks, with_worker};
use crate::guard::guard;
use crate::worker::InviteRefusal;
use crate::worker::reserve_options::{ReserveOptions, number_of_messages};
use crate::worker::sip_input::Invite;
use std::ffi::{c_char, c_int, c_void};

/// Return value that ends the script: the transaction is suspended, or already answered.
const END_OF_SCRIPT: c_int = 0;

/// Script: `imcharge_reserve(route)`.
pub unsafe extern "C" fn reserve(message: *mut sys::sip_msg, route: *mut c_char, _: *mut c_char) -> c_int {
    // SAFETY: the host passes the request and the result of the fix-up.
    guard(-1, || unsafe { parameter_text(message, route).map_or(-1, |name| reserve_into(message, name, 0, b"")) })
}

/// Script: `imcharge_reserve(route, messages)`.
pub unsafe extern "C" fn reserve_messages(
    message: *mut sys::sip_msg,
    route: *mut c_char,
    messages: *mut c_char,
) -> c_int {
    // SAFETY: the host passes the request and the results of the fix-up.
    guard(-1, || unsafe {
        let Some(number) = parameter_number(message, messages) else { return -1 };
        parameter_text(message, route).map_or(-1, |name| reserve_into(message, name, number, b""))
    })
}

/// Script: `imcharge_reserve(route, messages, content)`.
pub unsafe extern "C" fn reserve_content(
    message: *mut sys::sip_msg,
    route: *mut c_char,
    messages: *mut c_char,
    content: *mut c_char,
) -> c_int {
    // SAFETY: the host passes the request and the results of the fix-up.
    guard(-1, || unsafe {
        let Some(number) = parameter_number(message, messages) else { return -1 };
        // The host evaluates the next text into the same buffer.
        let Some(content) = parameter_text(message, content).map(<[u8]>::to_vec) else { return -1 };
        parameter_text(message, route).map_or(-1, |name| reserve_into(message, name, number, &content))
    })
}

/// KEMI: `KSR.imcharge.reserve(function)`.
pub unsafe extern "C" fn kemi_reserve(message: *mut sys::sip_msg, route: *mut sys::str_) -> c_int {
    // SAFETY: the host passes a request and a text.
    guard(-1, || unsafe { route.as_ref().map_or(-1, |name| reserve_into(message, bytes(name), 0, b"")) })
}

/// KEMI: `KSR.imcharge.reserve_messages(function, messages)`.
pub unsafe extern "C" fn kemi_reserve_messages(
    message: *mut sys::sip_msg,
    route: *mut sys::str_,
    messages: c_int,
) -> c_int {
    // SAFETY: the host passes a request and a text.
    guard(-1, || unsafe { route.as_ref().map_or(-1, |name| reserve_into(message, bytes(name), messages, b"")) })
}

/// KEMI: `KSR.imcharge.reserve_content(function, messages, content)`.
pub unsafe extern "C" fn kemi_reserve_content(
    message: *mut sys::sip_msg,
    route: *mut sys::str_,
    messages: c_int,
    content: *mut sys::str_,
) -> c_int {
    // SAFETY: the host passes a request and two texts.
    guard(-1, || unsafe {
        let (Some(name), Some(content)) = (route.as_ref(), content.as_ref()) else { return -1 };
        reserve_into(message, bytes(name), messages, bytes(content))
    })
}

/// Evaluates a text parameter.
///
/// # Safety
/// `parameter` must come from the host's `fixup_spve`, `message` from the host.
unsafe fn parameter_text<'a>(message: *mut sys::sip_msg, parameter: *mut c_char) -> Option<&'a [u8]> {
    let mut value = sys::_str::default();
    // SAFETY: guaranteed by the caller; the value lives until the host's next evaluation.
    unsafe { (sys::get_str_fparam(&mut value, message, parameter.cast()) == 0).then(|| bytes(&value)) }
}

/// Evaluates a number parameter.
///
/// # Safety
/// `parameter` must come from the host's `fixup_igp`, `message` from the host.
unsafe fn parameter_number(message: *mut sys::sip_msg, parameter: *mut c_char) -> Option<c_int> {
    let mut number: c_int = 0;
    // SAFETY: guaranteed by the caller.
    let has_value = unsafe { sys::get_int_fparam(&mut number, message, parameter.cast()) == 0 };
    if !has_value {
        log::error!("imcharge_reserve: the number of messages has no value");
    }
    has_value.then_some(number)
}

/// Suspends the INVITE or MESSAGE and asks the engine to reserve. Returns what the script function returns.
///
/// # Safety
/// `message` must be NULL or the host's current request.
unsafe fn reserve_into(message: *mut sys::sip_msg, route: &[u8], messages: c_int, content: &[u8]) -> c_int {
    // SAFETY: guaranteed by the caller.
    let (Some(current), Some(request)) = (unsafe { (CurrentRequest::new(message), Message::new(message)) }) else {
        return InviteRefusal::Malformed as c_int;
    };
    let is_message = request.method() == Some(sys::METHOD_MESSAGE as c_int);
    if !is_message && request.method() != Some(sys::METHOD_INVITE as c_int) || !request.parse() {
        return InviteRefusal::Malformed as c_int;
    }
    let Some(continuation) = Continuation::find(route) else {
        log::error!("imcharge_reserve: the script has no route '{}'", String::from_utf8_lossy(route));
        return InviteRefusal::Malformed as c_int;
    };
    let Some(options) = ReserveOptions::of_script(content) else { return InviteRefusal::Malformed as c_int };
    // SAFETY: `message` is the host's current request.
    let Some(choice) = (unsafe { ScriptChoice::evaluate(message) }) else { return InviteRefusal::Malformed as c_int };
    let Some(edited) = EditedRequest::new(request) else { return UNREADABLE_EDITS };
    let Some(messages) = number_of_messages(messages) else { return InviteRefusal::Malformed as c_int };
    let invite = match is_message {
        true => request.charged_request(edited.message(), &choice, messages),
        false => request.invite(edited.message(), &choice, messages),
    };
    let Some(mut invite) = invite else { return InviteRefusal::Malformed as c_int };
    (invite.content, invite.recipients) = (options.content, options.recipients);
    invite.tariff = options.tariff.as_bytes();
    invite.offer = request.body();
    invite.suspended.continuation = continuation.number();
    let Some(tm) = tm() else { return InviteRefusal::EngineDown as c_int };
    // The copy that creates the transaction is the one that is decided about. If each copy were, the first could be refused
    // and the next one reserve.
    let transaction = match tm.transaction(current) {
        Creation::Created(transaction) => transaction,
        Creation::Retransmission => return END_OF_SCRIPT,
        Creation::Failed => {
            log::error!("imcharge_reserve: tm cannot create a transaction; see its own log lines");
            return InviteRefusal::Malformed as c_int;
        }
    };
    let can_reserve = with_worker(|worker| Charged::check(worker, &invite, &request.body(), is_message));
    match can_reserve.unwrap_or(Err(InviteRefusal::EngineDown)) {
        Ok(Some(charged)) => suspend_and_reserve(tm, current, transaction, invite, charged),
        Ok(None) => FREE_CONTENT,
        Err(refused) => refused as c_int,
    }
}

fn suspend_and_reserve(
    tm: &Tm,
    request: CurrentRequest,
    transaction: Transaction,
    mut invite: Invite<'_>,
    charged: Charged,
) -> c_int {
    let is_watched = match charged {
        Charged::Invite => callbacks::watch_invite(tm, request, transaction, &invite.key),
        Charged::Message(_) => callbacks::watch_message(tm, request, transaction, &invite.key),
    };
    if !is_watched {
        log::error!(
            "imcharge_reserve: no shared memory to watch the transaction; start the proxy with more (option -m)"
        );
        return InviteRefusal::Full as c_int;
    }
    let id = match tm.suspend(request) {
        Suspension::Suspended(id) => id,
        Suspension::Cancelled => return END_OF_SCRIPT,
        Suspension::Failed => {
            log::error!("imcharge_reserve: tm cannot suspend the transaction; see its own log lines");
            return InviteRefusal::Malformed as c_int;
        }
    };
    (invite.suspended.index, invite.suspended.label) = (id.index.into(), id.label.into());
    match with_worker(|worker| charged.reserve(worker, &invite)) {
        Some(Ok(_)) => END_OF_SCRIPT,
        refused => {
            tm.cancel_suspend(id);
            refused.and_then(Result::err).unwrap_or(InviteRefusal::EngineDown) as c_int
        }
    }
}

/// Script: `imcharge_end()`.
pub unsafe extern "C" fn end(message: *mut sys::sip_msg, _: *mut c_char, _: *mut c_char) -> c_int {
    // SAFETY: the host passes its current message.
    guard(-1, || unsafe { end_with(message, b"script") })
}

/// Script: `imcharge_end(reason)`.
pub unsafe extern "C" fn end_reason(message: *mut sys::sip_msg, reason: *mut c_char, _: *mut c_char) -> c_int {
    // SAFETY: the host passes its current message and the result of the fix-up.
    guard(-1, || unsafe { parameter_text(message, reason).map_or(-1, |reason| end_with(message, reason)) })
}

/// KEMI: `KSR.imcharge.end_session()`.
pub unsafe extern "C" fn kemi_end(message: *mut sys::sip_msg) -> c_int {
    // SAFETY: the host passes its current message.
    guard(-1, || unsafe { end_with(message, b"script") })
}

/// KEMI: `KSR.imcharge.end_session_reason(reason)`.
pub unsafe extern "C" fn kemi_end_reason(message: *mut sys::sip_msg, reason: *mut sys::str_) -> c_int {
    // SAFETY: the host passes its current message and a text.
    guard(-1, || unsafe { reason.as_ref().map_or(-1, |reason| end_with(message, bytes(reason))) })
}

/// Ends the session of the message. Returns what the script function returns.
///
/// # Safety
/// `message` must be NULL or the host's current message.
unsafe fn end_with(message: *mut sys::sip_msg, reason: &[u8]) -> c_int {
    // SAFETY: guaranteed by the caller.
    let message = unsafe { Message::new(message) }.filter(|message| message.parse_identity());
    let ids = message.and_then(|message| Some((message.dialog()?, message.cseq()?)));
    let Some((dialog, cseq)) = ids else { return -1 };
    match with_worker(|worker| worker.end(&dialog, cseq, reason)) {
        Some(true) => 1,
        _ => -1,
    }
}

/// Fix-up of `imcharge_reserve`: refuses the name of a route that the script does not have.
pub unsafe extern "C" fn fixup_reserve(parameter: *mut *mut c_void, number: c_int) -> c_int {
    guard(-1, || {
        if number == 2 {
            // SAFETY: the host's own fix-up for whole numbers on the host's own parameter.
            return unsafe { sys::fixup_igp_null(parameter, 1) };
        }
        if number == 3 {
            return fixup_content(parameter);
        }
        // SAFETY: before the fix-up the parameter is a C string.
        let name = unsafe { std::ffi::CStr::from_ptr((*parameter).cast::<c_char>()) }.to_bytes();
        if !name.contains(&b'$') && Continuation::find(name).is_none() {
            log::error!("imcharge_reserve: the script has no route[{}]", String::from_utf8_lossy(name));
            return -1;
        }
        // SAFETY: the host's own fix-up for texts on the host's own parameter.
        unsafe { sys::fixup_spve_null(parameter, 1) }
    })
}

/// Fix-up of the charged content: refuses a constant that is not valid.
fn fixup_content(parameter: *mut *mut c_void) -> c_int {
    // SAFETY: before the fix-up the parameter is a C string.
    let text = unsafe { std::ffi::CStr::from_ptr((*parameter).cast::<c_char>()) }.to_bytes();
    if !text.contains(&b'$') {
        let Some(options) = ReserveOptions::of_script(text) else { return -1 };
        let tariffs = super::parameters::config().tariffs;
        if !tariffs.has_name(options.tariff) {
            let (name, known) = (options.tariff, tariffs.list_of_names());
            log::error!("imcharge_reserve: there is no tariff '{name}'; configured names: {known}");
            return -1;
        }
    }
    // SAFETY: the host's own fix-up for texts on the host's own parameter.
    unsafe { sys::fixup_spve_null(parameter, 1) }
}
