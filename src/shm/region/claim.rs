//! Ends of rings and queues that this process has taken: each end has one owner at a time.

use super::Lane;
use super::layout::Sizes;
use super::map::Map;
use crate::shm::queue::{HoldsQueue, Queue};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// An end of a ring or a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Writes the event ring of the process of this index.
    Producer(usize),
    /// Reads the event ring of the process of this index.
    Consumer(usize),
    /// Writes a queue.
    QueueProducer(Lane),
    /// Takes from a queue: the resume worker or the event worker of this index.
    Reader(Lane, usize),
}

impl End {
    /// Number of ends.
    pub(super) fn count(sizes: Sizes) -> usize {
        2 * sizes.processes + Lane::ALL.len() + sizes.readers()
    }

    /// Place in [`Map::taken`]; `None` if the index is out of range.
    fn place(self, sizes: Sizes) -> Option<usize> {
        let Sizes { processes, resume_workers, event_workers, .. } = sizes;
        let queues = 2 * processes;
        let readers = queues + Lane::ALL.len();
        let (first, count, index) = match self {
            End::Producer(index) => (0, processes, index),
            End::Consumer(index) => (processes, processes, index),
            End::QueueProducer(lane) => (queues, Lane::ALL.len(), lane as usize),
            End::Reader(Lane::Verdicts, index) => (readers, resume_workers, index),
            End::Reader(Lane::Events, index) => (readers + resume_workers, event_workers, index),
        };
        (index < count).then_some(first + index)
    }
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Producer(index) => write!(out, "the writing end of event ring {index}"),
            End::Consumer(index) => write!(out, "the reading end of event ring {index}"),
            End::QueueProducer(lane) => write!(out, "the writing end of the queue of {lane}"),
            End::Reader(Lane::Verdicts, index) => write!(out, "resume worker {index}"),
            End::Reader(Lane::Events, index) => write!(out, "event worker {index}"),
        }
    }
}

/// An end of a ring or a queue cannot be attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The region was made for fewer processes or workers.
    #[error("{0} does not exist: the index is out of range")]
    OutOfRange(End),
    /// It is attached in this process and was not dropped.
    #[error("{0} is attached already")]
    Taken(End),
}

/// An end that this process has taken. Keeps the region mapped; gives the end back when it is dropped.
pub struct Claim {
    map: Arc<Map>,
    place: usize,
}

impl Claim {
    pub(super) fn take(map: &Arc<Map>, end: End) -> Result<Claim, AttachError> {
        let place = end.place(map.layout.sizes).ok_or(AttachError::OutOfRange(end))?;
        match map.taken[place].swap(true, Ordering::Acquire) {
            true => Err(AttachError::Taken(end)),
            false => Ok(Claim { map: Arc::clone(map), place }),
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.map.taken[self.place].store(false, Ordering::Release);
    }
}

/// A claim on an end of a queue.
pub struct QueueClaim {
    claim: Claim,
    lane: Lane,
}

impl QueueClaim {
    pub(super) fn producer(map: &Arc<Map>, lane: Lane) -> Result<QueueClaim, AttachError> {
        Ok(QueueClaim { claim: Claim::take(map, End::QueueProducer(lane))?, lane })
    }

    pub(super) fn reader(map: &Arc<Map>, lane: Lane, index: usize) -> Result<QueueClaim, AttachError> {
        Ok(QueueClaim { claim: Claim::take(map, End::Reader(lane, index))?, lane })
    }

    /// Which queue it is.
    pub fn lane(&self) -> Lane {
        self.lane
    }
}

impl HoldsQueue for QueueClaim {
    fn queue(&self) -> Queue<'_> {
        self.claim.map.queue(self.lane)
    }
}
