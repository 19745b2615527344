//! `$imcharge(name)`: the fields of the current notification, in resume routes and event routes. `$imcharge(metrics)` is
//! available everywhere.

use super::attach::REGION;
use super::bindings as sys;
use crate::admin::metrics;
use crate::guard::guard;
use crate::shm::notification::{Kind, Notification, Outcome};
use std::cell::RefCell;
use std::ffi::{CString, c_int};

/// The names, in the order of [`values`]; the last one is `metrics`.
pub const NAMES: &[&str] = &[
    "result",
    "reason",
    "code",
    "granted",
    "session",
    "balance",
    "callid",
    "account",
    "messageid",
    "units",
    "held",
    "metrics",
];

/// Index of `metrics`: all statistics in the text format of Prometheus.
const METRICS: usize = NAMES.len() - 1;

/// A value of a variable. The host takes pointers into it.
pub enum Value {
    /// A text.
    Text(CString),
    /// A whole number.
    Number(i64),
}

thread_local! {
    /// The values of the current notification, by index in [`NAMES`]; empty if there is none.
    static CURRENT: RefCell<Vec<Option<Value>>> = const { RefCell::new(Vec::new()) };
}

/// Sets the variables while `run` runs.
pub fn with<R>(notification: &Notification<'_>, run: impl FnOnce() -> R) -> R {
    CURRENT.with(|current| *current.borrow_mut() = values(notification));
    let result = run();
    CURRENT.with(|current| current.borrow_mut().clear());
    result
}

/// Returns the values of a notification, by index in [`NAMES`].
pub fn values(notification: &Notification<'_>) -> Vec<Option<Value>> {
    let text = |text: &str| CString::new(text).ok().map(Value::Text);
    let number = |number: u64| Some(Value::Number(i64::try_from(number).unwrap_or(i64::MAX)));
    let (result, granted, message_id, units) = match &notification.kind {
        Kind::Verdict { result, granted, .. } => (Some(*result), number((*granted).into()), None, None),
        Kind::Debited { message_id, units } => (None, None, text(message_id), number(*units)),
        Kind::Failed => (Some(Outcome::Failed), None, None, None),
        Kind::LowBalance => (None, None, None, None),
    };
    let result = result.map(|result| match result {
        Outcome::Granted => "granted",
        Outcome::Denied => "denied",
        Outcome::Failed => "failed",
    });
    vec![
        result.and_then(text),
        text(notification.reason),
        number(notification.code.into()),
        granted,
        text(&notification.session.to_string()),
        notification.balance.map(Value::Number),
        text(notification.call_id),
        text(notification.account),
        message_id,
        units,
        notification.held.map(Value::Number),
    ]
}

/// Parses `$imcharge(name)` for the host: stores the index of the name.
pub unsafe extern "C" fn parse_name(spec: sys::pv_spec_p, name: *mut sys::str_) -> c_int {
    guard(-1, || {
        // SAFETY: the host passes both for the duration of the call.
        let (Some(spec), Some(name)) = (unsafe { spec.as_mut() }, unsafe { name.as_ref() }) else { return -1 };
        // SAFETY: the text lives for the call.
        let wanted = unsafe { super::message::bytes(name) }.trim_ascii();
        let Some(at) = NAMES.iter().position(|known| known.as_bytes() == wanted) else {
            log::error!("$imcharge({}): unknown name; known are {NAMES:?}", String::from_utf8_lossy(wanted));
            return -1;
        };
        spec.pvp.pvn.type_ = sys::PV_NAME_INTSTR as c_int;
        spec.pvp.pvn.u.isname.type_ = 0;
        // An int in 5.6, a long from 6.0 on.
        spec.pvp.pvn.u.isname.name.n = at as _;
        0
    })
}

/// Returns a value to the host.
pub unsafe extern "C" fn get(
    message: *mut sys::sip_msg,
    parameter: *mut sys::pv_param_t,
    result: *mut sys::pv_value_t,
) -> c_int {
    guard(-1, || {
        // SAFETY: the host passes a parsed parameter, in which `parse_name` has stored a number.
        let at = unsafe { parameter.as_ref() }.map(|parameter| unsafe { parameter.pvn.u.isname.name.n });
        let at = at.and_then(|at| usize::try_from(at).ok());
        if at == Some(METRICS) {
            let all = REGION.get().map(|region| metrics::exposition(region)).unwrap_or_default();
            // SAFETY: the host passes all three for the duration of the call.
            return unsafe { text(message, parameter, result, all) };
        }
        CURRENT.with(|current| {
            let current = current.borrow();
            match at.and_then(|at| current.get(at)).and_then(Option::as_ref) {
                // SAFETY: the host's function with its own arguments; the text lives until the notification is served.
                Some(Value::Text(text)) => unsafe {
                    let mut whole = sys::_str { s: text.as_ptr().cast_mut(), len: text.count_bytes() as c_int };
                    sys::pv_get_strval(message, parameter, result, &mut whole)
                },
                Some(Value::Number(number)) => match (*number).try_into() {
                    // SAFETY: the host's function with its own arguments.
                    Ok(number) => unsafe { sys::pv_get_sintval(message, parameter, result, number) },
                    // Kamailio 5.6 has 32-bit integers, 6.0 has 64-bit ones. Larger numbers become text.
                    // SAFETY: as above.
                    Err(_) => unsafe { text(message, parameter, result, number.to_string()) },
                },
                // SAFETY: as above.
                None => unsafe { sys::pv_get_null(message, parameter, result) },
            }
        })
    })
}

/// Returns a text to the host. It stays valid until the next call.
///
/// # Safety
/// As for [`get`].
unsafe fn text(
    message: *mut sys::sip_msg,
    parameter: *mut sys::pv_param_t,
    result: *mut sys::pv_value_t,
    value: String,
) -> c_int {
    thread_local! {
        static TEXT: RefCell<CString> = RefCell::default();
    }
    TEXT.with(|place| {
        let mut text = place.borrow_mut();
        *text = CString::new(value).unwrap_or_default();
        let mut whole = sys::_str { s: text.as_ptr().cast_mut(), len: text.count_bytes() as c_int };
        // SAFETY: guaranteed by the caller; the text lives until the next call.
        unsafe { sys::pv_get_strval(message, parameter, result, &mut whole) }
    })
}
