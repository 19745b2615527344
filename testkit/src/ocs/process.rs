//! The OCS simulator as a child process. Dropping it kills the process.

use crate::eventually;
use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Returns the program `examples/ocs` of the build that the running program belongs to.
pub fn program() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let found = own.ancestors().map(|folder| folder.join("examples/ocs")).find(|path| path.is_file());
    found.ok_or_else(|| io::Error::other("the OCS simulator is not built: cargo build --release --example ocs"))
}

/// A running OCS simulator.
pub struct Ocs {
    child: Child,
    /// Diameter address.
    pub diameter: SocketAddr,
    control: RefCell<BufReader<TcpStream>>,
}

impl Ocs {
    /// Starts the program and waits until it listens; on a free port unless `options` contains `--listen`.
    pub fn start(program: &Path, options: &[&str]) -> Ocs {
        let listens = options.contains(&"--listen");
        let listen: &[&str] = if listens { &[] } else { &["--listen", "127.0.0.1:0"] };
        let mut command = Command::new(program);
        command.args(listen).args(options).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        let mut ready = String::new();
        let output = child.stdout.take().expect("the output is piped");
        BufReader::new(output).read_line(&mut ready).expect("the simulator prints a line");
        let address = |name: &str| {
            let word = ready.split_whitespace().find_map(|word| word.strip_prefix(name));
            let address = word.and_then(|word| word.split(',').next()).and_then(|word| word.parse().ok());
            address.unwrap_or_else(|| panic!("the OCS simulator has not started: {ready:?}"))
        };
        let (diameter, control): (SocketAddr, SocketAddr) = (address("diameter="), address("control="));
        let control = TcpStream::connect(control).expect("the control port accepts a connection");
        Ocs { child, diameter, control: RefCell::new(BufReader::new(control)) }
    }

    /// Runs a control command, which must succeed. Returns the lines of its answer.
    #[track_caller]
    pub fn command(&self, line: &str) -> Vec<String> {
        self.try_command(line).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a control command. Returns the lines of its answer, or its error line.
    #[track_caller]
    pub fn try_command(&self, line: &str) -> Result<Vec<String>, String> {
        let mut control = self.control.borrow_mut();
        control.get_mut().write_all(format!("{line}\n").as_bytes()).expect("the control port accepts a command");
        let mut lines = Vec::new();
        loop {
            let mut answer = String::new();
            control.read_line(&mut answer).expect("the control port answers");
            match answer.trim_end() {
                "ok" => return Ok(lines),
                line if line.starts_with("error") || line.is_empty() => return Err(line.to_owned()),
                line => lines.push(line.to_owned()),
            }
        }
    }

    /// Returns balance, held and debited of an account; zeros if it does not exist.
    pub fn account(&self, name: &str) -> (i64, i64, i64) {
        let of = |line: &str| {
            let fields = fields(line);
            let number = |name: &str| fields.get(name).and_then(|value| value.parse().ok()).unwrap_or(0);
            (fields.get("account").map(String::as_str) == Some(name))
                .then(|| (number("balance"), number("held"), number("debited")))
        };
        self.command("accounts").iter().find_map(|line| of(line)).unwrap_or_default()
    }

    /// Waits for an account to reach this state. Returns its last state.
    pub fn account_becomes(&self, name: &str, wanted: (i64, i64, i64), within: Duration) -> (i64, i64, i64) {
        let mut found = (0, 0, 0);
        eventually(within, || {
            found = self.account(name);
            found == wanted
        });
        found
    }

    /// Returns the Session-Ids of the open sessions.
    pub fn sessions(&self) -> Vec<String> {
        self.command("sessions").iter().filter_map(|line| fields(line).remove("session")).collect()
    }

    /// Returns a counter.
    pub fn counter(&self, name: &str) -> u64 {
        let lines = self.command("counters");
        let found = lines.iter().find_map(|line| fields(line).get(name).and_then(|value| value.parse().ok()));
        found.unwrap_or_else(|| panic!("no counter {name} in {lines:?}"))
    }

    /// Kills the process (SIGKILL).
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Ocs {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Returns the `name=value` words of a line.
fn fields(line: &str) -> HashMap<String, String> {
    let words = line.split_whitespace().filter_map(|word| word.split_once('='));
    words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}
