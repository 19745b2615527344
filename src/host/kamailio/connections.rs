//! The host's TCP and TLS connections.

use super::address::ip;
use super::bindings as sys;
use crate::worker::sip_input::Connections;
use std::ffi::{c_char, c_int};
use std::ptr::null_mut;

/// The host's table of connections.
#[derive(Clone, Copy, Debug)]
pub struct Table;

impl Connections for Table {
    fn is_open(&self, connection: u64) -> Option<bool> {
        let id = c_int::try_from(connection).ok().filter(|id| *id != 0)?;
        // SAFETY: a search by number uses no address. It takes the lock that the host also takes for each frame that it sends.
        Some(unsafe { sys::tcpconn_exists(id, null_mut(), 0, null_mut(), 0, 0) } != 0)
    }
}

/// Whether the proxy listens on this address or has it as an alias.
pub fn is_own_address(host: &str, port: u16) -> bool {
    let mut host = sys::_str { s: host.as_ptr().cast::<c_char>().cast_mut(), len: host.len() as c_int };
    // SAFETY: the host's own lists of sockets and aliases; it only reads the text.
    unsafe { sys::check_self(&mut host, port, 0) == 1 }
}

/// Whether a frame arrived over a connection of this proxy to itself: whether the host's table also holds the other
/// end of that connection, with both addresses and ports exchanged. The source address alone does not tell: the
/// accepted end has an ephemeral port as its peer, and a client may run on the same machine.
///
/// # Safety
/// `received` must be the receive information of a frame, filled by the host.
pub unsafe fn is_own(received: &mut sys::receive_info) -> bool {
    let (peer, own) = (&raw mut received.src_ip, &raw mut received.dst_ip);
    let source = ip(&received.src_ip);
    // SAFETY: the host's list of sockets and an address of it.
    let is_local = || unsafe { !sys::find_si(peer, 0, received.proto as u8 as u16).is_null() };
    // The search takes a lock, so it is done for local addresses only.
    let is_candidate =
        source.is_some_and(|source| source.is_loopback()) || source == ip(&received.dst_ip) || is_local();
    // SAFETY: two addresses of the host, which the search only reads.
    is_candidate
        && unsafe { sys::tcpconn_exists(0, own, received.dst_port.into(), peer, received.src_port.into(), 0) } != 0
}
