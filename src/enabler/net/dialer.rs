//! The addresses of one server, tried in turn.

use super::address::HostPort;
use super::resolver::Resolver;
use crate::charge::time::Time;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// Interval at which the resolver is polled, in microseconds.
const RESOLVER_POLL_MICROS: u64 = 20_000;

/// The addresses of one server.
#[derive(Debug)]
pub struct Dialer {
    place: HostPort,
    /// Address of the last attempt; `None`: the name is being resolved.
    address: Option<SocketAddr>,
    resolver: Resolver,
    /// Resolved addresses that have not been tried.
    untried: VecDeque<SocketAddr>,
}

/// Result of [`Dialer::next_address`].
#[derive(Debug, PartialEq, Eq)]
pub enum Dialed {
    /// Connect to this address.
    Address(SocketAddr),
    /// The name is being resolved: call again at this time.
    Later(Time),
}

impl Dialer {
    /// Creates it.
    pub fn new(place: HostPort) -> Dialer {
        Dialer { place, address: None, resolver: Resolver::default(), untried: VecDeque::new() }
    }

    /// Returns the next address; after the last one, the name is resolved again, which may take `timeout_seconds`.
    pub fn next_address(&mut self, timeout_seconds: u32, now: Time) -> Result<Dialed, String> {
        if self.untried.is_empty() {
            self.address = None;
            let HostPort { host, port } = &self.place;
            match self.resolver.look_up(host, *port, timeout_seconds, now)? {
                Some(found) => self.untried.extend(found),
                None => return Ok(Dialed::Later(Time(now.0.saturating_add(RESOLVER_POLL_MICROS)))),
            }
        }
        self.address = self.untried.pop_front();
        self.address.map(Dialed::Address).ok_or_else(|| format!("the name {} has no address", self.place))
    }

    /// Whether addresses are left that have not been tried.
    pub fn has_untried(&self) -> bool {
        !self.untried.is_empty()
    }

    /// Forgets the addresses that have not been tried: the next attempt begins with the name.
    pub fn forget(&mut self) {
        self.untried.clear();
    }

    /// Returns the address of the last attempt, or the host and port, for logs.
    pub fn label(&self) -> String {
        self.address.map_or_else(|| self.place.to_string(), |address| address.to_string())
    }
}

#[cfg(test)]
impl Dialer {
    /// Replaces host and port.
    pub fn set_place(&mut self, place: HostPort) {
        self.place = place;
    }

    /// Adds an address that has not been tried.
    pub fn push_untried(&mut self, address: SocketAddr) {
        self.untried.push_back(address);
    }
}
