//! Tariffs: what a message costs, by class and size, and how that is counted in quota.

use super::content::ContentClass;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// An amount in units of the account (messages, octets or minor units of money). Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Units(pub u64);

/// An amount of service: messages, started kilobytes or units of the account, depending on the prices of the session (see
/// [`QuotaUnit`]).
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

/// Prices of a message: `message:25`, `kilobyte:3`, `message:25+kilobyte:3`. At least one is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tariff {
    /// Price of each message, in units of the account, up to [`Tariff::PRICE_MAX`].
    pub message: u32,
    /// Price of each started 1024 octets of a message, in units of the account, up to [`Tariff::PRICE_MAX`]. An empty
    /// message counts as one kilobyte.
    pub kilobyte: u32,
}

impl Tariff {
    /// Highest price: the largest quota (2^32 - 1) at this price still fits the account's 64-bit integer, so
    /// [`Measure::price_of`] cannot overflow.
    pub const PRICE_MAX: u32 = 1_000_000_000;
}

impl fmt::Display for Tariff {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.message, self.kilobyte) {
            (message, 0) => write!(out, "message:{message}"),
            (0, kilobyte) => write!(out, "kilobyte:{kilobyte}"),
            (message, kilobyte) => write!(out, "message:{message}+kilobyte:{kilobyte}"),
        }
    }
}

/// The text is not a tariff.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "accepted are message:PRICE, kilobyte:PRICE and message:PRICE+kilobyte:PRICE, PRICE from 1 to 1000000000 units of \
     the account"
)]
pub struct InvalidTariff;

impl FromStr for Tariff {
    type Err = InvalidTariff;

    fn from_str(text: &str) -> Result<Tariff, InvalidTariff> {
        let mut tariff = Tariff { message: 0, kilobyte: 0 };
        for part in text.split('+') {
            let (per, price) = part.split_once(':').ok_or(InvalidTariff)?;
            let place = match per {
                "message" => &mut tariff.message,
                "kilobyte" => &mut tariff.kilobyte,
                _ => return Err(InvalidTariff),
            };
            if *place != 0 {
                return Err(InvalidTariff);
            }
            *place = price.parse().ok().filter(|p| (1..=Tariff::PRICE_MAX).contains(p)).ok_or(InvalidTariff)?;
        }
        Ok(tariff)
    }
}

/// What one unit of a session's quota is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum QuotaUnit {
    /// A message to one recipient.
    Message,
    /// A started kilobyte of a message to one recipient.
    Kilobyte,
    /// A unit of the account.
    AccountUnit,
}

/// Unit of a session's quota, and its price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// The unit.
    pub unit: QuotaUnit,
    /// Price of one, in units of the account.
    pub price: u32,
}

impl Measure {
    /// Returns the price of a quota.
    pub fn price_of(self, quota: Quota) -> Units {
        Units(u64::from(self.price) * u64::from(quota.0))
    }
}

/// What messages of a class take from the quota of their session. A weight too large for its type is the largest one,
/// which exceeds every grant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight {
    /// For each message.
    pub message: u32,
    /// For each started kilobyte of a message.
    pub kilobyte: u32,
}

impl Weight {
    /// Returns what a message of this size takes. It grows with the size, and does not exceed the largest quota.
    pub fn of_octets(self, octets: u64) -> Quota {
        self.of_kilobytes(octets.div_ceil(1024))
    }

    /// Returns what a message of this size takes.
    pub fn of_kilobytes(self, kilobytes: u64) -> Quota {
        let by_size = u64::from(self.kilobyte).saturating_mul(kilobytes.max(1));
        Quota(u32::try_from(by_size.saturating_add(self.message.into())).unwrap_or(u32::MAX))
    }
}

/// Prices of a session, pinned when it is opened.
///
/// If all classes have the same tariff, with one part, the quota of the session counts what the price applies to:
/// messages or kilobytes. Otherwise it counts units of the account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PriceList {
    /// Tariff of each class, in the order of [`ContentClass::ALL`].
    tariffs: [Tariff; 4],
    /// Number of recipients: each costs the price.
    recipients: u32,
}

impl PriceList {
    /// Prices by class, for this number of recipients; 0 counts as one.
    pub fn new(tariffs: [Tariff; 4], recipients: u32) -> PriceList {
        PriceList { tariffs, recipients: recipients.max(1) }
    }

    /// Returns the tariff of a class.
    pub fn tariff(&self, class: ContentClass) -> Tariff {
        self.tariffs[class as usize]
    }

    /// Returns the unit of the quota and its price.
    pub fn measure(&self) -> Measure {
        let [first, others @ ..] = &self.tariffs;
        let is_uniform = others.iter().all(|other| other == first);
        match *first {
            Tariff { message, kilobyte: 0 } if is_uniform => Measure { unit: QuotaUnit::Message, price: message },
            Tariff { message: 0, kilobyte } if is_uniform => Measure { unit: QuotaUnit::Kilobyte, price: kilobyte },
            _ => Measure { unit: QuotaUnit::AccountUnit, price: 1 },
        }
    }

    /// Returns what messages of a class take from the quota.
    pub fn weight(&self, class: ContentClass) -> Weight {
        let (Tariff { message, kilobyte }, price) = (self.tariff(class), self.measure().price.max(1));
        let times = |weight: u32| (weight / price).saturating_mul(self.recipients);
        Weight { message: times(message), kilobyte: times(kilobyte) }
    }

    /// Returns the weights of all classes, in the order of [`ContentClass::ALL`].
    pub fn weights(&self) -> [Weight; 4] {
        ContentClass::ALL.map(|class| self.weight(class))
    }

    /// Returns the quota that a message takes.
    pub fn quota(&self, class: ContentClass, octets: u64) -> Quota {
        self.weight(class).of_octets(octets)
    }

    /// Returns what the cheapest message takes: less is of no use to the session.
    pub fn least(&self) -> Quota {
        self.weights().map(|weight| weight.of_octets(0)).into_iter().min().unwrap_or_default()
    }

    /// Returns the quota of so many messages of this size: texts, one of which may be of the class that costs most.
    pub fn quota_of_messages(&self, messages: u32, kilobytes: u32) -> Quota {
        let quota = |class| self.weight(class).of_kilobytes(kilobytes.into()).0;
        let text = quota(ContentClass::Text);
        let most = ContentClass::ALL.map(quota).into_iter().max().unwrap_or(text);
        let extra = if messages > 0 { most - text } else { 0 };
        Quota(text.saturating_mul(messages).saturating_add(extra))
    }

    /// Returns the price of a quota.
    pub fn price_of(&self, quota: Quota) -> Units {
        self.measure().price_of(quota)
    }
}

impl From<Tariff> for PriceList {
    fn from(tariff: Tariff) -> PriceList {
        PriceList::new([tariff; 4], 1)
    }
}

/// The tariff of text, followed by `CLASS=TARIFF` for each class with another tariff.
impl fmt::Display for PriceList {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.tariff(ContentClass::Text);
        write!(out, "{text}")?;
        for class in ContentClass::ALL.into_iter().filter(|class| self.tariff(*class) != text) {
            write!(out, " {}={}", class.as_str(), self.tariff(class))?;
        }
        Ok(())
    }
}

/// The text is not a price list.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted is TARIFF, followed by CLASS=TARIFF for other classes than text")]
pub struct InvalidPriceList;

/// Reads what `Display` writes.
impl FromStr for PriceList {
    type Err = InvalidPriceList;

    fn from_str(text: &str) -> Result<PriceList, InvalidPriceList> {
        let mut parts = text.split(' ');
        let tariff = |text: &str| text.parse::<Tariff>().map_err(|_| InvalidPriceList);
        let mut prices = PriceList::from(tariff(parts.next().unwrap_or_default())?);
        for part in parts {
            let (class, price) = part.split_once('=').ok_or(InvalidPriceList)?;
            let class: ContentClass = class.parse().map_err(|_| InvalidPriceList)?;
            prices.tariffs[class as usize] = tariff(price)?;
        }
        Ok(prices)
    }
}

#[cfg(test)]
mod tests;
