//! Decides when to start an engine and when to kill one, without touching processes, signals or clocks.
//!
//! ```text
//!             Start             ended                        back-off over
//!   Waiting ─────────► Watching ──────► Waiting (at once, or after a back-off) ─────────► ...
//!                       │  ▲ a beat ends the silence
//!              silent for too long
//!                       ▼
//!                     Killing ── ended ─► Waiting
//! ```
//!
//! An engine is judged by its own beats since its own start, never by those of its predecessor. Silence is the sum of the
//! times between looks, of which each counts at most `LOOK_COUNTED_MAX`. If the supervisor was frozen together with its
//! engine (SIGSTOP, a container's pause, a suspended or migrated machine), it did not look, so that time does not count.

use crate::charge::time::Time;
use crate::simulate::{self, InjectedBug};
use std::time::Duration;

/// Silence after which a running engine is considered hung.
pub const RUNNING_SILENCE_MAX: Duration = Duration::from_secs(10);

/// Silence after which a starting engine is considered hung. It beats between portions of its work, but a single read of a
/// large file from a slow disk may take long.
pub const START_SILENCE_MAX: Duration = Duration::from_secs(120);

/// Time that a stopping engine has in total. The next engine settles what is left.
pub const STOP_TIMEOUT: Duration = Duration::from_millis(4300);

/// Longest wait after a failed start.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// Longest wait after an engine that was killed, or that was ready and worked for less than [`STABLE_AFTER`].
const SHORT_BACK_OFF_MAX: Duration = Duration::from_millis(400);

/// Shortest wait, where there is one.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);

/// An engine that has worked for this long did not die of its start, so the next one is started at once.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// Time between two looks.
pub const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Time between two looks at a stopping engine.
pub const STOP_LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// Part of the time between two looks that counts.
const LOOK_COUNTED_MAX: Duration = Duration::from_millis(500);

/// What the supervisor observes at a look.
#[derive(Clone, Copy, Debug)]
pub struct Observation {
    /// Beats of all engines so far.
    pub beats: u64,
    /// Whether the engine has finished its start.
    pub is_ready: bool,
    /// How its process ended; `None`: it is running.
    pub ended: Option<Ended>,
    /// Whether the host is being stopped.
    pub stop: bool,
}

/// How an engine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With an exit status: it could not start or not continue.
    Failed,
    /// By a signal.
    Killed,
}

/// What the supervisor has to do after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing until the next look.
    Nothing,
    /// Start an engine.
    Start,
    /// Ask the engine to settle its sessions and end.
    AskToStop,
    /// Kill an engine that has been silent for this long.
    KillSilent(Duration),
    /// Kill an engine that has not ended within [`STOP_TIMEOUT`].
    KillStopping,
    /// Return: no engine is running, and none is wanted.
    Return,
}

#[derive(Debug)]
enum State {
    /// There is no engine; the next one is started after this time.
    Waiting(Duration),
    Watching(Watch),
    /// The engine was killed and has not ended yet.
    Killing {
        was_ready: bool,
    },
}

/// An engine since its start.
#[derive(Debug, Default)]
struct Watch {
    beats: u64,
    silent: Duration,
    /// How long it has been ready.
    worked: Duration,
    is_ready: bool,
    /// How long it has been stopping.
    stopping: Option<Duration>,
}

/// Decides about the engines of a host, one after the other.
#[derive(Debug)]
pub struct Watchdog {
    state: State,
    last_look: Time,
    back_off: Duration,
}

impl Watchdog {
    /// Creates a watchdog of a host without an engine.
    pub fn new(now: Time) -> Watchdog {
        Watchdog { state: State::Waiting(Duration::ZERO), last_look: now, back_off: Duration::ZERO }
    }

    /// Returns what to do now.
    pub fn look(&mut self, observed: Observation, now: Time) -> Action {
        let passed = Duration::from_micros(now.micros_since(self.last_look)).min(LOOK_COUNTED_MAX);
        self.last_look = now;
        if let (State::Watching(_) | State::Killing { .. }, Some(ended)) = (&self.state, observed.ended) {
            self.ended(ended);
            return Action::Nothing;
        }
        match &mut self.state {
            State::Waiting(_) if observed.stop => Action::Return,
            State::Waiting(left) => {
                *left = left.saturating_sub(passed);
                if left.is_zero() { Action::Start } else { Action::Nothing }
            }
            State::Killing { .. } => Action::Nothing,
            State::Watching(watch) => {
                let action = watch.look(observed, passed);
                if matches!(action, Action::KillSilent(_) | Action::KillStopping) {
                    self.state = State::Killing { was_ready: watch.is_ready };
                }
                action
            }
        }
    }

    /// Tells that an engine was started. `beats`: those of all engines before it.
    pub fn started(&mut self, beats: u64) {
        // The bug: judging it by the last beat of any engine.
        let is_injected = simulate::is_injected(InjectedBug::PredecessorWatched) && beats > 0;
        let silent = if is_injected { START_SILENCE_MAX } else { Duration::ZERO };
        self.state = State::Watching(Watch { beats, silent, ..Watch::default() });
    }

    /// Tells that no engine could be started.
    pub fn not_started(&mut self) {
        self.state = State::Waiting(BACK_OFF_MAX);
    }

    /// Returns the time until the next look.
    pub fn next_look(&self) -> Duration {
        match &self.state {
            State::Waiting(left) => (*left).min(LOOK_INTERVAL),
            State::Watching(Watch { stopping: Some(_), .. }) => STOP_LOOK_INTERVAL,
            State::Watching(_) | State::Killing { .. } => LOOK_INTERVAL,
        }
    }

    fn ended(&mut self, ended: Ended) {
        let (was_ready, was_stable) = match &self.state {
            State::Watching(watch) => (watch.is_ready, watch.worked >= STABLE_AFTER),
            State::Killing { was_ready } => (*was_ready, *was_ready),
            State::Waiting(_) => (false, false),
        };
        let has_failed = ended == Ended::Failed && !was_ready;
        let limit = if has_failed { BACK_OFF_MAX } else { SHORT_BACK_OFF_MAX };
        self.back_off = if was_stable { Duration::ZERO } else { (self.back_off * 2).clamp(BACK_OFF_MIN, limit) };
        self.state = State::Waiting(self.back_off);
    }
}

impl Watch {
    fn look(&mut self, observed: Observation, passed: Duration) -> Action {
        self.silent = if observed.beats == self.beats { self.silent + passed } else { Duration::ZERO };
        self.beats = observed.beats;
        self.is_ready |= observed.is_ready;
        self.worked += if self.is_ready { passed } else { Duration::ZERO };
        match &mut self.stopping {
            None if observed.stop => {
                self.stopping = Some(Duration::ZERO);
                return Action::AskToStop;
            }
            None => {}
            Some(stopping) => {
                *stopping += passed;
                if *stopping > STOP_TIMEOUT {
                    return Action::KillStopping;
                }
            }
        }
        let limit = if self.is_ready { RUNNING_SILENCE_MAX } else { START_SILENCE_MAX };
        if self.silent > limit { Action::KillSilent(self.silent) } else { Action::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watchdog with its clock.
    struct Run {
        watchdog: Watchdog,
        now: Time,
        observed: Observation,
    }

    impl Run {
        fn new() -> Run {
            let observed = Observation { beats: 0, is_ready: false, ended: None, stop: false };
            Run { watchdog: Watchdog::new(Time(0)), now: Time(0), observed }
        }

        /// A watchdog with an engine that is ready.
        fn running() -> Run {
            let mut run = Run::new();
            assert_eq!(run.after(Duration::ZERO), Action::Start);
            run.start();
            run.observed.is_ready = true;
            run
        }

        fn start(&mut self) {
            self.observed.ended = None;
            self.observed.is_ready = false;
            self.watchdog.started(self.observed.beats);
        }

        /// Looks once, `span` after the last look.
        fn after(&mut self, span: Duration) -> Action {
            self.now = Time(self.now.0 + span.as_micros() as u64);
            self.watchdog.look(self.observed, self.now)
        }

        /// Looks as often as requested for `span`; returns the first action other than `Nothing`, and when it came.
        fn within(&mut self, span: Duration) -> Option<(Action, Duration)> {
            let begun = self.now;
            while self.now.0 < begun.0 + span.as_micros() as u64 {
                let wait = self.watchdog.next_look().max(Duration::from_millis(1));
                let action = self.after(wait);
                if action != Action::Nothing {
                    return Some((action, Duration::from_micros(self.now.micros_since(begun))));
                }
            }
            None
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn beating_engine_is_left_alone() {
        let mut run = Run::running();
        for _ in 0..100 {
            run.observed.beats += 1;
            assert_eq!(run.within(9 * SECOND), None);
        }
    }

    #[test]
    fn hung_engine_is_killed_and_its_successor_judged_from_its_own_start() {
        let mut run = Run::running();
        run.observed.beats = 7;
        for _ in 0..3 {
            let killed = run.within(20 * SECOND);
            assert!(matches!(killed, Some((Action::KillSilent(_), after)) if after < 11 * SECOND), "{killed:?}");
            // It is killed only once, however long it takes to end.
            assert_eq!(run.within(60 * SECOND), None);
            run.observed.ended = Some(Ended::Failed);
            assert_eq!(run.after(LOOK_INTERVAL), Action::Nothing);
            let started = run.within(SECOND);
            assert!(matches!(started, Some((Action::Start, after)) if after < SECOND), "{started:?}");
            run.start();
            assert_eq!(run.within(9 * SECOND), None, "a successor is judged by its predecessor");
            run.observed.is_ready = true;
            run.observed.beats += 1;
            assert_eq!(run.after(LOOK_INTERVAL), Action::Nothing);
        }
    }

    #[test]
    fn time_without_looks_is_not_silence() {
        let mut run = Run::running();
        for frozen in [12, 120, 86_400, 3] {
            assert_eq!(run.after(frozen * SECOND), Action::Nothing);
            assert_eq!(run.within(SECOND), None);
        }
        // With only one look per second, a hang is still found.
        let mut run = Run::running();
        let killed = (0..60).find(|_| run.after(SECOND) != Action::Nothing);
        assert!(killed.is_some_and(|looks| looks < 25), "{killed:?}");
    }

    #[test]
    fn slow_start_is_allowed_and_endless_start_is_killed() {
        let mut run = Run::new();
        assert_eq!(run.after(Duration::ZERO), Action::Start);
        run.start();
        assert_eq!(run.within(110 * SECOND), None);
        run.observed.beats += 1;
        assert_eq!(run.within(110 * SECOND), None);
        let killed = run.within(20 * SECOND);
        assert!(matches!(killed, Some((Action::KillSilent(_), _))), "{killed:?}");
    }

    #[test]
    fn failed_starts_back_off_until_one_succeeds() {
        let mut run = Run::new();
        assert_eq!(run.after(Duration::ZERO), Action::Start);
        let mut waits = Vec::new();
        for _ in 0..10 {
            run.start();
            run.observed.ended = Some(Ended::Failed);
            assert_eq!(run.after(Duration::from_millis(1)), Action::Nothing);
            waits.push(run.within(10 * SECOND).map(|(action, after)| {
                assert_eq!(action, Action::Start);
                after
            }));
        }
        let waits: Vec<Duration> = waits.into_iter().map(|wait| wait.expect("it is tried again")).collect();
        assert!(waits.is_sorted() && waits[0] < SECOND && waits[9] <= BACK_OFF_MAX + LOOK_INTERVAL, "{waits:?}");
        run.start();
        run.observed.is_ready = true;
        run.observed.beats += 1;
        assert_eq!(run.within(2 * SECOND), None);
        run.observed.ended = Some(Ended::Failed);
        assert_eq!(run.after(LOOK_INTERVAL), Action::Nothing);
        assert_eq!(run.after(Duration::ZERO), Action::Start, "no back-off after a stable engine");
    }

    #[test]
    fn engine_killed_during_its_start_is_followed_soon() {
        let mut run = Run::new();
        assert_eq!(run.after(Duration::ZERO), Action::Start);
        for _ in 0..10 {
            run.start();
            run.observed.ended = Some(Ended::Killed);
            assert_eq!(run.after(LOOK_INTERVAL), Action::Nothing);
            let started = run.within(SECOND);
            assert!(matches!(started, Some((Action::Start, _))), "{started:?}");
        }
    }

    #[test]
    fn engine_that_dies_in_its_first_tick_is_not_restarted_too_often() {
        let mut run = Run::new();
        let mut starts = 0;
        while run.now.0 < 60_000_000 {
            let wait = run.watchdog.next_look().max(Duration::from_millis(1));
            if run.after(wait) == Action::Start {
                starts += 1;
                run.start();
                (run.observed.is_ready, run.observed.ended) = (true, Some(Ended::Failed));
            }
        }
        assert!((5..200).contains(&starts), "{starts} in a minute");
    }

    #[test]
    fn stop_asks_once_then_kills_then_returns() {
        let mut run = Run::running();
        run.observed.stop = true;
        assert_eq!(run.after(LOOK_INTERVAL), Action::AskToStop);
        let killed = run.within(20 * SECOND);
        assert!(matches!(killed, Some((Action::KillStopping, after)) if after < 5 * SECOND), "{killed:?}");
        assert_eq!(run.within(SECOND), None, "killed twice");
        run.observed.ended = Some(Ended::Failed);
        assert_eq!(run.after(LOOK_INTERVAL), Action::Nothing);
        assert_eq!(run.after(LOOK_INTERVAL), Action::Return);
        // A stop during a back-off returns at once.
        let mut run = Run::new();
        run.watchdog.not_started();
        run.observed.stop = true;
        assert_eq!(run.after(LOOK_INTERVAL), Action::Return);
    }

    #[test]
    fn engine_frozen_while_stopping_gets_its_whole_time() {
        let mut run = Run::running();
        run.observed.stop = true;
        assert_eq!(run.after(LOOK_INTERVAL), Action::AskToStop);
        assert_eq!(run.after(100 * SECOND), Action::Nothing);
        assert_eq!(run.within(3 * SECOND), None);
    }
}
