//! Life cycle of a host: open before the fork, run the engine, attach workers, stop, close.

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

/// Largest number of workers (processes or threads) that may attach.
pub const IMCHARGE_PROCESSES_MAX: u32 = 1024;

/// State shared by all processes of one host. Created once, before the fork.
pub struct imcharge_handle {
    _opaque: [u8; 0],
}

/// An attached worker, which passes SIP and MSRP to the engine. One thread at a time may use it.
pub struct imcharge_worker {
    _opaque: [u8; 0],
}

/// The object of an [`imcharge_handle`].
pub(super) struct Host {
    pub(super) region: Arc<Region>,
    stop: Arc<AtomicBool>,
    engine_runs: Arc<AtomicBool>,
}

impl Handle for imcharge_handle {
    type Content = Host;
}

/// The object of an [`imcharge_worker`].
pub(super) struct Attached {
    pub(super) worker: Worker,
    pub(super) region: Arc<Region>,
    /// Answer of the last command, if it did not fit the caller's buffer.
    pub(super) answer: String,
    process: u32,
}

impl Handle for imcharge_worker {
    type Content = Attached;
}

/// Returns the result code for a worker or verdict reader that cannot be attached.
pub(super) fn attach_code(error: AttachError) -> i32 {
    match error {
        AttachError::OutOfRange(_) => IMCHARGE_OUT_OF_RANGE,
        AttachError::Taken(_) => IMCHARGE_INDEX_TAKEN,
    }
}

/// Runs `body` on an attached worker. `IMCHARGE_WRONG_STATE` in any process but the one that attached it: a child's copy
/// of the handle would write to the ring of its parent.
pub(super) fn with_worker(worker: *mut imcharge_worker, body: impl FnOnce(&mut Attached) -> Outcome) -> Outcome {
    handle::with(worker, |attached| match attached.process == std::process::id() {
        true => body(attached),
        false => Err(IMCHARGE_WRONG_STATE),
    })
}

/// Opens a host: locks the state directory, checks the ledger in it and creates the shared memory. A state directory can
/// be used by one host at a time.
///
/// Parameters:
///   config       the configuration, not NULL. It is copied; the caller still frees it.
///   processes    number of workers that will attach, 1 to IMCHARGE_PROCESSES_MAX.
///   handle       receives the handle, not NULL. Each process that has it closes it with imcharge_close.
///   error        the caller's buffer for a sentence that says what is wrong and what to do; truncated to
///                fit, terminated by NUL. May be NULL. Written only on IMCHARGE_OPEN_FAILED.
///   error_size   size of the buffer in bytes.
///
/// Returns: IMCHARGE_OK; IMCHARGE_OPEN_FAILED; IMCHARGE_OUT_OF_RANGE for a wrong number of processes; or another
/// error. Call it before the host forks, while no other thread uses this library. Child processes inherit the
/// handle and use the same pointer.
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
                // SAFETY: the buffer has `error_size` bytes, as documented above.
                unsafe { memory::sentence(error, error_size, &failed.to_string()) };
                IMCHARGE_OPEN_FAILED
            })?;
            let made =
                handle::open::<imcharge_handle>(Host { region, stop: Arc::default(), engine_runs: Arc::default() })?;
            // SAFETY: valid for writes, as documented above.
            unsafe { memory::put(place, made) };
            Ok(IMCHARGE_OK)
        })
    })
}

/// Runs the engine, which owns all sessions and balances, until imcharge_stop is called or it fails. Exactly one engine
/// may run for all processes of a host. After a failure, or if its process has died, run it again: it continues with what
/// it had committed and with the events that workers have queued since.
///
/// Parameters:
///   handle       the handle, not NULL.
///   error        the caller's buffer for a sentence that says what failed; truncated to fit, terminated by
///                NUL. May be NULL. Written only on IMCHARGE_ENGINE_FAILED.
///   error_size   size of the buffer in bytes.
///
/// Returns: IMCHARGE_OK after imcharge_stop; IMCHARGE_ENGINE_FAILED; IMCHARGE_WRONG_STATE if this process runs the
/// engine already; or another error. Blocks. Prefer a separate process, so that defects of workers cannot reach
/// the engine; a thread works too. Other threads may use the handle meanwhile.
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
        // The lock of the handle is released before the engine runs.
        let Some((region, stop, _running)) = taken else { return Err(IMCHARGE_WRONG_STATE) };
        crate::engine::run(&region, &stop).map_err(|failed| {
            // SAFETY: the buffer has `error_size` bytes, as documented above.
            unsafe { memory::sentence(error, error_size, &failed.to_string()) };
            IMCHARGE_ENGINE_FAILED
        })?;
        Ok(IMCHARGE_OK)
    })
}

/// Marks the engine as running in this process until dropped.
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

/// Tells the engine, in whichever process it runs, to settle open sessions and return. Does not wait for that and
/// cannot be undone.
///
/// Parameters:
///   handle       the handle, not NULL.
///
/// Returns: IMCHARGE_OK, or an error. Any process that has the handle, any thread. In a signal handler only if
/// imcharge_engine_run is the only call with this handle that the signal can interrupt.
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

/// Attaches a worker: a process or thread that calls the hooks.
///
/// Parameters:
///   handle       the handle, not NULL.
///   index        number of the worker, 0 to `processes` of imcharge_open minus 1. Unique among attached workers;
///                the replacement of a dead worker uses its number.
///   worker       receives the handle of the worker, not NULL. Free it with imcharge_detach.
///
/// Returns: IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_INDEX_TAKEN, or another error. Call it in the worker, after
/// the fork: the handle of the worker is valid only in this process.
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
            // SAFETY: valid for writes, as documented above.
            unsafe { memory::put(place, made) };
            Ok(IMCHARGE_OK)
        })
    })
}

/// Detaches a worker and frees its handle. The engine still processes the events that it has queued.
///
/// Parameters:
///   worker       the worker, not NULL.
///
/// Returns: IMCHARGE_OK, or an error. Only in the process that attached it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_detach(worker: *mut imcharge_worker) -> i32 {
    guard(|| handle::close(worker).map(|_| IMCHARGE_OK))
}

/// Closes the handle of this process. Attached workers and verdict readers stay usable, and the engine keeps running.
/// The state directory can be used by another host once all processes have closed the handle or ended.
///
/// Parameters:
///   handle       the handle, not NULL.
///
/// Returns: IMCHARGE_OK; IMCHARGE_BAD_HANDLE if this process has closed it already. Any process, any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_close(handle: *mut imcharge_handle) -> i32 {
    guard(|| handle::close(handle).map(|_| IMCHARGE_OK))
}
