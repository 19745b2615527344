//! The sockets of all peers, around the [`PeerTable`]. No call blocks: the engine polls all
//! [`descriptors`](PeerConnections::descriptors) until the [`deadline`](PeerConnections::deadline).

use super::config::{Config, PeerConfig};
use super::peer::Peer;
use crate::charge::time::Time;
use crate::enabler::diameter::client::peer_table::{Counters, Event, PeerRequest, PeerTable, Refused, Request};
use crate::enabler::diameter::client::reconnect::{Advance, Reconnect};
use std::os::fd::RawFd;

/// State of a peer, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its Origin-Host; before the first CEA, its configured identity.
    pub host: String,
    /// Its configured address.
    pub address: String,
    /// `CONNECTING`, `WAIT_CEA`, `CLOSING`, `DEMOTED`, or the state of the watchdog: `INITIAL`, `OKAY`, `SUSPECT`,
    /// `DOWN`, `REOPEN`.
    pub state: &'static str,
    /// Number of pending requests.
    pub in_flight: usize,
    /// Why the last connection ended or could not be set up.
    pub last_error: Option<String>,
}

/// The connections to all peers.
#[derive(Debug)]
pub struct PeerConnections {
    table: PeerTable,
    /// By position in the table.
    connections: Vec<Reconnect>,
    /// Maximum duration of an attempt to connect, in seconds.
    timeout_seconds: u32,
    stopping: bool,
}

impl PeerConnections {
    /// Creates the connections. They connect from the first [`work`](PeerConnections::work) on. A peer stays down
    /// while its TLS files cannot be read. `origin_state_id`: see [`LocalNode`](super::node::LocalNode).
    pub fn new(mut config: Config, origin_state_id: u32, now: Time) -> PeerConnections {
        config.peers.sort_by_key(|peer: &PeerConfig| peer.priority);
        let connections = config.peers.iter().map(|peer| Reconnect::new(peer, now)).collect();
        let table = PeerTable::new(&config, origin_state_id, now);
        PeerConnections { table, connections, timeout_seconds: config.connect_timeout, stopping: false }
    }

    /// Queues a request. [`flush`](PeerConnections::flush) and [`work`](PeerConnections::work) send it.
    pub fn send(&mut self, request: Request<'_>, now: Time) -> Result<(), Refused> {
        self.table.send(request, now)
    }

    /// Queues the answer to a peer's request: a whole message, whose identifiers are set here.
    pub fn answer(&mut self, to: PeerRequest, bytes: &[u8]) {
        self.table.answer(to, bytes);
    }

    /// Connects, reads, handles timers, and writes.
    pub fn work(&mut self, now: Time) {
        for slot in 0..self.connections.len() {
            self.advance(slot, now);
            self.read(slot, now);
            self.table.peer_timer(slot, now);
        }
        self.table.timer(now);
        self.flush(now);
    }

    /// Writes the output buffers as far as the sockets accept it: all requests to a peer in one write.
    pub fn flush(&mut self, now: Time) {
        for slot in 0..self.connections.len() {
            self.write(slot, now);
            if let Some(why) = self.table.close_reason(slot).map(str::to_owned) {
                self.close(slot, &why, now);
            }
        }
    }

    /// Returns the next event.
    pub fn next_event(&mut self) -> Option<Event> {
        self.table.next_event()
    }

    /// Returns the descriptors to poll for reading; `true`: for writing as well.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, bool)> + '_ {
        self.connections.iter().enumerate().filter_map(|(slot, connection)| {
            let transport = connection.any_transport()?;
            Some((transport.descriptor(), transport.wants_write() || !self.table.output(slot).is_empty()))
        })
    }

    /// When [`work`](PeerConnections::work) must be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        if self.table.has_events() {
            return Some(Time(0));
        }
        let is_needed = |slot| !self.table.is_served_without(slot);
        let connections =
            self.connections.iter().enumerate().filter_map(|(slot, connection)| connection.deadline(is_needed(slot)));
        connections.chain(self.table.deadline()).min()
    }

    /// Begins to disconnect from all peers. [`is_stopped`](PeerConnections::is_stopped) follows within a few seconds
    /// if [`work`](PeerConnections::work) is called until then.
    pub fn stop(&mut self, now: Time) {
        self.stopping = true;
        for slot in 0..self.connections.len() {
            if self.connections.get(slot).is_some_and(Reconnect::is_up) {
                self.table.stop(slot, now);
            } else {
                self.close(slot, "closed by this node", now);
            }
        }
    }

    /// Whether all connections are closed after [`stop`](PeerConnections::stop).
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.connections.iter().all(|connection| connection.any_transport().is_none())
    }

    /// Returns the state of the peers, in order of preference.
    pub fn status(&self) -> Vec<PeerStatus> {
        self.connections.iter().enumerate().map(|(slot, connection)| self.status_of(slot, connection)).collect()
    }

    /// Returns the counters.
    pub fn counters(&self) -> &Counters {
        self.table.counters()
    }

    fn status_of(&self, slot: usize, connection: &Reconnect) -> PeerStatus {
        let peer = self.table.peer(slot);
        let host = peer.and_then(|peer| peer.host()).map_or(connection.config().host.as_str(), |host| host);
        let connecting = connection.any_transport().is_some() && !connection.is_up();
        PeerStatus {
            host: host.to_owned(),
            address: connection.config().address.to_string(),
            state: match peer {
                _ if connecting => "CONNECTING",
                _ if self.table.is_demoted(slot) => "DEMOTED",
                peer => peer.map_or("DOWN", Peer::state_name),
            },
            in_flight: self.table.in_flight(slot),
            last_error: connection.last_error.clone(),
        }
    }

    fn advance(&mut self, slot: usize, now: Time) {
        let is_needed = !self.table.is_served_without(slot);
        let Some(connection) = self.connections.get_mut(slot) else { return };
        match connection.advance(self.timeout_seconds, is_needed, now) {
            Advance::Same => {}
            Advance::Up(address) => self.table.connected(slot, address, now),
            Advance::Failed(why) => self.close(slot, &why, now),
        }
    }

    fn read(&mut self, slot: usize, now: Time) {
        let Some(transport) = self.connections.get_mut(slot).and_then(Reconnect::transport) else { return };
        if let Err(why) = transport.read(|bytes| self.table.received(slot, bytes, now)) {
            // The last message of the peer may give the reason.
            let why = self.table.close_reason(slot).map_or(why, str::to_owned);
            self.close(slot, &why, now);
        }
    }

    fn write(&mut self, slot: usize, now: Time) {
        let Some(transport) = self.connections.get_mut(slot).and_then(Reconnect::transport) else { return };
        match transport.write(self.table.output(slot)) {
            Ok(octets) => self.table.wrote(slot, octets),
            Err(why) => {
                // Answers may have arrived before the error.
                self.read(slot, now);
                if self.connections.get(slot).is_some_and(Reconnect::is_up) {
                    self.close(slot, &why, now);
                }
            }
        }
    }

    fn close(&mut self, slot: usize, why: &str, now: Time) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let sentence = connection.sentence(why);
        let open_since = self.table.peer(slot).and_then(Peer::open_since);
        let delay = self.table.closed(slot, sentence.clone(), now);
        connection.close(sentence, delay, open_since, self.table.node(), now);
        if self.stopping {
            connection.disable();
        }
    }
}

#[cfg(test)]
mod tests;
