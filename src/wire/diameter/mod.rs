//! Diameter codec: the base protocol (RFC 6733), Credit-Control (RFC 8506), and the AVPs of 3GPP and OMA for charging
//! of messages.
//!
//! [`frame`] splits a stream into messages and [`Message::parse`] is a view of one. Each command has a struct with
//! `decode` and `write`: [`CreditControlRequest`], [`CreditControlAnswer`], those of [`base`]. A message that cannot be
//! decoded gives a [`Fault`] with all that its answer needs. [`Writer`] appends messages to a buffer.

pub mod avp;
pub mod base;
pub mod codes;
pub mod credit_control;
pub mod dictionary;
pub mod fault;
mod grammar;
pub mod header;
pub mod write;

pub use avp::{Address, Avps, RawAvp, Time};
pub use codes::ResultCode;
pub use credit_control::{CreditControlAnswer, CreditControlRequest, Service, ServiceUnits};
pub use dictionary::{Avp, Command};
pub use fault::{Failed, Fault};
pub use grammar::{FailedAvp, MANY_MAX};
pub use header::{EndToEnd, Flags, Framed, FramingError, HEADER_LENGTH, Header, HopByHop, MAX_MESSAGE, frame};
pub use write::{TooLong, Writer, refuse};

use base::ExperimentalResult;
use grammar::{Body, Reading};

/// One whole message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The header.
    pub header: Header,
    /// The AVPs, not parsed.
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Returns a view of the bytes of exactly one message, as [`frame`] delimits it. `None`: they are not one.
    pub fn parse(bytes: &'a [u8]) -> Option<Message<'a>> {
        Some(Message { header: Header::read(bytes)?, body: bytes.get(HEADER_LENGTH..)? })
    }

    /// Iterates over the AVPs.
    pub fn avps(&self) -> Avps<'a> {
        Avps::new(self.body)
    }

    /// Returns the first such AVP before any malformed one.
    pub fn find(&self, avp: Avp) -> Option<RawAvp<'a>> {
        self.avps().map_while(Result::ok).find(|found| found.is(avp))
    }
}

/// A decoded answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<T> {
    /// Its AVPs.
    pub body: T,
    /// Code and vendor of the first unknown AVP with the M flag. The sender of the request decides whether to use the
    /// answer.
    pub unsupported: Option<(u32, u32)>,
}

/// Result of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Result-Code.
    Result(ResultCode),
    /// Experimental-Result: vendor and code.
    Experimental(u32, ResultCode),
}

impl Outcome {
    /// Returns the code. Its class (2xxx, 4xxx) means the same for all vendors.
    pub fn code(self) -> ResultCode {
        match self {
            Outcome::Result(code) | Outcome::Experimental(_, code) => code,
        }
    }

    fn new(result: Option<ResultCode>, experimental: Option<&ExperimentalResult>) -> Option<Outcome> {
        let experimental = || experimental.map(|result| Outcome::Experimental(result.vendor_id, result.code));
        result.map(Outcome::Result).or_else(experimental)
    }
}

/// `decode` and `write` of requests. Unknown AVPs with the M flag are faults.
macro_rules! requests {
    ($($module:ident::$name:ident;)*) => {$(
        impl<'a> $module::$name<'a> {
            /// Decodes a request of this command.
            pub fn decode(message: &Message<'a>) -> Result<Self, Fault<'a>> {
                Self::read_avps(message.avps(), &mut Reading::request())
            }

            /// Writes the AVPs. Others may follow.
            pub fn write(&self, out: &mut Writer<'_>) {
                self.write_avps(out);
            }
        }
    )*};
}

/// `decode` and `write` of answers.
macro_rules! answers {
    ($($module:ident::$name:ident $check:expr;)*) => {$(
        impl<'a> $module::$name<'a> {
            /// Decodes an answer of this command. Its faults are not reported to the peer.
            pub fn decode(message: &Message<'a>) -> Result<Decoded<Self>, Fault<'a>> {
                let mut reading = Reading::answer();
                let body = Self::read_avps(message.avps(), &mut reading)?;
                let check: fn(&Self, &Header) -> Option<Avp> = $check;
                match check(&body, &message.header) {
                    Some(missing) => Err(Fault::missing(missing)),
                    None => Ok(Decoded { body, unsupported: reading.unsupported }),
                }
            }

            /// Writes the AVPs. Others may follow.
            pub fn write(&self, out: &mut Writer<'_>) {
                self.write_avps(out);
            }
        }
    )*};
}

requests! {
    base::CapabilitiesExchangeRequest;
    base::DeviceWatchdogRequest;
    base::DisconnectPeerRequest;
    base::ReAuthRequest;
    base::AbortSessionRequest;
    credit_control::CreditControlRequest;
}

answers! {
    base::Answer |body, _| body.outcome().is_none().then_some(dictionary::RESULT_CODE);
    base::CapabilitiesExchangeAnswer |_, _| None;
    base::PeerAnswer |_, _| None;
    credit_control::CreditControlAnswer |body, header| match (body.outcome(), body.session_id) {
        (None, _) => Some(dictionary::RESULT_CODE),
        (_, None) if !header.is_error() => Some(dictionary::SESSION_ID),
        _ => None,
    };
}

impl base::Answer<'_> {
    /// Returns the result; always present in a decoded answer.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::new(self.result_code, self.experimental_result.as_ref())
    }
}

impl CreditControlAnswer<'_> {
    /// Returns the result; always present in a decoded answer.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::new(self.result_code, self.experimental_result.as_ref())
    }
}

#[cfg(test)]
mod tests;
