//! A session in memory, and what it writes to the store.

use crate::charge::content::ContentClass;
use crate::charge::event::Event;
use crate::charge::session::Session;
use crate::charge::tariff::Units;
use crate::charge::time::Time;
use crate::enabler::SessionState;
use crate::engine::effects::Effect;
use crate::engine::store::change::{Change, MessageRecord, SessionChange};
use crate::engine::tick::Tick;
use crate::shm::region::Region;
use std::num::NonZeroI64;

/// Drift between the monotonic and the wall clock, in microseconds, from which the times of trace events are corrected.
const CLOCK_DRIFT_MAX_MICROS: u64 = 2_000_000;

/// What other nodes have of the state of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Copy {
    /// Nothing: it is new, or settled.
    Missing,
    /// It may lack the last changes: an engine may have died before it sent them.
    Uncertain,
    /// Everything that was written.
    Current,
}

/// Run of the host that sessions of another node belong to: none.
pub(super) const NO_INSTANCE: u64 = 0;

/// A session, with what the engine keeps beside its state.
pub(super) struct SessionEntry {
    pub session: Session,
    /// Row in the table of sessions.
    pub row: i64,
    /// Run of the host that it belongs to.
    pub instance: u64,
    /// Its slot of the gate.
    pub slot: Option<u32>,
    /// Time of its entry in the heap of timers.
    pub scheduled: Option<Time>,
    /// UNIX milliseconds.
    pub opened_at: i64,
    /// Whether the store knows it.
    pub is_stored: bool,
    /// What other nodes have of its state.
    pub copy: Copy,
    /// UNIX milliseconds.
    pub closed_at: Option<NonZeroI64>,
    /// Whether it has changed since the last commit.
    pub is_dirty: bool,
    /// Its unacknowledged debits, as counted in the table.
    pub debits_pending: u32,
    /// Whether its verdict was taken from its outputs.
    pub has_verdict: bool,
    /// Available balance of the account at its verdict, while the verdict of the other session of the INVITE is awaited.
    pub balance: Option<i64>,
    /// Its messages that no enabler granted, as counted in the table.
    pub uncovered: u32,
}

impl SessionEntry {
    /// Creates the entry of a session that is not stored yet.
    pub fn new(session: Session, row: i64, instance: u64, opened_at: i64) -> SessionEntry {
        SessionEntry {
            session,
            row,
            instance,
            slot: None,
            scheduled: None,
            opened_at,
            is_stored: false,
            copy: Copy::Missing,
            closed_at: None,
            is_dirty: false,
            debits_pending: 0,
            has_verdict: false,
            balance: None,
            uncovered: 0,
        }
    }

    /// Whether it belongs to an earlier run of the host.
    pub fn is_orphaned(&self, region: &Region) -> bool {
        self.instance != region.instance() && self.instance != NO_INSTANCE
    }

    /// Tells the session of its 2xx, if the worker has noted it in the slot but found no room for the event in its ring.
    pub fn recall_answer(&mut self, region: &Region, at: Time) {
        let slot = self.slot.and_then(|slot| region.table().slots.get(slot as usize));
        let is_answered = slot.is_some_and(|slot| slot.session() == Some(self.session.key()) && slot.is_answered());
        if is_answered && !self.session.is_answered() {
            self.session.on_event(&Event::Answered { leg: 0 }, at);
        }
    }

    /// Returns the record of a message for the history.
    pub fn message_record(
        &self,
        (message_id, class): (Box<str>, ContentClass),
        octets: u64,
        units: Units,
        wall_ms: i64,
    ) -> MessageRecord {
        let (call_id, account) = (self.session.call_id().into(), self.session.account().into());
        MessageRecord { row: self.row, call_id, message_id, account, octets, units: units.0, class, wall_ms }
    }

    /// Adds the changes of the session to the commit.
    pub fn write(&mut self, tick: &mut Tick<'_>) {
        self.is_dirty = false;
        self.write_trace(tick);
        let opened = (!self.is_stored).then_some((self.instance, self.opened_at));
        self.is_stored = true;
        let (head, parts) = (self.session.head(), self.session.take_changed_parts());
        self.replicate(tick, &head, &parts);
        let (row, closed_at) = (self.row, self.closed_at.map(NonZeroI64::get));
        tick.store.put_session(SessionChange { row, opened, closed_at, head, parts }, &self.session);
    }

    /// Passes the state to the enabler, for other nodes, if they need it.
    fn replicate(&mut self, tick: &mut Tick<'_>, head: &[u8], changed: &[(u32, Vec<u8>)]) {
        if self.session.is_settled() {
            return self.remove_copy(tick);
        }
        if !tick.region.config.enabler.capabilities.shares_sessions || self.session.is_taken_over() {
            return;
        }
        let parts = match self.copy {
            Copy::Missing => self.session.all_parts(false),
            Copy::Uncertain => self.session.all_parts(true),
            Copy::Current => changed.to_vec(),
        };
        self.copy = Copy::Current;
        tick.effects.push(Effect::Replicate(self.state(Some(head.to_vec()), parts)));
    }

    /// Removes the copy of the state that other nodes have, if there is one.
    pub fn remove_copy(&mut self, tick: &mut Tick<'_>) {
        let is_shared = tick.region.config.enabler.capabilities.shares_sessions && !self.session.is_taken_over();
        if is_shared && self.copy != Copy::Missing {
            self.copy = Copy::Missing;
            tick.effects.push(Effect::Replicate(self.state(None, Vec::new())));
        }
    }

    fn state(&self, head: Option<Vec<u8>>, parts: Vec<(u32, Vec<u8>)>) -> SessionState {
        let (session, opened_at) = (self.session.key(), self.opened_at);
        SessionState { session, account: self.session.account().into(), opened_at, head, parts }
    }

    /// Adds new trace events to the commit.
    pub fn write_trace(&mut self, tick: &mut Tick<'_>) {
        let (first, events) = self.session.take_trace();
        if events.is_empty() {
            return;
        }
        let since = tick.now.micros_since(self.session.opened());
        let zero = tick.wall_ms.saturating_mul(1000).saturating_sub_unsigned(since);
        // The monotonic clock restarts with the machine, and an operator may set the wall clock.
        let is_drifted = zero.abs_diff(self.opened_at.saturating_mul(1000)) > CLOCK_DRIFT_MAX_MICROS;
        tick.store.put(Change::Trace { row: self.row, first, zero: is_drifted.then_some(zero), events });
    }
}
