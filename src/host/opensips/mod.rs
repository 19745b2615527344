//! The native OpenSIPS module: what the host calls, translated and handed over to the engine.
//!
//! | what happens | file |
//! |---|---|
//! | the host loads the module: tables, parameters, processes | [`exports`], [`parameters`](super::parameters), [`lifecycle`] |
//! | the script reserves: the INVITE waits in `async()` | [`reserve`], [`waiting`] |
//! | replies, CANCEL, BYE, dying transactions are seen | [`callbacks`] |
//! | an MSRP frame passes the gate, a connection is lost | [`frames`], [`connections`] |
//! | a verdict comes back: the INVITE resumes | [`resume`], [`waiting`], [`variables`](super::variables) |
//! | something happened that the script wants to know | [`events`] |
//! | an operator asks | [`mi`], [`statistics`] |
//! | memory that all processes see, a line for the log | [`shared`], [`logger`] |

pub mod bindings;
pub mod callbacks;
pub mod connections;
pub mod events;
pub mod exports;
pub mod frames;
pub mod lifecycle;
pub mod logger;
pub mod mi;
pub mod reserve;
pub mod resume;
pub mod shared;
pub mod statistics;
pub mod waiting;

use super::attach::{REGION, with_worker};
use super::text::text;
use super::{address, left, message, parameters, transaction_context, variables};
use bindings as sys;
use std::sync::OnceLock;

/// The API of tm, bound at the start.
static TM: OnceLock<Tm> = OnceLock::new();

/// tm's functions. Plain function pointers, the same in all processes.
struct Tm(sys::tm_binds);

// SAFETY: the structure holds function pointers only and is never written after it was bound.
unsafe impl Send for Tm {}
// SAFETY: as above.
unsafe impl Sync for Tm {}
