//! A server that answers a charged INVITE with what no server should: the answer belongs to the transaction, so the
//! module sees all of it that the host reads.

use super::super::{ALICE, Stage};
use super::{PATIENCE, Vitals};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::sip;
use std::time::Duration;

/// Start line, To tag (or none), more header lines, and body of an answer.
struct Answer {
    start: Vec<u8>,
    tag: Option<Vec<u8>>,
    lines: Vec<u8>,
    body: Vec<u8>,
}

fn answer(start: &str, body: &[u8]) -> Answer {
    let (start, lines) = (start.as_bytes().to_vec(), b"Contact: <sip:s@127.0.0.1:9>\r\n".to_vec());
    Answer { start, tag: Some(b"s".to_vec()), lines, body: body.to_vec() }
}

impl Answer {
    /// As an answer to this request.
    fn to(&self, request: &sip::Message) -> Vec<u8> {
        let mut octets = [&self.start[..], b"\r\n"].concat();
        for (name, value) in &request.headers {
            if ["via", "record-route", "from", "to", "call-id", "cseq"].contains(&name.to_ascii_lowercase().as_str()) {
                octets.extend(format!("{name}: {value}").bytes());
                let tag = self.tag.as_ref().filter(|_| name.eq_ignore_ascii_case("To"));
                octets.extend(tag.map_or(Vec::new(), |tag| [b";tag=", &tag[..]].concat()));
                octets.extend(b"\r\n");
            }
        }
        octets.extend([&self.lines[..], b"\r\n", &self.body].concat());
        octets
    }
}

/// Invalid session descriptions (RFC 4975, 8).
fn descriptions() -> Vec<Vec<u8>> {
    let path = |value: &[u8]| [b"v=0\r\nm=message 9 TCP/MSRP *\r\na=path:", value, b"\r\n"].concat();
    let one = b"msrp://127.0.0.1:9/s;tcp";
    vec![
        Vec::new(),
        path(b""),
        path(b"msrp"),
        path(b"msrp://"),
        path(b"http://127.0.0.1/s;tcp"),
        path(b"msrp://127.0.0.1:99999/s;tcp"),
        path(b"msrp://127.0.0.1:9/s\0;tcp"),
        path(b"msrp://127.0.0.1:9/\xff\xfe;tcp"),
        path(&[b"msrp://127.0.0.1:9/", &vec![b's'; 20_000][..], b";tcp"].concat()),
        path(&[&one[..], b" "].concat().repeat(500)),
        path(&[b' '; 20_000]),
        path(one).repeat(200),
        path(one)[..40].to_vec(),
        b"a=path:".repeat(3000),
        vec![0; 20_000],
        vec![b'\n'; 20_000],
    ]
}

fn answers() -> Vec<Answer> {
    let description = &b"v=0\r\nm=message 9 TCP/MSRP *\r\na=path:msrp://127.0.0.1:9/s;tcp\r\n"[..];
    let starts = [
        "SIP/2.0 200 = 2**3 \u{43d}\u{43e}",
        "SIP/2.0 200 ",
        "SIP/2.0 200",
        "SIP/2.0 299 Nearly",
        "SIP/2.0 699 Never",
        "SIP/2.0 700 Beyond",
        "SIP/2.0 000 Nothing",
        "SIP/2.0 4294967301 better not break the receiver",
        "SIP/2.0 -20 Below",
        "SIP/7.0 200 OK",
        "\0\0\0",
    ];
    let mut all: Vec<Answer> = starts.iter().map(|start| answer(start, description)).collect();
    all.extend(descriptions().iter().map(|body| answer("SIP/2.0 200 OK", body)));
    for tag in [None, Some(Vec::new()), Some(vec![b't'; 257]), Some(vec![b't'; 20_000]), Some(b"\xff\x01".to_vec())] {
        all.push(Answer { tag, ..answer("SIP/2.0 200 OK", description) });
    }
    for lines in
        ["Content-Length: 99999\r\n", "Content-Length: -1\r\n", "To: <sip:x@y>;tag=z\r\n", "Call-ID: x\r\n", ":\r\n"]
    {
        all.push(Answer { lines: lines.into(), ..answer("SIP/2.0 200 OK", description) });
    }
    all
}

#[test]
fn invalid_answers_of_the_server_leave_no_hold() {
    let fr_timer = "modparam(\"tm\", \"fr_timer\", 2000)\nmodparam(\"imcharge\", \"tariff\", TARIFF)";
    let stage = Stage::new(|setup| {
        setup.changed("modparam(\"imcharge\", \"tariff\", TARIFF)", fr_timer).parameter("hold_timeout", "2")
    });
    stage.proxy.set_account(ALICE, 100_000);
    let vitals = Vitals::of(&stage.proxy);
    let server = sip::Transport::on(&stage.place).expect("a socket");
    for answer in answers() {
        let client = stage.client(ALICE, |_| {});
        client.send_invite();
        let own = |request: &sip::Message| request.header("Call-ID") == client.call_id && request.method() == "INVITE";
        // Earlier ones come again meanwhile.
        let mut asked = None;
        let came = eventually(PATIENCE, || {
            asked = server.receive(Duration::from_millis(500)).filter(|(request, _)| own(request));
            asked.is_some()
        });
        assert!(came, "{}", vitals.end());
        let (request, proxy) = asked.expect("it came");
        stage.place.send_to(&answer.to(&request), proxy).expect("sent");
        vitals.assert_well(&String::from_utf8_lossy(&answer.start));
    }
    let over = || stage.proxy.statistic("sessions_active") == 0;
    assert!(eventually(4 * PATIENCE, over), "{}", vitals.end());
    stage.expect(ALICE, 100_000, 0, 0);
    vitals.assert_unharmed();
}
