//! What a host tells the engine about a SIP message: the few fields that charging needs.
//!
//! A host that has parsed the message already (Kamailio, OpenSIPS) fills these from its own
//! structures; `engine::raw` fills them from raw bytes for every other host. All bytes are borrowed
//! from the caller and copied once, into the caller's event ring.

use crate::charge::event::{Direction, Suspended};
use std::net::IpAddr;

/// Names an INVITE: the identity a session is known by before its dialog exists.
#[derive(Clone, Copy, Debug)]
pub struct InviteKey<'a> {
    /// Call-ID, as it stands in the header.
    pub call_id: &'a [u8],
    /// Tag of the From header.
    pub from_tag: &'a [u8],
    /// Number of the CSeq header.
    pub cseq: u32,
}

/// Names a dialog in a request of either side: tags may stand in either order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialog<'a> {
    /// Call-ID, as it stands in the header.
    pub call_id: &'a [u8],
    /// Tag of the From header of this message.
    pub from_tag: &'a [u8],
    /// Tag of the To header of this message.
    pub to_tag: &'a [u8],
}

/// An initial INVITE that asks for stored messages, or (RCS push) brings them.
#[derive(Clone, Copy, Debug)]
pub struct Invite<'a> {
    /// Which INVITE it is.
    pub key: InviteKey<'a>,
    /// Values of the first two P-Asserted-Identity headers, whole; empty where there is none.
    pub asserted: [&'a [u8]; 2],
    /// Value of the From header, whole.
    pub from: &'a [u8],
    /// Value of P-Called-Party-ID, whole; empty where there is none.
    pub called_party: &'a [u8],
    /// The Request-URI as received.
    pub request_uri: &'a [u8],
    /// The identity to charge as the host's script has chosen it; empty: the engine chooses by `subscriber`.
    pub subscriber: &'a [u8],
    /// The direction as the host's script has chosen it; `None`: decided by the parameter `direction`.
    pub direction: Option<Direction>,
    /// Value of P-Charging-Vector, whole; empty where there is none.
    pub charging_vector: &'a [u8],
    /// How many stored messages the reservation is for; 0: not known.
    pub messages: u32,
    /// What to hand back with the verdict.
    pub suspended: Suspended,
}

/// Where a message came from, as the host knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Address.
    pub address: IpAddr,
    /// Port; 0 for a transport with connections, where the port says nothing of the party.
    pub port: u16,
}

/// Body of a SIP message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body<'a> {
    /// Value of Content-Type, whole; empty where there is none.
    pub content_type: &'a [u8],
    /// The body; empty where there is none.
    pub bytes: &'a [u8],
}

impl<'a> Body<'a> {
    /// A session description.
    pub fn sdp(bytes: &'a [u8]) -> Body<'a> {
        Body { content_type: b"application/sdp", bytes }
    }
}

/// The methods that concern a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// INVITE (RFC 3261).
    Invite,
    /// ACK (RFC 3261).
    Ack,
    /// PRACK (RFC 3262).
    Prack,
    /// UPDATE (RFC 3311).
    Update,
    /// BYE (RFC 3261).
    Bye,
    /// Any other.
    Other,
}

impl Method {
    /// By its name, which is case-sensitive (RFC 3261, 7.1).
    pub fn from_name(name: &[u8]) -> Method {
        match name {
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"PRACK" => Method::Prack,
            b"UPDATE" => Method::Update,
            b"BYE" => Method::Bye,
            _ => Method::Other,
        }
    }
}

/// A request, as far as it concerns a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Its method.
    pub method: Method,
    /// Its dialog; no To tag in an initial INVITE.
    pub dialog: Dialog<'a>,
    /// Number of the CSeq header.
    pub cseq: u32,
    /// The Request-URI as received.
    pub uri: &'a [u8],
    /// Value of Contact, whole; empty where there is none.
    pub contact: &'a [u8],
    /// Its body.
    pub body: Body<'a>,
    /// Where it came from; `None`: not known.
    pub source: Option<Source>,
}

/// A reply, as far as it concerns a dialog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// SIP status.
    pub code: u16,
    /// Method of the request that it answers.
    pub method: Method,
    /// Tags as in the request, with the To tag of the answering side; that is empty where the reply has none.
    pub dialog: Dialog<'a>,
    /// Number of the CSeq header.
    pub cseq: u32,
    /// Whether it is a provisional reply that is sent reliably (RFC 3262).
    pub is_reliable: bool,
    /// Value of Contact, whole; empty where there is none.
    pub contact: &'a [u8],
    /// Its body.
    pub body: Body<'a>,
    /// Where it came from; `None`: not known, or this proxy has made it.
    pub source: Option<Source>,
}

impl<'a> Request<'a> {
    /// One without a body, of which no more is known.
    pub fn new(method: Method, dialog: Dialog<'a>, cseq: u32) -> Request<'a> {
        Request { method, dialog, cseq, uri: b"", contact: b"", body: Body::default(), source: None }
    }
}

impl<'a> Reply<'a> {
    /// One without a body to this request, of which no more is known.
    pub fn new(request: &Request<'a>, code: u16, to_tag: &'a [u8]) -> Reply<'a> {
        let dialog = Dialog { to_tag, ..request.dialog };
        let (method, cseq, body) = (request.method, request.cseq, Body::default());
        Reply { code, method, dialog, cseq, is_reliable: false, contact: b"", body, source: None }
    }

    /// The INVITE that it answers, if it is the one that opens the session.
    pub fn invite_key(&self) -> InviteKey<'a> {
        InviteKey { call_id: self.dialog.call_id, from_tag: self.dialog.from_tag, cseq: self.cseq }
    }
}

/// A whole MSRP frame as it came in, from the first `M` to the CRLF of its end-line.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// The host's number of the connection it came on; 0 where the host has none, or has made the frame itself.
    pub connection: u64,
    /// The address at the other end of that connection; `None` where the host does not tell.
    pub source: Option<IpAddr>,
    /// Whether it came over a connection of this proxy to itself: both ends use this relay, and the frame passes twice.
    pub from_self: bool,
    /// The host's connections.
    pub connections: &'a dyn Connections,
}

impl<'a> Frame<'a> {
    /// A frame that came on a connection of which the host tells nothing but its number.
    pub fn of_connection(bytes: &'a [u8], connection: u64) -> Frame<'a> {
        Frame { bytes, connection, source: None, from_self: false, connections: &NoConnections }
    }
}

/// What a host knows of its connections.
pub trait Connections {
    /// Whether the connection of this number is open; `None` where the host cannot tell.
    fn is_open(&self, connection: u64) -> Option<bool>;
}

/// A host that cannot tell of its connections.
pub struct NoConnections;

impl Connections for NoConnections {
    fn is_open(&self, _: u64) -> Option<bool> {
        None
    }
}
