//! What to do where the OMA text is silent. Each case has a name, a default and a test.

use serde::{Deserialize, Serialize};

/// Debit or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Settle {
    /// The message is paid for.
    Debit,
    /// The message costs nothing.
    Release,
}

/// What a debit waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DebitOn {
    /// The MSRP response.
    Response,
    /// The REPORT, for messages that asked for one (Success-Report: yes); the response for all others.
    Report,
}

/// What happens to an INVITE when the enabler fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnFailure {
    /// Refuse the service.
    Deny,
    /// Give it, and debit when the enabler is back.
    Grant,
}

/// What happens to a debit that was asked for and never answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resend {
    /// It is asked again, marked as a possible duplicate (RFC 8506, 6.5), until it is answered.
    Again,
    /// It waits for an operator: this enabler would take it twice.
    Hold,
}

/// When credit is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Model {
    /// Before the service: units are reserved, then debited (ECUR and SCUR of TS 32.299).
    Reserve,
    /// With each message, after it: units are debited at once (IEC of TS 32.299). Nothing is reserved.
    Immediate,
}

/// All choices of an operator that the session machine follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `5xx`: an MSRP 5xx (501, 506). Default: debit.
    pub server_error: Settle,
    /// `close`: BYE, lost connection or stopped host after content went out and before its response. Default: debit.
    pub close: Settle,
    /// `abort`: the server gives a message up (`#`) with no error response before. Default: release.
    pub abort: Settle,
    /// `report`: a failure REPORT that comes after its message was debited because of a 200. Default: debit, which keeps
    /// it; release gives the units back.
    pub report: Settle,
    /// When credit is asked for.
    pub model: Model,
    /// What a debit waits for.
    pub debit_on: DebitOn,
    /// What an INVITE gets when the enabler fails.
    pub on_failure: OnFailure,
    /// How much of the service a subscriber may have in all while no enabler answers, with `on_failure=grant`.
    pub on_failure_cap: u32,
    /// What happens to a debit that was asked for and never answered.
    pub resend: Resend,
    /// Seconds to wait for an MSRP response (or REPORT) after the last octet of a chunk.
    pub response_timeout: u32,
    /// Seconds without any movement after which a session is settled and its hold freed.
    pub hold_timeout: u32,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            server_error: Settle::Debit,
            close: Settle::Debit,
            abort: Settle::Release,
            report: Settle::Debit,
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

/// A case of the parameter `policy` is unknown, or its choice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed is CASE=CHOICE;..., CASE of 5xx, close, abort, report, CHOICE of debit, release")]
pub struct NoPolicy;

impl Policy {
    /// Sets the cases of the parameter `policy`: `5xx=debit;close=debit;abort=release;report=debit`. Cases that are not named stay
    /// as they are, as does the whole where any is wrong.
    pub fn set_cases(&mut self, text: &str) -> Result<(), NoPolicy> {
        let mut policy = *self;
        for case in text.split(';').map(str::trim).filter(|case| !case.is_empty()) {
            let (name, choice) = case.split_once('=').ok_or(NoPolicy)?;
            *policy.case(name.trim()).ok_or(NoPolicy)? = Settle::from_word(choice.trim()).ok_or(NoPolicy)?;
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
            _ => None,
        }
    }
}

impl Settle {
    fn from_word(word: &str) -> Option<Settle> {
        match word {
            "debit" => Some(Settle::Debit),
            "release" => Some(Settle::Release),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cases_are_set_by_name_and_others_stay() {
        let mut policy = Policy::default();
        assert_eq!(policy.set_cases(" 5xx=release; abort = debit ;report=release"), Ok(()));
        let (release, debit) = (Settle::Release, Settle::Debit);
        let wanted = Policy { server_error: release, abort: debit, report: release, ..Policy::default() };
        assert_eq!(policy, wanted);
        assert_eq!(policy.set_cases(""), Ok(()));
        assert_eq!(policy, wanted);
    }

    #[test]
    fn a_wrong_case_changes_nothing() {
        for text in ["close", "close=", "close=maybe", "4xx=debit", "close=release;x=debit", "=debit", "close=debit=1"]
        {
            let mut policy = Policy::default();
            assert_eq!(policy.set_cases(text), Err(NoPolicy), "{text}");
            assert_eq!(policy, Policy::default(), "{text}");
        }
    }
}
