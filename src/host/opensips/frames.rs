//! The gate for MSRP: passes requests and responses of proto_msrp to the worker.

use super::address::ip;
use super::message::bytes;
use super::{bindings as sys, connections, parameters, with_worker};
use crate::config::NoSession;
use crate::worker::FrameDecision;
use crate::worker::sip_input::Frame;
use std::cell::Cell;
use std::ffi::c_int;
use std::sync::LazyLock;

/// Whether the parameter `no_session` refuses requests that belong to no session.
static REFUSE_UNKNOWN_SESSIONS: LazyLock<bool> = LazyLock::new(|| parameters::config().no_session == NoSession::Refuse);

/// Whether a message may be relayed: it belongs to a charged session, or to none if `no_session` allows that.
pub fn may_be_relayed(decision: FrameDecision, method: sys::msrp_method) -> bool {
    match decision {
        FrameDecision::Pass => true,
        FrameDecision::NotCharged => method != sys::MSRP_METHOD_SEND || !*REFUSE_UNKNOWN_SESSIONS,
        FrameDecision::BeyondGrant
        | FrameDecision::Malformed
        | FrameDecision::Full
        | FrameDecision::Forged
        | FrameDecision::NoSession => false,
    }
}

/// Whether the first URI of a request's To-Path, which is the relay's own, lacks a session-id. AUTH needs none.
///
/// # Safety
/// As for [`pass`].
pub unsafe fn lacks_session_id(message: &sys::msrp_msg) -> bool {
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

/// Whether the request of this transaction is a SEND that a module of this proxy has generated.
pub fn is_own(cell: &sys::msrp_cell) -> bool {
    cell.recv_ident.len == 0 && cell.method_id == sys::MSRP_METHOD_SEND
}

/// Passes a message through the gate. `request_id` is `None` for a request; for a response it is the transaction id with which
/// the worker has seen the request.
///
/// # Safety
/// `message` must be a message of proto_msrp.
pub unsafe fn pass(message: &sys::msrp_msg, request_id: Option<&[u8]>) -> FrameDecision {
    // SAFETY: `buf` holds the whole message as received; a header lives as long as its message.
    let (whole, from_path) = unsafe {
        let whole = sys::_str { s: message.buf, len: message.len as c_int };
        (bytes(&whole), message.from_path.as_ref().map_or(&[][..], |header| bytes(&header.body)))
    };
    // A request is the relay's own if it arrived over a connection of the proxy to itself. A response of the far end may
    // arrive there too, with the transaction id that the engine knows, so a response is judged by its From-Path.
    let from_self = match request_id {
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
    let decision = with_worker(|worker| match request_id {
        Some(request) => worker.response(&frame, request),
        None => worker.frame(&frame),
    });
    decision.unwrap_or(FrameDecision::Full)
}

/// Whether a request has been relayed by this proxy to itself. The host's search finds only one connection of the proxy to
/// itself, and there may be several, so such requests are also recognised by their content.
fn passes_again(message: &sys::msrp_msg, whole: &[u8], from_path: &[u8]) -> bool {
    let first = from_path.split(|octet| *octet == b' ').next().unwrap_or_default();
    ip(&message.rcv.src_ip) == ip(&message.rcv.dst_ip)
        && is_own_uri(first, message.rcv.proto)
        && with_worker(|worker| worker.is_expected_again(whole)).unwrap_or(false)
}

/// Remembers a request whose next hop is this relay.
///
/// # Safety
/// As for [`pass`].
pub unsafe fn expect_again(message: &sys::msrp_msg) {
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

/// Cancels the charge of a request that passed the gate but was not sent.
///
/// # Safety
/// As for [`pass`].
pub unsafe fn take_back(message: &sys::msrp_msg) {
    // SAFETY: as in `pass`.
    let whole = unsafe { bytes(&sys::_str { s: message.buf, len: message.len as c_int }) };
    with_worker(|worker| worker.unsent(whole));
}

/// Whether an MSRP URI is an address of this proxy.
fn is_own_uri(uri: &[u8], protocol: c_int) -> bool {
    let Some(start) = memchr::memmem::find(uri, b"://") else { return false };
    let authority = uri[start + 3..].split(|octet| b"/;".contains(octet)).next().unwrap_or_default();
    let Some(colon) = memchr::memrchr(b':', authority) else { return false };
    let port = std::str::from_utf8(&authority[colon + 1..]).ok().and_then(|port| port.parse().ok());
    port.is_some_and(|port| connections::is_own_address_of(&authority[..colon], port, protocol))
}

/// Returns the transaction id by which the engine knows a request that a module has generated.
pub fn own_id(number: u64) -> String {
    format!("own{number:x}")
}

/// Returns a number for [`own_id`], unique in this proxy.
pub fn own_number() -> u64 {
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

/// Returns the frame that proto_msrp will send for these parts, as far as charging needs it.
///
/// # Safety
/// All pointers must be NULL or valid for the call, `headers` with `count` texts.
#[allow(clippy::too_many_arguments, reason = "a frame has that many parts")]
pub unsafe fn frame_of(
    id: &str,
    from: *const sys::_str,
    to: *const sys::msrp_url,
    mime: *const sys::_str,
    body: *const sys::_str,
    headers: *const sys::_str,
    count: c_int,
    flag: u8,
) -> Vec<u8> {
    // SAFETY: guaranteed by the caller.
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
