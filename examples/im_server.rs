//! IM server for trying out a proxy: accepts INVITEs and, once the MSRP session is bound, sends the messages of a folder
//! through the relay. Runs until it is killed.

use imcharge_testkit::Events;
use imcharge_testkit::parties::server::{ImServer, Options, stored_messages};
use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;

const USAGE: &str = "im_server [OPTION]...
  --listen IP:PORT       SIP address (UDP); MSRP uses a free port of the same IP             [127.0.0.1:5070]
  --relay IP:PORT        MSRP address of the relay                                           [127.0.0.1:2855]
  --store FOLDER         stored messages, one per file, sent in the order of their names     [examples/messages]
  --chunk OCTETS         maximum size of a chunk                                             [10000]
  --failure-report WORD  no or partial: Failure-Report header of every SEND
  --success-report       requests success REPORTs
  --pipeline             sends the next chunk without waiting for the response
  --backwards            sends the chunks of a message in reverse order
  --abort                aborts (#) each message of more than one chunk after the first
  --twice                sends every message twice, with the same Message-ID
  --rings                answers INVITEs with 180 only; a CANCEL ends them
  --events FILE          appends one line per event: UNIX microseconds, from, to, text; tab-separated";

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
        .map_err(|error| format!("--listen {}: {error}; is another server running?", arguments.listen))?;
    let server = ImServer::start(&socket, arguments.options, events.clone())?;
    println!("serving {count} messages from {} at sip:{}", arguments.store.display(), server.sip);
    let mut seen = 0;
    loop {
        events.wait_beyond(seen);
        seen += events.show_from(seen, arguments.events.as_deref())?;
    }
}

/// Parses the command line. Returns `None` for --help.
fn arguments() -> Result<Option<Arguments>, Box<dyn Error>> {
    use lexopt::prelude::*;
    let relay = SocketAddr::from(([127, 0, 0, 1], 2855));
    let mut arguments = Arguments {
        listen: SocketAddr::from(([127, 0, 0, 1], 5070)),
        store: "examples/messages".into(),
        events: None,
        options: Options::new(relay, &[]),
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let options = &mut arguments.options;
        match argument {
            Long("listen") => arguments.listen = parser.value()?.parse()?,
            Long("relay") => options.relay = parser.value()?.parse()?,
            Long("store") => arguments.store = parser.value()?.into(),
            Long("chunk") => options.chunk = parser.value()?.parse_with(positive)?,
            Long("failure-report") => options.failure_report = Some(parser.value()?.parse_with(failure_report)?),
            Long("success-report") => options.success_report = true,
            Long("pipeline") => options.pipeline = true,
            Long("backwards") => options.backwards = true,
            Long("abort") => options.abort = true,
            Long("twice") => options.twice = true,
            Long("rings") => options.rings = true,
            Long("events") => arguments.events = Some(parser.value()?.into()),
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(arguments))
}

fn positive(text: &str) -> Result<usize, &'static str> {
    text.parse().ok().filter(|octets| *octets > 0).ok_or("expected an integer from 1")
}

fn failure_report(word: &str) -> Result<&'static str, &'static str> {
    ["no", "partial"].into_iter().find(|known| *known == word).ok_or("expected no or partial")
}
