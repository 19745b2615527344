//! Commands of operators that change state.

use super::SessionTable;
use super::accounts::{AccountCommand, change_account};
use crate::charge::session::Session;
use crate::engine::effects::Effect;
use crate::engine::store::StoreError;
use crate::engine::tick::Tick;
use crate::shm::record::{Command, CommandResult, Reply};

impl SessionTable {
    /// Executes a command and replies to it after the commit.
    pub(super) fn handle_command(
        &mut self,
        tick: &mut Tick<'_>,
        process: u32,
        sequence: u64,
        command: &Command<'_>,
    ) -> Result<(), StoreError> {
        let reply = match *command {
            Command::ShowAll => Reply::without_account(CommandResult::Done),
            Command::Resolve { call_id, again } => {
                Reply::without_account(self.resolve_held_back(tick, call_id, again)?)
            }
            Command::Account { account: id, change, reference, by } => {
                change_account(tick, &AccountCommand { id, change, reference, by })?
            }
        };
        (tick.changed, tick.command_waits) = (true, true);
        // The sender in an earlier run of the host is gone, and its reply slot may belong to another process now.
        if tick.is_current_instance() && (process as usize) < tick.region.processes() {
            tick.effects.push(Effect::Reply { process, sequence, reply });
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
