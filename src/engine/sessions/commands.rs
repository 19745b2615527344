//! Commands of operators that change state.

use super::SessionTable;
use super::accounts::{AccountCommand, change_account, refused, reply};
use crate::charge::session::Session;
use crate::enabler::{self, Account, AccountChange, AccountOutcome, Accounts};
use crate::engine::effects::Effect;
use crate::engine::store::StoreError;
use crate::engine::tick::Tick;
use crate::shm::record::{Command, CommandResult, Reply};
use crate::shm::statistic::Statistic;
use std::collections::BTreeMap;

/// Commands that wait for the enabler. Their senders wait for a second, so of more the oldest are forgotten.
const WAITING_COMMANDS_MAX: usize = 1024;

/// Process and sequence of a command whose sender waits for the reply.
type ReplyTo = (u32, u64);

/// Commands that the enabler has not answered, by their numbers.
#[derive(Default)]
pub(super) struct WaitingCommands {
    waiting: BTreeMap<u64, WaitingCommand>,
    last: u64,
}

struct WaitingCommand {
    /// `None`: its sender was a process of an earlier run of the host.
    reply_to: Option<ReplyTo>,
    is_top_up: bool,
}

impl WaitingCommands {
    /// Adds a command and returns its number: the time, so that it is above those of earlier engines.
    fn add(&mut self, wall_ms: i64, command: WaitingCommand) -> u64 {
        let time = u64::try_from(wall_ms).unwrap_or(0).saturating_mul(1000);
        self.last = time.max(self.last.saturating_add(1));
        self.waiting.insert(self.last, command);
        if self.waiting.len() > WAITING_COMMANDS_MAX {
            self.waiting.pop_first();
        }
        self.last
    }
}

impl SessionTable {
    /// Executes a command and replies to it after the commit. One about an account that is in a database is passed on.
    pub(super) fn handle_command(
        &mut self,
        tick: &mut Tick<'_>,
        process: u32,
        sequence: u64,
        command: &Command<'_>,
    ) -> Result<(), StoreError> {
        // The sender in an earlier run of the host is gone, and its reply slot may belong to another process now.
        let has_sender = tick.is_current_instance() && (process as usize) < tick.region.processes();
        let reply_to = has_sender.then_some((process, sequence));
        // Once it is read, it is not executed again.
        tick.changed = true;
        let reply = match *command {
            Command::ShowAll => Reply::without_account(CommandResult::Done),
            Command::Resolve { call_id, again } => {
                Reply::without_account(self.resolve_held_back(tick, call_id, again)?)
            }
            Command::Account { account: id, change, reference, by } => {
                let command = AccountCommand { id, change, reference, by };
                if tick.region.config.enabler.capabilities.accounts == Accounts::InDatabase {
                    self.pass_on(tick, reply_to, &command);
                    return Ok(());
                }
                change_account(tick, &command)?
            }
        };
        answer(tick, reply_to, reply);
        Ok(())
    }

    /// Lets the enabler change an account.
    fn pass_on(&mut self, tick: &mut Tick<'_>, reply_to: Option<ReplyTo>, command: &AccountCommand<'_>) {
        let AccountCommand { id, change, reference, by } = *command;
        let is_top_up = matches!(change, AccountChange::Add(amount) if amount > 0);
        let number = self.waiting_commands.add(tick.wall_ms, WaitingCommand { reply_to, is_top_up });
        let (id, reference, by) = (id.into(), reference.into(), by.into());
        tick.effects.push(Effect::ChangeAccount(enabler::AccountCommand { number, id, change, reference, by }));
    }

    /// The enabler has answered a command about an account.
    pub(super) fn account_changed(
        &mut self,
        tick: &mut Tick<'_>,
        number: u64,
        outcome: AccountOutcome,
        account: Option<Account>,
    ) {
        let Some(WaitingCommand { reply_to, is_top_up }) = self.waiting_commands.waiting.remove(&number) else {
            return;
        };
        if is_top_up && outcome == AccountOutcome::Done {
            tick.count(Statistic::TopUps);
        }
        let result = match outcome {
            AccountOutcome::Done => CommandResult::Done,
            AccountOutcome::Duplicate => CommandResult::Duplicate,
            AccountOutcome::ReferenceUsed => CommandResult::ReferenceUsed,
            AccountOutcome::UnknownAccount => CommandResult::UnknownAccount,
            AccountOutcome::Refused(refusal) => refused(refusal),
        };
        answer(tick, reply_to, reply(result, account.unwrap_or_default()));
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

/// Replies to a command after the commit, once the tables contain what it has changed.
fn answer(tick: &mut Tick<'_>, reply_to: Option<ReplyTo>, reply: Reply) {
    tick.command_waits = true;
    tick.effects.extend(reply_to.map(|(process, sequence)| Effect::Reply { process, sequence, reply }));
}
