//! The files of charging records: contents, rotation, and what a recorder finds that another one has left.

use super::files::Renaming;
use super::recorder::Recorder;
use super::table::{RecordMark, RecordTable};
use super::*;
use crate::charge::policy::Settle;
use crate::charge::session::Rule;
use crate::config::{RecordFormat, RecordSettings};
use crate::engine::store::tests::{put, store, write};
use crate::engine::store::writer::Tables;
use crate::engine::store::{Pending, Store, change::Refund};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A ledger with charging records and their folder.
struct Ledger {
    folder: tempfile::TempDir,
    settings: RecordSettings,
}

impl Ledger {
    fn new(change: impl FnOnce(&mut RecordSettings)) -> Ledger {
        let (folder, _) = store();
        let dir = folder.path().join("cdr");
        fs::create_dir(&dir).expect("a folder");
        let mut settings = RecordSettings { dir: Some(dir), node: Some("proxy1".into()), ..RecordSettings::default() };
        change(&mut settings);
        Ledger { folder, settings }
    }

    fn dir(&self) -> &Path {
        self.settings.dir.as_deref().expect("it is set")
    }

    /// Charges a closed session with this many debits and one released message.
    fn charge(&self, debits: usize) {
        let quiet = RecordSettings { dir: Some("/nonexistent".into()), ..self.settings.clone() };
        let mut store = Store::open_with(self.folder.path(), &quiet, None).unwrap_or_else(|error| panic!("{error}"));
        put(&mut store, 1_800_000_000_000, Some(1_800_000_060_000), debits);
        write(&mut store);
    }

    fn recorder(&self) -> Recorder {
        let recorder = Recorder::open(self.folder.path(), &self.settings, None);
        recorder.unwrap_or_else(|error| panic!("{error}")).expect("a folder is configured")
    }

    fn table(&self) -> RecordTable {
        RecordTable::open(self.folder.path()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Names and contents of all files.
    fn files(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.dir()).expect("readable").map(|entry| entry.expect("an entry"));
        let texts = entries.map(|entry| {
            let text = fs::read(entry.path()).expect("readable");
            (entry.file_name().to_string_lossy().into_owned(), String::from_utf8_lossy(&text).into_owned())
        });
        texts.filter(|(name, _)| !name.starts_with('.')).collect()
    }

    /// Numbers of the records in closed files, in order.
    fn recorded(&self) -> Vec<i64> {
        let closed = self.files().into_iter().filter(|(name, _)| name.ends_with(".jsonl"));
        let texts: String = closed.map(|(_, text)| text).collect();
        lines(&texts).iter().map(|line| line["record"].as_i64().expect("a number")).collect()
    }

    fn names(&self) -> Vec<String> {
        self.files().into_keys().collect()
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

#[test]
fn each_debit_release_and_closed_session_is_a_json_line() {
    let ledger = Ledger::new(|_| {});
    ledger.charge(2);
    assert!(ledger.recorder().run(true));
    let files = ledger.files();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["proxy1-0000000001.jsonl"]);
    let lines = lines(&files["proxy1-0000000001.jsonl"]);
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["type"].as_str()).collect();
    assert_eq!(kinds, ["debit", "debit", "release", "session"]);
    let wanted = serde_json::json!({
        "record": 2, "type": "debit", "node": "proxy1", "at": "2027-01-15T08:00:00.000Z",
        "requested_at": "2027-01-15T08:00:00.000Z", "method": "INVITE", "call_id": "call-1", "icid": null, "account": "sip:alice@example.org",
        "calling_party": "sip:alice@example.org", "called_party": null, "service": "retrieval", "direction": "received",
        "class": "text", "recipients": null, "tariff": "message:5", "message_id": "m1", "part": 0, "messages": null,
        "octets": 10, "units": 5, "trigger": "timeout", "rule": "response_timeout", "cause": null, "code": null,
        "ocs_session_id": null
    });
    assert_eq!(lines[1], wanted);
    assert_eq!((&lines[2]["rule"], &lines[2]["code"]), (&"5xx=release".into(), &506.into()));
    let session = &lines[3];
    assert_eq!(session["at"], "2027-01-15T08:01:00.000Z");
    assert_eq!((&session["messages"], &session["octets"], &session["units"]), (&2.into(), &20.into(), &10.into()));
    assert_eq!(session["class"], "text");
}

#[test]
fn csv_file_has_one_header_line() {
    let ledger = Ledger::new(|settings| settings.format = RecordFormat::Csv);
    ledger.charge(1);
    let mut recorder = ledger.recorder();
    assert!(recorder.run(false));
    ledger.charge(1);
    assert!(recorder.run(true));
    let text = ledger.files()["proxy1-0000000001.csv"].clone();
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 7, "{text}");
    assert!(rows[0].starts_with("record,type,node,at,requested_at,method,call_id,icid,account,"), "{text}");
    assert!(rows[1].starts_with("1,debit,proxy1,2027-01-15T08:00:00.000Z,"), "{text}");
    assert!(rows[6].starts_with("6,session,"), "{text}");
}

#[test]
fn refund_is_a_record_of_its_debit() {
    let ledger = Ledger::new(|_| {});
    ledger.charge(1);
    let tables = Tables::open(ledger.folder.path(), true).unwrap_or_else(|error| panic!("{error}"));
    let mut pending = Pending::default();
    let rule = Rule::Report(413, Settle::Release);
    for message_id in ["m0", "m0", "unknown"] {
        pending.refunds.push(Refund {
            row: 1,
            message_id: message_id.into(),
            part: 0,
            rule,
            wall_ms: 1_800_000_100_000,
        });
    }
    tables.write(&pending, 1000).unwrap_or_else(|error| panic!("{error}"));
    assert!(ledger.recorder().run(true));
    let records = lines(&ledger.files()["proxy1-0000000001.jsonl"]);
    let refunds: Vec<&Value> = records.iter().filter(|line| line["type"] == "refund").collect();
    assert_eq!(refunds.len(), 1, "{records:?}");
    assert_eq!((&refunds[0]["message_id"], &refunds[0]["units"]), (&"m0".into(), &5.into()));
    assert_eq!(refunds[0]["class"], "text");
    assert_eq!((&refunds[0]["rule"], &refunds[0]["code"]), (&"report=release".into(), &413.into()));
}

#[test]
fn ids_cannot_break_a_line_or_a_field() {
    let record = line::ChargingRecord {
        message_id: Some("a\"b\n,c".into()),
        cause: Some("\u{1}\u{2028}".into()),
        ..Default::default()
    };
    let mut json = Vec::new();
    record.write(&mut json, RecordFormat::Json, true).expect("memory can be written");
    let text = String::from_utf8(json).expect("text");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(lines(&text)[0]["message_id"], "a\"b\n,c");
    let mut csv = Vec::new();
    record.write(&mut csv, RecordFormat::Csv, false).expect("memory can be written");
    let mut rows = csv::ReaderBuilder::new().has_headers(false).from_reader(&*csv);
    let row = rows.records().next().expect("a row").expect("well-formed");
    assert!(row.iter().any(|field| field == "a\"b\n,c"), "{row:?}");
}

#[test]
fn times_outside_rfc_3339_become_the_nearest() {
    assert_eq!(line::rfc3339(-1), "1970-01-01T00:00:00.000Z");
    assert_eq!(line::rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
}

#[test]
fn full_file_is_closed_and_the_next_one_begun() {
    let ledger = Ledger::new(|settings| settings.file_size = 1000);
    ledger.charge(9);
    let mut recorder = ledger.recorder();
    assert!(recorder.run(false));
    let names = ledger.names();
    assert!(names.len() > 3 && names[0] == "proxy1-0000000001.jsonl", "{names:?}");
    for (name, text) in ledger.files() {
        assert!(text.ends_with('\n') && text.len() < 2000, "{name}: {text}");
        assert_eq!(text.len() >= 1000, !name.ends_with(".part"), "{name}");
    }
    assert!(recorder.run(true));
    assert_eq!(ledger.recorded(), (1..=11).collect::<Vec<_>>());
    assert!(ledger.table().after(0, 100, "").is_ok_and(|rows| rows.is_empty()), "rows of closed files remain");
}

#[test]
fn file_is_closed_by_age_without_another_record_and_never_empty() {
    let ledger = Ledger::new(|settings| settings.file_seconds = 0);
    let mut recorder = ledger.recorder();
    assert!(recorder.run(true) && ledger.names().is_empty());
    ledger.charge(1);
    assert!(recorder.run(false));
    assert_eq!(ledger.names(), ["proxy1-0000000001.jsonl"]);
    assert!(recorder.run(false) && recorder.run(true));
    assert_eq!(ledger.names().len(), 1);
}

#[test]
fn open_file_of_a_dead_recorder_is_written_again() {
    let ledger = Ledger::new(|_| {});
    ledger.charge(3);
    assert!(ledger.recorder().run(false));
    assert_eq!(ledger.names(), ["proxy1-0000000001.jsonl.part"]);
    // The machine has lost its end, and an operator has changed the format.
    let part = ledger.dir().join("proxy1-0000000001.jsonl.part");
    fs::write(&part, "{\"record\":1,").expect("written");
    fs::write(ledger.dir().join("proxy1-notes.part"), "not ours").expect("written");
    fs::write(ledger.dir().join("proxy10-0000000001.jsonl.part"), "of another node").expect("written");
    assert!(ledger.recorder().run(true));
    let left = ["proxy1-0000000001.jsonl", "proxy1-notes.part", "proxy10-0000000001.jsonl.part"];
    assert_eq!(ledger.names(), left);
    assert_eq!(ledger.recorded(), [1, 2, 3, 4, 5]);
}

#[test]
fn taken_file_is_not_written_again() {
    let ledger = Ledger::new(|_| {});
    ledger.charge(1);
    assert!(ledger.recorder().run(true));
    // Dead after the rename, before the mark said so; the billing system was faster than the restart.
    let path = ledger.dir().join("proxy1-0000000001.jsonl");
    let closing = RecordMark { sequence: 1, since: 0, through: 3, closing: Some(path.clone()) };
    ledger.table().set_mark(&closing).unwrap_or_else(|error| panic!("{error}"));
    fs::remove_file(&path).expect("removed");
    ledger.charge(1);
    assert!(ledger.recorder().run(true));
    assert_eq!(ledger.names(), ["proxy1-0000000002.jsonl"]);
    assert_eq!(ledger.recorded(), [4, 5, 6]);
}

#[test]
fn committed_file_is_renamed_by_the_next_recorder() {
    let ledger = Ledger::new(|_| {});
    ledger.charge(1);
    assert!(ledger.recorder().run(false));
    let path = ledger.dir().join("proxy1-0000000001.jsonl");
    let closing = RecordMark { sequence: 1, since: 0, through: 3, closing: Some(path.clone()) };
    ledger.table().set_mark(&closing).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(files::renaming(&path).ok(), Some(Renaming::Due));
    assert!(ledger.recorder().run(true));
    assert_eq!((ledger.names().len(), ledger.recorded()), (1, vec![1, 2, 3]));
}

#[test]
fn file_that_was_lost_with_its_folder_is_written_again() {
    let ledger = Ledger::new(|_| {});
    ledger.charge(1);
    let path = ledger.dir().join("proxy1-0000000001.jsonl");
    let closing = RecordMark { sequence: 1, since: 0, through: 3, closing: Some(path) };
    ledger.table().set_mark(&closing).unwrap_or_else(|error| panic!("{error}"));
    assert!(ledger.recorder().run(true));
    assert_eq!(ledger.recorded(), [1, 2, 3]);
}

#[test]
fn missing_folder_delays_records_and_loses_none() {
    let ledger = Ledger::new(|_| {});
    fs::remove_dir(ledger.dir()).expect("it is empty");
    ledger.charge(1);
    let mut recorder = ledger.recorder();
    assert!(!recorder.run(false) && !recorder.run(true));
    fs::create_dir(ledger.dir()).expect("a folder");
    assert!(recorder.run(false));
    // Removed again under the open file.
    fs::remove_dir_all(ledger.dir()).expect("removed");
    ledger.charge(1);
    assert!(!recorder.run(true));
    fs::create_dir(ledger.dir()).expect("a folder");
    assert!(recorder.run(true));
    assert_eq!(ledger.recorded(), [1, 2, 3, 4, 5, 6]);
}

#[test]
fn closed_files_are_never_replaced() {
    let ledger = Ledger::new(|_| {});
    // As after a backup of the ledger was restored.
    for number in [1, 2] {
        fs::write(ledger.dir().join(format!("proxy1-000000000{number}.jsonl")), "").expect("written");
    }
    ledger.charge(1);
    assert!(ledger.recorder().run(true));
    assert_eq!(ledger.names()[2], "proxy1-0000000003.jsonl");
    assert_eq!(ledger.recorded(), [1, 2, 3]);
}

#[test]
fn two_ledgers_never_write_under_one_name() {
    let one = Ledger::new(|_| {});
    let other = Ledger::new(|settings| settings.dir = one.settings.dir.clone());
    one.charge(1);
    other.charge(1);
    let mut first = one.recorder();
    assert!(first.run(false));
    assert!(!other.recorder().run(true), "the folder is locked");
    assert!(first.run(true));
    drop(first);
    assert!(!other.recorder().run(true), "the files belong to another ledger");
    fs::remove_file(one.dir().join(".proxy1.lock")).expect("the lock file");
    assert!(other.recorder().run(true));
    assert_eq!(one.names(), ["proxy1-0000000001.jsonl", "proxy1-0000000002.jsonl"]);
}

#[test]
fn records_are_kept_only_with_a_folder() {
    let (folder, mut store) = store();
    put(&mut store, 1_800_000_000_000, Some(1_800_000_060_000), 3);
    write(&mut store);
    let table = RecordTable::open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(table.newest().ok(), Some(0));
}
