//! Sending queries, and their outcomes.

use super::answers::{self, code};
use super::database::{AdoptedRow, Answer, DatabaseEvent, ItemResult, Joined, Query, Ticked};
use super::membership::{JOIN_RETRY_MICROS, Joining};
use super::outgoing::TICK_ITEMS_MAX;
use super::takeover::{PORTION, Step};
use super::tick::{Content, Item, Kind, Tick};
use super::{InFlight, Postgres, Queued};
use crate::charge::ch2::{Failure, Operation, Reservation, Response};
use crate::charge::time::Time;
use crate::enabler::{AdoptedSession, EnablerEvent, SessionState};
use std::sync::Arc;

/// Class of SQLSTATE of a transaction that may succeed if it is repeated at once.
const CLASS_OF_CONFLICTS: &str = "40";

/// Wait before a refused tick is sent again, in microseconds. It doubles with each refusal.
const REFUSED_MICROS: u64 = 100_000;

/// Largest exponent of that wait.
const REFUSALS_COUNTED_MAX: u32 = 5;

/// Classes of SQLSTATE that concern the data of an item: data exception, integrity, program limit.
const CLASSES_OF_ITEMS: [&str; 3] = ["22", "23", "54"];

/// Sending.
impl Postgres {
    /// Sends the next query, if the database is ready for one. A step of a takeover never keeps two ticks waiting.
    pub(super) fn send(&mut self, now: Time) {
        if self.in_flight.is_some() || !self.database.is_ready() {
            return;
        }
        let Some(epoch) = self.membership.epoch() else {
            if self.membership.must_join(now) && !self.is_leaving {
                self.ask_database(InFlight::Join, Query::Join, now);
            }
            return;
        };
        let has_drained = self.adopted_events == 0;
        let may_step = !self.is_leaving && self.tick.is_none() && !self.outgoing.has_states_up_to(self.queued_at_join);
        let step = self.takeover.step(has_drained, now).filter(|_| may_step);
        match step {
            Some(step) if self.was_tick || !self.prepare_tick(now) => self.send_step(&step, epoch, now),
            _ if self.prepare_tick(now) => self.send_tick(epoch, now),
            _ => {}
        }
    }

    fn ask_database(&mut self, what: InFlight, query: Query<'_>, now: Time) {
        self.database.send(query, now);
        self.in_flight = Some((what, now));
        self.was_tick = what == InFlight::Tick;
    }

    fn send_step(&mut self, step: &Step, epoch: i64, now: Time) {
        let query = match step {
            Step::Scan => Query::DeadNodes,
            Step::TakeOver(dead) => Query::TakeOver { epoch, dead },
            Step::Adopt(dead) => Query::Adopt { epoch, dead, limit: PORTION },
        };
        self.ask_database(InFlight::Step, query, now);
    }

    /// Fills the next tick, unless one waits to be sent again. Returns whether there is one to send now.
    fn prepare_tick(&mut self, now: Time) -> bool {
        if self.tick.is_some() {
            return self.tick_again_at <= now;
        }
        let is_heartbeat_due = self.membership.heartbeat_at() <= now && !self.is_leaving;
        if self.outgoing.is_empty() && !is_heartbeat_due {
            return false;
        }
        let (mut items, states) = self.outgoing.take(self.items_max);
        items.iter_mut().for_each(|item| self.add_late_hold(item));
        self.tick = Some(Tick::new(self.membership.next_tick(), items, states));
        (self.tick_since, self.tick_again_at) = (now, now);
        true
    }

    /// The release of a reservation that the session does not know of returns what was reserved late.
    fn add_late_hold(&mut self, item: &mut Item) {
        let Content::Request(request) = &item.content else { return };
        let (Operation::Release, Reservation::Open { opened_by, .. }) = (&request.operation, request.reservation)
        else {
            return;
        };
        if let Some(held) = self.late_holds.get_mut(&request.session)
            && let Some(place) = held.iter().position(|(number, _)| *number == opened_by)
        {
            item.row.holds = item.row.holds.saturating_add(held.swap_remove(place).1);
            if held.is_empty() {
                self.late_holds.remove(&request.session);
            }
        }
    }

    fn send_tick(&mut self, epoch: i64, now: Time) {
        let Some(mut tick) = self.tick.take() else { return };
        tick.items.iter_mut().for_each(|item| item.was_sent = true);
        self.membership.sending_tick(now);
        self.ask_database(InFlight::Tick, Query::Tick { epoch, tick: &tick }, now);
        self.tick = Some(tick);
    }
}

/// Outcomes of queries.
impl Postgres {
    pub(super) fn database_event(&mut self, event: DatabaseEvent, now: Time) {
        match event {
            DatabaseEvent::Up { server, is_async } => {
                match is_async {
                    true => {
                        log::warn!("PostgreSQL server {server} serves: a failover may lose charges (postgres_async)")
                    }
                    false => log::info!("PostgreSQL server {server} serves"),
                }
                self.down_since = None;
                self.counters.connects += 1;
            }
            DatabaseEvent::Down { why } => {
                if !self.is_leaving {
                    log::warn!("{why}");
                }
                self.lost(now);
                self.standbys = 0;
                self.down_since.get_or_insert(now);
            }
            DatabaseEvent::Answered(answer) => self.answered(answer, now),
            DatabaseEvent::Refused { code, message } => self.refused(&code, &message, now),
            DatabaseEvent::Lost => self.lost(now),
        }
    }

    fn answered(&mut self, answer: Answer, now: Time) {
        let Some((_, sent)) = self.in_flight.take() else { return };
        match answer {
            Answer::Joined(joined) => self.joined(joined, sent, now),
            Answer::Ticked(ticked) => self.ticked(ticked, sent, now),
            Answer::DeadNodes { names, standbys } => {
                self.standbys = u64::try_from(standbys).unwrap_or(0);
                self.takeover.found(names, self.jitter.bits(), now);
            }
            Answer::TakenOver(result) => self.takeover.taken_over(result, now),
            Answer::Adopted(rows) => self.adopted(rows, now),
        }
    }

    /// The query in flight may have been executed. A tick is sent again as it is; anything else begins anew.
    fn lost(&mut self, now: Time) {
        let Some((what, _)) = self.in_flight.take() else { return };
        self.counters.lost += 1;
        match what {
            InFlight::Join => self.membership.join_again(now),
            InFlight::Tick => self.tick_again_at = now,
            InFlight::Step => self.takeover.abandon(self.jitter.bits(), now),
        }
    }

    fn refused(&mut self, code: &str, message: &str, now: Time) {
        let Some((what, _)) = self.in_flight.take() else { return };
        self.counters.refused += 1;
        match what {
            InFlight::Join => {
                if self.membership.refused() {
                    log::error!("PostgreSQL refuses node '{}': {message} ({code})", self.node);
                }
                self.membership.join_again(Time(now.0.saturating_add(JOIN_RETRY_MICROS)));
            }
            InFlight::Tick => self.tick_refused(code, message, now),
            InFlight::Step => {
                log::warn!("PostgreSQL refuses a step of a takeover, which is tried again: {message} ({code})");
                self.takeover.abandon(self.jitter.bits(), now);
            }
        }
    }

    fn joined(&mut self, joined: Joined, sent: Time, now: Time) {
        self.queued_at_join = self.outgoing.last();
        match self.membership.joined(joined, sent, now) {
            Joining::Kept => self.takeover.abandon(self.jitter.bits(), now),
            Joining::Anew { is_known } => {
                if !is_known {
                    self.sessions_lost();
                }
                self.takeover.abandon(self.jitter.bits(), now);
            }
            Joining::Refused if self.membership.refused() => log::error!(
                "the shared ledger has another proxy with the name '{}', and its lease is not over: set another node, \
                 or stop that proxy. If this proxy has lost its state directory, it joins when the lease is over",
                self.node
            ),
            Joining::Refused => {}
        }
    }

    /// Passes adopted sessions to the engine. Those without a state cannot be settled: they are removed, which releases
    /// what they hold.
    fn adopted(&mut self, rows: Vec<AdoptedRow>, now: Time) {
        let Some((from, rows)) = self.takeover.adopted(rows, now) else { return };
        let from: Arc<str> = from.into();
        for AdoptedRow { session, account, opened_at, head, mut parts } in rows {
            let Some(head) = head else {
                let account = account.into();
                self.outgoing.push_state(SessionState { session, account, opened_at, head: None, parts: Vec::new() });
                continue;
            };
            parts.sort_unstable_by_key(|(number, _)| *number);
            let parts = parts.into_iter().map(|(_, part)| part).collect();
            let (account, from) = (account.into(), Arc::clone(&from));
            let adopted = AdoptedSession { session, account, opened_at, head, parts, from };
            self.push_event(EnablerEvent::Adopted(adopted));
        }
    }
}

/// Outcomes of ticks.
impl Postgres {
    fn ticked(&mut self, ticked: Ticked, sent: Time, now: Time) {
        let Some(tick) = self.tick.take() else { return };
        self.tick_refusals = 0;
        match ticked {
            Ticked::Done(results) => {
                self.membership.renew(sent);
                self.counters.ticks += 1;
                self.counters.tick_micros = self.counters.tick_micros.saturating_add(now.micros_since(sent));
                self.items_max = (self.items_max * 2).min(TICK_ITEMS_MAX);
                tick.states.iter().for_each(|state| self.takeover.confirmed(state.session));
                self.executed(tick.items, &results, now);
            }
            Ticked::Fenced => {
                log::error!(
                    "node '{}' was taken over by another one, because its lease was over: its sessions are closed, and \
                     it joins again",
                    self.node
                );
                self.counters.fenced += 1;
                self.membership.fenced();
                self.takeover.fenced();
                self.put_back(tick);
                self.sessions_lost();
            }
            Ticked::Stale => {
                self.counters.stale += 1;
                self.put_back(tick);
                self.membership.join_again(now);
            }
        }
    }

    fn executed(&mut self, items: Vec<Item>, results: &[ItemResult], now: Time) {
        let mut by_item = vec![None; items.len()];
        for result in results {
            let place = usize::try_from(result.item).ok().and_then(|item| item.checked_sub(1));
            if let Some(place) = place.and_then(|place| by_item.get_mut(place)) {
                *place = Some(*result);
            }
        }
        for (item, result) in items.into_iter().zip(by_item) {
            match result {
                Some(result) => self.item_executed(&item, &result, now),
                None => {
                    log::error!("PostgreSQL has no result of a request of account {}", item.row.account);
                    self.push_failure(&item, Failure::Unreadable);
                }
            }
        }
    }

    fn item_executed(&mut self, item: &Item, result: &ItemResult, now: Time) {
        self.counters.requests += 1;
        if result.code == code::OVERFLOW {
            log::error!(
                "account {}: a sum of balance, held, debited and limit exceeds 64 bits, so its request is refused; \
                 correct the balance with account.set",
                item.row.account
            );
        }
        if result.became_low {
            let session = matches!(item.content, Content::Request(_)).then_some(item.row.session);
            let (id, account) = (item.row.account.clone(), answers::account(result));
            self.push_event(EnablerEvent::LowBalance { id, account, session });
        }
        match &item.content {
            Content::Request(request) => {
                let response = answers::response(request, result);
                if item.is_reported {
                    return self.executed_late(item, result, response);
                }
                self.response_times.push(now.micros_since(item.asked_at));
                self.push_response(request, response);
            }
            Content::Command(command) => {
                let (number, outcome) = (command.number, answers::outcome(result));
                let is_there = !matches!(item.row.kind, Kind::Remove) || result.code != code::DONE;
                let is_there = is_there && result.code != code::UNKNOWN_ACCOUNT;
                let account = is_there.then(|| answers::account(result));
                self.push_event(EnablerEvent::AccountChanged { number, outcome, account });
            }
        }
    }

    /// The failure of this request was reported. A reservation is returned by the release that follows; any other request
    /// may have been queued again.
    fn executed_late(&mut self, item: &Item, result: &ItemResult, response: Response) {
        let Content::Request(request) = &item.content else { return };
        let (session, number) = (request.session, request.number);
        match response {
            Response::Granted(_) => {
                let units = result.granted.saturating_mul(item.row.units);
                self.late_holds.entry(session).or_default().push((number, units));
            }
            response @ (Response::Debited { .. } | Response::Refunded { .. } | Response::Released { .. }) => {
                self.outgoing.take_request(session, number.into());
                self.events.push_back(Queued::Late { session, number, response });
            }
            _ => {}
        }
    }

    /// Returns the content of a tick that was not executed to the queue, without requests whose failure was reported.
    fn put_back(&mut self, tick: Tick) {
        let items = tick.items.into_iter().filter(|item| !item.is_reported).collect();
        self.outgoing.put_back((items, tick.states));
    }

    /// The sessions of this node were taken over, or are lost. The engine asks again for what it still has to debit or
    /// refund.
    fn sessions_lost(&mut self) {
        self.outgoing.drop_sessions();
        self.late_holds.clear();
        self.events.retain(|event| !matches!(event, Queued::Event(EnablerEvent::Adopted(_))));
        self.adopted_events = 0;
        self.push_event(EnablerEvent::TakenOver);
    }

    /// A tick was not executed. If the data of an item may be the reason, the tick is divided until that item is alone.
    fn tick_refused(&mut self, code: &str, message: &str, now: Time) {
        let is_item = CLASSES_OF_ITEMS.iter().any(|class| code.starts_with(class));
        let Some(tick) = self.tick.take() else { return };
        let entries = tick.items.len().max(tick.states.len());
        if !is_item || tick.is_empty() {
            if self.tick_refusals == 1 {
                log::error!("PostgreSQL refuses requests, which are sent again: {message} ({code})");
            }
            // Two nodes were in each other's way: nothing is wrong.
            let is_conflict = code.starts_with(CLASS_OF_CONFLICTS) && self.tick_refusals == 0;
            let wait = if is_conflict { 0 } else { REFUSED_MICROS << self.tick_refusals };
            self.tick_refusals = (self.tick_refusals + 1).min(REFUSALS_COUNTED_MAX);
            (self.tick, self.tick_again_at) = (Some(tick), Time(now.0.saturating_add(wait)));
        } else if entries > 1 {
            self.items_max = entries / 2;
            self.put_back(tick);
        } else {
            self.blame(tick, code, message);
        }
    }

    /// The request and the state of this tick cannot be stored.
    fn blame(&mut self, tick: Tick, code: &str, message: &str) {
        for item in tick.items.iter().filter(|item| !item.is_reported) {
            log::error!("PostgreSQL refuses a request of account {}: {message} ({code})", item.row.account);
            self.push_failure(item, Failure::Enabler);
        }
        for state in &tick.states {
            log::error!("PostgreSQL refuses the state of session {}: {message} ({code})", state.session);
        }
    }
}
