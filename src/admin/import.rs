//! The command that copies the accounts of this node's embedded ledger to the shared one.

use super::accounts::{BY_DEFAULT, REFERENCE_OCTETS_MAX};
use super::commands::{Call, CommandError, Value, integer};
use super::ledger::Reader;
use super::page::{Page, ROWS_DEFAULT, Room};
use crate::config::queries::{
    AccountAnswer, AccountImport, AccountQuery, ImportOutcome, ImportResult, ImportedAccount,
};
use rusqlite::{OptionalExtension, Row, params};

/// Accounts in the order of their ids.
pub const ACCOUNTS: &str = "\
    SELECT id, balance, held, credit_limit, full_units, is_low FROM accounts WHERE id>=?1 ORDER BY id LIMIT ?2";

impl Call<'_> {
    /// Imports a page of accounts.
    pub(super) fn import_accounts(&mut self) -> Result<Value, CommandError> {
        // The order of the checks: the enabler first.
        let mut database = self.database()?;
        let reference = self.label(0, 1, REFERENCE_OCTETS_MAX)?.to_owned();
        let limit = self.limit(1)?.unwrap_or(ROWS_DEFAULT);
        let from = self.text(2).to_owned();
        let reader = self.ledger()?;
        if reader.has_holds().map_err(|error| reader.cannot_read(error))? {
            return Err(self.still_held());
        }
        let ledger = reader.number().map_err(|error| reader.cannot_read(error))?;
        let Some((accounts, next)) = reader.accounts_from(&from, limit).map_err(|error| reader.cannot_read(error))?
        else {
            return Err(self.still_held());
        };
        let ids: Vec<(String, i64)> = accounts.iter().map(|account| (account.id.clone(), account.balance)).collect();
        let import = AccountImport { ledger: ledger.clone(), reference, by: BY_DEFAULT.into(), accounts };
        match database.ask(AccountQuery::Import(import))? {
            AccountAnswer::Imported(ImportOutcome::Accounts(results)) => Ok(imported(ledger, &ids, &results, next)),
            AccountAnswer::Imported(ImportOutcome::LedgerImported(first)) => {
                Err(self.fails(409, format!("this ledger was imported under the reference '{first}'")))
            }
            AccountAnswer::Imported(ImportOutcome::ReferenceUsed(other)) => {
                Err(self.fails(409, format!("the reference is that of the ledger {other}; choose another one")))
            }
            answer => Err(database.unexpected(&answer)),
        }
    }

    fn still_held(&self) -> CommandError {
        self.fails(409, "sessions hold units of the embedded ledger; start with enabler=ledger and stop cleanly")
    }
}

/// Returns the answer: what became of the accounts, and where the next page starts.
fn imported(
    ledger: String,
    accounts: &[(String, i64)],
    results: &[(usize, ImportResult)],
    next: Option<String>,
) -> Value {
    let count = |wanted: ImportResult| results.iter().filter(|(_, result)| *result == wanted).count() as u64;
    let mut refused = Page::new(Room::fixed());
    for (at, result) in results {
        let (Some((id, balance)), Some(why)) = (accounts.get(*at), why(result)) else { continue };
        let row = [("id", Value::Text(id.clone())), ("balance", Value::Integer(*balance)), ("why", Value::Text(why))];
        // A row that does not fit is only counted. Repeated with a smaller LIMIT, the command lists it.
        refused.add(Value::Structure(row.into()), || id.clone());
    }
    let (done, repeated) = (count(ImportResult::Done), count(ImportResult::Repeated));
    let mut fields = vec![
        ("ledger", Value::Text(ledger)),
        ("imported", integer(done)),
        ("repeated", integer(repeated)),
        ("refused", integer(results.len() as u64 - done - repeated)),
    ];
    fields.extend(super::page::fields("refusals", refused.into_rows(), next));
    Value::Structure(fields)
}

/// Returns why an account is not imported.
fn why(result: &ImportResult) -> Option<String> {
    match result {
        ImportResult::Done | ImportResult::Repeated => None,
        ImportResult::Differs(balance) => Some(format!("imported before with the balance {balance}")),
        ImportResult::AboveMaximum => Some("the sum is above the largest balance or credit limit".into()),
        ImportResult::BelowLimit => Some("the sum is below minus the credit limit".into()),
        ImportResult::Overflow => Some("the sum does not fit into 64 bits".into()),
    }
}

/// Accounts of a page, and the first id of the next one.
type AccountsPage = (Vec<ImportedAccount>, Option<String>);

impl Reader {
    /// Whether sessions hold units of the embedded ledger.
    fn has_holds(&self) -> rusqlite::Result<bool> {
        let one = self.connection.query_row("SELECT 1 FROM holds LIMIT 1", [], |_| Ok(())).optional()?;
        Ok(one.is_some())
    }

    /// Returns the random number of this ledger, in the form in which the shared ledger knows it.
    fn number(&self) -> rusqlite::Result<String> {
        let number: i64 = self.connection.query_row("SELECT ledger FROM journal", [], |row| row.get(0))?;
        Ok(format!("{number:016x}"))
    }

    /// Returns accounts from an id on; `None`: units of one of them are held.
    fn accounts_from(&self, from: &str, limit: usize) -> rusqlite::Result<Option<AccountsPage>> {
        let mut statement = self.connection.prepare(ACCOUNTS)?;
        let account = |row: &Row<'_>| {
            let held: i64 = row.get(2)?;
            let account = ImportedAccount {
                id: row.get(0)?,
                balance: row.get(1)?,
                limit: row.get(3)?,
                full: row.get(4)?,
                is_low: row.get(5)?,
            };
            Ok((held, account))
        };
        let rows: Vec<(i64, ImportedAccount)> =
            statement.query_map(params![from, limit as i64 + 1], account)?.collect::<Result<_, _>>()?;
        if rows.iter().any(|(held, _)| *held != 0) {
            return Ok(None);
        }
        let mut accounts: Vec<ImportedAccount> = rows.into_iter().map(|(_, account)| account).collect();
        let next = accounts.get(limit).map(|account| account.id.clone());
        accounts.truncate(limit);
        Ok(Some((accounts, next)))
    }
}
