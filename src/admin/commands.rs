//! The one table of operators' commands: name, arguments, help, handler. kamcmd, JSON-RPC, MI and the C ABI read it.

use super::ledger::Reader;
use super::page::LIMIT_MAX;
use crate::config::tariffs::{InvalidTariffRow, TariffRow};
use crate::config::{Accounts, BALANCE_MAX};
use crate::shm::record::{AccountChange, Command as Change, CommandResult};
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use crate::wire::identity;
use crate::worker::Worker;
use std::borrow::Cow;

/// An answer: structures with named fields, not text that has to be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number, at most 2^53, so that JSON carries it exactly.
    Integer(i64),
    /// Text.
    Text(String),
    /// Named fields.
    Structure(Vec<(&'static str, Value)>),
    /// A list.
    List(Vec<Value>),
}

/// Why a command failed. [`CommandError::sentence`] is the text for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// 400 wrong use, 404 not found, 409 not with this enabler, 500 ledger unreadable, 503 no answer from the engine.
    pub code: u32,
    /// Name of the command, without the module's name; empty: there is no such command.
    command: &'static str,
    text: String,
    /// A command that helps, with its arguments.
    advice: Option<&'static str>,
}

/// Maximum length of a sentence, octets. Kamailio's jsonrpcs truncates a fault at 127.
const SENTENCE_MAX: usize = 127;

impl CommandError {
    /// Returns an error without a hint to another command.
    pub fn new(code: u32, command: &'static Command, text: impl Into<String>) -> CommandError {
        CommandError { code, command: command.name, text: text.into(), advice: None }
    }

    pub(super) fn advise(self, advice: &'static str) -> CommandError {
        CommandError { advice: Some(advice), ..self }
    }

    /// Returns the text for the operator. `prefix` is what the host puts before the names of commands.
    pub fn sentence(&self, prefix: &str) -> String {
        let mut sentence = match self.command {
            "" => self.text.clone(),
            command => format!("{prefix}{command}: {}", self.text),
        };
        if let Some(advice) = self.advice {
            sentence += &format!("; see {prefix}{advice}");
        }
        shortened(&sentence, SENTENCE_MAX).into_owned()
    }
}

/// A command as the hosts export it.
#[derive(Clone, Copy, Debug)]
pub struct Command {
    /// Name without the module: `account.get`.
    pub name: &'static str,
    /// Arguments; optional ones come last.
    pub arguments: &'static [Argument],
    /// What the command does, one line.
    pub help: &'static str,
    run: fn(&mut Call<'_>) -> Result<Value, CommandError>,
}

impl Command {
    /// Returns the command of this name.
    pub fn named(name: &str) -> Option<&'static Command> {
        COMMANDS.iter().find(|command| command.name == name)
    }

    /// Returns the arguments as the manual writes them: `ID [LIMIT] [NEXT]`.
    pub fn usage(&self) -> String {
        let argument = |argument: &Argument| match argument.required {
            true => argument.name.to_owned(),
            false => format!("[{}]", argument.name),
        };
        self.arguments.iter().map(argument).collect::<Vec<_>>().join(" ")
    }

    /// Returns the number of required arguments.
    pub fn required(&self) -> usize {
        self.arguments.iter().filter(|argument| argument.required).count()
    }
}

/// An argument of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Name in the manual, in capitals.
    pub name: &'static str,
    /// Type; checked by hosts whose transports have types.
    pub kind: Kind,
    /// Whether the argument is required.
    pub required: bool,
}

/// Type of an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text, possibly of digits only.
    Text,
    /// Units of an account: 64 bits, possibly negative.
    Amount,
    /// A small number.
    Count,
}

const fn required(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, required: true }
}

const fn optional(name: &'static str, kind: Kind) -> Argument {
    Argument { name, kind, required: false }
}

const CALL_ID: Argument = required("CALLID", Kind::Text);
const ACCOUNT: Argument = required("ID", Kind::Text);
const BY: Argument = optional("BY", Kind::Text);
const LIMIT: Argument = optional("LIMIT", Kind::Count);
const NEXT: Argument = optional("NEXT", Kind::Text);

/// Every command, in the order of the manual.
pub const COMMANDS: &[Command] = &[
    Command { name: "stats", arguments: &[], help: "All counters.", run: |call| Ok(stats(call.region)) },
    Command {
        name: "sessions",
        arguments: &[LIMIT, NEXT],
        help: "The open sessions, page by page.",
        run: |call| call.ledger()?.open_sessions(call.limit(0)?, call.cursor(1)?),
    },
    Command {
        name: "session",
        arguments: &[CALL_ID, NEXT],
        help: "The sessions of one call, open or closed, with their debits.",
        run: |call| call.ledger()?.sessions_of(call, call.cursor(1)?),
    },
    Command {
        name: "explain",
        arguments: &[CALL_ID, NEXT],
        help: "The history of a call: each step, the rule that decided it, and the money.",
        run: |call| call.ledger()?.explain(call, call.cursor(1)?, call.region.config.unit),
    },
    Command {
        name: "ladder",
        arguments: &[CALL_ID, NEXT],
        help: "The message ladder of a call, as lines of text.",
        run: |call| call.ledger()?.ladder(call, call.cursor(1)?),
    },
    Command {
        name: "audit",
        arguments: &[optional("LIST", Kind::Text), LIMIT, NEXT],
        help: "Mismatches between messages and money.",
        run: |call| call.ledger()?.audit(call),
    },
    Command {
        name: "account.set",
        arguments: &[ACCOUNT, required("BALANCE", Kind::Amount), optional("REFERENCE", Kind::Text), BY],
        help: "Sets the balance of an account; creates the account if it does not exist.",
        run: |call| call.change_account(AccountChange::Set(call.amount(1)?), 2, 3),
    },
    Command {
        name: "account.add",
        arguments: &[ACCOUNT, required("AMOUNT", Kind::Amount), required("REFERENCE", Kind::Text), BY],
        help: "Adds to the balance of an account, once for each reference.",
        run: |call| call.change_account(AccountChange::Add(call.amount(1)?), 2, 3),
    },
    Command {
        name: "account.limit",
        arguments: &[ACCOUNT, required("LIMIT", Kind::Amount), BY],
        help: "Sets the credit limit of an account: how far its balance may fall below 0.",
        run: |call| call.change_account(AccountChange::Limit(call.credit_limit(1)?), usize::MAX, 2),
    },
    Command {
        name: "account.remove",
        arguments: &[ACCOUNT, BY],
        help: "Removes an account whose balance and held units are 0.",
        run: |call| call.change_account(AccountChange::Remove, usize::MAX, 1),
    },
    Command {
        name: "account.get",
        arguments: &[ACCOUNT],
        help: "One account.",
        run: |call| {
            let account = call.account(0)?;
            let found = match call.is_in_database() {
                true => call.database()?.one_account(&account)?,
                false => call.ledger()?.one_account(&account)?,
            };
            found.ok_or_else(|| call.no_account(&account))
        },
    },
    Command {
        name: "account.list",
        arguments: &[optional("PREFIX", Kind::Text), LIMIT, NEXT],
        help: "All accounts, or those whose IDs start with a prefix, page by page.",
        run: |call| {
            call.needs_accounts()?;
            let (limit, next) = (call.limit(1)?, call.text(2).to_owned());
            let prefix = if call.text(0) == ALL { "" } else { call.text(0) }.to_owned();
            match call.is_in_database() {
                true => call.database()?.accounts(&prefix, limit, &next),
                false => call.ledger()?.accounts(&prefix, limit, &next),
            }
        },
    },
    Command {
        name: "account.history",
        arguments: &[ACCOUNT, LIMIT, NEXT],
        help: "The changes of an account, latest first, page by page.",
        run: |call| {
            let account = call.account(0)?;
            let (limit, from) = (call.limit(1)?, call.cursor(2)?);
            let history = match call.is_in_database() {
                true => call.database()?.history(&account, limit, from)?,
                false => call.ledger()?.history(&account, limit, from)?,
            };
            history.ok_or_else(|| call.no_account(&account))
        },
    },
    Command {
        name: "account.import",
        arguments: &[required("REFERENCE", Kind::Text), LIMIT, NEXT],
        help: "Adds the accounts of this node's embedded ledger to the shared ledger, page by page, each once.",
        run: |call| call.import_accounts(),
    },
    Command {
        name: "nodes",
        arguments: &[],
        help: "The nodes of the shared ledger: epoch, lease and sessions.",
        run: |call| call.database()?.nodes(),
    },
    Command {
        name: "takeover",
        arguments: &[required("NODE", Kind::Text)],
        help: "Makes this node settle the sessions of another one whose lease is over.",
        run: |call| call.take_over(),
    },
    Command {
        name: "debits",
        arguments: &[optional("ID", Kind::Text), LIMIT, NEXT],
        help: "The debits of one account or of all, latest first, page by page.",
        run: |call| {
            let account = match call.text(0) {
                "" | ALL => None,
                id => Some(call.canonical(0, id, "an account (sip:user@host, tel:+digits) or 'all'")?),
            };
            call.ledger()?.debits(account.as_deref(), call.limit(1)?, call.cursor(2)?)
        },
    },
    Command {
        name: "outbox",
        arguments: &[],
        help: "Debits that the enabler has not acknowledged.",
        run: |call| call.ledger()?.outbox(),
    },
    Command {
        name: "outbox.resend",
        arguments: &[CALL_ID],
        help: "Sends the debits on hold of a call again (resend=hold).",
        run: |call| call.resolve(true),
    },
    Command {
        name: "outbox.release",
        arguments: &[CALL_ID],
        help: "Settles the debits on hold of a call as taken (resend=hold).",
        run: |call| call.resolve(false),
    },
    Command {
        name: "peers",
        arguments: &[],
        help: "The servers of the enabler (Diameter: the peers) and their state.",
        run: |call| call.ledger()?.enabler_status(call.region.config.enabler.status_fields),
    },
    Command {
        name: "tariff",
        arguments: &[],
        help: "The tariffs: prices of new sessions, configured prices, and what each applies to.",
        run: |call| Ok(tariffs(call.region)),
    },
    Command {
        name: "reload",
        arguments: &[optional("TARIFF", Kind::Text)],
        help: "Sets the prices of a tariff for new sessions; without an argument, of all tariffs to the configured ones.",
        run: |call| call.reload(),
    },
];

/// Value of an argument that selects everything.
pub(super) const ALL: &str = "all";

/// Runs a command.
///
/// Reads come from the ledger's tables, which the engine updates first. Changes go through `worker` to the engine and wait
/// up to one second for its commit. An empty argument counts as omitted.
pub fn run(name: &str, arguments: &[&str], region: &Region, worker: &mut Worker) -> Result<Value, CommandError> {
    let Some(command) = Command::named(name) else {
        let text = format!("there is no command '{}'", shown(name));
        return Err(CommandError { code: 404, command: "", text, advice: None });
    };
    if !(command.required()..=command.arguments.len()).contains(&arguments.len()) {
        let takes = if command.arguments.is_empty() { "no arguments".to_owned() } else { command.usage() };
        return Err(CommandError::new(400, command, format!("takes {takes}; arguments given: {}", arguments.len())));
    }
    (command.run)(&mut Call { command, arguments, region, worker })
}

/// One run of a command.
pub(crate) struct Call<'a> {
    pub(super) command: &'static Command,
    arguments: &'a [&'a str],
    region: &'a Region,
    pub(super) worker: &'a mut Worker,
}

impl Call<'_> {
    pub(super) fn region(&self) -> &Region {
        self.region
    }

    /// Returns an argument as given; empty: omitted.
    pub(super) fn text(&self, at: usize) -> &str {
        self.arguments.get(at).copied().unwrap_or_default()
    }

    pub(super) fn fails(&self, code: u32, text: impl Into<String>) -> CommandError {
        CommandError::new(code, self.command, text)
    }

    /// Returns the error for an argument that is not `accepted`.
    pub(super) fn wrong(&self, at: usize, accepted: &str) -> CommandError {
        let name = self.command.arguments[at].name;
        self.fails(400, format!("{name} '{}' is not {accepted}", shown(self.text(at))))
    }

    pub(super) fn amount(&self, at: usize) -> Result<i64, CommandError> {
        let within = |amount: &i64| (-BALANCE_MAX..=BALANCE_MAX).contains(amount);
        let wrong = || self.wrong(at, &format!("a whole number from -{BALANCE_MAX} to {BALANCE_MAX}"));
        self.text(at).parse().ok().filter(within).ok_or_else(wrong)
    }

    /// Parses the limit of rows; `None`: the default.
    pub(super) fn limit(&self, at: usize) -> Result<Option<usize>, CommandError> {
        if self.text(at).is_empty() {
            return Ok(None);
        }
        let limit = self.text(at).parse().ok().filter(|limit| (1..=LIMIT_MAX).contains(limit));
        limit.map(Some).ok_or_else(|| self.wrong(at, &format!("a whole number from 1 to {LIMIT_MAX}")))
    }

    /// Parses the cursor that the page starts at.
    pub(super) fn cursor<C: super::page::Cursor>(&self, at: usize) -> Result<Option<C>, CommandError> {
        match self.text(at) {
            "" => Ok(None),
            next => C::parse(next).map(Some).ok_or_else(|| self.no_cursor(at)),
        }
    }

    pub(super) fn no_cursor(&self, at: usize) -> CommandError {
        self.wrong(at, "the 'next' of an answer to this command")
    }

    pub(super) fn canonical(&self, at: usize, id: &str, accepted: &str) -> Result<String, CommandError> {
        identity::canonical(id.as_bytes()).ok_or_else(|| self.wrong(at, accepted))
    }

    /// Parses the id of an account.
    pub(super) fn account(&self, at: usize) -> Result<String, CommandError> {
        self.needs_accounts()?;
        self.canonical(at, self.text(at), "an account: sip:user@host or tel:+digits")
    }

    /// Fails unless the embedded or the shared ledger keeps the accounts.
    pub(super) fn needs_accounts(&self) -> Result<(), CommandError> {
        let enabler = self.region.config.enabler;
        if enabler.capabilities.accounts != Accounts::AtServer {
            return Ok(());
        }
        let text = format!("with enabler={} the charging system keeps the accounts, not imcharge", enabler.name);
        Err(self.fails(409, text).advise("debits"))
    }

    pub(super) fn no_account(&self, id: &str) -> CommandError {
        self.fails(404, format!("there is no account '{}'", shown(id))).advise("account.set ID BALANCE")
    }

    pub(super) fn no_session(&self) -> CommandError {
        self.fails(404, format!("there is no session with the Call-ID '{}'", shown(self.text(0))))
    }

    pub(super) fn no_answer(&self, look: &'static str) -> CommandError {
        self.fails(503, "the engine does not answer; check before you repeat the command").advise(look)
    }

    /// Opens the ledger for reading. The engine updates the tables first; without an engine they are read as they are.
    pub(super) fn ledger(&mut self) -> Result<Reader, CommandError> {
        self.worker.command(Change::ShowAll);
        Reader::open(self.command, self.region)
    }

    /// Resends or settles the debits on hold of a call.
    pub(super) fn resolve(&mut self, again: bool) -> Result<Value, CommandError> {
        let call_id = self.arguments[0];
        let answer = self.worker.command(Change::Resolve { call_id, again });
        match answer.ok_or_else(|| self.no_answer("audit waiting"))?.result {
            CommandResult::Done => Ok(Value::Structure(vec![("callid", Value::Text(call_id.into()))])),
            _ => Err(self.fails(404, format!("no debit of the Call-ID '{}' is on hold", shown(call_id)))),
        }
    }

    pub(super) fn reload(&mut self) -> Result<Value, CommandError> {
        let config = &self.region.config;
        if self.text(0).is_empty() {
            self.region.reset_tariffs();
            return Ok(tariffs(self.region));
        }
        let row: TariffRow = self.text(0).parse().map_err(|_: InvalidTariffRow| {
            self.wrong(0, "a tariff as in the configuration: message:PRICE[;name=NAME]...")
        })?;
        config
            .check_tariff(&row)
            .map_err(|error| self.wrong(0, &format!("allowed with {}; accepted: {}", error.with, error.accepted)))?;
        let place = config.tariffs.place_of(&row.applies_to).ok_or_else(|| {
            self.fails(404, format!("no configured tariff has the conditions of '{}'", shown(self.text(0))))
                .advise("tariff")
        })?;
        self.region.set_tariff(place, row.tariff);
        Ok(tariffs(self.region))
    }
}

/// Shortens a value for an error text.
pub(super) fn shown(value: &str) -> Cow<'_, str> {
    shortened(value, 28)
}

/// Truncates a text to `most` octets.
fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let end = (0..=most - 3).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}...", &text[..end]).into()
}

pub(super) fn integer(value: u64) -> Value {
    Value::Integer(i64::try_from(value).unwrap_or(i64::MAX))
}

fn stats(region: &Region) -> Value {
    Value::Structure(Statistic::ALL.iter().map(|one| (one.name(), integer(region.statistic(*one)))).collect())
}

fn tariffs(region: &Region) -> Value {
    let text = |text: String| Value::Text(text);
    let rows = region.config.tariffs.rows().iter().enumerate().map(|(number, row)| {
        let mut fields =
            vec![("tariff", text(region.tariff(number).to_string())), ("configured", text(row.tariff.to_string()))];
        fields.extend(row.applies_to.conditions().map(|(name, value)| (name, text(value.to_owned()))));
        Value::Structure(fields)
    });
    Value::Structure(vec![("tariffs", Value::List(rows.collect()))])
}
