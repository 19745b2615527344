//! PostgreSQL servers of Debian for tests: a primary and standbys in a temporary folder, on free ports of 127.0.0.1.
//!
//! A server does not run as root: if the tests do, it runs as the user `postgres`. It ends with the process that started
//! it, also if that is killed. No server that was there before is touched.

pub mod patroni;
mod wire;

pub use wire::Wire;

use crate::{eventually, repository};
use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

/// Programs of the package postgresql-15.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// Names of the servers, as standbys report them.
const NAMES: [&str; 3] = ["a", "b", "c"];

/// Password of the role `imcharge`.
pub const PASSWORD: &str = "secret of the tests";

/// The database that the schema is loaded into.
pub const DATABASE: &str = "imcharge";

/// Within which a server starts, stops or is promoted.
const WITHIN: Duration = Duration::from_secs(60);

/// How many free ports are tried.
const PORTS_TRIED: usize = 5;

/// How a cluster is set up.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Number of standbys, at most two.
    pub standbys: usize,
    /// Whether a commit waits for one of the standbys.
    pub synchronous: bool,
    /// Whether the servers wait for the disk. Needed only if the operating system may crash.
    pub fsync: bool,
    /// Certificate and key (PEM) of the servers; `None`: without TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Further settings of all servers, such as `shared_buffers=1GB`.
    pub settings: Vec<String>,
}

impl Default for Setup {
    fn default() -> Setup {
        Setup { standbys: 0, synchronous: true, fsync: false, tls: None, settings: Vec::new() }
    }
}

/// A primary and its standbys, with the schema of imcharge in [`DATABASE`].
pub struct Cluster {
    servers: Vec<Server>,
    primary: usize,
    setup: Setup,
    // Removed after the servers have ended.
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Starts the servers and loads the schema.
    pub fn new(setup: Setup) -> Cluster {
        let folder = tempfile::Builder::new().prefix("imcharge-postgres-").tempdir().expect("a temporary folder");
        give(folder.path());
        let data = folder.path().join(NAMES[0]);
        run(as_server("initdb").args(["-D", text(&data), "-N", "-U", "postgres", "-E", "UTF8", "--locale=C"]));
        let mut rules = "host all,replication postgres 127.0.0.1/32 trust\n".to_owned();
        let kind = if setup.tls.is_some() { "hostssl" } else { "host" };
        rules.push_str(&format!("{kind} all all 127.0.0.1/32 scram-sha-256\n"));
        fs::write(data.join("pg_hba.conf"), rules).expect("the folder is writable");
        if let Some((certificate, key)) = &setup.tls {
            for (from, to) in [(certificate, "server.crt"), (key, "server.key")] {
                let to = data.join(to);
                fs::copy(from, &to).expect("the certificate can be copied");
                fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("a file of ours");
                give(&to);
            }
        }
        append_settings(&data, &settings(&setup));
        append_settings(&data, &setup.settings);
        let mut cluster =
            Cluster { servers: vec![Server::start(data, NAMES[0])], primary: 0, setup: setup.clone(), folder };
        cluster.primary().execute("postgres", "CREATE DATABASE imcharge");
        cluster.primary().load_schema(DATABASE);
        cluster.primary().execute(DATABASE, &format!("ALTER ROLE imcharge PASSWORD '{PASSWORD}'"));
        for name in &NAMES[1..=setup.standbys] {
            cluster.add_standby(name);
        }
        if setup.synchronous && setup.standbys > 0 {
            cluster.make_synchronous();
        }
        cluster
    }

    /// Starts one server without standbys.
    pub fn single() -> Cluster {
        Cluster::new(Setup::default())
    }

    /// Makes commits wait for one of the standbys, on each server that is or becomes the primary.
    fn make_synchronous(&self) {
        for server in &self.servers {
            server.append_settings(&["synchronous_standby_names=ANY 1 (a, b, c)".to_owned()]);
            server.execute("postgres", "SELECT pg_reload_conf()");
        }
        self.primary().wait_for_standby();
    }

    /// Returns the primary.
    pub fn primary(&self) -> &Server {
        &self.servers[self.primary]
    }

    /// Returns the primary, to stop and to start it.
    pub fn primary_mut(&mut self) -> &mut Server {
        &mut self.servers[self.primary]
    }

    /// Returns all servers; their order does not change.
    pub fn servers(&self) -> &[Server] {
        &self.servers
    }

    /// Returns the running standbys.
    pub fn standbys(&self) -> impl Iterator<Item = &Server> {
        let primary = self.primary;
        self.servers
            .iter()
            .enumerate()
            .filter(move |(at, server)| *at != primary && server.is_running())
            .map(|(_, s)| s)
    }

    /// Kills all processes of the primary, as if its machine lost power.
    pub fn kill_primary(&mut self) {
        self.servers[self.primary].kill();
    }

    /// Promotes the standby that has received most, and makes the other one follow it. The primary must be dead.
    pub fn promote(&mut self) {
        assert!(!self.primary().is_running(), "the primary is running");
        let received = |server: &Server| {
            let sql = "SELECT coalesce(pg_last_wal_receive_lsn() - '0/0', 0)";
            server.value("postgres", sql).parse::<u64>().expect("a position")
        };
        let running = (0..self.servers.len()).filter(|at| self.servers[*at].is_running());
        let next = running.max_by_key(|at| received(&self.servers[*at])).expect("a standby is running");
        self.promote_server(next);
    }

    /// Promotes this server, and makes the other standbys follow it.
    pub fn promote_server(&mut self, next: usize) {
        self.primary = next;
        let promoted = self.primary();
        promoted.execute("postgres", "SELECT pg_promote(true, 60)");
        let conninfo = promoted.conninfo();
        for standby in self.standbys() {
            standby.execute("postgres", &format!("ALTER SYSTEM SET primary_conninfo = '{conninfo}'"));
            standby.execute("postgres", "SELECT pg_reload_conf()");
        }
    }

    /// Starts a dead server again at its port, as a standby of the primary with a new copy of its data.
    pub fn rebuild(&mut self, at: usize) {
        let old = &mut self.servers[at];
        assert!(!old.is_running(), "the server is running");
        let (name, port) = (old.name, old.port);
        fs::remove_dir_all(&old.data).expect("the folder is writable");
        let data = self.copy_of_primary(name);
        let postmaster = Postmaster::start(&data, name, port);
        assert!(postmaster.is_some(), "server {name} did not start:\n{}", last_lines(&data));
        self.servers[at] = Server { name, port, data, postmaster };
    }

    fn add_standby(&mut self, name: &'static str) {
        let standby = Server::start(self.copy_of_primary(name), name);
        self.servers.push(standby);
    }

    /// Copies the data of the primary for a standby of it.
    fn copy_of_primary(&self, name: &str) -> PathBuf {
        let data = self.folder.path().join(name);
        let port = self.primary().port.to_string();
        // -R makes it a standby of the server that the copy is taken from.
        let source = ["-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-w"];
        run(as_server("pg_basebackup").args(["-D", text(&data), "-R", "-N", "-c", "fast"]).args(source));
        data
    }

    /// Returns the setup.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }
}

/// Settings of all servers, as `name=value`.
fn settings(setup: &Setup) -> Vec<String> {
    let switch = |on: bool| if on { "on" } else { "off" };
    vec![
        "listen_addresses=127.0.0.1".to_owned(),
        "unix_socket_directories=".to_owned(),
        format!("fsync={}", switch(setup.fsync)),
        format!("ssl={}", switch(setup.tls.is_some())),
        "wal_keep_size=1GB".to_owned(),
        "max_wal_size=4GB".to_owned(),
        "max_connections=60".to_owned(),
        "wal_retrieve_retry_interval=100ms".to_owned(),
    ]
}

/// Appends settings, as `name=value`, to the configuration of a server.
fn append_settings(data: &Path, settings: &[String]) {
    let lines = settings.iter().map(|setting| {
        let (name, value) = setting.split_once('=').expect("name=value");
        format!("{name} = '{}'\n", value.replace('\'', "''"))
    });
    let mut file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).expect("initdb wrote it");
    file.write_all(lines.collect::<String>().as_bytes()).expect("the folder is writable");
}

/// One PostgreSQL server. Dropping it ends its processes.
pub struct Server {
    name: &'static str,
    port: u16,
    data: PathBuf,
    /// The postmaster; `None`: killed or stopped.
    postmaster: Option<Postmaster>,
}

/// The parent of all processes of a server.
struct Postmaster {
    /// A shell that stops the server when its input ends, as it does with the process of the tests.
    shell: Child,
    /// Process id of the postmaster.
    id: u32,
}

impl Server {
    fn start(data: PathBuf, name: &'static str) -> Server {
        for _ in 0..PORTS_TRIED {
            let port = free_port();
            if let Some(postmaster) = Postmaster::start(&data, name, port) {
                return Server { name, port, data, postmaster: Some(postmaster) };
            }
        }
        panic!("no server started; its last lines:\n{}", last_lines(&data));
    }

    /// Returns its name: that of a synchronous standby.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Returns its TCP port at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it was neither stopped nor killed.
    pub fn is_running(&self) -> bool {
        self.postmaster.is_some()
    }

    /// Connects as the superuser.
    pub fn superuser(&self, database: &str) -> postgres::Client {
        self.connect(database, "postgres", "")
    }

    /// Connects as the role of the proxies.
    pub fn client(&self, database: &str) -> postgres::Client {
        self.connect(database, "imcharge", PASSWORD)
    }

    fn connect(&self, database: &str, user: &str, password: &str) -> postgres::Client {
        let connected = connect(self.port, database, user, password);
        connected.unwrap_or_else(|error| panic!("server {}: {error}", self.name))
    }

    /// Returns how to connect as the role of the proxies.
    pub fn client_config(&self, database: &str) -> postgres::Config {
        config(self.port, database, "imcharge", PASSWORD)
    }

    /// Executes statements as the superuser and returns the rows of all of them, NULL as `NULL`.
    pub fn query(&self, database: &str, sql: &str) -> Vec<Vec<String>> {
        let rows = rows(&mut self.superuser(database), sql);
        rows.unwrap_or_else(|error| panic!("server {}: {sql}: {error}", self.name))
    }

    /// Executes statements as the superuser.
    pub fn execute(&self, database: &str, sql: &str) {
        self.query(database, sql);
    }

    /// Returns the first column of the first row of a query.
    pub fn value(&self, database: &str, sql: &str) -> String {
        let row = self.query(database, sql).into_iter().next();
        row.and_then(|row| row.into_iter().next()).unwrap_or_else(|| panic!("{sql}: no row"))
    }

    /// Loads the schema of imcharge with psql, as an operator does.
    pub fn load_schema(&self, database: &str) {
        let output = self.psql(database, &schema_file());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Runs a file with psql as the superuser, in one transaction.
    pub fn psql(&self, database: &str, file: &Path) -> Output {
        let port = self.port.to_string();
        let mut psql = Command::new(format!("{PROGRAMS}/psql"));
        psql.args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-f"]);
        psql.arg(file).arg(database).output().expect("psql can be started")
    }

    /// Returns the `primary_conninfo` of a standby of this server.
    fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres", self.port)
    }

    fn append_settings(&self, settings: &[String]) {
        append_settings(&self.data, settings);
    }

    /// Waits until a synchronous standby follows.
    pub fn wait_for_standby(&self) {
        let sql =
            "SELECT count(*) FROM pg_stat_replication WHERE state='streaming' AND sync_state IN ('sync','quorum')";
        let is_streaming = || self.value("postgres", sql) != "0";
        assert!(eventually(WITHIN, is_streaming), "server {}: no standby follows", self.name);
    }

    /// Kills all its processes, as if its machine lost power.
    pub fn kill(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.kill();
        }
    }

    /// Stops it in an orderly way, without waiting for its clients.
    pub fn stop(&mut self) {
        if let Some(mut postmaster) = self.postmaster.take() {
            postmaster.stop();
        }
    }

    /// Starts it again after a stop or kill, at the same port.
    pub fn restart(&mut self) {
        assert!(!self.is_running(), "the server is running");
        self.postmaster = Postmaster::start(&self.data, self.name, self.port);
        assert!(self.is_running(), "server {} did not start:\n{}", self.name, last_lines(&self.data));
    }

    /// Stalls all its processes: connections stay open and nothing is answered.
    pub fn stall(&self) {
        self.signal("STOP");
    }

    /// Ends a stall.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// Stalls the processes that send to standbys, until the server is killed: nothing that it writes from now on arrives.
    pub fn stall_senders(&self) {
        let senders = self.query("postgres", "SELECT pid FROM pg_stat_replication");
        assert!(!senders.is_empty(), "server {}: no standby follows", self.name);
        let ids: Vec<u32> = senders.iter().map(|row| row[0].parse().expect("a process id")).collect();
        send("STOP", &ids);
    }

    fn signal(&self, signal: &str) {
        let postmaster = self.postmaster.as_ref().expect("the server is running");
        postmaster.signal(signal);
    }
}

/// Connects to the server at this port of 127.0.0.1.
fn connect(port: u16, database: &str, user: &str, password: &str) -> Result<postgres::Client, postgres::Error> {
    config(port, database, user, password).connect(postgres::NoTls)
}

fn config(port: u16, database: &str, user: &str, password: &str) -> postgres::Config {
    let mut config = postgres::Config::new();
    config.host("127.0.0.1").port(port).user(user).password(password).dbname(database);
    config.connect_timeout(WITHIN);
    config
}

/// Executes statements and returns the rows of all of them, NULL as `NULL`.
fn rows(client: &mut postgres::Client, sql: &str) -> Result<Vec<Vec<String>>, postgres::Error> {
    let rows = client.simple_query(sql)?.into_iter().filter_map(|message| match message {
        postgres::SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.map(|row| (0..row.len()).map(|at| row.get(at).unwrap_or("NULL").to_owned()).collect()).collect())
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Postmaster {
    /// Starts a server; `None`: it ended before it accepted connections.
    fn start(data: &Path, name: &str, port: u16) -> Option<Postmaster> {
        // The input of the shell is a pipe from this process. When the pipe ends, the shell stops the server at once.
        let script = "postgres=$1; shift; \"$postgres\" \"$@\" </dev/null >>\"$2.log\" 2>&1 & \
                      echo $! >\"$2.id\"; read -r line; kill -s QUIT $! 2>/dev/null; wait $!";
        let postgres = format!("{PROGRAMS}/postgres");
        let (name, port) = (format!("cluster_name={name}"), port.to_string());
        let id_file = PathBuf::from(format!("{}.id", data.display()));
        let _ = fs::remove_file(&id_file);
        let mut command = as_user("sh");
        command.args(["-c", script, "sh", &postgres, "-D", text(data), "-c", &name, "-p", &port]);
        let mut shell = command.stdin(Stdio::piped()).spawn().expect("a shell can be started");
        let mut id = None;
        let is_started = || {
            id = fs::read_to_string(&id_file).ok().and_then(|text| text.trim().parse::<u32>().ok());
            id.is_some()
        };
        assert!(eventually(WITHIN, is_started), "the shell of a server did not start it");
        let id = id.expect("just read");
        let mut is_ready = false;
        let is_decided = || {
            let status = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let state = status.lines().nth(7).unwrap_or_default().trim();
            is_ready = matches!(state, "ready" | "standby") && status.lines().next() == Some(&id.to_string());
            is_ready || !Path::new(&format!("/proc/{id}/stat")).exists() || is_zombie(id)
        };
        assert!(eventually(WITHIN, is_decided), "a server did not start:\n{}", last_lines(data));
        if !is_ready {
            drop(shell.stdin.take());
            shell.wait().expect("a child of ours");
            return None;
        }
        Some(Postmaster { shell, id })
    }

    /// The postmaster and all its children.
    fn processes(&self) -> Vec<u32> {
        let mut processes = vec![self.id];
        for entry in fs::read_dir("/proc").expect("/proc is mounted").flatten() {
            let id = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            processes.extend(id.filter(|id| parent_of(*id) == Some(self.id)));
        }
        processes
    }

    fn signal(&self, signal: &str) {
        // The postmaster first: it starts no more processes then.
        send(signal, &[self.id]);
        send(signal, &self.processes());
    }

    fn kill(&mut self) {
        send("STOP", &[self.id]);
        send("KILL", &self.processes());
        self.wait();
    }

    fn stop(&mut self) {
        send("INT", &[self.id]);
        self.wait();
    }

    /// Waits until the postmaster and the shell have ended.
    fn wait(&mut self) {
        let is_gone = || !Path::new(&format!("/proc/{}/stat", self.id)).exists() || is_zombie(self.id);
        assert!(eventually(WITHIN, is_gone), "process {} does not end", self.id);
        drop(self.shell.stdin.take());
        self.shell.wait().expect("a child of ours");
    }
}

/// Sends a signal to processes. Those that have ended are left out.
fn send(signal: &str, processes: &[u32]) {
    let script = "signal=$1; shift; for id in \"$@\"; do kill -s \"$signal\" \"$id\"; done";
    let ids = processes.iter().map(u32::to_string);
    let mut shell = Command::new("sh");
    let _ = shell.args(["-c", script, "sh", signal]).args(ids).stderr(Stdio::null()).status();
}

/// Fields of /proc/PID/stat after the command name: state, parent, ...
fn stat_of(id: u32) -> Option<(String, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.to_owned(), fields.next()?.parse().ok()?))
}

fn parent_of(id: u32) -> Option<u32> {
    stat_of(id).map(|(_, parent)| parent)
}

fn is_zombie(id: u32) -> bool {
    stat_of(id).is_none_or(|(state, _)| state == "Z")
}

/// Returns the file of the schema.
pub fn schema_file() -> PathBuf {
    repository().join("kamailio-config/postgres/imcharge.sql")
}

/// Returns a port that is free at this moment.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound socket").port()
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn last_lines(data: &Path) -> String {
    let log = fs::read_to_string(format!("{}.log", data.display())).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Whether this process is root, which PostgreSQL refuses.
fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Gives a file to the user of the servers.
fn give(path: &Path) {
    if is_root() {
        let passwd = fs::read_to_string("/etc/passwd").expect("/etc/passwd is readable");
        let user = passwd.lines().find_map(|line| line.strip_prefix("postgres:")).expect("the user postgres exists");
        let mut ids = user.split(':').skip(1).map(|id| id.parse::<u32>().expect("a number"));
        chown(path, ids.next(), ids.next()).expect("root may");
    }
}

/// A command of the user of the servers.
fn as_user(program: &str) -> Command {
    let mut command = match is_root() {
        true => {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--", program]);
            setpriv
        }
        false => Command::new(program),
    };
    command.current_dir("/");
    command
}

/// A program of PostgreSQL, run as the user of the servers.
fn as_server(program: &str) -> Command {
    let path = format!("{PROGRAMS}/{program}");
    assert!(Path::new(&path).exists(), "{path} is missing: install the package postgresql-15");
    as_user(&path)
}

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().expect("a program that exists");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
