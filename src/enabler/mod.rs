//! Charging Enablers: the back ends that grant and debit units, behind one trait.
//!
//! A binding is one file or folder, one row of [`BINDINGS`], and its parameters. Counters that operators shall see are
//! rows of the table of statistics, found by name.
//!
//! | binding | accounts | answers |
//! |---|---|---|
//! | [`ledger`] | in the engine's store | within the tick, by [`InTick`] |
//! | [`diameter`] | at an Online Charging System | later, as an [`EnablerEvent`] |
//! | [`postgres`] | in a database that several nodes use | later, as an [`EnablerEvent`] |
//!
//! # The two ways to answer
//!
//! A binding whose accounts are in the engine's store implements [`InTick`]: the engine reads the account, the binding
//! computes, and the result is committed in the same journal record as the session's state. Any other binding is asked
//! by [`Enabler::ask`] once that record is on the disk. Its answer is an event like any other. A request without an
//! answer is part of the session's state, which makes the sessions the outbox: after a restart the engine asks again,
//! with the same session and number.

mod account;
pub mod diameter;
pub mod ledger;
pub mod net;
pub mod node;
pub mod postgres;
pub mod queries;
#[cfg(test)]
pub mod scripted;

pub use account::{Account, AccountChange, BALANCE_MAX, LowBalance, Refusal};

use crate::charge::ch2::{Request, Response, SessionKey};
use crate::charge::event::{Direction, Event};
use crate::charge::tariff::{Unit, Units};
use crate::charge::time::Time;
use queries::AccountQueries;
use std::fmt;
use std::os::fd::RawFd;
use std::sync::Arc;

/// All bindings, in the order of the manual. The first is the default.
pub static BINDINGS: [Binding; 3] = [ledger::BINDING, diameter::BINDING, postgres::BINDING];

/// Starts a binding, given its settings, the state directory and the time.
type Constructor = fn(&Settings<'_>, StateDirectory, Time) -> Result<Box<dyn Enabler>, StartError>;

/// Opens a connection for operators' queries, given the settings and the time.
type QueriesConstructor = fn(&Settings<'_>, Time) -> Result<Box<dyn AccountQueries>, StartError>;

/// What identifies the state directory of an engine at the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateDirectory {
    /// Rises with each start that has lost all sessions (Origin-State-Id of RFC 6733, 8.16).
    pub state_id: u32,
    /// Random number of the ledger file in it.
    pub ledger: u64,
}

/// One charging back end, as the parameter `enabler` selects it.
#[derive(Debug)]
pub struct Binding {
    /// Value of the parameter.
    pub name: &'static str,
    /// What the engine has to know of it.
    pub capabilities: Capabilities,
    /// Names of the fields of each [`StatusEntry`], in their order.
    pub status_fields: &'static [&'static str],
    /// Seconds within which a request has its outcome, at most.
    answer_seconds: fn(&Settings<'_>) -> u32,
    /// Checks its parameters.
    check: fn(&Settings<'_>) -> Result<(), ParameterError>,
    /// Checks the files that its parameters name.
    check_files: fn(&Settings<'_>) -> Result<(), StartError>,
    /// Returns the name of a reservation at its server: see [`Binding::session_id`].
    session_id: fn(&Settings<'_>, SessionKey, u32) -> Option<String>,
    /// Starts it: see [`new`].
    new: Constructor,
    /// Opens a connection for operators' queries: see [`Binding::account_queries`].
    account_queries: Option<QueriesConstructor>,
}

/// The rules of the engine that differ by binding.
#[derive(Clone, Copy, Debug)]
pub struct Capabilities {
    /// Where the accounts are.
    pub accounts: Accounts,
    /// Debits are accepted without a reservation (`model=immediate`).
    pub debits_without_reservation: bool,
    /// The engine limits the rate of retries without a waiting INVITE, so that a server that recovers is not flooded.
    pub limits_retries: bool,
    /// Each request carries an end-to-end id: unique in this host, and the same in all copies of the request.
    pub needs_end_to_end_id: bool,
    /// Other nodes take over the sessions of a node that has died: their states are passed to [`Enabler::replicate`], and
    /// content passes only until [`Enabler::lease_until`].
    pub shares_sessions: bool,
    /// There are sockets to poll.
    pub has_connections: bool,
}

/// Where the accounts of a binding are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accounts {
    /// In the engine's store; [`Enabler::in_tick`] returns the rules.
    InStore,
    /// In a database that other nodes use as well; [`Enabler::change_account`] changes them.
    InDatabase,
    /// At a charging system with commands of its own.
    AtServer,
}

/// Values of the parameters that concern bindings.
#[derive(Clone, Copy, Debug)]
pub struct Settings<'a> {
    /// Initial balance of an unknown subscriber; `None`: unknown subscribers are denied.
    pub default_balance: Option<i64>,
    /// What accounts count.
    pub unit: Unit,
    /// How many units left of an account raise the low-balance event; `None`: it is never raised.
    pub low_balance: Option<LowBalance>,
    /// Parameters of `enabler=diameter`, of which other bindings use those of TLS and `tx_timeout`.
    pub diameter: &'a diameter::Settings,
    /// Parameters of `enabler=postgres`.
    pub postgres: &'a postgres::Settings,
}

/// A parameter of a binding is missing, or its value conflicts with another parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterError {
    /// Name of the parameter.
    pub name: &'static str,
    /// Its value; `None`: it is not set.
    pub value: Option<String>,
    /// The setting that requires the parameter, or that its value conflicts with.
    pub with: String,
    /// The accepted values; empty if it is not set.
    pub accepted: &'static str,
}

impl ParameterError {
    /// The parameter is not set, and `needed_by` requires it.
    pub fn missing(name: &'static str, needed_by: impl Into<String>) -> ParameterError {
        ParameterError { name, value: None, with: needed_by.into(), accepted: "" }
    }

    /// The value conflicts with the setting `with`.
    pub fn conflict(name: &'static str, value: String, with: &str, accepted: &'static str) -> ParameterError {
        ParameterError { name, value: Some(value), with: with.into(), accepted }
    }
}

impl fmt::Display for ParameterError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ParameterError { name, value, with, accepted } = self;
        match value {
            Some(value) => write!(out, "parameter {name}: '{value}' is not allowed with {with}; accepted: {accepted}"),
            None => write!(out, "parameter {name} is not set; {with} needs it"),
        }
    }
}

/// A binding cannot be started. One sentence for an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

impl From<ParameterError> for StartError {
    fn from(error: ParameterError) -> StartError {
        StartError(error.to_string())
    }
}

impl PartialEq for Binding {
    fn eq(&self, other: &Binding) -> bool {
        self.name == other.name
    }
}

impl Eq for Binding {}

impl Binding {
    /// Returns the binding of this name.
    pub fn from_name(name: &str) -> Option<&'static Binding> {
        BINDINGS.iter().find(|binding| binding.name == name)
    }

    /// Checks the parameters of this binding: values that depend on each other, and missing ones.
    pub fn check(&self, settings: &Settings<'_>) -> Result<(), ParameterError> {
        (self.check)(settings)
    }

    /// Seconds within which a request has its outcome, at most.
    pub fn answer_seconds(&self, settings: &Settings<'_>) -> u32 {
        (self.answer_seconds)(settings)
    }

    /// Returns the name by which the server knows the reservation that this request of a session opened; `None` if it has
    /// none.
    pub fn session_id(&self, settings: &Settings<'_>, session: SessionKey, opened_by: u32) -> Option<String> {
        (self.session_id)(settings, session, opened_by)
    }

    /// Opens a connection for the queries of one command; `None` unless the accounts are in a database.
    pub fn account_queries(
        &self,
        settings: &Settings<'_>,
        now: Time,
    ) -> Option<Result<Box<dyn AccountQueries>, StartError>> {
        self.account_queries.map(|open| open(settings, now))
    }

    /// Checks the files that the parameters name. Called before the host forks.
    pub fn check_files(&self, settings: &Settings<'_>) -> Result<(), StartError> {
        (self.check_files)(settings)
    }
}

/// Starts a binding.
pub fn new(
    binding: &Binding,
    settings: &Settings<'_>,
    state_directory: StateDirectory,
    now: Time,
) -> Result<Box<dyn Enabler>, StartError> {
    (binding.new)(settings, state_directory, now)
}

/// A charging back end. Owned by the engine, and called from its thread only: no method blocks.
///
/// The default bodies are those of a binding without connections.
pub trait Enabler {
    /// Returns the rules of a binding that answers requests within the tick. `None`: requests go to
    /// [`ask`](Enabler::ask).
    fn in_tick(&self) -> Option<&dyn InTick> {
        None
    }

    /// Queues a request. The engine calls it after the request is durable. The outcome, which may be that there is no
    /// answer, follows as [`EnablerEvent::Response`]. `wall_seconds`: UNIX time. A binding that answers requests within
    /// the tick is never asked.
    fn ask(&mut self, _request: Request, _call: &Call<'_>, _now: Time, _wall_seconds: i64) {}

    /// Queues the new state of a session, for a node that takes over if this one dies. The engine calls it after the state
    /// is durable, and before [`ask`](Enabler::ask) with requests of the same tick. A binding whose sessions are of no use
    /// to other nodes ignores it.
    fn replicate(&mut self, _state: SessionState) {}

    /// Changes an account for an operator. The outcome follows as [`EnablerEvent::AccountChanged`]; none follows if the
    /// database cannot be reached. Called for [`Accounts::InDatabase`] only.
    fn change_account(&mut self, _command: AccountCommand, _now: Time) {}

    /// Returns until when content may be relayed: after that time another node may have taken over the sessions.
    fn lease_until(&self) -> Time {
        Time(u64::MAX)
    }

    /// Sends what is queued. Called once after all requests of a tick.
    fn flush(&mut self, _now: Time) {}

    /// Reads from the connections, handles timers, and sends.
    fn work(&mut self, _now: Time) {}

    /// Returns the next event. `pending` returns the request of a session and number while it has no answer, to match
    /// late answers.
    fn poll(&mut self, _pending: &dyn Fn(SessionKey, u32) -> Option<Request>) -> Option<EnablerEvent> {
        None
    }

    /// Whether [`poll`](Enabler::poll) may return an event now.
    fn has_events(&self) -> bool {
        false
    }

    /// When [`work`](Enabler::work) must be called at the latest.
    fn deadline(&self) -> Option<Time> {
        None
    }

    /// The descriptors to poll for reading; `true`: for writing as well.
    fn descriptors(&self) -> Vec<(RawFd, bool)> {
        Vec::new()
    }

    /// Answers a request of the server. Called after the effect on the session is durable.
    fn answer(&mut self, _request: ServerRequest, _event: &Event<'_>, _state: ReservationState) {}

    /// Begins to close the connections.
    fn leave(&mut self, _now: Time) {}

    /// Whether all connections are closed.
    fn has_left(&self) -> bool {
        true
    }

    /// Returns one entry for each server, for operators.
    fn status(&self) -> Vec<StatusEntry> {
        Vec::new()
    }

    /// Returns the counters since the start, by the names of the statistics.
    fn counters(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }

    /// Returns the response time of each answer since the last call, in microseconds.
    fn take_response_times(&mut self) -> Vec<u64> {
        Vec::new()
    }
}

/// The rules of a binding whose accounts are in the engine's store. Pure: the engine reads [`Funds`], and commits the
/// [`AccountUpdate`] together with the session.
pub trait InTick {
    /// Executes a request.
    fn execute(&self, request: &Request, funds: &Funds) -> AccountUpdate;

    /// Answers a debit of a message that has been debited before: releases the units reserved for it, and takes nothing.
    fn release_for_known_debit(&self, request: &Request, funds: &Funds) -> AccountUpdate;
}

/// What the store knows for one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Funds {
    /// The account; `None`: there is none of this id.
    pub account: Option<Account>,
    /// Units that the session holds.
    pub held: i64,
    /// Units of the debit that a refund concerns, unless it has been refunded before. 0 for all other operations.
    pub charged: i64,
}

/// The answer to a request that was executed within the tick, and its effect on the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountUpdate {
    /// The answer.
    pub response: Response,
    /// Units that a debit took.
    pub charged: Units,
    /// The new account; `None`: unchanged.
    pub account: Option<Account>,
    /// By how much the request changes the account's balance and held units together. Holding and releasing units does not.
    pub amount: i64,
    /// The account as it was created for this request; `None`: it existed before.
    pub created: Option<Account>,
    /// Units that the session holds now; `None`: unchanged.
    pub held: Option<i64>,
}

/// Facts about the call that a request may carry.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Call-ID.
    pub call_id: &'a str,
    /// Canonical identity of the party that is not charged; empty if unknown.
    pub other: &'a str,
    /// icid-value of P-Charging-Vector; empty if there is none.
    pub icid: &'a str,
    /// Which side has the content: pull, the invited one; push, the inviting one.
    pub direction: Direction,
    /// SIP method of the request that opened the session.
    pub method: &'a str,
}

/// What an enabler reports to the sessions.
#[derive(Debug)]
pub enum EnablerEvent {
    /// The outcome of a request.
    Response {
        /// Session of the request.
        session: SessionKey,
        /// Its number.
        number: u32,
        /// The answer, or that there is none.
        response: Response,
        /// Without an answer: binding to the server that may have carried out the request.
        may_be_at: Option<Arc<str>>,
    },
    /// A grant that arrived after its request had failed. It has to be released.
    LateGrant {
        /// Session of the request.
        session: SessionKey,
        /// Its number.
        number: u32,
        /// Binding to the server that granted.
        server_binding: Arc<str>,
    },
    /// The server binding of a reservation has changed.
    Rebound {
        /// Session of the reservation.
        session: SessionKey,
        /// Number of the request that opened it.
        opened_by: u32,
        /// The new binding.
        server_binding: Arc<str>,
    },
    /// A request of the server. It is answered by [`Enabler::answer`].
    ServerRequest {
        /// Session of the reservation.
        session: SessionKey,
        /// Number of the request that opened it.
        opened_by: u32,
        /// What the server requests.
        event: Event<'static>,
        /// Identifies the request in the answer.
        request: ServerRequest,
    },
    /// Another node has taken over all sessions that this node has: it settles them by its copies of their states. This node
    /// must not relay their content, and has no reservations any more. It still reports what it knows to be debited.
    TakenOver,
    /// This node has taken over a session of a dead node, and settles it.
    Adopted(AdoptedSession),
    /// The outcome of [`Enabler::change_account`].
    AccountChanged {
        /// [`AccountCommand::number`].
        number: u64,
        /// What became of it.
        outcome: AccountOutcome,
        /// The account afterwards; `None`: there is none.
        account: Option<Account>,
    },
    /// The units left of an account have fallen to the threshold `low_balance`.
    LowBalance {
        /// Id of the account.
        id: Box<str>,
        /// The account afterwards.
        account: Account,
        /// Session whose debit did it; `None`: a command did.
        session: Option<SessionKey>,
    },
}

/// The state of a session, for other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionState {
    /// Key of the session.
    pub session: SessionKey,
    /// Account of the charged party.
    pub account: Box<str>,
    /// When it was opened, UNIX milliseconds.
    pub opened_at: i64,
    /// Head of the state; `None`: the session is settled, and its state is not needed any more.
    pub head: Option<Vec<u8>>,
    /// Parts of the state that have changed; an empty part is removed.
    pub parts: Vec<(u32, Vec<u8>)>,
}

/// A session of a dead node that this node has taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdoptedSession {
    /// Key of the session.
    pub session: SessionKey,
    /// Account of the charged party.
    pub account: Box<str>,
    /// When it was opened, UNIX milliseconds.
    pub opened_at: i64,
    /// Head of its state.
    pub head: Vec<u8>,
    /// Parts of its state, in ascending order.
    pub parts: Vec<Vec<u8>>,
    /// Name of the dead node.
    pub from: Arc<str>,
}

/// An operator's change of an account that is in a database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountCommand {
    /// Identifies the command in [`EnablerEvent::AccountChanged`]. Rises with each command of this engine.
    pub number: u64,
    /// Id of the account.
    pub id: Box<str>,
    /// The change.
    pub change: AccountChange,
    /// Reference of the operator.
    pub reference: Box<str>,
    /// Who changes it.
    pub by: Box<str>,
}

/// What became of an [`AccountCommand`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountOutcome {
    /// Executed.
    Done,
    /// The same command was executed before under its reference.
    Duplicate,
    /// The reference was used for another amount.
    ReferenceUsed,
    /// The account does not exist.
    UnknownAccount,
    /// Refused.
    Refused(Refusal),
}

/// Identifies an unanswered request of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ServerRequest(pub u64);

/// State of the reservation that a server's request concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationState {
    /// There is no such reservation.
    Unknown,
    /// It is open, without a pending request.
    Open,
    /// It is open, with a pending request.
    Pending,
}

/// Named fields that describe one server.
pub type StatusEntry = Vec<(&'static str, StatusValue)>;

/// Value of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StatusValue {
    /// Text.
    Text(String),
    /// Number.
    Integer(i64),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bindings_that_keep_accounts_answer_within_the_tick() {
        let diameter = diameter::Settings {
            origin_host: "proxy.example.org".into(),
            origin_realm: "example.org".into(),
            destination_realm: "example.org".into(),
            service_context_id: "32274@3gpp.org".into(),
            peers: vec!["host=ocs.example.org;address=127.0.0.1:1".parse().expect("a peer")],
            ..diameter::Settings::default()
        };
        let postgres = postgres::Settings {
            servers: vec!["host=127.0.0.1;port=1;tls=off".parse().expect("a server")],
            ..postgres::Settings::default()
        };
        let settings = Settings {
            default_balance: None,
            low_balance: None,
            unit: Unit::Message,
            diameter: &diameter,
            postgres: &postgres,
        };
        for binding in &BINDINGS {
            let state_directory = StateDirectory { state_id: 1, ledger: 1 };
            let enabler = new(binding, &settings, state_directory, Time(0)).expect("valid settings");
            assert_eq!(
                enabler.in_tick().is_some(),
                binding.capabilities.accounts == Accounts::InStore,
                "{}",
                binding.name
            );
            assert_eq!(Binding::from_name(binding.name).map(|found| found.name), Some(binding.name));
        }
    }
}
