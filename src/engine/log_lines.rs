//! What keeps the log of every process readable: each place in the source gets a few lines a minute, and a panic gets one
//! with its place.
//!
//! A peer, a subscriber or a disk decides how often something goes wrong; an operator has to find the line that matters
//! all the same. A sink asks [`Limit::admit`] for each line. Lines that were left out are counted in the next one of
//! their place.

use super::clock;
use crate::charge::time::Time;
use log::{Level, Record};
use std::collections::HashMap;
use std::panic::PanicHookInfo;
use std::sync::{Mutex, PoisonError};

/// Target of information that hosts log at their default level, where other information is not logged.
pub const NOTICE: &str = "imcharge::notice";

/// Lines of one place in each [`WINDOW_SECONDS`]: the first ones may name different calls, accounts or peers.
const LINES: u32 = 5;

/// Seconds for which they are counted.
const WINDOW_SECONDS: u32 = 60;

/// What one place has logged.
#[derive(Clone, Copy)]
struct Place {
    since: Time,
    lines: u32,
    left_out: u64,
}

/// The limit of a process. Its memory is bounded by the places in the source that log.
#[derive(Default)]
pub struct Limit(Mutex<Option<HashMap<(&'static str, u32), Place>>>);

impl Limit {
    /// Nothing was logged yet.
    pub const fn new() -> Limit {
        Limit(Mutex::new(None))
    }

    /// Whether a line may be written, and with what after it. Lines for debugging are asked for, and always may.
    pub fn admit(&self, record: &Record<'_>) -> Option<String> {
        match (record.level(), record.file_static(), record.line()) {
            (Level::Error | Level::Warn | Level::Info, Some(file), Some(line)) => self.count(file, line, clock::now()),
            _ => Some(String::new()),
        }
    }

    fn count(&self, file: &'static str, line: u32, now: Time) -> Option<String> {
        // Nothing that holds it can panic.
        let mut places = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = Place { since: now, lines: 0, left_out: 0 };
        let place = places.get_or_insert_default().entry((file, line)).or_insert(fresh);
        if place.since.after_seconds(WINDOW_SECONDS) <= now {
            (place.since, place.lines) = (now, 0);
        }
        if place.lines >= LINES {
            place.left_out += 1;
            return None;
        }
        place.lines += 1;
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
        let written = |second: u64| limit.count("peer.rs", 7, s(second));
        let first: Vec<_> = (0..300).map(|_| written(1)).collect();
        assert_eq!(first.iter().flatten().count(), LINES as usize);
        assert_eq!(written(60), None);
        assert_eq!(written(61).as_deref(), Some(" (296 more lines like this were left out before)"));
        assert_eq!(written(61).as_deref(), Some(""));
        // Another place has lines of its own.
        assert_eq!(limit.count("peer.rs", 8, s(61)).as_deref(), Some(""));
    }

    #[test]
    fn what_is_logged_for_debugging_is_not_limited() {
        let limit = Limit::new();
        let record = Record::builder().level(Level::Debug).file_static(Some("x.rs")).line(Some(1)).build();
        assert!((0..100).all(|_| limit.admit(&record).as_deref() == Some("")));
    }
}
