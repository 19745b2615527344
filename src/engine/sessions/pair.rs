//! The two sessions of an INVITE whose parties both pay for what they send: one verdict for both, and events that concern
//! both.

use super::SessionTable;
use super::entry::SessionEntry;
use super::notify::{claim_slot, count_decision, send_verdict, write_verdict};
use crate::charge::ch2::{Failure, SessionKey};
use crate::charge::event::Event;
use crate::charge::session::{Decision, Verdict};
use crate::charge::time::Time;
use crate::engine::effects::Effect;
use crate::engine::store::StoreError;
use crate::engine::tick::Tick;
use crate::simulate::{InjectedBug, is_injected};

impl SessionTable {
    /// Handles an event of a session, and what it means for the other session of its INVITE.
    pub(super) fn handle_event(
        &mut self,
        tick: &mut Tick<'_>,
        key: SessionKey,
        at: Time,
        event: &Event<'_>,
    ) -> Result<(), StoreError> {
        let companion = key.companion();
        let is_paired = match self.sessions.get(&key) {
            Some(entry) => entry.session.is_paired(),
            None => self.sessions.contains_key(&companion),
        };
        self.handle_own_event(tick, key, at, event)?;
        let Some(entry) = self.sessions.get_mut(&companion).filter(|_| is_paired) else { return Ok(()) };
        match event {
            Event::Failed { .. } | Event::Cancelled { .. } | Event::End { .. }
                if !is_injected(InjectedBug::CompanionOutlivesInvite) =>
            {
                self.handle_own_event(tick, companion, at, event)?;
            }
            // While one party is active, the other is not idle.
            Event::Sent(_) | Event::Responded { .. } | Event::Reported { .. } | Event::Activity { .. } => {
                entry.session.on_event(&Event::Activity { connection: 0 }, at);
            }
            _ => {}
        }
        Ok(())
    }

    /// Sends the verdict of a session; of two, once both are decided.
    pub(super) fn on_verdict(&mut self, tick: &mut Tick<'_>, key: SessionKey, verdict: &Verdict) {
        let Some(entry) = self.sessions.get_mut(&key) else { return };
        if !entry.session.is_paired() {
            return send_verdict(tick, entry, verdict);
        }
        count_decision(tick, verdict.result);
        (entry.balance, entry.has_verdict) = (verdict.balance, true);
        let pair = [key.of_inviting_party(), key.of_inviting_party().companion()];
        let entries = pair.map(|key| self.sessions.get(&key).map(Box::as_ref));
        if entries.into_iter().flatten().any(|entry| !entry.has_verdict) {
            return;
        }
        if send_verdict_of_pair(tick, entries) != Some(Decision::Granted) {
            for key in pair {
                let refused = self.sessions.get_mut(&key).filter(|entry| !is_granted(entry));
                tick.effects.extend(refused.and_then(|entry| entry.slot.take()).map(Effect::Free));
            }
        }
    }
}

fn is_granted(entry: &SessionEntry) -> bool {
    entry.session.decision() == Some(Decision::Granted)
}

/// Sends the verdict of an INVITE with the sessions of the inviting and of the called party. It is granted if either is: a
/// party without credit is stopped at its own gate, which has no grant. Returns the decision.
fn send_verdict_of_pair(tick: &mut Tick<'_>, entries: [Option<&SessionEntry>; 2]) -> Option<Decision> {
    let own = entries[0].or(entries[1])?;
    let is_current = own.instance == tick.region.instance();
    let is_served = |entry: &SessionEntry| is_granted(entry) && entry.session.is_served();
    let mut decision = match own.session.decision()? {
        _ if entries.into_iter().flatten().any(is_served) => Decision::Granted,
        Decision::Granted => Decision::Failed(Failure::Ended),
        refused => refused,
    };
    if decision == Decision::Granted && is_current {
        for entry in entries.into_iter().flatten() {
            match (claim_slot(tick, entry), is_served(entry)) {
                (true, true) => {
                    let granted = entry.session.granted().0;
                    tick.effects.extend(entry.slot.map(|slot| Effect::Grant(slot, granted)));
                }
                // Without a slot, content is stopped at the gate of the other session.
                (_, false) => {}
                (false, true) => decision = Decision::Failed(Failure::Full),
            }
        }
    }
    if is_current {
        let reason = own.session.decision().filter(|_| decision == Decision::Granted).unwrap_or(decision);
        let granted = if is_granted(own) { own.session.granted() } else { Default::default() };
        write_verdict(
            tick,
            &own.session,
            decision,
            reason,
            &Verdict { result: decision, granted, balance: own.balance },
        );
    }
    Some(decision)
}
