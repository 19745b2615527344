//! What the module sees by itself: the requests and replies of charged dialogs, CANCEL, dying transactions.
//!
//! | host's callback | what it means |
//! |---|---|
//! | `TMCB_RESPONSE_FWDED` with 101 to 299 | step 4: bind the MSRP sessions, before the reply goes on |
//! | `TMCB_RESPONSE_PRE_OUT` with 2xx of this proxy itself | the same, where the proxy is the user agent (msrp_ua) |
//! | `TMCB_RESPONSE_OUT` with 3xx to 6xx | the INVITE failed for the client: relayed, timed out or answered by the script |
//! | `TMCB_TRANS_CANCELLED` | CANCEL |
//! | `TMCB_TRANS_DELETED` | the net under all of these: the transaction died |
//! | `TMCB_REQUEST_IN`, in a charged dialog | INVITE, PRACK, UPDATE, BYE: their replies are watched as above |
//! | script callback before the request route | step 11, and answers in ACK and PRACK |
//! | script callback before the reply route | a 2xx whose transaction tm may have forgotten |
//! | `TMCB_LOCAL_TRANS_NEW` of a BYE, then `TMCB_MSG_SENT_OUT` | step 11: BYE of this proxy itself |
//!
//! The transaction's callbacks run in whatever process sees the event, so their parameter lies in the host's shared memory.

use super::message::{Message, bytes};
use super::transaction_context::{self, TransactionContext};
use super::{TM, bindings as sys, shared, waiting, with_worker};
use crate::guard::guard;
use crate::worker::Worker;
use crate::worker::raw_sip;
use crate::worker::sip_input::{Invite, Method};
use std::ffi::{c_int, c_void};

/// Callbacks before the script: ours is the first, for others (b2b_entities) take the requests of their dialogs away.
const FIRST: c_int = 1000;

/// Watches the transaction of a first INVITE that waits. `false`: no shared memory, or tm refuses.
///
/// # Safety
/// `message` must be the host's current request and `transaction` its transaction.
pub unsafe fn watch_invite(message: *mut sys::sip_msg, transaction: *mut sys::cell, invite: &Invite<'_>) -> bool {
    let (key, opens) = (&invite.key, Some(invite.suspended.transaction()));
    let session = Worker::session_of_invite(key);
    let answers = sys::TMCB_RESPONSE_FWDED | sys::TMCB_RESPONSE_PRE_OUT;
    let types = answers | sys::TMCB_RESPONSE_OUT | sys::TMCB_TRANS_CANCELLED | sys::TMCB_TRANS_DELETED;
    let watched = TransactionContext::new(session, opens, key.call_id, key.from_tag);
    // SAFETY: by the caller's promise.
    watched.is_some_and(|watched| unsafe { watch(message, transaction, types, watched) })
}

/// # Safety
/// As for [`watch_invite`].
unsafe fn watch(
    message: *mut sys::sip_msg,
    transaction: *mut sys::cell,
    types: u32,
    watched: TransactionContext,
) -> bool {
    let Some(register) = TM.get().and_then(|tm| tm.0.register_tmcb) else { return false };
    // SAFETY: tm takes the block over with its release function; on refusal it is freed here.
    unsafe {
        let block = shared::put(watched);
        if block.is_null() {
            return false;
        }
        let block = block.cast::<c_void>();
        let registered = register(message, transaction, types as c_int, Some(on_transaction), block, Some(release));
        if registered <= 0 {
            sys::imcharge_shm_free(block);
        }
        registered > 0
    }
}

/// tm is done with the transaction: frees what it carried.
unsafe extern "C" fn release(block: *mut c_void) {
    // SAFETY: a block of `watch`, given back once.
    guard((), || unsafe { sys::imcharge_shm_free(block) })
}

/// Something happened to a watched transaction.
unsafe extern "C" fn on_transaction(_: *mut sys::cell, kind: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: tm gives its parameters for the time of the call.
        let Some(parameters) = (unsafe { parameters.as_ref() }) else { return };
        // SAFETY: the place of `watch`'s block, which tm keeps as long as the transaction.
        let watched =
            unsafe { parameters.param.as_ref().and_then(|block| (*block).cast::<TransactionContext>().as_ref()) };
        let Some(watched) = watched else { return };
        let success = (200..300).contains(&parameters.code);
        match kind as u32 {
            // SAFETY: tm gives the request of the transaction and the reply at hand.
            sys::TMCB_RESPONSE_FWDED => unsafe { on_reply(watched, parameters.req, parameters.rpl) },
            // SAFETY: tm's parameters for the time of the call.
            sys::TMCB_RESPONSE_PRE_OUT if success => unsafe { on_own_answer(watched, parameters) },
            sys::TMCB_RESPONSE_OUT if parameters.code >= 300 => watched.failed(parameters.code),
            sys::TMCB_TRANS_CANCELLED => {
                watched.cancelled();
                watched.opens.into_iter().for_each(waiting::cancel);
            }
            sys::TMCB_TRANS_DELETED => watched.failed(408),
            _ => {}
        }
    })
}

/// A reply goes to the sender of the request.
///
/// # Safety
/// Both pointers must be NULL, tm's mark, or messages that live for the call.
unsafe fn on_reply(watched: &TransactionContext, request: *const sys::sip_msg, reply: *const sys::sip_msg) {
    // SAFETY: by the caller's promise.
    let (request, reply) = unsafe { (Message::new(request), Message::new(reply)) };
    if let Some(reply) = reply.and_then(Message::reply) {
        watched.replied(&reply, request.and_then(Message::request));
    }
}

/// A 2xx that this proxy has made itself is about to go out. One that it relays was seen before.
///
/// # Safety
/// `parameters` must be tm's for the time of the call.
unsafe fn on_own_answer(watched: &TransactionContext, parameters: &sys::tmcb_params) {
    // SAFETY: for this callback tm gives the request, its mark for a reply that never came in, and the octets.
    let (request, whole) = unsafe {
        if Message::new(parameters.rpl).is_some() {
            return;
        }
        let whole = parameters.extra1.cast::<sys::_str>().as_ref().map_or(&[][..], |text| bytes(text));
        (Message::new(parameters.req), whole)
    };
    if let Some(reply) = raw_sip::reply(whole, None) {
        watched.replied(&reply, request.and_then(Message::request));
    }
}

/// A new transaction: if it is of a charged dialog, its replies are watched.
unsafe extern "C" fn on_request(transaction: *mut sys::cell, _: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: tm gives its parameters for the time of the call.
        let Some(pointer) = (unsafe { parameters.as_ref() }).map(|parameters| parameters.req) else { return };
        // SAFETY: the request that tm has just made a transaction for.
        if let Some(watched) = unsafe { Message::new(pointer) }.and_then(transaction_context::of_request) {
            // SAFETY: the request and its new transaction, as tm gives them.
            unsafe { watch(pointer, transaction, sys::TMCB_RESPONSE_FWDED | sys::TMCB_RESPONSE_PRE_OUT, watched) };
        }
    })
}

/// A new transaction of this proxy itself: the octets of a BYE are looked at when they go out.
unsafe extern "C" fn on_own_request(transaction: *mut sys::cell, _: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: tm gives its parameters for the time of the call, with the method where others have the status.
        let method = unsafe { parameters.as_ref() }.map(|parameters| parameters.code);
        let register = TM.get().and_then(|tm| tm.0.register_tmcb);
        if let (Some(register), true) = (register, method == Some(sys::METHOD_BYE as c_int)) {
            let (message, none) = (std::ptr::null_mut(), std::ptr::null_mut());
            // SAFETY: tm's new transaction; a function of static life, no parameter.
            unsafe { register(message, transaction, sys::TMCB_MSG_SENT_OUT as c_int, Some(on_own_bye), none, None) };
        }
    })
}

/// A BYE of this proxy itself goes out.
unsafe extern "C" fn on_own_bye(_: *mut sys::cell, _: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: for this callback tm gives the octets that go out.
        let whole =
            unsafe { parameters.as_ref().and_then(|parameters| parameters.extra1.cast::<sys::_str>().as_ref()) };
        // SAFETY: the octets live for the call.
        let request = whole.and_then(|whole| raw_sip::request(unsafe { bytes(whole) }, None));
        if let Some(bye) = request.filter(|request| request.method == Method::Bye) {
            with_worker(|worker| worker.request_in_dialog(&bye));
        }
    })
}

/// Before the script runs for a request, which the host drops where it may not go on.
unsafe extern "C" fn before_script(message: *mut sys::sip_msg, _: *mut c_void) -> c_int {
    let go_on = (sys::SCB_RUN_TOP_ROUTE | sys::SCB_RUN_POST_CBS) as c_int;
    guard(go_on, || {
        // SAFETY: the host gives its current request.
        let goes_on = unsafe { Message::new(message) }.is_none_or(transaction_context::before_script);
        if goes_on { go_on } else { sys::SCB_DROP_MSG as c_int }
    })
}

/// Before the script runs for a reply. The script always goes on.
unsafe extern "C" fn before_reply_script(message: *mut sys::sip_msg, _: *mut c_void) -> c_int {
    let go_on = (sys::SCB_RUN_TOP_ROUTE | sys::SCB_RUN_POST_CBS) as c_int;
    guard(go_on, || {
        // SAFETY: the host gives its current reply.
        unsafe { Message::new(message) }.into_iter().for_each(transaction_context::before_reply_script);
        go_on
    })
}

/// After the script has run for a request that waits for nothing.
unsafe extern "C" fn after_script(message: *mut sys::sip_msg, _: *mut c_void) -> c_int {
    let go_on = (sys::SCB_RUN_TOP_ROUTE | sys::SCB_RUN_POST_CBS) as c_int;
    guard(go_on, || {
        // SAFETY: the host gives its current request.
        if let Some(message) = unsafe { message.as_ref() } {
            waiting::script_ended(message.id);
        }
        go_on
    })
}

/// Registers what needs no transaction. In mod_init: tm's list of these is not shared. `false`: the host refused.
pub fn register() -> bool {
    let Some(register) = TM.get().and_then(|tm| tm.0.register_tmcb) else { return false };
    // SAFETY: functions of static life, no parameter.
    unsafe {
        let (message, transaction, none) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        let before = (sys::PRE_SCRIPT_CB | sys::REQ_TYPE_CB) as c_int;
        let before_reply = (sys::PRE_SCRIPT_CB | sys::RPL_TYPE_CB) as c_int;
        let after = (sys::POST_SCRIPT_CB | sys::REQ_TYPE_CB) as c_int;
        register(message, transaction, sys::TMCB_REQUEST_IN as c_int, Some(on_request), none, None) > 0
            && register(message, transaction, sys::TMCB_LOCAL_TRANS_NEW as c_int, Some(on_own_request), none, None) > 0
            && sys::__register_script_cb(Some(before_script), before, none, FIRST) == 0
            && sys::__register_script_cb(Some(before_reply_script), before_reply, none, FIRST) == 0
            && sys::__register_script_cb(Some(after_script), after, none, 0) == 0
    }
}
