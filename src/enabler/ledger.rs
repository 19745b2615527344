//! The embedded ledger: a prepaid Charging Enabler whose accounts are in the engine's store, for operators without an
//! Online Charging System. Each answer is committed in the same journal record as the session's state.
//!
//! Each operation conserves balance + held + debited of the account. All sums are checked; the balance never falls below
//! minus the credit limit.

use super::{Account, AccountUpdate, Accounts, Binding, Capabilities, Enabler, Funds, InTick, Settings};
use crate::charge::ch2::{Denial, Failure, Operation, Request, Reservation, Response};
use crate::charge::tariff::{Quota, Units};

/// The row of [`super::BINDINGS`].
pub const BINDING: Binding = Binding {
    name: "ledger",
    capabilities: Capabilities {
        accounts: Accounts::InStore,
        debits_without_reservation: false,
        limits_retries: false,
        needs_end_to_end_id: false,
        shares_sessions: false,
        has_connections: false,
    },
    status_fields: &[],
    answer_seconds: |_| COMMIT_SECONDS,
    check: |_| Ok(()),
    check_files: |_| Ok(()),
    session_id: |_, _, _| None,
    new: |settings, _, _| Ok(Box::new(Ledger::new(settings))),
    account_queries: None,
};

/// A commit that waits for a slow disk takes no longer.
const COMMIT_SECONDS: u32 = 10;

/// The rules of the ledger.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// Initial balance of an unknown subscriber; `None`: unknown subscribers are denied.
    default_balance: Option<i64>,
}

impl Ledger {
    fn new(settings: &Settings<'_>) -> Ledger {
        Ledger { default_balance: settings.default_balance }
    }
}

impl Enabler for Ledger {
    fn in_tick(&self) -> Option<&dyn InTick> {
        Some(self)
    }
}

impl InTick for Ledger {
    fn execute(&self, request: &Request, funds: &Funds) -> AccountUpdate {
        let created = match (funds.account, &request.operation) {
            (None, Operation::Reserve { .. } | Operation::Debit { .. }) => self.default_balance.map(Account::new),
            _ => None,
        };
        let Some(account) = funds.account.or(created) else { return without_account(request) };
        let account = SessionAccount { account, held: funds.held, created };
        let update = match &request.operation {
            Operation::Reserve { quota } => account.reserve(request, *quota),
            Operation::Debit { units, .. } => account.debit(request, *units),
            Operation::Refund { .. } => account.refund(funds.charged),
            Operation::Release => account.release(request),
        };
        update.unwrap_or_else(|| overflow(request))
    }

    fn release_for_known_debit(&self, request: &Request, funds: &Funds) -> AccountUpdate {
        let debited = unchanged(Response::debited(None));
        let (Operation::Debit { units, .. }, Some(account)) = (&request.operation, funds.account) else {
            return debited;
        };
        let released = signed(*units).min(funds.held);
        if released <= 0 {
            return debited;
        }
        let released = SessionAccount { account, held: funds.held, created: None }.give_back(released);
        match released {
            Some(after) => AccountUpdate { account: Some(after.account), held: Some(after.held), ..debited },
            None => overflow(request),
        }
    }
}

/// An account and the part of its held units that is the session's, while a request is executed. Every method returns
/// `None` if a sum overflows.
#[derive(Clone, Copy)]
struct SessionAccount {
    account: Account,
    held: i64,
    /// The account before the request, if it is created for it.
    created: Option<Account>,
}

impl SessionAccount {
    /// Reserves as much of `quota` as the account can pay for. Denied if that is nothing.
    fn reserve(self, request: &Request, quota: Quota) -> Option<AccountUpdate> {
        let granted = affordable(self.account.available()?, quota, request.measure.price_of(Quota(1)));
        if granted.0 == 0 && quota.0 > 0 {
            return Some(refused(Denial::NoCredit));
        }
        let units = signed(request.measure.price_of(granted));
        let after = self.hold(units)?;
        after.into_update(Response::granted(granted, Some(after.account.balance)), 0, true)
    }

    /// Debits the whole price or denies it. The units come out of what the session holds, for all its reservations
    /// together, and then out of the balance: a session that was let in by `on_failure=grant` holds less than it uses.
    fn debit(self, request: &Request, price: Units) -> Option<AccountUpdate> {
        let price = signed(price);
        let from_hold = price.min(self.held);
        let from_balance = price.checked_sub(from_hold)?;
        if from_balance > self.account.available()? {
            return Some(refused(Denial::NoCredit));
        }
        let mut after = self;
        after.held = after.held.checked_sub(from_hold)?;
        after.account.held = after.account.held.checked_sub(from_hold)?;
        after.account.balance = after.account.balance.checked_sub(from_balance)?;
        after.account.debited = after.account.debited.checked_add(price)?;
        let ended = matches!(request.reservation, Reservation::Last { .. });
        let rest = if ended { reserved(request).checked_sub(from_hold)?.clamp(0, after.held) } else { 0 };
        let after = after.give_back(rest)?;
        let response = Response::Debited { balance: Some(after.account.balance), ended, rest: None };
        after.into_update(response, price.checked_neg()?, from_hold > 0 || rest > 0)
    }

    /// Returns the units of an earlier debit to the balance.
    fn refund(self, charged: i64) -> Option<AccountUpdate> {
        let mut after = self;
        after.account.balance = after.account.balance.checked_add(charged)?;
        after.account.debited = after.account.debited.checked_sub(charged)?;
        after.into_update(Response::Refunded { balance: Some(after.account.balance) }, charged, false)
    }

    /// Ends a reservation: its units return to the balance.
    fn release(self, request: &Request) -> Option<AccountUpdate> {
        let after = self.give_back(reserved(request).min(self.held))?;
        after.into_update(Response::Released { balance: Some(after.account.balance) }, 0, true)
    }

    /// Moves units from the balance to the hold.
    fn hold(mut self, units: i64) -> Option<SessionAccount> {
        self.account.balance = self.account.balance.checked_sub(units)?;
        self.account.held = self.account.held.checked_add(units)?;
        self.held = self.held.checked_add(units)?;
        Some(self)
    }

    /// Moves units from the hold to the balance.
    fn give_back(mut self, units: i64) -> Option<SessionAccount> {
        self.held = self.held.checked_sub(units)?;
        self.account.held = self.account.held.checked_sub(units)?;
        self.account.balance = self.account.balance.checked_add(units)?;
        Some(self)
    }

    /// `amount`: negative for a debit, positive for a refund.
    fn into_update(self, response: Response, amount: i64, hold_changes: bool) -> Option<AccountUpdate> {
        self.account.left()?;
        Some(AccountUpdate {
            response,
            charged: Units(amount.min(0).unsigned_abs()),
            account: Some(self.account),
            amount,
            created: self.created,
            held: hold_changes.then_some(self.held),
        })
    }
}

fn unchanged(response: Response) -> AccountUpdate {
    AccountUpdate { response, charged: Units(0), account: None, amount: 0, created: None, held: None }
}

/// Nothing is held of an account that was removed.
fn without_account(request: &Request) -> AccountUpdate {
    match &request.operation {
        Operation::Release => unchanged(Response::Released { balance: None }),
        Operation::Reserve { .. } | Operation::Debit { .. } | Operation::Refund { .. } => {
            refused(Denial::UnknownSubscriber)
        }
    }
}

fn refused(denial: Denial) -> AccountUpdate {
    unchanged(Response::Denied(denial))
}

/// No account comes near the end of the integers unless its row was edited by hand.
fn overflow(request: &Request) -> AccountUpdate {
    let account = request.account.as_str();
    log::error!(
        "account {account}: a sum of balance, held, debited and limit exceeds 64 bits, so its request is refused; \
         correct the balance with account.set"
    );
    unchanged(Response::Failed(Failure::Enabler))
}

/// Units that the reservation of a request holds before the request.
fn reserved(request: &Request) -> i64 {
    signed(request.measure.price_of(request.reservation.outstanding()))
}

/// How much of `wanted` the available units pay for.
fn affordable(available: i64, wanted: Quota, price: Units) -> Quota {
    let payable = available / signed(price).max(1);
    Quota(wanted.0.min(u32::try_from(payable).unwrap_or(u32::MAX)))
}

/// Units as the accounts count them; a price beyond the range is more than any account has.
fn signed(units: Units) -> i64 {
    i64::try_from(units.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
