//! `audit`: where money and messages do not meet, now or for good. Four lists, the oldest first; each says how many rows
//! and units it has in all, also where it shows fewer.

use super::{CommandError, Reader, Value, cannot_read, integer, refuse};
use crate::charge::session::{Session, Waiting};
use crate::engine::clock;
use rusqlite::Row;

/// Rows of a list, where nobody asks for more.
const ROWS: usize = 100;

/// Rows of a list at most.
const ROWS_MAX: usize = 1000;

/// A list that is being made.
struct List {
    most: usize,
    count: u64,
    units: u64,
    rows: Vec<Value>,
}

/// What a row says beside its units and its age.
struct Entry<'a> {
    call_id: &'a str,
    account: &'a str,
    units: u64,
    age: u64,
    rest: Vec<(&'static str, Value)>,
}

impl List {
    fn new(most: usize) -> List {
        List { most, count: 0, units: 0, rows: Vec::new() }
    }

    fn add(&mut self, entry: Entry<'_>) {
        self.count += 1;
        self.units = self.units.saturating_add(entry.units);
        if self.rows.len() < self.most {
            let mut fields = vec![("callid", text(entry.call_id)), ("account", text(entry.account))];
            fields.extend(entry.rest);
            fields.extend([("units", integer(entry.units)), ("age", integer(entry.age))]);
            self.rows.push(Value::Structure(fields));
        }
    }

    fn value(self) -> Value {
        let shown = integer(self.rows.len() as u64);
        Value::Structure(vec![
            ("count", integer(self.count)),
            ("units", integer(self.units)),
            ("shown", shown),
            ("rows", Value::List(self.rows)),
        ])
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Seconds since then, both in UNIX milliseconds.
fn age(then: i64, now: i64) -> u64 {
    u64::try_from((now - then) / 1000).unwrap_or(0)
}

/// How many rows the operator wants.
fn wanted(rows: &str) -> Result<usize, CommandError> {
    if rows.is_empty() {
        return Ok(ROWS);
    }
    let wanted = rows.parse().ok().filter(|rows| (1..=ROWS_MAX).contains(rows));
    wanted.ok_or_else(|| refuse(400, format!("'{rows}' is no number of rows from 1 to {ROWS_MAX}")))
}

impl Reader {
    /// The four lists.
    pub(super) fn audit(&self, rows: &str) -> Result<Value, CommandError> {
        let (most, now) = (wanted(rows)?, clock::wall_ms());
        let mut delivered = List::new(most);
        let mut waiting = List::new(most);
        self.each_that_waits(|session, opened_at| {
            session.messages_outstanding().for_each(|one| delivered.add(entry(session, one, opened_at, now)));
            session.waiting_at_the_enabler().for_each(|one| waiting.add(entry(session, one, opened_at, now)));
        })
        .map_err(cannot_read)?;
        self.undebited(&mut delivered, now).map_err(cannot_read)?;
        let reserved = self.reserved(List::new(most), now).map_err(cannot_read)?;
        let undelivered = self.undelivered(List::new(most), now).map_err(cannot_read)?;
        Ok(Value::Structure(vec![
            ("reserved_not_settled", reserved.value()),
            ("delivered_not_debited", delivered.value()),
            ("debited_not_delivered", undelivered.value()),
            ("waiting_at_the_enabler", waiting.value()),
        ]))
    }

    /// Sessions of which something has no answer, with the time of their INVITE.
    fn each_that_waits(&self, mut see: impl FnMut(&Session, i64)) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(
            "SELECT state, opened_at FROM states JOIN sessions ON id=session WHERE waiting ORDER BY session",
        )?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            if let Ok(session) = postcard::from_bytes(row.get_ref(0)?.as_blob()?) {
                see(&session, row.get(1)?);
            }
        }
        Ok(())
    }

    /// What the enabler holds.
    fn reserved(&self, list: List, now: i64) -> rusqlite::Result<List> {
        let sql = "SELECT call_id, s.account, coalesce(h.units, reserved), opened_at, phase FROM states t \
                   JOIN sessions s ON s.id=t.session LEFT JOIN holds h ON h.session=s.id \
                   WHERE coalesce(h.units, reserved)>0 ORDER BY s.id";
        self.all(sql, list, now, |row| Ok(vec![("phase", Value::Text(row.get(4)?))]))
    }

    /// Messages that cost nothing.
    fn undebited(&self, list: &mut List, now: i64) -> rusqlite::Result<()> {
        let (count, units) = self.sum("SELECT count(*), coalesce(sum(units), 0) FROM undebited")?;
        let sql = "SELECT call_id, account, units, at, message_id, octets, rule, code FROM undebited ORDER BY at";
        self.some(sql, list, now, (count, units), |row| {
            Ok(vec![
                ("messageid", Value::Text(row.get(4)?)),
                ("state", text("not-debited")),
                ("rule", Value::Text(row.get(6)?)),
                ("code", Value::Integer(row.get(7)?)),
                ("octets", Value::Integer(row.get(5)?)),
            ])
        })
    }

    /// Messages that are paid for, and that the client has not confirmed.
    fn undelivered(&self, mut list: List, now: i64) -> rusqlite::Result<List> {
        let which = "FROM debits INDEXED BY debits_undelivered WHERE trigger<>'response' AND refunded_at IS NULL";
        let sum = self.sum(&format!("SELECT count(*), coalesce(sum(units), 0) {which}"))?;
        let sql = format!("SELECT call_id, account, units, at, message_id, octets, trigger, code {which} ORDER BY at");
        self.some(&sql, &mut list, now, sum, |row| {
            Ok(vec![
                ("messageid", Value::Text(row.get(4)?)),
                ("trigger", Value::Text(row.get(6)?)),
                ("code", Value::Integer(row.get(7)?)),
                ("octets", Value::Integer(row.get(5)?)),
            ])
        })?;
        Ok(list)
    }

    fn sum(&self, sql: &str) -> rusqlite::Result<(u64, u64)> {
        self.connection.query_row(sql, [], |row| {
            let (count, units): (i64, i64) = row.try_into()?;
            Ok((u64::try_from(count).unwrap_or(0), u64::try_from(units).unwrap_or(0)))
        })
    }

    /// The first rows of a query that has so many with so many units.
    fn some(
        &self,
        sql: &str,
        list: &mut List,
        now: i64,
        (count, units): (u64, u64),
        rest: impl Fn(&Row<'_>) -> rusqlite::Result<Vec<(&'static str, Value)>>,
    ) -> rusqlite::Result<()> {
        let before = (list.count, list.units);
        let room = list.most.saturating_sub(list.rows.len());
        let mut statement = self.connection.prepare(&format!("{sql} LIMIT {room}"))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            add(list, row, now, rest(row)?)?;
        }
        (list.count, list.units) = (before.0 + count, before.1.saturating_add(units));
        Ok(())
    }

    /// All rows of a query.
    fn all(
        &self,
        sql: &str,
        mut list: List,
        now: i64,
        rest: impl Fn(&Row<'_>) -> rusqlite::Result<Vec<(&'static str, Value)>>,
    ) -> rusqlite::Result<List> {
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            add(&mut list, row, now, rest(row)?)?;
        }
        Ok(list)
    }
}

/// Adds a row that begins with Call-ID, account, units and the time since when.
fn add(list: &mut List, row: &Row<'_>, now: i64, rest: Vec<(&'static str, Value)>) -> rusqlite::Result<()> {
    let (call_id, account): (String, String) = (row.get(0)?, row.get(1)?);
    let units = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
    let (call_id, account) = (call_id.as_str(), account.as_str());
    list.add(Entry { call_id, account, units, age: age(row.get(3)?, now), rest });
    Ok(())
}

/// What a session waits for.
fn entry<'a>(session: &'a Session, waiting: Waiting<'a>, opened_at: i64, now: i64) -> Entry<'a> {
    let after = waiting.since.micros_since(session.opened()) / 1000;
    let since = opened_at.saturating_add(i64::try_from(after).unwrap_or(i64::MAX));
    let mut rest = vec![("state", text(waiting.state))];
    if let Some(message_id) = waiting.message_id {
        rest.insert(0, ("messageid", text(message_id)));
        rest.push(("octets", integer(waiting.octets)));
    }
    if let Some(rule) = waiting.rule {
        rest.extend([("what", text(waiting.work.word())), ("rule", text(rule.word()))]);
    }
    let (call_id, account) = (session.call_id(), session.account());
    Entry { call_id, account, units: waiting.units.0, age: age(since, now), rest }
}
