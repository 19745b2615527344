//! Codecs: from bytes to views of them, and back. No I/O, no unsafe, no panic; all sizes are limited.

pub mod cpim;
pub mod diameter;
pub mod identity;
pub mod media_type;
pub mod msrp;
pub mod rcs_file;
pub mod sdp;
pub mod sip;
pub mod zlib;
