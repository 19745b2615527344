//! Command line of the OCS simulator.

use super::control::{self, Port};
use super::load::Load;
use super::server::Server;
use super::settings::Settings;
use super::state::State;
use super::tls;
use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

const USAGE: &str = "ocs [OPTION]...
  --listen ADDRESS:PORT      Diameter address; may be repeated                       [127.0.0.1:3868]
  --control ADDRESS:PORT     control port; unix:PATH for a UNIX socket               [127.0.0.1:0]
  --account NAME=BALANCE     an account; may be repeated
  --fault \"FAULT\"            a fault, as at the control port; may be repeated
  --tls-cert FILE --tls-key FILE --tls-ca FILE
                             TLS instead of TCP; clients need a certificate of this CA
  --no-partial               --partial no
  --no-duplicate-detection   --duplicate-detection no
  --load ADDRESS:PORT        sends load to that server and prints its throughput
  --connections N --window N --seconds N
                             with --load                                             [1, 256, 5]
Settings:
";

/// Command line.
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

/// Runs the program until it is killed.
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
        arguments.state.accounts.set_balance(name, *balance);
    }
    if arguments.listen.is_empty() {
        arguments.listen.push(SocketAddr::from(([127, 0, 0, 1], 3868)));
    }
    let server = Server::new(arguments.state, arguments.accounts, arguments.tls.config()?);
    let (port, control) = control_port(&arguments.control)?;
    let mut addresses = Vec::new();
    for address in arguments.listen {
        let taken = server.listen(address);
        let taken = taken.map_err(|error| format!("--listen {address}: {error}; is another server running?"))?;
        addresses.push(taken.to_string());
    }
    println!("ready diameter={} control={control}", addresses.join(","));
    let timers = server.clone();
    std::thread::spawn(move || timers.run_timers());
    control::serve(&server, &port)?;
    Ok(())
}

/// Opens the control port. Returns it with its address.
fn control_port(text: &str) -> Result<(Port, String), String> {
    let wrong = |error: &dyn std::fmt::Display| format!("--control {text}: {error}");
    if let Some(path) = text.strip_prefix("unix:") {
        let listener = UnixListener::bind(Path::new(path));
        let listener =
            listener.map_err(|error| format!("{}; remove the file if it is left from another run", wrong(&error)))?;
        return Ok((Port::Unix(listener), text.to_owned()));
    }
    let address: SocketAddr = text.parse().map_err(|_| wrong(&"expected ADDRESS:PORT or unix:PATH"))?;
    let listener = TcpListener::bind(address).map_err(|error| wrong(&error))?;
    let address = listener.local_addr().map_err(|error| wrong(&error))?;
    Ok((Port::Tcp(listener), address.to_string()))
}

/// Parses the command line. Returns `None` for --help.
fn arguments() -> Result<Option<Arguments>, Box<dyn Error>> {
    use lexopt::prelude::*;
    let mut arguments = Arguments {
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
            Long("listen") => arguments.listen.push(address("--listen", &parser.value()?.string()?)?),
            Long("control") => arguments.control = parser.value()?.string()?,
            Long("account") => {
                let text = parser.value()?.string()?;
                arguments.accounts.push(control::account(&text).map_err(|error| format!("--account: {error}"))?);
            }
            Long("fault") => {
                let text = parser.value()?.string()?;
                arguments.state.faults.set(&text).map_err(|error| format!("--fault: {error}"))?;
            }
            Long("tls-cert") => arguments.tls.cert = Some(parser.value()?.into()),
            Long("tls-key") => arguments.tls.key = Some(parser.value()?.into()),
            Long("tls-ca") => arguments.tls.ca = Some(parser.value()?.into()),
            Long("no-partial") => arguments.state.settings.partial = false,
            Long("no-duplicate-detection") => arguments.state.settings.duplicate_detection = false,
            Long("load") => arguments.load = Some(address("--load", &parser.value()?.string()?)?),
            Long("connections") => arguments.connections = parser.value()?.parse()?,
            Long("window") => arguments.window = parser.value()?.parse()?,
            Long("seconds") => arguments.seconds = parser.value()?.parse()?,
            Short('h') | Long("help") => return Ok(None),
            Long(name) => {
                let name = name.to_owned();
                if !Settings::NAMES.iter().any(|(known, _)| *known == name) {
                    return Err(format!("unknown option --{name}; see --help").into());
                }
                let value = parser.value()?.string()?;
                arguments.state.settings.set(&name, &value).map_err(|error| format!("--{error}"))?;
            }
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(arguments))
}

fn address(option: &str, text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{option} {text}: expected ADDRESS:PORT, for example 127.0.0.1:3868 or [::1]:3868"))
}
