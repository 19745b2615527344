//! The one way in: no panic crosses into C.

use super::result::IMCHARGE_PANIC;
use crate::log_lines;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

/// What a body of the ABI comes to: a result either way, an early return as `Err`.
pub(super) type Outcome = Result<i32, i32>;

/// Runs a body. A panic in it becomes `IMCHARGE_PANIC`; the hook of [`log_panics`] has logged it.
pub(super) fn guard(body: impl FnOnce() -> Outcome) -> i32 {
    // A body changes nothing outside but through handles, and these are whole between two engine calls.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(result) | Err(result)) => result,
        Err(_) => IMCHARGE_PANIC,
    }
}

/// Sends panics to the log from now on.
pub(super) fn log_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(log_lines::log_panics);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_result() {
        assert_eq!(guard(|| panic!("on purpose")), IMCHARGE_PANIC);
    }

    #[test]
    fn both_ways_out_give_their_number() {
        assert_eq!(guard(|| Ok(2)), 2);
        assert_eq!(guard(|| Err(-101)), -101);
    }
}
