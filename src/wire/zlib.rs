//! Bodies with Content-Encoding `deflate` (RFC 9110, 8.4.1.2: the zlib format of RFC 1950).

use miniz_oxide::inflate::{TINFLStatus, decompress_to_vec_zlib_with_limit};

/// Maximum length of a compressed body that is read, octets. Blocks without content take time and yield no octets, so a
/// limit of the output does not bound the time.
pub const COMPRESSED_OCTETS_MAX: usize = 8 * 1024;

/// Returns the content of a body in the zlib format, cut off at `octets_max`; `None` if the body is none, or is longer than
/// [`COMPRESSED_OCTETS_MAX`].
pub fn inflate(body: &[u8], octets_max: usize) -> Option<Vec<u8>> {
    if body.len() > COMPRESSED_OCTETS_MAX || !has_header(body) {
        return None;
    }
    match decompress_to_vec_zlib_with_limit(body, octets_max) {
        Ok(content) => Some(content),
        Err(error) if error.status == TINFLStatus::HasMoreOutput => Some(error.output),
        Err(_) => None,
    }
}

/// Whether the first two octets are a header of RFC 1950, 2.2: method 8, and a multiple of 31.
fn has_header(body: &[u8]) -> bool {
    let Some([method, flags]) = body.first_chunk() else { return false };
    method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use miniz_oxide::deflate::compress_to_vec_zlib;

    #[test]
    fn content_is_inflated_up_to_the_limit() {
        let content = "From: <im:b@x>\r\n".repeat(100);
        let body = compress_to_vec_zlib(content.as_bytes(), 6);
        assert_eq!(inflate(&body, content.len()).as_deref(), Some(content.as_bytes()));
        assert_eq!(inflate(&body, 10).as_deref(), Some(&content.as_bytes()[..10]));
        // A megabyte in a kilobyte.
        let bomb = compress_to_vec_zlib(&vec![b'x'; 1 << 20], 9);
        assert_eq!(inflate(&bomb, 5000).map(|content| content.len()), Some(5000));
    }

    #[test]
    fn longer_body_is_not_read() {
        let body = compress_to_vec_zlib(b"hello", 6);
        let followed = |octets: usize| [&body[..], &vec![b'x'; octets - body.len()]].concat();
        assert!(inflate(&followed(COMPRESSED_OCTETS_MAX), 1000).is_some());
        assert_eq!(inflate(&followed(COMPRESSED_OCTETS_MAX + 1), 1000), None);
    }

    #[test]
    fn damaged_or_other_body_is_none() {
        let body = compress_to_vec_zlib(b"hello", 6);
        for (body, what) in [
            (&b""[..], "empty"),
            (b"x", "one octet"),
            (b"x^foo: bar\r\n", "a header line that begins as zlib does"),
            (b"From: <im:b@x>\r\n", "text"),
            (&body[..body.len() - 1], "cut off"),
            (&[&body[..4], b"####"].concat(), "damaged"),
        ] {
            assert_eq!(inflate(body, 1000), None, "{what}");
        }
    }
}
