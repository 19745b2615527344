//! Adapters to SIP proxies: they translate and hand over, no rule of charging stands here.
//!
//! A module is for one host. What both hosts have alike stands here and is built with the bindings of that one: their
//! messages and pseudo-variables have one ancestor.
//!
//! | what is shared | file |
//! |---|---|
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

/// Makes an array of 64 entry points `$entry::<0>` to `$entry::<63>`: the hosts' tables call an entry without its name,
/// so each row has an instance of its own.
macro_rules! entries {
    ($entry:ident) => {
        entries!($entry 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31
            32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59 60 61 62 63)
    };
    ($entry:ident $($row:literal)*) => { [$($entry::<$row>),*] };
}

pub mod address;
pub mod attach;
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
