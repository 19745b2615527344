//! Hooks of a build without simulation: each returns a constant that means "use the real machine".

use super::InjectedBug;
use crate::charge::time::Time;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// Type of simulated connections; there are none.
#[derive(Debug)]
pub enum SimulatedStream {}

impl SimulatedStream {
    pub fn is_connected(&self) -> io::Result<bool> {
        match *self {}
    }

    pub fn local_address(&self) -> IpAddr {
        match *self {}
    }
}

impl Read for SimulatedStream {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        match *self {}
    }
}

impl Write for SimulatedStream {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        match *self {}
    }

    fn flush(&mut self) -> io::Result<()> {
        match *self {}
    }
}

#[inline(always)]
pub fn now() -> Option<Time> {
    None
}

#[inline(always)]
pub fn wall_ms() -> Option<i64> {
    None
}

#[inline(always)]
pub fn random() -> Option<u64> {
    None
}

#[inline(always)]
pub fn connect(_: SocketAddr) -> Option<io::Result<SimulatedStream>> {
    None
}

#[inline(always)]
pub fn pause(_: Duration) -> bool {
    false
}

#[inline(always)]
pub fn crash_point() {}

#[inline(always)]
pub fn is_simulated() -> bool {
    false
}

#[inline(always)]
pub fn file_opened(_: &Path) {}

#[inline(always)]
pub fn file_write(_: &Path, _: u64, bytes: &[u8], _: bool) -> (usize, io::Result<()>) {
    (bytes.len(), Ok(()))
}

#[inline(always)]
pub fn file_sync(_: &Path) -> Option<io::Result<()>> {
    None
}

#[inline(always)]
pub fn file_create(_: &Path) -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub fn file_rename(_: &Path, _: &Path) -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub fn file_remove(_: &Path) -> io::Result<()> {
    Ok(())
}

#[inline(always)]
pub fn folder_sync(_: &Path) -> Option<io::Result<()>> {
    None
}

#[inline(always)]
pub fn is_injected(_: InjectedBug) -> bool {
    false
}
