//! Events of the host's event interface: `E_IMCHARGE_DEBITED`, `E_IMCHARGE_FAILED` and `E_IMCHARGE_LOW_BALANCE`.
//!
//! Their parameters have the names of the variables. Integers that do not fit into the host's 32 bits become text.

use super::variables::{NAMES, Value, values};
use super::{REGION, bindings as sys, process};
use crate::guard::guard;
use crate::host::text::static_str;
use crate::shm::notification::{Kind, Notification, NotificationReader};
use crate::shm::script_runs::{Process, Running};
use std::ffi::{CString, c_int};
use std::sync::OnceLock;
use std::time::Duration;

/// Longest wait for a notification.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// The host's numbers of the events: debited, failed, low balance.
static EVENTS: OnceLock<[sys::event_id_t; 3]> = OnceLock::new();

/// Publishes the events. `false`: the host refused. Only in mod_init.
pub fn register() -> bool {
    let publish = |name: &'static std::ffi::CStr| {
        let mut name = static_str(name);
        // SAFETY: a static text. If the script has a route for the event, the host has already published it.
        unsafe {
            match sys::evi_get_id(&mut name) {
                known if known >= 0 => known,
                _ => sys::evi_publish_event(name),
            }
        }
    };
    let events = [c"E_IMCHARGE_DEBITED", c"E_IMCHARGE_FAILED", c"E_IMCHARGE_LOW_BALANCE"].map(publish);
    events.iter().all(|event| *event >= 0) && EVENTS.set(events).is_ok()
}

/// Main loop of event worker `index`. The host ends it by a signal. It passes events to the host's transports, some of which
/// block; an event route is queued in a pipe until one of the SIP processes runs it.
pub unsafe extern "C" fn work(index: c_int) {
    let Some(region) = REGION.get() else { return };
    // SAFETY: this is a process of the module.
    unsafe { process::begin(c"imcharge events %d", index) };
    let event_worker = Process::Events(index as usize);
    let mut reader = match NotificationReader::attach_to_events(region, index as usize) {
        Ok(reader) => reader,
        Err(error) => return log::error!("imcharge events {index} cannot run: {error}"),
    };
    let serve = |notification: &Notification<'_>| {
        let _running =
            Running::begin(region, event_worker, &format!("the transports of an event of {}", notification.about()));
        raise(notification);
    };
    loop {
        reader.wait(SLEEP_MAX);
        while guard(true, || reader.next(serve)) {}
    }
}

/// Raises the event of a notification, if it has subscribers.
fn raise(notification: &Notification<'_>) {
    let Some([debited, failed, low_balance]) = EVENTS.get() else { return };
    let event = match notification.kind {
        Kind::Debited { .. } => *debited,
        Kind::LowBalance => *low_balance,
        _ => *failed,
    };
    // SAFETY: the host's functions on its own list. The list points to names and values until the event is dispatched; all
    // of them live longer.
    unsafe {
        if sys::evi_probe_event(event) <= 0 {
            return;
        }
        let list = sys::evi_get_params();
        if list.is_null() {
            return;
        }
        let values: Vec<_> = values(notification).into_iter().map(|value| value.map(fit)).collect();
        for (name, value) in NAMES.iter().zip(&values) {
            let name = text_of(name.as_bytes());
            match value {
                Some(Value::Text(text)) => {
                    let text = text_of(text.as_bytes());
                    sys::evi_param_add(list, &name, (&raw const text).cast(), sys::EVI_STR_VAL as c_int);
                }
                Some(Value::Number(number)) => {
                    let number = *number as c_int;
                    sys::evi_param_add(list, &name, (&raw const number).cast(), sys::EVI_INT_VAL as c_int);
                }
                None => {}
            }
        }
        sys::evi_dispatch_event(event, list);
    }
}

/// Converts a number that does not fit into the host's 32 bits to text.
fn fit(value: Value) -> Value {
    match value {
        Value::Number(number) if c_int::try_from(number).is_err() => {
            Value::Text(CString::new(number.to_string()).unwrap_or_default())
        }
        fits => fits,
    }
}

/// Returns a text for the host, which only reads it.
fn text_of(text: &[u8]) -> sys::_str {
    sys::_str { s: text.as_ptr().cast::<std::ffi::c_char>().cast_mut(), len: text.len() as c_int }
}
