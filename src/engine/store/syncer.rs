//! Syncs the journal in a separate thread, so that a slow disk delays only what has to wait for it.
//!
//! Requests to a remote enabler and command replies wait for a sync and make it urgent. A verdict of the embedded ledger
//! does not wait: its record is synced within [`SYNC_DELAY`] plus the time that the disk takes.

use super::journal::{self, Journal, JournalError};
use crate::charge::time::Time;
use crate::shm::clock;
use crate::shm::region::Region;
use crate::simulate;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long records are collected for one sync, unless one is urgent.
pub const SYNC_DELAY: Duration = Duration::from_millis(8);

/// Records that are written and not synced.
#[derive(Clone, Copy, Default)]
struct Unsynced {
    /// Sequence of the last record.
    through: u64,
    /// Which files contain such records.
    files: [bool; 2],
    /// When the first record was written; `None`: everything is synced.
    since: Option<Time>,
    is_urgent: bool,
}

#[derive(Default)]
struct State {
    unsynced: Unsynced,
    /// Sequence of the last record that is on the disk.
    durable: u64,
    /// Error of the first failed sync. It is kept: the kernel reports a failed write once and then considers the pages
    /// as written, so a later successful sync proves nothing about them.
    failed: Option<(PathBuf, io::Error)>,
    is_ending: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Syncs the files of a journal.
pub struct Syncer {
    shared: Arc<Shared>,
    /// `None` in a simulation, which syncs in `durable`.
    thread: Option<JoinHandle<()>>,
    files: Option<[(File, PathBuf); 2]>,
}

impl Syncer {
    /// Starts to sync the files of a journal, of which nothing counts as synced yet. Wakes the engine of the region after
    /// an urgent sync.
    pub fn start(journal: &Journal, region: Option<Arc<Region>>) -> Result<Syncer, JournalError> {
        let through = journal.sequence();
        let unsynced = Unsynced { through, files: [true; 2], since: Some(clock::now()), is_urgent: true };
        let state = State { unsynced, ..State::default() };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let files = journal.handles()?;
        if simulate::is_simulated() {
            return Ok(Syncer { shared, thread: None, files: Some(files) });
        }
        let path = files[0].1.clone();
        let (theirs, name) = (Arc::clone(&shared), "journal sync".to_owned());
        let thread =
            std::thread::Builder::new().name(name).spawn(move || run_thread(&theirs, &files, region.as_deref()));
        let thread = thread.map_err(|source| JournalError::Io { path, source })?;
        Ok(Syncer { shared, thread: Some(thread), files: None })
    }

    /// Records that a record was written to this file.
    pub fn written(&self, sequence: u64, file: usize, is_urgent: bool) {
        let mut state = self.shared.lock();
        let unsynced = &mut state.unsynced;
        unsynced.through = sequence;
        unsynced.files[file] = true;
        let wakes = unsynced.since.is_none() || is_urgent;
        unsynced.since.get_or_insert_with(clock::now);
        unsynced.is_urgent |= is_urgent;
        drop(state);
        if wakes {
            self.shared.changed.notify_one();
        }
    }

    /// Returns the sequence of the last record that survives a power failure, or the error of a failed sync, after which
    /// records may be lost. Every later call returns the same error.
    pub fn durable(&self) -> Result<u64, JournalError> {
        if let Some(files) = &self.files {
            sync_when_due(&self.shared, files);
        }
        let state = self.shared.lock();
        match &state.failed {
            Some((path, source)) => Err(JournalError::Io { path: path.clone(), source: same_error(source) }),
            None => Ok(state.durable),
        }
    }

    /// When the oldest record was written that is not synced.
    pub fn unsynced_since(&self) -> Option<Time> {
        self.shared.lock().unsynced.since
    }
}

impl Drop for Syncer {
    /// Waits for the sync in progress.
    fn drop(&mut self) {
        self.shared.lock().is_ending = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Main loop of the thread.
fn run_thread(shared: &Shared, files: &[(File, PathBuf); 2], region: Option<&Region>) {
    loop {
        let mut state = shared.lock();
        let unsynced = loop {
            if state.is_ending {
                return;
            }
            let Unsynced { since, is_urgent, .. } = state.unsynced;
            let age = since.map(clock::since);
            state = match age {
                Some(age) if is_urgent || age >= SYNC_DELAY => break std::mem::take(&mut state.unsynced),
                Some(age) => wait(shared, state, SYNC_DELAY - age),
                None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        };
        drop(state);
        let result = sync_files(&unsynced, files);
        let mut state = shared.lock();
        finish(&mut state, &unsynced, result);
        drop(state);
        if let Some(region) = region.filter(|_| unsynced.is_urgent) {
            region.wake_engine();
        }
    }
}

fn wait<'a>(shared: &'a Shared, state: MutexGuard<'a, State>, timeout: Duration) -> MutexGuard<'a, State> {
    shared.changed.wait_timeout(state, timeout).unwrap_or_else(PoisonError::into_inner).0
}

fn sync_files(unsynced: &Unsynced, files: &[(File, PathBuf); 2]) -> Result<(), (PathBuf, io::Error)> {
    let mut used = files.iter().zip(unsynced.files).filter_map(|(file, used)| used.then_some(file));
    used.try_for_each(|(file, path)| journal::sync(file, path).map_err(|error| (path.clone(), error)))
}

/// Copies the error, because `io::Error` is not `Clone`.
fn same_error(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

fn finish(state: &mut State, unsynced: &Unsynced, result: Result<(), (PathBuf, io::Error)>) {
    match result {
        Ok(()) => state.durable = state.durable.max(unsynced.through),
        Err(failed) => drop(state.failed.get_or_insert(failed)),
    }
}

/// Syncs in the engine's own thread, for a simulation.
fn sync_when_due(shared: &Shared, files: &[(File, PathBuf); 2]) {
    let mut state = shared.lock();
    let is_due = |since: Time| state.unsynced.is_urgent || clock::since(since) >= SYNC_DELAY;
    if state.unsynced.since.is_some_and(is_due) {
        let unsynced = std::mem::take(&mut state.unsynced);
        drop(state);
        let result = sync_files(&unsynced, files);
        finish(&mut shared.lock(), &unsynced, result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_sync_is_reported_by_every_later_call() {
        // The kernel cannot sync a character device.
        let file = || (File::options().write(true).open("/dev/null").expect("a device"), PathBuf::from("journal-a"));
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let syncer = Syncer { shared, thread: None, files: Some([file(), file()]) };
        assert_eq!(syncer.durable().ok(), Some(0), "nothing to sync");
        syncer.written(1, 0, true);
        // First by a commit, then by the tick that must end the engine.
        for _ in 0..2 {
            assert!(matches!(syncer.durable(), Err(JournalError::Io { .. })));
        }
    }
}
