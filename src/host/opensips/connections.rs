//! The loss of connections.
//!
//! The host tells of it by its event `E_CORE_TCP_DISCONNECT` alone, and not by the number of the connection but by its
//! addresses. So a connection is known here by these, and the module is a transport of events that subscribes to this one.

use super::guard::guard;
use super::message::bytes;
use super::{bindings as k, with_worker};
use crate::host::text::static_str;
use std::ffi::{c_int, c_uint};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The number of a connection with the peer `source` and this end `destination`, the same in all processes; never 0.
fn number_of(source: (IpAddr, u16), destination: (IpAddr, u16)) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source, destination).hash(&mut hasher);
    hasher.finish().max(1)
}

/// Of the connection that a message came on; 0 where its addresses are of no known kind.
pub fn number(received: &k::receive_info) -> u64 {
    match (address(&received.src_ip), address(&received.dst_ip)) {
        (Some(source), Some(destination)) => number_of((source, received.src_port), (destination, received.dst_port)),
        _ => 0,
    }
}

/// An address of the host's.
pub fn address(address: &k::ip_addr) -> Option<IpAddr> {
    // SAFETY: any octets are an address; so many are filled as its kind has.
    let octets = unsafe { address.u.addr };
    match address.len {
        4 => Some(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()),
        16 => Some(Ipv6Addr::from(octets).into()),
        _ => None,
    }
}

/// The transport: it has one subscriber, the module itself.
struct Transport(k::evi_export_t);

// SAFETY: read by the host alone, after its start.
unsafe impl Sync for Transport {}

static TRANSPORT: Transport = Transport(k::evi_export_t {
    proto: static_str(c"imcharge"),
    raise: Some(raise),
    parse: Some(parse),
    match_: None,
    free: None,
    print: Some(print),
    flags: 0,
});

/// Subscribes. The host then tells of lost connections in one of its workers. In mod_init.
pub fn register() {
    let name = static_str(c"E_CORE_TCP_DISCONNECT");
    // SAFETY: a table and texts of static life.
    let subscribed = unsafe {
        k::register_event_mod(&TRANSPORT.0) == 0 && k::evi_event_subscribe(name, static_str(c"imcharge:"), 0, 0) > 0
    };
    if !subscribed {
        log::warn!(
            "the proxy does not tell of closed connections: a client that drops its connection is debited when \
             response_timeout is over, not at once"
        );
    }
}

/// The host makes a subscriber of what stands behind the transport's name: nothing.
unsafe extern "C" fn parse(_: k::str_) -> *mut k::evi_reply_sock {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the host's shared memory; zeros are a subscriber without address.
        unsafe {
            let subscriber = super::shared::put(std::mem::zeroed::<k::evi_reply_sock>());
            if let Some(subscriber) = subscriber.as_mut() {
                subscriber.address = static_str(c"imcharge");
            }
            subscriber
        }
    })
}

/// How the subscriber is listed.
unsafe extern "C" fn print(_: *mut k::evi_reply_sock) -> k::str_ {
    static_str(c"imcharge")
}

/// A connection was closed.
unsafe extern "C" fn raise(
    _: *mut k::sip_msg,
    _: *mut k::str_,
    _: *mut k::evi_reply_sock,
    parameters: *mut k::evi_params_t,
    _: *mut k::evi_async_ctx_t,
) -> c_int {
    guard(0, || {
        let (mut addresses, mut ports) = ([None; 2], [None; 2]);
        // SAFETY: the host gives a list of named numbers and texts for the time of the call.
        unsafe {
            let mut next = parameters.as_ref().map_or(std::ptr::null_mut(), |list| list.first);
            while let Some(parameter) = next.as_ref() {
                let number = || match parameter.flags as c_uint & k::EVI_INT_VAL {
                    0 => None,
                    _ => Some(parameter.val.n as u16),
                };
                let ip = || std::str::from_utf8(bytes(&parameter.val.s)).ok().and_then(|text| text.parse().ok());
                match bytes(&parameter.name) {
                    b"src_ip" => addresses[0] = ip(),
                    b"src_port" => ports[0] = number(),
                    b"dst_ip" => addresses[1] = ip(),
                    b"dst_port" => ports[1] = number(),
                    _ => {}
                }
                next = parameter.next;
            }
        }
        if let ([Some(source), Some(destination)], [Some(from), Some(to)]) = (addresses, ports) {
            with_worker(|worker| worker.connection_lost(number_of((source, from), (destination, to))));
        }
        0
    })
}
