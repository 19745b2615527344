//! An online charging system to rehearse with: speaks Diameter Credit-Control (RFC 8506), keeps accounts to the last
//! unit, and does on demand everything wrong that a charging system can do. Runs until it is ended. Its manual is in the
//! README.

pub mod book;
mod connection;
mod control;
pub mod faults;
pub mod inquiry;
mod load;
mod process;
pub mod rating;
mod server;
pub mod settings;
pub mod state;
mod tls;

pub use process::{Ocs, program};

use control::Port;
use load::Load;
use server::Server;
use state::State;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

const USAGE: &str = "ocs [OPTION]...
  --listen ADDRESS:PORT      where it takes Diameter; may be given more than once    [127.0.0.1:3868]
  --control ADDRESS:PORT     where it takes orders; unix:PATH for a socket file      [127.0.0.1:0]
  --account NAME=BALANCE     an account; may be given more than once
  --fault \"FAULT\"            a fault from the start, as at the control port; may be given more than once
  --tls-cert FILE --tls-key FILE --tls-ca FILE
                             TLS in place of TCP; clients need a certificate of that authority
  --no-partial               --partial no
  --no-duplicate-detection   --duplicate-detection no
  --load ADDRESS:PORT        makes load on the server there, and prints how much it took
  --connections N --window N --seconds N
                             with --load                                             [1, 256, 5]
Settings:
";

/// What the command line wants.
struct Arguments {
    listen: Vec<SocketAddr>,
    control: String,
    accounts: Vec<(String, i64)>,
    state: State,
    tls: tls::Files,
    load: Option<SocketAddr>,
    connections: usize,
    window: usize,
    seconds: u64,
}

/// Runs the program.
pub fn main() {
    if let Err(error) = run() {
        eprintln!("ocs: {error}");
        std::process::exit(1);
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let Some(mut arguments) = arguments()? else {
        print!("{USAGE}{}At the control port:\n{}\n", control::settings_usage(), control::COMMANDS);
        return Ok(());
    };
    if let Some(address) = arguments.load {
        let Arguments { connections, window, seconds, .. } = arguments;
        return Load { address, connections, window, seconds }.run();
    }
    for (name, balance) in &arguments.accounts {
        arguments.state.book.set_balance(name, *balance);
    }
    if arguments.listen.is_empty() {
        arguments.listen.push(SocketAddr::from(([127, 0, 0, 1], 3868)));
    }
    let server = Server::new(arguments.state, arguments.accounts, arguments.tls.config()?);
    let (port, control) = control_port(&arguments.control)?;
    let mut addresses = Vec::new();
    for address in arguments.listen {
        let taken = server.listen(address);
        let taken = taken.map_err(|error| format!("--listen {address}: {error}; is another server there?"))?;
        addresses.push(taken.to_string());
    }
    println!("ready diameter={} control={control}", addresses.join(","));
    let clock = server.clone();
    std::thread::spawn(move || clock.keep_time());
    control::serve(&server, &port)?;
    Ok(())
}

/// Opens the control port; how it is reached.
fn control_port(text: &str) -> Result<(Port, String), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("--control {text}: {error}");
    if let Some(path) = text.strip_prefix("unix:") {
        let listener = UnixListener::bind(Path::new(path));
        let listener = listener.map_err(|error| format!("{}; is the file left from another run?", wrong(&error)))?;
        return Ok((Port::Unix(listener), text.to_owned()));
    }
    let address: SocketAddr = text.parse().map_err(|_| wrong(&"ADDRESS:PORT or unix:PATH is wanted"))?;
    let listener = TcpListener::bind(address).map_err(|error| wrong(&error))?;
    let address = listener.local_addr().map_err(|error| wrong(&error))?;
    Ok((Port::Tcp(listener), address.to_string()))
}

/// `None`: help is wanted.
fn arguments() -> Result<Option<Arguments>, Box<dyn Error>> {
    use lexopt::prelude::*;
    let mut wanted = Arguments {
        listen: Vec::new(),
        control: "127.0.0.1:0".into(),
        accounts: Vec::new(),
        state: State::default(),
        tls: tls::Files::default(),
        load: None,
        connections: 1,
        window: 256,
        seconds: 5,
    };
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("listen") => wanted.listen.push(address("--listen", &parser.value()?.string()?)?),
            Long("control") => wanted.control = parser.value()?.string()?,
            Long("account") => {
                let text = parser.value()?.string()?;
                wanted.accounts.push(control::account(&text).map_err(|error| format!("--account: {error}"))?);
            }
            Long("fault") => {
                let text = parser.value()?.string()?;
                wanted.state.faults.set(&text).map_err(|error| format!("--fault: {error}"))?;
            }
            Long("tls-cert") => wanted.tls.cert = Some(parser.value()?.into()),
            Long("tls-key") => wanted.tls.key = Some(parser.value()?.into()),
            Long("tls-ca") => wanted.tls.ca = Some(parser.value()?.into()),
            Long("no-partial") => wanted.state.settings.partial = false,
            Long("no-duplicate-detection") => wanted.state.settings.duplicate_detection = false,
            Long("load") => wanted.load = Some(address("--load", &parser.value()?.string()?)?),
            Long("connections") => wanted.connections = parser.value()?.parse()?,
            Long("window") => wanted.window = parser.value()?.parse()?,
            Long("seconds") => wanted.seconds = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            Long(name) => {
                let name = name.to_owned();
                if !settings::Settings::NAMES.iter().any(|(known, _)| *known == name) {
                    return Err(format!("there is no option --{name}; --help lists them").into());
                }
                let value = parser.value()?.string()?;
                wanted.state.settings.set(&name, &value).map_err(|error| format!("--{error}"))?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(wanted))
}

fn address(option: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("{option} {text}: ADDRESS:PORT is wanted, as 127.0.0.1:3868 or [::1]:3868"))
}
