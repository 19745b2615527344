//! The panic guard of the C ABI.

use super::result::IMCHARGE_PANIC;
use crate::shm::log_limit;
use std::sync::Once;

/// Result code of an ABI function. `Err` is an early return; both variants reach the caller alike.
pub(super) type Outcome = Result<i32, i32>;

/// Runs the body of an ABI function. A panic becomes `IMCHARGE_PANIC`.
pub(super) fn guard(body: impl FnOnce() -> Outcome) -> i32 {
    crate::guard::guard(IMCHARGE_PANIC, || match body() {
        Ok(result) | Err(result) => result,
    })
}

/// Installs the panic hook that logs file and line, once per process.
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
