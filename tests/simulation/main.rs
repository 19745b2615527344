//! Simulation of the whole system under a virtual clock, from one seed: workers, rings, engine, store, enabler, OCS, parties.
//!
//! `make sim` runs SEEDS seeds from SEED on; a failure prints the seed to repeat. TRACE_HASH=FILE writes a line `SEED HASH`
//! for each seed: equal files of two builds mean equal behavior.

mod call;
mod chat;
mod delivery;
mod dialog;
mod diameter_session;
mod disk;
mod network;
mod page;
mod records;
mod server_requests;
mod world;

use imcharge::simulate::InjectedBug;
use imcharge_testkit::ocs::{accounts, rating, server_request, state};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use world::{Tally, World};

/// Seeds within which an injected bug must be found.
const SEEDS_TO_FIND_A_BUG: u64 = 1000;

/// Seeds that are run twice, to check that a seed reproduces its run.
const SEEDS_RUN_TWICE: u64 = 50;

/// Seeds after which every situation in [`Summary::is_fine`] must have occurred.
const SEEDS_FOR_ALL_SITUATIONS: u64 = 1000;

/// An intended fault, which the simulation must find.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A bug in the engine.
    InjectedBug(InjectedBug),
    /// A disk that reports syncs without syncing, equivalent to a commit without a sync.
    LyingDisk,
}

const FAULTS: [Fault; 19] = [
    Fault::InjectedBug(InjectedBug::PublishedBeforeCommit),
    Fault::InjectedBug(InjectedBug::AskedBeforeSync),
    Fault::InjectedBug(InjectedBug::KeyWithoutMessageId),
    Fault::InjectedBug(InjectedBug::OutboxDropped),
    Fault::InjectedBug(InjectedBug::PredecessorWatched),
    Fault::InjectedBug(InjectedBug::SenderByPathAlone),
    Fault::InjectedBug(InjectedBug::SessionIdAlone),
    Fault::InjectedBug(InjectedBug::QuantityByPosition),
    Fault::InjectedBug(InjectedBug::RestOfStoppedPasses),
    Fault::InjectedBug(InjectedBug::GrantedWithoutSlot),
    Fault::InjectedBug(InjectedBug::EndOfMessageUnreported),
    Fault::InjectedBug(InjectedBug::LegEndsSession),
    Fault::InjectedBug(InjectedBug::AnyAnswerBinds),
    Fault::InjectedBug(InjectedBug::FreeContentCharged),
    Fault::InjectedBug(InjectedBug::ReferenceIgnored),
    Fault::InjectedBug(InjectedBug::EndOfCopyCounts),
    Fault::InjectedBug(InjectedBug::CompanionOutlivesInvite),
    Fault::InjectedBug(InjectedBug::OwnFailureBelieved),
    Fault::LyingDisk,
];

fn main() {
    disk::mount();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, seeds) = (number("SEED").unwrap_or(1), number("SEEDS").unwrap_or(10_000));
    let time = number("SECONDS_MAX").map_or(Duration::MAX, Duration::from_secs);
    let (mut passed, mut failed) = (0, 0);
    let mut count = |fine: bool, what: &str| {
        println!("{what} ... {}", if fine { "ok" } else { "FAILED" });
        *(if fine { &mut passed } else { &mut failed }) += 1;
    };
    if number("SEED").is_none() {
        count(runs_are_reproducible(), "a seed reproduces its run, and no worker waits");
        count(records::survive_every_crash_point(), "each charging record is in one file, wherever the store dies");
        for fault in FAULTS {
            count(is_found(fault), &format!("{fault:?} is found within {SEEDS_TO_FIND_A_BUG} seeds"));
        }
    }
    let summary = run_all(seed, seeds, time);
    if let Some(file) = std::env::var_os("TRACE_HASH") {
        let lines: String = summary.traces.iter().map(|(seed, trace)| format!("{seed} {trace:016x}\n")).collect();
        std::fs::write(&file, lines).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    count(summary.is_fine(), "every message is debited once, and nothing else is");
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; {summary}");
    std::process::exit(i32::from(failed > 0));
}

/// Runs a seed.
fn run(seed: u64, fault: Option<Fault>, is_alone: bool) -> (Tally, Result<(), String>) {
    let state = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    let mut world = World::new(seed, fault, state.path());
    world.is_alone = is_alone;
    let result = world.run();
    (world.tally, result)
}

/// Result of all runs.
#[derive(Default)]
struct Summary {
    seeds: u64,
    tally: Tally,
    violations: u64,
    /// Hash of each run, by seed.
    traces: BTreeMap<u64, u64>,
}

impl Summary {
    /// Whether no rule was violated and, after many runs, all situations have occurred: full rings and tables, a change of
    /// peers, forged frames, stopped messages, restarted messages, and free ones; parties stopped alone, messages released by
    /// a failure, and messages charged although one was reported.
    fn is_fine(&self) -> bool {
        let Tally { rings_full, tables_full, verdicts_late, moves, .. } = self.tally;
        let Tally { forged, rests_stopped, restarted, free, stopped_alone, released, contradicted, .. } = self.tally;
        let ends = [stopped_alone, released, contradicted];
        let all = [rings_full, tables_full, verdicts_late, moves, forged, rests_stopped, restarted, free];
        let has_all = all.iter().chain(&ends).all(|n| *n > 0);
        self.violations == 0 && self.seeds > 0 && (has_all || self.seeds < SEEDS_FOR_ALL_SITUATIONS)
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Summary { seeds, tally: Tally { events, crashes, faults, debits, .. }, violations, .. } = self;
        write!(
            to,
            "{seeds} seeds, {events} events, {crashes} crashes, {faults} faults, {debits} debits, {violations} violations"
        )
    }
}

fn run_all(first: u64, seeds: u64, time: Duration) -> Summary {
    let started = Instant::now();
    let (next, total) = (AtomicU64::new(first), Mutex::new(Summary::default()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while started.elapsed() < time {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let (tally, result) = run(seed, None, false);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.seeds += 1;
                    total.tally.add(&tally);
                    total.traces.insert(seed, tally.trace);
                    if let Err(why) = result {
                        println!("SEED={seed} SEEDS=1 make sim: {why}");
                        total.violations += 1;
                    }
                }
            });
        }
    });
    let summary = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let each = |count: u64| count as f64 / started.elapsed().as_secs_f64();
    let Tally { events, crashes, faults, debits, rings_full, tables_full, verdicts_late, moves, .. } = summary.tally;
    let Tally { forged, rests_stopped, restarted, free, pages, chats, stopped_alone, released, contradicted, .. } =
        summary.tally;
    println!(
        "per second: {:.0} events, {:.1} crashes, {:.1} faults, {:.0} debits; in total: refused {rings_full} times for a full \
         ring, {tables_full} times for a full table, {verdicts_late} times for late verdicts; {moves} sessions moved to \
         another peer; {forged} forged frames and {rests_stopped} chunks of stopped messages refused; {restarted} \
         messages restarted after an abort; {free} chunks of notifications passed; {pages} SIP \
         MESSAGEs; {chats} chats, in {stopped_alone} one party was stopped alone; {released} messages released by a \
         failure and {contradicted} debited after one",
        each(events),
        each(crashes),
        each(faults),
        each(debits)
    );
    summary
}

fn runs_are_reproducible() -> bool {
    (1..=SEEDS_RUN_TWICE).all(|seed| {
        let (first, second) = (run(seed, None, true), run(seed, None, true));
        if first != second {
            println!("SEED={seed}: first {first:?}, then {second:?}");
        }
        first == second && first.1.is_ok()
    })
}

fn is_found(fault: Fault) -> bool {
    let found = (1..=SEEDS_TO_FIND_A_BUG).find_map(|seed| run(seed, Some(fault), false).1.err().map(|why| (seed, why)));
    if let Some((seed, why)) = &found {
        println!("{fault:?}: seed {seed}: {why}");
    }
    found.is_some()
}
