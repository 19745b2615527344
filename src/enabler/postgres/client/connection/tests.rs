//! One connection without sockets, and the messages of a server.

use super::*;
use crate::enabler::postgres::client::client_messages::{client_messages, startup_parameters};
use crate::enabler::postgres::client::fake_server::*;
use crate::enabler::postgres::client::value::Type;
use std::path::Path;

const START: Time = Time(5_000_000);
const ID: QueryId = QueryId(7);
const STATEMENT: &str = "SELECT imcharge.example($1)";

/// A connection that is up.
fn connected(config: ClientConfig, password: Option<Password>, has_tls: bool) -> Connection {
    let mut connection = Connection::new(Rc::new(config), password, has_tls);
    connection.connected(START);
    connection
}

/// A connection that has logged in and passed the checks.
fn open() -> Connection {
    let mut connection = connected(config(&[1]), None, false);
    connection.received(&[session(), checked(&Checks::default())].concat(), START);
    assert!(matches!(events(&mut connection)[..], [Event::Open(Passed { is_async: false })]));
    written(&mut connection);
    connection
}

/// A connection with a query in flight.
fn busy() -> Connection {
    let mut connection = open();
    connection.query(ID, STATEMENT, &[Parameter::Int8(5)], START).expect("ready");
    connection
}

fn events(connection: &mut Connection) -> Vec<Event> {
    std::iter::from_fn(|| connection.next_event()).collect()
}

/// What the connection has written since the last call.
fn written(connection: &mut Connection) -> Vec<u8> {
    let written = connection.output().to_vec();
    connection.wrote(written.len());
    written
}

/// The reason for which the connection is closed after these octets.
fn reason_after(mut connection: Connection, octets: &[u8]) -> String {
    connection.received(octets, START);
    connection.close_reason().unwrap_or("none").to_owned()
}

fn password() -> Option<Password> {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "secret").expect("written");
    Some(Password::load(file.path()).expect("a password"))
}

#[test]
fn session_begins_with_its_settings() {
    let mut connection = connected(config(&[1]), None, false);
    let parameters = startup_parameters(&written(&mut connection));
    for (name, value) in [
        ("user", "imcharge"),
        ("database", "charging"),
        ("application_name", "imcharge test"),
        ("client_encoding", "UTF8"),
        ("search_path", "imcharge,pg_catalog"),
        ("client_min_messages", "warning"),
        ("default_transaction_isolation", "read committed"),
        ("statement_timeout", "0"),
        ("lock_timeout", "10000"),
    ] {
        assert!(parameters.contains(&(name.into(), value.into())), "{name}: {parameters:?}");
    }
    assert_eq!(connection.state_name(), "LOGIN");
}

#[test]
fn statement_is_parsed_once_per_types_of_its_parameters() {
    let mut connection = busy();
    let tags = |octets: &[u8]| client_messages(octets).iter().map(|(tag, _)| char::from(*tag)).collect::<String>();
    assert_eq!(tags(&written(&mut connection)), "PDBES");
    connection.received(&answered(-3), START);
    let Some(Event::Rows(ID, rows)) = connection.next_event() else { panic!("rows") };
    assert_eq!(rows[0].int8(0), Ok(-3));
    for (parameter, expected) in
        [(Parameter::Int8(6), "BES"), (Parameter::Null(Type::Int8), "BES"), (Parameter::Int4(6), "PDBES")]
    {
        let answer = match expected {
            "BES" => [executed(&[]), ready()].concat(),
            _ => answered(1),
        };
        connection.query(ID, STATEMENT, &[parameter], START).expect("ready");
        assert_eq!(tags(&written(&mut connection)), expected);
        connection.received(&answer, START);
        assert!(matches!(events(&mut connection)[..], [Event::Rows(ID, _)]), "{:?}", connection.close_reason());
    }
}

#[test]
fn query_is_refused_unless_the_connection_is_idle() {
    let mut connection = connected(config(&[1]), None, false);
    assert_eq!(connection.query(ID, STATEMENT, &[], START), Err(QueryError::NotReady));
    let mut connection = busy();
    assert_eq!(connection.query(ID, STATEMENT, &[], START), Err(QueryError::NotReady));
    connection.closed();
    assert_eq!(connection.query(ID, STATEMENT, &[], START), Err(QueryError::NotReady));
}

#[test]
fn unfit_parameters_are_refused_and_leave_nothing() {
    let mut connection = open();
    let long = vec![0; MESSAGE_MAX];
    for (parameter, error) in [
        (Parameter::Text("a\0b"), QueryError::NulInText),
        (Parameter::TextArray(&["a", "\0"]), QueryError::NulInText),
        (Parameter::Bytea(&long), QueryError::TooLong),
    ] {
        assert_eq!(connection.query(ID, STATEMENT, &[parameter], START), Err(error));
        assert!(connection.output().is_empty() && connection.is_idle());
    }
    connection.query(ID, STATEMENT, &[Parameter::Int8(5)], START).expect("ready");
    connection.received(&answered(1), START);
    assert!(matches!(events(&mut connection)[..], [Event::Rows(ID, _)]));
}

#[test]
fn octets_in_pieces_have_the_same_effect() {
    let (begin, answer) = ([session(), checked(&Checks::default())].concat(), answered(9));
    for at in 0..begin.len() {
        let mut connection = connected(config(&[1]), None, false);
        connection.received(&begin[..at], START);
        assert_eq!((events(&mut connection).len(), connection.close_reason()), (0, None), "{at}");
        connection.received(&begin[at..], START);
        assert_eq!(events(&mut connection).len(), 1, "{at}");
    }
    for at in 0..answer.len() {
        let mut connection = busy();
        connection.received(&answer[..at], START);
        assert_eq!((events(&mut connection).len(), connection.close_reason()), (0, None), "{at}");
        connection.received(&answer[at..], START);
        assert!(matches!(events(&mut connection)[..], [Event::Rows(ID, _)]), "{at}");
    }
    let mut connection = connected(config(&[1]), None, false);
    begin.iter().for_each(|octet| connection.received(&[*octet], START));
    connection.query(ID, STATEMENT, &[Parameter::Int8(5)], START).expect("ready");
    answer.iter().for_each(|octet| connection.received(&[*octet], START));
    assert!(matches!(events(&mut connection)[..], [Event::Open(_), Event::Rows(ID, _)]));
}

#[test]
fn answer_counts_only_after_the_commit() {
    let complete = [parsed(&[INT8], &[INT8]), executed(&[row(&[Some(&[0; 8])])])].concat();
    let mut connection = busy();
    connection.received(&complete, START);
    assert_eq!(events(&mut connection).len(), 0);
    connection.closed();
    assert!(matches!(events(&mut connection)[..], [Event::Lost(ID)]));

    let mut connection = busy();
    connection.received(&[complete.clone(), error("ERROR", "23503", "no"), ready()].concat(), START);
    let [Event::Refused(ID, error)] = &events(&mut connection)[..] else { panic!("refused") };
    assert_eq!((error.sqlstate.as_str(), error.sqlstate.class(), error.message.as_str()), ("23503", "23", "no"));
    assert!(connection.is_idle());

    let mut connection = busy();
    connection.received(&[complete, not_replicated(), ready()].concat(), START);
    assert!(matches!(events(&mut connection)[..], [Event::Lost(ID)]));
    assert!(connection.is_idle() && connection.close_reason().is_none());
}

#[test]
fn error_in_the_middle_of_a_result_refuses_the_query() {
    let mut connection = busy();
    let begun = [parsed(&[INT8], &[INT8]), message(b'2', b""), row(&[Some(&[0; 8])])].concat();
    connection.received(&[begun, error("ERROR", "22003", "out of range"), ready()].concat(), START);
    assert!(matches!(&events(&mut connection)[..], [Event::Refused(ID, error)] if error.sqlstate.as_str() == "22003"));
    connection.query(ID, STATEMENT, &[Parameter::Int8(5)], START).expect("ready");
    connection.received(&[executed(&[]), ready()].concat(), START);
    assert!(matches!(&events(&mut connection)[..], [Event::Rows(ID, rows)] if rows.is_empty()));
}

#[test]
fn every_form_of_the_replication_warning_loses_the_answer() {
    let forms: [&[(u8, &str)]; 5] = [
        &[(b'M', "Die Transaktion"), (b'F', "syncrep.c")],
        &[(b'M', "La transaction"), (b'R', "SyncRepWaitForLSN")],
        &[(b'M', "it might not have been replicated to the standby")],
        &[(b'D', "it might not have been replicated to the standby")],
        &[(b'C', "57P01"), (b'R', "SyncRepWaitForLSN")],
    ];
    for form in forms {
        let mut connection = busy();
        let notice = message(b'N', &fields(form));
        connection.received(&[notice, answered(1)].concat(), START);
        assert!(matches!(events(&mut connection)[..], [Event::Lost(ID)]), "{form:?}");
    }
    let mut connection = busy();
    let harmless = message(b'N', &fields(&[(b'V', "WARNING"), (b'C', "01000"), (b'M', "collation version mismatch")]));
    connection.received(&[harmless, answered(1)].concat(), START);
    assert!(matches!(events(&mut connection)[..], [Event::Rows(ID, _)]));
}

#[test]
fn fatal_error_loses_the_query() {
    let mut connection = busy();
    connection.received(&error("FATAL", "57P01", "terminating connection due to administrator command"), START);
    let why = "it ends the session: terminating connection due to administrator command (SQLSTATE 57P01)";
    assert_eq!(connection.close_reason(), Some(why));
    connection.closed();
    assert!(matches!(events(&mut connection)[..], [Event::Lost(ID)]));
    let bye = "it ends the session: bye (SQLSTATE 57P01)";
    assert_eq!(reason_after(open(), &error("FATAL", "57P01", "bye")), bye);
    let octets = [error("ERROR", "22003", "out of range"), error("FATAL", "57P01", "bye")].concat();
    assert_eq!(reason_after(busy(), &octets), bye);
}

#[test]
fn unknown_statement_is_parsed_again_on_the_next_connection() {
    for sqlstate in ["26000", "0A000", "42P05"] {
        let mut connection = busy();
        connection.received(&[error("ERROR", sqlstate, "text"), ready()].concat(), START);
        assert!(matches!(events(&mut connection)[..], [Event::Refused(ID, _)]));
        let why = connection.close_reason().expect("closed");
        assert_eq!(why, format!("its statements must be parsed again: text (SQLSTATE {sqlstate})"));
    }
}

#[test]
fn open_transaction_ends_the_connection() {
    for status in [b'T', b'E', b'x'] {
        let begun = [parsed(&[INT8], &[INT8]), executed(&[])].concat();
        let octets = [begun, message(b'Z', &[status])].concat();
        assert_eq!(reason_after(busy(), &octets), "a statement that left a transaction open");
    }
}

/// All messages of a server, with a valid body.
fn all_messages() -> Vec<Vec<u8>> {
    let mut all = vec![
        message(b'1', b""),
        message(b'2', b""),
        message(b'3', b""),
        message(b'A', b"\0\0\0\x01channel\0text\0"),
        message(b'c', b""),
        message(b'C', b"SELECT 1\0"),
        message(b'd', b"data"),
        row(&[Some(&[0; 8])]),
        message(b'G', b"\0\0\0"),
        message(b'H', b"\0\0\0"),
        message(b'I', b""),
        message(b'K', &[0; 8]),
        message(b'n', b""),
        message(b's', b""),
        message(b't', b"\0\0"),
        message(b'T', b"\0\0"),
        ready(),
        message(b'v', &[0; 8]),
        message(b'W', b"\0\0\0"),
        message(b'?', b""),
    ];
    all.extend([2, 3, 6, 7, 8, 9, 10, 11, 12, 99].map(|kind| authentication(kind, b"\0")));
    all.push(authentication(5, &[0; 4]));
    all
}

#[test]
fn message_at_the_wrong_time_ends_the_connection_with_a_reason() {
    let begun = |octets: Vec<u8>| {
        move || {
            let mut connection = busy();
            connection.received(&octets, START);
            assert_eq!(connection.close_reason(), None);
            connection
        }
    };
    let prepared = parsed(&[INT8], &[INT8]);
    let bound = [prepared.clone(), message(b'2', b"")].concat();
    // Each state, and the tags that it accepts.
    type Begin = Box<dyn Fn() -> Connection>;
    let states: [(&str, Begin, &[u8]); 8] = [
        ("login", Box::new(|| connected(config(&[1]), None, false)), b""),
        (
            "session",
            Box::new(|| {
                let mut connection = connected(config(&[1]), None, false);
                connection.received(&authentication(0, b""), START);
                connection
            }),
            b"KZ",
        ),
        ("idle", Box::new(open), b""),
        ("parsing", Box::new(busy), b"1"),
        ("describing", Box::new(begun(message(b'1', b""))), b"t"),
        ("binding", Box::new(begun(prepared)), b"2"),
        ("rows", Box::new(begun(bound.clone())), b"DCI"),
        ("completed", Box::new(begun([bound, message(b'C', b"SELECT 0\0")].concat())), b"Z"),
    ];
    for (state, connection, accepted) in states {
        for octets in all_messages() {
            let tag = octets[0];
            let mut connection = connection();
            connection.received(&octets, START);
            let what = format!("{} in state {state}: {:?}", char::from(tag), connection.close_reason());
            assert_eq!(connection.close_reason().is_none(), accepted.contains(&tag), "{what}");
            assert!(connection.close_reason().is_none_or(|why| !why.is_empty()), "{what}");
            // Nothing is read after the end.
            events(&mut connection);
            connection.received(&octets, START);
            assert!(connection.close_reason().is_none() || events(&mut connection).is_empty(), "{what}");
        }
    }
}

#[test]
fn lengths_that_are_too_short_or_too_long_end_the_connection() {
    let header = |length: u32| [&b"D"[..], &length.to_be_bytes()].concat();
    for length in [0, 1, 2, 3, u32::MAX, 1 << 31] {
        let why = reason_after(busy(), &header(length));
        assert_eq!(why, "malformed message: invalid message length: header length < 4", "{length}");
    }
    for length in [MESSAGE_MAX as u32 + 1, i32::MAX as u32] {
        let mut connection = busy();
        connection.received(&header(length), START);
        let why = format!("a message of {length} octets; at most 16777216 are accepted");
        assert_eq!(connection.close_reason(), Some(why.as_str()));
    }
    let mut connection = busy();
    connection.received(&header(MESSAGE_MAX as u32), START);
    assert_eq!(connection.close_reason(), None);
    assert!(connection.input.capacity() < 1 << 16, "memory is reserved for octets that have not arrived");
    // Before the login less is accepted.
    let login = connected(config(&[1]), None, false);
    let why = reason_after(login, &[&b"E"[..], &16_385_u32.to_be_bytes()].concat());
    assert_eq!(why, "a message of 16385 octets; at most 16384 are accepted");
}

#[test]
fn malformed_rows_end_the_connection() {
    let begun = [parsed(&[INT8], &[INT8]), message(b'2', b"")].concat();
    for (body, why) in [
        (&b"\0\x02\0\0\0\0\0\0\0\0"[..], "a row has more columns than its description"),
        (b"\0\0", "a row has fewer columns than its description"),
        (b"\0\x01\0\0\0\x09abcd", "unexpected EOF"),
        (b"\0\x01\x7f\xff\xff\xffabcd", "unexpected EOF"),
        (b"\0\x01\0\0\0\0abcd", "invalid message length: datarowrange is not empty"),
        (b"\0\x01\0", "failed to fill whole buffer"),
        (b"\0", "failed to fill whole buffer"),
    ] {
        let octets = [begun.clone(), message(b'D', body)].concat();
        assert_eq!(reason_after(busy(), &octets), format!("malformed message: {why}"));
    }
}

#[test]
fn results_are_bounded() {
    let begun = [parsed(&[INT8], &[]), message(b'2', b"")].concat();
    let too_large = "a result of more than 65536 rows or 67108864 octets";
    let mut connection = busy();
    connection.received(&begun, START);
    let rows = row(&[]).repeat(65_536);
    connection.received(&rows, START);
    assert_eq!(connection.close_reason(), None);
    assert_eq!(reason_after(connection, &row(&[])), too_large);

    let begun = [parsed(&[INT8], &[17]), message(b'2', b"")].concat();
    let mut connection = busy();
    connection.received(&begun, START);
    let long = row(&[Some(&vec![0; 8 << 20])]);
    for _ in 0..7 {
        connection.received(&long, START);
        assert_eq!(connection.close_reason(), None);
    }
    assert_eq!(reason_after(connection, &long), too_large);

    let why = reason_after(busy(), &parsed(&[INT8], &[INT8; 65]));
    assert_eq!(why, "a result of more than 64 columns");
}

#[test]
fn login_is_refused_with_what_to_do() {
    let offer = |names: &[u8]| authentication(10, names);
    let cases = [
        (offer(b"SCRAM-SHA-1\0\0"), "it offers no SCRAM-SHA-256"),
        (offer(b"SCRAM-SHA-256"), "malformed message: unexpected EOF"),
        (authentication(7, b""), "it asks for a login that is not supported: use scram-sha-256 in pg_hba.conf"),
        (
            authentication(5, &[0; 4]),
            "it asks for the password as MD5, which is refused: set password_encryption=scram-sha-256, set the password \
             again, and use scram-sha-256 in pg_hba.conf",
        ),
        (
            authentication(3, b""),
            "it asks for the password in clear text, which is refused without TLS: use scram-sha-256 in pg_hba.conf",
        ),
        (
            error("FATAL", "28P01", "password authentication failed\nfor user \"imcharge\""),
            "it refuses the login: password authentication failed\\nfor user \"imcharge\" (SQLSTATE 28P01); check user and \
             password_file of the parameter postgres, and the role and pg_hba.conf there",
        ),
        (error("FATAL", "57P03", "starting up"), "it refuses the login: starting up (SQLSTATE 57P03)"),
    ];
    for (octets, why) in cases {
        let connection = connected(config(&[1]), password(), false);
        assert_eq!(reason_after(connection, &octets), why);
    }
    let without = connected(config(&[1]), None, false);
    assert_eq!(reason_after(without, &offer(b"SCRAM-SHA-256\0\0")), "it asks for a password: set password_file");
}

#[test]
fn password_in_clear_text_is_sent_over_tls_only() {
    let mut connection = connected(config(&[1]), password(), true);
    connection.received(b"S", START);
    connection.connected(START);
    written(&mut connection);
    connection.received(&authentication(3, b""), START);
    assert_eq!(client_messages(&written(&mut connection)), [(b'p', b"secret\0".to_vec())]);
    connection.received(&session(), START);
    assert_eq!((connection.close_reason(), connection.state_name()), (None, "CHECKING"));
}

/// A connection that has sent the first message of SCRAM, and its nonce.
fn scram_begun() -> (Connection, String) {
    let mut connection = connected(config(&[1]), password(), false);
    written(&mut connection);
    connection.received(&authentication(10, b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0"), START);
    let sent = client_messages(&written(&mut connection));
    let text = String::from_utf8_lossy(&sent[0].1).into_owned();
    assert!(text.starts_with("SCRAM-SHA-256\0"), "{text}");
    let (_, nonce) = text.split_once("n,,n=,r=").expect("the first message of SCRAM");
    (connection, nonce.to_owned())
}

#[test]
fn false_server_does_not_pass_scram() {
    let unproven = "it accepts the login without a proof that it knows the password (SCRAM)";
    let (connection, _) = scram_begun();
    assert_eq!(reason_after(connection, &session()), unproven);

    for iterations in ["0", "1", "4095", "65537", "4294967295"] {
        let (connection, nonce) = scram_begun();
        let first = format!("r={nonce}abc,s=QSXCR+Q6sek8bf92,i={iterations}");
        let why = reason_after(connection, &authentication(11, first.as_bytes()));
        assert!(why.contains(&format!("{iterations} iterations of SCRAM, which are not 4096 to 65536")), "{why}");
    }
    for first in ["", "r=,s=,i=4096", "r=foreign,s=QSXCR+Q6sek8bf92,i=4096", "i=4096", "\u{fffd},,i=4096"] {
        let (connection, _) = scram_begun();
        let why = reason_after(connection, &authentication(11, first.as_bytes()));
        assert!(why.starts_with("malformed message: "), "{why}");
    }

    let proved = || {
        let (mut connection, nonce) = scram_begun();
        let first = format!("r={nonce}abc,s=QSXCR+Q6sek8bf92,i=4096");
        connection.received(&authentication(11, first.as_bytes()), START);
        let sent = client_messages(&written(&mut connection));
        assert!(String::from_utf8_lossy(&sent[0].1).starts_with(&format!("c=biws,r={nonce}abc,p=")));
        connection
    };
    assert_eq!(reason_after(proved(), &session()), unproven);
    for last in ["", "v=", "v=AAAA", "e=other-error", "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="] {
        let why = reason_after(proved(), &authentication(12, last.as_bytes()));
        assert_eq!(why, "it does not know the password of the role (SCRAM): is it the right server?", "{last}");
    }
}

#[test]
fn only_one_octet_may_answer_the_request_for_tls() {
    let asked = || {
        let mut connection = connected(config(&[1]), None, true);
        assert_eq!(written(&mut connection), [0, 0, 0, 8, 4, 210, 22, 47]);
        connection
    };
    for (answer, why) in [
        (&b"N"[..], "it does not offer TLS: set ssl=on in postgresql.conf, or tls=off"),
        (b"E", "it does not know TLS"),
        (b"\0", "it does not know TLS"),
        (b"SX", "octets before TLS"),
        (b"", "none"),
    ] {
        assert_eq!(reason_after(asked(), answer), why);
    }
    let mut connection = asked();
    connection.received(b"S", START);
    assert!(connection.wants_tls() && connection.output().is_empty());
    connection.connected(START);
    assert_eq!(startup_parameters(&written(&mut connection))[0], ("user".into(), "imcharge".into()));
    let mut connection = asked();
    connection.received(b"S", START);
    assert_eq!(reason_after(connection, b"R"), "octets before TLS");
}

/// The reason for which this server is refused; `None`: it passes.
fn refused(checks: &Checks, allow_async: bool) -> Option<String> {
    let config = ClientConfig { allow_async, ..config(&[1]) };
    let mut connection = connected(config, None, false);
    connection.received(&[session(), checked(checks)].concat(), START);
    let is_open = matches!(events(&mut connection)[..], [Event::Open(_)]);
    let why = connection.close_reason().map(str::to_owned);
    assert_eq!(is_open, why.is_none(), "{why:?}");
    why
}

#[test]
fn unfit_servers_are_refused_with_what_to_do() {
    let fit = Checks::default();
    assert_eq!(refused(&fit, false), None);
    for (checks, part) in [
        (Checks { is_standby: true, ..fit }, "it is a standby"),
        (Checks { is_read_only: true, ..fit }, "unset default_transaction_read_only"),
        (Checks { version: 140_022, ..fit }, "it is PostgreSQL 14: 15 or newer is needed"),
        (Checks { schema: None, ..fit }, "run psql -d charging -f imcharge.sql as its owner"),
        (Checks { schema: Some(SCHEMA_LATER), ..fit }, "has version 99, and this module needs version"),
    ] {
        for allow_async in [false, true] {
            let why = refused(&checks, allow_async).expect("refused");
            assert!(why.contains(part), "{why}");
        }
    }
    for (checks, part) in [
        (Checks { standby_names: "", ..fit }, "synchronous_standby_names is empty"),
        (Checks { standby_names: "  ", ..fit }, "synchronous_standby_names is empty"),
        (Checks { commit: "off", ..fit }, "synchronous_commit is off"),
        (Checks { commit: "local", ..fit }, "synchronous_commit is local"),
    ] {
        let why = refused(&checks, false).expect("refused");
        assert!(why.contains(part) && why.contains("postgres_async=yes"), "{why}");
        assert_eq!(refused(&checks, true), None);
    }
    for commit in ["remote_write", "remote_apply"] {
        assert_eq!(refused(&Checks { commit, ..fit }, false), None);
    }
}

/// A version of the schema that does not exist yet.
const SCHEMA_LATER: i32 = 99;

#[test]
fn failed_checks_say_what_to_do() {
    for (sqlstate, part) in [
        ("42P01", "run psql -d charging -f imcharge.sql as its owner"),
        ("3F000", "run psql -d charging -f imcharge.sql as its owner"),
        ("42501", "grant role imcharge the use of the schema"),
        ("XX000", "its checks failed: text (SQLSTATE XX000)"),
    ] {
        let octets = [session(), error("ERROR", sqlstate, "text"), ready()].concat();
        let why = reason_after(connected(config(&[1]), None, false), &octets);
        assert!(why.contains(part), "{why}");
    }
    let types = check_types();
    for rows in [vec![], vec![row(&[None; 7])], vec![row(&[None; 7]), row(&[None; 7])]] {
        let octets = [session(), parsed(&[], &types), executed(&rows), ready()].concat();
        let why = reason_after(connected(config(&[1]), None, false), &octets);
        assert!(why.starts_with("its checks were answered "), "{why}");
    }
}

#[test]
fn silence_ends_the_connection() {
    let mut connection = connected(config(&[1]), None, false);
    let until = START.after_seconds(5);
    assert_eq!(connection.deadline(), Some(until));
    connection.received(&session(), START);
    assert_eq!(connection.deadline(), Some(until), "the checks have no time of their own");
    connection.timer(until);
    assert_eq!(connection.close_reason(), Some("no login within 5 s"));

    let mut connection = open();
    assert_eq!(connection.deadline(), None);
    let later = START.after_seconds(3600);
    connection.timer(later);
    connection.query(ID, STATEMENT, &[], later).expect("ready");
    assert_eq!(connection.deadline(), Some(later.after_seconds(10)));
    connection.timer(later.after_seconds(9));
    assert_eq!(connection.close_reason(), None);
    connection.timer(later.after_seconds(10));
    assert_eq!(connection.close_reason(), Some("no answer within 10 s"));
    connection.closed();
    assert!(matches!(events(&mut connection)[..], [Event::Lost(ID)]));
}

#[test]
fn arrays_are_read_as_they_are_written() {
    let columns = [Parameter::Int8Array(&[1, i64::MIN]), Parameter::TextArray(&["a", ""])];
    let octets = [Some(&b"state"[..]), None, Some(b"")];
    let columns = [columns[0], columns[1], Parameter::ByteaArray(&octets), Parameter::ByteaArray(&[])];
    let types: Vec<u32> = columns.iter().map(|column| column.type_of().oid()).collect();
    let written: Vec<_> = columns.iter().map(|column| octets_of(column)).collect();
    let values: Vec<_> = written.iter().map(|octets| Some(&octets[..])).collect();
    let mut connection = busy();
    connection.received(&[parsed(&[INT8], &types), executed(&[row(&values)]), ready()].concat(), START);
    let Some(Event::Rows(ID, rows)) = connection.next_event() else { panic!("rows") };
    assert_eq!(rows[0].int8_array(0), Ok(vec![1, i64::MIN]));
    assert_eq!(rows[0].text_array(1), Ok(vec!["a", ""]));
    assert_eq!(rows[0].bytea_array(2), Ok(octets.to_vec()));
    assert_eq!(rows[0].bytea_array(3), Ok(vec![]));
    assert!(rows[0].int8_array(2).is_err() && rows[0].int8(0).is_err() && rows[0].bytea_array(4).is_err());
}

fn octets_of(parameter: &Parameter<'_>) -> Vec<u8> {
    let mut out = BytesMut::new();
    parameter.write(&mut out).expect("writable");
    out.to_vec()
}

#[test]
fn values_of_another_form_are_errors() {
    let dimensions = |count: i32, size: i32| {
        [count.to_be_bytes(), [0; 4], INT8.to_be_bytes(), size.to_be_bytes(), 1_i32.to_be_bytes()].concat()
    };
    let arrays = [
        vec![],
        dimensions(1, i32::MAX),
        dimensions(1, -1),
        dimensions(i32::MAX, 1),
        dimensions(-1, 1),
        [dimensions(1, 1), (-1_i32).to_be_bytes().to_vec()].concat(),
        [dimensions(1, 1), 3_i32.to_be_bytes().to_vec(), vec![0; 3]].concat(),
        [dimensions(2, 1), [1_i32.to_be_bytes(); 2].concat(), 8_i32.to_be_bytes().to_vec(), vec![0; 8]].concat(),
    ];
    for array in arrays {
        let mut connection = busy();
        let answer = [parsed(&[INT8], &[1016]), executed(&[row(&[Some(&array)])]), ready()].concat();
        connection.received(&answer, START);
        let Some(Event::Rows(ID, rows)) = connection.next_event() else { panic!("rows") };
        assert!(rows[0].int8_array(0).is_err(), "{array:?}");
    }
    let mut connection = busy();
    let values: [Option<&[u8]>; 6] = [Some(&[1, 2, 3]), Some(b"\xff"), None, Some(&[1]), Some(&[0; 2]), Some(&[0; 4])];
    let types = [INT8, TEXT, TEXT, 16, 21, INT4];
    connection.received(&[parsed(&[INT8], &types), executed(&[row(&values)]), ready()].concat(), START);
    let Some(Event::Rows(ID, rows)) = connection.next_event() else { panic!("rows") };
    assert_eq!(rows[0].int8(0).map_err(|error| error.to_string()), Err("column 0 of the result is no int8".into()));
    assert!(rows[0].text(1).is_err() && rows[0].text(2).is_err() && rows[0].is_null(2) && !rows[0].is_null(9));
    assert_eq!((rows[0].bool(3), rows[0].int2(4), rows[0].int4(5)), (Ok(true), Ok(0), Ok(0)));
}

#[test]
fn password_is_in_no_debug_output() {
    let config = ClientConfig { password_file: Some(Path::new("/etc/secret").into()), ..config(&[1]) };
    assert!(!format!("{config:?} {:?}", password()).contains("\"secret\""));
}
