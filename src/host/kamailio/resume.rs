//! The resume workers: children of the host that take what the engine says and go on with it in the script.

use super::guard::guard;
use super::reserve::FUNCTION;
use super::{REGION, TM, bindings as k, parameters, static_str, text, variables};
use crate::engine::facts::Suspended;
use crate::engine::notice::{Kind, Notice, Resumer};
use std::ffi::{CStr, c_int, c_uint};
use std::time::Duration;

/// How long a worker sleeps without looking up.
const LOOK: Duration = Duration::from_secs(1);

/// The life of resume worker `index`; the host ends it by signal.
pub fn work(index: usize) -> ! {
    let Some(region) = REGION.get() else { std::process::exit(1) };
    let mut resumer = Resumer::attach(region, index);
    loop {
        resumer.wait(LOOK);
        while guard(true, || resumer.next(serve)) {}
    }
}

fn serve(notice: &Notice<'_>) {
    variables::with(notice, || match notice.kind {
        Kind::Verdict { suspended, .. } => go_on(suspended),
        Kind::Debited { .. } => run_event(c"imcharge:debited"),
        Kind::Failed => run_event(c"imcharge:failed"),
    });
}

/// Goes on with a suspended transaction. One that was cancelled or died meanwhile is gone: its end was seen by itself.
fn go_on(suspended: Suspended) {
    let Some(tm) = TM.get() else { return };
    let (Ok(index), Ok(label)) = (c_uint::try_from(suspended.index), c_uint::try_from(suspended.label)) else { return };
    // SAFETY: tm's own functions, with the numbers that it gave; the route is one of the host's table.
    unsafe {
        if suspended.route & FUNCTION != 0 {
            let name = k::sr_kemi_cbname_lookup_idx((suspended.route & !FUNCTION) as c_int);
            if let (Some(go_on), false) = (tm.0.t_continue_cb, name.is_null()) {
                go_on(index, label, name, &mut static_str(c""));
            }
            return;
        }
        let routes = k::main_rt;
        let at = usize::try_from(suspended.route).ok().filter(|at| *at < usize::try_from(routes.entries).unwrap_or(0));
        if let (Some(go_on), Some(at)) = (tm.0.t_continue, at) {
            go_on(index, label, *routes.rlist.add(at));
        }
    }
}

/// The actions of an event route, if the script has it.
fn actions_of(name: &'static CStr) -> Option<*mut k::action> {
    // SAFETY: the host's table of event routes.
    unsafe {
        let at = k::route_lookup(&raw mut k::event_rt, text(name));
        let at = usize::try_from(at).ok()?;
        let actions = *k::event_rt.rlist.add(at);
        (!actions.is_null()).then_some(actions)
    }
}

/// Whether the script wants to hear of an event: by an event route, or by its KEMI function.
pub fn wants_event(name: &'static CStr) -> bool {
    parameters::event_callback().is_some() || actions_of(name).is_some()
}

/// Runs what the script has for an event, with a message of no meaning, as the host does for its own events.
fn run_event(name: &'static CStr) {
    // SAFETY: the host's own interpreters on the host's own message; the kind of route is put back.
    unsafe {
        let message = k::faked_msg_next();
        let before = k::route_type;
        let mut context = std::mem::zeroed::<k::run_act_ctx>();
        if let Some(actions) = actions_of(name) {
            k::route_type = k::REQUEST_ROUTE as c_int;
            k::run_top_route(actions, message, &mut context);
        } else if let (Some(function), Some(engine)) = (parameters::event_callback(), k::sr_kemi_eng_get().as_mut()) {
            let (mut function, mut event) = (static_str(function), static_str(name));
            k::route_type = k::EVENT_ROUTE as c_int;
            k::sr_kemi_ctx_route(engine, &mut context, message, k::EVENT_ROUTE as c_int, &mut function, &mut event);
        }
        k::route_type = before;
    }
}
