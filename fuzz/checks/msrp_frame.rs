//! MSRP frames (RFC 4975, 7.1): the codec must agree with a simple reference parser.

use super::lies_in;
use imcharge::wire::msrp::{Flag, Frame, HOST_MAX, Method, MsrpError, Start};

/// Parses a frame, compares it with [`Plain`], and parses truncated and extended copies.
pub fn check(bytes: &[u8]) {
    let plain = Plain::read(bytes);
    let frame = match Frame::parse(bytes) {
        Ok(frame) => frame,
        Err(error) => return assert_refusal(bytes, plain, error),
    };
    let plain = plain.expect("an accepted frame has a start line and an end-line");
    assert_eq!(frame.transaction_id.as_bytes(), plain.id);
    assert_eq!(frame.flag, plain.flag);
    if frame.bad_value.is_none() {
        assert_eq!(frame.message_id.map(str::as_bytes), plain.header(b"message-id"), "Message-ID");
    }
    let is_one = |body: &&[u8]| plain.header(b"content-type").is_some() || !body.is_empty();
    assert_eq!(frame.body, plain.body.filter(is_one), "body");
    assert_eq!(frame.is_content(), frame.start == Start::Request(Method::Send) && frame.body.is_some());
    assert_eq!(frame.content_octets(), frame.body.map_or(0, |body| body.len() as u64));
    assert_start(&frame, plain.what);
    assert_paths(&frame, &plain);
    assert_views(&frame, bytes);
    assert_not_in_part(bytes, frame.transaction_id);
}

/// A frame that the reference parser accepts may be refused for its headers only.
fn assert_refusal(bytes: &[u8], plain: Option<Plain<'_>>, error: MsrpError) {
    let start = matches!(error, MsrpError::EndLine) && plain.is_some();
    assert!(!start, "the reference parser finds the end-line of {:?}", String::from_utf8_lossy(bytes));
}

fn assert_start(frame: &Frame<'_>, what: &[u8]) {
    let first = what.split(|octet| *octet == b' ').next().unwrap_or_default();
    match frame.start {
        Start::Response(code) => assert_eq!(format!("{code:03}").as_bytes(), first),
        Start::Request(Method::Send) => assert_eq!(what, b"SEND"),
        Start::Request(Method::Report) => assert_eq!(what, b"REPORT"),
        Start::Request(Method::Auth) => assert_eq!(what, b"AUTH"),
        Start::Request(Method::Nickname) => assert_eq!(what, b"NICKNAME"),
        Start::Request(Method::Other(other)) => assert_eq!(what, other.as_bytes()),
    }
}

/// All URIs of a path can be parsed; the last one is the endpoint, the others are relays.
fn assert_paths(frame: &Frame<'_>, plain: &Plain<'_>) {
    for (path, name) in [(frame.to_path, &b"to-path"[..]), (frame.from_path, b"from-path")] {
        let text = plain.header(name).expect("a parsed path");
        let uris: Vec<_> = path.uris().collect();
        assert_eq!(uris.len(), text.split(|octet| *octet == b' ').count());
        assert!((1..=16).contains(&uris.len()), "the number of URIs is limited");
        assert_eq!(uris.last(), Some(&path.endpoint()));
        assert_eq!(path.hop_after_this(), uris.get(1).copied().filter(|_| uris.len() > 2));
        for uri in uris {
            assert!(!uri.host.is_empty() && !uri.transport.is_empty());
            let mut space = [0; HOST_MAX];
            let host = uri.canonical_host(&mut space);
            assert!(host.len() <= HOST_MAX && !host.iter().any(u8::is_ascii_uppercase));
        }
    }
}

/// All views of a frame lie in its bytes.
fn assert_views(frame: &Frame<'_>, bytes: &[u8]) {
    assert!((4..=32).contains(&frame.transaction_id.len()));
    assert!(lies_in(frame.transaction_id.as_bytes(), bytes));
    assert!(lies_in(frame.message_id.unwrap_or_default().as_bytes(), bytes));
    assert!(lies_in(frame.body.unwrap_or_default(), bytes));
    assert!(lies_in(frame.to_path.endpoint().session_id.as_bytes(), bytes));
}

/// A truncated or extended frame is not a frame, unless its body contains an end-line of the same transaction, which
/// RFC 4975, 7.1 forbids.
fn assert_not_in_part(bytes: &[u8], id: &str) {
    let end_line = format!("-------{id}");
    let last = bytes.len() - end_line.len() - 3;
    let has_look_alike = bytes[..last].windows(end_line.len()).any(|window| window == end_line.as_bytes());
    let cuts = [bytes.len() / 3, bytes.len() / 2, bytes.len() - 1];
    for cut in cuts.into_iter().filter(|_| !has_look_alike) {
        assert!(Frame::parse(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let mut twice = bytes.to_vec();
    twice.extend(b"x");
    assert!(Frame::parse(&twice).is_err(), "data after the end-line");
}

/// Reference parser: lines split at CRLF, headers in a list.
struct Plain<'a> {
    id: &'a [u8],
    what: &'a [u8],
    headers: Vec<(Vec<u8>, &'a [u8])>,
    body: Option<&'a [u8]>,
    flag: Flag,
}

impl<'a> Plain<'a> {
    fn read(bytes: &'a [u8]) -> Option<Plain<'a>> {
        let start = find(bytes, b"\n")?;
        let line = bytes[..start].strip_suffix(b"\r")?.strip_prefix(b"MSRP ")?;
        let space = find(line, b" ")?;
        let (id, what) = (&line[..space], &line[space + 1..]);
        let flag = match bytes.strip_suffix(b"\r\n")?.last()? {
            b'$' => Flag::Last,
            b'+' => Flag::More,
            b'#' => Flag::Aborted,
            _ => return None,
        };
        let end_line = [b"\r\n-------", id].concat();
        let end = bytes.len() - 3;
        let inner = bytes[..end].strip_suffix(end_line.as_slice())?;
        let (mut headers, mut at) = (Vec::new(), start + 1);
        // The CRLF before the end-line belongs to the last header, or to the end of the body.
        while at < inner.len() {
            let line_end = at + find(&bytes[at..], b"\n")?;
            let line = bytes[at..line_end].strip_suffix(b"\r")?;
            at = line_end + 1;
            if line.is_empty() {
                let body = inner.get(at..);
                return Some(Plain { id, what, headers, body, flag });
            }
            let colon = find(line, b":")?;
            headers.push((line[..colon].to_ascii_lowercase(), &line[colon + 1..]));
        }
        Some(Plain { id, what, headers, body: None, flag })
    }

    /// Value of the last header of this name, without surrounding space.
    fn header(&self, name: &[u8]) -> Option<&'a [u8]> {
        let (_, value) = self.headers.iter().rev().find(|(found, _)| found == name)?;
        Some(std::str::from_utf8(value).map_or(*value, |text| text.trim().as_bytes()))
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
