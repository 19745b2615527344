//! Charging records: a billing system that takes closed files away, and a store that dies at each of its crash points.

use crate::disk;
use imcharge::charge::ch2::Trigger;
use imcharge::charge::content::ContentClass;
use imcharge::config::RecordSettings;
use imcharge::engine::store::change::{Change, Debit, MessageRecord};
use imcharge::engine::store::{Retention, Store, StoreError};
use imcharge::shm::clock;
use imcharge::simulate::machine::{Crash, Machine};
use rusqlite::Connection;
use serde_json::Value;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

/// Debits of a run that dies at one point.
const DEBITS: u32 = 6;

/// A billing system that takes closed files away.
#[derive(Default)]
pub struct Billing {
    /// Contents by name.
    files: BTreeMap<String, String>,
}

impl Billing {
    /// Takes the files that are closed. A power failure can bring a file back, but never another one of the same name.
    pub fn take(&mut self, folder: &Path) -> Result<(), String> {
        for entry in std::fs::read_dir(folder).expect("readable").flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !name.ends_with(".jsonl") {
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).map_err(|error| format!("{name}: {error}"))?;
            disk::on(|disk| disk.take(&entry.path()));
            std::fs::remove_file(entry.path()).expect("it is there");
            match self.files.insert(name.clone(), text.clone()) {
                Some(earlier) if earlier != text => {
                    return Err(format!("{name} was closed with\n{earlier}and then with\n{text}"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Compares the records with the ledger.
    pub fn check(&self, ledger: &Connection) -> Result<(), String> {
        let lines = self.files.iter().flat_map(|(name, text)| text.lines().map(move |line| (name, line)));
        let parse = |(name, line): (&String, &str)| {
            serde_json::from_str::<Value>(line).map_err(|error| format!("{name}: {error}: {line}"))
        };
        let records = lines.map(parse).collect::<Result<Vec<Value>, String>>()?;
        for (at, record) in records.iter().enumerate() {
            if record["record"].as_u64() != Some(at as u64 + 1) {
                return Err(format!("record {} is in place {}", record["record"], at + 1));
            }
        }
        for (kind, sql) in [
            ("debit", "SELECT call_id, message_id, part, units FROM debits"),
            ("release", "SELECT call_id, message_id, NULL, units FROM undebited"),
            ("refund", "SELECT call_id, message_id, part, units FROM debits WHERE refunded_at IS NOT NULL"),
            ("session", "SELECT call_id, NULL, NULL, NULL FROM sessions WHERE closed_at IS NOT NULL"),
        ] {
            let mut statement = ledger.prepare(sql).expect("a query");
            let rows = statement.query_map([], |row| {
                let (call, message): (String, Option<String>) = (row.get(0)?, row.get(1)?);
                let (part, units): (Option<i64>, Option<i64>) = (row.get(2)?, row.get(3)?);
                Ok(format!("{call} {message:?} {part:?} {units:?}"))
            });
            let mut wanted = rows.expect("rows").collect::<rusqlite::Result<Vec<String>>>().expect("a row");
            let text = |record: &Value, field: &str| record[field].as_str().map(str::to_owned);
            let of_kind = records.iter().filter(|record| record["type"] == kind);
            let mut found: Vec<String> = of_kind
                .map(|record| {
                    let call = text(record, "call_id").unwrap_or_default();
                    let units = record["units"].as_i64().filter(|_| kind != "session");
                    format!("{call} {:?} {:?} {units:?}", text(record, "message_id"), record["part"].as_i64())
                })
                .collect();
            wanted.sort();
            found.sort();
            if wanted != found {
                return Err(format!("records of type {kind}: {found:?}, but the ledger has {wanted:?}"));
            }
        }
        Ok(())
    }
}

/// A store on a simulated disk that is started again after each death.
struct Run {
    machine: Rc<Machine>,
    state: PathBuf,
    settings: RecordSettings,
    billing: Billing,
    loses_power: bool,
}

impl Run {
    /// Lets a store die at one crash point, and checks the files. `false`: there are fewer crash points.
    fn dies_at(crash_point: u32, loses_power: bool) -> Result<bool, String> {
        let state = tempfile::tempdir_in("/dev/shm").expect("a folder in memory");
        let machine = Machine::begin(crash_point.into());
        disk::insert(Rc::clone(&machine), fastrand::Rng::with_seed(crash_point.into()));
        let dir = state.path().join("cdr");
        std::fs::create_dir(&dir).expect("a folder in memory");
        Store::check(state.path()).expect("a new ledger");
        let settings = RecordSettings {
            dir: Some(dir),
            node: Some("proxy".into()),
            file_size: 900,
            file_seconds: 3,
            ..RecordSettings::default()
        };
        let (state, billing) = (state.path().to_owned(), Billing::default());
        let mut run = Run { machine: Rc::clone(&machine), state, settings, billing, loses_power };
        machine.crash_in.set(Some(crash_point));
        let result = run.charge();
        let has_died = machine.crash_in.get().is_none();
        disk::remove();
        Machine::end();
        result.map(|()| has_died)
    }

    /// Charges messages until the store has lived to the end.
    fn charge(&mut self) -> Result<(), String> {
        let mut charged = 0;
        loop {
            let lived = catch_unwind(AssertUnwindSafe(|| self.live(&mut charged)));
            self.billing.take(self.settings.dir.as_deref().expect("it is set"))?;
            match lived {
                Ok(Ok(())) if !self.machine.dead.get() => break,
                Ok(Err(error)) if !self.machine.dead.get() => return Err(error.to_string()),
                Ok(_) => {}
                Err(panic) if panic.is::<Crash>() => {}
                Err(panic) => resume_unwind(panic),
            }
            if self.loses_power {
                disk::on(disk::Disk::lose_power);
            }
            self.machine.dead.set(false);
        }
        self.billing.check(&Connection::open(self.state.join("ledger.sqlite")).expect("the ledger opens"))
    }

    /// Writes the tables and the records that are due, as the engine does in each tick.
    fn tick(&self, store: &mut Store) -> Result<(), StoreError> {
        for _ in 0..2 {
            store.drive_writer(Some(Retention { days: 30, now: clock::now(), wall_ms: clock::wall_ms() }))?;
            self.machine.pass(Duration::from_millis(600));
        }
        Ok(())
    }

    /// Charges messages, one each second, and stops cleanly.
    fn live(&self, charged: &mut u32) -> Result<(), StoreError> {
        let mut store = Store::open_with(&self.state, &self.settings, None)?;
        self.tick(&mut store)?;
        while *charged < DEBITS {
            store.put(Change::Debited(debit(*charged)));
            store.commit(false)?;
            *charged += 1;
            self.tick(&mut store)?;
        }
        store.finish(Duration::from_secs(60))?;
        store.finish_records(Duration::from_secs(60));
        Ok(())
    }
}

fn debit(number: u32) -> Debit {
    let message = MessageRecord {
        row: 1,
        call_id: "".into(),
        message_id: number.to_string().into(),
        account: "sip:alice@example.org".into(),
        octets: 10,
        units: number.into(),
        class: ContentClass::Text,
        wall_ms: clock::wall_ms(),
    };
    Debit { message, part: 0, trigger: Trigger::Response, rule: None, ocs_session_id: None }
}

/// Whether each record is in one file, at whatever point the store dies.
pub fn survive_every_crash_point() -> bool {
    let fails = |loses_power: bool| {
        for crash_point in 0.. {
            match Run::dies_at(crash_point, loses_power) {
                Ok(true) => {}
                Ok(false) => {
                    println!("records: {crash_point} crash points, power lost: {loses_power}");
                    return crash_point < 50;
                }
                Err(wrong) => {
                    println!("crash point {crash_point}, power lost: {loses_power}: {wrong}");
                    return true;
                }
            }
        }
        true
    };
    !fails(false) && !fails(true)
}
