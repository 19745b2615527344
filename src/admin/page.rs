//! Pages: answers bounded in rows and octets, with a cursor to the next page.
//!
//! The bound follows from the smallest transport: opensips-cli reads datagrams of up to 32,768 octets. Kamailio's jsonrpcs
//! indents its JSON, which less than doubles it, and its datagrams carry 65,457 octets. kamcmd accepts 128 KB of a form
//! that is shorter than JSON.

use crate::admin::commands::Value;

/// Rows of a page by default.
pub const ROWS_DEFAULT: usize = 100;

/// Largest limit of rows. Kamailio's ctl takes 8 KB of its private memory (8 MB by default) per row.
pub const LIMIT_MAX: usize = 500;

/// Limit of rows of an answer without a LIMIT argument.
const ROWS_FIXED: usize = 250;

/// Limit of a page's rows in octets of JSON without white space.
const OCTETS_MAX: usize = 30 * 1024;

/// Limit of one list in octets of JSON without white space, without the structures and lists in it. Kamailio's ctl writes each
/// list and each structure into a buffer of 8 KB that does not grow (`binrpc_struct_max_body_size`). A text takes at most one
/// octet more there than in JSON.
const LIST_OCTETS_MAX: usize = 7 * 1024;

/// Octets of a structure or list in the buffer of the list that contains it.
const INNER_OCTETS: usize = 2;

/// Room left in an answer.
pub struct Room {
    rows: usize,
    octets: usize,
    /// Octets left in the current list.
    list_octets: usize,
}

impl Room {
    /// Room of an answer with at most `limit` rows.
    pub fn new(limit: Option<usize>) -> Room {
        Room { rows: limit.unwrap_or(ROWS_DEFAULT), octets: OCTETS_MAX, list_octets: LIST_OCTETS_MAX }
    }

    /// Room of an answer without a LIMIT argument.
    pub fn fixed() -> Room {
        Room::new(Some(ROWS_FIXED))
    }

    /// Returns the rows that still fit.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Room of one list in an answer with `lists` lists.
    pub fn shared(limit: Option<usize>, lists: usize) -> Room {
        Room { octets: OCTETS_MAX / lists, ..Room::new(limit) }
    }

    /// Starts another list in the answer.
    pub fn start_list(&mut self) {
        self.list_octets = LIST_OCTETS_MAX;
    }

    /// Takes the room of a row of the current list; `false` if the row does not fit.
    pub fn take(&mut self, row: &Value) -> bool {
        let length = octets(row);
        let in_list = match row {
            Value::Structure(_) | Value::List(_) => INNER_OCTETS,
            Value::Text(_) | Value::Integer(_) => length,
        };
        let left = (self.rows.checked_sub(1), self.octets.checked_sub(length), self.list_octets.checked_sub(in_list));
        let (Some(rows), Some(octets), Some(list_octets)) = left else { return false };
        *self = Room { rows, octets, list_octets };
        true
    }
}

/// A page while it is filled.
pub struct Page {
    room: Room,
    rows: Vec<Value>,
    next: Option<String>,
}

impl Page {
    /// Returns an empty page.
    pub fn new(room: Room) -> Page {
        Page { room, rows: Vec::new(), next: None }
    }

    /// Adds a row; `false` if it does not fit. The next page starts at the first row that does not fit.
    pub fn add(&mut self, row: Value, cursor: impl FnOnce() -> String) -> bool {
        let fits = self.next.is_none() && self.room.take(&row);
        match fits {
            true => self.rows.push(row),
            false => self.next = Some(self.next.take().unwrap_or_else(cursor)),
        }
        fits
    }

    /// Ends the page before its room is used up.
    pub fn end(&mut self, next: String) {
        self.next.get_or_insert(next);
    }

    /// Whether no further row fits.
    pub fn is_full(&self) -> bool {
        self.next.is_some()
    }

    /// Returns the number of rows.
    pub fn row_count(&self) -> usize {
        self.rows.len()
    }

    /// Returns the rows.
    pub fn into_rows(self) -> Vec<Value> {
        self.rows
    }

    /// Returns the rows under this name, with the fields of a page.
    pub fn fields(self, name: &'static str) -> Vec<(&'static str, Value)> {
        fields(name, self.rows, self.next)
    }
}

/// Returns the fields of a page: `more` is 1 and `next` is the cursor of the next page, or 0 and empty.
pub fn fields(name: &'static str, rows: Vec<Value>, next: Option<String>) -> Vec<(&'static str, Value)> {
    let more = Value::Integer(next.is_some().into());
    vec![(name, Value::List(rows)), ("more", more), ("next", Value::Text(next.unwrap_or_default()))]
}

/// Returns the octets of a value as JSON without white space, including the comma that follows it.
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

/// Cursor of a page, as an operator passes it back. Never digits only, which kamcmd would convert to a number.
pub trait Cursor: Sized {
    /// Parses the `next` of an answer.
    fn parse(text: &str) -> Option<Self>;
}

/// Cursor of a row by its id.
impl Cursor for i64 {
    fn parse(text: &str) -> Option<i64> {
        text.strip_prefix("id:")?.parse().ok().filter(|id| *id >= 0)
    }
}

/// Formats the cursor of an id.
pub fn by_id(id: i64) -> String {
    format!("id:{id}")
}

/// Cursor of a row of a session, by the ids of both.
impl Cursor for (i64, i64) {
    fn parse(text: &str) -> Option<(i64, i64)> {
        let (session, row) = text.split_once(':')?;
        let number = |text: &str| text.parse().ok().filter(|number| *number >= 0);
        Some((number(session)?, number(row)?))
    }
}

/// Formats the cursor of a pair of ids.
pub fn by_session(session: i64, row: i64) -> String {
    format!("{session}:{row}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_never_longer_than_counted() {
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
    fn pages_end_at_the_limit_of_rows_or_octets() {
        let text = |length| Value::Text("x".repeat(length));
        let structure = |length| Value::Structure(vec![("a", text(length))]);
        for (limit, row, expected) in [
            (Some(2), text(1), 2),
            (None, text(1), ROWS_DEFAULT),
            (Some(LIMIT_MAX), structure(1000), 30),
            (Some(LIMIT_MAX), structure(1), LIMIT_MAX),
            (Some(LIMIT_MAX), text(1000), 7),
            (Some(1), text(0), 1),
        ] {
            let mut page = Page::new(Room::new(limit));
            let added = (0..1000).take_while(|at| page.add(row.clone(), || by_id(*at))).count();
            assert_eq!(added, expected);
            let fields = page.fields("rows");
            assert_eq!(fields[1], ("more", Value::Integer(1)));
            assert_eq!(fields[2], ("next", Value::Text(by_id(expected as i64))));
        }
    }

    #[test]
    fn cursors_round_trip_and_are_not_numbers() {
        assert_eq!(i64::parse(&by_id(7)), Some(7));
        assert_eq!(<(i64, i64)>::parse(&by_session(7, 0)), Some((7, 0)));
        for wrong in ["7", "id:", "id:-1", "id:x", "7:", "7:-1", ":7"] {
            assert_eq!(i64::parse(wrong), None, "{wrong}");
            assert_eq!(<(i64, i64)>::parse(wrong), None, "{wrong}");
        }
    }
}
