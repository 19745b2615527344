//! When a peer is connected again.

use super::*;
use crate::enabler::diameter::client::fake_peer::{HOST, config};

const START: Time = Time(9_000_000);

fn link() -> (Reconnect, LocalNode) {
    let config = config(&[HOST]);
    let link = Reconnect::new(&config.peers[0], START);
    (link, LocalNode::new(&config, 1, START))
}

/// Microseconds to the next try.
fn wait(link: &Reconnect, now: Time) -> u64 {
    link.deadline(true).expect("a next try").micros_since(now)
}

#[track_caller]
fn assert_about(micros: u64, seconds: u64) {
    let about = seconds * 1_000_000;
    assert!((about * 3 / 4..=about * 5 / 4).contains(&micros), "{micros} microseconds, not about {seconds} s");
}

#[test]
fn the_first_try_is_at_once_and_each_failure_doubles_the_wait() {
    let (mut link, local) = link();
    assert_eq!(link.deadline(true), Some(START));
    let mut waits = Vec::new();
    for seconds in [1, 2, 4, 8, 16, 30, 30] {
        link.close("refused".into(), Absence::default(), None, &local, START);
        assert_about(wait(&link, START), seconds);
        waits.push(wait(&link, START));
    }
    assert_ne!(waits[5], waits[6], "not all at the same moment");
    assert_eq!(link.last_error.as_deref(), Some("refused"));
}

#[test]
fn only_a_connection_that_held_begins_the_count_anew() {
    let (mut link, local) = link();
    (0..4).for_each(|_| link.close("refused".into(), Absence::default(), None, &local, START));
    let open_since = Some(START);
    let soon = START.after_seconds(15);
    link.close("gone at once".into(), Absence::default(), open_since, &local, soon);
    assert_about(wait(&link, soon), 16);
    let later = START.after_seconds(31);
    link.close("gone".into(), Absence::default(), open_since, &local, later);
    assert_about(wait(&link, later), 1);
}

#[test]
fn who_wants_to_be_left_alone_is() {
    let (mut link, local) = link();
    link.close("busy".into(), Absence { seconds: 30, until_needed: true }, Some(START), &local, START);
    assert_eq!(wait(&link, START), 30_000_000);
    link.retire();
    assert_eq!(link.deadline(true), None);
}

#[test]
fn the_other_addresses_of_a_name_are_tried_at_once() {
    let (mut link, local) = link();
    link.others.push_back("127.0.0.2:3868".parse().expect("an address"));
    link.close("refused".into(), Absence::default(), None, &local, START);
    assert_eq!((wait(&link, START), link.others.len()), (0, 1));
    link.others.clear();
    link.close("refused".into(), Absence::default(), None, &local, START);
    assert_about(wait(&link, START), 1);
}

#[test]
fn a_name_is_looked_up_and_every_address_of_it_tried() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = server.local_addr().expect("bound").port();
    let (mut link, local) = link();
    // It may be [::1] first, where nobody listens.
    link.config.address = format!("localhost:{port}").parse().expect("an address");
    let mut now = START;
    for _ in 0..10_000 {
        match link.advance(60, true, now) {
            Advance::Up(address) => return assert!(address.is_loopback()),
            Advance::Failed(why) => link.close(why, Absence::default(), None, &local, now),
            Advance::Same => std::thread::sleep(std::time::Duration::from_millis(1)),
        }
        now = now.max(link.deadline(true).filter(|_| link.transport.is_none()).unwrap_or(now));
    }
    panic!("never up: {:?}", link.last_error);
}

#[test]
fn a_peer_that_does_not_want_us_is_left_alone_while_another_serves() {
    let (mut link, local) = link();
    link.close("busy".into(), Absence { seconds: 30, until_needed: true }, Some(START), &local, START);
    let later = START.after_seconds(3600);
    assert_eq!((link.advance(60, false, later), link.deadline(false)), (Advance::Same, None));
    assert!(link.deadline(true).is_some_and(|at| at <= later));
    // A try that failed changes nothing.
    link.close("refused".into(), Absence::default(), None, &local, later);
    assert_eq!(link.deadline(false), None);
}
