//! The group `imcharge` of the host's statistics: read from the shared region when somebody asks.

use super::{REGION, bindings as sys};
use crate::guard::guard;
use crate::shm::statistic::Statistic;
use std::ffi::{CString, c_void};

/// Registers every counter. `false`: the host refused.
pub fn register() -> bool {
    Statistic::ALL.iter().enumerate().all(|(at, statistic)| {
        // The host keeps the texts: they stay for ever.
        let name = CString::new(statistic.name()).unwrap_or_default().into_raw();
        let mut handle = sys::counter_handle_t::default();
        // SAFETY: all texts have a NUL and live for ever; the parameter is a number that only `read` looks at.
        let registered = unsafe {
            sys::counter_register(
                &mut handle,
                c"imcharge".as_ptr(),
                name,
                sys::CNT_F_NO_RESET as i32,
                Some(read),
                at as *mut c_void,
                name,
                0,
            )
        };
        registered >= 0
    })
}

/// Value of the counter whose number stands in the parameter.
unsafe extern "C" fn read(_handle: sys::counter_handle_t, parameter: *mut c_void) -> sys::counter_val_t {
    guard(0, || {
        let statistic = Statistic::ALL.get(parameter as usize);
        let value = statistic.zip(REGION.get()).map_or(0, |(statistic, region)| region.statistic(*statistic));
        sys::counter_val_t::try_from(value).unwrap_or(sys::counter_val_t::MAX)
    })
}
