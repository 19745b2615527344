//! Speed of the functions of the shared ledger, with a synchronous standby on the same machine: one node, ticks of 10 ms, and
//! as many sessions a second as it is asked for, or as the server can carry.
//!
//! A session is a reservation of five messages, five debits, five changes of its state alone, a release, and its end. Its state
//! has 300 octets, some of which change each time.

#[path = "../../tests/postgres/node.rs"]
#[allow(dead_code, reason = "tests use more of it")]
mod node;

use imcharge_testkit::postgres::{Cluster, DATABASE, Server, Setup};
use node::{DONE, Item, Node, State, Tick};
use std::fs;
use std::time::{Duration, Instant};

const USAGE: &str = "usage: cargo bench --bench shared_ledger -- [--rate SESSIONS] [--seconds N] [--accounts N] [--per-tick N]\n\
    --rate      sessions a second in ticks of 10 ms; 0 (default): one tick after the other\n\
    --per-tick  new sessions in each tick, with --rate 0 (default 36)\n\
    --accounts  number of accounts (default 100000)";

/// Octets of a state.
const STATE: usize = 300;

/// Changes of a session until it has ended.
const STAGES: u64 = 13;

struct Options {
    rate: u64,
    seconds: u64,
    accounts: u64,
    per_tick: u64,
}

fn options() -> Result<Options, lexopt::Error> {
    use lexopt::prelude::*;
    let mut options = Options { rate: 0, seconds: 10, accounts: 100_000, per_tick: 36 };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("rate") => options.rate = parser.value()?.parse()?,
            Long("seconds") => options.seconds = parser.value()?.parse()?,
            Long("accounts") => options.accounts = parser.value()?.parse()?,
            Long("per-tick") => options.per_tick = parser.value()?.parse()?,
            // Passed by cargo.
            Long("bench") => {}
            _ => return Err(argument.unexpected()),
        }
    }
    Ok(options)
}

/// The sessions of a node, and what each does next.
struct Load {
    random: fastrand::Rng,
    accounts: u64,
    opened: u64,
    /// Number, account, next stage, and state.
    open: Vec<(u64, String, u64, Vec<u8>)>,
}

impl Load {
    /// Opens sessions and returns the next change of each open one.
    fn tick(&mut self, opened: u64) -> Tick {
        for _ in 0..opened {
            self.opened += 1;
            let account = format!("sip:user{}@im.example.org", self.random.u64(..self.accounts));
            let state = std::iter::repeat_with(|| self.random.u8(..)).take(STATE).collect();
            // Keys of sessions are hashes.
            self.open.push((self.opened.wrapping_mul(0x9e37_79b9_7f4a_7c15), account, 0, state));
        }
        let mut tick = Tick::default();
        for (session, account, stage, state) in &mut self.open {
            let number = (*stage).div_ceil(2) as i64 + 1;
            match *stage {
                0 => tick.items.push(Item::reserve(*session, 1, account, 5, 1)),
                2 | 4 | 6 | 8 | 10 => {
                    tick.items.push(Item::debit(*session, number, account, &format!("{session:016x}-{stage}"), 1));
                }
                11 => tick.items.push(Item::release(*session, number, account, 0)),
                _ => {}
            }
            for octet in &mut state[40..64] {
                *octet = self.random.u8(..);
            }
            let state = (*stage + 1 < STAGES).then(|| state.clone());
            tick.states.push(State { session: *session, account: account.clone(), state });
            *stage += 1;
        }
        self.open.retain(|(_, _, stage, _)| *stage < STAGES);
        tick
    }
}

/// What the server has counted.
struct Counters {
    wal: u64,
    updates: u64,
    hot_updates: u64,
    cpu: Duration,
}

fn counters(server: &Server, backend: i32) -> Counters {
    let number = |sql: &str| server.value(DATABASE, sql).parse::<u64>().expect("a number");
    let updates = |column: &str| {
        number(&format!(
            "SELECT sum({column}) FROM pg_stat_user_tables WHERE relname IN ('accounts', 'sessions', 'nodes')"
        ))
    };
    let scheduled = fs::read_to_string(format!("/proc/{backend}/schedstat")).expect("the backend runs");
    let nanos = scheduled.split(' ').next().and_then(|field| field.parse().ok()).expect("a number");
    Counters {
        wal: number("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"),
        updates: updates("n_tup_upd"),
        hot_updates: updates("n_tup_hot_upd"),
        cpu: Duration::from_nanos(nanos),
    }
}

fn main() {
    let options = options().unwrap_or_else(|error| {
        eprintln!("{error}\n{USAGE}");
        std::process::exit(2);
    });
    // Full pages after a checkpoint depend on its interval: they are left out.
    let settings = ["shared_buffers=512MB", "checkpoint_timeout=30min", "full_page_writes=off"];
    let settings = settings.map(str::to_owned).to_vec();
    let cluster = Cluster::new(Setup { standbys: 1, fsync: true, settings, ..Setup::default() });
    let server = cluster.primary();
    let insert = "INSERT INTO imcharge.accounts(id, created_at, full_left, balance) \
                  SELECT 'sip:user' || i || '@im.example.org', now(), 1000000, 1000000 FROM generate_series(0, ";
    server.execute(DATABASE, &format!("{insert}{}) i", options.accounts));
    server.execute(DATABASE, "CHECKPOINT");
    let mut node = Node::join(server.client(DATABASE), "a");
    let backend = node.client.query_one("SELECT pg_backend_pid()", &[]).expect("a number").get(0);
    let mut load =
        Load { random: fastrand::Rng::with_seed(1), accounts: options.accounts, opened: 0, open: Vec::new() };
    let per_tick = if options.rate > 0 { options.rate.div_ceil(100) } else { options.per_tick };
    let mut run = |until: &dyn Fn(u64) -> bool| {
        let (mut times, mut items, began) = (Vec::new(), 0, Instant::now());
        while !until(times.len() as u64) {
            let tick = load.tick(per_tick);
            let due = began + Duration::from_millis(10 * times.len() as u64);
            if options.rate > 0 {
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let sent = Instant::now();
            let answers = node.run(&tick);
            times.push(sent.elapsed());
            items += answers.len();
            assert!(answers.iter().all(|answer| answer.result == DONE), "a request is refused");
        }
        (times, items, began.elapsed())
    };
    // Until as many sessions end as are opened.
    run(&|ticks| ticks >= 3 * STAGES);
    let before = counters(server, backend);
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let (mut times, items, elapsed) = run(&|_| Instant::now() >= end);
    // The server's counters of tables are a second late.
    std::thread::sleep(Duration::from_millis(1500));
    let after = counters(server, backend);
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1000.0;
    let sessions = times.len() as u64 * per_tick;
    let per_session = |amount: f64| amount / sessions as f64;
    println!(
        "{:.0} sessions/s, {:.0} requests/s in ticks of {}; a tick: p50 {:.1} ms, p99 {:.1} ms, at most {:.1} ms",
        sessions as f64 / elapsed.as_secs_f64(),
        items as f64 / elapsed.as_secs_f64(),
        items / times.len(),
        at(0.5),
        at(0.99),
        at(1.0),
    );
    println!(
        "a session: {:.0} octets of WAL without full pages, {:.0} us of CPU of the backend; HOT updates: {:.1} %",
        per_session((after.wal - before.wal) as f64),
        per_session((after.cpu - before.cpu).as_secs_f64() * 1e6),
        (after.hot_updates - before.hot_updates) as f64 * 100.0 / (after.updates - before.updates) as f64,
    );
}
