//! What an operator configures, checked once, before anything starts.

use crate::charge::policy::Policy;
use crate::charge::tariff::{Per, Tariff, Unit};
use std::path::PathBuf;

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
        let _ = (name, value);
        unimplemented!()
    }

    /// Checks what only the whole can show.
    pub fn check(&self) -> Result<(), ConfigError> {
        unimplemented!()
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
