//! Writes lines to the host's log.

use super::{bindings as sys, text};
use crate::shm::log_limit::NOTICE;
use log::{Level, Metadata, Record};
use std::ffi::{CString, c_int};
use std::io::Write;

/// Returns the host's level (core/dprint.h), the syslog priority and the host's name of the level. Without the setting
/// `debug` the host logs warnings and errors.
fn host_level(metadata: &Metadata<'_>) -> (c_int, c_int, &'static str) {
    match metadata.level() {
        Level::Error => (-1, libc::LOG_ERR, "ERROR"),
        Level::Warn => (0, libc::LOG_WARNING, "WARNING"),
        Level::Info if metadata.target() == NOTICE => (0, libc::LOG_NOTICE, "NOTICE"),
        Level::Info => (2, libc::LOG_INFO, "INFO"),
        Level::Debug | Level::Trace => (3, libc::LOG_DEBUG, "DEBUG"),
    }
}

/// Whether the host logs lines of this level.
pub fn is_enabled(metadata: &Metadata<'_>) -> bool {
    // SAFETY: the host only compares the name.
    unsafe { sys::get_debug_level(text(c"imcharge"), 8) >= host_level(metadata).0 }
}

/// Writes a line to standard error or syslog, as the host does with its own.
pub fn write(record: &Record<'_>, suffix: &str) {
    let (_, priority, word) = host_level(record.metadata());
    // SAFETY: integers and a function pointer that the host sets while it starts.
    let (to_stderr, process, syslog) = unsafe { (sys::log_stderr != 0, sys::process_no, sys::_km_log_func) };
    if to_stderr {
        let line = format!("{process:2}({}) {word}: imcharge: {}{suffix}\n", std::process::id(), record.args());
        let _ = std::io::stderr().write_all(line.as_bytes());
        return;
    }
    let line = format!("{word}: imcharge: {}{suffix}", record.args()).replace('\0', " ");
    let line = CString::new(line).unwrap_or_default();
    if let Some(syslog) = syslog {
        // SAFETY: the format takes one text, which is terminated by NUL and outlives the call.
        unsafe {
            let facility = sys::get_debug_facility(text(c"imcharge"), 8);
            syslog(priority | facility, c"%s\n".as_ptr(), line.as_ptr());
        }
    }
}
