//! How a process of the host and the engine wake each other: by the word of a [`WakeWord`](crate::shm::wakeup::WakeWord) itself, or, for
//! an engine that listens to connections at the same time, by an eventfd.
//!
//! A futex takes each side one system call; poll and an eventfd take the sleeper two, and more work for each.

use super::sync::AtomicU32;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

/// Sleeps as long as the word is `value`, until somebody wakes it or the time is over.
pub fn wait(word: &AtomicU32, value: u32, at_most: Duration) {
    let seconds = libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX);
    let time = libc::timespec { tv_sec: seconds, tv_nsec: at_most.subsec_nanos().into() };
    let word: *const AtomicU32 = word;
    // SAFETY: a word that lives for the call, and a time that does; the word may lie in memory of several processes.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, &raw const time) };
}

/// Wakes who sleeps on the word.
pub fn wake(word: &AtomicU32) {
    let word: *const AtomicU32 = word;
    // SAFETY: a word that lives for the call.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
}

/// An eventfd: wakes one who sleeps on other descriptors too.
pub struct EventFd(File);

impl EventFd {
    /// A new one.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: no pointer involved; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        Ok(EventFd(unsafe { File::from_raw_fd(fd) }))
    }

    /// Wakes the sleeper.
    pub fn ring(&self) {
        use std::io::Write;
        // A full counter means that it rings already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Sleeps until it rings, one of the other descriptors can be read (or, where said so, written), or the time is over.
    pub fn wait(&self, at_most: Duration, others: &[(RawFd, bool)]) {
        use std::io::Read;
        let one = |fd, events| libc::pollfd { fd, events, revents: 0 };
        let mut polled = vec![one(self.0.as_raw_fd(), libc::POLLIN)];
        polled.extend(others.iter().map(|(fd, write)| match write {
            true => one(*fd, libc::POLLIN | libc::POLLOUT),
            false => one(*fd, libc::POLLIN),
        }));
        let millis = at_most.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
        // SAFETY: as many valid pollfds as are said, for the time of the call.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
        if polled.first().is_some_and(|bell| bell.revents != 0) {
            let mut count = [0u8; 8];
            let _ = (&self.0).read(&mut count);
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}
