//! An IM server to try a proxy with: has a folder of stored messages, takes INVITEs, and sends every message by
//! MSRP SEND through the relay to whoever has invited it and bound the session. Runs until it is ended.

use imcharge_testkit::Events;
use imcharge_testkit::parties::server::{ImServer, Options};
use std::error::Error;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

const USAGE: &str = "im_server [OPTION]...
  --listen IP:PORT       where it takes SIP (UDP); MSRP on a free port of the same address   [127.0.0.1:5070]
  --relay IP:PORT        where the relay takes MSRP                                          [127.0.0.1:2855]
  --store FOLDER         stored messages, one a file, sent in the order of their names       [examples/messages]
  --chunk OCTETS         octets of a chunk at most                                           [10000]
  --failure-report WORD  no or partial: Failure-Report header of every SEND
  --success-report       asks for REPORTs of success
  --pipeline             the next chunk goes without waiting for the response
  --backwards            the last chunk of a message first
  --abort                gives each message of more than one chunk up (#) after the first
  --twice                sends every message twice, with the same Message-ID
  --rings                rings and never answers; a CANCEL ends it
  --events FILE          adds a line for each event: UNIX microseconds, from, to, what; tabs between";

struct Arguments {
    listen: SocketAddr,
    store: PathBuf,
    events: Option<PathBuf>,
    options: Options,
}

fn main() {
    if let Err(error) = run() {
        eprintln!("im_server: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let Some(mut arguments) = arguments()? else {
        println!("{USAGE}");
        return Ok(());
    };
    arguments.options.messages =
        stored_messages(&arguments.store).map_err(|error| format!("--store {}: {error}", arguments.store.display()))?;
    let count = arguments.options.messages.len();
    let events = Events::default();
    let socket = UdpSocket::bind(arguments.listen)
        .map_err(|error| format!("--listen {}: {error}; is another server there?", arguments.listen))?;
    let server = ImServer::start(&socket, arguments.options, events.clone())?;
    println!("{count} messages of {} for whoever invites sip:{}", arguments.store.display(), server.sip);
    let mut seen = 0;
    loop {
        events.wait_beyond(seen);
        seen += events.show_from(seen, arguments.events.as_deref())?;
    }
}

/// `None`: help is wanted.
fn arguments() -> Result<Option<Arguments>, Box<dyn Error>> {
    use lexopt::prelude::*;
    let relay = SocketAddr::from(([127, 0, 0, 1], 2855));
    let mut wanted = Arguments {
        listen: SocketAddr::from(([127, 0, 0, 1], 5070)),
        store: "examples/messages".into(),
        events: None,
        options: Options::new(relay, &[]),
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let options = &mut wanted.options;
        match argument {
            Long("listen") => wanted.listen = parser.value()?.parse()?,
            Long("relay") => options.relay = parser.value()?.parse()?,
            Long("store") => wanted.store = parser.value()?.into(),
            Long("chunk") => options.chunk = parser.value()?.parse_with(positive)?,
            Long("failure-report") => options.failure_report = Some(parser.value()?.parse_with(failure_report)?),
            Long("success-report") => options.success_report = true,
            Long("pipeline") => options.pipeline = true,
            Long("backwards") => options.backwards = true,
            Long("abort") => options.abort = true,
            Long("twice") => options.twice = true,
            Long("rings") => options.rings = true,
            Long("events") => wanted.events = Some(parser.value()?.into()),
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(wanted))
}

fn positive(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|octets| *octets > 0).ok_or("a number from 1 on is wanted")
}

fn failure_report(word: &str) -> Result<&'static str, &'static str> {
    ["no", "partial"].into_iter().find(|known| *known == word).ok_or("no or partial is wanted")
}

/// The stored messages, each with a Message-ID made of its file's name.
fn stored_messages(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let entries: io::Result<Vec<_>> = std::fs::read_dir(folder)?.collect();
    let mut paths: Vec<PathBuf> = entries?.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        // The letters that RFC 4975, section 9, has for an ident.
        let id: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '.' }).collect();
        // An ident has four letters at least, and 32 at most.
        let id: String = format!("msg-{id}").chars().take(32).collect();
        std::fs::read(path).map(|body| (id, body))
    };
    paths.iter().map(read).collect()
}
