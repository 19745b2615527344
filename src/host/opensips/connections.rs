//! The host's MSRP connections.
//!
//! The host reports a closed connection only by its event `E_CORE_TCP_DISCONNECT`, with the addresses of the connection instead
//! of its number. So connections are identified by their addresses, and the module registers a transport of events that
//! subscribes to this event.

use super::address::ip;
use super::message::bytes;
use super::{bindings as sys, with_worker};
use crate::guard::guard;
use crate::host::text::static_str;
use crate::worker::sip_input::Connections;
use std::ffi::{c_char, c_int, c_uint};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

/// Marks the number of a connection with an IPv6 peer.
const IPV6: u64 = 1 << 63;

/// Returns the number of the connection between the peer `source` and this end `destination`; never 0, and the same in all
/// processes. With an IPv4 peer, bit 63 is 0, bits 16 to 47 hold the peer's address and bits 0 to 15 its port, so that the
/// connection can be searched for by its number. With an IPv6 peer bit 63 is 1.
fn number_of(source: (IpAddr, u16), destination: (IpAddr, u16)) -> u64 {
    let mut hasher = DefaultHasher::new();
    (source, destination).hash(&mut hasher);
    match source {
        (IpAddr::V4(address), port) => {
            hasher.finish() >> 49 << 48 | u64::from(u32::from(address)) << 16 | u64::from(port.max(1))
        }
        (IpAddr::V6(_), _) => hasher.finish() | IPV6,
    }
}

/// Returns the number of the connection on which a message arrived; 0 if its addresses are neither IPv4 nor IPv6.
pub fn number(received: &sys::receive_info) -> u64 {
    match (ip(&received.src_ip), ip(&received.dst_ip)) {
        (Some(source), Some(destination)) => number_of((source, received.src_port), (destination, received.dst_port)),
        _ => 0,
    }
}

/// Whether a message arrived over a connection of this proxy to itself: whether the host also holds the other end of
/// that connection. The source address alone does not tell: the accepted end has an ephemeral port as its peer, and a
/// client may run on the same machine.
pub fn is_own(received: &sys::receive_info) -> bool {
    let (peer, own) = (&received.src_ip, &received.dst_ip);
    // SAFETY: two addresses of the host, which the search only reads.
    unsafe { sys::imcharge_has_connection(own, received.dst_port, peer, received.src_port) != 0 }
}

/// Whether this is an MSRP address of the proxy, or an alias of it.
pub fn is_own_address(host: &str, port: u16) -> bool {
    [sys::PROTO_MSRP, sys::PROTO_MSRPS]
        .into_iter()
        .any(|protocol| is_own_address_of(host.as_bytes(), port, protocol as c_int))
}

/// Whether this is an address of a socket of the proxy with this protocol, or an alias of it. IPv6 may be in brackets.
pub fn is_own_address_of(host: &[u8], port: u16, protocol: c_int) -> bool {
    let host = host.trim_ascii();
    let host = host.strip_prefix(b"[").and_then(|host| host.strip_suffix(b"]")).unwrap_or(host);
    let mut host = sys::_str { s: host.as_ptr().cast::<c_char>().cast_mut(), len: host.len() as c_int };
    // SAFETY: the host's own lists of sockets and aliases; it only reads the text.
    unsafe { sys::imcharge_is_own(&mut host, port, protocol as u16) != 0 }
}

/// The host's table of connections. It cannot be searched for a connection with an IPv6 peer by its number.
#[derive(Clone, Copy, Debug)]
pub struct Table;

impl Connections for Table {
    fn is_open(&self, connection: u64) -> Option<bool> {
        if connection == 0 || connection & IPV6 != 0 {
            return None;
        }
        let peer = (connection >> 16) as u32;
        // SAFETY: the host's address structure, zeroed and then filled for an IPv4 address.
        let address = unsafe {
            let mut address = std::mem::zeroed::<sys::ip_addr>();
            (address.af, address.len) = (libc::AF_INET as c_uint, 4);
            address.u.addr32[0] = peer.to_be();
            address
        };
        // SAFETY: as above; no local address.
        let found = unsafe { sys::imcharge_has_connection(&address, connection as u16, std::ptr::null(), 0) };
        Some(found != 0)
    }
}

/// The transport of events. It has one subscriber, this module.
struct Transport(sys::evi_export_t);

// SAFETY: read by the host only, after its start-up.
unsafe impl Sync for Transport {}

static TRANSPORT: Transport = Transport(sys::evi_export_t {
    proto: static_str(c"imcharge"),
    raise: Some(raise),
    parse: Some(parse),
    match_: None,
    free: None,
    print: Some(print),
    flags: 0,
});

/// Subscribes to closed connections, which the host then reports in one of its workers. Only in mod_init.
pub fn register() {
    let name = static_str(c"E_CORE_TCP_DISCONNECT");
    // SAFETY: a static table and static texts.
    let subscribed = unsafe {
        sys::register_event_mod(&TRANSPORT.0) == 0 && sys::evi_event_subscribe(name, static_str(c"imcharge:"), 0, 0) > 0
    };
    if !subscribed {
        log::warn!(
            "the proxy does not report closed connections: messages to a client that drops its connection are debited \
             after response_timeout, not at once"
        );
    }
}

/// Callback that creates the subscriber. There is one without an address.
unsafe extern "C" fn parse(_: sys::str_) -> *mut sys::evi_reply_sock {
    guard(std::ptr::null_mut(), || {
        // SAFETY: the host's shared memory; an all-zero structure is a subscriber without an address.
        unsafe {
            let subscriber = super::shared::put(std::mem::zeroed::<sys::evi_reply_sock>());
            if let Some(subscriber) = subscriber.as_mut() {
                subscriber.address = static_str(c"imcharge");
            }
            subscriber
        }
    })
}

/// Callback that names the subscriber in lists.
unsafe extern "C" fn print(_: *mut sys::evi_reply_sock) -> sys::str_ {
    static_str(c"imcharge")
}

/// Callback for a closed connection.
unsafe extern "C" fn raise(
    _: *mut sys::sip_msg,
    _: *mut sys::str_,
    _: *mut sys::evi_reply_sock,
    parameters: *mut sys::evi_params_t,
    _: *mut sys::evi_async_ctx_t,
) -> c_int {
    guard(0, || {
        let (mut addresses, mut ports) = ([None; 2], [None; 2]);
        // SAFETY: the host passes a list of named numbers and texts that is valid during the call.
        unsafe {
            let mut next = parameters.as_ref().map_or(std::ptr::null_mut(), |list| list.first);
            while let Some(parameter) = next.as_ref() {
                let number = || match parameter.flags as c_uint & sys::EVI_INT_VAL {
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
