//! The SQL of operators' queries, and the connection that asks them.

use super::client::{Client, ClientConfig, ClientEvent, Parameter, Row, Type, WrongColumn};
use crate::charge::time::Time;
use crate::enabler::queries::{
    AccountAnswer, AccountImport, AccountQueries, AccountQuery, ImportOutcome, ImportResult, ImportedAccount, QueryRow,
    TakeoverOutcome,
};
use crate::enabler::{StatusEntry, StatusValue};
use std::os::fd::RawFd;

/// Columns of accounts, after the cursor.
macro_rules! accounts {
    ($rest:literal) => {
        concat!(
            "SELECT id, id, balance, held, debited, credit_limit, balance + credit_limit FROM imcharge.accounts WHERE ",
            $rest
        )
    };
}
const ACCOUNT: &str = accounts!("id = $1");
const ACCOUNTS: &str = accounts!("id >= $1 AND id < $2 ORDER BY id LIMIT $3");
const ACCOUNT_FIELDS: &[Field] = &[
    Field::Text("id"),
    Field::Integer("balance"),
    Field::Integer("held"),
    Field::Integer("debited"),
    Field::Integer("limit"),
    Field::Integer("available"),
];

/// The cursor is the time in UNIX microseconds.
const CHANGES: &str = "SELECT 'id:' || micros, micros / 1000, kind, amount, reference, by_whom, balance, held, \
     credit_limit, node FROM (SELECT *, (extract(epoch FROM at) * 1000000)::int8 AS micros \
     FROM imcharge.account_changes WHERE account = $1 \
     AND at <= coalesce('epoch'::timestamptz + $2 * interval '1 microsecond', 'infinity') \
     ORDER BY at DESC LIMIT $3) AS changes";
const CHANGE_FIELDS: &[Field] = &[
    Field::Integer("at"),
    Field::Text("kind"),
    Field::Integer("amount"),
    Field::Text("reference"),
    Field::Text("by"),
    Field::Integer("balance"),
    Field::Integer("held"),
    Field::Integer("limit"),
    Field::Text("node"),
];

const ADDED: &str = "SELECT amount FROM imcharge.changes WHERE account = $1 AND reference = $2 AND kind = 'add'";

/// Sums outside of 64 bits are shown as the nearest number.
const UNBALANCED: &str = "SELECT coalesce(account, next), account, coalesce(balance, 0), coalesce(held, 0), \
     coalesce(debited, 0), least(greatest(changes, -9223372036854775807), 9223372036854775807)::int8, \
     least(greatest(debits, -9223372036854775807), 9223372036854775807)::int8, \
     least(greatest(holds, -9223372036854775807), 9223372036854775807)::int8 FROM imcharge.audit($1, $2) \
     WHERE account IS NOT NULL OR next IS NOT NULL";
const UNBALANCED_FIELDS: &[Field] = &[
    Field::Text("account"),
    Field::Integer("balance"),
    Field::Integer("held"),
    Field::Integer("debited"),
    Field::Integer("recorded"),
    Field::Integer("debits"),
    Field::Integer("holds"),
];

const NODES: &str = "SELECT n.name, n.name, n.epoch, \
     greatest(0, extract(epoch FROM n.lease_until - clock_timestamp()))::int8, coalesce(s.sessions, 0), \
     CASE WHEN n.is_fenced THEN 'taken-over' WHEN n.lease_until < clock_timestamp() THEN 'dead' ELSE 'alive' END, \
     coalesce(n.taken_over_by, ''), n.last_tick FROM imcharge.nodes n \
     LEFT JOIN (SELECT node, count(*) AS sessions FROM imcharge.sessions GROUP BY node) s ON s.node = n.name \
     ORDER BY n.name";
const NODE_FIELDS: &[Field] = &[
    Field::Text("node"),
    Field::Integer("epoch"),
    Field::Integer("lease_left"),
    Field::Integer("sessions"),
    Field::Text("state"),
    Field::Text("taken_over_by"),
    Field::Integer("last_tick"),
];

/// As this node, in its epoch.
const TAKE_OVER: &str =
    "SELECT t.result FROM imcharge.nodes n CROSS JOIN imcharge.take_over(n.name, n.epoch, $2) t WHERE n.name = $1";

const IMPORT: &str = "SELECT item, result, detail FROM imcharge.import_accounts($1, $2, $3, $4, $5, $6, $7, $8, $9)";

/// Name and type of a column to list.
#[derive(Clone, Copy, Debug)]
enum Field {
    Text(&'static str),
    Integer(&'static str),
}

/// A connection for one command.
pub struct Queries {
    client: Client,
    node: String,
    query: Option<AccountQuery>,
    asked: Option<AccountQuery>,
    answer: Option<Result<AccountAnswer, String>>,
    last_error: Option<String>,
}

impl Queries {
    /// Creates it. It connects from the first [`work`](AccountQueries::work) on. `node`: name of this node.
    pub fn new(config: ClientConfig, node: String, now: Time) -> Queries {
        Queries { client: Client::new(config, now), node, query: None, asked: None, answer: None, last_error: None }
    }

    fn send(&mut self, query: &AccountQuery, now: Time) -> Result<(), String> {
        let sent = match query {
            AccountQuery::Account { id } => self.client.query(ACCOUNT, &[Parameter::Text(id)], now),
            AccountQuery::Accounts { first, end, limit } => {
                let parameters = [Parameter::Text(first), Parameter::Text(end), Parameter::Int8(*limit)];
                self.client.query(ACCOUNTS, &parameters, now)
            }
            AccountQuery::Changes { account, from, limit } => {
                let from = from.map_or(Parameter::Null(Type::Int8), Parameter::Int8);
                self.client.query(CHANGES, &[Parameter::Text(account), from, Parameter::Int8(*limit)], now)
            }
            AccountQuery::Added { account, reference } => {
                self.client.query(ADDED, &[Parameter::Text(account), Parameter::Text(reference)], now)
            }
            AccountQuery::Unbalanced { after, limit } => {
                self.client.query(UNBALANCED, &[Parameter::Text(after), Parameter::Int4(*limit)], now)
            }
            AccountQuery::Nodes => self.client.query(NODES, &[], now),
            AccountQuery::TakeOver { dead } => {
                self.client.query(TAKE_OVER, &[Parameter::Text(&self.node), Parameter::Text(dead)], now)
            }
            AccountQuery::Import(import) => return self.send_import(import, now),
        };
        sent.map(|_| ()).map_err(|error| error.to_string())
    }

    fn send_import(&mut self, import: &AccountImport, now: Time) -> Result<(), String> {
        let accounts = &import.accounts;
        let ids: Vec<&str> = accounts.iter().map(|account| account.id.as_str()).collect();
        let column = |of: fn(&ImportedAccount) -> i64| accounts.iter().map(of).collect::<Vec<i64>>();
        let (balances, limits) = (column(|account| account.balance), column(|account| account.limit));
        let (fulls, lows) = (column(|account| account.full), column(|account| account.is_low.into()));
        let parameters = [
            Parameter::Text(&self.node),
            Parameter::Text(&import.ledger),
            Parameter::Text(&import.reference),
            Parameter::Text(&import.by),
            Parameter::TextArray(&ids),
            Parameter::Int8Array(&balances),
            Parameter::Int8Array(&limits),
            Parameter::Int8Array(&fulls),
            Parameter::Int8Array(&lows),
        ];
        self.client.query(IMPORT, &parameters, now).map(|_| ()).map_err(|error| error.to_string())
    }

    fn handle(&mut self, event: ClientEvent) {
        match event {
            ClientEvent::Up { .. } => {}
            ClientEvent::Down { why } => self.last_error = Some(why),
            ClientEvent::Rows(_, rows) => {
                let Some(query) = self.asked.take() else { return };
                let wrong = |error: WrongColumn| format!("an answer of PostgreSQL cannot be read: {error}");
                self.answer = Some(read(&query, &rows).map_err(wrong));
            }
            ClientEvent::Refused(_, error) => self.answer = Some(Err(format!("PostgreSQL refused it: {error}"))),
            ClientEvent::Lost(_) => {
                let why = self.last_error.clone().unwrap_or_else(|| "the connection to PostgreSQL was lost".into());
                self.answer = Some(Err(why));
            }
        }
    }
}

impl AccountQueries for Queries {
    fn ask(&mut self, query: AccountQuery) {
        self.query = Some(query);
    }

    fn work(&mut self, now: Time) {
        self.client.work(now);
        while let Some(event) = self.client.next_event() {
            self.handle(event);
        }
        if self.client.is_ready()
            && let Some(query) = self.query.take()
        {
            match self.send(&query, now) {
                Ok(()) => self.asked = Some(query),
                Err(why) => self.answer = Some(Err(why)),
            }
            self.client.flush(now);
        }
    }

    fn take_answer(&mut self) -> Option<Result<AccountAnswer, String>> {
        self.answer.take()
    }

    fn last_error(&self) -> Option<&str> {
        self.last_error.as_deref()
    }

    fn deadline(&self) -> Option<Time> {
        self.client.deadline()
    }

    fn descriptors(&self) -> Vec<(RawFd, bool)> {
        self.client.descriptors().collect()
    }
}

fn read(query: &AccountQuery, rows: &[Row]) -> Result<AccountAnswer, WrongColumn> {
    match query {
        AccountQuery::Account { .. } | AccountQuery::Accounts { .. } => listed(rows, ACCOUNT_FIELDS),
        AccountQuery::Changes { .. } => listed(rows, CHANGE_FIELDS),
        AccountQuery::Nodes => listed(rows, NODE_FIELDS),
        AccountQuery::Added { .. } => Ok(AccountAnswer::Added(rows.first().map(|row| row.int8(0)).transpose()?)),
        AccountQuery::Unbalanced { .. } => {
            let next = rows.iter().find(|row| row.is_null(1)).map(|row| row.text(0).map(str::to_owned)).transpose()?;
            let differing: Vec<&Row> = rows.iter().filter(|row| !row.is_null(1)).collect();
            let rows = differing.into_iter().map(|row| list_row(row, UNBALANCED_FIELDS)).collect::<Result<_, _>>()?;
            Ok(AccountAnswer::Unbalanced { rows, next })
        }
        AccountQuery::TakeOver { .. } => {
            let result = rows.first().map(|row| row.int2(0)).transpose()?;
            Ok(AccountAnswer::TakenOver(match result {
                Some(0) => TakeoverOutcome::Done,
                Some(1) => TakeoverOutcome::HasLease,
                Some(2) => TakeoverOutcome::TakenByOther,
                Some(3) => TakeoverOutcome::Unknown,
                _ => TakeoverOutcome::NotJoined,
            }))
        }
        AccountQuery::Import(_) => imported(rows).map(AccountAnswer::Imported),
    }
}

fn listed(rows: &[Row], fields: &[Field]) -> Result<AccountAnswer, WrongColumn> {
    rows.iter().map(|row| list_row(row, fields)).collect::<Result<_, _>>().map(AccountAnswer::Rows)
}

/// Reads a row whose first column is the cursor.
fn list_row(row: &Row, fields: &[Field]) -> Result<QueryRow, WrongColumn> {
    let value = |(at, field): (usize, &Field)| match *field {
        Field::Text(name) => Ok((name, StatusValue::Text(row.text(at + 1)?.to_owned()))),
        Field::Integer(name) => Ok((name, StatusValue::Integer(row.int8(at + 1)?))),
    };
    let fields = fields.iter().enumerate().map(value).collect::<Result<StatusEntry, _>>()?;
    Ok(QueryRow { cursor: row.text(0)?.to_owned(), fields })
}

fn imported(rows: &[Row]) -> Result<ImportOutcome, WrongColumn> {
    let mut accounts = Vec::with_capacity(rows.len());
    for row in rows {
        let (item, result) = (row.int4(0)?, row.int2(1)?);
        let detail = || row.text(2).map(str::to_owned);
        let result = match (item, result) {
            (0, 1) => return Ok(ImportOutcome::LedgerImported(detail()?)),
            (0, 2) => return Ok(ImportOutcome::ReferenceUsed(detail()?)),
            (0, _) => continue,
            (_, 0) => ImportResult::Done,
            (_, 14) => ImportResult::Repeated,
            (_, 13) => ImportResult::Differs(detail()?.parse().unwrap_or_default()),
            (_, 10) => ImportResult::AboveMaximum,
            (_, 11) => ImportResult::BelowLimit,
            _ => ImportResult::Overflow,
        };
        accounts.push((usize::try_from(item).unwrap_or_default().saturating_sub(1), result));
    }
    Ok(ImportOutcome::Accounts(accounts))
}
