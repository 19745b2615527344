//! `imcharge_msrp()`, the gate of `event_route[msrp:frame-in]`, and lost connections.

use super::address::ip;
use super::message::bytes;
use super::{bindings as sys, connections, text, with_worker};
use crate::guard::guard;
use crate::worker::FrameDecision;
use crate::worker::sip_input::Frame;
use std::ffi::{c_char, c_int};
use std::sync::OnceLock;

/// `msrp_get_current_frame` of the msrp module.
type CurrentFrame = unsafe extern "C" fn() -> *mut sys::msrp_frame;

/// Looked up once at run time: the host loads modules without linking them to each other.
static CURRENT_FRAME: OnceLock<Option<CurrentFrame>> = OnceLock::new();

fn current_frame() -> Option<CurrentFrame> {
    // SAFETY: the host's list of modules; if the symbol exists, it is the function of the msrp module, whose
    // headers the bindings were generated from.
    *CURRENT_FRAME.get_or_init(|| unsafe {
        let module = sys::find_module_by_name(text(c"msrp")).as_ref()?;
        let found = libc::dlsym(module.handle, c"msrp_get_current_frame".as_ptr());
        (!found.is_null()).then(|| std::mem::transmute::<*mut libc::c_void, CurrentFrame>(found))
    })
}

/// Script: `imcharge_msrp()`. The SIP message is not used: for frames of 11,239 octets or more the host has none.
pub unsafe extern "C" fn msrp(_: *mut sys::sip_msg, _: *mut c_char, _: *mut c_char) -> c_int {
    guard(FrameDecision::Malformed as c_int, || {
        let Some(current_frame) = current_frame() else {
            log::error!("imcharge_msrp: the module msrp is not loaded; add loadmodule \"msrp.so\"");
            return FrameDecision::Malformed as c_int;
        };
        // SAFETY: the module's own function; a frame lives as long as the event route runs.
        let Some(frame) = (unsafe { current_frame().as_ref() }) else {
            log::error!("imcharge_msrp: no current MSRP frame; call it only in event_route[msrp:frame-in]");
            return FrameDecision::Malformed as c_int;
        };
        // SAFETY: `buf` holds the whole frame while the event route runs.
        let whole = unsafe { bytes(&frame.buf) };
        // SAFETY: the host fills both before the event.
        let received = unsafe { frame.tcpinfo.as_ref().and_then(|info| info.rcv.as_mut()) };
        let frame = match received {
            Some(received) => Frame {
                bytes: whole,
                connection: received.proto_reserved1 as u64,
                source: ip(&received.src_ip),
                // SAFETY: filled by the host before the event.
                from_self: unsafe { connections::is_own(received) },
                connections: &connections::Table,
            },
            None => Frame::of_connection(whole, 0),
        };
        with_worker(|worker| worker.frame(&frame)).unwrap_or(FrameDecision::Full) as c_int
    })
}

/// KEMI: `KSR.imcharge.msrp()`.
pub unsafe extern "C" fn kemi_msrp(message: *mut sys::sip_msg) -> c_int {
    // SAFETY: as for `msrp`.
    unsafe { msrp(message, std::ptr::null_mut(), std::ptr::null_mut()) }
}

/// Callback for a closed connection.
unsafe extern "C" fn on_closed(event: *mut sys::sr_event_param_t) -> c_int {
    guard(0, || {
        // SAFETY: for this event the data is a tcp_closed_event_info that is valid during the call.
        let connection = unsafe {
            let closed = event.as_ref().and_then(|event| event.data.cast::<sys::tcp_closed_event_info>().as_ref());
            closed.and_then(|closed| closed.con.as_ref()).map(|connection| connection.id)
        };
        if let Some(connection) = connection.and_then(|id| u64::try_from(id).ok()) {
            with_worker(|worker| worker.connection_lost(connection));
        }
        0
    })
}

/// Registers the callback for closed connections. The host accepts one module only; if another was first, this is logged.
pub fn register() {
    // SAFETY: a static function.
    if unsafe { sys::sr_event_register_cb(sys::SREV_TCP_CLOSED as c_int, Some(on_closed)) } < 0 {
        log::warn!(
            "another module has registered for closed connections: messages to a client that drops its connection are \
             debited after response_timeout, not at once"
        );
    }
}
