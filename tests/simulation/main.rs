//! The whole under a virtual clock, from one seed: workers, rings, engine, store, enabler, charging system, parties.
//!
//! `make sim` runs SEEDS seeds from SEED on; a failure prints the one to repeat.

#![allow(dead_code, reason = "of the charging system only what a simulation needs is used")]

#[path = "../../examples/ocs/book.rs"]
mod book;
#[path = "../../examples/ocs/faults.rs"]
mod faults;
#[path = "../../examples/ocs/rating.rs"]
mod rating;
#[path = "../../examples/ocs/settings.rs"]
mod settings;
#[path = "../../examples/ocs/state.rs"]
mod state;

mod call;
mod elsewhere;
mod world;

use imcharge::simulate::Broken;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use world::{Tally, World};

/// Seeds within which a fault that is built in has to be found.
const FOUND_WITHIN: u64 = 1000;

fn main() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, seeds) = (number("SEED").unwrap_or(1), number("SEEDS").unwrap_or(10_000));
    let time = number("SECONDS_MAX").map_or(Duration::MAX, Duration::from_secs);
    let (mut passed, mut failed) = (0, 0);
    let mut count = |fine: bool, what: &str| {
        println!("{what} ... {}", if fine { "ok" } else { "FAILED" });
        *(if fine { &mut passed } else { &mut failed }) += 1;
    };
    if number("SEED").is_none() {
        count(is_the_same_again(), "the same seed makes the same run");
        for broken in [Broken::ToldBeforeCommit, Broken::KeyWithoutMessageId, Broken::OutboxDropped] {
            count(is_found(broken), &format!("{broken:?} is found within {FOUND_WITHIN} seeds"));
        }
    }
    count(run_all(seed, seeds, time), "every message is paid for once, and nothing else is");
    println!("test result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    std::process::exit(i32::from(failed > 0));
}

/// One seed.
fn run(seed: u64, broken: Option<Broken>) -> (Tally, Result<(), String>) {
    let state = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let mut world = World::new(seed, broken, state.path());
    let result = world.run();
    (world.tally, result)
}

fn run_all(first: u64, seeds: u64, time: Duration) -> bool {
    let started = Instant::now();
    let (next, total) = (AtomicU64::new(first), Mutex::new((0_u64, Tally::default(), Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while started.elapsed() < time {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let (tally, result) = run(seed, None);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.0 += 1;
                    total.1.events += tally.events;
                    total.1.crashes += tally.crashes;
                    total.1.faults += tally.faults;
                    total.1.debits += tally.debits;
                    if let Err(why) = result {
                        println!("SEED={seed} SEEDS=1 make sim: {why}");
                        total.2.push(seed);
                    }
                }
            });
        }
    });
    let (seeds, tally, violations) = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let each = |count: u64| count as f64 / started.elapsed().as_secs_f64();
    println!(
        "per second: {:.0} events, {:.1} crashes, {:.1} faults, {:.0} debits",
        each(tally.events),
        each(tally.crashes),
        each(tally.faults),
        each(tally.debits)
    );
    println!(
        "{seeds} seeds, {} events, {} crashes, {} faults, {} debits, {} violations",
        tally.events,
        tally.crashes,
        tally.faults,
        tally.debits,
        violations.len()
    );
    violations.is_empty() && seeds > 0
}

fn is_the_same_again() -> bool {
    (1..=20).all(|seed| run(seed, None).0 == run(seed, None).0)
}

fn is_found(broken: Broken) -> bool {
    let found = (1..=FOUND_WITHIN).find_map(|seed| run(seed, Some(broken)).1.err().map(|why| (seed, why)));
    if let Some((seed, why)) = &found {
        println!("{broken:?}: seed {seed}: {why}");
    }
    found.is_some()
}
