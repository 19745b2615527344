//! Which AVPs an Online Charging System expects: a named profile, and the parameters of the service.

use crate::charge::tariff::Unit;
use std::fmt;
use std::str::FromStr;

/// Message layout that a kind of server expects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// RFC 8506: units in the command, no vendor-specific AVPs.
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

/// AVPs that all requests share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreditControlProfile {
    /// Origin-Host.
    pub origin_host: String,
    /// Origin-Realm.
    pub origin_realm: String,
    /// Destination-Realm.
    pub destination_realm: String,
    /// Service-Context-Id. There is no standard value for OMA IM: the OCS defines it.
    pub service_context_id: String,
    /// Parameters of the charged service.
    pub keys: ServiceParameters,
}

/// Parameters of the charged service. The server finds a reservation by them, so it is closed with those that it was
/// opened with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServiceParameters {
    /// Where the units of a request are.
    pub profile: Profile,
    /// What the server counts.
    pub unit: Unit,
    /// Service-Identifier, if the server rates by it.
    pub identifier: Option<u32>,
    /// Rating-Group, if the server rates by it.
    pub rating_group: Option<u32>,
    /// Currency-Code (ISO 4217) of `unit=money`.
    pub currency: Option<u32>,
    /// Exponent of the currency unit that the tariff counts, with `unit=money`: -2 for cents.
    pub exponent: i32,
}

impl ServiceParameters {
    /// Whether units are in Multiple-Services-Credit-Control.
    pub fn in_multiple_services(&self) -> bool {
        self.profile == Profile::Ro
    }

    /// Parses what `Display` writes.
    pub fn parse(text: &str) -> Option<ServiceParameters> {
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
