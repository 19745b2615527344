//! The rules that decide trace events. A rule that follows a parameter is named after it and its value: `close=debit`,
//! `debit_on=report`.

use super::output::EndReason;
use crate::charge::ch2::{Denial, Failure};
use crate::charge::event::Stop;
use crate::charge::policy::{DebitOn, Settle};
use serde::{Deserialize, Serialize};

/// The rule that decided something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rule {
    /// An INVITE requests credit.
    Invite,
    /// A MESSAGE requests credit.
    Message,
    /// Little is left of the grant, so more is requested ahead of need.
    Ahead,
    /// A SEND exceeded the grant.
    BeyondGrant,
    /// The lease of this node is over: another one may have taken the session over.
    LeaseOver,
    /// An earlier chunk of the message was stopped, or the message is settled.
    MessageStopped,
    /// The session has used up its share of the gate's table.
    ShareUsed,
    /// The frame claims to be from the other side.
    Forged,
    /// The frame is from an endpoint of the session but belongs to none of its MSRP sessions.
    NoStream,
    /// The enabler does not grant part of a request, so a smaller one is sent.
    OneAtLeast,
    /// The validity of a grant has ended (Validity-Time).
    ValidityTime,
    /// The enabler asks for a renewal.
    Reauthorization,
    /// The enabler does not know the reservation.
    NoReservation,
    /// The enabler granted.
    Granted,
    /// Nothing is reserved; each message is debited when it is answered.
    ModelImmediate,
    /// A MESSAGE is debited before it is relayed.
    ModelPrepay,
    /// Granted while the enabler does not answer.
    OnFailureGrant,
    /// The service is free of charge for this subscriber.
    FreeOfCharge,
    /// The client confirmed the whole message, by response or by REPORT.
    DebitOn(DebitOn),
    /// The receiver answered or reported this 4xx; the policy decides.
    ClientError(u16, Settle),
    /// The receiver answered or reported this 5xx; the policy decides.
    ServerError(u16, Settle),
    /// No answer within this many seconds; the policy decides.
    ResponseTimeout(u32, Settle),
    /// A relay reported 408: it received no answer; the policy decides.
    RequestTimeout(Settle),
    /// This failure does not release content that its sender pays for: no 200 could have contradicted it, an earlier
    /// failure of the session was contradicted, or there were too many.
    UnprovenFailure(u16),
    /// A 200 contradicts the failure for which the message was released.
    LateSuccess,
    /// The paying sender has used the Message-ID again before the message was answered.
    IdReused,
    /// The session or its connection ended before the answer; the policy decides.
    Close(Settle, CloseCause),
    /// The server aborted the message; the policy decides.
    Abort(Settle),
    /// A chunk was read after its message was debited.
    LateChunk,
    /// A failure REPORT with this code followed the 200; the policy decides.
    Report(u16, Settle),
    /// A final 2xx with this code answered the MESSAGE.
    Delivered(u16),
    /// 202 answered the MESSAGE; the policy decides.
    Accepted(Settle),
    /// The MESSAGE ended with this final failure.
    NotDelivered(u16),
    /// The MESSAGE got no final response; the policy decides.
    MessageTimeout(Settle, EndReason),
    /// The enabler may have executed the request and does not detect duplicates.
    ResendHold,
    /// The request may have ended the reservation that the enabler no longer knows.
    MaybeTaken,
    /// The operator decided that the request is sent again.
    OutboxResend,
    /// The operator decided that the request counts as done.
    OutboxRelease,
    /// The rest of a reservation is not needed.
    Unused,
    /// The enabler may hold a reservation whose request it did not answer.
    MaybeHeld,
    /// A reservation was granted after the request had timed out.
    LateGrant,
    /// The enabler refused.
    Denied(Denial),
    /// The enabler did not answer.
    Failed(Failure),
    /// The session ended for this reason.
    Ended(EndReason),
}

/// What ended the wait for the answers to open messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloseCause {
    /// The session ended.
    Session(EndReason),
    /// A connection of the session was lost.
    ConnectionLost,
}

impl Rule {
    /// Returns the rule by which the gate stopped a frame.
    pub fn from_stop(why: Stop) -> Rule {
        match why {
            Stop::Beyond => Rule::BeyondGrant,
            Stop::LeaseOver => Rule::LeaseOver,
            Stop::Message => Rule::MessageStopped,
            Stop::Share => Rule::ShareUsed,
            Stop::Forged => Rule::Forged,
            Stop::NoStream => Rule::NoStream,
        }
    }

    /// Returns the name used in `explain` and `audit`.
    pub fn as_str(self) -> &'static str {
        match self {
            Rule::Invite => "invite",
            Rule::Message => "message",
            Rule::Ahead => "ahead-of-need",
            Rule::BeyondGrant => "beyond-grant",
            Rule::LeaseOver => "lease-over",
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
            Rule::ModelPrepay => "model=prepay",
            Rule::OnFailureGrant => "on_failure=grant",
            Rule::FreeOfCharge => "free-of-charge",
            Rule::DebitOn(DebitOn::Response) => "debit_on=response",
            Rule::DebitOn(DebitOn::Report) => "debit_on=report",
            Rule::ClientError(_, Settle::Debit) => "4xx=debit",
            Rule::ClientError(_, Settle::Release) => "4xx=release",
            Rule::ServerError(_, Settle::Debit) => "5xx=debit",
            Rule::ServerError(_, Settle::Release) => "5xx=release",
            Rule::ResponseTimeout(_, Settle::Debit) => "response_timeout",
            Rule::RequestTimeout(Settle::Debit) => "408",
            Rule::ResponseTimeout(_, Settle::Release) | Rule::RequestTimeout(Settle::Release) => "timeout=release",
            Rule::UnprovenFailure(_) => "unproven-failure",
            Rule::LateSuccess => "late-200",
            Rule::IdReused => "id-reused",
            Rule::Close(Settle::Debit, _) => "close=debit",
            Rule::Close(Settle::Release, _) => "close=release",
            Rule::Abort(Settle::Debit) => "abort=debit",
            Rule::Abort(Settle::Release) => "abort=release",
            Rule::LateChunk => "late-chunk",
            Rule::Report(_, Settle::Debit) => "report=debit",
            Rule::Report(_, Settle::Release) => "report=release",
            Rule::Delivered(_) => "delivered",
            Rule::Accepted(Settle::Debit) => "202=debit",
            Rule::Accepted(Settle::Release) => "202=release",
            Rule::NotDelivered(_) => "not-delivered",
            Rule::MessageTimeout(Settle::Debit, _) => "message-timeout=debit",
            Rule::MessageTimeout(Settle::Release, _) => "message-timeout=release",
            Rule::ResendHold => "resend=hold",
            Rule::MaybeTaken => "maybe-taken",
            Rule::OutboxResend => "outbox.resend",
            Rule::OutboxRelease => "outbox.release",
            Rule::Unused => "unused",
            Rule::MaybeHeld => "maybe-held",
            Rule::LateGrant => "late-grant",
            Rule::Denied(denial) => denial.as_str(),
            Rule::Failed(failure) => failure.as_str(),
            Rule::Ended(reason) => reason.as_str(),
        }
    }

    /// Returns the cause of a rule whose name does not include it.
    pub fn cause(self) -> Option<&'static str> {
        match self {
            Rule::Close(_, CloseCause::Session(reason)) | Rule::MessageTimeout(_, reason) => Some(reason.as_str()),
            Rule::Close(_, CloseCause::ConnectionLost) => Some("connection-lost"),
            _ => None,
        }
    }

    /// Returns the SIP or MSRP status, or the Diameter Result-Code, that made the rule apply; 0: none.
    pub fn code(self) -> u32 {
        match self {
            Rule::ClientError(code, _)
            | Rule::ServerError(code, _)
            | Rule::UnprovenFailure(code)
            | Rule::Report(code, _) => code.into(),
            Rule::Delivered(code) | Rule::NotDelivered(code) => code.into(),
            Rule::Accepted(_) => 202,
            Rule::DebitOn(_) | Rule::LateSuccess => 200,
            Rule::RequestTimeout(_) => 408,
            Rule::Denied(denial) => denial.code(),
            Rule::Failed(failure) => failure.code(),
            Rule::FreeOfCharge => 4011,
            Rule::Ended(EndReason::InviteFailed(code) | EndReason::NotDelivered(code)) => code.into(),
            Rule::Ended(EndReason::Denied(denial)) => denial.code(),
            _ => 0,
        }
    }

    /// Returns the timeout that has passed, in seconds; `None`: the rule is not about a timeout.
    pub fn seconds(self) -> Option<u32> {
        match self {
            Rule::ResponseTimeout(seconds, _) => Some(seconds),
            _ => None,
        }
    }
}
