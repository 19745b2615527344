//! Diameter: the base protocol (RFC 6733), Credit-Control (RFC 8506), and the AVPs of 3GPP and OMA that charging of
//! messages needs. Bytes in, views out, and back.
//!
//! A stream is cut into messages by [`frame`]; [`Message::parse`] is a view over one, and each kind of message has a
//! struct with `decode` and `write`: [`CreditControlRequest`], [`CreditControlAnswer`], those of [`base`]. A message
//! that is wrong gives a [`Fault`], which has all that its answer needs. [`Writer`] writes messages to the end of a
//! buffer.

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
    /// Its header.
    pub header: Header,
    /// Its AVPs, not looked at yet.
    body: &'a [u8],
}

impl<'a> Message<'a> {
    /// Over the bytes of exactly one message, as [`frame`] has cut them. `None`: they are not.
    pub fn parse(bytes: &'a [u8]) -> Option<Message<'a>> {
        Some(Message { header: Header::read(bytes)?, body: bytes.get(HEADER_LENGTH..)? })
    }

    /// Its AVPs one after the other, as they come.
    pub fn avps(&self) -> Avps<'a> {
        Avps::new(self.body)
    }

    /// The first AVP of this kind, as far as the message can be read.
    pub fn find(&self, avp: Avp) -> Option<RawAvp<'a>> {
        self.avps().map_while(Result::ok).find(|found| found.is(avp))
    }
}

/// An answer that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<T> {
    /// What it says.
    pub body: T,
    /// Code and vendor of the first AVP with the M flag that nobody here knows. Whoever asked decides whether the rest
    /// is worth anything.
    pub unsupported: Option<(u32, u32)>,
}

/// What became of a request, of whichever list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Result-Code.
    Result(ResultCode),
    /// Experimental-Result of this vendor.
    Experimental(u32, ResultCode),
}

impl Outcome {
    /// The number. Classes (2xxx, 4xxx) mean the same in all lists.
    pub fn code(self) -> ResultCode {
        match self {
            Outcome::Result(code) | Outcome::Experimental(_, code) => code,
        }
    }

    fn of(result: Option<ResultCode>, experimental: Option<&ExperimentalResult>) -> Option<Outcome> {
        let experimental = || experimental.map(|result| Outcome::Experimental(result.vendor_id, result.code));
        result.map(Outcome::Result).or_else(experimental)
    }
}

/// `decode` and `write` of requests: who asks can be told what is wrong.
macro_rules! requests {
    ($($module:ident::$name:ident;)*) => {$(
        impl<'a> $module::$name<'a> {
            /// Reads a request of this command.
            pub fn decode(message: &Message<'a>) -> Result<Self, Fault<'a>> {
                Self::read_avps(message.avps(), &mut Reading::request())
            }

            /// Writes its AVPs. More may be written behind them.
            pub fn write(&self, out: &mut Writer<'_>) {
                self.write_avps(out);
            }
        }
    )*};
}

/// The same of answers.
macro_rules! answers {
    ($($module:ident::$name:ident $check:expr;)*) => {$(
        impl<'a> $module::$name<'a> {
            /// Reads an answer of this command. A fault here is the answer's, and nobody is told of it.
            pub fn decode(message: &Message<'a>) -> Result<Decoded<Self>, Fault<'a>> {
                let mut reading = Reading::answer();
                let body = Self::read_avps(message.avps(), &mut reading)?;
                let check: fn(&Self, &Header) -> Option<Avp> = $check;
                match check(&body, &message.header) {
                    Some(missing) => Err(Fault::missing(missing)),
                    None => Ok(Decoded { body, unsupported: reading.unsupported }),
                }
            }

            /// Writes its AVPs. More may be written behind them.
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
    /// What became of the request; always there in an answer that was read.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::of(self.result_code, self.experimental_result.as_ref())
    }
}

impl CreditControlAnswer<'_> {
    /// What became of the request; always there in an answer that was read.
    pub fn outcome(&self) -> Option<Outcome> {
        Outcome::of(self.result_code, self.experimental_result.as_ref())
    }
}

#[cfg(test)]
mod tests;
