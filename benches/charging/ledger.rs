//! INVITE latency while other processes use the ledger file, beside the same without them, interleaved.

use super::{Better, RATE, ROUNDS, Round, SPAN, line, middle};
use imcharge_testkit::load::Load;
use imcharge_testkit::proxy::{Proxy, Setup};
use rusqlite::Connection;
use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// At most so many times the p99 without it.
const RATIO_MAX: f64 = 2.0;

/// What somebody does with the ledger file during a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Nothing,
    /// An open read transaction, as of a pager that nobody scrolls.
    Reader,
    /// One online backup after the other.
    Backup,
    /// An open write transaction.
    Lock,
}

const USES: [(Use, &str); 4] =
    [(Use::Nothing, "nobody"), (Use::Reader, "an open reader"), (Use::Backup, "backups"), (Use::Lock, "a write lock")];

/// One proxy; in each round, one measurement under each use.
pub fn disturbed(folder: &Path) -> Result<(), Box<dyn Error>> {
    println!("Ledger file in use by others, {RATE} calls/s, {ROUNDS} rounds of {} s each, interleaved", SPAN.as_secs());
    let load = Load::new()?;
    let mut setup = Setup::new(folder, load.server()).parameter("default_balance", "1000000000");
    setup.arguments = vec!["-x", "fm", "-X", "fm", "-m", "4096"];
    let proxy = Proxy::start(setup)?;
    let mut rounds: [Vec<Round>; USES.len()] = Default::default();
    for _ in 0..ROUNDS {
        for ((kind, _), rounds) in USES.into_iter().zip(&mut rounds) {
            rounds.push(measure(&proxy, &load, kind)?);
        }
    }
    let quantile = |of: fn(&Round) -> f64, rounds: &[Round]| middle(rounds.iter().map(of).collect());
    let alone = quantile(|round| round.p99_ms, &rounds[0]);
    for ((kind, name), rounds) in USES.into_iter().zip(&rounds) {
        let (p50, p99) = (quantile(|round| round.p50_ms, rounds), quantile(|round| round.p99_ms, rounds));
        line(&format!("INVITE to 200, p50: {name}"), p50, "ms", None);
        line(&format!("INVITE to 200, p99: {name}"), p99, "ms", None);
        if kind != Use::Nothing {
            line("  p99, ratio", p99 / alone, "", Some((RATIO_MAX, Better::Lower)));
        }
    }
    println!();
    Ok(())
}

fn measure(proxy: &Proxy, load: &Load, kind: Use) -> Result<Round, Box<dyn Error>> {
    let ledger = proxy.state_dir().join("ledger.sqlite");
    let other = Connection::open(&ledger)?;
    let over = AtomicBool::new(false);
    match kind {
        Use::Nothing | Use::Backup => {}
        Use::Reader => other.execute_batch("BEGIN; SELECT count(*) FROM sessions;")?,
        Use::Lock => other.execute_batch("BEGIN IMMEDIATE;")?,
    }
    let round = std::thread::scope(|scope| {
        let backups = scope.spawn(|| {
            while kind == Use::Backup && !over.load(Ordering::Relaxed) {
                back_up(&ledger)?;
            }
            Ok::<(), rusqlite::Error>(())
        });
        let round = Round::measure(proxy, load, RATE, SPAN);
        over.store(true, Ordering::Relaxed);
        backups.join().unwrap_or(Ok(())).map(|()| round)
    });
    if matches!(kind, Use::Reader | Use::Lock) {
        other.execute_batch("ROLLBACK;")?;
    }
    Ok(round?)
}

/// What `.backup` of sqlite3 does: a copy of one snapshot.
fn back_up(ledger: &Path) -> rusqlite::Result<()> {
    let copy = ledger.with_extension("copy");
    let _ = std::fs::remove_file(&copy);
    Connection::open(ledger)?.execute("VACUUM INTO ?1", [copy.to_string_lossy()]).map(drop)
}
