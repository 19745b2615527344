//! Resolves a peer's name in a separate thread, because the system's resolver may block for seconds.

use crate::charge::time::Time;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

/// Maximum number of addresses that are tried.
const ADDRESSES_MAX: usize = 16;

type Found = Result<Vec<SocketAddr>, String>;

/// Resolver of one name.
#[derive(Debug, Default)]
pub struct Resolver {
    /// Start time and result channel of the running query.
    query: Option<(Time, Receiver<Found>)>,
    /// The last result, used if a later query fails.
    known: Vec<SocketAddr>,
}

impl Resolver {
    /// Returns the addresses; `None`: the query is running, call again. It fails after `timeout_seconds`.
    pub fn look_up(
        &mut self,
        host: &str,
        port: u16,
        timeout_seconds: u32,
        now: Time,
    ) -> Result<Option<Vec<SocketAddr>>, String> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Some(vec![SocketAddr::new(address, port)]));
        }
        let query = match self.query.take() {
            Some(query) => query,
            None => (now, start_query(host.to_owned(), port)?),
        };
        match query.1.try_recv() {
            Ok(Ok(found)) => {
                self.known = found;
                Ok(Some(self.known.clone()))
            }
            Ok(Err(why)) => self.known_or(format!("its name cannot be resolved: {why}")),
            Err(TryRecvError::Disconnected) => self.known_or("its name cannot be resolved".into()),
            Err(TryRecvError::Empty) => {
                let is_late = query.0.after_seconds(timeout_seconds) <= now;
                // One query at a time: the next attempt takes its result.
                self.query = Some(query);
                if is_late {
                    self.known_or(format!("its name was not resolved within {timeout_seconds} s"))
                } else {
                    Ok(None)
                }
            }
        }
    }

    fn known_or(&self, why: String) -> Result<Option<Vec<SocketAddr>>, String> {
        if self.known.is_empty() { Err(why) } else { Ok(Some(self.known.clone())) }
    }
}

fn start_query(host: String, port: u16) -> Result<Receiver<Found>, String> {
    let (sender, result) = channel();
    let resolve = move || {
        let found = (host.as_str(), port).to_socket_addrs();
        let found = found.map(|found| found.take(ADDRESSES_MAX).collect()).map_err(|error| error.to_string());
        // Fails if the resolver is gone.
        let _ = sender.send(found);
    };
    let thread = thread::Builder::new().name("imcharge names".into()).stack_size(256 * 1024).spawn(resolve);
    thread.map(|_| result).map_err(|error| format!("no thread to resolve its name: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000);

    /// Waits for the result of the query.
    fn resolve(resolver: &mut Resolver, host: &str) -> Found {
        loop {
            match resolver.look_up(host, 3868, 60, NOW) {
                Ok(None) => thread::yield_now(),
                Ok(Some(found)) => return Ok(found),
                Err(why) => return Err(why),
            }
        }
    }

    #[test]
    fn address_is_returned_without_a_query() {
        for (host, address) in [("127.0.0.1", "127.0.0.1:3868"), ("::1", "[::1]:3868")] {
            let mut resolver = Resolver::default();
            let found = resolver.look_up(host, 3868, 5, NOW).expect("an address").expect("at once");
            assert_eq!((found, resolver.query.is_none()), (vec![address.parse().expect("an address")], true));
        }
    }

    #[test]
    fn last_result_is_kept_if_a_query_fails() {
        let mut resolver = Resolver::default();
        let found = resolve(&mut resolver, "localhost").expect("every system has it");
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        // Never resolves (RFC 6761, 6.4).
        assert_eq!(resolve(&mut resolver, "ocs.invalid"), Ok(found));
        let why = resolve(&mut Resolver::default(), "ocs.invalid").expect_err("never known");
        assert!(why.starts_with("its name cannot be resolved: "), "{why}");
    }

    #[test]
    fn silent_resolver_times_out_and_its_query_continues() {
        let (sender, result) = channel();
        let mut resolver = Resolver { query: Some((NOW, result)), known: Vec::new() };
        assert_eq!(resolver.look_up("ocs.example.com", 3868, 5, NOW.after_seconds(4)), Ok(None));
        let why = resolver.look_up("ocs.example.com", 3868, 5, NOW.after_seconds(5)).expect_err("too long");
        assert_eq!(why, "its name was not resolved within 5 s");
        let address: SocketAddr = "192.0.2.1:3868".parse().expect("an address");
        sender.send(Ok(vec![address])).expect("the channel is open");
        assert_eq!(resolver.look_up("ocs.example.com", 3868, 5, NOW.after_seconds(9)), Ok(Some(vec![address])));
    }
}
