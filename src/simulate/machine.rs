//! The simulated machine of a thread: clocks, random numbers, disk and connections.

use super::InjectedBug;
use crate::charge::time::Time;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// Panic payload of a simulated crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash;

/// Octets that a connection buffers until the peer reads.
const WINDOW_OCTETS: usize = 4096;

/// Advances the world by a span of time.
pub type Meanwhile = Rc<dyn Fn(Duration)>;

/// A simulated machine. The tests read and set its fields directly.
pub struct Machine {
    /// Monotonic clock in microseconds.
    pub clock: Cell<u64>,
    /// UNIX microseconds at 0 of the monotonic clock; changed by a step of the wall clock.
    pub wall: Cell<i64>,
    /// State of the random number generator.
    pub chance: Cell<u64>,
    /// Crash points until the process dies; `None`: it lives on.
    pub crash_in: Cell<Option<u32>>,
    /// Whether it has died. Nothing that it does has an effect any more.
    pub dead: Cell<bool>,
    /// Number of calls of `pause`.
    pub waits: Cell<u64>,
    /// Disk of the files that the engine writes itself; SQLite's files have a VFS of their own.
    pub files: RefCell<Option<Rc<dyn Files>>>,
    /// The injected bug.
    pub injected: Cell<Option<InjectedBug>>,
    /// Connections that were opened and not accepted yet.
    pub opened: RefCell<VecDeque<(SocketAddr, PeerStream)>>,
    /// Ports that refuse connections.
    pub refusing_ports: RefCell<Vec<u16>>,
    /// Runs the rest of the world while the engine pauses.
    pub meanwhile: RefCell<Option<Meanwhile>>,
}

/// Disk of a simulated machine, for the files that the engine writes itself.
pub trait Files {
    /// Tells that a file was opened.
    fn opened(&self, path: &Path);
    /// Returns how many of the octets reach the file, and the result of the write. `grows`: they extend the file.
    fn write(&self, path: &Path, at: u64, bytes: &[u8], grows: bool) -> (usize, io::Result<()>);
    /// Returns the result of a sync.
    fn sync(&self, path: &Path) -> io::Result<()>;
    /// Returns whether a new file can be created; then it is.
    fn create(&self, path: &Path) -> io::Result<()>;
    /// Returns whether a file can be renamed; then it is.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Returns whether a file can be removed; then it is.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Returns the result of a sync of a folder.
    fn sync_folder(&self, path: &Path) -> io::Result<()>;
}

thread_local! {
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

impl Machine {
    /// Gives the thread a new machine whose random numbers start from `seed`.
    pub fn begin(seed: u64) -> Rc<Machine> {
        let machine = Rc::new(Machine {
            clock: Cell::new(1_000_000_000),
            wall: Cell::new(1_800_000_000_000_000),
            chance: Cell::new(seed),
            crash_in: Cell::new(None),
            dead: Cell::new(false),
            waits: Cell::new(0),
            files: RefCell::new(None),
            injected: Cell::new(None),
            opened: RefCell::new(VecDeque::new()),
            refusing_ports: RefCell::new(Vec::new()),
            meanwhile: RefCell::new(None),
        });
        MACHINE.with(|place| *place.borrow_mut() = Some(Rc::clone(&machine)));
        machine
    }

    /// Makes it the machine of the thread again, after another one.
    pub fn resume(self: &Rc<Machine>) {
        MACHINE.with(|place| *place.borrow_mut() = Some(Rc::clone(self)));
    }

    /// Gives the thread the real machine back.
    pub fn end() {
        MACHINE.with(|place| *place.borrow_mut() = None);
    }

    /// Passes a crash point. `true`: the process is dead.
    pub fn crash_point(&self) -> bool {
        match self.crash_in.get() {
            Some(0) => {
                self.crash_in.set(None);
                self.dead.set(true);
            }
            left => self.crash_in.set(left.map(|left| left - 1)),
        }
        self.dead.get()
    }

    /// Advances the monotonic clock.
    pub fn pass(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.clock.set(self.clock.get().saturating_add(micros));
    }
}

fn with_machine<R>(ask: impl FnOnce(&Machine) -> R) -> Option<R> {
    let machine = MACHINE.with(|place| place.borrow().clone());
    machine.map(|machine| ask(&machine))
}

/// Monotonic clock.
pub(crate) fn now() -> Option<Time> {
    with_machine(|machine| Time(machine.clock.get()))
}

/// Wall clock.
pub(crate) fn wall_ms() -> Option<i64> {
    with_machine(|machine| (machine.wall.get() + i64::try_from(machine.clock.get()).unwrap_or(i64::MAX)) / 1000)
}

/// 64 random bits (SplitMix64).
pub(crate) fn random() -> Option<u64> {
    with_machine(|machine| {
        let state = machine.chance.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        machine.chance.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// Pauses the engine, while the rest of the world runs.
pub(crate) fn pause(span: Duration) -> bool {
    let passed = with_machine(|machine| {
        machine.waits.set(machine.waits.get() + 1);
        let meanwhile = machine.meanwhile.borrow().clone();
        match meanwhile {
            Some(meanwhile) => meanwhile(span),
            None => machine.pass(span),
        }
    });
    passed.is_some()
}

/// A point at which a simulated process may die. Between two of them something becomes durable or visible.
pub(crate) fn crash_point() {
    if with_machine(Machine::crash_point) == Some(true) {
        // Skips the panic hook, which would report a bug.
        std::panic::resume_unwind(Box::new(Crash));
    }
}

/// Whether this thread runs on a simulated machine.
pub(crate) fn is_simulated() -> bool {
    with_machine(|_| ()).is_some()
}

fn files() -> Option<Rc<dyn Files>> {
    with_machine(|machine| machine.files.borrow().clone()).flatten()
}

/// Tells that the engine has opened a file.
pub(crate) fn file_opened(path: &Path) {
    if let Some(files) = files() {
        files.opened(path);
    }
}

/// Returns how many of the octets reach the file, and the result of the write.
pub(crate) fn file_write(path: &Path, at: u64, bytes: &[u8], grows: bool) -> (usize, io::Result<()>) {
    files().map_or((bytes.len(), Ok(())), |files| files.write(path, at, bytes, grows))
}

/// Returns the result of a sync; `None`: use the real disk.
pub(crate) fn file_sync(path: &Path) -> Option<io::Result<()>> {
    files().map(|files| files.sync(path))
}

/// Returns whether a new file can be created, which the caller then does.
pub(crate) fn file_create(path: &Path) -> io::Result<()> {
    files().map_or(Ok(()), |files| files.create(path))
}

/// Returns whether a file can be renamed, which the caller then does.
pub(crate) fn file_rename(from: &Path, to: &Path) -> io::Result<()> {
    files().map_or(Ok(()), |files| files.rename(from, to))
}

/// Returns whether a file can be removed, which the caller then does.
pub(crate) fn file_remove(path: &Path) -> io::Result<()> {
    files().map_or(Ok(()), |files| files.remove(path))
}

/// Returns the result of a sync of a folder; `None`: use the real disk.
pub(crate) fn folder_sync(path: &Path) -> Option<io::Result<()>> {
    files().map(|files| files.sync_folder(path))
}

/// Whether this bug is injected.
pub(crate) fn is_injected(fault: InjectedBug) -> bool {
    with_machine(|machine| machine.injected.get() == Some(fault)) == Some(true)
}

/// Opens a connection; `None`: use the real network.
pub(crate) fn connect(address: SocketAddr) -> Option<io::Result<SimulatedStream>> {
    with_machine(|machine| {
        if machine.refusing_ports.borrow().contains(&address.port()) {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let connection = Rc::new(Connection::default());
        machine.opened.borrow_mut().push_back((address, PeerStream(Rc::clone(&connection))));
        Ok(SimulatedStream(connection))
    })
}

/// The two directions of a connection.
#[derive(Debug, Default)]
struct Connection {
    accepted: Cell<bool>,
    closed: Cell<bool>,
    to_peer: RefCell<VecDeque<u8>>,
    to_engine: RefCell<VecDeque<u8>>,
}

/// The engine's end of a connection.
#[derive(Debug)]
pub struct SimulatedStream(Rc<Connection>);

impl SimulatedStream {
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        match self.0.closed.get() {
            true => Err(ErrorKind::ConnectionReset.into()),
            false => Ok(self.0.accepted.get()),
        }
    }

    pub(crate) fn local_address(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        self.0.closed.set(true);
    }
}

impl Read for SimulatedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let octets = self.0.to_engine.borrow_mut().read(buffer)?;
        match octets {
            0 if self.0.closed.get() => Ok(0),
            0 => Err(ErrorKind::WouldBlock.into()),
            octets => Ok(octets),
        }
    }
}

impl Write for SimulatedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.closed.get() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut unread = self.0.to_peer.borrow_mut();
        let room = WINDOW_OCTETS.saturating_sub(unread.len()).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        unread.extend(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end of a connection that the test holds.
#[derive(Clone, Debug)]
pub struct PeerStream(Rc<Connection>);

impl PeerStream {
    /// Accepts the connection.
    pub fn accept(&self) {
        self.0.accepted.set(true);
    }

    /// Closes the connection; octets on their way to the engine still arrive.
    pub fn close(&self) {
        self.0.closed.set(true);
    }

    /// Whether either end has closed it.
    pub fn is_closed(&self) -> bool {
        self.0.closed.get()
    }

    /// Reads at most `max` octets of what the engine has written.
    pub fn read(&self, max: usize) -> Vec<u8> {
        let mut unread = self.0.to_peer.borrow_mut();
        let count = unread.len().min(max);
        unread.drain(..count).collect()
    }

    /// Number of octets that the engine has written and `read` has not returned.
    pub fn unread(&self) -> usize {
        self.0.to_peer.borrow().len()
    }

    /// Sends octets to the engine.
    pub fn write(&self, bytes: &[u8]) {
        self.0.to_engine.borrow_mut().extend(bytes);
    }
}
