//! The rules by their names: which one decided a step. A name that has a parameter in it is that parameter's, with the
//! choice that counted: `close=debit`, `debit_on=report`.

use super::output::Outcome;
use crate::charge::ch2::{Denial, Failure};
use crate::charge::event::Stop;
use crate::charge::policy::{DebitOn, Settle};
use serde::{Deserialize, Serialize};

/// Why something was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// The INVITE wants credit.
    Invite,
    /// Little is left of the grant: more is asked for ahead of need.
    Ahead,
    /// A SEND was beyond the grant.
    BeyondGrant,
    /// An earlier chunk of the message was stopped, or the message is settled.
    MessageStopped,
    /// The session's share of the gate is used up.
    ShareUsed,
    /// The frame claims to be of the other side than it comes from.
    Forged,
    /// The frame is of an endpoint of the session, and of none of its MSRP sessions.
    NoStream,
    /// The enabler grants nothing in part: one is asked for.
    OneAtLeast,
    /// The grant has become old (Validity-Time).
    ValidityTime,
    /// The enabler wants to be asked again.
    Reauthorization,
    /// The enabler has no such reservation.
    NoReservation,
    /// Granted: the enabler has said so.
    Granted,
    /// Nothing is reserved: each message is debited when it is answered.
    ModelImmediate,
    /// Given while no enabler answers.
    OnFailureGrant,
    /// The service costs this subscriber nothing.
    FreeOfCharge,
    /// The client has the whole message: by its response, or by its REPORT.
    DebitOn(DebitOn),
    /// The client answered or reported this 4xx.
    ClientError(u16),
    /// The client answered or reported this 5xx; what the policy does then.
    ServerError(u16, Settle),
    /// No answer within so many seconds.
    ResponseTimeout(u32),
    /// A relay reported that the wait is over (408): as if no answer had come.
    RequestTimeout,
    /// The session or its connection ended before the answer; what the policy does then.
    Close(Settle, Ending),
    /// The server gave the message up; what the policy does then.
    Abort(Settle),
    /// A chunk was read after its message was debited.
    LateChunk,
    /// A failure REPORT with this code came after the 200; what the policy does then.
    Report(u16, Settle),
    /// The enabler would take it twice, and it may have been taken.
    ResendHold,
    /// It may have been what ended the reservation that the enabler does not know any more.
    MaybeTaken,
    /// An operator has it asked again.
    OutboxResend,
    /// An operator counts it as taken.
    OutboxRelease,
    /// The session is over: zero units used.
    Unused,
    /// A reservation that was not answered may be held.
    MaybeHeld,
    /// A reservation was granted when nobody waited for it any more.
    LateGrant,
    /// The enabler refused.
    Denied(Denial),
    /// The enabler did not answer.
    Failed(Failure),
    /// How the session ended.
    Ended(Outcome),
}

/// What ended the wait for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The session.
    Session(Outcome),
    /// A connection of it.
    ConnectionLost,
}

impl Rule {
    /// Why a frame was stopped.
    pub fn from_stop(why: Stop) -> Rule {
        match why {
            Stop::Beyond => Rule::BeyondGrant,
            Stop::Message => Rule::MessageStopped,
            Stop::Share => Rule::ShareUsed,
            Stop::Forged => Rule::Forged,
            Stop::NoStream => Rule::NoStream,
        }
    }

    /// Its name in `explain` and `audit`.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Invite => "invite",
            Rule::Ahead => "ahead-of-need",
            Rule::BeyondGrant => "beyond-grant",
            Rule::MessageStopped => "message-stopped",
            Rule::ShareUsed => "share-used",
            Rule::Forged => "forged",
            Rule::NoStream => "no-stream",
            Rule::OneAtLeast => "one-at-least",
            Rule::ValidityTime => "validity-time",
            Rule::Reauthorization => "reauthorization",
            Rule::NoReservation => "no-reservation",
            Rule::Granted => "granted",
            Rule::ModelImmediate => "model=immediate",
            Rule::OnFailureGrant => "on_failure=grant",
            Rule::FreeOfCharge => "free-of-charge",
            Rule::DebitOn(DebitOn::Response) => "debit_on=response",
            Rule::DebitOn(DebitOn::Report) => "debit_on=report",
            Rule::ClientError(_) => "4xx",
            Rule::ServerError(_, Settle::Debit) => "5xx=debit",
            Rule::ServerError(_, Settle::Release) => "5xx=release",
            Rule::ResponseTimeout(_) => "response_timeout",
            Rule::RequestTimeout => "408",
            Rule::Close(Settle::Debit, _) => "close=debit",
            Rule::Close(Settle::Release, _) => "close=release",
            Rule::Abort(Settle::Debit) => "abort=debit",
            Rule::Abort(Settle::Release) => "abort=release",
            Rule::LateChunk => "late-chunk",
            Rule::Report(_, Settle::Debit) => "report=debit",
            Rule::Report(_, Settle::Release) => "report=release",
            Rule::ResendHold => "resend=hold",
            Rule::MaybeTaken => "maybe-taken",
            Rule::OutboxResend => "outbox.resend",
            Rule::OutboxRelease => "outbox.release",
            Rule::Unused => "unused",
            Rule::MaybeHeld => "maybe-held",
            Rule::LateGrant => "late-grant",
            Rule::Denied(denial) => denial.as_str(),
            Rule::Failed(failure) => failure.as_str(),
            Rule::Ended(outcome) => outcome.as_str(),
        }
    }

    /// What made the rule apply, where it is not in its name.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Rule::Close(_, Ending::Session(outcome)) => Some(outcome.as_str()),
            Rule::Close(_, Ending::ConnectionLost) => Some("connection-lost"),
            _ => None,
        }
    }

    /// The status or Result-Code that it goes by; 0: none.
    pub fn code(self) -> u32 {
        match self {
            Rule::ClientError(code) | Rule::ServerError(code, _) | Rule::Report(code, _) => code.into(),
            Rule::DebitOn(_) => 200,
            Rule::RequestTimeout => 408,
            Rule::Denied(denial) => denial.code(),
            Rule::Failed(failure) => failure.code(),
            Rule::FreeOfCharge => 4011,
            Rule::Ended(Outcome::InviteFailed(code)) => code.into(),
            Rule::Ended(Outcome::Denied(denial)) => denial.code(),
            _ => 0,
        }
    }

    /// The seconds that it goes by.
    pub fn seconds(self) -> Option<u32> {
        match self {
            Rule::ResponseTimeout(seconds) => Some(seconds),
            _ => None,
        }
    }
}
