//! `audit`: mismatches between messages and money, transient or final, oldest first; and accounts whose units differ from
//! their recorded changes.

use super::database::Unbalanced;
use super::ledger::Reader;
use super::page::{Page, Room};
use crate::admin::commands::{ALL, Call, CommandError, Value, integer};
use crate::charge::session::{Session, UnsettledItem};
use crate::engine::store::read_session;
use crate::shm::clock;
use crate::shm::statistic::Statistic;
use rusqlite::{Row, params};
use std::sync::atomic::Ordering;

/// Argument that selects each list, and its name in the answer.
const LISTS: [(&str, &str); 5] = [
    ("reserved", "reserved_not_settled"),
    ("delivered", "delivered_not_debited"),
    ("debited", "debited_not_delivered"),
    ("waiting", "waiting_at_the_enabler"),
    ("accounts", "accounts_not_balanced"),
];

/// Accounts with the sum of their recorded changes since they were created. Debits and refunds are part of `debited`, so
/// that the sum holds after the history of old sessions was removed.
const ACCOUNTS: &str = "\
    SELECT id, balance, held, debited, (SELECT coalesce(sum(amount), 0) FROM balance_changes \
    WHERE account=accounts.id AND session IS NULL AND balance_changes.id>coalesce((SELECT max(r.id) \
    FROM balance_changes r WHERE r.account=accounts.id AND r.session IS NULL AND r.kind='remove'), 0)) \
    FROM accounts WHERE id>=?1 ORDER BY id";

/// Sessions with an unanswered request.
const UNANSWERED: &str = "\
    SELECT session, state, opened_at FROM states CROSS JOIN sessions ON id=session \
    WHERE session>=?1 AND waiting ORDER BY session";

/// Sessions for which the enabler holds units.
const RESERVED: &str = "\
    SELECT call_id, s.account, coalesce(h.units, reserved), opened_at, s.id, phase \
    FROM states t CROSS JOIN sessions s ON s.id=t.session LEFT JOIN holds h ON h.session=s.id \
    WHERE t.session>=?1 AND coalesce(h.units, reserved)>0 ORDER BY t.session";

const RESERVED_TOTALS: &str = "\
    SELECT count(*), coalesce(sum(coalesce(h.units, reserved)), 0) \
    FROM states t CROSS JOIN sessions s ON s.id=t.session LEFT JOIN holds h ON h.session=s.id \
    WHERE coalesce(h.units, reserved)>0";

/// Messages that were not debited.
const UNDEBITED: &str = "\
    SELECT call_id, account, units, at, session, message_id, octets, rule, code FROM undebited \
    WHERE (at, units, session, message_id)>=(?1, ?2, ?3, ?4) ORDER BY at, units, session, message_id";

/// Debits of messages that the client did not confirm.
macro_rules! undelivered {
    ($columns:literal, $rest:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM debits INDEXED BY debits_undelivered WHERE trigger<>'response' AND trigger<>'prepay' AND refunded_at IS NULL",
            $rest
        )
    };
}
const UNDELIVERED: &str = undelivered!(
    "call_id, account, units, at, id, message_id, octets, trigger, code",
    " AND (at, units, id)>=(?1, ?2, ?3) ORDER BY at, units, id"
);

/// The queries that read pages.
#[cfg(test)]
pub const PAGES: [&str; 5] = [UNANSWERED, RESERVED, UNDEBITED, UNDELIVERED, ACCOUNTS];

/// Time for which accounts of the shared ledger are compared before the command answers, in microseconds.
const COMPARE_MICROS: u64 = 2_000_000;

/// A list while it is filled.
struct List {
    page: Page,
    /// Total rows and units, including those beyond this page; `None` if this is not the first page.
    totals: Option<(u64, u64)>,
}

/// The fields that rows of every list have.
struct Entry<'a> {
    call_id: &'a str,
    account: &'a str,
    units: u64,
    /// Seconds.
    age: u64,
}

impl Entry<'_> {
    /// Returns the row, with the fields that only this list has.
    fn row(self, rest: Vec<(&'static str, Value)>) -> Value {
        let mut fields = vec![("callid", text(self.call_id)), ("account", text(self.account))];
        fields.extend(rest);
        fields.extend([("units", integer(self.units)), ("age", integer(self.age))]);
        Value::Structure(fields)
    }
}

impl List {
    /// Adds a row and counts it.
    fn add(&mut self, units: u64, row: impl FnOnce() -> Value, cursor: impl FnOnce() -> String) {
        if !self.page.is_full() {
            self.page.add(row(), cursor);
        }
        self.count(1, units);
    }

    fn count(&mut self, rows: u64, units: u64) {
        if let Some((all, all_units)) = &mut self.totals {
            (*all, *all_units) = (*all + rows, all_units.saturating_add(units));
        }
    }

    /// Whether the remaining rows are neither listed nor counted.
    fn is_done(&self) -> bool {
        self.page.is_full() && self.totals.is_none()
    }

    fn value(self) -> Value {
        let totals = self.totals.map(|(count, units)| [("count", integer(count)), ("units", integer(units))]);
        let mut fields: Vec<_> = totals.into_iter().flatten().collect();
        fields.push(("shown", integer(self.page.row_count() as u64)));
        fields.extend(self.page.fields("rows"));
        Value::Structure(fields)
    }
}

/// Cursor of a list: numbers, then a Message-ID or an account if the list has one.
struct Start<'a, const N: usize> {
    numbers: [i64; N],
    text: &'a str,
}

impl<'a, const N: usize> Start<'a, N> {
    /// The first row.
    const FIRST: Start<'a, N> = Start { numbers: [i64::MIN; N], text: "" };

    /// Parses the `next` of an answer, which starts with `mark`; empty: the first row.
    fn parse(next: &'a str, mark: &str) -> Option<Start<'a, N>> {
        if next.is_empty() {
            return Some(Start::FIRST);
        }
        let mut rest = next.strip_prefix(mark)?;
        let mut numbers = [0; N];
        for number in &mut numbers {
            let (digits, after) = rest.split_once(':')?;
            (*number, rest) = (digits.parse().ok()?, after);
        }
        Some(Start { numbers, text: rest })
    }

    fn next(self, mark: &str) -> String {
        let numbers: String = self.numbers.iter().map(|number| format!("{number}:")).collect();
        format!("{mark}{numbers}{}", self.text)
    }
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

/// Returns the seconds between two times in UNIX milliseconds.
fn age(then: i64, now: i64) -> u64 {
    u64::try_from((now - then) / 1000).unwrap_or(0)
}

/// Lists the accounts of the shared ledger that differ from their recorded changes, debits or holds, as many as the time
/// allows to compare. The totals are those of the accounts that were compared.
fn shared_accounts(
    call: &Call<'_>,
    mut list: List,
    name: &'static str,
    next: &str,
) -> Result<(&'static str, Value), CommandError> {
    const MARK: &str = "after:";
    let Some(Start { numbers: [], text: first }) = Start::parse(next, MARK) else { return Err(call.no_cursor(2)) };
    let (mut database, mut after, began) = (call.database()?, first.to_owned(), clock::now());
    let unbalanced = call.region().counter(Statistic::AccountsUnbalanced);
    if next.is_empty() {
        unbalanced.store(0, Ordering::Relaxed);
    }
    let cursor = |after: &str| Start { numbers: [], text: after }.next(MARK);
    loop {
        let (rows, more) = database.unbalanced(&after)?;
        for row in rows {
            let Unbalanced { id, units, value } = row;
            if !list.page.add(value, || cursor(&after)) {
                return Ok((name, list.value()));
            }
            list.count(1, units);
            unbalanced.fetch_add(1, Ordering::Relaxed);
            after = id;
        }
        let Some(last) = more else { return Ok((name, list.value())) };
        if clock::now().micros_since(began) > COMPARE_MICROS {
            list.page.end(cursor(&last));
            return Ok((name, list.value()));
        }
        after = last;
    }
}

impl Reader {
    /// Returns all lists, or a page of one.
    pub(crate) fn audit(&self, call: &Call<'_>) -> Result<Value, CommandError> {
        let (limit, next, now) = (call.limit(1)?, call.text(2), clock::wall_ms());
        let wanted = match call.text(0) {
            "" | ALL => &LISTS[..],
            word => {
                let list = LISTS.iter().position(|(list, _)| *list == word);
                let list =
                    list.ok_or_else(|| call.wrong(0, "one of all, reserved, delivered, debited, waiting, accounts"))?;
                &LISTS[list..=list]
            }
        };
        if !next.is_empty() && wanted.len() > 1 {
            return Err(call.fails(400, "NEXT continues one LIST: reserved, delivered, debited, waiting or accounts"));
        }
        let list = |(word, name): &(&str, &'static str)| {
            let totals = next.is_empty().then_some((0, 0));
            let mut list = List { page: Page::new(Room::shared(limit, wanted.len())), totals };
            let filled = match *word {
                "reserved" => self.reserved(&mut list, next, now),
                "delivered" => self.not_debited(&mut list, next, now),
                "debited" => self.undelivered(&mut list, next, now),
                "accounts" if call.is_in_database() => return shared_accounts(call, list, name, next),
                "accounts" => self.unbalanced(&mut list, next),
                _ => self.unanswered(&mut list, next, now, |session| session.unacknowledged().collect()),
            };
            if !filled.map_err(|error| self.cannot_read(error))? {
                return Err(call.no_cursor(2));
            }
            if let ("accounts", Some((count, _))) = (*word, list.totals) {
                call.region().counter(Statistic::AccountsUnbalanced).store(count, Ordering::Relaxed);
            }
            Ok((*name, list.value()))
        };
        wanted.iter().map(list).collect::<Result<_, _>>().map(Value::Structure)
    }

    /// Lists the sessions for which the enabler holds units. Returns `false`, like the functions below, if `next` is not a
    /// cursor of this list.
    fn reserved(&self, list: &mut List, next: &str, now: i64) -> rusqlite::Result<bool> {
        let Some(Start::<1> { numbers: [from], .. }) = Start::parse(next, "") else { return Ok(false) };
        let rest = |row: &Row<'_>| Ok(vec![("phase", Value::Text(row.get(5)?))]);
        let start = |row: &Row<'_>| Ok(Start { numbers: [row.get(4)?], text: "" }.next(""));
        self.count(list, RESERVED_TOTALS)?;
        self.rows(list, (RESERVED, params![from]), now, rest, start)?;
        Ok(true)
    }

    /// Lists delivered messages that are not debited: those with an unanswered debit first, then those settled as free.
    fn not_debited(&self, list: &mut List, next: &str, now: i64) -> rusqlite::Result<bool> {
        const MARK: &str = "free:";
        let settled = Start::<3>::parse(next, MARK);
        if (settled.is_none() || next.is_empty())
            && !self.unanswered(list, next, now, |session| session.unanswered_messages().collect())?
        {
            return Ok(false);
        }
        let Start { numbers: [at, units, session], text: message_id } = settled.unwrap_or(Start::FIRST);
        let rest = |row: &Row<'_>| {
            Ok(vec![
                ("messageid", Value::Text(row.get(5)?)),
                ("state", text("not-debited")),
                ("rule", Value::Text(row.get(7)?)),
                ("code", Value::Integer(row.get(8)?)),
                ("octets", Value::Integer(row.get(6)?)),
            ])
        };
        let start = |row: &Row<'_>| {
            let numbers = [row.get(3)?, row.get(2)?, row.get(4)?];
            Ok(Start { numbers, text: row.get_ref(5)?.as_str()? }.next(MARK))
        };
        self.count(list, "SELECT count(*), coalesce(sum(units), 0) FROM undebited")?;
        self.rows(list, (UNDEBITED, params![at, units, session, message_id]), now, rest, start)?;
        Ok(true)
    }

    /// Lists debited messages that the client did not confirm.
    fn undelivered(&self, list: &mut List, next: &str, now: i64) -> rusqlite::Result<bool> {
        let Some(Start::<3> { numbers: [at, units, id], .. }) = Start::parse(next, "") else { return Ok(false) };
        let rest = |row: &Row<'_>| {
            Ok(vec![
                ("messageid", Value::Text(row.get(5)?)),
                ("trigger", Value::Text(row.get(7)?)),
                ("code", Value::Integer(row.get(8)?)),
                ("octets", Value::Integer(row.get(6)?)),
            ])
        };
        let start = |row: &Row<'_>| Ok(Start { numbers: [row.get(3)?, row.get(2)?, row.get(4)?], text: "" }.next(""));
        self.count(list, undelivered!("count(*), coalesce(sum(units), 0)", ""))?;
        self.rows(list, (UNDELIVERED, params![at, units, id]), now, rest, start)?;
        Ok(true)
    }

    /// Lists the accounts for which balance + held + debited is not the sum of the recorded changes.
    fn unbalanced(&self, list: &mut List, next: &str) -> rusqlite::Result<bool> {
        const MARK: &str = "account:";
        let Some(Start { numbers: [], text: first }) = Start::parse(next, MARK) else { return Ok(false) };
        let mut statement = self.connection.prepare(ACCOUNTS)?;
        let mut rows = statement.query([first])?;
        while let Some(row) = rows.next()?.filter(|_| !list.is_done()) {
            let (id, units) = (row.get_ref(0)?.as_str()?, [row.get(1)?, row.get(2)?, row.get(3)?]);
            let (recorded, sum): (i64, i128) = (row.get(4)?, units.into_iter().map(i128::from).sum::<i128>());
            let difference = sum - i128::from(recorded);
            if difference == 0 {
                continue;
            }
            let difference = i64::try_from(difference).unwrap_or(i64::MAX);
            let [balance, held, debited]: [i64; 3] = units;
            let row = || {
                let units = [("balance", balance), ("held", held), ("debited", debited), ("recorded", recorded)];
                let units = units.into_iter().chain([("difference", difference)]);
                let fields = units.map(|(name, units)| (name, Value::Integer(units)));
                Value::Structure([("account", text(id))].into_iter().chain(fields).collect())
            };
            list.add(difference.unsigned_abs(), row, || Start { numbers: [], text: id }.next(MARK));
        }
        Ok(true)
    }

    /// Lists unanswered requests session by session, oldest first within a session.
    fn unanswered(
        &self,
        list: &mut List,
        next: &str,
        now: i64,
        of: impl for<'a> Fn(&'a Session) -> Vec<UnsettledItem<'a>>,
    ) -> rusqlite::Result<bool> {
        let Some(first) = Start::<2>::parse(next, "") else { return Ok(false) };
        let mut statement = self.connection.prepare(UNANSWERED)?;
        let mut rows = statement.query([first.numbers[0]])?;
        while let Some(row) = rows.next()?.filter(|_| !list.is_done()) {
            let (id, opened_at) = (row.get(0)?, row.get(2)?);
            // A state of another version is skipped; the engine logs it.
            let state = row.get_ref(1)?.as_blob()?;
            let Some(session) = read_session(&self.connection, id, state)? else { continue };
            let mut all = of(&session);
            all.sort_by_key(key);
            for one in all {
                let (since, message_id) = key(&one);
                if (id, since, message_id) < (first.numbers[0], first.numbers[1], first.text) {
                    continue;
                }
                let start = || Start { numbers: [id, since], text: message_id }.next("");
                list.add(one.units.0, || unanswered_row(&session, one, opened_at, now), start);
            }
        }
        Ok(true)
    }

    /// Adds the totals that a query returns: rows and units.
    fn count(&self, list: &mut List, sql: &str) -> rusqlite::Result<()> {
        if list.totals.is_some() {
            let (rows, units): (i64, i64) = self.connection.query_row(sql, [], |row| row.try_into())?;
            let whole = |number| u64::try_from(number).unwrap_or(0);
            list.count(whole(rows), whole(units));
        }
        Ok(())
    }

    /// Adds the rows of a query whose first columns are Call-ID, account, units and start time.
    fn rows(
        &self,
        list: &mut List,
        (sql, values): (&str, impl rusqlite::Params),
        now: i64,
        rest: impl Fn(&Row<'_>) -> rusqlite::Result<Vec<(&'static str, Value)>>,
        start: impl Fn(&Row<'_>) -> rusqlite::Result<String>,
    ) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare(sql)?;
        let mut rows = statement.query(values)?;
        while let Some(row) = rows.next()?.filter(|_| !list.page.is_full()) {
            let units = u64::try_from(row.get::<_, i64>(2)?).unwrap_or(0);
            let (call_id, account) = (row.get_ref(0)?.as_str()?, row.get_ref(1)?.as_str()?);
            let value = Entry { call_id, account, units, age: age(row.get(3)?, now) }.row(rest(row)?);
            let next = start(row)?;
            list.page.add(value, || next);
        }
        Ok(())
    }
}

/// Sort key of the unanswered requests of a session.
fn key<'a>(one: &UnsettledItem<'a>) -> (i64, &'a str) {
    (i64::try_from(one.since.0).unwrap_or(i64::MAX), one.message_id.unwrap_or_default())
}

/// Returns the row of an unanswered request.
fn unanswered_row(session: &Session, one: UnsettledItem<'_>, opened_at: i64, now: i64) -> Value {
    let after = one.since.micros_since(session.opened()) / 1000;
    let since = opened_at.saturating_add(i64::try_from(after).unwrap_or(i64::MAX));
    let mut rest = vec![("state", text(one.state))];
    if let Some(message_id) = one.message_id {
        rest.insert(0, ("messageid", text(message_id)));
        rest.push(("octets", integer(one.octets)));
    }
    if let Some(rule) = one.rule {
        rest.extend([("what", text(one.kind.as_str())), ("rule", text(rule.as_str()))]);
    }
    let (call_id, account) = (session.call_id(), session.account());
    Entry { call_id, account, units: one.units.0, age: age(since, now) }.row(rest)
}
