//! Runs of script routes in the host's processes, so that a blocking route is found, counted and named while it blocks.

use super::clock;
use super::region::Region;
use super::statistic::Statistic;
use super::sync::{AtomicU64, Ordering, fence};
use crate::charge::time::Time;
use std::fmt;
use std::time::Duration;

/// A run of the script that takes longer is slow, and its process is stuck until it ends. New INVITEs are refused while a
/// verdict has waited for longer.
pub const SLOW: Duration = Duration::from_secs(1);

/// A process of the host that runs routes of the script for this module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// Resume worker of this index.
    Resume(usize),
    /// Event worker of this index.
    Events(usize),
    /// Process with the event ring of this index, in a host that resumes an INVITE in the process that received it.
    Host(usize),
}

impl fmt::Display for Process {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Process::Resume(index) => write!(out, "imcharge resume {}", index + 1),
            Process::Events(index) => write!(out, "imcharge events {}", index + 1),
            Process::Host(index) => write!(out, "process {index}"),
        }
    }
}

/// Words of a run's name.
const NAME_WORDS: usize = 45;

/// The current run of one process. Only that process writes `since` and the name; any process reads them.
#[repr(C, align(64))]
pub struct Run {
    /// Start of the run ([`Time`]); 0: nothing runs.
    since: AtomicU64,
    /// `since` of the last run that was counted as slow.
    counted: AtomicU64,
    /// `since` of the last run that the engine has logged.
    logged: AtomicU64,
    /// Name of the run: UTF-8, padded with NUL.
    name: [AtomicU64; NAME_WORDS],
}

impl Run {
    /// Records the start of a run.
    fn begin(&self, since: Time, name: &str) {
        self.since.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        let mut words = name.as_bytes().chunks(size_of::<u64>());
        for place in &self.name {
            let mut word = [0; size_of::<u64>()];
            let octets = words.next().unwrap_or_default();
            word[..octets.len()].copy_from_slice(octets);
            place.store(u64::from_le_bytes(word), Ordering::Relaxed);
            if octets.is_empty() {
                break;
            }
        }
        self.since.store(since.0, Ordering::Release);
    }

    /// Returns the start of the current run if it is slow.
    pub fn slow_since(&self, now: Time) -> Option<Time> {
        let since = Time(self.since.load(Ordering::Acquire));
        (since.0 != 0 && is_slow(since, now)).then_some(since)
    }

    /// Counts a run as slow, unless it was counted before: both the engine and the process itself may find it.
    fn count(&self, region: &Region, since: Time) -> bool {
        let last = self.counted.load(Ordering::Relaxed);
        let swap = || self.counted.compare_exchange(last, since.0, Ordering::Relaxed, Ordering::Relaxed);
        let is_first = last != since.0 && swap().is_ok();
        if is_first {
            region.count(Statistic::SlowRuns);
        }
        is_first
    }

    /// Engine: counts a run that has become slow, and returns it if it was not found before.
    pub fn find_slow(&self, region: &Region, now: Time) -> Option<SlowRun<'_>> {
        let since = self.slow_since(now)?;
        let name = self.name();
        fence(Ordering::Acquire);
        let is_same = self.since.load(Ordering::Relaxed) == since.0;
        (is_same && self.count(region, since)).then_some(SlowRun { run: self, since, name })
    }

    fn name(&self) -> String {
        let octets = self.name.iter().flat_map(|word| word.load(Ordering::Relaxed).to_le_bytes());
        let octets: Vec<u8> = octets.take_while(|octet| *octet != 0).collect();
        String::from_utf8_lossy(&octets).into_owned()
    }
}

/// A run that has just become slow.
pub struct SlowRun<'a> {
    run: &'a Run,
    /// Start of the run.
    pub since: Time,
    /// Name of the run.
    pub name: String,
}

impl SlowRun<'_> {
    /// Engine: has logged the run, so that its end is logged too.
    pub fn set_logged(&self) {
        self.run.logged.store(self.since.0, Ordering::Relaxed);
    }
}

fn is_slow(since: Time, now: Time) -> bool {
    Duration::from_micros(now.micros_since(since)) > SLOW
}

/// A run of the script in this process; ends when it is dropped.
pub struct Running<'a> {
    region: &'a Region,
    process: Process,
    since: Time,
}

impl<'a> Running<'a> {
    /// Begins a run. `name` gives the route and the call; it is cut at 360 octets.
    pub fn begin(region: &'a Region, process: Process, name: &str) -> Running<'a> {
        let since = clock::now();
        region.script_run(process).begin(since, name);
        Running { region, process, since }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let (run, now) = (self.region.script_run(self.process), clock::now());
        if is_slow(self.since, now) {
            run.count(self.region, self.since);
            if run.logged.load(Ordering::Relaxed) == self.since.0 {
                let seconds = Duration::from_micros(now.micros_since(self.since)).as_secs_f64();
                log::warn!("{} has left {} after {seconds:.1} s", self.process, run.name());
            }
        }
        run.since.store(0, Ordering::Release);
    }
}
