//! OCS simulator: an Online Charging System that speaks Diameter Credit-Control (RFC 8506) over TCP and TLS, keeps
//! accounts, and produces faults on demand.
//!
//! [`state`] turns requests into answers without I/O, so that the simulation can use it; the other modules add sockets, the
//! control port and the command line. [`Ocs`] runs the program as a child process.

pub mod accounts;
pub mod cli;
mod connection;
mod control;
pub mod faults;
mod load;
mod process;
pub mod rating;
mod server;
pub mod server_request;
pub mod settings;
pub mod state;
mod tls;

pub use process::{Ocs, program};
