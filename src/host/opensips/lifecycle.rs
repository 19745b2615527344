//! From the start of the host to its end: checks, registrations, and the processes of the module.

use super::{REGION, TM, Tm, bindings as sys, callbacks, connections, events, exports, frames, logger, mi, parameters};
use super::{statistics, text, waiting};
use crate::engine::preflight;
use crate::engine::supervisor::supervise;
use crate::guard::guard;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by SIGTERM in the supervisor.
static STOP: AtomicBool = AtomicBool::new(false);

/// mod_init: everything that can be wrong is found now, before anything runs. -1 stops the start.
pub unsafe extern "C" fn initialise() -> c_int {
    guard(-1, || {
        logger::install();
        let config = parameters::config();
        if let Err(error) = config.check() {
            log::error!("{error}");
            return -1;
        }
        if !bind_tm() {
            log::error!("tm is not loaded: write loadmodule \"tm.so\" before loadmodule \"imcharge.so\"");
            return -1;
        }
        if let Err(error) = frames::check_order() {
            log::error!("{error}");
            return -1;
        }
        if let Err(error) = frames::check_own_uris() {
            log::error!("{error}");
            return -1;
        }
        exports::set_workers(config.resume_workers, config.event_workers);
        connections::register();
        let all = [events::register, callbacks::register, waiting::register_timer, statistics::register, mi::register];
        if !all.iter().all(|register| register()) {
            log::error!("the proxy refuses a registration; its own lines before this one say which");
            return -1;
        }
        before_fork();
        0
    })
}

/// Fills tm's table of functions.
fn bind_tm() -> bool {
    // SAFETY: the host's own way to another module's API: `load_tm` has this type in every version that is built for.
    unsafe {
        let Some(found) = sys::find_export(text(c"load_tm"), 0) else { return false };
        let load_tm = std::mem::transmute::<*const c_void, unsafe extern "C" fn(*mut sys::tm_binds) -> c_int>(
            found as *const c_void,
        );
        let mut tm = std::mem::zeroed::<sys::tm_binds>();
        load_tm(&mut tm) >= 0 && TM.set(Tm(tm)).is_ok()
    }
}

/// Asks to be called when all processes are counted and the host has become its user, before the first fork.
fn before_fork() {
    // The host keeps the handler and links it into its list.
    let handler = Box::leak(Box::new(sys::internal_fork_handler {
        desc: c"imcharge".as_ptr(),
        post_fork: sys::internal_fork_handler__bindgen_ty_1 { in_child: None, in_parent: Some(make_region) },
        _next: std::ptr::null_mut(),
    }));
    // SAFETY: in the main process, with a handler of static life.
    unsafe { sys::register_fork_handler(handler) };
}

unsafe extern "C" fn make_region() -> c_int {
    guard(-1, || {
        // SAFETY: the number is known once all modules are initialised.
        let processes = unsafe { sys::counted_max_processes } as usize;
        if !waiting::make_counts(processes) {
            log::error!("no shared memory: start the proxy with more of it (-m)");
            return -1;
        }
        match REGION.get_or_try_init(|| preflight::create_region(parameters::config(), processes)) {
            Ok(region) => {
                // Anybody may subscribe at any time.
                region.set_event_routes(true, true);
                0
            }
            Err(error) => {
                log::error!("{error}");
                -1
            }
        }
    })
}

/// The life of the supervisor. No child_init of other modules, no way for other processes' jobs: it needs neither.
pub unsafe extern "C" fn supervisor(_: c_int) {
    let Some(region) = REGION.get() else { return };
    // SAFETY: this process was made for it, with one thread.
    unsafe {
        obey_signals();
        end_with_the_host(libc::SIGTERM);
        supervise(region, &STOP);
        libc::_exit(0);
    }
}

/// Names a process of the module, which ends with the host.
///
/// # Safety
/// Only in a process that was made for this.
pub unsafe fn begin(format: &'static CStr, index: c_int) {
    // SAFETY: the host's own names for its processes; the format takes one number.
    unsafe {
        sys::set_proc_attrs(format.as_ptr(), index + 1);
        end_with_the_host(libc::SIGKILL);
    }
}

/// A proxy that fails while it starts leaves its children behind, and ours hold the state directory: they end with it.
///
/// # Safety
/// Only in a process of the module's own.
pub unsafe fn end_with_the_host(signal: c_int) {
    // SAFETY: a plain system call on this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}

/// The supervisor stops when it is told to, and is not disturbed by what is meant for the host.
///
/// # Safety
/// Only in the supervisor's own process.
unsafe fn obey_signals() {
    extern "C" fn stop(_: c_int) {
        STOP.store(true, Ordering::Relaxed);
    }
    // SAFETY: the handler only stores an atomic.
    unsafe {
        for signal in [libc::SIGTERM, libc::SIGINT] {
            libc::signal(signal, stop as extern "C" fn(c_int) as libc::sighandler_t);
        }
        for signal in [libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGPIPE] {
            libc::signal(signal, libc::SIG_IGN);
        }
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
    }
}
