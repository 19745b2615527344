//! Sockets of the simulator: accepts connections, answers requests, sends delayed answers and watches silent peers.

use super::connection::{Connection, lock};
use super::server_request;
use super::state::{Fate, Peer, State, request};
use imcharge::wire::diameter::base::{DeviceWatchdogRequest, DisconnectPeerRequest};
use imcharge::wire::diameter::codes::DisconnectCause;
use imcharge::wire::diameter::dictionary::{APPLICATION_BASE, APPLICATION_CREDIT_CONTROL};
use imcharge::wire::diameter::{Command, Flags, Framed, frame};
use rustls::ServerConfig;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Octets per read.
const CHUNK_OCTETS: usize = 256 * 1024;

/// Maximum number of open connections.
const CONNECTIONS_MAX: usize = 1024;

/// Interval of the checks for silent peers.
const TICK: Duration = Duration::from_millis(200);

/// Delayed answers: due time, sequence number, connection, octets.
type Delayed = BinaryHeap<Reverse<(Instant, u64, u64, Vec<u8>)>>;

/// The simulator's server.
pub struct Server {
    pub state: Mutex<State>,
    /// Accounts of the command line.
    pub initial_accounts: Vec<(String, i64)>,
    /// Listening addresses.
    pub addresses: Mutex<Vec<SocketAddr>>,
    tls: Option<Arc<ServerConfig>>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    delayed: Mutex<Delayed>,
    wake: Condvar,
    /// Connections are refused until then.
    closed_until: Mutex<Option<Instant>>,
    listening: AtomicUsize,
    next: AtomicU64,
    next_request: AtomicU32,
    start: Instant,
}

impl Server {
    /// Creates a server that does not listen yet.
    pub fn new(state: State, initial_accounts: Vec<(String, i64)>, tls: Option<Arc<ServerConfig>>) -> Arc<Server> {
        Arc::new(Server {
            state: Mutex::new(state),
            initial_accounts,
            addresses: Mutex::default(),
            tls,
            connections: Mutex::default(),
            delayed: Mutex::default(),
            wake: Condvar::new(),
            closed_until: Mutex::default(),
            listening: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            next_request: AtomicU32::new(1),
            start: Instant::now(),
        })
    }

    /// Starts to listen. Returns the address with the actual port.
    pub fn listen(self: &Arc<Server>, address: SocketAddr) -> io::Result<SocketAddr> {
        let listener = TcpListener::bind(address)?;
        let address = listener.local_addr()?;
        lock(&self.addresses).push(address);
        self.listening.fetch_add(1, Ordering::SeqCst);
        let server = self.clone();
        thread::spawn(move || server.accept(address, listener));
        Ok(address)
    }

    fn accept(self: Arc<Server>, address: SocketAddr, mut listener: TcpListener) {
        loop {
            while let Ok((stream, _)) = listener.accept() {
                if lock(&self.closed_until).is_some() {
                    break;
                }
                if let Err(error) = self.admit(stream) {
                    eprintln!("connection to {address} refused: {error}");
                }
            }
            drop(listener);
            self.listening.fetch_sub(1, Ordering::SeqCst);
            listener = self.reopen(address);
            self.listening.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Listens again once `closed_until` has passed.
    fn reopen(&self, address: SocketAddr) -> TcpListener {
        loop {
            let until = *lock(&self.closed_until);
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(left) if !left.is_zero() => thread::sleep(left),
                _ => match TcpListener::bind(address) {
                    Ok(listener) => {
                        *lock(&self.closed_until) = None;
                        return listener;
                    }
                    Err(error) => {
                        eprintln!("cannot listen on {address}: {error}; retrying in 100 ms");
                        thread::sleep(Duration::from_millis(100));
                    }
                },
            }
        }
    }

    fn admit(self: &Arc<Server>, stream: TcpStream) -> io::Result<()> {
        if lock(&self.connections).len() >= CONNECTIONS_MAX {
            return Err(io::Error::other(format!("{CONNECTIONS_MAX} connections are open")));
        }
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let connection = Arc::new(Connection::new(id, stream, self.tls.as_ref())?);
        connection.touch(self.now());
        lock(&self.state).counters.connections += 1;
        lock(&self.connections).insert(id, connection.clone());
        let server = self.clone();
        thread::spawn(move || {
            if let Err(error) = server.serve(&connection) {
                eprintln!("connection {id} closed: {error}");
            }
            connection.close();
            lock(&server.connections).remove(&id);
        });
        Ok(())
    }

    /// Serves a connection until it ends. The answers to all requests of one read go out in one write.
    fn serve(&self, connection: &Connection) -> io::Result<()> {
        let local = connection.local().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
        let mut peer = Peer { connection: connection.id, local, name: None };
        let mut chunk = vec![0; CHUNK_OCTETS];
        let (mut input, mut out) = (Vec::with_capacity(CHUNK_OCTETS), Vec::with_capacity(CHUNK_OCTETS));
        while connection.receive(&mut chunk, &mut input)? {
            connection.touch(self.now());
            let mut consumed = 0;
            loop {
                let fate = self.process(&mut peer, &input, &mut consumed, &mut out)?;
                let Some((fate, from)) = fate else { break };
                let last = out.split_off(from);
                connection.send(&out)?;
                out.clear();
                match fate {
                    Fate::Send => {}
                    Fate::Hold(delay) => self.send_later(connection.id, delay, last),
                    Fate::Pieces => connection.send_in_pieces(&last)?,
                    Fate::Close => return connection.send(&last),
                }
            }
            input.drain(..consumed);
            if !out.is_empty() {
                connection.send(&out)?;
                out.clear();
            }
        }
        Ok(())
    }

    /// Processes complete messages up to the first one whose answer needs special treatment. Returns that treatment and the
    /// start of the answer in `out`.
    fn process(
        &self,
        peer: &mut Peer,
        input: &[u8],
        consumed: &mut usize,
        out: &mut Vec<u8>,
    ) -> io::Result<Option<(Fate, usize)>> {
        let mut state = lock(&self.state);
        loop {
            let rest = input.get(*consumed..).unwrap_or_default();
            match frame(rest) {
                Framed::Need(_) => return Ok(None),
                Framed::Message(length) => {
                    let from = out.len();
                    let fate = state.process(peer, rest.get(..length).unwrap_or_default(), out);
                    *consumed += length;
                    if fate != Fate::Send {
                        return Ok(Some((fate, from)));
                    }
                }
                Framed::FramingError(broken) => {
                    state.counters.broken_streams += 1;
                    return Err(io::Error::new(io::ErrorKind::InvalidData, broken));
                }
            }
        }
    }

    fn send_later(&self, connection: u64, delay: Duration, bytes: Vec<u8>) {
        let order = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.delayed).push(Reverse((Instant::now() + delay, order, connection, bytes)));
        self.wake.notify_one();
    }

    /// Sends delayed answers and checks for silent peers; never returns.
    pub fn run_timers(&self) {
        let mut last_check = Instant::now();
        loop {
            for (connection, bytes) in self.wait_for_due() {
                let connection = lock(&self.connections).get(&connection).cloned();
                if let Some(connection) = connection.filter(|connection| connection.send(&bytes).is_err()) {
                    connection.close();
                }
            }
            if last_check.elapsed() >= TICK {
                last_check = Instant::now();
                self.check_peers();
            }
        }
    }

    fn wait_for_due(&self) -> Vec<(u64, Vec<u8>)> {
        let mut delayed = lock(&self.delayed);
        let next = delayed.peek().map(|Reverse((when, ..))| when.saturating_duration_since(Instant::now()));
        let wait = next.unwrap_or(TICK).min(TICK);
        if !wait.is_zero() {
            delayed = self.wake.wait_timeout(delayed, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut due = Vec::new();
        while delayed.peek().is_some_and(|Reverse((when, ..))| *when <= Instant::now()) {
            due.extend(delayed.pop().map(|Reverse((_, _, connection, bytes))| (connection, bytes)));
        }
        due
    }

    /// Sends a DWR to peers that have been silent for the watchdog time, and closes those silent for three times as long.
    fn check_peers(&self) {
        let Some(seconds) = lock(&self.state).settings.watchdog else { return };
        let (now, limit) = (self.now(), seconds * 1000);
        for connection in self.open_connections() {
            let silent = now.saturating_sub(connection.last_received.load(Ordering::Relaxed));
            let since_watchdog = now.saturating_sub(connection.last_watchdog.load(Ordering::Relaxed));
            if silent >= limit * 3 {
                eprintln!("connection {} closed: no data for {} s", connection.id, silent / 1000);
                connection.close();
            } else if silent >= limit && since_watchdog >= limit {
                connection.last_watchdog.store(now, Ordering::Relaxed);
                let _ = connection.send(&self.watchdog_request());
            }
        }
    }

    fn watchdog_request(&self) -> Vec<u8> {
        let (host, realm) = self.identity();
        let body = DeviceWatchdogRequest { origin_host: &host, origin_realm: &realm, origin_state_id: None };
        request(Command::DEVICE_WATCHDOG, Flags::default(), APPLICATION_BASE, self.number(), |out| body.write(out))
    }

    /// Sends a DPR to every peer. Returns the number of peers.
    pub fn disconnect(&self) -> usize {
        let (host, realm) = self.identity();
        let body = DisconnectPeerRequest {
            origin_host: &host,
            origin_realm: &realm,
            disconnect_cause: DisconnectCause::REBOOTING,
        };
        let connections = self.open_connections();
        let send = |connection: &&Arc<Connection>| {
            let (command, number) = (Command::DISCONNECT_PEER, self.number());
            let bytes = request(command, Flags::default(), APPLICATION_BASE, number, |out| body.write(out));
            connection.send(&bytes).is_ok()
        };
        connections.iter().filter(send).count()
    }

    /// Sends a RAR or ASR for a session on the connection of its last request.
    pub fn send_request(&self, command: Command, session_id: &str) -> Result<(), String> {
        let (host, realm) = self.identity();
        let (id, client, client_realm) = {
            let state = lock(&self.state);
            let session = state.accounts.sessions.get(session_id).ok_or(format!("unknown session {session_id}"))?;
            (session.connection, session.client.clone(), session.client_realm.clone())
        };
        let (from, to) = ([host.as_str(), &realm], [client.as_str(), &client_realm]);
        let bytes = request(command, Flags::PROXIABLE, APPLICATION_CREDIT_CONTROL, self.number(), |out| {
            server_request::write(command, session_id, from, to, out);
        });
        let connection = lock(&self.connections).get(&id).cloned();
        let connection = connection.ok_or("the connection of the session is closed")?;
        connection.send(&bytes).map_err(|error| error.to_string())
    }

    /// Closes all connections and refuses new ones for this time. Returns the number of closed connections once the
    /// listening sockets are closed.
    pub fn kill(&self, span: Duration) -> Result<usize, String> {
        *lock(&self.closed_until) = Some(Instant::now() + span);
        for address in lock(&self.addresses).iter() {
            // Unblocks the accepting thread.
            let _ = TcpStream::connect_timeout(&reachable(*address), Duration::from_secs(1));
        }
        let connections = self.open_connections();
        connections.iter().for_each(|connection| connection.close());
        let deadline = Instant::now() + span.min(Duration::from_secs(2));
        while self.listening.load(Ordering::SeqCst) > 0 && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(connections.len())
    }

    /// Returns the open connections.
    pub fn open_connections(&self) -> Vec<Arc<Connection>> {
        lock(&self.connections).values().cloned().collect()
    }

    fn identity(&self) -> (String, String) {
        let state = lock(&self.state);
        (state.settings.origin_host.clone(), state.settings.origin_realm.clone())
    }

    fn number(&self) -> u32 {
        self.next_request.fetch_add(1, Ordering::Relaxed)
    }

    fn now(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }
}

/// Replaces an unspecified address by loopback.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        });
    }
    address
}
