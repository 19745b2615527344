//! INVITEs that wait in `async()` for their verdict, each in the process that took it, and what ends the wait:
//!
//! | what comes first | `$rc` in the route that resumes |
//! |---|---|
//! | the verdict, from a resume worker | 1, and the verdict in `$imcharge(...)` |
//! | CANCEL | [`CANCELLED`]: the INVITE has been answered 487 |
//! | no verdict for [`patience`] | -2, as when the engine is down |
//!
//! The host has no time limit for a wait without a file descriptor, and answers a CANCEL of such an INVITE only once the
//! script relays it. Only the process in which an INVITE waits can resume it, so the others send it a job (`ipc_send_rpc`).

use super::{REGION, TM, bindings as sys, shared, text, variables};
use crate::charge::event::{InviteTransaction, Suspended};
use crate::guard::guard;
use crate::host::text::static_str;
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

/// How long the engine may take beyond the enabler's own time (Diameter: `tx_timeout`).
const MARGIN: Duration = Duration::from_secs(30);

/// An INVITE that waits.
struct Waiting {
    context: *mut sys::async_ctx,
    /// Its transaction, which lives as long as it waits.
    transaction: *const sys::cell,
    since: Instant,
}

thread_local! {
    /// INVITEs that wait in this process, by the number that the engine carries.
    static WAITING: RefCell<HashMap<u64, Waiting>> = RefCell::default();
    /// The last number; the first is one that no earlier process of this place had.
    static NUMBER: Cell<u64> = const { Cell::new(0) };
    /// The host's number of the message that was made to wait last, and ours.
    static LAST: Cell<(u32, u64)> = const { Cell::new((0, 0)) };
    /// `$rc` for the INVITE that is being resumed; the default is for one that the host resumes by itself, because it has no
    /// room to let it wait.
    static RETURN_CODE: Cell<c_int> = const { Cell::new(InviteRefusal::Full as c_int) };
}

/// How many INVITEs wait, by process; in the host's shared memory.
static COUNTS: OnceLock<&'static [AtomicU32]> = OnceLock::new();

/// Makes the counts of all processes. `false`: no shared memory. Before the first fork.
pub fn make_counts(processes: usize) -> bool {
    // SAFETY: the host's shared memory, set up and never given back; zeroed before anything refers to it.
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

/// Registers the check, once a second, for INVITEs that wait too long. `false`: the host refuses. In mod_init.
pub fn register_timer() -> bool {
    let label = text(c"imcharge-waiting");
    // SAFETY: a function and a text of static life.
    unsafe {
        sys::register_timer(
            label,
            Some(look_everywhere),
            std::ptr::null_mut(),
            1,
            sys::TIMER_FLAG_DELAY_ON_DELAY as u16,
        ) >= 0
    }
}

/// Remembers that a message waits in this process.
///
/// # Safety
/// `message` must be the host's current request, `transaction` its transaction, `context` what the host gave to the function
/// that makes the message wait.
pub unsafe fn wait(
    message: *const sys::sip_msg,
    transaction: *const sys::cell,
    context: *mut sys::async_ctx,
) -> Suspended {
    let number = NUMBER.with(|number| {
        let last = match number.get() {
            0 => std::time::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_nanos() as u64),
            last => last,
        };
        number.set(last + 1);
        last + 1
    });
    change(|waiting| waiting.insert(number, Waiting { context, transaction, since: Instant::now() }));
    // SAFETY: by the caller's promise.
    LAST.set((unsafe { (*message).id }, number));
    // SAFETY: the context is the host's, as the caller promises; this process's own number.
    let process = unsafe {
        (*context).resume_f = on_resume as *mut c_void;
        (*context).resume_param = number as *mut c_void;
        (*context).timeout_f = std::ptr::null_mut();
        sys::async_status = sys::ASYNC_NO_FD;
        sys::process_no
    };
    Suspended { index: process as u64, label: number, continuation: 0 }
}

/// Nothing waits after all.
pub fn forget(suspended: Suspended) {
    change(|waiting| waiting.remove(&suspended.label));
}

/// Changes what waits in this process, and its count.
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

/// The script has ended for a message (the host's number of it) that does not wait. If it was made to wait, then by `launch`,
/// whose context cannot be resumed: the host would crash.
pub fn script_ended(message: u32) {
    let (last, number) = LAST.get();
    if last == message && change(|waiting| waiting.remove(&number)).is_some() {
        log::error!("imcharge_reserve: write async(imcharge_reserve(), ROUTE), not launch: nothing waited");
    }
}

/// Resumes the INVITE of this number with this `$rc`, if it still waits in this process.
///
/// # Safety
/// In a job of the process's own, with no message at hand.
unsafe fn go_on(number: u64, return_code: c_int) {
    let waiting = change(|waiting| waiting.remove(&number));
    // SAFETY: the host sets the function before it loads a script; the context waits in this process.
    if let (Some(waiting), Some(resume)) = (waiting, unsafe { sys::async_script_resume_f }) {
        RETURN_CODE.set(return_code);
        // SAFETY: as above; the entry was removed, so the context is resumed once.
        unsafe { resume(-1, waiting.context.cast(), 0) };
    }
}

/// The host resumes a message, with its transaction: returns `$rc` for the route that follows.
unsafe extern "C" fn on_resume(_: c_int, message: *mut sys::sip_msg, number: *mut c_void) -> c_int {
    guard(InviteRefusal::Full as c_int, || {
        // Still there if the host resumes it by itself.
        change(|waiting| waiting.remove(&(number as u64)));
        let return_code = RETURN_CODE.replace(InviteRefusal::Full as c_int);
        if return_code == CANCELLED {
            // SAFETY: the host's current request, with its transaction.
            unsafe { answer_cancelled(message) };
        }
        // SAFETY: the host's own place for what a resume function says.
        unsafe { sys::async_status = sys::ASYNC_DONE_NO_IO };
        return_code
    })
}

/// Whether tm knows that an INVITE is cancelled.
///
/// # Safety
/// `transaction` must be a transaction of tm.
pub unsafe fn is_cancelled(transaction: *const sys::cell) -> bool {
    // SAFETY: by the caller's promise; the host reads its flags without a lock, too.
    unsafe { (*transaction).flags & sys::T_WAS_CANCELLED_FLAG as c_uint != 0 }
}

/// Answers a cancelled INVITE (RFC 3261, 9.2) and marks its transaction, as tm does with one that it has relayed: whatever
/// the script does, nothing is relayed any more.
///
/// # Safety
/// `message` must be the host's current request, with a transaction.
pub unsafe fn answer_cancelled(message: *mut sys::sip_msg) {
    let Some(tm) = TM.get() else { return };
    let (Some(reply), Some(transaction)) = (tm.0.t_reply, tm.0.t_gett) else { return };
    let reason = static_str(c"Request Terminated");
    // SAFETY: tm's own functions on its current transaction.
    unsafe {
        if let Some(transaction) = transaction().as_mut() {
            transaction.flags |= sys::T_WAS_CANCELLED_FLAG as c_uint;
        }
        reply(message, 487, &reason);
    }
}

/// Resumes the INVITE of a verdict, in the process where it waits. A repeated verdict, or one for an earlier process with this
/// number, is ignored.
pub unsafe extern "C" fn on_verdict(_: c_int, block: *mut c_void) {
    guard((), || {
        // SAFETY: a block of `resume`, given once.
        let bytes = unsafe { shared::take_bytes(block) };
        let Some(notice) = Notification::from_bytes(&bytes) else { return };
        let Kind::Verdict { suspended, .. } = notice.kind else { return };
        // SAFETY: the host's number of this process.
        let process = usize::try_from(unsafe { sys::process_no }).ok();
        let place = REGION.get().zip(process).filter(|(region, process)| *process < region.processes());
        let _running = place.map(|(region, process)| {
            let name = format!("the route behind imcharge_reserve() for {}", notice.call_id);
            Running::begin(region, Process::Host(process), &name)
        });
        // SAFETY: this is a job of its own.
        variables::with(&notice, || unsafe { go_on(suspended.label, 1) });
    })
}

/// Ends the wait of an INVITE for which a CANCEL came, in whatever process. If it does not wait any more, tm handles the CANCEL.
pub fn cancel(invite: InviteTransaction) {
    let Ok(process) = c_int::try_from(invite.index) else { return };
    // SAFETY: the host's job queue; a function of static life and a number.
    if unsafe { sys::ipc_send_rpc(process, Some(on_cancel), invite.label as *mut c_void) } != 0 {
        log::error!("process {process} accepts no job: the cancelled INVITE that waits there is answered later");
    }
}

unsafe extern "C" fn on_cancel(_: c_int, number: *mut c_void) {
    // SAFETY: this is a job of its own.
    guard((), || unsafe { go_on(number as u64, CANCELLED) })
}

/// Once a second, in one process: has those in which an INVITE waits check for how long.
unsafe extern "C" fn look_everywhere(_: c_uint, _: *mut c_void) {
    guard((), || {
        for (process, count) in COUNTS.get().into_iter().flat_map(|counts| counts.iter()).enumerate() {
            if count.load(Ordering::Relaxed) > 0 {
                // SAFETY: the host's job queue; a function of static life. A process whose queue is full is asked again in
                // a second.
                unsafe { sys::ipc_send_rpc(process as c_int, Some(look), std::ptr::null_mut()) };
            }
        }
    })
}

/// How long an INVITE waits at most.
fn patience() -> Duration {
    MARGIN + REGION.get().map_or(Duration::ZERO, |region| Duration::from_secs(region.config.answer_seconds().into()))
}

/// In a process where INVITEs wait: those that have waited too long resume as if the engine was down, and those whose CANCEL came
/// just before their transaction was watched resume as cancelled.
unsafe extern "C" fn look(_: c_int, _: *mut c_void) {
    guard((), || {
        let patience = patience();
        let end = |waiting: &Waiting| {
            // SAFETY: what waits has its transaction.
            match unsafe { is_cancelled(waiting.transaction) } {
                true => Some(CANCELLED),
                false => (waiting.since.elapsed() > patience).then_some(InviteRefusal::EngineDown as c_int),
            }
        };
        let ended: Vec<(u64, c_int)> = WAITING.with(|waiting| {
            waiting.borrow().iter().filter_map(|(number, waiting)| Some((*number, end(waiting)?))).collect()
        });
        for (number, return_code) in ended {
            if return_code != CANCELLED {
                log::error!(
                    "an INVITE had no verdict for {} seconds; its route resumes without one",
                    patience.as_secs()
                );
            }
            // SAFETY: this is a job of its own.
            unsafe { go_on(number, return_code) };
        }
    })
}
