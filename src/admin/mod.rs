//! What operators call: commands over the host's RPC interface, and the Prometheus exposition.

pub mod accounts;
pub mod audit;
pub mod commands;
pub mod database;
pub mod explain;
pub mod import;
pub mod ladder;
pub mod ledger;
pub mod metrics;
pub mod page;
