//! The shared region: rings, gate and counters in one named file of shared memory.
//!
//! ```text
//!  header │ counters │ latencies │ reply slots │ script runs │ event rings (one a process) │ queues │ slots │ indexes
//! ```
//!
//! The file has a name (`/dev/shm/imcharge-<state dir>-<instance>`), so that what the host's processes wrote
//! survives them: the engine of the next instance reads what the killed one left behind. It is made with mode
//! 0600 and its pages are taken at once: a full memory file system refuses the start instead of killing a process later.

mod usage;

use super::clock;
use super::latency::{Histogram, Latency};
use super::queue::Queue;
use super::ring::{Ends, Ring};
use super::statistic::Statistic;
use super::sync::{AtomicU32, AtomicU64, Ordering};
use crate::charge::ch2::SessionKey;
use crate::charge::time::Time;
use crate::config::Config;
use crate::engine::store::StoreError;
use crate::log_lines::NOTICE;
use crate::shm::eventfd;
use crate::shm::eventfd::EventFd;
use crate::shm::gate::{Chained, Index, OWN_RECORDS, Slot, StreamRecord, Table};
use crate::shm::script_runs::{Process, Run, SLOW};
use crate::shm::wakeup::{ASLEEP, EngineWaker, WakeWord, wake_some};
use crate::simulate::{self, InjectedBug, is_injected};
use crate::wire::msrp::{HOST_MAX, Uri};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::{Duration, Instant};

pub use usage::Usage;

/// Changes with the layout: a file of another version is not read.
const MAGIC: u64 = 0x696d_6368_6172_000d;

/// Octets of one event ring.
const RING_SIZE: usize = simulate::sized(512 * 1024, 32 * 1024);

/// Words of the queue of verdicts: room for ten thousand. INVITEs are refused from half of that on.
const VERDICT_WORDS: usize = simulate::sized(256 * 1024, 4 * 1024);

/// Words of the queue of what the event routes are told.
const EVENT_WORDS: usize = simulate::sized(64 * 1024, 4 * 1024);

/// Records of streams in the pool at least.
const STREAMS_POOL_MIN: usize = simulate::sized(4096, 64);

/// Messages that the index has room for at least, so that the share of one session is not small where there are few sessions.
const MESSAGES_MIN: usize = simulate::sized(8192, 64);

/// Where region files live.
const SHARED_MEMORY: &str = "/dev/shm";

/// How long a starting proxy waits for the one before it to let go of the state directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// An engine that has not shown itself for so long is down. Its restart takes less than a second.
const ENGINE_SILENCE_MAX: Duration = Duration::from_secs(3);

/// The queues from the engine to the host's processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Verdicts, for the resume workers.
    Verdicts,
    /// What the event routes are told, for the event workers.
    Events,
}

impl Lane {
    /// Both, in the order of their marks in the store.
    pub const ALL: [Lane; 2] = [Lane::Verdicts, Lane::Events];
}

/// What the engine is doing, as workers see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EngineState {
    /// Not yet there, or between two lives: events are taken and will be read.
    Starting = 0,
    /// At work.
    Running = 1,
    /// It cannot write its store: new sessions are refused.
    StoreFailing = 2,
    /// The host is being stopped.
    Stopping = 3,
}

/// The head of the region.
#[repr(C, align(64))]
struct Header {
    magic: AtomicU64,
    instance: AtomicU64,
    boot: AtomicU64,
    processes: AtomicU64,
    resumers: AtomicU64,
    event_workers: AtomicU64,
    slots: AtomicU64,
    /// Keys of the hashes in the gate: nobody outside can aim at a window.
    hash_keys: [AtomicU64; 2],
    doorbell: EngineWaker,
    engine_state: AtomicU32,
    engine_pid: AtomicU32,
    stop: AtomicU32,
    /// [`clock::now`] of the last turn of an engine that was ready.
    heartbeat: AtomicU64,
    /// How often an engine has shown that it lives.
    beats: AtomicU64,
    /// Whether the engine has finished its start.
    engine_ready: AtomicU32,
    /// Whether the script has the event routes: debited 1, failed 2.
    notices: AtomicU32,
    /// Price and kind of the tariff for new sessions (see `pack_tariff`).
    tariff: AtomicU64,
    /// The last number that was given to a request of a distant enabler.
    stamp: AtomicU32,
    /// Since when the oldest debit waits for the enabler ([`Time`]); 0: none does.
    oldest_debit: AtomicU64,
    /// Whether the tables of the ledger cannot be written.
    ledger_failing: AtomicU32,
}

/// Where a process finds the answer to its command.
#[repr(C, align(64))]
#[derive(Default)]
pub struct ReplySlot {
    /// Number of the command that is answered.
    pub sequence: AtomicU64,
    /// 0: done; else what [`super::record::Command`] says.
    pub code: AtomicU32,
    /// Account after the command.
    pub balance: AtomicI64,
    /// Account after the command.
    pub held: AtomicI64,
}

/// The sleep of a resume worker or an event worker.
#[repr(C, align(64))]
struct Resting(WakeWord);

/// How many there are of what the host and the configuration decide.
#[derive(Clone, Copy)]
struct Sizes {
    processes: usize,
    resumers: usize,
    event_workers: usize,
    slots: usize,
}

impl Sizes {
    /// Resume workers and event workers.
    fn takers(&self) -> usize {
        self.resumers + self.event_workers
    }
}

/// Where the parts lie: octets from the start, computed once from the sizes.
#[derive(Clone, Copy)]
struct Layout {
    sizes: Sizes,
    counters: usize,
    latencies: usize,
    replies: usize,
    sleepers: usize,
    runs: usize,
    ends: usize,
    data: usize,
    verdicts: usize,
    events: usize,
    table: usize,
    /// Number and start of the records of streams.
    streams: (usize, usize),
    /// Entries and start of the indexes of names, messages and transactions, and the chains of the first two.
    names: (usize, usize),
    next_name: usize,
    messages: (usize, usize),
    next_message: usize,
    passed: usize,
    transactions: (usize, usize),
    total: usize,
}

/// Octets of `count` values, padded to a page.
fn area<T>(count: usize) -> usize {
    (size_of::<T>() * count).next_multiple_of(4096)
}

impl Layout {
    fn new(sizes: Sizes) -> Layout {
        let Sizes { processes, slots, .. } = sizes;
        let mut end = 0;
        let mut part = |size: usize| {
            end += size;
            end - size
        };
        // A session has its key, a dialog and two endpoints.
        let names = Index::size_for(slots * 4);
        let streams = slots * OWN_RECORDS + (slots / 2).max(STREAMS_POOL_MIN);
        let messages = Index::size_for((slots * 2).max(MESSAGES_MIN));
        let transactions = Index::size_for(slots * 2);
        part(area::<Header>(1));
        Layout {
            sizes,
            counters: part(area::<AtomicU64>(Statistic::ALL.len())),
            latencies: part(area::<Histogram>(Latency::ALL.len())),
            replies: part(area::<ReplySlot>(processes)),
            sleepers: part(area::<Resting>(sizes.takers())),
            runs: part(area::<Run>(sizes.takers() + processes)),
            ends: part(area::<Ends>(processes + Lane::ALL.len())),
            data: part(processes * RING_SIZE),
            verdicts: part(area::<AtomicU64>(VERDICT_WORDS)),
            events: part(area::<AtomicU64>(EVENT_WORDS)),
            table: part(area::<Slot>(slots)),
            streams: (streams, part(area::<StreamRecord>(streams))),
            names: (names, part(area::<AtomicU64>(names))),
            next_name: part(area::<AtomicU32>(names)),
            messages: (messages, part(area::<AtomicU64>(messages))),
            next_message: part(area::<AtomicU32>(messages)),
            passed: part(area::<AtomicU64>(messages)),
            transactions: (transactions, part(area::<AtomicU64>(transactions))),
            total: part(0),
        }
    }
}

/// A mapped region file.
struct Map {
    base: *mut u8,
    layout: Layout,
    path: PathBuf,
}

// SAFETY: everything reached through the map is atomics, or rings whose two ends have one owner each.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    fn new(file: &File, layout: Layout, path: PathBuf) -> io::Result<Map> {
        // SAFETY: a new shared mapping of a file we hold open, as long as the file; no address is asked for.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                layout.total,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Map { base: base.cast(), layout, path })
    }

    /// Takes the page faults of this process now, so that no frame waits for one. A kernel before 5.14 does not know
    /// the advice and takes them one by one as before.
    fn populate(&self) {
        // SAFETY: this mapping, whole; populating changes nothing of what stands in it.
        unsafe { libc::madvise(self.base.cast(), self.layout.total, libc::MADV_POPULATE_WRITE) };
    }

    /// `count` values at an offset of the layout.
    fn slice<T>(&self, offset: usize, count: usize) -> &[T] {
        assert!(offset + size_of::<T>() * count <= self.layout.total, "an area ends within the region");
        // SAFETY: within the mapping (checked), aligned (areas begin at page bounds), mapped as long as `self`;
        // all T used here are made of atomics, for which any bit pattern is valid.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast(), count) }
    }

    fn header(&self) -> &Header {
        &self.slice(0, 1)[0]
    }

    /// The ends of all rings, and behind them those of the queues.
    fn ends(&self) -> &[Ends] {
        self.slice(self.layout.ends, self.layout.sizes.processes + Lane::ALL.len())
    }

    fn queue(&self, lane: Lane) -> Queue<'_> {
        let (start, words) = match lane {
            Lane::Verdicts => (self.layout.verdicts, VERDICT_WORDS),
            Lane::Events => (self.layout.events, EVENT_WORDS),
        };
        Queue::over(&self.ends()[self.layout.sizes.processes + lane as usize], self.slice(start, words))
    }

    fn ring(&self, number: usize) -> Ring {
        let ends = &self.ends()[number];
        // SAFETY: the data area holds RING_SIZE octets for every ring, mapped as long as `self`, zeroed when the
        // file was made. One writer and one reader: `Worker::attach` and the engine's lock see to it.
        unsafe { Ring::at(ends, self.base.add(self.layout.data + number * RING_SIZE), RING_SIZE) }
    }

    /// The gate.
    fn table(&self) -> Table<'_> {
        let layout = self.layout;
        let index = |(entries, start)| Index::over(self.slice(start, entries));
        Table {
            slots: self.slice(layout.table, layout.sizes.slots),
            names: Chained { index: index(layout.names), next: self.slice(layout.next_name, layout.names.0) },
            streams: self.slice(layout.streams.1, layout.streams.0),
            messages: Chained {
                index: index(layout.messages),
                next: self.slice(layout.next_message, layout.messages.0),
            },
            passed: self.slice(layout.passed, layout.messages.0),
            transactions: index(layout.transactions),
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: this mapping, made in `new`, and nothing borrowed from it lives longer than `self`.
        unsafe { libc::munmap(self.base.cast(), self.layout.total) };
    }
}

/// The shared memory that host processes and engine meet in.
pub struct Region {
    map: Map,
    /// The configuration it was made with.
    pub config: Config,
    /// Holds the lock on the state directory for as long as any process of this host lives.
    state_directory: StateDirectory,
    /// For an engine that listens to connections of its own; without one, it sleeps on the word of its doorbell.
    engine_bell: Option<EventFd>,
}

/// Why there is no region: one sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegionError(pub String);

impl Region {
    /// Creates the region, before the host forks, with `processes` event rings and the queues of verdicts and events.
    /// The configuration must have been checked: see `engine::preflight`.
    pub fn create(
        config: Config,
        processes: usize,
        state_directory: StateDirectory,
    ) -> Result<Arc<Region>, RegionError> {
        let max_sessions = config.max_sessions as usize;
        let slots = max_sessions + max_sessions / 4 + 16;
        let (resumers, event_workers) = (config.resume_workers as usize, config.event_workers as usize);
        let layout = Layout::new(Sizes { processes: processes.clamp(1, 4096), resumers, event_workers, slots });
        let refused = |what: &str, error: io::Error| {
            let size = layout.total >> 20;
            RegionError(format!(
                "cannot {what} shared memory of {size} MiB in {SHARED_MEMORY}: {error}; \
                 give it more room, or set a lower max_sessions"
            ))
        };
        let instance = random();
        let path = PathBuf::from(format!("{}{instance:016x}", prefix(&config.state_dir)));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path)
            .map_err(|error| refused("create", error))?;
        // SAFETY: a descriptor we hold open; no pointer involved.
        let taken = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, layout.total as libc::off_t) };
        if taken != 0 {
            let _ = std::fs::remove_file(&path);
            return Err(refused("take", io::Error::from_raw_os_error(taken)));
        }
        let map = Map::new(&file, layout, path).map_err(|error| refused("map", error))?;
        let engine_bell = config.enabler.capabilities.has_connections.then(EventFd::new).transpose();
        let region = Region {
            map,
            engine_bell: engine_bell.map_err(|error| refused("make the doorbell of", error))?,
            config,
            state_directory,
        };
        region.fill_header(instance);
        let config = &region.config;
        log::info!(
            target: NOTICE,
            "imcharge {}: enabler {}, tariff {}, state directory {}",
            env!("CARGO_PKG_VERSION"),
            config.enabler.name,
            config.tariff,
            config.state_dir.display()
        );
        Ok(Arc::new(region))
    }

    fn fill_header(&self, instance: u64) {
        let header = self.header();
        let sizes = self.map.layout.sizes;
        header.instance.store(instance, Ordering::Relaxed);
        header.boot.store(boot(), Ordering::Relaxed);
        header.processes.store(sizes.processes as u64, Ordering::Relaxed);
        header.resumers.store(sizes.resumers as u64, Ordering::Relaxed);
        header.event_workers.store(sizes.event_workers as u64, Ordering::Relaxed);
        header.slots.store(sizes.slots as u64, Ordering::Relaxed);
        header.hash_keys[0].store(random(), Ordering::Relaxed);
        header.hash_keys[1].store(random(), Ordering::Relaxed);
        header.heartbeat.store(clock::now().0, Ordering::Relaxed);
        // High 12 bits from the time, the others by chance (RFC 6733, 3): counting on from here, no earlier run's number
        // comes again within the 4 minutes asked for.
        let seconds = (clock::wall_ms() / 1000) as u32;
        header.stamp.store(seconds << 20 | random() as u32 >> 12, Ordering::Relaxed);
        self.set_tariff(self.config.tariff);
        header.magic.store(MAGIC, Ordering::Release);
    }

    fn header(&self) -> &Header {
        self.map.header()
    }

    /// Makes the whole region ready in the page tables of this process: what `fork` does not copy.
    pub fn populate(&self) {
        self.map.populate();
    }

    /// A number that no request of the last 4 billion had; never 0.
    pub fn stamp(&self) -> u32 {
        let next = || self.header().stamp.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        match next() {
            0 => next(),
            stamp => stamp,
        }
    }

    /// Number of this run of the host.
    pub fn instance(&self) -> u64 {
        self.header().instance.load(Ordering::Relaxed)
    }

    /// The value of a statistic now.
    pub fn statistic(&self, statistic: Statistic) -> u64 {
        match statistic {
            Statistic::OutboxOldestAge => self.oldest_debit().map_or(0, |since| clock::since(since).as_secs()),
            Statistic::EngineUp => u64::from(self.engine_is_up()),
            Statistic::StoreFailing => u64::from(self.store_is_failing()),
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

    /// How long something took so far.
    pub fn latency(&self, latency: Latency) -> &Histogram {
        &self.map.slice(self.map.layout.latencies, Latency::ALL.len())[latency as usize]
    }

    /// Since when the oldest debit waits for the enabler. Its age rises also while no engine is there to say so.
    fn oldest_debit(&self) -> Option<Time> {
        let since = self.header().oldest_debit.load(Ordering::Relaxed);
        (since != 0).then_some(Time(since))
    }

    /// Engine: says since when the oldest debit waits.
    pub fn set_oldest_debit(&self, since: Option<Time>) {
        self.header().oldest_debit.store(since.map_or(0, |since| since.0), Ordering::Relaxed);
    }

    /// A counter.
    pub fn counter(&self, statistic: Statistic) -> &AtomicU64 {
        &self.map.slice(self.map.layout.counters, Statistic::ALL.len())[statistic as usize]
    }

    /// Adds one to a counter.
    pub fn count(&self, statistic: Statistic) {
        self.counter(statistic).fetch_add(1, Ordering::Relaxed);
    }

    /// Asks for notices of debits and failures too (the script has the event routes). Before fork.
    pub fn want_notices(&self, debited: bool, failed: bool) {
        self.header().notices.store(u32::from(debited) | u32::from(failed) << 1, Ordering::Relaxed);
    }

    /// Whether the script wants to hear of debits, and of failures.
    pub fn wanted_notices(&self) -> (bool, bool) {
        let notices = self.header().notices.load(Ordering::Relaxed);
        (notices & 1 != 0, notices & 2 != 0)
    }

    /// Sets the tariff of sessions opened from now on.
    pub fn set_tariff(&self, tariff: crate::charge::tariff::Tariff) {
        use crate::charge::tariff::Per;
        let kilobyte = u64::from(tariff.per == Per::Kilobyte) << 32;
        self.header().tariff.store(kilobyte | u64::from(tariff.price), Ordering::Release);
    }

    /// The tariff of sessions opened now.
    pub fn tariff(&self) -> crate::charge::tariff::Tariff {
        use crate::charge::tariff::{Per, Tariff};
        let word = self.header().tariff.load(Ordering::Acquire);
        let per = if word >> 32 == 0 { Per::Message } else { Per::Kilobyte };
        Tariff { per, price: word as u32 }
    }

    /// Event rings.
    pub fn processes(&self) -> usize {
        self.map.layout.sizes.processes
    }

    /// Resume workers.
    pub fn resumers(&self) -> usize {
        self.map.layout.sizes.resumers
    }

    /// Event workers.
    pub fn event_workers(&self) -> usize {
        self.map.layout.sizes.event_workers
    }

    /// All that can run routes of the script for this module.
    pub fn script_processes(&self) -> impl Iterator<Item = Process> + use<> {
        let Sizes { processes, resumers, event_workers, .. } = self.map.layout.sizes;
        let resume = (0..resumers).map(Process::Resume);
        resume.chain((0..event_workers).map(Process::Events)).chain((0..processes).map(Process::Host))
    }

    /// What a process runs in the script now.
    pub fn run(&self, process: Process) -> &Run {
        let sizes = self.map.layout.sizes;
        let at = match process {
            Process::Resume(index) => index,
            Process::Events(index) => sizes.resumers + index,
            Process::Host(index) => sizes.takers() + index,
        };
        &self.map.slice(self.map.layout.runs, sizes.takers() + sizes.processes)[at]
    }

    /// How many of these processes have been in one run of the script for too long.
    fn stuck(&self, of: impl Fn(Process) -> bool) -> u64 {
        let now = clock::now();
        self.script_processes().filter(|process| of(*process) && self.run(*process).slow_since(now).is_some()).count()
            as u64
    }

    /// Whether every resume worker has been in one run of the script for too long: no verdict can be delivered.
    pub fn resumers_are_stuck(&self, now: Time) -> bool {
        (0..self.resumers()).all(|index| self.run(Process::Resume(index)).slow_since(now).is_some())
    }

    /// Whether a verdict on a new INVITE would not be delivered in time: every resume worker is stuck, or they are too far
    /// behind.
    pub fn verdicts_are_late(&self) -> bool {
        let (queue, now) = (self.queue(Lane::Verdicts), clock::now());
        let waits = queue.waiting_since().is_some_and(|since| Duration::from_micros(now.micros_since(since)) > SLOW);
        waits || queue.used() > queue.size() / 2 || self.resumers_are_stuck(now)
    }

    /// Event ring of a process.
    pub fn event_ring(&self, process: usize) -> Ring {
        assert!(process < self.processes(), "a process has a ring of its own");
        self.map.ring(process)
    }

    /// A queue from the engine to the host's processes.
    pub fn queue(&self, lane: Lane) -> Queue<'_> {
        self.map.queue(lane)
    }

    /// Octets of shared memory that one more session takes: its slot and its share of the indexes.
    pub fn octets_per_session(&self) -> usize {
        let layout = self.map.layout;
        (layout.total - layout.table) / layout.sizes.slots
    }

    /// Where a process finds answers to its commands.
    pub fn reply_slot(&self, process: usize) -> &ReplySlot {
        &self.map.slice(self.map.layout.replies, self.processes())[process]
    }

    /// The gate.
    pub fn table(&self) -> Table<'_> {
        self.map.table()
    }

    /// The name by which workers find a session.
    pub fn name_of_session(&self, session: SessionKey) -> u64 {
        self.hash(&[b"session", &session.0.to_le_bytes(), &session.1.to_le_bytes()])
    }

    /// The name of a dialog: Call-ID and the hashes of both tags, in either order.
    pub fn name_of_dialog(&self, call_id: &[u8], one: u64, other: u64) -> u64 {
        self.hash(&[b"dialog", call_id, &one.min(other).to_le_bytes(), &one.max(other).to_le_bytes()])
    }

    /// The hash of an MSRP endpoint: its whole URI (RFC 4975, 6.1).
    pub fn hash_of_endpoint(&self, uri: &Uri<'_>) -> u64 {
        if is_injected(InjectedBug::SessionIdAlone) {
            return self.hash(&[b"uri", uri.session_id.as_bytes()]);
        }
        let (mut host, mut port) = ([0; HOST_MAX], [0; 3]);
        let host = uri.canonical_host(&mut host);
        if let Some(number) = uri.port {
            port[0] = 1;
            port[1..].copy_from_slice(&number.to_le_bytes());
        }
        let mut transport = [0; 16];
        let transport = match transport.get_mut(..uri.transport.len()) {
            Some(transport) => {
                transport.copy_from_slice(uri.transport.as_bytes());
                transport.make_ascii_lowercase();
                &*transport
            }
            // No transport has so long a name.
            None => uri.transport.as_bytes(),
        };
        self.hash(&[b"uri", &[u8::from(uri.secure)], host, &port, uri.session_id.as_bytes(), transport])
    }

    /// The hash of a message of a session, as the gate knows it.
    pub fn hash_of_message(&self, session: SessionKey, message_id: &str) -> u64 {
        self.hash(&[b"message", &session.0.to_le_bytes(), &session.1.to_le_bytes(), message_id.as_bytes()])
    }

    /// Hash of something that a slot is found by. Never 0.
    pub fn hash(&self, parts: &[&[u8]]) -> u64 {
        use std::hash::Hasher;
        let keys = &self.header().hash_keys;
        let (one, two) = (keys[0].load(Ordering::Relaxed), keys[1].load(Ordering::Relaxed));
        let mut hasher = siphasher::sip::SipHasher13::new_with_keys(one, two);
        for part in parts {
            hasher.write_usize(part.len());
            hasher.write(part);
        }
        hasher.finish().max(1)
    }

    /// Says that someone waits for what comes of an event just published, and wakes the engine if it sleeps.
    pub fn wake_engine(&self) {
        let doorbell = &self.header().doorbell;
        doorbell.wake(|| match &self.engine_bell {
            Some(bell) => bell.ring(),
            None => eventfd::wake(doorbell.word()),
        });
    }

    /// Engine: sleeps until someone waits for it, a connection of its own has something, or the time is over. Events
    /// that nobody waits for do not end its sleep: they are read together on the next turn.
    pub fn engine_sleep(&self, at_most: Duration, connections: &[(RawFd, bool)]) {
        let doorbell = &self.header().doorbell;
        doorbell.sleep(|| match &self.engine_bell {
            Some(bell) => bell.wait(at_most, connections),
            None => eventfd::wait(doorbell.word(), ASLEEP, at_most),
        });
    }

    /// Engine: what was urgent so far is about to be read.
    pub fn begin_turn(&self) {
        self.header().doorbell.begin_turn();
    }

    /// The sleeps of those who take from a queue.
    fn sleepers(&self, lane: Lane) -> &[Resting] {
        let sizes = self.map.layout.sizes;
        let (resume, events) = self.map.slice(self.map.layout.sleepers, sizes.takers()).split_at(sizes.resumers);
        match lane {
            Lane::Verdicts => resume,
            Lane::Events => events,
        }
    }

    /// Engine: wakes those who take from a queue, as many as there are new records. Call after publishing them.
    pub fn wake_takers(&self, lane: Lane, records: usize) {
        let sleepers = self.sleepers(lane).iter().map(|resting| &resting.0);
        wake_some(sleepers, records, |sleeper| eventfd::wake(sleeper.word()));
    }

    /// Who takes from a queue: sleeps until a record comes or the time is over.
    pub fn taker_sleep(&self, lane: Lane, index: usize, at_most: Duration) {
        let (sleeper, queue) = (&self.sleepers(lane)[index].0, self.queue(lane));
        sleeper.sleep(|| queue.used() == 0, || eventfd::wait(sleeper.word(), ASLEEP, at_most));
    }

    /// Engine: shows that it lives.
    pub fn beat(&self) {
        let header = self.header();
        header.beats.fetch_add(1, Ordering::Relaxed);
        if self.engine_is_ready() {
            header.heartbeat.store(clock::now().0, Ordering::Relaxed);
        }
    }

    /// How often an engine has shown that it lives.
    pub fn beats(&self) -> u64 {
        self.header().beats.load(Ordering::Relaxed)
    }

    /// Supervisor: a new engine is about to be started.
    pub fn engine_begins(&self) {
        self.header().engine_ready.store(0, Ordering::Release);
    }

    /// Engine: its start is over.
    pub fn engine_is_ready_now(&self) {
        self.set_engine_state(EngineState::Running);
        self.header().engine_ready.store(1, Ordering::Release);
        self.beat();
    }

    /// Whether the engine that was started last has finished its start.
    pub fn engine_is_ready(&self) -> bool {
        self.header().engine_ready.load(Ordering::Acquire) == 1
    }

    /// How long ago an engine that was ready last showed that it lives.
    fn heartbeat_age(&self) -> Duration {
        clock::since(Time(self.header().heartbeat.load(Ordering::Relaxed)))
    }

    /// What the engine is doing.
    pub fn engine_state(&self) -> EngineState {
        match self.header().engine_state.load(Ordering::Acquire) {
            1 => EngineState::Running,
            2 => EngineState::StoreFailing,
            3 => EngineState::Stopping,
            _ => EngineState::Starting,
        }
    }

    /// Whether the engine takes new sessions: it has shown itself not long ago, and is neither stopping nor unable to
    /// write its store. One that is being started again will have read what waits for it in less than a second.
    pub fn engine_is_up(&self) -> bool {
        let failing = matches!(self.engine_state(), EngineState::StoreFailing | EngineState::Stopping);
        !failing && self.heartbeat_age() <= ENGINE_SILENCE_MAX
    }

    /// Engine and supervisor: says what the engine is doing.
    pub fn set_engine_state(&self, state: EngineState) {
        self.header().engine_state.store(state as u32, Ordering::Release);
    }

    /// Engine: the journal cannot be written or has no room, or the store cannot be opened at all.
    pub fn report_store_failure(&self, error: &StoreError) {
        if self.engine_state() != EngineState::StoreFailing {
            log::error!("{error}; new sessions are refused, events wait in shared memory until it can be written");
        }
        self.set_engine_state(EngineState::StoreFailing);
    }

    /// Engine: whether the tables of the ledger cannot be written, what the journal keeps for them, and what readers
    /// keep in the write-ahead log.
    pub fn report_ledger(&self, is_failing: bool, journal_octets: u64, log_octets: u64) {
        self.header().ledger_failing.store(u32::from(is_failing), Ordering::Relaxed);
        self.counter(Statistic::JournalOctets).store(journal_octets, Ordering::Relaxed);
        self.counter(Statistic::LedgerLogOctets).store(log_octets, Ordering::Relaxed);
    }

    /// Whether the journal or the tables cannot be written.
    fn store_is_failing(&self) -> bool {
        let tables = self.header().ledger_failing.load(Ordering::Relaxed) == 1;
        tables || self.engine_state() == EngineState::StoreFailing
    }

    /// Asks the engine to settle and return.
    pub fn request_stop(&self) {
        self.header().stop.store(1, Ordering::Release);
        self.wake_engine();
    }

    /// Whether the engine is asked to return.
    pub fn stop_requested(&self) -> bool {
        self.header().stop.load(Ordering::Acquire) == 1
    }

    /// Descriptors that the engine needs of all it inherits.
    pub fn descriptors(&self) -> Vec<i32> {
        self.engine_bell.iter().map(EventFd::fd).chain([self.state_directory.0.as_raw_fd()]).collect()
    }

    /// Removes the region's file: everything in it is settled.
    pub fn remove_file(&self) {
        let _ = std::fs::remove_file(&self.map.path);
    }

    /// Engine: the event rings that earlier instances left behind on this state directory.
    pub fn orphaned(&self) -> Vec<OrphanedRegion> {
        let prefix = prefix(&self.config.state_dir);
        let Ok(entries) = std::fs::read_dir(SHARED_MEMORY) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let others =
            paths.filter(|path| path.as_os_str().as_bytes().starts_with(prefix.as_bytes()) && *path != self.map.path);
        others.filter_map(|path| OrphanedRegion::open(&path)).collect()
    }
}

/// The region of an instance that is gone.
pub struct OrphanedRegion {
    map: Map,
}

impl OrphanedRegion {
    /// Opens a file if it is ours and whole; removes it if it cannot be one of this boot.
    fn open(path: &Path) -> Option<OrphanedRegion> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        // SAFETY: no argument, no failure.
        if metadata.uid() != unsafe { libc::geteuid() } || (metadata.len() as usize) < area::<Header>(1) {
            log::warn!("{}: not a region of this user, left alone", path.display());
            return None;
        }
        let layout = Self::layout(&file, path, metadata.len() as usize);
        if layout.is_none() {
            log::warn!("{}: left by another version or boot, nothing in it can be read", path.display());
            let _ = std::fs::remove_file(path);
        }
        let map = Map::new(&file, layout?, path.to_owned()).ok()?;
        Some(OrphanedRegion { map })
    }

    /// The layout by the header, if it fits the file and the file is of this version and boot.
    fn layout(file: &File, path: &Path, length: usize) -> Option<Layout> {
        let nothing = Sizes { processes: 0, resumers: 0, event_workers: 0, slots: 0 };
        let head = Map::new(file, Layout::new(nothing), path.to_owned()).ok()?;
        let header = head.header();
        let size = |value: &AtomicU64| usize::try_from(value.load(Ordering::Relaxed)).ok().filter(|v| *v < 1 << 24);
        let layout = Layout::new(Sizes {
            processes: size(&header.processes)?,
            resumers: size(&header.resumers)?,
            event_workers: size(&header.event_workers)?,
            slots: size(&header.slots)?,
        });
        let ours = header.magic.load(Ordering::Acquire) == MAGIC && header.boot.load(Ordering::Relaxed) == boot();
        (ours && layout.total <= length).then_some(layout)
    }

    /// Its instance number.
    pub fn instance(&self) -> u64 {
        self.map.header().instance.load(Ordering::Relaxed)
    }

    /// Its event rings.
    pub fn event_rings(&self) -> Vec<Ring> {
        (0..self.map.layout.sizes.processes).map(|number| self.map.ring(number)).collect()
    }

    /// Removes its file: everything in it is committed.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.map.path);
    }
}

/// How the region files of a state directory begin.
fn prefix(state_dir: &Path) -> String {
    use std::hash::Hasher;
    let whole = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(whole.as_os_str().as_bytes());
    format!("{SHARED_MEMORY}/imcharge-{:016x}-", hasher.finish())
}

/// Tells this boot of the machine from every other.
fn boot() -> u64 {
    use std::hash::Hasher;
    let id = std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let mut hasher = siphasher::sip::SipHasher13::new();
    hasher.write(&id);
    hasher.finish()
}

/// 64 random bits of the kernel.
fn random() -> u64 {
    simulate::random().unwrap_or_else(random_of_the_kernel)
}

fn random_of_the_kernel() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: a buffer of that length. With 8 octets it is all or nothing, and nothing only before the
    // kernel's pool is filled at boot.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u64::from_ne_bytes(bytes)
}

/// Who can read the ledger knows who was served when.
fn warn_of_others(state_dir: &Path) {
    let mode = std::fs::metadata(state_dir).map_or(0, |metadata| metadata.mode() & 0o7777);
    if mode & 0o007 != 0 {
        log::warn!(
            "state_dir {} is open to every user of this machine (mode {mode:04o}): make it 0750",
            state_dir.display()
        );
    }
}

/// The lock of a state directory. It is held as long as a process of this host lives, because all have the descriptor.
#[derive(Debug)]
pub struct StateDirectory(File);

impl StateDirectory {
    /// Locks the directory for this host, waiting a few seconds for another one to end. Warns if other users may read
    /// it.
    pub fn lock(state_dir: &Path) -> Result<StateDirectory, RegionError> {
        let lock = lock(state_dir)?;
        warn_of_others(state_dir);
        Ok(StateDirectory(lock))
    }
}

fn lock(state_dir: &Path) -> Result<File, RegionError> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(&path).map_err(|error| {
        RegionError(format!(
            "parameter state_dir: cannot write {}: {error}; the folder must exist and belong to the user of the proxy",
            path.display()
        ))
    })?;
    let started = Instant::now();
    // SAFETY: a descriptor we hold open; no pointer involved.
    while unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
        if started.elapsed() > LOCK_PATIENCE {
            return Err(RegionError(format!(
                "another proxy uses the state directory {}; each proxy needs one of its own",
                state_dir.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(file)
}
