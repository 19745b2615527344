//! What the engine tells the host's resume workers and event workers.

use super::region::{Lane, Region};
use crate::charge::ch2::SessionKey;
use crate::charge::event::Suspended;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// One message of the engine to a resume worker or an event worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification<'a> {
    /// The session.
    pub session: SessionKey,
    /// Its Call-ID.
    pub call_id: &'a str,
    /// Who pays.
    pub account: &'a str,
    /// Why, in one word: empty for a plain grant, else e.g. `no-credit`; for a debit its trigger.
    pub reason: &'a str,
    /// A code that goes with it: the MSRP status of a debit on error, the Result-Code of a refusal (RFC 8506, 9); else 0.
    pub code: u32,
    /// What is left on the account, where the enabler tells it.
    pub balance: Option<i64>,
    /// What it is about.
    pub kind: Kind<'a>,
}

impl Notification<'_> {
    /// Its bytes, for a process that has no ring of its own.
    pub fn to_bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// A notice out of its bytes; `None`: these are none.
    pub fn from_bytes(bytes: &[u8]) -> Option<Notification<'_>> {
        postcard::from_bytes(bytes).ok()
    }
}

/// What a notice is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind<'a> {
    /// The waiting INVITE goes on.
    Verdict {
        /// The suspended transaction.
        suspended: Suspended,
        /// What to do.
        result: Outcome,
        /// Messages (or kilobytes) granted.
        granted: u32,
    },
    /// A message was debited (event route `imcharge:debited`).
    Debited {
        /// Its Message-ID.
        message_id: &'a str,
        /// What it cost.
        units: u64,
    },
    /// The enabler failed for the session (event route `imcharge:failed`).
    Failed,
}

/// `$imcharge(result)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// Credit is reserved.
    Granted,
    /// The enabler refused.
    Denied,
    /// The enabler could not be asked or gave no answer.
    Failed,
}

/// Who takes notices from a queue: a resume worker or an event worker. The next notice goes to whoever comes first, so that
/// one that is busy delays nothing but what it has taken.
pub struct NotificationReader {
    region: Arc<Region>,
    lane: Lane,
    index: usize,
    record: Vec<u8>,
}

impl NotificationReader {
    /// Attaches resume worker `index` (0..resume_workers), after fork: it takes verdicts.
    pub fn attach(region: &Arc<Region>, index: usize) -> NotificationReader {
        NotificationReader { region: Arc::clone(region), lane: Lane::Verdicts, index, record: Vec::new() }
    }

    /// Attaches event worker `index` (0..event_workers), after fork: it takes what the event routes are told.
    pub fn attach_to_events(region: &Arc<Region>, index: usize) -> NotificationReader {
        NotificationReader { region: Arc::clone(region), lane: Lane::Events, index, record: Vec::new() }
    }

    /// Sleeps until there is a notice or the time is over.
    pub fn wait(&mut self, at_most: Duration) {
        self.region.taker_sleep(self.lane, self.index, at_most);
    }

    /// Takes the next notice, if there is one, and gives it to `run`; it counts as taken before `run` is called.
    pub fn next(&mut self, run: impl FnOnce(&Notification<'_>)) -> bool {
        if !self.region.queue(self.lane).take(&mut self.record) {
            return false;
        }
        match postcard::from_bytes(&self.record) {
            Ok(notice) => run(&notice),
            Err(_) => log::error!("a notice of the engine cannot be read, skipped"),
        }
        true
    }
}
