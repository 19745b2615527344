//! The store under other processes and broken files, and how long closed sessions are kept.

use super::change::{Change, Debit, NotDebited, SessionChange};
use super::*;
use crate::charge::ch2::SessionKey;
use crate::charge::event::{Direction, Reserve, Suspended};
use crate::charge::policy::{Policy, Settle};
use crate::charge::session::Rule;
use rusqlite::Connection;

const DAY_MS: i64 = 86_400_000;

/// The day of these tests: UNIX milliseconds.
const TODAY: i64 = 1_800_000_000_000;

fn s(seconds: u64) -> Time {
    Time(1_000_000_000 + seconds * 1_000_000)
}

/// A store in a folder of its own.
fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    Store::check(folder.path()).unwrap_or_else(|error| panic!("{error}"));
    let store = open(&folder);
    (folder, store)
}

fn open(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path(), None).unwrap_or_else(|error| panic!("{error}"))
}

/// Commits and waits until the tables contain everything.
#[track_caller]
fn write(store: &mut Store) {
    store.commit(true).unwrap_or_else(|error| panic!("{error}"));
    store.finish(Duration::from_secs(20)).unwrap_or_else(|error| panic!("{error}"));
    assert!(!store.is_pending(), "the tables are written");
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
        messages: 2,
        suspended: Suspended::default(),
        inviting_tag: 0,
    };
    let tariff = "message:5".parse().expect("a tariff");
    Session::open(SessionKey::new(call_id.as_bytes(), b"", 1), &reserve, tariff, Policy::default(), 0, s(0))
}

/// Puts a session into the store that was opened and closed then, with so many debits; its row.
fn put(store: &mut Store, opened_at: i64, closed_at: Option<i64>, debits: usize) -> i64 {
    let row = store.new_row();
    let mut session = session(&format!("call-{row}"));
    let (first, steps) = session.take_trace();
    store.put(Change::Steps { row, first, zero: None, steps });
    let (head, parts) = (session.head(), Vec::new());
    store.put(Change::Session(SessionChange { row, opened: Some((7, opened_at)), closed_at, head, parts }));
    let (call_id, account): (Box<str>, Box<str>) = ("c".into(), "sip:alice@example.org".into());
    for message in 0..debits {
        let (call_id, account, message_id) = (call_id.clone(), account.clone(), format!("m{message}").into());
        let (trigger, code, wall_ms) = ("timeout".into(), 0, opened_at);
        let debit = Debit { row, call_id, message_id, part: 0, account, octets: 10, units: 5, trigger, code, wall_ms };
        store.put(Change::Debited(debit));
    }
    let rule = Rule::ServerError(506, Settle::Release);
    let message_id = "free".into();
    let free = NotDebited { row, call_id, message_id, account, octets: 10, units: 5, rule, wall_ms: opened_at };
    store.put(Change::NotDebited(free));
    if closed_at.is_some() {
        store.put(Change::Forgotten { row });
    }
    row
}

/// One that was closed so many days ago.
fn put_old(store: &mut Store, days: i64, debits: usize) -> i64 {
    let then = TODAY - days * DAY_MS;
    put(store, then, Some(then), debits)
}

/// A pass of the writer's, unless it is not time for the next one.
fn pass(tables: &mut (Tables, Time), now: Time, wall_ms: i64) {
    if now >= tables.1 {
        let next = tables.0.remove_old(Pass { days: 30, now, wall_ms });
        tables.1 = next.unwrap_or_else(|error| panic!("{error}"));
    }
}

/// What removes the history of a store.
fn tables(folder: &tempfile::TempDir) -> (Tables, Time) {
    (Tables::open(folder.path()).unwrap_or_else(|error| panic!("{error}")), Time(0))
}

fn sessions(store: &Store) -> Vec<i64> {
    let mut statement = store.database.connection.prepare("SELECT id FROM sessions ORDER BY id").expect("a table");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<rusqlite::Result<_>>().expect("numbers")
}

#[test]
fn closed_sessions_go_after_their_days_with_all_that_is_kept_of_them() {
    let (folder, mut store) = store();
    let old = put_old(&mut store, 31, 3);
    let recent = put_old(&mut store, 29, 3);
    let latest = put_old(&mut store, 0, 0);
    for row in [old, recent] {
        let (_, steps) = session("c").take_trace();
        store.put(Change::Steps { row, first: 100, zero: None, steps });
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
    // What was ever used stays in the account.
    assert_eq!(number(&store, "SELECT debited FROM accounts"), 30);
}

#[test]
fn what_is_not_settled_or_not_forgotten_stays_however_old_it_is() {
    let (folder, mut store) = store();
    let then = TODAY - 100 * DAY_MS;
    let open = put(&mut store, then, None, 1);
    let lingers = put(&mut store, then, Some(then), 1);
    let holds = put(&mut store, then, Some(then), 1);
    let latest = put_old(&mut store, 0, 0);
    store.put(Change::Held { row: holds, units: 1 });
    write(&mut store);
    let mut tables = tables(&folder);
    let keep = "INSERT INTO states(session, state) VALUES(?1, x'00')";
    store.database.connection.execute(keep, [lingers]).expect("a state");
    for second in 0..3 {
        pass(&mut tables, s(second * 20), TODAY + second as i64 * 20_000);
    }
    assert_eq!(sessions(&store), [open, lingers, holds, latest]);
    for row in [open, lingers, holds] {
        assert!(store.is_debited(row, "m0", 0).expect("readable"), "a message of it could be debited again");
    }
}

#[test]
fn the_latest_session_stays_so_that_its_number_does_not_come_again() {
    let (folder, mut store) = store();
    let rows = [put_old(&mut store, 60, 1), put_old(&mut store, 59, 1)];
    write(&mut store);
    let mut tables = tables(&folder);
    // Nothing has come since: whether the clock is right nobody knows for a day.
    pass(&mut tables, s(0), TODAY);
    assert_eq!(sessions(&store), rows);
    pass(&mut tables, s(86_401), TODAY + DAY_MS);
    assert_eq!(sessions(&store), [rows[1]]);
    drop(store);
    let mut again = open(&folder);
    assert_eq!(again.new_row(), rows[1] + 1);
}

#[test]
fn a_pass_is_bounded_in_sessions_and_the_next_one_does_not_come_at_once() {
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
    // Not before its time, whatever the wall clock says.
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
fn a_session_of_many_messages_goes_in_parts() {
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
fn a_clock_that_jumps_ahead_takes_nothing_for_a_day_and_is_set_right_without_a_loss() {
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
    assert_eq!(sessions(&store), rows, "nothing is removed on the word of such a clock");
    // Set right again: back is no reason to wait.
    pass(&mut tables, s(30 * 3600), TODAY + 30 * 3_600_000);
    assert_eq!(sessions(&store).len(), rows.len());
}

#[test]
fn a_clock_that_stays_ahead_is_believed_after_a_day() {
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
fn the_first_steps_stand_with_their_session_and_no_number_is_lost() {
    let (_folder, mut store) = store();
    let row = put(&mut store, TODAY, None, 0);
    write(&mut store);
    let (_, mut steps) = session("c").take_trace();
    let step = steps.remove(0);
    let mut first = number(&store, "SELECT count(*) FROM steps") as u32;
    assert!(first > 1, "{first}");
    for count in [3, 50, 40, 1] {
        let steps = std::iter::repeat_n(step.clone(), count).collect();
        store.put(Change::Steps { row, first, zero: None, steps });
        write(&mut store);
        first += count as u32;
    }
    assert_eq!(number(&store, "SELECT count(*) FROM trace_parts"), 2, "those beyond the first ones");
    let numbers = format!("SELECT count(DISTINCT number)=count(*) AND max(number)={} FROM steps", first - 1);
    assert_eq!(number(&store, &numbers), 1);
    assert_eq!(number(&store, &format!("SELECT count(*) FROM steps WHERE at={TODAY}")), i64::from(first));
}

#[test]
fn steps_are_rows_with_names_whatever_a_message_id_has_in_it() {
    let (_folder, mut store) = store();
    let odd = "a\"b\\c\u{1}d'é";
    let rule = Some(Rule::ResponseTimeout(30));
    let (_, mut steps) = session("c").take_trace();
    let mut step = steps.remove(0);
    (step.rule, step.message_id, step.octets, step.balance) = (rule, Some(odd.into()), 7, Some(-3));
    let plain = steps.remove(0);
    for (first, steps) in [(0, vec![step, plain.clone()]), (2, vec![plain.clone()])] {
        store.put(Change::Steps { row: 1, first, zero: Some(5_000_000), steps: steps.into_iter().collect() });
    }
    store.put(Change::Steps { row: 1, first: 3, zero: Some(9_000_000), steps: [plain].into_iter().collect() });
    write(&mut store);
    assert_eq!(number(&store, "SELECT count(*) FROM trace_parts"), 2, "steps that follow each other share a row");
    let sql = "SELECT message_id, rule, seconds, octets, balance, at FROM steps WHERE number=0";
    let read = store.database.connection.query_row(sql, [], |row| row.try_into());
    let read: (String, String, i64, i64, i64, i64) = read.expect("the step");
    assert_eq!(read, (odd.into(), "response_timeout".into(), 30, 7, -3, 5000));
    let numbers = "SELECT group_concat(number || step || ' ' || at) FROM steps WHERE message_id IS NULL";
    let read: String = store.database.connection.query_row(numbers, [], |row| row.get(0)).expect("the others");
    assert_eq!(read, "1reserve 5000,2reserve 5000,3reserve 9000");
}

#[test]
fn sessions_of_a_wrong_clock_do_not_keep_the_others() {
    let (folder, mut store) = store();
    // More than a pass looks at: closed in the year 2097, as it seemed.
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

/// Lets the store work until something is so.
#[track_caller]
fn until(store: &mut Store, what: &str, mut is_so: impl FnMut(&mut Store) -> bool) {
    let begun = std::time::Instant::now();
    while !is_so(store) {
        store.follow(None).unwrap_or_else(|error| panic!("{error}"));
        assert!(begun.elapsed() < Duration::from_secs(30), "not within 30 s: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_commit_survives_the_process_before_the_tables_contain_it() {
    let (folder, mut store) = store();
    set_balance(&mut store, 7);
    let row = put(&mut store, TODAY, None, 2);
    store.commit(false).expect("committed");
    set_balance(&mut store, 9);
    drop(store);
    let mut again = open(&folder);
    assert_eq!(balance(&again), Some(7), "what was not committed is gone");
    assert!(again.is_debited(row, "m1", 0).expect("readable"));
    assert_eq!(again.new_row(), row + 1);
    let live = again.live_sessions().expect("readable");
    assert_eq!(live.iter().map(|stored| (stored.row, stored.instance)).collect::<Vec<_>>(), [(row, 7)]);
    write(&mut again);
    assert_eq!((number(&again, BALANCE), number(&again, "SELECT count(*) FROM debits")), (7, 2));
}

#[test]
fn what_the_tables_contain_is_not_replayed() {
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
fn a_lock_of_another_process_delays_the_tables_and_nothing_else() {
    let (folder, mut store) = store();
    let other = Connection::open(folder.path().join(LEDGER)).expect("a file");
    other.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    set_balance(&mut store, 1);
    let sequence = store.commit(true).expect("committed");
    until(&mut store, "the lock is reported", |store| store.is_failing());
    assert!(!store.is_unusable());
    let told = store.failing.as_ref().and_then(|failing| failing.told.clone()).unwrap_or_default();
    assert!(told.contains("locked by another process"), "{told}");
    until(&mut store, "the commit is on the disk", |store| store.durable().expect("synced") >= sequence);
    assert_eq!(store.shown().expect("synced"), store.durable().expect("synced"), "operators are answered");
    // It is open for decisions, and reads what it has decided.
    for value in 2..100 {
        set_balance(&mut store, value);
        store.commit(false).expect("committed");
        store.follow(None).expect("it goes on");
        assert_eq!(balance(&store), Some(value));
    }
    assert_eq!(store.applied, 0);
    // Another engine takes over meanwhile.
    drop(store);
    let mut store = open(&folder);
    assert_eq!(balance(&store), Some(99));
    other.execute_batch("ROLLBACK").expect("the lock is given back");
    until(&mut store, "the tables are written", |store| !store.is_pending());
    assert_eq!((number(&store, BALANCE), store.is_failing()), (99, false));
}

#[test]
fn an_engine_makes_no_new_ledger_where_everything_was_deleted() {
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
fn a_reader_that_was_there_before_the_engine_does_not_keep_the_journal_from_being_used_again() {
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
    assert_eq!(store.freed, store.journal.sequence(), "the tables contain it on the disk");
    reader.execute_batch("COMMIT").expect("it ends");
    assert_eq!(number(&store, "SELECT count(*) FROM debits"), 3);
    let intact: String =
        store.database.connection.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(intact, "ok");
}

#[test]
fn a_reader_keeps_the_log_and_delays_nothing() {
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
    tables.checkpoint().expect("waits for no reader");
    let Report::Done { log_octets, .. } = tables.run(&nothing()).expect("done") else { panic!("it is done") };
    assert!(log_octets > 0, "the reader needs the log");
    assert_eq!(reader.query_row(BALANCE, [], |row| row.get(0)), Ok(1), "a snapshot stays as it was");
    reader.execute_batch("COMMIT").expect("it ends");
    tables.checkpoint().expect("nobody needs the log");
    let Report::Done { log_octets, .. } = tables.run(&nothing()).expect("done") else { panic!("it is done") };
    assert_eq!((log_octets, number(&store, BALANCE)), (0, 199));
}

fn nothing() -> Job {
    Job { pending: Arc::default(), through: 0, history: None, is_urgent: false }
}

#[test]
fn a_ledger_that_is_moved_away_is_noticed_and_comes_back() {
    let (folder, mut store) = store();
    set_balance(&mut store, 1);
    write(&mut store);
    let (path, away) = (folder.path().join(LEDGER), folder.path().join("away"));
    std::fs::rename(&path, &away).expect("moved");
    // Also while there is nothing to write.
    until(&mut store, "it is noticed", |store| store.is_unusable());
    std::fs::rename(&away, &path).expect("moved back");
    until(&mut store, "it is back", |store| !store.is_failing());
    std::fs::rename(&path, &away).expect("moved");
    set_balance(&mut store, 2);
    store.commit(false).expect("the journal is there");
    let error = Store::open(folder.path(), None).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("was deleted, moved or replaced"), "{error}");
    assert!(!path.exists(), "no empty ledger is made in its place");
    Store::check(folder.path()).expect("the host starts, and refuses sessions");
    std::fs::rename(&away, &path).expect("moved back");
    until(&mut store, "it is back", |store| !store.is_pending() && !store.is_failing());
    assert_eq!(number(&store, BALANCE), 2);
}

#[test]
fn a_damaged_ledger_is_named_with_what_to_do() {
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
fn a_copy_of_an_earlier_day_is_not_taken_for_the_ledger_of_the_journal() {
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
    // The journal still has all records since: they bring the copy up to the last commit.
    let mut store = open(&folder);
    write(&mut store);
    assert_eq!(number(&store, BALANCE), 4);
}
