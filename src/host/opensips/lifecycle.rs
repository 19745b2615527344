//! Start of the module in the host: checks, registrations, and the supervisor.

use super::{REGION, bindings as sys, callbacks, connections, events, mi, msrp_api, parameters, process};
use super::{statistics, tm, waiting};
use crate::engine::preflight;
use crate::engine::supervisor::supervise;
use crate::guard::guard;
use crate::host::{logger, signals};
use crate::shm::notification::EventRoutes;
use std::ffi::c_int;

/// Checks the configuration and registers everything. Calls `set_workers` with the numbers of resume workers and event workers.
/// Returns 0, or -1 after a log line.
pub fn initialise(set_workers: impl FnOnce(u32, u32)) -> c_int {
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
        if let Err(error) = msrp_api::check_order() {
            log::error!("{error}");
            return -1;
        }
        if let Err(error) = msrp_api::check_own_uris() {
            log::error!("{error}");
            return -1;
        }
        set_workers(config.resume_workers, config.event_workers);
        connections::register();
        let all = [events::register, callbacks::register, waiting::register_timer, statistics::register, mi::register];
        if !all.iter().all(|register| register()) {
            log::error!("the proxy refused a registration of the module; its own log lines above name it");
            return -1;
        }
        register_fork_handler();
        0
    })
}

/// Registers [`make_region`], which the host calls before the first fork, when it has counted its processes and switched to its
/// user.
fn register_fork_handler() {
    // The host links the handler into its list, so it is never freed.
    let handler = Box::leak(Box::new(sys::internal_fork_handler {
        desc: c"imcharge".as_ptr(),
        post_fork: sys::internal_fork_handler__bindgen_ty_1 { in_child: None, in_parent: Some(make_region) },
        _next: std::ptr::null_mut(),
    }));
    // SAFETY: in the main process, with a handler that is never freed.
    unsafe { sys::register_fork_handler(handler) };
}

unsafe extern "C" fn make_region() -> c_int {
    guard(-1, || {
        // SAFETY: the number is known once all modules are initialised.
        let processes = unsafe { sys::counted_max_processes } as usize;
        if !waiting::make_counts(processes) {
            log::error!("no shared memory; start the proxy with more (option -m)");
            return -1;
        }
        match REGION.get_or_try_init(|| preflight::create_region(parameters::config(), processes)) {
            Ok(region) => {
                // Subscribers may come at any time.
                region.set_event_routes(EventRoutes::ALL);
                0
            }
            Err(error) => {
                log::error!("{error}");
                -1
            }
        }
    })
}

/// Main function of the supervisor. It needs no child_init of other modules and takes no jobs of other processes.
pub unsafe extern "C" fn supervisor(_: c_int) {
    let Some(region) = REGION.get() else { return };
    // SAFETY: this is the supervisor's process, with one thread.
    unsafe {
        signals::install_supervisor_handlers();
        process::end_with_parent(libc::SIGTERM);
        supervise(region, &signals::STOP);
        libc::_exit(0);
    }
}
