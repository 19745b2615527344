//! Kamailio as the proxy under test: its command line and kamcmd.

use super::Setup;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Returns the shipped configuration.
pub fn config() -> PathBuf {
    crate::repository().join("kamailio-config/kamailio/kamailio.cfg")
}

/// Line of the shipped configuration that further parameters are inserted after.
pub const STATE_DIR: &str = "modparam(\"imcharge\", \"state_dir\", STATE_DIR)";

/// Returns the command that starts Kamailio: KAMAILIO_BIN with the stock modules of KAMAILIO_MODULES, or Debian's.
pub fn command(setup: &Setup, folder: &Path, config: &Path, sip: SocketAddr, msrp: SocketAddr) -> Command {
    let stock =
        std::env::var("KAMAILIO_MODULES").unwrap_or_else(|_| "/usr/lib/x86_64-linux-gnu/kamailio/modules".to_owned());
    let quoted = |path: PathBuf| format!("\"{}\"", path.display());
    let program = std::env::var("KAMAILIO_BIN").unwrap_or_else(|_| "/usr/sbin/kamailio".to_owned());
    let mut words = setup.under.iter().chain([&program]);
    let mut command = Command::new(words.next().unwrap_or(&program));
    command.args(words).arg("-f").arg(config).arg("-L").arg(format!("{}:{stock}", setup.module.display()));
    command.arg("-Y").arg(folder.join("run")).arg("-P").arg(folder.join("run/pid"));
    command.args(["-DD", "-E", "-m", "256", "-M", "16"]).args(&setup.arguments);
    let mut defines = vec![
        ("SIP_LISTEN", format!("udp:{sip}")),
        ("MSRP_LISTEN", format!("tcp:{msrp}")),
        ("IM_SERVER", format!("\"sip:{}\"", setup.server)),
        ("STATE_DIR", quoted(folder.join("state"))),
        ("CTL_SOCKET", format!("\"unix:{}\"", folder.join("ctl").display())),
    ];
    defines.extend(setup.defines.iter().cloned());
    for (name, value) in defines {
        command.arg("-A").arg(format!("{name}={value}"));
    }
    command
}

/// Runs kamcmd with these words. Returns its output, or its error text.
pub fn kamcmd<S: AsRef<OsStr>>(folder: &Path, words: &[S]) -> Result<String, String> {
    let socket = format!("unix:{}", folder.join("ctl").display());
    let run = Command::new("kamcmd").args(["-s", &socket]).args(words).output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    match run.status.success() && !text.starts_with("error:") {
        true => Ok(text),
        false => Err(text + &String::from_utf8_lossy(&run.stderr)),
    }
}

/// Returns a number of a kamcmd answer.
pub fn number(answer: &str, name: &str) -> Option<i64> {
    let line = answer.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    line.and_then(|value| value.parse().ok())
}

/// Quotes an argument so that kamcmd takes it for a string, not for a number or an option.
pub fn kamcmd_text(word: &str) -> String {
    let is_text = |first: char| first.is_ascii_alphabetic() && word.parse::<f64>().is_err() && !word.starts_with("s:");
    if word.starts_with(is_text) { word.into() } else { format!("s:{word}") }
}
