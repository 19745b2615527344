//! bindgen's output for the headers listed in `include/host/opensips.h`, for the exact version of the host, and declarations
//! that bindgen cannot generate.
#![allow(
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unnecessary_transmutes,
    unsafe_op_in_unsafe_fn,
    unused_imports,
    dead_code,
    missing_docs,
    improper_ctypes,
    rustdoc::all,
    clippy::all,
    clippy::undocumented_unsafe_blocks
)]
include!(concat!(env!("OUT_DIR"), "/opensips.rs"));

// Kamailio's names of the same types.
pub use self::{__str as _str, param_export_ as param_export};
/// Type of an integer parameter.
pub const PARAM_INT: u32 = INT_PARAM;
/// Type of a string parameter.
pub const PARAM_STRING: u32 = STR_PARAM;

/// Parses the headers in `wanted`.
///
/// # Safety
/// `message` must be a message of the host in private memory.
pub unsafe fn parse_headers(message: *mut sip_msg, wanted: hdr_flags_t, next: ::std::ffi::c_int) -> ::std::ffi::c_int {
    // SAFETY: guaranteed by the caller.
    unsafe { imcharge_parse_headers(message, wanted, next) }
}

unsafe extern "C" {
    /// Allocates a block of the host's shared memory; NULL if there is none left (`include/host/opensips.c`).
    pub fn imcharge_shm_malloc(octets: ::std::ffi::c_ulong) -> *mut ::std::ffi::c_void;
    /// Frees a block of [`imcharge_shm_malloc`].
    pub fn imcharge_shm_free(block: *mut ::std::ffi::c_void);
    /// Calls the host's macro of this name.
    fn imcharge_parse_headers(message: *mut sip_msg, wanted: hdr_flags_t, next: ::std::ffi::c_int)
    -> ::std::ffi::c_int;
    /// Whether an MSRP address is this proxy's own.
    pub fn imcharge_is_own(
        host: *mut __str,
        port: ::std::ffi::c_ushort,
        proto: ::std::ffi::c_ushort,
    ) -> ::std::ffi::c_int;
    /// Whether the host holds an MSRP connection with this peer, from this local address and port (NULL and 0: any).
    pub fn imcharge_has_connection(
        peer: *const ip_addr,
        peer_port: ::std::ffi::c_ushort,
        local: *const ip_addr,
        local_port: ::std::ffi::c_ushort,
    ) -> ::std::ffi::c_int;
    /// Whether the host logs lines of this level.
    pub fn imcharge_logs(level: ::std::ffi::c_int) -> ::std::ffi::c_int;
    /// Logs a line.
    pub fn imcharge_log(level: ::std::ffi::c_int, place: *const ::std::ffi::c_char, line: *const ::std::ffi::c_char);
}
