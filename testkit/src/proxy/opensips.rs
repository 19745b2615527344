//! How an OpenSIPS is started and asked, where it is the proxy: its sources and program are named by OPENSIPS_SRC and
//! OPENSIPS_BIN, and the module lies in the folder of the setup as it does for Kamailio.

use super::Setup;
use crate::unique;
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The shipped configuration.
pub fn config() -> PathBuf {
    crate::repository().join("kamailio-config/opensips/opensips.cfg")
}

/// The line that every parameter stands behind.
pub const STATE_DIR: &str = "modparam(\"imcharge\", \"state_dir\", \"/var/lib/imcharge\")";

/// The program, where there is one to test with.
pub fn program() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("OPENSIPS_SRC").and(set("OPENSIPS_BIN"))
}

/// Where its own modules lie: those that were built with it, or those of an installed one.
fn modules() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    set("OPENSIPS_MODULES").or(set("OPENSIPS_SRC").map(|source| source.join("modules"))).unwrap_or_default()
}

/// What is set in the configuration, as a definition does for Kamailio: what is replaced, by what.
pub fn settings(setup: &Setup, folder: &Path, sip: SocketAddr, msrp: SocketAddr) -> Vec<(String, String)> {
    let parameter = |name: &str, value: &str| format!("modparam(\"imcharge\", \"{name}\", {value})");
    let mut all = vec![
        ("udp:127.0.0.1:5060".to_owned(), format!("udp:{sip}")),
        // In every form that a case gives it: the address is the shipped one.
        (":2855".to_owned(), format!(":{}", msrp.port())),
        ("127.0.0.1:5070".to_owned(), setup.server.to_string()),
        (
            "mpath=\"/usr/lib/x86_64-linux-gnu/opensips/modules/\"".to_owned(),
            format!("mpath=\"{}/\"\nmpath=\"{}/\"", setup.module.display(), modules().display()),
        ),
        ("/var/run/opensips/mi.sock".to_owned(), folder.join("ctl").display().to_string()),
        ("/var/lib/imcharge".to_owned(), folder.join("state").display().to_string()),
    ];
    for (name, value) in &setup.defines {
        let (from, name) = match *name {
            "RESPONSE_TIMEOUT" => (parameter("response_timeout", "30"), "response_timeout"),
            "TARIFF" => (parameter("tariff", "\"message:1\""), "tariff"),
            "WITH_DIAMETER" => {
                all.push(("#modparam(\"imcharge\"".to_owned(), "modparam(\"imcharge\"".to_owned()));
                continue;
            }
            "OCS_PEER" => (parameter("peer", "\"host=ocs.example.com;address=127.0.0.1:3868\""), "peer"),
            "OCS_PROFILE" => (parameter("profile", "\"3gpp-ro\""), "profile"),
            other => panic!("the configuration for OpenSIPS has no {other}"),
        };
        all.push((from, parameter(name, value)));
    }
    all
}

/// The command that starts it.
pub fn command(config: &Path) -> Command {
    let mut command = Command::new(program().unwrap_or_default());
    command.arg("-F").arg("-f").arg(config).args(["-m", "256", "-M", "16"]);
    command
}

/// Runs a command of the management interface; its answer as JSON, or the error. Names are those of Kamailio's RPC.
pub fn rpc(folder: &Path, words: &[&str]) -> Result<String, String> {
    let (name, arguments) = words.split_first().ok_or("no command")?;
    let name = match *name {
        "core.version" => "version".to_owned(),
        name => name.replacen("imcharge.", "imcharge:", 1),
    };
    let parameters = match arguments.iter().map(|argument| argument.split_once('=')).collect::<Option<Vec<_>>>() {
        _ if arguments.is_empty() => String::new(),
        // All are named.
        Some(named) => {
            let named: Vec<String> = named.iter().map(|(name, value)| format!("\"{name}\":\"{value}\"")).collect();
            format!(",\"params\":{{{}}}", named.join(","))
        }
        None => format!(",\"params\":[{}]", arguments.iter().map(quoted).collect::<Vec<_>>().join(",")),
    };
    let request = format!("{{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"{name}\"{parameters}}}");
    let answer = ask(&folder.join("ctl"), &request).map_err(|error| error.to_string())?;
    if answer.contains("\"error\":") { Err(answer) } else { Ok(answer) }
}

/// A text, or, in brackets, an array of one.
fn quoted(argument: &&str) -> String {
    match argument.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => format!("[\"{inner}\"]"),
        None => format!("\"{argument}\""),
    }
}

/// Sends a datagram to a socket that answers, from a socket beside it; the answer.
pub fn ask(socket: &Path, request: &str) -> io::Result<String> {
    let own = socket.with_file_name(format!("answers{}", unique()));
    let place = UnixDatagram::bind(&own)?;
    place.set_read_timeout(Some(Duration::from_secs(10)))?;
    place.send_to(request.as_bytes(), socket)?;
    let mut answer = vec![0; 1 << 18];
    let length = place.recv(&mut answer);
    let _ = std::fs::remove_file(&own);
    Ok(String::from_utf8_lossy(&answer[..length?]).into_owned())
}

/// A number in an answer.
pub fn number(answer: &str, name: &str) -> Option<i64> {
    let rest = answer.split(&format!("\"{name}\":")).nth(1)?;
    rest.split([',', '}']).next()?.trim().parse().ok()
}
