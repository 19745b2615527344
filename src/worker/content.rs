//! What content is, according to the headers that its sender has written: its class, and whether it is free of charge.

use crate::charge::content::ContentClass;
use crate::config::Config;
use crate::shm::gate::FreeClaim;
use crate::wire::{cpim, media_type, msrp};

/// Content of a message or chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Class by media type; of `message/cpim`, that of the encapsulated message.
    pub class: ContentClass,
    /// Whether the parameters `free_content` and `free_content_max` make it free.
    pub is_free: bool,
    /// Why its media type is unknown. Such content is charged.
    pub unknown: Option<UnknownType>,
}

/// Why a media type is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownType {
    /// Content-Type is missing, repeated or invalid.
    #[error("its Content-Type is missing, repeated or malformed")]
    ContentType,
    /// That of a message in CPIM is unknown.
    #[error("it is message/cpim, but {0}")]
    Cpim(#[from] cpim::CpimError),
}

impl Content {
    /// Returns what the body of a SIP MESSAGE is. `content_type`: value of Content-Type, empty if absent.
    pub fn of_message(config: &Config, content_type: &[u8], body: &[u8]) -> Content {
        let media_type = std::str::from_utf8(content_type).ok().and_then(media_type::of_value);
        Content::new(config, encapsulated_type(media_type, body), body.len() as u64)
    }

    /// Returns what the content of an MSRP frame is, and its claim to be free. A chunk that is not the first one does not
    /// contain the headers of a CPIM message, and is one of a free message only if the gate knows that message.
    pub fn of_frame(config: &Config, frame: &msrp::Frame<'_>, is_first: bool) -> (Content, Option<FreeClaim>) {
        let (body, octets) = (frame.body.unwrap_or_default(), frame.content_octets());
        let in_cpim = frame.media_type.is_some_and(is_cpim);
        let claim = FreeClaim { in_cpim, octets_max: config.free_content_max };
        if in_cpim && !is_first {
            return (Content { class: ContentClass::Other, is_free: false, unknown: None }, Some(claim));
        }
        let content = Content::new(config, encapsulated_type(frame.media_type, body), octets);
        (content, content.is_free.then_some(claim))
    }

    fn new(config: &Config, media_type: Result<&str, UnknownType>, octets: u64) -> Content {
        match media_type {
            Ok(media_type) => Content {
                class: ContentClass::from_media_type(media_type),
                is_free: config.free_content.contains(media_type) && octets <= config.free_content_max.into(),
                unknown: None,
            },
            Err(why) => Content { class: ContentClass::Other, is_free: false, unknown: Some(why) },
        }
    }
}

fn is_cpim(media_type: &str) -> bool {
    media_type.eq_ignore_ascii_case("message/cpim")
}

/// Returns the media type of content; of `message/cpim`, that of the message in it.
fn encapsulated_type<'a>(media_type: Option<&'a str>, body: &'a [u8]) -> Result<&'a str, UnknownType> {
    match media_type.ok_or(UnknownType::ContentType)? {
        outer if is_cpim(outer) => Ok(cpim::media_type(body)?),
        outer => Ok(outer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContentClass::{File, Notification, Other, Text};

    const IMDN: &str = "From: <im:b@x>\r\n\r\nContent-type: message/imdn+xml\r\n\r\n<imdn/>";
    const TEXT: &str = "From: <im:b@x>\r\n\r\nContent-type: text/plain\r\n\r\nmessage/imdn+xml is free";

    #[test]
    fn body_of_a_sip_message_has_its_class() {
        let config = Config::default();
        for (content_type, body, class, is_free) in [
            ("text/plain;charset=utf-8", "Content-Type: message/imdn+xml\r\n\r\n<imdn/>", Text, false),
            ("message/imdn+xml", "<imdn/>", Notification, true),
            ("Application/IM-isComposing+XML", "<isComposing/>", Notification, true),
            ("message/cpim", IMDN, Notification, true),
            ("Message/CPIM; charset=utf-8", TEXT, Text, false),
            ("application/vnd.gsma.rcs-ft-http+xml", "<file/>", File, false),
            ("message/cpim", "From: <im:b@x>\r\n\r\nContent-type: message/cpim\r\n\r\n", Other, false),
            (
                "multipart/mixed;boundary=b",
                "--b\r\nContent-Type: message/imdn+xml\r\n\r\n<imdn/>\r\n--b--",
                Other,
                false,
            ),
        ] {
            let content = Content::of_message(&config, content_type.as_bytes(), body.as_bytes());
            assert_eq!(content, Content { class, is_free, unknown: None }, "{content_type}: {body}");
        }
    }

    #[test]
    fn body_of_unknown_type_is_not_free() {
        let config = Config::default();
        for (content_type, body, why) in [
            ("", "hello", UnknownType::ContentType),
            ("message/imdn+xml, text/plain", "<imdn/>", UnknownType::ContentType),
            ("message/cpim", &IMDN[..40], UnknownType::Cpim(cpim::CpimError::Incomplete)),
        ] {
            let content = Content::of_message(&config, content_type.as_bytes(), body.as_bytes());
            assert_eq!(content, Content { class: Other, is_free: false, unknown: Some(why) }, "{content_type}: {body}");
        }
    }

    #[test]
    fn large_body_is_not_free_whatever_its_type() {
        let config = Config { free_content_max: 100, ..Config::default() };
        for (octets, is_free) in [(100, true), (101, false)] {
            let content = Content::of_message(&config, b"message/imdn+xml", &b"x".repeat(octets));
            assert_eq!((content.class, content.is_free), (Notification, is_free), "{octets} octets");
        }
    }

    #[test]
    fn configured_types_replace_the_default_ones() {
        let free = |types: &str, content_type: &str, body: &str| {
            let config = Config { free_content: types.parse().expect("a list"), ..Config::default() };
            Content::of_message(&config, content_type.as_bytes(), body.as_bytes()).is_free
        };
        assert!(!free("", "message/imdn+xml", "<imdn/>") && !free("", "message/cpim", IMDN));
        assert!(free("text/plain", "text/plain", "hello") && free("text/plain", "message/cpim", TEXT));
        assert!(!free("text/plain", "message/imdn+xml", "<imdn/>"));
    }

    fn claim_of(content_type: &str, body: &str, is_first: bool) -> (Content, Option<bool>) {
        let frame = format!(
            "MSRP abcd SEND\r\nTo-Path: msrp://b:1/s;tcp\r\nFrom-Path: msrp://a:1/s;tcp\r\nMessage-ID: abcd\r\n\
             {content_type}\r\n{body}\r\n-------abcd$\r\n"
        );
        let frame = msrp::Frame::parse(frame.as_bytes()).expect("a frame");
        let (content, claim) = Content::of_frame(&Config::default(), &frame, is_first);
        (content, claim.map(|claim| claim.in_cpim))
    }

    #[test]
    fn chunks_claim_to_be_free_by_their_own_headers() {
        let known = |class, is_free| Content { class, is_free, unknown: None };
        let cpim = "Content-Type: message/cpim\r\n";
        let imdn = "CONTENT-TYPE:MESSAGE/IMDN+XML\r\n";
        for is_first in [true, false] {
            assert_eq!(claim_of(imdn, "<imdn/>", is_first), (known(Notification, true), Some(false)));
            assert_eq!(claim_of("Content-Type: text/plain\r\n", "<imdn/>", is_first), (known(Text, false), None));
        }
        assert_eq!(claim_of(cpim, IMDN, true), (known(Notification, true), Some(true)));
        assert_eq!(claim_of(cpim, TEXT, true), (known(Text, false), None));
        assert_eq!(claim_of(cpim, "dn/>", false), (known(Other, false), Some(true)), "the gate decides");
        let two = "Content-Type: message/imdn+xml\r\nContent-Type: text/plain\r\n";
        let (content, claim) = claim_of(two, "hello", true);
        assert_eq!((content.unknown, claim), (Some(UnknownType::ContentType), None));
    }
}
