//! Start of an engine: it continues where the one before it stopped or died, and settles the sessions of earlier runs of the
//! host.

use super::main_loop::{Engine, EngineError};
use super::notification_writer::NotificationWriter;
use super::ring_reader::RingReader;
use super::sessions::SessionTable;
use super::store::Store;
use super::store::StoreError;
use super::store::change::Change;
use crate::enabler;
use crate::shm::clock;
use crate::shm::region::{OrphanedRegion, Region};
use std::collections::VecDeque;
use std::sync::Arc;

impl Engine {
    /// Starts an engine on a region, with everything that an earlier engine has committed.
    pub fn start(region: &Arc<Region>) -> Result<Engine, EngineError> {
        let mut store = Store::open(&region.config.state_dir, Some(region))?;
        let instance = region.instance();
        let marks = store.marks(instance)?.unwrap_or_default();
        let rings = RingReader::new(instance, region.event_consumers()?, &marks);
        let notifications = NotificationWriter::restore(region, &marks.notifications)?;
        let sessions = SessionTable::load(region, store.live_sessions()?);
        // Sessions outlive engines, so for servers the state is lost only with the ledger (RFC 6733, 8.16).
        let state_directory = store.state_directory()?;
        let (binding, settings) = (region.config.enabler, region.config.enabler_settings());
        let enabler = enabler::new(binding, &settings, state_directory, clock::now())
            .map_err(|error| StoreError::Enabler(error.to_string()))?;
        let mut engine = Engine {
            region: Arc::clone(region),
            store,
            rings,
            sessions,
            notifications,
            enabler,
            uncommitted: None,
            after_sync: VecDeque::new(),
            after_tables: VecDeque::new(),
            has_lease: false,
            is_ready: false,
        };
        engine.republish_all()?;
        engine.settle_orphaned_sessions()?;
        region.set_engine_ready();
        Ok(engine)
    }

    /// Publishes what the engine before this one has committed and may not have published.
    fn republish_all(&mut self) -> Result<(), EngineError> {
        let sessions = self.sessions.all_sessions();
        self.in_portions(&sessions, SessionTable::republish)?;
        // A notification may resume an INVITE, so the gates had to be opened first.
        self.is_ready = true;
        if self.uncommitted.is_none() {
            self.notifications.publish(&self.region);
        }
        Ok(())
    }

    /// Reads the events that earlier runs of the host left in their rings, and settles all their sessions, whose
    /// connections are gone.
    fn settle_orphaned_sessions(&mut self) -> Result<(), EngineError> {
        let orphaned = self.region.orphaned();
        for region in &orphaned {
            let marks = self.store.marks(region.instance())?.unwrap_or_default();
            let old = RingReader::new(region.instance(), region.event_consumers()?, &marks);
            let own = std::mem::replace(&mut self.rings, old);
            while self.process()? > 0 {}
            self.rings = own;
        }
        let instance = self.region.instance();
        let sessions = self.sessions.orphaned_sessions(instance);
        if !sessions.is_empty() {
            log::warn!("{} sessions of an earlier run of the proxy are settled now", sessions.len());
        }
        self.in_portions(&sessions, SessionTable::host_stopped)?;
        self.store.put(Change::Adopted { instance });
        self.step(|_, tick| {
            tick.changed = true;
            Ok(())
        })?;
        orphaned.into_iter().for_each(OrphanedRegion::remove);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
