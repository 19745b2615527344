use super::*;
use proptest::prelude::*;

const METADATA: &str = "From: Bob <im:bob@example.com>\r\nTo: Alice <im:alice@example.com>\r\n\
                        NS: imdn <urn:ietf:params:imdn>\r\nimdn.Message-ID: d834jied93rf\r\n";

fn read(text: &str) -> Result<&str, CpimError> {
    media_type(text.as_bytes())
}

/// Messages as the standards and products write them.
#[test]
fn media_type_of_the_encapsulated_message_is_found() {
    let imdn = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<imdn xmlns=\"urn:ietf:params:xml:ns:imdn\">\r\n</imdn>";
    for (what, message, wanted) in [
        (
            "RFC 3862: metadata and MIME headers",
            "From: MR SANDERS <im:piglet@100akerwood.com>\r\nTo: Depressed Donkey <im:eeyore@100akerwood.com>\r\n\
             DateTime: 2000-12-13T13:40:00-08:00\r\nSubject: the weather will be fine today\r\n\
             Subject:;lang=fr beau temps prevu pour aujourd'hui\r\n\
             NS: MyFeatures <mid:MessageFeatures@id.foo.com>\r\nRequire: MyFeatures.VitalMessageOption\r\n\
             MyFeatures.VitalMessageOption: Confirmation-requested\r\nMyFeatures.WackyMessageOption: Use-silly-font\r\n\
             \r\nContent-type: text/xml; charset=utf-8\r\nContent-ID: <1234567890@foo.com>\r\n\r\n<body>\r\nHello\r\n</body>"
                .to_owned(),
            "text/xml",
        ),
        (
            "RFC 5438: a message that asks for notifications",
            format!(
                "{METADATA}DateTime: 2006-04-04T12:16:49-05:00\r\n\
                 imdn.Disposition-Notification: positive-delivery, negative-delivery\r\n\r\n\
                 Content-type: text/plain\r\nContent-length: 12\r\n\r\nHello World"
            ),
            "text/plain",
        ),
        (
            "RFC 5438: a notification",
            format!(
                "{METADATA}\r\nContent-type: message/imdn+xml\r\nContent-Disposition: notification\r\n\
                 Content-length: 300\r\n\r\n{imdn}"
            ),
            "message/imdn+xml",
        ),
        (
            "RFC 5438: without the empty line before the MIME headers",
            format!(
                "{METADATA}Content-type: message/imdn+xml\r\nContent-Disposition: notification\r\n\
                 Content-length: 300\r\n\r\n{imdn}"
            ),
            "message/imdn+xml",
        ),
        (
            "RFC 3994: a composing indication",
            format!(
                "{METADATA}\r\nContent-Type: application/im-iscomposing+xml\r\n\r\n\
                 <isComposing xmlns='urn:ietf:params:xml:ns:im-iscomposing'><state>active</state></isComposing>"
            ),
            "application/im-iscomposing+xml",
        ),
        (
            "upper case",
            "FROM: <IM:A@B>\r\n\r\nCONTENT-TYPE: MESSAGE/IMDN+XML\r\n\r\n<imdn/>".to_owned(),
            "MESSAGE/IMDN+XML",
        ),
        (
            "folded headers",
            "From: <im:a@b>\r\nSubject: a\r\n long one\r\n\r\nContent-Length: 3\r\n\
             Content-Type:\r\n\tmessage/imdn+xml\r\n ;charset=utf-8\r\n\r\n<imdn/>"
                .to_owned(),
            "message/imdn+xml",
        ),
        ("no metadata", "\r\nContent-Type:text/plain\r\n\r\n".to_owned(), "text/plain"),
        (
            "a text that mentions the type",
            "From: <im:a@b>\r\nSubject: Content-Type: message/imdn+xml\r\n\r\nContent-Type: text/plain\r\n\r\n\
             Content-Type: message/imdn+xml\r\n\r\n<imdn/>"
                .to_owned(),
            "text/plain",
        ),
    ] {
        assert_eq!(read(&message), Ok(wanted), "{what}");
    }
}

#[test]
fn messages_of_unknown_type_are_refused_by_reason() {
    let many = "X: y\r\n".repeat(HEADERS_MAX + 2);
    let long = format!("X: {}\r\n\r\nContent-Type: text/plain\r\n\r\n", "y".repeat(HEAD_MAX));
    for (what, message, wanted) in [
        ("nothing", "", CpimError::Incomplete),
        ("metadata alone", "From: <im:a@b>\r\n\r\n", CpimError::Incomplete),
        ("broken off in Content-Type", "From: a\r\n\r\nContent-Type: message/im", CpimError::Incomplete),
        ("broken off after Content-Type", "From: a\r\n\r\nContent-Type: message/imdn+xml\r\n", CpimError::Incomplete),
        ("no CRLF", "From: a\n\nContent-Type: message/imdn+xml\n\n<imdn/>", CpimError::Header),
        (
            "a bare LF in a header",
            "From: a\r\n\r\nX: y\nContent-Type: message/imdn+xml\r\n\r\n<imdn/>",
            CpimError::Header,
        ),
        ("no header", "From a\r\n\r\nContent-Type: message/imdn+xml\r\n\r\n<imdn/>", CpimError::Header),
        ("a name with a blank", "From: a\r\n\r\nContent-Type : message/imdn+xml\r\n\r\n<imdn/>", CpimError::Header),
        ("a continuation line first", " From: a\r\n\r\nContent-Type: text/plain\r\n\r\n", CpimError::Header),
        ("no Content-Type", "From: a\r\n\r\nContent-Length: 3\r\n\r\nabc", CpimError::ContentType),
        (
            "two of them",
            "From: a\r\n\r\nContent-Type: message/imdn+xml\r\nContent-Type: text/plain\r\n\r\nabc",
            CpimError::ContentType,
        ),
        (
            "one in each group",
            "Content-Type: message/imdn+xml\r\n\r\nContent-Type: text/plain\r\n\r\nabc",
            CpimError::ContentType,
        ),
        (
            "one among the metadata, and a second group",
            "Content-Type: message/imdn+xml\r\n\r\nX: y\r\n\r\nabc",
            CpimError::ContentType,
        ),
        (
            "one among the metadata, and an empty second group",
            "From: a\r\nContent-Type: message/imdn+xml\r\n\r\n\r\nabc",
            CpimError::ContentType,
        ),
        (
            "one among the metadata, and perhaps a second group in the next octets",
            "From: a\r\nContent-Type: message/imdn+xml\r\n\r\nabc",
            CpimError::Incomplete,
        ),
        ("an invalid one", "From: a\r\n\r\nContent-Type: message\r\n\r\nabc", CpimError::ContentType),
        ("too many headers", &many, CpimError::Header),
        ("too long headers", &long, CpimError::Header),
    ] {
        assert_eq!(read(message), Err(wanted), "{what}");
    }
}

#[test]
fn message_is_known_only_once_its_headers_are_complete() {
    let message = format!("{METADATA}\r\nContent-Length: 3\r\nContent-type: message/imdn+xml\r\n\r\n<imdn/>");
    let head = message.find("<imdn/>").expect("it has content");
    for cut in 0..=message.len() {
        let read = read(&message[..cut]);
        assert_eq!(read.is_ok(), cut >= head, "the first {cut} octets give {read:?}");
    }
}

proptest! {
    #[test]
    fn any_octets_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = media_type(&bytes);
    }

    #[test]
    fn any_lines_are_read_or_refused(
        lines in proptest::collection::vec(
            prop_oneof!["", "[A-Za-z]{1,4}: [a-z]{0,4}", "[Cc]ontent-[Tt]ype: ?[a-z/]{0,8}", " [a-z:]{0,4}", "<[a-z]{0,9}"],
            0..12,
        )
    ) {
        let message = lines.join("\r\n");
        if let Ok(found) = read(&message) {
            prop_assert!(message.to_ascii_lowercase().contains("content-type"));
            prop_assert!(media_type::is_media_type(found) && message.contains(found));
        }
    }

    /// Whatever a text contains, it has the type that its headers state.
    #[test]
    fn content_does_not_change_the_type(content in any::<String>()) {
        let message = format!("{METADATA}\r\nContent-Type: text/plain\r\n\r\n{content}");
        prop_assert_eq!(read(&message), Ok("text/plain"));
    }
}
