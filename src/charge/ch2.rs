//! CH-2, the reference point between the Charging Enabler User (us) and the Charging Enabler: what is
//! asked and what is answered, with no word of the protocol that carries it. The embedded ledger is
//! one binding, Diameter another.

use super::account::AccountId;
use super::policy::OnFailure;
use super::tariff::{Quota, Tariff, Units};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// A session of charging, from the reservation to the release. Made from the identity of the INVITE,
/// so that every process of the host comes to the same one without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey(pub u64, pub u64);

impl SessionKey {
    /// The key of the session that this INVITE opens (Call-ID, From tag, CSeq number): a retransmission
    /// has the same, an INVITE sent again after a challenge another one.
    pub fn new(call_id: &[u8], from_tag: &[u8], cseq: u32) -> SessionKey {
        use siphasher::sip128::{Hasher128, SipHasher13};
        use std::hash::Hasher;
        let mut hasher = SipHasher13::new();
        // Lengths first, so that no two pairs run into the same bytes.
        hasher.write_u64(call_id.len() as u64);
        hasher.write(call_id);
        hasher.write_u64(from_tag.len() as u64);
        hasher.write(from_tag);
        hasher.write_u32(cseq);
        let hash = hasher.finish128();
        // Neither half is zero: a slot of the gate with half a key is free.
        SessionKey(hash.h1.max(1), hash.h2.max(1))
    }
}

impl fmt::Display for SessionKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:016x}{:016x}", self.0, self.1)
    }
}

/// What fired a debit (step 8), as it stands in the history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Trigger {
    /// MSRP 200 for the whole message (or a success REPORT, with `debit_on=report`).
    Response,
    /// MSRP 4xx or 5xx with this code, or a failure REPORT.
    Error(u16),
    /// The response did not come in time.
    Timeout,
    /// BYE, a lost connection or a stopped host after content went out and before its response.
    Close,
}

impl Trigger {
    /// The word in history, variables and RPC.
    pub fn as_str(self) -> &'static str {
        match self {
            Trigger::Response => "response",
            Trigger::Error(_) => "error",
            Trigger::Timeout => "timeout",
            Trigger::Close => "close",
        }
    }

    /// Returns the MSRP status of an error; else 0.
    pub fn code(self) -> u16 {
        match self {
            Trigger::Error(code) => code,
            Trigger::Response | Trigger::Timeout | Trigger::Close => 0,
        }
    }
}

/// One EventRequest over CH-2, named by `(session, number)`: a resend carries the same, and differs in `possible_duplicate` alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The session it belongs to.
    pub session: SessionKey,
    /// Rises by one with each request of the session, from 0.
    pub number: u32,
    /// Its number within the reservation, from 0, the request that opens it; 0 as well without one.
    pub sequence: u32,
    /// Who pays.
    pub account: AccountId,
    /// The tariff that was in force when the session was opened.
    pub tariff: Tariff,
    /// What of a reservation it finds, and what it leaves.
    pub reservation: Reservation,
    /// Whether it may have been asked before: the enabler is told that it may be a duplicate.
    pub possible_duplicate: bool,
    /// Whether it is asked again and nobody waits for it: it may take its turn.
    pub rate_limited: bool,
    /// Whether it must not be asked twice, nor of two: money moves, and the enabler would move it twice.
    pub at_most_once: bool,
    /// What the enabler gave with the grant: the way to who has the reservation.
    pub server_binding: Option<Arc<str>>,
    /// A number that goes with the request however often it is asked, where the enabler wants one.
    pub end_to_end_id: u32,
    /// What is asked.
    pub operation: Operation,
}

/// The reservation that a request works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reservation {
    /// This request opens one, or debits without.
    None,
    /// There is one.
    Open {
        /// Number of the request that opened it.
        opened_by: u32,
        /// Reserved and not yet debited, before this request.
        outstanding: Quota,
    },
    /// There is one, and it ends with this debit: what the debit leaves of it is given back.
    Last {
        /// Number of the request that opened it.
        opened_by: u32,
        /// Reserved and not yet debited, before this request.
        outstanding: Quota,
    },
}

impl Reservation {
    /// Number of the request that opened it.
    pub fn opened_by(self) -> Option<u32> {
        match self {
            Reservation::None => None,
            Reservation::Open { opened_by, .. } | Reservation::Last { opened_by, .. } => Some(opened_by),
        }
    }

    /// What is reserved and not yet debited, before the request.
    pub fn outstanding(self) -> Quota {
        match self {
            Reservation::None => Quota(0),
            Reservation::Open { outstanding, .. } | Reservation::Last { outstanding, .. } => outstanding,
        }
    }
}

/// The operations of CH-2 that this module uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Reserve units: up to `quota`, in a reservation of their own; less is granted where the account can pay for less,
    /// none is a denial.
    Reserve {
        /// How much of the service is wanted; 0: what is outstanding of an open reservation is asked for again, because
        /// the enabler wants that, or because its grant has become old.
        quota: Quota,
    },
    /// Debit units for one message, out of what is reserved.
    Debit {
        /// Message-ID of the MSRP message.
        message_id: Box<str>,
        /// Number among the debits of the message: 0, unless chunks of it were read after its first debit.
        part: u32,
        /// Octets of content that went to the client.
        octets: u64,
        /// The price, in units of the account, by the pinned tariff.
        units: Units,
        /// How much of the session's quota this message takes.
        quota: Quota,
        /// Why now.
        trigger: Trigger,
    },
    /// Give back what a debit of this session has taken: the message was not delivered after all.
    Refund {
        /// Message-ID of the MSRP message.
        message_id: Box<str>,
        /// Number among the debits of the message: 0, unless chunks of it were read after its first debit.
        part: u32,
        /// Octets of content of the message.
        octets: u64,
        /// What was debited for it, in units of the account, by the pinned tariff.
        units: Units,
        /// The same in what the tariff counts.
        quota: Quota,
    },
    /// End a reservation: what is left of it is given back, zero units are used.
    Release,
}

/// The enabler's Response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Units are reserved.
    Granted(Grant),
    /// The service costs this subscriber nothing: nothing is reserved and nothing will be debited.
    Free,
    /// Refused: nothing is reserved by this request.
    Denied(Denial),
    /// The enabler knows no such reservation: it has ended it by itself, or has never heard of it.
    NoReservation,
    /// The debit stands.
    Debited {
        /// What is left on the account beside all that is held; `None` where the enabler does not tell.
        balance: Option<i64>,
        /// Whether the enabler has ended the reservation with it: nothing is held any more.
        ended: bool,
        /// What is reserved from now on, where the enabler says it anew with each debit.
        rest: Option<Grant>,
    },
    /// What was debited is given back.
    Refunded {
        /// What is left on the account beside all that is held; `None` where the enabler does not tell.
        balance: Option<i64>,
    },
    /// The rest is given back.
    Released {
        /// What is left on the account beside all that is held; `None` where the enabler does not tell.
        balance: Option<i64>,
    },
    /// No answer to be had: silent, unreachable or broken.
    Failed(Failure),
}

/// What is granted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// How much of the service may be used, at most what was asked. None, where some was asked: a refusal with an open
    /// reservation.
    pub quota: Quota,
    /// All that the reservation holds from now on, where the enabler says it anew; it may be less than before. `None`:
    /// what it held, less what is debited.
    pub reserved: Option<Quota>,
    /// Seconds after which what is left of it must be asked for again.
    pub valid_for: Option<u32>,
    /// Whether it is the last: no more will be granted.
    pub last: bool,
    /// What the session gets from now on while the enabler fails; `None`: what is configured.
    pub on_failure: Option<OnFailure>,
    /// To be handed back with each request of this reservation.
    pub server_binding: Option<Arc<str>>,
    /// What is left on the account beside all that is held; `None` where the enabler does not tell.
    pub balance: Option<i64>,
}

impl Response {
    /// A grant without end and without a word of more.
    pub fn granted(quota: Quota, balance: Option<i64>) -> Response {
        Response::Granted(Grant { quota, balance, ..Grant::default() })
    }

    /// A debit out of a reservation that goes on as it was.
    pub fn debited(balance: Option<i64>) -> Response {
        Response::Debited { balance, ended: false, rest: None }
    }
}

/// Why the enabler refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Denial {
    /// The account cannot pay for one message.
    NoCredit,
    /// The account cannot pay for so many; perhaps for fewer. Of enablers that never grant in part.
    NotSoMany,
    /// There is no such account.
    UnknownSubscriber,
    /// The service is denied to this subscriber.
    ServiceDenied,
    /// The subscriber may not have the service.
    NotAuthorized,
    /// The enabler cannot rate the service: it does not know it by this name. Asking again is in vain.
    RatingFailed,
    /// Refused for another reason, which the code tells.
    Refused(u32),
}

impl Denial {
    /// The word in `$imcharge(reason)`, history and RPC.
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

    /// The Result-Code that says the same (RFC 8506, 9), for `$imcharge(code)`.
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

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Failure {
    /// `max_sessions` are open.
    Full,
    /// No identity to charge: no P-Asserted-Identity, or none that is a sip or tel URI.
    NoIdentity,
    /// The enabler could not do it.
    Enabler,
    /// No enabler can be reached: nothing was asked.
    Unreachable,
    /// More requests wait for an answer than may: nothing was asked.
    Overload,
    /// Asked, and not answered in time: it may have been done.
    Silent,
    /// Asked, and answered by something that cannot be read: it may have been done.
    Unreadable,
    /// The enabler says that it is busy.
    Busy,
    /// Nobody knows the way to the enabler.
    Undeliverable,
    /// Its INVITE came by another way as well, and is charged there: nothing was asked.
    Merged,
    /// Granted after the INVITE had ended: cancelled, failed or out of time. What was granted is released.
    Ended,
}

impl Failure {
    /// The word in `$imcharge(reason)`, history and RPC.
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

    /// The Result-Code that says the same (RFC 6733, 7.1.3), for `$imcharge(code)`; 0: there was no answer.
    pub fn code(self) -> u32 {
        match self {
            Failure::Undeliverable => 3002,
            Failure::Busy => 3004,
            _ => 0,
        }
    }

    /// Whether the request may have been carried out all the same.
    pub fn may_be_done(self) -> bool {
        matches!(self, Failure::Silent | Failure::Unreadable)
    }
}
