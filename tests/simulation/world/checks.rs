//! What must be true, all the time and in the end.

use super::{PROCESSES, SECOND, What, World};
use crate::call::{MERGED, Message};
use imcharge::charge::policy::Settle;
use imcharge::charge::tariff::{Per, Unit};
use imcharge::engine::Engine;
use imcharge::engine::region::Lane;
use imcharge::engine::statistic::Statistic;
use rusqlite::OptionalExtension;
use std::cmp::Reverse;

/// What the engine needs on top of every time-out: its restart, its turns, and the looks from here.
const SLACK: u64 = 5 * SECOND;

/// Seconds after a fault within which an engine is started again.
const BACK_MAX: u64 = 10;

/// What a distant enabler needs besides: to be connected to again (RFC 6733, 2.1: 30 s), and answers that do not come.
const SLACK_OF_DIAMETER: u64 = 60 * SECOND;

/// What must be true.
impl World<'_> {
    /// How long after its last movement a session may hold something, as long as nothing is wrong.
    pub(super) fn longest_hold(&self) -> u64 {
        u64::from(self.hold_timeout) * SECOND + self.longest_after_end()
    }

    /// How long after its end.
    fn longest_after_end(&self) -> u64 {
        let far = if self.config.diameter().is_some() { SLACK_OF_DIAMETER } else { 0 };
        u64::from(self.config.policy.response_timeout) * SECOND + SLACK + far
    }

    /// No hold outlives its session by more than its time-out.
    pub(super) fn audit(&mut self) {
        self.after(SECOND, What::Audit);
        let now = self.machine.clock.get();
        let is_down = self.engine.is_none() && !self.starts && !self.is_ill && self.region.is_some();
        self.down_since = if is_down { self.down_since.or(Some(now)) } else { None };
        if let Some(seconds) = self.down_since.map(|since| (now - since) / SECOND).filter(|down| *down > BACK_MAX) {
            self.wrong.push(format!("no engine for {seconds} s, although nothing is wrong"));
        }
        let is_well =
            self.engine.is_some() && !self.is_ill && self.machine.crash_in.get().is_none() && self.stands_until <= now;
        self.well_since = if is_well { self.well_since.or(Some(now)) } else { None };
        let (Some(since), Some(engine)) = (self.well_since, &self.engine) else { return };
        let unsettled = engine.unsettled();
        for call in self.calls.iter().filter(|call| unsettled.contains(&call.session())) {
            let moved = since.max(call.moved_at);
            let due = match call.ended_at {
                Some(_) => moved + self.longest_after_end(),
                None => moved + self.longest_hold(),
            };
            if now > due {
                let (number, ended, late) = (call.number, call.ended_at, (now - due) / SECOND);
                self.wrong.push(format!("call {number}, ended {ended:?}, holds something {late} s too long"));
            }
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let Some(region) = &self.region else { return false };
        let rings = (0..PROCESSES).all(|process| region.event_ring(process).used() == 0);
        let waits =
            [Statistic::SessionsActive, Statistic::OutboxDepth, Statistic::OutboxOldestAge, Statistic::HoldsStuck];
        let told = region.queue(Lane::Verdicts).used() == 0;
        let quiet = waits.iter().all(|one| region.statistic(*one) == 0);
        rings
            && told
            && quiet
            && self.engine.is_some()
            && !self.queue.iter().any(|Reverse((_, _, what))| what.is_of_parties())
    }

    pub(super) fn restless(&self) -> String {
        let Some(region) = &self.region else { return "the host does not start any more".into() };
        let one = |one: Statistic| region.statistic(one);
        let (active, outbox) = (one(Statistic::SessionsActive), one(Statistic::OutboxDepth));
        let (state, stuck) = (region.engine_state(), one(Statistic::HoldsStuck));
        let unread: usize = (0..PROCESSES).map(|process| region.event_ring(process).used()).sum();
        format!(
            "no rest: {active} sessions are open, {outbox} debits wait, {stuck} sessions hold what they should not, \
             {unread} octets are not read, the engine is {state:?}"
        )
    }

    pub(super) fn check(&mut self) -> Result<(), String> {
        // The tables follow the journal with the next write.
        self.engine.as_mut().map_or(Ok(()), Engine::stop).map_err(|error| error.to_string())?;
        if let Some(wrong) = self.wrong.first().or(self.elsewhere.borrow().wrong.first()) {
            return Err(wrong.clone());
        }
        self.check_messages()?;
        self.check_money()?;
        if let Some(wrong) = self.elsewhere.borrow().unheard() {
            return Err(wrong);
        }
        self.check_verdicts()?;
        self.check_merged()
    }

    /// No session hears of what became of an INVITE that was charged by another way.
    fn check_merged(&self) -> Result<(), String> {
        let sql = "SELECT count(*) FROM steps WHERE step='invite-failed' AND code=?1";
        match self.ledger().query_row(sql, [MERGED], |row| row.get::<_, i64>(0)).expect("a view") {
            0 => Ok(()),
            some => Err(format!("{some} sessions took the end of another INVITE for their own")),
        }
    }

    /// Each INVITE that was taken has one verdict, as long as its host lives to give it.
    fn check_verdicts(&self) -> Result<(), String> {
        for call in &self.calls {
            let lives = call.taken_by == Some(self.region().instance());
            if call.verdicts > 1 || (lives && call.verdicts == 0) {
                return Err(format!("call {} has {} verdicts", call.number, call.verdicts));
            }
        }
        Ok(())
    }

    fn check_messages(&mut self) -> Result<(), String> {
        let ledger = self.ledger();
        let count = |call_id: &str, message_id: &str| -> i64 {
            let sql = "SELECT count(*) FROM debits WHERE call_id=?1 AND message_id=?2";
            ledger.query_row(sql, (call_id, message_id), |row| row.get(0)).expect("a table")
        };
        let refunds = |call_id: &str, message_id: &str| -> i64 {
            let sql = "SELECT count(refunded_at) FROM debits WHERE call_id=?1 AND message_id=?2";
            ledger.query_row(sql, (call_id, message_id), |row| row.get(0)).expect("a table")
        };
        // A debit that had lost its reservation, and met an account without credit.
        let is_refused = |call_id: &str, message_id: &str| -> bool {
            let sql = "SELECT count(*) FROM undebited WHERE call_id=?1 AND message_id=?2 AND rule='no-credit'";
            let count: i64 = ledger.query_row(sql, (call_id, message_id), |row| row.get(0)).expect("a table");
            self.is_short && count > 0
        };
        for call in &self.calls {
            for message in 0..call.messages.len() {
                let debits = count(&call.call_id(), &call.message_id(message));
                let passed = call.passed.contains_key(&message);
                let given_back = self.config.policy.report == Settle::Release && call.reported.contains(&message);
                let is_refused = is_refused(&call.call_id(), &call.message_id(message));
                let may_be_free = call.may_be_free(message) || call.lost.contains(&message) || given_back || is_refused;
                if !given_back && refunds(&call.call_id(), &call.message_id(message)) > 0 {
                    return Err(format!("call {} message {message} was given back for no reason", call.number));
                }
                // What was in a worker that died may have been told of, and never went on.
                let right = match (passed, may_be_free) {
                    (false, _) => debits <= i64::from(call.unsure.contains(&message)),
                    (true, false) => debits == 1,
                    (true, true) => debits <= 1,
                };
                if !right {
                    let (number, messages) = (call.number, &call.messages[message]);
                    return Err(format!(
                        "call {number} message {message} {messages:?}: passed {passed}, debits {debits}"
                    ));
                }
                self.tally.debits += debits as u64;
            }
        }
        let number = |sql: &str| -> i64 { ledger.query_row(sql, [], |row| row.get(0)).expect("a number") };
        let all = number("SELECT count(*) FROM debits");
        if all != self.tally.debits as i64 {
            return Err(format!("{all} debits, and {} of them of a message", self.tally.debits));
        }
        self.check_prices(&ledger)
    }

    /// Each debit is of what has passed of its message, all of it where the client has said that it has all, and costs
    /// what the tariff says.
    fn check_prices(&self, ledger: &rusqlite::Connection) -> Result<(), String> {
        let sql = "SELECT octets, units, \"trigger\" FROM debits WHERE call_id=?1 AND message_id=?2";
        let debit = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        for call in &self.calls {
            for (message, Message { chunks, octets: each, .. }) in call.messages.iter().enumerate() {
                let found = ledger.query_row(sql, (call.call_id(), call.message_id(message)), debit).optional();
                let Some((octets, units, trigger)): Option<(u64, u64, String)> = found.expect("a table") else {
                    continue;
                };
                let passed = (0..*chunks).filter(|chunk| call.chunks.contains(&(message, *chunk)));
                let most =
                    if call.unsure.contains(&message) { *chunks } else { passed.max().map_or(0, |last| last + 1) };
                let is_whole = octets == u64::from(chunks * each);
                let is_part = octets % u64::from(*each) == 0 && octets > 0 && octets <= u64::from(most * each);
                let pinned = call.taken_by.and_then(|instance| self.tariffs.get(&instance));
                let tariff = pinned.copied().unwrap_or(self.config.tariff);
                let counted = match tariff.per {
                    Per::Message => 1,
                    Per::Kilobyte => octets.div_ceil(1024),
                };
                let price = counted * u64::from(tariff.price);
                if !is_part || (trigger == "response" && !is_whole) || units != price {
                    let number = call.number;
                    return Err(format!(
                        "call {number} message {message} of {chunks} times {each} octets, {most} of them passed: {units} \
                         units for {octets} octets at {tariff}, on {trigger}"
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_money(&self) -> Result<(), String> {
        let ledger = self.ledger();
        let number =
            |sql: &str, name: &str| -> i64 { ledger.query_row(sql, [name], |row| row.get(0)).expect("a number") };
        let elsewhere = self.elsewhere.borrow();
        for (name, initial) in &self.balances {
            // A charging system that counts octets counts each.
            let counted = match (self.config.diameter(), self.config.unit) {
                (Some(_), Unit::Octets) => "octets",
                _ => "units",
            };
            let debited = "FROM debits WHERE account=?1 AND refunded_at IS NULL";
            let debited = number(&format!("SELECT coalesce(sum({counted}), 0) {debited}"), name);
            let (balance, held, taken) = match self.config.diameter() {
                Some(_) => {
                    let found = elsewhere.ocs.book.accounts().find(|(known, _)| known == name);
                    let account = found.map(|(_, account)| *account).unwrap_or_default();
                    (account.balance, account.held, account.debited)
                }
                None => {
                    let of = |column: &str| number(&format!("SELECT {column} FROM accounts WHERE id=?1"), name);
                    (of("balance"), of("held"), of("debited"))
                }
            };
            if (held, taken, balance) != (0, debited, initial - debited) || balance < 0 {
                return Err(format!(
                    "{name} of {initial}: balance {balance}, held {held}, debited {taken}, the history says {debited} \
                     ({})",
                    self.config.tariff
                ));
            }
        }
        let holds: i64 = ledger.query_row("SELECT count(*) FROM holds", [], |row| row.get(0)).expect("a table");
        match holds {
            0 => Ok(()),
            holds => Err(format!("{holds} holds are left")),
        }
    }
}
