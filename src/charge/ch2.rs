//! CH-2, the reference point between the Charging Enabler User (imcharge) and the Charging Enabler: requests and responses,
//! independent of the protocol that carries them. The embedded ledger is one binding, Diameter another.

use super::account::AccountId;
use super::content::ContentClass;
use super::policy::OnFailure;
use super::service::Service;
use super::tariff::{Measure, Quota, Units};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// Key of a charging session. It is derived from the identity of the INVITE or MESSAGE, so that every process of the
/// host computes the same key on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey(pub u64, pub u64);

impl SessionKey {
    /// Returns the key of the session that an INVITE opens. A retransmission has the same key; an INVITE sent again after a
    /// challenge has another one.
    pub fn new(call_id: &[u8], from_tag: &[u8], cseq: u32) -> SessionKey {
        use siphasher::sip128::{Hasher128, SipHasher13};
        use std::hash::Hasher;
        let mut hasher = SipHasher13::new();
        // Lengths keep different pairs from hashing the same bytes.
        hasher.write_u64(call_id.len() as u64);
        hasher.write(call_id);
        hasher.write_u64(from_tag.len() as u64);
        hasher.write(from_tag);
        hasher.write_u32(cseq);
        let hash = hasher.finish128();
        // Neither half is zero: a gate slot with a zero half is free.
        SessionKey(hash.h1.max(1), (hash.h2 & !COMPANION).max(1))
    }

    /// Returns the key of the other session of the same INVITE, if that charges both parties.
    pub fn companion(self) -> SessionKey {
        SessionKey(self.0, self.1 ^ COMPANION)
    }

    /// Returns the key of the session of the inviting party.
    pub fn of_inviting_party(self) -> SessionKey {
        SessionKey(self.0, self.1 & !COMPANION)
    }
}

/// Bit of the second half of a [`SessionKey`]: the session of the called party, which pays for what it sends.
const COMPANION: u64 = 1 << 63;

impl fmt::Display for SessionKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}{:016x}", self.0, self.1)
    }
}

/// What triggered a debit (step 8 of the OMA flow).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Trigger {
    /// MSRP 200 for the whole message (or a success REPORT, with `debit_on=report`); 2xx to a MESSAGE.
    Response,
    /// MSRP 4xx or 5xx with this code, or a failure REPORT.
    Error(u16),
    /// No response within the timeout; no final response to a MESSAGE.
    Timeout,
    /// BYE, lost connection or stopped host after content was sent and before its response.
    Close,
    /// A MESSAGE that is debited before it is relayed (`model=prepay`).
    Prepay,
}

impl Trigger {
    /// Returns the name used in history, variables and RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::Response => "response",
            Trigger::Error(_) => "error",
            Trigger::Timeout => "timeout",
            Trigger::Close => "close",
            Trigger::Prepay => "prepay",
        }
    }

    /// Returns the MSRP status of an error; else 0.
    pub fn code(self) -> u16 {
        match self {
            Trigger::Error(code) => code,
            Trigger::Response | Trigger::Timeout | Trigger::Close | Trigger::Prepay => 0,
        }
    }
}

/// One EventRequest over CH-2, identified by `(session, number)`. A resend differs only in `possible_duplicate`,
/// `rate_limited` and, once a server is known that may have received the request, `server_binding`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The session it belongs to.
    pub session: SessionKey,
    /// Number of the request within the session; counts up by one.
    pub number: u32,
    /// Number of the request within its reservation; 0 for the request that opens it, and without a reservation.
    pub sequence: u32,
    /// The charged account.
    pub account: AccountId,
    /// Service that the account is charged for.
    pub service: Service,
    /// Number of recipients of each message; 0: unknown, counts as one.
    pub recipients: u32,
    /// What the session's quota counts, and its price, pinned when the session was opened.
    pub measure: Measure,
    /// The reservation that the request uses.
    pub reservation: Reservation,
    /// Whether the enabler may have received the request before.
    pub possible_duplicate: bool,
    /// A retry that nothing waits for; it is subject to the rate limit of retries.
    pub rate_limited: bool,
    /// Whether the request must be sent to one server only, and once: it moves money, and the enabler does not detect
    /// duplicates.
    pub at_most_once: bool,
    /// Text from the grant that says which server holds the reservation.
    pub server_binding: Option<Arc<str>>,
    /// End-to-End Identifier (RFC 6733, 3), equal for all copies of the request; 0: not assigned.
    pub end_to_end_id: u32,
    /// What is requested.
    pub operation: Operation,
}

/// The reservation that a request uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reservation {
    /// None: the request opens one, or debits or refunds directly.
    None,
    /// An open one.
    Open {
        /// Number of the request that opened it.
        opened_by: u32,
        /// Reserved and not yet debited, before this request.
        outstanding: Quota,
    },
    /// An open one that ends with this debit; the rest is released.
    Last {
        /// Number of the request that opened it.
        opened_by: u32,
        /// Reserved and not yet debited, before this request.
        outstanding: Quota,
    },
}

impl Reservation {
    /// Returns the number of the request that opened it.
    pub fn opened_by(self) -> Option<u32> {
        match self {
            Reservation::None => None,
            Reservation::Open { opened_by, .. } | Reservation::Last { opened_by, .. } => Some(opened_by),
        }
    }

    /// Returns what is reserved and not yet debited, before this request.
    pub fn outstanding(self) -> Quota {
        match self {
            Reservation::None => Quota(0),
            Reservation::Open { outstanding, .. } | Reservation::Last { outstanding, .. } => outstanding,
        }
    }
}

/// Operations of CH-2 that imcharge uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Reserves up to `quota` in a new reservation. Less is granted if the account cannot pay for all; nothing is a denial.
    Reserve {
        /// Quota requested; 0: renewal of an open reservation, because the enabler requests it or its validity has ended.
        quota: Quota,
    },
    /// Debits units for one message, from the reservation if there is one.
    Debit {
        /// Message-ID of the MSRP message.
        message_id: Box<str>,
        /// Number among the debits of the message; above 0 only for chunks read after its first debit.
        part: u32,
        /// Octets of content sent to the receiver.
        octets: u64,
        /// Class of the content.
        class: ContentClass,
        /// Price in units of the account, by the pinned prices.
        units: Units,
        /// Quota that the message uses.
        quota: Quota,
        /// What triggered the debit.
        trigger: Trigger,
    },
    /// Refunds an earlier debit of this session: the message was not delivered.
    Refund {
        /// Message-ID of the MSRP message.
        message_id: Box<str>,
        /// Number among the debits of the message; above 0 only for chunks read after its first debit.
        part: u32,
        /// Octets of content of the message.
        octets: u64,
        /// Class of the content.
        class: ContentClass,
        /// Units to refund, by the pinned prices.
        units: Units,
        /// Quota to refund.
        quota: Quota,
    },
    /// Ends a reservation; the rest is released and zero units are used.
    Release,
}

/// Response of the enabler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Units are reserved.
    Granted(Grant),
    /// The service is free of charge for this subscriber: nothing is reserved or will be debited.
    Free,
    /// Refused; the request reserves nothing.
    Denied(Denial),
    /// The enabler does not know the reservation: it ended it by itself, or never received the request that opens it.
    NoReservation,
    /// The debit was executed.
    Debited {
        /// Available balance of the account; `None` if the enabler does not report it.
        balance: Option<i64>,
        /// Whether the enabler has ended the reservation with it.
        ended: bool,
        /// What is reserved from now on, if the enabler reports it with each debit.
        rest: Option<Grant>,
    },
    /// The refund was executed.
    Refunded {
        /// Available balance of the account; `None` if the enabler does not report it.
        balance: Option<i64>,
    },
    /// The reservation is released.
    Released {
        /// Available balance of the account; `None` if the enabler does not report it.
        balance: Option<i64>,
    },
    /// No usable answer: silence, no connection or an error.
    Failed(Failure),
}

/// A grant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// Quota granted, at most what was requested. 0 if some was requested: a refusal that leaves an open reservation.
    pub quota: Quota,
    /// Everything that the reservation holds from now on, if the enabler reports it; may be less than before. `None`: what
    /// it held, less what is debited.
    pub reserved: Option<Quota>,
    /// Seconds after which the reservation must be renewed.
    pub valid_for: Option<u32>,
    /// Whether no more will be granted after it.
    pub last: bool,
    /// What the session gets from now on while the enabler fails; `None`: as configured.
    pub on_failure: Option<OnFailure>,
    /// Which server holds the reservation; to be returned with each request of it.
    pub server_binding: Option<Arc<str>>,
    /// Available balance of the account; `None` if the enabler does not report it.
    pub balance: Option<i64>,
}

impl Response {
    /// Returns a grant without a validity limit or other terms.
    pub fn granted(quota: Quota, balance: Option<i64>) -> Response {
        Response::Granted(Grant { quota, balance, ..Grant::default() })
    }

    /// Returns an executed debit that leaves its reservation open.
    pub fn debited(balance: Option<i64>) -> Response {
        Response::Debited { balance, ended: false, rest: None }
    }
}

/// Why the enabler refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Denial {
    /// The account cannot pay for one message.
    NoCredit,
    /// The account cannot pay for the whole quota, but perhaps for less; from enablers that never grant in part.
    NotSoMany,
    /// The account does not exist.
    UnknownSubscriber,
    /// The service is denied to this subscriber.
    ServiceDenied,
    /// The subscriber is not authorized for the service.
    NotAuthorized,
    /// The enabler cannot rate the service; a retry would fail as well.
    RatingFailed,
    /// Refused for another reason, given by this Result-Code.
    Refused(u32),
}

impl Denial {
    /// Returns the name used in `$imcharge(reason)`, history and RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            Denial::NoCredit | Denial::NotSoMany => "no-credit",
            Denial::UnknownSubscriber => "unknown-subscriber",
            Denial::ServiceDenied => "service-denied",
            Denial::NotAuthorized => "not-authorized",
            Denial::RatingFailed => "rating-failed",
            Denial::Refused(_) => "refused",
        }
    }

    /// Returns the equivalent Result-Code (RFC 8506, 9), for `$imcharge(code)`.
    pub fn code(self) -> u32 {
        match self {
            Denial::ServiceDenied => 4010,
            Denial::NoCredit | Denial::NotSoMany => 4012,
            Denial::NotAuthorized => 5003,
            Denial::UnknownSubscriber => 5030,
            Denial::RatingFailed => 5031,
            Denial::Refused(code) => code,
        }
    }
}

/// Why there is no usable answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Failure {
    /// `max_sessions` sessions are open.
    Full,
    /// No identity to charge: P-Asserted-Identity is missing or is neither a sip nor a tel URI.
    NoIdentity,
    /// The enabler could not execute the request.
    Enabler,
    /// No server is reachable; nothing was sent.
    Unreachable,
    /// Too many requests are pending; nothing was sent.
    Overload,
    /// No answer within the timeout; the request may have been executed.
    Silent,
    /// The answer cannot be decoded; the request may have been executed.
    Unreadable,
    /// The enabler reports that it is busy.
    Busy,
    /// No route to the enabler.
    Undeliverable,
    /// The request also arrived over another path and is charged there; nothing was sent.
    Merged,
    /// Granted after the request had been cancelled, failed or timed out; the grant is released.
    Ended,
}

impl Failure {
    /// Returns the name used in `$imcharge(reason)`, history and RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            Failure::Full => "full",
            Failure::NoIdentity => "no-identity",
            Failure::Enabler => "enabler-failed",
            Failure::Unreachable => "enabler-unreachable",
            Failure::Overload => "enabler-overload",
            Failure::Silent => "enabler-silent",
            Failure::Unreadable => "enabler-unreadable",
            Failure::Busy => "enabler-busy",
            Failure::Undeliverable => "enabler-undeliverable",
            Failure::Merged => "merged",
            Failure::Ended => "invite-ended",
        }
    }

    /// Returns the equivalent Result-Code (RFC 6733, 7.1.3), for `$imcharge(code)`; 0: no answer.
    pub fn code(self) -> u32 {
        match self {
            Failure::Undeliverable => 3002,
            Failure::Busy => 3004,
            _ => 0,
        }
    }

    /// Returns whether the request may have been executed.
    pub fn may_be_done(self) -> bool {
        matches!(self, Failure::Silent | Failure::Unreadable)
    }
}
