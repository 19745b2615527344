//! The way back of a verdict: a resume worker takes it from the engine and hands it to the process in which the INVITE
//! waits. Only that process can go on with it, for the host keeps part of what belongs to a message in private memory.

use super::guard::guard;
use super::{REGION, bindings as k, events, lifecycle, shared, variables};
use crate::engine::facts::Suspended;
use crate::engine::notice::{Kind, Notice, Resumer};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_int, c_void};
use std::time::Duration;

/// How long a worker sleeps without looking up.
const LOOK: Duration = Duration::from_secs(1);

/// How often, and after which pause, a process that takes nothing is tried again.
const TRIES: u32 = 1000;
const PAUSE: Duration = Duration::from_millis(2);

thread_local! {
    /// What waits in this process, by the number that the engine carries.
    static WAITING: RefCell<HashMap<u64, *mut k::async_ctx>> = RefCell::default();
    /// The last number; the first is one that no earlier process of this place had.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// The host's number of the message that was made to wait last, and ours.
    static LAST: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
}

/// Remembers that a message waits in this process.
///
/// # Safety
/// `message` must be the host's current request, `context` what it gave to the function that makes the message wait.
pub unsafe fn wait(message: *const k::sip_msg, context: *mut k::async_ctx) -> Suspended {
    let number = NUMBER.with(|number| {
        let last = match number.get() {
            0 => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
            last => last,
        };
        number.set(last + 1);
        last + 1
    });
    WAITING.with(|waiting| waiting.borrow_mut().insert(number, context));
    // SAFETY: by the caller's promise.
    LAST.set((unsafe { (*message).id }, number));
    // SAFETY: the context is the host's, as the caller promises; this process's own number.
    let process = unsafe {
        (*context).resume_f = on_resume as *mut c_void;
        (*context).resume_param = number as *mut c_void;
        (*context).timeout_f = std::ptr::null_mut();
        k::async_status = k::ASYNC_NO_FD;
        k::process_no
    };
    Suspended { index: process as u64, label: number, route: 0 }
}

/// Nothing waits after all.
pub fn forget(suspended: Suspended) {
    WAITING.with(|waiting| waiting.borrow_mut().remove(&suspended.label));
}

/// The script has ended for a message, whose number is the host's, and nothing waits: if this one was made to wait, then by
/// `launch`, whose context is none that a message could go on with. The host would fall over it.
pub fn script_ended(message: u32) {
    let (last, number) = LAST.get();
    if last == message && WAITING.with(|waiting| waiting.borrow_mut().remove(&number)).is_some() {
        log::error!("imcharge_reserve: write async(imcharge_reserve(), ROUTE), not launch: nothing waited");
    }
}

/// The host goes on with a message: the resume route gets 1.
unsafe extern "C" fn on_resume(_: c_int, _: *mut k::sip_msg, number: *mut c_void) -> c_int {
    guard(1, || {
        // The host goes on by itself where it has no place to wait: its context is gone then.
        WAITING.with(|waiting| waiting.borrow_mut().remove(&(number as u64)));
        // SAFETY: the host's own place for what a resume function says.
        unsafe { k::async_status = k::ASYNC_DONE_NO_IO };
        1
    })
}

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
            log::error!("no shared memory for the verdict on {}: its INVITE waits for ever", notice.call_id);
            return;
        }
        for _ in 0..TRIES {
            if k::ipc_send_rpc(process, Some(on_verdict), block) == 0 {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        k::imcharge_shm_free(block);
    }
    log::error!("process {process} takes no verdict: the INVITE of {} waits for ever", notice.call_id);
}

/// In the process that waits: goes on with the message. A verdict that comes again, or one for a process that had this
/// place before, finds nothing.
unsafe extern "C" fn on_verdict(_: c_int, block: *mut c_void) {
    guard((), || {
        // SAFETY: a block of `hand_over`, given once.
        let bytes = unsafe { shared::take_bytes(block) };
        let Some(notice) = Notice::from_bytes(&bytes) else { return };
        let Kind::Verdict { suspended, .. } = notice.kind else { return };
        let context = WAITING.with(|waiting| waiting.borrow_mut().remove(&suspended.label));
        // SAFETY: the host sets the function before it loads a script; the context waits in this process.
        if let (Some(context), Some(resume)) = (context, unsafe { k::async_script_resume_f }) {
            variables::with(&notice, || unsafe { resume(-1, context.cast(), 0) });
        }
    })
}
