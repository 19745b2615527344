//! The configuration: collected parameter by parameter, checked once before anything starts.

pub mod im_servers;
mod parameters;

pub use parameters::{PARAMETERS, Parameter, ParameterHost, ParameterType};

use crate::charge::policy::{Model, Policy};
use crate::charge::tariff::{Per, Tariff, Unit};
use crate::config::im_servers::ImServers;
use crate::enabler::diameter::profile::{CreditControlProfile, Profile, ServiceParameters};
use crate::enabler::diameter::{Config as PeersConfig, DiameterConfig, PeerConfig, TlsConfig};
use crate::wire::identity::Preference;
use std::path::PathBuf;

/// Largest balance that an operator can set, in units. Sums of balances stay far below the limit of an `i64`.
pub const BALANCE_MAX: i64 = 1_000_000_000_000_000;

/// Which identity pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscriber {
    /// The identity that the network asserted: P-Asserted-Identity (RCS push: P-Called-Party-ID, else the Request-URI).
    Asserted,
    /// The From URI. Anyone can write it: only for closed networks.
    From,
}

/// What decides whether an INVITE fetches messages (pull) or delivers them (push).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectionRule {
    /// With `subscriber=asserted`, an INVITE is a push if P-Asserted-Identity names an RCS store-and-forward server of
    /// any domain. All others are pulls.
    Asserted,
    /// As `Asserted`, for the store-and-forward server with this canonical identity only.
    Server(String),
    /// Every INVITE is a pull.
    Pull,
    /// Every INVITE is a push.
    Push,
}

/// The charging back end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabler {
    /// The embedded ledger.
    Ledger,
    /// An Online Charging System.
    Diameter,
}

impl Enabler {
    /// Returns the value of the parameter `enabler`.
    pub fn as_str(self) -> &'static str {
        match self {
            Enabler::Ledger => "ledger",
            Enabler::Diameter => "diameter",
        }
    }
}

/// The parameters of `enabler=diameter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diameter {
    /// Origin-Host.
    pub origin_host: String,
    /// Origin-Realm.
    pub origin_realm: String,
    /// Destination-Realm.
    pub destination_realm: String,
    /// The peers, at least one.
    pub peers: Vec<Peer>,
    /// Service-Context-Id.
    pub service_context_id: String,
    /// Profile of Diameter Credit-Control.
    pub profile: Profile,
    /// Service-Identifier.
    pub service_identifier: Option<u32>,
    /// Rating-Group.
    pub rating_group: Option<u32>,
    /// Currency-Code, with `unit=money`.
    pub currency_code: Option<u32>,
    /// Exponent of the unit that the tariff counts, with `unit=money`.
    pub currency_exponent: i32,
    /// Tx, seconds (RFC 8506, 13).
    pub tx_timeout: u32,
    /// PEM file with the trusted certificates; empty: not set.
    pub tls_ca: PathBuf,
    /// PEM file with the certificate of this node; empty: not set.
    pub tls_certificate: PathBuf,
    /// PEM file with its private key; empty: not set.
    pub tls_key: PathBuf,
}

/// One value of the parameter `peer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// DiameterIdentity; empty: any identity is accepted.
    pub host: String,
    /// `HOST:PORT`.
    pub address: String,
    /// The open peer with the lowest number serves.
    pub priority: u16,
    /// Whether the connection uses TLS.
    pub tls: bool,
}

/// Limit of unanswered requests of one peer.
const IN_FLIGHT_MAX: usize = 20_000;

/// What happens to a client whose SDP leaves this relay out of its `a=path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// The case is counted.
    Allow,
    /// The case is counted; the INVITE is not charged, and endpoints of later SDP are not bound.
    Refuse,
}

/// What happens to MSRP frames that belong to no charged session (OpenSIPS).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoSession {
    /// They pass uncharged.
    Pass,
    /// They are refused.
    Refuse,
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Folder of the ledger; must exist and be writable.
    pub state_dir: PathBuf,
    /// The identity that pays.
    pub subscriber: Subscriber,
    /// What makes an INVITE a pull or a push.
    pub direction: DirectionRule,
    /// Which of several asserted identities pays: a SIP URI or a telephone number.
    pub identity: Preference,
    /// What a message costs.
    pub tariff: Tariff,
    /// What a unit of an account is.
    pub unit: Unit,
    /// The charging policy.
    pub policy: Policy,
    /// Host processes that run resume routes.
    pub resume_workers: u32,
    /// Host processes that run the event routes.
    pub event_workers: u32,
    /// Addresses that MSRP of the IM server must come from; empty: any.
    pub im_servers: ImServers,
    /// What happens to a client whose SDP leaves this relay out of its `a=path`.
    pub bypass: Bypass,
    /// Sessions open at once.
    pub max_sessions: u32,
    /// Balance of a subscriber who has no account yet; `None`: the subscriber is denied.
    pub default_balance: Option<i64>,
    /// Days for which closed sessions are kept.
    pub history_days: u32,
    /// The charging back end.
    pub enabler: Enabler,
    /// The parameters of `enabler=diameter`.
    pub diameter: Diameter,
    /// KEMI function that is called for events (Kamailio); `None`: the native event routes run.
    pub event_callback: Option<String>,
    /// What happens to MSRP frames that belong to no charged session (OpenSIPS).
    pub no_session: NoSession,
}

/// A parameter is wrong or missing: one line that names it, the value and what is accepted.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct ConfigError {
    /// The parameter.
    pub name: String,
    /// The line.
    text: String,
}

impl ConfigError {
    /// The value is not one of the accepted ones.
    pub fn new(name: &str, value: &str, accepted: &str) -> ConfigError {
        let text = format!("parameter {name}: '{value}' is not allowed; accepted: {accepted}");
        ConfigError { name: name.into(), text }
    }

    /// The value does not go with another parameter's.
    fn conflict(name: &str, value: &str, with: &str, accepted: &str) -> ConfigError {
        let text = format!("parameter {name}: '{value}' is not allowed with {with}; accepted: {accepted}");
        ConfigError { name: name.into(), text }
    }

    /// The parameter is not set and `needed_by` needs it.
    fn missing(name: &str, needed_by: &str) -> ConfigError {
        let text = format!("parameter {name} is not set; {needed_by} needs it");
        ConfigError { name: name.into(), text }
    }
}

impl Config {
    /// Sets a parameter that every host has.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        match Parameter::find(name).filter(|parameter| parameter.host == ParameterHost::Any) {
            Some(parameter) => parameter.set(self, value),
            None => {
                let text = format!("parameter {name}: there is no such parameter on this host");
                Err(ConfigError { name: name.into(), text })
            }
        }
    }

    /// Checks the parameters against each other, once all are set.
    pub fn check(&self) -> Result<(), ConfigError> {
        if (self.enabler, self.policy.model) == (Enabler::Ledger, Model::Immediate) {
            return Err(ConfigError::conflict("model", "immediate", "enabler=ledger", "reserve"));
        }
        let tariff = self.tariff.to_string();
        match (self.unit, self.tariff.per) {
            (Unit::Message, Per::Kilobyte) => {
                Err(ConfigError::conflict("tariff", &tariff, "unit=message", "message:PRICE"))
            }
            (Unit::Octets, Per::Message) => {
                Err(ConfigError::conflict("tariff", &tariff, "unit=octets", "kilobyte:PRICE"))
            }
            _ if self.enabler == Enabler::Diameter => self.diameter.check(),
            _ => Ok(()),
        }
    }

    /// Returns the configuration of the Diameter binding; `None` with another enabler.
    pub fn diameter(&self) -> Option<DiameterConfig> {
        let own = &self.diameter;
        let (host, realm) = (own.origin_host.clone(), own.origin_realm.clone());
        let path = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let (certificate, key) = (path(&own.tls_certificate), path(&own.tls_key));
        let tls = TlsConfig { ca: own.tls_ca.clone(), certificate, key };
        let peer = |peer: &Peer| PeerConfig {
            host: peer.host.clone(),
            address: peer.address.clone(),
            priority: peer.priority,
            tls: peer.tls.then(|| tls.clone()),
        };
        let config = DiameterConfig {
            dialect: CreditControlProfile {
                origin_host: host.clone(),
                origin_realm: realm.clone(),
                destination_realm: own.destination_realm.clone(),
                service_context_id: own.service_context_id.clone(),
                keys: ServiceParameters {
                    profile: own.profile,
                    unit: self.unit,
                    identifier: own.service_identifier,
                    rating_group: own.rating_group,
                    currency: own.currency_code,
                    exponent: own.currency_exponent,
                },
            },
            peers: PeersConfig {
                origin_host: host,
                origin_realm: realm,
                vendor_specific_application: own.profile == Profile::Ro,
                peers: own.peers.iter().map(peer).collect(),
                watchdog: 30,
                in_flight_max: IN_FLIGHT_MAX,
                connect_timeout: 5,
            },
            tx_timeout: own.tx_timeout,
        };
        (self.enabler == Enabler::Diameter).then_some(config)
    }
}

impl Diameter {
    /// Checks that everything needed is set and fits together.
    fn check(&self) -> Result<(), ConfigError> {
        let required = [
            ("origin_host", self.origin_host.is_empty()),
            ("origin_realm", self.origin_realm.is_empty()),
            ("destination_realm", self.destination_realm.is_empty()),
            ("service_context_id", self.service_context_id.is_empty()),
            ("peer", self.peers.is_empty()),
        ];
        if let Some((name, _)) = required.iter().find(|(_, is_missing)| *is_missing) {
            return Err(ConfigError::missing(name, "enabler=diameter"));
        }
        let tls_peer = self.peers.iter().find(|peer| peer.tls);
        if let Some(peer) = tls_peer.filter(|_| self.tls_ca.as_os_str().is_empty()) {
            return Err(ConfigError::missing("tls_ca", &format!("the TLS peer {}", peer.host)));
        }
        if let Some(peer) = tls_peer.filter(|peer| peer.host.is_empty()) {
            let accepted = "host=NAME as well, which its certificate is verified against";
            return Err(ConfigError::conflict("peer", &peer.address, "transport=tls", accepted));
        }
        match (self.tls_certificate.as_os_str().is_empty(), self.tls_key.as_os_str().is_empty()) {
            (false, true) => Err(ConfigError::missing("tls_key", "tls_certificate")),
            (true, false) => Err(ConfigError::missing("tls_certificate", "tls_key")),
            _ => Ok(()),
        }
    }
}

impl Peer {
    /// Parses `host=NAME;address=HOST:PORT;priority=N;transport=tls`.
    fn parse(text: &str) -> Option<Peer> {
        let mut peer = Peer { host: String::new(), address: String::new(), priority: 0, tls: false };
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            match part.split_once('=')? {
                ("host", host) => peer.host = host.into(),
                ("address", address) => peer.address = address.into(),
                ("priority", number) => peer.priority = number.parse().ok()?,
                ("transport", "tcp") => peer.tls = false,
                ("transport", "tls") => peer.tls = true,
                _ => return None,
            }
        }
        let port = peer.address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        port.map(|_| peer)
    }
}

impl Default for Diameter {
    fn default() -> Diameter {
        Diameter {
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

impl Default for Config {
    fn default() -> Config {
        Config {
            state_dir: PathBuf::from("/var/lib/imcharge"),
            subscriber: Subscriber::Asserted,
            direction: DirectionRule::Asserted,
            identity: Preference::First,
            tariff: Tariff { per: Per::Message, price: 1 },
            unit: Unit::Message,
            policy: Policy::default(),
            resume_workers: 2,
            event_workers: 1,
            im_servers: ImServers::default(),
            bypass: Bypass::Allow,
            max_sessions: 50_000,
            default_balance: None,
            history_days: 30,
            enabler: Enabler::Ledger,
            diameter: Diameter::default(),
            event_callback: None,
            no_session: NoSession::Pass,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_names_the_diameter_parameter_that_is_missing() {
        let mut config = Config::default();
        config.set("enabler", "diameter").expect("an enabler");
        for (name, value) in [
            ("origin_host", "proxy.example.org"),
            ("origin_realm", "example.org"),
            ("destination_realm", "ocs.example.org"),
            ("service_context_id", "32274@3gpp.org"),
            ("peer", "host=ocs1.example.org;address=127.0.0.1:3868"),
        ] {
            assert_eq!(config.check().expect_err("it is missing").name, name);
            config.set(name, value).unwrap_or_else(|error| panic!("{error}"));
        }
        assert!(config.check().is_ok());
        config.set("peer", "host=ocs2.example.org;address=127.0.0.1:5868;transport=tls").expect("a peer");
        assert_eq!(config.check().expect_err("TLS without a CA").name, "tls_ca");
        config.set("tls_ca", "/ca.pem").expect("a path");
        assert!(config.check().is_ok());
        config.set("tls_key", "/own.key").expect("a path");
        assert_eq!(config.check().expect_err("a key without a certificate").name, "tls_certificate");
        for wrong in ["", "host=a", "address=1.2.3.4", "address=1.2.3.4:99999", "address=a:1;color=red"] {
            assert!(config.set("peer", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn check_refuses_a_tariff_that_does_not_fit_the_unit() {
        let mut config = Config::default();
        config.set("tariff", "kilobyte:2").expect("a tariff");
        assert_eq!(config.check().expect_err("messages have no kilobytes").name, "tariff");
        config.set("unit", "octets").expect("a unit");
        assert!(config.check().is_ok());
        config.set("tariff", "message:2").expect("a tariff");
        assert!(config.check().is_err());
    }

    #[test]
    fn check_refuses_immediate_debits_on_the_ledger() {
        let mut config = Config::default();
        config.set("model", "immediate").expect("a model");
        assert_eq!(config.check().expect_err("the ledger always reserves").name, "model");
    }
}
