//! The binding to a shared ledger: accounts, and copies of the sessions, in a PostgreSQL database that several nodes use.
//!
//! ```text
//!   ask, replicate ─► outgoing ─► tick, one in flight ─► imcharge.tick() ─► results ─► events
//!                                   └─ repeated with the same number until it is answered
//! ```
//!
//! | file | content |
//! |---|---|
//! | `config` | the parameters and their rules |
//! | `database` | what is asked of the database, without SQL |
//! | `outgoing` | the queue of requests and states |
//! | `tick` | requests as rows of a tick |
//! | `ticking` | sending ticks, and their outcomes |
//! | `answers` | results as responses |
//! | `membership` | epoch and lease of this node |
//! | `takeover` | sessions of dead nodes |
//! | `statements` | the SQL of what is asked |
//! | `client` | the protocol of PostgreSQL |
//!
//! A request without an answer fails after `tx_timeout`, but its tick is repeated: what is executed late is reported late, and
//! units that are reserved late are returned by the release with which the session answers the failure.

mod answers;
pub mod client;
mod config;
mod database;
mod membership;
mod outgoing;
pub mod queries;
mod statements;
mod takeover;
mod tick;
mod ticking;

pub use config::{Config, LEASE_SECONDS, ServerSettings, Settings, Takeover as TakeoverRule};

use super::{AccountCommand, Accounts, Binding, Call, Capabilities, Enabler, EnablerEvent, SessionState, StatusEntry};
use crate::charge::ch2::{Failure, Request, Response, SessionKey};
use crate::charge::time::Time;
use crate::enabler::net::jitter::Jitter;
use crate::simulate::{InjectedBug, is_injected};
use database::Database;
use membership::Membership;
use outgoing::Outgoing;
use std::collections::{HashMap, VecDeque};
use std::os::fd::RawFd;
use takeover::Takeover;
use tick::{Content, Item, Row, Tick};

/// The row of [`super::BINDINGS`].
pub const BINDING: Binding = Binding {
    name: "postgres",
    capabilities: Capabilities {
        accounts: Accounts::InDatabase,
        shares_sessions: true,
        debits_without_reservation: true,
        limits_retries: true,
        needs_end_to_end_id: false,
        has_connections: true,
    },
    status_fields: &["host", "address", "state", "replication", "last_error"],
    answer_seconds: |settings| settings.diameter.tx_timeout,
    check: |settings| Config::new(settings).map(drop),
    check_files: |settings| Config::new(settings)?.check_files(),
    session_id: |_, _, _| None,
    new: |settings, state_directory, now| {
        let config = Config::new(settings)?;
        let database = Box::new(statements::Connection::new(&config, state_directory, now));
        Ok(Box::new(Postgres::start(&config, database, now)))
    },
    account_queries: Some(|settings, now| {
        let config = Config::new(settings)?;
        Ok(Box::new(queries::Queries::new(config.client, config.node, now)))
    }),
};

/// The query in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InFlight {
    Join,
    Tick,
    /// A step of a takeover.
    Step,
}

/// An event for the sessions.
enum Queued {
    Event(EnablerEvent),
    /// A late response. It is of use if the request is still without an answer.
    Late {
        session: SessionKey,
        number: u32,
        response: Response,
    },
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    ticks: u64,
    requests: u64,
    stale: u64,
    fenced: u64,
    refused: u64,
    lost: u64,
    connects: u64,
    /// Sum of the times from tick to answer, in microseconds.
    tick_micros: u64,
}

/// The binding.
pub struct Postgres {
    database: Box<dyn Database>,
    node: String,
    tx_micros: u64,
    membership: Membership,
    takeover: Takeover,
    outgoing: Outgoing,
    /// Last place of the queue when this node joined. States up to it are stored before any takeover: they tell the
    /// database which of its sessions this node still has.
    queued_at_join: i64,
    /// The query in flight, and when it was sent.
    in_flight: Option<(InFlight, Time)>,
    /// Whether the last query was a tick, so that a step of a takeover may follow.
    was_tick: bool,
    /// The tick that is not answered.
    tick: Option<Tick>,
    /// When it was sent first.
    tick_since: Time,
    /// When it may be sent again.
    tick_again_at: Time,
    /// Times that it was refused.
    tick_refusals: u32,
    /// Requests of the next tick, at most.
    items_max: usize,
    /// Since when there is no server.
    down_since: Option<Time>,
    /// Number of synchronous standbys of the server in use.
    standbys: u64,
    /// Units that reserved after their failure was reported, by session and number of the request.
    late_holds: HashMap<SessionKey, Vec<(u32, i64)>>,
    events: VecDeque<Queued>,
    /// Adopted sessions among the events.
    adopted_events: usize,
    counters: Counters,
    response_times: Vec<u64>,
    is_leaving: bool,
    jitter: Jitter,
    now: Time,
}

impl Postgres {
    /// Creates the binding. It connects from the first [`work`](Enabler::work) on.
    fn start(config: &Config, database: Box<dyn Database>, now: Time) -> Postgres {
        Postgres {
            database,
            node: config.node.clone(),
            tx_micros: u64::from(config.tx_timeout) * 1_000_000,
            membership: Membership::new(config.lease),
            takeover: Takeover::default(),
            outgoing: Outgoing::default(),
            queued_at_join: 0,
            in_flight: None,
            was_tick: false,
            tick: None,
            tick_since: now,
            tick_again_at: now,
            tick_refusals: 0,
            items_max: outgoing::TICK_ITEMS_MAX,
            down_since: Some(now),
            standbys: 0,
            late_holds: HashMap::new(),
            events: VecDeque::new(),
            adopted_events: 0,
            counters: Counters::default(),
            response_times: Vec::new(),
            is_leaving: false,
            jitter: Jitter::new(now),
            now,
        }
    }

    fn push_event(&mut self, event: EnablerEvent) {
        self.adopted_events += usize::from(matches!(event, EnablerEvent::Adopted(_)));
        self.events.push_back(Queued::Event(event));
    }

    fn push_response(&mut self, request: &Request, response: Response) {
        let (session, number) = (request.session, request.number);
        self.push_event(EnablerEvent::Response { session, number, response, may_be_at: None });
    }

    /// Reports that there is no answer to an item.
    fn push_failure(&mut self, item: &Item, failure: Failure) {
        match &item.content {
            Content::Request(request) => self.push_response(request, Response::Failed(failure)),
            Content::Command(_) => {}
        }
    }

    /// Whether further requests fail at once: there was no answer for long, or the database refuses this node.
    fn is_unreachable(&self, now: Time) -> bool {
        if self.membership.is_refused() {
            return true;
        }
        let unanswered = self.tick.as_ref().map(|_| self.tick_since);
        let since = self.down_since.into_iter().chain(unanswered).min();
        since.is_some_and(|since| now.micros_since(since) >= self.tx_micros)
    }

    fn queue(&mut self, content: Content, row: Row, now: Time) {
        self.outgoing.push(Item { content, row, asked_at: now, was_sent: false, is_reported: false });
    }

    /// Reports the requests that have waited for `tx_timeout`. Those that were sent stay in their tick.
    fn expire(&mut self, now: Time) {
        let Some(since) = now.0.checked_sub(self.tx_micros).map(Time) else { return };
        let mut silent = Vec::new();
        if let Some(tick) = &mut self.tick {
            let overdue = tick.items.iter_mut().filter(|item| !item.is_reported && item.asked_at <= since);
            overdue.for_each(|item| {
                item.is_reported = true;
                silent.push(item.clone());
            });
        }
        silent.iter().for_each(|item| self.push_failure(item, Failure::Silent));
        while let Some(item) = self.outgoing.take_older(since) {
            self.push_failure(&item, if item.was_sent { Failure::Silent } else { Failure::Unreachable });
        }
    }

    /// When the oldest request expires.
    fn expiry(&self) -> Option<Time> {
        let sent = self.tick.iter().flat_map(|tick| &tick.items).filter(|item| !item.is_reported);
        let oldest = sent.map(|item| item.asked_at).chain(self.outgoing.oldest()).min();
        oldest.map(|asked| Time(asked.0.saturating_add(self.tx_micros)))
    }

    /// Stops once everything is stored, or there is no server to store it.
    fn leave_when_done(&mut self, now: Time) {
        let is_done = self.outgoing.is_empty() && self.tick.is_none() && self.in_flight.is_none();
        if self.is_leaving && (is_done || self.down_since.is_some()) {
            self.database.stop(now);
        }
    }

    /// When something other than an answer is due.
    fn next_query_at(&self) -> Option<Time> {
        if self.in_flight.is_some() || !self.database.is_ready() {
            return None;
        }
        match (&self.tick, self.membership.epoch()) {
            (Some(_), _) => Some(self.tick_again_at),
            (None, None) => Some(self.membership.deadline()),
            (None, Some(_)) => Some(self.membership.deadline().min(self.takeover.deadline())),
        }
    }
}

impl Enabler for Postgres {
    fn ask(&mut self, request: Request, call: &Call<'_>, now: Time, wall_seconds: i64) {
        if self.outgoing.is_full() {
            return self.push_response(&request, Response::Failed(Failure::Overload));
        }
        if self.is_unreachable(now) {
            return self.push_response(&request, Response::Failed(Failure::Unreachable));
        }
        let opened_at = self.outgoing.state(request.session).map(|state| state.opened_at);
        let opened_at = opened_at.unwrap_or(wall_seconds.saturating_mul(1000));
        let row = Row::of_request(&request, call.call_id, opened_at);
        self.queue(Content::Request(Box::new(request)), row, now);
    }

    fn replicate(&mut self, state: SessionState) {
        if state.head.is_none() {
            self.late_holds.remove(&state.session);
        }
        self.outgoing.push_state(state);
    }

    fn change_account(&mut self, command: AccountCommand, now: Time) {
        if !self.outgoing.is_full() && !self.is_unreachable(now) {
            let row = Row::of_command(&command);
            self.queue(Content::Command(Box::new(command)), row, now);
        }
    }

    fn lease_until(&self) -> Time {
        self.membership.lease_until()
    }

    fn flush(&mut self, now: Time) {
        self.send(now);
        self.database.flush(now);
    }

    fn work(&mut self, now: Time) {
        self.now = now;
        self.membership.committed();
        self.database.work(now);
        while let Some(event) = self.database.next_event() {
            self.database_event(event, now);
        }
        self.expire(now);
        self.send(now);
        self.leave_when_done(now);
        self.database.flush(now);
    }

    fn poll(&mut self, pending: &dyn Fn(SessionKey, u32) -> Option<Request>) -> Option<EnablerEvent> {
        loop {
            let event = match self.events.pop_front()? {
                Queued::Event(event) => Some(event),
                Queued::Late { session, number, response } => pending(session, number)
                    .map(|_| EnablerEvent::Response { session, number, response, may_be_at: None }),
            };
            match &event {
                Some(EnablerEvent::TakenOver) => {
                    self.membership.takeover_seen();
                    if is_injected(InjectedBug::TakeoverIgnored) {
                        continue;
                    }
                    // What the engine has queued since the answer is of sessions that it closes only now.
                    self.outgoing.drop_sessions();
                }
                Some(EnablerEvent::Adopted(_)) => self.adopted_events -= 1,
                _ => {}
            }
            if event.is_some() {
                return event;
            }
        }
    }

    fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    fn deadline(&self) -> Option<Time> {
        self.database.deadline().into_iter().chain(self.expiry()).chain(self.next_query_at()).min()
    }

    fn descriptors(&self) -> Vec<(RawFd, bool)> {
        self.database.descriptors()
    }

    fn leave(&mut self, now: Time) {
        self.is_leaving = true;
        self.leave_when_done(now);
    }

    fn has_left(&self) -> bool {
        self.database.is_stopped()
    }

    fn status(&self) -> Vec<StatusEntry> {
        self.database.status()
    }

    fn counters(&self) -> Vec<(&'static str, u64)> {
        let counters = &self.counters;
        vec![
            ("pg_ticks", counters.ticks),
            ("pg_requests", counters.requests),
            ("pg_stale", counters.stale),
            ("pg_fenced", counters.fenced),
            ("pg_refused", counters.refused),
            ("pg_lost", counters.lost),
            ("pg_reconnects", counters.connects.saturating_sub(1)),
            ("pg_down", self.down_since.is_some().into()),
            ("pg_standbys", self.standbys),
            ("pg_tick_avg_time", counters.tick_micros / counters.ticks.max(1)),
            ("lease_left", self.lease_until().micros_since(self.now) / 1_000_000),
            ("takeovers", self.takeover.nodes),
            ("sessions_taken_over", self.takeover.sessions),
        ]
    }

    fn take_response_times(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.response_times)
    }
}

#[cfg(test)]
mod tests;
