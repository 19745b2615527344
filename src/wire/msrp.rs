//! MSRP frames (RFC 4975, 4976): a view of the bytes of one whole frame.
//!
//! ```text
//! MSRP a786hjs2 SEND\r\n                        start line: transaction id, method or status
//! To-Path: msrp://b.example:7394/s1;tcp\r\n     headers; the two paths come first
//! From-Path: msrp://a.example:7654/s2;tcp\r\n
//! Message-ID: 87652491\r\n
//! \r\n                                          with Content-Type: an empty line, the body, CRLF
//! Hello\r\n
//! -------a786hjs2$\r\n                          end-line: seven hyphens, the id again, a flag
//! ```
//!
//! The end-line is expected at the end of the bytes, so the cost does not depend on the body.

use super::media_type;
use memchr::{memchr, memrchr};
use std::net::Ipv6Addr;

/// Maximum number of headers.
const HEADERS_MAX: usize = 64;

/// Maximum length of the start line and all headers, in octets.
const HEAD_MAX: usize = 16 * 1024;

/// Maximum number of URIs in a path.
const PATH_MAX: usize = 16;

/// Maximum length of a host in octets (RFC 1035, 2.3.4).
pub const HOST_MAX: usize = 255;

/// Why a frame cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MsrpError {
    /// Neither `MSRP id METHOD` nor `MSRP id status`.
    #[error("no MSRP start line")]
    StartLine,
    /// An invalid transaction id or Message-ID: not 4 to 32 characters, or the first not alphanumeric.
    #[error("a malformed id")]
    Ident,
    /// The last line is not the end-line of this transaction.
    #[error("no end-line of this transaction")]
    EndLine,
    /// An invalid header, or too many or too long ones.
    #[error("a malformed header")]
    Header,
    /// To-Path or From-Path is missing or invalid.
    #[error("a malformed path")]
    Path,
    /// An invalid Byte-Range or Status.
    #[error("a malformed value")]
    Value,
}

/// A frame.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Transaction id, valid on this hop only: relays create new ones (RFC 4976, 6.4).
    pub transaction_id: &'a str,
    /// Request or response.
    pub start: Start<'a>,
    /// To-Path; the leftmost URI is the next hop.
    pub to_path: Path<'a>,
    /// From-Path; the rightmost URI is the originator.
    pub from_path: Path<'a>,
    /// Message-ID: of a SEND, the message that it is a chunk of; of a REPORT, the reported message.
    pub message_id: Option<&'a str>,
    /// Byte-Range.
    pub byte_range: Option<ByteRange>,
    /// Responses that the sender requests.
    pub failure_report: FailureReport,
    /// Whether the sender requests success REPORTs.
    pub success_report: bool,
    /// Code of a REPORT (Status header, namespace 000).
    pub status: Option<u16>,
    /// Media type of Content-Type: `type/subtype`, as written. `None`: it is absent, repeated or invalid.
    pub media_type: Option<&'a str>,
    /// The body without the CRLF before the end-line. `None`: there is none, or it is empty without Content-Type.
    pub body: Option<&'a [u8]>,
    /// Continuation flag of the end-line.
    pub flag: Flag,
    /// An invalid Message-ID, Byte-Range or Status. The paths are valid, so the frame can be attributed.
    pub bad_value: Option<MsrpError>,
}

/// The start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// A request.
    Request(Method<'a>),
    /// A response with this status.
    Response(u16),
}

/// Methods of RFC 4975, 4976 and 7701.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method<'a> {
    /// Content.
    Send,
    /// Delivery report.
    Report,
    /// Authentication to a relay.
    Auth,
    /// Nickname in a conference.
    Nickname,
    /// Another method.
    Other(&'a str),
}

/// Byte-Range: `start-end/total`; `*` is `None`. Octets are counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First octet of the chunk.
    pub start: u64,
    /// Last octet of the chunk.
    pub end: Option<u64>,
    /// Length of the message in octets.
    pub total: Option<u64>,
}

/// Failure-Report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureReport {
    /// `yes`, absent, or an unknown value.
    Yes,
    /// `partial`: errors only.
    Partial,
    /// `no`: no responses.
    No,
}

/// Continuation flag of the end-line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// `$`: last chunk.
    Last,
    /// `+`: more chunks follow.
    More,
    /// `#`: aborted.
    Aborted,
}

/// A To-Path, From-Path or `a=path`: at least one URI, all valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a> {
    text: &'a str,
    endpoint: Uri<'a>,
}

/// An MSRP URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    /// Whether it is `msrps:`.
    pub secure: bool,
    /// Host without userinfo; IPv6 in brackets.
    pub host: &'a str,
    /// Port, if given.
    pub port: Option<u16>,
    /// Session id, case sensitive; empty in the URI of a bare relay.
    pub session_id: &'a str,
    /// Transport parameter.
    pub transport: &'a str,
}

impl<'a> Frame<'a> {
    /// Parses exactly one whole frame: from `MSRP` to the CRLF of the end-line.
    pub fn parse(bytes: &'a [u8]) -> Result<Frame<'a>, MsrpError> {
        let (line, mut rest) = take_line(bytes).ok_or(MsrpError::StartLine)?;
        let (transaction_id, start) = start_line(line)?;
        let (inner, flag) = end_line(bytes, transaction_id)?;
        let mut headers = Headers::default();
        let body = loop {
            // The end-line follows the headers: no body.
            if rest.len() <= bytes.len() - inner.len() {
                break None;
            }
            let (line, after) = take_line(rest).ok_or(MsrpError::Header)?;
            if line.is_empty() {
                break body(bytes, after, inner);
            }
            headers.read(line, bytes.len() - after.len())?;
            rest = after;
        };
        Ok(Frame {
            transaction_id,
            start,
            to_path: headers.to_path.ok_or(MsrpError::Path)?,
            from_path: headers.from_path.ok_or(MsrpError::Path)?,
            message_id: headers.message_id,
            byte_range: headers.byte_range,
            failure_report: headers.failure_report.unwrap_or(FailureReport::Yes),
            success_report: headers.success_report,
            status: headers.status,
            // RFC 4975, 9, does not allow a body without Content-Type. If there is one, it is content: otherwise it
            // would pass uncharged. An empty body is not.
            body: body.filter(|body| headers.content_types > 0 || !body.is_empty()),
            // Two readers may use different ones of repeated headers.
            media_type: headers.media_type.filter(|_| headers.content_types == 1),
            flag,
            bad_value: headers.bad_value,
        })
    }

    /// Whether it is a SEND with content. A SEND that binds a connection or keeps it alive has none.
    pub fn is_content(&self) -> bool {
        self.start == Start::Request(Method::Send) && self.body.is_some()
    }

    /// Length of the content in octets.
    pub fn content_octets(&self) -> u64 {
        self.body.map_or(0, |body| body.len() as u64)
    }
}

/// Splits off a line without its CRLF.
fn take_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let head = bytes.get(..bytes.len().min(HEAD_MAX))?;
    let end = memchr(b'\n', head)?;
    let line = head.get(..end)?.strip_suffix(b"\r")?;
    Some((line, bytes.get(end + 1..)?))
}

/// `MSRP id METHOD`, `MSRP id 200` or `MSRP id 200 comment`.
fn start_line(line: &[u8]) -> Result<(&str, Start<'_>), MsrpError> {
    let text = std::str::from_utf8(line).map_err(|_| MsrpError::StartLine)?;
    let rest = text.strip_prefix("MSRP ").ok_or(MsrpError::StartLine)?;
    let (id, what) = cut(rest, b' ').ok_or(MsrpError::StartLine)?;
    let id = ident(id)?;
    let word = cut(what, b' ').map_or(what, |(word, _)| word);
    if word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit()) {
        let code = word.parse().map_err(|_| MsrpError::StartLine)?;
        return Ok((id, Start::Response(code)));
    }
    let method = match what {
        "SEND" => Method::Send,
        "REPORT" => Method::Report,
        "AUTH" => Method::Auth,
        "NICKNAME" => Method::Nickname,
        other if !other.is_empty() && other.bytes().all(|b| b.is_ascii_uppercase()) => Method::Other(other),
        _ => return Err(MsrpError::StartLine),
    };
    Ok((id, Start::Request(method)))
}

/// RFC 4975, 9: one alphanumeric and 3 to 31 of alphanumeric . - + % =
fn ident(text: &str) -> Result<&str, MsrpError> {
    let bytes = text.as_bytes();
    let first = bytes.first().is_some_and(u8::is_ascii_alphanumeric);
    let rest = bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-+%=".contains(byte));
    match first && rest && (4..=32).contains(&bytes.len()) {
        true => Ok(text),
        false => Err(MsrpError::Ident),
    }
}

/// Returns the bytes before the end-line, and its flag.
fn end_line<'a>(bytes: &'a [u8], id: &str) -> Result<(&'a [u8], Flag), MsrpError> {
    let rest = bytes.strip_suffix(b"\r\n").ok_or(MsrpError::EndLine)?;
    let (flag, rest) = rest.split_last().ok_or(MsrpError::EndLine)?;
    let inner = rest.strip_suffix(id.as_bytes()).and_then(|rest| rest.strip_suffix(b"-------"));
    let inner = inner.filter(|inner| inner.ends_with(b"\r\n")).ok_or(MsrpError::EndLine)?;
    let flag = match flag {
        b'$' => Flag::Last,
        b'+' => Flag::More,
        b'#' => Flag::Aborted,
        _ => return Err(MsrpError::EndLine),
    };
    Ok((inner, flag))
}

/// Returns the octets between the empty line and the end-line, without the CRLF that belongs to the end-line.
fn body<'a>(bytes: &'a [u8], after: &[u8], inner: &[u8]) -> Option<&'a [u8]> {
    let from = bytes.len() - after.len();
    // If the empty line is the CRLF before the end-line, there is no body.
    bytes.get(from..inner.len().checked_sub(2)?)
}

/// The headers that charging needs.
#[derive(Default)]
struct Headers<'a> {
    count: usize,
    to_path: Option<Path<'a>>,
    from_path: Option<Path<'a>>,
    message_id: Option<&'a str>,
    byte_range: Option<ByteRange>,
    failure_report: Option<FailureReport>,
    success_report: bool,
    status: Option<u16>,
    content_types: usize,
    media_type: Option<&'a str>,
    bad_value: Option<MsrpError>,
}

impl<'a> Headers<'a> {
    /// Parses one line. `so_far`: octets of the frame up to its end.
    fn read(&mut self, line: &'a [u8], so_far: usize) -> Result<(), MsrpError> {
        self.count += 1;
        if self.count > HEADERS_MAX || so_far > HEAD_MAX {
            return Err(MsrpError::Header);
        }
        let colon = memchr(b':', line).filter(|colon| *colon > 0).ok_or(MsrpError::Header)?;
        let (name, value) = line.split_at(colon);
        let is = |wanted: &str| name.eq_ignore_ascii_case(wanted.as_bytes());
        let text = || {
            let value = value.get(1..).unwrap_or_default();
            std::str::from_utf8(value).map(str::trim).map_err(|_| MsrpError::Header)
        };
        match name.len() {
            // A repeated path is invalid: a relay may use the other one.
            7 if is("To-Path") && self.to_path.is_none() => self.to_path = Some(Path::parse(text()?)?),
            9 if is("From-Path") && self.from_path.is_none() => self.from_path = Some(Path::parse(text()?)?),
            7 if is("To-Path") => return Err(MsrpError::Path),
            9 if is("From-Path") => return Err(MsrpError::Path),
            10 if is("Message-ID") && self.message_id.is_some() => self.bad_value = Some(MsrpError::Ident),
            10 if is("Message-ID") => self.message_id = self.value(ident(text()?)),
            10 if is("Byte-Range") => self.byte_range = self.value(byte_range(text()?)),
            12 if is("Content-Type") => {
                self.content_types += 1;
                self.media_type = text().ok().and_then(media_type::of_value);
            }
            14 if is("Failure-Report") => self.failure_report = Some(failure_report(text()?)),
            14 if is("Success-Report") => self.success_report = text()?.eq_ignore_ascii_case("yes"),
            6 if is("Status") => self.status = self.value(status(text()?)).flatten(),
            _ => {}
        }
        Ok(())
    }

    /// Returns a value, or records that it is invalid.
    fn value<T>(&mut self, value: Result<T, MsrpError>) -> Option<T> {
        value.inspect_err(|error| self.bad_value = Some(*error)).ok()
    }
}

fn failure_report(text: &str) -> FailureReport {
    match text {
        _ if text.eq_ignore_ascii_case("no") => FailureReport::No,
        _ if text.eq_ignore_ascii_case("partial") => FailureReport::Partial,
        _ => FailureReport::Yes,
    }
}

/// `start-end/total`.
fn byte_range(text: &str) -> Result<ByteRange, MsrpError> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| MsrpError::Value);
    let or_star = |text: &str| if text == "*" { Ok(None) } else { number(text).map(Some) };
    let (range, total) = cut(text, b'/').ok_or(MsrpError::Value)?;
    let (start, end) = cut(range, b'-').ok_or(MsrpError::Value)?;
    Ok(ByteRange { start: number(start)?, end: or_star(end)?, total: or_star(total)? })
}

/// `000 200 comment`; other namespaces are ignored.
fn status(text: &str) -> Result<Option<u16>, MsrpError> {
    let mut words = text.split(' ');
    if words.next() != Some("000") {
        return Ok(None);
    }
    let code = words.next().filter(|word| word.len() == 3).and_then(|word| word.parse().ok());
    code.map(Some).ok_or(MsrpError::Value)
}

impl<'a> Path<'a> {
    /// Parses the value of a path header or `a=path` line.
    pub fn parse(text: &'a str) -> Result<Path<'a>, MsrpError> {
        let mut rest = text;
        for _ in 0..PATH_MAX {
            let (uri, after) = cut(rest, b' ').unwrap_or((rest, ""));
            let endpoint = Uri::parse(uri).ok_or(MsrpError::Path)?;
            if uri.len() == rest.len() {
                return Ok(Path { text, endpoint });
            }
            rest = after;
        }
        Err(MsrpError::Path)
    }

    /// Iterates over the URIs from left to right.
    pub fn uris(&self) -> impl Iterator<Item = Uri<'a>> + use<'a> {
        self.text.split(' ').filter_map(Uri::parse)
    }

    /// Returns the second URI of a To-Path unless it is the last: the next hop after this relay.
    pub fn hop_after_this(&self) -> Option<Uri<'a>> {
        let (_, rest) = cut(self.text, b' ')?;
        let (next, _) = cut(rest, b' ')?;
        Uri::parse(next)
    }

    /// Returns the rightmost URI.
    pub fn endpoint(&self) -> Uri<'a> {
        self.endpoint
    }
}

impl<'a> Uri<'a> {
    /// Returns the host for comparison of URIs (RFC 4975, 6.1): in lower case, without the final dot of a name,
    /// addresses in canonical form. It is written to `space`.
    pub fn canonical_host<'b>(&self, space: &'b mut [u8; HOST_MAX]) -> &'b [u8] {
        use std::io::Write;
        let bare = self.host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(self.host);
        let mut rest = &mut space[..];
        // Only IPv6 addresses have several forms.
        let address = bare.contains(':').then(|| bare.parse::<Ipv6Addr>().ok()).flatten();
        // There is room: `Uri::parse` limits the length, and no address is longer.
        let written = match address {
            Some(address) => write!(rest, "{address}"),
            None => rest.write_all(bare.strip_suffix('.').unwrap_or(bare).as_bytes()),
        };
        let left = rest.len();
        let host = &mut space[..HOST_MAX - left];
        host.make_ascii_lowercase();
        if written.is_ok() { host } else { &[] }
    }

    /// `msrp://user@host:port/session;tcp;params`
    fn parse(text: &'a str) -> Option<Uri<'a>> {
        let (scheme, rest) = cut(text, b':')?;
        let secure = match scheme {
            _ if scheme.eq_ignore_ascii_case("msrp") => false,
            _ if scheme.eq_ignore_ascii_case("msrps") => true,
            _ => return None,
        };
        let (resource, parameters) = cut(rest.strip_prefix("//")?, b';')?;
        let (authority, session_id) = cut(resource, b'/').unwrap_or((resource, ""));
        let authority = cut_last(authority, b'@').map_or(authority, |(_, host)| host);
        let (host, port) = match cut_last(authority, b':').filter(|(_, port)| !port.contains(']')) {
            Some((host, port)) => (host, Some(port.parse().ok()?)),
            None => (authority, None),
        };
        let transport = cut(parameters, b';').map_or(parameters, |(transport, _)| transport);
        let whole = (1..=HOST_MAX).contains(&host.len()) && !transport.is_empty();
        whole.then_some(Uri { secure, host, port, session_id, transport })
    }
}

/// Splits at the first occurrence of an ASCII character.
fn cut(text: &str, ascii: u8) -> Option<(&str, &str)> {
    let at = memchr(ascii, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

/// Splits at the last occurrence of an ASCII character.
fn cut_last(text: &str, ascii: u8) -> Option<(&str, &str)> {
    let at = memrchr(ascii, text.as_bytes())?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

#[cfg(test)]
mod tests;
