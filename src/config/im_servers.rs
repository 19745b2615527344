//! The addresses of IM servers that the operator has configured.

use std::net::IpAddr;
use std::str::FromStr;

/// Networks of IM servers. If empty, each dialog accepts the server by its MSRP connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImServers(Vec<Network>);

/// A network in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: u128,
    bits: u32,
}

impl ImServers {
    /// Whether no address is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether an address belongs to an IM server.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = number(address);
        self.0.iter().any(|network| (address ^ network.address).leading_zeros() >= network.bits)
    }

    /// Adds an address, or a network in the form `address/bits`; `false` if the text is neither.
    pub fn add(&mut self, text: &str) -> bool {
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let Ok(address) = IpAddr::from_str(address) else { return false };
        let most = if address.is_ipv4() { 32 } else { 128 };
        let Some(bits) = bits.map_or(Some(most), |bits| bits.parse().ok().filter(|bits| *bits <= most)) else {
            return false;
        };
        self.0.push(Network { address: number(address), bits: bits + 128 - most });
        true
    }
}

/// Returns an address as a number, IPv4 in its IPv4-mapped form, which hosts may use as well.
fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(network: &str, address: &str) -> bool {
        let mut servers = ImServers::default();
        assert!(servers.add(network), "{network}");
        servers.contains(address.parse().expect("an address"))
    }

    #[test]
    fn networks_contain_their_addresses_only() {
        for (network, within, outside) in [
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("192.0.2.7/32", "::ffff:192.0.2.7", "::ffff:192.0.2.6"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
        ] {
            assert!(contains(network, within), "{within} in {network}");
            assert!(!contains(network, outside), "{outside} in {network}");
        }
        assert!(contains("0.0.0.0/0", "203.0.113.9") && !contains("0.0.0.0/0", "2001:db8::1"));
        assert!(contains("::/0", "203.0.113.9"));
    }

    #[test]
    fn texts_that_are_not_networks_are_refused() {
        for text in ["", "example.com", "192.0.2.7/33", "192.0.2.7/-1", "2001:db8::/129", "192.0.2.7/", "192.0.2"] {
            assert!(!ImServers::default().add(text), "{text}");
        }
    }
}
