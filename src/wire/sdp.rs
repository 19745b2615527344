//! SDP (RFC 4566) in bodies of SIP messages: the MSRP sessions that it offers or accepts (RFC 4975, 8).

use super::msrp::Path;
use super::sip::{parameter, take_header, take_line};
use memchr::memchr;

/// Maximum number of octets read from a body.
const BODY_MAX: usize = 64 * 1024;

/// Maximum number of MSRP media that are not refused; the rest of the description is ignored.
const OPEN_MAX: usize = 64;

/// Highest number of an `m=` line. Later lines are not paired with an answer; what their endpoints send is stopped.
pub const POSITION_MAX: u8 = u8::MAX;

/// Maximum number of parts read from a multipart body.
const PARTS_MAX: usize = 32;

/// Maximum depth of nested multipart bodies.
const DEPTH_MAX: usize = 4;

/// An `m=` line whose transport is MSRP over TCP or TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Media<'a> {
    /// Number of the `m=` line, from 0, counting lines of all media.
    pub position: u8,
    /// Whether its port is 0: refused, or withdrawn (RFC 3264, 5.1, 6 and 8.2).
    pub is_refused: bool,
    /// Its `a=path`; `None`: it is absent or invalid.
    pub path: Option<Path<'a>>,
    /// Its `a=file-selector`; `None`: it is absent, and the line is not about a file.
    pub file: Option<FileSelector>,
}

/// Value of `a=file-selector` (RFC 5547, 6): which file is offered or requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSelector {
    /// Size, octets; `None`: it is absent, repeated or not a number.
    pub size: Option<u64>,
}

/// Returns the MSRP media of the SDP in a body, in order. `None`: the body has no SDP.
///
/// The SDP is a body of type application/sdp, or the application/sdp part of a multipart body with the disposition
/// `session`, which is the default (RFC 5621, 8). Of several such parts the first counts, in multipart/alternative the
/// last (RFC 2046, 5.1.4). A body without Content-Type is SDP if it begins with `v=0`.
pub fn msrp_media<'a>(content_type: &[u8], body: &'a [u8]) -> Option<Vec<Media<'a>>> {
    let body = body.get(..body.len().min(BODY_MAX))?;
    let is_untyped = content_type.is_empty() && body.starts_with(b"v=0");
    let description = if is_untyped { Some(body) } else { description(content_type, body, DEPTH_MAX) };
    description.map(media)
}

fn description<'a>(content_type: &[u8], body: &'a [u8], depth: usize) -> Option<&'a [u8]> {
    let (kind, parameters) = match memchr(b';', content_type) {
        Some(end) => content_type.split_at(end),
        None => (content_type, &[][..]),
    };
    let kind = kind.trim_ascii();
    if kind.eq_ignore_ascii_case(b"application/sdp") {
        return Some(body);
    }
    if depth == 0 || !kind.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/")) {
        return None;
    }
    let boundary = parameter(parameters, b"boundary");
    if boundary.is_empty() {
        return None;
    }
    let mut found = parts(body, boundary).filter_map(|part| {
        let part = Part::read(part);
        part.is_of_the_session().then(|| description(part.content_type, part.body, depth - 1)).flatten()
    });
    match kind.eq_ignore_ascii_case(b"multipart/alternative") {
        true => found.last(),
        false => found.next(),
    }
}

/// Iterates over the parts of a multipart body (RFC 2046, 5.1.1), without the line break before each delimiter.
fn parts<'a>(body: &'a [u8], boundary: &[u8]) -> impl Iterator<Item = &'a [u8]> {
    let (mut rest, mut is_open) = (body, false);
    let next = move || {
        while !rest.is_empty() {
            let part = rest;
            let (end, is_closing) = loop {
                let at = part.len() - rest.len();
                let (line, after) = take_line(rest).unwrap_or((rest, &[]));
                rest = after;
                match delimiter(line, boundary) {
                    Some(is_closing) => break (at, is_closing),
                    // A truncated body ends the last part.
                    None if rest.is_empty() => break (part.len(), true),
                    None => {}
                }
            };
            let was_open = std::mem::replace(&mut is_open, true);
            if is_closing {
                rest = &[];
            }
            // The preamble is not a part.
            if was_open {
                let part = part.get(..end)?;
                let part = part.strip_suffix(b"\n").unwrap_or(part);
                return Some(part.strip_suffix(b"\r").unwrap_or(part));
            }
        }
        None
    };
    std::iter::from_fn(next).take(PARTS_MAX)
}

/// Returns whether a line is the last delimiter of this boundary; `None`: it is not a delimiter.
fn delimiter(line: &[u8], boundary: &[u8]) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?.trim_ascii_end();
    match rest {
        b"" => Some(false),
        b"--" => Some(true),
        _ => None,
    }
}

/// A part of a multipart body.
#[derive(Default)]
struct Part<'a> {
    content_type: &'a [u8],
    disposition: &'a [u8],
    body: &'a [u8],
}

impl<'a> Part<'a> {
    fn read(bytes: &'a [u8]) -> Part<'a> {
        let (mut part, mut rest) = (Part::default(), bytes);
        while let Some((line, after)) = take_header(rest) {
            rest = after;
            if line.is_empty() {
                part.body = rest;
                break;
            }
            let Some(colon) = memchr(b':', line) else { continue };
            let (name, value) = (line[..colon].trim_ascii(), line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"Content-Type") {
                part.content_type = value;
            } else if name.eq_ignore_ascii_case(b"Content-Disposition") {
                part.disposition = value;
            }
        }
        part
    }

    /// Whether its disposition is `session` (RFC 3261, 20.11) and not, for example, early-session.
    fn is_of_the_session(&self) -> bool {
        let disposition = self.disposition.split(|octet| *octet == b';').next().unwrap_or_default().trim_ascii();
        disposition.is_empty() || disposition.eq_ignore_ascii_case(b"session")
    }
}

/// Returns the MSRP media of SDP.
fn media(description: &[u8]) -> Vec<Media<'_>> {
    let (mut found, mut open, mut count, mut rest) = (Vec::new(), 0, 0u32, description);
    let mut current: Option<Media<'_>> = None;
    while !rest.is_empty() {
        let (line, after) = take_line(rest).unwrap_or((rest, &[]));
        rest = after;
        if let Some(line) = line.strip_prefix(b"m=") {
            if open == OPEN_MAX {
                break;
            }
            found.extend(current.take());
            // Lines beyond the highest number are not paired: their endpoints are known but not bound.
            let position = count.try_into().unwrap_or(POSITION_MAX);
            current = msrp(line).map(|is_refused| Media { position, is_refused, path: None, file: None });
            open += usize::from(current.is_some_and(|media| !media.is_refused));
            count += 1;
        } else if let (Some(media), Some(path)) = (&mut current, value_of(line, b"a=path:"))
            && media.path.is_none()
        {
            media.path = std::str::from_utf8(path).ok().and_then(|path| Path::parse(path.trim()).ok());
        } else if let (Some(media), Some(selector)) = (&mut current, value_of(line, b"a=file-selector:"))
            && media.file.is_none()
        {
            media.file = Some(file_selector(selector));
        }
    }
    found.extend(current);
    found
}

/// Returns the value of a line that starts with this name, in any case.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    line.get(..name.len()).filter(|start| start.eq_ignore_ascii_case(name))?;
    line.get(name.len()..)
}

/// Reads a file selector: selectors like `name:"My file.jpg"` or `size:4092`, separated by spaces. A quoted name may contain
/// any octets but quotes.
fn file_selector(value: &[u8]) -> FileSelector {
    let (mut rest, mut sizes, mut size) = (value, 0, None);
    while let Some(start) = rest.iter().position(|octet| !octet.is_ascii_whitespace()) {
        rest = &rest[start..];
        let is_quoted = value_of(rest, b"name:\"").is_some();
        let end = match is_quoted {
            true => memchr(b'"', &rest[6..]).map(|end| end + 7),
            false => rest.iter().position(u8::is_ascii_whitespace),
        };
        let (selector, after) = rest.split_at(end.unwrap_or(rest.len()));
        rest = after;
        if let Some(digits) = value_of(selector, b"size:") {
            sizes += 1;
            size = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|digit| digit.is_ascii_digit()));
        }
    }
    FileSelector { size: size.filter(|_| sizes == 1).and_then(|digits| digits.parse().ok()) }
}

/// `message 7394 TCP/MSRP *`: returns whether the port is 0; `None`: another transport.
fn msrp(media: &[u8]) -> Option<bool> {
    let mut words = media.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).skip(1);
    let (port, transport) = (words.next()?, words.next()?);
    let port = port.split(|octet| *octet == b'/').next().unwrap_or_default();
    let is_msrp = [b"TCP/MSRP".as_slice(), b"TCP/TLS/MSRP"].iter().any(|known| transport.eq_ignore_ascii_case(known));
    is_msrp.then(|| !port.is_empty() && port.iter().all(|digit| *digit == b'0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=alice 1 1 IN IP4 a.example\r\ns=-\r\nc=IN IP4 a.example\r\nt=0 0\r\n\
        m=audio 4000 RTP/AVP 0\r\na=path:msrp://wrong/w;tcp\r\n\
        m=message 7654 TCP/MSRP *\r\na=accept-types:message/cpim\r\n\
        a=path:msrp://relay.example:2855/r1;tcp msrp://a.example:7654/jshA7w;tcp\r\n";

    /// Positions, refusals and session ids of the endpoints.
    fn read(content_type: &str, body: &str) -> Option<Vec<(u8, bool, String)>> {
        let media = msrp_media(content_type.as_bytes(), body.as_bytes())?;
        let id = |media: &Media<'_>| media.path.map_or("-", |path| path.endpoint().session_id).to_owned();
        Some(media.iter().map(|media| (media.position, media.is_refused, id(media))).collect())
    }

    fn one() -> Option<Vec<(u8, bool, String)>> {
        Some(vec![(1, false, "jshA7w".to_owned())])
    }

    #[test]
    fn path_of_msrp_media_is_found() {
        for (from, to) in [
            ("", ""),
            ("\r\n", "\n"),
            ("TCP/MSRP", "TCP/TLS/MSRP"),
            ("TCP/MSRP", "tcp/msrp"),
            ("m=message 7654 ", "m=message 7654/1  "),
            ("a=path:msrp://relay", "a=path: msrp://relay"),
            ("a=path:msrp://relay", "a=PATH:msrp://relay"),
            ("m=message", "m=application"),
        ] {
            assert_eq!(read("application/sdp", &OFFER.replace(from, to)), one(), "{from} -> {to}");
        }
        for content_type in ["Application/SDP", "application/sdp;charset=utf-8", " application/sdp ; a=b", ""] {
            assert_eq!(read(content_type, OFFER), one(), "{content_type}");
        }
    }

    #[test]
    fn each_msrp_line_has_its_position() {
        let two = format!(
            "{OFFER}m=message 0 TCP/MSRP *\r\na=path:msrp://a.example:7654/second;tcp\r\nm=video 5000 RTP/AVP 31\r\n\
             m=message 7654 TCP/TLS/MSRP *\r\na=path:msrps://a.example:7654/third;tcp\r\na=path:msrp://x/fourth;tcp\r\n\
             m=message 7654 TCP/MSRP *\r\n"
        );
        let wanted = [(1, false, "jshA7w"), (2, true, "second"), (4, false, "third"), (5, false, "-")];
        let wanted = wanted.map(|(position, is_refused, id)| (position, is_refused, id.to_owned()));
        assert_eq!(read("application/sdp", &two), Some(wanted.to_vec()));
        let position = |lines: usize| {
            let refused = OFFER.replace("m=message 7654", "m=message 0").replace("m=audio", "m=video");
            read("application/sdp", &(refused.repeat(lines) + OFFER)).and_then(|media| media.last().cloned())
        };
        assert_eq!(position(20), Some((41, false, "jshA7w".to_owned())), "refused media before it do not count");
        assert_eq!(position(200), Some((POSITION_MAX, false, "jshA7w".to_owned())));
        assert_eq!(read("application/sdp", &OFFER.repeat(100)).map(|media| media.len()), Some(OPEN_MAX));
    }

    #[test]
    fn body_without_msrp_has_no_media() {
        for description in [
            String::new(),
            "\n\n\n".into(),
            OFFER.replace("TCP/MSRP", "RTP/AVP"),
            OFFER.replace("m=message", "x=message"),
        ] {
            assert_eq!(read("application/sdp", &description), Some(Vec::new()), "{description}");
        }
        let unreadable = OFFER.replace("a=path:msrp://relay", "a=path:sip://relay");
        assert_eq!(read("application/sdp", &unreadable), Some(vec![(1, false, "-".to_owned())]));
        for content_type in ["text/plain", "application/sdp+xml", "multipart/mixed", "multipart/mixed;boundary=other"] {
            assert_eq!(read(content_type, OFFER), None, "{content_type}");
        }
        assert_eq!(read("", &format!("--b\r\n{OFFER}")), None);
    }

    fn part(headers: &str, body: &str) -> String {
        format!("--b1\r\n{headers}\r\n\r\n{body}\r\n")
    }

    #[test]
    fn sdp_part_of_a_multipart_body_is_found() {
        let decoy = OFFER.replace("jshA7w", "decoy");
        let sdp = part("Content-Type: application/sdp", OFFER);
        let bodies = [
            format!("{sdp}--b1--\r\n"),
            format!("a preamble\r\n{}{sdp}--b1--\r\n", part("Content-Type: text/plain", &decoy)),
            format!("{}{sdp}--b1--\r\n{}", part("X: y", &decoy), part("Content-Type: application/sdp", &decoy)),
            format!(
                "{}{sdp}--b1--",
                part("Content-Disposition: early-session\r\nContent-Type: application/sdp", &decoy)
            ),
            format!("{sdp}{}--b1--", part("Content-Type: application/sdp", &decoy)),
            part("content-type:\r\n  application/sdp\r\nContent-Disposition: Session;handling=required", OFFER),
            sdp.replace("\r\n", "\n"),
            sdp.replacen("--b1\r\n", "--b1 \t\r\n", 1),
            format!(
                "--b1\r\nContent-Type: multipart/related; boundary=\"in\"\r\n\r\n{}--b1--\r\n",
                sdp.replace("b1", "in")
            ),
        ];
        for body in &bodies {
            assert_eq!(read("multipart/mixed; boundary=b1", body), one(), "{body}");
            assert_eq!(read("Multipart/Mixed;boundary=\"b1\"", body), one(), "{body}");
        }
        let both = format!("{}{sdp}--b1--", part("Content-Type: application/sdp", &decoy));
        assert_eq!(read("multipart/alternative;boundary=b1", &both), one());
    }

    #[test]
    fn depth_of_nested_bodies_is_limited() {
        let (mut body, mut boundary) = (part("Content-Type: application/sdp", OFFER), "b1".to_owned());
        for depth in 1..=DEPTH_MAX {
            let content_type = format!("multipart/mixed;boundary={boundary}");
            assert_eq!(read(&content_type, &body), one(), "{depth}");
            boundary = format!("outer{depth}");
            body = format!("--{boundary}\r\nContent-Type: {content_type}\r\n\r\n{body}\r\n");
        }
        assert_eq!(read(&format!("multipart/mixed;boundary={boundary}"), &body), None);
    }

    /// Size of each file; `None`: no file is described.
    fn files(description: &str) -> Vec<Option<Option<u64>>> {
        let media = msrp_media(b"application/sdp", description.as_bytes()).expect("SDP");
        media.iter().map(|media| media.file.map(|file| file.size)).collect()
    }

    #[test]
    fn file_selector_has_the_size_of_the_file() {
        for (selector, size) in [
            // RFC 5547, 9.1.
            ("name:\"My cool picture.jpg\" type:image/jpeg size:4092 hash:sha-1:72:24:5F:E8:65:3D:DA:F3", Some(4092)),
            ("size:0", Some(0)),
            ("SIZE:18446744073709551615", Some(u64::MAX)),
            ("  size:7\t", Some(7)),
            ("name:\"size:1 \u{e9}%22 x\" size:2", Some(2)),
            ("name:\"never closed size:3", None),
            ("name:size:4", None),
            ("type:image/jpeg", None),
            ("size:", None),
            ("size:-1", None),
            ("size:+1", None),
            ("size:12k", None),
            ("size:18446744073709551616", None),
            ("size:1 size:2", None),
            ("", None),
        ] {
            let description = format!("{OFFER}a=sendonly\r\na=file-selector:{selector}\r\n");
            assert_eq!(files(&description), [Some(size)], "{selector}");
        }
        assert_eq!(files(OFFER), [None]);
        assert_eq!(files(&format!("{OFFER}a=file-selector:size:1\r\na=file-selector:size:2\r\n")), [Some(Some(1))]);
        assert_eq!(files(&OFFER.replace("m=audio", "a=file-selector:size:1\r\nm=audio")), [None]);
    }

    proptest::proptest! {
        #[test]
        fn random_selectors_do_not_panic(value in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            file_selector(&value);
            file_selector(&[b"name:\"", value.as_slice()].concat());
        }

        #[test]
        fn random_bytes_do_not_panic(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300),
            lines in proptest::collection::vec(0..6usize, 0..40),
        ) {
            let _ = msrp_media(b"application/sdp", &bytes);
            let _ = msrp_media(b"multipart/mixed;boundary=b", &bytes);
            let words = [
                "--b\r\n",
                "--b--\r\n",
                "\r\n",
                "Content-Type: application/sdp\r\n",
                "m=message 1 TCP/MSRP *\n",
                "--b",
            ];
            let body: String = lines.iter().map(|line| words[*line]).collect();
            let _ = msrp_media(b"multipart/mixed;boundary=b", body.as_bytes());
        }
    }
}
