//! The native modules for SIP proxies: they translate between a host's structures and the worker's hooks, and contain no
//! charging rules.
//!
//! A build is for one host. Code that both hosts need is in this folder and compiled with the bindings of the chosen host;
//! their messages and pseudo-variables have a common ancestor.
//!
//! | shared by both hosts | file |
//! |---|---|
//! | the worker of a process | [`attach`] |
//! | IP addresses, texts and tables of the host | [`address`], [`text`], [`table`] |
//! | parsed SIP messages | [`message`] |
//! | headers of a request with the script's edits | [`edited_request`] |
//! | current request and transaction of tm | [`transaction`] |
//! | session of a watched transaction | [`transaction_context`]; of a MESSAGE, [`page_context`] |
//! | what `imcharge_reserve()` is called for | [`charged`] |
//! | parameters of the script | [`parameters`] |
//! | `$imcharge(name)` | [`variables`] |
//! | log, statistics, signals of the supervisor | [`logger`], [`statistics`], [`signals`] |

#![allow(
    clippy::missing_safety_doc,
    reason = "callbacks and script functions are called by the host only, with the arguments its headers document"
)]

#[cfg(all(feature = "kamailio", feature = "opensips"))]
compile_error!("a module is for one host, Kamailio or OpenSIPS: both look for the symbol `exports`");

/// Makes an array of 64 entry points `$entry::<0>` to `$entry::<63>`. The hosts call an entry without saying which row of
/// their table it belongs to, so each row has its own instance.
macro_rules! entries {
    ($entry:ident) => {
        entries!($entry 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63)
    };
    ($entry:ident $($row:literal)*) => { [$($entry::<$row>),*] };
}

pub mod address;
pub mod attach;
pub mod charged;
pub mod edited_request;
#[cfg(feature = "kamailio")]
pub mod kamailio;
pub mod logger;
pub mod message;
#[cfg(feature = "opensips")]
pub mod opensips;
pub mod page_context;
pub mod parameters;
pub mod signals;
pub mod statistics;
pub mod table;
pub mod text;
pub mod transaction;
pub mod transaction_context;
pub mod variables;

#[cfg(feature = "kamailio")]
use kamailio::{bindings, connections, log_sink};
#[cfg(feature = "opensips")]
use opensips::{bindings, connections, log_sink};
