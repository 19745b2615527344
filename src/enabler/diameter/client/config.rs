//! Configuration of the Diameter client. It is not checked here: `enabler::diameter::Config` makes it from checked
//! parameters.

use crate::enabler::net::address::HostPort;
use crate::enabler::net::tls::TlsConfig;

/// Maximum length of a DiameterIdentity, in octets: a domain name (RFC 1035, 2.3.4).
pub const IDENTITY_MAX: usize = 255;

/// The local node and its peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// DiameterIdentity of the local node.
    pub origin_host: String,
    /// Its realm.
    pub origin_realm: String,
    /// Whether the application is also advertised as one of 3GPP (Vendor-Specific-Application-Id).
    pub vendor_specific_application: bool,
    /// The peers; at least one.
    pub peers: Vec<PeerConfig>,
    /// Tw in seconds: a peer that is silent for so long is sent a watchdog request (RFC 3539, 3.4.1).
    pub watchdog: u32,
    /// Maximum number of pending requests at one peer.
    pub in_flight_max: usize,
    /// Seconds that TCP and TLS may take, and again as many for the capabilities exchange.
    pub connect_timeout: u32,
}

impl Config {
    /// A configuration without peers, with the timers and limits of production.
    pub fn new(origin_host: String, origin_realm: String) -> Config {
        Config {
            origin_host,
            origin_realm,
            vendor_specific_application: false,
            peers: Vec::new(),
            watchdog: 30,
            in_flight_max: 20_000,
            connect_timeout: 5,
        }
    }
}

/// One peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its DiameterIdentity; empty: any identity is accepted.
    pub host: String,
    /// Where it listens. A name is resolved for each connection.
    pub address: HostPort,
    /// The open peers with the lowest priority value serve.
    pub priority: u16,
    /// TLS; `None`: plain TCP.
    pub tls: Option<TlsConfig>,
}

impl PeerConfig {
    /// Returns the name for logs: the identity, or the address if no identity is configured.
    pub fn label(&self) -> String {
        if self.host.is_empty() { self.address.to_string() } else { self.host.clone() }
    }

    /// Returns the name that its certificate must contain: its DiameterIdentity or, if none is configured, the host of
    /// its address.
    pub fn certificate_name(&self) -> &str {
        if self.host.is_empty() { &self.address.host } else { &self.host }
    }
}
