//! What one tick of the engine works with.

use super::effects::Effect;
use super::notification_writer::NotificationWriter;
use super::store::Store;
use crate::charge::time::Time;
use crate::enabler::Enabler;
use crate::shm::clock;
use crate::shm::latency::Latency;
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;

/// The state of a tick: where it reads and writes, and what is to be published after its commit.
pub struct Tick<'a> {
    /// Whether anything must be committed.
    pub changed: bool,
    /// Whether a command waits, whose sender may read the tables next.
    pub command_waits: bool,
    /// To be executed after the commit.
    pub effects: Vec<Effect>,
    /// Latencies to be measured after the commit, with their starts.
    pub latencies: Vec<(Latency, Time)>,
    pub(super) region: &'a Region,
    pub(super) store: &'a mut Store,
    pub(super) notifications: &'a mut NotificationWriter,
    pub(super) enabler: &'a dyn Enabler,
    /// Run of the host that wrote the records.
    pub(super) instance: u64,
    pub(super) now: Time,
    pub(super) wall_ms: i64,
}

impl<'a> Tick<'a> {
    /// Begins a tick over records of this instance.
    pub fn new(
        region: &'a Region,
        store: &'a mut Store,
        notifications: &'a mut NotificationWriter,
        enabler: &'a dyn Enabler,
        instance: u64,
    ) -> Tick<'a> {
        Tick {
            changed: false,
            command_waits: false,
            effects: Vec::new(),
            latencies: Vec::new(),
            region,
            store,
            notifications,
            enabler,
            instance,
            now: clock::now(),
            wall_ms: clock::wall_ms(),
        }
    }

    /// Whether the records are of the host that runs now, not of an earlier run.
    pub(super) fn is_current_instance(&self) -> bool {
        self.instance == self.region.instance()
    }

    /// Adds to a statistic after the commit.
    pub(super) fn add(&mut self, statistic: Statistic, amount: u64) {
        self.effects.push(Effect::Add(statistic, amount));
    }

    /// Increments a statistic after the commit.
    pub(super) fn count(&mut self, statistic: Statistic) {
        self.effects.push(Effect::Count(statistic));
    }
}
