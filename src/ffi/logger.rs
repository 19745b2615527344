//! The library's log lines, to the host.

use super::guard::guard;
use super::result::{IMCHARGE_NULL_ARGUMENT, IMCHARGE_OK, IMCHARGE_OUT_OF_RANGE, IMCHARGE_WRONG_STATE};
use crate::shm::log_limit::Limit;
use std::ffi::{c_char, c_void};
use std::sync::OnceLock;

/// Log level: something failed.
pub const IMCHARGE_LOG_ERROR: i32 = 1;
/// Log level: something may be wrong.
pub const IMCHARGE_LOG_WARNING: i32 = 2;
/// Log level: what happened.
pub const IMCHARGE_LOG_INFO: i32 = 3;
/// Log level: for those who look for a defect.
pub const IMCHARGE_LOG_DEBUG: i32 = 4;
/// Log level: everything.
pub const IMCHARGE_LOG_TRACE: i32 = 5;

/// Gets a log line: `userdata` as given, one of IMCHARGE_LOG_ERROR to IMCHARGE_LOG_TRACE, and the text, which is
/// UTF-8, does not end in NUL and is gone when the callback returns. Any thread of this library may call it,
/// several at once. It must not call this library.
pub type imcharge_log_callback =
    Option<unsafe extern "C" fn(userdata: *mut c_void, level: i32, text: *const c_char, length: usize)>;

/// Where lines go.
struct Sink {
    callback: unsafe extern "C" fn(*mut c_void, i32, *const c_char, usize),
    userdata: *mut c_void,
}

// SAFETY: the host promises a callback that any thread may call with this pointer, which is never followed here.
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
        // SAFETY: the host's promise at imcharge_set_logger; the text lives until the call is over.
        unsafe { (self.callback)(self.userdata, level, text.as_ptr().cast(), text.len()) }
    }

    fn flush(&self) {}
}

/// Sends the library's log lines to the host. Without it there are none. No line has a message body in it.
///
/// Parameters:
///   level        the finest level wanted, IMCHARGE_LOG_ERROR to IMCHARGE_LOG_TRACE.
///   callback     gets the lines, not NULL. It and `userdata` must stay good while the process lives, and in
///                every child of it.
///   userdata     given to the callback as it is. May be NULL.
///
/// Returns: IMCHARGE_OK; IMCHARGE_OUT_OF_RANGE if it is no level; IMCHARGE_WRONG_STATE if this process, or the
/// one it was forked from, has set it already. Call it before imcharge_open.
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
        // SAFETY: the test gives a vector that outlives the call, and the sink gives text of this length.
        let (lines, text) = unsafe {
            (&mut *userdata.cast::<Vec<(i32, Vec<u8>)>>(), std::slice::from_raw_parts(text.cast::<u8>(), length))
        };
        lines.push((level, text.to_vec()));
    }

    #[test]
    fn a_line_comes_with_its_level_and_its_whole_text() {
        let mut lines: Vec<(i32, Vec<u8>)> = Vec::new();
        let sink = Sink { callback: keep, userdata: (&raw mut lines).cast() };
        sink.log(&log::Record::builder().level(log::Level::Warn).args(format_args!("a {}", "line")).build());
        sink.log(&log::Record::builder().level(log::Level::Error).args(format_args!("b")).build());
        assert_eq!(lines, [(IMCHARGE_LOG_WARNING, b"a line".to_vec()), (IMCHARGE_LOG_ERROR, b"b".to_vec())]);
    }
}
