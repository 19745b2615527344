//! What the tests, benchmarks and examples share: SIP and MSRP parties, the proxy as a child process, the OCS simulator
//! and a load generator.

pub mod load;
pub mod ocs;
pub mod parties;

use std::path::Path;

/// Returns the root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the test kit is in a folder of the repository")
}
