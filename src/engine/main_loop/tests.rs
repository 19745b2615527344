//! The main loop with a Diameter server at the other end of a real socket.

mod takeover;

use super::*;
use crate::charge::event::Suspended;
use crate::charge::service::ChargedContent;
use crate::config::Config;
use crate::enabler::diameter::client::fake_peer::{HOST, REALM, answer, cea, header, messages, session_request};
use crate::engine::preflight;
use crate::wire::diameter::dictionary::{self, APPLICATION_CREDIT_CONTROL, Command};
use crate::wire::diameter::{
    CreditControlAnswer, CreditControlRequest, Framed, Message, ResultCode, ServiceUnits, frame,
};
use crate::worker::Worker;
use crate::worker::sip_input::{Body, Invite, InviteKey};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

/// An engine and its server, in one thread.
struct World {
    engine: Engine,
    server: TcpStream,
    _folder: tempfile::TempDir,
}

impl World {
    /// Starts with one INVITE that waits for its reservation.
    fn with_invite() -> World {
        World::with_invites(1)
    }

    /// Starts with several INVITEs that wait for their reservations.
    fn with_invites(invites: u32) -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let peer = format!("host={HOST};address={}", listener.local_addr().expect("bound"));
        let mut config = Config { state_dir: folder.path().to_owned(), ..Config::default() };
        for (name, value) in [
            ("enabler", "diameter"),
            ("origin_host", "imcharge.example.com"),
            ("origin_realm", "example.com"),
            ("destination_realm", REALM),
            ("service_context_id", "im@example.org"),
            ("peer", peer.as_str()),
        ] {
            config.set(name, value).unwrap_or_else(|error| panic!("{error}"));
        }
        let region = preflight::create_region(config, 1).expect("a region");
        let mut engine = Engine::start(&region).unwrap_or_else(|error| panic!("{error}"));
        let mut worker = Worker::attach(&region, 0).expect("not attached yet");
        for cseq in 1..=invites {
            let taken = worker.reserve(&Invite {
                key: InviteKey { call_id: b"a84b@pc33", from_tag: b"1", cseq },
                asserted: [b"<sip:alice@example.org>", b""],
                from: b"<sip:alice@example.org>",
                called_party: b"",
                request_uri: b"sip:deferred@im.example.org",
                subscriber: b"",
                direction: None,
                charging_vector: b"",
                messages: 3,
                content: ChargedContent::Received,
                recipients: 0,
                tariff: b"",
                offer: Body::default(),
                suspended: Suspended::default(),
            });
            taken.expect("the engine runs");
        }
        engine.tick().unwrap_or_else(|error| panic!("{error}"));
        let (server, _) = listener.accept().expect("a connection");
        server.set_read_timeout(Some(Duration::from_millis(5))).expect("a socket");
        World { engine, server, _folder: folder }
    }

    /// Runs ticks until messages arrive, and returns them.
    #[track_caller]
    fn read_next(&mut self) -> Vec<Vec<u8>> {
        let begun = Instant::now();
        let mut buffer = [0; 8192];
        loop {
            self.tick();
            match self.server.read(&mut buffer) {
                Ok(octets) if octets > 0 => return messages(&buffer[..octets]),
                _ => assert!(begun.elapsed() < Duration::from_secs(20), "no message within 20 s"),
            }
        }
    }

    /// Runs ticks until `count` messages have arrived, and returns them.
    #[track_caller]
    fn read_messages(&mut self, count: usize) -> Vec<Vec<u8>> {
        let begun = Instant::now();
        let (mut found, mut bytes, mut buffer) = (Vec::new(), Vec::new(), vec![0; 65_536]);
        while found.len() < count {
            self.tick();
            let octets = self.server.read(&mut buffer).unwrap_or(0);
            bytes.extend_from_slice(&buffer[..octets]);
            while let Framed::Message(length) = frame(&bytes) {
                found.push(bytes.drain(..length).collect());
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{} of {count} messages within 20 s", found.len());
        }
        found
    }

    #[track_caller]
    fn tick(&mut self) {
        self.engine.tick().unwrap_or_else(|error| panic!("{error}"));
    }

    fn send(&mut self, bytes: &[u8]) {
        self.server.write_all(bytes).expect("the engine reads");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.engine.region.remove_file();
    }
}

/// Returns the answer that grants three messages.
fn granted(to: &[u8]) -> Vec<u8> {
    granted_for(to, None)
}

/// Returns the answer that grants three messages, with a Validity-Time.
fn granted_for(to: &[u8], validity_time: Option<u32>) -> Vec<u8> {
    let message = Message::parse(to).expect("whole");
    let request = CreditControlRequest::decode(&message).expect("a request");
    let body = CreditControlAnswer {
        session_id: Some(request.session_id),
        result_code: Some(ResultCode::SUCCESS),
        origin_host: HOST,
        origin_realm: REALM,
        auth_application_id: Some(APPLICATION_CREDIT_CONTROL),
        request_type: Some(request.request_type),
        request_number: Some(request.request_number),
        granted_service_unit: Some(ServiceUnits { service_specific: Some(3), ..ServiceUnits::default() }),
        validity_time,
        ..CreditControlAnswer::default()
    };
    answer(to, |out| body.write(out))
}

/// The server grants and sends RAR or ASR at once, so that both are read in one tick.
#[test]
fn server_request_right_after_a_grant_finds_the_session_open() {
    for (command, result_code) in [(Command::RE_AUTH, 2002), (Command::ABORT_SESSION, 2001)] {
        let mut world = World::with_invite();
        let cer = world.read_next().remove(0);
        world.send(&cea(&cer, HOST, |_| {}));
        let initial = world.read_next().remove(0);
        let session_id = Message::parse(&initial).expect("whole").find(dictionary::SESSION_ID).expect("its own").text();
        world.send(&[granted(&initial), session_request(command, session_id.expect("text"), HOST, 5)].concat());
        let mut sent = world.read_next();
        let answer = sent.remove(0);
        let message = Message::parse(&answer).expect("whole");
        let result = message.find(dictionary::RESULT_CODE).expect("a result").u32().expect("32 bits");
        assert_eq!((message.header.command, result), (command, result_code));
        let report = sent.pop().unwrap_or_else(|| world.read_next().remove(0));
        assert_eq!(header(&report).command, Command::CREDIT_CONTROL, "an UPDATE, or the TERMINATION");
    }
}

/// Many grants expire while the engine does not run.
#[test]
fn renewals_due_at_once_are_spread_over_time() {
    const SESSIONS: u32 = 300;
    const BURST_MAX: u128 = 60;
    let mut world = World::with_invites(SESSIONS);
    let cer = world.read_next().remove(0);
    world.send(&cea(&cer, HOST, |_| {}));
    let requests = world.read_messages(SESSIONS as usize);
    let answers: Vec<Vec<u8>> = requests.iter().map(|request| granted_for(request, Some(5))).collect();
    world.send(&answers.concat());
    let counted = |world: &World, of: Statistic| world.engine.region.counter(of).load(Ordering::Relaxed);
    while counted(&world, Statistic::CcrAnswers) < u64::from(SESSIONS) {
        world.tick();
    }
    world.tick();
    std::thread::sleep(Duration::from_millis(5500));
    let begun = Instant::now();
    loop {
        world.tick();
        let renewed = counted(&world, Statistic::InterimCcrs);
        let most = BURST_MAX + begun.elapsed().as_millis();
        assert!(u128::from(renewed) <= most, "{renewed} renewals, {most} at most");
        if renewed == u64::from(SESSIONS) {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "only {renewed}");
    }
}
