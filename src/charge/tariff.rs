//! Tariffs: the price of a message.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An amount in units of the account (messages, octets or minor units of money). Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Units(pub u64);

/// An amount of service: messages or started kilobytes, depending on the tariff.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Quota(pub u32);

/// Unit of an account.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Unit {
    /// Messages.
    #[default]
    Message,
    /// Octets.
    Octets,
    /// Minor units of the currency.
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

/// The text is not a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted values are message, octets and money")]
pub struct UnknownUnit;

impl FromStr for Unit {
    type Err = UnknownUnit;

    fn from_str(text: &str) -> Result<Unit, UnknownUnit> {
        [Unit::Message, Unit::Octets, Unit::Money].into_iter().find(|unit| unit.as_str() == text).ok_or(UnknownUnit)
    }
}

/// What a price applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Per {
    /// Each message, regardless of its size.
    Message,
    /// Each started 1024 octets of a message; an empty message counts as one.
    Kilobyte,
}

/// A tariff, pinned when the session is opened: `message:25`, `kilobyte:3`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// What the price applies to.
    pub per: Per,
    /// Price in units of the account, 1 to [`Tariff::PRICE_MAX`].
    pub price: u32,
}

impl Tariff {
    /// Highest price: the largest quota (2^32 - 1) at this price still fits the account's 64-bit integer, so
    /// [`Tariff::price_of`] cannot overflow.
    pub const PRICE_MAX: u32 = 1_000_000_000;

    /// Returns the quota that a message of this size uses.
    pub fn quota(self, octets: u64) -> Quota {
        match self.per {
            Per::Message => Quota(1),
            Per::Kilobyte => Quota(u32::try_from(octets.div_ceil(1024).max(1)).unwrap_or(u32::MAX)),
        }
    }

    /// Returns the price of a quota.
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

/// The text is not a tariff.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted are message:PRICE and kilobyte:PRICE, PRICE from 1 to 1000000000 units of the account")]
pub struct InvalidTariff;

impl FromStr for Tariff {
    type Err = InvalidTariff;

    fn from_str(text: &str) -> Result<Tariff, InvalidTariff> {
        let (per, price) = text.split_once(':').ok_or(InvalidTariff)?;
        let per = match per {
            "message" => Per::Message,
            "kilobyte" => Per::Kilobyte,
            _ => return Err(InvalidTariff),
        };
        let price = price.parse().ok().filter(|p| (1..=Tariff::PRICE_MAX).contains(p)).ok_or(InvalidTariff)?;
        Ok(Tariff { per, price })
    }
}
