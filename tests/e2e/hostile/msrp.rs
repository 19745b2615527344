//! Malformed MSRP streams (RFC 4975), on unknown connections and on the server's connection.
//!
//! Two frames crash Kamailio 5.6.3 without imcharge, and are therefore not sent here:
//!
//! * a start line of `MSRP` and one word, followed by an end-line: the core's TCP reader looks for the space after
//!   the transaction id (`tcp_read_headers`, state `H_MSRP_BODY_END`), finds none, and computes with NULL;
//! * a frame whose From-Path, To-Path or Message-ID has more than about 14,300 octets, if the script answers it:
//!   `msrp_reply()` writes the answer into 14,336 octets without checking the length. The shipped scripts answer no such
//!   frame, and that is tested.

use super::super::sessions::in_lua;
use super::super::{ALICE, Stage, subscriber};
use super::{Memory, PATIENCE, Vitals, garbage, pour, statistics};
use imcharge_testkit::parties::client::{ImClient, Reaction};
use imcharge_testkit::parties::server::ImServer;
use imcharge_testkit::proxy::{Account, Proxy};
use imcharge_testkit::{eventually, unique};
use std::time::Duration;

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// The host drops it: the module never sees it.
    Lost,
    /// The module reports that it is not a frame.
    Malformed,
    /// The module reports that it belongs to no session.
    Unattributed,
    /// It is relayed, and charged if it has content.
    Whole,
}
use Fate::{Lost, Malformed, Unattributed, Whole};

/// A charged and bound session whose client receives messages and does not answer them.
struct Session {
    client: ImClient,
    account: String,
    /// Number of messages that are debited already.
    paid: usize,
}

/// The parts of a SEND.
struct Send {
    id: String,
    lines: Vec<Vec<u8>>,
    body: Vec<u8>,
}

/// How a header line is changed.
#[derive(Clone, Copy, Debug)]
enum Change {
    Removed,
    Doubled,
    Empty,
    Overlong,
    NotUtf8,
    Nul,
    NoColon,
    OtherCase,
    BareLineFeed,
}

impl Change {
    const ALL: [Change; 9] = [
        Change::Removed,
        Change::Doubled,
        Change::Empty,
        Change::Overlong,
        Change::NotUtf8,
        Change::Nul,
        Change::NoColon,
        Change::OtherCase,
        Change::BareLineFeed,
    ];

    /// Returns the changed line.
    fn of(self, line: &[u8]) -> Vec<u8> {
        let text = line.strip_suffix(b"\r\n").expect("a line");
        let colon = text.iter().position(|octet| *octet == b':').expect("a header");
        match self {
            Change::Removed => Vec::new(),
            Change::Doubled => [line, line].concat(),
            Change::Empty => [&text[..colon], b":\r\n"].concat(),
            Change::Overlong => [text, &[b'a'; 9000], b"\r\n"].concat(),
            Change::NotUtf8 => [text, b"\xff\xfe\r\n"].concat(),
            Change::Nul => [text, b"\0\r\n"].concat(),
            Change::NoColon => [&text[..colon], &text[colon + 1..], b"\r\n"].concat().replace(b':', b'.'),
            Change::OtherCase => [&text[..colon].to_ascii_lowercase(), &text[colon..], b"\r\n"].concat(),
            Change::BareLineFeed => [text, b"\n"].concat(),
        }
    }

    /// Returns what happens to a frame with this change. The host's msrp module requires To-Path and From-Path once each, first,
    /// with this spelling, and a colon in each line; imcharge checks everything else (RFC 4975, 9).
    fn fate(self, name: &str) -> Fate {
        let path = name.ends_with("-Path");
        match (self, name) {
            (Change::NoColon, _) => Lost,
            (Change::Removed | Change::Doubled | Change::OtherCase, _) if path => Lost,
            (Change::BareLineFeed, _) => Malformed,
            // The content cannot be distinguished from content that was charged before.
            (Change::Removed, "Message-ID") => Malformed,
            // Of two lines, a relay or the client may read the other one.
            (Change::Doubled, "Message-ID") => Malformed,
            (Change::Removed | Change::Doubled | Change::OtherCase, _) => Whole,
            // The value is not read.
            (_, "Content-Type") => Whole,
            (Change::NotUtf8, _) => Malformed,
            // Values that RFC 4975 does not define are ignored.
            (_, "Failure-Report" | "Success-Report") => Whole,
            // With another transport, it is another URI.
            (Change::Overlong | Change::Nul, _) if path => Unattributed,
            _ => Malformed,
        }
    }
}

trait Replace {
    fn replace(self, from: u8, to: u8) -> Self;
}

impl Replace for Vec<u8> {
    fn replace(mut self, from: u8, to: u8) -> Vec<u8> {
        self.iter_mut().filter(|octet| **octet == from).for_each(|octet| *octet = to);
        self
    }
}

impl Session {
    /// Opens a session with a separate account and receives all messages of the server. The reservation suffices for the cases.
    fn open(stage: &Stage, server: &ImServer) -> Session {
        let (account, paid) = (subscriber(), server.message_ids().len());
        stage.proxy.set_account(&account, 1_000_000);
        let mut client = stage.client(&account, |_| {});
        assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
        // Waits for the frames of the retrieval, so that later frames are those of the test.
        let frames = stage.proxy.statistic("frames") + 2 + 2 * paid as i64;
        client.bind();
        assert_eq!(client.take(paid, Reaction::Answer(200)).len(), paid);
        let quiet = eventually(PATIENCE, || stage.proxy.statistic("frames") == frames);
        assert!(quiet, "{}", stage.proxy.log());
        Session { client, account, paid }
    }

    /// Returns a SEND like those of the server.
    fn send(&self, body: &[u8]) -> Send {
        let (client, server) = self.client.msrp_paths();
        let (relay, server) = server.split_once(' ').expect("the relay precedes the server");
        let (number, octets) = (unique(), body.len());
        let lines = [
            format!("To-Path: {relay} {client}\r\n"),
            format!("From-Path: {server}\r\n"),
            format!("Message-ID: m{number}\r\n"),
            format!("Byte-Range: 1-{octets}/{octets}\r\n"),
            "Failure-Report: yes\r\n".into(),
            "Success-Report: no\r\n".into(),
            "Content-Type: text/plain\r\n".into(),
        ];
        Send { id: format!("t{number}"), lines: lines.map(String::into_bytes).to_vec(), body: body.to_vec() }
    }

    /// Reads what has arrived, so that the connection does not become full.
    fn drain(&mut self) {
        while self.client.next_send(Duration::from_millis(20)).is_some() {}
    }

    /// Ends the session. Asserts that this number of further messages is debited once each, and that nothing is held.
    #[track_caller]
    fn close(mut self, stage: &Stage, messages: i64) {
        let messages = messages + self.paid as i64;
        self.drain();
        assert_eq!(self.client.bye(), 200, "{}", stage.proxy.log());
        stage.expect(&self.account, 1_000_000 - messages, 0, messages);
    }
}

impl Send {
    fn bytes(&self) -> Vec<u8> {
        let start = format!("MSRP {} SEND\r\n", self.id).into_bytes();
        let end = format!("\r\n-------{}$\r\n", self.id).into_bytes();
        [start, self.lines.concat(), b"\r\n".to_vec(), self.body.clone(), end].concat()
    }

    fn name(&self, line: usize) -> String {
        let line = String::from_utf8_lossy(&self.lines[line]).into_owned();
        line.split(':').next().expect("a name").to_owned()
    }

    fn with(mut self, line: usize, value: Vec<u8>) -> Send {
        self.lines[line] = value;
        self
    }
}

/// Starts a proxy that reserves a thousand messages per session.
fn stage() -> Stage {
    Stage::new(|setup| {
        // The test sends each frame on a separate connection, from the server's address.
        setup.changed("\"CHARGED\", \"10\"", "\"CHARGED\", \"1000\"").parameter("im_server", "\"127.0.0.1\"")
    })
}

/// Returns the number of frames, and of invalid ones among them.
fn seen(proxy: &Proxy) -> [i64; 2] {
    statistics(proxy, ["frames", "frames_malformed"])
}

/// Sends each on a separate connection and checks its outcome. Returns how many were relayed.
#[track_caller]
fn judge(stage: &Stage, vitals: &Vitals<'_>, session: &mut Session, cases: Vec<(String, Vec<u8>, Fate)>) -> i64 {
    let unattributed = || stage.proxy.statistic("frames_unattributed");
    let (mut whole, mut before, mut strays) = (0, seen(&stage.proxy), unattributed());
    for (at, (name, bytes, fate)) in cases.into_iter().enumerate() {
        pour(stage.proxy.msrp, &bytes);
        let after = seen(&stage.proxy);
        let found = match [after[0] - before[0], after[1] - before[1]] {
            [0, 0] => Lost,
            [1, 1] => Malformed,
            [1, 0] if unattributed() > strays => Unattributed,
            [1, 0] => Whole,
            other => panic!("{name}: {other:?} frames\n{}", vitals.end()),
        };
        strays = unattributed();
        assert_eq!(found, fate, "{name}\n{}", vitals.end());
        whole += i64::from(found == Whole);
        before = after;
        if at % 20 == 0 {
            session.drain();
        }
    }
    vitals.assert_well("these frames");
    whole
}

#[test]
fn every_header_line_broken_in_every_way_is_charged_or_refused_as_it_must() {
    let stage = stage();
    let server = stage.server(&[], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let mut session = Session::open(&stage, &server);
    let mut cases = Vec::new();
    for line in 0..session.send(b"x").lines.len() {
        for change in Change::ALL {
            let send = session.send(b"twelve bytes");
            let (name, value) = (send.name(line), change.of(&send.lines[line]));
            let fate = change.fate(&name);
            cases.push((format!("{name} {change:?}"), send.with(line, value).bytes(), fate));
        }
    }
    let whole = judge(&stage, &vitals, &mut session, cases);
    session.close(&stage, whole);
    vitals.assert_unharmed();
}

#[test]
fn transaction_ids_of_every_length() {
    let stage = stage();
    let server = stage.server(&[], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let mut session = Session::open(&stage, &server);
    // RFC 4975, 9: one alphanumeric character and 3 to 31 others.
    let fate = |length: usize| match length {
        0 => Lost,
        4..=32 => Whole,
        _ => Malformed,
    };
    let case = |length: usize| {
        let send = Send { id: "i".repeat(length), ..session.send(b"x") };
        (format!("{length} characters"), send.bytes(), fate(length))
    };
    let cases = (0..=40).chain([64, 100, 300, 2000]).map(case).collect();
    let whole = judge(&stage, &vitals, &mut session, cases);
    session.close(&stage, whole);
    vitals.assert_unharmed();
}

#[test]
fn byte_ranges_that_are_none() {
    let stage = stage();
    let server = stage.server(&[], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let mut session = Session::open(&stage, &server);
    let digits = "9".repeat(10_000);
    let beyond = format!("1-{digits}/*");
    // Backward ranges and ranges beyond the end pass: the price depends on the octets that arrive, not on the range.
    let ranges = [
        ("1-5/5", Whole),
        ("0-0/0", Whole),
        ("5-1/5", Whole),
        ("9-9/5", Whole),
        ("0-*/*", Whole),
        ("1-18446744073709551615/18446744073709551615", Whole),
        ("18446744073709551615-18446744073709551615/*", Whole),
        ("18446744073709551615-*/1", Whole),
        ("18446744073709551616-*/*", Malformed),
        ("1-18446744073709551616/*", Malformed),
        ("1-*/18446744073709551616", Malformed),
        (beyond.as_str(), Malformed),
        (digits.as_str(), Malformed),
        ("-1-5/5", Malformed),
        ("1--5/5", Malformed),
        ("*-*/*", Malformed),
        ("1-5", Malformed),
        ("1/5", Malformed),
        ("1-5/5/5", Malformed),
        ("0x1-5/5", Malformed),
        ("1e0-5/5", Malformed),
        ("1 - 5 / 5", Malformed),
        ("\u{ff11}-5/5", Malformed),
        ("-/", Malformed),
        ("/", Malformed),
        ("-", Malformed),
    ];
    let case = |(range, fate): &(&str, Fate)| {
        let send = session.send(b"twelve bytes").with(3, format!("Byte-Range: {range}\r\n").into_bytes());
        (range.chars().take(50).collect(), send.bytes(), *fate)
    };
    let cases = ranges.iter().map(case).collect();
    let whole = judge(&stage, &vitals, &mut session, cases);
    session.close(&stage, whole);
    vitals.assert_unharmed();
}

#[test]
fn lookalike_of_an_end_line_does_not_end_the_message() {
    let stage = stage();
    let server = stage.server(&[], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let mut session = Session::open(&stage, &server);
    let mut messages = 0;
    for alike in [
        "\r\n-------ID\r\n",
        "\r\n-------ID$",
        "\r\n-------ID$\n",
        "\r\n-------ID$ \r\n",
        "\r\n-------ID$$\r\n",
        "\r\n-------IDx$\r\n",
        "\r\n-------xID$\r\n",
        "\r\n--------ID$\r\n",
        "\r\n------ID$\r\n",
        "\r\n -------ID$\r\n",
        "\r\n-------\r\n",
        "\r\n-------$\r\n",
        "\r\n-------other$\r\n",
        "-------ID$\r\n",
        "\r\n\r\n\r\n-------",
    ] {
        let send = session.send(b"");
        let body = format!("before{}after", alike.replace("ID", &send.id)).into_bytes();
        let sent = Send { body: body.clone(), ..send };
        pour(stage.proxy.msrp, &sent.bytes());
        messages += 1;
        let received = session.client.next_send(PATIENCE).unwrap_or_else(|| panic!("{alike:?}\n{}", vitals.end()));
        assert_eq!((received.id, received.body), (sent.id, Some(body)), "{alike:?}");
    }
    // A complete end-line, which RFC 4975, 7.1, forbids in a body: the host ends the frame there, whatever the flag, and
    // discards the rest. imcharge checks the flag, and the line break before it.
    let forbidden = [("\r\n-------ID$\r\n", Whole), ("\r\n-------ID*\r\n", Malformed), ("\n-------ID$\r\n", Malformed)];
    let case = |(alike, fate): &(&str, Fate)| {
        let send = session.send(b"");
        let body = format!("before{}after", alike.replace("ID", &send.id)).into_bytes();
        (format!("{alike:?}"), Send { body, ..send }.bytes(), *fate)
    };
    let cases = forbidden.iter().map(case).collect();
    messages += judge(&stage, &vitals, &mut session, cases);
    session.close(&stage, messages);
    vitals.assert_unharmed();
}

/// Retrieves two messages, and asserts that Alice is debited for two.
#[track_caller]
fn retrieve(stage: &Stage) {
    let before = stage.proxy.account(ALICE).unwrap_or(Account { balance: 0, held: 0, debited: 0 });
    stage.proxy.set_account(ALICE, 5000);
    let mut client = stage.bound(|_| {});
    assert_eq!(client.take(2, Reaction::Answer(200)).len(), 2, "{}", stage.proxy.log());
    assert_eq!(client.bye(), 200);
    stage.expect(ALICE, 4998, 0, before.debited + 2);
}

#[test]
fn a_frame_cut_at_every_octet_ends_its_connection_alone() {
    let stage = stage();
    let server = stage.server(&["one", "two"], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let session = Session::open(&stage, &server);
    let (before, length) = (seen(&stage.proxy), session.send(b"twelve bytes").bytes().len());
    for octets in 0..length {
        // The connection ends, or another frame follows, which is read as the rest of this one: its end-line is missing.
        let cut = session.send(b"twelve bytes").bytes()[..octets].to_vec();
        pour(stage.proxy.msrp, &cut);
        pour(stage.proxy.msrp, &[cut, session.send(b"twelve bytes").bytes()].concat());
    }
    // Of the frame cut at octet 0, nothing is sent, so only the frame after it is counted.
    let after = seen(&stage.proxy);
    assert_eq!([after[0] - before[0], after[1] - before[1]], [1, 0], "{}", vitals.end());
    session.close(&stage, 1);
    retrieve(&stage);
    vitals.assert_unharmed();
}

#[test]
fn streams_that_are_no_msrp_end_with_their_connection() {
    let stage = stage();
    let server = stage.server(&["one", "two"], |_| {});
    let (relay, vitals) = (stage.proxy.msrp, Vitals::of(&stage.proxy));
    let session = Session::open(&stage, &server);
    let before = seen(&stage.proxy);
    let endless = Send { body: vec![b'x'; 1 << 20], ..session.send(b"") }.bytes();
    let ids = ["MSRP ", &"i".repeat(1 << 20)].concat().into_bytes();
    let hyphens = [b"MSRP abcd SEND\r\n\r\n".to_vec(), b"\r\n-------".repeat(20_000)].concat();
    for stream in [&endless[..endless.len() - 40], &ids, &hyphens, &[0; 100_000], &[b'\n'; 100_000]] {
        assert_eq!(pour(relay, stream), b"", "{}", vitals.end());
    }
    // A SIP keep-alive (RFC 5626, 4.4.1).
    assert_eq!(pour(relay, b"\r\n\r\n"), b"\r\n");
    for seed in 1..=200 {
        pour(relay, &garbage(seed, 2000));
        pour(relay, &[b"MSRP abcd SEND\r\nTo-Path: ".to_vec(), garbage(seed, 2000)].concat());
    }
    assert_eq!(seen(&stage.proxy), before, "{}", vitals.end());
    let options = "OPTIONS sip:x@im.example.org SIP/2.0\r\nVia: SIP/2.0/TCP 127.0.0.1:9;branch=z9hG4bKt\r\n\
                   From: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\nCall-ID: t\r\nCSeq: 1 OPTIONS\r\nMax-Forwards: 9\r\n\
                   Content-Length: 0\r\n\r\n";
    assert!(pour(relay, options.as_bytes()).starts_with(b"SIP/2.0 200"), "SIP is served on every port of the host");
    for method in ["INVITE", "BYE", "FROB"] {
        pour(relay, options.replace("OPTIONS", method).as_bytes());
        pour(relay, options.replace("OPTIONS", method).replace("Length: 0", "Length: 99999").as_bytes());
    }
    session.close(&stage, 0);
    retrieve(&stage);
    vitals.assert_unharmed();
}

#[test]
fn thousands_of_tiny_frames_are_each_counted() {
    const FRAMES: i64 = 5000;
    let stage = stage();
    let _server = stage.server(&["one", "two"], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let before = seen(&stage.proxy);
    for method in ["SEND", "REPORT", "200"] {
        let frame = |number| {
            format!(
                "MSRP t{number:04} {method}\r\nTo-Path: msrp://a/b;tcp\r\nFrom-Path: msrp://a/b;tcp\r\n-------t{number:04}$\r\n"
            )
        };
        pour(stage.proxy.msrp, (0..FRAMES).map(frame).collect::<String>().as_bytes());
    }
    let after = seen(&stage.proxy);
    assert_eq!([after[0] - before[0], after[1] - before[1]], [3 * FRAMES, 0], "{}", vitals.end());
    retrieve(&stage);
    vitals.assert_unharmed();
}

#[test]
fn a_long_path_that_is_refused_has_no_answer() {
    for lua in [false, true] {
        let stage = if lua { Stage::new(in_lua) } else { stage() };
        let _server = stage.server(&["one", "two"], |_| {});
        let vitals = Vitals::of(&stage.proxy);
        for octets in [11_000, 11_300, 14_000, 14_300, 15_000, 15_900] {
            let long = "x".repeat(octets);
            for (to, from, id) in [(&*long, "b", "abcd"), ("a", &long, "abcd"), ("a", "b", &long)] {
                let frame = format!(
                    "MSRP abcd SEND\r\nTo-Path: msrp://a/{to};tcp\r\nFrom-Path: msrp://a/{from};tcp\r\n\
                     Message-ID: {id}\r\nByte-Range: none\r\n-------abcd$\r\n"
                );
                let answer = pour(stage.proxy.msrp, frame.as_bytes());
                assert_eq!(answer.starts_with(b"MSRP abcd 481"), octets == 11_000, "{octets}");
            }
            vitals.assert_well("a long path");
        }
        retrieve(&stage);
        vitals.assert_unharmed();
    }
}

#[test]
fn broken_frames_of_the_server_itself_cost_it_its_connection_at_most() {
    let stage = stage();
    let server = stage.server(&["one", "two"], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    stage.proxy.set_account(ALICE, 5000);
    let mut other = stage.bound(|_| {});
    assert_eq!(other.take(2, Reaction::Answer(200)).len(), 2);
    let session = Session::open(&stage, &server);
    let malformed = stage.proxy.statistic("frames_malformed");
    let write = |bytes: &[u8]| server.write_raw(bytes).expect("the connection is open");
    // A complete but invalid frame is refused, and the stream continues after it.
    for line in 0..2 {
        let send = session.send(b"twelve bytes");
        let name = send.name(line);
        write(&send.with(line, format!("{name}: nothing\r\n").into_bytes()).bytes());
    }
    write(&session.send(b"this one is right").bytes());
    stage.until_debited(&session.account, session.paid + 1);
    assert_eq!(stage.proxy.statistic("frames_malformed"), malformed + 2, "{}", vitals.end());
    // A frame without an end closes its connection, but not that of the client.
    let _ = server.write_raw(&Send { body: vec![b'x'; 100_000], ..session.send(b"") }.bytes());
    let lost = || server.write_raw(b"\r\n").is_err();
    assert!(eventually(PATIENCE, lost), "{}", vitals.end());
    assert_eq!(other.bye(), 200);
    session.close(&stage, 1);
    retrieve(&stage);
    vitals.assert_unharmed();
}

/// One of each kind of hostile stream. Excludes those that the host's own parser refuses after a header: `msrp.so` of
/// Kamailio 5.6.3 returns there without freeing the headers that it has parsed (`msrp_frame_received`).
fn hostile_round(stage: &Stage, server: &ImServer) {
    let session = Session::open(stage, server);
    let mut streams = Vec::new();
    for line in 0..session.send(b"x").lines.len() {
        for change in Change::ALL {
            let send = session.send(b"twelve bytes");
            let (name, value) = (send.name(line), change.of(&send.lines[line]));
            if change.fate(&name) != Lost {
                streams.push(send.with(line, value).bytes());
            }
        }
    }
    let whole = session.send(b"twelve bytes").bytes();
    streams.extend((0..whole.len()).map(|octets| whole[..octets].to_vec()));
    streams.extend((1..20).map(|seed| garbage(seed, 2000)));
    streams.push(Send { body: vec![b'x'; 100_000], ..session.send(b"") }.bytes());
    streams.iter().for_each(|stream| drop(pour(stage.proxy.msrp, stream)));
    let mut client = session.client;
    while client.next_send(Duration::from_millis(20)).is_some() {}
    assert_eq!(client.bye(), 200);
    let over = || stage.proxy.statistic("sessions_active") == 0;
    assert!(eventually(PATIENCE, over), "{}", stage.proxy.log());
}

#[test]
fn memory_does_not_grow_with_malformed_input() {
    const ROUNDS: usize = 3;
    let stage = stage();
    let server = stage.server(&["one", "two"], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    (0..ROUNDS).for_each(|_| hostile_round(&stage, &server));
    let before = Memory::of(&stage.proxy);
    (0..2 * ROUNDS).for_each(|_| hostile_round(&stage, &server));
    Memory::assert_flat(before, &stage.proxy, 256 << 10, 64 << 10);
    retrieve(&stage);
    vitals.assert_unharmed();
}
