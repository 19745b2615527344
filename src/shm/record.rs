//! What stands in an event ring.

use crate::charge::event::Entry;
use crate::charge::time::Time;
use serde::{Deserialize, Serialize};

/// One record of an event ring, in postcard's encoding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Record<'a> {
    /// Something happened to a session.
    Event(#[serde(borrow)] Entry<'a>),
    /// The host closed a connection: concerns every session that used it.
    ConnectionLost {
        /// When.
        at: Time,
        /// Which.
        connection: u64,
    },
    /// An operator wants something changed.
    Command {
        /// When.
        at: Time,
        /// Process that waits for the answer.
        process: u32,
        /// Its number for this command.
        sequence: u64,
        /// What.
        #[serde(borrow)]
        command: Command<'a>,
    },
}

impl Record<'_> {
    /// When it happened.
    pub fn at(&self) -> Time {
        match self {
            Record::Event(entry) => entry.at,
            Record::ConnectionLost { at, .. } | Record::Command { at, .. } => *at,
        }
    }
}

/// What an operator can change, or wants to see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command<'a> {
    /// Bring the tables up to date, before they are read.
    ShowAll,
    /// Decide about the debits of a call that are held back.
    Resolve {
        /// Its Call-ID.
        call_id: &'a str,
        /// Ask for them again; else they count as taken.
        again: bool,
    },
    /// Set an account's balance; makes the account if need be.
    SetBalance {
        /// Its id, canonical.
        account: &'a str,
        /// New balance, what is held not counted.
        balance: i64,
    },
    /// Add to an account's balance (a negative amount takes away).
    AddBalance {
        /// Its id, canonical.
        account: &'a str,
        /// How much.
        amount: i64,
    },
}

/// How a command ended, as it stands in the reply slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum CommandResult {
    /// Done and committed.
    Done = 0,
    /// There is no such account.
    UnknownAccount = 1,
    /// The balance would leave the range.
    OutOfRange = 2,
    /// Nothing is held back there.
    NothingHeld = 3,
}

impl CommandResult {
    /// From the number in the reply slot.
    pub fn from_code(code: u32) -> CommandResult {
        match code {
            0 => CommandResult::Done,
            1 => CommandResult::UnknownAccount,
            3 => CommandResult::NothingHeld,
            _ => CommandResult::OutOfRange,
        }
    }
}
