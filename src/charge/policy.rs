//! How to treat cases that the OMA specification leaves open. Each has a parameter, a default and a test.

use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// Whether a message is debited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settle {
    /// The message is debited.
    Debit,
    /// The message is not charged.
    Release,
}

/// What triggers a debit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DebitOn {
    /// The MSRP response.
    Response,
    /// The REPORT for messages that request one (Success-Report: yes), the response for all others.
    Report,
}

/// What an INVITE gets when the enabler fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// The service is refused.
    Deny,
    /// The service is granted, and debited when the enabler is available again.
    Grant,
}

/// What happens to a debit that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resend {
    /// It is sent again, marked as a possible duplicate (RFC 8506, 6.5), until it is answered.
    Again,
    /// It waits for the operator: the enabler does not detect duplicates.
    Hold,
}

/// When credit is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Model {
    /// Before delivery: units are reserved, then debited (ECUR and SCUR of TS 32.299).
    Reserve,
    /// After the delivery of each message: units are debited directly (IEC of TS 32.299). Nothing is reserved.
    Immediate,
    /// A MESSAGE is debited directly before it is relayed, and refunded if it is not delivered: for enablers without
    /// reservations. MSRP sessions reserve.
    Prepay,
}

impl Model {
    /// Returns the value of the parameter `model`.
    pub fn as_str(self) -> &'static str {
        match self {
            Model::Reserve => "reserve",
            Model::Immediate => "immediate",
            Model::Prepay => "prepay",
        }
    }
}

/// The policies that a session follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `5xx`: an MSRP 5xx (501, 506). Default: debit.
    pub server_error: Settle,
    /// `close`: BYE, lost connection or stopped host after content was sent and before its response. Default: debit.
    pub close: Settle,
    /// `abort`: the server aborts a message (`#`) without an earlier error response. Default: release.
    pub abort: Settle,
    /// `report`: a failure REPORT after the message was debited because of a 200. Default: debit, which keeps the debit;
    /// release refunds it.
    pub report: Settle,
    /// `202`: a MESSAGE is answered with 202, which accepts it without saying that it was delivered (RFC 3428, 7).
    /// Default: debit.
    pub accepted: Settle,
    /// `message-timeout`: a MESSAGE was relayed and gets no final response. Default: debit.
    pub message_timeout: Settle,
    /// When credit is requested.
    pub model: Model,
    /// What triggers a debit.
    pub debit_on: DebitOn,
    /// What an INVITE gets when the enabler fails.
    pub on_failure: OnFailure,
    /// Total that a subscriber may be granted while the enabler does not answer, with `on_failure=grant`.
    pub on_failure_cap: u32,
    /// What happens to a debit that was not answered.
    pub resend: Resend,
    /// Seconds to wait for an MSRP response (or REPORT) after the last octet of a chunk.
    pub response_timeout: u32,
    /// Seconds without activity after which a session is settled and its reservation released.
    pub hold_timeout: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            server_error: Settle::Debit,
            close: Settle::Debit,
            abort: Settle::Release,
            report: Settle::Debit,
            accepted: Settle::Debit,
            message_timeout: Settle::Debit,
            model: Model::Reserve,
            debit_on: DebitOn::Response,
            on_failure: OnFailure::Deny,
            on_failure_cap: 100,
            resend: Resend::Again,
            response_timeout: 30,
            hold_timeout: 300,
        }
    }
}

/// The text is not a value of the parameter `policy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "accepted is CASE=CHOICE;..., with CASE 5xx, close, abort, report, 202 or message-timeout and CHOICE debit or release"
)]
pub struct InvalidPolicy;

impl Policy {
    /// Sets cases from the parameter `policy`, for example `5xx=debit;abort=release`. Cases that are not named keep their
    /// value. An error changes nothing.
    pub fn set_cases(&mut self, text: &str) -> Result<(), InvalidPolicy> {
        let mut policy = *self;
        for case in text.split(';').map(str::trim).filter(|case| !case.is_empty()) {
            let (name, choice) = case.split_once('=').ok_or(InvalidPolicy)?;
            *policy.case(name.trim()).ok_or(InvalidPolicy)? = choice.trim().parse()?;
        }
        *self = policy;
        Ok(())
    }

    fn case(&mut self, name: &str) -> Option<&mut Settle> {
        match name {
            "5xx" => Some(&mut self.server_error),
            "close" => Some(&mut self.close),
            "abort" => Some(&mut self.abort),
            "report" => Some(&mut self.report),
            "202" => Some(&mut self.accepted),
            "message-timeout" => Some(&mut self.message_timeout),
            _ => None,
        }
    }
}

impl FromStr for Settle {
    type Err = InvalidPolicy;

    fn from_str(text: &str) -> Result<Settle, InvalidPolicy> {
        match text {
            "debit" => Ok(Settle::Debit),
            "release" => Ok(Settle::Release),
            _ => Err(InvalidPolicy),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn policy_sets_named_cases_only() {
        let mut policy = Policy::default();
        assert_eq!(policy.set_cases(" 5xx=release; abort = debit ;report=release"), Ok(()));
        let (release, debit) = (Settle::Release, Settle::Debit);
        let wanted = Policy { server_error: release, abort: debit, report: release, ..Policy::default() };
        assert_eq!(policy, wanted);
        assert_eq!(policy.set_cases(""), Ok(()));
        assert_eq!(policy, wanted);
    }

    #[test]
    fn policy_sets_cases_of_page_mode() {
        let mut policy = Policy::default();
        assert_eq!(policy.set_cases("202=release;message-timeout=release"), Ok(()));
        let release = Settle::Release;
        assert_eq!(policy, Policy { accepted: release, message_timeout: release, ..Policy::default() });
    }

    #[test]
    fn policy_with_invalid_case_is_unchanged() {
        for text in ["close", "close=", "close=maybe", "4xx=debit", "close=release;x=debit", "=debit", "close=debit=1"]
        {
            let mut policy = Policy::default();
            assert_eq!(policy.set_cases(text), Err(InvalidPolicy), "{text}");
            assert_eq!(policy, Policy::default(), "{text}");
        }
    }
}
