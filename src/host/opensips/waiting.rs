//! INVITEs that wait in `async()` for their verdict, each in the process that received it.
//!
//! | end of the wait | `$rc` in the resume route |
//! |---|---|
//! | verdict from a resume worker | 1, and the verdict in `$imcharge(...)` |
//! | CANCEL | [`CANCELLED`]: the INVITE has been answered with 487 |
//! | no verdict within [`wait_max`] | -2, as if the engine is down |
//!
//! The host has no timeout for a wait without a file descriptor, and answers a CANCEL of such an INVITE only after the script
//! has relayed it. Only the process in which an INVITE waits can resume it, so other processes send it a job
//! (`ipc_send_rpc`).

use super::tm::{Tm, tm};
use super::transaction::{CurrentRequest, Transaction};
use super::{REGION, bindings as sys, shared, text, variables};
use crate::charge::event::{ServerTransaction, Suspended};
use crate::guard::guard;
use crate::shm::notification::{Kind, Notification};
use crate::shm::script_runs::{Process, Running};
use crate::worker::InviteRefusal;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ffi::{c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// `$rc` of an INVITE that was cancelled while it waited.
pub const CANCELLED: c_int = -4;

/// Time for the verdict in addition to the charging back end's own timeout (Diameter: `tx_timeout`).
const MARGIN: Duration = Duration::from_secs(30);

/// A waiting INVITE.
struct Waiting {
    context: *mut sys::async_ctx,
    /// Its transaction, which lives as long as the INVITE waits.
    transaction: Transaction,
    since: Instant,
}

thread_local! {
    /// INVITEs that wait in this process, by the number that comes back with the verdict.
    static WAITING: RefCell<HashMap<u64, Waiting>> = RefCell::default();
    /// The last number assigned. The first one is the time, so that no earlier process with this index has used it.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// The host's number of the last message that began to wait, and the number assigned here.
    static LAST: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
    /// `$rc` for the INVITE that is being resumed. The default is for one that the host resumes at once because it has no
    /// memory to let it wait.
    static RETURN_CODE: Cell<c_int> = const { Cell::new(InviteRefusal::Full as c_int) };
}

/// Number of waiting INVITEs by process, in the host's shared memory.
static COUNTS: OnceLock<&'static [AtomicU32]> = OnceLock::new();

/// Allocates the counts of all processes. `false`: no shared memory. Only before the first fork.
pub fn make_counts(processes: usize) -> bool {
    // SAFETY: the host's shared memory, never freed; zeroed before it is referenced.
    let counts = unsafe {
        let block = sys::imcharge_shm_malloc((processes * size_of::<AtomicU32>()) as u64).cast::<AtomicU32>();
        if block.is_null() {
            return false;
        }
        block.write_bytes(0, processes);
        std::slice::from_raw_parts(block, processes)
    };
    COUNTS.set(counts).is_ok()
}

/// Registers the timer that checks once a second for INVITEs that wait too long. `false`: the host refused. Only in mod_init.
pub fn register_timer() -> bool {
    let label = text(c"imcharge-waiting");
    // SAFETY: a static function and a static text.
    unsafe {
        sys::register_timer(label, Some(on_timer), std::ptr::null_mut(), 1, sys::TIMER_FLAG_DELAY_ON_DELAY as u16) >= 0
    }
}

/// Registers the current request as waiting in this process. Returns the numbers that come back with the verdict.
///
/// # Safety
/// `transaction` must be the transaction of `request`, and `context` the context that the host passed to the async function.
pub unsafe fn wait(request: CurrentRequest, transaction: Transaction, context: *mut sys::async_ctx) -> Suspended {
    let number = NUMBER.with(|number| {
        let last = match number.get() {
            0 => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
            last => last,
        };
        number.set(last + 1);
        last + 1
    });
    change(|waiting| waiting.insert(number, Waiting { context, transaction, since: Instant::now() }));
    // SAFETY: the host's current request.
    LAST.set((unsafe { (*request.as_ptr()).id }, number));
    // SAFETY: the context is guaranteed by the caller; the number of this process is an integer of the host.
    let process = unsafe {
        (*context).resume_f = on_resume as *mut c_void;
        (*context).resume_param = number as *mut c_void;
        (*context).timeout_f = std::ptr::null_mut();
        sys::async_status = sys::ASYNC_NO_FD;
        sys::process_no
    };
    Suspended { index: process as u64, label: number, continuation: 0 }
}

/// Removes an INVITE that does not wait after all.
pub fn forget(suspended: Suspended) {
    change(|waiting| waiting.remove(&suspended.label));
}

/// Changes the waiting INVITEs of this process, and updates their count.
fn change<R>(change: impl FnOnce(&mut HashMap<u64, Waiting>) -> R) -> R {
    WAITING.with(|waiting| {
        let mut waiting = waiting.borrow_mut();
        let result = change(&mut waiting);
        // SAFETY: an integer that the host sets once in each process.
        let process = unsafe { sys::process_no } as usize;
        if let Some(count) = COUNTS.get().and_then(|counts| counts.get(process)) {
            count.store(waiting.len() as u32, Ordering::Relaxed);
        }
        result
    })
}

/// Called when the script has ended for a message that does not wait; `message` is the host's number of it. If it is registered
/// as waiting, the script has used `launch`, whose context cannot be resumed: the host would crash.
pub fn script_ended(message: u32) {
    let (last, number) = LAST.get();
    if last == message && change(|waiting| waiting.remove(&number)).is_some() {
        log::error!(
            "imcharge_reserve: must be called by async(imcharge_reserve(), ROUTE), not by launch; the INVITE did not wait"
        );
    }
}

/// Resumes the INVITE of this number with this `$rc`, if it still waits in this process.
///
/// # Safety
/// Only in a job of the process, outside the processing of a message.
unsafe fn resume(number: u64, return_code: c_int) {
    let waiting = change(|waiting| waiting.remove(&number));
    // SAFETY: the host sets the function before it loads a script; the context waits in this process.
    if let (Some(waiting), Some(resume_script)) = (waiting, unsafe { sys::async_script_resume_f }) {
        RETURN_CODE.set(return_code);
        // SAFETY: as above; the entry was removed, so the context is resumed once.
        unsafe { resume_script(-1, waiting.context.cast(), 0) };
    }
}

/// Resume function for the host: returns `$rc` for the resume route.
unsafe extern "C" fn on_resume(_: c_int, message: *mut sys::sip_msg, number: *mut c_void) -> c_int {
    guard(InviteRefusal::Full as c_int, || {
        // Still registered if the host resumes the message on its own.
        change(|waiting| waiting.remove(&(number as u64)));
        let return_code = RETURN_CODE.replace(InviteRefusal::Full as c_int);
        if return_code == CANCELLED {
            // SAFETY: the host passes its current request.
            let request = unsafe { CurrentRequest::new(message) };
            tm().zip(request).into_iter().for_each(|(tm, request)| answer_cancelled(tm, request));
        }
        // SAFETY: the host's variable for the result of a resume function.
        unsafe { sys::async_status = sys::ASYNC_DONE_NO_IO };
        return_code
    })
}

/// Answers a cancelled INVITE (RFC 3261, 9.2) and marks its transaction, so that nothing is relayed whatever the script does.
pub fn answer_cancelled(tm: &Tm, request: CurrentRequest) {
    tm.current().into_iter().for_each(Transaction::mark_cancelled);
    tm.reply(request, 487, c"Request Terminated");
}

/// Job that resumes the INVITE of a verdict in the process where it waits. A repeated verdict, or one for an earlier process
/// with this index, is ignored.
pub unsafe extern "C" fn on_verdict(_: c_int, block: *mut c_void) {
    guard((), || {
        // SAFETY: a block of a resume worker, taken once.
        let bytes = unsafe { shared::take_bytes(block) };
        let Some(notification) = Notification::from_bytes(&bytes) else { return };
        let Kind::Verdict { suspended, .. } = notification.kind else { return };
        // SAFETY: the host's number of this process.
        let process = usize::try_from(unsafe { sys::process_no }).ok();
        let place = REGION.get().zip(process).filter(|(region, process)| *process < region.processes());
        let _running = place.map(|(region, process)| {
            let name = format!("the resume route of imcharge_reserve() for {}", notification.call_id);
            Running::begin(region, Process::Host(process), &name)
        });
        // SAFETY: this is a job of the process.
        variables::with(&notification, || unsafe { resume(suspended.label, 1) });
    })
}

/// Ends the wait of a cancelled INVITE, in whichever process it waits. If it no longer waits, tm handles the CANCEL.
pub fn cancel(invite: ServerTransaction) {
    let Ok(process) = c_int::try_from(invite.index) else { return };
    // SAFETY: the host's job queue; a static function and a number.
    if unsafe { sys::ipc_send_rpc(process, Some(on_cancel), invite.label as *mut c_void) } != 0 {
        log::error!("process {process} accepts no job; the cancelled INVITE that waits there is answered later");
    }
}

/// Job that resumes a cancelled INVITE.
unsafe extern "C" fn on_cancel(_: c_int, number: *mut c_void) {
    // SAFETY: this is a job of the process.
    guard((), || unsafe { resume(number as u64, CANCELLED) })
}

/// Timer: once a second, in one process, sends a job to each process in which INVITEs wait.
unsafe extern "C" fn on_timer(_: c_uint, _: *mut c_void) {
    guard((), || {
        for (process, count) in COUNTS.get().into_iter().flat_map(|counts| counts.iter()).enumerate() {
            if count.load(Ordering::Relaxed) > 0 {
                // SAFETY: the host's job queue; a static function. If the queue of a process is full, the next second
                // tries again.
                unsafe { sys::ipc_send_rpc(process as c_int, Some(check_process), std::ptr::null_mut()) };
            }
        }
    })
}

/// Returns the longest wait of an INVITE.
fn wait_max() -> Duration {
    MARGIN + REGION.get().map_or(Duration::ZERO, |region| Duration::from_secs(region.config.answer_seconds().into()))
}

/// Job of a process in which INVITEs wait. Those that have waited too long resume as if the engine is down; those whose CANCEL
/// arrived just before their transaction was watched resume as cancelled.
unsafe extern "C" fn check_process(_: c_int, _: *mut c_void) {
    guard((), || {
        let wait_max = wait_max();
        let end = |waiting: &Waiting| match waiting.transaction.is_cancelled() {
            true => Some(CANCELLED),
            false => (waiting.since.elapsed() > wait_max).then_some(InviteRefusal::EngineDown as c_int),
        };
        let ended: Vec<(u64, c_int)> = WAITING.with(|waiting| {
            waiting.borrow().iter().filter_map(|(number, waiting)| Some((*number, end(waiting)?))).collect()
        });
        for (number, return_code) in ended {
            if return_code != CANCELLED {
                log::error!(
                    "an INVITE got no verdict within {} seconds; its route resumes without one",
                    wait_max.as_secs()
                );
            }
            // SAFETY: this is a job of the process.
            unsafe { resume(number, return_code) };
        }
    })
}
