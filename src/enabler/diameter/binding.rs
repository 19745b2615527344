//! The word that a session keeps for each of its reservations and hands back: who has it, and what it is called there.
//!
//! | mark | |
//! |---|---|
//! | none | This peer alone has the reservation. |
//! | `*` | This server has it, behind a relay: each peer knows the way, and each request names it. |
//! | `+` | This peer has it, and another may take it over (CC-Session-Failover): no request names it (RFC 8506, 5.7). |
//! | `~` | The request was last with this peer, which has not answered: it may have it. It may be a relay, so no request names it. |
//!
//! `#` begins the [`ServiceParameters`] that the reservation was opened with: it is closed with the same, also where the
//! configuration has changed since. `!` begins the [other services](Other) that the server granted with the last answer:
//! the next request closes them.

use super::services::{Listed, Other};
use crate::enabler::diameter::profile::ServiceParameters;
use std::collections::VecDeque;
use std::sync::Arc;

/// How a reservation is bound to a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerBinding {
    /// This peer alone has it.
    Bound,
    /// This server has it, by whatever peer it is reached.
    Relayed,
    /// This peer has it, and another may take it over.
    MayMove,
    /// This peer may have it.
    Asked,
}

impl ServerBinding {
    const MARKED: [(ServerBinding, &'static str); 3] =
        [(ServerBinding::Relayed, "*"), (ServerBinding::MayMove, "+"), (ServerBinding::Asked, "~")];

    fn mark(self) -> &'static str {
        ServerBinding::MARKED.iter().find(|known| known.0 == self).map_or("", |known| known.1)
    }
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// Origin-Host.
    pub host: &'a str,
    /// Whether it has the reservation.
    pub bond: ServerBinding,
    /// `None`: of a version that did not write it.
    pub keys: Option<ServiceParameters>,
    /// What else the server has granted in this session.
    pub others: Vec<Other>,
}

impl<'a> Route<'a> {
    /// Reads one.
    pub fn of(text: &'a str) -> Route<'a> {
        let (text, others) = match text.split_once('!') {
            Some((text, others)) => (text, Other::read_all(others)),
            None => (text, Vec::new()),
        };
        let (text, keys) = match text.split_once('#') {
            Some((text, keys)) => (text, ServiceParameters::read(keys)),
            None => (text, None),
        };
        let marked = ServerBinding::MARKED.iter().find_map(|(bond, mark)| Some((text.strip_prefix(mark)?, *bond)));
        let (host, bond) = marked.unwrap_or((text, ServerBinding::Bound));
        Route { host, bond, keys, others }
    }

    /// Destination-Host of a request.
    pub fn destination(&self) -> Option<&'a str> {
        matches!(self.bond, ServerBinding::Bound | ServerBinding::Relayed).then_some(self.host)
    }

    /// Whether another peer may have a request. What may be reserved by one that is silent is given back there first,
    /// and elsewhere when it is `asked_again`: the peers may be doors of one server.
    pub fn may_move(&self, asked_again: bool) -> bool {
        match self.bond {
            ServerBinding::Bound => false,
            ServerBinding::Asked => asked_again,
            ServerBinding::Relayed | ServerBinding::MayMove => true,
        }
    }
}

/// ServerBindings are few: sessions share them.
#[derive(Default)]
pub struct ServerBindings {
    recent: VecDeque<Arc<str>>,
}

/// More servers than that do not answer in turn.
const RECENT: usize = 16;

impl ServerBindings {
    /// Writes one without other services.
    pub fn to(&mut self, host: &str, bond: ServerBinding, keys: ServiceParameters) -> Arc<str> {
        self.way(host, bond, keys, &[])
    }

    /// Writes one.
    pub fn way(&mut self, host: &str, bond: ServerBinding, keys: ServiceParameters, others: &[Other]) -> Arc<str> {
        let separator = if others.is_empty() { "" } else { "!" };
        self.shared(format!("{}{host}#{keys}{separator}{}", bond.mark(), Listed(others)))
    }

    /// The same way as this one, with these other services.
    pub fn with_others(&mut self, route: &str, others: &[Other]) -> Arc<str> {
        let way = route.split('!').next().unwrap_or_default();
        match others.is_empty() {
            true => self.shared(way.to_owned()),
            false => self.shared(format!("{way}!{}", Listed(others))),
        }
    }

    fn shared(&mut self, text: String) -> Arc<str> {
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
    use super::*;
    use crate::charge::tariff::Unit;
    use crate::enabler::diameter::profile::Profile;

    #[test]
    fn what_is_written_is_read() {
        let mut routes = ServerBindings::default();
        let money = ServiceParameters { currency: Some(978), exponent: -2, ..ServiceParameters::default() };
        for profile in [Profile::Rfc8506, Profile::Ro] {
            for unit in [Unit::Message, Unit::Octets, Unit::Money] {
                for (identifier, rating_group) in
                    [(None, None), (Some(7), None), (None, Some(0)), (Some(1), Some(u32::MAX))]
                {
                    let keys = ServiceParameters { profile, unit, identifier, rating_group, ..money };
                    for bond in
                        [ServerBinding::Bound, ServerBinding::Relayed, ServerBinding::MayMove, ServerBinding::Asked]
                    {
                        let route = routes.to("ocs.example.org", bond, keys);
                        let (host, keys) = ("ocs.example.org", Some(keys));
                        let expected = Route { host, bond, keys, others: Vec::new() };
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
            let (host, bond, keys, others) = ("ocs", ServerBinding::Relayed, None, Vec::new());
            assert_eq!(Route::of(text), Route { host, bond, keys, others }, "{text}");
        }
    }

    #[test]
    fn other_services_are_added_and_taken_away() {
        let mut routes = ServerBindings::default();
        let others = Other::read_all("5:8.9:to;:7:s");
        let plain = routes.to("ocs", ServerBinding::MayMove, ServiceParameters::default());
        let with = routes.with_others(&plain, &others);
        assert_eq!(with, routes.way("ocs", ServerBinding::MayMove, ServiceParameters::default(), &others));
        let read = Route::of(&with);
        assert_eq!((read.host, read.keys, &read.others), ("ocs", Some(ServiceParameters::default()), &others));
        assert_eq!(routes.with_others(&with, &[]), plain);
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
        let (mut routes, keys) = (ServerBindings::default(), ServiceParameters::default());
        let one = routes.to("ocs", ServerBinding::MayMove, keys);
        assert!(Arc::ptr_eq(&one, &routes.to("ocs", ServerBinding::MayMove, keys)));
    }
}
