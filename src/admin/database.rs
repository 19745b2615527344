//! What operators ask about accounts and nodes in a database that nodes share.

use super::commands::{Call, Command, CommandError, Value, shown};
use super::page::{Page, Room};
use crate::config::queries::{AccountAnswer, AccountQueries, AccountQuery, QueryRow, TakeoverOutcome};
use crate::config::{Accounts, StatusValue};
use crate::shm::clock;
use crate::shm::eventfd::EventFd;
use std::time::Duration;

/// How long a command waits for the database, with the time to connect.
const WAIT_SECONDS: u32 = 5;

/// Accounts of the shared ledger that one query compares.
const COMPARED_ACCOUNTS: i32 = 1000;

/// An account that differs from its recorded changes, debits or holds.
pub(super) struct Unbalanced {
    /// Its id.
    pub id: String,
    /// The difference from its recorded changes; or, if there is none, that of `debited` or `held`.
    pub units: u64,
    /// The row to list.
    pub value: Value,
}

/// A connection for one command.
pub(super) struct Database {
    queries: Box<dyn AccountQueries>,
    command: &'static Command,
    wake_up: EventFd,
}

impl Call<'_> {
    /// Whether the accounts are in a database that nodes share.
    pub(super) fn is_in_database(&self) -> bool {
        self.region().config.enabler.capabilities.accounts == Accounts::InDatabase
    }

    /// Returns a connection to the database with the accounts.
    pub(super) fn database(&self) -> Result<Database, CommandError> {
        let config = &self.region().config;
        let opened = config.enabler.account_queries(&config.enabler_settings(), clock::now());
        let Some(queries) = opened else {
            let text = format!("with enabler={} this node shares no ledger with others", config.enabler.name);
            return Err(self.fails(409, text));
        };
        let queries = queries.map_err(|error| self.fails(503, error.to_string()))?;
        let wake_up = EventFd::new().map_err(|error| self.fails(503, format!("no event fd: {error}")))?;
        Ok(Database { queries, command: self.command, wake_up })
    }

    /// Makes this node take over the one in the first argument.
    pub(super) fn take_over(&self) -> Result<Value, CommandError> {
        let (mut database, node) = (self.database()?, self.text(0));
        let name = shown(node);
        match database.ask(AccountQuery::TakeOver { dead: node.into() })? {
            AccountAnswer::TakenOver(TakeoverOutcome::Done) => {
                Ok(Value::Structure(vec![("node", Value::Text(node.into()))]))
            }
            AccountAnswer::TakenOver(TakeoverOutcome::HasLease) => {
                Err(self.fails(409, format!("the lease of node '{name}' is not over")))
            }
            AccountAnswer::TakenOver(TakeoverOutcome::TakenByOther) => {
                Err(self.fails(409, format!("another node takes over '{name}'")).advise("nodes"))
            }
            AccountAnswer::TakenOver(TakeoverOutcome::Unknown) => {
                Err(self.fails(404, format!("there is no node '{name}'")).advise("nodes"))
            }
            AccountAnswer::TakenOver(TakeoverOutcome::NotJoined) => {
                Err(self.fails(409, "this node has no lease itself").advise("nodes"))
            }
            answer => Err(database.unexpected(&answer)),
        }
    }
}

impl Database {
    fn fails(&self, code: u32, text: impl Into<String>) -> CommandError {
        CommandError::new(code, self.command, text)
    }

    /// Asks the database, and waits for the answer.
    pub(super) fn ask(&mut self, query: AccountQuery) -> Result<AccountAnswer, CommandError> {
        let end = clock::now().after_seconds(WAIT_SECONDS);
        self.queries.ask(query);
        loop {
            let now = clock::now();
            self.queries.work(now);
            if let Some(answer) = self.queries.take_answer() {
                return answer.map_err(|why| self.fails(503, why));
            }
            if now >= end {
                let why = self.queries.last_error().unwrap_or("the database does not answer").to_owned();
                return Err(self.fails(503, why));
            }
            let until = self.queries.deadline().map_or(end, |deadline| deadline.min(end));
            self.wake_up.wait(Duration::from_micros(until.micros_since(now)), &self.queries.descriptors());
        }
    }

    fn rows(&mut self, query: AccountQuery) -> Result<Vec<QueryRow>, CommandError> {
        match self.ask(query)? {
            AccountAnswer::Rows(rows) => Ok(rows),
            answer => Err(self.unexpected(&answer)),
        }
    }

    pub(super) fn unexpected(&self, answer: &AccountAnswer) -> CommandError {
        self.fails(500, format!("an answer of the database to another question: {}", shown(&format!("{answer:?}"))))
    }

    /// Returns an account.
    pub(super) fn one_account(&mut self, id: &str) -> Result<Option<Value>, CommandError> {
        Ok(self.rows(AccountQuery::Account { id: id.into() })?.into_iter().next().map(|row| structure(row.fields)))
    }

    /// Lists the accounts whose ids start with `prefix`, from the id `from` on.
    pub(super) fn accounts(&mut self, prefix: &str, limit: Option<usize>, from: &str) -> Result<Value, CommandError> {
        let room = Room::new(limit);
        let (first, end) = (prefix.max(from).to_owned(), format!("{prefix}{}", char::MAX));
        let rows = self.rows(AccountQuery::Accounts { first, end, limit: one_more(&room) })?;
        Ok(Value::Structure(page(room, rows).fields("accounts")))
    }

    /// Lists the changes of an account, latest first. `None`: there is neither the account nor a change of it.
    pub(super) fn history(
        &mut self,
        account: &str,
        limit: Option<usize>,
        from: Option<i64>,
    ) -> Result<Option<Value>, CommandError> {
        let room = Room::new(limit);
        let rows = self.rows(AccountQuery::Changes { account: account.into(), from, limit: one_more(&room) })?;
        if rows.is_empty() && self.one_account(account)?.is_none() {
            return Ok(None);
        }
        Ok(Some(Value::Structure(page(room, rows).fields("changes"))))
    }

    /// Returns the amount of the `account.add` with this reference.
    pub(super) fn amount_added(&mut self, account: &str, reference: &str) -> Result<Option<i64>, CommandError> {
        match self.ask(AccountQuery::Added { account: account.into(), reference: reference.into() })? {
            AccountAnswer::Added(amount) => Ok(amount),
            answer => Err(self.unexpected(&answer)),
        }
    }

    /// Compares the accounts after an id with their recorded changes, debits and holds. Returns those that differ, and the
    /// last one compared if there are more.
    pub(super) fn unbalanced(&mut self, after: &str) -> Result<(Vec<Unbalanced>, Option<String>), CommandError> {
        match self.ask(AccountQuery::Unbalanced { after: after.into(), limit: COMPARED_ACCOUNTS })? {
            AccountAnswer::Unbalanced { rows, next } => Ok((rows.into_iter().map(unbalanced).collect(), next)),
            answer => Err(self.unexpected(&answer)),
        }
    }

    /// Lists the nodes.
    pub(super) fn nodes(&mut self) -> Result<Value, CommandError> {
        let rows = self.rows(AccountQuery::Nodes)?;
        Ok(Value::Structure(vec![("nodes", Value::List(page(Room::fixed(), rows).into_rows()))]))
    }
}

/// Returns the row of an account that differs.
fn unbalanced(row: QueryRow) -> Unbalanced {
    let number = |name: &str| {
        let field = row.fields.iter().find(|(field, _)| *field == name);
        match field {
            Some((_, StatusValue::Integer(number))) => i128::from(*number),
            _ => 0,
        }
    };
    let difference = number("balance") + number("held") + number("debited") - number("recorded");
    let others = [number("debited") - number("debits"), number("held") - number("holds")];
    let units = [difference].into_iter().chain(others).find(|difference| *difference != 0).unwrap_or(0);
    let mut fields = row.fields;
    fields.push(("difference", StatusValue::Integer(i64::try_from(difference).unwrap_or(i64::MAX))));
    Unbalanced { id: row.cursor, units: u64::try_from(units.abs()).unwrap_or(u64::MAX), value: structure(fields) }
}

/// Returns one row more than a page can have, so that it is known whether there is a next page.
fn one_more(room: &Room) -> i64 {
    i64::try_from(room.rows()).unwrap_or(i64::MAX).saturating_add(1)
}

fn page(room: Room, rows: Vec<QueryRow>) -> Page {
    let mut page = Page::new(room);
    for QueryRow { cursor, fields } in rows {
        if !page.add(structure(fields), || cursor) {
            break;
        }
    }
    page
}

/// Returns named fields as a structure.
pub(super) fn structure(fields: Vec<(&'static str, StatusValue)>) -> Value {
    let value = |value| match value {
        StatusValue::Text(text) => Value::Text(text),
        StatusValue::Integer(number) => Value::Integer(number),
    };
    Value::Structure(fields.into_iter().map(|(name, field)| (name, value(field))).collect())
}
