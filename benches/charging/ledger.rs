//! INVITE latency while other processes use the ledger file.

use super::{Better, CALLS_PER_SECOND, ROUND_DURATION, ROUNDS, Round, median, print_result};
use imcharge_testkit::load::Load;
use imcharge_testkit::proxy::{LARGE_MEMORY, Proxy, Setup};
use rusqlite::Connection;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Maximum ratio of the p99 to that of the undisturbed ledger.
const P99_RATIO_MAX: f64 = 2.0;

/// Use of the ledger file by another connection during a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Nothing,
    /// An open read transaction, as of a forgotten sqlite3 shell.
    Reader,
    /// Continuous online backups.
    Backup,
    /// An open write transaction.
    Lock,
}

const USES: [(Use, &str); 4] = [
    (Use::Nothing, "undisturbed"),
    (Use::Reader, "an open reader"),
    (Use::Backup, "backups"),
    (Use::Lock, "a write lock"),
];

/// Measures one proxy, in each round once under each use.
pub fn disturbed(folder: &Path) -> Result<(), Box<dyn Error>> {
    println!(
        "Ledger file in use by others, {CALLS_PER_SECOND} calls/s, {ROUNDS} rounds of {} s each, interleaved",
        ROUND_DURATION.as_secs()
    );
    let load = Load::new()?;
    let mut setup = Setup::new(folder, load.server()).parameter("default_balance", "1000000000");
    setup.arguments = LARGE_MEMORY.to_vec();
    let proxy = Proxy::start(setup)?;
    let mut rounds: [Vec<Round>; USES.len()] = Default::default();
    for _ in 0..ROUNDS {
        for ((kind, _), rounds) in USES.into_iter().zip(&mut rounds) {
            rounds.push(measure(&proxy, &load, kind)?);
        }
    }
    let median = |of: fn(&Round) -> f64, rounds: &[Round]| median(rounds.iter().map(of).collect());
    let alone = median(|round| round.p99_ms, &rounds[0]);
    for ((kind, name), rounds) in USES.into_iter().zip(&rounds) {
        let (p50, p99) = (median(|round| round.p50_ms, rounds), median(|round| round.p99_ms, rounds));
        print_result(&format!("INVITE to 200, p50: {name}"), p50, "ms", None);
        print_result(&format!("INVITE to 200, p99: {name}"), p99, "ms", None);
        if kind != Use::Nothing {
            print_result("  p99, ratio", p99 / alone, "", Some((P99_RATIO_MAX, Better::Lower)));
        }
    }
    println!();
    Ok(())
}

fn measure(proxy: &Proxy, load: &Load, kind: Use) -> Result<Round, Box<dyn Error>> {
    let ledger = proxy.state_dir().join("ledger.sqlite");
    let other = Connection::open(&ledger)?;
    let stop = AtomicBool::new(false);
    match kind {
        Use::Nothing | Use::Backup => {}
        Use::Reader => other.execute_batch("BEGIN; SELECT count(*) FROM sessions;")?,
        Use::Lock => other.execute_batch("BEGIN IMMEDIATE;")?,
    }
    let round = std::thread::scope(|scope| {
        let backups = scope.spawn(|| {
            while kind == Use::Backup && !stop.load(Ordering::Relaxed) {
                back_up(&ledger)?;
            }
            Ok::<(), rusqlite::Error>(())
        });
        let round = Round::measure(proxy, load, CALLS_PER_SECOND, ROUND_DURATION);
        stop.store(true, Ordering::Relaxed);
        backups.join().unwrap_or(Ok(())).map(|()| round)
    });
    if matches!(kind, Use::Reader | Use::Lock) {
        other.execute_batch("ROLLBACK;")?;
    }
    Ok(round?)
}

/// Copies one snapshot of the ledger, as `.backup` of sqlite3 does.
fn back_up(ledger: &Path) -> rusqlite::Result<()> {
    let copy = ledger.with_extension("copy");
    let _ = std::fs::remove_file(&copy);
    Connection::open(ledger)?.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map(drop)
}
