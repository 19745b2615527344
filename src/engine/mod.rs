//! The engine: the process that owns all state, the shared region by which the host's processes reach
//! it, and what those processes call.
//!
//! | who runs it | files |
//! |---|---|
//! | the host, before it forks | [`config`], [`region`] |
//! | each process of the host | [`worker`], [`facts`], [`edited`] and [`raw`](self) (what a message says), [`report`], [`metrics`] (what operators ask) |
//! | the host's resume workers and event workers | [`notice`], [`script`] |
//! | the host's supervisor child | [`supervisor`] (processes), [`watchdog`] (decisions) |
//! | the engine's own process | [`run()`], `book` (the sessions), `outstanding`, `store` (SQLite), `notices` |
//! | all of them, in shared memory | [`ring`], [`queue`], [`grant`], [`doorbell`] and `bell` (over [`sync`]), [`record`], [`statistic`], [`latency`] |

mod bell;
mod book;
pub mod clock;
pub mod config;
pub mod doorbell;
pub mod edited;
pub mod facts;
pub mod grant;
pub mod im_servers;
pub mod latency;
pub mod log_lines;
pub mod metrics;
pub mod notice;
mod notices;
mod outstanding;
pub mod queue;
pub mod raw;
pub mod record;
pub mod region;
pub mod report;
pub mod ring;
mod run;
pub mod script;
pub mod statistic;
pub mod store;
pub mod supervisor;
pub mod sync;
pub mod watchdog;
pub mod worker;

#[doc(hidden)]
pub use run::Engine;
pub use run::{EngineError, run};
