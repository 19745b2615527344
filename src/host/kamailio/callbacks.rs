//! Callbacks of tm and of the script: requests and replies of charged dialogs, CANCEL, the end of transactions.
//!
//! | callback | meaning |
//! |---|---|
//! | `TMCB_RESPONSE_FWDED`, 101 to 299 | step 4: the MSRP sessions are bound before the reply is forwarded |
//! | `TMCB_RESPONSE_OUT`, 300 to 699 | the INVITE failed for the client: relayed, timed out, or answered by the script |
//! | `TMCB_E2ECANCEL_IN` | CANCEL |
//! | `TMCB_DESTROY` | the transaction ended, whatever the callbacks above have reported |
//! | `TMCB_REQUEST_IN`, in a charged dialog | INVITE, PRACK, UPDATE, BYE: their replies are watched as above |
//! | of a MESSAGE: `TMCB_REQUEST_FWDED`, `TMCB_RESPONSE_OUT` from 200 on, `TMCB_DESTROY` | it is sent on; its outcome;
//! the outcome again if the event ring was full |
//! | script callback before the request route | step 11, and SDP answers in ACK and PRACK |
//! | script callback before the reply route | a 2xx whose transaction tm may have forgotten |
//!
//! Callbacks of a transaction run in the process that handles the event, so their parameter lies in the host's shared
//! memory.

use super::bindings as sys;
use super::message::Message;
use super::page_context::PageContext;
use super::tm::{Tm, tm};
use super::transaction::{CurrentRequest, Transaction};
use super::transaction_context::{self, TransactionContext};
use crate::charge::event::ServerTransaction;
use crate::guard::guard;
use crate::worker::Worker;
use crate::worker::sip_input::InviteKey;
use std::ffi::{c_int, c_uint, c_void};

/// Watches the transaction of an initial INVITE. `false`: no shared memory, or tm refused.
pub fn watch_invite(tm: &Tm, request: CurrentRequest, transaction: Transaction, key: &InviteKey<'_>) -> bool {
    let session = Worker::session_of_invite(key);
    let types = sys::TMCB_RESPONSE_FWDED | sys::TMCB_RESPONSE_OUT | sys::TMCB_E2ECANCEL_IN | sys::TMCB_DESTROY;
    let id = transaction.id();
    // The numbers by which tm continues it.
    let opens = Some(ServerTransaction { index: id.index.into(), label: id.label.into() });
    let context = TransactionContext::new(session, opens, key.call_id, key.from_tag);
    context.is_some_and(|context| watch(tm, request, transaction, types, Some(on_transaction), context))
}

/// Watches the transaction of a MESSAGE. `false`: no shared memory, or tm refused.
pub fn watch_message(tm: &Tm, request: CurrentRequest, transaction: Transaction, key: &InviteKey<'_>) -> bool {
    let id = transaction.id();
    let numbers = ServerTransaction { index: id.index.into(), label: id.label.into() };
    let context = PageContext::new(Worker::session_of_invite(key), numbers);
    let types = sys::TMCB_REQUEST_FWDED | sys::TMCB_RESPONSE_OUT | sys::TMCB_DESTROY;
    watch(tm, request, transaction, types, Some(on_message_transaction), context)
}

/// Watches a transaction with a context that its callback receives.
fn watch<Context>(
    tm: &Tm,
    request: CurrentRequest,
    transaction: Transaction,
    types: c_uint,
    callback: sys::transaction_cb,
    context: Context,
) -> bool {
    // SAFETY: tm takes ownership of the block with its release function; if it refuses, the block is freed here.
    unsafe {
        let block = shared(context);
        if block.is_null() {
            return false;
        }
        let is_watched = tm.watch(request, transaction, types, callback, block, Some(release));
        if !is_watched {
            release(block);
        }
        is_watched
    }
}

/// Copies a context into the host's shared memory; NULL if there is no room.
///
/// # Safety
/// Only after the host has set up its shared memory: in or after mod_init.
unsafe fn shared<Context>(context: Context) -> *mut c_void {
    // SAFETY: the host's allocator; the block is checked and large enough.
    unsafe {
        let Some(malloc) = sys::_shm_root.xmalloc else { return std::ptr::null_mut() };
        let (file, name) = (c"callbacks.rs".as_ptr(), c"imcharge".as_ptr());
        let block = malloc(sys::_shm_root.mem_block, size_of::<Context>(), file, c"watch".as_ptr(), 0, name);
        if !block.is_null() {
            block.cast::<Context>().write(context);
        }
        block
    }
}

/// Release function for tm: frees the context of a transaction.
unsafe extern "C" fn release(block: *mut c_void) {
    guard((), || {
        // SAFETY: a block of `shared`, freed once.
        unsafe {
            if let Some(free) = sys::_shm_root.xfree {
                let (file, name) = (c"callbacks.rs".as_ptr(), c"imcharge".as_ptr());
                free(sys::_shm_root.mem_block, block, file, c"release".as_ptr(), 0, name);
            }
        }
    })
}

/// Callback of the transaction of a MESSAGE.
unsafe extern "C" fn on_message_transaction(_: *mut sys::cell, kind: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: tm passes parameters that are valid during the call.
        let Some(parameters) = (unsafe { parameters.as_ref() }) else { return };
        // SAFETY: the block of `watch_message`, which lives as long as the transaction.
        let watched = unsafe { parameters.param.as_ref().and_then(|block| block.cast::<PageContext>().as_ref()) };
        let Some(watched) = watched else { return };
        match kind as c_uint {
            sys::TMCB_REQUEST_FWDED => watched.relayed(),
            sys::TMCB_RESPONSE_OUT => watched.answered(parameters.code),
            sys::TMCB_DESTROY => watched.ended(),
            _ => {}
        }
    })
}

/// Callback of a watched transaction.
unsafe extern "C" fn on_transaction(_: *mut sys::cell, kind: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: tm passes parameters that are valid during the call.
        let Some(parameters) = (unsafe { parameters.as_ref() }) else { return };
        // SAFETY: the block of `watch`, which lives as long as the transaction.
        let watched =
            unsafe { parameters.param.as_ref().and_then(|block| block.cast::<TransactionContext>().as_ref()) };
        let Some(watched) = watched else { return };
        match kind as c_uint {
            // SAFETY: tm passes the request of the transaction and the reply.
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

/// Handles a reply that is sent to the sender of the request. A reply that tm generated has no sender and is ignored.
///
/// # Safety
/// Both pointers must be NULL, tm's mark, or messages that live for the call.
unsafe fn on_reply(watched: &TransactionContext, request: *const sys::sip_msg, reply: *const sys::sip_msg) {
    // SAFETY: guaranteed by the caller.
    let (request, reply) = unsafe { (Message::new(request), Message::new(reply)) };
    if let Some(reply) = reply.and_then(Message::reply) {
        watched.replied(&reply, request.and_then(Message::request));
    }
}

/// Callback for each new transaction: watches the replies if it belongs to a charged dialog.
pub unsafe extern "C" fn on_request(transaction: *mut sys::cell, _: c_int, parameters: *mut sys::tmcb_params) {
    guard((), || {
        // SAFETY: tm passes parameters that are valid during the call.
        let Some(pointer) = (unsafe { parameters.as_ref() }).map(|parameters| parameters.req) else { return };
        // SAFETY: the request that tm has just made a transaction for, which is the current one, and that transaction.
        let (message, request, transaction) =
            unsafe { (Message::new(pointer), CurrentRequest::new(pointer), Transaction::new(transaction)) };
        let context = message.and_then(transaction_context::of_request);
        if let (Some(tm), Some(request), Some(transaction), Some(context)) = (tm(), request, transaction, context) {
            let types = sys::TMCB_RESPONSE_FWDED | sys::TMCB_RESPONSE_OUT;
            watch(tm, request, transaction, types, Some(on_transaction), context);
        }
    })
}

/// Script callback for requests. Returns 0 to drop the request.
pub unsafe extern "C" fn before_script(message: *mut sys::sip_msg, _: c_uint, _: *mut c_void) -> c_int {
    guard(1, || {
        // SAFETY: the host passes its current request.
        let is_allowed = unsafe { Message::new(message) }.is_none_or(transaction_context::before_script);
        c_int::from(is_allowed)
    })
}

/// Script callback for replies. Always returns 1: the script runs.
pub unsafe extern "C" fn before_reply_script(message: *mut sys::sip_msg, _: c_uint, _: *mut c_void) -> c_int {
    guard(1, || {
        // SAFETY: the host passes its current reply.
        unsafe { Message::new(message) }.into_iter().for_each(transaction_context::before_reply_script);
        1
    })
}

/// Registers the callbacks that need no transaction. Called in mod_init, because tm's list of them is not shared between
/// processes. `false`: the host refused.
pub fn register() -> bool {
    let Some(tm) = tm() else { return false };
    // SAFETY: static functions without a parameter.
    unsafe {
        let none = std::ptr::null_mut();
        tm.watch_new_transactions(on_request)
            && sys::register_script_cb(Some(before_script), sys::IMCHARGE_BEFORE_REQUEST_ROUTE, none) == 0
            && sys::register_script_cb(Some(before_reply_script), sys::IMCHARGE_BEFORE_REPLY_ROUTE, none) == 0
    }
}
