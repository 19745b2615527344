//! Codecs: bytes in, views out. No I/O, no unsafe, no panic, everything bounded.

pub mod diameter;
pub mod identity;
pub mod msrp;
pub mod sdp;
pub mod sip;
