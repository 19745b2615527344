//! In-memory session table: dispatches ring records to sessions, executes their outputs and writes what has changed.

mod accounts;
mod ask;
mod commands;
mod entry;
mod invite;
mod notify;
mod outputs;
mod pair;
mod stops;
mod takeover;

use super::effects::Effect;
use super::outstanding::Outstanding;
use super::store::{StoreError, StoredSession};
use super::tick::Tick;
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Entry, Event, Sent};
use crate::charge::session::{Decision, EndReason};
use crate::charge::time::Time;
use crate::shm::clock;
use crate::shm::record::Record;
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use crate::simulate::{self, InjectedBug};
use ask::{Pace, left_of_cap};
use commands::WaitingCommands;
use entry::{Copy, SessionEntry};
use invite::EarlyEvents;
use notify::claim_slot;
use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::sync::atomic::Ordering;

/// Entries of a queue up to which it is not searched for stale ones.
const STALE_ENTRIES_MIN: usize = 1024;

/// All sessions that are not forgotten.
pub struct SessionTable {
    /// Boxed, because a growing table moves pointers only, and its empty places cost little.
    sessions: HashMap<SessionKey, Box<SessionEntry>>,
    /// Sessions that have changed since the last commit.
    dirty: Vec<SessionKey>,
    timers: BinaryHeap<Reverse<(Time, SessionKey)>>,
    /// Free slots of the gate.
    free_slots: Vec<u32>,
    /// Closed sessions that still have a slot, oldest first, and stale entries of forgotten ones.
    closed_with_slot: VecDeque<(Time, SessionKey)>,
    /// Sessions that use a connection.
    connections: HashMap<u64, BTreeSet<SessionKey>>,
    /// Numbers of requests to be sent again, first in first out.
    retries: VecDeque<(SessionKey, u32)>,
    retry_pace: Pace,
    renewal_pace: Pace,
    early_events: EarlyEvents,
    /// Number of open sessions.
    open: u64,
    /// Number of unacknowledged debits.
    debits_pending: u64,
    outstanding: Outstanding,
    /// Messages that each account was granted while no enabler answered, and that are not settled.
    uncovered: HashMap<Box<str>, u32>,
    waiting_commands: WaitingCommands,
}

impl SessionTable {
    /// Creates the table from the stored sessions. Those of this instance keep the slots that they have in the gate.
    pub fn load(region: &Region, stored: Vec<StoredSession>) -> SessionTable {
        let mut table = SessionTable {
            sessions: HashMap::new(),
            dirty: Vec::new(),
            timers: BinaryHeap::new(),
            free_slots: Vec::new(),
            closed_with_slot: VecDeque::new(),
            connections: HashMap::new(),
            retries: VecDeque::new(),
            retry_pace: Pace::default(),
            renewal_pace: Pace::default(),
            early_events: EarlyEvents::default(),
            open: 0,
            debits_pending: 0,
            outstanding: Outstanding::default(),
            uncovered: HashMap::new(),
            waiting_commands: WaitingCommands::default(),
        };
        for StoredSession { row, instance, opened_at, session } in stored {
            let key = session.key();
            table.open += u64::from(session.is_open());
            for connection in session.connections() {
                table.connections.entry(*connection).or_default().insert(key);
            }
            // A verdict is taken before the commit that stores the decision.
            let has_verdict = session.decision().is_some();
            let entry = SessionEntry::new(session, row, instance, opened_at);
            let entry = SessionEntry { is_stored: true, copy: Copy::Uncertain, has_verdict, ..entry };
            table.sessions.insert(key, Box::new(entry));
        }
        table.take_over_slots(region);
        table
    }

    /// Assigns slots of the gate to the sessions that they name, and frees all others.
    fn take_over_slots(&mut self, region: &Region) {
        let table = region.table();
        for slot in (0..table.slots.len() as u32).rev() {
            let owner = table.slots[slot as usize].session().and_then(|key| self.sessions.get_mut(&key));
            match owner {
                Some(entry) if entry.slot.is_none() => entry.slot = Some(slot),
                _ => {
                    table.free(slot);
                    self.free_slots.push(slot);
                }
            }
        }
        let closed = self.in_order(|entry| !entry.session.is_open() && entry.slot.is_some());
        self.closed_with_slot = closed.into_iter().map(|key| (clock::now(), key)).collect();
    }

    /// Repeats what an engine that died may not have published of a session: grants, closed gates, pending requests.
    pub fn republish(&mut self, tick: &mut Tick<'_>, key: SessionKey) -> Result<(), StoreError> {
        let Some(entry) = self.sessions.get_mut(&key) else { return Ok(()) };
        self.outstanding.add_loaded(&entry.session, tick.now);
        if !simulate::is_injected(InjectedBug::OutboxDropped) {
            entry.session.repeat_outputs(tick.now);
        }
        // A session without a verdict has no slot in the gate yet, but needs one for its grant.
        let is_paired = entry.session.is_paired();
        let is_connected = !entry.session.is_page() && entry.session.end_reason() != Some(EndReason::HostStopped);
        let needs_slot = (entry.session.is_open() || is_paired) && is_connected;
        if needs_slot && entry.slot.is_none() && entry.instance == tick.instance {
            entry.slot = self.free_slots.pop();
            // Of two sessions of an INVITE, the one that was refused needs its gate as well.
            if entry.session.decision().is_some_and(|decision| is_paired || decision == Decision::Granted) {
                claim_slot(tick, entry);
            }
        }
        self.execute_outputs(tick, key)
    }

    /// Tells a session that its connections ended with the processes of its host. If its host is an earlier one, all events
    /// of the session have been read.
    pub fn host_stopped(&mut self, tick: &mut Tick<'_>, key: SessionKey) -> Result<(), StoreError> {
        self.handle_event(tick, key, tick.now, &Event::HostStopped)?;
        let orphaned = self.sessions.get_mut(&key).filter(|entry| entry.is_orphaned(tick.region));
        let Some(entry) = orphaned else { return Ok(()) };
        entry.session.on_gate_closed(0, tick.now);
        self.execute_outputs(tick, key)
    }

    /// Returns all sessions.
    pub fn all_sessions(&self) -> Vec<SessionKey> {
        self.in_order(|_| true)
    }

    /// Returns the open sessions that belong to another run of the host.
    pub fn orphaned_sessions(&self, instance: u64) -> Vec<SessionKey> {
        self.in_order(|entry| entry.instance != instance && entry.session.is_open())
    }

    /// Returns the open sessions: those that are not settled.
    pub fn open_sessions(&self) -> Vec<SessionKey> {
        self.in_order(|entry| entry.session.is_open())
    }

    /// Returns sessions in the order in which they were opened.
    fn in_order(&self, is_wanted: impl Fn(&SessionEntry) -> bool) -> Vec<SessionKey> {
        let mut found: Vec<_> = self.sessions.iter().filter(|(_, entry)| is_wanted(entry)).collect();
        found.sort_by_key(|(_, entry)| entry.row);
        found.into_iter().map(|(key, _)| *key).collect()
    }

    /// Returns the pending request of a session.
    #[cfg(test)]
    pub fn pending(&self, key: SessionKey) -> Option<crate::charge::ch2::Request> {
        self.sessions.get(&key)?.session.pending()
    }

    /// Whether any session is open.
    pub fn has_open(&self) -> bool {
        self.open > 0
    }

    /// When the next timer or retry is due.
    pub fn next_deadline(&self) -> Option<Time> {
        let retry = self.retries.front().map(|_| self.retry_pace.next());
        self.timers.peek().map(|Reverse((at, _))| *at).into_iter().chain(retry).min()
    }

    /// Adds a slot that was freed after a commit.
    pub(super) fn add_free_slot(&mut self, slot: u32) {
        self.free_slots.push(slot);
    }

    /// Passes a record to the sessions that it concerns.
    pub fn handle_record(&mut self, tick: &mut Tick<'_>, record: &Record<'_>) -> Result<(), StoreError> {
        match record {
            Record::Event(Entry { session, at, event: Event::Reserve(reserve) }) => {
                self.reserve(tick, *session, *at, reserve)
            }
            Record::Event(entry) => self.handle_event(tick, entry.session, entry.at, &entry.event),
            Record::ConnectionLost { at, connection } => {
                let sessions = self.connections.remove(connection).unwrap_or_default();
                let lost = Event::ConnectionLost { connection: *connection };
                let slots = sessions.iter().filter_map(|key| self.sessions.get(key)?.slot);
                tick.effects.extend(slots.map(|slot| Effect::Disconnected(slot, *connection)));
                sessions.into_iter().try_for_each(|session| self.handle_event(tick, session, *at, &lost))
            }
            Record::Command { process, sequence, command, .. } => {
                self.handle_command(tick, *process, *sequence, command)
            }
        }
    }

    /// Passes an event to its session.
    fn handle_own_event(
        &mut self,
        tick: &mut Tick<'_>,
        key: SessionKey,
        at: Time,
        event: &Event<'_>,
    ) -> Result<(), StoreError> {
        let Some(entry) = self.sessions.get_mut(&key) else {
            self.early_events.keep(tick, key, event);
            return Ok(());
        };
        if let Event::Failed { transaction: Some(ended), .. }
        | Event::Cancelled { transaction: Some(ended) }
        | Event::Delivered { transaction: Some(ended), .. }
        | Event::Unanswered { transaction: Some(ended) } = event
            && *ended != entry.session.suspended().transaction()
            && !(entry.session.is_page() && simulate::is_injected(InjectedBug::EndOfCopyCounts))
        {
            return Ok(());
        }
        if let Event::Sent(Sent { connection, .. })
        | Event::Responded { connection, .. }
        | Event::Activity { connection } = event
            && *connection != 0
            && !entry.session.connections().contains(connection)
        {
            self.connections.entry(*connection).or_default().insert(key);
        }
        if entry.session.is_failing() {
            entry.session.set_on_failure_cap(left_of_cap(tick, &self.uncovered, entry.session.account()));
        }
        if let Event::Failed { .. } | Event::Cancelled { .. } = event {
            entry.recall_answer(tick.region, at);
        }
        if let Event::Stopped { message_id, why, .. } = event {
            stops::log(entry.session.call_id(), message_id, *why);
        }
        entry.session.on_event(event, at);
        match event {
            // Only postpones the idle timer, which is not worth a commit.
            Event::Activity { .. } => Ok(()),
            _ => self.execute_outputs(tick, key),
        }
    }

    /// Runs the timers of sessions that are due at `read_until`. Up to that time all events have been read: what is still in a
    /// ring may be the activity or the answer that a later timer waits for.
    pub fn run_timers(&mut self, tick: &mut Tick<'_>, read_until: Time) -> Result<(), StoreError> {
        self.early_events.expire(tick, read_until);
        while let Some(Reverse((at, key))) = self.timers.peek().copied().filter(|due| due.0.0 <= read_until) {
            self.timers.pop();
            let entry = self.sessions.get_mut(&key).filter(|entry| entry.scheduled == Some(at));
            let Some(entry) = entry else { continue };
            entry.scheduled = None;
            let is_due = entry.session.deadline().is_some_and(|deadline| deadline <= read_until);
            if !is_due || self.postpone_renewal(key, tick.now) {
                self.schedule(key, tick.now);
            } else if let Some(entry) = self.sessions.get_mut(&key) {
                entry.recall_answer(tick.region, read_until);
                entry.session.on_timer(read_until);
                self.execute_outputs(tick, key)?;
            }
        }
        self.outstanding.timers(tick.now);
        self.send_retries(tick)
    }

    /// Updates the counters that a session contributes to, and its timer.
    fn schedule(&mut self, key: SessionKey, now: Time) {
        let Some(entry) = self.sessions.get_mut(&key) else { return };
        let pending = entry.session.debits_pending() as u32;
        self.debits_pending = self.debits_pending + u64::from(pending) - u64::from(entry.debits_pending);
        entry.debits_pending = pending;
        self.outstanding.update(&entry.session, now);
        let uncovered = entry.session.uncovered().0;
        if uncovered != entry.uncovered {
            let account = self.uncovered.entry(entry.session.account().into()).or_default();
            *account = account.saturating_add(uncovered).saturating_sub(entry.uncovered);
            entry.uncovered = uncovered;
            self.uncovered.retain(|_, granted| *granted > 0);
        }
        let Some(deadline) = entry.session.deadline() else { return };
        if entry.scheduled.is_none_or(|scheduled| deadline < scheduled) {
            entry.scheduled = Some(deadline);
            self.timers.push(Reverse((deadline, key)));
        }
        self.drop_stale_timers();
    }

    /// Removes timers of sessions that were forgotten or have an earlier timer, when there are many.
    fn drop_stale_timers(&mut self) {
        if self.timers.len() > STALE_ENTRIES_MIN + 2 * self.sessions.len() {
            let mut timers = std::mem::take(&mut self.timers).into_vec();
            timers
                .retain(|Reverse((at, key))| self.sessions.get(key).is_some_and(|entry| entry.scheduled == Some(*at)));
            self.timers = timers.into();
        }
    }

    /// Removes forgotten sessions from the list of closed ones with a slot, when there are many.
    fn drop_stale_closed(&mut self) {
        if self.closed_with_slot.len() > STALE_ENTRIES_MIN + 2 * self.sessions.len() {
            self.closed_with_slot.retain(|(_, key)| self.sessions.contains_key(key));
        }
    }

    /// Adds all changed sessions to the commit.
    pub fn write(&mut self, tick: &mut Tick<'_>) {
        for key in std::mem::take(&mut self.dirty) {
            if let Some(entry) = self.sessions.get_mut(&key) {
                entry.write(tick);
            }
        }
    }

    /// Updates the gauges that operators read.
    pub(super) fn publish_gauges(&self, region: &Region) {
        region.counter(Statistic::OutboxDepth).store(self.debits_pending, Ordering::Relaxed);
        region.counter(Statistic::SessionsActive).store(self.open, Ordering::Relaxed);
        region.counter(Statistic::HoldsStuck).store(self.outstanding.stuck(), Ordering::Relaxed);
        region.set_oldest_debit(self.outstanding.oldest_debit());
    }
}
