//! The dialogs of a call: their SIP messages, and the MSRP URIs in them.

use crate::call::{CLIENT, Call, SERVER};
pub use imcharge::shm::gate::Side;
use imcharge::worker::sip_input::{Body, Dialog, Method, Reply, Request, Source};
use std::net::{IpAddr, Ipv4Addr};

/// Address of a second user agent of the client.
const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 7));

/// SIP messages that carry the first offer and answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exchange {
    /// INVITE and 200.
    InviteAnd200,
    /// INVITE and a reliable 183.
    InviteAnd183,
    /// 200 and ACK.
    OfferIn200,
    /// A reliable 183 and PRACK.
    OfferIn183,
}

/// State of a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegState {
    None,
    Confirmed,
    Over,
}

/// A dialog of the INVITE. There are two if it was forked.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    /// Index of the dialog.
    pub number: usize,
    pub state: LegState,
    /// Versions of the MSRP URIs of server and client.
    pub versions: [u32; 2],
    /// Version of the next new URI, and CSeq of the next request.
    pub next: u32,
}

impl Leg {
    pub fn new(number: usize) -> Leg {
        Leg { number, state: LegState::None, versions: [0, 0], next: 1 }
    }

    /// Returns the tag of the answering side.
    fn tag(&self) -> &'static str {
        if self.number == 0 { "callee" } else { "callee2" }
    }
}

/// Form of a session description.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writing {
    /// Whether the MSRP session is the second of two, and the first is refused.
    pub is_second: bool,
    /// Whether the description is in a multipart body.
    pub is_part: bool,
}

/// A SIP message.
#[derive(Clone, Debug)]
pub struct Sip {
    method: Method,
    /// Status code; 0 for a request.
    code: u16,
    is_reliable: bool,
    call_id: String,
    from_tag: String,
    to_tag: String,
    cseq: u32,
    uri: &'static str,
    contact: &'static str,
    content_type: &'static str,
    body: String,
    source: IpAddr,
}

impl Sip {
    fn dialog(&self) -> Dialog<'_> {
        Dialog { call_id: self.call_id.as_bytes(), from_tag: self.from_tag.as_bytes(), to_tag: self.to_tag.as_bytes() }
    }

    fn body(&self) -> Body<'_> {
        Body { content_type: self.content_type.as_bytes(), bytes: self.body.as_bytes() }
    }

    fn source(&self) -> Option<Source> {
        Some(Source { address: self.source, port: 5060 })
    }

    pub fn request(&self) -> Request<'_> {
        let Sip { method, cseq, uri, contact, .. } = *self;
        let (uri, contact) = (uri.as_bytes(), contact.as_bytes());
        Request { method, dialog: self.dialog(), cseq, uri, contact, body: self.body(), source: self.source() }
    }

    pub fn reply(&self) -> Reply<'_> {
        let Sip { method, code, cseq, is_reliable, contact, .. } = *self;
        let (dialog, body, source) = (self.dialog(), self.body(), self.source());
        Reply { code, method, dialog, cseq, is_reliable, contact: contact.as_bytes(), body, source }
    }

    /// Adds a description with this `a=path`.
    pub fn describe(mut self, path: &str, is_answer: bool, writing: Writing) -> Sip {
        // The other MSRP session of the description. Of two that are offered, the answer refuses the first.
        let first = match (writing.is_second, is_answer) {
            (false, _) => String::new(),
            (true, false) => format!("m=message 7777 TCP/MSRP *\r\na=path:{}\r\n", path.replace(";tcp", "x;tcp")),
            (true, true) => "m=message 0 TCP/MSRP *\r\n".into(),
        };
        let description = format!("v=0\r\n{first}m=message 7777 TCP/MSRP *\r\na=path:{path}\r\n");
        (self.content_type, self.body) = match writing.is_part {
            false => ("application/sdp", description),
            true => (
                "multipart/mixed;boundary=b",
                format!(
                    "--b\r\nContent-Type: text/plain\r\n\r\nm=message 1 TCP/MSRP *\r\na=path:msrp://x/y;tcp\r\n\
                     --b\r\nContent-Type: application/sdp\r\n\r\n{description}\r\n--b--\r\n"
                ),
            ),
        };
        self
    }

    /// Makes it the ACK of an INVITE.
    pub fn follow(&mut self, invite: &Sip) {
        self.cseq = invite.cseq;
    }

    /// Makes it come from the second user agent of the client.
    pub fn by_second(mut self) -> Sip {
        (self.contact, self.source) = ("<sip:second@10.0.0.7>", SECOND);
        self
    }

    /// Makes it go to the second user agent of the client.
    pub fn for_second(mut self) -> Sip {
        self.uri = "sip:second@10.0.0.7";
        self
    }

    /// Makes it reliable (RFC 3262).
    pub fn reliable(mut self) -> Sip {
        self.is_reliable = true;
        self
    }
}

impl Call {
    /// Returns the leg for its next request; `None`: it is not confirmed.
    pub fn next_request(&mut self, at: usize) -> Option<Leg> {
        let leg = &mut self.legs[at];
        let is_confirmed = leg.state == LegState::Confirmed;
        leg.next += u32::from(is_confirmed);
        is_confirmed.then_some(*leg)
    }

    /// Returns the side that has sent the INVITE.
    pub fn inviting(&self) -> Side {
        if self.push { Side::Sender } else { Side::Receiver }
    }

    /// Returns the INVITE as the proxy relays it.
    pub fn invite_request(&self) -> Sip {
        let mut invite = self.request(&Leg::new(0), self.inviting(), Method::Invite);
        (invite.to_tag, invite.cseq, invite.uri) = (String::new(), 1, "sip:deferred@im.example.org");
        match self.exchange {
            Exchange::InviteAnd200 | Exchange::InviteAnd183 => {
                let offer = self.uri_of(self.inviting(), &Leg::new(0), 0);
                invite.describe(&offer, false, self.writing)
            }
            Exchange::OfferIn200 | Exchange::OfferIn183 => invite,
        }
    }

    /// Returns a reply to the INVITE in one of its dialogs.
    pub fn reply_to_invite(&self, leg: &Leg, code: u16) -> Sip {
        let mut reply = self.reply_to(&self.invite_request(), self.inviting(), code);
        reply.to_tag = leg.tag().into();
        reply
    }

    /// Returns a request within a dialog.
    pub fn request(&self, leg: &Leg, sender: Side, method: Method) -> Sip {
        let by_inviting = sender == self.inviting();
        let (from_tag, to_tag) = if by_inviting { ("caller", leg.tag()) } else { (leg.tag(), "caller") };
        Sip {
            method,
            code: 0,
            is_reliable: false,
            call_id: self.call_id(),
            from_tag: from_tag.into(),
            to_tag: to_tag.into(),
            cseq: leg.next + 1,
            uri: target_of(sender.other()),
            contact: contact_of(sender),
            content_type: "",
            body: String::new(),
            source: address_of(sender),
        }
    }

    /// Returns the other side's reply to a request.
    pub fn reply_to(&self, request: &Sip, sender: Side, code: u16) -> Sip {
        let side = sender.other();
        let (contact, source) = (contact_of(side), address_of(side));
        Sip { code, contact, source, content_type: "", body: String::new(), ..request.clone() }
    }

    /// Returns a version of the MSRP URI of a side.
    pub fn uri_of(&self, side: Side, leg: &Leg, version: u32) -> String {
        let uri = match side {
            Side::Sender => self.server_uri(),
            Side::Receiver => self.client_uri(),
        };
        // The offer of the inviting side is the same in each dialog.
        let (leg, version) = match (leg.number, version) {
            (_, 0) if side == self.inviting() => return uri,
            (0, 0) => return uri,
            key => key,
        };
        uri.replace(";tcp", &format!("l{leg}v{version};tcp"))
    }

    /// Returns the current MSRP URI of a side.
    pub fn uri_now(&self, side: Side, leg: &Leg) -> String {
        self.uri_of(side, leg, leg.versions[side as usize])
    }
}

fn target_of(side: Side) -> &'static str {
    match side {
        Side::Sender => "sip:server@10.0.0.2",
        Side::Receiver => "sip:client@10.0.0.1",
    }
}

fn contact_of(side: Side) -> &'static str {
    match side {
        Side::Sender => "<sip:server@10.0.0.2>",
        Side::Receiver => "<sip:client@10.0.0.1>",
    }
}

fn address_of(side: Side) -> IpAddr {
    match side {
        Side::Sender => SERVER,
        Side::Receiver => CLIENT,
    }
}
