//! The last parameter of `imcharge_reserve`: which content is charged, by which tariff, and for how many recipients.

use crate::charge::service::ChargedContent;

/// Maximum number of recipients of a message.
const RECIPIENTS_MAX: u32 = 10_000;

/// What the script says about the content of an INVITE or MESSAGE: `sent`, `both;recipients=12`, `tariff=night`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReserveOptions<'a> {
    /// Which content is charged.
    pub content: ChargedContent,
    /// Number of recipients of each message; 0: unknown, counts as one.
    pub recipients: u32,
    /// Name of the tariff; empty: none is chosen.
    pub tariff: &'a str,
}

/// The text names no charged content, is no number of recipients and chooses no tariff.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "accepted is received, sent or both, recipients=N with N from 1 to {RECIPIENTS_MAX}, and tariff=NAME, separated by ';'"
)]
pub struct InvalidOptions;

impl<'a> ReserveOptions<'a> {
    /// Reads the text of the parameter. Whether the tariff is configured is not checked.
    pub fn parse(text: &'a str) -> Result<ReserveOptions<'a>, InvalidOptions> {
        let mut options = ReserveOptions::default();
        for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
            match item.split_once('=') {
                Some(("recipients", number)) => {
                    let number = number.parse().ok().filter(|number| (1..=RECIPIENTS_MAX).contains(number));
                    options.recipients = number.ok_or(InvalidOptions)?;
                }
                Some(("tariff", name)) if !name.is_empty() => options.tariff = name,
                Some(_) => return Err(InvalidOptions),
                None => options.content = item.parse().map_err(|_| InvalidOptions)?,
            }
        }
        Ok(options)
    }

    /// Reads the value of the script's parameter; logs an invalid one.
    pub fn of_script(text: &'a [u8]) -> Option<ReserveOptions<'a>> {
        let options = std::str::from_utf8(text).ok().and_then(|text| ReserveOptions::parse(text).ok());
        if options.is_none() {
            let shown = text.get(..40).unwrap_or(text).escape_ascii();
            log::error!("imcharge_reserve: the third parameter is '{shown}'; {InvalidOptions}");
        }
        options
    }
}

/// Reads the second parameter of `imcharge_reserve`, 0 if the script does not know the number; logs an invalid one, which may
/// come from a computation of the script.
pub fn number_of_messages(number: i32) -> Option<u32> {
    if number < 0 {
        log::error!("imcharge_reserve: the number of messages is {number}; accepted is 0 (not known) and more");
    }
    u32::try_from(number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negative_number_of_messages_is_refused() {
        for (number, read) in [(0, Some(0)), (i32::MAX, Some(i32::MAX as u32)), (-1, None), (i32::MIN, None)] {
            assert_eq!(number_of_messages(number), read);
        }
    }

    #[test]
    fn options_are_read_in_any_order() {
        let options = |content, recipients| Ok(ReserveOptions { content, recipients, tariff: "" });
        for (text, wanted) in [
            ("", options(ChargedContent::Received, 0)),
            ("received", options(ChargedContent::Received, 0)),
            (" sent ", options(ChargedContent::Sent, 0)),
            ("both; recipients=12", options(ChargedContent::Both, 12)),
            ("recipients=10000;sent", options(ChargedContent::Sent, 10_000)),
            ("tariff=night", Ok(ReserveOptions { tariff: "night", ..ReserveOptions::default() })),
            (
                "tariff=a.b; recipients=2;sent",
                Ok(ReserveOptions { content: ChargedContent::Sent, recipients: 2, tariff: "a.b" }),
            ),
        ] {
            assert_eq!(ReserveOptions::parse(text), wanted, "{text}");
        }
    }

    #[test]
    fn invalid_options_are_refused() {
        for text in [
            "send",
            "sent;recipients=0",
            "sent;recipients=10001",
            "sent;recipients=",
            "sent;people=3",
            "sent,both",
            "tariff=",
        ] {
            assert_eq!(ReserveOptions::parse(text), Err(InvalidOptions), "{text}");
        }
        assert_eq!(ReserveOptions::of_script(b"\xff"), None);
    }
}
