//! The gate in private memory.

use super::free::FREE_MESSAGES_MAX;
use super::index::SAME_MAX;
use super::legs::LEGS_MAX;
use super::*;
use crate::charge::content::ContentClass;
use crate::charge::time::Time;
use crate::shm::clock;
use crate::shm::sync::Ordering;

/// A table over leaked memory, with a lease without a limit.
fn table(slots: usize) -> Table<'static> {
    fn leak<T: Default>(count: usize) -> &'static [T] {
        Box::leak((0..count).map(|_| T::default()).collect::<Vec<T>>().into_boxed_slice())
    }
    let lease = Box::leak(Box::<Lease>::default());
    lease.set(Lease::UNLIMITED);
    let size = Index::size_for(slots * 5);
    let chained = || Chained { index: Index::over(leak(size)), next: leak(size) };
    Table {
        slots: leak(slots),
        names: chained(),
        streams: leak(slots * (OWN_RECORDS + 1)),
        messages: chained(),
        passed: leak(size),
        transactions: Index::over(leak(Index::size_for(16))),
        lease,
    }
}

/// A value that looks random, like the keyed hashes of a region.
fn hash(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 29;
    mixed.wrapping_mul(0x94d0_49bb_1331_11eb) | 1
}

const BY_MESSAGE: [Weight; 4] = [Weight { message: 1, kilobyte: 0 }; 4];
const BY_KILOBYTE: [Weight; 4] = [Weight { message: 0, kilobyte: 1 }; 4];

/// Decision about a later chunk of a message of this class that is paid for.
const fn paid(class: ContentClass) -> ChunkDecision {
    ChunkDecision::AlreadyPaid { class, free_octets: 0 }
}

const PAID: ChunkDecision = paid(ContentClass::Text);

fn opening(number: u64) -> Opening {
    Opening {
        session: SessionKey(number, 1),
        name: hash(number),
        inviting_tag: 7,
        direction: Direction::Pull,
        weights: BY_MESSAGE,
        is_paid_by_sender: false,
        is_paired: false,
    }
}

fn open(table: &Table<'_>, at: u32, opening: &Opening) -> SessionKey {
    assert!(table.claim(at, opening));
    table.open(at, opening);
    opening.session
}

fn stream(leg: u64, sender: u64, receiver: u64) -> Stream {
    Stream { leg, position: 0, state: StreamState::Bound, sender, receiver, is_file: false }
}

/// Gives a session one stream more.
fn bind(table: &Table<'_>, at: u32, session: SessionKey, stream: Stream) -> Result<(), NoRoom> {
    table.change_streams(at, session, |streams| {
        streams.push(stream);
    })
}

fn side(table: &Table<'_>, from: u64, to: u64) -> Option<(u32, Side)> {
    match table.session_of_request(from, to, Side::Sender) {
        FrameSession::Bound(bound) => Some((bound.at, bound.side)),
        FrameSession::Unbound { .. } | FrameSession::NotCharged => None,
    }
}

fn chunk(message: u64, octets: u64) -> Chunk {
    Chunk {
        message: hash(message),
        start: 1,
        octets,
        file_octets: 0,
        is_last: true,
        class: ContentClass::Text,
        free: None,
    }
}

fn is_empty(table: &Table<'_>) -> bool {
    table.names.index.used() == 0 && table.messages.index.used() == 0 && table.streams_used() == 0
}

const SENDER: u64 = 0x1111_2222_3333_4444;
const RECEIVER: u64 = 0x5555_6666_7777_8888;

#[test]
fn gate_passes_what_is_granted_and_no_more() {
    let slot = Slot::default();
    assert_eq!(slot.take(1), None);
    slot.set_granted(3);
    assert_eq!(slot.take(2), Some(1));
    assert_eq!(slot.take(2), None);
    assert_eq!(slot.take(1), Some(0));
    slot.set_granted(5);
    assert_eq!(slot.counters(), (5, 3));
    assert_eq!(slot.close(), 3);
    assert_eq!(slot.take(1), None);
}

#[test]
fn concurrent_workers_take_exactly_the_grant() {
    let slot = Slot::default();
    slot.set_granted(10_000);
    let taken: u32 = std::thread::scope(|scope| {
        let take = || (0..10_000).filter(|_| slot.take(1).is_some()).count() as u32;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(taken, 10_000);
}

#[test]
fn name_is_added_once_by_concurrent_workers() {
    let table = table(64);
    for round in 0..if cfg!(miri) { 10 } else { 1000u64 } {
        let name = hash(round);
        let new: usize = std::thread::scope(|scope| {
            let add = || matches!(table.names.add(&table.slots[3].names, 3, name, 9999), Inserted::At(_)) as usize;
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(add)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert!(new <= 1, "two workers both added it");
        assert_eq!(table.names.index.find(name).count(), 1);
        table.free(3);
        assert_eq!(table.names.index.find(name).count(), 0);
    }
}

#[test]
fn session_is_found_by_its_names_until_it_is_freed() {
    let table = table(64);
    let session = open(&table, 9, &opening(5));
    assert_eq!(table.slot_of_session(hash(5), session), Some(9));
    assert_eq!(table.slot_of_session(hash(5), SessionKey(6, 1)), None);
    table.add_name(9, hash(5 | 1 << 40)).expect("room");
    assert_eq!(table.slot_of_dialog(hash(5 | 1 << 40), |slot| slot.is_inviting_tag(7)), Some(9));
    assert_eq!(table.slot_of_dialog(hash(5 | 1 << 40), |slot| slot.is_inviting_tag(8)), None);
    assert_eq!(bind(&table, 9, session, stream(8, SENDER, RECEIVER)), Ok(()));
    assert_eq!(side(&table, SENDER, RECEIVER), Some((9, Side::Sender)));
    assert_eq!(side(&table, RECEIVER, SENDER), Some((9, Side::Receiver)));
    assert_eq!(table.session_of_request(RECEIVER, RECEIVER, Side::Sender), FrameSession::NotCharged);
    table.free(9);
    assert_eq!(table.slot_of_session(hash(5), session), None);
    assert_eq!(table.session_of_request(SENDER, RECEIVER, Side::Sender), FrameSession::NotCharged);
    assert!(is_empty(&table));
}

#[test]
fn slot_keeps_dialogs_and_their_completed_exchanges() {
    let table = table(64);
    open(&table, 9, &opening(5));
    let slot = &table.slots[9];
    let leg = slot.add_leg(70).expect("room");
    leg.learn(1, 2, 20);
    leg.learn(3, 4, 40);
    assert_eq!((leg.target(), leg.source(), leg.host()), (3, 2, 20), "the target may change, the address may not");
    assert_eq!([5, 5, 6, 5].map(|cseq| leg.is_another(cseq)), [true, false, true, true]);
    assert!(slot.may_change(39) && !slot.may_change(2) && slot.may_change(1) && !slot.may_change(u32::MAX));
    leg.set_done(Side::Receiver, 7);
    leg.set_done(Side::Receiver, 5);
    assert_eq!([6, 7, 8].map(|cseq| leg.is_done(Side::Receiver, cseq)), [true, true, false]);
    assert!(!leg.is_done(Side::Sender, 0));
    assert_eq!(slot.add_leg(70).map(|leg| leg.target()), Some(3));
    let added = (71..80).filter(|tag| slot.add_leg(*tag).is_some()).count();
    assert_eq!((added, slot.legs().count()), (LEGS_MAX - 1, LEGS_MAX));
    assert!(slot.leg(79).is_none() && slot.leg(0).is_none() && slot.add_leg(0).is_none());
    slot.set_answered();
    table.free(9);
    open(&table, 9, &opening(6));
    assert!(!slot.is_answered() && slot.legs().next().is_none() && slot.may_change(40));
}

#[test]
fn content_from_a_former_sender_endpoint_is_unbound() {
    let table = table(64);
    let session = open(&table, 9, &opening(5));
    bind(&table, 9, session, stream(8, SENDER, RECEIVER)).expect("room");
    table
        .change_streams(9, session, |streams| {
            streams.retain(|_| false);
            streams.push(stream(8, SENDER + 2, RECEIVER + 2));
        })
        .expect("room");
    assert_eq!(side(&table, SENDER + 2, RECEIVER + 2), Some((9, Side::Sender)));
    assert_eq!(table.session_of_request(SENDER, RECEIVER, Side::Sender), FrameSession::Unbound { at: 9, session });
    assert_eq!(table.session_of_request(SENDER + 2, RECEIVER, Side::Sender), FrameSession::Unbound { at: 9, session });
    // What a receiver describes makes nothing of others a stray.
    assert_eq!(table.session_of_request(RECEIVER, 99, Side::Sender), FrameSession::NotCharged);
    assert_eq!(table.streams_used(), 1);
}

#[test]
fn open_session_is_preferred_among_equal_endpoints() {
    let table = table(64);
    for (at, number) in [(1, 5), (2, 6), (3, 7)] {
        let session = open(&table, at, &opening(number));
        bind(&table, at, session, stream(8, SENDER, RECEIVER)).expect("room");
    }
    table.slots[1].close();
    table.slots[3].close();
    assert_eq!(side(&table, SENDER, RECEIVER), Some((2, Side::Sender)));
    assert_eq!(table.session_of_report(SENDER).map(|bound| bound.at), Some(2));
    let mut answered: Vec<u32> = table.sessions_of_response(SENDER).map(|bound| bound.at).collect();
    answered.sort_unstable();
    assert_eq!(answered, [1, 2, 3]);
    assert_eq!(table.sessions_of_response(RECEIVER).count(), 0);
}

#[test]
fn equal_receivers_with_different_senders_are_different_sessions() {
    let table = table(64);
    for (at, number) in [(1, 5), (2, 6)] {
        let session = open(&table, at, &opening(number));
        bind(&table, at, session, stream(8, SENDER + number, RECEIVER)).expect("room");
    }
    assert_eq!(side(&table, SENDER + 5, RECEIVER), Some((1, Side::Sender)));
    assert_eq!(side(&table, RECEIVER, SENDER + 6), Some((2, Side::Receiver)));
}

#[test]
fn concurrent_bindings_keep_all_streams_and_leak_nothing() {
    for round in 0..if cfg!(miri) { 2 } else { 300 } {
        let table = table(16);
        let session = open(&table, 3, &opening(round + 1));
        std::thread::scope(|scope| {
            for leg in 1..=4 {
                let table = &table;
                scope.spawn(move || bind(table, 3, session, stream(leg, SENDER + leg, RECEIVER)).expect("room"));
            }
        });
        assert_eq!(table.streams(3).iter().count(), 4);
        assert_eq!(table.streams_used(), 4);
        assert!((1..=4).all(|leg| side(&table, SENDER + leg, RECEIVER) == Some((3, Side::Sender))));
        table.free(3);
        assert!(is_empty(&table));
    }
}

#[test]
fn sessions_with_many_streams_leave_others_their_own_records() {
    let table = table(64);
    // As many as there are slots, one after the other: what they have beyond their own is in the pool.
    for at in 0..60 {
        let session = open(&table, at, &opening(u64::from(at) + 1));
        for leg in 0..STREAMS_MAX as u64 {
            let _ = bind(&table, at, session, stream(leg + 1, hash(at.into()), !hash(at.into())));
        }
    }
    for at in 60..64 {
        let session = open(&table, at, &opening(u64::from(at) + 1));
        for change in 0..10 {
            let changed = table.change_streams(at, session, |streams| {
                streams.retain(|_| false);
                let (sender, receiver) = (hash(at.into()), !hash(at.into()));
                streams.push(Stream { state: StreamState::Offered(Side::Receiver), ..stream(0, 0, receiver) });
                streams.push(stream(change, sender, receiver));
            });
            assert_eq!(changed, Ok(()), "slot {at}, change {change}");
        }
    }
}

#[test]
fn ended_session_binds_nothing() {
    let table = table(16);
    let session = open(&table, 3, &opening(5));
    table.free(3);
    assert_eq!(bind(&table, 3, session, stream(8, SENDER, RECEIVER)), Err(NoRoom));
    assert!(is_empty(&table));
}

#[test]
fn session_is_limited_to_its_share_of_names_and_streams() {
    let table = table(256);
    let session = open(&table, 3, &opening(5));
    for n in 0..STREAMS_MAX as u64 {
        assert_eq!(bind(&table, 3, session, stream(n + 1, hash(n + 100), RECEIVER)), Ok(()));
    }
    let full = table.streams(3);
    assert_eq!(bind(&table, 3, session, stream(99, hash(99), RECEIVER)), Ok(()));
    assert_eq!(table.streams(3), full, "one more than its share");
    let added = (0..1000).take_while(|n| table.add_name(3, hash(n + 10_000)).is_ok()).count();
    assert!((1..NAMES_MAX as usize).contains(&added), "{added}");
    assert!(table.claim(4, &opening(6)), "another session has its own share");
}

#[test]
fn shared_name_leaves_room_for_other_names_in_its_window() {
    let table = table(64);
    let name = hash(1);
    let added = (0..64).filter(|at| table.add_name(*at, name).is_ok()).count();
    assert_eq!(added, SAME_MAX);
    // Another name of the same window.
    assert_eq!(table.add_name(63, name ^ 1 << 60), Ok(()));
    assert_eq!(table.names.index.find(name).count(), SAME_MAX);
}

#[test]
fn receiver_described_by_many_sessions_is_still_bound() {
    let table = table(64);
    for at in 0..60u32 {
        let session = open(&table, at, &opening(u64::from(at) + 1));
        assert_eq!(bind(&table, at, session, stream(7, hash(u64::from(at) | 1 << 50), RECEIVER)), Ok(()));
    }
    let session = open(&table, 61, &opening(1 << 20));
    assert_eq!(bind(&table, 61, session, stream(7, SENDER, RECEIVER)), Ok(()));
    assert_eq!(side(&table, SENDER, RECEIVER), Some((61, Side::Sender)));
    assert_eq!(side(&table, RECEIVER, SENDER), Some((61, Side::Receiver)));
}

#[test]
fn sessions_of_one_sender_endpoint_are_all_found() {
    let table = table(64);
    for at in 0..60u32 {
        let session = open(&table, at, &opening(u64::from(at) + 1));
        assert_eq!(bind(&table, at, session, stream(7, SENDER, hash(u64::from(at) | 1 << 50))), Ok(()));
    }
    assert!((0..60).all(|at| side(&table, SENDER, hash(at | 1 << 50)) == Some((at as u32, Side::Sender))));
    assert!(matches!(table.session_of_request(SENDER, 99, Side::Sender), FrameSession::Unbound { .. }));
}

#[test]
fn stopped_content_fills_no_table() {
    let table = table(64);
    for weights in [BY_MESSAGE, BY_KILOBYTE] {
        let session = open(&table, 9, &Opening { weights, ..opening(5) });
        for n in 0..10_000 {
            assert_eq!(table.decide(9, session, &chunk(n, 5)), ChunkDecision::BeyondGrant);
        }
        assert!(table.messages.index.used() < 100, "{}", table.messages.index.used());
        table.slots[9].set_granted(1);
        assert!(matches!(table.decide(9, session, &chunk(1 << 30, 5)), ChunkDecision::Charged { .. }));
        table.free(9);
    }
}

#[test]
fn message_is_charged_once_and_forgotten_with_its_session() {
    let table = table(64);
    let session = open(&table, 9, &opening(5));
    table.slots[9].set_granted(20);
    for message in 1..=20u64 {
        let chunk = chunk(message, 100);
        assert!(matches!(table.decide(9, session, &chunk), ChunkDecision::Charged { amount: 1, .. }));
        assert_eq!(table.decide(9, session, &chunk), PAID);
        assert!(table.is_paid(9, session, chunk.message));
    }
    assert_eq!(table.slots[9].counters(), (20, 20));
    table.free(9);
    assert!(is_empty(&table));
    assert!(table.passed.iter().all(|word| word.load(Ordering::Relaxed) == 0));
}

#[test]
fn message_is_charged_once_by_concurrent_workers() {
    const MESSAGES: u64 = 3 * NOTES as u64;
    for number in 0..if cfg!(miri) { 2 } else { 200 } {
        let table = table(64);
        let session = open(&table, 9, &opening(number + 1));
        table.slots[9].set_granted(1000);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    (1..=MESSAGES)
                        .for_each(|n| assert_ne!(table.decide(9, session, &chunk(n, 5)), ChunkDecision::Full));
                });
            }
        });
        assert_eq!(u64::from(table.slots[9].counters().1), MESSAGES);
    }
}

#[test]
fn stopped_chunk_stops_its_message() {
    let table = table(64);
    let session = open(&table, 9, &opening(5));
    let rest = Chunk { start: 101, ..chunk(1, 100) };
    assert_eq!(table.decide(9, session, &chunk(1, 100)), ChunkDecision::BeyondGrant);
    table.slots[9].set_granted(5);
    assert_eq!(table.decide(9, session, &rest), ChunkDecision::MessageStopped);
    // Sent again from its beginning it is a new message.
    assert!(matches!(table.decide(9, session, &chunk(1, 100)), ChunkDecision::Charged { amount: 1, .. }));
    assert_eq!(table.decide(9, session, &rest), PAID);
}

#[test]
fn message_that_was_not_charged_is_charged_like_a_new_one() {
    let table = table(64);
    for weights in [BY_MESSAGE, BY_KILOBYTE] {
        let session = open(&table, 9, &Opening { weights, ..opening(5) });
        table.slots[9].set_granted(5);
        assert!(matches!(table.decide(9, session, &chunk(1, 100)), ChunkDecision::Charged { amount: 1, .. }));
        table.forget_message(9, session, hash(1));
        assert!(matches!(table.decide(9, session, &chunk(1, 100)), ChunkDecision::Charged { amount: 1, .. }));
        table.stop_message(9, session, hash(1));
        assert!(!table.is_paid(9, session, hash(1)));
        table.free(9);
    }
}

#[test]
fn file_octets_count_once_for_a_message() {
    let table = table(64);
    let session = open(&table, 9, &Opening { weights: BY_KILOBYTE, ..opening(5) });
    table.slots[9].set_granted(5);
    let document = Chunk { file_octets: 4000, ..chunk(1, 100) };
    let beyond = Chunk { file_octets: 6000, ..chunk(2, 100) };
    assert_eq!(table.decide(9, session, &beyond), ChunkDecision::BeyondGrant);
    assert!(matches!(table.decide(9, session, &document), ChunkDecision::Charged { amount: 5, left: 0, .. }));
    assert!(matches!(table.decide(9, session, &Chunk { octets: 1000, ..document }), PAID));
    table.slots[9].set_granted(11);
    // Nothing of the other one has passed, so it is sent again from its beginning.
    assert!(matches!(table.decide(9, session, &beyond), ChunkDecision::Charged { amount: 6, left: 0, .. }));
}

#[test]
fn kilobytes_are_counted_from_the_octets_that_passed() {
    for size in [1u64, 100, 1023, 1024, 1025, 2048, 5000] {
        let table = table(64);
        let session = open(&table, 9, &Opening { weights: BY_KILOBYTE, ..opening(5) });
        table.slots[9].set_granted(1000);
        for count in 1..=20 {
            let before = table.slots[9].counters().1;
            let passed = table.decide(9, session, &Chunk { start: (count - 1) * size + 1, ..chunk(1, size) });
            let taken = table.slots[9].counters().1;
            assert_eq!(u64::from(taken), (count * size).div_ceil(1024), "{count} chunks of {size}");
            assert_eq!(matches!(passed, ChunkDecision::Charged { .. }), taken > before);
        }
    }
    let table = table(64);
    let session = open(&table, 9, &Opening { weights: BY_KILOBYTE, ..opening(5) });
    table.slots[9].set_granted(1000);
    assert!(
        matches!(table.decide(9, session, &chunk(1, 0)), ChunkDecision::Charged { amount: 1, .. }),
        "no octets cost one"
    );
    assert_eq!(table.decide(9, session, &chunk(1, 1024)), PAID);
    assert!(matches!(table.decide(9, session, &chunk(1, 1)), ChunkDecision::Charged { amount: 1, .. }));
    table.stop_message(9, session, hash(1));
    assert_eq!(table.decide(9, session, &chunk(1, 1)), ChunkDecision::MessageStopped);
}

/// A table with a session that has been granted 20 units, by message and by kilobyte.
fn free_tables() -> impl Iterator<Item = (Table<'static>, SessionKey)> {
    [BY_MESSAGE, BY_KILOBYTE].into_iter().map(|weights| {
        let table = table(64);
        let session = open(&table, 9, &Opening { weights, ..opening(5) });
        table.slots[9].set_granted(20);
        (table, session)
    })
}

/// A chunk that claims to be free, of a message of more chunks.
fn free(message: u64, start: u64, octets: u64) -> Chunk {
    let claim = FreeClaim { in_cpim: false, octets_max: 1000 };
    Chunk { start, is_last: false, class: ContentClass::Notification, free: Some(claim), ..chunk(message, octets) }
}

fn is_charged_as_new(decision: ChunkDecision) -> bool {
    matches!(decision, ChunkDecision::Charged { amount: 1, .. })
}

#[test]
fn free_message_takes_nothing_in_any_number_of_chunks() {
    for (table, session) in free_tables() {
        let passes = |chunk: Chunk| assert_eq!(table.decide(9, session, &chunk), ChunkDecision::Free, "{chunk:?}");
        for (message, chunks) in [(1, 1), (2, 2), (3, 20)] {
            for number in 0..chunks {
                passes(Chunk { is_last: number + 1 == chunks, ..free(message, number * 50 + 1, 50) });
            }
        }
        // Two at a time, one of them sent again from its beginning.
        for (message, start) in [(4, 1), (5, 1), (4, 51), (5, 51), (4, 1), (5, 101), (4, 51)] {
            passes(free(message, start, 50));
        }
        assert_eq!(table.slots[9].counters(), (20, 0));
        table.free(9);
        assert!(is_empty(&table));
    }
}

#[test]
fn free_message_passes_without_credit_but_not_a_closed_gate() {
    for (table, session) in free_tables() {
        table.slots[9].set_granted(0);
        assert_eq!(table.decide(9, session, &free(1, 1, 50)), ChunkDecision::Free);
        table.slots[9].close();
        assert_eq!(table.decide(9, session, &free(1, 51, 50)), ChunkDecision::BeyondGrant);
        assert_eq!(table.decide(9, session, &free(2, 1, 50)), ChunkDecision::BeyondGrant);
    }
}

#[test]
fn free_message_is_charged_once_from_the_chunk_that_breaks_its_claim() {
    let claim = |in_cpim, octets_max| Some(FreeClaim { in_cpim, octets_max });
    for (what, broken) in [
        ("another type", Chunk { free: None, ..free(1, 501, 100) }),
        ("a CPIM message", Chunk { free: claim(true, 1000), ..free(1, 501, 100) }),
        ("more octets than allowed", free(1, 501, 501)),
        ("more octets than any parameter allows", Chunk { free: claim(false, u32::MAX), ..free(1, 501, 1 << 30) }),
        ("octets that have passed", free(1, 1 + 250, 250)),
        ("a gap", free(1, 502, 100)),
        ("its beginning with another type", Chunk { free: None, ..free(1, 1, 100) }),
        ("its beginning with more octets", free(1, 1, 1001)),
    ] {
        let table = table(64);
        let session = open(&table, 9, &opening(5));
        table.slots[9].set_granted(20);
        assert_eq!(table.decide(9, session, &free(1, 1, 500)), ChunkDecision::Free);
        // A message that is sent again from its beginning has no free octets.
        let free_octets = if broken.is_first() { 0 } else { 500 };
        let charged = ChunkDecision::Charged { amount: 1, left: 19, class: broken.class, free_octets };
        assert_eq!(table.decide(9, session, &broken), charged, "{what}");
        let next = table.decide(9, session, &free(1, broken.start + broken.octets, 10));
        assert_eq!((next, table.slots[9].counters().1), (paid(broken.class), 1), "{what}");
    }
}

#[test]
fn later_chunk_of_an_unknown_message_is_charged_whatever_it_claims() {
    for (table, session) in free_tables() {
        assert!(is_charged_as_new(table.decide(9, session, &free(1, 51, 50))));
        // After a whole free message, more of it is another one.
        let whole = Chunk { is_last: true, ..free(2, 1, 50) };
        assert_eq!(table.decide(9, session, &whole), ChunkDecision::Free);
        assert!(is_charged_as_new(table.decide(9, session, &free(2, 51, 50))));
    }
}

#[test]
fn message_id_used_for_free_and_for_charged_content_is_charged_once() {
    for (table, session) in free_tables() {
        let text = |message| chunk(message, 50);
        let whole = |message| Chunk { is_last: true, ..free(message, 1, 50) };
        assert_eq!(table.decide(9, session, &whole(1)), ChunkDecision::Free);
        assert!(is_charged_as_new(table.decide(9, session, &text(1))));
        assert!(is_charged_as_new(table.decide(9, session, &text(2))));
        assert_eq!(table.decide(9, session, &whole(2)), ChunkDecision::Free);
        assert_eq!(table.slots[9].counters().1, 2);
        assert!(table.is_paid(9, session, hash(1)) && table.is_paid(9, session, hash(2)));
    }
}

#[test]
fn forgotten_free_message_is_charged_and_fills_no_table() {
    let table = table(64);
    let session = open(&table, 9, &opening(5));
    table.slots[9].set_granted(20);
    for message in 0..10_000 {
        assert_eq!(table.decide(9, session, &free(message, 1, 50)), ChunkDecision::Free);
    }
    assert_eq!(table.messages.index.used(), 0);
    let continued = (0..10_000).filter(|message| {
        table.slots[9].set_granted(0);
        table.decide(9, session, &free(*message, 51, 50)) == ChunkDecision::Free
    });
    assert!(continued.count() <= FREE_MESSAGES_MAX);
}

#[test]
fn session_is_limited_to_its_share_of_messages() {
    let table = table(64);
    let one = open(&table, 9, &opening(5));
    let other = open(&table, 8, &opening(6));
    for at in [8, 9] {
        table.slots[at].set_granted(1_000_000);
    }
    let passed =
        (1..).take_while(|n| matches!(table.decide(9, one, &chunk(*n, 5)), ChunkDecision::Charged { .. })).count();
    assert!(passed < table.messages.index.len() / 4, "{passed}");
    assert_eq!(table.decide(9, one, &chunk(1 << 20, 5)), ChunkDecision::Full);
    let others = (1..=passed as u64)
        .filter(|n| matches!(table.decide(8, other, &chunk(n | 1 << 30, 5)), ChunkDecision::Charged { .. }));
    assert_eq!(others.count(), passed, "the other session has less");
}

#[test]
fn transaction_of_another_relay_leads_to_its_session() {
    let table = table(64);
    let session = open(&table, 9, &opening(5));
    table.expect_response(9, hash(1));
    assert_eq!(
        table.expecting(hash(1)).collect::<Vec<_>>(),
        [Bound { at: 9, session, leg: 0, side: Side::Receiver, is_file: false }]
    );
    assert_eq!(table.expecting(hash(2)).count(), 0);
    // However many there are, the last one is known.
    for n in 0..10_000 {
        table.expect_response(9, hash(n));
        assert_eq!(table.expecting(hash(n)).count(), 1);
    }
    table.free(9);
    assert_eq!(table.expecting(hash(9_999)).count(), 0);
}

#[test]
fn sender_keeps_its_connection_until_it_is_lost() {
    let slot = Slot::default();
    assert!(slot.replace_sender_connection(7, 0, 3));
    assert!(!slot.replace_sender_connection(7, 0, 4));
    slot.forget_connection(4);
    assert_eq!(slot.sender_connection(7), 3);
    slot.forget_connection(3);
    assert!(slot.replace_sender_connection(7, 0, 4));
}

#[test]
fn events_of_a_session_are_limited_per_second() {
    let slot = Slot::default();
    assert_eq!((0..100).filter(|_| slot.may_report(5)).count(), 8);
    assert_eq!((0..100).filter(|_| slot.may_report(6)).count(), 8);
    assert!(slot.is_first_activity(5) && !slot.is_first_activity(5) && slot.is_first_activity(6));
}

#[test]
fn each_dialog_has_its_senders_connection() {
    let slot = Slot::default();
    assert!([7, 8].iter().all(|leg| slot.add_leg(*leg).is_some()));
    assert!(slot.replace_sender_connection(7, 0, 3) && slot.replace_sender_connection(8, 0, 4));
    assert_eq!([7, 8, 9].map(|leg| slot.sender_connection(leg)), [3, 4, 0]);
    assert_eq!([3, 4, 5].map(|connection| slot.is_sender_connection(connection)), [true, true, false]);
    slot.forget_connection(4);
    assert_eq!([7, 8].map(|leg| slot.sender_connection(leg)), [3, 0]);
}

/// Text costs 2; a file 7 and 3 for each kilobyte; a notification 1 for each kilobyte; everything else 5.
const BY_CLASS: [Weight; 4] = [
    Weight { message: 2, kilobyte: 0 },
    Weight { message: 7, kilobyte: 3 },
    Weight { message: 0, kilobyte: 1 },
    Weight { message: 5, kilobyte: 0 },
];

#[test]
fn chunk_takes_what_its_class_costs() {
    use ContentClass::{File, Notification, Other, Text};
    let table = table(64);
    let session = open(&table, 9, &Opening { weights: BY_CLASS, ..opening(5) });
    table.slots[9].set_granted(1000);
    let mut taken = 0;
    for (message, class, octets, cost) in [
        (1, Text, 100, 2),
        (1, Text, 5000, 0),
        (2, File, 1000, 10),
        (2, File, 24, 0),
        (2, File, 1, 3),
        (2, Text, 1024, 3),
        (3, Notification, 0, 1),
        (3, Notification, 1025, 1),
        (4, Other, 9999, 5),
        (4, File, 9999, 0),
    ] {
        table.decide(9, session, &Chunk { class, start: if cost == 0 { 2 } else { 1 }, ..chunk(message, octets) });
        taken += cost;
        assert_eq!(table.slots[9].counters().1, taken, "{message}: {octets} octets of {class:?}");
    }
}

#[test]
fn chunk_that_opens_a_message_decides_its_class() {
    for (weights, later) in [(BY_MESSAGE, 0), (BY_CLASS, 3)] {
        let table = table(64);
        let session = open(&table, 9, &Opening { weights, ..opening(5) });
        table.slots[9].set_granted(1000);
        let file = |start| Chunk { class: ContentClass::File, start, ..chunk(1, 1024) };
        let opened = table.decide(9, session, &file(1));
        assert!(matches!(opened, ChunkDecision::Charged { class: ContentClass::File, .. }), "{opened:?}");
        let decision = table.decide(9, session, &Chunk { class: ContentClass::Text, ..file(1025) });
        let wanted = match later {
            0 => paid(ContentClass::File),
            amount => {
                ChunkDecision::Charged { amount, left: 1000 - 10 - amount, class: ContentClass::File, free_octets: 0 }
            }
        };
        assert_eq!(decision, wanted);
        table.forget_message(9, session, hash(1));
        let again = table.decide(9, session, &Chunk { class: ContentClass::Text, ..file(1) });
        assert!(matches!(again, ChunkDecision::Charged { class: ContentClass::Text, .. }), "{again:?}");
    }
}

#[test]
fn stopped_message_starts_again_if_nothing_of_it_is_charged_by_size() {
    for (class, starts_again) in [(ContentClass::Text, true), (ContentClass::File, false)] {
        let table = table(64);
        let session = open(&table, 9, &Opening { weights: BY_CLASS, ..opening(5) });
        table.slots[9].set_granted(1000);
        let chunk = Chunk { class, ..chunk(1, 100) };
        table.decide(9, session, &chunk);
        table.stop_message(9, session, hash(1));
        let decision = table.decide(9, session, &chunk);
        assert_eq!(matches!(decision, ChunkDecision::Charged { .. }), starts_again, "{class:?}: {decision:?}");
    }
}

#[test]
fn weights_beyond_every_grant_stop_their_messages() {
    let table = table(64);
    let weights = [Weight { message: u32::MAX, kilobyte: u32::MAX }; 4];
    let session = open(&table, 9, &Opening { weights, ..opening(5) });
    table.slots[9].set_granted(u32::MAX);
    for octets in [0, 1, u64::MAX] {
        let decision = table.decide(9, session, &chunk(octets, octets));
        assert!(matches!(decision, ChunkDecision::MessageStopped | ChunkDecision::BeyondGrant), "{decision:?}");
    }
    assert_eq!(table.slots[9].counters().1, 0);
}

/// A session that its sender pays for, beside another one of the same INVITE.
fn paid_by_sender(number: u64, direction: Direction) -> Opening {
    Opening { direction, is_paid_by_sender: true, is_paired: true, ..opening(number) }
}

#[test]
fn each_of_two_parties_is_the_sender_in_its_own_session() {
    let table = table(64);
    let sessions = [(8, SENDER, RECEIVER), (9, RECEIVER, SENDER)].map(|(at, from, to)| {
        let direction = if at == 8 { Direction::Push } else { Direction::Pull };
        let session = open(&table, at, &paid_by_sender(at.into(), direction));
        bind(&table, at, session, stream(8, from, to)).expect("room");
        session
    });
    let of = |from, to, side| match table.session_of_request(from, to, side) {
        FrameSession::Bound(bound) => Some((bound.session, bound.side)),
        _ => None,
    };
    for (closed, open) in [(8, 9), (9, 8)] {
        table.slots[closed].close();
        assert!(table.slots[open].is_open() || closed == 9);
        assert_eq!(of(SENDER, RECEIVER, Side::Sender), Some((sessions[0], Side::Sender)));
        assert_eq!(of(RECEIVER, SENDER, Side::Sender), Some((sessions[1], Side::Sender)));
        assert_eq!(of(SENDER, RECEIVER, Side::Receiver), Some((sessions[1], Side::Receiver)));
        assert_eq!(of(RECEIVER, SENDER, Side::Receiver), Some((sessions[0], Side::Receiver)));
    }
    assert_eq!(table.session_of_report(SENDER).map(|bound| bound.session), Some(sessions[0]));
    table.free(9);
    assert_eq!(of(RECEIVER, SENDER, Side::Sender), Some((sessions[0], Side::Receiver)), "and that slot is paired");
}

#[test]
fn content_for_a_receiver_is_recognised_if_its_sender_pays() {
    let table = table(64);
    for (at, is_recognised) in [(8, true), (9, false)] {
        let opening = Opening { is_paid_by_sender: is_recognised, ..opening(at.into()) };
        let session = open(&table, at, &opening);
        let receiver = RECEIVER + u64::from(at);
        bind(&table, at, session, stream(8, SENDER, receiver)).expect("room");
        let found = is_recognised.then_some((at, session));
        assert_eq!(table.session_of_receiver(receiver), found);
        table.free(at);
        assert_eq!(table.session_of_receiver(receiver), None);
    }
}

#[test]
fn message_id_of_a_whole_message_is_charged_again_if_its_sender_pays() {
    for weights in [BY_MESSAGE, BY_KILOBYTE] {
        let table = table(64);
        let session = open(&table, 9, &Opening { weights, ..paid_by_sender(5, Direction::Push) });
        table.slots[9].set_granted(3);
        let [first, last] = [false, true].map(|is_last| Chunk { is_last, ..chunk(1, 10) });
        let later = Chunk { start: 11, ..last };
        let charged =
            |chunk: &Chunk| matches!(table.decide(9, session, chunk), ChunkDecision::Charged { amount: 1, .. });
        assert!(charged(&last), "a message of one chunk");
        assert!(charged(&first), "another one");
        assert_eq!(table.decide(9, session, &later), paid(ContentClass::Text));
        assert!(charged(&later), "whatever its range says");
        assert_eq!(table.decide(9, session, &last), ChunkDecision::BeyondGrant);
    }
}

/// Content that costs something passes until the lease is over; what is stopped takes nothing.
#[test]
fn content_after_the_lease_is_stopped_and_takes_nothing() {
    for (weights, octets) in [(BY_MESSAGE, 5), (BY_KILOBYTE, 1024)] {
        let table = table(64);
        let session = open(&table, 9, &Opening { weights, ..opening(5) });
        table.slots[9].set_granted(20);
        let first = Chunk { is_last: false, ..chunk(1, octets) };
        let second = Chunk { start: octets + 1, ..first };
        table.lease.set(Time(clock::now().0 + 3_600_000_000));
        assert!(matches!(table.decide(9, session, &first), ChunkDecision::Charged { amount: 1, .. }));
        table.lease.set(Time(clock::now().0));
        assert_eq!(table.decide(9, session, &second), ChunkDecision::LeaseOver);
        assert_eq!(table.decide(9, session, &chunk(2, octets)), ChunkDecision::LeaseOver);
        assert_eq!(table.slots[9].counters(), (20, 1));
        // A new lease: the rest of the message stays stopped, and the other one is charged when it is sent again.
        table.lease.set(Lease::UNLIMITED);
        assert_eq!(table.decide(9, session, &second), ChunkDecision::MessageStopped);
        assert!(matches!(table.decide(9, session, &chunk(2, octets)), ChunkDecision::Charged { amount: 1, .. }));
    }
}

#[test]
fn free_content_needs_no_lease() {
    for (table, session) in free_tables() {
        table.lease.set(Time(0));
        assert_eq!(table.decide(9, session, &free(1, 1, 50)), ChunkDecision::Free);
        assert_eq!(table.decide(9, session, &chunk(2, 50)), ChunkDecision::LeaseOver);
    }
}
