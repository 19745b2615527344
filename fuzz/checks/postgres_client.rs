//! The connection of the PostgreSQL client, with a server that sends anything at any time. Two connections get the same
//! octets, one of them in pieces.

use super::Choices;
use super::fake_server::*;
use imcharge::charge::time::Time;
use imcharge::enabler::postgres::client::connection::{Connection, Event};
use imcharge::enabler::postgres::client::password::Password;
use imcharge::enabler::postgres::client::{ClientConfig, Parameter, QueryId, Row, Type};
use std::rc::Rc;
use std::sync::LazyLock;

/// Maximum number of acts of one input.
const ACTS_MAX: usize = 200;

/// Octets that the client may keep besides those that have arrived.
const SPARE_OCTETS: usize = 1 << 20;

/// Longest text that the client makes of what the server sends, in octets.
const TEXT_MAX: usize = 4000;

const START: Time = Time(1_000_000_000);

const STATEMENTS: [&str; 3] = ["SELECT imcharge.one($1)", "SELECT * FROM imcharge.two($1, $2)", "SELECT 3"];

/// Types of columns, and one that the client does not know.
const TYPES: [u32; 12] = [16, 17, 20, 21, 23, 25, 19, 1001, 1005, 1009, 1016, 1700];

static PASSWORD: LazyLock<Password> = LazyLock::new(|| {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "secret").expect("a writable file");
    Password::load(file.path()).expect("a password")
});

/// Runs the acts that the input describes.
pub fn check(input: &[u8]) {
    let mut choices = Choices::new(input);
    let has_password = choices.below(4) == 3;
    let has_tls = choices.below(4) == 3;
    let allow_async = choices.flag();
    let mut world = World::new(has_password, has_tls, allow_async);
    for _ in 0..ACTS_MAX {
        if choices.is_done() {
            break;
        }
        world.act(&mut choices);
    }
    world.end();
}

/// What has happened to the query in flight.
#[derive(Clone, Copy, Debug, Default)]
struct InFlight {
    id: u64,
    /// The server has said that it might not be replicated.
    is_not_replicated: bool,
}

/// The connection, and its twin that reads the octets in pieces. With a password there is no twin: the nonce is random.
struct World {
    connection: Connection,
    twin: Option<Connection>,
    now: Time,
    in_flight: Option<InFlight>,
    /// Whether the octets so far are whole messages.
    is_whole: bool,
    next_id: u64,
    received: usize,
    proofs: usize,
    outcomes: usize,
    asked: usize,
}

impl World {
    fn new(has_password: bool, has_tls: bool, allow_async: bool) -> World {
        let config = Rc::new(ClientConfig { allow_async, ..config(&[5432]) });
        let password = has_password.then(|| PASSWORD.clone());
        let new = || {
            let mut connection = Connection::new(Rc::clone(&config), password.clone(), has_tls);
            connection.connected(START);
            connection
        };
        World {
            connection: new(),
            twin: (!has_password).then(new),
            now: START,
            in_flight: None,
            is_whole: true,
            next_id: 0,
            received: 0,
            proofs: 0,
            outcomes: 0,
            asked: 0,
        }
    }

    fn act(&mut self, choices: &mut Choices<'_>) {
        match choices.below(16) {
            0 => self.send(&session(), choices),
            1 => {
                let octets = checked(&checks(choices));
                self.send(&octets, choices);
            }
            2 => self.query(choices),
            3 => {
                let octets = answered(i64::from(choices.octet()));
                self.send(&octets, choices);
            }
            4 => {
                let octets = described(choices);
                self.send(&octets, choices);
            }
            5 => {
                let octets = some_row(choices);
                self.send(&octets, choices);
            }
            6 => {
                let sqlstate = *pick(choices, &["22003", "26000", "57P01", "42P01", "xx", "0A000"]);
                let text = String::from_utf8_lossy(choices.octets()).replace('\0', "");
                let severity = *pick(choices, &["ERROR", "FATAL", "PANIC", ""]);
                let octets = error(severity, sqlstate, &text);
                self.send(&octets, choices);
            }
            7 => {
                let reported = self.is_whole && self.connection.close_reason().is_none();
                if let Some(in_flight) = self.in_flight.as_mut().filter(|_| reported) {
                    in_flight.is_not_replicated = true;
                }
                self.send(&not_replicated(), choices);
            }
            8 => {
                let octets = message(choices.octet(), choices.octets());
                self.send(&octets, choices);
            }
            9 => {
                self.is_whole = false;
                let octets = choices.octets();
                self.send(octets, choices);
            }
            10 => {
                let octets = authentication(choices.below(14) as u32, choices.octets());
                self.send(&octets, choices);
            }
            11 => self.prove(choices),
            12 => {
                let octets = *pick(choices, &[&b"S"[..], b"N", b"E", b"SS"]);
                self.send(octets, choices);
                self.is_whole &= self.connection.wants_tls();
                self.each(|connection, now| connection.connected(now));
            }
            13 => {
                self.now = Time(self.now.0 + choices.u64() % 20_000_000);
                self.each(Connection::timer);
            }
            14 => {
                let count = usize::from(choices.u16());
                self.each(|connection, _| connection.wrote(count));
            }
            _ => {
                let tag = *pick(choices, b"123nsICZ");
                let octets = message(
                    tag,
                    if tag == b'Z' {
                        b"I"
                    } else if tag == b'C' {
                        b"SELECT 1\0"
                    } else {
                        b""
                    },
                );
                self.send(&octets, choices);
            }
        }
        self.check();
    }

    fn each(&mut self, what: impl Fn(&mut Connection, Time)) {
        what(&mut self.connection, self.now);
        if let Some(twin) = &mut self.twin {
            what(twin, self.now);
        }
    }

    fn send(&mut self, octets: &[u8], choices: &mut Choices<'_>) {
        self.received += octets.len();
        self.connection.received(octets, self.now);
        let piece = choices.below(16) + 1;
        if let Some(twin) = &mut self.twin {
            // Octets after the answer to the request for TLS are refused only if they arrive with it.
            let piece = if twin.state_name() == "CONNECTING" { octets.len().max(1) } else { piece };
            octets.chunks(piece).for_each(|part| twin.received(part, self.now));
        }
    }

    fn query(&mut self, choices: &mut Choices<'_>) {
        let statement = *pick(choices, &STATEMENTS);
        let octets = choices.octets();
        let text = String::from_utf8_lossy(octets).into_owned();
        let texts = [text.as_str(), "b"];
        let parts = [Some(octets), None];
        let parameter = match choices.below(6) {
            0 => Parameter::Int8(choices.u64() as i64),
            1 => Parameter::Text(&text),
            2 => Parameter::ByteaArray(&parts),
            3 => Parameter::TextArray(&texts),
            4 => Parameter::Null(Type::Int8),
            _ => Parameter::Int2Array(&[]),
        };
        let (id, now) = (QueryId(self.next_id), self.now);
        let sent = self.connection.query(id, statement, &[parameter], now);
        if let Some(twin) = &mut self.twin {
            assert_eq!(twin.query(id, statement, &[parameter], now), sent);
        }
        if sent.is_ok() {
            assert!(self.in_flight.is_none(), "two queries in flight");
            self.in_flight = Some(InFlight { id: self.next_id, is_not_replicated: false });
            self.next_id += 1;
            self.asked += 1;
        }
    }

    /// Continues SCRAM with the nonce of the client.
    fn prove(&mut self, choices: &mut Choices<'_>) {
        let sent = String::from_utf8_lossy(self.connection.output()).into_owned();
        let Some((_, nonce)) = sent.rsplit_once("n,,n=,r=") else { return };
        let iterations = *pick(choices, &["4096", "4095", "65537", "0", "4294967296"]);
        // Each proof takes milliseconds.
        if self.proofs == 0 {
            self.proofs += 1;
            let first = format!("r={nonce}{},s=QSXCR+Q6sek8bf92,i={iterations}", choices.octet());
            self.send(&authentication(11, first.as_bytes()), choices);
        }
    }

    fn check(&mut self) {
        loop {
            let event = self.connection.next_event();
            if let Some(twin) = &mut self.twin {
                assert_eq!(format!("{event:?}"), format!("{:?}", twin.next_event()));
            }
            match event {
                Some(event) => self.event(event),
                None => break,
            }
        }
        if let Some(twin) = &self.twin {
            assert_eq!(self.connection.close_reason(), twin.close_reason());
            assert_eq!(self.connection.output(), twin.output());
            assert_eq!(self.connection.state_name(), twin.state_name());
            assert_eq!(self.connection.deadline(), twin.deadline());
        }
        if let Some(why) = self.connection.close_reason() {
            is_printable(why);
        }
        let kept = self.connection.memory();
        assert!(kept <= 4 * self.received + SPARE_OCTETS, "{kept} octets kept of {}", self.received);
    }

    fn event(&mut self, event: Event) {
        let (id, is_done) = match &event {
            Event::Open(_) => return assert!(self.in_flight.is_none(), "the checks follow the login"),
            Event::Rows(id, rows) => {
                rows.iter().for_each(read_all);
                (id, true)
            }
            Event::Refused(id, error) => {
                is_printable(&error.to_string());
                assert!(!error.is_fatal);
                (id, true)
            }
            Event::Lost(id) => (id, false),
        };
        let in_flight = self.in_flight.take().expect("an outcome belongs to a query");
        assert_eq!(id.0, in_flight.id);
        assert!(!(is_done && in_flight.is_not_replicated), "an answer that might not be replicated: {event:?}");
        self.outcomes += 1;
    }

    /// Closes the connection. Each query has had one outcome then.
    fn end(mut self) {
        self.each(|connection, _| connection.closed());
        self.check();
        assert!(self.in_flight.is_none());
        assert_eq!(self.outcomes, self.asked);
    }
}

fn pick<'a, T>(choices: &mut Choices<'_>, from: &'a [T]) -> &'a T {
    &from[choices.below(from.len())]
}

fn checks(choices: &mut Choices<'_>) -> Checks {
    match choices.below(12) {
        0 => Checks { is_standby: true, ..Checks::default() },
        1 => Checks { standby_names: "", ..Checks::default() },
        2 => Checks { commit: "local", ..Checks::default() },
        3 => Checks { schema: None, ..Checks::default() },
        4 => Checks { version: choices.u64() as i32, ..Checks::default() },
        _ => Checks::default(),
    }
}

/// ParseComplete, the descriptions of columns of any types, and BindComplete.
fn described(choices: &mut Choices<'_>) -> Vec<u8> {
    let types: Vec<u32> = (0..choices.below(70)).map(|_| *pick(choices, &TYPES)).collect();
    [parsed(&[INT8], &types), message(b'2', b"")].concat()
}

/// A row of any values.
fn some_row(choices: &mut Choices<'_>) -> Vec<u8> {
    let values: Vec<_> = (0..choices.below(8)).map(|_| choices.flag().then(|| choices.octets())).collect();
    row(&values)
}

/// Reads each column as each type.
fn read_all(row: &Row) {
    for column in 0..70 {
        let kinds = [
            row.bool(column).is_ok(),
            row.int2(column).is_ok(),
            row.int4(column).is_ok(),
            row.int8(column).is_ok(),
            row.text(column).is_ok(),
            row.bytea(column).is_ok(),
            row.int8_array(column).is_ok(),
            row.text_array(column).is_ok(),
            row.bytea_array(column).is_ok(),
        ];
        let count = kinds.iter().filter(|is_one| **is_one).count();
        assert!(count <= usize::from(!row.is_null(column)), "column {column} is of {count} types");
    }
}

fn is_printable(text: &str) {
    assert!(text.len() <= TEXT_MAX && !text.contains(char::is_control), "{text:?}");
}
