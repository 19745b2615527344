//! CPIM messages (RFC 3862): the type that the codec finds is the only one that another reader can find.

use super::lies_in;
use imcharge::wire::cpim::{CpimError, content, media_type};
use imcharge::wire::media_type::{is_media_type, of_value};

/// Reads a message, compares the type with that of [`plain`], and reads truncated and extended copies.
pub fn check(bytes: &[u8]) {
    let _ = std::str::from_utf8(bytes).map(of_value);
    let Ok(found) = media_type(bytes) else { return };
    assert!(lies_in(found.as_bytes(), bytes) && is_media_type(found));
    assert!(content(bytes).is_ok_and(|(same, rest)| same == found && bytes.ends_with(rest)));
    let (group, rest) = group(bytes).expect("an accepted message has a group of headers");
    let types = |group: &[Vec<u8>]| -> Vec<String> { group.iter().filter_map(|header| content_type(header)).collect() };
    let first = types(&group);
    match first.as_slice() {
        [] => {
            let (second, content) = self::group(rest).expect("a second group");
            assert_eq!(types(&second), [found]);
            assert_extended(bytes, content.len(), found);
        }
        [only] => {
            assert_eq!(only, found);
            let is_word = |header: &Vec<u8>| header.iter().take_while(|byte| **byte != b':').all(is_name_char);
            let is_other = self::group(rest).is_some_and(|(headers, _)| headers.iter().all(is_word));
            assert!(!is_other, "the content is another group of headers");
        }
        more => panic!("{more:?} in one group"),
    }
    for cut in [bytes.len() / 3, bytes.len() / 2, bytes.len() - 1] {
        match media_type(&bytes[..cut]) {
            Ok(part) => assert_eq!(part, found, "cut at {cut}"),
            Err(error) => assert_eq!(error, CpimError::Incomplete, "cut at {cut}"),
        }
    }
}

/// Nothing that follows the second group of headers changes the type, and without the end of the headers there is none.
fn assert_extended(bytes: &[u8], content: usize, found: &str) {
    let head = &bytes[..bytes.len() - content];
    let other = [head, b"Content-Type: other/type\r\n\r\n"].concat();
    assert_eq!(media_type(&other), Ok(found));
    assert_eq!(media_type(head), Ok(found));
    assert_eq!(media_type(&head[..head.len() - 1]), Err(CpimError::Incomplete));
}

/// Splits off a group of headers with its empty line; each header unfolded into one line.
fn group(bytes: &[u8]) -> Option<(Vec<Vec<u8>>, &[u8])> {
    let mut headers: Vec<Vec<u8>> = Vec::new();
    let mut rest = bytes;
    loop {
        let end = rest.windows(2).position(|pair| pair == b"\r\n")?;
        let line = &rest[..end];
        rest = &rest[end + 2..];
        if line.is_empty() {
            return Some((headers, rest));
        }
        match (line[0], headers.last_mut()) {
            (b' ' | b'\t', Some(last)) => last.extend(line),
            (b' ' | b'\t', None) => return None,
            _ => headers.push(line.to_vec()),
        }
        let is_header = |header: &Vec<u8>| header.iter().position(|byte| *byte == b':').is_some_and(|colon| colon > 0);
        if !headers.last().is_some_and(is_header) {
            return None;
        }
    }
}

fn is_name_char(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._".contains(byte)
}

/// Media type of a Content-Type header.
fn content_type(header: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(header);
    let (name, value) = text.split_once(':')?;
    let value = value.split(';').next().unwrap_or_default().trim();
    name.eq_ignore_ascii_case("content-type").then(|| value.to_owned())
}
