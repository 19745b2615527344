//! What an operator configures, checked once, before anything starts.

pub mod im_servers;

use crate::charge::policy::{DebitOn, Model, OnFailure, Policy, Resend};
use crate::charge::tariff::{NoTariff, Per, Tariff, Unit};
use crate::config::im_servers::ImServers;
use crate::enabler::diameter::profile::{CreditControlProfile, Profile, ServiceParameters};
use crate::enabler::diameter::{Config as PeersConfig, DiameterConfig, PeerConfig, TlsConfig};
use crate::wire::identity::{self, Preference};
use std::path::PathBuf;

/// The largest balance an operator can set: sums of it stay far from the end of the integer.
pub const BALANCE_MAX: i64 = 1_000_000_000_000_000;

/// Which identity pays.
#[derive(Clone, Debug, PartialEq, Eq)]
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

/// Who grants and debits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enabler {
    /// The embedded ledger.
    Ledger,
    /// An Online Charging System.
    Diameter,
}

impl Enabler {
    /// The word of the parameter.
    pub fn as_str(self) -> &'static str {
        match self {
            Enabler::Ledger => "ledger",
            Enabler::Diameter => "diameter",
        }
    }
}

/// What is only for `enabler=diameter`.
#[derive(Clone, Debug, Default)]
pub struct Diameter {
    /// Origin-Host.
    pub origin_host: String,
    /// Origin-Realm.
    pub origin_realm: String,
    /// Destination-Realm.
    pub destination_realm: String,
    /// Whom to ask.
    pub peers: Vec<Peer>,
    /// Service-Context-Id.
    pub service_context_id: String,
    /// How it is spoken to.
    pub profile: Profile,
    /// Service-Identifier.
    pub service_identifier: Option<u32>,
    /// Rating-Group.
    pub rating_group: Option<u32>,
    /// Currency-Code, with `unit=money`.
    pub currency_code: Option<u32>,
    /// Exponent of what the tariff counts, with `unit=money`; `None`: -2.
    pub currency_exponent: Option<i32>,
    /// Tx, seconds; 0: 10.
    pub tx_timeout: u32,
    /// File with the certificates that are trusted.
    pub tls_ca: PathBuf,
    /// File with the own certificate.
    pub tls_certificate: PathBuf,
    /// File with its key.
    pub tls_key: PathBuf,
}

/// One value of the parameter `peer`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its DiameterIdentity; empty: whoever answers.
    pub host: String,
    /// `HOST:PORT`.
    pub address: String,
    /// The lowest that is open serves.
    pub priority: u16,
    /// Whether it is spoken to in TLS.
    pub tls: bool,
}

/// Requests without an answer that a peer may have.
const IN_FLIGHT_MAX: usize = 20_000;

/// A parameter as the hosts export it.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Name.
    pub name: &'static str,
    /// Whether it is a whole number; else text.
    pub integer: bool,
}

/// What happens to a client whose description leaves this relay out of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bypass {
    /// It is counted.
    Allow,
    /// It is counted and refused: its INVITE is not charged, and what it describes later is not bound.
    Refuse,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the ledger; must exist and be writable.
    pub state_dir: PathBuf,
    /// Which identity pays.
    pub subscriber: Subscriber,
    /// What decides between pull and push.
    pub direction: DirectionRule,
    /// Which of several: a SIP URI, or a telephone number.
    pub identity: Preference,
    /// What a message costs.
    pub tariff: Tariff,
    /// What a unit of an account is.
    pub unit: Unit,
    /// The rules.
    pub policy: Policy,
    /// Host processes that take verdicts and run the resume route.
    pub resume_workers: u32,
    /// Host processes that run the event routes.
    pub event_workers: u32,
    /// Addresses that alone may speak for the side that has the messages.
    pub im_servers: ImServers,
    /// What happens to a client whose description leaves this relay out of its path.
    pub bypass: Bypass,
    /// Sessions open at once.
    pub max_sessions: u32,
    /// What an unknown subscriber starts with; `None`: is denied.
    pub default_balance: Option<i64>,
    /// Days for which closed sessions are kept.
    pub history_days: u32,
    /// Who grants and debits.
    pub enabler: Enabler,
    /// What is only for `enabler=diameter`.
    pub diameter: Diameter,
}

/// A parameter is wrong: one line that names it, the value and what is allowed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("parameter {name}: '{value}' is not allowed: {allowed}")]
pub struct ConfigError {
    /// Name.
    pub name: String,
    /// The value given.
    pub value: String,
    /// What would be right.
    pub allowed: String,
}

impl Config {
    /// Every parameter, in the order of the manual.
    pub const PARAMETERS: &'static [Parameter] = &[
        Parameter { name: "enabler", integer: false },
        Parameter { name: "state_dir", integer: false },
        Parameter { name: "subscriber", integer: false },
        Parameter { name: "direction", integer: false },
        Parameter { name: "identity", integer: false },
        Parameter { name: "tariff", integer: false },
        Parameter { name: "unit", integer: false },
        Parameter { name: "response_timeout", integer: true },
        Parameter { name: "hold_timeout", integer: true },
        Parameter { name: "resume_workers", integer: true },
        Parameter { name: "event_workers", integer: true },
        Parameter { name: "im_server", integer: false },
        Parameter { name: "bypass", integer: false },
        Parameter { name: "max_sessions", integer: true },
        Parameter { name: "debit_on", integer: false },
        Parameter { name: "model", integer: false },
        Parameter { name: "on_failure", integer: false },
        Parameter { name: "on_failure_cap", integer: true },
        Parameter { name: "policy", integer: false },
        Parameter { name: "default_balance", integer: true },
        Parameter { name: "history_days", integer: true },
        Parameter { name: "origin_host", integer: false },
        Parameter { name: "origin_realm", integer: false },
        Parameter { name: "destination_realm", integer: false },
        Parameter { name: "peer", integer: false },
        Parameter { name: "service_context_id", integer: false },
        Parameter { name: "profile", integer: false },
        Parameter { name: "service_identifier", integer: true },
        Parameter { name: "rating_group", integer: true },
        Parameter { name: "currency_code", integer: true },
        Parameter { name: "currency_exponent", integer: true },
        Parameter { name: "tx_timeout", integer: true },
        Parameter { name: "resend", integer: false },
        Parameter { name: "tls_ca", integer: false },
        Parameter { name: "tls_certificate", integer: false },
        Parameter { name: "tls_key", integer: false },
    ];

    /// Sets one parameter from its text.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let refuse = |allowed: &str| ConfigError { name: name.into(), value: value.into(), allowed: allowed.into() };
        let number = |least: u32, most: u32| {
            let parsed = value.parse().ok().filter(|number| (least..=most).contains(number));
            parsed.ok_or_else(|| refuse(&format!("a whole number from {least} to {most}")))
        };
        match name {
            "enabler" => {
                self.enabler = match value {
                    "ledger" => Enabler::Ledger,
                    "diameter" => Enabler::Diameter,
                    _ => return Err(refuse("ledger or diameter")),
                }
            }
            "state_dir" if value.starts_with('/') => self.state_dir = PathBuf::from(value),
            "state_dir" => return Err(refuse("the absolute path of a folder")),
            "subscriber" => {
                self.subscriber = match value {
                    "asserted" => Subscriber::Asserted,
                    "from" => Subscriber::From,
                    _ => return Err(refuse("asserted, from, or (in a proxy's script) a text with pseudo-variables")),
                }
            }
            "direction" => {
                self.direction = match value {
                    "asserted" => DirectionRule::Asserted,
                    "pull" => DirectionRule::Pull,
                    "push" => DirectionRule::Push,
                    server => DirectionRule::Server(
                        identity::canonical(server.as_bytes()).filter(|server| server.contains('@')).ok_or_else(
                            || {
                                refuse(
                                    "asserted, pull, push, the SIP URI of a store-and-forward server, or (in a proxy's \
                                 script) a text with pseudo-variables",
                                )
                            },
                        )?,
                    ),
                }
            }
            "identity" => {
                self.identity = Preference::named(value).ok_or_else(|| refuse("first, sip or tel"))?;
            }
            "tariff" => self.tariff = value.parse().map_err(|error: NoTariff| refuse(&error.to_string()))?,
            "unit" => {
                self.unit = Unit::named(value).ok_or_else(|| refuse("message, octets or money"))?;
            }
            "response_timeout" => self.policy.response_timeout = number(1, 3600)?,
            "hold_timeout" => self.policy.hold_timeout = number(1, 86_400)?,
            "resume_workers" => self.resume_workers = number(1, 64)?,
            "event_workers" => self.event_workers = number(1, 64)?,
            "bypass" => {
                self.bypass = match value {
                    "allow" => Bypass::Allow,
                    "refuse" => Bypass::Refuse,
                    _ => return Err(refuse("allow or refuse")),
                }
            }
            "im_server" => {
                let is_one = self.im_servers.add(value);
                is_one
                    .then_some(())
                    .ok_or_else(|| refuse("an IPv4 or IPv6 address, or a network like 192.0.2.0/24"))?;
            }
            "max_sessions" => self.max_sessions = number(1, 4_000_000)?,
            "debit_on" => {
                self.policy.debit_on = match value {
                    "response" => DebitOn::Response,
                    "report" => DebitOn::Report,
                    _ => return Err(refuse("response or report")),
                }
            }
            "model" => {
                self.policy.model = match value {
                    "reserve" => Model::Reserve,
                    "immediate" => Model::Immediate,
                    _ => return Err(refuse("reserve or immediate")),
                }
            }
            "on_failure" => {
                self.policy.on_failure = match value {
                    "deny" => OnFailure::Deny,
                    "grant" => OnFailure::Grant,
                    _ => return Err(refuse("deny or grant")),
                }
            }
            "on_failure_cap" => self.policy.on_failure_cap = number(1, 1_000_000)?,
            "resend" => {
                self.policy.resend = match value {
                    "again" => Resend::Again,
                    "hold" => Resend::Hold,
                    _ => return Err(refuse("again or hold")),
                }
            }
            "policy" => self.policy.set_cases(value).map_err(|error| refuse(&error.to_string()))?,
            "default_balance" => {
                let balance = value.parse().ok().filter(|balance| (0..=BALANCE_MAX).contains(balance));
                let allowed = format!("a whole number from 0 to {BALANCE_MAX}");
                self.default_balance = Some(balance.ok_or_else(|| refuse(&allowed))?);
            }
            "history_days" => self.history_days = number(1, 3650)?,
            _ => return self.diameter.set(name, value),
        }
        Ok(())
    }

    /// Checks what only the whole can show.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |allowed: &str| {
            let (name, value) = ("tariff".into(), self.tariff.to_string());
            Err(ConfigError { name, value, allowed: allowed.into() })
        };
        if (self.enabler, self.policy.model) == (Enabler::Ledger, Model::Immediate) {
            let (name, value) = ("model".into(), "immediate".into());
            return Err(ConfigError { name, value, allowed: "reserve, as long as enabler is ledger".into() });
        }
        match (self.unit, self.tariff.per) {
            (Unit::Message, Per::Kilobyte) => refuse("message:PRICE, as long as unit is message"),
            (Unit::Octets, Per::Message) => refuse("kilobyte:PRICE, as long as unit is octets"),
            _ if self.enabler == Enabler::Diameter => self.diameter.check(),
            _ => Ok(()),
        }
    }

    /// What the Diameter binding is started with; `None`: another enabler.
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
                    exponent: own.currency_exponent.unwrap_or(-2),
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
            tx_timeout: own.tx_timeout(),
        };
        (self.enabler == Enabler::Diameter).then_some(config)
    }
}

impl Diameter {
    /// Seconds that a request waits for its answer.
    pub fn tx_timeout(&self) -> u32 {
        if self.tx_timeout == 0 { 10 } else { self.tx_timeout }
    }

    fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let refuse = |allowed: &str| ConfigError { name: name.into(), value: value.into(), allowed: allowed.into() };
        let identity = || {
            let fine = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_".contains(&b));
            fine.then(|| value.to_owned())
                .ok_or_else(|| refuse("a DiameterIdentity: a domain name like ocs.example.org"))
        };
        let number = || value.parse::<u32>().map(Some).map_err(|_| refuse("a whole number from 0 to 4294967295"));
        let file = || {
            let fine = value.starts_with('/');
            fine.then(|| PathBuf::from(value)).ok_or_else(|| refuse("the absolute path of a PEM file"))
        };
        match name {
            "origin_host" => self.origin_host = identity()?,
            "origin_realm" => self.origin_realm = identity()?,
            "destination_realm" => self.destination_realm = identity()?,
            "peer" => self.peers.push(peer(value).ok_or_else(|| {
                refuse("host=NAME;address=HOST:PORT, and if need be ;priority=0..65535 and ;transport=tcp or tls")
            })?),
            "service_context_id" if value.contains('@') => self.service_context_id = value.into(),
            "service_context_id" => return Err(refuse("a service context like 32274@3gpp.org, as your OCS knows it")),
            "profile" => self.profile = Profile::named(value).ok_or_else(|| refuse("rfc8506 or 3gpp-ro"))?,
            "service_identifier" => self.service_identifier = number()?,
            "rating_group" => self.rating_group = number()?,
            "currency_code" => self.currency_code = number()?,
            "currency_exponent" => {
                let exponent = value.parse().ok().filter(|exponent| (-9..=9).contains(exponent));
                self.currency_exponent = Some(exponent.ok_or_else(|| refuse("a whole number from -9 to 9"))?);
            }
            "tx_timeout" => {
                let seconds = value.parse().ok().filter(|seconds| (1..=600).contains(seconds));
                self.tx_timeout = seconds.ok_or_else(|| refuse("a whole number from 1 to 600"))?;
            }
            "tls_ca" => self.tls_ca = file()?,
            "tls_certificate" => self.tls_certificate = file()?,
            "tls_key" => self.tls_key = file()?,
            _ => return Err(refuse("no such parameter")),
        }
        Ok(())
    }

    /// What must be there, and what goes together.
    fn check(&self) -> Result<(), ConfigError> {
        let missing = |name: &str, value: &str, allowed: &str| {
            Err(ConfigError { name: name.into(), value: value.into(), allowed: allowed.into() })
        };
        let required = [
            ("origin_host", &self.origin_host),
            ("origin_realm", &self.origin_realm),
            ("destination_realm", &self.destination_realm),
            ("service_context_id", &self.service_context_id),
        ];
        if let Some((name, _)) = required.iter().find(|(_, value)| value.is_empty()) {
            return missing(name, "", "enabler=diameter needs it");
        }
        if self.peers.is_empty() {
            return missing("peer", "", "enabler=diameter needs one at least");
        }
        let tls = self.peers.iter().find(|peer| peer.tls);
        if let Some(peer) = tls.filter(|_| self.tls_ca.as_os_str().is_empty()) {
            return missing("tls_ca", "", &format!("the peer {} is spoken to in TLS and needs it", peer.host));
        }
        if let Some(peer) = tls.filter(|peer| peer.host.is_empty()) {
            return missing("peer", &peer.address, "a peer in TLS needs its host, which its certificate is for");
        }
        match self.tls_certificate.as_os_str().is_empty() == self.tls_key.as_os_str().is_empty() {
            true => Ok(()),
            false => missing("tls_key", "", "tls_certificate and tls_key go together"),
        }
    }
}

/// `host=NAME;address=HOST:PORT;priority=N;transport=tls`
fn peer(text: &str) -> Option<Peer> {
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
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parameter_takes_a_right_value_and_refuses_a_wrong_one_by_name() {
        let right = [
            ("enabler", "ledger"),
            ("state_dir", "/var/lib/imcharge"),
            ("subscriber", "from"),
            ("direction", "sip:rcse-standfw@example.org"),
            ("identity", "tel"),
            ("tariff", "message:25"),
            ("unit", "money"),
            ("response_timeout", "5"),
            ("hold_timeout", "60"),
            ("resume_workers", "4"),
            ("event_workers", "2"),
            ("im_server", "2001:db8::/32"),
            ("bypass", "refuse"),
            ("max_sessions", "1000"),
            ("debit_on", "report"),
            ("model", "immediate"),
            ("on_failure", "grant"),
            ("on_failure_cap", "5"),
            ("policy", "5xx=release;close=debit;abort=debit;report=release"),
            ("default_balance", "100"),
            ("history_days", "90"),
            ("origin_host", "proxy.example.org"),
            ("origin_realm", "example.org"),
            ("destination_realm", "ocs.example.org"),
            ("peer", "host=ocs1.example.org;address=[2001:db8::1]:3868;priority=2;transport=tls"),
            ("service_context_id", "32274@3gpp.org"),
            ("profile", "3gpp-ro"),
            ("service_identifier", "7"),
            ("rating_group", "0"),
            ("currency_code", "978"),
            ("currency_exponent", "-3"),
            ("tx_timeout", "5"),
            ("resend", "hold"),
            ("tls_ca", "/etc/ssl/ca.pem"),
            ("tls_certificate", "/etc/ssl/own.pem"),
            ("tls_key", "/etc/ssl/own.key"),
        ];
        assert_eq!(
            right.map(|(name, _)| name).as_slice(),
            Config::PARAMETERS.iter().map(|p| p.name).collect::<Vec<_>>()
        );
        for (name, value) in right {
            Config::default().set(name, value).unwrap_or_else(|error| panic!("{error}"));
            let wrong = Config::default().set(name, "-1 bogus").expect_err(name).to_string();
            assert!(wrong.starts_with(&format!("parameter {name}: '-1 bogus' is not allowed: ")), "{wrong}");
        }
    }

    #[test]
    fn what_diameter_needs_is_asked_for_by_name() {
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
        assert_eq!(config.check().expect_err("a key without a certificate").name, "tls_key");
        for wrong in ["", "host=a", "address=1.2.3.4", "address=1.2.3.4:99999", "address=a:1;color=red"] {
            assert!(config.set("peer", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_tariff_that_does_not_fit_the_unit_is_refused() {
        let mut config = Config::default();
        config.set("tariff", "kilobyte:2").expect("a tariff");
        assert_eq!(config.check().expect_err("messages have no kilobytes").name, "tariff");
        config.set("unit", "octets").expect("a unit");
        assert!(config.check().is_ok());
        config.set("tariff", "message:2").expect("a tariff");
        assert!(config.check().is_err());
    }

    #[test]
    fn the_ledger_always_reserves() {
        let mut config = Config::default();
        config.set("model", "immediate").expect("a model");
        assert_eq!(config.check().expect_err("a balance that nobody holds back").name, "model");
    }
}
