//! Server bindings: which server has a reservation, and how it is addressed. Sessions store them as text and return
//! them with each request.
//!
//! | prefix | [`Holder`] | meaning |
//! |---|---|---|
//! | none | `Peer` | Only this peer has the reservation. |
//! | `*` | `Relayed` | This server has it, through a relay. Any peer may relay, and requests carry Destination-Host. |
//! | `+` | `MayMove` | This peer has it, and another may continue (RFC 8506, 5.7 and 8.4): no Destination-Host. |
//! | `~` | `Candidate` | This peer received the request and did not answer. It may be a relay: no Destination-Host. |
//!
//! `#` begins the [`ServiceParameters`] that the reservation was opened with, which close it even if the configuration
//! has changed. `!` begins the [other services](Other) that the last answer granted, which the next request closes.

use super::services::{Listed, Other};
use crate::enabler::diameter::profile::ServiceParameters;
use std::collections::VecDeque;
use std::sync::Arc;

/// How sure it is that a server has the reservation, and which peers reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Only this peer has it.
    Peer,
    /// This server has it, and any peer may relay.
    Relayed,
    /// This peer has it, and another may continue.
    MayMove,
    /// This peer may have it.
    Candidate,
}

impl Holder {
    const PREFIXES: [(Holder, &'static str); 3] =
        [(Holder::Relayed, "*"), (Holder::MayMove, "+"), (Holder::Candidate, "~")];

    fn prefix(self) -> &'static str {
        Holder::PREFIXES.iter().find(|known| known.0 == self).map_or("", |known| known.1)
    }
}

/// A parsed server binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerBinding<'a> {
    /// Origin-Host of the server.
    pub host: &'a str,
    /// Whether it has the reservation.
    pub holder: Holder,
    /// Service parameters of the reservation; `None`: they cannot be parsed.
    pub keys: Option<ServiceParameters>,
    /// Grants to other services.
    pub others: Vec<Other>,
}

impl<'a> ServerBinding<'a> {
    /// Parses a binding.
    pub fn parse(text: &'a str) -> ServerBinding<'a> {
        let (text, others) = match text.split_once('!') {
            Some((text, others)) => (text, Other::parse_all(others)),
            None => (text, Vec::new()),
        };
        let (text, keys) = match text.split_once('#') {
            Some((text, keys)) => (text, ServiceParameters::parse(keys)),
            None => (text, None),
        };
        let marked = Holder::PREFIXES.iter().find_map(|(holder, mark)| Some((text.strip_prefix(mark)?, *holder)));
        let (host, holder) = marked.unwrap_or((text, Holder::Peer));
        ServerBinding { host, holder, keys, others }
    }

    /// Returns the Destination-Host of requests.
    pub fn destination(&self) -> Option<&'a str> {
        matches!(self.holder, Holder::Peer | Holder::Relayed).then_some(self.host)
    }

    /// Whether another peer may get a request. A possible reservation is released at the silent peer first, and by a
    /// `retry` at any peer: several peers may reach the same server.
    pub fn may_move(&self, retry: bool) -> bool {
        match self.holder {
            Holder::Peer => false,
            Holder::Candidate => retry,
            Holder::Relayed | Holder::MayMove => true,
        }
    }
}

/// Recent bindings, to be shared by sessions.
#[derive(Default)]
pub struct ServerBindings {
    recent: VecDeque<Arc<str>>,
}

/// Number of recent bindings: more than there are servers.
const RECENT_MAX: usize = 16;

impl ServerBindings {
    /// Returns a binding without other services.
    pub fn to(&mut self, host: &str, holder: Holder, keys: ServiceParameters) -> Arc<str> {
        self.with(host, holder, keys, &[])
    }

    /// Returns a binding with other services.
    pub fn with(&mut self, host: &str, holder: Holder, keys: ServiceParameters, others: &[Other]) -> Arc<str> {
        let separator = if others.is_empty() { "" } else { "!" };
        self.shared(format!("{}{host}#{keys}{separator}{}", holder.prefix(), Listed(others)))
    }

    /// Returns this binding with other services.
    pub fn with_others(&mut self, binding: &str, others: &[Other]) -> Arc<str> {
        let plain = binding.split('!').next().unwrap_or_default();
        match others.is_empty() {
            true => self.shared(plain.to_owned()),
            false => self.shared(format!("{plain}!{}", Listed(others))),
        }
    }

    fn shared(&mut self, text: String) -> Arc<str> {
        if let Some(known) = self.recent.iter().find(|known| ***known == *text) {
            return Arc::clone(known);
        }
        let binding: Arc<str> = text.into();
        self.recent.truncate(RECENT_MAX - 1);
        self.recent.push_front(Arc::clone(&binding));
        binding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::tariff::Unit;
    use crate::enabler::diameter::profile::Profile;

    #[test]
    fn written_binding_is_parsed() {
        let mut bindings = ServerBindings::default();
        let money = ServiceParameters { currency: Some(978), exponent: -2, ..ServiceParameters::default() };
        for profile in [Profile::Rfc8506, Profile::Ro] {
            for unit in [Unit::Message, Unit::Octets, Unit::Money] {
                for (identifier, rating_group) in
                    [(None, None), (Some(7), None), (None, Some(0)), (Some(1), Some(u32::MAX))]
                {
                    let keys = ServiceParameters { profile, unit, identifier, rating_group, ..money };
                    for holder in [Holder::Peer, Holder::Relayed, Holder::MayMove, Holder::Candidate] {
                        let binding = bindings.to("ocs.example.org", holder, keys);
                        let (host, keys) = ("ocs.example.org", Some(keys));
                        let expected = ServerBinding { host, holder, keys, others: Vec::new() };
                        assert_eq!(ServerBinding::parse(&binding), expected, "{binding}");
                    }
                }
            }
        }
        assert_eq!(bindings.recent.len(), RECENT_MAX);
    }

    #[test]
    fn invalid_service_parameters_are_ignored() {
        for text in ["*ocs", "*ocs#", "*ocs#unheard,of"] {
            let (host, holder, keys, others) = ("ocs", Holder::Relayed, None, Vec::new());
            assert_eq!(ServerBinding::parse(text), ServerBinding { host, holder, keys, others }, "{text}");
        }
    }

    #[test]
    fn other_services_are_added_and_removed() {
        let mut bindings = ServerBindings::default();
        let others = Other::parse_all("5:8.9:to;:7:s");
        let plain = bindings.to("ocs", Holder::MayMove, ServiceParameters::default());
        let with = bindings.with_others(&plain, &others);
        assert_eq!(with, bindings.with("ocs", Holder::MayMove, ServiceParameters::default(), &others));
        let read = ServerBinding::parse(&with);
        assert_eq!((read.host, read.keys, &read.others), ("ocs", Some(ServiceParameters::default()), &others));
        assert_eq!(bindings.with_others(&with, &[]), plain);
    }

    #[test]
    fn candidate_is_asked_first_and_others_by_a_retry() {
        let binding = |text| ServerBinding::parse(text);
        assert_eq!([false, true].map(|again| binding("~ocs").may_move(again)), [false, true]);
        assert_eq!([false, true].map(|again| binding("ocs").may_move(again)), [false, false]);
        assert_eq!([false, true].map(|again| binding("+ocs").may_move(again)), [true, true]);
    }

    #[test]
    fn destination_host_is_set_only_for_a_known_server() {
        let named = ["ocs", "*ocs", "+ocs", "~ocs"].map(|text| ServerBinding::parse(text).destination());
        assert_eq!(named, [Some("ocs"), Some("ocs"), None, None]);
    }

    #[test]
    fn equal_bindings_are_shared() {
        let (mut bindings, keys) = (ServerBindings::default(), ServiceParameters::default());
        let one = bindings.to("ocs", Holder::MayMove, keys);
        assert!(Arc::ptr_eq(&one, &bindings.to("ocs", Holder::MayMove, keys)));
    }
}
