//! The PostgreSQL client and real servers: the login, TLS, the checks of a server, and what becomes of a query when a server
//! dies or loses its standby.

use imcharge::charge::time::Time;
use imcharge::enabler::net::address::HostPort;
use imcharge::enabler::net::tls::TlsConfig;
use imcharge::enabler::postgres::client::{
    Client, ClientConfig, ClientEvent, Parameter, QueryId, Row, Server as ServerConfig, ServerError, Type,
};
use imcharge_testkit::certificates::Authority;
use imcharge_testkit::eventually;
use imcharge_testkit::postgres::{Cluster, DATABASE, PASSWORD, Server, Setup};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Time limit of each step.
const PATIENCE: Duration = Duration::from_secs(60);

/// What becomes of a query.
#[derive(Debug)]
enum Outcome {
    Rows(Vec<Row>),
    Refused(ServerError),
    Lost,
}

/// A client, its password file and its clock.
struct World {
    client: Client,
    begun: Instant,
    _folder: tempfile::TempDir,
}

impl World {
    /// A client of these servers in this order, with a changed configuration.
    fn of(servers: &[&Server], change: impl FnOnce(&mut ClientConfig)) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let server = |server: &&Server| ServerConfig {
            address: HostPort { host: "127.0.0.1".into(), port: server.port() },
            tls: None,
        };
        let mut config = ClientConfig {
            servers: servers.iter().map(server).collect(),
            user: "imcharge".into(),
            password_file: Some(password_file(folder.path().join("password"), PASSWORD)),
            database: DATABASE.into(),
            application_name: "imcharge test".into(),
            allow_async: false,
            connect_timeout: 10,
            answer_timeout: 30,
        };
        change(&mut config);
        World { client: Client::new(config, Time(0)), begun: Instant::now(), _folder: folder }
    }

    fn now(&self) -> Time {
        Time(u64::try_from(self.begun.elapsed().as_micros()).expect("a short test"))
    }

    /// Returns the next event, if there is one.
    fn try_event(&mut self) -> Option<ClientEvent> {
        self.client.work(self.now());
        self.client.next_event()
    }

    fn event(&mut self) -> ClientEvent {
        let mut found = None;
        let is_found = eventually(PATIENCE, || {
            found = self.try_event();
            found.is_some()
        });
        assert!(is_found, "no event: {:?}", self.client.status());
        found.expect("found")
    }

    /// Returns the reason of the next event, which must be Down.
    fn down(&mut self) -> String {
        match self.event() {
            ClientEvent::Down { why } => why,
            event => panic!("{event:?}"),
        }
    }

    /// Waits for a server that serves, and returns its name.
    fn up(&mut self) -> (String, bool) {
        loop {
            match self.event() {
                ClientEvent::Up { server, is_async } => return (server, is_async),
                ClientEvent::Down { .. } => {}
                event => panic!("{event:?}"),
            }
        }
    }

    fn ask(&mut self, statement: &'static str, parameters: &[Parameter<'_>]) -> QueryId {
        let now = self.now();
        let id = self.client.query(statement, parameters, now).expect("ready");
        self.client.flush(now);
        id
    }

    /// Returns the outcome of the query in flight.
    fn outcome(&mut self, asked: QueryId) -> Outcome {
        let (id, outcome) = match self.event() {
            ClientEvent::Rows(id, rows) => (id, Outcome::Rows(rows)),
            ClientEvent::Refused(id, error) => (id, Outcome::Refused(error)),
            ClientEvent::Lost(id) => (id, Outcome::Lost),
            event => panic!("{event:?}"),
        };
        assert_eq!(id, asked);
        outcome
    }

    fn query(&mut self, statement: &'static str, parameters: &[Parameter<'_>]) -> Outcome {
        let asked = self.ask(statement, parameters);
        self.outcome(asked)
    }

    fn rows(&mut self, statement: &'static str, parameters: &[Parameter<'_>]) -> Vec<Row> {
        match self.query(statement, parameters) {
            Outcome::Rows(rows) => rows,
            outcome => panic!("{statement}: {outcome:?}"),
        }
    }

    fn refused(&mut self, statement: &'static str, parameters: &[Parameter<'_>]) -> ServerError {
        match self.query(statement, parameters) {
            Outcome::Refused(error) => error,
            outcome => panic!("{statement}: {outcome:?}"),
        }
    }
}

fn password_file(path: PathBuf, password: &str) -> PathBuf {
    fs::write(&path, password).expect("the folder is writable");
    fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("a file of ours");
    path
}

/// A primary with one synchronous standby, and a table that the proxies' role may write.
fn synchronous() -> Cluster {
    let cluster = Cluster::new(Setup { standbys: 1, ..Setup::default() });
    cluster.primary().execute(DATABASE, "CREATE TABLE public.t(n int8); GRANT ALL ON public.t TO imcharge");
    cluster
}

/// Number of rows of the table, as the superuser sees it.
fn count(server: &Server) -> String {
    server.value(DATABASE, "SELECT count(*) FROM public.t")
}

const INSERT: &str = "INSERT INTO public.t VALUES ($1) RETURNING n";

#[test]
fn right_password_is_accepted_and_a_wrong_one_is_not() {
    let cluster = synchronous();
    let mut world = World::of(&[cluster.primary()], |_| {});
    assert_eq!(world.up(), (format!("127.0.0.1:{}", cluster.primary().port()), false));
    assert_eq!(world.rows(INSERT, &[Parameter::Int8(7)])[0].int8(0), Ok(7));
    assert_eq!(count(cluster.primary()), "1");

    let mut wrong = World::of(&[cluster.primary()], |config| {
        let path = config.password_file.clone().expect("a file");
        password_file(path, "another one");
    });
    let why = wrong.down();
    assert!(why.contains("it refuses the login: ") && why.contains("(SQLSTATE 28P01)"), "{why}");
    assert!(!why.contains("another one"), "{why}");
    let mut without = World::of(&[cluster.primary()], |config| config.password_file = None);
    assert!(without.down().ends_with(": it asks for a password: set password_file"));
    session_has_its_settings(&mut world);
    values_come_back_as_they_were_sent(&mut world);
    errors_leave_the_connection_open(&mut world);
    forgotten_statement_is_parsed_again(&mut world);
    unfit_database_is_refused(&cluster);
}

fn session_has_its_settings(world: &mut World) {
    for (name, value) in [
        ("statement_timeout", "0"),
        ("lock_timeout", "30s"),
        ("search_path", "imcharge,pg_catalog"),
        ("client_min_messages", "warning"),
        ("default_transaction_isolation", "read committed"),
        ("client_connection_check_interval", "2s"),
        ("application_name", "imcharge test"),
        ("tcp_keepalives_idle", "10"),
    ] {
        let rows = world.rows("SELECT current_setting($1)", &[Parameter::Text(name)]);
        assert_eq!(rows[0].text(0), Ok(value), "{name}");
    }
}

fn values_come_back_as_they_were_sent(world: &mut World) {
    let octets = [Some(&b"\0state\xff"[..]), None, Some(b"")];
    let numbers = [i64::MIN, 0, i64::MAX];
    let rows = world.rows(
        "SELECT $1::int8[], $2::text[], $3::bytea[], $4::int2[] = '{1,-2}', $5::int4[] = '{}', $6::int2, $7::int4, \
         $8::bool, $9::bytea, $10::int8, $11::text",
        &[
            Parameter::Int8Array(&numbers),
            Parameter::TextArray(&["sip:ä@example.org", "", "NULL", "{\"\\"]),
            Parameter::ByteaArray(&octets),
            Parameter::Int2Array(&[1, -2]),
            Parameter::Int4Array(&[]),
            Parameter::Int2(-3),
            Parameter::Int4(4),
            Parameter::Bool(true),
            Parameter::Bytea(b"\0\x01"),
            Parameter::Null(Type::Int8),
            Parameter::Text("text"),
        ],
    );
    let [row] = &rows[..] else { panic!("one row") };
    assert_eq!(row.int8_array(0), Ok(numbers.to_vec()));
    assert_eq!(row.text_array(1), Ok(vec!["sip:ä@example.org", "", "NULL", "{\"\\"]));
    assert_eq!(row.bytea_array(2), Ok(octets.to_vec()));
    assert_eq!((row.bool(3), row.bool(4), row.int2(5), row.int4(6)), (Ok(true), Ok(true), Ok(-3), Ok(4)));
    assert_eq!((row.bool(7), row.bytea(8), row.is_null(9)), (Ok(true), Ok(&b"\0\x01"[..]), true));
    assert_eq!(row.text(10), Ok("text"));
    assert!(row.text(0).is_err() && row.int8(9).is_err());

    let long = vec![7; 12 << 20];
    assert_eq!(world.rows("SELECT $1::bytea", &[Parameter::Bytea(&long)])[0].bytea(0), Ok(&long[..]));
    let rows = world.rows("SELECT n::int4 FROM generate_series(1, $1) AS n", &[Parameter::Int4(50_000)]);
    assert_eq!((rows.len(), rows[49_999].int4(0)), (50_000, Ok(50_000)));
}

fn errors_leave_the_connection_open(world: &mut World) {
    let error = world.refused("SELECT 1 / $1", &[Parameter::Int4(0)]);
    assert_eq!((error.sqlstate.as_str(), error.sqlstate.class(), error.is_fatal), ("22012", "22", false));
    assert_eq!(world.refused("SELECT nonsense", &[]).sqlstate.as_str(), "42703");
    assert_eq!(world.rows("SELECT 1 / $1", &[Parameter::Int4(1)])[0].int4(0), Ok(1));
}

fn forgotten_statement_is_parsed_again(world: &mut World) {
    world.rows("DEALLOCATE ALL", &[]);
    assert_eq!(world.refused("SELECT 1 / $1", &[Parameter::Int4(1)]).sqlstate.as_str(), "26000");
    assert!(world.down().contains("its statements must be parsed again"));
    world.up();
    assert_eq!(world.rows("SELECT 1 / $1", &[Parameter::Int4(1)])[0].int4(0), Ok(1));
}

fn unfit_database_is_refused(cluster: &Cluster) {
    let primary = cluster.primary();
    let mut world = World::of(&[primary], |config| config.database = "postgres".into());
    let why = world.down();
    assert!(why.contains("run psql -d postgres -f imcharge.sql"), "{why}");
    for (before, part, after) in [
        ("UPDATE imcharge.version SET version = 99", "version 99", "UPDATE imcharge.version SET version = 1"),
        (
            "REVOKE USAGE ON SCHEMA imcharge FROM imcharge",
            "(SQLSTATE 42501)",
            "GRANT USAGE ON SCHEMA imcharge TO imcharge",
        ),
        (
            "ALTER ROLE imcharge SET default_transaction_read_only = on",
            "unset default_transaction_read_only",
            "ALTER ROLE imcharge RESET default_transaction_read_only",
        ),
        (
            "ALTER ROLE imcharge SET synchronous_commit = local",
            "is local",
            "ALTER ROLE imcharge RESET synchronous_commit",
        ),
        // What the role has set is replaced.
        ("ALTER ROLE imcharge SET statement_timeout = 1", "", "ALTER ROLE imcharge RESET statement_timeout"),
    ] {
        primary.execute(DATABASE, before);
        let mut world = World::of(&[primary], |_| {});
        match part {
            "" => drop(world.up()),
            part => {
                let why = world.down();
                assert!(why.contains(part), "{why}");
            }
        }
        primary.execute(DATABASE, after);
    }
}

#[test]
fn certificate_must_be_signed_by_the_ca_and_name_the_host() {
    let (authority, other) = (Authority::new(), Authority::new());
    let cluster = Cluster::new(Setup { tls: Some(authority.sign("localhost")), ..Setup::default() });
    let server = cluster.primary();
    let with_tls = |host: &str, ca: PathBuf| {
        World::of(&[server], |config| {
            config.allow_async = true;
            config.servers[0].address.host = host.into();
            config.servers[0].tls = Some(TlsConfig { ca, own: None });
        })
    };
    let mut world = with_tls("localhost", authority.ca());
    world.up();
    let rows = world.rows("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()", &[]);
    assert_eq!(rows[0].bool(0), Ok(true));
    let long = vec![7; 4 << 20];
    assert_eq!(world.rows("SELECT $1::bytea", &[Parameter::Bytea(&long)])[0].bytea(0), Ok(&long[..]));

    let refused = |mut world: World| loop {
        let why = world.down();
        // [::1] may be first, where no server listens.
        if !why.ends_with("connection refused") {
            return why;
        }
    };
    let why = refused(with_tls("localhost", other.ca()));
    assert!(why.contains("TLS: invalid peer certificate"), "{why}");
    let why = refused(with_tls("127.0.0.1", authority.ca()));
    assert!(why.contains("TLS: invalid peer certificate") && why.contains("not valid for name"), "{why}");
    let why = refused(with_tls("localhost", "/nonexistent/ca.pem".into()));
    assert!(why.contains("TLS certificate /nonexistent/ca.pem"), "{why}");
    // The server refuses a login without TLS.
    let why = refused(World::of(&[server], |_| {}));
    assert!(why.contains("(SQLSTATE 28000)"), "{why}");
}

#[test]
fn server_without_replication_is_refused_unless_that_is_accepted() {
    let mut cluster = Cluster::single();
    let server = cluster.primary();
    let why = World::of(&[server], |_| {}).down();
    assert!(why.contains("synchronous_standby_names is empty") && why.contains("postgres_async=yes"), "{why}");
    let authority = Authority::new();
    let tls = TlsConfig { ca: authority.ca(), own: None };
    let why = World::of(&[server], |config| config.servers[0].tls = Some(tls)).down();
    assert!(why.contains("it does not offer TLS"), "{why}");

    let mut world = World::of(&[server], |config| config.allow_async = true);
    let name = format!("127.0.0.1:{}", server.port());
    assert_eq!(world.up(), (name, true));
    assert!(world.client.status()[0].is_async);
    cluster.primary_mut().stop();
    let why = world.down();
    assert!(why.contains("it ends the session: ") && why.contains("(SQLSTATE 57P01)"), "{why}");
    cluster.primary_mut().restart();
    world.up();
    world.client.stop(world.now());
    assert!(world.client.is_stopped());
}

#[test]
fn query_is_lost_with_the_primary_and_the_promoted_standby_serves() {
    let mut cluster = synchronous();
    let ports: Vec<u16> = cluster.servers().iter().map(Server::port).collect();
    // The standby is tried first.
    let mut world = World::of(&[&cluster.servers()[1], &cluster.servers()[0]], |_| {});
    assert!(world.down().ends_with(": it is a standby"));
    assert_eq!(world.up(), (format!("127.0.0.1:{}", ports[0]), false));
    assert_eq!(world.rows(INSERT, &[Parameter::Int8(1)])[0].int8(0), Ok(1));

    let asked = world.ask("SELECT pg_sleep(60)", &[]);
    let sleeps = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%' AND state = 'active'";
    assert!(eventually(PATIENCE, || cluster.primary().value("postgres", sleeps) == "1"));
    cluster.kill_primary();
    assert!(matches!(world.outcome(asked), Outcome::Lost));
    world.down();
    cluster.promote();
    assert_eq!(world.up(), (format!("127.0.0.1:{}", ports[1]), false));
    assert_eq!(world.rows("SELECT count(*) FROM public.t", &[])[0].int8(0), Ok(1));
}

/// Process id of the server's process that waits for the standby on behalf of the client.
fn waiting_for_standby(server: &Server) -> String {
    let sql = "SELECT pid FROM pg_stat_activity WHERE application_name = 'imcharge test' AND wait_event = 'SyncRep'";
    let mut found = Vec::new();
    let is_waiting = || {
        found = server.query("postgres", sql);
        !found.is_empty()
    };
    assert!(eventually(PATIENCE, is_waiting), "no process waits for the standby");
    found[0][0].clone()
}

#[test]
fn commit_that_the_standby_did_not_confirm_is_lost_and_never_a_success() {
    let cluster = synchronous();
    let mut world = World::of(&[cluster.primary()], |_| {});
    world.up();
    world.rows(INSERT, &[Parameter::Int8(1)]);
    let standby = cluster.standbys().next().expect("a standby");

    standby.stall();
    let asked = world.ask(INSERT, &[Parameter::Int8(2)]);
    let process = waiting_for_standby(cluster.primary());
    cluster.primary().value("postgres", &format!("SELECT pg_cancel_backend({process})"));
    assert!(matches!(world.outcome(asked), Outcome::Lost));
    assert!(world.client.is_ready(), "the connection stays open");
    assert_eq!(count(cluster.primary()), "2", "the server has committed it");

    let asked = world.ask(INSERT, &[Parameter::Int8(3)]);
    let process = waiting_for_standby(cluster.primary());
    cluster.primary().value("postgres", &format!("SELECT pg_terminate_backend({process})"));
    assert!(matches!(world.outcome(asked), Outcome::Lost));
    world.down();
    assert_eq!(count(cluster.primary()), "3", "the server has committed it");

    standby.resume();
    world.up();
    assert_eq!(world.rows(INSERT, &[Parameter::Int8(4)])[0].int8(0), Ok(4));
}

#[test]
fn silent_server_is_left_after_the_time_of_the_answer() {
    let cluster = synchronous();
    let mut world = World::of(&[cluster.primary()], |config| config.answer_timeout = 1);
    world.up();
    cluster.primary().stall();
    let asked = world.ask(INSERT, &[Parameter::Int8(1)]);
    assert!(matches!(world.outcome(asked), Outcome::Lost));
    assert!(world.down().ends_with(": no answer within 1 s"));
    cluster.primary().resume();
    world.up();
    world.rows(INSERT, &[Parameter::Int8(2)]);
}
