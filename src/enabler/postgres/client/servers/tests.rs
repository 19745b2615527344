//! Several servers on the loopback interface, and a clock that the test advances.

use super::*;
use crate::enabler::net::address::HostPort;
use crate::enabler::postgres::client::client_messages::client_messages;
use crate::enabler::postgres::client::fake_server::*;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// Time limit of each step.
const PATIENCE: Duration = Duration::from_secs(20);

const STATEMENT: &str = "SELECT imcharge.example($1)";

/// What a server does with its clients.
#[derive(Clone, Debug)]
enum Conduct {
    /// It answers the checks like this, and each statement by 42.
    Serve(Checks),
    /// It refuses each login with this SQLSTATE.
    Refuse(&'static str),
    /// It says nothing.
    Silent,
    /// It answers the checks, and closes the connection when a statement arrives.
    CloseOnStatement,
    /// It answers a statement and closes the connection.
    CloseAfterAnswer,
}

/// A client of a fake server.
struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    is_started: bool,
}

/// A server without a thread.
struct FakeServer {
    listener: Option<TcpListener>,
    port: u16,
    conduct: Conduct,
    peers: Vec<Peer>,
    /// Clients that have ended their session by Terminate.
    terminated: usize,
}

impl FakeServer {
    fn new(conduct: Conduct) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        listener.set_nonblocking(true).expect("set");
        FakeServer { listener: Some(listener), port, conduct, peers: Vec::new(), terminated: 0 }
    }

    fn standby() -> FakeServer {
        FakeServer::new(Conduct::Serve(Checks { is_standby: true, ..Checks::default() }))
    }

    fn primary() -> FakeServer {
        FakeServer::new(Conduct::Serve(Checks::default()))
    }

    /// Closes all connections, and the port.
    fn die(&mut self) {
        self.listener = None;
        self.peers.clear();
    }

    /// Opens the port again.
    fn revive(&mut self, conduct: Conduct) {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).expect("the same port");
        listener.set_nonblocking(true).expect("set");
        (self.listener, self.conduct) = (Some(listener), conduct);
    }

    fn work(&mut self) {
        while let Some(Ok((stream, _))) = self.listener.as_ref().map(TcpListener::accept) {
            stream.set_nonblocking(true).expect("set");
            self.peers.push(Peer { stream, input: Vec::new(), is_started: false });
        }
        let mut peers = std::mem::take(&mut self.peers);
        peers.retain_mut(|peer| self.serve(peer));
        self.peers = peers;
    }

    /// Returns whether the connection stays open.
    fn serve(&mut self, peer: &mut Peer) -> bool {
        let mut buffer = [0; 4096];
        let is_open = loop {
            match peer.stream.read(&mut buffer) {
                Ok(0) => break false,
                Ok(octets) => peer.input.extend_from_slice(&buffer[..octets]),
                Err(error) => break error.kind() == ErrorKind::WouldBlock,
            }
        };
        self.received(peer) && is_open
    }

    /// Handles what has arrived, and returns whether the connection stays open.
    fn received(&mut self, peer: &mut Peer) -> bool {
        if !peer.is_started {
            let length =
                peer.input.get(..4).map(|length| u32::from_be_bytes(length.try_into().expect("four")) as usize);
            if length.is_none_or(|length| peer.input.len() < length) || matches!(self.conduct, Conduct::Silent) {
                return true;
            }
            peer.input.drain(..length.expect("a length"));
            peer.is_started = true;
            if let Conduct::Refuse(sqlstate) = self.conduct {
                let _ = peer.stream.write(&error("FATAL", sqlstate, "no"));
                return false;
            }
            return peer.stream.write(&session()).is_ok();
        }
        if peer.input == [b'X', 0, 0, 0, 4] {
            self.terminated += 1;
            return false;
        }
        // Sync ends a statement.
        if !peer.input.ends_with(&[b'S', 0, 0, 0, 4]) {
            return true;
        }
        let messages = client_messages(&std::mem::take(&mut peer.input));
        self.answer(peer, &messages)
    }

    fn answer(&self, peer: &mut Peer, messages: &[(u8, Vec<u8>)]) -> bool {
        let parse = messages.iter().find(|(tag, _)| *tag == b'P');
        let is_check = parse.is_some_and(|(_, body)| String::from_utf8_lossy(body).contains("pg_is_in_recovery"));
        let answer = match &self.conduct {
            Conduct::Serve(checks) if is_check => checked(checks),
            _ if is_check => checked(&Checks::default()),
            Conduct::CloseOnStatement => return false,
            Conduct::Silent | Conduct::Refuse(_) => return true,
            Conduct::Serve(_) | Conduct::CloseAfterAnswer if parse.is_some() => answered(42),
            Conduct::Serve(_) | Conduct::CloseAfterAnswer => {
                [executed(&[row(&[Some(&42_i64.to_be_bytes())])]), ready()].concat()
            }
        };
        peer.stream.write(&answer).is_ok() && (is_check || !matches!(self.conduct, Conduct::CloseAfterAnswer))
    }
}

/// A client, its servers and the time.
struct World {
    client: Client,
    servers: Vec<FakeServer>,
    now: Time,
}

impl World {
    fn new(servers: Vec<FakeServer>) -> World {
        let ports: Vec<u16> = servers.iter().map(|server| server.port).collect();
        let now = Time(1_000_000);
        World { client: Client::new(config(&ports), now), servers, now }
    }

    /// One step of everything. The time passes only while the client waits for its next attempt.
    fn step(&mut self) {
        self.servers.iter_mut().for_each(FakeServer::work);
        self.client.work(self.now);
        if self.client.link.is_none() {
            self.now = self.now.max(self.client.retry_at.unwrap_or(self.now));
        }
    }

    /// Returns the next event.
    fn event(&mut self) -> ClientEvent {
        let begun = Instant::now();
        loop {
            if let Some(event) = self.client.next_event() {
                return event;
            }
            assert!(begun.elapsed() < PATIENCE, "no event: {:?}", self.client.status());
            self.step();
            std::thread::yield_now();
        }
    }

    /// Returns the reason of the next event, which must be Down.
    fn down(&mut self) -> String {
        match self.event() {
            ClientEvent::Down { why } => why,
            event => panic!("{event:?}"),
        }
    }

    /// Returns the name of the server that the next event says is up, as a position.
    fn up(&mut self) -> usize {
        match self.event() {
            ClientEvent::Up { server, is_async: false } => {
                let named = |candidate: &FakeServer| server == format!("127.0.0.1:{}", candidate.port);
                self.servers.iter().position(named).expect("a known server")
            }
            event => panic!("{event:?}"),
        }
    }

    fn query(&mut self) -> QueryId {
        self.client.query(STATEMENT, &[Parameter::Int8(1)], self.now).expect("ready")
    }

    /// Asks, and checks the answer.
    fn is_served(&mut self) {
        let asked = self.query();
        match self.event() {
            ClientEvent::Rows(id, rows) => assert_eq!((id, rows[0].int8(0)), (asked, Ok(42))),
            event => panic!("{event:?}"),
        }
    }
}

#[test]
fn first_server_that_passes_the_checks_serves_and_a_lost_one_is_followed_by_the_next() {
    let mut world = World::new(vec![FakeServer::primary(), FakeServer::standby(), FakeServer::primary()]);
    world.servers[0].die();
    assert!(world.down().ends_with(": connection refused"));
    assert!(world.down().ends_with(": it is a standby"));
    assert_eq!(world.up(), 2);
    world.is_served();
    world.is_served();
    let states: Vec<_> = world.client.status().iter().map(|server| server.state).collect();
    assert_eq!(states, ["DOWN", "DOWN", "READY"]);

    world.servers[0].revive(Conduct::Serve(Checks::default()));
    world.servers[2].die();
    assert!(world.down().ends_with(": the peer closed the connection"));
    assert!(!world.client.is_ready());
    assert_eq!(world.up(), 0);
    world.is_served();
    // And around again, over a standby that was promoted.
    world.servers[1].conduct = Conduct::Serve(Checks::default());
    world.servers[0].die();
    world.down();
    assert_eq!(world.up(), 1);
    world.is_served();
}

#[test]
fn query_in_flight_is_lost_with_the_connection() {
    let mut world = World::new(vec![FakeServer::new(Conduct::CloseOnStatement), FakeServer::primary()]);
    assert_eq!(world.up(), 0);
    let asked = world.query();
    assert!(!world.client.is_ready());
    assert!(matches!(world.event(), ClientEvent::Lost(id) if id == asked));
    assert!(world.down().ends_with(": the peer closed the connection"));
    assert_eq!(world.up(), 1);
    world.is_served();
}

#[test]
fn answer_before_the_end_of_the_connection_counts() {
    let mut world = World::new(vec![FakeServer::new(Conduct::CloseAfterAnswer)]);
    world.up();
    world.is_served();
    world.down();
    world.up();
}

#[test]
fn silent_server_is_left_after_the_time_of_the_answer() {
    let mut world = World::new(vec![FakeServer::primary(), FakeServer::primary()]);
    assert_eq!(world.up(), 0);
    world.servers[0].conduct = Conduct::Silent;
    let asked = world.query();
    world.client.work(world.now);
    assert_eq!(world.client.deadline(), Some(world.now.after_seconds(10)));
    world.now = world.now.after_seconds(10);
    assert!(matches!(world.event(), ClientEvent::Lost(id) if id == asked));
    assert!(world.down().ends_with(": no answer within 10 s"));
    assert_eq!(world.up(), 1);
}

#[test]
fn silent_login_is_left_after_the_time_to_connect() {
    let mut world = World::new(vec![FakeServer::new(Conduct::Silent), FakeServer::primary()]);
    while world.servers[0].peers.is_empty() || !world.client.link.as_ref().is_some_and(|link| link.transport.is_up()) {
        world.step();
    }
    world.step();
    world.now = world.client.deadline().expect("a time for the login");
    assert!(world.down().ends_with(": no login within 5 s"));
    assert_eq!(world.up(), 1);
}

#[test]
fn each_reason_is_reported_once_and_rounds_are_delayed() {
    let mut world = World::new(vec![FakeServer::standby(), FakeServer::new(Conduct::Refuse("57P03"))]);
    assert!(world.down().ends_with(": it is a standby"));
    assert!(world.down().contains("it refuses the login: no (SQLSTATE 57P03)"));
    let mut delays = Vec::new();
    while delays.len() < 12 {
        let before = world.now;
        world.step();
        assert!(world.client.next_event().is_none());
        if world.now > before {
            delays.push(world.now.micros_since(before));
        }
    }
    // 100 ms, 200 ms ... 2 s, a quarter more or less; the first round is over before.
    assert!((75_000..=250_000).contains(&delays[0]), "{delays:?}");
    assert!(delays[6..].iter().all(|delay| (1_500_000..=2_500_000).contains(delay)), "{delays:?}");
    let error = world.client.status()[0].last_error.clone().expect("an error");
    assert!(error.ends_with(": it is a standby"), "{error}");
    // Another reason is reported.
    world.servers[1].conduct = Conduct::Refuse("28P01");
    assert!(world.down().contains("SQLSTATE 28P01"));
    world.servers[0].conduct = Conduct::Serve(Checks::default());
    assert_eq!(world.up(), 0);
}

#[test]
fn name_of_a_server_is_resolved_and_all_of_its_addresses_are_tried() {
    let server = FakeServer::primary();
    let mut config = config(&[server.port]);
    config.servers[0].address = HostPort { host: "localhost".into(), port: server.port };
    let now = Time(1_000_000);
    let mut world = World { client: Client::new(config, now), servers: vec![server], now };
    let expected = format!("localhost:{} at 127.0.0.1:{}", world.servers[0].port, world.servers[0].port);
    loop {
        match world.event() {
            ClientEvent::Up { server, .. } => break assert_eq!(server, expected),
            // [::1] may be first, where no server listens.
            ClientEvent::Down { why } => assert!(why.ends_with("connection refused"), "{why}"),
            event => panic!("{event:?}"),
        }
    }
}

#[test]
fn unreadable_password_file_is_reported_and_read_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = FakeServer::primary();
    let path = folder.path().join("password");
    let config = ClientConfig { password_file: Some(path.clone()), ..config(&[server.port]) };
    let now = Time(1_000_000);
    let mut world = World { client: Client::new(config, now), servers: vec![server], now };
    assert!(world.down().contains("it does not exist"));
    std::fs::write(&path, "secret\n").expect("written");
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("set");
    assert_eq!(world.up(), 0);
}

#[test]
fn stop_waits_for_the_query_in_flight() {
    let mut world = World::new(vec![FakeServer::primary()]);
    world.up();
    let asked = world.query();
    world.client.stop(world.now);
    assert!(!world.client.is_stopped());
    assert!(matches!(world.event(), ClientEvent::Rows(id, _) if id == asked));
    assert!(world.down().ends_with(": closed by this node"));
    assert!(world.client.is_stopped() && !world.client.is_ready());
    assert_eq!((world.client.deadline(), world.client.descriptors().count()), (None, 0));
    let begun = Instant::now();
    while world.servers[0].terminated == 0 {
        assert!(begun.elapsed() < PATIENCE, "no Terminate");
        world.step();
    }
    assert_eq!(world.servers[0].peers.len(), 0);
}

#[test]
fn stop_ends_an_idle_connection_and_an_attempt_at_once() {
    let mut world = World::new(vec![FakeServer::primary()]);
    world.up();
    world.client.stop(world.now);
    assert!(world.client.is_stopped());
    let mut world = World::new(vec![FakeServer::new(Conduct::Silent)]);
    world.step();
    assert_eq!(world.client.descriptors().count(), 1);
    world.client.stop(world.now);
    assert!(world.client.is_stopped());
    world.step();
    assert_eq!(world.client.descriptors().count(), 0);
}
