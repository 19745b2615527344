//! The hash by which two runs of a seed are compared.

use super::World;
use crate::network::hash;
use rusqlite::types::Value;

/// Rows whose contents are hashed. They hold numbers and texts from the wire, but no words of the project.
const ROWS: [&str; 3] = [
    "SELECT id, balance, held, debited FROM accounts ORDER BY id",
    "SELECT call_id, message_id, part, account, octets, units, code, at, refunded_at FROM debits \
     ORDER BY call_id, message_id, session, part",
    "SELECT call_id, message_id, account, octets, units, code, at FROM undebited \
     ORDER BY call_id, message_id, session, at",
];

impl World<'_> {
    /// Returns a hash of a finished run: its events, the Diameter messages sent, the verdicts, the content that was
    /// delivered, the counters of the run, and the accounts and debits at its end.
    ///
    /// Renaming types or log lines does not change it; a change of behavior does.
    pub(super) fn trace(&self) -> u64 {
        let calls: Vec<_> = self.calls.iter().map(|call| (call.number, call.verdicts, delivered(call))).collect();
        let ledger = self.local_ledger();
        let rows: Vec<_> = ROWS.iter().map(|sql| rows(&ledger, sql)).collect();
        let network = self.network.borrow();
        let mut accounts: Vec<_> = network
            .ocs
            .accounts
            .iter()
            .map(|(name, account)| (name, account.balance, account.held, account.debited))
            .collect();
        accounts.sort_unstable();
        let tally = &self.tally;
        let counters = [tally.crashes, tally.faults, tally.debits, tally.rings_full, tally.tables_full];
        let refusals = [tally.verdicts_late, tally.moves, tally.forged, tally.rests_stopped, tally.restarted];
        hash(&(tally.trace, network.trace, calls, rows, accounts, counters, refusals))
    }
}

/// Returns the octets of each message of a call that have to be paid for.
fn delivered(call: &crate::call::Call) -> Vec<(&str, u64, u64, bool)> {
    let of_message = call.delivered.iter().map(|(id, delivery)| {
        let payable = delivery.payable();
        (id.as_str(), payable.min, payable.max, delivery.has_gap)
    });
    of_message.collect()
}

fn rows(ledger: &rusqlite::Connection, sql: &str) -> Vec<String> {
    let mut statement = ledger.prepare(sql).expect("the tables of the ledger");
    let columns = statement.column_count();
    let row = |row: &rusqlite::Row<'_>| {
        (0..columns).map(|column| row.get::<_, Value>(column).map(|value| text(&value))).collect::<Result<String, _>>()
    };
    statement.query_map([], row).and_then(Iterator::collect).expect("the rows of the ledger")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-|".into(),
        Value::Integer(number) => format!("{number}|"),
        Value::Text(text) => format!("{text}|"),
        Value::Real(_) | Value::Blob(_) => unreachable!("no column of these"),
    }
}
