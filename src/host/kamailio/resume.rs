//! The resume workers and event workers: children of the host that take what the engine says and run the script's routes.

use super::guard::guard;
use super::lifecycle::{DEBITED, FAILED};
use super::reserve::Continuation;
use super::{REGION, TM, bindings as sys, events, static_str, variables};
use crate::charge::event::Suspended;
use crate::shm::notification::{Kind, Notification, NotificationReader};
use crate::shm::region::Region;
use crate::shm::script_runs::{Process, Running};
use std::ffi::c_uint;
use std::time::Duration;

/// How long a worker sleeps without looking up.
const LOOK: Duration = Duration::from_secs(1);

/// The life of a resume worker or an event worker; the host ends it by signal.
pub fn work(process: Process) -> ! {
    let Some(region) = REGION.get() else { std::process::exit(1) };
    let mut resumer = match process {
        Process::Resume(index) => NotificationReader::attach(region, index),
        Process::Events(index) => NotificationReader::attach_to_events(region, index),
        Process::Host(_) => std::process::exit(1),
    };
    loop {
        resumer.wait(LOOK);
        while guard(true, || resumer.next(|notice| serve(region, process, notice))) {}
    }
}

fn serve(region: &Region, process: Process, notice: &Notification<'_>) {
    let route = match notice.kind {
        Kind::Verdict { suspended, .. } => Continuation::of(suspended).to_string(),
        Kind::Debited { .. } => events::name(DEBITED),
        Kind::Failed => events::name(FAILED),
    };
    let _running = Running::begin(region, process, &format!("{route} for {}", notice.call_id));
    variables::with(notice, || match notice.kind {
        Kind::Verdict { suspended, .. } => go_on(suspended),
        Kind::Debited { .. } => events::run(DEBITED),
        Kind::Failed => events::run(FAILED),
    });
}

/// Continues a suspended transaction. One that was cancelled or died meanwhile is gone: its end was seen by itself.
fn go_on(suspended: Suspended) {
    let Some(tm) = TM.get() else { return };
    let (Ok(index), Ok(label)) = (c_uint::try_from(suspended.index), c_uint::try_from(suspended.label)) else { return };
    // SAFETY: tm's own functions, with the numbers that it gave; the route is one of the host's table.
    unsafe {
        match Continuation::of(suspended) {
            Continuation::Function(at) => {
                let name = sys::sr_kemi_cbname_lookup_idx(at);
                if let (Some(go_on), false) = (tm.0.t_continue_cb, name.is_null()) {
                    go_on(index, label, name, &mut static_str(c""));
                }
            }
            Continuation::Route(at) => {
                let routes = sys::main_rt;
                let at = usize::try_from(at).ok().filter(|at| *at < usize::try_from(routes.entries).unwrap_or(0));
                if let (Some(go_on), Some(at)) = (tm.0.t_continue, at) {
                    go_on(index, label, *routes.rlist.add(at));
                }
            }
        }
    }
}
