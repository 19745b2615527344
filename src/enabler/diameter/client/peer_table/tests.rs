//! Requests over several peers: lost ones, silent ones, late answers, wrong answers.

use super::*;
use crate::enabler::diameter::client::fake_peer::*;
use crate::wire::diameter::codes::DisconnectCause;
use crate::wire::diameter::{Header, dictionary::Command};

const START: Time = Time(5_000_000_000);

fn seconds(seconds: u32) -> Time {
    START.after_seconds(seconds)
}

/// PeerConnections over which a charging system sits at each end.
struct World {
    exchange: PeerTable,
    hosts: Vec<&'static str>,
    now: Time,
}

impl World {
    /// Nobody is connected yet.
    fn of(config: &Config, hosts: &[&'static str]) -> World {
        World { exchange: PeerTable::new(config, 1, START), hosts: hosts.to_vec(), now: START }
    }

    /// All are connected.
    fn open(hosts: &[&'static str]) -> World {
        World::open_with(&config(hosts), hosts)
    }

    fn open_with(config: &Config, hosts: &[&'static str]) -> World {
        let mut world = World::of(config, hosts);
        (0..hosts.len()).for_each(|seat| world.connect(seat));
        while world.exchange.next_event().is_some() {}
        world
    }

    fn connect(&mut self, seat: usize) {
        self.exchange.connected(seat, OWN_ADDRESS, self.now);
        let cer = self.sent(seat).remove(0);
        self.exchange.received(seat, &cea(&cer, self.hosts[seat], |_| {}), self.now);
    }

    /// Messages that are to go to this peer, and go.
    fn sent(&mut self, seat: usize) -> Vec<Vec<u8>> {
        let sent = messages(self.exchange.output(seat));
        self.exchange.wrote(seat, usize::MAX);
        sent
    }

    fn requests(&mut self, seat: usize) -> Vec<Vec<u8>> {
        let mut sent = self.sent(seat);
        sent.retain(|bytes| header(bytes).command == Command::CREDIT_CONTROL);
        sent
    }

    /// Answers the watchdog requests of a peer; what else is to go there stays.
    fn answer_watchdog(&mut self, seat: usize) {
        for asked in messages(self.exchange.output(seat)) {
            if header(&asked).command == Command::DEVICE_WATCHDOG {
                self.receive(seat, &peer_answer(&asked, self.hosts[seat]));
            }
        }
    }

    fn send(&mut self, name: u32) {
        self.try_send(Request { message: &ccr(name), ..request(name) }).expect("taken");
    }

    fn try_send(&mut self, request: Request<'_>) -> Result<(), Refused> {
        self.exchange.send(request, self.now)
    }

    fn receive(&mut self, seat: usize, bytes: &[u8]) {
        self.exchange.received(seat, bytes, self.now);
    }

    fn close(&mut self, seat: usize) {
        self.exchange.closed(seat, "gone".into(), self.now);
    }

    /// The next timer is due.
    fn expire(&mut self) {
        self.now = self.exchange.deadline().expect("a deadline").max(self.now);
        self.exchange.timer(self.now);
        (0..self.hosts.len()).for_each(|seat| self.exchange.peer_timer(seat, self.now));
    }

    /// What became of requests.
    fn outcomes(&mut self) -> Vec<Event> {
        let all = std::iter::from_fn(|| self.exchange.next_event());
        all.filter(|event| !matches!(event, Event::Up { .. } | Event::Down { .. })).collect()
    }
}

/// A request without a message that waits for 10 s, and may go anywhere.
fn request(name: u32) -> Request<'static> {
    Request {
        name: name.into(),
        message: &[],
        deadline: seconds(10),
        may_move: true,
        once: false,
        duplicate: false,
        prefer: None,
    }
}

fn ids(bytes: &[u8]) -> (HopByHop, EndToEnd, bool) {
    let Header { hop_by_hop, end_to_end, .. } = header(bytes);
    (hop_by_hop, end_to_end, header(bytes).is_retransmitted())
}

#[test]
fn answers_find_their_requests_in_any_order() {
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
    assert_eq!(world.exchange.counters().answered, 5);
    assert_accounts(&world.exchange, 1);
}

#[test]
fn identifiers_are_put_in_and_never_zero() {
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
fn a_request_from_a_store_keeps_its_identifier_and_is_marked() {
    let mut world = World::open(&[HOST]);
    let mut message = ccr(1);
    stamp(&mut message, Flags::default(), HopByHop(0), EndToEnd(0x1234_5678));
    world.try_send(Request { message: &message, duplicate: true, ..request(1) }).expect("taken");
    let sent = world.requests(0);
    assert_eq!((ids(&sent[0]).1, ids(&sent[0]).2), (EndToEnd(0x1234_5678), true));
}

#[test]
fn an_answer_must_match_in_both_identifiers() {
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
    assert_eq!((world.outcomes(), world.exchange.counters().unmatched), (vec![], 10));
    world.receive(0, &cca(&asked, HOST));
    world.receive(0, &cca(&asked, HOST));
    assert_eq!(world.outcomes().len(), 1, "the second is a duplicate");
    assert_eq!(world.exchange.counters().unmatched, 11);
    assert_accounts(&world.exchange, 2);
}

#[test]
fn a_lost_peers_requests_move_in_their_order() {
    let mut world = World::open(&[HOST, OTHER]);
    (0..3).for_each(|name| world.send(name));
    let first = world.requests(0);
    // Of the last one, nothing has left.
    world.send(3);
    let unsent = messages(world.exchange.output(0));
    world.close(0);
    let second = world.requests(1);
    assert_eq!(second.iter().map(|bytes| number_of(bytes)).collect::<Vec<_>>(), [0, 1, 2, 3]);
    for (before, after) in first.iter().chain(&unsent).zip(&second) {
        let (before, after) = (ids(before), ids(after));
        assert_eq!(before.1, after.1, "End-to-End stays");
        assert_ne!(before.0, after.0, "Hop-by-Hop changes");
    }
    let marked: Vec<_> = second.iter().map(|bytes| ids(bytes).2).collect();
    assert_eq!(marked, [true, true, true, false], "nobody can have seen the last one");
    second.iter().for_each(|asked| world.receive(1, &cca(asked, OTHER)));
    let from: Vec<_> = world.outcomes();
    assert!(from.iter().all(|event| matches!(event, Event::Answered { from, .. } if &**from == OTHER)));
    let counters = world.exchange.counters();
    assert_eq!((counters.sent, counters.answered, counters.resent), (4, 4, 4));
    assert_accounts(&world.exchange, 2);
}

#[test]
fn half_a_message_in_the_socket_is_none() {
    let mut world = World::open(&[HOST]);
    world.send(1);
    let length = world.exchange.output(0).len();
    world.exchange.wrote(0, length - 1);
    world.close(0);
    assert_eq!(world.outcomes(), [Event::Lost { name: 1, written_to: None }]);
}

#[test]
fn a_request_that_may_not_move_is_lost_with_its_peer() {
    let mut world = World::open(&[HOST, OTHER]);
    for (name, prefer) in [(1, None), (2, Some(HOST)), (3, Some(OTHER))] {
        let request = Request { message: &ccr(name), may_move: false, prefer, ..request(name) };
        world.try_send(request).expect("taken");
    }
    assert_eq!((world.requests(0).len(), world.requests(1).len()), (2, 1));
    world.close(0);
    let lost = |name| Event::Lost { name, written_to: Some(HOST.into()) };
    assert_eq!(world.outcomes(), [lost(1), lost(2)]);
    let bound = Request { message: &ccr(4), may_move: false, prefer: Some(HOST), ..request(4) };
    assert_eq!(world.try_send(bound), Err(Refused::NoPeer));
    assert_eq!(world.exchange.counters().failed, 2);
    assert_accounts(&world.exchange, 2);
}

#[test]
fn without_another_peer_all_are_lost() {
    let mut world = World::open(&[HOST]);
    (0..3).for_each(|name| world.send(name));
    world.requests(0);
    world.close(0);
    assert_eq!(world.outcomes(), [0, 1, 2].map(|name| Event::Lost { name, written_to: Some(HOST.into()) }));
    assert_eq!(world.try_send(Request { message: &ccr(9), ..request(9) }), Err(Refused::NoPeer));
    assert_eq!(world.exchange.counters().refused_no_peer, 1);
    assert_accounts(&world.exchange, 1);
}

#[test]
fn the_preferred_peer_serves_then_the_first_then_the_next() {
    let mut world = World::open(&[HOST, OTHER]);
    let target = |world: &mut World, prefer| {
        world.try_send(Request { message: &ccr(1), prefer, ..request(1) }).expect("taken");
        (world.requests(0).len(), world.requests(1).len())
    };
    assert_eq!(target(&mut world, None), (1, 0));
    assert_eq!(target(&mut world, Some(OTHER)), (0, 1));
    assert_eq!(target(&mut world, Some("OCS2.EXAMPLE.ORG")), (0, 1));
    assert_eq!(target(&mut world, Some("nobody.example.org")), (1, 0));
    world.close(0);
    assert_eq!(target(&mut world, Some(HOST)), (0, 3), "with the two that moved");
}

#[test]
fn failback_waits_for_the_end_of_probation_where_there_is_another() {
    let mut world = World::open(&[HOST, OTHER]);
    world.close(0);
    world.connect(0);
    world.send(1);
    assert_eq!((world.requests(0).len(), world.requests(1).len()), (0, 1));
    world.close(1);
    world.send(2);
    assert_eq!(world.requests(0).len(), 2, "on probation is better than none, for what is lost as well");
}

#[test]
fn a_peer_that_is_back_serves_first_after_three_answers() {
    let mut world = World::open(&[HOST, OTHER]);
    world.close(0);
    world.connect(0);
    while world.exchange.peer(0).is_some_and(|peer| peer.state() == "REOPEN") {
        for seat in 0..2 {
            for asked in world.sent(seat) {
                world.receive(seat, &respond(&asked, world.hosts[seat]));
            }
        }
        if world.exchange.peer(0).is_some_and(|peer| peer.state() == "REOPEN") {
            world.expire();
        }
    }
    world.send(1);
    assert_eq!((world.requests(0).len(), world.requests(1).len()), (1, 0));
}

/// The first peer gets silent with a request in hand.
fn suspect(world: &mut World, deadline: Time) -> Vec<u8> {
    world.try_send(Request { message: &ccr(1), deadline, ..request(1) }).expect("taken");
    let asked = world.requests(0).remove(0);
    while world.exchange.peer(0).is_some_and(|peer| peer.state() == "OKAY") {
        world.expire();
        if world.hosts.len() > 1 {
            world.answer_watchdog(1);
        }
    }
    asked
}

#[test]
fn a_silent_peers_requests_move_and_the_first_answer_counts() {
    for first_answers_first in [true, false] {
        let mut world = World::open(&[HOST, OTHER]);
        let asked = suspect(&mut world, seconds(200));
        let moved = world.requests(1).remove(0);
        assert_eq!((ids(&asked).1, true), (ids(&moved).1, ids(&moved).2));
        let (one, two) = ((0, cca(&asked, HOST)), (1, cca(&moved, OTHER)));
        let order = if first_answers_first { [one, two] } else { [two, one] };
        for (seat, answer) in &order {
            world.receive(*seat, answer);
        }
        let outcomes = world.outcomes();
        assert!(matches!(&outcomes[..], [Event::Answered { name: 1, .. }, Event::Late { name: 1, .. }]));
        assert_eq!(world.exchange.counters().late, 1);
        assert_accounts(&world.exchange, 2);
    }
}

#[test]
fn what_a_peer_cannot_deliver_another_gets_unmarked() {
    for code in [3002, 3004, 3005] {
        let mut world = World::open(&[HOST, OTHER]);
        world.send(1);
        let asked = world.requests(0).remove(0);
        world.receive(0, &refusal(&asked, HOST, code));
        assert_eq!(world.outcomes(), [], "{code}");
        let moved = world.requests(1).remove(0);
        assert_eq!((ids(&moved).1, ids(&moved).2), (ids(&asked).1, false), "nobody has taken it yet");
        world.receive(1, &cca(&moved, OTHER));
        assert!(matches!(&world.outcomes()[..], [Event::Answered { from, .. }] if &**from == OTHER), "{code}");
        assert_eq!(world.exchange.counters().resent, 1);
        assert_accounts(&world.exchange, 2);
    }
}

#[test]
fn what_no_peer_can_deliver_or_what_may_not_move_has_its_answer() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    let bound = Request { message: &ccr(2), may_move: false, ..request(2) };
    world.try_send(bound).expect("taken");
    world.send(3);
    let asked = world.requests(0);
    world.receive(0, &refusal(&asked[1], HOST, 3004));
    // Another protocol error is the fault of the request.
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
    assert_eq!(world.requests(0).len() + world.requests(1).len(), 0, "it goes round once");
    assert_accounts(&world.exchange, 2);
}

#[test]
fn a_refusal_of_the_first_peer_ends_nothing_that_waits_for_the_second() {
    let mut world = World::open(&[HOST, OTHER]);
    let asked = suspect(&mut world, seconds(200));
    let moved = world.requests(1).remove(0);
    world.receive(0, &refusal(&asked, HOST, 3004));
    assert_eq!((world.outcomes(), world.exchange.in_flight(1)), (vec![], 1));
    world.receive(1, &refusal(&moved, OTHER, 3004));
    assert!(matches!(world.outcomes()[..], [Event::Answered { name: 1, .. }]), "both have refused it");
    assert_accounts(&world.exchange, 2);
}

#[test]
fn a_refusal_says_nothing_of_the_peer_that_had_it_before_and_is_silent() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    world.requests(0);
    world.close(0);
    let moved = world.requests(1).remove(0);
    world.receive(1, &refusal(&moved, OTHER, 3002));
    let outcomes = world.outcomes();
    let [Event::Answered { name: 1, elsewhere: Some(elsewhere), .. }] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(&**elsewhere, HOST);
    assert_accounts(&world.exchange, 2);
}

/// The first peer has let a request time out, sent at 0 s; one more of 5 s has moved on. Now it is 10 s.
fn demoted() -> World {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    world.now = seconds(5);
    world.try_send(Request { message: &ccr(2), deadline: seconds(15), ..request(2) }).expect("taken");
    assert_eq!(world.requests(0).len(), 2);
    world.now = seconds(10);
    world.exchange.timer(world.now);
    assert_eq!(world.outcomes(), [Event::TimedOut { name: 1, written_to: Some(HOST.into()) }]);
    let moved = world.requests(1).remove(0);
    assert!(number_of(&moved) == 2 && ids(&moved).2, "what waits there goes elsewhere, marked");
    world
}

/// Sends a request that waits for 10 s from now, and tells to how many of the peers it goes.
fn send_now(world: &mut World, name: u32) -> (usize, usize) {
    let deadline = world.now.after_seconds(10);
    world.try_send(Request { message: &ccr(name), deadline, ..request(name) }).expect("taken");
    world.exchange.timer(world.now);
    (world.exchange.in_flight(0), world.exchange.in_flight(1))
}

#[test]
fn a_peer_whose_requests_time_out_is_not_trusted_for_its_watchdog() {
    let mut world = demoted();
    assert!(world.exchange.is_demoted(0));
    assert_eq!(send_now(&mut world, 3), (0, 2));
    world.receive(0, &dwr(HOST, 7));
    while world.now < seconds(19) {
        world.now = world.now.after_seconds(1);
        world.answer_watchdog(0);
    }
    assert_eq!(send_now(&mut world, 4), (0, 2), "no DWR and no DWA is an answer to a request");
    assert_accounts(&world.exchange, 2);
}

#[test]
fn a_demoted_peer_is_tried_by_one_request_in_ten_seconds_which_another_gets_after_one() {
    let mut world = demoted();
    world.requests(1);
    world.now = seconds(20);
    world.exchange.timer(world.now);
    assert_eq!(send_now(&mut world, 3), (1, 0));
    assert_eq!(send_now(&mut world, 4), (1, 1), "one at a time");
    let probe = world.requests(0).remove(0);
    assert!(!ids(&probe).2);
    world.now = seconds(21);
    assert!(world.exchange.deadline() <= Some(world.now), "it is due");
    world.exchange.timer(world.now);
    let moved = world.requests(1).pop().expect("it has moved");
    assert_eq!((number_of(&moved), ids(&moved).1, ids(&moved).2), (3, ids(&probe).1, true));
    world.receive(1, &cca(&moved, OTHER));
    assert!(matches!(&world.outcomes()[..], [.., Event::Answered { name: 3, .. }]));
    // The slow peer answers within the time of the request all the same.
    world.now = seconds(25);
    world.receive(0, &cca(&probe, HOST));
    assert!(!world.exchange.is_demoted(0));
    assert_eq!(send_now(&mut world, 5).0, 1, "it is used again");
    assert_accounts(&world.exchange, 2);
}

#[test]
fn an_answer_after_its_time_trusts_nobody() {
    let mut world = demoted();
    world.now = seconds(20);
    world.exchange.timer(world.now);
    send_now(&mut world, 3);
    let probe = world.requests(0).remove(0);
    world.now = seconds(21);
    world.exchange.timer(world.now);
    let moved = world.requests(1).pop().expect("it has moved");
    world.receive(1, &cca(&moved, OTHER));
    world.now = seconds(30);
    world.receive(0, &cca(&probe, HOST));
    assert!(world.exchange.is_demoted(0));
}

#[test]
fn what_must_not_arrive_twice_or_belongs_elsewhere_tries_no_peer() {
    let bound = Request { prefer: Some(OTHER), ..request(3) };
    for tried in [Request { once: true, ..request(3) }, bound, Request { may_move: false, ..bound }] {
        let mut world = demoted();
        world.now = seconds(30);
        world.try_send(Request { message: &ccr(3), deadline: seconds(40), ..tried }).expect("taken");
        assert_eq!(world.requests(0).len(), 0);
    }
}

#[test]
fn a_demoted_peer_that_is_connected_again_is_tried_at_once_and_serves_where_no_other_does() {
    let mut world = demoted();
    world.close(1);
    assert_eq!(send_now(&mut world, 3).0, 2, "with the one that has come back");
    let asked = world.requests(0);
    world.receive(0, &cca(asked.last().expect("sent"), HOST));
    assert!(!world.exchange.is_demoted(0));
}

#[test]
fn where_all_are_silent_the_demoted_one_is_tried_at_once() {
    let mut world = demoted();
    world.now = seconds(11);
    assert_eq!(send_now(&mut world, 3), (0, 2));
    world.now = seconds(15);
    world.exchange.timer(world.now);
    assert!(!world.exchange.is_demoted(1), "there is no other");
    world.now = seconds(16);
    assert_eq!(send_now(&mut world, 4).0, 1);
}

#[test]
fn a_peer_that_answers_others_meanwhile_or_is_the_only_one_is_asked_on() {
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
        world.exchange.timer(world.now);
        assert_eq!(world.outcomes(), [Event::TimedOut { name: 1, written_to: Some(HOST.into()) }]);
        send_now(&mut world, 3);
        assert_eq!(world.requests(0).len(), 1);
    }
}

#[test]
fn a_redirection_is_followed_to_a_peer_that_is_open() {
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
        // None of ours: another peer may have more luck.
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
        assert_accounts(&world.exchange, 3);
    }
}

#[test]
fn what_left_by_a_connection_that_is_gone_has_left() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    world.receive(0, &dpr(HOST, 8, DisconnectCause::REBOOTING));
    assert_eq!(world.exchange.in_flight(1), 1, "moved before it had left");
    let asked = world.requests(0);
    assert_eq!(asked.len(), 1, "and it leaves there after all");
    world.close(0);
    assert!(header(&messages(world.exchange.output(1))[0]).is_retransmitted());
    world.close(1);
    assert_eq!(world.outcomes(), [Event::Lost { name: 1, written_to: Some(HOST.into()) }]);
}

#[test]
fn what_may_yet_leave_elsewhere_stays_marked_from_peer_to_peer() {
    let mut world = World::open(&[HOST, OTHER, "ocs3.example.org"]);
    world.send(1);
    world.receive(0, &dpr(HOST, 8, DisconnectCause::REBOOTING));
    world.close(1);
    let copies = [world.requests(0), world.requests(2)].concat();
    let marked: Vec<_> = copies.iter().map(|bytes| ids(bytes).2).collect();
    assert_eq!(marked, [false, true]);
}

#[test]
fn what_is_over_does_not_leave_any_more() {
    let mut world = World::open(&[HOST, OTHER]);
    world.send(1);
    world.receive(0, &dpr(HOST, 8, DisconnectCause::REBOOTING));
    world.now = seconds(10);
    world.exchange.timer(world.now);
    assert_eq!(world.outcomes(), [Event::TimedOut { name: 1, written_to: None }]);
    assert_eq!((world.requests(0).len(), world.requests(1).len()), (0, 0));
}

#[test]
fn without_another_peer_a_silent_one_keeps_its_requests() {
    let mut world = World::open(&[HOST]);
    let asked = suspect(&mut world, seconds(200));
    assert_eq!((world.outcomes(), world.exchange.in_flight(0)), (vec![], 1));
    assert_eq!(world.try_send(Request { message: &ccr(2), ..request(2) }), Err(Refused::NoPeer));
    world.receive(0, &cca(&asked, HOST));
    assert!(matches!(world.outcomes()[..], [Event::Answered { name: 1, .. }]));
    world.send(3);
}

#[test]
fn what_waits_for_a_silent_peer_goes_to_the_next_that_opens() {
    let mut world = World::of(&config(&[HOST, OTHER]), &[HOST, OTHER]);
    world.connect(0);
    world.try_send(Request { message: &ccr(1), deadline: seconds(200), ..request(1) }).expect("taken");
    world.sent(0);
    while world.exchange.peer(0).is_some_and(|peer| peer.state() == "OKAY") {
        world.expire();
    }
    world.connect(1);
    assert_eq!((world.requests(1).len(), world.exchange.in_flight(0)), (1, 0));
}

#[test]
fn what_must_not_arrive_twice_moves_on_only_where_it_has_not_left() {
    for has_left in [false, true] {
        let mut world = World::open(&[HOST, OTHER]);
        world.try_send(Request { message: &ccr(1), once: true, ..request(1) }).expect("taken");
        if has_left {
            assert_eq!(world.requests(0).len(), 1);
        }
        world.close(0);
        assert_eq!(world.requests(1).len(), usize::from(!has_left));
        let outcomes = world.outcomes();
        let is_lost = matches!(&outcomes[..], [Event::Lost { name: 1, written_to: Some(host) }] if **host == *HOST);
        assert_eq!((is_lost, outcomes.len()), (has_left, usize::from(has_left)));
        assert_accounts(&world.exchange, 2);
    }
}

#[test]
fn a_peer_that_leaves_gets_nothing_more() {
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
    assert!(matches!(world.outcomes()[..], [Event::Answered { name: 2, .. }]), "what it still answers is taken");
    assert_eq!(world.exchange.closed(0, "gone".into(), world.now).seconds, 5);
    assert_accounts(&world.exchange, 2);
}

#[test]
fn no_peer_has_more_without_an_answer_than_it_may() {
    let config = Config { in_flight_max: 3, ..config(&[HOST]) };
    let mut world = World::open_with(&config, &[HOST]);
    (0..3).for_each(|name| world.send(name));
    assert_eq!(world.try_send(Request { message: &ccr(9), ..request(9) }), Err(Refused::Full));
    let asked = world.requests(0);
    assert_eq!(asked.len(), 3);
    world.receive(0, &cca(&asked[1], HOST));
    world.send(4);
    let counters = world.exchange.counters();
    assert_eq!((counters.sent, counters.refused_full), (4, 1));
    assert_accounts(&world.exchange, 1);
}

#[test]
fn a_moved_request_respects_the_bound_of_the_other() {
    let config = Config { in_flight_max: 2, ..config(&[HOST, OTHER]) };
    let mut world = World::open_with(&config, &[HOST, OTHER]);
    (0..3).for_each(|name| world.send(name));
    assert_eq!((world.exchange.in_flight(0), world.exchange.in_flight(1)), (2, 1), "the third found the first full");
    world.sent(0);
    world.close(0);
    assert_eq!(world.outcomes(), [Event::Lost { name: 1, written_to: Some(HOST.into()) }]);
    assert_accounts(&world.exchange, 2);
}

#[test]
fn what_waits_too_long_in_the_buffer_is_refused() {
    let mut world = World::open_with(&Config { in_flight_max: usize::MAX, ..config(&[HOST]) }, &[HOST]);
    let message = ccr(1);
    let taken = (0..).take_while(|_| world.try_send(Request { message: &message, ..request(1) }).is_ok()).count();
    assert_eq!(taken, OUTPUT_MAX / message.len());
    assert_eq!(world.exchange.doom(0), None);
    let asked: Vec<u8> = (0..1000).flat_map(|id| dwr(HOST, id)).collect();
    (0..20).for_each(|_| world.receive(0, &asked));
    assert_eq!(world.exchange.doom(0), Some("it does not read what it is sent"));
}

#[test]
fn a_request_in_time_out_and_its_late_answer() {
    let mut world = World::open(&[HOST]);
    world.send(1);
    let asked = world.requests(0).remove(0);
    world.send(2);
    world.now = Time(seconds(10).0 - 1);
    world.exchange.timer(world.now);
    assert_eq!(world.outcomes(), []);
    world.now = seconds(10);
    world.exchange.timer(world.now);
    let timed_out = |name, written_to| Event::TimedOut { name, written_to };
    assert_eq!(world.outcomes(), [timed_out(1, Some(HOST.into())), timed_out(2, None)]);
    assert_eq!(world.exchange.in_flight(0), 0);
    let answer = cca(&asked, HOST);
    world.receive(0, &answer);
    world.receive(0, &answer);
    assert_eq!(world.outcomes(), [Event::Late { name: 1, from: HOST.into(), message: answer }]);
    let counters = world.exchange.counters();
    assert_eq!((counters.timed_out, counters.late, counters.unmatched), (2, 1, 1));
    assert_accounts(&world.exchange, 1);
}

#[test]
fn late_answers_are_known_for_a_while_and_for_so_many() {
    let mut world = World::open_with(&Config { in_flight_max: usize::MAX, ..config(&[HOST]) }, &[HOST]);
    let mut asked = Vec::new();
    for name in 0..16_385 {
        world.send(name);
        asked.append(&mut world.requests(0));
    }
    world.now = seconds(10);
    world.exchange.timer(world.now);
    assert_eq!(world.outcomes().len(), 16_385);
    world.receive(0, &cca(&asked[0], HOST));
    assert_eq!((world.outcomes().len(), world.exchange.counters().unmatched), (0, 1), "the oldest is forgotten");
    world.receive(0, &cca(&asked[1], HOST));
    assert!(matches!(world.outcomes()[..], [Event::Late { name: 1, .. }]));
    world.now = seconds(310);
    world.exchange.timer(world.now);
    world.receive(0, &cca(&asked[2], HOST));
    assert_eq!((world.outcomes().len(), world.exchange.counters().unmatched), (0, 2));
}

#[test]
fn an_answer_over_a_later_connection_is_none() {
    let mut world = World::open(&[HOST]);
    world.send(1);
    let asked = world.requests(0).remove(0);
    world.now = seconds(10);
    world.exchange.timer(world.now);
    world.close(0);
    world.connect(0);
    world.receive(0, &cca(&asked, HOST));
    assert!(matches!(world.outcomes()[..], [Event::TimedOut { .. }]));
    assert_eq!(world.exchange.counters().unmatched, 1);
}

#[test]
fn a_servers_request_is_answered_over_its_own_connection() {
    let mut world = World::open(&[HOST]);
    let asked_bytes = rar(HOST, 99);
    world.receive(0, &asked_bytes);
    let outcomes = world.outcomes();
    let [Event::Asked { asked, message }] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert_eq!(*message, asked_bytes);
    let mut raa = peer_answer(message, "imcharge.example.com");
    raa[12..20].fill(0);
    world.exchange.answer(*asked, &raa);
    assert_eq!(ids(&world.sent(0)[0]), ids(&asked_bytes));
    world.close(0);
    world.connect(0);
    world.sent(0);
    world.exchange.answer(*asked, &raa);
    assert_eq!(world.sent(0), Vec::<Vec<u8>>::new(), "its connection is gone");
}

#[test]
fn peers_are_told_up_and_down_once_for_each_reason() {
    let mut world = World::of(&config(&[HOST]), &[HOST]);
    let told = |world: &mut World| {
        let all = std::iter::from_fn(|| world.exchange.next_event());
        all.map(|event| match event {
            Event::Up { peer } => format!("up {peer}"),
            Event::Down { peer, why } => format!("down {peer} {why}"),
            other => panic!("{other:?}"),
        })
        .collect::<Vec<_>>()
    };
    let refused = |world: &mut World, why: &str| {
        world.exchange.closed(0, why.into(), START);
    };
    refused(&mut world, "refused");
    refused(&mut world, "refused");
    refused(&mut world, "unreachable");
    world.connect(0);
    assert_eq!(
        told(&mut world),
        [format!("down {HOST} refused"), format!("down {HOST} unreachable"), format!("up {HOST}")]
    );
    refused(&mut world, "gone");
    refused(&mut world, "gone");
    assert_eq!(told(&mut world), [format!("down {HOST} gone")]);
}

#[test]
fn what_is_no_request_is_not_sent() {
    let mut world = World::open(&[HOST]);
    let answer = cca(&ccr(1), HOST);
    for message in [&b""[..], &ccr(1)[..30], &answer] {
        assert_eq!(world.try_send(Request { message, ..request(1) }), Err(Refused::Malformed));
    }
    assert_eq!((world.exchange.counters().sent, world.exchange.output(0).len()), (0, 0));
}
