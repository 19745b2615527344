//! What keeps the log of every process readable: the same line comes once a minute, and different ones of one place in
//! the source a few times. A panic gets a line with its place.
//!
//! A peer, a subscriber or a disk decides how often something goes wrong; an operator has to find the line that matters
//! all the same. A sink asks [`Limit::admit`] for each line. Lines that were left out are counted in the next one of
//! their place.

use crate::charge::time::Time;
use crate::shm::clock;
use log::{Level, Record};
use siphasher::sip::SipHasher13;
use std::collections::BTreeMap;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

/// Target of information that hosts log at their default level, where other information is not logged.
pub const NOTICE: &str = "imcharge::notice";

/// Target of lines about frames that the gate has stopped: a place writes one a minute, whatever differs in them.
pub const ONE_A_MINUTE: &str = "imcharge::gate";

/// Different lines of one place in each [`WINDOW_SECONDS`]: the first ones may name different calls, accounts or peers.
const LINES: usize = 5;

/// Seconds for which they are counted.
const WINDOW_SECONDS: u32 = 60;

/// What one place has logged.
struct Place {
    since: Time,
    /// Hashes of its lines.
    lines: Vec<u64>,
    left_out: u64,
}

/// The limit of a process. Its memory is bounded by the places in the source that log.
#[derive(Default)]
pub struct Limit(Mutex<BTreeMap<(&'static str, u32), Place>>);

impl Limit {
    /// Nothing was logged yet.
    pub const fn new() -> Limit {
        Limit(Mutex::new(BTreeMap::new()))
    }

    /// Whether a line may be written, and with what after it. Lines for debugging are asked for, and always may.
    pub fn admit(&self, record: &Record<'_>) -> Option<String> {
        match (record.level(), record.file_static(), record.line()) {
            (Level::Error | Level::Warn | Level::Info, Some(file), Some(line)) => {
                let most = if record.target() == ONE_A_MINUTE { 1 } else { LINES };
                self.count((file, line), &record.args().to_string(), most, clock::now())
            }
            _ => Some(String::new()),
        }
    }

    fn count(&self, place: (&'static str, u32), text: &str, most: usize, now: Time) -> Option<String> {
        let hash = SipHasher13::new().hash(text.as_bytes());
        // Nothing that holds it can panic.
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Place { since: now, lines: Vec::new(), left_out: 0 };
        let place = places.entry(place).or_insert_with(fresh);
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
            left_out => Some(format!(" ({left_out} more lines like this were left out before)")),
        }
    }
}

/// Sends panics to the log, one line each. The place alone: the text of a panic may quote what was being worked on.
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
    fn a_place_gets_a_few_lines_a_minute_and_says_how_many_it_had_not() {
        let limit = Limit::new();
        let written = |text: &str, second: u64| limit.count(("peer.rs", 7), text, LINES, s(second));
        let first: Vec<_> = (0..300).map(|peer| written(&format!("peer {peer}"), 1)).collect();
        assert_eq!(first.iter().flatten().count(), LINES);
        assert_eq!(written("peer 0", 60), None);
        assert_eq!(written("peer 0", 61).as_deref(), Some(" (296 more lines like this were left out before)"));
        // The same line comes once, another one of this place too.
        assert_eq!(written("peer 0", 62), None);
        assert_eq!(written("peer 1", 62).as_deref(), Some(" (1 more lines like this were left out before)"));
        // Another place has lines of its own.
        assert_eq!(limit.count(("peer.rs", 8), "peer 0", LINES, s(62)).as_deref(), Some(""));
    }

    #[test]
    fn a_place_that_gets_one_line_a_minute_counts_the_others() {
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
    fn what_is_logged_for_debugging_is_not_limited() {
        let limit = Limit::new();
        let record = Record::builder().level(Level::Debug).file_static(Some("x.rs")).line(Some(1)).build();
        assert!((0..100).all(|_| limit.admit(&record).as_deref() == Some("")));
    }
}
