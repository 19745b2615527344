//! Shared memory with arbitrary contents, as a killed or misbehaving process may leave it. Rings, queues, records,
//! notifications and the gate never access memory beyond their own, never panic and never loop.

use super::Choices;
use imcharge::charge::ch2::{Denial, Operation, Request, Response, SessionKey};
use imcharge::charge::content::ContentClass;
use imcharge::charge::event::{Direction, Event, Reserve};
use imcharge::charge::policy::Policy;
use imcharge::charge::session::{Output, Session};
use imcharge::charge::tariff::{PriceList, Quota, Tariff, Weight};
use imcharge::charge::time::Time;
use imcharge::shm::gate::{
    Chained, Chunk, ChunkDecision, FrameSession, FreeClaim, Index, Lease, Opening, Side, Slot, Stream, StreamRecord,
    StreamState, Table,
};
use imcharge::shm::notification::Notification;
use imcharge::shm::queue::{HoldsQueue, Queue, QueueProducer};
use imcharge::shm::record::Record;
use imcharge::shm::ring::{Consumer, Ends, Producer, RECORD_MAX};
use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicU32, AtomicU64};

/// The smallest ring there is.
const SIZE: usize = 2 * RECORD_MAX;

/// Words of the smallest queue there is.
const QUEUE_WORDS: usize = 2048;

/// Operations on a table of one input at most.
const ACTS_MAX: usize = 200;

/// The first octet says what the memory is.
pub fn check(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    match choices.below(4) {
        0 => read_ring(&mut choices),
        1 => write_ring(&mut choices),
        2 => {
            let mut session = None;
            records(&mut choices).into_iter().for_each(|record| read_record(record, &mut session));
        }
        _ => use_table(&mut choices),
    }
}

/// The records of an input that is made of records; none of another.
#[cfg(test)]
pub fn records_of(bytes: &[u8]) -> Vec<&[u8]> {
    let mut choices = Choices::new(bytes);
    if choices.below(4) == 2 { records(&mut choices) } else { Vec::new() }
}

fn records<'a>(choices: &mut Choices<'a>) -> Vec<&'a [u8]> {
    let mut records = Vec::new();
    while !choices.is_done() {
        records.push(choices.octets());
    }
    records
}

/// A ring in its own memory of exactly its size, so that the sanitizer finds every access beyond it.
struct Memory {
    ends: Ends,
    data: Box<[UnsafeCell<u64>]>,
}

impl Memory {
    fn new(head: u64, tail: u64, contents: &[u8]) -> Memory {
        let word = |octets: &[u8]| octets.iter().rev().fold(0, |word: u64, octet| word << 8 | u64::from(*octet));
        let contents: Vec<u64> = contents.chunks(8).map(word).collect();
        let data = contents.into_iter().cycle().chain(std::iter::repeat(0)).take(SIZE / 8);
        Memory { ends: Ends::new(head, tail), data: data.map(UnsafeCell::new).collect() }
    }

    fn start(&self) -> *mut u8 {
        UnsafeCell::raw_get(self.data.as_ptr()).cast()
    }

    fn producer(&self) -> Producer<&Memory> {
        // SAFETY: the memory is borrowed and has SIZE octets; it has one producer and one consumer, of one thread.
        unsafe { Producer::over(&raw const self.ends, self.start(), SIZE, self) }
    }

    fn consumer(&self) -> Consumer<&Memory> {
        // SAFETY: as in `producer`.
        unsafe { Consumer::over(&raw const self.ends, self.start(), SIZE, self) }
    }

    /// Whether these octets lie in the ring.
    fn contains(&self, part: &[u8]) -> bool {
        let (start, part) = (self.start() as usize, part.as_ptr_range());
        part.is_empty() || (start <= part.start as usize && part.end as usize <= start + SIZE)
    }
}

/// A queue in its own memory of exactly its size.
struct QueueMemory {
    ends: Ends,
    words: Box<[AtomicU64]>,
}

impl QueueMemory {
    /// Filled with the contents of a ring's memory, repeated.
    fn new(head: u64, tail: u64, contents: &[u8]) -> QueueMemory {
        let ring = Memory::new(0, 0, contents);
        let contents = ring.data.into_vec().into_iter().map(UnsafeCell::into_inner);
        let words = contents.collect::<Vec<_>>().into_iter().cycle().take(QUEUE_WORDS).map(AtomicU64::new);
        QueueMemory { ends: Ends::new(head, tail), words: words.collect() }
    }
}

impl HoldsQueue for &QueueMemory {
    fn queue(&self) -> Queue<'_> {
        Queue::over(&self.ends, &self.words)
    }
}

/// Takes records at any positions, with any contents.
fn take_from_queue(memory: &QueueMemory) {
    let (queue, mut record, mut session) = (memory.queue(), Vec::new(), None);
    for _ in 0..QUEUE_WORDS {
        let (before, _) = (queue.tail(), queue.waiting_since());
        if !queue.take(&mut record) {
            break;
        }
        assert!(record.len() <= RECORD_MAX && queue.tail() > before && queue.tail() <= queue.head());
        read_record(&record, &mut session);
    }
    let _ = queue.used();
}

/// Writes a record at any head. A record that has room is taken as it was written.
fn write_to_queue(memory: &QueueMemory, length: usize, fill: u8) {
    let (queue, content, mut record) = (memory.queue(), vec![fill; length], Vec::new());
    let (mut producer, head) = (QueueProducer::new(memory), queue.head());
    if producer.write(&content).is_err() {
        return;
    }
    let next = producer.head();
    assert!(next > head && length <= RECORD_MAX && next - queue.tail() <= QUEUE_WORDS as u64);
    assert_eq!(producer.publish(Time(1)), 1);
    if queue.tail() == head {
        assert_eq!(queue.waiting_since(), Some(Time(1)));
        assert!(queue.take(&mut record) && record == content && queue.tail() == next);
    }
}

/// Reads records from any position. Each lies in the ring and advances the position, so that there are at most as many as
/// the shortest record has room.
fn read_ring(choices: &mut Choices<'_>) {
    let (head, tail, mut position) = (choices.u64(), choices.u64(), choices.u64());
    let contents = choices.rest();
    take_from_queue(&QueueMemory::new(head, tail, contents));
    let memory = Memory::new(head, tail.min(position), contents);
    let mut consumer = memory.consumer();
    assert!(consumer.head() == head && consumer.tail() == tail.min(position));
    let _ = memory.ends.used();
    let mut session = None;
    for _ in 0..SIZE / 8 {
        let Some((record, next)) = consumer.read_at(position) else { break };
        assert!(memory.contains(record), "a record beyond the ring");
        assert!(record.len() <= RECORD_MAX && next > position && next <= head, "the position advances, up to the head");
        read_record(record, &mut session);
        position = next;
    }
    consumer.free(position);
    assert_eq!((consumer.tail(), memory.ends.tail()), (position, position));
}

/// Writes at any head. A record that has room lies in the ring and is read as it was written.
fn write_ring(choices: &mut Choices<'_>) {
    let (mut head, tail) = (choices.u64(), choices.u64());
    let memory = Memory::new(head, tail, &[]);
    let queue = QueueMemory::new(head, tail, &[]);
    let (mut producer, mut consumer) = (memory.producer(), memory.consumer());
    assert_eq!(producer.size(), SIZE);
    while !choices.is_done() {
        let (length, spare) = (usize::from(choices.u16()) % (RECORD_MAX + 2), choices.u16().into());
        let fill = choices.octet();
        write_to_queue(&queue, length, fill);
        let written = producer.write(spare, |space| {
            assert!(memory.contains(space) && space.len() == RECORD_MAX, "room beyond the ring");
            space.iter_mut().take(length).for_each(|octet| *octet = fill);
            Some(length)
        });
        if written != Ok(true) {
            continue;
        }
        producer.publish();
        let next = memory.ends.head();
        assert!(next > head && next.is_multiple_of(8) && length <= RECORD_MAX);
        let (record, after) = consumer.read_at(head).expect("the record was published");
        assert!(record.len() == length && record.iter().all(|octet| *octet == fill) && after == next);
        assert!(producer.used() <= SIZE, "more is used than there is room");
        head = next;
        if choices.flag() {
            consumer.free(head);
        }
    }
}

/// What can be read as a record or notification is encoded again to the same value; a session accepts every event.
fn read_record(bytes: &[u8], session: &mut Option<Session>) {
    if let Ok(notification) = postcard::from_bytes::<Notification<'_>>(bytes) {
        let again = postcard::to_stdvec(&notification).expect("a notification can be encoded");
        assert_eq!(postcard::from_bytes::<Notification<'_>>(&again).as_ref(), Ok(&notification));
    }
    let Ok(record) = postcard::from_bytes::<Record<'_>>(bytes) else { return };
    let again = postcard::to_stdvec(&record).expect("a record can be written");
    assert_eq!(postcard::from_bytes::<Record<'_>>(&again).as_ref(), Ok(&record));
    assert!(again.len() <= bytes.len(), "the shortest form is ours");
    if let Record::Event(entry) = &record {
        step(session, &entry.event, entry.at);
    }
}

/// Feeds an event, answers what is asked, and lets the time come that the session waits for.
fn step(session: &mut Option<Session>, event: &Event<'_>, at: Time) {
    let most = |message, kilobyte| Tariff { message, kilobyte };
    let prices = |reserve: &Reserve<'_>| match reserve.messages % 3 {
        0 => PriceList::new([most(u32::MAX, 0); 4], reserve.recipients),
        1 => PriceList::new([most(0, u32::MAX); 4], reserve.recipients),
        _ => PriceList::new([most(1, 0), most(u32::MAX, u32::MAX), most(0, 1), most(3, 2)], reserve.recipients),
    };
    if let (None, Event::Reserve(reserve)) = (&session, event) {
        *session = Some(Session::open(SessionKey(1, 2), reserve, prices(reserve), Policy::default(), 0, at));
    }
    let Some(session) = session else { return };
    session.on_event(event, at);
    drain(session, at);
    session.on_timer(at);
    drain(session, at);
    let _ = session.deadline();
    let stored = postcard::to_stdvec(&*session).expect("a session can be stored");
    *session = postcard::from_bytes(&stored).expect("what is stored can be read");
}

fn drain(session: &mut Session, now: Time) {
    for _ in 0..10_000 {
        match session.poll() {
            None => return,
            Some(Output::Ask(request)) => session.on_response(request.number, &answer(&request), now),
            Some(Output::CloseGate) => session.on_gate_closed(u32::MAX, now),
            Some(_) => {}
        }
    }
    panic!("the session wants more and more");
}

/// Grants 100 requests and then denies, so that a record with absurd quantities does not request credit endlessly.
fn answer(request: &Request) -> Response {
    match &request.operation {
        Operation::Reserve { .. } if request.number > 100 => Response::Denied(Denial::NoCredit),
        Operation::Reserve { quota: Quota(0) } => Response::granted(Quota(0), None),
        Operation::Reserve { quota } => Response::granted(*quota, Some(i64::MAX)),
        Operation::Debit { .. } => Response::debited(Some(i64::MIN)),
        Operation::Refund { .. } => Response::Refunded { balance: None },
        Operation::Release => Response::Released { balance: None },
    }
}

/// Memory of the gate.
struct TableMemory {
    slots: Vec<Slot>,
    streams: Vec<StreamRecord>,
    names: Vec<AtomicU64>,
    next_name: Vec<AtomicU32>,
    messages: Vec<AtomicU64>,
    next_message: Vec<AtomicU32>,
    passed: Vec<AtomicU64>,
    transactions: Vec<AtomicU64>,
    lease: Lease,
}

/// Slots, and entries of each index.
const SLOTS: usize = 4;
const ENTRIES: usize = 64;

impl TableMemory {
    /// Zeros, with octets of the input anywhere.
    fn new(choices: &mut Choices<'_>) -> TableMemory {
        let mut slots: Vec<Slot> = (0..SLOTS).map(|_| Slot::default()).collect();
        let octets = choices.octets();
        let room = size_of_val(slots.as_slice());
        // SAFETY: a slot is made of atomics, for which any octets are good; not more of them than there is room for.
        unsafe { slots.as_mut_ptr().cast::<u8>().copy_from(octets.as_ptr(), octets.len().min(room)) };
        let mut memory = TableMemory {
            slots,
            streams: zeros(),
            names: zeros(),
            next_name: zeros(),
            messages: zeros(),
            next_message: zeros(),
            passed: zeros(),
            transactions: zeros(),
            lease: Lease::default(),
        };
        memory.lease.set(Lease::UNLIMITED);
        let octets = choices.octets();
        let room = size_of_val(memory.streams.as_slice());
        // SAFETY: as for the slots.
        unsafe { memory.streams.as_mut_ptr().cast::<u8>().copy_from(octets.as_ptr(), octets.len().min(room)) };
        for _ in 0..choices.below(32) {
            let (at, entry) = (choices.below(ENTRIES), choices.u64());
            match choices.below(5) {
                0 => memory.names[at] = entry.into(),
                1 => memory.next_name[at] = AtomicU32::new(entry as u32),
                2 => memory.messages[at] = entry.into(),
                3 => memory.passed[at] = entry.into(),
                _ => memory.next_message[at] = AtomicU32::new(entry as u32),
            }
        }
        memory
    }

    fn table(&self) -> Table<'_> {
        Table {
            slots: &self.slots,
            names: Chained { index: Index::over(&self.names), next: &self.next_name },
            streams: &self.streams,
            messages: Chained { index: Index::over(&self.messages), next: &self.next_message },
            passed: &self.passed,
            transactions: Index::over(&self.transactions),
            lease: &self.lease,
        }
    }
}

fn zeros<T: Default>() -> Vec<T> {
    (0..ENTRIES).map(|_| T::default()).collect()
}

/// What engine and workers do with a table.
fn use_table(choices: &mut Choices<'_>) {
    let memory = TableMemory::new(choices);
    let table = memory.table();
    for _ in 0..ACTS_MAX {
        if choices.is_done() {
            break;
        }
        let (kind, at, hash) = (choices.octet() % 8, choices.below(SLOTS + 1) as u32, hash(choices));
        match kind {
            0 => open(&table, at, hash),
            1 => {
                table.free(at);
                assert!(table.slots.get(at as usize).is_none_or(|slot| slot.session().is_none()));
            }
            2 => bind(&table, at, hash, choices),
            3 | 4 => look_up(&table, hash),
            5 => pass(&table, at, hash, choices),
            _ => take(&table, at, choices),
        }
    }
}

/// Few enough that some meet, with an upper half for what the indexes keep of a hash.
fn hash(choices: &mut Choices<'_>) -> u64 {
    let octet = choices.octet();
    u64::from(octet & 15) << 40 | u64::from(octet >> 4)
}

const WEIGHT: Weight = Weight { message: 0, kilobyte: 1 };

fn open(table: &Table<'_>, at: u32, name: u64) {
    let session = SessionKey(name + 1, 1);
    let opening = Opening {
        session,
        name,
        inviting_tag: 5,
        direction: Direction::Push,
        weights: [WEIGHT; 4],
        is_paid_by_sender: name.is_multiple_of(2),
        is_paired: true,
    };
    if table.claim(at, &opening) {
        table.open(at, &opening);
        let slot = &table.slots[at as usize];
        assert_eq!(
            (slot.session(), slot.direction(), slot.weight(ContentClass::File)),
            (Some(session), Direction::Push, WEIGHT)
        );
        assert!(slot.counters() == (0, 0) && slot.is_inviting_tag(5));
        assert!(table.slot_of_session(name, session).is_some(), "an open slot is found");
    }
}

fn bind(table: &Table<'_>, at: u32, hash: u64, choices: &mut Choices<'_>) {
    let Some(session) = table.slots.get(at as usize).and_then(Slot::session) else { return };
    let (sender, receiver) = (hash | 1, self::hash(choices) | 2);
    let stream =
        Stream { leg: hash, position: 1, state: StreamState::Bound, sender, receiver, is_file: hash.is_multiple_of(2) };
    let bound = table.change_streams(at, session, |streams| {
        streams.retain(|stream| stream.leg != hash);
        streams.push(stream);
    });
    if bound.is_ok() && table.streams(at).iter().any(|found| *found == stream) {
        assert_ne!(
            table.session_of_request(sender, receiver, Side::Sender),
            FrameSession::NotCharged,
            "what is bound is found"
        );
    }
}

fn look_up(table: &Table<'_>, hash: u64) {
    let dialog = table.slot_of_dialog(hash, |slot| slot.is_inviting_tag(hash));
    let report = table.session_of_report(hash).map(|bound| bound.at);
    let answers = table.sessions_of_response(hash).chain(table.expecting(hash)).map(|bound| bound.at);
    let found = [dialog, report].into_iter().flatten().chain(answers);
    assert!(found.into_iter().all(|at| (at as usize) < SLOTS), "a slot that is none");
    if let FrameSession::Bound(bound) = table.session_of_request(hash, hash ^ 1, Side::Receiver) {
        assert!(matches!(bound.side, Side::Sender | Side::Receiver) && (bound.at as usize) < SLOTS);
    }
}

fn pass(table: &Table<'_>, at: u32, hash: u64, choices: &mut Choices<'_>) {
    let Some(session) = table.slots.get(at as usize).and_then(Slot::session) else { return };
    let (is_first, octets) = (choices.flag(), choices.u64());
    let free = choices.flag().then(|| FreeClaim { in_cpim: choices.flag(), octets_max: u32::from(choices.u16()) });
    let chunk = Chunk {
        message: hash,
        start: if is_first { 1 } else { choices.u64() },
        octets,
        file_octets: u64::from(choices.u16()),
        is_last: choices.flag(),
        class: ContentClass::ALL[usize::from(choices.octet()) % 4],
        free,
    };
    match table.decide(at, session, &chunk) {
        ChunkDecision::Charged { .. } | ChunkDecision::AlreadyPaid { .. } => {
            // What follows the end of a paying sender's message is another message.
            let has_ended = chunk.is_last && table.slots[at as usize].is_paid_by_sender();
            assert!(has_ended || table.is_paid(at, session, hash), "what passes is paid for");
        }
        ChunkDecision::Free => {
            assert!(free.is_some_and(|claim| octets <= claim.octets_max.into()), "what is free claims it")
        }
        ChunkDecision::BeyondGrant | ChunkDecision::LeaseOver | ChunkDecision::MessageStopped | ChunkDecision::Full => {
        }
    }
    match choices.below(4) {
        0 => table.forget_message(at, session, hash),
        1 => table.stop_message(at, session, hash),
        _ => table.expect_response(at, hash),
    }
}

fn take(table: &Table<'_>, at: u32, choices: &mut Choices<'_>) {
    let Some(slot) = table.slots.get(at as usize) else { return };
    let amount = choices.u64() as u32;
    let (granted, taken) = slot.counters();
    match slot.take(amount) {
        Some(left) => {
            let sum = u64::from(taken) + u64::from(amount) + u64::from(left);
            assert!(amount == 0 || sum == u64::from(granted), "no more than granted");
            assert_eq!(slot.counters(), (granted, taken + amount));
            if choices.flag() {
                slot.put_back(amount);
                assert_eq!(slot.counters(), (granted, taken));
            }
        }
        None => assert_eq!(slot.counters(), (granted, taken)),
    }
    match choices.below(4) {
        0 => slot.set_granted(amount),
        1 => {
            let taken = slot.close();
            assert!(slot.counters().1 == taken && slot.take(1).is_none(), "a closed gate stays closed");
        }
        _ => {}
    }
}
