//! Operators' commands on the shared ledger, against a real PostgreSQL server.

use imcharge::admin::commands::{self, CommandError, Value};
use imcharge::charge::event::Suspended;
use imcharge::charge::service::ChargedContent;
use imcharge::config::Config;
use imcharge::engine::{self, Engine, preflight};
use imcharge::shm::region::Region;
use imcharge::shm::statistic::Statistic;
use imcharge::worker::sip_input::{Body, Dialog, Frame, Invite, InviteKey, Method, Reply, Request};
use imcharge::worker::{FrameDecision, Worker};
use imcharge_testkit::eventually;
use imcharge_testkit::postgres::{Cluster, DATABASE, PASSWORD, Server, Setup};
use rusqlite::Connection;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const ALICE: &str = "sip:alice@example.org";
const BOB: &str = "sip:bob@example.org";
const CAROL: &str = "tel:+4930123";

/// Runs `work` in a proxy with this state directory: with its engine, and a worker that runs commands.
fn proxy<R>(folder: &Path, parameters: &[(&str, &str)], work: impl FnOnce(&mut Console) -> R) -> R {
    run_proxy(config_of(folder, parameters), work)
}

/// Returns the configuration of a proxy with this state directory.
fn config_of(folder: &Path, parameters: &[(&str, &str)]) -> Config {
    let mut config = Config { state_dir: folder.to_owned(), max_sessions: 16, ..Config::default() };
    for (name, value) in parameters {
        config.set(name, value).unwrap_or_else(|error| panic!("{error}"));
    }
    config.check().unwrap_or_else(|error| panic!("{error}"));
    config
}

/// Runs `work` in a proxy.
fn run_proxy<R>(config: Config, work: impl FnOnce(&mut Console) -> R) -> R {
    let region = preflight::create_region(config, 2).unwrap_or_else(|error| panic!("{error}"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let engine = scope.spawn(|| engine::run(&region, &stop).unwrap_or_else(|error| panic!("{error}")));
        let result = {
            let _stop = Stop(&stop);
            let worker = Worker::attach(&region, 0).expect("not attached yet");
            work(&mut Console { region: Arc::clone(&region), worker })
        };
        engine.join().expect("the engine does not panic");
        result
    })
}

/// Stops the engine when dropped, also after a failed assertion: the scope waits for the engine's thread.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A process that runs commands.
struct Console {
    region: Arc<Region>,
    worker: Worker,
}

impl Console {
    fn try_run(&mut self, command: &str, arguments: &[&str]) -> Result<Value, CommandError> {
        commands::run(command, arguments, &self.region, &mut self.worker)
    }

    #[track_caller]
    fn run(&mut self, command: &str, arguments: &[&str]) -> Value {
        let answer = self.try_run(command, arguments);
        answer.unwrap_or_else(|error| panic!("{command} {arguments:?}: {}", error.sentence("imcharge.")))
    }

    /// Returns code and sentence of the error.
    #[track_caller]
    fn refused(&mut self, command: &str, arguments: &[&str]) -> (u32, String) {
        let error = self.try_run(command, arguments).expect_err(command);
        (error.code, error.sentence("imcharge."))
    }

    /// Waits until the node has a lease.
    #[track_caller]
    fn has_joined(&self) {
        let has_lease = || self.region.statistic(Statistic::LeaseLeft) > 0;
        assert!(eventually(Duration::from_secs(20), has_lease), "it does not join");
    }

    /// Returns balance, held units and credit limit of an account.
    #[track_caller]
    fn account(&mut self, id: &str) -> (i64, i64, i64) {
        let answer = self.run("account.get", &[id]);
        (number(&answer, "balance"), number(&answer, "held"), number(&answer, "limit"))
    }

    /// Imports all accounts in pages. Returns how many were imported, repeated and refused.
    fn import(&mut self, reference: &str, limit: &str) -> (i64, i64, i64) {
        let (mut sums, mut next) = ((0, 0, 0), String::new());
        loop {
            let answer = self.run("account.import", &[reference, limit, &next]);
            sums.0 += number(&answer, "imported");
            sums.1 += number(&answer, "repeated");
            sums.2 += number(&answer, "refused");
            if number(&answer, "more") == 0 {
                return sums;
            }
            next = text(&answer, "next").to_owned();
        }
    }
}

#[track_caller]
fn field<'a>(value: &'a Value, name: &str) -> &'a Value {
    let Value::Structure(fields) = value else { panic!("{value:?}") };
    fields
        .iter()
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value)
        .unwrap_or_else(|| panic!("no {name}: {value:?}"))
}

#[track_caller]
fn number(value: &Value, name: &str) -> i64 {
    match field(value, name) {
        Value::Integer(number) => *number,
        other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    match field(value, name) {
        Value::Text(text) => text,
        other => panic!("{name}: {other:?}"),
    }
}

#[track_caller]
fn rows<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    match field(value, name) {
        Value::List(rows) => rows,
        other => panic!("{name}: {other:?}"),
    }
}

/// A database with the schema, and the parameters of proxies that use it.
struct Database {
    cluster: Cluster,
    folder: tempfile::TempDir,
}

impl Database {
    fn new() -> Database {
        Database::of(Cluster::single())
    }

    fn of(cluster: Cluster) -> Database {
        let database = Database { cluster, folder: tempfile::tempdir().expect("a folder") };
        fs::write(database.password(), PASSWORD).expect("written");
        fs::set_permissions(database.password(), fs::Permissions::from_mode(0o600)).expect("a file of ours");
        database
    }

    fn password(&self) -> std::path::PathBuf {
        self.folder.path().join("password")
    }

    /// Runs `work` in a node that uses the database.
    fn node<R>(&self, name: &str, folder: &Path, work: impl FnOnce(&mut Console) -> R) -> R {
        run_proxy(self.config(name, folder), work)
    }

    /// Returns the configuration of a node that uses the database.
    fn config(&self, name: &str, folder: &Path) -> Config {
        let (port, password) = (self.cluster.primary().port(), self.password());
        let server = format!("host=127.0.0.1;port={port};password_file={};tls=off", password.display());
        let parameters = [("enabler", "postgres"), ("postgres", &server), ("postgres_async", "yes"), ("node", name)];
        config_of(folder, &parameters)
    }

    fn execute(&self, sql: &str) {
        self.cluster.primary().execute(DATABASE, sql);
    }

    fn value(&self, sql: &str) -> String {
        self.cluster.primary().value(DATABASE, sql)
    }
}

/// Creates an embedded ledger with accounts, given with their balances and credit limits.
fn embedded(accounts: &[(&str, i64, i64)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    proxy(folder.path(), &[], |console| {
        for (id, balance, limit) in accounts {
            console.run("account.set", &[id, "0"]);
            console.run("account.limit", &[id, &limit.to_string()]);
            console.run("account.set", &[id, &balance.to_string()]);
        }
    });
    folder
}

#[test]
fn accounts_of_embedded_ledgers_are_imported_once_each() {
    let database = Database::new();
    let first = embedded(&[(ALICE, 100, 0), (BOB, -30, 50), (CAROL, 0, 9)]);
    let second = embedded(&[(ALICE, 7, 5), (BOB, -40, 40), (CAROL, 1, 2)]);
    database.node("proxy1", first.path(), |console| {
        // The first page alone, as if the command had been interrupted, then all of them.
        let answer = console.run("account.import", &["one", "1"]);
        assert_eq!((number(&answer, "imported"), number(&answer, "more"), text(&answer, "next")), (1, 1, BOB));
        assert_eq!(console.import("one", "2"), (2, 1, 0));
        assert_eq!(console.import("one", "500"), (0, 3, 0));
        assert_eq!(
            [console.account(ALICE), console.account(BOB), console.account(CAROL)],
            [(100, 0, 0), (-30, 0, 50), (0, 0, 9)]
        );
        let (code, sentence) = console.refused("account.import", &["two"]);
        assert_eq!((code, sentence.contains("imported under the reference 'one'")), (409, true), "{sentence}");
    });
    database.node("proxy2", second.path(), |console| {
        let (code, sentence) = console.refused("account.import", &["one"]);
        assert_eq!((code, sentence.contains("the reference is that of the ledger ")), (409, true), "{sentence}");
        // Bob would owe more than the larger of both limits.
        let answer = console.run("account.import", &["two"]);
        assert_eq!([number(&answer, "imported"), number(&answer, "refused")], [2, 1]);
        let refused = &rows(&answer, "refusals")[0];
        assert_eq!((text(refused, "id"), number(refused, "balance")), (BOB, -40));
        assert!(text(refused, "why").contains("credit limit"), "{refused:?}");
        // The accounts of both proxies are seen from either.
        let expected = [(107, 0, 5), (-30, 0, 50), (1, 0, 9)];
        assert_eq!([ALICE, BOB, CAROL].map(|id| console.account(id)), expected);
        let history = console.run("account.history", &[ALICE]);
        let changes: Vec<_> = rows(&history, "changes")
            .iter()
            .map(|row| [text(row, "kind"), text(row, "reference"), text(row, "node")])
            .collect();
        assert_eq!(changes, [["import", "two", "proxy2"], ["import", "one", "proxy1"]]);
        let audit = console.run("audit", &["accounts"]);
        assert_eq!(number(field(&audit, "accounts_not_balanced"), "count"), 0, "{audit:?}");
    });
    assert_eq!(
        database.value("SELECT string_agg(reference || accounts, ',' ORDER BY reference) FROM imcharge.imports"),
        "one3,two2"
    );
}

/// A repetition changes nothing. Its answer must nevertheless wait until a standby has what it is about.
#[test]
fn repeated_import_is_not_answered_before_a_standby_confirms_it() {
    let database = Database::of(Cluster::new(Setup { standbys: 1, ..Setup::default() }));
    let folder = embedded(&[(ALICE, 100, 0)]);
    database.node("proxy1", folder.path(), |console| {
        assert_eq!(console.import("one", "10"), (1, 0, 0));
        database.cluster.standbys().for_each(Server::stall);
        assert_eq!(console.refused("account.import", &["one"]).0, 503);
        database.cluster.standbys().for_each(Server::resume);
        let imported = eventually(Duration::from_secs(30), || console.try_run("account.import", &["one"]).is_ok());
        assert!(imported, "the standby does not follow");
        assert_eq!(console.import("one", "10"), (0, 1, 0));
        assert_eq!(console.account(ALICE), (100, 0, 0));
    });
}

#[test]
fn ledger_with_held_units_is_not_imported() {
    let database = Database::new();
    let folder = embedded(&[(ALICE, 100, 0)]);
    let ledger = || Connection::open(folder.path().join("ledger.sqlite")).expect("a ledger");
    for (hold, release) in [
        ("INSERT INTO holds VALUES(1, 5)", "DELETE FROM holds"),
        ("UPDATE accounts SET balance=95, held=5", "UPDATE accounts SET balance=100, held=0"),
    ] {
        ledger().execute(hold, []).expect("written");
        let (code, sentence) =
            database.node("proxy1", folder.path(), |console| console.refused("account.import", &["one"]));
        assert_eq!((code, sentence.contains("sessions hold units")), (409, true), "{sentence}");
        assert_eq!(database.value("SELECT count(*) FROM imcharge.imports"), "0");
        ledger().execute(release, []).expect("written");
    }
    let imported = database.node("proxy1", folder.path(), |console| console.import("one", "10"));
    assert_eq!(imported, (1, 0, 0));
}

#[test]
fn lists_of_the_shared_ledger_come_in_pages() {
    let database = Database::new();
    let ids: Vec<String> = (0..7).map(|number| format!("sip:user{number}@example.org")).collect();
    let accounts: Vec<(&str, i64, i64)> = ids.iter().map(|id| (id.as_str(), 10, 0)).collect();
    let folder = embedded(&accounts);
    database.node("proxy1", folder.path(), |console| {
        assert_eq!(console.import("one", "3"), (7, 0, 0));
        let (mut found, mut next) = (Vec::new(), String::new());
        for _ in 0..3 {
            let answer = console.run("account.list", &["sip:user", "3", &next]);
            found.extend(rows(&answer, "accounts").iter().map(|row| text(row, "id").to_owned()));
            next = text(&answer, "next").to_owned();
        }
        assert_eq!((found, next.as_str()), (ids.clone(), ""));
        assert_eq!(rows(&console.run("account.list", &["tel:"]), "accounts").len(), 0);
        let (code, _) = console.refused("account.get", &[ALICE]);
        assert_eq!(code, 404);
        // The history, one change on each page.
        database.cluster.primary().execute(
            DATABASE,
            "INSERT INTO imcharge.changes SELECT id, now() + interval '1 s', 'limit', 0, '', 'x', 'proxy2', NULL, NULL, NULL, \
             balance, held, credit_limit FROM imcharge.accounts",
        );
        let latest = console.run("account.history", &[&ids[0], "1"]);
        assert_eq!((text(&rows(&latest, "changes")[0], "kind"), number(&latest, "more")), ("limit", 1));
        let before = console.run("account.history", &[&ids[0], "1", text(&latest, "next")]);
        assert_eq!((text(&rows(&before, "changes")[0], "kind"), number(&before, "more")), ("import", 0));
        // Accounts that differ from their changes.
        database.cluster.primary().execute(DATABASE, "UPDATE imcharge.accounts SET balance = balance + 3 WHERE id > 'sip:user3'");
        let audit = console.run("audit", &["accounts", "2"]);
        let list = field(&audit, "accounts_not_balanced");
        let row = &rows(list, "rows")[0];
        assert_eq!((text(row, "account"), number(row, "difference"), number(row, "recorded")), (ids[3].as_str(), 3, 10));
        assert_eq!((number(list, "shown"), number(list, "more")), (2, 1));
        let audit = console.run("audit", &["accounts", "2", text(list, "next")]);
        let list = field(&audit, "accounts_not_balanced");
        assert_eq!((text(&rows(list, "rows")[0], "account"), number(list, "more")), (ids[5].as_str(), 0), "{list:?}");
    });
}

#[test]
fn any_node_changes_accounts_and_repetitions_count_once() {
    let database = Database::new();
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    database.node("proxy1", folders[0].path(), |console| {
        console.has_joined();
        console.run("account.set", &[ALICE, "100", "opened", "carol"]);
        let added = console.run("account.add", &[ALICE, "-30", "fee"]);
        assert_eq!((number(&added, "balance"), number(&added, "duplicate")), (70, 0));
        let (code, _) = console.refused("account.add", &[BOB, "1", "fee"]);
        assert_eq!(code, 404);
    });
    database.node("proxy2", folders[1].path(), |console| {
        console.has_joined();
        let again = console.run("account.add", &[ALICE, "-30", "fee"]);
        assert_eq!((number(&again, "balance"), number(&again, "duplicate")), (70, 1));
        let (code, sentence) = console.refused("account.add", &[ALICE, "-31", "fee"]);
        assert_eq!((code, sentence.ends_with("was used for another amount, -30")), (409, true), "{sentence}");
        let (code, _) = console.refused("account.add", &[ALICE, "-71", "too much"]);
        assert_eq!(code, 400);
        console.run("account.limit", &[ALICE, "5"]);
        console.run("account.add", &[ALICE, "-75", "rest"]);
        assert_eq!(console.account(ALICE), (-5, 0, 5));
        let (code, _) = console.refused("account.remove", &[ALICE]);
        assert_eq!(code, 409);
        console.run("account.add", &[ALICE, "5", "payment"]);
        console.run("account.remove", &[ALICE]);
        let (code, _) = console.refused("account.get", &[ALICE]);
        assert_eq!(code, 404);
        let history = console.run("account.history", &[ALICE]);
        let kinds: Vec<_> =
            rows(&history, "changes").iter().map(|row| [text(row, "kind"), text(row, "node")]).collect();
        let by_proxy2 = ["remove", "add", "add", "limit"].map(|kind| [kind, "proxy2"]);
        assert_eq!(kinds, [&by_proxy2[..], &[["add", "proxy1"], ["set", "proxy1"]]].concat());
        assert_eq!(text(&rows(&history, "changes")[5], "by"), "carol");
    });
}

#[test]
fn nodes_are_listed_with_their_leases() {
    let database = Database::new();
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    for (name, folder) in ["proxy1", "proxy2"].iter().zip(&folders) {
        database.node(name, folder.path(), |console| {
            console.has_joined();
            let answer = console.run("nodes", &[]);
            let row = rows(&answer, "nodes").iter().find(|row| text(row, "node") == *name).expect("this node");
            assert_eq!((text(row, "state"), number(row, "epoch"), number(row, "sessions")), ("alive", 1, 0));
            assert!((50..=60).contains(&number(row, "lease_left")), "{row:?}");
        });
    }
}

#[test]
fn operator_starts_a_takeover_only_of_a_node_whose_lease_is_over() {
    let database = Database::new();
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    database.node("proxy2", folders[1].path(), |console| console.has_joined());
    database.node("proxy1", folders[0].path(), |console| {
        let (code, sentence) = console.refused("takeover", &["proxy3"]);
        assert!(code == 404 || sentence.contains("no lease itself"), "{sentence}");
        console.has_joined();
        assert_eq!(console.refused("takeover", &["proxy3"]).0, 404);
        database.execute("UPDATE imcharge.nodes SET lease_until = now() + interval '1 min' WHERE name = 'proxy2'");
        let (code, sentence) = console.refused("takeover", &["proxy2"]);
        assert_eq!((code, sentence.contains("the lease of node 'proxy2' is not over")), (409, true), "{sentence}");
        database.execute("UPDATE imcharge.nodes SET lease_until = now() - interval '6 s' WHERE name = 'proxy2'");
        assert_eq!(text(&console.run("takeover", &["proxy2"]), "node"), "proxy2");
        let answer = console.run("nodes", &[]);
        let taken = rows(&answer, "nodes").iter().find(|row| text(row, "node") == "proxy2").expect("its row");
        assert_eq!((text(taken, "state"), text(taken, "taken_over_by")), ("taken-over", "proxy1"));
    });
}

#[test]
fn commands_report_why_the_database_is_not_used() {
    let database = Database::new();
    let folder = tempfile::tempdir().expect("a folder");
    let server = format!(
        "host=127.0.0.1;port={};password_file={};tls=off",
        database.cluster.primary().port(),
        database.password().display()
    );
    // Asynchronous, and not allowed to be.
    let parameters = [("enabler", "postgres"), ("postgres", server.as_str()), ("node", "proxy1")];
    proxy(folder.path(), &parameters, |console| {
        let (code, sentence) = console.refused("account.get", &[ALICE]);
        assert_eq!((code, sentence.contains("synchronous_standby_names")), (503, true), "{sentence}");
    });
    proxy(folder.path(), &[], |console| {
        for (command, arguments) in [("nodes", &[][..]), ("takeover", &["proxy2"]), ("account.import", &["one"])] {
            let (code, sentence) = console.refused(command, arguments);
            assert_eq!(
                (code, sentence.contains("with enabler=ledger this node shares no ledger")),
                (409, true),
                "{sentence}"
            );
        }
    });
}

/// A proxy whose engine the test runs tick by tick, so that it can be killed.
struct Killable {
    region: Arc<Region>,
    worker: Worker,
    engine: Option<Engine>,
}

const SERVER: &str = "msrp://10.0.4.1:9/server;tcp";
const CLIENT: &str = "msrp://10.0.4.2:9/client;tcp";

impl Killable {
    fn new(config: Config) -> Killable {
        let region = preflight::create_region(config, 2).unwrap_or_else(|error| panic!("{error}"));
        let worker = Worker::attach(&region, 0).expect("not attached yet");
        let mut proxy = Killable { region, worker, engine: None };
        proxy.start();
        proxy
    }

    fn start(&mut self) {
        self.engine = Some(Engine::start(&self.region).unwrap_or_else(|error| panic!("{error}")));
    }

    fn tick(&mut self) {
        let tick = self.engine.as_mut().expect("an engine").tick();
        tick.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Runs the engine until `done`.
    #[track_caller]
    fn run_until(&mut self, what: &str, done: impl Fn(&Killable) -> bool) {
        let is_done = eventually(Duration::from_secs(20), || {
            self.tick();
            done(self)
        });
        assert!(is_done, "{what}");
    }

    /// Opens a session of three messages.
    fn open(&mut self) {
        let (offer, answer) = (description(CLIENT), description(SERVER));
        let reserved = self.worker.reserve(&Invite {
            key: InviteKey { call_id: b"a84b@pc33", from_tag: b"f", cseq: 1 },
            asserted: [b"<sip:alice@example.org>", b""],
            from: b"",
            called_party: b"",
            request_uri: b"sip:im@example.org",
            subscriber: b"",
            direction: None,
            charging_vector: b"",
            messages: 3,
            content: ChargedContent::Received,
            recipients: 0,
            tariff: b"",
            offer: sdp(&offer),
            suspended: Suspended::default(),
        });
        reserved.expect("the engine runs");
        self.run_until("a grant", |proxy| proxy.region.statistic(Statistic::ReservesGranted) == 1);
        let dialog = |to_tag| Dialog { call_id: b"a84b@pc33", from_tag: b"f", to_tag };
        let (method, cseq, uri, source) = (Method::Invite, 1, b"sip:im@example.org", None);
        let contact = b"<sip:a@10.0.0.1>";
        let invite = Request { method, dialog: dialog(b""), cseq, uri, contact, body: sdp(&offer), source };
        let (is_reliable, body) = (false, sdp(&answer));
        let reply = Reply { code: 200, method, dialog: dialog(b"t"), cseq, is_reliable, contact, body, source };
        assert!(self.worker.replied(&reply, Some(&invite)));
    }

    fn send(&mut self, id: &str) -> FrameDecision {
        let frame = format!(
            "MSRP tx-{id} SEND\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {CLIENT}\r\nFrom-Path: {SERVER}\r\n\
             Message-ID: {id}\r\nByte-Range: 1-2/2\r\nContent-Type: text/plain\r\n\r\nhi\r\n-------tx-{id}$\r\n"
        );
        self.worker.frame(&Frame::of_connection(frame.as_bytes(), 7))
    }

    fn respond(&mut self, id: &str) {
        let frame = format!(
            "MSRP tx-{id} 200 OK\r\nTo-Path: msrp://10.0.0.9:2855/relay;tcp {SERVER}\r\nFrom-Path: {CLIENT}\r\n\
             -------tx-{id}$\r\n"
        );
        assert_eq!(self.worker.frame(&Frame::of_connection(frame.as_bytes(), 8)), FrameDecision::Pass);
    }
}

fn description(path: &str) -> String {
    format!("v=0\r\nm=message 7777 TCP/MSRP *\r\na=path:{path}\r\n")
}

fn sdp(text: &str) -> Body<'_> {
    Body { content_type: b"application/sdp", bytes: text.as_bytes() }
}

/// One node settles the session of another whose engine was killed. That one comes back with its shared memory: its gate is
/// closed, and it debits what the other node could not know.
#[test]
fn session_of_a_dead_node_is_settled_once_although_the_node_comes_back() {
    let database = Database::new();
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let money = || database.value("SELECT balance || ' ' || held || ' ' || debited FROM imcharge.accounts");
    let mut dying = Killable::new(database.config("proxy1", folders[0].path()));
    dying.run_until("a lease", |proxy| proxy.region.statistic(Statistic::LeaseLeft) > 0);
    database.node("proxy2", folders[1].path(), |console| {
        console.has_joined();
        console.run("account.set", &[ALICE, "10"]);
        dying.open();
        assert_eq!(money(), "7 3 0");
        assert_eq!((dying.send("msg1"), dying.send("msg2")), (FrameDecision::Pass, FrameDecision::Pass));
        dying.respond("msg1");
        dying.run_until("a debit", |_| money() == "7 2 1");
        // The engine is killed; the next message reaches only the shared memory of its host.
        dying.engine = None;
        assert_eq!(dying.send("msg3"), FrameDecision::Pass);
        database.execute("UPDATE imcharge.nodes SET lease_until = now() - interval '6 s' WHERE name = 'proxy1'");
        assert!(eventually(Duration::from_secs(30), || money() == "8 0 2"), "not settled: {}", money());
        assert_eq!(database.value("SELECT count(*) FROM imcharge.sessions"), "0");
        dying.start();
        dying.run_until("its own debit", |_| money() == "7 0 3");
        dying.run_until("a new lease", |proxy| proxy.region.statistic(Statistic::LeaseLeft) > 0);
        assert_eq!(dying.send("msg4"), FrameDecision::BeyondGrant);
        let debits = "SELECT string_agg(message_id || ' ' || node, ', ' ORDER BY message_id) FROM imcharge.debits";
        assert_eq!(database.value(debits), "msg1 proxy1, msg2 proxy2, msg3 proxy1");
        assert_eq!(dying.region.statistic(Statistic::Debits), 3);
    });
    dying.region.remove_file();
}
