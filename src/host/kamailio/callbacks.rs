//! What the module sees by itself: the requests and replies of charged dialogs, CANCEL, dying transactions.
//!
//! | host's callback | what it means |
//! |---|---|
//! | `TMCB_RESPONSE_FWDED` with 101 to 299 | step 4: bind the MSRP sessions, before the reply goes on |
//! | `TMCB_RESPONSE_OUT` with 3xx to 6xx | the INVITE failed for the client: relayed, timed out or answered by the script |
//! | `TMCB_E2ECANCEL_IN` | CANCEL |
//! | `TMCB_DESTROY` | the net under all of these: the transaction died |
//! | `TMCB_REQUEST_IN`, in a charged dialog | INVITE, PRACK, UPDATE, BYE: their replies are watched as above |
//! | script callback before the request route | step 11, and answers in ACK and PRACK |
//! | script callback before the reply route | a 2xx whose transaction tm may have forgotten |
//!
//! The transaction's callbacks run in whatever process sees the event, so their parameter lies in the host's shared memory.

use super::guard::guard;
use super::message::Message;
use super::transaction_context::{self, TransactionContext};
use super::{TM, bindings as sys};
use crate::charge::event::InviteTransaction;
use crate::worker::Worker;
use crate::worker::sip_input::Invitation;
use std::ffi::{c_int, c_uint, c_void};

/// Watches the transaction of the first INVITE. `false`: no shared memory, or tm refuses.
///
/// # Safety
/// `message` must be the host's current request and `transaction` its transaction.
pub unsafe fn watch_invite(
    message: *mut sys::sip_msg,
    transaction: *mut sys::cell,
    invitation: &Invitation<'_>,
) -> bool {
    let session = Worker::session_of_invitation(invitation);
    let types = sys::TMCB_RESPONSE_FWDED | sys::TMCB_RESPONSE_OUT | sys::TMCB_E2ECANCEL_IN | sys::TMCB_DESTROY;
    // SAFETY: by the caller's promise. The numbers are those by which tm will go on with it.
    unsafe {
        let (index, label) = ((*transaction).hash_index.into(), (*transaction).label.into());
        let opens = Some(InviteTransaction { index, label });
        let watched = TransactionContext::new(session, opens, invitation.call_id, invitation.from_tag);
        watched.is_some_and(|watched| watch(message, transaction, types, watched))
    }
}

/// # Safety
/// As for [`watch_invite`].
unsafe fn watch(
    message: *mut sys::sip_msg,
    transaction: *mut sys::cell,
    types: c_uint,
    watched: TransactionContext,
) -> bool {
    let Some(register) = TM.get().and_then(|tm| tm.0.register_tmcb) else { return false };
    // SAFETY: tm takes the block over with its release function; on refusal it is freed here.
    unsafe {
        let block = shared(watched);
        if block.is_null() {
            return false;
        }
        let registered = register(message, transaction, types as c_int, Some(on_transaction), block, Some(release));
        if registered <= 0 {
            release(block);
        }
        registered > 0
    }
}

/// A copy in the host's shared memory; NULL when there is no room.
///
/// # Safety
/// Only after the host has set up its shared memory: in or after mod_init.
unsafe fn shared(watched: TransactionContext) -> *mut c_void {
    // SAFETY: the host's allocator; the block is checked and large enough.
    unsafe {
        let Some(malloc) = sys::_shm_root.xmalloc else { return std::ptr::null_mut() };
        let (file, name) = (c"callbacks.rs".as_ptr(), c"imcharge".as_ptr());
        let block = malloc(sys::_shm_root.mem_block, size_of::<TransactionContext>(), file, c"watch".as_ptr(), 0, name);
        if !block.is_null() {
            block.cast::<TransactionContext>().write(watched);
        }
        block
    }
}

/// tm is done with the transaction: frees what it carried.
unsafe extern "C" fn release(block: *mut c_void) {
    guard((), || {
        // SAFETY: a block of `shared`, given back once.
        unsafe {
            if let Some(free) = sys::_shm_root.xfree {
                let (file, name) = (c"callbacks.rs".as_ptr(), c"imcharge".as_ptr());
                free(sys::_shm_root.mem_block, block, file, c"release".as_ptr(), 0, name);
            }
        }
    })
}

/// Something happened to a watched transaction.
unsafe extern "C" fn on_transaction(_: *mut sys::cell, kind: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: tm gives its parameters for the time of the call, with the block of `watch` in them.
        let Some(parameters) = (unsafe { parameters.as_ref() }) else { return };
        let watched =
            unsafe { parameters.param.as_ref().and_then(|block| block.cast::<TransactionContext>().as_ref()) };
        let Some(watched) = watched else { return };
        match kind as c_uint {
            // SAFETY: tm gives the request of the transaction and the reply at hand.
            sys::TMCB_RESPONSE_FWDED => unsafe { on_reply(watched, parameters.req, parameters.rpl) },
            sys::TMCB_RESPONSE_OUT if parameters.code >= 300 => {
                watched.failed(parameters.code);
                // SAFETY: as above.
                unsafe { on_reply(watched, parameters.req, parameters.rpl) }
            }
            sys::TMCB_E2ECANCEL_IN => watched.cancelled(),
            sys::TMCB_DESTROY => watched.failed(408),
            _ => {}
        }
    })
}

/// A reply goes to the sender of the request. One that tm has made itself is none of the other side.
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

/// A new transaction: if it is of a charged dialog, its replies are watched.
pub unsafe extern "C" fn on_request(transaction: *mut sys::cell, _: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: tm gives its parameters for the time of the call.
        let Some(pointer) = (unsafe { parameters.as_ref() }).map(|parameters| parameters.req) else { return };
        if let Some(watched) = unsafe { Message::new(pointer) }.and_then(transaction_context::of_request) {
            // SAFETY: the request and its new transaction, as tm gives them.
            unsafe { watch(pointer, transaction, sys::TMCB_RESPONSE_FWDED | sys::TMCB_RESPONSE_OUT, watched) };
        }
    })
}

/// Before the script runs for a request. 0: the host drops it.
pub unsafe extern "C" fn before_script(message: *mut sys::sip_msg, _: c_uint, _: *mut c_void) -> c_int {
    guard(1, || {
        // SAFETY: the host gives its current request.
        let goes_on = unsafe { Message::new(message) }.is_none_or(transaction_context::before_script);
        c_int::from(goes_on)
    })
}

/// Before the script runs for a reply. The script always goes on.
pub unsafe extern "C" fn before_reply_script(message: *mut sys::sip_msg, _: c_uint, _: *mut c_void) -> c_int {
    guard(1, || {
        // SAFETY: the host gives its current reply.
        unsafe { Message::new(message) }.into_iter().for_each(transaction_context::before_reply_script);
        1
    })
}

/// Registers what needs no transaction. In mod_init: tm's list of these is not shared. `false`: the host refused.
pub fn register() -> bool {
    let Some(register) = TM.get().and_then(|tm| tm.0.register_tmcb) else { return false };
    // SAFETY: functions of static life, no parameter.
    unsafe {
        let (message, transaction, none) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        let types = sys::TMCB_REQUEST_IN as c_int;
        register(message, transaction, types, Some(on_request), none, None) > 0
            && sys::register_script_cb(Some(before_script), sys::IMCHARGE_BEFORE_REQUEST_ROUTE, none) == 0
            && sys::register_script_cb(Some(before_reply_script), sys::IMCHARGE_BEFORE_REPLY_ROUTE, none) == 0
    }
}
