//! Rules of money: those of the embedded ledger.

use crate::node::{
    ABOVE_MAXIMUM, Answer, BELOW_LIMIT, DONE, DUPLICATE, Database, IMPOSSIBLE, Item, NO_CREDIT, NOT_EMPTY, Node,
    REFERENCE_USED, State, Tick, UNKNOWN, key,
};
use imcharge::enabler::{BALANCE_MAX, LowBalance};

/// A node, and an account `alice` with this balance.
fn alice(balance: i64) -> (Database, Node) {
    let database = Database::new();
    let mut node = database.node("a");
    assert_eq!(node.ask(Item::set(1, "alice", balance)).result, DONE);
    (database, node)
}

fn numbers(answer: &Answer) -> (i16, i64, Option<i64>) {
    (answer.result, answer.granted, answer.balance)
}

#[test]
fn reserve_debit_and_release_conserve_all_units() {
    let (database, mut node) = alice(100);
    assert_eq!(numbers(&node.ask(Item::reserve(1, 1, "alice", 3, 25))), (DONE, 3, Some(25)));
    assert_eq!(database.account("alice"), (25, 75, 0));
    assert_eq!(numbers(&node.ask(Item::debit(1, 2, "alice", "m1", 25))), (DONE, 0, Some(25)));
    assert_eq!(database.account("alice"), (25, 50, 25));
    assert_eq!(numbers(&node.ask(Item::release(1, 3, "alice", 50))), (DONE, 0, Some(75)));
    assert_eq!(database.account("alice"), (75, 0, 25));
    assert_eq!(database.session(1), Some((0, 3)));
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn reserve_grants_what_the_account_can_pay_for() {
    let (database, mut node) = alice(99);
    assert_eq!(numbers(&node.ask(Item::reserve(1, 1, "alice", 10, 25))), (DONE, 3, Some(24)));
    assert_eq!(numbers(&node.ask(Item::reserve(2, 1, "alice", 1, 25))), (NO_CREDIT, 0, Some(24)));
    assert_eq!(numbers(&node.ask(Item::reserve(1, 2, "alice", 0, 25))), (DONE, 0, Some(24)), "a renewal");
    assert_eq!(database.session(2), None, "a denied session has no row");
    assert_eq!(database.account("alice"), (24, 75, 0));
}

#[test]
fn grant_is_at_most_the_largest_quota() {
    let (_, mut node) = alice(BALANCE_MAX);
    let granted = i64::from(u32::MAX);
    assert_eq!(numbers(&node.ask(Item::reserve(1, 1, "alice", i64::MAX, 0))), (DONE, granted, Some(BALANCE_MAX)));
    assert_eq!(node.ask(Item::reserve(2, 1, "alice", i64::MAX, 1)).granted, granted);
    assert_eq!(node.ask(Item::reserve(3, 1, "alice", 1, i64::MAX)).result, NO_CREDIT);
}

#[test]
fn debit_beyond_the_hold_takes_the_whole_price_or_nothing() {
    let (database, mut node) = alice(30);
    assert_eq!(node.ask(Item::debit(1, 1, "alice", "m1", 25)).result, DONE);
    assert_eq!(node.ask(Item::debit(1, 2, "alice", "m2", 25)).result, NO_CREDIT);
    assert_eq!(node.ask(Item::debit(1, 2, "alice", "m2", i64::MAX)).result, NO_CREDIT);
    assert_eq!(database.account("alice"), (5, 0, 25));
    assert_eq!(database.value("SELECT count(*) FROM imcharge.debits"), "1", "a denied debit is not recorded");
    assert_eq!(node.ask(Item::debit(1, 3, "alice", "m2", 5)).result, DONE, "the key of a denied debit is free");
}

#[test]
fn last_debit_returns_the_rest_of_its_reservation_only() {
    let (database, mut node) = alice(200);
    node.ask(Item::reserve(1, 1, "alice", 2, 25));
    node.ask(Item::reserve(1, 2, "alice", 3, 25));
    assert_eq!(database.account("alice"), (75, 125, 0));
    assert_eq!(numbers(&node.ask(Item::last_debit(1, 3, "alice", "m1", 25, 50))), (DONE, 0, Some(100)));
    assert_eq!(database.account("alice"), (100, 75, 25));
    // A debit larger than its reservation takes units of the session's other reservations.
    node.ask(Item::last_debit(1, 4, "alice", "m2", 50, 25));
    assert_eq!(database.account("alice"), (100, 25, 75));
    node.ask(Item::release(1, 5, "alice", 25));
    assert_eq!(database.account("alice"), (125, 0, 75));
}

#[test]
fn balance_falls_to_minus_the_credit_limit_and_no_further() {
    let (database, mut node) = alice(20);
    node.ask(Item::limit(2, "alice", 60));
    assert_eq!(numbers(&node.ask(Item::reserve(1, 1, "alice", 9, 25))), (DONE, 3, Some(-55)));
    assert_eq!(node.ask(Item::reserve(2, 1, "alice", 1, 25)).result, NO_CREDIT);
    assert_eq!(node.ask(Item::debit(2, 2, "alice", "m1", 25)).result, NO_CREDIT);
    assert_eq!(node.ask(Item::debit(1, 2, "alice", "m1", 25)).result, DONE);
    assert_eq!(node.ask(Item::release(1, 3, "alice", 50)).balance, Some(-5));
    assert_eq!(database.account("alice"), (-5, 0, 25));
}

#[test]
fn refund_returns_a_debit_once() {
    let (database, mut node) = alice(100);
    node.ask(Item::debit(1, 1, "alice", "m1", 30));
    assert_eq!(numbers(&node.ask(Item::refund(1, 2, "alice", "m1"))), (DONE, 0, Some(100)));
    assert_eq!(numbers(&node.ask(Item::refund(1, 3, "alice", "m1"))), (DONE, 0, Some(100)));
    assert_eq!(node.ask(Item::refund(1, 4, "alice", "m2")).result, DONE, "no such debit");
    assert_eq!(node.ask(Item::refund(1, 4, "bob", "m1")).result, UNKNOWN);
    assert_eq!(database.account("alice"), (100, 0, 0));
    assert_eq!(node.ask(Item::debit(1, 5, "alice", "m1", 30)).result, DONE, "known");
    assert_eq!(node.ask(Item::debit(1, 6, "alice", "m1", 40)).result, DONE, "known, and refunded: takes no more");
    assert_eq!(database.account("alice"), (100, 0, 0));
    assert_eq!(node.ask(Item::debit(1, 7, "alice", "m1", 30).part(1)).result, DONE, "sent again");
    assert_eq!(database.account("alice"), (70, 0, 30));
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn unknown_subscriber_is_denied_without_a_default_balance() {
    let database = Database::new();
    let mut node = database.node("a");
    for item in [
        Item::reserve(1, 1, "bob", 1, 25),
        Item::debit(1, 1, "bob", "m1", 25),
        Item::refund(1, 1, "bob", "m1"),
        Item::add(1, "bob", 5, "r"),
        Item::limit(2, "bob", 5),
        Item::remove(3, "bob"),
    ] {
        let kind = item.kind;
        let unknown = (UNKNOWN, 0, None);
        assert_eq!(numbers(&node.ask(item)), unknown, "kind {kind}");
    }
    assert_eq!(numbers(&node.ask(Item::release(1, 1, "bob", 1))), (DONE, 0, None));
    assert_eq!(database.value("SELECT count(*) FROM imcharge.accounts"), "0");
}

#[test]
fn account_is_created_by_a_reservation_or_a_debit_that_succeeds() {
    let database = Database::new();
    let mut node = database.node("a");
    node.default_balance = Some(55);
    assert_eq!(node.ask(Item::reserve(1, 1, "bob", 1, 56)).result, NO_CREDIT);
    assert_eq!(node.ask(Item::debit(1, 1, "bob", "m1", 56)).result, NO_CREDIT);
    assert_eq!(node.ask(Item::refund(1, 1, "bob", "m1")).result, UNKNOWN);
    assert_eq!(node.ask(Item::release(1, 1, "bob", 5)).result, DONE);
    assert_eq!(database.value("SELECT count(*) FROM imcharge.accounts"), "0");
    // Two requests of one new account, and of another one, in one tick.
    let answers = node.tick(&[
        Item::reserve(2, 1, "carol", 1, 25),
        Item::reserve(1, 1, "bob", 2, 25),
        Item::debit(3, 1, "carol", "m1", 25),
    ]);
    assert_eq!(
        answers.iter().map(numbers).collect::<Vec<_>>(),
        [(DONE, 1, Some(30)), (DONE, 2, Some(5)), (DONE, 0, Some(5))]
    );
    assert_eq!((database.account("bob"), database.account("carol")), ((5, 50, 0), (5, 25, 25)));
    let changes =
        database.query("SELECT kind, amount, balance, held FROM imcharge.account_changes ORDER BY account, at");
    assert_eq!(changes, [["initial", "55", "55", "0"], ["initial", "55", "55", "0"], ["debit", "-25", "5", "25"]]);
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn two_requests_of_one_account_in_one_tick_both_count() {
    let (database, mut node) = alice(100);
    let answers = node.tick(&[
        Item::debit(1, 1, "alice", "m1", 30),
        Item::debit(2, 1, "alice", "m1", 30),
        Item::debit(3, 1, "alice", "m1", 30),
        Item::debit(4, 1, "alice", "m1", 30),
    ]);
    assert_eq!(answers.iter().map(|answer| answer.result).collect::<Vec<_>>(), [DONE, DONE, DONE, NO_CREDIT]);
    assert_eq!(database.account("alice"), (10, 0, 90));
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn requests_of_one_session_in_one_tick_are_executed_in_their_order() {
    let (database, mut node) = alice(100);
    let answers = node.tick(&[
        Item::reserve(1, 1, "alice", 4, 25),
        Item::debit(1, 2, "alice", "m1", 25),
        Item::debit(1, 3, "alice", "m1", 25),
        Item::last_debit(1, 4, "alice", "m2", 25, 75),
        Item::refund(1, 5, "alice", "m1"),
        Item::reserve(1, 6, "alice", 1, 25),
    ]);
    assert_eq!(answers.iter().map(|answer| answer.result).collect::<Vec<_>>(), [DONE; 6]);
    assert_eq!(database.account("alice"), (50, 25, 25));
    assert_eq!(database.session(1), Some((25, 6)));
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn commands_keep_the_rules_of_accounts() {
    let (database, mut node) = alice(10);
    let mut number = 1;
    let mut ask = |make: &dyn Fn(i64) -> Item| {
        number += 1;
        node.ask(make(number)).result
    };
    assert_eq!(ask(&|number| Item::add(number, "alice", -11, "r1")), BELOW_LIMIT);
    assert_eq!(ask(&|number| Item::add(number, "alice", BALANCE_MAX, "r1")), ABOVE_MAXIMUM);
    assert_eq!(ask(&|number| Item::add(number, "alice", i64::MAX, "r1")), IMPOSSIBLE);
    assert_eq!(ask(&|number| Item::set(number, "alice", -1)), BELOW_LIMIT);
    assert_eq!(ask(&|number| Item::set(number, "alice", i64::MIN)), BELOW_LIMIT);
    assert_eq!(ask(&|number| Item::set(number, "alice", BALANCE_MAX + 1)), ABOVE_MAXIMUM);
    assert_eq!(ask(&|number| Item::remove(number, "alice")), NOT_EMPTY);
    assert_eq!(ask(&|number| Item::limit(number, "alice", -1)), IMPOSSIBLE);
    assert_eq!(ask(&|number| Item::limit(number, "alice", BALANCE_MAX + 1)), ABOVE_MAXIMUM);
    assert_eq!(ask(&|number| Item::limit(number, "alice", 5)), DONE);
    assert_eq!(ask(&|number| Item::add(number, "alice", -15, "r1")), DONE, "a refused reference is free");
    assert_eq!(database.account("alice"), (-5, 0, 0));
    assert_eq!(ask(&|number| Item::limit(number, "alice", 4)), BELOW_LIMIT);
    assert_eq!(ask(&|number| Item::add(number, "alice", -15, "r1")), DUPLICATE);
    assert_eq!(ask(&|number| Item::add(number, "alice", 15, "r1")), REFERENCE_USED);
    assert_eq!(ask(&|number| Item::set(number, "alice", 0)), DONE);
    assert_eq!(ask(&|number| Item::remove(number, "alice")), DONE);
    assert_eq!(ask(&|number| Item::add(number, "alice", 15, "r1")), REFERENCE_USED);
    assert_eq!(ask(&|number| Item::add(number, "alice", 1, "r2")), UNKNOWN);
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn account_can_be_removed_and_created_again() {
    let (database, mut node) = alice(100);
    node.ask(Item::debit(1, 1, "alice", "m1", 40));
    node.ask(Item::debit(1, 2, "alice", "m2", 60));
    assert_eq!(node.ask(Item::remove(2, "alice")).result, DONE);
    node.ask(Item::set(3, "alice", 7));
    assert_eq!(database.account("alice"), (7, 0, 0));
    assert_eq!(database.audit(), [""; 0], "debits of the earlier account do not count");
    assert_eq!(node.ask(Item::refund(1, 3, "alice", "m1")).balance, Some(47));
    assert_eq!(database.account("alice"), (47, 0, -40));
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn low_balance_is_reported_once_per_crossing() {
    let (database, mut node) = alice(100);
    node.low_balance = Some(LowBalance::Units(50));
    let mut low = |item: Item| node.ask(item).became_low;
    assert!(!low(Item::reserve(1, 1, "alice", 80, 1)), "held units are left");
    assert!(!low(Item::debit(1, 2, "alice", "m1", 49)));
    assert!(low(Item::debit(1, 3, "alice", "m2", 1)));
    assert!(!low(Item::debit(1, 4, "alice", "m3", 1)), "it is low already");
    assert!(!low(Item::add(2, "alice", 60, "r1")), "a top-up");
    assert!(low(Item::add(3, "alice", -60, "r2")));
    assert!(!low(Item::limit(4, "alice", 60)), "credit is left");
    assert_eq!(database.value("SELECT is_low FROM imcharge.accounts"), "f");
    node.low_balance = Some(LowBalance::Percent(10));
    node.ask(Item::set(5, "alice", 200));
    // The session holds 29 units, and there is credit.
    let full = database.value("SELECT full_left FROM imcharge.accounts");
    assert_eq!(full, "289");
    assert!(!node.ask(Item::debit(2, 1, "alice", "m1", 255)).became_low, "34 left");
    assert!(node.ask(Item::debit(1, 5, "alice", "m4", 6)).became_low, "28 left, of 289");
    node.low_balance = None;
    node.ask(Item::debit(1, 6, "alice", "m5", 1));
    assert_eq!(database.value("SELECT is_low FROM imcharge.accounts"), "f", "switched off");
}

#[test]
fn new_account_crosses_no_threshold_by_its_creation() {
    let database = Database::new();
    let mut node = database.node("a");
    (node.default_balance, node.low_balance) = (Some(10), Some(LowBalance::Units(10)));
    assert!(!node.ask(Item::debit(1, 1, "bob", "m1", 1)).became_low, "it was low from the start");
    node.low_balance = Some(LowBalance::Units(9));
    assert!(node.ask(Item::debit(2, 1, "carol", "m1", 1)).became_low);
    assert!(!node.ask(Item::set(1, "dave", 3)).became_low);
    assert_eq!(database.value("SELECT is_low FROM imcharge.accounts WHERE id='dave'"), "t");
}

#[test]
fn impossible_request_is_refused_alone() {
    let (database, mut node) = alice(100);
    let wrong = [
        Item { kind: 0, ..Item::debit(10, 1, "alice", "m1", 1) },
        Item { kind: 6, ..Item::debit(11, 1, "alice", "m1", 1) },
        Item { kind: -1, ..Item::debit(12, 1, "alice", "m1", 1) },
        Item { kind: 11, ..Item::debit(13, 1, "alice", "m1", 1) },
        Item { session: vec![1; 15], ..Item::debit(0, 1, "alice", "m1", 1) },
        Item { session: Vec::new(), ..Item::debit(0, 1, "alice", "m1", 1) },
        Item { account: None, ..Item::debit(14, 1, "alice", "m1", 1) },
        Item { message: None, ..Item::debit(15, 1, "alice", "m1", 1) },
        Item::debit(16, -1, "alice", "m1", 1),
        Item::debit(17, 1, "", "m1", 1),
        Item::debit(18, 1, &"x".repeat(1001), "m1", 1),
        Item::debit(19, 1, "alice", &"x".repeat(1001), 1),
        Item::debit(20, 1, "alice", "m1", -1),
        Item::debit(21, 1, "alice", "m1", i64::MIN),
        Item::debit(22, 1, "alice", "m1", 1).part(-1),
        Item::last_debit(23, 1, "alice", "m1", 1, -1),
        Item::reserve(24, 1, "alice", -1, 1),
        Item::reserve(25, 1, "alice", 1, -1),
        Item::release(26, 1, "alice", -1),
        Item { message: None, ..Item::refund(27, 1, "alice", "m1") },
        Item { message: None, ..Item::add(2, "alice", 1, "r") },
        Item::add(3, "alice", 1, &"x".repeat(1001)),
        Item::set(-1, "alice", 1),
        Item { account: None, ..Item::set(4, "alice", 1) },
    ];
    let mut items = vec![Item::debit(1, 1, "alice", "m1", 1)];
    items.extend(wrong.iter().cloned());
    items.push(Item::debit(2, 1, "alice", "m1", 1));
    let answers = node.tick(&items);
    let (last, answers) = answers.split_last().expect("answers");
    let (first, answers) = answers.split_first().expect("answers");
    assert_eq!((first.result, last.result), (DONE, DONE));
    for (item, answer) in wrong.iter().zip(answers) {
        assert_eq!((answer.result, answer.granted), (IMPOSSIBLE, 0), "{item:?}");
    }
    assert_eq!(database.account("alice"), (98, 0, 2));
    assert_eq!(database.value("SELECT count(*) FROM imcharge.debits"), "2");
    // The longest texts are accepted, also if they cannot be compressed.
    let long = |seed: u32| -> String {
        (0..250_u32).map(|at| format!("{:04x}", (at * 7919 + seed * 104729) % 65521)).collect()
    };
    node.ask(Item::set(5, &long(1), 10));
    assert_eq!(node.ask(Item::reserve(28, 1, &long(1), 1, 1)).result, DONE);
    assert_eq!(node.ask(Item::debit(28, 2, &long(1), &long(2), 1)).result, DONE);
    assert_eq!(node.ask(Item::add(6, &long(1), 1, &long(3))).result, DONE);
}

#[test]
fn sum_out_of_range_is_refused_alone() {
    let (database, mut node) = alice(100);
    database.execute("UPDATE imcharge.accounts SET debited=2000000000000000000 - 1");
    let answers = node.tick(&[Item::debit(1, 1, "alice", "m1", 1), Item::debit(2, 1, "alice", "m1", 1)]);
    assert_eq!(answers.iter().map(|answer| answer.result).collect::<Vec<_>>(), [DONE, IMPOSSIBLE]);
    database.execute("UPDATE imcharge.accounts SET debited=1, balance=2000000000000000000");
    assert_eq!(node.ask(Item::refund(1, 2, "alice", "m1")).result, IMPOSSIBLE);
    assert_eq!(database.account("alice"), (2_000_000_000_000_000_000, 0, 1));
    let held = node.ask(Item::reserve(3, 1, "alice", 4_000_000_000, 500_000_000));
    assert_eq!((held.result, held.balance), (DONE, Some(0)));
    node.ask(Item::set(2, "alice", 1));
    assert_eq!(node.ask(Item::reserve(3, 2, "alice", 1, 1)).result, IMPOSSIBLE, "held units out of range");
    // Settling returns units only if they fit; the session stays for the audit otherwise.
    database.execute("UPDATE imcharge.accounts SET balance=1");
    node.run(&Tick { states: vec![State::settled(3, "alice")], ..Tick::default() });
    assert_eq!(database.session(3).map(|(held, _)| held), Some(2_000_000_000_000_000_000));
}

#[test]
fn wrong_arguments_of_a_tick_are_refused() {
    let database = Database::new();
    database.node("a");
    let call = |arguments: &str| {
        let sql = format!("SELECT * FROM imcharge.tick('a', 1, 1, {arguments})");
        let error = database.client().simple_query(&sql).expect_err("it is refused");
        error.code().map(|state| state.code().to_owned()).unwrap_or_default()
    };
    let empty = "'{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', \
                 '{}', '{}', '{}', '{}', '{}', '{}', '{}'";
    database
        .client()
        .simple_query(&format!("SELECT * FROM imcharge.tick('a', 1, 1, 1, NULL, NULL, NULL, {empty})"))
        .expect("ok");
    assert_eq!(call(&format!("0, NULL, NULL, NULL, {empty}")), "22023", "lease");
    assert_eq!(call(&format!("NULL, NULL, NULL, NULL, {empty}")), "22023", "lease");
    assert_eq!(call(&format!("1, -1, NULL, NULL, {empty}")), "22023", "default balance");
    assert_eq!(call(&format!("1, 1000000000000001, NULL, NULL, {empty}")), "22023", "default balance");
    for at in 0..22 {
        let arrays: Vec<&str> = (0..22).map(|of| if of == at { "'{NULL}'" } else { "'{}'" }).collect();
        assert_eq!(call(&format!("1, NULL, NULL, NULL, {}", arrays.join(", "))), "22023", "array {at} is longer");
        let arrays: Vec<&str> = (0..22).map(|of| if of == at { "NULL" } else { "'{}'" }).collect();
        assert_eq!(call(&format!("1, NULL, NULL, NULL, {}", arrays.join(", "))), "22023", "array {at} is NULL");
    }
    assert_eq!(database.value("SELECT last_tick FROM imcharge.nodes"), "1");
}

#[test]
fn request_with_a_nul_octet_fails_with_a_class_that_names_an_item() {
    let (_, mut node) = alice(100);
    let tick = Tick { items: vec![Item::debit(1, 1, "alice", "m\0", 1)], ..Tick::default() };
    let error = node.run_as(node.epoch, node.last_tick + 1, &tick).expect_err("a text has no NUL");
    let state = error.code().map(|state| state.code().to_owned());
    assert_eq!(state.as_deref(), Some("22021"));
}

#[test]
fn settled_session_returns_what_it_holds_and_leaves_no_row() {
    let (database, mut node) = alice(100);
    node.run(&Tick {
        items: vec![Item::reserve(1, 1, "alice", 4, 25)],
        states: vec![State::new(1, "alice", "open")],
        parts: vec![(1, 0, b"part".to_vec())],
    });
    assert_eq!(database.value("SELECT count(*) FROM imcharge.session_parts"), "1");
    let settled = State::settled(1, "alice");
    node.run(&Tick { items: vec![Item::debit(1, 2, "alice", "m1", 25)], states: vec![settled], ..Tick::default() });
    assert_eq!(database.account("alice"), (75, 0, 25));
    assert_eq!(database.session(1), None);
    assert_eq!(database.value("SELECT count(*) FROM imcharge.session_parts"), "0");
    assert_eq!(database.audit(), [""; 0]);
}

#[test]
fn audit_finds_each_mismatch_and_pages() {
    let database = Database::new();
    let mut node = database.node("a");
    let accounts: Vec<String> = (0..20).map(|at| format!("user{at:02}")).collect();
    let sets: Vec<Item> = accounts.iter().zip(1..).map(|(account, number)| Item::set(number, account, 100)).collect();
    node.tick(&sets);
    for (session, account) in (1..).zip(&accounts) {
        node.ask(Item::reserve(session, 1, account, 2, 10));
        node.ask(Item::debit(session, 2, account, "m1", 10));
    }
    assert_eq!(database.audit(), [""; 0]);
    let breaks = [
        "UPDATE imcharge.accounts SET balance=balance+1 WHERE id='user01'",
        "UPDATE imcharge.accounts SET debited=debited+1, balance=balance-1 WHERE id='user03'",
        "UPDATE imcharge.accounts SET held=held+1, balance=balance-1 WHERE id='user05'",
        "UPDATE imcharge.debits SET units=units+1 WHERE account='user07'",
        "DELETE FROM imcharge.debits WHERE account='user09'",
        "DELETE FROM imcharge.sessions WHERE account='user11'",
        "DELETE FROM imcharge.changes WHERE account='user13'",
        "UPDATE imcharge.changes SET amount=amount+1 WHERE account='user15'",
        "UPDATE imcharge.debits SET refunded_at=now() WHERE account='user17'",
        "DELETE FROM imcharge.accounts WHERE id='user19'",
    ];
    for sql in breaks {
        database.execute(sql);
    }
    let wrong: Vec<String> = accounts.iter().skip(1).step_by(2).cloned().collect();
    for page in [1, 2, 3, 20, 1000] {
        assert_eq!(crate::node::audit(&mut database.client(), page), wrong, "pages of {page}");
    }
}

#[test]
fn history_shows_every_change_with_the_values_after_it() {
    let (database, mut node) = alice(100);
    node.ask(Item::reserve(1, 1, "alice", 2, 10));
    node.ask(Item::debit(1, 2, "alice", "m1", 10));
    node.ask(Item::debit(1, 3, "alice", "m1", 25));
    node.ask(Item::refund(1, 4, "alice", "m1"));
    node.ask(Item::add(2, "alice", 5, "r1"));
    node.ask(Item::limit(3, "alice", 5));
    node.ask(Item::debit(1, 5, "alice", "free", 0));
    let sql = "SELECT kind, amount, reference, balance, held, credit_limit FROM imcharge.account_changes ORDER BY at";
    assert_eq!(
        database.query(sql),
        [
            ["set", "100", "", "100", "0", "0"],
            ["debit", "-10", "call@example.org", "80", "10", "0"],
            ["debit", "-15", "call@example.org", "75", "0", "0"],
            ["refund", "25", "call@example.org", "100", "0", "0"],
            ["add", "5", "r1", "105", "0", "0"],
            ["limit", "0", "", "105", "0", "5"],
        ]
    );
    let sums = "SELECT sum(amount) FROM imcharge.account_changes";
    assert_eq!(database.value(sums), "105");
    assert_eq!(database.value("SELECT encode(session, 'hex') FROM imcharge.debits LIMIT 1"), hex(&key(1)));
}

fn hex(octets: &[u8]) -> String {
    octets.iter().map(|octet| format!("{octet:02x}")).collect()
}
