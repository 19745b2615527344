//! Three proxies at the same charging system: relaying only, charged by this module, and by Kamailio's own ims_charging.

use super::{
    Better, RATE, ROUNDS, Round, SPAN, highest_rate, hooks, incumbent, line, middle, of_group, without_charging,
};
use imcharge_testkit::eventually;
use imcharge_testkit::load::{Call, Load};
use imcharge_testkit::ocs::{self, Ocs};
use imcharge_testkit::proxy::{Proxy, Setup};
use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Sessions held at once, to see what one takes.
const HELD: u32 = 50_000;

/// Calls after which memory should be as it was. As many are made before the first look, so that everything has its size.
const CALLS: u32 = 100_000;

/// How often so many are made: a leak shows each time, the pieces that an allocator happens to be in do not.
const LOOKS: usize = 3;

/// Calls a second of a proxy that is not to be overloaded: what each can do is measured too.
const OURS: u32 = 1500;
const THEIRS: u32 = 500;

/// The charging system, the proxies before it and the load.
struct Scene {
    ocs: Ocs,
    load: Load,
    without: Proxy,
    ours: Proxy,
    theirs: Proxy,
    _scratch: tempfile::TempDir,
}

impl Scene {
    fn new(folder: &Path) -> Result<Scene, Box<dyn Error>> {
        let program = ocs::program()?;
        // ims_charging names itself twice and has AVPs of accounting in its requests.
        let options = ["--default-balance", "1000000000", "--origin-host", "localhost", "--lenient", "yes"];
        let ocs = Ocs::start(&program, &options);
        let scratch = tempfile::tempdir()?;
        let plain = scratch.path().join("plain.cfg");
        fs::write(&plain, without_charging()?)?;
        let load = Load::new()?;
        let fm = ["-x", "fm", "-X", "fm", "-m", "4096"];
        let setup = |config: &Path| {
            let mut setup = Setup::new(folder, load.server());
            (setup.config, setup.arguments) = (config.to_owned(), fm.to_vec());
            setup
        };
        let shipped = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/kamailio-config/kamailio/kamailio.cfg"));
        let peer = format!("\"host=localhost;address={}\"", ocs.diameter);
        let ours = setup(shipped).defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer);
        // Nothing ends a session that is held but the bench.
        let ours = Proxy::start(ours.parameter("hold_timeout", "3600"))?;
        let theirs = Proxy::start(setup(&incumbent::configuration(scratch.path(), ocs.diameter)?))?;
        let without = Proxy::start(setup(&plain))?;
        if !eventually(Duration::from_secs(20), || ocs.command("connections").len() == 2) {
            return Err(format!("not both are connected:\n{}\n{}", ours.log(), theirs.log()).into());
        }
        for (proxy, who) in [(&without, "without charging"), (&ours, "imcharge"), (&theirs, "ims_charging")] {
            // What does not charge at all would be cheap.
            let calls = load.run(proxy.sip, 50, Duration::from_secs(1));
            if !calls.iter().any(Call::is_clean) {
                return Err(format!("{who}: no call is answered\n{}", proxy.log()).into());
            }
        }
        Ok(Scene { ocs, load, without, ours, theirs, _scratch: scratch })
    }
}

/// How many requests a second the charging system answers by itself: well more than any proxy here asks.
pub fn capacity() -> Result<(), Box<dyn Error>> {
    let program = ocs::program()?;
    let ocs = Ocs::start(&program, &["--default-balance", "1000000000000"]);
    println!("The OCS of these measurements under its own load, {ROUNDS} rounds of {} s", SPAN.as_secs());
    let mut rates = Vec::new();
    for _ in 0..ROUNDS {
        let mut load = Command::new(&program);
        load.args(["--load", &ocs.diameter.to_string(), "--seconds", &SPAN.as_secs().to_string()]);
        let output = load.output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        // "N CCRs answered in S s, N with SUCCESS: N CCR/s (...)"
        let words: Vec<&str> = said.split_whitespace().collect();
        let behind = |word: &str| words.iter().position(|said| *said == word).and_then(|at| words.get(at + 1));
        let before =
            |word: &str| words.iter().position(|said| *said == word).and_then(|at| words.get(at.checked_sub(1)?));
        let (answered, granted) = (before("CCRs"), before("with"));
        let rate = behind("SUCCESS:").and_then(|rate| rate.parse().ok());
        match rate.filter(|_| answered.is_some() && answered == granted) {
            Some(rate) => rates.push(rate),
            None => return Err(format!("not all is granted: {said}{}", String::from_utf8_lossy(&output.stderr)).into()),
        }
    }
    line("CCRs answered per second", middle(rates), "", Some((50_000.0, Better::Higher)));
    println!();
    Ok(())
}

/// CPU, latency and the highest rate of all three.
pub fn compare(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    for (delay, text) in [(None, "an OCS that answers at once"), (Some("delay=20ms"), "an OCS that takes 20 ms")] {
        println!("Kamailio, -x fm -X fm, {RATE} calls/s, {ROUNDS} rounds of {} s, interleaved; {text}", SPAN.as_secs());
        scene.ocs.command("fault off");
        if let Some(delay) = delay {
            scene.ocs.command(&format!("fault {delay}"));
        }
        let mut rounds: [Vec<Round>; 3] = [Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for (proxy, rounds) in [&scene.without, &scene.ours, &scene.theirs].into_iter().zip(&mut rounds) {
                rounds.push(Round::measure(proxy, &scene.load, RATE, SPAN));
            }
        }
        let median = |of: fn(&Round) -> f64| [0, 1, 2].map(|at: usize| middle(rounds[at].iter().map(of).collect()));
        let [none, ours, theirs] = median(|round| round.cpu_micros);
        line("CPU per call without charging", none, "us", None);
        line("CPU per call, imcharge", ours, "us", None);
        line("CPU per call, ims_charging", theirs, "us", None);
        line("  added by imcharge over added by ims_charging", (ours - none) / (theirs - none), "", {
            delay.is_none().then_some((0.5, Better::Lower))
        });
        let target = |most| delay.is_some().then_some((most, Better::Lower));
        let [_, ours, theirs] = median(|round| round.p50_ms);
        line("INVITE to 200, p50, imcharge", ours, "ms", target(21.5));
        line("INVITE to 200, p50, ims_charging", theirs, "ms", None);
        let [_, ours, theirs] = median(|round| round.p99_ms);
        line("INVITE to 200, p99, imcharge", ours, "ms", target(25.0));
        line("INVITE to 200, p99, ims_charging", theirs, "ms", None);
        let failed = [1, 2].map(|at: usize| rounds[at].iter().map(|round| round.failed).sum::<usize>());
        println!("  calls failed or repeated: imcharge {}, ims_charging {}", failed[0], failed[1]);
    }
    scene.ocs.command("fault off");
    let best = [&scene.ours, &scene.theirs].map(|proxy| highest_rate(proxy, &scene.load));
    line("Calls/s without a failure or retransmission, imcharge", best[0], "", None);
    line("Calls/s without a failure or retransmission, ims_charging", best[1], "", None);
    line("  ratio", best[0] / best[1], "", Some((1.2, Better::Higher)));
    println!();
    Ok(())
}

/// How long OPTIONS takes through a proxy whose charging system is silent, under load.
pub fn silence(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    println!("OPTIONS through the proxy while the OCS is silent, {RATE} INVITEs/s, {} s", SPAN.as_secs());
    scene.ocs.command("fault lose");
    let stop = AtomicBool::new(false);
    let mut latencies = std::thread::scope(|scope| {
        let asking = scope.spawn(|| scene.load.options(scene.ours.sip, &stop));
        scene.load.run(scene.ours.sip, RATE, SPAN);
        stop.store(true, Ordering::Relaxed);
        asking.join().unwrap_or_default()
    });
    latencies.sort_by(f64::total_cmp);
    let at = |share: f64| latencies.get((latencies.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    line("OPTIONS to 200, p50", at(0.50), "ms", None);
    line("OPTIONS to 200, p99", at(0.99), "ms", Some((20.0, Better::Lower)));
    println!();
    Ok(())
}

/// What a call leaves behind.
pub fn left_behind(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    println!(
        "Memory at an OCS, -x fm -X fm, after {CALLS} calls that ended, middle of {LOOKS} (ims_charging: {}, once)",
        CALLS / 5
    );
    for (who, proxy, rate, calls) in
        [("imcharge", &scene.ours, OURS, CALLS), ("ims_charging", &scene.theirs, THEIRS, CALLS / 5)]
    {
        let own = who == "imcharge";
        let span = Duration::from_secs((calls / rate).into());
        scene.load.run(proxy.sip, rate, span);
        let mut before = Memory::at_rest(proxy);
        let (looks, mut left) = (if own { LOOKS } else { 1 }, Vec::new());
        for _ in 0..looks {
            scene.load.run(proxy.sip, rate, span);
            let now = Memory::at_rest(proxy);
            left.push(now.since(before, calls));
            before = now;
        }
        let each = |of: fn(&Memory) -> f64| middle(left.iter().map(of).collect());
        line(&format!("{who}: left by a call, memory of the host"), each(|left| left.host), "B", None);
        line(&format!("{who}: left by a call, of its own"), each(|left| left.private), "B", None);
        let target = |most| own.then_some((most, Better::Lower));
        line(&format!("{who}: left by a call"), each(|left| left.host + left.private), "B", target(0.5));
    }
    println!();
    Ok(())
}

/// What a session takes that is held, in proxies that have done nothing before: freed memory would be used again.
pub fn held(folder: &Path) -> Result<(), Box<dyn Error>> {
    let scene = Scene::new(folder)?;
    let shared = hooks::shared_octets_per_session()?;
    println!("Memory at an OCS, -x fm -X fm, of {HELD} sessions held (ims_charging: {})", HELD / 5);
    for (who, proxy, rate, wanted) in
        [("imcharge", &scene.ours, OURS, HELD), ("ims_charging", &scene.theirs, THEIRS, HELD / 5)]
    {
        let own = who == "imcharge";
        let before = Memory::at_rest(proxy);
        let held = scene.load.hold(proxy.sip, rate, wanted);
        if held < wanted as usize * 99 / 100 {
            return Err(format!("{who}: {held} of {wanted} sessions are held\n{}", proxy.log()).into());
        }
        let took = Memory::at_rest(proxy).since(before, wanted);
        let table = if own { shared as f64 } else { 0.0 };
        line(&format!("{who}: a held session, memory of the host"), took.host, "B", None);
        line(&format!("{who}: a held session, of its own"), took.private + table, "B", None);
        let target = own.then_some((1024.0, Better::Lower));
        line(&format!("{who}: a held session"), took.host + took.private + table, "B", target);
    }
    println!();
    Ok(())
}

/// Octets in use.
#[derive(Clone, Copy, PartialEq)]
struct Memory {
    /// Of the host's shared memory.
    host: f64,
    /// Private, of all processes together.
    private: f64,
}

impl Memory {
    fn now(proxy: &Proxy) -> Memory {
        let shared = proxy.rpc(&["core.shmmem"]).unwrap_or_default();
        let line = shared.lines().find_map(|line| line.trim().strip_prefix("real_used: "));
        let host = line.and_then(|octets| octets.parse().ok()).unwrap_or(f64::NAN);
        let private = of_group(proxy, "smaps_rollup").into_iter().filter_map(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
            line.trim().trim_end_matches(" kB").parse::<f64>().ok()
        });
        Memory { host, private: private.sum::<f64>() * 1024.0 }
    }

    /// When transactions and their timers are gone: as soon as nothing has changed for a while.
    fn at_rest(proxy: &Proxy) -> Memory {
        let mut last = Memory::now(proxy);
        let mut same = 0;
        for _ in 0..40 {
            std::thread::sleep(Duration::from_secs(5));
            let now = Memory::now(proxy);
            same = if (now.host - last.host).abs() < 65_536.0 { same + 1 } else { 0 };
            last = now;
            // Closed sessions of this module stay for 32 s.
            if same == 8 {
                break;
            }
        }
        last
    }

    /// For each of so many.
    fn since(self, before: Memory, count: u32) -> Memory {
        let each = |now: f64, before: f64| (now - before) / f64::from(count);
        Memory { host: each(self.host, before.host), private: each(self.private, before.private) }
    }
}
