//! The connection against bytes that a server would send, to the second.

use super::*;
use crate::wire::diameter::base::ReAuthRequest;
use crate::wire::diameter::words::ReAuthRequestType;
use proptest::prelude::*;

const NOW: Time = Time(1_000_000_000);
const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// Seconds after the connection was made.
fn s(seconds: u64) -> Time {
    Time(NOW.0 + seconds * 1_000_000)
}

fn peer() -> Peer {
    let (host, realm) = ("proxy.example.org".into(), "example.org".into());
    let identity = Rc::new(Identity { host, realm, state_id: 7, watchdog: 30 });
    Peer::connected(identity, "ocs.example.org", false, LOCAL, NOW)
}

/// Takes what it has written: the headers of its messages.
fn written(peer: &mut Peer) -> Vec<Header> {
    let bytes = std::mem::take(peer.output());
    let (mut rest, mut headers) = (bytes.as_slice(), Vec::new());
    while let Framed::Message(length) = frame(rest) {
        headers.push(Message::parse(&rest[..length]).expect("whole").header);
        rest = &rest[length..];
    }
    assert!(rest.is_empty(), "whole messages only");
    headers
}

fn events(peer: &mut Peer) -> Vec<Happened> {
    std::iter::from_fn(|| peer.poll()).collect()
}

/// An answer of the server to this request.
fn answer(to: &Header, write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::answer(&mut bytes, to);
    write(&mut writer);
    writer.finish().expect("short");
    bytes
}

fn capabilities(to: &Header, host: &str, result: ResultCode, application: u32) -> Vec<u8> {
    let body = CapabilitiesExchangeAnswer {
        result_code: result,
        origin_host: host,
        origin_realm: "example.org",
        auth_application_id: vec![application],
        ..Default::default()
    };
    answer(to, |writer| body.write(writer))
}

fn alive(to: &Header) -> Vec<u8> {
    let body = PeerAnswer {
        result_code: ResultCode::SUCCESS,
        origin_host: "ocs.example.org",
        origin_realm: "example.org",
        ..Default::default()
    };
    answer(to, |writer| body.write(writer))
}

/// A request of the server.
fn request(command: Command, write: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = Writer::request(&mut bytes, command, Flags::default(), 0, HopByHop(5), EndToEnd(6));
    write(&mut writer);
    writer.finish().expect("short");
    bytes
}

/// Capabilities are exchanged.
fn open() -> Peer {
    let mut peer = peer();
    let cer = written(&mut peer).remove(0);
    peer.received(&capabilities(&cer, "ocs.example.org", ResultCode::SUCCESS, 4), NOW);
    assert_eq!(events(&mut peer), [Happened::Opened]);
    peer
}

fn closed(peer: &mut Peer) -> String {
    match events(peer).pop() {
        Some(Happened::Close(why)) => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn capabilities_come_first_and_only_a_success_opens() {
    let mut peer = peer();
    let cer = written(&mut peer);
    assert_eq!((cer.len(), cer[0].command, cer[0].application), (1, Command::CAPABILITIES_EXCHANGE, 0));
    assert!(!peer.is_open());
    for (host, result, application, why) in [
        ("ocs.example.org", ResultCode::UNKNOWN_PEER, 4, "refused: UNKNOWN_PEER (3010)"),
        ("evil.example.org", ResultCode::SUCCESS, 4, "answers as evil.example.org, not as ocs.example.org"),
        ("ocs.example.org", ResultCode::SUCCESS, 1, "does not serve credit control (application 4)"),
    ] {
        let mut peer = self::peer();
        let cer = written(&mut peer).remove(0);
        peer.received(&capabilities(&cer, host, result, application), NOW);
        assert_eq!(closed(&mut peer), why);
        assert!(!peer.is_open() && peer.deadline().is_none());
    }
    let relay = capabilities(&cer[0], "OCS.example.org", ResultCode::SUCCESS, dictionary::APPLICATION_RELAY);
    peer.received(&relay, NOW);
    assert_eq!(events(&mut peer), [Happened::Opened]);
    let mut late = self::peer();
    late.timer(s(4));
    assert!(events(&mut late).is_empty());
    late.timer(s(5));
    assert_eq!(closed(&mut late), "no answer to the exchange of capabilities");
}

#[test]
fn a_message_in_pieces_is_the_same_message() {
    let mut peer = peer();
    let cer = written(&mut peer).remove(0);
    for octet in capabilities(&cer, "ocs.example.org", ResultCode::SUCCESS, 4) {
        assert!(events(&mut peer).is_empty());
        peer.received(&[octet], NOW);
    }
    assert_eq!(events(&mut peer), [Happened::Opened]);
}

#[test]
fn silence_is_asked_about_then_suspected_then_closed() {
    let mut peer = open();
    peer.timer(s(27));
    assert!(written(&mut peer).is_empty());
    // Tw is 30 s, two more or less.
    peer.timer(s(32));
    assert_eq!(written(&mut peer)[0].command, Command::DEVICE_WATCHDOG);
    peer.timer(s(59));
    assert!(peer.is_open());
    peer.timer(s(64));
    assert_eq!((events(&mut peer), peer.is_open(), peer.word()), (vec![Happened::Suspect], false, "suspect"));
    peer.timer(s(96));
    assert_eq!(closed(&mut peer), "no answer to the watchdog");
    assert!(peer.was_silent());
}

#[test]
fn who_was_silent_is_trusted_after_three_answers() {
    let (host, realm) = ("proxy.example.org".into(), "example.org".into());
    let identity = Rc::new(Identity { host, realm, state_id: 7, watchdog: 30 });
    let mut peer = Peer::connected(identity, "", true, LOCAL, NOW);
    let cer = written(&mut peer).remove(0);
    peer.received(&capabilities(&cer, "ocs.example.org", ResultCode::SUCCESS, 4), NOW);
    for at in [0, 33, 66] {
        assert!(peer.is_open() && peer.is_on_probation());
        peer.timer(s(at));
        let dwr = written(&mut peer).remove(0);
        assert_eq!(dwr.command, Command::DEVICE_WATCHDOG);
        peer.received(&alive(&dwr), s(at));
    }
    assert!(!peer.is_on_probation());
}

#[test]
fn any_message_ends_the_suspicion() {
    let mut peer = open();
    peer.timer(s(32));
    let dwr = written(&mut peer).remove(0);
    peer.received(&alive(&dwr), s(33));
    peer.timer(s(60));
    assert!(events(&mut peer).is_empty() && written(&mut peer).is_empty());
    peer.timer(s(65));
    peer.timer(s(97));
    assert_eq!(events(&mut peer), [Happened::Suspect]);
    let dwr = written(&mut peer).remove(0);
    peer.received(&alive(&dwr), s(98));
    assert_eq!((events(&mut peer), peer.is_open()), (vec![Happened::Opened], true));
}

#[test]
fn the_servers_own_questions_are_answered() {
    let mut peer = open();
    let (origin_host, origin_realm) = ("ocs.example.org", "example.org");
    let dwr = DeviceWatchdogRequest { origin_host, origin_realm, origin_state_id: None };
    peer.received(&request(Command::DEVICE_WATCHDOG, |writer| dwr.write(writer)), s(1));
    let answer = written(&mut peer).remove(0);
    assert!(!answer.is_request() && !answer.is_error());
    assert_eq!(
        (answer.command, answer.hop_by_hop, answer.end_to_end),
        (Command::DEVICE_WATCHDOG, HopByHop(5), EndToEnd(6))
    );
    peer.received(&request(Command(999), |_| {}), s(1));
    assert!(written(&mut peer)[0].is_error(), "COMMAND_UNSUPPORTED");
    let rar = ReAuthRequest {
        session_id: "x",
        origin_host,
        origin_realm,
        destination_realm: "example.org",
        destination_host: "proxy.example.org",
        auth_application_id: 4,
        re_auth_request_type: ReAuthRequestType::AUTHORIZE_ONLY,
        ..Default::default()
    };
    peer.received(&request(Command::RE_AUTH, |writer| rar.write(writer)), s(1));
    assert!(matches!(events(&mut peer).as_slice(), [Happened::Request(_)]));
    let disconnect_cause = DisconnectCause::BUSY;
    let dpr = DisconnectPeerRequest { origin_host, origin_realm, disconnect_cause };
    peer.received(&request(Command::DISCONNECT_PEER, |writer| dpr.write(writer)), s(2));
    assert_eq!(events(&mut peer), [Happened::Leaves(DisconnectCause::BUSY)]);
    assert_eq!(written(&mut peer)[0].command, Command::DISCONNECT_PEER);
    assert!(!peer.is_open());
}

#[test]
fn leave_is_taken_and_confirmed() {
    let mut peer = open();
    peer.leave(s(1));
    let dpr = written(&mut peer).remove(0);
    assert!(dpr.is_request() && dpr.command == Command::DISCONNECT_PEER && !peer.is_open());
    peer.received(&alive(&dpr), s(1));
    assert_eq!(closed(&mut peer), "left");
}

#[test]
fn a_stream_out_of_step_is_closed_with_the_reason() {
    for (bytes, why) in [
        (b"HTTP/1.1 200".as_slice(), "Diameter version 72"),
        (&[1, 0, 0, 8, 0, 0, 0, 0], "a message of 8 octets"),
        (&[1, 0xf4, 0x24, 0, 0, 0, 0, 0], "a message of 16000000 octets"),
    ] {
        let mut peer = open();
        peer.received(bytes, s(1));
        let said = closed(&mut peer);
        assert!(said.starts_with(why), "{said}");
    }
}

#[test]
fn a_request_is_stamped_and_marked_when_it_is_sent_again() {
    let mut peer = open();
    let asked = request(Command::CREDIT_CONTROL, |_| {});
    let first = peer.send(&asked, EndToEnd(77), false);
    let second = peer.send(&asked, EndToEnd(77), true);
    let headers = written(&mut peer);
    assert_eq!(
        (headers[0].hop_by_hop, headers[0].end_to_end, headers[0].is_retransmitted()),
        (first, EndToEnd(77), false)
    );
    assert_eq!(
        (headers[1].hop_by_hop, headers[1].end_to_end, headers[1].is_retransmitted()),
        (second, EndToEnd(77), true)
    );
    assert_ne!(first, second);
}

proptest! {
    #[test]
    fn no_bytes_and_no_order_of_things_make_it_panic(
        steps in prop::collection::vec((0u8..4, prop::collection::vec(any::<u8>(), 0..64), 0u64..100), 0..40),
    ) {
        let mut peer = open();
        let mut now = NOW;
        for (what, bytes, seconds) in steps {
            now = Time(now.0 + seconds * 1_000_000);
            match what {
                0 => peer.received(&bytes, now),
                1 => peer.timer(now),
                2 => peer.leave(now),
                _ => {
                    let header = written(&mut peer).pop();
                    if let Some(header) = header.filter(Header::is_request) {
                        peer.received(&alive(&header), now);
                    }
                }
            }
            let _ = events(&mut peer);
        }
    }
}
