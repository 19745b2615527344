//! The servers: connections, statements, replication, and their faults. Times are on the clock of the servers, in
//! microseconds.

use super::StoreBug;
use super::ledger::{DebitKey, Executed, Ledger};
use super::protocol::{self, Frontend};
use super::statement::{self, Column, Statement};
use super::value::Value;
use crate::network::hash;
use crate::world::print_trace;
use imcharge::simulate::machine::PeerStream;
use std::collections::{BTreeMap, VecDeque};

/// Ports of the two servers.
pub const PORTS: [u16; 2] = [5432, 5433];

/// Longest time for which a statement waits whose client has gone, in microseconds.
const LATE_MICROS: u64 = 15_000_000;

/// Errors that the server reports before it executes a statement.
const REFUSALS: [&str; 4] = ["40001", "53300", "55P03", "57014"];

/// A statement that a connection executes.
enum Running {
    /// It waits for its turn.
    Queued { at: u64, columns: Columns, statement: Statement },
    /// It is committed here, and waits for the standby.
    Committed { lsn: u64 },
}

type Columns = Vec<Column>;

/// A connection, and the process that serves it.
struct Backend {
    node: usize,
    port: u16,
    stream: PeerStream,
    accepted_at: u64,
    is_accepted: bool,
    is_started: bool,
    input: Vec<u8>,
    prepared: BTreeMap<String, (String, Vec<u32>)>,
    bound: Option<(Columns, Statement)>,
    running: Option<Running>,
    /// Whether its client has gone before its statement was executed.
    is_late: bool,
    /// The answer, as far as it is known.
    reply: Vec<u8>,
    /// Debits that the answer acknowledges.
    debits: Vec<(DebitKey, i64)>,
    /// When the tick arrived that the answer acknowledges, and its node.
    tick: Option<(String, u64)>,
    /// Answers that are due at a time.
    output: VecDeque<(u64, Vec<u8>)>,
}

/// Numbers of the faults that last until they are repaired.
pub const SLOW: u8 = 5;
pub const REFUSING: u8 = 7;
pub const UNCONFIRMED: u8 = 8;

/// Faults that last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Longest delay of a statement, in microseconds.
    pub slow: u64,
    /// Until when the standby receives nothing.
    pub stalled_until: u64,
    /// One of so many statements is refused; 0: none.
    pub refuses_one_in: u32,
    /// One of so many waits for the standby is broken off with a warning; 0: none.
    pub unconfirmed_one_in: u32,
}

/// The servers.
pub struct Servers {
    random: fastrand::Rng,
    bug: Option<StoreBug>,
    /// The ledger of the primary.
    pub primary: Ledger,
    standby: Ledger,
    /// Position of the last commit, and what the standby has not executed yet: position, when it arrives there, and the
    /// statement with its time.
    lsn: u64,
    unreplicated: VecDeque<(u64, u64, Statement, u64)>,
    /// Place in [`PORTS`] of the primary.
    serving: usize,
    /// From when on it accepts connections.
    serving_from: u64,
    backends: Vec<Backend>,
    /// Until when nothing reaches or leaves each node.
    cut_off_until: BTreeMap<usize, u64>,
    pub faults: Faults,
    /// Acknowledged debits.
    acknowledged: BTreeMap<DebitKey, i64>,
    /// When the last two acknowledged ticks of each node arrived: the latest last.
    ticks: BTreeMap<String, [u64; 2]>,
    /// Number of failovers, and of commits that they lost.
    pub failovers: u64,
    pub lost_commits: u64,
    /// Hash of all statements.
    pub trace: u64,
    pub violations: Vec<String>,
}

impl Servers {
    pub fn new(random: fastrand::Rng, ledger: Ledger, bug: Option<StoreBug>) -> Servers {
        Servers {
            random,
            bug,
            standby: ledger.clone(),
            primary: ledger,
            lsn: 0,
            unreplicated: VecDeque::new(),
            serving: 0,
            serving_from: 0,
            backends: Vec::new(),
            cut_off_until: BTreeMap::new(),
            faults: Faults::default(),
            acknowledged: BTreeMap::new(),
            ticks: BTreeMap::new(),
            failovers: 0,
            lost_commits: 0,
            trace: 0,
            violations: Vec::new(),
        }
    }

    /// A node connects.
    pub fn connect(&mut self, node: usize, port: u16, stream: PeerStream, now: u64) {
        let accepted_at = now + self.random.u64(0..2_000);
        self.backends.push(Backend {
            node,
            port,
            stream,
            accepted_at,
            is_accepted: false,
            is_started: false,
            input: Vec::new(),
            prepared: BTreeMap::new(),
            bound: None,
            running: None,
            is_late: false,
            reply: Vec::new(),
            debits: Vec::new(),
            tick: None,
            output: VecDeque::new(),
        });
    }

    /// Reads what a node has sent, executes what is due, and sends answers.
    pub fn step(&mut self, node: usize, now: u64) {
        self.replicate(now);
        let mut backends = std::mem::take(&mut self.backends);
        for backend in &mut backends {
            if backend.node == node && !self.is_cut_off(node, now) {
                self.read(backend, now);
            }
            self.run(backend, now);
            self.answer(backend, now);
        }
        backends.retain(|backend| !backend.is_over());
        self.backends = backends;
    }

    /// Whether something of a node is due soon.
    pub fn has_more(&self, node: usize, now: u64) -> bool {
        if self.is_cut_off(node, now) {
            return false;
        }
        let is_due = |backend: &&Backend| {
            let answers = backend.output.front().is_some_and(|(due, _)| *due < now + 100_000);
            let runs = match &backend.running {
                Some(Running::Queued { at, .. }) => *at < now + 100_000,
                Some(Running::Committed { .. }) => self.faults.stalled_until < now + 100_000,
                None => false,
            };
            answers || runs || backend.stream.unread() > 0 || !backend.is_accepted
        };
        self.backends
            .iter()
            .filter(|backend| backend.node == node && !backend.stream.is_closed())
            .any(|one| is_due(&one))
    }

    fn is_cut_off(&self, node: usize, now: u64) -> bool {
        self.cut_off_until.get(&node).is_some_and(|until| now < *until)
    }

    /// Nothing reaches or leaves a node for so long.
    pub fn cut_off(&mut self, node: usize, until: u64) {
        self.cut_off_until.insert(node, until);
    }

    /// All connections of a node are reset; statements that have arrived are executed.
    pub fn reset(&mut self, node: Option<usize>) {
        let of = |backend: &&Backend| node.is_none_or(|node| backend.node == node);
        self.backends.iter().filter(of).for_each(|backend| backend.stream.close());
    }

    /// The primary is lost, and the standby takes its place after `outage` microseconds.
    pub fn fail_over(&mut self, now: u64, outage: u64) {
        self.replicate(now);
        self.failovers += 1;
        self.lost_commits += self.unreplicated.len() as u64;
        print_trace(format_args!("{now} failover: {} commits are lost", self.unreplicated.len()));
        self.unreplicated.clear();
        self.primary = self.standby.clone();
        self.serving = 1 - self.serving;
        self.serving_from = now + outage;
        self.faults.stalled_until = 0;
        for backend in self.backends.drain(..) {
            backend.stream.close();
        }
    }

    /// A fault that lasts ends.
    pub fn repair(&mut self, kind: u8) {
        match kind {
            SLOW => self.faults.slow = 0,
            REFUSING => self.faults.refuses_one_in = 0,
            _ => self.faults.unconfirmed_one_in = 0,
        }
    }

    /// When the lease of a node ends; 0 if it is fenced or unknown.
    pub fn lease_until(&self, node: &str) -> u64 {
        self.primary.nodes.get(node).filter(|row| !row.is_fenced).map_or(0, |row| row.lease_until)
    }

    /// When the last but one acknowledged tick of a node arrived: its states include all that the node knew shortly before.
    pub fn replicated_at(&self, node: &str) -> u64 {
        self.ticks.get(node).map_or(0, |ticks| ticks[0])
    }

    /// Returns an acknowledged debit that the ledger does not have.
    pub fn missing_debit(&self) -> Option<String> {
        let is_missing =
            |(key, units): &(&DebitKey, &i64)| self.primary.debits.get(*key).is_none_or(|debit| debit.units < **units);
        let (key, units) = self.acknowledged.iter().find(is_missing)?;
        Some(format!("the debit {key:?} of {units} units was acknowledged, and the ledger does not have it"))
    }

    /// The standby executes what has arrived there.
    fn replicate(&mut self, now: u64) {
        while self.unreplicated.front().is_some_and(|(_, at, ..)| *at <= now) {
            if now < self.faults.stalled_until {
                return;
            }
            if let Some((_, _, statement, at)) = self.unreplicated.pop_front() {
                self.standby.execute(&statement, at, self.bug);
            }
        }
    }

    fn is_replicated(&self, lsn: u64) -> bool {
        self.unreplicated.front().is_none_or(|(first, ..)| lsn < *first)
    }

    fn read(&mut self, backend: &mut Backend, now: u64) {
        if backend.accepted_at > now {
            return;
        }
        if !backend.is_accepted && (backend.port != PORTS[self.serving] || now < self.serving_from) {
            // A standby would say that it is one; a server that is down refuses.
            return backend.stream.close();
        }
        backend.stream.accept();
        backend.is_accepted = true;
        let max = if self.random.u8(0..4) > 0 { usize::MAX } else { self.random.usize(1..200) };
        backend.input.extend(backend.stream.read(max));
        loop {
            match protocol::take(&mut backend.input, backend.is_started) {
                Ok(Some(message)) => {
                    if let Err(wrong) = self.message(backend, message, now) {
                        self.violations.push(format!("PostgreSQL: {wrong}"));
                        return backend.stream.close();
                    }
                }
                Ok(None) => return,
                Err(wrong) => {
                    self.violations.push(format!("PostgreSQL: {wrong}"));
                    return backend.stream.close();
                }
            }
        }
    }

    fn message(&mut self, backend: &mut Backend, message: Frontend, now: u64) -> Result<(), String> {
        match message {
            Frontend::Startup => {
                backend.is_started = true;
                let mut welcome = Vec::new();
                protocol::welcome(&mut welcome);
                let due = now + self.random.u64(0..2_000);
                backend.output.push_back((due, welcome));
            }
            Frontend::Parse { name, statement, types } => {
                backend.prepared.insert(name, (statement, types));
                protocol::parse_complete(&mut backend.reply);
            }
            Frontend::Describe { name } => {
                let (statement, types) = backend.prepared.get(&name).ok_or("an unknown statement is described")?;
                let columns = statement::columns(statement).ok_or_else(|| format!("unknown statement: {statement}"))?;
                protocol::description(types, &columns, &mut backend.reply);
            }
            Frontend::Bind { name, values } => {
                let (text, types) = backend.prepared.get(&name).ok_or("an unknown statement is bound")?;
                let values = values.iter().zip(types).map(|(value, oid)| Value::read(*oid, value.as_deref()));
                let values = values.collect::<Option<Vec<Value>>>().ok_or("a parameter is malformed")?;
                let statement = statement::read(text, &values).ok_or_else(|| format!("wrong parameters: {text}"))?;
                let columns = statement::columns(text).ok_or_else(|| format!("unknown statement: {text}"))?;
                backend.bound = Some((columns, statement));
                protocol::bind_complete(&mut backend.reply);
            }
            Frontend::Execute => {}
            Frontend::Sync => {
                if backend.running.is_some() {
                    return Err("a statement is sent before the answer to the last one".into());
                }
                let Some((columns, statement)) = backend.bound.take() else { return Ok(()) };
                let delay = self.random.u64(100..2_000) + self.random.u64(0..=self.faults.slow);
                backend.tick = match &statement {
                    Statement::Tick(tick) => Some((tick.node.clone(), now)),
                    _ => None,
                };
                backend.running = Some(Running::Queued { at: now + delay, columns, statement });
            }
            Frontend::Terminate => backend.stream.close(),
            Frontend::Other(kind) => return Err(format!("an unknown message {:?}", char::from(kind))),
        }
        Ok(())
    }

    /// Executes the statement of a connection if it is due. One whose client is gone is executed as well.
    fn run(&mut self, backend: &mut Backend, now: u64) {
        match backend.running.take() {
            Some(Running::Queued { at, columns, statement }) if backend.stream.is_closed() && !backend.is_late => {
                // The process that serves it has read it, and continues later.
                backend.is_late = true;
                let wait = if self.random.bool() { self.random.u64(0..LATE_MICROS) } else { 0 };
                backend.running = Some(Running::Queued { at: at + wait, columns, statement });
            }
            Some(Running::Queued { at, columns, statement }) if at <= now => {
                self.execute(backend, &columns, statement, now);
            }
            Some(Running::Committed { lsn }) if self.is_replicated(lsn) => self.finish(backend, now),
            running => backend.running = running,
        }
    }

    fn execute(&mut self, backend: &mut Backend, columns: &Columns, statement: Statement, now: u64) {
        let refuses = self.faults.refuses_one_in;
        if refuses > 0 && self.random.u32(0..refuses) == 0 {
            let code = self.random.choice(REFUSALS).unwrap_or_default();
            protocol::report(true, "ERROR", code, "refused", &mut backend.reply);
            backend.tick = None;
            return self.finish(backend, now);
        }
        let text = match &statement {
            // Its identity is a random number of SQLite.
            Statement::Join { node, .. } => node.clone(),
            statement => format!("{statement:?}"),
        };
        self.trace = hash(&(self.trace, now, text));
        let Executed { rows, writes } = self.primary.execute(&statement, now, self.bug);
        print_statement(backend.node, &statement, &rows, now);
        backend.debits = self.debits_of(&statement, &rows);
        let is_done = rows.first().and_then(|row| row.get(1)).and_then(Value::int) == Some(0);
        backend.tick = backend.tick.take().filter(|_| is_done);
        protocol::rows(columns, &rows, &mut backend.reply);
        if !writes {
            return self.finish(backend, now);
        }
        self.lsn += 1;
        let arrival = now + self.random.u64(200..4_000);
        let arrival = self.unreplicated.back().map_or(arrival, |(_, last, ..)| arrival.max(*last));
        self.unreplicated.push_back((self.lsn, arrival, statement, now));
        backend.running = Some(Running::Committed { lsn: self.lsn });
        let unconfirmed = self.faults.unconfirmed_one_in;
        if unconfirmed > 0 && self.random.u32(0..unconfirmed) == 0 {
            // The wait is broken off: a warning, and success.
            let words = "canceling wait for synchronous replication: might not have been replicated to the standby";
            protocol::report(false, "WARNING", "01000", words, &mut backend.reply);
            (backend.tick, backend.debits) = (None, Vec::new());
            self.finish(backend, now);
        }
    }

    /// Returns the debits that an answer acknowledges.
    fn debits_of(&self, statement: &Statement, rows: &[Vec<Value>]) -> Vec<(DebitKey, i64)> {
        let Statement::Tick(tick) = statement else { return Vec::new() };
        let result = |row: &Vec<Value>| Some((usize::try_from(row.first()?.int()?).ok()?, row.get(1)?.int()?));
        let done = rows.iter().filter_map(result).filter(|(item, result)| *item > 0 && *result == 0);
        let requests = done.filter_map(|(item, _)| tick.requests.get(item - 1));
        let keys = requests.filter(|request| [2, 3].contains(&request.kind));
        let keys = keys.map(|request| (request.session.clone(), request.message.clone(), request.part));
        keys.filter_map(|key| self.primary.debits.get(&key).map(|debit| (key.clone(), debit.units))).collect()
    }

    /// The answer is complete.
    fn finish(&mut self, backend: &mut Backend, now: u64) {
        backend.running = None;
        protocol::ready(&mut backend.reply);
        let due = now + self.random.u64(0..2_000);
        backend.output.push_back((due, std::mem::take(&mut backend.reply)));
    }

    fn answer(&mut self, backend: &mut Backend, now: u64) {
        if self.is_cut_off(backend.node, now) || backend.stream.is_closed() {
            return;
        }
        while backend.output.front().is_some_and(|(due, _)| *due <= now) {
            let Some((_, bytes)) = backend.output.pop_front() else { return };
            backend.stream.write(&bytes);
            self.acknowledged.extend(std::mem::take(&mut backend.debits));
            if let Some((node, at)) = backend.tick.take() {
                let ticks = self.ticks.entry(node).or_default();
                *ticks = [ticks[1], at];
            }
        }
    }
}

impl Backend {
    /// Whether nothing can follow any more.
    fn is_over(&self) -> bool {
        self.stream.is_closed() && self.running.is_none()
    }
}

fn print_statement(node: usize, statement: &Statement, rows: &[Vec<Value>], now: u64) {
    match statement {
        Statement::Tick(tick) if tick.requests.is_empty() && tick.states.is_empty() => {}
        Statement::Tick(tick) => {
            let requests: Vec<String> = tick
                .requests
                .iter()
                .map(|one| {
                    format!(
                        "{}:{:02x?}#{} {} u{} h{} q{} {}",
                        one.kind,
                        &one.session[..2],
                        one.number,
                        one.account,
                        one.units,
                        one.holds,
                        one.quota,
                        one.message
                    )
                })
                .collect();
            let states: Vec<String> = tick
                .states
                .iter()
                .map(|one| format!("{:02x?}{}", &one.session[..2], if one.state.is_some() { "" } else { "-" }))
                .collect();
            let results: Vec<Vec<Option<i64>>> =
                rows.iter().map(|row| row.iter().take(3).map(Value::int).collect()).collect();
            print_trace(format_args!(
                "{now} node {node} tick {}.{}: {requests:?} states {states:?}: {results:?}",
                tick.epoch, tick.tick
            ));
        }
        Statement::Check | Statement::DeadNodes { .. } if rows.is_empty() => {}
        statement => print_trace(format_args!(
            "{now} node {node} {statement:?}: {} rows {:?}",
            rows.len(),
            rows.first().and_then(|row| row.last())
        )),
    }
}
