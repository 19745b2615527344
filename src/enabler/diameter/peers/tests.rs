//! The peers against a little server on the loopback, in one thread with them.

use super::*;
use crate::wire::diameter::base::CapabilitiesExchangeAnswer;
use crate::wire::diameter::words::ResultCode;
use crate::wire::diameter::{Command, Flags, Framed, frame};
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// A server that answers the exchange of capabilities and hands out everything else.
struct Server {
    listener: TcpListener,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    host: &'static str,
}

impl Server {
    fn new(host: &'static str) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("non-blocking");
        Server { listener, stream: None, input: Vec::new(), host }
    }

    fn config(&self, priority: u16) -> PeerConfig {
        let address = self.listener.local_addr().expect("bound").to_string();
        PeerConfig { host: self.host.into(), address, priority, tls: false }
    }

    /// Credit-Control requests that have come.
    fn requests(&mut self) -> Vec<Header> {
        if let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).expect("non-blocking");
            (self.stream, self.input) = (Some(stream), Vec::new());
        }
        let mut buffer = [0; 65_536];
        if let Some(length) = self.stream.as_mut().and_then(|stream| stream.read(&mut buffer).ok()) {
            self.input.extend_from_slice(&buffer[..length]);
        }
        let mut headers = Vec::new();
        while let Framed::Message(length) = frame(&self.input) {
            let header = Message::parse(&self.input[..length]).expect("whole").header;
            self.input.drain(..length);
            match header.command {
                Command::CAPABILITIES_EXCHANGE => {
                    let body = CapabilitiesExchangeAnswer {
                        result_code: ResultCode::SUCCESS,
                        origin_host: self.host,
                        origin_realm: "example.org",
                        auth_application_id: vec![4],
                        ..Default::default()
                    };
                    self.say(&header, |writer| body.write(writer));
                }
                _ => headers.push(header),
            }
        }
        headers
    }

    fn say(&mut self, to: &Header, write: impl FnOnce(&mut Writer<'_>)) {
        let mut bytes = Vec::new();
        let mut writer = Writer::answer(&mut bytes, to);
        write(&mut writer);
        writer.finish().expect("short");
        self.stream.as_mut().expect("connected").write_all(&bytes).expect("written");
    }

    fn answer(&mut self, to: &Header) {
        self.say(to, |_| {});
    }
}

fn peers(servers: &[(&Server, u16)], in_flight_max: usize) -> Peers {
    let (host, realm) = ("proxy.example.org".into(), "example.org".into());
    let identity = Identity { host, realm, state_id: 7, watchdog: 30 };
    let peers = servers.iter().map(|(server, priority)| server.config(*priority)).collect();
    Peers::new(PeersConfig { identity, peers, tls: None, in_flight_max }, now()).expect("addresses")
}

fn now() -> Time {
    Time(u64::try_from(START.elapsed().as_micros()).expect("soon") + 1_000_000_000)
}

static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

/// A request of this name, whose answer may take this long.
fn asked(name: u64, millis: u64) -> Outgoing {
    let mut message = Vec::new();
    let none = (HopByHop(0), EndToEnd(0));
    let writer = Writer::request(&mut message, Command::CREDIT_CONTROL, Flags::PROXIABLE, 4, none.0, none.1);
    writer.finish().expect("short");
    let deadline = Time(now().0 + millis * 1000);
    Outgoing { name, message, deadline, may_move: true, again: false, prefer: None }
}

/// Turns both sides until this is so.
fn until(peers: &mut Peers, servers: &mut [&mut Server], mut done: impl FnMut(&mut Peers, &[Vec<Header>]) -> bool) {
    let started = Instant::now();
    let mut seen: Vec<Vec<Header>> = servers.iter().map(|_| Vec::new()).collect();
    while started.elapsed() < Duration::from_secs(10) {
        peers.turn(now());
        for (server, seen) in servers.iter_mut().zip(&mut seen) {
            seen.extend(server.requests());
        }
        if done(peers, &seen) {
            return;
        }
        std::thread::yield_now();
    }
    panic!("it does not come to that: {:?}", peers.status());
}

fn all_open(peers: &mut Peers, _: &[Vec<Header>]) -> bool {
    peers.status().iter().all(|peer| peer.state == "open")
}

/// Sent and ended are the same at rest.
fn assert_rest(peers: &Peers) {
    let Counters { sent, answered, timed_out, failed, .. } = peers.counters();
    assert_eq!(sent, answered + timed_out + failed);
    assert!(peers.status().iter().all(|peer| peer.in_flight == 0), "{:?}", peers.status());
}

fn told(peers: &mut Peers) -> Vec<String> {
    let word = |told| match told {
        Told::Answered { name, .. } => format!("answered {name}"),
        Told::TimedOut { name } => format!("timed out {name}"),
        Told::Lost { name, written } => format!("lost {name} {written}"),
        Told::Asked { .. } => "asked".to_owned(),
    };
    std::iter::from_fn(|| peers.poll()).map(word).collect()
}

#[test]
fn requests_are_answered_in_any_order_and_matched_by_both_identifiers() {
    let mut server = Server::new("ocs1.example.org");
    let mut peers = peers(&[(&server, 0)], 10);
    assert_eq!(peers.send(asked(0, 1000), now()), Err(Refused::NoPeer));
    until(&mut peers, &mut [&mut server], all_open);
    for name in 0..10 {
        peers.send(asked(name, 5000), now()).expect("room");
    }
    assert_eq!(peers.send(asked(10, 5000), now()), Err(Refused::Full));
    peers.flush(now());
    let mut requests = Vec::new();
    until(&mut peers, &mut [&mut server], |_, seen| {
        requests.clone_from(&seen[0]);
        seen[0].len() == 10
    });
    for request in requests.iter().rev() {
        server.answer(&Header { hop_by_hop: HopByHop(request.hop_by_hop.0 ^ 1 << 31), ..*request });
        server.answer(&Header { end_to_end: EndToEnd(request.end_to_end.0 ^ 1 << 31), ..*request });
        server.answer(request);
        server.answer(request);
    }
    until(&mut peers, &mut [&mut server], |peers, _| peers.counters().unmatched == 30);
    assert_eq!(told(&mut peers), (0..10).rev().map(|name| format!("answered {name}")).collect::<Vec<_>>());
    assert_rest(&peers);
}

#[test]
fn what_a_lost_peer_leaves_behind_moves_marked_and_in_order() {
    let (mut first, mut second) = (Server::new("ocs1.example.org"), Server::new("ocs2.example.org"));
    let mut peers = peers(&[(&second, 2), (&first, 1)], 10);
    until(&mut peers, &mut [&mut first, &mut second], all_open);
    for name in 0..3 {
        peers.send(asked(name, 5000), now()).expect("room");
    }
    // This one's session is with the first, and may not move.
    let bound = Outgoing { may_move: false, prefer: Some("ocs1.example.org".into()), ..asked(3, 5000) };
    peers.send(bound, now()).expect("room");
    let mut before = Vec::new();
    until(&mut peers, &mut [&mut first, &mut second], |_, seen| {
        before.clone_from(&seen[0]);
        seen[0].len() == 4
    });
    drop(first.stream.take());
    let mut after = Vec::new();
    until(&mut peers, &mut [&mut first, &mut second], |_, seen| {
        after.clone_from(&seen[1]);
        seen[1].len() == 3
    });
    let ids = |headers: &[Header]| headers.iter().map(|header| header.end_to_end).collect::<Vec<_>>();
    assert_eq!(ids(&after), ids(&before[..3]));
    assert!(after.iter().all(Header::is_retransmitted) && !before.iter().any(Header::is_retransmitted));
    after.iter().for_each(|request| second.answer(request));
    until(&mut peers, &mut [&mut first, &mut second], |peers, _| peers.counters().answered == 3);
    assert_eq!(told(&mut peers), ["lost 3 true", "answered 0", "answered 1", "answered 2"]);
    assert_eq!(peers.counters().moved, 3);
    // The first serves again as soon as it is back.
    until(&mut peers, &mut [&mut first, &mut second], all_open);
    peers.send(asked(9, 5000), now()).expect("room");
    let mut request = None;
    until(&mut peers, &mut [&mut first, &mut second], |_, seen| {
        request = seen[0].first().copied();
        request.is_some()
    });
    first.answer(&request.expect("one"));
    until(&mut peers, &mut [&mut first, &mut second], |peers, _| peers.counters().answered == 4);
    assert_rest(&peers);
}

#[test]
fn an_answer_that_comes_too_late_is_known_as_such() {
    let mut server = Server::new("ocs1.example.org");
    let mut peers = peers(&[(&server, 0)], 10);
    until(&mut peers, &mut [&mut server], all_open);
    peers.send(asked(1, 50), now()).expect("room");
    let mut request = None;
    until(&mut peers, &mut [&mut server], |peers, seen| {
        request = request.or(seen[0].first().copied());
        peers.counters().timed_out == 1
    });
    assert_eq!(told(&mut peers), ["timed out 1"]);
    server.answer(&request.expect("it was sent"));
    until(&mut peers, &mut [&mut server], |peers, _| peers.counters().late == 1);
    assert!(told(&mut peers).is_empty());
    assert_rest(&peers);
}

#[test]
fn nobody_there_is_said_plainly_and_tried_again() {
    let gone = Server::new("ocs1.example.org");
    let mut peers = peers(&[(&gone, 0)], 10);
    drop(gone);
    until(&mut peers, &mut [], |peers, _| peers.status()[0].last_error.contains("refused"));
    assert!(peers.deadline().is_some_and(|at| at > now()), "it tries again");
}

#[test]
fn a_name_that_is_none_stops_the_start() {
    let identity = Identity { host: "p".into(), realm: "r".into(), state_id: 1, watchdog: 30 };
    let peer = PeerConfig { host: String::new(), address: "no.such.invalid:1".into(), priority: 0, tls: false };
    let config = PeersConfig { identity, peers: vec![peer], tls: None, in_flight_max: 1 };
    let why = Peers::new(config, now()).err().expect("no such name");
    assert!(why.starts_with("parameter peer: 'no.such.invalid:1': "), "{why}");
}
