//! Sockets on the loopback interface, with a Diameter server in a thread.

use super::*;
use crate::enabler::diameter::client::fake_peer::*;
use crate::enabler::net::tls::{OwnCertificate, TlsConfig};
use crate::wire::diameter::dictionary::Command;
use crate::wire::diameter::{Framed, frame};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Time limit of each step.
const PATIENCE: Duration = Duration::from_secs(20);

/// The connections under test, and their time.
struct World {
    peers: PeerConnections,
    start: Instant,
    events: Vec<Event>,
}

impl World {
    fn of(config: Config) -> World {
        let peers = PeerConnections::new(config, 1, Time(0));
        World { peers, start: Instant::now(), events: Vec::new() }
    }

    fn now(&self) -> Time {
        Time(self.start.elapsed().as_micros() as u64)
    }

    /// Works until the condition holds.
    #[track_caller]
    fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < PATIENCE, "{what}: {:?} {:?}", self.peers.status(), self.peers.counters());
            let now = self.now();
            self.peers.work(now);
            self.events.extend(std::iter::from_fn(|| self.peers.next_event()));
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    fn until_open(&mut self) {
        self.until("open", |world| world.state(0) == "OKAY");
    }

    fn state(&self, slot: usize) -> &'static str {
        self.peers.status()[slot].state
    }

    fn error(&self, slot: usize) -> String {
        self.peers.status()[slot].last_error.clone().unwrap_or_default()
    }

    fn send(&mut self, name: u32) {
        let now = self.now();
        let message = ccr(name);
        let deadline = now.after_seconds(15);
        let request = Request {
            name: name.into(),
            message: &message,
            deadline,
            may_move: true,
            at_most_once: false,
            possible_duplicate: false,
            preferred_host: None,
        };
        self.peers.send(request, now).expect("taken");
    }

    fn answered(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, Event::Answered { .. })).count()
    }
}

/// A listener, and the configuration of a peer at its address.
fn listen(address: &str) -> (TcpListener, Config) {
    let listener = TcpListener::bind(address).expect("a port");
    let mut config = config(&[HOST]);
    config.peers[0].address = listener.local_addr().expect("bound").to_string().parse().expect("an address");
    (listener, config)
}

/// A TCP or TLS stream.
trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// Reads the next message; `None`: end of the stream.
fn next_message(stream: &mut dyn Stream, input: &mut Vec<u8>) -> Option<Vec<u8>> {
    loop {
        if let Framed::Message(length) = frame(input) {
            return Some(input.drain(..length).collect());
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return None,
            Ok(octets) => input.extend_from_slice(&piece[..octets]),
        }
    }
}

/// Answers all requests until the end of the stream, and returns them.
fn serve(stream: &mut dyn Stream, host: &str) -> Vec<Vec<u8>> {
    let mut input = Vec::new();
    let mut seen = Vec::new();
    while let Some(asked) = next_message(stream, &mut input) {
        let answer = respond(&asked, host);
        seen.push(asked);
        if stream.write_all(&answer).is_err() {
            break;
        }
    }
    seen
}

fn accept(listener: &TcpListener) -> TcpStream {
    let (stream, _) = listener.accept().expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    stream
}

/// A server for one connection.
fn spawn(work: impl FnOnce() -> Vec<Vec<u8>> + Send + 'static) -> JoinHandle<Vec<Vec<u8>>> {
    std::thread::spawn(work)
}

#[test]
fn requests_are_answered_over_ipv4_and_ipv6_until_disconnect() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (listener, config) = listen(address);
        let server = spawn(move || serve(&mut accept(&listener), HOST));
        let mut world = World::of(config);
        world.until_open();
        assert_eq!(world.events, [Event::Up { peer: HOST.into() }]);
        world.send(1);
        let now = world.now();
        world.peers.flush(now);
        world.until("answered", |world| world.answered() == 1);
        let status = &world.peers.status()[0];
        assert_eq!((status.host.as_str(), status.last_error.clone()), (HOST, None));
        world.peers.stop(world.now());
        world.until("stopped", |world| world.peers.is_stopped());
        assert_eq!((world.peers.descriptors().count(), world.peers.deadline()), (0, None));
        let seen: Vec<_> = server.join().expect("served").iter().map(|bytes| header(bytes).command).collect();
        assert_eq!(seen, [Command::CAPABILITIES_EXCHANGE, Command::CREDIT_CONTROL, Command::DISCONNECT_PEER]);
    }
}

#[test]
fn peer_name_is_resolved() {
    let (listener, mut config) = listen("127.0.0.1:0");
    let port = listener.local_addr().expect("bound").port();
    config.peers[0].address = format!("localhost:{port}").parse().expect("an address");
    let server = spawn(move || serve(&mut accept(&listener), HOST));
    let mut world = World::of(config);
    world.until_open();
    drop(world);
    server.join().expect("served");
}

#[test]
fn refused_connection_is_reported_and_retried() {
    let (listener, config) = listen("127.0.0.1:0");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let mut world = World::of(config);
    world.until("refused", |world| !world.error(0).is_empty());
    let expected = format!("peer {HOST} at {address}: connection refused");
    assert_eq!(world.error(0), expected);
    assert_eq!(world.events, [Event::Down { peer: HOST.into(), why: expected }]);
    let wait = world.peers.deadline().expect("a next attempt").micros_since(world.now());
    assert!((500_000..=1_250_000).contains(&wait), "{wait}");
    let listener = TcpListener::bind(address).expect("the same port");
    let server = spawn(move || serve(&mut accept(&listener), HOST));
    world.until_open();
    drop(world);
    server.join().expect("served");
}

#[test]
fn requests_of_a_tick_are_sent_in_one_write() {
    let (listener, config) = listen("127.0.0.1:0");
    let server = spawn(move || serve(&mut accept(&listener), HOST));
    let mut world = World::of(config);
    world.until_open();
    (0..1000).for_each(|name| world.send(name));
    let output = world.peers.table.output(0);
    let mut rest = output;
    while let Framed::Message(length) = frame(rest) {
        rest = &rest[length..];
    }
    assert!(output.len() > 1000 * 20 && rest.is_empty(), "all are in the buffer");
    let now = world.now();
    world.peers.flush(now);
    world.until("answered", |world| world.answered() == 1000);
    let counters = world.peers.counters();
    assert_eq!((counters.sent, counters.answered, counters.unmatched), (1000, 1000, 0));
    drop(world);
    assert_eq!(server.join().expect("served").len(), 1001);
}

#[test]
fn peer_that_stops_reading_gets_all_requests_later() {
    let (listener, mut config) = listen("127.0.0.1:0");
    config.in_flight_max = usize::MAX;
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let server = spawn(move || {
        let mut stream = accept(&listener);
        let mut input = Vec::new();
        let cer = next_message(&mut stream, &mut input).expect("a CER");
        stream.write_all(&respond(&cer, HOST)).expect("written");
        wait.recv().expect("a signal to continue");
        serve(&mut stream, HOST)
    });
    let mut world = World::of(config);
    world.until_open();
    let mut sent = 0;
    while !world.peers.descriptors().any(|(_, wants_write)| wants_write) {
        (sent..sent + 5000).for_each(|name| world.send(name));
        sent += 5000;
        let now = world.now();
        world.peers.flush(now);
    }
    go.send(()).expect("listening");
    world.until("answered", |world| world.answered() == sent as usize);
    drop(world);
    assert_eq!(server.join().expect("served").len(), sent as usize);
}

#[test]
fn answers_are_read_octet_by_octet() {
    let (listener, config) = listen("127.0.0.1:0");
    let server = spawn(move || {
        let mut stream = accept(&listener);
        stream.set_nodelay(true).expect("a socket");
        let mut input = Vec::new();
        for _ in 0..2 {
            let asked = next_message(&mut stream, &mut input).expect("asked");
            for octet in respond(&asked, HOST) {
                stream.write_all(&[octet]).expect("written");
                std::thread::sleep(Duration::from_micros(300));
            }
        }
        serve(&mut stream, HOST)
    });
    let mut world = World::of(config);
    world.until_open();
    world.send(7);
    world.until("answered", |world| world.answered() == 1);
    drop(world);
    server.join().expect("served");
}

/// Two peers. The first runs `work` on its connection once that is open.
fn two(work: impl FnOnce(TcpStream) + Send + 'static) -> (World, [JoinHandle<Vec<Vec<u8>>>; 2]) {
    let (first, mut config) = listen("127.0.0.1:0");
    let (second, other) = listen("127.0.0.1:0");
    let other = PeerConfig { host: OTHER.into(), priority: 9, ..other.peers[0].clone() };
    config.peers.insert(0, other);
    let one = spawn(move || {
        let mut stream = accept(&first);
        let mut input = Vec::new();
        let cer = next_message(&mut stream, &mut input).expect("a CER");
        stream.write_all(&respond(&cer, HOST)).expect("written");
        work(stream);
        Vec::new()
    });
    let two = spawn(move || serve(&mut accept(&second), OTHER));
    let mut world = World::of(config);
    world.until("both open", |world| world.state(0) == "OKAY" && world.state(1) == "OKAY");
    (world, [one, two])
}

#[test]
fn connection_lost_in_the_middle_of_an_answer_moves_the_request() {
    let (mut world, servers) = two(|mut stream| {
        let mut input = Vec::new();
        let asked = next_message(&mut stream, &mut input).expect("asked");
        let answer = respond(&asked, HOST);
        stream.write_all(&answer[..answer.len() / 2]).expect("written");
    });
    assert_eq!(world.peers.status()[0].host, HOST, "the lower priority value is first");
    world.send(1);
    world.until("answered", |world| world.answered() == 1);
    assert!(world.events.iter().any(|event| matches!(event, Event::Answered { from, .. } if &**from == OTHER)));
    assert!(world.error(0).ends_with("the peer closed the connection"), "{}", world.error(0));
    let counters = *world.peers.counters();
    assert_eq!((counters.sent, counters.answered, counters.resent), (1, 1, 1));
    drop(world);
    let [one, two] = servers;
    one.join().expect("served");
    let seen = two.join().expect("served");
    assert!(header(&seen[1]).is_retransmitted());
}

#[test]
fn framing_error_closes_only_its_own_connection() {
    let (mut world, servers) = two(|mut stream| {
        next_message(&mut stream, &mut Vec::new()).expect("asked");
        stream.write_all(b"\x01\x00\x00\x08garbage").expect("written");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    });
    world.send(1);
    world.until("closed", |world| world.state(0) == "DOWN");
    assert!(world.error(0).ends_with("message length 8 is less than 20 or not a multiple of 4"), "{}", world.error(0));
    world.until("answered", |world| world.answered() == 1);
    assert_eq!(world.peers.counters().malformed, 1);
    drop(world);
    servers.into_iter().for_each(|server| _ = server.join().expect("served"));
}

#[test]
fn silent_peer_is_closed_after_the_connect_timeout() {
    let (listener, mut config) = listen("127.0.0.1:0");
    config.connect_timeout = 1;
    let mut world = World::of(config);
    world.until("given up", |world| !world.error(0).is_empty());
    assert!(world.error(0).ends_with("no Capabilities-Exchange-Answer within 1 s"), "{}", world.error(0));
    drop(listener);
}

#[test]
fn stalled_tls_handshake_is_closed_after_the_connect_timeout() {
    let authority = Authority::new();
    let (listener, mut config) = listen("127.0.0.1:0");
    config.connect_timeout = 1;
    config.peers[0].tls = Some(TlsConfig { ca: authority.ca(), own: None });
    let mut world = World::of(config);
    world.until("given up", |world| !world.error(0).is_empty());
    assert!(world.error(0).ends_with("no TLS handshake within 1 s"), "{}", world.error(0));
    drop(listener);
}

/// A CA, and the certificates it has signed, as files.
struct Authority {
    folder: tempfile::TempDir,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let folder = tempfile::tempdir().expect("a folder");
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("signed");
        std::fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("written");
        Authority { folder, issuer: rcgen::Issuer::new(params, key) }
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Certificate and key for this name.
    fn sign(&self, name: &str) -> (PathBuf, PathBuf) {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        let paths = ["crt", "key"].map(|ending| self.folder.path().join(format!("{name}.{ending}")));
        std::fs::write(&paths[0], certificate.pem()).expect("written");
        std::fs::write(&paths[1], key.serialize_pem()).expect("written");
        let [certificate, key] = paths;
        (certificate, key)
    }
}

/// TLS of a server that requires a certificate of this CA.
fn server_config(ca: &Path, (certificate, key): (PathBuf, PathBuf)) -> Arc<rustls::ServerConfig> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).expect("a CA")).expect("usable");
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(
            vec![CertificateDer::from_pem_file(certificate).expect("a certificate")],
            PrivateKeyDer::from_pem_file(key).expect("a key"),
        );
    Arc::new(config.expect("a certificate that fits"))
}

/// A server with TLS whose certificate names `name`, and a client with or without a certificate.
fn over_tls(name: &str, with_certificate: bool) -> (World, JoinHandle<Vec<Vec<u8>>>, Authority) {
    let authority = Authority::new();
    let (listener, mut config) = listen("127.0.0.1:0");
    let tls = server_config(&authority.ca(), authority.sign(name));
    let own = with_certificate.then(|| authority.sign("imcharge.example.com"));
    let own = own.map(|(certificate, key)| OwnCertificate { certificate, key });
    config.peers[0].tls = Some(TlsConfig { ca: authority.ca(), own });
    let server = spawn(move || {
        let connection = rustls::ServerConnection::new(tls).expect("a connection");
        serve(&mut rustls::StreamOwned::new(connection, accept(&listener)), HOST)
    });
    (World::of(config), server, authority)
}

#[test]
fn tls_with_client_certificate_is_accepted() {
    let (mut world, server, _authority) = over_tls(HOST, true);
    world.until_open();
    (0..1000).for_each(|name| world.send(name));
    world.until("answered", |world| world.answered() == 1000);
    world.peers.stop(world.now());
    world.until("stopped", |world| world.peers.is_stopped());
    assert_eq!(server.join().expect("served").len(), 1002);
}

#[test]
fn certificate_for_another_name_is_refused() {
    let (mut world, server, _authority) = over_tls("other.example.org", true);
    world.until("refused", |world| !world.error(0).is_empty());
    let error = world.error(0);
    assert!(error.starts_with(&format!("peer {HOST} at 127.0.0.1:")), "{error}");
    assert!(error.contains("certificate not valid for name \"ocs1.example.org\""), "{error}");
    assert!(error.contains("other.example.org") && !error.contains('\n'), "{error}");
    drop(world);
    assert_eq!(server.join().expect("served").len(), 0);
}

#[test]
fn missing_client_certificate_is_reported() {
    let (mut world, server, _authority) = over_tls(HOST, false);
    world.until("refused", |world| !world.error(0).is_empty());
    let error = world.error(0);
    assert!(error.contains("CertificateRequired") || error.contains("HandshakeFailure"), "{error}");
    drop(world);
    assert_eq!(server.join().expect("served").len(), 0);
}

#[test]
fn peer_without_tls_is_refused_if_tls_is_configured() {
    let authority = Authority::new();
    let (listener, mut config) = listen("127.0.0.1:0");
    config.peers[0].tls = Some(TlsConfig { ca: authority.ca(), own: None });
    let server = spawn(move || {
        accept(&listener).write_all(&dwr(HOST, 1)).expect("written");
        Vec::new()
    });
    let mut world = World::of(config);
    world.until("refused", |world| !world.error(0).is_empty());
    assert!(world.error(0).contains("TLS: ") || world.error(0).contains("reset"), "{}", world.error(0));
    server.join().expect("served");
}
