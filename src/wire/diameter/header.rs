//! Message headers (RFC 6733, 3) and framing of a stream.
//!
//! ```text
//!  0      1            4      5              8             12          16           20
//!  | 1    | length     | RPET | command code | application | hop-by-hop | end-to-end |
//! ```

use super::dictionary::Command;
use crate::wire::diameter::codes::ResultCode;
use std::fmt;

/// Length of a header in octets.
pub const HEADER_LENGTH: usize = 20;

/// Maximum length of a message in octets, read or written. The length field allows 16 MB; credit control needs far less
/// than this limit.
pub const MAX_MESSAGE: usize = 65_536;

/// Protocol version.
pub(super) const VERSION: u8 = 1;

/// Hop-by-Hop Identifier: matches an answer to its request on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopByHop(pub u32);

/// End-to-End Identifier: with Origin-Host, identifies copies of a request. Resends keep it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndToEnd(pub u32);

/// Command Flags. Reserved bits are kept and ignored (RFC 6733, 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// R: request.
    pub const REQUEST: Flags = Flags(0x80);
    /// P: proxiable.
    pub const PROXIABLE: Flags = Flags(0x40);
    /// E: protocol error.
    pub const ERROR: Flags = Flags(0x20);
    /// T: potentially retransmitted.
    pub const RETRANSMITTED: Flags = Flags(0x10);

    /// Returns the union.
    pub const fn with(self, more: Flags) -> Flags {
        Flags(self.0 | more.0)
    }

    /// Whether all of these are set.
    pub const fn has(self, these: Flags) -> bool {
        self.0 & these.0 == these.0
    }
}

/// A message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Length of the message in octets: 20 to [`MAX_MESSAGE`], a multiple of 4.
    pub length: usize,
    /// R, P, E and T.
    pub flags: Flags,
    /// Command Code.
    pub command: Command,
    /// Application-Id.
    pub application: u32,
    /// Different in each copy and on each hop.
    pub hop_by_hop: HopByHop,
    /// The same in all copies.
    pub end_to_end: EndToEnd,
}

/// A framing error. The start of the next message is unknown, so the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The first octet is not version 1.
    #[error("Diameter version {0} instead of 1: the stream is not Diameter or out of sync")]
    Version(u8),
    /// A message shorter than its header, or not a multiple of 4 octets.
    #[error("message length {0} is less than 20 or not a multiple of 4")]
    Length(usize),
    /// A message longer than [`MAX_MESSAGE`].
    #[error("message length {0} exceeds {MAX_MESSAGE}")]
    TooLong(usize),
}

impl FramingError {
    /// Returns the Result-Code of an answer before the connection is closed.
    pub fn result(self) -> ResultCode {
        match self {
            FramingError::Version(_) => ResultCode::UNSUPPORTED_VERSION,
            FramingError::Length(_) | FramingError::TooLong(_) => ResultCode::INVALID_MESSAGE_LENGTH,
        }
    }
}

/// Result of [`frame`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// Incomplete message: at least this many more octets are needed.
    Need(usize),
    /// A whole message of this length in octets.
    Message(usize),
    /// Not a message.
    FramingError(FramingError),
}

/// Finds the end of the first message in a stream. Errors are found before the message is complete.
pub fn frame(bytes: &[u8]) -> Framed {
    let Some(version) = bytes.first() else { return Framed::Need(HEADER_LENGTH) };
    if *version != VERSION {
        return Framed::FramingError(FramingError::Version(*version));
    }
    let Some(length) = number24(bytes, 1) else { return Framed::Need(HEADER_LENGTH - bytes.len()) };
    match length as usize {
        length if length > MAX_MESSAGE => Framed::FramingError(FramingError::TooLong(length)),
        length if length < HEADER_LENGTH || length % 4 != 0 => Framed::FramingError(FramingError::Length(length)),
        length if length > bytes.len() => Framed::Need(length - bytes.len()),
        length => Framed::Message(length),
    }
}

impl Header {
    /// Parses the header. `None`: the bytes are not one whole message.
    pub(super) fn read(bytes: &[u8]) -> Option<Header> {
        if frame(bytes) != Framed::Message(bytes.len()) {
            return None;
        }
        Some(Header {
            length: bytes.len(),
            flags: Flags(*bytes.get(4)?),
            command: Command(number24(bytes, 5)?),
            application: number32(bytes, 8)?,
            hop_by_hop: HopByHop(number32(bytes, 12)?),
            end_to_end: EndToEnd(number32(bytes, 16)?),
        })
    }

    /// Whether it is a request; otherwise it is an answer.
    pub fn is_request(&self) -> bool {
        self.flags.has(Flags::REQUEST)
    }

    /// Whether the E flag is set: a protocol error, with few AVPs.
    pub fn is_error(&self) -> bool {
        self.flags.has(Flags::ERROR)
    }

    /// Whether the T flag is set.
    pub fn is_retransmitted(&self) -> bool {
        self.flags.has(Flags::RETRANSMITTED)
    }

    /// Whether the combination of flags is valid: requests have no E flag, answers no T flag. A request with invalid
    /// flags is answered with INVALID_HDR_BITS.
    pub fn has_valid_flags(&self) -> bool {
        match self.is_request() {
            true => !self.is_error(),
            false => !self.is_retransmitted(),
        }
    }
}

impl fmt::Display for Header {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_request() { "request" } else { "answer" };
        write!(out, "{kind} {} of application {}, {} octets", self.command.0, self.application, self.length)
    }
}

/// Sets the identifiers of an encoded message, and adds flags: a resend is the same message with another Hop-by-Hop
/// Identifier.
pub fn set_identifiers(message: &mut [u8], flags: Flags, hop_by_hop: HopByHop, end_to_end: EndToEnd) {
    if let Some(header) = message.first_chunk_mut::<HEADER_LENGTH>() {
        header[4] |= flags.0;
        header[12..16].copy_from_slice(&hop_by_hop.0.to_be_bytes());
        header[16..20].copy_from_slice(&end_to_end.0.to_be_bytes());
    }
}

/// Reads 24 bits at this offset.
pub(super) fn number24(bytes: &[u8], at: usize) -> Option<u32> {
    match bytes.get(at..at.checked_add(3)?)? {
        [a, b, c] => Some(u32::from_be_bytes([0, *a, *b, *c])),
        _ => None,
    }
}

/// Reads 32 bits at this offset.
pub(super) fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    four.try_into().ok().map(u32::from_be_bytes)
}
