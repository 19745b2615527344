//! A TCP relay between a client and a server, which tests use as the network between them: it can hold back what passes, as a
//! partition does, delay it, or cut all connections.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::{Duration, Instant};

/// How often a thread that waits for data looks whether the relay has ended.
const POLL: Duration = Duration::from_millis(50);

/// Octets that are read at once.
const CHUNK: usize = 16 * 1024;

/// What the relay does with what it receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Holds back what the client sends. It is forwarded later, unless the connection is cut.
    pub holds_requests: bool,
    /// Holds back what the server sends.
    pub holds_answers: bool,
    /// Closes new connections at once.
    pub refuses: bool,
    /// Delay of each direction.
    pub delay: Duration,
}

impl Conditions {
    /// Those of a partition: connections stay open, and nothing passes.
    pub fn partition() -> Conditions {
        Conditions { holds_requests: true, holds_answers: true, ..Conditions::default() }
    }
}

/// A relay to one server. Dropping it cuts all connections.
pub struct Relay {
    port: u16,
    shared: Arc<Shared>,
    acceptor: Option<thread::JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    conditions: Conditions,
    /// Port of the server at 127.0.0.1.
    server: u16,
    /// Both sockets of each open connection, by number.
    open: HashMap<u64, [TcpStream; 2]>,
    accepted: u64,
    has_ended: bool,
}

impl Relay {
    /// Starts a relay to this port of 127.0.0.1.
    pub fn new(server: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of ours");
        let port = listener.local_addr().expect("a bound socket").port();
        let conditions = Conditions::default();
        let state = State { conditions, server, open: HashMap::new(), accepted: 0, has_ended: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let accepting = Arc::clone(&shared);
        let acceptor = Some(thread::spawn(move || accepting.accept(&listener)));
        Relay { port, shared, acceptor }
    }

    /// Returns its port at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what it does, also with open connections.
    pub fn set(&self, conditions: Conditions) {
        self.shared.lock().conditions = conditions;
        self.shared.changed.notify_all();
    }

    /// Connects to another server from now on. Open connections stay.
    pub fn set_server(&self, port: u16) {
        self.shared.lock().server = port;
    }

    /// Cuts all connections. What was held back is lost.
    pub fn cut(&self) {
        for [client, server] in self.shared.lock().open.values() {
            let _ = (client.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
        }
        self.shared.changed.notify_all();
    }

    /// Returns how many connections it has accepted.
    pub fn accepted(&self) -> u64 {
        self.shared.lock().accepted
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.lock().has_ended = true;
        self.cut();
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().expect("the thread does not panic");
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn accept(self: Arc<Self>, listener: &TcpListener) {
        loop {
            let state = self.lock();
            if state.has_ended {
                return;
            }
            let (server, refuses) = (state.server, state.conditions.refuses);
            drop(state);
            match listener.accept() {
                Ok((client, _)) if !refuses => self.open(client, server),
                Ok(_) => {}
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn open(self: &Arc<Self>, client: TcpStream, server: u16) {
        let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else { return };
        client.set_nonblocking(false).expect("a socket of ours");
        for socket in [&client, &server] {
            socket.set_nodelay(true).expect("a socket of ours");
            socket.set_read_timeout(Some(POLL)).expect("a socket of ours");
        }
        let clone = |socket: &TcpStream| socket.try_clone().expect("a socket of ours");
        let mut state = self.lock();
        state.accepted += 1;
        let number = state.accepted;
        state.open.insert(number, [clone(&client), clone(&server)]);
        drop(state);
        let (from_client, to_server) = (clone(&client), clone(&server));
        let requests = Arc::clone(self);
        thread::spawn(move || requests.forward(number, from_client, to_server, |conditions| conditions.holds_requests));
        let answers = Arc::clone(self);
        thread::spawn(move || answers.forward(number, server, client, |conditions| conditions.holds_answers));
    }

    /// Forwards one direction of a connection until it ends.
    fn forward(&self, number: u64, mut from: TcpStream, mut to: TcpStream, holds: fn(&Conditions) -> bool) {
        let mut chunk = [0; CHUNK];
        loop {
            match from.read(&mut chunk) {
                Ok(0) => break,
                Ok(length) if self.wait(number, holds) && to.write_all(&chunk[..length]).is_ok() => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if !self.lock().open.contains_key(&number) {
                        break;
                    }
                }
                Ok(_) | Err(_) => break,
            }
        }
        // An end is part of what is held back.
        self.wait(number, holds);
        self.lock().open.remove(&number);
        let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }

    /// Waits for the delay and while the direction is held back. Returns whether the connection is open.
    fn wait(&self, number: u64, holds: fn(&Conditions) -> bool) -> bool {
        let since = Instant::now();
        let mut state = self.lock();
        loop {
            let is_cut = |[client, server]: &[TcpStream; 2]| client.peer_addr().is_err() || server.peer_addr().is_err();
            if state.has_ended || state.open.get(&number).is_none_or(is_cut) {
                return false;
            }
            let remaining = state.conditions.delay.saturating_sub(since.elapsed());
            if !holds(&state.conditions) && remaining.is_zero() {
                return true;
            }
            let pause = if remaining.is_zero() { POLL } else { remaining.min(POLL) };
            state = self.changed.wait_timeout(state, pause).unwrap_or_else(|poisoned| poisoned.into_inner()).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that returns each octet plus one, and a client connected to it through a relay.
    fn through_relay() -> (Relay, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket").port();
        thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.expect("a client");
                thread::spawn(move || {
                    let mut octet = [0];
                    while connection.read_exact(&mut octet).is_ok() && connection.write_all(&[octet[0] + 1]).is_ok() {}
                });
            }
        });
        let relay = Relay::new(port);
        let client = TcpStream::connect(("127.0.0.1", relay.port())).expect("the relay listens");
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket of ours");
        (relay, client)
    }

    fn ask(client: &mut TcpStream, octet: u8) -> Option<u8> {
        let mut answer = [0];
        client.write_all(&[octet]).and_then(|()| client.read_exact(&mut answer)).ok().map(|()| answer[0])
    }

    fn is_silent(client: &mut TcpStream) -> bool {
        client.set_read_timeout(Some(Duration::from_millis(150))).expect("a socket of ours");
        let silent = client.read(&mut [0]).is_err_and(|error| error.kind() == ErrorKind::WouldBlock);
        client.set_read_timeout(Some(Duration::from_secs(20))).expect("a socket of ours");
        silent
    }

    #[test]
    fn what_is_held_back_passes_later() {
        let (relay, mut client) = through_relay();
        assert_eq!(ask(&mut client, 1), Some(2));
        for conditions in [
            Conditions::partition(),
            Conditions { holds_requests: true, ..Conditions::default() },
            Conditions { holds_answers: true, ..Conditions::default() },
        ] {
            relay.set(conditions);
            client.write_all(&[5]).expect("the connection is open");
            assert!(is_silent(&mut client), "{conditions:?}");
            relay.set(Conditions::default());
            let mut answer = [0];
            client.read_exact(&mut answer).expect("the answer passes now");
            assert_eq!(answer, [6]);
        }
    }

    #[test]
    fn cut_connection_ends_and_loses_what_was_held_back() {
        let (relay, mut client) = through_relay();
        assert_eq!(ask(&mut client, 1), Some(2));
        relay.set(Conditions::partition());
        client.write_all(&[5]).expect("the connection is open");
        assert!(is_silent(&mut client));
        relay.cut();
        relay.set(Conditions::default());
        assert_eq!(client.read(&mut [0]).unwrap_or(0), 0);
        let mut again = TcpStream::connect(("127.0.0.1", relay.port())).expect("the relay listens");
        assert_eq!((ask(&mut again, 7), relay.accepted()), (Some(8), 2));
    }

    #[test]
    fn refused_and_delayed_connections() {
        let (relay, mut client) = through_relay();
        assert_eq!(ask(&mut client, 1), Some(2));
        relay.set(Conditions { refuses: true, ..Conditions::default() });
        let mut refused = TcpStream::connect(("127.0.0.1", relay.port())).expect("the relay listens");
        assert_eq!(ask(&mut refused, 1), None);
        assert_eq!(ask(&mut client, 1), Some(2), "open connections stay");
        let delay = Duration::from_millis(60);
        relay.set(Conditions { delay, ..Conditions::default() });
        let began = Instant::now();
        assert_eq!(ask(&mut client, 1), Some(2));
        assert!(began.elapsed() >= delay * 2, "{:?}", began.elapsed());
    }
}
