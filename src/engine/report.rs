//! What operators ask (RPC, MI): structures with named fields.

mod audit;
mod explain;

use super::config::BALANCE_MAX;
use super::record::{Command as Change, CommandResult};
use super::region::Region;
use super::statistic::Statistic;
use super::store::LEDGER;
use super::worker::Worker;
use crate::charge::session::Session;
use crate::charge::tariff::NoTariff;
use crate::wire::identity;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags};
use std::time::Duration;

/// An answer: structures with named fields, never text to be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number.
    Integer(i64),
    /// Text.
    Text(String),
    /// Named fields.
    Structure(Vec<(&'static str, Value)>),
    /// A list.
    List(Vec<Value>),
}

/// Why there is no answer: a SIP-like code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code} {text}")]
pub struct CommandError {
    /// 400 wrong use, 404 no such thing, 500 the ledger cannot be read, 503 the engine does not answer.
    pub code: u32,
    /// A sentence.
    pub text: String,
}

/// A command as the hosts export it.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Name without the module: `account.get`.
    pub name: &'static str,
    /// Names of its arguments; an optional one stands in brackets.
    pub arguments: &'static [&'static str],
    /// What it does, one line.
    pub help: &'static str,
}

/// Every command, in the order of the manual.
pub const COMMANDS: &[Command] = &[
    Command { name: "stats", arguments: &[], help: "All counters." },
    Command { name: "sessions", arguments: &[], help: "The open sessions." },
    Command { name: "session", arguments: &["CALLID"], help: "The sessions of one call, open or closed." },
    Command {
        name: "explain",
        arguments: &["CALLID", "[STEP]"],
        help: "What happened in a call, step by step, by which rule, and the money.",
    },
    Command { name: "audit", arguments: &["[ROWS]"], help: "Where money and messages do not meet." },
    Command {
        name: "account.set",
        arguments: &["ID", "BALANCE"],
        help: "Sets the balance of an account; makes it if need be.",
    },
    Command { name: "account.add", arguments: &["ID", "AMOUNT"], help: "Adds to the balance of an account." },
    Command { name: "account.get", arguments: &["ID"], help: "One account." },
    Command { name: "accounts", arguments: &[], help: "All accounts." },
    Command { name: "debits", arguments: &["[ID]"], help: "The latest debits, of one account or of all." },
    Command { name: "outbox", arguments: &[], help: "Debits that the enabler has not acknowledged." },
    Command {
        name: "outbox.resend",
        arguments: &["CALLID"],
        help: "Asks again for the debits of a call that are held back (resend=hold).",
    },
    Command {
        name: "outbox.release",
        arguments: &["CALLID"],
        help: "Counts the debits of a call that are held back as taken (resend=hold).",
    },
    Command { name: "peers", arguments: &[], help: "The Diameter peers, as they stand now." },
    Command { name: "reload", arguments: &["[TARIFF]"], help: "Sets the tariff for sessions opened from now on." },
];

/// Most rows of a list.
const ROWS_MAX: i64 = 1000;

/// Runs a command. Reads come from the ledger's tables, which the engine brings up to date first; changes go through
/// `worker` to the engine and wait for its commit, one second at most.
pub fn run(name: &str, arguments: &[&str], region: &Region, worker: &mut Worker) -> Result<Value, CommandError> {
    let command = COMMANDS.iter().find(|command| command.name == name);
    let command = command.ok_or_else(|| refuse(404, format!("no such command: {name}")))?;
    let least = command.arguments.iter().filter(|argument| !argument.starts_with('[')).count();
    if !(least..=command.arguments.len()).contains(&arguments.len()) {
        return Err(refuse(400, format!("usage: imcharge.{name} {}", command.arguments.join(" "))));
    }
    let argument = |at: usize| arguments.get(at).copied().unwrap_or_default();
    match name {
        "stats" => Ok(stats(region)),
        "account.set" => {
            let (id, balance) = (account_id(argument(0))?, number(argument(1))?);
            change(worker, &id, Change::SetBalance { account: &id, balance })
        }
        "account.add" => {
            let (id, amount) = (account_id(argument(0))?, number(argument(1))?);
            change(worker, &id, Change::AddBalance { account: &id, amount })
        }
        "outbox.resend" => resolve(worker, argument(0), true),
        "outbox.release" => resolve(worker, argument(0), false),
        "reload" => reload(argument(0), region),
        _ => {
            // Without an engine the tables say what they can.
            worker.command(Change::ShowAll);
            let ledger = Reader::open(region)?;
            match name {
                "sessions" => ledger.open_sessions(),
                "session" => ledger.sessions_of(argument(0)),
                "explain" => ledger.explain(argument(0), step(argument(1))?, region.config.unit),
                "audit" => ledger.audit(argument(0)),
                "account.get" => ledger.one_account(&account_id(argument(0))?),
                "accounts" => ledger.accounts(),
                "debits" if arguments.is_empty() => ledger.debits("%"),
                "debits" => ledger.debits(&account_id(argument(0))?),
                "peers" => ledger.peers(),
                _ => ledger.outbox(),
            }
        }
    }
}

fn refuse(code: u32, text: impl Into<String>) -> CommandError {
    CommandError { code, text: text.into() }
}

fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn number(text: &str) -> Result<i64, CommandError> {
    let within = |value: &i64| (-BALANCE_MAX..=BALANCE_MAX).contains(value);
    let range = || refuse(400, format!("'{text}' is not a whole number of units, at most {BALANCE_MAX}"));
    text.parse().ok().filter(within).ok_or_else(range)
}

fn account_id(text: &str) -> Result<String, CommandError> {
    let wrong = || refuse(400, format!("'{text}' is no account: give sip:user@host or tel:+digits"));
    identity::canonical(text.as_bytes()).ok_or_else(wrong)
}

/// The number of a step; none is the first.
fn step(text: &str) -> Result<i64, CommandError> {
    let wrong = || refuse(400, format!("'{text}' is no number of a step"));
    if text.is_empty() { Ok(0) } else { text.parse().ok().filter(|step| *step >= 0).ok_or_else(wrong) }
}

fn no_session(call_id: &str) -> CommandError {
    refuse(404, format!("no session with Call-ID {call_id}"))
}

fn stats(region: &Region) -> Value {
    Value::Structure(Statistic::ALL.iter().map(|one| (one.name(), integer(region.statistic(*one)))).collect())
}

fn reload(tariff: &str, region: &Region) -> Result<Value, CommandError> {
    if !tariff.is_empty() {
        let wanted = tariff.parse().map_err(|error: NoTariff| refuse(400, format!("'{tariff}': {error}")))?;
        let mut config = region.config.clone();
        config.tariff = wanted;
        config.check().map_err(|error| refuse(400, error.to_string()))?;
        region.set_tariff(wanted);
    } else {
        region.set_tariff(region.config.tariff);
    }
    Ok(Value::Structure(vec![("tariff", Value::Text(region.tariff().to_string()))]))
}

/// An operator's word about what is held back.
fn resolve(worker: &mut Worker, call_id: &str, again: bool) -> Result<Value, CommandError> {
    let answer = worker.command(Change::Resolve { call_id, again });
    match answer.ok_or_else(|| refuse(503, "the engine does not answer; ask again before you repeat it"))? {
        (CommandResult::Done, ..) => Ok(Value::Structure(vec![("callid", Value::Text(call_id.into()))])),
        _ => Err(refuse(404, format!("no debit of {call_id} is held back"))),
    }
}

fn change(worker: &mut Worker, id: &str, command: Change<'_>) -> Result<Value, CommandError> {
    let answer = worker.command(command);
    let (result, balance, held) =
        answer.ok_or_else(|| refuse(503, "the engine does not answer; ask again before you repeat a change"))?;
    match result {
        CommandResult::Done => Ok(Value::Structure(vec![
            ("id", Value::Text(id.into())),
            ("balance", Value::Integer(balance)),
            ("held", Value::Integer(held)),
        ])),
        CommandResult::UnknownAccount | CommandResult::NothingHeld => {
            Err(refuse(404, format!("no account {id}; make it with account.set")))
        }
        CommandResult::OutOfRange => Err(refuse(400, format!("the balance of {id} would leave its range"))),
    }
}

/// The ledger, for reading.
struct Reader {
    connection: Connection,
}

impl Reader {
    fn open(region: &Region) -> Result<Reader, CommandError> {
        let path = region.config.state_dir.join(LEDGER);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&path, flags).map_err(cannot_read)?;
        connection.busy_timeout(Duration::from_millis(500)).map_err(cannot_read)?;
        // What one answer says is of one moment.
        connection.execute_batch("BEGIN").map_err(cannot_read)?;
        Ok(Reader { connection })
    }

    /// All rows of a query, at most [`ROWS_MAX`], as structures named like the columns.
    fn rows(
        &self,
        sql: &str,
        names: &[&'static str],
        values: impl rusqlite::Params,
    ) -> Result<Vec<Value>, CommandError> {
        let read = || {
            let mut statement = self.connection.prepare(&format!("{sql} LIMIT {ROWS_MAX}"))?;
            let rows = statement.query_map(values, |row| {
                let field = |(at, name): (usize, &&'static str)| Ok((*name, value(row.get_ref(at)?)));
                names.iter().enumerate().map(field).collect::<rusqlite::Result<Vec<_>>>()
            })?;
            rows.map(|row| row.map(Value::Structure)).collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(cannot_read)
    }

    fn open_sessions(&self) -> Result<Value, CommandError> {
        self.rows(
            "SELECT call_id, account, direction, tariff, opened_at, phase, granted, \
             (SELECT count(*) FROM debits WHERE session=sessions.id), \
             coalesce((SELECT units FROM holds WHERE session=sessions.id), 0) \
             FROM sessions WHERE closed_at IS NULL AND id IN (SELECT session FROM states) ORDER BY id",
            &["callid", "account", "direction", "tariff", "opened_at", "phase", "granted", "messages", "held"],
            [],
        )
        .map(Value::List)
    }

    /// The sessions of a call, with their debits.
    fn sessions_of(&self, call_id: &str) -> Result<Value, CommandError> {
        let read = || {
            let mut statement = self.connection.prepare(
                "SELECT id, key, call_id, account, other, icid, direction, tariff, opened_at, closed_at, phase, granted, \
                 coalesce((SELECT units FROM holds WHERE session=sessions.id), 0) \
                 FROM sessions WHERE call_id=?1 ORDER BY id LIMIT 100",
            )?;
            let names = SESSION_FIELDS.iter().enumerate();
            let rows = statement.query_map([call_id], |row| {
                let fields = names.clone().map(|(at, name)| Ok((*name, value(row.get_ref(at + 1)?))));
                Ok((row.get::<_, i64>(0)?, fields.collect::<rusqlite::Result<Vec<_>>>()?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        let found = read().map_err(cannot_read)?;
        if found.is_empty() {
            return Err(no_session(call_id));
        }
        let whole = found.into_iter().map(|(row, mut fields)| {
            fields.push(("debits", Value::List(self.debits_where("session=?1", [row])?)));
            Ok(Value::Structure(fields))
        });
        whole.collect::<Result<Vec<_>, _>>().map(Value::List)
    }

    fn peers(&self) -> Result<Value, CommandError> {
        let names = &["host", "address", "state", "in_flight", "last_error"];
        self.rows("SELECT host, address, state, in_flight, last_error FROM peers", names, []).map(Value::List)
    }

    /// Debits that are asked for and not acknowledged, and how long the oldest waits (seconds). The embedded ledger
    /// acknowledges within the commit that asks: its outbox is always empty.
    fn outbox(&self) -> Result<Value, CommandError> {
        let (mut count, mut oldest) = (0, None);
        // One by one: there may be a million of them, and the host keeps the memory of the most that it ever had.
        let mut read = || {
            let mut statement = self.connection.prepare("SELECT state FROM states")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let state = row.get_ref(0)?.as_blob()?;
                let Ok(session) = postcard::from_bytes::<Session>(state) else { continue };
                count += session.debits_pending() as u64;
                oldest = oldest.into_iter().chain(session.oldest_debit()).min();
            }
            Ok(())
        };
        read().map_err(cannot_read)?;
        let age = oldest.map_or(0, |at| super::clock::now().micros_since(at) / 1_000_000);
        Ok(Value::Structure(vec![("count", integer(count)), ("oldest_age", integer(age))]))
    }

    fn one_account(&self, id: &str) -> Result<Value, CommandError> {
        let found = self.rows(&format!("{ACCOUNTS} WHERE id=?1"), ACCOUNT_FIELDS, [id])?;
        found.into_iter().next().ok_or_else(|| refuse(404, format!("no account {id}")))
    }

    fn accounts(&self) -> Result<Value, CommandError> {
        self.rows(&format!("{ACCOUNTS} ORDER BY id"), ACCOUNT_FIELDS, []).map(Value::List)
    }

    /// The latest debits first.
    fn debits(&self, account: &str) -> Result<Value, CommandError> {
        self.debits_where("?1 IN (account, '%')", [account]).map(Value::List)
    }

    fn debits_where(&self, condition: &str, values: impl rusqlite::Params) -> Result<Vec<Value>, CommandError> {
        let sql = format!(
            "SELECT at, call_id, message_id, account, octets, units, trigger, code, refunded_at FROM debits \
             WHERE {condition} ORDER BY id DESC"
        );
        let names = &["at", "callid", "messageid", "account", "octets", "units", "trigger", "code", "refunded_at"];
        self.rows(&sql, names, values)
    }
}

/// Columns of a session, in the order of the query.
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

const ACCOUNTS: &str = "SELECT id, balance, held, debited, credit_limit, \
                        (SELECT count(*) FROM debits WHERE account=accounts.id) FROM accounts";
const ACCOUNT_FIELDS: &[&str] = &["id", "balance", "held", "debited", "credit_limit", "messages"];

/// A column as a field.
fn value(column: ValueRef<'_>) -> Value {
    match column {
        ValueRef::Integer(number) => Value::Integer(number),
        ValueRef::Real(number) => Value::Integer(number as i64),
        ValueRef::Text(text) | ValueRef::Blob(text) => Value::Text(String::from_utf8_lossy(text).into_owned()),
        ValueRef::Null => Value::Integer(0),
    }
}

fn cannot_read(error: rusqlite::Error) -> CommandError {
    refuse(500, format!("the ledger cannot be read: {error}"))
}
