//! A charging system whose answers are invalid Diameter (RFC 6733) or Credit-Control (RFC 8506): each answer is a valid one
//! with one change to its octets.

use super::super::{ALICE, Stage};
use super::{Memory, PATIENCE, Vitals, garbage, statistics};
use imcharge::wire::diameter::dictionary as avp;
use imcharge::wire::diameter::{
    Command, CreditControlAnswer, CreditControlRequest, Message, ResultCode, Service, ServiceUnits, Writer,
};
use imcharge_testkit::{eventually, unique};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Seconds that the proxy waits for an answer.
const TX_TIMEOUT: u64 = 1;

/// A change to a valid answer. Positions beyond its end are taken modulo its length.
#[derive(Clone, Copy, Debug)]
enum Edit {
    /// Inverts these bits of this octet.
    Flip { at: usize, bits: u8 },
    /// Sets the length of the AVP with this index; a group comes before its members.
    AvpLength { number: usize, length: usize },
    /// Truncates the message here, with a matching length field.
    Truncate { at: usize },
    /// Replaces the command.
    Command(u32),
    /// Replaces the application.
    Application(u32),
    /// Replaces the flags.
    Flags(u8),
    /// Appends Multiple-Services-Credit-Control nested to this depth.
    Nested(usize),
    /// Appends this number of unknown AVPs with these flags.
    Unknown { count: usize, flags: u8 },
    /// Sends unsolicited answers first.
    Uninvited,
    /// Sends RAR, ASR and unknown requests of random octets first.
    Requests { seed: u32 },
    /// Replaces the message length: the rest of the stream cannot be decoded.
    Length(u32),
    /// Replaces the version: the rest of the stream cannot be decoded.
    Version(u8),
    /// Sends this number of octets and closes the connection.
    Cut { at: usize },
    /// Sends random octets instead.
    Garbage { seed: u32 },
}

/// Returns an AVP with header and padding.
fn raw_avp(code: u32, flags: u8, data: &[u8]) -> Vec<u8> {
    let length = (8 + data.len() as u32).to_be_bytes();
    let mut octets = [&code.to_be_bytes()[..], &[flags], &length[1..], data].concat();
    octets.resize(octets.len().next_multiple_of(4), 0);
    octets
}

/// Finds the offsets of the AVPs from `from` to `to`, and of their members.
fn places(octets: &[u8], from: usize, to: usize, found: &mut Vec<usize>) {
    let (number, mut at) = (|at: usize| u32::from_be_bytes(octets[at..at + 4].try_into().expect("four octets")), from);
    while at + 8 <= to {
        found.push(at);
        let length = (number(at + 4) & 0xff_ffff) as usize;
        if [avp::MULTIPLE_SERVICES_CREDIT_CONTROL.code, avp::GRANTED_SERVICE_UNIT.code].contains(&number(at)) {
            places(octets, at + 8, at + length, found);
        }
        at += length.next_multiple_of(4);
    }
}

/// Sets the length field of a message.
fn measured(mut octets: Vec<u8>) -> Vec<u8> {
    let length = (octets.len() as u32).to_be_bytes();
    octets[1..4].copy_from_slice(&length[1..]);
    octets
}

impl Edit {
    /// Returns what is sent instead of this answer, and whether the connection is closed afterwards.
    fn of(self, answer: Vec<u8>) -> (Vec<u8>, bool) {
        let mut octets = answer.clone();
        match self {
            Edit::Flip { at, bits } => {
                let places = octets.len() - 4;
                octets[4 + at % places] ^= bits;
            }
            Edit::AvpLength { number, length } => {
                let mut found = Vec::new();
                places(&octets, 20, octets.len(), &mut found);
                let at = found[number % found.len()];
                octets[at + 5..at + 8].copy_from_slice(&(length as u32).to_be_bytes()[1..]);
            }
            Edit::Truncate { at } => octets = measured(octets[..at.max(20).min(octets.len())].to_vec()),
            Edit::Command(code) => octets[5..8].copy_from_slice(&code.to_be_bytes()[1..]),
            Edit::Application(id) => octets[8..12].copy_from_slice(&id.to_be_bytes()),
            Edit::Flags(flags) => octets[4] = flags,
            Edit::Nested(depth) => {
                let deep = (0..depth).fold(Vec::new(), |inner, _| raw_avp(456, 0x40, &inner));
                octets = measured([octets, deep].concat());
            }
            Edit::Unknown { count, flags } => {
                let many = (0..count as u32).flat_map(|number| raw_avp(4_000_000 + number, flags, b"what"));
                octets = measured(octets.into_iter().chain(many).collect());
            }
            Edit::Uninvited => {
                octets[12..16].copy_from_slice(&0xdead_beef_u32.to_be_bytes());
                octets = [octets.clone(), octets, answer].concat();
            }
            Edit::Requests { seed } => octets = [requests(seed), answer].concat(),
            Edit::Length(length) => octets[1..4].copy_from_slice(&length.to_be_bytes()[1..]),
            Edit::Version(version) => octets[0] = version,
            Edit::Cut { at } => return (octets[..at % octets.len()].to_vec(), true),
            // Not a version of Diameter.
            Edit::Garbage { seed } => octets = [vec![0xff], garbage(seed, 5000)].concat(),
        }
        (octets, false)
    }

    /// Returns changes of this answer after which the stream can still be divided into messages.
    fn within(answer: &[u8]) -> Vec<Edit> {
        let mut found = Vec::new();
        places(answer, 20, answer.len(), &mut found);
        let length_of = |at: usize| usize::from(answer[at + 6]) << 8 | usize::from(answer[at + 7]);
        let lengths = found.iter().enumerate().flat_map(|(number, at)| {
            let all = 0..=length_of(*at) + 3;
            all.chain([0xffff, 0xff_ffff]).map(move |length| Edit::AvpLength { number, length })
        });
        let flips =
            (0..answer.len() - 4).map(|at| Edit::Flip { at, bits: if at % 3 == 0 { 0xff } else { 1 << (at % 8) } });
        // A length that is not a multiple of four ends the stream (RFC 6733, 3).
        let cuts = (20..answer.len()).step_by(4).map(|at| Edit::Truncate { at });
        let commands = [0, 257, 258, 271, 273, 274, 280, 0xff_ffff].map(Edit::Command);
        let applications = [0, 1, 3, 5, u32::MAX].map(Edit::Application);
        let flags = (0..=255).step_by(5).map(Edit::Flags);
        let depths = [1, 2, 30, 31, 32, 33, 100, 1000, 5000].map(Edit::Nested);
        let unknown = [0, 0x40, 0x80, 0xff].map(|flags| Edit::Unknown { count: 1000, flags });
        let requests = (1..40).map(|seed| Edit::Requests { seed });
        let many = lengths.chain(flips).chain(cuts).chain(flags).chain(requests);
        many.chain(commands).chain(applications).chain(depths).chain(unknown).chain([Edit::Uninvited]).collect()
    }

    /// Changes after which the start of the next message is unknown.
    const BREAKING: [Edit; 11] = [
        Edit::Truncate { at: 21 },
        Edit::Truncate { at: 150 },
        Edit::Length(0),
        Edit::Length(19),
        Edit::Length(21),
        Edit::Length(70_000),
        Edit::Length(0xff_ffff),
        Edit::Version(2),
        Edit::Cut { at: 0 },
        Edit::Cut { at: 150 },
        Edit::Garbage { seed: 7 },
    ];
}

/// Returns invalid requests of a server: some without AVPs, others with octets that are not AVPs.
fn requests(seed: u32) -> Vec<u8> {
    let commands = [258, 274, 272, 280, 999, 0xff_fffe];
    let request = |(number, command): (usize, u32)| {
        let data =
            if (seed as usize + number).is_multiple_of(2) { Vec::new() } else { garbage(seed, 4 * seed as usize) };
        let application: u32 = [0, 4, 16_777_238][seed as usize % 3];
        let head = [&[1, 0, 0, 0, 0xc0], &command.to_be_bytes()[1..], &application.to_be_bytes(), &[seed as u8; 8]];
        measured([head.concat(), data].concat())
    };
    commands.into_iter().enumerate().flat_map(request).collect()
}

/// State shared by the servers.
#[derive(Default)]
struct Plan {
    edits: Mutex<VecDeque<Edit>>,
    /// A valid answer to an INITIAL_REQUEST.
    good: Mutex<Vec<u8>>,
    over: AtomicBool,
}

/// Charging systems that share a plan: each CCR to any of them consumes the next edit.
struct Fakes {
    plan: Arc<Plan>,
    addresses: Vec<SocketAddr>,
}

impl Fakes {
    fn start(count: usize) -> Fakes {
        let plan = Arc::new(Plan::default());
        let start = |number| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
            let (address, plan) = (listener.local_addr().expect("bound"), Arc::clone(&plan));
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten().take_while(|_| !plan.over.load(Ordering::Relaxed)) {
                    let plan = Arc::clone(&plan);
                    std::thread::spawn(move || serve(stream, number, &plan));
                }
            });
            address
        };
        let addresses = (0..count).map(start).collect();
        Fakes { plan, addresses }
    }

    /// Starts a proxy with them as its peers.
    fn stage(&self) -> Stage {
        let peer = |number: usize| format!("\"host=ocs{number}.example.com;address={}\"", self.addresses[number]);
        let stage = Stage::new(|setup| {
            let first = setup.defined("WITH_DIAMETER", "1").defined("OCS_PEER", peer(0));
            let setup = (1..self.addresses.len()).fold(first, |setup, at| setup.parameter("peer", &peer(at)));
            setup.parameter("tx_timeout", &TX_TIMEOUT.to_string())
        });
        let all = || open(&stage) == self.addresses.len();
        assert!(eventually(PATIENCE, all), "{}", stage.proxy.log());
        stage
    }
}

impl Drop for Fakes {
    fn drop(&mut self) {
        self.plan.over.store(true, Ordering::Relaxed);
        // Wakes the threads that accept.
        self.addresses.iter().for_each(|address| drop(TcpStream::connect(address)));
    }
}

/// Returns the number of peers that accept requests.
fn open(stage: &Stage) -> usize {
    let peers = stage.proxy.rpc(&["imcharge.peers"]).unwrap_or_default();
    peers.matches("state: OKAY").count() + peers.matches("state: REOPEN").count()
}

/// Serves a connection until it ends.
fn serve(mut stream: TcpStream, number: usize, plan: &Plan) {
    let mut head = [0; 4];
    while stream.read_exact(&mut head).is_ok() {
        let length = u32::from_be_bytes([0, head[1], head[2], head[3]]) as usize;
        let mut octets = head.to_vec();
        octets.resize(length, 0);
        if stream.read_exact(&mut octets[4..]).is_err() {
            return;
        }
        let request = Message::parse(&octets).expect("the proxy writes messages");
        if !request.header.is_request() {
            continue;
        }
        let answer = answer(&request, number);
        let edit = match request.header.command {
            Command::CREDIT_CONTROL => plan.edits.lock().expect("no holder panics").pop_front(),
            _ => None,
        };
        if request.header.command == Command::CREDIT_CONTROL && edit.is_none() {
            plan.good.lock().expect("no holder panics").clone_from(&answer);
        }
        let (bytes, ends) = edit.map_or((answer.clone(), false), |edit| edit.of(answer));
        if stream.write_all(&bytes).is_err() || ends {
            return;
        }
    }
}

/// Returns the valid answer.
fn answer(request: &Message<'_>, number: usize) -> Vec<u8> {
    let (mut out, host) = (Vec::new(), format!("ocs{number}.example.com"));
    let mut writer = Writer::answer(&mut out, &request.header);
    match request.header.command {
        Command::CREDIT_CONTROL => {
            let asked = CreditControlRequest::decode(request).expect("the proxy asks as it should");
            let granted = |service: &Service<'_>| Service {
                granted_service_unit: service.requested_service_unit.clone(),
                service_identifier: service.service_identifier.clone(),
                rating_group: service.rating_group,
                validity_time: Some(3600),
                result_code: Some(ResultCode::SUCCESS),
                ..Service::default()
            };
            let answer = CreditControlAnswer {
                session_id: Some(asked.session_id),
                result_code: Some(ResultCode::SUCCESS),
                origin_host: &host,
                origin_realm: "example.com",
                auth_application_id: Some(asked.auth_application_id),
                request_type: Some(asked.request_type),
                request_number: Some(asked.request_number),
                granted_service_unit: asked.requested_service_unit.map(|units| ServiceUnits { ..units }),
                services: asked.services.iter().map(granted).collect(),
                ..CreditControlAnswer::default()
            };
            answer.write(&mut writer);
        }
        _ => {
            writer.u32(avp::RESULT_CODE, 2001);
            writer.text(avp::ORIGIN_HOST, &host);
            writer.text(avp::ORIGIN_REALM, "example.com");
        }
    }
    if request.header.command == Command::CAPABILITIES_EXCHANGE {
        writer.octets(avp::HOST_IP_ADDRESS, &[0, 1, 127, 0, 0, 1]);
        writer.u32(avp::VENDOR_ID, 0);
        writer.text(avp::PRODUCT_NAME, "fake");
        writer.u32(avp::AUTH_APPLICATION_ID, 4);
    }
    writer.finish().expect("it is short");
    out
}

/// Sends an INVITE, and a BYE if it is granted. Asserts that the final answer arrives in time.
#[track_caller]
fn call(stage: &Stage) -> u16 {
    let asked = Instant::now();
    let mut client = stage.client(ALICE, |options| options.headers.push(("X-Call".into(), unique().to_string())));
    let status = client.invite();
    let within = Duration::from_secs(TX_TIMEOUT + 2);
    assert!([200, 402, 503].contains(&status), "{status}\n{}", stage.proxy.log());
    assert!(asked.elapsed() < within, "{status} after {:?}\n{}", asked.elapsed(), stage.proxy.log());
    if status == 200 {
        assert_eq!(client.bye(), 200);
    }
    status
}

/// Makes calls until every edit has been sent.
fn call_until_spent(stage: &Stage, plan: &Plan, callers: usize) {
    let spent = || plan.edits.lock().expect("no holder panics").is_empty();
    std::thread::scope(|scope| {
        for _ in 0..callers {
            scope.spawn(|| {
                while !spent() {
                    call(stage);
                    assert!(eventually(2 * PATIENCE, || open(stage) > 0), "{}", stage.proxy.log());
                }
            });
        }
    });
}

/// Asserts that no request waits, each has ended once, and the next call is granted.
#[track_caller]
fn assert_rest(stage: &Stage, vitals: &Vitals<'_>) {
    let rests = || {
        let sent = statistics(&stage.proxy, ["initial_ccrs", "interim_ccrs", "final_ccrs", "event_ccrs"]);
        let ended = statistics(&stage.proxy, ["ccr_answers", "ccr_timeouts", "ccr_failures"]);
        let left = statistics(&stage.proxy, ["outbox_depth", "sessions_active"]);
        sent.iter().sum::<i64>() == ended.iter().sum::<i64>() && left == [0, 0]
    };
    let all = || stage.proxy.rpc(&["imcharge.stats"]).unwrap_or_default();
    assert!(eventually(6 * PATIENCE, rests), "{}\n{}", all(), vitals.end());
    assert_eq!(call(stage), 200, "{}", vitals.end());
    assert!(eventually(PATIENCE, rests), "{}", all());
    vitals.assert_unharmed();
}

#[test]
fn broken_answer_affects_its_own_request_only() {
    let fakes = Fakes::start(1);
    let stage = fakes.stage();
    let _server = stage.server(&[], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    let mut client = stage.client(ALICE, |_| {});
    assert_eq!(client.invite(), 200, "{}", stage.proxy.log());
    let edits = Edit::within(&fakes.plan.good.lock().expect("no holder panics"));
    assert_eq!(client.bye(), 200);
    let run = |edits: &[Edit]| {
        let before = Memory::of(&stage.proxy);
        fakes.plan.edits.lock().expect("no holder panics").extend(edits);
        call_until_spent(&stage, &fakes.plan, 32);
        assert_rest(&stage, &vitals);
        before
    };
    // The same number of valid answers first: they fill caches, and show how much memory so many calls need while the
    // engine remembers them. Calls with invalid answers need no more.
    let good = vec![Edit::Flip { at: 0, bits: 0 }; edits.len()];
    run(&good);
    let before = run(&good);
    let history = Memory::of(&stage.proxy).own_since(before);
    let before = run(&edits);
    Memory::assert_flat(before, &stage.proxy, history + (512 << 10), 256 << 10);
    let names = ["ccr_unmatched_answers", "ccr_late_answers", "ccr_malformed"];
    let [unmatched, late, malformed] = statistics(&stage.proxy, names);
    assert!(unmatched + late >= 2, "unsolicited answers are counted: {unmatched} unmatched, {late} late");
    // Most wrong AVP lengths invalidate an answer; other changes may not.
    let lengths = edits.iter().filter(|edit| matches!(edit, Edit::AvpLength { .. })).count() as i64;
    assert!(malformed >= lengths / 2, "{malformed} malformed of {} broken ones", edits.len());
}

#[test]
fn a_stream_broken_in_any_way_costs_its_connection_alone() {
    let fakes = Fakes::start(Edit::BREAKING.len() + 1);
    let stage = fakes.stage();
    let _server = stage.server(&[], |_| {});
    let vitals = Vitals::of(&stage.proxy);
    for edit in Edit::BREAKING {
        let [before] = statistics(&stage.proxy, ["ccr_malformed"]);
        fakes.plan.edits.lock().expect("no holder panics").push_back(edit);
        call_until_spent(&stage, &fakes.plan, 1);
        vitals.assert_well(&format!("{edit:?}"));
        let counted = || statistics(&stage.proxy, ["ccr_malformed"]) > [before];
        assert!(matches!(edit, Edit::Cut { .. }) || eventually(PATIENCE, counted), "{edit:?} is not counted");
    }
    assert_rest(&stage, &vitals);
    let back = || open(&stage) == fakes.addresses.len();
    assert!(eventually(6 * PATIENCE, back), "{}", vitals.end());
}
