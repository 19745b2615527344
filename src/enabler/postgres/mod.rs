//! Accounts in PostgreSQL, shared by several proxies.

pub mod client;
pub mod queries;
