//! The store: journal and tables, other processes and broken files, retention of closed sessions.

use super::change::{Change, Debit, MessageRecord, NotDebited, SessionChange};
use super::*;
use crate::charge::ch2::{SessionKey, Trigger};
use crate::charge::content::ContentClass;
use crate::charge::event::{Direction, OfferedFiles, Reserve, Suspended};
use crate::charge::policy::{Policy, Settle};
use crate::charge::service::Service;
use crate::charge::session::Rule;
use rusqlite::Connection;

const DAY_MS: i64 = 86_400_000;

/// Current time in these tests, UNIX milliseconds.
const TODAY: i64 = 1_800_000_000_000;

fn s(seconds: u64) -> Time {
    Time(1_000_000_000 + seconds * 1_000_000)
}

/// Opens a store in a new folder.
pub(super) fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    Store::check(folder.path()).unwrap_or_else(|error| panic!("{error}"));
    let store = open(&folder);
    (folder, store)
}

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path(), None).unwrap_or_else(|error| panic!("{error}"))
}

/// Commits, and waits until the tables contain everything.
#[track_caller]
pub(super) fn write(store: &mut Store) {
    store.commit(true).unwrap_or_else(|error| panic!("{error}"));
    store.finish(Duration::from_secs(20)).unwrap_or_else(|error| panic!("{error}"));
    assert!(!store.is_pending(), "tables not written");
}

fn number(store: &Store, sql: &str) -> i64 {
    store.database.connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn session(call_id: &str) -> Session {
    let reserve = Reserve {
        call_id,
        account: "sip:alice@example.org",
        other: "",
        icid: "",
        direction: Direction::Pull,
        service: Service::Retrieval,
        recipients: 0,
        called: None,
        tariff: "",
        files: OfferedFiles::default(),
        messages: 2,
        page: None,
        suspended: Suspended::default(),
        inviting_tag: 0,
    };
    let tariff = "message:5".parse().expect("a tariff");
    Session::open(SessionKey::new(call_id.as_bytes(), b"", 1), &reserve, tariff, Policy::default(), 0, s(0))
}

/// Stores a session with `debits` debits and returns its row.
pub(super) fn put(store: &mut Store, opened_at: i64, closed_at: Option<i64>, debits: usize) -> i64 {
    let row = store.new_row();
    let mut session = session(&format!("call-{row}"));
    let (first, events) = session.take_trace();
    store.put(Change::Trace { row, first, zero: None, events });
    let (head, parts) = (session.head(), Vec::new());
    store.put(Change::Session(SessionChange { row, opened: Some((7, opened_at)), closed_at, head, parts }));
    let message = |message_id: String| {
        let class = ContentClass::Text;
        let (call_id, account, message_id) = ("c".into(), "sip:alice@example.org".into(), message_id.into());
        MessageRecord { row, call_id, message_id, account, octets: 10, units: 5, class, wall_ms: opened_at }
    };
    for number in 0..debits {
        let (trigger, rule) = (Trigger::Timeout, Some(Rule::ResponseTimeout(30, Settle::Debit)));
        let message = message(format!("m{number}"));
        let debit = Debit { message, part: 0, trigger, rule, ocs_session_id: None };
        store.put(Change::Debited(debit));
    }
    let rule = Rule::ServerError(506, Settle::Release);
    store.put(Change::NotDebited(NotDebited { message: message("free".into()), rule }));
    if closed_at.is_some() {
        store.put(Change::Forgotten { row });
    }
    row
}

/// Stores a session that was closed `days` days ago.
fn put_old(store: &mut Store, days: i64, debits: usize) -> i64 {
    let then = TODAY - days * DAY_MS;
    put(store, then, Some(then), debits)
}

/// Runs a cleanup pass if one is due.
fn pass(tables: &mut (Tables, Time), now: Time, wall_ms: i64) {
    if now >= tables.1 {
        let next = tables.0.remove_old(Retention { days: 30, now, wall_ms });
        tables.1 = next.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// Opens tables for cleanup passes, and when the next pass is due.
fn tables(folder: &tempfile::TempDir) -> (Tables, Time) {
    (Tables::open(folder.path(), false).unwrap_or_else(|error| panic!("{error}")), Time(0))
}

fn sessions(store: &Store) -> Vec<i64> {
    let mut statement = store.database.connection.prepare("SELECT id FROM sessions ORDER BY id").expect("a table");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<rusqlite::Result<_>>().expect("numbers")
}

#[test]
fn closed_sessions_are_removed_with_their_debits_and_traces() {
    let (folder, mut store) = store();
    let old = put_old(&mut store, 31, 3);
    let recent = put_old(&mut store, 29, 3);
    let latest = put_old(&mut store, 0, 0);
    for row in [old, recent] {
        let (_, events) = session("c").take_trace();
        store.put(Change::Trace { row, first: 100, zero: None, events });
    }
    store.put(Change::Account {
        id: "sip:alice@example.org".into(),
        account: Account { debited: 30, ..Account::default() },
    });
    write(&mut store);
    let mut tables = tables(&folder);
    pass(&mut tables, s(0), TODAY);
    assert_eq!(sessions(&store), [recent, latest]);
    for table in ["debits", "undebited", "trace_parts"] {
        assert_eq!(number(&store, &format!("SELECT count(*) FROM {table} WHERE session={old}")), 0, "{table}");
        assert!(number(&store, &format!("SELECT count(*) FROM {table} WHERE session={recent}")) > 0, "{table}");
    }
    // The account keeps its totals.
    assert_eq!(number(&store, "SELECT debited FROM accounts"), 30);
}

#[test]
fn unsettled_and_remembered_sessions_are_never_removed() {
    let (folder, mut store) = store();
    let then = TODAY - 100 * DAY_MS;
    let open = put(&mut store, then, None, 1);
    let remembered = put(&mut store, then, Some(then), 1);
    let holds = put(&mut store, then, Some(then), 1);
    let latest = put_old(&mut store, 0, 0);
    store.put(Change::Held { row: holds, units: 1 });
    write(&mut store);
    let mut tables = tables(&folder);
    let keep = "INSERT INTO states(session, state) VALUES(?1, x'00')";
    store.database.connection.execute(keep, [remembered]).expect("a state");
    for second in 0..3 {
        pass(&mut tables, s(second * 20), TODAY + second as i64 * 20_000);
    }
    assert_eq!(sessions(&store), [open, remembered, holds, latest]);
    for row in [open, remembered, holds] {
        assert!(store.is_debited(row, "m0", 0).expect("readable"), "a message of it could be debited again");
    }
}

#[test]
fn latest_session_is_kept_so_that_its_row_is_not_reused() {
    let (folder, mut store) = store();
    let rows = [put_old(&mut store, 60, 1), put_old(&mut store, 59, 1)];
    write(&mut store);
    let mut tables = tables(&folder);
    // The latest session is old, so the clock is not trusted for a day.
    pass(&mut tables, s(0), TODAY);
    assert_eq!(sessions(&store), rows);
    pass(&mut tables, s(86_401), TODAY + DAY_MS);
    assert_eq!(sessions(&store), [rows[1]]);
    drop(store);
    let mut again = open(&folder);
    assert_eq!(again.new_row(), rows[1] + 1);
}

#[test]
fn cleanup_pass_is_bounded_and_the_next_one_is_delayed() {
    let (folder, mut store) = store();
    for _ in 0..300 {
        put_old(&mut store, 31, 0);
    }
    put_old(&mut store, 0, 0);
    write(&mut store);
    let mut tables = tables(&folder);
    let left = |store: &Store| number(store, "SELECT count(*) FROM sessions");
    pass(&mut tables, s(0), TODAY);
    let after_one = left(&store);
    assert!((301 - 128..301).contains(&after_one), "{after_one}");
    // The next pass is due by the monotonic clock, whatever the wall clock does.
    for hours in 0..20 {
        pass(&mut tables, Time(s(0).0 + 199_000), TODAY + hours * 3_600_000);
    }
    assert_eq!(left(&store), after_one);
    let mut passes = 0;
    while left(&store) > 1 {
        passes += 1;
        pass(&mut tables, s(20 * passes), TODAY + 20_000 * passes as i64);
    }
    assert!(passes >= 2, "{passes}");
}

#[test]
fn session_with_many_messages_is_removed_in_several_passes() {
    let (folder, mut store) = store();
    let many = put_old(&mut store, 31, 2500);
    let latest = put_old(&mut store, 0, 0);
    write(&mut store);
    let mut tables = tables(&folder);
    let mut left = vec![number(&store, "SELECT count(*) FROM debits")];
    for second in 0..10 {
        pass(&mut tables, s(second), TODAY);
        left.push(number(&store, "SELECT count(*) FROM debits"));
    }
    assert!(left.windows(2).all(|pair| pair[0] - pair[1] <= 1000), "{left:?}");
    assert_eq!((left.last(), sessions(&store)), (Some(&0), vec![latest]));
    assert_eq!(number(&store, &format!("SELECT count(*) FROM trace_parts WHERE session={many}")), 0);
}

#[test]
fn wall_clock_jump_removes_nothing_for_a_day_and_can_be_corrected() {
    let (folder, mut store) = store();
    let rows: Vec<i64> = (0..50).map(|day| put_old(&mut store, 20 - day % 20, 1)).collect();
    write(&mut store);
    let mut tables = tables(&folder);
    pass(&mut tables, s(0), TODAY);
    assert_eq!(sessions(&store), rows);
    let years = 40 * 365 * DAY_MS;
    for hour in 1..24 {
        pass(&mut tables, s(hour * 3600), TODAY + years + hour as i64 * 3_600_000);
    }
    assert_eq!(sessions(&store), rows, "removed although the clock had jumped");
    // A jump back needs no delay.
    pass(&mut tables, s(30 * 3600), TODAY + 30 * 3_600_000);
    assert_eq!(sessions(&store).len(), rows.len());
}

#[test]
fn wall_clock_that_stays_ahead_is_trusted_after_a_day() {
    let (folder, mut store) = store();
    let _old = put_old(&mut store, 1, 1);
    let latest = put_old(&mut store, 0, 1);
    write(&mut store);
    let mut tables = tables(&folder);
    pass(&mut tables, s(0), TODAY);
    let ahead = TODAY + 60 * DAY_MS;
    pass(&mut tables, s(20), ahead);
    assert_eq!(sessions(&store).len(), 2);
    pass(&mut tables, s(86_500), ahead + 86_480_000);
    assert_eq!(sessions(&store), [latest]);
}

#[test]
fn first_trace_events_are_in_the_session_row_and_none_is_lost() {
    let (_folder, mut store) = store();
    let row = put(&mut store, TODAY, None, 0);
    write(&mut store);
    let (_, mut events) = session("c").take_trace();
    let event = events.remove(0);
    let mut first = number(&store, "SELECT count(*) FROM steps") as u32;
    assert!(first > 1, "{first}");
    for count in [3, 50, 40, 1] {
        let events = std::iter::repeat_n(event.clone(), count).collect();
        store.put(Change::Trace { row, first, zero: None, events });
        write(&mut store);
        first += count as u32;
    }
    assert_eq!(number(&store, "SELECT count(*) FROM trace_parts"), 2, "parts beyond the session row");
    let numbers = format!("SELECT count(DISTINCT number)=count(*) AND max(number)={} FROM steps", first - 1);
    assert_eq!(number(&store, &numbers), 1);
    assert_eq!(number(&store, &format!("SELECT count(*) FROM steps WHERE at={TODAY}")), i64::from(first));
}

#[test]
fn trace_view_decodes_any_message_id() {
    let (_folder, mut store) = store();
    let odd = "a\"b\\c\u{1}d'é";
    let rule = Some(Rule::ResponseTimeout(30, Settle::Debit));
    let (_, mut events) = session("c").take_trace();
    let mut event = events.remove(0);
    (event.rule, event.message_id, event.octets, event.balance) = (rule, Some(odd.into()), 7, Some(-3));
    let plain = events.remove(0);
    for (first, events) in [(0, vec![event, plain.clone()]), (2, vec![plain.clone()])] {
        store.put(Change::Trace { row: 1, first, zero: Some(5_000_000), events: events.into_iter().collect() });
    }
    store.put(Change::Trace { row: 1, first: 3, zero: Some(9_000_000), events: [plain].into_iter().collect() });
    write(&mut store);
    assert_eq!(number(&store, "SELECT count(*) FROM trace_parts"), 2, "consecutive events share a row");
    let sql = "SELECT message_id, rule, seconds, octets, balance, at FROM steps WHERE number=0";
    let read = store.database.connection.query_row(sql, [], |row| row.try_into());
    let read: (String, String, i64, i64, i64, i64) = read.expect("the event");
    assert_eq!(read, (odd.into(), "response_timeout".into(), 30, 7, -3, 5000));
    let numbers = "SELECT group_concat(number || step || ' ' || at) FROM steps WHERE message_id IS NULL";
    let read: String = store.database.connection.query_row(numbers, [], |row| row.get(0)).expect("the others");
    assert_eq!(read, "1reserve 5000,2reserve 5000,3reserve 9000");
}

#[test]
fn sessions_of_a_wrong_clock_do_not_protect_older_ones() {
    let (folder, mut store) = store();
    // More than a pass looks at, with a closing time in the year 2097.
    let wrong: Vec<i64> = (0..200).map(|_| put_old(&mut store, -70 * 365, 0)).collect();
    let live: Vec<i64> = (0..200).map(|_| put(&mut store, TODAY - 100 * DAY_MS, None, 0)).collect();
    let old: Vec<i64> = (0..200).map(|_| put_old(&mut store, 31, 0)).collect();
    let latest = put_old(&mut store, 0, 0);
    write(&mut store);
    let mut tables = tables(&folder);
    for pass_number in 0..30 {
        pass(&mut tables, s(20 * pass_number), TODAY + 20_000 * pass_number as i64);
    }
    let kept: Vec<i64> = wrong.iter().chain(&live).copied().chain([latest]).collect();
    assert_eq!(sessions(&store), kept, "{} were old", old.len());
}

fn set_balance(store: &mut Store, balance: i64) {
    store.put_account("sip:alice@example.org", Account { balance, ..Account::default() });
}

fn balance(store: &Store) -> Option<i64> {
    store.account("sip:alice@example.org").expect("readable").map(|account| account.balance)
}

const BALANCE: &str = "SELECT balance FROM accounts";

/// Drives the writer until `is_so`.
#[track_caller]
fn until(store: &mut Store, what: &str, mut is_so: impl FnMut(&mut Store) -> bool) {
    let begun = std::time::Instant::now();
    while !is_so(store) {
        store.drive_writer(None).unwrap_or_else(|error| panic!("{error}"));
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn commit_survives_the_process_before_it_is_in_the_tables() {
    let (folder, mut store) = store();
    set_balance(&mut store, 7);
    let row = put(&mut store, TODAY, None, 2);
    store.commit(false).expect("committed");
    set_balance(&mut store, 9);
    drop(store);
    let mut again = open(&folder);
    assert_eq!(balance(&again), Some(7), "an uncommitted change was kept");
    assert!(again.is_debited(row, "m1", 0).expect("readable"));
    assert_eq!(again.new_row(), row + 1);
    let live = again.live_sessions().expect("readable");
    assert_eq!(live.iter().map(|stored| (stored.row, stored.instance)).collect::<Vec<_>>(), [(row, 7)]);
    write(&mut again);
    assert_eq!((number(&again, BALANCE), number(&again, "SELECT count(*) FROM debits")), (7, 2));
}

#[test]
fn records_in_the_tables_are_not_replayed() {
    let (folder, mut store) = store();
    let row = put(&mut store, TODAY, None, 1);
    write(&mut store);
    let steps = number(&store, "SELECT count(*) FROM steps");
    drop(store);
    let mut again = open(&folder);
    assert!(again.pending.is_empty());
    set_balance(&mut again, 1);
    write(&mut again);
    assert_eq!(number(&again, "SELECT count(*) FROM steps"), steps);
    assert!(again.is_debited(row, "m0", 0).expect("readable"));
}

#[test]
fn lock_of_another_process_delays_only_the_tables() {
    let (folder, mut store) = store();
    let other = Connection::open(folder.path().join(LEDGER)).expect("a file");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    set_balance(&mut store, 1);
    let sequence = store.commit(true).expect("committed");
    until(&mut store, "the lock is reported", |store| store.is_failing());
    assert!(!store.is_unusable());
    let logged = store.failure.as_ref().and_then(|failure| failure.logged.clone()).unwrap_or_default();
    assert!(logged.contains("locked by another process"), "{logged}");
    until(&mut store, "the commit is on the disk", |store| store.durable().expect("synced") >= sequence);
    assert_eq!(store.answerable().expect("synced"), store.durable().expect("synced"), "commands are not answered");
    // Charging continues, and the store reads its own changes.
    for value in 2..100 {
        set_balance(&mut store, value);
        store.commit(false).expect("committed");
        store.drive_writer(None).expect("the journal is in its place");
        assert_eq!(balance(&store), Some(value));
    }
    assert_eq!(store.applied, 0);
    // Another engine takes over while the lock is held.
    drop(store);
    let mut store = open(&folder);
    assert_eq!(balance(&store), Some(99));
    other.execute_batch("ROLLBACK").expect("the lock is released");
    until(&mut store, "the tables are written", |store| !store.is_pending());
    assert_eq!((number(&store, BALANCE), store.is_failing()), (99, false));
}

#[test]
fn deleted_ledger_is_not_recreated_by_an_engine() {
    let (folder, store) = store();
    drop(store);
    for file in std::fs::read_dir(folder.path()).expect("a folder") {
        std::fs::remove_file(file.expect("a file").path()).expect("removed");
    }
    let opened = Store::open(folder.path(), None).err();
    assert!(matches!(opened, Some(StoreError::Missing { .. })), "{opened:?}");
    assert!(!folder.path().join(LEDGER).exists());
}

#[test]
fn journal_space_is_reused_despite_a_reader_older_than_the_engine() {
    let (folder, mut store) = store();
    put_old(&mut store, 1, 1);
    write(&mut store);
    let reader = Connection::open(folder.path().join(LEDGER)).expect("a file");
    reader.execute_batch("BEGIN; SELECT count(*) FROM accounts;").expect("a snapshot");
    put_old(&mut store, 0, 1);
    write(&mut store);
    drop(store);
    let mut store = open(&folder);
    put_old(&mut store, 0, 1);
    write(&mut store);
    assert_eq!(store.freed, store.journal.sequence(), "the tables are not durable");
    reader.execute_batch("COMMIT").expect("the transaction ends");
    assert_eq!(number(&store, "SELECT count(*) FROM debits"), 3);
    let intact: String =
        store.database.connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(intact, "ok");
}

#[test]
fn reader_of_a_snapshot_delays_empty_job() {
    let (folder, mut store) = store();
    set_balance(&mut store, 1);
    write(&mut store);
    let reader = Connection::open(folder.path().join(LEDGER)).expect("a file");
    reader.execute_batch("BEGIN; SELECT count(*) FROM accounts;").expect("a snapshot");
    let mut tables = tables(&folder).0;
    for value in 2..200 {
        set_balance(&mut store, value);
        write(&mut store);
    }
    tables.checkpoint().expect("a reader does not block it");
    let Report::Done { log_octets, .. } = tables.run(&empty_job()).expect("done") else {
        panic!("the job is not done")
    };
    assert!(log_octets > 0, "the log was restarted under a reader");
    assert_eq!(reader.query_row(BALANCE, [], |row| row.get(0)), Ok(1), "the snapshot has changed");
    reader.execute_batch("COMMIT").expect("the transaction ends");
    tables.checkpoint().expect("there is no reader");
    let Report::Done { log_octets, .. } = tables.run(&empty_job()).expect("done") else {
        panic!("the job is not done")
    };
    assert_eq!((log_octets, number(&store, BALANCE)), (0, 199));
}

fn empty_job() -> Job {
    Job { pending: Arc::default(), through: 0, retention: None, is_urgent: false }
}

#[test]
fn moved_ledger_is_noticed_and_used_again_when_it_returns() {
    let (folder, mut store) = store();
    set_balance(&mut store, 1);
    write(&mut store);
    let (path, away) = (folder.path().join(LEDGER), folder.path().join("away"));
    std::fs::rename(&path, &away).expect("moved");
    // Even while there is nothing to write.
    until(&mut store, "the file is reported missing", |store| store.is_unusable());
    std::fs::rename(&away, &path).expect("moved back");
    until(&mut store, "the file is used again", |store| !store.is_failing());
    std::fs::rename(&path, &away).expect("moved");
    set_balance(&mut store, 2);
    store.commit(false).expect("the journal is there");
    let error = Store::open(folder.path(), None).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("was deleted, moved or replaced"), "{error}");
    assert!(!path.exists(), "an empty ledger was created in its place");
    Store::check(folder.path()).expect("the host starts, and refuses sessions");
    std::fs::rename(&away, &path).expect("moved back");
    until(&mut store, "the file is used again", |store| !store.is_pending() && !store.is_failing());
    assert_eq!(number(&store, BALANCE), 2);
}

#[test]
fn damaged_ledger_is_reported_with_what_to_do() {
    let (folder, store) = store();
    drop(store);
    let path = folder.path().join(LEDGER);
    std::fs::write(&path, vec![b'x'; 40_960]).expect("damaged");
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(database::beside(&path, suffix));
    }
    let error = Store::open(folder.path(), None).err().expect("it is damaged");
    assert!(error.is_fatal() && error.to_string().contains("restore the file from a backup"), "{error}");
    Store::check(folder.path()).expect("the host starts, and refuses sessions");
}

#[test]
fn restored_backup_is_brought_up_to_date_by_the_journal() {
    let (folder, mut store) = store();
    set_balance(&mut store, 1);
    write(&mut store);
    let copy = folder.path().join("backup.sqlite");
    store.database.connection.execute("VACUUM INTO ?1", [copy.to_str()]).expect("a backup");
    for value in 2..5 {
        set_balance(&mut store, value);
        write(&mut store);
    }
    drop(store);
    let path = folder.path().join(LEDGER);
    for suffix in ["-wal", "-shm"] {
        let _ = std::fs::remove_file(database::beside(&path, suffix));
    }
    std::fs::rename(&copy, &path).expect("restored");
    // The journal still has all records since the backup.
    let mut store = open(&folder);
    write(&mut store);
    assert_eq!(number(&store, BALANCE), 4);
}
