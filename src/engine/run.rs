//! The loop of the engine: read the rings, step the sessions, commit, and only then tell anybody.
//!
//! ```text
//!   gather ─► step (book) ─► commit: sessions, accounts, debits, read marks, notice marks ─► publish ─► tables
//! ```
//!
//! The read marks are part of the commit. An event is therefore in the store with all that came of it, or it
//! is still unread in its ring: killed at any point, the next engine goes on without a loss or a repetition.
//! A distant enabler is asked after the commit too, and what it answers is stepped and committed like any event. What
//! is asked and not answered stands in the sessions themselves.
//!
//! Notices are written into their rings before the commit and become visible after it; the marks of what
//! was committed let the next engine show what this one could not any more.

use super::book::{Book, Turn};
use super::clock;
use super::latency::Latency;
use super::notices::Notices;
use super::record::Record;
use super::region::{EngineState, Region};
use super::ring::Ring;
use super::statistic::Statistic;
use super::store::change::{Change, Marks};
use super::store::{Store, StoreError};
use crate::charge::event::Event;
use crate::charge::time::Time;
use crate::enabler::diameter::{Diameter, Heard};
use crate::simulate::{self, Broken, moment};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Records of one turn: bounds the time to a verdict and the notices of a turn.
const BATCH: usize = if simulate::SMALL { 16 } else { 512 };

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

/// The engine cannot go on; another one may try.
pub type EngineError = StoreError;

/// Runs the engine until `stop` is set or the region is asked to stop, then settles every session and returns.
/// An error means that the store failed: nothing is lost, the caller may call again after a while.
/// At most one engine may run on a region at a time.
pub fn run(region: &Arc<Region>, stop: &AtomicBool) -> Result<(), EngineError> {
    let result = Engine::start(region).and_then(|mut engine| engine.run(stop));
    if let Err(error) = &result {
        if region.engine_state() != EngineState::StoreFailing {
            log::error!("{error}; new sessions are refused, events wait in shared memory until it can be written");
        }
        region.set_engine_state(EngineState::StoreFailing);
    }
    result
}

/// The event rings of one instance and how far they are read.
struct Reading {
    instance: u64,
    rings: Arc<[Ring]>,
    positions: Vec<u64>,
}

impl Reading {
    /// From what was committed on; a ring freed further than that holds nothing older.
    fn new(instance: u64, rings: Vec<Ring>, marks: &Marks) -> Reading {
        let committed = marks.events.iter().copied().chain(std::iter::repeat(0));
        let positions = rings.iter().zip(committed).map(|(ring, mark)| ring.tail().max(mark)).collect();
        let reading = Reading { instance, rings: rings.into(), positions };
        // An engine that died behind its commit has not said so.
        reading.free();
        reading
    }

    fn free(&self) {
        for (ring, position) in self.rings.iter().zip(&self.positions) {
            ring.free(*position);
        }
    }
}

/// The next records of all rings, in the order in which they happened.
fn gather<'a>(rings: &'a [Ring], positions: &mut [u64]) -> Vec<Record<'a>> {
    let waiting = rings.iter().zip(&*positions).filter(|(ring, at)| ring.head() > **at).count();
    let share = BATCH.div_ceil(waiting.max(1));
    let mut records = Vec::new();
    for (ring, position) in rings.iter().zip(positions) {
        for _ in 0..share {
            let Some((bytes, next)) = ring.read_at(*position) else { break };
            *position = next;
            match postcard::from_bytes(bytes) {
                Ok(record) => records.push(record),
                Err(_) => log::error!("a record of an event ring cannot be read, skipped"),
            }
        }
    }
    records.sort_by_key(Record::at);
    records
}

/// What runs in the engine's process.
pub struct Engine {
    region: Arc<Region>,
    store: Store,
    reading: Reading,
    book: Book,
    notices: Notices,
    /// Where an Online Charging System decides.
    diameter: Option<Diameter>,
}

impl Engine {
    /// Takes over where the engine before it stopped or died.
    pub fn start(region: &Arc<Region>) -> Result<Engine, EngineError> {
        let mut store = Store::open(&region.config.state_dir)?;
        store.recover()?;
        let instance = region.instance();
        let marks = store.marks(instance)?.unwrap_or_default();
        let rings = (0..region.processes()).map(|process| region.event_ring(process)).collect();
        let reading = Reading::new(instance, rings, &marks);
        let notices = Notices::resume(region, &marks.notices);
        let book = Book::load(region, store.live_sessions()?);
        // Sessions outlive every engine: to the servers this client has lost its state with the ledger file only
        // (RFC 6733, 8.16).
        let state_id = store.origin_state_id()?;
        let start = |config| {
            let started = Diameter::start(config, state_id, clock::now());
            started.map_err(|error| StoreError::Enabler(error.to_string()))
        };
        let diameter = region.config.diameter().map(start).transpose()?;
        let mut engine = Engine { region: Arc::clone(region), store, reading, book, notices, diameter };
        // Gates are open again before a notice is shown that lets an INVITE go on.
        engine.step(|book, turn| book.resume(turn))?;
        engine.settle_left_behind()?;
        region.set_engine_state(EngineState::Running);
        Ok(engine)
    }

    /// Reads what earlier instances of the host left in their rings, and settles every session of theirs: the
    /// connections it lived on are gone.
    fn settle_left_behind(&mut self) -> Result<(), EngineError> {
        let left_behind = self.region.left_behind();
        for region in &left_behind {
            let marks = self.store.marks(region.instance())?.unwrap_or_default();
            let old = Reading::new(region.instance(), region.event_rings(), &marks);
            let own = std::mem::replace(&mut self.reading, old);
            while self.turn()? > 0 {}
            self.reading = own;
        }
        let instance = self.region.instance();
        let stopped = self.book.opened_by_others(instance);
        if !stopped.is_empty() {
            log::warn!("{} sessions of an earlier run of the proxy are settled now", stopped.len());
        }
        self.step(|book, turn| {
            stopped.iter().try_for_each(|session| book.event(turn, *session, clock::now(), &Event::HostStopped))
        })?;
        self.store.adopt(instance)?;
        left_behind.into_iter().for_each(super::region::LeftBehind::remove);
        Ok(())
    }

    fn run(&mut self, stop: &AtomicBool) -> Result<(), EngineError> {
        while !stop.load(Ordering::Relaxed) && !self.region.stop_requested() {
            if !Engine::has_more(self.round()?) {
                let connections: Vec<_> = self.diameter.iter().flat_map(Diameter::descriptors).collect();
                self.region.engine_sleep(self.patience(), &connections);
            }
        }
        self.stop()
    }

    /// One turn, and the tables when it is time; how many records that were.
    pub fn round(&mut self) -> Result<usize, EngineError> {
        self.region.begin_turn();
        let read = self.turn()?;
        // After the verdicts: nobody waits for the tables.
        if self.store.is_behind() {
            self.store.write()?;
        }
        self.store.remove_old(self.region.config.history_days, clock::now(), clock::wall_ms())?;
        Ok(read)
    }

    /// Whether a round that read so many records left some, so that the engine does not sleep.
    pub fn has_more(read: usize) -> bool {
        read >= BATCH / 2
    }

    /// How long the engine may sleep.
    pub fn patience(&self) -> Duration {
        let most = if self.book.is_empty() && !self.store.is_pending() { IDLE } else { TURN };
        if self.notices.have_room() && self.diameter.as_ref().is_some_and(Diameter::has_heard) {
            return Duration::ZERO;
        }
        let due =
            self.book.next_deadline().into_iter().chain(self.diameter.as_ref().and_then(Diameter::deadline)).min();
        let due = due.map(|at| Duration::from_micros(at.micros_since(clock::now())));
        due.map_or(most, |due| due.clamp(Duration::from_millis(1), most))
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
        self.step(|book, turn| {
            all.iter().try_for_each(|session| book.event(turn, *session, clock::now(), &Event::HostStopped))
        })?;
        while self.book.any_open() && clock::since(asked) < STOP_PATIENCE {
            self.turn()?;
            clock::pause(LOOK);
        }
        if let Some(diameter) = &mut self.diameter {
            diameter.leave(clock::now());
            let left = clock::now();
            while !diameter.has_left() && clock::since(left) < LEAVE_PATIENCE {
                clock::pause(LOOK);
                diameter.turn(clock::now());
            }
        }
        self.store.write()?;
        self.store.checkpoint()?;
        self.region.remove_file();
        Ok(())
    }

    /// One turn over what the rings hold; how many records that were.
    fn turn(&mut self) -> Result<usize, EngineError> {
        self.region.beat();
        // A verdict must find room: without it, INVITEs wait in the event rings.
        let rings = Arc::clone(&self.reading.rings);
        self.attend();
        let (records, heard) = match self.notices.have_room() {
            true => (gather(&rings, &mut self.reading.positions), self.hear()),
            false => (Vec::new(), Vec::new()),
        };
        let read = records.len() + heard.len();
        self.step(|book, turn| {
            records.iter().try_for_each(|record| book.record(turn, record))?;
            heard.into_iter().try_for_each(|heard| book.heard(turn, heard))?;
            book.timers(turn)
        })?;
        Ok(read)
    }

    /// Attends to the connections of the distant enabler.
    fn attend(&mut self) {
        let Some(diameter) = &mut self.diameter else { return };
        diameter.turn(clock::now());
        diameter.response_times().for_each(|micros| self.region.latency(Latency::Enabler).add(micros));
        let (all, requests) = diameter.counters();
        for (statistic, value) in [
            (Statistic::InitialCcrs, requests.initial),
            (Statistic::InterimCcrs, requests.interim),
            (Statistic::FinalCcrs, requests.last),
            (Statistic::EventCcrs, requests.events),
            (Statistic::CcrAnswers, all.answered),
            (Statistic::CcrTimeouts, all.timed_out),
            (Statistic::CcrFailures, all.failed),
            (Statistic::CcrLateAnswers, all.late),
            (Statistic::CcrUnmatchedAnswers, all.unmatched),
            (Statistic::CcrMalformed, diameter.malformed()),
            (Statistic::CcrResent, all.resent),
            (Statistic::CcrNoPeer, all.refused_no_peer),
            (Statistic::CcrOverload, all.refused_full),
            (Statistic::CcrAvgResponseTime, diameter.response_micros()),
        ] {
            self.region.counter(statistic).store(value, Ordering::Relaxed);
        }
    }

    /// What the distant enabler has said. A late answer is of use where its request has no other.
    fn hear(&mut self) -> Vec<Heard> {
        let Some(diameter) = &mut self.diameter else { return Vec::new() };
        let all: Vec<Heard> = std::iter::from_fn(|| diameter.poll()).take(BATCH).collect();
        let of_use = |heard: Heard| match &heard {
            Heard::LateAnswer { session, number, message } => {
                diameter.read_late(&self.book.unanswered(*session, *number)?, message)
            }
            Heard::Response { .. } | Heard::Late { .. } | Heard::Event { .. } => Some(heard),
        };
        all.into_iter().filter_map(of_use).collect()
    }

    /// Steps the sessions, commits what has changed, and tells.
    fn step(
        &mut self,
        work: impl FnOnce(&mut Book, &mut Turn<'_>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut turn = Turn::new(&self.region, &mut self.store, &mut self.notices, self.reading.instance);
        work(&mut self.book, &mut turn)?;
        self.book.write(&mut turn);
        let Turn { changed, operator_waits, mut effects, latencies, .. } = turn;
        if simulate::is_broken(Broken::ToldBeforeCommit) {
            self.book.publish(&self.region, std::mem::take(&mut effects), self.diameter.as_mut());
        }
        moment();
        if let Some(diameter) = self.diameter.as_ref().filter(|_| operator_waits) {
            self.store.show_peers(diameter.status());
        }
        if changed {
            let marks = Marks { events: self.reading.positions.clone(), notices: self.notices.heads() };
            self.store.put(Change::Marks { instance: self.reading.instance, marks });
            match operator_waits {
                true => self.store.write()?,
                false => self.store.commit()?,
            }
        }
        moment();
        self.book.publish(&self.region, effects, self.diameter.as_mut());
        moment();
        self.notices.publish(&self.region);
        self.measure(&latencies);
        moment();
        // Without a commit the records said nothing that must last.
        self.reading.free();
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
