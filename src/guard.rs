//! The panic guard around every entry from C, and around the engine's process.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `body` and returns its result, or `otherwise` if it panics.
///
/// A panic must not unwind into the host: the whole proxy would die. By the time this returns, the panic hook of
/// [`log_panics`](crate::shm::log_limit::log_panics) has logged file and line.
///
/// State that `body` changes must be valid after any prefix of its work: events become visible to other processes only
/// once they are complete.
pub fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or(otherwise)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_returns_the_result_or_the_fallback() {
        assert_eq!(guard(1, || 2), 2);
        assert_eq!(guard(1, || panic!("on purpose")), 1);
    }
}
