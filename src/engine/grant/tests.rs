//! The grant table in private memory.

use super::*;

/// A table over leaked memory.
fn table(slots: usize) -> Table<'static> {
    fn leak<T: Default>(count: usize) -> &'static [T] {
        Box::leak((0..count).map(|_| T::default()).collect::<Vec<T>>().into_boxed_slice())
    }
    let index = || Index::over(leak(Index::size_for(slots * 2)));
    Table {
        slots: leak(slots),
        calls: index(),
        paths: index(),
        messages: index(),
        next_message: leak(Index::size_for(slots * 2)),
    }
}

fn opening(number: u64) -> Opening {
    Opening {
        session: SessionKey(number, 1),
        call: number << 24,
        inviting_tag: 7,
        direction: Direction::Pull,
        per: Per::Message,
    }
}

/// The slot and the side that an MSRP session id leads to.
fn found(table: &Table<'_>, path: u64) -> Option<(u32, Side)> {
    table.bound(path).map(|bound| (bound.at, bound.side))
}

const BINDING: Binding = Binding { server: 1 << 30, client: 2 << 30, server_relay: 0, client_relay: 3 << 30 };

#[test]
fn the_gate_lets_through_what_is_granted_and_no_more() {
    let slot = Slot::default();
    assert_eq!(slot.take(1), Gate::Beyond);
    slot.set_granted(3);
    assert_eq!(slot.take(2), Gate::Taken { left: 1 });
    assert_eq!(slot.take(2), Gate::Beyond);
    assert_eq!(slot.take(1), Gate::Taken { left: 0 });
    slot.set_granted(5);
    assert_eq!(slot.counters(), (5, 3));
    assert_eq!(slot.close(), 3);
    assert_eq!(slot.take(1), Gate::Beyond);
}

#[test]
fn many_workers_take_exactly_the_grant() {
    let slot = Slot::default();
    slot.set_granted(10_000);
    let taken: u32 = std::thread::scope(|scope| {
        let take = || (0..10_000).filter(|_| slot.take(1) != Gate::Beyond).count() as u32;
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
    });
    assert_eq!(taken, 10_000);
}

#[test]
fn a_pair_is_inserted_once_by_however_many_workers() {
    let table = table(64);
    for round in 0..if cfg!(miri) { 10 } else { 1000u64 } {
        let hash = (round << 40) | 5;
        let new: usize = std::thread::scope(|scope| {
            let insert = || matches!(table.paths.insert(hash, 3), Inserted::At(_)) as usize;
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(insert)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert!(new <= 1, "two workers both inserted");
        assert_eq!(table.paths.find(hash).count(), 1);
        table.paths.remove(hash, 3);
        assert_eq!(table.paths.find(hash).count(), 0);
    }
}

#[test]
fn a_session_is_found_by_call_and_by_path_until_it_is_freed() {
    let table = table(64);
    assert!(table.open(9, &opening(5)));
    assert!(table.bind(9, BINDING));
    assert_eq!(table.slot_of(5 << 24, |slot| slot.has_early_tag(7, 8)), Some(9));
    assert_eq!(table.slot_of(5 << 24, |slot| slot.has_tags(7, 8)), None);
    table.slots[9].set_answering_tag(8);
    assert_eq!(table.slot_of(5 << 24, |slot| slot.has_tags(8, 7)), Some(9));
    assert_eq!(table.slot_of(5 << 24, |slot| slot.has_tags(8, 9) || slot.has_early_tag(8, 9)), None);
    assert_eq!(found(&table, BINDING.server), Some((9, Side::Server)));
    assert_eq!(found(&table, BINDING.client_relay), Some((9, Side::Client)));
    assert_eq!(table.bound(4 << 30), None);
    table.free(9);
    assert_eq!(table.slot_of(5 << 24, |_| true), None);
    assert_eq!(table.bound(BINDING.server), None);
}

#[test]
fn a_second_answer_moves_the_binding() {
    let table = table(64);
    table.open(9, &opening(5));
    table.bind(9, BINDING);
    let moved = Binding { client: 9 << 30, ..BINDING };
    assert!(table.bind(9, moved));
    assert_eq!(found(&table, 9 << 30), Some((9, Side::Client)));
    assert_eq!(table.bound(BINDING.client), None);
    assert_eq!(found(&table, BINDING.server), Some((9, Side::Server)));
}

#[test]
fn messages_are_noted_once_and_forgotten_with_their_session() {
    let table = table(64);
    table.open(9, &opening(5));
    for message in 1..=20u64 {
        let hash = message << 40;
        assert!(matches!(table.note_message(9, hash), Inserted::At(_)));
        assert_eq!(table.note_message(9, hash), Inserted::Before);
        assert!(table.is_noted(9, hash) && !table.is_noted(8, hash));
    }
    table.free(9);
    assert!((1..=20u64).all(|message| !table.is_noted(9, message << 40)));
    assert!(table.messages.entries.iter().all(|entry| entry.load(Ordering::Relaxed) == 0));
}

#[test]
fn a_message_is_noted_once_by_however_many_workers() {
    const MESSAGES: u64 = 3 * NOTES as u64;
    for session in 0..if cfg!(miri) { 2 } else { 200 } {
        let table = table(64);
        table.open(9, &opening(session + 1));
        let noted: usize = std::thread::scope(|scope| {
            let note = || (1..=MESSAGES).filter(|n| matches!(table.note_message(9, n << 40), Inserted::At(_))).count();
            let threads: Vec<_> = (0..3).map(|_| scope.spawn(note)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(noted as u64, MESSAGES);
    }
}

#[test]
fn a_full_window_is_an_outcome() {
    let table = table(16);
    let same_window = |n: u64| n << 24;
    let mut inserted = 0;
    while table.messages.insert(same_window(inserted + 1), 1) != Inserted::Full {
        inserted += 1;
    }
    assert_eq!(inserted, 32);
}

#[test]
fn a_relay_with_one_id_for_all_fills_no_window() {
    let table = table(256);
    for at in 0..200u32 {
        let number = u64::from(at) + 1;
        // Spread over the windows, as hashes are.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(20);
        assert!(table.open(at, &Opening { call: spread, ..opening(number) }));
        let ends = Binding { server: spread, client: !spread, server_relay: 99 << 24, client_relay: 0 };
        assert!(table.bind(at, ends), "session {at} found no room");
    }
    assert_eq!(table.paths.find(99 << 24).count(), 1);
}
