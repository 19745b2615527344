//! How to treat cases that the OMA specification leaves open. Each has a parameter, a default and a test.

use super::service::Service;
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

/// Which party pays for content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payer {
    /// Its receiver, who also writes the response.
    Receiver,
    /// Its sender, who does not.
    Sender,
}

/// What becomes of a message in each case, for content paid by one party.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cases {
    /// Which party pays.
    pub payer: Payer,
    /// `4xx`: an MSRP 4xx other than 408.
    pub client_error: Settle,
    /// `5xx`: an MSRP 5xx (501, 506).
    pub server_error: Settle,
    /// `timeout`: no response in time, or 408.
    pub timeout: Settle,
    /// `close`: BYE, lost connection or stopped host after content was sent and before its response.
    pub close: Settle,
    /// `abort`: the sender aborts a message (`#`) without an earlier error response.
    pub abort: Settle,
    /// `report`: a failure REPORT after the message was debited because of a 200; release refunds the debit.
    pub report: Settle,
}

impl Cases {
    /// Defaults for content that its receiver pays for. The payer writes the response, so every response and every silence
    /// is paid for; the sender, which gains nothing, may abort.
    pub const RECEIVED: Cases = Cases {
        payer: Payer::Receiver,
        client_error: Settle::Debit,
        server_error: Settle::Debit,
        timeout: Settle::Debit,
        close: Settle::Debit,
        abort: Settle::Release,
        report: Settle::Debit,
    };

    /// Defaults for content that its sender pays for. The receiver writes the response, so a failure releases; what the
    /// payer can cause alone (silence, the end of the session, an abort) is paid for.
    pub const SENT: Cases = Cases {
        payer: Payer::Sender,
        client_error: Settle::Release,
        server_error: Settle::Release,
        abort: Settle::Debit,
        ..Cases::RECEIVED
    };

    /// Returns the case of this name in the parameter `policy`.
    fn case(&mut self, name: &str) -> Option<&mut Settle> {
        match name {
            "4xx" => Some(&mut self.client_error),
            "5xx" => Some(&mut self.server_error),
            "timeout" => Some(&mut self.timeout),
            "close" => Some(&mut self.close),
            "abort" => Some(&mut self.abort),
            "report" => Some(&mut self.report),
            _ => None,
        }
    }
}

/// The policies that a session follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Cases of content that its receiver pays for; in a session, of the content that it charges for.
    pub cases: Cases,
    /// Cases of content that its sender pays for.
    pub sent: Cases,
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
            cases: Cases::RECEIVED,
            sent: Cases::SENT,
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
    "accepted is [CONTENT.]CASE=CHOICE;..., with CONTENT received or sent (without it: both), CASE 4xx, 5xx, timeout, close, \
     abort or report, or, without CONTENT, 202 or message-timeout, and CHOICE debit or release"
)]
pub struct InvalidPolicy;

impl Policy {
    /// Sets cases from the parameter `policy`, for example `5xx=debit;sent.abort=release`. Cases that are not named keep
    /// their value. An error changes nothing.
    pub fn set_cases(&mut self, text: &str) -> Result<(), InvalidPolicy> {
        let mut policy = *self;
        for case in text.split(';').map(str::trim).filter(|case| !case.is_empty()) {
            let (name, choice) = case.split_once('=').ok_or(InvalidPolicy)?;
            policy.set_case(name.trim(), choice.trim().parse()?)?;
        }
        *self = policy;
        Ok(())
    }

    fn set_case(&mut self, name: &str, choice: Settle) -> Result<(), InvalidPolicy> {
        match name {
            "202" => {
                self.accepted = choice;
                return Ok(());
            }
            "message-timeout" => {
                self.message_timeout = choice;
                return Ok(());
            }
            _ => {}
        }
        let (of_received, of_sent, case) = match name.split_once('.') {
            Some(("received", case)) => (true, false, case),
            Some(("sent", case)) => (false, true, case),
            Some(_) => return Err(InvalidPolicy),
            None => (true, true, name),
        };
        if of_received {
            *self.cases.case(case).ok_or(InvalidPolicy)? = choice;
        }
        if of_sent {
            *self.sent.case(case).ok_or(InvalidPolicy)? = choice;
        }
        Ok(())
    }

    /// Returns the policy of a session that is charged for this service.
    pub fn of_service(self, service: Service) -> Policy {
        match service.is_paid_by_sender() {
            true => Policy { cases: self.sent, ..self },
            false => self,
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
        let changed = |cases: Cases| Cases { server_error: release, abort: debit, report: release, ..cases };
        let default = Policy::default();
        let wanted = Policy { cases: changed(default.cases), sent: changed(default.sent), ..default };
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
        for text in [
            "close",
            "close=",
            "close=maybe",
            "close=release;x=debit",
            "=debit",
            "close=debit=1",
            "other.4xx=debit",
            "sent.=debit",
            "sent.x=debit",
        ] {
            let mut policy = Policy::default();
            assert_eq!(policy.set_cases(text), Err(InvalidPolicy), "{text}");
            assert_eq!(policy, Policy::default(), "{text}");
        }
    }

    #[test]
    fn case_of_one_kind_of_content_leaves_the_other() {
        let mut policy = Policy::default();
        assert_eq!(policy.set_cases("sent.4xx=debit; received.timeout=release"), Ok(()));
        let sent = Cases { client_error: Settle::Debit, ..Cases::SENT };
        let received = Cases { timeout: Settle::Release, ..Cases::RECEIVED };
        assert_eq!((policy.cases, policy.sent), (received, sent));
        assert_eq!(policy.of_service(Service::Sending).cases, sent);
        for service in [Service::Retrieval, Service::Receiving] {
            assert_eq!(policy.of_service(service).cases, received);
        }
    }
}
