//! Commands of operators that change state.

use super::SessionTable;
use crate::charge::session::Session;
use crate::config::BALANCE_MAX;
use crate::enabler::Account;
use crate::engine::effects::Effect;
use crate::engine::store::{Store, StoreError};
use crate::engine::tick::Tick;
use crate::shm::record::{Command, CommandResult};

impl SessionTable {
    /// Executes a command and replies to it after the commit.
    pub(super) fn handle_command(
        &mut self,
        tick: &mut Tick<'_>,
        process: u32,
        sequence: u64,
        command: &Command<'_>,
    ) -> Result<(), StoreError> {
        let (result, balance, held) = match command {
            Command::ShowAll => (CommandResult::Done, 0, 0),
            Command::Resolve { call_id, again } => (self.resolve_held_back(tick, call_id, *again)?, 0, 0),
            Command::SetBalance { account, balance } => {
                let found = tick.store.account(account)?.unwrap_or_default();
                set_balance(tick.store, account, found, Some(*balance))
            }
            Command::AddBalance { account, amount } => match tick.store.account(account)? {
                Some(found) => set_balance(tick.store, account, found, found.balance.checked_add(*amount)),
                None => (CommandResult::UnknownAccount, 0, 0),
            },
        };
        (tick.changed, tick.command_waits) = (true, true);
        // The sender in an earlier run of the host is gone, and its reply slot may belong to another process now.
        if tick.is_current_instance() && (process as usize) < tick.region.processes() {
            tick.effects.push(Effect::Reply { process, sequence, result, balance, held });
        }
        Ok(())
    }

    /// Sends the held-back debits of a call again (`resend`), or gives them up.
    fn resolve_held_back(
        &mut self,
        tick: &mut Tick<'_>,
        call_id: &str,
        resend: bool,
    ) -> Result<CommandResult, StoreError> {
        let is_meant = |session: &Session| session.call_id() == call_id && session.held_back_message().is_some();
        let keys = self.in_order(|entry| is_meant(&entry.session));
        for key in &keys {
            if let Some(entry) = self.sessions.get_mut(key) {
                entry.session.resolve(resend, tick.now);
                self.execute_outputs(tick, *key)?;
            }
        }
        Ok(if keys.is_empty() { CommandResult::NothingHeld } else { CommandResult::Done })
    }
}

/// Sets the balance of an account, if it is in range. `wanted` is `None` after an overflow. Returns the new balance, or
/// the old one, and the units held.
fn set_balance(store: &mut Store, id: &str, mut account: Account, wanted: Option<i64>) -> (CommandResult, i64, i64) {
    let Some(balance) = wanted.filter(|balance| (0..=BALANCE_MAX).contains(balance)) else {
        return (CommandResult::OutOfRange, account.balance, account.held);
    };
    account.balance = balance;
    store.put_account(id, account);
    (CommandResult::Done, account.balance, account.held)
}
