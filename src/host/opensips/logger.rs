//! Lines for the host's log.

use super::bindings as sys;
use crate::shm::log_limit;
use crate::shm::log_limit::{Limit, NOTICE};
use log::{Level, LevelFilter, Log, Metadata, Record};
use std::ffi::{CString, c_int};

/// The host's levels (dprint.h). Its default level is `L_NOTICE`.
fn host_level(metadata: &Metadata<'_>) -> c_int {
    match metadata.level() {
        Level::Error => sys::L_ERR,
        Level::Warn => sys::L_WARN as c_int,
        Level::Info if metadata.target() == NOTICE => sys::L_NOTICE as c_int,
        Level::Info => sys::L_INFO as c_int,
        Level::Debug | Level::Trace => sys::L_DBG as c_int,
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
        // SAFETY: the host's own level, set before it loads a module.
        metadata.target().starts_with("imcharge") && unsafe { sys::imcharge_logs(host_level(metadata)) } != 0
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let Some(after) = LIMIT.admit(record) else { return };
        let text = |text: String| CString::new(text.replace('\0', " ")).unwrap_or_default();
        let place = record.target().rsplit("::").next().unwrap_or_default();
        let (place, line) = (text(place.to_owned()), text(format!("{}{after}", record.args())));
        // SAFETY: two texts with a NUL that live beyond the call.
        unsafe { sys::imcharge_log(host_level(record.metadata()), place.as_ptr(), line.as_ptr()) };
    }

    fn flush(&self) {}
}
