//! What charging costs, printed beside what there is without it. Proxies are measured interleaved in one run, medians of
//! several rounds; what misses its target is printed as such. Run by `make bench`; `--part
//! hook|engine|large-session|memory|proxies|ledger|ocs-capacity|ocs|silence|held|left-behind` measures one part only.

mod hooks;
mod incumbent;
mod ledger;
mod ocs;

use imcharge_testkit::load::{Call, Load};
use imcharge_testkit::proxy::{Proxy, Setup};
use lexopt::ValueExt;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Calls a second at which CPU and latency are measured.
const RATE: u32 = 500;

/// How long one measurement lasts.
const SPAN: Duration = Duration::from_secs(5);

/// Measurements of each proxy; the median counts.
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
            // From `cargo bench`, and from nothing else that builds and runs this program.
            lexopt::Arg::Long("bench") => measures = true,
            lexopt::Arg::Long("module") => module = parser.value()?.into(),
            lexopt::Arg::Long("part") => part = Some(parser.value()?.string()?),
            // A process of its own for each size: memory that another size has freed would be used again unseen.
            lexopt::Arg::Long("open-sessions") => return hooks::memory(parser.value()?.parse()?),
            other => return Err(other.unexpected().into()),
        }
    }
    if !measures {
        return Ok(());
    }
    let module = module.canonicalize()?;
    let folder = module.parent().ok_or("the module is in no folder")?;
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
        ocs::left_behind(folder)?;
    }
    Ok(())
}

/// Two proxies side by side: relaying only, and relaying with charging.
fn proxies(folder: &Path, name: &str, arguments: &[&'static str]) -> Result<(), Box<dyn Error>> {
    println!("Kamailio, {name}, {RATE} calls/s, {ROUNDS} rounds of {} s each, interleaved", SPAN.as_secs());
    let scratch = tempfile::tempdir()?;
    let plain = scratch.path().join("plain.cfg");
    fs::write(&plain, without_charging()?)?;
    let load = Load::new()?;
    let setup = |config: &Path| {
        let mut setup = Setup::new(folder, load.server());
        setup.config = config.to_owned();
        setup.arguments = arguments.to_vec();
        // A transaction stays for some seconds: at thousands of calls a second they must not run out of memory.
        setup.arguments.extend(["-m", "4096"]);
        setup
    };
    let charging = setup(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/kamailio-config/kamailio/kamailio.cfg")));
    let charging = charging.parameter("default_balance", "1000000000");
    let (without, with) = (Proxy::start(setup(&plain))?, Proxy::start(charging)?);
    let mut rounds: [Vec<Round>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        for (proxy, rounds) in [&without, &with].into_iter().zip(&mut rounds) {
            rounds.push(Round::measure(proxy, &load, RATE, SPAN));
        }
    }
    let [without_rounds, with_rounds] = rounds;
    let median = |of: fn(&Round) -> f64, rounds: &[Round]| middle(rounds.iter().map(of).collect());
    let cpu = [median(|r| r.cpu_micros, &without_rounds), median(|r| r.cpu_micros, &with_rounds)];
    line("CPU per call without charging", cpu[0], "us", None);
    line("CPU per call with charging", cpu[1], "us", None);
    let target = arguments.len() > 1;
    line("  ratio", cpu[1] / cpu[0], "", target.then_some((1.45, Better::Lower)));
    for (quantile, of, most) in
        [("p50", (|r| r.p50_ms) as fn(&Round) -> f64, 1.0), ("p99", (|r| r.p99_ms) as fn(&Round) -> f64, 5.0)]
    {
        let (a, b) = (median(of, &without_rounds), median(of, &with_rounds));
        line(&format!("INVITE to 200, {quantile}: without"), a, "ms", None);
        line(&format!("INVITE to 200, {quantile}: with the durable commit"), b, "ms", None);
        line("  added", b - a, "ms", target.then_some((most, Better::Lower)));
    }
    let failed: usize = with_rounds.iter().chain(&without_rounds).map(|round| round.failed).sum();
    println!("  calls failed or repeated in all rounds: {failed}");
    if target {
        let best = [&without, &with].map(|proxy| highest_rate(proxy, &load));
        line("Calls/s without a failure or retransmission, without charging", best[0], "", None);
        line("Calls/s without a failure or retransmission, with charging", best[1], "", None);
        line("  ratio", best[1] / best[0], "", Some((0.80, Better::Higher)));
    }
    println!();
    Ok(())
}

/// One measurement of one proxy.
struct Round {
    cpu_micros: f64,
    p50_ms: f64,
    p99_ms: f64,
    failed: usize,
}

impl Round {
    fn measure(proxy: &Proxy, load: &Load, rate: u32, span: Duration) -> Round {
        // What it costs to stand still is not what a call costs.
        let idle_for = Duration::from_secs(1);
        let before = cpu_nanos(proxy);
        std::thread::sleep(idle_for);
        let idle = (cpu_nanos(proxy) - before) as f64 / idle_for.as_nanos() as f64;
        let (before, started) = (cpu_nanos(proxy), Instant::now());
        let calls = load.run(proxy.sip, rate, span);
        let spent = (cpu_nanos(proxy) - before) as f64 - idle * started.elapsed().as_nanos() as f64;
        let mut latencies: Vec<f64> = calls.iter().filter_map(Call::answered_ms).collect();
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
        Round {
            cpu_micros: spent / 1000.0 / calls.len() as f64,
            p50_ms: at(0.50),
            p99_ms: at(0.99),
            failed: calls.iter().filter(|call| !call.is_clean()).count(),
        }
    }
}

/// The highest rate without a failure, from below by steps of a tenth: an overload leaves work behind that would spoil
/// the next measurement.
fn highest_rate(proxy: &Proxy, load: &Load) -> f64 {
    let mut good = f64::from(RATE);
    loop {
        let rate = good * 1.1;
        let clean = || load.run(proxy.sip, rate as u32, Duration::from_secs(2)).iter().all(Call::is_clean);
        // Noise of the machine must not decide: one clean run of three is enough.
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

/// The shipped configuration without charging: the same relay.
fn without_charging() -> std::io::Result<String> {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/kamailio-config/kamailio/kamailio.cfg"))?;
    let routing = text.split("# The enabler has answered").next().unwrap_or_default();
    let kept: Vec<&str> = routing
        .lines()
        .map(|line| if line.contains("imcharge_reserve(") { "    $du = IM_SERVER; t_relay(); exit;" } else { line })
        .filter(|line| !line.contains("\"imcharge") && !line.contains("no charging for"))
        .collect();
    Ok(kept.join("\n") + "\n")
}

/// CPU time of every process of a proxy.
fn cpu_nanos(proxy: &Proxy) -> u64 {
    let texts = of_group(proxy, "schedstat");
    texts.iter().filter_map(|text| text.split_whitespace().next()?.parse::<u64>().ok()).sum()
}

/// A file of /proc of every process of a proxy.
fn of_group(proxy: &Proxy, file: &str) -> Vec<String> {
    let group = proxy.pid().to_string();
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let of_group = processes.flatten().filter(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2)) == Some(&group)
    });
    of_group.filter_map(|entry| fs::read_to_string(entry.path().join(file)).ok()).collect()
}

fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("model name"));
    line.map_or("unknown CPU".into(), |name| name.trim_start_matches([' ', '\t', ':']).to_owned())
}

/// The median.
pub fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Which side of a target is the good one.
#[derive(Clone, Copy)]
pub enum Better {
    /// At most.
    Lower,
    /// At least.
    Higher,
}

/// Prints a figure, and whether it meets its target.
pub fn line(what: &str, value: f64, unit: &str, target: Option<(f64, Better)>) {
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
