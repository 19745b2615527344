//! The embedded ledger: a Charging Enabler in the engine's own store, for those who have no Online Charging
//! System. Every answer is part of the batch that asked, so a request is never lost between the two.
//!
//! For every account, balance + held + debited is conserved by every operation here. All sums are checked;
//! the balance never goes below zero unless the account's limit says so.

use crate::charge::ch2::{Denial, Operation, Request, Response};
use crate::charge::tariff::{Quota, Units};
use rusqlite::{Connection, OptionalExtension, params};

/// What an account has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    /// What can still be used.
    pub balance: i64,
    /// Reserved and not yet used.
    pub held: i64,
    /// All that was ever used.
    pub debited: i64,
    /// How far below zero the balance may go.
    pub credit_limit: i64,
}

impl Account {
    /// What can be reserved now.
    fn available(&self) -> i64 {
        self.balance.saturating_add(self.credit_limit).max(0)
    }
}

/// The ledger over the transaction of a batch.
pub struct Ledger<'a> {
    connection: &'a Connection,
    /// What an unknown subscriber starts with; `None`: is denied.
    default_balance: Option<i64>,
}

impl<'a> Ledger<'a> {
    /// Over this transaction.
    pub fn over(connection: &'a Connection, default_balance: Option<i64>) -> Ledger<'a> {
        Ledger { connection, default_balance }
    }

    /// Answers one request. `row` is the session's number in the store, `expires_at` (UNIX milliseconds) when
    /// its hold ends by itself. The second value is what a debit really took.
    pub fn answer(&self, request: &Request, row: i64, expires_at: i64) -> rusqlite::Result<(Response, Units)> {
        let id = request.account.as_str();
        let Some(mut account) = self.account_or_default(id)? else {
            return Ok((Response::Denied(Denial::UnknownSubscriber), Units(0)));
        };
        let hold = self.hold(row)?;
        let mut charged = 0;
        let response = match &request.operation {
            Operation::Reserve { quota } => {
                let granted = affordable(&account, *quota, request.tariff.price_of(Quota(1)));
                if granted.0 == 0 {
                    return Ok((Response::Denied(Denial::NoCredit), Units(0)));
                }
                let units = signed(request.tariff.price_of(granted));
                account.balance -= units;
                account.held += units;
                self.set_hold(row, id, hold + units, expires_at)?;
                Response::Granted { quota: granted, balance: Some(account.balance) }
            }
            Operation::Debit { units, .. } => {
                let from_hold = signed(*units).min(hold);
                // Beyond the hold only where credit was given without one; never below the limit.
                let from_balance = (signed(*units) - from_hold).min(account.available());
                account.held -= from_hold;
                account.balance -= from_balance;
                charged = from_hold + from_balance;
                account.debited = account.debited.saturating_add(charged);
                if from_hold > 0 {
                    self.set_hold(row, id, hold - from_hold, expires_at)?;
                }
                Response::Debited { balance: Some(account.balance) }
            }
            Operation::Release => {
                account.held -= hold;
                account.balance += hold;
                self.connection.prepare_cached("DELETE FROM holds WHERE session=?1")?.execute([row])?;
                Response::Released { balance: Some(account.balance) }
            }
        };
        self.put(id, &account)?;
        Ok((response, Units(u64::try_from(charged).unwrap_or(0))))
    }

    /// An account.
    pub fn account(&self, id: &str) -> rusqlite::Result<Option<Account>> {
        let mut statement = self
            .connection
            .prepare_cached("SELECT balance, held, debited, credit_limit FROM accounts WHERE id=?1")?;
        statement
            .query_row([id], |row| {
                let (balance, held, debited, credit_limit) = row.try_into()?;
                Ok(Account { balance, held, debited, credit_limit })
            })
            .optional()
    }

    /// Writes an account, new or old.
    pub fn put(&self, id: &str, account: &Account) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO accounts(id, balance, held, debited, credit_limit) VALUES(?1, ?2, ?3, ?4, ?5) \
             ON CONFLICT(id) DO UPDATE SET balance=?2, held=?3, debited=?4, credit_limit=?5",
        )?;
        statement.execute(params![id, account.balance, account.held, account.debited, account.credit_limit])?;
        Ok(())
    }

    fn account_or_default(&self, id: &str) -> rusqlite::Result<Option<Account>> {
        let fresh = self.default_balance.map(|balance| Account { balance, held: 0, debited: 0, credit_limit: 0 });
        Ok(self.account(id)?.or(fresh))
    }

    fn hold(&self, row: i64) -> rusqlite::Result<i64> {
        let mut statement = self.connection.prepare_cached("SELECT units FROM holds WHERE session=?1")?;
        Ok(statement.query_row([row], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    fn set_hold(&self, row: i64, id: &str, units: i64, expires_at: i64) -> rusqlite::Result<()> {
        let mut statement = self.connection.prepare_cached(
            "INSERT INTO holds(session, account, units, expires_at) VALUES(?1, ?2, ?3, ?4) \
             ON CONFLICT(session) DO UPDATE SET units=?3, expires_at=?4",
        )?;
        statement.execute(params![row, id, units, expires_at])?;
        Ok(())
    }
}

/// How much of `wanted` the account can pay for.
fn affordable(account: &Account, wanted: Quota, price: Units) -> Quota {
    let payable = account.available() / signed(price).max(1);
    Quota(wanted.0.min(u32::try_from(payable).unwrap_or(u32::MAX)))
}

/// Units as SQLite keeps them.
fn signed(units: Units) -> i64 {
    i64::try_from(units.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
