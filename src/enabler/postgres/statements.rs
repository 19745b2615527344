//! The SQL of each query, and the connection that executes it.

use super::client::{Client, ClientEvent, Parameter, Row as Columns, Type, WrongColumn};
use super::config::{Config, Takeover};
use super::database::{AdoptedRow, Answer, Database, DatabaseEvent, ItemResult, Joined, Query, TakeOverResult, Ticked};
use super::tick::{Row, Tick};
use crate::charge::ch2::SessionKey;
use crate::charge::time::Time;
use crate::enabler::{LowBalance, SessionState, StateDirectory, StatusEntry, StatusValue};
use std::collections::VecDeque;
use std::os::fd::RawFd;

const JOIN: &str = "SELECT epoch, last_tick, result FROM imcharge.join($1, $2, $3, $4)";
const TICK: &str = "SELECT item, result, granted, balance, held, credit_limit, became_low FROM imcharge.tick($1, $2, $3, \
     $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, \
     $28, $29)";
/// Without takeover, the nodes that an operator has taken over by `imcharge.takeover`.
const DEAD_NODES: &str = "SELECT array(SELECT d.name FROM imcharge.dead_nodes($1) d JOIN imcharge.nodes n USING (name) \
     WHERE $2 OR n.taken_over_by = $1 OR n.name = $1), imcharge.standbys()";
const TAKE_OVER: &str = "SELECT result FROM imcharge.take_over($1, $2, $3)";
const ADOPT: &str = "SELECT session, account, opened_at, state, part_numbers, part_states \
     FROM imcharge.adopt($1, $2, $3, $4)";

/// The kind of the query in flight, which says how its rows are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Join,
    Tick,
    DeadNodes,
    TakeOver,
    Adopt,
}

/// The connection to the database, as one node.
pub struct Connection {
    client: Client,
    node: String,
    identity: String,
    origin_host: String,
    lease_ms: i32,
    takes_over: bool,
    default_balance: Option<i64>,
    low_units: Option<i64>,
    low_percent: Option<i32>,
    asked: Option<Asked>,
    events: VecDeque<DatabaseEvent>,
}

impl Connection {
    /// Creates it. It connects from the first [`work`](Database::work) on.
    pub fn new(config: &Config, state_directory: StateDirectory, now: Time) -> Connection {
        let (low_units, low_percent) = match config.low_balance {
            Some(LowBalance::Units(units)) => (Some(units), None),
            Some(LowBalance::Percent(percent)) => (None, i32::try_from(percent).ok()),
            None => (None, None),
        };
        Connection {
            client: Client::new(config.client.clone(), now),
            node: config.node.clone(),
            identity: format!("{:016x}", state_directory.ledger),
            origin_host: config.origin_host.clone(),
            lease_ms: i32::try_from(u64::from(config.lease) * 1000).unwrap_or(i32::MAX),
            takes_over: config.takeover == Takeover::Settle,
            default_balance: config.default_balance,
            low_units,
            low_percent,
            asked: None,
            events: VecDeque::new(),
        }
    }

    /// Sends a statement. One that cannot be sent is lost at once.
    fn query(&mut self, asked: Asked, statement: &'static str, parameters: &[Parameter<'_>], now: Time) {
        match self.client.query(statement, parameters, now) {
            Ok(_) => self.asked = Some(asked),
            Err(error) => {
                log::error!("a statement cannot be sent to PostgreSQL: {error}");
                self.events.push_back(DatabaseEvent::Lost);
            }
        }
    }

    fn send_tick(&mut self, epoch: i64, tick: &Tick, now: Time) {
        let (items, states, node) = (Items::new(tick), States::new(&tick.states), self.node.clone());
        let sessions = key_column(&items.keys);
        let (state_sessions, part_sessions) = (key_column(&states.keys), key_column(&states.part_keys));
        let mut parameters = vec![
            Parameter::Text(&node),
            Parameter::Int8(epoch),
            Parameter::Int8(tick.number),
            Parameter::Int4(self.lease_ms),
            int8(self.default_balance),
            int8(self.low_units),
            self.low_percent.map_or(Parameter::Null(Type::Int4), Parameter::Int4),
        ];
        parameters.extend(items.parameters(&sessions));
        parameters.extend(states.parameters(&state_sessions, &part_sessions));
        self.query(Asked::Tick, TICK, &parameters, now);
    }

    fn rows(&mut self, rows: &[Columns]) -> DatabaseEvent {
        let read = self.asked.take().map(|asked| read(asked, rows));
        match read {
            Some(Ok(Some(answer))) => DatabaseEvent::Answered(answer),
            Some(Ok(None)) => unreadable("it has no row"),
            Some(Err(error)) => unreadable(&error.to_string()),
            None => DatabaseEvent::Lost,
        }
    }
}

/// An answer that cannot be read is none: the query may have been executed.
fn unreadable(why: &str) -> DatabaseEvent {
    log::error!(
        "an answer of PostgreSQL cannot be read ({why}): its schema is not that of this module; run imcharge.sql"
    );
    DatabaseEvent::Lost
}

impl Database for Connection {
    fn work(&mut self, now: Time) {
        self.client.work(now);
    }

    fn is_ready(&self) -> bool {
        self.client.is_ready() && self.events.is_empty()
    }

    fn send(&mut self, query: Query<'_>, now: Time) {
        let node = self.node.clone();
        match query {
            Query::Join => {
                let (identity, origin_host) = (self.identity.clone(), self.origin_host.clone());
                let lease = Parameter::Int4(self.lease_ms);
                let parameters =
                    [Parameter::Text(&node), Parameter::Text(&identity), lease, Parameter::Text(&origin_host)];
                self.query(Asked::Join, JOIN, &parameters, now);
            }
            Query::Tick { epoch, tick } => self.send_tick(epoch, tick, now),
            Query::DeadNodes => {
                let parameters = [Parameter::Text(&node), Parameter::Bool(self.takes_over)];
                self.query(Asked::DeadNodes, DEAD_NODES, &parameters, now);
            }
            Query::TakeOver { epoch, dead } => {
                let parameters = [Parameter::Text(&node), Parameter::Int8(epoch), Parameter::Text(dead)];
                self.query(Asked::TakeOver, TAKE_OVER, &parameters, now);
            }
            Query::Adopt { epoch, dead, limit } => {
                let dead = Parameter::Text(dead);
                let parameters = [Parameter::Text(&node), Parameter::Int8(epoch), dead, Parameter::Int4(limit)];
                self.query(Asked::Adopt, ADOPT, &parameters, now);
            }
        }
    }

    fn flush(&mut self, now: Time) {
        self.client.flush(now);
    }

    fn next_event(&mut self) -> Option<DatabaseEvent> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        Some(match self.client.next_event()? {
            ClientEvent::Up { server, is_async } => DatabaseEvent::Up { server, is_async },
            ClientEvent::Down { why } => DatabaseEvent::Down { why },
            ClientEvent::Rows(_, rows) => self.rows(&rows),
            ClientEvent::Refused(_, error) => {
                self.asked = None;
                DatabaseEvent::Refused { code: error.sqlstate.as_str().to_owned(), message: error.message }
            }
            ClientEvent::Lost(_) => {
                self.asked = None;
                DatabaseEvent::Lost
            }
        })
    }

    fn deadline(&self) -> Option<Time> {
        if self.events.is_empty() { self.client.deadline() } else { Some(Time(0)) }
    }

    fn descriptors(&self) -> Vec<(RawFd, bool)> {
        self.client.descriptors().collect()
    }

    fn stop(&mut self, now: Time) {
        self.client.stop(now);
    }

    fn is_stopped(&self) -> bool {
        self.client.is_stopped()
    }

    fn status(&self) -> Vec<StatusEntry> {
        let entry = |server: super::client::ServerStatus| {
            let replication = match server.state {
                "READY" | "BUSY" if server.is_async => "async",
                "READY" | "BUSY" => "sync",
                _ => "",
            };
            vec![
                ("host", StatusValue::Text(server.host)),
                ("address", StatusValue::Text(server.address)),
                ("state", StatusValue::Text(server.state.into())),
                ("replication", StatusValue::Text(replication.into())),
                ("last_error", StatusValue::Text(server.last_error.unwrap_or_default())),
            ]
        };
        self.client.status().into_iter().map(entry).collect()
    }
}

fn int8(value: Option<i64>) -> Parameter<'static> {
    value.map_or(Parameter::Null(Type::Int8), Parameter::Int8)
}

/// Octets of a session's key in the database.
fn key_octets(key: SessionKey) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&key.0.to_be_bytes());
    octets[8..].copy_from_slice(&key.1.to_be_bytes());
    octets
}

/// Session's key in the database; `None`: these octets are none.
fn key_of(octets: &[u8]) -> Option<SessionKey> {
    let octets: [u8; 16] = octets.try_into().ok()?;
    let number = u128::from_be_bytes(octets);
    Some(SessionKey((number >> 64) as u64, number as u64))
}

/// Returns the keys as elements of an array.
fn key_column(keys: &[[u8; 16]]) -> Vec<Option<&[u8]>> {
    keys.iter().map(|key| Some(&key[..])).collect()
}

/// The array parameters of the requests, by column.
struct Items<'a> {
    kinds: Vec<i16>,
    keys: Vec<[u8; 16]>,
    numbers: Vec<i64>,
    accounts: Vec<&'a str>,
    quotas: Vec<i64>,
    units: Vec<i64>,
    holds: Vec<i64>,
    messages: Vec<&'a str>,
    parts: Vec<i64>,
    octets: Vec<i64>,
    classes: Vec<&'a str>,
    triggers: Vec<&'a str>,
    codes: Vec<i32>,
    calls: Vec<&'a str>,
    opened: Vec<i64>,
}

impl<'a> Items<'a> {
    fn new(tick: &'a Tick) -> Items<'a> {
        fn column<'a, T>(tick: &'a Tick, value: impl Fn(&'a Row) -> T) -> Vec<T> {
            tick.items.iter().map(|item| value(&item.row)).collect()
        }
        Items {
            kinds: column(tick, |row| row.kind as i16),
            keys: column(tick, |row| key_octets(row.session)),
            numbers: column(tick, |row| row.number),
            accounts: column(tick, |row| &*row.account),
            quotas: column(tick, |row| row.quota),
            units: column(tick, |row| row.units),
            holds: column(tick, |row| row.holds),
            messages: column(tick, |row| &*row.message),
            parts: column(tick, |row| row.part),
            octets: column(tick, |row| row.octets),
            classes: column(tick, |row| row.class),
            triggers: column(tick, |row| row.trigger),
            codes: column(tick, |row| row.code),
            calls: column(tick, |row| &*row.call),
            opened: column(tick, |row| row.opened_at),
        }
    }

    /// `sessions`: the column of the keys.
    fn parameters<'b>(&'b self, sessions: &'b [Option<&'b [u8]>]) -> [Parameter<'b>; 15] {
        [
            Parameter::Int2Array(&self.kinds),
            Parameter::ByteaArray(sessions),
            Parameter::Int8Array(&self.numbers),
            Parameter::TextArray(&self.accounts),
            Parameter::Int8Array(&self.quotas),
            Parameter::Int8Array(&self.units),
            Parameter::Int8Array(&self.holds),
            Parameter::TextArray(&self.messages),
            Parameter::Int8Array(&self.parts),
            Parameter::Int8Array(&self.octets),
            Parameter::TextArray(&self.classes),
            Parameter::TextArray(&self.triggers),
            Parameter::Int4Array(&self.codes),
            Parameter::TextArray(&self.calls),
            Parameter::Int8Array(&self.opened),
        ]
    }
}

/// The array parameters of the states and of their parts, by column.
struct States<'a> {
    keys: Vec<[u8; 16]>,
    accounts: Vec<&'a str>,
    opened: Vec<i64>,
    heads: Vec<Option<&'a [u8]>>,
    part_keys: Vec<[u8; 16]>,
    part_numbers: Vec<i64>,
    parts: Vec<Option<&'a [u8]>>,
}

impl<'a> States<'a> {
    fn new(states: &'a [SessionState]) -> States<'a> {
        let parts = || {
            let of_state = |state: &'a SessionState| state.parts.iter().map(|part| (state.session, part));
            states.iter().flat_map(of_state)
        };
        States {
            keys: states.iter().map(|state| key_octets(state.session)).collect(),
            accounts: states.iter().map(|state| &*state.account).collect(),
            opened: states.iter().map(|state| state.opened_at).collect(),
            heads: states.iter().map(|state| state.head.as_deref()).collect(),
            part_keys: parts().map(|(session, _)| key_octets(session)).collect(),
            part_numbers: parts().map(|(_, (number, _))| i64::from(*number)).collect(),
            parts: parts().map(|(_, (_, part))| Some(&part[..])).collect(),
        }
    }

    /// `sessions` and `part_sessions`: the columns of the keys.
    fn parameters<'b>(
        &'b self,
        sessions: &'b [Option<&'b [u8]>],
        part_sessions: &'b [Option<&'b [u8]>],
    ) -> [Parameter<'b>; 7] {
        [
            Parameter::ByteaArray(sessions),
            Parameter::TextArray(&self.accounts),
            Parameter::Int8Array(&self.opened),
            Parameter::ByteaArray(&self.heads),
            Parameter::ByteaArray(part_sessions),
            Parameter::Int8Array(&self.part_numbers),
            Parameter::ByteaArray(&self.parts),
        ]
    }
}

/// Reads an answer; `None`: a row that it must have is missing.
fn read(asked: Asked, rows: &[Columns]) -> Result<Option<Answer>, WrongColumn> {
    Ok(match asked {
        Asked::Join => rows.first().map(joined).transpose()?.map(Answer::Joined),
        Asked::Tick => ticked(rows)?.map(Answer::Ticked),
        Asked::DeadNodes => rows.first().map(dead_nodes).transpose()?,
        Asked::TakeOver => rows.first().map(taken_over).transpose()?.map(Answer::TakenOver),
        Asked::Adopt => Some(Answer::Adopted(rows.iter().map(adopted).collect::<Result<_, _>>()?)),
    })
}

fn joined(row: &Columns) -> Result<Joined, WrongColumn> {
    let result = row.int2(2)?;
    if result == 2 {
        return Ok(Joined::InUse);
    }
    let (epoch, last_tick) = (row.int8(0)?, row.int8(1)?);
    Ok(if result == 0 { Joined::Kept { epoch, last_tick } } else { Joined::Anew { epoch, last_tick } })
}

fn ticked(rows: &[Columns]) -> Result<Option<Ticked>, WrongColumn> {
    let results = rows.iter().map(item_result).collect::<Result<Vec<_>, _>>()?;
    let whole = results.iter().find(|result| result.item == 0).map(|result| result.code);
    Ok(match whole {
        Some(0) => Some(Ticked::Done(results)),
        Some(5) => Some(Ticked::Fenced),
        Some(6) => Some(Ticked::Stale),
        _ => None,
    })
}

fn item_result(row: &Columns) -> Result<ItemResult, WrongColumn> {
    // The row of the tick itself and those of refused items have no account.
    let number = |column| if row.is_null(column) { Ok(0) } else { row.int8(column) };
    Ok(ItemResult {
        item: row.int4(0)?,
        code: row.int2(1)?,
        granted: number(2)?,
        balance: number(3)?,
        held: number(4)?,
        limit: number(5)?,
        became_low: !row.is_null(6) && row.bool(6)?,
    })
}

fn dead_nodes(row: &Columns) -> Result<Answer, WrongColumn> {
    let names = row.text_array(0)?.into_iter().map(str::to_owned).collect();
    Ok(Answer::DeadNodes { names, standbys: row.int4(1)? })
}

fn taken_over(row: &Columns) -> Result<TakeOverResult, WrongColumn> {
    Ok(match row.int2(0)? {
        0 => TakeOverResult::Won,
        5 => TakeOverResult::Fenced,
        _ => TakeOverResult::NotNow,
    })
}

fn adopted(row: &Columns) -> Result<AdoptedRow, WrongColumn> {
    let wrong = WrongColumn { column: 0, expected: "session key" };
    let (numbers, parts) = match row.is_null(4) {
        true => (Vec::new(), Vec::new()),
        false => (row.int8_array(4)?, row.bytea_array(5)?),
    };
    let parts = parts.into_iter().map(|part| part.unwrap_or_default().to_vec());
    Ok(AdoptedRow {
        session: key_of(row.bytea(0)?).ok_or(wrong)?,
        account: row.text(1)?.to_owned(),
        opened_at: row.int8(2)?,
        head: if row.is_null(3) { None } else { Some(row.bytea(3)?.to_vec()) },
        parts: numbers.into_iter().zip(parts).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_of_a_session_is_sixteen_octets_in_network_order() {
        let key = SessionKey(0x0102_0304_0506_0708, 0xf1f2_f3f4_f5f6_f7f8);
        let octets = key_octets(key);
        assert_eq!(octets, [1, 2, 3, 4, 5, 6, 7, 8, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7, 0xf8]);
        assert_eq!((key_of(&octets), key_of(&octets[1..])), (Some(key), None));
    }
}
