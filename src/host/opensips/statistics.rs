//! The group `imcharge` of the host's statistics: read from the shared region when somebody asks.

use super::{REGION, bindings as sys};
use crate::guard::guard;
use crate::shm::statistic::Statistic;
use std::ffi::{CString, c_ulong, c_void};

/// Registers every counter. `false`: the host refused.
pub fn register() -> bool {
    Statistic::ALL.iter().enumerate().all(|(at, statistic)| {
        // The host keeps the texts: they stay for ever.
        let name = CString::new(statistic.name()).unwrap_or_default().into_raw();
        let flags = (sys::STAT_IS_FUNC | sys::STAT_NO_RESET) as u16;
        let read: unsafe extern "C" fn(*mut c_void) -> c_ulong = read;
        // SAFETY: a counter that is a function stands where the host has its place for a variable; its context is a
        // number that only `read` looks at.
        unsafe {
            sys::register_stat2(
                c"imcharge".as_ptr(),
                name,
                read as *mut *mut sys::stat_var,
                flags,
                at as *mut c_void,
                0,
            ) == 0
        }
    })
}

/// Value of the counter whose number is the context.
unsafe extern "C" fn read(context: *mut c_void) -> c_ulong {
    guard(0, || {
        let statistic = Statistic::ALL.get(context as usize);
        statistic.zip(REGION.get()).map_or(0, |(statistic, region)| region.statistic(*statistic))
    })
}
