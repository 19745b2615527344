//! The host's table of parameters, and the values set while the host reads its configuration.

use super::bindings as sys;
use crate::config::{Config, ConfigError, PARAMETERS, Parameter, ParameterHost, ParameterType};
use crate::guard::guard;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

/// The values set so far.
static CONFIG: Mutex<Option<Config>> = Mutex::new(None);

/// The parameter `subscriber`, if it is a text with pseudo-variables.
static SUBSCRIBER: Mutex<Option<Format>> = Mutex::new(None);

/// The parameter `direction`, if it is a text with pseudo-variables.
static DIRECTION: Mutex<Option<Format>> = Mutex::new(None);

/// A parsed text with pseudo-variables in the host's private memory. Created before the fork, read after it.
#[derive(Clone, Copy)]
pub struct Format(pub sys::pv_elem_p);

// SAFETY: the parsed format is read-only, and each process has its own copy after the fork.
unsafe impl Send for Format {}

/// Returns the configuration, with defaults where nothing was set.
pub fn config() -> Config {
    CONFIG.lock().ok().and_then(|config| config.clone()).unwrap_or_default()
}

/// Returns `subscriber`, if it is a text with pseudo-variables.
pub fn subscriber() -> Option<Format> {
    SUBSCRIBER.lock().ok().and_then(|format| *format)
}

/// Returns `direction`, if it is a text with pseudo-variables.
pub fn direction() -> Option<Format> {
    DIRECTION.lock().ok().and_then(|format| *format)
}

/// Sets one parameter. Returns 0, or -1 after a log line that names the parameter, the value and the accepted values.
fn set(parameter: &Parameter, value: &str) -> c_int {
    super::logger::install();
    if parameter.kind == ParameterType::Format && value.contains('$') {
        return set_format(parameter, value);
    }
    let Ok(mut config) = CONFIG.lock() else { return -1 };
    parameter.set(config.get_or_insert_default(), value).map_or_else(
        |error| {
            log::error!("{error}");
            -1
        },
        |()| 0,
    )
}

/// Sets a parameter to a text with pseudo-variables.
fn set_format(parameter: &Parameter, value: &str) -> c_int {
    // The host keeps pointers into the text, so it is never freed; the host expects a NUL after it.
    let text = Box::leak(format!("{value}\0").into_boxed_str());
    let mut whole = sys::_str { s: text.as_mut_ptr().cast(), len: value.len() as c_int };
    let mut format: sys::pv_elem_p = std::ptr::null_mut();
    // SAFETY: both arguments are valid for the call, and the text is never freed.
    if unsafe { sys::pv_parse_format(&raw mut whole, &mut format) } < 0 {
        log::error!("{}", ConfigError::new(parameter.name(), value, parameter.accepted));
        return -1;
    }
    let target = if parameter.name() == "subscriber" { &SUBSCRIBER } else { &DIRECTION };
    target.lock().map_or(-1, |mut target| {
        *target = Some(Format(format));
        0
    })
}

/// Sets the parameter in row `ROW` of the table.
///
/// # Safety
/// If `kind` is an integer, the host passes the number in the pointer, otherwise a C string that lives during the call.
unsafe extern "C" fn set_row<const ROW: usize>(kind: c_uint, value: *mut c_void) -> c_int {
    guard(-1, || {
        let Some(parameter) = PARAMETERS.get(ROW) else { return -1 };
        if kind & sys::PARAM_INT != 0 {
            return set(parameter, &(value as isize as c_int).to_string());
        }
        if value.is_null() {
            return -1;
        }
        // SAFETY: not an integer, so a C string that lives during the call.
        let text = unsafe { CStr::from_ptr(value.cast::<c_char>()) };
        match text.to_str() {
            Ok(text) => set(parameter, text),
            Err(_) => {
                log::error!("parameter {}: the value is not UTF-8", parameter.name());
                -1
            }
        }
    })
}

/// The host's type of a setter.
type Setter = unsafe extern "C" fn(c_uint, *mut c_void) -> c_int;

/// The setter of each row.
const SETTERS: [Setter; 64] = entries!(set_row);

/// Rows of the host's table. Integers have a second row, for strings, and a row of zeros ends the table.
pub const ROWS: usize = 2 * SETTERS.len() + 1;

/// The host that this module is not built for; its parameters are left out.
#[cfg(feature = "kamailio")]
const OTHER_HOST: ParameterHost = ParameterHost::OpenSips;
#[cfg(feature = "opensips")]
const OTHER_HOST: ParameterHost = ParameterHost::Kamailio;

/// Returns the host's table of parameters.
pub const fn table() -> [sys::param_export; ROWS] {
    let end = sys::param_export { name: std::ptr::null_mut(), type_: 0, param_pointer: std::ptr::null_mut() };
    let mut rows = [end; ROWS];
    let (mut row, mut next) = (0, 0);
    while row < PARAMETERS.len() {
        let parameter = &PARAMETERS[row];
        if parameter.host as u8 != OTHER_HOST as u8 {
            rows[next] = export(parameter.c_name(), sys::PARAM_STRING, SETTERS[row]);
            next += 1;
            if let ParameterType::Integer = parameter.kind {
                rows[next] = export(parameter.c_name(), sys::PARAM_INT, SETTERS[row]);
                next += 1;
            }
        }
        row += 1;
    }
    rows
}

const fn export(name: &CStr, kind: c_uint, setter: Setter) -> sys::param_export {
    sys::param_export {
        name: name.as_ptr().cast_mut(),
        type_: kind | sys::IMCHARGE_PARAM_USE_FUNC,
        param_pointer: setter as *mut c_void,
    }
}
