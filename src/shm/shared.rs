//! What may lie in shared memory.

use super::gate::{Slot, StreamRecord};
use super::latency::Histogram;
use super::region::{Header, ReaderWaker, ReplySlot};
use super::ring::Ends;
use super::script_runs::Run;
use super::sync::{AtomicU32, AtomicU64};

/// Types that may lie in memory that several processes map.
///
/// # Safety
/// All fields are atomics or unused padding, so that any process may write any of them at any time, every bit pattern
/// is a value, zeroed memory is the initial value, and nothing in it is a pointer. The layout is `repr(C)` or
/// `repr(transparent)`.
pub(crate) unsafe trait Shared {}

// SAFETY: an atomic.
unsafe impl Shared for AtomicU32 {}
// SAFETY: an atomic.
unsafe impl Shared for AtomicU64 {}
// SAFETY: `repr(C)`, of atomics and padding that is not read.
unsafe impl Shared for Ends {}
// SAFETY: `repr(C)`, of atomics.
unsafe impl Shared for Header {}
// SAFETY: `repr(C)`, of atomics.
unsafe impl Shared for Histogram {}
// SAFETY: `repr(C)`, of one atomic.
unsafe impl Shared for ReaderWaker {}
// SAFETY: `repr(C)`, of atomics.
unsafe impl Shared for ReplySlot {}
// SAFETY: `repr(C)`, of atomics.
unsafe impl Shared for Run {}
// SAFETY: `repr(C)`, of atomics.
unsafe impl Shared for Slot {}
// SAFETY: `repr(C)`, of atomics.
unsafe impl Shared for StreamRecord {}
