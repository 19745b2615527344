//! The table of tariffs (parameter `tariff`): prices, what each applies to, and which ones a session gets.

use crate::charge::content::ContentClass;
use crate::charge::service::Service;
use crate::charge::tariff::Tariff;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// Maximum number of tariffs.
pub const TARIFFS_MAX: usize = 64;

/// Maximum length of the name of a tariff, octets.
pub const NAME_MAX: usize = 32;

/// What a session is for, as far as prices depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PricedService {
    /// Content of an MSRP session.
    Session(Service),
    /// A SIP MESSAGE.
    Page(Service),
}

impl PricedService {
    fn service(self) -> Service {
        match self {
            PricedService::Session(service) | PricedService::Page(service) => service,
        }
    }
}

/// Value of `service=` in a tariff.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ServiceMatch {
    /// An MSRP session with this service.
    Session(Service),
    /// A SIP MESSAGE.
    Page,
}

impl ServiceMatch {
    const ALL: [ServiceMatch; 4] = [
        ServiceMatch::Session(Service::Retrieval),
        ServiceMatch::Session(Service::Sending),
        ServiceMatch::Session(Service::Receiving),
        ServiceMatch::Page,
    ];

    fn as_str(self) -> &'static str {
        match self {
            ServiceMatch::Session(service) => service.as_str(),
            ServiceMatch::Page => "page",
        }
    }

    fn matches(self, priced: PricedService) -> bool {
        match (self, priced) {
            (ServiceMatch::Session(wanted), PricedService::Session(service)) => wanted == service,
            (ServiceMatch::Page, PricedService::Page(_)) => true,
            _ => false,
        }
    }
}

/// Value of `direction=` in a tariff: content that the subscriber receives or sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContentDirection {
    Received,
    Sent,
}

impl ContentDirection {
    const ALL: [ContentDirection; 2] = [ContentDirection::Received, ContentDirection::Sent];

    fn as_str(self) -> &'static str {
        match self {
            ContentDirection::Received => "received",
            ContentDirection::Sent => "sent",
        }
    }

    fn matches(self, priced: PricedService) -> bool {
        (self == ContentDirection::Sent) == priced.service().is_paid_by_sender()
    }
}

/// What a tariff applies to. Empty: everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TariffMatch {
    /// Only sessions for which the script has chosen this name.
    pub name: Option<String>,
    class: Option<ContentClass>,
    direction: Option<ContentDirection>,
    service: Option<ServiceMatch>,
}

impl TariffMatch {
    /// Names and values of what it requires, in the order in which they are written.
    pub fn conditions(&self) -> [(&'static str, &str); 4] {
        [
            ("name", self.name.as_deref().unwrap_or_default()),
            ("class", self.class.map(ContentClass::as_str).unwrap_or_default()),
            ("direction", self.direction.map(ContentDirection::as_str).unwrap_or_default()),
            ("service", self.service.map(ServiceMatch::as_str).unwrap_or_default()),
        ]
    }

    /// Whether it applies to one class only.
    pub fn has_class(&self) -> bool {
        self.class.is_some()
    }

    /// Adds a condition; `None`: unknown, repeated, or not an accepted value.
    fn add(&mut self, condition: &str, value: &str) -> Option<()> {
        fn set<T>(place: &mut Option<T>, value: Option<T>) -> Option<()> {
            let value = value.filter(|_| place.is_none())?;
            *place = Some(value);
            Some(())
        }
        match condition {
            "name" => set(&mut self.name, is_name(value).then(|| value.to_owned())),
            "class" => set(&mut self.class, value.parse().ok()),
            "direction" => {
                let found = ContentDirection::ALL.into_iter().find(|direction| direction.as_str() == value);
                set(&mut self.direction, found)
            }
            "service" => {
                let found = ServiceMatch::ALL.into_iter().find(|service| service.as_str() == value);
                set(&mut self.service, found)
            }
            _ => None,
        }
    }

    /// Returns how specific it is if it applies: the number of conditions besides the name.
    fn rank(&self, name: Option<&str>, priced: PricedService, class: ContentClass) -> Option<usize> {
        let applies = self.name.as_deref() == name
            && self.class.is_none_or(|wanted| wanted == class)
            && self.direction.is_none_or(|wanted| wanted.matches(priced))
            && self.service.is_none_or(|wanted| wanted.matches(priced));
        let conditions = [self.class.is_some(), self.direction.is_some(), self.service.is_some()];
        applies.then(|| conditions.into_iter().filter(|is_set| *is_set).count())
    }
}

/// Whether a text can be the name of a tariff.
fn is_name(text: &str) -> bool {
    let is_allowed = |octet: u8| octet.is_ascii_alphanumeric() || matches!(octet, b'_' | b'-' | b'.');
    (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(is_allowed)
}

/// A tariff and what it applies to: `message:50+kilobyte:1;name=night;class=file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TariffRow {
    /// The prices.
    pub tariff: Tariff,
    /// What it applies to.
    pub applies_to: TariffMatch,
}

/// The text is not a tariff with its conditions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted is TARIFF[;name=NAME][;class=CLASS][;direction=DIRECTION][;service=SERVICE]")]
pub struct InvalidTariffRow;

impl FromStr for TariffRow {
    type Err = InvalidTariffRow;

    fn from_str(text: &str) -> Result<TariffRow, InvalidTariffRow> {
        let mut parts = text.split(';').map(str::trim);
        let tariff = parts.next().and_then(|tariff| tariff.parse().ok()).ok_or(InvalidTariffRow)?;
        let mut applies_to = TariffMatch::default();
        for part in parts {
            let added = part.split_once('=').and_then(|(condition, value)| applies_to.add(condition, value));
            added.ok_or(InvalidTariffRow)?;
        }
        Ok(TariffRow { tariff, applies_to })
    }
}

impl fmt::Display for TariffRow {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.tariff)?;
        let conditions = self.applies_to.conditions();
        conditions
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .try_for_each(|(name, value)| write!(out, ";{name}={value}"))
    }
}

/// All tariffs. The first one applies to everything that no other one applies to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TariffTable(Vec<TariffRow>);

impl Default for TariffTable {
    fn default() -> TariffTable {
        let tariff = Tariff { message: 1, kilobyte: 0 };
        TariffTable(vec![TariffRow { tariff, applies_to: TariffMatch::default() }])
    }
}

impl TariffTable {
    /// Adds a tariff, or replaces the one with the same conditions. `None`: there are [`TARIFFS_MAX`].
    pub fn set(&mut self, row: TariffRow) -> Option<()> {
        match self.place_of(&row.applies_to) {
            Some(place) => self.0[place] = row,
            None if self.0.len() < TARIFFS_MAX => self.0.push(row),
            None => return None,
        }
        Some(())
    }

    /// Returns the number of the tariff with these conditions.
    pub fn place_of(&self, applies_to: &TariffMatch) -> Option<usize> {
        self.0.iter().position(|row| row.applies_to == *applies_to)
    }

    /// Returns the tariffs in the order of their numbers.
    pub fn rows(&self) -> &[TariffRow] {
        &self.0
    }

    /// Whether the script may choose this name; an empty one chooses none.
    pub fn has_name(&self, name: &str) -> bool {
        name.is_empty() || self.names().any(|known| known == name)
    }

    /// Returns the names that the script may choose. A name with several tariffs is repeated.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|row| row.applies_to.name.as_deref())
    }

    /// Returns the names that the script may choose, as text for a log line.
    pub fn list_of_names(&self) -> String {
        let names: BTreeSet<&str> = self.names().collect();
        match names.is_empty() {
            true => "none".into(),
            false => names.into_iter().collect::<Vec<_>>().join(", "),
        }
    }

    /// Returns the number of the tariff of a class in a session: of those with the chosen name if one applies, else of those
    /// without a name, the one with the most conditions, and of several the first.
    pub fn choose(&self, name: &str, priced: PricedService, class: ContentClass) -> usize {
        let best = |name: Option<&str>| {
            let ranked = self.0.iter().enumerate().filter_map(|(place, row)| {
                let rank = row.applies_to.rank(name, priced, class)?;
                Some((rank, std::cmp::Reverse(place)))
            });
            ranked.max().map(|(_, place)| place.0)
        };
        let named = if name.is_empty() { None } else { best(Some(name)) };
        named.or_else(|| best(None)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests;
