//! The group `imcharge` of the host's statistics.

use super::bindings as sys;
use crate::guard::guard;
use crate::host::statistics::{names, value};
use std::ffi::c_void;

/// Registers all counters. `false`: the host refused.
pub fn register() -> bool {
    names().all(|(number, name)| {
        let mut handle = sys::counter_handle_t::default();
        let (group, flags, context) = (c"imcharge".as_ptr(), sys::CNT_F_NO_RESET as i32, number as *mut c_void);
        // SAFETY: the texts are terminated by NUL and never freed; the context is a number that only `read` uses.
        unsafe { sys::counter_register(&mut handle, group, name, flags, Some(read), context, name, 0) >= 0 }
    })
}

/// Returns the value of the counter whose number is the context.
unsafe extern "C" fn read(_handle: sys::counter_handle_t, context: *mut c_void) -> sys::counter_val_t {
    guard(0, || sys::counter_val_t::try_from(value(context as usize)).unwrap_or(sys::counter_val_t::MAX))
}
