//! Queries of operators about accounts in a database that nodes share. The process that runs the command asks them over a
//! connection of its own, so that they cost the engine nothing.

use super::StatusEntry;
use crate::charge::time::Time;
use std::os::fd::RawFd;

/// A query of an operator's command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountQuery {
    /// One account. Answer: [`AccountAnswer::Rows`], at most one.
    Account {
        /// Its id.
        id: String,
    },
    /// Accounts in the order of their ids. Answer: [`AccountAnswer::Rows`].
    Accounts {
        /// The first id.
        first: String,
        /// The end of the ids, which is not listed.
        end: String,
        /// Most rows.
        limit: i64,
    },
    /// Changes of an account, latest first. Answer: [`AccountAnswer::Rows`].
    Changes {
        /// Id of the account.
        account: String,
        /// Time of the first row, UNIX microseconds; `None`: the latest.
        from: Option<i64>,
        /// Most rows.
        limit: i64,
    },
    /// The `account.add` with this reference. Answer: [`AccountAnswer::Added`].
    Added {
        /// Id of the account.
        account: String,
        /// The operator's reference.
        reference: String,
    },
    /// Accounts that differ from their changes, debits or holds. Answer: [`AccountAnswer::Unbalanced`].
    Unbalanced {
        /// The accounts after this id are compared.
        after: String,
        /// How many are compared.
        limit: i32,
    },
    /// The nodes. Answer: [`AccountAnswer::Rows`].
    Nodes,
    /// Makes this node take over another one. Answer: [`AccountAnswer::TakenOver`].
    TakeOver {
        /// Name of the dead node.
        dead: String,
    },
    /// Adds accounts of this node's embedded ledger. Answer: [`AccountAnswer::Imported`].
    Import(AccountImport),
}

/// Accounts of an embedded ledger for the shared one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountImport {
    /// Random number of the embedded ledger.
    pub ledger: String,
    /// The operator's reference.
    pub reference: String,
    /// Who imports.
    pub by: String,
    /// The accounts.
    pub accounts: Vec<ImportedAccount>,
}

/// An account of an embedded ledger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImportedAccount {
    /// Its id.
    pub id: String,
    /// Its balance.
    pub balance: i64,
    /// Its credit limit.
    pub limit: i64,
    /// Units that were left after its last top-up.
    pub full: i64,
    /// Whether its units left have fallen to `low_balance`.
    pub is_low: bool,
}

/// Answer to an [`AccountQuery`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountAnswer {
    /// Rows to list.
    Rows(Vec<QueryRow>),
    /// The amount that was added; `None`: there is no such change.
    Added(Option<i64>),
    /// Accounts that differ.
    Unbalanced {
        /// They.
        rows: Vec<QueryRow>,
        /// The last account compared; `None`: there are no more.
        next: Option<String>,
    },
    /// What became of a takeover.
    TakenOver(TakeoverOutcome),
    /// What became of an import.
    Imported(ImportOutcome),
}

/// A row to list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryRow {
    /// Where a page that begins with this row starts.
    pub cursor: String,
    /// Its fields.
    pub fields: StatusEntry,
}

/// What became of a takeover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeoverOutcome {
    /// The engine of this node adopts the sessions at its next scan.
    Done,
    /// The lease of the other node is not over.
    HasLease,
    /// A third node takes it over.
    TakenByOther,
    /// There is no such node.
    Unknown,
    /// This node has not joined, or was taken over itself.
    NotJoined,
}

/// What became of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportOutcome {
    /// One result for each account, by its position.
    Accounts(Vec<(usize, ImportResult)>),
    /// Nothing was changed: this ledger was imported under this other reference.
    LedgerImported(String),
    /// Nothing was changed: the reference is that of this other ledger.
    ReferenceUsed(String),
}

/// What became of one account of an import.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImportResult {
    /// It is imported.
    Done,
    /// It was imported before.
    Repeated,
    /// It was imported before, with this balance.
    Differs(i64),
    /// Its balance or credit limit would be above the largest.
    AboveMaximum,
    /// Its balance would be below minus its credit limit.
    BelowLimit,
    /// A sum would not fit.
    Overflow,
}

/// A connection for one command. No call blocks.
pub trait AccountQueries {
    /// Asks a query, once. It is sent when a server is found.
    fn ask(&mut self, query: AccountQuery);

    /// Connects, reads and writes.
    fn work(&mut self, now: Time);

    /// Takes the answer. The error is a sentence. A query that failed may have been executed.
    fn take_answer(&mut self) -> Option<Result<AccountAnswer, String>>;

    /// Why no server could be used so far.
    fn last_error(&self) -> Option<&str>;

    /// When [`work`](AccountQueries::work) must be called at the latest.
    fn deadline(&self) -> Option<Time>;

    /// The descriptors to poll for reading; `true`: for writing as well.
    fn descriptors(&self) -> Vec<(RawFd, bool)>;
}
