//! Requests over several peers: lost and silent peers, late and wrong answers.

use super::*;
use crate::enabler::diameter::client::fake_peer::*;
use crate::wire::diameter::Header;
use crate::wire::diameter::codes::DisconnectCause;
use crate::wire::diameter::dictionary::{self, Command};

const START: Time = Time(5_000_000_000);

fn seconds(seconds: u32) -> Time {
    START.after_seconds(seconds)
}

/// A peer table whose peers are driven by the test.
struct World {
    table: PeerTable,
    hosts: Vec<&'static str>,
    now: Time,
}

impl World {
    /// Without connections.
    fn of(config: &Config, hosts: &[&'static str]) -> World {
        World { table: PeerTable::new(config, 1, START), hosts: hosts.to_vec(), now: START }
    }

    /// With all peers connected.
    fn open(hosts: &[&'static str]) -> World {
        World::open_with(&config(hosts), hosts)
    }

    fn open_with(config: &Config, hosts: &[&'static str]) -> World {
        let mut world = World::of(config, hosts);
        (0..hosts.len()).for_each(|slot| world.connect(slot));
        while world.table.next_event().is_some() {}
        world
    }

    fn connect(&mut self, slot: usize) {
        self.table.connected(slot, OWN_ADDRESS, self.now);
        let cer = self.sent(slot).remove(0);
        self.table.received(slot, &cea(&cer, self.hosts[slot], |_| {}), self.now);
    }

    /// Takes the messages queued for this peer.
    fn sent(&mut self, slot: usize) -> Vec<Vec<u8>> {
        let sent = messages(self.table.output(slot));
        self.table.wrote(slot, usize::MAX);
        sent
    }

    fn requests(&mut self, slot: usize) -> Vec<Vec<u8>> {
        let mut sent = self.sent(slot);
        sent.retain(|bytes| header(bytes).command == Command::CREDIT_CONTROL);
        sent
    }

    /// Answers the watchdog requests queued for a peer, and leaves the output unsent.
    fn answer_watchdog(&mut self, slot: usize) {
        for asked in messages(self.table.output(slot)) {
            if header(&asked).command == Command::DEVICE_WATCHDOG {
                self.receive(slot, &peer_answer(&asked, self.hosts[slot]));
            }
        }
    }

    fn send(&mut self, name: u32) {
        self.try_send(Request { message: &ccr(name), ..request(name) }).expect("taken");
    }

    fn try_send(&mut self, request: Request<'_>) -> Result<(), Refused> {
        self.table.send(request, self.now)
    }

    fn receive(&mut self, slot: usize, bytes: &[u8]) {
        self.table.received(slot, bytes, self.now);
    }

    fn close(&mut self, slot: usize) {
        self.table.closed(slot, "gone".into(), self.now);
    }

    /// Advances to the next deadline.
    fn expire(&mut self) {
        self.now = self.table.deadline().expect("a deadline").max(self.now);
        self.table.timer(self.now);
        (0..self.hosts.len()).for_each(|slot| self.table.peer_timer(slot, self.now));
    }

    /// The outcomes of requests.
    fn outcomes(&mut self) -> Vec<Event> {
        let all = std::iter::from_fn(|| self.table.next_event());
        all.filter(|event| !matches!(event, Event::Up { .. } | Event::Down { .. })).collect()
    }
}

/// A request without a message, with a deadline of 10 s, for any peer.
fn request(name: u32) -> Request<'static> {
    Request {
        name: name.into(),
        message: &[],
        deadline: seconds(10),
        may_move: true,
        at_most_once: false,
        possible_duplicate: false,
        preferred_host: None,
    }
}

fn ids(bytes: &[u8]) -> (HopByHop, EndToEnd, bool) {
    let Header { hop_by_hop, end_to_end, .. } = header(bytes);
    (hop_by_hop, end_to_end, header(bytes).is_retransmitted())
}

#[test]
fn answers_are_matched_in_any_order() {
    let mut world = World::open(&[HOST]);
    (0..5).for_each(|name| world.send(name));
    let requests = world.requests(0);
    world.now = START.after_seconds(2);
    for asked in requests.iter().rev() {
        world.receive(0, &cca(asked, HOST));
    }
    for (event, expected) in world.outcomes().into_iter().zip((0..5).rev()) {
        let Event::Answered { name, from, message, micros, .. } = event else { panic!("{event:?}") };
        assert_eq!((name, &*from, micros), (u128::from(expected), HOST, 2_000_000));
        assert_eq!(number_of(&message), expected);
    }
    assert_eq!(world.table.counters().answered, 5);
    assert_counters(&world.table, 1);
}

#[test]
fn identifiers_are_set_and_never_zero() {
    let mut world = World::open(&[HOST]);
    (0..3).for_each(|name| world.send(name));
    let sent: Vec<_> = world.requests(0).iter().map(|bytes| ids(bytes)).collect();
    let high = (START.0 / 1_000_000) as u32 & 0xfff;
    for window in sent.windows(2) {
        assert!(window[0].0 != window[1].0 && window[0].1 != window[1].1);
    }
    for (hop_by_hop, end_to_end, retransmitted) in sent {
        assert!(hop_by_hop.0 != 0 && !retransmitted);
        assert!(end_to_end.0 >> 20 == high || end_to_end.0 >> 20 == high + 1);
    }
}

#[test]
fn resend_keeps_its_end_to_end_id_and_has_the_t_flag() {
    let mut world = World::open(&[HOST]);
    let mut message = ccr(1);
    set_identifiers(&mut message, Flags::default(), HopByHop(0), EndToEnd(0x1234_5678));
    world.try_send(Request { message: &message, possible_duplicate: true, ..request(1) }).expect("taken");
    let sent = world.requests(0);
    assert_eq!((ids(&sent[0]).1, ids(&sent[0]).2), (EndToEnd(0x1234_5678), true));
}

#[test]
fn answer_must_match_both_identifiers() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    let asked = world.requests(0).remove(0);
    for at in 12..20 {
        let mut wrong = cca(&asked, HOST);
        wrong[at] ^= 0x10;
        world.receive(0, &wrong);
    }
    let mut other_command = cca(&asked, HOST);
    other_command[7] ^= 2;
    world.receive(0, &other_command);
    world.receive(1, &cca(&asked, OTHER));
    assert_eq!((world.outcomes(), world.table.counters().unmatched), (vec![], 10));
    world.receive(0, &cca(&asked, HOST));
    world.receive(0, &cca(&asked, HOST));
    assert_eq!(world.outcomes().len(), 1, "the second answer is a duplicate");
    assert_eq!(world.table.counters().unmatched, 11);
    assert_counters(&world.table, 2);
}

#[test]
fn requests_of_a_lost_peer_move_in_order() {
    let mut world = World::open(&[HOST, OTHER]);
    (0..3).for_each(|name| world.send(name));
    let first = world.requests(0);
    // No octet of the last one has been sent.
    world.send(3);
    let unsent = messages(world.table.output(0));
    world.close(0);
    let second = world.requests(1);
    assert_eq!(second.iter().map(|bytes| number_of(bytes)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    for (before, after) in first.iter().chain(&unsent).zip(&second) {
        let (before, after) = (ids(before), ids(after));
        assert_eq!(before.1, after.1, "End-to-End stays");
        assert_ne!(before.0, after.0, "Hop-by-Hop changes");
    }
    let marked: Vec<_> = second.iter().map(|bytes| ids(bytes).2).collect();
    assert_eq!(marked, [true, true, true, false], "the last one was not sent");
    second.iter().for_each(|asked| world.receive(1, &cca(asked, OTHER)));
    let from: Vec<_> = world.outcomes();
    assert!(from.iter().all(|event| matches!(event, Event::Answered { from, .. } if &**from == OTHER)));
    let counters = world.table.counters();
    assert_eq!((counters.sent, counters.answered, counters.resent), (4, 4, 4));
    assert_counters(&world.table, 2);
}

#[test]
fn partly_written_message_does_not_count_as_sent() {
    let mut world = World::open(&[HOST]);
    world.send(1);
    let length = world.table.output(0).len();
    world.table.wrote(0, length - 1);
    world.close(0);
    assert_eq!(world.outcomes(), [Event::Lost { name: 1, written_to: None }]);
}

#[test]
fn request_that_may_not_move_is_lost_with_its_peer() {
    let mut world = World::open(&[HOST, OTHER]);
    for (name, preferred_host) in [(1, None), (2, Some(HOST)), (3, Some(OTHER))] {
        let request = Request { message: &ccr(name), may_move: false, preferred_host, ..request(name) };
        world.try_send(request).expect("taken");
    }
    assert_eq!((world.requests(0).len(), world.requests(1).len()), (2, 1));
    world.close(0);
    let lost = |name| Event::Lost { name, written_to: Some(HOST.into()) };
    assert_eq!(world.outcomes(), [lost(1), lost(2)]);
    let bound = Request { message: &ccr(4), may_move: false, preferred_host: Some(HOST), ..request(4) };
    assert_eq!(world.try_send(bound), Err(Refused::NoPeer));
    assert_eq!(world.table.counters().failed, 2);
    assert_counters(&world.table, 2);
}

#[test]
fn requests_are_lost_without_another_peer() {
    let mut world = World::open(&[HOST]);
    (0..3).for_each(|name| world.send(name));
    world.requests(0);
    world.close(0);
    assert_eq!(world.outcomes(), [0, 1, 2].map(|name| Event::Lost { name, written_to: Some(HOST.into()) }));
    assert_eq!(world.try_send(Request { message: &ccr(9), ..request(9) }), Err(Refused::NoPeer));
    assert_eq!(world.table.counters().refused_no_peer, 1);
    assert_counters(&world.table, 1);
}

#[test]
fn preferred_peer_is_chosen_first_then_by_position() {
    let mut world = World::open(&[HOST, OTHER]);
    let target = |world: &mut World, preferred_host| {
        world.try_send(Request { message: &ccr(1), preferred_host, ..request(1) }).expect("taken");
        (world.requests(0).len(), world.requests(1).len())
    };
    assert_eq!(target(&mut world, None), (1, 0));
    assert_eq!(target(&mut world, Some(OTHER)), (0, 1));
    assert_eq!(target(&mut world, Some("OCS2.EXAMPLE.ORG")), (0, 1));
    assert_eq!(target(&mut world, Some("unknown.example.org")), (1, 0));
    world.close(0);
    assert_eq!(target(&mut world, Some(HOST)), (0, 3), "including the two that moved");
}

#[test]
fn failback_waits_for_the_end_of_probation() {
    let mut world = World::open(&[HOST, OTHER]);
    world.close(0);
    world.connect(0);
    world.send(1);
    assert_eq!((world.requests(0).len(), world.requests(1).len()), (0, 1));
    world.close(1);
    world.send(2);
    assert_eq!(world.requests(0).len(), 2, "a peer on probation serves if there is no other");
}

#[test]
fn reopened_peer_serves_after_three_watchdog_answers() {
    let mut world = World::open(&[HOST, OTHER]);
    world.close(0);
    world.connect(0);
    while world.table.peer(0).is_some_and(|peer| peer.state_name() == "REOPEN") {
        for slot in 0..2 {
            for asked in world.sent(slot) {
                world.receive(slot, &respond(&asked, world.hosts[slot]));
            }
        }
        if world.table.peer(0).is_some_and(|peer| peer.state_name() == "REOPEN") {
            world.expire();
        }
    }
    world.send(1);
    assert_eq!((world.requests(0).len(), world.requests(1).len()), (1, 0));
}

/// The first peer becomes silent with a pending request.
fn suspect(world: &mut World, deadline: Time) -> Vec<u8> {
    world.try_send(Request { message: &ccr(1), deadline, ..request(1) }).expect("taken");
    let asked = world.requests(0).remove(0);
    while world.table.peer(0).is_some_and(|peer| peer.state_name() == "OKAY") {
        world.expire();
        if world.hosts.len() > 1 {
            world.answer_watchdog(1);
        }
    }
    asked
}

#[test]
fn requests_of_a_silent_peer_move_and_the_first_answer_counts() {
    for first_answers_first in [true, false] {
        let mut world = World::open(&[HOST, OTHER]);
        let asked = suspect(&mut world, seconds(200));
        let moved = world.requests(1).remove(0);
        assert_eq!((ids(&asked).1, true), (ids(&moved).1, ids(&moved).2));
        let (one, two) = ((0, cca(&asked, HOST)), (1, cca(&moved, OTHER)));
        let order = if first_answers_first { [one, two] } else { [two, one] };
        for (slot, answer) in &order {
            world.receive(*slot, answer);
        }
        let outcomes = world.outcomes();
        assert!(matches!(&outcomes[..], [Event::Answered { name: 1, .. }, Event::Late { name: 1, .. }]));
        assert_eq!(world.table.counters().late, 1);
        assert_counters(&world.table, 2);
    }
}

#[test]
fn undelivered_request_moves_without_the_t_flag() {
    for code in [3002, 3004, 3005] {
        let mut world = World::open(&[HOST, OTHER]);
        world.send(1);
        let asked = world.requests(0).remove(0);
        world.receive(0, &refusal(&asked, HOST, code));
        assert_eq!(world.outcomes(), [], "{code}");
        let moved = world.requests(1).remove(0);
        assert_eq!((ids(&moved).1, ids(&moved).2), (ids(&asked).1, false), "the first peer has not executed it");
        world.receive(1, &cca(&moved, OTHER));
        assert!(matches!(&world.outcomes()[..], [Event::Answered { from, .. }] if &**from == OTHER), "{code}");
        assert_eq!(world.table.counters().resent, 1);
        assert_counters(&world.table, 2);
    }
}

#[test]
fn undelivered_request_is_answered_if_no_other_peer_may_have_it() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    let bound = Request { message: &ccr(2), may_move: false, ..request(2) };
    world.try_send(bound).expect("taken");
    world.send(3);
    let asked = world.requests(0);
    world.receive(0, &refusal(&asked[1], HOST, 3004));
    // Other protocol errors are answers to the request.
    world.receive(0, &refusal(&asked[2], HOST, 3009));
    world.receive(0, &refusal(&asked[0], HOST, 3002));
    let moved = world.requests(1).remove(0);
    let last = refusal(&moved, OTHER, 3004);
    world.receive(1, &last);
    let answers = world.outcomes().into_iter().map(|event| match event {
        Event::Answered { name, from, message, .. } => (name, from, message),
        other => panic!("{other:?}"),
    });
    let answers: Vec<_> = answers.collect();
    assert_eq!(answers.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), [2, 3, 1]);
    assert_eq!((&*answers[2].1, &answers[2].2), (OTHER, &last));
    assert_eq!(world.requests(0).len() + world.requests(1).len(), 0, "each peer gets it once");
    assert_counters(&world.table, 2);
}

#[test]
fn late_refusal_of_the_first_peer_does_not_end_a_moved_request() {
    let mut world = World::open(&[HOST, OTHER]);
    let asked = suspect(&mut world, seconds(200));
    let moved = world.requests(1).remove(0);
    world.receive(0, &refusal(&asked, HOST, 3004));
    assert_eq!((world.outcomes(), world.table.in_flight(1)), (vec![], 1));
    world.receive(1, &refusal(&moved, OTHER, 3004));
    assert!(matches!(world.outcomes()[..], [Event::Answered { name: 1, .. }]), "both have refused it");
    assert_counters(&world.table, 2);
}

#[test]
fn refusal_does_not_rule_out_the_peer_that_is_silent() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    world.requests(0);
    world.close(0);
    let moved = world.requests(1).remove(0);
    world.receive(1, &refusal(&moved, OTHER, 3002));
    let outcomes = world.outcomes();
    let [Event::Answered { name: 1, elsewhere: Some(elsewhere), .. }] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(&**elsewhere, HOST);
    assert_counters(&world.table, 2);
}

/// A request sent at 0 s has timed out at the first peer; another one, sent at 5 s, has moved. The time is 10 s.
fn demoted() -> World {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    world.now = seconds(5);
    world.try_send(Request { message: &ccr(2), deadline: seconds(15), ..request(2) }).expect("taken");
    assert_eq!(world.requests(0).len(), 2);
    world.now = seconds(10);
    world.table.timer(world.now);
    assert_eq!(world.outcomes(), [Event::TimedOut { name: 1, written_to: Some(HOST.into()) }]);
    let moved = world.requests(1).remove(0);
    assert!(number_of(&moved) == 2 && ids(&moved).2, "pending requests move with the T flag");
    world
}

/// Sends a request with a deadline of 10 s, and returns the number of messages for each peer.
fn send_now(world: &mut World, name: u32) -> (usize, usize) {
    let deadline = world.now.after_seconds(10);
    world.try_send(Request { message: &ccr(name), deadline, ..request(name) }).expect("taken");
    world.table.timer(world.now);
    (world.table.in_flight(0), world.table.in_flight(1))
}

#[test]
fn peer_is_demoted_when_requests_time_out_although_its_watchdog_answers() {
    let mut world = demoted();
    assert!(world.table.is_demoted(0));
    assert_eq!(send_now(&mut world, 3), (0, 2));
    world.receive(0, &dwr(HOST, 7));
    while world.now < seconds(19) {
        world.now = world.now.after_seconds(1);
        world.answer_watchdog(0);
    }
    assert_eq!(send_now(&mut world, 4), (0, 2), "watchdog messages do not restore the peer");
    assert_counters(&world.table, 2);
}

#[test]
fn demoted_peer_is_probed_every_ten_seconds_and_the_probe_moves_after_one() {
    let mut world = demoted();
    world.requests(1);
    world.now = seconds(20);
    world.table.timer(world.now);
    assert_eq!(send_now(&mut world, 3), (1, 0));
    assert_eq!(send_now(&mut world, 4), (1, 1), "one probe at a time");
    let probe = world.requests(0).remove(0);
    assert!(!ids(&probe).2);
    world.now = seconds(21);
    assert!(world.table.deadline() <= Some(world.now), "the probe is due");
    world.table.timer(world.now);
    let moved = world.requests(1).pop().expect("it has moved");
    assert_eq!((number_of(&moved), ids(&moved).1, ids(&moved).2), (3, ids(&probe).1, true));
    world.receive(1, &cca(&moved, OTHER));
    assert!(matches!(&world.outcomes()[..], [.., Event::Answered { name: 3, .. }]));
    // The slow peer answers before the deadline of the request.
    world.now = seconds(25);
    world.receive(0, &cca(&probe, HOST));
    assert!(!world.table.is_demoted(0));
    assert_eq!(send_now(&mut world, 5).0, 1, "the peer serves again");
    assert_counters(&world.table, 2);
}

#[test]
fn answer_after_the_deadline_does_not_restore_a_peer() {
    let mut world = demoted();
    world.now = seconds(20);
    world.table.timer(world.now);
    send_now(&mut world, 3);
    let probe = world.requests(0).remove(0);
    world.now = seconds(21);
    world.table.timer(world.now);
    let moved = world.requests(1).pop().expect("it has moved");
    world.receive(1, &cca(&moved, OTHER));
    world.now = seconds(30);
    world.receive(0, &cca(&probe, HOST));
    assert!(world.table.is_demoted(0));
}

#[test]
fn bound_and_at_most_once_requests_do_not_probe() {
    let bound = Request { preferred_host: Some(OTHER), ..request(3) };
    for tried in [Request { at_most_once: true, ..request(3) }, bound, Request { may_move: false, ..bound }] {
        let mut world = demoted();
        world.now = seconds(30);
        world.try_send(Request { message: &ccr(3), deadline: seconds(40), ..tried }).expect("taken");
        assert_eq!(world.requests(0).len(), 0);
    }
}

#[test]
fn demoted_peer_is_probed_at_once_after_reconnect_and_serves_if_no_other_does() {
    let mut world = demoted();
    world.close(1);
    assert_eq!(send_now(&mut world, 3).0, 2, "including the probe that moved back");
    let asked = world.requests(0);
    world.receive(0, &cca(asked.last().expect("sent"), HOST));
    assert!(!world.table.is_demoted(0));
}

#[test]
fn demoted_peer_is_probed_at_once_when_all_peers_are_silent() {
    let mut world = demoted();
    world.now = seconds(11);
    assert_eq!(send_now(&mut world, 3), (0, 2));
    world.now = seconds(15);
    world.table.timer(world.now);
    assert!(!world.table.is_demoted(1), "there is no other peer");
    world.now = seconds(16);
    assert_eq!(send_now(&mut world, 4).0, 1);
}

#[test]
fn peer_is_not_demoted_if_it_answers_others_or_is_the_only_one() {
    for hosts in [&[HOST, OTHER][..], &[HOST]] {
        let mut world = World::open(hosts);
        world.send(1);
        world.requests(0);
        if hosts.len() > 1 {
            world.now = seconds(1);
            send_now(&mut world, 2);
            let asked = world.requests(0).remove(0);
            world.receive(0, &cca(&asked, HOST));
            world.outcomes();
        }
        world.now = seconds(10);
        world.table.timer(world.now);
        assert_eq!(world.outcomes(), [Event::TimedOut { name: 1, written_to: Some(HOST.into()) }]);
        send_now(&mut world, 3);
        assert_eq!(world.requests(0).len(), 1);
    }
}

#[test]
fn redirection_to_an_open_peer_is_followed() {
    const THIRD: &str = "ocs3.example.org";
    let redirect = |asked: &[u8], to: &str| {
        let mut bytes = answer(asked, |out| {
            out.u32(dictionary::RESULT_CODE, 3006);
            out.text(dictionary::ORIGIN_HOST, HOST);
            out.text(dictionary::ORIGIN_REALM, REALM);
            out.text(dictionary::REDIRECT_HOST, "aaa://unknown.example.org:3868");
            out.text(dictionary::REDIRECT_HOST, to);
        });
        bytes[4] |= Flags::ERROR.0;
        bytes
    };
    for (to, target) in [
        ("aaa://OCS3.example.org:3868;transport=tcp", 2),
        ("aaas://ocs3.example.org", 2),
        // Not a configured peer: any other peer may deliver it.
        ("aaa://else.example.org", 1),
        ("ocs3.example.org", 1),
    ] {
        let mut world = World::open(&[HOST, OTHER, THIRD]);
        world.send(1);
        let asked = world.requests(0).remove(0);
        world.receive(0, &redirect(&asked, to));
        assert_eq!(world.outcomes(), []);
        let moved = world.requests(target).remove(0);
        assert_eq!((ids(&moved).1, ids(&moved).2), (ids(&asked).1, false), "{to}");
        assert_counters(&world.table, 3);
    }
}

#[test]
fn request_written_to_a_lost_connection_counts_as_written() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    world.receive(0, &dpr(HOST, 8, DisconnectCause::REBOOTING));
    assert_eq!(world.table.in_flight(1), 1, "moved before it was sent");
    let asked = world.requests(0);
    assert_eq!(asked.len(), 1, "the second peer gets it later");
    world.close(0);
    assert!(header(&messages(world.table.output(1))[0]).is_retransmitted());
    world.close(1);
    assert_eq!(world.outcomes(), [Event::Lost { name: 1, written_to: Some(HOST.into()) }]);
}

#[test]
fn t_flag_is_kept_when_a_request_moves_again() {
    let mut world = World::open(&[HOST, OTHER, "ocs3.example.org"]);
    world.send(1);
    world.receive(0, &dpr(HOST, 8, DisconnectCause::REBOOTING));
    world.close(1);
    let copies = [world.requests(0), world.requests(2)].concat();
    let marked: Vec<_> = copies.iter().map(|bytes| ids(bytes).2).collect();
    assert_eq!(marked, [false, true]);
}

#[test]
fn unsent_copies_of_finished_requests_are_withdrawn() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    world.receive(0, &dpr(HOST, 8, DisconnectCause::REBOOTING));
    world.now = seconds(10);
    world.table.timer(world.now);
    assert_eq!(world.outcomes(), [Event::TimedOut { name: 1, written_to: None }]);
    assert_eq!((world.requests(0).len(), world.requests(1).len()), (0, 0));
}

#[test]
fn silent_peer_keeps_its_requests_without_another_peer() {
    let mut world = World::open(&[HOST]);
    let asked = suspect(&mut world, seconds(200));
    assert_eq!((world.outcomes(), world.table.in_flight(0)), (vec![], 1));
    assert_eq!(world.try_send(Request { message: &ccr(2), ..request(2) }), Err(Refused::NoPeer));
    world.receive(0, &cca(&asked, HOST));
    assert!(matches!(world.outcomes()[..], [Event::Answered { name: 1, .. }]));
    world.send(3);
}

#[test]
fn requests_of_a_silent_peer_move_to_the_next_peer_that_opens() {
    let mut world = World::of(&config(&[HOST, OTHER]), &[HOST, OTHER]);
    world.connect(0);
    world.try_send(Request { message: &ccr(1), deadline: seconds(200), ..request(1) }).expect("taken");
    world.sent(0);
    while world.table.peer(0).is_some_and(|peer| peer.state_name() == "OKAY") {
        world.expire();
    }
    world.connect(1);
    assert_eq!((world.requests(1).len(), world.table.in_flight(0)), (1, 0));
}

#[test]
fn at_most_once_request_moves_only_if_unsent() {
    for has_left in [false, true] {
        let mut world = World::open(&[HOST, OTHER]);
        world.try_send(Request { message: &ccr(1), at_most_once: true, ..request(1) }).expect("taken");
        if has_left {
            assert_eq!(world.requests(0).len(), 1);
        }
        world.close(0);
        assert_eq!(world.requests(1).len(), usize::from(!has_left));
        let outcomes = world.outcomes();
        let is_lost = matches!(&outcomes[..], [Event::Lost { name: 1, written_to: Some(host) }] if **host == *HOST);
        assert_eq!((is_lost, outcomes.len()), (has_left, usize::from(has_left)));
        assert_counters(&world.table, 2);
    }
}

#[test]
fn disconnecting_peer_gets_no_requests() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    let stays = Request { message: &ccr(2), may_move: false, ..request(2) };
    world.try_send(stays).expect("taken");
    let asked = world.requests(0);
    world.receive(0, &dpr(HOST, 8, DisconnectCause::REBOOTING));
    assert_eq!(world.requests(1).len(), 1);
    world.send(3);
    assert_eq!(world.requests(1).len(), 1);
    world.receive(0, &cca(&asked[1], HOST));
    assert!(matches!(world.outcomes()[..], [Event::Answered { name: 2, .. }]), "its answers are still accepted");
    assert_eq!(world.table.closed(0, "gone".into(), world.now).seconds, 5);
    assert_counters(&world.table, 2);
}

#[test]
fn pending_requests_of_a_peer_are_limited() {
    let config = Config { in_flight_max: 3, ..config(&[HOST]) };
    let mut world = World::open_with(&config, &[HOST]);
    (0..3).for_each(|name| world.send(name));
    assert_eq!(world.try_send(Request { message: &ccr(9), ..request(9) }), Err(Refused::Full));
    let asked = world.requests(0);
    assert_eq!(asked.len(), 3);
    world.receive(0, &cca(&asked[1], HOST));
    world.send(4);
    let counters = world.table.counters();
    assert_eq!((counters.sent, counters.refused_full), (4, 1));
    assert_counters(&world.table, 1);
}

#[test]
fn moved_request_respects_the_limit_of_its_new_peer() {
    let config = Config { in_flight_max: 2, ..config(&[HOST, OTHER]) };
    let mut world = World::open_with(&config, &[HOST, OTHER]);
    (0..3).for_each(|name| world.send(name));
    assert_eq!((world.table.in_flight(0), world.table.in_flight(1)), (2, 1), "the first peer was full");
    world.sent(0);
    world.close(0);
    assert_eq!(world.outcomes(), [Event::Lost { name: 1, written_to: Some(HOST.into()) }]);
    assert_counters(&world.table, 2);
}

#[test]
fn requests_are_refused_when_the_output_buffer_is_full() {
    let mut world = World::open_with(&Config { in_flight_max: usize::MAX, ..config(&[HOST]) }, &[HOST]);
    let message = ccr(1);
    let taken = (0..).take_while(|_| world.try_send(Request { message: &message, ..request(1) }).is_ok()).count();
    assert_eq!(taken, OUTPUT_MAX / message.len());
    assert_eq!(world.table.close_reason(0), None);
    let asked: Vec<u8> = (0..1000).flat_map(|id| dwr(HOST, id)).collect();
    (0..20).for_each(|_| world.receive(0, &asked));
    assert_eq!(world.table.close_reason(0), Some("it does not read what it is sent"));
}

#[test]
fn late_answer_is_reported_after_the_time_out() {
    let mut world = World::open(&[HOST]);
    world.send(1);
    let asked = world.requests(0).remove(0);
    world.send(2);
    world.now = Time(seconds(10).0 - 1);
    world.table.timer(world.now);
    assert_eq!(world.outcomes(), []);
    world.now = seconds(10);
    world.table.timer(world.now);
    let timed_out = |name, written_to| Event::TimedOut { name, written_to };
    assert_eq!(world.outcomes(), [timed_out(1, Some(HOST.into())), timed_out(2, None)]);
    assert_eq!(world.table.in_flight(0), 0);
    let answer = cca(&asked, HOST);
    world.receive(0, &answer);
    world.receive(0, &answer);
    assert_eq!(world.outcomes(), [Event::Late { name: 1, from: HOST.into(), message: answer }]);
    let counters = world.table.counters();
    assert_eq!((counters.timed_out, counters.late, counters.unmatched), (2, 1, 1));
    assert_counters(&world.table, 1);
}

#[test]
fn finished_requests_are_forgotten_by_age_and_number() {
    let mut world = World::open_with(&Config { in_flight_max: usize::MAX, ..config(&[HOST]) }, &[HOST]);
    let mut asked = Vec::new();
    for name in 0..16_385 {
        world.send(name);
        asked.append(&mut world.requests(0));
    }
    world.now = seconds(10);
    world.table.timer(world.now);
    assert_eq!(world.outcomes().len(), 16_385);
    world.receive(0, &cca(&asked[0], HOST));
    assert_eq!((world.outcomes().len(), world.table.counters().unmatched), (0, 1), "the oldest request is forgotten");
    world.receive(0, &cca(&asked[1], HOST));
    assert!(matches!(world.outcomes()[..], [Event::Late { name: 1, .. }]));
    world.now = seconds(310);
    world.table.timer(world.now);
    world.receive(0, &cca(&asked[2], HOST));
    assert_eq!((world.outcomes().len(), world.table.counters().unmatched), (0, 2));
}

#[test]
fn answer_over_a_later_connection_is_unmatched() {
    let mut world = World::open(&[HOST]);
    world.send(1);
    let asked = world.requests(0).remove(0);
    world.now = seconds(10);
    world.table.timer(world.now);
    world.close(0);
    world.connect(0);
    world.receive(0, &cca(&asked, HOST));
    assert!(matches!(world.outcomes()[..], [Event::TimedOut { .. }]));
    assert_eq!(world.table.counters().unmatched, 1);
}

#[test]
fn peer_request_is_answered_over_its_own_connection() {
    let mut world = World::open(&[HOST]);
    let asked_bytes = rar(HOST, 99);
    world.receive(0, &asked_bytes);
    let outcomes = world.outcomes();
    let [Event::PeerRequest { request, message }] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(*message, asked_bytes);
    let mut raa = peer_answer(message, "imcharge.example.com");
    raa[12..20].fill(0);
    world.table.answer(*request, &raa);
    assert_eq!(ids(&world.sent(0)[0]), ids(&asked_bytes));
    world.close(0);
    world.connect(0);
    world.sent(0);
    world.table.answer(*request, &raa);
    assert_eq!(world.sent(0), Vec::<Vec<u8>>::new(), "the connection is closed");
}

#[test]
fn up_and_down_are_reported_once_for_each_reason() {
    let mut world = World::of(&config(&[HOST]), &[HOST]);
    let reports = |world: &mut World| {
        let all = std::iter::from_fn(|| world.table.next_event());
        all.map(|event| match event {
            Event::Up { peer } => format!("up {peer}"),
            Event::Down { peer, why } => format!("down {peer} {why}"),
            other => panic!("{other:?}"),
        })
        .collect::<Vec<_>>()
    };
    let refused = |world: &mut World, why: &str| {
        world.table.closed(0, why.into(), START);
    };
    refused(&mut world, "refused");
    refused(&mut world, "refused");
    refused(&mut world, "unreachable");
    world.connect(0);
    assert_eq!(
        reports(&mut world),
        [format!("down {HOST} refused"), format!("down {HOST} unreachable"), format!("up {HOST}")]
    );
    refused(&mut world, "gone");
    refused(&mut world, "gone");
    assert_eq!(reports(&mut world), [format!("down {HOST} gone")]);
}

#[test]
fn malformed_request_is_refused() {
    let mut world = World::open(&[HOST]);
    let answer = cca(&ccr(1), HOST);
    for message in [&b""[..], &ccr(1)[..30], &answer] {
        assert_eq!(world.try_send(Request { message, ..request(1) }), Err(Refused::Malformed));
    }
    assert_eq!((world.table.counters().sent, world.table.output(0).len()), (0, 0));
}
