//! What happened, as the session machine hears of it. A worker of the host writes an [`Entry`] into its
//! ring; the engine reads it, perhaps in another order than other workers' entries.

use super::ch2::SessionKey;
use super::time::Time;
use serde::{Deserialize, Serialize};

/// One entry of an event ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// The session it belongs to.
    pub session: SessionKey,
    /// When the host's worker saw it.
    pub at: Time,
    /// What it was.
    #[serde(borrow)]
    pub event: Event<'a>,
}

/// The events of a session. Every order of them is accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event<'a> {
    /// Step 1: an INVITE waits for its reservation.
    Reserve(#[serde(borrow)] Reserve<'a>),
    /// A provisional response that is sent reliably (RFC 3262) went to the inviting side: an early dialog.
    EarlyDialog {
        /// Hash of the answering side's tag.
        leg: u64,
    },
    /// Step 4: a 2xx went to the inviting side, and the MSRP sessions are bound.
    Answered {
        /// Hash of the answering side's tag; 0: not known.
        leg: u64,
    },
    /// The INVITE ended without a 2xx: final failure reply, or the transaction died (408).
    Failed {
        /// SIP status.
        code: u16,
        /// Which transaction of the INVITE; `None`: the host does not tell.
        transaction: Option<InviteTransaction>,
    },
    /// CANCEL of the INVITE.
    Cancelled {
        /// Which transaction of the INVITE; `None`: the host does not tell.
        transaction: Option<InviteTransaction>,
    },
    /// Step 11: BYE of either side.
    Bye {
        /// Hash of the answering side's tag.
        leg: u64,
    },
    /// The server's side knows that a dialog is over: it has answered the BYE, or sent it.
    DialogOver {
        /// Hash of the answering side's tag.
        leg: u64,
    },
    /// The host's script closes the session.
    End {
        /// The script's word for why.
        reason: &'a str,
    },
    /// Step 5: a SEND with content from the server's side passed the gate and goes to the client.
    Sent(#[serde(borrow)] Sent<'a>),
    /// A frame was stopped.
    Stopped {
        /// Message-ID of the frame; empty where it has none.
        message_id: &'a str,
        /// Why it was stopped.
        why: Stop,
    },
    /// A response of the client's side.
    Responded {
        /// [`transaction`] of its id.
        transaction: u64,
        /// MSRP status.
        code: u16,
        /// The connection it came on; 0 where the host does not tell.
        connection: u64,
    },
    /// A REPORT of the client's side.
    Reported {
        /// Message-ID of the message it is about.
        message_id: &'a str,
        /// First octet it is about, from 1.
        start: u64,
        /// Last octet it is about; `None` where it does not say.
        end: Option<u64>,
        /// Code of the Status header (namespace 000).
        code: u16,
    },
    /// Any other frame of a bound session (empty SEND, keep-alive, NICKNAME, the server's responses): the
    /// session is alive.
    Activity {
        /// The connection it came on; 0 where the host does not tell.
        connection: u64,
    },
    /// A connection that carried frames of the session is closed.
    ConnectionLost {
        /// Which.
        connection: u64,
    },
    /// The host that had the session's connections is gone: another instance runs now, or it is being stopped.
    HostStopped,
    /// The enabler wants to be asked again about a reservation now.
    Reauthorize {
        /// Number of the request that opened it.
        opened_by: u32,
    },
    /// The enabler ends the service.
    Abort,
    /// A SEND with content that has passed the gate passes this relay once more, since both ends use it: the same octets,
    /// under the transaction id by which the client will answer.
    PassedAgain {
        /// Message-ID of the SEND.
        message_id: &'a str,
        /// [`transaction`] of its id.
        transaction: u64,
        /// Number of its first octet, from 1.
        start: u64,
        /// Octets of content.
        octets: u64,
    },
    /// A SEND that had passed the gate could not be sent on: its content was handed to nobody.
    Unsent {
        /// Message-ID of the SEND.
        message_id: &'a str,
        /// [`transaction`] of its id, as in [`Event::Sent`].
        transaction: u64,
    },
}

/// Identifies one SIP server transaction of an INVITE by the host's two numbers. An INVITE that arrives over two paths
/// has two transactions with the same Call-ID, From tag and CSeq (RFC 3261, 8.2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteTransaction {
    /// First host number (Kamailio: hash index of the transaction).
    pub index: u64,
    /// Second host number (Kamailio: label of the transaction).
    pub label: u64,
}

/// A suspended INVITE transaction and where the host resumes it. The host gets these numbers back with the verdict;
/// the engine does not interpret them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspended {
    /// First host number (Kamailio: hash index of the transaction).
    pub index: u64,
    /// Second host number (Kamailio: label of the transaction).
    pub label: u64,
    /// The script's continuation (Kamailio: index of the route to resume in).
    pub continuation: u64,
}

impl Suspended {
    /// Returns the transaction without its continuation.
    pub fn transaction(self) -> InviteTransaction {
        InviteTransaction { index: self.index, label: self.label }
    }
}

/// An INVITE that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve<'a> {
    /// Call-ID.
    pub call_id: &'a str,
    /// Canonical identity of the charged party; empty: none was found.
    pub account: &'a str,
    /// Canonical identity of the other party, for the record; empty where there is none.
    pub other: &'a str,
    /// icid-value of P-Charging-Vector; empty where there is none.
    pub icid: &'a str,
    /// Who offers and who has the stored messages.
    pub direction: Direction,
    /// For how many messages; 0: not known.
    pub messages: u32,
    /// The INVITE transaction that waits for the verdict.
    pub suspended: Suspended,
    /// Hash of the inviting side's tag.
    pub inviting_tag: u64,
}

/// Which side of the INVITE has the stored messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// OMA retrieval: the client invites, the server answers and sends.
    Pull,
    /// RCS push: the server invites and sends.
    Push,
}

/// A SEND with content, or the end of a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent<'a> {
    /// Message-ID.
    pub message_id: &'a str,
    /// [`transaction`] of its id, as this hop sends it.
    pub transaction: u64,
    /// Number of the first octet of the chunk, from 1.
    pub start: u64,
    /// Octets of content in the chunk.
    pub octets: u64,
    /// Total of Byte-Range; `None` where it is absent or `*`.
    pub total: Option<u64>,
    /// The end-line's flag.
    pub flag: Flag,
    /// What Failure-Report asks for.
    pub failure_report: FailureReport,
    /// Whether Success-Report is yes.
    pub success_report: bool,
    /// How much the gate took from the grant for this chunk (0: it was paid for before).
    pub taken: u32,
    /// The connection it came on; 0 where the host does not tell.
    pub connection: u64,
}

/// Why a frame was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// A SEND with content beyond the grant, or after the gate was closed.
    Beyond,
    /// A SEND with content of a message of which a chunk was stopped before, or that is settled.
    Message,
    /// A SEND with content of a session whose share of the gate is used up.
    Share,
    /// A frame that claims to be of the other side than it comes from.
    Forged,
    /// A frame from an endpoint of the session to one with which it has no MSRP session.
    NoStream,
}

/// The end-line's flag (RFC 4975, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flag {
    /// `$`: the last chunk.
    Last,
    /// `+`: more to come.
    More,
    /// `#`: the sender gives the message up.
    Aborted,
}

/// Failure-Report (RFC 4975, 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReport {
    /// `yes`, or absent.
    Yes,
    /// `partial`: only errors are answered.
    Partial,
    /// `no`: nothing is answered.
    No,
}

/// A transaction id of MSRP as the machine keeps it: 4 to 32 characters in eight octets.
pub fn transaction(id: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(id);
    hasher.finish()
}
