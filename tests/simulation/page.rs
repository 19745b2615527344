//! One SIP MESSAGE: what its parties do.

use imcharge::charge::ch2::SessionKey;
use imcharge::charge::content::ContentClass;
use imcharge::charge::event::{PageContent, ServerTransaction, Suspended};
use imcharge::charge::service::ChargedContent;
use imcharge::worker::sip_input::{Body, Invite, InviteKey};
use imcharge::worker::{PageOutcome, Worker};

/// Transactions of a MESSAGE: its own, and that of a copy on another path. Those of INVITEs have lower numbers.
pub const OWN_PATH: u64 = 10;
pub const OTHER_PATH: u64 = 11;

/// A MESSAGE.
#[derive(Clone, Debug)]
pub struct Page {
    /// Number, part of all its names.
    pub number: usize,
    /// End of its Call-ID: the node of several.
    pub suffix: String,
    /// Account of its sender.
    pub account: String,
    /// Class and octets of its body, and number of copies.
    pub class: ContentClass,
    pub octets: u64,
    pub copies: u32,
    /// How it ends once it is relayed; `None`: its end is never reported.
    pub outcome: Option<PageOutcome>,
    /// Whether it was relayed.
    pub is_relayed: bool,
    /// Whether its transaction has ended.
    pub is_over: bool,
    pub verdicts: u32,
    /// Instance of the host that has received it.
    pub taken_by: Option<u64>,
    /// Outcome that a worker has accepted.
    pub reported: Option<PageOutcome>,
    /// Whether its records may have been lost with the memory of the machine.
    pub may_be_lost: bool,
    /// When a worker last accepted an event of it.
    pub moved_at: u64,
}

impl Page {
    pub fn call_id(&self) -> String {
        format!("page-{}@sim.example{}", self.number, self.suffix)
    }

    pub fn session(&self) -> SessionKey {
        let call_id = self.call_id();
        Worker::session_of_invite(&InviteKey { call_id: call_id.as_bytes(), from_tag: b"pager", cseq: 1 })
    }

    pub fn transaction(&self, path: u64) -> ServerTransaction {
        ServerTransaction { index: self.number as u64, label: path }
    }

    /// Passes the MESSAGE to a worker. `true`: a verdict will follow.
    pub fn reserve(&self, worker: &mut Worker, path: u64) -> bool {
        let (call_id, account) = (self.call_id(), self.account.as_bytes());
        let message = Invite {
            key: InviteKey { call_id: call_id.as_bytes(), from_tag: b"pager", cseq: 1 },
            asserted: [account, b""],
            from: b"",
            called_party: b"",
            request_uri: b"sip:receiver@example.org",
            subscriber: b"",
            direction: None,
            charging_vector: b"",
            messages: self.copies,
            content: ChargedContent::Sent,
            recipients: 0,
            tariff: b"",
            offer: Body::default(),
            suspended: Suspended { index: self.number as u64, label: path, continuation: 0 },
        };
        worker.reserve_page(&message, PageContent { class: self.class, octets: self.octets }).is_ok()
    }
}
