//! Trace events as JSON lists (RFC 8259), many in one column. The first events of a session are in its own row, which is
//! written anyway, so that most sessions need no further row; later ones are in `trace_parts`. The view `steps` shows them
//! one per row with named columns.

use super::tables::signed;
use crate::charge::session::TraceEvent;
use std::fmt::Write;
use thin_vec::ThinVec;

/// Events that are kept in the row of their session.
const IN_SESSION_ROW_MAX: u32 = 64;

/// Average octets of an event as JSON, for the capacity of the buffer.
const EVENT_OCTETS: usize = 48;

/// Consecutive trace events of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TracePart {
    /// Number of the first event.
    pub first: u32,
    /// What the times of the events count from, UNIX microseconds; `None`: the INVITE.
    pub zero: Option<i64>,
    /// The events.
    pub events: ThinVec<TraceEvent>,
}

impl TracePart {
    /// Whether it is kept in the row of its session.
    pub fn is_in_session_row(&self) -> bool {
        self.zero.is_none() && self.next() <= IN_SESSION_ROW_MAX
    }

    /// Returns the number of the event after the last one.
    pub fn next(&self) -> u32 {
        self.first.saturating_add(u32::try_from(self.events.len()).unwrap_or(u32::MAX))
    }

    /// Appends the events as JSON, each followed by a comma.
    pub fn write(&self, out: &mut String) {
        out.reserve(EVENT_OCTETS * self.events.len());
        for (number, event) in (u64::from(self.first)..).zip(&self.events) {
            write_event(out, number, event);
            out.push(',');
        }
    }
}

/// Writes the fields in the order of the view, without empty fields at the end.
fn write_event(out: &mut String, number: u64, event: &TraceEvent) {
    let nonzero = |number: u64| (number != 0).then_some(signed(number));
    let rule = event.rule;
    let optional = [
        Field::Number(event.request.map(i64::from)),
        Field::Text(rule.map(|rule| rule.as_str())),
        Field::Text(event.message_id.as_deref()),
        Field::Number(nonzero(event.octets)),
        Field::Number(event.quota.map(|quota| quota.0.into())),
        Field::Number(event.units.map(|units| signed(units.0))),
        Field::Number(nonzero(event.code.into())),
        Field::Number(event.balance),
        Field::Number(nonzero(event.messages.into())),
        Field::Text(rule.and_then(|rule| rule.cause())),
        Field::Number(rule.and_then(|rule| rule.seconds()).map(i64::from)),
    ];
    let count = optional.iter().rposition(Field::is_present).map_or(0, |last| last + 1);
    out.push('[');
    write_number(out, signed(number));
    out.push(',');
    write_number(out, signed(event.micros));
    out.push(',');
    write_text(out, event.kind.as_str());
    for field in optional.iter().take(count) {
        out.push(',');
        match field {
            Field::Number(Some(number)) => write_number(out, *number),
            Field::Text(Some(text)) => write_text(out, text),
            Field::Number(None) | Field::Text(None) => out.push_str("null"),
        }
    }
    out.push(']');
}

enum Field<'a> {
    Number(Option<i64>),
    Text(Option<&'a str>),
}

impl Field<'_> {
    fn is_present(&self) -> bool {
        !matches!(self, Field::Number(None) | Field::Text(None))
    }
}

/// Writes a decimal number without the standard library's formatter, for speed: a session has dozens of them.
fn write_number(out: &mut String, number: i64) {
    let (mut digits, mut at, mut left) = ([0_u8; 20], 20, number.unsigned_abs());
    while left > 0 || at == 20 {
        at -= 1;
        digits[at] = b'0' + (left % 10) as u8;
        left /= 10;
    }
    if number < 0 {
        out.push('-');
    }
    out.extend(digits[at..].iter().map(|digit| char::from(*digit)));
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.push_str(text);
        return out.push('"');
    }
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
}
