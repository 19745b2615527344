//! Adapters to SIP proxies: they translate and hand over, no rule of charging stands here.

pub mod kamailio;
