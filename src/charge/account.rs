//! Accounts.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Id of an account: the canonical charged identity, made by `wire::identity`. Either `sip:user@host`, with scheme and host
/// in lower case and no port, parameters or headers, or `tel:+digits` without separators.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct AccountId(pub Box<str>);

impl AccountId {
    /// Returns the identity as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}
