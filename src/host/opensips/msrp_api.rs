//! Puts the gate in front of every module that handles MSRP.
//!
//! The host has no script event for MSRP responses, and no order of handlers: proto_msrp gives a request to the first
//! handler whose address matches. But the modules that handle MSRP (msrp_relay, msrp_ua, msrp_gateway) get proto_msrp's API
//! by looking up its function `load_msrp`, and the host's search begins with the module that was loaded last. This module
//! has a function of the same name. It returns proto_msrp's API with three functions replaced: a handler is called
//! after the gate, and requests that a module generates or forwards pass through it. If a request is not sent after it has
//! passed, its charge is cancelled.
//!
//! The host gives a forwarded request a new transaction id and keeps the received one in the transaction. The engine gets
//! the received one with the response.

use super::frames::{self, may_be_relayed, own_id, pass, take_back};
use super::message::bytes;
use super::{bindings as sys, connections, shared, text, with_worker};
use crate::guard::guard;
use crate::host::text::static_str;
use crate::worker::FrameDecision;
use crate::worker::sip_input::Frame;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicPtr, Ordering};

/// proto_msrp's own API.
static STOCK: OnceLock<Binds> = OnceLock::new();

/// proto_msrp's functions. Plain function pointers, the same in all processes.
#[derive(Clone, Copy)]
struct Binds(sys::msrp_binds);

// SAFETY: the structure holds function pointers only and is never written after it was filled.
unsafe impl Send for Binds {}
// SAFETY: as above.
unsafe impl Sync for Binds {}

/// A handler of another module, called after the gate.
struct Handler {
    /// Whether it is msrp_relay's. A request that msrp_relay does not forward is lost; other modules consume messages.
    relays: bool,
    request: sys::msrp_req_handler_f,
    reply: sys::msrp_rpl_handler_f,
    parameter: *mut c_void,
    /// proto_msrp's handle of it.
    handle: AtomicPtr<c_void>,
}

/// Parameter of a request that a module has generated: the module's own parameter, and the number of its transaction id.
#[derive(Clone, Copy)]
#[repr(C)]
struct Own {
    parameter: *mut c_void,
    number: u64,
}

/// `load_msrp`, which other modules find in place of proto_msrp's. The host's table declares all functions as script
/// functions; this one takes a place for the API.
#[allow(clippy::too_many_arguments, reason = "the host's type of a function")]
pub unsafe extern "C" fn load_msrp(
    binds: *mut sys::sip_msg,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
    _: *mut c_void,
) -> c_int {
    guard(0, || {
        // SAFETY: modules that look up this name pass a place for the API.
        let binds = unsafe { binds.cast::<sys::msrp_binds>().as_mut() };
        let (Some(stock), Some(binds)) = (stock(), binds) else {
            log::error!(
                "the module proto_msrp is not loaded, but another module needs it; add loadmodule \"proto_msrp.so\""
            );
            return 0;
        };
        *binds = stock;
        binds.register_msrp_handler = Some(register_handler);
        binds.send_request = Some(send_request);
        binds.forward_request = Some(forward_request);
        0
    })
}

/// Returns proto_msrp's API; `None` if it is not loaded.
fn stock() -> Option<sys::msrp_binds> {
    if let Some(stock) = STOCK.get() {
        return Some(stock.0);
    }
    // SAFETY: the host's way to a function of a module: `load_msrp` has this type in every supported version.
    let binds = unsafe {
        let found = sys::find_mod_export(c"proto_msrp".as_ptr(), c"load_msrp".as_ptr(), 0)?;
        let load =
            std::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut sys::msrp_binds)>(found as *const c_void);
        let mut binds = std::mem::zeroed::<sys::msrp_binds>();
        load(&mut binds);
        binds
    };
    Some(STOCK.get_or_init(|| Binds(binds)).0)
}

/// Checks that proto_msrp is loaded, and before this module, so that other modules find this module's `load_msrp`. The error
/// is a sentence for the operator.
pub fn check_order() -> Result<(), &'static str> {
    if stock().is_none() {
        return Err(
            "the module proto_msrp is not loaded; put loadmodule \"proto_msrp.so\" before loadmodule \"imcharge.so\"",
        );
    }
    // SAFETY: the search by which other modules find the function.
    match unsafe { sys::find_export(text(c"load_msrp"), 0) } {
        Some(found) if std::ptr::eq(found as *const (), load_msrp as *const ()) => Ok(()),
        _ => Err("put loadmodule \"imcharge.so\" after loadmodule \"proto_msrp.so\"; otherwise MSRP is not charged"),
    }
}

/// Replaces proto_msrp's function: registers a handler that is called after the gate.
unsafe extern "C" fn register_handler(
    host: *mut sys::_str,
    port: c_int,
    secured: c_int,
    request: sys::msrp_req_handler_f,
    reply: sys::msrp_rpl_handler_f,
    parameter: *mut c_void,
) -> *mut c_void {
    guard(std::ptr::null_mut(), || {
        let none = std::ptr::null_mut();
        let Some(register) = stock().and_then(|stock| stock.register_msrp_handler) else { return none };
        if request.is_none() || reply.is_none() {
            return none;
        }
        // Never freed: created before the fork and the same in all processes.
        let relays = request.is_some_and(|request| is_of(request as *const c_void, b"msrp_relay.so"));
        let handler = Box::leak(Box::new(Handler { relays, request, reply, parameter, handle: AtomicPtr::new(none) }));
        let own = std::ptr::from_ref(handler).cast_mut().cast::<c_void>();
        // SAFETY: the other module's arguments, with functions of this module and a parameter that is never freed.
        let handle = unsafe { register(host, port, secured, Some(on_request), Some(on_reply), own) };
        handler.handle.store(handle, Ordering::Relaxed);
        handle
    })
}

/// Whether a function is in the shared object of this name.
fn is_of(function: *const c_void, object: &[u8]) -> bool {
    // SAFETY: the loader only compares the address, and the name of an object lives as long as the object.
    unsafe {
        let mut found = std::mem::zeroed::<libc::Dl_info>();
        let known = libc::dladdr(function, &mut found) != 0 && !found.dli_fname.is_null();
        known && CStr::from_ptr(found.dli_fname).to_bytes().ends_with(object)
    }
}

thread_local! {
    /// Whether the handler of the current request has tried to forward it.
    static FORWARDED: Cell<bool> = const { Cell::new(false) };
}

/// Handles a request: passes it to its handler, or refuses it.
unsafe extern "C" fn on_request(request: *mut sys::msrp_msg, handler: *mut c_void) -> c_int {
    // SAFETY: proto_msrp passes a parsed message and the parameter of `register_handler`.
    let (message, handler) = unsafe { (request.as_ref(), handler.cast::<Handler>().as_ref()) };
    let (Some(message), Some(handler)) = (message, handler) else { return -1 };
    // SAFETY: a message of proto_msrp, valid during the call.
    let decision = guard(FrameDecision::Malformed, || unsafe {
        // msrp_relay 3.6.8 looks up its session by the session-id of this URI and crashes if there is none.
        if handler.relays && frames::lacks_session_id(message) { FrameDecision::NoSession } else { pass(message, None) }
    });
    // SAFETY: proto_msrp has parsed the first line of a request.
    let method = unsafe { message.fl.u.request.method_id };
    match handler.request.filter(|_| may_be_relayed(decision, method)) {
        Some(handle) => {
            FORWARDED.set(false);
            // SAFETY: the other module's handler, with its own arguments.
            let handled = unsafe { handle(request, handler.parameter) };
            if handler.relays && !FORWARDED.get() {
                // SAFETY: as for `pass`; the handler does not change the message.
                guard((), || unsafe { take_back(message) });
            }
            handled
        }
        // SAFETY: as for `pass`.
        None => guard(-1, || unsafe { refuse(request, message, handler, decision) }),
    }
}

/// Handles a response, or (NULL) a timeout, and passes it to its handler.
unsafe extern "C" fn on_reply(
    reply: *mut sys::msrp_msg,
    transaction: *mut sys::msrp_cell,
    parameter: *mut c_void,
    handler: *mut c_void,
) -> c_int {
    // SAFETY: proto_msrp passes its transaction and the parameter of `register_handler`.
    let (cell, handler) = unsafe { (transaction.as_ref(), handler.cast::<Handler>().as_ref()) };
    let (Some(cell), Some(handler)) = (cell, handler) else { return -1 };
    let mut parameter = parameter;
    guard((), || {
        let number;
        // SAFETY: texts of a transaction live as long as it; a request that a module has generated was sent by `send_request`
        // with its block, which is read and freed here once.
        let request_id = unsafe {
            match frames::is_own(cell) {
                true if parameter.is_null() => return,
                true => {
                    let own = parameter.cast::<Own>().read();
                    sys::imcharge_shm_free(parameter);
                    parameter = own.parameter;
                    number = own_id(own.number);
                    number.as_bytes()
                }
                false => bytes(&cell.recv_ident),
            }
        };
        // SAFETY: NULL, or a message of proto_msrp that is valid during the call.
        if let Some(message) = unsafe { reply.as_ref() } {
            // SAFETY: as above.
            unsafe { pass(message, Some(request_id)) };
        }
    });
    // SAFETY: the other module's handler, with its own arguments.
    handler.reply.map_or(-1, |handle| unsafe { handle(reply, transaction, parameter, handler.parameter) })
}

/// Replaces proto_msrp's function: forwards a request for a handler.
unsafe extern "C" fn forward_request(
    handle: *mut c_void,
    request: *mut sys::msrp_msg,
    headers: *mut sys::_str,
    count: c_int,
    socket: *const sys::socket_info,
    address: *mut sys::sockaddr_union,
    parameter: *mut c_void,
) -> c_int {
    let Some(forward) = stock().and_then(|stock| stock.forward_request) else { return -1 };
    FORWARDED.set(true);
    // SAFETY: NULL, or a message of proto_msrp, which it gets next.
    guard((), || unsafe { request.as_ref().into_iter().for_each(|message| frames::expect_again(message)) });
    // SAFETY: proto_msrp's function with the module's arguments.
    let sent = unsafe { forward(handle, request, headers, count, socket, address, parameter) };
    if sent < 0 {
        // SAFETY: NULL, or a message of proto_msrp, which it does not change.
        guard((), || unsafe { request.as_ref().into_iter().for_each(|message| take_back(message)) });
    }
    sent
}

/// Checks that each `my_uri` of msrp_relay is an address of this proxy. Otherwise the relay's responses to itself would
/// count as the client's. The error is a sentence for the operator. Only in mod_init, when the host has read its script and
/// its list of sockets.
pub fn check_own_uris() -> Result<(), String> {
    // SAFETY: the host's list of modules; the list of URIs is filled while the script is read, and texts live as long.
    unsafe {
        let mut module = sys::modules;
        while let Some(found) = module.as_ref() {
            let name = found.exports.as_ref().map(|exports| CStr::from_ptr(exports.name));
            if name == Some(c"msrp_relay") {
                let list = libc::dlsym(found.handle, c"my_url_list".as_ptr()).cast::<*const sys::msrp_url>();
                let mut next = list.as_ref().map_or(std::ptr::null(), |first| *first);
                while let Some(url) = next.as_ref() {
                    let protocol = if url.secured == 0 { sys::PROTO_MSRP } else { sys::PROTO_MSRPS };
                    if !connections::is_own_address_of(bytes(&url.host), url.port_no, protocol as c_int) {
                        let (host, port) = (String::from_utf8_lossy(bytes(&url.host)), url.port_no);
                        return Err(format!(
                            "my_uri of msrp_relay: {host}:{port} is neither an address of an msrp socket nor an alias; add \
                             alias=\"{host}\", or use the address of a socket. Otherwise the relay's own responses would \
                             count as the client's"
                        ));
                    }
                    next = url.next;
                }
            }
            module = found.next;
        }
    }
    Ok(())
}

/// Refuses a request with a response, unless its sender wants none (RFC 4975, 7.1.2).
///
/// # Safety
/// As for [`pass`]; `request` is the same message.
unsafe fn refuse(
    request: *mut sys::msrp_msg,
    message: &sys::msrp_msg,
    handler: &Handler,
    decision: FrameDecision,
) -> c_int {
    // SAFETY: proto_msrp has parsed the first line of a request; a header lives as long as its message.
    let (report, no_answer) = unsafe {
        let report = message.fl.u.request.method_id == sys::MSRP_METHOD_REPORT;
        (report, message.failure_report.as_ref().is_some_and(|header| bytes(&header.body) == b"no"))
    };
    let (code, reason) = match decision {
        FrameDecision::BeyondGrant => (403, c"No credit"),
        FrameDecision::Full => (403, c"Overloaded"),
        FrameDecision::NotCharged | FrameDecision::NoSession => (481, c"No such session"),
        FrameDecision::Forged => (403, c"Forbidden"),
        _ => (400, c"Bad Request"),
    };
    let Some(send) = stock().and_then(|stock| stock.send_reply).filter(|_| !report && !no_answer) else { return 0 };
    let mut reason = static_str(reason);
    // SAFETY: proto_msrp's own function on its own message.
    unsafe { send(handler.handle.load(Ordering::Relaxed), request, code, &mut reason, std::ptr::null_mut(), 0) }
}

/// Replaces proto_msrp's function: sends a request that a module has generated. A SEND passes the gate first.
#[allow(clippy::too_many_arguments, reason = "the host's type of the function")]
unsafe extern "C" fn send_request(
    handle: *mut c_void,
    method: sys::msrp_method,
    from: *mut sys::_str,
    to: *mut sys::msrp_url,
    socket: *const sys::socket_info,
    address: *mut sys::sockaddr_union,
    mime: *mut sys::_str,
    body: *mut sys::_str,
    headers: *mut sys::_str,
    count: c_int,
    flag: c_char,
    parameter: *mut c_void,
) -> c_int {
    guard(-1, || {
        let Some(send) = stock().and_then(|stock| stock.send_request) else { return -1 };
        let send_with = |parameter| {
            // SAFETY: proto_msrp's function with the module's arguments.
            unsafe { send(handle, method, from, to, socket, address, mime, body, headers, count, flag, parameter) }
        };
        if method != sys::MSRP_METHOD_SEND {
            return send_with(parameter);
        }
        let number = frames::own_number();
        // SAFETY: the module passes texts, a path and headers that live during the call.
        let whole = unsafe { frames::frame_of(&own_id(number), from, to, mime, body, headers, count, flag as u8) };
        let frame = Frame::of_connection(&whole, 0);
        let decision = with_worker(|worker| worker.frame(&frame)).unwrap_or(FrameDecision::Full);
        if !may_be_relayed(decision, method) {
            log::warn!("an MSRP message generated by this proxy is not sent: {decision:?}");
            return -1;
        }
        // SAFETY: the host's shared memory, after start-up; freed by `on_reply`, or here.
        let sent = unsafe {
            let own = shared::put(Own { parameter, number });
            let sent = if own.is_null() { -1 } else { send_with(own.cast()) };
            if sent < 0 && !own.is_null() {
                sys::imcharge_shm_free(own.cast());
            }
            sent
        };
        if sent < 0 {
            with_worker(|worker| worker.unsent(&whole));
        }
        sent
    })
}
