//! SIP MESSAGEs: their parties, and the rules about them.

use super::checks::{price_of, was_granted_uncovered};
use super::setup::page_tariff_of;
use super::{Death, FAULT_PERIOD, PROCESSES, SECOND, Step, World};
use crate::page::{OTHER_PATH, OWN_PATH, Page};
use imcharge::charge::ch2::SessionKey;
use imcharge::charge::content::ContentClass;
use imcharge::charge::policy::Settle;
use imcharge::shm::notification::Outcome;
use imcharge::shm::record::Command;
use imcharge::simulate::machine::Crash;
use imcharge::worker::{PageOutcome, Worker};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Longest time from a verdict to the final response, in microseconds.
const ANSWER_MAX: u64 = 8 * SECOND;

impl World<'_> {
    pub(super) fn random_pages(&mut self) {
        let suffix = self.name_suffix();
        for number in 0..self.random.usize(0..8) {
            let random = &mut self.random;
            let outcome = match random.u8(0..10) {
                0 => None,
                1 => Some(PageOutcome::Unanswered),
                2 | 3 => Some(PageOutcome::Failed(480)),
                4 => Some(PageOutcome::Delivered(202)),
                _ => Some(PageOutcome::Delivered(200)),
            };
            self.pages.push(Page {
                number,
                suffix: suffix.clone(),
                account: random.choice(&self.balances).expect("there is one").0.clone(),
                octets: random.choice([1, 100, 1024, 1025, 3000]).expect("there is one"),
                class: random.choice(ContentClass::ALL).expect("there is one"),
                copies: if random.u8(0..4) == 0 { random.u32(2..5) } else { 1 },
                outcome,
                is_relayed: false,
                is_over: false,
                verdicts: 0,
                taken_by: None,
                reported: None,
                may_be_lost: false,
                moved_at: 0,
            });
            let at = self.random.u64(0..FAULT_PERIOD * 2 / 3);
            self.after(at, Step::Message(number));
            match self.random.u8(0..8) {
                // Its transaction times out, perhaps before its verdict.
                0 => self.after(at + self.random_up_to(SECOND), Step::MessageTimesOut(number)),
                1 => self.after(at + self.random_up_to(2 * SECOND), Step::MessageCopy(number)),
                _ => {}
            }
        }
    }

    /// Calls a hook of a random worker. `None`: there is no host, or it has just died.
    fn page_hook<R>(&mut self, number: usize, work: impl FnOnce(&mut Worker, &Page) -> R) -> Option<R> {
        self.region.as_ref()?;
        let process = self.random.usize(0..PROCESSES);
        let (worker, page) = (&mut self.workers[process], &self.pages[number]);
        match catch_unwind(AssertUnwindSafe(|| work(worker, page))) {
            Ok(result) => {
                self.pages[number].moved_at = self.machine.clock.get();
                Some(result)
            }
            Err(panic) if panic.is::<Crash>() => {
                // If a worker dies, the whole host does.
                self.die(if self.next_death == Death::Engine { Death::Host } else { self.next_death });
                None
            }
            Err(panic) => resume_unwind(panic),
        }
    }

    pub(super) fn message(&mut self, number: usize) {
        if self.pages[number].is_over {
            return;
        }
        let instance = self.region.as_ref().map(|region| region.instance());
        let taken = self.page_hook(number, |worker, page| page.reserve(worker, OWN_PATH));
        let page = &mut self.pages[number];
        match taken {
            Some(true) => page.taken_by = instance,
            // A worker that dies in the hook may have written the record.
            None => (page.taken_by, page.is_over, page.may_be_lost) = (instance, true, true),
            Some(false) => page.is_over = true,
        }
    }

    /// A copy of the MESSAGE arrives by another path.
    pub(super) fn message_copy(&mut self, number: usize) {
        if self.pages[number].taken_by.is_some() && !self.pages[number].is_over {
            self.page_hook(number, |worker, page| page.reserve(worker, OTHER_PATH));
        }
    }

    pub(super) fn on_page_verdict(&mut self, number: usize, path: u64, result: Outcome) {
        if path == OTHER_PATH {
            self.within(SECOND, Step::MessageCopyEnds(number));
            return;
        }
        let page = &mut self.pages[number];
        page.verdicts += 1;
        if page.is_over {
            return;
        }
        if result == Outcome::Granted {
            page.is_relayed = true;
            if page.outcome.is_some() {
                self.within(ANSWER_MAX, Step::MessageEnds(number));
            }
        } else {
            self.report_page(number, PageOutcome::Failed(402));
        }
    }

    /// The final response, and sometimes a copy of it.
    pub(super) fn message_ends(&mut self, number: usize) {
        let page = &self.pages[number];
        if let Some(outcome) = page.outcome.filter(|_| !page.is_over) {
            self.report_page(number, outcome);
        }
    }

    /// Its transaction ends before its verdict: it is not relayed any more.
    pub(super) fn message_times_out(&mut self, number: usize) {
        let page = &self.pages[number];
        if page.taken_by.is_some() && !page.is_relayed && !page.is_over {
            self.report_page(number, PageOutcome::Failed(408));
        }
    }

    /// The copy is refused on its own path, which ends nothing.
    pub(super) fn message_copy_ends(&mut self, number: usize) {
        self.page_hook(number, |worker, page| {
            worker.page_ended(page.session(), Some(page.transaction(OTHER_PATH)), PageOutcome::Failed(482))
        });
    }

    /// Reports an outcome. If the ring is full, the end of the transaction reports it again.
    fn report_page(&mut self, number: usize, outcome: PageOutcome) {
        let reported = self.page_hook(number, |worker, page| {
            worker.page_ended(page.session(), Some(page.transaction(OWN_PATH)), outcome)
        });
        match reported {
            Some(true) => {
                let page = &mut self.pages[number];
                page.is_over = true;
                page.reported.get_or_insert(outcome);
            }
            Some(false) => {
                self.pages[number].outcome = Some(outcome);
                self.after(SECOND, Step::MessageEnds(number));
            }
            None => self.pages[number].may_be_lost = true,
        }
    }

    /// An operator resends what is held back, for some of the unsettled MESSAGEs.
    pub(super) fn operate_pages(&mut self, unsettled: &[SessionKey]) {
        for number in 0..self.pages.len() {
            let (call_id, session, moved_at) = {
                let page = &self.pages[number];
                (page.call_id(), page.session(), page.moved_at)
            };
            if unsettled.contains(&session) && self.random.bool() {
                self.network.borrow_mut().allow_resend(session);
                self.page_hook(number, |worker, _| worker.order(Command::Resolve { call_id: &call_id, again: true }));
                self.pages[number].moved_at = moved_at;
            }
        }
    }

    /// The transactions of a host end with it.
    pub(super) fn leave_pages(&mut self) {
        let begun = |page: &Page| page.taken_by.is_some();
        self.pages.iter_mut().filter(|page| begun(page)).for_each(|page| page.is_over = true);
    }

    /// The machine has lost its memory: records that were not read are lost, and sessions that were not synced.
    pub(super) fn lose_pages(&mut self) {
        self.pages.iter_mut().filter(|page| page.taken_by.is_some()).for_each(|page| page.may_be_lost = true);
    }

    /// Each MESSAGE is charged by its first outcome, to the last unit.
    pub(super) fn check_pages(&mut self) -> Result<(), String> {
        let ledger = self.ledger();
        let number = |sql: &str, of: &str| -> u64 { ledger.query_row(sql, [of], |row| row.get(0)).expect("a number") };
        let policy = self.config.policy;
        for page in &self.pages {
            let call_id = page.call_id();
            let debits = number("SELECT count(*) FROM debits WHERE call_id=?1", &call_id);
            let charged = "FROM debits WHERE call_id=?1 AND refunded_at IS NULL";
            let count = number(&format!("SELECT count(*) {charged}"), &call_id);
            let units = number(&format!("SELECT coalesce(sum(units), 0) {charged}"), &call_id);
            let refused = "SELECT count(*) FROM undebited WHERE call_id=?1 AND rule='no-credit'";
            let may_be_short = self.is_short || was_granted_uncovered(&ledger, page.session());
            let is_refused = may_be_short && number(refused, &call_id) > 0;
            let was_silent = "SELECT count(*) FROM steps p JOIN sessions s ON p.session=s.id \
                              WHERE s.call_id=?1 AND p.step IN ('idle', 'host-stopped', 'taken-over', 'adopted')";
            let was_silent = number(was_silent, &call_id) > 0;
            let (min, max) = page_debits(page, policy.message_timeout, policy.accepted, was_silent);
            let min = if is_refused { 0 } else { min };
            let tariffs = page.taken_by.and_then(|instance| self.tariffs.get(&instance));
            let tariff = tariffs.map(|tariffs| page_tariff_of(tariffs, page.class));
            let price = tariff.map_or(0, |tariff| price_of(tariff, page.octets) * u64::from(page.copies));
            if !(min..=max).contains(&count) || units != count * price {
                return Err(format!(
                    "{page:?}: {count} debits of {units} units at a price of {price}, not {min} to {max}"
                ));
            }
            let lives = page.taken_by == Some(self.region().instance()) && !page.may_be_lost;
            if page.verdicts > 1 || (lives && page.verdicts == 0) {
                return Err(format!("{page:?}: {} verdicts", page.verdicts));
            }
            self.tally.debits += debits;
            self.tally.pages += 1;
        }
        Ok(())
    }

    /// Descriptions of the MESSAGEs that hold credit for longer than their time-out.
    pub(super) fn overdue_pages(&self, unsettled: &[SessionKey], since: u64, now: u64) -> Vec<String> {
        let overdue = |page: &&Page| now > since.max(page.moved_at) + self.longest_hold();
        let pages = self.pages.iter().filter(|page| unsettled.contains(&page.session())).filter(overdue);
        pages.map(|page| format!("{page:?} holds credit too long")).collect()
    }
}

/// Returns how many debits of a MESSAGE may stand at the end: least and most.
fn page_debits(page: &Page, silent: Settle, accepted: Settle, was_silent: bool) -> (u64, u64) {
    let by = |settle: Settle| u64::from(settle == Settle::Debit);
    let silence = by(silent);
    if page.taken_by.is_none() {
        return (0, 0);
    }
    let (min, max) = match page.reported {
        Some(PageOutcome::Delivered(202)) => (by(accepted), by(accepted)),
        Some(PageOutcome::Delivered(_)) => (1, 1),
        Some(PageOutcome::Failed(_)) => (0, 0),
        Some(PageOutcome::Unanswered) => (silence, silence),
        // Never relayed, but perhaps granted when the host died.
        None if !page.is_relayed => (0, silence),
        None => (silence, silence),
    };
    match (page.may_be_lost, was_silent) {
        // What was lost is unknown, and an outcome may have been written by a worker that died.
        (true, _) => (0, 1),
        // The silence was decided before the outcome was read.
        (false, true) => (min.min(silence), max.max(silence)),
        (false, false) => (min, max),
    }
}
