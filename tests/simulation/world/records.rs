//! The billing system of a world.

use super::World;

impl World<'_> {
    /// The billing system takes closed files away.
    pub(super) fn take_records(&mut self) -> Result<(), String> {
        match &self.config.records.dir {
            Some(dir) => self.billing.take(dir),
            None => Ok(()),
        }
    }

    /// Each record is in exactly one closed file.
    pub(super) fn check_records(&self) -> Result<(), String> {
        match &self.config.records.dir {
            Some(_) => self.billing.check(&self.local_ledger()),
            None => Ok(()),
        }
    }
}
