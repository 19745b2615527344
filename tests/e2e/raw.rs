//! A Diameter client that sends arbitrary octets, to verify that the message checkers detect an invalid message.

use super::ALICE;
use imcharge::wire::diameter::dictionary::{self as avp, APPLICATION_BASE, APPLICATION_CREDIT_CONTROL, Format};
use imcharge::wire::diameter::{Avp, Command, EndToEnd, Flags, HopByHop, Message, Writer};
use imcharge_testkit::eventually;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);

/// AVPs one after the other, with their data.
pub type Request = Vec<(Avp, Vec<u8>)>;

fn number(value: u32) -> Vec<u8> {
    value.to_be_bytes().to_vec()
}

/// An AVP in a group.
fn inner(code: u8, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len()) as u8;
    let mut octets = vec![0, 0, 1, code, 0x40, 0, 0, length];
    octets.extend_from_slice(data);
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// A Credit-Control-Request that nothing can be said against: an EVENT_REQUEST of no units.
pub fn right_request() -> Request {
    let payer = [inner(0xc2, &number(2)), inner(0xbc, ALICE.as_bytes())].concat();
    vec![
        (avp::SESSION_ID, b"proxy.example.org;1;2".to_vec()),
        (avp::ORIGIN_HOST, b"proxy.example.org".to_vec()),
        (avp::ORIGIN_REALM, b"example.org".to_vec()),
        (avp::DESTINATION_REALM, b"example.com".to_vec()),
        (avp::AUTH_APPLICATION_ID, number(APPLICATION_CREDIT_CONTROL)),
        (avp::SERVICE_CONTEXT_ID, b"im@example.org".to_vec()),
        (avp::CC_REQUEST_TYPE, number(4)),
        (avp::CC_REQUEST_NUMBER, number(0)),
        (avp::SUBSCRIPTION_ID, payer),
        (avp::REQUESTED_ACTION, number(0)),
    ]
}

/// Requests with one thing wrong in each, the Result-Code for it, and the AVP at fault.
pub fn wrong_requests() -> Vec<(Request, u32, &'static str)> {
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = right_request();
        change(&mut request);
        request
    };
    let put = |avp: Avp, data: Vec<u8>| {
        with(&|request: &mut Request| {
            let place = request.iter().position(|(own, _)| own.code == avp.code).expect("it is there");
            request[place] = (avp, data.clone());
        })
    };
    let add = |avp: Avp, data: Vec<u8>| with(&|request: &mut Request| request.push((avp, data.clone())));
    let unknown = Avp { code: 4_000_000, vendor: 0, mandatory: true, format: Format::OctetString, name: "" };
    let kind = inner(0xc2, &number(2));
    vec![
        (with(&|request| drop(request.remove(5))), 5005, "Service-Context-Id"),
        (put(avp::SUBSCRIPTION_ID, kind), 5005, "Subscription-Id"),
        (add(avp::CC_REQUEST_NUMBER, number(1)), 5009, "CC-Request-Number"),
        (add(unknown, number(1)), 5001, "4000000"),
        (add(unknown.optional(), number(1)), 5008, "4000000"),
        (add(avp::GRANTED_SERVICE_UNIT, Vec::new()), 5001, "Granted-Service-Unit"),
        (add(avp::SERVICE_INFORMATION, Vec::new()), 5008, "Service-Information"),
        (put(avp::CC_REQUEST_TYPE, number(9)), 5004, "CC-Request-Type"),
        (put(avp::SERVICE_CONTEXT_ID, vec![0xff]), 5004, "Service-Context-Id"),
        (put(avp::CC_REQUEST_NUMBER, vec![0; 3]), 5014, "CC-Request-Number"),
        (put(avp::CC_REQUEST_NUMBER.optional(), number(0)), 3009, "CC-Request-Number"),
        (with(&|request| request.swap(0, 1)), 5008, "Origin-Host"),
    ]
}

/// A connection on which capabilities are exchanged.
pub struct RawClient {
    stream: TcpStream,
    asked: u32,
}

impl RawClient {
    /// Connects, and is served: Erlang's diameter drops a request that comes on the heels of its
    /// Capabilities-Exchange-Answer, so one is sent until there is an answer.
    pub fn connect(address: SocketAddr) -> RawClient {
        let stream = TcpStream::connect(address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a time-out can be set");
        let mut client = RawClient { stream, asked: 0 };
        let capabilities = vec![
            (avp::ORIGIN_HOST, b"proxy.example.org".to_vec()),
            (avp::ORIGIN_REALM, b"example.org".to_vec()),
            (avp::HOST_IP_ADDRESS, vec![0, 1, 127, 0, 0, 1]),
            (avp::VENDOR_ID, number(0)),
            (avp::PRODUCT_NAME, b"raw".to_vec()),
            (avp::AUTH_APPLICATION_ID, number(APPLICATION_CREDIT_CONTROL)),
        ];
        client.send(Command::CAPABILITIES_EXCHANGE, APPLICATION_BASE, &capabilities);
        assert_eq!(client.result(Instant::now() + SOON).expect("it answers"), 2001);
        let is_served = || {
            client.send(Command::CREDIT_CONTROL, APPLICATION_CREDIT_CONTROL, &right_request());
            client.result(Instant::now()).is_some()
        };
        assert!(eventually(SOON, is_served), "nothing is answered");
        client
    }

    /// Sends a Credit-Control-Request; the Result-Code of its answer.
    pub fn ask(&mut self, request: &Request) -> u32 {
        self.send(Command::CREDIT_CONTROL, APPLICATION_CREDIT_CONTROL, request);
        self.result(Instant::now() + SOON).expect("it answers")
    }

    fn send(&mut self, command: Command, application: u32, avps: &Request) {
        self.asked += 1;
        let (flags, own) = (if application == 0 { Flags(0) } else { Flags::PROXIABLE }, self.asked);
        let mut out = Vec::new();
        let mut writer = Writer::request(&mut out, command, flags, application, HopByHop(own), EndToEnd(own));
        avps.iter().for_each(|(avp, data)| writer.octets(*avp, data));
        writer.finish().expect("it is short");
        self.stream.write_all(&out).expect("it reads");
    }

    /// The Result-Code of the answer to what was sent last, if it comes until then. Answers to what was given up are
    /// passed over.
    fn result(&mut self, until: Instant) -> Option<u32> {
        loop {
            match self.message() {
                Some(octets) => {
                    let message = Message::parse(&octets).expect("a message");
                    if message.header.hop_by_hop == HopByHop(self.asked) {
                        let result = message.find(avp::RESULT_CODE).expect("a Result-Code");
                        return Some(u32::from_be_bytes(result.data.try_into().expect("four octets")));
                    }
                }
                None if Instant::now() >= until => return None,
                None => {}
            }
        }
    }

    /// The next message, unless none begins within the time-out of the socket.
    fn message(&mut self) -> Option<Vec<u8>> {
        let mut octets = vec![0; 4];
        self.stream.read_exact(&mut octets).ok()?;
        let length = u32::from_be_bytes([0, octets[1], octets[2], octets[3]]) as usize;
        octets.resize(length, 0);
        self.stream.read_exact(&mut octets[4..]).expect("a whole message");
        Some(octets)
    }
}
