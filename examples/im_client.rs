//! An IM client to try a proxy with: invites the IM server through it, binds the MSRP session through the relay,
//! takes the stored messages, answers them as it is told, and hangs up. Prints what it got.

use imcharge_testkit::Events;
use imcharge_testkit::parties::client::{ImClient, Options, Reaction};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "im_client [OPTION]...
  --proxy IP:PORT        where the proxy takes SIP (UDP)                              [127.0.0.1:5060]
  --relay IP:PORT        where the relay takes MSRP                                   [127.0.0.1:2855]
  --identity URI         From and P-Asserted-Identity                                 [sip:alice@example.org]
  --not-asserted         leaves P-Asserted-Identity out
  --icid TEXT            icid-value of P-Charging-Vector
  --header 'NAME: VALUE' one more header of the INVITE; may come again
  --copies COUNT         sends the INVITE so many times more, as if no answer had come
  --cancel               cancels the INVITE as soon as there is a provisional response
  --late-ack SECONDS     lets the 200 wait for its ACK
  --reinvite             invites once more in the dialog, before it binds the MSRP session
  --via-relay            the relay stands in the client's path too: every frame passes it twice
  --whole-path           responses carry the whole path, as some clients do
  --answer STATUS|none   what it answers to every SEND with content                   [200]
  --bye-after COUNT      hangs up after so many messages      [when nothing has come for 5 s]
  --drop-after COUNT     drops the MSRP connection after so many, and hangs up then
  --events FILE          adds a line for each event: UNIX microseconds, from, to, what; tabs between";

struct Arguments {
    options: Options,
    reaction: Reaction,
    count: usize,
    drops: bool,
    copies: usize,
    cancels: bool,
    invites_again: bool,
    events: Option<PathBuf>,
}

fn main() {
    if let Err(error) = run() {
        eprintln!("im_client: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let Some(arguments) = arguments()? else {
        println!("{USAGE}");
        return Ok(());
    };
    let events = Events::default();
    let relay = arguments.options.relay;
    let mut client = ImClient::new(arguments.options.clone(), events.clone())
        .map_err(|error| format!("--relay {relay}: {error}; does the relay listen there?"))?;
    let status = retrieve(&mut client, &arguments);
    events.show_from(0, arguments.events.as_deref())?;
    match status {
        200 => Ok(()),
        487 if arguments.cancels => Ok(()),
        other => Err(format!("the INVITE was answered {other}").into()),
    }
}

/// One retrieval; the status of the INVITE.
fn retrieve(client: &mut ImClient, arguments: &Arguments) -> u16 {
    (0..arguments.copies).for_each(|_| client.send_invite());
    if arguments.cancels {
        client.send_invite();
        if client.provisional(Duration::from_secs(5)) {
            client.cancel();
        }
    }
    let status = if arguments.cancels { client.final_response(Duration::from_secs(10)) } else { client.invite() };
    if status != 200 {
        return status;
    }
    if arguments.invites_again {
        println!("the INVITE in the dialog was answered {}", client.reinvite());
    }
    client.bind();
    for got in client.collect(arguments.count, arguments.reaction) {
        let state = match (got.complete, got.aborted) {
            (true, _) => "complete",
            (false, true) => "given up by the server",
            (false, false) => "incomplete",
        };
        println!("got {}, {} octets, {state}", got.message_id, got.octets);
    }
    if arguments.drops {
        client.drop_connection();
    }
    println!("BYE was answered {}", client.bye());
    status
}

/// `None`: help is wanted.
fn arguments() -> Result<Option<Arguments>, Box<dyn Error>> {
    use lexopt::prelude::*;
    let (proxy, relay) = (SocketAddr::from(([127, 0, 0, 1], 5060)), SocketAddr::from(([127, 0, 0, 1], 2855)));
    let mut wanted = Arguments {
        options: Options::new(proxy, relay, "sip:alice@example.org"),
        reaction: Reaction::Answer(200),
        count: usize::MAX,
        drops: false,
        copies: 0,
        cancels: false,
        invites_again: false,
        events: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let options = &mut wanted.options;
        match argument {
            Long("proxy") => options.proxy = parser.value()?.parse()?,
            Long("relay") => options.relay = parser.value()?.parse()?,
            Long("identity") => options.identity = parser.value()?.string()?,
            Long("not-asserted") => options.asserted = false,
            Long("icid") => {
                let vector = format!("icid-value=\"{}\"", parser.value()?.string()?);
                options.headers.push(("P-Charging-Vector".into(), vector));
            }
            Long("header") => options.headers.push(parser.value()?.parse_with(header)?),
            Long("copies") => wanted.copies = parser.value()?.parse()?,
            Long("cancel") => wanted.cancels = true,
            Long("late-ack") => options.acknowledges_after = parser.value()?.parse_with(seconds)?,
            Long("reinvite") => wanted.invites_again = true,
            Long("via-relay") => options.via_relay = true,
            Long("whole-path") => options.whole_path = true,
            Long("answer") => wanted.reaction = parser.value()?.parse_with(reaction)?,
            Long("bye-after") => wanted.count = parser.value()?.parse()?,
            Long("drop-after") => (wanted.count, wanted.drops) = (parser.value()?.parse()?, true),
            Long("events") => wanted.events = Some(parser.value()?.into()),
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(wanted))
}

fn header(line: &str) -> Result<(String, String), &'static str> {
    let (name, value) = line.split_once(':').ok_or("a name, a colon and a value are wanted")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=32.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("seconds from 0 to 32 are wanted: then the dialog is dead")
}

fn reaction(word: &str) -> Result<Reaction, &'static str> {
    match (word, word.parse()) {
        ("none", _) => Ok(Reaction::Silence),
        (_, Ok(status @ 200..=599)) => Ok(Reaction::Answer(status)),
        _ => Err("a status from 200 to 599 or none is wanted"),
    }
}
