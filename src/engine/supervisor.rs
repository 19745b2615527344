//! The supervisor: a process of a few lines that starts the engine again whenever it dies or hangs.

use super::region::Region;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs until `stop` is set (by the caller's SIGTERM handler): forks the engine, restarts it with back-off when
/// it dies or its heartbeat stops, and at the end lets it settle, 4 s at most. Call it in a process of the
/// host made for it. The engine dies with this process.
pub fn supervise(region: &Arc<Region>, stop: &AtomicBool) {
    let _ = (region, stop);
    unimplemented!()
}
