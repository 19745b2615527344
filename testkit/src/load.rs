//! SIP load generator: a caller and a server that set up and end calls, or exchange MESSAGEs, at a fixed rate, with little
//! work of their own.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Number of subscribers, who call in turn.
const SUBSCRIBERS: usize = 1000;

/// Progress of a call.
#[derive(Clone, Copy, Debug, Default)]
pub struct Call {
    invited: Option<Instant>,
    answered: Option<Instant>,
    ended: bool,
    retransmitted: bool,
}

impl Call {
    /// Returns the milliseconds from INVITE to 200.
    pub fn answered_ms(&self) -> Option<f64> {
        Some(self.answered?.duration_since(self.invited?).as_secs_f64() * 1000.0)
    }

    /// Returns whether the BYE was answered.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Returns whether the call was answered and ended without retransmissions.
    pub fn is_clean(&self) -> bool {
        self.answered.is_some() && self.has_ended() && !self.retransmitted
    }
}

/// What is generated.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// INVITE and BYE.
    Calls,
    /// INVITE only.
    Held,
    /// MESSAGE.
    Messages,
}

/// A load generator and its server.
pub struct Load {
    caller: UdpSocket,
    server: SocketAddr,
    run: AtomicU32,
    /// Requests that the server has received twice in this run.
    retransmissions: Arc<AtomicU32>,
}

impl Load {
    /// Starts the server in a thread.
    pub fn new() -> io::Result<Load> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let server = socket.local_addr()?;
        let retransmissions = Arc::new(AtomicU32::new(0));
        let seen = Arc::clone(&retransmissions);
        thread::spawn(move || serve(&socket, &seen));
        Ok(Load { caller: UdpSocket::bind("127.0.0.1:0")?, server, run: AtomicU32::new(0), retransmissions })
    }

    /// Returns the SIP address of the server.
    pub fn server(&self) -> SocketAddr {
        self.server
    }

    /// Makes calls at `rate` per second for `span`. Returns the progress of each.
    pub fn run(&self, proxy: SocketAddr, rate: u32, span: Duration) -> Vec<Call> {
        self.call(proxy, rate, (f64::from(rate) * span.as_secs_f64()) as usize, Kind::Calls)
    }

    /// Sends MESSAGEs at `rate` per second for `span`. Returns the progress of each; it ends with its answer.
    pub fn messages(&self, proxy: SocketAddr, rate: u32, span: Duration) -> Vec<Call> {
        self.call(proxy, rate, (f64::from(rate) * span.as_secs_f64()) as usize, Kind::Messages)
    }

    /// Makes `count` calls that are not ended. Returns how many were answered.
    pub fn hold(&self, proxy: SocketAddr, rate: u32, count: u32) -> usize {
        self.call(proxy, rate, count as usize, Kind::Held).iter().filter(|call| call.answered.is_some()).count()
    }

    /// Sends OPTIONS to the proxy until `stop` is set. Returns the milliseconds to each answer, 1000 for none.
    pub fn options(&self, proxy: SocketAddr, stop: &AtomicBool) -> Vec<f64> {
        let Ok(socket) = UdpSocket::bind("127.0.0.1:0") else { return Vec::new() };
        let (Ok(own), Ok(())) = (socket.local_addr(), socket.set_read_timeout(Some(Duration::from_secs(1)))) else {
            return Vec::new();
        };
        let mut latencies = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let number = latencies.len();
            let text = format!(
                "OPTIONS sip:{proxy} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKo{number};rport\r\n\
                 Max-Forwards: 9\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:{proxy}>\r\nCall-ID: o{number}\r\n\
                 CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
            );
            let (sent, mut answer) = (Instant::now(), [0; 2048]);
            let _ = socket.send_to(text.as_bytes(), proxy).and_then(|_| socket.recv(&mut answer));
            latencies.push(sent.elapsed().as_secs_f64() * 1000.0);
            thread::sleep(Duration::from_millis(2));
        }
        latencies
    }

    fn call(&self, proxy: SocketAddr, rate: u32, count: usize, kind: Kind) -> Vec<Call> {
        let run = self.run.fetch_add(1, Ordering::Relaxed);
        self.retransmissions.store(0, Ordering::Relaxed);
        let calls = Mutex::new(vec![Call::default(); count]);
        let done = AtomicBool::new(false);
        let own = self.caller.local_addr().expect("a bound socket has an address");
        thread::scope(|scope| {
            scope.spawn(|| self.receive(proxy, run, kind, &calls, &done));
            let started = Instant::now();
            for number in 0..count {
                let due = started + Duration::from_secs_f64(number as f64 / f64::from(rate));
                if let Some(wait) = due.checked_duration_since(Instant::now()) {
                    thread::sleep(wait);
                }
                let text = if kind == Kind::Messages { message(run, number, own) } else { invite(run, number, own) };
                calls.lock().expect("no holder panics")[number].invited = Some(Instant::now());
                let _ = self.caller.send_to(text.as_bytes(), proxy);
            }
            // Allow the last calls 1 s to end.
            let deadline = Instant::now() + Duration::from_secs(1);
            let is_over = |call: &Call| if kind == Kind::Held { call.answered.is_some() } else { call.ended };
            while Instant::now() < deadline && !calls.lock().expect("no holder panics").iter().all(is_over) {
                thread::sleep(Duration::from_millis(5));
            }
            done.store(true, Ordering::Relaxed);
        });
        let mut calls = calls.into_inner().expect("no holder panics");
        if self.retransmissions.load(Ordering::Relaxed) > 0 {
            calls[0].retransmitted = true;
        }
        calls
    }

    fn receive(&self, proxy: SocketAddr, run: u32, kind: Kind, calls: &Mutex<Vec<Call>>, done: &AtomicBool) {
        let own = self.caller.local_addr().expect("a bound socket has an address");
        self.caller.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout can be set");
        let mut buffer = [0; 8192];
        while !done.load(Ordering::Relaxed) {
            let Ok((length, _)) = self.caller.recv_from(&mut buffer) else { continue };
            let text = String::from_utf8_lossy(&buffer[..length]);
            let Some((of_run, number)) = number_of(&text) else { continue };
            if of_run != run || !text.starts_with("SIP/2.0 2") {
                continue;
            }
            let (is_invite, ack) = (
                text.contains("1 INVITE"),
                text.contains("1 INVITE").then(|| follow_up("ACK", 1, &text, run, number, own)),
            );
            let bye = (is_invite && kind == Kind::Calls).then(|| follow_up("BYE", 2, &text, run, number, own));
            {
                let mut calls = calls.lock().expect("no holder panics");
                let Some(call) = calls.get_mut(number) else { continue };
                match is_invite || kind == Kind::Messages {
                    true if call.answered.is_some() => call.retransmitted = true,
                    true => call.answered = Some(Instant::now()),
                    false => call.ended = true,
                }
                call.ended |= kind == Kind::Messages;
            }
            for request in [ack, bye].into_iter().flatten() {
                let _ = self.caller.send_to(request.as_bytes(), proxy);
            }
        }
    }
}

/// Returns run and number of a call from its Call-ID.
fn number_of(text: &str) -> Option<(u32, usize)> {
    let id = text.split("Call-ID: ").nth(1)?.split('@').next()?;
    let (run, number) = id.split_once('-')?;
    Some((run.parse().ok()?, number.parse().ok()?))
}

fn invite(run: u32, number: usize, own: SocketAddr) -> String {
    let subscriber = number % SUBSCRIBERS;
    let body = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=message 9 TCP/MSRP *\r\n\
         a=accept-types:message/cpim\r\na=path:msrp://127.0.0.1:9/C{run}x{number};tcp\r\n"
    );
    format!(
        "INVITE sip:deferred@im.example.org SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKi{run}x{number};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:user{subscriber}@example.org>;tag=c{number}\r\nTo: <sip:deferred@im.example.org>\r\n\
         Call-ID: {run}-{number}@127.0.0.1\r\nCSeq: 1 INVITE\r\nContact: <sip:client@{own}>\r\n\
         P-Asserted-Identity: <sip:user{subscriber}@example.org>\r\nContent-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn message(run: u32, number: usize, own: SocketAddr) -> String {
    let subscriber = number % SUBSCRIBERS;
    format!(
        "MESSAGE sip:user@im.example.org SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKm{run}x{number};rport\r\n\
         Max-Forwards: 70\r\nFrom: <sip:user{subscriber}@example.org>;tag=m{number}\r\nTo: <sip:user@im.example.org>\r\n\
         Call-ID: {run}-{number}@127.0.0.1\r\nCSeq: 1 MESSAGE\r\n\
         P-Asserted-Identity: <sip:user{subscriber}@example.org>\r\nContent-Type: text/plain\r\n\
         Content-Length: 12\r\n\r\nhello, world"
    )
}

/// Returns a request in the dialog that `answer` established.
fn follow_up(method: &str, cseq: u32, answer: &str, run: u32, number: usize, own: SocketAddr) -> String {
    let header = |name: &str| answer.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let target = header("Contact: ").trim_matches(['<', '>']);
    format!(
        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{method}{run}x{number};rport\r\nMax-Forwards: 70\r\n\
         Route: {}\r\nFrom: {}\r\nTo: {}\r\n\
                 Call-ID: {run}-{number}@127.0.0.1\r\nCSeq: {cseq} {method}\r\nContent-Length: 0\r\n\r\n",
        header("Record-Route: "),
        header("From: "),
        header("To: ")
    )
}

/// Answers every INVITE, BYE and MESSAGE with 200.
fn serve(socket: &UdpSocket, retransmissions: &AtomicU32) {
    let own = socket.local_addr().expect("a bound socket has an address");
    let mut seen = HashSet::new();
    let mut buffer = [0; 8192];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
        let text = String::from_utf8_lossy(&buffer[..length]);
        let method = text.split(' ').next().unwrap_or_default();
        if !matches!(method, "INVITE" | "BYE" | "MESSAGE") {
            continue;
        }
        let kept = text.lines().skip(1).take_while(|line| !line.is_empty()).filter(|line| {
            ["Via:", "Record-Route:", "From:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name))
        });
        let to = text.lines().find(|line| line.starts_with("To:")).unwrap_or_default();
        let id = text.split("Call-ID: ").nth(1).and_then(|rest| rest.split('@').next()).unwrap_or_default();
        if !seen.insert(format!("{method}{id}")) {
            retransmissions.fetch_add(1, Ordering::Relaxed);
        }
        if seen.len() > 200_000 {
            seen.clear();
        }
        let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
        let (to, body) = match method {
            "INVITE" => (
                format!("{to};tag=s"),
                format!(
                    "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=message 9 TCP/MSRP *\r\n\
                     a=accept-types:message/cpim\r\na=path:msrp://127.0.0.1:9/S{id};tcp\r\n"
                ),
            ),
            _ => (to.to_owned(), String::new()),
        };
        let answer = format!(
            "SIP/2.0 200 OK\r\n{kept}{to}\r\nContact: <sip:im@{own}>\r\nContent-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let _ = socket.send_to(answer.as_bytes(), from);
    }
}
