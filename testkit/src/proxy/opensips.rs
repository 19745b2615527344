//! OpenSIPS as the proxy under test: its configuration and its management interface. OPENSIPS_SRC and OPENSIPS_BIN name
//! its sources and its program.

use super::Setup;
use crate::unique;
use serde_json::{Value, json};
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Returns the shipped configuration.
pub fn config() -> PathBuf {
    crate::repository().join("kamailio-config/opensips/opensips.cfg")
}

/// Line of the shipped configuration that further parameters are inserted after.
pub const STATE_DIR: &str = "modparam(\"imcharge\", \"state_dir\", \"/var/lib/imcharge\")";

/// Returns the program, if the environment names an OpenSIPS to test with.
pub fn program() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("OPENSIPS_SRC").and(set("OPENSIPS_BIN"))
}

/// Returns the folder of OpenSIPS's own modules: OPENSIPS_MODULES, or that of the build tree.
fn modules() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).map(PathBuf::from);
    set("OPENSIPS_MODULES").or(set("OPENSIPS_SRC").map(|source| source.join("modules"))).unwrap_or_default()
}

/// Returns the text replacements, as (from, to), that have the effect of Kamailio's `-A` definitions.
pub fn settings(setup: &Setup, folder: &Path, sip: SocketAddr, msrp: SocketAddr) -> Vec<(String, String)> {
    let parameter = |name: &str, value: &str| format!("modparam(\"imcharge\", \"{name}\", {value})");
    let mut all = vec![
        ("udp:127.0.0.1:5060".to_owned(), format!("udp:{sip}")),
        // The port alone, because a test may have changed the address before it.
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
            "WITH_CHAT" => {
                all.push(("#if ($rU".to_owned(), "if ($rU".to_owned()));
                continue;
            }
            "CHAT_CONTENT" => {
                all.push(("imcharge_reserve(0, \"both\")".to_owned(), format!("imcharge_reserve(0, {value})")));
                continue;
            }
            "OCS_PEER" => (parameter("peer", "\"host=ocs.example.com;address=127.0.0.1:3868\""), "peer"),
            "OCS_PROFILE" => (parameter("profile", "\"3gpp-ro\""), "profile"),
            other => panic!("opensips.cfg has no equivalent of the definition {other}"),
        };
        all.push((from, parameter(name, value)));
    }
    all
}

/// Returns the command that starts OpenSIPS.
pub fn command(config: &Path) -> Command {
    let mut command = Command::new(program().unwrap_or_default());
    command.arg("-F").arg("-f").arg(config).args(["-m", "256", "-M", "16"]);
    command
}

/// Runs an MI command, named as in Kamailio's RPC. Arguments are positional, or all `NAME=VALUE`. Returns the JSON
/// answer, or the JSON error.
pub fn rpc(folder: &Path, words: &[&str]) -> Result<String, String> {
    let (name, arguments) = words.split_first().ok_or("the command is missing")?;
    let method = match *name {
        "core.version" => "version".to_owned(),
        name => name.replacen("imcharge.", "imcharge:", 1),
    };
    let mut request = json!({"jsonrpc": "2.0", "id": 1, "method": method});
    if !arguments.is_empty() {
        let named: Option<serde_json::Map<String, Value>> = arguments
            .iter()
            .map(|argument| argument.split_once('=').map(|(name, value)| (name.to_owned(), json!(value))))
            .collect();
        let positional = || Value::Array(arguments.iter().map(|argument| parameter(argument)).collect());
        request["params"] = named.map_or_else(positional, Value::Object);
    }
    let answer = ask(&folder.join("ctl"), &request.to_string()).map_err(|error| error.to_string())?;
    let is_error = serde_json::from_str::<Value>(&answer).is_ok_and(|answer| answer.get("error").is_some());
    if is_error { Err(answer) } else { Ok(answer) }
}

/// Returns a string or, for text in brackets, an array of one string.
fn parameter(argument: &str) -> Value {
    match argument.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(inner) => json!([inner]),
        None => json!(argument),
    }
}

/// Sends a request to a datagram socket and returns the answer.
pub fn ask(socket: &Path, request: &str) -> io::Result<String> {
    let path = socket.with_file_name(format!("answers{}", unique()));
    let own = UnixDatagram::bind(&path)?;
    own.set_read_timeout(Some(Duration::from_secs(10)))?;
    own.send_to(request.as_bytes(), socket)?;
    let mut answer = vec![0; 1 << 18];
    let length = own.recv(&mut answer);
    let _ = std::fs::remove_file(&path);
    Ok(String::from_utf8_lossy(&answer[..length?]).into_owned())
}

/// Returns a number of a JSON-RPC answer.
pub fn number(answer: &str, name: &str) -> Option<i64> {
    serde_json::from_str::<Value>(answer).ok()?["result"][name].as_i64()
}
