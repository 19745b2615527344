//! ErrorResponse and NoticeResponse.

use super::text::printable;
use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorFields;
use std::fmt;

/// Part of the texts that say that a transaction is not safe although it is committed.
const NOT_REPLICATED: &[u8] = b"might not have been replicated";

/// Source file and function of the server that wait for the standby. Unlike the texts, they are not translated.
const SYNC_FILE: &[u8] = b"syncrep.c";
const SYNC_ROUTINE: &[u8] = b"SyncRepWaitForLSN";

/// An SQLSTATE: five digits or capital letters.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// Returns the state of this text; anything else than five digits and capital letters becomes `XX000`, an internal
    /// error.
    pub fn new(text: &[u8]) -> SqlState {
        let is_valid = |octets: &[u8; 5]| octets.iter().all(|o| o.is_ascii_digit() || o.is_ascii_uppercase());
        SqlState(<[u8; 5]>::try_from(text).ok().filter(is_valid).unwrap_or(*b"XX000"))
    }

    /// Returns its text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }

    /// Returns its class: the first two characters.
    pub fn class(&self) -> &str {
        self.as_str().get(..2).unwrap_or_default()
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

/// An error that the server has reported. Its text fits into a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// What happened.
    pub sqlstate: SqlState,
    /// The server's words, in its language: shortened, on one line.
    pub message: String,
    /// Whether the server ends the session.
    pub is_fatal: bool,
}

impl fmt::Display for ServerError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} (SQLSTATE {})", self.message, self.sqlstate)
    }
}

/// The fields of an ErrorResponse or a NoticeResponse that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The error.
    pub error: ServerError,
    /// Whether it says that the transaction might not have been replicated.
    pub is_not_replicated: bool,
}

impl Report {
    /// Reads the fields. The error follows "malformed message: " in the log.
    pub fn read(mut fields: ErrorFields<'_>) -> Result<Report, String> {
        let (mut sqlstate, mut message, mut severity, mut translated) = (SqlState::new(b""), String::new(), None, None);
        let mut is_not_replicated = false;
        while let Some(field) = fields.next().map_err(|error| error.to_string())? {
            let value = field.value_bytes();
            match field.type_() {
                b'C' => sqlstate = SqlState::new(value),
                b'M' => message = printable(value),
                b'V' => severity = Some(is_final(value)),
                b'S' => translated = Some(is_final(value)),
                _ => {}
            }
            is_not_replicated |= match field.type_() {
                b'F' => value == SYNC_FILE,
                b'R' => value == SYNC_ROUTINE,
                b'M' | b'D' => value.windows(NOT_REPLICATED.len()).any(|part| part == NOT_REPLICATED),
                _ => false,
            };
        }
        let is_fatal = severity.or(translated).unwrap_or(false);
        Ok(Report { error: ServerError { sqlstate, message, is_fatal }, is_not_replicated })
    }
}

fn is_final(severity: &[u8]) -> bool {
    matches!(severity, b"FATAL" | b"PANIC")
}
