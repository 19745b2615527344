//! Resume workers: processes that take verdicts from the engine and pass each to the process in which its INVITE waits. Only
//! that process can resume it, because the host keeps part of a message in private memory.

use super::{REGION, bindings as sys, process, shared, waiting};
use crate::charge::time::Time;
use crate::guard::guard;
use crate::shm::clock;
use crate::shm::notification::{Kind, Notification, NotificationReader};
use crate::shm::region::Region;
use crate::shm::statistic::Statistic;
use std::collections::{HashSet, VecDeque};
use std::ffi::{c_int, c_void};
use std::time::Duration;

/// Longest wait for a notification.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// Interval of retries for a process whose pipe is full. The host logs a line for each.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);

/// Maximum number of verdicts that a worker keeps for processes whose pipes are full. A pipe holds more than 2000.
const PENDING_MAX: usize = 4096;

/// Main loop of resume worker `index`. The host ends it by a signal.
pub unsafe extern "C" fn work(index: c_int) {
    let Some(region) = REGION.get() else { return };
    // SAFETY: this is a process of the module.
    unsafe { process::begin(c"imcharge resume %d", index) };
    let mut reader = match NotificationReader::attach(region, index as usize) {
        Ok(reader) => reader,
        Err(error) => return log::error!("imcharge resume {index} cannot run: {error}"),
    };
    let mut pending = Pending::default();
    loop {
        reader.wait(if pending.verdicts.is_empty() { SLEEP_MAX } else { RETRY_INTERVAL });
        guard((), || pending.send());
        while guard(true, || reader.next(|notification| deliver(region, &mut pending, notification))) {}
    }
}

/// Sends a verdict to the process in which its INVITE waits, or keeps it if the pipe of that process is full. It must not block,
/// because verdicts for other processes follow.
fn deliver(region: &Region, pending: &mut Pending, notification: &Notification<'_>) {
    let Kind::Verdict { suspended, .. } = notification.kind else { return };
    let Ok(process) = c_int::try_from(suspended.index) else { return };
    // SAFETY: the host's shared memory.
    let block = unsafe { shared::put_bytes(&notification.to_bytes()) };
    if block.is_null() {
        region.count(Statistic::DroppedVerdicts);
        log::error!(
            "no shared memory for the verdict on {}; its INVITE resumes without a verdict after its timeout",
            notification.call_id
        );
        return;
    }
    if pending.has(process) || !send(process, block) {
        pending.keep(region, process, block, notification.call_id);
    }
}

/// Sends a block to a process. `false`: its pipe is full.
fn send(process: c_int, block: *mut c_void) -> bool {
    // SAFETY: the host's job queue, which does not block; the receiver frees the block.
    unsafe { sys::ipc_send_rpc(process, Some(waiting::on_verdict), block) == 0 }
}

/// Verdicts for processes whose pipes are full, because they run a blocking script while many INVITEs wait in them.
#[derive(Default)]
struct Pending {
    verdicts: VecDeque<(c_int, *mut c_void)>,
    tried: Time,
}

impl Pending {
    fn has(&self, process: c_int) -> bool {
        self.verdicts.iter().any(|(of, _)| *of == process)
    }

    fn keep(&mut self, region: &Region, process: c_int, block: *mut c_void, call_id: &str) {
        if self.verdicts.len() < PENDING_MAX {
            self.verdicts.push_back((process, block));
            return;
        }
        // SAFETY: a block that only this process uses.
        unsafe { sys::imcharge_shm_free(block) };
        region.count(Statistic::DroppedVerdicts);
        log::error!(
            "process {process} accepts no verdict; the INVITE of {call_id} resumes without a verdict after its timeout"
        );
    }

    /// Retries, in order; stops at the first failure of each process.
    fn send(&mut self) {
        if self.verdicts.is_empty() || clock::since(self.tried) < RETRY_INTERVAL {
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
