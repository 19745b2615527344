//! Content classes: what a message is, according to its media type.

use serde::{Deserialize, Serialize};
use std::str::FromStr;

/// What a message is. The sender states it in Content-Type; it is not checked against the content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[repr(u8)]
pub enum ContentClass {
    /// Text of any kind: `text/*`.
    Text = 0,
    /// A file, or a document that says where to fetch one: image, audio, video, `application/vnd.gsma.rcs-ft-http+xml`,
    /// and application types that are neither XML nor JSON documents.
    File = 1,
    /// A delivery notification (RFC 5438) or a composing indication (RFC 3994).
    Notification = 2,
    /// Everything else, for example a position, a multipart body, or content of an unknown type.
    Other = 3,
}

impl ContentClass {
    /// All classes, in the order of their numbers.
    pub const ALL: [ContentClass; 4] =
        [ContentClass::Text, ContentClass::File, ContentClass::Notification, ContentClass::Other];

    /// Returns the class of a media type, `type/subtype` without parameters, in any case.
    pub fn from_media_type(media_type: &str) -> ContentClass {
        const NOTIFICATIONS: [&str; 2] = ["message/imdn+xml", "application/im-iscomposing+xml"];
        const FILE_OVER_HTTP: &str = "application/vnd.gsma.rcs-ft-http+xml";
        let is = |wanted: &str| media_type.eq_ignore_ascii_case(wanted);
        if NOTIFICATIONS.into_iter().any(is) {
            return ContentClass::Notification;
        }
        if is(FILE_OVER_HTTP) {
            return ContentClass::File;
        }
        let Some((top, subtype)) = media_type.split_once('/') else { return ContentClass::Other };
        let starts = |wanted: &[&str]| wanted.iter().any(|wanted| top.eq_ignore_ascii_case(wanted));
        let is_document = ["+xml", "+json"].iter().any(|suffix| {
            let end = subtype.len().checked_sub(suffix.len()).and_then(|at| subtype.get(at..));
            end.is_some_and(|end| end.eq_ignore_ascii_case(suffix))
        });
        match () {
            () if starts(&["text"]) => ContentClass::Text,
            () if starts(&["image", "audio", "video", "font", "model"]) => ContentClass::File,
            () if starts(&["application"]) && !is_document => ContentClass::File,
            () => ContentClass::Other,
        }
    }

    /// Returns the name of the class in parameters and records.
    pub fn as_str(self) -> &'static str {
        match self {
            ContentClass::Text => "text",
            ContentClass::File => "file",
            ContentClass::Notification => "notification",
            ContentClass::Other => "other",
        }
    }
}

/// The text is not a content class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted values are text, file, notification and other")]
pub struct UnknownContentClass;

impl FromStr for ContentClass {
    type Err = UnknownContentClass;

    fn from_str(text: &str) -> Result<ContentClass, UnknownContentClass> {
        ContentClass::ALL.into_iter().find(|class| class.as_str() == text).ok_or(UnknownContentClass)
    }
}

#[cfg(test)]
mod tests {
    use super::ContentClass::{File, Notification, Other, Text};
    use super::*;

    #[test]
    fn media_types_have_their_class() {
        let table = [
            ("text/plain", Text),
            ("TEXT/Html", Text),
            ("text/xml", Text),
            ("message/imdn+xml", Notification),
            ("Message/IMDN+XML", Notification),
            ("application/im-iscomposing+xml", Notification),
            ("application/vnd.gsma.rcs-ft-http+xml", File),
            ("application/octet-stream", File),
            ("application/pdf", File),
            ("image/jpeg", File),
            ("audio/amr", File),
            ("Video/mp4", File),
            ("application/vnd.gsma.rcspushlocation+xml", Other),
            ("application/vnd.gsma.botmessage.v1.0+json", Other),
            ("message/cpim", Other),
            ("message/sipfrag", Other),
            ("multipart/mixed", Other),
            ("application/vnd.x+XML", Other),
            ("text", Other),
            ("", Other),
            ("application/\u{e9}ml", File),
        ];
        for (media_type, class) in table {
            assert_eq!(ContentClass::from_media_type(media_type), class, "{media_type}");
        }
    }

    #[test]
    fn class_is_read_from_its_name() {
        for (number, class) in ContentClass::ALL.into_iter().enumerate() {
            assert_eq!((class.as_str().parse(), class as usize), (Ok(class), number));
        }
        assert_eq!("Text".parse::<ContentClass>(), Err(UnknownContentClass));
    }
}
