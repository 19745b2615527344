//! What the tests, benchmarks and examples share: SIP and MSRP parties, the proxy as a child process, the OCS simulator
//! and a load generator.

mod events;
pub mod load;
pub mod ocs;
pub mod parties;
pub mod proxy;

pub use events::{CLIENT, ENABLER, Event, Events, PROXY, SERVER};

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Returns the root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the test kit is in a folder of the repository")
}

/// Microseconds since 1970.
pub fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// A number that no other call in this process gets, for ids.
pub fn unique() -> u64 {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // Ids of another process must not come again: the clock of the start tells them apart.
    static START: std::sync::LazyLock<u64> = std::sync::LazyLock::new(unix_micros);
    *START * 1000 + next
}

/// Sends a signal (`TERM`) to a process, or to a group where the number is negative. The shell's own `kill` does it: a
/// small Debian has no program of that name.
pub fn send_signal(signal: &str, target: i64) {
    let script = ["-c", "kill -s \"$1\" -- \"$2\"", "sh", signal, &target.to_string()];
    // A process that has gone already needs none.
    let _ = Command::new("sh").args(script).stderr(Stdio::null()).status();
}

/// Waits until `done` says so. `false`: not within the time.
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
