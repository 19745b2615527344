//! What an operator says about the peers.

use std::path::PathBuf;

/// Octets of a name at most (RFC 1035, 2.3.4).
const NAME_MAX: usize = 255;

/// Seconds of Tw at least (RFC 3539, 3.4.1).
pub const WATCHDOG_MIN: u32 = 6;

/// Who we are, and whom we talk to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Our own DiameterIdentity.
    pub origin_host: String,
    /// And its realm.
    pub origin_realm: String,
    /// Whether credit control is offered as an application of 3GPP as well.
    pub vendor_specific_application: bool,
    /// The peers.
    pub peers: Vec<PeerConfig>,
    /// Tw, seconds: after so long a silence the peer is asked whether it is there (RFC 3539, 3.4.1).
    pub watchdog: u32,
    /// Requests without an answer that one peer may have.
    pub in_flight_max: usize,
    /// Seconds for TCP and TLS to be up, and as many again for the exchange of capabilities.
    pub connect_timeout: u32,
}

/// One peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerConfig {
    /// Its DiameterIdentity; empty: whoever answers.
    pub host: String,
    /// `host:port`, with an IPv6 address in brackets. A name is resolved at each connect.
    pub address: String,
    /// The lowest that is open serves.
    pub priority: u16,
    /// With TLS, and how.
    pub tls: Option<TlsConfig>,
}

/// Files of TLS, all PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// Whom we trust to sign the peer's certificate.
    pub ca: PathBuf,
    /// Our certificate, with those between it and the peer's CA.
    pub certificate: Option<PathBuf>,
    /// Its private key.
    pub key: Option<PathBuf>,
}

/// What is wrong with the configuration: one sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// What can be seen to be wrong without a look at the files.
    pub fn check(&self) -> Result<(), ConfigError> {
        name("origin_host", &self.origin_host)?;
        name("origin_realm", &self.origin_realm)?;
        if self.watchdog < WATCHDOG_MIN {
            return wrong(format!("a watchdog of {} s is not allowed: {WATCHDOG_MIN} at least", self.watchdog));
        }
        if self.in_flight_max == 0 {
            return wrong("in_flight_max of 0 would let no request out: 1 at least".into());
        }
        if self.connect_timeout == 0 {
            return wrong("a connect_timeout of 0 s would let no peer be connected: 1 at least".into());
        }
        if self.peers.is_empty() {
            return wrong("no peer is configured".into());
        }
        self.peers.iter().try_for_each(PeerConfig::check)
    }
}

impl PeerConfig {
    fn check(&self) -> Result<(), ConfigError> {
        if !self.host.is_empty() {
            name("the host of a peer", &self.host)?;
        }
        if self.host_and_port().is_none() {
            return wrong(format!("peer address \"{}\" is not host:port", self.address.escape_debug()));
        }
        match &self.tls {
            Some(TlsConfig { certificate: Some(_), key: None, .. }) => {
                wrong(format!("peer {} has a TLS certificate and no key", self.label()))
            }
            Some(TlsConfig { certificate: None, key: Some(_), .. }) => {
                wrong(format!("peer {} has a TLS key and no certificate", self.label()))
            }
            _ => Ok(()),
        }
    }

    /// The host without brackets, and the port.
    pub fn host_and_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.address.rsplit_once(':')?;
        let port = port.parse().ok().filter(|port| *port != 0)?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let fine = match bare {
            Some(bare) => bare.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && !host.contains([':', '[', ']']),
        };
        fine.then_some((bare.unwrap_or(host), port))
    }

    /// What an operator knows it by.
    pub fn label(&self) -> &str {
        if self.host.is_empty() { &self.address } else { &self.host }
    }
}

/// A DiameterIdentity is ASCII, and goes into every message.
fn name(what: &str, value: &str) -> Result<(), ConfigError> {
    let fine = !value.is_empty() && value.len() <= NAME_MAX && value.bytes().all(|byte| byte.is_ascii_graphic());
    match fine {
        true => Ok(()),
        false => wrong(format!("{what} \"{}\" is not a host's name", value.escape_debug())),
    }
}

fn wrong(sentence: String) -> Result<(), ConfigError> {
    Err(ConfigError(sentence))
}
