//! What is wrong with a message, in the words of its answer: a Result-Code, and the AVP that goes into Failed-AVP.

use super::avp::RawAvp;
use super::dictionary::{ALL, Avp, name};
use crate::wire::diameter::codes::ResultCode;
use std::fmt;

/// The AVP that a fault is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed<'a> {
    /// It came, and is wrong. Where its length is the fault, it stands here without data.
    Offending(RawAvp<'a>),
    /// It did not come.
    Missing(Avp),
}

/// Why a message cannot be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// What its answer says.
    pub result: ResultCode,
    /// Which AVP is at fault.
    pub failed: Option<Failed<'a>>,
}

impl<'a> Fault<'a> {
    /// A fault of the whole message.
    pub fn new(result: ResultCode) -> Fault<'a> {
        Fault { result, failed: None }
    }

    /// This AVP is wrong.
    pub fn offending(result: ResultCode, avp: RawAvp<'a>) -> Fault<'a> {
        Fault { result, failed: Some(Failed::Offending(avp)) }
    }

    /// This AVP is not there, and has to be.
    pub fn missing(avp: Avp) -> Fault<'a> {
        Fault { result: ResultCode::MISSING_AVP, failed: Some(Failed::Missing(avp)) }
    }
}

impl Failed<'_> {
    /// Octets of data that stand for those which are missing or could not be read (RFC 6733, 7.1.5): as few as the
    /// format allows.
    pub(super) fn least_data(&self) -> usize {
        let format = match self {
            Failed::Missing(avp) => Some(avp.format),
            Failed::Offending(raw) => ALL.iter().find(|avp| raw.is(**avp)).map(|avp| avp.format),
        };
        format.map_or(0, |format| format.minimum())
    }
}

impl fmt::Display for Fault<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.result.fmt(out)?;
        match self.failed {
            None => Ok(()),
            Some(Failed::Missing(avp)) => write!(out, ": {avp}"),
            Some(Failed::Offending(raw)) => match name(raw.code, raw.vendor) {
                Some(name) => write!(out, ": {name} ({})", raw.code),
                None => write!(out, ": AVP {} of vendor {}", raw.code, raw.vendor),
            },
        }
    }
}

impl std::error::Error for Fault<'_> {}
