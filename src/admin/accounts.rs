//! Commands that change accounts of the embedded or the shared ledger.

use super::commands::{Call, CommandError, Value, shown};
use crate::config::BALANCE_MAX;
use crate::shm::record::{AccountChange, Command, CommandResult, Reply};

/// Longest reference, in octets.
pub(super) const REFERENCE_OCTETS_MAX: usize = 128;

/// Longest name of an operator, in octets.
const BY_OCTETS_MAX: usize = 64;

/// Who changes an account if the command does not name it.
pub(super) const BY_DEFAULT: &str = "operator";

impl Call<'_> {
    /// Changes the account in the first argument. `reference` and `by` are the indexes of these arguments.
    pub(super) fn change_account(
        &mut self,
        change: AccountChange,
        reference: usize,
        by: usize,
    ) -> Result<Value, CommandError> {
        let account = self.account(0)?;
        let is_reference_required = matches!(change, AccountChange::Add(_));
        let reference = self.label(reference, usize::from(is_reference_required), REFERENCE_OCTETS_MAX)?.to_owned();
        let by = match self.label(by, 0, BY_OCTETS_MAX)? {
            "" => BY_DEFAULT.to_owned(),
            by => by.to_owned(),
        };
        let command = Command::Account { account: &account, change, reference: &reference, by: &by };
        let reply = self.worker.command(command).ok_or_else(|| self.no_answer("account.get ID"))?;
        match (reply.result, change) {
            (CommandResult::Done, AccountChange::Remove) => Ok(Value::Structure(vec![("id", Value::Text(account))])),
            (CommandResult::Done | CommandResult::Duplicate, _) => {
                let mut fields = vec![
                    ("id", Value::Text(account)),
                    ("balance", Value::Integer(reply.balance)),
                    ("held", Value::Integer(reply.held)),
                    ("limit", Value::Integer(reply.limit)),
                ];
                if is_reference_required {
                    let is_duplicate = reply.result == CommandResult::Duplicate;
                    fields.push(("duplicate", Value::Integer(is_duplicate.into())));
                }
                Ok(Value::Structure(fields))
            }
            (CommandResult::ReferenceUsed, _) => Err(self.reference_used(&account, &reference)),
            _ => Err(self.refused(&account, reply)),
        }
    }

    /// Parses a credit limit.
    pub(super) fn credit_limit(&self, at: usize) -> Result<i64, CommandError> {
        let wrong = || self.wrong(at, &format!("a whole number from 0 to {BALANCE_MAX}"));
        self.text(at).parse().ok().filter(|limit| (0..=BALANCE_MAX).contains(limit)).ok_or_else(wrong)
    }

    /// Checks a text of `least` to `most` octets that is stored with a change.
    pub(super) fn label(&self, at: usize, least: usize, most: usize) -> Result<&str, CommandError> {
        let text = self.text(at);
        let is_accepted = (least..=most).contains(&text.len()) && !text.chars().any(char::is_control);
        let accepted = format!("a text of {least} to {most} octets without control characters");
        if is_accepted { Ok(text) } else { Err(self.wrong(at, &accepted)) }
    }

    fn refused(&self, account: &str, reply: Reply) -> CommandError {
        let Reply { result, balance, held, limit } = reply;
        let value = || match self.command.arguments.get(1) {
            Some(argument) => format!("{} '{}'", argument.name, shown(self.text(1))),
            None => String::new(),
        };
        let is_limit = self.command.name == "account.limit";
        match result {
            CommandResult::AboveMaximum => {
                self.fails(400, format!("{} takes the balance above its maximum, {BALANCE_MAX}", value()))
            }
            CommandResult::BelowLimit if is_limit => {
                self.fails(400, format!("{} is less than the account owes, {}", value(), -balance))
            }
            CommandResult::BelowLimit if limit == 0 => {
                self.fails(400, format!("{} takes the balance below 0", value()))
            }
            CommandResult::BelowLimit => {
                self.fails(400, format!("{} takes the balance below -{limit}, the credit limit", value()))
            }
            CommandResult::Overflow => {
                self.fails(400, format!("{}: balance, held and limit together would exceed 64 bits", value()))
            }
            CommandResult::NotEmpty => {
                self.fails(409, format!("balance {balance} and held {held} of the account are not both 0"))
            }
            _ => self.no_account(account),
        }
    }

    /// Returns the error for a reference that was used for another amount.
    fn reference_used(&mut self, account: &str, reference: &str) -> CommandError {
        let first = match self.is_in_database() {
            true => self.database().and_then(|mut database| database.amount_added(account, reference)),
            false => self.ledger().and_then(|ledger| ledger.amount_added(account, reference)),
        };
        let amount = match first {
            Ok(Some(amount)) => format!(", {amount}"),
            Ok(None) | Err(_) => String::new(),
        };
        self.fails(409, format!("REFERENCE '{}' was used for another amount{amount}", shown(reference)))
    }
}
