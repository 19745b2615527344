//! An IM server with a folder of stored messages: whoever invites it and binds the MSRP session gets each by SEND.
//!
//! `im_server --listen 127.0.0.1:5070 --relay 127.0.0.1:2855 --store examples/messages`

#[path = "parties/mod.rs"]
mod parties;

use lexopt::ValueExt;
use parties::Events;
use parties::server::{ImServer, Options};
use std::error::Error;
use std::net::UdpSocket;
use std::path::PathBuf;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut listen, mut relay) = ("127.0.0.1:5070".to_owned(), "127.0.0.1:2855".to_owned());
    let (mut store, mut chunk) = (PathBuf::from("examples/messages"), 10_000);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("listen") => listen = parser.value()?.string()?,
            lexopt::Arg::Long("relay") => relay = parser.value()?.string()?,
            lexopt::Arg::Long("store") => store = parser.value()?.into(),
            lexopt::Arg::Long("chunk") => chunk = parser.value()?.parse()?,
            other => return Err(other.unexpected().into()),
        }
    }
    let mut options = Options::new(relay.parse()?, &[]);
    options.chunk = chunk;
    for entry in std::fs::read_dir(&store)? {
        let path = entry?.path();
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        options.messages.push((format!("{name}-{}", parties::unique()), std::fs::read(&path)?));
    }
    options.messages.sort();
    let events = Events::default();
    let server = ImServer::start(&UdpSocket::bind(&listen)?, options, events.clone())?;
    println!("{} stored messages for whoever invites sip:{}", server.message_ids().len(), server.sip);
    let mut shown = 0;
    loop {
        let all = events.all();
        for event in &all[shown..] {
            println!("{:>16} {} -> {}: {}", event.at, event.from, event.to, event.text);
        }
        shown = all.len();
        std::thread::sleep(Duration::from_millis(100));
    }
}
