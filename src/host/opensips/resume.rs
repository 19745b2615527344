//! The way back of a verdict: a resume worker takes it from the engine and hands it to the process in which the INVITE
//! waits. Only that process can go on with it, for the host keeps part of what belongs to a message in private memory.

use super::guard::guard;
use super::{REGION, bindings as k, events, lifecycle, shared, waiting};
use crate::engine::facts::Suspended;
use crate::engine::notice::{Kind, Notice, Resumer};
use std::ffi::c_int;
use std::time::Duration;

/// How long a worker sleeps without looking up.
const LOOK: Duration = Duration::from_secs(1);

/// How often, and after which pause, a process that takes nothing is tried again.
const TRIES: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(2);

/// The life of resume worker `index`; the host ends it by signal.
pub unsafe extern "C" fn work(index: c_int) {
    let Some(region) = REGION.get() else { return };
    // SAFETY: the host's own names for its processes; the format takes one number. This process was made for this.
    unsafe {
        k::set_proc_attrs(c"imcharge resume %d".as_ptr(), index + 1);
        lifecycle::end_with_the_host(libc::SIGKILL);
    }
    let mut resumer = Resumer::attach(region, index as usize);
    loop {
        resumer.wait(LOOK);
        while guard(true, || resumer.next(serve)) {}
    }
}

fn serve(notice: &Notice<'_>) {
    match notice.kind {
        Kind::Verdict { suspended, .. } => hand_over(suspended, notice),
        Kind::Debited { .. } | Kind::Failed => events::raise(notice),
    }
}

/// Gives a verdict to the process that waits for it.
fn hand_over(suspended: Suspended, notice: &Notice<'_>) {
    let Ok(process) = c_int::try_from(suspended.index) else { return };
    // SAFETY: the host's shared memory and its way from process to process; the receiver gives the block back.
    unsafe {
        let block = shared::put_bytes(&notice.to_bytes());
        if block.is_null() {
            log::error!(
                "no shared memory for the verdict on {}: its INVITE resumes without one when its time is over",
                notice.call_id
            );
            return;
        }
        for _ in 0..TRIES {
            if k::ipc_send_rpc(process, Some(waiting::on_verdict), block) == 0 {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        k::imcharge_shm_free(block);
    }
    log::error!(
        "process {process} does not accept the verdict on {}: its INVITE resumes without one when its time is over",
        notice.call_id
    );
}
