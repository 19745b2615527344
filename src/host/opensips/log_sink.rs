//! Writes lines to the host's log.

use super::bindings as sys;
use crate::shm::log_limit::NOTICE;
use log::{Level, Metadata, Record};
use std::ffi::{CString, c_int};

/// Returns the host's level (dprint.h). The host's default level is `L_NOTICE`.
fn host_level(metadata: &Metadata<'_>) -> c_int {
    match metadata.level() {
        Level::Error => sys::L_ERR,
        Level::Warn => sys::L_WARN as c_int,
        Level::Info if metadata.target() == NOTICE => sys::L_NOTICE as c_int,
        Level::Info => sys::L_INFO as c_int,
        Level::Debug | Level::Trace => sys::L_DBG as c_int,
    }
}

/// Whether the host logs lines of this level.
pub fn is_enabled(metadata: &Metadata<'_>) -> bool {
    // SAFETY: the host's function, usable before it loads a module.
    unsafe { sys::imcharge_logs(host_level(metadata)) != 0 }
}

/// Writes a line to the host's log. The module of the line takes the place of the host's function name.
pub fn write(record: &Record<'_>, suffix: &str) {
    let text = |text: String| CString::new(text.replace('\0', " ")).unwrap_or_default();
    let place = record.target().rsplit("::").next().unwrap_or_default();
    let (place, line) = (text(place.to_owned()), text(format!("{}{suffix}", record.args())));
    // SAFETY: two texts that are terminated by NUL and outlive the call.
    unsafe { sys::imcharge_log(host_level(record.metadata()), place.as_ptr(), line.as_ptr()) };
}
