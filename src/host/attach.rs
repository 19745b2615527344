//! The worker of a host process.

use super::{bindings as sys, connections};
use crate::shm::region::Region;
use crate::worker::Worker;
use once_cell::sync::OnceCell;
use std::cell::RefCell;
use std::sync::Arc;

/// The shared region: created in the main process before any fork and inherited by all processes.
pub static REGION: OnceCell<Arc<Region>> = OnceCell::new();

thread_local! {
    /// The worker of this process, attached at its first use (after the fork).
    static WORKER: RefCell<Option<Worker>> = const { RefCell::new(None) };
}

/// Runs `run` with the worker of this process. `None` if there is no region yet, the worker cannot be attached (logged), or
/// it is already in use by a caller.
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
