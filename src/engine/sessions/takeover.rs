//! Takeover of sessions between nodes that share them: the sessions that this node has lost, and those of a dead node that
//! it settles.

use super::SessionTable;
use super::entry::{Copy, NO_INSTANCE, SessionEntry};
use crate::charge::session::Session;
use crate::enabler::{AdoptedSession, SessionState};
use crate::engine::effects::Effect;
use crate::engine::store::StoreError;
use crate::engine::tick::Tick;
use crate::shm::statistic::Statistic;

/// Sessions after which the engine shows a sign of life.
const PORTION_SESSIONS: usize = 1000;

impl SessionTable {
    /// Another node has taken over all sessions of this one.
    pub(super) fn taken_over(&mut self, tick: &mut Tick<'_>) -> Result<(), StoreError> {
        if self.open > 0 {
            log::warn!(
                "another node has taken over the {} open sessions of this one, because its lease was over: they end now, \
                 and what they have delivered is debited",
                self.open
            );
        }
        for portion in self.all_sessions().chunks(PORTION_SESSIONS) {
            tick.region.heartbeat();
            for key in portion {
                if let Some(entry) = self.sessions.get_mut(key) {
                    entry.session.on_taken_over(tick.now);
                    self.execute_outputs(tick, *key)?;
                }
            }
        }
        Ok(())
    }

    /// This node has taken over a session of a dead node.
    ///
    /// It may know a session of this key. If it had lost that to the dead node, or has not settled it yet, its own state
    /// replaces the copy: it knows all that the copy knows, and what the enabler still holds is released once it is settled.
    /// One that is settled and was never lost is another session: the parties have sent the same INVITE over both nodes.
    pub(super) fn adopt(&mut self, tick: &mut Tick<'_>, adopted: &AdoptedSession) -> Result<(), StoreError> {
        let key = adopted.session;
        let session = Session::load(&adopted.head, adopted.parts.iter().map(Vec::as_slice));
        let Some(session) = session.filter(|session| session.key() == key) else {
            log::error!(
                "the state of session {key} of node {} cannot be decoded, so its outstanding messages are not debited; \
                 what it held is released (sessions_unreadable)",
                adopted.from
            );
            tick.count(Statistic::SessionsUnreadable);
            release(tick, adopted);
            return Ok(());
        };
        match self.sessions.get_mut(&key) {
            Some(known) if known.session.is_taken_over() || !known.session.is_settled() => {
                known.session.set_regained();
                known.copy = Copy::Uncertain;
                self.execute_outputs(tick, key)
            }
            _ => self.settle_adopted(tick, session, adopted.opened_at),
        }
    }

    /// Adds a session of a dead node and settles it. A settled one of the same key leaves it its slot, so that late frames
    /// still find a closed gate.
    fn settle_adopted(&mut self, tick: &mut Tick<'_>, mut session: Session, opened_at: i64) -> Result<(), StoreError> {
        let key = session.key();
        let slot = self.sessions.get_mut(&key).and_then(|known| known.slot.take());
        self.on_forget(tick, key);
        self.open += u64::from(session.is_open());
        let has_verdict = session.decision().is_some();
        session.adopt(tick.now);
        let entry = SessionEntry::new(session, tick.store.new_row(), NO_INSTANCE, opened_at);
        self.sessions.insert(key, Box::new(SessionEntry { slot, copy: Copy::Uncertain, has_verdict, ..entry }));
        self.execute_outputs(tick, key)
    }
}

/// Removes a state, which returns what the enabler holds for its session.
fn release(tick: &mut Tick<'_>, adopted: &AdoptedSession) {
    let AdoptedSession { session, opened_at, .. } = *adopted;
    let state = SessionState { session, account: adopted.account.clone(), opened_at, head: None, parts: Vec::new() };
    tick.changed = true;
    tick.effects.push(Effect::Replicate(state));
}
