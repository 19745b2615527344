//! Databases that a proxy does not use. It starts, refuses INVITEs, says what to do, and serves once that is done.

use super::store::Store;
use super::{SOON, is_ready, node, unready, until_ready};
use crate::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::postgres::{DATABASE, PASSWORD};

/// Asserts that a proxy refuses INVITEs and logs this, and that it serves after `mend`.
#[track_caller]
fn refuses_until(stage: &Stage, said: &[&str], mend: impl FnOnce()) {
    let _server = stage.server(&["one"], |_| {});
    let log = || stage.proxy.log();
    let is_said = || log().lines().any(|line| said.iter().all(|words| line.contains(words)));
    assert!(eventually(SOON, is_said), "no line has {said:?}\n{}", log());
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503, "{}", log());
    assert!(!is_ready(stage), "{}", log());
    // It tries again and again, and says it once for each server.
    let is_about = |line: &&str| said.iter().all(|words| line.contains(words));
    let mut lines: Vec<String> = log().lines().filter(is_about).map(str::to_owned).collect();
    let count = lines.len();
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), count, "{}", log());
    mend();
    until_ready(stage);
    stage.proxy.set_account(ALICE, 100);
    let mut client = stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 200, "{}", log());
    assert_eq!(client.bye(), 200);
}

/// Loads the schema of the shared ledger.
fn load(store: &Store) {
    store.cluster.primary().load_schema(DATABASE);
}

/// A proxy before a database that `spoil` has changed.
fn before(store: &Store, spoil: impl FnOnce()) -> Stage {
    spoil();
    unready("a", &store.ports(), store, |setup| setup)
}

#[test]
fn server_without_synchronous_standby_is_refused() {
    let store = Store::start(1);
    let set = |names: &str| {
        store.sql(&format!("ALTER SYSTEM SET synchronous_standby_names='{names}'"));
        store.sql("SELECT pg_reload_conf()");
    };
    let names = store.sql("SHOW synchronous_standby_names").concat().concat();
    let stage = before(&store, || set(""));
    refuses_until(&stage, &["synchronous_standby_names", "postgres_async"], || set(&names));
}

#[test]
fn server_that_only_reads_is_refused() {
    let store = Store::start(1);
    let set = |value: &str| {
        store.sql(&format!("ALTER SYSTEM SET default_transaction_read_only={value}"));
        store.sql("SELECT pg_reload_conf()");
    };
    let stage = before(&store, || set("on"));
    refuses_until(&stage, &["read-only"], || set("off"));
}

#[test]
fn database_without_the_schema_is_refused() {
    let store = Store::start(1);
    let stage = before(&store, || drop(store.sql("DROP SCHEMA imcharge CASCADE")));
    refuses_until(&stage, &["schema", "imcharge.sql"], || load(&store));
}

#[test]
fn schema_of_another_version_is_refused() {
    let store = Store::start(1);
    let stage = before(&store, || drop(store.sql("UPDATE imcharge.version SET version=99")));
    refuses_until(&stage, &["version 99", "imcharge.sql"], || {
        store.sql("UPDATE imcharge.version SET version=1");
    });
}

#[test]
fn wrong_password_is_refused() {
    let store = Store::start(1);
    let set = |password: &str| {
        store.sql(&format!("ALTER ROLE imcharge PASSWORD '{password}'"));
    };
    let stage = before(&store, || set("another"));
    refuses_until(&stage, &["password", "password_file"], || set(PASSWORD));
}

#[test]
fn second_proxy_under_the_name_of_a_running_one_is_refused_until_that_one_has_ended() {
    let store = Store::start(1);
    let first = node(&store, "a", |setup| setup);
    let second = unready("a", &store.ports(), &store, |setup| setup);
    refuses_until(&second, &["another proxy with the name 'a'", "set another node"], || drop(first));
}
