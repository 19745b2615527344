//! The group `imcharge` of the host's statistics.

use super::bindings as sys;
use crate::guard::guard;
use crate::host::statistics::{names, value};
use std::ffi::{c_ulong, c_void};

/// Registers all counters. `false`: the host refused.
pub fn register() -> bool {
    names().all(|(number, name)| {
        let flags = (sys::STAT_IS_FUNC | sys::STAT_NO_RESET) as u16;
        let read: unsafe extern "C" fn(*mut c_void) -> c_ulong = read;
        let (function, context) = (read as *mut *mut sys::stat_var, number as *mut c_void);
        // SAFETY: with STAT_IS_FUNC the host takes a function in place of a variable; the context is a number that only
        // `read` uses. The name is never freed.
        unsafe { sys::register_stat2(c"imcharge".as_ptr(), name, function, flags, context, 0) == 0 }
    })
}

/// Returns the value of the counter whose number is the context.
unsafe extern "C" fn read(context: *mut c_void) -> c_ulong {
    guard(0, || value(context as usize))
}
