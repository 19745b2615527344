//! Events of a session. A worker of the host writes an [`Entry`] into its ring; the engine may read entries of different
//! rings in another order than they were written.

use super::ch2::SessionKey;
use super::content::ContentClass;
use super::service::Service;
use super::time::Time;
use serde::{Deserialize, Serialize};

/// One entry of an event ring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry<'a> {
    /// The session it belongs to.
    pub session: SessionKey,
    /// When the host's worker saw the event.
    pub at: Time,
    /// The event.
    #[serde(borrow)]
    pub event: Event<'a>,
}

/// Events of a session. The session accepts them in any order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event<'a> {
    /// Step 1 of the OMA flow: an INVITE is suspended until its reservation is answered.
    Reserve(#[serde(borrow)] Reserve<'a>),
    /// A reliable provisional response (RFC 3262) was sent to the inviting side: an early dialog.
    EarlyDialog {
        /// Hash of the answering side's tag.
        leg: u64,
    },
    /// Step 4: a 2xx was sent to the inviting side, and the MSRP sessions are bound.
    Answered {
        /// Hash of the answering side's tag; 0: unknown.
        leg: u64,
    },
    /// The INVITE ended without a 2xx: final failure response, or transaction timeout (408). The MESSAGE ended with a final
    /// failure response, or was never relayed.
    Failed {
        /// SIP status.
        code: u16,
        /// Transaction of the request; `None` if the host does not report it.
        transaction: Option<ServerTransaction>,
    },
    /// A final 2xx to the MESSAGE was sent to its sender.
    Delivered {
        /// SIP status.
        code: u16,
        /// Transaction of the MESSAGE; `None` if the host does not report it.
        transaction: Option<ServerTransaction>,
    },
    /// The MESSAGE was relayed and got no final response, or 408.
    Unanswered {
        /// Transaction of the MESSAGE; `None` if the host does not report it.
        transaction: Option<ServerTransaction>,
    },
    /// CANCEL of the INVITE.
    Cancelled {
        /// Transaction of the INVITE; `None` if the host does not report it.
        transaction: Option<ServerTransaction>,
    },
    /// Step 11: BYE of either side.
    Bye {
        /// Hash of the answering side's tag.
        leg: u64,
    },
    /// The server's side has answered the BYE or sent it, so it knows that the dialog has ended.
    DialogOver {
        /// Hash of the answering side's tag.
        leg: u64,
    },
    /// The host's script ends the session.
    End {
        /// The script's reason.
        reason: &'a str,
    },
    /// Step 5: a SEND of the server's side passed the gate.
    Sent(#[serde(borrow)] Sent<'a>),
    /// The gate stopped a frame.
    Stopped {
        /// Message-ID of the frame; empty if it has none.
        message_id: &'a str,
        /// Why it was stopped.
        why: Stop,
        /// What the frame would have taken from the grant at most; 0: not known.
        quota: u32,
    },
    /// An MSRP response of the client's side.
    Responded {
        /// [`transaction_hash`] of its id.
        transaction: u64,
        /// MSRP status.
        code: u16,
        /// The connection it arrived on; 0 if the host does not report it.
        connection: u64,
    },
    /// A REPORT of the client's side.
    Reported {
        /// Message-ID of the reported message.
        message_id: &'a str,
        /// First octet reported, from 1.
        start: u64,
        /// Last octet reported; `None` if unknown.
        end: Option<u64>,
        /// Code of the Status header (namespace 000).
        code: u16,
    },
    /// Any other frame of a bound session (empty SEND, keep-alive, NICKNAME, the server's responses); it keeps the session
    /// alive.
    Activity {
        /// The connection it arrived on; 0 if the host does not report it.
        connection: u64,
    },
    /// A connection that carried frames of the session was closed.
    ConnectionLost {
        /// Id of the connection.
        connection: u64,
    },
    /// The host that had the session's connections has stopped: another instance runs now, or it is shutting down.
    HostStopped,
    /// The enabler requests the renewal of a reservation.
    Reauthorize {
        /// Number of the request that opened it.
        opened_by: u32,
    },
    /// The enabler ends the session.
    Abort,
    /// A SEND with content that has passed the gate passes this relay a second time, because both ends use it: the same
    /// octets, under the transaction id that the client answers.
    PassedAgain {
        /// Message-ID of the SEND.
        message_id: &'a str,
        /// [`transaction_hash`] of its id.
        transaction: u64,
        /// Number of its first octet, from 1.
        start: u64,
        /// Octets of content.
        octets: u64,
    },
    /// A SEND that had passed the gate could not be relayed.
    Unsent {
        /// Message-ID of the SEND.
        message_id: &'a str,
        /// [`transaction_hash`] of its id, as in [`Event::Sent`].
        transaction: u64,
    },
}

/// Identifies one SIP server transaction by the host's two numbers. A request that arrives over two paths
/// has two, with the same Call-ID, From tag and CSeq (RFC 3261, 8.2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerTransaction {
    /// First host number (Kamailio: hash index of the transaction).
    pub index: u64,
    /// Second host number (Kamailio: label of the transaction).
    pub label: u64,
}

/// A suspended transaction and where the host resumes it. The host gets these numbers back with the verdict;
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
    pub fn transaction(self) -> ServerTransaction {
        ServerTransaction { index: self.index, label: self.label }
    }
}

/// A suspended INVITE or MESSAGE that asks for a reservation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve<'a> {
    /// Call-ID.
    pub call_id: &'a str,
    /// Canonical identity of the charged party; empty if none was found.
    pub account: &'a str,
    /// Canonical identity of the other party, for the history; empty if unknown.
    pub other: &'a str,
    /// icid-value of P-Charging-Vector; empty if absent.
    pub icid: &'a str,
    /// Which side has the stored messages.
    pub direction: Direction,
    /// Service that the charged party uses.
    pub service: Service,
    /// Number of recipients of each message; 0: unknown, counts as one.
    pub recipients: u32,
    /// Canonical identity of the called party, if it pays for what it sends, in a separate session; empty if none was
    /// found. `None`: the INVITE opens one session.
    pub called: Option<&'a str>,
    /// Name of the tariff that the script has chosen; empty: none.
    pub tariff: &'a str,
    /// Number of messages; 0: unknown. Of a MESSAGE, the number of copies; 0: one.
    pub messages: u32,
    /// Files that the INVITE offers or requests (RFC 5547).
    pub files: OfferedFiles,
    /// What a MESSAGE carries; `None`: an INVITE.
    pub page: Option<PageContent>,
    /// The transaction that waits for the verdict.
    pub suspended: Suspended,
    /// Hash of the inviting side's tag.
    pub inviting_tag: u64,
}

impl<'a> Reserve<'a> {
    /// Returns the reservation of the called party, if it pays for what it sends.
    pub fn of_called_party(&self) -> Option<Reserve<'a>> {
        self.called.map(|account| Reserve {
            account,
            other: self.account,
            direction: Direction::Pull,
            messages: 0,
            files: OfferedFiles::default(),
            ..self.clone()
        })
    }
}

/// Files that the session description of an INVITE offers or requests (RFC 5547).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedFiles {
    /// Number of files whose size is stated.
    pub sized: u32,
    /// Started kilobytes of these files.
    pub kilobytes: u64,
    /// Number of files without a size.
    pub unsized_files: u32,
    /// Whether the session carries anything besides files.
    pub has_other_media: bool,
}

/// Content of a SIP MESSAGE (page mode, RFC 3428).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageContent {
    /// Class of its body.
    pub class: ContentClass,
    /// Octets of its body.
    pub octets: u64,
}

/// Which side of the INVITE has the stored messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// OMA retrieval: the client invites, the server answers and sends. Of a MESSAGE: its sender is charged.
    Pull,
    /// RCS push: the server invites and sends. Of a MESSAGE: its receiver is charged.
    Push,
}

/// A SEND with content, or one that ends a message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent<'a> {
    /// Message-ID.
    pub message_id: &'a str,
    /// [`transaction_hash`] of its id, as this hop sends it.
    pub transaction: u64,
    /// Number of the first octet of the chunk, from 1.
    pub start: u64,
    /// Octets of content in the chunk.
    pub octets: u64,
    /// Octets that a new message counts for in addition: a document about a file counts as that file.
    pub file_octets: u64,
    /// Total of Byte-Range; `None` if absent or `*`.
    pub total: Option<u64>,
    /// Continuation flag of the end-line.
    pub flag: Flag,
    /// Value of Failure-Report.
    pub failure_report: FailureReport,
    /// Whether Success-Report is yes.
    pub success_report: bool,
    /// What the gate took from the grant for this chunk; 0 if it was paid before.
    pub taken: u32,
    /// Class of the message: that of the chunk that opened it at the gate.
    pub class: ContentClass,
    /// Octets of the message, from the first one without a gap, that have passed as free content before this chunk, which
    /// made the message a charged one.
    pub free_octets: u64,
    /// The connection it arrived on; 0 if the host does not report it.
    pub connection: u64,
}

/// Why the gate stopped a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Content beyond the grant, or after the gate was closed.
    Beyond,
    /// Content after the lease of this node: another one may have taken the session over.
    LeaseOver,
    /// Content of a message that is settled, or of which a chunk was stopped before.
    Message,
    /// Content of a session that has used up its share of the gate's table.
    Share,
    /// A frame that claims to be from the other side.
    Forged,
    /// A frame between endpoints that have no MSRP session with each other.
    NoStream,
}

/// Continuation flag of the end-line (RFC 4975, 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Flag {
    /// `$`: the last chunk.
    Last,
    /// `+`: more to come.
    More,
    /// `#`: the sender aborts the message.
    Aborted,
}

/// Value of Failure-Report (RFC 4975, 7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureReport {
    /// `yes`, or absent.
    Yes,
    /// `partial`: only errors are answered.
    Partial,
    /// `no`: nothing is answered.
    No,
}

/// Returns the hash by which a session remembers an MSRP transaction id or a Message-ID.
pub fn transaction_hash(id: &[u8]) -> u64 {
    use std::hash::Hasher;
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(id);
    hasher.finish()
}
