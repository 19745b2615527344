//! The way back of a verdict: a resume worker takes it from the engine and hands it to the process in which the INVITE
//! waits. Only that process can go on with it, for the host keeps part of what belongs to a message in private memory.

use super::guard::guard;
use super::{REGION, bindings as k, lifecycle, shared, variables};
use crate::charge::time::Time;
use crate::engine::clock;
use crate::engine::facts::Suspended;
use crate::engine::notice::{Kind, Notice, Resumer};
use crate::engine::region::Region;
use crate::engine::script::{Process, Running};
use crate::engine::statistic::Statistic;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{c_int, c_void};
use std::time::Duration;

/// How long a worker sleeps without looking up.
const LOOK: Duration = Duration::from_secs(1);

/// How often a process whose pipe is full is tried again. The host logs a line each time.
const AGAIN: Duration = Duration::from_millis(500);

/// How many verdicts a worker keeps for processes whose pipes are full. A pipe has room for more than 2000.
const LATER_MAX: usize = 4096;

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
    // SAFETY: this process was made for this.
    unsafe { lifecycle::begin(c"imcharge resume %d", index) };
    let mut resumer = Resumer::attach(region, index as usize);
    let mut later = Later::default();
    loop {
        resumer.wait(if later.verdicts.is_empty() { LOOK } else { AGAIN });
        guard((), || later.send());
        while guard(true, || resumer.next(|notice| deliver(region, &mut later, notice))) {}
    }
}

/// Gives a verdict to the process that waits for it, or keeps it for later where that process takes none: nothing here
/// waits, for the verdicts on INVITEs in other processes come behind it.
fn deliver(region: &Region, later: &mut Later, notice: &Notice<'_>) {
    let Kind::Verdict { suspended, .. } = notice.kind else { return };
    let Ok(process) = c_int::try_from(suspended.index) else { return };
    // SAFETY: the host's shared memory.
    let block = unsafe { shared::put_bytes(&notice.to_bytes()) };
    if block.is_null() {
        region.count(Statistic::DroppedVerdicts);
        log::error!("no shared memory for the verdict on {}: its INVITE waits until it is cancelled", notice.call_id);
        return;
    }
    if later.has(process) || !send(process, block) {
        later.keep(region, process, block, notice.call_id);
    }
}

/// Hands a block over. `false`: the pipe of the process is full.
fn send(process: c_int, block: *mut c_void) -> bool {
    // SAFETY: the host's way from process to process, which does not block; the receiver gives the block back.
    unsafe { k::ipc_send_rpc(process, Some(on_verdict), block) == 0 }
}

/// Verdicts for processes that take none: they run a script that blocks, and so many others wait in them that their pipes
/// are full.
#[derive(Default)]
struct Later {
    verdicts: VecDeque<(c_int, *mut c_void)>,
    tried: Time,
}

impl Later {
    fn has(&self, process: c_int) -> bool {
        self.verdicts.iter().any(|(of, _)| *of == process)
    }

    fn keep(&mut self, region: &Region, process: c_int, block: *mut c_void, call_id: &str) {
        if self.verdicts.len() < LATER_MAX {
            self.verdicts.push_back((process, block));
            return;
        }
        // SAFETY: a block of our own that nobody else has.
        unsafe { k::imcharge_shm_free(block) };
        region.count(Statistic::DroppedVerdicts);
        log::error!("process {process} takes no verdict: the INVITE of {call_id} waits until it is cancelled");
    }

    /// Tries again, each process once and the others of it only if that went well.
    fn send(&mut self) {
        if self.verdicts.is_empty() || clock::since(self.tried) < AGAIN {
            return;
        }
        self.tried = clock::now();
        let mut full = HashSet::new();
        self.verdicts.retain(|(process, block)| {
            let is_kept = full.contains(process) || !send(*process, *block);
            if is_kept {
                full.insert(*process);
            }
            is_kept
        });
    }
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
        // SAFETY: the host's number of this process.
        let process = usize::try_from(unsafe { k::process_no }).ok();
        let place = REGION.get().zip(process).filter(|(region, process)| *process < region.processes());
        let _running = place.map(|(region, process)| {
            let name = format!("the route behind imcharge_reserve() for {}", notice.call_id);
            Running::begin(region, Process::Host(process), &name)
        });
        // SAFETY: the host sets the function before it loads a script; the context waits in this process.
        if let (Some(context), Some(resume)) = (context, unsafe { k::async_script_resume_f }) {
            variables::with(&notice, || unsafe { resume(-1, context.cast(), 0) });
        }
    })
}
