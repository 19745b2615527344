//! The way back of a verdict: a resume worker takes it from the engine and hands it to the process in which the INVITE
//! waits. Only that process can go on with it, for the host keeps part of what belongs to a message in private memory.

use super::{REGION, bindings as sys, lifecycle, shared, waiting};
use crate::charge::time::Time;
use crate::guard::guard;
use crate::shm::clock;
use crate::shm::notification::{Kind, Notification, NotificationReader};
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use std::collections::{HashSet, VecDeque};
use std::ffi::{c_int, c_void};
use std::time::Duration;

/// How long a worker sleeps without looking up.
const LOOK: Duration = Duration::from_secs(1);

/// How often a process whose pipe is full is tried again. The host logs a line each time.
const AGAIN: Duration = Duration::from_millis(500);

/// How many verdicts a worker keeps for processes whose pipes are full. A pipe has room for more than 2000.
const LATER_MAX: usize = 4096;

/// The life of resume worker `index`; the host ends it by signal.
pub unsafe extern "C" fn work(index: c_int) {
    let Some(region) = REGION.get() else { return };
    // SAFETY: this process was made for this.
    unsafe { lifecycle::begin(c"imcharge resume %d", index) };
    let mut resumer = match NotificationReader::attach(region, index as usize) {
        Ok(resumer) => resumer,
        Err(error) => return log::error!("imcharge resume {index} cannot run: {error}"),
    };
    let mut later = Later::default();
    loop {
        resumer.wait(if later.verdicts.is_empty() { LOOK } else { AGAIN });
        guard((), || later.send());
        while guard(true, || resumer.next(|notice| deliver(region, &mut later, notice))) {}
    }
}

/// Gives a verdict to the process that waits for it, or keeps it for later where that process takes none: nothing here
/// waits, for the verdicts on INVITEs in other processes come behind it.
fn deliver(region: &Region, later: &mut Later, notice: &Notification<'_>) {
    let Kind::Verdict { suspended, .. } = notice.kind else { return };
    let Ok(process) = c_int::try_from(suspended.index) else { return };
    // SAFETY: the host's shared memory.
    let block = unsafe { shared::put_bytes(&notice.to_bytes()) };
    if block.is_null() {
        region.count(Statistic::DroppedVerdicts);
        log::error!(
            "no shared memory for the verdict on {}: its INVITE resumes without one when its time is over",
            notice.call_id
        );
        return;
    }
    if later.has(process) || !send(process, block) {
        later.keep(region, process, block, notice.call_id);
    }
}

/// Hands a block over. `false`: the pipe of the process is full.
fn send(process: c_int, block: *mut c_void) -> bool {
    // SAFETY: the host's way from process to process, which does not block; the receiver gives the block back.
    unsafe { sys::ipc_send_rpc(process, Some(waiting::on_verdict), block) == 0 }
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
        unsafe { sys::imcharge_shm_free(block) };
        region.count(Statistic::DroppedVerdicts);
        log::error!(
            "process {process} accepts no verdict: the INVITE of {call_id} resumes without one when its time is over"
        );
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
