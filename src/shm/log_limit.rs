//! Rate limit for log lines: the same line is logged once a minute, and different lines of one place in the source a few
//! times. Panics are logged with their place.
//!
//! Peers, subscribers and disks decide how often something fails; operators must still find the line that matters. Each
//! sink calls [`Limit::admit`] for each line. Suppressed lines are counted in the next line of their place.

use crate::charge::time::Time;
use crate::shm::clock;
use log::{Level, Record};
use siphasher::sip::SipHasher13;
use std::collections::BTreeMap;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

/// Target of information that hosts log at their default level; other information is not logged there.
pub const NOTICE: &str = "imcharge::notice";

/// Target of lines about frames that the gate has stopped: one line a minute for each place, whatever its text.
pub const ONE_A_MINUTE: &str = "imcharge::gate";

/// Maximum number of different lines of one place in each [`WINDOW_SECONDS`]: they may name different calls or peers.
const LINES_MAX: usize = 5;

/// Window of the limit, seconds.
const WINDOW_SECONDS: u32 = 60;

/// Lines logged by one place in the source.
struct Place {
    since: Time,
    /// Hashes of the lines.
    lines: Vec<u64>,
    left_out: u64,
}

/// The rate limit of a process. Its memory is bounded by the number of places in the source that log.
#[derive(Default)]
pub struct Limit(Mutex<BTreeMap<(&'static str, u32), Place>>);

impl Limit {
    /// A limit without any lines.
    pub const fn new() -> Limit {
        Limit(Mutex::new(BTreeMap::new()))
    }

    /// Returns the text to append to a line; `None` if it is suppressed. Debug and trace lines are never suppressed.
    pub fn admit(&self, record: &Record<'_>) -> Option<String> {
        match (record.level(), record.file_static(), record.line()) {
            (Level::Error | Level::Warn | Level::Info, Some(file), Some(line)) => {
                let most = if record.target() == ONE_A_MINUTE { 1 } else { LINES_MAX };
                self.count((file, line), &record.args().to_string(), most, clock::now())
            }
            _ => Some(String::new()),
        }
    }

    fn count(&self, place: (&'static str, u32), text: &str, most: usize, now: Time) -> Option<String> {
        let hash = SipHasher13::new().hash(text.as_bytes());
        // No code that holds the lock panics.
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = || Place { since: now, lines: Vec::new(), left_out: 0 };
        let place = places.entry(place).or_insert_with(first);
        if place.since.after_seconds(WINDOW_SECONDS) <= now {
            place.since = now;
            place.lines.clear();
        }
        if place.lines.len() >= most || place.lines.contains(&hash) {
            place.left_out += 1;
            return None;
        }
        place.lines.push(hash);
        match std::mem::take(&mut place.left_out) {
            0 => Some(String::new()),
            left_out => Some(format!(" ({left_out} similar lines were suppressed before)")),
        }
    }
}

/// Logs panics from now on, one line each, with the place but without the text, which may contain message contents.
pub fn log_panics() {
    std::panic::set_hook(Box::new(log_panic));
}

fn log_panic(panic: &PanicHookInfo<'_>) {
    match panic.location() {
        Some(place) => log::error!("imcharge panicked at {}:{}; please report it", place.file(), place.line()),
        None => log::error!("imcharge panicked at an unknown place; please report it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Time {
        Time(seconds * 1_000_000)
    }

    #[test]
    fn place_logs_a_few_lines_a_minute_and_counts_the_suppressed_ones() {
        let limit = Limit::new();
        let written = |text: &str, second: u64| limit.count(("peer.rs", 7), text, LINES_MAX, s(second));
        let first: Vec<_> = (0..300).map(|peer| written(&format!("peer {peer}"), 1)).collect();
        assert_eq!(first.iter().flatten().count(), LINES_MAX);
        assert_eq!(written("peer 0", 60), None);
        assert_eq!(written("peer 0", 61).as_deref(), Some(" (296 similar lines were suppressed before)"));
        // The same line is logged once, and so is another one of this place.
        assert_eq!(written("peer 0", 62), None);
        assert_eq!(written("peer 1", 62).as_deref(), Some(" (1 similar lines were suppressed before)"));
        // Another place has its own limit.
        assert_eq!(limit.count(("peer.rs", 8), "peer 0", LINES_MAX, s(62)).as_deref(), Some(""));
    }

    #[test]
    fn one_a_minute_suppresses_different_lines() {
        let limit = Limit::new();
        let args = |text: &str| {
            limit.admit(
                &Record::builder()
                    .level(Level::Warn)
                    .target(ONE_A_MINUTE)
                    .file_static(Some("x.rs"))
                    .line(Some(1))
                    .args(format_args!("{text}"))
                    .build(),
            )
        };
        assert_eq!(args("call 1").as_deref(), Some(""));
        assert_eq!([args("call 2"), args("call 3")], [None, None]);
    }

    #[test]
    fn debug_lines_are_not_limited() {
        let limit = Limit::new();
        let record = Record::builder().level(Level::Debug).file_static(Some("x.rs")).line(Some(1)).build();
        assert!((0..100).all(|_| limit.admit(&record).as_deref() == Some("")));
    }
}
