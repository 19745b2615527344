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

/// All choices of an operator that the session machine follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// `5xx`: an MSRP 5xx (501, 506). Default: debit.
    pub server_error: Settle,
    /// `close`: BYE, lost connection or stopped host after content went out and before its response. Default: debit.
    pub close: Settle,
    /// `abort`: the server gives a message up (`#`) with no error response before. Default: release.
    pub abort: Settle,
    /// What a debit waits for.
    pub debit_on: DebitOn,
    /// What an INVITE gets when the enabler fails.
    pub on_failure: OnFailure,
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
            debit_on: DebitOn::Response,
            on_failure: OnFailure::Deny,
            response_timeout: 30,
            hold_timeout: 300,
        }
    }
}
