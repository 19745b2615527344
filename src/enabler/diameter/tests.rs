//! The binding as the engine sees it, with a charging system at the other end of a real socket.

use super::*;
use crate::charge::account::AccountId;
use crate::charge::event::Direction;
use crate::charge::tariff::Quota;
use crate::enabler::diameter::client::fake_peer::{HOST, asks, cea, config, header, rar};
use crate::wire::diameter::{Command, CreditControlAnswer, Message, dictionary};
use crate::wire::diameter::{CreditControlRequest, Framed, HopByHop, Service, ServiceUnits, frame};
use client::config::Config as ClientConfig;
use profile::ServiceParameters;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const CALL: Call<'static> = Call { call_id: "a84b@pc33", other: "", icid: "", direction: Direction::Pull };
const START: Time = Time(7_000_000);
const TX: u32 = 10;

/// Both ends of an open connection, in one thread; the time stands unless a test moves it.
struct World {
    diameter: Diameter,
    server: TcpStream,
    now: Time,
}

impl World {
    fn open(in_flight_max: usize) -> World {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = ClientConfig { in_flight_max, ..config(&[HOST]) };
        client.peers[0].address = listener.local_addr().expect("bound").to_string().parse().expect("an address");
        let profile = CreditControlProfile {
            origin_host: client.origin_host.clone(),
            origin_realm: client.origin_realm.clone(),
            destination_realm: "example.org".into(),
            service_context_id: "im@example.org".into(),
            keys: ServiceParameters::default(),
        };
        let mut diameter = Diameter::start(Config { profile, client, tx_timeout: TX }, 1, START);
        diameter.work(START);
        let (server, _) = listener.accept().expect("a connection");
        server.set_read_timeout(Some(Duration::from_millis(20))).expect("a socket");
        let mut world = World { diameter, server, now: START };
        let cer = world.sent(1).remove(0);
        world.say(&cea(&cer, HOST, |_| {}));
        world.until(|world| world.state() == "OKAY");
        world
    }

    /// Turns until this is so.
    #[track_caller]
    fn until(&mut self, done: impl Fn(&World) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", self.diameter.status());
            self.diameter.work(self.now);
        }
    }

    /// The next messages from here to there, so many of them.
    #[track_caller]
    fn sent(&mut self, count: usize) -> Vec<Vec<u8>> {
        let (begun, mut input, mut piece) = (Instant::now(), Vec::new(), [0; 4096]);
        let mut found = Vec::new();
        while found.len() < count {
            assert!(begun.elapsed() < Duration::from_secs(20), "{} of {count}", found.len());
            self.diameter.work(self.now);
            if let Ok(octets) = self.server.read(&mut piece) {
                input.extend_from_slice(&piece[..octets]);
            }
            while let Framed::Message(length) = frame(&input) {
                found.push(input.drain(..length).collect());
            }
        }
        found
    }

    fn state(&self) -> &'static str {
        self.diameter.peers.status()[0].state
    }

    /// Value of a counter.
    fn count(&self, name: &str) -> Option<u64> {
        self.diameter.counters().iter().find(|counter| counter.0 == name).map(|counter| counter.1)
    }

    fn say(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).expect("written");
    }

    fn ask(&mut self, request: Request) {
        self.diameter.ask(request, &CALL, self.now, 1_800_000_000);
        self.diameter.flush(self.now);
    }

    /// What the sessions hear next.
    #[track_caller]
    fn heard(&mut self) -> EnablerEvent {
        self.until(|world| world.diameter.has_events());
        self.diameter.poll(&|_, _| None).expect("an event")
    }
}

fn request(session: u64, number: u32, reservation: Reservation, operation: Operation) -> Request {
    Request {
        session: SessionKey(session, 1),
        number,
        sequence: reservation.opened_by().map_or(0, |opened_by| number - opened_by),
        account: AccountId("sip:alice@example.org".into()),
        tariff: "message:1".parse().expect("a tariff"),
        reservation,
        possible_duplicate: false,
        rate_limited: false,
        at_most_once: false,
        server_binding: None,
        end_to_end_id: 0,
        operation,
    }
}

fn reserve(session: u64) -> Request {
    request(session, 0, Reservation::None, Operation::Reserve { quota: Quota(3) })
}

fn release(session: u64) -> Request {
    let reservation = Reservation::Open { opened_by: 0, outstanding: Quota(3) };
    request(session, 1, reservation, Operation::Release)
}

/// The answer to a CCR that grants what is wanted.
fn granted(to: &[u8]) -> Vec<u8> {
    granted_by(HOST, to)
}

/// The same of any server.
fn granted_by(origin_host: &str, to: &[u8]) -> Vec<u8> {
    let message = Message::parse(to).expect("whole");
    let asked = CreditControlRequest::decode(&message).expect("readable");
    let units = asked.requested_service_unit.as_ref().and_then(|units| units.service_specific);
    let body = CreditControlAnswer {
        session_id: Some(asked.session_id),
        result_code: Some(ResultCode::SUCCESS),
        origin_host,
        origin_realm: "example.org",
        request_type: Some(asked.request_type),
        request_number: Some(asked.request_number),
        granted_service_unit: units.map(|count| ServiceUnits { service_specific: Some(count), ..Default::default() }),
        ..CreditControlAnswer::default()
    };
    super::client::fake_peer::answer(to, |out| body.write(out))
}

/// The Result-Code of an answer of ours.
fn result(bytes: &[u8]) -> u32 {
    let message = Message::parse(bytes).expect("whole");
    message.find(dictionary::RESULT_CODE).and_then(|avp| avp.u32().ok()).expect("a Result-Code")
}

#[test]
fn beyond_the_bound_a_request_has_its_outcome_at_once() {
    let mut world = World::open(2);
    (1..=3).for_each(|session| world.ask(reserve(session)));
    let Some(EnablerEvent::Response { session, response, .. }) = world.diameter.poll(&|_, _| None) else {
        panic!("nothing is heard")
    };
    assert_eq!((session.0, response), (3, Response::Failed(Failure::Overload)));
    assert_eq!(world.count("ccr_overload"), Some(1));
    let asked = world.sent(2);
    world.say(&granted(&asked[0]));
    assert!(matches!(world.heard(), EnablerEvent::Response { response: Response::Granted(_), .. }));
    world.ask(reserve(4));
    assert!(!world.diameter.has_events(), "there is room again");
    assert_eq!(world.count("initial_ccrs"), Some(3));
}

#[test]
fn without_a_peer_a_request_has_its_outcome_at_once() {
    let mut world = World::open(2);
    world.server.shutdown(std::net::Shutdown::Both).expect("open");
    world.until(|world| world.state() == "DOWN");
    world.ask(reserve(1));
    let Some(EnablerEvent::Response { response, .. }) = world.diameter.poll(&|_, _| None) else {
        panic!("nothing is heard")
    };
    assert_eq!(response, Response::Failed(Failure::Unreachable));
    assert_eq!(world.count("ccr_no_peer"), Some(1));
}

#[test]
fn a_request_of_the_server_is_handed_to_its_session_and_answered_as_that_says() {
    for (state, result_code) in
        [(ReservationState::Open, 2002), (ReservationState::Pending, 2001), (ReservationState::Unknown, 5002)]
    {
        let mut world = World::open(2);
        world.ask(reserve(1));
        let asked = world.sent(1).remove(0);
        let message = Message::parse(&asked).expect("whole");
        let own = message.find(dictionary::SESSION_ID).expect("its own").text().expect("text").to_owned();
        world.say(&asks(Command::RE_AUTH, &own, HOST, 5));
        let EnablerEvent::ServerRequest { session, opened_by, event, request } = world.heard() else {
            panic!("no event")
        };
        assert_eq!((session, opened_by, &event), (SessionKey(1, 1), 0, &Event::Reauthorize { opened_by: 0 }));
        world.diameter.answer(request, &event, state);
        let answer = world.sent(1).remove(0);
        assert_eq!((result(&answer), header(&answer).hop_by_hop), (result_code, HopByHop(5)));
    }
}

#[test]
fn a_session_of_somebody_else_is_not_known_and_nobody_hears_of_it() {
    let mut world = World::open(2);
    world.say(&rar(HOST, 9));
    let answer = world.sent(1).remove(0);
    assert_eq!((result(&answer), world.diameter.has_events()), (5002, false));
}

#[test]
fn who_was_silent_is_asked_to_give_back_what_it_may_have_reserved() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    world.sent(1);
    world.now = START.after_seconds(TX);
    let EnablerEvent::Response { response, may_be_at, .. } = world.heard() else { panic!("no outcome") };
    assert_eq!(response, Response::Failed(Failure::Silent));
    let route = may_be_at.expect("it was written");
    let of = Route::of(&route);
    assert_eq!((of.host, of.bond, of.keys), (HOST, ServerBinding::Asked, Some(ServiceParameters::default())));
    world.ask(Request { server_binding: Some(route), ..release(1) });
    let asked = world.sent(1).remove(0);
    let message = Message::parse(&asked).expect("whole");
    assert!(message.find(dictionary::DESTINATION_HOST).is_none(), "it may be a relay, which would take it for itself");
}

#[test]
fn a_late_grant_by_way_of_a_relay_is_released_by_way_of_any_peer() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.now = START.after_seconds(TX);
    assert!(matches!(world.heard(), EnablerEvent::Response { response: Response::Failed(Failure::Silent), .. }));
    world.say(&granted_by("ocs7.example.org", &asked));
    let EnablerEvent::LateGrant { server_binding: route, .. } = world.heard() else { panic!("no grant") };
    let of = Route::of(&route);
    assert_eq!((of.host, of.bond), ("ocs7.example.org", ServerBinding::Relayed));
    world.ask(Request { server_binding: Some(route), ..release(1) });
    let asked = world.sent(1).remove(0);
    let message = Message::parse(&asked).expect("whole");
    let to = message.find(dictionary::DESTINATION_HOST).expect("the relay has to know it").text();
    assert_eq!(to.expect("text"), "ocs7.example.org");
}

#[test]
fn a_reservation_is_closed_by_the_keys_that_it_was_opened_with() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.say(&granted(&asked));
    let EnablerEvent::Response { response: Response::Granted(grant), .. } = world.heard() else { panic!("no grant") };
    // The operator has changed the configuration and started the proxy again.
    world.diameter.profile.keys =
        ServiceParameters { profile: profile::Profile::Ro, rating_group: Some(9), ..ServiceParameters::default() };
    world.ask(Request { server_binding: grant.server_binding, ..release(1) });
    world.ask(release(2));
    let asked = world.sent(2);
    for (asked, services, used) in [(&asked[0], 0, 1), (&asked[1], 1, 0)] {
        let message = Message::parse(asked).expect("whole");
        let read = CreditControlRequest::decode(&message).expect("readable");
        assert_eq!((read.services.len(), read.used_service_unit.len()), (services, used));
    }
}

#[test]
fn what_is_answered_late_is_given_back_or_done() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    world.ask(release(2));
    world.ask(release(3));
    let asked = world.sent(3);
    world.now = START.after_seconds(TX);
    for _ in 0..3 {
        assert!(matches!(world.heard(), EnablerEvent::Response { response: Response::Failed(Failure::Silent), .. }));
    }
    asked.iter().for_each(|asked| world.say(&granted(asked)));
    let EnablerEvent::LateGrant { session, number, server_binding: route } = world.heard() else { panic!("no grant") };
    assert_eq!((session.0, number, Route::of(&route).host), (1, 0, HOST));
    for session in [2, 3] {
        world.until(|world| world.diameter.has_events());
        let event = world.diameter.poll(&|key, number| (number == 1).then(|| release(key.0)));
        let Some(EnablerEvent::Response { session: of, number: 1, response: Response::Released { .. }, .. }) = event
        else {
            panic!("not released: {event:?}")
        };
        assert_eq!(of.0, session);
    }
}

/// An answer of this server that grants ours nothing else than `result`, and three units to Rating-Group 99.
fn beside(origin_host: &str, to: &[u8], result: u32) -> Vec<u8> {
    let message = Message::parse(to).expect("whole");
    let asked = CreditControlRequest::decode(&message).expect("readable");
    let units = Some(ServiceUnits { service_specific: Some(3), ..ServiceUnits::default() });
    let other = Service { rating_group: Some(99), granted_service_unit: units.clone(), ..Service::default() };
    let result = ResultCode(result);
    let ours = Service {
        rating_group: Some(1),
        granted_service_unit: units.filter(|_| result.is_success()),
        result_code: Some(result),
        ..Service::default()
    };
    let body = CreditControlAnswer {
        session_id: Some(asked.session_id),
        result_code: Some(ResultCode::SUCCESS),
        origin_host,
        origin_realm: "example.org",
        request_type: Some(asked.request_type),
        request_number: Some(asked.request_number),
        services: vec![other, ours],
        ..CreditControlAnswer::default()
    };
    super::client::fake_peer::answer(to, |out| body.write(out))
}

/// Rating-Groups of the services in a request, with what it wants of each and reports as used.
fn services_of(bytes: &[u8]) -> Vec<(Option<u32>, Option<u64>, Option<u64>)> {
    let message = Message::parse(bytes).expect("whole");
    let asked = CreditControlRequest::decode(&message).expect("readable");
    let count = |units: &ServiceUnits| units.service_specific.expect("messages");
    let services = asked.services.iter().map(|service| {
        let (wanted, used) = (service.requested_service_unit.as_ref(), service.used_service_unit.first());
        (service.rating_group, wanted.map(count), used.map(count))
    });
    services.collect()
}

/// A world that speaks of Rating-Group 1.
fn rated() -> World {
    let mut world = World::open(9);
    world.diameter.profile.keys =
        ServiceParameters { profile: profile::Profile::Ro, rating_group: Some(1), ..ServiceParameters::default() };
    world
}

#[test]
fn what_is_granted_to_another_service_is_closed_by_the_next_request() {
    let mut world = rated();
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.say(&beside(HOST, &asked, 2001));
    let EnablerEvent::Response { response: Response::Granted(grant), .. } = world.heard() else { panic!("no grant") };
    assert_eq!(grant.quota, Quota(3));
    let reservation = Reservation::Open { opened_by: 0, outstanding: Quota(3) };
    let more = request(1, 1, reservation, Operation::Reserve { quota: Quota(1) });
    world.ask(Request { server_binding: grant.server_binding.clone(), ..more });
    let asked = world.sent(1).remove(0);
    assert_eq!(services_of(&asked), [(Some(1), Some(4), None), (Some(99), None, Some(0))]);
    // Refused, and granted to the other once more.
    world.say(&beside(HOST, &asked, 4012));
    assert!(matches!(world.heard(), EnablerEvent::Response { response: Response::Denied(_), .. }));
    // And closed again at the end.
    world.ask(Request { server_binding: grant.server_binding, ..release(1) });
    let asked = world.sent(1).remove(0);
    assert_eq!(services_of(&asked), [(Some(1), None, Some(0)), (Some(99), None, Some(0))]);
}

fn debit() -> Operation {
    Operation::Debit {
        message_id: "m1".into(),
        part: 0,
        octets: 1,
        units: crate::charge::tariff::Units(1),
        quota: Quota(1),
        trigger: crate::charge::ch2::Trigger::Response,
    }
}

/// A server that finds Multiple-Services-Credit-Control in a request may book nothing of the units beside it.
#[test]
fn a_debit_with_units_in_the_command_has_no_services_whatever_the_server_granted() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.say(&beside(HOST, &asked, 2001));
    let EnablerEvent::Response { response: Response::Granted(grant), .. } = world.heard() else { panic!("no grant") };
    let outstanding = Quota(3);
    let reservations =
        [Reservation::Open { opened_by: 0, outstanding }, Reservation::Last { opened_by: 0, outstanding }];
    for (number, reservation) in (1..).zip(reservations) {
        world.ask(Request { server_binding: grant.server_binding.clone(), ..request(1, number, reservation, debit()) });
        let bytes = world.sent(1).remove(0);
        let message = Message::parse(&bytes).expect("whole");
        let asked = CreditControlRequest::decode(&message).expect("readable");
        let used = asked.used_service_unit.first().and_then(|units| units.service_specific);
        assert_eq!((used, asked.services.len(), asked.multiple_services_indicator), (Some(1), 0, None));
        world.say(&beside(HOST, &bytes, 2001));
        assert!(matches!(world.heard(), EnablerEvent::Response { response: Response::Debited { .. }, .. }));
    }
}

#[test]
fn a_session_in_which_ours_was_refused_learns_what_else_to_close() {
    let mut world = rated();
    let reservation = Reservation::Open { opened_by: 0, outstanding: Quota(3) };
    let route = world.diameter.server_bindings.to(HOST, ServerBinding::Bound, world.diameter.profile.keys);
    for (operation, result) in [(Operation::Reserve { quota: Quota(1) }, 4012), (debit(), 2001)] {
        world.ask(Request { server_binding: Some(route.clone()), ..request(1, 1, reservation, operation) });
        let asked = world.sent(1).remove(0);
        world.say(&beside(HOST, &asked, result));
        let EnablerEvent::Rebound { session, opened_by, server_binding: route } = world.heard() else {
            panic!("no other way")
        };
        assert_eq!((session.0, opened_by, Route::of(&route).others.len()), (1, 0, 1));
        assert!(matches!(world.heard(), EnablerEvent::Response { .. }));
    }
}

#[test]
fn a_session_that_is_opened_only_for_others_is_ended() {
    let mut world = rated();
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.say(&beside(HOST, &asked, 4012));
    let EnablerEvent::LateGrant { session, number, server_binding: route } = world.heard() else {
        panic!("nothing to give back")
    };
    assert_eq!((session.0, number), (1, 0));
    assert!(matches!(world.heard(), EnablerEvent::Response { response: Response::Denied(Denial::NotSoMany), .. }));
    world.ask(Request { server_binding: Some(route), ..release(1) });
    let asked = world.sent(1).remove(0);
    assert_eq!(services_of(&asked), [(Some(1), None, Some(0)), (Some(99), None, Some(0))]);
}

#[test]
fn a_server_that_echoes_our_name_is_never_named_by_it() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    let own = world.diameter.profile.origin_host.clone();
    world.say(&granted_by(&own, &asked));
    let EnablerEvent::Response { response: Response::Granted(grant), .. } = world.heard() else { panic!("no grant") };
    let route = grant.server_binding.expect("a way");
    assert_eq!((Route::of(&route).host, Route::of(&route).destination()), (HOST, None));
    world.ask(Request { server_binding: Some(route), ..release(1) });
    let asked = world.sent(1).remove(0);
    assert!(Message::parse(&asked).expect("whole").find(dictionary::DESTINATION_HOST).is_none());
}
