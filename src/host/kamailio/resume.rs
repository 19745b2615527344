//! Resume workers and event workers: processes of the host that take notifications of the engine and run the script's routes.

use super::continuation::Continuation;
use super::lifecycle::{DEBITED, FAILED, LOW_BALANCE};
use super::tm::{TransactionId, tm};
use super::{REGION, bindings as sys, events, variables};
use crate::charge::event::Suspended;
use crate::guard::guard;
use crate::shm::notification::{Kind, Notification, NotificationReader};
use crate::shm::region::Region;
use crate::shm::script_runs::{Process, Running};
use std::ffi::c_uint;
use std::time::Duration;

/// Longest wait for a notification.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Main loop of a resume worker or an event worker. The host ends it by a signal.
pub fn work(process: Process) -> ! {
    let Some(region) = REGION.get() else { std::process::exit(1) };
    let mut reader = match process {
        Process::Resume(index) => NotificationReader::attach(region, index),
        Process::Events(index) => NotificationReader::attach_to_events(region, index),
        Process::Host(_) => std::process::exit(1),
    }
    .unwrap_or_else(|error| {
        log::error!("{process} cannot run: {error}");
        std::process::exit(1)
    });
    loop {
        reader.wait(SLEEP_MAX);
        while guard(true, || reader.next(|notification| serve(region, process, notification))) {}
    }
}

fn serve(region: &Region, process: Process, notification: &Notification<'_>) {
    let route = match notification.kind {
        Kind::Verdict { suspended, .. } => Continuation::from_suspended(suspended).to_string(),
        Kind::Debited { .. } => events::name(DEBITED),
        Kind::Failed => events::name(FAILED),
        Kind::LowBalance => events::name(LOW_BALANCE),
    };
    let _running = Running::begin(region, process, &format!("{route} for {}", notification.about()));
    variables::with(notification, || match notification.kind {
        Kind::Verdict { suspended, .. } => continue_transaction(suspended),
        Kind::Debited { .. } => events::run(DEBITED),
        Kind::Failed => events::run(FAILED),
        Kind::LowBalance => events::run(LOW_BALANCE),
    });
}

/// Continues a suspended transaction. If it was cancelled or ended in the meantime, tm does not find it, and its end has been
/// reported by its callbacks.
fn continue_transaction(suspended: Suspended) {
    let Some(tm) = tm() else { return };
    let (Ok(index), Ok(label)) = (c_uint::try_from(suspended.index), c_uint::try_from(suspended.label)) else { return };
    let id = TransactionId { index, label };
    match Continuation::from_suspended(suspended) {
        // SAFETY: the host's own table of KEMI functions, and a name in it.
        Continuation::Function(at) => unsafe {
            let name = sys::sr_kemi_cbname_lookup_idx(at);
            if !name.is_null() {
                tm.continue_in_function(id, name);
            }
        },
        // SAFETY: the host's own table of routes, and an entry within its length.
        Continuation::Route(at) => unsafe {
            let routes = sys::main_rt;
            let at = usize::try_from(at).ok().filter(|at| *at < usize::try_from(routes.entries).unwrap_or(0));
            if let Some(at) = at {
                tm.continue_in_route(id, *routes.rlist.add(at));
            }
        },
    }
    tm.answer_abandoned(id);
}
