//! How a process sleeps and is woken: a futex on the word of a [`WakeWord`](crate::shm::wakeup::WakeWord), or an eventfd
//! for an engine that polls sockets at the same time.
//!
//! The futex costs each side one system call; with poll and an eventfd the waiting side needs two.

use super::sync::AtomicU32;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::time::Duration;

/// Sleeps while the word is `value`, until it is woken or the time is over.
pub fn wait(word: &AtomicU32, value: u32, at_most: Duration) {
    let seconds = libc::time_t::try_from(at_most.as_secs()).unwrap_or(libc::time_t::MAX);
    let time = libc::timespec { tv_sec: seconds, tv_nsec: at_most.subsec_nanos().into() };
    let word: *const AtomicU32 = word;
    // SAFETY: the word and the time outlive the call. The futex is not private: the word may lie in shared memory.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAIT, value, &raw const time) };
}

/// Wakes the process that sleeps on the word.
pub fn wake(word: &AtomicU32) {
    let word: *const AtomicU32 = word;
    // SAFETY: the word outlives the call.
    unsafe { libc::syscall(libc::SYS_futex, word, libc::FUTEX_WAKE, 1) };
}

/// An eventfd, to wake a process that polls other descriptors too.
pub struct EventFd(File);

impl EventFd {
    /// Creates a non-blocking eventfd that child processes inherit.
    pub fn new() -> io::Result<EventFd> {
        // SAFETY: no pointer involved; the result is checked.
        let fd = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that has no other owner.
        Ok(EventFd(unsafe { File::from_raw_fd(fd) }))
    }

    /// Wakes the process that waits.
    pub fn signal(&self) {
        // Fails only if the counter is full: then it is signalled already.
        let _ = (&self.0).write(&1u64.to_ne_bytes());
    }

    /// Sleeps until it is signalled, one of `sockets` is ready, or the time is over. Of each socket: its descriptor, and
    /// whether to wait until it is writable too.
    pub fn wait(&self, at_most: Duration, sockets: &[(RawFd, bool)]) {
        let poll_of = |fd, events| libc::pollfd { fd, events, revents: 0 };
        let mut polled = vec![poll_of(self.0.as_raw_fd(), libc::POLLIN)];
        polled.extend(sockets.iter().map(|(fd, write)| match write {
            true => poll_of(*fd, libc::POLLIN | libc::POLLOUT),
            false => poll_of(*fd, libc::POLLIN),
        }));
        let millis = at_most.as_micros().div_ceil(1000).min(i32::MAX as u128) as i32;
        // SAFETY: a slice of valid pollfds that outlives the call.
        unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
        if polled.first().is_some_and(|own| own.revents != 0) {
            let mut count = [0u8; 8];
            let _ = (&self.0).read(&mut count);
        }
    }

    /// The descriptor.
    pub fn fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}
