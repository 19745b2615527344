//! Static texts in the forms that the host's tables and functions take.

use super::bindings as sys;
use std::ffi::{CStr, c_char};

/// Returns a C text as the writable pointer that the host declares; it never writes to it.
pub const fn text(text: &'static CStr) -> *mut c_char {
    text.as_ptr().cast_mut()
}

/// Returns a text of the host. Some of its functions expect a NUL after the text, which a C text has.
pub const fn static_str(text: &'static CStr) -> sys::_str {
    sys::_str { s: text.as_ptr().cast_mut(), len: text.count_bytes() as i32 }
}
