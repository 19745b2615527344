//! Takeover: one survivor fences a dead node and adopts its sessions, in portions, also if answers are lost.

use crate::node::{Adopted, DONE, Database, FENCED, Item, Node, State, Tick, key};
use crate::ownership::take_over;
use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

/// Opens sessions with 10 units held, 256 a tick, and a state each.
fn open(node: &mut Node, account: &str, sessions: std::ops::Range<u64>) {
    let all: Vec<u64> = sessions.collect();
    for some in all.chunks(256) {
        node.run(&Tick {
            items: some.iter().map(|session| Item::reserve(*session, 1, account, 1, 10)).collect(),
            states: some.iter().map(|session| State::new(*session, account, &format!("state {session}"))).collect(),
            parts: some.iter().map(|session| (*session, 3, b"part".to_vec())).collect(),
        });
    }
}

fn keys(sessions: &[Adopted]) -> BTreeSet<Vec<u8>> {
    sessions.iter().map(|adopted| adopted.session.clone()).collect()
}

#[test]
fn only_a_node_whose_lease_is_over_is_fenced() {
    let database = Database::new();
    let (mut a, mut b, mut c) = (database.node("a"), database.node("b"), database.node("c"));
    assert_eq!(b.dead_nodes(), [""; 0]);
    assert_eq!(b.take_over("a").expect("an answer"), 1, "the lease is not over");
    database.execute("UPDATE imcharge.nodes SET lease_until=now()-interval '4 s' WHERE name='a'");
    assert_eq!((b.dead_nodes(), b.take_over("a").expect("an answer")), (Vec::new(), 1), "not for long enough");
    assert_eq!(b.take_over("x").expect("an answer"), 3);
    assert_eq!(b.take_over("b").expect("an answer"), 1, "itself");
    database.end_lease("a");
    assert_eq!(b.dead_nodes(), ["a"]);
    assert_eq!(b.take_over("a").expect("an answer"), 0);
    assert_eq!(b.take_over("a").expect("an answer"), 0, "again, after a lost answer");
    assert_eq!(c.take_over("a").expect("an answer"), 2);
    assert_eq!((b.dead_nodes(), c.dead_nodes()), (Vec::new(), Vec::new()), "it had no sessions");
    assert_eq!(a.take_over("b").expect("an answer"), 5);
    assert_eq!(database.value("SELECT epoch FROM imcharge.nodes WHERE name='a'"), "2", "fenced once");
    assert_eq!(a.run_as(1, 9, &Tick::default()).expect("a tick").0, FENCED);
    a.join_again().expect("join");
    assert_eq!(b.take_over("a").expect("an answer"), 1, "it is back");
}

#[test]
fn sessions_are_adopted_in_portions_with_their_states() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.ask(Item::set(1, "alice", 1000));
    open(&mut a, "alice", 1..26);
    assert_eq!(b.adopt("a", 10), [], "a is alive");
    database.end_lease("a");
    assert_eq!(b.adopt("a", 10), [], "a is not fenced");
    b.take_over("a").expect("an answer");
    let mut all = BTreeSet::new();
    for expected in [10, 10, 5, 0] {
        let portion = b.adopt("a", 10);
        assert_eq!(portion.len(), expected);
        assert_eq!(b.dead_nodes().is_empty(), portion.is_empty(), "listed until all are confirmed");
        assert_eq!(b.adopted(&portion), DONE);
        all.extend(keys(&portion));
        for adopted in portion {
            let session = u64::from_be_bytes(adopted.session[..8].try_into().expect("eight octets"));
            let state = Some(format!("state {session}").into_bytes());
            assert_eq!((&*adopted.account, adopted.number, adopted.state), ("alice", 1, state));
            assert_eq!(adopted.parts, [(3, b"part".to_vec())]);
        }
    }
    assert_eq!(all.len(), 25);
    assert_eq!(b.dead_nodes(), [""; 0]);
}

#[test]
fn portion_whose_answer_was_lost_is_returned_again() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.ask(Item::set(1, "alice", 1000));
    open(&mut a, "alice", 1..6);
    database.end_lease("a");
    b.take_over("a").expect("an answer");
    let lost = b.adopt("a", 3);
    assert_eq!(b.dead_nodes(), ["a"]);
    let again = b.adopt("a", 3);
    assert_eq!(keys(&again), keys(&lost));
    // A request and a state of the owner confirm, too.
    b.run(&Tick {
        items: vec![Item::debit(session_of(&again[0]), 2, "alice", "m1", 10)],
        states: vec![State::new(session_of(&again[1]), "alice", "adopted")],
        ..Tick::default()
    });
    let next = b.adopt("a", 3);
    assert_eq!(next.len(), 3);
    assert!(next.contains(&again[2]) && !next.contains(&again[0]) && !next.contains(&again[1]));
    // The survivor restarts with its journal, in the same epoch, and has lost that answer.
    assert_eq!(b.join_again().expect("join").result, 0);
    let dead = ["a", "b"].map(str::to_owned).to_vec();
    assert_eq!((b.dead_nodes(), b.take_over("a").expect("an answer")), (dead, 0), "b has not named its sessions yet");
    let of_a = b.adopt("a", 100);
    assert_eq!(keys(&of_a), keys(&next));
    b.adopted(&of_a);
    assert_eq!((b.adopt("a", 100), b.dead_nodes()), (Vec::new(), vec!["b".to_owned()]));
    let own = b.adopt("b", 100);
    assert_eq!(keys(&own), keys(&again[..2]));
    b.adopted(&own);
    assert_eq!((b.adopt("b", 100), b.dead_nodes()), (Vec::new(), Vec::new()));
}

/// A node may settle a session and forget it, and be started again before it has said so.
#[test]
fn node_adopts_from_itself_what_it_does_not_name_after_a_start() {
    let database = Database::new();
    let mut a = database.node("a");
    a.ask(Item::set(1, "alice", 1000));
    open(&mut a, "alice", 1..4);
    assert_eq!((a.adopt("a", 10), a.dead_nodes()), (Vec::new(), Vec::new()));
    assert_eq!(a.join_again().expect("join").result, 0);
    a.run(&Tick { states: vec![State::new(1, "alice", "known"), State::new(3, "alice", "known")], ..Tick::default() });
    assert_eq!((a.dead_nodes(), a.take_over("a").expect("an answer")), (vec!["a".to_owned()], 0));
    let left = a.adopt("a", 10);
    assert_eq!(left.iter().map(session_of).collect::<Vec<_>>(), [2]);
    a.run(&Tick { states: vec![State::settled(2, "alice")], ..Tick::default() });
    assert_eq!((a.adopt("a", 10), a.dead_nodes()), (Vec::new(), Vec::new()));
    assert_eq!(database.audit(), [""; 0]);
}

fn session_of(adopted: &Adopted) -> u64 {
    u64::from_be_bytes(adopted.session[..8].try_into().expect("eight octets"))
}

#[test]
fn one_of_two_survivors_wins() {
    let database = Database::new();
    let mut survivors = ["b", "c"].map(|name| database.node(name));
    for round in 0..30 {
        let dead = format!("dead{round}");
        let mut node = database.node(&dead);
        node.ask(Item::set(1, "alice", 1000));
        open(&mut node, "alice", round * 10..round * 10 + 5);
        database.end_lease(&dead);
        let mut results = thread::scope(|scope| {
            let players = survivors.each_mut().map(|survivor| {
                scope.spawn(|| {
                    let result = survivor.take_over(&dead).expect("an answer");
                    let portion = survivor.adopt(&dead, 100);
                    survivor.adopted(&portion);
                    (result, portion.len())
                })
            });
            players.map(|player| player.join().expect("no panic"))
        });
        results.sort_unstable();
        assert_eq!(results, [(0, 5), (2, 0)], "round {round}");
    }
}

#[test]
fn node_that_died_before_settling_adopted_sessions_is_followed_by_a_third() {
    let database = Database::new();
    let (mut a, mut b, mut c) = (database.node("a"), database.node("b"), database.node("c"));
    a.ask(Item::set(1, "alice", 1000));
    open(&mut a, "alice", 1..11);
    database.end_lease("a");
    b.take_over("a").expect("an answer");
    // b adopts five, confirms two, and dies.
    let portion = b.adopt("a", 5);
    b.adopted(&portion[..2]);
    assert_eq!(c.dead_nodes(), [""; 0], "b is at work");
    database.end_lease("b");
    assert_eq!(c.dead_nodes(), ["a", "b"]);
    assert_eq!(c.take_over("a").expect("an answer"), 0, "the rest of a's");
    assert_eq!(c.take_over("b").expect("an answer"), 0);
    let mut all = c.adopt("a", 100);
    assert_eq!(all.len(), 5);
    all.extend(c.adopt("b", 100));
    assert_eq!((all.len(), keys(&all).len()), (10, 10));
    assert_eq!(c.adopted(&all), DONE);
    assert_eq!(c.dead_nodes(), [""; 0]);
    assert_eq!(database.query("SELECT DISTINCT node, origin_node FROM imcharge.sessions"), [["c", "a"]]);
    // The first one returns, and c dies.
    assert_eq!(a.join_again().expect("join").result, 1);
    a.run(&Tick::default());
    assert_eq!(take_over(&database, &mut a, "c"), 10);
    assert_eq!(database.query("SELECT DISTINCT node, origin_node, epoch FROM imcharge.sessions"), [["a", "a", "2"]]);
}

#[test]
fn node_that_returns_adopts_what_its_dead_survivor_left() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.ask(Item::set(1, "alice", 1000));
    open(&mut a, "alice", 1..11);
    database.end_lease("a");
    b.take_over("a").expect("an answer");
    b.adopt("a", 4);
    a.join_again().expect("join");
    a.run(&Tick::default());
    assert_eq!(a.dead_nodes(), [""; 0], "b is at work");
    database.end_lease("b");
    assert_eq!(a.dead_nodes(), ["a", "b"]);
    assert_eq!(a.take_over("a").expect("an answer"), 0);
    let own = a.adopt("a", 100);
    assert_eq!(own.len(), 6);
    a.adopted(&own);
    assert_eq!(a.take_over("b").expect("an answer"), 0);
    let rest = a.adopt("b", 100);
    a.adopted(&rest);
    assert_eq!((rest.len(), a.dead_nodes()), (4, Vec::new()));
}

#[test]
fn survivor_that_restarts_in_a_new_epoch_continues() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.ask(Item::set(1, "alice", 1000));
    open(&mut a, "alice", 1..11);
    database.end_lease("a");
    b.take_over("a").expect("an answer");
    b.adopt("a", 4);
    // Its state directory is lost.
    database.end_lease("b");
    b.identity = "new".into();
    assert_eq!(b.join_again().expect("join").result, 1);
    assert_eq!(b.dead_nodes(), ["a", "b"]);
    for (dead, count) in [("a", 6), ("b", 4)] {
        assert_eq!(b.take_over(dead).expect("an answer"), 0);
        let portion = b.adopt(dead, 100);
        assert_eq!(portion.len(), count);
        b.adopted(&portion);
    }
    assert_eq!(b.dead_nodes(), [""; 0]);
}

#[test]
fn name_is_taken_by_another_identity_after_the_lease_only() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.ask(Item::set(1, "alice", 1000));
    open(&mut a, "alice", 1..3);
    let mut other = Node::new(database.client(), "a", "another directory");
    assert_eq!(other.join_again().expect("join").result, 2);
    assert_eq!(a.run_as(a.epoch, a.last_tick + 1, &Tick::default()).expect("a tick").0, DONE);
    database.end_lease("a");
    let joined = other.join_again().expect("join");
    assert_eq!((joined.result, joined.epoch), (1, 2));
    assert_eq!(a.run_as(a.epoch, a.last_tick + 2, &Tick::default()).expect("a tick").0, FENCED);
    assert_eq!(a.join_again().expect("join").result, 2, "the former identity");
    // Sessions of the earlier epoch: any node may claim them, then the other may not.
    assert_eq!((b.dead_nodes(), other.dead_nodes()), (vec!["a".to_owned()], vec!["a".to_owned()]));
    assert_eq!(b.take_over("a").expect("an answer"), 0);
    assert_eq!(other.dead_nodes(), [""; 0]);
    assert_eq!(b.adopt("a", 1).len(), 1);
    assert_eq!(other.adopt("a", 100).len(), 1, "its own earlier sessions it may always adopt");
    assert_eq!(other.run_as(2, 1, &Tick::default()).expect("a tick").0, DONE, "the new epoch is not fenced");
}

#[test]
fn fence_is_reported_by_join_until_a_tick_of_the_new_epoch() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.run(&Tick::default());
    database.end_lease("a");
    b.take_over("a").expect("an answer");
    for answer in ["lost", "lost again", "received"] {
        let joined = a.join_again().expect("join");
        assert_eq!((joined.result, joined.epoch), (1, 2), "{answer}");
    }
    a.run(&Tick::default());
    assert_eq!(a.join_again().expect("join").result, 0);
}

#[test]
fn row_that_a_transaction_has_locked_is_adopted_later() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.ask(Item::set(1, "alice", 1000));
    open(&mut a, "alice", 1..4);
    database.end_lease("a");
    b.take_over("a").expect("an answer");
    let mut other = database.server().superuser(&database.name);
    let mut transaction = other.transaction().expect("a transaction");
    transaction.execute("SELECT FROM imcharge.sessions WHERE session=$1 FOR UPDATE", &[&key(2)]).expect("a lock");
    let first = b.adopt("a", 100);
    assert_eq!((first.len(), b.dead_nodes()), (2, vec!["a".to_owned()]));
    transaction.rollback().expect("an end");
    assert_eq!(b.adopt("a", 100).len(), 3);
}

#[test]
fn takeover_waits_for_a_lock_for_some_seconds_only() {
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    a.run(&Tick::default());
    database.end_lease("a");
    let mut other = database.server().superuser(&database.name);
    let mut transaction = other.transaction().expect("a transaction");
    transaction.execute("SELECT FROM imcharge.nodes FOR UPDATE", &[]).expect("locks");
    let began = Instant::now();
    for sql in [
        "SELECT * FROM imcharge.take_over('b', 1, 'a')",
        "SELECT * FROM imcharge.adopt('b', 1, 'a', 1)",
        "SELECT * FROM imcharge.adopted('b', 1, '{}')",
        "SELECT * FROM imcharge.join('b', 'b', 1000, '')",
    ] {
        let error = b.client.simple_query(sql).expect_err("the lock is held");
        assert_eq!(error.code().map(|state| state.code()), Some("55P03"), "{sql}");
    }
    assert!(began.elapsed() < Duration::from_secs(40));
    transaction.rollback().expect("an end");
    assert_eq!(b.take_over("a").expect("an answer"), 0);
}

#[test]
fn ten_thousand_sessions_are_adopted_and_settled() {
    const SESSIONS: u64 = 10_000;
    let database = Database::new();
    let (mut a, mut b) = (database.node("a"), database.node("b"));
    let accounts: Vec<String> = (0..SESSIONS).map(|at| format!("sip:user{at}@example.org")).collect();
    let all: Vec<u64> = (0..SESSIONS).collect();
    let number = |session: u64| session as i64 + 1;
    let account = |session: u64| &*accounts[session as usize];
    for some in all.chunks(500) {
        a.run(&Tick {
            items: some.iter().map(|of| Item::set(number(*of), account(*of), 100)).collect(),
            ..Tick::default()
        });
        a.run(&Tick {
            items: some.iter().map(|of| Item::reserve(*of, 1, account(*of), 5, 1)).collect(),
            states: some.iter().map(|of| State::new(*of, account(*of), &"s".repeat(300))).collect(),
            ..Tick::default()
        });
    }
    database.end_lease("a");
    let began = Instant::now();
    assert_eq!(b.take_over("a").expect("an answer"), 0);
    let fenced = began.elapsed();
    let mut adopting = Duration::ZERO;
    let mut count = 0;
    loop {
        let adopt = Instant::now();
        let portion = b.adopt("a", 1000);
        adopting += adopt.elapsed();
        if portion.is_empty() {
            break;
        }
        count += portion.len();
        for some in portion.chunks(250) {
            // Each has a message outstanding, which is debited; the rest is released.
            let last = |of: &Adopted| Item::last_debit(session_of(of), 2, &of.account, "m1", 1, 5);
            let items = some.iter().map(last).collect();
            let states = some.iter().map(|of| State::settled(session_of(of), &of.account)).collect();
            b.run(&Tick { items, states, ..Tick::default() });
        }
    }
    println!("{count} sessions: fence {fenced:?}, adopting {adopting:?}, settled after {:?}", began.elapsed());
    assert_eq!((count as u64, b.dead_nodes()), (SESSIONS, Vec::new()));
    let sums = "SELECT count(*), sum(balance), sum(held), sum(debited) FROM imcharge.accounts";
    assert_eq!(database.query(sums), [["10000", "990000", "0", "10000"]]);
    assert_eq!(database.value("SELECT count(*) FROM imcharge.sessions"), "0");
    assert_eq!(database.audit(), [""; 0]);
}
