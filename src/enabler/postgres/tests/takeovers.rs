//! Sessions of dead nodes.

use super::fake::*;
use crate::enabler::postgres::database::{AdoptedRow, Answer, Joined, TakeOverResult};
use crate::enabler::postgres::outgoing::TICK_ITEMS_MAX;
use crate::enabler::{Enabler, EnablerEvent, SessionState};

fn row(session: u64) -> AdoptedRow {
    AdoptedRow {
        session: key(session),
        account: "sip:alice@example.org".into(),
        opened_at: 77,
        head: Some(vec![1]),
        parts: vec![(2, vec![2]), (1, vec![1])],
    }
}

/// A node that has found the dead node `b`, taken it over, and asked for its sessions.
fn adopting() -> Node {
    let mut node = Node::member();
    node.node.takeover.abandon(0, node.now);
    node.pass(7 * SECOND);
    assert_eq!(node.sent(), Some(Sent::DeadNodes));
    node.answer(Answer::DeadNodes { names: vec!["b".into()], standbys: 2 });
    node.tick();
    node.done(&[]);
    assert_eq!(node.sent(), Some(Sent::TakeOver("b".into())));
    node.answer(Answer::TakenOver(TakeOverResult::Won));
    assert_eq!(node.sent(), Some(Sent::Adopt("b".into())));
    assert_eq!(node.counter("pg_standbys"), 2);
    node
}

#[test]
fn adopted_sessions_are_passed_on_and_the_next_portion_waits_for_them() {
    let mut node = adopting();
    node.answer(Answer::Adopted(vec![row(1), row(2)]));
    assert_eq!(node.sent(), None);
    let events = node.events();
    let [EnablerEvent::Adopted(first), EnablerEvent::Adopted(_)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((first.session, first.opened_at, &*first.from), (key(1), 77, "b"));
    assert_eq!((&first.head[..], &first.parts[..]), (&[1][..], &[vec![1], vec![2]][..]));
    node.node.replicate(state(1, 2));
    node.flush();
    node.tick();
    node.done(&[]);
    assert_eq!(node.sent(), None, "the state of session 2 is not stored");
    node.node.replicate(state(2, 2));
    node.flush();
    node.tick();
    node.done(&[]);
    assert_eq!(node.sent(), Some(Sent::Adopt("b".into())));
    node.answer(Answer::Adopted(Vec::new()));
    assert_eq!((node.counter("takeovers"), node.counter("sessions_taken_over")), (1, 2));
}

#[test]
fn session_without_a_state_is_removed_which_releases_its_units() {
    let mut node = adopting();
    node.answer(Answer::Adopted(vec![AdoptedRow { head: None, parts: Vec::new(), ..row(1) }]));
    assert_eq!(node.tick().1.states, [SessionState { head: None, ..state(1, 1) }]);
    node.done(&[]);
    assert_eq!(node.events().len(), 0);
    assert_eq!(node.sent(), Some(Sent::Adopt("b".into())));
}

#[test]
fn steps_and_ticks_take_turns() {
    let mut node = adopting();
    node.ask(&reserve(1, 1));
    node.answer(Answer::Adopted(Vec::new()));
    assert_eq!(node.tick().1.items.len(), 1);
    node.done(&[granted(1, 5)]);
    node.ask(&reserve(2, 1));
    node.pass(7 * SECOND);
    assert_eq!(node.sent(), Some(Sent::DeadNodes));
    node.refuse("55P03");
    assert_eq!(node.tick().1.items.len(), 1);
    node.done(&[granted(1, 5)]);
    assert_eq!(node.sent(), None, "the scan begins anew later");
}

#[test]
fn states_of_a_started_node_are_stored_before_it_looks_for_dead_nodes() {
    let mut node = Node::new();
    let sessions = TICK_ITEMS_MAX as u64 + 1;
    (1..=sessions).for_each(|session| node.node.replicate(state(session, 1)));
    node.up();
    assert_eq!(node.sent(), Some(Sent::Join));
    node.answer(Answer::Joined(Joined::Kept { epoch: 3, last_tick: 7 }));
    assert_eq!(node.tick().1.states.len(), TICK_ITEMS_MAX);
    node.pass(7 * SECOND);
    node.done(&[]);
    assert_eq!(node.tick().1.states.len(), 1);
    node.done(&[]);
    assert_eq!(node.sent(), Some(Sent::DeadNodes));
}
