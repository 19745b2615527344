//! Step 1 of the OMA flow: an INVITE opens a session, or is refused. So does a SIP MESSAGE, which needs no slot of the gate.

use super::SessionTable;
use super::entry::SessionEntry;
use super::notify::refuse;
use crate::charge::ch2::{Failure, SessionKey};
use crate::charge::content::ContentClass;
use crate::charge::event::{Event, Reserve, ServerTransaction};
use crate::charge::session::{FIRST_NUMBER_END, Session};
use crate::charge::tariff::PriceList;
use crate::charge::time::Time;
use crate::config::tariffs::PricedService;
use crate::engine::store::StoreError;
use crate::engine::tick::Tick;
use crate::shm::gate::REUSE_AFTER_SECONDS;
use crate::shm::statistic::Statistic;
use std::collections::VecDeque;

/// Seconds for which an event waits for its INVITE, which may come through another ring.
const EARLY_EVENT_SECONDS: u32 = 5;

/// Early events that are kept at a time.
const EARLY_EVENTS_MAX: usize = 10_000;

/// An event that can be read before its INVITE.
#[derive(Clone, Copy)]
enum EarlyEvent {
    Failed(u16, Option<ServerTransaction>),
    Cancelled(Option<ServerTransaction>),
}

/// Events whose INVITE is not read yet, oldest first.
#[derive(Default)]
pub(super) struct EarlyEvents(VecDeque<(Time, SessionKey, EarlyEvent)>);

impl EarlyEvents {
    /// Keeps CANCEL and failures. Any other event follows the verdict of its INVITE, so it is counted and dropped.
    pub fn keep(&mut self, tick: &mut Tick<'_>, key: SessionKey, event: &Event<'_>) {
        let event = match event {
            Event::Cancelled { transaction } => EarlyEvent::Cancelled(*transaction),
            Event::Failed { code, transaction } => EarlyEvent::Failed(*code, *transaction),
            _ => return tick.count(Statistic::DroppedUnknown),
        };
        if self.0.len() >= EARLY_EVENTS_MAX {
            self.0.pop_front();
            tick.count(Statistic::DroppedUnknown);
        }
        self.0.push_back((tick.now, key, event));
    }

    /// Drops events that have waited for too long at `read_until`.
    pub fn expire(&mut self, tick: &mut Tick<'_>, read_until: Time) {
        while self.0.front().is_some_and(|early| early.0.after_seconds(EARLY_EVENT_SECONDS) <= read_until) {
            self.0.pop_front();
            tick.count(Statistic::DroppedUnknown);
        }
    }

    /// Removes and returns the events of a session.
    fn take(&mut self, key: SessionKey) -> Vec<EarlyEvent> {
        let events = self.0.iter().filter(|early| early.1 == key).map(|early| early.2).collect();
        self.0.retain(|early| early.1 != key);
        events
    }
}

impl SessionTable {
    /// Handles an INVITE or MESSAGE that asks for a reservation.
    pub(super) fn reserve(
        &mut self,
        tick: &mut Tick<'_>,
        key: SessionKey,
        at: Time,
        reserve: &Reserve<'_>,
    ) -> Result<(), StoreError> {
        let called = reserve.of_called_party();
        let known =
            self.sessions.get(&key).or_else(|| self.sessions.get(&key.companion()).filter(|_| called.is_some()));
        if let Some(entry) = known {
            refuse_merged(tick, entry, at, reserve);
            return Ok(());
        }
        let is_current = tick.is_current_instance();
        if !is_current && reserve.page.is_some() {
            // The host has stopped before a verdict was visible, so the MESSAGE was not relayed: nothing is charged.
            return Ok(());
        }
        let needs_slot = is_current && reserve.page.is_none();
        let slot = if needs_slot { self.free_slot(tick) } else { None };
        let slot_of_called = if called.is_some() && slot.is_some() { self.free_slot(tick) } else { None };
        let is_without_slot = needs_slot && (slot.is_none() || called.is_some() && slot_of_called.is_none());
        let sessions = 1 + u64::from(called.is_some());
        if is_current && (is_without_slot || self.open + sessions > u64::from(tick.region.config.max_sessions)) {
            self.free_slots.extend(slot);
            self.free_slots.extend(slot_of_called);
            refuse_full(tick, key, at, reserve);
            return Ok(());
        }
        self.open_session(tick, key, at, reserve, slot);
        if let Some(called) = &called {
            self.open_session(tick, key.companion(), at, called, slot_of_called);
        }
        // The verdict of either waits for the other, so both are in the table by now.
        self.execute_outputs(tick, key)?;
        if called.is_some() {
            self.execute_outputs(tick, key.companion())?;
        }
        for early in self.early_events.take(key) {
            let event = match early {
                EarlyEvent::Failed(code, transaction) => Event::Failed { code, transaction },
                EarlyEvent::Cancelled(transaction) => Event::Cancelled { transaction },
            };
            self.handle_event(tick, key, at, &event)?;
        }
        Ok(())
    }

    fn open_session(
        &mut self,
        tick: &mut Tick<'_>,
        key: SessionKey,
        at: Time,
        reserve: &Reserve<'_>,
        slot: Option<u32>,
    ) {
        count_reserve(tick, reserve);
        let policy = tick.region.config.policy;
        let prices = prices_of(tick, reserve);
        let first_number = tick.region.next_end_to_end_id() % FIRST_NUMBER_END;
        let session = Session::open(key, reserve, prices, policy, first_number, at);
        let row = tick.store.new_row();
        self.open += 1;
        // `wall_ms` is the time of the tick; the INVITE was written to its ring earlier.
        let waited = i64::try_from(tick.now.micros_since(at) / 1000).unwrap_or(i64::MAX);
        let opened_at = tick.wall_ms.saturating_sub(waited);
        let entry = SessionEntry { slot, ..SessionEntry::new(session, row, tick.instance, opened_at) };
        self.sessions.insert(key, Box::new(entry));
    }

    /// Takes a free slot, or that of the session that was closed longest ago.
    fn free_slot(&mut self, tick: &Tick<'_>) -> Option<u32> {
        if let Some(slot) = self.free_slots.pop() {
            return Some(slot);
        }
        while let Some((closed, key)) = self.closed_with_slot.front().copied() {
            if closed.after_seconds(REUSE_AFTER_SECONDS) > tick.now {
                break;
            }
            self.closed_with_slot.pop_front();
            // The session may have been forgotten, and its INVITE may have opened another one since.
            let closed = self.sessions.get_mut(&key).filter(|entry| !entry.session.is_open());
            if let Some(slot) = closed.and_then(|entry| entry.slot.take()) {
                tick.region.table().free(slot);
                return Some(slot);
            }
        }
        None
    }
}

/// Counts a request that asks for a reservation.
pub(super) fn count_reserve(tick: &mut Tick<'_>, reserve: &Reserve<'_>) {
    tick.count(Statistic::Reserves);
    if reserve.page.is_some() {
        tick.count(Statistic::Messages);
    }
}

/// Returns the prices of a new session.
fn prices_of(tick: &Tick<'_>, reserve: &Reserve<'_>) -> PriceList {
    let priced = match reserve.page {
        Some(_) => PricedService::Page(reserve.service),
        None => PricedService::Session(reserve.service),
    };
    let tariffs = &tick.region.config.tariffs;
    let tariff = |class| tick.region.tariff(tariffs.choose(reserve.tariff, priced, class));
    PriceList::new(ContentClass::ALL.map(tariff), reserve.recipients)
}

/// Refuses another copy of a request that has opened a session. A retransmission in the same transaction is ignored.
fn refuse_merged(tick: &mut Tick<'_>, entry: &SessionEntry, at: Time, reserve: &Reserve<'_>) {
    let is_another = reserve.suspended.transaction() != entry.session.suspended().transaction();
    if tick.is_current_instance() && (is_another || entry.instance != tick.instance) {
        refuse(tick, entry.session.key(), at, reserve, Failure::Merged);
    }
}

fn refuse_full(tick: &mut Tick<'_>, key: SessionKey, at: Time, reserve: &Reserve<'_>) {
    tick.count(Statistic::DroppedTableFull);
    refuse(tick, key, at, reserve, Failure::Full);
}
