//! How a message ends, and by which rule.

use super::rule::Rule;
use crate::charge::ch2::Trigger;
use crate::charge::policy::{Policy, Settle};
use serde::{Deserialize, Serialize};

/// How a message ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Settlement {
    /// It is debited, by this rule.
    Debit(Trigger, Rule),
    /// It is not charged, by this rule.
    NotCharged(Rule),
}

impl Settlement {
    pub(super) fn rule(self) -> Rule {
        match self {
            Settlement::Debit(_, rule) | Settlement::NotCharged(rule) => rule,
        }
    }

    /// The trigger of the debit; of one that is not charged, `Close`.
    pub(super) fn trigger(self) -> Trigger {
        match self {
            Settlement::Debit(trigger, _) => trigger,
            Settlement::NotCharged(_) => Trigger::Close,
        }
    }

    pub(super) fn new(settle: Settle, trigger: Trigger, rule: Rule) -> Settlement {
        match settle {
            Settle::Debit => Settlement::Debit(trigger, rule),
            Settle::Release => Settlement::NotCharged(rule),
        }
    }

    /// Settlement by the status of a response or REPORT; `None` for success and for codes that RFC 4975 does not define.
    /// 408 means that a relay downstream timed out (RFC 4975, 10.6).
    pub(super) fn from_code(code: u16, policy: &Policy) -> Option<Settlement> {
        let cases = &policy.cases;
        let (settle, trigger, rule) = match code {
            408 => (cases.timeout, Trigger::Timeout, Rule::RequestTimeout(cases.timeout)),
            400..=499 => (cases.client_error, Trigger::Error(code), Rule::ClientError(code, cases.client_error)),
            500..=599 => (cases.server_error, Trigger::Error(code), Rule::ServerError(code, cases.server_error)),
            _ => return None,
        };
        Some(Settlement::new(settle, trigger, rule))
    }

    /// Returns the status of the failure because of which the message is released.
    pub(super) fn refusal(self) -> Option<u16> {
        match self {
            Settlement::NotCharged(Rule::ClientError(code, _) | Rule::ServerError(code, _)) => Some(code),
            _ => None,
        }
    }

    /// Settlement by a failure that does not release.
    pub(super) fn by_unproven_failure(code: u16) -> Settlement {
        Settlement::Debit(Trigger::Error(code), Rule::UnprovenFailure(code))
    }
}
