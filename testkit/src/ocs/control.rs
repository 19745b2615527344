//! The control port: one command per line; answered by lines of `key=value` and a final `ok` or `error ...`.

use super::connection::lock;
use super::server::Server;
use super::settings::Settings;
use imcharge::wire::diameter::Command;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// Maximum octets of a line.
const LINE_MAX: u64 = 4096;

/// Commands, for help.
pub const COMMANDS: &str = "\
accounts                       name, balance, held and debited of each account
account NAME=BALANCE           sets the balance of an account; creates it if it does not exist
sessions                       open sessions: Session-Id, account, held, last CC-Request-Number
counters                       requests and answers by kind; CPU time of the server
connections                    open connections
faults                         active faults
fault NAME[=VALUE] [on=REQUESTS] [times=N] [rate=1/N]
fault off                      removes all faults
set NAME=VALUE                 changes a setting, as on the command line
dpr                            sends a Disconnect-Peer-Request to every peer
rar SESSION-ID                 sends a Re-Auth-Request: the client reports its usage
asr SESSION-ID                 sends an Abort-Session-Request: the client ends the session
kill [MILLISECONDS]            closes all connections and refuses new ones for this time (1000)
reset                          removes sessions and faults, zeroes counters, restores the initial accounts
help                           lists the commands";

/// Listening socket of the control port.
pub enum Port {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Serves all control connections. Returns only on an error.
pub fn serve(server: &Arc<Server>, port: &Port) -> io::Result<()> {
    loop {
        let (reader, writer): (Box<dyn Read + Send>, Box<dyn Write + Send>) = match port {
            Port::Tcp(listener) => {
                let stream = listener.accept()?.0;
                (Box::new(stream.try_clone()?), Box::new(stream))
            }
            Port::Unix(listener) => {
                let stream = listener.accept()?.0;
                (Box::new(stream.try_clone()?), Box::new(stream))
            }
        };
        let server = server.clone();
        thread::spawn(move || serve_connection(&server, reader, writer));
    }
}

/// Serves one control connection.
fn serve_connection(
    server: &Server,
    reader: Box<dyn Read + Send>,
    mut writer: Box<dyn Write + Send>,
) -> io::Result<()> {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = String::new();
        if reader.by_ref().take(LINE_MAX).read_line(&mut line)? == 0 {
            return Ok(());
        }
        let answer = match run(server, line.trim()) {
            Ok(lines) => format!("{lines}ok\n"),
            Err(error) => format!("error {error}\n"),
        };
        writer.write_all(answer.as_bytes())?;
    }
}

/// Runs a command. Returns the answer without its last line.
fn run(server: &Server, line: &str) -> Result<String, String> {
    let (command, rest) = line.split_once(' ').map_or((line, ""), |(command, rest)| (command, rest.trim()));
    match (command, rest) {
        ("accounts", "") => return Ok(accounts(server)),
        ("sessions", "") => return Ok(sessions(server)),
        ("counters", "") => return Ok(counters(server)),
        ("connections", "") => return Ok(connections(server)),
        ("faults", "") => {
            return Ok(lock(&server.state).faults.iter().fold(String::new(), |text, fault| format!("{text}{fault}\n")));
        }
        ("help", "") => return Ok(format!("{COMMANDS}\n")),
        ("account", _) => {
            let (name, balance) = account(rest)?;
            lock(&server.state).accounts.set_balance(&name, balance);
        }
        ("fault", "off") => lock(&server.state).faults.clear(),
        ("fault", _) => lock(&server.state).faults.set(rest)?,
        ("set", _) => {
            let (name, value) = rest.split_once('=').ok_or("expected set NAME=VALUE")?;
            lock(&server.state).settings.set(name, value)?;
        }
        ("dpr", "") => return Ok(format!("peers={}\n", server.disconnect())),
        ("rar", _) => server.send_request(Command::RE_AUTH, rest)?,
        ("asr", _) => server.send_request(Command::ABORT_SESSION, rest)?,
        ("kill", _) => {
            let span = if rest.is_empty() { Ok(1000) } else { rest.parse() };
            let span = span.map_err(|_| format!("kill {rest}: expected a number of milliseconds"))?;
            return Ok(format!("connections={}\n", server.kill(Duration::from_millis(span))?));
        }
        ("reset", "") => lock(&server.state).reset(&server.initial_accounts),
        _ => return Err(format!("unknown command {line:?}; see help")),
    }
    Ok(String::new())
}

/// Parses `NAME=BALANCE`; the name may contain `=`.
pub fn account(text: &str) -> Result<(String, i64), String> {
    let invalid = || format!("{text:?}: expected NAME=BALANCE, where BALANCE is an integer");
    let (name, balance) = text.rsplit_once('=').ok_or_else(invalid)?;
    let balance = balance.parse().ok().filter(|balance: &i64| balance.unsigned_abs() <= 1 << 60);
    match balance {
        Some(balance) if !name.is_empty() && !name.contains(char::is_whitespace) => Ok((name.to_owned(), balance)),
        _ => Err(invalid()),
    }
}

fn accounts(server: &Server) -> String {
    let state = lock(&server.state);
    let mut accounts: Vec<_> = state.accounts.iter().collect();
    accounts.sort_by_key(|(name, _)| *name);
    accounts.iter().fold(String::new(), |mut text, (name, account)| {
        let (balance, held, debited) = (account.balance, account.held, account.debited);
        let _ = writeln!(text, "account={name} balance={balance} held={held} debited={debited}");
        text
    })
}

fn sessions(server: &Server) -> String {
    let state = lock(&server.state);
    let mut sessions: Vec<_> = state.accounts.sessions.iter().collect();
    sessions.sort_by_key(|(id, _)| *id);
    sessions.iter().fold(String::new(), |mut text, (id, session)| {
        let (account, held) = (state.accounts.name(session.account), session.held());
        let _ = writeln!(text, "session={id} account={account} held={held} number={}", session.number);
        text
    })
}

fn counters(server: &Server) -> String {
    let (counters, sessions) = {
        let state = lock(&server.state);
        (state.counters, state.accounts.sessions.len())
    };
    let mut text = String::new();
    for (name, value) in counters.all() {
        let _ = write!(text, "{name}={value} ");
    }
    let _ = writeln!(text, "sessions={sessions} cpu_ms={}", cpu_ms());
    text
}

fn connections(server: &Server) -> String {
    let mut connections = server.open_connections();
    connections.sort_by_key(|connection| connection.id);
    connections.iter().fold(String::new(), |mut text, connection| {
        let remote = connection.remote().map_or("closed".to_owned(), |address| address.to_string());
        let _ = writeln!(text, "connection={} peer={remote}", connection.id);
        text
    })
}

/// Returns the CPU time of all threads of this process, in milliseconds.
pub fn cpu_ms() -> u64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse::<u64>().ok()
    });
    nanos.sum::<u64>() / 1_000_000
}

/// Returns the settings for the usage text.
pub fn settings_usage() -> String {
    Settings::NAMES.iter().fold(String::new(), |mut text, (name, takes)| {
        let _ = writeln!(text, "  --{name:<24} {takes}");
        text
    })
}
