//! The resume workers: children of the host that take what the engine says and go on with it in the script.

use super::guard::guard;
use super::reserve::FUNCTION;
use super::{REGION, TM, bindings as k, events, static_str, variables};
use crate::engine::facts::Suspended;
use crate::engine::notice::{Kind, Notice, Resumer};
use std::ffi::{c_int, c_uint};
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
        Kind::Debited { .. } => events::run(c"imcharge:debited"),
        Kind::Failed => events::run(c"imcharge:failed"),
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
