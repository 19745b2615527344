//! The word that a session keeps for each of its reservations and hands back: who has it, and what it is called there.
//!
//! | mark | |
//! |---|---|
//! | none | This peer alone has the reservation. |
//! | `*` | This server has it, behind a relay: each peer knows the way, and each request names it. |
//! | `+` | This peer has it, and another may take it over (CC-Session-Failover): no request names it (RFC 8506, 5.7). |
//! | `~` | The request was last with this peer, which has not answered: it may have it. It may be a relay, so no request names it. |
//!
//! Behind `#` stands the [`ServiceKeys`] that the reservation was opened with: it is closed with the same, also where the
//! configuration has changed since.

use super::dialect::ServiceKeys;
use std::collections::VecDeque;
use std::sync::Arc;

/// How a reservation is bound to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// This peer alone has it.
    Bound,
    /// This server has it, by whatever peer it is reached.
    Relayed,
    /// This peer has it, and another may take it over.
    MayMove,
    /// This peer may have it.
    Asked,
}

impl Bond {
    const MARKED: [(Bond, &'static str); 3] = [(Bond::Relayed, "*"), (Bond::MayMove, "+"), (Bond::Asked, "~")];

    fn mark(self) -> &'static str {
        Bond::MARKED.iter().find(|known| known.0 == self).map_or("", |known| known.1)
    }
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
        let marked = Bond::MARKED.iter().find_map(|(bond, mark)| Some((text.strip_prefix(mark)?, *bond)));
        let (host, bond) = marked.unwrap_or((text, Bond::Bound));
        Route { host, bond, keys }
    }

    /// Destination-Host of a request.
    pub fn destination(self) -> Option<&'a str> {
        matches!(self.bond, Bond::Bound | Bond::Relayed).then_some(self.host)
    }

    /// Whether another peer may have a request. What may be reserved by one that is silent is given back there first,
    /// and elsewhere when it is `asked_again`: the peers may be doors of one server.
    pub fn may_move(self, asked_again: bool) -> bool {
        match self.bond {
            Bond::Bound => false,
            Bond::Asked => asked_again,
            Bond::Relayed | Bond::MayMove => true,
        }
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
        let text = format!("{}{host}#{keys}", bond.mark());
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
        let money = ServiceKeys { currency: Some(978), exponent: -2, ..ServiceKeys::default() };
        for profile in [Profile::Rfc8506, Profile::Ro] {
            for unit in [Unit::Message, Unit::Octets, Unit::Money] {
                for (identifier, rating_group) in
                    [(None, None), (Some(7), None), (None, Some(0)), (Some(1), Some(u32::MAX))]
                {
                    let keys = ServiceKeys { profile, unit, identifier, rating_group, ..money };
                    for bond in [Bond::Bound, Bond::Relayed, Bond::MayMove, Bond::Asked] {
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
            assert_eq!(Route::of(text), Route { host: "ocs", bond: Bond::Relayed, keys: None }, "{text}");
        }
    }

    #[test]
    fn who_may_hold_something_is_asked_alone_at_first() {
        let route = |text| Route::of(text);
        assert_eq!([false, true].map(|again| route("~ocs").may_move(again)), [false, true]);
        assert_eq!([false, true].map(|again| route("ocs").may_move(again)), [false, false]);
        assert_eq!([false, true].map(|again| route("+ocs").may_move(again)), [true, true]);
    }

    #[test]
    fn only_who_has_it_for_sure_is_named() {
        let named = ["ocs", "*ocs", "+ocs", "~ocs"].map(|text| Route::of(text).destination());
        assert_eq!(named, [Some("ocs"), Some("ocs"), None, None]);
    }

    #[test]
    fn sessions_share_them() {
        let (mut routes, keys) = (Routes::default(), ServiceKeys::default());
        let one = routes.to("ocs", Bond::MayMove, keys);
        assert!(Arc::ptr_eq(&one, &routes.to("ocs", Bond::MayMove, keys)));
    }
}
