//! Very many sessions through one proxy, and a look at what they leave behind: memory, descriptors, rings, table, holds.
//! Run by `make soak` with a million; `--sessions` says how many, `--rate` how many a second. These have no messages; as
//! many retrievals as `--retrievals` says, with messages and at a charging system, come after them. 0: not that half.

mod retrievals;

use imcharge::shm::region::Usage;
use imcharge_testkit::load::Load;
use imcharge_testkit::proxy::{Proxy, Setup};
use lexopt::ValueExt;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Calls a second, where nothing else is said: about a third of what such a machine can do.
const RATE: u32 = 1500;

/// Retrievals, where nothing else is said; as many come before them.
const RETRIEVALS: u32 = 20_000;

/// The allocator of the host that joins what is freed, and enough memory.
const ARGUMENTS: [&str; 6] = ["-x", "fm", "-X", "fm", "-m", "4096"];

/// Seconds of calls that bring everything to its size: closed sessions stay for 32.
const WARM_UP: u32 = 40;

/// Octets by which a process may have grown after all: allocators give back in pieces.
const GROWTH: i64 = 2 << 20;

fn main() {
    let (mut passed, mut failed) = (0, 0);
    let mut count = |result: Result<(), Box<dyn Error>>| match result {
        Ok(()) => passed += 1,
        Err(error) => {
            println!("soak: {error}");
            failed += 1;
        }
    };
    match Wanted::read() {
        Ok(wanted) => {
            if wanted.sessions > 0 {
                count(soak(&wanted));
            }
            if wanted.retrievals > 0 {
                count(retrievals::soak(&wanted.folder, wanted.retrievals));
            }
        }
        Err(error) => count(Err(error)),
    }
    println!("test result: {}. {passed} passed; {failed} failed", if failed == 0 { "ok" } else { "FAILED" });
    std::process::exit(failed);
}

/// What the command line wants.
struct Wanted {
    /// Where the module lies.
    folder: PathBuf,
    sessions: u32,
    rate: u32,
    retrievals: u32,
}

impl Wanted {
    fn read() -> Result<Wanted, Box<dyn Error>> {
        let mut module = PathBuf::from("out/imcharge.so");
        let (mut sessions, mut rate, mut retrievals) = (1_000_000, RATE, RETRIEVALS);
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
        let folder = module.parent().map(Path::to_owned).ok_or("the module is in no folder")?;
        Ok(Wanted { folder, sessions, rate, retrievals })
    }
}

/// The calls without messages, on the ledger.
fn soak(wanted: &Wanted) -> Result<(), Box<dyn Error>> {
    let Wanted { sessions, rate, .. } = *wanted;
    let load = Load::new()?;
    let mut setup = Setup::new(&wanted.folder, load.server());
    setup.arguments = ARGUMENTS.to_vec();
    let proxy = Proxy::start(setup.parameter("default_balance", "1000000000"))?;
    let first = (sessions / 5).max(rate * WARM_UP).min(sessions);
    let mut cut = call(&load, &proxy, first, rate)?;
    let before = State::at_rest(&proxy)?;
    println!("after {first} sessions: {before:?}");
    cut += call(&load, &proxy, sessions, rate)?;
    let after = State::at_rest(&proxy)?;
    println!("after {sessions} more:  {after:?}; {cut} calls were cut short");
    after.compare(&before, cut)
}

/// So many sessions; how many of them did not get an answer to their INVITE and their BYE.
fn call(load: &Load, proxy: &Proxy, sessions: u32, rate: u32) -> Result<usize, Box<dyn Error>> {
    let (mut left, mut cut) = (sessions, 0);
    while left > 0 {
        let part = left.min(rate * 20);
        let span = Duration::from_secs_f64(f64::from(part) / f64::from(rate));
        let calls = load.run(proxy.sip, rate, span);
        let answered = calls.iter().filter(|call| call.answered_ms().is_some()).count();
        // A busy machine may lose some datagrams; most must not be lost.
        if answered * 100 < calls.len() * 98 {
            return Err(format!("{answered} of {} calls were answered\n{}", calls.len(), proxy.log()).into());
        }
        cut += calls.iter().filter(|call| !call.has_ended()).count();
        left -= part;
    }
    Ok(cut)
}

/// What a proxy holds.
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
    /// As soon as nothing is open any more and nothing has changed for 40 s.
    fn at_rest(proxy: &Proxy) -> Result<State, Box<dyn Error>> {
        let (mut last, mut same) = (State::now(proxy), 0);
        for _ in 0..60 {
            std::thread::sleep(Duration::from_secs(5));
            let now = State::now(proxy);
            let rests = now.open_sessions == 0 && (now.host_memory - last.host_memory).abs() < 65_536;
            same = if rests { same + 1 } else { 0 };
            last = now;
            if same == 8 {
                return Ok(last);
            }
        }
        Err(format!("no rest: {last:?}\n{}", proxy.log()).into())
    }

    fn now(proxy: &Proxy) -> State {
        let memory = proxy.rpc(&["core.shmmem"]).unwrap_or_default();
        let used = memory.lines().find_map(|line| line.trim().strip_prefix("real_used: "));
        let group = processes(proxy);
        let anonymous = |process: &PathBuf| {
            let text = fs::read_to_string(process.join("smaps_rollup")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:"))?;
            line.trim().trim_end_matches(" kB").parse::<i64>().ok()
        };
        let open = |process: &PathBuf| fs::read_dir(process.join("fd")).map_or(0, Iterator::count);
        State {
            host_memory: used.and_then(|octets| octets.parse().ok()).unwrap_or(-1),
            private_memory: group.iter().filter_map(anonymous).sum::<i64>() * 1024,
            descriptors: group.iter().map(open).sum(),
            open_sessions: proxy.statistic("sessions_active"),
            holds: proxy.count("SELECT count(*) FROM holds"),
            region: usage(proxy),
        }
    }

    /// `cut`: calls whose BYE may be lost. The gate of each stays shut for an hour, with the three entries of its slot.
    fn compare(&self, before: &State, cut: usize) -> Result<(), Box<dyn Error>> {
        let Usage { ring_octets, slots, entries } = self.region;
        let grown = |now: i64, then: i64| now - then > GROWTH;
        match () {
            () if grown(self.host_memory, before.host_memory) => Err("the host's shared memory has grown".into()),
            () if grown(self.private_memory, before.private_memory) => Err("private memory has grown".into()),
            () if self.descriptors > before.descriptors => Err("descriptors are left open".into()),
            () if self.holds > 0 => Err("holds are left".into()),
            () if ring_octets > 0 => Err("something is left in the rings".into()),
            () if slots > cut || entries > 3 * slots => Err("something is left in the gate".into()),
            () => Ok(()),
        }
    }
}

/// What is in use of the shared memory of the module, which the proxy has mapped.
fn usage(proxy: &Proxy) -> Usage {
    let maps = fs::read_to_string(format!("/proc/{}/maps", proxy.pid())).unwrap_or_default();
    let region = maps.split_whitespace().find(|word| word.starts_with("/dev/shm/imcharge-"));
    // What cannot be looked at counts as in use.
    let unknown = Usage { slots: usize::MAX, ..Usage::default() };
    region.and_then(|path| Usage::of(path.as_ref())).unwrap_or(unknown)
}

/// Folders in /proc of all processes of a proxy.
fn processes(proxy: &Proxy) -> Vec<PathBuf> {
    let group = proxy.pid().to_string();
    let Ok(all) = fs::read_dir("/proc") else { return Vec::new() };
    let paths = all.flatten().map(|entry| entry.path());
    let of_group = paths.filter(|path| {
        let stat = fs::read_to_string(path.join("stat")).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2)) == Some(&group)
    });
    of_group.collect()
}
