//! Sessions of other owners: money is taken by the keys of debits, everything else has no effect.

use crate::node::{DONE, Database, FENCED, IMPOSSIBLE, Item, Node, OLD, State, Tick, UNKNOWN};

/// Node `a` opens session 1 with 40 units held of 100, and is taken over by `b`.
fn taken_over() -> (Database, Node, Node) {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.ask(Item::set(1, "alice", 100));
    a.run(&Tick {
        items: vec![Item::reserve(1, 1, "alice", 4, 10)],
        states: vec![State::new(1, "alice", "of a")],
        parts: vec![(1, 0, b"of a".to_vec())],
    });
    take_over(&database, &mut b, "a");
    (database, a, b)
}

/// Ends the lease of a node, takes it over, and adopts its sessions.
pub fn take_over(database: &Database, survivor: &mut Node, dead: &str) -> usize {
    database.end_lease(dead);
    assert_eq!(survivor.dead_nodes(), [dead]);
    assert_eq!(survivor.take_over(dead).expect("an answer"), 0);
    let mut count = 0;
    loop {
        let portion = survivor.adopt(dead, 1000);
        if portion.is_empty() {
            break count;
        }
        count += portion.len();
        assert_eq!(survivor.adopted(&portion), 0);
    }
}

#[test]
fn fenced_node_changes_nothing() {
    let (database, mut a, _) = taken_over();
    let tick = Tick { items: vec![Item::debit(1, 2, "alice", "m1", 10), Item::set(2, "alice", 5)], ..Tick::default() };
    assert_eq!(a.run_as(a.epoch, a.last_tick + 1, &tick).expect("a tick"), (FENCED, Vec::new()));
    assert_eq!(
        a.run_as(a.epoch + 1, a.last_tick + 1, &tick).expect("a tick"),
        (FENCED, Vec::new()),
        "it has not joined"
    );
    assert_eq!(a.run_as(a.epoch + 2, a.last_tick + 1, &tick).expect("a tick"), (FENCED, Vec::new()));
    assert_eq!(database.account("alice"), (60, 40, 0));
    let mut unknown = Node::new(database.client(), "x", "x");
    assert_eq!(unknown.run_as(1, 1, &tick).expect("a tick").0, FENCED);
}

#[test]
fn debit_of_a_former_owner_takes_the_units_that_the_session_holds() {
    let (database, mut a, mut b) = taken_over();
    b.ask(Item::set(2, "alice", 0));
    assert_eq!(database.account("alice"), (0, 40, 0));
    assert_eq!(a.join_again().expect("join").result, 1);
    let answer = a.ask(Item::debit(1, 2, "alice", "m1", 30));
    assert_eq!((answer.result, answer.balance), (DONE, Some(0)), "the account has nothing, the session has");
    assert_eq!(database.account("alice"), (0, 10, 30));
    assert_eq!(database.session(1), Some((10, 1)), "the number is that of the owner");
    assert_ne!(a.ask(Item::debit(1, 3, "alice", "m2", 11)).result, DONE);
    assert_eq!(a.ask(Item::last_debit(1, 4, "alice", "m3", 5, 40)).result, DONE);
    assert_eq!(database.session(1), Some((5, 1)), "the reservation is the owner's");
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn requests_of_a_former_owner_have_no_other_effect() {
    let (database, mut a, mut b) = taken_over();
    a.join_again().expect("join");
    assert_eq!(a.ask(Item::reserve(1, 1, "alice", 4, 10)).result, OLD, "not even a known one");
    assert_eq!(a.ask(Item::reserve(1, 9, "alice", 4, 10)).result, OLD);
    assert_eq!(a.ask(Item::release(1, 9, "alice", 40)).result, DONE);
    a.run(&Tick {
        items: Vec::new(),
        states: vec![State::new(1, "alice", "late")],
        parts: vec![(1, -1, Vec::new()), (1, 0, b"late".to_vec()), (1, 1, b"late".to_vec())],
    });
    a.run(&Tick { states: vec![State::settled(1, "alice")], ..Tick::default() });
    assert_eq!((database.account("alice"), database.session(1)), ((60, 40, 0), Some((40, 1))));
    assert_eq!(
        database.query("SELECT node, origin_node, convert_from(state, 'UTF8') FROM imcharge.sessions"),
        [["b", "a", "of a"]]
    );
    assert_eq!(database.query("SELECT part, convert_from(state, 'UTF8') FROM imcharge.session_parts"), [["0", "of a"]]);
    b.ask(Item::debit(1, 2, "alice", "m1", 10));
    assert_eq!(a.ask(Item::refund(1, 9, "alice", "m1")).result, DONE, "a refund is by its key");
    assert_eq!(database.account("alice"), (70, 30, 0));
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn debit_after_the_settlement_takes_the_balance() {
    let (database, mut a, mut b) = taken_over();
    b.ask(Item::release(1, 2, "alice", 40));
    b.run(&Tick { states: vec![State::settled(1, "alice")], ..Tick::default() });
    assert_eq!(database.session(1), None);
    a.join_again().expect("join");
    assert_eq!(a.ask(Item::debit(1, 2, "alice", "m1", 30)).result, DONE);
    assert_eq!(a.ask(Item::release(1, 3, "alice", 30)).result, DONE);
    assert_eq!(database.account("alice"), (70, 0, 30));
    assert_eq!(database.session(1), None, "a debit opens no session");
}

#[test]
fn debit_answers_by_its_key_after_takeovers_there_and_back() {
    let (database, mut a, mut b) = taken_over();
    // b debits message m2 under the number that a had used for m1.
    assert_eq!(b.ask(Item::debit(1, 2, "alice", "m2", 10)).result, DONE);
    a.join_again().expect("join");
    a.run(&Tick::default());
    take_over(&database, &mut a, "b");
    let answer = a.ask(Item::debit(1, 2, "alice", "m1", 15));
    assert_eq!((answer.result, answer.balance), (DONE, Some(60)));
    assert_eq!(database.account("alice"), (60, 15, 25), "m1 is debited, though the number is known");
    let answer = a.ask(Item::debit(1, 3, "alice", "m2", 10));
    assert_eq!((answer.result, database.account("alice")), (DONE, (60, 15, 25)), "m2 is known");
    assert_eq!(database.query("SELECT message_id, node FROM imcharge.debits ORDER BY 1"), [["m1", "a"], ["m2", "b"]]);
    assert_eq!(database.value("SELECT origin_node FROM imcharge.sessions"), "a");
}

#[test]
fn message_under_way_at_a_partition_is_debited_in_full() {
    let (database, mut a, mut b) = taken_over();
    // b knows of 2 kilobytes, a has delivered 3 and learns of the takeover later.
    let octets = |octets: i64, item: Item| Item { octets, ..item };
    assert_eq!(b.ask(octets(2048, Item::last_debit(1, 2, "alice", "m1", 20, 40))).result, DONE);
    assert_eq!(database.account("alice"), (80, 0, 20));
    a.join_again().expect("join");
    assert_eq!(a.ask(octets(3072, Item::debit(1, 2, "alice", "m1", 30))).result, DONE);
    assert_eq!(a.ask(octets(3072, Item::debit(1, 2, "alice", "m1", 30))).result, DONE);
    assert_eq!(database.account("alice"), (70, 0, 30));
    assert_eq!(b.ask(octets(2048, Item::debit(1, 3, "alice", "m1", 20))).result, DONE);
    assert_eq!(database.account("alice"), (70, 0, 30));
    assert_eq!(database.query("SELECT units, octets FROM imcharge.debits"), [["30", "3072"]]);
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn session_has_one_account() {
    let database = Database::new();
    let mut node = database.node("a");
    node.tick(&[Item::set(1, "alice", 100), Item::set(2, "bob", 100)]);
    node.ask(Item::reserve(1, 1, "alice", 4, 10));
    node.ask(Item::debit(1, 2, "alice", "m1", 10));
    for item in [
        Item::reserve(1, 3, "bob", 1, 10),
        Item::debit(1, 3, "bob", "m2", 10),
        Item::debit(1, 3, "bob", "m1", 10),
        Item::last_debit(1, 3, "bob", "m2", 10, 10),
        Item::release(1, 3, "bob", 10),
        Item::refund(1, 3, "bob", "m1"),
    ] {
        assert_eq!(node.ask(item.clone()).result, IMPOSSIBLE, "{item:?}");
    }
    assert_eq!(node.ask(Item::refund(1, 3, "carol", "m1")).result, IMPOSSIBLE);
    assert_eq!(node.ask(Item::refund(2, 3, "carol", "m1")).result, UNKNOWN);
    assert_eq!((database.account("alice"), database.account("bob")), ((60, 30, 10), (100, 0, 0)));
    // The debit remembers the account when the session is settled.
    node.ask(Item::release(1, 4, "alice", 30));
    node.run(&Tick { states: vec![State::settled(1, "alice")], ..Tick::default() });
    for item in [Item::debit(1, 5, "bob", "m1", 20), Item::refund(1, 5, "bob", "m1")] {
        assert_eq!(node.ask(item.clone()).result, IMPOSSIBLE, "{item:?}");
    }
    assert_eq!((database.account("alice"), database.account("bob")), ((90, 0, 10), (100, 0, 0)));
}

#[test]
fn session_that_two_nodes_open_belongs_to_the_first() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.ask(Item::set(1, "alice", 100));
    assert_eq!(a.ask(Item::reserve(1, 1, "alice", 1, 10)).granted, 1);
    assert_eq!(b.ask(Item::reserve(1, 1, "alice", 1, 10)).result, OLD);
    assert_eq!(database.account("alice"), (90, 10, 0));
}
