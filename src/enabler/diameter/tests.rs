//! The binding as the engine sees it, with a server at the other end of a socket.

use super::*;
use crate::charge::account::AccountId;
use crate::charge::event::Direction;
use crate::charge::tariff::Quota;
use crate::charge::tariff::{Measure, QuotaUnit};
use crate::enabler::diameter::client::fake_peer::{HOST, cea, config, header, rar, session_request};
use crate::wire::diameter::{Command, CreditControlAnswer, Message, dictionary};
use crate::wire::diameter::{CreditControlRequest, Framed, HopByHop, Service, ServiceUnits, frame};
use client::config::Config as ClientConfig;
use profile::ServiceParameters;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

const CALL: Call<'static> =
    Call { call_id: "a84b@pc33", other: "", icid: "", direction: Direction::Pull, method: "INVITE" };
const START: Time = Time(7_000_000);
const TX: u32 = 10;

/// Both ends of an open connection in one thread. Only the test changes the time.
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
        world.send(&cea(&cer, HOST, |_| {}));
        world.until(|world| world.state() == "OKAY");
        world
    }

    /// Works until the condition holds.
    #[track_caller]
    fn until(&mut self, done: impl Fn(&World) -> bool) {
        let begun = Instant::now();
        while !done(self) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", self.diameter.status());
            self.diameter.work(self.now);
        }
    }

    /// Reads this many messages of the client.
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

    fn send(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).expect("written");
    }

    fn ask(&mut self, request: Request) {
        self.diameter.ask(request, &CALL, self.now, 1_800_000_000);
        self.diameter.flush(self.now);
    }

    /// The next event for the sessions.
    #[track_caller]
    fn event(&mut self) -> EnablerEvent {
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
        service: crate::charge::service::Service::Retrieval,
        recipients: 0,
        measure: Measure { unit: QuotaUnit::Message, price: 1 },
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

/// The answer to a CCR that grants what is requested.
fn granted(to: &[u8]) -> Vec<u8> {
    granted_by(HOST, to)
}

/// The same, of this server.
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

/// The Result-Code of an answer of the client.
fn result(bytes: &[u8]) -> u32 {
    let message = Message::parse(bytes).expect("whole");
    message.find(dictionary::RESULT_CODE).and_then(|avp| avp.u32().ok()).expect("a Result-Code")
}

#[test]
fn request_beyond_the_limit_fails_at_once() {
    let mut world = World::open(2);
    (1..=3).for_each(|session| world.ask(reserve(session)));
    let Some(EnablerEvent::Response { session, response, .. }) = world.diameter.poll(&|_, _| None) else {
        panic!("no event")
    };
    assert_eq!((session.0, response), (3, Response::Failed(Failure::Overload)));
    assert_eq!(world.count("ccr_overload"), Some(1));
    let asked = world.sent(2);
    world.send(&granted(&asked[0]));
    assert!(matches!(world.event(), EnablerEvent::Response { response: Response::Granted(_), .. }));
    world.ask(reserve(4));
    assert!(!world.diameter.has_events(), "the limit is not reached");
    assert_eq!(world.count("initial_ccrs"), Some(3));
}

#[test]
fn request_without_an_open_peer_fails_at_once() {
    let mut world = World::open(2);
    world.server.shutdown(std::net::Shutdown::Both).expect("open");
    world.until(|world| world.state() == "DOWN");
    world.ask(reserve(1));
    let Some(EnablerEvent::Response { response, .. }) = world.diameter.poll(&|_, _| None) else { panic!("no event") };
    assert_eq!(response, Response::Failed(Failure::Unreachable));
    assert_eq!(world.count("ccr_no_peer"), Some(1));
}

#[test]
fn server_request_is_answered_by_the_state_of_the_reservation() {
    for (state, result_code) in
        [(ReservationState::Open, 2002), (ReservationState::Pending, 2001), (ReservationState::Unknown, 5002)]
    {
        let mut world = World::open(2);
        world.ask(reserve(1));
        let asked = world.sent(1).remove(0);
        let message = Message::parse(&asked).expect("whole");
        let own = message.find(dictionary::SESSION_ID).expect("its own").text().expect("text").to_owned();
        world.send(&session_request(Command::RE_AUTH, &own, HOST, 5));
        let EnablerEvent::ServerRequest { session, opened_by, event, request } = world.event() else {
            panic!("no event")
        };
        assert_eq!((session, opened_by, &event), (SessionKey(1, 1), 0, &Event::Reauthorize { opened_by: 0 }));
        world.diameter.answer(request, &event, state);
        let answer = world.sent(1).remove(0);
        assert_eq!((result(&answer), header(&answer).hop_by_hop), (result_code, HopByHop(5)));
    }
}

#[test]
fn server_request_for_a_foreign_session_is_refused() {
    let mut world = World::open(2);
    world.send(&rar(HOST, 9));
    let answer = world.sent(1).remove(0);
    assert_eq!((result(&answer), world.diameter.has_events()), (5002, false));
}

#[test]
fn silent_server_is_asked_to_release_what_it_may_have_reserved() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    world.sent(1);
    world.now = START.after_seconds(TX);
    let EnablerEvent::Response { response, may_be_at, .. } = world.event() else { panic!("no outcome") };
    assert_eq!(response, Response::Failed(Failure::Silent));
    let binding = may_be_at.expect("it was written");
    let of = ServerBinding::parse(&binding);
    assert_eq!((of.host, of.holder, of.keys), (HOST, Holder::Candidate, Some(ServiceParameters::default())));
    world.ask(Request { server_binding: Some(binding), ..release(1) });
    let asked = world.sent(1).remove(0);
    let message = Message::parse(&asked).expect("whole");
    assert!(message.find(dictionary::DESTINATION_HOST).is_none(), "it may be a relay, which would consume the request");
}

#[test]
fn late_grant_through_a_relay_is_released_through_any_peer() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.now = START.after_seconds(TX);
    assert!(matches!(world.event(), EnablerEvent::Response { response: Response::Failed(Failure::Silent), .. }));
    world.send(&granted_by("ocs7.example.org", &asked));
    let EnablerEvent::LateGrant { server_binding: binding, .. } = world.event() else { panic!("no grant") };
    let of = ServerBinding::parse(&binding);
    assert_eq!((of.host, of.holder), ("ocs7.example.org", Holder::Relayed));
    world.ask(Request { server_binding: Some(binding), ..release(1) });
    let asked = world.sent(1).remove(0);
    let message = Message::parse(&asked).expect("whole");
    let to = message.find(dictionary::DESTINATION_HOST).expect("the relay needs it").text();
    assert_eq!(to.expect("text"), "ocs7.example.org");
}

#[test]
fn reservation_is_closed_with_its_own_service_parameters() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.send(&granted(&asked));
    let EnablerEvent::Response { response: Response::Granted(grant), .. } = world.event() else { panic!("no grant") };
    // The configuration has changed.
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
fn late_answers_release_grants_and_complete_retries() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    world.ask(release(2));
    world.ask(release(3));
    let asked = world.sent(3);
    world.now = START.after_seconds(TX);
    for _ in 0..3 {
        assert!(matches!(world.event(), EnablerEvent::Response { response: Response::Failed(Failure::Silent), .. }));
    }
    asked.iter().for_each(|asked| world.send(&granted(asked)));
    let EnablerEvent::LateGrant { session, number, server_binding: binding } = world.event() else {
        panic!("no grant")
    };
    assert_eq!((session.0, number, ServerBinding::parse(&binding).host), (1, 0, HOST));
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

/// An answer of this server with `result` for the charged service, and a grant of three units to Rating-Group 99.
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

/// Rating-Group, requested and used units of each service in a request.
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

/// A world whose charged service has Rating-Group 1.
fn rated() -> World {
    let mut world = World::open(9);
    world.diameter.profile.keys =
        ServiceParameters { profile: profile::Profile::Ro, rating_group: Some(1), ..ServiceParameters::default() };
    world
}

#[test]
fn grant_to_another_service_is_closed_by_the_next_request() {
    let mut world = rated();
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.send(&beside(HOST, &asked, 2001));
    let EnablerEvent::Response { response: Response::Granted(grant), .. } = world.event() else { panic!("no grant") };
    assert_eq!(grant.quota, Quota(3));
    let reservation = Reservation::Open { opened_by: 0, outstanding: Quota(3) };
    let more = request(1, 1, reservation, Operation::Reserve { quota: Quota(1) });
    world.ask(Request { server_binding: grant.server_binding.clone(), ..more });
    let asked = world.sent(1).remove(0);
    assert_eq!(services_of(&asked), [(Some(1), Some(4), None), (Some(99), None, Some(0))]);
    // Refused, with another grant to the other service.
    world.send(&beside(HOST, &asked, 4012));
    assert!(matches!(world.event(), EnablerEvent::Response { response: Response::Denied(_), .. }));
    // It is closed again by the TERMINATION.
    world.ask(Request { server_binding: grant.server_binding, ..release(1) });
    let asked = world.sent(1).remove(0);
    assert_eq!(services_of(&asked), [(Some(1), None, Some(0)), (Some(99), None, Some(0))]);
}

fn debit() -> Operation {
    Operation::Debit {
        message_id: "m1".into(),
        part: 0,
        octets: 1,
        class: crate::charge::content::ContentClass::Text,
        units: crate::charge::tariff::Units(1),
        quota: Quota(1),
        trigger: crate::charge::ch2::Trigger::Response,
    }
}

/// A server that finds Multiple-Services-Credit-Control may ignore units in the command.
#[test]
fn debit_with_units_in_the_command_has_no_services() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.send(&beside(HOST, &asked, 2001));
    let EnablerEvent::Response { response: Response::Granted(grant), .. } = world.event() else { panic!("no grant") };
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
        world.send(&beside(HOST, &bytes, 2001));
        assert!(matches!(world.event(), EnablerEvent::Response { response: Response::Debited { .. }, .. }));
    }
}

#[test]
fn refused_request_reports_grants_to_other_services() {
    let mut world = rated();
    let reservation = Reservation::Open { opened_by: 0, outstanding: Quota(3) };
    let binding = world.diameter.server_bindings.to(HOST, Holder::Peer, world.diameter.profile.keys);
    for (operation, result) in [(Operation::Reserve { quota: Quota(1) }, 4012), (debit(), 2001)] {
        world.ask(Request { server_binding: Some(binding.clone()), ..request(1, 1, reservation, operation) });
        let asked = world.sent(1).remove(0);
        world.send(&beside(HOST, &asked, result));
        let EnablerEvent::Rebound { session, opened_by, server_binding: binding } = world.event() else {
            panic!("no new binding")
        };
        assert_eq!((session.0, opened_by, ServerBinding::parse(&binding).others.len()), (1, 0, 1));
        assert!(matches!(world.event(), EnablerEvent::Response { .. }));
    }
}

#[test]
fn session_opened_only_for_other_services_is_ended() {
    let mut world = rated();
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    world.send(&beside(HOST, &asked, 4012));
    let EnablerEvent::LateGrant { session, number, server_binding: binding } = world.event() else {
        panic!("no grant to release")
    };
    assert_eq!((session.0, number), (1, 0));
    assert!(matches!(world.event(), EnablerEvent::Response { response: Response::Denied(Denial::NotSoMany), .. }));
    world.ask(Request { server_binding: Some(binding), ..release(1) });
    let asked = world.sent(1).remove(0);
    assert_eq!(services_of(&asked), [(Some(1), None, Some(0)), (Some(99), None, Some(0))]);
}

#[test]
fn own_origin_host_is_never_used_as_destination_host() {
    let mut world = World::open(9);
    world.ask(reserve(1));
    let asked = world.sent(1).remove(0);
    let own = world.diameter.profile.origin_host.clone();
    world.send(&granted_by(&own, &asked));
    let EnablerEvent::Response { response: Response::Granted(grant), .. } = world.event() else { panic!("no grant") };
    let binding = grant.server_binding.expect("a binding");
    assert_eq!((ServerBinding::parse(&binding).host, ServerBinding::parse(&binding).destination()), (HOST, None));
    world.ask(Request { server_binding: Some(binding), ..release(1) });
    let asked = world.sent(1).remove(0);
    assert!(Message::parse(&asked).expect("whole").find(dictionary::DESTINATION_HOST).is_none());
}
