//! Notifications of the engine to the host's resume workers and event workers.

use super::queue::HoldsQueue;
use super::region::{AttachError, Lane, QueueClaim, Region};
use crate::charge::ch2::SessionKey;
use crate::charge::event::Suspended;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// A verdict for a resume worker, or an event for an event worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification<'a> {
    /// Session that it is about.
    pub session: SessionKey,
    /// Its Call-ID.
    pub call_id: &'a str,
    /// Account that is charged.
    pub account: &'a str,
    /// Reason as one word: empty for a plain grant, else for example `no-credit`; of a debit, its trigger.
    pub reason: &'a str,
    /// MSRP status of a debit on error, or Result-Code of a denial (RFC 8506, 9); else 0.
    pub code: u32,
    /// Balance of the account, if the enabler reports it.
    pub balance: Option<i64>,
    /// Units held of the account, if the ledger keeps it.
    pub held: Option<i64>,
    /// What happened.
    pub kind: Kind<'a>,
}

impl Notification<'_> {
    /// Returns the Call-ID, or the account if it is about no call.
    pub fn about(&self) -> &str {
        if self.call_id.is_empty() { self.account } else { self.call_id }
    }

    /// Encodes it, for a process that does not read the queue.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Decodes it; `None` if the bytes are not a notification.
    pub fn from_bytes(bytes: &[u8]) -> Option<Notification<'_>> {
        postcard::from_bytes(bytes).ok()
    }
}

/// Kind of a notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind<'a> {
    /// A suspended INVITE continues.
    Verdict {
        /// The suspended transaction.
        suspended: Suspended,
        /// Result of the reservation.
        result: Outcome,
        /// Messages (or kilobytes) granted.
        granted: u32,
    },
    /// A message was debited (event route `imcharge:debited`).
    Debited {
        /// Message-ID.
        message_id: &'a str,
        /// Price, in units of the account.
        units: u64,
    },
    /// The enabler failed for the session (event route `imcharge:failed`).
    Failed,
    /// The units left of the account have fallen to `low_balance` (event route `imcharge:low-balance`).
    LowBalance,
}

/// Event routes that the script has. Events are sent for these only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventRoutes {
    /// `imcharge:debited`.
    pub debited: bool,
    /// `imcharge:failed`.
    pub failed: bool,
    /// `imcharge:low-balance`.
    pub low_balance: bool,
}

impl EventRoutes {
    /// All of them.
    pub const ALL: EventRoutes = EventRoutes { debited: true, failed: true, low_balance: true };

    /// Whether there is any.
    pub fn has_any(self) -> bool {
        self != EventRoutes::default()
    }

    /// Converts to a word: debited 1, failed 2, low-balance 4.
    pub fn to_bits(self) -> u32 {
        u32::from(self.debited) | u32::from(self.failed) << 1 | u32::from(self.low_balance) << 2
    }

    /// Converts from a word.
    pub fn from_bits(bits: u32) -> EventRoutes {
        EventRoutes { debited: bits & 1 != 0, failed: bits & 2 != 0, low_balance: bits & 4 != 0 }
    }
}

/// Result of a reservation: `$imcharge(result)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Credit is reserved.
    Granted,
    /// The enabler denied it.
    Denied,
    /// The enabler could not be asked or did not answer.
    Failed,
}

/// A resume worker or event worker at its queue. The next notification goes to whichever reader asks first, so that a
/// busy reader delays only the one that it has taken.
pub struct NotificationReader {
    region: Arc<Region>,
    claim: QueueClaim,
    index: usize,
    record: Vec<u8>,
}

impl NotificationReader {
    /// Attaches resume worker `index` (0..resume_workers), after `fork`. Fails if the index is out of range or attached
    /// already in this process.
    pub fn attach(region: &Arc<Region>, index: usize) -> Result<NotificationReader, AttachError> {
        Self::attach_to(region, Lane::Verdicts, index)
    }

    /// Attaches event worker `index` (0..event_workers), after `fork`. Errors as [`NotificationReader::attach`].
    pub fn attach_to_events(region: &Arc<Region>, index: usize) -> Result<NotificationReader, AttachError> {
        Self::attach_to(region, Lane::Events, index)
    }

    fn attach_to(region: &Arc<Region>, lane: Lane, index: usize) -> Result<NotificationReader, AttachError> {
        let claim = region.queue_reader(lane, index)?;
        Ok(NotificationReader { region: Arc::clone(region), claim, index, record: Vec::new() })
    }

    /// Sleeps until there is a notification or the time is over.
    pub fn wait(&mut self, at_most: Duration) {
        self.region.reader_sleep(self.claim.lane(), self.index, at_most);
    }

    /// Takes the next notification and passes it to `run`; `false` if there is none. It counts as taken before `run` is
    /// called.
    pub fn next(&mut self, run: impl FnOnce(&Notification<'_>)) -> bool {
        if !self.claim.queue().take(&mut self.record) {
            return false;
        }
        match postcard::from_bytes(&self.record) {
            Ok(notification) => run(&notification),
            Err(_) => log::error!("a notification of the engine cannot be decoded; skipped"),
        }
        true
    }
}
