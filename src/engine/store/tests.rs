//! The file over its versions, and what is kept of closed sessions for how long.

use super::change::{Change, Debit, NotDebited, SessionChange};
use super::*;
use crate::charge::ch2::{Operation, Reservation, SessionKey};
use crate::charge::event::{Direction, Event, Reserve};
use crate::charge::policy::{Policy, Settle};
use crate::charge::session::{Output, Rule};
use crate::charge::tariff::Quota;

const DAY_MS: i64 = 86_400_000;

/// The day of these tests: UNIX milliseconds.
const TODAY: i64 = 1_800_000_000_000;

fn s(seconds: u64) -> Time {
    Time(1_000_000_000 + seconds * 1_000_000)
}

/// A store in a folder of its own.
fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().expect("a folder");
    let mut store = Store::open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
    store.recover().unwrap_or_else(|error| panic!("{error}"));
    (folder, store)
}

fn number(store: &Store, sql: &str) -> i64 {
    store.connection.query_row(sql, [], |row| row.get(0)).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn session(call_id: &str) -> Session {
    let reserve = Reserve {
        call_id,
        account: "sip:alice@example.org",
        other: "",
        icid: "",
        direction: Direction::Pull,
        messages: 2,
        carried: [0; 4],
    };
    let tariff = "message:5".parse().expect("a tariff");
    Session::open(SessionKey::of(call_id.as_bytes(), b"", 1), &reserve, tariff, Policy::default(), 0, s(0))
}

/// Puts a session into the store that was opened and closed then, with so many debits; its row.
fn put(store: &mut Store, opened_at: i64, closed_at: Option<i64>, debits: usize) -> i64 {
    let row = store.new_row();
    let mut session = session(&format!("call-{row}"));
    let (first, steps) = session.take_steps();
    store.put(Change::Steps { row, first, zero: None, steps });
    let state = postcard::to_stdvec(&session).expect("a session is storable");
    store.put(Change::Session(SessionChange { row, opened: Some((7, opened_at)), closed_at, state }));
    let (call_id, account): (Box<str>, Box<str>) = ("c".into(), "sip:alice@example.org".into());
    for message in 0..debits {
        let (call_id, account, message_id) = (call_id.clone(), account.clone(), format!("m{message}").into());
        let (trigger, code, wall_ms) = ("timeout".into(), 0, opened_at);
        let debit = Debit { row, call_id, message_id, account, octets: 10, units: 5, trigger, code, wall_ms };
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

fn pass(store: &mut Store, now: Time, wall_ms: i64) {
    store.remove_old(30, now, wall_ms).unwrap_or_else(|error| panic!("{error}"));
}

fn sessions(store: &Store) -> Vec<i64> {
    let mut statement = store.connection.prepare("SELECT id FROM sessions ORDER BY id").expect("a table");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<rusqlite::Result<_>>().expect("numbers")
}

#[test]
fn closed_sessions_go_after_their_days_with_all_that_is_kept_of_them() {
    let (_folder, mut store) = store();
    let old = put_old(&mut store, 31, 3);
    let recent = put_old(&mut store, 29, 3);
    let latest = put_old(&mut store, 0, 0);
    for row in [old, recent] {
        let (_, steps) = session("c").take_steps();
        store.put(Change::Steps { row, first: 100, zero: None, steps });
    }
    store.put(Change::Account {
        id: "sip:alice@example.org".into(),
        account: Account { debited: 30, ..Account::default() },
    });
    store.write().expect("written");
    pass(&mut store, s(0), TODAY);
    assert_eq!(sessions(&store), [recent, latest]);
    for table in ["debits", "undebited", "ladders"] {
        assert_eq!(number(&store, &format!("SELECT count(*) FROM {table} WHERE session={old}")), 0, "{table}");
        assert!(number(&store, &format!("SELECT count(*) FROM {table} WHERE session={recent}")) > 0, "{table}");
    }
    // What was ever used stays in the account.
    assert_eq!(number(&store, "SELECT debited FROM accounts"), 30);
}

#[test]
fn what_is_not_settled_or_not_forgotten_stays_however_old_it_is() {
    let (_folder, mut store) = store();
    let then = TODAY - 100 * DAY_MS;
    let open = put(&mut store, then, None, 1);
    let lingers = put(&mut store, then, Some(then), 1);
    let holds = put(&mut store, then, Some(then), 1);
    let latest = put_old(&mut store, 0, 0);
    store.put(Change::Hold { row: holds, hold: Some(Hold { account: "a".into(), units: 1, expires_at: 0 }) });
    store.write().expect("written");
    let keep = "INSERT INTO states(session, state) VALUES(?1, x'00')";
    store.connection.execute(keep, [lingers]).expect("a state");
    for second in 0..3 {
        pass(&mut store, s(second * 20), TODAY + second as i64 * 20_000);
    }
    assert_eq!(sessions(&store), [open, lingers, holds, latest]);
    for row in [open, lingers, holds] {
        assert!(store.is_debited(row, "m0").expect("readable"), "a message of it could be debited again");
    }
}

#[test]
fn the_latest_session_stays_so_that_its_number_does_not_come_again() {
    let (folder, mut store) = store();
    let rows = [put_old(&mut store, 60, 1), put_old(&mut store, 59, 1)];
    store.write().expect("written");
    // Nothing has come since: whether the clock is right nobody knows for a day.
    pass(&mut store, s(0), TODAY);
    assert_eq!(sessions(&store), rows);
    pass(&mut store, s(86_401), TODAY + DAY_MS);
    assert_eq!(sessions(&store), [rows[1]]);
    drop(store);
    let mut again = Store::open(folder.path()).expect("it opens");
    again.recover().expect("it is read");
    assert_eq!(again.new_row(), rows[1] + 1);
}

#[test]
fn a_pass_is_bounded_in_sessions_and_the_next_one_does_not_come_at_once() {
    let (_folder, mut store) = store();
    for _ in 0..300 {
        put_old(&mut store, 31, 0);
    }
    put_old(&mut store, 0, 0);
    store.write().expect("written");
    let left = |store: &Store| number(store, "SELECT count(*) FROM sessions");
    pass(&mut store, s(0), TODAY);
    let after_one = left(&store);
    assert!((301 - 128..301).contains(&after_one), "{after_one}");
    // Not before its time, whatever the wall clock says.
    for hours in 0..20 {
        pass(&mut store, Time(s(0).0 + 199_000), TODAY + hours * 3_600_000);
    }
    assert_eq!(left(&store), after_one);
    let mut passes = 0;
    while left(&store) > 1 {
        passes += 1;
        pass(&mut store, s(20 * passes), TODAY + 20_000 * passes as i64);
    }
    assert!(passes >= 2, "{passes}");
}

#[test]
fn a_session_of_many_messages_goes_in_parts() {
    let (_folder, mut store) = store();
    let many = put_old(&mut store, 31, 2500);
    let latest = put_old(&mut store, 0, 0);
    store.write().expect("written");
    let mut left = vec![number(&store, "SELECT count(*) FROM debits")];
    for second in 0..10 {
        pass(&mut store, s(second), TODAY);
        left.push(number(&store, "SELECT count(*) FROM debits"));
    }
    assert!(left.windows(2).all(|pair| pair[0] - pair[1] <= 1000), "{left:?}");
    assert_eq!((left.last(), sessions(&store)), (Some(&0), vec![latest]));
    assert_eq!(number(&store, &format!("SELECT count(*) FROM ladders WHERE session={many}")), 0);
}

#[test]
fn a_clock_that_jumps_ahead_takes_nothing_for_a_day_and_is_set_right_without_a_loss() {
    let (_folder, mut store) = store();
    let rows: Vec<i64> = (0..50).map(|day| put_old(&mut store, 20 - day % 20, 1)).collect();
    store.write().expect("written");
    pass(&mut store, s(0), TODAY);
    assert_eq!(sessions(&store), rows);
    let years = 40 * 365 * DAY_MS;
    for hour in 1..24 {
        pass(&mut store, s(hour * 3600), TODAY + years + hour as i64 * 3_600_000);
    }
    assert_eq!(sessions(&store), rows, "nothing is removed on the word of such a clock");
    // Set right again: back is no reason to wait.
    pass(&mut store, s(30 * 3600), TODAY + 30 * 3_600_000);
    assert_eq!(sessions(&store).len(), rows.len());
}

#[test]
fn a_clock_that_stays_ahead_is_believed_after_a_day() {
    let (_folder, mut store) = store();
    let _old = put_old(&mut store, 1, 1);
    let latest = put_old(&mut store, 0, 1);
    store.write().expect("written");
    pass(&mut store, s(0), TODAY);
    let ahead = TODAY + 60 * DAY_MS;
    pass(&mut store, s(20), ahead);
    assert_eq!(sessions(&store).len(), 2);
    pass(&mut store, s(86_500), ahead + 86_480_000);
    assert_eq!(sessions(&store), [latest]);
}

#[test]
fn the_first_steps_stand_with_their_session_and_no_number_is_lost() {
    let (_folder, mut store) = store();
    let row = put(&mut store, TODAY, None, 0);
    store.write().expect("written");
    let (_, mut steps) = session("c").take_steps();
    let step = steps.remove(0);
    let mut first = number(&store, "SELECT count(*) FROM steps") as u32;
    assert!(first > 1, "{first}");
    for count in [3, 50, 40, 1] {
        let steps = std::iter::repeat_n(step.clone(), count).collect();
        store.put(Change::Steps { row, first, zero: None, steps });
        store.write().expect("written");
        first += count as u32;
    }
    assert_eq!(number(&store, "SELECT count(*) FROM ladders"), 2, "those beyond the first ones");
    let numbers = format!("SELECT count(DISTINCT number)=count(*) AND max(number)={} FROM steps", first - 1);
    assert_eq!(number(&store, &numbers), 1);
    assert_eq!(number(&store, &format!("SELECT count(*) FROM steps WHERE at={TODAY}")), first.into());
}

#[test]
fn steps_are_rows_with_names_whatever_a_message_id_has_in_it() {
    let (_folder, mut store) = store();
    let odd = "a\"b\\c\u{1}d'é";
    let rule = Some(Rule::ResponseTimeout(30));
    let (_, mut steps) = session("c").take_steps();
    let mut step = steps.remove(0);
    (step.rule, step.message_id, step.octets, step.balance) = (rule, Some(odd.into()), 7, Some(-3));
    let plain = steps.remove(0);
    for (first, steps) in [(0, vec![step, plain.clone()]), (2, vec![plain.clone()])] {
        store.put(Change::Steps { row: 1, first, zero: Some(5_000_000), steps: steps.into_iter().collect() });
    }
    store.put(Change::Steps { row: 1, first: 3, zero: Some(9_000_000), steps: [plain].into_iter().collect() });
    store.write().expect("written");
    assert_eq!(number(&store, "SELECT count(*) FROM ladders"), 2, "steps that follow each other share a row");
    let sql = "SELECT message_id, rule, seconds, octets, balance, at FROM steps WHERE number=0";
    let read = store.connection.query_row(sql, [], |row| row.try_into());
    let read: (String, String, i64, i64, i64, i64) = read.expect("the step");
    assert_eq!(read, (odd.into(), "response_timeout".into(), 30, 7, -3, 5000));
    let numbers = "SELECT group_concat(number || step || ' ' || at) FROM steps WHERE message_id IS NULL";
    let read: String = store.connection.query_row(numbers, [], |row| row.get(0)).expect("the others");
    assert_eq!(read, "1reserve 5000,2reserve 5000,3reserve 9000");
}

/// Makes a file of version 3 from SQL.
fn version_3(sql: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let connection = Connection::open(folder.path().join(LEDGER)).expect("a file");
    connection.execute_batch(sql).unwrap_or_else(|error| panic!("{error}"));
    let marks = format!("PRAGMA application_id={APPLICATION}; PRAGMA user_version=3;");
    connection.execute_batch(&marks).expect("marked");
    folder
}

fn schema_of(store: &Store) -> Vec<String> {
    let sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name";
    let mut statement = store.connection.prepare(sql).expect("a schema");
    let rows = statement.query_map([], |row| row.get(0)).expect("rows");
    rows.collect::<rusqlite::Result<_>>().expect("texts")
}

#[test]
fn a_file_of_version_3_becomes_one_of_this() {
    let folder = version_3(schema::TABLES);
    let upgraded = Store::open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
    let (_fresh_folder, fresh) = store();
    assert_eq!(schema_of(&upgraded), schema_of(&fresh));
    assert_eq!(number(&upgraded, "PRAGMA user_version"), VERSION);
    drop(upgraded);
    Store::open(folder.path()).unwrap_or_else(|error| panic!("a second time: {error}"));
}

#[test]
fn older_and_newer_files_are_refused_and_left_as_they_are() {
    for version in [2, VERSION + 1] {
        let folder = version_3(schema::TABLES);
        let connection = Connection::open(folder.path().join(LEDGER)).expect("a file");
        connection.pragma_update(None, "user_version", version).expect("marked");
        let error = Store::open(folder.path()).err().map(|error| error.to_string()).unwrap_or_default();
        let word = if version == 2 { "before its first release" } else { "written by a newer imcharge" };
        assert!(error.contains(word), "{error}");
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).expect("a number");
        assert_eq!(found, version);
    }
}

/// What version 3 left on the ledger: a closed session with two debits, and an open one with a message outstanding.
const LEDGER_OF_3: &str = include_str!("tests/ledger-of-version-3.sql");

/// And before a charging system: a debit that is held back, and one that waits behind it.
const DIAMETER_OF_3: &str = include_str!("tests/diameter-of-version-3.sql");

#[test]
fn an_open_session_of_version_3_goes_on_and_its_money_is_as_it_was() {
    let folder = version_3(&format!("{}{LEDGER_OF_3}", schema::TABLES));
    let mut store = Store::open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
    store.recover().unwrap_or_else(|error| panic!("{error}"));
    let account = store.account("sip:alice@example.org").expect("readable").expect("an account");
    assert_eq!((account.balance, account.held, account.debited), (88, 9, 3));
    assert_eq!(number(&store, "SELECT count(*) FROM debits"), 3);
    let mut live = store.live_sessions().expect("readable");
    assert_eq!(live.iter().map(|stored| stored.session.phase()).collect::<Vec<_>>(), ["closed", "open"]);
    let session = &mut live[1].session;
    assert_eq!(session.messages_outstanding().count(), 1);
    assert!(session.steps_dropped() >= 7, "{}", session.steps_dropped());
    // The host is gone: what was outstanding is debited.
    let now = session.opened().after_seconds(9);
    session.resume(now);
    session.event(&crate::charge::event::Event::HostStopped, now);
    session.gate_closed(session.taken(), now);
    let waiting: Vec<_> =
        session.waiting_at_the_enabler().filter_map(|one| Some((one.rule?.word(), one.rule?.cause()))).collect();
    assert_eq!(waiting, [("close=debit", Some("host-stopped"))]);
}

#[test]
fn a_debit_that_version_3_held_back_is_held_back() {
    // Once from the table, once from the journal of an engine that was killed before it had written the tables.
    for in_journal in [false, true] {
        let folder = version_3(&format!("{}{DIAMETER_OF_3}", schema::TABLES));
        if in_journal {
            let file = Connection::open(folder.path().join(LEDGER)).expect("a file");
            let state = file.query_row("SELECT state FROM states", [], |row| row.get(0)).expect("a state");
            let change = Change::Session(SessionChange { row: 1, opened: None, closed_at: None, state });
            let changes = postcard::to_stdvec(&change).expect("a change is storable");
            file.execute("INSERT INTO journal(changes) VALUES(?1)", [changes]).expect("a journal");
            file.execute("UPDATE states SET state=x''", []).expect("an old state");
        }
        let mut store = Store::open(folder.path()).unwrap_or_else(|error| panic!("{error}"));
        store.recover().unwrap_or_else(|error| panic!("{error}"));
        let live = store.live_sessions().expect("readable");
        let waiting: Vec<_> = live[0].session.waiting_at_the_enabler().collect();
        let told: Vec<_> = waiting.iter().map(|one| (one.work.word(), one.state, one.rule.map(Rule::word))).collect();
        let rule = Some("debit_on=response");
        assert_eq!(told, [("debit", "held-back", rule), ("debit", "queued", rule)]);
        assert!(live[0].session.held_back().is_some_and(|message_id| message_id.starts_with("msg")));
        assert_eq!(number(&store, "SELECT count(*) FROM journal"), 0);
    }
}

/// What version 4 has left at a charging system, before a session's route and its dialog said as much as they do now.
const DIAMETER_OF_4: &str = include_str!("tests/diameter-of-version-4.sql");

#[test]
fn sessions_of_the_first_builds_of_version_4_go_on() {
    let (_folder, store) = store();
    store.connection.execute_batch(DIAMETER_OF_4).expect("its tables are these");
    let mut live = store.live_sessions().expect("readable");
    assert_eq!(live.iter().map(|stored| stored.session.phase()).collect::<Vec<_>>(), ["closed", "open"]);
    let over = &mut live[0].session;
    let now = over.opened().after_seconds(2);
    over.resume(now);
    // A 2xx that is read late brings no dialog back that had its BYE.
    over.event(&Event::Answered, now);
    over.timer(now.after_seconds(40));
    assert_eq!(std::iter::from_fn(|| over.poll()).last(), Some(Output::Forget));
    let open = &mut live[1].session;
    let now = open.opened().after_seconds(2);
    open.resume(now);
    open.event(&Event::HostStopped, now);
    open.gate_closed(open.taken(), now);
    let asked = std::iter::from_fn(|| open.poll()).find_map(|output| match output {
        Output::Ask(request) => Some(request),
        _ => None,
    });
    let asked = asked.expect("nine units are held");
    let reservation = Reservation::Open { opened_by: 0, outstanding: Quota(9) };
    assert_eq!((asked.operation, asked.reservation), (Operation::Release, reservation));
    assert_eq!(asked.route.as_deref(), Some("*ocs.example.com"));
}

#[test]
fn sessions_of_a_wrong_clock_do_not_keep_the_others() {
    let (_folder, mut store) = store();
    // More than a pass looks at: closed in the year 2097, as it seemed.
    let wrong: Vec<i64> = (0..200).map(|_| put_old(&mut store, -70 * 365, 0)).collect();
    let live: Vec<i64> = (0..200).map(|_| put(&mut store, TODAY - 100 * DAY_MS, None, 0)).collect();
    let old: Vec<i64> = (0..200).map(|_| put_old(&mut store, 31, 0)).collect();
    let latest = put_old(&mut store, 0, 0);
    store.write().expect("written");
    for pass_number in 0..30 {
        pass(&mut store, s(20 * pass_number), TODAY + 20_000 * pass_number as i64);
    }
    let kept: Vec<i64> = wrong.iter().chain(&live).copied().chain([latest]).collect();
    assert_eq!(sessions(&store), kept, "{} were old", old.len());
}
