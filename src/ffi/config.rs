//! Functions that create and fill a configuration.

use super::guard::guard;
use super::handle::{self, Handle};
use super::memory;
use super::result::{IMCHARGE_BAD_LENGTH, IMCHARGE_BAD_PARAMETER, IMCHARGE_NAME_MAX, IMCHARGE_OK, IMCHARGE_VALUE_MAX};
use crate::config::Config;
use std::ffi::c_char;

/// A configuration: the values of all parameters.
pub struct imcharge_config {
    _opaque: [u8; 0],
}

impl Handle for imcharge_config {
    type Content = Config;
}

/// Creates a configuration in which all parameters have their defaults.
///
/// Parameters:
///   config       receives the handle, not NULL. Free it with imcharge_config_free.
///
/// Returns: IMCHARGE_OK, or an error; then nothing was created. Any process, any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_config_new(config: *mut *mut imcharge_config) -> i32 {
    guard(|| {
        let place = memory::place(config)?;
        let made = handle::open::<imcharge_config>(Config::default())?;
        // SAFETY: valid for writes, as documented above.
        unsafe { memory::put(place, made) };
        Ok(IMCHARGE_OK)
    })
}

/// Sets one parameter. Names, units and ranges are those of the manual and the same on every host: `state_dir`,
/// `default_balance`, `response_timeout` and so on. Integers are passed as text.
///
/// Parameters:
///   config       the configuration, not NULL.
///   name         name of the parameter, not NULL, 1 to IMCHARGE_NAME_MAX bytes.
///   value        its value, not NULL, 0 to IMCHARGE_VALUE_MAX bytes.
///   error        the caller's buffer for a sentence that names the parameter, the value and the accepted
///                values; truncated to fit, terminated by NUL. May be NULL. Written only on
///                IMCHARGE_BAD_PARAMETER.
///   error_size   size of the buffer in bytes.
///
/// Returns: IMCHARGE_OK, IMCHARGE_BAD_PARAMETER, or another error. Name and value are copied.
/// Any process, any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_config_set(
    config: *mut imcharge_config,
    name: *const c_char,
    name_length: usize,
    value: *const c_char,
    value_length: usize,
    error: *mut c_char,
    error_size: usize,
) -> i32 {
    guard(|| {
        handle::with(config, |config| {
            // SAFETY: pointers and lengths as documented above.
            let (name, value) = unsafe {
                let name = memory::text(name, name_length, IMCHARGE_NAME_MAX)?;
                (name, memory::text(value, value_length, IMCHARGE_VALUE_MAX)?)
            };
            if name.is_empty() {
                return Err(IMCHARGE_BAD_LENGTH);
            }
            config.set(name, value).map_err(|wrong| {
                // SAFETY: the buffer has `error_size` bytes, as documented above.
                unsafe { memory::sentence(error, error_size, &wrong.to_string()) };
                IMCHARGE_BAD_PARAMETER
            })?;
            Ok(IMCHARGE_OK)
        })
    })
}

/// Frees a configuration. imcharge_open has copied it, so open handles are not affected.
///
/// Parameters:
///   config       the configuration, not NULL.
///
/// Returns: IMCHARGE_OK; IMCHARGE_BAD_HANDLE if it has been freed already. Any process, any thread.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn imcharge_config_free(config: *mut imcharge_config) -> i32 {
    guard(|| handle::close(config).map(|_| IMCHARGE_OK))
}
