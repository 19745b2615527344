//! Epoch and lease.

use super::fake::*;
use crate::charge::ch2::{Failure, Reservation, Response};
use crate::charge::time::Time;
use crate::enabler::postgres::database::{Answer, Joined, Ticked};
use crate::enabler::postgres::membership::JOIN_RETRY_MICROS;
use crate::enabler::postgres::tick::Kind;
use crate::enabler::{AccountChange, AccountCommand, Enabler, EnablerEvent};

/// A node that has learnt that it is fenced, with a debit and a command in flight, and another debit in the queue.
fn fenced() -> Node {
    let mut node = Node::member();
    node.node.replicate(state(1, 1));
    node.ask(&debit(1, 1, Reservation::None));
    let (id, by) = ("sip:bob@example.org".into(), "carol".into());
    let command = AccountCommand { number: 1, id, change: AccountChange::Set(5), reference: "".into(), by };
    node.node.change_account(command, node.now);
    node.flush();
    assert_eq!(node.tick().1.items.len(), 2);
    node.node.replicate(state(2, 1));
    node.ask(&debit(2, 1, Reservation::None));
    node.answer(Answer::Ticked(Ticked::Fenced));
    node
}

#[test]
fn fenced_node_has_no_lease_and_joins_when_the_engine_has_stopped_its_sessions() {
    let mut node = fenced();
    assert_eq!((node.node.lease_until(), node.counter("pg_fenced"), node.sent()), (Time(0), 1, None));
    node.pass(1);
    assert_eq!(node.sent(), None);
    assert!(matches!(node.events()[..], [EnablerEvent::TakenOver]));
    node.flush();
    assert_eq!(node.sent(), None, "the engine has not committed it");
    node.pass(1);
    assert_eq!(node.sent(), Some(Sent::Join));
    let sent_at = node.now;
    node.answer(Answer::Joined(Joined::Anew { epoch: 5, last_tick: 0 }));
    assert_eq!(node.node.lease_until(), Time(sent_at.0 + 54 * SECOND));
    assert_eq!(node.events().len(), 0, "it is reported once");
}

#[test]
fn new_epoch_begins_with_the_commands_of_operators_only() {
    let mut node = fenced();
    node.events();
    node.pass(1);
    assert_eq!(node.sent(), Some(Sent::Join));
    node.answer(Answer::Joined(Joined::Anew { epoch: 5, last_tick: 0 }));
    let (epoch, tick) = node.tick();
    let kinds: Vec<Kind> = tick.items.iter().map(|item| item.row.kind).collect();
    assert_eq!((epoch, tick.number, kinds, tick.states.len()), (5, 1, vec![Kind::Set], 0));
}

#[test]
fn new_epoch_has_nothing_that_was_queued_before_the_engine_knew_of_the_old_ones_end() {
    let mut node = fenced();
    node.node.replicate(state(2, 2));
    node.ask(&reserve(2, 2));
    node.flush();
    node.events();
    node.node.replicate(state(3, 1));
    node.pass(1);
    assert_eq!(node.sent(), Some(Sent::Join));
    node.answer(Answer::Joined(Joined::Anew { epoch: 5, last_tick: 0 }));
    let (_, tick) = node.tick();
    let states: Vec<u64> = tick.states.iter().map(|state| state.session.0).collect();
    let kinds: Vec<Kind> = tick.items.iter().map(|item| item.row.kind).collect();
    assert_eq!((states, kinds), (vec![3], vec![Kind::Set]));
}

#[test]
fn node_that_joins_anew_has_lost_its_sessions() {
    let mut node = Node::new();
    node.up();
    node.answer(Answer::Joined(Joined::Anew { epoch: 9, last_tick: 0 }));
    assert!(matches!(node.events()[..], [EnablerEvent::TakenOver]));
    assert_eq!(node.node.lease_until(), Time(0));
    let joined_at = node.now;
    node.pass(1);
    assert_eq!(node.node.lease_until(), Time(joined_at.0 + 54 * SECOND));
}

#[test]
fn refused_join_is_repeated_and_nothing_is_sent_before() {
    let mut node = Node::new();
    node.ask(&reserve(1, 1));
    node.up();
    assert_eq!(node.sent(), Some(Sent::Join));
    node.answer(Answer::Joined(Joined::InUse));
    node.ask(&reserve(2, 1));
    assert_eq!(node.responses(), [(2, Response::Failed(Failure::Unreachable))], "it does not wait");
    node.pass(JOIN_RETRY_MICROS - 1);
    assert_eq!((node.sent(), node.node.lease_until()), (None, Time(0)));
    node.pass(1);
    assert_eq!(node.sent(), Some(Sent::Join));
    node.refuse("58000");
    node.pass(JOIN_RETRY_MICROS);
    assert_eq!(node.sent(), Some(Sent::Join));
}

#[test]
fn idle_node_renews_its_lease() {
    let mut node = Node::member();
    node.pass(5 * SECOND - 1);
    assert_eq!(node.sent(), None);
    assert_eq!(node.node.deadline(), Some(Time(node.now.0 + 1)));
    node.pass(1);
    let (_, tick) = node.tick();
    assert!(tick.is_empty());
    let sent_at = node.now;
    node.pass(SECOND);
    node.done(&[]);
    assert_eq!(node.node.lease_until(), Time(sent_at.0 + 54 * SECOND));
    assert_eq!(node.counter("lease_left"), 53);
}
