//! Time of the charging rules.

use serde::{Deserialize, Serialize};

/// Microseconds on a monotonic clock that continues over a restart of any process (CLOCK_BOOTTIME). It is not related to
/// the wall clock, so setting that clock moves no timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(pub u64);

impl Time {
    /// Returns the time `seconds` later.
    pub fn after_seconds(self, seconds: u32) -> Time {
        Time(self.0.saturating_add(u64::from(seconds) * 1_000_000))
    }

    /// Returns the microseconds since `earlier`, 0 if that is later.
    pub fn micros_since(self, earlier: Time) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}
