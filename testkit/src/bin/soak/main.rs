//! Soak test: many sessions through one proxy, and a check that no memory, descriptors, records, table slots or
//! holds are left. `--sessions` sets the number of sessions without messages on the ledger, `--rate` their rate per second,
//! `--retrievals` the number of retrievals with messages at the OCS simulator; 0 skips that part. Run by `make soak`.

mod retrievals;

use imcharge::shm::region::Usage;
use imcharge_testkit::load::Load;
use imcharge_testkit::proxy::{LARGE_MEMORY, Proxy, Setup};
use lexopt::ValueExt;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Default rate, in calls per second: about a third of the capacity of a machine with two cores.
const CALLS_PER_SECOND: u32 = 1500;

/// Default number of retrievals; as many warm up before them.
const RETRIEVALS: u32 = 20_000;

/// Minimum warm-up, in seconds: closed sessions are kept for 32 s.
const WARM_UP_SECONDS: u32 = 40;

/// Tolerated growth of memory, in octets: allocators return it in pieces.
const GROWTH_OCTETS_MAX: i64 = 2 << 20;

fn main() {
    let (mut passed, mut failed) = (0, 0);
    let mut count = |result: Result<(), Box<dyn Error>>| match result {
        Ok(()) => passed += 1,
        Err(error) => {
            println!("soak: {error}");
            failed += 1;
        }
    };
    match Arguments::parse() {
        Ok(arguments) => {
            if arguments.sessions > 0 {
                count(soak(&arguments));
            }
            if arguments.retrievals > 0 {
                count(retrievals::soak(&arguments.folder, arguments.retrievals));
            }
        }
        Err(error) => count(Err(error)),
    }
    println!("test result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    std::process::exit(failed);
}

/// Command line.
struct Arguments {
    /// Folder of the module.
    folder: PathBuf,
    sessions: u32,
    rate: u32,
    retrievals: u32,
}

impl Arguments {
    fn parse() -> Result<Arguments, Box<dyn Error>> {
        let mut module = PathBuf::from("out/imcharge.so");
        let (mut sessions, mut rate, mut retrievals) = (1_000_000, CALLS_PER_SECOND, RETRIEVALS);
        let mut parser = lexopt::Parser::from_env();
        while let Some(argument) = parser.next()? {
            match argument {
                lexopt::Arg::Long("module") => module = parser.value()?.into(),
                lexopt::Arg::Long("sessions") => sessions = parser.value()?.parse()?,
                lexopt::Arg::Long("rate") => rate = parser.value()?.parse()?,
                lexopt::Arg::Long("retrievals") => retrievals = parser.value()?.parse()?,
                other => return Err(other.unexpected().into()),
            }
        }
        let module = module.canonicalize()?;
        let folder = module.parent().map(Path::to_owned).ok_or("--module has no parent folder")?;
        Ok(Arguments { folder, sessions, rate, retrievals })
    }
}

/// Runs sessions without messages on the ledger.
fn soak(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let Arguments { sessions, rate, .. } = *arguments;
    let load = Load::new()?;
    let mut setup = Setup::new(&arguments.folder, load.server());
    setup.arguments = LARGE_MEMORY.to_vec();
    let proxy = Proxy::start(setup.parameter("default_balance", "1000000000"))?;
    let first = (sessions / 5).max(rate * WARM_UP_SECONDS).min(sessions);
    let mut cut = call(&load, &proxy, first, rate)?;
    let before = State::at_rest(&proxy)?;
    println!("after {first} sessions: {before:?}");
    cut += call(&load, &proxy, sessions, rate)?;
    let after = State::at_rest(&proxy)?;
    println!("after {sessions} more:  {after:?}; {cut} calls had no answer to their BYE");
    after.compare(&before, cut)
}

/// Makes this many calls. Returns how many got no answer to their BYE.
fn call(load: &Load, proxy: &Proxy, sessions: u32, rate: u32) -> Result<usize, Box<dyn Error>> {
    let (mut left, mut cut) = (sessions, 0);
    while left > 0 {
        let part = left.min(rate * 20);
        let span = Duration::from_secs_f64(f64::from(part) / f64::from(rate));
        let calls = load.run(proxy.sip, rate, span);
        let answered = calls.iter().filter(|call| call.answered_ms().is_some()).count();
        // A busy machine may lose a few datagrams.
        if answered * 100 < calls.len() * 98 {
            return Err(format!("{answered} of {} calls were answered\n{}", calls.len(), proxy.log()).into());
        }
        cut += calls.iter().filter(|call| !call.has_ended()).count();
        left -= part;
    }
    Ok(cut)
}

/// Resources that a proxy holds.
#[derive(Debug)]
struct State {
    host_memory: i64,
    private_memory: i64,
    descriptors: usize,
    open_sessions: i64,
    holds: i64,
    region: Usage,
}

impl State {
    /// Waits until no session has been open and the host's memory has not changed for 40 s.
    fn at_rest(proxy: &Proxy) -> Result<State, Box<dyn Error>> {
        let (mut last, mut unchanged) = (State::now(proxy), 0);
        for _ in 0..60 {
            std::thread::sleep(Duration::from_secs(5));
            let now = State::now(proxy);
            let is_at_rest = now.open_sessions == 0 && (now.host_memory - last.host_memory).abs() < 65_536;
            unchanged = if is_at_rest { unchanged + 1 } else { 0 };
            last = now;
            if unchanged == 8 {
                return Ok(last);
            }
        }
        Err(format!("the proxy has not come to rest: {last:?}\n{}", proxy.log()).into())
    }

    fn now(proxy: &Proxy) -> State {
        let open = |process: &PathBuf| fs::read_dir(process.join("fd")).map_or(0, Iterator::count);
        State {
            host_memory: proxy.shared_octets().unwrap_or(-1),
            private_memory: proxy.private_octets(),
            descriptors: proxy.processes().iter().map(open).sum(),
            open_sessions: proxy.statistic("sessions_active"),
            holds: proxy.count("SELECT count(*) FROM holds"),
            region: usage(proxy),
        }
    }

    /// Checks that nothing has grown. `cut` is the number of calls whose BYE may be lost: each keeps a slot of the gate
    /// with three entries for an hour.
    fn compare(&self, before: &State, cut: usize) -> Result<(), Box<dyn Error>> {
        let Usage { ring_octets, slots, entries } = self.region;
        let grown = |now: i64, then: i64| now - then > GROWTH_OCTETS_MAX;
        match () {
            () if grown(self.host_memory, before.host_memory) => Err("the shared memory of the host has grown".into()),
            () if grown(self.private_memory, before.private_memory) => Err("private memory has grown".into()),
            () if self.descriptors > before.descriptors => Err("descriptors were left open".into()),
            () if self.holds > 0 => Err("holds were left in the ledger".into()),
            () if ring_octets > 0 => Err("records were left in the rings".into()),
            () if slots > cut || entries > 3 * slots => Err("slots or entries were left in the gate".into()),
            () => Ok(()),
        }
    }
}

/// Returns the usage of the module's shared memory, found through the mappings of the proxy.
fn usage(proxy: &Proxy) -> Usage {
    let maps = fs::read_to_string(format!("/proc/{}/maps", proxy.pid())).unwrap_or_default();
    let region = maps.split_whitespace().find(|word| word.starts_with("/dev/shm/imcharge-"));
    // Unreadable counts as in use.
    let unknown = Usage { slots: usize::MAX, ..Usage::default() };
    region.and_then(|path| Usage::of(path.as_ref())).unwrap_or(unknown)
}
