//! The header of a message (RFC 6733, 3), and where a message ends in a stream.
//!
//! ```text
//!  0      1            4      5              8             12          16           20
//!  | 1    | length     | RPET | command code | application | hop-by-hop | end-to-end |
//! ```

use super::dictionary::Command;
use crate::wire::diameter::codes::ResultCode;
use std::fmt;

/// Octets of a header.
pub const HEADER_LENGTH: usize = 20;

/// Octets of a message at most, read or written. The field has room for 16 MB; no message of credit control comes near
/// this.
pub const MAX_MESSAGE: usize = 65_536;

/// The version there is.
pub(super) const VERSION: u8 = 1;

/// Hop-by-Hop Identifier: finds the request of an answer on one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopByHop(pub u32);

/// End-to-End Identifier: with Origin-Host, finds a request that was sent twice. A resend keeps it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndToEnd(pub u32);

/// Command Flags. Reserved bits are kept as they came, and mean nothing (RFC 6733, 3).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u8);

impl Flags {
    /// R: a request, not an answer.
    pub const REQUEST: Flags = Flags(0x80);
    /// P: may be relayed.
    pub const PROXIABLE: Flags = Flags(0x40);
    /// E: an answer that tells of a protocol error.
    pub const ERROR: Flags = Flags(0x20);
    /// T: perhaps sent before.
    pub const RETRANSMITTED: Flags = Flags(0x10);

    /// Both sets together.
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
    /// Octets of the whole message: 20 to [`MAX_MESSAGE`], a multiple of 4.
    pub length: usize,
    /// R, P, E and T.
    pub flags: Flags,
    /// What is asked or answered.
    pub command: Command,
    /// In which application.
    pub application: u32,
    /// Changes with each hop and each resend.
    pub hop_by_hop: HopByHop,
    /// Stays the same for ever.
    pub end_to_end: EndToEnd,
}

/// Why a stream cannot be read on: where the next message begins is not known any more, so the connection has to be
/// closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// The first octet is not version 1.
    #[error("Diameter version {0}, not 1: this is no Diameter, or the stream is out of step")]
    Version(u8),
    /// A message shorter than its header, or not a multiple of 4 octets.
    #[error("a message of {0} octets: not a multiple of 4 from 20 on")]
    Length(usize),
    /// A message longer than [`MAX_MESSAGE`].
    #[error("a message of {0} octets: more than the {MAX_MESSAGE} that are taken")]
    TooLong(usize),
}

impl FramingError {
    /// What an answer before the close would say.
    pub fn result(self) -> ResultCode {
        match self {
            FramingError::Version(_) => ResultCode::UNSUPPORTED_VERSION,
            FramingError::Length(_) | FramingError::TooLong(_) => ResultCode::INVALID_MESSAGE_LENGTH,
        }
    }
}

/// What stands at the front of the bytes of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framed {
    /// No whole message yet: at least so many octets more are needed.
    Need(usize),
    /// A message of so many octets.
    Message(usize),
    /// No message ever.
    FramingError(FramingError),
}

/// Finds the end of the first message in a stream's bytes. Says what is wrong as soon as it can be seen.
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
    /// Reads the header at the front of the bytes. `None`: these are not the bytes of one whole message.
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

    /// A request, or else an answer.
    pub fn is_request(&self) -> bool {
        self.flags.has(Flags::REQUEST)
    }

    /// An answer that tells of a protocol error, and has little in it.
    pub fn is_error(&self) -> bool {
        self.flags.has(Flags::ERROR)
    }

    /// A request that was perhaps sent before.
    pub fn is_retransmitted(&self) -> bool {
        self.flags.has(Flags::RETRANSMITTED)
    }

    /// Whether the flags go together: no request is an error, no answer is sent on suspicion. A request with bad flags
    /// is answered by INVALID_HDR_BITS.
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

/// Puts identifiers into a message that is written already, and sets these flags besides its own: a resend is the same
/// message under another Hop-by-Hop Identifier.
pub fn stamp(message: &mut [u8], flags: Flags, hop_by_hop: HopByHop, end_to_end: EndToEnd) {
    if let Some(header) = message.first_chunk_mut::<HEADER_LENGTH>() {
        header[4] |= flags.0;
        header[12..16].copy_from_slice(&hop_by_hop.0.to_be_bytes());
        header[16..20].copy_from_slice(&end_to_end.0.to_be_bytes());
    }
}

/// 24 bits at this place.
pub(super) fn number24(bytes: &[u8], at: usize) -> Option<u32> {
    match bytes.get(at..at.checked_add(3)?)? {
        [a, b, c] => Some(u32::from_be_bytes([0, *a, *b, *c])),
        _ => None,
    }
}

/// 32 bits at this place.
pub(super) fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    four.try_into().ok().map(u32::from_be_bytes)
}
