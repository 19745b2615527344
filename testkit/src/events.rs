//! What the parties saw on the wire, in order: printed as a ladder and compared by tests.

use crate::unix_micros;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

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
