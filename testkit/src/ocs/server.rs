//! Listens, reads, answers; sends late what is to come late, and watches over silent peers.

use super::connection::{Connection, lock};
use super::inquiry;
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

/// Octets read at a time.
const CHUNK: usize = 256 * 1024;

/// Connections at a time at most.
const CONNECTIONS_MAX: usize = 1024;

/// How often silent peers are looked for.
const TICK: Duration = Duration::from_millis(200);

/// Bytes that go out later: when, in which order, where, what.
type Later = BinaryHeap<Reverse<(Instant, u64, u64, Vec<u8>)>>;

/// The server.
pub struct Server {
    pub state: Mutex<State>,
    /// Accounts named on the command line.
    pub named: Vec<(String, i64)>,
    /// Where it listens.
    pub addresses: Mutex<Vec<SocketAddr>>,
    tls: Option<Arc<ServerConfig>>,
    connections: Mutex<HashMap<u64, Arc<Connection>>>,
    later: Mutex<Later>,
    wake: Condvar,
    /// Nobody is let in before.
    shut_until: Mutex<Option<Instant>>,
    listening: AtomicUsize,
    next: AtomicU64,
    next_request: AtomicU32,
    start: Instant,
}

impl Server {
    /// A server that does not listen yet.
    pub fn new(state: State, named: Vec<(String, i64)>, tls: Option<Arc<ServerConfig>>) -> Arc<Server> {
        Arc::new(Server {
            state: Mutex::new(state),
            named,
            addresses: Mutex::default(),
            tls,
            connections: Mutex::default(),
            later: Mutex::default(),
            wake: Condvar::new(),
            shut_until: Mutex::default(),
            listening: AtomicUsize::new(0),
            next: AtomicU64::new(1),
            next_request: AtomicU32::new(1),
            start: Instant::now(),
        })
    }

    /// Begins to listen; the address, with the port that port 0 became.
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
                if lock(&self.shut_until).is_some() {
                    break;
                }
                if let Err(error) = self.admit(stream) {
                    eprintln!("a connection to {address} is refused: {error}");
                }
            }
            drop(listener);
            self.listening.fetch_sub(1, Ordering::SeqCst);
            listener = self.listen_again(address);
            self.listening.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn listen_again(&self, address: SocketAddr) -> TcpListener {
        loop {
            let until = *lock(&self.shut_until);
            match until.map(|until| until.saturating_duration_since(Instant::now())) {
                Some(left) if !left.is_zero() => thread::sleep(left),
                _ => match TcpListener::bind(address) {
                    Ok(listener) => {
                        *lock(&self.shut_until) = None;
                        return listener;
                    }
                    Err(error) => {
                        eprintln!("{address} cannot be listened to again: {error}; it is tried again in 100 ms");
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
            if let Err(error) = server.converse(&connection) {
                eprintln!("connection {id} is closed: {error}");
            }
            connection.close();
            lock(&server.connections).remove(&id);
        });
        Ok(())
    }

    /// Reads a connection to its end: as much as there is at a time, and one write for all its answers.
    fn converse(&self, connection: &Connection) -> io::Result<()> {
        let local = connection.local().map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
        let mut peer = Peer { connection: connection.id, local, name: None };
        let mut chunk = vec![0; CHUNK];
        let (mut input, mut out) = (Vec::with_capacity(CHUNK), Vec::with_capacity(CHUNK));
        while connection.receive(&mut chunk, &mut input)? {
            connection.touch(self.now());
            let mut taken = 0;
            loop {
                let fate = self.take_all(&mut peer, &input, &mut taken, &mut out)?;
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
            input.drain(..taken);
            if !out.is_empty() {
                connection.send(&out)?;
                out.clear();
            }
        }
        Ok(())
    }

    /// Takes the whole messages of the input up to the first whose answer does not simply go out with the others: what
    /// becomes of that, and where it begins.
    fn take_all(
        &self,
        peer: &mut Peer,
        input: &[u8],
        taken: &mut usize,
        out: &mut Vec<u8>,
    ) -> io::Result<Option<(Fate, usize)>> {
        let mut state = lock(&self.state);
        loop {
            let rest = input.get(*taken..).unwrap_or_default();
            match frame(rest) {
                Framed::Need(_) => return Ok(None),
                Framed::Message(length) => {
                    let from = out.len();
                    let fate = state.take(peer, rest.get(..length).unwrap_or_default(), out);
                    *taken += length;
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
        lock(&self.later).push(Reverse((Instant::now() + delay, order, connection, bytes)));
        self.wake.notify_one();
    }

    /// Sends what is due, and looks for silent peers; never returns.
    pub fn keep_time(&self) {
        let mut looked = Instant::now();
        loop {
            for (connection, bytes) in self.wait_for_due() {
                let connection = lock(&self.connections).get(&connection).cloned();
                if let Some(connection) = connection.filter(|connection| connection.send(&bytes).is_err()) {
                    connection.close();
                }
            }
            if looked.elapsed() >= TICK {
                looked = Instant::now();
                self.watch();
            }
        }
    }

    fn wait_for_due(&self) -> Vec<(u64, Vec<u8>)> {
        let mut later = lock(&self.later);
        let next = later.peek().map(|Reverse((when, ..))| when.saturating_duration_since(Instant::now()));
        let wait = next.unwrap_or(TICK).min(TICK);
        if !wait.is_zero() {
            later = self.wake.wait_timeout(later, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
        let mut due = Vec::new();
        while later.peek().is_some_and(|Reverse((when, ..))| *when <= Instant::now()) {
            due.extend(later.pop().map(|Reverse((_, _, connection, bytes))| (connection, bytes)));
        }
        due
    }

    /// DWR to who has been silent for the time of the watchdog; the end for who has been for three times as long.
    fn watch(&self) {
        let Some(seconds) = lock(&self.state).settings.watchdog else { return };
        let (now, limit) = (self.now(), seconds * 1000);
        for connection in self.open_connections() {
            let silent = now.saturating_sub(connection.heard.load(Ordering::Relaxed));
            let asked = now.saturating_sub(connection.asked.load(Ordering::Relaxed));
            if silent >= limit * 3 {
                eprintln!("connection {} is closed: nothing came for {} s", connection.id, silent / 1000);
                connection.close();
            } else if silent >= limit && asked >= limit {
                connection.asked.store(now, Ordering::Relaxed);
                let _ = connection.send(&self.watchdog_request());
            }
        }
    }

    fn watchdog_request(&self) -> Vec<u8> {
        let (host, realm) = self.identity();
        let body = DeviceWatchdogRequest { origin_host: &host, origin_realm: &realm, origin_state_id: None };
        request(Command::DEVICE_WATCHDOG, Flags::default(), APPLICATION_BASE, self.number(), |out| body.write(out))
    }

    /// DPR to every peer; how many there are.
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

    /// RAR or ASR for a session, by the connection that its last request came by.
    pub fn ask(&self, command: Command, session_id: &str) -> Result<(), String> {
        let (host, realm) = self.identity();
        let (id, client, client_realm) = {
            let state = lock(&self.state);
            let session = state.book.sessions.get(session_id).ok_or(format!("there is no session {session_id}"))?;
            (session.connection, session.client.clone(), session.client_realm.clone())
        };
        let (from, to) = ([host.as_str(), &realm], [client.as_str(), &client_realm]);
        let bytes = request(command, Flags::PROXIABLE, APPLICATION_CREDIT_CONTROL, self.number(), |out| {
            inquiry::write(command, session_id, from, to, out);
        });
        let connection = lock(&self.connections).get(&id).cloned();
        let connection = connection.ok_or("the connection of that session is closed")?;
        connection.send(&bytes).map_err(|error| error.to_string())
    }

    /// Drops all connections and lets nobody in for this time. Returns when nobody is let in any more.
    pub fn kill(&self, span: Duration) -> Result<usize, String> {
        *lock(&self.shut_until) = Some(Instant::now() + span);
        for address in lock(&self.addresses).iter() {
            // Whoever accepts is waiting for a connection; this is one.
            let _ = TcpStream::connect_timeout(&reachable(*address), Duration::from_secs(1));
        }
        let connections = self.open_connections();
        connections.iter().for_each(|connection| connection.close());
        let patience = Instant::now() + span.min(Duration::from_secs(2));
        while self.listening.load(Ordering::SeqCst) > 0 && Instant::now() < patience {
            thread::sleep(Duration::from_millis(1));
        }
        Ok(connections.len())
    }

    /// Connections that are open.
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

/// An address by which one that listens everywhere is reached.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
            SocketAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        });
    }
    address
}
