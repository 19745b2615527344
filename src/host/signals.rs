//! Signals of the supervisor.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by SIGTERM and SIGINT in the supervisor.
pub static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// Installs the signal handlers of the supervisor: it stops on SIGTERM and SIGINT and ignores signals meant for the host.
///
/// # Safety
/// Only in the supervisor's own process.
pub unsafe fn install_supervisor_handlers() {
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
