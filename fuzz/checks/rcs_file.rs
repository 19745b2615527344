//! Documents of RCS file transfer over HTTP: the size found is that of the whole document's files, and nothing that does not
//! belong to them changes it.

use imcharge::wire::rcs_file::{DOCUMENT_MAX, file_octets};

/// A `file-info` that does not count.
const THUMBNAIL: &[u8] = b"<file-info type=\"thumbnail\"><file-size>7</file-size></file-info>";

/// Reads a document, its parts, and extended copies of it.
pub fn check(bytes: &[u8]) {
    let Ok(found) = file_octets(bytes) else { return };
    assert!(bytes.windows(9).any(|window| window == b"file-size"), "a size from nowhere");
    // The rest of a whole document can be a comment or white space only.
    for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        if let Ok(part) = file_octets(&bytes[..cut]) {
            assert_eq!(part, found, "cut at {cut}");
        }
    }
    if bytes.len() + 100 > DOCUMENT_MAX {
        return;
    }
    assert_eq!(file_octets(&[bytes, b"\r\n <!-- the end -->"].concat()), Ok(found));
    let declared = [b"<!DOCTYPE file [<!ENTITY a \"a\">]>", bytes].concat();
    assert!(file_octets(&declared).is_err(), "a document type declaration was accepted");
    if let Some(at) = bytes.windows(7).rposition(|window| window == b"</file>") {
        let more = [&bytes[..at], THUMBNAIL, &bytes[at..]].concat();
        // The end tag may be that of a nested element, at the maximum depth.
        assert_eq!(file_octets(&more).unwrap_or(found), found, "a thumbnail counts");
    }
}
