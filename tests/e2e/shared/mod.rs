//! `enabler=postgres`: several proxies charge the same accounts, before PostgreSQL servers that the cases start.

mod accounts;
mod engine;
mod failover;
mod lost_answers;
mod partition;
mod patroni;
mod refused;
mod retrievals;
mod servers;
mod store;
mod takeover;
mod traffic;

use super::{Stage, subscriber};
use imcharge_testkit::eventually;
use imcharge_testkit::proxy::Setup;
use std::path::Path;
use std::time::{Duration, Instant};
use store::{Database, Store};

/// Lease of the nodes: the shortest that is accepted.
pub const LEASE: Duration = Duration::from_secs(10);

/// Within which another node has settled the sessions of one that died: its lease, five seconds, and an interval of looking.
pub const SETTLED: Duration = Duration::from_secs(10 + 15);

/// Longest time for what should happen at once.
pub const SOON: Duration = Duration::from_secs(30);

/// The shipped configuration as this node of a shared ledger, with database servers at these ports, in their order.
pub fn sharing(setup: Setup, node: &str, ports: &[u16], password_file: &Path) -> Setup {
    let setup = setup.sharing(node, ports, password_file);
    setup.parameter("lease", &LEASE.as_secs().to_string()).parameter("tx_timeout", "2")
}

/// A proxy that shares the accounts of `store`, and is ready.
pub fn node<D: Database>(store: &Store<D>, name: &str, change: impl FnOnce(Setup) -> Setup) -> Stage {
    let stage = unready(name, &store.ports(), store, change);
    until_ready(&stage);
    stage
}

/// A proxy that shares the accounts of `store`, which it reaches at these ports. It may not be ready.
pub fn unready<D: Database>(name: &str, ports: &[u16], store: &Store<D>, change: impl FnOnce(Setup) -> Setup) -> Stage {
    Stage::new(|setup| change(sharing(setup, name, ports, store.password_file())))
}

/// Returns whether a node has a database and a lease.
pub fn is_ready(stage: &Stage) -> bool {
    stage.proxy.statistic("pg_down") == 0 && stage.proxy.statistic("lease_left") > 0
}

/// Waits until a node has a database and a lease.
#[track_caller]
pub fn until_ready(stage: &Stage) {
    assert!(eventually(SOON, || is_ready(stage)), "{}", stage.proxy.log());
}

/// Returns whether no session is open on a node and no request unanswered.
pub fn is_at_rest(stage: &Stage) -> bool {
    stage.proxy.statistic("sessions_active") == 0 && stage.proxy.statistic("outbox_depth") == 0
}

/// Waits until no session is open on a node and no request unanswered.
#[track_caller]
pub fn until_at_rest(stage: &Stage) {
    assert!(eventually(SOON, || is_at_rest(stage)), "{}", stage.proxy.log());
}

/// Waits until the database has the present states of all sessions of a node.
#[track_caller]
pub fn until_replicated(store: &Store, stage: &Stage, sessions: i64) {
    // The one that is being executed may be older than the latest state.
    let ticks = stage.proxy.statistic("pg_ticks");
    assert!(eventually(SOON, || stage.proxy.statistic("pg_ticks") >= ticks + 2), "{}", stage.proxy.log());
    let found = || store.number("SELECT count(*) FROM imcharge.sessions WHERE state IS NOT NULL");
    assert!(eventually(SOON, || found() == sessions), "{} of {sessions} states", found());
}

/// Gives new subscribers a balance.
pub fn giving(setup: Setup) -> Setup {
    setup.parameter("default_balance", "1000000")
}

/// Waits until an INVITE of a new subscriber is granted. Returns how long that took.
#[track_caller]
pub fn until_granted(stage: &Stage, within: Duration) -> Duration {
    let since = Instant::now();
    let granted = eventually(within, || {
        let mut client = stage.client(&subscriber(), |_| {});
        client.invite() == 200 && client.bye() == 200
    });
    assert!(granted, "{}", stage.proxy.log());
    since.elapsed()
}

/// Returns the number of an environment variable, or `default`.
pub fn times(variable: &str, default: usize) -> usize {
    std::env::var(variable).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}
