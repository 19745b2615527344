//! The simulated disk: a SQLite VFS in front of the real one, for all connections of this program, and the files that the
//! engine writes itself. Writes that are not synced may be lost in a power failure, one by one. A dead process writes
//! nothing more, even in the middle of a commit. A run can make the disk fail or fill up.

use imcharge::simulate::machine::{Files, Machine};
use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::OnceLock;

/// 1970 on SQLite's clock, in milliseconds of the Julian day.
const EPOCH: i64 = 210_866_760_000_000;

/// A fault of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// It is full: no file can grow.
    Full,
    /// Every third write fails after a part.
    Writes,
    /// Every second sync fails, and its data is never synced (as on Linux).
    Syncs,
    /// Every tenth read fails.
    Reads,
}

/// A change of a file since its last sync.
enum Change {
    Write(u64, Vec<u8>),
    Truncate(u64),
}

/// A file: its synced contents, and the changes that a power failure may lose.
#[derive(Default)]
struct FileState {
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

/// A change of a folder since its last sync.
enum Entry {
    Created(PathBuf),
    Renamed(PathBuf, PathBuf),
    Removed(PathBuf, FileState),
}

/// The disk of a thread.
pub struct Disk {
    machine: Rc<Machine>,
    random: fastrand::Rng,
    files: BTreeMap<PathBuf, FileState>,
    /// In order. A power failure keeps the first of them, like a journaling file system.
    entries: Vec<Entry>,
    /// Its fault.
    pub fault: Option<DiskFault>,
    /// Whether it reports every sync as done without syncing.
    pub drops_syncs: bool,
}

thread_local! {
    static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) };
}

/// Gives the thread an empty disk.
pub fn insert(machine: Rc<Machine>, random: fastrand::Rng) {
    *machine.files.borrow_mut() = Some(Rc::new(EngineFiles));
    let disk = Disk { machine, random, files: BTreeMap::new(), entries: Vec::new(), fault: None, drops_syncs: false };
    DISK.with(|place| *place.borrow_mut() = Some(disk));
}

/// Removes the thread's disk.
pub fn remove() {
    exchange(None);
}

/// Gives the thread another disk, and returns the one that it had.
pub fn exchange(disk: Option<Disk>) -> Option<Disk> {
    DISK.with(|place| std::mem::replace(&mut *place.borrow_mut(), disk))
}

/// Accesses the thread's disk; `None`: it has none, so the real one is used.
pub fn on<R>(ask: impl FnOnce(&mut Disk) -> R) -> Option<R> {
    DISK.with(|place| place.borrow_mut().as_mut().map(ask))
}

impl Disk {
    /// The machine loses power: of the unsynced changes some are kept and some are lost.
    pub fn lose_power(&mut self) {
        let kept = self.random.usize(0..=self.entries.len());
        for entry in self.entries.split_off(kept).into_iter().rev() {
            self.undo(entry);
        }
        self.entries.clear();
        for (path, kept) in &mut self.files {
            let mut image = std::mem::take(&mut kept.durable);
            for change in kept.unsynced.drain(..) {
                if self.random.bool() {
                    apply(&mut image, &change);
                }
            }
            if path.exists() {
                std::fs::write(path, &image).expect("the folder in memory takes it");
            }
            kept.durable = image;
        }
    }

    fn undo(&mut self, entry: Entry) {
        match entry {
            Entry::Created(path) => {
                std::fs::remove_file(&path).expect("the file was created");
                self.files.remove(&path);
            }
            Entry::Renamed(from, to) => {
                std::fs::rename(&to, &from).expect("the file was renamed");
                self.files.remove(&to).and_then(|state| self.files.insert(from, state));
            }
            Entry::Removed(path, state) => {
                std::fs::write(&path, &state.durable).expect("the folder in memory takes it");
                self.files.insert(path, state);
            }
        }
    }

    /// Creates a file.
    fn create(&mut self, path: &Path) -> bool {
        let works = self.works(DiskFault::Writes, 3);
        if works {
            self.files.insert(path.to_owned(), FileState::default());
            self.entries.push(Entry::Created(path.to_owned()));
        }
        works
    }

    /// Renames a file.
    fn rename(&mut self, from: &Path, to: &Path) -> bool {
        let works = self.works(DiskFault::Writes, 3);
        if works {
            self.files.remove(from).and_then(|state| self.files.insert(to.to_owned(), state));
            self.entries.push(Entry::Renamed(from.to_owned(), to.to_owned()));
        }
        works
    }

    /// Removes a file.
    fn remove(&mut self, path: &Path) -> bool {
        let works = self.works(DiskFault::Writes, 3);
        if works {
            self.take(path);
        }
        works
    }

    /// The disk is replaced by an empty one: all files of a folder are gone.
    pub fn wipe(&mut self, folder: &Path) {
        self.files.clear();
        self.entries.clear();
        for entry in std::fs::read_dir(folder).expect("readable").flatten().filter(|entry| entry.path().is_file()) {
            std::fs::remove_file(entry.path()).expect("it is there");
        }
    }

    /// Another program removes a file.
    pub fn take(&mut self, path: &Path) {
        let state = self.files.remove(path).unwrap_or_default();
        self.entries.push(Entry::Removed(path.to_owned(), state));
    }

    /// Whether a sync of the folder succeeds.
    fn sync_folder(&mut self) -> bool {
        let works = self.works(DiskFault::Syncs, 2);
        if works && !self.drops_syncs {
            self.entries.clear();
        }
        works
    }

    /// Whether the process is alive and the operation succeeds.
    fn works(&mut self, fault: DiskFault, one_in: u32) -> bool {
        let is_faulty = self.fault == Some(fault) && self.random.u32(0..one_in) == 0;
        !self.machine.crash_point() && !is_faulty
    }

    fn opened(&mut self, path: &Path) {
        let durable = || FileState { durable: std::fs::read(path).unwrap_or_default(), unsynced: Vec::new() };
        self.files.entry(path.to_owned()).or_insert_with(durable);
    }

    /// Returns how many octets reach the file, and whether the write succeeds. One that fails, or during which the process
    /// dies, writes a part.
    fn write(&mut self, path: &Path, at: u64, bytes: &[u8]) -> (usize, bool) {
        if self.machine.dead.get() {
            return (0, false);
        }
        let does = self.works(DiskFault::Writes, 3);
        let part = if does { bytes.len() } else { self.random.usize(0..bytes.len().max(1)) };
        self.changed(path, Change::Write(at, bytes[..part].to_vec()));
        (part, does)
    }

    /// Whether a sync succeeds.
    fn sync(&mut self, path: &Path) -> bool {
        let done = self.works(DiskFault::Syncs, 2);
        // If a process dies in a sync, a power failure decides about its data.
        if !self.machine.dead.get() {
            self.synced(path, done);
        }
        done
    }

    fn changed(&mut self, path: &Path, change: Change) {
        if let Some(kept) = self.files.get_mut(path) {
            kept.unsynced.push(change);
        }
    }

    fn synced(&mut self, path: &Path, is_done: bool) {
        let Some(kept) = self.files.get_mut(path).filter(|_| !self.drops_syncs) else { return };
        for change in kept.unsynced.drain(..).filter(|_| is_done) {
            apply(&mut kept.durable, &change);
        }
    }
}

fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Truncate(length) => image.truncate(usize::try_from(*length).unwrap_or(usize::MAX)),
        Change::Write(at, bytes) => {
            let from = usize::try_from(*at).expect("a small file");
            image.resize(image.len().max(from + bytes.len()), 0);
            image[from..from + bytes.len()].copy_from_slice(bytes);
        }
    }
}

fn result_of(does: Option<bool>) -> io::Result<()> {
    if does == Some(false) { Err(io::Error::other("the disk fails")) } else { Ok(()) }
}

/// The files that the engine writes without SQLite, on the thread's disk.
struct EngineFiles;

impl Files for EngineFiles {
    fn opened(&self, path: &Path) {
        on(|disk| disk.opened(path));
    }

    fn write(&self, path: &Path, at: u64, bytes: &[u8], grows: bool) -> (usize, io::Result<()>) {
        if on(|disk| disk.fault == Some(DiskFault::Full) && grows) == Some(true) {
            return (0, Err(io::ErrorKind::StorageFull.into()));
        }
        let (part, does) = on(|disk| disk.write(path, at, bytes)).unwrap_or((bytes.len(), true));
        (part, if does { Ok(()) } else { Err(io::Error::other("the disk fails")) })
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        result_of(on(|disk| disk.sync(path)))
    }

    fn create(&self, path: &Path) -> io::Result<()> {
        if on(|disk| disk.fault == Some(DiskFault::Full)) == Some(true) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        result_of(on(|disk| disk.create(path)))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        result_of(on(|disk| disk.rename(from, to)))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        result_of(on(|disk| disk.remove(path)))
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        result_of(on(Disk::sync_folder))
    }
}

/// An open file, followed by the real one.
#[repr(C)]
struct Handle {
    base: sqlite3_file,
    path: *mut PathBuf,
}

struct Real(*mut sqlite3_vfs);

// SAFETY: SQLite's own VFS may be used by every thread.
unsafe impl Send for Real {}
// SAFETY: as above.
unsafe impl Sync for Real {}

static REAL: OnceLock<Real> = OnceLock::new();

/// Installs the disk in front of the real VFS, for all connections opened later.
pub fn mount() {
    // SAFETY: the VFS objects live as long as the program, and so does this one; its methods have the signatures that
    // SQLite requires.
    unsafe {
        let real = ffi::sqlite3_vfs_find(std::ptr::null());
        REAL.get_or_init(|| Real(real));
        let mut ours = *real;
        ours.szOsFile += size_of::<Handle>() as c_int;
        ours.zName = c"simulated".as_ptr();
        ours.pNext = std::ptr::null_mut();
        ours.xOpen = Some(open);
        ours.xDelete = Some(delete);
        ours.xCurrentTimeInt64 = Some(current_time);
        assert_eq!(ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 1), ffi::SQLITE_OK);
    }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

fn real_vfs() -> *mut sqlite3_vfs {
    REAL.get().expect("mounted").0
}

/// Returns the real file of a simulated one.
///
/// # Safety
/// `file` was opened by [`open`].
unsafe fn real(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite allocates szOsFile octets, of which the first are ours.
    unsafe { file.cast::<Handle>().add(1).cast() }
}

/// # Safety
/// As for [`real`].
unsafe fn path<'a>(file: *mut sqlite3_file) -> Option<&'a Path> {
    // SAFETY: set by `open`, freed by `close`.
    unsafe { (*file.cast::<Handle>()).path.as_ref().map(PathBuf::as_path) }
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    file: *mut sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a NUL-terminated name or null, and room for both files.
    unsafe {
        let handle = file.cast::<Handle>();
        (*handle).base.pMethods = std::ptr::null();
        let opened = ((*real_vfs()).xOpen.expect("there is one"))(real_vfs(), name, real(file), flags, out_flags);
        if opened != ffi::SQLITE_OK {
            return opened;
        }
        let path = (!name.is_null()).then(|| PathBuf::from(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())));
        if let Some(path) = &path {
            on(|disk| disk.opened(path));
        }
        (*handle).path = path.map_or(std::ptr::null_mut(), |path| Box::into_raw(Box::new(path)));
        (*handle).base.pMethods = &METHODS;
        opened
    }
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync_folder: c_int) -> c_int {
    if on(|disk| disk.works(DiskFault::Writes, 3)) == Some(false) {
        return ffi::SQLITE_IOERR_DELETE;
    }
    // SAFETY: the name is NUL-terminated.
    unsafe {
        let path = Path::new(OsStr::from_bytes(CStr::from_ptr(name).to_bytes())).to_owned();
        on(|disk| disk.files.remove(&path));
        ((*real_vfs()).xDelete.expect("there is one"))(real_vfs(), name, sync_folder)
    }
}

/// Returns the wall clock of the machine, for SQL's `now`.
unsafe extern "C" fn current_time(_: *mut sqlite3_vfs, to: *mut i64) -> c_int {
    let micros = on(|disk| disk.machine.wall.get() + i64::try_from(disk.machine.clock.get()).unwrap_or(i64::MAX));
    // SAFETY: SQLite passes a place for the result.
    unsafe {
        match micros {
            Some(micros) => *to = micros / 1000 + EPOCH,
            None => return ((*real_vfs()).xCurrentTimeInt64.expect("there is one"))(real_vfs(), to),
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    // SAFETY: `path` is from a Box, and the file is not used any more.
    unsafe {
        let handle = file.cast::<Handle>();
        if !(*handle).path.is_null() {
            drop(Box::from_raw((*handle).path));
        }
        ((*(*real(file)).pMethods).xClose.expect("there is one"))(real(file))
    }
}

unsafe extern "C" fn read(file: *mut sqlite3_file, to: *mut c_void, octets: c_int, at: i64) -> c_int {
    if on(|disk| disk.fault == Some(DiskFault::Reads) && disk.random.u32(0..10) == 0) == Some(true) {
        return ffi::SQLITE_IOERR_READ;
    }
    // SAFETY: called by SQLite with valid arguments.
    unsafe { ((*(*real(file)).pMethods).xRead.expect("there is one"))(real(file), to, octets, at) }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, octets: c_int, at: i64) -> c_int {
    // SAFETY: called by SQLite with valid arguments: `from` has `octets` octets.
    unsafe {
        let bytes = std::slice::from_raw_parts(from.cast::<u8>(), octets as usize);
        let Some(path) = path(file) else { return write_to(file, bytes, at) };
        let mut size = 0;
        file_size(file, &mut size);
        let grows = at + i64::from(octets) > size;
        if on(|disk| disk.fault == Some(DiskFault::Full) && grows) == Some(true) {
            return ffi::SQLITE_FULL;
        }
        let (part, does) = on(|disk| disk.write(path, at as u64, bytes)).unwrap_or((bytes.len(), true));
        let written = if part == 0 { ffi::SQLITE_OK } else { write_to(file, &bytes[..part], at) };
        if does { written } else { ffi::SQLITE_IOERR_WRITE }
    }
}

/// # Safety
/// As for [`real`].
unsafe fn write_to(file: *mut sqlite3_file, bytes: &[u8], at: i64) -> c_int {
    // SAFETY: the slice is valid for its length.
    unsafe {
        let write = (*(*real(file)).pMethods).xWrite.expect("there is one");
        write(real(file), bytes.as_ptr().cast(), bytes.len() as c_int, at)
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: i64) -> c_int {
    if on(|disk| disk.works(DiskFault::Writes, 3)) == Some(false) {
        return ffi::SQLITE_IOERR_TRUNCATE;
    }
    // SAFETY: called by SQLite with valid arguments.
    unsafe {
        if let Some(path) = path(file) {
            on(|disk| disk.changed(path, Change::Truncate(length as u64)));
        }
        ((*(*real(file)).pMethods).xTruncate.expect("there is one"))(real(file), length)
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _: c_int) -> c_int {
    // SAFETY: called by SQLite with valid arguments.
    let Some(path) = (unsafe { path(file) }) else { return ffi::SQLITE_OK };
    let done = on(|disk| disk.sync(path));
    // Nothing here has to survive the real machine.
    if done == Some(false) { ffi::SQLITE_IOERR_FSYNC } else { ffi::SQLITE_OK }
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    let is_dead = on(|disk| disk.machine.dead.get()) == Some(true);
    // SAFETY: called by SQLite with valid arguments.
    unsafe {
        let unmap = (*(*real(file)).pMethods).xShmUnmap.expect("there is one");
        unmap(real(file), if is_dead { 0 } else { delete })
    }
}

/// Methods that only forward to the real file.
macro_rules! hand_over {
    ($($name:ident $method:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?;)*) => {
        $(unsafe extern "C" fn $name(file: *mut sqlite3_file $(, $argument: $type)*) $(-> $result)? {
            // SAFETY: called by SQLite with valid arguments.
            unsafe { ((*(*real(file)).pMethods).$method.expect("there is one"))(real(file) $(, $argument)*) }
        })*
    };
}

hand_over! {
    file_size xFileSize(size: *mut i64) -> c_int;
    lock xLock(level: c_int) -> c_int;
    unlock xUnlock(level: c_int) -> c_int;
    check_reserved_lock xCheckReservedLock(found: *mut c_int) -> c_int;
    file_control xFileControl(what: c_int, argument: *mut c_void) -> c_int;
    sector_size xSectorSize() -> c_int;
    device_characteristics xDeviceCharacteristics() -> c_int;
    shm_map xShmMap(page: c_int, size: c_int, extend: c_int, to: *mut *mut c_void) -> c_int;
    shm_lock xShmLock(offset: c_int, count: c_int, flags: c_int) -> c_int;
    shm_barrier xShmBarrier();
}
