//! Finds processes of the host that are stuck in the routing script.

use crate::charge::time::Time;
use crate::shm::region::Region;
use crate::shm::script_runs::Process;
use std::time::Duration;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Time between two log lines of a kind.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Limits log lines of a kind to one a minute, and counts those left out.
#[derive(Clone, Default)]
pub struct LimitedLog {
    last: Option<Time>,
    left_out: u32,
}

impl LimitedLog {
    /// Decides whether a line is logged. Returns what it appends about lines left out before; `None`: it is left out.
    pub fn admit(&mut self, now: Time) -> Option<String> {
        let is_due = self.last.is_none_or(|last| Duration::from_micros(now.micros_since(last)) >= LOG_INTERVAL);
        if !is_due {
            self.left_out = self.left_out.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.left_out) {
            0 => Some(String::new()),
            left_out => Some(format!(" (and {left_out} more since the last such line)")),
        }
    }
}

/// Watches how long the host's processes run in the script.
pub struct ScriptWatch {
    last_look: Time,
    /// One for each of [`Region::script_processes`].
    processes: Vec<LimitedLog>,
    all_stuck: LimitedLog,
    /// Whether all resume workers were stuck at the last look.
    are_stuck: bool,
}

impl ScriptWatch {
    /// Creates a watch that has not looked yet.
    pub fn new(region: &Region) -> ScriptWatch {
        let processes = vec![LimitedLog::default(); region.script_processes().count()];
        ScriptWatch { last_look: Time(0), processes, all_stuck: LimitedLog::default(), are_stuck: false }
    }

    /// Counts and logs slow runs, unless the last look was less than [`LOOK_INTERVAL`] ago.
    pub fn look(&mut self, region: &Region, now: Time) {
        if Duration::from_micros(now.micros_since(self.last_look)) < LOOK_INTERVAL {
            return;
        }
        self.last_look = now;
        self.look_at_processes(region, now);
        let are_stuck = region.are_resume_workers_stuck(now);
        if are_stuck
            && !self.are_stuck
            && let Some(more) = self.all_stuck.admit(now)
        {
            log::error!(
                "all {} resume workers are stuck in the script{more}: INVITEs are refused with -3 until one is back",
                region.resume_workers()
            );
        }
        self.are_stuck = are_stuck;
    }

    fn look_at_processes(&mut self, region: &Region, now: Time) {
        for (process, log) in region.script_processes().zip(&mut self.processes) {
            if let Some(slow) = region.script_run(process).find_slow(region, now)
                && let Some(more) = log.admit(now)
            {
                slow.set_logged();
                let consequence = match process {
                    Process::Events(_) => {
                        "events without room meanwhile are dropped and counted (dropped_notifications)"
                    }
                    Process::Resume(_) => "verdicts go to the other resume workers meanwhile",
                    Process::Host(_) => "INVITEs that this process has received wait meanwhile",
                };
                let name = &slow.name;
                log::warn!(
                    "{process} has been in {name} for more than a second{more}: see what blocks there; {consequence}"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_limited_to_a_line_a_minute_with_a_count() {
        let (mut log, at) = (LimitedLog::default(), |seconds: u64| Time(1 + seconds * 1_000_000));
        let admitted = [0, 10, 59, 60, 121].map(|seconds| log.admit(at(seconds)));
        let more = " (and 2 more since the last such line)".to_owned();
        assert_eq!(admitted, [Some(String::new()), None, None, Some(more), Some(String::new())]);
    }
}
