//! The shared region (interface first; in work).

use super::config::Config;
use super::statistic::Statistic;
use std::sync::Arc;

/// The shared memory that host processes and engine meet in.
pub struct Region;

/// Why there is no region: one sentence for an operator.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RegionError(pub String);

impl Region {
    /// Makes the region, before the host forks: locks the state directory (one proxy only), checks the
    /// ledger (version, writable), makes the rings: `processes` event rings and `config.resume_workers`
    /// verdict rings.
    pub fn create(config: Config, processes: usize) -> Result<Arc<Region>, RegionError> {
        let _ = (config, processes);
        unimplemented!()
    }

    /// The value of a counter now.
    pub fn statistic(&self, statistic: Statistic) -> u64 {
        let _ = statistic;
        unimplemented!()
    }

    /// Asks for notices of debits and failures too (the script has the event routes). Before fork.
    pub fn want_notices(&self, debited: bool, failed: bool) {
        let _ = (debited, failed);
        unimplemented!()
    }
}
