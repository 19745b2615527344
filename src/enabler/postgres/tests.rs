//! The binding over a database that the tests play.

mod fake;
mod members;
mod takeovers;
mod ticks;
