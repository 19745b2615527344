//! Other processes that use the ledger file, and disk faults, under traffic: accounts stay correct, and no INVITE is
//! delayed.

use super::{ALICE, Stage};
use imcharge_testkit::parties::client::Reaction;
use imcharge_testkit::proxy::Account;
use imcharge_testkit::{eventually, unique};
use rusqlite::Connection;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// Initial balance of Alice.
const BALANCE: i64 = 1_000_000;

/// A proxy with a separate state directory.
struct Case {
    stage: Stage,
    state: PathBuf,
}

impl Case {
    fn on(state: &Path) -> Case {
        let place = format!("\"state_dir\", \"{}\"", state.display());
        let stage = Stage::new(|setup| setup.changed("\"state_dir\", STATE_DIR", &place));
        stage.proxy.set_account(ALICE, BALANCE);
        Case { stage, state: state.to_owned() }
    }

    fn ledger(&self) -> Connection {
        Connection::open(self.state.join("ledger.sqlite")).expect("the ledger opens")
    }

    fn statistic(&self, name: &str) -> i64 {
        self.stage.proxy.statistic(name)
    }

    #[track_caller]
    fn until(&self, name: &str, value: i64) {
        let is_so = eventually(SOON, || self.statistic(name) == value);
        assert!(is_so, "{name} is not {value} but {}\n{}", self.statistic(name), self.stage.proxy.log());
    }

    /// Retrieves messages one by one while `happens` runs, and asserts that each is delivered. Returns their number, and the
    /// longest time from an INVITE to its answer.
    fn retrieve_while(&self, happens: impl FnOnce()) -> (i64, Duration) {
        self.retrieve_every(Duration::ZERO, happens)
    }

    /// The same, with a pause after each retrieval.
    fn retrieve_every(&self, pause: Duration, happens: impl FnOnce()) -> (i64, Duration) {
        let _server = self.stage.server(&["one"], |_| {});
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let traffic = scope.spawn(|| {
                let (mut count, mut longest) = (0, Duration::ZERO);
                while !over.load(Ordering::Relaxed) {
                    let mut client = self.stage.client(ALICE, |_| {});
                    let asked = Instant::now();
                    assert_eq!(client.invite(), 200, "{}", self.stage.proxy.log());
                    longest = longest.max(asked.elapsed());
                    client.bind();
                    assert_eq!(client.take(1, Reaction::Answer(200)).len(), 1, "{}", self.stage.proxy.log());
                    assert_eq!(client.bye(), 200);
                    count += 1;
                    std::thread::sleep(pause);
                }
                (count, longest)
            });
            happens();
            over.store(true, Ordering::Relaxed);
            traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Asserts that each retrieval is debited once, nothing is held, and no engine was restarted.
    #[track_caller]
    fn expect_debited(&self, count: i64) {
        self.expect_debits(count, 0);
        assert_eq!(self.statistic("engine_restarts"), 0);
    }

    /// The same after `paid_in` units were added; engines may have been restarted.
    #[track_caller]
    fn expect_debits(&self, count: i64, paid_in: i64) {
        let wanted = Account { balance: BALANCE + paid_in - count, held: 0, debited: count };
        let sql = "SELECT balance, held, debited, (SELECT count(*) FROM debits) FROM accounts WHERE id=?1";
        let mut found = None;
        let is_so = eventually(SOON, || {
            let read = self.ledger().query_row(sql, [ALICE], |row| {
                let account = Account { balance: row.get(0)?, held: row.get(1)?, debited: row.get(2)? };
                Ok((account, row.get::<_, i64>(3)?))
            });
            found = read.ok();
            found == Some((wanted, count))
        });
        assert!(is_so, "{count} were retrieved: {found:?}\n{}", self.stage.proxy.log());
    }
}

/// Returns how often a text occurs in the log.
pub fn times(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

/// Lets a fault last for this time.
fn lasts(span: Duration) {
    std::thread::sleep(span);
}

/// Locks the ledger for this time.
fn lock_for(span: Duration) {
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case::on(folder.path());
    let browser = case.ledger();
    let (count, longest) = case.retrieve_while(|| {
        browser.execute_batch("BEGIN IMMEDIATE").expect("locked");
        case.until("store_failing", 1);
        lasts(span);
        // Charging continues from the journal.
        assert_eq!(case.statistic("engine_up"), 1);
        assert!(case.statistic("journal_octets") > 0);
        let log = case.stage.proxy.log();
        let holder = format!("(pid {})", std::process::id());
        assert!(log.contains("ledger.sqlite: locked by ") && log.contains(&holder), "{log}");
        assert_eq!(times(&log, "ledger.sqlite: locked by"), 1, "logged once\n{log}");
        browser.execute_batch("ROLLBACK").expect("unlocked");
        case.until("store_failing", 0);
    });
    assert!(count > 5 && longest < Duration::from_secs(2), "{count} retrievals, the longest INVITE {longest:?}");
    case.expect_debited(count);
    assert_eq!(times(&case.stage.proxy.log(), "can be written again"), 1);
}

/// Each start opens the ledger, and reads from the journal what the tables do not contain.
#[test]
fn engines_that_are_killed_while_the_ledger_is_locked_lose_and_double_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case::on(folder.path());
    let browser = case.ledger();
    let proxy = &case.stage.proxy;
    let (count, _) = case.retrieve_while(|| {
        browser.execute_batch("BEGIN IMMEDIATE").expect("locked");
        for _ in 0..10 {
            let engine = proxy.engine_pid().expect("an engine");
            proxy.signal("KILL", Some(engine));
            let is_back = eventually(SOON, || {
                let is_new = proxy.engine_pid().is_some_and(|pid| pid != engine);
                is_new && case.statistic("engine_up") == 1
            });
            assert!(is_back, "{}", proxy.log());
            // Some traffic between two kills.
            let seen = case.statistic("frames");
            assert!(eventually(SOON, || case.statistic("frames") > seen + 8), "{}", proxy.log());
        }
        browser.execute_batch("ROLLBACK").expect("unlocked");
    });
    assert!(count > 5, "{count} retrievals");
    case.expect_debits(count, 0);
}

#[test]
fn a_proxy_that_is_stopped_or_killed_and_started_while_the_ledger_is_locked_continues() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut case = Case::on(folder.path());
    let browser = case.ledger();
    browser.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let mut count = 0;
    for (reference, is_killed) in [("first", false), ("second", true), ("third", false)] {
        count += case.retrieve_while(|| lasts(Duration::from_secs(1))).0;
        // A command is answered, and its effect survives the stop.
        let paid = case.stage.proxy.rpc(&["imcharge.account.add", ALICE, "1", reference]);
        assert!(paid.is_ok(), "{paid:?}");
        if is_killed {
            case.stage.proxy.kill_all();
        } else {
            let (status, took) = case.stage.proxy.terminate();
            assert!(
                status.is_some_and(|status| status.success()) && took < Duration::from_secs(5),
                "{status:?} {took:?}"
            );
        }
        case.stage.proxy.restart().expect("it starts");
        case.until("engine_up", 1);
    }
    count += case.retrieve_while(|| lasts(Duration::from_secs(1))).0;
    browser.execute_batch("ROLLBACK").expect("unlocked");
    case.expect_debits(count, 3);
}

#[test]
fn a_ledger_locked_for_15_seconds_delays_nothing_but_its_tables() {
    lock_for(Duration::from_secs(15));
}

/// Both faults last for two minutes, so they run at the same time.
#[test]
fn two_minutes_of_a_locked_ledger_and_of_a_full_disk_lose_nothing() {
    std::thread::scope(|scope| {
        let span = Duration::from_secs(120);
        let cases = [scope.spawn(move || lock_for(span)), scope.spawn(move || fill_for(span))];
        for case in cases {
            case.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// A small, separate file system; unmounted on drop.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// Mounts a file system of this size.
    pub fn new(megabytes: u32) -> Disk {
        let disk = Disk(tempfile::tempdir().expect("a folder"));
        disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={megabytes}m,mode=750"), "imcharge"]);
        disk
    }

    /// Its root folder.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Runs a program on it.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let status = Command::new(program).args(arguments).arg(self.0.path()).status();
        assert!(status.as_ref().is_ok_and(|status| status.success()), "{program} {arguments:?}: {status:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

fn fill_for(span: Duration) {
    let disk = Disk::new(256);
    let case = Case::on(disk.0.path());
    let filler = disk.0.path().join("filler");
    // The journal has reserved 16 MiB: enough for about 8000 retrievals.
    let pause = span / 2500;
    let (count, longest) = case.retrieve_every(pause, || {
        // Another program uses all free space.
        let full = std::fs::write(&filler, vec![0; 256 << 20]);
        assert!(full.is_err(), "the disk is full");
        case.until("store_failing", 1);
        lasts(span);
        assert_eq!(case.statistic("engine_up"), 1);
        let log = case.stage.proxy.log();
        assert_eq!(times(&log, "ledger.sqlite: no space on its disk"), 1, "{log}");
        std::fs::remove_file(&filler).expect("removed");
        case.until("store_failing", 0);
    });
    assert!(count > 5 && longest < Duration::from_secs(2), "{count} retrievals, the longest INVITE {longest:?}");
    case.expect_debited(count);
}

#[test]
fn a_disk_that_is_full_for_15_seconds_delays_nothing_but_the_tables() {
    fill_for(Duration::from_secs(15));
}

#[test]
fn a_reader_a_backup_and_a_vacuum_under_traffic_delay_no_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case::on(folder.path());
    let ledger = case.state.join("ledger.sqlite");
    let sqlite3 = |command: &str| {
        let run = Command::new("sqlite3").arg(&ledger).arg(command).output().expect("sqlite3 is installed");
        assert!(run.status.success(), "{command}: {}", String::from_utf8_lossy(&run.stderr));
    };
    // A reader in a pager: its snapshot stays open.
    let reader = case.ledger();
    let copy = folder.path().join("copy.sqlite");
    let (count, longest) = case.retrieve_while(|| {
        reader.execute_batch("BEGIN; SELECT count(*) FROM sessions;").expect("a snapshot");
        // RPC commands make the engine write its tables.
        for _ in 0..100 {
            case.stage.proxy.rpc(&["imcharge.outbox"]).expect("answered");
        }
        assert!(eventually(SOON, || case.statistic("ledger_log_octets") > 0), "the reader needs the log");
        sqlite3(&format!(".backup {}", copy.display()));
        sqlite3("VACUUM");
        sqlite3("PRAGMA wal_checkpoint(PASSIVE)");
        reader.execute_batch("COMMIT").expect("it ends");
        case.until("ledger_log_octets", 0);
    });
    assert!(count > 5 && longest < Duration::from_secs(2), "{count} retrievals, the longest INVITE {longest:?}");
    case.expect_debited(count);
    let sound: String = Connection::open(&copy)
        .and_then(|copy| copy.query_row("PRAGMA integrity_check", [], |row| row.get(0)))
        .expect("the backup is a ledger");
    assert_eq!(sound, "ok");
}

#[test]
fn a_journal_deleted_while_the_ledger_is_locked_is_made_anew_when_the_tables_contain_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case::on(folder.path());
    let browser = case.ledger();
    let proxy = &case.stage.proxy;
    browser.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let (mut count, _) = case.retrieve_while(|| lasts(Duration::from_secs(1)));
    let journal = case.state.join("journal-a");
    std::fs::remove_file(&journal).expect("removed");
    let is_logged = eventually(SOON, || proxy.log().contains("journal-a: was deleted"));
    assert!(is_logged && case.statistic("store_failing") == 1, "{}", proxy.log());
    browser.execute_batch("ROLLBACK").expect("unlocked");
    assert!(eventually(SOON, || journal.exists() && case.statistic("store_failing") == 0), "{}", proxy.log());
    case.until("engine_up", 1);
    count += case.retrieve_while(|| lasts(Duration::from_secs(1))).0;
    case.expect_debits(count, 0);
}

#[test]
fn a_ledger_deleted_under_the_proxy_refuses_sessions_over_an_engine_restart_until_it_is_back() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case::on(folder.path());
    let (ledger, away) = (case.state.join("ledger.sqlite"), case.state.join("away"));
    let (count, _) = case.retrieve_while(|| assert!(eventually(SOON, || case.statistic("debits") > 3)));
    let refused = || case.stage.client(ALICE, |_| {}).invite() == 503;
    std::fs::rename(&ledger, &away).expect("moved");
    let proxy = &case.stage.proxy;
    case.until("engine_up", 0);
    assert!(refused(), "{}", proxy.log());
    assert_eq!(times(&proxy.log(), "was deleted, moved or replaced"), 1, "{}", proxy.log());
    let engine = proxy.engine_pid().expect("an engine");
    proxy.signal("KILL", Some(engine));
    assert!(eventually(SOON, || proxy.engine_pid().is_some_and(|pid| pid != engine)));
    // No empty ledger with new balances is created.
    assert!(refused() && !ledger.exists(), "{}", proxy.log());
    std::fs::rename(&away, &ledger).expect("moved back");
    let _server = case.stage.server(&["one"], |_| {});
    let granted = || {
        let mut client = case.stage.client(ALICE, |_| {});
        client.invite() == 200 && client.bye() == 200
    };
    assert!(eventually(SOON, granted), "{}", proxy.log());
    let wanted = Some(Account { balance: BALANCE - count, held: 0, debited: count });
    assert!(eventually(SOON, || account(&case) == wanted), "{:?}", account(&case));
}

fn account(case: &Case) -> Option<Account> {
    let sql = "SELECT balance, held, debited FROM accounts WHERE id=?1";
    let read = case
        .ledger()
        .query_row(sql, [ALICE], |row| Ok(Account { balance: row.get(0)?, held: row.get(1)?, debited: row.get(2)? }));
    read.ok()
}

#[test]
fn a_damaged_ledger_lets_the_proxy_start_and_refuses_sessions() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("ledger.sqlite"), vec![b'x'; 40_960]).expect("written");
    let place = format!("\"state_dir\", \"{}\"", folder.path().display());
    let stage = Stage::new(|setup| setup.changed("\"state_dir\", STATE_DIR", &place));
    assert!(eventually(SOON, || stage.proxy.statistic("store_failing") == 1), "{}", stage.proxy.log());
    assert_eq!(stage.client(ALICE, |_| {}).invite(), 503);
    let log = stage.proxy.log();
    assert!(log.contains("ledger.sqlite: is damaged") && log.contains("restore the file from a backup"), "{log}");
}

/// While the state directory is read-only, the engine retries its start.
#[test]
fn an_engine_that_starts_on_a_read_only_disk_is_back_when_it_can_be_written() {
    let folder = tempfile::tempdir().expect("a folder");
    let case = Case::on(folder.path());
    let (count, _) = case.retrieve_while(|| assert!(eventually(SOON, || case.statistic("debits") > 3)));
    let mount = |arguments: &[&str]| {
        let status = Command::new("mount").args(arguments).arg(folder.path()).status();
        assert!(status.is_ok_and(|status| status.success()), "mount {arguments:?}");
    };
    mount(&["--bind", folder.path().to_str().expect("a name")]);
    mount(&["-o", "remount,bind,ro"]);
    let proxy = &case.stage.proxy;
    proxy.signal("KILL", proxy.engine_pid());
    case.until("store_failing", 1);
    lasts(Duration::from_secs(12));
    assert_eq!(case.stage.client(ALICE, |_| {}).invite(), 503);
    let log = proxy.log();
    assert!(log.contains("read-only"), "{log}");
    let _ = Command::new("umount").arg(folder.path()).status();
    let _server = case.stage.server(&["one"], |_| {});
    let granted = || {
        let mut client = case.stage.client(ALICE, |_| {});
        client.invite() == 200 && client.bye() == 200
    };
    assert!(eventually(SOON, granted), "{}", proxy.log());
    let wanted = Some(Account { balance: BALANCE - count, held: 0, debited: count });
    assert!(eventually(SOON, || account(&case) == wanted), "{:?}", account(&case));
}

/// A library that lets each sync take as long as a file says, in milliseconds.
fn slow_disk(folder: &Path) -> (PathBuf, PathBuf) {
    let (source, library, says) = (folder.join("slow.c"), folder.join("slow.so"), folder.join("milliseconds"));
    let text = format!(
        "#include <stdio.h>\n#include <unistd.h>\n#include <sys/syscall.h>\n\
         int fdatasync(int fd) {{\n\
         long milliseconds = 0; FILE *says = fopen(\"{}\", \"r\");\n\
         if (says) {{ if (fscanf(says, \"%ld\", &milliseconds) != 1) milliseconds = 0; fclose(says); }}\n\
         usleep(milliseconds * 1000);\n\
         return (int)syscall(SYS_fdatasync, fd);\n}}\n",
        says.display()
    );
    std::fs::write(&source, text).expect("written");
    let mut cc = Command::new("cc");
    let built = cc.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).stdin(Stdio::null()).status();
    assert!(built.is_ok_and(|status| status.success()), "a C compiler builds it");
    (library, says)
}

#[test]
fn syncs_of_five_seconds_delay_no_verdict_and_end_no_engine() {
    let folder = tempfile::tempdir().expect("a folder");
    let (library, says) = slow_disk(folder.path());
    let state = folder.path().join(format!("state-{}", unique()));
    std::fs::create_dir(&state).expect("a folder");
    let place = format!("\"state_dir\", \"{}\"", state.display());
    let stage = Stage::new(|setup| {
        let mut setup = setup.changed("\"state_dir\", STATE_DIR", &place);
        setup.under = vec!["env".into(), format!("LD_PRELOAD={}", library.display())];
        setup
    });
    stage.proxy.set_account(ALICE, BALANCE);
    let case = Case { stage, state };
    let (count, longest) = case.retrieve_while(|| {
        std::fs::write(&says, "5200").expect("written");
        lasts(Duration::from_secs(16));
        std::fs::write(&says, "0").expect("written");
    });
    assert!(count > 5 && longest < Duration::from_secs(2), "{count} retrievals, the longest INVITE {longest:?}");
    case.expect_debited(count);
}
