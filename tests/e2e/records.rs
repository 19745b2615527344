//! Charging records as a billing system takes them: closed files of `cdr_dir`, compared with the ledger.

use super::diameter::Charged;
use super::ledger::{Disk, times};
use super::{ALICE, Stage};
use imcharge_testkit::eventually;
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::{Proxy, Setup};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// Writes charging records to this folder, and closes a file each second.
pub fn with_records(setup: Setup, folder: &Path) -> Setup {
    setup
        .parameter("cdr_dir", &format!("\"{}\"", folder.display()))
        .parameter("cdr_node", "\"proxy1\"")
        .parameter("cdr_file_seconds", "1")
}

/// A billing system that takes closed files away as soon as they appear.
pub struct Billing {
    folder: PathBuf,
    /// Contents by name.
    files: Mutex<BTreeMap<String, String>>,
}

impl Billing {
    pub fn new(folder: &Path) -> Billing {
        Billing { folder: folder.to_owned(), files: Mutex::default() }
    }

    /// Takes the files that are closed.
    pub fn take(&self) {
        for entry in fs::read_dir(&self.folder).expect("readable").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.ends_with(".jsonl") {
                let text = fs::read_to_string(entry.path()).expect("a closed file is readable");
                fs::remove_file(entry.path()).expect("a closed file can be taken away");
                let earlier = self.files.lock().expect("no holder panics").insert(name.clone(), text);
                assert!(earlier.is_none(), "{name} was closed twice");
            }
        }
    }

    /// Returns all records, in order.
    pub fn records(&self) -> Vec<Value> {
        let files = self.files.lock().expect("no holder panics");
        let lines = files.values().flat_map(|text| {
            assert!(text.ends_with('\n'), "a closed file ends within a line: {text}");
            text.lines()
        });
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Waits until all records are in closed files, and compares them with the ledger.
    #[track_caller]
    pub fn expect_agreement(&self, proxy: &Proxy) {
        // The gauge follows the ledger within a second.
        let all = "SELECT (SELECT count(*) FROM debits) + (SELECT count(*) FROM undebited) \
                   + (SELECT count(*) FROM debits WHERE refunded_at IS NOT NULL) \
                   + (SELECT count(*) FROM sessions WHERE closed_at IS NOT NULL)";
        let is_complete = || {
            self.take();
            self.records().len() as i64 >= proxy.count(all) && proxy.statistic("cdr_pending") == 0
        };
        assert!(eventually(SOON, is_complete), "records wait\n{}", proxy.log());
        let (records, ledger) = (self.records(), proxy.ledger());
        let numbers: Vec<i64> = records.iter().map(|record| record["record"].as_i64().expect("a number")).collect();
        assert_eq!(numbers, (1..=numbers.len() as i64).collect::<Vec<_>>(), "a record is missing, or is there twice");
        let text = |record: &Value, field: &str| record[field].as_str().unwrap_or_default().to_owned();
        let of = |kind: &str| -> Vec<(String, String)> {
            let found = records.iter().filter(|record| record["type"] == kind);
            let mut found: Vec<_> = found.map(|record| (text(record, "call_id"), text(record, "message_id"))).collect();
            found.sort();
            found
        };
        let in_ledger = |sql: &str| -> Vec<(String, String)> {
            let mut statement = ledger.prepare(sql).expect("a query");
            let rows = statement.query_map([], |row| row.try_into()).expect("rows");
            rows.map(|row| row.expect("a row")).collect()
        };
        for (kind, sql) in [
            ("debit", "SELECT call_id, message_id FROM debits ORDER BY 1, 2"),
            ("release", "SELECT call_id, message_id FROM undebited ORDER BY 1, 2"),
            ("session", "SELECT call_id, '' FROM sessions WHERE closed_at IS NOT NULL ORDER BY 1"),
        ] {
            assert_eq!(of(kind), in_ledger(sql), "{kind}");
        }
        let units: i64 =
            records.iter().filter(|record| record["type"] == "debit").filter_map(|r| r["units"].as_i64()).sum();
        assert_eq!(units, proxy.count("SELECT coalesce(sum(units), 0) FROM debits"));
    }
}

#[test]
fn each_outcome_of_a_retrieval_is_a_record() {
    let folder = tempfile::tempdir().expect("a folder");
    let release = "\"5xx=release\"";
    let stage = Stage::new(|setup| with_records(setup, folder.path()).parameter("policy", release));
    stage.proxy.set_account(ALICE, 2);
    let billing = Billing::new(folder.path());
    let _server = stage.server(&["one"], |_| {});
    for (count, code) in [(1, 200), (1, 506), (2, 415)] {
        let mut client = stage.bound(|_| {});
        client.take(1, Reaction::Answer(code));
        stage.until_debited(ALICE, count);
        client.bye();
    }
    assert!(eventually(SOON, || stage.proxy.statistic("sessions_active") == 0), "{}", stage.proxy.log());
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 402, "{}", stage.proxy.log());
    billing.expect_agreement(&stage.proxy);
    let records = billing.records();
    let seen: Vec<String> = records
        .iter()
        .map(|record| {
            let of = |field: &str| record[field].as_str().unwrap_or("-").to_owned();
            format!("{} {} {} {} {}", of("type"), of("trigger"), of("rule"), of("cause"), record["code"])
        })
        .collect();
    for wanted in [
        "debit response debit_on=response - null",
        "release - 5xx=release - 506",
        "debit error 4xx=debit - 415",
        "session - - bye null",
        "session - - no-credit 4012",
    ] {
        assert!(seen.iter().any(|found| found == wanted), "{wanted} is not among {seen:?}");
    }
    for record in records.iter().filter(|record| record["type"] == "session") {
        let class = if record["messages"] == 0 { Value::Null } else { "text".into() };
        assert_eq!(record["class"], class, "{record}");
    }
    for record in &records {
        assert_eq!((&record["account"], &record["calling_party"]), (&ALICE.into(), &ALICE.into()), "{record}");
        assert_eq!((&record["service"], &record["node"]), (&"retrieval".into(), &"proxy1".into()), "{record}");
    }
}

#[test]
fn records_of_a_chat_name_payer_parties_and_class() {
    const BOB: &str = "sip:bob@127.0.0.1";
    let folder = tempfile::tempdir().expect("a folder");
    let stage = Stage::new(|setup| with_records(setup, folder.path()).defined("WITH_CHAT", "1"));
    [ALICE, BOB].iter().for_each(|account| stage.proxy.set_account(account, 100));
    let billing = Billing::new(folder.path());
    let _bob = stage.server(&["from bob"], |_| {});
    let port = stage.place.local_addr().expect("a bound socket has an address").port();
    let mut alice = stage.client(ALICE, |options| options.request_uri = format!("{BOB}:{port}"));
    assert_eq!(alice.invite(), 200, "{}", stage.proxy.log());
    alice.bind();
    assert_eq!(alice.take(1, Reaction::Answer(200)).len(), 1, "{}", stage.proxy.log());
    assert_eq!(alice.deliver("text0", b"hello"), 200);
    assert_eq!(alice.deliver_in_chunks("picture", "image/jpeg", &[b'x'; 3000], 2), 200);
    stage.until_debited(ALICE, 2);
    stage.until_debited(BOB, 1);
    assert_eq!(alice.bye(), 200);
    assert!(eventually(SOON, || stage.proxy.statistic("sessions_active") == 0), "{}", stage.proxy.log());
    billing.expect_agreement(&stage.proxy);
    let records = billing.records();
    for (kind, account, classes) in [
        ("debit", ALICE, vec!["file", "text"]),
        ("debit", BOB, vec!["text"]),
        ("session", ALICE, vec!["-"]),
        ("session", BOB, vec!["text"]),
    ] {
        let mut found: Vec<&str> = records
            .iter()
            .filter(|record| record["type"] == kind && record["account"] == account)
            .map(|record| record["class"].as_str().unwrap_or("-"))
            .collect();
        found.sort_unstable();
        assert_eq!(found, classes, "{kind} {account}");
    }
    for record in &records {
        assert_eq!((&record["calling_party"], &record["called_party"]), (&ALICE.into(), &BOB.into()), "{record}");
        assert_eq!((&record["service"], &record["direction"]), (&"sending".into(), &"sent".into()), "{record}");
    }
}

#[test]
fn records_name_the_session_at_the_ocs() {
    let folder = tempfile::tempdir().expect("a folder");
    let charged = Charged::new(&[], |setup| with_records(setup, folder.path()).parameter("cdr_format", "\"csv\""));
    let _server = charged.stage.server(&["one"], |_| {});
    let mut client = charged.stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    charged.stage.until_debited(ALICE, 1);
    let at_ocs = charged.ocs.sessions();
    client.bye();
    charged.expect(99, 0, 1);
    let file = || fs::read_to_string(folder.path().join("proxy1-0000000001.csv")).unwrap_or_default();
    assert!(eventually(SOON, || !file().is_empty()), "{}", charged.stage.proxy.log());
    assert!(!at_ocs.is_empty(), "the reservation was ended with the only debit");
    assert!(at_ocs.iter().any(|session| file().contains(session.as_str())), "{at_ocs:?}\n{}", file());
}

#[test]
fn clean_stop_closes_the_open_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = format!("\"{}\"", folder.path().display());
    let mut stage = Stage::new(|setup| setup.parameter("cdr_dir", &dir).parameter("cdr_node", "\"proxy1\""));
    stage.proxy.set_account(ALICE, 100);
    let _server = stage.server(&["one"], |_| {});
    let mut client = stage.bound(|_| {});
    client.take(1, Reaction::Answer(200));
    stage.until_debited(ALICE, 1);
    let billing = Billing::new(folder.path());
    billing.take();
    assert!(billing.records().is_empty(), "a file is closed before its time");
    let (ended, _) = stage.proxy.terminate();
    assert!(ended.is_some_and(|ended| ended.success()), "{}", stage.proxy.log());
    billing.take();
    let kinds: BTreeSet<String> = billing.records().iter().map(|record| record["type"].to_string()).collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}\n{}", stage.proxy.log());
    let left = fs::read_dir(folder.path()).expect("readable").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name != ".proxy1.lock").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn records_wait_for_a_folder_that_cannot_be_written() {
    let disk = Disk::new(1);
    let folder = disk.path().join("cdr");
    let stage = Stage::new(|setup| with_records(setup, &folder));
    stage.proxy.set_account(ALICE, 100);
    let billing = Billing::new(&folder);
    let _server = stage.server(&["one"], |_| {});
    let retrieve = || {
        let mut client = stage.bound(|_| {});
        client.take(1, Reaction::Answer(200));
        client.bye();
    };
    let becomes = |name: &str, wanted: i64| {
        let reached = eventually(SOON, || stage.proxy.statistic(name) == wanted);
        assert!(reached, "{name} is not {wanted}\n{}", stage.proxy.log());
    };
    let mount = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).arg(&folder).status();
        assert!(status.as_ref().is_ok_and(|status| status.success()), "{program} {arguments:?}: {status:?}");
    };
    retrieve();
    becomes("cdr_failing", 1);
    becomes("cdr_pending", 2);
    fs::create_dir(&folder).expect("a folder");
    becomes("cdr_failing", 0);
    billing.expect_agreement(&stage.proxy);
    // Another program uses all free space; then a read-only file system is mounted there.
    let filler = disk.path().join("filler");
    assert!(fs::write(&filler, vec![0; 2 << 20]).is_err(), "the disk is not full");
    retrieve();
    becomes("cdr_failing", 1);
    fs::remove_file(&filler).expect("removed");
    becomes("cdr_failing", 0);
    mount("mount", &["-t", "tmpfs", "-o", "ro", "imcharge"]);
    retrieve();
    becomes("cdr_failing", 1);
    let is_named = || stage.proxy.log().contains("mounted read-only");
    assert!(eventually(SOON, is_named), "{}", stage.proxy.log());
    mount("umount", &["-l"]);
    becomes("cdr_failing", 0);
    billing.expect_agreement(&stage.proxy);
    assert_eq!(billing.records().len(), 6);
    assert_eq!((stage.proxy.statistic("engine_up"), stage.proxy.statistic("store_failing")), (1, 0));
    let log = stage.proxy.log();
    for reason in ["does not exist; create the folder", "no space on its disk", "mounted read-only"] {
        assert_eq!(times(&log, reason), 1, "{reason}\n{log}");
    }
}
