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
        icid: sip.icid,
        messages,
        suspended,
    }))
}

/// The session description that an INVITE offers; empty where it has none. `None`: no INVITE.
pub fn offer(bytes: &[u8]) -> Option<&[u8]> {
    request(bytes, b"INVITE").map(|(sip, _)| sip.body)
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
