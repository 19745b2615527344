//! imcharge: online charging of instant messages, loaded into a SIP proxy by its C ABI.
//!
//! Folders are layers. [`charge`] holds the rules and is pure; [`wire`] reads protocols; [`enabler`] is
//! who grants and debits; [`engine`] is the process that owns all state, and the rings and tables by which
//! the host's processes reach it; `ffi` and `host` are the faces that hosts see; `simulate` is where a simulation
//! takes the place of the machine.

// Test support that is shared with `fuzz/` names the crate as those outside do.
#[cfg(test)]
extern crate self as imcharge;

pub mod charge;
pub mod enabler;
pub mod engine;
#[cfg(feature = "capi")]
pub mod ffi;
#[cfg(any(feature = "kamailio", feature = "opensips"))]
pub mod host;
#[doc(hidden)]
pub mod simulate;
pub mod wire;
