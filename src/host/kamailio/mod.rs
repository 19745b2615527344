//! The native Kamailio module: translates between the host's structures and the worker's hooks.
//!
//! | task | file |
//! |---|---|
//! | the host's tables, parameters and processes | [`exports`], [`parameters`](super::parameters), [`lifecycle`] |
//! | `imcharge_reserve()`: suspend the INVITE or MESSAGE and reserve | [`reserve`], [`tm`] |
//! | replies, CANCEL, BYE and the end of transactions | [`callbacks`] |
//! | `imcharge_msrp()`: the gate; lost connections | [`frames`], [`connections`] |
//! | continue the request after the verdict | [`resume`], [`continuation`], [`variables`](super::variables) |
//! | event routes | [`events`] |
//! | commands and statistics for operators | [`rpc`], [`statistics`] |
//! | the host's log | [`log_sink`] |

pub mod bindings;
pub mod callbacks;
pub mod connections;
pub mod continuation;
pub mod events;
pub mod exports;
pub mod frames;
pub mod lifecycle;
pub mod log_sink;
pub mod reserve;
pub mod resume;
pub mod rpc;
pub mod statistics;
pub mod tm;

use super::attach::{REGION, with_worker};
use super::text::{static_str, text};
use super::{
    address, charged, edited_request, message, page_context, parameters, transaction, transaction_context, variables,
};
