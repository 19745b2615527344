//! The configuration: collected parameter by parameter, checked once before anything starts.

pub mod free_content;
pub mod im_servers;
mod parameter;
mod parameters;
mod records;
pub mod tariffs;

pub use parameter::{Parameter, ParameterHost, ParameterType};
pub use parameters::PARAMETERS;
pub use records::{RecordFormat, RecordSettings};

use crate::charge::policy::{Model, Policy};
use crate::charge::tariff::Unit;
use crate::config::free_content::FreeContent;
use crate::config::im_servers::ImServers;
use crate::config::tariffs::{TariffRow, TariffTable};
pub use crate::enabler::{AccountChange, Accounts, BALANCE_MAX, StatusValue, queries};
use crate::enabler::{BINDINGS, Binding, LowBalance, ParameterError, Settings, diameter, postgres};
use crate::wire::identity::Preference;
use std::path::PathBuf;

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
    /// What messages cost.
    pub tariffs: TariffTable,
    /// What a unit of an account is.
    pub unit: Unit,
    /// Media types of content that is not charged.
    pub free_content: FreeContent,
    /// Maximum octets of a message that is free by its type.
    pub free_content_max: u32,
    /// Largest size of a file that is believed, octets.
    pub file_size_max: u32,
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
    /// Octets of the largest SIP MESSAGE body that is charged; a larger one is refused.
    pub message_max: u32,
    /// Balance of a subscriber who has no account yet; `None`: the subscriber is denied.
    pub default_balance: Option<i64>,
    /// How many units left of an account raise the low-balance event; `None`: it is never raised.
    pub low_balance: Option<LowBalance>,
    /// Days for which closed sessions are kept.
    pub history_days: u32,
    /// The charging records.
    pub records: RecordSettings,
    /// The charging back end.
    pub enabler: &'static Binding,
    /// The parameters of `enabler=diameter`.
    pub diameter: diameter::Settings,
    /// The parameters of `enabler=postgres`.
    pub postgres: postgres::Settings,
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
}

impl From<ParameterError> for ConfigError {
    fn from(error: ParameterError) -> ConfigError {
        ConfigError { name: error.name.into(), text: error.to_string() }
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
        let model = self.policy.model;
        if model != Model::Reserve && !self.enabler.capabilities.debits_without_reservation {
            let with = format!("enabler={}", self.enabler.name);
            return Err(ConfigError::conflict("model", model.as_str(), &with, "reserve"));
        }
        if let Some(low_balance) = self.low_balance.filter(|_| self.enabler.capabilities.accounts == Accounts::AtServer)
        {
            let with = format!("enabler={}", self.enabler.name);
            return Err(ConfigError::conflict("low_balance", &low_balance.to_string(), &with, "not to be set"));
        }
        self.tariffs.rows().iter().try_for_each(|row| self.check_tariff(row))?;
        Ok(self.enabler.check(&self.enabler_settings())?)
    }

    /// Checks a tariff against the unit of the accounts. A server that counts octets has one price for all classes.
    pub fn check_tariff(&self, row: &TariffRow) -> Result<(), ParameterError> {
        let conflict = |with: &str, accepted| Err(ParameterError::conflict("tariff", row.to_string(), with, accepted));
        let is_distant = self.enabler.capabilities.accounts == Accounts::AtServer;
        match self.unit {
            Unit::Message if row.tariff.kilobyte > 0 => conflict("unit=message", "message:PRICE"),
            Unit::Octets if row.tariff.message > 0 => conflict("unit=octets", "kilobyte:PRICE"),
            Unit::Octets if is_distant && row.applies_to.has_class() => {
                let with = format!("unit=octets and enabler={}", self.enabler.name);
                conflict(&with, "tariffs without class=")
            }
            _ => Ok(()),
        }
    }

    /// Returns the parameters of the enabler.
    pub fn enabler_settings(&self) -> Settings<'_> {
        Settings {
            default_balance: self.default_balance,
            low_balance: self.low_balance,
            unit: self.unit,
            diameter: &self.diameter,
            postgres: &self.postgres,
        }
    }

    /// Seconds within which the enabler answers a request, at most.
    pub fn answer_seconds(&self) -> u32 {
        self.enabler.answer_seconds(&self.enabler_settings())
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            state_dir: PathBuf::from("/var/lib/imcharge"),
            subscriber: Subscriber::Asserted,
            direction: DirectionRule::Asserted,
            identity: Preference::First,
            tariffs: TariffTable::default(),
            unit: Unit::Message,
            free_content: FreeContent::default(),
            free_content_max: 16_384,
            file_size_max: 104_857_600,
            policy: Policy::default(),
            resume_workers: 2,
            event_workers: 1,
            im_servers: ImServers::default(),
            bypass: Bypass::Allow,
            max_sessions: 50_000,
            message_max: 65_535,
            default_balance: None,
            low_balance: None,
            history_days: 30,
            records: RecordSettings::default(),
            enabler: &BINDINGS[0],
            diameter: diameter::Settings::default(),
            postgres: postgres::Settings::default(),
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
    fn check_refuses_low_balance_without_accounts() {
        let mut config = Config::default();
        config.set("low_balance", "10%").expect("a threshold");
        assert!(config.check().is_ok());
        config.set("enabler", "diameter").expect("an enabler");
        let error = config.check().expect_err("the OCS keeps the accounts");
        assert_eq!(error.name, "low_balance");
        assert!(error.to_string().contains("'10%' is not allowed with enabler=diameter"), "{error}");
    }

    #[test]
    fn check_refuses_debits_without_reservation_on_the_ledger() {
        let mut config = Config::default();
        for model in ["immediate", "prepay"] {
            config.set("model", model).expect("a model");
            assert_eq!(config.check().expect_err("the ledger always reserves").name, "model", "{model}");
        }
    }
}
