//! MSRP: every request and response that the modules of the host handle passes here first.
//!
//! No event of the script tells of a 200, and a module cannot put itself before another: proto_msrp gives a request to the
//! first handler whose address fits. But whoever handles MSRP (msrp_relay, msrp_ua, msrp_gateway) finds proto_msrp's API
//! by the name of its function, `load_msrp`, and the host's search begins with the module that was loaded last. This module
//! has a function of that name too. It hands over proto_msrp's own API, except for three functions: a handler is
//! registered with ours in front of it, and a request that a module makes itself passes the gate before it is sent. What a
//! module could not send on, or send, is taken back: it costs nothing.
//!
//! The host gives a request a transaction id of its own as it sends it on; what came in is kept in the transaction, and the
//! engine is told that id for the response.

use super::address::ip;
use super::message::bytes;
use super::{bindings as sys, connections, exports, parameters, shared, text, with_worker};
use crate::config::NoSession;
use crate::guard::guard;
use crate::worker::FrameDecision;
use crate::worker::sip_input::Frame;
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{LazyLock, OnceLock};

/// proto_msrp's own API.
static STOCK: OnceLock<Binds> = OnceLock::new();

/// The parameter `no_session`: whether frames that belong to no session are refused.
static REFUSE_UNKNOWN_SESSIONS: LazyLock<bool> = LazyLock::new(|| parameters::config().no_session == NoSession::Refuse);

/// Whether a message may go on: it belongs to a charged session, or nobody minds that it belongs to none.
fn may_go_on(passage: FrameDecision, method: sys::msrp_method) -> bool {
    match passage {
        FrameDecision::Pass => true,
        FrameDecision::NotCharged => method != sys::MSRP_METHOD_SEND || !*REFUSE_UNKNOWN_SESSIONS,
        FrameDecision::BeyondGrant
        | FrameDecision::Malformed
        | FrameDecision::Full
        | FrameDecision::Forged
        | FrameDecision::NoSession => false,
    }
}

/// Plain function pointers, the same in all processes.
#[derive(Clone, Copy)]
struct Binds(sys::msrp_binds);

// SAFETY: the structure holds function pointers only and is never written after it was filled.
unsafe impl Send for Binds {}
// SAFETY: as above.
unsafe impl Sync for Binds {}

/// A handler of another module, which ours stands in front of.
struct Handler {
    /// Whether it is msrp_relay's: what that does not send on goes nowhere. Other modules take messages in.
    relays: bool,
    request: sys::msrp_req_handler_f,
    reply: sys::msrp_rpl_handler_f,
    parameter: *mut c_void,
    /// What proto_msrp knows it by.
    handle: AtomicPtr<c_void>,
}

/// What a request of a module's own carries besides what the module wants back: the id that the engine knows it by.
#[derive(Clone, Copy)]
#[repr(C)]
struct Own {
    parameter: *mut c_void,
    number: u64,
}

/// `load_msrp` as the others find it.
pub unsafe extern "C" fn load_msrp(binds: *mut sys::msrp_binds) {
    guard((), || {
        // SAFETY: the caller gives a place for the API.
        let (Some(stock), Some(binds)) = (stock(), unsafe { binds.as_mut() }) else {
            log::error!("load proto_msrp.so: another module wants MSRP");
            return;
        };
        *binds = stock;
        binds.register_msrp_handler = Some(register_handler);
        binds.send_request = Some(send_request);
        binds.forward_request = Some(forward_request);
    })
}

/// proto_msrp's API; `None`: it is not loaded.
fn stock() -> Option<sys::msrp_binds> {
    if let Some(stock) = STOCK.get() {
        return Some(stock.0);
    }
    // SAFETY: the host's own way to a function of a module: `load_msrp` has this type in every version that is built for.
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

/// Checks that proto_msrp is there and that the others find this module's `load_msrp`, not its. The error is a sentence for
/// the operator.
pub fn check_order() -> Result<(), &'static str> {
    if stock().is_none() {
        return Err(
            "proto_msrp is not loaded, so no message would be seen: write loadmodule \"proto_msrp.so\" before \
                    loadmodule \"imcharge.so\"",
        );
    }
    // SAFETY: the host's own search, by which the others find it.
    match unsafe { sys::find_export(text(c"load_msrp"), 0) } {
        Some(found) if found as *const () as usize == exports::own_load_msrp() => Ok(()),
        _ => Err("write loadmodule \"imcharge.so\" after loadmodule \"proto_msrp.so\": it would see no message"),
    }
}

/// Another module registers its handler: ours is put in front of it.
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
        // It lives as long as the host: made before the fork, the same in all processes.
        let relays = request.is_some_and(|request| is_of(request as *const c_void, b"msrp_relay.so"));
        let handler = Box::leak(Box::new(Handler { relays, request, reply, parameter, handle: AtomicPtr::new(none) }));
        let own = std::ptr::from_ref(handler).cast_mut().cast::<c_void>();
        // SAFETY: what the other module gives, with our functions and a parameter of static life.
        let handle = unsafe { register(host, port, secured, Some(on_request), Some(on_reply), own) };
        handler.handle.store(handle, Ordering::Relaxed);
        handle
    })
}

/// Whether a function is in the shared object of this name.
fn is_of(function: *const c_void, object: &[u8]) -> bool {
    // SAFETY: the loader only compares the address, and its name of an object lives as long as that.
    unsafe {
        let mut found = std::mem::zeroed::<libc::Dl_info>();
        let known = libc::dladdr(function, &mut found) != 0 && !found.dli_fname.is_null();
        known && CStr::from_ptr(found.dli_fname).to_bytes().ends_with(object)
    }
}

thread_local! {
    /// Whether the handler of the request at hand has tried to send it on.
    static FORWARDED: Cell<bool> = const { Cell::new(false) };
}

/// A request came in: goes on to its handler, or is answered here.
unsafe extern "C" fn on_request(request: *mut sys::msrp_msg, handler: *mut c_void) -> c_int {
    // SAFETY: proto_msrp gives a parsed message and the parameter of `register_handler`.
    let (message, handler) = unsafe { (request.as_ref(), handler.cast::<Handler>().as_ref()) };
    let (Some(message), Some(handler)) = (message, handler) else { return -1 };
    // SAFETY: a message of proto_msrp, for the time of the call.
    let passage = guard(FrameDecision::Malformed, || unsafe {
        // msrp_relay 3.6.8 looks its session up by the session-id of this URI, and ends the proxy where there is none.
        if handler.relays && names_no_session(message) { FrameDecision::NoSession } else { pass(message, None) }
    });
    // SAFETY: proto_msrp has parsed the first line of a request.
    let method = unsafe { message.fl.u.request.method_id };
    match handler.request.filter(|_| may_go_on(passage, method)) {
        Some(handle) => {
            FORWARDED.set(false);
            // SAFETY: the other module's own handler, with what it would get without us.
            let handled = unsafe { handle(request, handler.parameter) };
            if handler.relays && !FORWARDED.get() {
                // SAFETY: as for `pass`; the handler has left the message as it was.
                guard((), || unsafe { take_back(message) });
            }
            handled
        }
        // SAFETY: as for `pass`.
        None => guard(-1, || unsafe { refuse(request, message, handler, passage) }),
    }
}

/// Whether the first URI of a request's To-Path, which is this relay's, has no session-id. AUTH needs none.
///
/// # Safety
/// As for [`pass`].
unsafe fn names_no_session(message: &sys::msrp_msg) -> bool {
    // SAFETY: proto_msrp has parsed the first line; a header lives as long as its message.
    unsafe {
        let to_path = message.to_path.as_ref().map_or(&[][..], |header| bytes(&header.body));
        let first = to_path.split(|octet| *octet == b' ').next().unwrap_or_default();
        let start = memchr::memmem::find(first, b"://").map_or(0, |start| start + 3);
        let resource = first[start..].split(|octet| *octet == b';').next().unwrap_or_default();
        let session = memchr::memchr(b'/', resource).map_or(&[][..], |slash| &resource[slash + 1..]);
        message.fl.u.request.method_id != sys::MSRP_METHOD_AUTH && session.is_empty()
    }
}

/// A response came in, or (NULL) none in time: goes on to its handler.
unsafe extern "C" fn on_reply(
    reply: *mut sys::msrp_msg,
    transaction: *mut sys::msrp_cell,
    parameter: *mut c_void,
    handler: *mut c_void,
) -> c_int {
    // SAFETY: proto_msrp gives its transaction and the parameter of `register_handler`.
    let (cell, handler) = unsafe { (transaction.as_ref(), handler.cast::<Handler>().as_ref()) };
    let (Some(cell), Some(handler)) = (cell, handler) else { return -1 };
    let mut parameter = parameter;
    guard((), || {
        let number;
        // SAFETY: texts of a transaction live as long as it; a request of a module's own was sent by `send_request`,
        // with its block, and is taken out here once.
        let came_as = unsafe {
            match is_own(cell) {
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
        // SAFETY: NULL, or a message of proto_msrp for the time of the call.
        if let Some(message) = unsafe { reply.as_ref() } {
            // SAFETY: as above.
            unsafe { pass(message, Some(came_as)) };
        }
    });
    // SAFETY: the other module's own handler, with what it would get without us.
    handler.reply.map_or(-1, |handle| unsafe { handle(reply, transaction, parameter, handler.parameter) })
}

/// Whether a module of this proxy has made the request itself, and it was a SEND.
fn is_own(cell: &sys::msrp_cell) -> bool {
    cell.recv_ident.len == 0 && cell.method_id == sys::MSRP_METHOD_SEND
}

/// The gate.
///
/// # Safety
/// `message` must be one of proto_msrp.
unsafe fn pass(message: &sys::msrp_msg, came_as: Option<&[u8]>) -> FrameDecision {
    // SAFETY: the whole message as received lies at `buf`; a header lives as long as its message.
    let (whole, from_path) = unsafe {
        let whole = sys::_str { s: message.buf, len: message.len as c_int };
        (bytes(&whole), message.from_path.as_ref().map_or(&[][..], |header| bytes(&header.body)))
    };
    // A request is the relay's own by its connection. A response of the far end also arrives over the proxy's connection
    // to itself, with the transaction id that the engine knows: only one that this relay has made is its own.
    let from_self = match came_as {
        Some(_) => is_own_uri(from_path.rsplit(|octet| *octet == b' ').next().unwrap_or_default(), message.rcv.proto),
        None => connections::is_own(&message.rcv) || passes_again(message, whole, from_path),
    };
    let frame = Frame {
        bytes: whole,
        connection: connections::number(&message.rcv),
        source: ip(&message.rcv.src_ip),
        from_self,
        connections: &connections::Table,
    };
    let passage = with_worker(|worker| match came_as {
        Some(request) => worker.response(&frame, request),
        None => worker.frame(&frame),
    });
    passage.unwrap_or(FrameDecision::Full)
}

/// Whether a request comes from this relay, which has passed it on to itself. The host's table shows one connection of a
/// proxy to itself, and it may have several; what the relay has sent to itself is known by its content as well.
fn passes_again(message: &sys::msrp_msg, whole: &[u8], from_path: &[u8]) -> bool {
    let first = from_path.split(|octet| *octet == b' ').next().unwrap_or_default();
    ip(&message.rcv.src_ip) == ip(&message.rcv.dst_ip)
        && is_own_uri(first, message.rcv.proto)
        && with_worker(|worker| worker.is_expected_again(whole)).unwrap_or(false)
}

/// Remembers a request whose next hop is this relay again.
///
/// # Safety
/// As for [`pass`].
unsafe fn expect_again(message: &sys::msrp_msg) {
    // SAFETY: as in `pass`.
    let (whole, to_path) = unsafe {
        let whole = sys::_str { s: message.buf, len: message.len as c_int };
        (bytes(&whole), message.to_path.as_ref().map_or(&[][..], |header| bytes(&header.body)))
    };
    let next = to_path.split(|octet| *octet == b' ').nth(1).unwrap_or_default();
    if is_own_uri(next, message.rcv.proto) {
        with_worker(|worker| worker.expect_again(whole));
    }
}

/// A request that passed the gate went nowhere.
///
/// # Safety
/// As for [`pass`].
unsafe fn take_back(message: &sys::msrp_msg) {
    // SAFETY: as in `pass`.
    let whole = unsafe { bytes(&sys::_str { s: message.buf, len: message.len as c_int }) };
    with_worker(|worker| worker.unsent(whole));
}

/// A handler sends a request on.
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
    // SAFETY: as for `pass`; NULL, or the message that proto_msrp is given next.
    guard((), || unsafe { request.as_ref().into_iter().for_each(|message| expect_again(message)) });
    // SAFETY: proto_msrp's own function with what the module gives.
    let sent = unsafe { forward(handle, request, headers, count, socket, address, parameter) };
    if sent < 0 {
        // SAFETY: as for `pass`; NULL, or the message that proto_msrp has left as it was.
        guard((), || unsafe { request.as_ref().into_iter().for_each(|message| take_back(message)) });
    }
    sent
}

/// Whether a URI is this proxy's.
fn is_own_uri(uri: &[u8], protocol: c_int) -> bool {
    let Some(start) = memchr::memmem::find(uri, b"://") else { return false };
    let authority = uri[start + 3..].split(|octet| b"/;".contains(octet)).next().unwrap_or_default();
    let Some(colon) = memchr::memrchr(b':', authority) else { return false };
    let port = std::str::from_utf8(&authority[colon + 1..]).ok().and_then(|port| port.parse().ok());
    port.is_some_and(|port| connections::is_own_address_of(&authority[..colon], port, protocol))
}

/// Checks that each `my_uri` of msrp_relay is an address of this proxy. Otherwise the relay's responses to itself would
/// count as the client's. The error is a sentence for the operator. In mod_init: the host has read its script and opened its
/// list of sockets.
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
                            "my_uri of msrp_relay: {host}:{port} is no address of an msrp socket, and no alias: write \
                             alias=\"{host}\", or name the socket's address; otherwise the relay's own responses would \
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

/// Answers a request that must not go on, unless its sender wants no answer (RFC 4975, 7.1.2).
///
/// # Safety
/// As for [`pass`]; `request` is the same message.
unsafe fn refuse(
    request: *mut sys::msrp_msg,
    message: &sys::msrp_msg,
    handler: &Handler,
    passage: FrameDecision,
) -> c_int {
    // SAFETY: proto_msrp has parsed the first line of a request; a header lives as long as its message.
    let (report, no_answer) = unsafe {
        let report = message.fl.u.request.method_id == sys::MSRP_METHOD_REPORT;
        (report, message.failure_report.as_ref().is_some_and(|header| bytes(&header.body) == b"no"))
    };
    let (code, reason) = match passage {
        FrameDecision::BeyondGrant => (403, c"No credit"),
        FrameDecision::Full => (403, c"Overloaded"),
        FrameDecision::NotCharged | FrameDecision::NoSession => (481, c"No such session"),
        FrameDecision::Forged => (403, c"Forbidden"),
        _ => (400, c"Bad Request"),
    };
    let Some(send) = stock().and_then(|stock| stock.send_reply).filter(|_| !report && !no_answer) else { return 0 };
    let mut reason = super::super::text::static_str(reason);
    // SAFETY: proto_msrp's own function on its own message.
    unsafe { send(handler.handle.load(Ordering::Relaxed), request, code, &mut reason, std::ptr::null_mut(), 0) }
}

/// What the engine knows a request of a module's own by.
fn own_id(number: u64) -> String {
    format!("own{number:x}")
}

/// A module of this proxy sends a request that it has made itself: content passes the gate first.
#[allow(clippy::too_many_arguments, reason = "the host's form of the function")]
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
        let on = |parameter| {
            // SAFETY: proto_msrp's own function with what the module gives.
            unsafe { send(handle, method, from, to, socket, address, mime, body, headers, count, flag, parameter) }
        };
        if method != sys::MSRP_METHOD_SEND {
            return on(parameter);
        }
        let number = own_number();
        // SAFETY: the module gives texts, a path and headers that live for the call.
        let whole = unsafe { frame_of(&own_id(number), from, to, mime, body, headers, count, flag as u8) };
        let frame = Frame::of_connection(&whole, 0);
        let passage = with_worker(|worker| worker.frame(&frame)).unwrap_or(FrameDecision::Full);
        if !may_go_on(passage, method) {
            log::warn!("a message of this proxy itself is not sent: {passage:?}");
            return -1;
        }
        // SAFETY: the host's shared memory, after its start; given back by `on_reply`, or here.
        let sent = unsafe {
            let own = shared::put(Own { parameter, number });
            let sent = if own.is_null() { -1 } else { on(own.cast()) };
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

/// A number that no other request of this proxy has had.
fn own_number() -> u64 {
    thread_local! {
        static LAST: Cell<u64> = const { Cell::new(0) };
    }
    LAST.with(|last| {
        last.set(last.get() + 1);
        // SAFETY: an integer that the host sets once in each process.
        let process = unsafe { sys::process_no } as u64;
        std::time::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()) << 32
            | process << 24
            | last.get() & 0xff_ffff
    })
}

/// The frame that proto_msrp will make of these parts, as far as charging looks at it.
///
/// # Safety
/// All pointers must be NULL or valid for the call, `headers` with `count` texts.
#[allow(clippy::too_many_arguments, reason = "a frame has that many parts")]
unsafe fn frame_of(
    id: &str,
    from: *const sys::_str,
    to: *const sys::msrp_url,
    mime: *const sys::_str,
    body: *const sys::_str,
    headers: *const sys::_str,
    count: c_int,
    flag: u8,
) -> Vec<u8> {
    // SAFETY: by the caller's promise.
    unsafe {
        let text = |text: *const sys::_str| text.as_ref().map_or(&[][..], |text| bytes(text));
        let mut frame = format!("MSRP {id} SEND\r\nTo-Path:").into_bytes();
        let mut next = to;
        while let Some(url) = next.as_ref() {
            frame.push(b' ');
            frame.extend(bytes(&url.whole));
            next = url.next;
        }
        frame.extend(b"\r\nFrom-Path: ");
        frame.extend(text(from));
        frame.extend(b"\r\n");
        for at in 0..usize::try_from(count).unwrap_or(0) {
            frame.extend(text(headers.add(at)));
            frame.extend(b"\r\n");
        }
        if !body.is_null() {
            frame.extend(b"Content-Type: ");
            frame.extend(text(mime));
            frame.extend(b"\r\n\r\n");
            frame.extend(text(body));
            frame.extend(b"\r\n");
        }
        frame.extend(format!("-------{id}").bytes());
        frame.extend([flag, b'\r', b'\n']);
        frame
    }
}
