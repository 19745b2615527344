//! Reads SIP input from raw messages, for hosts that pass them as received.

use crate::charge::event::Suspended;
use crate::charge::service::ChargedContent;
use crate::wire::sip::{SipMessage, Start};
use crate::worker::sip_input::{Body, Dialog, Invite, InviteKey, Method, Reply, Request, Source};

/// An INVITE as read from a raw message.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "one value on the stack, for the time of a call")]
pub enum ParsedInvite<'a> {
    /// It can open a session.
    Initial(Invite<'a>),
    /// It has a To tag: a re-INVITE within a dialog (RFC 3261, 14), which reserves nothing.
    InDialog,
}

/// Reads an INVITE; `None` if it is something else or has no Call-ID, From tag or CSeq number.
pub fn invite(bytes: &[u8], messages: u32, suspended: Suspended) -> Option<ParsedInvite<'_>> {
    let (sip, request_uri) = of_method(bytes, b"INVITE")?;
    let invite = charged_request(&sip, request_uri, messages, suspended)?;
    Some(if sip.to_tag.is_empty() { ParsedInvite::Initial(invite) } else { ParsedInvite::InDialog })
}

fn charged_request<'a>(
    sip: &SipMessage<'a>,
    request_uri: &'a [u8],
    messages: u32,
    suspended: Suspended,
) -> Option<Invite<'a>> {
    Some(Invite {
        key: invite_key(sip)?,
        asserted: sip.asserted,
        from: sip.from,
        called_party: sip.called_party,
        request_uri,
        subscriber: b"",
        direction: None,
        charging_vector: sip.charging_vector,
        messages,
        content: ChargedContent::Received,
        recipients: 0,
        tariff: b"",
        offer: body(sip),
        suspended,
    })
}

/// Reads a MESSAGE and its body; `None` if it is something else or has no Call-ID, From tag or CSeq number.
pub fn message(bytes: &[u8], copies: u32, suspended: Suspended) -> Option<(Invite<'_>, Body<'_>)> {
    let (sip, request_uri) = of_method(bytes, b"MESSAGE")?;
    Some((charged_request(&sip, request_uri, copies, suspended)?, body(&sip)))
}

/// Reads a request; `None` if it is something else or has no Call-ID, From tag or CSeq number.
pub fn request(bytes: &[u8], source: Option<Source>) -> Option<Request<'_>> {
    let sip = SipMessage::parse(bytes)?;
    let Start::Request { method, uri } = sip.start else { return None };
    let cseq = invite_key(&sip)?.cseq;
    let (method, dialog) = (Method::from_name(method), dialog(&sip));
    Some(Request { method, dialog, cseq, uri, contact: sip.contact, body: body(&sip), source })
}

/// Reads a reply; `None` if it is something else or has no Call-ID, From tag or CSeq number.
pub fn reply(bytes: &[u8], source: Option<Source>) -> Option<Reply<'_>> {
    let sip = SipMessage::parse(bytes)?;
    let Start::Response { code } = sip.start else { return None };
    let cseq = invite_key(&sip)?.cseq;
    Some(Reply {
        code,
        method: Method::from_name(sip.cseq_method),
        dialog: dialog(&sip),
        cseq,
        is_reliable: code < 200 && sip.is_reliable,
        contact: sip.contact,
        body: body(&sip),
        source,
    })
}

/// Reads a CANCEL and returns the INVITE that it cancels (RFC 3261, 9.1); `None` if it is something else or has no Call-ID,
/// From tag or CSeq number.
pub fn cancel(bytes: &[u8]) -> Option<InviteKey<'_>> {
    let (sip, _) = of_method(bytes, b"CANCEL")?;
    invite_key(&sip)
}

/// Parses a request of this method and returns its Request-URI. Methods are case-sensitive (RFC 3261, 7.1).
fn of_method<'a>(bytes: &'a [u8], wanted: &[u8]) -> Option<(SipMessage<'a>, &'a [u8])> {
    let sip = SipMessage::parse(bytes)?;
    match sip.start {
        Start::Request { method, uri } if method == wanted => Some((sip, uri)),
        _ => None,
    }
}

fn invite_key<'a>(sip: &SipMessage<'a>) -> Option<InviteKey<'a>> {
    let key = InviteKey { call_id: sip.call_id, from_tag: sip.from_tag, cseq: sip.cseq? };
    Some(key).filter(|key| !key.call_id.is_empty() && !key.from_tag.is_empty())
}

fn body<'a>(sip: &SipMessage<'a>) -> Body<'a> {
    Body { content_type: sip.content_type, bytes: sip.body }
}

fn dialog<'a>(sip: &SipMessage<'a>) -> Dialog<'a> {
    Dialog { call_id: sip.call_id, from_tag: sip.from_tag, to_tag: sip.to_tag }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with this first line, To tag and CSeq, and additional header fields.
    fn sip(first: &str, to_tag: &str, cseq: &str, more: &str) -> Vec<u8> {
        format!(
            "{first}\r\nVia: SIP/2.0/UDP a.example;branch=z9hG4bK1\r\nFrom: <sip:a@example.com>;tag=one\r\n\
             To: <sip:b@example.com>{to_tag}\r\nCall-ID: call\r\nCSeq: {cseq}\r\n{more}Content-Length: 4\r\n\r\nbody"
        )
        .into_bytes()
    }

    const INVITE: &str = "INVITE sip:b@example.com SIP/2.0";

    #[test]
    fn invite_has_all_its_fields() {
        let more = concat!(
            "P-Asserted-Identity: <sip:c@example.com>\r\nP-Asserted-Identity: <tel:+491>\r\n",
            "P-Called-Party-ID: <sip:d@example.com>\r\n"
        );
        let bytes = sip(INVITE, "", "7 INVITE", more);
        let suspended = Suspended { index: 1, label: 2, continuation: 3 };
        let Some(ParsedInvite::Initial(invite)) = invite(&bytes, 4, suspended) else { panic!("not read") };
        assert_eq!(invite.key.call_id, b"call");
        assert_eq!((invite.key.from_tag, invite.key.cseq), (&b"one"[..], 7));
        assert_eq!(invite.request_uri, b"sip:b@example.com");
        assert_eq!(invite.asserted, [&b"<sip:c@example.com>"[..], b"<tel:+491>"]);
        assert_eq!(invite.called_party, b"<sip:d@example.com>");
        assert_eq!((invite.messages, invite.suspended), (4, suspended));
    }

    #[test]
    fn invite_with_a_to_tag_is_in_a_dialog() {
        let bytes = sip(INVITE, ";tag=two", "8 INVITE", "");
        assert!(matches!(invite(&bytes, 0, Suspended::default()), Some(ParsedInvite::InDialog)));
        assert_eq!(request(&bytes, None).map(|request| request.dialog.to_tag), Some(&b"two"[..]));
    }

    #[test]
    fn message_has_its_fields_in_and_out_of_a_dialog() {
        for to_tag in ["", ";tag=two"] {
            let more = "P-Asserted-Identity: <sip:c@example.com>\r\nContent-Type: text/plain\r\n";
            let bytes = sip("MESSAGE sip:b@example.com SIP/2.0", to_tag, "7 MESSAGE", more);
            let (read, body) = message(&bytes, 3, Suspended::default()).expect("a MESSAGE");
            assert_eq!((read.key.cseq, read.request_uri, read.messages), (7, &b"sip:b@example.com"[..], 3));
            assert_eq!(read.asserted[0], b"<sip:c@example.com>");
            assert_eq!(body, Body { content_type: b"text/plain", bytes: b"body" });
            assert!(invite(&bytes, 0, Suspended::default()).is_none());
        }
        assert!(message(&sip(INVITE, "", "7 INVITE", ""), 0, Suspended::default()).is_none());
    }

    #[test]
    fn request_has_its_target_contact_and_body() {
        let source = Some(Source { address: [192, 0, 2, 1].into(), port: 5060 });
        let bytes = sip(
            "UPDATE sip:b@b.example SIP/2.0",
            ";tag=two",
            "8 UPDATE",
            "Contact: <sip:a@a.example>\r\nContent-Type: x/y\r\n",
        );
        let wanted = Request {
            method: Method::Update,
            dialog: Dialog { call_id: b"call", from_tag: b"one", to_tag: b"two" },
            cseq: 8,
            uri: b"sip:b@b.example",
            contact: b"<sip:a@a.example>",
            body: Body { content_type: b"x/y", bytes: b"body" },
            source,
        };
        assert_eq!(request(&bytes, source), Some(wanted));
        let methods = ["INVITE", "ACK", "PRACK", "UPDATE", "BYE", "bye", "MESSAGE"]
            .map(|name| Method::from_name(name.as_bytes()));
        let (bye, other) = (Method::Bye, Method::Other);
        assert_eq!(methods, [Method::Invite, Method::Ack, Method::Prack, Method::Update, bye, other, Method::Message]);
    }

    #[test]
    fn each_function_reads_its_kind_of_message_only() {
        for (bytes, readers) in [
            (sip(INVITE, ";tag=two", "8 INVITE", ""), [true, false, false]),
            (sip("CANCEL sip:b@example.com SIP/2.0", "", "8 CANCEL", ""), [true, true, false]),
            (sip("SIP/2.0 200 OK", ";tag=two", "8 BYE", ""), [false, false, true]),
            (b"\r\n\r\n".to_vec(), [false; 3]),
        ] {
            let read = [request(&bytes, None).is_some(), cancel(&bytes).is_some(), reply(&bytes, None).is_some()];
            assert_eq!(read, readers, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn reply_has_the_method_and_cseq_of_its_request() {
        let bytes = sip("SIP/2.0 486 Busy Here", ";tag=two", "9 INVITE", "RSeq: 1\r\n");
        let busy = reply(&bytes, None).expect("a reply");
        assert_eq!((busy.code, busy.method, busy.invite_key().cseq), (486, Method::Invite, 9));
        assert_eq!((busy.dialog.to_tag, busy.is_reliable), (&b"two"[..], false));
        let session_progress = sip("SIP/2.0 183 Session Progress", ";tag=two", "9 INVITE", "RSeq: 1\r\n");
        assert_eq!(reply(&session_progress, None).map(|reply| reply.is_reliable), Some(true));
        let to_bye = sip("SIP/2.0 200 OK", ";tag=two", "9 BYE", "");
        assert_eq!(reply(&to_bye, None).map(|reply| reply.method), Some(Method::Bye));
    }
}
