//! Adapters to SIP proxies: they translate and hand over, no rule of charging stands here.
//!
//! A module is for one host. What both hosts have alike stands here and is built with the bindings of that one: their
//! messages and pseudo-variables have one ancestor.
//!
//! | what is shared | file |
//! |---|---|
//! | a panic caught at every entry from C | [`guard`] |
//! | a process's way to the engine | [`attach`] |
//! | IP addresses | [`address`] |
//! | what charging needs of a parsed SIP message | [`message`] |
//! | the headers of a request as the script has left them | [`left`] |
//! | what a watched transaction carries | [`watched`] |
//! | parameters of the script | [`parameters`] |
//! | `$imcharge(name)` | [`variables`] |
//! | texts for the host's tables | [`text`] |

#![allow(clippy::missing_safety_doc, reason = "entries are called by the host alone, with what its headers promise")]

#[cfg(all(feature = "kamailio", feature = "opensips"))]
compile_error!("a module is for one host, Kamailio or OpenSIPS: both look for the symbol `exports`");

pub mod address;
pub mod attach;
pub mod guard;
#[cfg(feature = "kamailio")]
pub mod kamailio;
pub mod left;
pub mod message;
#[cfg(feature = "opensips")]
pub mod opensips;
pub mod parameters;
pub mod text;
pub mod transaction_context;
pub mod variables;

#[cfg(feature = "kamailio")]
use kamailio::{bindings, connections, logger};
#[cfg(feature = "opensips")]
use opensips::{bindings, connections, logger};
