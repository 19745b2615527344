//! How an Online Charging System wants to be spoken to: a named profile, and parameters over it.

use crate::charge::tariff::Unit;
use std::fmt;
use std::str::FromStr;

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
    /// Returns the value of the parameter `profile`.
    pub fn as_str(self) -> &'static str {
        match self {
            Profile::Rfc8506 => "rfc8506",
            Profile::Ro => "3gpp-ro",
        }
    }
}

impl FromStr for Profile {
    type Err = ();

    fn from_str(name: &str) -> Result<Profile, ()> {
        match name {
            "rfc8506" => Ok(Profile::Rfc8506),
            "3gpp-ro" => Ok(Profile::Ro),
            _ => Err(()),
        }
    }
}

/// Everything that requests have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreditControlProfile {
    /// Origin-Host.
    pub origin_host: String,
    /// Origin-Realm.
    pub origin_realm: String,
    /// Destination-Realm.
    pub destination_realm: String,
    /// Service-Context-Id: what the server's people call this service. There is no standard one for OMA IM.
    pub service_context_id: String,
    /// How the service is called and counted.
    pub keys: ServiceParameters,
}

/// How the service is called and counted: by this the server finds what it has reserved, so a reservation is closed with
/// the same as it was opened with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceParameters {
    /// Where units stand in a request.
    pub profile: Profile,
    /// What is counted.
    pub unit: Unit,
    /// Service-Identifier, where the server rates by it.
    pub identifier: Option<u32>,
    /// Rating-Group, where the server rates by it.
    pub rating_group: Option<u32>,
    /// Currency-Code (ISO 4217) of `unit=money`.
    pub currency: Option<u32>,
    /// Exponent of the currency's unit that the tariff counts, with `unit=money`: -2 for cents.
    pub exponent: i32,
}

impl ServiceParameters {
    /// Whether units stand in Multiple-Services-Credit-Control.
    pub fn in_multiple_services(&self) -> bool {
        self.profile == Profile::Ro
    }

    /// Reads what `Display` writes.
    pub fn read(text: &str) -> Option<ServiceParameters> {
        let number = |text: &str| if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) };
        let mut parts = text.split(',');
        let (profile, unit) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        let (identifier, rating_group) = (number(parts.next()?)?, number(parts.next()?)?);
        let (currency, exponent) = (number(parts.next()?)?, parts.next()?.parse().ok()?);
        let keys = ServiceParameters { profile, unit, identifier, rating_group, currency, exponent };
        parts.next().is_none().then_some(keys)
    }
}

impl fmt::Display for ServiceParameters {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        let (identifier, rating_group) = (number(self.identifier), number(self.rating_group));
        let (profile, unit) = (self.profile.as_str(), self.unit.as_str());
        let (currency, exponent) = (number(self.currency), self.exponent);
        write!(out, "{profile},{unit},{identifier},{rating_group},{currency},{exponent}")
    }
}
