//! Bindings of CH-2: who really grants and debits.

pub mod diameter;
pub mod ledger;
