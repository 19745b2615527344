//! What an operator configures, checked once, before anything starts.

use crate::charge::policy::{DebitOn, OnFailure, Policy};
use crate::charge::tariff::{NoTariff, Per, Tariff, Unit};
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

/// A parameter as the hosts export it.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Name.
    pub name: &'static str,
    /// Whether it is a whole number; else text.
    pub integer: bool,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Folder of the ledger; must exist and be writable.
    pub state_dir: PathBuf,
    /// Which identity pays.
    pub subscriber: Subscriber,
    /// What a message costs.
    pub tariff: Tariff,
    /// What a unit of an account is.
    pub unit: Unit,
    /// The rules.
    pub policy: Policy,
    /// Host processes that take verdicts.
    pub resume_workers: u32,
    /// Sessions open at once.
    pub max_sessions: u32,
    /// What an unknown subscriber starts with; `None`: is denied.
    pub default_balance: Option<i64>,
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
        Parameter { name: "tariff", integer: false },
        Parameter { name: "unit", integer: false },
        Parameter { name: "response_timeout", integer: true },
        Parameter { name: "hold_timeout", integer: true },
        Parameter { name: "resume_workers", integer: true },
        Parameter { name: "max_sessions", integer: true },
        Parameter { name: "debit_on", integer: false },
        Parameter { name: "on_failure", integer: false },
        Parameter { name: "policy", integer: false },
        Parameter { name: "default_balance", integer: true },
    ];

    /// Sets one parameter from its text.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), ConfigError> {
        let refuse = |allowed: &str| ConfigError { name: name.into(), value: value.into(), allowed: allowed.into() };
        let number = |least: u32, most: u32| {
            let parsed = value.parse().ok().filter(|number| (least..=most).contains(number));
            parsed.ok_or_else(|| refuse(&format!("a whole number from {least} to {most}")))
        };
        match name {
            "enabler" if value == "ledger" => {}
            "enabler" => return Err(refuse("ledger")),
            "state_dir" if value.starts_with('/') => self.state_dir = PathBuf::from(value),
            "state_dir" => return Err(refuse("the absolute path of a folder")),
            "subscriber" => {
                self.subscriber = match value {
                    "asserted" => Subscriber::Asserted,
                    "from" => Subscriber::From,
                    _ => return Err(refuse("asserted, from, or (in Kamailio) a text with pseudo-variables")),
                }
            }
            "tariff" => self.tariff = value.parse().map_err(|error: NoTariff| refuse(&error.to_string()))?,
            "unit" => {
                self.unit = match value {
                    "message" => Unit::Message,
                    "octets" => Unit::Octets,
                    "money" => Unit::Money,
                    _ => return Err(refuse("message, octets or money")),
                }
            }
            "response_timeout" => self.policy.response_timeout = number(1, 3600)?,
            "hold_timeout" => self.policy.hold_timeout = number(1, 86_400)?,
            "resume_workers" => self.resume_workers = number(1, 64)?,
            "max_sessions" => self.max_sessions = number(1, 4_000_000)?,
            "debit_on" => {
                self.policy.debit_on = match value {
                    "response" => DebitOn::Response,
                    "report" => DebitOn::Report,
                    _ => return Err(refuse("response or report")),
                }
            }
            "on_failure" => {
                self.policy.on_failure = match value {
                    "deny" => OnFailure::Deny,
                    "grant" => OnFailure::Grant,
                    _ => return Err(refuse("deny or grant")),
                }
            }
            "policy" => self.policy.set_cases(value).map_err(|error| refuse(&error.to_string()))?,
            "default_balance" => {
                let balance = value.parse().ok().filter(|balance| (0..=BALANCE_MAX).contains(balance));
                let allowed = format!("a whole number from 0 to {BALANCE_MAX}");
                self.default_balance = Some(balance.ok_or_else(|| refuse(&allowed))?);
            }
            _ => return Err(refuse("no such parameter")),
        }
        Ok(())
    }

    /// Checks what only the whole can show.
    pub fn check(&self) -> Result<(), ConfigError> {
        let refuse = |allowed: &str| {
            let (name, value) = ("tariff".into(), self.tariff.to_string());
            Err(ConfigError { name, value, allowed: allowed.into() })
        };
        match (self.unit, self.tariff.per) {
            (Unit::Message, Per::Kilobyte) => refuse("message:PRICE, as long as unit is message"),
            (Unit::Octets, Per::Message) => refuse("kilobyte:PRICE, as long as unit is octets"),
            _ => Ok(()),
        }
    }
}

impl Default for Config {
    fn default() -> Config {
        Config {
            state_dir: PathBuf::from("/var/lib/imcharge"),
            subscriber: Subscriber::Asserted,
            tariff: Tariff { per: Per::Message, price: 1 },
            unit: Unit::Message,
            policy: Policy::default(),
            resume_workers: 2,
            max_sessions: 100_000,
            default_balance: None,
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
            ("tariff", "message:25"),
            ("unit", "money"),
            ("response_timeout", "5"),
            ("hold_timeout", "60"),
            ("resume_workers", "4"),
            ("max_sessions", "1000"),
            ("debit_on", "report"),
            ("on_failure", "grant"),
            ("policy", "5xx=release;close=debit;abort=debit"),
            ("default_balance", "100"),
        ];
        assert_eq!(right.map(|(name, _)| name).as_slice(), Config::PARAMETERS.iter().map(|p| p.name).collect::<Vec<_>>());
        for (name, value) in right {
            Config::default().set(name, value).unwrap_or_else(|error| panic!("{error}"));
            let wrong = Config::default().set(name, "-1 bogus").expect_err(name).to_string();
            assert!(wrong.starts_with(&format!("parameter {name}: '-1 bogus' is not allowed: ")), "{wrong}");
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
}
