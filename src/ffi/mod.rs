//! The C ABI: what `include/imcharge.h` declares. It checks and translates, and hands over to the engine;
//! no rule of charging stands here.
//!
//! One file per noun. [`guard`] is around every body, [`handle`] keeps what the opaque handles stand for,
//! [`memory`] is where a caller's pointers are read and written. cbindgen reads this folder alone
//! (`cbindgen.toml`); `tests/header.rs` fails when the committed header is stale.

// The promise each pointer rests on stands in the function's own text, under Parameters, for C readers.
#![allow(clippy::missing_safety_doc)]
// C names.
#![allow(non_camel_case_types)]

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
