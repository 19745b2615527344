//! What a session wants done.

use super::rule::Rule;
use crate::charge::ch2::{Denial, Failure, Request, Trigger};
use crate::charge::tariff::{Quota, Units};
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// One thing the engine does for the session, in the order in which they are polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Ask the enabler. At most one request is in flight; a request that comes again has its old number.
    Ask(Request),
    /// The suspended INVITE goes on. Once per session.
    Verdict(Verdict),
    /// Publish the session's total grant so far to the gate.
    Grant(Quota),
    /// Close the gate, then call `gate_closed`.
    CloseGate,
    /// Nothing more of a message may pass the gate: it is settled, or will be when what has passed is read.
    StopMessage {
        /// Message-ID.
        message_id: Box<str>,
    },
    /// What has passed of a message costs nothing: the gate charges the same Message-ID like a new one.
    ForgetMessage {
        /// Message-ID.
        message_id: Box<str>,
    },
    /// The enabler has taken a debit.
    Debited {
        /// Message-ID.
        message_id: Box<str>,
        /// Number among the debits of the message.
        part: u32,
        /// Octets of content that went to the client.
        octets: u64,
        /// The price.
        units: Units,
        /// How much of the session's quota it took.
        quota: Quota,
        /// What fired it.
        trigger: Trigger,
        /// When that was.
        since: Time,
        /// What is left on the account beside all that is held; `None` where the enabler does not tell.
        balance: Option<i64>,
    },
    /// The enabler has given back what the debit of a message took.
    Refunded {
        /// Message-ID.
        message_id: Box<str>,
        /// Number among the debits of the message.
        part: u32,
        /// What is left on the account beside all that is held; `None` where the enabler does not tell.
        balance: Option<i64>,
    },
    /// A debit or refund waits for an operator: it may be done, and would be done twice.
    HeldBack {
        /// Message-ID.
        message_id: Box<str>,
    },
    /// The enabler has refused a debit: the message is with the client, and not paid for.
    DebitDenied {
        /// Message-ID.
        message_id: Box<str>,
        /// Why.
        denial: Denial,
    },
    /// The enabler does not give it back.
    RefundDenied {
        /// Message-ID.
        message_id: Box<str>,
        /// Why not.
        denial: Denial,
    },
    /// A message with content costs nothing.
    NotDebited {
        /// Message-ID.
        message_id: Box<str>,
        /// Octets of content that went to the client.
        octets: u64,
        /// What it would have cost.
        units: Units,
        /// Why.
        rule: Rule,
    },
    /// The enabler gave no answer to a request. A debit or a release is asked again later, by itself.
    EnablerFailed(Failure),
    /// Settled: all requests are answered and nothing is held.
    Closed {
        /// How it ended, in one word: [`Outcome::as_str`], or the script's own where the script ended it.
        outcome: Box<str>,
    },
    /// Drop the session and its place at the gate.
    Forget,
}

/// What the suspended INVITE is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may go on.
    pub result: Decision,
    /// How many messages (or kilobytes) are granted; 0 unless granted.
    pub granted: Quota,
    /// What is left on the account beside all that is held; `None` where the enabler does not tell.
    pub balance: Option<i64>,
}

/// Whether the INVITE may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Credit is reserved, or `on_failure=grant` gives the service without.
    Granted,
    /// The enabler refused.
    Denied(Denial),
    /// The enabler could not be asked or gave no answer.
    Failed(Failure),
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// BYE.
    Bye,
    /// CANCEL before a 2xx.
    Cancelled,
    /// The INVITE got this final failure, or died (408).
    InviteFailed(u16),
    /// The script ended it.
    Ended,
    /// Nothing moved for `hold_timeout`.
    Idle,
    /// The host that had its connections is gone.
    HostStopped,
    /// The enabler refused.
    Denied(Denial),
    /// The enabler could not be asked or gave no answer.
    Failed(Failure),
    /// The enabler ended the service.
    EnablerEnded,
    /// More messages waited for answers of the client than a session may have.
    TooManyOpen,
}

impl Outcome {
    /// The word in history and RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Bye => "bye",
            Outcome::Cancelled => "cancelled",
            Outcome::InviteFailed(_) => "invite-failed",
            Outcome::Ended => "ended",
            Outcome::Idle => "idle",
            Outcome::HostStopped => "host-stopped",
            Outcome::Denied(denial) => denial.as_str(),
            Outcome::Failed(failure) => failure.as_str(),
            Outcome::EnablerEnded => "enabler-ended",
            Outcome::TooManyOpen => "too-many-open",
        }
    }
}
