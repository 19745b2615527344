//! The folder `cdr_dir` and its files. Each operation also exists on the disk of a simulation, and may be the last one of
//! its process there.

use super::RecordError;
use crate::config::RecordFormat;
use crate::shm::region::try_lock;
use crate::simulate::{self, crash_point};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Ending of a file that is not closed.
const PART: &str = ".part";

/// The files of one node in its folder.
#[derive(Clone, Debug)]
pub struct Folder {
    /// Path of the folder.
    pub path: PathBuf,
    /// Name of the node, with which the files begin.
    pub node: String,
    /// Format of new files.
    pub format: RecordFormat,
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> RecordError + '_ {
    |source| RecordError::Io { path: path.to_owned(), source }
}

/// Returns the name of a file while it is open.
fn part_of(path: &Path) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(PART);
    name.into()
}

/// Returns the lock file of the node that a file belongs to. Its presence also shows that the folder is the one in which
/// the file was written, not a new one in its place.
fn lock_of(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let node = name.rsplit_once('-').map_or(&*name, |(node, _)| node);
    path.with_file_name(format!(".{node}.lock"))
}

/// Writes the entries of the folder of a file to the disk.
pub fn sync_folder(path: &Path) -> Result<(), RecordError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let opened = File::open(folder).map_err(io_error(folder))?;
    simulate::folder_sync(folder).unwrap_or_else(|| opened.sync_all()).map_err(io_error(folder))
}

/// State of a file whose closing was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renaming {
    /// It still has the name of an open file.
    Due,
    /// It was renamed; perhaps it was taken away since.
    Done,
    /// Its folder is another one: the file is lost.
    FolderReplaced,
}

/// Looks what was done of a file that was to be renamed to `path`.
pub fn renaming(path: &Path) -> Result<Renaming, RecordError> {
    let exists = |path: &Path| path.try_exists().map_err(io_error(path));
    let folder = path.parent().unwrap_or(Path::new("/"));
    // A folder that is not there may come back with the file.
    fs::metadata(folder).map_err(io_error(folder))?;
    Ok(match (exists(&part_of(path))?, exists(path)?, exists(&lock_of(path))?) {
        (true, ..) => Renaming::Due,
        (false, true, _) | (false, false, true) => Renaming::Done,
        (false, false, false) => Renaming::FolderReplaced,
    })
}

/// Gives an open file its final name. Never replaces a file.
pub fn rename(path: &Path) -> Result<(), RecordError> {
    if path.try_exists().map_err(io_error(path))? {
        return Err(RecordError::Exists { path: path.to_owned() });
    }
    let part = part_of(path);
    simulate::file_rename(&part, path).and_then(|()| fs::rename(&part, path)).map_err(io_error(path))?;
    crash_point();
    Ok(())
}

impl Folder {
    /// Returns the path of a closed file.
    fn path_of(&self, sequence: u64) -> PathBuf {
        self.path.join(format!("{}-{sequence:010}.{}", self.node, self.format.extension()))
    }

    /// Locks the files of this node for this process. `ledger`: number of the ledger that they belong to, which the lock
    /// file contains. The lock ends when the file is dropped.
    pub fn lock(&self, ledger: u64) -> Result<File, RecordError> {
        let path = lock_of(&self.path_of(0));
        if !path.exists() {
            simulate::file_create(&path).map_err(io_error(&path))?;
        }
        let opened = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o640).open(&path);
        let file = opened.map_err(io_error(&self.path))?;
        crash_point();
        if !try_lock(&file) {
            return Err(RecordError::InUse { path });
        }
        let (own, mut found) = (ledger.to_le_bytes(), [0; 8]);
        // A power failure may have left it empty.
        match file.read_exact_at(&mut found, 0) {
            Ok(()) if found == own => {}
            Ok(()) if found != [0; 8] => return Err(RecordError::OtherLedger { path }),
            _ => {
                let (part, result) = simulate::file_write(&path, 0, &own, true);
                file.write_all_at(&own[..part], 0).and(result).map_err(io_error(&path))?;
            }
        }
        Ok(file)
    }

    /// Deletes open files that an earlier process has left. Only under the lock.
    pub fn remove_parts(&self) -> Result<(), RecordError> {
        let begin = format!("{}-", self.node);
        for entry in fs::read_dir(&self.path).map_err(io_error(&self.path))? {
            let entry = entry.map_err(io_error(&self.path))?;
            let name = entry.file_name();
            let is_part = name.to_str().is_some_and(|name| {
                let middle = name.strip_prefix(&begin).and_then(|rest| rest.strip_suffix(PART));
                middle.is_some_and(|middle| middle.bytes().next().is_some_and(|byte| byte.is_ascii_digit()))
            });
            if is_part {
                let path = entry.path();
                simulate::file_remove(&path).and_then(|()| fs::remove_file(&path)).map_err(io_error(&path))?;
                crash_point();
            }
        }
        Ok(())
    }

    /// Creates the first file with a sequence of at least `sequence` whose name is free.
    pub fn create(&self, mut sequence: u64) -> Result<OpenFile, RecordError> {
        while self.path_of(sequence).exists() {
            sequence += 1;
        }
        let path = self.path_of(sequence);
        let part = part_of(&path);
        simulate::file_create(&part).map_err(io_error(&part))?;
        let created = OpenOptions::new().write(true).create_new(true).mode(0o640).open(&part);
        let file = created.map_err(io_error(&self.path))?;
        crash_point();
        Ok(OpenFile { file, part, path, sequence, octets: 0 })
    }
}

/// A file that records are written to.
pub struct OpenFile {
    file: File,
    part: PathBuf,
    /// Path that it will have.
    pub path: PathBuf,
    /// Its number.
    pub sequence: u64,
    /// Its size.
    pub octets: u64,
}

impl OpenFile {
    /// Appends octets.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), RecordError> {
        let (part, result) = simulate::file_write(&self.part, self.octets, bytes, true);
        self.file.write_all_at(&bytes[..part], self.octets).and(result).map_err(io_error(&self.part))?;
        self.octets += bytes.len() as u64;
        crash_point();
        Ok(())
    }

    /// Writes the file and its name to the disk. An error also means that it is not in its place any more.
    pub fn sync(&self) -> Result<(), RecordError> {
        let synced = simulate::file_sync(&self.part).unwrap_or_else(|| self.file.sync_all());
        synced.map_err(io_error(&self.part))?;
        crash_point();
        let own = self.file.metadata().map_err(io_error(&self.part))?;
        let found = fs::metadata(&self.part).ok();
        if found.is_none_or(|found| (found.dev(), found.ino()) != (own.dev(), own.ino())) {
            return Err(RecordError::Deleted { path: self.part.clone() });
        }
        sync_folder(&self.part)
    }
}
