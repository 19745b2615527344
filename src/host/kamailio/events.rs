//! Runs the script's event routes, or the KEMI function of `event_callback`.

use super::{bindings as sys, parameters, static_str, text};
use std::ffi::{CStr, CString, c_int};
use std::sync::OnceLock;

/// The parameter `event_callback`: the KEMI function that is called in place of event routes.
static CALLBACK: OnceLock<Option<CString>> = OnceLock::new();

fn callback() -> Option<&'static CStr> {
    let configured = || parameters::config().event_callback.and_then(|name| CString::new(name).ok());
    CALLBACK.get_or_init(configured).as_deref()
}

/// Returns the actions of an event route, if the script has it.
fn actions_of(name: &'static CStr) -> Option<*mut sys::action> {
    // SAFETY: the host's table of event routes.
    unsafe {
        let at = sys::route_lookup(&raw mut sys::event_rt, text(name));
        let at = usize::try_from(at).ok()?;
        let actions = *sys::event_rt.rlist.add(at);
        (!actions.is_null()).then_some(actions)
    }
}

/// Whether the script handles an event, by an event route or by its KEMI function.
pub fn wants(name: &'static CStr) -> bool {
    callback().is_some() || actions_of(name).is_some()
}

/// Returns the name of the script's handler of an event, for log lines.
pub fn name(event: &'static CStr) -> String {
    let event_name = event.to_string_lossy();
    match callback().filter(|_| actions_of(event).is_none()) {
        Some(function) => format!("{}({event_name})", function.to_string_lossy()),
        None => format!("event_route[{event_name}]"),
    }
}

/// Runs the script's handler of an event with a fake message, as the host does for its own events.
pub fn run(name: &'static CStr) {
    // SAFETY: the host's interpreters on the host's fake message; the route type is restored.
    unsafe {
        let message = sys::faked_msg_next();
        let before = sys::route_type;
        let mut context = std::mem::zeroed::<sys::run_act_ctx>();
        if let Some(actions) = actions_of(name) {
            sys::route_type = sys::REQUEST_ROUTE as c_int;
            sys::run_top_route(actions, message, &mut context);
        } else if let (Some(function), Some(engine)) = (callback(), sys::sr_kemi_eng_get().as_mut()) {
            let (mut function, mut event) = (static_str(function), static_str(name));
            sys::route_type = sys::EVENT_ROUTE as c_int;
            sys::sr_kemi_ctx_route(engine, &mut context, message, sys::EVENT_ROUTE as c_int, &mut function, &mut event);
        }
        sys::route_type = before;
    }
}
