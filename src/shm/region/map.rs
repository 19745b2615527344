//! The mapped region file.

use super::Lane;
use super::claim::{AttachError, Claim, End};
use super::header::Header;
use super::layout::{EVENT_WORDS, Layout, RING_OCTETS, VERDICT_WORDS};
use crate::shm::gate::{Chained, Index, Table};
use crate::shm::queue::Queue;
use crate::shm::ring::{Consumer, Ends, Producer};
use crate::shm::shared::Shared;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The writing end of a process's event ring.
pub type EventProducer = Producer<Claim>;

/// The engine's end of a process's event ring.
pub type EventConsumer = Consumer<Claim>;

/// A mapped region file.
pub(crate) struct Map {
    base: *mut u8,
    pub layout: Layout,
    pub path: PathBuf,
    /// The ends that this process has taken (see [`End`]).
    pub taken: Box<[AtomicBool]>,
}

// SAFETY: all that safe methods give access to is `Shared`; the data of rings is accessed by `Producer` and `Consumer`,
// of which each ring has one.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps a file of at least the layout's size.
    pub fn new(file: &File, layout: Layout, path: PathBuf) -> io::Result<Map> {
        // SAFETY: a new shared mapping of an open file that is as long; the kernel chooses the address.
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
        let taken = (0..End::count(layout.sizes)).map(|_| AtomicBool::new(false)).collect();
        Ok(Map { base: base.cast(), layout, path, taken })
    }

    /// Takes the page faults of this process now instead of during a call. Kernels before 5.14 ignore it.
    pub fn prefault(&self) {
        // SAFETY: the whole of this mapping; the advice does not change its contents.
        unsafe { libc::madvise(self.base.cast(), self.layout.total, libc::MADV_POPULATE_WRITE) };
    }

    /// `count` values at an offset of the layout.
    pub fn slice<T: Shared>(&self, offset: usize, count: usize) -> &[T] {
        assert!(offset + size_of::<T>() * count <= self.layout.total, "an area lies within the region");
        // SAFETY: within the mapping (checked), aligned (areas begin at pages), mapped as long as `self`; `T: Shared` may
        // be changed by other processes, and every bit pattern is a value.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast(), count) }
    }

    pub fn header(&self) -> &Header {
        &self.slice(0, 1)[0]
    }

    /// Head and tail of the event rings, followed by those of the queues.
    fn ends(&self) -> &[Ends] {
        self.slice(self.layout.ends, self.layout.sizes.processes + Lane::ALL.len())
    }

    /// Head and tail of the event ring of a process.
    pub fn ring_ends(&self, process: usize) -> &Ends {
        &self.ends()[..self.layout.sizes.processes][process]
    }

    /// Start of the event ring of a process.
    fn ring_data(&self, process: usize) -> *mut u8 {
        // SAFETY: the layout has RING_OCTETS for each process, within the mapping; `process` was checked by the claim.
        unsafe { self.base.add(self.layout.rings + process * RING_OCTETS) }
    }

    pub fn producer(self: &Arc<Map>, process: usize) -> Result<EventProducer, AttachError> {
        let claim = Claim::take(self, End::Producer(process))?;
        // SAFETY: the claim keeps the mapping. It holds the only producer of this process; processes that were forked
        // from the one that made the region take different indices, which is what `fork` is unsafe for.
        Ok(unsafe { Producer::over(self.ring_ends(process), self.ring_data(process), RING_OCTETS, claim) })
    }

    pub fn consumer(self: &Arc<Map>, process: usize) -> Result<EventConsumer, AttachError> {
        let claim = Claim::take(self, End::Consumer(process))?;
        // SAFETY: as in `producer`; one process runs the engine.
        Ok(unsafe { Consumer::over(self.ring_ends(process), self.ring_data(process), RING_OCTETS, claim) })
    }

    pub fn consumers(self: &Arc<Map>) -> Result<Vec<EventConsumer>, AttachError> {
        (0..self.layout.sizes.processes).map(|process| self.consumer(process)).collect()
    }

    pub fn queue(&self, lane: Lane) -> Queue<'_> {
        let (offset, words) = match lane {
            Lane::Verdicts => (self.layout.verdicts, VERDICT_WORDS),
            Lane::Events => (self.layout.events, EVENT_WORDS),
        };
        Queue::over(&self.ends()[self.layout.sizes.processes + lane as usize], self.slice(offset, words))
    }

    /// The gate.
    pub fn table(&self) -> Table<'_> {
        let layout = self.layout;
        let index = |(entries, offset)| Index::over(self.slice(offset, entries));
        Table {
            slots: self.slice(layout.slots, layout.sizes.slots),
            names: Chained { index: index(layout.names), next: self.slice(layout.next_name, layout.names.0) },
            streams: self.slice(layout.streams.1, layout.streams.0),
            messages: Chained {
                index: index(layout.messages),
                next: self.slice(layout.next_message, layout.messages.0),
            },
            passed: self.slice(layout.passed, layout.messages.0),
            transactions: index(layout.transactions),
            lease: &self.header().lease,
        }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`. Safe methods give references bounded by `self`, and ends of rings hold an
        // `Arc` of it.
        unsafe { libc::munmap(self.base.cast(), self.layout.total) };
    }
}
