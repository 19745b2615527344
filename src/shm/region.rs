//! The shared region: event rings, queues, gate and statistics in one named file of shared memory.
//!
//! ```text
//!  header │ counters │ latencies │ reply slots │ reader wakers │ script runs │ ends │ event rings │ queues │ gate
//! ```
//!
//! The file has a name (`/dev/shm/imcharge-<state dir>-<instance>`), so that what the host's processes wrote survives
//! them: the engine of the next instance reads what a killed one left. It has mode 0600, and its pages are allocated at
//! once: a full memory file system refuses the start instead of killing a process later.
//!
//! | file | holds |
//! |---|---|
//! | `layout` | where each part lies |
//! | `header` | identification and single words |
//! | `map` | the mapped file, and access to its parts |
//! | `claim` | which ends of rings and queues this process has taken |
//! | `engine` | what the engine does, as other processes see it |
//! | `names` | hashes for the gate |
//! | `orphan` | regions of instances that have ended |
//! | `state_dir` | lock of the state directory, instance and boot |

mod claim;
mod engine;
mod header;
mod layout;
mod map;
mod names;
mod orphan;
mod state_dir;
mod usage;

use super::clock;
use super::eventfd::{self, EventFd};
use super::gate::{Lease, Table};
use super::latency::{Histogram, Latency};
use super::log_limit::NOTICE;
use super::notification::EventRoutes;
use super::queue::{Queue, QueueProducer};
use super::ring::Ends;
use super::script_runs::{Process, Run, SLOW};
use super::statistic::Statistic;
use super::sync::{AtomicU32, AtomicU64, Ordering};
use super::wakeup::{ASLEEP, WakeWord, wake_some};
use crate::charge::tariff::Tariff;
use crate::charge::time::Time;
use crate::config::Config;
use layout::{Layout, Sizes};
use map::Map;
use state_dir::{SHARED_MEMORY, boot_id, random, region_prefix};
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

pub use claim::{AttachError, Claim, End, QueueClaim};
pub use engine::EngineState;
pub(super) use header::Header;
pub use map::{EventConsumer, EventProducer};
pub use orphan::OrphanedRegion;
pub use state_dir::{StateDirectory, try_lock};
pub use usage::Usage;

/// The queues from the engine to the host's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Verdicts, for the resume workers.
    Verdicts,
    /// Events for the event routes, for the event workers.
    Events,
}

impl Lane {
    /// Both, in the order of their marks in the store.
    pub const ALL: [Lane; 2] = [Lane::Verdicts, Lane::Events];
}

impl fmt::Display for Lane {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Lane::Verdicts => "verdicts",
            Lane::Events => "events",
        })
    }
}

/// Result of the last command of a process.
#[repr(C, align(64))]
#[derive(Default)]
pub struct ReplySlot {
    /// Number of the answered command.
    pub sequence: AtomicU64,
    /// [`CommandResult`](super::record::CommandResult).
    pub code: AtomicU32,
    /// Balance of the account after the command.
    pub balance: AtomicI64,
    /// Units held of the account after the command.
    pub held: AtomicI64,
    /// Credit limit of the account after the command.
    pub limit: AtomicI64,
}

/// Wake word of a resume worker or an event worker, on its own cache line.
#[repr(C, align(64))]
pub(super) struct ReaderWaker(WakeWord);

/// The shared memory that host processes and engine map.
pub struct Region {
    map: Arc<Map>,
    /// The configuration it was created with.
    pub config: Config,
    state_directory: StateDirectory,
    /// Wakes an engine that polls sockets; without it, the engine sleeps on the futex of its waker.
    engine_eventfd: Option<EventFd>,
}

/// The region cannot be created: one sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegionError(pub String);

impl Region {
    /// Creates the region, before the host forks: `processes` event rings (1 to 4096), the queues and the gate. The
    /// configuration must have been checked: see `engine::preflight`.
    pub fn create(
        config: Config,
        processes: usize,
        state_directory: StateDirectory,
    ) -> Result<Arc<Region>, RegionError> {
        let max_sessions = config.max_sessions as usize;
        let layout = Layout::new(Sizes {
            processes: processes.clamp(1, 4096),
            resume_workers: config.resume_workers as usize,
            event_workers: config.event_workers as usize,
            slots: max_sessions + max_sessions / 4 + 16,
        });
        let instance = random();
        let path = PathBuf::from(format!("{}{instance:016x}", region_prefix(&config.state_dir)));
        let map = create_file(path, layout)?;
        let engine_eventfd = config.enabler.capabilities.has_connections.then(EventFd::new).transpose();
        let engine_eventfd =
            engine_eventfd.map_err(|error| RegionError(format!("cannot create an eventfd for the engine: {error}")))?;
        let region = Region { map: Arc::new(map), config, state_directory, engine_eventfd };
        region.init_header(instance);
        let config = &region.config;
        let tariffs = match config.tariffs.rows() {
            [only] => format!("tariff {only}"),
            all => format!("{} tariffs", all.len()),
        };
        log::info!(
            target: NOTICE,
            "imcharge {}: enabler {}, {tariffs}, state directory {}",
            env!("CARGO_PKG_VERSION"),
            config.enabler.name,
            config.state_dir.display()
        );
        Ok(Arc::new(region))
    }

    fn init_header(&self, instance: u64) {
        let header = self.map.header();
        header.instance.store(instance, Ordering::Relaxed);
        header.boot.store(boot_id(), Ordering::Relaxed);
        header.set_sizes(self.map.layout.sizes);
        header.hash_keys.iter().for_each(|key| key.store(random(), Ordering::Relaxed));
        header.heartbeat.store(clock::now().0, Ordering::Relaxed);
        // RFC 6733, 3: the high 12 bits from the time, the others random, so that no identifier repeats within the 4
        // minutes that it requires.
        let seconds = (clock::wall_ms() / 1000) as u32;
        header.end_to_end_id.store(seconds << 20 | random() as u32 >> 12, Ordering::Relaxed);
        self.reset_tariffs();
        if !self.config.enabler.capabilities.shares_sessions {
            header.lease.set(Lease::UNLIMITED);
        }
        header.magic.store(header::MAGIC, Ordering::Release);
    }

    /// Maps all pages into this process now: `fork` does not copy the page tables.
    pub fn prefault(&self) {
        self.map.prefault();
    }

    /// Returns an End-to-End Identifier (RFC 6733, 3) that none of the last 4 billion requests had; never 0.
    pub fn next_end_to_end_id(&self) -> u32 {
        let next = || self.map.header().end_to_end_id.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        match next() {
            0 => next(),
            id => id,
        }
    }

    /// Identifies this run of the host.
    pub fn instance(&self) -> u64 {
        self.map.header().instance.load(Ordering::Relaxed)
    }

    /// Returns the current value of a statistic.
    pub fn statistic(&self, statistic: Statistic) -> u64 {
        match statistic {
            Statistic::OutboxOldestAge => self.oldest_debit().map_or(0, |since| clock::since(since).as_secs()),
            Statistic::LeaseLeft => self.lease_left(),
            Statistic::EngineUp => u64::from(self.engine_is_up()),
            Statistic::StoreFailing => u64::from(self.is_store_failing()),
            Statistic::ResumeWorkersStuck => self.stuck(|process| !matches!(process, Process::Events(_))),
            Statistic::EventWorkersStuck => self.stuck(|process| matches!(process, Process::Events(_))),
            Statistic::ReserveLatencyCount => self.latency(Latency::Reserve).count(),
            Statistic::ReserveLatencySum => self.latency(Latency::Reserve).sum(),
            Statistic::DebitLatencyCount => self.latency(Latency::Debit).count(),
            Statistic::DebitLatencySum => self.latency(Latency::Debit).sum(),
            Statistic::EnablerLatencyCount => self.latency(Latency::Enabler).count(),
            Statistic::EnablerLatencySum => self.latency(Latency::Enabler).sum(),
            _ => self.counter(statistic).load(Ordering::Relaxed),
        }
    }

    /// Returns the seconds that are left of the lease: from the gate, so that they are right while the engine is down; of
    /// a gate without a limit (`on_failure=grant`), as the engine has last stored them.
    fn lease_left(&self) -> u64 {
        match self.table().lease.until() {
            Lease::UNLIMITED => self.counter(Statistic::LeaseLeft).load(Ordering::Relaxed),
            until => until.micros_since(clock::now()) / 1_000_000,
        }
    }

    /// Returns the distribution of a latency.
    pub fn latency(&self, latency: Latency) -> &Histogram {
        &self.map.slice(self.map.layout.latencies, Latency::ALL.len())[latency as usize]
    }

    /// Returns the word of a statistic.
    pub fn counter(&self, statistic: Statistic) -> &AtomicU64 {
        &self.map.slice(self.map.layout.counters, Statistic::ALL.len())[statistic as usize]
    }

    /// Adds one to a counter.
    pub fn count(&self, statistic: Statistic) {
        self.counter(statistic).fetch_add(1, Ordering::Relaxed);
    }

    /// Sets which event routes the script has. Call before `fork`.
    pub fn set_event_routes(&self, routes: EventRoutes) {
        self.map.header().event_routes.store(routes.to_bits(), Ordering::Relaxed);
    }

    /// Returns which event routes the script has.
    pub fn event_routes(&self) -> EventRoutes {
        EventRoutes::from_bits(self.map.header().event_routes.load(Ordering::Relaxed))
    }

    /// Sets the prices of a tariff of the configuration, by its number, for sessions opened from now on.
    pub fn set_tariff(&self, number: usize, tariff: Tariff) {
        let word = u64::from(tariff.message) << 32 | u64::from(tariff.kilobyte);
        if let Some(place) = self.map.header().tariffs.get(number) {
            place.store(word, Ordering::Release);
        }
    }

    /// Sets the configured prices for sessions opened from now on.
    pub fn reset_tariffs(&self) {
        self.config.tariffs.rows().iter().enumerate().for_each(|(number, row)| self.set_tariff(number, row.tariff));
    }

    /// Returns the prices of a tariff of the configuration, by its number, for new sessions.
    pub fn tariff(&self, number: usize) -> Tariff {
        let word = self.map.header().tariffs.get(number).map_or(0, |tariff| tariff.load(Ordering::Acquire));
        Tariff { message: (word >> 32) as u32, kilobyte: word as u32 }
    }

    /// Whether size has a price in any tariff.
    pub fn has_price_by_size(&self) -> bool {
        (0..self.config.tariffs.rows().len()).any(|number| self.tariff(number).kilobyte > 0)
    }

    /// Number of event rings.
    pub fn processes(&self) -> usize {
        self.map.layout.sizes.processes
    }

    /// Number of resume workers.
    pub fn resume_workers(&self) -> usize {
        self.map.layout.sizes.resume_workers
    }

    /// Number of event workers.
    pub fn event_workers(&self) -> usize {
        self.map.layout.sizes.event_workers
    }

    /// All processes that can run routes of the script for this module.
    pub fn script_processes(&self) -> impl Iterator<Item = Process> + use<> {
        let Sizes { processes, resume_workers, event_workers, .. } = self.map.layout.sizes;
        let resume = (0..resume_workers).map(Process::Resume);
        resume.chain((0..event_workers).map(Process::Events)).chain((0..processes).map(Process::Host))
    }

    /// Returns the current run of the script in a process.
    pub fn script_run(&self, process: Process) -> &Run {
        let sizes = self.map.layout.sizes;
        let at = match process {
            Process::Resume(index) => index,
            Process::Events(index) => sizes.resume_workers + index,
            Process::Host(index) => sizes.readers() + index,
        };
        &self.map.slice(self.map.layout.runs, sizes.readers() + sizes.processes)[at]
    }

    /// Number of these processes whose current run of the script is slow.
    fn stuck(&self, of: impl Fn(Process) -> bool) -> u64 {
        let now = clock::now();
        let is_slow = |process: &Process| of(*process) && self.script_run(*process).slow_since(now).is_some();
        self.script_processes().filter(is_slow).count() as u64
    }

    /// Whether every resume worker is stuck in the script, so that no verdict can be delivered.
    pub fn are_resume_workers_stuck(&self, now: Time) -> bool {
        (0..self.resume_workers()).all(|index| self.script_run(Process::Resume(index)).slow_since(now).is_some())
    }

    /// Whether a verdict on a new INVITE would be late: every resume worker is stuck, the queue is more than half full,
    /// or its oldest verdict has waited for more than [`SLOW`].
    pub fn verdicts_are_late(&self) -> bool {
        let (queue, now) = (self.queue(Lane::Verdicts), clock::now());
        let waits = queue.waiting_since().is_some_and(|since| Duration::from_micros(now.micros_since(since)) > SLOW);
        waits || queue.used() > queue.size() / 2 || self.are_resume_workers_stuck(now)
    }

    /// Takes the writing end of the event ring of a process.
    pub fn event_producer(&self, process: usize) -> Result<EventProducer, AttachError> {
        self.map.producer(process)
    }

    /// Engine: takes the reading ends of all event rings, in the order of their processes.
    pub fn event_consumers(&self) -> Result<Vec<EventConsumer>, AttachError> {
        self.map.consumers()
    }

    /// Returns head and tail of the event ring of a process.
    pub fn event_ring(&self, process: usize) -> &Ends {
        self.map.ring_ends(process)
    }

    /// Returns a queue from the engine to the host's processes, to look at.
    pub fn queue(&self, lane: Lane) -> Queue<'_> {
        self.map.queue(lane)
    }

    /// Engine: takes the writing end of a queue.
    pub fn queue_producer(&self, lane: Lane) -> Result<QueueProducer<QueueClaim>, AttachError> {
        QueueClaim::producer(&self.map, lane).map(QueueProducer::new)
    }

    /// Takes the place of a resume worker or event worker at a queue.
    pub fn queue_reader(&self, lane: Lane, index: usize) -> Result<QueueClaim, AttachError> {
        QueueClaim::reader(&self.map, lane, index)
    }

    /// Octets of shared memory for one more session: its slot and its share of the indexes.
    pub fn octets_per_session(&self) -> usize {
        let layout = self.map.layout;
        (layout.total - layout.slots) / layout.sizes.slots
    }

    /// Returns where a process finds the results of its commands.
    pub fn reply_slot(&self, process: usize) -> &ReplySlot {
        &self.map.slice(self.map.layout.replies, self.processes())[process]
    }

    /// Returns the gate.
    pub fn table(&self) -> Table<'_> {
        self.map.table()
    }

    fn reader_wakers(&self, lane: Lane) -> &[ReaderWaker] {
        let sizes = self.map.layout.sizes;
        let wakers = self.map.slice(self.map.layout.reader_wakers, sizes.readers());
        let (resume, events) = wakers.split_at(sizes.resume_workers);
        match lane {
            Lane::Verdicts => resume,
            Lane::Events => events,
        }
    }

    /// Engine: wakes readers of a queue, at most one for each new record. Call after publishing.
    pub fn wake_readers(&self, lane: Lane, records: usize) {
        let wakers = self.reader_wakers(lane).iter().map(|waker| &waker.0);
        wake_some(wakers, records, |waker| eventfd::wake(waker.word()));
    }

    /// Sleeps until the queue has a record or the time is over.
    pub fn reader_sleep(&self, lane: Lane, index: usize, at_most: Duration) {
        let (waker, queue) = (&self.reader_wakers(lane)[index].0, self.queue(lane));
        waker.sleep(|| queue.used() == 0, || eventfd::wait(waker.word(), ASLEEP, at_most));
    }

    /// Returns the descriptors that the engine needs of those it inherits.
    pub fn descriptors(&self) -> Vec<i32> {
        self.engine_eventfd.iter().map(EventFd::fd).chain([self.state_directory.fd()]).collect()
    }

    /// Removes the region's file, once everything in it is settled.
    pub fn remove_file(&self) {
        let _ = std::fs::remove_file(&self.map.path);
    }
}

/// Creates the file, allocates its pages and maps it.
fn create_file(path: PathBuf, layout: Layout) -> Result<Map, RegionError> {
    let failed = |what: &str, error: io::Error| {
        let size = layout.total >> 20;
        RegionError(format!(
            "cannot {what} {size} MiB of shared memory in {SHARED_MEMORY}: {error}; \
             make {SHARED_MEMORY} larger or lower max_sessions"
        ))
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path)
        .map_err(|error| failed("create", error))?;
    allocate(&file, &path, layout.total).map_err(|error| failed("allocate", error))?;
    Map::new(&file, layout, path).map_err(|error| failed("map", error))
}

/// Allocates the file's pages; removes the file if there is no room.
fn allocate(file: &File, path: &Path, octets: usize) -> io::Result<()> {
    // SAFETY: an open descriptor; no pointer involved.
    let code = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, octets as libc::off_t) };
    if code != 0 {
        let _ = std::fs::remove_file(path);
        return Err(io::Error::from_raw_os_error(code));
    }
    Ok(())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn region() -> (tempfile::TempDir, Arc<Region>) {
        let folder = tempfile::tempdir().expect("a folder");
        let config = Config { state_dir: folder.path().to_owned(), max_sessions: 16, ..Config::default() };
        let lock = StateDirectory::lock(folder.path()).expect("not locked");
        let region = Region::create(config, 2, lock).unwrap_or_else(|error| panic!("{error}"));
        region.remove_file();
        (folder, region)
    }

    #[test]
    fn end_of_a_ring_is_taken_once_until_it_is_dropped() {
        let (_folder, region) = region();
        let producer = region.event_producer(1).expect("not taken yet");
        assert_eq!(region.event_producer(1).err(), Some(AttachError::Taken(End::Producer(1))));
        assert_eq!(region.event_producer(2).err(), Some(AttachError::OutOfRange(End::Producer(2))));
        assert!(region.event_producer(0).is_ok());
        drop(producer);
        assert!(region.event_producer(1).is_ok());
        let consumers = region.event_consumers().expect("not taken yet");
        assert_eq!(region.event_consumers().err(), Some(AttachError::Taken(End::Consumer(0))));
        assert_eq!(consumers.len(), 2);
    }

    #[test]
    fn end_of_a_queue_is_taken_once_until_it_is_dropped() {
        let (_folder, region) = region();
        let producers = Lane::ALL.map(|lane| region.queue_producer(lane).expect("not taken yet"));
        let taken = region.queue_producer(Lane::Events).err();
        assert_eq!(taken, Some(AttachError::Taken(End::QueueProducer(Lane::Events))));
        drop(producers);
        assert!(region.queue_producer(Lane::Events).is_ok());
        let reader = region.queue_reader(Lane::Verdicts, 0).expect("not taken yet");
        let taken = region.queue_reader(Lane::Verdicts, 0).err();
        assert_eq!(taken, Some(AttachError::Taken(End::Reader(Lane::Verdicts, 0))));
        let last = region.event_workers() - 1;
        assert!(region.queue_reader(Lane::Events, last).is_ok());
        assert!(region.queue_reader(Lane::Events, last + 1).is_err());
        drop(reader);
        assert!(region.queue_reader(Lane::Verdicts, 0).is_ok());
    }

    #[test]
    fn lease_left_follows_the_gate_and_without_its_limit_the_engine() {
        let (_folder, region) = region();
        let left = || region.statistic(Statistic::LeaseLeft);
        region.counter(Statistic::LeaseLeft).store(60, Ordering::Relaxed);
        region.table().lease.set(clock::now().after_seconds(30));
        let rest = left();
        assert!((28..=30).contains(&rest), "{rest}");
        region.table().lease.set(Time(1));
        assert_eq!(left(), 0);
        region.table().lease.set(Lease::UNLIMITED);
        assert_eq!(left(), 60);
    }

    #[test]
    fn end_of_a_ring_keeps_the_memory_mapped() {
        let (_folder, region) = region();
        let mut producer = region.event_producer(0).expect("not taken yet");
        let consumer = region.event_consumers().expect("not taken yet").remove(0);
        drop(region);
        assert_eq!(producer.write(0, |space| Some(space.len())), Ok(true));
        producer.publish();
        assert_eq!(consumer.read_at(0).map(|(record, _)| record.len()), Some(crate::shm::ring::RECORD_MAX));
    }
}
