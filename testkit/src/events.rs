//! Event log of the parties: what each one sent and received, in order.

use crate::unix_micros;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

/// A message on the wire, as one party saw it.
#[derive(Clone, Debug)]
pub struct Event {
    /// Microseconds since the Unix epoch.
    pub at: u64,
    /// Sender: one of [`CLIENT`], [`PROXY`], [`SERVER`] and [`ENABLER`].
    pub from: &'static str,
    /// Receiver.
    pub to: &'static str,
    /// Short description.
    pub text: String,
}

/// Event log, shared by clones.
#[derive(Clone, Default)]
pub struct Events(Arc<(Mutex<Vec<Event>>, Condvar)>);

impl Events {
    /// Records an event with the current time.
    pub fn add(&self, from: &'static str, to: &'static str, text: impl Into<String>) {
        let event = Event { at: unix_micros(), from, to, text: text.into() };
        self.0.0.lock().expect("no holder panics").push(event);
        self.0.1.notify_all();
    }

    /// Returns all events so far.
    pub fn all(&self) -> Vec<Event> {
        self.0.0.lock().expect("no holder panics").clone()
    }

    /// Blocks until there are more than `seen` events.
    pub fn wait_beyond(&self, seen: usize) {
        let events = self.0.0.lock().expect("no holder panics");
        drop(self.0.1.wait_while(events, |events| events.len() <= seen));
    }

    /// Prints the events after the first `seen` and appends them to `file`. Returns their number.
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

/// Name of the IM client in events.
pub const CLIENT: &str = "IM Client";
/// Name of the proxy in events.
pub const PROXY: &str = "Kamailio";
/// Name of the IM server in events.
pub const SERVER: &str = "IM Server";
/// Name of the charging enabler in events.
pub const ENABLER: &str = "Charging Enabler";
