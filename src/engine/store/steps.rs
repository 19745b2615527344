//! The steps of sessions as the tables keep them: JSON lists (RFC 8259), many in one column. The first of a session stand
//! in its own row, which is written anyway, so that most sessions cost no row more; those beyond stand in `trace_parts`. The
//! view `steps` shows them one by one and by name.

use crate::charge::session::TraceEvent;
use std::fmt::Write;
use thin_vec::ThinVec;

/// Steps that stand in the row of their session.
const IN_ROW: u32 = 64;

/// Steps of a session, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Number of the first one.
    pub first: u32,
    /// What the times of the steps count from, UNIX microseconds; `None`: the INVITE.
    pub zero: Option<i64>,
    /// The steps.
    pub steps: ThinVec<TraceEvent>,
}

impl Part {
    /// Whether it stands in the row of its session.
    pub fn is_in_row(&self) -> bool {
        self.zero.is_none() && self.next() <= IN_ROW
    }

    /// Number of the step behind it.
    pub fn next(&self) -> u32 {
        self.first.saturating_add(u32::try_from(self.steps.len()).unwrap_or(u32::MAX))
    }

    /// Its steps, each with a comma behind it.
    pub fn write(&self, out: &mut String) {
        out.reserve(48 * self.steps.len());
        for (number, step) in (u64::from(self.first)..).zip(&self.steps) {
            write_step(out, number, step);
            out.push(',');
        }
    }
}

/// Its fields in the order of the view; the last ones are left out where they say nothing.
fn write_step(out: &mut String, number: u64, step: &TraceEvent) {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let some = |number: u64| (number != 0).then_some(signed(number));
    let rule = step.rule;
    let rest = [
        Field::Number(step.request.map(i64::from)),
        Field::Text(rule.map(|rule| rule.as_str())),
        Field::Text(step.message_id.as_deref()),
        Field::Number(some(step.octets)),
        Field::Number(step.quota.map(|quota| quota.0.into())),
        Field::Number(step.units.map(|units| signed(units.0))),
        Field::Number(some(step.code.into())),
        Field::Number(step.balance),
        Field::Number(some(step.messages.into())),
        Field::Text(rule.and_then(|rule| rule.cause())),
        Field::Number(rule.and_then(|rule| rule.seconds()).map(i64::from)),
    ];
    let says = rest.iter().rposition(Field::says).map_or(0, |last| last + 1);
    out.push('[');
    write_number(out, signed(number));
    out.push(',');
    write_number(out, signed(step.micros));
    out.push(',');
    write_text(out, step.what.as_str());
    for field in rest.iter().take(says) {
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
    fn says(&self) -> bool {
        !matches!(self, Field::Number(None) | Field::Text(None))
    }
}

/// Digits without the formatter of the standard library: there are dozens of them in a session.
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
