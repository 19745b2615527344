//! SDP (RFC 4566; RFC 4975, 8): the codec must agree with a simple reference parser, for SDP as the whole body and as a
//! part of it, and all paths must be valid.

use super::lies_in;
use imcharge::wire::msrp::Path;
use imcharge::wire::sdp::{FileSelector, Media, POSITION_MAX, msrp_media};

/// Maximum number of octets read from a body.
const BODY_MAX: usize = 64 * 1024;

/// Maximum number of MSRP media with a port.
const OPEN_MAX: usize = 64;

/// Parses SDP and compares.
pub fn check(bytes: &[u8]) {
    let _ = msrp_media(b"multipart/mixed;boundary=b", bytes);
    let Some(found) = msrp_media(b"application/sdp", bytes) else { panic!("the whole body is SDP") };
    if bytes.len() < BODY_MAX {
        assert_eq!(found, plain(bytes), "the reference parser finds other media");
    }
    for path in found.iter().filter_map(|media| media.path) {
        let uris: Vec<_> = path.uris().collect();
        assert!((1..=16).contains(&uris.len()));
        assert_eq!(uris.last(), Some(&path.endpoint()));
        assert!(
            uris.iter().all(|uri| lies_in(uri.host.as_bytes(), bytes) && lies_in(uri.session_id.as_bytes(), bytes))
        );
    }
    // The same SDP in a multipart body gives the same media, unless it contains the delimiter.
    let part = [b"--boundary\r\nContent-Type: application/sdp\r\n\r\n", bytes, b"\r\n--boundary--\r\n"].concat();
    if part.len() < BODY_MAX && !bytes.windows(10).any(|window| window == b"--boundary") {
        assert_eq!(msrp_media(b"multipart/mixed;boundary=\"boundary\"", &part), Some(found));
    }
}

/// Reference parser of MSRP media, line by line.
fn plain(bytes: &[u8]) -> Vec<Media<'_>> {
    let lines = bytes.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let (mut media, mut number, mut is_msrp): (Vec<Media<'_>>, usize, bool) = (Vec::new(), 0, false);
    for line in lines {
        if let Some(line) = line.strip_prefix(b"m=") {
            if media.iter().filter(|media| !media.is_refused).count() == OPEN_MAX {
                break;
            }
            let position = number.min(POSITION_MAX.into()) as u8;
            let words: Vec<_> = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
            let transport = words.get(2).map(|word| word.to_ascii_uppercase()).unwrap_or_default();
            is_msrp = [&b"TCP/MSRP"[..], b"TCP/TLS/MSRP"].contains(&transport.as_slice());
            if is_msrp {
                let port = words[1].split(|octet| *octet == b'/').next().unwrap_or_default();
                let is_refused = !port.is_empty() && port.iter().all(|digit| *digit == b'0');
                media.push(Media { position, is_refused, path: None, file: None });
            }
            number += 1;
        } else if let (true, Some(media)) = (is_msrp, media.last_mut())
            && line.len() >= 7
            && line[..7].eq_ignore_ascii_case(b"a=path:")
            && media.path.is_none()
        {
            media.path = std::str::from_utf8(&line[7..]).ok().and_then(|path| Path::parse(path.trim()).ok());
        } else if let (true, Some(media)) = (is_msrp, media.last_mut())
            && line.len() >= 16
            && line[..16].eq_ignore_ascii_case(b"a=file-selector:")
            && media.file.is_none()
        {
            media.file = Some(FileSelector { size: plain_size(&line[16..]) });
        }
    }
    media
}

/// Reference parser of the size in a file selector, octet by octet.
fn plain_size(value: &[u8]) -> Option<u64> {
    let (mut sizes, mut at) = (Vec::new(), 0);
    while at < value.len() {
        if value[at].is_ascii_whitespace() {
            at += 1;
            continue;
        }
        let is_name = value.len() >= at + 6 && value[at..at + 6].eq_ignore_ascii_case(b"name:\"");
        let mut end = if is_name { at + 6 } else { at };
        let ends = |octet: u8| if is_name { octet == b'"' } else { octet.is_ascii_whitespace() };
        while end < value.len() && !ends(value[end]) {
            end += 1;
        }
        end = value.len().min(end + usize::from(is_name));
        if value[at..end].len() >= 5 && value[at..at + 5].eq_ignore_ascii_case(b"size:") {
            sizes.push(&value[at + 5..end]);
        }
        at = end;
    }
    match sizes[..] {
        [digits] if digits.iter().all(u8::is_ascii_digit) => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}
