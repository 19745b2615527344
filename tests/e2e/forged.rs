//! Forged MSRP: the sender of a frame is decided by the connection that it arrives on, or by the addresses of `im_server`.
//! Content from an endpoint of a charged session never passes unpaid.

use super::sessions::in_lua;
use super::{ALICE, HOST, Stage, mixed, subscriber};
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::parties::msrp::{Frame, Reader, Writer, connection};
use imcharge_testkit::parties::server::{ImServer, Options as ServerOptions};
use imcharge_testkit::proxy::Setup;
use imcharge_testkit::proxy::{Host, Proxy};
use imcharge_testkit::{Events, eventually, unique};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::Duration;

/// Longest wait for an expected event.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a client is watched for content that must not arrive. Refused frames have been answered by then.
const QUIET: Duration = Duration::from_millis(200);

/// A connection to the relay on which any frame can be written.
struct Wire {
    reader: Reader,
    writer: Writer,
    address: SocketAddr,
}

impl Wire {
    fn to(relay: SocketAddr) -> Wire {
        Wire::from("127.0.0.1:0", relay)
    }

    /// Connects from this local address.
    fn from(local: &str, relay: SocketAddr) -> Wire {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let local: SocketAddr = local.parse().expect("an address");
        socket.bind(&local.into()).and_then(|()| socket.connect(&relay.into())).expect("the relay takes a connection");
        let (reader, writer) = connection(socket.into()).expect("a connection");
        let address = reader.local_address().expect("a local address");
        Wire { reader, writer, address }
    }

    /// Sends a frame and returns the status of the answer; 408: no answer.
    fn ask(&mut self, id: &str, frame: &[u8]) -> u16 {
        if self.writer.raw(frame).is_err() {
            return 408;
        }
        let mut status = 408;
        eventually(PATIENCE, || {
            let Ok(answer) = self.reader.next(Duration::from_millis(100)) else { return true };
            answer.filter(|answer| answer.id == id && answer.status() != 0).inspect(|answer| status = answer.status());
            status != 408
        });
        status
    }

    /// Sends a SEND and returns the status of the answer.
    fn send(&mut self, paths: &str, message_id: &str, range: &str, body: Option<&str>, flag: char) -> u16 {
        let id = format!("tr{}", unique());
        let frame = frame(&id, "SEND", paths, message_id, &format!("Byte-Range: {range}\r\n"), body, flag);
        self.ask(&id, frame.as_bytes())
    }

    /// Sends a whole message and returns the status of the answer.
    fn message(&mut self, paths: &str, message_id: &str) -> u16 {
        self.send(paths, message_id, "1-5/5", Some("hello"), '$')
    }

    /// Returns the next content that arrives within this time.
    fn next_content(&mut self, within: Duration) -> Option<Frame> {
        let mut found = None;
        eventually(within, || {
            let Ok(next) = self.reader.next(Duration::from_millis(20)) else { return true };
            found = next.filter(Frame::is_content);
            found.is_some()
        });
        found
    }
}

fn frame(id: &str, method: &str, paths: &str, message_id: &str, lines: &str, body: Option<&str>, flag: char) -> String {
    let body = body.map_or(String::new(), |body| format!("Content-Type: text/plain\r\n\r\n{body}\r\n"));
    format!("MSRP {id} {method}\r\n{paths}Message-ID: {message_id}\r\n{lines}{body}-------{id}{flag}\r\n")
}

/// Returns the paths of a frame from the server of this session to its client.
fn from_server(client: &ImClient) -> String {
    let (own, server) = client.msrp_paths();
    let (relay, server) = server.split_once(' ').expect("the relay comes before the server");
    format!("To-Path: {relay} {own}\r\nFrom-Path: {server}\r\n")
}

/// Returns the same with the relay before the server in From-Path, as on the second of two passes.
fn from_server_by_relay(client: &ImClient) -> String {
    let (own, server) = client.msrp_paths();
    format!("To-Path: {own}\r\nFrom-Path: {server}\r\n")
}

/// Returns every kind of frame that only the server may send, about a message that the client has received: name,
/// transaction id and octets.
fn forgeries(paths: &str, message_id: &str, transaction: &str) -> Vec<(&'static str, String, String)> {
    let id = || format!("tr{}", unique());
    let send = |name, range: &str, body, flag| {
        let (id, range) = (id(), format!("Byte-Range: {range}\r\n"));
        let frame = frame(&id, "SEND", paths, message_id, &range, body, flag);
        (name, id, frame)
    };
    let report = id();
    let status = "Byte-Range: 1-3/3\r\nStatus: 000 200 OK\r\n";
    let mut all = vec![
        send("an abort", "1-*/30", None, '#'),
        send("an abort after the last octet", "4-*/3", None, '#'),
        send("an abort with content", "1-*/30", Some("one"), '#'),
        send("the message once more", "1-3/3", Some("one"), '$'),
        send("more of the message", "4-6/*", Some("two"), '+'),
        send("an empty SEND", "1-0/0", None, '$'),
        ("a REPORT", report.clone(), frame(&report, "REPORT", paths, message_id, status, None, '$')),
    ];
    // proto_msrp of OpenSIPS identifies responses by their transaction id alone, and drops those without a transaction.
    if HOST.get() == Host::Kamailio {
        let response = format!("MSRP {transaction} 200 OK\r\n{paths}-------{transaction}$\r\n");
        all.push(("a response", transaction.to_owned(), response));
    }
    all
}

/// Sends every forgery about a message that the client has received, on the client's connection and on a new one. Asserts
/// that each is counted and has no other effect.
#[track_caller]
fn assert_that_forgeries_do_nothing(proxy: &Proxy, client: &mut ImClient, paths: &str, message: &Frame) {
    let forged = || proxy.statistic("frames_forged");
    let mut fresh = Wire::to(proxy.msrp);
    for own_connection in [true, false] {
        for (name, id, frame) in forgeries(paths, message.header("Message-ID"), &message.id) {
            let before = forged();
            let is_answered = frame.contains(" SEND\r\n") && !own_connection;
            match own_connection {
                true => client.write_raw(frame.as_bytes()),
                false if is_answered => assert_eq!(fresh.ask(&id, frame.as_bytes()), 403, "{name}\n{}", proxy.log()),
                false => fresh.writer.raw(frame.as_bytes()).expect("written"),
            }
            let counted = eventually(PATIENCE, || forged() == before + 1);
            assert!(counted, "{name}, own connection: {own_connection}: {} forged\n{}", forged() - before, proxy.log());
        }
    }
    assert!(client.next_send(QUIET).is_none(), "a forged frame was relayed");
}

/// Asserts that a client that sends forgeries before it answers a message still pays for the message.
fn assert_that_a_client_cannot_take_a_message_back(change: fn(Setup) -> Setup, via_relay: bool) {
    let stage = Stage::new(|setup| change(setup.defined("RESPONSE_TIMEOUT", "600")));
    stage.proxy.set_account(ALICE, 10);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|options| options.via_relay = via_relay);
    let message = client.next_send(PATIENCE).unwrap_or_else(|| panic!("a message\n{}", stage.proxy.log()));
    let paths = if via_relay { from_server_by_relay(&client) } else { from_server(&client) };
    assert_that_forgeries_do_nothing(&stage.proxy, &mut client, &paths, &message);
    stage.expect(ALICE, 0, 10, 0);
    client.answer(&message, 200);
    stage.expect(ALICE, 0, 9, 1);
    assert_eq!(stage.triggers(ALICE), ["response"]);
    let explained = stage.proxy.rpc(&["imcharge.explain", &client.call_id]).expect("it was charged");
    assert!(explained.contains("forged"), "{explained}");
    // All forgeries together are reported by one log line, which names the call.
    let log = stage.proxy.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("claims to come from the other side")).collect();
    assert!(lines.len() == 1 && lines[0].contains(&client.call_id), "{log}");
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 9, 0, 1);
}

#[test]
pub fn a_client_cannot_take_a_message_back_by_forged_frames() {
    assert_that_a_client_cannot_take_a_message_back(|setup| setup, false);
}

#[test]
pub fn a_client_cannot_take_a_message_back_where_other_msrp_is_relayed() {
    assert_that_a_client_cannot_take_a_message_back(mixed, false);
}

#[test]
fn a_client_cannot_take_a_message_back_in_lua() {
    assert_that_a_client_cannot_take_a_message_back(in_lua, false);
}

#[test]
pub fn a_client_cannot_pass_its_frames_off_as_those_of_the_relay() {
    assert_that_a_client_cannot_take_a_message_back(|setup| setup, true);
}

/// Starts a proxy whose IM server has the address 127.0.0.2 and whose client has 127.0.0.1. `known`: `im_server` is set.
fn with_server_of_another_address(known: bool, change: fn(Setup) -> Setup) -> Stage {
    let place = UdpSocket::bind("127.0.0.2:0").expect("a free port");
    let address = place.local_addr().expect("a bound socket has an address");
    let setup = change(super::setup(address).defined("RESPONSE_TIMEOUT", "600"));
    let setup = if known { setup.parameter("im_server", "\"127.0.0.2\"") } else { setup };
    let proxy = Proxy::start(setup).unwrap_or_else(|error| panic!("{error}"));
    Stage { proxy, place }
}

/// An IM server that accepts INVITEs and sends nothing; the test sends its MSRP over a separate connection.
fn silent_server(stage: &Stage) -> ImServer {
    let mut options = ServerOptions::new(stage.proxy.msrp, &[]);
    options.authenticates = HOST.get() == Host::OpenSips;
    ImServer::start(&stage.place, options, Events::default()).expect("a server on a free port")
}

/// Opens a session in which no frame has passed yet. The subscriber has 10 units, all of them reserved.
fn answered(stage: &Stage, id: &str) -> ImClient {
    stage.proxy.set_account(id, 10);
    let mut client = stage.client(id, |_| {});
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    client
}

#[test]
fn forger_before_the_first_frame_of_the_server_pays_for_what_it_gets() {
    let stage = with_server_of_another_address(false, |setup| setup);
    let _server = silent_server(&stage);
    let mut client = answered(&stage, ALICE);
    let paths = from_server(&client);
    // The first connection that claims to be the server is accepted, and its messages are charged.
    let mut forger = Wire::to(stage.proxy.msrp);
    assert_eq!(forger.message(&paths, "early1"), 200, "{}", stage.proxy.log());
    let message = client.next_send(PATIENCE).expect("it was relayed");
    client.answer(&message, 200);
    stage.expect(ALICE, 0, 9, 1);
    // Messages of the real server are stopped meanwhile, so the client receives nothing unpaid.
    let mut server = Wire::from("127.0.0.2:0", stage.proxy.msrp);
    assert_eq!(server.message(&paths, "late1"), 403, "{}", stage.proxy.log());
    assert!(client.next_send(QUIET).is_none());
    // Once the accepted connection is closed, the server is accepted again.
    drop(forger);
    let mut number = 1;
    let passes = eventually(PATIENCE, || {
        number += 1;
        server.message(&paths, &format!("late{number}")) == 200
    });
    assert!(passes, "{}", stage.proxy.log());
    let message = client.next_send(PATIENCE).expect("it was relayed");
    client.answer(&message, 200);
    stage.expect(ALICE, 0, 8, 2);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 8, 0, 2);
}

#[test]
pub fn with_im_server_frames_of_other_addresses_are_never_the_servers() {
    let stage = with_server_of_another_address(true, |setup| setup);
    let _server = silent_server(&stage);
    let mut client = answered(&stage, ALICE);
    let paths = from_server(&client);
    let mut forger = Wire::to(stage.proxy.msrp);
    assert_eq!(forger.message(&paths, "early1"), 403, "{}", stage.proxy.log());
    let mut first = Wire::from("127.0.0.2:0", stage.proxy.msrp);
    assert_eq!(first.message(&paths, "message1"), 200, "{}", stage.proxy.log());
    let message = client.next_send(PATIENCE).expect("it was relayed");
    assert_that_forgeries_do_nothing(&stage.proxy, &mut client, &paths, &message);
    client.answer(&message, 200);
    stage.expect(ALICE, 0, 9, 1);
    // A second connection of the server is accepted while the first one is open, because that may be half-open.
    let mut second = Wire::from("127.0.0.2:0", stage.proxy.msrp);
    assert_eq!(second.message(&paths, "message2"), 200, "{}", stage.proxy.log());
    let message = client.next_send(PATIENCE).expect("it was relayed");
    assert_that_forgeries_do_nothing(&stage.proxy, &mut client, &paths, &message);
    client.answer(&message, 200);
    stage.expect(ALICE, 0, 8, 2);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 8, 0, 2);
}

#[test]
pub fn many_sessions_on_one_server_connection_survive_its_reconnect() {
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    let _server = silent_server(&stage);
    let ids: Vec<String> = (0..5).map(|_| subscriber()).collect();
    let mut clients: Vec<ImClient> = ids.iter().map(|id| answered(&stage, id)).collect();
    let mut first = Wire::to(stage.proxy.msrp);
    for (client, id) in clients.iter_mut().zip(&ids) {
        assert_eq!(first.message(&from_server(client), "message1"), 200, "{}", stage.proxy.log());
        let message = client.next_send(PATIENCE).expect("it was relayed");
        client.answer(&message, 200);
        stage.expect(id, 0, 9, 1);
    }
    // One more message, which is not answered before the connection is closed.
    assert_eq!(first.message(&from_server(&clients[0]), "message2"), 200);
    let unanswered = clients[0].next_send(PATIENCE).expect("it was relayed");
    // A server is not accepted on a new connection while the proxy still considers its old one open.
    let mut second = Wire::to(stage.proxy.msrp);
    assert_eq!(second.message(&from_server(&clients[1]), "half-open"), 403, "{}", stage.proxy.log());
    drop(first);
    for (client, id) in clients.iter_mut().zip(&ids) {
        let mut number = 2;
        let passes = eventually(PATIENCE, || {
            number += 1;
            second.message(&from_server(client), &format!("message{number}")) == 200
        });
        assert!(passes, "{id}\n{}", stage.proxy.log());
        let message = client.next_send(PATIENCE).expect("it was relayed");
        assert_that_forgeries_do_nothing(&stage.proxy, client, &from_server(client), &message);
        client.answer(&message, 200);
    }
    clients[0].answer(&unanswered, 200);
    for (at, (client, id)) in clients.iter_mut().zip(&ids).enumerate() {
        let debited = if at == 0 { 3 } else { 2 };
        stage.expect(id, 0, 10 - debited, debited);
        assert_eq!(client.bye(), 200);
        stage.expect(id, 10 - debited, 0, debited);
    }
    // The message without an answer is debited when the server's connection is lost.
    assert_eq!(stage.triggers(&ids[0]).iter().filter(|trigger| *trigger == "close").count(), 1);
}

#[test]
fn a_relay_near_the_client_that_answers_itself_is_the_trigger() {
    let stage = Stage::new(|setup| setup.defined("RESPONSE_TIMEOUT", "600"));
    stage.proxy.set_account(ALICE, 10);
    let _server = silent_server(&stage);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let relay = format!("msrp://{}/second;tcp", listener.local_addr().expect("an address"));
    let mut client = stage.client(ALICE, |options| {
        options.path = Some(format!("{relay} msrp://client.example.org:9/C{};tcp", unique()));
    });
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    let mut server = Wire::to(stage.proxy.msrp);
    assert_eq!(server.message(&from_server(&client), "message1"), 200, "{}", stage.proxy.log());
    let (mut reader, writer) = connection(listener.accept().expect("the proxy connects").0).expect("a connection");
    let message = reader.next(PATIENCE).expect("open").expect("a message");
    // A response with another transaction id triggers no debit.
    let other = Frame { id: format!("tr{}", unique()), ..message.clone() };
    writer.answer(&other, 200, &relay, false).expect("written");
    writer.answer(&message, 200, &relay, false).expect("written");
    stage.expect(ALICE, 0, 9, 1);
    assert_eq!(stage.triggers(ALICE), ["response"]);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 9, 0, 1);
}

/// Content that no live reservation pays for is stopped: from a server to a former endpoint of the client, and after the
/// session.
fn assert_that_nothing_passes_unpaid(known: bool, change: fn(Setup) -> Setup) {
    let stage = with_server_of_another_address(known, change);
    let _server = silent_server(&stage);
    let mut client = answered(&stage, ALICE);
    let (before, own) = (from_server(&client), client.msrp_paths().0.to_owned());
    let mut server = Wire::from("127.0.0.2:0", stage.proxy.msrp);
    assert_eq!(server.message(&before, "message1"), 200, "{}", stage.proxy.log());
    let message = client.next_send(PATIENCE).expect("it was relayed");
    client.answer(&message, 200);
    stage.expect(ALICE, 0, 9, 1);
    // The client moves to another session on the same connection, where the relay would find it.
    let address = own.rsplit_once('/').expect("a session").0;
    assert_eq!(client.reinvite_with_path(&format!("{address}/moved{};tcp", unique())), 200, "{}", stage.proxy.log());
    let after = from_server(&client);
    let unattributed = stage.proxy.statistic("frames_unattributed");
    assert_eq!(server.message(&before, "message2"), 481, "{}", stage.proxy.log());
    assert_eq!(stage.proxy.statistic("frames_unattributed"), unattributed + 1);
    assert_eq!(server.message(&after, "message3"), 200, "{}", stage.proxy.log());
    let message = client.next_send(PATIENCE).expect("it was relayed");
    assert_eq!(message.header("Message-ID"), "message3");
    client.answer(&message, 200);
    stage.expect(ALICE, 0, 8, 2);
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 8, 0, 2);
    for paths in [&before, &after] {
        assert!(server.message(paths, "message4") >= 400, "{}", stage.proxy.log());
    }
    // To an unknown session.
    if known {
        let unknown = after.replace(client.msrp_paths().0, &format!("{address}/unknown;tcp"));
        assert_eq!(server.message(&unknown, "message5"), 481, "{}", stage.proxy.log());
    }
    assert!(client.next_send(QUIET).is_none(), "content passed unpaid");
    stage.expect(ALICE, 8, 0, 2);
}

#[test]
fn nothing_passes_unpaid_to_a_former_endpoint_or_after_the_session() {
    assert_that_nothing_passes_unpaid(false, |setup| setup);
}

#[test]
fn nothing_passes_unpaid_where_other_msrp_is_relayed() {
    assert_that_nothing_passes_unpaid(false, mixed);
    assert_that_nothing_passes_unpaid(true, mixed);
}

/// An endpoint that the client describes within the dialog counts too: with `refuse`, messages to it are stopped.
#[test]
pub fn client_that_bypasses_the_relay_is_counted_and_refused_if_configured() {
    for (value, refuses) in [("allow", false), ("refuse", true)] {
        let stage = Stage::new(|setup| setup.parameter("bypass", &format!("\"{value}\"")));
        let without_relay = || stage.proxy.statistic("paths_without_relay");
        stage.proxy.set_account(ALICE, 10);
        let server = stage.server(&["one"], |_| {});
        let mut outside = stage.client(ALICE, |options| {
            options.authenticates = false;
            options.path = Some(format!("msrp://127.0.0.1:9/C{};tcp", unique()));
        });
        assert_eq!(outside.invite(), if refuses { 488 } else { 200 }, "{}", stage.proxy.log());
        assert_eq!(without_relay(), 1);
        assert_eq!(server.invites(), usize::from(!refuses));
        outside.bye();
        stage.expect(ALICE, 10, 0, 0);
        let mut client = stage.bound(|options| options.via_relay = true);
        assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
        assert_eq!(without_relay(), 1);
        let own = client.msrp_paths().0.rsplit(' ').next().expect("a URI");
        let moved = format!("{}/moved{};tcp", own.rsplit_once('/').expect("a session").0, unique());
        assert_eq!(client.reinvite_with_path(&moved), 200, "{}", stage.proxy.log());
        assert_eq!(without_relay(), 2);
        // msrp_relay of OpenSIPS pairs the sessions of server and client, so no frame is sent to another endpoint.
        if HOST.get() == Host::Kamailio {
            client.bind();
            let count = usize::from(!refuses);
            assert_eq!(client.take(1, Reaction::Answer(200)).len(), count, "{value}\n{}", stage.proxy.log());
        }
        client.bye();
        stage.expect(ALICE, 9, 0, 1);
    }
}

/// Returns the paths of a frame between two parties that use the relay and are not charged.
fn between(relay: SocketAddr, from: &str, to: &str) -> String {
    format!("To-Path: msrp://{relay}/chat;tcp {to}\r\nFrom-Path: {from}\r\n")
}

#[test]
fn msrp_of_others_is_relayed_whatever_a_subscriber_describes_or_sends() {
    assert_that_msrp_of_others_is_relayed(mixed);
}

#[test]
fn msrp_of_others_is_relayed_in_lua() {
    assert_that_msrp_of_others_is_relayed(|setup| mixed(in_lua(setup)));
}

fn assert_that_msrp_of_others_is_relayed(change: fn(Setup) -> Setup) {
    let stage = with_server_of_another_address(true, change);
    let relay = stage.proxy.msrp;
    let _server = silent_server(&stage);
    let (mut bob, mut carol) = (Wire::to(relay), Wire::to(relay));
    let uri = |wire: &Wire, name: &str| format!("msrp://{}/{name};tcp", wire.address);
    let (bobs, carols) = (uri(&bob, "bob"), uri(&carol, "carol"));
    let chat = |from: &mut Wire, paths: &str, to: &mut Wire| {
        // Not charged: the length of a Message-ID does not matter here.
        let message_id = format!("chat{}{}", unique(), "x".repeat(40));
        assert_eq!(from.message(paths, &message_id), 200, "{}", stage.proxy.log());
        let found = to.next_content(PATIENCE).expect("it was relayed");
        assert_eq!(found.header("Message-ID"), message_id);
    };
    let (there, back) = (between(relay, &bobs, &carols), between(relay, &carols, &bobs));
    chat(&mut bob, &there, &mut carol);
    // Mallory describes the URI of one of the two as her own.
    for claimed in [&bobs, &carols] {
        let id = subscriber();
        stage.proxy.set_account(&id, 10);
        let mut mallory = stage.client(&id, |options| options.path = Some(claimed.clone()));
        assert_eq!(mallory.invite(), 200, "{}", stage.proxy.log());
        chat(&mut bob, &there, &mut carol);
        chat(&mut carol, &back, &mut bob);
        stage.expect(&id, 0, 10, 0);
        assert_eq!(mallory.bye(), 200, "{}", stage.proxy.log());
        stage.expect(&id, 10, 0, 0);
    }
    chat(&mut carol, &back, &mut bob);
}

#[test]
fn a_message_id_that_is_too_long_is_a_bad_request_and_costs_nothing() {
    for change in [|setup| setup, mixed, in_lua] {
        let stage = with_server_of_another_address(false, change);
        let _server = silent_server(&stage);
        let mut client = answered(&stage, ALICE);
        let paths = from_server(&client);
        let mut server = Wire::from("127.0.0.2:0", stage.proxy.msrp);
        assert_eq!(server.message(&paths, &"m".repeat(33)), 400, "{}", stage.proxy.log());
        assert_eq!(server.message(&paths, &"m".repeat(32)), 200, "{}", stage.proxy.log());
        let message = client.next_send(PATIENCE).expect("it was relayed");
        client.answer(&message, 200);
        stage.expect(ALICE, 0, 9, 1);
        assert_eq!(client.take(0, Reaction::Silence), []);
        assert_eq!(client.bye(), 200);
        stage.expect(ALICE, 9, 0, 1);
    }
}
