//! CH-2, the reference point between the Charging Enabler User (us) and the Charging Enabler: what is
//! asked and what is answered, with no word of the protocol that carries it. The embedded ledger is
//! one binding, Diameter another.

use super::account::AccountId;
use super::tariff::{Quota, Tariff, Units};
use serde::{Deserialize, Serialize};
use std::fmt;

/// A session of charging, from the reservation to the release. Made from the identity of the INVITE,
/// so that every process of the host comes to the same one without asking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SessionKey(pub u64, pub u64);

impl SessionKey {
    /// The key of the session that this INVITE opens (Call-ID, From tag, CSeq number): a retransmission
    /// has the same, an INVITE sent again after a challenge another one.
    pub fn of(call_id: &[u8], from_tag: &[u8], cseq: u32) -> SessionKey {
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
        SessionKey(hash.h1, hash.h2)
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
    pub fn word(self) -> &'static str {
        match self {
            Trigger::Response => "response",
            Trigger::Error(_) => "error",
            Trigger::Timeout => "timeout",
            Trigger::Close => "close",
        }
    }
}

/// One EventRequest over CH-2. `(session, number)` names it for ever: a resend carries the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The session it belongs to.
    pub session: SessionKey,
    /// Rises by one with each request of the session, from 0.
    pub number: u32,
    /// Who pays.
    pub account: AccountId,
    /// The tariff that was in force when the session was opened.
    pub tariff: Tariff,
    /// What is asked.
    pub operation: Operation,
}

/// The operations of CH-2 that this module uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// Reserve units: up to `quota`; less is granted where the account can pay for less, none is a denial.
    Reserve {
        /// How much of the service is wanted.
        quota: Quota,
    },
    /// Debit units for one message, out of what is reserved.
    Debit {
        /// Message-ID of the MSRP message.
        message_id: Box<str>,
        /// Octets of content that went to the client.
        octets: u64,
        /// The price, in units of the account, by the pinned tariff.
        units: Units,
        /// How much of the session's quota this message takes.
        quota: Quota,
        /// Why now.
        trigger: Trigger,
    },
    /// Give back everything that is reserved and unused: zero units used.
    Release,
}

/// The enabler's Response.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    /// Units are reserved: this much more of the service may be used.
    Granted {
        /// How much more, at least one and at most what was asked.
        quota: Quota,
        /// What is left on the account beside all that is held; `None` where the enabler does not tell.
        balance: Option<i64>,
    },
    /// Refused: nothing is reserved by this request.
    Denied(Denial),
    /// The debit stands.
    Debited {
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

/// Why the enabler refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Denial {
    /// The account cannot pay for one message.
    NoCredit,
    /// There is no such account.
    UnknownSubscriber,
}

impl Denial {
    /// The word in `$imcharge(reason)`, history and RPC.
    pub fn word(self) -> &'static str {
        match self {
            Denial::NoCredit => "no-credit",
            Denial::UnknownSubscriber => "unknown-subscriber",
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
}

impl Failure {
    /// The word in `$imcharge(reason)`, history and RPC.
    pub fn word(self) -> &'static str {
        match self {
            Failure::Full => "full",
            Failure::NoIdentity => "no-identity",
            Failure::Enabler => "enabler-failed",
        }
    }
}
