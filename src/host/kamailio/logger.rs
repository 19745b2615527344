//! Lines for the host's log.

use super::{bindings as sys, text};
use crate::shm::log_limit;
use crate::shm::log_limit::{Limit, NOTICE};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::ffi::{CString, c_int};
use std::io::Write;

/// The host's levels (core/dprint.h) and their words. Without a `debug=` line it logs warnings and what is worse.
fn host_level(metadata: &Metadata<'_>) -> (c_int, c_int, &'static str) {
    match metadata.level() {
        Level::Error => (-1, libc::LOG_ERR, "ERROR"),
        Level::Warn => (0, libc::LOG_WARNING, "WARNING"),
        Level::Info if metadata.target() == NOTICE => (0, libc::LOG_NOTICE, "NOTICE"),
        Level::Info => (2, libc::LOG_INFO, "INFO"),
        Level::Debug | Level::Trace => (3, libc::LOG_DEBUG, "DEBUG"),
    }
}

/// The sink of the `log` facade.
struct HostLog;

static LOGGER: HostLog = HostLog;

static LIMIT: Limit = Limit::new();

/// Sends the module's lines to the host from now on, and panics too.
pub fn install() {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Debug);
        log_limit::log_panics();
    }
}

impl Log for HostLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // SAFETY: the host copies nothing and keeps nothing of the name.
        metadata.target().starts_with("imcharge")
            && unsafe { sys::get_debug_level(text(c"imcharge"), 8) } >= host_level(metadata).0
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(after) = LIMIT.admit(record) else { return };
        let (_, priority, word) = host_level(record.metadata());
        // SAFETY: integers and a function pointer that the host sets while it starts.
        let (to_stderr, process, syslog) = unsafe { (sys::log_stderr != 0, sys::process_no, sys::_km_log_func) };
        if to_stderr {
            let line = format!("{process:2}({}) {word}: imcharge: {}{after}\n", std::process::id(), record.args());
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
        let line =
            CString::new(format!("{word}: imcharge: {}{after}", record.args()).replace('\0', " ")).unwrap_or_default();
        if let Some(syslog) = syslog {
            // SAFETY: the format takes one text, which has a NUL and lives beyond the call.
            unsafe {
                let facility = sys::get_debug_facility(text(c"imcharge"), 8);
                syslog(priority | facility, c"%s\n".as_ptr(), line.as_ptr());
            }
        }
    }

    fn flush(&self) {}
}
