//! The parameter `free_content`: media types of content that is not charged.

use crate::wire::media_type;
use std::str::FromStr;

/// Maximum number of media types.
const TYPES_MAX: usize = 32;

/// Media types of content that is not charged, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FreeContent(Vec<Box<str>>);

impl FreeContent {
    /// Whether content of this type, `type/subtype` in any case, is free.
    pub fn contains(&self, media_type: &str) -> bool {
        self.0.iter().any(|free| free.eq_ignore_ascii_case(media_type))
    }
}

/// Delivery notifications (RFC 5438) and composing indications (RFC 3994).
impl Default for FreeContent {
    fn default() -> FreeContent {
        FreeContent(["message/imdn+xml", "application/im-iscomposing+xml"].map(Box::from).to_vec())
    }
}

/// The text is not a list of media types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidFreeContent;

/// A list with commas, of up to `TYPES_MAX` media types without parameters. An empty text is an empty list. A container,
/// `message/cpim` or `multipart/*`, is no type of content.
impl FromStr for FreeContent {
    type Err = InvalidFreeContent;

    fn from_str(text: &str) -> Result<FreeContent, InvalidFreeContent> {
        if text.trim().is_empty() {
            return Ok(FreeContent(Vec::new()));
        }
        let types: Vec<Box<str>> = text.split(',').map(|one| one.trim().to_ascii_lowercase().into()).collect();
        let is_content = |one: &str| {
            media_type::is_media_type(one)
                && one != "message/cpim"
                && !one.starts_with("multipart/")
                && !one.contains('*')
        };
        let is_valid = types.len() <= TYPES_MAX && types.iter().all(|one| is_content(one));
        is_valid.then_some(FreeContent(types)).ok_or(InvalidFreeContent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn list_contains_its_types_in_any_case() {
        let free: FreeContent = " Message/IMDN+xml ,application/x".parse().expect("a list");
        for (media_type, is_free) in
            [("message/imdn+XML", true), ("application/x", true), ("application/xml", false), ("text/plain", false)]
        {
            assert_eq!(free.contains(media_type), is_free, "{media_type}");
        }
        assert_eq!("message/imdn+xml, application/im-iscomposing+xml".parse(), Ok(FreeContent::default()));
        assert!(!"".parse::<FreeContent>().expect("an empty list").contains("message/imdn+xml"));
    }

    #[test]
    fn texts_that_are_no_list_of_types_are_refused() {
        let long = ["a/b"; TYPES_MAX + 1].join(",");
        for text in ["text", "a/b,", ",", "a/b c/d", "a/b;q=1", "text/*", "message/cpim", "multipart/mixed", &long] {
            assert_eq!(text.parse::<FreeContent>(), Err(InvalidFreeContent), "{text}");
        }
    }
}
