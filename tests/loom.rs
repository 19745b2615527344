//! Shared memory under loom: rings, queues, gate and wake-up as in production, in every order in which threads may run
//! (or every order with a bounded number of preemptions), and with every value that the memory model lets a load see. Run
//! by `make loom`.
//!
//! Not covered here: that the threads of a model are processes with their own mappings of one file (the kernel and the
//! caches keep those coherent, as they do for threads); killed processes (`tests/kills.rs` kills real ones); accesses of
//! mixed sizes (both the length and the content of a record are watched in units of eight octets, not stored in loom's
//! cells); spurious failures of compare-and-exchange. Loom treats sequentially consistent loads and stores as acquiring and
//! releasing ones, with a total order for fences alone, so it tries more orders than a processor has.

#![cfg(loom)]

use imcharge::charge::ch2::SessionKey;
use imcharge::charge::content::ContentClass;
use imcharge::charge::event::Direction;
use imcharge::charge::tariff::Weight;
use imcharge::charge::time::Time;
use imcharge::shm::gate::{
    Bound, Chained, Chunk, ChunkDecision, FrameSession, FreeClaim, Index, Lease, Opening, Side, Slot, Stream,
    StreamRecord, StreamState, Table,
};
use imcharge::shm::queue::{HoldsQueue, Queue, QueueProducer};
use imcharge::shm::ring::{Consumer, Ends, Full, Producer};
use imcharge::shm::sync::{AtomicU32, AtomicU64, Watched};
use imcharge::shm::wakeup::{EngineWaker, WakeWord, wake_some};
use loom::sync::{Condvar, Mutex};
use loom::thread;
use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64 as Count, Ordering};

/// Tries `work` in every order with at most this many preemptions (`None`: in every order), and prints their number.
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

/// Memory of a ring.
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
    /// A ring of this many octets (at least 32), in which everything before `start` was read.
    fn new(size: usize, start: u64) -> Arc<RingMemory> {
        let data = (0..size / 8).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(RingMemory { ends: Ends::new(start, start), data, watched: Watched::new(size) })
    }

    fn start(&self) -> *mut u8 {
        UnsafeCell::raw_get(self.data.as_ptr()).cast()
    }

    fn producer(self: &Arc<Self>) -> Producer<Arc<RingMemory>> {
        // SAFETY: the producer holds the memory, of the size given; each model has one producer at a time.
        let producer =
            unsafe { Producer::over(&raw const self.ends, self.start(), self.data.len() * 8, Arc::clone(self)) };
        producer.watched(self.watched.watch())
    }

    fn consumer(self: &Arc<Self>) -> Consumer<Arc<RingMemory>> {
        // SAFETY: as above; each model has one consumer.
        let consumer =
            unsafe { Consumer::over(&raw const self.ends, self.start(), self.data.len() * 8, Arc::clone(self)) };
        consumer.watched(self.watched.watch())
    }
}

/// Content of record `number`, short and long in turn, so that the end of the ring is met with and without a skip mark.
fn content(number: u8) -> Vec<u8> {
    vec![number; if number.is_multiple_of(2) { 4 } else { 12 }]
}

/// Writes a record without publishing it.
fn write(ring: &mut Producer<Arc<RingMemory>>, number: u8) -> Result<(), Full> {
    let content = content(number);
    let written = ring.write(0, |space| {
        space[..content.len()].copy_from_slice(&content);
        Some(content.len())
    })?;
    assert!(written, "content was given");
    Ok(())
}

/// Writes and publishes records, waiting for room.
fn write_all(ring: &mut Producer<Arc<RingMemory>>, numbers: std::ops::Range<u8>) {
    for number in numbers {
        while write(ring, number) == Err(Full) {
            thread::yield_now();
        }
        ring.publish();
        assert!(ring.used() <= ring.size(), "more is used than there is");
    }
}

/// Reads records, each twice: when it is published, and again before its space is freed, after `keep` records.
fn read_all(ring: &mut Consumer<Arc<RingMemory>>, numbers: std::ops::Range<u8>, keep: usize) {
    let mut position = ring.tail();
    let mut kept = Vec::new();
    for number in numbers {
        let next = loop {
            match ring.read_at(position) {
                Some((read, next)) => {
                    assert_eq!(read, content(number), "a record differs from what was written");
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
fn consumer_reads_each_record_complete_in_order_and_once() {
    model("ring", Some(2), || {
        // The second record fills the ring to its end, the fourth does not fit before it.
        let memory = RingMemory::new(32, 8);
        let mut producer = memory.producer();
        let producer = thread::spawn(move || write_all(&mut producer, 0..4));
        let mut ring = memory.consumer();
        read_all(&mut ring, 0..4, 1);
        producer.join().expect("the producer ends");
        assert!(ring.read_at(ring.tail()).is_none() && memory.ends.used() == 0, "nothing is left");
    });
}

#[test]
fn records_stay_until_the_consumer_frees_them() {
    model("ring, freed late", Some(3), || {
        let memory = RingMemory::new(64, 48);
        let mut producer = memory.producer();
        let producer = thread::spawn(move || write_all(&mut producer, 0..4));
        read_all(&mut memory.consumer(), 0..4, 2);
        producer.join().expect("the producer ends");
    });
}

#[test]
fn unpublished_record_of_a_killed_producer_is_not_read() {
    model("ring, new producer", Some(3), || {
        let memory = RingMemory::new(64, 48);
        let producers = Arc::clone(&memory);
        let producers = thread::spawn(move || {
            let mut killed = producers.producer();
            write_all(&mut killed, 0..1);
            // This producer is killed in its second record, and another one continues with the ring.
            let _ = write(&mut killed, 77);
            write_all(&mut producers.producer(), 1..3);
        });
        read_all(&mut memory.consumer(), 0..3, 1);
        producers.join().expect("the producers end");
    });
}

/// Memory of the gate.
struct TableMemory {
    slots: Vec<Slot>,
    streams: Vec<StreamRecord>,
    /// Names, messages and transactions.
    indexes: [Vec<AtomicU64>; 3],
    /// The chains of names and of messages.
    chains: [Vec<AtomicU32>; 2],
    passed: Vec<AtomicU64>,
    lease: Lease,
}

impl TableMemory {
    fn new(slots: usize) -> Arc<TableMemory> {
        // Loom's windows have two places: names get several of them.
        let (names, others) = (8, Index::size_for(1));
        let words = |count: usize| (0..count).map(|_| AtomicU64::default()).collect::<Vec<_>>();
        let links = |count: usize| (0..count).map(|_| AtomicU32::default()).collect::<Vec<_>>();
        let lease = Lease::default();
        lease.set(Lease::UNLIMITED);
        Arc::new(TableMemory {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            streams: (0..2 * slots + 2).map(|_| StreamRecord::default()).collect(),
            indexes: [words(names), words(others), words(others)],
            chains: [links(names), links(others)],
            passed: words(others),
            lease,
        })
    }

    fn table(&self) -> Table<'_> {
        let [names, messages, transactions] = self.indexes.each_ref().map(|entries| Index::over(entries));
        let [next_name, next_message] = self.chains.each_ref().map(Vec::as_slice);
        Table {
            slots: &self.slots,
            names: Chained { index: names, next: next_name },
            streams: &self.streams,
            messages: Chained { index: messages, next: next_message },
            passed: &self.passed,
            transactions,
            lease: &self.lease,
        }
    }

    /// Returns whether no session has any state left.
    fn is_empty(&self) -> bool {
        let table = self.table();
        let passed = self.passed.iter().all(|word| word.load(Ordering::Relaxed) == 0);
        table.names.index.used() == 0 && table.messages.index.used() == 0 && table.streams_used() == 0 && passed
    }
}

/// What session `number` is opened with.
fn opening(number: u64) -> Opening {
    let name = number << 24 | number;
    let (direction, weights) = (Direction::Pull, [Weight { message: 1, kilobyte: 0 }; 4]);
    Opening {
        session: SessionKey(number, number),
        name,
        inviting_tag: number,
        direction,
        weights,
        is_paid_by_sender: false,
        is_paired: false,
    }
}

fn open(memory: &TableMemory, number: u64) -> bool {
    let table = memory.table();
    let is_open = table.claim(0, &opening(number));
    table.open(0, &opening(number));
    is_open
}

/// The endpoints of a session: of the sender, and of the receiver.
fn endpoints(number: u64) -> [u64; 2] {
    [!(number << 32 | 2), number << 32 | 3]
}

fn stream(number: u64, leg: u64) -> Stream {
    let [sender, receiver] = endpoints(number);
    Stream { leg, position: 0, state: StreamState::Bound, sender, receiver, is_file: false }
}

/// Gives session `number` in the first slot a stream.
fn bind(memory: &TableMemory, number: u64, leg: u64) -> bool {
    let bound = memory.table().change_streams(0, opening(number).session, |streams| {
        streams.push(stream(number, leg));
    });
    bound.is_ok()
}

/// The session that a frame of the server belongs to.
fn attributed(memory: &TableMemory, number: u64) -> Option<Bound> {
    let [server, client] = endpoints(number);
    match memory.table().session_of_request(server, client, Side::Sender) {
        FrameSession::Bound(bound) => Some(bound),
        FrameSession::Unbound { .. } | FrameSession::NotCharged => None,
    }
}

/// A message of some session.
fn message(number: u64) -> Chunk {
    Chunk {
        message: number << 40,
        start: 1,
        octets: 5,
        file_octets: 0,
        is_last: false,
        class: ContentClass::Text,
        free: None,
    }
}

/// What became of it in the first slot, of session 1.
fn pass(memory: &TableMemory, number: u64) -> ChunkDecision {
    memory.table().decide(0, opening(1).session, &message(number))
}

#[test]
fn gate_takes_no_more_than_granted_and_counts_it_when_closed() {
    model("gate", Some(4), || {
        let memory = TableMemory::new(1);
        let workers = [(); 2].map(|()| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || u32::from(memory.slots[0].take(1).is_some()))
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
        assert_eq!((slot.counters(), slot.take(1)), ((2, passed), None));
    });
}

#[test]
fn units_put_back_are_taken_again_once() {
    model("gate, put back", Some(4), || {
        let memory = TableMemory::new(1);
        memory.slots[0].set_granted(2);
        let other = Arc::clone(&memory);
        let undecided = thread::spawn(move || {
            let slot = &other.slots[0];
            if slot.take(2).is_some() {
                slot.put_back(2);
            }
        });
        let other = Arc::clone(&memory);
        let taker = thread::spawn(move || (0..2).filter(|_| other.slots[0].take(1).is_some()).count() as u32);
        memory.slots[0].set_granted(3);
        undecided.join().expect("a worker ends");
        let passed = taker.join().expect("a worker ends");
        assert_eq!(memory.slots[0].counters(), (3, passed));
    });
}

/// A table of this many slots with session 1 in the first.
fn opened(slots: usize) -> Arc<TableMemory> {
    let memory = TableMemory::new(slots);
    assert!(open(&memory, 1));
    memory
}

/// Two workers see the same message while the grant has room for `granted` of them.
fn one_message_at_two_workers(memory: &Arc<TableMemory>, granted: u32) -> [ChunkDecision; 2] {
    memory.slots[0].set_granted(memory.slots[0].counters().1 + granted);
    let other = Arc::clone(memory);
    let other = thread::spawn(move || pass(&other, 5));
    let own = pass(memory, 5);
    [own, other.join().expect("a worker ends")]
}

fn taken(passed: &[ChunkDecision]) -> usize {
    passed.iter().filter(|pass| matches!(pass, ChunkDecision::Charged { .. })).count()
}

#[test]
fn same_message_at_two_workers_is_charged_once() {
    // The first message of a session is noted in the slot, with this many places under loom, the next ones in the index.
    for noted in [0, 1] {
        model("one message, two workers", Some(3), move || {
            let memory = opened(1);
            memory.slots[0].set_granted(noted as u32);
            (0..noted).for_each(|n| {
                assert_eq!(
                    pass(&memory, n + 1),
                    ChunkDecision::Charged { amount: 1, left: 0, class: ContentClass::Text, free_octets: 0 }
                )
            });
            let mut passed = one_message_at_two_workers(&memory, 2);
            passed.sort_by_key(|pass| matches!(pass, ChunkDecision::AlreadyPaid { .. }));
            assert!(matches!(passed, [ChunkDecision::Charged { .. }, ChunkDecision::AlreadyPaid { .. }]), "{passed:?}");
            assert_eq!(memory.slots[0].counters().1, noted as u32 + 1);
            assert!(memory.table().is_paid(0, opening(1).session, message(5).message));
        });
    }
}

#[test]
fn content_around_the_end_of_the_lease_is_paid_for_or_stopped() {
    model("lease", Some(3), || {
        let memory = opened(1);
        memory.slots[0].set_granted(2);
        let other = Arc::clone(&memory);
        let worker = thread::spawn(move || pass(&other, 1));
        memory.lease.set(Time(0));
        let first = worker.join().expect("a worker ends");
        memory.lease.set(Lease::UNLIMITED);
        let rest = memory.table().decide(0, opening(1).session, &Chunk { start: 6, ..message(1) });
        let is_charged = match first {
            ChunkDecision::Charged { .. } => true,
            ChunkDecision::LeaseOver => false,
            other => panic!("{other:?}"),
        };
        assert_eq!(rest == ChunkDecision::MessageStopped, !is_charged, "{first:?}, then {rest:?}");
        assert_eq!(memory.slots[0].counters().1, u32::from(is_charged));
    });
}

#[test]
fn same_message_at_the_end_of_the_grant_is_charged_once() {
    model("one message, two workers, one unit", Some(3), || {
        let memory = opened(1);
        let passed = one_message_at_two_workers(&memory, 1);
        assert_eq!(taken(&passed), 1, "{passed:?}");
        assert!(!passed.contains(&ChunkDecision::Full));
        assert_eq!(memory.slots[0].counters(), (1, 1));
    });
}

#[test]
fn same_message_is_charged_once_while_another_session_frees_an_entry() {
    model("one message, a place freed", Some(2), || {
        let memory = opened(2);
        let table = memory.table();
        let second = opening(2).session;
        assert!(table.claim(1, &opening(2)));
        table.open(1, &opening(2));
        // The notes of both slots are taken, and the other session has the first place of the window.
        memory.slots.iter().for_each(|slot| slot.set_granted(2));
        assert!(matches!(pass(&memory, 1), ChunkDecision::Charged { .. }));
        (8..=9).for_each(|n| assert!(matches!(table.decide(1, second, &message(n)), ChunkDecision::Charged { .. })));
        let engine = Arc::clone(&memory);
        let engine = thread::spawn(move || engine.table().free(1));
        let passed = one_message_at_two_workers(&memory, 2);
        engine.join().expect("the engine ends");
        let paid = taken(&passed);
        assert!(paid == 1 || passed.contains(&ChunkDecision::Full), "{passed:?}");
        assert_eq!(memory.slots[0].counters().1 as usize, paid + 1, "{passed:?}");
        memory.table().free(0);
        assert!(memory.is_empty(), "something is left");
    });
}

#[test]
fn different_messages_are_charged_each() {
    model("two messages, two workers", Some(2), || {
        let memory = opened(1);
        memory.slots[0].set_granted(3);
        pass(&memory, 1);
        let other = Arc::clone(&memory);
        let other = thread::spawn(move || pass(&other, 2));
        let own = pass(&memory, 3);
        let passed = [own, other.join().expect("a worker ends")];
        assert_eq!(taken(&passed), 2, "{passed:?}");
        let is_paid = |n| memory.table().is_paid(0, opening(1).session, message(n).message);
        assert!((1..=3).all(is_paid));
        memory.table().free(0);
        assert!(memory.is_empty(), "something is left");
    });
}

#[test]
fn stopped_message_stays_stopped_at_all_workers() {
    model("stopped message, grant raised", Some(4), || {
        let memory = opened(1);
        let other = Arc::clone(&memory);
        let worker = thread::spawn(move || {
            let first = pass(&other, 1);
            (first, other.table().decide(0, opening(1).session, &Chunk { start: 6, ..message(1) }))
        });
        memory.slots[0].set_granted(1);
        let (first, rest) = worker.join().expect("a worker ends");
        assert_eq!(
            rest,
            if first == ChunkDecision::BeyondGrant {
                ChunkDecision::MessageStopped
            } else {
                ChunkDecision::AlreadyPaid { class: ContentClass::Text, free_octets: 0 }
            },
            "{first:?}"
        );
    });
}

/// A later chunk of a message; `is_last`: its last one.
fn later_chunk(start: u64, is_last: bool) -> Chunk {
    Chunk { start, is_last, ..message(1) }
}

/// A session with 3 units, of which message 1 has taken one.
fn with_paid_message() -> Arc<TableMemory> {
    let memory = opened(1);
    memory.slots[0].set_granted(3);
    assert!(matches!(pass(&memory, 1), ChunkDecision::Charged { .. }));
    memory
}

#[test]
fn message_forgotten_under_a_chunk_is_charged_anew() {
    model("message forgotten under a chunk", None, || {
        let memory = with_paid_message();
        let (table, session) = (memory.table(), opening(1).session);
        let other = Arc::clone(&memory);
        let worker = thread::spawn(move || other.table().decide(0, session, &later_chunk(6, false)));
        // The engine releases the message.
        table.forget_message(0, session, message(1).message);
        let second = worker.join().expect("the worker ends");
        let third = table.decide(0, session, &later_chunk(11, false));
        // Exactly one of the chunks after the release pays, whichever passes first.
        assert!(
            matches!(
                (second, third),
                (ChunkDecision::AlreadyPaid { .. }, ChunkDecision::Charged { .. })
                    | (ChunkDecision::Charged { .. }, ChunkDecision::AlreadyPaid { .. })
            ),
            "{second:?}, then {third:?}"
        );
        assert_eq!(memory.slots[0].counters(), (3, 2));
    });
}

#[test]
fn message_stopped_under_its_last_chunk_stays_stopped() {
    model("message stopped under its last chunk", None, || {
        let memory = TableMemory::new(1);
        let opening = Opening { is_paid_by_sender: true, ..opening(1) };
        let (table, session) = (memory.table(), opening.session);
        assert!(table.claim(0, &opening));
        table.open(0, &opening);
        memory.slots[0].set_granted(3);
        assert!(matches!(pass(&memory, 1), ChunkDecision::Charged { .. }));
        let other = Arc::clone(&memory);
        // With its last chunk the message ends: what follows under its Message-ID is new.
        let worker = thread::spawn(move || other.table().decide(0, session, &later_chunk(6, true)));
        table.stop_message(0, session, message(1).message);
        let last = worker.join().expect("the worker ends");
        assert!(matches!(last, ChunkDecision::AlreadyPaid { .. } | ChunkDecision::MessageStopped), "{last:?}");
        assert_eq!(table.decide(0, session, &later_chunk(11, false)), ChunkDecision::MessageStopped, "after {last:?}");
        assert_eq!(memory.slots[0].counters(), (3, 1));
    });
}

#[test]
fn late_chunk_changes_no_message_of_the_next_session_of_a_slot() {
    model("reuse under a later chunk", Some(3), || {
        let memory = with_paid_message();
        memory.slots[0].close();
        let other = Arc::clone(&memory);
        let late = thread::spawn(move || other.table().decide(0, opening(1).session, &later_chunk(6, false)));
        memory.table().free(0);
        assert!(open(&memory, 2));
        memory.slots[0].set_granted(2);
        let (table, session) = (memory.table(), opening(2).session);
        let first = table.decide(0, session, &message(2));
        let late = late.join().expect("the worker ends");
        assert!(
            matches!(late, ChunkDecision::BeyondGrant | ChunkDecision::MessageStopped | ChunkDecision::Full),
            "{late:?}"
        );
        assert!(matches!(first, ChunkDecision::Charged { amount: 1, .. }), "{first:?}");
        let second = table.decide(0, session, &Chunk { start: 6, ..message(2) });
        assert!(matches!(second, ChunkDecision::AlreadyPaid { .. }), "{second:?}");
        assert_eq!(memory.slots[0].counters(), (2, 1));
    });
}

#[test]
fn free_message_at_two_workers_is_free_up_to_its_maximum_and_then_charged_once() {
    model("free message, two workers", None, || {
        let memory = opened(1);
        memory.slots[0].set_granted(2);
        let claim = FreeClaim { in_cpim: false, octets_max: 10 };
        let chunk = move |start| Chunk { start, free: Some(claim), ..message(1) };
        let decide = |memory: &TableMemory, chunk: &Chunk| memory.table().decide(0, opening(1).session, chunk);
        assert_eq!(decide(&memory, &chunk(1)), ChunkDecision::Free);
        // Both send octets 6 to 10: the later one claims what has passed already.
        let other = Arc::clone(&memory);
        let worker = thread::spawn(move || decide(&other, &chunk(6)));
        let passed = [decide(&memory, &chunk(6)), worker.join().expect("a worker ends")];
        assert_eq!(passed.iter().filter(|pass| **pass == ChunkDecision::Free).count(), 1, "{passed:?}");
        assert_eq!((taken(&passed), memory.slots[0].counters().1), (1, 1), "{passed:?}");
        // It is charged, and stays so.
        assert_eq!(
            decide(&memory, &chunk(11)),
            ChunkDecision::AlreadyPaid { class: ContentClass::Text, free_octets: 0 }
        );
        memory.table().free(0);
        assert!(memory.is_empty(), "something is left");
    });
}

#[test]
fn session_is_found_complete_or_not_at_all() {
    model("open", Some(2), || {
        let memory = TableMemory::new(1);
        let worker = Arc::clone(&memory);
        let worker = thread::spawn(move || {
            let Opening { session, name, .. } = opening(1);
            let whole = Bound { at: 0, session, leg: 7, side: Side::Sender, is_file: false };
            if let Some(at) = worker.table().slot_of_session(name, session) {
                assert_eq!(worker.slots[at as usize].session(), Some(session));
                assert!(bind(&worker, 1, 7));
                assert_eq!(attributed(&worker, 1), Some(whole));
            }
            assert!(attributed(&worker, 1).is_none_or(|bound| bound == whole));
        });
        assert!(open(&memory, 1));
        memory.slots[0].set_granted(1);
        worker.join().expect("the worker ends");
    });
}

#[test]
fn concurrent_bindings_keep_both_streams_and_leak_nothing() {
    model("two bindings", Some(2), || {
        let memory = opened(1);
        let other = Arc::clone(&memory);
        let other = thread::spawn(move || bind(&other, 1, 8));
        assert!(bind(&memory, 1, 7) && other.join().expect("a worker ends"));
        let mut legs: Vec<u64> = memory.table().streams(0).iter().map(|stream| stream.leg).collect();
        legs.sort_unstable();
        assert_eq!((legs, memory.table().streams_used()), (vec![7, 8], 2));
        memory.table().free(0);
        assert!(memory.is_empty(), "something is left");
    });
}

#[test]
fn streams_are_read_as_published() {
    model("streams, reader", Some(2), || {
        let memory = opened(1);
        assert!(bind(&memory, 1, 7));
        let reader = Arc::clone(&memory);
        let reader = thread::spawn(move || {
            let streams = reader.table().streams(0);
            assert_eq!(streams.iter().count(), 1);
            assert!(streams.iter().all(|found| [stream(1, 7), stream(1, 8)].contains(found)), "{streams:?}");
        });
        let changed = memory.table().change_streams(0, opening(1).session, |streams| {
            streams.retain(|_| false);
            streams.push(stream(1, 8));
        });
        assert!(changed.is_ok());
        reader.join().expect("the reader ends");
    });
}

#[test]
fn binding_during_the_end_of_its_session_leaves_nothing() {
    model("binding at the end", Some(2), || {
        let memory = opened(1);
        let worker = Arc::clone(&memory);
        let worker = thread::spawn(move || bind(&worker, 1, 7));
        memory.table().free(0);
        worker.join().expect("the worker ends");
        assert_eq!(memory.table().streams_used(), 0);
        // A name that came too late goes with the next session of the slot, whose it is not.
        assert_eq!(attributed(&memory, 1), None);
        memory.table().free(0);
        assert!(memory.is_empty(), "something is left");
    });
}

/// What a frame does: looks for its session by the endpoints that it has, and takes from it.
fn frame(memory: &TableMemory, number: u64) -> Option<ChunkDecision> {
    let Bound { at, session, .. } = attributed(memory, number)?;
    assert_eq!(session, opening(number).session, "a frame found the session of another");
    Some(memory.table().decide(at, session, &message(number)))
}

/// A slot with session 1 in it, bound, and one unit granted.
fn charged() -> Arc<TableMemory> {
    let memory = opened(1);
    assert!(bind(&memory, 1, 7));
    memory.slots[0].set_granted(1);
    memory
}

#[test]
fn reused_slot_keeps_nothing_of_the_previous_session() {
    model("reuse", Some(2), || {
        let memory = charged();
        let worker = Arc::clone(&memory);
        let early = thread::spawn(move || frame(&worker, 1));
        let closed = memory.slots[0].close();
        // Represents the time between closing a gate and reusing its slot: frames in progress have ended.
        let early = early.join().expect("the worker ends");
        assert_eq!(
            early,
            Some(if closed == 1 {
                ChunkDecision::Charged { amount: 1, left: 0, class: ContentClass::Text, free_octets: 0 }
            } else {
                ChunkDecision::BeyondGrant
            })
        );
        memory.table().free(0);
        let worker = Arc::clone(&memory);
        let late = thread::spawn(move || frame(&worker, 2));
        assert!(open(&memory, 2) && bind(&memory, 2, 7));
        memory.slots[0].set_granted(2);
        let new = late.join().expect("the worker ends");
        assert!(
            matches!(new, None | Some(ChunkDecision::BeyondGrant | ChunkDecision::Charged { left: 1, .. })),
            "{new:?}"
        );
        let paid = u32::from(matches!(new, Some(ChunkDecision::Charged { .. })));
        assert_eq!(memory.slots[0].counters(), (2, paid));
        assert_eq!(frame(&memory, 1), None, "a late frame found something");
    });
}

#[test]
fn late_frame_takes_nothing_from_the_next_session_of_a_slot() {
    model("reuse under a frame", Some(2), || {
        let memory = charged();
        memory.slots[0].close();
        let worker = Arc::clone(&memory);
        let late = thread::spawn(move || frame(&worker, 1));
        memory.table().free(0);
        assert!(open(&memory, 2));
        memory.slots[0].set_granted(2);
        let late = late.join().expect("the worker ends");
        assert!(
            matches!(
                late,
                None | Some(ChunkDecision::BeyondGrant | ChunkDecision::MessageStopped | ChunkDecision::Full)
            ),
            "{late:?}"
        );
        assert_eq!(memory.slots[0].counters(), (2, 0));
    });
}

/// An eventfd and the thread that waits for it.
#[derive(Default)]
struct EventFd {
    is_signalled: Mutex<bool>,
    changed: Condvar,
}

impl EventFd {
    fn signal(&self) {
        *self.is_signalled.lock().expect("no panic") = true;
        self.changed.notify_one();
    }

    /// Without a time limit: loom reports a thread that is never woken.
    fn wait(&self) {
        let mut is_signalled = self.is_signalled.lock().expect("no panic");
        while !*is_signalled {
            is_signalled = self.changed.wait(is_signalled).expect("no panic");
        }
        *is_signalled = false;
    }
}

/// Event rings of two workers, and the engine's sleep.
struct Rings {
    rings: [Arc<RingMemory>; 2],
    waker: EngineWaker,
    eventfd: EventFd,
}

impl Rings {
    fn new() -> Arc<Rings> {
        let rings = [(); 2].map(|()| RingMemory::new(64, 0));
        Arc::new(Rings { rings, waker: EngineWaker::default(), eventfd: EventFd::default() })
    }

    /// A worker: publishes records and waits for the result of each.
    fn publish(&self, at: usize, numbers: std::ops::Range<u8>) {
        let mut ring = self.rings[at].producer();
        for number in numbers {
            write(&mut ring, number).expect("room");
            ring.publish();
            self.waker.wake(|| self.eventfd.signal());
        }
    }

    /// The engine: ticks and sleeps until it has read this many records.
    fn read(&self, wanted: usize) {
        let rings = [self.rings[0].consumer(), self.rings[1].consumer()];
        let (mut positions, mut read) = ([0, 0], 0);
        loop {
            self.waker.begin_tick();
            for (ring, position) in rings.iter().zip(&mut positions) {
                while let Some((_, next)) = ring.read_at(*position) {
                    *position = next;
                    read += 1;
                }
            }
            if read == wanted {
                return;
            }
            self.waker.sleep(|| self.eventfd.wait());
        }
    }
}

#[test]
fn engine_does_not_sleep_while_an_urgent_event_is_unread() {
    model("engine waker, one worker", Some(5), || {
        let rings = Rings::new();
        let worker = Arc::clone(&rings);
        let worker = thread::spawn(move || worker.publish(0, 0..2));
        rings.read(2);
        worker.join().expect("the worker ends");
    });
}

#[test]
fn engine_reads_the_urgent_events_of_two_workers() {
    model("engine waker, two workers", Some(3), || {
        let rings = Rings::new();
        let workers = [0, 1].map(|at| {
            let rings = Arc::clone(&rings);
            thread::spawn(move || rings.publish(at, 0..1))
        });
        rings.read(2);
        for worker in workers {
            worker.join().expect("a worker ends");
        }
    });
}

/// A queue, and the wake words of its two readers.
struct QueueMemory {
    ends: Ends,
    words: Vec<AtomicU64>,
    wake_words: [WakeWord; 2],
    eventfds: [EventFd; 2],
    taken: [Count; 4],
}

impl QueueMemory {
    /// The smallest possible queue: two of the longest records.
    fn new() -> Arc<QueueMemory> {
        let words = (0..8).map(|_| AtomicU64::new(0)).collect();
        let (ends, wake_words, eventfds, taken) = Default::default();
        Arc::new(QueueMemory { ends, words, wake_words, eventfds, taken })
    }

    /// Writes and publishes records, waiting for room, and wakes one reader for each.
    fn publish(&self, numbers: std::ops::Range<u8>) {
        let mut producer = QueueProducer::new(self);
        for number in numbers {
            while producer.write(&content(number)) == Err(Full) {
                thread::yield_now();
            }
            producer.publish(Time(number.into()));
            self.wake(1);
        }
    }

    fn wake(&self, records: usize) {
        wake_some(self.wake_words.iter(), records, |word| {
            let at = self.wake_words.iter().position(|own| std::ptr::eq(own, word)).expect("one of them");
            self.eventfds[at].signal();
        });
    }

    /// Takes one record, if there is one, and checks that it is complete and was not taken before.
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

impl HoldsQueue for QueueMemory {
    fn queue(&self) -> Queue<'_> {
        Queue::over(&self.ends, &self.words)
    }
}

impl HoldsQueue for &QueueMemory {
    fn queue(&self) -> Queue<'_> {
        (**self).queue()
    }
}

#[test]
fn each_record_of_a_queue_is_taken_complete_by_one_reader() {
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
        // The third record is left for the reader that has not taken it.
        let by_other = other.join().expect("a taker ends");
        assert_eq!(memory.take(&mut record), !by_other);
        assert!(memory.all_taken(3) && memory.queue().used() == 0);
    });
}

#[test]
fn waiting_since_is_the_time_of_a_published_record() {
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
fn no_record_waits_while_a_reader_sleeps() {
    model("queue, sleeping takers", Some(2), || {
        let memory = QueueMemory::new();
        let takers = [0, 1].map(|at: usize| {
            let memory = Arc::clone(&memory);
            thread::spawn(move || {
                let mut record = Vec::new();
                // One record stops each, as a script that blocks does.
                while !memory.take(&mut record) {
                    let is_idle = || memory.queue().used() == 0;
                    memory.wake_words[at].sleep(is_idle, || memory.eventfds[at].wait());
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
