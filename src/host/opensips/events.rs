//! Events of the host's event interface: `E_IMCHARGE_DEBITED` and `E_IMCHARGE_FAILED`.
//!
//! Their parameters have the names of the variables. A number that the host's 32 bits do not hold is a text.

use super::variables::{NAMES, Value, values};
use super::{REGION, bindings as sys, lifecycle};
use crate::guard::guard;
use crate::host::text::static_str;
use crate::shm::notification::{Kind, Notification, NotificationReader};
use crate::shm::script_runs::{Process, Running};
use std::ffi::{CString, c_int};
use std::sync::OnceLock;
use std::time::Duration;

/// How long an event worker sleeps without looking up.
const LOOK: Duration = Duration::from_secs(1);

/// Numbers of the two events, as the host gave them.
static EVENTS: OnceLock<[sys::event_id_t; 2]> = OnceLock::new();

/// Announces the events. `false`: the host refused. In mod_init.
pub fn register() -> bool {
    let publish = |name: &'static std::ffi::CStr| {
        let mut name = static_str(name);
        // SAFETY: a text of static life. The host has published the event already where the script has its route.
        unsafe {
            match sys::evi_get_id(&mut name) {
                known if known >= 0 => known,
                _ => sys::evi_publish_event(name),
            }
        }
    };
    let events = [c"E_IMCHARGE_DEBITED", c"E_IMCHARGE_FAILED"].map(publish);
    events.iter().all(|event| *event >= 0) && EVENTS.set(events).is_ok()
}

/// The life of event worker `index`; the host ends it by signal. It hands events to the host's transports, of which some
/// may block: an event route waits in a pipe for one of the SIP processes to run it.
pub unsafe extern "C" fn work(index: c_int) {
    let Some(region) = REGION.get() else { return };
    // SAFETY: this process was made for this.
    unsafe { lifecycle::begin(c"imcharge events %d", index) };
    let process = Process::Events(index as usize);
    let mut resumer = match NotificationReader::attach_to_events(region, index as usize) {
        Ok(resumer) => resumer,
        Err(error) => return log::error!("imcharge events {index} cannot run: {error}"),
    };
    let serve = |notice: &Notification<'_>| {
        let _running = Running::begin(region, process, &format!("the transports of an event of {}", notice.call_id));
        raise(notice);
    };
    loop {
        resumer.wait(LOOK);
        while guard(true, || resumer.next(serve)) {}
    }
}

/// Raises the event of a notice in one of the host's workers, if anybody has subscribed.
fn raise(notice: &Notification<'_>) {
    let Some([debited, failed]) = EVENTS.get() else { return };
    let event = match notice.kind {
        Kind::Debited { .. } => *debited,
        _ => *failed,
    };
    // SAFETY: the host's own functions on its own list. The list points to names and values until the event is handed
    // over: all of them live beyond that.
    unsafe {
        if sys::evi_probe_event(event) <= 0 {
            return;
        }
        let list = sys::evi_get_params();
        if list.is_null() {
            return;
        }
        let values: Vec<_> = values(notice).into_iter().map(|value| value.map(fitting)).collect();
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

/// A number that the host's 32 bits do not hold, as a text.
fn fitting(value: Value) -> Value {
    match value {
        Value::Number(number) if c_int::try_from(number).is_err() => {
            Value::Text(CString::new(number.to_string()).unwrap_or_default())
        }
        fits => fits,
    }
}

/// The host's form of a text that it only reads.
fn text_of(text: &[u8]) -> sys::_str {
    sys::_str { s: text.as_ptr().cast::<std::ffi::c_char>().cast_mut(), len: text.len() as c_int }
}
