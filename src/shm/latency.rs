//! How long things take, as distributions: the engine alone writes them, into shared memory, and everybody reads.

use super::sync::{AtomicU64, Ordering};

/// Bounds of the buckets: 100 microseconds, and each twice the one before, up to 105 seconds.
pub const BOUNDS: usize = 21;

/// The first bound, microseconds.
const FIRST: u64 = 100;

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Latency {
    /// From the INVITE's event in the ring of its worker to the verdict in that of a resume worker.
    Reserve,
    /// From what fired a debit (the response or error on the wire, the end of the wait for it, the end of the session
    /// or of its connection) to the debit that is acknowledged and on the disk.
    Debit,
    /// From a request to the enabler to its answer. Diameter: what is answered in time, from its first sending. The
    /// ledger answers within the engine, and its answer counts when it is on the disk: the time of that commit.
    Enabler,
}

impl Latency {
    /// All of them, in the order of the manual.
    pub const ALL: &'static [Latency] = &[Latency::Reserve, Latency::Debit, Latency::Enabler];

    /// The name an operator types, without a unit.
    pub fn name(self) -> &'static str {
        match self {
            Latency::Reserve => "reserve_latency",
            Latency::Debit => "debit_latency",
            Latency::Enabler => "enabler_latency",
        }
    }

    /// What it is, for an operator.
    pub fn meaning(self) -> &'static str {
        match self {
            Latency::Reserve => "From the INVITE to the verdict.",
            Latency::Debit => "From what fired a debit to the debit acknowledged and on the disk.",
            Latency::Enabler => "From a request to the enabler to its answer; of the ledger: to its commit.",
        }
    }
}

/// One distribution. Lives in the shared region: zeroed memory is an empty one.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Histogram {
    /// How many lie within each bound and above the one before; the last: above them all.
    counts: [AtomicU64; BOUNDS + 1],
    /// Microseconds in all.
    sum: AtomicU64,
}

impl Histogram {
    /// The bound of a bucket, microseconds; what took just as long lies within.
    pub fn bound(bucket: usize) -> u64 {
        FIRST << bucket
    }

    /// Adds one that took so many microseconds. One writer only: plain stores, no locked instruction.
    pub fn add(&self, micros: u64) {
        let add = |to: &AtomicU64, more: u64| {
            to.store(to.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        };
        add(&self.counts[bucket_of(micros)], 1);
        add(&self.sum, micros);
    }

    /// How many lie in each bucket; the last is without a bound.
    pub fn counts(&self) -> [u64; BOUNDS + 1] {
        std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed))
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Microseconds in all.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

/// The bucket for so many microseconds.
fn bucket_of(micros: u64) -> usize {
    let firsts = micros.div_ceil(FIRST).min(1 << BOUNDS);
    firsts.next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_as_long_as_a_bound_lies_within_it() {
        assert_eq!([0, 1, 100, 101, 200, 201].map(bucket_of), [0, 0, 0, 1, 1, 2]);
        for bucket in 0..BOUNDS {
            assert_eq!(bucket_of(Histogram::bound(bucket)), bucket);
            assert_eq!(bucket_of(Histogram::bound(bucket) + 1), bucket + 1);
        }
        assert_eq!(bucket_of(u64::MAX), BOUNDS);
        let last = Histogram::bound(BOUNDS - 1);
        assert!((60_000_000..120_000_000).contains(&last), "{last} microseconds");
    }

    #[test]
    fn a_distribution_has_all_that_was_added() {
        let histogram = Histogram::default();
        [50, 150, 150, 1_000_000_000].iter().for_each(|micros| histogram.add(*micros));
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[BOUNDS]), (1, 2, 1));
        assert_eq!((histogram.count(), histogram.sum()), (4, 1_000_000_350));
    }
}
