//! Facts from raw SIP bytes, for hosts that hand over messages as they came from the wire.

use super::facts::{Dialog, Invitation, Invite, Suspended};
use crate::wire::sip::{SipMessage, Start};

/// What an INVITE is for.
#[derive(Clone, Copy, Debug)]
pub enum Inviting<'a> {
    /// It opens a session.
    Initial(Invite<'a>),
    /// It has a To tag: it repeats in a dialog (RFC 3261, 14), nothing is to be reserved.
    InDialog,
}

/// A reply, as far as charging needs it.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// SIP status.
    pub code: u16,
    /// Whether it answers an INVITE, by its CSeq.
    pub to_invite: bool,
    /// The INVITE that it answers.
    pub invitation: Invitation<'a>,
    /// The dialog; the To tag is empty where the reply has none.
    pub dialog: Dialog<'a>,
    /// Its body.
    pub body: &'a [u8],
}

/// Reads an INVITE. `None`: no INVITE, or one without Call-ID, From tag or CSeq number.
pub fn invite(bytes: &[u8], messages: u32, suspended: Suspended) -> Option<Inviting<'_>> {
    let (sip, request_uri) = request(bytes, b"INVITE")?;
    let invitation = invitation(&sip)?;
    if !sip.to_tag.is_empty() {
        return Some(Inviting::InDialog);
    }
    Some(Inviting::Initial(Invite {
        invitation,
        asserted: sip.asserted,
        from: sip.from,
        called_party: sip.called_party,
        request_uri,
        subscriber: b"",
        charging_vector: sip.charging_vector,
        messages,
        suspended,
    }))
}

/// What the INVITE says that a reply answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer<'a> {
    /// Its body; empty where it has none.
    pub body: &'a [u8],
    /// Whether it repeats in a dialog (RFC 3261, 14).
    pub in_dialog: bool,
}

/// Reads the INVITE that a reply answers. `None`: no INVITE.
pub fn offer(bytes: &[u8]) -> Option<Offer<'_>> {
    let (sip, _) = request(bytes, b"INVITE")?;
    Some(Offer { body: sip.body, in_dialog: !sip.to_tag.is_empty() })
}

/// Reads a reply. `None`: no reply, or one without Call-ID, From tag or CSeq.
pub fn reply(bytes: &[u8]) -> Option<Reply<'_>> {
    let sip = SipMessage::parse(bytes)?;
    let Start::Response { code } = sip.start else { return None };
    Some(Reply {
        code,
        to_invite: sip.cseq_method == b"INVITE",
        invitation: invitation(&sip)?,
        dialog: dialog(&sip),
        body: sip.body,
    })
}

/// Reads a BYE. `None`: no BYE, or one without Call-ID or one of its tags.
pub fn bye(bytes: &[u8]) -> Option<Dialog<'_>> {
    let (sip, _) = request(bytes, b"BYE")?;
    invitation(&sip)?;
    Some(dialog(&sip)).filter(|dialog| !dialog.to_tag.is_empty())
}

/// Reads a CANCEL: the INVITE that it cancels (RFC 3261, 9.1). `None`: no CANCEL, or one without Call-ID, From
/// tag or CSeq number.
pub fn cancel(bytes: &[u8]) -> Option<Invitation<'_>> {
    let (sip, _) = request(bytes, b"CANCEL")?;
    invitation(&sip)
}

/// A request of this method, and its Request-URI. Methods are case-sensitive (RFC 3261, 7.1).
fn request<'a>(bytes: &'a [u8], wanted: &[u8]) -> Option<(SipMessage<'a>, &'a [u8])> {
    let sip = SipMessage::parse(bytes)?;
    match sip.start {
        Start::Request { method, uri } if method == wanted => Some((sip, uri)),
        _ => None,
    }
}

fn invitation<'a>(sip: &SipMessage<'a>) -> Option<Invitation<'a>> {
    let invitation = Invitation { call_id: sip.call_id, from_tag: sip.from_tag, cseq: sip.cseq? };
    Some(invitation).filter(|invitation| !invitation.call_id.is_empty() && !invitation.from_tag.is_empty())
}

fn dialog<'a>(sip: &SipMessage<'a>) -> Dialog<'a> {
    Dialog { call_id: sip.call_id, from_tag: sip.from_tag, to_tag: sip.to_tag }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with this first line, To tag and CSeq, and the header that the test wants.
    fn sip(first: &str, to_tag: &str, cseq: &str, more: &str) -> Vec<u8> {
        format!(
            "{first}\r\nVia: SIP/2.0/UDP a.example;branch=z9hG4bK1\r\nFrom: <sip:a@example.com>;tag=one\r\n\
             To: <sip:b@example.com>{to_tag}\r\nCall-ID: call\r\nCSeq: {cseq}\r\n{more}Content-Length: 4\r\n\r\nbody"
        )
        .into_bytes()
    }

    const INVITE: &str = "INVITE sip:b@example.com SIP/2.0";

    #[test]
    fn an_invite_gives_every_field_that_it_has() {
        let more = "P-Asserted-Identity: <sip:c@example.com>\r\nP-Asserted-Identity: <tel:+491>\r\nP-Called-Party-ID: <sip:d@example.com>\r\n";
        let bytes = sip(INVITE, "", "7 INVITE", more);
        let suspended = Suspended { index: 1, label: 2, route: 3 };
        let Some(Inviting::Initial(invite)) = invite(&bytes, 4, suspended) else { panic!("not read") };
        assert_eq!(invite.invitation.call_id, b"call");
        assert_eq!((invite.invitation.from_tag, invite.invitation.cseq), (&b"one"[..], 7));
        assert_eq!(invite.request_uri, b"sip:b@example.com");
        assert_eq!(invite.asserted, [&b"<sip:c@example.com>"[..], b"<tel:+491>"]);
        assert_eq!(invite.called_party, b"<sip:d@example.com>");
        assert_eq!((invite.messages, invite.suspended), (4, suspended));
    }

    #[test]
    fn a_repeated_invite_is_told_by_its_to_tag() {
        let bytes = sip(INVITE, ";tag=two", "8 INVITE", "");
        assert!(matches!(invite(&bytes, 0, Suspended::default()), Some(Inviting::InDialog)));
        assert_eq!(offer(&bytes), Some(Offer { body: b"body", in_dialog: true }));
        let bytes = sip(INVITE, "", "8 INVITE", "");
        assert_eq!(offer(&bytes), Some(Offer { body: b"body", in_dialog: false }));
    }

    #[test]
    fn each_reader_takes_its_own_kind_only() {
        let request = |method: &str| sip(&format!("{method} sip:b@example.com SIP/2.0"), ";tag=two", "8 X", "");
        let reply_to_bye = sip("SIP/2.0 200 OK", ";tag=two", "8 BYE", "");
        for (bytes, readers) in [
            (request("INVITE"), [true, false, false, false]),
            (request("BYE"), [false, true, false, false]),
            (request("CANCEL"), [false, false, true, false]),
            (reply_to_bye, [false, false, false, true]),
            (b"\r\n\r\n".to_vec(), [false; 4]),
        ] {
            let read =
                [offer(&bytes).is_some(), bye(&bytes).is_some(), cancel(&bytes).is_some(), reply(&bytes).is_some()];
            assert_eq!(read, readers, "{}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_reply_says_what_it_answers() {
        let bytes = sip("SIP/2.0 486 Busy Here", ";tag=two", "9 INVITE", "");
        let busy = reply(&bytes).expect("a reply");
        assert_eq!((busy.code, busy.to_invite, busy.invitation.cseq, busy.dialog.to_tag), (486, true, 9, &b"two"[..]));
        assert_eq!(reply(&sip("SIP/2.0 200 OK", ";tag=two", "9 BYE", "")).map(|reply| reply.to_invite), Some(false));
    }

    #[test]
    fn a_bye_without_a_to_tag_is_none() {
        assert!(bye(&sip("BYE sip:b@example.com SIP/2.0", "", "9 BYE", "")).is_none());
    }
}
