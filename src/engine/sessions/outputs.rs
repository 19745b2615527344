//! Executes the outputs of sessions: one method for each.

use super::SessionTable;
use super::ask::{DebitedMessage, ask, record_debit, respond};
use super::entry::SessionEntry;
use super::notify::{count_debit, notify_debit, notify_failure};
use crate::charge::ch2::{Denial, Request, SessionKey};
use crate::charge::content::ContentClass;
use crate::charge::session::{Decision, Output, Rule};
use crate::charge::tariff::{Quota, Units};
use crate::engine::effects::Effect;
use crate::engine::store::StoreError;
use crate::engine::store::change::{Change, NotDebited, Refund};
use crate::engine::tick::Tick;
use crate::shm::latency::Latency;
use crate::shm::statistic::Statistic;
use std::num::NonZeroI64;

impl SessionTable {
    /// Executes all outputs of a session and schedules its next timer.
    pub(super) fn execute_outputs(&mut self, tick: &mut Tick<'_>, key: SessionKey) -> Result<(), StoreError> {
        tick.changed = true;
        while let Some(entry) = self.sessions.get_mut(&key) {
            if !entry.is_dirty {
                entry.is_dirty = true;
                self.dirty.push(key);
            }
            let Some(output) = entry.session.poll() else { break };
            match output {
                Output::Ask(request) => self.on_ask(tick, key, request)?,
                Output::Verdict(verdict) => self.on_verdict(tick, key, &verdict),
                Output::Grant(total) => entry.on_grant(tick, total),
                Output::StopMessage { message_id } => entry.on_stop_message(tick, &message_id),
                Output::ForgetMessage { message_id } => entry.on_forget_message(tick, &message_id),
                Output::CloseGate => entry.on_close_gate(tick),
                Output::Debited { .. } => entry.on_debited(tick, &output),
                Output::Refunded { message_id, part, units, rule, .. } => {
                    entry.on_refunded(tick, (message_id, part), units, rule);
                }
                Output::HeldBack { message_id } => entry.on_held_back(&message_id),
                Output::DebitDenied { message_id, denial } => entry.on_debit_denied(tick, &message_id, denial),
                Output::RefundDenied { message_id, denial } => entry.on_refund_denied(tick, &message_id, denial),
                Output::NotDebited { message_id, octets, units, rule, class } => {
                    entry.on_not_debited(tick, (message_id, class), (octets, units), rule);
                }
                Output::EnablerFailed(failure) => notify_failure(tick, &entry.session, failure),
                Output::Closed { .. } => self.on_closed(tick, key),
                Output::Forget => {
                    self.on_forget(tick, key);
                    return Ok(());
                }
            }
        }
        self.schedule(key, tick.now);
        Ok(())
    }

    /// Sends a request to the enabler, or queues it if its rate is limited.
    fn on_ask(&mut self, tick: &mut Tick<'_>, key: SessionKey, request: Request) -> Result<(), StoreError> {
        if request.rate_limited && tick.region.config.enabler.capabilities.limits_retries {
            self.retries.push_back((key, request.number));
            return Ok(());
        }
        let Some(entry) = self.sessions.get_mut(&key) else { return Ok(()) };
        if let Some((number, response)) = ask(tick, entry, request)? {
            respond(tick, entry, number, &response);
        }
        Ok(())
    }

    /// The session is settled. The slot of a granted one stays for a while, so that late frames find a closed gate.
    fn on_closed(&mut self, tick: &mut Tick<'_>, key: SessionKey) {
        let Some(entry) = self.sessions.get_mut(&key) else { return };
        entry.closed_at = NonZeroI64::new(tick.wall_ms);
        self.open = self.open.saturating_sub(1);
        if entry.session.is_paired() || entry.session.decision() == Some(Decision::Granted) {
            self.closed_with_slot.extend(entry.slot.map(|_| (tick.now, key)));
        } else {
            tick.effects.extend(entry.slot.take().map(Effect::Free));
        }
    }

    /// Removes the session from memory. Its history stays.
    pub(super) fn on_forget(&mut self, tick: &mut Tick<'_>, key: SessionKey) {
        let Some(mut entry) = self.sessions.remove(&key) else { return };
        entry.write_trace(tick);
        entry.remove_copy(tick);
        tick.store.put(Change::Forgotten { row: entry.row });
        tick.effects.extend(entry.slot.map(Effect::Free));
        self.drop_stale_closed();
        for connection in entry.session.connections() {
            if let Some(sessions) = self.connections.get_mut(connection) {
                sessions.remove(&key);
                if sessions.is_empty() {
                    self.connections.remove(connection);
                }
            }
        }
    }
}

impl SessionEntry {
    fn on_grant(&self, tick: &mut Tick<'_>, total: Quota) {
        tick.effects.extend(self.slot.map(|slot| Effect::Grant(slot, total.0)));
    }

    fn on_stop_message(&self, tick: &mut Tick<'_>, message_id: &str) {
        let key = self.session.key();
        let message = tick.region.hash_of_message(key, message_id);
        tick.effects.extend(self.slot.map(|slot| Effect::StopMessage(slot, key, message)));
    }

    fn on_forget_message(&self, tick: &mut Tick<'_>, message_id: &str) {
        let key = self.session.key();
        let message = tick.region.hash_of_message(key, message_id);
        tick.effects.extend(self.slot.map(|slot| Effect::ForgetMessage(slot, key, message)));
    }

    /// Closes the gate at once, so that the session learns how many messages have passed, and once more after the commit.
    /// The gate of an earlier host is gone: its sessions are settled when all its events have been read
    /// ([`SessionTable::host_stopped`]).
    fn on_close_gate(&mut self, tick: &mut Tick<'_>) {
        if self.is_orphaned(tick.region) {
            return;
        }
        let key = self.session.key();
        let taken = self.slot.map_or(0, |slot| {
            tick.effects.push(Effect::Close(slot));
            let slot = &tick.region.table().slots[slot as usize];
            if slot.session() == Some(key) { slot.close() } else { 0 }
        });
        self.session.on_gate_closed(taken, tick.now);
    }

    fn on_debited(&self, tick: &mut Tick<'_>, debited: &Output) {
        let Output::Debited {
            message_id, part, octets, units, trigger, rule, opened_by, class, since, balance, ..
        } = debited
        else {
            return;
        };
        tick.latencies.push((Latency::Debit, *since));
        // An enabler that answers within the tick has recorded the debit with its answer.
        if tick.enabler.in_tick().is_none() {
            let message = DebitedMessage { message_id, part: *part, octets: *octets, units: *units, class: *class };
            record_debit(tick, self, message, (*trigger, Some(*rule)), *opened_by);
        }
        count_debit(tick, *trigger);
        if *rule == Rule::LateSuccess {
            tick.count(Statistic::FailuresContradicted);
        }
        tick.add(Statistic::of_units(self.session.service(), *class), units.0);
        notify_debit(tick, &self.session, message_id, units.0, *trigger, *balance);
    }

    fn on_refunded(&self, tick: &mut Tick<'_>, (message_id, part): (Box<str>, u32), units: Units, rule: Rule) {
        tick.count(Statistic::Refunds);
        tick.add(Statistic::UnitsRefunded, units.0);
        let refund = Refund { row: self.row, message_id, part, rule, wall_ms: tick.wall_ms };
        tick.store.put(Change::Refunded(refund));
    }

    fn on_held_back(&self, message_id: &str) {
        let call_id = self.session.call_id();
        log::warn!(
            "call {call_id}: the debit of message {message_id} may or may not have been executed; decide with \
             imcharge.outbox.resend or imcharge.outbox.release"
        );
    }

    fn on_debit_denied(&self, tick: &mut Tick<'_>, message_id: &str, denial: Denial) {
        tick.count(Statistic::DebitsDenied);
        let (call_id, reason, code) = (self.session.call_id(), denial.as_str(), denial.code());
        log::warn!("call {call_id}: the enabler refused the debit of message {message_id}: {reason} {code}");
    }

    fn on_refund_denied(&self, tick: &mut Tick<'_>, message_id: &str, denial: Denial) {
        tick.count(Statistic::RefundsDenied);
        let (call_id, reason, code) = (self.session.call_id(), denial.as_str(), denial.code());
        log::error!("call {call_id}: the enabler refused the refund of message {message_id}: {reason} {code}");
    }

    fn on_not_debited(
        &self,
        tick: &mut Tick<'_>,
        (message_id, class): (Box<str>, ContentClass),
        (octets, units): (u64, Units),
        rule: Rule,
    ) {
        let message = self.message_record((message_id, class), octets, units, tick.wall_ms);
        tick.store.put(Change::NotDebited(NotDebited { message, rule }));
    }
}
