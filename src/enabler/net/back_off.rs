//! The delay between two attempts to connect: it doubles with each failure, and has jitter of a quarter up or down.

use super::jitter::Jitter;

/// The delay after the next failure.
#[derive(Clone, Debug)]
pub struct BackOff {
    first: u64,
    max: u64,
    next: u64,
}

impl BackOff {
    /// Creates it with the first and the longest delay, in microseconds.
    pub fn new(first: u64, max: u64) -> BackOff {
        BackOff { first, max, next: first }
    }

    /// Tells how many microseconds a connection lasted. One that lasted longer than the next delay resets it.
    pub fn lasted(&mut self, micros: u64) {
        if micros >= self.next {
            self.next = self.first;
        }
    }

    /// Returns the delay in microseconds, and doubles the next one.
    pub fn delay(&mut self, jitter: &Jitter) -> u64 {
        let delay = self.next - self.next / 4 + jitter.up_to(self.next / 2);
        self.next = (self.next * 2).min(self.max);
        delay
    }
}
