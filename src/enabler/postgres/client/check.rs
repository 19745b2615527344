//! The checks of a server at connect, in one statement.

use super::config::ClientConfig;
use super::pending::Outcome;
use super::row::{Row, WrongColumn};
use super::server_error::ServerError;

/// Version of the schema `imcharge` that this client needs.
pub const SCHEMA_VERSION: i32 = 1;

/// Oldest supported version of PostgreSQL, as `server_version_num`.
const SERVER_VERSION_MIN: i32 = 150_000;

/// The file that creates the schema.
const SCHEMA_FILE: &str = "imcharge.sql";

/// What is asked. The last column makes the server notice within 2 s that this client is gone, where it can.
pub const STATEMENT: &str = "SELECT pg_catalog.pg_is_in_recovery(), \
     pg_catalog.current_setting('transaction_read_only') = 'on', \
     pg_catalog.current_setting('synchronous_standby_names'), \
     pg_catalog.current_setting('synchronous_commit'), \
     pg_catalog.current_setting('server_version_num')::int4, \
     (SELECT version::int4 FROM imcharge.version), \
     CASE WHEN pg_catalog.current_setting('server_version_num')::int4 >= 140000 \
          AND pg_catalog.version() LIKE '%linux%' \
          THEN pg_catalog.set_config('client_connection_check_interval', '2s', false) END";

/// Errors of the statement if the schema is missing or is not that of this client.
const NO_SCHEMA: [&str; 4] = ["3F000", "42P01", "42703", "21000"];

/// The role has no right to use the schema.
const NO_PRIVILEGE: &str = "42501";

/// A server that has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Whether a failover may lose what it has committed. Only with `allow_async`.
    pub is_async: bool,
}

/// Decides about a server from the answer to [`STATEMENT`]. The error says what to do.
pub fn judge(outcome: Outcome, config: &ClientConfig) -> Result<Passed, String> {
    let rows = match outcome {
        Outcome::Rows(rows) => rows,
        Outcome::Refused(error) => return Err(refused(&error, config)),
        Outcome::Lost => return Err("its checks were not answered".into()),
    };
    let [row] = rows.as_slice() else { return Err("its checks were answered by no single row".into()) };
    judge_row(row, config).map_err(|error| format!("its checks were answered wrongly: {error}"))?
}

fn judge_row(row: &Row, config: &ClientConfig) -> Result<Result<Passed, String>, WrongColumn> {
    let version = row.int4(4)?;
    if version < SERVER_VERSION_MIN {
        let (found, needed) = (version / 10_000, SERVER_VERSION_MIN / 10_000);
        return Ok(Err(format!("it is PostgreSQL {found}: {needed} or newer is needed")));
    }
    if row.bool(0)? {
        return Ok(Err("it is a standby".into()));
    }
    if row.bool(1)? {
        let why = "its transactions are read-only: unset default_transaction_read_only for this role and database";
        return Ok(Err(why.into()));
    }
    if row.is_null(5) || row.int4(5)? != SCHEMA_VERSION {
        let found = if row.is_null(5) { "no version".to_owned() } else { format!("version {}", row.int4(5)?) };
        let why = format!("its schema imcharge has {found}, and this module needs version {SCHEMA_VERSION}");
        return Ok(Err(format!("{why}: {}", run_the_file(config))));
    }
    let is_async = match (row.text(2)?.trim(), row.text(3)?) {
        ("", _) => Some("synchronous_standby_names is empty"),
        (_, "off") => Some("synchronous_commit is off"),
        (_, "local") => Some("synchronous_commit is local"),
        _ => None,
    };
    Ok(match is_async {
        Some(why) if !config.allow_async => Err(format!(
            "a failover would lose charges, because {why}: set synchronous_standby_names and synchronous_commit=on in \
             postgresql.conf, or accept the loss with postgres_async=yes"
        )),
        why => Ok(Passed { is_async: why.is_some() }),
    })
}

fn refused(error: &ServerError, config: &ClientConfig) -> String {
    match error.sqlstate.as_str() {
        state if NO_SCHEMA.contains(&state) => {
            format!(
                "database {} has no schema imcharge of this module ({error}): {}",
                config.database,
                run_the_file(config)
            )
        }
        NO_PRIVILEGE => {
            format!("{error}: grant role {} the use of the schema imcharge, as {SCHEMA_FILE} says", config.user)
        }
        _ => format!("its checks failed: {error}"),
    }
}

fn run_the_file(config: &ClientConfig) -> String {
    format!("run psql -d {} -f {SCHEMA_FILE} as its owner", config.database)
}
