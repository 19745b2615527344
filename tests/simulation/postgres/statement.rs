//! Statements of the shared ledger, as the client calls them.

use super::value::{Value, oid};

/// Key of a session.
pub type Key = Vec<u8>;

/// Columns of the functions, in the order in which they are declared.
const COLUMNS: [(&str, &[(&str, u32)]); 6] = [
    ("imcharge.join(", &[("epoch", oid::INT8), ("last_tick", oid::INT8), ("result", oid::INT2)]),
    (
        "imcharge.tick(",
        &[
            ("item", oid::INT4),
            ("result", oid::INT2),
            ("granted", oid::INT8),
            ("balance", oid::INT8),
            ("held", oid::INT8),
            ("credit_limit", oid::INT8),
            ("became_low", oid::BOOL),
        ],
    ),
    ("imcharge.dead_nodes(", &[("names", oid::TEXT_ARRAY), ("standbys", oid::INT4)]),
    ("imcharge.take_over(", &[("result", oid::INT2)]),
    (
        "imcharge.adopt(",
        &[
            ("session", oid::BYTEA),
            ("account", oid::TEXT),
            ("number", oid::INT8),
            ("opened_at", oid::INT8),
            ("state", oid::BYTEA),
            ("part_numbers", oid::INT8_ARRAY),
            ("part_states", oid::BYTEA_ARRAY),
        ],
    ),
    ("imcharge.adopted(", &[("result", oid::INT2)]),
];

/// Columns of the checks at connect.
const CHECKS: [(&str, u32); 7] = [
    ("is_in_recovery", oid::BOOL),
    ("is_read_only", oid::BOOL),
    ("synchronous_standby_names", oid::TEXT),
    ("synchronous_commit", oid::TEXT),
    ("server_version_num", oid::INT4),
    ("version", oid::INT4),
    ("check_interval", oid::TEXT),
];

/// A request of a tick.
#[derive(Clone, Debug)]
pub struct Request {
    pub kind: i64,
    pub session: Key,
    pub number: i64,
    pub account: String,
    pub quota: i64,
    pub units: i64,
    pub holds: i64,
    pub message: String,
    pub part: i64,
    pub octets: i64,
    pub trigger: String,
    pub code: i64,
    pub call: String,
    pub opened: i64,
}

/// A state in a tick.
#[derive(Clone, Debug)]
pub struct State {
    pub session: Key,
    pub account: String,
    pub opened: i64,
    /// `None`: the session is settled.
    pub state: Option<Vec<u8>>,
}

/// Parameters of `imcharge.tick`.
#[derive(Clone, Debug)]
pub struct Tick {
    pub node: String,
    pub epoch: i64,
    pub tick: i64,
    pub lease: u64,
    pub default_balance: Option<i64>,
    pub low_units: Option<i64>,
    pub low_percent: Option<i64>,
    pub requests: Vec<Request>,
    pub states: Vec<State>,
    pub parts: Vec<(Key, i64, Vec<u8>)>,
}

/// A statement with its parameters. Spans are in microseconds.
#[derive(Clone, Debug)]
pub enum Statement {
    Check,
    Join {
        node: String,
        identity: String,
        lease: u64,
    },
    Tick(Box<Tick>),
    /// `all`: also those that this node has not taken over.
    DeadNodes {
        node: String,
        all: bool,
    },
    TakeOver {
        node: String,
        epoch: i64,
        dead: String,
    },
    Adopt {
        node: String,
        epoch: i64,
        dead: String,
        limit: usize,
    },
    Adopted {
        node: String,
        epoch: i64,
        sessions: Vec<Key>,
    },
}

/// A column that is selected: name and type, and its place in the rows of the function.
pub type Column = (&'static str, u32, usize);

/// Returns the columns that a statement selects; `None`: it is not known.
pub fn columns(text: &str) -> Option<Vec<Column>> {
    let all = |declared: &[(&'static str, u32)]| {
        declared.iter().enumerate().map(|(place, (name, oid))| (*name, *oid, place)).collect::<Vec<Column>>()
    };
    if text.contains("pg_is_in_recovery") {
        return Some(all(&CHECKS));
    }
    let (_, declared) = COLUMNS.iter().find(|(function, _)| text.contains(function))?;
    if text.starts_with("SELECT array(") {
        return Some(all(declared));
    }
    let list = text.split("FROM").next()?.trim().strip_prefix("SELECT")?.trim();
    if list == "*" {
        return Some(all(declared));
    }
    list.split(',').map(|name| all(declared).into_iter().find(|(known, ..)| *known == name.trim())).collect()
}

/// Reads a statement with its parameters; `None`: they are malformed.
pub fn read(text: &str, values: &[Value]) -> Option<Statement> {
    let at = |place: usize| values.get(place);
    let (text_at, int_at) =
        (|place| at(place).and_then(Value::text).map(str::to_owned), |place| at(place).and_then(Value::int));
    let function = |name: &str| text.contains(&format!("imcharge.{name}("));
    Some(match () {
        () if text.contains("pg_is_in_recovery") => Statement::Check,
        () if function("join") => {
            Statement::Join { node: text_at(0)?, identity: text_at(1)?, lease: millis(int_at(2)?)? }
        }
        () if function("tick") => Statement::Tick(Box::new(read_tick(values)?)),
        () if function("dead_nodes") => Statement::DeadNodes { node: text_at(0)?, all: at(1)? == &Value::Bool(true) },
        () if function("take_over") => Statement::TakeOver { node: text_at(0)?, epoch: int_at(1)?, dead: text_at(2)? },
        () if function("adopted") => {
            let sessions = at(2)?.array()?.iter().map(|key| key.bytea().map(<[u8]>::to_vec)).collect::<Option<_>>()?;
            Statement::Adopted { node: text_at(0)?, epoch: int_at(1)?, sessions }
        }
        () if function("adopt") => {
            let limit = usize::try_from(int_at(3)?).ok()?;
            Statement::Adopt { node: text_at(0)?, epoch: int_at(1)?, dead: text_at(2)?, limit }
        }
        () => return None,
    })
}

fn millis(millis: i64) -> Option<u64> {
    u64::try_from(millis).ok().map(|millis| millis * 1000)
}

/// Reads the parameters of a tick: arrays of one length for requests, for states, and for parts.
fn read_tick(values: &[Value]) -> Option<Tick> {
    let ints = |place: usize| values.get(place)?.array()?.iter().map(Value::int).collect::<Option<Vec<i64>>>();
    let texts = |place: usize| {
        let array = values.get(place)?.array()?;
        array.iter().map(|value| value.text().map(str::to_owned)).collect::<Option<Vec<String>>>()
    };
    let byteas = |place: usize| {
        let array = values.get(place)?.array()?;
        Some(array.iter().map(|value| value.bytea().map(<[u8]>::to_vec)).collect::<Vec<Option<Vec<u8>>>>())
    };
    let keys = |place: usize| byteas(place)?.into_iter().collect::<Option<Vec<Key>>>();
    let (kinds, sessions, numbers, accounts) = (ints(7)?, keys(8)?, ints(9)?, texts(10)?);
    let (quotas, units, holds, messages) = (ints(11)?, ints(12)?, ints(13)?, texts(14)?);
    let (parts, octets, triggers, codes) = (ints(15)?, ints(16)?, texts(18)?, ints(19)?);
    let (calls, opened) = (texts(20)?, ints(21)?);
    let (state_sessions, state_accounts, state_opened, states) = (keys(22)?, texts(23)?, ints(24)?, byteas(25)?);
    let (part_sessions, part_numbers, part_states) = (keys(26)?, ints(27)?, keys(28)?);
    let lengths = [
        sessions.len(),
        numbers.len(),
        accounts.len(),
        quotas.len(),
        units.len(),
        holds.len(),
        messages.len(),
        parts.len(),
        octets.len(),
        texts(17)?.len(),
        triggers.len(),
        codes.len(),
        calls.len(),
        opened.len(),
    ];
    let of_states = [state_accounts.len(), state_opened.len(), states.len()];
    let is_regular = lengths.iter().all(|length| *length == kinds.len())
        && of_states.iter().all(|length| *length == state_sessions.len())
        && [part_numbers.len(), part_states.len()].iter().all(|length| *length == part_sessions.len());
    if !is_regular {
        return None;
    }
    let request = |at: usize| Request {
        kind: kinds[at],
        session: sessions[at].clone(),
        number: numbers[at],
        account: accounts[at].clone(),
        quota: quotas[at],
        units: units[at],
        holds: holds[at],
        message: messages[at].clone(),
        part: parts[at],
        octets: octets[at],
        trigger: triggers[at].clone(),
        code: codes[at],
        call: calls[at].clone(),
        opened: opened[at],
    };
    let state = |at: usize| State {
        session: state_sessions[at].clone(),
        account: state_accounts[at].clone(),
        opened: state_opened[at],
        state: states[at].clone(),
    };
    let part = |at: usize| (part_sessions[at].clone(), part_numbers[at], part_states[at].clone());
    Some(Tick {
        node: values.first()?.text()?.to_owned(),
        epoch: values.get(1)?.int()?,
        tick: values.get(2)?.int()?,
        lease: millis(values.get(3)?.int()?)?,
        default_balance: values.get(4)?.int(),
        low_units: values.get(5)?.int(),
        low_percent: values.get(6)?.int(),
        requests: (0..kinds.len()).map(request).collect(),
        states: (0..state_sessions.len()).map(state).collect(),
        parts: (0..part_sessions.len()).map(part).collect(),
    })
}
