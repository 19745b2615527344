//! The C ABI that `include/imcharge.h` declares: checks arguments and translates between C and Rust types. It contains no
//! charging rules.
//!
//! `guard.rs` wraps the body of each function, `handle.rs` is the table behind the opaque handles, and `memory.rs` is the
//! only place that reads and writes through a caller's pointers. cbindgen generates the header from this folder
//! (`cbindgen.toml`); `tests/header.rs` fails if the committed header is stale.

#![allow(
    clippy::missing_safety_doc,
    reason = "the doc comments become the C header: requirements on pointers are listed there under Parameters"
)]
#![allow(non_camel_case_types, reason = "C names")]

pub mod command;
pub mod config;
mod guard;
mod handle;
pub mod hooks;
pub mod host;
pub mod logger;
mod memory;
pub mod result;
pub mod verdict;
