//! IM client for trying out a proxy: invites the IM server, binds the MSRP session through the relay, receives the stored
//! messages, responds as configured and hangs up. Prints what it has received.

use imcharge_testkit::Events;
use imcharge_testkit::parties::client::{ImClient, Options, Reaction};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "im_client [OPTION]...
  --proxy IP:PORT        SIP address of the proxy (UDP)                               [127.0.0.1:5060]
  --relay IP:PORT        MSRP address of the relay                                    [127.0.0.1:2855]
  --identity URI         From and P-Asserted-Identity                                 [sip:alice@example.org]
  --not-asserted         omits P-Asserted-Identity
  --icid TEXT            icid-value of P-Charging-Vector
  --header 'NAME: VALUE' adds a header to the INVITE; may be repeated
  --copies COUNT         sends this many copies of the INVITE first, as retransmissions
  --cancel               cancels the INVITE after the first provisional response
  --late-ack SECONDS     delays the ACK to the 200
  --reinvite             sends a re-INVITE before it binds the MSRP session
  --via-relay            puts the relay into the client's path as well: every frame passes it twice
  --whole-path           sends responses with the complete path, as some clients do
  --answer STATUS|none   response to every SEND with content                          [200]
  --bye-after COUNT      hangs up after this many messages    [after 5 s without a frame]
  --drop-after COUNT     closes the MSRP connection after this many messages, then hangs up
  --events FILE          appends one line per event: UNIX microseconds, from, to, text; tab-separated";

struct Arguments {
    options: Options,
    reaction: Reaction,
    count: usize,
    drops: bool,
    copies: usize,
    cancels: bool,
    reinvites: bool,
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
        .map_err(|error| format!("--relay {relay}: {error}; is the relay running?"))?;
    let status = retrieve(&mut client, &arguments);
    events.show_from(0, arguments.events.as_deref())?;
    match status {
        200 => Ok(()),
        487 if arguments.cancels => Ok(()),
        other => Err(format!("the INVITE was answered {other}").into()),
    }
}

/// Runs one retrieval. Returns the status of the INVITE.
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
    if arguments.reinvites {
        println!("the re-INVITE was answered {}", client.reinvite());
    }
    client.bind();
    for message in client.collect(arguments.count, arguments.reaction) {
        let state = match (message.complete, message.aborted) {
            (true, _) => "complete",
            (false, true) => "aborted by the server",
            (false, false) => "incomplete",
        };
        println!("received {}, {} octets, {state}", message.message_id, message.octets);
    }
    if arguments.drops {
        client.drop_connection();
    }
    println!("the BYE was answered {}", client.bye());
    status
}

/// Parses the command line. Returns `None` for --help.
fn arguments() -> Result<Option<Arguments>, Box<dyn Error>> {
    use lexopt::prelude::*;
    let (proxy, relay) = (SocketAddr::from(([127, 0, 0, 1], 5060)), SocketAddr::from(([127, 0, 0, 1], 2855)));
    let mut arguments = Arguments {
        options: Options::new(proxy, relay, "sip:alice@example.org"),
        reaction: Reaction::Answer(200),
        count: usize::MAX,
        drops: false,
        copies: 0,
        cancels: false,
        reinvites: false,
        events: None,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let options = &mut arguments.options;
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
            Long("copies") => arguments.copies = parser.value()?.parse()?,
            Long("cancel") => arguments.cancels = true,
            Long("late-ack") => options.acknowledges_after = parser.value()?.parse_with(seconds)?,
            Long("reinvite") => arguments.reinvites = true,
            Long("via-relay") => options.via_relay = true,
            Long("whole-path") => options.whole_path = true,
            Long("answer") => arguments.reaction = parser.value()?.parse_with(reaction)?,
            Long("bye-after") => arguments.count = parser.value()?.parse()?,
            Long("drop-after") => (arguments.count, arguments.drops) = (parser.value()?.parse()?, true),
            Long("events") => arguments.events = Some(parser.value()?.into()),
            Short('h') | Long("help") => return Ok(None),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(arguments))
}

fn header(line: &str) -> Result<(String, String), &'static str> {
    let (name, value) = line.split_once(':').ok_or("expected NAME: VALUE")?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds = text.parse().ok().filter(|seconds| (0.0..=32.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or("expected 0 to 32 seconds, the lifetime of an unacknowledged 200")
}

fn reaction(word: &str) -> Result<Reaction, &'static str> {
    match (word, word.parse()) {
        ("none", _) => Ok(Reaction::Silence),
        (_, Ok(status @ 200..=599)) => Ok(Reaction::Answer(status)),
        _ => Err("expected a status from 200 to 599, or none"),
    }
}
