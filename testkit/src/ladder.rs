//! Message ladders of a proxy's sessions, to be printed.

use crate::eventually;
use crate::proxy::Proxy;
use std::time::Duration;

/// Time within which the sessions close.
const SOON: Duration = Duration::from_secs(10);

/// Waits until this number of sessions of a call are closed, and returns their ladders as `imcharge.ladder` draws them.
pub fn of_call(proxy: &Proxy, call_id: &str, sessions: i64) -> Result<Vec<String>, String> {
    let closed = format!("SELECT count(*) FROM sessions WHERE call_id='{call_id}' AND closed_at IS NOT NULL");
    eventually(SOON, || proxy.count(&closed) == sessions);
    let ladder = proxy.rpc(&["imcharge.ladder", call_id])?;
    Ok(ladder.lines().filter_map(|line| printable(line.trim_start())).collect())
}

/// Converts a line of the answer; `None`: it is not printed.
fn printable(line: &str) -> Option<String> {
    match line.split_once(": ").unwrap_or_default() {
        ("account", value) => Some(format!("  charged: {value}")),
        ("columns", value) => {
            let columns = value.trim_start().trim_start_matches("ms").trim_start();
            Some(format!("{:>10}  {columns}", "ms"))
        }
        _ => line.find('│').map(|at| {
            let time = line.split("  ").next().unwrap_or_default();
            format!("{time:>10}  {}", &line[at..])
        }),
    }
}
