//! Session descriptions (RFC 4566, RFC 4975, 8): the path that is found is the one that a plain reading finds, and
//! everything in it can be read.

use super::lies_in;
use imcharge::wire::msrp::Path;
use imcharge::wire::sdp::msrp_path;

/// Octets that are read of a description.
const DESCRIPTION_MAX: usize = 64 * 1024;

/// Reads a description, and compares.
pub fn check(bytes: &[u8]) {
    let found = msrp_path(bytes);
    if bytes.len() < DESCRIPTION_MAX {
        assert_eq!(found, plain(bytes), "a plain reading finds another");
    }
    let Some(path) = found else { return };
    let uris: Vec<_> = path.uris().collect();
    assert!((1..=16).contains(&uris.len()));
    assert_eq!(uris.last(), Some(&path.endpoint()));
    assert!(uris.iter().all(|uri| lies_in(uri.host.as_bytes(), bytes) && lies_in(uri.session_id.as_bytes(), bytes)));
    // What media before it say does not matter.
    let behind = [b"v=0\r\nm=audio 1 RTP/AVP 0\r\na=path:msrp://x/y;tcp\r\n", bytes].concat();
    if behind.len() <= DESCRIPTION_MAX {
        assert_eq!(msrp_path(&behind), found);
    }
}

/// The first `a=path` of an MSRP media that is not refused.
fn plain(bytes: &[u8]) -> Option<Path<'_>> {
    let lines = bytes.split(|octet| *octet == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut in_msrp = false;
    for line in lines {
        if let Some(media) = line.strip_prefix(b"m=") {
            let words: Vec<_> = media.split(|octet| *octet == b' ').collect();
            in_msrp = match words.as_slice() {
                [b"message", port, transport, ..] => {
                    let transport = transport.to_ascii_uppercase();
                    *port != b"0" && [&b"TCP/MSRP"[..], b"TCP/TLS/MSRP"].contains(&transport.as_slice())
                }
                _ => false,
            };
        } else if let (true, Some(path)) = (in_msrp, line.strip_prefix(b"a=path:")) {
            return std::str::from_utf8(path).ok().and_then(|path| Path::parse(path.trim()).ok());
        }
    }
    None
}
