//! Messages of an Online Charging System, for tests and fuzz targets. `fuzz/checks` includes this file as well, so it
//! imports the crate by name.

use imcharge::enabler::diameter::client::config::{Config, PeerConfig};
use imcharge::enabler::diameter::client::peer_table::{Counters, PeerTable};
use imcharge::enabler::net::address::HostPort;
use imcharge::wire::diameter::base::{
    AbortSessionRequest, CapabilitiesExchangeAnswer, DeviceWatchdogRequest, DisconnectPeerRequest, PeerAnswer,
    ReAuthRequest,
};
use imcharge::wire::diameter::codes::{DisconnectCause, ReAuthRequestType, RequestType};
use imcharge::wire::diameter::dictionary::{self, APPLICATION_BASE, APPLICATION_CREDIT_CONTROL, Command};
use imcharge::wire::diameter::{
    Address, CreditControlAnswer, CreditControlRequest, EndToEnd, Flags, Framed, Header, HopByHop, Message, ResultCode,
    Writer, frame,
};
use std::net::{IpAddr, Ipv4Addr};

/// Origin-Host of a peer.
pub const HOST: &str = "ocs1.example.org";
/// Origin-Host of another peer.
pub const OTHER: &str = "ocs2.example.org";
/// Origin-Realm of both.
pub const REALM: &str = "example.org";
/// Local address.
pub const OWN_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// A configuration of these peers in order of preference.
pub fn config(hosts: &[&str]) -> Config {
    let peer = |(priority, host): (usize, &&str)| PeerConfig {
        host: (*host).to_owned(),
        address: HostPort { host: "127.0.0.1".into(), port: 3868 + priority as u16 },
        priority: priority as u16,
        tls: None,
    };
    Config {
        peers: hosts.iter().enumerate().map(peer).collect(),
        in_flight_max: 1000,
        ..Config::new("imcharge.example.com".into(), "example.com".into())
    }
}

/// The header of a whole message.
pub fn header(bytes: &[u8]) -> Header {
    Message::parse(bytes).expect("one whole message").header
}

/// The messages in these octets.
pub fn messages(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let Framed::Message(length) = frame(bytes) else { panic!("a broken message") };
        let (message, rest) = bytes.split_at(length);
        found.push(message.to_vec());
        bytes = rest;
    }
    found
}

fn request(command: Command, application: u32, hop_by_hop: u32, fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let (hop_by_hop, end_to_end) = (HopByHop(hop_by_hop), EndToEnd(hop_by_hop.wrapping_mul(3)));
    // Messages of the base protocol are not proxied (RFC 6733, 3.1).
    let flags = if application == APPLICATION_BASE { Flags::default() } else { Flags::PROXIABLE };
    let mut out = Writer::request(&mut bytes, command, flags, application, hop_by_hop, end_to_end);
    fill(&mut out);
    out.finish().expect("short enough");
    bytes
}

/// An answer with these AVPs.
pub fn answer(to: &[u8], fill: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut out = Writer::answer(&mut bytes, &header(to));
    fill(&mut out);
    out.finish().expect("short enough");
    bytes
}

/// A CEA of this host, modified by `change`.
pub fn cea(to: &[u8], host: &str, change: impl FnOnce(&mut CapabilitiesExchangeAnswer<'_>)) -> Vec<u8> {
    let mut body = CapabilitiesExchangeAnswer {
        result_code: ResultCode::SUCCESS,
        origin_host: host,
        origin_realm: REALM,
        host_ip_address: vec![Address::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST))],
        vendor_id: Some(0),
        product_name: Some(b"test peer"),
        auth_application_id: vec![APPLICATION_CREDIT_CONTROL],
        ..CapabilitiesExchangeAnswer::default()
    };
    change(&mut body);
    answer(to, |out| body.write(out))
}

/// A DWA or DPA.
pub fn peer_answer(to: &[u8], host: &str) -> Vec<u8> {
    let body = PeerAnswer {
        result_code: ResultCode::SUCCESS,
        origin_host: host,
        origin_realm: REALM,
        ..PeerAnswer::default()
    };
    answer(to, |out| body.write(out))
}

/// A DWR.
pub fn dwr(host: &str, hop_by_hop: u32) -> Vec<u8> {
    let body = DeviceWatchdogRequest { origin_host: host, origin_realm: REALM, origin_state_id: None };
    request(Command::DEVICE_WATCHDOG, APPLICATION_BASE, hop_by_hop, |out| body.write(out))
}

/// A DPR.
pub fn dpr(host: &str, hop_by_hop: u32, disconnect_cause: DisconnectCause) -> Vec<u8> {
    let body = DisconnectPeerRequest { origin_host: host, origin_realm: REALM, disconnect_cause };
    request(Command::DISCONNECT_PEER, APPLICATION_BASE, hop_by_hop, |out| body.write(out))
}

/// A RAR or ASR.
pub fn session_request(command: Command, session_id: &str, host: &str, hop_by_hop: u32) -> Vec<u8> {
    let (origin_host, origin_realm) = (host, REALM);
    let (destination_host, destination_realm) = ("imcharge.example.com", "example.com");
    let auth_application_id = APPLICATION_CREDIT_CONTROL;
    request(command, APPLICATION_CREDIT_CONTROL, hop_by_hop, |out| match command {
        Command::RE_AUTH => ReAuthRequest {
            session_id,
            origin_host,
            origin_realm,
            destination_realm,
            destination_host,
            auth_application_id,
            re_auth_request_type: ReAuthRequestType::AUTHORIZE_ONLY,
            ..ReAuthRequest::default()
        }
        .write(out),
        _ => AbortSessionRequest {
            session_id,
            origin_host,
            origin_realm,
            destination_realm,
            destination_host,
            auth_application_id,
            origin_state_id: None,
        }
        .write(out),
    })
}

/// A RAR.
pub fn rar(host: &str, hop_by_hop: u32) -> Vec<u8> {
    session_request(Command::RE_AUTH, "imcharge.example.com;1;2", host, hop_by_hop)
}

/// A request with an unknown command code.
pub fn unknown(application: u32, hop_by_hop: u32) -> Vec<u8> {
    request(Command(8_388_000), application, hop_by_hop, |_| {})
}

/// A CCR as credit control passes it to the client, without identifiers.
pub fn ccr(number: u32) -> Vec<u8> {
    let body = CreditControlRequest {
        session_id: "imcharge.example.com;1;2",
        origin_host: "imcharge.example.com",
        origin_realm: "example.com",
        destination_realm: REALM,
        auth_application_id: APPLICATION_CREDIT_CONTROL,
        service_context_id: "im@example.org",
        request_type: RequestType::EVENT_REQUEST,
        request_number: number,
        ..CreditControlRequest::default()
    };
    let mut bytes = Vec::new();
    let (command, application) = (Command::CREDIT_CONTROL, APPLICATION_CREDIT_CONTROL);
    let ids = (HopByHop(0), EndToEnd(0));
    let mut out = Writer::request(&mut bytes, command, Flags::PROXIABLE, application, ids.0, ids.1);
    body.write(&mut out);
    out.finish().expect("short enough");
    bytes
}

/// CC-Request-Number of a CCR or CCA.
pub fn number_of(bytes: &[u8]) -> u32 {
    let message = Message::parse(bytes).expect("one whole message");
    let avp = message.find(imcharge::wire::diameter::dictionary::CC_REQUEST_NUMBER).expect("a number");
    avp.u32().expect("32 bits")
}

/// The CCA to a CCR.
pub fn cca(to: &[u8], host: &str) -> Vec<u8> {
    let body = CreditControlAnswer {
        session_id: Some("imcharge.example.com;1;2"),
        result_code: Some(ResultCode::SUCCESS),
        origin_host: host,
        origin_realm: REALM,
        auth_application_id: Some(APPLICATION_CREDIT_CONTROL),
        request_type: Some(RequestType::EVENT_REQUEST),
        request_number: Some(number_of(to)),
        ..CreditControlAnswer::default()
    };
    answer(to, |out| body.write(out))
}

/// An error answer with this Result-Code.
pub fn refusal(to: &[u8], host: &str, code: u32) -> Vec<u8> {
    let mut bytes = answer(to, |out| {
        out.u32(dictionary::RESULT_CODE, code);
        out.text(dictionary::ORIGIN_HOST, host);
        out.text(dictionary::ORIGIN_REALM, REALM);
    });
    bytes[4] |= Flags::ERROR.0;
    bytes
}

/// The successful answer to any request of the client.
pub fn respond(to: &[u8], host: &str) -> Vec<u8> {
    match header(to).command {
        Command::CAPABILITIES_EXCHANGE => cea(to, host, |_| {}),
        Command::CREDIT_CONTROL => cca(to, host),
        _ => peer_answer(to, host),
    }
}

/// Every accepted request has ended or is pending at one peer.
pub fn assert_counters(table: &PeerTable, hosts: usize) {
    let Counters { sent, answered, timed_out, failed, .. } = *table.counters();
    let pending: usize = (0..hosts).map(|slot| table.in_flight(slot)).sum();
    assert_eq!(sent, answered + timed_out + failed + pending as u64);
}
