//! Media types (RFC 2045, 5.1): the value of a Content-Type header, without its parameters.

/// Maximum length of a media type, octets: two names of 127 (RFC 6838, 4.2).
const MEDIA_TYPE_MAX: usize = 255;

/// Returns the `type/subtype` of a Content-Type header's value, as written; `None` if it is invalid or too long. White space
/// around it may contain the line break of a folded header.
pub fn of_value(value: &str) -> Option<&str> {
    let value = value.trim_ascii();
    let end = value.bytes().position(|byte| byte == b';' || byte.is_ascii_whitespace()).unwrap_or(value.len());
    let (media_type, rest) = value.split_at(end);
    let rest = rest.trim_ascii_start();
    let is_ended = rest.is_empty() || rest.starts_with(';');
    (is_ended && is_media_type(media_type)).then_some(media_type)
}

/// Whether a text is a `type/subtype`, without parameters.
pub fn is_media_type(text: &str) -> bool {
    let is_token = |text: &str| !text.is_empty() && text.bytes().all(is_token_char);
    text.len() <= MEDIA_TYPE_MAX && text.split_once('/').is_some_and(|(top, sub)| is_token(top) && is_token(sub))
}

/// Whether an octet is a character of a token (RFC 2045, 5.1), for each octet: the gate reads every name of a CPIM message.
const TOKEN_CHARS: [bool; 256] = {
    let others = b"()<>@,;:\\\"/[]?=";
    let (mut table, mut byte) = ([false; 256], b'!');
    while byte <= b'~' {
        table[byte as usize] = true;
        byte += 1;
    }
    let mut at = 0;
    while at < others.len() {
        table[others[at] as usize] = false;
        at += 1;
    }
    table
};

/// A character of a token.
pub(super) fn is_token_char(byte: u8) -> bool {
    TOKEN_CHARS[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_type_is_read_without_parameters() {
        for (value, media_type) in [
            ("text/plain", "text/plain"),
            (" Text/Plain;charset=utf-8 ", "Text/Plain"),
            ("message/imdn+xml ; x=y", "message/imdn+xml"),
            ("\r\n application/im-iscomposing+xml\r\n\t;charset=utf-8", "application/im-iscomposing+xml"),
        ] {
            assert_eq!(of_value(value), Some(media_type), "{value:?}");
        }
    }

    #[test]
    fn token_characters_are_those_of_the_standard() {
        for byte in 0..=u8::MAX {
            let is_special = b"()<>@,;:\\\"/[]?=".contains(&byte);
            assert_eq!(is_token_char(byte), byte.is_ascii_graphic() && !is_special, "{byte}");
        }
    }

    #[test]
    fn invalid_media_types_are_refused() {
        let long = format!("text/{}", "x".repeat(MEDIA_TYPE_MAX));
        for value in [
            "",
            "text",
            "text/",
            "/plain",
            "text/plain, message/imdn+xml",
            "text/plain message/imdn+xml",
            "message/imdn+xml/text",
            "message/ imdn+xml",
            "\"message/imdn+xml\"",
            "message/imdn\u{2b}xml\u{e9}",
            "text/plain\0",
            &long,
        ] {
            assert_eq!(of_value(value), None, "{value:?}");
        }
    }
}
