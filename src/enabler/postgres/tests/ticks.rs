//! Requests and states in ticks, and what becomes of them.

use super::fake::*;
use crate::charge::ch2::{Denial, Failure, Operation, Request, Reservation, Response};
use crate::charge::tariff::Quota;
use crate::charge::time::Time;
use crate::enabler::postgres::database::{Answer, DatabaseEvent, ItemResult, Joined, Ticked};
use crate::enabler::postgres::tick::Kind;
use crate::enabler::{Account, AccountChange, AccountCommand, AccountOutcome, Enabler, EnablerEvent, Refusal};

/// A node whose reserve (session 1, number 1) is in flight.
fn reserving() -> Node {
    let mut node = Node::member();
    node.ask(&reserve(1, 1));
    node.flush();
    assert_eq!(node.tick().1.items.len(), 1);
    node
}

/// A node that has answered that request by its failure.
fn silent() -> Node {
    let mut node = reserving();
    node.pass(10 * SECOND);
    assert_eq!(node.responses(), [(1, Response::Failed(Failure::Silent))]);
    node
}

#[test]
fn requests_and_states_of_a_tick_of_the_engine_go_together() {
    let mut node = Node::member();
    node.node.replicate(state(1, 1));
    node.ask(&reserve(1, 1));
    node.ask(&debit(2, 4, Reservation::Last { opened_by: 1, outstanding: Quota(3) }));
    node.flush();
    let (_, tick) = node.tick();
    assert_eq!((tick.number, &tick.states[..]), (9, &[state(1, 1)][..]));
    let rows: Vec<_> = tick.items.iter().map(|item| &item.row).collect();
    assert_eq!((rows[0].kind, rows[0].quota, rows[0].units, rows[0].holds), (Kind::Reserve, 5, 25, 0));
    assert_eq!((rows[0].number, rows[0].opened_at, &*rows[0].call), (1, 77, "call"));
    assert_eq!((rows[1].kind, rows[1].quota, rows[1].units, rows[1].holds), (Kind::LastDebit, 0, 25, 75));
    assert_eq!((&*rows[1].message, rows[1].trigger, rows[1].opened_at), ("message4", "response", 1_000_000));
    node.done(&[granted(1, 3), result(2, 0)]);
    let debited = Response::Debited { balance: Some(100), ended: true, rest: None };
    assert_eq!(node.responses(), [(1, Response::granted(Quota(3), Some(100))), (2, debited)]);
    assert_eq!((node.counter("pg_ticks"), node.counter("pg_requests")), (2, 2));
}

#[test]
fn results_are_answered_as_the_embedded_ledger_does() {
    let open = Reservation::Open { opened_by: 1, outstanding: Quota(2) };
    let renewal = request(1, 1, open, Operation::Reserve { quota: Quota(0) });
    let debit = debit(1, 1, Reservation::None);
    let cases: [(Request, i16, Response); 10] = [
        (reserve(1, 1), 1, Response::Denied(Denial::NoCredit)),
        (reserve(1, 1), 2, Response::Denied(Denial::UnknownSubscriber)),
        (reserve(1, 1), 3, Response::Failed(Failure::Enabler)),
        (reserve(1, 1), 4, Response::Denied(Denial::Refused(5012))),
        (renewal, 4, Response::NoReservation),
        (debit.clone(), 1, Response::Denied(Denial::NoCredit)),
        (debit, 0, Response::debited(Some(100))),
        (release(1, 1, 1, 2), 0, Response::Released { balance: Some(100) }),
        (release(1, 1, 1, 2), 2, Response::Released { balance: None }),
        (release(1, 1, 1, 2), 4, Response::Released { balance: None }),
    ];
    for (request, code, expected) in cases {
        let mut node = Node::member();
        node.ask(&request);
        node.flush();
        node.done(&[result(1, code)]);
        assert_eq!(node.responses(), [(1, expected)], "{request:?} {code}");
    }
}

#[test]
fn what_comes_while_a_tick_is_in_flight_waits_for_the_next() {
    let mut node = reserving();
    node.node.replicate(state(1, 1));
    node.node.replicate(state(1, 2));
    node.ask(&reserve(2, 1));
    node.flush();
    assert_eq!(node.sent(), None);
    node.done(&[granted(1, 5)]);
    let (_, tick) = node.tick();
    assert_eq!((tick.number, tick.items.len(), &tick.states[..]), (10, 1, &[state(1, 2)][..]));
}

#[test]
fn lost_tick_is_sent_again_as_it_was() {
    let mut node = Node::member();
    node.node.replicate(state(1, 1));
    node.ask(&reserve(1, 1));
    node.flush();
    let first = node.sent();
    node.ask(&reserve(2, 1));
    node.event(DatabaseEvent::Lost);
    assert_eq!(node.sent(), first);
    node.event(DatabaseEvent::Down { why: "gone".into() });
    assert_eq!((node.sent(), node.counter("pg_down")), (None, 1));
    node.up();
    assert_eq!(node.sent(), first);
    node.done(&[granted(1, 5)]);
    assert_eq!(node.responses(), [(1, Response::granted(Quota(5), Some(100)))]);
    assert_eq!(node.tick().1.number, 10);
    assert_eq!((node.counter("pg_lost"), node.counter("pg_reconnects"), node.counter("pg_down")), (2, 1, 0));
}

#[test]
fn lease_counts_from_the_copy_that_was_answered() {
    let mut node = reserving();
    node.pass(5 * SECOND);
    node.event(DatabaseEvent::Lost);
    let sent_at = node.now;
    node.pass(3 * SECOND);
    node.done(&[granted(1, 5)]);
    assert_eq!(node.node.lease_until(), Time(sent_at.0 + 54 * SECOND));
}

#[test]
fn unanswered_debit_is_silent_and_its_late_answer_is_reported_while_it_is_pending() {
    for is_pending in [true, false] {
        let mut node = Node::member();
        let debit = debit(1, 4, Reservation::None);
        node.ask(&debit);
        node.flush();
        node.pass(10 * SECOND);
        assert_eq!(node.responses(), [(1, Response::Failed(Failure::Silent))]);
        node.pass(1);
        assert_eq!(node.responses(), []);
        node.done(&[result(1, 0)]);
        let expected = is_pending.then(|| (1, Response::debited(Some(100))));
        assert_eq!(node.responses_with(is_pending.then_some(&debit)), expected.as_slice());
    }
}

#[test]
fn copy_of_a_request_that_was_executed_late_is_not_sent() {
    let mut node = reserving();
    let debit = debit(2, 4, Reservation::None);
    node.ask(&debit);
    node.pass(3 * SECOND);
    node.done(&[granted(1, 5)]);
    assert_eq!(node.tick().1.items.len(), 1);
    node.pass(7 * SECOND);
    let silent = (2, Response::Failed(Failure::Silent));
    assert_eq!(node.responses(), [(1, Response::granted(Quota(5), Some(100))), silent]);
    node.ask(&debit);
    node.done(&[result(1, 0)]);
    node.heartbeat();
    assert_eq!(node.responses_with(Some(&debit)), [(2, Response::debited(Some(100)))]);
}

#[test]
fn units_reserved_late_are_returned_by_the_release_of_the_session() {
    let mut node = silent();
    node.done(&[granted(1, 3)]);
    node.heartbeat();
    assert_eq!(node.responses(), []);
    node.ask(&release(1, 2, 1, 0));
    node.flush();
    let (_, tick) = node.tick();
    assert_eq!((tick.items[0].row.kind, tick.items[0].row.holds), (Kind::Release, 3 * i64::from(PRICE)));
    node.done(&[result(1, 0)]);
    node.ask(&release(1, 3, 1, 0));
    node.flush();
    assert_eq!(node.tick().1.items[0].row.holds, 0, "they are returned once");
}

#[test]
fn nothing_is_returned_for_a_request_that_was_denied_late_or_of_a_settled_session() {
    let mut node = silent();
    node.done(&[result(1, 1)]);
    node.heartbeat();
    node.ask(&release(1, 2, 1, 0));
    node.flush();
    assert_eq!(node.tick().1.items[0].row.holds, 0);
    let mut node = silent();
    node.done(&[granted(1, 3)]);
    let mut settled = state(1, 1);
    settled.head = None;
    node.node.replicate(settled);
    assert!(node.node.late_holds.is_empty());
}

#[test]
fn request_that_was_never_sent_is_unreachable() {
    let mut node = reserving();
    node.pass(5 * SECOND);
    node.ask(&reserve(2, 1));
    node.pass(5 * SECOND);
    assert_eq!(node.responses(), [(1, Response::Failed(Failure::Silent))]);
    node.pass(5 * SECOND);
    assert_eq!(node.responses(), [(2, Response::Failed(Failure::Unreachable))]);
    node.done(&[granted(1, 5)]);
    node.heartbeat();
}

#[test]
fn request_fails_at_once_while_nothing_was_answered_for_long() {
    let mut node = Node::new();
    node.ask(&reserve(1, 1));
    assert_eq!(node.responses(), []);
    node.pass(10 * SECOND);
    assert_eq!(node.responses(), [(1, Response::Failed(Failure::Unreachable))]);
    node.ask(&reserve(2, 1));
    assert_eq!(node.responses(), [(2, Response::Failed(Failure::Unreachable))]);
    let mut node = silent();
    node.ask(&reserve(2, 1));
    assert_eq!(node.responses(), [(2, Response::Failed(Failure::Unreachable))]);
}

#[test]
fn full_queue_refuses_requests() {
    let mut node = reserving();
    let mut asked = 1;
    while !node.node.outgoing.is_full() {
        asked += 1;
        node.ask(&reserve(asked, 1));
    }
    assert_eq!(node.responses(), []);
    node.ask(&reserve(asked + 1, 1));
    assert_eq!(node.responses(), [(asked + 1, Response::Failed(Failure::Overload))]);
}

#[test]
fn refused_tick_waits_and_is_sent_again_as_it_was() {
    let mut node = Node::member();
    node.ask(&reserve(1, 1));
    node.flush();
    let first = node.sent();
    for wait in [100_000, 200_000, 400_000] {
        node.refuse("53100");
        node.pass(wait - 1);
        assert_eq!(node.sent(), None);
        node.pass(1);
        assert_eq!(node.sent(), first);
    }
    assert_eq!((node.counter("pg_refused"), node.responses()), (3, Vec::new()));
    node.done(&[granted(1, 5)]);
    node.ask(&reserve(2, 1));
    node.flush();
    let first = node.sent();
    node.refuse("40001");
    assert_eq!(node.sent(), first, "a conflict is repeated at once");
    node.refuse("40001");
    assert_eq!(node.sent(), None, "but once only");
}

#[test]
fn item_that_the_database_cannot_store_is_found() {
    let mut node = Node::member();
    (1..=4).for_each(|session| node.ask(&debit(session, 1, Reservation::None)));
    node.node.replicate(state(3, 1));
    node.flush();
    let mut ticks = 0;
    while ticks < 20
        && let Some(Sent::Tick(_, tick)) = node.sent()
    {
        ticks += 1;
        let sessions: Vec<u64> = tick.items.iter().map(|item| item.row.session.0).collect();
        match sessions.contains(&3) {
            true => node.refuse("22021"),
            false => node.done(&(1..=tick.items.len() as i32).map(|item| result(item, 0)).collect::<Vec<_>>()),
        }
    }
    let mut responses = node.responses();
    responses.sort_by_key(|(session, _)| *session);
    let debited = Response::debited(Some(100));
    let failed = Response::Failed(Failure::Enabler);
    assert_eq!(responses, [(1, debited.clone()), (2, debited.clone()), (3, failed), (4, debited)]);
    assert!(node.node.outgoing.is_empty(), "its state is dropped as well");
}

#[test]
fn stale_tick_is_numbered_anew_after_a_join() {
    let mut node = reserving();
    node.answer(Answer::Ticked(Ticked::Stale));
    assert_eq!(node.sent(), Some(Sent::Join));
    node.answer(Answer::Joined(Joined::Kept { epoch: 3, last_tick: 1000 }));
    let (_, tick) = node.tick();
    assert_eq!((tick.number, tick.items.len(), tick.items[0].row.session), (1001, 1, key(1)));
    assert_eq!((node.counter("pg_stale"), node.events().len()), (1, 0));
}

#[test]
fn missing_result_fails_its_request() {
    let mut node = reserving();
    node.done(&[]);
    assert_eq!(node.responses(), [(1, Response::Failed(Failure::Unreadable))]);
}

#[test]
fn commands_of_operators_are_numbered_by_their_tick() {
    let mut node = Node::member();
    let command = |number, change| AccountCommand {
        number,
        id: "sip:bob@example.org".into(),
        change,
        reference: "invoice 7".into(),
        by: "carol".into(),
    };
    node.node.change_account(command(70, AccountChange::Add(-5)), node.now);
    node.node.change_account(command(71, AccountChange::Remove), node.now);
    node.node.change_account(command(72, AccountChange::Limit(5)), node.now);
    node.flush();
    let (_, tick) = node.tick();
    let row = &tick.items[0].row;
    assert_eq!((row.kind, row.units, &*row.message, &*row.call), (Kind::Add, -5, "invoice 7", "carol"));
    assert_eq!(
        tick.items.iter().map(|item| item.row.number).collect::<Vec<_>>(),
        [9 * 4096, 9 * 4096 + 1, 9 * 4096 + 2]
    );
    node.done(&[ItemResult { limit: 7, ..result(1, 14) }, result(2, 0), result(3, 11)]);
    let account = Account { balance: 100, ..Account::default() };
    let changed = node.events().into_iter().filter_map(|event| match event {
        EnablerEvent::AccountChanged { number, outcome, account } => Some((number, outcome, account)),
        _ => None,
    });
    let expected = [
        (70, AccountOutcome::Duplicate, Some(Account { limit: 7, ..account })),
        (71, AccountOutcome::Done, None),
        (72, AccountOutcome::Refused(Refusal::BelowLimit), Some(account)),
    ];
    assert_eq!(changed.collect::<Vec<_>>(), expected);
}

#[test]
fn low_balance_is_reported_with_its_session() {
    let mut node = reserving();
    node.done(&[ItemResult { became_low: true, ..granted(1, 5) }]);
    let events = node.events();
    let Some(EnablerEvent::LowBalance { id, account, session }) = events.first() else { panic!("{events:?}") };
    assert_eq!((&**id, account.balance, *session), ("sip:alice@example.org", 100, Some(key(1))));
}

#[test]
fn leaving_node_stores_what_is_queued_first() {
    let mut node = reserving();
    node.node.replicate(state(2, 1));
    node.node.leave(node.now);
    assert!(!node.node.has_left());
    node.done(&[granted(1, 5)]);
    assert_eq!(node.tick().1.states, [state(2, 1)]);
    assert!(!node.node.has_left());
    node.done(&[]);
    assert!(node.node.has_left());
    let mut node = reserving();
    node.event(DatabaseEvent::Down { why: "gone".into() });
    node.node.leave(node.now);
    assert!(node.node.has_left(), "there is no server that it could wait for");
}
