//! Records of the event rings: what host processes send to the engine.

use crate::charge::event::Entry;
use crate::charge::time::Time;
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
    /// Set the balance of an account; creates the account if necessary.
    SetBalance {
        /// Canonical id of the account.
        account: &'a str,
        /// New balance, without held amounts.
        balance: i64,
    },
    /// Add to the balance of an account.
    AddBalance {
        /// Canonical id of the account.
        account: &'a str,
        /// Amount to add; negative to subtract.
        amount: i64,
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
    /// The balance would be out of range.
    OutOfRange = 2,
    /// The call has no held debits.
    NothingHeld = 3,
}

impl CommandResult {
    /// Converts the code in the reply slot.
    pub fn from_code(code: u32) -> CommandResult {
        match code {
            0 => CommandResult::Done,
            1 => CommandResult::UnknownAccount,
            3 => CommandResult::NothingHeld,
            _ => CommandResult::OutOfRange,
        }
    }
}
