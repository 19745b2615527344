//! What content is, according to the headers that its sender has written: its class, and whether it is free of charge.

use crate::charge::content::ContentClass;
use crate::config::Config;
use crate::shm::gate::FreeClaim;
use crate::shm::log_limit::ONE_A_MINUTE;
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use crate::wire::{cpim, media_type, msrp, rcs_file, zlib};

/// Media type of a document about a file that is transferred over HTTP.
const FILE_OVER_HTTP: &str = "application/vnd.gsma.rcs-ft-http+xml";

/// Octets of a compressed message that are read at most, unless `free_content_max` is larger: its headers and such a document.
const INFLATED_MAX: usize = cpim::HEAD_MAX + rcs_file::DOCUMENT_MAX + 1;

/// Content of a message or chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    /// Class by media type; of `message/cpim`, that of the encapsulated message.
    pub class: ContentClass,
    /// Whether the parameters `free_content` and `free_content_max` make it free.
    pub is_free: bool,
    /// Why its media type is unknown. Such content is charged.
    pub unknown: Option<UnknownType>,
    /// If it is a document about a file over HTTP, and was read: the size of that file, octets.
    pub file: Option<Result<u64, UnknownSize>>,
}

/// Why the size of a file is unknown. The document is charged by its own size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnknownSize {
    /// The document has more than one chunk.
    #[error("its document has more than one chunk")]
    Chunks,
    /// The document does not tell it.
    #[error(transparent)]
    Document(#[from] rcs_file::RcsFileError),
    /// It is larger than the parameter `file_size_max`.
    #[error("the file-size is larger than file_size_max")]
    TooLarge,
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
    ///
    /// A CPIM message may be compressed: Linphone sends its notifications with `Content-Encoding: deflate`. The octets show it,
    /// because a CPIM message cannot be in the zlib format by accident. The larger of both lengths counts: what follows the
    /// compressed content passes as well. `reads_file`: whether the size of a file that a document announces is of interest.
    pub fn of_message(config: &Config, content_type: &[u8], body: &[u8], reads_file: bool) -> Content {
        let media_type = std::str::from_utf8(content_type).ok().and_then(media_type::of_value);
        let octets_max = INFLATED_MAX.max(config.free_content_max as usize + 1);
        let inflated = media_type.filter(|outer| is_cpim(outer)).and_then(|_| zlib::inflate(body, octets_max));
        let content = inflated.as_deref().unwrap_or(body);
        let found = encapsulated(media_type, content);
        let octets = content.len().max(body.len()) as u64;
        let document = found.ok().filter(|_| reads_file);
        let file = document.and_then(|(media_type, document)| file_of(config, media_type, Ok(document)));
        Content { file, ..Content::new(config, found.map(|(media_type, _)| media_type), octets) }
    }

    /// Returns what the content of an MSRP frame is, and its claim to be free. A chunk that is not the first one does not
    /// contain the headers of a CPIM message, and is one of a free message only if the gate knows that message.
    pub fn of_frame(config: &Config, frame: &msrp::Frame<'_>, is_first: bool) -> (Content, Option<FreeClaim>) {
        let (body, octets) = (frame.body.unwrap_or_default(), frame.content_octets());
        let in_cpim = frame.media_type.is_some_and(is_cpim);
        let claim = FreeClaim { in_cpim, octets_max: config.free_content_max };
        if in_cpim && !is_first {
            return (Content { class: ContentClass::Other, is_free: false, unknown: None, file: None }, Some(claim));
        }
        let found = encapsulated(frame.media_type, body).map(|(media_type, _)| media_type);
        let content = Content::new(config, found, octets);
        (content, content.is_free.then_some(claim))
    }

    /// Returns the size of the file that an MSRP frame announces, octets; `None`: it starts no such document.
    pub fn file_of_frame(config: &Config, frame: &msrp::Frame<'_>) -> Option<Result<u64, UnknownSize>> {
        let range = frame.byte_range;
        if range.is_some_and(|range| range.start > 1) {
            return None;
        }
        let (media_type, document) = encapsulated(frame.media_type, frame.body.unwrap_or_default()).ok()?;
        let total = range.and_then(|range| range.total);
        let is_whole = frame.flag == msrp::Flag::Last && total.is_none_or(|total| total == frame.content_octets());
        file_of(config, media_type, if is_whole { Ok(document) } else { Err(UnknownSize::Chunks) })
    }

    /// Returns the octets that a document counts for beyond its own ones; counts and logs a file of unknown size. `what`: the
    /// message, for the log.
    pub fn extra_octets(region: &Region, file: Result<u64, UnknownSize>, octets: u64, what: &str) -> u64 {
        let why = match file {
            Ok(size) => return size.saturating_sub(octets),
            Err(why) => why,
        };
        let (statistic, name) = match why {
            UnknownSize::TooLarge => (Statistic::FilesOversized, "files_oversized"),
            UnknownSize::Chunks | UnknownSize::Document(_) => (Statistic::FilesUnread, "files_unread"),
        };
        region.count(statistic);
        log::warn!(
            target: ONE_A_MINUTE,
            "{what} announces a file of unknown size and is charged by its own size: {why} ({name})"
        );
        0
    }

    fn new(config: &Config, media_type: Result<&str, UnknownType>, octets: u64) -> Content {
        match media_type {
            Ok(media_type) => Content {
                class: ContentClass::from_media_type(media_type),
                is_free: config.free_content.contains(media_type) && octets <= config.free_content_max.into(),
                unknown: None,
                file: None,
            },
            Err(why) => Content { class: ContentClass::Other, is_free: false, unknown: Some(why), file: None },
        }
    }
}

fn is_cpim(media_type: &str) -> bool {
    media_type.eq_ignore_ascii_case("message/cpim")
}

/// Returns the media type of content, and the content; of `message/cpim`, those of the message in it.
fn encapsulated<'a>(media_type: Option<&'a str>, body: &'a [u8]) -> Result<(&'a str, &'a [u8]), UnknownType> {
    match media_type.ok_or(UnknownType::ContentType)? {
        outer if is_cpim(outer) => Ok(cpim::content(body)?),
        outer => Ok((outer, body)),
    }
}

/// Returns the size of the file that a document announces; `None`: it is of another type.
fn file_of(
    config: &Config,
    media_type: &str,
    document: Result<&[u8], UnknownSize>,
) -> Option<Result<u64, UnknownSize>> {
    let size = || match rcs_file::file_octets(document?)? {
        size if size > config.file_size_max.into() => Err(UnknownSize::TooLarge),
        size => Ok(size),
    };
    media_type.eq_ignore_ascii_case(FILE_OVER_HTTP).then(size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ContentClass::{File, Notification, Other, Text};

    const IMDN: &str = "From: <im:b@x>\r\n\r\nContent-type: message/imdn+xml\r\n\r\n<imdn/>";
    const TEXT: &str = "From: <im:b@x>\r\n\r\nContent-type: text/plain\r\n\r\nmessage/imdn+xml is free";

    fn new(class: ContentClass, is_free: bool, unknown: Option<UnknownType>) -> Content {
        Content { class, is_free, unknown, file: None }
    }

    const FILE: &str = "<file><file-info type=\"thumbnail\"><file-size>9</file-size></file-info>\
        <file-info type=\"file\"><file-size>5000</file-size></file-info></file>";

    #[test]
    fn document_about_a_file_has_the_size_of_the_file() {
        let config = Config { file_size_max: 5000, ..Config::default() };
        let file = |content_type: &str, body: &str| {
            Content::of_message(&config, content_type.as_bytes(), body.as_bytes(), true).file
        };
        let in_cpim = |body: &str| format!("From: <im:b@x>\r\n\r\nContent-type: {FILE_OVER_HTTP}\r\n\r\n{body}");
        assert_eq!(file(FILE_OVER_HTTP, FILE), Some(Ok(5000)));
        assert_eq!(file("Application/vnd.GSMA.rcs-ft-http+xml;charset=utf-8", FILE), Some(Ok(5000)));
        assert_eq!(file("message/cpim", &in_cpim(FILE)), Some(Ok(5000)));
        assert_eq!(file(FILE_OVER_HTTP, &FILE.replace("5000", "5001")), Some(Err(UnknownSize::TooLarge)));
        let size = |error| Some(Err(UnknownSize::Document(error)));
        assert_eq!(file(FILE_OVER_HTTP, &FILE.replace("5000", "-5")), size(rcs_file::RcsFileError::Size));
        assert_eq!(file("message/cpim", &in_cpim(&FILE[..FILE.len() - 1])), size(rcs_file::RcsFileError::Xml));
        assert_eq!(file("text/xml", FILE), None);
        assert_eq!(file("", FILE), None);
    }

    #[test]
    fn octets_after_compressed_content_count() {
        let config = Config { free_content_max: 1000, ..Config::default() };
        let compressed = miniz_oxide::deflate::compress_to_vec_zlib(IMDN.as_bytes(), 6);
        for (more, is_free) in
            [(0, true), (1000 - compressed.len(), true), (1001 - compressed.len(), false), (60_000, false)]
        {
            let body = [&compressed[..], &vec![b'x'; more]].concat();
            assert_eq!(Content::of_message(&config, b"message/cpim", &body, true).is_free, is_free, "{more}");
        }
    }

    #[test]
    fn document_about_a_file_is_read_only_if_it_is_whole() {
        let frame = |range: &str, flag: char| {
            let head = "From-Path: msrp://a.example:1/a;tcp\r\nMessage-ID: m1\r\n";
            format!(
                "MSRP x1y2 SEND\r\nTo-Path: msrp://b.example:1/b;tcp\r\n{head}Byte-Range: {range}\r\n\
                 Content-Type: {FILE_OVER_HTTP}\r\n\r\n{FILE}\r\n-------x1y2{flag}\r\n"
            )
        };
        let (config, octets) = (Config::default(), FILE.len());
        for (range, flag, file) in [
            (format!("1-{octets}/{octets}"), '$', Some(Ok(5000))),
            (format!("1-*/{octets}"), '$', Some(Ok(5000))),
            ("1-*/*".into(), '$', Some(Ok(5000))),
            (format!("1-{octets}/{octets}"), '+', Some(Err(UnknownSize::Chunks))),
            (format!("1-{octets}/9999"), '$', Some(Err(UnknownSize::Chunks))),
            (format!("2-{}/*", octets + 1), '$', None),
        ] {
            let frame = frame(&range, flag);
            let parsed = msrp::Frame::parse(frame.as_bytes()).expect("a frame");
            assert_eq!(Content::file_of_frame(&config, &parsed), file, "{range} {flag}");
        }
    }

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
            let content = Content::of_message(&config, content_type.as_bytes(), body.as_bytes(), true);
            assert_eq!(content, Content { file: content.file, ..new(class, is_free, None) }, "{content_type}: {body}");
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
            let content = Content::of_message(&config, content_type.as_bytes(), body.as_bytes(), true);
            assert_eq!(content, new(Other, false, Some(why)), "{content_type}: {body}");
        }
    }

    #[test]
    fn large_body_is_not_free_whatever_its_type() {
        let config = Config { free_content_max: 100, ..Config::default() };
        for (octets, is_free) in [(100, true), (101, false)] {
            let content = Content::of_message(&config, b"message/imdn+xml", &b"x".repeat(octets), true);
            assert_eq!((content.class, content.is_free), (Notification, is_free), "{octets} octets");
        }
    }

    #[test]
    fn compressed_cpim_message_has_the_class_of_its_content() {
        let of = |content_type: &str, body: &[u8]| {
            let body = miniz_oxide::deflate::compress_to_vec_zlib(body, 6);
            Content::of_message(&Config::default(), content_type.as_bytes(), &body, true)
        };
        let known = |class, is_free| new(class, is_free, None);
        assert_eq!(of("message/cpim", IMDN.as_bytes()), known(Notification, true));
        assert_eq!(of("message/cpim", TEXT.as_bytes()), known(Text, false));
        assert_eq!(of("message/imdn+xml", b"<imdn/>"), known(Notification, true));
        let large = format!("{IMDN}{}", "x".repeat(16_384));
        assert_eq!(of("message/cpim", large.as_bytes()), known(Notification, false), "its inflated length counts");
        let why = of("message/cpim", b"not CPIM").unknown;
        assert_eq!(why, Some(UnknownType::Cpim(cpim::CpimError::Incomplete)));
    }

    #[test]
    fn configured_types_replace_the_default_ones() {
        let free = |types: &str, content_type: &str, body: &str| {
            let config = Config { free_content: types.parse().expect("a list"), ..Config::default() };
            Content::of_message(&config, content_type.as_bytes(), body.as_bytes(), true).is_free
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
        let known = |class, is_free| new(class, is_free, None);
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
