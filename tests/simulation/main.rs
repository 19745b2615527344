//! Simulation of the whole system under a virtual clock, from one seed: workers, rings, engine, store, enabler, OCS, parties.
//!
//! `make sim` runs SEEDS seeds from SEED on: of one proxy, and of several that share a ledger; WORLD=single or WORLD=cluster
//! runs only those. A failure prints the seed to repeat. TRACE_HASH=FILE writes a line `SEED HASH` for each seed of one proxy:
//! equal files of two builds mean equal behavior.

mod call;
mod chat;
mod cluster;
mod delivery;
mod dialog;
mod diameter_session;
mod disk;
mod network;
mod page;
mod postgres;
mod records;
mod server_requests;
mod world;

use cluster::Cluster;
use imcharge::simulate::InjectedBug;
use imcharge_testkit::ocs::{accounts, rating, server_request, state};
use postgres::StoreBug;
use std::collections::BTreeMap;
use std::path::PathBuf;
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

/// Nodes of a cluster, at most.
const NODES_MAX: usize = 3;

/// Part of the time that is left to clusters, in percent.
const CLUSTERS_PERCENT: u32 = 40;

/// What a seed chooses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// One proxy.
    Single,
    /// Several proxies that share a ledger.
    Cluster,
}

/// An intended fault, which the simulation must find.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// A bug in the engine.
    InjectedBug(InjectedBug),
    /// A bug in the shared ledger.
    StoreBug(StoreBug),
    /// A disk that reports syncs without syncing, equivalent to a commit without a sync.
    LyingDisk,
}

/// Those that one proxy shows.
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

/// Those that nodes with a shared ledger show.
const CLUSTER_FAULTS: [Fault; 5] = [
    Fault::StoreBug(StoreBug::LateTicksAccepted),
    Fault::StoreBug(StoreBug::RepeatedTickUnreplicated),
    Fault::StoreBug(StoreBug::OneUpdatePerAccount),
    Fault::InjectedBug(InjectedBug::LeaseIgnored),
    Fault::InjectedBug(InjectedBug::TakeoverIgnored),
];

fn main() {
    disk::mount();
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, seeds) = (number("SEED").unwrap_or(1), number("SEEDS").unwrap_or(10_000));
    let time = number("SECONDS_MAX").map_or(Duration::MAX, Duration::from_secs);
    let (mut passed, mut failed) = (0, 0);
    let kinds: &[Kind] = match std::env::var("WORLD").as_deref() {
        Ok("single") => &[Kind::Single],
        Ok("cluster") => &[Kind::Cluster],
        _ => &[Kind::Single, Kind::Cluster],
    };
    let mut count = |fine: bool, what: &str| {
        println!("{what} ... {}", if fine { "ok" } else { "FAILED" });
        *(if fine { &mut passed } else { &mut failed }) += 1;
    };
    if number("SEED").is_none() {
        for kind in kinds {
            count(runs_are_reproducible(*kind), &format!("a seed reproduces its run ({kind:?}), and no worker waits"));
        }
        if kinds.contains(&Kind::Single) {
            count(records::survive_every_crash_point(), "each charging record is in one file, wherever the store dies");
        }
        for (fault, kind) in faults().filter(|(_, kind)| kinds.contains(kind)) {
            count(is_found(kind, fault), &format!("{fault:?} is found within {SEEDS_TO_FIND_A_BUG} seeds"));
        }
    }
    let time_of_clusters = if kinds.len() > 1 { time.saturating_mul(CLUSTERS_PERCENT) / 100 } else { time };
    let time_of_single = if kinds.len() > 1 { time.saturating_sub(time_of_clusters) } else { time };
    let mut summary = Summary::default();
    if kinds.contains(&Kind::Single) {
        summary = run_all(Kind::Single, seed, seeds, time_of_single);
    }
    if let Some(file) = std::env::var_os("TRACE_HASH") {
        let lines: String = summary.traces.iter().map(|(seed, trace)| format!("{seed} {trace:016x}\n")).collect();
        std::fs::write(&file, lines).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }
    if kinds.contains(&Kind::Single) {
        count(summary.is_fine(), "every message is debited once, and nothing else is");
    }
    if kinds.contains(&Kind::Cluster) {
        let clusters = run_all(Kind::Cluster, seed, seeds, time_of_clusters);
        count(clusters.is_fine_cluster(), &format!("the same, by all nodes of a shared ledger together: {clusters}"));
    }
    let word = if failed == 0 { "ok" } else { "FAILED" };
    println!("test result: {word}. {passed} passed; {failed} failed; {summary}");
    std::process::exit(i32::from(failed > 0));
}

/// All intended faults, and where they are found.
fn faults() -> impl Iterator<Item = (Fault, Kind)> {
    let of_clusters = CLUSTER_FAULTS.map(|fault| (fault, Kind::Cluster));
    FAULTS.map(|fault| (fault, Kind::Single)).into_iter().chain(of_clusters)
}

/// Runs a seed.
fn run(kind: Kind, seed: u64, fault: Option<Fault>, is_alone: bool) -> (Tally, Result<(), String>) {
    let state = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
    if kind == Kind::Cluster {
        let folders: Vec<PathBuf> = (0..NODES_MAX).map(|node| state.path().join(node.to_string())).collect();
        folders.iter().for_each(|folder| std::fs::create_dir(folder).expect("a folder in memory"));
        let mut cluster = Cluster::new(seed, fault, &folders);
        let result = cluster.run();
        return (cluster.tally, result);
    }
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

impl Summary {
    /// The same for clusters: failovers that lost commits, and takeovers.
    fn is_fine_cluster(&self) -> bool {
        let has_all = self.tally.failovers > 0 && self.tally.lost_commits > 0;
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

fn run_all(kind: Kind, first: u64, seeds: u64, time: Duration) -> Summary {
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
                    let (tally, result) = run(kind, seed, None, false);
                    let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
                    total.seeds += 1;
                    total.tally.add(&tally);
                    total.traces.insert(seed, tally.trace);
                    if let Err(why) = result {
                        let world = if kind == Kind::Single { "single" } else { "cluster" };
                        println!("SEED={seed} SEEDS=1 WORLD={world} make sim: {why}");
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

fn runs_are_reproducible(kind: Kind) -> bool {
    (1..=SEEDS_RUN_TWICE).all(|seed| {
        let (first, second) = (run(kind, seed, None, true), run(kind, seed, None, true));
        if first != second {
            println!("SEED={seed}: first {first:?}, then {second:?}");
        }
        first == second && first.1.is_ok()
    })
}

fn is_found(kind: Kind, fault: Fault) -> bool {
    let found =
        (1..=SEEDS_TO_FIND_A_BUG).find_map(|seed| run(kind, seed, Some(fault), false).1.err().map(|why| (seed, why)));
    if let Some((seed, why)) = &found {
        println!("{fault:?}: seed {seed}: {why}");
    }
    found.is_some()
}
