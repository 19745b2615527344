//! Queries of the binding and their outcomes, without SQL.

use super::tick::Tick;
use crate::charge::ch2::SessionKey;
use crate::charge::time::Time;
use crate::enabler::StatusEntry;
use std::os::fd::RawFd;

/// A statement of the shared ledger, for this node.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Query<'a> {
    /// Becomes a member, or remains one: `imcharge.join`.
    Join,
    /// Executes requests and stores states: `imcharge.tick`.
    Tick {
        /// Epoch of this node.
        epoch: i64,
        /// The requests and states.
        tick: &'a Tick,
    },
    /// Asks which nodes are to be taken over: `imcharge.dead_nodes`.
    DeadNodes,
    /// Ends the epoch of a dead node: `imcharge.take_over`.
    TakeOver {
        /// Epoch of this node.
        epoch: i64,
        /// The dead node.
        dead: &'a str,
    },
    /// Takes sessions of ended epochs: `imcharge.adopt`.
    Adopt {
        /// Epoch of this node.
        epoch: i64,
        /// Node that had them.
        dead: &'a str,
        /// Most sessions that are taken at once.
        limit: i32,
    },
}

/// Answer to a [`Query`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Query::Join`].
    Joined(Joined),
    /// To [`Query::Tick`].
    Ticked(Ticked),
    /// To [`Query::DeadNodes`].
    DeadNodes {
        /// Their names.
        names: Vec<String>,
        /// Number of synchronous standbys of the server.
        standbys: i32,
    },
    /// To [`Query::TakeOver`].
    TakenOver(TakeOverResult),
    /// To [`Query::Adopt`].
    Adopted(Vec<AdoptedRow>),
}

/// What became of a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Joined {
    /// This node continues its epoch.
    Kept {
        /// The epoch.
        epoch: i64,
        /// The next tick has the number after this one.
        last_tick: i64,
    },
    /// This node begins a new epoch: its earlier sessions are taken over or lost.
    Anew {
        /// The epoch.
        epoch: i64,
        /// The next tick has the number after this one.
        last_tick: i64,
    },
    /// A proxy with another state directory has this name, and its lease is not over.
    InUse,
}

/// What became of a tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticked {
    /// It is executed: the results of the items that have one.
    Done(Vec<ItemResult>),
    /// Nothing is executed: the epoch of this node was ended by another one.
    Fenced,
    /// Nothing is executed: a later tick was, or a join.
    Stale,
}

/// Result of one item of a tick.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ItemResult {
    /// Number of the item, counted from 1.
    pub item: i32,
    /// Result code of `imcharge.tick`.
    pub code: i16,
    /// Quota granted.
    pub granted: i64,
    /// Balance of the account afterwards.
    pub balance: i64,
    /// Its held units.
    pub held: i64,
    /// Its credit limit.
    pub limit: i64,
    /// Whether the item took the units left to the threshold `low_balance`.
    pub became_low: bool,
}

/// What became of the attempt to take over a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOverResult {
    /// This node has taken it over.
    Won,
    /// Its lease is not over, another node has taken it over, or it is not known.
    NotNow,
    /// The epoch of this node was ended.
    Fenced,
}

/// A session of an ended epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedRow {
    /// Key of the session.
    pub session: SessionKey,
    /// Account of the charged party.
    pub account: String,
    /// When it was opened, UNIX milliseconds.
    pub opened_at: i64,
    /// Head of its state; `None`: it has none.
    pub head: Option<Vec<u8>>,
    /// Parts of its state.
    pub parts: Vec<(i64, Vec<u8>)>,
}

/// What the database reports. One query is in flight at a time, and each has one outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseEvent {
    /// A server was chosen, and is ready for a query.
    Up {
        /// Its name for logs.
        server: String,
        /// Whether a failover may lose what it commits.
        is_async: bool,
    },
    /// The server is lost, or none was found.
    Down {
        /// Why, one sentence that names the server.
        why: String,
    },
    /// The query was executed.
    Answered(Answer),
    /// The query was not executed.
    Refused {
        /// SQLSTATE.
        code: String,
        /// Text of the server.
        message: String,
    },
    /// There is no usable answer: the query may have been executed.
    Lost,
}

/// The connection to the database. No method blocks.
pub trait Database {
    /// Connects, reads, and handles timers.
    fn work(&mut self, now: Time);
    /// Whether a query can be sent: there is a server, and no query is in flight.
    fn is_ready(&self) -> bool;
    /// Sends a query. Called only if [`is_ready`](Database::is_ready).
    fn send(&mut self, query: Query<'_>, now: Time);
    /// Writes what is queued.
    fn flush(&mut self, now: Time);
    /// Returns the next event.
    fn next_event(&mut self) -> Option<DatabaseEvent>;
    /// When [`work`](Database::work) must be called at the latest.
    fn deadline(&self) -> Option<Time>;
    /// The descriptors to poll for reading; `true`: for writing as well.
    fn descriptors(&self) -> Vec<(RawFd, bool)>;
    /// Begins to close the connection.
    fn stop(&mut self, now: Time);
    /// Whether it is closed.
    fn is_stopped(&self) -> bool;
    /// Returns one entry for each server.
    fn status(&self) -> Vec<StatusEntry>;
}
