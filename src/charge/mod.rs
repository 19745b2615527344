//! The rules of charging: no I/O, clock, host, wire format or unsafe code.
//!
//! A session is a function of (state, event, time): pass one [`event::Event`], drain the outputs, pass the next. Time is
//! always an argument.

#![forbid(unsafe_code)]

pub mod account;
pub mod ch2;
pub mod content;
pub mod event;
pub mod policy;
pub mod service;
pub mod session;
pub mod tariff;
pub mod time;
