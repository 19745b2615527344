//! The engine: the process that owns all state, and the supervisor that keeps it running.
//!
//! | process | files |
//! |---|---|
//! | host, before it forks | [`preflight`] (start-up checks) |
//! | supervisor, a child of the host | [`supervisor`] (processes), [`watchdog`] (decisions) |
//! | engine, a child of the supervisor | see below |
//!
//! | question | file |
//! |---|---|
//! | What does a tick do, and in which order? | `main_loop`, `tick` |
//! | What happens to a session? | `sessions` (session table), `sessions/outputs`, `effects` |
//! | How is a session settled at restart? | `restart` |
//! | What happens when nodes take over sessions? | `sessions/takeover` |
//! | What is read from the rings and written to the queues? | `ring_reader`, `notification_writer` |
//! | What is durable? | [`store`] (SQLite and journal) |
//! | What do operators see? | `outstanding`, `script_watch` |

mod effects;
mod main_loop;
mod notification_writer;
mod outstanding;
pub mod preflight;
mod restart;
mod ring_reader;
mod script_watch;
mod sessions;
pub mod store;
pub mod supervisor;
mod tick;
pub mod watchdog;

#[doc(hidden)]
pub use main_loop::Engine;
pub use main_loop::{EngineError, run};
