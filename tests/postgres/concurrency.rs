//! Several nodes at once: races on the last unit, locks in opposite orders, accounts that two nodes create.

use crate::node::{DONE, Database, Item, NO_CREDIT, Node, State, Tick};
use crate::ownership::take_over;
use postgres::error::SqlState;
use std::sync::Barrier;
use std::thread;

/// Runs a function of each node and of the number of the round, with all nodes at once in each round.
fn race<const N: usize, T: Send>(
    nodes: &mut [Node; N],
    rounds: u64,
    play: impl Fn(&mut Node, u64) -> T + Sync,
) -> Vec<[T; N]> {
    let start = Barrier::new(N);
    let mut results = thread::scope(|scope| {
        let players: Vec<_> = nodes
            .iter_mut()
            .map(|node| {
                let (start, play) = (&start, &play);
                scope.spawn(move || {
                    let round = |round| {
                        start.wait();
                        play(node, round)
                    };
                    (0..rounds).map(round).collect::<Vec<T>>().into_iter()
                })
            })
            .collect();
        players.into_iter().map(|player| player.join().expect("no panic")).collect::<Vec<_>>()
    });
    (0..rounds).map(|_| std::array::from_fn(|of| results[of].next().expect("a result of each round"))).collect()
}

#[test]
fn two_nodes_race_on_the_last_unit_a_thousand_times() {
    const ROUNDS: u64 = 1000;
    let database = Database::new();
    let mut nodes = ["a", "b"].map(|name| database.node(name));
    let sets: Vec<Item> = (0..ROUNDS).map(|of| Item::set(of as i64, &format!("user{of}"), 1)).collect();
    nodes[0].tick(&sets);
    let results = race(&mut nodes, ROUNDS, |node, round| {
        let session = round * 2 + u64::from(node.name == "b");
        node.ask(Item::reserve(session, 1, &format!("user{round}"), 1, 1)).result
    });
    for (round, mut results) in results.into_iter().enumerate() {
        results.sort_unstable();
        assert_eq!(results, [DONE, NO_CREDIT], "round {round}");
    }
    let sums = "SELECT sum(balance), sum(held), sum(debited) FROM imcharge.accounts";
    assert_eq!(database.query(sums), [["0", "1000", "0"]]);
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn opposite_orders_of_accounts_do_not_deadlock() {
    const ACCOUNTS: u64 = 40;
    const ROUNDS: u64 = 100;
    let database = Database::new();
    let mut nodes = ["a", "b", "c"].map(|name| database.node(name));
    let name = |of: u64| format!("user{of}");
    let sets: Vec<Item> = (0..ACCOUNTS).map(|of| Item::set(of as i64, &name(of), 1_000_000)).collect();
    nodes[0].tick(&sets);
    race(&mut nodes, ROUNDS, |node, round| {
        let first = u64::from(node.name.as_bytes()[0]) * 1_000_000 + round * ACCOUNTS;
        let mut items: Vec<Item> = (0..ACCOUNTS)
            .map(|of| match round % 2 {
                0 => Item::reserve(first + of, 1, &name(of), 2, 3),
                _ => Item::debit(first + of, 1, &name(of), "m1", 3),
            })
            .collect();
        if node.name == "b" {
            items.reverse();
        }
        let states = items.iter().map(|item| State::settled(0, item.account.as_deref().expect("an account"))).collect();
        let results = node.run(&Tick { items, states, ..Tick::default() });
        assert!(results.iter().all(|answer| answer.result == DONE));
    });
    let sums = "SELECT sum(held), sum(debited) FROM imcharge.accounts";
    assert_eq!(database.query(sums), [[(3 * 50 * ACCOUNTS * 6).to_string(), (3 * 50 * ACCOUNTS * 3).to_string()]]);
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn former_owner_and_owner_of_the_same_sessions_do_not_deadlock() {
    const SESSIONS: u64 = 60;
    const ROUNDS: u64 = 60;
    let database = Database::new();
    let [mut a, mut b] = ["a", "b"].map(|name| database.node(name));
    let name = |of: u64| format!("user{}", SESSIONS - of);
    let sets: Vec<Item> = (0..SESSIONS).map(|of| Item::set(of as i64, &name(of), 1000)).collect();
    a.tick(&sets);
    let reserves: Vec<Item> = (0..SESSIONS).map(|of| Item::reserve(of, 1, &name(of), 500, 1)).collect();
    a.tick(&reserves);
    take_over(&database, &mut b, "a");
    a.join_again().expect("join");
    let mut nodes = [a, b];
    race(&mut nodes, ROUNDS, |node, round| {
        let debit = |of: u64| Item::debit(of, 2, &name(of), &format!("m{round}"), 1);
        let state = |of: u64| State::new(of, &name(of), &format!("state {round}"));
        let mut tick = Tick::default();
        if node.name == "a" {
            tick.items = (0..SESSIONS).rev().map(debit).collect();
        } else {
            tick.states = (0..SESSIONS).map(state).collect();
        }
        node.run(&tick);
    });
    let held = "SELECT DISTINCT held, convert_from(state, 'UTF8') FROM imcharge.sessions";
    assert_eq!(database.query(held), [["440", "state 59"]]);
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn account_that_two_nodes_create_is_created_once() {
    const ROUNDS: u64 = 150;
    let database = Database::new();
    let mut nodes = ["a", "b"].map(|name| database.node(name));
    for node in &mut nodes {
        node.default_balance = Some(10);
    }
    let retries: u32 = race(&mut nodes, ROUNDS, |node, round| {
        let session = 1 + round * 2 + u64::from(node.name == "b");
        let items = vec![Item::debit(session, 1, &format!("user{round}"), "m1", 4)];
        let tick = Tick { items, ..Tick::default() };
        node.last_tick += 1;
        let mut retries = 0;
        loop {
            match node.run_as(node.epoch, node.last_tick, &tick) {
                Ok((result, answers)) => {
                    assert_eq!((result, answers[0].result), (DONE, DONE));
                    break retries;
                }
                Err(error) => assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error}"),
            }
            retries += 1;
        }
    })
    .into_iter()
    .flatten()
    .sum();
    println!("{retries} ticks were repeated");
    let sums = "SELECT count(*), sum(balance), sum(debited) FROM imcharge.accounts";
    let expected = [ROUNDS, ROUNDS * 2, ROUNDS * 8].map(|number| number.to_string());
    assert_eq!(database.query(sums), [expected]);
    assert_eq!(database.value("SELECT count(*) FROM imcharge.changes WHERE kind='initial'"), ROUNDS.to_string());
    assert_eq!(database.audit(), [""; 0]);
}
