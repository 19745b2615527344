//! The state directory: its lock, and what identifies its regions, this run and this boot.

use super::RegionError;
use crate::simulate;
use siphasher::sip::SipHasher13;
use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Folder of the region files.
pub const SHARED_MEMORY: &str = "/dev/shm";

/// How long a starting proxy waits for the previous one to release the state directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// The lock of a state directory. It is held while any process of this host lives, because all inherit the descriptor.
#[derive(Debug)]
pub struct StateDirectory(File);

impl StateDirectory {
    /// Locks the directory for this host; waits up to 5 s for another one to end. Warns if other users can read it.
    pub fn lock(state_dir: &Path) -> Result<StateDirectory, RegionError> {
        let lock = lock(state_dir)?;
        warn_if_open_to_others(state_dir);
        Ok(StateDirectory(lock))
    }

    /// The descriptor of the lock.
    pub(super) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

fn lock(state_dir: &Path) -> Result<File, RegionError> {
    let path = state_dir.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o640).open(&path).map_err(|error| {
        RegionError(format!(
            "parameter state_dir: cannot write {}: {error}; the folder must exist and belong to the user of the proxy",
            path.display()
        ))
    })?;
    let started = Instant::now();
    while !try_lock(&file) {
        if started.elapsed() > LOCK_PATIENCE {
            return Err(RegionError(format!(
                "another proxy uses the state directory {}; give each proxy its own state_dir",
                state_dir.display()
            )));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(file)
}

/// Locks a file for this process and those that inherit it. `false`: it is locked already.
pub fn try_lock(file: &File) -> bool {
    // SAFETY: an open descriptor; no pointer involved.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) == 0 }
}

/// Warns if other users can read the ledger, which tells who was served when.
fn warn_if_open_to_others(state_dir: &Path) {
    let mode = std::fs::metadata(state_dir).map_or(0, |metadata| metadata.mode() & 0o7777);
    if mode & 0o007 != 0 {
        log::warn!(
            "state_dir {} is accessible to every user of this machine (mode {mode:04o}): set it to 0750",
            state_dir.display()
        );
    }
}

/// Start of the names of the region files of a state directory.
pub fn region_prefix(state_dir: &Path) -> String {
    let canonical = state_dir.canonicalize().unwrap_or_else(|_| state_dir.to_owned());
    format!("{SHARED_MEMORY}/imcharge-{:016x}-", hash(canonical.as_os_str().as_bytes()))
}

/// Hash of the kernel's boot id: differs after a reboot.
pub fn boot_id() -> u64 {
    hash(&std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default())
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new();
    hasher.write(bytes);
    hasher.finish()
}

/// 64 random bits, from the kernel or from the simulation.
pub fn random() -> u64 {
    simulate::random().unwrap_or_else(kernel_random)
}

fn kernel_random() -> u64 {
    let mut bytes = [0u8; 8];
    // SAFETY: a buffer of that length. Requests of 8 octets are never answered in part, and fail only before the kernel's
    // pool is initialised at boot.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u64::from_ne_bytes(bytes)
}
