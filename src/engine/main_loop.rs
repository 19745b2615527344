//! Main loop of the engine: read the rings, advance the sessions, commit, and only then publish the results.
//!
//! ```text
//!   gather ─► step (sessions) ─► commit: sessions, accounts, debits, marks of rings and queues ─► publish
//!                                  └─ synced ─► remote enabler        └─ in the tables ─► command replies
//! ```
//!
//! The read marks are part of the commit. So an event is either in the journal with all its consequences, or still unread
//! in its ring: killed at any point, the next engine continues without losing or repeating it. A commit survives the death
//! of all processes. What leaves the machine must also survive a power failure: a remote enabler is asked after the sync,
//! and its answer is handled and committed like any event. Requests without an answer are part of the sessions.
//!
//! Notifications are written to their queues before the commit and become visible after it. The committed marks let the
//! next engine publish those that this one could not.
//!
//! A commit that fails is repeated, and nothing else is done until it succeeds: the events wait in their rings.

use super::effects::Effect;
use super::notification_writer::NotificationWriter;
use super::ring_reader::{RingReader, gather, read_until};
use super::sessions::SessionTable;
use super::store::change::{Change, Marks};
use super::store::{Retention, Store, StoreError};
use super::tick::Tick;
use crate::charge::ch2::SessionKey;
use crate::charge::policy::OnFailure;
use crate::charge::time::Time;
use crate::enabler::{Enabler, EnablerEvent};
use crate::shm::clock;
use crate::shm::gate::Lease;
use crate::shm::latency::Latency;
use crate::shm::region::{EngineState, Region};
use crate::shm::statistic::Statistic;
use crate::simulate::{self, InjectedBug, crash_point};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Records of a tick, which bounds the time until a verdict.
const TICK_RECORDS_MAX: usize = simulate::sized(512, 16);

/// Longest sleep while sessions are open: events that need no answer are collected for one commit.
const SLEEP_MAX: Duration = Duration::from_millis(10);

/// Longest sleep of an idle engine, which keeps its heartbeat.
const IDLE_SLEEP_MAX: Duration = Duration::from_millis(500);

/// Shortest sleep until a timer.
const SLEEP_MIN: Duration = Duration::from_millis(1);

/// Time between two attempts of a commit that fails.
const COMMIT_RETRY_INTERVAL: Duration = Duration::from_millis(20);

/// Sessions that are handled in one tick when all are: the engine shows a sign of life after each portion.
const PORTION_SESSIONS: usize = simulate::sized(1000, 4);

/// Silence of the rings after which a stopping engine settles the sessions.
const STOP_SILENCE: Duration = Duration::from_millis(100);

/// Longest wait of a stopping engine for that silence.
const STOP_SILENCE_TIMEOUT: Duration = Duration::from_secs(1);

/// Longest wait of a stopping engine for the last events and settlements. The next engine does the rest.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(3);

/// Longest wait of a stopping engine until the enabler has closed its connections.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest wait of a stopping engine for the tables. The journal keeps the rest.
const TABLES_TIMEOUT: Duration = Duration::from_millis(500);

/// Longest wait of a stopping engine for its charging records. The tables keep the rest.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// How often a stopping engine checks what it waits for.
const STOP_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Why an engine could not start or continue. Another one may try.
pub type EngineError = StoreError;

/// Runs the engine until `stop` is set or the region is asked to stop, then settles every session and returns.
///
/// An error means that the store failed. Nothing is lost; the caller may call again after a while. At most one engine may
/// run on a region at a time.
pub fn run(region: &Arc<Region>, stop: &AtomicBool) -> Result<(), EngineError> {
    let result = Engine::start(region).and_then(|mut engine| engine.run(stop));
    if let Err(error) = &result {
        region.report_store_failure(error);
    }
    result
}

/// Results of a tick that is not committed yet.
pub(super) struct Uncommitted {
    effects: Vec<Effect>,
    latencies: Vec<(Latency, Time)>,
    /// Whether a command waits for the tables.
    command_waits: bool,
}

/// Removes the effects that waited for the journal records up to `through`.
fn take_ready(queue: &mut VecDeque<(u64, Effect)>, through: u64) -> Vec<Effect> {
    let count = queue.partition_point(|(sequence, _)| *sequence <= through);
    queue.drain(..count).map(|(_, effect)| effect).collect()
}

/// The engine, as it runs in its process.
pub struct Engine {
    pub(super) region: Arc<Region>,
    pub(super) store: Store,
    pub(super) rings: RingReader,
    pub(super) sessions: SessionTable,
    pub(super) notifications: NotificationWriter,
    pub(super) enabler: Box<dyn Enabler>,
    /// Results of a tick whose commit has failed.
    pub(super) uncommitted: Option<Uncommitted>,
    /// Effects that wait for the sync of a journal record, by its sequence.
    pub(super) after_sync: VecDeque<(u64, Effect)>,
    /// Replies that wait until the tables contain a journal record, by its sequence.
    pub(super) after_tables: VecDeque<(u64, Effect)>,
    /// Whether the enabler has had a lease.
    pub(super) has_lease: bool,
    /// Whether notifications may be published: not before the gates of all sessions are open again.
    pub(super) is_ready: bool,
}

impl Engine {
    fn run(&mut self, stop: &AtomicBool) -> Result<(), EngineError> {
        while !stop.load(Ordering::Relaxed) && !self.region.is_stop_requested() {
            if !Engine::has_more(self.tick()?) {
                let connections = self.enabler.descriptors();
                self.region.engine_sleep(self.sleep_max(), &connections);
            }
        }
        self.stop()
    }

    /// Runs a tick, unless nothing can be committed. Returns the number of records and events handled.
    pub fn tick(&mut self) -> Result<usize, EngineError> {
        self.region.begin_tick();
        self.region.heartbeat();
        self.publish_delayed()?;
        if !self.can_commit() {
            // Connections are kept alive meanwhile, and the tables may catch up.
            self.serve_enabler();
            return Ok(0);
        }
        self.process()
    }

    /// Whether new events may be handled: the last commit has succeeded, and the journal has room for the next.
    fn can_commit(&mut self) -> bool {
        let committed = match self.uncommitted.take() {
            Some(results) => self.commit(results),
            None => self.store.check_room(),
        };
        match committed {
            Ok(()) => {
                self.rings.free();
                self.region.set_engine_state(match self.store.is_unusable() {
                    true => EngineState::StoreFailing,
                    false => EngineState::Running,
                });
                true
            }
            Err(error) => {
                self.region.report_store_failure(&error);
                false
            }
        }
    }

    /// Publishes what waited for the disk or the tables, and gives the writer its next job.
    pub(super) fn publish_delayed(&mut self) -> Result<(), EngineError> {
        let days = self.region.config.history_days;
        self.store.drive_writer(Some(Retention { days, now: clock::now(), wall_ms: clock::wall_ms() }))?;
        let (durable, answerable) = (self.store.durable()?, self.store.answerable()?);
        let mut effects = take_ready(&mut self.after_sync, durable);
        effects.extend(take_ready(&mut self.after_tables, answerable));
        if !effects.is_empty() {
            crash_point();
            self.sessions.publish(&self.region, effects, &mut *self.enabler);
            crash_point();
        }
        let (journal_octets, log_octets) = self.store.backlog_octets();
        self.region.report_ledger(self.store.is_failing(), journal_octets, log_octets);
        Ok(())
    }

    /// Whether a tick that handled this many records has probably left some, so that the engine must not sleep.
    pub fn has_more(records: usize) -> bool {
        records >= TICK_RECORDS_MAX / 2
    }

    /// How long the engine may sleep.
    pub fn sleep_max(&self) -> Duration {
        if self.uncommitted.is_some() {
            return COMMIT_RETRY_INTERVAL;
        }
        let most = if self.sessions.has_open() || self.store.is_pending() { SLEEP_MAX } else { IDLE_SLEEP_MAX };
        if self.enabler.has_events() {
            return Duration::ZERO;
        }
        let due = self.sessions.next_deadline().into_iter().chain(self.enabler.deadline()).min();
        let due = due.map(|at| Duration::from_micros(at.micros_since(clock::now())));
        due.map_or(most, |due| due.clamp(SLEEP_MIN, most))
    }

    /// When the oldest record was committed that does not survive a power failure yet.
    #[cfg(feature = "simulate")]
    pub fn unsynced_since(&self) -> Option<Time> {
        self.store.unsynced_since()
    }

    /// Sessions that are not settled.
    #[cfg(feature = "simulate")]
    pub fn unsettled(&self) -> Vec<SessionKey> {
        self.sessions.open_sessions()
    }

    /// Settles every session, because the host is stopping and their connections end.
    pub fn stop(&mut self) -> Result<(), EngineError> {
        self.region.set_engine_state(EngineState::Stopping);
        let begun = clock::now();
        self.wait_for_silence(begun)?;
        let open = self.sessions.open_sessions();
        self.in_portions(&open, SessionTable::host_stopped)?;
        while self.has_unfinished() && clock::since(begun) < SETTLE_TIMEOUT {
            self.process()?;
            self.publish_delayed()?;
            clock::pause(STOP_POLL_INTERVAL);
        }
        let leaving = clock::now();
        self.enabler.leave(leaving);
        while !self.enabler.has_left() && clock::since(leaving) < LEAVE_TIMEOUT {
            clock::pause(STOP_POLL_INTERVAL);
            self.enabler.work(clock::now());
        }
        self.store.finish(TABLES_TIMEOUT)?;
        self.store.finish_records(RECORDS_TIMEOUT);
        self.publish_delayed()?;
        // The next engine reads what is left.
        if !self.rings.has_unread() {
            self.region.remove_file();
        }
        Ok(())
    }

    /// Whether events are unread, sessions open, or effects not published.
    fn has_unfinished(&self) -> bool {
        self.sessions.has_open() || !self.after_sync.is_empty() || self.rings.has_unread()
    }

    /// Handles events until the rings have been silent for a while: workers may still be writing.
    fn wait_for_silence(&mut self, begun: Time) -> Result<(), EngineError> {
        let mut last = begun;
        while clock::since(last) < STOP_SILENCE && clock::since(begun) < STOP_SILENCE_TIMEOUT {
            if self.process()? > 0 {
                last = clock::now();
            } else {
                clock::pause(STOP_POLL_INTERVAL);
            }
        }
        Ok(())
    }

    /// Handles the next records of the rings, events of the enabler, and timers. Returns the number of records and events.
    pub(super) fn process(&mut self) -> Result<usize, EngineError> {
        self.region.heartbeat();
        self.notifications.watch_scripts(&self.region);
        self.serve_enabler();
        // The records borrow from the rings until the step is over.
        let rings = std::mem::take(&mut self.rings.rings);
        let records = gather(&rings, &mut self.rings.positions, TICK_RECORDS_MAX);
        let read_until = read_until(&rings, &self.rings.positions, clock::now());
        let events = self.enabler_events();
        let count = records.len() + events.len();
        let stepped = self.step(|sessions, tick| {
            records.iter().try_for_each(|record| sessions.handle_record(tick, record))?;
            events.into_iter().try_for_each(|event| sessions.enabler_event(tick, event))?;
            // The events of an earlier run of the host are read to the end before any of its sessions is settled.
            if tick.is_current_instance() { sessions.run_timers(tick, read_until) } else { Ok(()) }
        });
        self.rings.rings = rings;
        stepped?;
        self.publish_lease();
        if self.uncommitted.is_none() {
            self.rings.free();
        }
        Ok(count)
    }

    /// Tells the gate until when content may pass. With `on_failure=grant` it is without a limit: the operator wants service
    /// while the enabler fails, so what was granted passes until this node knows that another one has taken its sessions
    /// over.
    ///
    /// The enabler has no lease when it starts; that of the engine before this one still counts then. A lease that ends later
    /// than before may be a new one, after another node has taken the sessions over: first their gates are closed.
    fn publish_lease(&mut self) {
        let until = match self.region.config.policy.on_failure {
            OnFailure::Deny => self.enabler.lease_until(),
            OnFailure::Grant => Lease::UNLIMITED,
        };
        self.has_lease |= until > Time(0);
        let table = self.region.table();
        let is_later = until > table.lease.until();
        if self.has_lease && !(is_later && self.enabler.has_events()) {
            table.lease.set(until);
        }
    }

    /// Lets the enabler read and write its connections, and copies its counters.
    fn serve_enabler(&mut self) {
        self.enabler.work(clock::now());
        self.publish_lease();
        let response_times = self.enabler.take_response_times();
        response_times.into_iter().for_each(|micros| self.region.latency(Latency::Enabler).add(micros));
        for (name, value) in self.enabler.counters() {
            if let Some(statistic) = Statistic::from_name(name) {
                self.region.counter(statistic).store(value, Ordering::Relaxed);
            }
        }
    }

    /// Returns the next events of the enabler.
    fn enabler_events(&mut self) -> Vec<EnablerEvent> {
        let pending = |session, number| self.sessions.pending_request(session, number);
        std::iter::from_fn(|| self.enabler.poll(&pending)).take(TICK_RECORDS_MAX).collect()
    }

    /// Does `work` with each session, a portion of them per tick. All of it must be committed: a start or a stop leaves
    /// nothing undecided.
    pub(super) fn in_portions(
        &mut self,
        sessions: &[SessionKey],
        work: impl Fn(&mut SessionTable, &mut Tick<'_>, SessionKey) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for portion in sessions.chunks(PORTION_SESSIONS) {
            self.region.heartbeat();
            self.publish_delayed()?;
            self.step(|table, tick| portion.iter().try_for_each(|session| work(table, tick, *session)))?;
            self.commit_rest()?;
        }
        Ok(())
    }

    /// Commits the results of the last tick if their commit has failed.
    fn commit_rest(&mut self) -> Result<(), EngineError> {
        match self.uncommitted.take() {
            Some(results) => self.commit(results),
            None => Ok(()),
        }
    }

    /// Advances the sessions by `work`, commits what has changed, and publishes it. If the commit fails, the results are
    /// kept in `uncommitted`.
    pub(super) fn step(
        &mut self,
        work: impl FnOnce(&mut SessionTable, &mut Tick<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        self.commit_rest()?;
        let instance = self.rings.instance;
        let mut tick = Tick::new(&self.region, &mut self.store, &mut self.notifications, &*self.enabler, instance);
        work(&mut self.sessions, &mut tick)?;
        self.sessions.write(&mut tick);
        let Tick { changed, command_waits, mut effects, latencies, .. } = tick;
        if !changed && effects.is_empty() {
            // Nothing that was read has to be stored.
            self.sessions.publish(&self.region, effects, &mut *self.enabler);
            return Ok(());
        }
        if simulate::is_injected(InjectedBug::PublishedBeforeCommit) {
            self.sessions.publish(&self.region, std::mem::take(&mut effects), &mut *self.enabler);
        }
        crash_point();
        if command_waits {
            self.store.put_enabler_status(self.enabler.status());
        }
        if changed {
            let marks = Marks { events: self.rings.positions.clone(), notifications: self.notifications.heads() };
            self.store.put(Change::Marks { instance, marks });
        }
        if let Err(error) = self.commit(Uncommitted { effects, latencies, command_waits }) {
            self.region.report_store_failure(&error);
        }
        Ok(())
    }

    /// Commits the results of a tick, and publishes those that need neither a sync nor the tables.
    fn commit(&mut self, results: Uncommitted) -> Result<(), EngineError> {
        let is_urgent = results.command_waits || results.effects.iter().any(Effect::leaves_the_machine);
        let sequence = match self.store.commit(is_urgent) {
            Ok(sequence) => sequence,
            Err(error) => {
                crash_point();
                self.uncommitted = Some(results);
                return Err(error);
            }
        };
        let Uncommitted { effects, latencies, command_waits } = results;
        if command_waits {
            self.store.expedite();
        }
        crash_point();
        let needs_sync =
            |effect: &Effect| effect.leaves_the_machine() && !simulate::is_injected(InjectedBug::AskedBeforeSync);
        let (mut outward, rest): (Vec<_>, Vec<_>) = effects.into_iter().partition(needs_sync);
        outward.sort_by_key(|effect| !effect.is_state());
        let (replies, local): (Vec<_>, Vec<_>) = rest.into_iter().partition(Effect::is_reply);
        self.after_sync.extend(outward.into_iter().map(|effect| (sequence, effect)));
        self.after_tables.extend(replies.into_iter().map(|effect| (sequence, effect)));
        self.sessions.publish(&self.region, local, &mut *self.enabler);
        crash_point();
        if self.is_ready {
            self.notifications.publish(&self.region);
        }
        self.measure(&latencies);
        crash_point();
        Ok(())
    }

    /// Adds the time since each start to its latency.
    fn measure(&self, latencies: &[(Latency, Time)]) {
        if latencies.is_empty() {
            return;
        }
        let now = clock::now();
        latencies.iter().for_each(|(latency, since)| self.region.latency(*latency).add(now.micros_since(*since)));
    }
}

#[cfg(test)]
mod tests;
