//! Events that an engine has not read in time: what it finds in the rings counts before any time-out.

use super::*;
use crate::charge::ch2::SessionKey;
use crate::charge::content::ContentClass;
use crate::charge::event::{Direction, Entry, Event, FailureReport, Flag, OfferedFiles, Reserve, Sent, Suspended};
use crate::charge::service::Service;
use crate::charge::time::Time;
use crate::config::Config;
use crate::engine::preflight;
use crate::shm::record::{AccountChange, Command, Record};
use crate::shm::region::EventProducer;
use std::sync::atomic::{AtomicBool, Ordering};

const ALICE: &str = "sip:alice@example.org";

/// More records than one tick reads of a ring.
const RECORDS_OF_TICKS: u32 = 2000;

/// A connection without a session.
const UNUSED_CONNECTION: u64 = 99;

/// A host with two processes.
struct Host {
    region: Arc<Region>,
    rings: [EventProducer; 2],
}

impl Host {
    fn start(folder: &tempfile::TempDir, settings: &[(&str, &str)]) -> Host {
        let mut config = Config { state_dir: folder.path().to_owned(), max_sessions: 16, ..Config::default() };
        for (name, value) in [("default_balance", "3")].iter().chain(settings) {
            config.set(name, value).unwrap_or_else(|error| panic!("{error}"));
        }
        let region = preflight::create_region(config, 2).unwrap_or_else(|error| panic!("{error}"));
        let rings = [0, 1].map(|process| region.event_producer(process).expect("not attached yet"));
        Host { region, rings }
    }

    fn start_engine(&self) -> Engine {
        Engine::start(&self.region).unwrap_or_else(|error| panic!("{error}"))
    }

    /// Process `process` writes a record.
    fn write(&mut self, process: usize, record: &Record<'_>) {
        let ring = &mut self.rings[process];
        let written = ring.write(0, |space| postcard::to_slice(record, space).ok().map(|octets| octets.len()));
        assert_eq!(written, Ok(true));
        ring.publish();
    }

    fn event(&mut self, process: usize, at: Time, session: u64, event: Event<'_>) {
        self.write(process, &Record::Event(Entry { session: SessionKey(session, 1), at, event }));
    }

    /// An INVITE for three messages, which cost all that Alice has.
    fn invite(&mut self, process: usize, at: Time, session: u64) {
        let reserve = Reserve {
            call_id: "call",
            account: ALICE,
            other: "",
            icid: "",
            direction: Direction::Pull,
            service: Service::Retrieval,
            recipients: 0,
            called: None,
            tariff: "",
            files: OfferedFiles::default(),
            messages: 3,
            page: None,
            suspended: Suspended { index: session, ..Suspended::default() },
            inviting_tag: 0,
        };
        self.event(process, at, session, Event::Reserve(reserve));
    }

    /// A complete message that passes the gate of the session.
    fn send(&mut self, process: usize, at: Time, session: u64, transaction: u64) {
        let table = self.region.table();
        let slot = table.slots.iter().find(|slot| slot.session() == Some(SessionKey(session, 1)));
        assert!(slot.expect("an open slot").take(1).is_some(), "the grant is used up");
        let sent = Sent {
            message_id: &format!("m{transaction}"),
            transaction,
            start: 1,
            octets: 10,
            file_octets: 0,
            total: Some(10),
            flag: Flag::Last,
            failure_report: FailureReport::Yes,
            success_report: false,
            taken: 1,
            class: ContentClass::Text,
            free_octets: 0,
            connection: 0,
        };
        self.event(process, at, session, Event::Sent(sent));
    }

    /// Records without effect, which the engine reads in several ticks.
    fn delay(&mut self, process: usize, at: Time) {
        for _ in 0..RECORDS_OF_TICKS {
            self.write(process, &Record::ConnectionLost { at, connection: UNUSED_CONNECTION });
        }
    }
}

/// Adds 1 to the account of Alice, again and again, until `stop` is set. Returns how often.
fn top_up(ring: &mut EventProducer, stop: &AtomicBool) -> i64 {
    let mut count = 0;
    while !stop.load(Ordering::Relaxed) {
        let reference = count.to_string();
        let change = AccountChange::Add(1);
        let command = Command::Account { account: ALICE, change, reference: &reference, by: "test" };
        let record = Record::Command { at: clock::now(), process: 1, sequence: 1, command };
        let written = ring.write(0, |space| postcard::to_slice(&record, space).ok().map(|octets| octets.len()));
        match written {
            Ok(_) => count += 1,
            Err(_) => std::thread::yield_now(),
        }
        ring.publish();
    }
    count
}

fn tick(engine: &mut Engine) {
    engine.tick().unwrap_or_else(|error| panic!("{error}"));
}

/// Stops the engine and returns how many messages were debited, and how many were not.
fn stop(folder: &tempfile::TempDir, mut engine: Engine) -> [i64; 2] {
    engine.stop().unwrap_or_else(|error| panic!("{error}"));
    let ledger = rusqlite::Connection::open(folder.path().join("ledger.sqlite")).expect("the ledger opens");
    ["debits", "undebited"].map(|table| {
        let count = format!("SELECT count(*) FROM {table}");
        ledger.query_row(&count, [], |row| row.get(0)).expect("a number")
    })
}

#[test]
fn session_of_a_dead_host_holds_its_credit_until_all_its_rings_are_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut dead = Host::start(&folder, &[]);
    let mut engine = dead.start_engine();
    let at = clock::now();
    dead.invite(0, at, 1);
    tick(&mut engine);
    drop(engine);
    dead.delay(1, at);
    (1..=3).for_each(|transaction| dead.send(1, at, 1, transaction));
    dead.event(0, at, 1, Event::Bye { leg: 1 });
    // Takes whatever the first session releases.
    dead.invite(0, at, 2);
    drop(dead);
    let host = Host::start(&folder, &[]);
    let engine = host.start_engine();
    assert_eq!(stop(&folder, engine), [3, 0]);
}

#[test]
fn answer_that_waits_in_a_ring_comes_before_the_time_out_of_its_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut host = Host::start(&folder, &[("policy", "timeout=release"), ("response_timeout", "5")]);
    let mut engine = host.start_engine();
    let at = Time(clock::now().0 - 10_000_000);
    host.invite(0, at, 1);
    tick(&mut engine);
    host.send(0, at, 1, 1);
    host.delay(1, at);
    host.event(1, at, 1, Event::Responded { transaction: 1, code: 200, connection: 0 });
    while Engine::has_more(engine.tick().unwrap_or_else(|error| panic!("{error}"))) {}
    assert_eq!(stop(&folder, engine), [1, 0]);
}

#[test]
fn answer_to_a_message_of_a_dead_host_comes_before_its_time_out() {
    let folder = tempfile::tempdir().expect("a folder");
    let settings = [("policy", "timeout=release"), ("response_timeout", "5")];
    let mut dead = Host::start(&folder, &settings);
    let mut engine = dead.start_engine();
    let at = Time(clock::now().0 - 10_000_000);
    dead.invite(0, at, 1);
    tick(&mut engine);
    dead.send(0, at, 1, 1);
    dead.delay(1, at);
    dead.event(1, at, 1, Event::Responded { transaction: 1, code: 200, connection: 0 });
    tick(&mut engine);
    drop(engine);
    drop(dead);
    // Dies before its engine has started, so that the region of the first one is still there.
    let mut dead = Host::start(&folder, &settings);
    dead.delay(0, clock::now());
    drop(dead);
    let host = Host::start(&folder, &settings);
    let engine = host.start_engine();
    assert_eq!(stop(&folder, engine), [1, 0]);
}

#[test]
fn events_that_a_stopping_engine_does_not_get_to_are_left_to_the_next_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut host = Host::start(&folder, &[]);
    let mut engine = host.start_engine();
    // Creates the account.
    host.invite(0, clock::now(), 1);
    tick(&mut engine);
    let stopped = AtomicBool::new(false);
    let count = std::thread::scope(|scope| {
        let writer = scope.spawn(|| top_up(&mut host.rings[1], &stopped));
        let result = engine.stop();
        stopped.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|error| panic!("{error}"));
        writer.join().expect("the writer does not panic")
    });
    drop((engine, host));
    let host = Host::start(&folder, &[]);
    let engine = host.start_engine();
    stop(&folder, engine);
    let ledger = rusqlite::Connection::open(folder.path().join("ledger.sqlite")).expect("the ledger opens");
    let balance: i64 = ledger.query_row("SELECT balance FROM accounts", [], |row| row.get(0)).expect("one account");
    assert_eq!(balance, 3 + count);
}
