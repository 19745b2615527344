//! The peers of a client: their sockets around an [`PeerTable`]. Nothing here waits; the engine waits, for all
//! [`descriptors`](PeerConnections::descriptors) at once and until the [`deadline`](PeerConnections::deadline).

use super::config::{Config, PeerConfig};
use super::peer::Peer;
use crate::charge::time::Time;
use crate::enabler::diameter::client::peer_table::{Asked, Counters, Event, PeerCounters, PeerTable, Refused, Request};
use crate::enabler::diameter::client::reconnect::{Advance, Reconnect};
use std::os::fd::RawFd;

/// A peer as operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its Origin-Host, or its configured name until it has said one.
    pub host: String,
    /// Where it is, as configured.
    pub address: String,
    /// `CONNECTING`, `WAIT_CEA`, `CLOSING`, `DEMOTED`, or the watchdog's word: `INITIAL`, `OKAY`, `SUSPECT`, `DOWN`, `REOPEN`.
    pub state: &'static str,
    /// Requests that wait for it.
    pub in_flight: usize,
    /// What it did with requests.
    pub counters: PeerCounters,
    /// Tries to connect after the first.
    pub reconnects: u64,
    /// Why the last connection ended, or was not to be had.
    pub last_error: Option<String>,
}

/// All of them.
#[derive(Debug)]
pub struct PeerConnections {
    exchange: PeerTable,
    links: Vec<Reconnect>,
    /// Seconds for a connection.
    patience: u32,
    stopping: bool,
}

impl PeerConnections {
    /// Connects to all from the first [`turn`](PeerConnections::turn) on. A peer whose TLS files cannot
    /// be read is down until they can. `origin_state_id` rises with each start that loses its state.
    pub fn new(mut config: Config, origin_state_id: u32, now: Time) -> PeerConnections {
        config.peers.sort_by_key(|peer: &PeerConfig| peer.priority);
        let links = config.peers.iter().map(|peer| Reconnect::new(peer, now)).collect();
        let exchange = PeerTable::new(&config, origin_state_id, now);
        PeerConnections { exchange, links, patience: config.connect_timeout, stopping: false }
    }

    /// Queues a request; [`flush`](PeerConnections::flush) writes it, and so does the next [`turn`](PeerConnections::turn): what must be
    /// durable before anybody sees it is committed before either.
    pub fn send(&mut self, request: Request<'_>, now: Time) -> Result<(), Refused> {
        self.exchange.send(request, now)
    }

    /// Queues the answer to a server's request: a whole message, whose identifiers are put in.
    pub fn answer(&mut self, to: Asked, bytes: &[u8]) {
        self.exchange.answer(to, bytes);
    }

    /// Connects, reads what there is, does what is due, and writes.
    pub fn turn(&mut self, now: Time) {
        for seat in 0..self.links.len() {
            self.advance(seat, now);
            self.read(seat, now);
            self.exchange.peer_timer(seat, now);
        }
        self.exchange.timer(now);
        self.flush(now);
    }

    /// Writes what is queued, as far as the sockets take it: all requests to one peer in one write.
    pub fn flush(&mut self, now: Time) {
        for seat in 0..self.links.len() {
            self.write(seat, now);
            if let Some(why) = self.exchange.doom(seat).map(str::to_owned) {
                self.close(seat, &why, now);
            }
        }
    }

    /// What happened, one after the other, to be called until there is nothing.
    pub fn next_event(&mut self) -> Option<Event> {
        self.exchange.next_event()
    }

    /// What to wait for: each descriptor for reading, and for writing as well where it says so.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, bool)> + '_ {
        self.links.iter().enumerate().filter_map(|(seat, link)| {
            let transport = link.any_transport()?;
            Some((transport.descriptor(), transport.wants_write() || !self.exchange.output(seat).is_empty()))
        })
    }

    /// When [`turn`](PeerConnections::turn) is to be called at the latest, whatever the descriptors say.
    pub fn deadline(&self) -> Option<Time> {
        if self.exchange.has_events() {
            return Some(Time(0));
        }
        let is_needed = |seat| !self.exchange.is_served_without(seat);
        let links = self.links.iter().enumerate().filter_map(|(seat, link)| link.deadline(is_needed(seat)));
        links.chain(self.exchange.deadline()).min()
    }

    /// Takes leave of all peers. Turns go on until [`is_stopped`](PeerConnections::is_stopped), a few seconds at most.
    pub fn stop(&mut self, now: Time) {
        self.stopping = true;
        for seat in 0..self.links.len() {
            if self.links.get(seat).is_some_and(Reconnect::is_up) {
                self.exchange.stop(seat, now);
            } else {
                self.close(seat, "closed from our side", now);
            }
        }
    }

    /// Whether no connection is left after a [`stop`](PeerConnections::stop).
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.links.iter().all(|link| link.any_transport().is_none())
    }

    /// The peers in the order in which they are used.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.links.iter().enumerate().map(|(seat, link)| self.status_of(seat, link)).collect()
    }

    /// What was counted.
    pub fn counters(&self) -> &Counters {
        self.exchange.counters()
    }

    fn status_of(&self, seat: usize, link: &Reconnect) -> PeerStatus {
        let peer = self.exchange.peer(seat);
        let host = peer.and_then(|peer| peer.host()).map_or(link.config().host.as_str(), |host| host);
        let connecting = link.any_transport().is_some() && !link.is_up();
        PeerStatus {
            host: host.to_owned(),
            address: link.config().address.to_string(),
            state: match peer {
                _ if connecting => "CONNECTING",
                _ if self.exchange.is_demoted(seat) => "DEMOTED",
                peer => peer.map_or("DOWN", Peer::state),
            },
            in_flight: self.exchange.in_flight(seat),
            counters: self.exchange.peer_counters(seat),
            reconnects: link.reconnects,
            last_error: link.last_error.clone(),
        }
    }

    fn advance(&mut self, seat: usize, now: Time) {
        let is_needed = !self.exchange.is_served_without(seat);
        let Some(link) = self.links.get_mut(seat) else { return };
        match link.advance(self.patience, is_needed, now) {
            Advance::Same => {}
            Advance::Up(address) => self.exchange.connected(seat, address, now),
            Advance::Failed(why) => self.close(seat, &why, now),
        }
    }

    fn read(&mut self, seat: usize, now: Time) {
        let Some(transport) = self.links.get_mut(seat).and_then(Reconnect::transport) else { return };
        if let Err(why) = transport.read(|bytes| self.exchange.received(seat, bytes, now)) {
            // What its last messages ask for comes first.
            let why = self.exchange.doom(seat).map_or(why, str::to_owned);
            self.close(seat, &why, now);
        }
    }

    fn write(&mut self, seat: usize, now: Time) {
        let Some(transport) = self.links.get_mut(seat).and_then(Reconnect::transport) else { return };
        match transport.write(self.exchange.output(seat)) {
            Ok(octets) => self.exchange.wrote(seat, octets),
            Err(why) => {
                // Answers may have come before it broke.
                self.read(seat, now);
                if self.links.get(seat).is_some_and(Reconnect::is_up) {
                    self.close(seat, &why, now);
                }
            }
        }
    }

    fn close(&mut self, seat: usize, why: &str, now: Time) {
        let Some(link) = self.links.get_mut(seat) else { return };
        let sentence = link.sentence(why);
        let open_since = self.exchange.peer(seat).and_then(Peer::open_since);
        let absent = self.exchange.closed(seat, sentence.clone(), now);
        link.close(sentence, absent, open_since, self.exchange.local(), now);
        if self.stopping {
            link.retire();
        }
    }
}

#[cfg(test)]
mod tests;
