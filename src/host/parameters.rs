//! Parameters: the engine's own, set one by one while the host reads its configuration.

use super::bindings as sys;
use super::guard::guard;
use crate::config::Config;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Mutex;

/// What was configured so far.
static CONFIG: Mutex<Option<Config>> = Mutex::new(None);

/// `subscriber` as a text with pseudo-variables.
static SUBSCRIBER: Mutex<Option<Format>> = Mutex::new(None);

/// `direction` as a text with pseudo-variables.
static DIRECTION: Mutex<Option<Format>> = Mutex::new(None);

/// A parsed text with pseudo-variables, in the host's private memory; made before the fork, read after it.
#[derive(Clone, Copy)]
pub struct Format(pub sys::pv_elem_p);

// SAFETY: the host's parsed format is read only, and each process has its own copy since the fork.
unsafe impl Send for Format {}

/// The whole configuration.
pub fn config() -> Config {
    CONFIG.lock().ok().and_then(|config| config.clone()).unwrap_or_default()
}

/// The text that names the subscriber of each INVITE, if the script has given one.
pub fn subscriber() -> Option<Format> {
    SUBSCRIBER.lock().ok().and_then(|format| *format)
}

/// The text that names the direction of each INVITE, if the script has given one.
pub fn direction() -> Option<Format> {
    DIRECTION.lock().ok().and_then(|format| *format)
}

/// Sets one parameter; refuses with the one line that an operator needs.
fn set(name: &str, value: &str) -> c_int {
    super::logger::install();
    match name {
        "subscriber" if value.contains('$') => return set_format(name, value, &SUBSCRIBER, "asserted, from"),
        "direction" if value.contains('$') => {
            return set_format(
                name,
                value,
                &DIRECTION,
                "asserted, pull, push, the SIP URI of a store-and-forward server",
            );
        }
        _ => {}
    }
    let Ok(mut config) = CONFIG.lock() else { return -1 };
    match config.get_or_insert_default().set(name, value) {
        Ok(()) => 0,
        Err(error) => {
            log::error!("{error}");
            -1
        }
    }
}

/// Sets a parameter that may be a text with pseudo-variables; `words` are its other values.
fn set_format(name: &str, value: &str, place: &Mutex<Option<Format>>, words: &str) -> c_int {
    // The host keeps pointers into the text: it stays for ever, with a NUL behind it.
    let text = Box::leak(format!("{value}\0").into_boxed_str());
    let mut whole = sys::_str { s: text.as_mut_ptr().cast(), len: value.len() as c_int };
    let mut format: sys::pv_elem_p = std::ptr::null_mut();
    // SAFETY: both places are valid for the call, and the text for ever.
    if unsafe { sys::pv_parse_format(&raw mut whole, &mut format) } < 0 {
        log::error!("parameter {name}: '{value}' is not allowed: {words}, or a text with pseudo-variables");
        return -1;
    }
    place.lock().map_or(-1, |mut place| {
        *place = Some(Format(format));
        0
    })
}

/// A parameter's value as the host gives it to a setter: a number in the pointer, or a C text.
///
/// # Safety
/// `value` must be what the host gives for `kind`.
unsafe fn set_from_host(name: &str, kind: c_uint, value: *mut c_void) -> c_int {
    guard(-1, || {
        if kind & sys::PARAM_INT != 0 {
            return set(name, &(value as isize as c_int).to_string());
        }
        if value.is_null() {
            return -1;
        }
        // SAFETY: not a number, so a C text that lives for the call.
        let text = unsafe { CStr::from_ptr(value.cast::<c_char>()) };
        match text.to_str() {
            Ok(text) => set(name, text),
            Err(_) => {
                log::error!("parameter {name}: its value is not UTF-8");
                -1
            }
        }
    })
}

/// Sets a parameter that only this host has; `set` refuses with the one line that an operator needs.
///
/// # Safety
/// `value` must be NULL or a C text that lives for the call.
pub unsafe fn set_own(value: *mut c_void, set: impl FnOnce(&CStr) -> Result<(), String>) -> c_int {
    guard(-1, || {
        super::logger::install();
        if value.is_null() {
            return -1;
        }
        // SAFETY: by the caller's promise.
        set(unsafe { CStr::from_ptr(value.cast::<c_char>()) }).map_or_else(
            |error| {
                log::error!("{error}");
                -1
            },
            |()| 0,
        )
    })
}

/// Most rows of the table: each whole number can be written as a text too.
pub const ROWS: usize = 2 * 40 + 1;

/// A setter tells the host nothing of its name, so each parameter has its own.
macro_rules! parameters {
    ($($name:literal $setter:ident $number:literal,)*) => {
        $(
            /// Setter of one parameter.
            unsafe extern "C" fn $setter(kind: c_uint, value: *mut c_void) -> c_int {
                // SAFETY: called by the host with the kind and value of this parameter.
                unsafe { set_from_host($name, kind, value) }
            }
        )*

        /// Names, for the check against the engine's own list.
        pub const NAMES: &[&str] = &[$($name,)*];

        /// The table for the host, with what only this host has, closed by a row of zeros.
        pub const fn table(own: &[sys::param_export]) -> [sys::param_export; ROWS] {
            let mut rows = [sys::param_export { name: std::ptr::null_mut(), type_: 0, param_pointer: std::ptr::null_mut() }; ROWS];
            let mut at = 0;
            $(
                let name = concat!($name, "\0").as_ptr().cast::<c_char>().cast_mut();
                let setter = $setter as unsafe extern "C" fn(c_uint, *mut c_void) -> c_int as *mut c_void;
                rows[at] = sys::param_export { name, type_: sys::PARAM_STRING | sys::IMCHARGE_PARAM_USE_FUNC, param_pointer: setter };
                at += 1;
                if $number {
                    rows[at] = sys::param_export { name, type_: sys::PARAM_INT | sys::IMCHARGE_PARAM_USE_FUNC, param_pointer: setter };
                    at += 1;
                }
            )*
            let mut next = 0;
            while next < own.len() {
                rows[at] = own[next];
                at += 1;
                next += 1;
            }
            assert!(at < ROWS, "the last row closes the table");
            rows
        }
    };
}

parameters! {
    "enabler" set_enabler false,
    "state_dir" set_state_dir false,
    "subscriber" set_subscriber_parameter false,
    "direction" set_direction false,
    "identity" set_identity false,
    "tariff" set_tariff false,
    "unit" set_unit false,
    "response_timeout" set_response_timeout true,
    "hold_timeout" set_hold_timeout true,
    "resume_workers" set_resume_workers true,
    "event_workers" set_event_workers true,
    "im_server" set_im_server false,
    "bypass" set_bypass false,
    "max_sessions" set_max_sessions true,
    "debit_on" set_debit_on false,
    "model" set_model false,
    "on_failure" set_on_failure false,
    "on_failure_cap" set_on_failure_cap true,
    "policy" set_policy false,
    "default_balance" set_default_balance true,
    "history_days" set_history_days true,
    "origin_host" set_origin_host false,
    "origin_realm" set_origin_realm false,
    "destination_realm" set_destination_realm false,
    "peer" set_peer false,
    "service_context_id" set_service_context_id false,
    "profile" set_profile false,
    "service_identifier" set_service_identifier true,
    "rating_group" set_rating_group true,
    "currency_code" set_currency_code true,
    "currency_exponent" set_currency_exponent true,
    "tx_timeout" set_tx_timeout true,
    "resend" set_resend false,
    "tls_ca" set_tls_ca false,
    "tls_certificate" set_tls_certificate false,
    "tls_key" set_tls_key false,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_knows_every_parameter_of_the_engine() {
        assert_eq!(NAMES, Config::PARAMETERS.iter().map(|parameter| parameter.name).collect::<Vec<_>>());
    }
}
