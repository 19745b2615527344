//! The word that a session keeps for each of its reservations and hands back: who has it, and what it is called there.
//!
//! | mark | |
//! |---|---|
//! | none | This server alone has the reservation. |
//! | `*` | Another may take it over. |
//! | `~` | The request was last with this peer, which has not answered: it may have it. It may be a relay, so no request names it. |
//!
//! Behind `#` stands the [`ServiceKeys`] that the reservation was opened with: it is closed with the same, also where the
//! configuration has changed since.

use super::dialect::ServiceKeys;
use std::collections::VecDeque;
use std::sync::Arc;

/// How sure it is who has the reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// It alone.
    Bound,
    /// It, or another.
    MayMove,
    /// Perhaps it.
    Asked,
}

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Origin-Host.
    pub host: &'a str,
    /// Whether it has the reservation.
    pub bond: Bond,
    /// `None`: of a version that did not write it.
    pub keys: Option<ServiceKeys>,
}

impl<'a> Route<'a> {
    /// Reads one.
    pub fn of(text: &'a str) -> Route<'a> {
        let (text, keys) = match text.split_once('#') {
            Some((text, keys)) => (text, ServiceKeys::read(keys)),
            None => (text, None),
        };
        let (host, bond) = match (text.strip_prefix('*'), text.strip_prefix('~')) {
            (Some(host), _) => (host, Bond::MayMove),
            (_, Some(host)) => (host, Bond::Asked),
            (None, None) => (text, Bond::Bound),
        };
        Route { host, bond, keys }
    }

    /// Destination-Host of a request.
    pub fn destination(self) -> Option<&'a str> {
        (self.bond != Bond::Asked).then_some(self.host)
    }
}

/// Routes are few: sessions share them.
#[derive(Default)]
pub struct Routes {
    recent: VecDeque<Arc<str>>,
}

/// More servers than that do not answer in turn.
const RECENT: usize = 16;

impl Routes {
    /// Writes one.
    pub fn to(&mut self, host: &str, bond: Bond, keys: ServiceKeys) -> Arc<str> {
        let mark = match bond {
            Bond::Bound => "",
            Bond::MayMove => "*",
            Bond::Asked => "~",
        };
        let text = format!("{mark}{host}#{keys}");
        if let Some(known) = self.recent.iter().find(|known| ***known == *text) {
            return Arc::clone(known);
        }
        let route: Arc<str> = text.into();
        self.recent.truncate(RECENT - 1);
        self.recent.push_front(Arc::clone(&route));
        route
    }
}

#[cfg(test)]
mod tests {
    use super::super::dialect::Profile;
    use super::*;
    use crate::charge::tariff::Unit;

    #[test]
    fn what_is_written_is_read() {
        let mut routes = Routes::default();
        for profile in [Profile::Rfc8506, Profile::Ro] {
            for unit in [Unit::Message, Unit::Octets, Unit::Money] {
                for (identifier, rating_group) in
                    [(None, None), (Some(7), None), (None, Some(0)), (Some(1), Some(u32::MAX))]
                {
                    let keys = ServiceKeys { profile, unit, identifier, rating_group };
                    for bond in [Bond::Bound, Bond::MayMove, Bond::Asked] {
                        let route = routes.to("ocs.example.org", bond, keys);
                        let expected = Route { host: "ocs.example.org", bond, keys: Some(keys) };
                        assert_eq!(Route::of(&route), expected, "{route}");
                    }
                }
            }
        }
        assert_eq!(routes.recent.len(), RECENT);
    }

    #[test]
    fn one_of_before_the_keys_were_written_has_none() {
        for text in ["*ocs", "*ocs#", "*ocs#unheard,of"] {
            assert_eq!(Route::of(text), Route { host: "ocs", bond: Bond::MayMove, keys: None }, "{text}");
        }
    }

    #[test]
    fn sessions_share_them() {
        let (mut routes, keys) = (Routes::default(), ServiceKeys::default());
        let one = routes.to("ocs", Bond::MayMove, keys);
        assert!(Arc::ptr_eq(&one, &routes.to("ocs", Bond::MayMove, keys)));
    }
}
