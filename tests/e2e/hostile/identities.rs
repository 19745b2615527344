//! Identities, charging vectors and names of calls that are as odd as a network lets them be.

use super::super::{ALICE, Stage};
use super::{PATIENCE, Vitals, garbage};
use imcharge_testkit::{eventually, unique};
use std::net::UdpSocket;
use std::time::Duration;

/// What is taken, and what is refused or dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The named identity pays.
    Pays,
    /// No account pays, and nothing is relayed.
    Refused,
}
use Fate::{Pays, Refused};

/// An INVITE with these octets as the lines in question.
fn invite(own: &str, call_id: &[u8], lines: &[u8]) -> Vec<u8> {
    let number = unique();
    let head = format!(
        "INVITE sip:deferred@im.example.org SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{number};rport\r\n\
         Max-Forwards: 70\r\nFrom: <{ALICE}>;tag=h{number}\r\nTo: <sip:deferred@im.example.org>\r\nCSeq: 1 INVITE\r\n\
         Contact: <sip:h@{own}>\r\nCall-ID: "
    );
    [head.as_bytes(), call_id, b"\r\n", lines, b"Content-Length: 0\r\n\r\n"].concat()
}

/// Sends it; the final status, 0 for none within the time.
fn ask(stage: &Stage, call_id: &[u8], lines: &[u8], within: Duration) -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let own = socket.local_addr().expect("bound").to_string();
    socket.send_to(&invite(&own, call_id, lines), stage.proxy.sip).expect("sent");
    super::torture::final_status(&socket, within)
}

/// Each is charged or refused, as it must, and the proxy serves on.
#[track_caller]
fn judge(stage: &Stage, vitals: &Vitals<'_>, cases: Vec<(Vec<u8>, Vec<u8>, Fate)>) {
    let pay = cases.iter().filter(|(_, _, fate)| *fate == Pays).count() as i64;
    let before = stage.proxy.statistic("reserves_granted");
    for (call_id, lines, fate) in cases {
        let within = if fate == Pays { PATIENCE } else { Duration::from_millis(50) };
        let status = ask(stage, &call_id, &lines, within);
        let name =
            String::from_utf8_lossy(&[&call_id[..call_id.len().min(40)], b" ", &lines[..lines.len().min(80)]].concat())
                .into_owned();
        assert_eq!(status == 200, fate == Pays, "{name}: {status}\n{}", vitals.end());
        vitals.assert_well(&name);
    }
    // However late: no other account was given anything.
    assert_eq!(stage.proxy.statistic("reserves_granted") - before, pay, "{}", vitals.end());
}

/// A proxy where every account has enough, and a session without BYE ends soon.
fn stage() -> Stage {
    Stage::new(|setup| setup.parameter("default_balance", "1000").parameter("hold_timeout", "1"))
}

/// Checks that no credit is held at the end.
#[track_caller]
fn assert_rest(stage: &Stage, vitals: &Vitals<'_>) {
    let over = || stage.proxy.statistic("sessions_active") == 0;
    assert!(eventually(4 * PATIENCE, over), "{}", vitals.end());
    assert_eq!(stage.proxy.count("SELECT count(*) FROM holds"), 0);
    assert_eq!(stage.proxy.count("SELECT count(*) FROM debits"), 0);
    vitals.assert_unharmed();
    let mut client = stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 200);
    assert_eq!(client.bye(), 200);
}

fn name(number: usize) -> Vec<u8> {
    format!("h{number}.{}", unique()).into_bytes()
}

#[test]
fn asserted_identities_are_charged_or_refused() {
    let stage = stage();
    let server = stage.server(&[], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let long = |octets: usize| [b"<sip:".to_vec(), vec![b'a'; octets], b"@example.org>".to_vec()].concat();
    let values: Vec<(Vec<u8>, Fate)> = vec![
        (b"<sip:a@example.org>".to_vec(), Pays),
        (b"\"A <b@c>, \\\"q\\\"\" <sip:a@example.org>, <tel:+491>".to_vec(), Pays),
        (b"<tel:+49-30-123;phone-context=x>".to_vec(), Pays),
        (b"<urn:service:sos>, <tel:+491>".to_vec(), Pays),
        (b"\"\xc3\xa4\xc3\xb6\" <sip:a@example.org>".to_vec(), Pays),
        (b"<sip:a@[2001:db8::1]>".to_vec(), Pays),
        (long(200), Pays),
        (b"\"\xe4\xf6\" <sip:a@example.org>".to_vec(), Refused),
        (b"<urn:service:sos>".to_vec(), Refused),
        (b"<tel:abcxyz>".to_vec(), Refused),
        (b"<sip:\xc3\xa4@example.org>".to_vec(), Refused),
        (b"<sip:a\x01b@example.org>".to_vec(), Refused),
        (b"<sip:a\0b@example.org>".to_vec(), Refused),
        (b"<sip:a%00b%@example.org>".to_vec(), Refused),
        (b"<sip:@example.org>".to_vec(), Refused),
        (b"<sip:a@>".to_vec(), Refused),
        (b"<".repeat(1000), Refused),
        (b"\"".repeat(1001), Refused),
        (b",".repeat(1000), Refused),
        (b"<sip:".repeat(300), Refused),
        (b"".to_vec(), Refused),
        (long(250), Refused),
        (long(3000), Refused),
        (long(30_000), Refused),
    ];
    let line = |value: &[u8]| [b"P-Asserted-Identity: ", value, b"\r\n"].concat();
    let cases = values.iter().enumerate().map(|(at, (value, fate))| (name(at), line(value), *fate)).collect();
    judge(&stage, &vitals, cases);
    let folded =
        [b"<\r\n sip:a@example.org\r\n >".to_vec(), [b"\r\n ".repeat(500), b"<sip:a@example.org>".to_vec()].concat()];
    for value in folded {
        ask(&stage, &name(0), &line(&value), Duration::from_millis(50));
    }
    let before = stage.proxy.statistic("reserves_granted");
    for seed in 1..100 {
        let value: Vec<u8> = garbage(seed, 300).into_iter().filter(|octet| !b"\r\n".contains(octet)).collect();
        assert_ne!(ask(&stage, &name(0), &line(&value), Duration::from_millis(1)), 200);
    }
    vitals.assert_well("garbage");
    assert_eq!(stage.proxy.statistic("reserves_granted"), before, "{}", vitals.end());
    drop(server);
    let _server = stage.server(&[], |_| {});
    assert_rest(&stage, &vitals);
}

#[test]
fn charging_vectors_and_names_of_calls_are_charged_or_refused() {
    let stage = stage();
    let server = stage.server(&[], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let asserted = format!("P-Asserted-Identity: <{ALICE}>\r\n").into_bytes();
    // An invalid icid-value (RFC 7315, 4.6) is ignored; the caller still pays.
    let vectors: Vec<Vec<u8>> = vec![
        b"icid-value=\"abc\";icid-generated-at=1.2.3.4;orig-ioi=a".to_vec(),
        b"icid-value".to_vec(),
        b"icid-value=".to_vec(),
        b"icid-value=\"".to_vec(),
        b"icid-value=\"a\\".to_vec(),
        b"icid-value=\"\x01\x02\x7f\"".to_vec(),
        b";;;;====".to_vec(),
        [b"icid-value=".to_vec(), vec![b'v'; 257]].concat(),
        [b"icid-value=".to_vec(), vec![b'v'; 30_000]].concat(),
        [b"icid-value=\"".to_vec(), b"\\\"".repeat(5000)].concat(),
    ];
    let line = |value: &Vec<u8>| [&asserted[..], b"P-Charging-Vector: ", value, b"\r\n"].concat();
    judge(&stage, &vitals, vectors.iter().enumerate().map(|(at, value)| (name(at), line(value), Pays)).collect());
    // Latin-1 is relayed too, to a server that cannot parse it and never answers.
    let granted = stage.proxy.statistic("reserves_granted") + 1;
    ask(&stage, &name(0), &line(&b"icid-value=\xe4\xf6".to_vec()), Duration::ZERO);
    let taken = || stage.proxy.statistic("reserves_granted") == granted;
    assert!(eventually(PATIENCE, taken), "{}", vitals.end());
    // A Call-ID is the name of the session: up to 256 octets of what RFC 3261, 25.1 makes words of.
    // After the @, because the test server derives its tag from the part before it.
    let own = |value: &[u8]| [&name(0), &b"@"[..], value].concat();
    let calls = vec![
        (own(b"word`~)(><:\\/\"][?}{"), Pays),
        (own("\u{e4}\u{65e5}\u{672c}".as_bytes()), Refused),
        (own(b"\x01\x02\x7f"), Refused),
        (own(&[b'c'; 220]), Pays),
        (own(&[b'c'; 256]), Refused),
        (own(&[b'c'; 30_000]), Refused),
        (own(b"\xe4\xf6"), Refused),
        (b"".to_vec(), Refused),
    ];
    judge(&stage, &vitals, calls.into_iter().map(|(call_id, fate)| (call_id, asserted.clone(), fate)).collect());
    drop(server);
    let _server = stage.server(&[], |_| {});
    assert_rest(&stage, &vitals);
}
