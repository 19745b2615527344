//! Names and values of the host's statistics group `imcharge`.

use super::attach::REGION;
use crate::shm::statistic::Statistic;
use std::ffi::{CString, c_char};

/// Returns number and name of each statistic. The names are never freed, because the host keeps them.
pub fn names() -> impl Iterator<Item = (usize, *mut c_char)> {
    let name = |statistic: &Statistic| CString::new(statistic.name()).unwrap_or_default().into_raw();
    Statistic::ALL.iter().map(name).enumerate()
}

/// Returns the value of a statistic from the shared region; 0 before the region exists.
pub fn value(number: usize) -> u64 {
    let statistic = Statistic::ALL.get(number);
    statistic.zip(REGION.get()).map_or(0, |(statistic, region)| region.statistic(*statistic))
}
