//! SIP and MSRP parties. They have their own codecs, so that a mistake in the module's codecs cannot hide in both.

pub mod auth;
pub mod client;
pub mod msrp;
pub mod page;
pub mod server;
pub mod sip;
