//! Parameters of `enabler=diameter`, and the checked configuration they become. These are all rules for them.

use super::client::config::{Config as ClientConfig, IDENTITY_MAX, PeerConfig};
use super::profile::{CreditControlProfile, Profile, ServiceParameters};
use crate::charge::tariff::Unit;
use crate::enabler::ParameterError;
use crate::enabler::net::address::HostPort;
use crate::enabler::net::tls::{OwnCertificate, TlsConfig};
use std::path::PathBuf;
use std::str::FromStr;

/// Values of the parameters. Each is valid by itself; [`Config::new`] checks them together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Origin-Host; empty: not set.
    pub origin_host: String,
    /// Origin-Realm; empty: not set.
    pub origin_realm: String,
    /// Destination-Realm; empty: not set.
    pub destination_realm: String,
    /// The servers, or relays to them.
    pub peers: Vec<PeerSettings>,
    /// Service-Context-Id; empty: not set.
    pub service_context_id: String,
    /// Message layout that the server expects.
    pub profile: Profile,
    /// Service-Identifier, if the server rates by it.
    pub service_identifier: Option<u32>,
    /// Rating-Group, if the server rates by it.
    pub rating_group: Option<u32>,
    /// Currency-Code (ISO 4217), with `unit=money`.
    pub currency_code: Option<u32>,
    /// Exponent of the currency unit that the tariff counts, with `unit=money`: -2 for cents.
    pub currency_exponent: i32,
    /// Tx in seconds (RFC 8506, 13).
    pub tx_timeout: u32,
    /// File with the trusted certificates; empty: not set.
    pub tls_ca: PathBuf,
    /// File with the certificate of this node; empty: not set.
    pub tls_certificate: PathBuf,
    /// File with its key; empty: not set.
    pub tls_key: PathBuf,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            origin_host: String::new(),
            origin_realm: String::new(),
            destination_realm: String::new(),
            peers: Vec::new(),
            service_context_id: String::new(),
            profile: Profile::default(),
            service_identifier: None,
            rating_group: None,
            currency_code: None,
            currency_exponent: -2,
            tx_timeout: 10,
            tls_ca: PathBuf::new(),
            tls_certificate: PathBuf::new(),
            tls_key: PathBuf::new(),
        }
    }
}

/// One value of the parameter `peer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSettings {
    /// Its DiameterIdentity; empty: any identity is accepted.
    pub host: String,
    /// Where it listens.
    pub address: HostPort,
    /// The open peers with the lowest priority value serve.
    pub priority: u16,
    /// Whether the connection is TLS.
    pub tls: bool,
}

/// `host=NAME;address=HOST:PORT[;priority=N][;transport=tcp|tls]`
impl FromStr for PeerSettings {
    type Err = ();

    fn from_str(text: &str) -> Result<PeerSettings, ()> {
        let (mut host, mut address, mut priority, mut tls) = (String::new(), None, 0, false);
        for field in text.split(';').map(str::trim).filter(|field| !field.is_empty()) {
            match field.split_once('=').ok_or(())? {
                ("host", "") => host.clear(),
                ("host", name) => host = identity(name).ok_or(())?,
                ("address", place) => address = Some(place.parse()?),
                ("priority", number) => priority = number.parse().map_err(drop)?,
                ("transport", "tcp") => tls = false,
                ("transport", "tls") => tls = true,
                _ => return Err(()),
            }
        }
        Ok(PeerSettings { host, address: address.ok_or(())?, priority, tls })
    }
}

/// Parses a DiameterIdentity: a domain name (RFC 6733, 4.3.1).
pub fn identity(text: &str) -> Option<String> {
    let is_valid = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (!text.is_empty() && text.len() <= IDENTITY_MAX && text.bytes().all(is_valid)).then(|| text.to_owned())
}

/// The checked configuration of the binding.
#[derive(Clone, Debug)]
pub struct Config {
    /// What requests contain.
    pub profile: CreditControlProfile,
    /// The client and its peers.
    pub client: ClientConfig,
    /// Tx in seconds (RFC 8506, 13).
    pub tx_timeout: u32,
}

impl Config {
    /// Checks that nothing is missing and that the values fit together. `unit`: what accounts count.
    pub fn new(settings: &Settings, unit: Unit) -> Result<Config, ParameterError> {
        for (name, value) in [
            ("origin_host", &settings.origin_host),
            ("origin_realm", &settings.origin_realm),
            ("destination_realm", &settings.destination_realm),
            ("service_context_id", &settings.service_context_id),
        ] {
            if value.is_empty() {
                return Err(ParameterError::missing(name, "enabler=diameter"));
            }
        }
        if settings.peers.is_empty() {
            return Err(ParameterError::missing("peer", "enabler=diameter"));
        }
        let own = own_certificate(settings)?;
        let peers = settings.peers.iter().map(|peer| peer_config(settings, own.as_ref(), peer));
        let client = ClientConfig {
            vendor_specific_application: settings.profile == Profile::Ro,
            peers: peers.collect::<Result<_, _>>()?,
            ..ClientConfig::new(settings.origin_host.clone(), settings.origin_realm.clone())
        };
        let keys = ServiceParameters {
            profile: settings.profile,
            unit,
            identifier: settings.service_identifier,
            rating_group: settings.rating_group,
            currency: settings.currency_code,
            exponent: settings.currency_exponent,
        };
        let profile = CreditControlProfile {
            origin_host: settings.origin_host.clone(),
            origin_realm: settings.origin_realm.clone(),
            destination_realm: settings.destination_realm.clone(),
            service_context_id: settings.service_context_id.clone(),
            keys,
        };
        Ok(Config { profile, client, tx_timeout: settings.tx_timeout })
    }
}

/// Returns the files of this node's certificate, if they are set.
pub fn own_certificate(settings: &Settings) -> Result<Option<OwnCertificate>, ParameterError> {
    let (certificate, key) = (&settings.tls_certificate, &settings.tls_key);
    match (certificate.as_os_str().is_empty(), key.as_os_str().is_empty()) {
        (true, true) => Ok(None),
        (false, false) => Ok(Some(OwnCertificate { certificate: certificate.clone(), key: key.clone() })),
        (true, false) => Err(ParameterError::missing("tls_certificate", "tls_key")),
        (false, true) => Err(ParameterError::missing("tls_key", "tls_certificate")),
    }
}

fn peer_config(
    settings: &Settings,
    own: Option<&OwnCertificate>,
    peer: &PeerSettings,
) -> Result<PeerConfig, ParameterError> {
    let PeerSettings { host, address, priority, tls } = peer;
    if *tls && settings.tls_ca.as_os_str().is_empty() {
        return Err(ParameterError::missing("tls_ca", format!("the TLS peer at {address}")));
    }
    if *tls && host.is_empty() {
        let (value, accepted) = (format!("address={address}"), "with host=NAME, which its certificate must name");
        return Err(ParameterError::conflict("peer", value, "transport=tls", accepted));
    }
    let tls = tls.then(|| TlsConfig { ca: settings.tls_ca.clone(), own: own.cloned() });
    Ok(PeerConfig { host: host.clone(), address: address.clone(), priority: *priority, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settings that are complete.
    fn complete() -> Settings {
        Settings {
            origin_host: "proxy.example.org".into(),
            origin_realm: "example.org".into(),
            destination_realm: "ocs.example.org".into(),
            service_context_id: "32274@3gpp.org".into(),
            peers: vec![peer("host=ocs1.example.org;address=127.0.0.1:3868")],
            ..Settings::default()
        }
    }

    fn peer(text: &str) -> PeerSettings {
        text.parse().expect("a peer")
    }

    fn missing(settings: &Settings) -> Option<&'static str> {
        Config::new(settings, Unit::Message).err().map(|error| error.name)
    }

    #[test]
    fn config_names_the_missing_parameter() {
        let complete = complete();
        assert_eq!(missing(&complete), None);
        let cases: [(&str, Settings); 5] = [
            ("origin_host", Settings { origin_host: String::new(), ..complete.clone() }),
            ("origin_realm", Settings { origin_realm: String::new(), ..complete.clone() }),
            ("destination_realm", Settings { destination_realm: String::new(), ..complete.clone() }),
            ("service_context_id", Settings { service_context_id: String::new(), ..complete.clone() }),
            ("peer", Settings { peers: Vec::new(), ..complete }),
        ];
        for (name, settings) in cases {
            assert_eq!(missing(&settings), Some(name));
        }
    }

    #[test]
    fn tls_requires_a_ca_the_host_and_certificate_with_key() {
        let mut settings = complete();
        settings.peers.push(peer("host=ocs2.example.org;address=127.0.0.1:5868;transport=tls"));
        assert_eq!(missing(&settings), Some("tls_ca"));
        settings.tls_ca = "/ca.pem".into();
        assert_eq!(missing(&settings), None);
        settings.tls_key = "/own.key".into();
        assert_eq!(missing(&settings), Some("tls_certificate"));
        settings.tls_certificate = "/own.pem".into();
        assert_eq!(missing(&settings), None);
        settings.tls_key = PathBuf::new();
        assert_eq!(missing(&settings), Some("tls_key"));
        settings.tls_certificate = PathBuf::new();
        settings.peers.push(peer("address=127.0.0.1:5868;transport=tls"));
        assert_eq!(missing(&settings), Some("peer"));
    }

    #[test]
    fn invalid_peers_are_refused() {
        for text in [
            "",
            "host=a",
            "host=a b;address=a:1",
            "address=1.2.3.4",
            "address=1.2.3.4:0",
            "address=1.2.3.4:99999",
            "address=[1.2.3.4]:1",
            "address=2001:db8::1:3868",
            "address=a:1;color=red",
        ] {
            assert_eq!(text.parse::<PeerSettings>(), Err(()), "{text}");
        }
    }

    #[test]
    fn identity_is_a_domain_name_of_at_most_255_octets() {
        assert!(identity("ocs-1.example.org").is_some() && identity(&"a".repeat(255)).is_some());
        for text in ["", "proxy example", "ocs;1", &"a".repeat(256)] {
            assert_eq!(identity(text), None, "{text}");
        }
    }
}
