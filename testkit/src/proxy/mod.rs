//! The proxy with the module, on free ports and in a folder of its own; gone when it is dropped: the stock Kamailio, or an
//! OpenSIPS where the setup says so.

pub mod opensips;

use crate::{eventually, send_signal};
use rusqlite::{Connection, OpenFlags};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{fs, io};

/// Which proxy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Host {
    /// The stock Kamailio.
    #[default]
    Kamailio,
    /// The OpenSIPS of OPENSIPS_SRC and OPENSIPS_BIN.
    OpenSips,
}

/// What to start.
#[derive(Clone)]
pub struct Setup {
    /// Which proxy.
    pub host: Host,
    /// Folder with `imcharge.so`; `None`: without the module, for comparison.
    pub module: PathBuf,
    /// The configuration, which has the names of `kamailio-config/kamailio/kamailio.cfg` to set.
    pub config: PathBuf,
    /// Changes to its text: what is replaced, by what. Each must be found.
    pub changes: Vec<(String, String)>,
    /// More `-A` definitions.
    pub defines: Vec<(&'static str, String)>,
    /// Where the IM server takes SIP.
    pub server: SocketAddr,
    /// More arguments.
    pub arguments: Vec<&'static str>,
    /// A program that runs it, with its arguments; empty: it runs by itself.
    pub under: Vec<String>,
}

impl Setup {
    /// The shipped configuration before this server.
    pub fn new(module: &Path, server: SocketAddr) -> Setup {
        let config = crate::repository().join("kamailio-config/kamailio/kamailio.cfg");
        let (changes, defines, arguments, under) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let host = Host::Kamailio;
        Setup { host, module: module.to_owned(), config, changes, defines, server, arguments, under }
    }

    /// The same before OpenSIPS, with its shipped configuration.
    pub fn for_opensips(module: &Path, server: SocketAddr) -> Setup {
        Setup { host: Host::OpenSips, config: opensips::config(), ..Setup::new(module, server) }
    }

    /// With a change to the configuration's text.
    pub fn changed(mut self, from: &str, to: &str) -> Setup {
        self.changes.push((from.into(), to.into()));
        self
    }

    /// With a definition.
    pub fn defined(mut self, name: &'static str, value: impl Into<String>) -> Setup {
        self.defines.retain(|(known, _)| *known != name);
        self.defines.push((name, value.into()));
        self
    }

    /// With one more parameter of the module.
    pub fn parameter(self, name: &str, value: &str) -> Setup {
        let line = match self.host {
            Host::Kamailio => "modparam(\"imcharge\", \"state_dir\", STATE_DIR)",
            Host::OpenSips => opensips::STATE_DIR,
        };
        self.changed(line, &format!("{line}\nmodparam(\"imcharge\", \"{name}\", {value})"))
    }
}

/// A running proxy.
pub struct Proxy {
    child: Child,
    setup: Setup,
    folder: tempfile::TempDir,
    /// Where it takes SIP.
    pub sip: SocketAddr,
    /// Where it takes MSRP.
    pub msrp: SocketAddr,
}

/// An account as the ledger has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// What can be used.
    pub balance: i64,
    /// Reserved.
    pub held: i64,
    /// Used.
    pub debited: i64,
}

/// A row of the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Debit {
    /// Message-ID.
    pub message_id: String,
    /// Octets.
    pub octets: i64,
    /// Cost.
    pub units: i64,
    /// What fired it.
    pub trigger: String,
    /// MSRP status.
    pub code: i64,
}

impl Proxy {
    /// Starts it and waits until it serves. The error has the end of its log.
    pub fn start(setup: Setup) -> io::Result<Proxy> {
        match Proxy::try_start(setup.clone()) {
            // Somebody took a port between our look and the proxy's bind.
            Err(error) if error.to_string().contains("Address already in use") => Proxy::try_start(setup),
            started => started,
        }
    }

    fn try_start(setup: Setup) -> io::Result<Proxy> {
        let folder = tempfile::tempdir()?;
        let free = |tcp: bool| match tcp {
            true => TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()),
            false => UdpSocket::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()),
        };
        fs::create_dir(folder.path().join("state"))?;
        fs::create_dir(folder.path().join("run"))?;
        let (sip, msrp) = (free(false)?, free(true)?);
        let child = spawn(&setup, folder.path(), sip, msrp)?;
        let mut started = Proxy { child, setup, folder, sip, msrp };
        started.wait_until_it_serves()?;
        Ok(started)
    }

    fn wait_until_it_serves(&mut self) -> io::Result<()> {
        let mut dead = None;
        let serves = eventually(Duration::from_secs(if self.setup.under.is_empty() { 20 } else { 120 }), || {
            dead = self.child.try_wait().ok().flatten();
            // OpenSIPS listens for TCP last.
            let listens = || self.setup.host != Host::OpenSips || TcpStream::connect(self.msrp).is_ok();
            dead.is_some() || (self.rpc(&["core.version"]).is_ok() && listens())
        });
        match (serves, dead) {
            (true, None) => Ok(()),
            _ => Err(io::Error::other(format!("the proxy does not serve:\n{}", self.log()))),
        }
    }

    /// Starts it again on the same folder, after its end.
    pub fn restart(&mut self) -> io::Result<()> {
        self.child = spawn(&self.setup, self.folder.path(), self.sip, self.msrp)?;
        self.wait_until_it_serves()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("log")).map_or(String::new(), |log| String::from_utf8_lossy(&log).into_owned())
    }

    /// Runs an RPC command; its output, or its error.
    pub fn rpc(&self, command: &[&str]) -> Result<String, String> {
        if self.setup.host == Host::OpenSips {
            return opensips::rpc(self.folder.path(), command);
        }
        self.kamcmd(&command.iter().map(|word| kamcmd_text(word)).collect::<Vec<_>>())
    }

    /// Runs kamcmd with these words as they are; its output, or its error.
    pub fn kamcmd<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<String, String> {
        let socket = format!("unix:{}", self.folder.path().join("ctl").display());
        let run = Command::new("kamcmd").args(["-s", &socket]).args(words).output().map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&run.stdout).into_owned();
        match run.status.success() && !text.starts_with("error:") {
            true => Ok(text),
            false => Err(text + &String::from_utf8_lossy(&run.stderr)),
        }
    }

    /// A counter of the group imcharge.
    pub fn statistic(&self, name: &str) -> i64 {
        let all = self.rpc(&["imcharge.stats"]).unwrap_or_default();
        if self.setup.host == Host::OpenSips {
            return opensips::number(&all, name).unwrap_or(-1);
        }
        let line = all.lines().find_map(|line| line.trim().strip_prefix(&format!("{name}: ")));
        line.and_then(|value| value.parse().ok()).unwrap_or(-1)
    }

    /// Sets an account's balance.
    pub fn set_account(&self, id: &str, balance: i64) {
        let mut said = String::new();
        // The command waits a second for the engine, which may be busier than that on a machine full of tests.
        let set = eventually(Duration::from_secs(10), || {
            self.rpc(&["imcharge.account.set", id, &balance.to_string()]).map_err(|error| said = error).is_ok()
        });
        assert!(set, "the account cannot be set: {said}\n{}", self.log());
    }

    /// The ledger, for reading, as it is now.
    pub fn ledger(&self) -> Connection {
        // A command that reads makes the engine bring the tables up to date; without an engine they are as they are.
        let _ = self.rpc(&["imcharge.outbox"]);
        let path = self.folder.path().join("state/ledger.sqlite");
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("the ledger can be read")
    }

    /// The folder of this proxy.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// An account.
    pub fn account(&self, id: &str) -> Option<Account> {
        let sql = "SELECT balance, held, debited FROM accounts WHERE id=?1";
        let row =
            |row: &rusqlite::Row<'_>| Ok(Account { balance: row.get(0)?, held: row.get(1)?, debited: row.get(2)? });
        self.ledger().query_row(sql, [id], row).ok()
    }

    /// Waits until an account is so; what it is in the end.
    pub fn account_becomes(&self, id: &str, balance: i64, held: i64, debited: i64) -> Option<Account> {
        let wanted = Some(Account { balance, held, debited });
        let mut found = None;
        eventually(Duration::from_secs(15), || {
            found = self.account(id);
            found == wanted
        });
        found
    }

    /// Debits of an account, oldest first.
    pub fn debits(&self, id: &str) -> Vec<Debit> {
        let ledger = self.ledger();
        let sql = "SELECT message_id, octets, units, trigger, code FROM debits WHERE account=?1 ORDER BY id";
        let mut statement = ledger.prepare(sql).expect("the history is a table");
        let rows = statement.query_map([id], |row| {
            let (message_id, octets, units, trigger, code) = row.try_into()?;
            Ok(Debit { message_id, octets, units, trigger, code })
        });
        rows.expect("the history can be read").flatten().collect()
    }

    /// One number out of the ledger.
    pub fn count(&self, sql: &str) -> i64 {
        self.ledger().query_row(sql, [], |row| row.get(0)).expect("a number")
    }

    /// Number of the main process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Number of the engine's process.
    pub fn engine_pid(&self) -> Option<u32> {
        let group = self.child.id().to_string();
        let processes = fs::read_dir("/proc").ok()?.flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            // pid (comm) state ppid pgrp ...
            let group_of = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(2));
            stat.contains("(imcharge engine)") && group_of == Some(&group)
        })
    }

    /// Sends a signal to one process of this proxy, or to all of them.
    pub fn signal(&self, signal: &str, pid: Option<u32>) {
        send_signal(signal, pid.map_or(-i64::from(self.child.id()), i64::from));
    }

    /// Ends it with SIGTERM; how it ended and how long that took.
    pub fn terminate(&mut self) -> (Option<ExitStatus>, Duration) {
        let asked = Instant::now();
        self.signal("TERM", Some(self.child.id()));
        let mut ended = None;
        eventually(Duration::from_secs(10), || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        });
        (ended, asked.elapsed())
    }

    /// Kills every process of it at once, and waits until they are gone.
    pub fn kill_all(&mut self) {
        self.signal("KILL", None);
        let _ = self.child.wait();
        eventually(Duration::from_secs(5), || self.engine_pid().is_none());
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() && self.terminate().0.is_none() {
            self.kill_all();
        }
    }
}

/// An argument as kamcmd takes it for a text: not for a number, nor for an option.
pub fn kamcmd_text(word: &str) -> String {
    let is_text = |first: char| first.is_ascii_alphabetic() && word.parse::<f64>().is_err() && !word.starts_with("s:");
    if word.starts_with(is_text) { word.into() } else { format!("s:{word}") }
}

/// Starts the program, in a group of its own: one signal reaches every process of it and none of ours.
/// What the cases reserve unless they say otherwise: credit for ten messages.
const TEN_MESSAGES: [(&str, &str); 2] = [
    ("imcharge_reserve(\"CHARGED\")", "imcharge_reserve(\"CHARGED\", \"10\")"),
    ("async(imcharge_reserve(), CHARGED)", "async(imcharge_reserve(10), CHARGED)"),
];

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
            return Err(io::Error::other(format!("the configuration has no '{from}' to change")));
        }
        text = text.replace(from.as_str(), to);
    }
    // Settings of the core that not every version of the host knows, for a whole run of the cases.
    if let Ok(settings) = std::env::var("KAMAILIO_SETTINGS") {
        text.insert_str(0, &format!("{settings}\n"));
    }
    let config = folder.join("proxy.cfg");
    fs::write(&config, text)?;
    let log = fs::OpenOptions::new().create(true).append(true).open(folder.join("log"))?;
    let mut command = match setup.host {
        Host::Kamailio => kamailio(setup, folder, &config, sip, msrp),
        Host::OpenSips => opensips::command(&config),
    };
    command.process_group(0).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()
}

fn kamailio(setup: &Setup, folder: &Path, config: &Path, sip: SocketAddr, msrp: SocketAddr) -> Command {
    let stock =
        std::env::var("KAMAILIO_MODULES").unwrap_or_else(|_| "/usr/lib/x86_64-linux-gnu/kamailio/modules".to_owned());
    let quoted = |path: PathBuf| format!("\"{}\"", path.display());
    let program = std::env::var("KAMAILIO_BIN").unwrap_or_else(|_| "/usr/sbin/kamailio".to_owned());
    let mut words = setup.under.iter().chain([&program]);
    let mut command = Command::new(words.next().unwrap_or(&program));
    command.args(words).arg("-f").arg(config).arg("-L").arg(format!("{}:{stock}", setup.module.display()));
    command.arg("-Y").arg(folder.join("run")).arg("-P").arg(folder.join("run/pid"));
    command.args(["-DD", "-E", "-m", "256", "-M", "16"]).args(&setup.arguments);
    let mut defines = vec![
        ("SIP_LISTEN", format!("udp:{sip}")),
        ("MSRP_LISTEN", format!("tcp:{msrp}")),
        ("IM_SERVER", format!("\"sip:{}\"", setup.server)),
        ("STATE_DIR", quoted(folder.join("state"))),
        ("CTL_SOCKET", format!("\"unix:{}\"", folder.join("ctl").display())),
    ];
    defines.extend(setup.defines.iter().cloned());
    for (name, value) in defines {
        command.arg("-A").arg(format!("{name}={value}"));
    }
    command
}
