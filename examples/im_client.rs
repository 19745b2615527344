//! An IM client that fetches its stored messages through the proxy and answers each as it is told.
//!
//! `im_client --proxy 127.0.0.1:5060 --relay 127.0.0.1:2855 --identity sip:alice@example.org --messages 3 --answer 200`

#[path = "parties/mod.rs"]
mod parties;

use lexopt::ValueExt;
use parties::Events;
use parties::client::{ImClient, Options, Reaction};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let (mut proxy, mut relay) = ("127.0.0.1:5060".to_owned(), "127.0.0.1:2855".to_owned());
    let (mut identity, mut messages) = ("sip:alice@example.org".to_owned(), 1);
    let mut reaction = Reaction::Answer(200);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            lexopt::Arg::Long("proxy") => proxy = parser.value()?.string()?,
            lexopt::Arg::Long("relay") => relay = parser.value()?.string()?,
            lexopt::Arg::Long("identity") => identity = parser.value()?.string()?,
            lexopt::Arg::Long("messages") => messages = parser.value()?.parse()?,
            lexopt::Arg::Long("answer") => {
                let word = parser.value()?.string()?;
                reaction = if word == "none" { Reaction::Silence } else { Reaction::Answer(word.parse()?) };
            }
            other => return Err(other.unexpected().into()),
        }
    }
    let events = Events::default();
    let mut client = ImClient::new(Options::new(proxy.parse()?, relay.parse()?, &identity), events.clone())?;
    let status = client.invite();
    if status == 200 {
        client.bind();
        for (id, octets) in client.take(messages, reaction) {
            println!("message {id}: {octets} octets");
        }
        client.bye();
    }
    for event in events.all() {
        println!("{:>16} {} -> {}: {}", event.at, event.from, event.to, event.text);
    }
    match status {
        200 => Ok(()),
        refused => Err(format!("the INVITE was answered {refused}").into()),
    }
}
