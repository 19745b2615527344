//! The shared memory under loom: rings, queues, grant table and doorbell as production runs them, in every order in which
//! threads may run (where a bound on preemptions is given: in every order with so few of them), and with every value
//! that the memory model lets a load see. Run by `make loom`.
//!
//! What loom cannot see here: that the threads of a model are processes with their own mappings of one file (the
//! kernel and the caches keep those coherent, as they do threads'); a process that is killed (`tests/kills.rs` kills real
//! ones); accesses of mixed sizes: a record's length is one word and its content octets, and both are watched by the
//! eight, not stored in loom's cells; a compare-and-exchange that fails without a reason. Sequentially consistent loads
//! and stores it takes for acquiring and releasing ones, with a full order for fences alone: there it tries more than a
//! processor does.

#![cfg(loom)]

use imcharge::charge::ch2::SessionKey;
use imcharge::charge::event::Direction;
use imcharge::charge::tariff::Per;
use imcharge::charge::time::Time;
use imcharge::engine::doorbell::{Doorbell, Sleeper, wake_some};
use imcharge::engine::grant::{Binding, Bound, Gate, Index, Inserted, Opening, Pass, Side, Slot, Table};
use imcharge::engine::queue::Queue;
use imcharge::engine::ring::{Ends, Full, Ring};
use imcharge::engine::sync::{AtomicU32, AtomicU64, Watched};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, Ordering};

/// Tries `work` in every order with at most so many preemptions (`None`: in every order), and says how many they were.
fn model(name: &str, preemptions: Option<usize>, work: impl Fn() + Sync + Send + 'static) {
    let orders = Arc::new(Count::new(0));
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 20_000;
    let count = Arc::clone(&orders);
    let started = std::time::Instant::now();
    builder.check(move || {
        count.fetch_add(1, Ordering::Relaxed);
        work();
    });
    let most = preemptions.map_or("any number of".to_owned(), |most| format!("at most {most}"));
    let (orders, time) = (orders.load(Ordering::Relaxed), started.elapsed());
    println!("{name}: {orders} orders with {most} preemptions in {:.1} s", time.as_secs_f64());
}

/// What stands in a mapped file otherwise.
struct RingMemory {
    ends: Ends,
    data: Box<[UnsafeCell<u64>]>,
    watched: Watched,
}

// SAFETY: the data is reached through the ring alone, and loom watches every access to it.
unsafe impl Sync for RingMemory {}
// SAFETY: as above.
unsafe impl Send for RingMemory {}

impl RingMemory {
    /// A ring of so many octets (32 are the fewest there may be), in which everything before `start` was read.
    fn new(size: usize, start: u64) -> Arc<RingMemory> {
        let data = (0..size / 8).map(|_| UnsafeCell::new(0)).collect();
        let memory = RingMemory { ends: Ends::default(), data, watched: Watched::new(size) };
        memory.ring().publish(start);
        memory.ring().free(start);
        Arc::new(memory)
    }

    fn ring(&self) -> Ring {
        // SAFETY: every thread that has the ring holds the memory too; the models have one writer and one reader.
        let ring = unsafe { Ring::at(&self.ends, self.data.as_ptr().cast_mut().cast(), self.data.len() * 8) };
        ring.watched(self.watched.watch())
    }
}

/// The content of record `number`: of a short and a long one in turn the ring's end is met with and without a skip mark.
fn content(number: u8) -> Vec<u8> {
    vec![number; if number % 2 == 0 { 4 } else { 12 }]
}

/// Writes a record without publishing it; the head behind it.
fn write(ring: &Ring, head: u64, number: u8) -> Result<u64, Full> {
    let content = content(number);
    let written = ring.write_at(head, 0, |space| {
        space[..content.len()].copy_from_slice(&content);
        Some(content.len())
    })?;
    Ok(written.expect("content was given"))
}

/// Writes and publishes records, waiting for room.
fn write_all(ring: &Ring, numbers: std::ops::Range<u8>) {
    for number in numbers {
        let head = loop {
            match write(ring, ring.head(), number) {
                Ok(head) => break head,
                Err(Full) => thread::yield_now(),
            }
        };
        ring.publish(head);
        assert!(ring.used() <= ring.size(), "more is used than there is");
    }
}

/// Reads records, each twice: when it comes, and before its space is given back, after `keep` records.
fn read_all(ring: &Ring, numbers: std::ops::Range<u8>, keep: usize) {
    let mut position = ring.tail();
    let mut kept = Vec::new();
    for number in numbers {
        let next = loop {
            match ring.read_at(position) {
                Some((read, next)) => {
                    assert_eq!(read, content(number), "a record is not what was written");
                    break next;
                }
                None => thread::yield_now(),
            }
        };
        kept.push((position, number));
        position = next;
        if kept.len() == keep {
            for (at, number) in kept.drain(..) {
                assert_eq!(ring.read_at(at).expect("it stays until it is freed").0, content(number));
            }
            ring.free(position);
        }
    }
}

#[test]
fn a_reader_sees_each_record_whole_in_order_and_once() {
    model("ring", Some(2), || {
        // The second record fills the ring to its end, the fourth does not fit before it.
        let memory = RingMemory::new(32, 8);
        let writer = Arc::clone(&memory);
        let writer = thread::spawn(move || write_all(&writer.ring(), 0..4));
        let ring = memory.ring();
        read_all(&ring, 0..4, 1);
        writer.join().expect("the writer ends");
        assert!(ring.read_at(ring.tail()).is_none() && ring.used() == 0, "nothing is left");
    });
}

#[test]
fn records_stay_until_the_reader_frees_them() {
    model("ring, freed late", Some(3), || {
        let memory = RingMemory::new(64, 48);
        let writer = Arc::clone(&memory);
        let writer = thread::spawn(move || write_all(&writer.ring(), 0..4));
        read_all(&memory.ring(), 0..4, 2);
        writer.join().expect("the writer ends");
    });
}

#[test]
fn a_record_that_its_writer_did_not_publish_does_not_exist() {
    model("ring, new writer", Some(3), || {
        let memory = RingMemory::new(64, 48);
        let writer = Arc::clone(&memory);
        let writer = thread::spawn(move || {
            let killed = writer.ring();
            write_all(&killed, 0..1);
            // The life of this writer ends in its second record, and another one takes the ring as it is.
            let _ = write(&killed, killed.head(), 77);
            write_all(&writer.ring(), 1..3);
        });
        read_all(&memory.ring(), 0..3, 1);
        writer.join().expect("the writers end");
    });
}

/// The grant table that stands in a mapped file otherwise.
struct TableMemory {
    slots: Vec<Slot>,
    indexes: [Vec<AtomicU64>; 3],
    next_message: Vec<AtomicU32>,
}

impl TableMemory {
    fn new(slots: usize) -> Arc<TableMemory> {
        let size = Index::size_for(1);
        let index = || (0..size).map(|_| AtomicU64::default()).collect();
        Arc::new(TableMemory {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            indexes: [index(), index(), index()],
            next_message: (0..size).map(|_| AtomicU32::default()).collect(),
        })
    }

    fn table(&self) -> Table<'_> {
        let [calls, paths, messages] = self.indexes.each_ref().map(|entries| Index::over(entries));
        Table { slots: &self.slots, calls, paths, messages, next_message: &self.next_message }
    }
}

/// What session `number` is opened with.
fn opening(number: u64) -> Opening {
    let (session, call) = (SessionKey(number, number), number << 24);
    Opening { session, call, inviting_tag: number, direction: Direction::Pull, per: Per::Message }
}

/// Its MSRP session ids.
fn binding(number: u64) -> Binding {
    Binding { server: number << 32, ..Binding::default() }
}

/// A hash of message `number`: also its upper half, of which a note is made, tells it from others.
fn message(number: u64) -> u64 {
    number << 40
}

#[test]
fn no_more_is_taken_than_granted_and_the_closed_gate_knows_all_of_it() {
    model("gate", Some(4), || {
        let memory = TableMemory::new(1);
        let workers = [(); 2].map(|()| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || u32::from(memory.slots[0].take(1) != Gate::Beyond))
        });
        let slot = &memory.slots[0];
        slot.set_granted(1);
        let raised = slot.counters();
        assert!(raised.0 == 1 && raised.1 <= 1, "{raised:?}");
        slot.set_granted(2);
        let closed = slot.close();
        let passed: u32 = workers.map(|worker| worker.join().expect("a worker ends")).iter().sum();
        assert!(closed <= 2);
        assert_eq!(closed, passed, "the count at the end is not what went through");
        assert_eq!((slot.counters(), slot.take(1)), ((2, passed), Gate::Beyond));
    });
}

#[test]
fn what_is_put_back_can_be_taken_again_and_never_twice() {
    model("gate, put back", Some(4), || {
        let memory = TableMemory::new(1);
        memory.slots[0].set_granted(2);
        let other = Arc::clone(&memory);
        let undecided = thread::spawn(move || {
            let slot = &other.slots[0];
            if slot.take(2) != Gate::Beyond {
                slot.put_back(2);
            }
        });
        let other = Arc::clone(&memory);
        let taker = thread::spawn(move || (0..2).filter(|_| other.slots[0].take(1) != Gate::Beyond).count() as u32);
        memory.slots[0].set_granted(3);
        undecided.join().expect("a worker ends");
        let passed = taker.join().expect("a worker ends");
        assert_eq!(memory.slots[0].counters(), (3, passed));
    });
}

/// A table of so many slots with session 1 in the first.
fn opened(slots: usize) -> Arc<TableMemory> {
    let memory = TableMemory::new(slots);
    assert!(memory.table().open(0, &opening(1)));
    memory
}

/// Two workers see the same message while the grant has room for `granted` of them.
fn one_message_at_two_workers(memory: &Arc<TableMemory>, granted: u32) -> [Pass; 2] {
    memory.slots[0].set_granted(memory.slots[0].counters().1 + granted);
    let other = Arc::clone(memory);
    let other = thread::spawn(move || other.table().pass(0, opening(1).session, message(5), 1));
    let own = memory.table().pass(0, opening(1).session, message(5), 1);
    [own, other.join().expect("a worker ends")]
}

#[test]
fn of_two_workers_that_see_the_same_message_one_pays() {
    // The first message of a session is noted in the slot, with this many places under loom, the next ones in the index.
    for noted in [0, 1] {
        model("one message, two workers", None, move || {
            let memory = opened(1);
            memory.slots[0].set_granted(noted as u32);
            (0..noted).for_each(|n| {
                assert_eq!(memory.table().pass(0, opening(1).session, message(n + 1), 1), Pass::Taken { left: 0 })
            });
            let mut passed = one_message_at_two_workers(&memory, 2);
            passed.sort_by_key(|pass| *pass == Pass::Before);
            assert!(matches!(passed, [Pass::Taken { .. }, Pass::Before]), "{passed:?}");
            assert_eq!(memory.slots[0].counters().1, noted as u32 + 1);
            assert!(memory.table().is_noted(0, message(5)));
        });
    }
}

#[test]
fn at_the_grants_end_the_same_message_pays_once_too() {
    model("one message, two workers, one unit", None, || {
        let memory = opened(1);
        let passed = one_message_at_two_workers(&memory, 1);
        assert_eq!(passed.iter().filter(|pass| matches!(pass, Pass::Taken { .. })).count(), 1, "{passed:?}");
        assert!(!passed.contains(&Pass::Full));
        assert_eq!(memory.slots[0].counters(), (1, 1));
    });
}

#[test]
fn one_pays_also_while_another_session_gives_its_place_back() {
    model("one message, a place freed", Some(2), || {
        let memory = opened(2);
        assert!(memory.table().open(1, &opening(2)));
        (0..2).for_each(|at| assert!(matches!(memory.table().note_message(at, message(1)), Inserted::At(_))));
        // This one takes the first place of the window that the two workers look through.
        assert_eq!(memory.table().note_message(1, message(9)), Inserted::At(0));
        let engine = Arc::clone(&memory);
        let engine = thread::spawn(move || engine.table().free(1));
        let passed = one_message_at_two_workers(&memory, 2);
        engine.join().expect("the engine ends");
        let paid = passed.iter().filter(|pass| matches!(pass, Pass::Taken { .. })).count();
        assert!(paid == 1 || passed.contains(&Pass::Full), "{passed:?}");
        assert_eq!(memory.slots[0].counters().1 as usize, paid, "{passed:?}");
        memory.table().free(0);
        assert!(memory.indexes[2].iter().all(|entry| entry.load(Ordering::Relaxed) == 0), "an entry is left behind");
    });
}

#[test]
fn different_messages_pay_each_and_leave_nothing_behind() {
    model("two messages, two workers", Some(3), || {
        let memory = opened(1);
        memory.slots[0].set_granted(3);
        memory.table().pass(0, opening(1).session, message(1), 1);
        let other = Arc::clone(&memory);
        let other = thread::spawn(move || other.table().pass(0, opening(1).session, message(2), 1));
        let own = memory.table().pass(0, opening(1).session, message(3), 1);
        let passed = [own, other.join().expect("a worker ends")];
        assert!(passed.iter().all(|pass| matches!(pass, Pass::Taken { .. })), "{passed:?}");
        assert!((1..=3).all(|n| memory.table().is_noted(0, message(n))));
        memory.table().free(0);
        assert!(memory.indexes[2].iter().all(|entry| entry.load(Ordering::Relaxed) == 0), "an entry is left behind");
    });
}

#[test]
fn a_session_is_found_whole_or_not_at_all() {
    model("open", Some(3), || {
        let memory = TableMemory::new(1);
        let worker = Arc::clone(&memory);
        let worker = thread::spawn(move || {
            let table = worker.table();
            let whole = Bound { at: 0, session: opening(1).session, side: Side::Server };
            if let Some(at) = table.slot_of(1 << 24, |slot| slot.has_early_tag(1, 99)) {
                assert_eq!(table.slots[at as usize].session(), Some(opening(1).session));
                assert!(table.bind(at, binding(1)));
                assert_eq!(table.bound(binding(1).server), Some(whole));
            }
            assert!(table.bound(binding(1).server).is_none_or(|bound| bound == whole));
        });
        assert!(memory.table().open(0, &opening(1)));
        memory.slots[0].set_granted(1);
        worker.join().expect("the worker ends");
    });
}

/// What a frame does: looks for its session by the path that it has, and takes from it.
fn frame(memory: &TableMemory, number: u64) -> Option<Pass> {
    let table = memory.table();
    let Bound { at, session, .. } = table.bound(binding(number).server)?;
    assert_eq!(session, opening(number).session, "a frame found the session of another");
    Some(table.pass(at, session, message(number), 1))
}

/// A slot with session 1 in it, bound, and one unit granted.
fn charged() -> Arc<TableMemory> {
    let memory = opened(1);
    assert!(memory.table().bind(0, binding(1)));
    memory.slots[0].set_granted(1);
    memory
}

#[test]
fn a_slot_that_is_used_again_owes_nothing_to_the_session_before() {
    model("reuse", Some(3), || {
        let memory = charged();
        let worker = Arc::clone(&memory);
        let early = thread::spawn(move || frame(&worker, 1));
        let closed = memory.slots[0].close();
        // The seconds between the closing of a gate and the reuse of its slot: whoever took is done.
        let early = early.join().expect("the worker ends");
        assert_eq!(early, Some(if closed == 1 { Pass::Taken { left: 0 } } else { Pass::Beyond }));
        memory.table().free(0);
        let worker = Arc::clone(&memory);
        let late = thread::spawn(move || (frame(&worker, 1), frame(&worker, 2)));
        assert!(memory.table().open(0, &opening(2)) && memory.table().bind(0, binding(2)));
        memory.slots[0].set_granted(2);
        let (old, new) = late.join().expect("the worker ends");
        assert_eq!(old, None, "a late frame found something");
        assert!(matches!(new, None | Some(Pass::Beyond | Pass::Taken { left: 1 })), "{new:?}");
        let paid = u32::from(matches!(new, Some(Pass::Taken { .. })));
        assert_eq!(memory.slots[0].counters(), (2, paid));
    });
}

#[test]
fn a_frame_that_found_its_slot_just_before_the_reuse_takes_nothing_of_the_next_session() {
    model("reuse under a frame", Some(2), || {
        let memory = charged();
        memory.slots[0].close();
        let worker = Arc::clone(&memory);
        let late = thread::spawn(move || frame(&worker, 1));
        memory.table().free(0);
        assert!(memory.table().open(0, &opening(2)) && memory.table().bind(0, binding(2)));
        memory.slots[0].set_granted(2);
        let late = late.join().expect("the worker ends");
        assert!(matches!(late, None | Some(Pass::Beyond)), "{late:?}");
        assert_eq!(memory.slots[0].counters(), (2, 0));
    });
}

/// An eventfd and who waits for it.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Bell {
    fn ring(&self) {
        *self.rung.lock().expect("no panic") = true;
        self.changed.notify_one();
    }

    /// Without an end in time: who is not woken sleeps for ever, and loom says so.
    fn wait(&self) {
        let mut rung = self.rung.lock().expect("no panic");
        while !*rung {
            rung = self.changed.wait(rung).expect("no panic");
        }
        *rung = false;
    }
}

/// Event rings of two workers, and the engine's sleep.
struct House {
    rings: [Arc<RingMemory>; 2],
    doorbell: Doorbell,
    bell: Bell,
}

impl House {
    fn new() -> Arc<House> {
        let rings = [(); 2].map(|()| RingMemory::new(64, 0));
        Arc::new(House { rings, doorbell: Doorbell::default(), bell: Bell::default() })
    }

    /// A worker: publishes records, and somebody waits for what comes of each.
    fn publish(&self, at: usize, numbers: std::ops::Range<u8>) {
        let ring = self.rings[at].ring();
        for number in numbers {
            ring.publish(write(&ring, ring.head(), number).expect("room"));
            self.doorbell.wake(|| self.bell.ring());
        }
    }

    /// The engine: turns and sleeps until it has read so many records.
    fn read(&self, wanted: usize) {
        let rings = [self.rings[0].ring(), self.rings[1].ring()];
        let (mut positions, mut read) = ([0, 0], 0);
        loop {
            self.doorbell.begin_turn();
            for (ring, position) in rings.iter().zip(&mut positions) {
                while let Some((_, next)) = ring.read_at(*position) {
                    *position = next;
                    read += 1;
                }
            }
            if read == wanted {
                return;
            }
            self.doorbell.sleep(|| self.bell.wait());
        }
    }
}

#[test]
fn the_engine_never_sleeps_on_what_somebody_waits_for() {
    model("doorbell, one worker", Some(5), || {
        let house = House::new();
        let worker = Arc::clone(&house);
        let worker = thread::spawn(move || worker.publish(0, 0..2));
        house.read(2);
        worker.join().expect("the worker ends");
    });
}

#[test]
fn the_engine_hears_each_of_two_workers() {
    model("doorbell, two workers", Some(3), || {
        let house = House::new();
        let workers = [0, 1].map(|at| {
            let house = Arc::clone(&house);
            thread::spawn(move || house.publish(at, 0..1))
        });
        house.read(2);
        for worker in workers {
            worker.join().expect("a worker ends");
        }
    });
}

/// What stands in a mapped file otherwise: a queue, and the sleeps of two who take from it.
struct QueueMemory {
    ends: Ends,
    words: Vec<AtomicU64>,
    sleepers: [Sleeper; 2],
    bells: [Bell; 2],
    taken: [Count; 4],
}

impl QueueMemory {
    /// The smallest queue there is: two of the longest records.
    fn new() -> Arc<QueueMemory> {
        let words = (0..8).map(|_| AtomicU64::new(0)).collect();
        let (ends, sleepers, bells, taken) = Default::default();
        Arc::new(QueueMemory { ends, words, sleepers, bells, taken })
    }

    fn queue(&self) -> Queue<'_> {
        Queue::over(&self.ends, &self.words)
    }

    /// Writes and publishes records, waiting for room, and wakes one who takes for each.
    fn publish(&self, numbers: std::ops::Range<u8>) {
        let queue = self.queue();
        for number in numbers {
            let head = loop {
                match queue.write_at(queue.head(), &content(number)) {
                    Ok(head) => break head,
                    Err(Full) => thread::yield_now(),
                }
            };
            queue.publish(head, Time(number.into()));
            self.wake(1);
        }
    }

    fn wake(&self, records: usize) {
        wake_some(self.sleepers.iter(), records, |sleeper| {
            let at = self.sleepers.iter().position(|own| std::ptr::eq(own, sleeper)).expect("one of them");
            self.bells[at].ring();
        });
    }

    /// Takes one record, if there is one, and checks that it is whole and nobody else has it.
    fn take(&self, record: &mut Vec<u8>) -> bool {
        let is_taken = self.queue().take(record);
        if is_taken {
            assert_eq!(*record, content(record[0]), "a record is not what was written");
            assert_eq!(self.taken[usize::from(record[0])].fetch_add(1, Ordering::Relaxed), 0, "taken twice");
        }
        is_taken
    }

    fn all_taken(&self, count: usize) -> bool {
        self.taken[..count].iter().all(|times| times.load(Ordering::Relaxed) == 1)
    }
}

#[test]
fn each_record_of_a_queue_is_taken_whole_by_one() {
    model("queue, two takers, reused space", Some(3), || {
        let memory = QueueMemory::new();
        let other = Arc::clone(&memory);
        let other = thread::spawn(move || {
            let mut record = Vec::new();
            // One look only: it may be anywhere in it while the others go on without it.
            other.take(&mut record)
        });
        let writer = Arc::clone(&memory);
        let writer = thread::spawn(move || writer.publish(0..3));
        let mut record = Vec::new();
        let mut taken = 0;
        while taken < 2 {
            match memory.take(&mut record) {
                true => taken += 1,
                false => thread::yield_now(),
            }
        }
        writer.join().expect("the writer ends");
        // The third one is there for whoever has not had it.
        let by_other = other.join().expect("a taker ends");
        assert_eq!(memory.take(&mut record), !by_other);
        assert!(memory.all_taken(3) && memory.queue().used() == 0);
    });
}

#[test]
fn the_age_of_the_oldest_record_is_that_of_a_record() {
    model("queue, age", Some(3), || {
        let memory = QueueMemory::new();
        let writer = Arc::clone(&memory);
        let writer = thread::spawn(move || writer.publish(1..3));
        let taker = Arc::clone(&memory);
        let taker = thread::spawn(move || taker.take(&mut Vec::new()));
        let since = memory.queue().waiting_since();
        assert!(since.is_none_or(|since| (1..3).contains(&since.0)), "{since:?}");
        writer.join().expect("the writer ends");
        taker.join().expect("the taker ends");
    });
}

#[test]
fn no_verdict_waits_while_one_of_two_takers_sleeps() {
    model("queue, sleeping takers", Some(2), || {
        let memory = QueueMemory::new();
        let takers = [0, 1].map(|at: usize| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let mut record = Vec::new();
                // One record stops each, as a script that blocks does.
                while !memory.take(&mut record) {
                    let is_idle = || memory.queue().used() == 0;
                    memory.sleepers[at].sleep(is_idle, || memory.bells[at].wait());
                }
            })
        });
        memory.publish(0..2);
        for taker in takers {
            taker.join().expect("a taker ends");
        }
        assert!(memory.all_taken(2));
    });
}
