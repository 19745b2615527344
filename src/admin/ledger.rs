//! Read access to the ledger's tables.

use super::page::{Page, Room, by_id, by_session, fields};
use crate::admin::commands::{Call, Command, CommandError, Value, integer};
use crate::engine::store::{LEDGER, read_session};
use crate::shm::clock;
use crate::shm::region::Region;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use std::collections::BTreeMap;
use std::time::Duration;

/// Read-only connection for one command.
pub struct Reader {
    pub(crate) connection: Connection,
    command: &'static Command,
}

/// Key and columns of accounts.
macro_rules! accounts {
    ($rest:literal) => {
        concat!(
            "SELECT id, id, balance, held, debited, credit_limit, balance + credit_limit FROM accounts WHERE ",
            $rest
        )
    };
}
const ACCOUNTS: &str = accounts!("id>=?1 AND id<?2 ORDER BY id");
const ACCOUNT: &str = accounts!("id=?1");
const ACCOUNT_FIELDS: &[&str] = &["id", "balance", "held", "debited", "limit", "available"];

/// Changes of an account, latest first.
const HISTORY: &str = "\
    SELECT id, at, kind, amount, reference, by, balance, held, credit_limit FROM balance_changes \
    WHERE account=?2 AND id<=?1 ORDER BY id DESC";
const HISTORY_FIELDS: &[&str] = &["at", "kind", "amount", "reference", "by", "balance", "held", "limit"];

/// Driven by `states`, which has open sessions only; `sessions` has the whole history.
const OPEN_SESSIONS: &str = "\
    SELECT s.id, call_id, account, direction, tariff, opened_at, phase, granted, \
    (SELECT count(*) FROM debits WHERE session=s.id), coalesce((SELECT units FROM holds WHERE session=s.id), 0) \
    FROM states t CROSS JOIN sessions s ON s.id=t.session WHERE t.session>=?1 AND closed_at IS NULL ORDER BY t.session";
const OPEN_SESSION_FIELDS: &[&str] =
    &["callid", "account", "direction", "tariff", "opened_at", "phase", "granted", "messages", "held"];

const SESSIONS_OF_CALL: &str = "\
    SELECT id, key, call_id, account, other, icid, direction, tariff, opened_at, closed_at, phase, granted, \
    coalesce((SELECT units FROM holds WHERE session=sessions.id), 0) \
    FROM sessions WHERE call_id=?1 AND id>=?2 ORDER BY id";
const SESSION_FIELDS: &[&str] = &[
    "session",
    "callid",
    "account",
    "other",
    "icid",
    "direction",
    "tariff",
    "opened_at",
    "closed_at",
    "phase",
    "granted",
    "held",
];

/// Key and columns of debits.
macro_rules! debits {
    ($rest:literal) => {
        concat!(
            "SELECT id, at, call_id, message_id, account, octets, units, trigger, code, refunded_at FROM debits WHERE ",
            $rest
        )
    };
}
const DEBITS: &str = debits!("id<=?1 ORDER BY id DESC");
const DEBITS_OF_ACCOUNT: &str = debits!("account=?2 AND id<=?1 ORDER BY id DESC");
const DEBITS_OF_SESSION: &str = debits!("session=?1 AND id>=?2 ORDER BY id");
const DEBIT_FIELDS: &[&str] =
    &["at", "callid", "messageid", "account", "octets", "units", "trigger", "code", "refunded_at"];

impl Reader {
    pub(crate) fn open(command: &'static Command, region: &Region) -> Result<Reader, CommandError> {
        let path = region.config.state_dir.join(LEDGER);
        let open = || {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(&path, flags)?;
            connection.busy_timeout(Duration::from_millis(500))?;
            // An answer shows one consistent snapshot.
            connection.execute_batch("BEGIN")?;
            Ok(connection)
        };
        open().map(|connection| Reader { connection, command }).map_err(|error| cannot_read(command, error))
    }

    pub(crate) fn cannot_read(&self, error: rusqlite::Error) -> CommandError {
        cannot_read(self.command, error)
    }

    /// Fills a page with the rows of a query. The first column is the key, the others are the fields.
    fn fill(
        &self,
        page: &mut Page,
        sql: &str,
        names: &[&'static str],
        values: impl rusqlite::Params,
        cursor: impl Fn(&Row<'_>) -> rusqlite::Result<String>,
    ) -> Result<(), CommandError> {
        let read = || {
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query(values)?;
            while let Some(row) = rows.next()? {
                let next = cursor(row)?;
                if !page.add(structure(row, names, false)?, || next) {
                    break;
                }
            }
            Ok(())
        };
        read().map_err(|error| self.cannot_read(error))
    }

    pub(crate) fn open_sessions(&self, limit: Option<usize>, from: Option<i64>) -> Result<Value, CommandError> {
        let mut page = Page::new(Room::new(limit));
        let key = |row: &Row<'_>| Ok(by_id(row.get(0)?));
        self.fill(&mut page, OPEN_SESSIONS, OPEN_SESSION_FIELDS, [from.unwrap_or(0)], key)?;
        Ok(Value::Structure(page.fields("sessions")))
    }

    /// Lists the accounts whose ids start with `prefix`, from the id `from` on.
    pub(crate) fn accounts(&self, prefix: &str, limit: Option<usize>, from: &str) -> Result<Value, CommandError> {
        let mut page = Page::new(Room::new(limit));
        let (first, end) = (prefix.max(from), format!("{prefix}{}", char::MAX));
        self.fill(&mut page, ACCOUNTS, ACCOUNT_FIELDS, [first, &end], |row| row.get(0))?;
        Ok(Value::Structure(page.fields("accounts")))
    }

    /// Lists the changes of an account, latest first. `None`: there is neither the account nor a change of it.
    pub(crate) fn history(
        &self,
        account: &str,
        limit: Option<usize>,
        from: Option<i64>,
    ) -> Result<Option<Value>, CommandError> {
        let (mut page, from) = (Page::new(Room::new(limit)), from.unwrap_or(i64::MAX));
        let key = |row: &Row<'_>| Ok(by_id(row.get(0)?));
        self.fill(&mut page, HISTORY, HISTORY_FIELDS, params![from, account], key)?;
        if page.row_count() == 0 && self.one_account(account)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Value::Structure(page.fields("changes"))))
    }

    /// Returns the amount of the `account.add` with this reference.
    pub(crate) fn amount_added(&self, account: &str, reference: &str) -> Result<Option<i64>, CommandError> {
        let sql = "SELECT amount FROM balance_changes WHERE account=?1 AND reference=?2 AND kind='add'";
        let read = self.connection.query_row(sql, [account, reference], |row| row.get(0));
        read.optional().map_err(|error| self.cannot_read(error))
    }

    pub(crate) fn one_account(&self, id: &str) -> Result<Option<Value>, CommandError> {
        let mut page = Page::new(Room::fixed());
        self.fill(&mut page, ACCOUNT, ACCOUNT_FIELDS, [id], |row| row.get(0))?;
        Ok(page.into_rows().pop())
    }

    /// Lists debits, latest first.
    pub(crate) fn debits(
        &self,
        account: Option<&str>,
        limit: Option<usize>,
        from: Option<i64>,
    ) -> Result<Value, CommandError> {
        let (mut page, from) = (Page::new(Room::new(limit)), from.unwrap_or(i64::MAX));
        let key = |row: &Row<'_>| Ok(by_id(row.get(0)?));
        match account {
            Some(account) => self.fill(&mut page, DEBITS_OF_ACCOUNT, DEBIT_FIELDS, params![from, account], key)?,
            None => self.fill(&mut page, DEBITS, DEBIT_FIELDS, [from], key)?,
        }
        Ok(Value::Structure(page.fields("debits")))
    }

    /// Lists the sessions of a call with their debits, oldest first.
    pub(crate) fn sessions_of(&self, call: &Call<'_>, from: Option<(i64, i64)>) -> Result<Value, CommandError> {
        let from = from.unwrap_or_default();
        let sessions = (SESSIONS_OF_CALL, SESSION_FIELDS, params![call.text(0), from.0]);
        let show = |row: &Row<'_>| structure(row, DEBIT_FIELDS, false);
        let below = Below { name: "debits", sql: DEBITS_OF_SESSION, sparse: false, show: &show };
        self.of_call(call, from, sessions, &below)
    }

    /// Lists the sessions of a call, each with its rows, starting at a row of a session.
    ///
    /// The third argument is the query of the sessions, the names of its columns after the key, and its values.
    pub(crate) fn of_call(
        &self,
        call: &Call<'_>,
        (from_session, from_row): (i64, i64),
        (sql, names, values): (&str, &[&'static str], impl rusqlite::Params),
        below: &Below<'_>,
    ) -> Result<Value, CommandError> {
        let read = || {
            let (mut sessions, mut room) = (Vec::new(), Room::fixed());
            let mut statement = self.connection.prepare(sql)?;
            let mut statement_below = self.connection.prepare(below.sql)?;
            let mut found = statement.query(values)?;
            while let Some(session) = found.next()? {
                let key: i64 = session.get(0)?;
                let mut fields = named(session, names, below.sparse)?;
                let first = if key == from_session { from_row } else { 0 };
                // A session is listed if it fits together with its first row.
                if !room.take(&Value::Structure(fields.clone())) {
                    return Ok((sessions, Some(by_session(key, first))));
                }
                room.start_list();
                let (mut rows, mut next) = (Vec::new(), None);
                let mut found_below = statement_below.query([key, first])?;
                while let Some(row) = found_below.next()? {
                    let value = (below.show)(row)?;
                    if !room.take(&value) {
                        next = Some(by_session(key, row.get(0)?));
                        break;
                    }
                    rows.push(value);
                }
                fields.push((below.name, Value::List(rows)));
                sessions.push(Value::Structure(fields));
                if next.is_some() {
                    return Ok((sessions, next));
                }
            }
            Ok((sessions, None))
        };
        let (sessions, next) = read().map_err(|error| self.cannot_read(error))?;
        match sessions.is_empty() {
            true => Err(call.no_session()),
            false => Ok(Value::Structure(fields("sessions", sessions, next))),
        }
    }

    /// Returns the state of the enabler's servers. `names`: the names of the fields.
    pub(crate) fn enabler_status(&self, names: &'static [&'static str]) -> Result<Value, CommandError> {
        let mut servers: BTreeMap<i64, Vec<(&'static str, Value)>> = BTreeMap::new();
        let mut read = || {
            let sql = "SELECT server, field, value FROM enabler_status ORDER BY server, field";
            let mut statement = self.connection.prepare(sql)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                if let Some(name) = names.get(row.get::<_, usize>(1)?) {
                    servers.entry(row.get(0)?).or_default().push((name, value(row.get_ref(2)?)));
                }
            }
            Ok(())
        };
        read().map_err(|error| self.cannot_read(error))?;
        let mut page = Page::new(Room::fixed());
        for fields in servers.into_values() {
            page.add(Value::Structure(fields), String::new);
        }
        Ok(Value::Structure(vec![("peers", Value::List(page.into_rows()))]))
    }

    /// Returns the number of unacknowledged debits and the age of the oldest in seconds. The embedded ledger acknowledges
    /// in the same commit, so its outbox is always empty.
    pub(crate) fn outbox(&self) -> Result<Value, CommandError> {
        let (mut count, mut oldest) = (0, None);
        // Row by row: there may be a million, and the host's process never returns the memory of its largest answer.
        let mut read = || {
            let mut statement = self.connection.prepare("SELECT session, state FROM states")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let state = row.get_ref(1)?.as_blob()?;
                let Some(session) = read_session(&self.connection, row.get(0)?, state)? else { continue };
                count += session.debits_pending() as u64;
                oldest = oldest.into_iter().chain(session.oldest_debit()).min();
            }
            Ok(())
        };
        read().map_err(|error| self.cannot_read(error))?;
        let age = oldest.map_or(0, |at| clock::now().micros_since(at) / 1_000_000);
        Ok(Value::Structure(vec![("count", integer(count)), ("oldest_age", integer(age))]))
    }
}

/// The rows listed under a session.
pub struct Below<'a> {
    /// Name of the field that lists them.
    pub name: &'static str,
    /// Query. The first column is the key; its parameters are the session and the smallest key.
    pub sql: &'static str,
    /// Whether fields of the session without a value are omitted.
    pub sparse: bool,
    /// Converts a row.
    pub show: &'a dyn Fn(&Row<'_>) -> rusqlite::Result<Value>,
}

/// Returns the columns after the key as a structure with these names. `sparse`: without those that have no value.
pub(super) fn structure(row: &Row<'_>, names: &[&'static str], sparse: bool) -> rusqlite::Result<Value> {
    named(row, names, sparse).map(Value::Structure)
}

/// Returns the columns after the key as fields with these names.
fn named(row: &Row<'_>, names: &[&'static str], sparse: bool) -> rusqlite::Result<Vec<(&'static str, Value)>> {
    let mut fields = Vec::with_capacity(names.len() + 1);
    for (at, name) in names.iter().enumerate() {
        match row.get_ref(at + 1)? {
            ValueRef::Null if sparse => {}
            column => fields.push((*name, value(column))),
        }
    }
    Ok(fields)
}

/// Converts a column.
fn value(column: ValueRef<'_>) -> Value {
    match column {
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Integer(number as i64),
        ValueRef::Text(text) | ValueRef::Blob(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Null => Value::Integer(0),
    }
}

fn cannot_read(command: &'static Command, error: rusqlite::Error) -> CommandError {
    CommandError::new(500, command, format!("the ledger cannot be read: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::store::Store;

    /// The cost of a page must not depend on the rows before and after it.
    #[test]
    fn pages_are_read_by_an_index() {
        let folder = tempfile::tempdir().expect("a folder");
        Store::check(folder.path()).unwrap_or_else(|error| panic!("{error}"));
        let connection = Connection::open(folder.path().join(LEDGER)).expect("a ledger");
        let pages = [ACCOUNTS, ACCOUNT, HISTORY, OPEN_SESSIONS, SESSIONS_OF_CALL, DEBITS, DEBITS_OF_ACCOUNT];
        for sql in pages.iter().chain(&super::super::audit::PAGES).chain([&super::super::import::ACCOUNTS]) {
            let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("a query");
            for at in 1..=statement.parameter_count() {
                statement.raw_bind_parameter(at, 1).expect("a value");
            }
            let mut rows = statement.raw_query();
            while let Some(row) = rows.next().expect("a plan") {
                let step: String = row.get(3).expect("a step");
                assert!(!step.contains("SCAN") && !step.contains("TEMP B-TREE"), "{step} in {sql}");
                assert!(!sql.contains("account=?2") || step.contains("(account=? AND rowid<?)"), "{step} in {sql}");
            }
        }
    }
}
