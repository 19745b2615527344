//! Services that a session is charged for, as OMA counts them.

use serde::{Deserialize, Serialize};

/// Service that the charged party uses (Application-Service-Type of TS 32.299).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Service {
    /// It fetches stored messages, or they are pushed to it: it pays for content that it receives.
    #[default]
    Retrieval,
    /// It sends content and pays for it: chat, large messages, files, messages to a store.
    Sending,
    /// It pays for content that others send to it.
    Receiving,
}

impl Service {
    /// Returns the name used in parameters, records and RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            Service::Retrieval => "retrieval",
            Service::Sending => "sending",
            Service::Receiving => "receiving",
        }
    }

    /// Whether the charged party is the sender of the content.
    pub fn is_paid_by_sender(self) -> bool {
        self == Service::Sending
    }
}
