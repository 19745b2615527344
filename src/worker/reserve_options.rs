//! The last parameter of `imcharge_reserve`: which content is charged, and for how many recipients.

use crate::charge::service::ChargedContent;
use std::str::FromStr;

/// Maximum number of recipients of a message.
const RECIPIENTS_MAX: u32 = 10_000;

/// What the script says about the content of an INVITE: `sent`, `both;recipients=12`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReserveOptions {
    /// Which content is charged.
    pub content: ChargedContent,
    /// Number of recipients of each message; 0: unknown, counts as one.
    pub recipients: u32,
}

/// The text names no charged content or is no number of recipients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("accepted is received, sent or both, and recipients=N with N from 1 to {RECIPIENTS_MAX}, separated by ';'")]
pub struct InvalidOptions;

impl FromStr for ReserveOptions {
    type Err = InvalidOptions;

    fn from_str(text: &str) -> Result<ReserveOptions, InvalidOptions> {
        let mut options = ReserveOptions::default();
        for item in text.split(';').map(str::trim).filter(|item| !item.is_empty()) {
            match item.split_once('=') {
                Some(("recipients", number)) => {
                    let number = number.parse().ok().filter(|number| (1..=RECIPIENTS_MAX).contains(number));
                    options.recipients = number.ok_or(InvalidOptions)?;
                }
                Some(_) => return Err(InvalidOptions),
                None => options.content = item.parse().map_err(|_| InvalidOptions)?,
            }
        }
        Ok(options)
    }
}

impl ReserveOptions {
    /// Reads the value of the script's parameter; logs an invalid one.
    pub fn of_script(text: &[u8]) -> Option<ReserveOptions> {
        let options = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        if options.is_none() {
            let shown = text.get(..40).unwrap_or(text).escape_ascii();
            log::error!("imcharge_reserve: the charged content is '{shown}'; {InvalidOptions}");
        }
        options
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_in_any_order() {
        let options = |content, recipients| Ok(ReserveOptions { content, recipients });
        for (text, wanted) in [
            ("", options(ChargedContent::Received, 0)),
            ("received", options(ChargedContent::Received, 0)),
            (" sent ", options(ChargedContent::Sent, 0)),
            ("both; recipients=12", options(ChargedContent::Both, 12)),
            ("recipients=10000;sent", options(ChargedContent::Sent, 10_000)),
        ] {
            assert_eq!(text.parse(), wanted, "{text}");
        }
    }

    #[test]
    fn invalid_options_are_refused() {
        for text in
            ["send", "sent;recipients=0", "sent;recipients=10001", "sent;recipients=", "sent;people=3", "sent,both"]
        {
            assert_eq!(text.parse::<ReserveOptions>(), Err(InvalidOptions), "{text}");
        }
        assert_eq!(ReserveOptions::of_script(b"\xff"), None);
    }
}
