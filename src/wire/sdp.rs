//! Session descriptions (RFC 4566): only where the MSRP session is (RFC 4975, 8).

use super::msrp::Path;
use memchr::memchr;

/// Octets of a description that are read.
const DESCRIPTION_MAX: usize = 64 * 1024;

/// The path of the first MSRP media that is not refused (port 0). The description may stand in a multipart body:
/// lines of other parts say nothing that looks like it. `None`: there is no MSRP in it.
pub fn msrp_path(description: &[u8]) -> Option<Path<'_>> {
    let mut in_msrp = false;
    let mut rest = description.get(..description.len().min(DESCRIPTION_MAX))?;
    while !rest.is_empty() {
        let (line, after) = match memchr(b'\n', rest) {
            Some(end) => (rest.get(..end)?, rest.get(end + 1..)?),
            None => (rest, &[][..]),
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(media) = line.strip_prefix(b"m=") {
            in_msrp = is_msrp(media);
        } else if in_msrp && let Some(path) = line.strip_prefix(b"a=path:") {
            return Path::parse(std::str::from_utf8(path).ok()?.trim()).ok();
        }
        rest = after;
    }
    None
}

/// `message 7394 TCP/MSRP *`
fn is_msrp(media: &[u8]) -> bool {
    let mut words = media.split(|byte| *byte == b' ');
    let message = words.next() == Some(b"message");
    let open = words.next().is_some_and(|port| port != b"0");
    let transport = words.next().unwrap_or_default();
    let msrp = [b"TCP/MSRP".as_slice(), b"TCP/TLS/MSRP"].iter().any(|known| transport.eq_ignore_ascii_case(known));
    message && open && msrp
}

#[cfg(test)]
mod tests {
    use super::*;

    const OFFER: &str = "v=0\r\no=alice 1 1 IN IP4 a.example\r\ns=-\r\nc=IN IP4 a.example\r\nt=0 0\r\n\
        m=audio 4000 RTP/AVP 0\r\na=path:msrp://wrong/w;tcp\r\n\
        m=message 7654 TCP/MSRP *\r\na=accept-types:message/cpim\r\n\
        a=path:msrp://relay.example:2855/r1;tcp msrp://a.example:7654/jshA7w;tcp\r\n";

    fn session_id(description: &str) -> Option<&str> {
        msrp_path(description.as_bytes()).map(|path| path.endpoint().session_id)
    }

    #[test]
    fn the_path_of_the_msrp_media_is_found() {
        assert_eq!(session_id(OFFER), Some("jshA7w"));
        assert_eq!(session_id(&OFFER.replace("\r\n", "\n")), Some("jshA7w"));
        assert_eq!(session_id(&OFFER.replace("TCP/MSRP", "TCP/TLS/MSRP")), Some("jshA7w"));
        let multipart =
            format!("--b\r\nContent-Type: application/sdp\r\n\r\n{OFFER}\r\n--b\r\n\r\n<xml/>\r\n--b--\r\n");
        assert_eq!(session_id(&multipart), Some("jshA7w"));
    }

    #[test]
    fn what_has_no_msrp_has_no_path() {
        for description in [
            String::new(),
            "\n\n\n".into(),
            OFFER.replace("m=message 7654", "m=message 0"),
            OFFER.replace("TCP/MSRP", "RTP/AVP"),
            OFFER.replace("a=path:msrp://relay", "a=path:sip://relay"),
            OFFER.replace("m=message", "m=image"),
        ] {
            assert_eq!(session_id(&description), None, "{description}");
        }
    }

    proptest::proptest! {
        #[test]
        fn random_bytes_do_not_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let _ = msrp_path(&bytes);
        }
    }
}
