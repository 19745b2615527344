//! Accounts of the ledger: what operators do with them, and the rules for their history.

use super::{FAULT_PERIOD, SECOND, Step, World};
use imcharge::enabler::{Account, Accounts, LowBalance};
use imcharge::shm::record::{AccountChange, Command};
use std::collections::BTreeMap;

/// A top-up that operators repeat until the end of the run. It counts once.
pub struct TopUp {
    pub account: String,
    pub amount: i64,
    pub reference: String,
}

/// Queries that count what must not exist in the history of accounts.
const RULES: [(&str, &str); 5] = [
    (
        "changes do not continue the ones before them",
        "SELECT count(*) FROM (SELECT balance + held - amount AS start, \
         coalesce(lag(balance + held) OVER (PARTITION BY account ORDER BY id), 0) AS end FROM balance_changes) \
         WHERE start<>end",
    ),
    (
        "accounts differ from their last change",
        "SELECT count(*) FROM accounts a WHERE balance + held<>coalesce( \
         (SELECT balance + held FROM balance_changes WHERE account=a.id ORDER BY id DESC LIMIT 1), 0)",
    ),
    (
        "accounts differ from the sum of their recorded changes",
        "SELECT count(*) FROM accounts a WHERE balance + held + debited<>( \
         SELECT coalesce(sum(amount), 0) FROM balance_changes WHERE account=a.id AND session IS NULL)",
    ),
    (
        "sessions differ from their debits and refunds in the history",
        "SELECT count(*) FROM sessions s WHERE \
         (SELECT coalesce(sum(units), 0) FROM debits WHERE session=s.id AND refunded_at IS NULL)<>-( \
         SELECT coalesce(sum(amount), 0) FROM balance_changes WHERE session=s.id)",
    ),
    (
        "changes leave a balance below minus the credit limit",
        "SELECT count(*) FROM balance_changes WHERE balance<-credit_limit",
    ),
];

impl World<'_> {
    /// Whether the ledger keeps the accounts.
    pub(super) fn keeps_accounts(&self) -> bool {
        self.config.enabler.capabilities.accounts == Accounts::InStore
    }

    /// Creates the accounts in the ledger, some with a credit limit.
    pub(super) fn create_accounts(&mut self) {
        imcharge::engine::store::Store::check(&self.config.state_dir).expect("a new ledger");
        let ledger = self.local_ledger();
        for (name, balance) in &self.balances {
            let limit = if self.random.bool() { self.random.i64(0..40) } else { 0 };
            let account = Account { limit, full: balance + limit, ..Account::new(*balance) };
            let is_low = self.config.low_balance.is_some_and(|low_balance| low_balance.is_reached(&account));
            let sql = "INSERT INTO accounts(id, balance, credit_limit, full_units, is_low) VALUES(?1, ?2, ?3, ?4, ?5)";
            ledger.execute(sql, (name, balance, limit, account.full, is_low)).expect("an account");
            let sql = "INSERT INTO balance_changes(at, account, kind, amount, reference, by, balance, held, credit_limit) \
                       VALUES(0, ?1, 'set', ?2, '', 'operator', ?2, 0, ?3)";
            ledger.execute(sql, (name, balance, limit)).expect("a change");
        }
    }

    /// Plans top-ups at any time. Each is sent once more after the faults, because its command may be lost with the power.
    pub(super) fn plan_top_ups(&mut self) {
        let has_accounts = self.keeps_accounts() || self.shared.is_some();
        let suffix = self.name_suffix();
        for number in 0..if has_accounts { self.random.usize(0..5) } else { 0 } {
            let account = self.random.choice(&self.balances).expect("there is one").0.clone();
            let reference = format!("payment-{number}{suffix}");
            self.top_ups.push(TopUp { account, amount: self.random.i64(1..30), reference });
            let first = self.random.u64(0..FAULT_PERIOD);
            self.after(first, Step::TopUp(number));
            self.after(FAULT_PERIOD + SECOND, Step::TopUp(number));
        }
    }

    /// Sends the command of a top-up, and perhaps again.
    pub(super) fn top_up(&mut self, number: usize) {
        let TopUp { account, amount, reference } = &self.top_ups[number];
        let (account, change, reference) = (account.clone(), AccountChange::Add(*amount), reference.clone());
        let moved_at = self.calls[0].moved_at;
        let ordered = self.hook(0, |worker, _| {
            worker.order(Command::Account { account: &account, change, reference: &reference, by: "operator" })
        });
        self.calls[0].moved_at = moved_at;
        match ordered {
            Some((_, Some(_))) if self.random.u8(0..3) > 0 && !self.must_repeat(number) => {}
            // It was not answered in time, the ring is full, or there is no host.
            _ => self.within(5 * SECOND, Step::TopUp(number)),
        }
    }

    /// Returns the units that operators have added to an account.
    pub(super) fn topped_up(&self, account: &str) -> i64 {
        self.top_ups.iter().filter(|top_up| top_up.account == account).map(|top_up| top_up.amount).sum()
    }

    /// The history of every account is complete, and its sums are those of the account.
    pub(super) fn check_history(&self) -> Result<(), String> {
        if !self.keeps_accounts() {
            return Ok(());
        }
        let ledger = self.ledger();
        for (what, sql) in RULES {
            let count: i64 = ledger.query_row(sql, [], |row| row.get(0)).expect("a number");
            if count != 0 {
                return Err(format!("{count} {what}"));
            }
        }
        for TopUp { account, amount, reference } in &self.top_ups {
            let sql = "SELECT count(*), sum(amount) FROM balance_changes WHERE account=?1 AND reference=?2";
            let found = ledger.query_row(sql, (account, reference), |row| row.try_into());
            let found: (i64, Option<i64>) = found.expect("numbers");
            if found != (1, Some(*amount)) {
                return Err(format!("{account}: top-up {reference} of {amount} is in the history as {found:?}"));
            }
        }
        self.check_low_balances(&ledger)
    }

    /// The low-balance event is raised once for each crossing. Events are lost with their host, and a crossing with the
    /// power.
    fn check_low_balances(&self, ledger: &rusqlite::Connection) -> Result<(), String> {
        let Some(low_balance) = self.config.low_balance else { return Ok(()) };
        let crossings = crossings(ledger, low_balance);
        let raised = self.low_balances;
        let is_right = match (self.has_left_host, self.has_lost_power) {
            (_, true) => true,
            (true, false) => raised <= crossings,
            (false, false) => raised == crossings,
        };
        match is_right {
            true => Ok(()),
            false => Err(format!("{raised} low-balance events for {crossings} crossings of {low_balance}")),
        }
    }
}

/// Counts in the history how often an account has fallen to the threshold.
fn crossings(ledger: &rusqlite::Connection, low_balance: LowBalance) -> u64 {
    let sql = "SELECT account, kind, amount, balance, held, credit_limit FROM balance_changes ORDER BY id";
    let mut statement = ledger.prepare(sql).expect("a table");
    let mut rows = statement.query([]).expect("rows");
    let (mut accounts, mut count) = (BTreeMap::<String, (i64, bool)>::new(), 0);
    while let Some(row) = rows.next().expect("a row") {
        let row: (String, String, i64, i64, i64, i64) = row.try_into().expect("the columns");
        let (account, kind, amount, balance, held, limit) = row;
        let left = balance + held + limit;
        let is_top_up = kind == "set" || (kind == "add" && amount > 0);
        let before = accounts.get(&account).copied();
        let full = before.filter(|_| !is_top_up).map_or(left, |(full, _)| full);
        let is_low = match low_balance {
            LowBalance::Units(units) => left <= units,
            LowBalance::Percent(percent) => left * 100 <= full * percent,
        };
        count += u64::from(is_low && before.is_some_and(|(_, was_low)| !was_low));
        accounts.insert(account, (full, is_low));
    }
    count
}
