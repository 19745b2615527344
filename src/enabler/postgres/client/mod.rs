//! PostgreSQL client: one logical connection to the server of several that takes writes. No term of charging.
//!
//! | file | content |
//! |---|---|
//! | `servers` | the sockets: servers tried in turn, the first that passes the checks serves |
//! | `connection` | the state machine of one connection, without sockets |
//! | `authentication`, `password` | the login |
//! | `check` | the checks of a server: no standby, synchronous, the right schema |
//! | `pending` | the statement in progress |
//! | `value`, `row` | parameters and results, in binary format |
//! | `server_error`, `text` | errors and notices of the server, fit for a log |
//!
//! # The crate `postgres-protocol` and hostile servers
//!
//! Messages are written and read by this crate. Its source was read for what a false server can do with it. Where it leaves
//! something to its caller, this client does the following:
//!
//! * `Message::parse` reserves memory for the length in the header, up to 4 GiB, before the octets have arrived. The length is
//!   checked first: [`MESSAGE_MAX`](connection::MESSAGE_MAX), and much less before the login.
//! * Array sizes are what the message claims, up to 2^31 elements, and are the size hint of the iterator. Elements are pushed
//!   one by one; each needs four octets.
//! * `ErrorField::value` panics unless the server sends UTF-8. `value_bytes` is used.
//! * SCRAM accepts any number of iterations up to 100,000, each of which costs time, and also 0 or 1, with which a false
//!   server guesses the password quickly. Both ends are narrower here. `ScramSha256::message` panics after a failed
//!   `update`, which ends the login here.
//! * SCRAM's nonce comes from the random numbers of the system. A simulation therefore has no password.
//! * All other readers check lengths and return errors.
//!
//! Poolers between client and server are not supported: they refuse the settings of the session, or change the server during
//! it.

mod authentication;
mod check;
#[cfg(test)]
mod client_messages;
pub mod config;
pub mod connection;
#[cfg(test)]
pub(crate) mod fake_server;
pub mod password;
mod pending;
mod row;
mod server_error;
mod servers;
mod text;
mod value;

pub use check::SCHEMA_VERSION;
pub use config::{ClientConfig, Server};
pub use connection::{QueryError, QueryId};
pub use row::{Row, WrongColumn};
pub use server_error::{ServerError, SqlState};
pub use servers::{Client, ClientEvent, ServerStatus};
pub use value::{NulInText, Parameter, Type};
