//! Changes of accounts: the new values, the row in the history, and the low-balance event.

use super::entry::SessionEntry;
use super::notify::notify_low_balance;
use crate::charge::ch2::Operation;
use crate::enabler::{Account, AccountUpdate, Refusal};
use crate::engine::store::StoreError;
use crate::engine::store::change::{BalanceChange, BalanceKind, Change};
use crate::engine::tick::Tick;
use crate::shm::record::{AccountChange, CommandResult, Reply};
use crate::shm::statistic::Statistic;
use crate::simulate::{self, InjectedBug};

/// Who changes balances when no operator does.
const BY_IMCHARGE: &str = "imcharge";

/// An operator's command about an account.
pub(super) struct AccountCommand<'a> {
    pub id: &'a str,
    pub change: AccountChange,
    pub reference: &'a str,
    pub by: &'a str,
}

/// Executes a command about an account.
pub(super) fn change_account(tick: &mut Tick<'_>, command: &AccountCommand<'_>) -> Result<Reply, StoreError> {
    let AccountCommand { id, change, reference, by } = *command;
    if let AccountChange::Add(amount) = change
        && !simulate::is_injected(InjectedBug::ReferenceIgnored)
        && let Some((first, account)) = tick.store.added(id, reference)?
    {
        let is_same = first == amount;
        return Ok(reply(if is_same { CommandResult::Duplicate } else { CommandResult::ReferenceUsed }, account));
    }
    let found = tick.store.account(id)?;
    let before = match (found, change) {
        (Some(account), _) => account,
        (None, AccountChange::Set(_)) => Account::default(),
        (None, _) => return Ok(Reply::without_account(CommandResult::UnknownAccount)),
    };
    let (kind, after) = match change {
        AccountChange::Set(balance) => (BalanceKind::Set, before.with_balance(balance)),
        AccountChange::Add(amount) => (BalanceKind::Add, before.plus(amount)),
        AccountChange::Limit(limit) => (BalanceKind::Limit, before.with_limit(limit)),
        AccountChange::Remove => (BalanceKind::Remove, before.check_empty().map(|()| before)),
    };
    let after = match after {
        Ok(after) => after,
        Err(refusal) => return Ok(reply(refused(refusal), before)),
    };
    let Some(amount) = after.balance.checked_sub(before.balance) else {
        return Ok(reply(CommandResult::Overflow, before));
    };
    if kind == BalanceKind::Add && amount > 0 {
        tick.count(Statistic::TopUps);
    }
    let row = BalanceRow { kind, amount, reference, by, session: None };
    record(tick, id, found.as_ref(), after, row);
    Ok(reply(CommandResult::Done, after))
}

pub(super) fn refused(refusal: Refusal) -> CommandResult {
    match refusal {
        Refusal::AboveMaximum => CommandResult::AboveMaximum,
        Refusal::BelowLimit => CommandResult::BelowLimit,
        Refusal::Overflow => CommandResult::Overflow,
        Refusal::NotEmpty => CommandResult::NotEmpty,
    }
}

pub(super) fn reply(result: CommandResult, Account { balance, held, limit, .. }: Account) -> Reply {
    Reply { result, balance, held, limit }
}

/// Writes what a request of a session does to its account.
pub(super) fn write_account_update(
    tick: &mut Tick<'_>,
    entry: &SessionEntry,
    operation: &Operation,
    before: Option<Account>,
    update: &AccountUpdate,
) {
    let Some(mut account) = update.account else { return };
    let (id, mut before) = (entry.session.account(), before);
    if let Some(created) = update.created {
        let (kind, amount) = (BalanceKind::Initial, created.balance);
        let row = BalanceRow { kind, amount, reference: "", by: BY_IMCHARGE, session: None };
        let created = record(tick, id, None, created, row);
        (account.is_low, before) = (created.is_low, Some(created));
    }
    let kind = match operation {
        Operation::Debit { .. } => BalanceKind::Debit,
        Operation::Refund { .. } => BalanceKind::Refund,
        Operation::Reserve { .. } | Operation::Release => return tick.store.put_account(id, account),
    };
    if update.amount == 0 {
        return tick.store.put_account(id, account);
    }
    let (amount, reference) = (update.amount, entry.session.call_id());
    let row = BalanceRow { kind, amount, reference, by: BY_IMCHARGE, session: Some(entry) };
    record(tick, id, before.as_ref(), account, row);
}

/// What the history keeps of a change.
struct BalanceRow<'a> {
    kind: BalanceKind,
    amount: i64,
    reference: &'a str,
    by: &'a str,
    session: Option<&'a SessionEntry>,
}

/// Writes a recorded change, and raises the low-balance event if it takes the account to the threshold. A new account
/// crosses nothing. Returns the account as it is stored.
fn record(
    tick: &mut Tick<'_>,
    id: &str,
    before: Option<&Account>,
    mut account: Account,
    row: BalanceRow<'_>,
) -> Account {
    account.is_low = tick.region.config.low_balance.is_some_and(|low_balance| low_balance.is_reached(&account));
    if account.is_low && before.is_some_and(|before| !before.is_low) && row.kind != BalanceKind::Remove {
        tick.count(Statistic::LowBalances);
        notify_low_balance(tick, id, &account, row.session.map(|entry| &entry.session));
    }
    tick.store.put(Change::Balance(BalanceChange {
        id: id.into(),
        kind: row.kind,
        amount: row.amount,
        reference: row.reference.into(),
        by: row.by.into(),
        row: row.session.map(|entry| entry.row),
        account,
        wall_ms: tick.wall_ms,
    }));
    account
}
