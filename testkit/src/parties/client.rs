//! IM client: invites the IM server, binds the MSRP session, receives messages and reacts to them as configured.

use super::auth::use_path;
use super::msrp::{Frame, Reader, Writer, connection};
use super::sip::{Message, Transport, description_of, path_of, uri_of};
use crate::{CLIENT, Events, PROXY, unique};
use std::collections::VecDeque;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Behaviour of a client.
#[derive(Clone)]
pub struct Options {
    /// SIP address of the proxy.
    pub proxy: SocketAddr,
    /// MSRP address of the relay.
    pub relay: SocketAddr,
    /// Host and port of the relay in the URIs that it assigns.
    pub relay_name: String,
    /// Request-URI of the INVITE.
    pub request_uri: String,
    /// URI in From and P-Asserted-Identity.
    pub identity: String,
    /// Puts the relay into the client's path as well: every frame then passes it twice.
    pub via_relay: bool,
    /// `a=path` of the offer; `None`: derived from the MSRP connection.
    pub path: Option<String>,
    /// With `via_relay`: obtains the relay's URI by AUTH (RFC 4976) instead of making one up.
    pub authenticates: bool,
    /// Sends responses with the complete path as To-Path.
    pub whole_path: bool,
    /// Sends P-Asserted-Identity; without it, only From names the subscriber.
    pub asserted: bool,
    /// Delay of the ACK to a 200. The server retransmits the 200 meanwhile (RFC 3261, 13.3.1.4).
    pub acknowledges_after: Duration,
    /// Number in Call-ID and From tag; `None`: a unique one. With the number of another client, the same INVITE is sent
    /// in a second transaction.
    pub number: Option<u64>,
    /// Call-ID; `None`: derived from `number`.
    pub call_id: Option<String>,
    /// `a=file-selector` of the offer.
    pub file_selector: Option<String>,
    /// Additional headers of the INVITE.
    pub headers: Vec<(String, String)>,
}

impl Options {
    /// Default behaviour for this identity.
    pub fn new(proxy: SocketAddr, relay: SocketAddr, identity: &str) -> Options {
        Options {
            proxy,
            relay,
            relay_name: relay.to_string(),
            request_uri: "sip:deferred@im.example.org".into(),
            identity: identity.into(),
            via_relay: false,
            path: None,
            authenticates: false,
            whole_path: false,
            asserted: true,
            acknowledges_after: Duration::ZERO,
            number: None,
            call_id: None,
            file_selector: None,
            headers: Vec::new(),
        }
    }
}

/// Reaction to a SEND.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Sends a response with this status.
    Answer(u16),
    /// Sends no response.
    Silence,
}

/// A completely or partly received message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedMessage {
    /// Message-ID header.
    pub message_id: String,
    /// Octets received, repeated ones not counted.
    pub octets: usize,
    /// Whether every octet was received, in any order.
    pub complete: bool,
    /// Whether the server aborted it (`#`).
    pub aborted: bool,
    /// Received ranges as (start, end), end exclusive; sorted, neither overlapping nor adjacent.
    parts: Vec<(usize, usize)>,
    /// Size of the message in octets, once known.
    total: Option<usize>,
}

impl ReceivedMessage {
    fn new(message_id: &str) -> ReceivedMessage {
        let (message_id, parts) = (message_id.to_owned(), Vec::new());
        ReceivedMessage { message_id, octets: 0, complete: false, aborted: false, parts, total: None }
    }

    /// Adds a chunk. Returns whether it ends the message: the last missing octet, the end of a repetition, or an abort.
    fn add(&mut self, chunk: &Frame) -> bool {
        let (start, total) = chunk.byte_range();
        let end = start.saturating_add(chunk.body.as_ref().map_or(0, Vec::len));
        self.aborted |= chunk.flag == '#';
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

/// Result of a retrieval.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Final status of the INVITE; 408 on timeout.
    pub status: u16,
    /// Messages, ordered by their first chunk.
    pub messages: Vec<ReceivedMessage>,
    /// Status of the BYE; 0 if no dialog was established.
    pub bye: u16,
}

/// An IM client with its MSRP connection and at most one dialog.
pub struct ImClient {
    options: Options,
    events: Events,
    transport: Transport,
    reader: Reader,
    writer: Writer,
    /// Call-ID of the dialog.
    pub call_id: String,
    own_path: String,
    server_path: String,
    invite: Message,
    answer: Option<Message>,
    cseq: u32,
    /// SENDs that arrived while another frame was awaited.
    waiting: VecDeque<Frame>,
}

impl ImClient {
    /// Connects to the relay. Sends nothing yet.
    pub fn new(options: Options, events: Events) -> std::io::Result<ImClient> {
        let (reader, writer) = connection(TcpStream::connect(options.relay)?)?;
        ImClient::on(reader, writer, options, events)
    }

    /// Returns another client on the same MSRP connection. Only one of them may read at a time.
    pub fn on_same_connection(&self, options: Options) -> std::io::Result<ImClient> {
        ImClient::on(self.reader.second()?, self.writer.clone(), options, self.events.clone())
    }

    fn on(reader: Reader, writer: Writer, options: Options, events: Events) -> std::io::Result<ImClient> {
        // The relay finds the connection by the address in the path.
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
        let start = format!("INVITE {} SIP/2.0", options.request_uri);
        let mut invite = Message { start, ..Message::default() }
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
        invite.body = description_of(&own_path, options.file_selector.as_deref());
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
            waiting: VecDeque::new(),
        })
    }

    /// Sends the INVITE once. Errors are ignored: it is retransmitted.
    pub fn send_invite(&self) {
        self.events.add(CLIENT, PROXY, "INVITE");
        let _ = self.transport.send(&self.invite, self.options.proxy);
    }

    /// Sends the INVITE, waits for the final response and acknowledges it. Returns its status, 408 on timeout.
    pub fn invite(&mut self) -> u16 {
        self.send_invite();
        self.final_response(Duration::from_secs(10))
    }

    /// Waits for the final response to the INVITE, retransmitting it until a provisional response arrives. Returns its
    /// status, 408 on timeout.
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
                // A late copy of an earlier response has a different CSeq.
                status @ 200.. if answer.header("CSeq") == self.invite.header("CSeq") => {
                    self.events.add(PROXY, CLIENT, format!("{status}"));
                    self.server_path = path_of(&answer.body);
                    if status < 300 {
                        self.delay_ack();
                    }
                    self.acknowledge(&answer);
                    // The first response fixes the route set (RFC 3261, 12.2).
                    self.answer.get_or_insert(answer);
                    return status;
                }
                _ => {}
            }
        }
        408
    }

    /// Waits for the next message of this call. Messages for a previous owner of the port are skipped.
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

    /// Receives retransmissions of the 200 until the ACK is due.
    fn delay_ack(&self) {
        let started = Instant::now();
        while let Some(left) = self.options.acknowledges_after.checked_sub(started.elapsed()) {
            let copy = self.receive(left).filter(|answer| answer.status() == 200);
            copy.inspect(|_| self.events.add(PROXY, CLIENT, "200 (retransmission)"));
        }
    }

    fn acknowledge(&self, answer: &Message) {
        let ack = match answer.status() {
            200..300 => {
                let cseq = answer.header("CSeq").split(' ').next().and_then(|number| number.parse().ok());
                self.in_dialog("ACK", answer, cseq.unwrap_or(self.cseq))
            }
            // The ACK to a non-2xx response is part of the INVITE transaction.
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

    /// Builds a request within the dialog that `answer` established.
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

    /// Sends a re-INVITE. Returns the status of the response.
    pub fn reinvite(&mut self) -> u16 {
        let answer = self.answer.clone().expect("the dialog is established");
        self.cseq += 1;
        let mut reinvite = self.in_dialog("INVITE", &answer, self.cseq);
        reinvite.body = self.invite.body.clone();
        let before = std::mem::replace(&mut self.invite, reinvite);
        self.send_invite();
        let status = self.final_response(Duration::from_secs(5));
        self.invite = before;
        status
    }

    /// Sends a re-INVITE with another `a=path`. Returns the status of the response.
    pub fn reinvite_with_path(&mut self, path: &str) -> u16 {
        path.clone_into(&mut self.own_path);
        self.invite.body = description_of(path, self.options.file_selector.as_deref());
        self.reinvite()
    }

    /// Binds the MSRP session with an empty SEND (RFC 4975, 5.4).
    pub fn bind(&mut self) {
        let id = format!("tr{}", unique());
        let lines = self.paths() + &format!("Message-ID: bind{}\r\nByte-Range: 1-0/0\r\n", unique());
        self.events.add(CLIENT, PROXY, "SEND (binds the session)");
        // A lost connection shows when nothing arrives.
        let _ = self.writer.request(&id, "SEND", &lines, None, '$');
    }

    fn paths(&self) -> String {
        let (own, relayed) = match self.own_path.split_once(' ') {
            Some((relay, own)) => (own, format!("{relay} ")),
            None => (self.own_path.as_str(), String::new()),
        };
        format!("To-Path: {relayed}{}\r\nFrom-Path: {own}\r\n", self.server_path)
    }

    /// Returns the session-id in the first URI of the server's path.
    pub fn peer_session(&self) -> String {
        let first = self.server_path.split(' ').next().unwrap_or_default();
        first.rsplit('/').next().and_then(|rest| rest.split(';').next()).unwrap_or_default().to_owned()
    }

    fn own_uri(&self) -> String {
        self.own_path.rsplit(' ').next().unwrap_or_default().to_owned()
    }

    /// Waits for the next SEND. Does not respond to it.
    pub fn next_send(&mut self, within: Duration) -> Option<Frame> {
        let started = Instant::now();
        while started.elapsed() < within {
            let frame = match self.waiting.pop_front() {
                Some(frame) => Some(frame),
                None => self.reader.next(Duration::from_millis(100)).ok()?,
            };
            if let Some(frame) = frame.filter(|frame| frame.what == "SEND") {
                let octets = frame.body.as_ref().map_or(0, Vec::len);
                self.events.add(PROXY, CLIENT, format!("SEND {octets} octets {}", frame.flag));
                return Some(frame);
            }
        }
        None
    }

    /// Responds to a SEND.
    pub fn answer(&self, frame: &Frame, code: u16) {
        self.events.add(CLIENT, PROXY, format!("{code}"));
        let whole = self.options.whole_path;
        // A lost connection shows when nothing arrives.
        let _ = self.writer.answer(frame, code, &self.own_uri(), whole);
    }

    /// Sends a message in one frame, as the IM server of an RCS push does. Returns the status from the next hop, 408 on
    /// timeout.
    pub fn deliver(&mut self, message_id: &str, body: &[u8]) -> u16 {
        let octets = body.len();
        self.deliver_chunk(message_id, "text/plain", &format!("1-{octets}/{octets}"), body, '$')
    }

    /// Sends a message of this Content-Type in chunks of equal size. Returns the status of the first chunk that was not
    /// answered 200, else 200.
    pub fn deliver_in_chunks(&mut self, message_id: &str, content_type: &str, body: &[u8], count: usize) -> u16 {
        let size = body.len().div_ceil(count).max(1);
        let chunks = body.chunks(size).enumerate().map(|(number, chunk)| {
            let start = number * size;
            let range = format!("{}-{}/{}", start + 1, start + chunk.len(), body.len());
            (chunk, range, if start + chunk.len() == body.len() { '$' } else { '+' })
        });
        for (chunk, range, flag) in chunks {
            let status = self.deliver_chunk(message_id, content_type, &range, chunk, flag);
            if status != 200 {
                return status;
            }
        }
        200
    }

    /// Sends one chunk. Returns the status from the next hop, 408 on timeout.
    pub fn deliver_chunk(&mut self, message_id: &str, content_type: &str, range: &str, body: &[u8], flag: char) -> u16 {
        let id = format!("tr{}", unique());
        let lines = format!("Message-ID: {message_id}\r\nByte-Range: {range}\r\nContent-Type: {content_type}\r\n");
        self.events.add(CLIENT, PROXY, format!("SEND {} octets {flag}", body.len()));
        self.writer
            .request(&id, "SEND", &(self.paths() + &lines), Some(body), flag)
            .expect("the relay accepts the frame");
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(5) {
            match self.reader.next(Duration::from_millis(100)) {
                Ok(Some(frame)) if frame.id == id && frame.status() != 0 => return frame.status(),
                Ok(Some(frame)) if frame.what == "SEND" => self.waiting.push_back(frame),
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
        self.writer.request(&id, "REPORT", &lines, None, '$').expect("the relay accepts the REPORT");
    }

    /// As [`collect`](Self::collect), but returns only Message-ID and octets of each message.
    pub fn take(&mut self, count: usize, reaction: Reaction) -> Vec<(String, usize)> {
        self.collect(count, reaction).into_iter().map(|message| (message.message_id, message.octets)).collect()
    }

    /// Runs a complete retrieval: INVITE, binding SEND, `count` messages, BYE.
    pub fn retrieve(&mut self, count: usize, reaction: Reaction) -> Outcome {
        let status = self.invite();
        if status >= 300 {
            return Outcome { status, messages: Vec::new(), bye: 0 };
        }
        self.bind();
        let messages = self.collect(count, reaction);
        Outcome { status, messages, bye: self.bye() }
    }

    /// Receives until `count` messages have ended, reacting to each chunk. Stops early after 5 s without a frame.
    pub fn collect(&mut self, count: usize, reaction: Reaction) -> Vec<ReceivedMessage> {
        let mut messages: Vec<ReceivedMessage> = Vec::new();
        let mut ended = 0;
        while ended < count {
            let Some(frame) = self.next_send(Duration::from_secs(5)) else { break };
            let id = frame.header("Message-ID");
            let at = messages.iter().position(|message| message.message_id == id).unwrap_or(messages.len());
            if at == messages.len() {
                messages.push(ReceivedMessage::new(id));
            }
            ended += usize::from(messages[at].add(&frame));
            let wanted = !matches!(frame.header("Failure-Report"), "no" | "partial");
            if let (Reaction::Answer(code), true) = (reaction, wanted) {
                self.answer(&frame, code);
            }
        }
        messages
    }

    /// Sends a BYE. Returns the status of the response, 408 on timeout, 0 without a dialog.
    pub fn bye(&mut self) -> u16 {
        self.bye_in_copies(1)
    }

    /// As [`bye`](Self::bye), with every BYE duplicated by the network.
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
                    // A retransmitted 200: the ACK was lost.
                    Some(copy) if copy.method() == "INVITE" && copy.status() == 200 => self.acknowledge(&copy),
                    _ => {}
                }
            }
        }
        408
    }

    /// Waits for a provisional response, which must precede a CANCEL (RFC 3261, 9.1).
    pub fn provisional(&self, within: Duration) -> bool {
        let answer = self.receive(within);
        answer.is_some_and(|answer| (100..200).contains(&answer.status()))
    }

    /// Waits for the next response of any kind. Returns its status, 408 on timeout.
    pub fn response(&self, within: Duration) -> u16 {
        self.receive(within).map_or(408, |answer| answer.status())
    }

    /// Waits for a 180.
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

    /// Returns the SIP address of this client.
    pub fn address(&self) -> SocketAddr {
        self.transport.address()
    }

    /// Returns the `a=path` values of the client and, once it has answered, of the server.
    pub fn msrp_paths(&self) -> (&str, &str) {
        (&self.own_path, &self.server_path)
    }

    /// Writes raw bytes to the MSRP connection.
    pub fn write_raw(&self, bytes: &[u8]) {
        // A lost connection shows when nothing arrives.
        let _ = self.writer.raw(bytes);
    }

    /// Closes the MSRP connection.
    pub fn drop_connection(&self) {
        self.writer.drop_connection();
    }
}
