//! The host's life: open before fork, run the engine in one process, attach the others.

use super::config::imcharge_config;
use super::guard::{Outcome, guard, log_panics};
use super::handle::{self, Handle};
use super::memory;
use super::result::{
    IMCHARGE_ENGINE_FAILED, IMCHARGE_INDEX_TAKEN, IMCHARGE_OK, IMCHARGE_OPEN_FAILED, IMCHARGE_OUT_OF_RANGE,
    IMCHARGE_WRONG_STATE,
};
use crate::engine::preflight;
use crate::shm::region::{AttachError, Region};
use crate::worker::Worker;
use std::ffi::c_char;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Most processes (or threads) that may attach.
pub const IMCHARGE_PROCESSES_MAX: u32 = 1024;

/// What all processes of one host share: made once, before they part.
pub struct imcharge_handle {
    _opaque: [u8; 0],
}

/// One worker's way to the engine. For one thread at a time.
pub struct imcharge_worker {
    _opaque: [u8; 0],
}

/// What stands behind an [`imcharge_handle`].
pub(super) struct Host {
    pub(super) region: Arc<Region>,
    stop: Arc<AtomicBool>,
    engine_runs: Arc<AtomicBool>,
}

impl Handle for imcharge_handle {
    type Content = Host;
}

/// What stands behind an [`imcharge_worker`].
pub(super) struct Attached {
    pub(super) worker: Worker,
    pub(super) region: Arc<Region>,
    /// The answer of the last command that did not fit the caller's buffer.
    pub(super) answer: String,
    process: u32,
}

impl Handle for imcharge_worker {
    type Content = Attached;
}

/// The error code for a worker or resumer that cannot be attached.
pub(super) fn attach_code(error: AttachError) -> i32 {
    match error {
        AttachError::OutOfRange(_) => IMCHARGE_OUT_OF_RANGE,
        AttachError::Taken(_) => IMCHARGE_INDEX_TAKEN,
    }
}

/// Runs `body` on an attached worker, in the process that attached it: a child's copy of the handle would
/// write to the ring of its parent.
pub(super) fn with_worker(worker: *mut imcharge_worker, body: impl FnOnce(&mut Attached) -> Outcome) -> Outcome {
    handle::with(worker, |attached| match attached.process == std::process::id() {
        true => body(attached),
        false => Err(IMCHARGE_WRONG_STATE),
    })
}

/// Opens: locks the state directory, checks the ledger in it and makes the shared memory. One host at a
/// time can have a state directory.
///
/// Parameters:
///   config       the configuration, not NULL; it is copied, and stays the caller's to free.
///   processes    how many workers will attach, 1 to IMCHARGE_PROCESSES_MAX.
///   handle       place for the handle, not NULL. Each process that has it closes it with imcharge_close.
///   error        the caller's buffer for a sentence that says what is wrong and what to do; cut if need be,
///                ended by NUL. May be NULL. Written only on IMCHARGE_OPEN_FAILED.
///   error_size   its size in bytes.
///
/// Returns: IMCHARGE_OK; IMCHARGE_OPEN_FAILED; IMCHARGE_OUT_OF_RANGE if `processes` is out of its range; or
/// another error. Call it before the host forks, while no other thread is in this library: the children
/// inherit the handle, and all of them use the same pointer.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_open(
    config: *mut imcharge_config,
    processes: u32,
    handle: *mut *mut imcharge_handle,
    error: *mut c_char,
    error_size: usize,
) -> i32 {
    log_panics();
    guard(|| {
        handle::with(config, |config| {
            let place = memory::place(handle)?;
            if !(1..=IMCHARGE_PROCESSES_MAX).contains(&processes) {
                return Err(IMCHARGE_OUT_OF_RANGE);
            }
            let region = preflight::create_region(config.clone(), processes as usize).map_err(|failed| {
                // SAFETY: the buffer has `error_size` bytes, by the contract above.
                unsafe { memory::sentence(error, error_size, &failed.to_string()) };
                IMCHARGE_OPEN_FAILED
            })?;
            let made =
                handle::open::<imcharge_handle>(Host { region, stop: Arc::default(), engine_runs: Arc::default() })?;
            // SAFETY: a place for a handle, by the contract above.
            unsafe { memory::put(place, made) };
            Ok(IMCHARGE_OK)
        })
    })
}

/// Runs the engine until imcharge_stop, or until it fails. It owns all sessions and money; exactly one may
/// run for all processes. After a failure, or when its process has died, run it again: it carries on from
/// what it had committed, and from the events that workers have put into their rings meanwhile.
///
/// Parameters:
///   handle       the handle, not NULL.
///   error        the caller's buffer for a sentence that says what failed; cut if need be, ended by NUL.
///                May be NULL. Written only on IMCHARGE_ENGINE_FAILED.
///   error_size   its size in bytes.
///
/// Returns: IMCHARGE_OK when stopped; IMCHARGE_ENGINE_FAILED; IMCHARGE_WRONG_STATE if this process runs it
/// already; or another error. A process of its own is best: it keeps the host's workers out of its reach.
/// A thread will do. Other threads may use the handle meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_engine_run(
    handle: *mut imcharge_handle,
    error: *mut c_char,
    error_size: usize,
) -> i32 {
    guard(|| {
        let mut taken = None;
        handle::with(handle, |host| {
            taken = Some((Arc::clone(&host.region), Arc::clone(&host.stop), Running::begin(&host.engine_runs)?));
            Ok(IMCHARGE_OK)
        })?;
        // The handle is free again: the engine runs for long.
        let Some((region, stop, _running)) = taken else { return Err(IMCHARGE_WRONG_STATE) };
        crate::engine::run(&region, &stop).map_err(|failed| {
            // SAFETY: the buffer has `error_size` bytes, by the contract above.
            unsafe { memory::sentence(error, error_size, &failed.to_string()) };
            IMCHARGE_ENGINE_FAILED
        })?;
        Ok(IMCHARGE_OK)
    })
}

/// The engine runs in this process, until this is dropped.
struct Running(Arc<AtomicBool>);

impl Running {
    fn begin(runs: &Arc<AtomicBool>) -> Result<Running, i32> {
        match runs.swap(true, Ordering::AcqRel) {
            true => Err(IMCHARGE_WRONG_STATE),
            false => Ok(Running(Arc::clone(runs))),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// Asks the engine, in whichever process it runs, to settle what is open and to return. It cannot be taken
/// back. Does not wait.
///
/// Parameters:
///   handle       the handle, not NULL.
///
/// Returns: IMCHARGE_OK, or an error. Any process that has the handle, any thread; in a signal handler only
/// where no other call with this handle but imcharge_engine_run can be interrupted by it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_stop(handle: *mut imcharge_handle) -> i32 {
    guard(|| {
        handle::with(handle, |host| {
            host.stop.store(true, Ordering::Release);
            host.region.request_stop();
            Ok(IMCHARGE_OK)
        })
    })
}

/// Attaches a worker: a process, or a thread, that calls the hooks.
///
/// Parameters:
///   handle       the handle, not NULL.
///   index        the worker's own number, below `processes` of imcharge_open. No other worker may have it at
///                the same time; one that takes the place of a dead worker takes its number.
///   worker       place for the worker's handle, not NULL. The caller gives it back with imcharge_detach.
///
/// Returns: IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_INDEX_TAKEN, or another error. Call it in the worker,
/// after fork: the worker's handle is good in this process alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_attach(
    handle: *mut imcharge_handle,
    index: u32,
    worker: *mut *mut imcharge_worker,
) -> i32 {
    guard(|| {
        handle::with(handle, |host| {
            let place = memory::place(worker)?;
            let made = handle::open::<imcharge_worker>(Attached {
                worker: Worker::attach(&host.region, index as usize).map_err(attach_code)?,
                region: Arc::clone(&host.region),
                answer: String::new(),
                process: std::process::id(),
            })?;
            // SAFETY: a place for a handle, by the contract above.
            unsafe { memory::put(place, made) };
            Ok(IMCHARGE_OK)
        })
    })
}

/// Detaches a worker and frees its handle. What it has put into its ring is still read.
///
/// Parameters:
///   worker       the worker, not NULL.
///
/// Returns: IMCHARGE_OK, or an error. The process that attached it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_detach(worker: *mut imcharge_worker) -> i32 {
    guard(|| handle::close(worker).map(|_| IMCHARGE_OK))
}

/// Closes this process's handle. Workers and resumers that are still attached keep what they need. The state
/// directory is free for another host when every process has closed it or ended. It does not stop the engine.
///
/// Parameters:
///   handle       the handle, not NULL.
///
/// Returns: IMCHARGE_OK; IMCHARGE_BAD_HANDLE if this process has closed it already. Any process.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_close(handle: *mut imcharge_handle) -> i32 {
    guard(|| handle::close(handle).map(|_| IMCHARGE_OK))
}
