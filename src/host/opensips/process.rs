//! Set-up of the module's own processes.

use super::bindings as sys;
use std::ffi::{CStr, c_int};

/// Names a process of the module in the host's table, and ends it with the host.
///
/// # Safety
/// Only in a process of the module. `format` must take one integer.
pub unsafe fn begin(format: &'static CStr, index: c_int) {
    // SAFETY: the host's function; the format is guaranteed by the caller.
    unsafe {
        sys::set_proc_attrs(format.as_ptr(), index + 1);
        end_with_parent(libc::SIGKILL);
    }
}

/// Has the kernel send `signal` to this process when its parent ends. A proxy that fails during start-up does not end its
/// children, and those of the module would keep the state directory locked.
///
/// # Safety
/// Only in a process of the module.
pub unsafe fn end_with_parent(signal: c_int) {
    // SAFETY: a plain system call on this process.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, signal) };
}
