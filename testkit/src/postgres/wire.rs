//! A TCP proxy before one server, whose network can fail in several ways.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Direction of octets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// What happens to octets, and what has happened so far.
struct Network {
    server: SocketAddr,
    /// Octets of requests are dropped; connections are accepted and stay silent.
    swallows_requests: AtomicBool,
    /// Octets of answers are dropped.
    swallows_answers: AtomicBool,
    /// Octets that still pass in each direction before all connections are cut; negative: without end.
    left: [AtomicI64; 2],
    connections: AtomicUsize,
    open: Mutex<Vec<TcpStream>>,
    has_ended: AtomicBool,
}

/// A TCP proxy. Dropping it ends its connections.
pub struct Wire {
    /// Port at 127.0.0.1.
    pub port: u16,
    network: Arc<Network>,
}

impl Wire {
    /// Starts a proxy before this port of 127.0.0.1. It passes everything.
    pub fn to(port: u16) -> Wire {
        let server = SocketAddr::from(([127, 0, 0, 1], port));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("a bound socket has an address").port();
        let network = Arc::new(Network {
            server,
            swallows_requests: AtomicBool::new(false),
            swallows_answers: AtomicBool::new(false),
            left: [AtomicI64::new(-1), AtomicI64::new(-1)],
            connections: AtomicUsize::new(0),
            open: Mutex::default(),
            has_ended: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&network);
        thread::spawn(move || accepting.accept(&listener));
        Wire { port, network }
    }

    /// Drops everything in both directions from now on. Connections stay, and new ones are accepted.
    pub fn swallow(&self) {
        self.network.swallows_requests.store(true, Ordering::Relaxed);
        self.network.swallows_answers.store(true, Ordering::Relaxed);
    }

    /// Drops what the server sends from now on.
    pub fn swallow_answers(&self) {
        self.network.swallows_answers.store(true, Ordering::Relaxed);
    }

    /// Passes everything again. Connections that have lost octets are cut, as they would not make sense any more.
    pub fn pass(&self) {
        self.network.cut();
        self.network.swallows_requests.store(false, Ordering::Relaxed);
        self.network.swallows_answers.store(false, Ordering::Relaxed);
    }

    /// Cuts all connections after this many further octets of requests or, with `of_answers`, of answers. The connections
    /// after that pass everything.
    pub fn cut_after(&self, octets: i64, of_answers: bool) {
        self.network.left[usize::from(of_answers)].store(octets.max(1), Ordering::Relaxed);
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.network.cut();
    }

    /// Returns how many connections have been accepted.
    pub fn connections(&self) -> usize {
        self.network.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.network.has_ended.store(true, Ordering::Relaxed);
        self.network.cut();
        // Wakes up the accepting thread.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

impl Network {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().flatten() {
            if self.has_ended.load(Ordering::Relaxed) {
                return;
            }
            self.connections.fetch_add(1, Ordering::Relaxed);
            // A server that is gone refuses, and so does the proxy.
            let Ok(server) = TcpStream::connect(self.server) else { continue };
            let copies = [&client, &server].map(|stream| stream.try_clone().expect("a descriptor"));
            self.open.lock().expect("no holder panics").extend(copies);
            let streams = |stream: &TcpStream| stream.try_clone().expect("a descriptor");
            let (from_server, to_client) = (streams(&server), streams(&client));
            let (requests, answers) = (Arc::clone(&self), Arc::clone(&self));
            thread::spawn(move || requests.copy(client, server, Direction::ToServer));
            thread::spawn(move || answers.copy(from_server, to_client, Direction::ToClient));
        }
    }

    fn copy(&self, mut from: TcpStream, mut to: TcpStream, direction: Direction) {
        let (swallows, left) = match direction {
            Direction::ToServer => (&self.swallows_requests, &self.left[0]),
            Direction::ToClient => (&self.swallows_answers, &self.left[1]),
        };
        let mut space = [0; 16 * 1024];
        while let Ok(octets @ 1..) = from.read(&mut space) {
            if swallows.load(Ordering::Relaxed) {
                continue;
            }
            let rest = left.load(Ordering::Relaxed);
            let passing = if rest < 0 { octets } else { octets.min(rest as usize) };
            if to.write_all(&space[..passing]).is_err() {
                break;
            }
            if rest >= 0 {
                left.store(rest - passing as i64, Ordering::Relaxed);
                if rest <= passing as i64 {
                    left.store(-1, Ordering::Relaxed);
                    self.cut();
                    break;
                }
            }
        }
        // A peer that closes while everything is swallowed is not noticed by the other one either.
        if !swallows.load(Ordering::Relaxed) {
            let _ = to.shutdown(Shutdown::Both);
        }
    }

    fn cut(&self) {
        for stream in self.open.lock().expect("no holder panics").drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
