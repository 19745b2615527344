//! Records of the event rings: what host processes send to the engine.

use crate::charge::event::Entry;
use crate::charge::time::Time;
pub use crate::config::AccountChange;
use serde::{Deserialize, Serialize};

/// A record of an event ring, encoded by postcard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// An event of a session.
    Event(#[serde(borrow)] Entry<'a>),
    /// The host closed a connection: concerns all sessions that used it.
    ConnectionLost {
        /// When it was closed.
        at: Time,
        /// The host's number of the connection.
        connection: u64,
    },
    /// A command of an operator.
    Command {
        /// When it was sent.
        at: Time,
        /// Index of the process that waits for the reply.
        process: u32,
        /// That process's number for this command.
        sequence: u64,
        /// The command.
        #[serde(borrow)]
        command: Command<'a>,
    },
}

impl Record<'_> {
    /// Returns when it happened.
    pub fn at(&self) -> Time {
        match self {
            Record::Event(entry) => entry.at,
            Record::ConnectionLost { at, .. } | Record::Command { at, .. } => *at,
        }
    }
}

/// A command of an operator to the engine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Update the tables of the ledger before they are read.
    ShowAll,
    /// Decide about the held debits of a call (`resend=hold`).
    Resolve {
        /// Call-ID of the session.
        call_id: &'a str,
        /// Send them again; else they count as debited.
        again: bool,
    },
    /// Change an account.
    Account {
        /// Canonical id of the account.
        account: &'a str,
        /// What to change.
        change: AccountChange,
        /// Reference of the operator; empty: none.
        reference: &'a str,
        /// Who changes it.
        by: &'a str,
    },
}

/// Result of a command, as stored in the reply slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CommandResult {
    /// Executed and committed.
    Done = 0,
    /// The account does not exist.
    UnknownAccount = 1,
    /// The balance would be above its maximum.
    AboveMaximum = 2,
    /// The balance would be below minus the credit limit.
    BelowLimit = 3,
    /// The account has a balance, or units of it are held.
    NotEmpty = 4,
    /// The same command was executed before under its reference; the reply is that of the first one.
    Duplicate = 5,
    /// The reference was used for another amount.
    ReferenceUsed = 6,
    /// The call has no held debits.
    NothingHeld = 7,
    /// A sum of balance, held units and credit limit would not fit into 64 bits.
    Overflow = 8,
}

impl CommandResult {
    const ALL: [CommandResult; 9] = [
        CommandResult::Done,
        CommandResult::UnknownAccount,
        CommandResult::AboveMaximum,
        CommandResult::BelowLimit,
        CommandResult::NotEmpty,
        CommandResult::Duplicate,
        CommandResult::ReferenceUsed,
        CommandResult::NothingHeld,
        CommandResult::Overflow,
    ];

    /// Converts the code in the reply slot; `None`: no engine writes it.
    pub fn from_code(code: u32) -> Option<CommandResult> {
        CommandResult::ALL.into_iter().find(|result| *result as u32 == code)
    }
}

/// Reply of the engine to a command, with the account after it; zeros if there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Result.
    pub result: CommandResult,
    /// Balance of the account.
    pub balance: i64,
    /// Units held of the account.
    pub held: i64,
    /// Credit limit of the account.
    pub limit: i64,
}

impl Reply {
    /// Returns a reply that concerns no account.
    pub fn without_account(result: CommandResult) -> Reply {
        Reply { result, balance: 0, held: 0, limit: 0 }
    }
}
