//! One peer: states, and the octets of both ends.

use super::*;
use crate::enabler::diameter::client::fake_peer::*;
use crate::wire::diameter::base::{Answer, CapabilitiesExchangeAnswer, CapabilitiesExchangeRequest};
use crate::wire::diameter::dictionary::APPLICATION_RELAY;
use crate::wire::diameter::{Address, Outcome};

const START: Time = Time(1_000_000_000);

fn seconds(seconds: u32) -> Time {
    START.after_seconds(seconds)
}

/// A peer whose identity must be HOST.
fn peer() -> Peer {
    let node = LocalNode::new(&config(&[HOST]), 42, START);
    Peer::new(Rc::new(node), HOST, 30, 5)
}

/// Takes the queued messages.
fn output(peer: &mut Peer) -> Vec<Vec<u8>> {
    let sent = messages(peer.output());
    peer.wrote(peer.output().len());
    sent
}

fn one(peer: &mut Peer) -> Vec<u8> {
    let mut sent = output(peer);
    assert_eq!(sent.len(), 1);
    sent.remove(0)
}

fn events(peer: &mut Peer) -> Vec<Event> {
    std::iter::from_fn(|| peer.next_event()).collect()
}

fn why(peer: &Peer) -> &str {
    &peer.close_reason().expect("a reason to close").why
}

fn connect(peer: &mut Peer, now: Time) {
    peer.connected(OWN_ADDRESS, now);
    let cer = one(peer);
    peer.received(&cea(&cer, HOST, |_| {}), now);
    assert_eq!(events(peer), [Event::Ready]);
}

fn open() -> Peer {
    let mut peer = peer();
    connect(&mut peer, START);
    peer
}

/// Advances to the next deadline.
fn expire(peer: &mut Peer) -> Time {
    let at = peer.deadline().expect("a deadline");
    peer.timer(Time(at.0 - 1));
    assert_eq!(peer.output(), b"", "nothing happens before the deadline");
    peer.timer(at);
    at
}

/// Checks that `at` is Tw after `from`, within the jitter.
#[track_caller]
fn assert_watchdog(at: Time, from: Time) {
    let micros = at.micros_since(from);
    assert!((28_000_000..=32_000_000).contains(&micros), "{micros} microseconds");
}

#[test]
fn first_message_is_the_cer() {
    let mut peer = peer();
    peer.connected(OWN_ADDRESS, START);
    let cer = one(&mut peer);
    let message = Message::parse(&cer).expect("whole");
    assert_eq!(message.header.flags, Flags::REQUEST);
    assert_eq!((message.header.application, message.header.command), (0, Command::CAPABILITIES_EXCHANGE));
    let body = CapabilitiesExchangeRequest::decode(&message).expect("readable");
    assert_eq!((body.origin_host, body.origin_realm), ("imcharge.example.com", "example.com"));
    assert_eq!(body.host_ip_address, [Address::Ip(OWN_ADDRESS)]);
    assert_eq!((body.product_name, body.vendor_id, body.origin_state_id), ("imcharge", 0, Some(42)));
    assert_eq!((body.auth_application_id, body.inband_security_id), (vec![4], vec![0]));
    assert_eq!((body.vendor_specific_application_id, body.supported_vendor_id), (vec![], vec![]));
    assert_eq!((peer.state_name(), peer.fitness()), ("WAIT_CEA", Fitness::Unfit));
}

#[test]
fn vendor_specific_application_is_advertised_if_configured() {
    let config = super::super::config::Config { vendor_specific_application: true, ..config(&[HOST]) };
    let mut peer = Peer::new(Rc::new(LocalNode::new(&config, 1, START)), HOST, 30, 5);
    peer.connected(OWN_ADDRESS, START);
    let cer = one(&mut peer);
    let message = Message::parse(&cer).expect("whole");
    let body = CapabilitiesExchangeRequest::decode(&message).expect("readable");
    let offered: Vec<_> =
        body.vendor_specific_application_id.iter().flat_map(|id| id.auth_application_id.clone()).collect();
    assert_eq!((offered, body.supported_vendor_id), (vec![4], vec![10_415]));
}

#[test]
fn cea_opens_or_closes_the_connection() {
    type Change = fn(&mut CapabilitiesExchangeAnswer<'_>);
    let vendors = |id| crate::wire::diameter::base::VendorSpecificApplication {
        vendor_id: vec![10_415],
        auth_application_id: vec![id],
        acct_application_id: Vec::new(),
    };
    let cases: Vec<(Change, Result<(), &str>)> = vec![
        (|_| {}, Ok(())),
        (|cea| cea.result_code = ResultCode::LIMITED_SUCCESS, Ok(())),
        (|cea| cea.origin_host = "OCS1.Example.ORG", Ok(())),
        (|cea| cea.auth_application_id = vec![1, APPLICATION_RELAY], Ok(())),
        (|cea| cea.origin_host = OTHER, Err("its Origin-Host is \"ocs2.example.org\", not ocs1.example.org")),
        (|cea| cea.origin_host = "a\nb", Err("its Origin-Host is \"a\\nb\", not ocs1.example.org")),
        (|cea| cea.result_code = ResultCode::UNKNOWN_PEER, Err("it refuses the connection: UNKNOWN_PEER (3010)")),
        (
            |cea| cea.result_code = ResultCode::NO_COMMON_APPLICATION,
            Err("it refuses the connection: NO_COMMON_APPLICATION (5010)"),
        ),
        (
            |cea| cea.auth_application_id = vec![3],
            Err("it supports neither credit control (application 4) nor relaying"),
        ),
    ];
    for (change, expected) in cases {
        let mut peer = peer();
        peer.connected(OWN_ADDRESS, START);
        let cer = one(&mut peer);
        peer.received(&cea(&cer, HOST, change), START);
        match expected {
            Ok(()) => assert_eq!((peer.fitness(), peer.close_reason()), (Fitness::Fit, None)),
            Err(expected) => assert_eq!((peer.fitness(), why(&peer)), (Fitness::Unfit, expected)),
        }
    }
    let mut peer = peer();
    peer.connected(OWN_ADDRESS, START);
    let cer = one(&mut peer);
    let change = |cea: &mut CapabilitiesExchangeAnswer<'_>| {
        cea.auth_application_id.clear();
        cea.vendor_specific_application_id = vec![vendors(4)];
    };
    peer.received(&cea(&cer, HOST, change), START);
    assert_eq!(peer.fitness(), Fitness::Fit);
}

#[test]
fn unrelated_vendor_specific_applications_are_ignored() {
    use crate::wire::diameter::dictionary as avp;
    let groups: [fn(&mut Writer<'_>); 4] = [
        // The grammar of RFC 3588.
        |group| [10_415, 13_019].iter().for_each(|vendor| group.u32(avp::VENDOR_ID, *vendor)),
        |group| {
            [16_777_251, 16_777_216].iter().for_each(|id| group.u32(avp::AUTH_APPLICATION_ID, *id));
            group.u32(avp::ACCT_APPLICATION_ID, 3);
        },
        |group| group.octets(avp::AUTH_APPLICATION_ID, &[1]),
        |_| {},
    ];
    for (at, group) in groups.into_iter().enumerate() {
        let mut peer = peer();
        peer.connected(OWN_ADDRESS, START);
        let cer = one(&mut peer);
        let cea = answer(&cer, |out| {
            out.u32(avp::RESULT_CODE, 2001);
            out.text(avp::ORIGIN_HOST, HOST);
            out.text(avp::ORIGIN_REALM, REALM);
            out.group(avp::VENDOR_SPECIFIC_APPLICATION_ID, group);
            out.u32(avp::AUTH_APPLICATION_ID, 4);
        });
        peer.received(&cea, START);
        assert_eq!((peer.fitness(), peer.close_reason()), (Fitness::Fit, None), "group {at}");
    }
}

#[test]
fn first_message_must_be_the_cea() {
    let early = |first: fn(&[u8]) -> Vec<u8>| {
        let mut peer = peer();
        peer.connected(OWN_ADDRESS, START);
        let cer = one(&mut peer);
        peer.received(&first(&cer), START);
        assert_eq!(peer.output(), b"");
        why(&peer).to_owned()
    };
    let end = " instead of the Capabilities-Exchange-Answer";
    assert_eq!(early(|_| dwr(HOST, 1)), format!("it sent {}{end}", header(&dwr(HOST, 1))));
    assert!(early(|cer| cer.to_vec()).contains("request 257"));
    let mut other = |at: usize| {
        let mut peer = peer();
        peer.connected(OWN_ADDRESS, START);
        let mut bytes = cea(&one(&mut peer), HOST, |_| {});
        bytes[at] ^= 1;
        peer.received(&bytes, START);
        assert!(why(&peer).ends_with(end), "an identifier that differs in octet {at}");
    };
    (12..20).for_each(&mut other);
}

#[test]
fn missing_cea_closes_the_connection() {
    let mut peer = peer();
    peer.connected(OWN_ADDRESS, START);
    output(&mut peer);
    assert_eq!(expire(&mut peer), seconds(5));
    assert_eq!(why(&peer), "no Capabilities-Exchange-Answer within 5 s");
    peer.closed();
    assert_eq!((peer.state_name(), peer.deadline()), ("INITIAL", None));
}

#[test]
fn messages_are_read_in_any_pieces() {
    let mut whole = open();
    let stream: Vec<u8> = (1..4).flat_map(|id| dwr(HOST, id)).collect();
    for size in [1, 3, 19, 20, 21, 64] {
        let mut peer = open();
        stream.chunks(size).for_each(|piece| peer.received(piece, seconds(1)));
        whole.received(&stream, seconds(1));
        assert_eq!(output(&mut peer), output(&mut whole));
    }
}

#[test]
fn watchdog_request_is_answered() {
    let mut peer = open();
    let asked = dwr(HOST, 77);
    peer.received(&asked, seconds(3));
    let dwa = one(&mut peer);
    let message = Message::parse(&dwa).expect("whole");
    let body = PeerAnswer::decode(&message).expect("readable").body;
    assert_eq!((body.result_code, body.origin_state_id), (ResultCode::SUCCESS, Some(42)));
    assert_eq!(ids(&message.header), ids(&header(&asked)));
    assert_watchdog(peer.deadline().expect("a deadline"), seconds(3));
}

#[test]
fn silence_leads_to_suspect_then_down_and_three_answers_to_okay() {
    let mut peer = open();
    assert_eq!(peer.state_name(), "OKAY");
    let asked_at = expire(&mut peer);
    assert_watchdog(asked_at, START);
    assert_eq!(header(&one(&mut peer)).command, Command::DEVICE_WATCHDOG);
    let suspect_at = expire(&mut peer);
    assert_watchdog(suspect_at, asked_at);
    assert_eq!((peer.state_name(), peer.fitness()), ("SUSPECT", Fitness::Unfit));
    assert_eq!(events(&mut peer), [Event::FailOver(SILENT)]);
    assert_eq!(output(&mut peer), Vec::<Vec<u8>>::new(), "one watchdog request is sent");
    let down_at = expire(&mut peer);
    assert_watchdog(down_at, suspect_at);
    assert_eq!((peer.state_name(), why(&peer)), ("DOWN", "no answer to the watchdog for two intervals"));
    assert_eq!(peer.closed(), ReconnectDelay::default());

    connect_again(&mut peer, down_at);
    let mut at = down_at;
    for answers in 1..=3 {
        assert_eq!((peer.state_name(), peer.fitness()), ("REOPEN", Fitness::Probation));
        let dwr = one(&mut peer);
        peer.received(&peer_answer(&dwr, HOST), at);
        if answers < 3 {
            let next = expire(&mut peer);
            assert_watchdog(next, at);
            at = next;
        }
    }
    assert_eq!((peer.state_name(), peer.fitness(), events(&mut peer)), ("OKAY", Fitness::Fit, vec![Event::Ready]));
}

/// Connects again. The watchdog request of REOPEN stays in the output.
fn connect_again(peer: &mut Peer, now: Time) {
    peer.connected(OWN_ADDRESS, now);
    let cer = one(peer);
    peer.received(&cea(&cer, HOST, |_| {}), now);
    assert_eq!(events(peer), [Event::Ready]);
}

#[test]
fn one_late_watchdog_answer_is_tolerated_on_probation() {
    let mut peer = open();
    peer.closed();
    connect_again(&mut peer, START);
    output(&mut peer);
    expire(&mut peer);
    assert_eq!((peer.state_name(), peer.close_reason()), ("REOPEN", None));
    expire(&mut peer);
    assert_eq!((peer.state_name(), peer.close_reason().is_some()), ("DOWN", true));
}

#[test]
fn any_message_of_a_suspect_peer_makes_it_okay() {
    for answers in [true, false] {
        let mut peer = open();
        expire(&mut peer);
        let dwr_of_ours = one(&mut peer);
        expire(&mut peer);
        events(&mut peer);
        let bytes = if answers { peer_answer(&dwr_of_ours, HOST) } else { dwr(HOST, 5) };
        peer.received(&bytes, seconds(70));
        assert_eq!((peer.state_name(), events(&mut peer)), ("OKAY", vec![Event::Ready]));
        assert_watchdog(peer.deadline().expect("a deadline"), seconds(70));
    }
}

#[test]
fn traffic_defers_the_watchdog_request() {
    let mut peer = open();
    for second in (0..300).step_by(10) {
        peer.received(&dwr(HOST, second), seconds(second));
        assert_eq!(one(&mut peer).len(), 20 + 12 + 28 + 20 + 12, "only answers");
        peer.timer(seconds(second + 9));
    }
}

#[test]
fn unmatched_watchdog_answer_is_counted_and_ignored() {
    let mut peer = open();
    expire(&mut peer);
    let dwr = one(&mut peer);
    for at in [12, 15, 16, 19] {
        let mut wrong = peer_answer(&dwr, HOST);
        wrong[at] ^= 1;
        peer.received(&wrong, seconds(40));
        assert_eq!(events(&mut peer), [Event::Unmatched]);
    }
    let dwa = peer_answer(&dwr, HOST);
    peer.received(&dwa, seconds(40));
    assert_eq!(events(&mut peer), []);
    peer.received(&dwa, seconds(40));
    assert_eq!(events(&mut peer), [Event::Unmatched], "the second copy");
    for stray in [peer_answer(&dpr(HOST, 1, DisconnectCause::BUSY), HOST), cea(&capabilities_request(), HOST, |_| {})] {
        peer.received(&stray, seconds(41));
        assert_eq!(events(&mut peer), [Event::Unmatched]);
    }
}

fn capabilities_request() -> Vec<u8> {
    let mut peer = peer();
    peer.connected(OWN_ADDRESS, START);
    one(&mut peer)
}

#[test]
fn dpr_is_answered_and_delays_the_reconnect() {
    let cases = [
        (DisconnectCause::REBOOTING, DELAY_REBOOTING),
        (DisconnectCause::BUSY, DELAY_BUSY),
        (DisconnectCause::DO_NOT_WANT_TO_TALK_TO_YOU, DELAY_UNWANTED),
        (DisconnectCause(99), DELAY_REBOOTING),
    ];
    for (cause, delay) in cases {
        for waits in [true, false] {
            let mut peer = open();
            let asked = dpr(HOST, 9, cause);
            peer.received(&asked, seconds(1));
            let dpa = one(&mut peer);
            assert_eq!(ids(&header(&dpa)), ids(&header(&asked)));
            assert!(!header(&dpa).is_error());
            assert_eq!((events(&mut peer), peer.fitness()), (vec![Event::FailOver(LEFT)], Fitness::Unfit));
            if waits {
                assert_eq!(expire(&mut peer), seconds(4));
                assert_eq!(why(&peer), LEFT);
            }
            assert_eq!((peer.closed(), peer.state_name()), (delay, "DOWN"));
        }
    }
}

#[test]
fn stop_sends_a_dpr_and_waits_for_the_dpa() {
    for answered in [true, false] {
        let mut peer = open();
        peer.stop(seconds(1));
        let asked = one(&mut peer);
        let message = Message::parse(&asked).expect("whole");
        let body = DisconnectPeerRequest::decode(&message).expect("readable");
        assert_eq!((body.disconnect_cause, peer.state_name()), (DisconnectCause::REBOOTING, "CLOSING"));
        if answered {
            peer.received(&peer_answer(&asked, HOST), seconds(2));
        } else {
            assert_eq!(expire(&mut peer), seconds(4));
        }
        assert_eq!(why(&peer), "closed by this node");
    }
}

#[test]
fn both_sides_may_disconnect_at_once() {
    let mut peer = open();
    peer.stop(seconds(1));
    let ours = one(&mut peer);
    peer.received(&dpr(HOST, 3, DisconnectCause::REBOOTING), seconds(1));
    assert_eq!(header(&one(&mut peer)).command, Command::DISCONNECT_PEER);
    assert_eq!(peer.close_reason(), None);
    peer.received(&peer_answer(&ours, HOST), seconds(1));
    assert_eq!(why(&peer), "closed by this node");
}

/// The Result-Code of the only answer, which has the E flag.
fn refusal(peer: &mut Peer) -> ResultCode {
    let bytes = one(peer);
    let message = Message::parse(&bytes).expect("whole");
    assert!(message.header.is_error());
    match Answer::decode(&message).expect("readable").body.outcome() {
        Some(Outcome::Result(code)) => code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn unsupported_requests_are_refused() {
    let mut peer = open();
    let mut bad_bits = dwr(HOST, 1);
    bad_bits[4] |= Flags::ERROR.0;
    let mut no_host = dwr(HOST, 1);
    no_host.truncate(20);
    no_host[1..4].copy_from_slice(&[0, 0, 20]);
    let cases = [
        (unknown(0, 1), ResultCode::COMMAND_UNSUPPORTED),
        (unknown(4, 2), ResultCode::COMMAND_UNSUPPORTED),
        (unknown(16_777_238, 3), ResultCode::APPLICATION_UNSUPPORTED),
        (bad_bits, ResultCode::INVALID_HDR_BITS),
        (no_host, ResultCode::MISSING_AVP),
    ];
    for (bytes, expected) in cases {
        peer.received(&bytes, seconds(1));
        assert_eq!(refusal(&mut peer), expected);
        assert_eq!(peer.close_reason(), None);
    }
    assert_eq!(events(&mut peer), [Event::Malformed], "the malformed request");
}

#[test]
fn cer_on_an_open_connection_is_answered() {
    let mut peer = open();
    peer.received(&capabilities_request(), seconds(1));
    let bytes = one(&mut peer);
    let message = Message::parse(&bytes).expect("whole");
    let body = CapabilitiesExchangeAnswer::decode(&message).expect("readable").body;
    assert_eq!((body.result_code, body.auth_application_id), (ResultCode::SUCCESS, vec![4]));
}

#[test]
fn session_request_is_passed_on() {
    let mut peer = open();
    let asked = rar(HOST, 12);
    peer.received(&asked, seconds(1));
    assert_eq!((events(&mut peer), peer.output().len()), (vec![Event::Request(asked)], 0));
}

#[test]
fn framing_error_closes_the_connection() {
    let cases: [(&[u8], &str); 4] = [
        (b"HTTP/1.1 400 Bad Request", "Diameter version 72 instead of 1: the stream is not Diameter or out of sync"),
        (&[1, 0, 0, 8], "message length 8 is less than 20 or not a multiple of 4"),
        (&[1, 0, 0, 22], "message length 22 is less than 20 or not a multiple of 4"),
        (&[1, 255, 255, 252], "message length 16777212 exceeds 65536"),
    ];
    for (bytes, expected) in cases {
        let mut peer = open();
        peer.received(&[dwr(HOST, 1), bytes.to_vec()].concat(), seconds(1));
        assert_eq!(why(&peer), expected);
        assert_eq!(events(&mut peer), [Event::Malformed]);
        assert_eq!(output(&mut peer).len(), 1, "earlier messages are answered");
        peer.received(&dwr(HOST, 2), seconds(1));
        assert_eq!(peer.output(), b"", "later octets are ignored");
    }
}

#[test]
fn written_messages_are_tracked_by_octet() {
    let mut peer = open();
    let message = ccr(1);
    let number = peer.send(&message, Flags::RETRANSMITTED, HopByHop(5), EndToEnd(6));
    let sent = header(peer.output());
    assert_eq!((sent.hop_by_hop, sent.end_to_end, sent.flags), (HopByHop(5), EndToEnd(6), Flags(0xd0)));
    let is = |peer: &Peer| (peer.is_begun(number), peer.is_written(number));
    assert_eq!(is(&peer), (false, false));
    peer.wrote(message.len() - 1);
    assert_eq!(is(&peer), (true, false));
    peer.wrote(100);
    assert_eq!(is(&peer), (true, true));
}

#[test]
fn withdrawn_messages_are_removed_from_the_output() {
    let mut peer = open();
    let numbers: Vec<u64> =
        (1..=6).map(|name| peer.send(&ccr(name), Flags::default(), HopByHop(name), EndToEnd(name))).collect();
    peer.wrote(ccr(1).len() + 7);
    peer.received(&dwr(HOST, 9), seconds(1));
    peer.withdraw(&[numbers[0], numbers[1], numbers[2], numbers[4]]);
    let rest = &peer.output()[ccr(2).len() - 7..];
    let left: Vec<u32> = messages(rest).iter().map(|message| header(message).hop_by_hop.0).collect();
    assert_eq!(left, [4, 6, 9], "the second one is partly sent");
    peer.wrote(ccr(2).len() - 7);
    assert!(peer.is_written(numbers[1]) && !peer.is_begun(numbers[3]));
    peer.wrote(ccr(4).len());
    assert!(peer.is_written(numbers[3]) && !peer.is_written(numbers[5]));
}
