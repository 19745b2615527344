//! The engine's end of the queues of notices, and its eye on those who take from them.

use crate::charge::time::Time;
use crate::shm::clock;
use crate::shm::notification::Notification;
use crate::shm::queue::QueueProducer;
use crate::shm::region::{AttachError, Lane, QueueClaim, Region};
use crate::shm::ring::{Full, RECORD_MAX};
use crate::shm::script_runs::Process;
use crate::shm::statistic::Statistic;
use std::time::Duration;

/// How often the engine looks for slow runs of the script.
const LOOK: Duration = Duration::from_millis(100);

/// How often it logs of one kind of trouble.
const LOG_EVERY: Duration = Duration::from_secs(60);

/// Writes notifications before the commit and publishes them after it.
pub struct NotificationWriter {
    /// In the order of [`Lane::ALL`].
    queues: [QueueProducer<QueueClaim>; 2],
    watch: Watch,
}

impl NotificationWriter {
    /// Continues from the marks of the last commit: notifications that an engine before this one has committed and not
    /// published are published by the first tick.
    pub fn resume(region: &Region, committed: &[u64]) -> Result<NotificationWriter, AttachError> {
        let queue = |lane: Lane| {
            let mut queue = region.queue_producer(lane)?;
            queue.resume(committed.get(lane as usize).copied().unwrap_or(0));
            Ok(queue)
        };
        let [verdicts, events] = Lane::ALL.map(queue);
        Ok(NotificationWriter { queues: [verdicts?, events?], watch: Watch::new(region) })
    }

    /// Writes a verdict. New INVITEs are refused before the queue is full ([`Region::verdicts_are_late`]); if it is full
    /// nevertheless, the INVITE is answered by the host's own timer.
    pub fn verdict(&mut self, region: &Region, notification: &Notification<'_>) {
        if self.write(Lane::Verdicts, notification).is_err() {
            region.count(Statistic::DroppedVerdicts);
            if let Some(more) = self.watch.dropped.log(clock::now()) {
                let call_id = notification.call_id;
                log::error!("the queue of verdicts is full: the INVITE of {call_id}{more} gets none and times out");
            }
        }
    }

    /// Writes an event for an event route.
    pub fn event(&mut self, region: &Region, notification: &Notification<'_>) {
        if self.write(Lane::Events, notification).is_err() {
            region.count(Statistic::DroppedNotifications);
        }
    }

    fn write(&mut self, lane: Lane, notification: &Notification<'_>) -> Result<(), Full> {
        let mut space = [0; RECORD_MAX];
        let content = postcard::to_slice(notification, &mut space).map_err(|_| Full)?;
        self.queues[lane as usize].write(content)
    }

    /// Returns up to where each queue is written.
    pub fn heads(&self) -> Vec<u64> {
        self.queues.iter().map(QueueProducer::head).collect()
    }

    /// Publishes everything written and wakes the readers.
    pub fn publish(&mut self, region: &Region) {
        for queue in &mut self.queues {
            let published = queue.publish(clock::now());
            if published > 0 {
                region.wake_readers(queue.memory().lane(), published);
            }
        }
    }

    /// Counts and logs runs of the script that have become slow.
    pub fn watch(&mut self, region: &Region) {
        self.watch.look(region, clock::now());
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
            if let Some(slow) = region.script_run(process).find_slow(region, now)
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
        let are_stuck = region.are_resume_workers_stuck(now);
        if are_stuck
            && !std::mem::replace(&mut self.are_stuck, are_stuck)
            && let Some(more) = self.stuck.log(now)
        {
            log::error!(
                "all {} resume workers are stuck in the script{more}: INVITEs are refused with -3 until one is back",
                region.resume_workers()
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

    fn writer(region: &Region, committed: &[u64]) -> NotificationWriter {
        NotificationWriter::resume(region, committed).expect("no other engine runs")
    }

    fn notice(call_id: &str) -> Notification<'_> {
        let (session, kind) = (SessionKey(1, 2), Kind::Failed);
        Notification { session, call_id, account: "sip:a@b", reason: "", code: 0, balance: None, kind }
    }

    /// What a resume worker takes until there is no more.
    fn taken(region: &Arc<Region>) -> Vec<String> {
        let mut resumer = NotificationReader::attach(region, 0).expect("not attached yet");
        let mut taken = Vec::new();
        while resumer.next(|notice| taken.push(notice.call_id.to_owned())) {}
        taken
    }

    #[test]
    fn what_was_committed_and_not_published_is_published_by_the_next_engine_once() {
        let (_folder, region) = region();
        let mut first = writer(&region, &[]);
        first.verdict(&region, &notice("committed"));
        let committed = first.heads();
        first.verdict(&region, &notice("not committed"));
        assert!(taken(&region).is_empty());
        drop(first);
        let mut second = writer(&region, &committed);
        second.publish(&region);
        assert_eq!(taken(&region), ["committed"]);
        drop(second);
        let mut third = writer(&region, &committed);
        third.publish(&region);
        third.verdict(&region, &notice("later"));
        third.publish(&region);
        assert_eq!(taken(&region), ["later"]);
        region.remove_file();
    }

    #[test]
    fn events_that_find_no_room_are_counted_and_take_none_of_the_verdicts() {
        let (_folder, region) = region();
        let mut notices = writer(&region, &[]);
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
        let mut notices = writer(&region, &[]);
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
