//! What the engine does, as other processes see it, and how they wake it.

use super::Region;
use crate::charge::time::Time;
use crate::shm::clock;
use crate::shm::eventfd;
use crate::shm::statistic::Statistic;
use crate::shm::sync::Ordering;
use crate::shm::wakeup::ASLEEP;
use std::fmt;
use std::os::fd::RawFd;
use std::time::Duration;

/// An engine without a heartbeat for so long is down. Its restart takes less than a second.
const ENGINE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// State of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EngineState {
    /// Not started yet, or being restarted: events are accepted and will be read.
    Starting = 0,
    /// Running.
    Running = 1,
    /// It cannot write its store: new sessions are refused.
    StoreFailing = 2,
    /// The host is being stopped.
    Stopping = 3,
}

impl Region {
    /// Asks the engine to read an event that was just published because someone waits for its result, and wakes the
    /// engine if it sleeps.
    pub fn wake_engine(&self) {
        let waker = &self.map.header().engine_waker;
        waker.wake(|| match &self.engine_eventfd {
            Some(eventfd) => eventfd.signal(),
            None => eventfd::wake(waker.word()),
        });
    }

    /// Engine: sleeps until [`wake_engine`](Region::wake_engine) is called, one of `sockets` is ready, or the time is
    /// over. Other events do not end the sleep: the next tick reads them together. Of each socket: its descriptor, and
    /// whether to wait until it is writable too.
    pub fn engine_sleep(&self, at_most: Duration, sockets: &[(RawFd, bool)]) {
        let waker = &self.map.header().engine_waker;
        waker.sleep(|| match &self.engine_eventfd {
            Some(eventfd) => eventfd.wait(at_most, sockets),
            None => eventfd::wait(waker.word(), ASLEEP, at_most),
        });
    }

    /// Engine: begins a tick, which will read all events that it was woken for.
    pub fn begin_tick(&self) {
        self.map.header().engine_waker.begin_tick();
    }

    /// Engine: shows that it is alive.
    pub fn heartbeat(&self) {
        let header = self.map.header();
        header.beats.fetch_add(1, Ordering::Relaxed);
        if self.engine_is_ready() {
            header.heartbeat.store(clock::now().0, Ordering::Relaxed);
        }
    }

    /// Number of heartbeats of all engines of this instance.
    pub fn heartbeats(&self) -> u64 {
        self.map.header().beats.load(Ordering::Relaxed)
    }

    /// Supervisor: a new engine is about to be started.
    pub fn set_engine_starting(&self) {
        self.map.header().engine_ready.store(0, Ordering::Release);
    }

    /// Engine: its start is complete.
    pub fn set_engine_ready(&self) {
        self.set_engine_state(EngineState::Running);
        self.map.header().engine_ready.store(1, Ordering::Release);
        self.heartbeat();
    }

    /// Whether the engine that was started last has completed its start.
    pub fn engine_is_ready(&self) -> bool {
        self.map.header().engine_ready.load(Ordering::Acquire) == 1
    }

    /// Time since the last heartbeat of an engine that had completed its start.
    fn heartbeat_age(&self) -> Duration {
        clock::since(Time(self.map.header().heartbeat.load(Ordering::Relaxed)))
    }

    /// Returns the state of the engine.
    pub fn engine_state(&self) -> EngineState {
        match self.map.header().engine_state.load(Ordering::Acquire) {
            1 => EngineState::Running,
            2 => EngineState::StoreFailing,
            3 => EngineState::Stopping,
            _ => EngineState::Starting,
        }
    }

    /// Engine and supervisor: sets the state of the engine.
    pub fn set_engine_state(&self, state: EngineState) {
        self.map.header().engine_state.store(state as u32, Ordering::Release);
    }

    /// Whether the engine takes new sessions: its last heartbeat is recent, and it is neither stopping nor unable to
    /// write its store. An engine that is being restarted reads its events within a second.
    pub fn engine_is_up(&self) -> bool {
        let is_refusing = matches!(self.engine_state(), EngineState::StoreFailing | EngineState::Stopping);
        !is_refusing && self.heartbeat_age() <= ENGINE_SILENCE_MAX
    }

    /// Engine: the journal cannot be written or is full, or the store cannot be opened.
    pub fn report_store_failure(&self, error: &dyn fmt::Display) {
        if self.engine_state() != EngineState::StoreFailing {
            log::error!("{error}; new sessions are refused, events wait in shared memory until it can be written");
        }
        self.set_engine_state(EngineState::StoreFailing);
    }

    /// Engine: reports whether the tables of the ledger cannot be written, the octets that the journal keeps for them, and
    /// the octets that readers keep in the write-ahead log.
    pub fn report_ledger(&self, is_failing: bool, journal_octets: u64, log_octets: u64) {
        self.map.header().ledger_failing.store(u32::from(is_failing), Ordering::Relaxed);
        self.counter(Statistic::JournalOctets).store(journal_octets, Ordering::Relaxed);
        self.counter(Statistic::LedgerLogOctets).store(log_octets, Ordering::Relaxed);
    }

    /// Whether the journal or the tables cannot be written.
    pub(super) fn is_store_failing(&self) -> bool {
        let is_ledger_failing = self.map.header().ledger_failing.load(Ordering::Relaxed) == 1;
        is_ledger_failing || self.engine_state() == EngineState::StoreFailing
    }

    /// Time of the event that triggered the oldest unacknowledged debit. Its age rises also while no engine runs.
    pub(super) fn oldest_debit(&self) -> Option<Time> {
        let since = self.map.header().oldest_debit.load(Ordering::Relaxed);
        (since != 0).then_some(Time(since))
    }

    /// Engine: sets the time of the event that triggered the oldest unacknowledged debit.
    pub fn set_oldest_debit(&self, since: Option<Time>) {
        self.map.header().oldest_debit.store(since.map_or(0, |since| since.0), Ordering::Relaxed);
    }

    /// Asks the engine to settle all sessions and return.
    pub fn request_stop(&self) {
        self.map.header().stop.store(1, Ordering::Release);
        self.wake_engine();
    }

    /// Whether the engine was asked to return.
    pub fn is_stop_requested(&self) -> bool {
        self.map.header().stop.load(Ordering::Acquire) == 1
    }
}
