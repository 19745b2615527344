//! Pages: answers bounded in rows and in size, and where the next one begins.
//!
//! A page is as large as the smallest transport carries: opensips-cli reads 32,768 octets of a datagram. Kamailio's
//! jsonrpcs indents its JSON, which makes it less than twice as long, and a datagram carries 65,457 octets of that.
//! kamcmd takes 128 KB of a form that is shorter than JSON.

use crate::admin::commands::Value;

/// Rows of a page, where the operator does not say.
const LIMIT: usize = 100;

/// Most rows of a page. Kamailio's ctl takes 8 KB of its private memory, 8 MB unless configured, for each.
pub const LIMIT_MAX: usize = 500;

/// Most rows of an answer whose length the operator does not choose.
const FIXED: usize = 250;

/// Octets of a page's rows at most, as JSON without white space.
const OCTETS: usize = 30 * 1024;

/// What is left of an answer.
pub struct Room {
    rows: usize,
    octets: usize,
}

impl Room {
    /// Of an answer with so many rows at most.
    pub fn new(limit: Option<usize>) -> Room {
        Room { rows: limit.unwrap_or(LIMIT), octets: OCTETS }
    }

    /// Of an answer whose length the operator does not choose.
    pub fn fixed() -> Room {
        Room::new(Some(FIXED))
    }

    /// Of one of so many lists in an answer.
    pub fn shared(limit: Option<usize>, lists: usize) -> Room {
        Room { octets: OCTETS / lists, ..Room::new(limit) }
    }

    /// Takes the room of a row. `false`: it does not fit.
    pub fn take(&mut self, row: &Value) -> bool {
        let (rows, octets) = (self.rows.checked_sub(1), self.octets.checked_sub(octets(row)));
        let (Some(rows), Some(octets)) = (rows, octets) else { return false };
        (self.rows, self.octets) = (rows, octets);
        true
    }
}

/// A page that is being filled.
pub struct Page {
    room: Room,
    rows: Vec<Value>,
    next: Option<String>,
}

impl Page {
    /// An empty one.
    pub fn new(room: Room) -> Page {
        Page { room, rows: Vec::new(), next: None }
    }

    /// Adds a row. `false`: it is the first that does not fit, so the next page begins with it.
    pub fn add(&mut self, row: Value, cursor: impl FnOnce() -> String) -> bool {
        let fits = self.next.is_none() && self.room.take(&row);
        match fits {
            true => self.rows.push(row),
            false => self.next = Some(self.next.take().unwrap_or_else(cursor)),
        }
        fits
    }

    /// Whether all rows beyond would be left out.
    pub fn is_full(&self) -> bool {
        self.next.is_some()
    }

    /// How many rows it has.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Its rows alone.
    pub fn into_rows(self) -> Vec<Value> {
        self.rows
    }

    /// Its fields: the rows under this name, and what follows.
    pub fn fields(self, name: &'static str) -> Vec<(&'static str, Value)> {
        fields(name, self.rows, self.next)
    }
}

/// Fields of a page: `more` is 1 and `next` tells where to go on, or 0 and empty.
pub fn fields(name: &'static str, rows: Vec<Value>, next: Option<String>) -> Vec<(&'static str, Value)> {
    let more = Value::Integer(next.is_some().into());
    vec![(name, Value::List(rows)), ("more", more), ("next", Value::Text(next.unwrap_or_default()))]
}

/// Octets of a value as JSON without white space, with the comma after it.
fn octets(value: &Value) -> usize {
    let letter = |letter: char| match letter {
        '"' | '\\' | '/' => 2,
        letter if letter < ' ' => 6,
        letter => letter.len_utf8(),
    };
    match value {
        Value::Integer(number) => 1 + number.to_string().len(),
        Value::Text(text) => 3 + text.chars().map(letter).sum::<usize>(),
        Value::Structure(fields) => {
            3 + fields.iter().map(|(name, value)| 3 + name.len() + octets(value)).sum::<usize>()
        }
        Value::List(rows) => 3 + rows.iter().map(octets).sum::<usize>(),
    }
}

/// Where a page begins, as the operator gives it back: never only digits, which kamcmd would take for a number.
pub trait Cursor: Sized {
    /// From what `next` was.
    fn parse(text: &str) -> Option<Self>;
}

/// A row by its number.
impl Cursor for i64 {
    fn parse(text: &str) -> Option<i64> {
        text.strip_prefix("id:")?.parse().ok().filter(|id| *id >= 0)
    }
}

/// As [`Cursor`] of a number reads it.
pub fn by_id(id: i64) -> String {
    format!("id:{id}")
}

/// A row of a session, by the numbers of both.
impl Cursor for (i64, i64) {
    fn parse(text: &str) -> Option<(i64, i64)> {
        let (session, row) = text.split_once(':')?;
        let number = |text: &str| text.parse().ok().filter(|number| *number >= 0);
        Some((number(session)?, number(row)?))
    }
}

/// As [`Cursor`] of a pair reads it.
pub fn by_session(session: i64, row: i64) -> String {
    format!("{session}:{row}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_never_longer_than_counted() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (value, json) in [
            (Value::Integer(i64::MIN), "-9223372036854775808"),
            (text("\u{1}\"\\/\u{e9}\u{1f600}x"), "'\\u0001\\\"\\\\\\/\u{e9}\u{1f600}x'"),
            (Value::Structure(vec![("a", Value::Integer(0)), ("long", text(""))]), "{'a':0,'long':''}"),
            (Value::List(vec![Value::List(vec![]), Value::Structure(vec![]), Value::Integer(7)]), "[[],{},7]"),
        ] {
            assert!((json.len()..json.len() + 8).contains(&octets(&value)), "{} of {json}", octets(&value));
        }
    }

    #[test]
    fn a_page_ends_by_its_rows_and_by_its_octets() {
        let row = |length| Value::Text("x".repeat(length));
        for (limit, length, expected) in
            [(Some(2), 1, 2), (None, 1, LIMIT), (Some(LIMIT_MAX), 1000, 30), (Some(1), 0, 1)]
        {
            let mut page = Page::new(Room::new(limit));
            let added = (0..1000).take_while(|at| page.add(row(length), || by_id(*at))).count();
            assert_eq!(added, expected);
            let fields = page.fields("rows");
            assert_eq!(fields[1], ("more", Value::Integer(1)));
            assert_eq!(fields[2], ("next", Value::Text(by_id(expected as i64))));
        }
    }

    #[test]
    fn a_cursor_comes_back_and_is_no_number_for_kamcmd() {
        assert_eq!(i64::parse(&by_id(7)), Some(7));
        assert_eq!(<(i64, i64)>::parse(&by_session(7, 0)), Some((7, 0)));
        for wrong in ["7", "id:", "id:-1", "id:x", "7:", "7:-1", ":7"] {
            assert_eq!(i64::parse(wrong), None, "{wrong}");
            assert_eq!(<(i64, i64)>::parse(wrong), None, "{wrong}");
        }
    }
}
