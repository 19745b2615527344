//! The simulated machine of a thread.

use super::InjectedBug;
use crate::charge::time::Time;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

/// What a crash unwinds with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Crash;

/// Octets that a connection takes before its far end reads.
const WINDOW: usize = 4096;

/// Lets a span of time pass.
pub type Meanwhile = Rc<dyn Fn(Duration)>;

/// The machine.
pub struct Machine {
    /// Microseconds of the clock that nobody steps.
    pub clock: Cell<u64>,
    /// Microseconds since 1970 at 0 of that clock; a step of the wall clock changes it.
    pub wall: Cell<i64>,
    /// State of chance.
    pub chance: Cell<u64>,
    /// Moments until a process dies; `None`: it lives.
    pub crash_in: Cell<Option<u32>>,
    /// Whether it has died: nothing that it does reaches anybody any more.
    pub dead: Cell<bool>,
    /// How often somebody has waited.
    pub waits: Cell<u64>,
    /// The disk under the files that the engine writes itself; SQLite's files have a file system of their own.
    pub files: RefCell<Option<Rc<dyn Files>>>,
    /// The fault built in.
    pub broken: Cell<Option<InjectedBug>>,
    /// Connections that were opened and not taken yet.
    pub opened: RefCell<VecDeque<(SocketAddr, Far)>>,
    /// Ports where nobody listens.
    pub deaf: RefCell<Vec<u16>>,
    /// What happens elsewhere while the engine pauses.
    pub meanwhile: RefCell<Option<Meanwhile>>,
}

/// The disk of a simulated machine, as far as the engine writes files itself.
pub trait Files {
    /// A file was opened.
    fn opened(&self, path: &Path);
    /// How many of these octets reach the file, and what the write returns. `grows`: they make the file longer.
    fn write(&self, path: &Path, at: u64, bytes: &[u8], grows: bool) -> (usize, io::Result<()>);
    /// What a sync returns.
    fn sync(&self, path: &Path) -> io::Result<()>;
}

thread_local! {
    static MACHINE: RefCell<Option<Rc<Machine>>> = const { RefCell::new(None) };
}

impl Machine {
    /// Puts the thread on a machine whose chance begins here.
    pub fn begin(seed: u64) -> Rc<Machine> {
        let machine = Rc::new(Machine {
            clock: Cell::new(1_000_000_000),
            wall: Cell::new(1_800_000_000_000_000),
            chance: Cell::new(seed),
            crash_in: Cell::new(None),
            dead: Cell::new(false),
            waits: Cell::new(0),
            files: RefCell::new(None),
            broken: Cell::new(None),
            opened: RefCell::new(VecDeque::new()),
            deaf: RefCell::new(Vec::new()),
            meanwhile: RefCell::new(None),
        });
        MACHINE.with(|place| *place.borrow_mut() = Some(Rc::clone(&machine)));
        machine
    }

    /// Puts the thread back on the real one.
    pub fn end() {
        MACHINE.with(|place| *place.borrow_mut() = None);
    }

    /// A crash_point passes at which a process may die; `true`: it is dead.
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

    /// Lets time pass.
    pub fn pass(&self, span: Duration) {
        let micros = u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        self.clock.set(self.clock.get().saturating_add(micros));
    }
}

fn on<R>(ask: impl FnOnce(&Machine) -> R) -> Option<R> {
    let machine = MACHINE.with(|place| place.borrow().clone());
    machine.map(|machine| ask(&machine))
}

/// The clock that nobody steps.
pub(crate) fn now() -> Option<Time> {
    on(|machine| Time(machine.clock.get()))
}

/// The wall clock.
pub(crate) fn wall_ms() -> Option<i64> {
    on(|machine| (machine.wall.get() + i64::try_from(machine.clock.get()).unwrap_or(i64::MAX)) / 1000)
}

/// 64 bits of chance (SplitMix64).
pub(crate) fn random() -> Option<u64> {
    on(|machine| {
        let state = machine.chance.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        machine.chance.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    })
}

/// Waits, while the world goes on.
pub(crate) fn pause(span: Duration) -> bool {
    let passed = on(|machine| {
        machine.waits.set(machine.waits.get() + 1);
        let meanwhile = machine.meanwhile.borrow().clone();
        match meanwhile {
            Some(meanwhile) => meanwhile(span),
            None => machine.pass(span),
        }
    });
    passed.is_some()
}

/// A crash_point at which a process may die: between any two of them something has become durable or visible.
pub(crate) fn crash_point() {
    if on(Machine::crash_point) == Some(true) {
        // Without the hook of panics: a crash is no fault here.
        std::panic::resume_unwind(Box::new(Crash));
    }
}

/// Whether this thread runs on a simulated machine.
pub(crate) fn is_simulated() -> bool {
    on(|_| ()).is_some()
}

fn files() -> Option<Rc<dyn Files>> {
    on(|machine| machine.files.borrow().clone()).flatten()
}

/// The engine has opened a file.
pub(crate) fn file_opened(path: &Path) {
    if let Some(files) = files() {
        files.opened(path);
    }
}

/// How many of these octets reach the file, and what the write returns.
pub(crate) fn file_write(path: &Path, at: u64, bytes: &[u8], grows: bool) -> (usize, io::Result<()>) {
    files().map_or((bytes.len(), Ok(())), |files| files.write(path, at, bytes, grows))
}

/// What a sync of this file returns; `None`: the real disk is meant.
pub(crate) fn file_sync(path: &Path) -> Option<io::Result<()>> {
    files().map(|files| files.sync(path))
}

/// Whether this fault is built in.
pub(crate) fn is_injected(fault: InjectedBug) -> bool {
    on(|machine| machine.broken.get() == Some(fault)) == Some(true)
}

/// Opens a connection.
pub(crate) fn connect(address: SocketAddr) -> Option<io::Result<Line>> {
    on(|machine| {
        if machine.deaf.borrow().contains(&address.port()) {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let pipes = Rc::new(Pipes::default());
        machine.opened.borrow_mut().push_back((address, Far(Rc::clone(&pipes))));
        Ok(Line(pipes))
    })
}

/// What is on its way in a connection.
#[derive(Debug, Default)]
struct Pipes {
    up: Cell<bool>,
    closed: Cell<bool>,
    to_far: RefCell<VecDeque<u8>>,
    to_near: RefCell<VecDeque<u8>>,
}

/// The engine's end of a connection.
#[derive(Debug)]
pub struct Line(Rc<Pipes>);

impl Line {
    pub(crate) fn is_connected(&self) -> io::Result<bool> {
        match self.0.closed.get() {
            true => Err(ErrorKind::ConnectionReset.into()),
            false => Ok(self.0.up.get()),
        }
    }

    pub(crate) fn local_address(&self) -> IpAddr {
        Ipv4Addr::LOCALHOST.into()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.0.closed.set(true);
    }
}

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let octets = self.0.to_near.borrow_mut().read(buffer)?;
        match octets {
            0 if self.0.closed.get() => Ok(0),
            0 => Err(ErrorKind::WouldBlock.into()),
            octets => Ok(octets),
        }
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.closed.get() {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let mut waiting = self.0.to_far.borrow_mut();
        let room = WINDOW.saturating_sub(waiting.len()).min(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        waiting.extend(&bytes[..room]);
        Ok(room)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The far end of a connection.
#[derive(Clone, Debug)]
pub struct Far(Rc<Pipes>);

impl Far {
    /// Takes the connection.
    pub fn accept(&self) {
        self.0.up.set(true);
    }

    /// Closes it; what is on its way to the engine still arrives.
    pub fn close(&self) {
        self.0.closed.set(true);
    }

    /// Whether either end has closed it.
    pub fn is_closed(&self) -> bool {
        self.0.closed.get()
    }

    /// Takes so many octets at most of what the engine has written.
    pub fn take(&self, most: usize) -> Vec<u8> {
        let mut waiting = self.0.to_far.borrow_mut();
        let count = waiting.len().min(most);
        waiting.drain(..count).collect()
    }

    /// Octets that the engine has written and nobody has taken.
    pub fn waiting(&self) -> usize {
        self.0.to_far.borrow().len()
    }

    /// Brings octets to the engine.
    pub fn give(&self, bytes: &[u8]) {
        self.0.to_near.borrow_mut().extend(bytes);
    }
}
