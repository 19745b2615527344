//! A node of several that share a ledger: outages, the lease, takeovers, and what the shared ledger says at the end.

use super::accounts::TopUp;
use super::{Death, Outage, SECOND, World, print_trace};
use crate::call::Stage;
use crate::delivery::{Charge, Part};
use crate::postgres::ledger::{Debit, DebitKey, Ledger};
use imcharge::charge::ch2::SessionKey;
use imcharge::charge::policy::OnFailure;
use imcharge::simulate::machine::Machine;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Longest time from an event to the tick that has its state, in microseconds, if the engine works.
const REPLICATION_MICROS: u64 = 2 * SECOND;

/// Additional time for takeovers and for what is asked again, if accounts are shared.
const SHARED_SLACK: u64 = 60 * SECOND;

/// Tables by which the rules look at the sessions of a node.
const HISTORY: &str = "
    CREATE TABLE sessions(id INTEGER PRIMARY KEY, key TEXT UNIQUE, call_id TEXT);
    CREATE TABLE debits(session, call_id TEXT, message_id TEXT, part, account TEXT, octets, units, refunded_at, \"trigger\",
        code);
    CREATE TABLE undebited(session, call_id TEXT, message_id TEXT, rule TEXT);
    CREATE TABLE steps(session, step TEXT, rule TEXT, code);";

/// Session, Call-ID, step, rule and status code of a trace event.
type Step = (String, String, String, Option<String>, Option<i64>);

/// What the database of one node says about sessions, its own or adopted ones.
#[derive(Clone, Debug, Default)]
pub struct LocalHistory {
    /// Session, Call-ID, Message-ID and rule of messages that were not debited.
    undebited: Vec<(String, String, Option<String>, String)>,
    /// Trace events.
    steps: Vec<Step>,
}

impl World<'_> {
    pub fn machine(&self) -> &Rc<Machine> {
        &self.machine
    }

    /// Additional time until a session is settled, if accounts are shared.
    pub(super) fn shared_slack(&self) -> u64 {
        if self.shared.is_some() { SHARED_SLACK } else { 0 }
    }

    /// Name that makes Call-IDs and references unique among nodes.
    pub(super) fn name_suffix(&self) -> String {
        self.shared.as_ref().map_or(String::new(), |shared| format!(".{}", shared.name()))
    }

    /// The machine or its host dies, and comes back after a time that may be longer than its lease; perhaps without its
    /// disk.
    pub(super) fn break_down(&mut self) {
        let lasts = self.random.u64(0..60 * SECOND);
        let loses_disk = self.random.u8(0..3) == 0;
        let death = if loses_disk || self.random.bool() { Death::Machine } else { Death::Host };
        if self.region.is_some() {
            self.outage = Some(Outage { lasts, loses_disk });
            self.die(death);
        }
    }

    /// The disk of the machine is lost. What was not replicated by then may be lost.
    pub(super) fn lose_disk(&mut self) {
        let Some(shared) = &self.shared else { return };
        let until = shared.replicated_at().saturating_sub(REPLICATION_MICROS);
        print_trace(format_args!("{} the disk is lost, replicated until {until}", self.machine.clock.get()));
        for call in &mut self.calls {
            call.delivered.values_mut().for_each(|delivery| delivery.lose_after(until));
            call.confirmed.retain(|_, (at, _)| *at <= until);
        }
        // What it says about sessions is still true.
        self.lost_history = self.local_history();
        self.lose_pages();
        for chat in &mut self.chats {
            chat.passed.values_mut().for_each(|passed| passed.lose_after(until));
        }
        crate::disk::on(|disk| disk.wipe(self.state));
    }

    /// No content passes after the end of the lease, nor that of a session that another node may have settled.
    pub(super) fn check_lease(&mut self, is_lost: bool, what: &dyn std::fmt::Display) {
        let Some(shared) = &self.shared else { return };
        if is_lost && self.config.policy.on_failure == OnFailure::Deny {
            return self.violations.push(format!("{what} passes, but its session was taken over"));
        }
        let (now, until) = (shared.server_time(self.machine.clock.get()), shared.lease_until());
        if now > until && self.config.policy.on_failure == OnFailure::Deny {
            self.violations.push(format!("{what} passes at {now}, but the lease of this node has ended at {until}"));
        }
    }

    /// As [`World::check_lease`], for a frame of a message that has passed.
    pub(super) fn check_lease_of(&mut self, part: Part, is_lost: bool, what: &dyn std::fmt::Display) {
        if matches!(part, Part::Content { charge: Charge::Due, .. }) {
            self.check_lease(is_lost, what);
        }
    }

    /// Another node may have settled the sessions of this one: they are not known here any more.
    pub(super) fn note_takeover(&mut self) {
        let Some(shared) = &self.shared else { return };
        let epoch = shared.epoch();
        if epoch == self.epoch && self.config.policy.on_failure == OnFailure::Deny {
            return;
        }
        // A join raises the epoch as well, of a node that has no sessions yet.
        let is_fenced = shared.lease_until() == 0;
        self.epoch = epoch;
        let begun = self.calls.iter_mut().filter(|call| call.stage != Stage::Invited || call.taken_by.is_some());
        begun.for_each(|call| (call.is_lost, call.is_taken_over) = (true, is_fenced && call.stage != Stage::Invited));
        let begun = self.chats.iter_mut().filter(|chat| chat.stage != Stage::Invited || chat.taken_by.is_some());
        begun.for_each(|chat| (chat.is_lost, chat.is_taken_over) = (true, is_fenced && chat.stage != Stage::Invited));
    }

    /// Stops the engine.
    pub fn stop(&mut self) -> Result<(), String> {
        let stopped = self.engine.as_mut().map_or(Ok(()), imcharge::engine::Engine::stop);
        stopped.map_err(|error| error.to_string())
    }

    /// Reads what the database of this node says.
    pub fn local_history(&self) -> LocalHistory {
        let ledger = self.local_ledger();
        let mut undebited = ledger
            .prepare("SELECT s.key, u.call_id, u.message_id, u.rule FROM undebited u JOIN sessions s ON u.session=s.id")
            .expect("the tables of the ledger");
        let undebited: Vec<_> =
            undebited.query_map([], |row| row.try_into()).and_then(Iterator::collect).expect("rows");
        let mut steps = ledger
            .prepare("SELECT s.key, s.call_id, p.step, p.rule, p.code FROM steps p JOIN sessions s ON p.session=s.id")
            .expect("the tables of the ledger");
        let steps: Vec<_> = steps.query_map([], |row| row.try_into()).and_then(Iterator::collect).expect("rows");
        let lost = self.lost_history.clone();
        LocalHistory {
            undebited: lost.undebited.into_iter().chain(undebited).collect(),
            steps: lost.steps.into_iter().chain(steps).collect(),
        }
    }

    /// Makes what the shared ledger and all nodes say about the sessions of this node the database that the rules look at.
    pub fn read_history(&mut self, nodes: &[LocalHistory]) {
        self.has_history = true;
        let debits = self.own_debits();
        let own = self.own_sessions();
        let database = self.ledger();
        database.execute_batch(&format!("PRAGMA journal_mode=OFF; BEGIN;{HISTORY}")).expect("new tables");
        for (session, call) in own.values() {
            database.execute("INSERT INTO sessions(key, call_id) VALUES(?1, ?2)", (session, call)).expect("a row");
        }
        let id = "(SELECT id FROM sessions WHERE key=?1)";
        for ((key, message, part), debit) in &debits {
            let session = &own[key].0;
            let sql = format!("INSERT INTO debits VALUES({id}, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)");
            let refunded = debit.is_refunded.then_some(1);
            let of = (debit.octets, debit.units, refunded, &debit.trigger, debit.code);
            let (octets, units, refunded, trigger, code) = of;
            let row = (session, &debit.call, message, part, &debit.account, octets, units, refunded, trigger, code);
            database.execute(&sql, row).expect("a row");
        }
        let is_own: BTreeSet<&String> = own.values().map(|(session, _)| session).collect();
        for node in nodes {
            for row in node.undebited.iter().filter(|(session, ..)| is_own.contains(session)) {
                database
                    .execute(&format!("INSERT INTO undebited VALUES({id}, ?2, ?3, ?4)"), row.clone())
                    .expect("a row");
            }
            for (session, _, step, rule, code) in node.steps.iter().filter(|(session, ..)| is_own.contains(session)) {
                let row = (session, step, rule, code);
                database.execute(&format!("INSERT INTO steps VALUES({id}, ?2, ?3, ?4)"), row).expect("a row");
            }
        }
        database.execute_batch("COMMIT").expect("a commit");
    }

    /// Returns the sessions that began at this node, as texts, with their Call-IDs, by their keys.
    fn own_sessions(&self) -> BTreeMap<Vec<u8>, (String, String)> {
        let calls = self.calls.iter().map(|call| (call.session(), call.call_id()));
        let pages = self.pages.iter().map(|page| (page.session(), page.call_id()));
        let chats = self.chats.iter().flat_map(|chat| [0, 1].map(|party| (chat.session_of(party), chat.call_id())));
        let all = calls.chain(pages).chain(chats);
        all.map(|(session, call)| (octets(session), (session.to_string(), call))).collect()
    }

    /// Returns the debits of its sessions in the shared ledger.
    pub fn own_debits(&self) -> Vec<(DebitKey, Debit)> {
        let Some(shared) = &self.shared else { return Vec::new() };
        let (own, servers) = (self.own_sessions(), shared.servers.borrow());
        let debits = servers.primary.debits.iter().filter(|((session, ..), _)| own.contains_key(session));
        debits.map(|(key, debit)| (key.clone(), debit.clone())).collect()
    }

    /// Whether operators must repeat a top-up, because the database could not be reached.
    pub(super) fn must_repeat(&self, number: usize) -> bool {
        let Some(shared) = &self.shared else { return false };
        let TopUp { account, reference, .. } = &self.top_ups[number];
        let changes = &shared.servers.borrow().primary.changes;
        !changes.iter().any(|change| change.account == *account && change.reference == *reference)
    }

    /// Each top-up counts once.
    pub fn check_top_ups(&self, ledger: &Ledger) -> Result<(), String> {
        for top_up in &self.top_ups {
            let same = |account: &str, reference: &str| account == top_up.account && reference == top_up.reference;
            let found = ledger.changes.iter().filter(|change| same(&change.account, &change.reference));
            let found: Vec<i64> = found.map(|change| change.amount).collect();
            if found != [top_up.amount] {
                let (account, reference, amount) = (&top_up.account, &top_up.reference, top_up.amount);
                return Err(format!("{account}: top-up {reference} of {amount} is in the shared ledger as {found:?}"));
            }
        }
        Ok(())
    }
}

/// Key of a session in the shared ledger.
fn octets(session: SessionKey) -> Vec<u8> {
    [session.0.to_be_bytes(), session.1.to_be_bytes()].concat()
}
