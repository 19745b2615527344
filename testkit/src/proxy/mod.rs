//! A proxy with the module as a child process, on free ports and in its own folder: the stock Kamailio, or OpenSIPS.
//! Dropping it ends the process.

pub mod kamailio;
pub mod opensips;
mod processes;

use crate::{eventually, send_signal};
use rusqlite::{Connection, OpenFlags};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

/// Kind of proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Host {
    /// The stock Kamailio.
    #[default]
    Kamailio,
    /// The OpenSIPS of OPENSIPS_SRC and OPENSIPS_BIN.
    OpenSips,
}

/// Arguments of Kamailio for measurements: the allocator that merges freed memory, and 4 GB of it.
pub const LARGE_MEMORY: [&str; 6] = ["-x", "fm", "-X", "fm", "-m", "4096"];

/// How to start a proxy.
#[derive(Clone)]
pub struct Setup {
    pub host: Host,
    /// Folder with `imcharge.so`.
    pub module: PathBuf,
    /// Configuration file; takes the definitions of the shipped `kamailio.cfg`.
    pub config: PathBuf,
    /// Replacements in the text of the configuration, as (from, to). Starting fails if `from` is not found.
    pub changes: Vec<(String, String)>,
    /// Further `-A` definitions.
    pub defines: Vec<(&'static str, String)>,
    /// SIP address of the IM server.
    pub server: SocketAddr,
    /// Further arguments.
    pub arguments: Vec<&'static str>,
    /// A program to run the proxy under, with its arguments, for example valgrind; empty for none.
    pub under: Vec<String>,
}

impl Setup {
    /// Returns the setup of Kamailio with its shipped configuration.
    pub fn new(module: &Path, server: SocketAddr) -> Setup {
        Setup {
            host: Host::Kamailio,
            module: module.to_owned(),
            config: kamailio::config(),
            changes: Vec::new(),
            defines: Vec::new(),
            server,
            arguments: Vec::new(),
            under: Vec::new(),
        }
    }

    /// Returns the setup of OpenSIPS with its shipped configuration.
    pub fn for_opensips(module: &Path, server: SocketAddr) -> Setup {
        Setup { host: Host::OpenSips, config: opensips::config(), ..Setup::new(module, server) }
    }

    /// Adds a replacement in the text of the configuration.
    pub fn changed(mut self, from: &str, to: &str) -> Setup {
        self.changes.push((from.into(), to.into()));
        self
    }

    /// Sets a definition.
    pub fn defined(mut self, name: &'static str, value: impl Into<String>) -> Setup {
        self.defines.retain(|(known, _)| *known != name);
        self.defines.push((name, value.into()));
        self
    }

    /// Adds a parameter of the module.
    pub fn parameter(self, name: &str, value: &str) -> Setup {
        let line = match self.host {
            Host::Kamailio => kamailio::STATE_DIR,
            Host::OpenSips => opensips::STATE_DIR,
        };
        self.changed(line, &format!("{line}\nmodparam(\"imcharge\", \"{name}\", {value})"))
    }

    /// Uses the shared ledger as this node, with database servers at these ports of 127.0.0.1, in their order.
    pub fn sharing(self, node: &str, ports: &[u16], password_file: &Path) -> Setup {
        let setup = self
            .changed("\"enabler\", \"ledger\"", "\"enabler\", \"postgres\"")
            .parameter("node", &format!("\"{node}\""));
        // Each parameter is inserted before those that were added earlier.
        ports.iter().rev().fold(setup, |setup, port| {
            let file = password_file.display();
            setup.parameter("postgres", &format!("\"host=127.0.0.1;port={port};password_file={file};tls=off\""))
        })
    }
}

/// A running proxy.
pub struct Proxy {
    child: Child,
    setup: Setup,
    folder: tempfile::TempDir,
    /// SIP address (UDP).
    pub sip: SocketAddr,
    /// MSRP address (TCP).
    pub msrp: SocketAddr,
}

/// An account in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// Available units.
    pub balance: i64,
    /// Reserved units.
    pub held: i64,
    /// Used units.
    pub debited: i64,
}

/// A row of the table `debits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debit {
    pub message_id: String,
    pub octets: i64,
    /// Price.
    pub units: i64,
    /// Event that triggered the debit.
    pub trigger: String,
    /// MSRP status.
    pub code: i64,
}

impl Proxy {
    /// Starts a proxy and waits until it serves. The error contains its log.
    pub fn start(setup: Setup) -> io::Result<Proxy> {
        match Proxy::try_start(setup.clone()) {
            // Another process took a port after we had found it free.
            Err(error) if error.to_string().contains("Address already in use") => Proxy::try_start(setup),
            started => started,
        }
    }

    fn try_start(setup: Setup) -> io::Result<Proxy> {
        let folder = tempfile::tempdir()?;
        fs::create_dir(folder.path().join("state"))?;
        fs::create_dir(folder.path().join("run"))?;
        let sip = UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        let msrp = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let child = spawn(&setup, folder.path(), sip, msrp)?;
        let mut started = Proxy { child, setup, folder, sip, msrp };
        started.wait_until_it_serves()?;
        Ok(started)
    }

    fn wait_until_it_serves(&mut self) -> io::Result<()> {
        let mut dead = None;
        let serves = eventually(Duration::from_secs(if self.setup.under.is_empty() { 20 } else { 120 }), || {
            dead = self.child.try_wait().ok().flatten();
            // OpenSIPS opens its TCP port last.
            let listens = || self.setup.host != Host::OpenSips || TcpStream::connect(self.msrp).is_ok();
            dead.is_some() || (self.rpc(&["core.version"]).is_ok() && listens())
        });
        match (serves, dead) {
            (true, None) => Ok(()),
            _ => Err(io::Error::other(format!("the proxy has not started:\n{}", self.log()))),
        }
    }

    /// Starts the proxy again in the same folder, after it has ended.
    pub fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(&self.setup, self.folder.path(), self.sip, self.msrp)?;
        self.wait_until_it_serves()
    }

    /// Returns the log.
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("log")).map_or(String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// Runs an RPC or MI command. Returns its output, or its error text.
    pub fn rpc(&self, command: &[&str]) -> Result<String, String> {
        match self.setup.host {
            Host::Kamailio => self.kamcmd(&command.iter().map(|word| kamailio::kamcmd_text(word)).collect::<Vec<_>>()),
            Host::OpenSips => opensips::rpc(self.folder.path(), command),
        }
    }

    /// Runs kamcmd with these words, unquoted. Returns its output, or its error text.
    pub fn kamcmd<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<String, String> {
        kamailio::kamcmd(self.folder.path(), words)
    }

    /// Returns a statistic of the group imcharge, -1 if it cannot be read.
    pub fn statistic(&self, name: &str) -> i64 {
        let all = self.rpc(&["imcharge.stats"]).unwrap_or_default();
        let number = match self.setup.host {
            Host::Kamailio => kamailio::number(&all, name),
            Host::OpenSips => opensips::number(&all, name),
        };
        number.unwrap_or(-1)
    }

    /// Sets the balance of an account.
    pub fn set_account(&self, id: &str, balance: i64) {
        let mut refusal = String::new();
        // The command waits 1 s for the engine, which can be too short on a machine that runs many tests.
        let set = eventually(Duration::from_secs(10), || {
            self.rpc(&["imcharge.account.set", id, &balance.to_string()]).map_err(|error| refusal = error).is_ok()
        });
        assert!(set, "account {id} cannot be set: {refusal}\n{}", self.log());
    }

    /// Opens the ledger for reading.
    pub fn ledger(&self) -> Connection {
        // Commands that read make the engine bring the tables up to date. Fails while no engine runs.
        let _ = self.rpc(&["imcharge.outbox"]);
        let path = self.folder.path().join("state/ledger.sqlite");
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the ledger can be opened")
    }

    /// Returns the folder with configuration, log and sockets.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the module's `state_dir`.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Returns an account of the ledger.
    pub fn account(&self, id: &str) -> Option<Account> {
        let sql = "SELECT balance, held, debited FROM accounts WHERE id=?1";
        let row =
            |row: &rusqlite::Row<'_>| Ok(Account { balance: row.get(0)?, held: row.get(1)?, debited: row.get(2)? });
        self.ledger().query_row(sql, [id], row).ok()
    }

    /// Waits up to 15 s for an account to reach this state. Returns its last state.
    pub fn account_becomes(&self, id: &str, balance: i64, held: i64, debited: i64) -> Option<Account> {
        let wanted = Some(Account { balance, held, debited });
        let mut found = None;
        eventually(Duration::from_secs(15), || {
            found = self.account(id);
            found == wanted
        });
        found
    }

    /// Returns the debits of an account, oldest first.
    pub fn debits(&self, id: &str) -> Vec<Debit> {
        let ledger = self.ledger();
        let sql = "SELECT message_id, octets, units, trigger, code FROM debits WHERE account=?1 ORDER BY id";
        let mut statement = ledger.prepare(sql).expect("the ledger has the table debits");
        let rows = statement.query_map([id], |row| {
            let (message_id, octets, units, trigger, code) = row.try_into()?;
            Ok(Debit { message_id, octets, units, trigger, code })
        });
        rows.expect("the table debits can be read").flatten().collect()
    }

    /// Returns the single number that a query of the ledger yields.
    pub fn count(&self, sql: &str) -> i64 {
        self.ledger().query_row(sql, [], |row| row.get(0)).expect("the query yields a number")
    }

    /// Returns the pid of the main process, which is also the process group.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns the pid of the engine.
    pub fn engine_pid(&self) -> Option<u32> {
        let engine = self.processes().into_iter().find(|path| processes::is_named(path, "imcharge engine"))?;
        processes::pid(&engine)
    }

    /// Returns the pids of all processes of the proxy.
    pub fn pids(&self) -> Vec<u32> {
        self.processes().iter().filter_map(|process| processes::pid(process)).collect()
    }

    /// Returns the /proc folders of all processes of the proxy.
    pub fn processes(&self) -> Vec<PathBuf> {
        processes::of_group(self.pid())
    }

    /// Returns the CPU time of all processes, in nanoseconds.
    pub fn cpu_nanos(&self) -> u64 {
        self.processes().iter().filter_map(|process| processes::cpu_nanos(process)).sum()
    }

    /// Returns the private memory of all processes, in octets.
    pub fn private_octets(&self) -> i64 {
        self.processes().iter().filter_map(|process| processes::private_octets(process)).sum()
    }

    /// Returns the octets in use of Kamailio's shared memory.
    pub fn shared_octets(&self) -> Option<i64> {
        kamailio::number(&self.rpc(&["core.shmmem"]).ok()?, "real_used")
    }

    /// Sends a signal to one process, or to all processes of the proxy.
    pub fn signal(&self, signal: &str, pid: Option<u32>) {
        send_signal(signal, pid.map_or(-i64::from(self.child.id()), i64::from));
    }

    /// Sends SIGTERM and waits up to 10 s. Returns the exit status and the time it took.
    pub fn terminate(&mut self) -> (Option<ExitStatus>, Duration) {
        let started = Instant::now();
        self.signal("TERM", Some(self.child.id()));
        let mut ended = None;
        eventually(Duration::from_secs(10), || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        });
        (ended, started.elapsed())
    }

    /// Sends SIGKILL to all processes and waits until the main process and the engine are gone.
    pub fn kill_all(&mut self) {
        self.signal("KILL", None);
        let _ = self.child.wait();
        eventually(Duration::from_secs(5), || self.engine_pid().is_none());
    }

    /// As [`kill_all`](Self::kill_all), and removes what the processes have written to shared memory, as a power failure
    /// does. The state directory stays.
    pub fn lose_power(&mut self) {
        let regions = processes::mapped(self.pid(), "/dev/shm/imcharge-");
        self.kill_all();
        for region in regions {
            fs::remove_file(&region).unwrap_or_else(|error| panic!("{}: {error}", region.display()));
        }
    }

    /// As [`lose_power`](Self::lose_power), and empties the state directory.
    pub fn lose_machine(&mut self) {
        self.lose_power();
        let state = self.state_dir();
        fs::remove_dir_all(&state).and_then(|()| fs::create_dir(&state)).expect("an empty state directory");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() && self.terminate().0.is_none() {
            self.kill_all();
        }
    }
}

/// Replacements that make the shipped configurations reserve credit for ten messages, the default of the tests.
const TEN_MESSAGES: [(&str, &str); 2] = [
    ("imcharge_reserve(\"CHARGED\")", "imcharge_reserve(\"CHARGED\", \"10\")"),
    ("async(imcharge_reserve(), CHARGED)", "async(imcharge_reserve(10), CHARGED)"),
];

/// Writes the configuration and starts the program in a new process group, so that one signal reaches all its processes.
fn spawn(setup: &Setup, folder: &Path, sip: SocketAddr, msrp: SocketAddr) -> io::Result<Child> {
    let mut text = fs::read_to_string(&setup.config)?;
    for (shipped, ten) in TEN_MESSAGES {
        text = text.replace(shipped, ten);
    }
    let settings = match setup.host {
        Host::Kamailio => Vec::new(),
        Host::OpenSips => opensips::settings(setup, folder, sip, msrp),
    };
    for (from, to) in setup.changes.iter().chain(&settings) {
        if !text.contains(from.as_str()) {
            return Err(io::Error::other(format!("{} does not contain '{from}'", setup.config.display())));
        }
        text = text.replace(from.as_str(), to);
    }
    // Core settings for a whole test run that not every version of Kamailio knows.
    if let Ok(settings) = std::env::var("KAMAILIO_SETTINGS") {
        text.insert_str(0, &format!("{settings}\n"));
    }
    let config = folder.join("proxy.cfg");
    fs::write(&config, text)?;
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let mut command: Command = match setup.host {
        Host::Kamailio => kamailio::command(setup, folder, &config, sip, msrp),
        Host::OpenSips => opensips::command(&config),
    };
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}
