//! imcharge: online charging of instant messages, loaded into a SIP proxy through a C ABI.
//!
//! Folders are layers and processes.
//!
//! | folder | what it holds |
//! |---|---|
//! | [`config`] | the parameters |
//! | [`charge`] | the charging rules, pure: CH-2, the session machine, tariff, policy |
//! | [`wire`] | the codecs: MSRP, SIP, SDP, Diameter |
//! | [`enabler`] | the charging back ends: embedded ledger and Diameter |
//! | [`shm`] | the shared memory that all processes map |
//! | [`worker`] | the hooks that run in the host's SIP and MSRP workers |
//! | [`engine`] | the engine's process and its supervisor |
//! | [`admin`] | the operators' commands and metrics |
//! | `ffi`, `host` | the C ABI, and the native modules for Kamailio and OpenSIPS |

// Test support that is shared with `fuzz/` names the crate as those outside do.
#[cfg(test)]
extern crate self as imcharge;

pub mod admin;
pub mod charge;
pub mod config;
pub mod enabler;
pub mod engine;
#[cfg(feature = "capi")]
pub mod ffi;
mod guard;
#[cfg(any(feature = "kamailio", feature = "opensips"))]
pub mod host;
pub mod shm;
#[doc(hidden)]
pub mod simulate;
pub mod wire;
pub mod worker;
