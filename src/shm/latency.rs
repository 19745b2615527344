//! Latency histograms in shared memory, written by the engine alone and read by any process.

use super::sync::{AtomicU64, Ordering};

/// Number of bounded buckets: 100 microseconds, then doubling up to 105 seconds.
pub const BOUNDS: usize = 21;

/// Bound of the first bucket, microseconds.
const FIRST_BOUND_MICROS: u64 = 100;

/// A measured latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Latency {
    /// From the INVITE's event in the event ring to the published verdict.
    Reserve,
    /// From the trigger of a debit (response or error on the wire, timeout, end of the session or of its connection) to its
    /// acknowledgement, committed and synced.
    Debit,
    /// From a request to the enabler to its answer. A remote enabler: answers in time, from the first transmission. The
    /// ledger answers within the engine: the time of the commit.
    Enabler,
}

impl Latency {
    /// All latencies, in the order of the manual.
    pub const ALL: &'static [Latency] = &[Latency::Reserve, Latency::Debit, Latency::Enabler];

    /// Returns the name that operators use, without a unit.
    pub fn name(self) -> &'static str {
        match self {
            Latency::Reserve => "reserve_latency",
            Latency::Debit => "debit_latency",
            Latency::Enabler => "enabler_latency",
        }
    }

    /// Returns a description of one sentence.
    pub fn meaning(self) -> &'static str {
        match self {
            Latency::Reserve => "From the INVITE to the verdict.",
            Latency::Debit => "From the trigger of a debit to its acknowledgement, committed and synced.",
            Latency::Enabler => "From a request to the enabler to its answer; with the ledger, to the commit.",
        }
    }
}

/// A histogram in shared memory; zeroed memory is an empty one.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Histogram {
    /// Number of values in each bucket; the last one has no bound.
    counts: [AtomicU64; BOUNDS + 1],
    /// Sum of the values, microseconds.
    sum: AtomicU64,
}

impl Histogram {
    /// Returns the inclusive bound of a bucket, microseconds.
    pub fn bound(bucket: usize) -> u64 {
        FIRST_BOUND_MICROS << bucket
    }

    /// Adds a value, microseconds. There is one writer, so plain stores are enough.
    pub fn add(&self, micros: u64) {
        let add = |to: &AtomicU64, more: u64| {
            to.store(to.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        };
        add(&self.counts[bucket_of(micros)], 1);
        add(&self.sum, micros);
    }

    /// Returns the number of values in each bucket; the last one has no bound.
    pub fn counts(&self) -> [u64; BOUNDS + 1] {
        std::array::from_fn(|bucket| self.counts[bucket].load(Ordering::Relaxed))
    }

    /// Returns the number of values.
    pub fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Returns the sum of the values, microseconds.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

/// Returns the bucket of a value, microseconds.
fn bucket_of(micros: u64) -> usize {
    let firsts = micros.div_ceil(FIRST_BOUND_MICROS).min(1 << BOUNDS);
    firsts.next_power_of_two().trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn value_equal_to_a_bound_is_in_its_bucket() {
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
    fn histogram_counts_and_sums_all_values() {
        let histogram = Histogram::default();
        [50, 150, 150, 1_000_000_000].iter().for_each(|micros| histogram.add(*micros));
        let counts = histogram.counts();
        assert_eq!((counts[0], counts[1], counts[BOUNDS]), (1, 2, 1));
        assert_eq!((histogram.count(), histogram.sum()), (4, 1_000_000_350));
    }
}
