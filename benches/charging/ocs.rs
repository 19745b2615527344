//! Three proxies at the same OCS: one that only relays, one charged by imcharge, one by Kamailio's ims_charging.

use super::comparison::Comparison;
use super::{
    Better, CALLS_PER_SECOND, ROUND_DURATION, ROUNDS, Round, highest_rate, hooks, incumbent, median, print_result,
    quantiles,
};
use imcharge_testkit::eventually;
use imcharge_testkit::load::Call;
use imcharge_testkit::ocs::{self, Ocs};
use imcharge_testkit::proxy::{LARGE_MEMORY, Proxy};
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Sessions held at once to measure the memory of one.
const HELD_SESSIONS: u32 = 50_000;

/// Calls between two measurements of the memory that calls leave. As many warm up before the first one.
const CALLS: u32 = 100_000;

/// Measurements of the memory that calls leave: a leak shows in each, the state of an allocator does not.
const LEAK_ROUNDS: usize = 3;

/// Rates that do not overload the proxies, in calls per second.
const IMCHARGE_RATE: u32 = 1500;
const INCUMBENT_RATE: u32 = 500;

/// The OCS, the proxies and the load generator.
struct Scene {
    ocs: Ocs,
    comparison: Comparison,
    without: Proxy,
    imcharge: Proxy,
    incumbent: Proxy,
}

impl Scene {
    fn new(folder: &Path) -> Result<Scene, Box<dyn Error>> {
        let program = ocs::program()?;
        // Lenient: ims_charging repeats its names and puts accounting AVPs into its requests.
        let options = ["--default-balance", "1000000000", "--origin-host", "localhost", "--lenient", "yes"];
        let ocs = Ocs::start(&program, &options);
        let comparison = Comparison::new(folder, &LARGE_MEMORY)?;
        let peer = format!("\"host=localhost;address={}\"", ocs.diameter);
        let imcharge = comparison.charging().defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer);
        // Held sessions end with the benchmark, not by a timer.
        let imcharge = Proxy::start(imcharge.parameter("hold_timeout", "3600"))?;
        let incumbent = Proxy::start(comparison.setup(incumbent::configuration(comparison.scratch(), ocs.diameter)?))?;
        let without = Proxy::start(comparison.relaying())?;
        if !eventually(Duration::from_secs(20), || ocs.command("connections").len() == 2) {
            return Err(format!(
                "not both proxies have connected to the OCS:\n{}\n{}",
                imcharge.log(),
                incumbent.log()
            )
            .into());
        }
        for (proxy, who) in [(&without, "without charging"), (&imcharge, "imcharge"), (&incumbent, "ims_charging")] {
            // A proxy that fails every call would look cheap.
            let calls = comparison.load.run(proxy.sip, 50, Duration::from_secs(1));
            if !calls.iter().any(Call::is_clean) {
                return Err(format!("{who}: no call was answered\n{}", proxy.log()).into());
            }
        }
        Ok(Scene { ocs, comparison, without, imcharge, incumbent })
    }
}

/// Measures the capacity of the OCS simulator, which must exceed what any proxy here sends.
pub fn capacity() -> Result<(), Box<dyn Error>> {
    let program = ocs::program()?;
    let ocs = Ocs::start(&program, &["--default-balance", "1000000000000"]);
    println!("The OCS simulator alone, {ROUNDS} rounds of {} s", ROUND_DURATION.as_secs());
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let mut load = Command::new(&program);
        load.args(["--load", &ocs.diameter.to_string(), "--seconds", &ROUND_DURATION.as_secs().to_string()]);
        let output = load.output()?;
        let printed = String::from_utf8_lossy(&output.stdout);
        // "N CCRs answered in S s, N with SUCCESS: N CCR/s (...)"
        let words: Vec<&str> = printed.split_whitespace().collect();
        let position = |word: &str| words.iter().position(|known| *known == word);
        let before = |word: &str| words.get(position(word)?.checked_sub(1)?);
        let (answered, granted) = (before("CCRs"), before("with"));
        let rate = position("SUCCESS:").and_then(|at| words.get(at + 1)).and_then(|rate| rate.parse().ok());
        match rate.filter(|_| answered.is_some() && answered == granted) {
            Some(rate) => rates.push(rate),
            None => {
                return Err(format!(
                    "not all requests were granted: {printed}{}",
                    String::from_utf8_lossy(&output.stderr)
                )
                .into());
            }
        }
    }
    print_result("CCRs answered per second", median(rates), "", Some((50_000.0, Better::Higher)));
    println!();
    Ok(())
}

/// Compares CPU, latency and highest rate.
pub fn compare(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    for (delay, text) in [(None, "the OCS answers at once"), (Some("delay=20ms"), "the OCS takes 20 ms")] {
        println!(
            "Kamailio, -x fm -X fm, {CALLS_PER_SECOND} calls/s, {ROUNDS} rounds of {} s, interleaved; {text}",
            ROUND_DURATION.as_secs()
        );
        scene.ocs.command("fault off");
        if let Some(delay) = delay {
            scene.ocs.command(&format!("fault {delay}"));
        }
        let mut rounds: [Vec<Round>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (proxy, rounds) in [&scene.without, &scene.imcharge, &scene.incumbent].into_iter().zip(&mut rounds) {
                rounds.push(Round::measure(proxy, &scene.comparison.load, CALLS_PER_SECOND, ROUND_DURATION));
            }
        }
        let median = |of: fn(&Round) -> f64| [0, 1, 2].map(|at: usize| median(rounds[at].iter().map(of).collect()));
        let [without, imcharge, incumbent] = median(|round| round.cpu_micros);
        print_result("CPU per call without charging", without, "us", None);
        print_result("CPU per call, imcharge", imcharge, "us", None);
        print_result("CPU per call, ims_charging", incumbent, "us", None);
        print_result(
            "  added by imcharge over added by ims_charging",
            (imcharge - without) / (incumbent - without),
            "",
            delay.is_none().then_some((0.5, Better::Lower)),
        );
        let target = |most| delay.is_some().then_some((most, Better::Lower));
        let [_, imcharge, incumbent] = median(|round| round.p50_ms);
        print_result("INVITE to 200, p50, imcharge", imcharge, "ms", target(21.5));
        print_result("INVITE to 200, p50, ims_charging", incumbent, "ms", None);
        let [_, imcharge, incumbent] = median(|round| round.p99_ms);
        print_result("INVITE to 200, p99, imcharge", imcharge, "ms", target(25.0));
        print_result("INVITE to 200, p99, ims_charging", incumbent, "ms", None);
        let failed = [1, 2].map(|at: usize| rounds[at].iter().map(|round| round.failed).sum::<usize>());
        println!("  calls failed or retransmitted: imcharge {}, ims_charging {}", failed[0], failed[1]);
    }
    scene.ocs.command("fault off");
    let best = [&scene.imcharge, &scene.incumbent].map(|proxy| highest_rate(proxy, &scene.comparison.load));
    print_result("Calls/s without a failure or retransmission, imcharge", best[0], "", None);
    print_result("Calls/s without a failure or retransmission, ims_charging", best[1], "", None);
    print_result("  ratio", best[0] / best[1], "", Some((1.2, Better::Higher)));
    println!();
    Ok(())
}

/// Measures OPTIONS through a loaded proxy whose OCS does not answer.
pub fn silence(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    println!(
        "OPTIONS through the proxy while the OCS is silent, {CALLS_PER_SECOND} INVITEs/s, {} s",
        ROUND_DURATION.as_secs()
    );
    scene.ocs.command("fault lose");
    let stop = AtomicBool::new(false);
    let latencies = std::thread::scope(|scope| {
        let options = scope.spawn(|| scene.comparison.load.options(scene.imcharge.sip, &stop));
        scene.comparison.load.run(scene.imcharge.sip, CALLS_PER_SECOND, ROUND_DURATION);
        stop.store(true, Ordering::Relaxed);
        options.join().unwrap_or_default()
    });
    let [p50, p99] = quantiles(latencies, [0.50, 0.99]);
    print_result("OPTIONS to 200, p50", p50, "ms", None);
    print_result("OPTIONS to 200, p99", p99, "ms", Some((20.0, Better::Lower)));
    println!();
    Ok(())
}

/// Measures the memory that ended calls leave.
pub fn unsettled(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    println!(
        "Memory at an OCS, -x fm -X fm, after {CALLS} ended calls, median of {LEAK_ROUNDS} (ims_charging: {}, once)",
        CALLS / 5
    );
    for (who, proxy, rate, calls) in [
        ("imcharge", &scene.imcharge, IMCHARGE_RATE, CALLS),
        ("ims_charging", &scene.incumbent, INCUMBENT_RATE, CALLS / 5),
    ] {
        let is_ours = who == "imcharge";
        let span = Duration::from_secs((calls / rate).into());
        scene.comparison.load.run(proxy.sip, rate, span);
        let mut before = Memory::at_rest(proxy);
        let (measurements, mut left) = (if is_ours { LEAK_ROUNDS } else { 1 }, Vec::new());
        for _ in 0..measurements {
            scene.comparison.load.run(proxy.sip, rate, span);
            let now = Memory::at_rest(proxy);
            left.push(now.since(before, calls));
            before = now;
        }
        let each = |of: fn(&Memory) -> f64| median(left.iter().map(of).collect());
        print_result(&format!("{who}: left by a call, shared memory of the host"), each(|left| left.host), "B", None);
        print_result(&format!("{who}: left by a call, private memory"), each(|left| left.private), "B", None);
        let target = |most| is_ours.then_some((most, Better::Lower));
        print_result(&format!("{who}: left by a call"), each(|left| left.host + left.private), "B", target(0.5));
    }
    println!();
    Ok(())
}

/// Measures the memory of an open session, in fresh proxies, because freed memory would be reused.
pub fn held(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    let shared = hooks::shared_octets_per_session()?;
    println!("Memory at an OCS, -x fm -X fm, of {HELD_SESSIONS} open sessions (ims_charging: {})", HELD_SESSIONS / 5);
    for (who, proxy, rate, wanted) in [
        ("imcharge", &scene.imcharge, IMCHARGE_RATE, HELD_SESSIONS),
        ("ims_charging", &scene.incumbent, INCUMBENT_RATE, HELD_SESSIONS / 5),
    ] {
        let is_ours = who == "imcharge";
        let before = Memory::at_rest(proxy);
        let held = scene.comparison.load.hold(proxy.sip, rate, wanted);
        if held < wanted as usize * 99 / 100 {
            return Err(format!("{who}: {held} of {wanted} sessions are open\n{}", proxy.log()).into());
        }
        let took = Memory::at_rest(proxy).since(before, wanted);
        let table = if is_ours { shared as f64 } else { 0.0 };
        print_result(&format!("{who}: an open session, shared memory of the host"), took.host, "B", None);
        print_result(&format!("{who}: an open session, private memory"), took.private + table, "B", None);
        let target = is_ours.then_some((1024.0, Better::Lower));
        print_result(&format!("{who}: an open session"), took.host + took.private + table, "B", target);
    }
    println!();
    Ok(())
}

/// Memory in use, in octets.
#[derive(Clone, Copy, PartialEq)]
struct Memory {
    /// Shared memory of the host.
    host: f64,
    /// Private memory of all processes.
    private: f64,
}

impl Memory {
    fn now(proxy: &Proxy) -> Memory {
        let host = proxy.shared_octets().map_or(f64::NAN, |octets| octets as f64);
        Memory { host, private: proxy.private_octets() as f64 }
    }

    /// Waits until the host's memory has not changed for 40 s, because transactions and timers outlive calls and the
    /// module keeps closed sessions for 32 s.
    fn at_rest(proxy: &Proxy) -> Memory {
        let mut last = Memory::now(proxy);
        let mut unchanged = 0;
        for _ in 0..40 {
            std::thread::sleep(Duration::from_secs(5));
            let now = Memory::now(proxy);
            unchanged = if (now.host - last.host).abs() < 65_536.0 { unchanged + 1 } else { 0 };
            last = now;
            if unchanged == 8 {
                break;
            }
        }
        last
    }

    /// Returns the difference per call.
    fn since(self, before: Memory, count: u32) -> Memory {
        let each = |now: f64, before: f64| (now - before) / f64::from(count);
        Memory { host: each(self.host, before.host), private: each(self.private, before.private) }
    }
}
