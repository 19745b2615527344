//! The sockets around a [`Connection`]: the servers are tried in turn, and the first that passes the checks serves.

use super::config::{ClientConfig, Server};
use super::connection::{Connection, Event, QueryError, QueryId};
use super::password::Password;
use super::row::Row;
use super::server_error::ServerError;
use super::value::Parameter;
use crate::charge::time::Time;
use crate::enabler::net::back_off::BackOff;
use crate::enabler::net::dialer::{Dialed, Dialer};
use crate::enabler::net::jitter::Jitter;
use crate::enabler::net::tls::Tls;
use crate::enabler::net::transport::Transport;
use std::collections::VecDeque;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::rc::Rc;

/// First delay between two rounds of attempts, in microseconds. It doubles with each round that fails.
const BACK_OFF_FIRST_MICROS: u64 = 100_000;

/// Maximum delay between two rounds, in microseconds: a standby that is promoted serves soon.
const BACK_OFF_MAX_MICROS: u64 = 2_000_000;

/// Seconds after which the kernel tests a silent connection, and between two tests.
const KEEPALIVE_SECONDS: u64 = 10;

/// An event of the client.
#[derive(Clone, Debug)]
pub enum ClientEvent {
    /// This server has passed the checks and serves. `is_async`: a failover may lose what it commits.
    Up { server: String, is_async: bool },
    /// The connection is lost, or an attempt failed for another reason than the last one at the same server: a sentence.
    Down { why: String },
    /// The query is executed and committed.
    Rows(QueryId, Vec<Row>),
    /// The query had no effect.
    Refused(QueryId, ServerError),
    /// There is no answer. The query may have been executed.
    Lost(QueryId),
}

/// State of a server, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    /// Its configured host and port.
    pub host: String,
    /// Address of the last attempt; its host and port before the first one.
    pub address: String,
    /// `DOWN`, `CONNECTING`, `LOGIN`, `CHECKING`, `READY` or `BUSY`.
    pub state: &'static str,
    /// Whether it serves without synchronous replication.
    pub is_async: bool,
    /// Why the last connection ended or could not be set up.
    pub last_error: Option<String>,
}

/// A server, and how its last attempt ended.
#[derive(Debug)]
struct Candidate {
    server: Server,
    dialer: Dialer,
    /// Read from the files by the first attempt that can read them.
    tls: Option<Tls>,
    last_error: Option<String>,
}

/// A connection, and its socket.
struct Link {
    transport: Transport,
    connection: Connection,
}

/// A server that serves.
#[derive(Clone, Copy, Debug)]
struct Serving {
    since: Time,
    is_async: bool,
}

/// One logical connection to several servers. No call blocks.
pub struct Client {
    config: Rc<ClientConfig>,
    candidates: Vec<Candidate>,
    /// Position of the server that serves, or that is tried.
    current: usize,
    /// Servers that have failed since the last delay.
    failed: usize,
    link: Option<Link>,
    serving: Option<Serving>,
    /// When to connect; `None`: never again.
    retry_at: Option<Time>,
    back_off: BackOff,
    jitter: Jitter,
    events: VecDeque<ClientEvent>,
    next_query: u64,
    is_stopping: bool,
}

impl Client {
    /// Creates the client. It connects from the first [`work`](Client::work) on.
    pub fn new(config: ClientConfig, now: Time) -> Client {
        let candidate = |server: &Server| Candidate {
            server: server.clone(),
            dialer: Dialer::new(server.address.clone()),
            tls: None,
            last_error: None,
        };
        Client {
            candidates: config.servers.iter().map(candidate).collect(),
            config: Rc::new(config),
            current: 0,
            failed: 0,
            link: None,
            serving: None,
            retry_at: Some(now),
            back_off: BackOff::new(BACK_OFF_FIRST_MICROS, BACK_OFF_MAX_MICROS),
            jitter: Jitter::new(now),
            events: VecDeque::new(),
            next_query: 0,
            is_stopping: false,
        }
    }

    /// Connects, reads, handles timers, and writes.
    pub fn work(&mut self, now: Time) {
        if self.link.is_none() && self.retry_at.is_some_and(|at| at <= now) {
            self.connect(now);
        }
        self.advance(now);
        self.read(now);
        // The server may have agreed to TLS.
        self.advance(now);
        if let Some(link) = &mut self.link {
            link.connection.timer(now);
        }
        self.take_events(now);
        self.flush(now);
    }

    /// Writes what is queued as far as the socket accepts it.
    pub fn flush(&mut self, now: Time) {
        let Some(link) = &mut self.link else { return };
        if link.transport.is_up() && link.connection.close_reason().is_none() {
            match link.transport.write(link.connection.output()) {
                Ok(octets) => link.connection.wrote(octets),
                Err(why) => {
                    // The answer may have arrived before the error.
                    self.read(now);
                    return self.close(&why, now);
                }
            }
        }
        self.close_if_due(now);
    }

    /// Whether a query can be sent: a server serves, and no query is in flight.
    pub fn is_ready(&self) -> bool {
        let idle = |link: &Link| link.connection.is_idle() && link.connection.close_reason().is_none();
        !self.is_stopping && self.serving.is_some() && self.link.as_ref().is_some_and(idle)
    }

    /// Queues a query of one statement; [`flush`](Client::flush) and [`work`](Client::work) send it. Exactly one of
    /// [`Rows`](ClientEvent::Rows), [`Refused`](ClientEvent::Refused) and [`Lost`](ClientEvent::Lost) follows.
    pub fn query(
        &mut self,
        statement: &'static str,
        parameters: &[Parameter<'_>],
        now: Time,
    ) -> Result<QueryId, QueryError> {
        if !self.is_ready() {
            return Err(QueryError::NotReady);
        }
        let link = self.link.as_mut().ok_or(QueryError::NotReady)?;
        let id = QueryId(self.next_query);
        link.connection.query(id, statement, parameters, now)?;
        self.next_query += 1;
        Ok(id)
    }

    /// Returns the next event.
    pub fn next_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Whether [`next_event`](Client::next_event) returns one.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Returns the descriptor to poll for reading; `true`: for writing as well.
    pub fn descriptors(&self) -> impl Iterator<Item = (RawFd, bool)> + '_ {
        self.link.iter().map(|link| {
            let wants_write = link.transport.wants_write() || !link.connection.output().is_empty();
            (link.transport.descriptor(), wants_write)
        })
    }

    /// When [`work`](Client::work) must be called at the latest.
    pub fn deadline(&self) -> Option<Time> {
        if self.has_events() {
            return Some(Time(0));
        }
        match &self.link {
            Some(link) => link.transport.deadline().into_iter().chain(link.connection.deadline()).min(),
            None => self.retry_at,
        }
    }

    /// Begins to disconnect: at once, or when the query in flight is answered or lost.
    pub fn stop(&mut self, now: Time) {
        self.is_stopping = true;
        self.retry_at = None;
        self.close_if_due(now);
    }

    /// Whether the connection is closed after [`stop`](Client::stop).
    pub fn is_stopped(&self) -> bool {
        self.is_stopping && self.link.is_none()
    }

    /// Returns the state of the servers, in order of configuration.
    pub fn status(&self) -> Vec<ServerStatus> {
        self.candidates.iter().enumerate().map(|(position, candidate)| self.status_of(position, candidate)).collect()
    }

    fn status_of(&self, position: usize, candidate: &Candidate) -> ServerStatus {
        let link = self.link.as_ref().filter(|_| position == self.current);
        ServerStatus {
            host: candidate.server.address.to_string(),
            address: candidate.dialer.label(),
            state: link.map_or("DOWN", |link| link.connection.state_name()),
            is_async: link.is_some() && self.serving.is_some_and(|serving| serving.is_async),
            last_error: candidate.last_error.clone(),
        }
    }

    fn connect(&mut self, now: Time) {
        if let Err(why) = self.try_connect(now) {
            self.failed(&why, now);
        }
    }

    fn try_connect(&mut self, now: Time) -> Result<(), String> {
        let timeout = self.config.connect_timeout;
        let candidate = self.candidates.get_mut(self.current).ok_or("there is no server")?;
        let address = match candidate.dialer.next_address(timeout, now)? {
            Dialed::Address(address) => address,
            Dialed::Later(at) => {
                self.retry_at = Some(at);
                return Ok(());
            }
        };
        if let (None, Some(files)) = (&candidate.tls, &candidate.server.tls) {
            candidate.tls = Some(Tls::load(&candidate.server.address.host, files)?);
        }
        let password = self.config.password_file.as_deref().map(Password::load).transpose()?;
        let transport = Transport::connect(address, None, timeout, now)?;
        transport.keep_alive(KEEPALIVE_SECONDS)?;
        let connection = Connection::new(Rc::clone(&self.config), password, candidate.server.tls.is_some());
        self.link = Some(Link { transport, connection });
        Ok(())
    }

    /// Continues to connect, and to begin TLS.
    fn advance(&mut self, now: Time) {
        let Some(link) = &mut self.link else { return };
        if link.connection.wants_tls() && link.transport.is_up() && !link.transport.is_encrypted() {
            let tls = self.candidates.get(self.current).and_then(|candidate| candidate.tls.as_ref());
            let started =
                tls.ok_or_else(|| "its TLS files are not read".into()).and_then(|tls| link.transport.start_tls(tls));
            if let Err(why) = started {
                return self.close(&why, now);
            }
        }
        match link.transport.advance(now) {
            Ok(true) => link.connection.connected(now),
            Ok(false) => {}
            Err(why) => self.close(&why, now),
        }
    }

    fn read(&mut self, now: Time) {
        let Some(link) = self.link.as_mut().filter(|link| link.transport.is_up()) else { return };
        let connection = &mut link.connection;
        if let Err(why) = link.transport.read(|octets| connection.received(octets, now)) {
            // The last message of the server may give the reason.
            let why = connection.close_reason().map_or(why, str::to_owned);
            self.close(&why, now);
        }
    }

    fn take_events(&mut self, now: Time) {
        let Some(link) = &mut self.link else { return };
        while let Some(event) = link.connection.next_event() {
            self.events.push_back(match event {
                Event::Open(passed) => {
                    self.serving = Some(Serving { since: now, is_async: passed.is_async });
                    self.failed = 0;
                    let candidate = self.candidates.get_mut(self.current);
                    let server = candidate.map(|candidate| candidate.label()).unwrap_or_default();
                    ClientEvent::Up { server, is_async: passed.is_async }
                }
                Event::Rows(id, rows) => ClientEvent::Rows(id, rows),
                Event::Refused(id, error) => ClientEvent::Refused(id, error),
                Event::Lost(id) => ClientEvent::Lost(id),
            });
        }
    }

    /// Closes the connection if it has failed, or if the client stops and no query is in flight.
    fn close_if_due(&mut self, now: Time) {
        let Some(link) = &mut self.link else { return };
        if let Some(why) = link.connection.close_reason().map(str::to_owned) {
            return self.close(&why, now);
        }
        if self.is_stopping && (link.connection.is_idle() || !link.connection.is_open()) {
            link.connection.terminate();
            // The connection is closed either way.
            let _ = link.transport.write(link.connection.output());
            self.close("closed by this node", now);
        }
    }

    fn close(&mut self, why: &str, now: Time) {
        let Some(mut link) = self.link.take() else { return };
        link.connection.closed();
        self.link = Some(link);
        self.take_events(now);
        let Some(mut link) = self.link.take() else { return };
        if link.transport.is_up() {
            link.transport.finish();
        }
        self.failed(why, now);
    }

    /// Reports that the server does not serve, and chooses the next one.
    fn failed(&mut self, why: &str, now: Time) {
        let served = self.serving.take();
        let Some(candidate) = self.candidates.get_mut(self.current) else { return };
        let sentence = format!("PostgreSQL server {}: {why}", candidate.label());
        if served.is_some() || candidate.last_error.as_ref() != Some(&sentence) {
            self.events.push_back(ClientEvent::Down { why: sentence.clone() });
        }
        candidate.last_error = Some(sentence);
        if self.is_stopping {
            return;
        }
        if candidate.dialer.has_untried() {
            self.retry_at = Some(now);
            return;
        }
        self.current = (self.current + 1) % self.candidates.len();
        self.failed += 1;
        if let Some(served) = served {
            self.back_off.lasted(now.micros_since(served.since));
        }
        let is_round_over = served.is_some() || self.failed >= self.candidates.len();
        let delay = if is_round_over { self.back_off.delay(&self.jitter) } else { 0 };
        if is_round_over {
            self.failed = 0;
        }
        self.retry_at = Some(Time(now.0.saturating_add(delay)));
    }
}

impl Candidate {
    /// Returns the name for logs: host and port, and the address if the host is a name.
    fn label(&self) -> String {
        let (place, address) = (self.server.address.to_string(), self.dialer.label());
        match self.server.address.host.parse::<IpAddr>().is_ok() || place == address {
            true => place,
            false => format!("{place} at {address}"),
        }
    }
}

#[cfg(test)]
mod tests;
