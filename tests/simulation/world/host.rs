//! The host and its engine: start, ticks, notifications, stop and death.

use super::{Death, PROCESSES, RESUME_WORKERS, SECOND, Step, World, print_trace, setup};
use crate::call::{Call, MERGED, Names, OTHER_PATH, Stage};
use crate::chat;
use crate::delivery::Place;
use crate::disk;
use crate::network::PEERS;
use crate::page;
use imcharge::charge::time::Time;
use imcharge::engine::Engine;
use imcharge::engine::preflight;
use imcharge::engine::store::SYNC_DELAY;
use imcharge::engine::watchdog::{Action, Ended, Observation, Watchdog};
use imcharge::shm::notification::{EventRoutes, Kind, NotificationReader, Outcome};
use imcharge::shm::record::Command;
use imcharge::shm::region::{EngineState, Lane, Region};
use imcharge::shm::statistic::Statistic;
use imcharge::simulate::machine::Crash;
use imcharge::worker::Worker;
use std::cmp::Reverse;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

/// How often in a row the operator passes over a call: what it holds is released in time, after a reconnect as well (see
/// `checks`).
const PASSED_OVER_MAX: u32 = 2;

/// What a hook of a worker could change if it waited: the clock, the number of waits, and how often this thread has yielded
/// its processor.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Waits(u64, u64, i64);

impl World<'_> {
    fn waits(&self) -> Waits {
        let given_away = if self.is_alone { times_given_away() } else { 0 };
        Waits(self.machine.clock.get(), self.machine.waits.get(), given_away)
    }

    pub(super) fn region(&self) -> &Arc<Region> {
        self.region.as_ref().expect("the host runs")
    }

    pub(super) fn start_host(&mut self) {
        if self.region.is_some() {
            return;
        }
        // Nothing is scheduled to kill this host.
        self.machine.crash_in.set(None);
        if self.changes && self.random.bool() {
            setup::reconfigure(&mut self.random, &mut self.config);
            self.hold_timeout = self.hold_timeout.max(self.config.policy.hold_timeout);
        }
        let region = match preflight::create_region(self.config.clone(), PROCESSES) {
            Ok(region) => region,
            Err(error) => {
                // The disk cannot be read: an operator tries again later.
                assert!(
                    self.is_faulty || self.has_lying_disk(),
                    "seed {}: the host does not start: {error}",
                    self.seed
                );
                return self.after(SECOND, Step::Host);
            }
        };
        self.workers =
            (0..PROCESSES).map(|process| Worker::attach(&region, process).expect("not attached yet")).collect();
        self.resume_workers_block_until = [0; RESUME_WORKERS as usize];
        self.notification_readers = (0..RESUME_WORKERS as usize)
            .map(|reader| NotificationReader::attach(&region, reader).expect("not attached yet"))
            .collect();
        region.set_event_routes(EventRoutes { low_balance: true, ..EventRoutes::default() });
        self.event_worker = Some(NotificationReader::attach_to_events(&region, 0).expect("not attached yet"));
        self.tariffs.insert(region.instance(), self.config.tariffs.clone());
        let instance = region.instance();
        self.region = Some(region);
        self.watchdog = Watchdog::new(Time(self.machine.clock.get()));
        self.after(0, Step::Supervise(instance));
        self.after(0, Step::Resume);
    }

    /// A look of the supervisor.
    pub(super) fn supervise(&mut self, instance: u64) {
        let Some(region) = self.region.clone().filter(|region| region.instance() == instance) else { return };
        let has_ended = self.engine.is_none() && !self.is_starting;
        let is_failing = region.engine_state() == EngineState::StoreFailing;
        let ended = has_ended.then_some(if is_failing { Ended::Failed } else { Ended::Killed });
        let seen = Observation { beats: region.heartbeats(), is_ready: region.engine_is_ready(), ended, stop: false };
        match self.watchdog.look(seen, Time(self.machine.clock.get())) {
            Action::Start => {
                region.set_engine_starting();
                self.watchdog.started(region.heartbeats());
                self.is_starting = true;
                self.life += 1;
                let (life, max) = (self.life, std::mem::take(&mut self.next_start_micros));
                self.within(max.max(SECOND / 5), Step::Engine(life));
            }
            Action::KillSilent(silence) => {
                if self.is_starting || !self.is_frozen {
                    self.violations.push(format!("a working or starting engine is killed after {silence:?}"));
                }
                self.die(Death::Engine);
            }
            Action::Nothing => {}
            action => self.violations.push(format!("the supervisor decides {action:?} without a reason")),
        }
        let patience = self.watchdog.next_look().max(Duration::from_millis(1));
        self.after(u64::try_from(patience.as_micros()).unwrap_or(u64::MAX), Step::Supervise(instance));
    }

    fn has_lying_disk(&self) -> bool {
        disk::on(|disk| disk.drops_syncs) == Some(true)
    }

    fn start_engine(&mut self) {
        self.is_starting = false;
        let region = Arc::clone(self.region());
        match self.guarded(move |_| Engine::start(&region)) {
            Some(Ok(engine)) => {
                self.engine = Some(engine);
                let life = self.life;
                self.after(0, Step::Engine(life));
            }
            Some(Err(_)) => self.on_store_failure(),
            None => {}
        }
    }

    /// Runs engine code that may die; `None`: it did. An engine that dies in a write of its store returns an error.
    fn guarded<R, E>(&mut self, work: impl FnOnce(&mut Option<Engine>) -> Result<R, E>) -> Option<Result<R, E>> {
        let engine = &mut self.engine;
        match catch_unwind(AssertUnwindSafe(|| work(engine))) {
            Ok(_) if self.machine.dead.get() => {}
            Ok(result) => return Some(result),
            Err(panic) if panic.is::<Crash>() => {}
            Err(panic) => resume_unwind(panic),
        }
        self.die(self.next_death);
        None
    }

    /// Calls a hook of a random worker, which must not wait. `None`: there is no host, or it has just died.
    pub(super) fn hook<R>(&mut self, number: usize, work: impl FnOnce(&mut Worker, &Call) -> R) -> Option<(usize, R)> {
        self.region.as_ref()?;
        let process = self.random.usize(0..PROCESSES);
        let dropped = self.region().statistic(Statistic::DroppedRingFull);
        let before = self.waits();
        let (worker, call) = (&mut self.workers[process], &self.calls[number]);
        let result = catch_unwind(AssertUnwindSafe(|| work(worker, call)));
        if self.waits() != before {
            self.violations.push(format!("a worker waits in a hook of call {number}"));
        }
        match result {
            Ok(result) => {
                if self.region().statistic(Statistic::DroppedRingFull) == dropped {
                    self.calls[number].moved_at = self.machine.clock.get();
                }
                Some((process, result))
            }
            Err(panic) if panic.is::<Crash>() => {
                // If a worker dies, the whole host does.
                self.die(if self.next_death == Death::Engine { Death::Host } else { self.next_death });
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    /// Whether the last hook has reported the end of a call.
    pub(super) fn has_ended(&mut self, number: usize) {
        let now = self.machine.clock.get();
        if self.calls[number].moved_at == now {
            self.calls[number].ended_at.get_or_insert(now);
        }
    }

    /// Something dies; nothing that it had begun continues.
    pub(super) fn die(&mut self, death: Death) {
        self.tally.crashes += 1;
        print_trace(format_args!("{} next_death: {death:?}", self.machine.clock.get()));
        self.faultless_since = None;
        self.network.borrow_mut().record_fault(false);
        self.machine.crash_in.set(None);
        self.machine.dead.set(true);
        self.engine = None;
        self.is_starting = false;
        self.life += 1;
        if death == Death::Machine {
            disk::on(disk::Disk::lose_power);
        }
        self.machine.dead.set(false);
        if death == Death::Machine {
            self.has_lost_power = true;
            self.lose_rings();
        }
        match death {
            Death::Engine => self.region().set_engine_state(EngineState::Starting),
            Death::Host | Death::Machine => {
                self.leave_host();
                match self.outage.take() {
                    None => self.start_host(),
                    Some(outage) => {
                        if outage.loses_disk {
                            self.lose_disk();
                        }
                        self.after(outage.lasts, Step::Host);
                    }
                }
            }
        }
    }

    fn on_store_failure(&mut self) {
        self.faultless_since = None;
        self.network.borrow_mut().record_fault(false);
        self.engine = None;
        self.region().set_engine_state(EngineState::StoreFailing);
    }

    pub(super) fn tick_engine(&mut self, life: u64) {
        if life != self.life || self.region.is_none() {
            return;
        }
        self.is_frozen = false;
        if self.is_starting {
            return self.start_engine();
        }
        if self.engine.is_none() {
            return;
        }
        self.network.borrow_mut().step();
        match self.guarded(|engine| engine.as_mut().expect("looked at above").tick()) {
            Some(Ok(read)) => {
                self.check_syncs();
                let engine = self.engine.as_ref().filter(|_| !Engine::has_more(read));
                let patience = engine.map_or(Duration::ZERO, Engine::sleep_max);
                let max = u64::try_from(patience.as_micros()).unwrap_or(0).max(100);
                self.within(max, Step::Engine(life));
                self.within(2_000, Step::Network);
            }
            Some(Err(_)) => self.on_store_failure(),
            None => {}
        }
    }

    /// On a disk without a fault, every commit is synced within the delay.
    fn check_syncs(&mut self) {
        let since = self.engine.as_ref().and_then(Engine::unsynced_since);
        let age = since.map_or(0, |since| self.machine.clock.get() - since.0);
        if !self.is_faulty && Duration::from_micros(age) > SYNC_DELAY {
            self.violations.push(format!("a commit is not synced after {age} us"));
        }
    }

    /// Verdicts resume INVITEs, in any resume worker whose script does not block.
    pub(super) fn read_notifications(&mut self) {
        let mut verdicts = Vec::new();
        let (now, mut is_any_free) = (self.machine.clock.get(), false);
        for (reader, _) in
            self.notification_readers.iter_mut().zip(self.resume_workers_block_until).filter(|(_, until)| *until <= now)
        {
            is_any_free = true;
            while reader.next(|notification| {
                if let Kind::Verdict { suspended, result, .. } = notification.kind {
                    verdicts.push((suspended, result, notification.reason == "merged"));
                }
            }) {}
        }
        if is_any_free && self.region().queue(Lane::Verdicts).used() > 0 {
            self.violations.push("a verdict waits while a resume worker is free".into());
        }
        if let Some(event_worker) = &mut self.event_worker {
            while event_worker.next(|event| self.low_balances += u64::from(event.kind == Kind::LowBalance)) {}
        }
        for (suspended, result, is_merged) in verdicts {
            let number = suspended.index as usize;
            if suspended.label >= chat::OWN_PATH {
                self.on_chat_verdict(number, suspended.label, result, is_merged);
                continue;
            }
            if suspended.label >= page::OWN_PATH {
                self.on_page_verdict(number, suspended.label, result);
                continue;
            }
            if suspended.label == OTHER_PATH {
                self.within(SECOND, Step::EndOther(number, if is_merged { MERGED } else { 487 }));
                continue;
            }
            let call = &mut self.calls[number];
            call.verdicts += 1;
            if call.stage == Stage::Invited && result == Outcome::Granted {
                call.stage = Stage::Granted;
                self.within(SECOND, Step::Answer(number));
            } else if call.stage == Stage::Invited {
                call.stage = Stage::Over;
            }
        }
        if self.region.is_some() {
            self.within(5_000, Step::Resume);
        }
    }

    /// An operator resends what is held back, for some of the unsettled calls, and for those passed over
    /// [`PASSED_OVER_MAX`] times in a row.
    pub(super) fn operate(&mut self) {
        self.within(10 * SECOND, Step::Operator);
        let unsettled = self.engine.as_ref().map(Engine::unsettled).unwrap_or_default();
        self.operate_pages(&unsettled);
        self.operate_chats(&unsettled);
        let calls = self.calls.iter().filter(|call| unsettled.contains(&call.session()));
        for number in calls.map(|call| call.number).collect::<Vec<_>>() {
            let passed_over = self.calls[number].passed_over + 1;
            self.calls[number].passed_over = passed_over;
            if self.random.bool() || passed_over > PASSED_OVER_MAX {
                self.calls[number].passed_over = 0;
                let (call_id, session) = (self.calls[number].call_id(), self.calls[number].session());
                self.network.borrow_mut().allow_resend(session);
                let moved_at = self.calls[number].moved_at;
                self.hook(number, |worker, _| worker.order(Command::Resolve { call_id: &call_id, again: true }));
                self.calls[number].moved_at = moved_at;
            }
        }
    }

    pub(super) fn stop_host(&mut self) {
        let Some(instance) = self.region.as_ref().map(|region| region.instance()) else { return };
        self.faultless_since = None;
        let stopped = self.guarded(|engine| engine.as_mut().map_or(Ok(()), Engine::stop));
        // An engine that fails here leaves unread events to the next one. If it dies, the stop continues. All processes
        // may have died and been started again meanwhile.
        let _ = stopped;
        if self.region.as_ref().is_some_and(|now| now.instance() == instance) {
            // It closes its files, which cannot be interrupted any more.
            self.machine.crash_in.set(None);
            self.engine = None;
            self.is_starting = false;
            self.life += 1;
            self.leave_host();
            self.start_host();
        }
    }

    /// A call continues only through the host on which it began.
    fn leave_host(&mut self) {
        self.count_refusals();
        self.workers.clear();
        self.notification_readers.clear();
        (self.event_worker, self.has_left_host) = (None, true);
        self.region = None;
        self.network.borrow_mut().cut(&PEERS.map(|peer| peer.1));
        self.leave_pages();
        self.leave_chats();
        for call in &mut self.calls {
            let begun = call.stage != Stage::Invited || call.verdicts > 0;
            let waits = call.names == Names::Predecessor
                || self.queue.iter().any(|Reverse((_, _, what))| *what == Step::Invite(call.number));
            if begun || !waits {
                call.stage = Stage::Over;
                (call.ended_at, call.leg_ended_at) = (None, None);
            }
        }
    }

    /// Events in rings that are not on the disk are lost.
    fn lose_rings(&mut self) {
        let region = Arc::clone(self.region());
        let fault = disk::on(|disk| disk.fault.take()).flatten();
        let store = imcharge::engine::store::Store::open(self.state, None);
        disk::on(|disk| disk.fault = fault);
        let marks = store.and_then(|store| store.marks(region.instance())).ok().flatten().unwrap_or_default();
        let tails: Vec<u64> = marks.events.into_iter().chain(std::iter::repeat(0)).take(PROCESSES).collect();
        let is_read =
            |place: &Place| place.0 != region.instance() || place.2 <= tails.get(place.1).copied().unwrap_or(0);
        for delivery in self.calls.iter_mut().flat_map(|call| call.delivered.values_mut()) {
            delivery.lose(is_read);
        }
        self.calls.iter_mut().for_each(|call| call.confirmed.retain(|_, (_, place)| is_read(place)));
        self.lose_pages();
        self.lose_chats(is_read);
        region.remove_file();
    }

    /// Adds up the counters of a host that ends.
    pub(super) fn count_refusals(&mut self) {
        let Some(region) = self.region.clone() else { return };
        self.tally.rings_full += region.statistic(Statistic::DroppedRingFull);
        self.tally.tables_full += region.statistic(Statistic::DroppedTableFull);
        self.tally.verdicts_late += region.statistic(Statistic::DroppedResumeBusy);
    }
}

/// How often this thread has yielded its processor in order to wait.
fn times_given_away() -> i64 {
    // SAFETY: all zeros are a valid value, and it is a valid place for the result.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage.ru_nvcsw
    }
}
