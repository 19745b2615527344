//! bindgen's output for the headers listed in `include/host/kamailio.h`, for the exact version of the host.
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
include!(concat!(env!("OUT_DIR"), "/kamailio.rs"));
