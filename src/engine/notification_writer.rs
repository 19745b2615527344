//! Writes the notification queues: verdicts for resume workers, and events for event routes.

use super::script_watch::{LimitedLog, ScriptWatch};
use crate::shm::clock;
use crate::shm::notification::Notification;
use crate::shm::queue::QueueProducer;
use crate::shm::region::{AttachError, Lane, QueueClaim, Region};
use crate::shm::ring::{Full, RECORD_MAX};
use crate::shm::statistic::Statistic;

/// Writes notifications before the commit and publishes them after it.
pub struct NotificationWriter {
    /// In the order of [`Lane::ALL`].
    queues: [QueueProducer<QueueClaim>; 2],
    watch: ScriptWatch,
    dropped_verdicts: LimitedLog,
}

impl NotificationWriter {
    /// Continues from the marks of the last commit: notifications that an engine before this one has committed and not
    /// published are published by the first tick.
    pub fn restore(region: &Region, committed: &[u64]) -> Result<NotificationWriter, AttachError> {
        let queue = |lane: Lane| {
            let mut queue = region.queue_producer(lane)?;
            queue.continue_from(committed.get(lane as usize).copied().unwrap_or(0));
            Ok(queue)
        };
        let [verdicts, events] = Lane::ALL.map(queue);
        Ok(NotificationWriter {
            queues: [verdicts?, events?],
            watch: ScriptWatch::new(region),
            dropped_verdicts: LimitedLog::default(),
        })
    }

    /// Writes a verdict. New INVITEs are refused before the queue is full ([`Region::verdicts_are_late`]); if it is full
    /// nevertheless, the INVITE is answered by the host's own timer.
    pub fn write_verdict(&mut self, region: &Region, notification: &Notification<'_>) {
        if self.write(Lane::Verdicts, notification).is_err() {
            region.count(Statistic::DroppedVerdicts);
            if let Some(more) = self.dropped_verdicts.admit(clock::now()) {
                let call_id = notification.call_id;
                log::error!("the queue of verdicts is full: the INVITE of {call_id}{more} gets none and times out");
            }
        }
    }

    /// Writes an event for an event route. Without room it is dropped and counted.
    pub fn write_event(&mut self, region: &Region, notification: &Notification<'_>) {
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

    /// Counts and logs slow runs of the routing script, if it is time to look for them.
    pub fn watch_scripts(&mut self, region: &Region) {
        self.watch.look(region, clock::now());
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::charge::ch2::SessionKey;
    use crate::config::Config;
    use crate::engine::preflight;
    use crate::shm::notification::{Kind, NotificationReader};
    use crate::shm::script_runs::{Process, Running, SLOW};
    use std::sync::Arc;

    fn region() -> (tempfile::TempDir, Arc<Region>) {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config { state_dir: folder.path().to_owned(), ..Config::default() };
        let region = preflight::create_region(config, 1).unwrap_or_else(|error| panic!("{error}"));
        (folder, region)
    }

    fn writer(region: &Region, committed: &[u64]) -> NotificationWriter {
        NotificationWriter::restore(region, committed).expect("no other engine runs")
    }

    fn notification(call_id: &str) -> Notification<'_> {
        let (session, kind) = (SessionKey(1, 2), Kind::Failed);
        Notification { session, call_id, account: "sip:a@b", reason: "", code: 0, balance: None, held: None, kind }
    }

    /// Call-IDs of all notifications that a resume worker can read.
    fn taken(region: &Arc<Region>) -> Vec<String> {
        let mut queue = NotificationReader::attach(region, 0).expect("not attached yet");
        let mut taken = Vec::new();
        while queue.next(|notification| taken.push(notification.call_id.to_owned())) {}
        taken
    }

    #[test]
    fn committed_notification_is_published_once_by_the_next_engine() {
        let (_folder, region) = region();
        let mut first = writer(&region, &[]);
        first.write_verdict(&region, &notification("committed"));
        let committed = first.heads();
        first.write_verdict(&region, &notification("not committed"));
        assert!(taken(&region).is_empty());
        drop(first);
        let mut second = writer(&region, &committed);
        second.publish(&region);
        assert_eq!(taken(&region), ["committed"]);
        drop(second);
        let mut third = writer(&region, &committed);
        third.publish(&region);
        third.write_verdict(&region, &notification("later"));
        third.publish(&region);
        assert_eq!(taken(&region), ["later"]);
        region.remove_file();
    }

    #[test]
    fn full_event_queue_drops_events_and_leaves_verdicts_alone() {
        let (_folder, region) = region();
        let mut notifications = writer(&region, &[]);
        while region.statistic(Statistic::DroppedNotifications) < 3 {
            notifications.write_event(&region, &notification("event"));
        }
        notifications.write_verdict(&region, &notification("verdict"));
        notifications.publish(&region);
        assert_eq!(taken(&region), ["verdict"]);
        assert_eq!(region.statistic(Statistic::DroppedVerdicts), 0);
        region.remove_file();
    }

    #[test]
    fn verdicts_are_late_if_one_waits_or_every_resume_worker_is_stuck() {
        let (_folder, region) = region();
        let mut notifications = writer(&region, &[]);
        notifications.write_verdict(&region, &notification("waits"));
        notifications.publish(&region);
        assert!(!region.verdicts_are_late());
        std::thread::sleep(SLOW);
        assert!(region.verdicts_are_late());
        assert_eq!(taken(&region).len(), 1);
        assert!(!region.verdicts_are_late());
        let runs = [0, 1].map(|index| Running::begin(&region, Process::Resume(index), "route[X] for call"));
        std::thread::sleep(SLOW);
        assert!(region.verdicts_are_late());
        (0..2).for_each(|_| notifications.watch_scripts(&region));
        let [one, _other] = runs;
        drop(one);
        assert!(!region.verdicts_are_late());
        let value = |statistic| region.statistic(statistic);
        assert_eq!((value(Statistic::ResumeWorkersStuck), value(Statistic::SlowRuns)), (1, 2));
        region.remove_file();
    }
}
