//! What a host tells the engine about a SIP message: the few fields that charging needs.
//!
//! A host that has parsed the message already (Kamailio, OpenSIPS) fills these from its own
//! structures; `engine::raw` fills them from raw bytes for every other host. All bytes are borrowed
//! from the caller and copied once, into the caller's event ring.

use crate::charge::event::InviteTransaction;
use std::net::IpAddr;

/// A transaction that the host has suspended, as the host wants it back with the verdict.
/// The engine carries both numbers and never looks into them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Suspended {
    /// First host number (Kamailio: the hash index of the transaction).
    pub index: u64,
    /// Second host number (Kamailio: the label of the transaction).
    pub label: u64,
    /// Which continuation of the host the verdict is for (Kamailio: the index of the route).
    pub route: u64,
}

impl Suspended {
    /// Which transaction of its INVITE it is.
    pub fn transaction(self) -> InviteTransaction {
        InviteTransaction { index: self.index, label: self.label }
    }
}

/// Names an INVITE: the identity a session is known by before its dialog exists.
#[derive(Clone, Copy, Debug)]
pub struct Invitation<'a> {
    /// Call-ID, as it stands in the header.
    pub call_id: &'a [u8],
    /// Tag of the From header.
    pub from_tag: &'a [u8],
    /// Number of the CSeq header.
    pub cseq: u32,
}

/// Names a dialog in a request of either side: tags may stand in either order.
#[derive(Clone, Copy, Debug)]
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
    pub invitation: Invitation<'a>,
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
    /// Value of P-Charging-Vector, whole; empty where there is none.
    pub charging_vector: &'a [u8],
    /// How many stored messages the reservation is for; 0: not known.
    pub messages: u32,
    /// What to hand back with the verdict.
    pub suspended: Suspended,
}

/// A successful answer to an INVITE (initial or repeated), with both session descriptions.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The dialog, with the To tag of the answer.
    pub dialog: Dialog<'a>,
    /// Body of the INVITE (SDP), empty where it had none.
    pub offer: &'a [u8],
    /// Body of the 2xx (SDP).
    pub answer: &'a [u8],
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
