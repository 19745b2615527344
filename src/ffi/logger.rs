//! Delivers log lines to a callback of the host.

use super::guard::guard;
use super::result::{IMCHARGE_NULL_ARGUMENT, IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_WRONG_STATE};
use crate::shm::log_limit::Limit;
use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

/// Log level: failures.
pub const IMCHARGE_LOG_ERROR: i32 = 1;
/// Log level: possible problems.
pub const IMCHARGE_LOG_WARNING: i32 = 2;
/// Log level: normal events.
pub const IMCHARGE_LOG_INFO: i32 = 3;
/// Log level: details for debugging.
pub const IMCHARGE_LOG_DEBUG: i32 = 4;
/// Log level: all lines.
pub const IMCHARGE_LOG_TRACE: i32 = 5;

/// Receives one log line. `userdata` is the pointer passed to imcharge_set_logger, `level` one of IMCHARGE_LOG_ERROR to
/// IMCHARGE_LOG_TRACE. `text` is UTF-8 of `length` bytes without a NUL and valid only during the call. Called by any
/// thread, also concurrently. It must not call this library.
pub type imcharge_log_callback =
    Option<unsafe extern "C" fn(userdata: *mut c_void, level: i32, text: *const c_char, length: usize)>;

/// The host's callback as a sink of the `log` facade.
struct Sink {
    callback: unsafe extern "C" fn(*mut c_void, i32, *const c_char, usize),
    userdata: *mut c_void,
}

// SAFETY: the host guarantees that any thread may call the callback with this pointer, which is never dereferenced here.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

static LIMIT: Limit = Limit::new();

static SINK: OnceLock<Sink> = OnceLock::new();

impl log::Log for Sink {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let Some(after) = LIMIT.admit(record) else { return };
        let level = match record.level() {
            log::Level::Error => IMCHARGE_LOG_ERROR,
            log::Level::Warn => IMCHARGE_LOG_WARNING,
            log::Level::Info => IMCHARGE_LOG_INFO,
            log::Level::Debug => IMCHARGE_LOG_DEBUG,
            log::Level::Trace => IMCHARGE_LOG_TRACE,
        };
        let text = record.args().to_string() + &after;
        // SAFETY: guaranteed by the caller of imcharge_set_logger; the text lives until the call returns.
        unsafe { (self.callback)(self.userdata, level, text.as_ptr().cast(), text.len()) }
    }

    fn flush(&self) {}
}

/// Sets the callback that receives log lines. Without it the library logs nothing. Lines never contain message bodies.
///
/// Parameters:
///   level        finest level to log, IMCHARGE_LOG_ERROR to IMCHARGE_LOG_TRACE.
///   callback     the callback, not NULL. It and `userdata` must stay valid as long as this process and its children live.
///   userdata     passed to the callback unchanged. May be NULL.
///
/// Returns: IMCHARGE_OK; IMCHARGE_OUT_OF_RANGE for an unknown level; IMCHARGE_WRONG_STATE if a logger has been set already
/// in this process or before it was forked. Call it before imcharge_open.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_set_logger(
    level: i32,
    callback: imcharge_log_callback,
    userdata: *mut c_void,
) -> i32 {
    guard(|| {
        let callback = callback.ok_or(IMCHARGE_NULL_ARGUMENT)?;
        let level = match level {
            IMCHARGE_LOG_ERROR => log::LevelFilter::Error,
            IMCHARGE_LOG_WARNING => log::LevelFilter::Warn,
            IMCHARGE_LOG_INFO => log::LevelFilter::Info,
            IMCHARGE_LOG_DEBUG => log::LevelFilter::Debug,
            IMCHARGE_LOG_TRACE => log::LevelFilter::Trace,
            _ => return Err(IMCHARGE_OUT_OF_RANGE),
        };
        SINK.set(Sink { callback, userdata }).map_err(|_| IMCHARGE_WRONG_STATE)?;
        let sink = SINK.get().ok_or(IMCHARGE_WRONG_STATE)?;
        log::set_logger(sink).map_err(|_| IMCHARGE_WRONG_STATE)?;
        log::set_max_level(level);
        Ok(IMCHARGE_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use log::Log;

    unsafe extern "C" fn keep(userdata: *mut c_void, level: i32, text: *const c_char, length: usize) {
        // SAFETY: the test passes a vector that outlives the call, and the sink passes text of this length.
        let (lines, text) = unsafe {
            (&mut *userdata.cast::<Vec<(i32, Vec<u8>)>>(), std::slice::from_raw_parts(text.cast::<u8>(), length))
        };
        lines.push((level, text.to_vec()));
    }

    #[test]
    fn log_line_has_level_and_whole_text() {
        let mut lines: Vec<(i32, Vec<u8>)> = Vec::new();
        let sink = Sink { callback: keep, userdata: (&raw mut lines).cast() };
        sink.log(&log::Record::builder().level(log::Level::Warn).args(format_args!("a {}", "line")).build());
        sink.log(&log::Record::builder().level(log::Level::Error).args(format_args!("b")).build());
        assert_eq!(lines, [(IMCHARGE_LOG_WARNING, b"a line".to_vec()), (IMCHARGE_LOG_ERROR, b"b".to_vec())]);
    }
}
