//! Faults of a message as its answer reports them: Result-Code and Failed-AVP.

use super::avp::RawAvp;
use super::dictionary::{ALL, Avp, name};
use crate::wire::diameter::codes::ResultCode;
use std::fmt;

/// The AVP that a fault concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed<'a> {
    /// An invalid AVP; without data if its length is invalid.
    Offending(RawAvp<'a>),
    /// A required AVP that is missing.
    Missing(Avp),
}

/// Why a message cannot be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// Result-Code of the answer.
    pub result: ResultCode,
    /// Failed-AVP of the answer.
    pub failed: Option<Failed<'a>>,
}

impl<'a> Fault<'a> {
    /// Creates a fault of the whole message.
    pub fn new(result: ResultCode) -> Fault<'a> {
        Fault { result, failed: None }
    }

    /// Creates a fault of an invalid AVP.
    pub fn offending(result: ResultCode, avp: RawAvp<'a>) -> Fault<'a> {
        Fault { result, failed: Some(Failed::Offending(avp)) }
    }

    /// Creates a fault of a missing AVP.
    pub fn missing(avp: Avp) -> Fault<'a> {
        Fault { result: ResultCode::MISSING_AVP, failed: Some(Failed::Missing(avp)) }
    }
}

impl Failed<'_> {
    /// Number of zero octets in Failed-AVP in place of missing or unreadable data: the minimum of the format (RFC 6733,
    /// 7.1.5).
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
