//! Connections to servers, whatever their protocol. Nothing blocks, and no clock is read.
//!
//! | file | content |
//! |---|---|
//! | `address` | host and port |
//! | `resolver` | the addresses of a name |
//! | `stream`, `tls`, `transport` | one connection: socket, TLS, progress |
//! | `dialer` | the addresses of one server, tried in turn |
//! | `back_off` | when to try again |
//! | `jitter` | random numbers for delays |

pub mod address;
pub mod back_off;
pub mod dialer;
pub mod jitter;
pub mod resolver;
pub mod stream;
pub mod tls;
pub mod transport;
