//! When a peer is connected again.

use super::*;
use crate::enabler::diameter::client::fake_peer::{HOST, config};

const START: Time = Time(9_000_000);

fn reconnect() -> (Reconnect, LocalNode) {
    let config = config(&[HOST]);
    let reconnect = Reconnect::new(&config.peers[0], START);
    (reconnect, LocalNode::new(&config, 1, START))
}

/// Microseconds until the next attempt.
fn wait(reconnect: &Reconnect, now: Time) -> u64 {
    reconnect.deadline(true).expect("a next attempt").micros_since(now)
}

#[track_caller]
fn assert_about(micros: u64, seconds: u64) {
    let about = seconds * 1_000_000;
    assert!((about * 3 / 4..=about * 5 / 4).contains(&micros), "{micros} microseconds, not about {seconds} s");
}

#[test]
fn first_attempt_is_immediate_and_each_failure_doubles_the_delay() {
    let (mut reconnect, node) = reconnect();
    assert_eq!(reconnect.deadline(true), Some(START));
    let mut waits = Vec::new();
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        reconnect.close("refused".into(), ReconnectDelay::default(), None, &node, START);
        assert_about(wait(&reconnect, START), seconds);
        waits.push(wait(&reconnect, START));
    }
    assert_ne!(waits[5], waits[6], "the delay has jitter");
    assert_eq!(reconnect.last_error.as_deref(), Some("refused"));
}

#[test]
fn delay_is_reset_only_by_a_lasting_connection() {
    let (mut reconnect, node) = reconnect();
    (0..4).for_each(|_| reconnect.close("refused".into(), ReconnectDelay::default(), None, &node, START));
    let open_since = Some(START);
    let soon = START.after_seconds(15);
    reconnect.close("gone at once".into(), ReconnectDelay::default(), open_since, &node, soon);
    assert_about(wait(&reconnect, soon), 16);
    let later = START.after_seconds(31);
    reconnect.close("gone".into(), ReconnectDelay::default(), open_since, &node, later);
    assert_about(wait(&reconnect, later), 1);
}

#[test]
fn delay_of_the_peer_is_respected() {
    let (mut reconnect, node) = reconnect();
    reconnect.close("busy".into(), ReconnectDelay { seconds: 30, until_needed: true }, Some(START), &node, START);
    assert_eq!(wait(&reconnect, START), 30_000_000);
    reconnect.disable();
    assert_eq!(reconnect.deadline(true), None);
}

#[test]
fn other_addresses_of_a_name_are_tried_immediately() {
    let (mut reconnect, node) = reconnect();
    reconnect.dialer.push_untried("127.0.0.2:3868".parse().expect("an address"));
    reconnect.close("refused".into(), ReconnectDelay::default(), None, &node, START);
    assert_eq!((wait(&reconnect, START), reconnect.dialer.has_untried()), (0, true));
    reconnect.dialer.forget();
    reconnect.close("refused".into(), ReconnectDelay::default(), None, &node, START);
    assert_about(wait(&reconnect, START), 1);
}

#[test]
fn name_is_resolved_and_all_addresses_are_tried() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("bound").port();
    let (mut reconnect, node) = reconnect();
    // [::1] may be first, where no server listens.
    reconnect.dialer.set_place(format!("localhost:{port}").parse().expect("an address"));
    let mut now = START;
    for _ in 0..10_000 {
        match reconnect.advance(60, true, now) {
            Advance::Up(address) => return assert!(address.is_loopback()),
            Advance::Failed(why) => reconnect.close(why, ReconnectDelay::default(), None, &node, now),
            Advance::Same => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
        now = now.max(reconnect.deadline(true).filter(|_| reconnect.transport.is_none()).unwrap_or(now));
    }
    panic!("never up: {:?}", reconnect.last_error);
}

#[test]
fn unwanted_connection_is_not_retried_while_another_peer_serves() {
    let (mut reconnect, node) = reconnect();
    reconnect.close("busy".into(), ReconnectDelay { seconds: 30, until_needed: true }, Some(START), &node, START);
    let later = START.after_seconds(3600);
    assert_eq!((reconnect.advance(60, false, later), reconnect.deadline(false)), (Advance::Same, None));
    assert!(reconnect.deadline(true).is_some_and(|at| at <= later));
    // A failed attempt does not lift the restriction.
    reconnect.close("refused".into(), ReconnectDelay::default(), None, &node, later);
    assert_eq!(reconnect.deadline(false), None);
}
