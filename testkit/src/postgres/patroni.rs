//! Three PostgreSQL servers under Patroni with etcd, all of Debian, on free ports of 127.0.0.1 and in a temporary folder.

use super::{PROGRAMS, as_user, connect, free_port, give, parent_of, rows, send};
use crate::eventually;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Longest time until three members have started.
const STARTED: Duration = Duration::from_secs(120);

/// Password of the superuser and of replication.
const PASSWORD: &str = "patroni";

/// etcd and three members. Dropping it ends all processes.
pub struct Patroni {
    etcd: Child,
    members: Vec<Member>,
    // Removed after the processes have ended.
    folder: tempfile::TempDir,
}

/// Patroni and the server that it runs.
struct Member {
    name: String,
    /// Patroni itself; `None` once killed.
    patroni: Option<Child>,
    port: u16,
    data: PathBuf,
}

impl Patroni {
    /// Starts etcd and three members, and waits until one leads and a synchronous standby follows it.
    pub fn start() -> Patroni {
        let folder = tempfile::Builder::new().prefix("imcharge-patroni-").tempdir().expect("a temporary folder");
        give(folder.path());
        let clients = free_port();
        let etcd = start_etcd(folder.path(), clients);
        let members = (1..=3).map(|number| Member::start(folder.path(), &format!("db{number}"), clients)).collect();
        let started = Patroni { etcd, members, folder };
        assert!(eventually(STARTED, || started.is_complete()), "Patroni has not started:\n{}", started.log());
        started
    }

    /// Whether one member leads and the others follow, one of them synchronously.
    pub fn is_complete(&self) -> bool {
        let standbys = "SELECT count(*), count(*) FILTER (WHERE sync_state = 'sync') FROM pg_stat_replication";
        self.sql("postgres", standbys).is_ok_and(|rows| rows == [["2", "1"]])
    }

    /// Returns the ports of all members.
    pub fn ports(&self) -> Vec<u16> {
        self.members.iter().map(|member| member.port).collect()
    }

    /// Executes statements on the leader as superuser. Returns the rows as text, NULL as `NULL`.
    pub fn sql(&self, database: &str, text: &str) -> Result<Vec<Vec<String>>, String> {
        self.leader().ok_or("there is no leader")?.sql(database, text)
    }

    /// Runs a file of statements on the leader as superuser.
    pub fn run_file(&self, database: &str, file: &Path) {
        let port = self.leader().expect("a leader").port.to_string();
        let mut psql = Command::new(format!("{PROGRAMS}/psql"));
        psql.args(["-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", &port, "-U", "postgres", "-f"]);
        let run = psql.arg(file).arg(database).env("PGPASSWORD", PASSWORD).output().expect("psql can be started");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    }

    /// Kills the leader, Patroni and the server with all its processes, as the loss of its machine does.
    pub fn kill_leader(&mut self) {
        self.members.iter_mut().find(|member| member.leads()).expect("a leader").kill();
    }

    /// Returns the logs of all members.
    pub fn log(&self) -> String {
        let read = |member: &Member| fs::read_to_string(self.folder.path().join(&member.name).join("log"));
        self.members.iter().map(|member| read(member).unwrap_or_default()).collect()
    }

    fn leader(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.leads())
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        self.members.iter_mut().for_each(Member::kill);
        let _ = self.etcd.kill();
        let _ = self.etcd.wait();
    }
}

impl Member {
    fn start(parent: &Path, name: &str, etcd: u16) -> Member {
        let folder = parent.join(name);
        fs::create_dir(&folder).expect("a folder");
        give(&folder);
        let (port, data, config) = (free_port(), folder.join("data"), folder.join("patroni.yml"));
        fs::write(&config, configuration(name, &folder, [port, free_port(), etcd])).expect("a configuration");
        let mut command = in_background("patroni", &folder);
        let patroni = Some(command.arg(&config).spawn().expect("setpriv can be started"));
        Member { name: name.to_owned(), patroni, port, data }
    }

    fn leads(&self) -> bool {
        let is_primary = "SELECT NOT pg_is_in_recovery()";
        self.patroni.is_some() && self.sql("postgres", is_primary).is_ok_and(|rows| rows == [["t"]])
    }

    fn sql(&self, database: &str, text: &str) -> Result<Vec<Vec<String>>, String> {
        let client = connect(self.port, database, "postgres", PASSWORD);
        client.and_then(|mut client| rows(&mut client, text)).map_err(|error| error.to_string())
    }

    /// Kills Patroni first, which would start the server again.
    fn kill(&mut self) {
        let Some(mut patroni) = self.patroni.take() else { return };
        let _ = patroni.kill();
        let _ = patroni.wait();
        let file = fs::read_to_string(self.data.join("postmaster.pid")).unwrap_or_default();
        let Some(postmaster) = file.lines().next().and_then(|line| line.parse::<u32>().ok()) else { return };
        send("STOP", &[postmaster]);
        let processes = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut all: Vec<u32> = ids.filter(|id| parent_of(*id) == Some(postmaster)).collect();
        all.push(postmaster);
        send("KILL", &all);
        assert!(eventually(STARTED, || super::is_zombie(postmaster)), "process {postmaster} does not end");
    }
}

fn configuration(name: &str, folder: &Path, [port, rest, etcd]: [u16; 3]) -> String {
    let folder = folder.display();
    format!(
        "scope: imcharge
name: {name}
restapi: {{listen: '127.0.0.1:{rest}', connect_address: '127.0.0.1:{rest}'}}
etcd3: {{host: '127.0.0.1:{etcd}'}}
bootstrap:
  dcs:
    ttl: 30
    loop_wait: 10
    retry_timeout: 10
    synchronous_mode: true
    synchronous_mode_strict: true
    postgresql:
      parameters: {{max_connections: 50, shared_buffers: 32MB}}
  initdb: [{{encoding: UTF8}}, {{locale: C.UTF-8}}]
postgresql:
  listen: '127.0.0.1:{port}'
  connect_address: '127.0.0.1:{port}'
  data_dir: '{folder}/data'
  bin_dir: {PROGRAMS}
  pgpass: '{folder}/pgpass'
  authentication:
    superuser: {{username: postgres, password: {PASSWORD}}}
    replication: {{username: replicator, password: {PASSWORD}}}
  parameters: {{unix_socket_directories: '{folder}', password_encryption: scram-sha-256}}
  pg_hba:
    - local all all trust
    - host all all 127.0.0.1/32 scram-sha-256
    - host replication replicator 127.0.0.1/32 scram-sha-256
"
    )
}

fn start_etcd(folder: &Path, port: u16) -> Child {
    let (clients, peers) = (format!("http://127.0.0.1:{port}"), format!("http://127.0.0.1:{}", free_port()));
    let mut command = in_background("etcd", folder);
    command.args(["--name", "etcd1", "--data-dir"]).arg(folder.join("etcd"));
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.arg("--initial-cluster").arg(format!("etcd1={peers}")).spawn().expect("setpriv can be started")
}

/// A program of the servers' user that ends with the thread that starts it, and logs into this folder.
fn in_background(program: &str, folder: &Path) -> Command {
    let log = fs::File::create(folder.join("log")).expect("a log");
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("a folder of ours");
    let mut command = as_user("setpriv");
    command.args(["--pdeathsig", "TERM", "--", program]).env("PATH", "/usr/bin:/bin").stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a descriptor")).stderr(log);
    command
}
