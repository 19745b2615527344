//! Start of the module in the host: checks, registrations, and the processes of the module.

use super::{REGION, bindings as sys, callbacks, events, frames, parameters, resume, rpc, statistics, text, tm};
use crate::engine::preflight;
use crate::engine::supervisor::supervise;
use crate::guard::guard;
use crate::host::{logger, signals};
use crate::shm::notification::EventRoutes;
use crate::shm::script_runs::Process;
use std::ffi::{CStr, CString, c_int};

/// Event route that runs for each debit.
pub const DEBITED: &CStr = c"imcharge:debited";

/// Event route that runs when a reservation fails because of the charging back end.
pub const FAILED: &CStr = c"imcharge:failed";

/// Event route that runs when the units left of an account have fallen to `low_balance`.
pub const LOW_BALANCE: &CStr = c"imcharge:low-balance";

/// mod_init: checks the configuration and registers everything. Returns -1 to stop the start of the proxy.
pub unsafe extern "C" fn initialise() -> c_int {
    guard(-1, || {
        logger::install();
        let config = parameters::config();
        if let Err(error) = config.check() {
            log::error!("{error}");
            return -1;
        }
        if !tm::bind() {
            log::error!("the module tm is not loaded; put loadmodule \"tm.so\" before loadmodule \"imcharge.so\"");
            return -1;
        }
        // SAFETY: host functions that are meant for mod_init; the KEMI list is created once for all modules.
        let announced = unsafe {
            let workers = config.resume_workers as c_int
                + if wanted_events().has_any() { config.event_workers as c_int } else { 0 };
            sys::cfg_register_child(workers);
            sys::sr_kemi_cbname_list_init() >= 0 && sys::register_procs(1 + workers) >= 0
        };
        frames::register();
        if !(announced && callbacks::register() && statistics::register() && rpc::register()) {
            log::error!("the proxy refused a registration of the module; its own log lines above name it");
            return -1;
        }
        0
    })
}

/// child_init: creates the region before the first fork, and forks the module's processes in the main process.
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
            region.set_event_routes(wanted_events());
            0
        }
        Err(error) => {
            log::error!("{error}");
            -1
        }
    }
}

/// Returns the events that the script handles, by event routes or a KEMI callback.
fn wanted_events() -> EventRoutes {
    let [debited, failed, low_balance] = [DEBITED, FAILED, LOW_BALANCE].map(events::wants);
    EventRoutes { debited, failed, low_balance }
}

/// Forks the supervisor, the resume workers and, if the script has event routes, the event workers.
fn fork_processes() -> c_int {
    let Some(region) = REGION.get() else { return -1 };
    // SAFETY: forks of the main process in child_init, as the host requires. The supervisor needs neither the child_init of
    // other modules nor a connection to the TCP process, so it gets none.
    unsafe {
        match sys::fork_process(sys::PROC_NOCHLDINIT, text(c"imcharge supervisor"), 0) {
            pid if pid < 0 => return -1,
            0 => {
                signals::install_supervisor_handlers();
                supervise(region, &signals::STOP);
                libc::_exit(0);
            }
            _ => {}
        }
        let resume_workers = (0..region.resume_workers()).map(Process::Resume);
        let events = (0..if wanted_events().has_any() { region.event_workers() } else { 0 }).map(Process::Events);
        for process in resume_workers.chain(events) {
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
