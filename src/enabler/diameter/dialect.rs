//! How an Online Charging System wants to be spoken to: a named profile, and parameters over it.

use crate::charge::tariff::Unit;

/// A profile: what a kind of server expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// RFC 8506 alone: units in the command, no vendor's AVPs.
    #[default]
    Rfc8506,
    /// TS 32.299, Ro: units in Multiple-Services-Credit-Control, Service-Information.
    Ro,
}

impl Profile {
    /// By its name in the configuration.
    pub fn named(name: &str) -> Option<Profile> {
        match name {
            "rfc8506" => Some(Profile::Rfc8506),
            "3gpp-ro" => Some(Profile::Ro),
            _ => None,
        }
    }
}

/// Everything that requests have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// Origin-Host.
    pub origin_host: String,
    /// Origin-Realm.
    pub origin_realm: String,
    /// Destination-Realm.
    pub destination_realm: String,
    /// Service-Context-Id: what the server's people call this service. There is no standard one for OMA IM.
    pub service_context_id: String,
    /// Which profile.
    pub profile: Profile,
    /// What is counted.
    pub unit: Unit,
    /// Service-Identifier of the service, where the server rates by it.
    pub service_identifier: Option<u32>,
    /// Rating-Group of the service, where the server rates by it.
    pub rating_group: Option<u32>,
    /// Currency-Code (ISO 4217) of `unit=money`.
    pub currency_code: Option<u32>,
    /// Exponent of the currency's unit that the tariff counts, with `unit=money`: -2 for cents.
    pub currency_exponent: i32,
}

impl Dialect {
    /// Whether units stand in Multiple-Services-Credit-Control.
    pub fn has_services(&self) -> bool {
        self.profile == Profile::Ro
    }
}
