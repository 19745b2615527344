//! Input of the hooks: the fields of SIP messages and MSRP frames that charging needs.
//!
//! Hosts that have parsed a message (Kamailio, OpenSIPS) fill these from their own structures; for others,
//! [`raw_sip`](super::raw_sip) reads them from raw messages. All bytes are borrowed from the caller and copied once, into
//! the event ring.

use crate::charge::event::{Direction, Suspended};
use crate::charge::service::ChargedContent;
use std::net::IpAddr;

/// Identifies an INVITE, and the session that it opens.
#[derive(Clone, Copy, Debug)]
pub struct InviteKey<'a> {
    /// Value of Call-ID.
    pub call_id: &'a [u8],
    /// Tag of the From header.
    pub from_tag: &'a [u8],
    /// Number of the CSeq header.
    pub cseq: u32,
}

/// Identifies a dialog in a message of either side: the tags are those of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialog<'a> {
    /// Value of Call-ID.
    pub call_id: &'a [u8],
    /// Tag of the From header of this message.
    pub from_tag: &'a [u8],
    /// Tag of the To header of this message.
    pub to_tag: &'a [u8],
}

/// An initial INVITE of an MSRP session, or a SIP MESSAGE.
#[derive(Clone, Copy, Debug)]
pub struct Invite<'a> {
    /// Identifies the INVITE.
    pub key: InviteKey<'a>,
    /// Complete values of the first two P-Asserted-Identity headers; empty if absent.
    pub asserted: [&'a [u8]; 2],
    /// Complete value of From.
    pub from: &'a [u8],
    /// Complete value of P-Called-Party-ID; empty if absent.
    pub called_party: &'a [u8],
    /// Request-URI as received.
    pub request_uri: &'a [u8],
    /// Identity to charge, if the script has chosen it; empty: chosen by the parameter `subscriber`.
    pub subscriber: &'a [u8],
    /// Direction, if the script has chosen it; `None`: decided by the parameter `direction`.
    pub direction: Option<Direction>,
    /// Complete value of P-Charging-Vector; empty if absent.
    pub charging_vector: &'a [u8],
    /// Number of messages to reserve for, 0: unknown; number of copies of a MESSAGE, 0: one.
    pub messages: u32,
    /// Which content is charged.
    pub content: ChargedContent,
    /// Number of recipients of each message; 0: unknown, counts as one.
    pub recipients: u32,
    /// Name of the tariff that the script has chosen; empty: none.
    pub tariff: &'a [u8],
    /// Body of an INVITE: its session description.
    pub offer: Body<'a>,
    /// Returned to the host with the verdict.
    pub suspended: Suspended,
}

/// Source address of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// IP address.
    pub address: IpAddr,
    /// Port; 0 for connection-oriented transports, where it does not identify the party.
    pub port: u16,
}

/// Body of a SIP message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Body<'a> {
    /// Complete value of Content-Type; empty if absent.
    pub content_type: &'a [u8],
    /// The body; empty if absent.
    pub bytes: &'a [u8],
}

impl<'a> Body<'a> {
    /// A body of type `application/sdp`.
    pub fn sdp(bytes: &'a [u8]) -> Body<'a> {
        Body { content_type: b"application/sdp", bytes }
    }
}

/// Methods that affect charging.
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
    /// MESSAGE (RFC 3428).
    Message,
    /// Any other.
    Other,
}

impl Method {
    /// Returns the method of this name, which is case-sensitive (RFC 3261, 7.1).
    pub fn from_name(name: &[u8]) -> Method {
        match name {
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"PRACK" => Method::Prack,
            b"UPDATE" => Method::Update,
            b"BYE" => Method::Bye,
            b"MESSAGE" => Method::Message,
            _ => Method::Other,
        }
    }
}

/// A request within a dialog, or an initial INVITE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// Method.
    pub method: Method,
    /// Dialog; without a To tag in an initial INVITE.
    pub dialog: Dialog<'a>,
    /// Number of the CSeq header.
    pub cseq: u32,
    /// Request-URI as received.
    pub uri: &'a [u8],
    /// Complete value of Contact; empty if absent.
    pub contact: &'a [u8],
    /// Body.
    pub body: Body<'a>,
    /// Source address; `None`: unknown.
    pub source: Option<Source>,
}

/// A reply to such a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// SIP status code.
    pub code: u16,
    /// Method of its CSeq header.
    pub method: Method,
    /// Call-ID and tags; the To tag is empty if the reply has none.
    pub dialog: Dialog<'a>,
    /// Number of the CSeq header.
    pub cseq: u32,
    /// Whether it is a reliable provisional reply (RFC 3262).
    pub is_reliable: bool,
    /// Complete value of Contact; empty if absent.
    pub contact: &'a [u8],
    /// Body.
    pub body: Body<'a>,
    /// Source address; `None`: unknown, or generated by this proxy.
    pub source: Option<Source>,
}

impl<'a> Request<'a> {
    /// A request without Contact and body, of unknown source.
    pub fn new(method: Method, dialog: Dialog<'a>, cseq: u32) -> Request<'a> {
        Request { method, dialog, cseq, uri: b"", contact: b"", body: Body::default(), source: None }
    }
}

impl<'a> Reply<'a> {
    /// A reply to this request without Contact and body, of unknown source.
    pub fn new(request: &Request<'a>, code: u16, to_tag: &'a [u8]) -> Reply<'a> {
        let dialog = Dialog { to_tag, ..request.dialog };
        let (method, cseq, body) = (request.method, request.cseq, Body::default());
        Reply { code, method, dialog, cseq, is_reliable: false, contact: b"", body, source: None }
    }

    /// Identifies the INVITE that it answers, if that is an initial one.
    pub fn invite_key(&self) -> InviteKey<'a> {
        InviteKey { call_id: self.dialog.call_id, from_tag: self.dialog.from_tag, cseq: self.cseq }
    }
}

/// A complete MSRP frame as received, from the first `M` to the CRLF of its end-line.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// The bytes.
    pub bytes: &'a [u8],
    /// The host's number of the connection that it came on; 0 if unknown, or if the host has generated the frame.
    pub connection: u64,
    /// Peer address of that connection; `None`: unknown.
    pub source: Option<IpAddr>,
    /// Whether it came on a connection of this proxy to itself: both parties use this relay, and the frame passes twice.
    pub from_self: bool,
    /// Looks up the host's connections.
    pub connections: &'a dyn Connections,
}

impl<'a> Frame<'a> {
    /// A frame from a connection of which only the number is known.
    pub fn of_connection(bytes: &'a [u8], connection: u64) -> Frame<'a> {
        Frame { bytes, connection, source: None, from_self: false, connections: &NoConnections }
    }
}

/// Looks up connections of the host.
pub trait Connections {
    /// Whether the connection of this number is open; `None`: unknown.
    fn is_open(&self, connection: u64) -> Option<bool>;
}

/// For hosts that cannot look up connections.
pub struct NoConnections;

impl Connections for NoConnections {
    fn is_open(&self, _: u64) -> Option<bool> {
        None
    }
}
