//! SIP from raw bytes, for hosts without a parser of their own: the fields that charging needs.
//!
//! IMS traffic contains much that `rsip` does not parse: tel: and urn: Request-URIs, quoted parameters
//! (`+sip.instance`), folded headers, `Header :`, bare LF, unknown methods, octets that are not UTF-8. So a scan finds
//! the headers of every message, and `rsip` parses the tags of From and To; if it fails, the result of the scan is
//! used. Its error texts contain the whole message and are not logged.

use memchr::{memchr, memchr_iter, memrchr};

/// Maximum length of a message in octets.
const MESSAGE_MAX: usize = 64 * 1024;

/// Maximum number of headers.
const HEADERS_MAX: usize = 256;

/// The start line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start<'a> {
    /// A request.
    Request {
        /// Method.
        method: &'a [u8],
        /// Request-URI.
        uri: &'a [u8],
    },
    /// A response.
    Response {
        /// Status.
        code: u16,
    },
}

/// Fields of a message. Header values are unchanged, without surrounding space; folded ones contain their line breaks.
/// Absent fields are empty. Of repeated headers the first counts, except for P-Asserted-Identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SipMessage<'a> {
    /// Request or response.
    pub start: Start<'a>,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// From, whole.
    pub from: &'a [u8],
    /// Tag of From.
    pub from_tag: &'a [u8],
    /// Tag of To.
    pub to_tag: &'a [u8],
    /// Number of CSeq.
    pub cseq: Option<u32>,
    /// Method of CSeq.
    pub cseq_method: &'a [u8],
    /// The first two P-Asserted-Identity headers, whole (RFC 3325, 9.1: a SIP and a tel URI, in one header or two).
    pub asserted: [&'a [u8]; 2],
    /// P-Called-Party-ID, whole.
    pub called_party: &'a [u8],
    /// P-Charging-Vector, whole.
    pub charging_vector: &'a [u8],
    /// Contact, whole.
    pub contact: &'a [u8],
    /// Whether it has an RSeq header: a provisional response that is sent reliably (RFC 3262, 7.1).
    pub is_reliable: bool,
    /// Content-Type, whole.
    pub content_type: &'a [u8],
    /// The body, limited by Content-Length.
    pub body: &'a [u8],
}

impl<'a> SipMessage<'a> {
    /// Parses a message. `None`: no SIP start line, or longer than 64 KiB.
    pub fn parse(bytes: &'a [u8]) -> Option<SipMessage<'a>> {
        if bytes.len() > MESSAGE_MAX {
            return None;
        }
        // RFC 3261, 7.5: line breaks before the start line are ignored.
        let skip = bytes.iter().take_while(|octet| b"\r\n".contains(octet)).count();
        let (line, mut rest) = take_line(bytes.get(skip..)?)?;
        let start = start_line(line)?;
        let mut headers = Headers::default();
        for _ in 0..HEADERS_MAX {
            let Some((line, after)) = take_header(rest) else { break };
            rest = after;
            if line.is_empty() {
                headers.body = Some(after);
                break;
            }
            headers.read(line);
        }
        let (number, method) = split_at_space(headers.cseq);
        let body = headers.body.unwrap_or_default();
        let length = number_of(headers.content_length).unwrap_or(body.len());
        Some(SipMessage {
            start,
            call_id: headers.call_id,
            from: headers.from,
            from_tag: tag(headers.from),
            to_tag: tag(headers.to),
            cseq: number_of(number).and_then(|number| u32::try_from(number).ok()),
            cseq_method: method,
            asserted: headers.asserted,
            called_party: headers.called_party,
            charging_vector: headers.charging_vector,
            contact: headers.contact,
            is_reliable: !headers.rseq.is_empty(),
            content_type: headers.content_type,
            body: body.get(..length).unwrap_or(body),
        })
    }
}

/// Splits off a line without its end (CRLF, or LF alone).
pub(super) fn take_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr(b'\n', bytes)?;
    let line = bytes.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), bytes.get(end + 1..)?))
}

/// Splits off a header with its folded lines, which begin with a space or tab.
pub(super) fn take_header(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (first, after) = take_line(bytes)?;
    if first.is_empty() {
        return Some((first, after));
    }
    let ends = memchr_iter(b'\n', bytes);
    let unfolded = |end: &usize| !matches!(bytes.get(end + 1), Some(b' ' | b'\t'));
    let end = ends.into_iter().find(unfolded)?;
    let line = bytes.get(..end)?;
    Some((line.strip_suffix(b"\r").unwrap_or(line), bytes.get(end + 1..)?))
}

/// `METHOD uri SIP/2.0` or `SIP/2.0 200 reason`.
fn start_line(line: &[u8]) -> Option<Start<'_>> {
    let (first, rest) = split_at_space(line);
    if first.eq_ignore_ascii_case(b"SIP/2.0") {
        let code = number_of(split_at_space(rest).0)?;
        let code = u16::try_from(code).ok().filter(|code| (100..700).contains(code))?;
        return Some(Start::Response { code });
    }
    let uri = rest.strip_suffix(b"SIP/2.0").or_else(|| rest.strip_suffix(b"sip/2.0"))?.trim_ascii();
    let token = |octet: &u8| octet.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(octet);
    let sane = !first.is_empty() && first.iter().all(token) && !uri.is_empty();
    sane.then_some(Start::Request { method: first, uri })
}

fn split_at_space(text: &[u8]) -> (&[u8], &[u8]) {
    let text = text.trim_ascii();
    match text.iter().position(u8::is_ascii_whitespace) {
        Some(at) => (&text[..at], text[at..].trim_ascii()),
        None => (text, &[]),
    }
}

fn number_of(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The headers that charging needs.
#[derive(Default)]
struct Headers<'a> {
    call_id: &'a [u8],
    from: &'a [u8],
    to: &'a [u8],
    cseq: &'a [u8],
    asserted: [&'a [u8]; 2],
    called_party: &'a [u8],
    charging_vector: &'a [u8],
    contact: &'a [u8],
    rseq: &'a [u8],
    content_type: &'a [u8],
    content_length: &'a [u8],
    body: Option<&'a [u8]>,
}

impl<'a> Headers<'a> {
    fn read(&mut self, line: &'a [u8]) {
        let Some(colon) = memchr(b':', line) else { return };
        // Only spaces and tabs may precede the colon (RFC 3261, 25.1, HCOLON). A strict host does not recognize other
        // forms as headers that it must remove, so they must not be accepted here.
        let name = &line[..colon];
        let blanks = name.iter().rev().take_while(|octet| b" \t".contains(octet)).count();
        let (name, value) = (&name[..colon - blanks], line[colon + 1..].trim_ascii());
        let is = |long: &str, short: &str| {
            name.eq_ignore_ascii_case(long.as_bytes())
                || (!short.is_empty() && name.eq_ignore_ascii_case(short.as_bytes()))
        };
        let place = match () {
            () if is("Call-ID", "i") => &mut self.call_id,
            () if is("From", "f") => &mut self.from,
            () if is("To", "t") => &mut self.to,
            () if is("CSeq", "") => &mut self.cseq,
            () if is("P-Asserted-Identity", "") => match &mut self.asserted {
                [first, _] if first.is_empty() => first,
                [_, second] => second,
            },
            () if is("P-Called-Party-ID", "") => &mut self.called_party,
            () if is("P-Charging-Vector", "") => &mut self.charging_vector,
            () if is("Contact", "m") => &mut self.contact,
            () if is("RSeq", "") => &mut self.rseq,
            () if is("Content-Type", "c") => &mut self.content_type,
            () if is("Content-Length", "l") => &mut self.content_length,
            () => return,
        };
        if place.is_empty() {
            *place = value;
        }
    }
}

/// Tag of a From or To value.
fn tag(value: &[u8]) -> &[u8] {
    rsip_tag(value).unwrap_or_else(|| parameter(after_address(value), b"tag"))
}

/// Returns the tag that rsip finds, as a part of the value.
fn rsip_tag(value: &[u8]) -> Option<&[u8]> {
    use rsip::headers::UntypedHeader;
    use rsip::headers::typed::From as Typed;
    let text = std::str::from_utf8(value).ok()?;
    let typed = Typed::try_from(rsip::headers::From::new(text)).ok()?;
    let tag = typed.tag()?.to_string();
    let at = text.rfind(tag.as_str()).filter(|_| !tag.is_empty())?;
    value.get(at..at + tag.len())
}

/// Returns the header parameters, which follow the address and are neither quoted nor in angle brackets.
fn after_address(value: &[u8]) -> &[u8] {
    match outside_quotes(value).filter(|(_, octet)| *octet == b'>').last() {
        Some((at, _)) => &value[at + 1..],
        None => value,
    }
}

/// Iterates over the octets outside quoted strings, with their offsets.
fn outside_quotes(value: &[u8]) -> impl Iterator<Item = (usize, u8)> {
    let (mut quoted, mut escaped) = (false, false);
    value.iter().copied().enumerate().filter(move |(_, octet)| {
        match octet {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            _ => return !quoted,
        }
        false
    })
}

/// Returns the value of a `;name=value` parameter without quotes; empty if it is absent.
pub(super) fn parameter<'a>(parameters: &'a [u8], wanted: &[u8]) -> &'a [u8] {
    let pairs = parameters.split(|octet| *octet == b';').filter_map(|pair| {
        let equals = memchr(b'=', pair)?;
        Some((pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii()))
    });
    let found = pairs.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
    let value = found.map_or(&[][..], |(_, value)| value);
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// Remote target of a dialog (RFC 3261, 12.2.1.1): the URI of a Contact, or a Request-URI. URI parameters are omitted,
/// because hosts and proxies add some.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// Scheme, unchanged.
    pub scheme: &'a [u8],
    /// User part without a password, or its equivalent in other schemes; may be empty.
    pub user: &'a [u8],
    /// Host, unchanged; empty in schemes other than sip and sips.
    pub host: &'a [u8],
    /// Port; the default of the scheme if there is none.
    pub port: u16,
}

impl<'a> Target<'a> {
    /// Parses the first URI of a header value, or a bare URI. `None`: there is none.
    pub fn parse(value: &'a [u8]) -> Option<Target<'a>> {
        let uri = match outside_quotes(value).find(|(_, octet)| *octet == b'<') {
            Some((open, _)) => value.get(open + 1..)?.split(|octet| *octet == b'>').next()?,
            None => value.split(|octet| *octet == b',').next()?,
        };
        let uri = uri.trim_ascii();
        let colon = memchr(b':', uri)?;
        let (scheme, rest) = (&uri[..colon], &uri[colon + 1..]);
        let default = match () {
            () if scheme.eq_ignore_ascii_case(b"sip") => 5060,
            () if scheme.eq_ignore_ascii_case(b"sips") => 5061,
            () => {
                let user = rest.split(|octet| *octet == b';').next()?;
                return Some(Target { scheme, user, host: b"", port: 0 }).filter(|_| !user.is_empty());
            }
        };
        let (user, host) = match memchr(b'@', rest) {
            Some(at) => (rest[..at].split(|octet| *octet == b':').next()?, &rest[at + 1..]),
            None => (&[][..], rest),
        };
        let host = host.split(|octet| b";?".contains(octet)).next()?;
        let (host, port) = match memrchr(b':', host).filter(|colon| !host[*colon..].contains(&b']')) {
            Some(colon) => (&host[..colon], u16::try_from(number_of(&host[colon + 1..])?).ok()?),
            None => (host, default),
        };
        Some(Target { scheme, user, host, port }).filter(|_| !host.is_empty())
    }
}

/// Returns the icid-value of a P-Charging-Vector (RFC 7315) without quotes; empty if it is absent.
pub fn icid(charging_vector: &[u8]) -> &[u8] {
    parameter(charging_vector, b"icid-value")
}

#[cfg(test)]
mod tests;
