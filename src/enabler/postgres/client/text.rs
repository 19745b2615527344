//! Texts of a server, made fit for a log.

/// Maximum number of characters of a text that are kept.
const TEXT_MAX: usize = 200;

/// Returns the text on one line: shortened, invalid UTF-8 replaced, control characters escaped.
pub fn printable(text: &[u8]) -> String {
    // A character has at most 4 octets, and one that is cut is the first of those that are left out.
    let part = text.get(..4 * (TEXT_MAX + 1)).unwrap_or(text);
    let part = String::from_utf8_lossy(part);
    let mut kept = String::new();
    for (count, character) in part.chars().enumerate() {
        if count == TEXT_MAX {
            kept.push_str(" ...");
            break;
        }
        match character.is_control() || is_reordering(character) {
            true => kept.extend(character.escape_default()),
            false => kept.push(character),
        }
    }
    kept
}

/// Whether the character changes the order or the breaks of the text around it.
fn is_reordering(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_shortened_and_control_characters_are_escaped() {
        assert_eq!(printable("relation \"x\" fehlt für Bär".as_bytes()), "relation \"x\" fehlt für Bär");
        assert_eq!(printable(b"a\r\nb\x1b[31m\0"), "a\\r\\nb\\u{1b}[31m\\u{0}");
        assert_eq!(printable("a\u{202e}b\u{2028}".as_bytes()), "a\\u{202e}b\\u{2028}");
        assert_eq!(printable(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(printable(&[b'a'; 200]), "a".repeat(200));
        assert_eq!(printable(&[b'a'; 201]), format!("{} ...", "a".repeat(200)));
        assert_eq!(printable("ü".repeat(100_000).as_bytes()), format!("{} ...", "ü".repeat(200)));
    }
}
