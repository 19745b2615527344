//! Requests to the enabler, and its events.

use super::SessionTable;
use super::accounts::write_account_update;
use super::entry::SessionEntry;
use super::notify::notify_low_balance;
use crate::charge::ch2::{Failure, Operation, Request, Response, SessionKey, Trigger};
use crate::charge::content::ContentClass;
use crate::charge::session::{Rule, Session};
use crate::charge::tariff::Units;
use crate::charge::time::Time;
use crate::enabler::{AccountUpdate, Accounts, EnablerEvent, ReservationState};
use crate::engine::effects::Effect;
use crate::engine::store::StoreError;
use crate::engine::store::change::{Change, Debit};
use crate::engine::tick::Tick;
use crate::shm::latency::Latency;
use crate::shm::statistic::Statistic;
use crate::simulate::{self, InjectedBug};
use std::collections::HashMap;

/// Retries per second: a server that comes back after an outage must not be flooded with everything that waited for it. The
/// same limit holds for renewals, unless there are more sessions than it can renew within [`RENEWAL_SECONDS_MAX`].
const RETRIES_PER_SECOND: u64 = 1000;

/// Microseconds without requests that may be made up for by a burst.
const BURST_MICROS: u64 = 50_000;

/// Seconds within which all open sessions can be renewed. No renewal is postponed for longer.
const RENEWAL_SECONDS_MAX: u64 = 60;

/// Spreads requests over time.
#[derive(Default)]
pub(super) struct Pace {
    /// When the next request may be sent.
    next: Time,
}

impl Pace {
    /// When the next request may be sent.
    pub fn next(&self) -> Time {
        self.next
    }

    /// Assigns a request the next free time, which may be in the past.
    fn assign(&mut self, now: Time, per_second: u64) -> Time {
        let at = Time(now.0.saturating_sub(BURST_MICROS)).max(self.next);
        self.next = Time(at.0.saturating_add(1_000_000 / per_second.clamp(1, 1_000_000)));
        at
    }
}

impl SessionTable {
    /// Handles an event of the enabler.
    pub fn enabler_event(&mut self, tick: &mut Tick<'_>, event: EnablerEvent) -> Result<(), StoreError> {
        match event {
            EnablerEvent::ServerRequest { session, opened_by, event, request } => {
                // The state after all earlier events, which may include the answer that opened the reservation.
                let state = self.reservation_state(session, opened_by);
                tick.effects.push(Effect::Answer { request, event: event.clone(), state });
                match state {
                    ReservationState::Unknown => Ok(()),
                    ReservationState::Open | ReservationState::Pending => {
                        self.handle_event(tick, session, tick.now, &event)
                    }
                }
            }
            EnablerEvent::LateGrant { session, number, server_binding } => {
                let Some(entry) = self.sessions.get_mut(&session) else { return Ok(()) };
                entry.session.on_late_grant(number, Some(server_binding), tick.now);
                self.execute_outputs(tick, session)
            }
            EnablerEvent::Rebound { session, opened_by, server_binding } => {
                if let Some(entry) = self.sessions.get_mut(&session) {
                    entry.session.set_server_binding(opened_by, server_binding);
                }
                Ok(())
            }
            EnablerEvent::TakenOver => self.taken_over(tick),
            EnablerEvent::Adopted(adopted) => self.adopt(tick, &adopted),
            EnablerEvent::AccountChanged { number, outcome, account } => {
                self.account_changed(tick, number, outcome, account);
                Ok(())
            }
            EnablerEvent::LowBalance { id, account, session } => {
                let session = session.and_then(|key| self.sessions.get(&key)).map(|entry| &entry.session);
                tick.count(Statistic::LowBalances);
                notify_low_balance(tick, &id, &account, session);
                Ok(())
            }
            EnablerEvent::Response { session, number, response, may_be_at } => {
                let Some(entry) = self.sessions.get_mut(&session) else { return Ok(()) };
                if let Some(server_binding) = may_be_at {
                    entry.session.on_request_lost(number, &server_binding);
                }
                entry.session.set_on_failure_cap(left_of_cap(tick, &self.uncovered, entry.session.account()));
                respond(tick, entry, number, &response);
                self.execute_outputs(tick, session)
            }
        }
    }

    /// Returns the state of the reservation that this request of a session opened.
    fn reservation_state(&self, session: SessionKey, opened_by: u32) -> ReservationState {
        match self.sessions.get(&session).filter(|entry| entry.session.has_reservation(opened_by)) {
            Some(entry) if entry.session.is_updating(opened_by) => ReservationState::Pending,
            Some(_) => ReservationState::Open,
            None => ReservationState::Unknown,
        }
    }

    /// Returns the request of this number while it is pending.
    pub fn pending_request(&self, session: SessionKey, number: u32) -> Option<Request> {
        self.sessions.get(&session)?.session.pending_request(number)
    }

    /// Returns a session while its request of this number is pending.
    pub(in crate::engine) fn session_with_pending(&self, session: SessionKey, number: u32) -> Option<&Session> {
        let session = &self.sessions.get(&session)?.session;
        session.pending_request(number).map(|_| session)
    }

    /// Sends the retries that are due, except those that were answered or handed to an operator meanwhile.
    pub(super) fn send_retries(&mut self, tick: &mut Tick<'_>) -> Result<(), StoreError> {
        while self.retry_pace.next <= tick.now
            && let Some((key, number)) = self.retries.pop_front()
        {
            let Some(entry) = self.sessions.get_mut(&key) else { continue };
            let request = entry.session.pending_request(number);
            let Some(request) = request.filter(|_| entry.session.held_back_message().is_none()) else { continue };
            self.retry_pace.assign(tick.now, RETRIES_PER_SECOND);
            if let Some((number, response)) = ask(tick, entry, request)? {
                respond(tick, entry, number, &response);
            }
            self.execute_outputs(tick, key)?;
        }
        Ok(())
    }

    /// Postpones the renewal of a session (Validity-Time) as the rate of renewals requires: many may be due at once after
    /// a restart or a pause. Returns whether nothing else of the session is due.
    pub(super) fn postpone_renewal(&mut self, key: SessionKey, now: Time) -> bool {
        let Some(entry) = self.sessions.get_mut(&key).filter(|entry| entry.session.is_renewal_due(now)) else {
            return false;
        };
        let per_second = RETRIES_PER_SECOND.max(self.open / RENEWAL_SECONDS_MAX);
        entry.session.postpone_renewals(now, self.renewal_pace.assign(now, per_second));
        entry.session.deadline().is_none_or(|deadline| deadline > now)
    }
}

/// Returns how many messages an account may still be granted while no enabler answers.
pub(super) fn left_of_cap(tick: &Tick<'_>, uncovered: &HashMap<Box<str>, u32>, account: &str) -> u32 {
    let granted = uncovered.get(account).copied().unwrap_or(0);
    tick.region.config.policy.on_failure_cap.saturating_sub(granted)
}

/// Asks the enabler. Returns number and answer of a request that is answered within the tick; any other is sent after the
/// commit.
pub(super) fn ask(
    tick: &mut Tick<'_>,
    entry: &mut SessionEntry,
    mut request: Request,
) -> Result<Option<(u32, Response)>, StoreError> {
    let number = request.number;
    // Each message is debited once. A database with accounts knows its debits itself, and must hear of one that ends a
    // reservation.
    let asks_database = tick.region.config.enabler.capabilities.accounts == Accounts::InDatabase;
    let is_debited = match &request.operation {
        Operation::Debit { message_id, part, .. } if !asks_database => {
            tick.store.is_debited(entry.row, debit_key(message_id), *part)?
        }
        _ => false,
    };
    match tick.enabler.in_tick() {
        Some(rules) => {
            let funds = tick.store.funds(entry.row, &request)?;
            let update = match is_debited {
                true => rules.release_for_known_debit(&request, &funds),
                false => rules.execute(&request, &funds),
            };
            if !is_debited {
                tick.latencies.push((Latency::Enabler, tick.now));
                record_executed_debit(tick, entry, &request, &update);
            }
            write_account_update(tick, entry, &request.operation, funds.account, &update);
            if let Some(held) = update.held {
                tick.store.put_held(entry.row, held);
            }
            Ok(Some((number, update.response)))
        }
        None if is_debited => Ok(Some((number, Response::debited(None)))),
        None => {
            if tick.region.config.enabler.capabilities.needs_end_to_end_id {
                // Committed with the session: resends keep the id (RFC 6733, 3).
                request.end_to_end_id = entry.session.end_to_end_id(tick.region.next_end_to_end_id());
            }
            tick.effects.push(Effect::Ask(request));
            Ok(None)
        }
    }
}

/// Records a debit that was executed within the tick.
fn record_executed_debit(tick: &mut Tick<'_>, entry: &SessionEntry, request: &Request, update: &AccountUpdate) {
    if let (Operation::Debit { message_id, part, octets, trigger, class, .. }, Response::Debited { .. }) =
        (&request.operation, &update.response)
    {
        let rule = entry.session.pending_rule(request.number);
        let opened_by = request.reservation.opened_by().unwrap_or(request.number);
        let message = DebitedMessage { message_id, part: *part, octets: *octets, units: update.charged, class: *class };
        record_debit(tick, entry, message, (*trigger, rule), opened_by);
    }
}

/// Returns the statistic that counts an answer: by its Result-Code, or by the one that a result of the ledger equals.
fn of_answer(response: &Response) -> Statistic {
    match response {
        Response::Denied(denial) => Statistic::of_result_code(denial.code()),
        Response::Free => Statistic::of_result_code(4011),
        Response::NoReservation => Statistic::of_result_code(5002),
        Response::Failed(Failure::Silent | Failure::Unreachable | Failure::Overload) => Statistic::AnswersNone,
        Response::Failed(failure) => Statistic::of_result_code(failure.code()),
        _ => Statistic::of_result_code(2001),
    }
}

/// Passes an answer to its session.
pub(super) fn respond(tick: &mut Tick<'_>, entry: &mut SessionEntry, number: u32, response: &Response) {
    tick.count(of_answer(response));
    if let Response::Released { .. } = response {
        tick.count(Statistic::Releases);
    }
    entry.session.on_response(number, response, tick.now);
}

/// Returns what identifies the debits of a message within its session.
fn debit_key(message_id: &str) -> &str {
    if simulate::is_injected(InjectedBug::KeyWithoutMessageId) { "" } else { message_id }
}

/// A message that was debited.
pub(super) struct DebitedMessage<'a> {
    pub message_id: &'a str,
    /// Number among the debits of the message.
    pub part: u32,
    pub octets: u64,
    /// What the debit took.
    pub units: Units,
    pub class: ContentClass,
}

/// Records a debit in the history.
pub(super) fn record_debit(
    tick: &mut Tick<'_>,
    entry: &SessionEntry,
    DebitedMessage { message_id, part, octets, units, class }: DebitedMessage<'_>,
    (trigger, rule): (Trigger, Option<Rule>),
    opened_by: u32,
) {
    let message = entry.message_record((debit_key(message_id).into(), class), octets, units, tick.wall_ms);
    let config = &tick.region.config;
    let session_id = || config.enabler.session_id(&config.enabler_settings(), entry.session.key(), opened_by);
    let ocs_session_id = config.records.dir.as_ref().and_then(|_| session_id()).map(String::into_boxed_str);
    tick.store.put(Change::Debited(Debit { message, part, trigger, rule, ocs_session_id }));
}
