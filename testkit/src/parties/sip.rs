//! SIP (RFC 3261) over UDP, as far as an IM client and an IM server need it.

use socket2::SockRef;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// Receive buffer of a socket. The kernel grants less if its maximum (net.core.rmem_max) is lower.
const RECEIVE_BUFFER_OCTETS: usize = 1 << 20;

/// A request or a response.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Request line or status line.
    pub start: String,
    /// Header names and values, in order.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Message {
    /// Parses a datagram.
    pub fn parse(bytes: &[u8]) -> Option<Message> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        let headers = lines.filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        });
        Some(Message { start, headers: headers.collect(), body: body.to_owned() })
    }

    /// Returns the method: of the request line, or of CSeq in a response.
    pub fn method(&self) -> &str {
        match self.status() {
            0 => self.start.split(' ').next().unwrap_or_default(),
            _ => self.header("CSeq").split(' ').nth(1).unwrap_or_default(),
        }
    }

    /// Returns the status of a response, 0 for a request.
    pub fn status(&self) -> u16 {
        let code = self.start.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3));
        code.and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Returns the first value of a header, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// Returns all values of a header.
    pub fn all(&self, name: &str) -> Vec<String> {
        let same = self.headers.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        same.map(|(_, value)| value.clone()).collect()
    }

    /// Appends a header.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Message {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Returns a response with the Via, Record-Route, From, To, Call-ID and CSeq of this request.
    pub fn answer(&self, code: u16, reason: &str, to_tag: &str) -> Message {
        let mut answer = Message { start: format!("SIP/2.0 {code} {reason}"), ..Message::default() };
        for (name, value) in &self.headers {
            match name.to_ascii_lowercase().as_str() {
                "to" if !value.contains(";tag=") && code > 100 => {
                    answer = answer.with("To", format!("{value};tag={to_tag}"));
                }
                "via" | "record-route" | "from" | "to" | "call-id" | "cseq" => answer = answer.with(name, value),
                _ => {}
            }
        }
        answer
    }

    /// Serialises the message.
    pub fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !self.body.is_empty() && self.header("Content-Type").is_empty() {
            text += "Content-Type: application/sdp\r\n";
        }
        text += &format!("Content-Length: {}\r\n\r\n{}", self.body.len(), self.body);
        text.into_bytes()
    }
}

/// Returns the URI in a name-addr or addr-spec.
pub fn uri_of(value: &str) -> &str {
    match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or_default(),
        None => value.split(';').next().unwrap_or_default(),
    }
}

/// Returns the tag of a From or To value.
pub fn tag_of(value: &str) -> &str {
    value.split(";tag=").nth(1).and_then(|rest| rest.split(';').next()).unwrap_or_default()
}

/// UDP socket that sends and receives messages.
pub struct Transport {
    socket: UdpSocket,
}

impl Transport {
    /// Shares the caller's socket, whose port stays bound after this is dropped.
    ///
    /// A proxy retransmits all its requests of a second in one burst, always in the same order: with the usual buffer, which
    /// holds some 160 datagrams, the last ones would never arrive.
    pub fn on(socket: &UdpSocket) -> io::Result<Transport> {
        SockRef::from(socket).set_recv_buffer_size(RECEIVE_BUFFER_OCTETS)?;
        Ok(Transport { socket: socket.try_clone()? })
    }

    /// Returns the local address.
    pub fn address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a bound socket has an address")
    }

    /// Sends a message.
    pub fn send(&self, message: &Message, to: SocketAddr) -> io::Result<()> {
        self.socket.send_to(&message.bytes(), to).map(|_| ())
    }

    /// Waits for the next message. Returns it with its source address.
    pub fn receive(&self, within: Duration) -> Option<(Message, SocketAddr)> {
        self.socket.set_read_timeout(Some(within.max(Duration::from_millis(1)))).ok()?;
        let mut buffer = vec![0; 65_536];
        let (length, from) = loop {
            match self.socket.recv_from(&mut buffer) {
                // The machine or the container was paused: a read with a time limit is not restarted (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received.ok()?,
            }
        };
        Message::parse(&buffer[..length]).map(|message| (message, from))
    }
}

/// Returns an SDP description with one MSRP media line; host and port are those of the last URI in `path`.
pub fn description(path: &str) -> String {
    let own = path.rsplit("://").next().and_then(|rest| rest.split('/').next()).unwrap_or_default();
    let (host, port) = own.rsplit_once(':').unwrap_or((own, "9"));
    format!(
        "v=0\r\no=- 1 1 IN IP4 {host}\r\ns=-\r\nc=IN IP4 {host}\r\nt=0 0\r\nm=message {port} TCP/MSRP *\r\n\
         a=accept-types:message/cpim text/plain\r\na=path:{path}\r\n"
    )
}

/// Returns an SDP description as [`description`] does, with `a=file-selector` if it is about a file (RFC 5547).
pub fn description_of(path: &str, file_selector: Option<&str>) -> String {
    let selector = file_selector.map_or(String::new(), |selector| format!("a=file-selector:{selector}\r\n"));
    description(path) + &selector
}

/// Returns the `a=path` value of an SDP description.
pub fn path_of(description: &str) -> String {
    let line = description.lines().find_map(|line| line.strip_prefix("a=path:"));
    line.unwrap_or_default().trim().to_owned()
}
