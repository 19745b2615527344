//! Rules that must hold during a run and at its end.

use super::{PROCESSES, SECOND, Step, World};
use crate::call::{Call, Layout, MERGED, Message, Stage};
use crate::dialog::LegState;
use imcharge::charge::ch2::SessionKey;
use imcharge::charge::policy::Settle;
use imcharge::charge::tariff::{Tariff, Unit};
use imcharge::enabler::Accounts;
use imcharge::shm::region::Lane;
use imcharge::shm::statistic::Statistic;
use std::cmp::Reverse;

/// Time that the engine needs in addition to every time-out, for its restart, ticks, and these checks.
const SLACK: u64 = 5 * SECOND;

/// Seconds that a session stays open after a CANCEL, because a 200 may cross it.
const CANCELLED_OPEN_SECONDS: u64 = 32;

/// Microseconds after the end of one of two dialogs within which the session is looked at: the engine has read the end,
/// and nothing else has ended the session.
const LEG_ENDED: std::ops::Range<u64> = 2 * SECOND..15 * SECOND;

/// Seconds after a fault within which an engine must be started again.
const RESTART_SECONDS_MAX: u64 = 10;

/// Additional time with a remote enabler, for reconnecting (RFC 6733, 2.1: 30 s) and lost answers.
const REMOTE_SLACK: u64 = 60 * SECOND;

/// The rules.
impl World<'_> {
    /// Longest time after its last activity for which a session may hold credit while there is no fault.
    pub fn longest_hold(&self) -> u64 {
        u64::from(self.hold_timeout).max(CANCELLED_OPEN_SECONDS) * SECOND + self.longest_after_end()
    }

    /// The same after its end.
    pub(super) fn longest_after_end(&self) -> u64 {
        let far = if self.config.enabler.capabilities.accounts != Accounts::InStore { REMOTE_SLACK } else { 0 };
        u64::from(self.config.policy.response_timeout) * SECOND + SLACK + far + self.shared_slack()
    }

    /// No hold outlives its session by more than its time-out.
    pub(super) fn audit(&mut self) {
        self.after(SECOND, Step::Audit);
        if let Err(wrong) = self.take_records() {
            self.violations.push(wrong);
        }
        let now = self.machine.clock.get();
        let is_down = self.engine.is_none() && !self.is_starting && !self.is_faulty && self.region.is_some();
        self.down_since = if is_down { self.down_since.or(Some(now)) } else { None };
        if let Some(seconds) =
            self.down_since.map(|since| (now - since) / SECOND).filter(|down| *down > RESTART_SECONDS_MAX)
        {
            self.violations.push(format!("no engine for {seconds} s without a fault"));
        }
        let has_servers = self.shared.as_ref().is_none_or(|shared| !shared.is_faulty(now));
        let is_well = self.engine.is_some()
            && !self.is_faulty
            && has_servers
            && self.machine.crash_in.get().is_none()
            && !self.is_frozen;
        self.faultless_since = if is_well { self.faultless_since.or(Some(now)) } else { None };
        let (Some(since), Some(engine)) = (self.faultless_since, &self.engine) else { return };
        let unsettled = engine.unsettled();
        let mut overdue = self.overdue_pages(&unsettled, since, now);
        overdue.extend(self.overdue_chats(&unsettled, since, now));
        let instance = Some(self.region().instance());
        for call in self.calls.iter().filter(|call| call.taken_by == instance && call.stage == Stage::Answered) {
            let has_ended = call.leg_ended_at.is_some_and(|at| LEG_ENDED.contains(&(now - at)) && since < at);
            let lives = call.legs.iter().any(|leg| leg.state == LegState::Confirmed);
            if has_ended && lives && !call.is_aborted && !unsettled.contains(&call.session()) {
                self.half_ended.insert(call.number);
            }
        }
        self.violations.extend(overdue);
        for call in self.calls.iter().filter(|call| unsettled.contains(&call.session())) {
            let moved = since.max(call.moved_at);
            let due = match call.ended_at {
                Some(_) => moved + self.longest_after_end(),
                None => moved + self.longest_hold(),
            };
            if now > due {
                let (number, ended, late) = (call.number, call.ended_at, (now - due) / SECOND);
                self.violations.push(format!("call {number}, ended {ended:?}, holds credit {late} s too long"));
            }
        }
    }

    pub(super) fn is_at_rest(&self) -> bool {
        let Some(region) = &self.region else { return false };
        let rings = (0..PROCESSES).all(|process| region.event_ring(process).used() == 0);
        let waits =
            [Statistic::SessionsActive, Statistic::OutboxDepth, Statistic::OutboxOldestAge, Statistic::HoldsStuck];
        let notifications_taken = Lane::ALL.iter().all(|lane| region.queue(*lane).used() == 0);
        let quiet = waits.iter().all(|one| region.statistic(*one) == 0);
        rings
            && notifications_taken
            && quiet
            && self.engine.is_some()
            && !self.queue.iter().any(|Reverse((_, _, what))| what.is_of_parties())
    }

    pub fn unfinished(&self) -> String {
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
        if self.shared.is_none() {
            self.stop()?;
        }
        if let Some(wrong) = self.violations.first().or(self.network.borrow().violations.first()) {
            return Err(wrong.clone());
        }
        self.check_pages()?;
        self.check_chats()?;
        self.check_messages()?;
        if self.shared.is_none() {
            self.check_money()?;
        }
        if let Some(wrong) = self.network.borrow().missing_effect() {
            return Err(wrong);
        }
        self.check_verdicts()?;
        self.check_legs()?;
        self.take_records()?;
        self.check_records()?;
        self.check_merged()
    }

    /// The BYE of one of two dialogs ends no session.
    fn check_legs(&self) -> Result<(), String> {
        let sql = "SELECT count(*) FROM steps p JOIN sessions s ON p.session=s.id \
                   WHERE s.call_id=?1 AND p.step='closed' AND p.rule IN ('bye', 'ended')";
        for call in self.half_ended.iter().map(|number| &self.calls[*number]) {
            let ends: i64 = self.ledger().query_row(sql, [call.call_id()], |row| row.get(0)).expect("a view");
            if ends > 0 {
                return Err(format!("the session of call {} has ended, but only one of its dialogs had", call.number));
            }
        }
        Ok(())
    }

    /// No session handles the end of an INVITE that was merged.
    fn check_merged(&self) -> Result<(), String> {
        let sql = "SELECT count(*) FROM steps WHERE step='invite-failed' AND code=?1";
        match self.ledger().query_row(sql, [MERGED], |row| row.get::<_, i64>(0)).expect("a view") {
            0 => Ok(()),
            some => Err(format!("{some} sessions were ended by the end of another INVITE")),
        }
    }

    /// Each accepted INVITE has one verdict, if its host lives long enough.
    fn check_verdicts(&self) -> Result<(), String> {
        for call in &self.calls {
            let lives = call.taken_by == Some(self.region().instance());
            if call.verdicts > 1 || (lives && call.verdicts == 0) {
                return Err(format!("call {} has {} verdicts", call.number, call.verdicts));
            }
        }
        Ok(())
    }

    /// All content that has passed to the client is debited, octet by octet, and nothing else.
    fn check_messages(&mut self) -> Result<(), String> {
        let ledger = self.ledger();
        let count =
            |sql: &str, of: (&str, &str)| -> u64 { ledger.query_row(sql, of, |row| row.get(0)).expect("a number") };
        for call in &self.calls {
            let call_id = call.call_id();
            for (id, delivery) in &call.delivered {
                let of = (call_id.as_str(), id.as_str());
                let of_message = "FROM debits WHERE call_id=?1 AND message_id=?2";
                let standing = |what: &str| format!("SELECT {what} {of_message} AND refunded_at IS NULL");
                let debits = count(&format!("SELECT count(*) {of_message}"), of);
                let refunds = count(&format!("SELECT count(refunded_at) {of_message}"), of);
                let octets = count(&standing("coalesce(sum(octets), 0)"), of);
                let units = count(&standing("coalesce(sum(units), 0)"), of);
                // A debit whose reservation was lost, on an account without credit, or one without a reservation.
                let refused = "SELECT count(*) FROM undebited WHERE call_id=?1 AND message_id=?2 AND rule='no-credit'";
                let may_be_short = self.is_short || was_granted_uncovered(&ledger, call.session());
                let is_refused = may_be_short && count(refused, of) > 0;
                let is_given_back = self.config.policy.cases.report == Settle::Release && call.reported.contains(id);
                if !is_given_back && refunds > 0 {
                    return Err(format!("call {} message {id} was refunded without a reason", call.number));
                }
                let mut payable = delivery.payable();
                // Every answer may be lost, and then the time-out decides; but not after a success in time.
                let cases = &self.config.policy.cases;
                let is_refused_by_client = call.is_refused(id) || call.reported.contains(id);
                let may_be_refused = cases.client_error == Settle::Release && is_refused_by_client;
                let response_timeout = u64::from(self.config.policy.response_timeout) * SECOND;
                let is_confirmed = !self.is_short && call.is_confirmed(id, response_timeout);
                let may_be_released = may_be_refused || cases.timeout == Settle::Release && !is_confirmed;
                if is_refused || is_given_back || may_be_released {
                    payable.min = 0;
                }
                let tariff = self.tariff_of(call, id);
                let price = |octets: u64| price_of(tariff, octets);
                let is_paid = (price(payable.min)..=price(payable.max)).contains(&units);
                let is_true = octets <= payable.max && (debits == refunds || octets > 0) && units == price(octets);
                if !is_paid || !is_true {
                    return Err(format!(
                        "call {} message {id}: {units} units for {octets} octets in {debits} debits at {tariff}, and \
                         {payable:?} have passed: {delivery:?}",
                        call.number
                    ));
                }
                self.tally.debits += debits;
            }
        }
        let all: i64 = ledger.query_row("SELECT count(*) FROM debits", [], |row| row.get(0)).expect("a number");
        if all != self.tally.debits as i64 {
            return Err(format!("{all} debits, but {} of messages that have passed", self.tally.debits));
        }
        self.check_answered(&ledger)
    }

    /// Returns the tariff that applied to a message of a call.
    fn tariff_of(&self, call: &Call, id: &str) -> Tariff {
        let pinned = call.taken_by.and_then(|instance| self.tariffs.get(&instance));
        super::setup::tariff_of(pinned.unwrap_or(&self.config.tariffs), call.content_of(id).class())
    }

    /// A debit on a response is for the complete message.
    fn check_answered(&self, ledger: &rusqlite::Connection) -> Result<(), String> {
        let sql =
            "SELECT coalesce(max(octets), 0) FROM debits WHERE call_id=?1 AND message_id=?2 AND \"trigger\"='response'";
        for call in &self.calls {
            for (message, Message { chunks, octets: each, layout, content, .. }) in call.messages.iter().enumerate() {
                let of = (call.call_id(), call.message_id(message));
                let octets: u64 = ledger.query_row(sql, of, |row| row.get(0)).expect("a number");
                let has_gap = call.delivered.get(&call.message_id(message)).is_some_and(|delivery| delivery.has_gap);
                if !content.is_notification()
                    && *layout == Layout::InOrder
                    && !has_gap
                    && octets > 0
                    && octets < u64::from(chunks * each)
                {
                    return Err(format!(
                        "call {} message {message} of {chunks} times {each} octets is debited on its response, for {octets}",
                        call.number
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
        let network = self.network.borrow();
        let is_distant = self.config.enabler.capabilities.accounts != Accounts::InStore;
        for (name, created_with) in &self.balances {
            let initial = created_with + self.topped_up(name);
            // An OCS that counts octets rounds nothing.
            let counted = match (is_distant, self.config.unit) {
                (true, Unit::Octets) => "d.octets * max(s.recipients, 1)",
                _ => "d.units",
            };
            let debited = "FROM debits d JOIN sessions s ON d.session=s.id WHERE d.account=?1 AND refunded_at IS NULL";
            let debited = number(&format!("SELECT coalesce(sum({counted}), 0) {debited}"), name);
            let (balance, held, taken, limit) = match is_distant {
                true => {
                    let found = network.ocs.accounts.iter().find(|(known, _)| known == name);
                    let account = found.map(|(_, account)| *account).unwrap_or_default();
                    (account.balance, account.held, account.debited, 0)
                }
                false => {
                    let of = |column: &str| number(&format!("SELECT {column} FROM accounts WHERE id=?1"), name);
                    (of("balance"), of("held"), of("debited"), of("credit_limit"))
                }
            };
            if (held, taken, balance) != (0, debited, initial - debited) || balance < -limit {
                return Err(format!(
                    "{name} of {initial}: balance {balance}, held {held}, debited {taken}, the history says {debited} \
                     ({:?})",
                    self.config.tariffs
                ));
            }
        }
        let holds: i64 = ledger.query_row("SELECT count(*) FROM holds", [], |row| row.get(0)).expect("a table");
        match holds {
            0 => self.check_history(),
            holds => Err(format!("{holds} holds are left")),
        }
    }
}

/// Whether a session was granted something while no enabler answered: other sessions may hold all credit when it is debited.
pub(super) fn was_granted_uncovered(ledger: &rusqlite::Connection, session: SessionKey) -> bool {
    let sql = "SELECT count(*) FROM steps p JOIN sessions s ON p.session=s.id \
               WHERE s.key=?1 AND p.rule='on_failure=grant'";
    let count: i64 = ledger.query_row(sql, [session.to_string()], |row| row.get(0)).expect("a view");
    count > 0
}

/// Returns the price of a message's octets; 0 if none has passed.
pub(super) fn price_of(tariff: Tariff, octets: u64) -> u64 {
    u64::from(tariff.message) * u64::from(octets > 0) + u64::from(tariff.kilobyte) * octets.div_ceil(1024)
}
