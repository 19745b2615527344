//! Shared by the tests, benchmarks and examples: SIP and MSRP parties, the proxy as a child process, the OCS simulator,
//! PostgreSQL servers, a load generator and a certificate authority.

pub mod certificates;
mod events;
pub mod ladder;
pub mod load;
pub mod ocs;
pub mod parties;
pub mod postgres;
pub mod proxy;

pub use events::{CLIENT, ENABLER, Event, Events, PROXY, SERVER};

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the test kit is in a folder of the repository")
}

/// Returns the microseconds since the Unix epoch.
pub fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Returns a number for identifiers that no other call returns, in this process or in a later one.
pub fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // The start time separates processes.
    static START: std::sync::LazyLock<u64> = std::sync::LazyLock::new(unix_micros);
    *START * 1000 + next
}

/// Sends a signal, for example `TERM`, to a process, or to a process group if `target` is negative. Uses the shell's
/// built-in `kill`, because a minimal Debian has no such program.
pub fn send_signal(signal: &str, target: i64) {
    let script = ["-c", "kill -s \"$1\" -- \"$2\"", "sh", signal, &target.to_string()];
    // Fails if the process has already exited, which is fine.
    let _ = Command::new("sh").args(script).stderr(Stdio::null()).status();
}

/// Polls `done` every 10 ms until it returns `true`. Returns `false` on timeout.
pub fn eventually(within: Duration, mut done: impl FnMut() -> bool) -> bool {
    let started = Instant::now();
    loop {
        if done() {
            return true;
        }
        if started.elapsed() > within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
