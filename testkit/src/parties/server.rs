//! IM server: accepts INVITEs and, once the MSRP session is bound, sends its stored messages.

use super::auth::use_path;
use super::msrp::{Reader, Writer, connection};
use super::sip::{Message, Transport, description_of, path_of};
use crate::{Events, PROXY, SERVER, unique};
use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Time to wait for a response from the next hop.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Behaviour of a server.
#[derive(Clone)]
pub struct Options {
    /// MSRP address of the relay, which precedes the server in its path.
    pub relay: SocketAddr,
    /// Host and port of the relay in the URIs that it assigns.
    pub relay_name: String,
    /// Stored messages, each with its Message-ID.
    pub messages: Vec<(String, Vec<u8>)>,
    /// Content-Type of each message; those without one are `text/plain`.
    pub content_types: Vec<&'static str>,
    /// `a=file-selector` of the answer.
    pub file_selector: Option<&'static str>,
    /// Maximum octets per chunk. Kamailio relays frames of up to 14 KB.
    pub chunk: usize,
    /// Failure-Report header of every SEND.
    pub failure_report: Option<&'static str>,
    /// Sends Success-Report: yes.
    pub success_report: bool,
    /// Sends the next chunk without waiting for a response.
    pub pipeline: bool,
    /// Delay before each message, to simulate a network.
    pub pace: Duration,
    /// Sends the chunks of a message in reverse order.
    pub backwards: bool,
    /// Aborts (`#`) each message of more than one chunk after the first.
    pub abort: bool,
    /// Status of responses to a SEND with content, for RCS push, in which the server receives; 0: none.
    pub answers: u16,
    /// Sends every message twice with the same Message-ID.
    pub twice: bool,
    /// Answers INVITEs with 180 only; a CANCEL ends them.
    pub rings: bool,
    /// Obtains a URI of the relay for each session by AUTH (RFC 4976) instead of making one up.
    pub authenticates: bool,
}

impl Options {
    /// Default behaviour, with one stored message per text.
    pub fn new(relay: SocketAddr, texts: &[&str]) -> Options {
        let messages = texts.iter().map(|text| (format!("msg{}", unique()), text.as_bytes().to_vec()));
        Options {
            relay,
            relay_name: relay.to_string(),
            messages: messages.collect(),
            content_types: Vec::new(),
            file_selector: None,
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

/// Reads the stored messages of a folder, ordered by file name. Message-IDs are derived from the names.
pub fn stored_messages(folder: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let entries: io::Result<Vec<_>> = fs::read_dir(folder)?.collect();
    let mut paths: Vec<PathBuf> = entries?.into_iter().map(|entry| entry.path()).collect();
    paths.retain(|path| path.is_file());
    paths.sort();
    let read = |path: &PathBuf| {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        // An ident consists of these characters, 4 to 32 of them (RFC 4975, 9).
        let id: String = name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '.' }).collect();
        let id: String = format!("msg-{id}").chars().take(32).collect();
        fs::read(path).map(|body| (id, body))
    };
    paths.iter().map(read).collect()
}

/// A dialog and its MSRP session.
struct Session {
    /// URI of the relay.
    relay: String,
    client_path: String,
    bound: AtomicBool,
    closed: AtomicBool,
}

/// Messages by local part of the Call-ID and Message-ID.
pub type Messages = HashSet<(String, String)>;

/// Responses of the next hop to messages that were sent with a response required.
#[derive(Clone, Default)]
pub struct Deliveries {
    /// Answered with 2xx: relayed.
    pub passed: Messages,
    /// Not answered: relayed or lost.
    pub unanswered: Messages,
}

struct Shared {
    options: Options,
    events: Events,
    own: SocketAddr,
    sessions: Mutex<HashMap<String, Arc<Session>>>,
    /// Channels that wait for the response to a SEND, by transaction id.
    waiting: Mutex<HashMap<String, Sender<u16>>>,
    /// Accepted MSRP connections, oldest first.
    connections: Mutex<Vec<Writer>>,
    invites: AtomicUsize,
    refused: AtomicUsize,
    deliveries: Mutex<Deliveries>,
    /// SENDs without a recorded outcome.
    unresolved: AtomicUsize,
    stop: AtomicBool,
}

/// A running IM server; dropping it stops it.
pub struct ImServer {
    /// SIP address.
    pub sip: SocketAddr,
    shared: Arc<Shared>,
    serves_sip: Option<thread::JoinHandle<()>>,
}

impl ImServer {
    /// Starts a server with SIP on this socket and MSRP on a free port.
    pub fn start(socket: &UdpSocket, options: Options, events: Events) -> io::Result<ImServer> {
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
            deliveries: Mutex::default(),
            unresolved: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let sip = transport.address();
        let (for_sip, for_msrp) = (Arc::clone(&shared), Arc::clone(&shared));
        let serves_sip = Some(thread::spawn(move || for_sip.serve_sip(&transport)));
        thread::spawn(move || for_msrp.accept(&listener));
        Ok(ImServer { sip, shared, serves_sip })
    }

    /// Returns the number of INVITEs received, retransmissions not counted.
    pub fn invites(&self) -> usize {
        self.shared.invites.load(Ordering::Relaxed)
    }

    /// Returns the number of SENDs answered with 4xx or 5xx.
    pub fn refused(&self) -> usize {
        self.shared.refused.load(Ordering::Relaxed)
    }

    /// Writes raw bytes to the newest MSRP connection. Fails if it is closed or there is none.
    pub fn write_raw(&self, bytes: &[u8]) -> io::Result<()> {
        let connections = self.shared.connections.lock().expect("no holder panics");
        connections.last().map_or(Err(io::ErrorKind::NotConnected.into()), |newest| newest.raw(bytes))
    }

    /// Returns the outcome of all messages so far; `None` while responses are outstanding.
    pub fn deliveries(&self) -> Option<Deliveries> {
        let is_complete = self.shared.unresolved.load(Ordering::Relaxed) == 0;
        is_complete.then(|| self.shared.deliveries.lock().expect("no holder panics").clone())
    }

    /// Returns the Message-IDs of the stored messages.
    pub fn message_ids(&self) -> Vec<String> {
        self.shared.options.messages.iter().map(|(id, _)| id.clone()).collect()
    }
}

impl Drop for ImServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Unblocks the accepting thread.
        let _ = std::net::TcpStream::connect(self.shared.own);
        // Another server may reuse the socket, so this one must have stopped reading it.
        let _ = self.serves_sip.take().map(thread::JoinHandle::join);
    }
}

impl Shared {
    fn serve_sip(&self, transport: &Transport) {
        let contact = format!("<sip:im@{}>", transport.address());
        // 2xx without ACK: response, destination, next retransmission (RFC 3261, 13.3.1.4).
        let mut unacknowledged: HashMap<String, (Message, SocketAddr, Instant)> = HashMap::new();
        // Responses to the INVITEs of each open call, for retransmitted INVITEs.
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

    /// Returns the MSRP session-id of a call.
    fn session_id(call_id: &str) -> String {
        format!("S{}", call_id.split('@').next().unwrap_or_default())
    }

    fn answer(&self, invite: &Message) -> Message {
        self.invites.fetch_add(1, Ordering::Relaxed);
        let id = Self::session_id(invite.header("Call-ID"));
        let client_path = path_of(&invite.body);
        let relay = self.open(&id, client_path);
        let mut answer = invite.answer(200, "OK", &format!("t{id}"));
        let path = format!("{relay} {}", self.own_uri(&id));
        answer.body = description_of(&path, self.options.file_selector);
        answer
    }

    /// Opens the session with the client at this path and returns the relay's URI. A re-INVITE with another path starts a
    /// new session (RFC 4975, 5.4); one with the same path changes nothing.
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
        let session = Session {
            relay: relay.clone(),
            client_path,
            bound: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        };
        if let Some(old) = sessions.insert(id.to_owned(), Arc::new(session)) {
            old.closed.store(true, Ordering::Relaxed);
        }
        relay
    }

    /// Returns the relay's URI for a session: assigned by AUTH, or made up.
    fn relay_uri(&self, id: &str) -> String {
        match self.options.authenticates {
            true => use_path(self.options.relay, &self.options.relay_name, &self.own_uri(id))
                .expect("the relay assigns a URI"),
            false => format!("msrp://{}/relay;tcp", self.options.relay),
        }
    }

    fn own_uri(&self, id: &str) -> String {
        format!("msrp://{}/{id};tcp", self.own)
    }

    fn end(&self, call_id: &str) {
        if let Some(session) = self.sessions.lock().expect("no holder panics").remove(&Self::session_id(call_id)) {
            session.closed.store(true, Ordering::Relaxed);
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
                // Nothing waits for the response to a pipelined chunk or for a second response.
                let _ = waiting.map(|sender| sender.send(frame.status()));
                continue;
            }
            if frame.what != "SEND" {
                continue;
            }
            let own = frame.header("To-Path").rsplit(' ').next().unwrap_or_default().to_owned();
            if !matches!(frame.header("Failure-Report"), "no" | "partial") {
                let code = if frame.is_content() { self.options.answers } else { 200 };
                if code > 0 {
                    let _ = writer.answer(&frame, code, &own, false);
                }
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

    /// Sends all stored messages.
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

    /// Sends one message in chunks. Returns `false` if it was refused or the session is closed.
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
                // A message refused before its last chunk is aborted (RFC 4975, 10.5).
                let refused = flag == '+' && !session.closed.load(Ordering::Relaxed);
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

    #[allow(clippy::too_many_arguments, reason = "every part of a chunk varies")]
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
        let number = self.options.messages.iter().position(|(id, _)| id == message_id);
        if let Some(content_type) = number.and_then(|number| self.options.content_types.get(number)) {
            lines += &format!("Content-Type: {content_type}\r\n");
        }
        let octets = piece.map_or(0, <[u8]>::len);
        self.events.add(SERVER, PROXY, format!("SEND {octets} octets {flag}"));
        if session.closed.load(Ordering::Relaxed) {
            return false;
        }
        if self.options.pipeline || self.options.failure_report.is_some() {
            return writer.request(&transaction, "SEND", &lines, piece, flag).is_ok();
        }
        let (sender, response) = channel();
        self.unresolved.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().expect("no holder panics").insert(transaction.clone(), sender);
        let sent = writer.request(&transaction, "SEND", &lines, piece, flag);
        let status = sent.ok().and_then(|()| response.recv_timeout(RESPONSE_TIMEOUT).ok());
        if piece.is_some() {
            self.record(id, message_id, status);
        }
        self.unresolved.fetch_sub(1, Ordering::Relaxed);
        self.waiting.lock().expect("no holder panics").remove(&transaction);
        let Some(status) = status else { return false };
        if status >= 300 {
            self.events.add(PROXY, SERVER, format!("{status}"));
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        status < 300
    }

    fn record(&self, id: &str, message_id: &str, status: Option<u16>) {
        let message = (id.trim_start_matches('S').to_owned(), message_id.to_owned());
        let mut deliveries = self.deliveries.lock().expect("no holder panics");
        match status {
            Some(200..300) => _ = deliveries.passed.insert(message),
            Some(_) => {}
            None => _ = deliveries.unanswered.insert(message),
        }
    }
}

/// Starts a thread with a small stack: a server has one per session.
fn spawn(run: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(256 * 1024).spawn(run);
    thread.expect("a thread can be started");
}
