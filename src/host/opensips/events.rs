//! Events of the host's event interface: `E_IMCHARGE_DEBITED` and `E_IMCHARGE_FAILED`.
//!
//! Their parameters have the names of the variables. A number that the host's 32 bits do not hold is a text.

use super::bindings as k;
use super::variables::{NAMES, Value, values};
use crate::engine::notice::{Kind, Notice};
use crate::host::text::static_str;
use std::ffi::c_int;
use std::sync::OnceLock;

/// Numbers of the two events, as the host gave them.
static EVENTS: OnceLock<[k::event_id_t; 2]> = OnceLock::new();

/// Announces the events. `false`: the host refused. In mod_init.
pub fn register() -> bool {
    let publish = |name: &'static std::ffi::CStr| {
        let mut name = static_str(name);
        // SAFETY: a text of static life. The host has published the event already where the script has its route.
        unsafe {
            match k::evi_get_id(&mut name) {
                known if known >= 0 => known,
                _ => k::evi_publish_event(name),
            }
        }
    };
    let events = [c"E_IMCHARGE_DEBITED", c"E_IMCHARGE_FAILED"].map(publish);
    events.iter().all(|event| *event >= 0) && EVENTS.set(events).is_ok()
}

/// Raises the event of a notice in one of the host's workers, if anybody has subscribed.
pub fn raise(notice: &Notice<'_>) {
    let Some([debited, failed]) = EVENTS.get() else { return };
    let event = match notice.kind {
        Kind::Debited { .. } => *debited,
        _ => *failed,
    };
    // SAFETY: the host's own functions on its own list; names and values live for the calls, which copy them.
    unsafe {
        if k::evi_probe_event(event) <= 0 {
            return;
        }
        let list = k::evi_get_params();
        if list.is_null() {
            return;
        }
        for (name, value) in NAMES.iter().zip(values(notice)) {
            if let Some(value) = value {
                add(list, name, &value);
            }
        }
        k::evi_dispatch_event(event, list);
    }
}

/// # Safety
/// `list` must be a list of the host.
unsafe fn add(list: k::evi_params_p, name: &str, value: &Value) {
    let name = text_of(name);
    let as_text = |text: &str| {
        let text = text_of(text);
        // SAFETY: by the caller's promise; the host copies both texts.
        unsafe { k::evi_param_add(list, &name, (&raw const text).cast(), k::EVI_STR_VAL as c_int) }
    };
    match value {
        Value::Text(text) => as_text(&text.to_string_lossy()),
        Value::Number(number) => match c_int::try_from(*number) {
            // SAFETY: as above; the value is an int.
            Ok(number) => unsafe { k::evi_param_add(list, &name, (&raw const number).cast(), k::EVI_INT_VAL as c_int) },
            Err(_) => as_text(&number.to_string()),
        },
    };
}

/// The host's form of a text that it only reads.
fn text_of(text: &str) -> k::_str {
    k::_str { s: text.as_ptr().cast::<std::ffi::c_char>().cast_mut(), len: text.len() as c_int }
}
