//! Configuration of the PostgreSQL client. It is not checked here.

use crate::enabler::net::address::HostPort;
use crate::enabler::net::tls::TlsConfig;
use std::path::PathBuf;

/// The servers, and how to log in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientConfig {
    /// The servers, tried in this order; at least one.
    pub servers: Vec<Server>,
    /// Name of the role.
    pub user: String,
    /// File whose first line is the password, read for each connection; `None`: there is no password.
    pub password_file: Option<PathBuf>,
    /// Name of the database.
    pub database: String,
    /// Name of this client in the server's list of sessions.
    pub application_name: String,
    /// Whether a server without synchronous replication is accepted.
    pub allow_async: bool,
    /// Seconds that TCP and TLS may take, and again as many for the login and the checks.
    pub connect_timeout: u32,
    /// Seconds within which a statement must be answered. After that the connection is closed.
    pub answer_timeout: u32,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens. A name is resolved for each round of attempts.
    pub address: HostPort,
    /// TLS, whose certificate must name the host of the address; `None`: plain TCP.
    pub tls: Option<TlsConfig>,
}
