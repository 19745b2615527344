//! A charging record and its two formats. The names of the fields follow the AS record of TS 32.298; `operations.md` has
//! the table.

use crate::config::RecordFormat;
use serde::Serialize;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

/// 9999-12-31T23:59:59.999Z in UNIX milliseconds, the latest time of RFC 3339.
const LATEST_MS: i64 = 253_402_300_799_999;

/// One charging record. The order of the fields is that of the columns.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ChargingRecord {
    /// Number of the record in this ledger, counted from 1 without gaps.
    pub record: i64,
    /// `debit`, `release`, `refund` or `session`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Name of the proxy.
    pub node: String,
    /// When the message was debited, released or refunded, or the session closed.
    pub at: String,
    /// When the session was requested.
    pub requested_at: Option<String>,
    /// SIP method of the request: `INVITE` or `MESSAGE`.
    pub method: Option<String>,
    /// Call-ID.
    pub call_id: Option<String>,
    /// icid-value of P-Charging-Vector.
    pub icid: Option<String>,
    /// The charged party.
    pub account: Option<String>,
    /// The party that has sent the request.
    pub calling_party: Option<String>,
    /// The party that it was sent to.
    pub called_party: Option<String>,
    /// Service that the account is charged for: [`Service::as_str`](crate::charge::service::Service::as_str).
    pub service: Option<String>,
    /// Whether the account pays for content that it has `received` or `sent`.
    pub direction: Option<String>,
    /// Content class: [`ContentClass::as_str`](crate::charge::content::ContentClass::as_str).
    pub class: Option<String>,
    /// Number of recipients of each message, if it is known.
    pub recipients: Option<i64>,
    /// Tariff of the session.
    pub tariff: Option<String>,
    /// Message-ID.
    pub message_id: Option<String>,
    /// Number among the debits of the message.
    pub part: Option<i64>,
    /// Debited messages of a session.
    pub messages: Option<i64>,
    /// Octets of content.
    pub octets: i64,
    /// Units: debited, refunded, or, of a released message, its price.
    pub units: i64,
    /// What triggered a debit.
    pub trigger: Option<String>,
    /// The rule that decided about a message.
    pub rule: Option<String>,
    /// Why the session ended.
    pub cause: Option<String>,
    /// MSRP, SIP or Result-Code that belongs to the trigger, rule or cause.
    pub code: Option<i64>,
    /// Session-Id at the OCS.
    pub ocs_session_id: Option<String>,
}

impl ChargingRecord {
    /// Appends the record as a line. `is_first`: of its file.
    pub fn write(&self, out: &mut Vec<u8>, format: RecordFormat, is_first: bool) -> io::Result<()> {
        match format {
            RecordFormat::Json => {
                serde_json::to_writer(&mut *out, self)?;
                out.push(b'\n');
                Ok(())
            }
            RecordFormat::Csv => {
                let mut lines = csv::WriterBuilder::new().has_headers(is_first).from_writer(out);
                lines.serialize(self).map_err(io::Error::other)?;
                lines.flush()
            }
        }
    }
}

/// Formats UNIX milliseconds by RFC 3339, in UTC. Times that the format cannot express become the nearest ones.
pub fn rfc3339(wall_ms: i64) -> String {
    let wall_ms = wall_ms.clamp(0, LATEST_MS).unsigned_abs();
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(wall_ms)).to_string()
}
