//! What operators ask (RPC, MI): structures with named fields.

use super::region::Region;
use super::worker::Worker;

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
    Command { name: "explain", arguments: &["CALLID"], help: "What happened in a call, step by step, and the money." },
    Command { name: "audit", arguments: &[], help: "What is reserved and not settled." },
    Command { name: "account.set", arguments: &["ID", "BALANCE"], help: "Sets the balance of an account; makes it if need be." },
    Command { name: "account.add", arguments: &["ID", "AMOUNT"], help: "Adds to the balance of an account." },
    Command { name: "account.get", arguments: &["ID"], help: "One account." },
    Command { name: "accounts", arguments: &[], help: "All accounts." },
    Command { name: "debits", arguments: &["[ID]"], help: "The latest debits, of one account or of all." },
    Command { name: "outbox", arguments: &[], help: "Debits that the enabler has not acknowledged." },
    Command { name: "reload", arguments: &["[TARIFF]"], help: "Sets the tariff for sessions opened from now on." },
];

/// Runs a command. Reads come from what is committed; changes go through `worker` to the engine and wait
/// for its commit, one second at most.
pub fn run(name: &str, arguments: &[&str], region: &Region, worker: &mut Worker) -> Result<Value, CommandError> {
    let _ = (name, arguments, region, worker);
    unimplemented!()
}
