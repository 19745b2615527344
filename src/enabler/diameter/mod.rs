//! CH-2 over Diameter Credit-Control (RFC 8506, RFC 6733).

pub mod credit_control;
pub mod dialect;
