//! Parties of page mode (SIP MESSAGE, RFC 3428) over UDP: a sender, and a receiver that answers as its user part says.

use super::sip::{Message, Transport, uri_of};
use crate::unique;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Retransmission interval (T1 of RFC 3261).
const T1: Duration = Duration::from_millis(500);

/// A sender of MESSAGEs.
pub struct PageSender {
    transport: Transport,
    proxy: SocketAddr,
    identity: String,
}

impl PageSender {
    /// A sender of this identity before a proxy.
    pub fn new(proxy: SocketAddr, identity: &str) -> PageSender {
        let socket = UdpSocket::bind((proxy.ip(), 0)).expect("a free port");
        let transport = Transport::on(&socket).expect("a socket");
        PageSender { transport, proxy, identity: identity.into() }
    }

    /// Returns a MESSAGE to this URI with a text. Each has its own Call-ID.
    pub fn message(&self, to: &str, text: &str) -> Message {
        let number = unique();
        let mut message = Message { start: format!("MESSAGE {to} SIP/2.0"), ..Message::default() }
            .with("Via", format!("SIP/2.0/UDP {};branch=z9hG4bK{number};rport", self.transport.address()))
            .with("Max-Forwards", "70")
            .with("From", format!("<{}>;tag=p{number}", self.identity))
            .with("To", format!("<{to}>"))
            .with("Call-ID", format!("page{number}@{}", self.transport.address().ip()))
            .with("CSeq", "1 MESSAGE")
            .with("P-Asserted-Identity", format!("<{}>", self.identity))
            .with("Content-Type", "text/plain");
        text.clone_into(&mut message.body);
        message
    }

    /// Sends a message once.
    pub fn send(&self, message: &Message) {
        self.transport.send(message, self.proxy).expect("loopback takes a datagram");
    }

    /// Waits for the final response to a message. Returns its status, 0 if none arrives in time.
    pub fn response(&self, message: &Message, within: Duration) -> u16 {
        let started = Instant::now();
        while let Some(left) = within.checked_sub(started.elapsed()) {
            let Some((answer, _)) = self.transport.receive(left) else { return 0 };
            if branch_of(&answer) == branch_of(message) && answer.status() >= 200 {
                return answer.status();
            }
        }
        0
    }

    /// Sends a message, retransmitting it, and returns the final status; 408 if none arrives in time.
    pub fn request(&self, message: &Message, within: Duration) -> u16 {
        let started = Instant::now();
        while started.elapsed() < within {
            self.send(message);
            let status = self.response(message, T1.min(within));
            if status != 0 {
                return status;
            }
        }
        408
    }

    /// Sends a text to a user and returns the final status.
    pub fn text(&self, to: &str, text: &str) -> u16 {
        self.request(&self.message(to, text), Duration::from_secs(10))
    }
}

/// Returns the branch of the first Via, which names a transaction.
fn branch_of(message: &Message) -> &str {
    let via = message.header("Via");
    via.split(";branch=").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default()
}

/// A receiver of MESSAGEs. The user part of the Request-URI is the status that it answers, `silent` for none, or a name for
/// 200.
pub struct PageReceiver {
    /// Its address.
    pub address: SocketAddr,
    received: Arc<Mutex<Vec<Message>>>,
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl PageReceiver {
    /// Serves on this socket.
    pub fn start(socket: &UdpSocket) -> PageReceiver {
        let transport = Transport::on(socket).expect("a socket");
        let address = transport.address();
        let (received, stopped) = (Arc::<Mutex<Vec<Message>>>::default(), Arc::<AtomicBool>::default());
        let (seen, ends) = (Arc::clone(&received), Arc::clone(&stopped));
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let Some((request, from)) = transport.receive(Duration::from_millis(100)) else { continue };
                if request.method() != "MESSAGE" || request.status() != 0 {
                    continue;
                }
                let uri = request.start.split(' ').nth(1).unwrap_or_default();
                seen.lock().expect("no holder panics").push(request.clone());
                let user = uri_of(uri).trim_start_matches("sip:").split('@').next().unwrap_or_default().to_owned();
                if user != "silent" {
                    let code = user.parse().unwrap_or(200);
                    let mut answer = request.answer(code, "Answer", &format!("r{}", unique()));
                    if (300..400).contains(&code) {
                        answer = answer.with("Contact", "<sip:elsewhere@192.0.2.1>");
                    }
                    // A lost answer is repeated for the retransmission.
                    let _ = transport.send(&answer, from);
                }
            }
        });
        PageReceiver { address, received, stopped, thread: Some(thread) }
    }

    /// Returns the number of requests received, with retransmissions.
    pub fn count(&self) -> usize {
        self.received.lock().expect("no holder panics").len()
    }

    /// Returns the received texts, without retransmissions.
    pub fn texts(&self) -> Vec<String> {
        self.messages().into_iter().map(|message| message.body).collect()
    }

    /// Returns the received messages, without retransmissions.
    pub fn messages(&self) -> Vec<Message> {
        let received = self.received.lock().expect("no holder panics");
        let mut branches = std::collections::HashSet::new();
        let is_first = |message: &&Message| branches.insert(branch_of(message).to_owned());
        received.iter().filter(is_first).cloned().collect()
    }
}

impl Drop for PageReceiver {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
