//! Regions that earlier runs of the host left on the state directory.

use super::header::MAGIC;
use super::layout::{Layout, Sizes, area};
use super::map::Map;
use super::state_dir::{SHARED_MEMORY, boot_id, region_prefix};
use super::{AttachError, EventConsumer, Header, Region};
use crate::shm::sync::Ordering;
use std::fs::{File, OpenOptions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// The region of an instance that has ended.
pub struct OrphanedRegion {
    pub(super) map: Arc<Map>,
}

impl Region {
    /// Engine: opens the regions that earlier instances left on this state directory.
    pub fn orphaned(&self) -> Vec<OrphanedRegion> {
        let prefix = region_prefix(&self.config.state_dir);
        let Ok(entries) = std::fs::read_dir(SHARED_MEMORY) else { return Vec::new() };
        let paths = entries.flatten().map(|entry| entry.path());
        let others =
            paths.filter(|path| path.as_os_str().as_bytes().starts_with(prefix.as_bytes()) && *path != self.map.path);
        others.filter_map(|path| OrphanedRegion::open(&path)).collect()
    }
}

impl OrphanedRegion {
    /// Opens a region file of this user. Removes it if it is of another boot or version.
    pub(super) fn open(path: &Path) -> Option<OrphanedRegion> {
        let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
        let metadata = file.metadata().ok()?;
        // SAFETY: no argument, no failure.
        if metadata.uid() != unsafe { libc::geteuid() } || (metadata.len() as usize) < area::<Header>(1) {
            log::warn!("{}: not a shared memory file of this user, left as it is", path.display());
            return None;
        }
        let layout = Self::layout(&file, path, metadata.len() as usize);
        if layout.is_none() {
            log::warn!("{}: written by another version or before a reboot; removed unread", path.display());
            let _ = std::fs::remove_file(path);
        }
        let map = Map::new(&file, layout?, path.to_owned()).ok()?;
        Some(OrphanedRegion { map: Arc::new(map) })
    }

    /// The layout that the header gives; `None` if it exceeds the file, or the file is of another version or boot.
    fn layout(file: &File, path: &Path, length: usize) -> Option<Layout> {
        let head = Map::new(file, Layout::new(Sizes::default()), path.to_owned()).ok()?;
        let header = head.header();
        let layout = Layout::new(header.sizes()?);
        let is_known =
            header.magic.load(Ordering::Acquire) == MAGIC && header.boot.load(Ordering::Relaxed) == boot_id();
        (is_known && layout.total <= length).then_some(layout)
    }

    /// Returns its instance number.
    pub fn instance(&self) -> u64 {
        self.map.header().instance.load(Ordering::Relaxed)
    }

    /// Takes the reading ends of its event rings, in the order of their processes.
    pub fn event_consumers(&self) -> Result<Vec<EventConsumer>, AttachError> {
        self.map.consumers()
    }

    /// Removes its file, once everything in it is committed.
    pub fn remove(self) {
        let _ = std::fs::remove_file(&self.map.path);
    }
}
