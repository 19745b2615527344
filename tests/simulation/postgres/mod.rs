//! A simulated PostgreSQL with the shared ledger: a primary, its synchronous standby, and the connections of the nodes.

pub mod ledger;
mod protocol;
pub mod server;
pub mod statement;
mod value;

/// A bug in the database or in its schema, injected to prove that the simulation finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreBug {
    /// A tick with a lower number than an earlier one is executed: a late copy.
    LateTicksAccepted,
    /// A repeated tick is acknowledged before the standby has what its first copy has written.
    RepeatedTickUnreplicated,
    /// Of several requests of one account in a tick, one changes the account (UPDATE ... FROM).
    OneUpdatePerAccount,
}
