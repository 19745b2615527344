//! The embedded ledger: a Charging Enabler in the engine's own store, for those who have no Online Charging
//! System. Every answer is part of the commit that asked, so a request is never lost between the two.
//!
//! For every account, balance + held + debited is conserved by every operation here. All sums are checked; no
//! operation takes the balance below zero.

use crate::charge::ch2::{Denial, Operation, Request, Reservation, Response};
use crate::charge::tariff::{Quota, Units};
use serde::{Deserialize, Serialize};

/// What an account has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// What can still be used.
    pub balance: i64,
    /// Reserved and not yet used.
    pub held: i64,
    /// All that was ever used.
    pub debited: i64,
}

impl Account {
    /// What can be reserved now.
    fn available(&self) -> i64 {
        self.balance.max(0)
    }
}

/// Where accounts and holds are kept. A session is named by its row.
pub trait Accounts {
    /// Why they cannot be read.
    type Error;
    /// An account.
    fn account(&self, id: &str) -> Result<Option<Account>, Self::Error>;
    /// Writes an account, new or old.
    fn put_account(&mut self, id: &str, account: Account);
    /// What this debit of a message has taken and was not given back yet.
    fn charged(&self, session: i64, message_id: &str, part: u32) -> Result<Option<i64>, Self::Error>;
    /// Units that a session holds of its account.
    fn held(&self, session: i64) -> Result<i64, Self::Error>;
    /// Sets the units that a session holds of its account.
    fn put_held(&mut self, session: i64, units: i64);
}

/// The ledger over accounts.
pub struct Ledger<'a, A> {
    accounts: &'a mut A,
    /// What an unknown subscriber starts with; `None`: is denied.
    default_balance: Option<i64>,
}

impl<'a, A: Accounts> Ledger<'a, A> {
    /// Over these accounts.
    pub fn over(accounts: &'a mut A, default_balance: Option<i64>) -> Ledger<'a, A> {
        Ledger { accounts, default_balance }
    }

    /// Answers one request. `session` is its row in the store. The second value is what a debit took.
    pub fn answer(&mut self, request: &Request, session: i64) -> Result<(Response, Units), A::Error> {
        let id = request.account.as_str();
        let Some(mut account) = self.account_or_default(id)? else {
            return Ok((Response::Denied(Denial::UnknownSubscriber), Units(0)));
        };
        let held = self.accounts.held(session)?;
        let mut charged = 0;
        let response = match &request.operation {
            Operation::Reserve { quota } => {
                let granted = affordable(&account, *quota, request.tariff.price_of(Quota(1)));
                if granted.0 == 0 && quota.0 > 0 {
                    return Ok((Response::Denied(Denial::NoCredit), Units(0)));
                }
                let units = signed(request.tariff.price_of(granted));
                account.balance -= units;
                account.held += units;
                self.accounts.put_held(session, held + units);
                Response::granted(granted, Some(account.balance))
            }
            Operation::Debit { units, .. } => {
                // The hold of a session is that of all its reservations.
                let from_hold = signed(*units).min(held);
                // Beyond the hold only where credit was given without one. A debit is of the whole price, or refused.
                let from_balance = signed(*units) - from_hold;
                if from_balance > account.available() {
                    return Ok((Response::Denied(Denial::NoCredit), Units(0)));
                }
                account.held -= from_hold;
                account.balance -= from_balance;
                charged = from_hold + from_balance;
                account.debited = account.debited.saturating_add(charged);
                let ended = matches!(request.reservation, Reservation::Last { .. });
                let left = held - from_hold;
                let given_back = if ended { (reserved(request) - from_hold).clamp(0, left) } else { 0 };
                account.held -= given_back;
                account.balance += given_back;
                if from_hold > 0 || given_back > 0 {
                    self.accounts.put_held(session, left - given_back);
                }
                Response::Debited { balance: Some(account.balance), ended, rest: None }
            }
            Operation::Refund { message_id, part, .. } => {
                let charged = self.accounts.charged(session, message_id, *part)?.unwrap_or(0);
                account.balance = account.balance.saturating_add(charged);
                account.debited -= charged;
                Response::Refunded { balance: Some(account.balance) }
            }
            Operation::Release => {
                let given_back = reserved(request).min(held);
                account.held -= given_back;
                account.balance += given_back;
                self.accounts.put_held(session, held - given_back);
                Response::Released { balance: Some(account.balance) }
            }
        };
        self.accounts.put_account(id, account);
        Ok((response, Units(u64::try_from(charged).unwrap_or(0))))
    }

    /// A message that is debited already will not be a second time: what is reserved for it is given back.
    pub fn debit_none(&mut self, request: &Request, session: i64) -> Result<(), A::Error> {
        let Operation::Debit { units, .. } = &request.operation else { return Ok(()) };
        let held = self.accounts.held(session)?;
        let given_back = signed(*units).min(held);
        let Some(mut account) = self.accounts.account(request.account.as_str())?.filter(|_| given_back > 0) else {
            return Ok(());
        };
        account.held -= given_back;
        account.balance += given_back;
        self.accounts.put_held(session, held - given_back);
        self.accounts.put_account(request.account.as_str(), account);
        Ok(())
    }

    fn account_or_default(&self, id: &str) -> Result<Option<Account>, A::Error> {
        let fresh = self.default_balance.map(|balance| Account { balance, ..Account::default() });
        Ok(self.accounts.account(id)?.or(fresh))
    }
}

/// What the reservation of a request holds before it, in units of the account.
fn reserved(request: &Request) -> i64 {
    signed(request.tariff.price_of(request.reservation.outstanding()))
}

/// How much of `wanted` the account can pay for.
fn affordable(account: &Account, wanted: Quota, price: Units) -> Quota {
    let payable = account.available() / signed(price).max(1);
    Quota(wanted.0.min(u32::try_from(payable).unwrap_or(u32::MAX)))
}

/// Units as the accounts keep them.
fn signed(units: Units) -> i64 {
    i64::try_from(units.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
