//! Conversion of the host's IP addresses.

use super::bindings as sys;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Converts an address of the host; `None` if it is neither IPv4 nor IPv6. An IPv4-mapped IPv6 address is returned as IPv4.
pub fn ip(address: &sys::ip_addr) -> Option<IpAddr> {
    // SAFETY: every bit pattern of the union is a valid array of octets.
    let octets = unsafe { address.u.addr };
    match address.len {
        4 => Some(Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()),
        16 => Some(IpAddr::from(Ipv6Addr::from(octets)).to_canonical()),
        _ => None,
    }
}
