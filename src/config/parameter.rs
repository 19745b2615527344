//! A parameter: a row of the table, and how a value is stored.

use super::parameters::PARAMETERS;
use super::{Config, ConfigError};
use std::ffi::CStr;

/// Type of a parameter in a proxy's configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterType {
    /// A string.
    Text,
    /// A whole number; a string of digits is accepted as well.
    Integer,
    /// A string that may hold the host's pseudo-variables, evaluated for each INVITE.
    Format,
}

/// The hosts that have a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ParameterHost {
    /// Every host.
    Any,
    /// Kamailio only.
    Kamailio,
    /// OpenSIPS only.
    OpenSips,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    c_name: &'static CStr,
    /// Type in the proxy's configuration.
    pub kind: ParameterType,
    /// Which hosts have it.
    pub host: ParameterHost,
    /// The default as it would be written; `None`: not set.
    pub default: Option<&'static str>,
    /// The accepted values, as an error names them.
    pub accepted: &'static str,
    /// What it sets, one sentence.
    pub doc: &'static str,
    /// Stores the value; `None`: not one of the accepted values, and nothing was stored.
    store: fn(&mut Config, &str) -> Option<()>,
}

impl Parameter {
    /// Returns the parameter of this name, of any host.
    pub fn find(name: &str) -> Option<&'static Parameter> {
        PARAMETERS.iter().find(|parameter| parameter.name() == name)
    }

    /// Returns the name.
    pub fn name(&self) -> &'static str {
        self.c_name.to_str().unwrap_or_default()
    }

    /// Returns the name as a C string, for the hosts' tables.
    pub const fn c_name(&self) -> &'static CStr {
        self.c_name
    }

    /// Sets it in `config`. The error names the parameter, the value and the accepted values.
    pub fn set(&self, config: &mut Config, value: &str) -> Result<(), ConfigError> {
        (self.store)(config, value).ok_or_else(|| ConfigError::new(self.name(), value, self.accepted))
    }

    /// Returns a row of the table, for every host.
    pub(super) const fn new(
        c_name: &'static CStr,
        kind: ParameterType,
        default: Option<&'static str>,
        accepted: &'static str,
        doc: &'static str,
        store: fn(&mut Config, &str) -> Option<()>,
    ) -> Parameter {
        Parameter { c_name, kind, host: ParameterHost::Any, default, accepted, doc, store }
    }

    /// Limits it to one host.
    pub(super) const fn only(self, host: ParameterHost) -> Parameter {
        Parameter { host, ..self }
    }
}
