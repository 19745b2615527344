//! Texts of static life for the tables and calls of a host.

use super::bindings as sys;
use std::ffi::{CStr, c_char};

/// A C text for a table or call of the host, which takes it as writable and never writes.
pub const fn text(text: &'static CStr) -> *mut c_char {
    text.as_ptr().cast_mut()
}

/// A host's text of static life; the host wants a NUL behind every one, which a C text has.
pub const fn static_str(text: &'static CStr) -> sys::_str {
    sys::_str { s: text.as_ptr().cast_mut(), len: text.count_bytes() as i32 }
}
