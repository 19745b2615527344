//! The tables `records` and `record_files`.

use super::line::{ChargingRecord, rfc3339};
use crate::engine::store::change::{Debit, NotDebited, Refund, Summary};
use crate::engine::store::database::{self, Database};
use crate::engine::store::tables::signed;
use crate::engine::store::{StoreError, writer};
use rusqlite::{Connection, OptionalExtension, Result, Row, Transaction, TransactionBehavior, params};
use std::path::{Path, PathBuf};

/// Rows that are deleted in one transaction.
const DELETED_ROWS_MAX: u64 = 1000;

/// A record without what the row of its session contains.
struct NewRecord<'a> {
    kind: &'a str,
    wall_ms: i64,
    /// Row of the session.
    row: i64,
    message_id: Option<&'a str>,
    part: Option<u32>,
    messages: Option<i64>,
    octets: i64,
    units: i64,
    trigger: Option<&'a str>,
    rule: Option<&'a str>,
    cause: Option<&'a str>,
    code: u32,
    ocs_session_id: Option<&'a str>,
    class: Option<&'a str>,
}

impl<'a> NewRecord<'a> {
    fn new(kind: &'a str, row: i64, wall_ms: i64, octets: i64, units: i64) -> NewRecord<'a> {
        NewRecord {
            kind,
            wall_ms,
            row,
            message_id: None,
            part: None,
            messages: None,
            octets,
            units,
            trigger: None,
            rule: None,
            cause: None,
            code: 0,
            ocs_session_id: None,
            class: None,
        }
    }

    /// Inserts the record. One whose session is missing from the history is kept without the fields of the session.
    fn insert(&self, connection: &Connection) -> Result<()> {
        let mut statement = connection.prepare_cached(
            // The payer has sent the INVITE of a pull; if it pays for what it sends, that of a push.
            "INSERT INTO records(type, at, message_id, part, messages, octets, units, trigger, rule, cause, code, \
             ocs_session_id, class, requested_at, method, call_id, icid, account, calling_party, called_party, service, \
             direction, recipients, tariff) \
             SELECT ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, opened_at, method, call_id, \
             nullif(icid, ''), account, \
             nullif(iif(calls, account, other), ''), nullif(iif(calls, other, account), ''), service, \
             iif(service='sending', 'sent', 'received'), nullif(recipients, 0), tariff FROM (SELECT 1) \
             LEFT JOIN (SELECT *, (direction='pull')=(service<>'sending') AS calls FROM sessions) ON id=?1",
        )?;
        statement.execute(params![
            self.row,
            self.kind,
            self.wall_ms,
            self.message_id,
            self.part,
            self.messages,
            self.octets,
            self.units,
            self.trigger,
            self.rule,
            self.cause,
            self.code,
            self.ocs_session_id,
            self.class,
        ])?;
        Ok(())
    }
}

/// Adds the record of a debit.
pub fn insert_debit(connection: &Connection, debit: &Debit) -> Result<()> {
    let Debit { message, part, trigger, rule, ocs_session_id } = debit;
    let (octets, units) = (signed(message.octets), signed(message.units));
    let record = NewRecord {
        message_id: Some(&message.message_id),
        part: Some(*part),
        trigger: Some(trigger.as_str()),
        rule: rule.map(|rule| rule.as_str()),
        code: trigger.code().into(),
        class: Some(message.class.as_str()),
        ocs_session_id: ocs_session_id.as_deref(),
        ..NewRecord::new("debit", message.row, message.wall_ms, octets, units)
    };
    record.insert(connection)
}

/// Adds the record of a message that was released without a charge.
pub fn insert_not_debited(connection: &Connection, NotDebited { message, rule }: &NotDebited) -> Result<()> {
    let (octets, units) = (signed(message.octets), signed(message.units));
    let record = NewRecord {
        message_id: Some(&message.message_id),
        rule: Some(rule.as_str()),
        code: rule.code(),
        class: Some(message.class.as_str()),
        ..NewRecord::new("release", message.row, message.wall_ms, octets, units)
    };
    record.insert(connection)
}

/// Adds the record of a refund.
pub fn insert_refund(connection: &Connection, refund: &Refund) -> Result<()> {
    let Refund { row, message_id, part, rule, wall_ms } = refund;
    let sql = "SELECT octets, units, class FROM debits WHERE session=?1 AND message_id=?2 AND part=?3";
    let debit = connection.prepare_cached(sql)?.query_row(params![row, message_id, part], |row| row.try_into());
    let (octets, units, class): (i64, i64, Option<String>) = debit.optional()?.unwrap_or_default();
    let record = NewRecord {
        message_id: Some(message_id),
        part: Some(*part),
        rule: Some(rule.as_str()),
        code: rule.code(),
        class: class.as_deref(),
        ..NewRecord::new("refund", *row, *wall_ms, octets, units)
    };
    record.insert(connection)
}

/// Adds the record of a session that has been closed, with what it has paid until then, and the content class if all of that
/// has the same.
pub fn insert_session(connection: &Connection, row: i64, closed_at: i64, summary: Option<Summary>) -> Result<()> {
    let sql = "SELECT count(DISTINCT message_id), coalesce(sum(octets), 0), coalesce(sum(units), 0), \
               iif(min(class)=max(class), min(class), NULL) FROM debits \
               WHERE session=?1 AND refunded_at IS NULL";
    let sums = connection.prepare_cached(sql)?.query_row([row], |row| row.try_into());
    let (messages, octets, units, class): (i64, i64, i64, Option<String>) = sums?;
    let record = NewRecord {
        messages: Some(messages),
        cause: summary.and_then(|summary| summary.cause),
        code: summary.map_or(0, |summary| summary.code),
        class: class.as_deref(),
        ..NewRecord::new("session", row, closed_at, octets, units)
    };
    record.insert(connection)
}

/// The durable mark: which files are closed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordMark {
    /// Number of the last file whose closing was begun.
    pub sequence: u64,
    /// The last record of the file before it.
    pub since: i64,
    /// Its last record.
    pub through: i64,
    /// Its path, until it has been renamed.
    pub closing: Option<PathBuf>,
}

/// The recorder's connection to the ledger.
pub struct RecordTable {
    database: Database,
}

impl RecordTable {
    /// Opens the ledger of a state directory.
    pub fn open(state_dir: &Path) -> std::result::Result<RecordTable, StoreError> {
        let database = Database::open(state_dir)?;
        let table = RecordTable { database };
        table.run(|connection| connection.busy_timeout(writer::LOCK_WAIT_MAX))?;
        Ok(table)
    }

    fn run<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> std::result::Result<T, StoreError> {
        if !self.database.is_in_place() {
            return Err(StoreError::Missing { path: self.database.path.clone() });
        }
        work(&self.database.connection).map_err(|source| database::error(&self.database.path, source))
    }

    /// Returns the number of the ledger.
    pub fn ledger(&self) -> std::result::Result<u64, StoreError> {
        Ok(self.database.journal_mark()?.ledger)
    }

    /// Reads the mark.
    pub fn mark(&self) -> std::result::Result<RecordMark, StoreError> {
        self.run(|connection| {
            connection.query_row("SELECT sequence, since, through, closing FROM record_files", [], |row| {
                let (sequence, closing): (i64, Option<String>) = (row.get(0)?, row.get(3)?);
                let closing = closing.map(PathBuf::from);
                Ok(RecordMark { sequence: sequence as u64, since: row.get(1)?, through: row.get(2)?, closing })
            })
        })
    }

    /// Writes the mark.
    pub fn set_mark(&self, mark: &RecordMark) -> std::result::Result<(), StoreError> {
        let RecordMark { sequence, since, through, closing } = mark;
        let closing = closing.as_ref().map(|path| path.to_string_lossy());
        self.run(|connection| {
            let write = Transaction::new_unchecked(connection, TransactionBehavior::Immediate)?;
            let sql = "UPDATE record_files SET sequence=?1, since=?2, through=?3, closing=?4";
            write.prepare_cached(sql)?.execute(params![*sequence as i64, since, through, closing])?;
            write.commit()
        })
    }

    /// Returns the number of the newest record, 0 without one.
    pub fn newest(&self) -> std::result::Result<i64, StoreError> {
        self.run(|connection| {
            let sql = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name='records'";
            connection.prepare_cached(sql)?.query_row([], |row| row.get(0))
        })
    }

    /// Reads at most `most` records after the one of this number.
    pub fn after(&self, record: i64, most: usize, node: &str) -> std::result::Result<Vec<ChargingRecord>, StoreError> {
        self.run(|connection| {
            let mut statement = connection.prepare_cached("SELECT * FROM records WHERE id>?1 ORDER BY id LIMIT ?2")?;
            let rows = statement.query_map(params![record, most as i64], |row| read(row, node))?;
            rows.collect()
        })
    }

    /// Deletes the records up to this number, in several transactions.
    pub fn delete_through(&self, through: i64) -> std::result::Result<(), StoreError> {
        let mut deleted = DELETED_ROWS_MAX;
        while deleted == DELETED_ROWS_MAX {
            deleted = self.run(|connection| {
                let sql = "DELETE FROM records WHERE id IN (SELECT id FROM records WHERE id<=?1 ORDER BY id LIMIT ?2)";
                let rows = connection.prepare_cached(sql)?.execute(params![through, DELETED_ROWS_MAX as i64])?;
                Ok(rows as u64)
            })?;
        }
        Ok(())
    }
}

fn read(row: &Row<'_>, node: &str) -> Result<ChargingRecord> {
    let code: i64 = row.get("code")?;
    Ok(ChargingRecord {
        record: row.get("id")?,
        kind: row.get("type")?,
        node: node.to_owned(),
        at: rfc3339(row.get("at")?),
        requested_at: row.get::<_, Option<i64>>("requested_at")?.map(rfc3339),
        method: row.get("method")?,
        call_id: row.get("call_id")?,
        icid: row.get("icid")?,
        account: row.get("account")?,
        calling_party: row.get("calling_party")?,
        called_party: row.get("called_party")?,
        service: row.get("service")?,
        direction: row.get("direction")?,
        class: row.get("class")?,
        recipients: row.get("recipients")?,
        tariff: row.get("tariff")?,
        message_id: row.get("message_id")?,
        part: row.get("part")?,
        messages: row.get("messages")?,
        octets: row.get("octets")?,
        units: row.get("units")?,
        trigger: row.get("trigger")?,
        rule: row.get("rule")?,
        cause: row.get("cause")?,
        code: (code != 0).then_some(code),
        ocs_session_id: row.get("ocs_session_id")?,
    })
}
