//! A database with the schema, and a node that calls its functions as a proxy does.

use imcharge::charge::ch2::SessionKey;
use imcharge::enabler::LowBalance;
use imcharge_testkit::postgres::{Cluster, DATABASE, Server, schema_file};
use imcharge_testkit::unique;
use postgres::types::ToSql;
use postgres::{Client, Error, Statement};
use std::fs;
use std::sync::{LazyLock, Mutex};

/// The server that tests share. It ends with the process.
static SHARED: LazyLock<Cluster> = LazyLock::new(Cluster::single);

/// One copy of the template at a time.
static COPIES: Mutex<()> = Mutex::new(());

/// Results of requests.
pub const DONE: i16 = 0;
pub const NO_CREDIT: i16 = 1;
pub const UNKNOWN: i16 = 2;
pub const IMPOSSIBLE: i16 = 3;
pub const OLD: i16 = 4;
/// Results of a tick.
pub const FENCED: i16 = 5;
pub const STALE: i16 = 6;
/// Results of commands.
pub const ABOVE_MAXIMUM: i16 = 10;
pub const BELOW_LIMIT: i16 = 11;
pub const NOT_EMPTY: i16 = 12;
pub const REFERENCE_USED: i16 = 13;
pub const DUPLICATE: i16 = 14;

/// A database of the shared server. It stays until the server ends.
pub struct Database {
    pub name: String,
    server: &'static Server,
}

impl Database {
    /// Creates a database with the schema.
    pub fn new() -> Database {
        let name = format!("test{}", unique());
        let server = SHARED.primary();
        let _copying = COPIES.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        server.execute("postgres", &format!("CREATE DATABASE {name} TEMPLATE {DATABASE}"));
        Database { name, server }
    }

    /// Creates a database with a fault: each text of the schema is replaced, and must be there.
    pub fn with_fault(replaced: &[(&str, &str)]) -> Database {
        let database = Database::new();
        database.execute(&schema_with(replaced));
        database
    }

    pub fn server(&self) -> &'static Server {
        self.server
    }

    pub fn node(&self, name: &str) -> Node {
        Node::join(self.server.client(&self.name), name)
    }

    pub fn client(&self) -> Client {
        self.server.client(&self.name)
    }

    pub fn execute(&self, sql: &str) {
        self.server.execute(&self.name, sql);
    }

    pub fn query(&self, sql: &str) -> Vec<Vec<String>> {
        self.server.query(&self.name, sql)
    }

    pub fn value(&self, sql: &str) -> String {
        self.server.value(&self.name, sql)
    }

    /// Returns balance, held and debited of an account.
    pub fn account(&self, id: &str) -> (i64, i64, i64) {
        let mut client = self.client();
        let row = client.query_one("SELECT balance, held, debited FROM imcharge.accounts WHERE id=$1", &[&id]);
        let row = row.expect("the account exists");
        (row.get(0), row.get(1), row.get(2))
    }

    /// Returns units held and number of a session's row.
    pub fn session(&self, session: u64) -> Option<(i64, i64)> {
        let mut client = self.client();
        let sql = "SELECT held, number FROM imcharge.sessions WHERE session=$1";
        let row = client.query_opt(sql, &[&key(session)]).expect("a table that exists")?;
        Some((row.get(0), row.get(1)))
    }

    /// Returns the accounts that the audit reports.
    pub fn audit(&self) -> Vec<String> {
        audit(&mut self.client(), 1000)
    }

    /// Ends the lease of a node some time ago.
    pub fn end_lease(&self, node: &str) {
        self.execute(&format!("UPDATE imcharge.nodes SET lease_until=now()-interval '6 s' WHERE name='{node}'"));
    }
}

/// Returns the accounts that the audit reports, in pages of this size.
pub fn audit(client: &mut Client, page: i32) -> Vec<String> {
    let (mut found, mut after) = (Vec::new(), Some(String::new()));
    while let Some(start) = after {
        let rows =
            client.query("SELECT account, next FROM imcharge.audit($1, $2)", &[&start, &page]).expect("an audit");
        found.extend(rows.iter().filter_map(|row| row.get::<_, Option<String>>(0)));
        after = rows.last().expect("a last row").get(1);
    }
    found
}

/// Returns the text of the schema for the superuser's connection, with faults.
pub fn schema_with(replaced: &[(&str, &str)]) -> String {
    let mut text = fs::read_to_string(schema_file()).expect("the schema is in the repository");
    text = text.replace("\\set ON_ERROR_STOP 1\n", "");
    for (right, wrong) in replaced {
        assert_eq!(text.matches(right).count(), 1, "the schema contains once: {right}");
        text = text.replace(right, wrong);
    }
    text
}

/// Returns the key of a session as the schema stores it.
pub fn key(session: u64) -> Vec<u8> {
    let SessionKey(first, second) = SessionKey(session, 1);
    [first.to_be_bytes(), second.to_be_bytes()].concat()
}

/// A request or command of a tick.
#[derive(Clone, Debug)]
pub struct Item {
    pub kind: i16,
    pub session: Vec<u8>,
    pub number: i64,
    pub account: Option<String>,
    pub quota: i64,
    pub units: i64,
    pub holds: i64,
    pub message: Option<String>,
    pub part: i64,
    pub octets: i64,
}

impl Item {
    fn new(kind: i16, session: u64, number: i64, account: &str) -> Item {
        let (quota, units, holds, part, octets) = (0, 0, 0, 0, 0);
        let (account, message) = (Some(account.to_owned()), Some(String::new()));
        Item { kind, session: key(session), number, account, quota, units, holds, message, part, octets }
    }

    /// Reserves up to `quota` at a price of `price` each.
    pub fn reserve(session: u64, number: i64, account: &str, quota: i64, price: i64) -> Item {
        Item { quota, units: price, ..Item::new(1, session, number, account) }
    }

    pub fn debit(session: u64, number: i64, account: &str, message: &str, units: i64) -> Item {
        Item { message: Some(message.to_owned()), units, octets: 10, ..Item::new(2, session, number, account) }
    }

    /// A debit that ends a reservation, which holds this many units before it.
    pub fn last_debit(session: u64, number: i64, account: &str, message: &str, units: i64, holds: i64) -> Item {
        Item { kind: 3, holds, ..Item::debit(session, number, account, message, units) }
    }

    pub fn release(session: u64, number: i64, account: &str, holds: i64) -> Item {
        Item { holds, ..Item::new(4, session, number, account) }
    }

    pub fn refund(session: u64, number: i64, account: &str, message: &str) -> Item {
        Item { message: Some(message.to_owned()), ..Item::new(5, session, number, account) }
    }

    fn command(kind: i16, number: i64, account: &str, units: i64, reference: &str) -> Item {
        let (session, message) = (vec![0; 16], Some(reference.to_owned()));
        Item { session, units, message, ..Item::new(kind, 0, number, account) }
    }

    pub fn set(number: i64, account: &str, balance: i64) -> Item {
        Item::command(7, number, account, balance, "")
    }

    pub fn add(number: i64, account: &str, amount: i64, reference: &str) -> Item {
        Item::command(8, number, account, amount, reference)
    }

    pub fn limit(number: i64, account: &str, limit: i64) -> Item {
        Item::command(9, number, account, limit, "")
    }

    pub fn remove(number: i64, account: &str) -> Item {
        Item::command(10, number, account, 0, "")
    }

    pub fn part(self, part: i64) -> Item {
        Item { part, ..self }
    }
}

/// The state of a session; `None`: it is settled.
#[derive(Clone, Debug)]
pub struct State {
    pub session: u64,
    pub account: String,
    pub state: Option<Vec<u8>>,
}

impl State {
    pub fn new(session: u64, account: &str, state: &str) -> State {
        State { session, account: account.to_owned(), state: Some(state.as_bytes().to_vec()) }
    }

    pub fn settled(session: u64, account: &str) -> State {
        State { session, account: account.to_owned(), state: None }
    }
}

/// What a tick contains.
#[derive(Clone, Debug, Default)]
pub struct Tick {
    pub items: Vec<Item>,
    pub states: Vec<State>,
    /// Session, part and state; an empty state removes the part; part -1 removes the parts that are not in the tick.
    pub parts: Vec<(u64, i64, Vec<u8>)>,
}

/// A row that a tick returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub item: i32,
    pub result: i16,
    pub granted: i64,
    pub balance: Option<i64>,
    pub held: Option<i64>,
    pub limit: Option<i64>,
    pub became_low: bool,
}

/// What `join` returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    pub epoch: i64,
    pub last_tick: i64,
    pub result: i16,
}

/// What `adopt` returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    pub session: Vec<u8>,
    pub account: String,
    pub number: i64,
    pub state: Option<Vec<u8>>,
    pub parts: Vec<(i64, Vec<u8>)>,
}

/// A node and its connection.
pub struct Node {
    pub client: Client,
    tick_statement: Statement,
    pub name: String,
    pub identity: String,
    pub epoch: i64,
    pub last_tick: i64,
    pub lease_ms: i32,
    pub default_balance: Option<i64>,
    pub low_balance: Option<LowBalance>,
}

/// Types of the arguments of `tick`.
const TICK: &str = "SELECT * FROM imcharge.tick($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, \
                    $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28, $29)";

impl Node {
    /// Joins as a node whose state directory is named like it.
    pub fn join(client: Client, name: &str) -> Node {
        let mut node = Node::new(client, name, name);
        let joined = node.join_again().expect("join");
        assert!(joined.result < 2, "{joined:?}");
        node
    }

    /// A node that has not joined.
    pub fn new(mut client: Client, name: &str, identity: &str) -> Node {
        let tick_statement = client.prepare(TICK).expect("the schema is loaded");
        let (name, identity) = (name.to_owned(), identity.to_owned());
        let (epoch, last_tick, lease_ms, default_balance, low_balance) = (0, 0, 60_000, None, None);
        Node { client, tick_statement, name, identity, epoch, last_tick, lease_ms, default_balance, low_balance }
    }

    /// Joins, and continues from the answer.
    pub fn join_again(&mut self) -> Result<Joined, Error> {
        let sql = "SELECT epoch, last_tick, result FROM imcharge.join($1, $2, $3, 'proxy.example.org')";
        let row = self.client.query_one(sql, &[&self.name, &self.identity, &self.lease_ms])?;
        let joined = Joined { epoch: row.get(0), last_tick: row.get(1), result: row.get(2) };
        (self.epoch, self.last_tick) = (joined.epoch, joined.last_tick);
        Ok(joined)
    }

    /// Executes requests in the next tick and returns their answers, which must be executed.
    pub fn tick(&mut self, items: &[Item]) -> Vec<Answer> {
        self.run(&Tick { items: items.to_vec(), ..Tick::default() })
    }

    /// Executes one request in the next tick.
    pub fn ask(&mut self, item: Item) -> Answer {
        self.tick(&[item]).remove(0)
    }

    /// Executes the next tick, which must be executed.
    pub fn run(&mut self, tick: &Tick) -> Vec<Answer> {
        self.last_tick += 1;
        let (result, answers) = self.run_as(self.epoch, self.last_tick, tick).expect("a tick");
        assert_eq!(result, DONE, "the tick is neither stale nor fenced");
        answers
    }

    /// Executes a tick of this epoch and number. Returns its result and the answers.
    pub fn run_as(&mut self, epoch: i64, number: i64, tick: &Tick) -> Result<(i16, Vec<Answer>), Error> {
        fn column<'a, T>(items: &'a [Item], read: impl Fn(&'a Item) -> T) -> Vec<T> {
            items.iter().map(read).collect()
        }
        let items = &tick.items;
        let (low_units, low_percent) = match self.low_balance {
            Some(LowBalance::Units(units)) => (Some(units), None),
            Some(LowBalance::Percent(percent)) => (None, Some(percent as i32)),
            None => (None, None),
        };
        let kinds = column(items, |item| item.kind);
        let sessions = column(items, |item| &*item.session);
        let numbers = column(items, |item| item.number);
        let accounts = column(items, |item| item.account.as_deref());
        let [quotas, units, holds, parts, octets] = [
            column(items, |item| item.quota),
            column(items, |item| item.units),
            column(items, |item| item.holds),
            column(items, |item| item.part),
            column(items, |item| item.octets),
        ];
        let messages = column(items, |item| item.message.as_deref());
        let classes = column(items, |_| "text");
        let triggers = column(items, |_| "response");
        let codes = column(items, |_| 0_i32);
        let calls = column(items, |_| "call@example.org");
        let opened = column(items, |_| 1_700_000_000_000_i64);
        let state_sessions: Vec<Vec<u8>> = tick.states.iter().map(|state| key(state.session)).collect();
        let state_accounts: Vec<&str> = tick.states.iter().map(|state| &*state.account).collect();
        let state_opened: Vec<i64> = tick.states.iter().map(|_| 1_700_000_000_000).collect();
        let states: Vec<Option<&[u8]>> = tick.states.iter().map(|state| state.state.as_deref()).collect();
        let part_sessions: Vec<Vec<u8>> = tick.parts.iter().map(|(session, _, _)| key(*session)).collect();
        let part_numbers: Vec<i64> = tick.parts.iter().map(|(_, number, _)| *number).collect();
        let part_states: Vec<&[u8]> = tick.parts.iter().map(|(_, _, state)| &**state).collect();
        let arguments: [&(dyn ToSql + Sync); 29] = [
            &self.name,
            &epoch,
            &number,
            &self.lease_ms,
            &self.default_balance,
            &low_units,
            &low_percent,
            &kinds,
            &sessions,
            &numbers,
            &accounts,
            &quotas,
            &units,
            &holds,
            &messages,
            &parts,
            &octets,
            &classes,
            &triggers,
            &codes,
            &calls,
            &opened,
            &state_sessions,
            &state_accounts,
            &state_opened,
            &states,
            &part_sessions,
            &part_numbers,
            &part_states,
        ];
        let rows = self.client.query(&self.tick_statement, &arguments)?;
        let mut answers: Vec<Answer> = rows
            .iter()
            .map(|row| Answer {
                item: row.get(0),
                result: row.get(1),
                granted: row.get(2),
                balance: row.get(3),
                held: row.get(4),
                limit: row.get(5),
                became_low: row.get(6),
            })
            .collect();
        answers.sort_by_key(|answer| answer.item);
        let first = answers.remove(0);
        assert_eq!(first.item, 0, "the first row is that of the tick");
        if first.result == DONE {
            let answered: Vec<i32> = answers.iter().map(|answer| answer.item).collect();
            let asked: Vec<i32> = (1..=items.len() as i32).collect();
            assert_eq!(answered, asked, "each request has one answer");
        }
        Ok((first.result, answers))
    }

    pub fn dead_nodes(&mut self) -> Vec<String> {
        let rows = self.client.query("SELECT name FROM imcharge.dead_nodes($1)", &[&self.name]).expect("a list");
        rows.iter().map(|row| row.get(0)).collect()
    }

    pub fn take_over(&mut self, dead: &str) -> Result<i16, Error> {
        let sql = "SELECT result FROM imcharge.take_over($1, $2, $3)";
        Ok(self.client.query_one(sql, &[&self.name, &self.epoch, &dead])?.get(0))
    }

    pub fn adopt(&mut self, dead: &str, limit: i32) -> Vec<Adopted> {
        let sql =
            "SELECT session, account, number, state, part_numbers, part_states FROM imcharge.adopt($1, $2, $3, $4)";
        let rows = self.client.query(sql, &[&self.name, &self.epoch, &dead, &limit]).expect("a portion");
        let adopted = rows.iter().map(|row| {
            let (numbers, states): (Vec<i64>, Vec<Vec<u8>>) = (row.get(4), row.get(5));
            let parts = numbers.into_iter().zip(states).collect();
            Adopted { session: row.get(0), account: row.get(1), number: row.get(2), state: row.get(3), parts }
        });
        adopted.collect()
    }

    pub fn adopted(&mut self, sessions: &[Adopted]) -> i16 {
        let keys: Vec<&[u8]> = sessions.iter().map(|adopted| &*adopted.session).collect();
        let sql = "SELECT result FROM imcharge.adopted($1, $2, $3)";
        self.client.query_one(sql, &[&self.name, &self.epoch, &keys]).expect("an answer").get(0)
    }
}
