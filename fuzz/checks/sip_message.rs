//! SIP from raw bytes (RFC 3261): all fields lie in the message, equivalent forms of the message give the same fields,
//! and the readers of the worker agree with the parser.

use super::lies_in;
use imcharge::charge::event::Suspended;
use imcharge::wire::identity;
use imcharge::wire::sip::{SipMessage, Start, Target, icid};
use imcharge::worker::raw_sip;
use imcharge::worker::raw_sip::ParsedInvite;
use imcharge::worker::sip_input::Method;

/// Maximum length of a message in octets.
const MESSAGE_MAX: usize = 64 * 1024;

/// Parses a message with all readers.
pub fn check(bytes: &[u8]) {
    let message = SipMessage::parse(bytes);
    assert_readers(bytes, message.as_ref());
    assert_identity(bytes);
    let Some(message) = message else { return };
    assert!(bytes.len() <= MESSAGE_MAX, "the length is limited");
    for part in fields(&message) {
        assert!(lies_in(part, bytes), "a field outside the message");
    }
    assert!(lies_in(icid(message.charging_vector), message.charging_vector));
    if let Some(target) = Target::parse(message.contact) {
        for part in [target.scheme, target.user, target.host] {
            assert!(lies_in(part, message.contact), "a part outside the URI");
        }
    }
    if let Start::Response { code } = message.start {
        assert!((100..700).contains(&code));
    }
    for value in [message.from, message.asserted[0], message.asserted[1], message.called_party] {
        assert_identity(value);
    }
    assert_line_breaks_are_ignored(bytes, &message);
    assert_trailing_octets_are_ignored(bytes, &message);
}

fn fields<'a>(message: &SipMessage<'a>) -> [&'a [u8]; 12] {
    [
        message.call_id,
        message.from,
        message.from_tag,
        message.to_tag,
        message.cseq_method,
        message.asserted[0],
        message.asserted[1],
        message.called_party,
        message.charging_vector,
        message.contact,
        message.content_type,
        message.body,
    ]
}

/// Line breaks before the start line are ignored (RFC 3261, 7.5).
fn assert_line_breaks_are_ignored(bytes: &[u8], message: &SipMessage<'_>) {
    if bytes.len() + 4 <= MESSAGE_MAX {
        let padded = [b"\r\n\r\n", bytes].concat();
        assert_eq!(SipMessage::parse(&padded).as_ref(), Some(message));
    }
}

/// Octets after the body, as delimited by Content-Length, are not part of the message (RFC 3261, 18.3).
fn assert_trailing_octets_are_ignored(bytes: &[u8], message: &SipMessage<'_>) {
    if message.body.is_empty() {
        return;
    }
    let end = message.body.as_ptr().addr() - bytes.as_ptr().addr() + message.body.len();
    assert_eq!(SipMessage::parse(&bytes[..end]).as_ref(), Some(message));
}

/// Each reader accepts its own kind of message only.
fn assert_readers(bytes: &[u8], message: Option<&SipMessage<'_>>) {
    let method = match message.map(|message| message.start) {
        Some(Start::Request { method, .. }) => method,
        _ => b"",
    };
    let is_reply = matches!(message.map(|message| message.start), Some(Start::Response { .. }));
    let invite = raw_sip::invite(bytes, 1, Suspended::default());
    assert!(invite.is_none() || method == b"INVITE");
    assert!(raw_sip::cancel(bytes).is_none() || method == b"CANCEL");
    assert!(raw_sip::reply(bytes, None).is_none_or(|reply| is_reply && !reply.dialog.from_tag.is_empty()));
    if let Some(request) = raw_sip::request(bytes, None) {
        assert!(!method.is_empty() && request.method == Method::from_name(method));
        assert!(!request.dialog.call_id.is_empty() && !request.dialog.from_tag.is_empty());
    }
    if let (Some(ParsedInvite::Initial(invite)), Some(message)) = (invite, message) {
        assert_eq!(Some(invite.key.cseq), message.cseq);
        assert_eq!((invite.key.call_id, invite.key.from_tag), (message.call_id, message.from_tag));
        assert!(message.to_tag.is_empty(), "an INVITE with a To tag is not initial");
    }
}

/// A canonical identity is of limited length, printable, and its own canonical form.
fn assert_identity(value: &[u8]) {
    let Some(identity) = identity::canonical(value) else {
        return assert!(!identity::is_store_and_forward(&[value], None));
    };
    assert!(identity.len() <= 256);
    assert!(identity.starts_with("sip:") || identity.starts_with("tel:"));
    assert!(identity.bytes().all(|octet| octet.is_ascii_graphic()));
    assert_eq!(identity::canonical(identity.as_bytes()).as_deref(), Some(identity.as_str()));
}
