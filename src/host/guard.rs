//! The one door for every call from C.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs the body of an entry from C. A panic must not cross into the host, whose workers die of it and the whole proxy
/// with them: it is logged, and the caller gets `otherwise`.
pub fn guard<T>(otherwise: T, body: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|_| {
        log::error!("a call of the module has panicked and fails; the proxy is not affected");
        otherwise
    })
}
