//! The loop of the engine: read the rings, step the sessions, commit, and only then publish the results.
//!
//! ```text
//!   gather ─► step (book) ─► commit: sessions, accounts, debits, read marks, notice marks ─► publish
//!                              └─ synced ─► distant enabler      └─ tables written ─► operators
//! ```
//!
//! The read marks are part of the commit. An event is therefore in the journal with all that came of it, or it
//! is still unread in its ring: killed at any point, the next engine continues without a loss or a repetition.
//! A commit survives the death of every process. What leaves the machine must survive the machine too: a distant
//! enabler is asked after the sync, and its answer is stepped and committed like any event. Requests without an answer
//! are part of the sessions.
//!
//! NotificationWriter are written into their queues before the commit and become visible after it; the marks of what
//! was committed let the next engine show what this one could not any more.
//!
//! A commit that fails is tried again, and nothing else is done until it succeeds: the events wait in their rings.

use super::store::change::{Change, Marks};
use super::store::{Retention, Store, StoreError};
use crate::charge::ch2::SessionKey;
use crate::charge::time::Time;
use crate::config::Config;
use crate::enabler::{self, Enabler, EnablerEvent};
use crate::engine::notification_writer::NotificationWriter;
use crate::engine::sessions::{Effect, SessionTable, Tick};
use crate::shm::clock;
use crate::shm::latency::Latency;
use crate::shm::record::Record;
use crate::shm::region::{EngineState, EventConsumer, Region};
use crate::shm::statistic::Statistic;
use crate::simulate::{self, InjectedBug, crash_point};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Records of one turn: bounds the time to a verdict.
const BATCH: usize = simulate::sized(512, 16);

/// How long events that nobody waits for are left lying, so that one commit takes many.
const TURN: Duration = Duration::from_millis(10);

/// The longest sleep: the heartbeat of an idle engine.
const IDLE: Duration = Duration::from_millis(500);

/// How long the rings must be silent before a stopping engine settles.
const QUIET: Duration = Duration::from_millis(100);

/// How often a stopping engine looks up.
const LOOK: Duration = Duration::from_millis(5);

/// How long a stopping engine waits for silence at most.
const QUIET_PATIENCE: Duration = Duration::from_secs(1);

/// How long a stopping engine waits for the last settlements; what is left is settled by the next one.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// How long it waits for its peers to confirm that it leaves.
const LEAVE_PATIENCE: Duration = Duration::from_millis(500);

/// How long it waits for the tables to follow; the journal keeps what is left.
const TABLES_PATIENCE: Duration = Duration::from_millis(500);

/// Sessions of a turn that settles or resumes many: the engine shows between two of them that it lives.
const PORTION: usize = simulate::sized(1000, 4);

/// Between two tries of a commit that fails.
const RETRY: Duration = Duration::from_millis(20);

/// The engine cannot go on; another one may try.
pub type EngineError = StoreError;

/// Runs the engine until `stop` is set or the region is asked to stop, then settles every session and returns.
/// An error means that the store failed: nothing is lost, the caller may call again after a while.
/// At most one engine may run on a region at a time.
pub fn run(region: &Arc<Region>, stop: &AtomicBool) -> Result<(), EngineError> {
    let result = Engine::start(region).and_then(|mut engine| engine.run(stop));
    if let Err(error) = &result {
        region.report_store_failure(error);
    }
    result
}

/// The event rings of one instance and how far they are read.
struct Reading {
    instance: u64,
    rings: Vec<EventConsumer>,
    positions: Vec<u64>,
}

impl Reading {
    /// Continues from the marks of the last commit; a ring that is freed further holds nothing older.
    fn new(instance: u64, rings: Vec<EventConsumer>, marks: &Marks) -> Reading {
        let committed = marks.events.iter().copied().chain(std::iter::repeat(0));
        let positions = rings.iter().zip(committed).map(|(ring, mark)| ring.tail().max(mark)).collect();
        let mut reading = Reading { instance, rings, positions };
        // An engine that died after its commit has not freed what it had read.
        reading.free();
        reading
    }

    fn free(&mut self) {
        for (ring, position) in self.rings.iter_mut().zip(&self.positions) {
            ring.free(*position);
        }
    }
}

/// The next records of all rings, ordered by their times.
fn gather<'a>(rings: &'a [EventConsumer], positions: &mut [u64]) -> Vec<Record<'a>> {
    let waiting = rings.iter().zip(&*positions).filter(|(ring, at)| ring.head() > **at).count();
    let share = BATCH.div_ceil(waiting.max(1));
    let mut records = Vec::new();
    for (ring, position) in rings.iter().zip(positions) {
        for _ in 0..share {
            let Some((bytes, next)) = ring.read_at(*position) else { break };
            *position = next;
            match postcard::from_bytes(bytes) {
                Ok(record) => records.push(record),
                Err(_) => log::error!("a record of an event ring cannot be decoded; skipped"),
            }
        }
    }
    records.sort_by_key(Record::at);
    records
}

/// What a turn has decided, until its commit succeeds.
struct Decided {
    effects: Vec<Effect>,
    latencies: Vec<(Latency, Time)>,
    /// Whether an operator waits for the tables.
    operator_waits: bool,
}

/// Takes from a queue what waited for the records up to this one.
fn ready(queue: &mut VecDeque<(u64, Effect)>, through: u64) -> Vec<Effect> {
    let count = queue.partition_point(|(sequence, _)| *sequence <= through);
    queue.drain(..count).map(|(_, effect)| effect).collect()
}

/// What runs in the engine's process.
pub struct Engine {
    region: Arc<Region>,
    store: Store,
    reading: Reading,
    book: SessionTable,
    notices: NotificationWriter,
    enabler: Box<dyn Enabler>,
    /// Of a turn whose commit has failed.
    uncommitted: Option<Decided>,
    /// What is done when a record of the journal is synced, by its sequence.
    after_sync: VecDeque<(u64, Effect)>,
    /// Answers to operators that wait until the tables contain a record of the journal, by its sequence.
    after_tables: VecDeque<(u64, Effect)>,
    /// Whether notices may be shown: not before the gates of all sessions are open again.
    is_ready: bool,
}

impl Engine {
    /// Takes over where the engine before it stopped or died.
    pub fn start(region: &Arc<Region>) -> Result<Engine, EngineError> {
        let mut store = Store::open(&region.config.state_dir, Some(region))?;
        let instance = region.instance();
        let marks = store.marks(instance)?.unwrap_or_default();
        let reading = Reading::new(instance, region.event_consumers()?, &marks);
        let notices = NotificationWriter::restore(region, &marks.notifications)?;
        let book = SessionTable::load(region, store.live_sessions()?);
        // Sessions outlive every engine: to the servers this client has lost its state with the ledger file only
        // (RFC 6733, 8.16).
        let state_id = store.origin_state_id()?;
        let Config { enabler: binding, .. } = &region.config;
        let enabler = enabler::new(binding, &region.config.enabler_settings(), state_id, clock::now())
            .map_err(|error| StoreError::Enabler(error.to_string()))?;
        let mut engine = Engine {
            region: Arc::clone(region),
            store,
            reading,
            book,
            notices,
            enabler,
            uncommitted: None,
            after_sync: VecDeque::new(),
            after_tables: VecDeque::new(),
            is_ready: false,
        };
        let sessions = engine.book.all_sessions();
        engine.in_portions(&sessions, SessionTable::resume)?;
        // Gates are open again before a notice is shown that lets an INVITE go on.
        engine.is_ready = true;
        if engine.uncommitted.is_none() {
            // What the engine before this one had committed and not published: nothing else may change for a while.
            engine.notices.publish(region);
        }
        engine.settle_left_behind()?;
        region.set_engine_ready();
        Ok(engine)
    }

    /// Reads what earlier instances of the host left in their rings, and settles every session of theirs: the
    /// connections it lived on are gone.
    fn settle_left_behind(&mut self) -> Result<(), EngineError> {
        let orphaned = self.region.orphaned();
        for region in &orphaned {
            let marks = self.store.marks(region.instance())?.unwrap_or_default();
            let old = Reading::new(region.instance(), region.event_consumers()?, &marks);
            let own = std::mem::replace(&mut self.reading, old);
            while self.turn()? > 0 {}
            self.reading = own;
        }
        let instance = self.region.instance();
        let stopped = self.book.opened_by_others(instance);
        if !stopped.is_empty() {
            log::warn!("{} sessions of an earlier run of the proxy are settled now", stopped.len());
        }
        self.in_portions(&stopped, SessionTable::host_stopped)?;
        self.store.put(Change::Adopted { instance });
        self.step(|_, turn| {
            turn.changed = true;
            Ok(())
        })?;
        orphaned.into_iter().for_each(crate::shm::region::OrphanedRegion::remove);
        Ok(())
    }

    /// Does something with many sessions, some of them a turn. It must be committed to the last: a start or a stop
    /// leaves nothing undecided.
    fn in_portions(
        &mut self,
        sessions: &[SessionKey],
        work: impl Fn(&mut SessionTable, &mut Tick<'_>, SessionKey) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for portion in sessions.chunks(PORTION) {
            self.region.heartbeat();
            self.follow()?;
            self.step(|book, turn| portion.iter().try_for_each(|session| work(book, turn, *session)))?;
            self.expect_committed()?;
        }
        Ok(())
    }

    /// Where nothing can be done with a commit that fails.
    fn expect_committed(&mut self) -> Result<(), EngineError> {
        match self.uncommitted.take() {
            Some(decided) => self.commit(decided).map(drop),
            None => Ok(()),
        }
    }

    fn run(&mut self, stop: &AtomicBool) -> Result<(), EngineError> {
        while !stop.load(Ordering::Relaxed) && !self.region.is_stop_requested() {
            if !Engine::has_more(self.round()?) {
                let connections = self.enabler.descriptors();
                self.region.engine_sleep(self.patience(), &connections);
            }
        }
        self.stop()
    }

    /// One turn, unless nothing can be committed; how many records that were.
    pub fn round(&mut self) -> Result<usize, EngineError> {
        self.region.begin_tick();
        self.region.heartbeat();
        self.follow()?;
        if !self.can_commit() {
            // Connections are kept, and the tables may follow meanwhile.
            self.attend();
            return Ok(0);
        }
        self.turn()
    }

    /// Whether new events may be decided about: the last commit has succeeded, and the journal has room for the next.
    fn can_commit(&mut self) -> bool {
        let committed = match self.uncommitted.take() {
            Some(decided) => self.commit(decided),
            None => self.store.check_room(),
        };
        match committed {
            Ok(()) => {
                self.reading.free();
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

    /// Does what waited for the disk and the tables, and hands the tables what they do not contain.
    fn follow(&mut self) -> Result<(), EngineError> {
        let days = self.region.config.history_days;
        self.store.drive_writer(Some(Retention { days, now: clock::now(), wall_ms: clock::wall_ms() }))?;
        let (durable, answerable) = (self.store.durable()?, self.store.answerable()?);
        let mut effects = ready(&mut self.after_sync, durable);
        effects.extend(ready(&mut self.after_tables, answerable));
        if !effects.is_empty() {
            crash_point();
            self.book.publish(&self.region, effects, &mut *self.enabler);
            crash_point();
        }
        let (journal_octets, log_octets) = self.store.backlog_octets();
        self.region.report_ledger(self.store.is_failing(), journal_octets, log_octets);
        Ok(())
    }

    /// Whether a round that read so many records left some, so that the engine does not sleep.
    pub fn has_more(read: usize) -> bool {
        read >= BATCH / 2
    }

    /// How long the engine may sleep.
    pub fn patience(&self) -> Duration {
        if self.uncommitted.is_some() {
            return RETRY;
        }
        let most = if self.book.any_open() || self.store.is_pending() { TURN } else { IDLE };
        if self.enabler.has_events() {
            return Duration::ZERO;
        }
        let due = self.book.next_deadline().into_iter().chain(self.enabler.deadline()).min();
        let due = due.map(|at| Duration::from_micros(at.micros_since(clock::now())));
        due.map_or(most, |due| due.clamp(Duration::from_millis(1), most))
    }

    /// Since when something is committed that does not survive the machine yet.
    #[cfg(feature = "simulate")]
    pub fn unsynced_since(&self) -> Option<Time> {
        self.store.unsynced_since()
    }

    /// Sessions that are not settled, for who looks whether any holds something too long.
    #[cfg(feature = "simulate")]
    pub fn unsettled(&self) -> Vec<crate::charge::ch2::SessionKey> {
        self.book.open_sessions()
    }

    /// Settles every session: the host is being stopped, and their connections with it.
    pub fn stop(&mut self) -> Result<(), EngineError> {
        self.region.set_engine_state(EngineState::Stopping);
        let asked = clock::now();
        let mut last = asked;
        while clock::since(last) < QUIET && clock::since(asked) < QUIET_PATIENCE {
            if self.turn()? > 0 {
                last = clock::now();
            } else {
                clock::pause(LOOK);
            }
        }
        let all = self.book.open_sessions();
        self.in_portions(&all, SessionTable::host_stopped)?;
        while self.book.any_open() && clock::since(asked) < STOP_PATIENCE {
            self.turn()?;
            self.follow()?;
            clock::pause(LOOK);
        }
        let left = clock::now();
        self.enabler.leave(left);
        while !self.enabler.has_left() && clock::since(left) < LEAVE_PATIENCE {
            clock::pause(LOOK);
            self.enabler.work(clock::now());
        }
        self.store.finish(TABLES_PATIENCE)?;
        self.follow()?;
        self.region.remove_file();
        Ok(())
    }

    /// One turn over what the rings hold; how many records that were.
    fn turn(&mut self) -> Result<usize, EngineError> {
        self.region.heartbeat();
        self.notices.watch_scripts(&self.region);
        self.attend();
        // The records borrow from the rings until the step is over.
        let rings = std::mem::take(&mut self.reading.rings);
        let (records, events) = (gather(&rings, &mut self.reading.positions), self.enabler_events());
        let read = records.len() + events.len();
        let stepped = self.step(|book, turn| {
            records.iter().try_for_each(|record| book.record(turn, record))?;
            events.into_iter().try_for_each(|event| book.enabler_event(turn, event))?;
            book.timers(turn)
        });
        self.reading.rings = rings;
        stepped?;
        if self.uncommitted.is_none() {
            self.reading.free();
        }
        Ok(read)
    }

    /// Lets the enabler read and write its connections, and copies its counters.
    fn attend(&mut self) {
        self.enabler.work(clock::now());
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
        let pending = |session, number| self.book.unanswered(session, number);
        std::iter::from_fn(|| self.enabler.poll(&pending)).take(BATCH).collect()
    }

    /// Steps the sessions, commits what has changed, and publishes it. A commit that fails leaves what was decided in
    /// `uncommitted`.
    fn step(
        &mut self,
        work: impl FnOnce(&mut SessionTable, &mut Tick<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        self.expect_committed()?;
        let mut turn =
            Tick::new(&self.region, &mut self.store, &mut self.notices, &*self.enabler, self.reading.instance);
        work(&mut self.book, &mut turn)?;
        self.book.write(&mut turn);
        let Tick { changed, operator_waits, mut effects, latencies, .. } = turn;
        if !changed && effects.is_empty() {
            // The records that were read, if any, said nothing that must last.
            self.book.publish(&self.region, effects, &mut *self.enabler);
            return Ok(());
        }
        if simulate::is_injected(InjectedBug::ToldBeforeCommit) {
            self.book.publish(&self.region, std::mem::take(&mut effects), &mut *self.enabler);
        }
        crash_point();
        if operator_waits {
            self.store.put_enabler_status(self.enabler.status());
        }
        if changed {
            let marks = Marks { events: self.reading.positions.clone(), notifications: self.notices.heads() };
            self.store.put(Change::Marks { instance: self.reading.instance, marks });
        }
        let decided = Decided { effects, latencies, operator_waits };
        if let Err(error) = self.commit(decided) {
            self.region.report_store_failure(&error);
        }
        Ok(())
    }

    /// Commits what was decided, and publishes what needs no more than that.
    fn commit(&mut self, decided: Decided) -> Result<(), EngineError> {
        let is_urgent = decided.operator_waits || decided.effects.iter().any(Effect::leaves_the_machine);
        let sequence = match self.store.commit(is_urgent) {
            Ok(sequence) => sequence,
            Err(error) => {
                crash_point();
                self.uncommitted = Some(decided);
                return Err(error);
            }
        };
        let Decided { effects, latencies, operator_waits } = decided;
        if operator_waits {
            self.store.expedite();
        }
        crash_point();
        let waits =
            |effect: &Effect| effect.leaves_the_machine() && !simulate::is_injected(InjectedBug::AskedBeforeSync);
        let (outward, rest): (Vec<_>, Vec<_>) = effects.into_iter().partition(waits);
        let (replies, here): (Vec<_>, Vec<_>) = rest.into_iter().partition(Effect::is_reply);
        self.after_sync.extend(outward.into_iter().map(|effect| (sequence, effect)));
        self.after_tables.extend(replies.into_iter().map(|effect| (sequence, effect)));
        self.book.publish(&self.region, here, &mut *self.enabler);
        crash_point();
        if self.is_ready {
            self.notices.publish(&self.region);
        }
        self.measure(&latencies);
        crash_point();
        Ok(())
    }

    /// Adds what took until now.
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
