//! The IM client: invites, binds the MSRP session, takes messages and answers them as it is told.

use super::auth::use_path;
use super::msrp::{Frame, Reader, Writer, connection};
use super::sip::{Message, Transport, description, path_of, uri_of};
use crate::{CLIENT, Events, PROXY, unique};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// How the client behaves.
#[derive(Clone)]
pub struct Options {
    /// Where the proxy takes SIP.
    pub proxy: SocketAddr,
    /// Where the relay takes MSRP.
    pub relay: SocketAddr,
    /// Its name and port in the URIs that it gives.
    pub relay_name: String,
    /// Whose messages: P-Asserted-Identity and From.
    pub identity: String,
    /// Whether the relay stands in the client's path too: every frame then passes it twice.
    pub via_relay: bool,
    /// The path of its description, in place of one made of its connection.
    pub path: Option<String>,
    /// Asks the relay for that URI in its path (RFC 4976), instead of naming one.
    pub authenticates: bool,
    /// Whether responses carry the whole path.
    pub whole_path: bool,
    /// Whether the INVITE carries P-Asserted-Identity: without it only From names the subscriber.
    pub asserted: bool,
    /// How long a 200 waits for its ACK: the server sends it again meanwhile (RFC 3261, 13.3.1.4).
    pub acknowledges_after: Duration,
    /// Number that Call-ID and tag are made of; `None`: one that no other has. With the number of another client its
    /// INVITE comes once more, in a transaction of its own.
    pub number: Option<u64>,
    /// The Call-ID, in place of one made of that number.
    pub call_id: Option<String>,
    /// More header lines of the INVITE.
    pub headers: Vec<(String, String)>,
}

impl Options {
    /// A client of this identity.
    pub fn new(proxy: SocketAddr, relay: SocketAddr, identity: &str) -> Options {
        Options {
            proxy,
            relay,
            relay_name: relay.to_string(),
            identity: identity.into(),
            via_relay: false,
            path: None,
            authenticates: false,
            whole_path: false,
            asserted: true,
            acknowledges_after: Duration::ZERO,
            number: None,
            call_id: None,
            headers: Vec::new(),
        }
    }
}

/// What the client does with a SEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Answers with this status.
    Answer(u16),
    /// Says nothing.
    Silence,
}

/// A message as far as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    /// Message-ID.
    pub message_id: String,
    /// Octets, those that came again not counted.
    pub octets: usize,
    /// Whether every octet came, in whatever order.
    pub complete: bool,
    /// Whether the server gave it up (`#`).
    pub given_up: bool,
    /// What came: first octets and those behind the last, in order, none touching another.
    parts: Vec<(usize, usize)>,
    /// Octets of the whole message, once known.
    total: Option<usize>,
}

impl Got {
    fn new(message_id: &str) -> Got {
        let (message_id, parts) = (message_id.to_owned(), Vec::new());
        Got { message_id, octets: 0, complete: false, given_up: false, parts, total: None }
    }

    /// Takes a chunk. Whether the message has come to an end by it: by its last missing octet, by all of it coming
    /// once more, or by the server's giving it up.
    fn add(&mut self, chunk: &Frame) -> bool {
        let (start, total) = chunk.byte_range();
        let end = start.saturating_add(chunk.body.as_ref().map_or(0, Vec::len));
        self.given_up |= chunk.flag == '#';
        self.total = self.total.or(total).or((chunk.flag == '$').then_some(end.saturating_sub(1)));
        self.parts.push((start, end));
        self.parts.sort_unstable();
        self.parts.dedup_by(|next, kept| {
            let touches = next.0 <= kept.1;
            kept.1 = if touches { kept.1.max(next.1) } else { kept.1 };
            touches
        });
        self.octets = self.parts.iter().map(|(start, end)| end - start).sum();
        let before = std::mem::replace(&mut self.complete, self.total == Some(self.octets));
        chunk.flag == '#' || self.complete && (!before || chunk.flag == '$')
    }
}

/// How a retrieval went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Final status of the INVITE; 408: none came.
    pub status: u16,
    /// Messages, in the order in which they began to come.
    pub messages: Vec<Got>,
    /// Status of the BYE; 0: there was nothing to end.
    pub bye: u16,
}

/// A retrieval from the client's side.
pub struct ImClient {
    options: Options,
    events: Events,
    transport: Transport,
    reader: Reader,
    writer: Writer,
    /// Call-ID.
    pub call_id: String,
    own_path: String,
    server_path: String,
    invite: Message,
    answer: Option<Message>,
    cseq: u32,
}

impl ImClient {
    /// Connects to the relay; sends nothing yet.
    pub fn new(options: Options, events: Events) -> std::io::Result<ImClient> {
        let (reader, writer) = connection(TcpStream::connect(options.relay)?)?;
        ImClient::on(reader, writer, options, events)
    }

    /// One more client on this one's connection to the relay. Both read from it: only one may be waiting at a time.
    pub fn beside(&self, options: Options) -> std::io::Result<ImClient> {
        ImClient::on(self.reader.beside()?, self.writer.clone(), options, self.events.clone())
    }

    fn on(reader: Reader, writer: Writer, options: Options, events: Events) -> std::io::Result<ImClient> {
        // The path must carry the connection's own port: the relay finds a connection by its address.
        let own = reader.local_address()?;
        let transport = Transport::on(&UdpSocket::bind((own.ip(), 0))?)?;
        let number = options.number.unwrap_or_else(unique);
        let call_id = options.call_id.clone().unwrap_or_else(|| format!("call{number}@{}", own.ip()));
        let own_uri = format!("msrp://{own}/C{number};tcp");
        let own_path = match options.via_relay {
            _ if options.path.is_some() => options.path.clone().unwrap_or_default(),
            true if options.authenticates => {
                format!("{} {own_uri}", use_path(options.relay, &options.relay_name, &own_uri)?)
            }
            true => format!("msrp://{}/clients;tcp {own_uri}", options.relay),
            false => own_uri,
        };
        let mut invite = Message { start: "INVITE sip:deferred@im.example.org SIP/2.0".into(), ..Message::default() }
            .with("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{};rport", transport.address(), unique()))
            .with("Max-Forwards", "70")
            .with("From", format!("<{}>;tag=c{number}", options.identity))
            .with("To", "<sip:deferred@im.example.org>")
            .with("Call-ID", &call_id)
            .with("CSeq", "1 INVITE")
            .with("Contact", format!("<sip:client@{}>", transport.address()));
        if options.asserted {
            invite = invite.with("P-Asserted-Identity", format!("<{}>", options.identity));
        }
        for (name, value) in &options.headers {
            invite = invite.with(name, value);
        }
        invite.body = description(&own_path);
        Ok(ImClient {
            options,
            events,
            transport,
            reader,
            writer,
            call_id,
            own_path,
            server_path: String::new(),
            invite,
            answer: None,
            cseq: 1,
        })
    }

    /// Sends the INVITE once.
    pub fn send_invite(&self) {
        self.events.add(CLIENT, PROXY, "INVITE");
        // What is lost is sent again.
        let _ = self.transport.send(&self.invite, self.options.proxy);
    }

    /// Sends the INVITE and waits for the final response; acknowledges it. Its status, 408 when none comes.
    pub fn invite(&mut self) -> u16 {
        self.send_invite();
        self.final_response(Duration::from_secs(10))
    }

    /// Waits for the final response to the INVITE, sending it again as RFC 3261 wants.
    pub fn final_response(&mut self, within: Duration) -> u16 {
        let started = Instant::now();
        let mut provisional = false;
        while started.elapsed() < within {
            let Some(answer) = self.receive(Duration::from_millis(500)) else {
                if !provisional {
                    let _ = self.transport.send(&self.invite, self.options.proxy);
                }
                continue;
            };
            match answer.status() {
                100..200 => provisional = true,
                // A late copy of an earlier answer has another CSeq.
                status @ 200.. if answer.header("CSeq") == self.invite.header("CSeq") => {
                    self.events.add(PROXY, CLIENT, format!("{status}"));
                    self.server_path = path_of(&answer.body);
                    if status < 300 {
                        self.let_the_answer_come_again();
                    }
                    self.acknowledge(&answer);
                    // The route set is that of the first answer (RFC 3261, 12.2).
                    self.answer.get_or_insert(answer);
                    return status;
                }
                _ => {}
            }
        }
        408
    }

    /// The next message of this call within the time. Who had the port before may still be sent something.
    fn receive(&self, within: Duration) -> Option<Message> {
        let started = Instant::now();
        while let Some(left) = within.checked_sub(started.elapsed()) {
            let (message, _) = self.transport.receive(left)?;
            if message.header("Call-ID") == self.call_id {
                return Some(message);
            }
        }
        None
    }

    fn let_the_answer_come_again(&self) {
        let started = Instant::now();
        while let Some(left) = self.options.acknowledges_after.checked_sub(started.elapsed()) {
            let again = self.receive(left).filter(|answer| answer.status() == 200);
            again.inspect(|_| self.events.add(PROXY, CLIENT, "200 again"));
        }
    }

    fn acknowledge(&self, answer: &Message) {
        let ack = match answer.status() {
            200..300 => {
                let cseq = answer.header("CSeq").split(' ').next().and_then(|number| number.parse().ok());
                self.in_dialog("ACK", answer, cseq.unwrap_or(self.cseq))
            }
            // The ACK of a refusal belongs to the INVITE's transaction.
            _ => {
                let mut ack = self.invite.clone();
                ack.start = ack.start.replacen("INVITE", "ACK", 1);
                ack.body.clear();
                for (name, value) in &mut ack.headers {
                    match name.as_str() {
                        "To" => *value = answer.header("To").to_owned(),
                        "CSeq" => *value = value.replace("INVITE", "ACK"),
                        _ => {}
                    }
                }
                ack
            }
        };
        let _ = self.transport.send(&ack, self.options.proxy);
    }

    /// A request in the dialog.
    fn in_dialog(&self, method: &str, answer: &Message, cseq: u32) -> Message {
        let target = uri_of(answer.header("Contact"));
        let mut request = Message { start: format!("{method} {target} SIP/2.0"), ..Message::default() }
            .with("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{};rport", self.transport.address(), unique()))
            .with("Max-Forwards", "70");
        for route in answer.all("Record-Route").iter().rev() {
            request = request.with("Route", route);
        }
        request
            .with("From", self.invite.header("From"))
            .with("To", answer.header("To"))
            .with("Call-ID", &self.call_id)
            .with("CSeq", format!("{cseq} {method}"))
            .with("Contact", format!("<sip:client@{}>", self.transport.address()))
    }

    /// Invites again in the dialog; the status of the answer.
    pub fn invite_again(&mut self) -> u16 {
        let answer = self.answer.clone().expect("there is a dialog");
        self.cseq += 1;
        let mut again = self.in_dialog("INVITE", &answer, self.cseq);
        again.body = self.invite.body.clone();
        let before = std::mem::replace(&mut self.invite, again);
        self.send_invite();
        let status = self.final_response(Duration::from_secs(5));
        self.invite = before;
        status
    }

    /// Invites again in the dialog with another path; the status of the answer.
    pub fn move_to(&mut self, path: &str) -> u16 {
        path.clone_into(&mut self.own_path);
        self.invite.body = description(path);
        self.invite_again()
    }

    /// Binds the MSRP session by an empty SEND (RFC 4975, 5.4).
    pub fn bind(&mut self) {
        let id = format!("tr{}", unique());
        let lines = self.paths() + &format!("Message-ID: bind{}\r\nByte-Range: 1-0/0\r\n", unique());
        self.events.add(CLIENT, PROXY, "SEND (binds the session)");
        // A relay that is gone is seen by what does not come.
        let _ = self.writer.request(&id, "SEND", &lines, None, '$');
    }

    fn paths(&self) -> String {
        let (own, relayed) = match self.own_path.split_once(' ') {
            Some((relay, own)) => (own, format!("{relay} ")),
            None => (self.own_path.as_str(), String::new()),
        };
        format!("To-Path: {relayed}{}\r\nFrom-Path: {own}\r\n", self.server_path)
    }

    /// Session id of the first hop to the server.
    pub fn peer_session(&self) -> String {
        let first = self.server_path.split(' ').next().unwrap_or_default();
        first.rsplit('/').next().and_then(|rest| rest.split(';').next()).unwrap_or_default().to_owned()
    }

    fn own_uri(&self) -> String {
        self.own_path.rsplit(' ').next().unwrap_or_default().to_owned()
    }

    /// The next SEND with content within the time, not answered yet.
    pub fn next_send(&mut self, within: Duration) -> Option<Frame> {
        let started = Instant::now();
        while started.elapsed() < within {
            let frame = self.reader.next(Duration::from_millis(100)).ok()?;
            if let Some(frame) = frame.filter(|frame| frame.what == "SEND") {
                let octets = frame.body.as_ref().map_or(0, Vec::len);
                self.events.add(PROXY, CLIENT, format!("SEND {octets} octets {}", frame.flag));
                return Some(frame);
            }
        }
        None
    }

    /// Answers a SEND.
    pub fn answer(&self, frame: &Frame, code: u16) {
        self.events.add(CLIENT, PROXY, format!("{code}"));
        let whole = self.options.whole_path;
        // A relay that is gone is seen by what does not come.
        let _ = self.writer.answer(frame, code, &self.own_uri(), whole);
    }

    /// Sends a message of its own in one frame, as the IM server of an RCS push does; the status that the next hop
    /// answers, 408 when none comes.
    pub fn deliver(&mut self, message_id: &str, body: &[u8]) -> u16 {
        let (id, octets) = (format!("tr{}", unique()), body.len());
        let range = format!("Message-ID: {message_id}\r\nByte-Range: 1-{octets}/{octets}\r\n");
        self.events.add(CLIENT, PROXY, format!("SEND {octets} octets $"));
        self.writer.request(&id, "SEND", &(self.paths() + &range), Some(body), '$').expect("the relay takes a frame");
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) {
            match self.reader.next(Duration::from_millis(100)) {
                Ok(Some(frame)) if frame.id == id && frame.status() != 0 => return frame.status(),
                Ok(_) => {}
                Err(_) => break,
            }
        }
        408
    }

    /// Sends a REPORT about a message.
    pub fn report(&self, message_id: &str, octets: usize, code: u16) {
        let id = format!("tr{}", unique());
        let lines = self.paths()
            + &format!("Message-ID: {message_id}\r\nByte-Range: 1-{octets}/{octets}\r\nStatus: 000 {code} -\r\n");
        self.writer.request(&id, "REPORT", &lines, None, '$').expect("the relay takes a report");
    }

    /// Takes this many whole messages and reacts to each chunk; Message-IDs and octets of what came.
    pub fn take(&mut self, count: usize, reaction: Reaction) -> Vec<(String, usize)> {
        self.collect(count, reaction).into_iter().map(|got| (got.message_id, got.octets)).collect()
    }

    /// A whole retrieval: INVITE, binding, this many messages and the reaction to each chunk of them, BYE.
    pub fn retrieve(&mut self, count: usize, reaction: Reaction) -> Outcome {
        let status = self.invite();
        if status >= 300 {
            return Outcome { status, messages: Vec::new(), bye: 0 };
        }
        self.bind();
        let messages = self.collect(count, reaction);
        Outcome { status, messages, bye: self.bye() }
    }

    /// Takes this many messages to their end and reacts to each chunk. Less when nothing comes for five seconds.
    pub fn collect(&mut self, count: usize, reaction: Reaction) -> Vec<Got> {
        let mut messages: Vec<Got> = Vec::new();
        let mut ended = 0;
        while ended < count {
            let Some(frame) = self.next_send(Duration::from_secs(5)) else { break };
            let id = frame.header("Message-ID");
            let at = messages.iter().position(|got| got.message_id == id).unwrap_or(messages.len());
            if at == messages.len() {
                messages.push(Got::new(id));
            }
            ended += usize::from(messages[at].add(&frame));
            let wanted = !matches!(frame.header("Failure-Report"), "no" | "partial");
            if let (Reaction::Answer(code), true) = (reaction, wanted) {
                self.answer(&frame, code);
            }
        }
        messages
    }

    /// Ends the session; the status of the answer.
    pub fn bye(&mut self) -> u16 {
        self.bye_in_copies(1)
    }

    /// Ends the session by a BYE that the network multiplies; the status of the answer.
    pub fn bye_in_copies(&mut self, copies: usize) -> u16 {
        let Some(answer) = self.answer.clone() else { return 0 };
        self.cseq += 1;
        self.events.add(CLIENT, PROXY, "BYE");
        let bye = self.in_dialog("BYE", &answer, self.cseq);
        for _ in 0..4 {
            for _ in 0..copies {
                let _ = self.transport.send(&bye, self.options.proxy);
            }
            let started = Instant::now();
            while started.elapsed() < Duration::from_secs(1) {
                match self.receive(Duration::from_millis(500)) {
                    Some(answer) if answer.method() == "BYE" => return answer.status(),
                    // Its ACK was lost.
                    Some(again) if again.method() == "INVITE" && again.status() == 200 => self.acknowledge(&again),
                    _ => {}
                }
            }
        }
        408
    }

    /// Waits for a provisional response, which a CANCEL has to wait for (RFC 3261, 9.1).
    pub fn provisional(&self, within: Duration) -> bool {
        let answer = self.receive(within);
        answer.is_some_and(|answer| (100..200).contains(&answer.status()))
    }

    /// Waits until the other side rings.
    pub fn ringing(&self, within: Duration) -> bool {
        let started = Instant::now();
        let left = || within.checked_sub(started.elapsed());
        while let Some(answer) = left().and_then(|left| self.receive(left)) {
            if answer.status() == 180 {
                return true;
            }
        }
        false
    }

    /// Cancels the INVITE.
    pub fn cancel(&self) {
        self.events.add(CLIENT, PROXY, "CANCEL");
        let mut cancel = self.invite.clone();
        cancel.start = cancel.start.replacen("INVITE", "CANCEL", 1);
        cancel.body.clear();
        for (name, value) in &mut cancel.headers {
            if name == "CSeq" {
                *value = value.replace("INVITE", "CANCEL");
            }
        }
        let _ = self.transport.send(&cancel, self.options.proxy);
    }

    /// Where it takes SIP.
    pub fn address(&self) -> SocketAddr {
        self.transport.address()
    }

    /// Path of the client's own end, and of the server's once it has answered, as they stand in the descriptions.
    pub fn msrp_paths(&self) -> (&str, &str) {
        (&self.own_path, &self.server_path)
    }

    /// Writes octets as they are on its MSRP connection.
    pub fn write_raw(&self, bytes: &[u8]) {
        // A relay that is gone is seen by what does not come.
        let _ = self.writer.raw(bytes);
    }

    /// Drops the MSRP connection without a word.
    pub fn drop_connection(&self) {
        self.writer.drop_connection();
    }
}
