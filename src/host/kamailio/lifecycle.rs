//! From the start of the host to its end: checks, registrations, and the processes of the module.

use super::guard::guard;
use super::{
    REGION, TM, Tm, bindings as sys, callbacks, events, frames, logger, parameters, resume, rpc, statistics, text,
};
use crate::engine::preflight;
use crate::engine::supervisor::supervise;
use crate::shm::region::Region;
use crate::shm::script_runs::Process;
use std::ffi::{CStr, CString, c_int};
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by SIGTERM in the supervisor.
static STOP: AtomicBool = AtomicBool::new(false);

/// Name of the event route that hears of debits.
pub const DEBITED: &CStr = c"imcharge:debited";

/// Name of the event route that hears of failures of the enabler.
pub const FAILED: &CStr = c"imcharge:failed";

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
        // SAFETY: host calls of mod_init; the KEMI list is made once for all modules.
        let announced = unsafe {
            let workers =
                config.resume_workers as c_int + if wants_events() { config.event_workers as c_int } else { 0 };
            sys::cfg_register_child(workers);
            sys::sr_kemi_cbname_list_init() >= 0 && sys::register_procs(1 + workers) >= 0
        };
        frames::register();
        if !(announced && callbacks::register() && statistics::register() && rpc::register()) {
            log::error!("the proxy refuses a registration; its own lines before this one say which");
            return -1;
        }
        0
    })
}

/// Fills tm's table of functions.
fn bind_tm() -> bool {
    // SAFETY: the host's own way to another module's API: `load_tm` has this type in every version that is built for.
    unsafe {
        let Some(found) = sys::find_export(text(c"load_tm"), -1, 0) else { return false };
        let load_tm = std::mem::transmute::<
            unsafe extern "C" fn(*mut sys::sip_msg, *mut i8, *mut i8) -> c_int,
            unsafe extern "C" fn(*mut sys::tm_binds) -> c_int,
        >(found);
        let mut tm = std::mem::zeroed::<sys::tm_binds>();
        load_tm(&mut tm) >= 0 && TM.set(Tm(tm)).is_ok()
    }
}

/// child_init: the region before the first fork, the module's own processes in the main one.
pub unsafe extern "C" fn initialise_child(rank: c_int) -> c_int {
    guard(-1, || match rank {
        sys::PROC_INIT => make_region(),
        rank if rank == sys::PROC_MAIN as c_int => fork_processes(),
        _ => 0,
    })
}

fn make_region() -> c_int {
    // SAFETY: the number is known once all modules are initialised.
    let processes = usize::try_from(unsafe { sys::get_max_procs() }).unwrap_or(0);
    match REGION.get_or_try_init(|| preflight::create_region(parameters::config(), processes)) {
        Ok(region) => {
            region.want_notices(events::wants(DEBITED), events::wants(FAILED));
            0
        }
        Err(error) => {
            log::error!("{error}");
            -1
        }
    }
}

/// Whether the script has something for the event workers to run.
fn wants_events() -> bool {
    events::wants(DEBITED) || events::wants(FAILED)
}

/// Forks the supervisor, the resume workers and, where the script has event routes, the event workers.
fn fork_processes() -> c_int {
    let Some(region) = REGION.get() else { return -1 };
    // SAFETY: forks of the main process in child_init, as the host wants them. The supervisor gets no child_init of
    // other modules and no way to the TCP process: it needs neither.
    unsafe {
        match sys::fork_process(sys::PROC_NOCHLDINIT, text(c"imcharge supervisor"), 0) {
            pid if pid < 0 => return -1,
            0 => {
                obey_signals();
                supervise(region, &STOP);
                libc::_exit(0);
            }
            _ => {}
        }
        let resumers = (0..region.resumers()).map(Process::Resume);
        let events = (0..if wants_events() { region.event_workers() } else { 0 }).map(Process::Events);
        for process in resumers.chain(events) {
            let name = CString::new(process.to_string()).unwrap_or_default().into_raw();
            match sys::fork_process(sys::PROC_RPC, name, 1) {
                pid if pid < 0 => return -1,
                0 => {
                    if sys::cfg_child_init() != 0 {
                        return -1;
                    }
                    resume::work(process);
                }
                _ => {}
            }
        }
    }
    0
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
