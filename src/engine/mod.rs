//! The engine: the process that owns all state, and the supervisor that keeps it running.
//!
//! | process | files |
//! |---|---|
//! | the supervisor, a child of the host | [`supervisor`] (processes), [`watchdog`] (decisions) |
//! | the engine, a child of the supervisor | `main_loop`, `sessions` (session table), `outstanding`, [`store`] (SQLite and journal), `notification_writer` |

mod main_loop;
mod notification_writer;
mod outstanding;
pub mod preflight;
mod script_watch;
mod sessions;
pub mod store;
pub mod supervisor;
pub mod watchdog;

#[doc(hidden)]
pub use main_loop::Engine;
pub use main_loop::{EngineError, run};
