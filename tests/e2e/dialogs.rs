//! Offer and answer in every message that may carry them, forked INVITEs, and in-dialog requests that do not go to the
//! server: before the shipped configuration, and before one that lets uncharged MSRP pass as well, where content of a
//! session that is not bound would cost nothing.

use super::{ALICE, HOST, Stage, mixed};
use imcharge_testkit::parties::auth::use_path;
use imcharge_testkit::parties::msrp::{Frame, Reader, Writer, connection};
use imcharge_testkit::parties::sip::{Message, Transport, description, uri_of};
use imcharge_testkit::proxy::{Host, Setup};
use imcharge_testkit::{eventually, unique};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(5);

/// One end of an MSRP session.
#[derive(Clone)]
struct Endpoint {
    /// Session id.
    name: String,
    /// The relay's URI before it.
    relay: String,
}

/// A user agent that the test drives step by step: one SIP socket and one MSRP connection to the relay.
pub struct Agent {
    pub transport: Transport,
    reader: Reader,
    writer: Writer,
    relay: SocketAddr,
    pub proxy: SocketAddr,
    own: SocketAddr,
    endpoint: Endpoint,
}

impl Agent {
    pub fn new(stage: &Stage, socket: &UdpSocket) -> Agent {
        let stream = TcpStream::connect(stage.proxy.msrp).expect("the relay listens");
        let (reader, writer) = connection(stream).expect("a connection");
        let own = reader.local_address().expect("connected");
        let (relay, proxy) = (stage.proxy.msrp, stage.proxy.sip);
        let transport = Transport::on(socket).expect("a socket");
        let endpoint = Endpoint { name: String::new(), relay: format!("msrp://{relay}/relay;tcp") };
        let mut agent = Agent { transport, reader, writer, relay, proxy, own, endpoint };
        agent.move_on();
        agent
    }

    pub fn anywhere(stage: &Stage) -> Agent {
        Agent::new(stage, &UdpSocket::bind("127.0.0.1:0").expect("a free port"))
    }

    fn uri(&self) -> String {
        format!("msrp://{}/{};tcp", self.own, self.endpoint.name)
    }

    /// Path in its SDP: OpenSIPS relays only for clients that have requested a relay URI (RFC 4976).
    pub fn path(&self) -> String {
        match HOST.get() {
            Host::Kamailio => self.uri(),
            Host::OpenSips => format!("{} {}", self.endpoint.relay, self.uri()),
        }
    }

    /// A new endpoint on the same connection.
    pub fn move_on(&mut self) {
        self.move_to(format!("s{}", unique()));
    }

    fn move_to(&mut self, name: String) {
        self.endpoint.name = name;
        if HOST.get() == Host::OpenSips {
            self.endpoint.relay = use_path(self.relay, &self.relay.to_string(), &self.uri()).expect("a path");
        }
    }

    pub fn description(&self) -> String {
        description(&self.path())
    }

    fn contact(&self) -> String {
        format!("<sip:ua@{}>", self.transport.address())
    }

    pub fn send(&self, message: &Message, to: SocketAddr) {
        self.transport.send(message, to).expect("sent");
    }

    /// The next message that the case waits for; others, and copies, are passed over.
    #[track_caller]
    fn expect(&self, what: &str, wanted: impl Fn(&Message) -> bool) -> Message {
        let started = Instant::now();
        while started.elapsed() < SOON {
            if let Some((message, _)) = self.transport.receive(Duration::from_millis(100))
                && wanted(&message)
            {
                return message;
            }
        }
        panic!("no {what} comes");
    }

    #[track_caller]
    fn expect_request(&self, method: &str, cseq: u32) -> Message {
        let of_it = |message: &Message| message.status() == 0 && message.header("CSeq") == format!("{cseq} {method}");
        self.expect(method, of_it)
    }

    #[track_caller]
    pub fn expect_reply(&self, code: u16, cseq: u32, method: &str) -> Message {
        let of_it =
            |message: &Message| message.status() == code && message.header("CSeq") == format!("{cseq} {method}");
        self.expect(&format!("{code} to {method}"), of_it)
    }

    /// Sends a message to another user agent and returns the relay's answer.
    pub fn deliver(&mut self, to: &str, text: &str) -> u16 {
        let id = format!("tr{}", unique());
        self.send_text(to, (&id, &format!("m{}", unique())), text);
        self.next(|frame| frame.id == id).map_or(0, |frame| frame.status())
    }

    /// Sends a message with this transaction id and Message-ID to another user agent.
    pub fn send_text(&self, to: &str, (id, message_id): (&str, &str), text: &str) {
        let octets = text.len();
        let lines = format!(
            "To-Path: {} {to}\r\nFrom-Path: {}\r\nMessage-ID: {message_id}\r\nByte-Range: 1-{octets}/{octets}\r\n",
            self.endpoint.relay,
            self.uri(),
        );
        self.writer.request(id, "SEND", &lines, Some(text.as_bytes()), '$').expect("the relay takes it");
    }

    fn next(&mut self, wanted: impl Fn(&Frame) -> bool) -> Option<Frame> {
        let started = Instant::now();
        while started.elapsed() < SOON {
            if let Some(frame) = self.reader.next(Duration::from_millis(100)).ok()?.filter(&wanted) {
                return Some(frame);
            }
        }
        None
    }

    /// Takes the next message and answers 200.
    pub fn take(&mut self) -> Option<String> {
        let frame = self.next(Frame::is_content)?;
        let own = frame.header("To-Path").rsplit(' ').next().unwrap_or_default().to_owned();
        self.writer.answer(&frame, 200, &own, false).expect("the relay takes it");
        frame.body.map(|body| String::from_utf8_lossy(&body).into_owned())
    }
}

/// Sender of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum From {
    Client,
    Server,
}

/// A call between a client and a server.
pub struct Call<'a> {
    stage: &'a Stage,
    pub client: Agent,
    pub server: Agent,
    pub invite: Message,
    /// As the server has got it.
    received: Message,
    /// The answers that made its dialogs, by To tag.
    answers: Vec<(String, Message)>,
    cseq: [u32; 2],
}

impl<'a> Call<'a> {
    pub fn new(stage: &'a Stage) -> Call<'a> {
        let (client, server) = (Agent::anywhere(stage), Agent::new(stage, &stage.place));
        Call::between(stage, client, server)
    }

    fn between(stage: &'a Stage, client: Agent, server: Agent) -> Call<'a> {
        let (number, address) = (unique(), client.transport.address());
        let invite = Message { start: "INVITE sip:deferred@im.example.org SIP/2.0".into(), ..Message::default() }
            .with("Via", format!("SIP/2.0/UDP {address};branch=z9hG4bK{number};rport"))
            .with("Max-Forwards", "70")
            .with("From", format!("<{ALICE}>;tag=c{number}"))
            .with("To", "<sip:deferred@im.example.org>")
            .with("Call-ID", format!("dialog{number}"))
            .with("CSeq", "1 INVITE")
            .with("Supported", "100rel")
            .with("Contact", client.contact())
            .with("P-Asserted-Identity", format!("<{ALICE}>"));
        let received = Message::default();
        Call { stage, client, server, invite, received, answers: Vec::new(), cseq: [1, 100] }
    }

    /// The same call to another URI.
    pub fn to(mut self, uri: &str) -> Call<'a> {
        self.invite.start = format!("INVITE {uri} SIP/2.0");
        let to = self.invite.headers.iter_mut().find(|(name, _)| name == "To").expect("a To header");
        to.1 = format!("<{uri}>");
        self
    }

    /// The client invites with its description.
    pub fn invite(&mut self) {
        self.invite_with(&self.client.description());
    }

    #[track_caller]
    fn invite_with(&mut self, body: &str) {
        self.invite.body = body.into();
        self.client.send(&self.invite, self.client.proxy);
        self.received = self.server.expect_request("INVITE", 1);
    }

    /// A reply to the INVITE, in the dialog of this tag.
    pub fn reply(&mut self, code: u16, tag: &str, body: &str) -> Message {
        let mut reply = self.received.answer(code, "-", tag).with("Contact", self.server.contact());
        if code == 183 {
            reply = reply.with("Require", "100rel").with("RSeq", "1");
        }
        reply.body = body.into();
        self.server.send(&reply, self.stage.proxy.sip);
        let got = self.client.expect_reply(code, 1, "INVITE");
        if !self.answers.iter().any(|(known, _)| known == tag) {
            self.answers.push((tag.into(), got.clone()));
        }
        got
    }

    /// A whole 200 with the server's description, and its ACK.
    pub fn answer(&mut self, tag: &str) {
        self.reply(200, tag, &self.server.description());
        self.acknowledge(tag, "");
    }

    pub fn acknowledge(&mut self, tag: &str, body: &str) {
        let mut ack = self.request(From::Client, "ACK", tag, 1);
        ack.body = body.into();
        self.client.send(&ack, self.client.proxy);
        self.server.expect_request("ACK", 1);
    }

    /// A request in the dialog of this tag.
    fn request(&self, from: From, method: &str, tag: &str, cseq: u32) -> Message {
        let answer = &self.answers.iter().find(|(known, _)| known == tag).expect("a dialog").1;
        let (sender, target, routes) = match from {
            From::Client => {
                (&self.client, answer.header("Contact"), answer.all("Record-Route").into_iter().rev().collect())
            }
            From::Server => (&self.server, self.invite.header("Contact"), self.received.all("Record-Route")),
        };
        let routes: Vec<String> = routes;
        let (one, other) = (self.invite.header("From"), answer.header("To"));
        let (sender_tag, target_tag) = if from == From::Client { (one, other) } else { (other, one) };
        let address = sender.transport.address();
        let mut request = Message { start: format!("{method} {} SIP/2.0", uri_of(target)), ..Message::default() }
            .with("Via", format!("SIP/2.0/UDP {address};branch=z9hG4bK{};rport", unique()))
            .with("Max-Forwards", "70");
        for route in routes {
            request = request.with("Route", route);
        }
        request
            .with("From", sender_tag)
            .with("To", target_tag)
            .with("Call-ID", self.invite.header("Call-ID"))
            .with("CSeq", format!("{cseq} {method}"))
            .with("Contact", sender.contact())
    }

    fn next_cseq(&mut self, from: From) -> u32 {
        let cseq = &mut self.cseq[from as usize];
        *cseq += 1;
        *cseq
    }

    /// A whole transaction in a dialog: a request with this body, and its 200 with that one.
    #[track_caller]
    pub fn transact(&mut self, from: From, method: &str, tag: &str, offer: &str, answer: &str) {
        let cseq = self.next_cseq(from);
        let mut request = self.request(from, method, tag, cseq);
        request.body = offer.into();
        let (sender, receiver) = match from {
            From::Client => (&self.client, &self.server),
            From::Server => (&self.server, &self.client),
        };
        sender.send(&request, self.stage.proxy.sip);
        let got = receiver.expect_request(method, cseq);
        let mut ok = got.answer(200, "OK", "").with("Contact", receiver.contact());
        ok.body = answer.into();
        receiver.send(&ok, self.stage.proxy.sip);
        sender.expect_reply(200, cseq, method);
        if method == "INVITE" {
            let ack = self.request(from, "ACK", tag, cseq);
            sender.send(&ack, self.stage.proxy.sip);
            receiver.expect_request("ACK", cseq);
        }
    }

    /// The server delivers a message that must be paid for.
    #[track_caller]
    fn is_charged(&mut self) {
        let before = self.stage.proxy.debits(ALICE).len();
        let (to, text) = (self.client.path(), format!("text {before}"));
        assert_eq!(self.server.deliver(&to, &text), 200, "{}", self.stage.proxy.log());
        assert_eq!(self.client.take(), Some(text));
        self.stage.until_debited(ALICE, before + 1);
    }

    /// What the server sends is stopped.
    #[track_caller]
    fn is_stopped(&mut self) {
        let to = self.client.path();
        let status = self.server.deliver(&to, "too much");
        assert!([403, 481].contains(&status), "{status}\n{}", self.stage.proxy.log());
    }

    #[track_caller]
    pub fn bye(&mut self, from: From, tag: &str) {
        self.transact(from, "BYE", tag, "", "");
    }
}

/// Runs a case before both configurations; Alice has 100 in each.
fn in_both(case: fn(&Stage)) {
    for change in [|setup| setup, mixed as fn(Setup) -> Setup] {
        let stage = Stage::new(change);
        stage.proxy.set_account(ALICE, 100);
        case(&stage);
    }
}

#[test]
pub fn the_answer_in_a_reliable_provisional_response_binds() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        call.invite();
        call.reply(183, "one", &call.server.description());
        call.is_charged();
        call.transact(From::Client, "PRACK", "one", "", "");
        call.reply(200, "one", "");
        call.acknowledge("one", "");
        call.is_charged();
        call.bye(From::Client, "one");
        stage.expect(ALICE, 98, 0, 2);
    });
}

#[test]
pub fn an_update_of_either_side_binds_anew() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        call.invite();
        call.answer("one");
        call.is_charged();
        for method in ["UPDATE", "INVITE"] {
            for from in [From::Client, From::Server] {
                call.client.move_on();
                call.server.move_on();
                let (client, server) = (call.client.description(), call.server.description());
                let (offer, answer) = if from == From::Client { (client, server) } else { (server, client) };
                call.transact(from, method, "one", &offer, &answer);
                call.is_charged();
            }
        }
        // One without a description changes nothing, and one that is refused neither.
        call.transact(From::Client, "INVITE", "one", "", "");
        let cseq = call.next_cseq(From::Client);
        let mut update = call.request(From::Client, "UPDATE", "one", cseq);
        update.body = description(&format!("msrp://{}/other;tcp", call.client.own));
        call.client.send(&update, stage.proxy.sip);
        let got = call.server.expect_request("UPDATE", cseq);
        call.server.send(&got.answer(488, "Not Acceptable Here", ""), stage.proxy.sip);
        call.client.expect_reply(488, cseq, "UPDATE");
        call.is_charged();
        call.bye(From::Server, "one");
        stage.expect(ALICE, 94, 0, 6);
    });
}

#[test]
pub fn a_late_offer_is_answered_in_the_ack_or_in_the_prack() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        call.invite_with("");
        call.reply(200, "one", &call.server.description());
        call.acknowledge("one", &call.client.description());
        call.is_charged();
        call.bye(From::Client, "one");
        let mut call = Call::new(stage);
        call.invite_with("");
        call.reply(183, "two", &call.server.description());
        call.transact(From::Client, "PRACK", "two", &call.client.description(), "");
        call.reply(200, "two", "");
        call.acknowledge("two", "");
        call.is_charged();
        call.bye(From::Client, "two");
        stage.expect(ALICE, 98, 0, 2);
    });
}

#[test]
pub fn every_dialog_of_a_forked_invite_is_charged_until_its_own_end() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        call.invite();
        let description = call.server.description();
        call.answer("one");
        call.is_charged();
        // The other party of the fork uses a separate connection.
        let first = std::mem::replace(&mut call.server, Agent::new(stage, &stage.place));
        // The first 200 comes again after the second.
        call.reply(200, "two", &call.server.description());
        call.acknowledge("two", "");
        call.reply(200, "one", &description);
        call.is_charged();
        call.bye(From::Client, "two");
        call.server = first;
        call.is_charged();
        assert_eq!(stage.proxy.statistic("sessions_active"), 1);
        assert_eq!(stage.proxy.statistic("frames_forged"), 0);
        call.bye(From::Client, "one");
        stage.expect(ALICE, 97, 0, 3);
    });
}

#[test]
pub fn media_are_bound_by_their_position_and_descriptions_found_by_their_type() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        let (client, server) = (call.client.description(), call.server.description());
        let media = |description: &str| description[description.find("m=").expect("a media")..].to_owned();
        let unused = description("msrp://192.0.2.1:9/unused;tcp");
        let offer = format!("{unused}{}", media(&client));
        call.invite.headers.push(("Content-Type".into(), "multipart/mixed;boundary=part".into()));
        call.invite_with(&format!(
            "--part\r\nContent-Type: text/plain\r\n\r\n{unused}\r\n--part\r\nContent-Type: application/sdp\r\n\r\n{offer}\r\n--part--\r\n"
        ));
        let refused = unused.replace("m=message 9 ", "m=message 0 ");
        call.reply(200, "one", &format!("{refused}{}", media(&server)));
        call.acknowledge("one", "");
        call.is_charged();
        call.bye(From::Client, "one");
        stage.expect(ALICE, 99, 0, 1);
    });
}

#[test]
pub fn sessions_with_equal_session_ids_are_distinguished_by_their_hosts() {
    in_both(|stage| {
        let mut first = Call::new(stage);
        let mut second = Call::between(stage, Agent::anywhere(stage), Agent::new(stage, &stage.place));
        second.client.move_to(first.client.endpoint.name.clone());
        second.server.move_to(first.server.endpoint.name.clone());
        first.invite();
        first.answer("one");
        second.invite();
        second.answer("one");
        let (to_first, to_second) = (first.client.path(), second.client.path());
        assert_eq!(first.server.deliver(&to_first, "first"), 200);
        assert_eq!(second.server.deliver(&to_second, "second"), 200);
        // The second one's 200 comes before the first one's.
        assert_eq!(second.client.take().as_deref(), Some("second"));
        stage.until_debited(ALICE, 1);
        assert_eq!(first.client.take().as_deref(), Some("first"));
        stage.until_debited(ALICE, 2);
        for call in [&first, &second] {
            let of_it = format!("SELECT count(*) FROM debits WHERE call_id='{}'", call.invite.header("Call-ID"));
            assert_eq!(stage.proxy.count(&of_it), 1);
        }
        assert_eq!(stage.triggers(ALICE), ["response"; 2]);
        first.bye(From::Client, "one");
        second.bye(From::Client, "one");
        stage.expect(ALICE, 98, 0, 2);
    });
}

#[test]
pub fn content_after_an_unreliable_provisional_response_is_charged() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        call.invite();
        let mut progress = call.received.answer(183, "Session Progress", "one").with("Contact", call.server.contact());
        progress.body = call.server.description();
        call.server.send(&progress, stage.proxy.sip);
        call.client.expect_reply(183, 1, "INVITE");
        call.is_charged();
        call.answer("one");
        call.is_charged();
        call.bye(From::Client, "one");
        stage.expect(ALICE, 98, 0, 2);
    });
}

#[test]
pub fn a_client_that_names_the_servers_endpoint_gets_nothing_for_it() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        let media = |description: &str| description[description.find("m=").expect("a media")..].to_owned();
        let (client, server) = (call.client.description(), call.server.description());
        call.invite_with(&format!("{server}{}", media(&client)));
        call.reply(200, "one", &format!("{server}{}", media(&server)));
        call.acknowledge("one", "");
        call.is_stopped();
        call.bye(From::Client, "one");
        stage.expect(ALICE, 100, 0, 0);
        assert!(stage.proxy.statistic("answers_foreign") >= 1);
    });
}

#[test]
pub fn endless_changes_leave_no_unknown_endpoint() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        call.invite();
        call.answer("one");
        let changes = (0..100).take_while(|_| {
            call.client.move_on();
            let cseq = call.next_cseq(From::Client);
            let mut update = call.request(From::Client, "UPDATE", "one", cseq);
            update.body = call.client.description();
            call.client.send(&update, stage.proxy.sip);
            let of_it = |message: &Message| message.header("CSeq") == format!("{cseq} UPDATE");
            let got = (0..5).find_map(|_| call.server.transport.receive(Duration::from_millis(200)));
            let Some((got, _)) = got.filter(|(message, _)| of_it(message)) else { return false };
            call.server.move_on();
            let mut ok = got.answer(200, "OK", "").with("Contact", call.server.contact());
            ok.body = call.server.description();
            call.server.send(&ok, stage.proxy.sip);
            call.client.expect_reply(200, cseq, "UPDATE");
            true
        });
        let changes = changes.count();
        assert!((20..100).contains(&changes), "{changes}");
        // The last change was refused: server and client are where they were before it.
        call.is_stopped();
        call.bye(From::Client, "one");
        stage.expect(ALICE, 100, 0, 0);
    });
}

/// A client with two messages' worth of credit tries to take its session away from the server.
fn assert_that_the_server_stays_bound(stage: &Stage, attack: impl Fn(&mut Call<'_>, &Agent)) {
    stage.proxy.set_account(ALICE, 2);
    let mut call = Call::new(stage);
    let accomplice = Agent::anywhere(stage);
    call.invite();
    call.answer("one");
    attack(&mut call, &accomplice);
    call.is_charged();
    call.is_charged();
    for _ in 0..3 {
        call.is_stopped();
    }
    assert!(stage.proxy.statistic("answers_foreign") >= 1);
    let line = format!("call {}: ", call.invite.header("Call-ID"));
    assert!(stage.proxy.log().contains(&line), "{}", stage.proxy.log());
    call.bye(From::Client, "one");
    stage.expect(ALICE, 0, 0, 2);
}

/// The accomplice answers a request of the client with this description.
fn accept(call: &Call<'_>, accomplice: &Agent, request: &Message, body: &str) {
    let (method, cseq) = (request.method(), call.cseq[0]);
    call.client.send(request, call.stage.proxy.sip);
    let got = accomplice.expect_request(method, cseq);
    let mut ok = got.answer(200, "OK", "").with("Contact", accomplice.contact());
    ok.body = body.into();
    accomplice.send(&ok, call.stage.proxy.sip);
    call.client.expect_reply(200, cseq, method);
}

#[test]
pub fn a_request_to_another_target_swaps_no_sides() {
    in_both(|stage| {
        assert_that_the_server_stays_bound(stage, |call, accomplice| {
            for method in ["INVITE", "UPDATE"] {
                let cseq = call.next_cseq(From::Client);
                let mut request = call.request(From::Client, method, "one", cseq);
                request.start = format!("{method} {} SIP/2.0", uri_of(&accomplice.contact()));
                request.body = call.server.description();
                accept(call, accomplice, &request, &call.client.description());
            }
        });
    });
}

#[test]
pub fn a_route_to_another_party_binds_nothing() {
    in_both(|stage| {
        assert_that_the_server_stays_bound(stage, |call, accomplice| {
            let cseq = call.next_cseq(From::Client);
            let request = call.request(From::Client, "UPDATE", "one", cseq);
            let at = request.headers.iter().rposition(|(name, _)| name == "Route").expect("a route set");
            let mut request = request;
            let route = format!("<sip:{};lr>", accomplice.transport.address());
            request.headers.insert(at + 1, ("Route".into(), route));
            request.body = description(&format!("msrp://{}/fresh;tcp", call.client.own));
            accept(call, accomplice, &request, &accomplice.description());
        });
    });
}

#[test]
pub fn a_2xx_that_crosses_a_cancel_is_honoured() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        call.invite();
        call.reply(180, "one", "");
        let mut cancel = call.invite.clone();
        cancel.start = cancel.start.replacen("INVITE", "CANCEL", 1);
        cancel.body.clear();
        cancel.headers.iter_mut().filter(|(name, _)| name == "CSeq").for_each(|(_, value)| *value = "1 CANCEL".into());
        call.client.send(&cancel, stage.proxy.sip);
        call.client.expect_reply(200, 1, "CANCEL");
        // The server takes its time; a CANCEL that is not answered by 487 has been waited for 5 seconds once.
        let cancelled = Instant::now();
        assert!(eventually(Duration::from_secs(8), || cancelled.elapsed() > Duration::from_secs(6)));
        call.answer("one");
        call.is_charged();
        call.bye(From::Client, "one");
        stage.expect(ALICE, 99, 0, 1);
    });
}

#[test]
fn after_a_bye_that_never_reached_the_server_no_content_is_free() {
    let stage = Stage::new(mixed);
    stage.proxy.set_account(ALICE, 100);
    let mut call = Call::new(&stage);
    call.invite();
    call.answer("one");
    call.is_charged();
    let cseq = call.next_cseq(From::Client);
    let bye = call.request(From::Client, "BYE", "one", cseq);
    // The server answers nothing.
    call.client.send(&bye, stage.proxy.sip);
    stage.expect(ALICE, 99, 0, 1);
    let closed = Instant::now();
    let wait = |seconds: u64| eventually(Duration::from_secs(40), || closed.elapsed() > Duration::from_secs(seconds));
    // Meanwhile another call is answered by a second fork when the proxy has forgotten the transaction, which takes it 5
    // seconds.
    let mut forked = Call::between(&stage, Agent::anywhere(&stage), Agent::new(&stage, &stage.place));
    forked.invite();
    forked.answer("one");
    forked.server.move_on();
    assert!(wait(8));
    forked.reply(200, "two", &forked.server.description());
    forked.acknowledge("two", "");
    forked.is_charged();
    forked.bye(From::Client, "two");
    forked.bye(From::Server, "one");
    stage.expect(ALICE, 98, 0, 2);
    assert!(wait(36));
    call.is_stopped();
    stage.expect(ALICE, 98, 0, 2);
}

#[test]
pub fn many_invites_of_one_call_id_leave_room_for_the_one_that_is_answered() {
    in_both(|stage| {
        let mut call = Call::new(stage);
        let number = unique();
        for round in 0..40 {
            let branch =
                format!("SIP/2.0/UDP {};branch=z9hG4bK{number}r{round};rport", call.client.transport.address());
            let mut invite = call.invite.clone();
            for (name, value) in &mut invite.headers {
                match name.as_str() {
                    "Via" => *value = branch.clone(),
                    "CSeq" => *value = format!("{} INVITE", round + 2),
                    _ => {}
                }
            }
            invite.body = call.client.description();
            call.client.send(&invite, stage.proxy.sip);
            let received = call.server.expect_request("INVITE", round + 2);
            call.server.send(&received.answer(180, "Ringing", "one"), stage.proxy.sip);
            call.server.send(&received.answer(486, "Busy Here", "one"), stage.proxy.sip);
            call.client.expect_reply(486, round + 2, "INVITE");
        }
        call.invite();
        call.answer("one");
        call.is_charged();
        call.bye(From::Client, "one");
        stage.expect(ALICE, 99, 0, 1);
    });
}
