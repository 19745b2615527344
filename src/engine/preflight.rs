//! Start-up checks, in the host's main process and before it forks.
//!
//! What is wrong here keeps the proxy from starting. What can go wrong later, in the engine, only closes the gates until
//! it is repaired.

use super::store::Store;
use crate::config::Config;
use crate::shm::region::{Region, RegionError, StateDirectory};
use std::sync::Arc;

/// Checks the configuration and creates the region: locks the state directory, checks the ledger, the parameters of the
/// enabler and the files they name, then allocates shared memory with `processes` event rings.
pub fn create_region(config: Config, processes: usize) -> Result<Arc<Region>, RegionError> {
    config.check().map_err(refused)?;
    // First the lock: the engine of a proxy that is still stopping may have the ledger open.
    let state_directory = StateDirectory::lock(&config.state_dir)?;
    Store::check(&config.state_dir).map_err(refused)?;
    config.enabler.check_files(&config.enabler_settings()).map_err(refused)?;
    Region::create(config, processes, state_directory)
}

fn refused(error: impl std::error::Error) -> RegionError {
    RegionError(error.to_string())
}
