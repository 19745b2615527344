//! Shared memory: what every process of the host and the engine map.
//!
//! | file | holds |
//! |---|---|
//! | [`region`] | the mapped file and its layout |
//! | [`ring`] | event rings: host process to engine, one producer and one consumer |
//! | [`queue`] | queues from the engine to the resume workers and event workers |
//! | [`gate`] | the table that decides whether an MSRP SEND passes, and the bindings of MSRP endpoints |
//! | [`record`], [`notification`] | what the rings and the queues carry |
//! | [`wakeup`], [`eventfd`] | cross-process wake-up |
//! | [`script_runs`] | runs of script routes, to find slow ones |
//! | [`statistic`], [`latency`] | counters, gauges and histograms |
//! | [`sync`], [`clock`] | atomics (loom's under test) and the shared clock |

pub mod clock;
pub mod eventfd;
pub mod gate;
pub mod latency;
pub mod notification;
pub mod queue;
pub mod record;
pub mod region;
pub mod ring;
pub mod script_runs;
pub mod statistic;
pub mod sync;
pub mod wakeup;
