//! A node whose database is played by a test.

use crate::charge::account::AccountId;
use crate::charge::ch2::{Operation, Request, Reservation, Response, SessionKey, Trigger};
use crate::charge::content::ContentClass;
use crate::charge::event::Direction;
use crate::charge::service::Service;
use crate::charge::tariff::{Measure, Quota, QuotaUnit, Unit, Units};
use crate::charge::time::Time;
use crate::enabler::postgres::database::{Answer, Database, DatabaseEvent, ItemResult, Joined, Query, Ticked};
use crate::enabler::postgres::tick::Tick;
use crate::enabler::postgres::{Config, Postgres, Settings};
use crate::enabler::{Call, Enabler, EnablerEvent, SessionState, Settings as AllSettings, StatusEntry, diameter};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::os::fd::RawFd;
use std::rc::Rc;

pub const SECOND: u64 = 1_000_000;

/// Price of a message.
pub const PRICE: u32 = 25;

/// A query that the node has sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Sent {
    Join,
    Tick(i64, Tick),
    DeadNodes,
    TakeOver(String),
    Adopt(String),
}

#[derive(Default)]
struct State {
    is_up: bool,
    is_busy: bool,
    is_stopped: bool,
    sent: VecDeque<Sent>,
    events: VecDeque<DatabaseEvent>,
}

/// A database without rules.
#[derive(Clone, Default)]
struct Fake(Rc<RefCell<State>>);

impl Database for Fake {
    fn work(&mut self, _: Time) {}

    fn is_ready(&self) -> bool {
        let state = self.0.borrow();
        state.is_up && !state.is_busy
    }

    fn send(&mut self, query: Query<'_>, _: Time) {
        assert!(self.is_ready(), "a query is in flight");
        let sent = match query {
            Query::Join => Sent::Join,
            Query::Tick { epoch, tick } => Sent::Tick(epoch, tick.clone()),
            Query::DeadNodes => Sent::DeadNodes,
            Query::TakeOver { dead, .. } => Sent::TakeOver(dead.into()),
            Query::Adopt { dead, .. } => Sent::Adopt(dead.into()),
        };
        let mut state = self.0.borrow_mut();
        state.is_busy = true;
        state.sent.push_back(sent);
    }

    fn flush(&mut self, _: Time) {}

    fn next_event(&mut self) -> Option<DatabaseEvent> {
        let mut state = self.0.borrow_mut();
        let event = state.events.pop_front()?;
        match event {
            DatabaseEvent::Up { .. } => state.is_up = true,
            DatabaseEvent::Down { .. } => (state.is_up, state.is_busy) = (false, false),
            _ => state.is_busy = false,
        }
        Some(event)
    }

    fn deadline(&self) -> Option<Time> {
        None
    }

    fn descriptors(&self) -> Vec<(RawFd, bool)> {
        Vec::new()
    }

    fn stop(&mut self, _: Time) {
        self.0.borrow_mut().is_stopped = true;
    }

    fn is_stopped(&self) -> bool {
        self.0.borrow().is_stopped
    }

    fn status(&self) -> Vec<StatusEntry> {
        Vec::new()
    }
}

/// A node, its database, and the time.
pub struct Node {
    pub node: Postgres,
    fake: Fake,
    pub now: Time,
}

impl Node {
    /// A node named `a` that has no server yet. Its lease is 60 s and `tx_timeout` 10 s.
    pub fn new() -> Node {
        let settings = Settings {
            servers: vec!["host=127.0.0.1;tls=off".parse().expect("a server")],
            node: Some("a".into()),
            ..Settings::default()
        };
        let diameter = diameter::Settings::default();
        let all = AllSettings {
            default_balance: None,
            low_balance: None,
            unit: Unit::Message,
            diameter: &diameter,
            postgres: &settings,
        };
        let (config, now, fake) = (Config::new(&all).expect("valid settings"), Time(100 * SECOND), Fake::default());
        Node { node: Postgres::start(&config, Box::new(fake.clone()), now), fake, now }
    }

    /// A member with epoch 3 that has had its first tick, and looks for no dead nodes.
    pub fn member() -> Node {
        let mut node = Node::new();
        node.up();
        assert_eq!(node.sent(), Some(Sent::Join));
        node.answer(Answer::Joined(Joined::Kept { epoch: 3, last_tick: 7 }));
        let (epoch, tick) = node.tick();
        assert_eq!((epoch, tick.number, tick.is_empty()), (3, 8, true));
        node.done(&[]);
        assert_eq!(node.sent(), None);
        node.node.takeover.fenced();
        node
    }

    pub fn up(&mut self) {
        self.event(DatabaseEvent::Up { server: "db1".into(), is_async: false });
    }

    pub fn event(&mut self, event: DatabaseEvent) {
        self.fake.0.borrow_mut().events.push_back(event);
        self.node.work(self.now);
    }

    pub fn answer(&mut self, answer: Answer) {
        self.event(DatabaseEvent::Answered(answer));
    }

    /// The tick in flight is executed, with these results.
    pub fn done(&mut self, results: &[ItemResult]) {
        self.answer(Answer::Ticked(Ticked::Done(results.to_vec())));
    }

    pub fn refuse(&mut self, code: &str) {
        self.event(DatabaseEvent::Refused { code: code.into(), message: "no".into() });
    }

    /// Returns the query sent next.
    pub fn sent(&mut self) -> Option<Sent> {
        self.fake.0.borrow_mut().sent.pop_front()
    }

    /// Returns the tick sent next, with its epoch.
    pub fn tick(&mut self) -> (i64, Tick) {
        match self.sent() {
            Some(Sent::Tick(epoch, tick)) => (epoch, tick),
            other => panic!("no tick but {other:?}"),
        }
    }

    /// A tick without requests was sent, and is executed.
    pub fn heartbeat(&mut self) {
        assert!(self.tick().1.is_empty());
        self.done(&[]);
        assert_eq!(self.sent(), None);
    }

    pub fn pass(&mut self, micros: u64) {
        self.now = Time(self.now.0 + micros);
        self.node.work(self.now);
    }

    pub fn ask(&mut self, request: &Request) {
        let call = Call { call_id: "call", other: "", icid: "", direction: Direction::Pull, method: "INVITE" };
        self.node.ask(request.clone(), &call, self.now, 1000);
    }

    pub fn flush(&mut self) {
        self.node.flush(self.now);
    }

    /// Returns all events. No request is pending in the sessions.
    pub fn events(&mut self) -> Vec<EnablerEvent> {
        std::iter::from_fn(|| self.node.poll(&|_, _| None)).collect()
    }

    /// Returns the responses among the events, by session. `pending`: the request that is still without an answer.
    pub fn responses_with(&mut self, pending: Option<&Request>) -> Vec<(u64, Response)> {
        let is_pending =
            |session, number| pending.filter(|request| request.session == session && request.number == number).cloned();
        let events: Vec<_> = std::iter::from_fn(|| self.node.poll(&is_pending)).collect();
        let response = |event| match event {
            EnablerEvent::Response { session, response, .. } => Some((session.0, response)),
            _ => None,
        };
        events.into_iter().filter_map(response).collect()
    }

    pub fn responses(&mut self) -> Vec<(u64, Response)> {
        self.responses_with(None)
    }

    pub fn counter(&self, name: &str) -> u64 {
        let counters = self.node.counters();
        counters.iter().find(|(known, _)| *known == name).unwrap_or_else(|| panic!("no counter {name}")).1
    }
}

/// A result without changes.
pub fn result(item: i32, code: i16) -> ItemResult {
    ItemResult { item, code, balance: 100, ..ItemResult::default() }
}

pub fn granted(item: i32, granted: i64) -> ItemResult {
    ItemResult { granted, ..result(item, 0) }
}

pub fn key(session: u64) -> SessionKey {
    SessionKey(session, 1)
}

pub fn request(session: u64, number: u32, reservation: Reservation, operation: Operation) -> Request {
    Request {
        session: key(session),
        number,
        sequence: 0,
        account: AccountId("sip:alice@example.org".into()),
        service: Service::Retrieval,
        recipients: 0,
        measure: Measure { unit: QuotaUnit::Message, price: PRICE },
        reservation,
        possible_duplicate: false,
        rate_limited: false,
        at_most_once: false,
        server_binding: None,
        end_to_end_id: 0,
        operation,
    }
}

pub fn reserve(session: u64, number: u32) -> Request {
    request(session, number, Reservation::None, Operation::Reserve { quota: Quota(5) })
}

pub fn debit(session: u64, number: u32, reservation: Reservation) -> Request {
    let operation = Operation::Debit {
        message_id: format!("message{number}").into(),
        part: 0,
        octets: 10,
        class: ContentClass::Text,
        units: Units(PRICE.into()),
        quota: Quota(1),
        trigger: Trigger::Response,
    };
    request(session, number, reservation, operation)
}

/// The release of a reservation that holds as many units of quota.
pub fn release(session: u64, number: u32, opened_by: u32, outstanding: u32) -> Request {
    let reservation = Reservation::Open { opened_by, outstanding: Quota(outstanding) };
    request(session, number, reservation, Operation::Release)
}

pub fn state(session: u64, head: u8) -> SessionState {
    let account = "sip:alice@example.org".into();
    SessionState { session: key(session), account, opened_at: 77, head: Some(vec![head]), parts: Vec::new() }
}
