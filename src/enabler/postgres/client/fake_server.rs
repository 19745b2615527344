//! Messages of a PostgreSQL server, for tests and fuzz targets. `fuzz/checks` includes this file as well, so it imports the
//! crate by name.

use imcharge::enabler::net::address::HostPort;
use imcharge::enabler::postgres::client::{ClientConfig, SCHEMA_VERSION, Server, Type};

/// OID of `text`.
pub const TEXT: u32 = 25;
/// OID of `int4`.
pub const INT4: u32 = 23;
/// OID of `int8`.
pub const INT8: u32 = 20;

/// A configuration of servers at these ports of 127.0.0.1.
pub fn config(ports: &[u16]) -> ClientConfig {
    let server = |port: &u16| Server { address: HostPort { host: "127.0.0.1".into(), port: *port }, tls: None };
    ClientConfig {
        servers: ports.iter().map(server).collect(),
        user: "imcharge".into(),
        password_file: None,
        database: "charging".into(),
        application_name: "imcharge test".into(),
        allow_async: false,
        connect_timeout: 5,
        answer_timeout: 10,
    }
}

/// A message of the server, or a typed message of the client.
pub fn message(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("a short message").to_be_bytes();
    [&[tag], &length[..], body].concat()
}

/// An authentication request of this kind.
pub fn authentication(kind: u32, data: &[u8]) -> Vec<u8> {
    message(b'R', &[&kind.to_be_bytes(), data].concat())
}

/// ReadyForQuery without a transaction.
pub fn ready() -> Vec<u8> {
    message(b'Z', b"I")
}

/// What a server sends after a login without a password.
pub fn session() -> Vec<u8> {
    let status = message(b'S', b"server_version\x0015.18\0");
    [authentication(0, b""), status, message(b'K', &[0, 0, 0, 7, 1, 2, 3, 4]), ready()].concat()
}

/// ParseComplete, ParameterDescription and RowDescription.
pub fn parsed(parameters: &[u32], columns: &[u32]) -> Vec<u8> {
    let count = |types: &[u32]| u16::try_from(types.len()).expect("few").to_be_bytes().to_vec();
    let mut described = count(parameters);
    parameters.iter().for_each(|oid| described.extend(oid.to_be_bytes()));
    let mut rows = count(columns);
    for oid in columns {
        rows.extend(b"column\0");
        rows.extend([0; 6]);
        rows.extend(oid.to_be_bytes());
        rows.extend([0; 8]);
    }
    [message(b'1', b""), message(b't', &described), message(b'T', &rows)].concat()
}

/// A DataRow.
pub fn row(values: &[Option<&[u8]>]) -> Vec<u8> {
    let mut body = u16::try_from(values.len()).expect("few").to_be_bytes().to_vec();
    for value in values {
        match value {
            Some(value) => {
                body.extend(u32::try_from(value.len()).expect("short").to_be_bytes());
                body.extend_from_slice(value);
            }
            None => body.extend((-1_i32).to_be_bytes()),
        }
    }
    message(b'D', &body)
}

/// BindComplete, these rows, and CommandComplete.
pub fn executed(rows: &[Vec<u8>]) -> Vec<u8> {
    [message(b'2', b""), rows.concat(), message(b'C', b"SELECT 1\0")].concat()
}

/// The fields of an error or a notice.
pub fn fields(fields: &[(u8, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (kind, value) in fields {
        body.push(*kind);
        body.extend(value.as_bytes());
        body.push(0);
    }
    body.push(0);
    body
}

/// ErrorResponse.
pub fn error(severity: &str, sqlstate: &str, text: &str) -> Vec<u8> {
    message(b'E', &fields(&[(b'S', severity), (b'V', severity), (b'C', sqlstate), (b'M', text)]))
}

/// The warning of a wait for the standby that was given up, as PostgreSQL 15 sends it.
pub fn not_replicated() -> Vec<u8> {
    message(
        b'N',
        &fields(&[
            (b'S', "WARNING"),
            (b'V', "WARNING"),
            (b'C', "01000"),
            (b'M', "canceling wait for synchronous replication due to user request"),
            (b'D', "The transaction has already committed locally, but might not have been replicated to the standby."),
            (b'F', "syncrep.c"),
            (b'L', "299"),
            (b'R', "SyncRepWaitForLSN"),
        ]),
    )
}

/// A server as its answer to the checks describes it.
#[derive(Clone, Copy, Debug)]
pub struct Checks {
    /// `pg_is_in_recovery()`
    pub is_standby: bool,
    /// Whether `transaction_read_only` is on.
    pub is_read_only: bool,
    /// `synchronous_standby_names`
    pub standby_names: &'static str,
    /// `synchronous_commit`
    pub commit: &'static str,
    /// `server_version_num`
    pub version: i32,
    /// Version of the schema; `None`: the table is empty.
    pub schema: Option<i32>,
}

impl Default for Checks {
    /// A server that passes.
    fn default() -> Checks {
        Checks {
            is_standby: false,
            is_read_only: false,
            standby_names: "ANY 1 (a, b)",
            commit: "on",
            version: 150_018,
            schema: Some(SCHEMA_VERSION),
        }
    }
}

/// The types of the columns of the checks.
pub fn check_types() -> [u32; 7] {
    let flag = Type::Bool.oid();
    [flag, flag, TEXT, TEXT, INT4, INT4, TEXT]
}

/// The whole answer to the checks.
pub fn checked(checks: &Checks) -> Vec<u8> {
    let schema = checks.schema.map(i32::to_be_bytes);
    let row = row(&[
        Some(&[u8::from(checks.is_standby)]),
        Some(&[u8::from(checks.is_read_only)]),
        Some(checks.standby_names.as_bytes()),
        Some(checks.commit.as_bytes()),
        Some(&checks.version.to_be_bytes()),
        schema.as_ref().map(|octets| &octets[..]),
        Some(b"2s"),
    ]);
    [parsed(&[], &check_types()), executed(&[row]), ready()].concat()
}

/// The whole answer to a statement that is parsed first, with one `int8`.
pub fn answered(number: i64) -> Vec<u8> {
    [parsed(&[INT8], &[INT8]), executed(&[row(&[Some(&number.to_be_bytes())])]), ready()].concat()
}
