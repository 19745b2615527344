//! Where a server listens.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// Host and port, written `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl FromStr for HostPort {
    type Err = ();

    fn from_str(text: &str) -> Result<HostPort, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_valid = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']']),
        };
        let host = bare.unwrap_or(host).to_owned();
        if is_valid { Ok(HostPort { host, port }) } else { Err(()) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let HostPort { host, port } = self;
        if host.contains(':') { write!(out, "[{host}]:{port}") } else { write!(out, "{host}:{port}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_written_as_it_is_read() {
        for text in ["ocs.example.org:3868", "[2001:db8::1]:3868", "192.0.2.1:1"] {
            assert_eq!(text.parse::<HostPort>().map(|address| address.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for text in ["", "a", "a:0", "a:99999", ":1", "[1.2.3.4]:1", "2001:db8::1:3868", "[::1:1"] {
            assert_eq!(text.parse::<HostPort>(), Err(()), "{text}");
        }
    }
}
