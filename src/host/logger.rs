//! The sink of the `log` facade: passes the module's lines to the host, limited in rate.

use super::log_sink;
use crate::shm::log_limit;
use crate::shm::log_limit::Limit;
use log::{LevelFilter, Log, Metadata, Record};

struct HostLog;

static LOGGER: HostLog = HostLog;

static LIMIT: Limit = Limit::new();

/// Installs the sink and the panic hook. Further calls have no effect.
pub fn install() {
    if log::set_logger(&LOGGER).is_ok() {
        log::set_max_level(LevelFilter::Debug);
        log_limit::log_panics();
    }
}

impl Log for HostLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("imcharge") && log_sink::is_enabled(metadata)
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata())
            && let Some(suffix) = LIMIT.admit(record)
        {
            log_sink::write(record, &suffix);
        }
    }

    fn flush(&self) {}
}
