//! Measures what charging costs: CPU, latency and memory, compared with a proxy that does not charge. Proxies are measured
//! in turn, and medians of several rounds are printed with their targets. Run by `make bench`; `--part
//! hook|engine|large-session|memory|proxies|message|ledger|ocs-capacity|ocs|silence|held|left-behind` measures one part only.

mod comparison;
mod hooks;
mod incumbent;
mod ledger;
mod message;
mod ocs;

use comparison::Comparison;
use imcharge_testkit::load::{Call, Load};
use imcharge_testkit::proxy::Proxy;
use lexopt::ValueExt;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Rate of the CPU and latency measurements, in calls per second.
const CALLS_PER_SECOND: u32 = 500;

/// Duration of one measurement.
const ROUND_DURATION: Duration = Duration::from_secs(5);

/// Measurements of each proxy; their median is the result.
const ROUNDS: usize = 5;

fn main() {
    if let Err(error) = run() {
        eprintln!("bench: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let mut module = PathBuf::from("out/imcharge.so");
    let (mut part, mut measures) = (None, false);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            // Passed by `cargo bench` only: `cargo test --all-targets` runs this program too.
            lexopt::Arg::Long("bench") => measures = true,
            lexopt::Arg::Long("module") => module = parser.value()?.into(),
            lexopt::Arg::Long("part") => part = Some(parser.value()?.string()?),
            // Each size is measured in a separate process, because memory freed by another size would be reused.
            lexopt::Arg::Long("open-sessions") => return hooks::memory(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if !measures {
        return Ok(());
    }
    let module = module.canonicalize()?;
    let folder = module.parent().ok_or("--module has no parent folder")?;
    println!("Machine: {}, {} cores\n", cpu_name(), std::thread::available_parallelism()?);
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("hook") {
        hooks::hook()?;
    }
    if wanted("engine") {
        hooks::sessions_per_second()?;
    }
    if wanted("large-session") {
        hooks::large_session()?;
    }
    if wanted("memory") {
        hooks::memory_of_each_size()?;
    }
    if wanted("proxies") {
        for (name, arguments) in [("-x fm -X fm", vec!["-x", "fm", "-X", "fm"]), ("default allocator (qm)", vec![])] {
            proxies(folder, name, &arguments)?;
        }
    }
    if wanted("message") {
        message::compare(folder)?;
    }
    if wanted("ledger") {
        ledger::disturbed(folder)?;
    }
    if wanted("ocs-capacity") {
        ocs::capacity()?;
    }
    if wanted("ocs") {
        ocs::compare(folder)?;
    }
    if wanted("silence") {
        ocs::silence(folder)?;
    }
    if wanted("held") {
        ocs::held(folder)?;
    }
    if wanted("left-behind") {
        ocs::unsettled(folder)?;
    }
    Ok(())
}

/// Compares a proxy that only relays with one that charges.
fn proxies(folder: &Path, name: &str, arguments: &[&'static str]) -> Result<(), Box<dyn Error>> {
    println!(
        "Kamailio, {name}, {CALLS_PER_SECOND} calls/s, {ROUNDS} rounds of {} s each, interleaved",
        ROUND_DURATION.as_secs()
    );
    // Transactions live for some seconds; at thousands of calls per second they need the memory.
    let memory = [arguments, &["-m", "4096"]].concat();
    let comparison = Comparison::new(folder, &memory)?;
    let load = &comparison.load;
    let charging = comparison.charging().parameter("default_balance", "1000000000");
    let (without, with) = (Proxy::start(comparison.relaying())?, Proxy::start(charging)?);
    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (proxy, rounds) in [&without, &with].into_iter().zip(&mut rounds) {
            rounds.push(Round::measure(proxy, load, CALLS_PER_SECOND, ROUND_DURATION));
        }
    }
    let [without_rounds, with_rounds] = rounds;
    let median = |of: fn(&Round) -> f64, rounds: &[Round]| median(rounds.iter().map(of).collect());
    let cpu = [median(|r| r.cpu_micros, &without_rounds), median(|r| r.cpu_micros, &with_rounds)];
    print_result("CPU per call without charging", cpu[0], "us", None);
    print_result("CPU per call with charging", cpu[1], "us", None);
    let target = arguments.len() > 1;
    print_result("  ratio", cpu[1] / cpu[0], "", target.then_some((1.45, Better::Lower)));
    for (quantile, of, most) in
        [("p50", (|r| r.p50_ms) as fn(&Round) -> f64, 1.0), ("p99", (|r| r.p99_ms) as fn(&Round) -> f64, 5.0)]
    {
        let (a, b) = (median(of, &without_rounds), median(of, &with_rounds));
        print_result(&format!("INVITE to 200, {quantile}: without"), a, "ms", None);
        print_result(&format!("INVITE to 200, {quantile}: with the durable commit"), b, "ms", None);
        print_result("  added", b - a, "ms", target.then_some((most, Better::Lower)));
    }
    let failed: usize = with_rounds.iter().chain(&without_rounds).map(|round| round.failed).sum();
    println!("  calls failed or retransmitted in all rounds: {failed}");
    if target {
        let best = [&without, &with].map(|proxy| highest_rate(proxy, load));
        print_result("Calls/s without a failure or retransmission, without charging", best[0], "", None);
        print_result("Calls/s without a failure or retransmission, with charging", best[1], "", None);
        print_result("  ratio", best[1] / best[0], "", Some((0.80, Better::Higher)));
    }
    println!();
    Ok(())
}

/// Result of one measurement.
struct Round {
    cpu_micros: f64,
    p50_ms: f64,
    p99_ms: f64,
    failed: usize,
}

impl Round {
    fn measure(proxy: &Proxy, load: &Load, rate: u32, span: Duration) -> Round {
        // The CPU time of an idle proxy is subtracted.
        let idle_for = Duration::from_secs(1);
        let before = proxy.cpu_nanos();
        std::thread::sleep(idle_for);
        let idle = (proxy.cpu_nanos() - before) as f64 / idle_for.as_nanos() as f64;
        let (before, started) = (proxy.cpu_nanos(), Instant::now());
        let calls = load.run(proxy.sip, rate, span);
        let spent = (proxy.cpu_nanos() - before) as f64 - idle * started.elapsed().as_nanos() as f64;
        let latencies: Vec<f64> = calls.iter().filter_map(Call::answered_ms).collect();
        let [p50_ms, p99_ms] = quantiles(latencies, [0.50, 0.99]);
        Round {
            cpu_micros: spent / 1000.0 / calls.len() as f64,
            p50_ms,
            p99_ms,
            failed: calls.iter().filter(|call| !call.is_clean()).count(),
        }
    }
}

/// Returns the highest rate without a failure, raised by 10 % per step. It approaches from below because an overload
/// would disturb the next measurement.
fn highest_rate(proxy: &Proxy, load: &Load) -> f64 {
    let mut good = f64::from(CALLS_PER_SECOND);
    loop {
        let rate = good * 1.1;
        let clean = || load.run(proxy.sip, rate as u32, Duration::from_secs(2)).iter().all(Call::is_clean);
        // One clean run of three is enough, so that noise of the machine does not decide.
        let rest = || std::thread::sleep(Duration::from_secs(6));
        if !clean()
            && !(0..2).any(|_| {
                rest();
                clean()
            })
        {
            return good;
        }
        good = rate;
    }
}

fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown CPU".into(), |name| name.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// Returns the median.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Returns the values at these shares of the sorted samples.
pub fn quantiles<const N: usize>(mut samples: Vec<f64>, shares: [f64; N]) -> [f64; N] {
    samples.sort_by(f64::total_cmp);
    shares.map(|share| samples.get((samples.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN))
}

/// Direction of a target.
#[derive(Clone, Copy)]
pub enum Better {
    /// The target is a maximum.
    Lower,
    /// The target is a minimum.
    Higher,
}

/// Prints a result and whether it meets its target.
pub fn print_result(what: &str, value: f64, unit: &str, target: Option<(f64, Better)>) {
    let verdict = match target {
        None => String::new(),
        Some((target, better)) => {
            let (met, word) = match better {
                Better::Lower => (value <= target, "at most"),
                Better::Higher => (value >= target, "at least"),
            };
            format!("   target {word} {target} {unit}: {}", if met { "met" } else { "MISSED" })
        }
    };
    println!("  {what:64} {value:12.2} {unit:4}{verdict}");
}
