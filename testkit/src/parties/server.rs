//! The IM server: has stored messages, and sends them by MSRP SEND to whoever has invited it and bound the session.

use super::auth::use_path;
use super::msrp::{Reader, Writer, connection};
use super::sip::{Message, Transport, description, path_of};
use crate::{Events, PROXY, SERVER, unique};
use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long it waits for a response of the next hop.
const RESPONSE_TIME: Duration = Duration::from_secs(5);

/// How the server behaves.
#[derive(Clone)]
pub struct Options {
    /// Where the relay takes MSRP: stands before the server in its path.
    pub relay: SocketAddr,
    /// Its name and port in the URIs that it gives.
    pub relay_name: String,
    /// Stored messages, each with its Message-ID.
    pub messages: Vec<(String, Vec<u8>)>,
    /// Octets of a chunk at most. Kamailio relays frames up to 14 KB.
    pub chunk: usize,
    /// Failure-Report header, if any.
    pub failure_report: Option<&'static str>,
    /// Whether REPORTs of success are asked for.
    pub success_report: bool,
    /// Whether the next chunk goes without waiting for the response.
    pub pipeline: bool,
    /// What each message takes on its way, on top of loopback: a network.
    pub pace: Duration,
    /// Sends the chunks of a message from the last to the first.
    pub backwards: bool,
    /// Gives each message of more than one chunk up (`#`) after the first.
    pub abort: bool,
    /// Status of its answer to a SEND with content: it is the one who is called in an RCS push.
    pub answers: u16,
    /// Sends every message twice, with the same Message-ID.
    pub twice: bool,
    /// Rings and never answers; a CANCEL ends it.
    pub rings: bool,
    /// Asks the relay for a URI of its own for each session (RFC 4976), instead of naming one.
    pub authenticates: bool,
}

impl Options {
    /// A server behind this relay that sends these texts.
    pub fn new(relay: SocketAddr, texts: &[&str]) -> Options {
        let messages = texts.iter().map(|text| (format!("msg{}", unique()), text.as_bytes().to_vec()));
        Options {
            relay,
            relay_name: relay.to_string(),
            messages: messages.collect(),
            chunk: 10_000,
            failure_report: None,
            success_report: false,
            pipeline: false,
            pace: Duration::ZERO,
            backwards: false,
            abort: false,
            answers: 200,
            twice: false,
            rings: false,
            authenticates: false,
        }
    }
}

/// One retrieval as the server sees it.
struct Session {
    /// The relay's URI for it.
    relay: String,
    client_path: String,
    bound: AtomicBool,
    over: AtomicBool,
}

/// Messages, by the local part of the Call-ID and by Message-ID.
pub type Messages = HashSet<(String, String)>;

/// What the next hop has said of messages that were sent with a response wanted.
#[derive(Clone, Default)]
pub struct Told {
    /// It took them: they have passed.
    pub passed: Messages,
    /// It said nothing: they have passed, or not.
    pub unanswered: Messages,
}

struct Shared {
    options: Options,
    events: Events,
    own: SocketAddr,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// Who waits for the response to a request, by transaction id.
    waiting: Mutex<HashMap<String, Sender<u16>>>,
    /// Every MSRP connection it has taken.
    connections: Mutex<Vec<Writer>>,
    invites: AtomicUsize,
    refused: AtomicUsize,
    told: Mutex<Told>,
    /// SENDs whose responses are not noted yet.
    awaited: AtomicUsize,
    stop: AtomicBool,
}

/// A running IM server; stops when it is dropped.
pub struct ImServer {
    /// Where it takes SIP.
    pub sip: SocketAddr,
    shared: Arc<Shared>,
    serves_sip: Option<thread::JoinHandle<()>>,
}

impl ImServer {
    /// Starts a server that takes SIP on this socket, and MSRP on a free port.
    pub fn start(socket: &UdpSocket, options: Options, events: Events) -> std::io::Result<ImServer> {
        let transport = Transport::on(socket)?;
        let listener = TcpListener::bind((transport.address().ip(), 0))?;
        let shared = Arc::new(Shared {
            options,
            events,
            own: listener.local_addr()?,
            sessions: Mutex::default(),
            waiting: Mutex::default(),
            connections: Mutex::default(),
            invites: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            told: Mutex::default(),
            awaited: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let sip = transport.address();
        let (for_sip, for_msrp) = (Arc::clone(&shared), Arc::clone(&shared));
        let serves_sip = Some(thread::spawn(move || for_sip.serve_sip(&transport)));
        thread::spawn(move || for_msrp.accept(&listener));
        Ok(ImServer { sip, shared, serves_sip })
    }

    /// INVITEs seen, retransmissions not counted.
    pub fn invites(&self) -> usize {
        self.shared.invites.load(Ordering::Relaxed)
    }

    /// SENDs that were refused by a 4xx or 5xx.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Writes bytes as they are on the newest of its MSRP connections. An error: there is none any more.
    pub fn write_raw(&self, bytes: &[u8]) -> std::io::Result<()> {
        let connections = self.shared.connections.lock().expect("no holder panics");
        connections.last().map_or(Err(std::io::ErrorKind::NotConnected.into()), |newest| newest.raw(bytes))
    }

    /// What became of its messages so far; `None`: some wait for their responses.
    pub fn told(&self) -> Option<Told> {
        let is_at_rest = self.shared.awaited.load(Ordering::Relaxed) == 0;
        is_at_rest.then(|| self.shared.told.lock().expect("no holder panics").clone())
    }

    /// Message-IDs it has.
    pub fn message_ids(&self) -> Vec<String> {
        self.shared.options.messages.iter().map(|(id, _)| id.clone()).collect()
    }
}

impl Drop for ImServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = std::net::TcpStream::connect(self.shared.own);
        // Another server may take over the socket: this one must not answer any more.
        let _ = self.serves_sip.take().map(thread::JoinHandle::join);
    }
}

impl Shared {
    fn serve_sip(&self, transport: &Transport) {
        let contact = format!("<sip:im@{}>", transport.address());
        // 2xx that have no ACK yet: what, where, when next (RFC 3261, 13.3.1.4).
        let mut unacknowledged: HashMap<String, (Message, SocketAddr, Instant)> = HashMap::new();
        // Answers to the INVITEs of each call that is not over, for when an INVITE comes again.
        let mut answered: HashMap<String, Vec<Message>> = HashMap::new();
        let mut ringing: HashMap<String, Message> = HashMap::new();
        while !self.stop.load(Ordering::Relaxed) {
            for (answer, to, next) in unacknowledged.values_mut() {
                if *next <= Instant::now() {
                    let _ = transport.send(answer, *to);
                    *next = Instant::now() + Duration::from_millis(500);
                }
            }
            let Some((request, from)) = transport.receive(Duration::from_millis(20)) else { continue };
            let of_the_call = answered.get(request.header("Call-ID")).map_or(&[][..], Vec::as_slice);
            let before = of_the_call.iter().find(|answer| answer.header("CSeq") == request.header("CSeq"));
            match (request.method(), before) {
                ("INVITE", Some(answer)) => {
                    let _ = transport.send(answer, from);
                }
                ("INVITE", None) if self.options.rings => {
                    self.events.add(PROXY, SERVER, "INVITE");
                    self.events.add(SERVER, PROXY, "180 Ringing");
                    let _ = transport.send(&request.answer(180, "Ringing", "rings"), from);
                    ringing.insert(request.header("Call-ID").into(), request);
                }
                ("INVITE", None) => {
                    self.events.add(PROXY, SERVER, "INVITE");
                    let answer = self.answer(&request).with("Contact", &contact);
                    self.events.add(SERVER, PROXY, "200 OK");
                    let _ = transport.send(&answer, from);
                    let next = Instant::now() + Duration::from_millis(500);
                    unacknowledged.insert(request.header("Call-ID").into(), (answer.clone(), from, next));
                    answered.entry(request.header("Call-ID").into()).or_default().push(answer);
                }
                ("ACK", _) => {
                    unacknowledged.remove(request.header("Call-ID"));
                }
                ("BYE" | "CANCEL", _) => {
                    if request.method() == "BYE" {
                        self.events.add(PROXY, SERVER, "BYE");
                        self.end(request.header("Call-ID"));
                        answered.remove(request.header("Call-ID"));
                    }
                    unacknowledged.remove(request.header("Call-ID"));
                    let _ = transport.send(&request.answer(200, "OK", "server"), from);
                    if let Some(invite) = ringing.remove(request.header("Call-ID")) {
                        self.events.add(PROXY, SERVER, request.method());
                        self.events.add(SERVER, PROXY, "487 Request Terminated");
                        let _ = transport.send(&invite.answer(487, "Request Terminated", "rings"), from);
                    }
                }
                ("OPTIONS", _) => {
                    let _ = transport.send(&request.answer(200, "OK", "server"), from);
                }
                _ => {}
            }
        }
    }

    /// The session id of a call.
    fn session_id(call_id: &str) -> String {
        format!("S{}", call_id.split('@').next().unwrap_or_default())
    }

    fn answer(&self, invite: &Message) -> Message {
        self.invites.fetch_add(1, Ordering::Relaxed);
        let id = Self::session_id(invite.header("Call-ID"));
        let client_path = path_of(&invite.body);
        let relay = self.open(&id, client_path);
        let mut answer = invite.answer(200, "OK", &format!("t{id}"));
        answer.body = description(&format!("{relay} {}", self.own_uri(&id)));
        answer
    }

    /// A session with the client at the end of this path. An INVITE in the dialog that has another path than before
    /// begins a new one (RFC 4975, 5.4); with the same path it changes nothing.
    fn open(&self, id: &str, client_path: String) -> String {
        let known = self.sessions.lock().expect("no holder panics").get(id).cloned();
        if let Some(session) = known.as_ref().filter(|session| session.client_path == client_path) {
            return session.relay.clone();
        }
        let relay = match known {
            Some(session) => session.relay.clone(),
            None => self.relay_uri(id),
        };
        let mut sessions = self.sessions.lock().expect("no holder panics");
        let session =
            Session { relay: relay.clone(), client_path, bound: AtomicBool::new(false), over: AtomicBool::new(false) };
        if let Some(old) = sessions.insert(id.to_owned(), Arc::new(session)) {
            old.over.store(true, Ordering::Relaxed);
        }
        relay
    }

    /// The relay's URI for a session: one of its giving, or any.
    fn relay_uri(&self, id: &str) -> String {
        match self.options.authenticates {
            true => use_path(self.options.relay, &self.options.relay_name, &self.own_uri(id))
                .expect("the relay gives a path"),
            false => format!("msrp://{}/relay;tcp", self.options.relay),
        }
    }

    fn own_uri(&self, id: &str) -> String {
        format!("msrp://{}/{id};tcp", self.own)
    }

    fn end(&self, call_id: &str) {
        if let Some(session) = self.sessions.lock().expect("no holder panics").remove(&Self::session_id(call_id)) {
            session.over.store(true, Ordering::Relaxed);
        }
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for stream in listener.incoming().flatten() {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let Ok((reader, writer)) = connection(stream) else { continue };
            self.connections.lock().expect("no holder panics").push(writer.clone());
            let shared = Arc::clone(self);
            spawn(move || shared.serve_msrp(reader, writer));
        }
    }

    fn serve_msrp(self: &Arc<Self>, mut reader: Reader, writer: Writer) {
        while !self.stop.load(Ordering::Relaxed) {
            let frame = match reader.next(Duration::from_millis(100)) {
                Ok(Some(frame)) => frame,
                Ok(None) => continue,
                Err(_) => return,
            };
            if frame.status() != 0 {
                let waiting = self.waiting.lock().expect("no holder panics").remove(&frame.id);
                // Nobody waits for the response to a pipelined chunk, nor for a second one.
                let _ = waiting.map(|sender| sender.send(frame.status()));
                continue;
            }
            if frame.what != "SEND" {
                continue;
            }
            let own = frame.header("To-Path").rsplit(' ').next().unwrap_or_default().to_owned();
            if !matches!(frame.header("Failure-Report"), "no" | "partial") {
                let code = if frame.is_content() { self.options.answers } else { 200 };
                let _ = writer.answer(&frame, code, &own, false);
            }
            let id = own.rsplit('/').next().and_then(|rest| rest.split(';').next()).unwrap_or_default().to_owned();
            let session = self.sessions.lock().expect("no holder panics").get(&id).cloned();
            if let Some(session) = session.filter(|session| !session.bound.swap(true, Ordering::Relaxed)) {
                self.events.add(PROXY, SERVER, "SEND (binds the session)");
                let (shared, writer) = (Arc::clone(self), writer.clone());
                spawn(move || shared.send_all(&id, &session, &writer));
            }
        }
    }

    /// Sends every stored message.
    fn send_all(&self, id: &str, session: &Session, writer: &Writer) {
        let times = if self.options.twice { 2 } else { 1 };
        for (message_id, body) in &self.options.messages {
            thread::sleep(self.options.pace);
            for _ in 0..times {
                if !self.send_message(id, session, writer, message_id, body) {
                    break;
                }
            }
        }
    }

    /// Sends one message in chunks. `false`: refused, or the session is over.
    fn send_message(&self, id: &str, session: &Session, writer: &Writer, message_id: &str, body: &[u8]) -> bool {
        let count = body.len().div_ceil(self.options.chunk).max(1);
        let mut order: Vec<usize> = (0..count).collect();
        if self.options.backwards {
            order.reverse();
        }
        for at in order {
            let start = at * self.options.chunk;
            let piece = &body[start..body.len().min(start + self.options.chunk)];
            let flag = if at + 1 == count { '$' } else { '+' };
            if !self.send_chunk(id, session, writer, message_id, (start + 1, body.len()), Some(piece), flag) {
                // Refused before its end, the message is given up (RFC 4975, 10.5).
                let refused = flag == '+' && !session.over.load(Ordering::Relaxed);
                let _ = refused && self.send_chunk(id, session, writer, message_id, (start + 1, body.len()), None, '#');
                return false;
            }
            if self.options.abort && flag == '+' {
                let next = start + piece.len() + 1;
                return self.send_chunk(id, session, writer, message_id, (next, body.len()), None, '#');
            }
        }
        true
    }

    #[allow(clippy::too_many_arguments, reason = "a chunk has that many parts")]
    fn send_chunk(
        &self,
        id: &str,
        session: &Session,
        writer: &Writer,
        message_id: &str,
        (start, total): (usize, usize),
        piece: Option<&[u8]>,
        flag: char,
    ) -> bool {
        let transaction = format!("tr{}", unique());
        let mut lines = format!(
            "To-Path: {} {}\r\nFrom-Path: {}\r\nMessage-ID: {message_id}\r\nByte-Range: {start}-*/{total}\r\n",
            session.relay,
            session.client_path,
            self.own_uri(id)
        );
        if let Some(report) = self.options.failure_report {
            lines += &format!("Failure-Report: {report}\r\n");
        }
        if self.options.success_report {
            lines += "Success-Report: yes\r\n";
        }
        let octets = piece.map_or(0, <[u8]>::len);
        self.events.add(SERVER, PROXY, format!("SEND {octets} octets {flag}"));
        if session.over.load(Ordering::Relaxed) {
            return false;
        }
        if self.options.pipeline || self.options.failure_report.is_some() {
            return writer.request(&transaction, "SEND", &lines, piece, flag).is_ok();
        }
        let (sender, response) = channel();
        self.awaited.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().expect("no holder panics").insert(transaction.clone(), sender);
        let sent = writer.request(&transaction, "SEND", &lines, piece, flag);
        // The response of the next hop; the message is given up when it does not come.
        let status = sent.ok().and_then(|()| response.recv_timeout(RESPONSE_TIME).ok());
        if piece.is_some() {
            self.note(id, message_id, status);
        }
        self.awaited.fetch_sub(1, Ordering::Relaxed);
        self.waiting.lock().expect("no holder panics").remove(&transaction);
        let Some(status) = status else { return false };
        if status >= 300 {
            self.events.add(PROXY, SERVER, format!("{status}"));
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        status < 300
    }

    fn note(&self, id: &str, message_id: &str, status: Option<u16>) {
        let message = (id.trim_start_matches('S').to_owned(), message_id.to_owned());
        let mut told = self.told.lock().expect("no holder panics");
        match status {
            Some(200..300) => _ = told.passed.insert(message),
            Some(_) => {}
            None => _ = told.unanswered.insert(message),
        }
    }
}

/// A thread that needs little of a stack: a server has one for each session.
fn spawn(run: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(256 * 1024).spawn(run);
    thread.expect("the machine has a thread to give");
}
