//! What a message costs.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An amount in units of the account (messages, octets or minor units of money). Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Units(pub u64);

/// How much of the service is meant, in what the tariff counts: messages, or started kilobytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Quota(pub u32);

/// What one unit of an account is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// A message.
    #[default]
    Message,
    /// An octet.
    Octets,
    /// The smallest unit of the currency.
    Money,
}

impl Unit {
    /// Returns the value of the parameter `unit`.
    pub fn as_str(self) -> &'static str {
        match self {
            Unit::Message => "message",
            Unit::Octets => "octets",
            Unit::Money => "money",
        }
    }
}

/// The text names no unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted values are message, octets and money")]
pub struct UnknownUnit;

impl FromStr for Unit {
    type Err = UnknownUnit;

    fn from_str(text: &str) -> Result<Unit, UnknownUnit> {
        [Unit::Message, Unit::Octets, Unit::Money].into_iter().find(|unit| unit.as_str() == text).ok_or(UnknownUnit)
    }
}

/// What the price is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Per {
    /// Each message, of whatever size.
    Message,
    /// Each started 1024 octets of a message; a message without any octet counts one.
    Kilobyte,
}

/// A price, pinned when the session is opened: `message:25`, `kilobyte:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// What the price is for.
    pub per: Per,
    /// Units of the account, 1 to [`Tariff::PRICE_MAX`].
    pub price: u32,
}

impl Tariff {
    /// The highest price: one quota of 2^32 at this price still fits the account's integer.
    pub const PRICE_MAX: u32 = 1_000_000_000;

    /// How much of the quota a message of this size takes.
    pub fn quota(self, octets: u64) -> Quota {
        match self.per {
            Per::Message => Quota(1),
            Per::Kilobyte => Quota(u32::try_from(octets.div_ceil(1024).max(1)).unwrap_or(u32::MAX)),
        }
    }

    /// What that much of the service costs.
    pub fn price_of(self, quota: Quota) -> Units {
        Units(u64::from(self.price) * u64::from(quota.0))
    }
}

impl fmt::Display for Tariff {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match self.per {
            Per::Message => "message",
            Per::Kilobyte => "kilobyte",
        };
        write!(out, "{per}:{}", self.price)
    }
}

/// The text is no tariff.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed is message:PRICE or kilobyte:PRICE, PRICE from 1 to 1000000000 units of the account")]
pub struct NoTariff;

impl FromStr for Tariff {
    type Err = NoTariff;

    fn from_str(text: &str) -> Result<Tariff, NoTariff> {
        let (per, price) = text.split_once(':').ok_or(NoTariff)?;
        let per = match per {
            "message" => Per::Message,
            "kilobyte" => Per::Kilobyte,
            _ => return Err(NoTariff),
        };
        let price = price.parse().ok().filter(|p| (1..=Tariff::PRICE_MAX).contains(p)).ok_or(NoTariff)?;
        Ok(Tariff { per, price })
    }
}
