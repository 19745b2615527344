//! Messages of the standard and of real traffic.

use super::*;
use proptest::prelude::*;

const INVITE: &str = "INVITE sip:im@example.org SIP/2.0\r\n\
    Via: SIP/2.0/UDP a.example;branch=z9hG4bK1\r\n\
    From: \"Alice ;tag=no\" <sip:alice@example.org;tag=neither>;tag=from1\r\n\
    To: <sip:im@example.org>\r\n\
    Call-ID: call-1@a.example\r\n\
    CSeq: 7 INVITE\r\n\
    P-Asserted-Identity: <sip:alice@example.org>\r\n\
    P-Charging-Vector: icid-value=\"i-1\";orig-ioi=x\r\n\
    Content-Length: 5\r\n\
    \r\n\
    v=0\r\nand more";

fn parse(text: &str) -> SipMessage<'_> {
    SipMessage::parse(text.as_bytes()).unwrap_or_else(|| panic!("not parsed: {text}"))
}

#[test]
fn invite_is_parsed() {
    let message = parse(INVITE);
    assert_eq!(message.start, Start::Request { method: b"INVITE", uri: b"sip:im@example.org" });
    assert_eq!(
        (message.call_id, message.from_tag, message.to_tag),
        (&b"call-1@a.example"[..], &b"from1"[..], &b""[..])
    );
    assert_eq!((message.cseq, message.cseq_method), (Some(7), &b"INVITE"[..]));
    assert_eq!((message.asserted[0], icid(message.charging_vector)), (&b"<sip:alice@example.org>"[..], &b"i-1"[..]));
    assert_eq!(message.body, b"v=0\r\n");
}

#[test]
fn only_blanks_may_precede_the_colon() {
    for (name, is_read) in
        [("P-Asserted-Identity", true), ("p-asserted-identity \t", true), ("P-Asserted-Identity\u{c}", false)]
    {
        let text = INVITE.replacen("P-Asserted-Identity", name, 1);
        assert_eq!(!parse(&text).asserted[0].is_empty(), is_read, "{name:?}");
    }
}

/// Changes to the INVITE that rsip cannot parse and that must not change the fields.
#[test]
fn real_messages_are_parsed_like_plain_ones() {
    let plain = parse(INVITE);
    let variants: &[(&str, &str)] = &[
        ("INVITE sip:im@example.org", "INVITE tel:+4930123"),
        ("INVITE sip:im@example.org", "INVITE urn:service:sos"),
        ("INVITE sip:im@example.org", "INVITE sip:im@[2001:db8::1]:5060"),
        ("Call-ID: ", "i:"),
        ("Call-ID: ", "CALL-ID : "),
        ("From: ", "f: "),
        ("To: ", "Contact: <sip:a@b>;+sip.instance=\"<urn:uuid:1>\"\r\nTo: "),
        ("From: \"Alice ;tag=no\" <sip:alice@example.org;tag=neither>;tag=from1", "From: <tel:+491>;x=\"y\";tag=from1"),
        ("From: \"Alice ;tag=no\" <sip:", "From: \"Alice ;tag=no\"\r\n <sip:"),
        (";tag=from1", "\r\n\t;tag=from1"),
        ("Via: SIP/2.0/UDP", "Subject: \u{fc}\r\nVia: SIP/2.0/UDP"),
        ("INVITE sip", "\r\n\r\nINVITE sip"),
        ("Content-Length: 5", "l: 5"),
    ];
    for (from, to) in variants {
        let text = INVITE.replacen(from, to, 1);
        assert_ne!(text, INVITE);
        let read = parse(&text);
        let same =
            |m: SipMessage<'_>| (m.call_id.to_vec(), m.from_tag.to_vec(), m.cseq, m.asserted.concat(), m.body.to_vec());
        assert_eq!(same(read), same(plain), "{to}");
    }
    let lf = INVITE.replace("\r\n", "\n").replace("Content-Length: 5", "Content-Length: 4");
    assert_eq!((parse(&lf).from_tag, parse(&lf).body), (&b"from1"[..], &b"v=0\n"[..]));
    let frob = INVITE.replace("INVITE", "FROB");
    assert_eq!(parse(&frob).start, Start::Request { method: b"FROB", uri: b"sip:im@example.org" });
    let mut octets = INVITE.as_bytes().to_vec();
    octets.splice(INVITE.len() - 3.., *b"\xff\xfe\xfd");
    octets.splice(20..20, *b"\xff");
    assert_eq!(SipMessage::parse(&octets).map(|message| message.call_id.to_vec()), Some(plain.call_id.to_vec()));
}

#[test]
fn response_and_its_tags_are_parsed() {
    let response = parse("SIP/2.0 200 OK\r\nFrom: <sip:a@b>;tag=f\r\nTo: sip:c@d;tag=t;x=y\r\nCSeq: 1 INVITE\r\n\r\n");
    assert_eq!(response.start, Start::Response { code: 200 });
    assert_eq!((response.from_tag, response.to_tag), (&b"f"[..], &b"t"[..]));
}

#[test]
fn scan_and_rsip_find_the_same_tag() {
    for value in ["<sip:a@b>;tag=x1", "\"A\" <sip:a@b:5060;transport=tcp>;tag=x-2.3", "sip:a@b;tag=q"] {
        let scanned = parameter(after_address(value.as_bytes()), b"tag");
        assert_eq!(rsip_tag(value.as_bytes()), Some(scanned), "{value}");
    }
    for value in ["<sip:a@[2001:db8::1]:5060>;tag=x", "<sip:a@b>;+sip.instance=\"<urn:uuid:1>\";tag=x"] {
        assert_eq!(rsip_tag(value.as_bytes()), None, "rsip parses {value} now: remove it from the table");
        assert_eq!(tag(value.as_bytes()), b"x");
    }
}

#[test]
fn icid_is_found_with_and_without_quotes() {
    for (vector, found) in
        [("icid-value=abc;orig-ioi=x", "abc"), ("orig-ioi=x; ICID-Value=\"a b\"", "a b"), ("orig-ioi=x", ""), ("", "")]
    {
        assert_eq!(icid(vector.as_bytes()), found.as_bytes(), "{vector}");
    }
}

#[test]
fn other_input_is_refused() {
    let long = format!("INVITE sip:a@b SIP/2.0\r\nX: {}\r\n\r\n", "y".repeat(70_000));
    for text in [
        "",
        "\r\n",
        "INVITE",
        "INVITE sip:a@b\r\n",
        "SIP/2.0 20 OK\r\n",
        "SIP/2.0 999 X\r\n",
        "GET / HTTP/1.1\r\n",
        &long,
    ] {
        assert_eq!(SipMessage::parse(text.as_bytes()), None, "{}", &text[..text.len().min(40)]);
    }
    let headless = parse("INVITE sip:a@b SIP/2.0\r\n");
    assert_eq!((headless.call_id, headless.cseq, headless.body), (&b""[..], None, &b""[..]));
}

proptest! {
    #[test]
    fn random_octets_do_not_panic(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = SipMessage::parse(&octets);
    }

    #[test]
    fn a_changed_octet_does_not_panic(at in 0..INVITE.len(), octet in any::<u8>()) {
        let mut octets = INVITE.as_bytes().to_vec();
        octets[at] = octet;
        let _ = SipMessage::parse(&octets);
    }
}

#[test]
fn content_type_and_rseq_are_parsed() {
    let lines = "RSeq: 1\r\nm: <sip:im@b.example:5070;lr>;expires=3\r\nc: application/sdp\r\nCall-ID: ";
    let text = INVITE.replacen("Call-ID: ", lines, 1);
    let message = parse(&text);
    assert!(message.is_reliable);
    assert_eq!(message.content_type, b"application/sdp");
    assert_eq!(message.contact, b"<sip:im@b.example:5070;lr>;expires=3");
    assert!(!parse(INVITE).is_reliable);
}

#[test]
fn remote_target_is_parsed() {
    let target = |text: &'static str| {
        Target::parse(text.as_bytes()).map(|target| {
            let words =
                [target.scheme, target.user, target.host].map(|word| String::from_utf8_lossy(word).into_owned());
            (words.join(" "), target.port)
        })
    };
    let wanted = Some(("sip im b.example".to_owned(), 5070));
    for text in [
        "sip:im@b.example:5070",
        "<sip:im@b.example:5070>",
        "\"<sip:x@y>, \\\"\" <sip:im@b.example:5070;transport=udp>;expires=60",
        "sip:im:secret@b.example:5070;transport=tcp?Subject=x",
        "<sip:im@b.example:5070>, <sip:other@c.example>",
        "sip:im@b.example:5070 , sip:other@c.example",
    ] {
        assert_eq!(target(text), wanted, "{text}");
    }
    assert_eq!(target("<sip:[2001:db8::1]>"), Some(("sip  [2001:db8::1]".into(), 5060)));
    assert_eq!(target("<sips:a@[2001:db8::1]:99>"), Some(("sips a [2001:db8::1]".into(), 99)));
    assert_eq!(target("tel:+491;phone-context=x"), Some(("tel +491 ".into(), 0)));
    for text in ["", "sip", "<>", "sip:a@", "sip:a@b:x", "*", "sip:a@b:70000", "tel:"] {
        assert_eq!(target(text), None, "{text}");
    }
}
