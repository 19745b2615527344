//! Frames of RFC 4975 and of real traffic.

use super::*;
use proptest::prelude::*;

const SEND: &str = "MSRP a786hjs2 SEND\r\n\
    To-Path: msrp://bobpc.biloxi.example.com:7394/kjhd37s2s20w2a;tcp\r\n\
    From-Path: msrp://atlantasim.example.com:7654/jshA7weztas;tcp\r\n\
    Message-ID: 87652491\r\n\
    Byte-Range: 1-25/25\r\n\
    Content-Type: text/plain\r\n\
    \r\n\
    Hey Bob, are you there?\0\n\r\n\
    -------a786hjs2$\r\n";

fn parse(text: &str) -> Result<Frame<'_>, MsrpError> {
    Frame::parse(text.as_bytes())
}

#[test]
fn send_is_parsed() {
    let frame = parse(SEND).expect("a frame of the RFC");
    assert_eq!(frame.transaction_id, "a786hjs2");
    assert_eq!(frame.start, Start::Request(Method::Send));
    assert_eq!(frame.to_path.endpoint().session_id, "kjhd37s2s20w2a");
    let from = frame.from_path.endpoint();
    assert_eq!(
        (from.host, from.port, from.transport, from.secure),
        ("atlantasim.example.com", Some(7654), "tcp", false)
    );
    assert_eq!(frame.message_id, Some("87652491"));
    assert_eq!(frame.byte_range, Some(ByteRange { start: 1, end: Some(25), total: Some(25) }));
    assert_eq!(frame.body, Some(b"Hey Bob, are you there?\0\n".as_slice()));
    assert_eq!((frame.flag, frame.failure_report, frame.success_report), (Flag::Last, FailureReport::Yes, false));
    assert!(frame.is_content() && frame.content_octets() == 25);
}

/// A frame with these lines between start and end.
fn with(start: &str, lines: &str, end: &str) -> String {
    format!(
        "MSRP a786hjs2 {start}\r\nTo-Path: msrp://b:1/s1;tcp\r\nFrom-Path: msrp://a:2/s2;tcp\r\n{lines}-------a786hjs2{end}\r\n"
    )
}

#[test]
fn valid_frames_are_parsed() {
    type Check = fn(&Frame<'_>) -> bool;
    let table: &[(&str, String, Check)] = &[
        ("binding SEND", with("SEND", "Message-ID: 1234\r\nByte-Range: 1-0/0\r\n", "$"), |f| !f.is_content()),
        ("keep-alive with an empty line", with("SEND", "Message-ID: 1234\r\n\r\n", "$"), |f| !f.is_content()),
        ("empty body", with("SEND", "Message-ID: 1234\r\nContent-Type: a/b\r\n\r\n\r\n", "$"), |f| {
            f.is_content() && f.content_octets() == 0
        }),
        ("a body that has no Content-Type", with("SEND", "Message-ID: 1234\r\n\r\nfree?\r\n", "$"), |f| {
            f.is_content() && f.content_octets() == 5
        }),
        ("an empty line too many", with("SEND", "Message-ID: 1234\r\n\r\n\r\n", "$"), |f| !f.is_content()),
        (
            "interruptible",
            with("SEND", "Message-ID: 1234\r\nByte-Range: 1-*/40000\r\nContent-Type: a/b\r\n\r\nxx\r\n", "+"),
            |f| f.byte_range == Some(ByteRange { start: 1, end: None, total: Some(40_000) }) && f.flag == Flag::More,
        ),
        ("abort without content", with("SEND", "Message-ID: 1234\r\n", "#"), |f| {
            f.flag == Flag::Aborted && !f.is_content() && f.message_id == Some("1234")
        }),
        ("response", with("200 OK", "", "$"), |f| f.start == Start::Response(200)),
        ("response without a comment", with("415", "", "$"), |f| f.start == Start::Response(415)),
        ("response with a long comment", with("413 stop it now", "", "$"), |f| f.start == Start::Response(413)),
        ("report", with("REPORT", "Message-ID: 1234\r\nByte-Range: 1-39/39\r\nStatus: 000 413 No\r\n", "$"), |f| {
            f.status == Some(413) && f.start == Start::Request(Method::Report)
        }),
        ("status of another namespace", with("REPORT", "Message-ID: 1234\r\nStatus: 001 200\r\n", "$"), |f| {
            f.status.is_none()
        }),
        ("AUTH", with("AUTH", "", "$"), |f| f.start == Start::Request(Method::Auth)),
        ("unknown method", with("FROB", "X: y\r\n", "$"), |f| f.start == Start::Request(Method::Other("FROB"))),
        ("reports", with("SEND", "failure-report: Partial\r\nSUCCESS-REPORT: YES\r\n", "$"), |f| {
            f.failure_report == FailureReport::Partial && f.success_report
        }),
        ("no reports", with("SEND", "Failure-Report: no\r\n", "$"), |f| f.failure_report == FailureReport::No),
        (
            "end-line look-alikes in the body",
            with("SEND", "Message-ID: 1234\r\nContent-Type: a/b\r\n\r\n-------a786hjs2$\r\n-------b$\r\n", "$"),
            |f| f.body == Some(b"-------a786hjs2$\r\n-------b$".as_slice()),
        ),
    ];
    for (name, text, check) in table {
        let frame = parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(check(&frame), "{name}: {frame:?}");
    }
}

#[test]
fn invalid_frames_are_refused_by_kind() {
    let long = "x".repeat(33);
    let table: &[(String, MsrpError)] = &[
        (String::new(), MsrpError::StartLine),
        ("HTTP a786hjs2 SEND\r\n".into(), MsrpError::StartLine),
        (SEND.replace("a786hjs2", "abc"), MsrpError::Ident),
        (SEND.replace("a786hjs2", &long), MsrpError::Ident),
        (SEND.replace("a786hjs2", "-786hjs2"), MsrpError::Ident),
        (SEND.replace("-------a786hjs2$", "-------a786hjs3$"), MsrpError::EndLine),
        (SEND.replace("-------a786hjs2$", "-------a786hjs2!"), MsrpError::EndLine),
        (SEND.replace("-------a786hjs2$", "------a786hjs2$"), MsrpError::EndLine),
        (SEND.replace("To-Path", "To-Pathx"), MsrpError::Path),
        (SEND.replace("msrp://bobpc", "sip://bobpc"), MsrpError::Path),
        (SEND.replace("2a;tcp", "2a"), MsrpError::Path),
        (SEND.replace(":7394", ":99999"), MsrpError::Path),
        (SEND.replace("Message-ID: 87652491", "From-Path: msrp://a.example:1/x;tcp"), MsrpError::Path),
        (SEND.replace("Message-ID: 87652491", "To-Path: msrp://a.example:1/x;tcp"), MsrpError::Path),
        (SEND.replace("Content-Type:", "Content-Type"), MsrpError::Header),
        (with("SEND", &"X: y\r\n".repeat(100), "$"), MsrpError::Header),
        (with("SEND", &format!("X: {}\r\n", "y".repeat(20_000)), "$"), MsrpError::Header),
    ];
    for (text, error) in table {
        assert_eq!(parse(text).err(), Some(*error), "{text:?}");
    }
}

#[test]
fn frame_with_an_invalid_value_has_its_paths() {
    for (text, error) in [
        (SEND.replace("Message-ID: 87652491", "Message-ID: a b c d"), MsrpError::Ident),
        (SEND.replace("Message-ID: 87652491", &format!("Message-ID: {}", "x".repeat(33))), MsrpError::Ident),
        (SEND.replace("Message-ID: 87652491", "Message-ID: 87652491\r\nMessage-ID: 87652492"), MsrpError::Ident),
        (SEND.replace("1-25/25", "1-25"), MsrpError::Value),
        (SEND.replace("1-25/25", "-1-25/25"), MsrpError::Value),
    ] {
        let frame = parse(&text).expect("valid paths");
        assert_eq!((frame.bad_value, frame.to_path.endpoint().session_id), (Some(error), "kjhd37s2s20w2a"));
    }
}

#[test]
fn uris_are_compared_in_all_parts() {
    let canonical = |text: &str| {
        let uri = Path::parse(text).expect("a URI").endpoint();
        let mut space = [0; HOST_MAX];
        (uri.secure, uri.canonical_host(&mut space).to_vec(), uri.port, uri.session_id.to_owned())
    };
    for (one, other, same) in [
        ("msrp://a.example:1/x;tcp", "MSRP://A.EXAMPLE.:1/x;tcp", true),
        ("msrp://u@a.example:1/x;tcp;p", "msrp://a.example:1/x;tcp", true),
        ("msrp://[2001:DB8::1]:1/x;tcp", "msrp://[2001:db8:0::1]:1/x;tcp", true),
        ("msrp://a.example:1/x;tcp", "msrp://a.example:1/X;tcp", false),
        ("msrp://a.example:1/x;tcp", "msrp://a.example:2/x;tcp", false),
        ("msrp://a.example:1/x;tcp", "msrp://a.example/x;tcp", false),
        ("msrp://a.example:1/x;tcp", "msrps://a.example:1/x;tcp", false),
        ("msrp://a.example:1/x;tcp", "msrp://b.example:1/x;tcp", false),
    ] {
        assert_eq!(canonical(one) == canonical(other), same, "{one} {other}");
    }
}

#[test]
fn truncated_frame_is_refused() {
    for end in 0..SEND.len() {
        assert!(Frame::parse(&SEND.as_bytes()[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn changed_octet_does_not_panic() {
    for at in 0..SEND.len() {
        for octet in [0, b'\r', b'\n', b' ', b':', b'-', b'/', b'[', b']', 0xff] {
            let mut bytes = SEND.as_bytes().to_vec();
            bytes[at] = octet;
            let _ = Frame::parse(&bytes);
        }
    }
}

#[test]
fn uris_are_parsed() {
    let path = "msrps://alice@[2001:db8::1]:7654/S-1;tcp;x=y msrp://relay.example/;tcp MSRP://h/AbC;TCP";
    let uris: Vec<_> = Path::parse(path).expect("a path").uris().collect();
    assert_eq!(
        (uris[0].host, uris[0].port, uris[0].session_id, uris[0].secure),
        ("[2001:db8::1]", Some(7654), "S-1", true)
    );
    assert_eq!((uris[1].host, uris[1].port, uris[1].session_id), ("relay.example", None, ""));
    assert_eq!((uris[2].session_id, uris[2].transport), ("AbC", "TCP"));
    assert!(Path::parse("").is_err() && Path::parse("msrp://a/b;tcp  msrp://a/b;tcp").is_err());
    assert!(Path::parse(&vec!["msrp://a/b;tcp"; 17].join(" ")).is_err());
}

proptest! {
    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Frame::parse(&bytes);
    }

    #[test]
    fn built_frame_is_parsed(
        id in "[A-Za-z0-9][A-Za-z0-9.+%=-]{3,31}",
        message in "[A-Za-z0-9][A-Za-z0-9.+%=-]{3,31}",
        start in 1u64..1_000_000,
        content in proptest::collection::vec(any::<u8>(), 0..3000),
        flag in prop_oneof![Just(('$', Flag::Last)), Just(('+', Flag::More)), Just(('#', Flag::Aborted))],
    ) {
        let head = format!(
            "MSRP {id} SEND\r\nTo-Path: msrp://b:1/s1;tcp\r\nFrom-Path: msrp://a:2/s2;tcp\r\n\
             Message-ID: {message}\r\nByte-Range: {start}-*/*\r\nContent-Type: a/b\r\n\r\n"
        );
        let mut bytes = head.into_bytes();
        bytes.extend(&content);
        bytes.extend(format!("\r\n-------{id}{}\r\n", flag.0).bytes());
        let frame = Frame::parse(&bytes).expect("well formed");
        prop_assert_eq!(frame.transaction_id, id);
        prop_assert_eq!(frame.message_id, Some(message.as_str()));
        prop_assert_eq!(frame.byte_range.map(|range| range.start), Some(start));
        prop_assert_eq!(frame.body, Some(content.as_slice()));
        prop_assert_eq!(frame.flag, flag.1);
    }
}
