//! A host process's way to the engine.

use super::{bindings as sys, connections};
use crate::shm::region::Region;
use crate::worker::Worker;
use once_cell::sync::OnceCell;
use std::cell::RefCell;
use std::sync::Arc;

/// The shared region: made in the main process before any fork, inherited by all.
pub static REGION: OnceCell<Arc<Region>> = OnceCell::new();

thread_local! {
    /// This process's way to the engine, attached at its first use (after the fork).
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Runs something with this process's worker; `None` where there is none: before the start is complete.
pub fn with_worker<R>(run: impl FnOnce(&mut Worker) -> R) -> Option<R> {
    let region = REGION.get()?;
    WORKER.with(|worker| {
        let mut worker = worker.try_borrow_mut().ok()?;
        if worker.is_none() {
            // SAFETY: an integer that the host sets once in each process, right after the fork.
            let process = usize::try_from(unsafe { sys::process_no }).ok()?;
            let attached = Worker::attach(region, process)
                .inspect_err(|error| log::error!("process {process} cannot charge: {error}"))
                .ok()?;
            *worker = Some(attached.with_own_addresses(connections::is_own_address));
        }
        worker.as_mut().map(run)
    })
}
