//! Time as the rules see it.

use serde::{Deserialize, Serialize};

/// Microseconds on a clock that never steps back and goes on over a restart of any process
/// (CLOCK_BOOTTIME). It says nothing about the day: a stepped wall clock moves no timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// The moment `seconds` later.
    pub fn after_seconds(self, seconds: u32) -> Time {
        Time(self.0.saturating_add(u64::from(seconds) * 1_000_000))
    }

    /// Microseconds from `earlier` to this moment, 0 where `earlier` is later.
    pub fn micros_since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
