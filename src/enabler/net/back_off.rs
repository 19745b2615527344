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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::charge::time::Time;

    #[test]
    fn delay_doubles_up_to_the_longest_and_is_reset_by_a_lasting_connection() {
        let (jitter, mut back_off) = (Jitter::new(Time(7)), BackOff::new(100, 400));
        for about in [100, 200, 400, 400] {
            let delay = back_off.delay(&jitter);
            assert!((about * 3 / 4..=about * 5 / 4).contains(&delay), "{delay}, not about {about}");
        }
        back_off.lasted(399);
        assert!(back_off.delay(&jitter) >= 300);
        back_off.lasted(400);
        assert!(back_off.delay(&jitter) <= 125);
    }
}
