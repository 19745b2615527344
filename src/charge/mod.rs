//! The rules of charging, pure: no I/O, no clock, no host, no wire format, no unsafe.
//!
//! A session is a function of (state, event, time): feed one [`event::Event`], drain the outputs, then
//! feed the next. Time is an argument everywhere.

#![forbid(unsafe_code)]

pub mod account;
pub mod ch2;
pub mod event;
pub mod policy;
pub mod session;
pub mod tariff;
pub mod time;
