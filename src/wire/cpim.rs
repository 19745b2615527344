//! CPIM messages (RFC 3862): which media type the encapsulated message has.
//!
//! ```text
//! From: <im:alice@example.com>\r\n              metadata headers
//! To: <im:bob@example.com>\r\n
//! NS: imdn <urn:ietf:params:imdn>\r\n
//! imdn.Message-ID: d834jied93rf\r\n
//! \r\n
//! Content-Type: message/imdn+xml\r\n            MIME headers of the encapsulated message
//! Content-Disposition: notification\r\n
//! \r\n
//! <imdn ...                                     its content
//! ```
//!
//! Some writers leave out the empty line between the two groups of headers, as the examples of RFC 5438 do. That is accepted
//! if the content cannot be taken for a second group of headers: two readers must not find different types.

use super::media_type;
use memchr::memchr;

/// Maximum number of headers in both groups.
const HEADERS_MAX: usize = 64;

/// Maximum length of both groups of headers, octets.
pub const HEAD_MAX: usize = 8 * 1024;

/// Why the media type of the encapsulated message is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpimError {
    /// The octets end before the headers do.
    #[error("its headers are incomplete")]
    Incomplete,
    /// An invalid header, or too many or too long ones.
    #[error("a header is malformed")]
    Header,
    /// Content-Type is missing, repeated or invalid.
    #[error("its Content-Type is missing, repeated or malformed")]
    ContentType,
}

/// Returns the media type of the message in `bytes`, which start with its first header: `type/subtype`, as written. Reads the
/// headers alone.
pub fn media_type(bytes: &[u8]) -> Result<&str, CpimError> {
    content(bytes).map(|(media_type, _)| media_type)
}

/// Returns the media type of the message in `bytes` and its content, as far as `bytes` contain it.
pub fn content(bytes: &[u8]) -> Result<(&str, &[u8]), CpimError> {
    let mut lines = Lines { rest: bytes, so_far: 0, count: 0 };
    if let Some(media_type) = lines.group()? {
        return lines.is_content().map(|()| (media_type, lines.rest));
    }
    let media_type = lines.group()?.ok_or(CpimError::ContentType)?;
    Ok((media_type, lines.rest))
}

/// Reads lines that end with CRLF.
struct Lines<'a> {
    rest: &'a [u8],
    so_far: usize,
    count: usize,
}

impl<'a> Lines<'a> {
    /// Reads a group of headers and the empty line after it. Returns the media type of its Content-Type, if it has one.
    fn group(&mut self) -> Result<Option<&'a str>, CpimError> {
        let mut found = None;
        loop {
            let line = self.header()?;
            if line.is_empty() {
                return Ok(found);
            }
            let name = header_name(line).ok_or(CpimError::Header)?;
            if !name.eq_ignore_ascii_case(b"Content-Type") {
                continue;
            }
            let value = line.get(name.len() + 1..).and_then(|value| std::str::from_utf8(value).ok());
            let media_type = value.and_then(media_type::of_value).ok_or(CpimError::ContentType)?;
            if found.replace(media_type).is_some() {
                return Err(CpimError::ContentType);
            }
        }
    }

    /// Whether what follows cannot be the beginning of another group of headers.
    fn is_content(&self) -> Result<(), CpimError> {
        match self.rest.iter().enumerate().find(|(_, byte)| !media_type::is_token_char(**byte)) {
            None => Err(CpimError::Incomplete),
            Some((_, b':') | (0, b'\r' | b'\n')) => Err(CpimError::ContentType),
            Some(_) => Ok(()),
        }
    }

    /// Reads a header with its continuation lines, or the empty line after the last one.
    fn header(&mut self) -> Result<&'a [u8], CpimError> {
        let start = self.rest;
        let first = self.next_line()?;
        let mut length = first.len();
        while !first.is_empty() && matches!(self.rest.first(), Some(b' ' | b'\t')) {
            length += 2 + self.next_line()?.len();
        }
        self.count += 1;
        // At the end of the octets, a continuation line may follow.
        let is_whole = first.is_empty() || !self.rest.is_empty();
        match () {
            () if self.count > HEADERS_MAX => Err(CpimError::Header),
            () if !is_whole => Err(CpimError::Incomplete),
            () => start.get(..length).ok_or(CpimError::Header),
        }
    }

    /// Reads a line, without its CRLF.
    fn next_line(&mut self) -> Result<&'a [u8], CpimError> {
        let head = self.rest.get(..self.rest.len().min(HEAD_MAX - self.so_far)).unwrap_or_default();
        let Some(end) = memchr(b'\n', head) else {
            let is_short = head.len() == self.rest.len();
            return Err(if is_short { CpimError::Incomplete } else { CpimError::Header });
        };
        let line = head.get(..end).and_then(|line| line.strip_suffix(b"\r")).ok_or(CpimError::Header)?;
        self.rest = self.rest.get(end + 1..).unwrap_or_default();
        self.so_far += end + 1;
        Ok(line)
    }
}

/// Returns the name of a header, before its colon; `None` if the line is no header.
fn header_name(line: &[u8]) -> Option<&[u8]> {
    let end = line.iter().position(|byte| !media_type::is_token_char(*byte))?;
    let (name, rest) = line.split_at(end);
    (!name.is_empty() && rest.starts_with(b":")).then_some(name)
}

#[cfg(test)]
mod tests;
