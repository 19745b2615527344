//! When a sleeper must be woken: the flags beside a bell, in shared memory.
//!
//! A bell costs a system call, so it is rung only for who sleeps. The sleeper says that it will sleep and looks
//! once more; the other side publishes and looks whether somebody sleeps. With a full fence between the two steps on both
//! sides, one of them sees the other: nobody sleeps on something that was published.

use super::sync::{AtomicU32, Ordering, fence, set};

/// The word of a [`WakeWord`] while somebody sleeps, or is about to.
pub const ASLEEP: u32 = 1;

/// Whether somebody sleeps, or is about to.
#[repr(transparent)]
#[derive(Default)]
pub struct WakeWord(AtomicU32);

impl WakeWord {
    /// Calls `ring` if the sleeper must be woken for what was just published; whether it had to.
    pub fn wake(&self, ring: impl FnOnce()) -> bool {
        fence(Ordering::SeqCst);
        let sleeps = self.0.load(Ordering::Relaxed) == ASLEEP && self.0.swap(0, Ordering::Relaxed) == ASLEEP;
        if sleeps {
            ring();
        }
        sleeps
    }

    /// Sleeps by `wait`, unless `idle` sees that there is something already.
    pub fn sleep(&self, idle: impl FnOnce() -> bool, wait: impl FnOnce()) {
        set(&self.0, ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if idle() {
            wait();
        }
        set(&self.0, 0, Ordering::Relaxed);
    }

    /// What a sleeper can sleep on: it is [`ASLEEP`] until somebody wakes it.
    pub fn word(&self) -> &AtomicU32 {
        &self.0
    }
}

/// Wakes as many of those who take from one queue as there are new records, as far as so many sleep. One who does not sleep
/// looks into the queue before it sleeps.
pub fn wake_some<'a>(sleepers: impl Iterator<Item = &'a WakeWord>, records: usize, ring: impl Fn(&WakeWord)) {
    sleepers.filter(|sleeper| sleeper.wake(|| ring(sleeper))).take(records).for_each(drop);
}

/// The engine's sleep: it ends only for events that somebody waits for.
#[repr(C)]
#[derive(Default)]
pub struct EngineWaker {
    engine: WakeWord,
    /// 1 when someone waits for what the engine makes of an event.
    urgent: AtomicU32,
}

impl EngineWaker {
    /// Worker: someone waits for what comes of an event just published. Calls `ring` if the engine sleeps.
    pub fn wake(&self, ring: impl FnOnce()) {
        // Whoever takes the flag down sees the event that it was put up for.
        set(&self.urgent, 1, Ordering::Release);
        self.engine.wake(ring);
    }

    /// Engine: sleeps by `wait`, unless someone waits for it.
    pub fn sleep(&self, wait: impl FnOnce()) {
        self.engine.sleep(|| self.urgent.load(Ordering::Relaxed) == 0, wait);
    }

    /// What the engine can sleep on, as in [`WakeWord::word`].
    pub fn word(&self) -> &AtomicU32 {
        self.engine.word()
    }

    /// Engine: what was urgent so far is about to be read.
    pub fn begin_turn(&self) {
        self.urgent.swap(0, Ordering::Acquire);
    }
}
