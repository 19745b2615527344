//! Addresses of a peer's name. The system's resolver may take seconds, and the engine waits for nobody: it is asked in
//! a thread of its own.

use crate::charge::time::Time;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

type Found = Result<Vec<SocketAddr>, String>;

/// Who knows the addresses of one name.
#[derive(Debug, Default)]
pub struct Resolver {
    /// Since when the system is asked, and where its answer comes.
    asked: Option<(Time, Receiver<Found>)>,
    /// What it said last: better than nothing where it says nothing more.
    known: Vec<SocketAddr>,
}

impl Resolver {
    /// The addresses; `None`: ask again soon. An answer is waited for `patience` seconds at most.
    pub fn look_up(
        &mut self,
        host: &str,
        port: u16,
        patience: u32,
        now: Time,
    ) -> Result<Option<Vec<SocketAddr>>, String> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Some(vec![SocketAddr::new(address, port)]));
        }
        let asked = match self.asked.take() {
            Some(asked) => asked,
            None => (now, ask(host.to_owned(), port)?),
        };
        match asked.1.try_recv() {
            Ok(Ok(found)) => {
                self.known = found;
                Ok(Some(self.known.clone()))
            }
            Ok(Err(why)) => self.known_or(format!("its name cannot be resolved: {why}")),
            Err(TryRecvError::Disconnected) => self.known_or("its name cannot be resolved".into()),
            Err(TryRecvError::Empty) => {
                let late = asked.0.after_seconds(patience) <= now;
                // One question at a time: the next try hears its answer.
                self.asked = Some(asked);
                if late { self.known_or(format!("no answer about its name within {patience} s")) } else { Ok(None) }
            }
        }
    }

    fn known_or(&self, why: String) -> Result<Option<Vec<SocketAddr>>, String> {
        if self.known.is_empty() { Err(why) } else { Ok(Some(self.known.clone())) }
    }
}

fn ask(host: String, port: u16) -> Result<Receiver<Found>, String> {
    let (answer, heard) = channel();
    let resolve = move || {
        let found = (host.as_str(), port).to_socket_addrs();
        let found = found.map(|found| found.take(ADDRESSES_MAX).collect()).map_err(|error| error.to_string());
        // Nobody listens when the peer is gone.
        let _ = answer.send(found);
    };
    let thread = thread::Builder::new().name("imcharge names".into()).stack_size(256 * 1024).spawn(resolve);
    thread.map(|_| heard).map_err(|error| format!("no thread to resolve its name: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_000_000_000);

    /// What the system says in the end.
    fn in_the_end(resolver: &mut Resolver, host: &str) -> Found {
        loop {
            match resolver.look_up(host, 3868, 60, NOW) {
                Ok(None) => thread::yield_now(),
                Ok(Some(found)) => return Ok(found),
                Err(why) => return Err(why),
            }
        }
    }

    #[test]
    fn an_address_needs_no_asking() {
        for (host, address) in [("127.0.0.1", "127.0.0.1:3868"), ("::1", "[::1]:3868")] {
            let mut resolver = Resolver::default();
            let found = resolver.look_up(host, 3868, 5, NOW).expect("an address").expect("at once");
            assert_eq!((found, resolver.asked.is_none()), (vec![address.parse().expect("an address")], true));
        }
    }

    #[test]
    fn a_name_is_asked_for_and_what_it_was_is_kept() {
        let mut resolver = Resolver::default();
        let found = in_the_end(&mut resolver, "localhost").expect("every system has it");
        assert!(found.iter().all(|address| address.ip().is_loopback()), "{found:?}");
        // Nobody has this one (RFC 6761, 6.4).
        assert_eq!(in_the_end(&mut resolver, "ocs.invalid"), Ok(found));
        let why = in_the_end(&mut Resolver::default(), "ocs.invalid").expect_err("never known");
        assert!(why.starts_with("its name cannot be resolved: "), "{why}");
    }

    #[test]
    fn a_resolver_that_is_silent_is_waited_for_only_so_long_and_asked_once() {
        let (answer, heard) = channel();
        let mut resolver = Resolver { asked: Some((NOW, heard)), known: Vec::new() };
        assert_eq!(resolver.look_up("ocs.example.com", 3868, 5, NOW.after_seconds(4)), Ok(None));
        let why = resolver.look_up("ocs.example.com", 3868, 5, NOW.after_seconds(5)).expect_err("too long");
        assert_eq!(why, "no answer about its name within 5 s");
        let address: SocketAddr = "192.0.2.1:3868".parse().expect("an address");
        answer.send(Ok(vec![address])).expect("it still listens");
        assert_eq!(resolver.look_up("ocs.example.com", 3868, 5, NOW.after_seconds(9)), Ok(Some(vec![address])));
    }
}
