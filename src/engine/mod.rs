//! The engine: the process that owns all state, the shared region by which the host's processes reach
//! it, and what those processes call.

pub mod config;
pub mod facts;
pub mod notice;
pub mod region;
pub mod report;
pub mod statistic;
pub mod supervisor;
pub mod worker;
