//! The schema of the shared ledger (kamailio-config/postgres/imcharge.sql) on real PostgreSQL servers: rules of money,
//! repeated and late requests, ownership and takeover of sessions, several nodes at once, lost servers.
//!
//! Most tests share one server and have a database each.

mod concurrency;
mod install;
mod model;
mod money;
mod node;
mod ownership;
mod repeated;
mod takeover;
mod traps;
