//! Repeated, late and reordered requests have one effect.

use crate::node::{
    Answer, DONE, DUPLICATE, Database, Item, NOT_EMPTY, Node, OLD, REFERENCE_USED, STALE, State, Tick, UNKNOWN, key,
};
use imcharge::enabler::LowBalance;

fn tick(items: &[Item]) -> Tick {
    Tick { items: items.to_vec(), ..Tick::default() }
}

/// Executes a tick twice and returns the answers, which must be equal, without the units held of the account.
fn twice(node: &mut Node, items: &[Item]) -> Vec<Answer> {
    let without_held = |answers: Vec<Answer>| -> Vec<Answer> {
        answers.into_iter().map(|answer| Answer { held: None, ..answer }).collect()
    };
    let answers = without_held(node.tick(items));
    let (result, again) = node.run_as(node.epoch, node.last_tick, &tick(items)).expect("a tick");
    assert_eq!((result, without_held(again)), (DONE, answers.clone()));
    answers
}

#[test]
fn repeated_tick_repeats_the_answers_and_changes_nothing() {
    let database = Database::new();
    let mut node = database.node("a");
    let answers = twice(
        &mut node,
        &[
            Item::set(1, "alice", 100),
            Item::set(2, "bob", 50),
            Item::limit(3, "bob", 5),
            Item::add(4, "bob", 7, "r1"),
            Item::add(5, "bob", 7, "r1"),
            Item::add(6, "bob", 8, "r1"),
            Item::remove(7, "bob"),
            Item::remove(8, "carol"),
        ],
    );
    let results: Vec<i16> = answers.iter().map(|answer| answer.result).collect();
    assert_eq!(results, [DONE, DONE, DONE, DONE, DUPLICATE, REFERENCE_USED, NOT_EMPTY, UNKNOWN]);
    twice(&mut node, &[Item::reserve(1, 1, "alice", 4, 10), Item::reserve(2, 1, "alice", 4, 10)]);
    assert_eq!(database.account("alice"), (20, 80, 0));
    twice(&mut node, &[Item::debit(1, 2, "alice", "m1", 10), Item::last_debit(2, 2, "alice", "m1", 10, 40)]);
    assert_eq!(database.account("alice"), (50, 30, 20));
    twice(&mut node, &[Item::refund(2, 3, "alice", "m1"), Item::release(1, 3, "alice", 30)]);
    assert_eq!(database.account("alice"), (90, 0, 10));
    twice(&mut node, &[Item::set(9, "bob", 0), Item::remove(10, "bob")]);
    assert_eq!(database.value("SELECT count(*) FROM imcharge.account_changes WHERE account='bob'"), "5");
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn answer_to_a_command_is_the_first_one_after_the_account_has_changed() {
    let database = Database::new();
    let mut node = database.node("a");
    let first = node.ask(Item::set(1, "alice", 100));
    node.ask(Item::debit(1, 1, "alice", "m1", 40));
    // After a restart of the node, in another tick.
    assert_eq!(node.ask(Item::set(1, "alice", 100)), first);
    assert_eq!(database.account("alice"), (60, 0, 40));
    let mut other = database.node("b");
    assert_eq!(other.ask(Item::set(1, "alice", 5)).balance, Some(5), "numbers are those of a node");
}

#[test]
fn answers_to_commands_are_bounded() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 1));
    node.ask(Item::set(10_001, "alice", 2));
    assert_eq!(database.value("SELECT count(*) FROM imcharge.commands"), "2");
    node.ask(Item::set(10_002, "alice", 2));
    assert_eq!(
        database.value("SELECT string_agg(number::text, ' ' ORDER BY number) FROM imcharge.commands"),
        "10001 10002"
    );
}

#[test]
fn tick_below_the_latest_one_is_stale() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    let late = tick(&[Item::reserve(1, 1, "alice", 4, 10)]);
    let number = node.last_tick + 1;
    node.run(&late);
    node.ask(Item::release(1, 2, "alice", 40));
    node.run(&Tick { states: vec![State::settled(1, "alice")], ..Tick::default() });
    let (result, answers) = node.run_as(node.epoch, number, &late).expect("a tick");
    assert_eq!((result, answers), (STALE, Vec::new()));
    assert_eq!(database.account("alice"), (100, 0, 0));
    assert_eq!(database.session(1), None);
}

#[test]
fn late_tick_does_not_renew_the_lease() {
    let database = Database::new();
    let mut node = database.node("a");
    node.run(&Tick::default());
    node.run(&Tick::default());
    database.end_lease("a");
    let is_over = "SELECT lease_until < now() FROM imcharge.nodes";
    assert_eq!(node.run_as(node.epoch, node.last_tick - 1, &Tick::default()).expect("a tick").0, STALE);
    assert_eq!(database.value(is_over), "t");
    assert_eq!(node.run_as(node.epoch, node.last_tick, &Tick::default()).expect("a tick").0, DONE);
    assert_eq!(database.value(is_over), "f");
}

#[test]
fn reservation_is_recognised_by_its_number_in_any_tick() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    let first = node.ask(Item::reserve(1, 1, "alice", 4, 10));
    node.ask(Item::debit(2, 1, "alice", "m1", 5));
    let again = node.ask(Item::reserve(1, 1, "alice", 4, 10));
    assert_eq!((again.result, again.granted, again.balance), (DONE, 4, first.balance), "as the first time");
    node.ask(Item::debit(1, 2, "alice", "m1", 10));
    assert_eq!(node.ask(Item::reserve(1, 1, "alice", 4, 10)).result, OLD);
    assert_eq!(node.ask(Item::reserve(1, 2, "alice", 4, 10)).result, OLD, "the number of a debit");
    assert_eq!(node.ask(Item::release(1, 1, "alice", 10)).result, OLD);
    assert_eq!(node.ask(Item::release(1, 2, "alice", 10)).result, OLD);
    assert_eq!(database.account("alice"), (55, 30, 15));
    let released = node.ask(Item::release(1, 3, "alice", 10));
    node.ask(Item::debit(2, 2, "alice", "m2", 5));
    let again = node.ask(Item::release(1, 3, "alice", 10));
    assert_eq!((again.result, again.balance), (DONE, released.balance));
    assert_eq!(node.ask(Item::reserve(1, 3, "alice", 4, 10)).result, OLD);
    assert_eq!(database.account("alice"), (60, 20, 20));
}

#[test]
fn denial_is_not_kept() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 5));
    assert_ne!(node.ask(Item::reserve(1, 1, "alice", 1, 10)).result, DONE);
    node.ask(Item::add(2, "alice", 5, "r1"));
    assert_eq!(node.ask(Item::reserve(1, 1, "alice", 1, 10)).granted, 1);
}

#[test]
fn debit_is_recognised_by_its_key_whatever_its_number() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    node.ask(Item::reserve(1, 1, "alice", 4, 10));
    for number in [2, 2, 7, 1] {
        assert_eq!(node.ask(Item::debit(1, number, "alice", "m1", 10)).result, DONE);
        assert_eq!(database.account("alice"), (60, 30, 10), "number {number}");
    }
    assert_eq!(node.ask(Item::debit(1, 3, "alice", "m2", 10)).result, DONE, "a new message with an earlier number");
    assert_eq!(database.account("alice"), (60, 20, 20));
    assert_eq!(database.session(1), Some((20, 7)));
}

#[test]
fn known_debit_that_ends_a_reservation_returns_its_rest_once() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 200));
    node.ask(Item::reserve(1, 1, "alice", 4, 10));
    node.ask(Item::reserve(1, 2, "alice", 6, 10));
    node.ask(Item::debit(1, 3, "alice", "m1", 10));
    assert_eq!(database.account("alice"), (100, 90, 10));
    // The state of the session was read back without that answer.
    for _ in 0..2 {
        assert_eq!(node.ask(Item::last_debit(1, 4, "alice", "m1", 10, 40)).result, DONE);
        assert_eq!(database.account("alice"), (130, 60, 10), "the other reservation keeps its units");
    }
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn known_debit_with_more_units_takes_the_difference() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    node.ask(Item::reserve(1, 1, "alice", 3, 10));
    node.ask(Item::debit(1, 2, "alice", "m1", 20));
    let more = Item { octets: 500, ..Item::debit(1, 3, "alice", "m1", 45) };
    for _ in 0..2 {
        assert_eq!(node.ask(more.clone()).result, DONE);
        assert_eq!(database.account("alice"), (55, 0, 45));
    }
    assert_eq!(node.ask(Item::debit(1, 4, "alice", "m1", 5)).result, DONE, "less than known");
    assert_ne!(node.ask(Item::debit(1, 5, "alice", "m1", 101)).result, DONE, "more than the account has");
    assert_eq!(database.account("alice"), (55, 0, 45));
    let debit = "SELECT units, from_hold, units_added, octets FROM imcharge.debits";
    assert_eq!(database.query(debit), [["45", "30", "25", "500"]]);
    node.ask(Item::refund(1, 6, "alice", "m1"));
    assert_eq!(database.account("alice"), (100, 0, 0));
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn low_balance_event_is_repeated_with_its_debit() {
    let database = Database::new();
    let mut node = database.node("a");
    node.low_balance = Some(LowBalance::Units(50));
    let answers = twice(&mut node, &[Item::set(1, "alice", 100), Item::add(2, "alice", -60, "r")]);
    assert!(answers[1].became_low);
    let answers = twice(&mut node, &[Item::set(3, "alice", 100), Item::debit(1, 1, "alice", "m1", 60)]);
    assert!(answers[1].became_low);
    let mut other = database.node("b");
    other.low_balance = node.low_balance;
    assert!(!other.ask(Item::debit(1, 1, "alice", "m1", 60)).became_low, "another node has reported it");
}

#[test]
fn join_makes_earlier_ticks_stale() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    let (epoch, number) = (node.epoch, node.last_tick + 1);
    let joined = node.join_again().expect("join");
    assert_eq!((joined.result, joined.epoch), (0, epoch));
    let late = tick(&[Item::reserve(1, 1, "alice", 4, 10)]);
    assert_eq!(node.run_as(epoch, number, &late).expect("a tick").0, STALE);
    assert_eq!(node.tick(&late.items)[0].granted, 4);
}

#[test]
fn parts_of_a_state_are_replaced_and_removed() {
    let database = Database::new();
    let mut node = database.node("a");
    let parts = |database: &Database| {
        database.query("SELECT part, convert_from(state, 'UTF8') FROM imcharge.session_parts ORDER BY session, part")
    };
    let run = |node: &mut Node, parts: &[(u64, i64, &str)]| {
        let parts = parts.iter().map(|(session, part, state)| (*session, *part, state.as_bytes().to_vec())).collect();
        node.run(&Tick { states: vec![State::new(1, "alice", "head")], parts, ..Tick::default() });
    };
    run(&mut node, &[(1, 0, "a"), (1, 1, "b"), (1, 2, "c"), (9, 0, "of a session that has no row")]);
    assert_eq!(parts(&database), [["0", "a"], ["1", "b"], ["2", "c"]]);
    run(&mut node, &[(1, 1, "B"), (1, 2, "")]);
    assert_eq!(parts(&database), [["0", "a"], ["1", "B"]]);
    run(&mut node, &[(1, 5, "first"), (1, 5, "last")]);
    assert_eq!(parts(&database), [["0", "a"], ["1", "B"], ["5", "last"]]);
    // The node restarts and has fewer parts.
    run(&mut node, &[(1, -1, ""), (1, 1, "new")]);
    assert_eq!(parts(&database), [["1", "new"]]);
    run(&mut node, &[(1, -1, "")]);
    assert_eq!(parts(&database), [[""; 0]; 0]);
}

#[test]
fn state_without_a_request_makes_a_row_that_requests_use() {
    let database = Database::new();
    let mut node = database.node("a");
    node.ask(Item::set(1, "alice", 100));
    node.run(&Tick { states: vec![State::new(1, "alice", "waiting")], ..Tick::default() });
    assert_eq!(database.session(1), Some((0, -1)));
    assert_eq!(node.ask(Item::reserve(1, 0, "alice", 4, 10)).granted, 4);
    let states = "SELECT convert_from(state, 'UTF8') FROM imcharge.sessions";
    assert_eq!(database.value(states), "waiting", "a request keeps the state");
    node.run(&Tick { states: vec![State::new(1, "alice", "open")], ..Tick::default() });
    assert_eq!(
        (database.session(1), database.value(states)),
        (Some((40, 0)), "open".to_owned()),
        "and a state the hold"
    );
    let invalid = State { session: 2, account: String::new(), state: Some(Vec::new()) };
    node.run(&Tick { states: vec![invalid], ..Tick::default() });
    assert_eq!(database.session(2), None);
    assert_eq!(key(2).len(), 16);
}
