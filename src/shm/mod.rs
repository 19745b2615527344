//! Shared memory: what every process of the host and the engine map.
//!
//! | file | holds |
//! |---|---|
//! | [`region`] | the mapped file, its layout, and who has taken which part |
//! | [`ring`] | event rings: host process to engine, one producer and one consumer |
//! | [`queue`] | queues from the engine to the resume workers and event workers |
//! | [`gate`] | decides whether an MSRP SEND passes; which endpoints belong to which session |
//! | [`record`], [`notification`] | contents of the rings and of the queues |
//! | [`wakeup`], [`eventfd`] | cross-process wake-up |
//! | [`script_runs`] | runs of script routes, to find slow ones |
//! | [`statistic`], [`latency`] | counters, gauges and histograms |
//! | `shared` | the types that may lie in shared memory |
//! | [`sync`], [`clock`] | atomics (loom's under test) and the clocks |
//! | [`log_limit`] | rate limit for the log lines of each process |

pub mod clock;
pub mod eventfd;
pub mod gate;
pub mod latency;
pub mod log_limit;
pub mod notification;
pub mod queue;
pub mod record;
pub mod region;
pub mod ring;
pub mod script_runs;
mod shared;
pub mod statistic;
pub mod sync;
pub mod wakeup;
