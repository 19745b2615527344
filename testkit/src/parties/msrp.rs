//! MSRP (RFC 4975) over TCP, as far as an IM client and an IM server need it.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A received frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Transaction id.
    pub id: String,
    /// Method of a request, status code and comment of a response.
    pub what: String,
    /// Header names and values, in order.
    pub headers: Vec<(String, String)>,
    /// Body; `None` without Content-Type.
    pub body: Option<Vec<u8>>,
    /// Continuation flag of the end-line.
    pub flag: char,
}

impl Frame {
    /// Returns the status of a response, 0 for a request.
    pub fn status(&self) -> u16 {
        self.what.get(..3).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Returns the value of a header, empty if it is missing.
    pub fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// Returns whether this is a SEND with content.
    pub fn is_content(&self) -> bool {
        self.what == "SEND" && self.body.is_some()
    }

    /// Returns the number of the first octet and, if known, the size of the message, from Byte-Range (RFC 4975, 9).
    pub fn byte_range(&self) -> (usize, Option<usize>) {
        let (range, total) = self.header("Byte-Range").split_once('/').unwrap_or_default();
        let start = range.split('-').next().and_then(|start| start.parse().ok()).unwrap_or(1);
        (start, total.parse().ok())
    }

    /// Removes the first complete frame from the buffer.
    fn take(buffer: &mut Vec<u8>) -> Option<Frame> {
        let head_end = find(buffer, b"\r\n")?;
        let start = String::from_utf8_lossy(&buffer[..head_end]).into_owned();
        let mut words = start.splitn(3, ' ');
        let (_, id, what) = (words.next()?, words.next()?.to_owned(), words.next()?.to_owned());
        let end_line = format!("-------{id}");
        let mut from = head_end;
        let (end, flag) = loop {
            let at = from + find(&buffer[from..], end_line.as_bytes())?;
            let tail = buffer.get(at + end_line.len()..at + end_line.len() + 3)?;
            if b"$+#".contains(&tail[0]) && &tail[1..] == b"\r\n" && buffer[..at].ends_with(b"\r\n") {
                break (at, tail[0] as char);
            }
            from = at + 1;
        };
        let inner = buffer[head_end + 2..end].to_vec();
        buffer.drain(..end + end_line.len() + 3);
        // Without a body, the headers end with the CRLF before the end-line.
        let (head, body) = match find(&inner, b"\r\n\r\n") {
            Some(at) => (&inner[..at], inner.get(at + 4..inner.len().saturating_sub(2))),
            None => (&inner[..], None),
        };
        let head = String::from_utf8_lossy(head).into_owned();
        let headers = head.split("\r\n").filter_map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_owned(), value.trim().to_owned()))
        });
        Some(Frame { id, what, headers: headers.collect(), body: body.map(<[u8]>::to_vec), flag })
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

/// Largest accepted frame, in octets. Relays pass at most 14 KB.
const FRAME_OCTETS_MAX: usize = 1 << 20;

/// Receiving side of a connection, used by one thread.
pub struct Reader {
    stream: Arc<TcpStream>,
    buffer: Vec<u8>,
}

/// Sending side of a connection, shared by clones; frames are written whole.
#[derive(Clone)]
pub struct Writer(Arc<Mutex<Arc<TcpStream>>>);

/// Splits a TCP connection into its two directions.
pub fn connection(stream: TcpStream) -> io::Result<(Reader, Writer)> {
    stream.set_nodelay(true)?;
    // Both directions share one descriptor, because one process runs thousands of parties.
    let stream = Arc::new(stream);
    let writer = Writer(Arc::new(Mutex::new(Arc::clone(&stream))));
    Ok((Reader { stream, buffer: Vec::new() }, writer))
}

impl Reader {
    /// Returns the local address.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// Returns a second reader of the same connection. A partly read frame stays with this one.
    pub fn second(&self) -> io::Result<Reader> {
        Ok(Reader { stream: Arc::clone(&self.stream), buffer: Vec::new() })
    }

    /// Waits for the next frame. Returns `Ok(None)` on timeout and an error once the connection is closed.
    pub fn next(&mut self, within: Duration) -> io::Result<Option<Frame>> {
        self.stream.set_read_timeout(Some(within.max(Duration::from_millis(1))))?;
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer) {
                return Ok(Some(frame));
            }
            if self.buffer.len() > FRAME_OCTETS_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let mut piece = [0; 16_384];
            match (&*self.stream).read(&mut piece) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(length) => self.buffer.extend(&piece[..length]),
                // The machine or the container was paused: a read with a time limit is not restarted (signal(7)).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                    return Ok(None);
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Writer {
    /// Writes raw bytes.
    pub fn raw(&self, bytes: &[u8]) -> io::Result<()> {
        let stream = self.0.lock().expect("no holder panics");
        (&**stream).write_all(bytes)
    }

    /// Closes the connection.
    pub fn drop_connection(&self) {
        let _ = self.0.lock().expect("no holder panics").shutdown(std::net::Shutdown::Both);
    }

    /// Sends a request; `lines` are its header lines, each with CRLF. A body without Content-Type is `text/plain`.
    pub fn request(&self, id: &str, method: &str, lines: &str, body: Option<&[u8]>, flag: char) -> io::Result<()> {
        let mut bytes = format!("MSRP {id} {method}\r\n{lines}").into_bytes();
        if let Some(body) = body {
            if !lines.contains("Content-Type:") {
                bytes.extend(b"Content-Type: text/plain\r\n");
            }
            bytes.extend(b"\r\n");
            bytes.extend(body);
            bytes.extend(b"\r\n");
        }
        bytes.extend(format!("-------{id}{flag}\r\n").bytes());
        self.raw(&bytes)
    }

    /// Sends a response with the previous hop as To-Path (RFC 4975, 7.2); with `whole`, the complete path, as some clients do.
    pub fn answer(&self, to: &Frame, code: u16, own: &str, whole: bool) -> io::Result<()> {
        let path = to.header("From-Path");
        let path = if whole { path } else { path.split(' ').next().unwrap_or_default() };
        let id = &to.id;
        self.raw(format!("MSRP {id} {code} -\r\nTo-Path: {path}\r\nFrom-Path: {own}\r\n-------{id}$\r\n").as_bytes())
    }
}
