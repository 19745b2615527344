//! State of the simulator and its answer to each message, without I/O: octets in, octets out.

use super::accounts::Accounts;
use super::faults::{AvpLength, Faults, Kind, Requests};
use super::rating::{add_foreign, plain, rate};
use super::settings::Settings;
use imcharge::wire::diameter::base::{Answer, CapabilitiesExchangeAnswer, CapabilitiesExchangeRequest, PeerAnswer};
use imcharge::wire::diameter::codes::RequestType;
use imcharge::wire::diameter::dictionary::{self, APPLICATION_CREDIT_CONTROL, APPLICATION_RELAY, VENDOR_3GPP};
use imcharge::wire::diameter::{
    Address, Avp, Command, CreditControlAnswer, CreditControlRequest, EndToEnd, Fault, Flags, HEADER_LENGTH, Header,
    Message, RawAvp, ResultCode, ServiceUnits, Writer, refuse,
};
use siphasher::sip128::{Hasher128, SipHasher13};
use std::collections::{HashMap, VecDeque};
use std::hash::Hasher;
use std::net::IpAddr;
use std::time::Duration;

/// Treatment of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Send it.
    Send,
    /// Send it after a delay.
    Hold(Duration),
    /// Send it in small pieces.
    Pieces,
    /// Send it and close the connection.
    Close,
}

/// State of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Number of the connection.
    pub connection: u64,
    /// Local address.
    pub local: IpAddr,
    /// Origin-Host of the client; `None` before the CER.
    pub name: Option<String>,
}

/// Defines the counters; their names are those of the control port.
macro_rules! counters {
    ($($name:ident)*) => {
        #[derive(Clone, Copy, Debug, Default)]
        pub struct Counters { $(pub $name: u64,)* }

        impl Counters {
            /// Returns names and values.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    initial update termination event
    retransmitted duplicates unmarked renumbered answered refused dropped lost malformed unexpected
    unreported connections broken_streams cer dwr dpr dwa dpa raa asa
}

/// Answers for repeated requests, each with the End-to-End Identifier of its request.
#[derive(Debug, Default)]
struct Answered {
    bodies: HashMap<u128, (EndToEnd, Box<[u8]>)>,
    order: VecDeque<u128>,
}

impl Answered {
    /// Returns the key of a request: Session-Id, CC-Request-Number and CC-Request-Type.
    fn key(request: &CreditControlRequest<'_>) -> u128 {
        let mut hasher = SipHasher13::new();
        hasher.write(request.session_id.as_bytes());
        hasher.write_u32(request.request_number);
        hasher.write_i32(request.request_type.0);
        hasher.finish128().into()
    }

    /// Stores an answer; drops the oldest if there are `most`.
    fn keep(&mut self, key: u128, end_to_end: EndToEnd, body: &[u8], most: usize) {
        while self.order.len() >= most.max(1) {
            if let Some(oldest) = self.order.pop_front() {
                self.bodies.remove(&oldest);
            }
        }
        if most > 0 && self.bodies.insert(key, (end_to_end, body.into())).is_none() {
            self.order.push_back(key);
        }
    }
}

/// State of the simulator.
#[derive(Debug, Default)]
pub struct State {
    pub settings: Settings,
    pub accounts: Accounts,
    pub faults: Faults,
    pub counters: Counters,
    answered: Answered,
}

impl State {
    /// Removes sessions, faults and counters, and restores these accounts.
    pub fn reset(&mut self, accounts: &[(String, i64)]) {
        *self = State { settings: self.settings.clone(), ..State::default() };
        for (name, balance) in accounts {
            self.accounts.set_balance(name, *balance);
        }
    }

    /// Processes one message and appends the answer, if any, to `out`.
    pub fn process(&mut self, peer: &mut Peer, bytes: &[u8], out: &mut Vec<u8>) -> Fate {
        let Some(message) = Message::parse(bytes) else { return Fate::Close };
        let header = message.header;
        if !header.is_request() {
            return self.count_answer(&message);
        }
        if !header.has_valid_flags() {
            return self.refuse(&message, ResultCode::INVALID_HDR_BITS, out);
        }
        match header.command {
            Command::CAPABILITIES_EXCHANGE => self.capabilities(peer, &message, out),
            _ if peer.name.is_none() => {
                self.refuse(&message, ResultCode::UNKNOWN_PEER, out);
                Fate::Close
            }
            Command::DEVICE_WATCHDOG => {
                self.counters.dwr += 1;
                self.base(Requests::DWR, &header, out)
            }
            Command::DISCONNECT_PEER => {
                self.counters.dpr += 1;
                self.base(Requests::DPR, &header, out)
            }
            Command::CREDIT_CONTROL if header.application == APPLICATION_CREDIT_CONTROL => {
                self.credit_control(peer.connection, &message, out)
            }
            Command::CREDIT_CONTROL => self.refuse(&message, ResultCode::APPLICATION_UNSUPPORTED, out),
            _ => self.refuse(&message, ResultCode::COMMAND_UNSUPPORTED, out),
        }
    }

    /// Counts an answer to a request of the simulator.
    fn count_answer(&mut self, message: &Message<'_>) -> Fate {
        match message.header.command {
            _ if Answer::decode(message).is_err() => self.counters.malformed += 1,
            Command::DEVICE_WATCHDOG => self.counters.dwa += 1,
            Command::RE_AUTH => self.counters.raa += 1,
            Command::ABORT_SESSION => self.counters.asa += 1,
            Command::DISCONNECT_PEER => {
                self.counters.dpa += 1;
                return Fate::Close;
            }
            _ => self.counters.unexpected += 1,
        }
        Fate::Send
    }

    fn refuse(&mut self, message: &Message<'_>, result: ResultCode, out: &mut Vec<u8>) -> Fate {
        self.refuse_fault(message, &Fault::new(result), out)
    }

    fn refuse_fault(&mut self, message: &Message<'_>, fault: &Fault<'_>, out: &mut Vec<u8>) -> Fate {
        self.counters.malformed += 1;
        let session = message.find(dictionary::SESSION_ID).and_then(|avp| avp.text().ok());
        let identity = (self.settings.origin_host.as_str(), self.settings.origin_realm.as_str());
        // A Failed-AVP as large as the message does not fit and is left out.
        if refuse(out, &message.header, session, identity, fault).is_err() {
            let _ = refuse(out, &message.header, None, identity, &Fault::new(fault.result));
        }
        Fate::Send
    }

    /// Answers a CER.
    fn capabilities(&mut self, peer: &mut Peer, message: &Message<'_>, out: &mut Vec<u8>) -> Fate {
        self.counters.cer += 1;
        let due = self.faults.due(Requests::CER);
        if due.iter().any(|kind| matches!(kind, Kind::Silent | Kind::Lose)) {
            self.counters.lost += 1;
            return Fate::Send;
        }
        let request = match CapabilitiesExchangeRequest::decode(message) {
            Ok(request) => request,
            Err(fault) => {
                self.refuse_fault(message, &fault, out);
                return Fate::Close;
            }
        };
        let ours = |application: &u32| [APPLICATION_CREDIT_CONTROL, APPLICATION_RELAY].contains(application);
        let common = request.auth_application_id.iter().any(ours)
            || request.vendor_specific_application_id.iter().any(|of| of.auth_application_id.iter().any(ours));
        let refusal = due.iter().find_map(|kind| match kind {
            Kind::Refuse(result) | Kind::ProtocolError(result) => Some(ResultCode(*result)),
            _ => None,
        });
        let result = match refusal {
            Some(result) => result,
            None if common => ResultCode::SUCCESS,
            None => ResultCode::NO_COMMON_APPLICATION,
        };
        let start = out.len();
        let answer = CapabilitiesExchangeAnswer {
            result_code: result,
            origin_host: &self.settings.origin_host,
            origin_realm: &self.settings.origin_realm,
            host_ip_address: vec![Address::Ip(peer.local)],
            vendor_id: Some(0),
            product_name: Some(b"imcharge OCS simulator"),
            supported_vendor_id: vec![VENDOR_3GPP],
            auth_application_id: vec![APPLICATION_CREDIT_CONTROL],
            ..CapabilitiesExchangeAnswer::default()
        };
        let mut writer = Writer::answer(out, &message.header);
        answer.write(&mut writer);
        let _ = writer.finish();
        if result != ResultCode::SUCCESS {
            self.counters.refused += 1;
            return Fate::Close;
        }
        peer.name = Some(request.origin_host.to_owned());
        self.apply_faults(&due, start, out)
    }

    /// Answers a DWR or DPR.
    fn base(&mut self, requests: Requests, header: &Header, out: &mut Vec<u8>) -> Fate {
        let due = self.faults.due(requests);
        if due.iter().any(|kind| matches!(kind, Kind::Silent | Kind::Lose)) {
            self.counters.lost += 1;
            return Fate::Send;
        }
        let start = out.len();
        let answer = PeerAnswer {
            result_code: ResultCode::SUCCESS,
            origin_host: &self.settings.origin_host,
            origin_realm: &self.settings.origin_realm,
            ..PeerAnswer::default()
        };
        let mut writer = Writer::answer(out, header);
        answer.write(&mut writer);
        let _ = writer.finish();
        self.apply_faults(&due, start, out)
    }

    /// Answers a CCR. A lenient server corrects the mistakes of common clients first.
    fn credit_control(&mut self, connection: u64, message: &Message<'_>, out: &mut Vec<u8>) -> Fate {
        if !self.settings.lenient {
            return self.answer_credit_control(connection, message, out);
        }
        let tidied = tidy(message);
        let message = Message::parse(&tidied).unwrap_or(*message);
        self.answer_credit_control(connection, &message, out)
    }

    fn answer_credit_control(&mut self, connection: u64, message: &Message<'_>, out: &mut Vec<u8>) -> Fate {
        let start = out.len();
        let request = match CreditControlRequest::decode(message) {
            Ok(request) => request,
            Err(fault) => return self.refuse_fault(message, &fault, out),
        };
        let counters = &mut self.counters;
        let (count, requests) = match request.request_type {
            RequestType::INITIAL_REQUEST => (&mut counters.initial, Requests::INITIAL),
            RequestType::UPDATE_REQUEST => (&mut counters.update, Requests::UPDATE),
            RequestType::TERMINATION_REQUEST => (&mut counters.termination, Requests::TERMINATION),
            _ => (&mut counters.event, Requests::EVENT),
        };
        *count += 1;
        counters.retransmitted += u64::from(message.header.is_retransmitted());
        let due = self.faults.due(requests);
        if due.iter().any(|kind| matches!(kind, Kind::Silent | Kind::Lose)) {
            self.counters.lost += 1;
            return Fate::Send;
        }
        if !self.settings.lenient && is_for_another(&request, &self.settings.origin_host) {
            self.counters.refused += 1;
            write_error(&plain(&request, ResultCode::UNABLE_TO_DELIVER, &self.settings), message, out);
            return self.apply_faults(&due, start, out);
        }
        let key = Answered::key(&request);
        let before = self.answered.bodies.get(&key).filter(|_| self.settings.duplicate_detection);
        if let Some((end_to_end, body)) = before {
            // A retransmission has the T flag and the same End-to-End Identifier (RFC 6733, 3).
            self.counters.duplicates += 1;
            self.counters.unmarked += u64::from(!message.header.is_retransmitted());
            self.counters.renumbered += u64::from(message.header.end_to_end != *end_to_end);
            write_stored(&message.header, body, out);
        } else if let Some(result) = refusal(&due) {
            let answer = plain(&request, result, &self.settings);
            let code = due.iter().any(|kind| matches!(kind, Kind::ProtocolError(_)));
            match code || result.is_protocol_error() {
                true => write_error(&answer, message, out),
                false => write_answer(&answer, message, out),
            }
        } else if let Some(result) = mscc_refusal(&due) {
            write_answer(&refused_services(&request, result, &self.settings), message, out);
        } else {
            let mut answer = rate(&mut self.accounts, &self.settings, &request, message, connection);
            for kind in &due {
                if let Kind::Foreign { granted, first } = *kind {
                    let session = request.session_id;
                    add_foreign(&mut self.accounts, &self.settings, session, &mut answer, granted, first);
                }
            }
            self.counters.unreported = self.accounts.unreported;
            write_answer(&answer, message, out);
            if self.settings.duplicate_detection {
                let body = out.get(start + HEADER_LENGTH..).unwrap_or_default();
                self.answered.keep(key, message.header.end_to_end, body, self.settings.remember);
            }
            if alter(&mut answer, &due) {
                out.truncate(start);
                write_altered(&answer, message, &due, out);
            }
            let success = answer.result_code == Some(ResultCode::SUCCESS);
            self.counters.refused += u64::from(!success);
        }
        self.apply_faults(&due, start, out)
    }

    /// Applies faults to the octets of an answer, which begins at `start`.
    fn apply_faults(&mut self, due: &[Kind], start: usize, out: &mut Vec<u8>) -> Fate {
        let mut fate = Fate::Send;
        for kind in due {
            match kind {
                Kind::WrongHbh => flip(out, start + 12),
                Kind::WrongE2e => flip(out, start + 16),
                Kind::HeaderLength(length) => put24(out, start + 1, *length),
                Kind::AvpLength(wrong) => corrupt_result_code(out, start, *wrong),
                Kind::Garbage => {
                    out.truncate(start);
                    out.extend_from_slice(b"GARBAGE: this is not a Diameter message, whatever its length is.");
                }
                Kind::Duplicate => out.extend_from_within(start..),
                Kind::Drop => {
                    out.truncate(start);
                    self.counters.dropped += 1;
                    return Fate::Send;
                }
                Kind::CloseBefore | Kind::CloseMid => {
                    let half = if *kind == Kind::CloseMid { (out.len() - start) / 2 } else { 0 };
                    out.truncate(start + half);
                    self.counters.dropped += 1;
                    return Fate::Close;
                }
                Kind::Delay(least, most) => fate = Fate::Hold(between(*least, *most, out.len() + start)),
                Kind::PartialWrites => fate = Fate::Pieces,
                _ => {}
            }
        }
        self.counters.answered += 1;
        fate
    }
}

/// Returns whether Destination-Host is another server, to which this one cannot deliver (RFC 6733, 6.1.6).
fn is_for_another(request: &CreditControlRequest<'_>, own: &str) -> bool {
    request.destination_host.is_some_and(|host| !host.eq_ignore_ascii_case(own))
}

/// Writes a stored answer with the identifiers of the repeated request.
fn write_stored(request: &Header, body: &[u8], out: &mut Vec<u8>) {
    let start = out.len();
    let _ = Writer::answer(out, request).finish();
    out.extend_from_slice(body);
    put24(out, start + 1, (HEADER_LENGTH + body.len()) as u32);
}

fn write_answer(answer: &CreditControlAnswer<'_>, message: &Message<'_>, out: &mut Vec<u8>) {
    write_altered(answer, message, &[], out);
}

fn write_altered(answer: &CreditControlAnswer<'_>, message: &Message<'_>, due: &[Kind], out: &mut Vec<u8>) {
    let mut writer = Writer::answer(out, &message.header);
    answer.write(&mut writer);
    for avp in message.avps().map_while(Result::ok).filter(|avp| avp.is(dictionary::PROXY_INFO)) {
        writer.raw(avp);
    }
    for kind in due {
        if let Kind::UnknownAvp(mandatory) = kind {
            let avp = Avp { code: 65_000, vendor: 65_000, mandatory: *mandatory, ..dictionary::CLASS };
            writer.octets(avp, b"?");
        }
    }
    let _ = writer.finish();
}

/// Writes an answer with the E flag.
fn write_error(answer: &CreditControlAnswer<'_>, message: &Message<'_>, out: &mut Vec<u8>) {
    let mut writer = Writer::error_answer(out, &message.header);
    let answer = CreditControlAnswer { request_type: None, request_number: None, ..answer.clone() };
    answer.write(&mut writer);
    let _ = writer.finish();
}

fn refusal(due: &[Kind]) -> Option<ResultCode> {
    due.iter().find_map(|kind| match kind {
        Kind::Refuse(result) | Kind::ProtocolError(result) => Some(ResultCode(*result)),
        _ => None,
    })
}

fn mscc_refusal(due: &[Kind]) -> Option<ResultCode> {
    due.iter().find_map(|kind| match kind {
        Kind::RefuseMscc(result) => Some(ResultCode(*result)),
        _ => None,
    })
}

/// Returns SUCCESS with every service refused.
fn refused_services<'s>(
    request: &CreditControlRequest<'s>,
    result: ResultCode,
    settings: &'s Settings,
) -> CreditControlAnswer<'s> {
    let mut answer = plain(request, ResultCode::SUCCESS, settings);
    answer.services = request.services.clone();
    for service in &mut answer.services {
        service.requested_service_unit = None;
        service.used_service_unit.clear();
        service.reporting_reason = None;
        service.result_code = Some(result);
    }
    answer
}

/// Applies faults to the AVPs of an answer. Returns whether it was changed.
fn alter(answer: &mut CreditControlAnswer<'_>, due: &[Kind]) -> bool {
    let mut altered = false;
    for kind in due {
        match kind {
            Kind::NoMscc => answer.services.clear(),
            Kind::NoMsccResult => answer.services.iter_mut().for_each(|service| service.result_code = None),
            Kind::GrantTime => {
                let time = || ServiceUnits { time: Some(60), ..ServiceUnits::default() };
                let granted = answer.services.iter_mut().filter_map(|service| service.granted_service_unit.as_mut());
                granted.chain(answer.granted_service_unit.as_mut()).for_each(|units| *units = time());
            }
            Kind::NoSessionId => answer.session_id = None,
            Kind::WrongSessionId => answer.session_id = Some("another;client;1"),
            Kind::UnknownAvp(_) => {}
            _ => continue,
        }
        altered = true;
    }
    altered
}

/// Returns a pseudorandom duration between the two.
fn between(least: Duration, most: Duration, seed: usize) -> Duration {
    let mut hasher = SipHasher13::new();
    hasher.write_usize(seed);
    hasher.write_u128(std::time::UNIX_EPOCH.elapsed().map_or(0, |elapsed| elapsed.as_nanos()));
    let span = (most - least).as_micros() as u64;
    least + Duration::from_micros(hasher.finish128().h1 % (span + 1))
}

fn flip(out: &mut [u8], at: usize) {
    if let Some(four) = out.get_mut(at..at + 4) {
        four.iter_mut().for_each(|octet| *octet = !*octet);
    }
}

fn put24(out: &mut [u8], at: usize, value: u32) {
    let [_, three @ ..] = value.to_be_bytes();
    if let Some(place) = out.get_mut(at..at + 3) {
        place.copy_from_slice(&three);
    }
}

/// Writes a wrong length into the Result-Code AVP.
fn corrupt_result_code(out: &mut [u8], start: usize, wrong: AvpLength) {
    let header = [0, 0, 1, 12, 0x40, 0, 0, 12];
    let answer = out.get(start..).unwrap_or_default();
    let Some(place) = answer.windows(header.len()).position(|window| window == header) else { return };
    let length = match wrong {
        AvpLength::Is(length) => u32::from(length),
        AvpLength::Beyond => answer.len() as u32,
        AvpLength::OneByte => 9,
    };
    put24(out, start + place + 5, length);
}

/// Builds a request of the server.
pub fn request(
    command: Command,
    flags: Flags,
    application: u32,
    number: u32,
    fill: impl FnOnce(&mut Writer<'_>),
) -> Vec<u8> {
    use imcharge::wire::diameter::HopByHop;
    let mut out = Vec::new();
    let mut writer = Writer::request(&mut out, command, flags, application, HopByHop(number), EndToEnd(number));
    fill(&mut writer);
    let _ = writer.finish();
    out
}

/// Corrects a request: removes repeated names, makes AVPs of accounting optional and adds a missing Auth-Application-Id.
fn tidy(message: &Message<'_>) -> Vec<u8> {
    const MANDATORY: u8 = 0x40;
    let once = [dictionary::ORIGIN_HOST, dictionary::ORIGIN_REALM, dictionary::AUTH_APPLICATION_ID];
    let (mut tidied, mut seen) = (Vec::new(), [false; 3]);
    let header = &message.header;
    let (hop_by_hop, end_to_end) = (header.hop_by_hop, header.end_to_end);
    let mut writer =
        Writer::request(&mut tidied, header.command, header.flags, header.application, hop_by_hop, end_to_end);
    for avp in message.avps().map_while(Result::ok) {
        if let Some(at) = once.iter().position(|once| avp.is(*once))
            && std::mem::replace(&mut seen[at], true)
        {
            continue;
        }
        // Without the M flag, AVPs that are not part of credit control are ignored.
        writer.raw(RawAvp { flags: avp.flags & !MANDATORY, ..avp });
    }
    if !seen[2] {
        writer.u32(dictionary::AUTH_APPLICATION_ID, dictionary::APPLICATION_CREDIT_CONTROL);
    }
    let _ = writer.finish();
    tidied
}
