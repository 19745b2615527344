//! The native OpenSIPS module: translates between the host's structures and the worker's hooks.
//!
//! | task | file |
//! |---|---|
//! | the host's tables, parameters and processes | [`exports`], [`parameters`](super::parameters), [`lifecycle`], [`process`] |
//! | `imcharge_reserve()`: the INVITE waits in `async()` | [`reserve`], [`waiting`], [`tm`] |
//! | replies, CANCEL, BYE and the end of transactions | [`callbacks`] |
//! | the gate for MSRP; lost connections | [`msrp_api`], [`frames`], [`connections`] |
//! | resume the INVITE after the verdict | [`resume`], [`waiting`], [`variables`](super::variables) |
//! | events of the host's event interface | [`events`] |
//! | commands and statistics for operators | [`mi`], [`statistics`] |
//! | shared memory and log of the host | [`shared`], [`log_sink`] |

pub mod bindings;
pub mod callbacks;
pub mod connections;
pub mod events;
pub mod exports;
pub mod frames;
pub mod lifecycle;
pub mod log_sink;
pub mod mi;
pub mod msrp_api;
pub mod process;
pub mod reserve;
pub mod resume;
pub mod shared;
pub mod statistics;
pub mod tm;
pub mod waiting;

use super::attach::{REGION, with_worker};
use super::text::text;
use super::{
    address, charged, edited_request, message, page_context, parameters, transaction, transaction_context, variables,
};
