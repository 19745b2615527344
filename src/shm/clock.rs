//! Clocks: one for timers, which cannot be stepped, and the wall clock for records.

use crate::charge::time::Time;
use crate::simulate;
use std::time::Duration;

/// Returns the current [`Time`]: `CLOCK_BOOTTIME`, the same in all processes.
pub fn now() -> Time {
    simulate::now().unwrap_or_else(|| Time(read(libc::CLOCK_BOOTTIME)))
}

/// Returns the wall clock, milliseconds since 1970.
pub fn wall_ms() -> i64 {
    simulate::wall_ms().unwrap_or_else(|| i64::try_from(read(libc::CLOCK_REALTIME) / 1000).unwrap_or(i64::MAX))
}

/// Sleeps.
pub fn pause(time: Duration) {
    if !simulate::pause(time) {
        std::thread::sleep(time);
    }
}

/// Returns the time elapsed since `then`.
pub fn since(then: Time) -> Duration {
    Duration::from_micros(now().micros_since(then))
}

/// Reads a clock, microseconds.
fn read(clock: libc::clockid_t) -> u64 {
    let mut spec = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `spec` is a valid place for the result; both clocks exist on every Linux that Rust supports.
    unsafe { libc::clock_gettime(clock, &mut spec) };
    u64::try_from(spec.tv_sec).unwrap_or(0) * 1_000_000 + u64::try_from(spec.tv_nsec).unwrap_or(0) / 1000
}
