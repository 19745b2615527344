//! What stands around the proxy: an IM server, an IM client, and the stock Kamailio itself, for the demonstration,
//! the end-to-end tests and the benchmark. They speak SIP and MSRP with code of their own, so that they are
//! no mirror of the module's codecs.

pub mod auth;
pub mod client;
pub mod kamailio;
pub mod msrp;
pub mod ocs;
pub mod opensips;
pub mod server;
pub mod sip;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Something that went over a wire, as one party saw it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Microseconds since 1970.
    pub at: u64,
    /// Who sent it.
    pub from: &'static str,
    /// Who got it.
    pub to: &'static str,
    /// What it was, short.
    pub text: String,
}

/// A log that parties share.
#[derive(Clone, Default)]
pub struct Events(Arc<(Mutex<Vec<Event>>, Condvar)>);

impl Events {
    /// Adds an event of now.
    pub fn add(&self, from: &'static str, to: &'static str, text: impl Into<String>) {
        let event = Event { at: unix_micros(), from, to, text: text.into() };
        self.0.0.lock().expect("no holder panics").push(event);
        self.0.1.notify_all();
    }

    /// All events so far.
    pub fn all(&self) -> Vec<Event> {
        self.0.0.lock().expect("no holder panics").clone()
    }

    /// Waits until there are more than `seen`.
    pub fn wait_beyond(&self, seen: usize) {
        let events = self.0.0.lock().expect("no holder panics");
        drop(self.0.1.wait_while(events, |events| events.len() <= seen));
    }

    /// Prints what came after the first `seen` events, and adds it to the file; how many those are.
    pub fn show_from(&self, seen: usize, file: Option<&Path>) -> io::Result<usize> {
        let new = self.0.0.lock().expect("no holder panics")[seen..].to_vec();
        let mut file = match file.filter(|_| !new.is_empty()) {
            Some(path) => Some(OpenOptions::new().create(true).append(true).open(path)?),
            None => None,
        };
        for Event { at, from, to, text } in &new {
            println!("{from} -> {to}: {text}");
            if let Some(file) = &mut file {
                writeln!(file, "{at}\t{from}\t{to}\t{text}")?;
            }
        }
        Ok(new.len())
    }
}

/// Columns of the ladder.
pub const CLIENT: &str = "IM Client";
/// The proxy.
pub const PROXY: &str = "Kamailio";
/// The server.
pub const SERVER: &str = "IM Server";
/// The ledger.
pub const ENABLER: &str = "Charging Enabler";

/// Microseconds since 1970.
pub fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// A number that no other call in this process gets, for ids.
pub fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // Ids of another process must not come again: the clock of the start tells them apart.
    static START: std::sync::LazyLock<u64> = std::sync::LazyLock::new(unix_micros);
    *START * 1000 + next
}

/// Sends a signal (`TERM`) to a process, or to a group where the number is negative. The shell's own `kill` does it: a
/// small Debian has no program of that name.
pub fn send_signal(signal: &str, target: i64) {
    let script = ["-c", "kill -s \"$1\" -- \"$2\"", "sh", signal, &target.to_string()];
    // A process that has gone already needs none.
    let _ = Command::new("sh").args(script).stderr(Stdio::null()).status();
}

/// Waits until `done` says so. `false`: not within the time.
pub fn eventually(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
