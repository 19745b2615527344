//! What a session tells the engine to do.

use super::rule::Rule;
use crate::charge::ch2::{Denial, Failure, Request, Trigger};
use crate::charge::content::ContentClass;
use crate::charge::tariff::{Quota, Units};
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// An instruction to the engine. They are executed in the order in which they are polled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a request to the enabler. At most one is pending; a resend has the number of the first copy.
    Ask(Request),
    /// Resume the suspended INVITE or MESSAGE. Once per session.
    Verdict(Verdict),
    /// Publish the session's total grant to the gate.
    Grant(Quota),
    /// Close the gate, then call [`Session::on_gate_closed`](super::Session::on_gate_closed).
    CloseGate,
    /// Let nothing more of a message pass the gate: it is settled, or will be once what has passed is read.
    StopMessage {
        /// Message-ID.
        message_id: Box<str>,
    },
    /// Make the gate charge this Message-ID like a new one: what has passed of the message is not charged.
    ForgetMessage {
        /// Message-ID.
        message_id: Box<str>,
    },
    /// The enabler acknowledged a debit.
    Debited {
        /// Message-ID.
        message_id: Box<str>,
        /// Number among the debits of the message.
        part: u32,
        /// Octets of content sent to the client.
        octets: u64,
        /// The price, in units of the account.
        units: Units,
        /// How much of the session's quota it used.
        quota: Quota,
        /// What triggered it.
        trigger: Trigger,
        /// The rule that decided it.
        rule: Rule,
        /// Number of the request that opened its reservation; of the debit itself without one.
        opened_by: u32,
        /// What the message is.
        class: ContentClass,
        /// Time of the trigger.
        since: Time,
        /// Available balance of the account; `None` if the enabler does not report it.
        balance: Option<i64>,
    },
    /// The enabler acknowledged a refund.
    Refunded {
        /// Message-ID.
        message_id: Box<str>,
        /// Number among the debits of the message.
        part: u32,
        /// What it gives back, in units of the account.
        units: Units,
        /// The rule that decided it.
        rule: Rule,
        /// Available balance of the account; `None` if the enabler does not report it.
        balance: Option<i64>,
    },
    /// A debit or refund waits for the operator: it may have been executed, and a resend would be executed again.
    HeldBack {
        /// Message-ID.
        message_id: Box<str>,
    },
    /// The enabler refused a debit: the message was delivered and is not paid.
    DebitDenied {
        /// Message-ID.
        message_id: Box<str>,
        /// Reason of the enabler.
        denial: Denial,
    },
    /// The enabler refused a refund.
    RefundDenied {
        /// Message-ID.
        message_id: Box<str>,
        /// Reason of the enabler.
        denial: Denial,
    },
    /// A message with content is not charged. Of a MESSAGE: it was not delivered.
    NotDebited {
        /// Message-ID.
        message_id: Box<str>,
        /// Octets of content sent to the client.
        octets: u64,
        /// What it would have cost, in units of the account.
        units: Units,
        /// The rule that decided it.
        rule: Rule,
        /// What the message is.
        class: ContentClass,
    },
    /// The enabler did not answer a request. The session sends debits and releases again by itself.
    EnablerFailed(Failure),
    /// The session is settled: all requests are answered and nothing is reserved.
    Closed {
        /// [`EndReason::as_str`], or the script's own text if the script ended the session.
        outcome: Box<str>,
    },
    /// Drop the session and its slot at the gate.
    Forget,
}

/// Answer to the suspended INVITE or MESSAGE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it may be relayed.
    pub result: Decision,
    /// Messages (or kilobytes) granted; 0 unless granted.
    pub granted: Quota,
    /// Available balance of the account; `None` if the enabler does not report it.
    pub balance: Option<i64>,
}

/// Whether the INVITE may be relayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Decision {
    /// Credit is reserved, or the service is granted without by `on_failure=grant`.
    Granted,
    /// The enabler refused.
    Denied(Denial),
    /// The enabler could not be reached or did not answer.
    Failed(Failure),
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum EndReason {
    /// BYE.
    Bye,
    /// CANCEL before a 2xx.
    Cancelled,
    /// The INVITE ended with this final failure, or timed out (408).
    InviteFailed(u16),
    /// The script ended it.
    Script,
    /// No activity for `hold_timeout`.
    Idle,
    /// The host that had its connections has stopped.
    HostStopped,
    /// Another node has taken the session over.
    TakenOver,
    /// The enabler refused.
    Denied(Denial),
    /// The enabler could not be reached or did not answer.
    Failed(Failure),
    /// The enabler ended the service.
    EnablerEnded,
    /// More messages waited for answers than a session may have.
    TooManyOpen,
    /// A final 2xx answered the MESSAGE.
    Delivered,
    /// The MESSAGE ended with this final failure.
    NotDelivered(u16),
    /// The MESSAGE got no final response.
    Unanswered,
}

impl EndReason {
    /// Returns the name used in history and RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            EndReason::Bye => "bye",
            EndReason::Cancelled => "cancelled",
            EndReason::InviteFailed(_) => "invite-failed",
            EndReason::Script => "ended",
            EndReason::Idle => "idle",
            EndReason::HostStopped => "host-stopped",
            EndReason::TakenOver => "taken-over",
            EndReason::Denied(denial) => denial.as_str(),
            EndReason::Failed(failure) => failure.as_str(),
            EndReason::EnablerEnded => "enabler-ended",
            EndReason::TooManyOpen => "too-many-open",
            EndReason::Delivered => "delivered",
            EndReason::NotDelivered(_) => "not-delivered",
            EndReason::Unanswered => "unanswered",
        }
    }

    /// Returns the SIP status or the Result-Code of the reason; 0: it has none.
    pub fn code(self) -> u32 {
        match self {
            EndReason::InviteFailed(status) => status.into(),
            EndReason::Denied(denial) => denial.code(),
            EndReason::Failed(failure) => failure.code(),
            _ => 0,
        }
    }
}
