//! The native Kamailio module: what the host calls, translated and handed over to the engine.
//!
//! | what happens | file |
//! |---|---|
//! | the host loads the module: tables, parameters, processes | [`exports`], [`parameters`](super::parameters), [`lifecycle`] |
//! | the script reserves: the INVITE is suspended | [`reserve`] |
//! | replies, CANCEL, BYE, dying transactions are seen | [`callbacks`] |
//! | an MSRP frame passes the gate, a connection is lost | [`frames`], [`connections`] |
//! | a verdict comes back: the INVITE goes on | [`resume`], [`variables`](super::variables) |
//! | the script hears of a debit or a failure | [`events`] |
//! | an operator asks | [`rpc`], [`statistics`] |
//! | a line is logged | [`logger`] |

pub mod bindings;
pub mod callbacks;
pub mod connections;
pub mod events;
pub mod exports;
pub mod frames;
pub mod lifecycle;
pub mod logger;
pub mod reserve;
pub mod resume;
pub mod rpc;
pub mod statistics;

use super::attach::{REGION, with_worker};
use super::text::{static_str, text};
use super::{address, guard, left, message, parameters, transaction_context, variables};
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
