//! Configuration of the Diameter client. It is not checked here: `enabler::diameter::Config` makes it from checked
//! parameters.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::str::FromStr;

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
    pub address: PeerAddress,
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
}

/// Host and port, written `host:port`, with an IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// A name or an address, without brackets.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl FromStr for PeerAddress {
    type Err = ();

    fn from_str(text: &str) -> Result<PeerAddress, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or(())?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let is_valid = match bare {
            Some(bare) => bare.parse::<Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']']),
        };
        let host = bare.unwrap_or(host).to_owned();
        if is_valid { Ok(PeerAddress { host, port }) } else { Err(()) }
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PeerAddress { host, port } = self;
        if host.contains(':') { write!(out, "[{host}]:{port}") } else { write!(out, "{host}:{port}") }
    }
}

/// PEM files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsConfig {
    /// Trusted certificates for the peer's.
    pub ca: PathBuf,
    /// Certificate and key of the local node; `None`: it presents none.
    pub own: Option<OwnCertificate>,
}

/// PEM files with a certificate and its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate, followed by those between it and the peer's CA.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}
