//! The C ABI (in work).
