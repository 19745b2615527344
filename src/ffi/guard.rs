//! The panic guard of the C ABI.

use super::result::IMCHARGE_PANIC;
use crate::shm::log_limit;
use std::sync::Once;

/// Result of a function of the ABI: `Err` for an early return.
pub(super) type Outcome = Result<i32, i32>;

/// Runs the body of a function of the ABI; a panic becomes `IMCHARGE_PANIC`.
pub(super) fn guard(body: impl FnOnce() -> Outcome) -> i32 {
    crate::guard::guard(IMCHARGE_PANIC, || match body() {
        Ok(result) | Err(result) => result,
    })
}

/// Logs panics from now on.
pub(super) fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(log_limit::log_panics);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guard_turns_a_panic_into_a_result() {
        assert_eq!(guard(|| panic!("on purpose")), IMCHARGE_PANIC);
    }

    #[test]
    fn guard_returns_both_kinds_of_result() {
        assert_eq!(guard(|| Ok(2)), 2);
        assert_eq!(guard(|| Err(-101)), -101);
    }
}
