//! Requests, decoded by the codec, and responses of answers.

use super::*;
use crate::charge::account::AccountId;
use crate::charge::event::Direction;
use crate::charge::tariff::{Measure, QuotaUnit};
use crate::enabler::diameter::profile::ServiceParameters;
use crate::wire::diameter::credit_control::FinalUnitIndication;
use crate::wire::diameter::{Message, RawAvp};

const CALL: Call<'static> = Call {
    call_id: "a84b@pc33",
    other: "sip:im@example.org",
    icid: "icid-1",
    direction: Direction::Pull,
    method: "INVITE",
};

fn settings(profile: Profile, unit: Unit) -> CreditControlProfile {
    CreditControlProfile {
        origin_host: "proxy.example.org".into(),
        origin_realm: "example.org".into(),
        destination_realm: "ocs.example.org".into(),
        service_context_id: "32274@3gpp.org".into(),
        keys: ServiceParameters {
            profile,
            unit,
            identifier: Some(7),
            rating_group: None,
            currency: None,
            exponent: -2,
        },
    }
}

fn request(number: u32, reservation: Reservation, operation: Operation) -> Request {
    Request {
        session: SessionKey(0x1_0000_0002, 0xabcd),
        number,
        sequence: reservation.opened_by().map_or(0, |opened_by| number - opened_by),
        account: AccountId("tel:+4912345".into()),
        service: crate::charge::service::Service::Retrieval,
        recipients: 0,
        measure: Measure { unit: QuotaUnit::Message, price: 25 },
        reservation,
        possible_duplicate: false,
        rate_limited: false,
        at_most_once: false,
        server_binding: None,
        end_to_end_id: 0,
        operation,
    }
}

fn reserve(quota: u32) -> Operation {
    Operation::Reserve { quota: Quota(quota) }
}

fn debit() -> Operation {
    let (octets, quota, trigger) = (1000, Quota(1), Trigger::Response);
    Operation::Debit {
        message_id: "m1".into(),
        part: 0,
        octets,
        class: crate::charge::content::ContentClass::Text,
        units: crate::charge::tariff::Units(25),
        quota,
        trigger,
    }
}

fn refund() -> Operation {
    let units = crate::charge::tariff::Units(25);
    Operation::Refund {
        message_id: "m1".into(),
        part: 0,
        octets: 1000,
        class: crate::charge::content::ContentClass::Text,
        units,
        quota: Quota(1),
    }
}

fn open(outstanding: u32) -> Reservation {
    Reservation::Open { opened_by: 4, outstanding: Quota(outstanding) }
}

fn last() -> Reservation {
    Reservation::Last { opened_by: 4, outstanding: Quota(1) }
}

/// Encodes a request and passes the decoded request to `look`.
fn written<R>(
    profile: &CreditControlProfile,
    request: &Request,
    look: impl FnOnce(&CreditControlRequest<'_>) -> R,
) -> R {
    let mut bytes = Vec::new();
    write(profile, request, &CALL, Target::default(), Time(1_800_000_000), &mut bytes).expect("short enough");
    let message = Message::parse(&bytes).expect("a message");
    look(&CreditControlRequest::decode(&message).expect("a request that its own reader takes"))
}

/// Type, number, requested and used units.
fn shape(profile: Profile, request: &Request) -> (RequestType, u32, Option<u64>, Option<u64>) {
    written(&settings(profile, Unit::Message), request, |ccr| {
        let count = |units: &ServiceUnits| units.service_specific.expect("messages are counted");
        let (wanted, used) = match profile {
            Profile::Rfc8506 => (&ccr.requested_service_unit, &ccr.used_service_unit),
            Profile::Ro => (&ccr.services[0].requested_service_unit, &ccr.services[0].used_service_unit),
        };
        (ccr.request_type, ccr.request_number, wanted.as_ref().map(count), used.first().map(count))
    })
}

#[test]
fn each_operation_has_its_request_type_and_units() {
    for profile in [Profile::Rfc8506, Profile::Ro] {
        let (initial, update) = (RequestType::INITIAL_REQUEST, RequestType::UPDATE_REQUEST);
        let (end, event) = (RequestType::TERMINATION_REQUEST, RequestType::EVENT_REQUEST);
        for (number, reservation, operation, expected) in [
            (4, Reservation::None, reserve(3), (initial, 0, Some(3), None)),
            (5, open(3), reserve(2), (update, 1, Some(5), None)),
            (6, open(3), reserve(0), (update, 2, Some(3), None)),
            (6, open(3), debit(), (update, 2, Some(2), Some(1))),
            (7, last(), debit(), (end, 3, None, Some(1))),
            (7, open(2), Operation::Release, (end, 3, None, Some(0))),
            (9, Reservation::None, debit(), (event, 0, Some(1), None)),
            (9, Reservation::None, refund(), (event, 0, Some(1), None)),
        ] {
            assert_eq!(shape(profile, &request(number, reservation, operation)), expected, "{profile:?}");
        }
    }
}

#[test]
fn requested_action_and_termination_cause_depend_on_the_type() {
    let rfc = settings(Profile::Rfc8506, Unit::Message);
    let words = |request: &Request| written(&rfc, request, |ccr| (ccr.requested_action, ccr.termination_cause));
    assert_eq!(words(&request(0, Reservation::None, reserve(1))), (None, None));
    assert_eq!(words(&request(5, Reservation::None, debit())), (Some(RequestedAction::DIRECT_DEBITING), None));
    assert_eq!(words(&request(5, Reservation::None, refund())), (Some(RequestedAction::REFUND_ACCOUNT), None));
    assert_eq!(words(&request(5, last(), debit())), (None, Some(TerminationCause::LOGOUT)));
    let release = request(5, open(1), Operation::Release);
    assert_eq!(words(&release), (None, Some(TerminationCause::SERVICE_NOT_PROVIDED)));
}

#[test]
fn each_reservation_has_its_own_session_id() {
    let rfc = settings(Profile::Rfc8506, Unit::Message);
    let id = |request: &Request| written(&rfc, request, |ccr| ccr.session_id.to_owned());
    let first = id(&request(4, Reservation::None, reserve(3)));
    assert_eq!(first, id(&request(9, open(1), Operation::Release)));
    assert_ne!(first, id(&request(10, Reservation::None, reserve(3))));
    assert_eq!(first, "proxy.example.org;1;2;000000000000abcd.4");
    assert_eq!(session_of("proxy.example.org", &first), Some((SessionKey(0x1_0000_0002, 0xabcd), 4)));
    assert_eq!(session_of("another.example.org", &first), None);
    for foreign in ["", "a;b;c", "proxy;1;2", "proxy;1;2;zz.1", "proxy;99999999999;2;1.1", "proxy;1;2;1.x"] {
        assert_eq!(session_of("proxy", foreign), None, "{foreign}");
    }
}

#[test]
fn profile_decides_about_units_and_service_information() {
    let reserve = request(4, Reservation::None, reserve(3));
    written(&settings(Profile::Rfc8506, Unit::Message), &reserve, |ccr| {
        assert!(ccr.services.is_empty() && ccr.multiple_services_indicator.is_none());
        assert_eq!(ccr.service_identifier, Some(7));
    });
    let ro = settings(Profile::Ro, Unit::Message);
    written(&ro, &reserve, |ccr| {
        assert_eq!(ccr.services[0].service_identifier, [7]);
        assert_eq!((ccr.service_identifier, ccr.requested_service_unit.as_ref()), (None, None));
        assert_eq!(ccr.multiple_services_indicator, Some(MultipleServices::MULTIPLE_SERVICES_SUPPORTED));
    });
    let mut bytes = Vec::new();
    write(&ro, &reserve, &CALL, Target::default(), Time(1_800_000_000), &mut bytes).expect("short enough");
    let information = Message::parse(&bytes).and_then(|message| message.find(avp::SERVICE_INFORMATION));
    let groups: Vec<RawAvp<'_>> = information.expect("Service-Information").group().flatten().collect();
    assert!(groups[0].is(avp::IMS_INFORMATION) && groups[0].is_mandatory());
    // A server without OMA's AVPs must be able to ignore them.
    assert!(groups[1].is(avp::SERVICE_GENERIC_INFORMATION) && !groups[1].is_mandatory());
    assert!(groups[2].is(avp::IM_INFORMATION) && !groups[2].is_mandatory());
}

/// An AVP of a group.
fn inner<'a>(group: RawAvp<'a>, wanted: avp::Avp) -> RawAvp<'a> {
    group.group().flatten().find(|found| found.is(wanted)).unwrap_or_else(|| panic!("no {wanted}"))
}

#[test]
fn every_request_of_a_session_has_service_information_and_the_same_ids() {
    let mut ro = settings(Profile::Ro, Unit::Message);
    ro.keys.rating_group = Some(9);
    let parties = [
        (Direction::Pull, "tel:+4912345", "sip:im@example.org"),
        (Direction::Push, "sip:im@example.org", "tel:+4912345"),
    ];
    for (direction, calling, called) in parties {
        for (number, reservation, operation, messages) in [
            (4, Reservation::None, reserve(3), 0),
            (5, open(3), reserve(2), 0),
            (6, open(3), debit(), 1),
            (7, last(), debit(), 1),
            (7, open(2), Operation::Release, 0),
            (9, Reservation::None, debit(), 1),
            (9, Reservation::None, refund(), 0),
        ] {
            let (mut bytes, call) = (Vec::new(), Call { direction, ..CALL });
            let request = request(number, reservation, operation);
            let target = Target { host: Some("ocs1.example.org"), others: &[] };
            write(&ro, &request, &call, target, Time(1_800_000_000), &mut bytes).expect("short enough");
            let message = Message::parse(&bytes).expect("a message");
            let ccr = CreditControlRequest::decode(&message).expect("readable");
            assert_eq!((&ccr.services[0].service_identifier[..], ccr.services[0].rating_group), (&[7][..], Some(9)));
            assert_eq!((ccr.destination_host, ccr.destination_realm), (Some("ocs1.example.org"), "ocs.example.org"));
            let all = message.find(avp::SERVICE_INFORMATION).expect("Service-Information");
            let ims = inner(all, avp::IMS_INFORMATION);
            for (avp, wanted) in [
                (avp::USER_SESSION_ID, "a84b@pc33"),
                (avp::CALLING_PARTY_ADDRESS, calling),
                (avp::CALLED_PARTY_ADDRESS, called),
                (avp::IMS_CHARGING_IDENTIFIER, "icid-1"),
            ] {
                assert_eq!(inner(ims, avp).text(), Ok(wanted));
            }
            assert_eq!(inner(inner(ims, avp::EVENT_TYPE), avp::SIP_METHOD).text(), Ok("INVITE"));
            assert_eq!(
                (inner(ims, avp::NODE_FUNCTIONALITY).i32(), inner(ims, avp::ROLE_OF_NODE).i32()),
                (Ok(6), Ok(1))
            );
            let generic = inner(all, avp::SERVICE_GENERIC_INFORMATION);
            assert_eq!(inner(generic, avp::APPLICATION_SERVICE_TYPE).i32(), Ok(102), "RETRIEVAL");
            let im = inner(all, avp::IM_INFORMATION);
            assert_eq!(inner(im, avp::TOTAL_NUMBER_OF_MESSAGES_SENT).u32(), Ok(messages));
            assert_eq!(inner(im, avp::NUMBER_OF_MESSAGES_SUCCESSFULLY_SENT).u32(), Ok(messages));
        }
    }
}

/// Service-Information of a request, as written.
fn information(request: &Request, call: &Call<'_>, check: impl FnOnce(RawAvp<'_>)) {
    let (ro, mut bytes) = (settings(Profile::Ro, Unit::Message), Vec::new());
    write(&ro, request, call, Target::default(), Time(1_800_000_000), &mut bytes).expect("short enough");
    let message = Message::parse(&bytes).expect("a message");
    check(message.find(avp::SERVICE_INFORMATION).expect("Service-Information"));
}

#[test]
fn service_information_says_service_parties_and_method() {
    use crate::charge::service::Service as Kind;
    let (account, other) = ("tel:+4912345", "sip:im@example.org");
    for (service, direction, method, code, role, calling) in [
        (Kind::Retrieval, Direction::Pull, "INVITE", 102, 1, account),
        (Kind::Retrieval, Direction::Push, "INVITE", 102, 1, other),
        (Kind::Sending, Direction::Push, "INVITE", 100, 0, account),
        (Kind::Sending, Direction::Pull, "INVITE", 100, 0, other),
        (Kind::Receiving, Direction::Push, "MESSAGE", 101, 1, other),
    ] {
        let request = Request { service, ..request(4, Reservation::None, reserve(1)) };
        information(&request, &Call { direction, method, ..CALL }, |all| {
            let ims = inner(all, avp::IMS_INFORMATION);
            let generic = inner(all, avp::SERVICE_GENERIC_INFORMATION);
            assert_eq!(inner(generic, avp::APPLICATION_SERVICE_TYPE).i32(), Ok(code), "{service:?} {direction:?}");
            assert_eq!(inner(ims, avp::ROLE_OF_NODE).i32(), Ok(role), "{service:?}");
            assert_eq!(inner(ims, avp::CALLING_PARTY_ADDRESS).text(), Ok(calling), "{service:?} {direction:?}");
            assert_eq!(inner(inner(ims, avp::EVENT_TYPE), avp::SIP_METHOD).text(), Ok(method));
            assert!(!ims.group().flatten().any(|found| found.is(avp::SERVICE_SPECIFIC_INFO)), "no message yet");
        });
    }
}

#[test]
fn debits_say_class_size_copies_and_delivery() {
    let debit_by = |wanted: Trigger| match debit() {
        Operation::Debit { message_id, part, octets, class, units, quota, .. } => {
            Operation::Debit { message_id, part, octets, class, units, quota, trigger: wanted }
        }
        other => other,
    };
    for (recipients, operation, sent, delivered, exploded) in [
        (0, debit_by(Trigger::Response), 1, 1, None),
        (1, debit_by(Trigger::Timeout), 1, 0, None),
        (5, debit_by(Trigger::Response), 1, 1, Some((5, 5))),
        (5, debit_by(Trigger::Error(403)), 1, 0, Some((5, 0))),
        (5, refund(), 0, 0, Some((0, 0))),
    ] {
        let request = Request { recipients, ..request(9, Reservation::None, operation) };
        information(&request, &CALL, |all| {
            let im = inner(all, avp::IM_INFORMATION);
            assert_eq!(inner(im, avp::TOTAL_NUMBER_OF_MESSAGES_SENT).u32(), Ok(sent));
            assert_eq!(inner(im, avp::NUMBER_OF_MESSAGES_SUCCESSFULLY_SENT).u32(), Ok(delivered));
            let find = |wanted| im.group().flatten().find(|found: &RawAvp<'_>| found.is(wanted));
            let counts = find(avp::TOTAL_NUMBER_OF_MESSAGES_EXPLODED).map(|total| {
                let successful = inner(im, avp::NUMBER_OF_MESSAGES_SUCCESSFULLY_EXPLODED);
                (total.u32().expect("a number"), successful.u32().expect("a number"))
            });
            assert_eq!(counts, exploded);
            let specific: Vec<_> = inner(all, avp::IMS_INFORMATION)
                .group()
                .flatten()
                .filter(|found| found.is(avp::SERVICE_SPECIFIC_INFO))
                .map(|info| {
                    let (data, kind) =
                        (inner(info, avp::SERVICE_SPECIFIC_DATA), inner(info, avp::SERVICE_SPECIFIC_TYPE));
                    (kind.u32().expect("a number"), data.text().expect("a text").to_owned())
                })
                .collect();
            assert_eq!(specific, [(1, "text".to_owned()), (2, "1000".to_owned())]);
        });
    }
}

#[test]
fn subscription_id_is_e164_for_global_numbers_and_otherwise_a_sip_uri() {
    assert_eq!(subscription("tel:+49123").data, "49123");
    assert_eq!(subscription("tel:+49123").kind, SubscriptionIdType::END_USER_E164);
    assert_eq!(subscription("sip:a@b").data, "sip:a@b");
    assert_eq!(subscription("sip:a@b").kind, SubscriptionIdType::END_USER_SIP_URI);
}

/// The response of an answer.
fn response(profile: &CreditControlProfile, request: &Request, answer: CreditControlAnswer<'_>) -> Response {
    read(profile, request, &CreditControlAnswer { origin_host: "ocs", origin_realm: "r", ..answer })
}

fn answer<'a>(code: u32, granted: Option<u64>) -> CreditControlAnswer<'a> {
    let granted_service_unit =
        granted.map(|count| ServiceUnits { service_specific: Some(count), ..Default::default() });
    CreditControlAnswer { result_code: Some(ResultCode(code)), granted_service_unit, ..Default::default() }
}

#[test]
fn only_additional_units_count_as_granted() {
    let rfc = settings(Profile::Rfc8506, Unit::Message);
    let quota = |reservation, asked, granted| match response(
        &rfc,
        &request(4, reservation, reserve(asked)),
        answer(2001, granted),
    ) {
        Response::Granted(grant) => (grant.quota.0, grant.reserved.map(|all| all.0)),
        other => panic!("{other:?}"),
    };
    assert_eq!(quota(Reservation::None, 3, Some(3)), (3, Some(3)));
    assert_eq!(quota(Reservation::None, 3, Some(2)), (2, Some(2)));
    assert_eq!(quota(Reservation::None, 3, Some(9)), (3, Some(9)));
    assert_eq!(quota(open(2), 3, Some(5)), (3, Some(5)));
    assert_eq!(quota(open(2), 3, Some(1)), (0, Some(1)));
    // Success without units, or with units of another kind, grants nothing.
    assert_eq!(quota(Reservation::None, 3, None), (0, Some(0)));
    let seconds = ServiceUnits { time: Some(60), ..Default::default() };
    let other = CreditControlAnswer { granted_service_unit: Some(seconds), ..answer(2001, None) };
    let nothing = Response::Granted(Grant { reserved: Some(Quota(0)), ..Grant::default() });
    assert_eq!(response(&rfc, &request(4, Reservation::None, reserve(1)), other), nothing);
}

#[test]
fn units_validity_and_final_units_of_a_service_are_read() {
    let ro = settings(Profile::Ro, Unit::Message);
    let service = Service {
        granted_service_unit: Some(ServiceUnits { service_specific: Some(1), ..Default::default() }),
        validity_time: Some(60),
        final_unit_indication: Some(FinalUnitIndication { action: None, ..Default::default() }),
        ..Default::default()
    };
    // A service without Result-Code has not failed.
    let with = |service: Service<'static>| CreditControlAnswer { services: vec![service], ..answer(2001, None) };
    let (quota, reserved, valid_for) = (Quota(1), Some(Quota(1)), Some(60));
    let granted = Response::Granted(Grant { quota, reserved, valid_for, last: true, ..Grant::default() });
    let reserve = request(4, Reservation::None, reserve(1));
    assert_eq!(response(&ro, &reserve, with(service.clone())), granted);
    let refused = Service { result_code: Some(ResultCode(4012)), ..service };
    assert_eq!(response(&ro, &reserve, with(refused)), Response::Denied(Denial::NoCredit));
}

#[test]
fn failure_handling_and_final_unit_actions_are_read() {
    use crate::wire::diameter::codes::FinalUnitAction;
    let rfc = settings(Profile::Rfc8506, Unit::Message);
    let reserve = request(4, Reservation::None, reserve(1));
    let heard = |answer| match response(&rfc, &reserve, answer) {
        Response::Granted(grant) => (grant.last, grant.on_failure),
        other => panic!("{other:?}"),
    };
    assert_eq!(heard(answer(2001, Some(1))), (false, None));
    for (handling, expected) in [
        (FailureHandling::TERMINATE, OnFailure::Deny),
        (FailureHandling::CONTINUE, OnFailure::Grant),
        (FailureHandling::RETRY_AND_TERMINATE, OnFailure::Deny),
    ] {
        let answer = CreditControlAnswer { failure_handling: Some(handling), ..answer(2001, Some(1)) };
        assert_eq!(heard(answer), (false, Some(expected)));
    }
    for action in [FinalUnitAction::TERMINATE, FinalUnitAction::REDIRECT, FinalUnitAction::RESTRICT_ACCESS] {
        let last = Some(FinalUnitIndication { action: Some(action), ..Default::default() });
        assert!(heard(CreditControlAnswer { final_unit_indication: last, ..answer(2001, Some(1)) }).0);
    }
}

#[test]
fn money_and_octets_are_converted_to_quota() {
    let money = settings(Profile::Rfc8506, Unit::Money);
    let granted = |digits, exponent| {
        let money = Money { unit_value: UnitValue { digits, exponent }, currency_code: None };
        ServiceUnits { money: Some(money), ..Default::default() }
    };
    let measure = Measure { unit: QuotaUnit::Message, price: 25 };
    // 25 cents buy one (RFC 8506, 8.10).
    assert_eq!(worth(&money, measure, &granted(75, Some(-2))), Quota(3));
    assert_eq!(worth(&money, measure, &granted(749, Some(-3))), Quota(2));
    assert_eq!(worth(&money, measure, &granted(1, None)), Quota(4));
    assert_eq!(worth(&money, measure, &granted(-5, None)), Quota(0));
    let wanted = units(&money, measure, Quota(3), 0).money.expect("money").unit_value;
    assert_eq!((wanted.digits, wanted.exponent), (75, Some(-2)));
    let mut whole = money.clone();
    whole.keys.exponent = 0;
    assert_eq!(worth(&whole, measure, &granted(75, None)), Quota(3));
    assert_eq!(units(&whole, measure, Quota(3), 0).money.expect("money").unit_value.exponent, None);
    assert_eq!(worth(&money, measure, &granted(i64::MAX, Some(i32::MAX))), Quota(u32::MAX));
    assert_eq!(worth(&money, measure, &granted(i64::MAX, Some(i32::MIN))), Quota(0));
    let octets = settings(Profile::Rfc8506, Unit::Octets);
    let kilobyte = Measure { unit: QuotaUnit::Kilobyte, price: 1 };
    let granted = ServiceUnits { total_octets: Some(5000), ..Default::default() };
    assert_eq!(worth(&octets, kilobyte, &granted), Quota(4));
}

#[test]
fn units_cover_all_recipients() {
    for (unit, recipients, quota, count) in [
        (Unit::Message, 0, 1, 1),
        (Unit::Message, 12, 12, 12),
        (Unit::Octets, 0, 1, 1000),
        (Unit::Octets, 12, 12, 12_000),
        (Unit::Money, 12, 12, 12 * 25),
    ] {
        let mut operation = debit();
        if let Operation::Debit { quota: used, .. } = &mut operation {
            *used = Quota(quota);
        }
        let request = Request { recipients, ..request(5, Reservation::None, operation) };
        let used = Plan::new(&request).units(&settings(Profile::Rfc8506, unit), request.measure);
        let units = used.requested.expect("an event requests what it debits");
        let money = units.money.map(|money| u64::try_from(money.unit_value.digits).expect("a price"));
        assert_eq!(units.service_specific.or(units.total_octets).or(money), Some(count), "{unit:?}");
    }
}

#[test]
fn result_codes_are_mapped() {
    let rfc = settings(Profile::Rfc8506, Unit::Message);
    let of = |code, reservation, operation| response(&rfc, &request(5, reservation, operation), answer(code, None));
    let nothing = Some(Grant { reserved: Some(Quota(0)), ..Grant::default() });
    let ended = Response::Debited { balance: None, ended: true, rest: nothing.clone() };
    let debited = Response::Debited { balance: None, ended: false, rest: nothing };
    let released = Response::Released { balance: None };
    let denied = |denial| Response::Denied(denial);
    let again = Response::Failed(Failure::Enabler);
    for (code, to_reserve, to_debit, to_release) in [
        (4010, denied(Denial::ServiceDenied), debited.clone(), released.clone()),
        (4011, Response::Free, ended, released.clone()),
        (4012, denied(Denial::NoCredit), debited.clone(), released.clone()),
        (5002, Response::NoReservation, Response::NoReservation, Response::NoReservation),
        (5003, denied(Denial::NotAuthorized), denied(Denial::NotAuthorized), denied(Denial::NotAuthorized)),
        (5030, denied(Denial::UnknownSubscriber), denied(Denial::UnknownSubscriber), denied(Denial::UnknownSubscriber)),
        (5031, denied(Denial::RatingFailed), denied(Denial::RatingFailed), denied(Denial::RatingFailed)),
        (4002, denied(Denial::Refused(4002)), again.clone(), again.clone()),
        (5005, denied(Denial::Refused(5005)), denied(Denial::Refused(5005)), denied(Denial::Refused(5005))),
    ] {
        assert_eq!(of(code, Reservation::None, reserve(1)), to_reserve, "{code}");
        assert_eq!(of(code, open(2), debit()), to_debit, "{code}");
        assert_eq!(of(code, open(2), Operation::Release), to_release, "{code}");
    }
    assert_eq!(of(4012, Reservation::None, reserve(2)), denied(Denial::NotSoMany));
    // A refused one-time event has moved nothing.
    for (code, expected) in [
        (4010, denied(Denial::ServiceDenied)),
        (4011, Response::Free),
        (4012, denied(Denial::NoCredit)),
        (5030, denied(Denial::UnknownSubscriber)),
        (4002, again),
    ] {
        assert_eq!(of(code, Reservation::None, debit()), expected, "{code}");
    }
    assert_eq!(of(4012, Reservation::None, refund()), denied(Denial::NoCredit));
    assert_eq!(of(2001, Reservation::None, refund()), Response::Refunded { balance: None });
    // The refusal of another service does not concern a refund in the command.
    let other = Service { rating_group: Some(99), result_code: Some(ResultCode(4012)), ..Service::default() };
    let with_other = CreditControlAnswer { services: vec![other], ..answer(2001, None) };
    assert_eq!(
        response(&rfc, &request(5, Reservation::None, refund()), with_other),
        Response::Refunded { balance: None }
    );
    for (code, failure) in [
        (3002, Failure::Undeliverable),
        (3003, Failure::Undeliverable),
        (3004, Failure::Busy),
        (3005, Failure::Undeliverable),
        (3006, Failure::Undeliverable),
        (3010, Failure::Enabler),
    ] {
        for operation in [reserve(1), debit(), Operation::Release] {
            assert_eq!(of(code, open(2), operation), Response::Failed(failure), "{code}");
        }
    }
    assert_eq!(of(2001, open(2), debit()), debited);
    assert_eq!(of(2001, last(), debit()), Response::Debited { balance: None, ended: true, rest: None });
    assert_eq!(of(2001, Reservation::None, debit()), Response::debited(None));
    assert_eq!(of(2002, open(2), Operation::Release), released);
}
