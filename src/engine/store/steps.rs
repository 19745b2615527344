//! The steps of sessions as the table `ladders` keeps them: many in one row, as a JSON list of lists, so that a session
//! costs a row or two. The view `steps` shows them one by one and by name.

use crate::charge::session::Step;
use std::fmt::Write;

/// Steps of a session, one behind the other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Number of the first one.
    pub first: u32,
    /// When its session was opened, as the clock shows it now: UNIX microseconds, to which the steps' own are added.
    pub zero: i64,
    /// The steps.
    pub steps: Vec<Step>,
}

/// Writes steps as JSON (RFC 8259): for each its fields in the order of the view, the last ones left out where they say
/// nothing.
pub fn json(steps: &[Step]) -> String {
    let mut out = String::with_capacity(64 * steps.len() + 2);
    let mut separator = '[';
    for step in steps {
        out.push(separator);
        write_step(&mut out, step);
        separator = ',';
    }
    out.push(']');
    out
}

fn write_step(out: &mut String, step: &Step) {
    let number = |number: u64| (number != 0).then_some(i128::from(number));
    let rule = step.rule;
    // The order of the view.
    let rest = [
        Field::Number(step.request.map(i128::from)),
        Field::Text(rule.map(|rule| rule.word())),
        Field::Text(step.message_id.as_deref()),
        Field::Number(number(step.octets)),
        Field::Number(step.quota.map(|quota| quota.0.into())),
        Field::Number(step.units.map(|units| units.0.into())),
        Field::Number(number(step.code.into())),
        Field::Number(step.balance.map(i128::from)),
        Field::Number(number(step.messages.into())),
        Field::Text(rule.and_then(|rule| rule.cause())),
        Field::Number(rule.and_then(|rule| rule.seconds()).map(i128::from)),
    ];
    let says = rest.iter().rposition(Field::says).map_or(0, |last| last + 1);
    // Writing to a String cannot fail.
    let _ = write!(out, "[{},\"{}\"", step.micros, step.what.word());
    for field in rest.iter().take(says) {
        out.push(',');
        match field {
            Field::Number(Some(number)) => {
                let _ = write!(out, "{number}");
            }
            Field::Text(Some(text)) => write_text(out, text),
            Field::Number(None) | Field::Text(None) => out.push_str("null"),
        }
    }
    out.push(']');
}

enum Field<'a> {
    Number(Option<i128>),
    Text(Option<&'a str>),
}

impl Field<'_> {
    fn says(&self) -> bool {
        !matches!(self, Field::Number(None) | Field::Text(None))
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
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
