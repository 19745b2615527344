//! `ladder`: the sessions of a call as message ladders, one line of text for each step of the trace.

use super::ledger::{Below, Reader};
use crate::admin::commands::{Call, CommandError, Value};
use crate::charge::session::TraceEventKind;
use rusqlite::{Row, params};

/// Characters between two columns.
const WIDTH: usize = 30;

/// Characters of the time and the space that follows it.
const TIME_WIDTH: usize = 12;

/// Columns of the ladder of a call.
const COLUMNS: [&str; 4] = ["subscriber", "proxy", "other party", "enabler"];
const SUBSCRIBER: usize = 0;
const PROXY: usize = 1;
const OTHER: usize = 2;
const ENABLER: usize = 3;

/// Returns the first line of a ladder: the names of its columns.
pub fn header(columns: &[&str]) -> String {
    let mut line = format!("{:>width$}  ", "ms", width = TIME_WIDTH - 2);
    for name in columns {
        line += &format!("{name:<WIDTH$}");
    }
    line.truncate(line.trim_end().len());
    line
}

/// Returns a line of a ladder with this number of columns: an arrow from one column to another, or a note beside a column
/// if both are the same. `micros`: time since the first line. A text that does not fit is shortened.
pub fn line(columns: usize, micros: u64, from: usize, to: usize, text: &str) -> String {
    // Room for a note beside the last column.
    let mut drawn = vec![' '; WIDTH * columns];
    for bar in drawn.iter_mut().step_by(WIDTH) {
        *bar = '│';
    }
    let (left, right) = (from.min(to) * WIDTH, from.max(to) * WIDTH);
    if left == right {
        write(&mut drawn, left + 2, usize::MAX, &format!("* {text}"));
    } else {
        drawn[left + 1..right].fill('─');
        drawn[if from < to { right - 1 } else { left + 1 }] = if from < to { '▶' } else { '◀' };
        // Beside the sender, so that the text does not cross the line of another column.
        let start = if from < to { left + 3 } else { right - WIDTH + 4 };
        write(&mut drawn, start, right - 2 - start, &format!(" {text} "));
    }
    let drawn: String = drawn.into_iter().collect();
    format!("{:>width$.3}  {}", micros as f64 / 1000.0, drawn.trim_end(), width = TIME_WIDTH - 2)
}

/// Writes a text over a line from a place on, at most `most` characters of it.
fn write(line: &mut [char], start: usize, most: usize, text: &str) {
    let fits = most.min(line.len().saturating_sub(start));
    let is_short = text.chars().count() <= fits;
    let kept = text.chars().take(if is_short { fits } else { fits.saturating_sub(1) });
    let mark = (!is_short).then_some('…');
    for (place, character) in line.iter_mut().skip(start).zip(kept.chain(mark)) {
        *place = character;
    }
}

const SESSION: &str = "\
    SELECT id, key AS session, call_id, account, other, direction, service, opened_at, phase, ?3 AS columns \
    FROM sessions s WHERE call_id=?1 AND id>=?2 ORDER BY id";

const SESSION_FIELDS: &[&str] =
    &["session", "callid", "account", "other", "direction", "service", "opened_at", "phase", "columns"];

const STEP: &str = "\
    SELECT place, micros, step, rule, message_id, code, octets, units, direction='push', service='sending' FROM \
    (SELECT row_number() OVER (ORDER BY at, micros, number) - 1 AS place, * FROM steps WHERE session=?1), \
    (SELECT direction, service FROM sessions WHERE id=?1) \
    WHERE place>=?2 ORDER BY place";

/// A step of the trace.
struct Step {
    micros: u64,
    kind: TraceEventKind,
    rule: String,
    message_id: String,
    code: u32,
    octets: u64,
    units: u64,
    /// Column of the side that sent the INVITE or MESSAGE.
    inviting: usize,
    /// Column of the side that sends the charged content.
    sender: usize,
}

/// The column of the other side.
fn opposite(side: usize) -> usize {
    SUBSCRIBER + OTHER - side
}

impl Step {
    /// Reads a row of [`STEP`]; `None` for a step that this version does not know.
    fn from_row(row: &Row<'_>) -> rusqlite::Result<Option<Step>> {
        let name: String = row.get(2)?;
        let Some(kind) = TraceEventKind::ALL.iter().copied().find(|kind| kind.as_str() == name) else {
            return Ok(None);
        };
        let text = |at| row.get::<_, Option<String>>(at).map(Option::unwrap_or_default);
        let number = |at| row.get::<_, Option<u64>>(at).map(Option::unwrap_or_default);
        let (is_push, is_sending): (bool, bool) = (row.get(8)?, row.get(9)?);
        let sender = if is_sending { SUBSCRIBER } else { OTHER };
        Ok(Some(Step {
            micros: number(1)?,
            kind,
            rule: text(3)?,
            message_id: text(4)?,
            code: row.get::<_, Option<u32>>(5)?.unwrap_or_default(),
            octets: number(6)?,
            units: number(7)?,
            inviting: if is_push { sender } else { opposite(sender) },
            sender,
        }))
    }

    /// Returns where the arrow of the step starts and ends, and its text; a note beside a column if both are the same.
    fn arrow(&self) -> (usize, usize, String) {
        use TraceEventKind as Kind;
        let Step { rule, message_id: id, code, octets, units, .. } = self;
        let (inviting, invited) = (self.inviting, opposite(self.inviting));
        let (sender, receiver) = (self.sender, opposite(self.sender));
        match self.kind {
            Kind::Invite => (inviting, PROXY, "INVITE".into()),
            Kind::Message => (inviting, PROXY, format!("MESSAGE ({octets} octets)")),
            Kind::Verdict if rule == "granted" => (PROXY, invited, "relayed".into()),
            Kind::Verdict => (PROXY, inviting, format!("refused: {rule}")),
            Kind::Answered => (invited, inviting, "2xx".into()),
            Kind::Delivered => (invited, inviting, code.to_string()),
            Kind::NotDelivered => (invited, inviting, format!("{code}, not delivered")),
            Kind::InviteFailed => (invited, inviting, format!("INVITE failed: {code}")),
            Kind::Cancelled => (inviting, PROXY, "CANCEL".into()),
            Kind::Bye => (PROXY, PROXY, "BYE".into()),
            Kind::Send => (sender, receiver, format!("SEND {id} ({octets} octets)")),
            Kind::Abort => (sender, receiver, format!("SEND {id} aborted (#)")),
            Kind::Stopped => (sender, PROXY, format!("stopped: {rule} {id}")),
            Kind::Response => (receiver, sender, format!("{code} {id}")),
            Kind::Report => (receiver, sender, format!("REPORT {code} {id}")),
            Kind::Reserve => (PROXY, ENABLER, format!("reserve {units}")),
            Kind::Granted if rule.is_empty() => (ENABLER, PROXY, format!("granted {units}")),
            Kind::Granted => (PROXY, PROXY, format!("granted {units}: {rule}")),
            Kind::LateGrant => (ENABLER, PROXY, "granted, too late".into()),
            Kind::Denied => (ENABLER, PROXY, format!("denied: {rule}")),
            Kind::NoReservation => (ENABLER, PROXY, "no such reservation".into()),
            Kind::Free => (ENABLER, PROXY, "free of charge".into()),
            Kind::Reauthorize => (ENABLER, PROXY, "renewal requested".into()),
            Kind::EnablerEnds => (ENABLER, PROXY, "end of the session".into()),
            Kind::Debit => (PROXY, ENABLER, format!("debit {units} {id}")),
            Kind::Debited => (ENABLER, PROXY, format!("debited {units}")),
            Kind::Refund => (PROXY, ENABLER, format!("refund {units} {id}")),
            Kind::Refunded => (ENABLER, PROXY, format!("refunded {units}")),
            Kind::RefundDenied => (ENABLER, PROXY, format!("refund denied: {rule}")),
            Kind::Release => (PROXY, ENABLER, "release the rest".into()),
            Kind::Released => (ENABLER, PROXY, "released".into()),
            Kind::NotDebited => (PROXY, PROXY, format!("not charged: {rule} {id}")),
            Kind::Timeout => (PROXY, PROXY, format!("no response in time: {id}")),
            Kind::Unanswered => (PROXY, PROXY, "no final response".into()),
            Kind::Unsent
            | Kind::StopRest
            | Kind::EnablerFailed
            | Kind::HeldBack
            | Kind::Renew
            | Kind::End
            | Kind::HostStopped
            | Kind::TakenOver
            | Kind::Adopted
            | Kind::Idle
            | Kind::ConnectionLost
            | Kind::Resolved
            | Kind::Closed => (PROXY, PROXY, [self.kind.as_str(), rule, id].join(" ").trim_end().to_owned()),
        }
    }

    fn line(&self) -> String {
        let (from, to, text) = self.arrow();
        line(COLUMNS.len(), self.micros, from, to, &text)
    }
}

impl Reader {
    /// Lists the sessions of a call with their ladder, starting at a step of a session.
    pub(crate) fn ladder(&self, call: &Call<'_>, from: Option<(i64, i64)>) -> Result<Value, CommandError> {
        let from = from.unwrap_or_default();
        let sessions = (SESSION, SESSION_FIELDS, params![call.text(0), from.0, header(&COLUMNS)]);
        let show = |row: &Row<'_>| {
            let step = Step::from_row(row)?;
            Ok(Value::Text(step.map_or_else(String::new, |step| step.line())))
        };
        self.of_call(call, from, sessions, &Below { name: "lines", sql: STEP, sparse: true, show: &show })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_start_and_end_at_their_columns() {
        let dashes = |count| "─".repeat(count);
        let spaces = |count| " ".repeat(count);
        let bar = format!("│{}", spaces(29));
        for (from, to, expected) in [
            (0, 1, format!("│── INVITE {}▶│{}│", dashes(18), spaces(29))),
            (1, 0, format!("│◀── INVITE {}│{}│", dashes(18), spaces(29))),
            (1, 2, format!("{bar}│── INVITE {}▶│", dashes(18))),
            (2, 0, format!("│◀{} INVITE {}│", dashes(32), dashes(18))),
            (1, 1, format!("{bar}│ * INVITE{}│", spaces(20))),
            (2, 2, format!("{bar}{bar}│ * INVITE")),
        ] {
            let drawn = line(3, 1500, from, to, "INVITE");
            assert_eq!(drawn, format!("     1.500  {expected}"), "{from} to {to}");
        }
        assert_eq!(header(&["a", "b"]), format!("        ms  a{}b", spaces(29)));
    }

    #[test]
    fn long_texts_are_shortened_to_the_arrow() {
        let long = "x".repeat(200);
        for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 0), (1, 1), (3, 3)] {
            let drawn = line(4, 0, from, to, &long);
            assert!(drawn.chars().count() <= TIME_WIDTH + 4 * WIDTH, "{drawn}");
            assert!(drawn.contains('…'), "{drawn}");
            let arrow = drawn.chars().any(|c| "▶◀".contains(c));
            assert_eq!(arrow, from != to, "{drawn}");
        }
    }
}
