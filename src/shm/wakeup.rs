//! Cross-process wake-up: decides when a sleeping process must be woken, through words in shared memory.
//!
//! A wake-up is a system call, so it is made only if the other side sleeps. The waiting side announces that it will sleep and
//! then checks for work again; the other side publishes its work and then checks whether anyone sleeps. A full fence
//! between the two steps on both sides ensures that one of them sees the other, so that no side sleeps on published work.

use super::sync::{AtomicU32, Ordering, fence, set};

/// Value of a [`WakeWord`] while its owner sleeps or is about to sleep.
pub const ASLEEP: u32 = 1;

/// Whether one process sleeps, or is about to.
#[repr(transparent)]
#[derive(Default)]
pub struct WakeWord(AtomicU32);

impl WakeWord {
    /// Calls `wake` if the owner must be woken for what was just published. Returns whether it was called.
    pub fn wake(&self, wake: impl FnOnce()) -> bool {
        fence(Ordering::SeqCst);
        let is_asleep = self.0.load(Ordering::Relaxed) == ASLEEP && self.0.swap(0, Ordering::Relaxed) == ASLEEP;
        if is_asleep {
            wake();
        }
        is_asleep
    }

    /// Owner: sleeps by calling `wait`, unless `is_idle` finds that there is work.
    pub fn sleep(&self, is_idle: impl FnOnce() -> bool, wait: impl FnOnce()) {
        set(&self.0, ASLEEP, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        if is_idle() {
            wait();
        }
        set(&self.0, 0, Ordering::Relaxed);
    }

    /// The futex to sleep on: it is [`ASLEEP`] until the owner is woken.
    pub fn word(&self) -> &AtomicU32 {
        &self.0
    }
}

/// Wakes sleeping readers of one queue, at most one for each new record. A reader that does not sleep checks the queue
/// before it does.
pub fn wake_some<'a>(readers: impl Iterator<Item = &'a WakeWord>, records: usize, wake: impl Fn(&WakeWord)) {
    readers.filter(|reader| reader.wake(|| wake(reader))).take(records).for_each(drop);
}

/// The engine's sleep: only events that someone waits for end it.
#[repr(C)]
#[derive(Default)]
pub struct EngineWaker {
    engine: WakeWord,
    /// 1 while someone waits for the result of a published event.
    urgent: AtomicU32,
}

impl EngineWaker {
    /// Worker: marks an event just published as urgent. Calls `wake` if the engine sleeps.
    pub fn wake(&self, wake: impl FnOnce()) {
        // The engine clears the flag before it reads the rings, so it sees the event that the flag was set for.
        set(&self.urgent, 1, Ordering::Release);
        self.engine.wake(wake);
    }

    /// Engine: sleeps by calling `wait`, unless an event is urgent.
    pub fn sleep(&self, wait: impl FnOnce()) {
        self.engine.sleep(|| self.urgent.load(Ordering::Relaxed) == 0, wait);
    }

    /// The futex to sleep on, as [`WakeWord::word`].
    pub fn word(&self) -> &AtomicU32 {
        self.engine.word()
    }

    /// Engine: clears the urgent flag, before it reads the rings.
    pub fn begin_tick(&self) {
        self.urgent.swap(0, Ordering::Acquire);
    }
}
