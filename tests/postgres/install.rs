//! How operators load the schema, and what the role of the proxies may do.

use crate::node::{DONE, Database, Item, State, Tick, schema_with};
use imcharge_testkit::postgres::schema_file;
use std::fs;

/// Loads the schema with psql, as an operator does. Returns what psql prints, and whether it succeeded.
fn load(database: &Database) -> (String, bool) {
    let output = database.server().psql(&database.name, &schema_file());
    (String::from_utf8_lossy(&output.stderr).into_owned(), output.status.success())
}

#[test]
fn schema_can_be_loaded_again_and_keeps_the_data() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    assert_eq!(load(&database), (String::new(), true));
    assert_eq!(node.ask(Item::reserve(1, 1, "alice", 1, 10)).result, DONE);
    assert_eq!(database.account("alice"), (90, 10, 0));
    assert_eq!(database.value("SELECT imcharge.check_version()"), "1");
}

#[test]
fn schema_of_another_version_is_refused_and_stays() {
    for (version, shown) in [("2", "2"), ("0", "0")] {
        let database = Database::new();
        database.execute(&format!("UPDATE imcharge.version SET version={version}; DROP FUNCTION imcharge.audit"));
        let (printed, is_loaded) = load(&database);
        assert!(!is_loaded);
        assert!(
            printed.contains(&format!("schema imcharge has version {shown}, and this file is version 1")),
            "{printed}"
        );
        assert!(
            printed.contains("Run the imcharge.sql that belongs to the installed release of imcharge."),
            "{printed}"
        );
        let audits = "SELECT count(*) FROM pg_proc WHERE proname='audit'";
        assert_eq!(
            (database.value(audits), database.value("SELECT version FROM imcharge.version")),
            ("0".into(), version.into())
        );
    }
}

#[test]
fn schema_that_is_not_of_imcharge_is_refused() {
    let database = Database::new();
    database.execute("DROP SCHEMA imcharge CASCADE; CREATE SCHEMA imcharge; CREATE TABLE imcharge.sessions(x int)");
    let (printed, is_loaded) = load(&database);
    assert!(!is_loaded && printed.contains("schema imcharge exists and is not the shared ledger"), "{printed}");
    database.execute("DROP SCHEMA imcharge CASCADE");
    assert!(load(&database).1);
}

#[test]
fn role_of_the_proxies_calls_the_functions_and_writes_no_table() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    for sql in [
        "UPDATE imcharge.accounts SET balance=1",
        "INSERT INTO imcharge.version VALUES (2)",
        "DELETE FROM imcharge.debits",
        "TRUNCATE imcharge.sessions",
        "CREATE TABLE imcharge.more(x int)",
        "SELECT imcharge.change_account('a', 1::bigint, 1::bigint, 7::smallint, 'alice', 1::bigint, '', '', NULL, NULL)",
        "SELECT imcharge.is_gone('a')",
        "DROP SCHEMA imcharge CASCADE",
    ] {
        let error = node.client.simple_query(sql).expect_err(sql);
        assert_eq!(error.code().map(|state| state.code()), Some("42501"), "{sql}");
    }
    for table in ["accounts", "account_changes", "nodes", "sessions", "session_parts", "debits", "version"] {
        node.client.simple_query(&format!("SELECT * FROM imcharge.{table}")).expect("it may be read");
    }
    assert_eq!(node.client.query_one("SELECT imcharge.standbys()", &[]).expect("a number").get::<_, i32>(0), 0);
}

#[test]
fn defaults_of_the_database_do_not_matter() {
    let database = Database::new();
    // Objects that would be found first, were names looked up by the path of the session.
    database.execute(
        "CREATE SCHEMA evil; CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT NULL::timestamptz'; \
         CREATE FUNCTION evil.cardinality(anyarray) RETURNS int LANGUAGE sql AS 'SELECT 7'; \
         CREATE TABLE evil.accounts(id text); GRANT USAGE ON SCHEMA evil TO PUBLIC;",
    );
    let name = &database.name;
    for setting in [
        "search_path=evil, pg_catalog",
        "default_transaction_isolation='serializable'",
        "enable_indexscan=off",
        "plan_cache_mode=force_custom_plan",
        "jit_above_cost=0",
    ] {
        database.execute(&format!("ALTER DATABASE {name} SET {setting}"));
    }
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    assert_eq!(node.ask(Item::reserve(1, 1, "alice", 1, 10)).granted, 1);
    assert_eq!(node.ask(Item::debit(1, 2, "alice", "m1", 10)).balance, Some(90));
    assert_eq!((node.dead_nodes(), database.audit()), (Vec::new(), Vec::new()));
}

/// A plan that reads a whole table for each request would make the ticks of a large installation last for minutes.
#[test]
fn tick_reads_by_key_although_its_plans_were_made_when_the_tables_were_empty() {
    let database = Database::new();
    database.execute("VACUUM ANALYZE");
    let mut node = database.node("a");
    let of_one = |item: Item| Tick { items: vec![item], states: vec![State::new(9999, "x", "s")], ..Tick::default() };
    node.run(&of_one(Item::set(9999, "x", 100)));
    node.run(&of_one(Item::reserve(9999, 1, "x", 5, 1)));
    node.run(&of_one(Item::debit(9999, 2, "x", "m1", 1)));
    node.run(&Tick { states: vec![State::settled(9999, "x")], ..Tick::default() });
    let accounts: Vec<String> = (0..500).map(|of| format!("user{of}")).collect();
    let of_all = |make: &dyn Fn(u64, &str) -> Item| -> Vec<Item> {
        (0..).zip(&accounts).map(|(session, account)| make(session, account)).collect()
    };
    node.tick(&of_all(&|session, account| Item::set(session as i64, account, 100)));
    node.tick(&of_all(&|session, account| Item::reserve(session, 1, account, 5, 1)));
    node.tick(&of_all(&|session, account| Item::debit(session, 2, account, "m1", 1)));
    let reads =
        "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0)) FROM pg_stat_user_tables WHERE schemaname='imcharge'";
    let count = |node: &mut crate::node::Node| -> i64 {
        // The counters of a backend are reported when it is idle.
        node.client.simple_query("SELECT pg_stat_force_next_flush()").expect("a function");
        node.client.simple_query("SELECT 1").expect("a row");
        database.value(reads).parse().expect("a number")
    };
    let before = count(&mut node);
    node.run(&Tick {
        items: vec![Item::debit(7, 3, "user7", "m2", 1)],
        states: vec![State::new(7, "user7", "s"), State::settled(8, "user8")],
        ..Tick::default()
    });
    let read = count(&mut node) - before;
    assert!(read < 40, "a tick of one request and two states reads {read} rows");
}

#[test]
fn faults_are_put_into_the_schema_by_its_text() {
    let text = fs::read_to_string(schema_file()).expect("the schema is in the repository");
    assert_eq!(schema_with(&[]).len() + "\\set ON_ERROR_STOP 1\n".len(), text.len());
    let missing = std::panic::catch_unwind(|| schema_with(&[("no text of the schema", "")]));
    assert!(missing.is_err(), "a text that is missing fails the test");
}
