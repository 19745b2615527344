//! Diameter base protocol client (RFC 6733): peers, connections and requests. No credit-control term.
//!
//! | file | |
//! |---|---|
//! | `connections` | the sockets of all peers around the peer table |
//! | `peer_table`, `pending` | which connection takes a request, and what becomes of it when that connection is lost |
//! | `peer`, `capabilities`, `watchdog` | one connection's states |
//! | `reconnect` | when to connect again, around [`net`](crate::enabler::net) |
//! | `node` | the local Diameter node |

pub mod capabilities;
pub mod config;
pub mod connections;
#[cfg(test)]
pub(crate) mod fake_peer;
pub mod node;
pub mod peer;
pub mod peer_table;
pub mod pending;
pub mod reconnect;
pub mod watchdog;
