//! Services that a session is charged for, as OMA counts them.

use serde::{Deserialize, Serialize};
use std::str::FromStr;

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

/// Content of an INVITE's MSRP session that is charged, seen from the inviting subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ChargedContent {
    /// What the subscriber receives. With RCS push the subscriber is the called party.
    #[default]
    Received,
    /// What the inviting subscriber sends.
    Sent,
    /// What both parties send; each pays for its own.
    Both,
}

/// The text names no charged content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted values are received, sent and both")]
pub struct UnknownContent;

impl FromStr for ChargedContent {
    type Err = UnknownContent;

    fn from_str(text: &str) -> Result<ChargedContent, UnknownContent> {
        match text {
            "received" => Ok(ChargedContent::Received),
            "sent" => Ok(ChargedContent::Sent),
            "both" => Ok(ChargedContent::Both),
            _ => Err(UnknownContent),
        }
    }
}
