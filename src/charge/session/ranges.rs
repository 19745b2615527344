//! Sets of octets that the client has confirmed.

use serde::{Deserialize, Serialize};
use thin_vec::ThinVec;

/// Disjoint ranges kept. The confirmations of a receiver that confirms in more pieces are incomplete, and the message ends
/// by its timer.
const RANGES_MAX: usize = 256;

/// A set of octets, numbered from 1, as sorted ranges that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Ranges(ThinVec<(u64, u64)>);

impl Ranges {
    /// Adds `start..=end`; an empty range (`end` before `start`) adds nothing.
    pub(super) fn add(&mut self, start: u64, end: u64) {
        if start > end {
            return;
        }
        let from = self.0.partition_point(|range| range.1.saturating_add(1) < start);
        let to = self.0.partition_point(|range| range.0 <= end.saturating_add(1));
        if from == to && self.0.len() >= RANGES_MAX {
            return;
        }
        let touching = self.0.get(from..to).unwrap_or_default();
        let merged = touching.iter().fold((start, end), |sum, range| (sum.0.min(range.0), sum.1.max(range.1)));
        self.0.splice(from..to, [merged]);
    }

    /// Whether the set contains all of `start..=end`; an empty range always is.
    pub(super) fn covers(&self, start: u64, end: u64) -> bool {
        start > end || self.0.iter().any(|range| range.0 <= start && end <= range.1)
    }

    /// Whether the set is empty.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_any_order_are_merged() {
        let mut ranges = Ranges::default();
        for (start, end) in [(21, 30), (1, 10), (5, 12), (13, 20)] {
            ranges.add(start, end);
        }
        assert_eq!(ranges, Ranges([(1, 30)].into()));
        assert!(ranges.covers(1, 30) && ranges.covers(7, 7) && ranges.covers(1, 0));
        assert!(!ranges.covers(1, 31));
    }

    #[test]
    fn ranges_with_gap_are_not_merged() {
        let mut ranges = Ranges::default();
        ranges.add(1, 10);
        ranges.add(12, 20);
        assert!(!ranges.covers(1, 20));
        ranges.add(11, 11);
        assert!(ranges.covers(1, 20));
    }

    #[test]
    fn ranges_at_limits_of_u64_do_not_overflow() {
        let mut ranges = Ranges::default();
        ranges.add(u64::MAX, u64::MAX);
        ranges.add(1, u64::MAX - 1);
        ranges.add(5, 2);
        assert_eq!(ranges, Ranges([(1, u64::MAX)].into()));
    }

    #[test]
    fn ranges_beyond_limit_are_dropped() {
        let mut ranges = Ranges::default();
        for piece in 0..2 * RANGES_MAX as u64 {
            ranges.add(piece * 10 + 1, piece * 10 + 2);
        }
        assert_eq!(ranges.len(), RANGES_MAX);
    }
}
