//! The engine's end of the queues of notices, and its eye on those who take from them.

use crate::charge::time::Time;
use crate::shm::clock;
use crate::shm::notification::Notification;
use crate::shm::region::{Lane, Region};
use crate::shm::ring::{Full, RECORD_MAX};
use crate::shm::script_runs::Process;
use crate::shm::statistic::Statistic;
use std::time::Duration;

/// How often the engine looks for slow runs of the script.
const LOOK: Duration = Duration::from_millis(100);

/// How often it logs of one kind of trouble.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// What the engine knows of one queue.
struct Written {
    lane: Lane,
    /// Up to where it is written.
    head: u64,
    /// Records that are written and not published.
    records: usize,
}

/// Writes notices before the commit, publishes them after it.
pub struct NotificationWriter {
    queues: [Written; 2],
    watch: Watch,
}

impl NotificationWriter {
    /// Carries on from what was committed: what an engine that died had committed and not published is published with the
    /// next turn.
    pub fn resume(region: &Region, committed: &[u64]) -> NotificationWriter {
        let queues = Lane::ALL.map(|lane| {
            let (head, mark) = (region.queue(lane).head(), committed.get(lane as usize).copied().unwrap_or(0));
            let records = if mark > head { usize::MAX } else { 0 };
            Written { lane, head: head.max(mark), records }
        });
        NotificationWriter { queues, watch: Watch::new(region) }
    }

    /// Writes a verdict. The queue has room for all INVITEs that are let in before its fill or the age of its oldest
    /// verdict keeps others out ([`Region::verdicts_are_late`]); should it be full nevertheless, the INVITE is answered by
    /// the host's own timer.
    pub fn verdict(&mut self, region: &Region, notice: &Notification<'_>) {
        if self.queues[Lane::Verdicts as usize].write(region, notice).is_err() {
            region.count(Statistic::DroppedVerdicts);
            if let Some(more) = self.watch.dropped.log(clock::now()) {
                let call_id = notice.call_id;
                log::error!("the queue of verdicts is full: the INVITE of {call_id}{more} gets none and times out");
            }
        }
    }

    /// Writes what an event route is told.
    pub fn event(&mut self, region: &Region, notice: &Notification<'_>) {
        if self.queues[Lane::Events as usize].write(region, notice).is_err() {
            region.count(Statistic::DroppedNotifications);
        }
    }

    /// Up to where each queue is written.
    pub fn heads(&self) -> Vec<u64> {
        self.queues.iter().map(|queue| queue.head).collect()
    }

    /// Publishes everything written.
    pub fn publish(&mut self, region: &Region) {
        for queue in self.queues.iter_mut().filter(|queue| queue.records > 0) {
            region.queue(queue.lane).publish(queue.head, clock::now());
            region.wake_takers(queue.lane, std::mem::take(&mut queue.records));
        }
    }

    /// Counts and logs runs of the script that have become slow.
    pub fn watch(&mut self, region: &Region) {
        self.watch.look(region, clock::now());
    }
}

impl Written {
    fn write(&mut self, region: &Region, notice: &Notification<'_>) -> Result<(), Full> {
        let mut space = [0; RECORD_MAX];
        let content = postcard::to_slice(notice, &mut space).map_err(|_| Full)?;
        self.head = region.queue(self.lane).write_at(self.head, content)?;
        self.records = self.records.saturating_add(1);
        Ok(())
    }
}

/// One kind of trouble in the log: a line a minute, with the number of those that had none.
#[derive(Clone, Default)]
struct Lines {
    last: Option<Time>,
    without: u32,
}

impl Lines {
    /// What a line says of those before it; `None`: this one gets no line.
    fn log(&mut self, now: Time) -> Option<String> {
        let is_due = self.last.is_none_or(|last| Duration::from_micros(now.micros_since(last)) >= LOG_EVERY);
        if !is_due {
            self.without = self.without.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        match std::mem::take(&mut self.without) {
            0 => Some(String::new()),
            without => Some(format!(" (and {without} more since the last such line)")),
        }
    }
}

/// The engine's eye on what the host's processes run in the script.
struct Watch {
    looked: Time,
    /// For each of [`Region::script_processes`].
    processes: Vec<Lines>,
    /// When all resume workers are stuck, and were at the last look.
    stuck: Lines,
    are_stuck: bool,
    dropped: Lines,
}

impl Watch {
    fn new(region: &Region) -> Watch {
        let (processes, stuck) = (vec![Lines::default(); region.script_processes().count()], Lines::default());
        Watch { looked: Time(0), processes, stuck, are_stuck: false, dropped: Lines::default() }
    }

    fn look(&mut self, region: &Region, now: Time) {
        if Duration::from_micros(now.micros_since(self.looked)) < LOOK {
            return;
        }
        self.looked = now;
        for (process, lines) in region.script_processes().zip(&mut self.processes) {
            if let Some(slow) = region.run(process).find_slow(region, now)
                && let Some(more) = lines.log(now)
            {
                slow.is_logged();
                let what = match process {
                    Process::Events(_) => {
                        "events that find no room meanwhile are skipped and counted (dropped_notifications)"
                    }
                    Process::Resume(_) => "verdicts go to the other resume workers meanwhile",
                    Process::Host(_) => "INVITEs that this process has taken wait meanwhile",
                };
                let name = &slow.name;
                log::warn!("{process} has been in {name} for more than a second{more}: see what blocks there; {what}");
            }
        }
        let are_stuck = region.resumers_are_stuck(now);
        if are_stuck
            && !std::mem::replace(&mut self.are_stuck, are_stuck)
            && let Some(more) = self.stuck.log(now)
        {
            log::error!(
                "all {} resume workers are stuck in the script{more}: INVITEs are refused with -3 until one is back",
                region.resumers()
            );
        }
        self.are_stuck = are_stuck;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::charge::ch2::SessionKey;
    use crate::config::Config;
    use crate::engine::preflight;
    use crate::shm::notification::{Kind, NotificationReader};
    use crate::shm::script_runs::{Running, SLOW};
    use std::sync::Arc;

    fn region() -> (tempfile::TempDir, Arc<Region>) {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config { state_dir: folder.path().to_owned(), ..Config::default() };
        let region = preflight::create_region(config, 1).unwrap_or_else(|error| panic!("{error}"));
        (folder, region)
    }

    fn notice(call_id: &str) -> Notification<'_> {
        let (session, kind) = (SessionKey(1, 2), Kind::Failed);
        Notification { session, call_id, account: "sip:a@b", reason: "", code: 0, balance: None, kind }
    }

    /// What a resume worker takes until there is no more.
    fn taken(region: &Arc<Region>) -> Vec<String> {
        let (mut resumer, mut taken) = (NotificationReader::attach(region, 0), Vec::new());
        while resumer.next(|notice| taken.push(notice.call_id.to_owned())) {}
        taken
    }

    #[test]
    fn what_was_committed_and_not_published_is_published_by_the_next_engine_once() {
        let (_folder, region) = region();
        let mut first = NotificationWriter::resume(&region, &[]);
        first.verdict(&region, &notice("committed"));
        let committed = first.heads();
        first.verdict(&region, &notice("not committed"));
        assert!(taken(&region).is_empty());
        let mut second = NotificationWriter::resume(&region, &committed);
        second.publish(&region);
        assert_eq!(taken(&region), ["committed"]);
        let mut third = NotificationWriter::resume(&region, &committed);
        third.publish(&region);
        third.verdict(&region, &notice("later"));
        third.publish(&region);
        assert_eq!(taken(&region), ["later"]);
        region.remove_file();
    }

    #[test]
    fn events_that_find_no_room_are_counted_and_take_none_of_the_verdicts() {
        let (_folder, region) = region();
        let mut notices = NotificationWriter::resume(&region, &[]);
        while region.statistic(Statistic::DroppedNotifications) < 3 {
            notices.event(&region, &notice("event"));
        }
        notices.verdict(&region, &notice("verdict"));
        notices.publish(&region);
        assert_eq!(taken(&region), ["verdict"]);
        assert_eq!(region.statistic(Statistic::DroppedVerdicts), 0);
        region.remove_file();
    }

    #[test]
    fn verdicts_are_late_when_one_waits_or_every_resume_worker_is_stuck() {
        let (_folder, region) = region();
        let mut notices = NotificationWriter::resume(&region, &[]);
        notices.verdict(&region, &notice("waits"));
        notices.publish(&region);
        assert!(!region.verdicts_are_late());
        std::thread::sleep(SLOW);
        assert!(region.verdicts_are_late());
        assert_eq!(taken(&region).len(), 1);
        assert!(!region.verdicts_are_late());
        let runs = [0, 1].map(|index| Running::begin(&region, Process::Resume(index), "route[X] for call"));
        std::thread::sleep(SLOW);
        assert!(region.verdicts_are_late());
        (0..2).for_each(|_| notices.watch(&region));
        let [one, _other] = runs;
        drop(one);
        assert!(!region.verdicts_are_late());
        let value = |statistic| region.statistic(statistic);
        assert_eq!((value(Statistic::ResumeWorkersStuck), value(Statistic::SlowRuns)), (1, 2));
        region.remove_file();
    }

    #[test]
    fn one_kind_of_trouble_has_a_line_a_minute_with_a_count() {
        let (mut lines, at) = (Lines::default(), |seconds: u64| Time(1 + seconds * 1_000_000));
        let said: Vec<_> = [0, 10, 59, 60, 121].map(|seconds| lines.log(at(seconds))).into_iter().collect();
        let more = " (and 2 more since the last such line)".to_owned();
        assert_eq!(said, [Some(String::new()), None, None, Some(more), Some(String::new())]);
    }
}
