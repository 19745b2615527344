//! When the supervisor starts an engine, and when it kills one: decisions without a process, a signal or a clock.
//!
//! ```text
//!             Start             ended                        back-off over
//!   Waiting ─────────► Watching ──────► Waiting (at once, or after a back-off) ─────────► ...
//!                       │  ▲ a beat clears the silence
//!              too long silent
//!                       ▼
//!                     Killing ── ended ─► Waiting
//! ```
//!
//! An engine is judged by its own beats from its own start: a new watch knows nothing of the engine before it. Silence
//! is the sum of what passed between the looks, of which each counts [`LOOK_MAX`] at most. A supervisor that was frozen
//! together with its engine (SIGSTOP, a container's pause, a suspended or migrated machine) has not looked meanwhile, so
//! that time does not count.

use crate::charge::time::Time;
use crate::simulate::{self, InjectedBug};
use std::time::Duration;

/// Silence after which a running engine hangs.
pub const HANG: Duration = Duration::from_secs(10);

/// Silence after which a starting engine hangs. It beats between portions of its work, but one read of a large file on a
/// slow disk may take its time.
pub const START_SILENCE_MAX: Duration = Duration::from_secs(120);

/// How long a stopping engine may take in all. What it has not settled then, the next one settles.
pub const STOP_PATIENCE: Duration = Duration::from_millis(4300);

/// The longest wait after a start that has failed.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(5);

/// The longest wait after an engine that was killed, or was ready, and did not work for [`WORKED`].
const SHORT_BACK_OFF_MAX: Duration = Duration::from_millis(400);

/// The shortest wait, unless there is none.
const BACK_OFF_MIN: Duration = Duration::from_millis(100);

/// An engine that has worked for so long did not die of its start: the next one is started at once.
const WORKED: Duration = Duration::from_secs(1);

/// How often the supervisor looks.
pub const LOOK: Duration = Duration::from_millis(100);

/// How often it looks at an engine that is stopping.
pub const STOP_LOOK: Duration = Duration::from_millis(5);

/// What counts of the time between two looks.
const LOOK_MAX: Duration = Duration::from_millis(500);

/// What the supervisor sees at a look.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// How often the engine has shown that it lives.
    pub beats: u64,
    /// Whether it has finished its start.
    pub is_ready: bool,
    /// How its process has ended; `None`: it has not.
    pub ended: Option<Ended>,
    /// Whether the host is being stopped.
    pub stop: bool,
}

/// How an engine has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// By itself: it could not start, or not continue.
    Failed,
    /// By a signal.
    Killed,
}

/// What the supervisor does after a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Looks again later.
    Nothing,
    /// Starts an engine.
    Start,
    /// Asks the engine to settle and end.
    AskToStop,
    /// Kills an engine that has been silent for so long.
    KillSilent(Duration),
    /// Kills an engine that has not settled within [`STOP_PATIENCE`].
    KillStopping,
    /// Returns: there is no engine, and none is wanted.
    Return,
}

#[derive(Debug)]
enum State {
    /// There is no engine; the next one is started when this has passed.
    Waiting(Duration),
    Watching(Watch),
    /// The engine was killed and has not ended yet.
    Killing {
        was_ready: bool,
    },
}

/// One engine, from its start on.
#[derive(Debug, Default)]
struct Watch {
    beats: u64,
    silent: Duration,
    /// How long it has worked since it was ready.
    worked: Duration,
    is_ready: bool,
    /// How long it has been stopping.
    stopping: Option<Duration>,
}

/// Decides about the engines of a host.
#[derive(Debug)]
pub struct Watchdog {
    state: State,
    looked_at: Time,
    back_off: Duration,
}

impl Watchdog {
    /// Nothing was started yet.
    pub fn new(now: Time) -> Watchdog {
        Watchdog { state: State::Waiting(Duration::ZERO), looked_at: now, back_off: Duration::ZERO }
    }

    /// What is to be done now.
    pub fn look(&mut self, seen: Seen, now: Time) -> Action {
        let passed = Duration::from_micros(now.micros_since(self.looked_at)).min(LOOK_MAX);
        self.looked_at = now;
        if let (State::Watching(_) | State::Killing { .. }, Some(ended)) = (&self.state, seen.ended) {
            self.ended(ended);
            return Action::Nothing;
        }
        match &mut self.state {
            State::Waiting(_) if seen.stop => Action::Return,
            State::Waiting(left) => {
                *left = left.saturating_sub(passed);
                if left.is_zero() { Action::Start } else { Action::Nothing }
            }
            State::Killing { .. } => Action::Nothing,
            State::Watching(watch) => {
                let action = watch.look(seen, passed);
                if matches!(action, Action::KillSilent(_) | Action::KillStopping) {
                    self.state = State::Killing { was_ready: watch.is_ready };
                }
                action
            }
        }
    }

    /// An engine was started; `beats` is what the engines before it have left.
    pub fn started(&mut self, beats: u64) {
        // The fault: the age of the last beat, whichever engine has made it.
        let is_injected = simulate::is_injected(InjectedBug::PredecessorWatched) && beats > 0;
        let silent = if is_injected { START_SILENCE_MAX } else { Duration::ZERO };
        self.state = State::Watching(Watch { beats, silent, ..Watch::default() });
    }

    /// None could be started.
    pub fn not_started(&mut self) {
        self.state = State::Waiting(BACK_OFF_MAX);
    }

    /// When to look again.
    pub fn patience(&self) -> Duration {
        match &self.state {
            State::Waiting(left) => (*left).min(LOOK),
            State::Watching(Watch { stopping: Some(_), .. }) => STOP_LOOK,
            State::Watching(_) | State::Killing { .. } => LOOK,
        }
    }

    fn ended(&mut self, ended: Ended) {
        let (was_ready, has_worked) = match &self.state {
            State::Watching(watch) => (watch.is_ready, watch.worked >= WORKED),
            State::Killing { was_ready } => (*was_ready, *was_ready),
            State::Waiting(_) => (false, false),
        };
        let has_failed = ended == Ended::Failed && !was_ready;
        let most = if has_failed { BACK_OFF_MAX } else { SHORT_BACK_OFF_MAX };
        self.back_off = if has_worked { Duration::ZERO } else { (self.back_off * 2).clamp(BACK_OFF_MIN, most) };
        self.state = State::Waiting(self.back_off);
    }
}

impl Watch {
    fn look(&mut self, seen: Seen, passed: Duration) -> Action {
        self.silent = if seen.beats == self.beats { self.silent + passed } else { Duration::ZERO };
        self.beats = seen.beats;
        self.is_ready |= seen.is_ready;
        self.worked += if self.is_ready { passed } else { Duration::ZERO };
        match &mut self.stopping {
            None if seen.stop => {
                self.stopping = Some(Duration::ZERO);
                return Action::AskToStop;
            }
            None => {}
            Some(stopping) => {
                *stopping += passed;
                if *stopping > STOP_PATIENCE {
                    return Action::KillStopping;
                }
            }
        }
        let most = if self.is_ready { HANG } else { START_SILENCE_MAX };
        if self.silent > most { Action::KillSilent(self.silent) } else { Action::Nothing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A watchdog with its time.
    struct Run {
        watchdog: Watchdog,
        now: Time,
        seen: Seen,
    }

    impl Run {
        fn new() -> Run {
            let seen = Seen { beats: 0, is_ready: false, ended: None, stop: false };
            Run { watchdog: Watchdog::new(Time(0)), now: Time(0), seen }
        }

        /// One with an engine that is ready.
        fn running() -> Run {
            let mut run = Run::new();
            assert_eq!(run.after(Duration::ZERO), Action::Start);
            run.start();
            run.seen.is_ready = true;
            run
        }

        fn start(&mut self) {
            self.seen.ended = None;
            self.seen.is_ready = false;
            self.watchdog.started(self.seen.beats);
        }

        /// A look after so long without one.
        fn after(&mut self, span: Duration) -> Action {
            self.now = Time(self.now.0 + span.as_micros() as u64);
            self.watchdog.look(self.seen, self.now)
        }

        /// Looks as often as it is asked to for so long; what comes first of anything else than nothing, and when.
        fn within(&mut self, span: Duration) -> Option<(Action, Duration)> {
            let begun = self.now;
            while self.now.0 < begun.0 + span.as_micros() as u64 {
                let patience = self.watchdog.patience().max(Duration::from_millis(1));
                let action = self.after(patience);
                if action != Action::Nothing {
                    return Some((action, Duration::from_micros(self.now.micros_since(begun))));
                }
            }
            None
        }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_engine_that_beats_is_left_alone() {
        let mut run = Run::running();
        for _ in 0..100 {
            run.seen.beats += 1;
            assert_eq!(run.within(9 * SECOND), None);
        }
    }

    #[test]
    fn a_hang_is_ended_and_the_next_engine_is_judged_from_its_own_start() {
        let mut run = Run::running();
        run.seen.beats = 7;
        for _ in 0..3 {
            let killed = run.within(20 * SECOND);
            assert!(matches!(killed, Some((Action::KillSilent(_), after)) if after < 11 * SECOND), "{killed:?}");
            // It is killed once, however long it takes to end.
            assert_eq!(run.within(60 * SECOND), None);
            run.seen.ended = Some(Ended::Failed);
            assert_eq!(run.after(LOOK), Action::Nothing);
            let started = run.within(SECOND);
            assert!(matches!(started, Some((Action::Start, after)) if after < SECOND), "{started:?}");
            run.start();
            assert_eq!(run.within(9 * SECOND), None, "a successor is not its predecessor");
            run.seen.is_ready = true;
            run.seen.beats += 1;
            assert_eq!(run.after(LOOK), Action::Nothing);
        }
    }

    #[test]
    fn time_in_which_nothing_was_looked_at_is_no_silence() {
        let mut run = Run::running();
        for frozen in [12, 120, 86_400, 3] {
            assert_eq!(run.after(frozen * SECOND), Action::Nothing);
            assert_eq!(run.within(SECOND), None);
        }
        // A machine that gives it a look a second only still sees a hang.
        let mut run = Run::running();
        let killed = (0..60).find(|_| run.after(SECOND) != Action::Nothing);
        assert!(killed.is_some_and(|looks| looks < 25), "{killed:?}");
    }

    #[test]
    fn a_slow_start_is_no_hang_and_one_that_never_ends_is() {
        let mut run = Run::new();
        assert_eq!(run.after(Duration::ZERO), Action::Start);
        run.start();
        assert_eq!(run.within(110 * SECOND), None);
        run.seen.beats += 1;
        assert_eq!(run.within(110 * SECOND), None);
        let killed = run.within(20 * SECOND);
        assert!(matches!(killed, Some((Action::KillSilent(_), _))), "{killed:?}");
    }

    #[test]
    fn starts_that_fail_are_tried_again_ever_later_and_a_good_one_ends_that() {
        let mut run = Run::new();
        assert_eq!(run.after(Duration::ZERO), Action::Start);
        let mut waits = Vec::new();
        for _ in 0..10 {
            run.start();
            run.seen.ended = Some(Ended::Failed);
            assert_eq!(run.after(Duration::from_millis(1)), Action::Nothing);
            waits.push(run.within(10 * SECOND).map(|(action, after)| {
                assert_eq!(action, Action::Start);
                after
            }));
        }
        let waits: Vec<Duration> = waits.into_iter().map(|wait| wait.expect("it is tried again")).collect();
        assert!(waits.is_sorted() && waits[0] < SECOND && waits[9] <= BACK_OFF_MAX + LOOK, "{waits:?}");
        run.start();
        run.seen.is_ready = true;
        run.seen.beats += 1;
        assert_eq!(run.within(2 * SECOND), None);
        run.seen.ended = Some(Ended::Failed);
        assert_eq!(run.after(LOOK), Action::Nothing);
        assert_eq!(run.after(Duration::ZERO), Action::Start, "one that has worked is followed at once");
    }

    #[test]
    fn engines_that_are_killed_in_their_start_are_followed_soon() {
        let mut run = Run::new();
        assert_eq!(run.after(Duration::ZERO), Action::Start);
        for _ in 0..10 {
            run.start();
            run.seen.ended = Some(Ended::Killed);
            assert_eq!(run.after(LOOK), Action::Nothing);
            let started = run.within(SECOND);
            assert!(matches!(started, Some((Action::Start, _))), "{started:?}");
        }
    }

    #[test]
    fn an_engine_that_always_dies_of_its_first_tick_does_not_take_the_machine() {
        let mut run = Run::new();
        let mut starts = 0;
        while run.now.0 < 60_000_000 {
            let patience = run.watchdog.patience().max(Duration::from_millis(1));
            if run.after(patience) == Action::Start {
                starts += 1;
                run.start();
                (run.seen.is_ready, run.seen.ended) = (true, Some(Ended::Failed));
            }
        }
        assert!((5..200).contains(&starts), "{starts} in a minute");
    }

    #[test]
    fn a_stop_asks_once_waits_and_returns() {
        let mut run = Run::running();
        run.seen.stop = true;
        assert_eq!(run.after(LOOK), Action::AskToStop);
        let killed = run.within(20 * SECOND);
        assert!(matches!(killed, Some((Action::KillStopping, after)) if after < 5 * SECOND), "{killed:?}");
        assert_eq!(run.within(SECOND), None, "it is killed once");
        run.seen.ended = Some(Ended::Failed);
        assert_eq!(run.after(LOOK), Action::Nothing);
        assert_eq!(run.after(LOOK), Action::Return);
        // A stop during a back-off does not wait for it.
        let mut run = Run::new();
        run.watchdog.not_started();
        run.seen.stop = true;
        assert_eq!(run.after(LOOK), Action::Return);
    }

    #[test]
    fn an_engine_that_is_frozen_in_its_stop_gets_its_whole_time() {
        let mut run = Run::running();
        run.seen.stop = true;
        assert_eq!(run.after(LOOK), Action::AskToStop);
        assert_eq!(run.after(100 * SECOND), Action::Nothing);
        assert_eq!(run.within(3 * SECOND), None);
    }
}
