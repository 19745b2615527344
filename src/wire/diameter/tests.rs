//! Handwritten, invalid and random messages.

use super::base::{
    AbortSessionRequest, Answer, CapabilitiesExchangeAnswer, CapabilitiesExchangeRequest, DeviceWatchdogRequest,
    DisconnectPeerRequest, PeerAnswer, ReAuthRequest, VendorSpecificApplication,
};
use super::credit_control::{
    Balance, CostInformation, FinalUnitIndication, Money, RedirectServer, SubscriptionId, UnitValue,
};
use super::*;
use crate::wire::diameter::codes::*;
use proptest::prelude::*;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const HBH: HopByHop = HopByHop(0x0102_0304);
const E2E: EndToEnd = EndToEnd(0xa1a2_a3a4);

/// A CCR with these AVPs.
fn request(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let flags = Flags::PROXIABLE;
    let application = dictionary::APPLICATION_CREDIT_CONTROL;
    let mut out = Writer::request(&mut bytes, Command::CREDIT_CONTROL, flags, application, HBH, E2E);
    fill(&mut out);
    out.finish().expect("short enough");
    bytes
}

/// A CCA with these AVPs.
fn answer(fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let asked = request(|_| {});
    let mut bytes = Vec::new();
    let mut out = Writer::answer(&mut bytes, &message(&asked).header);
    fill(&mut out);
    out.finish().expect("short enough");
    bytes
}

fn message(bytes: &[u8]) -> Message<'_> {
    Message::parse(bytes).expect("one whole message")
}

/// A CCR with the required fields.
fn minimal() -> CreditControlRequest<'static> {
    CreditControlRequest {
        session_id: "a;1;2",
        origin_host: "a.example",
        origin_realm: "example",
        destination_realm: "ocs.example",
        auth_application_id: 4,
        service_context_id: "im@example",
        request_type: RequestType::INITIAL_REQUEST,
        ..CreditControlRequest::default()
    }
}

fn money(digits: i64) -> Money {
    Money { unit_value: UnitValue { digits, exponent: Some(-2) }, currency_code: Some(978) }
}

/// A CCR with every field set.
fn full() -> CreditControlRequest<'static> {
    let units = ServiceUnits {
        tariff_time_change: Some(Time(1_800_000_000)),
        tariff_change_usage: Some(TariffChangeUsage::UNIT_AFTER_TARIFF_CHANGE),
        time: Some(60),
        money: Some(money(i64::MIN)),
        total_octets: Some(u64::MAX),
        input_octets: Some(1),
        output_octets: Some(2),
        service_specific: Some(3),
        reporting_reason: Some(ReportingReason::FINAL),
    };
    let service = Service {
        granted_service_unit: None,
        requested_service_unit: Some(units.clone()),
        used_service_unit: vec![units.clone(), ServiceUnits::default()],
        service_identifier: vec![7, 8],
        rating_group: Some(9),
        ..Service::default()
    };
    let sip = SubscriptionId { kind: SubscriptionIdType::END_USER_SIP_URI, data: "sip:alice@example.com" };
    let tel = SubscriptionId { kind: SubscriptionIdType::END_USER_E164, data: "4930123456" };
    CreditControlRequest {
        request_type: RequestType::UPDATE_REQUEST,
        request_number: 17,
        destination_host: Some("ocs1.ocs.example"),
        user_name: Some("älice@example.com"),
        cc_sub_session_id: Some(5),
        origin_state_id: Some(1_700_000_000),
        event_timestamp: Some(Time(1_795_000_000)),
        subscription_id: vec![sip, tel],
        service_identifier: Some(1),
        termination_cause: Some(TerminationCause::LINK_BROKEN),
        requested_service_unit: Some(units.clone()),
        requested_action: Some(RequestedAction::CHECK_BALANCE),
        used_service_unit: vec![units],
        multiple_services_indicator: Some(MultipleServices::MULTIPLE_SERVICES_SUPPORTED),
        services: vec![service, Service::default()],
        ..minimal()
    }
}

/// A CCA with every field set.
fn full_answer() -> CreditControlAnswer<'static> {
    let granted = ServiceUnits { service_specific: Some(2), ..ServiceUnits::default() };
    let redirect = RedirectServer { address_type: RedirectAddressType::SIP_URI, address: "sip:topup@example.com" };
    let last = FinalUnitIndication {
        action: Some(FinalUnitAction::REDIRECT),
        restriction_filter_rule: vec![b"permit in ip from any to any"],
        filter_id: vec!["walled-garden"],
        redirect_server: Some(redirect),
    };
    let service = Service {
        granted_service_unit: Some(granted.clone()),
        service_identifier: vec![1],
        rating_group: Some(2),
        validity_time: Some(3600),
        result_code: Some(ResultCode::CREDIT_LIMIT_REACHED),
        final_unit_indication: Some(last.clone()),
        ..Service::default()
    };
    let unit_value = UnitValue { digits: 125, exponent: Some(-2) };
    CreditControlAnswer {
        session_id: Some("a;1;2"),
        result_code: Some(ResultCode::SUCCESS),
        experimental_result: Some(ExperimentalResult { vendor_id: 10_415, code: ResultCode(5030) }),
        origin_host: "ocs.example",
        origin_realm: "example",
        auth_application_id: Some(4),
        request_type: Some(RequestType::TERMINATION_REQUEST),
        request_number: Some(3),
        session_failover: Some(SessionFailover::FAILOVER_SUPPORTED),
        cc_sub_session_id: Some(1),
        origin_state_id: Some(12),
        event_timestamp: Some(Time(0)),
        granted_service_unit: Some(granted),
        services: vec![service],
        cost_information: Some(CostInformation {
            unit_value: unit_value.clone(),
            currency_code: Some(978),
            cost_unit: Some("message"),
        }),
        final_unit_indication: Some(last),
        check_balance_result: Some(CheckBalanceResult::NO_CREDIT),
        failure_handling: Some(FailureHandling::CONTINUE),
        debit_failure_handling: Some(DebitFailureHandling::CONTINUE),
        validity_time: Some(60),
        remaining_balance: Some(Balance { unit_value, currency_code: None }),
        error_message: Some(b"\xff not UTF-8"),
        error_reporting_host: Some("dra.example"),
        failed_avp: vec![FailedAvp { avp: Some(RawAvp { code: 437, vendor: 0, flags: 0x40, data: b"" }) }],
    }
}

/// A valid message of each command.
fn samples() -> Vec<Vec<u8>> {
    let mut samples = vec![request(|out| full().write(out)), answer(|out| full_answer().write(out))];
    let cer = cer();
    samples.push(request(|out| cer.write(out)));
    let cea = CapabilitiesExchangeAnswer {
        result_code: ResultCode::SUCCESS,
        origin_host: "b",
        origin_realm: "c",
        host_ip_address: vec![Address::Ip(Ipv6Addr::LOCALHOST.into())],
        product_name: Some(b"x"),
        ..CapabilitiesExchangeAnswer::default()
    };
    samples.push(answer(|out| cea.write(out)));
    let watchdog = DeviceWatchdogRequest { origin_host: "a", origin_realm: "b", origin_state_id: Some(1) };
    samples.push(request(|out| watchdog.write(out)));
    let leave = DisconnectPeerRequest {
        origin_host: "a",
        origin_realm: "b",
        disconnect_cause: DisconnectCause::DO_NOT_WANT_TO_TALK_TO_YOU,
    };
    samples.push(request(|out| leave.write(out)));
    let common = ReAuthRequest {
        session_id: "s",
        origin_host: "o",
        origin_realm: "r",
        destination_realm: "d",
        destination_host: "h",
        auth_application_id: 4,
        rating_group: Some(3),
        ..ReAuthRequest::default()
    };
    samples.push(request(|out| common.write(out)));
    let plain = Answer {
        result_code: Some(ResultCode::LIMITED_SUCCESS),
        origin_host: "a",
        origin_realm: "b",
        ..Answer::default()
    };
    samples.push(answer(|out| plain.write(out)));
    samples
}

fn cer() -> CapabilitiesExchangeRequest<'static> {
    CapabilitiesExchangeRequest {
        origin_host: "a",
        origin_realm: "b",
        host_ip_address: vec![Address::Ip(Ipv4Addr::LOCALHOST.into()), Address::Other(8)],
        vendor_id: 0,
        product_name: "imcharge",
        supported_vendor_id: vec![10_415],
        auth_application_id: vec![4],
        vendor_specific_application_id: vec![VendorSpecificApplication {
            vendor_id: vec![10_415],
            auth_application_id: vec![4],
            acct_application_id: vec![],
        }],
        ..CapabilitiesExchangeRequest::default()
    }
}

/// Decodes bytes as every command, and each AVP as a group.
fn read_as_everything(bytes: &[u8]) {
    let _ = frame(bytes);
    let Some(message) = Message::parse(bytes) else { return };
    let faults = [
        CreditControlRequest::decode(&message).err(),
        CreditControlAnswer::decode(&message).err(),
        CapabilitiesExchangeRequest::decode(&message).err(),
        CapabilitiesExchangeAnswer::decode(&message).err(),
        DeviceWatchdogRequest::decode(&message).err(),
        DisconnectPeerRequest::decode(&message).err(),
        ReAuthRequest::decode(&message).err(),
        AbortSessionRequest::decode(&message).err(),
        Answer::decode(&message).err(),
        PeerAnswer::decode(&message).err(),
    ];
    for avp in message.avps().map_while(Result::ok) {
        let _ = (avp.u32(), avp.u64(), avp.i32(), avp.i64(), avp.text().is_ok(), avp.time(), avp.address());
        assert!(avp.group().count() <= avp::AVPS_MAX + 1);
    }
    // Each fault has an answer that can be decoded.
    for fault in faults.into_iter().flatten() {
        let mut out = Vec::new();
        let session = message.find(dictionary::SESSION_ID).and_then(|avp| avp.text().ok());
        if refuse(&mut out, &message.header, session, ("h", "r"), &fault).is_ok() {
            let answer = Answer::decode(&self::message(&out)).expect("a valid answer").body;
            assert_eq!(answer.outcome(), Some(Outcome::Result(fault.result)));
            assert!(!fault.to_string().is_empty());
        }
    }
}

#[test]
fn request_is_encoded_as_the_rfc_says() {
    let bytes = request(|out| {
        out.text(dictionary::SESSION_ID, "a;1;2");
        out.i32(dictionary::CC_REQUEST_TYPE, 1);
        out.group(dictionary::REQUESTED_SERVICE_UNIT, |out| out.u64(dictionary::CC_SERVICE_SPECIFIC_UNITS, 3));
        out.group(dictionary::SERVICE_INFORMATION, |out| {
            out.group(dictionary::IM_INFORMATION.optional(), |out| {
                out.u32(dictionary::TOTAL_NUMBER_OF_MESSAGES_SENT, 5);
            });
        });
    });
    #[rustfmt::skip]
    let wanted: &[u8] = &[
        1, 0, 0, 112, 0xc0, 0, 1, 0x10, 0, 0, 0, 4, 1, 2, 3, 4, 0xa1, 0xa2, 0xa3, 0xa4,
        // Session-Id, 263: 8 + 5 octets, padded to 16.
        0, 0, 1, 7, 0x40, 0, 0, 13, b'a', b';', b'1', b';', b'2', 0, 0, 0,
        // CC-Request-Type, 416.
        0, 0, 1, 0xa0, 0x40, 0, 0, 12, 0, 0, 0, 1,
        // Requested-Service-Unit, 437, with CC-Service-Specific-Units, 417.
        0, 0, 1, 0xb5, 0x40, 0, 0, 24, 0, 0, 1, 0xa1, 0x40, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 3,
        // Service-Information, 873 of 3GPP, with IM-Information, 2110, M clear, with 2114.
        0, 0, 3, 0x69, 0xc0, 0, 0, 40, 0, 0, 0x28, 0xaf,
        0, 0, 8, 0x3e, 0x80, 0, 0, 28, 0, 0, 0x28, 0xaf,
        0, 0, 8, 0x42, 0xc0, 0, 0, 16, 0, 0, 0x28, 0xaf, 0, 0, 0, 5,
    ];
    assert_eq!(bytes, wanted);
}

#[test]
fn handwritten_answer_is_decoded() {
    #[rustfmt::skip]
    let bytes: &[u8] = &[
        1, 0, 0, 132, 0x40, 0, 1, 0x10, 0, 0, 0, 4, 1, 2, 3, 4, 0xa1, 0xa2, 0xa3, 0xa4,
        0, 0, 1, 7, 0x40, 0, 0, 9, b's', 0, 0, 0,
        0, 0, 1, 12, 0x40, 0, 0, 12, 0, 0, 7, 0xd1,
        0, 0, 1, 8, 0x40, 0, 0, 11, b'o', b'c', b's', 0,
        0, 0, 1, 40, 0x40, 0, 0, 9, b'r', 0, 0, 0,
        // An unknown AVP without M.
        0xff, 0, 0, 1, 0, 0, 0, 8,
        // Multiple-Services-Credit-Control, 456: Granted-Service-Unit, 431, then Result-Code.
        0, 0, 1, 0xc8, 0x40, 0, 0, 44,
        0, 0, 1, 0xaf, 0x40, 0, 0, 24, 0, 0, 1, 0xa1, 0x40, 0, 0, 16, 0, 0, 0, 0, 0, 0, 0, 2,
        0, 0, 1, 12, 0x40, 0, 0, 12, 0, 0, 7, 0xd1,
        // Credit-Control-Failure-Handling, 427.
        0, 0, 1, 0xab, 0x40, 0, 0, 12, 0, 0, 0, 1,
    ];
    assert_eq!(frame(bytes), Framed::Message(132));
    let answer = CreditControlAnswer::decode(&message(bytes)).expect("well formed");
    assert_eq!(answer.unsupported, None);
    let answer = answer.body;
    assert_eq!(answer.outcome(), Some(Outcome::Result(ResultCode::SUCCESS)));
    assert_eq!((answer.session_id, answer.origin_host, answer.request_number), (Some("s"), "ocs", None));
    assert_eq!(answer.failure_handling, Some(FailureHandling::CONTINUE));
    let [service] = answer.services.as_slice() else { panic!("one service") };
    assert_eq!(service.result_code, Some(ResultCode::SUCCESS));
    assert_eq!(service.granted_service_unit.as_ref().and_then(|units| units.service_specific), Some(2));
}

#[test]
fn encoded_messages_are_decoded() {
    let bytes = request(|out| full().write(out));
    assert_eq!(CreditControlRequest::decode(&message(&bytes)), Ok(full()));
    let bytes = answer(|out| full_answer().write(out));
    let decoded = CreditControlAnswer::decode(&message(&bytes));
    assert_eq!(decoded, Ok(Decoded { body: full_answer(), unsupported: None }));
    let bytes = request(|out| cer().write(out));
    assert_eq!(CapabilitiesExchangeRequest::decode(&message(&bytes)), Ok(cer()));
    let address = [Address::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)), Address::Other(8)];
    assert_eq!(cer().host_ip_address, address);
}

#[test]
fn answer_has_the_identifiers_of_its_request() {
    let asked = request(|_| {});
    let mut out = b"before".to_vec();
    let length = Writer::answer(&mut out, &message(&asked).header).finish().expect("short");
    assert_eq!((length, out.len()), (20, 26));
    let header = message(&out[6..]).header;
    assert!(!header.is_request() && !header.is_error() && header.flags.has(Flags::PROXIABLE));
    assert_eq!((header.hop_by_hop, header.end_to_end), (HBH, E2E));
    assert_eq!((header.command, header.application), (Command::CREDIT_CONTROL, 4));
}

#[test]
fn message_that_is_too_long_or_unfinished_is_removed() {
    let mut out = b"before".to_vec();
    let asked = request(|_| {});
    let header = message(&asked).header;
    let mut writer = Writer::answer(&mut out, &header);
    writer.group(dictionary::FAILED_AVP, |out| out.octets(dictionary::CLASS, &[0; MAX_MESSAGE]));
    assert_eq!(writer.finish(), Err(TooLong(MAX_MESSAGE + 20 + 16)));
    assert_eq!(out, b"before");
    let mut writer = Writer::answer(&mut out, &header);
    writer.octets(dictionary::CLASS, &vec![0; 1 << 24]);
    assert!(writer.finish().is_err() && out == b"before");
    let mut writer = Writer::answer(&mut out, &header);
    writer.u32(dictionary::RESULT_CODE, 2001);
    drop(writer);
    assert_eq!(out, b"before");
    let mut writer = Writer::answer(&mut out, &header);
    writer.octets(dictionary::CLASS, &[0; MAX_MESSAGE - 28]);
    assert_eq!(writer.finish(), Ok(MAX_MESSAGE));
    assert_eq!(frame(&out[6..]), Framed::Message(MAX_MESSAGE));
}

#[test]
fn stream_is_split_into_messages() {
    let header = |version: u8, length: u32| {
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&length.to_be_bytes());
        bytes[0] = version;
        bytes
    };
    let cases: &[(&[u8], Framed)] = &[
        (&[], Framed::Need(20)),
        (&[1], Framed::Need(19)),
        (&[1, 0, 0], Framed::Need(17)),
        (&header(1, 20), Framed::Message(20)),
        (&header(1, 24), Framed::Need(4)),
        (&header(1, 65_536), Framed::Need(65_516)),
        (&[2], Framed::FramingError(FramingError::Version(2))),
        (&[0], Framed::FramingError(FramingError::Version(0))),
        (b"HTTP/1.1 200 OK", Framed::FramingError(FramingError::Version(b'H'))),
        (&header(1, 0), Framed::FramingError(FramingError::Length(0))),
        (&header(1, 3), Framed::FramingError(FramingError::Length(3))),
        (&header(1, 8), Framed::FramingError(FramingError::Length(8))),
        (&header(1, 19), Framed::FramingError(FramingError::Length(19))),
        (&header(1, 21), Framed::FramingError(FramingError::Length(21))),
        (&header(1, 22), Framed::FramingError(FramingError::Length(22))),
        (&header(1, 65_535), Framed::FramingError(FramingError::Length(65_535))),
        (&header(1, 65_540), Framed::FramingError(FramingError::TooLong(65_540))),
        (&header(1, 0xff_ffff), Framed::FramingError(FramingError::TooLong(0xff_ffff))),
    ];
    for (bytes, wanted) in cases {
        assert_eq!(frame(bytes), *wanted, "{bytes:?}");
    }
    let mut two = request(|out| minimal().write(out));
    let first = two.len();
    two.extend(request(|_| {}));
    assert_eq!(frame(&two), Framed::Message(first));
    assert!(Message::parse(&two).is_none(), "more than one message");
    assert_eq!(FramingError::Version(2).result(), ResultCode::UNSUPPORTED_VERSION);
    assert_eq!(FramingError::Length(3).result(), ResultCode::INVALID_MESSAGE_LENGTH);
}

#[test]
fn invalid_flags_are_detected() {
    for (flags, valid) in
        [(0x80, true), (0xc0, true), (0xd0, true), (0x8f, true), (0xa0, false), (0, true), (0x20, true), (0x10, false)]
    {
        let mut bytes = request(|_| {});
        bytes[4] = flags;
        assert_eq!(message(&bytes).header.has_valid_flags(), valid, "{flags:#x}");
    }
}

/// Result-Code, and code and data of the AVP in Failed-AVP.
type Refusal = (ResultCode, u32, Vec<u8>);

/// A message that ends with these octets.
fn ending(octets: &[u8]) -> Vec<u8> {
    let mut bytes = request(|out| minimal().write(out));
    bytes.extend_from_slice(octets);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_be_bytes());
    bytes[0] = 1;
    bytes
}

/// The refusal of a CCR that ends with these octets; `None`: it is accepted.
fn refusal(octets: &[u8]) -> Option<Refusal> {
    let bytes = ending(octets);
    let message = message(&bytes);
    let fault = CreditControlRequest::decode(&message).err()?;
    let mut out = Vec::new();
    refuse(&mut out, &message.header, Some("a;1;2"), ("h", "r"), &fault).expect("short");
    let refused = self::message(&out);
    assert!(refused.header.is_error());
    let answer = CreditControlAnswer::decode(&refused).expect("well formed").body;
    let failed = answer.failed_avp.first().and_then(|failed| failed.avp).expect("a Failed-AVP");
    assert_eq!(answer.outcome(), Some(Outcome::Result(fault.result)));
    Some((fault.result, failed.code, failed.data.to_vec()))
}

#[test]
fn invalid_lengths_are_refused_with_the_avp() {
    let wrong = ResultCode::INVALID_AVP_LENGTH;
    let zeros = |octets: usize| vec![0; octets];
    #[rustfmt::skip]
    let cases: &[(&str, &[u8], Refusal)] = &[
        ("length 0", &[0, 0, 1, 0xb4, 0x40, 0, 0, 0, 0, 0, 0, 0], (wrong, 436, zeros(4))),
        ("length 3", &[0, 0, 1, 0xb4, 0x40, 0, 0, 3, 0, 0, 0, 0], (wrong, 436, zeros(4))),
        ("length 7", &[0, 0, 1, 0xb4, 0x40, 0, 0, 7, 0, 0, 0, 0], (wrong, 436, zeros(4))),
        ("no data", &[0, 0, 1, 0xb4, 0x40, 0, 0, 8], (wrong, 436, zeros(4))),
        ("one octet", &[0, 0, 1, 0xb4, 0x40, 0, 0, 9, 1, 0, 0, 0], (wrong, 436, vec![1])),
        ("five octets", &[0, 0, 1, 0xb4, 0x40, 0, 0, 13, 0, 0, 0, 1, 2, 0, 0, 0], (wrong, 436, vec![0, 0, 0, 1, 2])),
        ("beyond the end", &[0, 0, 1, 0xb4, 0x40, 0, 0, 16, 0, 0, 0, 0], (wrong, 436, zeros(4))),
        ("far beyond", &[0, 0, 1, 0xb4, 0x40, 0xff, 0xff, 0xff, 0, 0, 0, 0], (wrong, 436, zeros(4))),
        ("V and 8", &[0, 0, 0, 1, 0xc0, 0, 0, 8, 0, 0, 0, 9], (wrong, 1, vec![])),
        ("V and 11", &[0, 0, 0, 1, 0xc0, 0, 0, 11, 0, 0, 0, 9], (wrong, 1, vec![])),
        ("V without room for the vendor", &[0, 0, 0, 1, 0xc0, 0, 0, 8], (wrong, 1, vec![])),
        ("half a header", &[0, 0, 1, 0xb4], (wrong, 436, zeros(4))),
        ("in a group", &[0, 0, 1, 0xb5, 0x40, 0, 0, 16, 0, 0, 1, 0xa4, 0x40, 0, 0, 9], (wrong, 420, zeros(4))),
        ("half a header in a group", &[0, 0, 1, 0xb5, 0x40, 0, 0, 12, 0, 0, 1, 0xa4], (wrong, 420, zeros(4))),
        ("padding beyond a group",
            &[0, 0, 1, 0xbb, 0x40, 0, 0, 17, 0, 0, 1, 0xbc, 0x40, 0, 0, 9, b'x', 0, 0, 0], (wrong, 444, vec![])),
    ];
    for (name, octets, wanted) in cases {
        assert_eq!(refusal(octets).as_ref(), Some(wanted), "{name}");
    }
    assert_eq!(refusal(&[0, 0, 1, 0xb4, 0x40, 0, 0, 12, 0, 0, 0, 1]), None, "a good one");
}

#[test]
fn violations_of_the_grammar_are_refused_with_the_avp() {
    let unknown = [0, 1, 0, 0, 0x40, 0, 0, 8];
    assert_eq!(refusal(&unknown), Some((ResultCode::AVP_UNSUPPORTED, 65_536, vec![])));
    assert_eq!(refusal(&[0, 1, 0, 0, 0, 0, 0, 8]), None, "unknown without M");
    let vendor = [0, 0, 1, 7, 0xc0, 0, 0, 12, 0, 0, 0, 9];
    assert_eq!(refusal(&vendor), Some((ResultCode::AVP_UNSUPPORTED, 263, vec![])), "a known code of another vendor");
    let again = [0, 0, 1, 7, 0x40, 0, 0, 9, b'x', 0, 0, 0];
    assert_eq!(refusal(&again), Some((ResultCode::AVP_OCCURS_TOO_MANY_TIMES, 263, b"x".to_vec())));
    let not_utf8 = [0, 0, 0, 1, 0x40, 0, 0, 9, 0xff, 0, 0, 0];
    assert_eq!(refusal(&not_utf8), Some((ResultCode::INVALID_AVP_VALUE, 1, vec![0xff])));
    let no_type = [0, 0, 1, 0xbb, 0x40, 0, 0, 8];
    assert_eq!(refusal(&no_type), Some((ResultCode::MISSING_AVP, 450, vec![0; 4])), "in a group");
    let unknown_in_group = [0, 0, 1, 0xb5, 0x40, 0, 0, 16, 0, 1, 0, 0, 0x40, 0, 0, 8];
    assert_eq!(refusal(&unknown_in_group), Some((ResultCode::AVP_UNSUPPORTED, 65_536, vec![])));
    let service = [0, 0, 1, 0xc8, 0x40, 0, 0, 8];
    assert_eq!(refusal(&service.repeat(MANY_MAX)), None);
    let many = refusal(&service.repeat(MANY_MAX + 1)).map(|(result, code, _)| (result, code));
    assert_eq!(many, Some((ResultCode::AVP_OCCURS_TOO_MANY_TIMES, 456)));
    let avps = ending(&[0, 1, 0, 0, 0, 0, 0, 8].repeat(avp::AVPS_MAX));
    let fault = CreditControlRequest::decode(&message(&avps)).expect_err("too many");
    assert_eq!(fault, Fault::new(ResultCode::UNABLE_TO_COMPLY));
}

#[test]
fn missing_required_avp_is_named() {
    let whole = request(|out| minimal().write(out));
    let codes: Vec<u32> = message(&whole).avps().map_while(Result::ok).map(|avp| avp.code).collect();
    assert_eq!(codes.len(), 8);
    for left_out in codes {
        let bytes = request(|out| {
            message(&whole)
                .avps()
                .map_while(Result::ok)
                .filter(|avp| avp.code != left_out)
                .for_each(|avp| out.raw(avp));
        });
        let fault = CreditControlRequest::decode(&message(&bytes)).expect_err("incomplete");
        assert_eq!(fault.result, ResultCode::MISSING_AVP);
        assert!(matches!(fault.failed, Some(Failed::Missing(avp)) if avp.code == left_out), "{fault}");
    }
    let cer = CapabilitiesExchangeRequest { host_ip_address: vec![], ..cer() };
    let bytes = request(|out| cer.write(out));
    let fault = CapabilitiesExchangeRequest::decode(&message(&bytes)).expect_err("no address");
    assert_eq!(fault.to_string(), "MISSING_AVP (5005): Host-IP-Address (257)");
}

#[test]
fn answer_with_an_unknown_mandatory_avp_is_decoded() {
    let bytes = answer(|out| {
        full_answer().write(out);
        out.octets(Avp { code: 9999, vendor: 77, mandatory: true, ..dictionary::CLASS }, b"?");
    });
    let decoded = CreditControlAnswer::decode(&message(&bytes)).expect("readable");
    assert_eq!(decoded, Decoded { body: full_answer(), unsupported: Some((9999, 77)) });
}

#[test]
fn answer_requires_a_result_and_a_session() {
    let without = |change: fn(&mut CreditControlAnswer<'_>)| {
        let mut body = full_answer();
        change(&mut body);
        answer(|out| body.write(out))
    };
    let missing = |bytes: &[u8]| CreditControlAnswer::decode(&message(bytes)).err().map(|fault| fault.to_string());
    let none = without(|body| (body.result_code, body.experimental_result) = (None, None));
    assert_eq!(missing(&none).as_deref(), Some("MISSING_AVP (5005): Result-Code (268)"));
    let experimental = without(|body| body.result_code = None);
    let decoded = CreditControlAnswer::decode(&message(&experimental)).expect("a result of a vendor");
    assert_eq!(decoded.body.outcome(), Some(Outcome::Experimental(10_415, ResultCode(5030))));
    let mut no_session = without(|body| body.session_id = None);
    assert_eq!(missing(&no_session).as_deref(), Some("MISSING_AVP (5005): Session-Id (263)"));
    no_session[4] |= Flags::ERROR.0;
    assert_eq!(missing(&no_session), None, "an error answer may lack it");
}

#[test]
fn times_before_and_after_2036_are_encoded() {
    for (unix, ntp) in
        [(0, 2_208_988_800_u32), (1_795_000_000, 4_003_988_800), (2_085_978_496, 0), (2_085_978_495, u32::MAX)]
    {
        assert_eq!((Time(unix).to_ntp(), Time::from_ntp(ntp)), (ntp, Time(unix)));
    }
}

#[test]
fn length_of_an_address_depends_on_its_family() {
    let read = |data: &[u8]| {
        let bytes = request(|out| out.octets(dictionary::HOST_IP_ADDRESS, data));
        let avp = message(&bytes).find(dictionary::HOST_IP_ADDRESS).expect("written");
        avp.address().map_err(|fault| fault.result)
    };
    assert_eq!(read(&[0, 1, 127, 0, 0, 1]), Ok(Address::Ip(Ipv4Addr::LOCALHOST.into())));
    assert_eq!(read(&[0, 8, b'4', b'9']), Ok(Address::Other(8)));
    for wrong in [&[][..], &[0], &[0, 1], &[0, 1, 127, 0, 0], &[0, 1, 127, 0, 0, 1, 0], &[0, 2, 127, 0, 0, 1]] {
        assert_eq!(read(wrong), Err(ResultCode::INVALID_AVP_LENGTH), "{wrong:?}");
    }
}

/// A message of nested groups, as deep as its length allows.
fn nested(avp: Avp) -> Vec<u8> {
    let mut groups = Vec::with_capacity(MAX_MESSAGE);
    for room in (8..=MAX_MESSAGE - 20).rev().step_by(8) {
        groups.extend_from_slice(&avp.code.to_be_bytes());
        groups.extend_from_slice(&(0x4000_0000 | room as u32).to_be_bytes());
    }
    let mut bytes = request(|_| {});
    bytes.extend_from_slice(&groups);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&(0x0100_0000 | length).to_be_bytes());
    assert_eq!(frame(&bytes), Framed::Message(bytes.len()));
    bytes
}

#[test]
fn nested_groups_do_not_exhaust_the_stack() {
    for avp in [
        dictionary::MULTIPLE_SERVICES_CREDIT_CONTROL,
        dictionary::FAILED_AVP,
        dictionary::GRANTED_SERVICE_UNIT,
        dictionary::VENDOR_SPECIFIC_APPLICATION_ID,
        dictionary::SUBSCRIPTION_ID,
    ] {
        read_as_everything(&nested(avp));
    }
}

#[test]
fn truncated_or_changed_messages_do_not_panic() {
    // Miri is a thousand times slower: some of each.
    let every = if cfg!(miri) { 101 } else { 1 };
    for sample in samples() {
        read_as_everything(&sample);
        for length in (0..sample.len()).step_by(every) {
            let mut cut = sample[..length].to_vec();
            assert!(!matches!(frame(&cut), Framed::Message(_)), "an incomplete message");
            // The same, with the length in the header.
            cut.truncate(length / 4 * 4);
            if let [_, a, b, c, ..] = cut.as_mut_slice() {
                [*a, *b, *c] = [0, ((length / 4 * 4) >> 8) as u8, (length / 4 * 4) as u8];
            }
            read_as_everything(&cut);
        }
        for bit in (0..sample.len() * 8).step_by(every) {
            let mut bent = sample.clone();
            bent[bit / 8] ^= 1 << (bit % 8);
            read_as_everything(&bent);
        }
    }
}

#[test]
fn dictionary_has_each_avp_once() {
    let mut seen = std::collections::BTreeSet::new();
    for avp in dictionary::ALL {
        assert!(seen.insert((avp.vendor, avp.code)), "{avp} is there twice");
        assert_eq!(dictionary::name(avp.code, avp.vendor), Some(avp.name));
    }
    assert_eq!(ResultCode(4012).to_string(), "CREDIT_LIMIT_REACHED (4012)");
    assert_eq!(ResultCode(4999).to_string(), "result code 4999");
}

fn units() -> impl Strategy<Value = ServiceUnits> {
    let money = (any::<i64>(), any::<Option<i32>>(), any::<Option<u32>>());
    let money = money.prop_map(|(digits, exponent, currency_code)| Money {
        unit_value: UnitValue { digits, exponent },
        currency_code,
    });
    (any::<Option<u32>>(), proptest::option::of(money), any::<[Option<u64>; 4]>(), any::<Option<u32>>()).prop_map(
        |(time, money, [total_octets, input_octets, output_octets, service_specific], change)| ServiceUnits {
            tariff_time_change: change.map(Time::from_ntp),
            time,
            money,
            total_octets,
            input_octets,
            output_octets,
            service_specific,
            ..ServiceUnits::default()
        },
    )
}

fn service() -> impl Strategy<Value = Service<'static>> {
    let units = || proptest::option::of(units());
    (units(), units(), any::<Vec<u32>>(), any::<[Option<u32>; 3]>(), any::<Option<i32>>()).prop_map(
        |(granted, requested, mut identifiers, [rating_group, validity_time, result], action)| {
            identifiers.truncate(MANY_MAX);
            Service {
                granted_service_unit: granted,
                used_service_unit: requested.iter().cloned().collect(),
                requested_service_unit: requested,
                service_identifier: identifiers,
                rating_group,
                validity_time,
                result_code: result.map(ResultCode),
                final_unit_indication: action.map(|action| FinalUnitIndication {
                    action: Some(FinalUnitAction(action)),
                    ..FinalUnitIndication::default()
                }),
                ..Service::default()
            }
        },
    )
}

proptest! {
    #[test]
    fn random_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        read_as_everything(&bytes);
        let mut framed = bytes;
        framed.resize(framed.len().max(20).next_multiple_of(4), 0);
        let length = (framed.len() as u32).to_be_bytes();
        framed[..4].copy_from_slice(&length);
        framed[0] = 1;
        read_as_everything(&framed);
    }

    #[test]
    fn random_bytes_after_a_valid_request_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut bytes = bytes;
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        read_as_everything(&ending(&bytes));
    }

    #[test]
    fn random_requests_survive_encoding(
        session_id in ".{0,40}", host in "[a-z.]{1,20}", numbers in any::<(u32, i32, u64)>(), user in ".{0,20}",
        services in proptest::collection::vec(service(), 0..4), wanted in proptest::option::of(units()),
    ) {
        let written = CreditControlRequest {
            session_id: &session_id,
            origin_host: &host,
            user_name: Some(&user),
            request_number: numbers.0,
            request_type: RequestType(numbers.1),
            cc_sub_session_id: Some(numbers.2),
            services,
            requested_service_unit: wanted,
            ..minimal()
        };
        let bytes = request(|out| written.write(out));
        prop_assert_eq!(CreditControlRequest::decode(&message(&bytes)), Ok(written));
    }

    #[test]
    fn random_answers_survive_encoding(
        result in any::<u32>(), number in any::<Option<u32>>(), text in any::<Vec<u8>>(),
        services in proptest::collection::vec(service(), 0..4), granted in proptest::option::of(units()),
    ) {
        let written = CreditControlAnswer {
            result_code: Some(ResultCode(result)),
            request_number: number,
            error_message: Some(&text),
            services,
            granted_service_unit: granted,
            ..full_answer()
        };
        let bytes = answer(|out| written.write(out));
        let decoded = CreditControlAnswer::decode(&message(&bytes)).map(|decoded| decoded.body);
        prop_assert_eq!(decoded, Ok(written));
    }
}

#[test]
fn identifiers_of_an_encoded_message_can_be_changed() {
    let mut bytes = request(|out| minimal().write(out));
    let before = message(&bytes).header;
    header::set_identifiers(&mut bytes, Flags::RETRANSMITTED, HopByHop(1), EndToEnd(2));
    let flags = before.flags.with(Flags::RETRANSMITTED);
    let after = Header { flags, hop_by_hop: HopByHop(1), end_to_end: EndToEnd(2), ..before };
    assert_eq!(message(&bytes).header, after);
    for length in 0..HEADER_LENGTH {
        let mut short = vec![7; length];
        header::set_identifiers(&mut short, Flags::RETRANSMITTED, HopByHop(1), EndToEnd(2));
        assert_eq!(short, vec![7; length], "shorter than a header: unchanged");
    }
}
